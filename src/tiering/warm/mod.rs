//! Warm: the days that are kept at hand, in columns.
//!
//! [`Warm`] is the seam between one machine ([`local`], Parquet segments under the data
//! directory) and a database.

#[cfg(test)]
pub(crate) mod conformance;
pub mod local;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::market::{Kind, Symbol, TickBatch, TimeRange, TradingDay};

/// Rows of one partition and one range of offsets, to be stored all or none, once.
#[derive(Debug)]
pub struct Block {
    /// The partition of the log.
    pub partition: u16,
    /// The first offset the rows come from: the store's high-water mark.
    pub first_offset: u64,
    /// The offset after the last: the high-water mark once the block is stored.
    pub next_offset: u64,
    /// The rows by kind and day, each batch ordered by symbol, ts, seq. May be empty.
    pub batches: Vec<(TradingDay, TickBatch)>,
    /// The processor's state after these rows, opaque here: durable together with them.
    pub checkpoint: Bytes,
}

/// Where a partition stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The offset after the last stored one: where the processor goes on.
    pub next_offset: u64,
    /// The state that came with the last block; empty before the first.
    pub checkpoint: Bytes,
}

/// What is asked of a store.
#[derive(Clone, Debug)]
pub struct Query {
    /// The kind of row.
    pub kind: Kind,
    /// Whose rows, sorted and without repeats; `None` asks for all symbols.
    pub symbols: Option<Vec<Symbol>>,
    /// The times, by `ts`.
    pub range: TimeRange,
}

/// What a scan cost so far. Grows while its stream is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanStats {
    /// Segments that could not be ruled out by their summary.
    pub segments_read: u64,
    /// Segments of the store.
    pub segments_total: u64,
    /// Bytes read from disk: footers, indexes and pages.
    pub bytes_read: u64,
    /// Bytes the store holds, all kinds.
    pub bytes_stored: u64,
}

/// Why the store refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WarmError {
    /// A block that does not begin at the high-water mark: it was stored before, or rows are
    /// missing in between. Nothing was stored.
    #[error("partition {partition}: a block from offset {first_offset} does not follow on {next_offset}")]
    NotNext {
        /// The partition.
        partition: u16,
        /// Where the block begins.
        first_offset: u64,
        /// The high-water mark.
        next_offset: u64,
    },
    /// A stored file is damaged.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The disk is full.
    #[error("{path}: the disk is full")]
    Full {
        /// The file or directory.
        path: String,
    },
    /// The store can't be read or written.
    #[error("{path}: {reason}")]
    Io {
        /// The file or directory.
        path: String,
        /// What the system said.
        reason: String,
    },
}

impl WarmError {
    /// Whether a later try may succeed.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Io { .. })
    }
}

/// A scan's rows: batches ordered by symbol, ts, seq within and across, each row once.
pub struct Scan {
    /// The rows. Memory does not grow with the result.
    pub rows: BoxStream<'static, Result<TickBatch, WarmError>>,
    /// What the scan cost so far.
    pub stats: std::sync::Arc<std::sync::Mutex<ScanStats>>,
    /// The high-water mark of each partition at the moment of the scan: rows before it are in the
    /// scan, rows from it on are not.
    pub next_offsets: Vec<u64>,
}

/// Days of ticks in columns.
#[async_trait::async_trait]
pub trait Warm: Send + Sync + 'static {
    /// Where `partition` stands.
    async fn mark(&self, partition: u16) -> Result<Mark, WarmError>;

    /// Stores a block and moves the high-water mark, as one: after a crash at any instruction
    /// both have happened or neither. Durable when it returns.
    async fn commit(&self, block: Block) -> Result<(), WarmError>;

    /// Reads what matches, as the store is at the moment of the call; later commits and
    /// compactions don't change a scan under way.
    async fn scan(&self, query: &Query) -> Result<Scan, WarmError>;
}
