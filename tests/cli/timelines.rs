//! What becomes of a log and its archive when one of them is put back from a copy, lost or exchanged:
//! every row that was acknowledged is in one answer or named as lost, and each refusal has a way on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use stk::market::{Conditions, Exchange, Tape, Tick, Trade};

use super::crash::bring;
use super::support::{self, Home, Server};

/// Days of the trades, all long closed.
const DAYS: [&str; 3] = ["2025-03-03", "2025-03-04", "2025-03-05"];

/// A data directory and an archive beside it.
pub(crate) struct Plant {
    pub(crate) home: Home,
    pub(crate) data: PathBuf,
    pub(crate) archive: PathBuf,
    pub(crate) keep_days: &'static str,
    pub(crate) runtime: tokio::runtime::Runtime,
    /// More settings, for every command.
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Plant {
    pub(crate) fn new() -> Self {
        let home = Home::new();
        let (data, archive) = (home.path("data"), home.path("archive"));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        Self { home, data, archive, keep_days: "36600", runtime, env: Vec::new() }
    }

    pub(crate) fn command(&self, args: &[&str], data: &Path) -> Command {
        let mut command = self.home.stk(args);
        command.env("STK_DATA_DIR", data).env("STK_ARCHIVE_URL", &self.archive);
        command.env("STK_ARCHIVE_SETTLE_MINUTES", "0").env("STK_WARM_KEEP_DAYS", self.keep_days);
        command.envs(self.env.iter().map(|(name, value)| (*name, value)));
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> String {
        self.home.shown(&mut self.command(args, &self.data))
    }

    /// Exits with 0.
    pub(crate) fn good(&self, args: &[&str]) -> String {
        let shown = self.run(args);
        assert!(shown.starts_with("exit: 0\n"), "{args:?}: {shown}");
        shown
    }

    pub(crate) fn server(&self, data: &Path) -> Server {
        let args = ["serve", "--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0"];
        Server::run(self.command(&args, data), true)
    }

    /// Has the trades `numbers` acknowledged by a server on `data`, of days in turn, and ends it in
    /// good order once they are in warm.
    pub(crate) fn take(&self, data: &Path, numbers: std::ops::Range<u64>) {
        let server = self.server(data);
        self.bring(&server, numbers);
        let (code, said) = server.drained();
        assert_eq!(code, Some(0), "{said:#?}");
    }

    pub(crate) fn bring(&self, server: &Server, numbers: std::ops::Range<u64>) {
        let producer = 1 + numbers.start;
        let ticks: Vec<Tick> = numbers.map(trade).collect();
        self.runtime.block_on(async {
            let mut client = support::ingest(&server.ingest, producer, 0).await.expect("it is there");
            bring(&mut client, &ticks).await;
        });
    }

    pub(crate) fn history(&self) -> BTreeMap<u64, usize> {
        numbers(&self.good(&[
            "history",
            "SA",
            "SB",
            "--data",
            &self.data.display().to_string(),
            "--format",
            "csv",
        ]))
    }
}

/// Shares traded by the daily bars.
fn volume(plant: &Plant) -> u64 {
    let data = plant.data.display().to_string();
    let args =
        ["history", "SA", "SB", "--kind", "bars", "--timeframe", "1Day", "--data", &data, "--format", "csv"];
    let shown = plant.good(&args);
    let (_, rest) = shown.split_once("--- stdout\n").expect("there is stdout");
    let mut lines = rest.split("--- stderr\n").next().unwrap_or_default().lines();
    let head = lines.next().expect("a header");
    let at = head.split(',').position(|column| column == "volume").expect("a volume");
    lines
        .map(|line| line.split(',').nth(at).and_then(|cell| cell.parse::<u64>().ok()).expect("a number"))
        .sum()
}

fn numbers(shown: &str) -> BTreeMap<u64, usize> {
    let (_, rest) = shown.split_once("--- stdout\n").expect("there is stdout");
    let rows = rest.split("--- stderr\n").next().unwrap_or_default();
    let mut lines = rows.lines();
    let head = lines.next().expect("a header");
    let id = head.split(',').position(|column| column == "id").expect("an id");
    let mut found = BTreeMap::new();
    for line in lines {
        let number = line.split(',').nth(id).and_then(|id| id.parse().ok()).expect("a number");
        *found.entry(number).or_default() += 1;
    }
    found
}

pub(crate) fn once(numbers: impl IntoIterator<Item = std::ops::Range<u64>>) -> BTreeMap<u64, usize> {
    numbers.into_iter().flatten().map(|number| (number, 1)).collect()
}

/// Trade `number`, whose id it is.
pub(crate) fn trade(number: u64) -> Tick {
    let day = DAYS[number as usize / 10 % DAYS.len()];
    let ts = format!("{day}T15:00:00Z").parse::<stk::market::Timestamp>().expect("a time");
    let ts = ts.saturating_add_nanos(number as i64 * 1_000_000);
    Tick::Trade(Trade {
        symbol: if number.is_multiple_of(2) { "SA" } else { "SB" }.parse().expect("a symbol"),
        ts,
        recv_ts: ts,
        price: "10.5".parse().expect("a price"),
        size: 100,
        exchange: Exchange::NONE,
        conditions: Conditions::default(),
        id: number,
        tape: Tape::A,
    })
}

pub(crate) fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp is there");
    assert!(copied.success());
}

pub(crate) fn put_back(copied: &Path, data: &Path) {
    std::fs::remove_dir_all(data).expect("it is there");
    copy(copied, data);
}

/// The copy is older than the archive: what is archived stays, what comes is stored beside it, and
/// nothing is archived before somebody says that the newer timeline is gone.
#[test]
fn an_older_copy_is_put_back_while_the_archive_is_ahead() {
    let plant = Plant::new();
    let copied = plant.home.path("copied");
    plant.take(&plant.data, 0..200);
    copy(&plant.data, &copied);
    plant.take(&plant.data, 200..500);
    plant.good(&["archive", "run"]);
    // Of these only the archive will know nothing.
    plant.take(&plant.data, 500..600);
    put_back(&copied, &plant.data);
    plant.take(&plant.data, 1000..1300);
    let all = once([0..500, 1000..1300]);
    assert_eq!(plant.history(), all);
    let refused = plant.run(&["archive", "run"]);
    assert!(refused.starts_with("exit: 1\n"), "{refused}");
    assert!(refused.contains("holds rows of another timeline of this log"), "{refused}");
    assert!(refused.contains("run `stk archive adopt`"), "{refused}");
    let refused = plant.run(&["audit"]);
    assert!(refused.contains("holds rows of another timeline of this log"), "{refused}");
    // As the message says.
    let shown = plant.good(&["archive", "adopt"]);
    assert!(shown.contains("are of that timeline") && shown.contains("with --yes"), "{shown}");
    assert!(plant.run(&["archive", "run"]).starts_with("exit: 1\n"), "a plan changes nothing");
    plant.good(&["archive", "adopt", "--yes"]);
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), all);
    plant.good(&["archive", "verify"]);
    // And on: further ticks, further runs, another start.
    plant.take(&plant.data, 1300..1400);
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), once([0..500, 1000..1400]));
    assert_eq!(volume(&plant), 900 * 100, "bars have the trades of both");
    let dropping = Plant { keep_days: "1", ..plant };
    dropping.good(&["archive", "run"]);
    dropping.good(&["archive", "run"]);
    assert_eq!(dropping.history(), once([0..500, 1000..1400]), "dropped from warm, read from the archive");
    assert_eq!(volume(&dropping), 900 * 100);
    dropping.good(&["archive", "verify"]);
}

