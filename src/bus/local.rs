//! The log of one machine: a directory, kept by fjall.
//!
//! An append takes its offsets and stands in memory, where readers see it, before it is written:
//! a thread of its own (`writer.rs`) takes what has queued up, writes it as one batch and syncs
//! once for all. Readers at the tail never touch the disk; those further back scan it.
//!
//! # Layout on disk
//!
//! One fjall database. The log is cut into segments over all partitions, each in a keyspace of its
//! own, which is used again once the segment was dropped. Key: partition (`u16`), offset (`u64`),
//! big-endian; value: the record. After them a header under `ff ff` (`header.rs`): the segment's number,
//! when it was begun, where each partition stood, and the bytes before it. So opening reads headers, the
//! journals and, to write, the newest segment, no more; a log that is closed empties a long journal.
//! Beside the database lie the log's identity (`epoch.rs`) and what was cut off a damaged journal
//! (`torn.rs`). Whoever only reads opens a shadow of the database and changes nothing (`shadow.rs`).
//!
//! # Why segments, and not fjall's FIFO compaction
//!
//! FIFO compaction drops the oldest tables by itself once a limit, fixed when the keyspace was
//! made, is passed; it knows nothing of [`Bus::release`] and can't be told. It needs one keyspace
//! for each partition, since its tables may not overlap: a memtable for each, so memory grows with
//! the partitions, and an idle partition holds back the journals. Segments share one memtable, are
//! dropped whole when, and only when, released, and are never rewritten. The
//! price is granularity: a record outlives its age by at most an eighth of it, and the size by at
//! most a segment.
//!
//! # What stays out
//!
//! What stands in a record, who read how far, and copies on other machines.

pub mod backup;
mod epoch;
mod header;
mod journal;
mod metrics;
mod reader;
mod shadow;
mod state;
mod store;
mod synced;
mod torn;
mod trees;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore, oneshot};

use self::epoch::{Identity, IdentityError};
pub use self::metrics::LocalBusMetrics;
use self::reader::LocalReader;
use self::state::{Queued, State, Status};
use self::store::{Entry, Opened, Store};
use super::epoch::{Held, LogEpoch};
use super::{Bounds, Bus, BusError, BusReader, Durable};
use crate::disk::free_bytes;
use crate::fail;

/// The most partitions a log can have.
pub const PARTITIONS_MAX: u16 = 1024;
/// How long an append waits for a release before it is refused.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(30);
/// How much is appended before the free space is looked up again, and how long that may take.
const SPACE_CHECK_BYTES: u64 = 4 << 20;
const SPACE_CHECK_AGE: Duration = Duration::from_millis(500);

/// When an append is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At once; what arrives during a sync shares the next one.
    Always,
    /// At most so long after it was written.
    Interval(Duration),
}

/// How long records are kept once they are released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Since the append. Exceeded by up to an eighth.
    pub age: Duration,
    /// Of all partitions together. Records not yet released may reach it, not pass it: appends
    /// wait then. Below 8 MiB it is kept to about 1 MiB.
    pub bytes: u64,
}

/// What a log is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Appends and reads. The newest segment is read before, record by record.
    Write,
    /// Only reads, for a moment. Nothing in the directory changes: a log that is missing is an empty one,
    /// and one whose journal is damaged is read up to there, as [`Bus::damage`] tells. Appends are refused,
    /// and a record that is in a table is checked when it is read. What the log holds is counted without
    /// the newest segment.
    Read,
}

/// How a [`LocalBus`] is opened.
#[derive(Clone, Debug)]
pub struct LocalBusConfig {
    /// Its directory; made if it is not there.
    pub path: PathBuf,
    /// What it is opened for; [`Access::Write`] by default.
    pub access: Access,
    /// Of a log that is made, 1 to [`PARTITIONS_MAX`]. One that exists keeps the number it has.
    pub partitions: u16,
    /// When appends are synced; 50 ms by default.
    pub durability: Durability,
    /// What is kept; 3 days and 16 GiB by default.
    pub retention: Retention,
    /// Appends are refused when less would be left on the disk; 1 GiB by default. It has to cover
    /// what is still in memory (`memory_bytes`), which is written to tables later.
    pub free_bytes_min: u64,
    /// What other stores hold of the log. A log that is opened to write continues after their offsets
    /// where it was put back from an older copy; one without an identity takes that of the archive.
    pub held: Vec<Held>,
    /// About how much memory the log may take; 96 MiB by default. A sixth of it is the queue of
    /// appends, a twelfth the records kept for readers at the tail.
    pub memory_bytes: u64,
}

