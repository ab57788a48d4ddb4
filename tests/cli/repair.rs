//! `stk audit --repair`: what is damaged in one tier is built again from another.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::reading::{copy, everything};
use super::rot::capture;
use super::support::{Home, Server, metric, serve, service};

const DAY: &str = "2025-03-06";

/// A data directory of two days. The first is archived, and, if `is_dropped`, no longer in warm.
fn stored(home: &Home, name: &str, is_dropped: bool) -> PathBuf {
    let data = home.path(name);
    let text = data.display().to_string();
    let keep = if is_dropped { "1" } else { "36600" };
    let run = |args: &[&str]| {
        let mut command = home.stk(args);
        command.envs([
            ("STK_LOG_PARTITIONS", "2"),
            ("STK_ARCHIVE_SETTLE_MINUTES", "0"),
            ("STK_WARM_KEEP_DAYS", keep),
        ]);
        let shown = home.shown(&mut command);
        assert!(shown.starts_with("exit: 0\n"), "{args:?}: {shown}");
    };
    let first = capture(home, "first.pcap", DAY, 90, &["AAPL", "MSFT", "NVDA"]);
    run(&["replay", &first, "--speed", "max", "--data", &text]);
    run(&["archive", "run", "--data", &text]);
    let second = capture(home, "second.pcap", "2025-03-07", 70, &["AAPL", "NVDA"]);
    run(&["replay", &second, "--speed", "max", "--data", &text]);
    data
}

/// The exit code and all rows of history.
fn rows(home: &Home, data: &Path) -> String {
    let text = data.display().to_string();
    let of_kind = |kind: &str| {
        let shown = home.run(&["history", "AAPL", "MSFT", "NVDA", "--kind", kind, "--data", &text]);
        shown.split("--- stderr").next().unwrap_or_default().to_owned()
    };
    ["trades", "quotes", "bars"].map(of_kind).concat()
}

/// Files below `dir` whose paths contain `part`, in order.
fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let all = everything(dir).into_keys();
    all.filter(|path| path.is_file() && path.to_string_lossy().contains(part)).collect()
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip,
    Cut,
    Remove,
}

fn damage(path: &Path, how: Damage) {
    let mut bytes = fs::read(path).expect("a file");
    let middle = bytes.len() / 2;
    match how {
        Damage::Flip => bytes[middle] ^= 0x10,
        Damage::Cut => bytes.truncate(middle),
        Damage::Remove => return fs::remove_file(path).expect("removed"),
    }
    fs::write(path, bytes).expect("written");
}

/// `stk audit --repair` with `more` arguments.
fn repair(home: &Home, data: &Path, more: &[&str]) -> Command {
    let text = data.display().to_string();
    let mut args = vec!["audit", "--repair", "--data", &text];
    args.extend(more);
    home.stk(&args)
}

/// The plan alone changes nothing; the repair leaves `sound` rows, a chain that holds, and sound objects.
fn repairs(home: &Home, data: &Path, sound: &str, expected: &str) {
    let before = everything(data);
    let planned = home.shown(&mut repair(home, data, &[]));
    assert!(planned.contains(expected), "{planned}");
    assert!(planned.contains("nothing was done: there is nobody to confirm it"), "{planned}");
    assert!(everything(data) == before, "a plan changes nothing: {planned}");
    let repaired = home.shown(&mut repair(home, data, &["--yes"]));
    assert!(repaired.starts_with("exit: 0\n") && repaired.contains(expected), "{repaired}");
    is_sound(home, data, sound);
}

fn is_sound(home: &Home, data: &Path, sound: &str) {
    let text = data.display().to_string();
    assert!(rows(home, data) == sound, "other rows than before");
    let audited = home.run(&["audit", "--data", &text]);
    assert!(audited.starts_with("exit: 0\n") && audited.contains("the chain holds: 2 days"), "{audited}");
    let verified = home.run(&["archive", "verify", "--data", &text]);
    assert!(verified.starts_with("exit: 0\n"), "{verified}");
}

