//! The stores that a configuration names, opened and closed together.
//!
//! On one machine they lie in the data directory, which one process has at a time. Elsewhere they
//! are servers that processes share; each of the four can be either.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use prometheus_client::registry::Registry;

use super::intake::{Intake, IntakeMetrics};
use super::node::NodeError;
use super::processor::{self, Processor, ProcessorConfig, ProcessorMetrics};
use super::producers::Producers;
use crate::bus::epoch::{Held, Relation};
use crate::bus::kafka::{KafkaBus, KafkaBusConfig};
use crate::bus::local::{Access, Durability, LocalBus, LocalBusConfig, Retention};
use crate::bus::{Bus, BusError};
use crate::config::{Config, KafkaConfig};
use crate::disk::{create_dir, lock_soon};
use crate::market::Horizon;
use crate::tiering::archive::copy::Timeline;
use crate::tiering::archive::origin::{self, Beside};
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::archive::run::Archiver;
use crate::tiering::archive::{ArchiveError, ArchiveMetrics, ArchiveOptions, Clock};
use crate::tiering::cold::{self, Cold, ColdError, ColdMetrics};
use crate::tiering::history::History;
use crate::tiering::hot::Hot;
use crate::tiering::hot::fallback::FallbackHot;
use crate::tiering::hot::memory::MemoryHot;
use crate::tiering::hot::redis::{RedisHot, RedisHotConfig};
use crate::tiering::seam::{self, SeamError};
use crate::tiering::warm::clickhouse::{ClickHouseOptions, ClickHouseWarm};
use crate::tiering::warm::local::{LocalWarm, LocalWarmOptions};
use crate::tiering::warm::{ArchiveSource, Origin, WarmError};

/// The file whose lock says that a process has the data directory.
const LOCK_FILE: &str = "lock";
pub(super) const LOG_DIR: &str = "log";
pub(super) const WARM_DIR: &str = "warm";
pub(super) const HOT_DIR: &str = "hot";
pub(super) const COLD_DIR: &str = "cold";

/// How long the start of a local log waits for the archive.
const ARCHIVE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a stop waits for what is still on its way to Kafka.
const KAFKA_CLOSE_MAX: Duration = Duration::from_secs(30);
/// How long a stop waits for Kafka to come back.
const KAFKA_AWAY_MAX: Duration = Duration::from_secs(15);

/// How long a stop waits for whoever still reads warm, and how often it looks.
const GONE_WAIT_MAX: Duration = Duration::from_secs(10);
const GONE_LOOK: Duration = Duration::from_millis(10);

/// Partitions of which a record is read side by side.
const SEAMS_AT_ONCE: usize = 4;

/// The log, as it is opened and closed.
pub(super) enum Log {
    Local(Arc<LocalBus>),
    Kafka(Arc<KafkaBus>),
}

impl Log {
    /// Opens the log of `config` alone, to ask it. What other stores hold of it is not looked at.
    pub(super) async fn open_to_ask(config: &Config) -> Result<Self, NodeError> {
        if let Some(kafka) = &config.kafka {
            return Ok(Self::Kafka(open_kafka_bus(config, kafka, Use::Ask).await?));
        }
        let own = config.clone();
        Ok(Self::Local(blocking(move || open_local_bus(&own, Use::Ask, Vec::new())).await?))
    }

    pub(super) fn bus(&self) -> Arc<dyn Bus> {
        match self {
            Self::Local(bus) => bus.clone(),
            Self::Kafka(bus) => bus.clone(),
        }
    }

    pub(super) async fn close(self) {
        match self {
            Self::Local(bus) => bus.close().await,
            Self::Kafka(bus) => bus.close(KAFKA_CLOSE_MAX).await,
        }
    }
}

/// Warm, as it is opened and closed.
enum Days {
    Local(Arc<LocalWarm>),
    ClickHouse(Arc<ClickHouseWarm>),
}

