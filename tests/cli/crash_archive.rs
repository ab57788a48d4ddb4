//! `stk archive`, killed at each of its steps and at those of warm it goes through: what it was doing
//! is finished by running it again, and every row is in warm or in the archive.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use stk::market::{TimeRange, TradingDay};

use super::crash::{Digests, Moves, Row, archived, bring, day, kills, points, ticks};
use super::crash_machine::Machine;
use super::crash_scaled::Feed;
use super::scaled::{Scaled, digests_within};
use super::support::Home;

/// Closed days of a store: each is moved once.
const DAYS: u64 = 24;

/// Ticks of a day.
const TICKS: usize = 200;

/// Where days are moved.
enum Place {
    Machine(Machine),
    Scaled(Scaled, Home),
}

/// Closed days in warm, on their way into the archive one after the other.
struct Days {
    place: Place,
    /// What there was of each before anything was moved, the day after all of them first.
    held: Vec<Digests>,
    next: u64,
}

impl Days {
    async fn on_a_machine() -> Option<Self> {
        let machine = Machine::new();
        let server = machine.serve();
        let mut client = machine.connect(u32::MAX).await.expect("a server");
        for number in 0..=DAYS {
            bring(&mut client, &ticks(number, TICKS)).await;
        }
        machine.stop(server);
        Some(Self::of(Place::Machine(machine)).await)
    }

    /// `None` where a service is missing.
    async fn at_scale() -> Option<Self> {
        let (scaled, home) = (Scaled::new(2)?, Home::new());
        let mut feed = Feed::start(&scaled, &home).await;
        let processor = scaled.serve(&home, "processor");
        for number in 0..=DAYS {
            bring(&mut feed.client, &ticks(number, TICKS)).await;
        }
        for server in [processor, feed.server] {
            let (code, said) = server.drained();
            assert_eq!(code, Some(0), "{said:#?}");
        }
        Some(Self::of(Place::Scaled(scaled, home)).await)
    }

    async fn of(place: Place) -> Self {
        let mut days = Self { place, held: Vec::new(), next: 1 };
        days.held = days.digests(0..=DAYS).await.0;
        days
    }

    fn stk(&self, args: &[&str]) -> Command {
        match &self.place {
            Place::Machine(machine) => machine.stk(args),
            Place::Scaled(scaled, home) => scaled.stk(home, args),
        }
    }

    fn done(&self, args: &[&str]) -> String {
        let output = self.stk(args).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What there is of each of the days `numbers`, and out of how many files of the archive.
    async fn digests(&self, numbers: std::ops::RangeInclusive<u64>) -> (Vec<Digests>, u64) {
        let days: Vec<TimeRange> =
            numbers.map(day).map(|day| TimeRange { from: day.start(), to: day.end() }).collect();
        let (digests, cost) = match &self.place {
            Place::Machine(machine) => machine.digests_within(&days).await,
            Place::Scaled(scaled, _) => digests_within(&scaled.config(), &days).await,
        };
        (digests, cost.archive.files_read)
    }

    /// On the next day, kills at the `times`th `point`, and runs what was killed again.
    async fn kill(&mut self, point: &str, moves: Moves, times: u64, row: &mut Row) {
        let number = self.next;
        self.next += 1;
        let after = TradingDay::from_days_since_epoch(day(number).days_since_epoch() + 1);
        let (day, before) = (day(number).to_string(), after.to_string());
        let run = ["archive", "run", "--before", &before];
        let args = match moves {
            Moves::Run => run.to_vec(),
            Moves::Collect => {
                let Place::Machine(machine) = &self.place else {
                    panic!("S3 says itself when an object came")
                };
                leave_garbage(&machine.data.join("cold"));
                run.to_vec()
            }
            Moves::Verify => {
                self.done(&run);
                vec!["archive", "verify", "--restart"]
            }
            Moves::Restore => {
                self.done(&run);
                vec!["archive", "restore", &day, "--into-warm", "--yes"]
            }
        };
        let point = format!("{point}:{times}");
        let killed = self.stk(&args).env("STK_FAIL_POINT", &point).output().expect("the binary runs");
        let said = String::from_utf8_lossy(&killed.stderr);
        assert_eq!(killed.status.signal(), Some(9), "{point} was not reached: {said}");
        row.killed();
        // At once: the lease of a process that is no more holds nobody up.
        self.done(&args);
        let (found, files_read) = self.digests(number..=number).await;
        row.check(&found[0], &self.held[number as usize]);
        assert_eq!(files_read > 0, moves != Moves::Restore, "{point}: {files_read} files are read of {day}");
        row.finished();
    }

    async fn verify(&self) {
        assert_eq!(self.digests(0..=DAYS).await.0, self.held);
        let args = ["archive", "verify", "--restart", "--json"];
        let scrub: Value = serde_json::from_str(&self.done(&args)).expect("JSON");
        assert_eq!((&scrub["is_finished"], &scrub["faults_found"]), (&true.into(), &0.into()), "{scrub}");
    }
}

/// Leaves two objects in `archive` that no manifest names, written long ago, the first of them condemned long ago.
pub(crate) fn leave_garbage(archive: &Path) {
    let dir = archive.join("ticks/kind=trade/date=2025-01-03");
    std::fs::create_dir_all(&dir).expect("a directory");
    for name in ["part-0000-A.parquet", "part-0000-B.parquet"] {
        let file = std::fs::File::create(dir.join(name)).expect("a file");
        file.set_modified(std::time::UNIX_EPOCH).expect("set");
    }
    // The other one is not condemned yet, so that the run has to rewrite the list.
    let condemned = serde_json::json!({
        "version": 1,
        "since": { "ticks/kind=trade/date=2025-01-03/part-0000-A.parquet": "2025-01-04T00:00:00Z" },
    });
    std::fs::write(archive.join("garbage.json"), condemned.to_string()).expect("written");
}

async fn kill_at_all(at_scale: bool) {
    let new = || async { if at_scale { Days::at_scale().await } else { Days::on_a_machine().await } };
    let Some(mut days) = new().await else { return };
    for point in points() {
        let Some(moves) = archived(point, at_scale) else { continue };
        let place = if at_scale { "ClickHouse to S3" } else { "one machine" };
        let mut row = Row::new(format!("{point}, {place}")).archives();
        for kill in 0..kills() {
            if days.next > DAYS {
                days.verify().await;
                days = new().await.expect("there was one before");
            }
            // Trades, quotes and bars are moved one after the other; the rest is once in a run.
            let is_once = point == "archive.leased" || moves == Moves::Collect;
            let times = if is_once { 1 } else { 1 + kill % 3 };
            days.kill(point, moves, times, &mut row).await;
        }
    }
    days.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_an_archive_in_a_directory_is_finished_by_the_next_run() {
    kill_at_all(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_an_archive_of_clickhouse_in_s3_is_finished_by_the_next_run() {
    kill_at_all(true).await;
}
