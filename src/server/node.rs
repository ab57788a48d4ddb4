//! One process of `stk serve`: the roles that its configuration names, put together, and taken apart in
//! the order that loses nothing.
//!
//! Started from the stores outwards, so that nothing is taken in or served before it can be kept or
//! answered; stopped from the feeds inwards, so that each part drains into the next.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admin::{Admin, AdminMetrics, Door};
use super::archiver::{self, ArchiverRole};
use super::feeds::{Failures, Opener, follow};
use super::gateway::{self, ClientKey, GatewayConfig, GatewayError, GatewayState, QueryLimits};
use super::ingest;
use super::intake::{FeedRunError, IntakeError, IntakeMetrics};
use super::metrics::{self, GatewayMetrics};
use super::operations::{self, Operations};
use super::processor::{Processor, ProcessorError, ProcessorMetrics};
use super::standin::ReopenMetrics;
use super::standing::{self, Standing};
use super::stores::Stores;
use crate::bus::BusError;
use crate::config::{Config, Role};
use crate::feed::FeedError;
use crate::feed::source::{Source, SourceError};
use crate::market::Horizon;
use crate::secret::Secret;
use crate::tiering::archive::ArchiveMetrics;
use crate::tiering::archive::origin::Beside;
use crate::tiering::archive::snapshot::ReadError;
use crate::tiering::cold::ColdError;
use crate::tiering::history::HistoryError;
use crate::tiering::hot::{Hot, HotError};
use crate::tiering::seam::SeamError;
use crate::tiering::warm::WarmError;

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
        /// The address of the server that has it, if it is one.
        server: Option<SocketAddr>,
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
    /// Roles that can't be a process of their own with these stores.
    #[error("{reason}")]
    Roles {
        /// What they lack.
        reason: String,
    },
    /// The archive can't be asked whether a log that is to be made is one that was lost.
    #[error("a new log would begin beside {store}, which can't be asked what it holds: {reason}")]
    NewLog {
        /// The archive.
        store: String,
        /// Why it can't be asked.
        reason: String,
    },
    /// The log refuses.
    #[error(transparent)]
    Bus(BusError),
    /// A server was told to end while its log could not be reached.
    #[error("{reason}; ended without it")]
    LogAway {
        /// Which log, and why.
        reason: String,
    },
    /// Hot refuses.
    #[error(transparent)]
    Hot(#[from] HotError),
    /// Warm refuses.
    #[error(transparent)]
    Warm(#[from] WarmError),
    /// The archive's store refuses.
    #[error(transparent)]
    Cold(#[from] ColdError),
    /// The archive is damaged.
    #[error(transparent)]
    Archive(#[from] ReadError),
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
    /// The log is not the one that warm was filled from.
    #[error(transparent)]
    Seam(#[from] SeamError),
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
            BusError::Locked { path } => Self::DataInUse { path: path.into(), server: None },
            other => Self::Bus(other),
        }
    }
}

/// Connections that may wait to be accepted, as those of all clients that come back after a restart. The system has a limit
/// of its own (`net.core.somaxconn`).
const BACKLOG: u32 = 4_096;

/// A listener at `address`; within a runtime.
pub(super) fn bound(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn listen(address: SocketAddr) -> Result<TcpListener, NodeError> {
    bound(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => NodeError::PortInUse { address },
        _ => NodeError::Listen { address, reason: error.to_string() },
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

/// Whether the roles can be a process of their own with the stores that `config` names.
fn check_roles(config: &Config) -> Result<(), NodeError> {
    let has = |role: Role| config.roles.contains(&role);
    let [feed, processor, gateway, archiver] = Role::ALL.map(has);
    let whole = feed && processor && gateway;
    let needed = [
        (
            config.kafka.is_none() && (feed || processor || gateway) && !whole,
            "the log in Kafka",
            "log.kafka_brokers",
        ),
        (
            config.clickhouse.is_none() && (processor || gateway || archiver) && !whole,
            "warm in ClickHouse",
            "warm.clickhouse_url",
        ),
        (config.redis.is_none() && processor != gateway, "hot in Redis", "hot.redis_url"),
        (
            config.archive.url.is_none() && (processor || gateway || archiver) && !whole,
            "the archive where all can reach it",
            "archive.url",
        ),
    ];
    let lacking: Vec<_> = needed.iter().filter(|(lacks, ..)| *lacks).collect();
    if lacking.is_empty() {
        return Ok(());
    }
    let roles: Vec<_> = config.roles.iter().map(|role| role.name()).collect();
    let lacks: Vec<String> = lacking.iter().map(|(_, what, setting)| format!("{what} ({setting})")).collect();
    let reason = format!(
        "a process with the roles {} alone shares its stores with others: it needs {}",
        roles.join(", "),
        lacks.join(", ")
    );
    Err(NodeError::Roles { reason })
}

/// What clients, or only whoever runs the process, are answered by.
struct GatewayRole {
    address: SocketAddr,
    task: JoinHandle<Result<(), GatewayError>>,
    stop: CancellationToken,
}

/// The feeds and the door for programs that bring ticks.
struct FeedRole {
    feeds: TaskTracker,
    stop_feeds: CancellationToken,
    ingest: Option<JoinHandle<()>>,
    stop_ingest: CancellationToken,
    ingest_address: Option<SocketAddr>,
    sources: Vec<Source>,
}

/// A running server.
pub struct Node {
    roles: Vec<Role>,
    stores: Stores,
    processor: Option<Arc<Processor>>,
    feed: Option<FeedRole>,
    archiver: Option<ArchiverRole>,
    admin: Arc<Door>,
    gateway: GatewayRole,
    standing: Arc<Standing>,
    /// What asks the archive, and what ends that.
    asking: (JoinHandle<()>, CancellationToken),
    intake_metrics: IntakeMetrics,
    processor_metrics: ProcessorMetrics,
    gateway_metrics: GatewayMetrics,
    started_at: Instant,
}

impl Node {
    /// Starts everything that `config` names, and returns once clients are served.
    ///
    /// Every process listens, whatever its roles: `/healthz`, `/readyz` and `/metrics` are for whoever
    /// runs it. Streams and history are for those with the gateway's role.
    pub async fn start(config: &Config) -> Result<Self, NodeError> {
        Self::start_counted(config, &ReopenMetrics::default()).await
    }

    /// As [`Node::start`], for a process that opens its stores again and counts that in `reopens`.
    pub async fn start_counted(config: &Config, reopens: &ReopenMetrics) -> Result<Self, NodeError> {
        let started_at = Instant::now();
        // What is cheap to find wrong comes first.
        check_roles(config)?;
        let has = |role: Role| config.roles.contains(&role);
        let sources: Vec<Source> = if has(Role::Feed) {
            config.sources.iter().map(|source| source.parse()).collect::<Result<_, SourceError>>()?
        } else {
            Vec::new()
        };
        let horizon = Horizon::ahead_of_clock(config.ahead_max);
        let openers: Vec<_> = sources.iter().map(|source| Opener::new(source.clone(), horizon)).collect();
        let feeds = openers.iter().map(Opener::open).collect::<Result<Vec<_>, _>>()?;
        let listener = listen(config.listen)?;
        let ingest_listener = match config.ingest_listen.filter(|_| has(Role::Feed)) {
            Some(address) => Some(listen(address)?),
            None => None,
        };
        let no_address = |error| NodeError::Listen { address: config.listen, reason: format!("{error}") };
        let address = listener.local_addr().map_err(no_address)?;
        let ingest_address =
            ingest_listener.as_ref().map(TcpListener::local_addr).transpose().map_err(no_address)?;
        let stores = Stores::open(config).await?;
        stores.announce(address);
        if (has(Role::Feed) || has(Role::Gateway) || has(Role::Archiver)) && stores.is_shared() {
            // Before anything is accepted, served, archived or dropped. With stores on this machine it was done
            // when they were opened.
            stores.check_seams().await?;
        }

        let (intake_metrics, processor_metrics) = (IntakeMetrics::default(), ProcessorMetrics::default());
        let gateway_metrics = GatewayMetrics::default();
        let mut registry = metrics::registry();
        reopens.register(&mut registry);
        stores.register(&mut registry);
        intake_metrics.register(&mut registry);
        processor_metrics.register(&mut registry);
        gateway_metrics.register(&mut registry);
        feeds.iter().for_each(|feed| feed.register(&mut registry));

        let mut processor = None;
        let mut processed_hot: Option<Arc<dyn Hot>> = None;
        if has(Role::Processor) {
            let (started, hot) = stores.process(config, processor_metrics.clone());
            if !stores.is_shared() {
                // A client's first snapshot must not lack what hot is about to know.
                started.restored().await;
            }
            (processor, processed_hot) = (Some(Arc::new(started)), Some(hot));
        }
        let archive_metrics = ArchiveMetrics::default();
        archive_metrics.register(&mut registry);
        let started = || archiver::start(config, &stores, archive_metrics.clone());
        let archiver = has(Role::Archiver).then(started).flatten();
        let admin = Arc::new(admin_door(config, &stores, archive_metrics, &mut registry)?);

        let failures = Arc::new(Failures::default());
        let fallback = stores.fallback_hot(has(Role::Processor));
        let (own_hot, redis) = match &fallback {
            Some((fallback, fills)) => (fills.then(|| fallback.own()), Some(fallback.clone())),
            None => (None, None),
        };
        let hot: Option<Arc<dyn Hot>> = match redis.clone() {
            Some(redis) => Some(redis),
            None => processed_hot,
        };
        let standing = Arc::new(Standing::default());
        let stop_asking = CancellationToken::new();
        let asking = standing::follow(
            standing.clone(),
            stores.cold(),
            Beside::new(stores.bus.clone()),
            stop_asking.clone(),
        );
        let asking = (tokio::spawn(asking), stop_asking);
        let watched = Arc::new(stores.watch());
        let stop = CancellationToken::new();
        let operations = Operations {
            admin: Some(admin.clone()),
            registry: Arc::new(registry),
            not_ready: {
                let (processor, failures) = (processor.as_ref().map(Arc::downgrade), failures.clone());
                let (watched, lone_memory) = (watched.clone(), stores.is_shared() && redis.is_none());
                Arc::new(move || {
                    let mut reasons = failures.reasons();
                    let processor = processor.as_ref().and_then(std::sync::Weak::upgrade);
                    if let Some(processor) = processor {
                        reasons.extend(processor.ready().err());
                        if lone_memory && !processor.has_all() {
                            reasons.push("hot is this process's memory and lacks what other processes process: set hot.redis_url".to_owned());
                        }
                    }
                    reasons.extend(watched.not_ready());
                    reasons
                })
            },
            degraded: {
                let (watched, redis) = (watched.clone(), redis.as_ref().map(Arc::downgrade));
                let standing = standing.clone();
                let processor = processor.as_ref().map(Arc::downgrade);
                Arc::new(move || {
                    let processor = processor.as_ref().and_then(std::sync::Weak::upgrade);
                    let redis = redis.as_ref().and_then(std::sync::Weak::upgrade);
                    let mut reasons = watched.degraded();
                    reasons.extend(standing.reason());
                    reasons.extend(redis.and_then(|redis| redis.degraded()));
                    reasons.extend(processor.and_then(|processor| processor.degraded()));
                    reasons
                })
            },
            details: {
                let roles: Vec<_> = config.roles.iter().map(|role| role.name()).collect();
                Arc::new(move || {
                    let mut details = watched.details();
                    details["roles"] = roles.clone().into();
                    details
                })
            },
        };
        let until = stop.clone().cancelled_owned();
        let task = match hot.filter(|_| has(Role::Gateway)) {
            Some(hot) => {
                let state = GatewayState {
                    bus: stores.bus.clone(),
                    hot,
                    own_hot,
                    warm: Some(stores.warm.clone()),
                    history: Some(stores.history()),
                    config: gateway_config(config),
                    metrics: gateway_metrics.clone(),
                    operations,
                    feeds: sources.iter().map(Source::to_string).collect(),
                };
                tokio::spawn(gateway::serve(listener, state, until))
            }
            None => tokio::spawn(async move {
                let served = operations::serve(listener, operations, until).await;
                served.map_err(|error| GatewayError::Ended(error.to_string()))
            }),
        };
        let gateway = GatewayRole { address, task, stop };

        let feed = has(Role::Feed).then(|| {
            let intake = stores.intake(intake_metrics.clone()).with_horizon(horizon);
            let stop_ingest = CancellationToken::new();
            let ingest = ingest_listener.map(|listener| {
                let stop = stop_ingest.clone().cancelled_owned();
                tokio::spawn(ingest::serve(listener, intake.clone(), gateway_metrics.clone(), stop))
            });
            let (tracker, stop_feeds) = (TaskTracker::new(), CancellationToken::new());
            for (number, (opener, feed)) in openers.into_iter().zip(feeds).enumerate() {
                let (intake, stop, failures) = (intake.clone(), stop_feeds.clone(), failures.clone());
                tracker.spawn(follow(number, opener, feed, intake, stop, failures));
            }
            tracker.close();
            FeedRole { feeds: tracker, stop_feeds, ingest, stop_ingest, ingest_address, sources }
        });
        Ok(Self {
            roles: config.roles.clone(),
            stores,
            processor,
            feed,
            archiver,
            admin,
            gateway,
            standing,
            asking,
            intake_metrics,
            processor_metrics,
            gateway_metrics,
            started_at,
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.gateway.address
    }

    /// Where it listens, what it feeds from and where it stores, a line each.
    pub fn describe(&self) -> Vec<String> {
        let address = self.gateway.address;
        let mut lines = vec![if self.roles.contains(&Role::Gateway) {
            format!("listening on http://{address} (board, REST, SSE; WebSocket at /v2/stk)")
        } else {
            let roles: Vec<_> = self.roles.iter().map(|role| role.name()).collect();
            format!("listening on http://{address} (/healthz, /readyz, /metrics) as {}", roles.join(", "))
        }];
        if let Some(feed) = &self.feed {
            lines.extend(feed.ingest_address.map(|address| format!("taking ticks on ws://{address}/ingest")));
            if feed.sources.is_empty() {
                lines.push(
                    "feeding from nothing: `--feed sim` simulates a market, `stk replay` plays one"
                        .to_owned(),
                );
            }
            lines.extend(feed.sources.iter().map(|source| format!("feeding from {source}")));
        }
        let places: Vec<String> =
            self.stores.places().into_iter().map(|(tier, place)| format!("{tier} {place}")).collect();
        lines.push(format!("storing in {}", places.join(", ")));
        lines.extend(self.archiver.as_ref().map(ArchiverRole::describe));
        lines
    }

    /// Messages handed to clients so far.
    pub fn messages(&self) -> u64 {
        self.gateway_metrics.messages.get()
    }

    /// Resolves, with the reason, once the stores are to be opened again, by stopping this server and starting
    /// another: the archive turns out to be ahead of the log. Cancel-safe.
    pub fn may_reopen(&self) -> impl Future<Output = &'static str> + Send + 'static {
        let standing = self.standing.clone();
        async move {
            standing.ahead().await;
            "the archive is ahead of the log"
        }
    }

    /// Where programs that bring ticks connect, if any may.
    pub fn ingest_address(&self) -> Option<SocketAddr> {
        self.feed.as_ref()?.ingest_address
    }

    /// Resolves, with the reason, when the server can't go on. Cancel-safe.
    pub async fn failed(&mut self) -> String {
        let processor = self.processor.clone();
        let processor_failed = async {
            match &processor {
                Some(processor) => processor.failed().cancelled_owned().await,
                None => std::future::pending().await,
            }
        };
        let ingest = self.feed.as_mut().and_then(|feed| feed.ingest.as_mut());
        tokio::select! {
            () = processor_failed => match processor.as_ref().map(|processor| processor.ready()) {
                Some(Err(reason)) => reason,
                _ => "the processor has stopped".to_owned(),
            },
            ended = &mut self.gateway.task => match ended {
                Ok(Err(error)) => error.to_string(),
                Ok(Ok(())) => "the gateway has ended".to_owned(),
                Err(error) => format!("the gateway has ended: {error}"),
            },
            ended = ended(ingest) => match ended {
                Ok(()) => "the ingest endpoint has ended".to_owned(),
                Err(error) => format!("the ingest endpoint has ended: {error}"),
            },
        }
    }

    /// Ends the feeds, drains all that was taken in to warm, tells clients goodbye, and frees the
    /// stores. After an error everything that could be done was done.
    pub async fn stop(self) -> Result<Summary, NodeError> {
        let Self { stores, processor, feed, archiver, admin, gateway, asking, .. } = self;
        let stopping = async {
            asking.1.cancel();
            let _ = asking.0.await;
            let mut taken = Ok(());
            if let Some(feed) = feed {
                feed.stop_feeds.cancel();
                feed.stop_ingest.cancel();
                feed.feeds.wait().await;
                // What ended before has been told of by `failed`.
                if let Some(ingest) = feed.ingest.filter(|ingest| !ingest.is_finished()) {
                    taken = ingest.await.map_err(gateway_ended);
                }
            }
            if let Some(archiver) = archiver {
                archiver.stop().await;
            }
            admin.stop().await;
            let drained = match processor {
                Some(processor) => processor.stop().await,
                None => Ok(()),
            };
            gateway.stop.cancel();
            let served = if gateway.task.is_finished() {
                Ok(())
            } else {
                gateway.task.await.unwrap_or_else(|error| Err(gateway_ended(error)))
            };
            // Its handles on the stores end with it. Its thread may carry connections to servers that the
            // processor used until now.
            drop(admin);
            drained?;
            taken?;
            served.map_err(NodeError::from)
        };
        let mut stopping = pin!(stopping);
        let stopped = tokio::select! {
            stopped = &mut stopping => stopped,
            reason = stores.log_away() => {
                // Whoever waited for the log ends now, if with an error with one that says less.
                let ((), ended) = tokio::join!(stores.give_up_log(), stopping);
                if let Err(error) = ended {
                    tracing::warn!(%error, "not everything ended in good order");
                }
                Err(NodeError::LogAway { reason })
            }
        };
        stores.close().await;
        stopped?;
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

fn client_keys(keys: &[(String, Secret)]) -> Vec<ClientKey> {
    keys.iter().map(|(id, secret)| ClientKey { id: id.clone(), secret: secret.clone() }).collect()
}

/// What carries out operator commands.
fn admin_door(
    config: &Config,
    stores: &Stores,
    archive: ArchiveMetrics,
    registry: &mut Registry,
) -> Result<Door, NodeError> {
    let metrics = AdminMetrics::default();
    metrics.register(registry);
    let admin = Admin::new(config, stores, archive);
    let door = Door::new(admin, client_keys(&config.admin_keys), config.keys.is_empty(), metrics);
    door.map_err(|error| GatewayError::Threads(error).into())
}

fn gateway_config(config: &Config) -> GatewayConfig {
    // An operator's key is good for everything else too, where keys are needed.
    let mut keys = client_keys(&config.keys);
    if !keys.is_empty() {
        keys.extend(client_keys(&config.admin_keys));
    }
    GatewayConfig {
        keys,
        connections_max: config.connections_max,
        queue_bytes_max: config.queue_bytes_max,
        queues_bytes_max: config.queues_bytes_max,
        stall_max: config.stall_max,
        queries: QueryLimits {
            queries_max: config.history_queries_max,
            per_client_max: config.history_queries_per_client_max,
            bytes_max: config.history_bytes_max,
            ..QueryLimits::default()
        },
        trusted_proxies: config.trusted_proxies.clone(),
        horizon: Horizon::ahead_of_clock(config.ahead_max),
        ..GatewayConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As where a server has just come back: nobody has accepted one of them yet.
    #[tokio::test]
    async fn many_clients_connect_at_once() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients = Vec::new();
        for number in 0..400 {
            let connecting = tokio::net::TcpStream::connect(address);
            let connected = tokio::time::timeout(Duration::from_secs(30), connecting).await;
            clients.push(connected.unwrap_or_else(|_| panic!("client {number} waits")).unwrap());
        }
    }
}
