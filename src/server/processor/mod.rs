//! The processor: out of the log into hot and warm, every record once.
//!
//! The log says which partitions are this process's, all of them or some beside other processes
//! (`members`). One worker for each, on a thread of its own: it reads, drops repeats, moves hot, and
//! collects rows into blocks (`worker`). A block is stored while the next one is being read
//! (`block`); warm keeps, as one with the rows, the offset the block ends at and the state there,
//! and that is where a worker goes on after any kind of end. Before it does, it brings hot up to the
//! same place (`restore`).
//!
//! A partition that goes to another process is handed over: its worker stores what it holds, and only
//! then is it let go of. One that was taken without asking is fenced by warm: what its old worker
//! still stores does not count.
//!
//! A worker never skips a record: what it can't read or store ends it, and [`Processor::ready`]
//! says so.

mod block;
mod expired;
mod members;
mod rebuild;
mod restore;
#[cfg(test)]
mod tests;
mod worker;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bus::{Bus, BusError};
use crate::market::{Horizon, Symbol};
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::hot::memory::MemoryHot;
use crate::tiering::hot::{Hot, HotError};
use crate::tiering::seam::SeamError;
use crate::tiering::state::StateError;
use crate::tiering::tiers::{Tiers, TiersError};
use crate::tiering::warm::{Warm, WarmError};
use crate::wire::record::RecordError;

/// When blocks are cut, and how much may be held.
#[derive(Clone, Copy, Debug)]
pub struct ProcessorConfig {
    /// Rows held by all partitions together, in blocks being filled and blocks being stored. What
    /// it costs is about 200 bytes a row.
    pub rows_max: usize,
    /// Bytes of a block being filled.
    pub block_bytes_max: usize,
    /// How long the first row of a block waits for the block to be cut, and longer while the block before it
    /// is being stored. History reads the log's tail, so nobody waits for it; longer means fewer, larger
    /// segments.
    pub block_age_max: Duration,
    /// Bytes of records taken from the log at once.
    pub read_bytes_max: usize,
    /// The least time between two rebuilds of bars whose trades were amended. A partition that
    /// takes long for one waits for longer: rebuilding takes a tenth of its time at most.
    pub rebuild_interval: Duration,
    /// The least time between two checkpoints of hot.
    pub hot_checkpoint_interval: Duration,
    /// How often a partition without new records makes sure that warm was not put back to an earlier state.
    pub mark_check_interval: Duration,
    /// How often a store is tried again before the partition stops; once the processor is to stop,
    /// in any case.
    pub retries_max: u32,
    /// Whether warm is waited for as long as it takes: a server that others bring back, not a disk of
    /// this machine.
    pub outlasts_warm: bool,
    /// Whether records that the log dropped before warm took them in are skipped, with a gap that names
    /// them; otherwise they end the partition.
    pub skips_expired: bool,
    /// Whether the archive is known to hold all rows of skipped records, so that no gap names them.
    pub expired_are_archived: bool,
    /// The wait before the first retry; it doubles from one to the next.
    pub retry_wait_min: Duration,
    /// Rows beyond it are nobody's latest.
    pub horizon: Horizon,
}

impl ProcessorConfig {
    /// Rows of one block of one of `partitions`: each fills one and stores one.
    pub fn block_rows_max(&self, partitions: u16) -> usize {
        (self.rows_max / (2 * usize::from(partitions.max(1)))).max(1)
    }
}

impl Default for ProcessorConfig {
    fn default() -> Self {
        Self {
            rows_max: 500_000,
            block_bytes_max: 64 << 20,
            block_age_max: Duration::from_mins(1),
            read_bytes_max: 256 << 10,
            rebuild_interval: Duration::from_secs(10),
            hot_checkpoint_interval: Duration::from_mins(1),
            mark_check_interval: Duration::from_secs(10),
            retries_max: 8,
            outlasts_warm: false,
            skips_expired: false,
            expired_are_archived: false,
            retry_wait_min: Duration::from_millis(100),
            horizon: Horizon::UNLIMITED,
        }
    }
}

