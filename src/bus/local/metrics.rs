//! What the log counts.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use prometheus_client::registry::{Registry, Unit};

/// What a [`LocalBus`](super::LocalBus) counts.
#[derive(Clone, Debug, Default)]
pub struct LocalBusMetrics {
    /// Records appended.
    pub appended_records: Counter,
    /// Their bytes.
    pub appended_bytes: Counter,
    /// Syncs of the journal.
    pub syncs: Counter,
    /// Seconds spent in them.
    pub sync_seconds: Counter<f64, AtomicU64>,
    /// Bytes of records that wait for the writer's thread.
    pub queue_bytes: Gauge<i64, AtomicI64>,
    /// Appends that waited because the disk was behind.
    pub queue_waits: Counter,
    /// Waits of the writer for what is in memory to become tables, of 2 ms each.
    pub flush_waits: Counter,
    /// Appends that waited because nothing more may be dropped before it is released.
    pub release_waits: Counter,
    /// Appends refused because the disk was full.
    pub full_refusals: Counter,
    /// Records dropped by retention.
    pub trimmed_records: Counter,
    /// Bytes of the records held.
    pub held_bytes: Gauge<i64, AtomicI64>,
}

impl LocalBusMetrics {
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
        registry.register("syncs", "Syncs of the log", self.syncs.clone());
        registry.register_with_unit(
            "sync",
            "Time spent in syncs of the log",
            Unit::Seconds,
            self.sync_seconds.clone(),
        );
        registry.register_with_unit(
            "queue",
            "Records that wait to be written to the log",
            Unit::Bytes,
            self.queue_bytes.clone(),
        );
        registry.register(
            "queue_waits",
            "Appends that waited because the disk was behind",
            self.queue_waits.clone(),
        );
        registry.register(
            "flush_waits",
            "Waits of 2 ms for what is in memory to become tables",
            self.flush_waits.clone(),
        );
        registry.register(
            "release_waits",
            "Appends that waited because the log holds only records not yet released",
            self.release_waits.clone(),
        );
        registry.register(
            "full_refusals",
            "Appends refused because the disk was full",
            self.full_refusals.clone(),
        );
        registry.register("trimmed_records", "Records dropped by retention", self.trimmed_records.clone());
        registry.register_with_unit(
            "held",
            "Bytes of the records in the log",
            Unit::Bytes,
            self.held_bytes.clone(),
        );
    }
}