/// A run archived one day of three before the data directory was put back from an older copy: what only that
/// directory had of the other days is gone, and answers about them say so, for as long as they are asked.
#[test]
fn rows_that_were_neither_archived_nor_in_the_copy_are_named_as_lost() {
    let plant = Plant::new();
    let copied = plant.home.path("copied");
    plant.take(&plant.data, 0..30);
    copy(&plant.data, &copied);
    plant.take(&plant.data, 30..90);
    plant.good(&["archive", "run", "--before", DAYS[1]]);
    put_back(&copied, &plant.data);
    let data = plant.data.display().to_string();
    let ask = |more: &[&str]| {
        let args = [&["history", "SA", "SB", "--data", &data, "--format", "csv"], more].concat();
        plant.run(&args)
    };
    let of_first_day = |number: &u64| (number / 10).is_multiple_of(3);
    let left: BTreeMap<u64, usize> = once([0..30, 30..90])
        .into_iter()
        .filter(|(number, _)| *number < 30 || of_first_day(number))
        .collect();
    let lost =
        format!("were lost before all of them were archived: rows of {} to {} are gone", DAYS[1], DAYS[2]);
    let named = |kept: &BTreeMap<u64, usize>| {
        let shown = ask(&[]);
        assert!(shown.starts_with("exit: 5\n") && shown.contains(&lost), "{shown}");
        assert_eq!(numbers(&shown), *kept);
        let whole = ask(&["--to", "2025-03-04T00:00:00Z"]);
        assert!(whole.starts_with("exit: 0\n") && whole.contains("nothing is missing"), "{whole}");
    };
    // Before and after a server has seen it.
    named(&left);
    plant.take(&plant.data, 200..220);
    let left: BTreeMap<u64, usize> = left.into_iter().chain(once(std::iter::once(200..220))).collect();
    named(&left);
    let server = plant.server(&plant.data);
    let url = format!("http://{}/v1/coverage?symbols=SA,SB&kind=trade", server.address);
    let asked = Command::new("curl").args(["-s", &url]).output().expect("curl is there");
    let coverage: serde_json::Value = serde_json::from_slice(&asked.stdout).expect("JSON");
    assert_eq!(coverage["complete"], false);
    assert_eq!(coverage["lost"][0]["first_day"], DAYS[1], "{coverage}");
    drop(server);
    // The log is lost too: warm knows it as well.
    std::fs::remove_dir_all(plant.data.join("log")).expect("it is there");
    plant.take(&plant.data, 230..240);
    let left: BTreeMap<u64, usize> = left.into_iter().chain(once(std::iter::once(230..240))).collect();
    named(&left);
}

