//! The log in Kafka: one topic, whose partitions are the log's.
//!
//! A record is the value of one Kafka record, without key and headers; its offset is Kafka's.
//! Appends of all partitions go through one idempotent producer (`producer.rs`). Readers at the
//! tail are served from memory, filled by one consumer for all of them; those further back borrow
//! a consumer from a bounded pool until they have caught up (`tail.rs`, `pool.rs`, `reader.rs`).
//! Who processes which partition is agreed on in a consumer group that fetches nothing
//! (`membership.rs`). Making the topic, looking at one that exists, and trimming stand in
//! `admin.rs`.
//!
//! # What Kafka must not do
//!
//! Drop anything by itself: the topic is made with unlimited retention, and only what was released
//! and is older than the retention is deleted ([`Bus::release`], `trim.rs`). Give up: brokers that
//! are away make appends and readers wait, however long; [`KafkaBus::ready`] says so meanwhile.
//! Lose order: a record that can't be delivered fails the producer, so that nothing after it can
//! get ahead of it.
//!
//! # What stays out
//!
//! What stands in a record, and transactions: readers drop repeats by the record's producer and
//! sequence.

mod admin;
mod identity;
mod membership;
mod metrics;
mod pool;
mod producer;
mod reader;
mod tail;
mod trim;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use rdkafka::error::KafkaError;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::admin::{Admin, Found};
use self::membership::{KafkaMembership, Member};
pub use self::metrics::KafkaBusMetrics;
use self::pool::Pool;
use self::producer::Appender;
use self::reader::KafkaReader;
use self::tail::Tail;
use super::epoch::LogEpoch;
use super::local::Retention;
use super::{Bounds, Bus, BusError, BusReader, Durable, Membership};
use crate::kafka::{MeetError, Watch, code_of, is_final};

/// The most partitions a log can have.
pub const PARTITIONS_MAX: u16 = 1024;
/// The largest record that is appended; the topic is made to take it.
pub const RECORD_BYTES_MAX: usize = 4 << 20;
/// How long a question to the brokers is asked again before it is an error.
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(2);
/// The waits between two attempts.
const RETRY_WAIT_MIN: Duration = Duration::from_millis(50);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Why a log ended whose topic was made again.
const REPLACED: &str = "the topic was deleted and made again since it was opened, and its offsets name other \
     records; start the server again, which says how to continue";
/// Why a log ended, or a part of it can't be used, that lacks records which were accepted.
const FELL_BACK: &str = "the topic was put back from an older copy, or lost accepted records; put it back as it was, or \
     start the server again, which says how to continue";

/// How a [`KafkaBus`] is opened.
#[derive(Clone, Debug)]
pub struct KafkaBusConfig {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// The topic that is the log.
    pub topic: String,
    /// The group in which processes share the partitions.
    pub group: String,
    /// Partitions, 1 to [`PARTITIONS_MAX`]; a topic that has another number is refused.
    pub partitions: u16,
    /// Copies of each partition, when the topic is made.
    pub replication: u16,
    /// Further properties (name, value) of librdkafka.
    pub properties: Vec<(String, String)>,
    /// What is kept of what is released; 3 days and 16 GiB by default. The bytes are those of the
    /// records, estimated by their mean size.
    pub retention: Retention,
    /// Bytes of records that wait to be delivered; past it appends wait. 64 MiB by default.
    pub queue_bytes_max: u32,
    /// Bytes of records kept for readers at the tail, of all partitions together; 64 MiB by
    /// default.
    pub tail_bytes_max: usize,
    /// Readers that may catch up at the same time; 16 by default. Each takes about 4 MiB and some
    /// threads.
    pub catch_ups_max: usize,
    /// How often what is released is looked at; 1 minute by default.
    pub trim_interval: Duration,
    /// How often the topic's id is looked at, by which a topic that was made again is noticed; 5 seconds by
    /// default.
    pub identity_interval: Duration,
    /// How long a partition that is revoked waits for [`Membership::released`] before it counts as
    /// lost; 30 s by default.
    pub revoke_wait_max: Duration,
    /// How long the brokers may be silent when the log is opened; 30 s by default.
    pub open_wait_max: Duration,
}

