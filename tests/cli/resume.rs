//! Clients that resume with a token of the last milliseconds before a server was killed.
//!
//! Clients see records before they are durable, and on a busy machine before they are written. A kill alone takes none
//! that was written: the system has them. A power cut does, so some of the kills here are followed by a cut of the log's
//! journal behind what was synced. Each client reconnects with the last token that it was sent. In the end, it must have every trade
//! of history exactly once. Of the trades that are in no history, it must have been told by a reset.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::{SinkExt, StreamExt};
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use serde_json::Value;
use stk::wire::token::Token;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;

use super::kill::seed;
use super::support::{self, PATIENCE, Server};
use super::timelines::{Plant, trade};

/// What follows the kill that ends a life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Nothing: the process alone dies.
    Nothing,
    /// A power cut that takes everything that was not synced.
    Unsynced,
    /// A power cut that takes a random part of that.
    Part,
}

const LIVES: [Cut; 6] = [Cut::Nothing, Cut::Unsynced, Cut::Part, Cut::Nothing, Cut::Part, Cut::Part];
/// A server is killed once each client has seen so many of the trades of its life, at most.
const SEEN_MAX: u64 = 60;
const BATCH_TRADES: u64 = 5;

/// What one client has been sent so far.
#[derive(Default)]
struct Seen {
    /// How often each trade came, by its id.
    trades: BTreeMap<u64, u64>,
    /// Where to resume.
    last: Option<String>,
    /// The first and the last token of each reset.
    resets: Vec<[String; 2]>,
    /// Gaps of any other kind.
    other_gaps: Vec<Value>,
}

impl Seen {
    fn take(&mut self, messages: &[Value]) {
        let text = |message: &Value, name: &str| message[name].as_str().map(str::to_owned);
        for message in messages {
            match message["T"].as_str() {
                Some("t") => {
                    *self.trades.entry(message["i"].as_u64().expect("a trade has an id")).or_default() += 1;
                }
                Some("gap") if message["kind"] == "reset" => {
                    let ends = ["first_token", "last_token"].map(|name| text(message, name));
                    let [Some(first), Some(last)] = ends else {
                        panic!("a reset names its tokens: {message}")
                    };
                    assert_eq!(Some(&first), self.last.as_ref(), "a reset names the token that was sent");
                    self.last = Some(last.clone());
                    self.resets.push([first, last]);
                }
                Some("gap") => self.other_gaps.push(message.clone()),
                Some("error") => panic!("{message}"),
                _ => self.last = text(message, "token").or(self.last.take()),
            }
        }
    }

    fn has(&self, trades: std::ops::Range<u64>) -> bool {
        self.trades.range(trades.clone()).count() as u64 == trades.end - trades.start
    }
}

/// A client.
struct Client {
    name: &'static str,
    is_over_sse: bool,
    /// Whether it is connected in a life, by the life's number.
    is_there: fn(usize) -> bool,
    seen: Arc<watch::Sender<Seen>>,
}

impl Client {
    fn new(name: &'static str, is_over_sse: bool, is_there: fn(usize) -> bool) -> Self {
        Self { name, is_over_sse, is_there, seen: Arc::default() }
    }

    /// Begins to read the stream of the server at `address`, until it ends.
    fn reads(&self, address: &str) -> tokio::task::JoinHandle<()> {
        let (seen, address) = (self.seen.clone(), address.to_owned());
        if self.is_over_sse {
            tokio::spawn(async move { read_events(&address, &seen).await })
        } else {
            tokio::spawn(async move { read_socket(&address, &seen).await })
        }
    }

    /// Waits until it has seen enough.
    async fn awaits(&self, what: &str, is_enough: impl FnMut(&Seen) -> bool) {
        let mut seen = self.seen.subscribe();
        let waited = tokio::time::timeout(2 * PATIENCE, seen.wait_for(is_enough)).await;
        assert!(waited.is_ok(), "{} has not seen {what}: {:?}", self.name, self.seen.borrow().trades.keys());
    }
}

/// Where a client resumes; at first, before all trades.
fn since(seen: &watch::Sender<Seen>) -> String {
    seen.borrow().last.clone().unwrap_or_else(|| "2025-03-01T00:00:00Z".to_owned())
}

