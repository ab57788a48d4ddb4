//! `stk archive copy`: an archive moves to another place. Nobody takes a part of it for the whole, and what
//! is damaged on the way is named.

use std::path::{Path, PathBuf};

use super::timelines::{Plant, once};

/// Fail points of a copy, in the order in which it reaches them.
const POINTS: [&str; 4] = ["copy.begun", "copy.object", "copy.object", "copy.manifest:2"];

/// A store whose days are archived and dropped from warm, and where its archive goes.
fn archived() -> (Plant, String, PathBuf) {
    let plant = Plant { keep_days: "1", ..Plant::new() };
    plant.take(&plant.data, 0..300);
    plant.good(&["archive", "run"]);
    plant.good(&["archive", "run"]);
    let (from, to) = (plant.archive.display().to_string(), plant.home.path("moved"));
    (plant, from, to)
}

/// The files below `dir`, those of leases aside.
fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if !path.to_string_lossy().contains("/lease/") {
                let bytes = std::fs::read(&path).expect("a file");
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_killed_copy_is_refused_until_it_is_finished_and_then_it_replaces_the_archive() {
    let (mut plant, from, to) = archived();
    let moved = to.display().to_string();
    let before = files(&plant.archive);
    let copy = ["archive", "copy", &*from, &*moved, "--yes"];
    let asked = plant.run(&copy[..4]);
    assert!(asked.starts_with("exit: 2\n") && asked.contains("add `--yes`"), "{asked}");
    plant.good(&["archive", "copy", &from, &moved, "--dry-run"]);
    assert!(!to.exists(), "a dry run and a question create nothing");
    for point in POINTS {
        let killed = plant.home.shown(plant.command(&copy, &plant.data).env("STK_FAIL_POINT", point));
        assert!(killed.starts_with("exit: signal"), "{point}: {killed}");
        let archive = std::mem::replace(&mut plant.archive, to.clone());
        let data = plant.data.display().to_string();
        for args in [
            &["archive", "run"][..],
            &["archive", "verify"],
            &["history", "SA", "--data", &data],
            &["serve", "--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0"],
        ] {
            let refused = plant.run(args);
            assert!(refused.starts_with("exit: 1\n"), "{point} {args:?}: {refused}");
            let named = "moved is an unfinished copy of [HOME]/archive: finish it with `stk archive copy";
            assert!(refused.contains(named), "{point} {args:?}: {refused}");
        }
        plant.archive = archive;
    }
    // As the message says, while the server still uses the old one.
    let server = plant.server(&plant.data);
    let shown = plant.good(&copy);
    assert!(shown.contains("To switch, set archive.url to"), "{shown}");
    assert_eq!(server.drained().0, Some(0));
    assert_eq!(files(&plant.archive), before, "the source is as it was");
    // A further run copies nothing.
    let again = plant.good(&["archive", "copy", &from, &moved, "--yes", "--json"]);
    assert!(again.contains(r#""is_whole":true"#) && again.contains(r#""objects_copied":0"#), "{again}");
    plant.archive = to;
    assert_eq!(plant.history(), once(std::iter::once(0..300)));
    // Late rows of archived days, and the copy goes on as the archive.
    plant.take(&plant.data, 300..400);
    plant.good(&["archive", "run"]);
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), once(std::iter::once(0..400)));
    plant.good(&["archive", "verify"]);
    plant.good(&["audit"]);
    // What the old one lacks by now is no reason to refuse it.
    plant.good(&copy);
    assert_eq!(plant.history(), once(std::iter::once(0..400)));
}

#[test]
fn damage_on_either_side_is_found_before_the_switch() {
    let (mut plant, from, to) = archived();
    let moved = to.display().to_string();
    let copy = ["archive", "copy", &*from, &*moved, "--yes"];
    for part in ["/ticks/", "/0000.json", "/journal/"] {
        let (path, sound) = files(&plant.archive)
            .into_iter()
            .find(|(path, _)| path.to_string_lossy().contains(part))
            .expect(part);
        let mut bytes = sound.clone();
        bytes[sound.len() / 2] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        let refused = plant.run(&copy);
        assert!(refused.starts_with("exit: 1\n"), "{part}: {refused}");
        let key = path.strip_prefix(&plant.archive).expect("below it").display().to_string();
        assert!(refused.contains(&format!("{key}: ")), "{part}: {refused}");
        assert!(refused.contains("is not a whole copy"), "{part}: {refused}");
        let archive = std::mem::replace(&mut plant.archive, to.clone());
        assert!(plant.run(&["archive", "run"]).contains("is an unfinished copy"), "{part}");
        plant.archive = archive;
        std::fs::write(&path, sound).expect("written");
    }
    // What the disk of the copy made of an object is mended by the next run.
    let (path, mut bytes) = files(&to)
        .into_iter()
        .find(|(path, _)| path.to_string_lossy().contains("/ticks/"))
        .expect("an object");
    bytes[40] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let shown = plant.good(&["archive", "copy", &from, &moved, "--yes", "--json"]);
    assert!(shown.contains(r#""objects_copied":1"#), "{shown}");
    plant.archive = to;
    plant.good(&["archive", "verify"]);
    assert_eq!(plant.history(), once(std::iter::once(0..300)));
}

#[test]
fn a_place_that_holds_something_else_is_refused_and_not_changed() {
    let (plant, from, to) = archived();
    let moved = to.display().to_string();
    let refused = plant.run(&["archive", "copy", &from, &format!("{from}/inside"), "--yes"]);
    assert!(refused.starts_with("exit: 2\n") && refused.contains("are not separate places"), "{refused}");
    let refused = plant.run(&["archive", "copy", &moved, &from, "--yes"]);
    assert!(refused.starts_with("exit: 2\n") && refused.contains("moved holds no archive"), "{refused}");
    std::fs::create_dir(&to).expect("created");
    std::fs::write(to.join("notes.txt"), "mine").expect("written");
    let other = Plant::new();
    other.take(&other.data, 0..30);
    other.good(&["archive", "run"]);
    let other_archive = other.archive.display().to_string();
    for (place, reason) in [
        (&moved, "it is not empty: it has notes.txt"),
        (&other_archive, "it holds the archive of another log or timeline"),
    ] {
        let before = files(Path::new(place));
        let refused = plant.run(&["archive", "copy", &from, place, "--yes"]);
        assert!(refused.starts_with("exit: 2\n") && refused.contains(reason), "{refused}");
        assert_eq!(files(Path::new(place)), before);
    }
}

/// Archives that name no log, as the first version wrote them.
#[test]
fn an_archive_of_the_first_version_is_copied_as_it_is() {
    let plant = Plant::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archive/v1");
    let to = plant.home.path("moved");
    plant.good(&["archive", "copy", &golden.display().to_string(), &to.display().to_string(), "--yes"]);
    let of = |dir: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let kept = |(path, bytes): (PathBuf, Vec<u8>)| {
            Some((path.strip_prefix(dir).ok()?.to_owned(), bytes))
                .filter(|(path, _)| path != Path::new("garbage.json"))
        };
        files(dir).into_iter().filter_map(kept).collect()
    };
    assert_eq!(of(&to), of(&golden));
}