impl LocalBusConfig {
    /// The defaults.
    pub fn new(path: impl Into<PathBuf>, partitions: u16) -> Self {
        Self {
            path: path.into(),
            access: Access::Write,
            partitions,
            durability: Durability::Interval(Duration::from_millis(50)),
            retention: Retention { age: Duration::from_hours(72), bytes: 16 << 30 },
            free_bytes_min: 1 << 30,
            held: Vec::new(),
            memory_bytes: 96 << 20,
        }
    }
}

/// Milliseconds since the epoch.
type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What the bus, its readers and its thread share.
struct Shared {
    config: LocalBusConfig,
    clock: Clock,
    epoch: LogEpoch,
    /// What of the journals could not be read, in words.
    damage: Option<String>,
    metrics: LocalBusMetrics,
    state: Mutex<State>,
    /// Wakes the writer's thread.
    work: Condvar,
    /// By partition, wakes readers at the tail.
    appended: Vec<Notify>,
    /// Wakes appends that wait for a release.
    released: Notify,
    /// A permit for each byte of the queue.
    queue: Arc<Semaphore>,
    queue_bytes_max: u32,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // State is changed in steps that can't panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self) -> String {
        self.config.path.display().to_string()
    }

    fn failed(&self, reason: impl ToString) -> BusError {
        BusError::Failed { path: self.path(), reason: reason.to_string() }
    }

    fn check_partition(&self, partition: u16) -> Result<(), BusError> {
        let partitions = self.config.partitions;
        if partition < partitions { Ok(()) } else { Err(BusError::NoPartition { partition, partitions }) }
    }

    /// Ends the log for appends and wakes all who wait.
    fn end(&self, status: Status) {
        {
            let mut state = self.state();
            state.is_stopping |= matches!(status, Status::Closing);
            // A failure stays to be told.
            if !matches!(state.status, Status::Failed(_)) {
                state.status = status;
            }
        }
        self.work.notify_all();
        self.released.notify_waiters();
        self.appended.iter().for_each(Notify::notify_waiters);
    }

    /// Refuses `bytes` more if the disk would have too little left.
    fn check_space(&self, state: &mut State, bytes: u64) -> Result<(), BusError> {
        let is_fresh = state.space_checked.is_some_and(|at| at.elapsed() < SPACE_CHECK_AGE);
        if is_fresh && bytes <= state.space_bytes {
            state.space_bytes -= bytes;
            return Ok(());
        }
        let free_bytes =
            free_bytes(&self.config.path).map_err(|error| self.failed(format!("cannot stat: {error}")))?;
        let needed_bytes = self.config.free_bytes_min.saturating_add(bytes);
        if free_bytes < needed_bytes {
            state.space_checked = None;
            self.metrics.full_refusals.inc();
            return Err(BusError::Full { path: self.path(), free_bytes, needed_bytes });
        }
        state.space_checked = Some(Instant::now());
        state.space_bytes = (free_bytes - needed_bytes).min(SPACE_CHECK_BYTES);
        Ok(())
    }
}

impl LocalBus {
    /// Whether it would take an append now; otherwise why not, for `/readyz`.
    pub fn ready(&self) -> Result<(), BusError> {
        self.shared.state().check_open()?;
        // The append reports a disk that can't be asked.
        let free_bytes = free_bytes(&self.shared.config.path).unwrap_or(u64::MAX);
        let needed_bytes = self.shared.config.free_bytes_min;
        if free_bytes < needed_bytes {
            return Err(BusError::Full { path: self.shared.path(), free_bytes, needed_bytes });
        }
        Ok(())
    }
}

/// A log in a directory.
///
/// Dropping it ends it in the background: what was appended is still written and synced.
/// [`LocalBus::close`] waits for that.
pub struct LocalBus {
    shared: Arc<Shared>,
    /// Resolves when the writer's thread has ended and the directory is free.
    ended: tokio::sync::watch::Receiver<bool>,
}

impl LocalBus {
    /// Opens the log, or makes it. Blocks: it reads the journals, and to write the newest segment.
    pub fn open(config: LocalBusConfig) -> Result<Arc<Self>, BusError> {
        let clock =
            || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        Self::open_with_clock(config, Arc::new(clock))
    }

