//! Rows of one unit on their way from the log or the archive into a damaged store: a warm store of their
//! own puts them in order, in bounded memory, and digests them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};

use super::RepairError;
use crate::bus::Bus;
use crate::market::{
    Kind, NO_SYMBOL, RowDigest, Seq, SymbolTable, Tick, TickBatch, TickBatchBuilder, TimeRange,
};
use crate::tiering::archive::read::{ArchiveReader, SharedReadStats};
use crate::tiering::archive::snapshot::Snapshot;
use crate::tiering::state::PartitionState;
use crate::tiering::warm::local::{LocalWarm, LocalWarmOptions};
use crate::tiering::warm::{ArchiveSource, Block, Query, Unit, Warm, WarmError};
use crate::wire::record::RecordView;

/// Bytes of records taken from the log at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// Rows of a block.
const BLOCK_ROWS: usize = 1 << 18;

/// A stream of rows, as stores take it.
pub(super) type Rows = futures_util::stream::BoxStream<'static, Result<TickBatch, WarmError>>;

/// A warm store that is removed with this.
pub(super) struct Scratch {
    dir: PathBuf,
    warm: Arc<LocalWarm>,
    unit: Unit,
}

impl Scratch {
    /// An empty one in `dir`, which is emptied first: a repair that was killed leaves it.
    pub(super) fn create(dir: &Path, unit: Unit) -> Result<Self, WarmError> {
        if dir.exists() {
            std::fs::remove_dir_all(dir).map_err(|error| WarmError::Io {
                path: dir.display().to_string(),
                reason: error.to_string(),
            })?;
        }
        let warm = LocalWarm::open(dir, LocalWarmOptions { compaction: false })?;
        Ok(Self { dir: dir.to_owned(), warm, unit })
    }

    /// Takes the rows at `offsets` (by partition) from the archive.
    pub(super) async fn take_archived(
        &self,
        reader: &Arc<ArchiveReader>,
        snapshot: &Snapshot,
        offsets: &[Range<u64>],
    ) -> Result<(), RepairError> {
        let files = snapshot.files(self.unit.day)?;
        let (files, frozen) = reader.availability(files, &SharedReadStats::default()).await?;
        if !frozen.is_empty() {
            return Err(RepairError::Frozen { unit: self.unit, objects: frozen.len() as u64 });
        }
        let ends: Vec<u64> = offsets.iter().map(|offsets| offsets.end).collect();
        let rows = reader.scan(self.unit.kind, files, None, TimeRange::ALL, SharedReadStats::default());
        let rows = within(rows.map_err(unreadable).boxed(), offsets.to_vec());
        Ok(self.warm.restore(self.unit, &ends, rows).await?)
    }

    /// Takes the rows of `partition` at `offsets` from the log. Bars are computed from the log's trades,
    /// for which the log must be whole from its beginning.
    pub(super) async fn take_logged(
        &self,
        bus: &dyn Bus,
        partition: u16,
        offsets: Range<u64>,
    ) -> Result<(), RepairError> {
        let mut taking = Taking {
            scratch: self,
            partition,
            offsets: offsets.clone(),
            mark: 0,
            builder: TickBatchBuilder::new(partition),
            state: PartitionState::new(),
        };
        taking.commit(offsets.start).await?;
        let mut reader = bus.reader(partition, bus.bounds(partition).await?.first).await?;
        let mut next = reader.offset();
        while next < offsets.end {
            let before = reader.offset();
            let records = reader.next(READ_BYTES_MAX).await?;
            let wrong = |reason: String| RepairError::Log { partition, offset: before, reason };
            reader.check_follows(next, &records).map_err(|(expected, found)| {
                wrong(format!("offset {expected} was to come, but {found} came"))
            })?;
            for record in records.iter().take_while(|record| record.offset < offsets.end) {
                if next <= offsets.start && offsets.start <= record.offset {
                    taking.cut_bars(offsets.start).await?;
                }
                taking.take(record.offset, &record.bytes).map_err(wrong)?;
                if taking.builder.rows() >= BLOCK_ROWS {
                    taking.commit(record.offset + 1).await?;
                }
                next = record.offset + 1;
            }
            next = next.max(reader.offset().min(offsets.end));
        }
        taking.cut_bars(offsets.end).await?;
        taking.commit(offsets.end).await
    }

    /// The digest of the rows taken at `offsets`.
    pub(super) async fn digest(&self, offsets: &[Range<u64>]) -> Result<RowDigest, WarmError> {
        self.warm.digest(self.unit, offsets).await
    }