impl KafkaBusConfig {
    /// The defaults.
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>, partitions: u16) -> Self {
        Self {
            brokers: brokers.into(),
            topic: topic.into(),
            group: "stk".to_owned(),
            partitions,
            replication: 1,
            properties: Vec::new(),
            retention: Retention { age: Duration::from_hours(72), bytes: 16 << 30 },
            queue_bytes_max: 64 << 20,
            tail_bytes_max: 64 << 20,
            catch_ups_max: 16,
            trim_interval: Duration::from_mins(1),
            identity_interval: Duration::from_secs(5),
            revoke_wait_max: Duration::from_secs(30),
            open_wait_max: Duration::from_secs(30),
        }
    }
}

/// Why a log is not ready: its topic is gone.
const ABSENT: &str = "the topic was deleted. Put back the brokers' data as it was. Or stop the processes and start \
     them with a new topic and a new database (log.kafka_topic, warm.clickhouse_database): the old days stay in \
     the old database";

/// What is known of a partition without asking.
#[derive(Default)]
struct Marks {
    /// The oldest record, when last looked at; it may have moved on.
    first: AtomicU64,
    /// One past the newest record this process knows of.
    next: AtomicU64,
    /// Before it everything is released.
    released: AtomicU64,
    /// One past the last record that this process's producer delivered.
    delivered: AtomicU64,
}

/// What the bus, its readers, its member and its tasks share.
struct Shared {
    config: KafkaBusConfig,
    /// How errors name the log.
    name: String,
    /// Named by the cluster's id, the topic and its id.
    epoch: LogEpoch,
    metrics: KafkaBusMetrics,
    /// Of the producer, which every process has.
    watch: Watch,
    admin: Admin,
    marks: Vec<Marks>,
    record_bytes_max: usize,
    /// The parts that this process takes in processing, for their commits.
    members: Mutex<Vec<std::sync::Weak<Member>>>,
    /// Held for a round of dropping what is old.
    trimming: tokio::sync::Mutex<()>,
    closed: CancellationToken,
    /// Why the log ended, where nobody has closed it.
    ended_by: OnceLock<&'static str>,
    /// The brokers say that the topic is gone.
    is_absent: AtomicBool,
}

/// The turns of a task that does something for the log now and then.
struct Turns {
    clock: tokio::time::Interval,
    closed: CancellationToken,
    log: Weak<Shared>,
}

impl Turns {
    /// One turn at once, and the next ones `interval` apart.
    fn of(shared: &Arc<Shared>, interval: Duration) -> Self {
        let mut clock = tokio::time::interval(interval);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Self { clock, closed: shared.closed.clone(), log: Arc::downgrade(shared) }
    }

    /// Waits for the next turn; `None` once the log is closed or gone. Cancel-safe.
    async fn next(&mut self) -> Option<Arc<Shared>> {
        tokio::select! {
            () = self.closed.cancelled() => None,
            _ = self.clock.tick() => self.log.upgrade(),
        }
    }
}

impl Shared {
    fn failed(&self, reason: impl ToString) -> BusError {
        BusError::Failed { path: self.name.clone(), reason: reason.to_string() }
    }

    fn check_partition(&self, partition: u16) -> Result<&Marks, BusError> {
        let partitions = self.config.partitions;
        self.marks.get(usize::from(partition)).ok_or(BusError::NoPartition { partition, partitions })
    }

    /// What a client says, as what it means to a caller.
    fn error(&self, error: &KafkaError) -> BusError {
        meaning(&self.name, error)
    }

    /// Takes note that `next` is one past a record that can be read.
    fn seen(&self, partition: u16, next: u64) {
        self.marks[usize::from(partition)].next.fetch_max(next, Ordering::AcqRel);
    }

    /// Takes note that this process's producer delivered the record before `next`. False where it had
    /// delivered a later one before: those records are lost.
    fn delivered(&self, partition: u16, next: u64) -> bool {
        self.seen(partition, next);
        self.marks[usize::from(partition)].delivered.fetch_max(next, Ordering::AcqRel) < next
    }

