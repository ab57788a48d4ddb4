//! Appends: one idempotent producer for all partitions.
//!
//! An append waits for room in the queue, which is bounded by bytes, and hands its records to
//! librdkafka without a break, so that they stand in the order given. librdkafka delivers them
//! with `acks=all` and tries for ever; what it can't deliver for another reason than brokers that
//! are away is final and ends the producer, so that no later record gets ahead of it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig, ThreadedProducer,
};
use rdkafka::statistics::Statistics;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use super::{FELL_BACK, KafkaBusMetrics, RECORD_BYTES_MAX, Shared, meaning};
use crate::bus::{BusError, Durable};
use crate::fail;
use crate::kafka::{Watch, code_of, drop_aside, keep_brokers};

/// What a record costs beside its bytes, about; it bounds the number of small ones.
const RECORD_OVERHEAD_BYTES: usize = 256;

/// What came of an append: its records' offsets, in their order.
type Outcome = Result<Vec<u64>, BusError>;

/// An append under way.
struct Pending {
    left: AtomicUsize,
    /// In the order of the records; complete when none is left.
    offsets: Vec<AtomicU64>,
    error: OnceLock<BusError>,
    done: Mutex<Option<oneshot::Sender<Outcome>>>,
    since: Instant,
    bytes: u64,
    /// Its room in the queue, whether anybody waits for it or not.
    _room: OwnedSemaphorePermit,
}

/// One record of an append.
pub(super) struct Sent {
    append: Arc<Pending>,
    index: usize,
    bytes: usize,
}

/// What the producer calls back.
struct Context {
    watch: Watch,
    name: String,
    metrics: KafkaBusMetrics,
    closing: OnceLock<()>,
    /// Why nothing more is taken.
    failure: OnceLock<BusError>,
    delivered: Notify,
    /// Told of the partition and the offset after a record that was delivered; false where later ones were
    /// delivered before.
    follows: Box<dyn Fn(u16, u64) -> bool + Send + Sync>,
}

impl Context {
    fn fail(&self, error: BusError) -> BusError {
        if self.failure.set(error.clone()).is_ok() {
            tracing::error!(log = self.name, %error, "the log takes no more appends");
        }
        error
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.watch.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.watch.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if code_of(&error) == Some(RDKafkaErrorCode::Fatal) {
            self.fail(BusError::Failed { path: self.name.clone(), reason: reason.to_owned() });
        }
        self.watch.error(error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Sent>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<Sent>) {
        let Sent { append, index, bytes } = *sent;
        match result {
            Ok(message) => {
                let offset = message.offset().max(0) as u64;
                append.offsets[index].store(offset, Ordering::Relaxed);
                let partition = message.partition() as u16;
                // Of a repeat that the broker no longer remembers the offset is not known.
                if message.offset() >= 0 && !(self.follows)(partition, offset + 1) {
                    let reason = format!(
                        "a record got offset {offset} of partition {partition}, and later ones had been accepted: \
                         {FELL_BACK}"
                    );
                    let _ = append.error.set(self.fail(BusError::Failed { path: self.name.clone(), reason }));
                }
                self.watch.health.answered();
                self.metrics.appended_records.inc();
                self.metrics.appended_bytes.inc_by(bytes as u64);
            }
            Err((error, _)) => {
                self.metrics.delivery_failures.inc();
                let is_purged = matches!(
                    code_of(error),
                    Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
                );
                let meant = if is_purged || self.closing.get().is_some() {
                    BusError::Closed
                } else {
                    // librdkafka tries again what can be tried: this is for good.
                    let reason = format!("a record could not be delivered: {error}");
                    self.fail(BusError::Failed { path: self.name.clone(), reason })
                };
                // The first one tells.
                let _ = append.error.set(meant);
            }
        }
        if append.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.metrics.queue_bytes.dec_by(append.bytes as i64);
            self.metrics.delivery_seconds.inc_by(append.since.elapsed().as_secs_f64());
            let outcome = match append.error.get() {
                Some(error) => Err(error.clone()),
                None => Ok(append.offsets.iter().map(|offset| offset.load(Ordering::Relaxed)).collect()),
            };
            fail::point("log.kafka.delivered");
            let done = append.done.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Whoever appended may not want to know.
            let _ = done.map(|done| done.send(outcome));
        }
        drop(append);
        self.delivered.notify_waiters();
    }
}

/// Takes appends.
pub(super) struct Appender {
    producer: Arc<ThreadedProducer<Context>>,
    topic: String,
    metrics: KafkaBusMetrics,
    queue: Arc<Semaphore>,
    queue_bytes_max: u32,
}

