//! One process with every role: feeds, log, processor, hot, warm and gateway, put together, and
//! taken apart in the order that loses nothing.
//!
//! Started from the stores outwards, so that nothing is taken in or served before it can be kept or
//! answered; stopped from the feeds inwards, so that each part drains into the next.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gateway::{self, ClientKey, GatewayConfig, GatewayError, GatewayState};
use super::ingest;
use super::intake::{FeedRunError, Intake, IntakeError, IntakeMetrics, run_feed};
use super::metrics::{self, GatewayMetrics};
use super::processor::{self, Processor, ProcessorConfig, ProcessorError, ProcessorMetrics};
use crate::bus::local::{Durability, LocalBus, LocalBusConfig, Retention};
use crate::bus::{Bus, BusError};
use crate::config::Config;
use crate::feed::iex::{IexFeed, Selection, Speed};
use crate::feed::kafka::KafkaFeed;
use crate::feed::sim::{Pace, SimConfig, SimFeed};
use crate::feed::source::{Source, SourceError};
use crate::feed::{Feed, FeedError};
use crate::market::Timestamp;
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::cold::{self, Cold, ColdError, ColdMetrics};
use crate::tiering::history::{History, HistoryError};
use crate::tiering::hot::memory::MemoryHot;
use crate::tiering::warm::WarmError;
use crate::tiering::warm::local::{LocalWarm, LocalWarmOptions};

