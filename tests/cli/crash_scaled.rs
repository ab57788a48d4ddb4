//! Processes that share Kafka, Redis and `ClickHouse`, killed at each of their durable steps: the next
//! one takes over, and every row stands there once.

use std::process::Command;

use stk::client::ingest::IngestClient;

use super::address::OwnAddress;
use super::crash::{
    self, Digests, Doomed, PRODUCER, Row, When, all_of, bring, kills, points, ticks, weigh_down,
};
use super::crash_machine::undisturbed;
use super::scaled::Scaled;
use super::support::{self, Home, Server};

/// Ticks of a round.
const TICKS: usize = 400;

/// Rounds after the first that a store takes, before another begins: history is read after each.
const ROUNDS: u64 = 20;

/// More than the log keeps of what is in warm.
const RETENTION_MEGABYTES: usize = 64;

/// Processes that are killed at the same time as they drop records.
const TRIMS_AT_ONCE: u64 = 5;

/// A process that takes ticks in, and who brings them.
pub(crate) struct Feed {
    pub(crate) server: Server,
    pub(crate) client: IngestClient,
    /// So that the client finds the next process.
    ingest: OwnAddress,
}

impl Feed {
    pub(crate) async fn start(scaled: &Scaled, home: &Home) -> Self {
        let ingest = OwnAddress::new();
        let server = Server::run(Self::command(scaled, home, &ingest), true);
        let client = support::ingest(&ingest, PRODUCER, u32::MAX).await.expect("a server");
        Self { server, client, ingest }
    }

    fn command(scaled: &Scaled, home: &Home, ingest: &str) -> Command {
        let listen = ["--listen", "127.0.0.1:0", "--ingest-listen", ingest];
        scaled.stk(home, &[&["serve", "--roles", "feed"], &listen[..]].concat())
    }
}

/// Stores that processes share, and the process that fills the log.
struct Shared {
    scaled: Scaled,
    home: Home,
    feed: Feed,
    /// Rounds in it.
    rounds: u64,
    /// Groups that processors have had.
    groups: u64,
}

impl Shared {
    /// With the ticks of round 0 in warm. `None` where a service is missing.
    async fn new(partitions: u16) -> Option<Self> {
        let (scaled, home) = (Scaled::new(partitions)?, Home::new());
        let feed = Feed::start(&scaled, &home).await;
        let mut shared = Self { scaled, home, feed, rounds: 0, groups: 0 };
        bring(&mut shared.feed.client, &ticks(0, TICKS)).await;
        shared.rounds = 1;
        shared.drain();
        Some(shared)
    }

    /// A processor in a group of its own: the brokers let it have the partitions of one that was killed
    /// before they know that it is gone.
    fn processor(&mut self) -> Command {
        self.groups += 1;
        self.processor_beside()
    }

    /// A processor in the group of the one before.
    fn processor_beside(&self) -> Command {
        let mut command =
            self.scaled.stk(&self.home, &["serve", "--roles", "processor", "--listen", "127.0.0.1:0"]);
        command.env("STK_LOG_RETENTION_BYTES", (RETENTION_MEGABYTES << 20).to_string());
        command.env("STK_LOG_KAFKA_GROUP", format!("{}-{}", self.scaled.name(), self.groups));
        command
    }

    /// Takes in all that is in the log, in good order.
    fn drain(&mut self) {
        let (code, said) = Server::run(self.processor(), false).drained();
        assert_eq!(code, Some(0), "{said:#?}");
    }

