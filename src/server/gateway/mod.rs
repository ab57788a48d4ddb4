//! The gateway: from the log to clients, over WebSocket, SSE and REST.
//!
//! `hub` reads the log's tail and hands out frames; `ws` and `sse` carry them to clients;
//! `replay` brings a client from the past to now; `rest` answers single questions. Nothing here
//! writes to a store or waits for one on the way of a live tick.

mod amend;
mod bars;
pub mod bench;
mod budget;
mod coverage;
mod fanout;
mod frame;
mod hub;
mod limits;
mod memory_bus;
mod outbox;
mod pages;
mod parameters;
mod protocol;
mod proxies;
mod queries;
mod replay;
mod rest;
mod snapshot;
mod socket;
mod sse;
mod status;
mod subscription;
mod test_feed;
mod ws;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use self::budget::Budget;
pub use self::hub::HubError;
use self::hub::{Hub, HubLimits};
pub use self::limits::{ClientKey, HandshakeLimit};
pub(in crate::server) use self::limits::{Failures, is_allowed, shown_key};
use self::limits::{Handshakes, Unproven};
pub use self::memory_bus::MemoryBus;
use self::parameters::Parameters;
use self::protocol::Encoding;
pub use self::queries::QueryLimits;
pub(in crate::server) use self::queries::yield_to_streams;
use self::queries::{Asker, Pace, Purpose, Queries};
use self::replay::Past;
pub(in crate::server) use self::rest::ApiError;
use self::socket::{Socket, Ties};
use super::metrics::GatewayMetrics;
use super::operations::{self, Operations};
use crate::bus::Bus;
use crate::config::Network;
use crate::market::Horizon;
use crate::tiering::history::History;
use crate::tiering::hot::Hot;
use crate::tiering::hot::memory::MemoryHot;
use crate::tiering::warm::Warm;

/// What a gateway may use, and whom it lets in.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Keys that clients must show one of; empty lets anybody in.
    pub keys: Vec<ClientKey>,
    /// Streaming connections at once.
    pub connections_max: usize,
    /// Bytes of data that may wait for one connection before it is closed as too slow; of them a
    /// quarter, and at most one record's messages more, come at once. Connections with the same
    /// subscription share what waits for them.
    pub queue_bytes_max: usize,
    /// Bytes that may wait for all connections together; past it the slowest are closed first.
    pub queues_bytes_max: usize,
    /// How long a client may take nothing of what is sent to it.
    pub stall_max: Duration,
    /// What queries of history may take.
    pub queries: QueryLimits,
    /// Proxies that are believed when they name the client.
    pub trusted_proxies: Vec<Network>,
    /// Symbols that one connection may name, over all channels.
    pub symbols_max: usize,
    /// Bytes of the log's tail that are kept in memory for clients that come back.
    pub ring_bytes_max: usize,
    /// How often one address may connect, where there are no keys.
    pub handshakes: HandshakeLimit,
    /// How long a stop waits for clients to take what is queued.
    pub stop_max: Duration,
    /// What is beyond it moves no symbol's clock and is nobody's latest.
    pub horizon: Horizon,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            connections_max: 10_000,
            queue_bytes_max: 8 << 20,
            queues_bytes_max: 256 << 20,
            stall_max: Duration::from_secs(25),
            queries: QueryLimits::default(),
            trusted_proxies: Vec::new(),
            symbols_max: 30_000,
            ring_bytes_max: 32 << 20,
            handshakes: HandshakeLimit { burst: 2_000, period: Duration::from_millis(20) },
            stop_max: Duration::from_secs(5),
            horizon: Horizon::UNLIMITED,
        }
    }
}

