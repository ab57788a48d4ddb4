//! What hot in Redis counts.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use prometheus_client::registry::{Registry, Unit};

/// What a [`RedisHot`](super::RedisHot) and its reader's fallback count.
#[derive(Clone, Debug, Default)]
pub struct RedisHotMetrics {
    /// Pipelines sent by the writer: round trips.
    pub trips: Counter,
    /// Bytes of them.
    pub sent_bytes: Counter,
    /// States of symbols written.
    pub puts: Counter,
    /// Ticks appended to lists.
    pub ticks: Counter,
    /// States not written, since Redis had another one than was believed.
    pub conflicts: Counter,
    /// Times that a mark was not the one last written: Redis lost data, or another processor writes.
    pub losses: Counter,
    /// Times that all symbols of a partition were compared.
    pub reconciles: Counter,
    /// Partitions whose keys were removed, as they were of another log or timeline.
    pub purges: Counter,
    /// Rounds of the writer that failed.
    pub write_errors: Counter,
    /// Seconds spent in rounds.
    pub write_seconds: Counter<f64, AtomicU64>,
    /// How long the last round took, µs: how far Redis is behind at most, with the rest after it.
    pub round_us: Gauge<i64, AtomicI64>,
    /// Symbols whose state waits to be written.
    pub waiting_symbols: Gauge<i64, AtomicI64>,
    /// 1 while the writer can't reach Redis.
    pub writer_away: Gauge<i64, AtomicI64>,
    /// Questions that Redis did not answer.
    pub read_errors: Counter,
    /// Questions answered from the gateway's own memory.
    pub fallbacks: Counter,
    /// 1 while the gateway answers from its own memory.
    pub reader_away: Gauge<i64, AtomicI64>,
}

impl RedisHotMetrics {
    /// Registers them under `hot_redis_…`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("hot_redis");
        let counters = [
            ("trips", "Pipelines sent by the writer", &self.trips),
            ("puts", "States of symbols written", &self.puts),
            ("ticks", "Ticks appended to the lists of symbols", &self.ticks),
            ("conflicts", "States not written, since Redis had another than believed", &self.conflicts),
            ("losses", "Times Redis was found to have lost data or another writer", &self.losses),
            ("reconciles", "Times all symbols of a partition were compared", &self.reconciles),
            ("purges", "Partitions removed, as they were of another log or timeline", &self.purges),
            ("write_errors", "Rounds of the writer that failed", &self.write_errors),
            ("read_errors", "Questions that Redis did not answer", &self.read_errors),
            ("fallbacks", "Questions answered from the gateway's own memory", &self.fallbacks),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register_with_unit("sent", "Bytes sent by the writer", Unit::Bytes, self.sent_bytes.clone());
        registry.register_with_unit(
            "write",
            "Time spent in rounds of the writer",
            Unit::Seconds,
            self.write_seconds.clone(),
        );
        let gauges = [
            ("round_us", "Time of the writer's last round, microseconds", &self.round_us),
            ("waiting_symbols", "Symbols whose state waits to be written", &self.waiting_symbols),
            ("writer_away", "1 while the writer can't reach Redis", &self.writer_away),
            ("reader_away", "1 while the gateway answers from its own memory", &self.reader_away),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
    }
}
