//! What clients can take from the server: all of it has a bound, and nobody else notices.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use stk::server::gateway::{ClientKey, GatewayConfig, HandshakeLimit};
use stk::tiering::history::History;
use stk::tiering::warm::local::{LocalWarm, LocalWarmOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::support::{Client, Server, config, record, trade};

/// A socket with room for little, so that a client that does not read is noticed soon.
pub(crate) async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(address).await.unwrap()
}

/// So many clients with the same subscription are not parked (`PARKED_MEMBERS_MAX` in `fanout.rs`).
const SHARING: i64 = 9;

/// Asks for `path`, and reads nothing.
async fn unread(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = narrow(address).await;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

/// The answer to what `head` asks, up to its first message.
async fn answer(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    while !bytes.windows(3).any(|end| end == b"\"}]") && stream.read_buf(&mut bytes).await.unwrap() > 0 {}
    String::from_utf8(bytes).unwrap()
}

pub(crate) async fn until(what: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_mins(1), async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    waited.await.expect("it happens within a minute");
}

/// A server with history, whose log holds `records` times 4,000 trades of AAPL.
async fn with_history(config: GatewayConfig, records: u64) -> (Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let warm = LocalWarm::open(dir.path(), LocalWarmOptions { compaction: false }).unwrap();
    let bus = Arc::new(stk::server::gateway::MemoryBus::new(2, 100_000));
    let history = History::new(bus.clone(), warm);
    let server = Server::start_on(config, bus, |state| state.history = Some(history)).await;
    let partition = super::support::symbol("AAPL").partition(2);
    for sequence in 1..=records {
        let trades: Vec<_> = (0..4_000).map(|id| trade("AAPL", sequence * 4_000 + id)).collect();
        server.bus.push(partition, record(&trades, sequence)).unwrap();
    }
    (server, dir)
}

const ALL: &str = "/v1/history?kind=trades&format=json&symbols=AAPL";

#[tokio::test]
async fn queries_beyond_the_bound_are_told_to_come_back() {
    let mut config = config();
    config.queries.per_client_max = 2;
    (config.queries.wait_max, config.queries.replay_wait_max) = (Duration::ZERO, Duration::ZERO);
    let (server, _dir) = with_history(config, 40).await;
    let readers = [unread(server.address, ALL).await, unread(server.address, ALL).await];
    until(|| server.metrics.history_queries.get() == 2).await;
    let refused = server.get("/v2/stocks/AAPL/trades").await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"2".parse().unwrap()));
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["code"], 42_910_000);
    assert!(body["message"].as_str().unwrap().contains("too many queries of history"), "{body}");
    // What such an answer would cover takes as much to find out.
    assert_eq!(server.get("/v1/coverage?kind=trades").await.status(), 429);
    // A replay out of history needs a place too.
    let mut replay = Client::authenticated(server.address).await;
    replay.say(r#"{"action":"subscribe","trades":["AAPL"],"since":"2020-01-01T00:00:00Z"}"#).await;
    assert!(replay.hear().await.starts_with(r#"[{"T":"subscription""#));
    let error = replay.messages().await;
    assert_eq!((error[0]["code"].as_u64(), replay.closed().await), (Some(429), 1013), "{error:?}");
    // What is not of the past goes on.
    assert_eq!(server.get("/v2/stocks/AAPL/snapshot").await.status(), 200);
    let mut live = Client::subscribed(server.address, r#"{"action":"subscribe","trades":["AAPL"]}"#).await;
    let partition = super::support::symbol("AAPL").partition(2);
    server.bus.push(partition, record(&[trade("AAPL", 1)], 41)).unwrap();
    assert_eq!(live.messages().await[0]["T"], "t");
    assert_eq!(server.get("/healthz").await.status(), 200);
    assert_eq!(server.metrics.history_refused.get(), 3);
    assert!(server.metrics.history_bytes.get() > 0);

    drop(readers);
    until(|| server.metrics.history_bytes.get() == 0).await;
    assert_eq!(server.metrics.history_queries.get(), 0);
    let page = server.get("/v2/stocks/AAPL/trades?start=2020-01-01&limit=3").await;
    assert!(page.headers().contains_key("content-length"), "{:?}", page.headers());
    let page: Value = page.json().await.unwrap();
    assert_eq!(page["trades"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_cut_off_and_counted() {
    let mut config = config();
    config.stall_max = Duration::from_secs(1);
    let (server, _dir) = with_history(config, 40).await;
    let readers = [unread(server.address, ALL).await, unread(server.address, ALL).await];
    until(|| server.metrics.stalled_readers.get() == 2).await;
    until(|| server.metrics.history_bytes.get() == 0).await;
    drop(readers);
    assert_eq!(server.metrics.slow_clients.get(), 0);
}

#[tokio::test]
async fn events_that_nobody_reads_end_like_any_slow_client() {
    let mut config = config();
    (config.queue_bytes_max, config.stall_max) = (128 << 10, Duration::from_hours(1));
    let server = Server::start(config).await;
    // So many share their frames that nobody is parked.
    let mut slow = Vec::new();
    for _ in 0..SHARING {
        slow.push(unread(server.address, "/v2/stk/sse?trades=AAPL").await);
    }
    until(|| server.metrics.event_streams.get() == SHARING).await;
    let mut id = 0;
    while server.metrics.slow_clients.get() < SHARING as u64 {
        server.publish(&(id..id + 400).map(|id| trade("AAPL", id)).collect::<Vec<_>>()).await;
        id += 400;
        assert!(id < 1_000_000, "the queue has no bound");
    }
    until(|| server.metrics.event_streams.get() == 0).await;
    let ended = (server.metrics.slow_clients.get(), server.metrics.stalled_readers.get());
    assert_eq!(ended, (SHARING as u64, 0));
    until(|| server.metrics.queue_bytes.get() == 0).await;
    // The connections have ended: what is left in their sockets is all there is.
    for mut slow in slow {
        let _ = slow.read_to_end(&mut Vec::new()).await;
    }
}

#[tokio::test]
async fn events_that_stop_being_read_end_when_nothing_more_comes_too() {
    let mut config = config();
    (config.queue_bytes_max, config.stall_max) = (64 << 20, Duration::from_secs(1));
    let server = Server::start(config).await;
    let slow = unread(server.address, "/v2/stk/sse?trades=AAPL").await;
    until(|| server.metrics.event_streams.get() == 1).await;
    for id in 0..20 {
        server.publish(&(0..4_000).map(|at| trade("AAPL", id * 4_000 + at)).collect::<Vec<_>>()).await;
    }
    until(|| server.metrics.event_streams.get() == 0).await;
    assert_eq!((server.metrics.slow_clients.get(), server.metrics.stalled_readers.get()), (1, 0));
    drop(slow);
}

#[tokio::test]
async fn all_queues_share_one_budget_and_the_slowest_pay() {
    let mut config = config();
    (config.queue_bytes_max, config.queues_bytes_max) = (64 << 20, 2 << 20);
    config.stall_max = Duration::from_hours(1);
    let server = Server::start(config).await;
    let mut slow = Vec::new();
    for name in ["MSFT", "TSLA", "IBM"].into_iter().flat_map(|name| [name; SHARING as usize]) {
        let stream = narrow(server.address).await;
        let mut client = Client::over(stream, server.address, "/v2/stk", &[]).await.unwrap();
        client.say(r#"{"action":"auth","key":"me","secret":"s"}"#).await;
        client.say(&format!(r#"{{"action":"subscribe","trades":["AAPL","{name}"]}}"#)).await;
        for _ in 0..3 {
            client.hear().await;
        }
        slow.push(client);
    }
    let mut quick = Client::subscribed(server.address, r#"{"action":"subscribe","trades":["AAPL"]}"#).await;
    let (mut id, mut heard) = (0, 0);
    // Those who share frames are closed together, or parked once so few of them are left.
    let (evicted, parked) = (&server.metrics.clients_evicted, &server.metrics.clients_parked);
    while evicted.get() + parked.get() < slow.len() as u64 {
        server.publish(&(id..id + 400).map(|id| trade("AAPL", id)).collect::<Vec<_>>()).await;
        id += 400;
        while heard < id {
            heard += quick.messages().await.iter().filter(|message| message["T"] == "t").count() as u64;
        }
        assert!(id < 1_000_000, "the queues have no bound");
        assert!(server.metrics.queue_bytes.get() <= 2 << 20);
    }
    assert!((3..=slow.len() as u64).contains(&evicted.get()), "{}", evicted.get());
    until(|| server.metrics.slow_clients.get() == evicted.get()).await;
    drop(slow);
    until(|| server.metrics.websockets.get() == 1).await;
    until(|| server.metrics.queue_bytes.get() == 0).await;
    server.publish(&[trade("AAPL", id)]).await;
    quick.messages().await;
}

fn with_key() -> GatewayConfig {
    let keys = vec![ClientKey { id: "me".to_owned(), secret: stk::secret::Secret::new("good") }];
    GatewayConfig { keys, ..config() }
}

#[tokio::test]
async fn a_program_with_a_wrong_key_locks_nobody_out() {
    let server = Server::start(with_key()).await;
    let wrong = [
        ("APCA-API-KEY-ID".to_owned(), "me".to_owned()),
        ("APCA-API-SECRET-KEY".to_owned(), "old".to_owned()),
    ];
    let mut stale = Vec::new();
    for _ in 0..30 {
        stale.push(Client::open(server.address, "/v2/stk", &wrong).await.unwrap());
    }
    until(|| server.metrics.auth_failures.get() == 30).await;
    // Those that wait for their refusal are few; the others are let go of.
    assert!(server.metrics.handshakes_limited.get() >= 10);
    let mut client = Client::open(server.address, "/v2/stk", &[]).await.unwrap();
    client.hear().await;
    client.say(r#"{"action":"auth","key":"me","secret":"good"}"#).await;
    assert_eq!(client.hear().await, r#"[{"T":"success","msg":"authenticated"}]"#);
    let key = "apca-api-key-id: me\r\napca-api-secret-key: good\r\n";
    let events =
        answer(server.address, &format!("GET /v2/stk/sse?trades=A HTTP/1.1\r\nhost: x\r\n{key}\r\n")).await;
    assert!(events.contains("connected"), "{events}");
    let http = reqwest::Client::new();
    let asked = |secret: &'static str| {
        let request = http.get(server.url("/v2/stocks/snapshots?symbols=A"));
        request.header("apca-api-key-id", "me").header("apca-api-secret-key", secret).send()
    };
    assert_eq!(asked("good").await.unwrap().status(), 200);
}

#[tokio::test]
async fn connections_that_show_no_key_are_few_from_one_address() {
    let server = Server::start(GatewayConfig { connections_max: 64, ..with_key() }).await;
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(Client::open(server.address, "/v2/stk", &[]).await.unwrap());
    }
    assert!(Client::open(server.address, "/v2/stk", &[]).await.is_err());
    let key = [
        ("APCA-API-KEY-ID".to_owned(), "me".to_owned()),
        ("APCA-API-SECRET-KEY".to_owned(), "good".to_owned()),
    ];
    Client::open(server.address, "/v2/stk", &key).await.unwrap();
    silent[0].hear().await;
    silent[0].say(r#"{"action":"auth","key":"me","secret":"good"}"#).await;
    silent[0].hear().await;
    Client::open(server.address, "/v2/stk", &[]).await.unwrap();
}

/// Behind a proxy that is trusted each client has limits of its own, however the proxy names it.
#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_told_apart() {
    let handshakes = HandshakeLimit { burst: 1, period: Duration::from_hours(1) };
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let server = Server::start(GatewayConfig { handshakes, trusted_proxies, ..config() }).await;
    let head = |proxy: &str, header: &str| {
        format!("{proxy}GET /v2/stk/sse?trades=A HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n")
    };
    let said = async |head: String| {
        let events = answer(server.address, &head).await;
        match (events.contains("connected"), events.contains("too many attempts from this address")) {
            (true, false) => true,
            (false, true) => false,
            _ => panic!("{events}"),
        }
    };
    for address in ["192.0.2.1", "192.0.2.2"] {
        assert!(said(head("", &format!("x-forwarded-for: {address}\r\n"))).await);
        assert!(!said(head("", &format!("forwarded: for={address}\r\n"))).await);
        assert!(!said(head(&format!("PROXY TCP4 {address} 10.0.0.1 1 2\r\n"), "")).await);
    }
    assert!(said(head("PROXY TCP4 192.0.2.3 10.0.0.1 1 2\r\n", "x-forwarded-for: 192.0.2.1\r\n")).await);
    assert!(!said(head("PROXY TCP4 192.0.2.3 10.0.0.1 1 2\r\n", "x-forwarded-for: 192.0.2.4\r\n")).await);
}