/// What a gateway stands on.
pub struct GatewayState {
    /// The log it follows.
    pub bus: Arc<dyn Bus>,
    /// Where snapshots come from.
    pub hot: Arc<dyn Hot>,
    /// A hot store of this gateway's own, which it keeps filled from the log: where `hot` is elsewhere
    /// and may be lost.
    pub own_hot: Option<Arc<MemoryHot>>,
    /// Where bars and repeats are known up to; without it the gateway begins at the log's end.
    pub warm: Option<Arc<dyn Warm>>,
    /// What answers about the past; without it those requests are refused.
    pub history: Option<History>,
    /// Limits and keys.
    pub config: GatewayConfig,
    /// Counted here, registered by the caller in `registry`.
    pub metrics: GatewayMetrics,
    /// What the process tells of itself beside what it serves.
    pub operations: Operations,
    /// The feeds of this process, as a person reads them.
    pub feeds: Vec<String>,
}

/// Why a gateway does not serve.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The hub can't start.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The threads for history, or for operator commands, can't be started.
    #[error("the threads for queries and orders can't be started: {0}")]
    Threads(std::io::Error),
    /// A part of it ended before it was told to.
    #[error("the gateway has ended: {0}")]
    Ended(String),
}

/// Which feed a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feed {
    /// Any name but `test`.
    Log,
    /// FAKEPACA alone.
    Test,
}

impl Feed {
    fn named(name: &str) -> Self {
        if name == "test" { Self::Test } else { Self::Log }
    }
}