    /// Asks the brokers what `partition` holds.
    async fn ask_bounds(&self, partition: u16) -> Result<Bounds, BusError> {
        let bounds = self.patiently(ANSWER_WAIT_MAX, || self.admin.bounds(partition)).await?;
        let marks = &self.marks[usize::from(partition)];
        marks.first.fetch_max(bounds.first, Ordering::AcqRel);
        marks.next.fetch_max(bounds.next, Ordering::AcqRel);
        Ok(bounds)
    }

    /// Asks again while the brokers are away, for at most `wait_max`.
    async fn patiently<T, F>(&self, wait_max: Duration, ask: impl Fn() -> F) -> Result<T, BusError>
    where
        F: Future<Output = Result<T, KafkaError>>,
    {
        let asking = async {
            let mut wait = RETRY_WAIT_MIN;
            loop {
                match ask().await {
                    Ok(answer) => {
                        self.watch.health.answered();
                        return Ok(answer);
                    }
                    Err(error) if code_of(&error).is_none_or(is_final) => {
                        return Err(self.error(&error));
                    }
                    Err(_) if self.is_absent.load(Ordering::Acquire) => return Err(self.unavailable()),
                    Err(error) => {
                        tracing::debug!(log = self.name, %error, "asking again");
                        self.metrics.retries.inc();
                    }
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(RETRY_WAIT_MAX);
            }
        };
        tokio::select! {
            answer = tokio::time::timeout(wait_max, asking) => answer.unwrap_or_else(|_| Err(self.unavailable())),
            () = self.closed.cancelled() => Err(self.ended()),
        }
    }

    /// Ends the log, whose topic is not what it was.
    fn end(&self, reason: &'static str) {
        let _ = self.ended_by.set(reason);
        self.closed.cancel();
    }

    /// Why a log that has ended takes and gives nothing more.
    fn ended(&self) -> BusError {
        self.ended_by.get().map_or(BusError::Closed, |reason| self.failed(reason))
    }

    /// The brokers are away.
    fn unavailable(&self) -> BusError {
        if self.is_absent.load(Ordering::Acquire) {
            return BusError::Unavailable { path: self.name.clone(), reason: ABSENT.to_owned() };
        }
        let reason = self.watch.health.down().or_else(|| self.admin.trouble());
        let reason = reason.unwrap_or_else(|| "its brokers do not answer".to_owned());
        BusError::Unavailable { path: self.name.clone(), reason }
    }
}

fn meaning(name: &str, error: &KafkaError) -> BusError {
    let (path, reason) = (name.to_owned(), error.to_string());
    match code_of(error) {
        Some(code) if !is_final(code) => BusError::Unavailable { path, reason },
        _ => BusError::Failed { path, reason },
    }
}

/// Only what all in-sync brokers have can be read, so a topic has one generation. A topic that was deleted
/// and made again has another id. The first versions of stk did not know it, and named logs without.
fn epoch_of(cluster: &str, topic: &str, topic_id: Option<u128>) -> LogEpoch {
    let name = format!("{cluster}/{topic}");
    let former = xxhash_rust::xxh3::xxh3_64(name.as_bytes());
    match topic_id {
        Some(id) => {
            LogEpoch::new(xxhash_rust::xxh3::xxh3_64(format!("{name}/{id:032x}").as_bytes())).formerly(former)
        }
        None => LogEpoch::new(former),
    }
}

/// A log that is a topic of Kafka.
///
/// Dropping it ends it in the background; [`KafkaBus::close`] delivers what is queued first.
pub struct KafkaBus {
    shared: Arc<Shared>,
    appender: Appender,
    tail: Arc<Tail>,
    pool: Arc<Pool>,
    warnings: Vec<String>,
    /// Ends the tasks.
    _ends: DropGuard,
}

impl KafkaBus {
    /// Opens the log, making its topic where it is not there. To be called within a Tokio runtime.
    ///
    /// Errors: the brokers can't be reached, they refuse who asks, the settings are refused, or the
    /// topic is not fit to be the log, with the reason.
    pub async fn open(config: KafkaBusConfig) -> Result<Arc<Self>, BusError> {
        let shared = Self::connect(config).await?;
        let found = admin::make_or_check(&shared).await?;
        Self::open_found(shared, found).await
    }

