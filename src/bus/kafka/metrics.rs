//! What the log in Kafka counts.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use prometheus_client::registry::{Registry, Unit};

use crate::kafka::Health;

/// What a [`KafkaBus`](super::KafkaBus) counts.
#[derive(Clone, Debug, Default)]
pub struct KafkaBusMetrics {
    /// Records delivered.
    pub appended_records: Counter,
    /// Their bytes.
    pub appended_bytes: Counter,
    /// Seconds from append to delivery, of all appends.
    pub delivery_seconds: Counter<f64, AtomicU64>,
    /// Records that could not be delivered.
    pub delivery_failures: Counter,
    /// Bytes of records that wait to be delivered.
    pub queue_bytes: Gauge<i64, AtomicI64>,
    /// Appends that waited because the brokers were behind.
    pub queue_waits: Counter,
    /// Brokers with an open connection.
    pub brokers_up: Gauge<i64, AtomicI64>,
    /// Questions asked again since the brokers did not answer.
    pub retries: Counter,
    /// Records that came at the tail.
    pub tail_records: Counter,
    /// Bytes of records kept for readers at the tail.
    pub tail_bytes: Gauge<i64, AtomicI64>,
    /// Times that following a partition had to begin anew.
    pub tail_resets: Counter,
    /// Records read by readers that caught up.
    pub catch_up_records: Counter,
    /// Consumers for readers that catch up.
    pub catch_up_consumers: Gauge<i64, AtomicI64>,
    /// Times that a reader waited for a consumer.
    pub catch_up_waits: Counter,
    /// Times that a reader took the consumer of one that did not use it.
    pub catch_up_steals: Counter,
    /// Records dropped by retention.
    pub trimmed_records: Counter,
    /// Changes of what this process processes.
    pub rebalances: Counter,
    /// Partitions that were lost: not let go of in time, or this process was silent.
    pub lost_partitions: Counter,
    /// Commits of the group's offsets that failed.
    pub commit_failures: Counter,
    /// Records seen, and their bytes: for the mean.
    seen_records: Counter,
    seen_bytes: Counter,
}

impl KafkaBusMetrics {
    pub(super) fn new(health: &Health) -> Self {
        Self { brokers_up: health.brokers_up(), ..Self::default() }
    }

    /// Takes note of a record's size.
    pub(super) fn observe_record(&self, bytes: usize) {
        self.seen_records.inc();
        self.seen_bytes.inc_by(bytes as u64);
    }

    /// The mean size of the records this process has seen; `None` before the first.
    pub(super) fn record_bytes_mean(&self) -> Option<f64> {
        let records = self.seen_records.get() + self.appended_records.get();
        let bytes = self.seen_bytes.get() + self.appended_bytes.get();
        (records > 0).then(|| bytes as f64 / records as f64)
    }

    /// Registers them under `bus_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("bus");
        registry.register("appended_records", "Records appended to the log", self.appended_records.clone());
        registry.register_with_unit(
            "appended",
            "Bytes of the records appended to the log",
            Unit::Bytes,
            self.appended_bytes.clone(),
        );
        registry.register_with_unit(
            "delivery",
            "Time from append to delivery, of all appends",
            Unit::Seconds,
            self.delivery_seconds.clone(),
        );
        registry.register(
            "delivery_failures",
            "Records that could not be delivered",
            self.delivery_failures.clone(),
        );
        registry.register_with_unit(
            "queue",
            "Records that wait to be written to the log",
            Unit::Bytes,
            self.queue_bytes.clone(),
        );
        registry.register(
            "queue_waits",
            "Appends that waited because the brokers were behind",
            self.queue_waits.clone(),
        );
        registry.register("brokers_up", "Brokers with an open connection", self.brokers_up.clone());
        registry.register(
            "retries",
            "Questions asked again of brokers that were silent",
            self.retries.clone(),
        );
        registry.register("tail_records", "Records that came at the tail", self.tail_records.clone());
        registry.register_with_unit(
            "tail",
            "Records kept for readers at the tail",
            Unit::Bytes,
            self.tail_bytes.clone(),
        );
        registry.register(
            "tail_resets",
            "Times that following a partition had to begin anew",
            self.tail_resets.clone(),
        );
        registry.register(
            "catch_up_records",
            "Records read by readers that caught up",
            self.catch_up_records.clone(),
        );
        registry.register(
            "catch_up_consumers",
            "Consumers for readers that catch up",
            self.catch_up_consumers.clone(),
        );
        registry.register(
            "catch_up_waits",
            "Times that a reader waited for a consumer",
            self.catch_up_waits.clone(),
        );
        registry.register(
            "catch_up_steals",
            "Times that a reader took the consumer of one that did not use it",
            self.catch_up_steals.clone(),
        );
        registry.register("trimmed_records", "Records dropped by retention", self.trimmed_records.clone());
        registry.register("rebalances", "Changes of what this process processes", self.rebalances.clone());
        registry.register(
            "lost_partitions",
            "Partitions not let go of in time, or lost by silence",
            self.lost_partitions.clone(),
        );
        registry.register(
            "commit_failures",
            "Commits of the group's offsets that failed",
            self.commit_failures.clone(),
        );
    }
}