/// Why a server did not start, or did not end well. The message names what it is about.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another program listens there.
    #[error("{address} is in use by another program")]
    PortInUse {
        /// The address and port.
        address: SocketAddr,
    },
    /// The address can't be listened on.
    #[error("can't listen on {address}: {reason}")]
    Listen {
        /// The address and port.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// Another process has the data directory.
    #[error("{path} is open in another process")]
    DataInUse {
        /// The data directory.
        path: PathBuf,
    },
    /// The data directory holds no store.
    #[error("{path} holds nothing that stk stored")]
    NoStore {
        /// The data directory.
        path: PathBuf,
    },
    /// The data directory can't be made or written.
    #[error("{path}: {reason}")]
    Data {
        /// The data directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The log refuses.
    #[error(transparent)]
    Bus(BusError),
    /// Warm refuses.
    #[error(transparent)]
    Warm(#[from] WarmError),
    /// The archive's store refuses.
    #[error(transparent)]
    Cold(#[from] ColdError),
    /// A feed is not written as one.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A feed can't be started.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// A feed came to its end before its source did.
    #[error(transparent)]
    FeedRun(#[from] FeedRunError),
    /// A question about the past has no answer.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The processor can't go on.
    #[error(transparent)]
    Processor(#[from] ProcessorError),
    /// The gateway can't go on.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
}

impl NodeError {
    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        let warm = matches!(self.warm(), Some(WarmError::Full { .. }));
        warm || matches!(self.bus(), Some(BusError::Full { .. } | BusError::FilledUp { .. }))
    }

    /// Whether a stored file is damaged.
    pub fn is_damage(&self) -> bool {
        matches!(self.warm(), Some(WarmError::Damaged { .. }))
    }

    /// What warm said, if it was warm.
    fn warm(&self) -> Option<&WarmError> {
        match self {
            Self::Warm(error)
            | Self::History(HistoryError::Warm(error))
            | Self::Processor(ProcessorError::Warm { source: error, .. }) => Some(error),
            _ => None,
        }
    }

    /// What the log said, if it was the log.
    fn bus(&self) -> Option<&BusError> {
        match self {
            Self::Bus(error)
            | Self::History(HistoryError::Bus(error))
            | Self::FeedRun(FeedRunError::Intake { source: IntakeError::Bus(error), .. })
            | Self::Processor(ProcessorError::Bus { source: error, .. }) => Some(error),
            _ => None,
        }
    }
}

impl From<BusError> for NodeError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Locked { path } => Self::DataInUse { path: path.into() },
            other => Self::Bus(other),
        }
    }
}

/// The file whose lock says that a process has the data directory.
const LOCK_FILE: &str = "lock";
const LOG_DIR: &str = "log";
const WARM_DIR: &str = "warm";
const HOT_DIR: &str = "hot";
const COLD_DIR: &str = "cold";

/// The durable stores of a data directory, which one process has at a time.
pub struct Stores {
    /// The log.
    pub bus: Arc<LocalBus>,
    /// The days.
    pub warm: Arc<LocalWarm>,
    /// The archive, as it is read.
    pub archive: Arc<ArchiveReader>,
    /// What the archive's store is asked.
    pub cold_metrics: ColdMetrics,
    dir: PathBuf,
    /// Held as long as the stores are open.
    _lock: File,
}

impl Stores {
    /// Opens what is stored in `config.data_dir`, which is made where it is missing.
    pub async fn open(config: &Config) -> Result<Self, NodeError> {
        let config = config.clone();
        blocking(move || {
            std::fs::create_dir_all(&config.data_dir)
                .map_err(|error| data_error(&config.data_dir, &error))?;
            Self::open_in(&config, |dir| LocalWarm::open(dir, LocalWarmOptions::default()))
        })
        .await
    }

    /// Opens what is stored in `config.data_dir` to answer questions: nothing of it is removed,
    /// merged or added to.
    ///
    /// Errors: there is nothing, as [`NodeError::NoStore`]; or as [`Stores::open`].
    pub async fn open_existing(config: &Config) -> Result<Self, NodeError> {
        let config = config.clone();
        blocking(move || {
            if !config.data_dir.join(LOG_DIR).is_dir() {
                return Err(NodeError::NoStore { path: config.data_dir });
            }
            Self::open_in(&config, |dir| {
                // A server that ended between the two has a log without days.
                if dir.is_dir() {
                    LocalWarm::open_read_only(dir)
                } else {
                    LocalWarm::open(dir, LocalWarmOptions { compaction: false })
                }
            })
        })
        .await
    }

    /// Opens what is stored in `config.data_dir` to move days between its tiers: without
    /// compaction.
    ///
    /// Errors: there is nothing, as [`NodeError::NoStore`]; or as [`Stores::open`].
    pub async fn open_to_move(config: &Config) -> Result<Self, NodeError> {
        let config = config.clone();
        blocking(move || {
            if !config.data_dir.join(LOG_DIR).is_dir() {
                return Err(NodeError::NoStore { path: config.data_dir });
            }
            Self::open_in(&config, |dir| LocalWarm::open(dir, LocalWarmOptions { compaction: false }))
        })
        .await
    }

    fn open_in(
        config: &Config,
        open_warm: impl FnOnce(&Path) -> Result<Arc<LocalWarm>, WarmError>,
    ) -> Result<Self, NodeError> {
        let dir = &config.data_dir;
        let lock = lock(dir)?;
        let durability = config.sync_interval.map_or(Durability::Always, Durability::Interval);
        let retention = Retention { age: config.retention_age, bytes: config.retention_bytes };
        let bus = LocalBus::open(LocalBusConfig {
            durability,
            retention,
            free_bytes_min: config.free_bytes_min,
            ..LocalBusConfig::new(dir.join(LOG_DIR), config.partitions)
        })?;
        let warm = open_warm(&dir.join(WARM_DIR))?;
        let cold_metrics = ColdMetrics::default();
        let archive = Arc::new(ArchiveReader::new(open_cold(config, &cold_metrics)?));
        Ok(Self { bus, warm, archive, cold_metrics, dir: dir.clone(), _lock: lock })
    }

    /// Starts what brings the log into warm, and into a hot store of this process that it fills.
    pub fn process(
        &self,
        config: &Config,
        metrics: ProcessorMetrics,
    ) -> Result<(Processor, Arc<MemoryHot>), NodeError> {
        let hot = Arc::new(MemoryHot::new(self.bus.partitions()));
        let into = processor::Stores {
            bus: self.bus.clone(),
            hot: hot.clone(),
            warm: self.warm.clone(),
            archive: Some(self.archive.clone()),
            hot_files: Some((hot.clone(), self.dir.join(HOT_DIR))),
        };
        let settings = ProcessorConfig {
            rows_max: config.rows_max,
            block_age_max: config.block_age_max,
            ..ProcessorConfig::default()
        };
        Ok((Processor::start(into, settings, metrics), hot))
    }

    /// What answers about the past.
    pub fn history(&self) -> History {
        History::new(self.bus.clone(), self.warm.clone()).with_archive(self.archive.clone())
    }

    /// Makes everything durable and frees the directory.
    pub async fn close(self) {
        let Self { bus, warm, archive: _, cold_metrics: _, dir: _, _lock } = self;
        // Its end waits for a compaction under way.
        let _ = tokio::task::spawn_blocking(move || drop(warm)).await;
        bus.close().await;
    }
}

/// Opens the store that `config` names for the archive. Blocking.
pub fn open_cold(config: &Config, metrics: &ColdMetrics) -> Result<Arc<dyn Cold>, ColdError> {
    let url = config.archive.url.clone();
    let url = url.unwrap_or_else(|| config.data_dir.join(COLD_DIR).display().to_string());
    cold::open(&url, config.archive.s3_endpoint.as_deref(), &config.archive.s3_region, metrics)
}

/// Runs `work`, which blocks, beside the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

fn data_error(dir: &Path, error: &std::io::Error) -> NodeError {
    NodeError::Data { path: dir.to_owned(), reason: error.to_string() }
}

/// Takes the data directory for this process.
fn lock(dir: &Path) -> Result<File, NodeError> {
    let mut options = File::options();
    let file = options.create(true).write(true).truncate(false).open(dir.join(LOCK_FILE));
    let file = file.map_err(|error| data_error(dir, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(NodeError::DataInUse { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(data_error(dir, &error)),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => NodeError::PortInUse { address },
        _ => NodeError::Listen { address, reason: error.to_string() },
    })
}

/// Opens the feed that `source` describes; the simulated market begins now.
fn open_feed(source: &Source) -> Result<Box<dyn Feed>, NodeError> {
    Ok(match source {
        Source::Sim { rate_ticks_per_s, seed, symbols } => {
            let config = SimConfig {
                seed: *seed,
                symbols: *symbols,
                rate_ticks_per_s: *rate_ticks_per_s,
                start: Timestamp::now(),
                count: None,
            };
            Box::new(SimFeed::new(config, Pace::Clock))
        }
        Source::Iex { path } => Box::new(IexFeed::open(path, Selection::default(), Speed::Factor(1.0))?),
        Source::Kafka { path } => Box::new(KafkaFeed::open(path)?),
    })
}

/// What a server did.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Ticks taken in, by feeds and by the ingest endpoint; all durable.
    pub ticks: u64,
    /// Rows stored in warm, bars among them.
    pub rows: u64,
    /// Messages handed to clients.
    pub messages: u64,
    /// How long it ran.
    pub ran: Duration,
}

/// A running server.
pub struct Node {
    stores: Stores,
    processor: Arc<Processor>,
    feeds: TaskTracker,
    stop_feeds: CancellationToken,
    ingest: Option<JoinHandle<()>>,
    stop_ingest: CancellationToken,
    gateway: JoinHandle<Result<(), GatewayError>>,
    stop_gateway: CancellationToken,
    address: SocketAddr,
    ingest_address: Option<SocketAddr>,
    sources: Vec<Source>,
    intake_metrics: IntakeMetrics,
    processor_metrics: ProcessorMetrics,
    gateway_metrics: GatewayMetrics,
    started_at: Instant,
}

impl Node {
    /// Starts everything that `config` names, and returns once clients are served.
    pub async fn start(config: &Config) -> Result<Self, NodeError> {
        let started_at = Instant::now();
        // What is cheap to find wrong comes first.
        let sources: Vec<Source> =
            config.sources.iter().map(|source| source.parse()).collect::<Result<_, SourceError>>()?;
        let feeds = sources.iter().map(open_feed).collect::<Result<Vec<_>, _>>()?;
        let listener = listen(config.listen).await?;
        let ingest_listener = match config.ingest_listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let no_address = |error| NodeError::Listen { address: config.listen, reason: format!("{error}") };
        let address = listener.local_addr().map_err(no_address)?;
        let ingest_address =
            ingest_listener.as_ref().map(TcpListener::local_addr).transpose().map_err(no_address)?;
        let stores = Stores::open(config).await?;

        let (intake_metrics, processor_metrics) = (IntakeMetrics::default(), ProcessorMetrics::default());
        let gateway_metrics = GatewayMetrics::default();
        let mut registry = metrics::registry();
        stores.bus.metrics().register(&mut registry);
        stores.warm.metrics().register(&mut registry);
        stores.archive.metrics.register(&mut registry);
        stores.cold_metrics.register(&mut registry);
        intake_metrics.register(&mut registry);
        processor_metrics.register(&mut registry);
        gateway_metrics.register(&mut registry);
        feeds.iter().for_each(|feed| feed.register(&mut registry));

        let (processor, hot) = stores.process(config, processor_metrics.clone())?;
        // A client's first snapshot must not lack what hot is about to know.
        processor.restored().await;
        let processor = Arc::new(processor);

        let feed_failures = Arc::new(Mutex::new(Vec::new()));
        let stop_gateway = CancellationToken::new();
        let state = GatewayState {
            bus: stores.bus.clone(),
            hot,
            own_hot: None,
            warm: Some(stores.warm.clone()),
            history: Some(stores.history()),
            config: gateway_config(config),
            metrics: gateway_metrics.clone(),
            registry: Arc::new(registry),
            feeds: sources.iter().map(Source::to_string).collect(),
            not_ready: {
                let (processor, failures) = (Arc::downgrade(&processor), feed_failures.clone());
                Arc::new(move || {
                    let mut reasons = failures.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    let processor = processor.upgrade().map(|processor| processor.ready());
                    reasons.extend(processor.and_then(Result::err));
                    reasons
                })
            },
            degraded: Arc::new(Vec::new),
            details: {
                let (dir, warm) = (stores.dir.display().to_string(), Arc::downgrade(&stores.warm));
                Arc::new(move || details(&dir, warm.upgrade().as_deref()))
            },
        };
        let gateway = tokio::spawn(gateway::serve(listener, state, stop_gateway.clone().cancelled_owned()));

        let intake = Intake::new(stores.bus.clone(), intake_metrics.clone());
        let stop_ingest = CancellationToken::new();
        let ingest = ingest_listener.map(|listener| {
            let stop = stop_ingest.clone().cancelled_owned();
            tokio::spawn(ingest::serve(listener, intake.clone(), gateway_metrics.clone(), stop))
        });
        let (tracker, stop_feeds) = (TaskTracker::new(), CancellationToken::new());
        for feed in feeds {
            let (intake, stop, failures) = (intake.clone(), stop_feeds.clone(), feed_failures.clone());
            tracker.spawn(async move {
                let mut feed = feed;
                let name = feed.name().to_owned();
                // A panic is an end like others: it is told, and the rest goes on.
                let ran = AssertUnwindSafe(run_feed(&mut *feed, intake, stop)).catch_unwind().await;
                let reason = match ran {
                    Ok(Ok(summary)) => {
                        tracing::info!(feed = name, ticks = summary.ticks, "the feed has ended");
                        return;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("feed {name} panicked"),
                };
                // What is there is served on: `/readyz` says what is wrong.
                tracing::error!(reason, "a feed has stopped; what is stored is still served");
                failures.lock().unwrap_or_else(PoisonError::into_inner).push(reason);
            });
        }
        tracker.close();
        Ok(Self {
            stores,
            processor,
            feeds: tracker,
            stop_feeds,
            ingest,
            stop_ingest,
            gateway,
            stop_gateway,
            address,
            ingest_address,
            sources,
            intake_metrics,
            processor_metrics,
            gateway_metrics,
            started_at,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, what it feeds from and where it stores, a line each.
    pub fn describe(&self) -> Vec<String> {
        let mut lines =
            vec![format!("listening on http://{} (board, REST, SSE; WebSocket at /v2/stk)", self.address)];
        if let Some(address) = self.ingest_address {
            lines.push(format!("taking ticks on ws://{address}/ingest"));
        }
        if self.sources.is_empty() {
            lines.push(
                "feeding from nothing: `--feed sim` simulates a market, `stk replay` plays one".to_owned(),
            );
        }
        lines.extend(self.sources.iter().map(|source| format!("feeding from {source}")));
        lines.push(format!("storing in {}", self.stores.dir.display()));
        lines
    }

    /// Messages handed to clients so far.
    pub fn messages(&self) -> u64 {
        self.gateway_metrics.messages.get()
    }

    /// Resolves, with the reason, when the server can't go on. Cancel-safe.
    pub async fn failed(&mut self) -> String {
        let processor = self.processor.failed();
        tokio::select! {
            () = processor.cancelled() => match self.processor.ready() {
                Err(reason) => reason,
                Ok(()) => "the processor has stopped".to_owned(),
            },
            ended = &mut self.gateway => match ended {
                Ok(Err(error)) => error.to_string(),
                Ok(Ok(())) => "the gateway has ended".to_owned(),
                Err(error) => format!("the gateway has ended: {error}"),
            },
            ended = ended(self.ingest.as_mut()) => match ended {
                Ok(()) => "the ingest endpoint has ended".to_owned(),
                Err(error) => format!("the ingest endpoint has ended: {error}"),
            },
        }
    }

    /// Ends the feeds, drains all that was taken in to warm, tells clients goodbye, and frees the
    /// data directory. After an error everything that could be done was done.
    pub async fn stop(self) -> Result<Summary, NodeError> {
        self.stop_feeds.cancel();
        self.stop_ingest.cancel();
        self.feeds.wait().await;
        // What ended before has been told of by `failed`.
        let taken = match self.ingest.filter(|ingest| !ingest.is_finished()) {
            Some(ingest) => ingest.await.map_err(gateway_ended),
            None => Ok(()),
        };
        let drained = self.processor.stop().await;
        drop(self.processor);
        self.stop_gateway.cancel();
        let served = if self.gateway.is_finished() {
            Ok(())
        } else {
            self.gateway.await.unwrap_or_else(|error| Err(gateway_ended(error)))
        };
        self.stores.close().await;
        drained?;
        taken?;
        served?;
        Ok(Summary {
            ticks: self.intake_metrics.ticks.get(),
            rows: self.processor_metrics.rows.get(),
            messages: self.gateway_metrics.messages.get(),
            ran: self.started_at.elapsed(),
        })
    }
}

/// Waits for a task to end; for ever where there is none.
async fn ended(task: Option<&mut JoinHandle<()>>) -> Result<(), JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

fn gateway_ended(error: JoinError) -> GatewayError {
    GatewayError::Ended(error.to_string())
}

fn gateway_config(config: &Config) -> GatewayConfig {
    let key = |(id, secret): &(String, String)| ClientKey { id: id.clone(), secret: secret.clone() };
    GatewayConfig {
        keys: config.keys.iter().map(key).collect(),
        connections_max: config.connections_max,
        queue_bytes_max: config.queue_bytes_max,
        ..GatewayConfig::default()
    }
}

/// What the stores add to `/v1/status`.
fn details(dir: &str, warm: Option<&LocalWarm>) -> serde_json::Value {
    let kinds: Vec<serde_json::Value> = warm
        .map(LocalWarm::stats)
        .unwrap_or_default()
        .iter()
        .map(|kind| {
            serde_json::json!({
                "kind": kind.kind.name(), "rows": kind.rows, "bytes": kind.bytes, "segments": kind.segments,
            })
        })
        .collect();
    serde_json::json!({ "data_dir": dir, "warm": kinds })
}
