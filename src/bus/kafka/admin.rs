//! The topic: made where it is missing, looked at where it is not, asked for its offsets.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{KafkaBusConfig, RECORD_BYTES_MAX, Shared};
use crate::bus::{Bounds, BusError};
use crate::kafka::{Aside, Trouble, code_of, drop_aside, lasting_topic, take_in};

/// How long one question may take.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// How long a topic's id is waited for from brokers that have just answered.
const TOPIC_ID_MAX: Duration = Duration::from_secs(2);
/// What a batch takes beside one record.
const BATCH_OVERHEAD_BYTES: usize = 4096;

/// Asks about the topic, and changes it.
pub(super) struct Admin {
    client: ClientConfig,
    topic: Arc<str>,
    /// For questions; it is in no group and fetches nothing. One that no broker served is replaced: the next one
    /// asks the first brokers again, whatever was learned since (see [`Orphaned`](crate::kafka::Orphaned)).
    asker: Mutex<Arc<BaseConsumer<Trouble>>>,
    trouble: Trouble,
}

impl Admin {
    pub(super) fn new(mut client: ClientConfig, config: &KafkaBusConfig) -> Result<Self, KafkaError> {
        // Producers and this one would have the broker make a topic that was deleted, with settings of
        // its own.
        client.set("allow.auto.create.topics", "false");
        let trouble = Trouble::default();
        let asker = client.create_with_context(trouble.clone())?;
        Ok(Self { client, topic: config.topic.as_str().into(), asker: Mutex::new(Arc::new(asker)), trouble })
    }

    /// What every client of the log is made with.
    pub(super) fn client_config(&self) -> &ClientConfig {
        &self.client
    }

    /// Why the last question had no answer, as far as the client said.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.reason()
    }

    /// Asks on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&BaseConsumer<Trouble>, &str) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let asker = self.asker.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (topic, trouble) = (self.topic.clone(), self.trouble.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let answer = question(&asker, &topic);
            if answer.is_ok() {
                asker.poll(Duration::ZERO);
                trouble.clear();
            } else {
                take_in(&asker);
            }
            answer
        });
        let answer = asked.await.unwrap_or(Err(KafkaError::Canceled));
        if answer.as_ref().err().and_then(code_of).is_some_and(is_unserved) {
            let next = Arc::new(self.client.create_with_context(self.trouble.clone())?);
            let last =
                std::mem::replace(&mut *self.asker.lock().unwrap_or_else(PoisonError::into_inner), next);
            drop_aside(last);
        }
        answer
    }

    /// The cluster's id.
    pub(super) async fn cluster_id(&self) -> Result<String, KafkaError> {
        self.ask(|asker, _| {
            let unknown = KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut);
            asker.client().fetch_cluster_id(REQUEST_MAX).ok_or(unknown)
        })
        .await
    }

    /// The topic's own id, by which it is told from one that was made again under the same name; `None`
    /// where the brokers give topics none.
    pub(super) async fn topic_id(&self) -> Result<Option<u128>, KafkaError> {
        use RDKafkaErrorCode as Code;
        self.ask(|asker, topic| {
            // librdkafka waits for this, and spins for what it takes the controller for: while that is away, a
            // request of an admin takes a whole processor.
            asker.fetch_metadata(Some(topic), REQUEST_MAX)?;
            match stk_topic_id::topic_id(asker.client(), topic, TOPIC_ID_MAX) {
                Err(KafkaError::MetadataFetch(Code::UnsupportedVersion | Code::UnsupportedFeature)) => {
                    Ok(None)
                }
                answer => answer,
            }
        })
        .await
    }

    pub(super) async fn bounds(&self, partition: u16) -> Result<Bounds, KafkaError> {
        let ask = move |asker: &BaseConsumer<Trouble>, topic: &str| {
            asker.fetch_watermarks(topic, i32::from(partition), REQUEST_MAX)
        };
        let (first, next) = self.ask(ask).await?;
        Ok(Bounds { first: first.max(0) as u64, next: next.max(0) as u64 })
    }

    /// By partition, the first offset whose record is not older than `since_ms` (since the epoch);
    /// `None` where all are older.
    pub(super) async fn offsets_since(
        &self,
        partitions: &[u16],
        since_ms: i64,
    ) -> Result<BTreeMap<u16, Option<u64>>, KafkaError> {
        let mut times = TopicPartitionList::new();
        for partition in partitions {
            times.add_partition_offset(&self.topic, i32::from(*partition), Offset::Offset(since_ms))?;
        }
        let found = self.ask(move |asker, _| asker.offsets_for_times(times, REQUEST_MAX)).await?;
        let mut offsets = BTreeMap::new();
        for element in found.elements() {
            element.error()?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset.max(0) as u64),
                _ => None,
            };
            offsets.insert(element.partition() as u16, offset);
        }
        Ok(offsets)
    }

    /// Deletes the records before the offset of each partition; the new beginnings.
    pub(super) async fn delete_before(&self, offsets: &[(u16, u64)]) -> Result<Vec<(u16, u64)>, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let offset = Offset::Offset(*offset as i64);
            list.add_partition_offset(&self.topic, i32::from(*partition), offset)?;
        }
        let admin = self.admin()?;
        let deleted = admin.delete_records(&list, &options()).await;
        drop_aside(admin);
        let mut firsts = Vec::new();
        for element in deleted?.elements() {
            element.error()?;
            if let Offset::Offset(first) = element.offset() {
                firsts.push((element.partition() as u16, first.max(0) as u64));
            }
        }
        Ok(firsts)
    }

    /// Replicas of each partition; `None` where there is no such topic.
    async fn replicas(&self) -> Result<Option<Vec<usize>>, KafkaError> {
        self.ask(|asker, topic| {
            let metadata = asker.fetch_metadata(Some(topic), REQUEST_MAX)?;
            let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
                return Ok(None);
            };
            match found.error().map(RDKafkaErrorCode::from) {
                None => {}
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                    return Ok(None);
                }
                Some(code) => return Err(KafkaError::MetadataFetch(code)),
            }
            Ok(Some(found.partitions().iter().map(|partition| partition.replicas().len()).collect()))
        })
        .await
    }

    async fn make(&self, config: &KafkaBusConfig) -> Result<(), KafkaError> {
        let bytes_max = (RECORD_BYTES_MAX + BATCH_OVERHEAD_BYTES).to_string();
        let topic = lasting_topic(&config.topic, config.partitions, config.replication)
            .set("max.message.bytes", &bytes_max)
            // The brokers' clock judges ages, and no producer's can get a record refused.
            .set("message.timestamp.type", "LogAppendTime");
        let admin = self.admin()?;
        let made = admin.create_topics(&[topic], &options()).await;
        drop_aside(admin);
        for outcome in made? {
            match outcome {
                // Another process was quicker: what it made is looked at like any other.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(KafkaError::AdminOp(code)),
            }
        }
        Ok(())
    }

    /// The topic's settings by name.
    async fn settings(&self) -> Result<BTreeMap<String, String>, KafkaError> {
        let admin = self.admin()?;
        let found = admin.describe_configs(&[ResourceSpecifier::Topic(&self.topic)], &options()).await;
        drop_aside(admin);
        let mut settings = BTreeMap::new();
        for resource in found? {
            let resource = resource.map_err(KafkaError::AdminOp)?;
            let entries = resource.entries.into_iter();
            settings.extend(entries.filter_map(|entry| Some((entry.name, entry.value?))));
        }
        Ok(settings)
    }

    /// Made for each use: it has a thread and connections of its own, and uses are rare.
    fn admin(&self) -> Result<AdminClient<Aside>, KafkaError> {
        self.client.create_with_context(Aside)
    }
}

