//! What the fan-out costs: quotes to many WebSocket connections over real sockets, with one core
//! for the server, beside a bare tokio-tungstenite loop in the same run.
//!
//! Both sides of the comparison send the same quotes to the same receivers, which read every byte
//! and take every WebSocket frame apart. The server's thread runs publisher, hub and connections;
//! the receivers' thread has the other core.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;

use super::{GatewayConfig, GatewayState, MemoryBus};
use crate::market::{Conditions, Exchange, Price, Quote, Symbol, Tape, Tick, Timestamp};
use crate::server::metrics::{self, GatewayMetrics};
use crate::server::operations::Operations;
use crate::tiering::hot::memory::MemoryHot;
use crate::wire::json;
use crate::wire::record::{Origin, RecordEncoder};

/// What to measure.
#[derive(Clone, Debug)]
pub struct FanoutConfig {
    /// WebSocket connections, each subscribed to all quotes.
    pub connections: usize,
    /// Messages per second delivered over all connections; `None`: as many as go through.
    pub rate: Option<f64>,
    /// How long each of the two sides is measured, in seconds, after a warm-up of a fifth of it.
    pub seconds: f64,
    /// The core that the server's thread is bound to; `None`: not bound.
    pub server_core: Option<usize>,
    /// The core that the receivers' thread is bound to; `None`: not bound.
    pub receiver_core: Option<usize>,
    /// Whether the bare loop is measured too; with a rate it is not.
    pub bare: bool,
    /// Quotes published at a time when there is no rate.
    pub batch: usize,
}

impl Default for FanoutConfig {
    fn default() -> Self {
        Self {
            connections: 200,
            rate: None,
            seconds: 5.0,
            server_core: Some(0),
            receiver_core: Some(1),
            bare: true,
            batch: 256,
        }
    }
}

/// What one side came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct FanoutFigures {
    /// Messages delivered per second, over all connections.
    pub messages_per_s: f64,
    /// Bytes received per second, over all connections.
    pub bytes_per_s: f64,
    /// From publish to receipt, microseconds: the median.
    pub p50_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// The 99.9th percentile.
    pub p999_us: f64,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub struct FanoutReport {
    /// The gateway.
    pub gateway: FanoutFigures,
    /// The bare loop, where it was measured.
    pub bare: Option<FanoutFigures>,
    /// Length of one message as JSON, in bytes.
    pub message_bytes: usize,
    /// Connections that were closed as too slow; a run with any does not count.
    pub slow_clients: u64,
}

