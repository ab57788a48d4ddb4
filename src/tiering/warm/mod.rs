//! Warm: the days that are kept at hand, in columns.
//!
//! [`Warm`] is the seam between one machine ([`local`], Parquet segments under the data
//! directory) and a database ([`clickhouse`]).

pub mod clickhouse;
#[cfg(test)]
pub(crate) mod conformance;
pub mod local;
mod named;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::bus::Bus;
use crate::bus::epoch::{Held, LogName};
use crate::market::{Kind, RowDigest, Symbol, TickBatch, TimeRange, Timestamp, TradingDay};

/// Rows of one partition and one range of offsets, to be stored all or none, once.
#[derive(Clone, Debug)]
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
    /// The checksum of the log's record at `next_offset - 1` (see [`crate::tiering::seam`]); `None`
    /// where it is not known.
    pub seam: Option<u64>,
}

/// Where a partition stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The offset after the last stored one: where the processor goes on.
    pub next_offset: u64,
    /// The state that came with the last block; empty before the first.
    pub checkpoint: Bytes,
    /// The seam that came with the last block; `None` where the store does not keep it, or the block
    /// was written by a version of stk that had none.
    pub seam: Option<u64>,
}

/// The log that a store's rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The log's name.
    pub log: LogName,
    /// The log's partitions.
    pub partitions: u16,
}

impl Origin {
    /// The origin of rows that are read from `bus`.
    pub fn of(bus: &dyn Bus) -> Self {
        Self { log: bus.epoch().name(), partitions: bus.partitions() }
    }
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
    /// What is read from the archive instead: of these days the rows of partition `p` at offsets
    /// below the `p`-th are left out, unless the store has had the day restored (see
    /// [`Scan::restored`]). Partitions beyond the vector's end have 0.
    pub archived: BTreeMap<TradingDay, Vec<u64>>,
    /// Rows of partition `p` at offsets below the `p`-th are left out. Partitions beyond the vector's
    /// end have 0.
    pub first_offsets: Vec<u64>,
}

impl Query {
    /// Asks for all that matches, with nothing left to the archive.
    pub fn new(kind: Kind, symbols: Option<Vec<Symbol>>, range: TimeRange) -> Self {
        Self { kind, symbols, range, archived: BTreeMap::new(), first_offsets: Vec::new() }
    }
}

/// Rows of one kind and trading day: what the archive moves as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Unit {
    /// The trading day.
    pub day: TradingDay,
    /// The kind of row.
    pub kind: Kind,
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.kind.name(), self.day)
    }
}

/// What the store holds of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitInfo {
    /// Which.
    pub unit: Unit,
    /// Rows.
    pub rows: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// When rows of it were stored last, by the store's clock.
    pub written_at: Timestamp,
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
    /// Another process has claimed the partition: what this one stores no longer counts.
    #[error("partition {partition} was taken over by another processor")]
    Fenced {
        /// The partition.
        partition: u16,
    },
    /// The store is no longer where the owner of the partition left it: it was put back to an older
    /// state, or emptied and made again. Nothing of the block counts. The log still has what the store
    /// lost: a new claim says from where it is to be read.
    #[error(
        "partition {partition}: {path} was put back to an older state or emptied since the last block: it is at {found}, not at offset {next_offset}"
    )]
    Reverted {
        /// The partition.
        partition: u16,
        /// What the store is called, and where it is.
        path: String,
        /// Where the partition is in the store now.
        found: String,
        /// Where its owner left it.
        next_offset: u64,
    },
    /// The store holds rows of another log.
    #[error("{path} {reason}")]
    OtherLog {
        /// What the store is called, and where it is.
        path: String,
        /// What it belongs to, and what to do.
        reason: String,
    },
    /// There is no such store, and it was to be there.
    #[error("there is no {path}")]
    Missing {
        /// What it is called, and where it was looked for.
        path: String,
    },
    /// The store refuses what it is asked, and will again: rights, schema or settings are wrong.
    #[error("{path} refuses: {reason}")]
    Refused {
        /// Where the store is.
        path: String,
        /// What it said, and what to do.
        reason: String,
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

/// Rows that were stored, and that somebody has removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// How many.
    pub rows: u64,
    /// What to do.
    pub next: String,
}

impl std::fmt::Display for Removed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows that were stored in warm are no longer there: {}", self.rows, self.next)
    }
}

/// A store of `partitions` beside a log of another number.
fn other_partitions(path: String, partitions: usize, of_log: u16, way_on: &str) -> WarmError {
    let reason = format!(
        "was made with a log of {partitions} partitions, and the log has {of_log}: partitions that were added \
         can't be taken away, and symbols have moved between them; {way_on}"
    );
    WarmError::OtherLog { path, reason }
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
    /// Days of the query's kind of which rows were dropped, with the offsets (by partition) below
    /// which they were, as the store was at the moment of the scan. Whoever reads the archive beside
    /// this scan must find those rows there: otherwise its view of the archive is the older one.
    pub dropped: BTreeMap<TradingDay, Vec<u64>>,
    /// Days of the query's kind that were restored from the archive: all their rows are in the
    /// scan, whatever [`Query::archived`] says.
    pub restored: BTreeSet<TradingDay>,
}

