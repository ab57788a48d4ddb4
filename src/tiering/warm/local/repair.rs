//! Repair: damaged segments are found, and replaced by files with the same rows.
//!
//! A segment is replaced by one edit of the manifest, as a merge is. Before that edit the damaged file
//! gets a second name under a directory of kept files, so that it outlives the edit.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::files::{create_dir, damaged, io_error, sync_dir};
use super::manifest::Edit;
use super::read::{Cursor, Within};
use super::segment::{ROW_GROUP_ROWS, SegmentInfo, SegmentWriter};
use super::{CommitGuard, LocalWarm, Segment, Shared, Writer, blocking, unnamed};
use crate::market::{Kind, RowDigest, TickBatch};
use crate::tiering::warm::{Unit, WarmError};

/// Rows that are digested at once.
const DIGEST_ROWS: usize = 1 << 15;

impl LocalWarm {
    /// Reads every segment of the units that `wanted` selects whole. Returns the damaged or missing ones,
    /// each with the reason.
    ///
    /// Errors: a file can't be read for another reason than damage.
    pub async fn damaged_segments(
        &self,
        wanted: impl Fn(Unit) -> bool,
    ) -> Result<Vec<(SegmentInfo, String)>, WarmError> {
        let segments: Vec<Arc<Segment>> = {
            let live = self.shared.live();
            live.segments.values().flatten().filter(|segment| wanted(segment.info.unit())).cloned().collect()
        };
        blocking(self.shared.root.clone(), move || {
            let mut found = Vec::new();
            for segment in segments {
                match segment.verify() {
                    Ok(_) => {}
                    Err(WarmError::Damaged { reason, .. }) => found.push((segment.info.clone(), reason)),
                    Err(error) => return Err(error),
                }
            }
            Ok(found)
        })
        .await
    }

    /// Replaces the segment `id` by one that holds `rows`, which must be ordered by symbol, ts and seq. The
    /// new file is read again before it counts. The old file, if there is one, is kept under `kept` at its
    /// path in the store. Returns the digest of the new file.
    ///
    /// Errors: the number of rows is not the one that the manifest names (bars have revisions and are not
    /// counted); a row does not belong into the segment; the segment was merged or dropped meanwhile; a
    /// file can't be written. The store is unchanged then.
    pub async fn replace_segment(
        &self,
        id: u64,
        kept: &Path,
        mut rows: BoxStream<'static, Result<TickBatch, WarmError>>,
    ) -> Result<RowDigest, WarmError> {
        let shared = self.shared.clone();
        let root = shared.root.clone();
        let segment = shared.segment(id).ok_or_else(|| shared.gone(id))?;
        let info = SegmentInfo { id: shared.new_id()?, ..segment.info.clone() };
        let writer = blocking(root.clone(), {
            let root = root.clone();
            move || SegmentWriter::create(&root, info, ROW_GROUP_ROWS)
        });
        let writing = Arc::new(Mutex::new(Writing { writer: writer.await?, digest: RowDigest::default() }));
        while let Some(batch) = rows.next().await.transpose()? {
            let (writing, segment) = (writing.clone(), segment.clone());
            blocking(root.clone(), move || {
                writing.lock().unwrap_or_else(PoisonError::into_inner).write(&segment.info, &batch)
            })
            .await?;
        }
        let counted = CommitGuard::new(&self.shared);
        let kept = kept.to_owned();
        blocking(root, move || {
            let _counted = counted;
            let writing = Arc::into_inner(writing).ok_or_else(|| shared.gone(id))?;
            let Writing { writer, digest } = writing.into_inner().unwrap_or_else(PoisonError::into_inner);
            shared.replace_by(&segment, writer, digest, &kept)?;
            Ok(digest)
        })
        .await
    }
}

/// The rows of a segment on their way into its new file.
struct Writing {
    writer: SegmentWriter,
    digest: RowDigest,
}

