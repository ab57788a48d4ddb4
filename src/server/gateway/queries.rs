//! Queries of the past: threads of their own, so that no live stream waits for rows to be decoded, and
//! bounds on how many run at once and on the memory of all their answers together.
//!
//! A query waits in line for a moment before it is refused. It counts as running until its last byte
//! is produced. Its client's place and the memory of what is left to send are kept until the bytes
//! have left for the socket, because [`Bytes`] hold them.

use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::header;
use axum::http::response::Parts;
use axum::response::Response;
use bytes::Bytes;
use foldhash::HashMap;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use prometheus_client::metrics::gauge::Gauge;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::server::metrics::GatewayMetrics;

/// Memory is handed out in units of this many bytes.
const UNIT_BYTES: usize = 64 << 10;
/// Bytes of one answer that may wait for its reader.
const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// Bytes that a client must take of an answer or a replay within the time in which it may not take nothing,
/// as long as so much waits for it: it has a place that others may wait for.
pub(super) const PROGRESS_BYTES_MIN: usize = 128 << 10;
/// Bytes of an answer that are handed to the connection in one piece, and counted once they have left.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// How long an answer that breaks off waits for its reader to take what came before.
const LAST_BYTES_WAIT_MAX: Duration = Duration::from_secs(5);
/// The time between two looks at what the reader has taken.
const LAST_BYTES_LOOK: Duration = Duration::from_millis(50);
/// Clients whose places are remembered before those at rest are forgotten.
const CLIENTS_MAX: usize = 1_024;
/// For each query that may run, this many more requests may wait in line.
const WAITING_PER_QUERY: usize = 4;

/// What queries of the past may take.
#[derive(Clone, Copy, Debug)]
pub struct QueryLimits {
    /// Queries that run at once.
    pub queries_max: usize,
    /// Of them, those of one key and those of one address.
    pub per_client_max: usize,
    /// Bytes of memory for all answers together.
    pub bytes_max: usize,
    /// How long a request waits for its turn before it is refused.
    pub wait_max: Duration,
    /// How long a replay of a stream waits for its turn before it is refused.
    pub replay_wait_max: Duration,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            queries_max: 16,
            per_client_max: 8,
            bytes_max: 512 << 20,
            wait_max: Duration::from_secs(2),
            replay_wait_max: Duration::from_mins(1),
        }
    }
}

/// What a query is for, which decides how much memory it needs and how long it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// An answer over HTTP.
    Answer,
    /// A replay that reads the log.
    LogReplay,
    /// A replay that reads several kinds of rows from history.
    HistoryReplay,
}

impl Purpose {
    /// The most memory that it takes while it runs.
    const fn bytes_max(self) -> usize {
        match self {
            Self::Answer => 32 << 20,
            Self::LogReplay => 8 << 20,
            Self::HistoryReplay => 64 << 20,
        }
    }
}

/// Who asks: the bounds hold for each key and for each address.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) address: IpAddr,
    /// The key, where keys are needed.
    pub(super) key: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Client {
    Address(IpAddr),
    Key(String),
}

/// There was no place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many queries of history at once; ask again in {retry_after_s} s")]
pub(super) struct Busy {
    /// When to ask again, in seconds.
    pub(super) retry_after_s: u32,
}

const BUSY: Busy = Busy { retry_after_s: 2 };

/// The threads and the places.
pub(super) struct Queries {
    limits: QueryLimits,
    /// Taken at the end.
    runtime: Mutex<Option<Runtime>>,
    handle: Handle,
    running: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    clients: Mutex<HashMap<Client, Arc<Semaphore>>>,
    waiting: AtomicUsize,
    metrics: GatewayMetrics,
}

/// A query's place. The longest-lived part is the memory.
pub(super) struct Place {
    running: Option<(OwnedSemaphorePermit, Counted)>,
    memory: OwnedSemaphorePermit,
    bytes: Counted,
    _clients: Vec<OwnedSemaphorePermit>,
    /// Watches over how fast the answer is taken.
    watch: Option<AbortOnDropHandle<()>>,
}

/// How fast an answer has to be taken.
pub(super) struct Pace {
    /// In each such time a part of what waits has to leave.
    pub(super) window: Duration,
    /// Ends the connection.
    pub(super) cut: CancellationToken,
}

