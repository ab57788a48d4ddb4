//! `stk serve` on one machine, killed at each durable step of log, hot and warm, and of the processor.

use std::path::PathBuf;
use std::process::Command;

use stk::client::ingest::{IngestClient, IngestError};
use stk::config::Resolved;
use stk::market::TimeRange;
use stk::tiering::history::HistoryStats;
use tokio::sync::Notify;

use super::address::OwnAddress;
use super::crash::{
    self, Digests, Doomed, PRODUCER, Row, When, all_of, bring, day, kills, points, ticks, weigh_down,
};
use super::scaled::digests_within;
use super::support::{self, Home, PATIENCE, Server, serve};

/// Ticks of a round: some blocks, as many as compaction puts together.
const TICKS: usize = 2_500;

/// One partition, and small blocks, of which a round makes several.
const ENV: [(&str, &str); 8] = [
    ("STK_LOG_PARTITIONS", "1"),
    ("STK_LOG_FREE_BYTES_MIN", "0"),
    ("STK_LOG_RETENTION_BYTES", "67108864"),
    ("STK_PROCESSOR_ROWS_MAX", "1000"),
    ("STK_PROCESSOR_BLOCK_AGE_MS_MAX", "500"),
    ("STK_ARCHIVE_EVERY_MINUTES", "0"),
    ("STK_ARCHIVE_SETTLE_MINUTES", "0"),
    ("STK_WARM_KEEP_DAYS", "1"),
];

/// A data directory, and where whatever serves it takes ticks.
pub(crate) struct Machine {
    home: Home,
    pub(crate) data: PathBuf,
    /// So that the client finds the next process.
    ingest: OwnAddress,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let home = Home::new();
        let data = home.path("data");
        Self { home, data, ingest: OwnAddress::new() }
    }

    /// With the ticks of round 0 in, and nothing running; and who brought them.
    async fn begun() -> (Self, IngestClient) {
        let machine = Self::new();
        let server = machine.serve();
        let mut client = machine.connect(u32::MAX).await.expect("a server");
        bring(&mut client, &ticks(0, TICKS)).await;
        machine.stop(server);
        (machine, client)
    }

    /// `stk` with `args` on the data directory.
    pub(crate) fn stk(&self, args: &[&str]) -> Command {
        let mut command = self.home.stk(args);
        command.envs(ENV).env("STK_DATA_DIR", &self.data);
        command
    }

    pub(crate) fn serve(&self) -> Server {
        Server::start_with(&self.home, &self.data, &self.ingest, &[], &ENV)
    }

    fn doomed(&self, point: &str) -> Doomed {
        let command = serve(&self.home, &self.data, Some("127.0.0.1:0"), &self.ingest, &[], &ENV);
        Doomed::start(command, point)
    }

    pub(crate) async fn connect(&self, tries_max: u32) -> Result<IngestClient, IngestError> {
        support::ingest(&self.ingest, PRODUCER, tries_max).await
    }

    /// The digests of all that it holds but ballast, with nothing running.
    async fn digests(&self) -> Digests {
        self.digests_within(&[crash::rounds()]).await.0.remove(0)
    }

    /// The same of each of `ranges`, and what it cost.
    ///
    /// Reads a copy: a process that another test begins at this moment inherits the locks of what is
    /// open here, and holds them until it has become its program.
    pub(crate) async fn digests_within(&self, ranges: &[TimeRange]) -> (Vec<Digests>, HistoryStats) {
        let copy = self.home.path("copy");
        let copied = Command::new("cp").arg("-a").arg(&self.data).arg(&copy).status();
        assert!(copied.expect("cp is there").success(), "{} is copied", self.data.display());
        let flags = [("data.dir", copy.display().to_string(), "--data")];
        let env = ENV.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Resolved::new(None, env, &flags).expect("good settings").config();
        let digests = digests_within(&config, ranges).await;
        std::fs::remove_dir_all(copy).expect("removed");
        digests
    }

    /// Ends what serves it, in good order.
    pub(crate) fn stop(&self, server: Server) {
        let (code, said) = server.stop();
        assert_eq!(code, Some(0), "{}: {said:#?}", self.data.display());
    }
}

