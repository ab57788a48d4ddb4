//! The client of a server's stream: connects, subscribes, and after a broken connection resumes
//! from the last token it was sent. Every frame of data bears one, so that nothing is missed and
//! nothing comes twice. Where a token says nothing to the server (its log is another one now, or lost
//! its tail), that is told, the token dropped, and the stream begun anew.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{Endpoint, Key, KeyRefused};
use crate::backoff::{Backoff, jitter_seed};
use crate::market::{Price, Symbol, Timestamp, TradingDay};
use crate::wire::Message;
use crate::wire::json;

/// What to subscribe to. Symbols, or `*`, for each channel.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Symbols whose trades are wanted; their corrections and cancels come along.
    pub trades: Vec<String>,
    /// Symbols whose quotes are wanted.
    pub quotes: Vec<String>,
    /// Symbols whose day so far is wanted.
    pub daily_bars: Vec<String>,
    /// Symbols whose trading status is wanted.
    pub statuses: Vec<String>,
    /// Whether what is known now comes first.
    pub snapshot: bool,
}

/// What is known of a symbol at the beginning.
#[derive(Clone, Debug, PartialEq)]
pub struct SymbolSnapshot {
    /// Whose.
    pub symbol: Symbol,
    /// Price, shares and time of the last trade.
    pub trade: Option<(Price, u32, Timestamp)>,
    /// Bid, its size, ask, its size, and the time of the last quote.
    pub quote: Option<(Price, u32, Price, u32, Timestamp)>,
    /// The last day with a bar, and the shares traded on it.
    pub volume: Option<(TradingDay, u64)>,
    /// The close of the session before.
    pub prev_close: Option<Price>,
    /// The trading status' code.
    pub status: Option<String>,
}

/// What a stream tells.
#[derive(Clone, Debug)]
pub enum Event {
    /// Subscribed, for the first time or again.
    Connected {
        /// Whether what came before is resumed from.
        resumed: bool,
    },
    /// The connection is gone; another try follows.
    Disconnected {
        /// Why.
        reason: String,
        /// When the next try is.
        retry_in: Duration,
    },
    /// What is known of a symbol.
    Snapshot(Box<SymbolSnapshot>),
    /// Ticks and bars, in order; and when their frame arrived.
    Messages(Vec<Message>, Timestamp),
    /// What was missed has been made up.
    CaughtUp,
    /// The server lives.
    Heartbeat,
    /// This client is behind by so much.
    Lag {
        /// Milliseconds.
        ms: u64,
    },
    /// Something is missing: what, in the server's words.
    Gap(String),
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No server answers there.
    #[error("no server at {endpoint}: {reason}")]
    Unreachable {
        /// The address.
        endpoint: Endpoint,
        /// What the last layer said.
        reason: String,
    },
    /// The server wants a key, or another one.
    #[error(transparent)]
    Key(#[from] KeyRefused),
    /// The server refuses: the symbols, or one connection more.
    #[error("{endpoint} refused: {message} (code {code})")]
    Refused {
        /// The address.
        endpoint: Endpoint,
        /// Alpaca's code: 405 for symbols, 406 for connections.
        code: u64,
        /// The server's words.
        message: String,
    },
}

/// Why a connection is read no further.
enum End {
    /// The link, in words.
    Link(String),
    /// The server has nothing of what was resumed from.
    Reset,
}

/// Alpaca's code of a key that is not accepted.
const CODE_KEY: u64 = 402;
/// Alpaca's code of a request that is not understood.
const CODE_REQUEST: u64 = 400;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How many events may wait for their reader: a slow one makes the socket wait, and the server sees
/// a slow client.
const EVENTS_MAX: usize = 256;
/// How long connecting, or one answer of the handshake, may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// A server that was asked for heartbeats and says nothing for so long is gone.
const MUTE_MAX: Duration = Duration::from_secs(16);
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// A stream of events that keeps itself connected.
pub struct Stream {
    events: mpsc::Receiver<Event>,
    task: tokio::task::JoinHandle<()>,
}

impl Stream {
    /// Connects, shows `key` if there is one, and subscribes to what is `wanted`.
    ///
    /// Errors: the first try failed. Later ones are told as [`Event::Disconnected`] and repeated,
    /// with growing and spread waits of at most eight seconds, for as long as the stream lives.
    pub async fn connect(endpoint: Endpoint, key: Option<Key>, wanted: Wanted) -> Result<Self, StreamError> {
        let mut session = Session { endpoint, key, wanted, token: None, begins_anew: false };
        let socket = session.open().await?;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let task = tokio::spawn(async move { session.run(socket, sender).await });
        Ok(Self { events, task })
    }

