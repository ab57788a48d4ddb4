//! Warm on one machine: Parquet segments under a directory, and a manifest that says which count.
//!
//! ```text
//! DIR/lock                      held by the process that writes
//! DIR/manifest-0000000001.jsonl which segments there are, and each partition's high-water mark
//! DIR/checkpoint/p0003-….bin    the processor's state at that mark
//! DIR/date=2026-11-20/kind=quote/p0003-000000001234-000000005678-L0-00002a.parquet
//! ```
//!
//! A file is written under another name, synced, renamed, its directory synced; then one line of
//! the manifest makes all files of a block count at once. Nothing is ever written in place. A file
//! that the manifest does not name is moved aside at the next start if a crash can have left it
//! there; otherwise the manifest is damaged, and the store is not opened (`unnamed.rs`).

pub mod backup;
mod compact;
mod files;
mod manifest;
mod metrics;
mod read;
mod repair;
mod revisions;
mod scan;
mod segment;
mod source;
#[cfg(test)]
mod tests;
mod unnamed;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use bytes::Bytes;

use self::compact::Stopped;
use self::files::{MEND_FILE, create_dir, damaged, io_error, sync_dir};
use self::manifest::{Archived, CHECKPOINT_DIR, CheckpointFile, Edit, Manifest, MarkEdit, State};
pub use self::metrics::LocalWarmMetrics;
use self::read::MetadataCache;
pub use self::repair::segment_files;
pub use self::scan::SYMBOLS_ALONE_MAX;
use self::scan::{Part, Scanner};
use self::segment::SegmentWriter;
pub use self::segment::{SegmentGroup, SegmentInfo};
use self::unnamed::Unnamed;
use super::named::{self, LogOf};
use super::{ArchiveSource, Block, Mark, Origin, Query, Scan, ScanStats, Unit, Warm, WarmError};
use crate::bus::epoch::{Held, LogEpoch};
use crate::fail;
use crate::market::{Kind, TickBatch, TimeRange, Timestamp, TradingDay};
use crate::tiering::parquet::{LATE_BLOCK_BYTES, Summer, Sums};

/// Parsed footers that are kept, in bytes.
const METADATA_BYTES_MAX: usize = 32 << 20;

/// What the store holds of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindStats {
    /// The kind.
    pub kind: Kind,
    /// Its segments.
    pub segments: u64,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A segment's file. When nothing reads it any more it is removed, if it was merged away.
struct Segment {
    info: SegmentInfo,
    path: PathBuf,
    obsolete: AtomicBool,
    /// The checksums of a file that has none stored, once it was read whole and found sound.
    late_sums: Mutex<Option<Arc<Sums>>>,
}

impl Segment {
    fn new(root: &Path, info: SegmentInfo) -> Arc<Self> {
        let path = root.join(info.path());
        Arc::new(Self { info, path, obsolete: AtomicBool::new(false), late_sums: Mutex::default() })
    }

    /// When rows of it were stored last.
    fn written_at(&self) -> Timestamp {
        if self.info.written_at > 0 {
            return Timestamp::from_nanos(self.info.written_at);
        }
        // An earlier version did not note it. A merge makes it seem later, which only delays.
        let modified = fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        let since = modified.and_then(|modified| modified.duration_since(std::time::UNIX_EPOCH).ok());
        Timestamp::from_nanos(since.map_or(0, |since| since.as_nanos() as i64))
    }

    /// Reads the whole file and compares its checksum; gives those of its blocks.
    fn verify(&self) -> Result<Sums, WarmError> {
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => damaged(&self.path, format!("the file is missing{MEND_FILE}")),
            _ => io_error(&self.path, &error),
        };
        let mut file = File::open(&self.path).map_err(failed)?;
        let (mut crc, mut bytes, mut buffer) = (crc32fast::Hasher::new(), 0, vec![0; 1 << 16]);
        let mut sums = Summer::new(LATE_BLOCK_BYTES);
        loop {
            let read = file.read(&mut buffer).map_err(failed)?;
            if read == 0 {
                break;
            }
            crc.update(&buffer[..read]);
            sums.update(&buffer[..read]);
            bytes += read as u64;
        }
        if (bytes, crc.finalize()) == (self.info.bytes, self.info.crc) {
            Ok(sums.finish())
        } else {
            Err(damaged(&self.path, format!("its checksum is not the one it was written with{MEND_FILE}")))
        }
    }

    /// The checksums of a file that has none stored: it is read whole for them, once.
    fn late_sums(&self) -> Result<Arc<Sums>, WarmError> {
        let mut late_sums = self.late_sums.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sums) = &*late_sums {
            return Ok(sums.clone());
        }
        Ok(late_sums.insert(Arc::new(self.verify()?)).clone())
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if !*self.obsolete.get_mut() {
            return;
        }
        match fs::remove_file(&self.path) {
            Ok(()) => fail::point("warm.local.removed"),
            // It is no longer in the manifest: the next start tries again.
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "could not remove a merged segment");
            }
        }
    }
}

