//! The door to the log: ticks in, records out, durable.
//!
//! Feeds of this process and the ingest endpoint go through it alike.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusError, Durable};
use crate::feed::{BATCH_TICKS_MAX, Feed, FeedError, Pulled};
use crate::market::{Tick, Timestamp};
use crate::wire::record::{Origin, RecordEncoder};

/// How many batches of a feed may wait for the disk; past it the feed waits.
pub const BATCHES_IN_FLIGHT_MAX: usize = 64;

/// What goes through intakes.
#[derive(Clone, Debug, Default)]
pub struct IntakeMetrics {
    /// Ticks appended.
    pub ticks: Counter,
    /// Batches appended.
    pub batches: Counter,
    /// Times that a feed had to wait since [`BATCHES_IN_FLIGHT_MAX`] batches were not yet durable.
    pub waits: Counter,
    /// Batches of feeds that are not yet durable.
    pub in_flight: Gauge<i64, AtomicI64>,
    /// From the receipt of the last batch's last tick to its append, ms.
    pub lag_ms: Gauge<i64, AtomicI64>,
    /// Batches that the log refused.
    pub refusals: Counter,
}

impl IntakeMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("intake_ticks", "Ticks appended to the log", self.ticks.clone());
        registry.register("intake_batches", "Batches appended to the log", self.batches.clone());
        registry.register("intake_waits", "Times a feed waited for the disk", self.waits.clone());
        registry.register(
            "intake_in_flight_batches",
            "Feeds' batches not yet durable",
            self.in_flight.clone(),
        );
        registry.register("intake_lag_ms", "From receipt to append, milliseconds", self.lag_ms.clone());
        registry.register("intake_refusals", "Batches that the log refused", self.refusals.clone());
    }
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// More ticks than a record holds.
    #[error("a batch of {ticks} ticks; at most {BATCH_TICKS_MAX} fit")]
    TooMany {
        /// How many there were.
        ticks: usize,
    },
    /// The log refused.
    #[error(transparent)]
    Bus(#[from] BusError),
}

/// A batch that can be read in the log, and is accepted once `durable` has resolved.
pub struct Appended {
    /// The partition of each record, in the order of `durable`'s offsets.
    pub partitions: Vec<u16>,
    /// Resolves with the records' offsets.
    pub durable: Durable,
}

/// Encodes batches and appends them. A clone shares the log and the metrics, with buffers of its
/// own: one for each feed or connection.
pub struct Intake {
    bus: Arc<dyn Bus>,
    encoders: Vec<RecordEncoder>,
    metrics: IntakeMetrics,
}

impl Clone for Intake {
    fn clone(&self) -> Self {
        Self::new(self.bus.clone(), self.metrics.clone())
    }
}

impl Intake {
    /// An intake into `bus`.
    pub fn new(bus: Arc<dyn Bus>, metrics: IntakeMetrics) -> Self {
        let encoders = (0..bus.partitions()).map(|_| RecordEncoder::new()).collect();
        Self { bus, encoders, metrics }
    }

    /// Appends `ticks` as one record in each partition that has some; a gap of no single symbol
    /// goes to every partition. Waits while the disk is behind.
    ///
    /// `origin.sequence` must rise from batch to batch of a producer; a batch sent again under the
    /// same origin, after an error or a crash, counts once.
    pub async fn append(&mut self, ticks: &[Tick], origin: Origin) -> Result<Appended, IntakeError> {
        if ticks.len() > BATCH_TICKS_MAX {
            return Err(IntakeError::TooMany { ticks: ticks.len() });
        }
        let count = self.encoders.len() as u16;
        for tick in ticks {
            match tick.symbol() {
                Some(symbol) => self.encoders[usize::from(symbol.partition(count))].push(tick),
                None => self.encoders.iter_mut().for_each(|encoder| encoder.push(tick)),
            }
        }
        let filled = (0..count).zip(&mut self.encoders).filter(|(_, encoder)| !encoder.is_empty());
        let records: Vec<_> =
            filled.map(|(partition, encoder)| (partition, encoder.finish(origin))).collect();
        let partitions: Vec<u16> = records.iter().map(|(partition, _)| *partition).collect();
        if records.is_empty() {
            return Ok(Appended { partitions, durable: Box::pin(async { Ok(Vec::new()) }) });
        }
        let durable = self.bus.append(records).await.inspect_err(|_| {
            self.metrics.refusals.inc();
        })?;
        self.metrics.ticks.inc_by(ticks.len() as u64);
        self.metrics.batches.inc();
        if let Some(last) = ticks.last() {
            self.metrics.lag_ms.set(Timestamp::now().nanos_since(last.recv_ts()) / 1_000_000);
        }
        Ok(Appended { partitions, durable })
    }
}