async fn read_socket(address: &str, seen: &watch::Sender<Seen>) {
    let url = format!("ws://{address}/v2/stk");
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("it listens");
    let subscribe = serde_json::json!({
        "action": "subscribe", "trades": ["SA", "SB"], "token": true, "since": since(seen),
    });
    for message in [r#"{"action":"auth","key":"me","secret":"me"}"#.to_owned(), subscribe.to_string()] {
        socket.send(Message::text(message)).await.expect("it reads");
    }
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message {
            let messages: Vec<Value> = serde_json::from_str(&text).expect("JSON");
            seen.send_modify(|seen| seen.take(&messages));
        }
    }
}

async fn read_events(address: &str, seen: &watch::Sender<Seen>) {
    // No request here uses TLS, but the client wants to know who would do it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let request = reqwest::Client::new()
        .get(format!("http://{address}/v2/stk/sse?trades=SA,SB"))
        .header("last-event-id", since(seen));
    let mut body = request.send().await.expect("it listens").bytes_stream();
    let mut text = String::new();
    while let Some(Ok(bytes)) = body.next().await {
        text.push_str(std::str::from_utf8(&bytes).expect("JSON of these is ASCII"));
        // An event that the kill cut short does not count.
        while let Some((event, rest)) = text.split_once("\n\n") {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            let messages: Vec<Value> =
                field("data: ").map_or_else(Vec::new, |data| serde_json::from_str(data).expect("JSON"));
            let id = field("id: ").map(str::to_owned);
            seen.send_modify(|seen| {
                seen.take(&messages);
                seen.last = id.or(seen.last.take());
            });
            text = rest.to_owned();
        }
    }
}

/// The log's newest journal, and where its last batch ends. A batch never ends with a zero.
fn journal(data: &Path) -> (PathBuf, u64) {
    let files = std::fs::read_dir(data.join("log")).expect("there is a log");
    let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    let journals = files.map(|file| file.expect("an entry").path());
    let journals = journals.filter(|path| path.extension().is_some_and(|extension| extension == "jnl"));
    let newest = journals.max_by_key(number).expect("a log has a journal");
    let bytes = std::fs::read(&newest).expect("readable");
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    (newest, end)
}