fn damaged_copy(home: &Home, from: &Path, part: &str, how: Damage) -> (PathBuf, Vec<u8>, PathBuf) {
    let data = home.path("damaged");
    let _ = fs::remove_dir_all(&data);
    copy(from, &data);
    let found = files(&data, part);
    let path = found.first().unwrap_or_else(|| panic!("no {part} in {}", data.display())).clone();
    damage(&path, how);
    let left = fs::read(&path).unwrap_or_default();
    (data, left, path)
}

#[test]
fn a_damaged_segment_is_rebuilt_from_the_log_or_the_archive() {
    let home = Home::new();
    let data = stored(&home, "data", false);
    let sound = rows(&home, &data);
    for (part, how, source) in [
        ("warm/date=2025-03-07/kind=trade", Damage::Flip, "rebuilt from the log"),
        ("warm/date=2025-03-07/kind=quote", Damage::Cut, "rebuilt from the log"),
        ("warm/date=2025-03-06/kind=trade", Damage::Remove, "rebuilt from the log"),
        ("warm/date=2025-03-07/kind=bar", Damage::Remove, "rebuilt from the log"),
        ("warm/date=2025-03-06/kind=bar", Damage::Flip, "rebuilt from the archive"),
    ] {
        let (damaged, left, path) = damaged_copy(&home, &data, part, how);
        let shown = home.run(&["history", "AAPL", "MSFT", "NVDA", "--data", &damaged.display().to_string()]);
        let is_trade = part.ends_with("trade");
        assert!(!is_trade || shown.contains("`stk audit --repair`"), "{part}: {shown}");
        repairs(&home, &damaged, &sound, source);
        // What was replaced is kept.
        if !left.is_empty() {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            let kept = files(&damaged.join("kept"), name);
            assert_eq!(fs::read(&kept[0]).expect("kept"), left, "{part}");
        }
    }
}

#[test]
fn a_damaged_object_of_the_archive_is_rebuilt_from_warm_or_the_log() {
    let home = Home::new();
    let data = stored(&home, "data", false);
    let dropped = stored(&home, "dropped", true);
    for (from, part, how, source) in [
        (&data, "cold/ticks/kind=trade", Damage::Flip, "rebuilt from warm"),
        (&data, "cold/ticks/kind=bar", Damage::Remove, "rebuilt from warm"),
        (&dropped, "cold/ticks/kind=quote", Damage::Cut, "rebuilt from the log"),
        (&dropped, "cold/ticks/kind=trade", Damage::Remove, "rebuilt from the log"),
        (&data, ".footer", Damage::Flip, "rebuilt from its object"),
    ] {
        let sound = rows(&home, from);
        let (damaged, left, path) = damaged_copy(&home, from, part, how);
        repairs(&home, &damaged, &sound, source);
        if !left.is_empty() {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
            let kept = files(&damaged.join("cold/kept"), name);
            assert_eq!(fs::read(&kept[0]).expect("kept"), left, "{part}");
        }
    }
}

#[test]
fn a_damaged_manifest_of_the_archive_is_made_again_from_its_objects() {
    let home = Home::new();
    let data = stored(&home, "data", false);
    let dropped = stored(&home, "dropped", true);
    for (from, part, how) in [
        (&data, "cold/manifest/kind=trade/date=2025-03-06/0000.json", Damage::Flip),
        (&data, "cold/manifest/kind=bar/date=2025-03-06/0000.json", Damage::Remove),
        // No other tier has these bars.
        (&dropped, "cold/manifest/kind=bar/date=2025-03-06/0000.json", Damage::Cut),
        (&dropped, "cold/manifest/kind=quote/date=2025-03-06/0000.json", Damage::Flip),
    ] {
        let sound = rows(&home, from);
        let (damaged, left, _) = damaged_copy(&home, from, part, how);
        repairs(&home, &damaged, &sound, "rebuilt from its objects");
        if !left.is_empty() {
            let kept = files(&damaged.join("cold/kept"), "0000.json");
            assert_eq!(fs::read(&kept[0]).expect("kept"), left, "{part}");
        }
    }
    // With an object gone as well, nothing proves what it was.
    let (damaged, ..) =
        damaged_copy(&home, &dropped, "cold/manifest/kind=bar/date=2025-03-06/0000.json", Damage::Flip);
    fs::remove_file(&files(&damaged, "cold/ticks/kind=bar")[0]).expect("removed");
    let before = everything(&damaged.join("cold"));
    let shown = home.shown(&mut repair(&home, &damaged, &["--yes"]));
    assert!(shown.contains("not repairable: ") && shown.contains("put it back from a copy"), "{shown}");
    let after = everything(&damaged.join("cold"));
    assert!(before.iter().all(|(path, bytes)| after.get(path) == Some(bytes)), "{shown}");
}