    /// Waits for the next event. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The next event, if one is there.
    pub fn try_next(&mut self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Session {
    endpoint: Endpoint,
    key: Option<Key>,
    wanted: Wanted,
    /// Everything before it was seen, or is gone.
    token: Option<String>,
    /// What is known of the symbols is of records that are gone: a snapshot is needed again.
    begins_anew: bool,
}

impl Session {
    fn unreachable(&self, reason: impl ToString) -> StreamError {
        StreamError::Unreachable { endpoint: self.endpoint.clone(), reason: reason.to_string() }
    }

    /// Connects, authenticates and asks for what is wanted.
    async fn open(&self) -> Result<Socket, StreamError> {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let address = self.endpoint.ws("/v2/stk");
        let connecting = tokio_tungstenite::connect_async_with_config(address, Some(config), true);
        let mut socket = match tokio::time::timeout(ANSWER_MAX, connecting).await {
            Ok(Ok((socket, _))) => socket,
            Ok(Err(error)) => return Err(self.unreachable(error.to_string().to_lowercase())),
            Err(_) => return Err(self.unreachable(format!("no answer within {} s", ANSWER_MAX.as_secs()))),
        };
        self.answered(&mut socket, "connected").await?;
        let (id, secret) = self.key.as_ref().map_or(("any", "any"), |key| (&key.id, &key.secret));
        self.say(&mut socket, &json!({"action": "auth", "key": id, "secret": secret})).await?;
        self.answered(&mut socket, "authenticated").await?;
        let Wanted { trades, quotes, daily_bars, statuses, snapshot } = &self.wanted;
        let mut request = json!({
            "action": "subscribe", "trades": trades, "quotes": quotes, "dailyBars": daily_bars, "statuses": statuses,
            "token": true, "heartbeat": true, "gaps": true, "prev_closes": true,
        });
        if let Some(token) = &self.token {
            request["since"] = token.as_str().into();
        }
        if self.token.is_none() || self.begins_anew {
            request["snapshot"] = (*snapshot).into();
        }
        self.say(&mut socket, &request).await?;
        self.answered(&mut socket, "subscription").await?;
        Ok(socket)
    }

    async fn say(&self, socket: &mut Socket, message: &Value) -> Result<(), StreamError> {
        socket.send(Frame::Text(message.to_string().into())).await.map_err(|error| self.unreachable(error))
    }

    /// Waits for the server to say `expected`, a success or the kind of an answer. Such answers stand
    /// alone in their frame, so that no data is passed over.
    async fn answered(&self, socket: &mut Socket, expected: &str) -> Result<(), StreamError> {
        let silence = || self.unreachable(format!("no \"{expected}\" within {} s", ANSWER_MAX.as_secs()));
        let until = Instant::now() + ANSWER_MAX;
        loop {
            let frame = tokio::time::timeout_at(until, socket.next()).await.map_err(|_| silence())?;
            let text = match frame {
                Some(Ok(Frame::Text(text))) => text,
                Some(Ok(Frame::Close(_))) | None => return Err(self.unreachable("it closed the connection")),
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(self.unreachable(error)),
            };
            let answer: Value = serde_json::from_str(&text).map_err(|error| self.unreachable(error))?;
            for message in answer.as_array().into_iter().flatten() {
                match (message["T"].as_str(), message["msg"].as_str()) {
                    (Some("success"), Some(said)) if said == expected => return Ok(()),
                    (Some(kind), _) if kind == expected => return Ok(()),
                    (Some("error"), said) => return Err(self.refused(message, said)),
                    _ => {}
                }
            }
        }
    }

    fn refused(&self, message: &Value, said: Option<&str>) -> StreamError {
        if message["code"] == CODE_KEY {
            let was_shown = self.key.is_some();
            return KeyRefused { endpoint: self.endpoint.clone(), was_shown }.into();
        }
        StreamError::Refused {
            endpoint: self.endpoint.clone(),
            code: message["code"].as_u64().unwrap_or(0),
            message: said.unwrap_or("without a reason").to_owned(),
        }
    }

    /// Reads until the reader of the events is gone.
    async fn run(&mut self, socket: Socket, events: mpsc::Sender<Event>) {
        let mut backoff = Backoff::new(jitter_seed());
        let mut next = Ok(socket);
        loop {
            let reason = match next {
                Ok(socket) => {
                    let resumed = self.token.is_some() && !std::mem::take(&mut self.begins_anew);
                    if events.send(Event::Connected { resumed }).await.is_err() {
                        return;
                    }
                    match self.read(socket, &events, &mut backoff).await {
                        Some(End::Link(reason)) => reason,
                        Some(End::Reset) => {
                            // The server goes on from the token that it named.
                            next = self.open().await;
                            continue;
                        }
                        None => return,
                    }
                }
                Err(StreamError::Refused { code: CODE_REQUEST, message, .. }) if self.token.is_some() => {
                    self.token = None;
                    let gap = format!("the server can't go on from where this client was: {message}");
                    if events.send(Event::Gap(gap)).await.is_err() {
                        return;
                    }
                    next = self.open().await;
                    continue;
                }
                Err(error) => error.to_string(),
            };
            let retry_in = backoff.next();
            if events.send(Event::Disconnected { reason, retry_in }).await.is_err() {
                return;
            }
            tokio::time::sleep(retry_in).await;
            next = self.open().await;
        }
    }

    /// Reads one connection to its end and says why it ended; `None` when nobody listens any more.
    async fn read(
        &mut self,
        mut socket: Socket,
        events: &mpsc::Sender<Event>,
        backoff: &mut Backoff,
    ) -> Option<End> {
        let link = |reason: String| Some(End::Link(reason));
        loop {
            let frame = match tokio::time::timeout(MUTE_MAX, socket.next()).await {
                Err(_) => return link(format!("nothing was heard for {} s", MUTE_MAX.as_secs())),
                Ok(None) => return link("the server closed the connection".to_owned()),
                Ok(Some(Err(error))) => return link(error.to_string().to_lowercase()),
                Ok(Some(Ok(frame))) => frame,
            };
            let text = match frame {
                Frame::Text(text) => text,
                Frame::Close(_) => return link("the server closed the connection".to_owned()),
                _ => continue,
            };
            let now = Timestamp::now();
            let messages = match json::decode(text.as_bytes(), now) {
                Ok(messages) => messages,
                Err(error) => return link(format!("the server sent what can't be read: {error}")),
            };
            backoff.reset();
            let mut data = Vec::new();
            for message in messages {
                match message {
                    Message::Control(control) => {
                        if is_reset(&control) {
                            self.token = control["last_token"].as_str().map(str::to_owned);
                            self.begins_anew = true;
                            events.send(Event::Gap(gap_in_words(&control))).await.ok()?;
                            return Some(End::Reset);
                        }
                        if let Some(event) = self.control(&control) {
                            events.send(event).await.ok()?;
                        }
                    }
                    message => data.push(message),
                }
            }
            if !data.is_empty() {
                events.send(Event::Messages(data, now)).await.ok()?;
            }
        }
    }

    fn control(&mut self, message: &Value) -> Option<Event> {
        if let Some(token) = message["token"].as_str() {
            self.token = Some(token.to_owned());
        }
        match message["T"].as_str()? {
            "snapshot" => snapshot(message).map(|snapshot| Event::Snapshot(Box::new(snapshot))),
            "caught_up" => Some(Event::CaughtUp),
            "heartbeat" => Some(Event::Heartbeat),
            "lag" => Some(Event::Lag { ms: message["ms"].as_u64().unwrap_or(0) }),
            "gap" => Some(Event::Gap(gap_in_words(message))),
            "error" => {
                let said = message["msg"].as_str().unwrap_or("an error");
                Some(Event::Gap(format!("the server says: {said}")))
            }
            _ => None,
        }
    }
}

/// Whether the server tells that it can't go on from the token it was given.
fn is_reset(message: &Value) -> bool {
    message["T"] == "gap" && message["kind"] == "reset"
}

fn gap_in_words(message: &Value) -> String {
    if is_reset(message) {
        let reason = message["msg"].as_str().unwrap_or("the server does not say why");
        return format!("what this client saw last is not in the log any more: {reason}");
    }
    let count = message["count"].as_u64();
    let counted = count.map(|count| format!("{count} messages ")).unwrap_or_default();
    format!("{counted}{}", message["kind"].as_str().unwrap_or("missing"))
}

/// Reads what a server knows of a symbol; parts that are absent or strange are left out.
fn snapshot(message: &Value) -> Option<SymbolSnapshot> {
    let price = |value: &Value| value.as_f64().and_then(Price::from_f64);
    let size = |value: &Value| value.as_u64().and_then(|size| u32::try_from(size).ok());
    let instant = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let trade = &message["latestTrade"];
    let quote = &message["latestQuote"];
    let daily = &message["dailyBar"];
    let day_of = |value: &Value| instant(&value["t"]).map(Timestamp::trading_day);
    // Before a day has a bar the last one is of the session before.
    let before = if day_of(trade) > day_of(daily) { daily } else { &message["prevDailyBar"] };
    Some(SymbolSnapshot {
        symbol: message["S"].as_str()?.parse().ok()?,
        trade: price(&trade["p"])
            .zip(size(&trade["s"]))
            .zip(instant(&trade["t"]))
            .map(|((p, s), t)| (p, s, t)),
        quote: price(&quote["bp"]).zip(price(&quote["ap"])).zip(instant(&quote["t"])).map(
            |((bid, ask), ts)| {
                (bid, size(&quote["bs"]).unwrap_or(0), ask, size(&quote["as"]).unwrap_or(0), ts)
            },
        ),
        volume: day_of(daily).zip(daily["v"].as_u64()),
        prev_close: price(&message["prevClose"]).or_else(|| price(&before["c"])),
        status: message["status"].as_str().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::market::Tick;

    const TICK: &str = r#"{"T":"pc","S":"AAPL","p":190.45,"t":"2026-11-20T15:00:00Z"}"#;

    struct Peer(WebSocketStream<TcpStream>);

    impl Peer {
        /// Takes a connection and brings it to its subscription, which is returned.
        async fn accept(listener: &TcpListener) -> (Self, Value) {
            let (stream, _) = listener.accept().await.unwrap();
            let mut peer = Self(tokio_tungstenite::accept_async(stream).await.unwrap());
            peer.say(r#"[{"T":"success","msg":"connected"}]"#).await;
            assert_eq!(peer.hear().await["action"], "auth");
            peer.say(r#"[{"T":"success","msg":"authenticated"}]"#).await;
            let wanted = peer.hear().await;
            peer.say(r#"[{"T":"subscription","trades":["*"]}]"#).await;
            (peer, wanted)
        }

        async fn say(&mut self, text: &str) {
            self.0.send(Frame::Text(text.to_owned().into())).await.unwrap();
        }

        async fn hear(&mut self) -> Value {
            match self.0.next().await.unwrap().unwrap() {
                Frame::Text(text) => serde_json::from_str(&text).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn listener() -> (TcpListener, Endpoint) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        (listener, endpoint)
    }

    #[tokio::test]
    async fn it_resumes_from_the_last_token() {
        let (listener, endpoint) = listener().await;
        let server = tokio::spawn(async move {
            let (mut peer, wanted) = Peer::accept(&listener).await;
            assert_eq!((wanted.get("since"), &wanted["snapshot"]), (None, &json!(true)));
            peer.say(r#"[{"T":"snapshot","S":"AAPL","latestTrade":{"p":190.5,"s":100,"t":"2026-11-20T15:00:00Z"},"prevClose":189}]"#).await;
            peer.say(&format!("[{TICK}]")).await;
            peer.say(r#"[{"T":"token","token":"1.7"}]"#).await;
            peer.say(r#"[{"T":"heartbeat","n":1}]"#).await;
            drop(peer);
            let (mut peer, wanted) = Peer::accept(&listener).await;
            assert_eq!((&wanted["since"], wanted.get("snapshot")), (&json!("1.7"), None));
            peer.say(r#"[{"T":"gap","kind":"dropped","count":3}]"#).await;
            peer.say(r#"[{"T":"caught_up","token":"1.9"}]"#).await;
            while peer.0.next().await.is_some_and(|frame| frame.is_ok()) {}
        });
        let wanted = Wanted { trades: vec!["*".to_owned()], snapshot: true, ..Wanted::default() };
        let mut stream = Stream::connect(endpoint, None, wanted).await.unwrap();
        assert!(matches!(stream.next().await, Some(Event::Connected { resumed: false })));
        let Some(Event::Snapshot(snapshot)) = stream.next().await else { panic!() };
        assert_eq!(snapshot.prev_close, Some("189".parse().unwrap()));
        assert_eq!(snapshot.trade.unwrap().0, "190.5".parse().unwrap());
        let Some(Event::Messages(messages, _)) = stream.next().await else { panic!() };
        assert!(matches!(&messages[..], [Message::Tick(Tick::PrevClose(_))]));
        assert!(matches!(stream.next().await, Some(Event::Heartbeat)));
        assert!(matches!(stream.next().await, Some(Event::Disconnected { .. })));
        assert!(matches!(stream.next().await, Some(Event::Connected { resumed: true })));
        let Some(Event::Gap(gap)) = stream.next().await else { panic!() };
        assert_eq!(gap, "3 messages dropped");
        assert!(matches!(stream.next().await, Some(Event::CaughtUp)));
        drop(stream);
        server.await.unwrap();
    }

    /// A server that lost the records of the token sends a reset with the token where its stream continues. An
    /// older server refuses the token. In both cases the client subscribes again at once and asks for a snapshot;
    /// after a reset it also names the server's token.
    #[tokio::test]
    async fn a_token_that_says_nothing_to_the_server_is_told_and_dropped() {
        for is_refused in [false, true] {
            let (listener, endpoint) = listener().await;
            let server = tokio::spawn(async move {
                let (mut peer, _) = Peer::accept(&listener).await;
                peer.say(r#"[{"T":"token","token":"2.a.0.7"}]"#).await;
                peer.say(r#"[{"T":"heartbeat","n":1}]"#).await;
                drop(peer);
                if is_refused {
                    let (stream, _) = listener.accept().await.unwrap();
                    let mut peer = Peer(tokio_tungstenite::accept_async(stream).await.unwrap());
                    peer.say(r#"[{"T":"success","msg":"connected"}]"#).await;
                    peer.hear().await;
                    peer.say(r#"[{"T":"success","msg":"authenticated"}]"#).await;
                    assert_eq!(peer.hear().await["since"], "2.a.0.7");
                    peer.say(r#"[{"T":"error","code":400,"msg":"invalid syntax: whatever"}]"#).await;
                } else {
                    let (mut peer, wanted) = Peer::accept(&listener).await;
                    assert_eq!(wanted["since"], "2.a.0.7");
                    let gap = r#"{"T":"gap","kind":"reset","first_token":"2.a.0.7","last_token":"2.b.0.9","msg":"whatever"}"#;
                    peer.say(&format!(r#"[{gap},{{"T":"token","token":"2.b.0.9"}}]"#)).await;
                }
                let (mut peer, wanted) = Peer::accept(&listener).await;
                let since = (!is_refused).then_some(json!("2.b.0.9"));
                assert_eq!((wanted.get("since"), &wanted["snapshot"]), (since.as_ref(), &json!(true)));
                peer.say(&format!("[{TICK}]")).await;
                while peer.0.next().await.is_some_and(|frame| frame.is_ok()) {}
            });
            let wanted = Wanted { trades: vec!["*".to_owned()], snapshot: true, ..Wanted::default() };
            let mut stream = Stream::connect(endpoint, None, wanted).await.unwrap();
            assert!(matches!(stream.next().await, Some(Event::Connected { resumed: false })));
            assert!(matches!(stream.next().await, Some(Event::Heartbeat)));
            assert!(matches!(stream.next().await, Some(Event::Disconnected { .. })));
            if !is_refused {
                assert!(matches!(stream.next().await, Some(Event::Connected { resumed: true })));
            }
            let Some(Event::Gap(gap)) = stream.next().await else { panic!() };
            assert!(gap.ends_with(": whatever") || gap.ends_with(": invalid syntax: whatever"), "{gap}");
            assert!(matches!(stream.next().await, Some(Event::Connected { resumed: false })));
            assert!(matches!(stream.next().await, Some(Event::Messages(..))));
            drop(stream);
            server.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_refusal_and_an_absent_server_are_errors() {
        let (listener, endpoint) = listener().await;
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut peer = Peer(tokio_tungstenite::accept_async(stream).await.unwrap());
            peer.say(r#"[{"T":"success","msg":"connected"}]"#).await;
            peer.hear().await;
            peer.say(r#"[{"T":"error","code":402,"msg":"auth failed"}]"#).await;
            listener
        });
        let error = Stream::connect(endpoint.clone(), None, Wanted::default()).await.err().unwrap();
        assert_eq!(error.to_string(), format!("{endpoint} needs a key"));
        let listener = server.await.unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut peer = Peer(tokio_tungstenite::accept_async(stream).await.unwrap());
            peer.say(r#"[{"T":"success","msg":"connected"}]"#).await;
            peer.hear().await;
            peer.say(r#"[{"T":"success","msg":"authenticated"}]"#).await;
            peer.hear().await;
            peer.say(r#"[{"T":"error","code":405,"msg":"symbol limit exceeded"}]"#).await;
        });
        let error = Stream::connect(endpoint.clone(), None, Wanted::default()).await.err().unwrap();
        assert_eq!(error.to_string(), format!("{endpoint} refused: symbol limit exceeded (code 405)"));
        server.await.unwrap();
        let error =
            Stream::connect("127.0.0.1:1".parse().unwrap(), None, Wanted::default()).await.err().unwrap();
        assert!(error.to_string().starts_with("no server at 127.0.0.1:1: "), "{error}");
    }
}
