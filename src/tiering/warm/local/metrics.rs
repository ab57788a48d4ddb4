//! What the store tells of itself.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What the store counts.
#[derive(Clone, Debug, Default)]
pub struct LocalWarmMetrics {
    /// Blocks stored.
    pub commits: Counter,
    /// Rows stored.
    pub rows: Counter,
    /// Bytes of segments written by commits.
    pub bytes_written: Counter,
    /// Merges done.
    pub compactions: Counter,
    /// Merges that failed.
    pub compaction_failures: Counter,
    /// Bytes of segments written by merges.
    pub compaction_bytes_written: Counter,
    /// Scans begun.
    pub scans: Counter,
    /// Segments held.
    pub segments: Gauge,
    /// Bytes of segments held.
    pub bytes_stored: Gauge,
}

impl LocalWarmMetrics {
    /// Adds all to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("warm_commits", "Blocks stored", &self.commits),
            ("warm_rows", "Rows stored", &self.rows),
            ("warm_written_bytes", "Bytes of segments written by commits", &self.bytes_written),
            ("warm_compactions", "Merges done", &self.compactions),
            ("warm_compaction_failures", "Merges that failed", &self.compaction_failures),
            (
                "warm_compaction_written_bytes",
                "Bytes of segments written by merges",
                &self.compaction_bytes_written,
            ),
            ("warm_scans", "Scans begun", &self.scans),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        registry.register("warm_segments", "Segments held", self.segments.clone());
        registry.register("warm_stored_bytes", "Bytes of segments held", self.bytes_stored.clone());
    }
}