/// Rows that ClickHouse lost come back out of the archive, and what the day held before is kept.
#[test]
fn a_day_in_clickhouse_is_restored_from_the_archive_and_what_it_held_is_kept() {
    let Some(clickhouse) = service("CLICKHOUSE") else { return };
    let home = Home::new();
    let database = format!("stk_repair_{}_{}", std::process::id(), stk::market::Timestamp::now().nanos());
    let shown = |args: &[&str]| {
        let mut command = home.stk(args);
        command.envs([
            ("STK_WARM_CLICKHOUSE_URL", clickhouse.as_str()),
            ("STK_WARM_CLICKHOUSE_DATABASE", &database),
            ("STK_DATA_DIR", "data"),
            ("STK_LOG_PARTITIONS", "2"),
            ("STK_ARCHIVE_SETTLE_MINUTES", "0"),
            ("STK_WARM_KEEP_DAYS", "36600"),
        ]);
        home.shown(&mut command)
    };
    let run = |args: &[&str]| {
        let shown = shown(args);
        assert!(shown.starts_with("exit: 0\n"), "{args:?}: {shown}");
        shown
    };
    let first = capture(&home, "first.pcap", DAY, 90, &["AAPL", "MSFT", "NVDA"]);
    run(&["replay", &first, "--speed", "max", "--data", "data"]);
    run(&["archive", "run", "--data", "data"]);
    let history = ["history", "AAPL", "MSFT", "NVDA", "--kind", "trades", "--data", "data"];
    let trades = || run(&history).split("--- stderr").next().unwrap_or_default().to_owned();
    let sound = trades();
    let sql =
        format!("ALTER TABLE {database}.trade_rows DELETE WHERE symbol = 'AAPL' SETTINGS mutations_sync = 2");
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail-with-body", &clickhouse, "--data-binary", &sql]);
    let asked = curl.output().expect("curl is there");
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stdout));
    let refused = shown(&history);
    assert!(refused.starts_with("exit: 1\n") && refused.contains("`stk audit --repair`"), "{refused}");
    let repaired = run(&["audit", "--repair", "--yes", "--data", "data"]);
    assert!(repaired.contains("rebuilt from the archive"), "{repaired}");
    assert!(trades() == sound, "{repaired}");
    let kept = files(&home.path("data/cold/kept"), "warm/ticks/kind=trade");
    assert!(kept.iter().any(|path| path.extension().is_some_and(|end| end == "parquet")), "{kept:?}");
    let audited = run(&["audit", "--data", "data"]);
    assert!(audited.contains("the chain holds"), "{audited}");
}

#[test]
fn what_no_other_tier_has_is_named() {
    let home = Home::new();
    let dropped = stored(&home, "dropped", true);
    let (damaged, ..) = damaged_copy(&home, &dropped, "cold/ticks/kind=bar", Damage::Flip);
    let before = everything(&damaged.join("cold/ticks"));
    let shown = home.shown(&mut repair(&home, &damaged, &["--yes"]));
    assert!(shown.contains("not repairable: "), "{shown}");
    assert!(shown.contains("bar of 2025-03-06: ") && shown.contains("no other tier has them all"), "{shown}");
    assert!(everything(&damaged.join("cold/ticks")) == before, "{shown}");
}