/// The stores of a process.
pub struct Stores {
    /// The log.
    pub bus: Arc<dyn Bus>,
    /// The days.
    pub warm: Arc<dyn ArchiveSource>,
    /// The archive, as it is read.
    pub archive: Arc<ArchiveReader>,
    log: Log,
    days: Days,
    redis: Option<Arc<RedisHot>>,
    cold_metrics: ColdMetrics,
    dir: PathBuf,
    use_: Use,
    /// Held as long as the stores are open, where some of them lie in the data directory.
    lock: Option<File>,
}

/// What stores are opened for. Only who takes in makes what is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// To take in what comes.
    Write,
    /// To move days between its tiers, which are there: without compaction.
    Move,
    /// To answer questions: nothing in the stores changes.
    Ask,
    /// To look at stores that may not belong together: nothing in them changes.
    Examine,
}

impl Use {
    /// Whether nothing in the stores may change.
    fn is_read_only(self) -> bool {
        matches!(self, Self::Ask | Self::Examine)
    }
}

impl Stores {
    /// Opens what `config` names. The data directory is made where it is needed and missing.
    pub async fn open(config: &Config) -> Result<Self, NodeError> {
        Self::open_for(config, Use::Write).await
    }

    /// Opens what `config` names to answer questions: no file of the data directory or of the archive is
    /// created, changed or removed. Hot is not asked, and not opened.
    ///
    /// Errors: the data directory holds nothing, as [`NodeError::NoStore`]; there is no such topic or database,
    /// as [`crate::bus::BusError::Missing`] and [`WarmError::Missing`]; or as [`Stores::open`].
    pub async fn open_existing(config: &Config) -> Result<Self, NodeError> {
        Self::open_for(config, Use::Ask).await
    }

    /// As [`Stores::open_existing`], also where warm holds rows of another log or timeline.
    pub async fn open_to_examine(config: &Config) -> Result<Self, NodeError> {
        Self::open_for(config, Use::Examine).await
    }

    /// Opens what `config` names to move days between its tiers: without compaction, and without hot.
    ///
    /// Errors: as [`Stores::open_existing`].
    pub async fn open_to_move(config: &Config) -> Result<Self, NodeError> {
        Self::open_for(config, Use::Move).await
    }