/// What scans see.
#[derive(Default)]
struct Live {
    marks: BTreeMap<u16, MarkEdit>,
    /// Each group's segments in the order of their offsets. No group is empty.
    segments: BTreeMap<SegmentGroup, Vec<Arc<Segment>>>,
    /// What the archive has done, by unit.
    archived: BTreeMap<Unit, Archived>,
    log: Option<LogOf>,
    count: u64,
    bytes: u64,
}

impl Live {
    /// The marks, by partition.
    fn next_offsets(&self) -> Vec<u64> {
        let partitions = self.marks.keys().next_back().map_or(0, |last| usize::from(*last) + 1);
        let mut next_offsets = vec![0; partitions];
        self.marks
            .iter()
            .for_each(|(partition, mark)| next_offsets[usize::from(*partition)] = mark.next_offset);
        next_offsets
    }

    fn add(&mut self, segment: Arc<Segment>) {
        self.count += 1;
        self.bytes += segment.info.bytes;
        let group = self.segments.entry(segment.info.group()).or_default();
        let at = group.partition_point(|other| other.info.first_offset <= segment.info.first_offset);
        group.insert(at, segment);
    }

    fn remove(&mut self, segment: &Segment) {
        let Some(group) = self.segments.get_mut(&segment.info.group()) else { return };
        group.retain(|other| other.info.id != segment.info.id);
        self.count -= 1;
        self.bytes -= segment.info.bytes;
        if group.is_empty() {
            self.segments.remove(&segment.info.group());
        }
    }
}

/// The manifest and what it adds up to; absent where the store was opened to read.
struct Writer {
    manifest: Manifest,
    state: State,
}

struct Shared {
    root: PathBuf,
    writer: Option<Mutex<Writer>>,
    live: RwLock<Live>,
    cache: Arc<MetadataCache>,
    metrics: LocalWarmMetrics,
    /// Commits under way: compaction lets them go first.
    commits: AtomicUsize,
    closing: AtomicBool,
    /// Held by who waits on `wake`.
    idle: Mutex<()>,
    /// A commit has ended, or the store is being closed.
    wake: Condvar,
    /// Held while a merge is under way: one at a time.
    compacting: Mutex<()>,
    /// The lock of the directory lasts as long as anything is under way in it.
    _lock: Option<File>,
    #[cfg(test)]
    crash: tests::Crash,
}

/// Days of ticks in Parquet segments under a directory.
pub struct LocalWarm {
    shared: Arc<Shared>,
    compactor: Option<JoinHandle<()>>,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct LocalWarmOptions {
    /// Whether small segments are merged in the background. Otherwise only
    /// [`LocalWarm::compact`] merges.
    pub compaction: bool,
}

impl Default for LocalWarmOptions {
    fn default() -> Self {
        Self { compaction: true }
    }
}

impl LocalWarm {
    /// Opens the store in `dir`, which is made if it is missing, cleans up after a crash, and
    /// starts compaction. Blocking.
    ///
    /// Errors: another process has it open; the directory can't be written; the manifest is
    /// damaged, or does not fit the files that are there. Nothing was changed then.
    pub fn open(dir: &Path, options: LocalWarmOptions) -> Result<Arc<Self>, WarmError> {
        create_dir(dir)?;
        let lock = lock(dir)?;
        create_dir(&dir.join(CHECKPOINT_DIR))?;
        unnamed::check_manifest(dir)?;
        let mut found = Unnamed::default();
        let (manifest, mut state) = Manifest::open(dir, |state| {
            found = Unnamed::find(dir, state)?;
            Ok(())
        })?;
        found.move_aside(dir)?;
        state.next_id = state.next_id.max(found.next_id());
        let live = live(dir, &state);
        let mut warm = Self::new(dir, live, Some(Writer { manifest, state }), Some(lock));
        if options.compaction {
            let shared = warm.shared.clone();
            let thread = std::thread::Builder::new().name("stk-compaction".to_owned());
            let spawned = thread.spawn(move || shared.compact_in_background());
            warm.compactor = Some(spawned.map_err(|error| io_error(dir, &error))?);
        }
        Ok(Arc::new(warm))
    }

