//! What the archive asks of the store: digests and rows of a unit, and that they go and come back.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::files::damaged;
use super::manifest::Edit;
use super::read::{Cursor, Within};
use super::revisions::BarRevisions;
use super::scan::{BATCH_ROWS, Part, Scanner};
use super::segment::{RESTORED_LEVEL, ROW_GROUP_ROWS, SegmentInfo, SegmentWriter};
use super::{CommitGuard, LocalWarm, Segment, Shared, Writer, blocking};
use crate::fail;
use crate::market::{Kind, RowDigest, TickBatch, TimeRange, Timestamp};
use crate::tiering::warm::{ArchiveSource, Unit, UnitInfo, WarmError};

/// Rows of a row group of a restored segment, at least: there is one open for every partition.
const RESTORED_ROW_GROUP_ROWS_MIN: usize = 1 << 16;

/// Rows that are digested at once.
const DIGEST_ROWS: usize = 1 << 15;

fn at(offsets: &[u64], partition: u16) -> u64 {
    offsets.get(usize::from(partition)).copied().unwrap_or(0)
}

impl Shared {
    fn units(&self) -> Vec<UnitInfo> {
        let live = self.live();
        let mut units: BTreeMap<Unit, UnitInfo> = BTreeMap::new();
        for segment in live.segments.values().flatten() {
            let unit = segment.info.unit();
            let of =
                units.entry(unit).or_insert(UnitInfo { unit, rows: 0, bytes: 0, written_at: Timestamp::MIN });
            of.rows += segment.info.rows;
            of.bytes += segment.info.bytes;
            of.written_at = of.written_at.max(segment.written_at());
        }
        units.into_values().collect()
    }

    /// The segments of a unit.
    fn of_unit(&self, unit: Unit) -> Vec<Arc<Segment>> {
        let live = self.live();
        let of_unit =
            live.segments.iter().filter(|(group, _)| (group.day, group.kind) == (unit.day, unit.kind));
        of_unit.flat_map(|(_, segments)| segments).cloned().collect()
    }

    /// Where rows of a unit at `offsets` lie.
    fn parts(&self, unit: Unit, offsets: &[Range<u64>]) -> Vec<Part> {
        let part = |segment: Arc<Segment>| {
            let offsets = offsets.get(usize::from(segment.info.partition))?.clone();
            let overlap = segment.info.first_offset < offsets.end && offsets.start < segment.info.next_offset;
            overlap.then_some(Part { segment, offsets })
        };
        self.of_unit(unit).into_iter().filter_map(part).collect()
    }

    /// Remembers that a unit is archived up to `offsets`: a merge beyond them would drop revisions
    /// of bars on this side of them, and rows could not be dropped by whole segments.
    fn seal(&self, unit: Unit, offsets: &[Range<u64>]) -> Result<(), WarmError> {
        if self.writer.is_none() {
            // Nothing is merged in a store that is only read.
            return Ok(());
        }
        let next_offsets: Vec<u64> = offsets.iter().map(|range| range.end).collect();
        let mut writer = self.writer()?;
        let known = writer.state.archived.get(&unit);
        let dropped = known.map_or(&[][..], |known| &known.dropped);
        let sealed = known.is_some_and(|known| known.seals.contains(&next_offsets));
        let is_dropped =
            (0_u16..).zip(&next_offsets).all(|(partition, next)| *next <= at(dropped, partition));
        if sealed || is_dropped {
            return Ok(());
        }
        let Writer { manifest, state } = &mut *writer;
        manifest.append(state, Edit::Seal { unit: unit.into(), next_offsets: next_offsets.clone() })?;
        fail::point("warm.local.sealed");
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.archived.entry(unit).or_default().seal(next_offsets);
        Ok(())
    }

    fn digest(&self, unit: Unit, offsets: &[Range<u64>]) -> Result<RowDigest, WarmError> {
        if self.parts(unit, offsets).is_empty() {
            return Ok(RowDigest::default());
        }
        self.seal(unit, offsets)?;
        let parts = self.parts(unit, offsets);
        let mut digest = RowDigest::default();
        if unit.kind == Kind::Bar {
            let mut rows = Export::new(self.scanner_of(unit, parts));
            while let Some(batch) = rows.next()? {
                digest.add(batch.digest());
            }
            return Ok(digest);
        }
        for Part { segment, offsets } in parts {
            let (stats, within) = (Arc::default(), Within::offsets(offsets));
            let cursor = Cursor::open(&segment, &self.cache, stats, &None, within, DIGEST_ROWS)?;
            let Some(mut cursor) = cursor else { continue };
            while let Some(batch) = cursor.next()? {
                digest.add(batch.digest());
            }
        }
        Ok(digest)
    }