    async fn open_for(config: &Config, use_: Use) -> Result<Self, NodeError> {
        let (local_log, local_warm) = (config.kafka.is_none(), config.clickhouse.is_none());
        // A hot store in memory has its checkpoints there.
        let in_dir = local_log || local_warm || (use_ == Use::Write && config.redis.is_none());
        let dir = config.data_dir.clone();
        let (lock, local_days) = blocking(move || {
            if !in_dir {
                return Ok((None, None));
            }
            if use_ != Use::Write
                && (local_log || local_warm)
                && !dir.join(LOG_DIR).is_dir()
                && !dir.join(WARM_DIR).is_dir()
            {
                return Err(NodeError::NoStore { path: dir });
            }
            let lock = if use_.is_read_only() {
                lock_to_read(&dir)?
            } else {
                create_dir(&dir).map_err(|error| data_error(&dir, &error))?;
                Some(lock(&dir)?)
            };
            let warm = local_warm.then(|| open_local_warm(&dir.join(WARM_DIR), use_)).transpose()?;
            Ok((lock, warm))
        })
        .await?;
        let kafka_bus = match &config.kafka {
            None => None,
            Some(kafka) => Some(open_kafka_bus(config, kafka, use_).await?),
        };
        let days = match (local_days, &config.clickhouse) {
            (Some(warm), _) => Days::Local(warm),
            (None, clickhouse) => {
                let clickhouse = clickhouse.as_ref().expect("warm is local where no server is named");
                let options = ClickHouseOptions {
                    database: clickhouse.database.clone(),
                    user: clickhouse.user.clone(),
                    password: clickhouse.password.clone(),
                    cluster: clickhouse.cluster.clone(),
                    replicated: clickhouse.replicated,
                    keeper_path: clickhouse.keeper_path.clone(),
                    ..ClickHouseOptions::new(&clickhouse.url)
                };
                Days::ClickHouse(match use_ {
                    Use::Write => ClickHouseWarm::open(&options).await?,
                    Use::Move | Use::Ask | Use::Examine => ClickHouseWarm::open_existing(&options).await?,
                })
            }
        };
        let warm: Arc<dyn ArchiveSource> = match &days {
            Days::Local(warm) => warm.clone(),
            Days::ClickHouse(warm) => warm.clone(),
        };
        let cold_metrics = ColdMetrics::default();
        let (own, metrics) = (config.clone(), cold_metrics.clone());
        let cold = blocking(move || Ok(open_cold(&own, &metrics)?)).await?;
        let local_bus = if local_log {
            let mut held = vec![warm.held().await?];
            let is_new = LocalBus::stored_identity(&config.data_dir.join(LOG_DIR))?.is_none();
            if is_new && matches!(days, Days::ClickHouse(_)) {
                refuse_new_log(&held[0])?;
            }
            let mut own = config.clone();
            if is_new && let Some(partitions) = partitions_of(&held[0]) {
                own.partitions = partitions;
            }
            if !use_.is_read_only() {
                // Without an identity of its own, and none in warm, only the archive may know the log.
                let is_known = !is_new || held[0].log.is_some();
                held.extend(held_by_archive(&*cold, is_known).await?);
            }
            Some(blocking(move || open_local_bus(&own, use_, held)).await?)
        } else {
            None
        };
        let log = match (local_bus, kafka_bus) {
            (Some(bus), _) => Log::Local(bus),
            (None, bus) => Log::Kafka(bus.expect("the log is local where no brokers are named")),
        };
        let bus = log.bus();
        warm.check_origin(&Origin::of(&*bus)).await?;
        // Roles on servers compare by themselves: a processor before it claims a partition.
        let by_roles = use_ == Use::Write && !local_log && !local_warm;
        if !by_roles && use_ != Use::Examine {
            // Before anything is taken in, answered, moved or dropped.
            check_fit(&*bus, &*warm).await?;
            check_seams(&*bus, &*warm, use_.is_read_only()).await?;
        }
        match &days {
            _ if use_.is_read_only() => {}
            Days::Local(warm) => {
                let (warm, bus) = (warm.clone(), bus.clone());
                blocking(move || Ok(warm.name_log(bus.epoch(), bus.partitions())?)).await?;
            }
            // A topic has one generation for ever.
            Days::ClickHouse(warm) if local_log => warm.name_log(bus.epoch(), bus.partitions()).await?,
            Days::ClickHouse(_) => {}
        }
        let redis = match &config.redis {
            Some(redis) if use_ == Use::Write => {
                let (url, prefix) = (redis.url.expose().to_owned(), redis.prefix.clone());
                let settings = RedisHotConfig {
                    horizon: Horizon::ahead_of_clock(config.ahead_max),
                    ..RedisHotConfig::new(url, prefix)
                };
                Some(RedisHot::connect(settings, bus.clone()).await?)
            }
            _ => None,
        };
        let archive = Arc::new(ArchiveReader::new(cold).beside(Beside::new(bus.clone())));
        let dir = config.data_dir.clone();
        Ok(Self { bus, warm, archive, log, days, redis, cold_metrics, dir, use_, lock })
    }

    /// Writes the server's `address` into the lock of the data directory, where other commands find it.
    pub fn announce(&self, address: SocketAddr) {
        let Some(mut lock) = self.lock.as_ref() else { return };
        // A server that listens everywhere is found at the loopback address.
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let address = SocketAddr::new(ip, address.port());
        if let Err(error) = writeln!(lock, "{address}") {
            tracing::warn!(%error, "the server's address could not be written into the data directory");
        }
    }

    /// Makes sure that the log goes on where warm ends, in every partition: whoever accepts records into
    /// a log that does not, accepts what no processor will ever take in.
    pub async fn check_seams(&self) -> Result<(), NodeError> {
        check_seams(&*self.bus, &*self.warm, false).await
    }

    /// Starts what brings the log into warm and hot, and says which hot store it fills.
    pub fn process(&self, config: &Config, metrics: ProcessorMetrics) -> (Processor, Arc<dyn Hot>) {
        let settings = ProcessorConfig { skips_expired: config.skips_expired, ..ProcessorConfig::default() };
        self.process_as(settings, config, metrics)
    }