/// Between which stores a processor stands.
#[derive(Clone)]
pub struct Stores {
    /// The log.
    pub bus: Arc<dyn Bus>,
    /// The last of every symbol.
    pub hot: Arc<dyn Hot>,
    /// The days.
    pub warm: Arc<dyn Warm>,
    /// Where days go that are dropped from warm, if they are.
    pub archive: Option<Arc<ArchiveReader>>,
    /// Where hot is this process's memory: the same store, and the directory of its checkpoints.
    pub hot_files: Option<(Arc<MemoryHot>, PathBuf)>,
}

impl Stores {
    /// Warm, and the archive beside it.
    fn tiers(&self) -> Tiers {
        Tiers { warm: self.warm.clone(), archive: self.archive.clone() }
    }
}

type ByPartition = Family<Vec<(&'static str, String)>, Gauge<i64, AtomicI64>>;

/// What the workers do.
#[derive(Clone, Debug, Default)]
pub struct ProcessorMetrics {
    /// Records taken from the log.
    pub records: Counter,
    /// Ticks applied.
    pub ticks: Counter,
    /// Records dropped as repeats.
    pub repeats: Counter,
    /// Blocks stored in warm.
    pub blocks: Counter,
    /// Rows stored in warm, bars among them.
    pub rows: Counter,
    /// Bars stored in warm: new ones and revisions.
    pub bars: Counter,
    /// Symbols and days whose bars were rebuilt from their trades.
    pub rebuilds: Counter,
    /// Partitions gained, at the start or from another process.
    pub gained: Counter,
    /// Partitions handed over to another process.
    pub handed_over: Counter,
    /// Partitions that another process took without waiting for this one.
    pub lost: Counter,
    /// Symbols and days whose bars could not be rebuilt, since their trades could not be read, each time it was
    /// tried: every ten minutes where objects must be restored first.
    pub rebuilds_kept_back: Counter,
    /// Times a worker began again at an older mark, since warm was put back or emptied.
    pub reverts: Counter,
    /// Records skipped, which the log had dropped before they were processed.
    pub expired_records: Counter,
    /// Times a store was tried again.
    pub retries: Counter,
    /// Producers retired, in all partitions: silent while 65,536 others were heard. Their batches are refused.
    pub producers_retired: Counter,
    /// Rows held in blocks being filled or stored.
    pub held_rows: Gauge<i64, AtomicI64>,
    /// Records in the log that are not yet applied.
    pub lag_records: ByPartition,
    /// From the receipt of the last tick applied to its application, ms.
    pub lag_ms: ByPartition,
}

impl ProcessorMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("processor_records", "Records taken from the log", self.records.clone());
        registry.register("processor_ticks", "Ticks applied", self.ticks.clone());
        registry.register("processor_repeats", "Records dropped as repeats", self.repeats.clone());
        registry.register("processor_blocks", "Blocks stored in warm", self.blocks.clone());
        registry.register("processor_rows", "Rows stored in warm", self.rows.clone());
        registry.register("processor_bars", "Bars stored in warm, revisions too", self.bars.clone());
        registry.register("processor_rebuilds", "Symbol days whose bars were rebuilt", self.rebuilds.clone());
        registry.register("processor_gained", "Partitions gained", self.gained.clone());
        registry.register("processor_handed_over", "Partitions handed over", self.handed_over.clone());
        registry.register("processor_lost", "Partitions taken by another process", self.lost.clone());
        registry.register(
            "processor_reverts",
            "Times a partition was begun again at an older mark, since warm was put back or emptied",
            self.reverts.clone(),
        );
        registry.register(
            "processor_expired_records",
            "Records skipped, which the log had dropped before they were processed",
            self.expired_records.clone(),
        );
        registry.register("processor_retries", "Times a store was tried again", self.retries.clone());
        registry.register(
            "processor_producers_retired",
            "Producers retired after a long silence, whose batches are refused",
            self.producers_retired.clone(),
        );
        registry.register(
            "processor_rebuilds_kept_back",
            "Symbols and days whose bars could not be rebuilt, since their trades could not be read, each time it \
             was tried",
            self.rebuilds_kept_back.clone(),
        );
        registry.register("processor_held_rows", "Rows not yet in warm", self.held_rows.clone());
        registry.register(
            "processor_lag_records",
            "Records in the log not yet applied",
            self.lag_records.clone(),
        );
        registry.register(
            "processor_lag_ms",
            "From receipt to application, milliseconds",
            self.lag_ms.clone(),
        );
    }
}

