//! The feeds of a process: opened, followed to their end, and started again after a fault that may pass.
//!
//! A full disk, a log that is away and a panic may pass: the feed is opened again after a wait, and again
//! until it brings ticks. A source that can't be read as what it is stays ended. `/readyz` says why a feed
//! is not running, for as long as it is not.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use super::intake::{FeedRunError, FeedSummary, Intake, IntakeError, run_feed};
use super::node::NodeError;
use crate::backoff::{Backoff, jitter_seed};
use crate::bus::BusError;
use crate::feed::iex::{IexFeed, Selection, Speed};
use crate::feed::kafka::{KafkaFeed, KafkaFeedMetrics};
use crate::feed::sim::{Pace, SimConfig, SimFeed};
use crate::feed::source::Source;
use crate::feed::{Feed, FeedError, Pulled};
use crate::market::{Horizon, Tick, Timestamp};
use crate::wire::record::{Origin, StoredNumbers};

/// A feed that was started again counts as well once it has run for so long, though its source is silent.
const WELL_AFTER: Duration = Duration::from_secs(30);

/// Opens a feed, as often as it has to be started.
pub(super) struct Opener {
    source: Source,
    horizon: Horizon,
    /// What a feed out of Kafka counts, over all its starts.
    kafka: KafkaFeedMetrics,
}

impl Opener {
    /// Of the feed that `source` describes, whose ticks lie within `horizon`.
    pub(super) fn new(source: Source, horizon: Horizon) -> Self {
        Self { source, horizon, kafka: KafkaFeedMetrics::default() }
    }

    /// Opens the feed; a simulated market begins when it is first asked.
    pub(super) fn open(&self) -> Result<Box<dyn Feed>, NodeError> {
        Ok(match &self.source {
            Source::Sim { rate_ticks_per_s, seed, symbols } => {
                let config = SimConfig {
                    seed: *seed,
                    symbols: *symbols,
                    rate_ticks_per_s: *rate_ticks_per_s,
                    start: Timestamp::now(),
                    count: None,
                };
                Box::new(SimFeed::new(config, Pace::Clock))
            }
            Source::Iex { path } => {
                Box::new(IexFeed::open(path, Selection::default(), Speed::Factor(1.0))?.identified(false))
            }
            Source::Kafka { path } => {
                Box::new(KafkaFeed::open_counting(path, self.kafka.clone())?.with_horizon(self.horizon))
            }
        })
    }
}

/// Why feeds are not running, by their number.
#[derive(Default)]
pub(super) struct Failures(Mutex<BTreeMap<usize, String>>);

impl Failures {
    fn held(&self) -> MutexGuard<'_, BTreeMap<usize, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All reasons.
    pub(super) fn reasons(&self) -> Vec<String> {
        self.held().values().cloned().collect()
    }
}

/// A feed whose first durable ticks end its failure.
struct Followed {
    feed: Box<dyn Feed>,
    number: usize,
    failures: Arc<Failures>,
    is_failing: bool,
}

impl Followed {
    fn is_well(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            self.failures.held().remove(&self.number);
            tracing::info!(feed = self.feed.name(), "the feed runs again");
        }
    }
}

#[async_trait::async_trait]
impl Feed for Followed {
    fn name(&self) -> &str {
        self.feed.name()
    }

    async fn next(&mut self, ticks: &mut Vec<Tick>) -> Result<Pulled, FeedError> {
        if !self.is_failing {
            return self.feed.next(ticks).await;
        }
        let next = tokio::time::timeout(WELL_AFTER, self.feed.next(ticks)).await;
        if let Ok(pulled) = next {
            return pulled;
        }
        self.is_well();
        self.feed.next(ticks).await
    }

    fn acknowledge(&mut self, calls: u64) {
        self.is_well();
        self.feed.acknowledge(calls);
    }

    fn origin(&self) -> Option<Origin> {
        self.feed.origin()
    }

    fn follows(&self) -> Option<u64> {
        self.feed.follows()
    }

