//! One segment: a Parquet file of one partition's rows of one kind and day, ordered by symbol, ts
//! and place in the log, written once.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};

use super::files::{Temporary, create_dir, io_error};
use crate::market::{Kind, RowKeys, Symbol, TickBatch, TimeRange, Timestamp, TradingDay};
use crate::tiering::parquet::{Finished, Layout, Numbers, TickWriter, is_io};
use crate::tiering::warm::{Unit, WarmError};

/// Rows of a page. A reader of one symbol takes in whole pages of each column, so small pages let
/// it read little; each costs its header and its line in the index.
pub(super) const PAGE_ROWS: usize = 4096;

/// Rows of a row group, at most: what bounds the memory of the compaction's writer.
pub(super) const ROW_GROUP_ROWS: usize = 1 << 20;

/// How hard pages are compressed: commits have to keep up with the market.
const ZSTD_LEVEL: i32 = 1;

/// The level of segments that were restored from the archive: merged with no other.
pub(super) const RESTORED_LEVEL: u32 = 1000;

/// Which segments are of one kind, day and partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentGroup {
    /// The trading day of the rows.
    pub day: TradingDay,
    /// Their kind.
    pub kind: Kind,
    /// Their partition.
    pub partition: u16,
}

/// What the manifest knows of a segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// Unique within the store, for ever.
    pub id: u64,
    #[serde(with = "kind_name")]
    /// The kind of the rows.
    pub kind: Kind,
    #[serde(with = "day_text")]
    /// Their trading day.
    pub day: TradingDay,
    /// The partition they come from.
    pub partition: u16,
    /// The first offset of the blocks the rows come from.
    pub first_offset: u64,
    /// The offset after the last of them.
    pub next_offset: u64,
    /// How often the rows were rewritten.
    pub level: u32,
    /// Rows.
    pub rows: u64,
    /// The file's size.
    pub bytes: u64,
    /// CRC-32 of the file.
    pub crc: u32,
    /// Where its footer begins, which has the checksums of the blocks before it; 0 where an earlier
    /// version wrote none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub footer_at: u64,
    /// CRC-32 of the footer; 0 where an earlier version did not store it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub footer_crc: u32,
    /// The earliest venue time, nanoseconds since the epoch.
    pub ts_min: i64,
    /// The latest.
    pub ts_max: i64,
    /// The first symbol; `None` if a row has none.
    pub symbol_min: Option<Symbol>,
    /// The last symbol; `None` if no row has one.
    pub symbol_max: Option<Symbol>,
    /// When its last row was stored, nanoseconds since the epoch; 0 where an earlier version did
    /// not say.
    #[serde(default)]
    pub written_at: i64,
}

/// Whether a number was not stored.
fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

pub(super) mod kind_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::market::Kind;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(in super::super) fn serialize<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(kind.name())
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Kind, D::Error> {
        let name = String::deserialize(deserializer)?;
        Kind::from_name(&name).ok_or_else(|| D::Error::custom(format!("unknown kind \"{name}\"")))
    }
}

pub(super) mod day_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::market::TradingDay;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(in super::super) fn serialize<S: Serializer>(
        day: &TradingDay,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(day)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<TradingDay, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl SegmentInfo {
    /// Which group it is of.
    pub fn group(&self) -> SegmentGroup {
        SegmentGroup { day: self.day, kind: self.kind, partition: self.partition }
    }

    /// The file, relative to the store's directory.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "date={}/kind={}/p{:04}-{:012}-{:012}-L{}-{:06x}.parquet",
            self.day,
            self.kind.name(),
            self.partition,
            self.first_offset,
            self.next_offset,
            self.level,
            self.id,
        ))
    }

    /// The unit of the archive that the rows are of.
    pub fn unit(&self) -> Unit {
        Unit { day: self.day, kind: self.kind }
    }

    /// Whether rows of `range` and of one of `symbols` (sorted; `None` for all) may be in it.
    pub(super) fn may_hold(&self, range: &TimeRange, symbols: Option<&[Option<Symbol>]>) -> bool {
        self.ts_max >= range.from.nanos()
            && is_before(self.ts_min, range.to)
            && symbols.is_none_or(|symbols| {
                let first = symbols.partition_point(|symbol| *symbol < self.symbol_min);
                symbols.get(first).is_some_and(|symbol| *symbol <= self.symbol_max)
            })
    }
}