/// What one machine that nothing happens to has of each of `rounds` rounds of so many ticks after
/// round 0, which comes first.
pub(crate) async fn undisturbed(rounds: u64, ticks_of_round: usize) -> Vec<Digests> {
    let machine = Machine::new();
    let server = machine.serve();
    let mut client = machine.connect(u32::MAX).await.expect("a server");
    for number in 0..=rounds {
        bring(&mut client, &ticks(number, ticks_of_round)).await;
    }
    machine.stop(server);
    let days: Vec<TimeRange> =
        (0..=rounds).map(day).map(|day| TimeRange { from: day.start(), to: day.end() }).collect();
    let (held, _) = machine.digests_within(&days).await;
    for (number, held) in (0..).zip(&held) {
        let ticks: u64 = held.iter().filter(|(kind, _)| **kind != "bar").map(|(_, held)| held.rows).sum();
        assert_eq!(ticks, ticks_of_round as u64, "of {}", day(number));
        assert!(held["bar"].rows > 0 && held["cancel"].rows > 0, "{held:?}");
    }
    held
}

/// Megabytes beside ticks that lead to `point`.
fn ballast(point: &str) -> usize {
    match point {
        // More than a segment of the log.
        "log.local.rolled" | "log.local.dropped" | "log.local.drop_noted" => 10,
        // A journal that is worth emptying.
        "log.local.settled" | "log.local.emptied" => 6,
        _ => 0,
    }
}

async fn kill_at(point: &str, held: &[Digests]) {
    let mut row = Row::new(format!("{point}, one machine"));
    let (machine, mut client) = Machine::begun().await;
    if matches!(point, "log.local.dropped" | "log.local.drop_noted") {
        // As much as is kept.
        let server = machine.serve();
        weigh_down(&machine.ingest, 64).await.expect("a server");
        machine.stop(server);
    }
    let (when, ballast) = (crash::machine(point), ballast(point));
    for kill in 1..=kills() {
        // Taken from the log again.
        let is_lost = match point {
            "warm.local.manifest" => Some("warm"),
            "processor.replayed" => Some("hot"),
            _ => None,
        };
        if let Some(store) = is_lost {
            std::fs::remove_dir_all(machine.data.join(store)).expect("removed");
        }
        // Every other time the first such step is through.
        let is_repeated = when == When::Running && ballast == 0 && point != "processor.rebuilt";
        let times = if is_repeated { 2 - kill % 2 } else { 1 };
        let doomed = machine.doomed(&format!("{point}:{times}"));
        let round = ticks(kill, TICKS);
        let brought = Notify::new();
        let bringing = async {
            bring(&mut client, &round).await;
            // It may die of that.
            let _ = weigh_down(&machine.ingest, ballast).await;
            brought.notify_one();
        };
        let killing = async {
            if when == When::Ending {
                tokio::time::timeout(4 * PATIENCE, brought.notified()).await.expect("a server");
                doomed.ask_to_end();
            }
            doomed.die().await;
            machine.serve()
        };
        let ((), next) = tokio::join!(bringing, killing);
        row.killed();
        machine.stop(next);
        row.check(&machine.digests().await, &all_of(&held[..=kill as usize]));
    }
}

async fn kill_at_all(prefixes: &[&str]) {
    let held = undisturbed(kills(), TICKS).await;
    for point in points() {
        let is_asked = prefixes.iter().any(|prefix| point.starts_with(prefix));
        if is_asked && crash::machine(point) != When::Elsewhere {
            kill_at(point, &held).await;
        }
    }
}

// Two, so that they go on side by side.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_of_log_hot_and_processor_every_row_stands_once() {
    kill_at_all(&["log.", "hot.", "processor.", "archive."]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_of_warm_every_row_stands_once() {
    kill_at_all(&["warm."]).await;
}