/// Of a log that has dropped its first records the archive has these, and the log those that it does not have.
#[test]
fn what_the_log_has_dropped_is_rebuilt_from_the_archive() {
    let home = Home::new();
    let data = stored(&home, "data", false);
    let text = data.display().to_string();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // What the log keeps is eight of its segments: of 80 MiB the first rows are gone.
    let env = [
        ("STK_LOG_RETENTION_BYTES", "67108864"),
        ("STK_PROCESSOR_BLOCK_AGE_MS_MAX", "200"),
        ("STK_PROCESSOR_EXPIRED", "skip"),
    ];
    let weigh_down = |megabytes| {
        let roles = ["--roles", "feed,processor,gateway"];
        let server = Server::start_with(&home, &data, "127.0.0.1:0", &roles, &env);
        runtime.block_on(super::crash::weigh_down(&server.ingest, megabytes)).expect("a server");
        assert_eq!(server.drained().0, Some(0));
    };
    weigh_down(40);
    let archived = home.shown(
        home.stk(&["archive", "run", "--before", "2025-03-07", "--data", &text])
            .envs([("STK_ARCHIVE_SETTLE_MINUTES", "0"), ("STK_WARM_KEEP_DAYS", "36600")]),
    );
    assert!(archived.starts_with("exit: 0\n"), "{archived}");
    weigh_down(40);
    let sound = rows(&home, &data);
    // Each segment of the ballast in turn: from where it was rebuilt.
    let ballast = "date=2001-01-02/kind=status";
    let rebuilt = |part: &str, at: usize| {
        let path = files(&data.join("warm"), part).remove(at);
        damage(&path, Damage::Flip);
        let left = fs::read(&path).expect("a file");
        let repaired = home.shown(&mut repair(&home, &data, &["--yes"]));
        let source =
            ["rebuilt from the archive and the log", "rebuilt from the archive", "rebuilt from the log"];
        let source = source.into_iter().find(|source| repaired.contains(source));
        assert!(repaired.starts_with("exit: 0\n") && source.is_some(), "{repaired}");
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        let kept = files(&data.join("kept"), name);
        assert!(kept.iter().any(|kept| fs::read(kept).expect("kept") == left), "{part}: {kept:?}");
        source.expect("it was just looked at")
    };
    let sources = || -> BTreeSet<_> {
        (0..files(&data.join("warm"), ballast).len()).map(|at| rebuilt(ballast, at)).collect()
    };
    assert_eq!(rebuilt("date=2025-03-06/kind=trade", 0), "rebuilt from the archive");
    assert_eq!(sources(), BTreeSet::from(["rebuilt from the archive", "rebuilt from the log"]));
    assert!(rows(&home, &data) == sound, "other rows than before");
    let audited = home.run(&["audit", "--data", &text]);
    assert!(audited.starts_with("exit: 0\n") && audited.contains("the chain holds: 2 days"), "{audited}");
    // Nobody has these any more.
    damage(&files(&data, "warm/date=2025-03-07/kind=trade")[0], Damage::Remove);
    let shown = home.shown(&mut repair(&home, &data, &["--yes"]));
    assert!(shown.contains("not repairable: ") && shown.contains("trade of 2025-03-07: "), "{shown}");
    // Warm is filled again from where the log begins, and the log loses some more.
    fs::remove_dir_all(data.join("warm")).expect("removed");
    weigh_down(1);
    weigh_down(9);
    let of_first_day = |rows: &str| -> Vec<String> {
        rows.lines().filter(|line| line.contains(DAY)).map(str::to_owned).collect()
    };
    let left = of_first_day(&rows(&home, &data));
    assert_eq!(left, of_first_day(&sound));
    assert!(sources().contains("rebuilt from the archive and the log"));
    assert_eq!(of_first_day(&rows(&home, &data)), left);
    let audited = home.run(&["audit", "--data", &text]);
    assert!(audited.starts_with("exit: 0\n") && audited.contains("the chain holds: 1 day"), "{audited}");
}