/// Whether no broker has answered.
fn is_unserved(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::AllBrokersDown | Code::BrokerTransportFailure | Code::OperationTimedOut | Code::Resolve
    )
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(REQUEST_MAX)).operation_timeout(Some(REQUEST_MAX))
}

/// What was found about the topic.
pub(super) struct Found {
    /// The largest record it takes.
    pub(super) record_bytes_max: usize,
    /// What endangers the promises.
    pub(super) warnings: Vec<String>,
}

/// Makes the topic, or makes sure that the one there is can be the log.
pub(super) async fn make_or_check(shared: &Shared) -> Result<Found, BusError> {
    let (admin, config) = (&shared.admin, &shared.config);
    let wait_max = config.open_wait_max;
    if let Some(replicas) = shared.patiently(wait_max, || admin.replicas()).await? {
        return look(shared, &replicas).await;
    }
    shared.patiently(wait_max, || admin.make(config)).await?;
    tracing::info!(log = shared.name, partitions = config.partitions, "the topic was made");
    // A topic just made takes a moment to be known everywhere.
    let known = || async {
        let replicas = admin.replicas().await?;
        replicas.ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition))
    };
    let replicas = shared.patiently(wait_max, known).await?;
    look(shared, &replicas).await
}

/// Makes sure that the topic is there and can be the log; makes nothing.
pub(super) async fn check(shared: &Shared) -> Result<Found, BusError> {
    let wait_max = shared.config.open_wait_max;
    let replicas = shared.patiently(wait_max, || shared.admin.replicas()).await?;
    let replicas = replicas.ok_or_else(|| BusError::Missing { path: shared.name.clone() })?;
    look(shared, &replicas).await
}

async fn look(shared: &Shared, replicas: &[usize]) -> Result<Found, BusError> {
    let settings = shared.patiently(shared.config.open_wait_max, || shared.admin.settings()).await?;
    judge(&shared.config, replicas, &settings).map_err(|reason| shared.failed(reason))
}