    /// Opens a log that is there, and makes nothing. To be called within a Tokio runtime.
    ///
    /// Errors: there is no such topic, as [`BusError::Missing`]; or as [`KafkaBus::open`].
    pub async fn open_existing(config: KafkaBusConfig) -> Result<Arc<Self>, BusError> {
        let shared = Self::connect(config).await?;
        let found = admin::check(&shared).await?;
        Self::open_found(shared, found).await
    }

    /// Who can ask the brokers, which have answered once, and knows nothing of the topic yet.
    async fn connect(config: KafkaBusConfig) -> Result<Shared, BusError> {
        let name = format!("topic {} at {}", config.topic, config.brokers);
        let refused = |reason: String| BusError::Failed { path: name.clone(), reason };
        if !(1..=PARTITIONS_MAX).contains(&config.partitions) {
            let asked = config.partitions;
            return Err(refused(format!("{asked} partitions asked for: choose 1 to {PARTITIONS_MAX}")));
        }
        let client = crate::kafka::client_config(&config.brokers, &config.properties)
            .map_err(|error| refused(error.to_string()))?;
        match crate::kafka::meet(&client, &config.topic, config.open_wait_max).await {
            Ok(()) => {}
            Err(MeetError::Refused(reason)) => return Err(refused(reason)),
            Err(MeetError::Away(reason)) => return Err(BusError::Unavailable { path: name, reason }),
        }
        let watch = Watch::default();
        let metrics = KafkaBusMetrics::new(&watch.health);
        let admin = Admin::new(client, &config).map_err(|error| meaning(&name, &error))?;
        Ok(Shared {
            marks: (0..config.partitions).map(|_| Marks::default()).collect(),
            record_bytes_max: RECORD_BYTES_MAX,
            members: Mutex::default(),
            trimming: tokio::sync::Mutex::default(),
            closed: CancellationToken::new(),
            ended_by: OnceLock::new(),
            is_absent: AtomicBool::new(false),
            epoch: LogEpoch::new(0),
            config,
            name,
            metrics,
            watch,
            admin,
        })
    }

    async fn open_found(mut shared: Shared, found: Found) -> Result<Arc<Self>, BusError> {
        let closed = shared.closed.clone();
        let client = shared.admin.client_config().clone();
        shared.record_bytes_max = found.record_bytes_max.min(RECORD_BYTES_MAX);
        let wait_max = shared.config.open_wait_max;
        let cluster = shared.patiently(wait_max, || shared.admin.cluster_id()).await?;
        let topic_id = shared.patiently(wait_max, || shared.admin.topic_id()).await?;
        shared.epoch = epoch_of(&cluster, &shared.config.topic, topic_id);
        for warning in &found.warnings {
            tracing::warn!(log = shared.name, warning);
        }
        let shared = Arc::new(shared);
        for partition in 0..shared.config.partitions {
            shared.ask_bounds(partition).await?;
        }
        let appender = Appender::new(&client, &shared)?;
        let tail = Tail::start(&client, &shared);
        let pool = Arc::new(Pool::new(client, shared.clone()));
        trim::start(&shared);
        if let Some(id) = topic_id {
            identity::start(&shared, id);
        }
        Ok(Arc::new(Self {
            shared,
            appender,
            tail,
            pool,
            warnings: found.warnings,
            _ends: closed.drop_guard(),
        }))
    }

    /// The topic and its brokers, for messages.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its counters.
    pub fn metrics(&self) -> &KafkaBusMetrics {
        &self.shared.metrics
    }