#[test]
fn a_damaged_warm_manifest_or_checkpoint_is_rebuilt() {
    let home = Home::new();
    let data = stored(&home, "data", false);
    let dropped = stored(&home, "dropped", true);
    for (from, part, how) in [
        (&data, "warm/manifest-", Damage::Cut),
        (&dropped, "warm/manifest-", Damage::Flip),
        (&data, "warm/checkpoint/", Damage::Flip),
        (&dropped, "warm/checkpoint/", Damage::Remove),
    ] {
        let sound = rows(&home, from);
        let (damaged, ..) = damaged_copy(&home, from, part, how);
        let refused = home.shown(&mut serve(&home, &damaged, Some("127.0.0.1:0"), "127.0.0.1:0", &[], &[]));
        assert!(refused.starts_with("exit: 1\n") && refused.contains("`stk audit --repair`"), "{refused}");
        let before = everything(&damaged);
        let planned = home.shown(&mut repair(&home, &damaged, &[]));
        assert!(planned.contains("rebuilt from the log: "), "{planned}");
        assert!(everything(&damaged) == before, "a plan changes nothing: {planned}");
        let mut command = repair(&home, &damaged, &["--yes"]);
        let repaired = home.shown(command.env("STK_LOG_PARTITIONS", "2"));
        assert!(repaired.starts_with("exit: 0\n"), "{part}: {repaired}");
        assert!(rows(&home, &damaged) == sound, "{part}: other rows than before");
        assert!(!files(&damaged.join("kept"), "warm/checkpoint/").is_empty() || part.contains("checkpoint"));
        let server = Server::start(&home, &damaged, &[]);
        server.await_ready();
        server.kill();
    }
}

#[test]
fn a_damaged_warm_store_beside_kafka_is_rebuilt_from_the_topic() {
    let Some(kafka) = service("KAFKA") else { return };
    let home = Home::new();
    let name = format!("stk-repair-{}-{}", std::process::id(), stk::market::Timestamp::now().nanos());
    let stk = |args: &[&str]| {
        let mut command = home.stk(args);
        command.envs([
            ("STK_LOG_KAFKA_BROKERS", kafka.as_str()),
            ("STK_LOG_KAFKA_TOPIC", &name),
            ("STK_LOG_KAFKA_GROUP", &name),
            ("STK_LOG_PARTITIONS", "2"),
            ("STK_ARCHIVE_SETTLE_MINUTES", "0"),
        ]);
        command
    };
    let run = |args: &[&str]| home.shown(&mut stk(args));
    let take_in = |capture: &str| {
        let listen = ["--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0", "--data", "data"];
        let server = Server::run(stk(&[&["serve"], &listen[..]].concat()), true);
        server.await_ready();
        let shown = home.run(&["replay", capture, "--speed", "max", "--ingest", &server.ingest]);
        assert!(shown.starts_with("exit: 0\n"), "{shown}");
        let (code, said) = server.drained();
        assert_eq!(code, Some(0), "{said:#?}");
    };
    let done = |args: &[&str]| {
        let shown = run(args);
        assert!(shown.starts_with("exit: 0\n"), "{args:?}: {shown}");
        shown
    };
    // A day that goes into the archive and out of warm, and one that stays.
    let first = capture(&home, "first.pcap", DAY, 90, &["AAPL", "MSFT", "NVDA"]);
    take_in(&first);
    let archived = done(&["archive", "run", "--data", "data"]);
    let second = capture(&home, "second.pcap", "2025-03-07", 70, &["AAPL", "NVDA"]);
    take_in(&second);
    let ask = ["history", "AAPL", "MSFT", "NVDA", "--format", "csv", "--data", "data"];
    let rows = || done(&ask).split("--- stderr").next().unwrap_or_default().to_owned();
    let sound = rows();
    assert!(sound.lines().count() == 163 && archived.contains(DAY), "{archived}\n{sound}");
    damage(&files(&home.path("data"), "warm/manifest-")[0], Damage::Cut);
    let refused = run(&ask);
    assert!(refused.starts_with("exit: 1\n") && refused.contains("`stk audit --repair`"), "{refused}");
    let repaired = done(&["audit", "--repair", "--yes", "--data", "data"]);
    assert!(repaired.contains("rebuilt from the log: "), "{repaired}");
    assert!(rows() == sound, "other rows than before: {repaired}");
}