/// Judges a topic: pure, so that every finding can be tested.
fn judge(
    config: &KafkaBusConfig,
    replicas: &[usize],
    settings: &BTreeMap<String, String>,
) -> Result<Found, String> {
    let setting = |name: &str| settings.get(name).map_or("", String::as_str);
    let topic = &config.topic;
    if replicas.len() != usize::from(config.partitions) {
        return Err(format!(
            "topic {topic} has {} partitions, but {} are configured: if it was made with {}, set \
             log.partitions={}; partitions that were added to it later can't be taken away, and symbols have \
             moved between them: make a new topic (log.kafka_topic) and a new store of days, and keep the old \
             ones to read",
            replicas.len(),
            config.partitions,
            replicas.len(),
            replicas.len()
        ));
    }
    let policy = setting("cleanup.policy");
    if policy.split(',').any(|policy| policy.trim() == "compact") {
        return Err(format!(
            "topic {topic} has cleanup.policy={policy}, which drops records of a log: set it to delete, or \
             name another topic"
        ));
    }
    let mut warnings = Vec::new();
    for name in ["retention.ms", "retention.bytes"] {
        if !matches!(setting(name), "-1" | "") {
            warnings.push(format!(
                "topic {topic} has {name}={}, so that Kafka drops records whether they are processed or not: \
                 set it to -1, stk trims by itself",
                setting(name)
            ));
        }
    }
    let copies = replicas.iter().copied().min().unwrap_or(0);
    if copies < usize::from(config.replication) {
        warnings.push(format!(
            "topic {topic} has partitions with {copies} copies, but log.kafka_replication is {}",
            config.replication
        ));
    }
    let in_sync_min: usize = setting("min.insync.replicas").parse().unwrap_or(1);
    if copies > 1 && in_sync_min < 2 {
        warnings.push(format!(
            "topic {topic} has min.insync.replicas={in_sync_min}: while the others are away a record is \
             accepted by one broker alone; set it to 2"
        ));
    }
    if copies > 1 && in_sync_min >= copies {
        warnings.push(format!(
            "topic {topic} has min.insync.replicas={in_sync_min} of {copies} copies: no append is accepted \
             while one broker is away"
        ));
    }
    if setting("unclean.leader.election.enable") == "true" {
        warnings.push(format!(
            "topic {topic} has unclean.leader.election.enable=true: a broker that lags may become leader, \
             and accepted records are lost then; set it to false"
        ));
    }
    let message_bytes_max = setting("max.message.bytes").parse().unwrap_or(1 << 20);
    let record_bytes_max = usize::saturating_sub(message_bytes_max, BATCH_OVERHEAD_BYTES);
    if record_bytes_max < RECORD_BYTES_MAX {
        warnings.push(format!(
            "topic {topic} has max.message.bytes={message_bytes_max}: records above {record_bytes_max} bytes \
             are refused; set it to {}",
            RECORD_BYTES_MAX + BATCH_OVERHEAD_BYTES
        ));
    }
    Ok(Found { record_bytes_max, warnings })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(
        replication: u16,
        replicas: &[usize],
        settings: &[(&str, &str)],
    ) -> Result<Vec<String>, String> {
        let config = KafkaBusConfig { replication, ..KafkaBusConfig::new("b:9092", "ticks", 2) };
        let mut all: BTreeMap<_, _> = [
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            ("min.insync.replicas", "2"),
            ("max.message.bytes", "10000000"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        all.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        judge(&config, replicas, &all).map(|found| found.warnings)
    }

    #[test]
    fn a_topic_as_stk_makes_it_is_good() {
        assert_eq!(judged(3, &[3, 3], &[]), Ok(vec![]));
        assert_eq!(judged(1, &[1, 1], &[("min.insync.replicas", "1")]), Ok(vec![]));
    }

    #[test]
    fn what_can_be_no_log_is_refused_by_name() {
        let other = judged(3, &[3, 3, 3], &[]).unwrap_err();
        assert!(other.starts_with("topic ticks has 3 partitions, but 2 are configured"), "{other}");
        let compacted = judged(3, &[3, 3], &[("cleanup.policy", "compact,delete")]).unwrap_err();
        assert!(compacted.starts_with("topic ticks has cleanup.policy=compact,delete"), "{compacted}");
    }

    #[test]
    fn what_endangers_the_promises_is_told() {
        for (setting, value, told) in [
            ("retention.ms", "604800000", "has retention.ms=604800000, so that Kafka drops records"),
            ("retention.bytes", "1000", "has retention.bytes=1000"),
            ("min.insync.replicas", "1", "accepted by one broker alone"),
            ("min.insync.replicas", "3", "no append is accepted while one broker is away"),
            ("unclean.leader.election.enable", "true", "accepted records are lost then"),
            ("max.message.bytes", "1048588", "records above 1044492 bytes are refused"),
        ] {
            let warnings = judged(3, &[3, 3], &[(setting, value)]).unwrap();
            assert!(matches!(&warnings[..], [one] if one.contains(told)), "{setting}={value}: {warnings:?}");
        }
        let warnings = judged(3, &[2, 3], &[("min.insync.replicas", "2")]).unwrap();
        assert!(
            warnings[0].contains("partitions with 2 copies, but log.kafka_replication is 3"),
            "{warnings:?}"
        );
    }
}