    /// Opens the store in `dir` to read, changing nothing. A directory that is missing is an empty store.
    /// Blocking.
    ///
    /// Errors: a process has it open to write; the manifest is damaged, or does not fit the files that are
    /// there.
    pub fn open_read_only(dir: &Path) -> Result<Arc<Self>, WarmError> {
        let path = dir.join("lock");
        let lock = match File::open(&path) {
            // Nobody has ever had the directory open, or this is a copy of it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            file => {
                let file = file.map_err(|error| io_error(&path, &error))?;
                crate::disk::lock_soon(&file, File::try_lock_shared)
                    .map_err(|error| lock_error(&path, error))?;
                Some(file)
            }
        };
        if !dir.is_dir() {
            return Ok(Arc::new(Self::new(dir, Live::default(), None, lock)));
        }
        unnamed::check_manifest(dir)?;
        let state = manifest::read(dir)?.unwrap_or_default();
        Unnamed::find(dir, &state)?;
        Ok(Arc::new(Self::new(dir, live(dir, &state), None, lock)))
    }

    fn new(dir: &Path, live: Live, writer: Option<Writer>, lock: Option<File>) -> Self {
        let shared = Shared {
            root: dir.to_owned(),
            writer: writer.map(Mutex::new),
            live: RwLock::new(live),
            cache: Arc::new(MetadataCache::new(METADATA_BYTES_MAX)),
            metrics: LocalWarmMetrics::default(),
            commits: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            idle: Mutex::new(()),
            wake: Condvar::new(),
            compacting: Mutex::new(()),
            _lock: lock,
            #[cfg(test)]
            crash: tests::Crash::default(),
        };
        shared.note_size(&shared.live());
        Self { shared: Arc::new(shared), compactor: None }
    }

    /// Has the store name the log of `epoch`, with `partitions`, which it was found to fit to: blocks to
    /// come are of its present generation. Blocking.
    ///
    /// Errors: the store can't be written.
    pub fn name_log(&self, epoch: &LogEpoch, partitions: u16) -> Result<(), WarmError> {
        let mut writer = self.shared.writer()?;
        let Writer { manifest, state } = &mut *writer;
        let log = LogOf::new(epoch, partitions, self.shared.live().next_offsets());
        let Some(edit) = manifest::edit_after(&log, state.log.as_ref()) else { return Ok(()) };
        if state.log.is_none() && !state.marks.is_empty() {
            tracing::warn!(
                store = %self.shared.root.display(),
                log = format!("{:016x}", log.id),
                "the store did not name the log it was filled from: from now on it names this one"
            );
        }
        manifest.append(state, edit)?;
        self.shared.live.write().unwrap_or_else(PoisonError::into_inner).log.clone_from(&state.log);
        Ok(())
    }

    /// What the store counts.
    pub fn metrics(&self) -> LocalWarmMetrics {
        self.shared.metrics.clone()
    }

    /// The segments there are now, by day, kind, partition and offset.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.shared.live().segments.values().flatten().map(|segment| segment.info.clone()).collect()
    }

    /// What the store holds, by kind; kinds without rows are left out.
    pub fn stats(&self) -> Vec<KindStats> {
        let mut stats: BTreeMap<Kind, KindStats> = BTreeMap::new();
        for segment in self.shared.live().segments.values().flatten() {
            let kind = segment.info.kind;
            let of = stats.entry(kind).or_insert(KindStats { kind, segments: 0, rows: 0, bytes: 0 });
            of.segments += 1;
            of.rows += segment.info.rows;
            of.bytes += segment.info.bytes;
        }
        stats.into_values().collect()
    }

    /// Reads every segment whole and compares its checksum. Blocking.
    pub fn verify(&self) -> Result<(), WarmError> {
        let segments: Vec<_> = self.shared.live().segments.values().flatten().cloned().collect();
        segments.iter().try_for_each(|segment| segment.verify().map(drop))
    }

    /// Does the most useful merge that is due. Returns whether there was one. Blocking.
    pub fn compact(&self) -> Result<bool, WarmError> {
        match self.shared.compact() {
            Ok(done) => Ok(done),
            Err(Stopped::Closed) => Ok(false),
            Err(Stopped::Failed(error)) => Err(error),
        }
    }
}