/// Why a partition can't go on.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// A record can't be read.
    #[error("partition {partition}, offset {offset} of the log: {source}; nothing after it was taken in")]
    Record {
        /// The partition.
        partition: u16,
        /// The record's offset.
        offset: u64,
        /// What is wrong with it.
        source: RecordError,
    },
    /// The log does not say which partitions are this process's.
    #[error("the log's partitions can't be shared: {source}")]
    Membership {
        /// What the log said.
        source: BusError,
    },
    /// The log can't be read.
    #[error("partition {partition}: {source}")]
    Bus {
        /// The partition.
        partition: u16,
        /// What the log said.
        source: BusError,
    },
    /// Records are missing from what the log's reader returned.
    #[error(
        "partition {partition}: offset {expected} of the log was to come, but {found} came; nothing from it on was taken in"
    )]
    Hole {
        /// The partition.
        partition: u16,
        /// The offset of the first record missing.
        expected: u64,
        /// The offset of the record that came instead.
        found: u64,
    },
    /// Warm can't be read or written, after all retries.
    #[error("partition {partition}: {source}")]
    Warm {
        /// The partition.
        partition: u16,
        /// What the store said.
        source: WarmError,
    },
    /// Hot can't be written, after all retries.
    #[error("partition {partition}: {source}")]
    Hot {
        /// The partition.
        partition: u16,
        /// What the store said.
        source: HotError,
    },
    /// The state that came with the last block can't be read.
    #[error("partition {partition}: {source}")]
    State {
        /// The partition.
        partition: u16,
        /// What is wrong with it.
        source: StateError,
    },
    /// The log is not the one that warm was filled from, or was replaced by an older copy.
    #[error(transparent)]
    Seam(#[from] SeamError),
    /// The log dropped records that warm has not taken in.
    #[error(
        "partition {partition}: the records from offset {offset} to {} are no longer in the log, and warm has not \
         taken them in: they expired before they were processed, or warm was lost or put back to before them. Put \
         warm back as it was; or start once with processor.expired=skip: what the archive has of them is \
         answered from there, a gap names them, and processing goes on at offset {first}",
        .first - 1
    )]
    Expired {
        /// The partition.
        partition: u16,
        /// Where warm ends.
        offset: u64,
        /// Where the log begins.
        first: u64,
    },
    /// A record holds a symbol of another partition: it was written when the topic had fewer.
    #[error(
        "partition {partition}: the record at offset {offset} holds {symbol}, which belongs to partition {belongs} of \
         {partitions}: partitions were added to the topic since, and symbols have moved between them, so that bars \
         would be made of a part of their trades; make a new topic (log.kafka_topic) and a new warm store"
    )]
    Moved {
        /// The partition.
        partition: u16,
        /// Where the record is.
        offset: u64,
        /// The symbol.
        symbol: Symbol,
        /// The partition that the symbol belongs to now.
        belongs: u16,
        /// How many the log has.
        partitions: u16,
    },
    /// The archive can't be read, after records expired or offsets were skipped.
    #[error("partition {partition}: {source}")]
    Archive {
        /// The partition.
        partition: u16,
        /// What was said.
        source: TiersError,
    },
    /// The worker's thread could not be started, or panicked.
    #[error("partition {partition}: its worker {what}")]
    Worker {
        /// The partition.
        partition: u16,
        /// What happened.
        what: String,
    },
}