    /// Fills an empty warm store from the log. The archive is known to hold all that the log has dropped.
    pub(super) fn refill(&self, config: &Config, metrics: ProcessorMetrics) -> Processor {
        let settings =
            ProcessorConfig { skips_expired: true, expired_are_archived: true, ..ProcessorConfig::default() };
        self.process_as(settings, config, metrics).0
    }

    fn process_as(
        &self,
        settings: ProcessorConfig,
        config: &Config,
        metrics: ProcessorMetrics,
    ) -> (Processor, Arc<dyn Hot>) {
        let (hot, hot_files): (Arc<dyn Hot>, _) = if let Some(redis) = &self.redis {
            (redis.clone(), None)
        } else {
            let memory = Arc::new(
                MemoryHot::new(self.bus.partitions()).with_horizon(Horizon::ahead_of_clock(config.ahead_max)),
            );
            (memory.clone(), Some((memory, self.dir.join(HOT_DIR))))
        };
        let into = processor::Stores {
            bus: self.bus.clone(),
            hot: hot.clone(),
            warm: self.warm.clone(),
            archive: Some(self.archive.clone()),
            hot_files,
        };
        let settings = ProcessorConfig {
            rows_max: config.rows_max,
            block_age_max: config.block_age_max,
            outlasts_warm: self.local_warm().is_none(),
            horizon: Horizon::ahead_of_clock(config.ahead_max),
            ..settings
        };
        (Processor::start(into, settings, metrics), hot)
    }

    /// The door to the log. It knows what producers have stored, by the state that processors keep in warm.
    pub fn intake(&self, metrics: IntakeMetrics) -> Intake {
        let producers = Producers::new(self.bus.clone(), Some(self.warm.clone()), self.is_shared());
        Intake::new(self.bus.clone(), metrics).with_producers(Arc::new(producers))
    }

    /// Redis as a gateway asks it, where hot is there, with a memory to fall back on; and whether the
    /// gateway has to fill that memory from the log.
    pub fn fallback_hot(&self, beside_processor: bool) -> Option<(Arc<FallbackHot>, bool)> {
        let redis = self.redis.as_ref()?.clone();
        // Only the processor of a local log has all partitions.
        Some(if beside_processor && matches!(self.log, Log::Local(_)) {
            (FallbackHot::beside_processor(redis), false)
        } else {
            (FallbackHot::alone(redis, self.bus.partitions()), true)
        })
    }

    /// Whether other processes may process a part of the log.
    pub fn is_shared(&self) -> bool {
        matches!(self.log, Log::Kafka(_))
    }

    /// What answers about the past.
    pub fn history(&self) -> History {
        History::new(self.bus.clone(), self.warm.clone()).with_archive(self.archive.clone())
    }

    /// The archive's store.
    pub fn cold(&self) -> Arc<dyn Cold> {
        self.archive.cold().clone()
    }

    /// Warm in the data directory, where that is where it is.
    pub fn local_warm(&self) -> Option<&Arc<LocalWarm>> {
        match &self.days {
            Days::Local(warm) => Some(warm),
            Days::ClickHouse(_) => None,
        }
    }

    /// Registers what each store counts.
    pub fn register(&self, registry: &mut Registry) {
        match &self.log {
            Log::Local(bus) => bus.metrics().register(registry),
            Log::Kafka(bus) => bus.metrics().register(registry),
        }
        match &self.days {
            Days::Local(warm) => warm.metrics().register(registry),
            Days::ClickHouse(warm) => warm.metrics().register(registry),
        }
        if let Some(redis) = &self.redis {
            redis.metrics().register(registry);
        }
        self.archive.metrics.register(registry);
        self.cold_metrics.register(registry);
    }