    /// What about the topic endangers what `stk` promises, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether the brokers answer and appends can go on; otherwise why not, for `/readyz`.
    pub fn ready(&self) -> Result<(), String> {
        if self.shared.ended_by.get().is_some() {
            return Err(self.shared.ended().to_string());
        }
        if self.shared.is_absent.load(Ordering::Acquire) {
            return Err(format!("the log in {}: {ABSENT}", self.shared.name));
        }
        if let Some(reason) = self.appender.failure() {
            return Err(format!("the log in {} takes no more appends: {reason}", self.shared.name));
        }
        match self.shared.watch.health.down() {
            Some(reason) => Err(format!("the log in {} can't be reached: {reason}", self.shared.name)),
            None => Ok(()),
        }
    }

    /// Follows why the brokers can't be reached; `None` while they answer.
    pub fn outages(&self) -> tokio::sync::watch::Receiver<Option<String>> {
        self.shared.watch.health.changes()
    }

    /// Delivers what is queued, for at most `wait_max`, and ends the log: what could not be
    /// delivered by then fails as [`BusError::Closed`], and so does every further call. May be
    /// called repeatedly.
    pub async fn close(&self, wait_max: Duration) {
        self.appender.close(wait_max).await;
        self.shared.closed.cancel();
    }

    /// Drops what is released and older than the retention, and commits the group's offsets; done
    /// by itself every [`KafkaBusConfig::trim_interval`].
    pub async fn trim(&self) -> Result<(), BusError> {
        trim::trim(&self.shared).await
    }
}

#[async_trait::async_trait]
impl Bus for KafkaBus {
    fn partitions(&self) -> u16 {
        self.shared.config.partitions
    }

    fn epoch(&self) -> &LogEpoch {
        &self.shared.epoch
    }

    async fn append(&self, records: Vec<(u16, Bytes)>) -> Result<Durable, BusError> {
        for (partition, bytes) in &records {
            self.shared.check_partition(*partition)?;
            let bytes_max = self.shared.record_bytes_max;
            if bytes.len() > bytes_max {
                let path = self.shared.name.clone();
                return Err(BusError::TooLarge { path, bytes: bytes.len(), bytes_max });
            }
        }
        // Readers see only what is durable, so an append of nothing waits for nothing.
        if records.is_empty() {
            return Ok(async { Ok(Vec::new()) }.boxed());
        }
        if self.shared.ended_by.get().is_some() {
            return Err(self.shared.ended());
        }
        self.appender.append(records).await
    }

    async fn bounds(&self, partition: u16) -> Result<Bounds, BusError> {
        self.shared.check_partition(partition)?;
        self.shared.ask_bounds(partition).await
    }

    async fn bounds_seen(&self, partition: u16) -> Result<Bounds, BusError> {
        let marks = self.shared.check_partition(partition)?;
        let next = marks.next.load(Ordering::Acquire);
        Ok(Bounds { first: marks.first.load(Ordering::Acquire).min(next), next })
    }

    async fn reader(&self, partition: u16, from: u64) -> Result<Box<dyn BusReader>, BusError> {
        let seen = self.bounds_seen(partition).await?;
        if !(seen.first..=seen.next).contains(&from) {
            let Bounds { first, next } = self.shared.ask_bounds(partition).await?;
            if from < first {
                return Err(BusError::Trimmed { partition, offset: from, first });
            }
            if from > next {
                return Err(self.shared.failed(format!(
                    "offset {from} of partition {partition} was never written; the next is {next}"
                )));
            }
        }
        let (shared, tail, pool) = (self.shared.clone(), self.tail.clone(), self.pool.clone());
        Ok(Box::new(KafkaReader::new(shared, tail, pool, partition, from)))
    }

    async fn join(&self) -> Result<Box<dyn Membership>, BusError> {
        let client = self.pool.client_config().clone();
        Ok(Box::new(KafkaMembership::join(client, self.shared.clone())?))
    }

    fn release(&self, partition: u16, offset: u64) {
        if let Ok(marks) = self.shared.check_partition(partition) {
            // It goes back with a warm store that was put back.
            marks.released.store(offset, Ordering::Release);
        }
    }
}

impl Shared {
    /// The members that are still there.
    fn members(&self) -> Vec<Arc<Member>> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|member| member.strong_count() > 0);
        members.iter().filter_map(std::sync::Weak::upgrade).collect()
    }
}
