//! The door to the log: ticks in, records out, durable.
//!
//! Feeds of this process and the ingest endpoint go through it alike.

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::producers::{Producers, Refusal};
use crate::bus::{Bus, BusError, Durable};
use crate::feed::{AHEAD_LOG_PERIOD, Ahead, BATCH_TICKS_MAX, Feed, FeedError, Pulled};
use crate::market::{Horizon, Tick, Timestamp};
use crate::wire::record::{Origin, RecordEncoder, checksum};

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
    /// Ticks that were not taken since their time is too far ahead of the clock.
    pub ahead: Counter,
    /// Times a feed was started again after a fault.
    pub feed_restarts: Counter,
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
        registry.register(
            "intake_ahead_ticks",
            "Ticks refused or dropped: their time is too far ahead of the clock",
            self.ahead.clone(),
        );
        registry.register(
            "intake_feed_restarts",
            "Times a feed was started again after a fault",
            self.feed_restarts.clone(),
        );
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
    /// A tick's time is too far ahead of the clock.
    #[error(transparent)]
    Ahead(#[from] Ahead),
    /// Readers would not keep the batch once.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It is not known which batches the log holds.
    #[error("the last numbers of producers can't be read: {reason}; send the batch again later")]
    Producers {
        /// What warm or the log said.
        reason: String,
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
    pub durable: BoxFuture<'static, Result<Vec<u64>, IntakeError>>,
}

/// Encodes batches and appends them. A clone shares the log and the metrics, with buffers of its
/// own: one for each feed or connection.
pub struct Intake {
    bus: Arc<dyn Bus>,
    producers: Arc<Producers>,
    encoders: Vec<RecordEncoder>,
    metrics: IntakeMetrics,
    horizon: Horizon,
    /// When a tick that is too far ahead was last logged, by any of the clones.
    ahead_told_at: Arc<Mutex<Option<Instant>>>,
}

impl Clone for Intake {
    fn clone(&self) -> Self {
        let Self { horizon, ahead_told_at, producers, .. } = self;
        let (horizon, ahead_told_at, producers) = (*horizon, ahead_told_at.clone(), producers.clone());
        Self { producers, horizon, ahead_told_at, ..Self::new(self.bus.clone(), self.metrics.clone()) }
    }
}

impl Intake {
    /// An intake into `bus`, which this process alone writes to. What the log's producers have stored is
    /// read from the log's beginning, unless [`Intake::with_producers`] says more.
    pub fn new(bus: Arc<dyn Bus>, metrics: IntakeMetrics) -> Self {
        let encoders = (0..bus.partitions()).map(|_| RecordEncoder::new()).collect();
        let producers = Arc::new(Producers::new(bus.clone(), None, false));
        let (horizon, ahead_told_at) = (Horizon::UNLIMITED, Arc::default());
        Self { bus, producers, encoders, metrics, horizon, ahead_told_at }
    }

    /// The same with a memory of producers of the caller's choice.
    #[must_use]
    pub fn with_producers(self, producers: Arc<Producers>) -> Self {
        Self { producers, ..self }
    }

    /// Counts a feed that was started again after a fault.
    pub(super) fn count_restart(&self) {
        self.metrics.feed_restarts.inc();
    }

    /// The memory of producers.
    pub fn producers(&self) -> &Arc<Producers> {
        &self.producers
    }

    /// The same, which takes no tick beyond `horizon`.
    pub fn with_horizon(self, horizon: Horizon) -> Self {
        Self { horizon, ..self }
    }

    /// Counts ticks that are too far ahead, and logs the first of them from time to time.
    fn refuse_ahead(&self, count: u64, source: &str, ahead: &Ahead) {
        self.metrics.ahead.inc_by(count);
        let mut told_at = self.ahead_told_at.lock().unwrap_or_else(PoisonError::into_inner);
        if told_at.is_none_or(|at| at.elapsed() >= AHEAD_LOG_PERIOD) {
            *told_at = Some(Instant::now());
            let ticks = self.metrics.ahead.get();
            tracing::warn!(source, ticks, %ahead, "ticks are too far ahead of the clock and are not stored");
        }
    }

    /// Drops the ticks of a feed that are too far ahead of the clock: a feed can't be told to send them
    /// later.
    fn drop_ahead(&self, feed: &str, ticks: &mut Vec<Tick>) {
        if let Some(ahead) = Ahead::first_of(&*ticks, self.horizon) {
            let (count, end) = (ticks.len(), self.horizon.end());
            ticks.retain(|tick| tick.ts() <= end);
            self.refuse_ahead((count - ticks.len()) as u64, feed, &ahead);
        }
    }

    /// Appends `ticks` as one record in each partition that has some; a gap of no single symbol
    /// goes to every partition. Waits while the disk is behind.
    ///
    /// `origin.sequence` must rise from batch to batch of a producer, which is the caller's to see to: a
    /// record whose number did not rise is dropped by every reader.
    ///
    /// Errors: a batch too large, or with a tick too far ahead of the clock, is refused as a whole; and
    /// as the log does.
    pub async fn append(&mut self, ticks: &[Tick], origin: Origin) -> Result<Appended, IntakeError> {
        let records = self.encode(ticks, origin)?;
        let partitions: Vec<u16> = records.iter().map(|(partition, _)| *partition).collect();
        if records.is_empty() {
            return Ok(Appended { partitions, durable: Box::pin(async { Ok(Vec::new()) }) });
        }
        let checksums: Vec<(u16, u32)> =
            records.iter().map(|(partition, bytes)| (*partition, checksum(bytes))).collect();
        let durable = self.append_records(records, ticks).await?;
        let producers = self.producers.clone();
        producers.appended(origin, &checksums);
        let durable = async move { Ok(durable.await.inspect_err(|_| producers.failed())?) };
        Ok(Appended { partitions, durable: Box::pin(durable) })
    }

    /// As [`Intake::append`], for a producer that numbers its batches by itself. A batch that the log holds
    /// already is not appended again, and its `partitions` are those of the records that are new. `after`
    /// says that the batch continues a stream from that number, and nothing in between was stored.
    ///
    /// Errors: a batch that readers would drop, or keep twice, as [`IntakeError::Refused`], before it is
    /// appended, or out of `durable` where other processes append to the log.
    pub async fn take(
        &mut self,
        ticks: &[Tick],
        origin: Origin,
        after: Option<u64>,
    ) -> Result<Appended, IntakeError> {
        let records = self.encode(ticks, origin)?;
        let producers = self.producers.clone();
        producers.begin().await?;
        let held = producers.hold(origin.producer).await;
        let records = producers.new_records(records, origin, after)?;
        let checksums: Vec<(u16, u32)> =
            records.iter().map(|(partition, bytes)| (*partition, checksum(bytes))).collect();
        let partitions = checksums.iter().map(|(partition, _)| *partition).collect();
        // An append of nothing is as durable as what came before it.
        let ticks = if records.is_empty() { &[] } else { ticks };
        let durable = self.append_records(records, ticks).await?;
        producers.appended(origin, &checksums);
        drop(held);
        let durable = async move {
            let offsets = durable.await.inspect_err(|_| producers.failed())?;
            producers.kept(origin, &checksums, &offsets).await?;
            Ok(offsets)
        };
        Ok(Appended { partitions, durable: Box::pin(durable) })
    }

    /// `ticks` as records, by partition.
    fn encode(&mut self, ticks: &[Tick], origin: Origin) -> Result<Vec<(u16, Bytes)>, IntakeError> {
        if ticks.len() > BATCH_TICKS_MAX {
            return Err(IntakeError::TooMany { ticks: ticks.len() });
        }
        if let Some(ahead) = Ahead::first_of(ticks, self.horizon) {
            self.refuse_ahead(1, "ingest", &ahead);
            return Err(ahead.into());
        }
        let count = self.encoders.len() as u16;
        for tick in ticks {
            match tick.symbol() {
                Some(symbol) => self.encoders[usize::from(symbol.partition(count))].push(tick),
                None => self.encoders.iter_mut().for_each(|encoder| encoder.push(tick)),
            }
        }
        let filled = (0..count).zip(&mut self.encoders).filter(|(_, encoder)| !encoder.is_empty());
        Ok(filled.map(|(partition, encoder)| (partition, encoder.finish(origin))).collect())
    }

    async fn append_records(
        &self,
        records: Vec<(u16, Bytes)>,
        ticks: &[Tick],
    ) -> Result<Durable, IntakeError> {
        let durable = self.bus.append(records).await.inspect_err(|_| {
            self.metrics.refusals.inc();
        })?;
        if let Some(last) = ticks.last() {
            self.metrics.ticks.inc_by(ticks.len() as u64);
            self.metrics.batches.inc();
            self.metrics.lag_ms.set(Timestamp::now().nanos_since(last.recv_ts()) / 1_000_000);
        }
        Ok(durable)
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
    feed: &mut dyn Feed,
    mut intake: Intake,
    stop: CancellationToken,
) -> Result<FeedSummary, FeedRunError> {
    let name = feed.name().to_owned();
    let intake_error = |source: IntakeError| FeedRunError::Intake { feed: name.clone(), source };
    let mut origin = Origin { producer: producer(&name, Timestamp::now()), sequence: 0 };
    let mut ticks: Vec<Tick> = Vec::with_capacity(BATCH_TICKS_MAX);
    let mut in_flight: FuturesOrdered<BoxFuture<'static, Result<u64, IntakeError>>> = FuturesOrdered::new();
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
                        return Err(intake_error(source));
                    }
                }
            }
            pulled = feed.next(&mut ticks), if pulling && in_flight.len() < BATCHES_IN_FLIGHT_MAX => {
                match pulled {
                    Ok(Pulled::End) => pulling = false,
                    Ok(Pulled::Asks(producer)) => {
                        let stored = intake.producers.stored(producer).await.map_err(&intake_error);
                        let told = stored.and_then(|stored| {
                            let failed = |source| FeedRunError::Feed { feed: name.clone(), source };
                            feed.told(stored).map_err(failed)
                        });
                        if let Err(error) = told {
                            failed = Some(error);
                            pulling = false;
                        }
                    }
                    Ok(Pulled::Ticks) => {
                        origin.sequence += 1;
                        intake.drop_ahead(&name, &mut ticks);
                        let count = ticks.len() as u64;
                        let own = feed.origin();
                        let origin = own.unwrap_or(origin);
                        let appended = match (own, feed.follows()) {
                            (_, Some(after)) => intake.take(&ticks, origin, Some(after)).await,
                            (Some(own), None) => match intake.producers.check_known(own.producer).await {
                                Ok(()) => intake.append(&ticks, origin).await,
                                Err(error) => Err(error),
                            },
                            (None, None) => intake.append(&ticks, origin).await,
                        };
                        match appended {
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::market::{PrevClose, Price};
    use crate::server::gateway::MemoryBus;
    use crate::wire::record::RecordView;

    /// Hands out batches of so many ticks, then ends as told.
    struct Scripted {
        batches: VecDeque<usize>,
        end: Option<FeedError>,
        acknowledged: u64,
        /// For a feed that knows its messages again.
        origin: Option<Origin>,
    }

    impl Scripted {
        fn new(batches: &[usize]) -> Self {
            Self { batches: batches.iter().copied().collect(), end: None, acknowledged: 0, origin: None }
        }
    }

    #[async_trait::async_trait]
    impl Feed for Scripted {
        fn name(&self) -> &'static str {
            "scripted"
        }

        async fn next(&mut self, ticks: &mut Vec<Tick>) -> Result<Pulled, FeedError> {
            let Some(count) = self.batches.pop_front() else {
                return self.end.take().map_or(Ok(Pulled::End), Err);
            };
            let ts = Timestamp::from_nanos(count as i64);
            let close =
                |name: &str| PrevClose { symbol: name.parse().unwrap(), ts, recv_ts: ts, price: Price::ZERO };
            let names = ["AAPL", "MSFT", "TSLA", "SPY"];
            ticks.extend((0..count).map(|at| Tick::PrevClose(close(names[at % names.len()]))));
            Ok(Pulled::Ticks)
        }

        fn acknowledge(&mut self, calls: u64) {
            assert!(calls > self.acknowledged);
            self.acknowledged = calls;
        }

        fn origin(&self) -> Option<Origin> {
            self.origin
        }
    }

    /// Ticks in the log, and its records' batches, by partition.
    async fn logged(bus: &MemoryBus) -> (usize, Vec<Vec<u64>>) {
        let (mut ticks, mut batches) = (0, Vec::new());
        for partition in 0..bus.partitions() {
            let mut reader = bus.reader(partition, 0).await.unwrap();
            let mut sequences = Vec::new();
            while reader.offset() < bus.bounds(partition).await.unwrap().next {
                for record in reader.next(1 << 20).await.unwrap() {
                    let view = RecordView::parse(&record.bytes).unwrap();
                    ticks += view.ticks as usize;
                    sequences.push(view.origin.sequence);
                }
            }
            batches.push(sequences);
        }
        (ticks, batches)
    }

    /// A feed with numbers of its own that was silent while very many other producers were heard.
    #[tokio::test]
    async fn a_feed_whose_producer_was_retired_is_refused() {
        use crate::tiering::producers::PRODUCERS_MAX;
        let bus = Arc::new(MemoryBus::new(1, 2 * PRODUCERS_MAX));
        let mut intake = Intake::new(bus.clone(), IntakeMetrics::default());
        let feed = |sequence| {
            let mut feed = Scripted::new(&[5]);
            feed.origin = Some(Origin { producer: 42, sequence });
            feed
        };
        run_feed(&mut feed(1), intake.clone(), CancellationToken::new()).await.unwrap();
        let close = Tick::PrevClose(PrevClose {
            symbol: "AAPL".parse().unwrap(),
            ts: Timestamp::from_nanos(1),
            recv_ts: Timestamp::from_nanos(1),
            price: Price::ZERO,
        });
        for producer in 0..PRODUCERS_MAX as u64 {
            let origin = Origin { producer: 1_000 + producer, sequence: 1 };
            drop(intake.append(std::slice::from_ref(&close), origin).await.unwrap());
        }
        // The memory of a running process, and that of one that starts now.
        for intake in [intake.clone(), Intake::new(bus.clone(), IntakeMetrics::default())] {
            let before = bus.bounds(0).await.unwrap();
            let refused = run_feed(&mut feed(2), intake, CancellationToken::new()).await.unwrap_err();
            let FeedRunError::Intake { source: IntakeError::Refused(refusal), .. } = &refused else {
                panic!("{refused}")
            };
            assert_eq!(*refusal, Refusal::Retired { producer: 42 });
            assert_eq!(bus.bounds(0).await.unwrap(), before, "nothing was appended");
        }
    }

    #[tokio::test]
    async fn a_feed_is_acknowledged_what_is_durable_and_its_batches_rise() {
        let bus = Arc::new(MemoryBus::new(2, 1_000));
        let mut feed = Scripted::new(&[5; 200]);
        let intake = Intake::new(bus.clone(), IntakeMetrics::default());
        let summary = run_feed(&mut feed, intake, CancellationToken::new()).await.unwrap();
        assert_eq!((summary, feed.acknowledged), (FeedSummary { ticks: 1_000, calls: 200 }, 200));
        let (ticks, batches) = logged(&bus).await;
        assert_eq!(ticks, 1_000);
        for sequences in batches {
            assert!(sequences.windows(2).all(|pair| pair[0] < pair[1]), "{sequences:?}");
        }
    }

    #[tokio::test]
    async fn a_feed_that_knows_its_messages_says_under_what_they_go_in() {
        let bus = Arc::new(MemoryBus::new(1, 10));
        let mut feed = Scripted::new(&[3]);
        feed.origin = Some(Origin { producer: 7, sequence: 42 });
        let intake = Intake::new(bus.clone(), IntakeMetrics::default());
        run_feed(&mut feed, intake, CancellationToken::new()).await.unwrap();
        let records = bus.reader(0, 0).await.unwrap().next(1 << 20).await.unwrap();
        let origin = RecordView::parse(&records[0].bytes).unwrap().origin;
        assert_eq!(origin, Origin { producer: 7, sequence: 42 });
    }

    #[tokio::test]
    async fn what_came_before_an_error_is_durable_and_the_error_is_named() {
        let bus = Arc::new(MemoryBus::new(2, 1_000));
        let mut feed = Scripted::new(&[3, 4]);
        feed.end = Some(FeedError::Format { subject: "tape".to_owned(), reason: "torn".to_owned() });
        let intake = Intake::new(bus.clone(), IntakeMetrics::default());
        let error = run_feed(&mut feed, intake, CancellationToken::new()).await.unwrap_err();
        assert_eq!(error.to_string(), "feed scripted: tape: torn");
        assert_eq!((logged(&bus).await.0, feed.acknowledged), (7, 2));
    }

    #[tokio::test]
    async fn a_batch_too_large_is_refused_whole() {
        let bus = Arc::new(MemoryBus::new(1, 10));
        let mut feed = Scripted::new(&[2, BATCH_TICKS_MAX + 1, 2]);
        let intake = Intake::new(bus.clone(), IntakeMetrics::default());
        let error = run_feed(&mut feed, intake, CancellationToken::new()).await.unwrap_err();
        assert!(error.to_string().contains("a batch of 4097 ticks"), "{error}");
        assert_eq!((logged(&bus).await.0, feed.acknowledged), (2, 1));
    }

    #[tokio::test]
    async fn a_tick_far_ahead_of_the_clock_refuses_a_batch_and_is_dropped_from_a_feed() {
        let (bus, metrics) = (Arc::new(MemoryBus::new(1, 10)), IntakeMetrics::default());
        let horizon = Horizon::ahead_of_clock(std::time::Duration::from_mins(1));
        let mut intake = Intake::new(bus.clone(), metrics.clone()).with_horizon(horizon);
        let close = |seconds: i64| {
            let ts = Timestamp::now().saturating_add_nanos(seconds * 1_000_000_000);
            let symbol = "AAPL".parse().unwrap();
            Tick::PrevClose(PrevClose { symbol, ts, recv_ts: ts, price: Price::ZERO })
        };
        let mut ticks = vec![close(-86_400), close(3_600), close(30)];
        let refused =
            intake.append(&ticks, Origin { producer: 1, sequence: 1 }).await.err().unwrap().to_string();
        assert!(refused.starts_with(&format!("tick 1 (AAPL) of {} is 3", ticks[1].ts())), "{refused}");
        assert!(refused.contains("at most 60 s are allowed (server.ahead_ms_max)"), "{refused}");
        assert_eq!(logged(&bus).await.0, 0, "nothing of it was appended");
        intake.clone().drop_ahead("scripted", &mut ticks);
        intake.append(&ticks, Origin { producer: 1, sequence: 1 }).await.unwrap();
        assert_eq!((logged(&bus).await.0, metrics.ahead.get()), (2, 2));
    }

    #[tokio::test]
    async fn a_stop_ends_it_with_all_that_was_pulled_acknowledged() {
        let bus = Arc::new(MemoryBus::new(1, 10));
        let stop = CancellationToken::new();
        stop.cancel();
        let mut feed = Scripted::new(&[2]);
        let intake = Intake::new(bus.clone(), IntakeMetrics::default());
        let summary = run_feed(&mut feed, intake, stop).await.unwrap();
        assert_eq!((summary.calls, feed.acknowledged, feed.batches.len()), (0, 0, 1));
    }
}
