//! `POST /v1/admin`: operator commands on a running server.
//!
//! The body is an [`Order`] as JSON. The response is a [`Line`] of JSON at a time, the last one with
//! the answer. An order is carried out to its end even if its client goes away, on a thread for orders
//! alone, because it may decode days of rows: live streams and `/healthz` do not wait for it.
//!
//! Who may send one: a client that shows one of `server.admin_keys`. Without any, and without
//! `server.keys`, a client on the same machine. A proxy on this machine makes every client look local,
//! so a request that came through one, or that names the server by another name, needs a key.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures_util::{FutureExt, stream};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Admin, Answer, Cause, Heard, Order, Refusal, Tell};
use crate::server::gateway::{ApiError, ClientKey, Failures, Peer, is_allowed, shown_key, yield_to_streams};
use crate::tiering::{archive, audit};

/// Orders that are carried out at once. Each may read a whole log or archive.
const ORDERS_MAX: usize = 4;

/// When a client whose order is refused is asked to try again, in seconds.
const RETRY_AFTER_S: u32 = 5;

/// Threads on which orders read and write files.
const BLOCKING_THREADS_MAX: usize = 4;

/// Lines that may wait for a client. Beyond it, progress is left out.
const LINES_MAX: usize = 4_096;

/// How often a client hears that the server is still at work.
const ALIVE_PERIOD: Duration = Duration::from_secs(10);

/// Headers by which proxies say that they forward a request.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// A line of a response.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The server is still at work.
    Alive,
    /// Progress.
    Heard(Heard),
    /// The last line of an order that succeeded.
    Answer(Answer),
    /// The last line of an order that failed.
    Refused(Refusal),
}

/// What operator commands count.
#[derive(Clone, Debug, Default)]
pub struct AdminMetrics {
    running: Gauge,
    orders: Counter,
    refused: Counter,
}

impl AdminMetrics {
    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "admin_orders_running",
            "Operator commands being carried out",
            self.running.clone(),
        );
        registry.register("admin_orders", "Operator commands accepted", self.orders.clone());
        registry.register("admin_refusals", "Operator commands refused", self.refused.clone());
    }
}

/// What `/v1/admin` needs.
pub struct Door {
    admin: Arc<Admin>,
    /// The keys that may send orders.
    keys: Vec<ClientKey>,
    /// Whether a client on this machine needs no key.
    is_open_to_local: bool,
    failures: Arc<Failures>,
    places: Arc<Semaphore>,
    /// Where orders are carried out; taken when it is dropped.
    runtime: Option<Runtime>,
    tasks: TaskTracker,
    stop: CancellationToken,
    metrics: AdminMetrics,
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // It may be dropped on a runtime's thread, where nothing may block.
            runtime.shutdown_background();
        }
    }
}

impl Door {
    pub(in crate::server) fn new(
        admin: Admin,
        keys: Vec<ClientKey>,
        is_open_to_local: bool,
        metrics: AdminMetrics,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("stk-admin")
            .on_thread_start(yield_to_streams)
            .enable_all()
            .build()?;
        Ok(Self {
            runtime: Some(runtime),
            admin: Arc::new(admin),
            keys,
            is_open_to_local,
            failures: Failures::new(),
            places: Arc::new(Semaphore::new(ORDERS_MAX)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            metrics,
        })
    }

    /// Runs `work` on the thread for orders.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        // It is taken by the drop alone.
        if let Some(runtime) = &self.runtime {
            self.tasks.spawn_on(work, runtime.handle());
        }
    }

    /// Interrupts the orders being carried out, and waits until they have let go of the stores.
    pub(in crate::server) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The endpoint.
pub(in crate::server) fn router(door: Arc<Door>) -> Router {
    Router::new().route("/v1/admin", post(take)).with_state(door)
}

async fn take(State(door): State<Arc<Door>>, request: Request) -> Response {
    let taken = async {
        if let Err(denied) = authorize(&door, &request) {
            drop(request);
            return Err(denied.told(&door).await);
        }
        // A browser can't send this content type to another site without asking first.
        let Json(order) = Json::<Order>::from_request(request, &()).await.map_err(unreadable)?;
        let place = door.places.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{ORDERS_MAX} operator commands are running already: try again later");
            ApiError::unavailable(message, RETRY_AFTER_S)
        })?;
        if door.stop.is_cancelled() {
            return Err(ApiError::unavailable("the server is stopping", RETRY_AFTER_S));
        }
        Ok(start(&door, order, place))
    };
    match taken.await {
        Ok(outbox) => {
            door.metrics.orders.inc();
            let lines = stream::unfold(outbox, |outbox| async move {
                let line = outbox.next().await?;
                let mut text = serde_json::to_string(&line).unwrap_or_default();
                text.push('\n');
                Some((Ok::<_, Infallible>(text), outbox))
            });
            ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response()
        }
        Err(error) => {
            door.metrics.refused.inc();
            error.into_response()
        }
    }
}

