//! The log on disk: segments, each a fjall keyspace. The only file that names fjall.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::config::{BlockSizePolicy, CompressionPolicy, FilterPolicy};
use fjall::{AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Slice};

use super::header::{HEADER_KEY, Header};
use super::journal::{self, KEYSPACES_FOLDER, Mark};
use super::shadow::Shadow;
use super::synced::{Synced, SyncedFile};
use super::{Access, LocalBusConfig, LocalBusMetrics};
use super::{torn, trees};
use crate::bus::{BusError, Record};
use crate::disk::sync_dir;
use crate::fail;
use crate::wire::token::LogId;

/// Tables in a segment: a multiple of it must stay under 20, where fjall begins to brake writes.
const SEGMENT_MEMTABLES_MAX: u64 = 8;
/// Memtables that wait to be flushed, below the four at which fjall stops.
const SEALED_MEMTABLES_MAX: usize = 2;
const SEGMENT_BYTES_MAX: u64 = 128 << 20;
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const MEMTABLE_BYTES_MIN: u64 = 1 << 20;
const BLOCK_BYTES: u32 = 32 << 10;
/// How much fjall's journals may hold before it flushes what keeps the oldest of them.
const JOURNALS_BYTES: u64 = 64 << 20;
/// A journal that is read in no time.
const SHORT_JOURNAL_BYTES: u64 = 4 << 20;
/// How long a closing log waits for its tables.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// In a keyspace of a dropped segment, after its header, so that the table of the two has none of the
/// segment's keys.
const DROPPED_KEY: [u8; 3] = [0xff, 0xff, 0xff];
const SEGMENT_PREFIX: &str = "segment-";

/// A record on its way to the disk.
pub(super) struct Entry {
    pub(super) partition: u16,
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// A stretch of the log over all partitions, dropped as a whole.
pub(super) struct Segment {
    id: u64,
    keyspace: Keyspace,
    /// Its directory, also where fjall opened a shadow of it.
    path: PathBuf,
    /// By partition, the offset of its first record here.
    pub(super) starts: Vec<u64>,
    /// By partition, the offset after the last record before it: less than `starts` only where the log
    /// skipped offsets that other stores hold rows of.
    pub(super) befores: Vec<u64>,
    /// When it was begun, ms since the epoch. Every record of earlier segments is older.
    pub(super) created_ms: u64,
    /// Bytes of all records ever appended before it.
    pub(super) bytes_before: u64,
}

impl Segment {
    /// The segment in `keyspace` of the log in `path`.
    fn new(keyspace: Keyspace, header: Header, path: &Path) -> Self {
        let Header { id, created_ms, bytes_before, starts, befores } = header;
        let path = path_of(path, &keyspace);
        Self { id, keyspace, path, starts, befores, created_ms, bytes_before }
    }

    /// Records of `partition` from offset `from` to before `to`, at least one if there is one, up
    /// to the one that reaches `bytes_max`.
    pub(super) fn read(
        &self,
        partition: u16,
        from: u64,
        to: u64,
        bytes_max: usize,
    ) -> Result<Vec<Record>, String> {
        let mut records = Vec::new();
        let mut bytes_total = 0;
        for entry in self.keyspace.range(key(partition, from)..key(partition, to)) {
            let (key, value) = entry.into_inner().map_err(|error| self.damage(&error))?;
            let expected = from + records.len() as u64;
            let offset = offset_of(&key)?;
            if offset != expected {
                return Err(format!(
                    "record {expected} of partition {partition} is missing in {}: a file there is damaged",
                    self.path.display()
                ));
            }
            bytes_total += value.len();
            records.push(Record { offset, bytes: value.into() });
            if bytes_total >= bytes_max {
                break;
            }
        }
        if records.is_empty() && from < to {
            return Err(format!(
                "record {from} of partition {partition} is missing in {}: a file there is damaged",
                self.path.display()
            ));
        }
        Ok(records)
    }

