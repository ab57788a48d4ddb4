//! The topics as the brokers know them: partitions, what they hold, and how far they were read.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::Key;
use super::dead::MAKE_MAX;
use super::line::Note;
use crate::kafka::{Aside, SettingsError, Watch, code_of, drop_aside, is_final, lasting_topic};

/// How long one question may take.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// Reads the topics. It belongs to no group: which partitions it reads is configured, and the
/// group's name is only where the brokers keep how far it has come.
pub(super) struct Reading {
    /// Taken out when this is dropped.
    consumer: Option<Arc<StreamConsumer<Watch>>>,
    topics: Vec<String>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            drop_aside(consumer);
        }
    }
}

/// A partition as it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Key,
    /// The oldest message.
    pub(super) first: u64,
    /// One past the newest message.
    pub(super) next: u64,
    /// How far it was read, and the note beside it.
    pub(super) committed: Option<(u64, Option<Note>)>,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Look {
    /// The cluster's id; empty where it has none.
    pub(super) cluster: String,
    pub(super) partitions: Vec<Found>,
}

/// Why nothing was found.
#[derive(Debug)]
pub(super) enum LookError {
    /// There is no topic of that name.
    NoTopic(String),
    /// The brokers said so.
    Kafka(KafkaError),
}

impl From<KafkaError> for LookError {
    fn from(error: KafkaError) -> Self {
        Self::Kafka(error)
    }
}

impl LookError {
    /// Whether asking again can't help.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::NoTopic(_) => true,
            Self::Kafka(error) => code_of(error).is_none_or(is_final),
        }
    }
}

impl std::fmt::Display for LookError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoTopic(topic) => write!(f, "there is no topic {topic}"),
            Self::Kafka(error) => write!(f, "{error}"),
        }
    }
}

impl Reading {
    pub(super) fn new(
        client: &ClientConfig,
        topics: &[String],
        group: &str,
        watch: &Watch,
    ) -> Result<Self, SettingsError> {
        let mut config = client.clone();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // An offset that is gone is told as a gap, never silently replaced by another.
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            .set("statistics.interval.ms", "1000");
        if client.get("queued.max.messages.kbytes").is_none() {
            config.set("queued.max.messages.kbytes", "16384");
        }
        let consumer = config.create_with_context(watch.clone())?;
        Ok(Self { consumer: Some(Arc::new(consumer)), topics: topics.to_vec() })
    }

    pub(super) fn consumer(&self) -> &Arc<StreamConsumer<Watch>> {
        self.consumer.as_ref().expect("it is taken out only at the end")
    }

