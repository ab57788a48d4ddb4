//! A gateway on a log in memory, and clients for it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use stk::bus::Bus;
use stk::bus::epoch::LogEpoch;
use stk::market::{
    Cancel, Conditions, Exchange, Gap, GapKind, Price, Quote, Seq, Symbol, Tape, Tick, Timestamp, Trade,
};
use stk::server::gateway::{self, GatewayConfig, GatewayState, MemoryBus};
use stk::server::metrics::{self, GatewayMetrics};
use stk::server::operations::Operations;
use stk::tiering::hot::memory::MemoryHot;
use stk::tiering::hot::{Hot, HotUpdates};
use stk::wire::record::{Origin, RecordEncoder};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message, http};

/// Partitions of the log in most tests.
pub(crate) const PARTITIONS: u16 = 2;
/// Its identity, `a` in tokens.
pub(crate) const LOG_ID: u64 = 0xa;

/// The same with a generation, as a log on disk has: its tokens begin with `2.a.1.`.
pub(crate) fn epoch() -> LogEpoch {
    LogEpoch::with_history(LOG_ID, 1, [], Vec::new())
}

pub(crate) fn config() -> GatewayConfig {
    GatewayConfig::default()
}

/// A server under test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) bus: Arc<MemoryBus>,
    pub(crate) hot: Arc<MemoryHot>,
    pub(crate) metrics: GatewayMetrics,
    pub(crate) not_ready: Arc<Mutex<Vec<String>>>,
    sequence: Mutex<u64>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    pub(crate) served: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(config: GatewayConfig) -> Self {
        let bus = MemoryBus::new(PARTITIONS, 100_000).with_epoch(epoch());
        Self::start_on(config, Arc::new(bus), |_| {}).await
    }

    pub(crate) async fn start_on(
        config: GatewayConfig,
        bus: Arc<MemoryBus>,
        change: impl FnOnce(&mut GatewayState),
    ) -> Self {
        // The client of these tests asks for one, though nothing here speaks TLS.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hot = Arc::new(MemoryHot::new(bus.partitions()).with_horizon(config.horizon));
        let metrics = GatewayMetrics::default();
        let mut registry = metrics::registry();
        metrics.register(&mut registry);
        let not_ready = Arc::new(Mutex::new(Vec::new()));
        let mut state = GatewayState {
            bus: bus.clone(),
            hot: hot.clone(),
            own_hot: None,
            warm: None,
            history: None,
            config,
            metrics: metrics.clone(),
            operations: Operations {
                admin: None,
                registry: Arc::new(registry),
                not_ready: {
                    let not_ready = not_ready.clone();
                    Arc::new(move || not_ready.lock().unwrap().clone())
                },
                degraded: Arc::new(Vec::new),
                details: Arc::new(|| serde_json::json!({ "role": "test" })),
            },
            feeds: vec!["none".to_owned()],
        };
        change(&mut state);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let served = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            gateway::serve(listener, state, stopped).await.unwrap();
        });
        Self { address, bus, hot, metrics, not_ready, sequence: Mutex::new(0), stop: Some(stop), served }
    }

    /// Puts ticks into the log as one record a partition, and into hot.
    pub(crate) async fn publish(&self, ticks: &[Tick]) {
        let partitions = self.bus.partitions();
        let sequence = {
            let mut sequence = self.sequence.lock().unwrap();
            *sequence += 1;
            *sequence
        };
        for partition in 0..partitions {
            let mine =
                |tick: &&Tick| tick.symbol().is_none_or(|symbol| symbol.partition(partitions) == partition);
            let mine: Vec<Tick> = ticks.iter().filter(mine).cloned().collect();
            if mine.is_empty() {
                continue;
            }
            let offset = self.bus.push(partition, record(&mine, sequence)).unwrap();
            let place = |index: usize| Seq { partition, offset, index: index as u32 };
            let placed = mine.into_iter().enumerate().map(|(index, tick)| (place(index), tick)).collect();
            self.hot.apply(partition, &HotUpdates { ticks: placed, ..HotUpdates::default() }).await.unwrap();
        }
        self.seen().await;
    }

    /// Waits until the gateway has read the log to its end.
    async fn seen(&self) {
        loop {
            let status = self.get("/v1/status").await.json::<serde_json::Value>().await.unwrap();
            let mut partitions = status["partitions"].as_array().unwrap().iter();
            if partitions.all(|partition| partition["log_next_offset"] == partition["gateway_next_offset"]) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The answer to a GET of `path`.
    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        reqwest::get(self.url(path)).await.unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Asks it to stop.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }
}