/// The archive can't be asked when the log that was put back is opened. It is asked as soon as it answers: the
/// log then continues after it, without anybody's help. If the log has used the offsets already, the server
/// names them.
#[test]
fn an_archive_that_was_away_at_the_start_is_asked_once_it_answers() {
    let plant = Plant::new();
    let (copied, aside) = (plant.home.path("copied"), plant.home.path("aside"));
    plant.take(&plant.data, 0..100);
    copy(&plant.data, &copied);
    plant.take(&plant.data, 200..500);
    plant.good(&["archive", "run"]);
    put_back(&copied, &plant.data);
    let away = || {
        std::fs::create_dir_all(&aside).expect("a directory");
        for name in ["log.json", "log.copy.json"] {
            let path = plant.archive.join(name);
            std::fs::rename(&path, aside.join(name)).expect("it is there");
            // Reading it is an error that may pass.
            std::os::unix::fs::symlink(&path, &path).expect("a loop");
        }
    };
    let back = || {
        for name in ["log.json", "log.copy.json"] {
            std::fs::rename(aside.join(name), plant.archive.join(name)).expect("put back");
        }
    };
    let ended = |server: Server| {
        let (code, said) = server.drained();
        assert_eq!(code, Some(0), "{said:#?}");
    };
    away();
    let server = plant.server(&plant.data);
    back();
    server.awaits("the archive is ahead of the log: the stores are opened again");
    server.awaits("listening on http://");
    plant.bring(&server, 1000..1050);
    ended(server);
    assert_eq!(plant.history(), once([0..100, 200..500, 1000..1050]));

    // A log that was lost beside it does not begin before it answers.
    let lost = plant.home.path("lost");
    std::fs::rename(&plant.data, &lost).expect("moved");
    away();
    let refused = plant.home.shown(&mut plant.command(&["serve"], &plant.data));
    assert!(
        refused.starts_with("exit: 1\n") && refused.contains("a new log would begin beside"),
        "{refused}"
    );
    assert!(refused.contains("start it again when the archive answers"), "{refused}");
    back();
    plant.take(&plant.data, 3000..3050);
    assert_eq!(plant.history(), once([0..100, 200..500, 3000..3050]));

    put_back(&copied, &plant.data);
    away();
    let server = plant.server(&plant.data);
    plant.bring(&server, 2000..2050);
    back();
    let named = "holds rows of another timeline of this log, which are no part of its history: offsets ";
    server.awaits(named);
    let asked = Command::new("curl").args(["-s", &format!("http://{}/readyz", server.address)]).output();
    let ready = String::from_utf8_lossy(&asked.expect("curl is there").stdout).into_owned();
    assert!(ready.contains("degraded") && ready.contains(named), "{ready}");
    ended(server);
    assert_eq!(plant.history(), once([0..100, 2000..2050]));
}