fn unreadable(rejection: JsonRejection) -> ApiError {
    ApiError::new(rejection.status(), rejection.body_text())
}

/// Why a client may not send orders.
struct Denied {
    error: ApiError,
    /// Where the client showed a wrong key: its address, and the key's id.
    wrong_key: Option<(IpAddr, String)>,
}

impl Denied {
    fn new(status: StatusCode, message: &str) -> Self {
        Self { error: ApiError::new(status, message), wrong_key: None }
    }

    /// The error. It is late where wrong keys are tried again and again.
    async fn told(self, door: &Door) -> ApiError {
        let Some((address, key_id)) = self.wrong_key else { return self.error };
        let Some(refusal) = door.failures.count(address, &key_id) else {
            return ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong keys from this address");
        };
        tokio::select! {
            () = tokio::time::sleep(refusal.delay) => {}
            () = door.stop.cancelled() => {}
        }
        self.error
    }
}

fn authorize(door: &Door, request: &Request) -> Result<(), Denied> {
    let parts = request.extensions();
    let connected = parts.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
    let peer = parts.get::<Peer>().map(|Peer(address)| *address).or(connected);
    let Some(peer) = peer.map(|address| address.to_canonical()) else {
        return Err(Denied::new(StatusCode::INTERNAL_SERVER_ERROR, "the client's address is unknown"));
    };
    if !door.keys.is_empty() {
        let message = "operator commands need one of server.admin_keys";
        let denied = Denied::new(StatusCode::UNAUTHORIZED, message);
        return match shown_key(request.headers(), &[]) {
            Some(key) if is_allowed(&door.keys, &key) => Ok(()),
            shown => Err(Denied { wrong_key: shown.map(|key| (peer, key.id)), ..denied }),
        };
    }
    if !door.is_open_to_local {
        let message = "operator commands need a key: the server has server.keys and no server.admin_keys";
        return Err(Denied::new(StatusCode::FORBIDDEN, message));
    }
    if peer.is_loopback() && is_direct(request.headers()) {
        return Ok(());
    }
    let message = "without server.admin_keys, operator commands are accepted from the server's own machine only, \
                   at a loopback address such as 127.0.0.1";
    Err(Denied::new(StatusCode::FORBIDDEN, message))
}

/// Whether a local client addressed this server itself: through no proxy, and by no name that a web
/// page could have pointed here.
fn is_direct(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(|host| host.parse::<axum::http::uri::Authority>().ok());
    let is_local = host.is_some_and(|authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    });
    is_local && !FORWARDED.iter().any(|name| headers.contains_key(*name))
}

/// Starts `order`; its lines come out of what is returned.
fn start(door: &Arc<Door>, order: Order, place: OwnedSemaphorePermit) -> Arc<Outbox> {
    let outbox = Arc::new(Outbox::default());
    let (told, at) = (outbox.clone(), door);
    let door = door.clone();
    at.spawn(async move {
        tracing::info!(?order, "an operator command begins");
        door.metrics.running.inc();
        let heard = told.clone();
        let tell: Tell = Arc::new(move |line| heard.push(line));
        // A panic is an end like others: the client waits for one.
        let performed = AssertUnwindSafe(door.admin.perform(order, &tell)).catch_unwind();
        let done = tokio::select! {
            done = performed => done.unwrap_or_else(|_| {
                Err(Refusal::new(Cause::Other, "the command panicked; the server's log says where"))
            }),
            () = door.stop.cancelled() => {
                Err(Refusal::new(Cause::Stopping, "the server is stopping: the command was interrupted"))
            }
        };
        door.metrics.running.dec();
        drop(place);
        match &done {
            Ok(_) => tracing::info!("an operator command is done"),
            Err(refusal) => tracing::warn!(reason = %refusal, "an operator command failed"),
        }
        told.finish(match done {
            Ok(answer) => Line::Answer(answer),
            Err(refusal) => Line::Refused(refusal),
        });
    });
    outbox
}

/// Lines that wait for a client. Never delays who fills it.
#[derive(Default)]
struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Heard>,
    last: Option<Line>,
    is_over: bool,
}

