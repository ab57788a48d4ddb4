//! What the feed out of Kafka counts.

use std::sync::atomic::AtomicI64;

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use prometheus_client::registry::Registry;

/// What a [`KafkaFeed`](super::KafkaFeed) counts.
#[derive(Clone, Debug, Default)]
pub struct KafkaFeedMetrics {
    /// Messages read.
    pub messages: Counter,
    /// Ticks made of them.
    pub ticks: Counter,
    /// Messages of a kind that is not wanted.
    pub skipped: Counter,
    /// Messages that made no tick and went to the dead-letter topic.
    pub dead_letters: Counter,
    /// Messages among them with a tick too far ahead of the clock.
    pub ahead: Counter,
    /// Messages dropped by their sequence number: they came before, or too late.
    pub duplicates: Counter,
    /// Sequence numbers that never came.
    pub missed: Counter,
    /// Messages that the source no longer had when they were to be read.
    pub trimmed: Counter,
    /// Messages not yet read, when last looked at.
    pub lag_messages: Gauge<i64, AtomicI64>,
    /// Questions asked again since the brokers did not answer.
    pub retries: Counter,
    /// Brokers with an open connection.
    pub brokers_up: Gauge<i64, AtomicI64>,
}

impl KafkaFeedMetrics {
    /// Registers them under `feed_kafka_…`, with the feed's `group` as a label.
    pub fn register(&self, registry: &mut Registry, group: &str) {
        let registry = registry.sub_registry_with_label(("group".into(), group.to_owned().into()));
        let registry = registry.sub_registry_with_prefix("feed_kafka");
        registry.register("messages", "Messages read", self.messages.clone());
        registry.register("ticks", "Ticks made of messages", self.ticks.clone());
        registry.register("skipped", "Messages of a kind that is not wanted", self.skipped.clone());
        registry.register(
            "dead_letters",
            "Messages that made no tick and went to the dead-letter topic",
            self.dead_letters.clone(),
        );
        registry.register("ahead", "Dead letters with a tick too far ahead of the clock", self.ahead.clone());
        registry.register("duplicates", "Messages dropped by their sequence number", self.duplicates.clone());
        registry.register("missed", "Sequence numbers that never came", self.missed.clone());
        registry.register(
            "trimmed",
            "Messages that the source no longer had when they were to be read",
            self.trimmed.clone(),
        );
        registry.register(
            "lag_messages",
            "Messages not yet read, when last looked at",
            self.lag_messages.clone(),
        );
        registry.register(
            "retries",
            "Questions asked again of brokers that were silent",
            self.retries.clone(),
        );
        registry.register("brokers_up", "Brokers with an open connection", self.brokers_up.clone());
    }
}