/// What every connection and request shares.
struct Shared {
    hub: Arc<Hub>,
    test_hub: Arc<Hub>,
    hot: Arc<dyn Hot>,
    history: Option<History>,
    config: GatewayConfig,
    metrics: GatewayMetrics,
    operations: Operations,
    feeds: Vec<String>,
    handshakes: Handshakes,
    unproven: Arc<Unproven>,
    failures: Arc<Failures>,
    budget: Arc<Budget>,
    queries: Arc<Queries>,
    streaming: Arc<AtomicUsize>,
    started_at: Instant,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Shared {
    fn hub(&self, feed: Feed) -> &Arc<Hub> {
        match feed {
            Feed::Log => &self.hub,
            Feed::Test => &self.test_hub,
        }
    }

    /// The past of a feed for `asker`; the test feed has only what its log holds.
    fn past(&self, feed: Feed, asker: Asker) -> Past {
        let history = self.history.clone().filter(|_| feed == Feed::Log);
        let (queries, stall_max) = (self.queries.clone(), self.config.stall_max);
        Past { hot: self.hot.clone(), history, queries, asker, stall_max }
    }

    /// A place among the streaming connections, if there is one.
    fn streaming(&self, gauge: &prometheus_client::metrics::gauge::Gauge) -> Option<Streaming> {
        let taken = self.streaming.fetch_add(1, Ordering::Relaxed);
        gauge.inc();
        // Counted first, so that two that come at once can't both take the last place.
        let streaming = Streaming { count: self.streaming.clone(), gauge: gauge.clone() };
        if taken < self.config.connections_max {
            return Some(streaming);
        }
        self.metrics.connections_refused.inc();
        None
    }
}

/// A place among the streaming connections.
struct Streaming {
    count: Arc<AtomicUsize>,
    gauge: prometheus_client::metrics::gauge::Gauge,
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

/// The address of whoever sent a request.
#[derive(Clone, Copy)]
pub(in crate::server) struct Peer(pub(in crate::server) IpAddr);

/// The id of the good key that a request showed, where keys are needed.
#[derive(Clone)]
struct Proven(String);

const TOO_MANY_ATTEMPTS: &str = "too many attempts from this address";
/// When a client that finds no place is asked to try again, in seconds.
const CONNECTIONS_RETRY_S: u32 = 5;
const TEST_RING_BYTES: usize = 1 << 20;
/// How long a client may take over the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long the end waits for the hub, and then for rows that are being read.
const END_MAX: Duration = Duration::from_secs(5);
/// How long a stream that can't go on may take to say so.
const LINGER_MAX: Duration = Duration::from_secs(2);
/// Data of one connection that is on its way to the socket, and can't be dropped any more.
const TAKE_BYTES: usize = 128 * 1024;
/// Connections from one address that have not shown a good key yet: this part of all, or so many.
const UNPROVEN_PART: usize = 4;
const UNPROVEN_MIN: usize = 16;
/// Sockets beyond the streaming connections: requests, and those about to be refused.
const SOCKETS_EXTRA: usize = 512;

/// Serves clients on `listener` until `stop`; then tells them, lets them take what is queued, and
/// returns after at most `stop_max`.
///
/// Begins with what the log holds beyond the processor's last checkpoint; clients wait in the
/// listener's queue as long.
pub async fn serve(
    listener: TcpListener,
    state: GatewayState,
    stop: impl Future<Output = ()>,
) -> Result<(), GatewayError> {
    let GatewayState { bus, hot, own_hot, warm, history, config, metrics, operations, feeds } = state;
    let mut stop = std::pin::pin!(stop);
    let budget = Budget::new(config.queues_bytes_max, metrics.clone());
    let queries = Queries::start(config.queries, metrics.clone()).map_err(GatewayError::Threads)?;
    let limits = HubLimits {
        ring_bytes_max: config.ring_bytes_max,
        round_bytes_max: config.queue_bytes_max / 4,
        round_total_bytes_max: config.queues_bytes_max / 8,
        rebuilds: history.is_some(),
        horizon: config.horizon,
    };
    let starting = Hub::start(bus, warm, own_hot, limits, budget.clone(), metrics.clone());
    let (hub, readers) = tokio::select! {
        started = starting => started?,
        () = &mut stop => return Ok(()),
    };
    let test_bus = Arc::new(MemoryBus::new(1, test_feed::RECORDS_MAX));
    let test_limits = HubLimits { ring_bytes_max: TEST_RING_BYTES, rebuilds: false, ..limits };
    let (test_hub, test_readers) =
        Hub::start(test_bus.clone(), None, None, test_limits, budget.clone(), GatewayMetrics::default())
            .await?;
    let (hub_stop, tasks, hubs) = (CancellationToken::new(), TaskTracker::new(), TaskTracker::new());
    let mut following = hubs.spawn(hub.clone().run(readers, hub_stop.clone()));
    hubs.spawn(test_hub.clone().run(test_readers, hub_stop.clone()));
    hubs.spawn(test_feed::run(test_bus, hub_stop.clone()));
    if let Some(history) = history.clone() {
        hubs.spawn(queries.run(amend::run(hub.clone(), history, hub_stop.clone())));
    }
    hubs.close();
    let stop_max = config.stop_max;
    let shared = Arc::new(Shared {
        hub,
        test_hub,
        hot,
        history,
        handshakes: Handshakes::new(config.handshakes),
        unproven: Unproven::new((config.connections_max / UNPROVEN_PART).max(UNPROVEN_MIN)),
        failures: Failures::new(),
        budget,
        queries: Arc::new(queries),
        config,
        metrics,
        operations,
        feeds,
        streaming: Arc::default(),
        started_at: Instant::now(),
        stop: CancellationToken::new(),
        tasks: tasks.clone(),
    });
    let router = router(shared.clone());
    let sockets_max = shared.config.connections_max + SOCKETS_EXTRA;
    let sockets = Arc::new(tokio::sync::Semaphore::new(sockets_max.min(tokio::sync::Semaphore::MAX_PERMITS)));
    let outcome = loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break Ok(()),
            ended = &mut following => {
                let why = ended.map_or_else(|error| error.to_string(), |()| "it follows the log no more".to_owned());
                break Err(GatewayError::Ended(why));
            }
            accepted = accept(&listener) => accepted,
        };
        let (stream, address) = accepted;
        // Past the limit a socket is closed unheard: answering it would cost what is short.
        let Ok(place) = sockets.clone().try_acquire_owned() else {
            shared.metrics.connections_refused.inc();
            continue;
        };
        let (router, shared) = (router.clone(), shared.clone());
        tasks.spawn(async move {
            connection(stream, address, router, shared).await;
            drop(place);
        });
    };
    drop(listener);
    shared.stop.cancel();
    tasks.close();
    if tokio::time::timeout(stop_max, tasks.wait()).await.is_err() {
        warn!(connections = tasks.len(), "connections were still open when the gateway stopped");
    }
    hub_stop.cancel();
    // Both have handles on the stores, which another server of this process may open next.
    if tokio::time::timeout(END_MAX, hubs.wait()).await.is_err() {
        warn!("the hub was still at work when the gateway stopped");
    }
    shared.queries.end(END_MAX).await;
    outcome
}