/// Days of ticks in columns.
#[async_trait::async_trait]
pub trait Warm: Send + Sync + 'static {
    /// The log and the generations of it that the rows are of, as far as the store names them, and how far
    /// they reach in it.
    async fn held(&self) -> Result<Held, WarmError>;

    /// Refuses a log whose rows do not belong into this store. Whether the store names the log, by its
    /// present name; a store that keeps no name says that it does. Changes nothing.
    ///
    /// Errors: the store holds rows of another log, or of this one with another number of partitions, as
    /// [`WarmError::OtherLog`].
    async fn check_origin(&self, origin: &Origin) -> Result<bool, WarmError> {
        let _ = origin;
        Ok(true)
    }

    /// As [`Warm::check_origin`], and has a store that names no log yet name this one. To be called before
    /// the first claim.
    async fn adopt_origin(&self, origin: &Origin) -> Result<(), WarmError> {
        self.check_origin(origin).await.map(drop)
    }

    /// Makes the caller the only writer of `partition`, for as long as nobody claims it after: a
    /// [`Warm::commit`] of an earlier claim is [`WarmError::Fenced`], and what such a one has under
    /// way at this moment is in the store whole or never. Where the partition stands then.
    async fn claim(&self, partition: u16) -> Result<Mark, WarmError>;

    /// Where `partition` stands.
    async fn mark(&self, partition: u16) -> Result<Mark, WarmError>;

    /// Stores a block and moves the high-water mark, as one: after a crash at any instruction
    /// both have happened or neither. Durable when it returns.
    async fn commit(&self, block: Block) -> Result<(), WarmError>;

    /// Has rows of `unit` at offsets below `next_offsets` (by partition) be read from the archive, which
    /// holds all of them, as if they had been dropped from here. For a store that lost them.
    async fn leave_to_archive(&self, unit: Unit, next_offsets: &[u64]) -> Result<(), WarmError>;

    /// The most memory, in bytes, that `query` takes since it reads files side by side, as one of many symbols
    /// does. 0 for a store that puts the rows in order itself.
    fn merge_bytes(&self, query: &Query) -> usize {
        let _ = query;
        0
    }

    /// Reads what matches, as the store is at the moment of the call; later commits and
    /// compactions don't change a scan under way.
    async fn scan(&self, query: &Query) -> Result<Scan, WarmError>;
}

/// What the archive asks of a warm store.
#[async_trait::async_trait]
pub trait ArchiveSource: Warm {
    /// The units there are rows of, in order.
    async fn units(&self) -> Result<Vec<UnitInfo>, WarmError>;

    /// The digest of the unit's rows at `offsets` (by partition; none beyond its end), computed by
    /// the store itself out of what it holds, not by way of [`ArchiveSource::export`].
    async fn digest(&self, unit: Unit, offsets: &[Range<u64>]) -> Result<RowDigest, WarmError>;

    /// By partition, an offset at or before that of the unit's first row at `offsets`; where there is none,
    /// the end of the partition's range.
    async fn first_offsets(&self, unit: Unit, offsets: &[Range<u64>]) -> Result<Vec<u64>, WarmError>;

    /// The unit's rows at `offsets`, in batches ordered by symbol, ts, seq within and across, each
    /// row once. Memory does not grow with their number.
    async fn export(
        &self,
        unit: Unit,
        offsets: &[Range<u64>],
    ) -> Result<BoxStream<'static, Result<TickBatch, WarmError>>, WarmError>;

    /// Rows of the unit at `offsets` (by partition; none beyond its end) that the store's own books list, and
    /// that are no longer there. `None` where all are, or the store keeps no such books.
    async fn rows_lost(&self, unit: Unit, offsets: &[Range<u64>]) -> Result<Option<Removed>, WarmError> {
        let _ = (unit, offsets);
        Ok(None)
    }

    /// Drops rows of the unit at offsets below `next_offsets` (by partition): all of them, or those
    /// that do not share a file with rows that stay. Remembers the offsets for [`Scan::dropped`]
    /// before the first row goes, and forgets that the unit was restored. Scans under way still see
    /// the rows. How many rows below the offsets are left; to be called again later.
    async fn drop_rows(&self, unit: Unit, next_offsets: &[u64]) -> Result<u64, WarmError>;

    /// Stores `rows` of the unit that [`ArchiveSource::drop_rows`] had dropped, as one: scans see none of
    /// them before it returns, and all of them, with the unit in [`Scan::restored`], after. Rows
    /// of the unit that lie below `next_offsets` already are replaced.
    async fn restore(
        &self,
        unit: Unit,
        next_offsets: &[u64],
        rows: BoxStream<'static, Result<TickBatch, WarmError>>,
    ) -> Result<(), WarmError>;
}