    /// By partition, the offset after the last one here.
    fn ends(&self) -> Result<Vec<u64>, String> {
        (0u16..)
            .zip(&self.starts)
            .map(|(partition, &start)| {
                let range = key(partition, start)..=key(partition, u64::MAX);
                match self.keyspace.range(range).next_back() {
                    Some(entry) => Ok(offset_of(&entry.key().map_err(|error| self.damage(&error))?)? + 1),
                    None => Ok(start),
                }
            })
            .collect()
    }

    /// The file that is at fault for `error`, in words; the error itself where none is found.
    fn damage(&self, error: &fjall::Error) -> String {
        trees::find_damage_in(&self.path).err().unwrap_or_else(|| error.to_string())
    }

    /// Reads every record, and returns their bytes.
    fn check(&self, ends: &[u64]) -> Result<u64, String> {
        let mut bytes = 0;
        for ((partition, &start), &end) in (0u16..).zip(&self.starts).zip(ends) {
            let mut from = start;
            while from < end {
                let records = self.read(partition, from, end, 1 << 20)?;
                from += records.len() as u64;
                bytes += records.iter().map(|record| record.bytes.len() as u64).sum::<u64>();
            }
        }
        Ok(bytes)
    }
}

/// What [`Store::open`] found.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) segments: Vec<Arc<Segment>>,
    /// By partition, the offset that its next record gets.
    pub(super) nexts: Vec<u64>,
    /// Bytes of all records ever appended.
    pub(super) bytes_total: u64,
    /// What of the journals could not be read, or was cut off them and may have been durable, in words.
    pub(super) damage: Option<String>,
}

/// Writes the log; owned by the writer's thread.
pub(super) struct Store {
    path: PathBuf,
    journal: Journal,
    active: Arc<Segment>,
    active_bytes: u64,
    segment_bytes_max: u64,
    memtable_bytes: u64,
    /// The segment before the active one, which may still be in memory.
    previous: Option<Arc<Segment>>,
    /// By partition, what comes next on disk.
    nexts: Vec<u64>,
    /// Segments that were dropped, oldest first, and whose keyspaces are not yet empty.
    dropped: VecDeque<Arc<Segment>>,
    /// Keyspaces for segments to come.
    free: Vec<Keyspace>,
    /// Where it says what is synced.
    synced: Option<SyncedFile>,
    /// What fjall has open instead of `path`, for a reader. Goes after the database.
    _shadow: Option<Shadow>,
}