impl ProcessorError {
    /// What `BusReader::check_follows` found.
    fn hole(partition: u16) -> impl Fn((u64, u64)) -> Self {
        move |(expected, found)| Self::Hole { partition, expected, found }
    }

    /// Whether another process has the partition: nothing is wrong with this one.
    fn is_fenced(&self) -> bool {
        matches!(self, Self::Warm { source: WarmError::Fenced { .. }, .. })
    }

    /// Whether warm lost what the worker had stored: a new claim says from where the log is to be read
    /// again.
    fn is_reverted(&self) -> bool {
        matches!(self, Self::Warm { source: WarmError::Reverted { .. }, .. })
    }
}

/// Where a partition stands.
enum Status {
    /// Another process has it, or nobody yet.
    NotOurs,
    /// Hot is being brought up to where warm ends.
    Restoring,
    Running,
    Stopped,
    Failed(String),
}

/// What workers and owner share.
struct Shared {
    stores: Stores,
    config: ProcessorConfig,
    metrics: ProcessorMetrics,
    /// By partition.
    statuses: Mutex<Vec<Status>>,
    /// Whether the log has said which partitions are this process's.
    assigned: AtomicBool,
    /// Told of every change of a status.
    status_changes: watch::Sender<()>,
    /// Rebuilds read a day's trades from all of its segments, for which each takes memory: one
    /// partition at a time.
    rebuilding: tokio::sync::Mutex<()>,
    /// What warm said, while it is tried again.
    warm_away: Mutex<Option<String>>,
    /// Partitions whose worker was fenced.
    fenced: mpsc::Sender<u16>,
    stop: CancellationToken,
    failed: CancellationToken,
}

impl Shared {
    fn statuses(&self) -> MutexGuard<'_, Vec<Status>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_status(&self, partition: u16, status: Status) {
        self.statuses()[usize::from(partition)] = status;
        self.status_changes.send_replace(());
    }

    fn block_rows_max(&self) -> usize {
        self.config.block_rows_max(self.stores.bus.partitions())
    }

    /// Waits until all that was appended to the log up to now is durable: readers see records
    /// before that, and what is stored must never be ahead of the log. An append of nothing is as
    /// durable as what came before it.
    async fn log_is_durable(&self) -> Result<(), BusError> {
        self.stores.bus.append(Vec::new()).await?.await.map(|_| ())
    }

    /// Waits before retry number `attempt` (from 0); false when there have been enough.
    async fn may_retry(&self, partition: u16, attempt: u32, error: &(dyn std::fmt::Display + Sync)) -> bool {
        if attempt >= self.config.retries_max {
            return false;
        }
        self.wait_to_retry(partition, attempt, error).await;
        true
    }

    /// As [`Shared::may_retry`], for warm. A warm in a server of its own, and space on a full disk, are waited
    /// for until the processor is to stop: meanwhile the rows are in the log.
    async fn may_retry_warm(&self, partition: u16, attempt: u32, error: &WarmError) -> bool {
        let outlasts = self.config.outlasts_warm || matches!(error, WarmError::Full { .. });
        let may = error.is_passing()
            && (attempt < self.config.retries_max || (outlasts && !self.stop.is_cancelled()));
        if may {
            *self.warm_away.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            self.wait_to_retry(partition, attempt, error).await;
        }
        may
    }

    /// Warm has answered.
    fn warm_is_back(&self) {
        *self.warm_away.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn wait_to_retry(&self, partition: u16, attempt: u32, error: &(dyn std::fmt::Display + Sync)) {
        let wait = self.config.retry_wait_min * (1 << attempt.min(6));
        tracing::warn!(partition, attempt, wait_ms = wait.as_millis() as u64, %error, "trying again");
        self.metrics.retries.inc();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // What is asked for once more is asked for at once.
            () = self.stop.cancelled(), if attempt >= self.config.retries_max => {}
        }
    }
}