/// A copy is started beside the original with the same archive: neither answers the other's rows.
#[test]
fn a_copy_that_runs_beside_the_original_never_mixes_with_it() {
    let plant = Plant::new();
    let copied = plant.home.path("copied");
    plant.take(&plant.data, 0..200);
    plant.good(&["archive", "run"]);
    copy(&plant.data, &copied);
    plant.take(&plant.data, 200..400);
    plant.take(&copied, 1000..1300);
    // The copy comes first: its rows lie at the original's offsets.
    let ran = plant.home.shown(&mut plant.command(&["archive", "run"], &copied));
    assert!(ran.starts_with("exit: 0\n"), "{ran}");
    assert_eq!(plant.history(), once(std::iter::once(0..400)));
    let refused = plant.run(&["archive", "run"]);
    assert!(refused.starts_with("exit: 1\n") && refused.contains("another timeline"), "{refused}");
    assert!(
        refused.contains("set archive.url to another place")
            || refused.contains("Set archive.url to another place"),
        "{refused}"
    );
    let refused = plant.run(&["archive", "adopt", "--yes"]);
    assert!(refused.starts_with("exit: 1\n"), "what both have used can't be adopted: {refused}");
    // As the message says, beside a running server as well as without one.
    let moved = plant.home.path("moved");
    let (from, to) = (plant.archive.display().to_string(), moved.display().to_string());
    let server = plant.server(&plant.data);
    let shown = plant.good(&["archive", "copy", "--own", &from, &to, "--yes"]);
    assert!(shown.contains("of another timeline left out"), "{shown}");
    assert_eq!(server.drained().0, Some(0));
    plant.good(&["archive", "copy", "--own", &from, &to, "--yes"]);
    let mut plant = plant;
    let archive = std::mem::replace(&mut plant.archive, moved);
    assert_eq!(plant.history(), once(std::iter::once(0..400)));
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), once(std::iter::once(0..400)));
    plant.good(&["archive", "verify"]);
    plant.good(&["audit"]);
    // The copy of the log still has the old archive, as it was.
    (plant.archive, plant.data) = (archive, copied);
    assert_eq!(plant.history(), once([0..200, 1000..1300]));
}

/// The archive is gone for good, and warm has dropped the days that went there.
#[test]
fn days_of_an_archive_that_is_gone_are_given_up() {
    let plant = Plant { keep_days: "1", ..Plant::new() };
    let data = plant.data.display().to_string();
    let ask = || plant.run(&["history", "SA", "SB", "--data", &data, "--format", "csv"]);
    plant.take(&plant.data, 0..300);
    plant.good(&["archive", "run"]);
    plant.good(&["archive", "run"]);
    std::fs::remove_dir_all(&plant.archive).expect("it was there");
    plant.take(&plant.data, 300..400);
    let told = plant.run(&["archive", "run"]);
    assert!(told.starts_with("exit: 1\n"), "{told}");
    let asked = ask();
    assert!(asked.starts_with("exit: 1\n") && asked.contains("`stk archive give-up`"), "{asked}");
    let shown = plant.good(&["archive", "give-up"]);
    assert!(
        shown.contains("trade of ") && shown.contains("offsets 0 to ") && shown.contains("--yes"),
        "{shown}"
    );
    let asked = ask();
    assert!(asked.starts_with("exit: 1\n"), "a plan changes nothing: {asked}");
    // Killed between two manifests, it is gone on with by the same command.
    let mut killed = plant.command(&["archive", "give-up", "--yes"], &plant.data);
    let killed = plant.home.shown(killed.env("STK_FAIL_POINT", "give_up.manifest"));
    assert!(killed.starts_with("exit: signal\n"), "{killed}");
    let shown = plant.good(&["archive", "give-up", "--yes"]);
    assert!(shown.contains("They are given up"), "{shown}");
    let shown = plant.good(&["archive", "give-up"]);
    assert!(shown.contains("there is nothing to give up"), "{shown}");

    for _ in 0..2 {
        let asked = ask();
        assert!(asked.contains("were lost") && asked.contains(" of partition "), "{asked}");
        assert_eq!(numbers(&asked), once(std::iter::once(300..400)), "the rest is answered");
        plant.good(&["archive", "run"]);
    }
    plant.good(&["archive", "verify"]);
    let audited = plant.good(&["audit"]);
    assert!(audited.contains("days of lost rows"), "{audited}");
}

