//! What clients that do not read cost those that do: a server in a process of its own, quotes through its
//! ingest endpoint, some clients that read, and then many that do not.
//!
//! Both phases are of one run, so that the second can be held against the first.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{CliError, Findings, machine, rounded};
use crate::client::ingest::IngestClient;
use crate::market::{Symbol, Tick};
use crate::server::gateway::bench::{FrameCounter, Latencies, quote, symbols};

#[derive(Args)]
pub(super) struct ReadersArgs {
    /// WebSocket clients that read, each subscribed to all quotes
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    good: usize,
    /// WebSocket clients that do not read, each with a subscription of its own
    #[arg(long, value_name = "COUNT", default_value_t = 600)]
    streams: usize,
    /// Requests for all of history that are not read
    #[arg(long, value_name = "COUNT", default_value_t = 300)]
    history: usize,
    /// Quotes per second
    #[arg(long, value_name = "QUOTES", default_value_t = 10_000)]
    rate: u64,
    /// How long each phase is measured; `later` figures exclude the first second
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    seconds: u64,
}

/// How often quotes are sent.
const BATCH_PERIOD: Duration = Duration::from_millis(5);
/// The most quotes of one batch.
const BATCH_MAX: u64 = 4_096;
/// How often `/healthz` is asked, and the metrics.
const PROBE_PERIOD: Duration = Duration::from_millis(100);
/// How often a client that reads lets the server hear of it.
const PONG_PERIOD: Duration = Duration::from_secs(5);
/// How long clients that come and do not read may fill what is set aside for them, before their cost is what it
/// stays at.
const FIRST: Duration = Duration::from_secs(1);
/// A history reader that was refused asks again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// What the clients that read, and `/healthz`, saw in one phase.
#[derive(Default)]
struct Phase {
    quotes: Latencies,
    /// The same without the first second.
    later: Latencies,
    healthz: Latencies,
    healthz_max: Duration,
    queue_bytes_max: u64,
    history_bytes_max: u64,
}

/// A server of this bench, killed with it.
struct Server {
    child: Child,
    address: SocketAddr,
    ingest: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn run(args: &ReadersArgs) -> Result<Findings, CliError> {
    if !(1..=1_000_000).contains(&args.rate) || !(1..=3_600).contains(&args.seconds) || args.good == 0 {
        return Err(CliError::usage(
            "it takes 1 to 1000000 quotes a second, 1 to 3600 seconds and a client that reads",
        ));
    }
    let dir = tempfile::tempdir().map_err(CliError::failed)?;
    let server = start(dir.path()).map_err(CliError::failed)?;
    crate::cli::runtime()?.block_on(measure(args, &server))
}

/// Starts `stk serve` in `dir`, and reads where it listens.
fn start(dir: &std::path::Path) -> std::io::Result<Server> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["serve", "--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0", "--data"])
        .arg(dir.join("data"))
        .env_remove("STK_CONFIG")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or(std::io::ErrorKind::BrokenPipe)?).lines();
    let (mut address, mut ingest) = (None, None);
    while address.is_none() || ingest.is_none() {
        let Some(line) = lines.next().transpose()? else {
            let _ = child.wait();
            return Err(std::io::Error::other("the server ended before it listened"));
        };
        let after = |mark: &str| {
            let rest = line.split_once(mark)?.1;
            rest.split([' ', '/']).next()?.parse().ok()
        };
        address = address.or_else(|| after("http://"));
        ingest = ingest.or_else(|| after("ws://"));
    }
    // A full pipe would stop the server.
    std::thread::spawn(move || lines.for_each(drop));
    match (address, ingest) {
        (Some(address), Some(ingest)) => Ok(Server { child, address, ingest }),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    }
}

