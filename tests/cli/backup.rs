//! `stk backup`: a data directory is copied beside a running server, and put back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::timelines::{Plant, once};

/// Files below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn restore(plant: &Plant, backup: &Path, data: &Path) -> String {
    plant.run(&["backup", "restore", &text(backup), "--data", &text(data)])
}

#[test]
fn a_backup_beside_a_running_server_holds_all_that_was_acknowledged_before() {
    let mut plant = Plant::new();
    plant.take(&plant.data, 0..200);
    plant.good(&["archive", "run"]);
    let server = plant.server(&plant.data);
    plant.bring(&server, 200..400);
    let backups = ["first", "second"].map(|name| plant.home.path(name));
    let is_first_made = AtomicBool::new(false);
    let (go, goes) = std::sync::mpsc::channel();
    // Ticks come in all the while.
    let end = std::thread::scope(|scope| {
        let (plant, backups, is_first_made) = (&plant, &backups, &is_first_made);
        let making = scope.spawn(move || {
            plant.good(&["backup", "create", &text(&backups[0])]);
            is_first_made.store(true, Ordering::Release);
            goes.recv().expect("more is acknowledged");
            plant.good(&["backup", "create", &text(&backups[1])]);
        });
        let (mut at, mut go) = (1000, Some(go));
        while !making.is_finished() {
            plant.bring(&server, at..at + 10);
            at += 10;
            if is_first_made.load(Ordering::Acquire)
                && let Some(go) = go.take()
            {
                plant.bring(&server, 400..450);
                go.send(()).expect("it waits");
            }
        }
        making.join().expect("both are made");
        // No backup can have these.
        plant.bring(&server, at..at + 10);
        at + 10
    });
    plant.bring(&server, 5000..5100);
    assert_eq!(server.drained().0, Some(0));
    let shown = plant.good(&["backup", "verify", &text(&backups[1])]);
    assert!(shown.contains("is whole: "), "{shown}");
    // Archived after the backup: the archive is ahead of it.
    plant.good(&["archive", "run"]);
    let (archive, elsewhere) = (plant.archive.clone(), plant.home.path("elsewhere"));
    for (backup, known) in backups.iter().zip([0..400, 0..450]) {
        // Without the archive: all from before the backup, and a part of what came meanwhile.
        plant.data = plant.home.path(if known.end == 400 { "put-1" } else { "put-2" });
        plant.archive.clone_from(&elsewhere);
        let shown = restore(&plant, backup, &plant.data);
        assert!(shown.starts_with("exit: 0\n") && shown.contains("restored from"), "{shown}");
        plant.take(&plant.data, 9000..9050);
        // Lost, and sent again by the same producer.
        plant.take(&plant.data, 5000..5100);
        let found = plant.history();
        assert!(found.values().all(|times| *times == 1), "{found:?}");
        let found: BTreeSet<u64> = found.into_keys().collect();
        let fed = found.iter().filter(|number| (1000..5000).contains(*number)).count() as u64;
        let expected: BTreeSet<u64> =
            known.chain(1000..1000 + fed).chain(5000..5100).chain(9000..9050).collect();
        assert!(fed < end - 1000, "{fed} of {end}");
        assert_eq!(found, expected);
        plant.good(&["audit"]);
    }
    // With it: the rows of both, each once.
    plant.data = plant.home.path("put-3");
    plant.archive = archive;
    restore(&plant, &backups[1], &plant.data);
    plant.take(&plant.data, 9000..9050);
    let all = once([0..450, 1000..end, 5000..5100, 9000..9050]);
    assert_eq!(plant.history(), all);
    assert!(plant.run(&["archive", "run"]).contains("run `stk archive adopt`"));
    plant.good(&["archive", "adopt", "--yes"]);
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), all);
    plant.good(&["archive", "verify"]);
    plant.good(&["audit"]);
}