/// The data directory is lost, and a new one begins beside the archive.
#[test]
fn a_new_log_beside_an_archive_continues_after_it() {
    let plant = Plant::new();
    plant.take(&plant.data, 0..300);
    plant.good(&["archive", "run"]);
    std::fs::remove_dir_all(&plant.data).expect("it is there");
    plant.take(&plant.data, 1000..1100);
    assert_eq!(plant.history(), once([0..300, 1000..1100]));
    assert!(plant.run(&["archive", "run"]).contains("another timeline"));
    // Also while a server has the stores open.
    let server = plant.server(&plant.data);
    let there = |args: &[&str]| {
        plant.home.shown(&mut plant.home.stk(&[args, &["--server", &server.address]].concat()))
    };
    assert!(there(&["archive", "adopt"]).contains("run it with --yes"));
    let adopted = there(&["archive", "adopt", "--yes", "--json"]);
    assert!(adopted.starts_with("exit: 0\n") && adopted.contains(r#""adopted":true"#), "{adopted}");
    assert!(there(&["archive", "adopt"]).contains("are this log's already"));
    assert_eq!(server.drained().0, Some(0));
    plant.good(&["archive", "run"]);
    plant.take(&plant.data, 1100..1200);
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), once([0..300, 1000..1200]));
    plant.good(&["archive", "verify"]);
}

/// Both objects that name the log are lost, as where the archive was not copied whole.
#[test]
fn an_archive_that_lost_the_name_of_its_log_is_no_other_logs() {
    let plant = Plant::new();
    let other = plant.home.path("other");
    plant.take(&other, 1000..1100);
    plant.take(&plant.data, 0..100);
    plant.good(&["archive", "run"]);
    for name in ["log.json", "log.copy.json"] {
        std::fs::remove_file(plant.archive.join(name)).expect("it is there");
    }
    let there = |args: &[&str]| plant.home.shown(&mut plant.command(args, &other));
    let refused = there(&["archive", "run"]);
    assert!(refused.starts_with("exit: 1\n") && refused.contains("another timeline"), "{refused}");
    assert!(there(&["archive", "adopt", "--yes"]).starts_with("exit: 1\n"));
    assert!(!plant.archive.join("log.json").exists());
    plant.take(&plant.data, 100..200);
    plant.good(&["archive", "run"]);
    assert!(there(&["archive", "run"]).contains("holds rows of another log"));
    let plant = Plant { keep_days: "1", ..plant };
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), once(std::iter::once(0..200)));
    plant.good(&["archive", "verify"]);
}

/// Days are archived and dropped, and the archive is looked for elsewhere: late rows of such a day must
/// not make an archive that claims to be whole.
#[test]
fn another_archive_is_refused_for_days_that_it_does_not_hold() {
    let plant = Plant { keep_days: "1", ..Plant::new() };
    plant.take(&plant.data, 0..300);
    plant.good(&["archive", "run"]);
    plant.good(&["archive", "run"]);
    let plant = Plant { archive: plant.home.path("elsewhere"), ..plant };
    for order in ["verify", "run", "run", "verify"] {
        let refused = plant.run(&["archive", order]);
        assert!(refused.starts_with("exit: 1\n"), "{order}: {refused}");
        let named = "warm has dropped rows that [HOME]/elsewhere does not hold";
        assert!(
            refused.contains(named) && refused.contains(" of 2025-03-03: warm has"),
            "{order}: {refused}"
        );
    }
    // With late rows of the days it is no other.
    plant.take(&plant.data, 300..400);
    let refused = plant.run(&["archive", "run"]);
    assert!(refused.starts_with("exit: 1\n") && refused.contains("does not hold"), "{refused}");
    assert!(!refused.contains("dropped from warm ("), "the way back stays open: {refused}");
    let failed = plant.run(&["history", "SA", "--data", &plant.data.display().to_string()]);
    assert!(failed.starts_with("exit: 1\n"), "never a part for the whole: {failed}");
    // As the message says: what is missing is copied here from there.
    assert!(refused.contains("`stk archive copy THERE HERE`"), "{refused}");
    let [there, here] = ["archive", "elsewhere"].map(|name| plant.home.path(name).display().to_string());
    plant.good(&["archive", "copy", &there, &here, "--yes"]);
    plant.good(&["archive", "run"]);
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), once(std::iter::once(0..400)));
    plant.good(&["archive", "verify"]);
    // And back, with the days that were archived since.
    plant.good(&["archive", "copy", &here, &there, "--yes"]);
    // The archive rolled back to before the late rows.
    let plant = Plant { archive: plant.home.path("archive"), ..plant };
    let before = plant.home.path("rolled");
    copy(&plant.archive, &before);
    plant.take(&plant.data, 400..450);
    plant.good(&["archive", "run"]);
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), once(std::iter::once(0..450)));
    put_back(&before, &plant.archive);
    for order in ["verify", "run"] {
        let refused = plant.run(&["archive", order]);
        assert!(refused.starts_with("exit: 1\n") && refused.contains("does not hold"), "{order}: {refused}");
    }
    // A server says the same.
    let server = plant.server(&plant.data);
    server.await_ready();
    let refused = plant.run(&["archive", "verify", "--server", &server.address]);
    assert!(refused.starts_with("exit: 1\n") && refused.contains("does not hold"), "{refused}");
}