    /// Kills a process at the `times`th `point`, while another round is brought.
    async fn kill(&mut self, point: &str, times: u64) {
        let armed = format!("{point}:{times}");
        let round = ticks(self.rounds, TICKS);
        self.rounds += 1;
        match point {
            "log.kafka.delivered" => {
                let command = Feed::command(&self.scaled, &self.home, &self.feed.ingest);
                self.feed.server.end();
                let doomed = Doomed::start(command, &armed);
                let brought = bring(&mut self.feed.client, &round);
                let again = async {
                    doomed.die().await;
                    let command = Feed::command(&self.scaled, &self.home, &self.feed.ingest);
                    self.feed.server = Server::run(command, true);
                };
                tokio::join!(again, brought);
            }
            // As it lets go of a partition that another is to have.
            "log.kafka.committed" | "processor.handed_over" => {
                let mut command = self.processor();
                command.env("STK_FAIL_POINT", &armed);
                let doomed = Server::run(command, false);
                doomed.await_ready();
                bring(&mut self.feed.client, &round).await;
                let other = Server::run(self.processor_beside(), false);
                assert_eq!(doomed.killed(), Some(9), "{armed} was not reached");
                other.kill();
            }
            _ => {
                let mut command = self.processor();
                if point == "processor.replayed" {
                    // Redis has nothing of the log.
                    command.env("STK_HOT_REDIS_PREFIX", format!("{}-{}:", self.scaled.name(), self.groups));
                }
                if crash::scaled(point) == When::Ending {
                    command.env("STK_FAIL_POINT", &armed);
                    let doomed = Server::run(command, false);
                    doomed.await_ready();
                    bring(&mut self.feed.client, &round).await;
                    doomed.ask_to_end();
                    assert_eq!(doomed.killed(), Some(9), "{armed} was not reached");
                } else {
                    let doomed = Doomed::start(command, &armed);
                    bring(&mut self.feed.client, &round).await;
                    doomed.die().await;
                }
            }
        }
    }

    fn end(self) {
        let (code, said) = self.feed.server.stop();
        assert_eq!(code, Some(0), "{said:#?}");
    }
}

/// Whether a life may reach it no more than once.
fn is_once(point: &str) -> bool {
    matches!(point, "log.kafka.committed" | "processor.handed_over" | "processor.rebuilt")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_the_next_process_takes_over_and_every_row_stands_once() {
    let Some(mut shared) = Shared::new(2).await else { return };
    let held = undisturbed(ROUNDS, TICKS).await;
    for point in points() {
        if crash::scaled(point) == When::Elsewhere || point == "log.kafka.trimmed" {
            continue;
        }
        let mut row = Row::new(format!("{point}, at scale"));
        for kill in 0..kills() {
            if shared.rounds > ROUNDS {
                shared.end();
                shared = Shared::new(2).await.expect("it was there before");
            }
            shared.kill(point, if is_once(point) { 1 } else { 1 + kill % 2 }).await;
            row.killed();
            shared.drain();
            row.check(&shared.scaled.digests().await, &all_of(&held[..shared.rounds as usize]));
        }
    }
    shared.end();
}

/// Killed once it has dropped records from the log, which it does once a minute.
async fn kill_at_trim(point: &str) -> Option<Digests> {
    let mut shared = Shared::new(1).await?;
    weigh_down(&shared.feed.ingest, RETENTION_MEGABYTES + 8).await.expect("a server");
    shared.kill(point, 1).await;
    shared.drain();
    let found = shared.scaled.digests().await;
    shared.end();
    Some(found)
}

#[test]
fn killed_as_it_drops_records_from_kafka_every_row_stands_once() {
    let point = "log.kafka.trimmed";
    if !points().any(|asked| asked == point) {
        return;
    }
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let held = runtime().block_on(undisturbed(1, TICKS));
    let mut row = Row::new(format!("{point}, at scale"));
    let mut left = kills();
    while left > 0 {
        // Some at once: each waits most of the time.
        let count = left.min(TRIMS_AT_ONCE);
        left -= count;
        let trims: Vec<_> = std::thread::scope(|scope| {
            let trim = || runtime().block_on(kill_at_trim(point));
            let trims: Vec<_> = (0..count).map(|_| scope.spawn(trim)).collect();
            trims.into_iter().map(|trim| trim.join().expect("no panic")).collect()
        });
        for found in trims {
            let Some(found) = found else { return };
            row.killed();
            row.check(&found, &all_of(&held));
        }
    }
}