/// The next connection. An error of `accept` (too many open files) passes; it is tried again.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    const PAUSE: Duration = Duration::from_millis(100);
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(reason) => {
                warn!(%reason, "a connection can't be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(mut stream: TcpStream, address: SocketAddr, router: Router, shared: Arc<Shared>) {
    let mut peer = address.ip().to_canonical();
    let mut read_ahead = Vec::new();
    if proxies::is_trusted(&shared.config.trusted_proxies, peer) {
        match proxies::read_head(&mut stream).await {
            Ok((client, ahead)) => (peer, read_ahead) = (client.unwrap_or(peer), ahead),
            Err(reason) => {
                debug!(%address, %reason, "a proxy's connection is dropped");
                return;
            }
        }
    }
    let ties = Ties::default();
    let router = router.layer(axum::Extension(Peer(peer))).layer(axum::Extension(ties.clone()));
    let socket = Socket::new(stream, read_ahead, shared.config.stall_max, ties.clone());
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router))
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let mut is_stopping = false;
    let served = loop {
        tokio::select! {
            served = &mut serving => break served,
            () = shared.stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                serving.as_mut().graceful_shutdown();
            }
            () = ties.cut.cancelled() => {
                serving.as_mut().graceful_shutdown();
                break tokio::time::timeout(LINGER_MAX, &mut serving).await.unwrap_or(Ok(()));
            }
        }
    };
    // A stream counts its end itself.
    if ties.has_stalled() && !ties.streams() {
        shared.metrics.stalled_readers.inc();
    }
    if let Err(reason) = served {
        debug!(%address, %reason, "a connection broke off");
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let api = Router::new()
        .route("/v2/stocks/{what}", get(rest::many))
        .route("/v2/stocks/{first}/{second}", get(rest::one_or_latest))
        .route("/v2/stocks/{symbol}/{what}/latest", get(rest::one_latest))
        .route("/v1/history", get(rest::history))
        .route("/v1/coverage", get(coverage::coverage))
        .route("/v1/symbols", get(rest::symbols))
        .layer(middleware::from_fn_with_state(shared.clone(), bounded))
        .route("/v2/{feed}/sse", get(event_stream))
        .route("/v1/status", get(status::status))
        .layer(middleware::from_fn_with_state(shared.clone(), authorize));
    Router::new()
        .route("/v2/{feed}", get(websocket))
        .route("/", get(status::board))
        .route("/healthz", get(operations::healthz))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::prometheus))
        .merge(api)
        .fallback(rest::fallback)
        .layer(middleware::from_fn_with_state(shared.clone(), count_errors))
        .with_state(shared.clone())
        .merge(shared.operations.admin_routes())
        .layer(middleware::from_fn_with_state(shared, name_client))
}

/// The answer to a request that can't be served for `reason`, for as long as the server is closed: each kind of
/// client gets the one after which it tries again.
pub(in crate::server) fn closed(request: &Request, reason: &str, retry_after_s: u32) -> Response {
    let path = request.uri().path();
    let is_rest =
        path.starts_with("/v2/stocks/") || ["/v1/history", "/v1/coverage", "/v1/symbols"].contains(&path);
    if path.starts_with("/v2/") && path.ends_with("/sse") {
        sse::refused(reason)
    } else if is_rest {
        ApiError::busy(reason, retry_after_s).into_response()
    } else {
        ApiError::unavailable(reason, retry_after_s).into_response()
    }
}

/// Finds the client's address, where trusted proxies name it.
async fn name_client(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    if let Some(Peer(peer)) = request.extensions().get::<Peer>().copied() {
        let client = proxies::client(&shared.config.trusted_proxies, peer, request.headers());
        request.extensions_mut().insert(Peer(client));
    }
    next.run(request).await
}