/// A run is killed between writing its objects and committing them, the log is put back from an older copy,
/// and gets other rows at the same offsets: the objects of the first run are none of theirs.
#[test]
fn objects_of_a_killed_run_are_not_taken_for_the_rows_of_another_timeline() {
    let plant = Plant { keep_days: "1", ..Plant::new() };
    let copied = plant.home.path("copied");
    plant.take(&plant.data, 0..100);
    plant.good(&["archive", "run"]);
    copy(&plant.data, &copied);
    plant.take(&plant.data, 100..200);
    let mut killed = plant.command(&["archive", "run"], &plant.data);
    let killed = plant.home.shown(killed.env("STK_FAIL_POINT", "archive.uploaded"));
    assert!(killed.starts_with("exit: signal\n"), "{killed}");
    put_back(&copied, &plant.data);
    plant.take(&plant.data, 1000..1100);
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), once([0..100, 1000..1100]));
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), once([0..100, 1000..1100]), "dropped from warm");
    plant.good(&["archive", "verify"]);
}

/// The log was lost and continued after warm, and then warm is lost as well: what warm alone had is in the
/// archive, and read from there however far the new warm has come. No day is dropped that warm can't prove.
#[test]
fn warm_that_is_lost_after_the_log_is_answered_from_the_archive() {
    let plant = Plant { keep_days: "1", ..Plant::new() };
    plant.take(&plant.data, 0..100);
    std::fs::remove_dir_all(plant.data.join("log")).expect("it is there");
    plant.take(&plant.data, 100..200);
    let mut run = plant.command(&["archive", "run"], &plant.data);
    let ran = plant.home.shown(run.env("STK_WARM_KEEP_DAYS", "36600"));
    assert!(ran.starts_with("exit: 0\n"), "{ran}");
    std::fs::remove_dir_all(plant.data.join("warm")).expect("it is there");
    for round in 0..2 {
        plant.take(&plant.data, 1000 + 100 * round..1100 + 100 * round);
        let all = once([0..200, 1000..1100 + 100 * round]);
        assert_eq!(plant.history(), all);
        plant.good(&["archive", "run"]);
        assert_eq!(plant.history(), all);
    }
    plant.good(&["archive", "verify"]);
}

/// Bars of a day were archived and dropped, later ones archived and kept; an older warm store is put back and
/// forms the later ones again, in other blocks.
#[test]
fn bars_that_an_older_warm_store_forms_again_are_dropped_once_they_are_archived() {
    let plant = Plant { keep_days: "1", ..Plant::new() };
    let (warm, copied) = (plant.data.join("warm"), plant.home.path("copied"));
    plant.take(&plant.data, 0..30);
    plant.good(&["archive", "run"]);
    copy(&warm, &copied);
    plant.take(&plant.data, 30..60);
    let mut keeping = plant.command(&["archive", "run"], &plant.data);
    let kept = plant.home.shown(keeping.env("STK_WARM_KEEP_DAYS", "36600"));
    assert!(kept.starts_with("exit: 0\n"), "{kept}");
    plant.take(&plant.data, 60..90);
    put_back(&copied, &warm);
    plant.take(&plant.data, 90..100);
    for _ in 0..2 {
        plant.good(&["archive", "run"]);
        assert_eq!(plant.history(), once(std::iter::once(0..100)));
        assert_eq!(volume(&plant), 100 * 100);
    }
}

/// The archive's newest day is as the copy knew it, and only an older day has got late rows since.
#[test]
fn late_rows_of_an_older_day_are_read_beside_an_older_copy() {
    let plant = Plant::new();
    let copied = plant.home.path("copied");
    // Of ten each, the third day has the last.
    plant.take(&plant.data, 0..30);
    plant.good(&["archive", "run"]);
    copy(&plant.data, &copied);
    plant.take(&plant.data, 30..40);
    plant.good(&["archive", "run"]);
    put_back(&copied, &plant.data);
    assert_eq!(plant.history(), once(std::iter::once(0..40)), "before a server has opened it");
    plant.take(&plant.data, 1000..1010);
    assert_eq!(plant.history(), once([0..40, 1000..1010]));
}