async fn measure(args: &ReadersArgs, server: &Server) -> Result<Findings, CliError> {
    let symbols = symbols();
    let (over, received) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    let endpoint = server.ingest.to_string().parse().map_err(CliError::failed)?;
    let ingest = IngestClient::connect(endpoint, 1, 1, 3).await.map_err(CliError::failed)?;
    tasks.spawn(publish(ingest, symbols.clone(), args.rate, over.clone()));
    let latencies = Arc::new(std::sync::Mutex::new(Latencies::default()));
    for _ in 0..args.good {
        let stream = subscribed(server.address, "\"*\"", "").await.map_err(CliError::failed)?;
        tasks.spawn(read(stream, latencies.clone(), received.clone(), over.clone()));
    }
    let pid = server.child.id();
    // History gets some rows, and the connections come to rest.
    tokio::time::sleep(Duration::from_secs(args.seconds.min(10))).await;
    let alone = phase(args, server, &latencies).await?;
    let rss_alone = machine::rss_peak_bytes_of(pid);

    for number in 0..args.streams {
        let symbol = symbols[number % symbols.len()];
        let stream = subscribed(server.address, "\"*\"", &format!("\"{symbol}\"")).await;
        let stream = stream.map_err(CliError::failed)?;
        let over = over.clone();
        tasks.spawn(async move {
            hold(stream, over).await;
            Ok(())
        });
    }
    for _ in 0..args.history {
        tasks.spawn(ask_history(server.address, over.clone()));
    }
    let beside = phase(args, server, &latencies).await?;
    let rss_beside = machine::rss_peak_bytes_of(pid);
    let metrics = metrics(server.address).await.map_err(CliError::failed)?;
    over.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(CliError::failed)?.map_err(CliError::failed)?;
    }
    if received.load(Ordering::Relaxed) == 0 {
        return Err(CliError::failed("no quote was received"));
    }

    let mut findings = Findings::new("readers");
    let p99 = |phase: &Phase| phase.quotes.quantile_us(0.99);
    for (name, phase) in [("alone", &alone), ("beside", &beside)] {
        findings.figure(&format!("{name}_p50_us"), rounded(phase.quotes.quantile_us(0.5)));
        findings.figure(&format!("{name}_p99_us"), rounded(p99(phase)));
        findings.figure(&format!("{name}_later_p99_us"), rounded(phase.later.quantile_us(0.99)));
        findings.figure(&format!("{name}_healthz_p99_us"), rounded(phase.healthz.quantile_us(0.99)));
        findings.figure(&format!("{name}_healthz_max_us"), phase.healthz_max.as_micros() as u64);
    }
    findings.figure("p99_ratio", rounded(p99(&beside) / p99(&alone).max(1.0)));
    let later = |phase: &Phase| phase.later.quantile_us(0.99);
    findings.figure("later_p99_ratio", rounded(later(&beside) / later(&alone).max(1.0)));
    findings.figure("rss_alone_bytes", rss_alone);
    findings.figure("rss_peak_bytes", rss_beside);
    findings.figure("queue_bytes_max", beside.queue_bytes_max);
    findings.figure("history_bytes_max", beside.history_bytes_max);
    let counted = [
        ("slow_clients", "stk_gateway_slow_clients_total"),
        ("clients_evicted", "stk_gateway_clients_evicted_total"),
        ("stalled_readers", "stk_gateway_stalled_readers_total"),
        ("history_refused", "stk_history_refused_total"),
    ];
    for (name, metric) in counted {
        findings.figure(name, metric_of(&metrics, metric));
    }
    findings.parameter("good", args.good);
    findings.parameter("streams", args.streams);
    findings.parameter("history", args.history);
    findings.parameter("rate", args.rate);
    findings.parameter("seconds", args.seconds);
    Ok(findings)
}

/// Sends quotes at the rate until it is over.
async fn publish(
    mut ingest: IngestClient,
    symbols: Vec<Symbol>,
    rate: u64,
    over: CancellationToken,
) -> Result<(), String> {
    let (began, mut sent) = (Instant::now(), 0);
    let mut period = tokio::time::interval(BATCH_PERIOD);
    while !over.is_cancelled() {
        period.tick().await;
        let due = (began.elapsed().as_secs_f64() * rate as f64) as u64;
        let batch: Vec<Tick> = (sent..due.min(sent + BATCH_MAX))
            .map(|number| Tick::Quote(quote(symbols[number as usize % symbols.len()], number)))
            .collect();
        if !batch.is_empty() {
            ingest.send(&batch).await.map_err(|error| error.to_string())?;
        }
        // What could not be sent in time is not made up for.
        sent = due;
    }
    Ok(())
}