/// Bytes of an answer on their way to its reader.
#[derive(Default)]
struct Flow {
    waiting: AtomicUsize,
    left: AtomicUsize,
}

impl Flow {
    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Returns once a window has passed in which the reader took too little of what waited for it.
    async fn falls_behind(&self, window: Duration) {
        loop {
            let (waiting, left) = (self.waiting(), self.left.load(Ordering::Relaxed));
            tokio::time::sleep(window).await;
            let taken = self.left.load(Ordering::Relaxed) - left;
            if taken < waiting.min(PROGRESS_BYTES_MIN) {
                return;
            }
        }
    }
}

/// What a gauge was raised by, and is lowered by again.
struct Counted {
    gauge: Gauge<i64, std::sync::atomic::AtomicI64>,
    amount: i64,
}

impl Counted {
    fn new(gauge: &Gauge<i64, std::sync::atomic::AtomicI64>, amount: usize) -> Self {
        let amount = amount as i64;
        gauge.inc_by(amount);
        Self { gauge: gauge.clone(), amount }
    }

    fn lower_to(&mut self, amount: usize) {
        let less = self.amount - (amount as i64).min(self.amount);
        self.gauge.dec_by(less);
        self.amount -= less;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.dec_by(self.amount);
    }
}

impl Place {
    /// Ends the query: what is left of it is `bytes` that wait to be sent.
    fn finish(&mut self, bytes: usize) {
        self.running = None;
        let units = bytes.div_ceil(UNIT_BYTES);
        if let Some(surplus) = self.memory.num_permits().checked_sub(units) {
            drop(self.memory.split(surplus));
            self.bytes.lower_to(units * UNIT_BYTES);
        }
    }
}

/// A piece of an answer on its way to the socket: keeps the answer's place.
struct Piece {
    bytes: Bytes,
    flow: Arc<Flow>,
    _room: OwnedSemaphorePermit,
    _place: Arc<Mutex<Place>>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.flow.waiting.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        self.flow.left.fetch_add(self.bytes.len(), Ordering::Relaxed);
    }
}

