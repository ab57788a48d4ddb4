//! What the archive tells of itself.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What runs of the archive count.
#[derive(Clone, Debug, Default)]
pub struct ArchiveMetrics {
    /// Runs begun.
    pub runs: Counter,
    /// Manifests committed.
    pub commits: Counter,
    /// Rows in them.
    pub rows: Counter,
    /// Bytes of data objects written, also those that came to nothing.
    pub bytes_written: Counter,
    /// Bytes read again, to prove them.
    pub bytes_read_back: Counter,
    /// Units dropped from warm.
    pub units_dropped: Counter,
    /// Units that could not be done.
    pub failures: Counter,
    /// Calls to the store that were tried again.
    pub retries: Counter,
    /// Objects removed that no manifest named.
    pub objects_removed: Counter,
    /// Faults that a scrub found.
    pub faults: Counter,
    /// When a run last ended well, seconds since the epoch.
    pub last_success_seconds: Gauge,
}

impl ArchiveMetrics {
    /// Adds all to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let counters = [
            ("archive_runs", "Runs begun", &self.runs),
            ("archive_commits", "Manifests committed", &self.commits),
            ("archive_rows", "Rows committed", &self.rows),
            ("archive_written_bytes", "Bytes of data objects written", &self.bytes_written),
            ("archive_read_back_bytes", "Bytes read again to prove them", &self.bytes_read_back),
            ("archive_units_dropped", "Units dropped from warm", &self.units_dropped),
            ("archive_failures", "Units that could not be done", &self.failures),
            ("archive_retries", "Calls to the store tried again", &self.retries),
            ("archive_objects_removed", "Objects removed that no manifest named", &self.objects_removed),
            ("archive_faults", "Faults that a scrub found", &self.faults),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let (name, help) = ("archive_last_success_seconds", "When a run last ended well");
        registry.register(name, help, self.last_success_seconds.clone());
    }
}