pub(crate) fn record(ticks: &[Tick], sequence: u64) -> bytes::Bytes {
    let mut encoder = RecordEncoder::new();
    ticks.iter().for_each(|tick| encoder.push(tick));
    encoder.finish(Origin { producer: 1, sequence })
}

pub(crate) fn symbol(name: &str) -> Symbol {
    name.parse().unwrap()
}

pub(crate) fn ts() -> Timestamp {
    "2026-11-20T15:00:00.000000001Z".parse().unwrap()
}

fn price(text: &str) -> Price {
    text.parse().unwrap()
}

pub(crate) fn trade_at(name: &str, id: u64, ts: Timestamp) -> Tick {
    Tick::Trade(Trade {
        symbol: symbol(name),
        ts,
        recv_ts: ts,
        price: price("190.45"),
        size: 100,
        exchange: Exchange::IEX,
        conditions: Conditions::from_codes(b"@").unwrap(),
        id,
        tape: Tape::C,
    })
}

pub(crate) fn trade(name: &str, id: u64) -> Tick {
    trade_at(name, id, ts())
}

pub(crate) fn quote(name: &str) -> Tick {
    Tick::Quote(Quote {
        symbol: symbol(name),
        ts: ts(),
        recv_ts: ts(),
        bid: price("190.40"),
        ask: price("190.50"),
        bid_size: 1,
        ask_size: 2,
        bid_exchange: Exchange::IEX,
        ask_exchange: Exchange::IEX,
        conditions: Conditions::from_codes(b"R").unwrap(),
        tape: Tape::C,
    })
}

pub(crate) fn cancel(name: &str, id: u64) -> Tick {
    Tick::Cancel(Box::new(Cancel {
        symbol: symbol(name),
        ts: ts(),
        recv_ts: ts(),
        id,
        price: price("190.45"),
        size: 100,
        exchange: Exchange::IEX,
        action: b'C',
        tape: Tape::C,
    }))
}

pub(crate) fn gap(name: Option<&str>) -> Tick {
    Tick::Gap(Box::new(Gap {
        symbol: name.map(symbol),
        ts: ts(),
        recv_ts: ts(),
        kind: GapKind::Missed,
        source: "iex/1".into(),
        first: 1,
        last: 5,
    }))
}

/// A WebSocket client.
pub(crate) struct Client(pub(crate) WebSocketStream<TcpStream>);

impl Client {
    pub(crate) async fn open(
        address: SocketAddr,
        path: &str,
        headers: &[(String, String)],
    ) -> Result<Self, Error> {
        Self::over(TcpStream::connect(address).await?, address, path, headers).await
    }

    /// The same over `stream`.
    pub(crate) async fn over(
        stream: TcpStream,
        address: SocketAddr,
        path: &str,
        headers: &[(String, String)],
    ) -> Result<Self, Error> {
        let mut request = http::Request::get(format!("ws://{address}{path}"))
            .header("host", address.to_string())
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let (socket, _) = tokio_tungstenite::client_async(request.body(()).unwrap(), stream).await?;
        Ok(Self(socket))
    }

    /// Connected and authenticated.
    pub(crate) async fn authenticated(address: SocketAddr) -> Self {
        let key = [("APCA-API-KEY-ID".to_owned(), "me".to_owned())];
        let mut client = Self::open(address, "/v2/stk", &key).await.unwrap();
        for said in ["connected", "authenticated"] {
            assert_eq!(client.hear().await, format!(r#"[{{"T":"success","msg":"{said}"}}]"#));
        }
        client
    }

    /// Subscribed; the answer is taken.
    pub(crate) async fn subscribed(address: SocketAddr, request: &str) -> Self {
        let mut client = Self::authenticated(address).await;
        client.say(request).await;
        let answer = client.hear().await;
        assert!(answer.starts_with(r#"[{"T":"subscription""#), "{answer}");
        client
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    /// The next message.
    pub(crate) async fn hear(&mut self) -> String {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("no text: {other:?}"),
            }
        }
    }

    /// The messages of the next frame.
    pub(crate) async fn messages(&mut self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.hear().await).unwrap()
    }

    /// The code with which the server closes.
    pub(crate) async fn closed(&mut self) -> u16 {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("no close: {other:?}"),
            }
        }
    }
}