impl Store {
    /// Opens the log. To write, a torn tail is cut, and a log that is missing is created. To read,
    /// nothing is changed, and a log that is missing is an empty one.
    pub(super) fn open(config: &LocalBusConfig, now_ms: u64) -> Result<Opened, BusError> {
        let LocalBusConfig { path, memory_bytes, .. } = config;
        let (memory_bytes, retention_bytes) = (*memory_bytes, config.retention.bytes);
        let failed = |reason: String| BusError::Failed { path: path.display().to_string(), reason };
        let shadow = match config.access {
            Access::Write => None,
            // A file that is missing is named rather than the copy that failed.
            Access::Read => Some(Shadow::of(path).map_err(|error| match error {
                BusError::Locked { .. } => error,
                error => trees::check(path).err().map_or(error, failed),
            })?),
        };
        let (last, synced) = match &shadow {
            None => {
                let checked = journal::prepare(path)?;
                (checked.last, checked.synced)
            }
            Some(shadow) => (shadow.last, shadow.synced.clone()),
        };
        trees::check(path).map_err(failed)?;
        // In words, the file that is at fault for what fjall stumbled over.
        let or_damage = |reason: String| failed(trees::find_damage(path).unwrap_or(reason));
        let opened_path = shadow.as_ref().map_or(path.as_path(), |shadow| shadow.dir.path());
        let segment_bytes = (retention_bytes / 8).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        let memtable_bytes =
            (memory_bytes / 8).clamp(MEMTABLE_BYTES_MIN, segment_bytes.max(MEMTABLE_BYTES_MIN));
        let segment_bytes_max = segment_bytes.min(memtable_bytes * SEGMENT_MEMTABLES_MAX);

        let db = Database::builder(opened_path)
            .cache_size(memory_bytes / 16)
            .journal_compression(CompressionType::None)
            .max_journaling_size(JOURNALS_BYTES)
            .worker_threads(2)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => BusError::Locked { path: path.display().to_string() },
                error => or_damage(format!("{error}; {}", trees::WAY_OUT)),
            })?;
        // fjall has synced the journal before it read it, but not the folders it made.
        sync_dir(&opened_path.join(KEYSPACES_FOLDER))
            .map_err(|error| failed(format!("cannot sync: {error}")))?;
        let mut journal = Journal { db, mark: Mark { number: last, synced: last } };
        let Loaded { segments, nexts, bytes_total, free } =
            load(&mut journal, config, memtable_bytes, now_ms).map_err(or_damage)?;
        let active = Arc::clone(segments.last().expect("there is always a segment"));
        let active_bytes = bytes_total - active.bytes_before;
        let lacks = synced.lacks(path, &nexts);
        let damage = match (&shadow, lacks) {
            (None, Some(lacks)) => return Err(failed(lacks)),
            (None, None) => torn::untold(path),
            (Some(shadow), lacks) => {
                shadow.damage.as_ref().map(ToString::to_string).or(lacks).or_else(|| torn::untold(path))
            }
        };
        let store = Self {
            path: path.clone(),
            journal,
            active,
            active_bytes,
            segment_bytes_max,
            memtable_bytes,
            previous: None,
            nexts: nexts.clone(),
            dropped: VecDeque::new(),
            free,
            synced: None,
            _shadow: shadow,
        };
        Ok(Opened { store, segments, nexts, bytes_total, damage })
    }

    /// Writes `entries`, all or none, to the system; durable after [`Self::sync`].
    pub(super) fn commit<'a>(
        &mut self,
        entries: impl Iterator<Item = &'a Entry>,
        metrics: &LocalBusMetrics,
    ) -> Result<(), String> {
        self.wait_for_flushes(metrics)?;
        let (nexts, mut bytes) = (&mut self.nexts, 0);
        let items = entries.map(|entry| {
            let next = &mut nexts[usize::from(entry.partition)];
            debug_assert_eq!(*next, entry.offset);
            *next = entry.offset + 1;
            bytes += entry.bytes.len() as u64;
            (Slice::from(key(entry.partition, entry.offset)), Slice::from(entry.bytes.clone()))
        });
        self.journal.commit(&self.active.keyspace, items)?;
        self.active_bytes += bytes;
        Ok(())
    }

    /// Waits while too much is in memory. fjall waits too, but later, in long steps, and for ever
    /// if its workers have ended with an error.
    fn wait_for_flushes(&self, metrics: &LocalBusMetrics) -> Result<(), String> {
        let is_behind = || {
            let previous =
                self.previous.as_ref().map_or(0, |segment| segment.keyspace.sealed_memtable_count());
            previous + self.active.keyspace.sealed_memtable_count() >= SEALED_MEMTABLES_MAX
        };
        while is_behind() {
            self.journal.check()?;
            metrics.flush_waits.inc();
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// By partition, the offset after the last record committed.
    pub(super) fn nexts(&self) -> &[u64] {
        &self.nexts
    }

    /// Makes everything committed durable.
    pub(super) fn sync(&mut self) -> Result<(), String> {
        self.journal.sync()?;
        self.note_synced();
        Ok(())
    }

    /// Says from now on what is synced, in the name of `log`. All of it is now.
    pub(super) fn vouch(&mut self, log: LogId) {
        match SyncedFile::create(&self.path, log) {
            Ok(file) => {
                self.synced = Some(file);
                self.note_synced();
            }
            Err(error) => self.cannot_vouch(&error),
        }
    }

    fn note_synced(&mut self) {
        let Some(file) = &self.synced else { return };
        let synced = Synced { batch: self.journal.mark.synced, nexts: self.nexts.clone() };
        if let Err(error) = file.write(&synced) {
            self.cannot_vouch(&error);
        }
    }

    /// Without the file a damaged end of the journal is taken for a torn one, no more.
    fn cannot_vouch(&mut self, error: &std::io::Error) {
        self.synced = None;
        tracing::warn!(path = %self.path.display(), %error, "can't note up to where the log is synced");
    }

    /// Tells in the journal that all of it is synced, so that damage is not taken for a torn tail.
    pub(super) fn seal(&mut self) -> Result<(), String> {
        self.journal.commit(&self.active.keyspace, std::iter::empty())?;
        self.journal.sync()
    }

    /// Puts what is in memory into tables and empties the journal, which the next opening would read
    /// from end to end, twice. For a log that was sealed: nothing is written after it. A short
    /// journal is left as it is.
    pub(super) fn settle(&self, segments: &[Arc<Segment>]) -> Result<(), String> {
        let long = journal::allocated_bytes(&self.path).map_err(|error| error.to_string())?;
        if long < SHORT_JOURNAL_BYTES {
            return Ok(());
        }
        for segment in segments {
            segment.keyspace.rotate_memtable().map_err(text)?;
        }
        let until = Instant::now() + SETTLE_MAX;
        while segments.iter().any(|segment| segment.keyspace.sealed_memtable_count() > 0) {
            self.journal.check()?;
            if Instant::now() >= until {
                return Err(format!("what is in memory is not in tables after {} s", SETTLE_MAX.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        fail::point("log.local.settled");
        journal::empty(&self.path).map_err(|error| error.to_string())?;
        fail::point("log.local.emptied");
        Ok(())
    }

    /// Begins a new segment if the active one is full, or older than `age_ms_max`.
    pub(super) fn roll(&mut self, now_ms: u64, age_ms_max: u64) -> Result<Option<Arc<Segment>>, String> {
        let is_old = now_ms.saturating_sub(self.active.created_ms) >= age_ms_max;
        if self.active_bytes < self.segment_bytes_max && !(self.active_bytes > 0 && is_old) {
            return Ok(None);
        }
        let header = Header {
            id: self.active.id + 1,
            created_ms: now_ms.max(self.active.created_ms),
            bytes_before: self.active.bytes_before + self.active_bytes,
            starts: self.nexts.clone(),
            befores: self.nexts.clone(),
        };
        let keyspace = self.free.pop();
        let segment = begin(&mut self.journal, keyspace, header, &self.path, self.memtable_bytes)?;
        fail::point("log.local.rolled");
        // Else its last memtable stays in memory until the journals are full.
        self.active.keyspace.rotate_memtable().map_err(text)?;
        self.previous = Some(std::mem::replace(&mut self.active, Arc::new(segment)));
        self.active_bytes = 0;
        Ok(Some(Arc::clone(&self.active)))
    }

    /// Continues at the offsets `begins` in a segment of its own, durably.
    pub(super) fn skip_to(&mut self, begins: &[u64], now_ms: u64) -> Result<Arc<Segment>, String> {
        let header = Header {
            id: self.active.id + 1,
            created_ms: now_ms.max(self.active.created_ms),
            bytes_before: self.active.bytes_before + self.active_bytes,
            starts: begins.to_vec(),
            befores: std::mem::replace(&mut self.nexts, begins.to_vec()),
        };
        let keyspace = self.free.pop();
        let segment = begin(&mut self.journal, keyspace, header, &self.path, self.memtable_bytes)?;
        self.journal.sync()?;
        self.active.keyspace.rotate_memtable().map_err(text)?;
        self.previous = Some(std::mem::replace(&mut self.active, Arc::new(segment)));
        self.active_bytes = 0;
        Ok(Arc::clone(&self.active))
    }

    /// Drops the oldest segment. Its files go with [`Self::empty_dropped`].
    pub(super) fn drop_segment(&mut self, segment: Arc<Segment>) {
        self.previous = self.previous.take_if(|previous| !Arc::ptr_eq(previous, &segment));
        self.dropped.push_back(segment);
    }

    /// Empties keyspaces of dropped segments, so that they can be used again: those that no reader has
    /// any more.
    ///
    /// fjall is not asked to delete them. What it knows of keyspaces is a tree of its own, and it keeps
    /// every version of that tree until the database is closed: files and a descriptor for each keyspace
    /// that was ever made or deleted.
    pub(super) fn empty_dropped(&mut self) -> Result<(), String> {
        while let Some(segment) = self.dropped.front() {
            let keyspace = &segment.keyspace;
            // What is in memory has to be in a table first, which can be dropped.
            if Arc::strong_count(segment) > 1
                || keyspace.rotate_memtable().map_err(text)?
                || keyspace.sealed_memtable_count() > 0
            {
                break;
            }
            mark_dropped(keyspace, segment.id)?;
            fail::point("log.local.drop_noted");
            remove_tables(keyspace)?;
            self.free.push(keyspace.clone());
            self.dropped.pop_front();
        }
        Ok(())
    }
}

/// Notes durably that the segment in `keyspace` is dropped: nothing of it counts any more.
fn mark_dropped(keyspace: &Keyspace, id: u64) -> Result<(), String> {
    // The note on the segment before it: a table has either records or a note.
    let notes = HEADER_KEY.as_slice()..=DROPPED_KEY.as_slice();
    keyspace.tree.drop_range::<&[u8], _>(notes).map_err(|error| error.to_string())?;
    let mut note = keyspace.start_ingestion().map_err(text)?;
    note.write(HEADER_KEY, Header::dropped(id)).map_err(text)?;
    note.write(DROPPED_KEY, Vec::new()).map_err(text)?;
    note.finish().map_err(text)
}

/// Removes the tables of a dropped segment, and with them their files.
fn remove_tables(keyspace: &Keyspace) -> Result<(), String> {
    let records = ..=HEADER_KEY.as_slice();
    keyspace.tree.drop_range::<&[u8], _>(records).map_err(|error| error.to_string())?;
    // Versions of the tree keep their tables, and nobody reads an earlier one.
    let mut versions = keyspace.tree.get_version_history_lock();
    versions.maintenance(keyspace.path(), u64::MAX).map_err(|error| error.to_string())
}

/// fjall's database, each batch of it marked.
struct Journal {
    db: Database,
    mark: Mark,
}

impl Journal {
    fn commit(
        &mut self,
        keyspace: &Keyspace,
        items: impl Iterator<Item = (Slice, Slice)>,
    ) -> Result<(), String> {
        self.mark.number += 1;
        let mut batch = self.db.batch();
        items.for_each(|(key, value)| batch.insert(keyspace, key, value));
        batch.insert(keyspace, Mark::KEY, self.mark.encode());
        batch.commit().map_err(text)
    }

    fn sync(&mut self) -> Result<(), String> {
        self.db.persist(PersistMode::SyncData).map_err(text)?;
        // A worker of fjall may have met the error that this sync was then not told of.
        self.check()?;
        self.mark.synced = self.mark.number;
        Ok(())
    }

    /// Whether fjall still takes writes.
    fn check(&self) -> Result<(), String> {
        self.db.persist(PersistMode::Buffer).map_err(text)
    }
}

fn options(memtable_bytes: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(memtable_bytes)
        .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
        .data_block_compression_policy(CompressionPolicy::disabled())
        .filter_policy(FilterPolicy::disabled())
        // A segment is never rewritten: it has fewer tables than this.
        .compaction_strategy(Arc::new(Leveled::default().with_l0_threshold(u8::MAX)))
}

fn name_of(id: u64) -> String {
    format!("{SEGMENT_PREFIX}{id:020}")
}

/// The directory of a keyspace in the log in `path`.
fn path_of(path: &Path, keyspace: &Keyspace) -> PathBuf {
    path.join(KEYSPACES_FOLDER).join(keyspace.path().file_name().unwrap_or_default())
}

/// Begins a segment in `keyspace`, which is empty, or in one that is made for it.
fn begin(
    journal: &mut Journal,
    keyspace: Option<Keyspace>,
    header: Header,
    path: &Path,
    memtable_bytes: u64,
) -> Result<Segment, String> {
    let keyspace = if let Some(empty) = keyspace {
        empty
    } else {
        let made = journal.db.keyspace(&name_of(header.id), || options(memtable_bytes)).map_err(text)?;
        // fjall does not sync the directory in which it made the keyspace's. Without that the
        // keyspace may be gone after a power cut, and with it all that was synced for it.
        if let Some(keyspaces) = made.path().parent() {
            sync_dir(keyspaces).map_err(|error| format!("cannot sync {}: {error}", keyspaces.display()))?;
        }
        made
    };
    let item = (Slice::from(HEADER_KEY), Slice::from(header.encode()));
    journal.commit(&keyspace, std::iter::once(item))?;
    Ok(Segment::new(keyspace, header, path))
}

struct Loaded {
    segments: Vec<Arc<Segment>>,
    nexts: Vec<u64>,
    bytes_total: u64,
    free: Vec<Keyspace>,
}

fn load(
    journal: &mut Journal,
    config: &LocalBusConfig,
    memtable_bytes: u64,
    now_ms: u64,
) -> Result<Loaded, String> {
    let mut segments: Vec<Arc<Segment>> = Vec::new();
    let (mut free, mut next_id) = (Vec::new(), 0);
    for name in journal.db.list_keyspace_names() {
        let id = name.strip_prefix(SEGMENT_PREFIX).and_then(|id| id.parse::<u64>().ok());
        let id = id.ok_or_else(|| format!("it holds {:?}, which is not part of a log", &*name))?;
        let keyspace = journal.db.keyspace(&name, || options(memtable_bytes)).map_err(text)?;
        let path = path_of(&config.path, &keyspace);
        match keyspace.get(HEADER_KEY).map_err(text)? {
            Some(header) => match Header::decode(&header, id)? {
                Ok(header) => segments.push(Arc::new(Segment::new(keyspace, header, &config.path))),
                Err(dropped) => {
                    next_id = next_id.max(dropped + 1);
                    // The program may have ended before.
                    if config.access == Access::Write {
                        remove_tables(&keyspace)?;
                    }
                    free.push(keyspace);
                }
            },
            // The program ended between its creation and its first write, or that write was cut with the
            // journal.
            None if keyspace.is_empty().map_err(text)? => free.push(keyspace),
            None => return Err(format!("a segment has no header: {} is damaged", path.display())),
        }
    }
    segments.sort_unstable_by_key(|segment| segment.id);
    for pair in segments.windows(2) {
        let [before, after] = [&pair[0], &pair[1]];
        if before.starts.len() != after.starts.len() {
            let (id, partitions) = (after.id, after.starts.len());
            return Err(format!("segment {id} has {partitions} partitions, those before it others"));
        }
        if before.id + 1 != after.id {
            return Err(format!("segment {} is missing before segment {}", after.id - 1, after.id));
        }
        if before.ends()? != after.befores {
            return Err(format!(
                "records are missing at the end of {}: a file there or a journal is damaged",
                before.path.display()
            ));
        }
    }
    if segments.is_empty() {
        let starts = vec![0; usize::from(config.partitions)];
        let header =
            Header { id: next_id, created_ms: now_ms, bytes_before: 0, befores: starts.clone(), starts };
        segments.push(Arc::new(begin(journal, free.pop(), header, &config.path, memtable_bytes)?));
        journal.sync()?;
    }
    let active = segments.last().expect("pushed above");
    let nexts = active.ends()?;
    // A writer must not go on behind a hole; a reader finds it where it reads.
    let active_bytes = match config.access {
        Access::Write => active.check(&nexts)?,
        Access::Read => 0,
    };
    let bytes_total = active.bytes_before + active_bytes;
    Ok(Loaded { segments, nexts, bytes_total, free })
}

fn key(partition: u16, offset: u64) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&partition.to_be_bytes());
    key[2..].copy_from_slice(&offset.to_be_bytes());
    key
}

fn offset_of(key: &[u8]) -> Result<u64, String> {
    let offset = key.get(2..).and_then(|bytes| bytes.try_into().ok());
    offset.map(u64::from_be_bytes).ok_or_else(|| "a key of the log is damaged".to_owned())
}

fn text(error: fjall::Error) -> String {
    error.to_string()
}