    fn open_with_clock(mut config: LocalBusConfig, clock: Clock) -> Result<Arc<Self>, BusError> {
        let path = || config.path.display().to_string();
        if !(1..=PARTITIONS_MAX).contains(&config.partitions) {
            let reason = format!("{} partitions asked for: choose 1 to {PARTITIONS_MAX}", config.partitions);
            return Err(BusError::Failed { path: path(), reason });
        }
        let now_ms = clock();
        let opened = std::panic::catch_unwind(|| Store::open(&config, now_ms));
        let Opened { mut store, mut segments, mut nexts, bytes_total, damage } =
            opened.map_err(|_| BusError::Failed {
                path: path(),
                reason: trees::find_damage(&config.path)
                    .unwrap_or_else(|| format!("its files are damaged; {}", trees::WAY_OUT)),
            })??;
        if nexts.len() != usize::from(config.partitions) {
            let (has, asked) = (nexts.len(), config.partitions);
            tracing::info!(path = path(), has, asked, "the log keeps the partitions it was made with");
            config.partitions = has as u16;
        }
        let cannot = |error: IdentityError| {
            let (path, reason) = (config.path.display().to_string(), error.to_string());
            match error {
                IdentityError::Misfit(misfit) => BusError::Misfit(misfit),
                IdentityError::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                    BusError::FilledUp { path, reason }
                }
                IdentityError::Io(_) => BusError::Failed { path, reason },
            }
        };
        let epoch = match config.access {
            Access::Read => {
                epoch::read(&config.path, &nexts, &config.held).map_err(|error| cannot(error.into()))?
            }
            Access::Write => {
                let Identity { epoch, begins } =
                    epoch::open(&config.path, &nexts, &config.held).map_err(cannot)?;
                epoch::begin(&config.path, &epoch).map_err(|error| cannot(error.into()))?;
                fail::point("log.local.begun");
                if begins != nexts {
                    let segment = store.skip_to(&begins, now_ms);
                    segments.push(segment.map_err(|reason| BusError::Failed { path: path(), reason })?);
                    nexts = begins;
                }
                store.vouch(epoch.log());
                epoch
            }
        };

        let metrics = LocalBusMetrics::default();
        let queue_bytes_max = (config.memory_bytes / 6).clamp(1 << 16, 1 << 29) as u32;
        let state = State::new(&config, segments, nexts, bytes_total);
        metrics.held_bytes.set(state.held_bytes() as i64);
        let shared = Arc::new(Shared {
            clock,
            epoch,
            damage,
            metrics,
            state: Mutex::new(state),
            work: Condvar::new(),
            appended: (0..config.partitions).map(|_| Notify::new()).collect(),
            released: Notify::new(),
            queue: Arc::new(Semaphore::new(queue_bytes_max as usize)),
            queue_bytes_max,
            config,
        });
        let ended = writer::start(Arc::clone(&shared), store).map_err(|error| shared.failed(error))?;
        Ok(Arc::new(Self { shared, ended }))
    }

    /// The identity of the log in `path`, which another process may have open; `None` where none is stored.
    ///
    /// Errors: it is damaged.
    pub fn stored_identity(path: &std::path::Path) -> Result<Option<LogEpoch>, BusError> {
        let stored = epoch::stored(path);
        stored
            .map_err(|error| BusError::Failed { path: path.display().to_string(), reason: error.to_string() })
    }

    /// Its counters.
    pub fn metrics(&self) -> &LocalBusMetrics {
        &self.shared.metrics
    }

    /// Makes everything durable, ends the thread and frees the directory. Readers get
    /// [`BusError::Closed`] once they have read what is in memory. May be called repeatedly.
    pub async fn close(&self) {
        self.shared.end(Status::Closing);
        // An error says that the sender is gone, and so the thread.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Waits until `bytes` may be appended without dropping what is not yet released.
    async fn wait_for_release(&self, bytes: u64) -> Result<(), BusError> {
        let shared = &self.shared;
        let bytes_max = shared.config.retention.bytes;
        let has_room = || {
            let state = shared.state();
            state.check_open()?;
            let unreleased_bytes = state.unreleased_bytes();
            Ok(unreleased_bytes == 0 || unreleased_bytes.saturating_add(bytes) <= bytes_max)
        };
        if has_room()? {
            return Ok(());
        }
        shared.metrics.release_waits.inc();
        tracing::warn!(
            path = %shared.config.path.display(),
            retention_bytes = bytes_max,
            "the log holds only records that are not yet released; appends wait"
        );
        let waiting = async {
            loop {
                let released = shared.released.notified();
                tokio::pin!(released);
                released.as_mut().enable();
                if has_room()? {
                    return Ok(());
                }
                released.await;
            }
        };
        tokio::time::timeout(RELEASE_WAIT_MAX, waiting).await.unwrap_or_else(|_| {
            Err(BusError::Full {
                path: format!(
                    "{} (its retention of {bytes_max} bytes holds only records not yet released)",
                    shared.config.path.display()
                ),
                free_bytes: bytes_max.saturating_sub(shared.state().unreleased_bytes()),
                needed_bytes: bytes,
            })
        })
    }
}

