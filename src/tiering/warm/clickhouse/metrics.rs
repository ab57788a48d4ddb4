//! What the store tells of itself.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// What the store counts.
#[derive(Clone, Debug, Default)]
pub struct ClickHouseWarmMetrics {
    /// Blocks stored.
    pub commits: Counter,
    /// Rows stored.
    pub rows: Counter,
    /// Partitions claimed.
    pub claims: Counter,
    /// Commits refused since another process had claimed the partition.
    pub fenced: Counter,
    /// Commits refused since the database was put back to an older state, or emptied.
    pub reverts: Counter,
    /// Blocks of a dead owner that were whole and were counted in.
    pub confirmed_blocks: Counter,
    /// Blocks of a dead owner that were not whole: their rows never count.
    pub broken_blocks: Counter,
    /// Rows of such blocks that were deleted.
    pub deleted_rows: Counter,
    /// Scans begun.
    pub scans: Counter,
    /// Scans begun anew since days were dropped or restored meanwhile.
    pub scan_retries: Counter,
    /// Parts dropped for the archive.
    pub parts_dropped: Counter,
    /// Rows restored from the archive.
    pub restored_rows: Counter,
    /// Requests that failed.
    pub request_failures: Counter,
}

impl ClickHouseWarmMetrics {
    /// Adds all to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            ("warm_commits", "Blocks stored", &self.commits),
            ("warm_rows", "Rows stored", &self.rows),
            ("warm_claims", "Partitions claimed", &self.claims),
            ("warm_fenced", "Commits refused since another process had claimed the partition", &self.fenced),
            (
                "warm_reverts",
                "Commits refused since the database was put back to an older state or emptied",
                &self.reverts,
            ),
            (
                "warm_confirmed_blocks",
                "Blocks of a dead owner that were whole and were counted in",
                &self.confirmed_blocks,
            ),
            ("warm_broken_blocks", "Blocks of a dead owner that were not whole", &self.broken_blocks),
            ("warm_deleted_rows", "Rows of broken blocks that were deleted", &self.deleted_rows),
            ("warm_scans", "Scans begun", &self.scans),
            (
                "warm_scan_retries",
                "Scans begun anew since days were dropped or restored meanwhile",
                &self.scan_retries,
            ),
            ("warm_parts_dropped", "Parts dropped for the archive", &self.parts_dropped),
            ("warm_restored_rows", "Rows restored from the archive", &self.restored_rows),
            ("warm_request_failures", "Requests to the database that failed", &self.request_failures),
        ] {
            registry.register(name, help, counter.clone());
        }
    }
}