/// Whether a path asks for rows of the past, and not for the last of each symbol.
fn asks_history(path: &str) -> bool {
    let is_latest = ["/latest", "/snapshot", "/snapshots"].iter().any(|end| path.ends_with(end));
    matches!(path, "/v1/history" | "/v1/coverage") || (path.starts_with("/v2/stocks/") && !is_latest)
}

/// Bounds what an answer takes: a query of history has a place and threads of its own, and other
/// answers count among all that waits for clients.
async fn bounded(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if !asks_history(request.uri().path()) {
        if shared.budget.is_full_of_answers() {
            return ApiError::busy("too much of other answers waits for its readers", 1).into_response();
        }
        let response = next.run(request).await;
        let budget = shared.budget.clone();
        return queries::map_body(response, move |bytes| budget.hold_answer(bytes));
    }
    let Some(asker) = asker(&request) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let cut = request.extensions().get::<Ties>().map(|ties| ties.cut.clone()).unwrap_or_default();
    let pace = Pace { window: shared.config.stall_max, cut };
    let merge_bytes = shared.history.as_ref().zip(rest::rows_asked(request.uri()));
    let merge_bytes = merge_bytes.map_or(0, |(history, rows)| history.tiers().merge_bytes(&rows));
    match shared.queries.enter(&asker, Purpose::Answer, merge_bytes).await {
        Ok(place) => shared.queries.answer(place, pace, next.run(request)).await,
        Err(busy) => ApiError::busy(busy.to_string(), busy.retry_after_s).into_response(),
    }
}

/// Who sent a request, as far as limits tell clients apart.
fn asker(request: &Request) -> Option<Asker> {
    let Peer(address) = *request.extensions().get::<Peer>()?;
    let key = request.extensions().get::<Proven>().map(|Proven(id)| id.clone());
    Some(Asker { address, key })
}

async fn count_errors(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.status().is_client_error() || response.status().is_server_error() {
        shared.metrics.rest_errors.inc();
    }
    response
}

/// Lets a request through if it shows a key, where keys are needed.
async fn authorize(
    State(shared): State<Arc<Shared>>,
    parameters: Parameters,
    mut request: Request,
    next: Next,
) -> Response {
    if shared.config.keys.is_empty() {
        return next.run(request).await;
    }
    let shown = shown_key(request.headers(), &parameters.0);
    let is_good = shown.as_ref().is_some_and(|key| is_allowed(&shared.config.keys, key));
    if let (Some(key), Some(Peer(address))) = (shown, request.extensions().get::<Peer>().copied()) {
        if is_good {
            request.extensions_mut().insert(Proven(key.id));
            return next.run(request).await;
        }
        shared.metrics.auth_failures.inc();
        let Some(refusal) = shared.failures.count(address, &key.id) else {
            shared.metrics.handshakes_limited.inc();
            return too_many().into_response();
        };
        drop(request);
        tokio::select! {
            () = tokio::time::sleep(refusal.delay) => {}
            () = shared.stop.cancelled() => {}
        }
    }
    ApiError::new(StatusCode::UNAUTHORIZED, "request is not authorized").into_response()
}

/// The answer to more handshakes, or wrong keys, than an address may have.
fn too_many() -> ApiError {
    ApiError::busy(TOO_MANY_ATTEMPTS, 1)
}

async fn event_stream(
    State(shared): State<Arc<Shared>>,
    Path(feed): Path<String>,
    axum::Extension(ties): axum::Extension<Ties>,
    parameters: Parameters,
    request: Request,
) -> Result<Response, ApiError> {
    let asked = sse::Asked::parse(&parameters, request.headers())?;
    let gauge = shared.metrics.event_streams.clone();
    let Some(asker) = asker(&request) else {
        return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "no address"));
    };
    // Who has shown a good key is not held up by what others at its address do.
    if asker.key.is_none() && !shared.handshakes.allow(asker.address) {
        shared.metrics.handshakes_limited.inc();
        return Ok(sse::refused(TOO_MANY_ATTEMPTS));
    }
    let Some(streaming) = shared.streaming(&gauge) else {
        return Ok(sse::refused("too many connections to this server"));
    };
    Ok(sse::serve(shared, Feed::named(&feed), asked, asker, streaming, ties))
}