/// The workers of a log's partitions, as many of them as are this process's.
///
/// Dropping it tells them to stop; [`Processor::stop`] waits for that.
pub struct Processor {
    shared: Arc<Shared>,
    members: Mutex<Option<JoinHandle<Result<(), ProcessorError>>>>,
}

impl Processor {
    /// Joins those who process the log, and starts a worker for each partition that becomes this
    /// process's. To be called within a Tokio runtime, which must live until [`Processor::stop`] has
    /// returned.
    pub fn start(stores: Stores, config: ProcessorConfig, metrics: ProcessorMetrics) -> Self {
        let partitions = stores.bus.partitions();
        // A partition's worker says it once, and one that comes after it may before that is heard.
        let (fenced, is_fenced) = mpsc::channel(2 * usize::from(partitions.max(1)));
        let shared = Arc::new(Shared {
            stores,
            config,
            metrics,
            statuses: Mutex::new((0..partitions).map(|_| Status::NotOurs).collect()),
            assigned: AtomicBool::new(false),
            status_changes: watch::Sender::new(()),
            rebuilding: tokio::sync::Mutex::default(),
            warm_away: Mutex::default(),
            fenced,
            stop: CancellationToken::new(),
            failed: CancellationToken::new(),
        });
        let members = tokio::spawn(members::run(shared.clone(), is_fenced));
        Self { shared, members: Mutex::new(Some(members)) }
    }

    /// Whether every partition of this process is being processed; otherwise why not, for `/readyz`.
    pub fn ready(&self) -> Result<(), String> {
        if !self.shared.assigned.load(Ordering::Acquire) {
            return Err("the log has not said yet which partitions are this process's".to_owned());
        }
        for (partition, status) in self.shared.statuses().iter().enumerate() {
            match status {
                Status::Running | Status::NotOurs => {}
                Status::Restoring => return Err(format!("partition {partition} is being restored")),
                Status::Stopped => return Err(format!("partition {partition} has been stopped")),
                Status::Failed(reason) => return Err(reason.clone()),
            }
        }
        Ok(())
    }

    /// What is wrong though ticks are taken in and served: warm can't be reached, and rows wait for it
    /// in the log.
    pub fn degraded(&self) -> Option<String> {
        let away = self.shared.warm_away.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some(format!("warm: {away}; rows wait for it in the log"))
    }

    /// Whether all partitions are this process's.
    pub fn has_all(&self) -> bool {
        !self.shared.statuses().iter().any(|status| matches!(status, Status::NotOurs))
    }

    /// Waits until this process has its partitions and hot is restored in each of them, or one has
    /// failed.
    pub async fn restored(&self) {
        let mut changes = self.shared.status_changes.subscribe();
        let restoring = || self.shared.statuses().iter().any(|status| matches!(status, Status::Restoring));
        let failed = || self.shared.failed.is_cancelled();
        while !failed() && (!self.shared.assigned.load(Ordering::Acquire) || restoring()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Cancelled when a partition has failed: [`Processor::ready`] says why.
    pub fn failed(&self) -> CancellationToken {
        self.shared.failed.clone()
    }

    /// Takes in all that is in the log now, stores it, and ends the workers; then the partitions are
    /// given up. The first error, if partitions failed; the others are drained all the same. The
    /// stores are let go of with the processor itself.
    pub async fn stop(&self) -> Result<(), ProcessorError> {
        self.shared.stop.cancel();
        let members = self.members.lock().unwrap_or_else(PoisonError::into_inner).take();
        match members {
            Some(members) => members.await.unwrap_or_else(|error| {
                Err(ProcessorError::Worker {
                    partition: 0,
                    what: format!("could not be waited for: {error}"),
                })
            }),
            None => Ok(()),
        }
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}
