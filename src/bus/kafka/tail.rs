//! The newest records of every partition that is followed, in memory.
//!
//! One consumer follows them all, and each record is kept until its partition's share of the memory
//! is used up; the oldest goes first. So any number of readers at the tail cost one fetch, and a
//! slow one holds nobody up: it has to catch up from the brokers.
//!
//! A partition is followed from the moment that a reader has caught up, until its last reader is
//! gone. What is wanted stands in the rings; a task brings the consumer's assignment in line.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{RETRY_WAIT_MAX, Shared};
use crate::bus::Record;
use crate::kafka::{Aside, code_of, drop_aside, is_final, is_out_of_range};

/// The wait after the consumer could not be told what to follow.
const RETRY_WAIT: Duration = Duration::from_millis(500);

/// What a ring has for a reader.
pub(super) enum Lookup {
    /// Records from the reader's offset on; those there are.
    Records(Vec<Record>),
    /// The reader is at the end: it waits for the next record.
    Wait,
    /// The ring begins later: up to there the reader has to catch up.
    Behind(u64),
    /// The partition is not followed.
    Idle,
    /// Following failed for good.
    Failed(String),
}

/// The newest records of one partition.
#[derive(Default)]
struct Ring {
    readers: usize,
    /// Whether it is to be followed. From `first` to `next` it holds every record that there is.
    is_wanted: bool,
    /// Changes whenever it is to be followed anew.
    generation: u64,
    first: u64,
    next: u64,
    records: VecDeque<Record>,
    bytes: usize,
    failure: Option<String>,
}

impl Ring {
    fn stop(&mut self) {
        let (readers, generation, failure) = (self.readers, self.generation + 1, self.failure.take());
        *self = Self { readers, generation, failure, ..Self::default() };
    }

    fn push(&mut self, record: Record, bytes_max: usize) {
        self.bytes += record.bytes.len();
        self.next = record.offset + 1;
        self.records.push_back(record);
        // The newest stays, however large.
        while self.bytes > bytes_max && self.records.len() > 1 {
            if let Some(oldest) = self.records.pop_front() {
                self.bytes -= oldest.bytes.len();
                self.first = oldest.offset + 1;
            }
        }
    }

    fn lookup(&self, offset: u64, bytes_max: usize) -> Lookup {
        if let Some(reason) = &self.failure {
            return Lookup::Failed(reason.clone());
        }
        if !self.is_wanted {
            return Lookup::Idle;
        }
        if offset < self.first {
            return Lookup::Behind(self.first);
        }
        let from = self.records.partition_point(|record| record.offset < offset);
        let mut bytes = 0;
        let fits = |record: &&Record| {
            bytes += record.bytes.len();
            bytes <= bytes_max
        };
        let count = self.records.range(from..).take_while(fits).count().max(1);
        let records: Vec<Record> = self.records.range(from..).take(count).cloned().collect();
        if records.is_empty() { Lookup::Wait } else { Lookup::Records(records) }
    }
}

/// The rings, and what wakes whom.
pub(super) struct Tail {
    rings: Vec<Mutex<Ring>>,
    /// By partition, wakes readers at the tail.
    appended: Vec<Notify>,
    /// Wakes the task: what is wanted has changed.
    changed: Notify,
    ring_bytes_max: usize,
}

impl Tail {
    pub(super) fn start(client: &ClientConfig, shared: &Arc<Shared>) -> Arc<Self> {
        let partitions = usize::from(shared.config.partitions);
        let tail = Arc::new(Self {
            rings: (0..partitions).map(|_| Mutex::default()).collect(),
            appended: (0..partitions).map(|_| Notify::new()).collect(),
            changed: Notify::new(),
            ring_bytes_max: shared.config.tail_bytes_max / partitions,
        });
        let mut config = consumer_config(client, &shared.config.group, 16_384);
        // A partition newly followed is first fetched when the fetch that waits has come back.
        config.set("fetch.wait.max.ms", "100");
        tokio::spawn(follow(config, Arc::downgrade(&tail), Arc::downgrade(shared), shared.closed.clone()));
        tail
    }

    fn ring(&self, partition: u16) -> MutexGuard<'_, Ring> {
        // A ring is changed in steps that can't panic half-way.
        self.rings[usize::from(partition)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when `partition` has got more, or is no longer followed.
    pub(super) fn appended(&self, partition: u16) -> tokio::sync::futures::Notified<'_> {
        self.appended[usize::from(partition)].notified()
    }

    pub(super) fn lookup(&self, partition: u16, offset: u64, bytes_max: usize) -> Lookup {
        self.ring(partition).lookup(offset, bytes_max)
    }

    /// A reader has come.
    pub(super) fn enter(&self, partition: u16) {
        self.ring(partition).readers += 1;
    }

    /// A reader has gone.
    pub(super) fn leave(&self, partition: u16) {
        let mut ring = self.ring(partition);
        ring.readers -= 1;
        if ring.readers == 0 {
            ring.stop();
            self.changed.notify_one();
        }
    }