impl Drop for LocalBus {
    fn drop(&mut self) {
        self.shared.end(Status::Closing);
    }
}

#[async_trait::async_trait]
impl Bus for LocalBus {
    fn partitions(&self) -> u16 {
        self.shared.config.partitions
    }

    fn epoch(&self) -> &LogEpoch {
        &self.shared.epoch
    }

    fn damage(&self) -> Option<&str> {
        self.shared.damage.as_deref()
    }

    async fn append(&self, records: Vec<(u16, Bytes)>) -> Result<Durable, BusError> {
        let shared = &self.shared;
        for (partition, _) in &records {
            shared.check_partition(*partition)?;
        }
        let bytes: u64 = records.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        // An append of nothing asks whether all before it is durable. Who releases has to know that
        // above all when there is no room.
        let is_question = records.is_empty();
        if !is_question {
            if shared.config.access == Access::Read {
                return Err(shared.failed("it is open to be read, and takes nothing"));
            }
            self.wait_for_release(bytes).await?;
        }
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, shared.queue_bytes_max);
        let room = if let Ok(room) = Arc::clone(&shared.queue).try_acquire_many_owned(permits) {
            room
        } else {
            shared.metrics.queue_waits.inc();
            let room = Arc::clone(&shared.queue).acquire_many_owned(permits).await;
            room.map_err(|_| BusError::Closed)?
        };

        let count = records.len() as u64;
        let (done, is_done) = oneshot::channel();
        let offsets = {
            let mut state = shared.state();
            state.check_open()?;
            if !is_question {
                shared.check_space(&mut state, bytes)?;
            }
            let mut entries = Vec::with_capacity(records.len());
            for (partition, bytes) in records {
                let offset = state.push(partition, bytes.clone());
                entries.push(Entry { partition, offset, bytes });
            }
            let offsets: Vec<u64> = entries.iter().map(|entry| entry.offset).collect();
            for run in entries.chunk_by(|a, b| a.partition == b.partition) {
                shared.appended[usize::from(run[0].partition)].notify_waiters();
            }
            state.queue.push_back(Queued { entries, bytes, done, _room: room });
            shared.metrics.held_bytes.set(state.held_bytes() as i64);
            offsets
        };
        shared.work.notify_one();
        shared.metrics.appended_records.inc_by(count);
        shared.metrics.appended_bytes.inc_by(bytes);
        shared.metrics.queue_bytes.inc_by(bytes as i64);

        let ended = shared.failed("the writer ended before the append was durable");
        Ok(async move { is_done.await.unwrap_or(Err(ended)).map(|()| offsets) }.boxed())
    }

    async fn bounds(&self, partition: u16) -> Result<Bounds, BusError> {
        self.shared.check_partition(partition)?;
        let state = self.shared.state();
        Ok(Bounds { first: state.first(partition), next: state.next(partition) })
    }

    async fn reader(&self, partition: u16, from: u64) -> Result<Box<dyn BusReader>, BusError> {
        let Bounds { first, next } = self.bounds(partition).await?;
        if from < first {
            return Err(BusError::Trimmed { partition, offset: from, first });
        }
        if from > next {
            return Err(self.shared.failed(format!(
                "offset {from} of partition {partition} was never written; the next is {next}"
            )));
        }
        Ok(Box::new(LocalReader::new(Arc::clone(&self.shared), partition, from)))
    }

    fn release(&self, partition: u16, offset: u64) {
        if self.shared.check_partition(partition).is_ok() && self.shared.state().release(partition, offset) {
            self.shared.work.notify_one();
            self.shared.released.notify_waiters();
        }
    }
}