    /// What a server says of its stores, without keeping any of them open.
    pub fn watch(&self) -> Watched {
        Watched {
            local_log: match &self.log {
                Log::Local(bus) => Some(Arc::downgrade(bus)),
                Log::Kafka(_) => None,
            },
            kafka: match &self.log {
                Log::Kafka(bus) => Some(Arc::downgrade(bus)),
                Log::Local(_) => None,
            },
            redis: self.redis.as_ref().map(Arc::downgrade),
            local_warm: self.local_warm().map(Arc::downgrade),
            places: self.places(),
        }
    }

    /// The directory of what repairs keep is in this one.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where each store is, for a person: its tier, and its place.
    pub fn places(&self) -> Vec<(&'static str, String)> {
        let dir = |name: &str| self.dir.join(name).display().to_string();
        vec![
            (
                "log",
                match &self.log {
                    Log::Local(_) => dir(LOG_DIR),
                    Log::Kafka(bus) => bus.name().to_owned(),
                },
            ),
            (
                "hot",
                match &self.redis {
                    None => "memory".to_owned(),
                    Some(redis) => format!("redis at {}", redis.address()),
                },
            ),
            (
                "warm",
                match &self.days {
                    Days::Local(_) => dir(WARM_DIR),
                    Days::ClickHouse(warm) => format!("clickhouse at {}", warm.path()),
                },
            ),
            ("cold", self.archive.cold().name().to_owned()),
        ]
    }

    /// Resolves once the log could not be reached for 15 seconds: why not. A log on disk is always
    /// there. Cancel-safe.
    pub async fn log_away(&self) -> String {
        let Log::Kafka(bus) = &self.log else { return std::future::pending().await };
        let mut outages = bus.outages();
        loop {
            // The log outlives the borrow, so there is a sender.
            let _ = outages.wait_for(Option::is_some).await;
            let back = outages.wait_for(Option::is_none);
            if tokio::time::timeout(KAFKA_AWAY_MAX, back).await.is_err() {
                return bus.ready().err().unwrap_or_else(|| format!("{} is away", bus.name()));
            }
        }
    }

    /// Ends a log that is away, so that nobody waits for it any longer: what was not delivered fails.
    pub async fn give_up_log(&self) {
        if let Log::Kafka(bus) = &self.log {
            bus.close(Duration::ZERO).await;
        }
    }

    /// Makes everything durable, and frees the data directory and the servers.
    pub async fn close(self) {
        let Self { bus, warm, archive, log, days, redis, cold_metrics: _, dir: _, use_, lock: _lock } = self;
        if let Some(redis) = redis {
            redis.close().await;
        }
        drop((bus, warm, archive));
        let left = match &days {
            Days::Local(warm) if use_ == Use::Write => Some(Arc::downgrade(warm)),
            Days::Local(_) | Days::ClickHouse(_) => None,
        };
        // The end of a local warm waits for a compaction under way.
        let _ = tokio::task::spawn_blocking(move || drop(days)).await;
        log.close().await;
        if let Some(warm) = left {
            wait_gone(&warm).await;
        }
    }
}

/// Waits until nothing in this process holds `warm` any more: what still reads it has its lock. A log has
/// let go of its directory when it is closed.
async fn wait_gone(warm: &std::sync::Weak<LocalWarm>) {
    let since = tokio::time::Instant::now();
    while warm.strong_count() > 0 && since.elapsed() < GONE_WAIT_MAX {
        tokio::time::sleep(GONE_LOOK).await;
    }
    let handles = warm.strong_count();
    if handles > 0 {
        tracing::warn!(handles, "warm is still being read by this process, which keeps its lock");
    }
}

/// The timeline of the log that `config` names, beside the archive in `cold`: it ends at `u64::MAX` while a server
/// writes a local log. Changes nothing, and does not need the server to stop.
///
/// Errors: as [`Stores::open_existing`]; or the archive can't be read.
pub async fn timeline(config: &Config, cold: &dyn Cold) -> Result<Timeline, NodeError> {
    let stores = match Stores::open_existing(config).await {
        Err(error) => return timeline_of_served(config, error).await,
        Ok(stores) => stores,
    };
    let timeline = timeline_of(&stores.bus, cold).await;
    stores.close().await;
    timeline
}