#[test]
fn a_repair_that_was_killed_is_finished_by_the_next() {
    let home = Home::new();
    let data = stored(&home, "data", false);
    let sound = rows(&home, &data);
    let segment = "warm/date=2025-03-07/kind=trade";
    let object = "cold/ticks/kind=trade";
    for (part, how, point) in [
        (segment, Damage::Remove, "repair.segment_written"),
        (segment, Damage::Flip, "repair.segment_replaced"),
        (object, Damage::Flip, "repair.objects_written"),
        (object, Damage::Cut, "repair.objects_kept"),
        (object, Damage::Remove, "repair.manifest_replaced"),
        ("warm/manifest-", Damage::Cut, "repair.warm_moved"),
    ] {
        let (damaged, ..) = damaged_copy(&home, &data, part, how);
        let mut command = repair(&home, &damaged, &["--yes"]);
        let killed = home.shown(command.env("STK_FAIL_POINT", point));
        assert!(killed.starts_with("exit: signal\n"), "{point}: {killed}");
        let finished = home.shown(&mut repair(&home, &damaged, &["--yes"]));
        assert!(finished.starts_with("exit: 0\n"), "{point}: {finished}");
        if point.ends_with("replaced") {
            assert!(finished.contains("no part needs a repair"), "{point}: {finished}");
        }
        if part.contains("manifest") {
            // Nothing is damaged any more; the server fills warm as it fills every empty store.
            let server = Server::start(&home, &damaged, &[]);
            server.await_ready();
            server.drained();
        }
        is_sound(&home, &damaged, &sound);
    }
}

/// A file that is damaged is met after the status was sent: the connection is aborted, the log names the
/// file, and the server repairs it.
#[test]
fn an_answer_that_breaks_off_is_no_clean_end_and_a_running_server_repairs_it() {
    let home = Home::new();
    let data = stored(&home, "data", false);
    let server = Server::start(&home, &data, &[]);
    server.await_ready();
    let get = |format: &str| {
        let url = format!("http://{}/v1/history?symbols=AAPL,NVDA&format={format}", server.address);
        let got = Command::new("curl").args(["-sS", &url]).output().expect("curl is there");
        (got.status.code(), String::from_utf8_lossy(&got.stdout).into_owned())
    };
    let (code, sound) = get("ndjson");
    assert_eq!(code, Some(0));
    let path = files(&data, "warm/date=2025-03-07/kind=trade").remove(0);
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    damage(&path, Damage::Flip);
    for format in ["ndjson", "csv"] {
        let (code, body) = get(format);
        // 18: the transfer ended before the answer did.
        assert_eq!(code, Some(18), "{format}: {body}");
        let last = body.lines().last().unwrap_or_default();
        let is_named = last.starts_with("{\"error\":") && last.contains(&name);
        assert!(format != "ndjson" || is_named, "{body}");
    }
    assert!(metric(&server.address, "history_damaged_total") >= 2.0);
    let repaired = home.run(&["audit", "--repair", "--yes", "--server", &server.address]);
    assert!(repaired.starts_with("exit: 0\n") && repaired.contains("rebuilt from the log"), "{repaired}");
    assert_eq!(get("ndjson"), (Some(0), sound));
    let (_, said) = server.stop();
    assert!(said.iter().any(|line| line.contains("broke off") && line.contains(&name)), "{said:#?}");
}
