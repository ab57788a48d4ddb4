//! The crash matrix: what dies where, and that every row stands there once afterwards.
//!
//! Every fail point has a place in [`machine`], [`scaled`] or [`archived`], which say how it is
//! reached; `crash_machine`, `crash_scaled` and `crash_archive` go through them. Once each in CI,
//! `STK_TEST_KILLS` times by `scripts/crash-matrix`, which makes a table of the lines that
//! [`Row`] prints.

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};

use stk::client::ingest::{IngestClient, IngestError};
use stk::fail::FAIL_POINTS;
use stk::feed::sim::{Sim, SimConfig};
use stk::market::{Cancel, RowDigest, Status, Tape, Tick, TimeRange, Timestamp, TradingDay};
use tokio::sync::oneshot;

use super::support::{self, PATIENCE};

/// The digest of all rows of each kind.
pub(crate) type Digests = BTreeMap<&'static str, RowDigest>;

/// The producer of all ticks.
pub(crate) const PRODUCER: u64 = 42;

/// Ticks of a batch.
const BATCH_TICKS: usize = 100;

/// How often the process is killed at each point.
pub(crate) fn kills() -> u64 {
    std::env::var("STK_TEST_KILLS").map_or(1, |kills| kills.parse().expect("a number"))
}

/// The fail points, or those that begin with what `STK_TEST_POINT` says.
pub(crate) fn points() -> impl Iterator<Item = &'static str> {
    let prefix = std::env::var("STK_TEST_POINT").unwrap_or_default();
    of_matrix().filter(move |point| point.starts_with(&prefix))
}

/// The fail points of the matrix: commands that stand alone are killed by tests of their own.
fn of_matrix() -> impl Iterator<Item = &'static str> {
    let stands_alone =
        |point: &str| ["copy.", "backup.", "repair.", "give_up."].iter().any(|name| point.starts_with(name));
    FAIL_POINTS.iter().copied().filter(move |point| !stands_alone(point))
}

/// When a process with a fail point gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// By itself, as it starts.
    Starting,
    /// While it takes ticks in.
    Running,
    /// When it is asked to end.
    Ending,
    /// Never where this is asked: see the other tables.
    Elsewhere,
}

/// When `stk serve` with a data directory of its own reaches `point`.
pub(crate) fn machine(point: &str) -> When {
    match point {
        "log.local.begun"
        | "warm.local.manifest"
        | "processor.claimed"
        | "processor.replayed"
        | "processor.restored" => When::Starting,
        "log.local.written"
        | "log.local.synced"
        | "log.local.rolled"
        | "log.local.dropped"
        | "log.local.drop_noted"
        | "warm.local.writing"
        | "warm.local.segment"
        | "warm.local.checkpoint"
        | "warm.local.committed"
        | "warm.local.superseded"
        | "warm.local.merged"
        | "warm.local.replaced"
        | "warm.local.removed"
        | "processor.stored"
        | "processor.rebuilt" => When::Running,
        "log.local.ended"
        | "log.local.sealed"
        | "log.local.settled"
        | "log.local.emptied"
        | "hot.memory.checkpoint"
        | "processor.drained" => When::Ending,
        // Nobody takes over from a process that has the disk.
        "processor.handed_over" => When::Elsewhere,
        _ if archived(point, false).is_some() || archived(point, true).is_some() => When::Elsewhere,
        _ if is_of(point, &["log.kafka", "hot.redis", "warm.clickhouse"]) => When::Elsewhere,
        _ => panic!("the fail point {point} has no place in the crash matrix"),
    }
}

/// When a process of those that share Kafka, Redis and `ClickHouse` reaches `point`.
pub(crate) fn scaled(point: &str) -> When {
    match point {
        "warm.clickhouse.claimed"
        | "warm.clickhouse.begun"
        | "processor.claimed"
        | "processor.replayed"
        | "processor.restored" => When::Starting,
        "log.kafka.delivered"
        | "log.kafka.committed"
        | "log.kafka.trimmed"
        | "hot.redis.compared"
        | "hot.redis.written"
        | "warm.clickhouse.pending"
        | "warm.clickhouse.rows"
        | "warm.clickhouse.marked"
        | "processor.stored"
        | "processor.rebuilt"
        | "processor.handed_over" => When::Running,
        "processor.drained" => When::Ending,
        _ if archived(point, false).is_some() || archived(point, true).is_some() => When::Elsewhere,
        _ if is_of(point, &["log.local", "hot.memory", "warm.local"]) => When::Elsewhere,
        _ => panic!("the fail point {point} has no place in the crash matrix"),
    }
}