/// A WebSocket client of all quotes, and of the bars of `bars`.
async fn subscribed(address: SocketAddr, quotes: &str, bars: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let head = "GET /v2/stk HTTP/1.1\r\nhost: stk\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
                sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut bytes = head.as_bytes().to_vec();
    let subscribe = format!(r#"{{"action":"subscribe","quotes":[{quotes}],"bars":[{bars}]}}"#);
    for message in [r#"{"action":"auth","key":"bench","secret":"bench"}"#, &subscribe] {
        // Masked with zeros, as a client's frame must be; shorter than 126 bytes.
        bytes.extend([0x81, 0x80 | message.len() as u8, 0, 0, 0, 0]);
        bytes.extend(message.as_bytes());
    }
    stream.write_all(&bytes).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    Ok(stream)
}

/// Reads quotes, and how late each frame's first one is.
async fn read(
    mut stream: TcpStream,
    latencies: Arc<std::sync::Mutex<Latencies>>,
    received: Arc<AtomicU64>,
    over: CancellationToken,
) -> Result<(), String> {
    let (mut buffer, mut frames) = (vec![0; 256 * 1024], FrameCounter::default());
    let mut heard_of_at = Instant::now();
    while !over.is_cancelled() {
        if heard_of_at.elapsed() >= PONG_PERIOD {
            heard_of_at = Instant::now();
            // A masked pong without a payload: a client that says nothing would count as gone.
            let said = stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await;
            said.map_err(|error| format!("a client that reads was cut off: {error}"))?;
        }
        let read = tokio::time::timeout(PROBE_PERIOD, stream.read(&mut buffer)).await;
        let count = match read {
            Err(_) => continue,
            Ok(Ok(0)) => return Err("a client that reads was closed".to_owned()),
            Ok(read) => read.map_err(|error| format!("a client that reads was cut off: {error}"))?,
        };
        let now = crate::market::Timestamp::now();
        let mut seen = Latencies::default();
        let messages = frames.count(&buffer[..count], |published, messages| {
            seen.record(now.nanos_since(published), messages);
        });
        received.fetch_add(messages, Ordering::Relaxed);
        latencies.lock().map_err(|error| error.to_string())?.add(&seen);
    }
    Ok(())
}

/// Keeps a connection, and reads nothing.
async fn hold(stream: TcpStream, over: CancellationToken) {
    over.cancelled().await;
    drop(stream);
}

/// Asks for all of history, again and again, and reads nothing.
async fn ask_history(address: SocketAddr, over: CancellationToken) -> Result<(), String> {
    const REQUEST: &[u8] = b"GET /v1/history?kind=quotes&format=json HTTP/1.1\r\nhost: stk\r\n\r\n";
    while !over.is_cancelled() {
        let asked = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(REQUEST).await?;
            std::io::Result::Ok(stream)
        };
        let stream = asked.await.map_err(|error| error.to_string())?;
        // An answer that is not read holds its place until the server ends it.
        let _ = tokio::time::timeout(ASK_AGAIN, over.cancelled()).await;
        let mut status = [0; 12];
        let is_refused = stream.try_read(&mut status).is_ok() && status.ends_with(b"429");
        if !is_refused {
            hold(stream, over.clone()).await;
        }
    }
    Ok(())
}

/// Measures for as long as a phase lasts.
async fn phase(
    args: &ReadersArgs,
    server: &Server,
    latencies: &std::sync::Mutex<Latencies>,
) -> Result<Phase, CliError> {
    let taken = || latencies.lock().map(|mut latencies| std::mem::take(&mut *latencies)).unwrap_or_default();
    drop(taken());
    let mut phase = Phase::default();
    let began = Instant::now();
    let until = began + Duration::from_secs(args.seconds);
    let mut is_first = true;
    let mut period = tokio::time::interval(PROBE_PERIOD);
    while Instant::now() < until {
        period.tick().await;
        if is_first && began.elapsed() >= FIRST {
            is_first = false;
            phase.quotes = taken();
        }
        let asked = Instant::now();
        get(server.address, "/healthz").await.map_err(CliError::failed)?;
        let took = asked.elapsed();
        phase.healthz.record(took.as_nanos() as i64, 1);
        phase.healthz_max = phase.healthz_max.max(took);
        let metrics = metrics(server.address).await.map_err(CliError::failed)?;
        let most = |so_far: &mut u64, name| *so_far = (*so_far).max(metric_of(&metrics, name));
        most(&mut phase.queue_bytes_max, "stk_gateway_queue_bytes");
        most(&mut phase.history_bytes_max, "stk_history_bytes");
    }
    let rest = taken();
    phase.quotes.add(&rest);
    phase.later = rest;
    Ok(phase)
}

async fn metrics(address: SocketAddr) -> std::io::Result<String> {
    get(address, "/metrics").await
}

fn metric_of(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// The whole answer to a GET.
async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: stk\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