    /// By the blocks of each segment.
    fn first_offsets(&self, unit: Unit, offsets: &[Range<u64>]) -> Vec<u64> {
        let mut first: Vec<u64> = offsets.iter().map(|range| range.end).collect();
        for Part { segment, offsets } in self.parts(unit, offsets) {
            let first = &mut first[usize::from(segment.info.partition)];
            *first = segment.info.first_offset.max(offsets.start).min(*first);
        }
        first
    }

    fn scanner_of(&self, unit: Unit, parts: Vec<Part>) -> Scanner {
        Scanner::new(unit.kind, TimeRange::ALL, None, parts, self.cache.clone(), Arc::default())
    }

    fn export(&self, unit: Unit, offsets: &[Range<u64>]) -> Result<Export, WarmError> {
        self.seal(unit, offsets)?;
        Ok(Export::new(self.scanner_of(unit, self.parts(unit, offsets))))
    }

    /// Which segments of a unit lie wholly below `next_offsets`, and what of the others lies
    /// above, as segments of their own, not yet in the manifest.
    fn cut(
        &self,
        unit: Unit,
        next_offsets: &[u64],
    ) -> Result<(Vec<Arc<Segment>>, Vec<SegmentInfo>), WarmError> {
        let (mut below, mut above) = (Vec::new(), Vec::new());
        for segment in self.of_unit(unit) {
            let next = at(next_offsets, segment.info.partition);
            if segment.info.first_offset >= next {
                continue;
            }
            if segment.info.next_offset > next {
                match self.rewrite_above(&segment, next) {
                    Ok(rest) => above.extend(rest),
                    Err(error) => {
                        self.abandon(&above);
                        return Err(error);
                    }
                }
            }
            below.push(segment);
        }
        Ok((below, above))
    }

    /// The rows of `segment` from the offset `next` on, as a segment of their own. None if there are
    /// none.
    fn rewrite_above(&self, segment: &Arc<Segment>, next: u64) -> Result<Option<SegmentInfo>, WarmError> {
        let info = SegmentInfo { id: self.new_id()?, first_offset: next, ..segment.info.clone() };
        let within = Within::offsets(next..u64::MAX);
        let cursor = Cursor::open(segment, &self.cache, Arc::default(), &None, within, BATCH_ROWS)?;
        let Some(mut cursor) = cursor else { return Ok(None) };
        let mut writer: Option<SegmentWriter> = None;
        while let Some(batch) = cursor.next()? {
            let keys = batch.keys().map_err(|error| damaged(&segment.path, error))?;
            if writer.is_none() {
                writer = Some(SegmentWriter::create(&self.root, info.clone(), ROW_GROUP_ROWS)?);
            }
            if let Some(writer) = &mut writer {
                writer.write_part(&batch, &keys)?;
            }
        }
        writer.map(SegmentWriter::finish).transpose()
    }

    fn drop_rows(&self, unit: Unit, next_offsets: &[u64]) -> Result<(), WarmError> {
        // A merge under way would bring the rows back.
        let _none = self.compacting.lock().unwrap_or_else(PoisonError::into_inner);
        let (below, add) = self.cut(unit, next_offsets)?;
        self.step("warm.local.dropping")?;
        let edit = Edit::Drop {
            unit: unit.into(),
            next_offsets: next_offsets.to_vec(),
            drop: below.iter().map(|segment| segment.info.id).collect(),
            add: add.clone(),
        };
        self.swap(unit, edit, &below, add, |archived| archived.drop_below(next_offsets))
    }