#[test]
fn a_token_of_the_last_milliseconds_before_a_kill_misses_and_doubles_nothing() {
    let plant = Plant::new();
    let mut random = SplitMix64::seed_from_u64(seed());
    let clients = [
        Client::new("a WebSocket", false, |_| true),
        Client::new("an event stream", true, |_| true),
        // Their tokens of a life whose end was lost are old when they come back.
        Client::new("a WebSocket that was away", false, |life| life == 1 || life == LIVES.len()),
        Client::new("an event stream that was away", true, |life| life == 2 || life == LIVES.len()),
    ];
    let start = || {
        let args = ["serve", "--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0"];
        let mut command = plant.command(&args, &plant.data);
        // Nothing is synced by the clock while a life lasts.
        command.env("STK_LOG_SYNC_INTERVAL_MS", "10000").env("STK_LOG_FREE_BYTES_MIN", "0");
        command.env("STK_PROCESSOR_BLOCK_AGE_MS_MAX", "100");
        Server::run(command, true)
    };
    let next = Arc::new(AtomicU64::new(0));
    // By life, the trades that were sent. None is acknowledged.
    let mut sent = Vec::new();
    for (life, cut) in LIVES.into_iter().enumerate() {
        let server = start();
        let there: Vec<&Client> = clients.iter().filter(|client| (client.is_there)(life)).collect();
        plant.runtime.block_on(async {
            let reading: Vec<_> = there.iter().map(|client| client.reads(&server.address)).collect();
            let first = next.load(Ordering::Relaxed);
            let mut producer = support::ingest(&server.ingest, 1 + first, 0).await.expect("a server");
            // What the lives before have left is synced when the log is opened.
            let synced = plant.data.join("log/synced");
            let (opened, synced_at_start) = (journal(&plant.data), std::fs::read(&synced).expect("kept"));
            let flowing = tokio::spawn({
                let next = next.clone();
                async move {
                    loop {
                        let from = next.fetch_add(BATCH_TRADES, Ordering::Relaxed);
                        let trades: Vec<_> = (from..from + BATCH_TRADES).map(trade).collect();
                        if producer.send(&trades).await.is_err() {
                            return;
                        }
                    }
                }
            });
            let enough = 1 + random.next_u64() % SEEN_MAX;
            for client in &there {
                // Without a token it would begin again.
                let is_enough =
                    |seen: &Seen| seen.last.is_some() && seen.trades.range(first..).count() as u64 >= enough;
                client.awaits("enough trades", is_enough).await;
            }
            server.kill();
            for reading in reading {
                reading.await.expect("it reads to the end");
            }
            // It may wait for room or for the next try; it has nobody to send to.
            flowing.abort();
            let _ = flowing.await;
            sent.push(first..next.load(Ordering::Relaxed));
            let (path, end) = journal(&plant.data);
            assert_eq!(path, opened.0, "life {life} wrote one journal");
            assert_eq!(std::fs::read(&synced).expect("kept"), synced_at_start, "life {life} synced nothing");
            let keep = match cut {
                Cut::Nothing => return,
                Cut::Unsynced => opened.1,
                Cut::Part => opened.1 + random.next_u64() % (end - opened.1),
            };
            let file = std::fs::OpenOptions::new().write(true).open(&path).expect("it is there");
            file.set_len(keep).expect("cut");
        });
    }
    // Nobody dies any more: all clients come, and a last trade follows all others.
    let server = start();
    let last = next.load(Ordering::Relaxed);
    plant.runtime.block_on(async {
        let reading: Vec<_> = clients.iter().map(|client| client.reads(&server.address)).collect();
        let mut producer = support::ingest(&server.ingest, 1 + last, 0).await.expect("a server");
        producer.send(&[trade(last)]).await.expect("it is taken");
        producer.flush().await.expect("it is acknowledged");
        for client in &clients {
            client.awaits("the last trade", |seen| seen.has(last..last + 1)).await;
        }
        let (code, said) = tokio::task::block_in_place(|| server.drained());
        assert_eq!(code, Some(0), "{said:#?}");
        for reading in reading {
            reading.await.expect("it reads to the end");
        }
    });
    let history = plant.history();
    assert!(history.values().all(|count| *count == 1), "{history:?}");
    let kept: BTreeSet<u64> = history.into_keys().collect();
    for (life, trades) in sent.iter().enumerate() {
        let survived = kept.range(trades.clone()).count() as u64;
        eprintln!("life {life}: {survived} of {} trades survived", trades.end - trades.start);
    }
    for client in &clients {
        let (name, seen) = (client.name, client.seen.borrow());
        let missed: Vec<_> = kept.iter().filter(|id| !seen.trades.contains_key(id)).collect();
        let doubled: Vec<_> = seen.trades.iter().filter(|(_, count)| **count > 1).collect();
        assert!(missed.is_empty() && doubled.is_empty(), "{name} missed {missed:?}, doubled {doubled:?}");
        // By life, how many of the trades that it saw are in no history.
        let gone = |trades: &std::ops::Range<u64>| {
            seen.trades.range(trades.clone()).filter(|(id, _)| !kept.contains(id)).count()
        };
        let gone: Vec<usize> = sent.iter().map(gone).collect();
        eprintln!(
            "{name}: {} trades, of which by life {gone:?} are gone; {} resets",
            seen.trades.len(),
            seen.resets.len()
        );
        let lives_with_loss = gone.iter().filter(|gone| **gone > 0).count();
        assert_eq!(seen.resets.len(), lives_with_loss, "{name} is told of each loss once: {gone:?}");
        assert!(!(client.is_there)(1) || gone[1] > 0, "{name} saw something that the power cut took");
        assert_eq!(seen.other_gaps, Vec::<Value>::new(), "{name}");
        for [first, last] in &seen.resets {
            let [first, last] = [first, last].map(|token| token.parse::<Token>().expect("a token"));
            let places = first.positions().iter().zip(last.positions());
            assert!(places.clone().all(|(first, last)| last <= first), "{name}: nothing is skipped");
            assert!(places.clone().any(|(first, last)| last < first), "{name}: something was lost");
        }
    }
}