/// Why the archive is refused beside the log that `config` names, if there is one: its rows are of another log, or
/// it lacks rows that warm has dropped; a passing error says that the latter can't be told now. Changes nothing. While
/// a server has the data directory open, only the log is compared.
///
/// Errors: as [`timeline`].
pub async fn archive_standing(
    config: &Config,
    cold: &Arc<dyn Cold>,
) -> Result<Option<ArchiveError>, NodeError> {
    let check = async |timeline: Timeline| match origin::held(&**cold).await? {
        Some(held) => Ok(origin::refuse(&held, &timeline.relation(&held), &timeline.epoch).err()),
        None => Ok::<_, NodeError>(None),
    };
    let stores = match Stores::open_existing(config).await {
        Err(NodeError::NoStore { .. } | NodeError::Bus(BusError::Missing { .. })) => return Ok(None),
        Err(error) => return check(timeline_of_served(config, error).await?).await,
        Ok(stores) => stores,
    };
    let asked = async {
        if let Some(error) = check(timeline_of(&stores.bus, &**cold).await?).await? {
            return Ok(Some(error));
        }
        let (warm, metrics) = (stores.warm.clone(), ArchiveMetrics::default());
        let archiver =
            Archiver::new(cold.clone(), warm, ArchiveOptions::default(), Clock::default(), metrics);
        Ok(archiver.check_dropped().await.err())
    };
    let standing = asked.await;
    stores.close().await;
    standing
}

/// The timeline of a local log that a server writes, by the `error` that the stores could not be opened with.
async fn timeline_of_served(config: &Config, error: NodeError) -> Result<Timeline, NodeError> {
    if !matches!(error, NodeError::DataInUse { .. }) || config.kafka.is_some() {
        return Err(error);
    }
    // The generation that is being written has all that was ever read from it.
    let dir = config.data_dir.join(LOG_DIR);
    let epoch = blocking(move || Ok(LocalBus::stored_identity(&dir)?)).await?.ok_or(error)?;
    // The log keeps the number that it was made with, whatever is configured now.
    let partitions = epoch.partitions().unwrap_or(usize::from(config.partitions));
    Ok(Timeline { epoch, nexts: vec![u64::MAX; partitions], parted_at: None })
}

async fn timeline_of(bus: &Arc<dyn Bus>, cold: &dyn Cold) -> Result<Timeline, NodeError> {
    let mut nexts = Vec::new();
    for partition in 0..bus.partitions() {
        nexts.push(bus.bounds(partition).await?.next);
    }
    let mut parted_at = None;
    if !bus.epoch().may_skip()
        && let Some(held) = origin::held(cold).await?
        && let Relation::Parted { at } = Beside::new(bus.clone()).relation(&held).await?
    {
        parted_at = Some(at);
    }
    Ok(Timeline { epoch: bus.epoch().clone(), nexts, parted_at })
}

/// What a server says of its stores while they are open.
pub struct Watched {
    local_log: Option<std::sync::Weak<LocalBus>>,
    kafka: Option<std::sync::Weak<KafkaBus>>,
    redis: Option<std::sync::Weak<RedisHot>>,
    local_warm: Option<std::sync::Weak<LocalWarm>>,
    places: Vec<(&'static str, String)>,
}

impl Watched {
    /// Why the process can't do its work, if it can't.
    pub fn not_ready(&self) -> Option<String> {
        if let Some(log) = self.local_log.as_ref().and_then(std::sync::Weak::upgrade) {
            return log.ready().err().map(|error| error.to_string());
        }
        self.kafka.as_ref()?.upgrade()?.ready().err()
    }

    /// What is wrong though all is served.
    pub fn degraded(&self) -> Vec<String> {
        let redis = self.redis.as_ref().and_then(std::sync::Weak::upgrade);
        let kafka = self.kafka.as_ref().and_then(std::sync::Weak::upgrade);
        let warnings = kafka.map(|kafka| kafka.warnings().to_vec()).unwrap_or_default();
        redis.and_then(|redis| redis.degraded()).into_iter().chain(warnings).collect()
    }