/// The subprotocols spoken, by the client's order of preference.
fn subprotocol(headers: &HeaderMap) -> Option<(&'static str, Encoding)> {
    let known = [("stk.v1.json", Encoding::Json), ("stk.v1.msgpack", Encoding::MsgPack)];
    let offered =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let mut offered = offered.flat_map(|value| value.split(',')).map(str::trim);
    offered.find_map(|offered| known.into_iter().find(|(name, _)| *name == offered))
}

/// Alpaca's clients name their encoding in the head of the upgrade.
fn content_encoding(headers: &HeaderMap) -> Encoding {
    match headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
        Some(value) if value.starts_with("application/msgpack") => Encoding::MsgPack,
        _ => Encoding::Json,
    }
}

async fn websocket(
    State(shared): State<Arc<Shared>>,
    Path(feed): Path<String>,
    request: Request,
) -> Result<Response, Response> {
    let (mut parts, body) = request.into_parts();
    let Some(Peer(address)) = parts.extensions.get::<Peer>().copied() else {
        return Err(StatusCode::INTERNAL_SERVER_ERROR.into_response());
    };
    let parameters =
        Parameters::from_request_parts(&mut parts, &()).await.map_err(IntoResponse::into_response)?;
    // What to stream is said in messages: here it would be dropped.
    parameters.only(&[]).map_err(IntoResponse::into_response)?;
    let key = accept_key(&parts.headers).map_err(IntoResponse::into_response)?;
    let shown = shown_key(&parts.headers, &parameters.0);
    let has_keys = !shared.config.keys.is_empty();
    let is_good = shown.as_ref().is_some_and(|key| is_allowed(&shared.config.keys, key));
    let unproven = (has_keys && !is_good).then(|| shared.unproven.enter(address));
    let is_over = unproven.as_ref().is_some_and(Option::is_none);
    if is_over || (!has_keys && !shared.handshakes.allow(address)) {
        shared.metrics.handshakes_limited.inc();
        return Err(too_many().into_response());
    }
    let Some(streaming) = shared.streaming(&shared.metrics.websockets) else {
        return Err(ApiError::unavailable("connection limit exceeded", CONNECTIONS_RETRY_S).into_response());
    };
    let chosen = subprotocol(&parts.headers);
    let encoding = chosen.map_or_else(|| content_encoding(&parts.headers), |(_, encoding)| encoding);
    let opened =
        ws::Opened { feed: Feed::named(&feed), encoding, address, key: shown, unproven: unproven.flatten() };
    let mut request = Request::from_parts(parts, body);
    let upgrade = hyper::upgrade::on(&mut request);
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        let _streaming = streaming;
        let Ok(upgraded) = upgrade.await else { return };
        // `connection` serves these alone.
        let Ok(parts) = upgraded.downcast::<TokioIo<Socket>>() else { return };
        ws::serve(shared, opened, parts.io.into_inner().into_inner(), &parts.read_buf).await;
    });
    Ok(switching(&key, chosen.map(|(name, _)| name)))
}

/// Checks that a request is an upgrade (RFC 6455, 4.2.1) and makes the answer to its key.
// The error is the answer that goes out.
#[allow(clippy::result_large_err)]
fn accept_key(headers: &HeaderMap) -> Result<String, (HeaderMap, ApiError)> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let has = |name, token: &str| {
        text(name).is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    let mut answer = HeaderMap::new();
    if !has(header::UPGRADE, "websocket") || !has(header::CONNECTION, "upgrade") {
        answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let message = "this is a WebSocket endpoint; for plain HTTP add /sse to the path";
        return Err((answer, ApiError::new(StatusCode::UPGRADE_REQUIRED, message)));
    }
    answer.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    if text(header::SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err((answer, ApiError::new(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is spoken")));
    }
    match text(header::SEC_WEBSOCKET_KEY) {
        Some(key) => Ok(tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes())),
        None => Err((answer, ApiError::invalid("sec-websocket-key is missing"))),
    }
}

fn switching(accept: &str, subprotocol: Option<&'static str>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(name) = subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    response
}