impl Writing {
    fn write(&mut self, info: &SegmentInfo, batch: &TickBatch) -> Result<(), WarmError> {
        let refused = |reason: String| WarmError::Io { path: info.path().display().to_string(), reason };
        if batch.kind() != info.kind {
            return Err(refused(format!("rows of kind {} do not belong into it", batch.kind().name())));
        }
        let keys = batch.keys().map_err(|error| refused(error.to_string()))?;
        let is_within = keys.partitions().iter().zip(keys.offsets()).all(|(partition, offset)| {
            *partition == info.partition && (info.first_offset..info.next_offset).contains(offset)
        });
        if !is_within {
            return Err(refused("a row of other offsets does not belong into it".to_owned()));
        }
        self.digest.add(batch.digest());
        self.writer.write_part(batch, &keys)
    }
}

impl Shared {
    fn segment(&self, id: u64) -> Option<Arc<Segment>> {
        self.live().segments.values().flatten().find(|segment| segment.info.id == id).cloned()
    }

    fn gone(&self, id: u64) -> WarmError {
        let path = self.root.display().to_string();
        WarmError::Io { path, reason: format!("segment {id} was merged or dropped meanwhile") }
    }

    fn replace_by(
        &self,
        old: &Arc<Segment>,
        writer: SegmentWriter,
        digest: RowDigest,
        kept: &Path,
    ) -> Result<(), WarmError> {
        if old.info.kind != Kind::Bar && digest.rows != old.info.rows {
            let (path, rows) = (old.path.display().to_string(), old.info.rows);
            let reason =
                format!("it held {rows} rows, but the other store has {} at its offsets", digest.rows);
            return Err(WarmError::Io { path, reason });
        }
        let added = writer.finish()?;
        let replaced = self.replace_written(old, &added, digest, kept);
        if replaced.is_err() && self.segment(added.id).is_none() {
            self.abandon(&[added]);
        }
        replaced
    }

    fn replace_written(
        &self,
        old: &Arc<Segment>,
        added: &SegmentInfo,
        digest: RowDigest,
        kept: &Path,
    ) -> Result<(), WarmError> {
        self.step("repair.segment_written")?;
        let new = Segment::new(&self.root, added.clone());
        new.verify()?;
        let found = self.digest_of(&new)?;
        if found != digest {
            return Err(damaged(&new.path, format!("it holds {found}, but {digest} was written")));
        }
        keep(&old.path, &kept.join(old.info.path()))?;
        // A merge under way may be about to replace it.
        let _none = self.compacting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.segment(old.info.id).is_none() {
            return Err(self.gone(old.info.id));
        }
        let mut locked = self.writer()?;
        let Writer { manifest, state } = &mut *locked;
        manifest.append(state, Edit::Replace { drop: vec![old.info.id], add: vec![added.clone()] })?;
        self.step("repair.segment_replaced")?;
        {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            live.remove(old);
            live.add(new);
            self.note_size(&live);
        }
        drop(locked);
        self.cache.forget(old.info.id);
        old.obsolete.store(old.path.exists(), Ordering::Release);
        Ok(())
    }

    /// The digest of all rows of a segment.
    fn digest_of(&self, segment: &Arc<Segment>) -> Result<RowDigest, WarmError> {
        let mut digest = RowDigest::default();
        let within = Within::offsets(0..u64::MAX);
        let cursor = Cursor::open(segment, &self.cache, Arc::default(), &None, within, DIGEST_ROWS)?;
        let Some(mut cursor) = cursor else { return Ok(digest) };
        while let Some(batch) = cursor.next()? {
            digest.add(batch.digest());
        }
        Ok(digest)
    }
}

/// The segments whose files are under `dir`, named by a manifest or not: the unit, the partition and the
/// offsets of each, as the file's name says. None where the directory is missing.
///
/// Errors: the directory can't be read.
pub fn segment_files(dir: &Path) -> Result<Vec<(Unit, u16, Range<u64>)>, WarmError> {
    if dir.is_dir() { unnamed::segments(dir) } else { Ok(Vec::new()) }
}

/// Gives the file at `path`, if there is one, a second name, durably.
fn keep(path: &Path, kept: &Path) -> Result<(), WarmError> {
    if !path.exists() {
        return Ok(());
    }
    let dir = kept.parent().unwrap_or(kept);
    create_dir(dir)?;
    match fs::hard_link(path, kept) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        // A file system without hard links.
        Err(_) => fs::copy(path, kept).map(drop).map_err(|error| io_error(kept, &error))?,
    }
    sync_dir(dir)
}