fn is_of(point: &str, stores: &[&str]) -> bool {
    stores.iter().any(|store| point.strip_prefix(store).is_some_and(|step| step.starts_with('.')))
}

/// The command of `stk archive` that reaches a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moves {
    Run,
    /// A run that finds what nothing names; a store must let it seem old.
    Collect,
    Verify,
    Restore,
}

/// What moves days past `point`, with warm and the archive in directories, or in ClickHouse and S3.
/// `None`: nothing does.
pub(crate) fn archived(point: &str, at_scale: bool) -> Option<Moves> {
    let warm = ["warm.local.", "warm.clickhouse."][usize::from(at_scale)];
    match point {
        "archive.condemned" | "archive.removed" => (!at_scale).then_some(Moves::Collect),
        "archive.scrubbed" => Some(Moves::Verify),
        _ if point.starts_with("archive.") => Some(Moves::Run),
        _ => match point.strip_prefix(warm)? {
            "sealed" | "dropping" | "dropped" | "part_dropped" => Some(Moves::Run),
            "restoring" | "restored_rows" | "restore_booked" | "restored" => Some(Moves::Restore),
            _ => None,
        },
    }
}

#[test]
fn every_fail_point_has_its_place() {
    for point in of_matrix() {
        let by_serving = [machine(point), scaled(point)];
        let by_moving = [archived(point, false), archived(point, true)];
        assert!(
            by_serving.iter().any(|when| *when != When::Elsewhere) || by_moving.iter().any(Option::is_some),
            "nothing kills at {point}"
        );
    }
}

/// A line of the matrix, told when it is let go of, whatever came of it.
pub(crate) struct Row {
    target: String,
    kills: u64,
    lost: u64,
    doubled: u64,
    /// Archives that were finished by running again; none where nothing was archived.
    finished: Option<u64>,
}

impl Row {
    pub(crate) fn new(target: impl Into<String>) -> Self {
        Self { target: target.into(), kills: 0, lost: 0, doubled: 0, finished: None }
    }

    /// One more was killed.
    pub(crate) fn killed(&mut self) {
        self.kills += 1;
    }

    /// An archive was run again, to its end.
    pub(crate) fn finished(&mut self) {
        *self.finished.get_or_insert(0) += 1;
    }

    /// All of them.
    pub(crate) fn all_finished(&mut self) {
        self.finished = Some(self.kills);
    }

    /// An archive is to be run again.
    pub(crate) fn archives(mut self) -> Self {
        self.finished = Some(0);
        self
    }

    /// Compares all rows with those there should be.
    pub(crate) fn check(&mut self, found: &Digests, expected: &Digests) {
        for (kind, expected) in expected {
            let found = found[kind];
            self.lost += expected.rows.saturating_sub(found.rows);
            self.doubled += found.rows.saturating_sub(expected.rows);
            if found.rows == expected.rows && found != *expected {
                // As many, and others: at least one is gone and one too many is there.
                self.lost += 1;
                self.doubled += 1;
            }
        }
        assert_eq!(found, expected, "{}: after {} kills", self.target, self.kills);
    }

    /// As [`Row::check`], for who has counted.
    pub(crate) fn counted(&mut self, lost: u64, doubled: u64) {
        self.lost += lost;
        self.doubled += doubled;
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        let Self { target, kills, lost, doubled, finished } = self;
        let finished = finished.map_or("-".to_owned(), |finished| format!("{finished} of {kills}"));
        let failed = if std::thread::panicking() { "failed" } else { "passed" };
        eprintln!("\nmatrix\t{target}\t{kills}\t{lost}\t{doubled}\t{finished}\t{failed}");
    }
}

/// The trading day of round `number`: the first is after all others, whose days are closed to it.
pub(crate) fn day(number: u64) -> TradingDay {
    let first: TradingDay = if number == 0 { "2025-12-01" } else { "2025-01-06" }.parse().expect("a day");
    // Mondays to Fridays.
    TradingDay::from_days_since_epoch(first.days_since_epoch() + (number / 5 * 7 + number % 5) as i32)
}