/// How each kind is written, made once.
static LAYOUTS: LazyLock<Vec<Layout>> = LazyLock::new(|| {
    let layout = |&kind: &Kind| Layout::new(kind, PAGE_ROWS, ROW_GROUP_ROWS, ZSTD_LEVEL, |_| Numbers::Delta);
    Kind::ALL.iter().map(layout).collect()
});

/// Counts and checksums what goes through it.
struct Checked<W> {
    inner: W,
    crc: crc32fast::Hasher,
    bytes: u64,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes one segment. Nothing of it is seen under its name before [`SegmentWriter::finish`].
pub(super) struct SegmentWriter {
    root: PathBuf,
    info: SegmentInfo,
    temporary: Temporary,
    writer: TickWriter<Checked<BufWriter<File>>>,
}

impl SegmentWriter {
    /// Begins a segment of row groups of at most `row_group_rows` rows. Of `info` all is taken but
    /// what the rows tell.
    pub(super) fn create(root: &Path, info: SegmentInfo, row_group_rows: usize) -> Result<Self, WarmError> {
        let path = root.join(info.path());
        create_dir(path.parent().unwrap_or(root))?;
        let temporary = Temporary::of(&path);
        let file = File::create(temporary.path()).map_err(|error| io_error(temporary.path(), &error))?;
        let sink = Checked {
            inner: BufWriter::with_capacity(1 << 16, file),
            crc: crc32fast::Hasher::new(),
            bytes: 0,
        };
        let layout = LAYOUTS[info.kind as usize - 1].clone().with_row_group_rows(row_group_rows);
        let writer = TickWriter::new(layout, sink).map_err(|error| write_error(temporary.path(), &error))?;
        let info = SegmentInfo {
            rows: 0,
            bytes: 0,
            crc: 0,
            footer_at: 0,
            footer_crc: 0,
            ts_min: i64::MAX,
            ts_max: i64::MIN,
            symbol_min: None,
            symbol_max: None,
            ..info
        };
        Ok(Self { root: root.to_owned(), info, temporary, writer })
    }

    fn note(&mut self, keys: &RowKeys) {
        let Some(last) = keys.len().checked_sub(1) else { return };
        if self.info.rows == 0 {
            self.info.symbol_min = keys.symbol(0);
        }
        self.info.symbol_max = keys.symbol(last);
        self.info.rows += keys.len() as u64;
        for &ts in keys.ts_nanos() {
            self.info.ts_min = self.info.ts_min.min(ts);
            self.info.ts_max = self.info.ts_max.max(ts);
        }
    }

    /// Writes all of `batch`, column by column, so that only one column's pages are in memory.
    pub(super) fn write_whole(&mut self, batch: &TickBatch, keys: &RowKeys) -> Result<(), WarmError> {
        self.note(keys);
        self.writer.write_whole(batch).map_err(|error| write_error(self.temporary.path(), &error))
    }

    /// Writes the next rows of many: memory grows to one row group's encoded pages.
    pub(super) fn write_part(&mut self, batch: &TickBatch, keys: &RowKeys) -> Result<(), WarmError> {
        self.note(keys);
        self.writer.write_part(batch).map_err(|error| write_error(self.temporary.path(), &error))
    }

    /// Makes the file durable under its name.
    pub(super) fn finish(self) -> Result<SegmentInfo, WarmError> {
        let finished = self.writer.finish().map_err(|error| write_error(self.temporary.path(), &error))?;
        let Finished { sink: Checked { inner, crc, bytes }, footer_at, footer_crc } = finished;
        let file = inner.into_inner().map_err(|error| io_error(self.temporary.path(), error.error()))?;
        file.sync_all().map_err(|error| io_error(self.temporary.path(), &error))?;
        let info = SegmentInfo { bytes, crc: crc.finalize(), footer_at, footer_crc, ..self.info };
        self.temporary.rename(&self.root.join(info.path()))?;
        Ok(info)
    }
}

fn write_error(path: &Path, error: &ParquetError) -> WarmError {
    if let Some(source) = is_io(error) {
        return io_error(path, source);
    }
    WarmError::Io { path: path.display().to_string(), reason: error.to_string() }
}

/// Whether `ts` lies before the end of a range. A range that ends at the end of time has no end.
pub(super) fn is_before(ts: i64, to: Timestamp) -> bool {
    ts < to.nanos() || to == Timestamp::MAX
}