impl Drop for LocalWarm {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.notify();
        if let Some(compactor) = self.compactor.take() {
            let _ = compactor.join();
        }
        // What a caller no longer waits for is still done, and must be before another has the store.
        let mut idle = self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while self.shared.commits.load(Ordering::Acquire) > 0 {
            idle = self.shared.wake.wait(idle).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock(dir: &Path) -> Result<File, WarmError> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path);
    let file = file.map_err(|error| io_error(&path, &error))?;
    crate::disk::lock_soon(&file, File::try_lock).map_err(|error| lock_error(&path, error))?;
    Ok(file)
}

fn lock_error(path: &Path, error: TryLockError) -> WarmError {
    match error {
        TryLockError::WouldBlock => WarmError::Io {
            path: path.display().to_string(),
            reason: "another process has the store open; stop it, or ask it by --server".to_owned(),
        },
        TryLockError::Error(error) => io_error(path, &error),
    }
}

fn live(dir: &Path, state: &State) -> Live {
    let (marks, archived, log) = (state.marks.clone(), state.archived.clone(), state.log.clone());
    let mut live = Live { marks, archived, log, ..Live::default() };
    for info in state.segments.values() {
        live.add(Segment::new(dir, info.clone()));
    }
    live
}

impl Shared {
    fn live(&self) -> std::sync::RwLockReadGuard<'_, Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> Result<std::sync::MutexGuard<'_, Writer>, WarmError> {
        let writer = self.writer.as_ref().ok_or_else(|| WarmError::Io {
            path: self.root.display().to_string(),
            reason: "the store was opened to read".to_owned(),
        })?;
        Ok(writer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn notify(&self) {
        drop(self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_all();
    }

    fn note_size(&self, live: &Live) {
        self.metrics.segments.set(live.count as i64);
        self.metrics.bytes_stored.set(live.bytes as i64);
    }

    fn new_id(&self) -> Result<u64, WarmError> {
        let mut writer = self.writer()?;
        let id = writer.state.next_id;
        writer.state.next_id += 1;
        Ok(id)
    }

    /// The step `point` of a commit, a merge, a drop or a restore is done: where a test may have it
    /// crash.
    #[cfg_attr(
        not(test),
        expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests crash here")
    )]
    fn step(&self, point: &'static str) -> Result<(), WarmError> {
        fail::point(point);
        #[cfg(test)]
        self.crash.step()?;
        Ok(())
    }

    fn check_next(live: &Live, block: &Block) -> Result<(), WarmError> {
        let next_offset = live.marks.get(&block.partition).map_or(0, |mark| mark.next_offset);
        if block.first_offset == next_offset && block.next_offset >= next_offset {
            return Ok(());
        }
        Err(WarmError::NotNext { partition: block.partition, first_offset: block.first_offset, next_offset })
    }

    fn commit(&self, block: &Block) -> Result<(), WarmError> {
        Self::check_next(&self.live(), block)?;
        // Files that can't be made to count must not pile up.
        self.writer()?.manifest.check()?;
        let mut segments = Vec::with_capacity(block.batches.len());
        let written = self.write_files(block, &mut segments);
        let mark = match written {
            Ok(checkpoint) => {
                let Block { partition, next_offset, seam, .. } = *block;
                MarkEdit { partition, next_offset, checkpoint, seam }
            }
            Err(error) => {
                self.abandon(&segments);
                return Err(error);
            }
        };
        let mut writer = self.writer()?;
        if let Err(error) = Self::check_next(&self.live(), block) {
            drop(writer);
            self.abandon(&segments);
            self.abandon_checkpoint(&mark);
            return Err(error);
        }
        let Writer { manifest, state } = &mut *writer;
        let edit = Edit::Commit { mark: mark.clone(), segments: segments.clone() };
        if let Err(error) = manifest.append(state, edit) {
            // Otherwise the edit may yet have reached the disk, and its files must stay.
            if manifest.check().is_ok() {
                self.abandon(&segments);
                self.abandon_checkpoint(&mark);
            }
            return Err(error);
        }
        self.step("warm.local.committed")?;
        let (rows, bytes) = segments.iter().fold((0, 0), |sum, info| (sum.0 + info.rows, sum.1 + info.bytes));
        let old = {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            segments.into_iter().for_each(|info| live.add(Segment::new(&self.root, info)));
            let old = live.marks.insert(block.partition, mark);
            self.note_size(&live);
            old
        };
        drop(writer);
        if let Some(old) = old.and_then(|mark| mark.checkpoint) {
            // Whoever reads it at this moment has it open or reads the mark again.
            let _ = fs::remove_file(self.root.join(CHECKPOINT_DIR).join(old.file));
            fail::point("warm.local.superseded");
        }
        self.metrics.commits.inc();
        self.metrics.rows.inc_by(rows);
        self.metrics.bytes_written.inc_by(bytes);
        Ok(())
    }

    fn write_files(
        &self,
        block: &Block,
        segments: &mut Vec<SegmentInfo>,
    ) -> Result<Option<CheckpointFile>, WarmError> {
        for (day, batch) in block.batches.iter().filter(|(_, batch)| !batch.is_empty()) {
            let keys = batch.keys().map_err(|error| WarmError::Io {
                path: self.root.display().to_string(),
                reason: error.to_string(),
            })?;
            // A bar that was rebuilt stands at the last record before its block.
            let offsets = keys.offsets();
            let (first, last) = (offsets.iter().min().copied(), offsets.iter().max().copied());
            let info = SegmentInfo {
                id: self.new_id()?,
                kind: batch.kind(),
                day: *day,
                partition: block.partition,
                first_offset: first.map_or(block.first_offset, |first| first.min(block.first_offset)),
                next_offset: last.map_or(block.next_offset, |last| block.next_offset.max(last + 1)),
                level: 0,
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
            let mut writer = SegmentWriter::create(&self.root, info, segment::ROW_GROUP_ROWS)?;
            writer.write_whole(batch, &keys)?;
            self.step("warm.local.writing")?;
            segments.push(writer.finish()?);
            self.step("warm.local.segment")?;
        }
        if block.checkpoint.is_empty() {
            return Ok(None);
        }
        let checkpoint = self.write_checkpoint(block)?;
        self.step("warm.local.checkpoint")?;
        Ok(Some(checkpoint))
    }

    fn write_checkpoint(&self, block: &Block) -> Result<CheckpointFile, WarmError> {
        let dir = self.root.join(CHECKPOINT_DIR);
        let id = self.new_id()?;
        let file = format!("p{:04}-{:012}-{id:06x}.bin", block.partition, block.next_offset);
        let path = dir.join(&file);
        let written = File::create(&path).and_then(|mut file| {
            std::io::Write::write_all(&mut file, &block.checkpoint)?;
            file.sync_all()
        });
        written.map_err(|error| {
            let _ = fs::remove_file(&path);
            io_error(&path, &error)
        })?;
        sync_dir(&dir)?;
        let (bytes, crc) = (block.checkpoint.len() as u64, crc32fast::hash(&block.checkpoint));
        Ok(CheckpointFile { id, file, bytes, crc })
    }

    /// Removes the files of a block that could not be stored.
    fn abandon(&self, segments: &[SegmentInfo]) {
        #[cfg(test)]
        if self.crash.has_crashed() {
            return;
        }
        for info in segments {
            let _ = fs::remove_file(self.root.join(info.path()));
        }
    }

    /// Removes the checkpoint of a block that could not be stored.
    fn abandon_checkpoint(&self, mark: &MarkEdit) {
        if let Some(checkpoint) = &mark.checkpoint {
            let _ = fs::remove_file(self.root.join(CHECKPOINT_DIR).join(&checkpoint.file));
        }
    }

    fn mark(&self, partition: u16) -> Result<Mark, WarmError> {
        loop {
            let Some(mark) = self.live().marks.get(&partition).cloned() else { return Ok(Mark::default()) };
            let Some(checkpoint) = mark.checkpoint else {
                let checkpoint = Bytes::new();
                return Ok(Mark { next_offset: mark.next_offset, checkpoint, seam: mark.seam });
            };
            let path = self.root.join(CHECKPOINT_DIR).join(&checkpoint.file);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                // A commit has put a newer one in its place.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    if self.live().marks.get(&partition).and_then(|now| now.checkpoint.as_ref())
                        != Some(&checkpoint)
                    {
                        continue;
                    }
                    return Err(damaged(&path, format!("the file is missing{MEND_FILE}")));
                }
                Err(error) => return Err(io_error(&path, &error)),
            };
            if (bytes.len() as u64, crc32fast::hash(&bytes)) != (checkpoint.bytes, checkpoint.crc) {
                return Err(damaged(
                    &path,
                    format!("its checksum is not the one it was written with{MEND_FILE}"),
                ));
            }
            return Ok(Mark { next_offset: mark.next_offset, checkpoint: bytes.into(), seam: mark.seam });
        }
    }