/// Warm has what the log lost: nothing is missing, and the log continues after it.
#[test]
fn a_log_older_than_warm_continues_after_it() {
    let plant = Plant::new();
    let copied = plant.home.path("log");
    plant.take(&plant.data, 0..100);
    copy(&plant.data.join("log"), &copied);
    plant.take(&plant.data, 100..300);
    put_back(&copied, &plant.data.join("log"));
    plant.take(&plant.data, 1000..1100);
    assert_eq!(plant.history(), once([0..300, 1000..1100]));
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), once([0..300, 1000..1100]));
}

/// The log beside warm is another one, and longer: it is refused before anything is taken in or answered,
/// and both ways on that the message names lead to a store with every row once.
#[test]
fn a_log_of_another_timeline_or_installation_beside_warm_is_refused() {
    for (is_copy, named) in
        [(true, "holds rows of another timeline of the log beside it"), (false, "holds rows of the log ")]
    {
        let plant = Plant::new();
        let (foreign, aside) = (plant.home.path("foreign"), plant.home.path("aside"));
        plant.take(&plant.data, 0..100);
        let of_foreign = if is_copy {
            copy(&plant.data, &foreign);
            once([0..100, 1000..1300])
        } else {
            once(std::iter::once(1000..1300))
        };
        // Later by market time than all that the other log has.
        plant.take(&plant.data, 2000..2100);
        plant.take(&foreign, 1000..1200);
        plant.take(&foreign, 1200..1300);
        let own = once([0..100, 2000..2100]);
        assert_eq!(plant.history(), own);
        let log = plant.data.join("log");
        copy(&log, &aside);
        put_back(&foreign.join("log"), &log);
        let data = plant.data.display().to_string();
        let commands: [&[&str]; 6] = [
            &["serve", "--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0"],
            &["history", "SA", "--data", &data],
            &["audit"],
            &["archive", "run"],
            &["archive", "run", "--dry-run"],
            &["archive", "status"],
        ];
        for args in commands {
            let refused = plant.run(args);
            assert!(refused.starts_with("exit: 1\n"), "{args:?}: {refused}");
            assert!(refused.contains(named) && refused.contains("move the store away"), "{refused}");
        }
        // Nothing was changed, so the log that warm belongs to can be put back.
        put_back(&aside, &log);
        assert_eq!(plant.history(), own);
        plant.take(&plant.data, 2100..2150);
        assert_eq!(plant.history(), once([0..100, 2000..2150]));
        // Or warm is moved away. The checkpoint of hot stays, and must not be believed.
        put_back(&foreign.join("log"), &log);
        std::fs::rename(plant.data.join("warm"), plant.home.path("moved")).expect("it is there");
        let server = plant.server(&plant.data);
        let latest = format!("http://{}/v2/stocks/SA/trades/latest", server.address);
        let latest = Command::new("curl").args(["-s", &latest]).output().expect("curl is there");
        let latest = String::from_utf8_lossy(&latest.stdout).into_owned();
        assert!(latest.contains("\"i\":1288,"), "{latest}");
        let (code, said) = server.drained();
        assert_eq!(code, Some(0), "{said:#?}");
        assert_eq!(plant.history(), of_foreign);
        plant.good(&["audit"]);
    }
}

/// A store of a version that named no log is taken for the log's own, once, with a message.
#[test]
fn a_warm_store_that_names_no_log_is_adopted_once() {
    let plant = Plant::new();
    plant.take(&plant.data, 0..100);
    as_version_3(&plant.data.join("warm"));
    assert_eq!(plant.history(), once(std::iter::once(0..100)), "reading adopts nothing");
    let adopted = "the store did not name the log it was filled from";
    let run = || {
        let mut command = plant.command(&["archive", "run"], &plant.data);
        let shown = plant.home.shown(command.env("STK_LOG", "info"));
        assert!(shown.starts_with("exit: 0\n"), "{shown}");
        shown
    };
    let shown = run();
    assert!(shown.contains(adopted), "{shown}");
    let shown = run();
    assert!(!shown.contains(adopted), "{shown}");
    plant.take(&plant.data, 100..200);
    assert_eq!(plant.history(), once(std::iter::once(0..200)));
}