    /// The rows taken at `offsets`, in order.
    pub(super) async fn rows(&self, offsets: &[Range<u64>]) -> Result<Rows, WarmError> {
        self.warm.export(self.unit, offsets).await
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(path = %self.dir.display(), %error, "what a repair wrote on the way could not be removed");
        }
    }
}

/// A partition of the log being taken.
struct Taking<'a> {
    scratch: &'a Scratch,
    partition: u16,
    offsets: Range<u64>,
    /// Where the scratch store is.
    mark: u64,
    builder: TickBatchBuilder,
    /// What the processor remembers: which records repeat others, and the bars.
    state: PartitionState,
}

impl Taking<'_> {
    fn is_bars(&self) -> bool {
        self.scratch.unit.kind == Kind::Bar
    }

    fn take(&mut self, offset: u64, bytes: &Bytes) -> Result<(), String> {
        let view = RecordView::parse(bytes).map_err(|error| error.to_string())?;
        if !self.state.admit(view.origin, view.checksum()) {
            return Ok(());
        }
        let unit = self.scratch.unit;
        for (index, row) in (0..).zip(view.ticks()) {
            let (_, tick) = row.map_err(|error| error.to_string())?;
            let seq = Seq { partition: self.partition, offset, index };
            let is_of_day = tick.ts().trading_day() == unit.day;
            let is_wanted = if self.is_bars() {
                self.state.apply(seq, &tick);
                // Amended bars are made again from these.
                is_of_day && matches!(tick, Tick::Trade(_) | Tick::Cancel(_) | Tick::Correction(_))
            } else {
                is_of_day && tick.kind() == unit.kind && self.offsets.contains(&offset)
            };
            if is_wanted {
                let symbol = tick.symbol().map_or(NO_SYMBOL, |symbol| self.state.number(symbol));
                self.builder.push(symbol, seq, &tick);
            }
        }
        Ok(())
    }

    /// Stores what was gathered of the records before `next`.
    async fn commit(&mut self, next: u64) -> Result<(), RepairError> {
        // Bars of records that are stored already come in a block without offsets.
        if next < self.mark || (next == self.mark && self.builder.rows() == 0) {
            return Ok(());
        }
        let empty = SymbolTable::default();
        let table = if self.builder.rows() == 0 { &empty } else { self.state.symbols() };
        let batches = self.builder.finish(table);
        let block = Block {
            partition: self.partition,
            first_offset: self.mark,
            next_offset: next,
            batches,
            checkpoint: Bytes::new(),
            seam: None,
        };
        self.scratch.warm.commit(block).await?;
        self.mark = next;
        Ok(())
    }

    /// Stores the bars that changed before offset `next`, as they are there.
    async fn cut_bars(&mut self, next: u64) -> Result<(), RepairError> {
        if !self.is_bars() || next == 0 {
            return Ok(());
        }
        let unit = self.scratch.unit;
        let at = Seq { partition: self.partition, offset: next - 1, index: u32::MAX };
        let marked: BTreeSet<_> =
            self.state.take_rebuilds().into_iter().filter(|(_, day)| *day == unit.day).collect();
        if !marked.is_empty() && self.builder.rows() > 0 {
            // The rows they are made from are read back.
            self.commit(next).await?;
        }
        for (symbol, day) in marked {
            let mut rows = Vec::new();
            for kind in [Kind::Trade, Kind::Cancel, Kind::Correction] {
                let range = TimeRange { from: day.start(), to: day.end() };
                let mut scan = self.scratch.warm.scan(&Query::new(kind, Some(vec![symbol]), range)).await?;
                while let Some(batch) = scan.rows.try_next().await? {
                    let view = batch.rows().map_err(RepairError::rows)?;
                    for row in 0..batch.len() {
                        rows.push((view.seq(row), view.tick(row).map_err(RepairError::rows)?));
                    }
                }
            }
            self.state.rebuild(symbol, day, at, &rows);
        }
        self.state.forget_rebuilds();
        for (seq, bar) in self.state.take_changed_bars() {
            if bar.ts.trading_day() == unit.day && self.offsets.contains(&seq.offset) {
                let symbol = self.state.number(bar.symbol);
                self.builder.push_bar(symbol, seq, &bar);
            }
        }
        Ok(())
    }
}

/// The rows of `rows` at `offsets`, by partition.
fn within(rows: Rows, offsets: Vec<Range<u64>>) -> Rows {
    rows.map(move |batch| batch?.at_offsets(&offsets).map_err(unreadable))
        .filter(|batch| std::future::ready(!batch.as_ref().is_ok_and(TickBatch::is_empty)))
        .boxed()
}

/// An error of the archive, to the store that takes its rows.
fn unreadable(error: impl std::fmt::Display) -> WarmError {
    WarmError::Io { path: "the archive".to_owned(), reason: error.to_string() }
}