    /// Makes an edit of the archive count, and what it says of segments with it.
    fn swap(
        &self,
        unit: Unit,
        edit: Edit,
        below: &[Arc<Segment>],
        add: Vec<SegmentInfo>,
        note: impl FnOnce(&mut super::manifest::Archived),
    ) -> Result<(), WarmError> {
        let mut writer = self.writer()?;
        let Writer { manifest, state } = &mut *writer;
        // From here on nothing is taken back: a failed append may yet have reached the disk.
        let point = match edit {
            Edit::Restore { .. } => "warm.local.restored",
            _ => "warm.local.dropped",
        };
        manifest.append(state, edit)?;
        self.step(point)?;
        {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            below.iter().for_each(|segment| live.remove(segment));
            add.into_iter().for_each(|info| live.add(Segment::new(&self.root, info)));
            note(live.archived.entry(unit).or_default());
            self.note_size(&live);
        }
        drop(writer);
        for segment in below {
            self.cache.forget(segment.info.id);
            segment.obsolete.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// A unit's rows in order; of bars the latest revisions alone.
struct Export {
    scanner: Scanner,
    revisions: Option<BarRevisions>,
    is_bar: bool,
}

impl Export {
    fn new(scanner: Scanner) -> Self {
        let is_bar = scanner.kind() == Kind::Bar;
        Self { scanner, revisions: is_bar.then(BarRevisions::default), is_bar }
    }

    fn next(&mut self) -> Result<Option<TickBatch>, WarmError> {
        let failed = |error| damaged(std::path::Path::new("bars"), error);
        loop {
            let rows = self.scanner.next()?;
            if !self.is_bar {
                return Ok(rows);
            }
            let Some(revisions) = &mut self.revisions else { return Ok(None) };
            let Some(rows) = rows else {
                let rest = self.revisions.take().map_or(Ok(None), BarRevisions::finish);
                return rest.map_err(failed);
            };
            let decided = revisions.push(rows).map_err(failed)?;
            if decided.is_some() {
                return Ok(decided);
            }
        }
    }
}

/// Restored rows on their way into one segment a partition.
struct Restore {
    shared: Arc<Shared>,
    unit: Unit,
    next_offsets: Vec<u64>,
    writers: BTreeMap<u16, SegmentWriter>,
}

impl Restore {
    fn write(&mut self, batch: &TickBatch) -> Result<(), WarmError> {
        let refused = |reason: String| WarmError::Io { path: self.unit.to_string(), reason };
        if batch.kind() != self.unit.kind {
            return Err(refused(format!("rows to restore are of kind {}", batch.kind().name())));
        }
        let keys = batch.keys().map_err(|error| refused(error.to_string()))?;
        let partitions = keys.partitions();
        let mut runs: BTreeMap<u16, Vec<(usize, Range<usize>)>> = BTreeMap::new();
        for (row, &partition) in partitions.iter().enumerate() {
            if keys.offsets()[row] >= at(&self.next_offsets, partition) {
                let seq = keys.get(row).seq;
                return Err(refused(format!("the row at {seq} is not among those that were archived")));
            }
            let runs = runs.entry(partition).or_default();
            match runs.last_mut() {
                Some((_, run)) if run.end == row => run.end += 1,
                _ => runs.push((0, row..row + 1)),
            }
        }
        for (partition, runs) in runs {
            let rows = TickBatch::concat(batch.kind(), std::slice::from_ref(batch), &runs);
            let keys = rows
                .keys()
                .map_err(|error| WarmError::Io { path: self.unit.to_string(), reason: error.to_string() })?;
            self.writer(partition)?.write_part(&rows, &keys)?;
        }
        Ok(())
    }

    fn writer(&mut self, partition: u16) -> Result<&mut SegmentWriter, WarmError> {
        if !self.writers.contains_key(&partition) {
            let info = SegmentInfo {
                id: self.shared.new_id()?,
                kind: self.unit.kind,
                day: self.unit.day,
                partition,
                first_offset: 0,
                next_offset: at(&self.next_offsets, partition),
                level: RESTORED_LEVEL,
                rows: 0,
                bytes: 0,
                crc: 0,
                footer_at: 0,
                footer_crc: 0,
                ts_min: 0,
                ts_max: 0,
                symbol_min: None,
                symbol_max: None,
                written_at: Timestamp::now().nanos(),
            };
            // One is open for each partition, and together they must not hold more than one does.
            let rows = (ROW_GROUP_ROWS / self.next_offsets.len().max(1)).max(RESTORED_ROW_GROUP_ROWS_MIN);
            self.writers.insert(partition, SegmentWriter::create(&self.shared.root, info, rows)?);
        }
        self.writers.get_mut(&partition).ok_or_else(|| WarmError::Io {
            path: self.unit.to_string(),
            reason: format!("partition {partition} has no writer"),
        })
    }

    fn finish(self) -> Result<(), WarmError> {
        let Self { shared, unit, next_offsets, writers } = self;
        let mut add = Vec::new();
        for writer in writers.into_values() {
            match writer.finish() {
                Ok(info) => add.push(info),
                Err(error) => {
                    shared.abandon(&add);
                    return Err(error);
                }
            }
            shared.step("warm.local.restoring")?;
        }
        let _none = shared.compacting.lock().unwrap_or_else(PoisonError::into_inner);
        let (below, above) = match shared.cut(unit, &next_offsets) {
            Ok(cut) => cut,
            Err(error) => {
                shared.abandon(&add);
                return Err(error);
            }
        };
        add.extend(above);
        let edit = Edit::Restore {
            unit: unit.into(),
            next_offsets: next_offsets.clone(),
            drop: below.iter().map(|segment| segment.info.id).collect(),
            add: add.clone(),
        };
        shared.swap(unit, edit, &below, add, |archived| archived.restore_below(next_offsets))
    }
}

#[async_trait::async_trait]
impl ArchiveSource for LocalWarm {
    async fn units(&self) -> Result<Vec<UnitInfo>, WarmError> {
        let shared = self.shared.clone();
        blocking(self.shared.root.clone(), move || Ok(shared.units())).await
    }

    async fn digest(&self, unit: Unit, offsets: &[Range<u64>]) -> Result<RowDigest, WarmError> {
        let (shared, offsets) = (self.shared.clone(), offsets.to_vec());
        blocking(self.shared.root.clone(), move || shared.digest(unit, &offsets)).await
    }

    async fn first_offsets(&self, unit: Unit, offsets: &[Range<u64>]) -> Result<Vec<u64>, WarmError> {
        Ok(self.shared.first_offsets(unit, offsets))
    }

    async fn export(
        &self,
        unit: Unit,
        offsets: &[Range<u64>],
    ) -> Result<BoxStream<'static, Result<TickBatch, WarmError>>, WarmError> {
        let (shared, offsets) = (self.shared.clone(), offsets.to_vec());
        let root = self.shared.root.clone();
        let export = blocking(root.clone(), move || shared.export(unit, &offsets)).await?;
        let step = move |export: Option<Export>| {
            let root = root.clone();
            async move {
                let mut export = export?;
                let next = blocking(root, move || {
                    let next = export.next()?;
                    Ok(next.map(|rows| (rows, export)))
                });
                match next.await {
                    Ok(next) => next.map(|(rows, export)| (Ok(rows), Some(export))),
                    Err(error) => Some((Err(error), None)),
                }
            }
        };
        Ok(Box::pin(futures_util::stream::unfold(Some(export), step)))
    }

    async fn drop_rows(&self, unit: Unit, next_offsets: &[u64]) -> Result<u64, WarmError> {
        let (shared, next_offsets) = (self.shared.clone(), next_offsets.to_vec());
        let counted = CommitGuard::new(&self.shared);
        let dropped = blocking(self.shared.root.clone(), move || {
            let _counted = counted;
            shared.drop_rows(unit, &next_offsets)
        });
        dropped.await.map(|()| 0)
    }

    async fn restore(
        &self,
        unit: Unit,
        next_offsets: &[u64],
        mut rows: BoxStream<'static, Result<TickBatch, WarmError>>,
    ) -> Result<(), WarmError> {
        let root = &self.shared.root;
        let (shared, next_offsets) = (self.shared.clone(), next_offsets.to_vec());
        let restore = Restore { shared, unit, next_offsets, writers: BTreeMap::new() };
        let restore = Arc::new(Mutex::new(restore));
        while let Some(batch) = rows.next().await.transpose()? {
            let restore = restore.clone();
            let write = move || restore.lock().unwrap_or_else(PoisonError::into_inner).write(&batch);
            blocking(root.clone(), write).await?;
        }
        let counted = CommitGuard::new(&self.shared);
        blocking(root.clone(), move || {
            let _counted = counted;
            let restore = Arc::into_inner(restore).ok_or_else(|| WarmError::Io {
                path: unit.to_string(),
                reason: "rows are still being written".to_owned(),
            })?;
            restore.into_inner().unwrap_or_else(PoisonError::into_inner).finish()
        })
        .await
    }
}