impl FanoutReport {
    /// The gateway's messages per second to the bare loop's.
    pub fn ratio(&self) -> Option<f64> {
        self.bare.map(|bare| self.gateway.messages_per_s / bare.messages_per_s)
    }
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum FanoutError {
    /// A socket or a thread could not be had.
    #[error("the benchmark can't run: {0}")]
    Io(#[from] std::io::Error),
    /// The server ended before the run did.
    #[error("the server failed: {0}")]
    Server(String),
}

const SYMBOLS: usize = 500;
/// How long it goes on for a first frame, where the time asked for was not enough.
const FIRST_FRAME_MAX: Duration = Duration::from_secs(30);
/// Without a rate, so many batches may be on their way to the slowest receiver: the publisher waits
/// for receipt, as the bare loop waits for its sockets.
const BATCHES_AHEAD: u64 = 4;

/// What both threads see.
#[derive(Default)]
struct Gauges {
    /// Messages received over all connections.
    received: AtomicU64,
    bytes: AtomicU64,
    is_measuring: AtomicBool,
    is_over: AtomicBool,
}

/// A quote whose JSON is 134 bytes long (less the zeros that its time ends with), published now.
pub(crate) fn quote(symbol: Symbol, number: u64) -> Quote {
    let ts = Timestamp::now();
    let price = |offset: i64| Price::from_ten_thousandths(190_4500 + offset * 100).unwrap_or(Price::ZERO);
    let step = (number % 9) as i64;
    Quote {
        symbol,
        ts,
        recv_ts: ts,
        bid: price(step),
        ask: price(step + 2),
        bid_size: 100 * (1 + (number % 9) as u32),
        ask_size: 200,
        bid_exchange: Exchange::IEX,
        ask_exchange: Exchange::IEX,
        conditions: Conditions::from_codes(b"R").unwrap_or(Conditions::NONE),
        tape: Tape::C,
    }
}

/// The symbols that are quoted.
pub(crate) fn symbols() -> Vec<Symbol> {
    let name = |number: usize| {
        let letter = |place: usize| char::from(b'A' + (number / place % 26) as u8);
        format!("{}{}{}", letter(676), letter(26), letter(1)).parse().ok()
    };
    (0..SYMBOLS).filter_map(name).collect()
}

fn bind(core: Option<usize>) {
    let Some(core) = core else { return };
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core);
    if let Err(reason) = rustix::thread::sched_setaffinity(None, &cores) {
        tracing::warn!(core, %reason, "a thread can't be bound to a core");
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Measures as `config` says. Takes about twice `seconds` with the bare loop, once without.
pub fn run(config: &FanoutConfig) -> Result<FanoutReport, FanoutError> {
    let mut sample = Vec::new();
    if let Some(&symbol) = symbols().first() {
        json::encode_tick(&Tick::Quote(quote(symbol, 1)), &mut sample);
    }
    let mut report = FanoutReport { message_bytes: sample.len(), ..FanoutReport::default() };
    let metrics = GatewayMetrics::default();
    let side = {
        let (config, metrics) = (config.clone(), metrics.clone());
        move |listener, gauges, stop| gateway_side(config, listener, gauges, stop, metrics)
    };
    report.gateway = measure(config, true, side)?;
    report.slow_clients = metrics.slow_clients.get();
    if config.bare && config.rate.is_none() {
        let bare = config.clone();
        report.bare = Some(measure(config, false, move |listener, gauges, stop| {
            bare_side(bare, listener, gauges, stop)
        })?);
    }
    Ok(report)
}

fn measure<S, F>(config: &FanoutConfig, is_gateway: bool, side: S) -> Result<FanoutFigures, FanoutError>
where
    S: FnOnce(std::net::TcpListener, Arc<Gauges>, CancellationToken) -> F + Send + 'static,
    F: Future<Output = Result<(), FanoutError>>,
{
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let (gauges, stop) = (Arc::new(Gauges::default()), CancellationToken::new());
    let server = {
        let (gauges, stop, core) = (gauges.clone(), stop.clone(), config.server_core);
        std::thread::Builder::new().name("fanout-server".to_owned()).spawn(move || {
            bind(core);
            runtime()?.block_on(side(listener, gauges, stop))
        })?
    };
    let receiver = {
        let (gauges, core, connections) = (gauges.clone(), config.receiver_core, config.connections);
        std::thread::Builder::new().name("fanout-receiver".to_owned()).spawn(move || {
            bind(core);
            runtime()?.block_on(receive(address, connections, is_gateway, gauges))
        })?
    };
    let clock = runtime()?;
    let let_pass = |seconds| {
        clock.block_on(async { tokio::time::sleep(Duration::from_secs_f64(seconds)).await });
    };
    // Nothing is measured before all are connected and messages flow.
    while gauges.received.load(Ordering::Acquire) == 0 && !server.is_finished() && !receiver.is_finished() {
        let_pass(0.01);
    }
    let_pass(config.seconds / 5.0);
    let (received, bytes) = (gauges.received.load(Ordering::Acquire), gauges.bytes.load(Ordering::Acquire));
    gauges.is_measuring.store(true, Ordering::Release);
    let begun = Instant::now();
    let_pass(config.seconds);
    // On a busy machine a short time may pass before a frame has come.
    while gauges.received.load(Ordering::Acquire) == received
        && begun.elapsed() < FIRST_FRAME_MAX
        && !server.is_finished()
        && !receiver.is_finished()
    {
        let_pass(0.01);
    }
    gauges.is_measuring.store(false, Ordering::Release);
    let seconds = begun.elapsed().as_secs_f64();
    let received = gauges.received.load(Ordering::Acquire) - received;
    let bytes = gauges.bytes.load(Ordering::Acquire) - bytes;
    let failed = |_| FanoutError::Server("a thread panicked".to_owned());
    // The server first: a receiver that leaves it would be an error to it.
    stop.cancel();
    let served = server.join();
    gauges.is_over.store(true, Ordering::Release);
    let received_all = receiver.join();
    served.map_err(failed)??;
    let latencies = received_all.map_err(failed)??;
    Ok(FanoutFigures {
        messages_per_s: received as f64 / seconds,
        bytes_per_s: bytes as f64 / seconds,
        p50_us: latencies.quantile_us(0.5),
        p99_us: latencies.quantile_us(0.99),
        p999_us: latencies.quantile_us(0.999),
    })
}

async fn gateway_side(
    config: FanoutConfig,
    listener: std::net::TcpListener,
    gauges: Arc<Gauges>,
    stop: CancellationToken,
    metrics: GatewayMetrics,
) -> Result<(), FanoutError> {
    let bus = Arc::new(MemoryBus::new(1, 4096));
    let mut registry = metrics::registry();
    metrics.register(&mut registry);
    let state = GatewayState {
        bus: bus.clone(),
        hot: Arc::new(MemoryHot::new(1)),
        own_hot: None,
        warm: None,
        history: None,
        config: GatewayConfig {
            queue_bytes_max: 16 << 20,
            connections_max: config.connections + 16,
            stop_max: Duration::from_millis(100),
            ..GatewayConfig::default()
        },
        metrics: metrics.clone(),
        operations: Operations {
            admin: None,
            registry: Arc::new(registry),
            not_ready: Arc::new(Vec::new),
            degraded: Arc::new(Vec::new),
            details: Arc::new(|| serde_json::Value::Null),
        },
        feeds: vec!["fanout".to_owned()],
    };
    let listener = TcpListener::from_std(listener)?;
    let serving = super::serve(listener, state, stop.clone().cancelled_owned());
    let publishing = publish(config, bus, gauges, stop);
    let (served, ()) = tokio::join!(serving, publishing);
    served.map_err(|error| FanoutError::Server(error.to_string()))
}

/// Publishes quotes at the rate, or as receivers take them.
async fn publish(config: FanoutConfig, bus: Arc<MemoryBus>, gauges: Arc<Gauges>, stop: CancellationToken) {
    // The receivers say by their first message that they are all subscribed.
    let symbols = symbols();
    let mut encoder = RecordEncoder::new();
    let (mut published, mut sequence) = (0_u64, 0_u64);
    let connections = config.connections as u64;
    while !gauges.is_ready() && !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let begun = Instant::now();
    while !stop.is_cancelled() {
        let count = if let Some(rate) = config.rate {
            let due = (begun.elapsed().as_secs_f64() * rate / config.connections as f64) as u64;
            if due <= published {
                let next = (published + 1) as f64 * config.connections as f64 / rate;
                let wait = next - begun.elapsed().as_secs_f64();
                tokio::time::sleep(Duration::from_secs_f64(wait.clamp(0.0, 1.0))).await;
                continue;
            }
            due - published
        } else {
            let taken = gauges.received.load(Ordering::Acquire) / connections;
            if published > taken + BATCHES_AHEAD * config.batch as u64 {
                tokio::task::yield_now().await;
                continue;
            }
            config.batch as u64
        };
        for number in published..published + count.min(4096) {
            let symbol = symbols[number as usize % symbols.len()];
            encoder.push(&Tick::Quote(quote(symbol, number)));
        }
        published += count.min(4096);
        sequence += 1;
        if bus.push(0, encoder.finish(Origin { producer: 1, sequence })).is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

impl Gauges {
    fn is_ready(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > 0
    }
}

/// The bare loop: every message fed to every socket, one flush a batch.
async fn bare_side(
    config: FanoutConfig,
    listener: std::net::TcpListener,
    gauges: Arc<Gauges>,
    stop: CancellationToken,
) -> Result<(), FanoutError> {
    let listener = TcpListener::from_std(listener)?;
    let mut sockets = Vec::new();
    for _ in 0..config.connections {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let socket = tokio_tungstenite::accept_async(stream).await;
        sockets.push(socket.map_err(|error| FanoutError::Server(error.to_string()))?);
    }
    gauges.bytes.store(1, Ordering::Release);
    let symbols = symbols();
    let mut number = 0_u64;
    while !stop.is_cancelled() {
        let mut batch: Vec<Utf8Bytes> = Vec::with_capacity(config.batch);
        for _ in 0..config.batch {
            let mut text = vec![b'['];
            let symbol = symbols[number as usize % symbols.len()];
            json::encode_tick(&Tick::Quote(quote(symbol, number)), &mut text);
            text.push(b']');
            number += 1;
            batch.extend(Utf8Bytes::try_from(bytes::Bytes::from(text)).ok());
        }
        for socket in &mut sockets {
            let sent = async {
                for text in &batch {
                    socket.feed(Message::Text(text.clone())).await?;
                }
                socket.flush().await
            };
            let sent = tokio::select! {
                sent = sent => sent,
                () = stop.cancelled() => return Ok(()),
            };
            sent.map_err(|error| FanoutError::Server(error.to_string()))?;
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Receives on all connections until it is over.
async fn receive(
    address: SocketAddr,
    connections: usize,
    is_gateway: bool,
    gauges: Arc<Gauges>,
) -> Result<Latencies, FanoutError> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let stream = open(address, is_gateway).await?;
        tasks.spawn(receiver(stream, gauges.clone()));
    }
    if is_gateway {
        gauges.bytes.store(1, Ordering::Release);
    }
    let mut all = Latencies::default();
    while let Some(latencies) = tasks.join_next().await {
        all.add(&latencies.map_err(|error| FanoutError::Server(error.to_string()))??);
    }
    Ok(all)
}

/// Connects, and with the gateway authenticates and subscribes.
async fn open(address: SocketAddr, is_gateway: bool) -> Result<TcpStream, FanoutError> {
    use futures_util::StreamExt;
    let failed = |error: tokio_tungstenite::tungstenite::Error| FanoutError::Server(error.to_string());
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut socket, _) =
        tokio_tungstenite::client_async(format!("ws://{address}/v2/stk"), stream).await.map_err(failed)?;
    if is_gateway {
        let auth = r#"{"action":"auth","key":"bench","secret":"bench"}"#;
        let subscribe = r#"{"action":"subscribe","quotes":["*"]}"#;
        // Nothing is published before all are subscribed, so that three answers are all there is.
        for message in [auth, subscribe] {
            socket.send(Message::text(message)).await.map_err(failed)?;
        }
        for _ in 0..3 {
            if socket.next().await.is_none() {
                return Err(FanoutError::Server("it closed a connection".to_owned()));
            }
        }
    }
    Ok(socket.into_inner())
}

const READ_BYTES: usize = 256 * 1024;

/// Reads one connection: every byte, every frame, the time of each frame's first message.
async fn receiver(stream: TcpStream, gauges: Arc<Gauges>) -> Result<Latencies, FanoutError> {
    let mut latencies = Latencies::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut frames = FrameCounter::default();
    loop {
        tokio::select! {
            readable = stream.readable() => readable?,
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        if gauges.is_over.load(Ordering::Acquire) {
            return Ok(latencies);
        }
        match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(latencies),
            Ok(count) => {
                let is_measuring = gauges.is_measuring.load(Ordering::Acquire);
                let now = is_measuring.then(Timestamp::now);
                let messages = frames.count(&buffer[..count], |published, messages| {
                    if let Some(now) = now {
                        latencies.record(now.nanos_since(published), messages);
                    }
                });
                gauges.received.fetch_add(messages, Ordering::AcqRel);
                gauges.bytes.fetch_add(count as u64, Ordering::AcqRel);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(latencies),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes a server's frames apart and counts their messages, which have no objects within.
#[derive(Default)]
pub(crate) struct FrameCounter {
    /// The head of the next frame, and the beginning of its payload, as far as they came.
    head: Vec<u8>,
    /// Bytes of the frame under way that are still to come.
    left: usize,
    messages: u64,
    published: Option<Timestamp>,
}

/// Enough of a frame to find the first message's time in.
const PEEK_BYTES: usize = 10 + 192;

impl FrameCounter {
    /// Takes in what was read; tells of every frame that ended the time its first message was
    /// published, and its messages. Returns the messages.
    pub(crate) fn count(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(Timestamp, u64)) -> u64 {
        let mut total = 0;
        while !bytes.is_empty() {
            if self.left == 0 {
                let take = bytes.len().min(PEEK_BYTES - self.head.len());
                self.head.extend_from_slice(&bytes[..take]);
                let Some((head_bytes, payload)) = head_of(&self.head) else {
                    bytes = &bytes[take..];
                    continue;
                };
                let peeked = payload.min(PEEK_BYTES - head_bytes);
                if self.head.len() < head_bytes + peeked {
                    bytes = &bytes[take..];
                    continue;
                }
                let surplus = self.head.len() - head_bytes - peeked;
                let payload_head = &self.head[head_bytes..head_bytes + peeked];
                self.published = published(payload_head);
                self.messages = braces(payload_head);
                self.left = payload - peeked;
                self.head.clear();
                bytes = &bytes[take - surplus..];
            }
            let take = bytes.len().min(self.left);
            self.messages += braces(&bytes[..take]);
            self.left -= take;
            bytes = &bytes[take..];
            if self.left == 0 {
                if let Some(published) = self.published.take() {
                    total += self.messages;
                    on_frame(published, self.messages);
                }
                self.messages = 0;
            }
        }
        total
    }
}

fn braces(bytes: &[u8]) -> u64 {
    bytes
        .chunks(255)
        .map(|chunk| u64::from(chunk.iter().map(|byte| u8::from(*byte == b'{')).sum::<u8>()))
        .sum()
}

/// The lengths of a frame's head and payload.
fn head_of(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes {
        [_, 127, rest @ ..] => rest.first_chunk().map(|length| (10, u64::from_be_bytes(*length) as usize)),
        [_, 126, a, b, ..] => Some((4, usize::from(u16::from_be_bytes([*a, *b])))),
        [_, 126, ..] | [] | [_] => None,
        [_, length, ..] => Some((2, usize::from(*length))),
    }
}

/// When the first message of a frame was published.
fn published(payload: &[u8]) -> Option<Timestamp> {
    const KEY: &[u8] = b"\"t\":\"";
    let at = payload.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let end = at + payload[at..].iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&payload[at..end]).ok()?.parse().ok()
}

/// Latencies in buckets of about 2 %.
pub(crate) struct Latencies {
    buckets: Vec<u64>,
}

const BUCKETS_PER_DOUBLING: f64 = 32.0;

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; 64 * BUCKETS_PER_DOUBLING as usize] }
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, nanos: i64, messages: u64) {
        let bucket = (nanos.max(1) as f64).log2() * BUCKETS_PER_DOUBLING;
        if let Some(count) = self.buckets.get_mut(bucket as usize) {
            *count += messages;
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(mine, theirs)| *mine += theirs);
    }

    /// The upper edge of the bucket in which the quantile lies, microseconds.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        let total: u64 = self.buckets.iter().sum();
        let wanted = (total as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return ((bucket + 1) as f64 / BUCKETS_PER_DOUBLING).exp2() / 1000.0;
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let mut stream = Vec::new();
        let mut expected = 0;
        for messages in [1, 2, 3, 500, 1] {
            let mut payload = vec![b'['];
            for at in 0..messages {
                if at > 0 {
                    payload.push(b',');
                }
                json::encode_tick(&Tick::Quote(quote("AAPL".parse().unwrap(), at)), &mut payload);
            }
            payload.push(b']');
            expected += messages;
            stream.extend_from_slice(&super::super::frame::message(
                super::super::frame::Opcode::Text,
                &payload,
            ));
            stream.extend_from_slice(&super::super::frame::ping(b"stk"));
        }
        for cut in [1, 7, 100, 300, stream.len()] {
            let (mut counter, mut frames) = (FrameCounter::default(), 0);
            let counted: u64 = stream.chunks(cut).map(|part| counter.count(part, |_, _| frames += 1)).sum();
            assert_eq!((counted, frames), (expected, 5), "cut at {cut}");
        }
    }

    #[test]
    fn quantiles_are_within_their_bucket() {
        let mut latencies = Latencies::default();
        for us in 1..=1000 {
            latencies.record(us * 1000, 1);
        }
        for (quantile, us) in [(0.5, 500.0), (0.99, 990.0)] {
            let found = latencies.quantile_us(quantile);
            assert!(found >= us && found < us * 1.03, "{found}");
        }
    }

    #[test]
    fn a_short_run_counts_what_it_sends() {
        let config = FanoutConfig {
            connections: 4,
            rate: None,
            seconds: 0.5,
            server_core: None,
            receiver_core: None,
            ..FanoutConfig::default()
        };
        let report = run(&config).unwrap();
        // A time that ends with zeros is shorter.
        assert!((124..=134).contains(&report.message_bytes), "{}", report.message_bytes);
        assert_eq!(report.slow_clients, 0);
        assert!(report.gateway.messages_per_s > 0.0 && report.ratio().unwrap() > 0.0);
        assert!(report.gateway.p50_us > 0.0 && report.gateway.p999_us >= report.gateway.p50_us);
    }
}