    fn told(&mut self, stored: StoredNumbers) -> Result<(), FeedError> {
        self.feed.told(stored)
    }

    fn already_stored(&self) -> u64 {
        self.feed.already_stored()
    }
}

/// Whether a feed that ended so would end so again.
fn is_final(error: &FeedRunError) -> bool {
    match error {
        FeedRunError::Feed { source, .. } => {
            matches!(source, FeedError::Format { .. } | FeedError::Stored { .. })
        }
        FeedRunError::Intake { source: IntakeError::Bus(error), .. } => {
            // A log that failed takes nothing more until the server opens its stores again, its feeds too.
            matches!(error, BusError::Failed { .. } | BusError::FilledUp { .. } | BusError::Closed)
        }
        FeedRunError::Intake { source, .. } => !matches!(source, IntakeError::Producers { .. }),
    }
}

/// Runs `feed`, the process's feed `number`, to its source's end or until `stop`. After a fault that may
/// pass it is opened again by `opener`; after any other it stays ended.
pub(super) async fn follow(
    number: usize,
    opener: Opener,
    feed: Box<dyn Feed>,
    intake: Intake,
    stop: CancellationToken,
    failures: Arc<Failures>,
) {
    let mut followed = Followed { feed, number, failures: failures.clone(), is_failing: false };
    let mut backoff = Backoff::new(jitter_seed());
    let failed = |reason: String| drop(failures.held().insert(number, reason));
    loop {
        // A panic is an end like others.
        let running = AssertUnwindSafe(run_feed(&mut followed, intake.clone(), stop.clone()));
        let ran = running.catch_unwind().await;
        let mut reason = match ran {
            Ok(Ok(FeedSummary { ticks, .. })) => {
                failures.held().remove(&number);
                let already_stored = followed.already_stored();
                tracing::info!(feed = followed.name(), ticks, already_stored, "the feed has ended");
                return;
            }
            Ok(Err(error)) if is_final(&error) => {
                let reason = error.to_string();
                tracing::error!(reason, "a feed has stopped; what is stored is still served");
                return failed(reason);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("feed {} panicked", followed.name()),
        };
        if !std::mem::replace(&mut followed.is_failing, true) {
            backoff.reset();
        }
        loop {
            let wait = backoff.next();
            let wait_ms = wait.as_millis() as u64;
            tracing::error!(reason, wait_ms, "a feed has stopped and will be started again");
            failed(reason);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
            match opener.open() {
                Ok(opened) => break followed.feed = opened,
                Err(error) => reason = error.to_string(),
            }
        }
        intake.count_restart();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Bus;
    use crate::server::gateway::MemoryBus;
    use crate::server::intake::IntakeMetrics;

    struct Panics;

    #[async_trait::async_trait]
    impl Feed for Panics {
        fn name(&self) -> &'static str {
            "panics"
        }

        async fn next(&mut self, _: &mut Vec<Tick>) -> Result<Pulled, FeedError> {
            panic!("on purpose")
        }
    }

    #[tokio::test]
    async fn a_feed_that_panics_is_opened_again() {
        let bus = Arc::new(MemoryBus::new(1, 1_000));
        let metrics = IntakeMetrics::default();
        let intake = Intake::new(bus.clone(), metrics.clone());
        let (stop, failures) = (CancellationToken::new(), Arc::new(Failures::default()));
        let source: Source = "sim:rate=1000".parse().unwrap();
        let following = tokio::spawn(follow(
            3,
            Opener::new(source, Horizon::UNLIMITED),
            Box::new(Panics),
            intake,
            stop.clone(),
            failures.clone(),
        ));
        while failures.reasons().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(failures.reasons(), ["feed panics panicked"]);
        let mut reader = bus.reader(0, 0).await.unwrap();
        assert!(!reader.next(1 << 20).await.unwrap().is_empty());
        while !failures.reasons().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(metrics.feed_restarts.get(), 1);
        stop.cancel();
        following.await.unwrap();
    }
}