impl Outbox {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, heard: Heard) {
        let mut waiting = self.waiting();
        let is_merged = waiting.lines.back_mut().is_some_and(|last| merge(last, &heard));
        if !is_merged && waiting.lines.len() < LINES_MAX {
            waiting.lines.push_back(heard);
        }
        drop(waiting);
        self.changed.notify_one();
    }

    fn finish(&self, line: Line) {
        self.waiting().last = Some(line);
        self.changed.notify_one();
    }

    /// The next line; none after the last one.
    async fn next(&self) -> Option<Line> {
        loop {
            {
                let mut waiting = self.waiting();
                if waiting.is_over {
                    return None;
                }
                if let Some(heard) = waiting.lines.pop_front() {
                    return Some(Line::Heard(heard));
                }
                if let Some(last) = waiting.last.take() {
                    waiting.is_over = true;
                    return Some(last);
                }
            }
            if tokio::time::timeout(ALIVE_PERIOD, self.changed.notified()).await.is_err() {
                return Some(Line::Alive);
            }
        }
    }
}

/// Adds `heard` to the line before it, where both count the same.
fn merge(last: &mut Heard, heard: &Heard) -> bool {
    use archive::Event::{ReadBack, Written};
    match (last, heard) {
        (Heard::Archive(Written { rows }), Heard::Archive(Written { rows: more }))
        | (Heard::Archive(ReadBack { rows }), Heard::Archive(ReadBack { rows: more })) => *rows += more,
        (last @ Heard::Audit(audit::Event::Log { .. }), Heard::Audit(audit::Event::Log { .. })) => {
            *last = heard.clone();
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_direct_local_request_is_direct() {
        let direct = |host: &str, more: &[&'static str]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            for name in more {
                headers.insert(*name, "192.0.2.1".parse().unwrap());
            }
            is_direct(&headers)
        };
        for host in ["127.0.0.1:7878", "localhost:7878", "[::1]:7878", "localhost"] {
            assert!(direct(host, &[]), "{host}");
            assert!(!direct(host, &["x-forwarded-for"]) && !direct(host, &["via"]), "{host}");
        }
        for host in ["prices.example", "192.0.2.1:7878", "127.0.0.1.example:80", "user@prices.example"] {
            assert!(!direct(host, &[]), "{host}");
        }
        assert!(!is_direct(&HeaderMap::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_merged_and_the_answer_always_arrives() {
        let outbox = Outbox::default();
        let written = |rows| Heard::Archive(archive::Event::Written { rows });
        outbox.push(written(3));
        outbox.push(written(4));
        let merged = outbox.next().await;
        assert!(matches!(merged, Some(Line::Heard(Heard::Archive(archive::Event::Written { rows: 7 })))));
        assert!(matches!(outbox.next().await, Some(Line::Alive)), "nothing happened for a while");
        for _ in 0..LINES_MAX + 10 {
            outbox.push(Heard::Requested);
        }
        outbox.finish(Line::Answer(Answer::Requested(1)));
        for _ in 0..LINES_MAX {
            assert!(matches!(outbox.next().await, Some(Line::Heard(Heard::Requested))));
        }
        assert!(matches!(outbox.next().await, Some(Line::Answer(Answer::Requested(1)))));
        assert!(outbox.next().await.is_none());
    }

    /// On this runtime, with its one thread, the test would wait for ever.
    #[tokio::test]
    async fn an_order_that_never_pauses_delays_nobody() {
        use crate::tiering::archive::read::ArchiveReader;
        use crate::tiering::cold::dir::DirCold;
        let dir = tempfile::tempdir().unwrap();
        let cold = Arc::new(DirCold::open(dir.path()).unwrap());
        let admin = Admin::of_archive(Arc::new(ArchiveReader::new(cold)));
        let door = Door::new(admin, Vec::new(), true, AdminMetrics::default()).unwrap();
        let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
        door.spawn(async move { may_go_on.recv().unwrap() });
        tokio::task::yield_now().await;
        go_on.send(()).unwrap();
        door.stop().await;
    }

    #[test]
    fn an_order_is_plain_json() {
        let read = |text| serde_json::from_str::<Order>(text);
        let order = read(r#"{"order":"archive_run","before":"2025-01-03","kinds":["trade"]}"#).unwrap();
        assert!(matches!(order, Order::ArchiveRun(run) if run.before.is_some() && run.kinds.len() == 1));
        assert!(matches!(read(r#"{"order":"audit"}"#).unwrap(), Order::Audit(_)));
        assert!(read(r#"{"order":"audit","form":"2025-01-03"}"#).is_err(), "a wrong name is refused");
    }
}