impl Queries {
    /// Starts the threads: half as many as there are cores, so that streams have the rest.
    pub(super) fn start(limits: QueryLimits, metrics: GatewayMetrics) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = (cores / 2).max(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            // Files are read and rows formatted there.
            .max_blocking_threads(2 * workers)
            .thread_name("stk-history")
            .on_thread_start(yield_to_streams)
            .enable_all()
            .build()?;
        let units = (limits.bytes_max / UNIT_BYTES).clamp(1, u32::MAX as usize);
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Mutex::new(Some(runtime)),
            running: Arc::new(Semaphore::new(limits.queries_max)),
            memory: Arc::new(Semaphore::new(units)),
            clients: Mutex::default(),
            waiting: AtomicUsize::new(0),
            limits,
            metrics,
        })
    }

    /// Runs `work` on the threads of history; dropping the future ends the work.
    pub(super) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> BoxFuture<'static, T> {
        let task = AbortOnDropHandle::new(self.handle.spawn(work));
        Box::pin(async move {
            match task.await {
                Ok(value) => value,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                // The server has ended, and whoever waits ends with it.
                Err(_) => std::future::pending().await,
            }
        })
    }

    fn take_runtime(&self) -> Option<Runtime> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends all queries, and waits for those that are reading a file just now, for so long at most.
    pub(super) async fn end(&self, wait_max: Duration) {
        let Some(runtime) = self.take_runtime() else { return };
        // It waits, which an async thread must not.
        let _ = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(wait_max)).await;
    }

    /// Waits in line for a place. Requests over HTTP are refused at once where the line is too long;
    /// streams are bounded in number already.
    ///
    /// `merge_bytes` is what it takes beyond the memory that every query of that purpose may need.
    pub(super) async fn enter(
        &self,
        asker: &Asker,
        purpose: Purpose,
        merge_bytes: usize,
    ) -> Result<Place, Busy> {
        let bytes = purpose.bytes_max() + merge_bytes;
        if let Some(Ok(place)) = self.take(asker, bytes).now_or_never() {
            return Ok(place);
        }
        let (wait_max, waiting) = match purpose {
            Purpose::Answer => (self.limits.wait_max, Some(Waiting::new(&self.waiting))),
            Purpose::LogReplay | Purpose::HistoryReplay => (self.limits.replay_wait_max, None),
        };
        let waiting_max = WAITING_PER_QUERY * self.limits.queries_max;
        if waiting.as_ref().is_none_or(|waiting| waiting.before < waiting_max)
            && let Ok(Ok(place)) = tokio::time::timeout(wait_max, self.take(asker, bytes)).await
        {
            return Ok(place);
        }
        self.metrics.history_refused.inc();
        Err(BUSY)
    }

    async fn take(&self, asker: &Asker, bytes: usize) -> Result<Place, tokio::sync::AcquireError> {
        // Always in this order, so that two never wait for each other.
        let mut clients = Vec::new();
        let key = asker.key.clone().map(Client::Key);
        for client in [Client::Address(asker.address)].into_iter().chain(key) {
            clients.push(self.client(client).acquire_owned().await?);
        }
        let running = self.running.clone().acquire_owned().await?;
        let units = bytes.min(self.limits.bytes_max).div_ceil(UNIT_BYTES) as u32;
        let memory = self.memory.clone().acquire_many_owned(units.min(self.units())).await?;
        Ok(Place {
            running: Some((running, Counted::new(&self.metrics.history_queries, 1))),
            bytes: Counted::new(&self.metrics.history_bytes, memory.num_permits() * UNIT_BYTES),
            memory,
            _clients: clients,
            watch: None,
        })
    }

    fn units(&self) -> u32 {
        (self.limits.bytes_max / UNIT_BYTES).clamp(1, u32::MAX as usize) as u32
    }

    fn client(&self, client: Client) -> Arc<Semaphore> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS_MAX {
            clients.retain(|_, places| Arc::strong_count(places) > 1);
        }
        let places = || Arc::new(Semaphore::new(self.limits.per_client_max));
        clients.entry(client).or_insert_with(places).clone()
    }

    /// Has `asked` answered on the threads of history, and its body made there too. The body is at
    /// most so far ahead of its reader as an answer may be. A reader that does not keep `pace` is cut off.
    pub(super) async fn answer(
        &self,
        mut place: Place,
        pace: Pace,
        asked: impl Future<Output = Response> + Send + 'static,
    ) -> Response {
        let (head_sender, head) = oneshot::channel();
        let flow = Arc::new(Flow::default());
        let (watched, metrics) = (flow.clone(), self.metrics.clone());
        place.watch = Some(AbortOnDropHandle::new(self.handle.spawn(async move {
            watched.falls_behind(pace.window).await;
            metrics.history_slow_readers.inc();
            pace.cut.cancel();
        })));
        let task = AbortOnDropHandle::new(self.handle.spawn(produce(place, flow, asked, head_sender)));
        match head.await {
            Ok((parts, pieces)) => {
                let body = futures_util::stream::unfold((pieces, task), |(mut pieces, task)| async move {
                    let piece: Option<Result<Bytes, axum::Error>> = pieces.recv().await;
                    Some((piece?, (pieces, task)))
                });
                Response::from_parts(parts, Body::from_stream(body))
            }
            Err(_) => match task.await {
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                _ => std::future::pending().await,
            },
        }
    }
}

type Head = (Parts, mpsc::UnboundedReceiver<Result<Bytes, axum::Error>>);

/// Has every piece of an answer's body pass through `map`; the length stays stated where it is known.
pub(super) fn map_body(response: Response, map: impl Fn(Bytes) -> Bytes + Send + 'static) -> Response {
    let (mut parts, body) = response.into_parts();
    state_length(&mut parts, &body);
    let body = body.into_data_stream().map(move |piece| piece.map(&map));
    Response::from_parts(parts, Body::from_stream(body))
}