    /// The number of each partition of `topic`, and how many copies it has. Blocks.
    fn partitions(consumer: &StreamConsumer<Watch>, topic: &str) -> Result<Vec<(i32, u16)>, LookError> {
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST_MAX)?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return Err(LookError::NoTopic(topic.to_owned()));
        };
        match found.error().map(RDKafkaErrorCode::from) {
            None => {}
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                return Err(LookError::NoTopic(topic.to_owned()));
            }
            Some(code) => return Err(KafkaError::MetadataFetch(code).into()),
        }
        let partitions = found.partitions().iter();
        Ok(partitions.map(|partition| (partition.id(), partition.replicas().len() as u16)).collect())
    }

    /// How many copies the partitions of `topic` have, at most. Blocks.
    fn copies(consumer: &StreamConsumer<Watch>, topic: &str) -> Result<u16, LookError> {
        let partitions = Self::partitions(consumer, topic)?;
        Ok(partitions.into_iter().map(|(_, copies)| copies).max().unwrap_or(1))
    }

    /// Looks at the partitions that are wanted. Blocks.
    pub(super) fn look(
        consumer: &StreamConsumer<Watch>,
        topics: &[String],
        wanted: Option<&[u16]>,
    ) -> Result<Look, LookError> {
        let cluster = consumer.client().fetch_cluster_id(REQUEST_MAX).unwrap_or_default();
        let mut list = TopicPartitionList::new();
        let mut keys = Vec::new();
        for (index, topic) in topics.iter().enumerate() {
            for (partition, _) in Self::partitions(consumer, topic)? {
                let number = partition as u16;
                if wanted.is_none_or(|wanted| wanted.contains(&number)) {
                    list.add_partition(topic, partition);
                    keys.push(Key { topic: index as u16, partition: number });
                }
            }
        }
        let committed = consumer.committed_offsets(list, REQUEST_MAX)?;
        let mut partitions = Vec::new();
        for key in keys {
            let topic = &topics[usize::from(key.topic)];
            let partition = i32::from(key.partition);
            let (first, next) = consumer.fetch_watermarks(topic, partition, REQUEST_MAX)?;
            let element = committed.find_partition(topic, partition);
            let committed = element.and_then(|element| match element.offset() {
                Offset::Offset(offset) => Some((offset.max(0) as u64, Note::parse(element.metadata()))),
                _ => None,
            });
            partitions.push(Found { key, first: first.max(0) as u64, next: next.max(0) as u64, committed });
        }
        Ok(Look { cluster, partitions })
    }

    fn list(&self, offsets: &[(Key, u64)]) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (key, offset) in offsets {
            let topic = &self.topics[usize::from(key.topic)];
            let offset = Offset::Offset(*offset as i64);
            list.add_partition_offset(topic, i32::from(key.partition), offset)?;
        }
        Ok(list)
    }

    /// Hands over the messages of `spans` (of offsets; one of each partition), which were read before
    /// and may be gone in part. Each partition's are in order. Blocks.
    ///
    /// Errors: the brokers are silent, or refuse.
    pub(super) fn read_again(
        client: &ClientConfig,
        group: &str,
        topics: &[String],
        spans: &[(Key, Range<u64>)],
        messages: &mpsc::Sender<OwnedMessage>,
    ) -> Result<(), KafkaError> {
        let mut config = client.clone();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "false")
            // So that the end is known where the last offsets are no messages.
            .set("enable.partition.eof", "true");
        let consumer: BaseConsumer<Aside> = config.create_with_context(Aside)?;
        for (index, topic) in topics.iter().enumerate() {
            let of_topic = spans.iter().filter(|(key, _)| usize::from(key.topic) == index);
            let mut left: BTreeMap<i32, u64> = BTreeMap::new();
            let mut list = TopicPartitionList::new();
            for (key, span) in of_topic.filter(|(_, span)| !span.is_empty()) {
                let partition = i32::from(key.partition);
                list.add_partition_offset(topic, partition, Offset::Offset(span.start as i64))?;
                left.insert(partition, span.end);
            }
            consumer.assign(&list)?;
            while !left.is_empty() {
                let message = match consumer.poll(REQUEST_MAX) {
                    Some(Ok(message)) => message,
                    Some(Err(KafkaError::PartitionEOF(partition))) => {
                        left.remove(&partition);
                        continue;
                    }
                    Some(Err(error)) => return Err(error),
                    None => return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)),
                };
                let (partition, offset) = (message.partition(), message.offset().max(0) as u64);
                let Some(end) = left.get(&partition).copied() else { continue };
                // Nobody may want to know any more.
                if offset < end && messages.blocking_send(message.detach()).is_err() {
                    return Ok(());
                }
                if offset + 1 >= end {
                    left.remove(&partition);
                }
            }
        }
        Ok(())
    }

    /// Reads partitions from these offsets on, whatever was read of them before.
    pub(super) fn assign(&self, offsets: &[(Key, u64)], again: &[(Key, u64)]) -> Result<(), KafkaError> {
        if !again.is_empty() {
            self.consumer().incremental_unassign(&self.list(again)?)?;
        }
        let all: Vec<_> = offsets.iter().chain(again).copied().collect();
        self.consumer().incremental_assign(&self.list(&all)?)
    }

    /// Tells the brokers how far reading has come, without waiting for them.
    pub(super) fn commit(&self, done: &[(Key, u64, Note)]) -> Result<(), KafkaError> {
        self.consumer().commit(&self.noted(done)?, CommitMode::Async)
    }

    /// The same for one partition, waiting until the brokers keep it. Blocks.
    pub(super) fn commit_and_wait(
        consumer: &StreamConsumer<Watch>,
        list: &TopicPartitionList,
    ) -> Result<(), KafkaError> {
        consumer.commit(list, CommitMode::Sync)
    }

    pub(super) fn noted(&self, done: &[(Key, u64, Note)]) -> Result<TopicPartitionList, KafkaError> {
        let offsets: Vec<_> = done.iter().map(|(key, offset, _)| (*key, *offset)).collect();
        let list = self.list(&offsets)?;
        for (key, _, note) in done {
            let topic = &self.topics[usize::from(key.topic)];
            if let Some(mut element) = list.find_partition(topic, i32::from(key.partition)) {
                element.set_metadata(note.text());
            }
        }
        Ok(list)
    }
}

/// Makes the dead-letter topic where it is missing, with as many copies as the `topics` have that are read
/// by `consumer`.
pub(super) async fn make_dead_topic(
    client: &ClientConfig,
    consumer: Arc<StreamConsumer<Watch>>,
    topics: Vec<String>,
    dead: &str,
) -> Result<(), LookError> {
    let asked = tokio::task::spawn_blocking(move || {
        let copies = topics.iter().map(|topic| Reading::copies(&consumer, topic));
        copies.collect::<Result<Vec<_>, _>>()
    });
    let copies = asked.await.unwrap_or(Err(KafkaError::Canceled.into()))?.into_iter().max();
    let admin: AdminClient<Aside> = client.create_with_context(Aside)?;
    let wanted = lasting_topic(dead, 1, copies.unwrap_or(1));
    let options = AdminOptions::new().request_timeout(Some(MAKE_MAX)).operation_timeout(Some(MAKE_MAX));
    let made = admin.create_topics(&[wanted], &options).await;
    drop_aside(admin);
    match made?.into_iter().next() {
        Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | None => Ok(()),
        // The topic may exist already. If it does not, the first dead letter fails and says so.
        Some(Err((
            _,
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed,
        ))) => {
            tracing::warn!(topic = dead, "the dead-letter topic may not be made; it has to be there");
            Ok(())
        }
        Some(Err((_, code))) => Err(KafkaError::AdminOp(code).into()),
    }
}