/// The ticks of round `number`, the last of which breaks the first trade.
pub(crate) fn ticks(number: u64, count: usize) -> Vec<Tick> {
    let day = day(number);
    let start = format!("{day}T15:00:00Z").parse().expect("a time");
    let config = SimConfig { seed: number, symbols: 20, rate_ticks_per_s: 500.0, start, count: None };
    let mut ticks = Vec::with_capacity(count);
    Sim::new(config).fill(&mut ticks, count - 1);
    let trade = ticks.iter().find_map(|tick| match tick {
        Tick::Trade(trade) => Some(*trade),
        _ => None,
    });
    let trade = trade.expect("there are trades");
    let ts = ticks.last().expect("there are ticks").ts();
    ticks.push(Tick::Cancel(Box::new(Cancel {
        symbol: trade.symbol,
        ts,
        recv_ts: ts,
        id: trade.id,
        price: trade.price,
        size: trade.size,
        exchange: trade.exchange,
        action: b'C',
        tape: trade.tape,
    })));
    assert!(ticks.iter().all(|tick| tick.ts().trading_day() == day), "all of {day}");
    ticks
}

/// Sends `ticks` and waits until all of them are durable.
pub(crate) async fn bring(client: &mut IngestClient, ticks: &[Tick]) {
    for batch in ticks.chunks(BATCH_TICKS) {
        client.send(batch).await.expect("taken in the end");
    }
    client.flush().await.expect("acknowledged in the end");
}

/// The times of all rounds, which are after those of [`weigh_down`].
pub(crate) fn rounds() -> TimeRange {
    TimeRange { from: "2010-01-04T00:00:00Z".parse().expect("a time"), to: Timestamp::MAX }
}

/// Appends `megabytes` to the log of the server that takes ticks at `ingest`: statuses of a day before all
/// rounds. An error if the server dies meanwhile.
pub(crate) async fn weigh_down(ingest: &str, megabytes: usize) -> Result<(), IngestError> {
    let ts: Timestamp = "2001-01-02T15:00:00Z".parse().expect("a time");
    let status = Tick::Status(Box::new(Status {
        symbol: "BALLAST".parse().expect("a symbol"),
        ts,
        recv_ts: ts,
        code: "H".into(),
        message: "x".repeat(1 << 20).into(),
        reason_code: "".into(),
        reason_message: "".into(),
        tape: Tape::A,
    }));
    // No other call has the same.
    let producer = Timestamp::now().nanos() as u64;
    let mut client = support::ingest(ingest, producer, 0).await?;
    for _ in 0..megabytes {
        client.send(std::slice::from_ref(&status)).await?;
        client.flush().await?;
    }
    Ok(())
}

/// What stands in a store with all of `rounds`.
pub(crate) fn all_of(rounds: &[Digests]) -> Digests {
    let mut all = Digests::new();
    for (kind, digest) in rounds.iter().flatten() {
        all.entry(kind).or_default().add(*digest);
    }
    all
}

/// A process that is to die at a fail point, killed when dropped if it has not.
pub(crate) struct Doomed {
    pid: rustix::process::Pid,
    ended: oneshot::Receiver<Output>,
    is_over: bool,
    point: String,
}

impl Doomed {
    pub(crate) fn start(mut command: Command, point: &str) -> Self {
        command.env("STK_FAIL_POINT", point).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("the binary runs");
        let pid = rustix::process::Pid::from_child(&child);
        let (end, ended) = oneshot::channel();
        std::thread::spawn(move || {
            // Nobody may want to know any more.
            child.wait_with_output().map(|output| end.send(output))
        });
        Self { pid, ended, is_over: false, point: point.to_owned() }
    }

    /// Asks it to end.
    pub(crate) fn ask_to_end(&self) {
        rustix::process::kill_process(self.pid, rustix::process::Signal::TERM).expect("it runs");
    }

    /// Waits until it dies there.
    pub(crate) async fn die(mut self) {
        let output = tokio::time::timeout(4 * PATIENCE, &mut self.ended).await;
        let output = output.unwrap_or_else(|_| panic!("{} was not reached", self.point));
        self.is_over = true;
        let output = output.expect("it was waited for");
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(signal, Some(9), "{} was not reached: {said}", self.point);
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::KILL);
        }
    }
}