    /// Has `partition` followed from `offset` on, if it is not followed yet.
    pub(super) fn follow_from(&self, partition: u16, offset: u64) {
        let mut ring = self.ring(partition);
        if !ring.is_wanted {
            (ring.is_wanted, ring.first, ring.next) = (true, offset, offset);
            self.changed.notify_one();
        }
    }

    /// Takes a record in; false when it does not follow on what is there.
    fn push(&self, partition: u16, offset: u64, bytes: &[u8]) -> bool {
        let mut ring = self.ring(partition);
        if !ring.is_wanted || offset < ring.next {
            return true;
        }
        if offset > ring.next {
            return false;
        }
        ring.push(Record { offset, bytes: Bytes::copy_from_slice(bytes) }, self.ring_bytes_max);
        drop(ring);
        self.appended[usize::from(partition)].notify_waiters();
        true
    }

    /// Stops following: readers find out from the brokers where they stand.
    fn reset(&self, partition: u16) {
        self.ring(partition).stop();
        self.appended[usize::from(partition)].notify_waiters();
    }

    fn fail(&self, reason: &str) {
        for (ring, appended) in self.rings.iter().zip(&self.appended) {
            let mut ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.failure = Some(reason.to_owned());
            drop(ring);
            appended.notify_waiters();
        }
    }

    /// Wakes every reader, to find the log closed.
    fn close(&self) {
        self.appended.iter().for_each(Notify::notify_waiters);
    }

    /// By partition, its generation and from where it is to be followed.
    fn wanted(&self) -> Vec<Option<(u64, u64)>> {
        let wanted = |ring: &Mutex<Ring>| {
            let ring = ring.lock().unwrap_or_else(PoisonError::into_inner);
            ring.is_wanted.then_some((ring.generation, ring.next))
        };
        self.rings.iter().map(wanted).collect()
    }

    fn held_bytes(&self) -> usize {
        let bytes = |ring: &Mutex<Ring>| ring.lock().unwrap_or_else(PoisonError::into_inner).bytes;
        self.rings.iter().map(bytes).sum()
    }
}

/// A consumer that is told offset by offset what to read. It needs a group's name and never joins.
pub(super) fn consumer_config(client: &ClientConfig, group: &str, queued_kbytes_max: u32) -> ClientConfig {
    let mut config = client.clone();
    config
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // An offset that is gone is told, never silently replaced by another.
        .set("auto.offset.reset", "error")
        .set("fetch.queue.backoff.ms", "10")
        .set("fetch.error.backoff.ms", "100");
    if client.get("queued.max.messages.kbytes").is_none() {
        config.set("queued.max.messages.kbytes", queued_kbytes_max.to_string());
    }
    config
}

/// A list of partitions of `topic`, each at an offset.
pub(super) fn at_offsets(
    topic: &str,
    offsets: impl IntoIterator<Item = (u16, u64)>,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, i32::from(partition), Offset::Offset(offset as i64))?;
    }
    Ok(list)
}

/// Follows what is wanted until the log is closed or gone.
async fn follow(config: ClientConfig, tail: Weak<Tail>, shared: Weak<Shared>, closed: CancellationToken) {
    let rings = tail.clone();
    let mut consumer: Option<StreamConsumer<Aside>> = None;
    // By partition, the generation that is followed.
    let mut assigned: Vec<Option<u64>> = Vec::new();
    // Logged once, not at each try.
    let mut is_stopped = false;
    loop {
        let Some((tail, shared)) = tail.upgrade().zip(shared.upgrade()) else { break };
        assigned.resize(tail.rings.len(), None);
        let outcome = assign(&config, &tail, &shared, &mut consumer, &mut assigned);
        if let Err(error) = &outcome {
            if !is_stopped {
                tracing::warn!(log = shared.name, %error, "the log's tail can't be followed; trying again");
            }
            shared.metrics.retries.inc();
        }
        is_stopped = outcome.is_err();
        let received = async {
            match &consumer {
                Some(consumer) => consumer.recv().await,
                None => std::future::pending().await,
            }
        };
        let mut resets = Vec::new();
        tokio::select! {
            biased;
            () = closed.cancelled() => break,
            () = tail.changed.notified() => {}
            () = tokio::time::sleep(RETRY_WAIT), if outcome.is_err() => {}
            received = received => match received {
                Ok(message) => {
                    let (partition, offset) = (message.partition() as u16, message.offset().max(0) as u64);
                    let bytes = message.payload().unwrap_or_default();
                    shared.seen(partition, offset + 1);
                    shared.metrics.tail_records.inc();
                    shared.metrics.observe_record(bytes.len());
                    if !tail.push(partition, offset, bytes) {
                        resets.push(partition);
                    }
                    shared.metrics.tail_bytes.set(tail.held_bytes() as i64);
                }
                // It is not said which partition: each reader asks where its own stands.
                Err(error) if is_out_of_range(&error) => {
                    resets.extend((0..).zip(&assigned).filter(|(_, assigned)| assigned.is_some()).map(|(at, _)| at));
                }
                Err(error) if code_of(&error).is_some_and(is_final) => {
                    tracing::error!(log = shared.name, %error, "the log's tail can't be followed");
                    tail.fail(&error.to_string());
                }
                // The brokers are away, all of them: a new client asks the first ones again, whatever this one
                // has learned since.
                Err(error) if code_of(&error) == Some(RDKafkaErrorCode::AllBrokersDown) => {
                    tracing::debug!(log = shared.name, %error, "following the log's tail with a new client");
                    drop_aside(consumer.take());
                    assigned.fill(None);
                    shared.metrics.retries.inc();
                    tokio::select! {
                        () = closed.cancelled() => break,
                        () = tokio::time::sleep(RETRY_WAIT_MAX) => {}
                    }
                }
                // librdkafka comes back by itself.
                Err(error) => tracing::debug!(log = shared.name, %error, "following the log's tail"),
            }
        }
        for partition in resets {
            tail.reset(partition);
            shared.metrics.tail_resets.inc();
        }
    }
    if let Some(tail) = rings.upgrade() {
        tail.close();
    }
    if let Some(consumer) = consumer {
        drop_aside(consumer);
    }
}