#[test]
fn an_interrupted_backup_or_restore_is_refused_or_done_again() {
    let plant = Plant::new();
    plant.take(&plant.data, 0..100);
    let (backup, data) = (plant.home.path("backup"), plant.home.path("put"));
    let create = ["backup", "create", &*text(&backup)];
    for point in ["backup.file", "backup.file:9", "backup.copied"] {
        let killed = plant.home.shown(plant.command(&create, &plant.data).env("STK_FAIL_POINT", point));
        assert!(killed.starts_with("exit: signal"), "{point}: {killed}");
        let named = "[HOME]/backup is an unfinished backup: it has no backup.json";
        for refused in [
            plant.run(&["backup", "verify", &text(&backup)]),
            restore(&plant, &backup, &data),
            plant.run(&create),
        ] {
            assert!(!refused.starts_with("exit: 0\n") && refused.contains(named), "{point}: {refused}");
            assert!(refused.contains("it was interrupted: remove it"), "{point}: {refused}");
        }
        std::fs::remove_dir_all(&backup).expect("it is there");
    }
    plant.good(&create);
    for point in ["backup.restoring", "backup.restoring:4"] {
        let args = ["backup", "restore", &*text(&backup), "--data", &*text(&data)];
        let killed = plant.home.shown(plant.command(&args, &plant.data).env("STK_FAIL_POINT", point));
        assert!(killed.starts_with("exit: signal"), "{point}: {killed}");
        assert!(files(&data).is_empty(), "{point}: nothing has its name before all has");
    }
    // Another process is at it.
    let writing = plant.home.path(".put.stk-restoring");
    std::fs::create_dir_all(writing.join("data")).expect("made");
    let lock = std::fs::File::open(&writing).expect("it is there");
    lock.try_lock().expect("free");
    let refused = restore(&plant, &backup, &data);
    assert!(refused.starts_with("exit: 4\n"), "{refused}");
    assert!(refused.contains("another `stk backup restore` is writing [HOME]/put"), "{refused}");
    assert!(files(&data).is_empty() && writing.join("data").is_dir(), "{refused}");
    drop(lock);
    let shown = restore(&plant, &backup, &data);
    assert!(shown.starts_with("exit: 0\n"), "{shown}");
    // Nothing is written over.
    let refused = restore(&plant, &backup, &data);
    assert!(
        refused.starts_with("exit: 2\n") && refused.contains("[HOME]/put is not empty: it has "),
        "{refused}"
    );
    assert!(refused.contains("choose another directory with `--data`"), "{refused}");
    let refused = plant.run(&create);
    assert!(
        refused.starts_with("exit: 2\n") && refused.contains("backup is not empty: it has "),
        "{refused}"
    );
    let refused = plant.run(&["backup", "verify", &text(&data)]);
    assert!(refused.starts_with("exit: 2\n") && refused.contains("is not a backup"), "{refused}");
    let plant = Plant { data, ..plant };
    assert_eq!(plant.history(), once(std::iter::once(0..100)));
}

#[test]
fn a_flipped_bit_in_any_kind_of_file_is_found_and_nothing_is_restored() {
    let plant = Plant::new();
    plant.take(&plant.data, 0..100);
    let server = plant.server(&plant.data);
    plant.bring(&server, 100..200);
    let (backup, data) = (plant.home.path("backup"), plant.home.path("put"));
    plant.good(&["backup", "create", &text(&backup)]);
    assert_eq!(server.drained().0, Some(0));
    let kind = |path: &Path| {
        let relative = path.strip_prefix(&backup).expect("below it").display().to_string();
        relative.replace(|c: char| c.is_ascii_digit(), "").replace("pp", "p")
    };
    let mut kinds = BTreeSet::new();
    let is_filled = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0);
    for path in files(&backup).into_iter().filter(is_filled) {
        if !kinds.insert(kind(&path)) {
            continue;
        }
        let sound = std::fs::read(&path).expect("a file");
        let mut bytes = sound.clone();
        bytes[sound.len() / 2] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        let name = text(path.strip_prefix(&backup).expect("below it"));
        for refused in [plant.run(&["backup", "verify", &text(&backup)]), restore(&plant, &backup, &data)] {
            assert!(refused.starts_with("exit: 1\n") && refused.contains(&name), "{name}: {refused}");
        }
        assert!(files(&data).is_empty(), "{name}");
        std::fs::write(&path, sound).expect("written");
    }
    for part in ["data/log/.jnl", "data/log/epoch", "data/warm/manifest-.jsonl", "backup.json"] {
        assert!(kinds.contains(part), "{part}: {kinds:?}");
    }
    for part in ["tables", "checkpoint", "kind=trade"] {
        assert!(kinds.iter().any(|kind| kind.contains(part)), "{part}: {kinds:?}");
    }
    // A file too few, and one too many.
    let path = files(&backup.join("data")).into_iter().next_back().expect("a file");
    let aside = plant.home.path("aside");
    std::fs::rename(&path, &aside).expect("renamed");
    let refused = plant.run(&["backup", "verify", &text(&backup)]);
    assert!(refused.starts_with("exit: 1\n") && refused.contains("it is missing"), "{refused}");
    std::fs::rename(&aside, &path).expect("renamed");
    std::fs::write(backup.join("data/warm/other"), "other").expect("written");
    let refused = plant.run(&["backup", "verify", &text(&backup)]);
    assert!(
        refused.starts_with("exit: 1\n") && refused.contains("backup.json does not name it"),
        "{refused}"
    );
    std::fs::remove_file(backup.join("data/warm/other")).expect("removed");
    plant.good(&["backup", "verify", &text(&backup)]);
}

#[test]
fn a_backup_of_stores_on_servers_is_refused_with_where_to_look() {
    let mut plant = Plant::new();
    plant.take(&plant.data, 0..20);
    for (variable, address) in
        [("STK_LOG_KAFKA_BROKERS", "127.0.0.1:1"), ("STK_WARM_CLICKHOUSE_URL", "http://127.0.0.1:1")]
    {
        plant.env = vec![(variable, address.to_owned())];
        let refused = plant.run(&["backup", "create", &text(&plant.home.path("backup"))]);
        assert!(refused.starts_with("exit: 2\n"), "{variable}: {refused}");
        assert!(refused.contains("their own servers' backups hold them"), "{variable}: {refused}");
        assert!(refused.contains("hint: docs/backup.md says what to back up"), "{variable}: {refused}");
        assert!(!plant.home.path("backup").exists(), "nothing was begun");
    }
}
