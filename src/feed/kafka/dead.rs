//! Messages that make no tick: into a topic of their own, with where they came from and why.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::util::Timeout;
use tokio::task::JoinSet;

use super::Key;
use crate::kafka::{Kept, SettingsError, code_of, keep_brokers};

/// How many may be on their way; past it the feed waits.
const PENDING_MAX: usize = 64;
/// The largest message that is passed on.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Delivers messages to the dead-letter topic.
pub(super) struct DeadLetters {
    producer: Arc<FutureProducer<Kept>>,
    kept: Kept,
    topic: String,
    group: String,
    pending: JoinSet<Result<(Key, u64), String>>,
}

impl DeadLetters {
    pub(super) fn new(client: &ClientConfig, topic: &str, group: &str) -> Result<Self, SettingsError> {
        let mut config = client.clone();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // The broker would make a missing topic with settings of its own.
            .set("allow.auto.create.topics", "false")
            .set("message.timeout.ms", "0")
            .set("message.max.bytes", MESSAGE_BYTES_MAX.to_string())
            .set("statistics.interval.ms", "1000");
        let kept = Kept::default();
        let producer = Arc::new(config.create_with_context(kept.clone())?);
        let (topic, group) = (topic.to_owned(), group.to_owned());
        Ok(Self { producer, kept, topic, group, pending: JoinSet::new() })
    }

    /// What keeps its producer in touch with `brokers`, as long as this is there.
    pub(super) fn keep_brokers(
        &self,
        brokers: String,
        retries: Counter,
    ) -> impl Future<Output = ()> + 'static {
        let (producer, orphaned) = (Arc::downgrade(&self.producer), self.kept.orphaned.clone());
        keep_brokers(
            producer,
            |producer: &FutureProducer<Kept>| producer.client(),
            orphaned,
            brokers,
            retries,
        )
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.pending.len() >= PENDING_MAX
    }

    /// Sends `message` on its way.
    pub(super) fn send(&mut self, key: Key, message: OwnedMessage, reason: &str) {
        let offset = message.offset().max(0) as u64;
        let mut headers = message.headers().cloned().unwrap_or_default();
        for (name, value) in [
            ("stk.topic", message.topic()),
            ("stk.partition", &message.partition().to_string()),
            ("stk.offset", &message.offset().to_string()),
            ("stk.reason", reason),
            ("stk.group", &self.group),
        ] {
            headers = headers.insert(Header { key: name, value: Some(value) });
        }
        let (producer, topic) = (self.producer.clone(), self.topic.clone());
        self.pending.spawn(async move {
            let sent = deliver(&producer, &topic, &message, headers).await;
            sent.map(|()| (key, offset)).map_err(|error| format!("topic {topic}: {error}"))
        });
    }

    /// The next one that is delivered, with its partition and offset; never where none is on its
    /// way. Cancel-safe.
    ///
    /// Errors: it can't be delivered, for good.
    pub(super) async fn delivered(&mut self) -> Result<(Key, u64), String> {
        match self.pending.join_next().await {
            Some(Ok(delivered)) => delivered,
            Some(Err(error)) => Err(format!("topic {}: {error}", self.topic)),
            None => std::future::pending().await,
        }
    }
}

async fn deliver(
    producer: &FutureProducer<Kept>,
    topic: &str,
    message: &OwnedMessage,
    headers: OwnedHeaders,
) -> Result<(), KafkaError> {
    let record = |payload, headers| FutureRecord::<[u8], [u8]> {
        topic,
        partition: None,
        payload,
        key: message.key(),
        timestamp: None,
        headers: Some(headers),
    };
    let payload = message.payload();
    let outcome = producer.send(record(payload, headers.clone()), Timeout::Never).await;
    let Err((error, _)) = outcome else { return Ok(()) };
    if code_of(&error) != Some(RDKafkaErrorCode::MessageSizeTooLarge) {
        return Err(error);
    }
    // Where it came from and why is kept; the message itself is still at its source.
    let bytes = payload.map_or(0, <[u8]>::len).to_string();
    let headers = headers.insert(Header { key: "stk.payload_bytes_left_out", value: Some(&bytes) });
    let outcome = producer.send(record(None, headers), Timeout::Never).await;
    outcome.map(|_| ()).map_err(|(error, _)| error)
}

/// How long the making of the topic may take.
pub(super) const MAKE_MAX: Duration = Duration::from_secs(10);