/// Brings what the consumer follows in line with what is wanted.
fn assign(
    config: &ClientConfig,
    tail: &Tail,
    shared: &Shared,
    consumer: &mut Option<StreamConsumer<Aside>>,
    assigned: &mut [Option<u64>],
) -> Result<(), KafkaError> {
    let wanted = tail.wanted();
    let generation = |wanted: &Option<(u64, u64)>| wanted.map(|(generation, _)| generation);
    let changed: Vec<usize> =
        (0..assigned.len()).filter(|at| generation(&wanted[*at]) != assigned[*at]).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let consumer = match consumer {
        Some(consumer) => consumer,
        None => consumer.insert(config.create_with_context(Aside)?),
    };
    let topic = &shared.config.topic;
    let ended: Vec<usize> = changed.iter().copied().filter(|at| assigned[*at].is_some()).collect();
    if !ended.is_empty() {
        consumer.incremental_unassign(&at_offsets(topic, ended.iter().map(|at| (*at as u16, 0)))?)?;
        ended.iter().for_each(|at| assigned[*at] = None);
    }
    let begun = changed.iter().filter_map(|at| Some((*at as u16, wanted[*at]?)));
    let begun: Vec<(u16, (u64, u64))> = begun.collect();
    if !begun.is_empty() {
        let offsets = begun.iter().map(|(partition, (_, offset))| (*partition, *offset));
        consumer.incremental_assign(&at_offsets(topic, offsets)?)?;
        for (partition, (generation, _)) in begun {
            assigned[usize::from(partition)] = Some(generation);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(lookup: Lookup) -> Vec<u64> {
        match lookup {
            Lookup::Records(records) => records.iter().map(|record| record.offset).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn a_ring_keeps_the_newest_and_says_what_is_behind_it() {
        let mut ring = Ring { is_wanted: true, first: 10, next: 10, ..Ring::default() };
        assert!(matches!(ring.lookup(10, 100), Lookup::Wait));
        for offset in 10..15 {
            ring.push(Record { offset, bytes: Bytes::from_static(b"0123456789") }, 30);
        }
        assert_eq!((ring.first, ring.next, ring.bytes), (12, 15, 30));
        assert!(matches!(ring.lookup(11, 100), Lookup::Behind(12)));
        assert_eq!(offsets(ring.lookup(12, 100)), [12, 13, 14]);
        assert_eq!(offsets(ring.lookup(12, 25)), [12, 13]);
        assert_eq!(offsets(ring.lookup(13, 1)), [13], "one at least");
        assert!(matches!(ring.lookup(15, 100), Lookup::Wait));
        ring.push(Record { offset: 15, bytes: Bytes::from(vec![0; 100]) }, 30);
        assert_eq!(offsets(ring.lookup(15, 1)), [15], "the newest stays, however large");
        ring.stop();
        assert!(matches!(ring.lookup(15, 1), Lookup::Idle));
    }

    #[test]
    fn a_hole_is_noticed_and_what_is_old_is_not_taken_again() {
        let tail = Tail {
            rings: vec![Mutex::default()],
            appended: vec![Notify::new()],
            changed: Notify::new(),
            ring_bytes_max: 1_000,
        };
        assert!(tail.push(0, 7, b"nobody follows"));
        tail.enter(0);
        tail.follow_from(0, 5);
        tail.follow_from(0, 9);
        assert!(tail.push(0, 5, b"a"));
        assert!(tail.push(0, 5, b"a"));
        assert!(!tail.push(0, 7, b"c"));
        assert_eq!(offsets(tail.lookup(0, 5, 100)), [5]);
        assert_eq!(tail.wanted(), [Some((0, 6))]);
        tail.reset(0);
        tail.follow_from(0, 6);
        assert_eq!(tail.wanted(), [Some((1, 6))], "followed anew");
        tail.leave(0);
        assert_eq!(tail.wanted(), [None]);
    }
}