/// Why a feed came to its end before its source did.
#[derive(Debug, thiserror::Error)]
pub enum FeedRunError {
    /// The feed can't go on.
    #[error("feed {feed}: {source}")]
    Feed {
        /// Which feed.
        feed: String,
        /// What it said.
        source: FeedError,
    },
    /// Its ticks were not taken.
    #[error("feed {feed}: {source}")]
    Intake {
        /// Which feed.
        feed: String,
        /// What the log said.
        source: IntakeError,
    },
}

/// What a feed brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedSummary {
    /// Ticks that are durable.
    pub ticks: u64,
    /// Calls of [`Feed::next`] whose ticks are durable.
    pub calls: u64,
}

/// The producer of a run of a feed: no other run has the same.
fn producer(feed: &str, start: Timestamp) -> u64 {
    let words = feed.bytes().map(u64::from).chain(std::iter::once(start.nanos() as u64));
    words.fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
    })
}

/// Pulls `feed` into the log until its source ends or `stop` is cancelled, and returns when all
/// that was pulled is durable and acknowledged.
///
/// Errors are final; what was pulled before is durable, but for what the log refused.
pub async fn run_feed(
    mut feed: Box<dyn Feed>,
    mut intake: Intake,
    stop: CancellationToken,
) -> Result<FeedSummary, FeedRunError> {
    let name = feed.name().to_owned();
    let intake_error = |source: IntakeError| FeedRunError::Intake { feed: name.clone(), source };
    let mut origin = Origin { producer: producer(&name, Timestamp::now()), sequence: 0 };
    let mut ticks: Vec<Tick> = Vec::with_capacity(BATCH_TICKS_MAX);
    let mut in_flight: FuturesOrdered<BoxFuture<'static, Result<u64, BusError>>> = FuturesOrdered::new();
    let mut summary = FeedSummary::default();
    let mut failed = None;
    let mut pulling = true;
    while pulling || !in_flight.is_empty() {
        if pulling && in_flight.len() == BATCHES_IN_FLIGHT_MAX {
            intake.metrics.waits.inc();
        }
        tokio::select! {
            biased;
            () = stop.cancelled(), if pulling => pulling = false,
            Some(durable) = in_flight.next(), if !in_flight.is_empty() => {
                intake.metrics.in_flight.dec();
                match durable {
                    Ok(count) => {
                        summary.ticks += count;
                        summary.calls += 1;
                        feed.acknowledge(summary.calls);
                    }
                    // Those behind it can't be acknowledged any more: calls are counted from the first.
                    Err(source) => {
                        intake.metrics.in_flight.dec_by(in_flight.len() as i64);
                        return Err(intake_error(source.into()));
                    }
                }
            }
            pulled = feed.next(&mut ticks), if pulling && in_flight.len() < BATCHES_IN_FLIGHT_MAX => {
                match pulled {
                    Ok(Pulled::End) => pulling = false,
                    Ok(Pulled::Ticks) => {
                        origin.sequence += 1;
                        let count = ticks.len() as u64;
                        match intake.append(&ticks, origin).await {
                            Ok(appended) => {
                                intake.metrics.in_flight.inc();
                                in_flight.push_back(Box::pin(async move { appended.durable.await.map(|_| count) }));
                            }
                            Err(source) => {
                                failed = Some(intake_error(source));
                                pulling = false;
                            }
                        }
                        ticks.clear();
                    }
                    Err(source) => {
                        failed = Some(FeedRunError::Feed { feed: name.clone(), source });
                        pulling = false;
                    }
                }
            }
        }
    }
    failed.map_or(Ok(summary), Err)
}
