//! The gateway: from the log to clients, over WebSocket, SSE and REST.
//!
//! `hub` reads the log's tail and hands out frames; `ws` and `sse` carry them to clients;
//! `replay` brings a client from the past to now; `rest` answers single questions. Nothing here
//! writes to a store or waits for one on the way of a live tick.

mod amend;
mod bars;
pub mod bench;
mod fanout;
mod frame;
mod hub;
mod limits;
mod memory_bus;
mod outbox;
mod protocol;
mod replay;
mod rest;
mod snapshot;
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

pub use self::hub::HubError;
use self::hub::{Hub, HubLimits};
pub use self::limits::{ClientKey, HandshakeLimit};
use self::limits::{Handshakes, is_allowed, shown_key};
pub use self::memory_bus::MemoryBus;
use self::protocol::Encoding;
use self::replay::Past;
use self::rest::{ApiError, Parameters};
use super::metrics::GatewayMetrics;
use super::operations::{self, Operations};
use crate::bus::Bus;
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
    /// Symbols that one connection may name, over all channels.
    pub symbols_max: usize,
    /// Bytes of the log's tail that are kept in memory for clients that come back.
    pub ring_bytes_max: usize,
    /// How often one address may connect.
    pub handshakes: HandshakeLimit,
    /// How long a stop waits for clients to take what is queued.
    pub stop_max: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            connections_max: 10_000,
            queue_bytes_max: 8 << 20,
            symbols_max: 30_000,
            ring_bytes_max: 32 << 20,
            handshakes: HandshakeLimit { burst: 2_000, period: Duration::from_millis(20) },
            stop_max: Duration::from_secs(5),
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

    /// The past of a feed; the test feed has only what its log holds.
    fn past(&self, feed: Feed) -> Past {
        let history = self.history.clone().filter(|_| feed == Feed::Log);
        Past { hot: self.hot.clone(), history }
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
struct Peer(IpAddr);

const TEST_RING_BYTES: usize = 1 << 20;
/// How long a client may take over the head of a request.
const HEAD_MAX: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 64 * 1024;
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
    let limits = HubLimits {
        ring_bytes_max: config.ring_bytes_max,
        round_bytes_max: config.queue_bytes_max / 4,
        rebuilds: history.is_some(),
    };
    let starting = Hub::start(bus, warm, own_hot, limits, metrics.clone());
    let (hub, readers) = tokio::select! {
        started = starting => started?,
        () = &mut stop => return Ok(()),
    };
    let test_bus = Arc::new(MemoryBus::new(1, test_feed::RECORDS_MAX));
    let test_limits = HubLimits { ring_bytes_max: TEST_RING_BYTES, rebuilds: false, ..limits };
    let (test_hub, test_readers) =
        Hub::start(test_bus.clone(), None, None, test_limits, GatewayMetrics::default()).await?;
    let (hub_stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let mut following = tokio::spawn(hub.clone().run(readers, hub_stop.clone()));
    tokio::spawn(test_hub.clone().run(test_readers, hub_stop.clone()));
    tokio::spawn(test_feed::run(test_bus, hub_stop.clone()));
    if let Some(history) = history.clone() {
        tokio::spawn(amend::run(hub.clone(), history, hub_stop.clone()));
    }
    let stop_max = config.stop_max;
    let shared = Arc::new(Shared {
        hub,
        test_hub,
        hot,
        history,
        handshakes: Handshakes::new(config.handshakes),
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
        let (router, stop) = (router.clone(), shared.stop.clone());
        tasks.spawn(async move {
            connection(stream, address, router, stop).await;
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

async fn connection(stream: TcpStream, address: SocketAddr, router: Router, stop: CancellationToken) {
    if let Err(reason) = stream.set_nodelay(true) {
        debug!(%reason, "a socket can't be told not to wait");
    }
    let peer = Peer(address.ip().to_canonical());
    let service = TowerToHyperService::new(router.layer(axum::Extension(peer)));
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(reason) = served {
        debug!(%address, %reason, "a connection broke off");
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let api = Router::new()
        .route("/v2/{feed}/sse", get(event_stream))
        .route("/v2/stocks/{what}", get(rest::many))
        .route("/v2/stocks/{first}/{second}", get(rest::one_or_latest))
        .route("/v2/stocks/{symbol}/{what}/latest", get(rest::one_latest))
        .route("/v1/history", get(rest::history))
        .route("/v1/symbols", get(rest::symbols))
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
        .with_state(shared)
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
    request: Request,
    next: Next,
) -> Response {
    if shared.config.keys.is_empty() {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Peer>().copied();
    let shown = shown_key(request.headers(), &parameters.0);
    if shown.as_ref().is_some_and(|key| is_allowed(&shared.config.keys, key)) {
        return next.run(request).await;
    }
    if let (Some(_), Some(Peer(address))) = (shown, peer) {
        shared.metrics.auth_failures.inc();
        if !shared.handshakes.allow(address) {
            shared.metrics.handshakes_limited.inc();
            return too_many().into_response();
        }
        shared.handshakes.wrong_key(address);
    }
    ApiError::new(StatusCode::UNAUTHORIZED, "request is not authorized").into_response()
}

fn too_many() -> (HeaderMap, ApiError) {
    let mut headers = HeaderMap::new();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    (headers, ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too many connections from this address"))
}

async fn event_stream(
    State(shared): State<Arc<Shared>>,
    Path(feed): Path<String>,
    axum::Extension(Peer(address)): axum::Extension<Peer>,
    parameters: Parameters,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = sse::Asked::parse(&parameters, &headers)?;
    let gauge = shared.metrics.event_streams.clone();
    if !shared.handshakes.allow(address) {
        shared.metrics.handshakes_limited.inc();
        return Ok(sse::overloaded());
    }
    let Some(streaming) = shared.streaming(&gauge) else { return Ok(sse::overloaded()) };
    Ok(sse::serve(shared, Feed::named(&feed), asked, streaming))
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
    let key = accept_key(&parts.headers).map_err(IntoResponse::into_response)?;
    if !shared.handshakes.allow(address) {
        shared.metrics.handshakes_limited.inc();
        return Err(too_many().into_response());
    }
    let Some(streaming) = shared.streaming(&shared.metrics.websockets) else {
        let message = "connection limit exceeded";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response());
    };
    let chosen = subprotocol(&parts.headers);
    let encoding = chosen.map_or_else(|| content_encoding(&parts.headers), |(_, encoding)| encoding);
    let opened = ws::Opened {
        feed: Feed::named(&feed),
        encoding,
        address,
        key: shown_key(&parts.headers, &parameters.0),
    };
    let mut request = Request::from_parts(parts, body);
    let upgrade = hyper::upgrade::on(&mut request);
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        let _streaming = streaming;
        let Ok(upgraded) = upgrade.await else { return };
        // `connection` serves TCP sockets alone.
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
        ws::serve(shared, opened, parts.io.into_inner(), &parts.read_buf).await;
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