impl Appender {
    pub(super) fn new(client: &ClientConfig, shared: &Arc<Shared>) -> Result<Self, BusError> {
        let mut config = client.clone();
        let defaults = [
            // Measured on records of 1,000 simulated ticks: see docs/kafka.md.
            ("compression.codec", "zstd"),
            ("compression.level", "1"),
            ("linger.ms", "5"),
            ("batch.size", "1048576"),
        ];
        for (name, value) in defaults {
            if client.get(name).is_none() {
                config.set(name, value);
            }
        }
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("enable.gapless.guarantee", "true")
            // For ever: a record that gave up would let later ones get ahead of it.
            .set("message.timeout.ms", "0")
            .set("message.max.bytes", (2 * RECORD_BYTES_MAX).to_string())
            // The queue is bounded before librdkafka's own.
            .set("queue.buffering.max.messages", "0")
            .set(
                "queue.buffering.max.kbytes",
                (2 * shared.config.queue_bytes_max / 1024).max(65_536).to_string(),
            )
            .set("statistics.interval.ms", "1000");
        let marks = Arc::downgrade(shared);
        let context = Context {
            watch: shared.watch.clone(),
            name: shared.name.clone(),
            metrics: shared.metrics.clone(),
            closing: OnceLock::new(),
            failure: OnceLock::new(),
            delivered: Notify::new(),
            follows: Box::new(move |partition, next| {
                marks.upgrade().is_none_or(|shared| shared.delivered(partition, next))
            }),
        };
        let producer = config.create_with_context(context).map_err(|error| shared.error(&error))?;
        let queue_bytes_max = shared.config.queue_bytes_max.max(1);
        let producer = Arc::new(producer);
        tokio::spawn(keep_brokers(
            Arc::downgrade(&producer),
            |producer: &ThreadedProducer<Context>| producer.client(),
            shared.watch.health.orphaned(),
            shared.config.brokers.clone(),
            shared.metrics.retries.clone(),
        ));
        Ok(Self {
            producer,
            topic: shared.config.topic.clone(),
            metrics: shared.metrics.clone(),
            queue: Arc::new(Semaphore::new(queue_bytes_max as usize)),
            queue_bytes_max,
        })
    }

    fn context(&self) -> &Context {
        self.producer.client().context()
    }

    /// Why nothing more is taken, if that is so.
    pub(super) fn failure(&self) -> Option<String> {
        self.context().failure.get().map(ToString::to_string)
    }

    fn check_open(&self) -> Result<(), BusError> {
        let context = self.context();
        match context.failure.get() {
            Some(error) => Err(error.clone()),
            None if context.closing.get().is_some() => Err(BusError::Closed),
            None => Ok(()),
        }
    }

    /// Queues `records`, at least one, of partitions that are there.
    pub(super) async fn append(&self, records: Vec<(u16, Bytes)>) -> Result<Durable, BusError> {
        self.check_open()?;
        let bytes: usize = records.iter().map(|(_, bytes)| bytes.len()).sum();
        let cost = bytes + records.len() * RECORD_OVERHEAD_BYTES;
        let permits = u32::try_from(cost).unwrap_or(u32::MAX).clamp(1, self.queue_bytes_max);
        let room = if let Ok(room) = self.queue.clone().try_acquire_many_owned(permits) {
            room
        } else {
            self.metrics.queue_waits.inc();
            let room = self.queue.clone().acquire_many_owned(permits).await;
            room.map_err(|_| BusError::Closed)?
        };
        self.check_open()?;
        let (done, is_done) = oneshot::channel();
        let append = Arc::new(Pending {
            left: AtomicUsize::new(records.len()),
            offsets: records.iter().map(|_| AtomicU64::new(0)).collect(),
            error: OnceLock::new(),
            done: Mutex::new(Some(done)),
            since: Instant::now(),
            bytes: bytes as u64,
            _room: room,
        });
        self.metrics.queue_bytes.inc_by(bytes as i64);
        for (index, (partition, bytes)) in records.iter().enumerate() {
            let sent = Box::new(Sent { append: append.clone(), index, bytes: bytes.len() });
            let record = BaseRecord::<(), [u8], _>::with_opaque_to(&self.topic, sent);
            self.send(record.partition(i32::from(*partition)).payload(bytes)).await?;
        }
        let ended = BusError::Closed;
        Ok(async move { is_done.await.unwrap_or(Err(ended)) }.boxed())
    }

    /// Hands one record over. librdkafka's queue is larger than ours, so that this hardly waits.
    async fn send(&self, mut record: BaseRecord<'_, (), [u8], Box<Sent>>) -> Result<(), BusError> {
        loop {
            let delivered = self.context().delivered.notified();
            tokio::pin!(delivered);
            delivered.as_mut().enable();
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    record = refused;
                    self.metrics.queue_waits.inc();
                    delivered.await;
                }
                // Part of the append may have been queued: it is not accepted, and a repeat of it
                // is dropped by every reader.
                Err((error, _)) => {
                    let error = meaning(&self.context().name, &error);
                    return Err(self.context().fail(error));
                }
            }
        }
    }

    /// Delivers what is queued, for at most `wait_max`; the rest fails.
    pub(super) async fn close(&self, wait_max: Duration) {
        let _ = self.context().closing.set(());
        let producer = self.producer.clone();
        let flushed = tokio::task::spawn_blocking(move || {
            if producer.flush(wait_max).is_err() {
                producer.purge(PurgeConfig::default().queue().inflight());
                // The deliveries that failed are told of by the thread that polls.
                let _ = producer.flush(Duration::from_secs(1));
            }
        });
        let _ = flushed.await;
        self.queue.close();
    }
}

impl Drop for Appender {
    fn drop(&mut self) {
        // Its end waits for the thread that polls it.
        drop_aside(self.producer.clone());
    }
}