    /// What the stores add to `/v1/status`.
    pub fn details(&self) -> serde_json::Value {
        let warm = self.local_warm.as_ref().and_then(std::sync::Weak::upgrade);
        let kinds = warm.map(|warm| warm.stats()).unwrap_or_default();
        let kinds: Vec<serde_json::Value> = kinds
            .iter()
            .map(|kind| {
                serde_json::json!({
                    "kind": kind.kind.name(), "rows": kind.rows, "bytes": kind.bytes, "segments": kind.segments,
                })
            })
            .collect();
        let places: serde_json::Map<String, serde_json::Value> =
            self.places.iter().map(|(tier, place)| ((*tier).to_owned(), place.clone().into())).collect();
        serde_json::json!({ "stores": places, "warm": kinds })
    }
}

/// Makes sure that warm holds rows of this log and timeline alone, as far as it names them.
async fn check_fit(bus: &dyn Bus, warm: &dyn ArchiveSource) -> Result<(), NodeError> {
    let held = warm.held().await?;
    let mut nexts = Vec::new();
    for partition in 0..bus.partitions() {
        nexts.push(bus.bounds(partition).await?.next);
    }
    bus.epoch().fit(&nexts, &held).map_err(BusError::Misfit)?;
    Ok(())
}

/// See [`Stores::check_seams`].
async fn check_seams(bus: &dyn Bus, warm: &dyn ArchiveSource, is_read_only: bool) -> Result<(), NodeError> {
    let checks = (0..bus.partitions()).map(|partition| async move {
        // In this order: a processor goes on meanwhile.
        let mark = warm.mark(partition).await?;
        let bounds = bus.bounds(partition).await;
        let bounds = bounds.map_err(|source| SeamError::Bus { partition, source })?;
        match seam::check_record(bus, partition, bounds, &mark).await {
            // Answers say so, and a log that is written to continues after warm.
            Err(SeamError::Ahead(_)) if is_read_only => Ok(()),
            checked => checked.map_err(NodeError::from),
        }
    });
    stream::iter(checks).buffer_unordered(SEAMS_AT_ONCE).try_collect().await
}

/// Refuses to begin a log beside a database that names one: in another data directory, it may be processed now.
fn refuse_new_log(held: &Held) -> Result<(), WarmError> {
    let Some(log) = held.log else { return Ok(()) };
    let reason = format!(
        "holds rows of the log {log:016x}, and the data directory names no log: put back the data directory from \
         a backup, or set warm.clickhouse_database to a new database"
    );
    Err(WarmError::OtherLog { path: held.name.clone(), reason })
}

/// The number of partitions of the log that warm names: a log that is made again beside it has as many.
fn partitions_of(held: &Held) -> Option<u16> {
    held.lineage.last().and_then(|last| u16::try_from(last.ends.len()).ok()).filter(|count| *count > 0)
}

/// How far the archive has come with a local log; `None` where there is none, or it can't be asked.
///
/// Errors: as [`NodeError::NewLog`] where it can't be asked and the log is not known: a new log would give the
/// offsets of archived rows to others, if its archive is that of a log that was lost.
async fn held_by_archive(cold: &dyn Cold, is_known: bool) -> Result<Option<Held>, NodeError> {
    let new_log = |reason: String| NodeError::NewLog { store: cold.name().to_owned(), reason };
    match tokio::time::timeout(ARCHIVE_WAIT_MAX, origin::held(cold)).await {
        Ok(Ok(archive)) => return Ok(archive),
        Ok(Err(error)) if !error.is_passing() => return Err(error.into()),
        Ok(Err(error)) if !is_known => return Err(new_log(error.to_string())),
        Err(_) if !is_known => return Err(new_log(format!("no answer within {ARCHIVE_WAIT_MAX:?}"))),
        Ok(Err(error)) => tracing::warn!(
            store = cold.name(), %error,
            "the archive can't be asked which timeline of the log it holds; it is asked again before a run"
        ),
        Err(_) => tracing::warn!(
            store = cold.name(),
            "the archive does not say which timeline of the log it holds; it is asked again before a run"
        ),
    }
    Ok(None)
}

fn open_local_bus(config: &Config, use_: Use, held: Vec<Held>) -> Result<Arc<LocalBus>, NodeError> {
    let durability = config.sync_interval.map_or(Durability::Always, Durability::Interval);
    let retention = Retention { age: config.retention_age, bytes: config.retention_bytes };
    Ok(LocalBus::open(LocalBusConfig {
        access: if use_.is_read_only() { Access::Read } else { Access::Write },
        durability,
        retention,
        free_bytes_min: config.free_bytes_min,
        held,
        ..LocalBusConfig::new(config.data_dir.join(LOG_DIR), config.partitions)
    })?)
}

async fn open_kafka_bus(config: &Config, kafka: &KafkaConfig, use_: Use) -> Result<Arc<KafkaBus>, NodeError> {
    let retention = Retention { age: config.retention_age, bytes: config.retention_bytes };
    let settings = KafkaBusConfig {
        group: kafka.group.clone(),
        replication: kafka.replication,
        properties: kafka.exposed_properties(),
        retention,
        ..KafkaBusConfig::new(&kafka.brokers, &kafka.topic, config.partitions)
    };
    Ok(match use_ {
        Use::Write => KafkaBus::open(settings).await?,
        Use::Move | Use::Ask | Use::Examine => KafkaBus::open_existing(settings).await?,
    })
}

fn open_local_warm(dir: &Path, use_: Use) -> Result<Arc<LocalWarm>, WarmError> {
    match use_ {
        Use::Write => LocalWarm::open(dir, LocalWarmOptions::default()),
        Use::Move => LocalWarm::open(dir, LocalWarmOptions { compaction: false }),
        Use::Ask | Use::Examine => LocalWarm::open_read_only(dir),
    }
}

/// Opens the store that `config` names for the archive. Blocking.
pub fn open_cold(config: &Config, metrics: &ColdMetrics) -> Result<Arc<dyn Cold>, ColdError> {
    let url = config.archive.url.clone();
    let url = url.unwrap_or_else(|| config.data_dir.join(COLD_DIR).display().to_string());
    cold::open(&url, config.archive.s3_endpoint.as_deref(), &config.archive.s3_region, metrics)
}

/// Runs `work`, which blocks, beside the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

pub(super) fn data_error(dir: &Path, error: &std::io::Error) -> NodeError {
    NodeError::Data { path: dir.to_owned(), reason: error.to_string() }
}

/// Takes the data directory for this process.
pub(super) fn lock(dir: &Path) -> Result<File, NodeError> {
    let mut options = File::options();
    let file = options.create(true).write(true).truncate(false).open(dir.join(LOCK_FILE));
    let file = file.map_err(|error| data_error(dir, &error))?;
    match lock_soon(&file, File::try_lock) {
        Ok(()) => {
            // The last holder may have left its address.
            file.set_len(0).map_err(|error| data_error(dir, &error))?;
            Ok(file)
        }
        // A server locks it for itself alone. Readers, who share it, leave an old address as it is.
        Err(TryLockError::WouldBlock) if file.try_lock_shared().is_ok() => {
            Err(NodeError::DataInUse { path: dir.to_owned(), server: None })
        }
        Err(error) => Err(locked(dir, error)),
    }
}

/// Keeps writers out of the data directory while this process reads it, together with other readers.
/// `None` where no writer ever locked it.
pub(super) fn lock_to_read(dir: &Path) -> Result<Option<File>, NodeError> {
    match File::open(dir.join(LOCK_FILE)) {
        Ok(file) => match lock_soon(&file, File::try_lock_shared) {
            Ok(()) => Ok(Some(file)),
            Err(error) => Err(locked(dir, error)),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(data_error(dir, &error)),
    }
}

fn locked(dir: &Path, error: TryLockError) -> NodeError {
    match error {
        TryLockError::WouldBlock => {
            let text = std::fs::read_to_string(dir.join(LOCK_FILE)).unwrap_or_default();
            NodeError::DataInUse { path: dir.to_owned(), server: text.trim().parse().ok() }
        }
        TryLockError::Error(error) => data_error(dir, &error),
    }
}