/// Makes the manifest in `warm` one of version 3, which names no log and has no seams.
fn as_version_3(warm: &Path) {
    let mut manifests =
        std::fs::read_dir(warm).expect("it is there").map(|entry| entry.expect("readable").path());
    let is_manifest = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "jsonl");
    let path = manifests.find(is_manifest).expect("there is one");
    let text = std::fs::read_to_string(&path).expect("text");
    let mut old = String::new();
    let mut edits = 0;
    for line in text.lines() {
        let mut edit: serde_json::Value = serde_json::from_str(&line[9..]).expect("an edit");
        if edit.get("log").is_some() {
            continue;
        }
        if let Some(begin) = edit.get_mut("begin") {
            begin["version"] = 3.into();
        }
        if let Some(commit) = edit.get_mut("commit") {
            commit["mark"].as_object_mut().expect("a mark").remove("seam");
        }
        if let Some(end) = edit.get_mut("end") {
            end["edits"] = edits.into();
        }
        let json = edit.to_string();
        let mut crc = flate2::Crc::new();
        crc.update(json.as_bytes());
        old.push_str(&format!("{:08x} {json}\n", crc.sum()));
        edits += 1;
    }
    assert!(text.contains("seam") && !old.contains("seam"), "{text}");
    std::fs::write(&path, old).expect("written");
}

/// A client comes back with the token of a timeline that is gone: it is told so, and given all that the
/// log has had since.
#[test]
fn a_token_of_a_lost_timeline_is_answered_with_a_reset_and_all_that_came_since() {
    let plant = Plant::new();
    let copied = plant.home.path("copied");
    plant.take(&plant.data, 0..100);
    copy(&plant.data, &copied);
    let server = plant.server(&plant.data);
    plant.bring(&server, 100..300);
    // The token behind the last trade.
    let start = "2025-03-01T00:00:00Z";
    let (_, token) = support::events(&server, start, "caught_up");
    assert_eq!(server.drained().0, Some(0));
    put_back(&copied, &plant.data);
    plant.take(&plant.data, 1000..1050);
    let server = plant.server(&plant.data);
    let (text, _) = support::events(&server, &token, "caught_up");
    assert!(text.contains(r#""kind":"reset""#), "{text}");
    for number in 1000..1050 {
        assert_eq!(text.matches(&format!("\"i\":{number},")).count(), 1, "{number}: {text}");
    }
    assert!(!text.contains("\"i\":99,"), "what it had before the copy it has: {text}");
}

/// Log and warm are lost, and the setting of the partitions has changed: the new log can't continue that of the
/// archive. It answers its own rows, names the archive, and archives nothing there. With the former number it
/// continues.
#[test]
fn a_lost_log_that_begins_again_with_more_partitions_than_its_archive_is_another_log() {
    let mut plant = Plant::new();
    let partitions = |count: &str| vec![("STK_LOG_PARTITIONS", count.to_owned())];
    plant.env = partitions("2");
    plant.take(&plant.data, 0..100);
    plant.good(&["archive", "run"]);
    std::fs::remove_dir_all(&plant.data).expect("it is there");
    plant.env = partitions("4");
    plant.take(&plant.data, 1000..1050);
    let data = plant.data.display().to_string();
    let shown = plant.run(&["history", "SA", "SB", "--data", &data, "--format", "csv"]);
    let named = "[HOME]/archive holds rows of another log";
    assert!(shown.contains(&format!("warning: nothing was read of the archive: {named}")), "{shown}");
    assert_eq!(numbers(&shown), once(std::iter::once(1000..1050)));
    for args in [&["archive", "run"][..], &["archive", "adopt", "--yes"], &["audit"]] {
        let refused = plant.run(args);
        assert!(refused.starts_with("exit: 1\n") && refused.contains(named), "{args:?}: {refused}");
        assert!(refused.contains("set archive.url to a place of its own"), "{args:?}: {refused}");
    }
    // As it says.
    let archive = std::mem::replace(&mut plant.archive, plant.home.path("own"));
    plant.good(&["archive", "run"]);
    plant.good(&["audit"]);
    assert_eq!(plant.history(), once(std::iter::once(1000..1050)));
    // Or with the number of partitions that the lost log had.
    plant.archive = archive;
    std::fs::remove_dir_all(&plant.data).expect("it is there");
    plant.env = partitions("2");
    plant.take(&plant.data, 2000..2050);
    assert_eq!(plant.history(), once([0..100, 2000..2050]));
    plant.good(&["archive", "adopt", "--yes"]);
    plant.good(&["archive", "run"]);
    assert_eq!(plant.history(), once([0..100, 2000..2050]));
}