    fn scanner(&self, query: &Query) -> (Scanner, Scan) {
        self.metrics.scans.inc();
        let wanted: read::Wanted = query.symbols.as_ref().map(|symbols| {
            let sorted: BTreeSet<_> = symbols.iter().copied().map(Some).collect();
            sorted.into_iter().collect()
        });
        let live = self.live();
        let of_kind = live.archived.iter().filter(|(unit, _)| unit.kind == query.kind);
        let restored: BTreeSet<TradingDay> = of_kind
            .clone()
            .filter(|(_, archived)| archived.restored.is_some())
            .map(|(unit, _)| unit.day)
            .collect();
        let dropped = of_kind
            .filter(|(_, archived)| !archived.dropped.is_empty())
            .map(|(unit, archived)| (unit.day, archived.dropped.clone()));
        let dropped: BTreeMap<TradingDay, Vec<u64>> = dropped.collect();
        let part = |segment: &Arc<Segment>| {
            let info = &segment.info;
            // What lies below is read from the archive.
            let floors = query.archived.get(&info.day).filter(|_| !restored.contains(&info.day));
            let of_partition = |offsets: &Vec<u64>| offsets.get(usize::from(info.partition)).copied();
            let floor = floors.and_then(of_partition).max(of_partition(&query.first_offsets));
            let offsets = floor.unwrap_or(0)..u64::MAX;
            let wanted = info.may_hold(&query.range, wanted.as_deref()) && offsets.start < info.next_offset;
            wanted.then(|| Part { segment: segment.clone(), offsets })
        };
        let of_kind = live.segments.iter().filter(|(group, _)| group.kind == query.kind);
        let parts: Vec<_> = of_kind
            .filter(|_| !query.range.is_empty())
            .flat_map(|(_, segments)| segments)
            .filter_map(part)
            .collect();
        let stats = Arc::new(Mutex::new(ScanStats {
            segments_read: parts.len() as u64,
            segments_total: live.count,
            bytes_read: 0,
            bytes_stored: live.bytes,
        }));
        let next_offsets = live.next_offsets();
        drop(live);
        let scanner = Scanner::new(query.kind, query.range, wanted, parts, self.cache.clone(), stats.clone());
        let rows = Box::pin(futures_util::stream::empty());
        (scanner, Scan { rows, stats, next_offsets, dropped, restored })
    }