/// States the length of a body that is known to have one, for a body that will not say.
fn state_length(parts: &mut Parts, body: &Body) {
    if let Some(length) = body.size_hint().exact() {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
}

/// Makes an answer, a piece at a time, as its reader takes them.
async fn produce(
    place: Place,
    flow: Arc<Flow>,
    asked: impl Future<Output = Response> + Send,
    head: oneshot::Sender<Head>,
) {
    let (mut parts, body) = asked.await.into_parts();
    state_length(&mut parts, &body);
    // Bounded by the room below.
    let (sender, pieces) = mpsc::unbounded_channel();
    if head.send((parts, pieces)).is_err() {
        return;
    }
    let room = Arc::new(Semaphore::new(OUTPUT_BYTES_MAX));
    let place = Arc::new(Mutex::new(place));
    let mut body = body.into_data_stream();
    while let Some(made) = body.next().await {
        let mut rest = match made {
            Ok(rest) => rest,
            Err(error) => {
                // The connection is aborted on it, and what it has not sent by then is lost.
                taken(&flow).await;
                let _ = sender.send(Err(error));
                return;
            }
        };
        while !rest.is_empty() {
            let bytes = rest.split_to(rest.len().min(PIECE_BYTES_MAX));
            let Ok(room) = room.clone().acquire_many_owned(bytes.len() as u32).await else { return };
            flow.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
            let piece = Piece { bytes, flow: flow.clone(), _room: room, _place: place.clone() };
            if sender.send(Ok(Bytes::from_owner(piece))).is_err() {
                return;
            }
        }
    }
    place.lock().unwrap_or_else(PoisonError::into_inner).finish(flow.waiting());
}

/// Waits, for so long at most, until the connection has taken and sent what waits for it.
async fn taken(flow: &Flow) {
    let since = tokio::time::Instant::now();
    while flow.waiting() > 0 && since.elapsed() < LAST_BYTES_WAIT_MAX {
        tokio::time::sleep(LAST_BYTES_LOOK).await;
    }
    // It sends what it has taken once it finds nothing more to take.
    tokio::time::sleep(LAST_BYTES_LOOK).await;
}

/// Has this thread give way to those of live streams where both want a core.
pub(in crate::server) fn yield_to_streams() {
    // On Linux this is the thread's own; elsewhere it would be the whole process's.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(5);
}

impl Drop for Queries {
    fn drop(&mut self) {
        if let Some(runtime) = self.take_runtime() {
            // It may be dropped on a runtime's thread, where nothing may block.
            runtime.shutdown_background();
        }
    }
}

/// Somebody waits in line.
struct Waiting<'a> {
    count: &'a AtomicUsize,
    /// How many waited before.
    before: usize,
}

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        Self { count, before: count.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    fn queries(limits: QueryLimits) -> Queries {
        Queries::start(limits, GatewayMetrics::default()).unwrap()
    }

    fn asker(last: u8, key: Option<&str>) -> Asker {
        Asker { address: [10, 0, 0, last].into(), key: key.map(str::to_owned) }
    }

    fn patient() -> Pace {
        Pace { window: Duration::from_mins(10), cut: CancellationToken::new() }
    }

    /// Zeros without end, a MiB at a time, and how many were made.
    fn endless() -> (Arc<AtomicUsize>, Response) {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = made.clone();
        let endless = futures_util::stream::repeat_with(move || {
            counted.fetch_add(1 << 20, Ordering::Relaxed);
            Ok::<_, std::io::Error>(Bytes::from(vec![0; 1 << 20]))
        });
        (made, Body::from_stream(endless).into_response())
    }

    #[tokio::test(start_paused = true)]
    async fn each_bound_holds_and_places_come_free() {
        let limits = QueryLimits { queries_max: 3, per_client_max: 2, ..QueryLimits::default() };
        let queries = queries(limits);
        let enter = async |last, key| queries.enter(&asker(last, key), Purpose::Answer, 0).await;
        let first = enter(1, Some("a")).await.unwrap();
        let second = enter(1, Some("b")).await.unwrap();
        assert_eq!(enter(1, Some("c")).await.err(), Some(BUSY), "two of this address run");
        let third = enter(2, Some("a")).await.unwrap();
        assert_eq!(enter(3, Some("z")).await.err(), Some(BUSY), "three run");
        drop((second, third));
        assert_eq!(queries.metrics.history_queries.get(), 1);
        let (again, waits) = (enter(2, Some("a")).await.unwrap(), enter(3, Some("a")));
        let mut waits = std::pin::pin!(waits);
        assert!((&mut waits).now_or_never().is_none(), "two of this key run: it waits in line");
        drop(first);
        waits.await.unwrap();
        drop(again);
        assert_eq!(queries.metrics.history_refused.get(), 2);
        assert_eq!((queries.metrics.history_queries.get(), queries.metrics.history_bytes.get()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_share_one_budget_of_memory() {
        let bytes_max = Purpose::Answer.bytes_max() * 3 / 2;
        let queries = queries(QueryLimits { bytes_max, ..QueryLimits::default() });
        let first = queries.enter(&asker(1, None), Purpose::Answer, 0).await.unwrap();
        assert_eq!(queries.metrics.history_bytes.get(), Purpose::Answer.bytes_max() as i64);
        assert!(queries.enter(&asker(2, None), Purpose::Answer, 0).await.is_err());
        drop(first);
        let many = queries.enter(&asker(1, None), Purpose::Answer, bytes_max / 4).await.unwrap();
        let expected = Purpose::Answer.bytes_max() + bytes_max / 4;
        assert_eq!(queries.metrics.history_bytes.get(), expected as i64, "with what it reads side by side");
        drop(many);
        // One that needs more than there is takes all there is.
        queries.enter(&asker(1, None), Purpose::HistoryReplay, 0).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_left_to_send_is_all_that_an_answer_keeps() {
        let queries = queries(QueryLimits::default());
        let place = queries.enter(&asker(1, None), Purpose::Answer, 0).await.unwrap();
        let answered = async { vec![7_u8; 100_000].into_response() };
        let response = queries.answer(place, patient(), answered).await;
        let mut body = response.into_body().into_data_stream();
        let mut bytes = Vec::new();
        while let Some(piece) = body.next().await {
            bytes.push(piece.unwrap());
        }
        assert_eq!(bytes.iter().map(Bytes::len).sum::<usize>(), 100_000);
        assert_eq!(queries.metrics.history_queries.get(), 0, "it was produced");
        assert_eq!(queries.metrics.history_bytes.get(), 2 * UNIT_BYTES as i64);
        drop((bytes, body));
        assert_eq!(queries.metrics.history_bytes.get(), 0);
    }

    #[tokio::test]
    async fn an_answer_is_only_so_far_ahead_of_its_reader() {
        let queries = queries(QueryLimits::default());
        let (made, response) = endless();
        let place = queries.enter(&asker(1, None), Purpose::Answer, 0).await.unwrap();
        let response = queries.answer(place, patient(), async { response }).await;
        let mut body = response.into_body().into_data_stream();
        for _ in 0..(20 << 20) / PIECE_BYTES_MAX {
            assert_eq!(body.next().await.unwrap().unwrap().len(), PIECE_BYTES_MAX);
        }
        assert!(made.load(Ordering::Relaxed) <= (20 << 20) + OUTPUT_BYTES_MAX + (1 << 20));
        assert_eq!(queries.metrics.history_bytes.get(), Purpose::Answer.bytes_max() as i64);
        drop(body);
        while queries.metrics.history_bytes.get() > 0 {
            tokio::task::yield_now().await;
        }
    }

    /// A reader that takes a byte now and then must not keep a place for ever.
    #[tokio::test]
    async fn a_reader_that_takes_next_to_nothing_is_cut_off() {
        let queries = queries(QueryLimits::default());
        let (_, response) = endless();
        let place = queries.enter(&asker(1, None), Purpose::Answer, 0).await.unwrap();
        let cut = CancellationToken::new();
        let pace = Pace { window: Duration::from_millis(1), cut: cut.clone() };
        let response = queries.answer(place, pace, async { response }).await;
        cut.cancelled().await;
        assert_eq!(queries.metrics.history_slow_readers.get(), 1);
        drop(response);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_has_to_take_some_of_what_waits_for_it_and_no_more() {
        let (flow, window) = (Arc::new(Flow::default()), Duration::from_secs(25));
        let watched = flow.clone();
        let behind = tokio::spawn(async move { watched.falls_behind(window).await });
        tokio::time::sleep(window / 2).await;
        let take = |bytes| {
            flow.waiting.fetch_sub(bytes, Ordering::Relaxed);
            flow.left.fetch_add(bytes, Ordering::Relaxed);
        };
        // Nothing waits for it for long, since the answer comes slowly.
        for _ in 0..3 {
            flow.waiting.fetch_add(10, Ordering::Relaxed);
            take(10);
            tokio::time::sleep(window).await;
        }
        flow.waiting.store(OUTPUT_BYTES_MAX, Ordering::Relaxed);
        tokio::time::sleep(window / 4).await;
        for _ in 0..5 {
            take(PROGRESS_BYTES_MIN);
            tokio::time::sleep(window).await;
            assert!(!behind.is_finished());
        }
        for _ in 0..2 {
            take(1);
            tokio::time::sleep(window).await;
        }
        assert!(behind.is_finished());
    }
}