    fn compact(&self) -> Result<bool, Stopped> {
        let _one = self.compacting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(plan) = compact::plan(&self.live()) else { return Ok(false) };
        let added = self.merge(&plan, self.new_id()?)?;
        self.step("warm.local.merged")?;
        let mut writer = self.writer()?;
        let Writer { manifest, state } = &mut *writer;
        if plan.is_sealed_apart(state.archived.get(&added.unit())) {
            // The archive has sealed the unit meanwhile: what it counted must stay as it was.
            drop(writer);
            self.abandon(&[added]);
            return Ok(true);
        }
        let drop_ids = plan.inputs().iter().map(|input| input.info.id).collect();
        if let Err(error) = manifest.append(state, Edit::Replace { drop: drop_ids, add: vec![added.clone()] })
        {
            if manifest.check().is_ok() {
                self.abandon(&[added]);
            }
            return Err(error.into());
        }
        self.step("warm.local.replaced")?;
        let bytes = added.bytes;
        {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            plan.inputs().iter().for_each(|input| live.remove(input));
            live.add(Segment::new(&self.root, added));
            self.note_size(&live);
        }
        drop(writer);
        for input in plan.inputs() {
            self.cache.forget(input.info.id);
            input.obsolete.store(true, Ordering::Release);
        }
        self.metrics.compactions.inc();
        self.metrics.compaction_bytes_written.inc_by(bytes);
        Ok(true)
    }

    fn compact_in_background(&self) {
        // On Linux this concerns the calling thread alone: merging takes what others leave.
        let _ = rustix::process::setpriority_process(None, 19);
        loop {
            match self.compact() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(Stopped::Closed) => return,
                Err(Stopped::Failed(error)) => {
                    self.metrics.compaction_failures.inc();
                    tracing::error!(%error, "compaction failed; it is tried again after the next commit");
                }
            }
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if self.closing.load(Ordering::Acquire) {
                return;
            }
            drop(self.wake.wait(idle).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// Counts what changes the store for as long as it lives: from before the work is handed to another
/// thread until it is done there, whether or not anybody waits for it still.
struct CommitGuard(Arc<Shared>);

impl CommitGuard {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.commits.fetch_add(1, Ordering::AcqRel);
        Self(shared.clone())
    }
}

impl Drop for CommitGuard {
    fn drop(&mut self) {
        self.0.commits.fetch_sub(1, Ordering::AcqRel);
        self.0.notify();
    }
}

/// Runs `work` off the async threads. A panic in it comes from bytes that no writer wrote.
async fn blocking<T: Send + 'static>(
    root: PathBuf,
    work: impl FnOnce() -> Result<T, WarmError> + Send + 'static,
) -> Result<T, WarmError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(damaged(&root, "a segment could not be decoded")),
        Err(error) => Err(WarmError::Io { path: root.display().to_string(), reason: error.to_string() }),
    }
}

#[async_trait::async_trait]
impl Warm for LocalWarm {
    fn merge_bytes(&self, query: &Query) -> usize {
        let live = self.shared.live();
        let read = live.segments.iter().filter(|(group, _)| {
            let day_range = TimeRange { from: group.day.start(), to: group.day.end() };
            group.kind == query.kind && query.range.overlaps(&day_range)
        });
        scan::merge_bytes(read.flat_map(|(_, segments)| segments).map(|segment| segment.info.bytes))
    }

    async fn held(&self) -> Result<Held, WarmError> {
        let live = self.shared.live();
        Ok(named::held(self.shared.root.display().to_string(), live.log.clone(), live.next_offsets()))
    }

    async fn check_origin(&self, origin: &Origin) -> Result<bool, WarmError> {
        // Another log, or another timeline of this one, is what `held` tells.
        let named = self.shared.live().log.as_ref().map(|log| (log.id, log.partitions()));
        let Some((id, partitions)) = named else { return Ok(false) };
        let other = partitions.filter(|count| *count != usize::from(origin.partitions));
        match other.filter(|_| origin.log.is(id)) {
            Some(partitions) => {
                let path = format!("the store {}", self.shared.root.display());
                let way_on = "make a new topic (log.kafka_topic) and name a new data directory (data.dir), and keep the \
                              old one to read its days";
                Err(super::other_partitions(path, partitions, origin.partitions, way_on))
            }
            None => Ok(true),
        }
    }

    async fn claim(&self, partition: u16) -> Result<Mark, WarmError> {
        // No other process can have the store: its lock is the claim.
        self.mark(partition).await
    }

    async fn mark(&self, partition: u16) -> Result<Mark, WarmError> {
        let shared = self.shared.clone();
        blocking(self.shared.root.clone(), move || shared.mark(partition)).await
    }

    async fn commit(&self, block: Block) -> Result<(), WarmError> {
        let (shared, counted) = (self.shared.clone(), CommitGuard::new(&self.shared));
        blocking(self.shared.root.clone(), move || {
            let _counted = counted;
            shared.commit(&block)
        })
        .await
    }

    async fn leave_to_archive(&self, unit: Unit, next_offsets: &[u64]) -> Result<(), WarmError> {
        ArchiveSource::drop_rows(self, unit, next_offsets).await.map(|_| ())
    }

    async fn scan(&self, query: &Query) -> Result<Scan, WarmError> {
        let (scanner, scan) = self.shared.scanner(query);
        let root = self.shared.root.clone();
        let step = move |scanner: Option<Scanner>| {
            let root = root.clone();
            async move {
                let mut scanner = scanner?;
                let next = blocking(root, move || {
                    let next = scanner.next()?;
                    Ok(next.map(|rows| (rows, scanner)))
                });
                match next.await {
                    Ok(next) => next.map(|(rows, scanner)| (Ok(rows), Some(scanner))),
                    Err(error) => Some((Err::<TickBatch, _>(error), None)),
                }
            }
        };
        let rows = Box::pin(futures_util::stream::unfold(Some(scanner), step));
        Ok(Scan { rows, ..scan })
    }
}
