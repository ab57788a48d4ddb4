//! Clients that stop reading for a while: nothing new is built for them meanwhile, and they miss nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use stk::market::{Tick, Timestamp};
use stk::wire::token::Token;

use super::bounds::{narrow, until};
use super::support::{Client, PARTITIONS, Server, config, symbol, trade, trade_at, ts};

/// What may wait for two clients that are parked: what was published while they were found to stall.
const PARKED_BYTES_MAX: i64 = 4 << 20;

/// AAPL, and a symbol of the other partition.
fn names() -> [&'static str; 2] {
    let partition = |name| symbol(name).partition(PARTITIONS);
    let other =
        ["TSLA", "IBM", "F", "GE", "T", "C"].into_iter().find(|name| partition(name) != partition("AAPL"));
    ["AAPL", other.unwrap()]
}

/// Publishes trades of both symbols until so many clients are parked, and then several times what waits for them.
/// Returns the id of the next trade of each.
async fn publish_past(server: &Server, parked: u64) -> u64 {
    let (mut id, mut beyond) = (0, 0);
    while beyond < 200 {
        let trades = names().into_iter().flat_map(|name| (id..id + 200).map(move |id| trade(name, id)));
        server.publish(&trades.collect::<Vec<Tick>>()).await;
        id += 200;
        assert!(id < 1_000_000, "nobody is parked");
        beyond += u64::from(server.metrics.clients_parked.get() >= parked);
    }
    assert!(server.metrics.queue_bytes.get() < PARKED_BYTES_MAX, "{}", server.metrics.queue_bytes.get());
    id
}

fn subscription(more: &str) -> String {
    let [first, second] = names();
    format!(r#"{{"action":"subscribe","trades":["{first}","{second}"]{more}}}"#)
}

/// A client that has read nothing since the answer to `request`.
async fn paused(server: &Server, request: &str) -> Client {
    let stream = narrow(server.address).await;
    let mut client = Client::over(stream, server.address, "/v2/stk", &[]).await.unwrap();
    client.say(r#"{"action":"auth","key":"me","secret":"s"}"#).await;
    client.say(request).await;
    for _ in 0..3 {
        client.hear().await;
    }
    client
}

/// The trades heard so far, by symbol: each has all ids from 0 on, in order.
#[derive(Default)]
struct Heard(BTreeMap<String, u64>);

impl Heard {
    fn trade(&mut self, trade: &Value) {
        let next = self.0.entry(trade["S"].as_str().unwrap().to_owned()).or_default();
        assert_eq!(trade["i"], *next, "none is missing and none comes twice");
        *next += 1;
    }

    fn trades(&mut self, messages: &[Value]) {
        messages.iter().filter(|message| message["T"] == "t").for_each(|trade| self.trade(trade));
    }

    fn has_all(&self, count: u64) -> bool {
        names().iter().all(|name| self.0.get(*name) == Some(&count))
    }
}

#[tokio::test]
async fn a_client_that_pauses_resumes_where_it_stopped() {
    let server = Server::start(config()).await;
    let mut client = paused(&server, &subscription(r#","bars":["AAPL"],"token":true"#)).await;
    let count = publish_past(&server, 1).await;
    // What it asks for while it is parked holds from where it is live again.
    client.say(r#"{"action":"subscribe","trades":["MSFT"]}"#).await;
    let minute_later = Timestamp::from_nanos(ts().nanos() + 60_000_000_000);
    server.publish(&names().map(|name| trade_at(name, count, minute_later))).await;

    let (mut heard, mut bars, mut is_subscribed) = (Heard::default(), 0, false);
    let mut tokens: Vec<Token> = Vec::new();
    while !heard.has_all(count + 1) || bars == 0 || !is_subscribed {
        for message in client.messages().await {
            match message["T"].as_str().unwrap() {
                "t" => heard.trade(&message),
                "b" => bars += 1,
                "token" => tokens.push(message["token"].as_str().unwrap().parse().unwrap()),
                "subscription" => {
                    is_subscribed = message["trades"].as_array().unwrap().contains(&json!("MSFT"));
                }
                _ => panic!("{message}"),
            }
        }
    }
    for pair in tokens.windows(2) {
        let mut positions = pair[0].positions().iter().zip(pair[1].positions());
        assert!(positions.all(|(before, after)| before <= after), "tokens go on: {pair:?}");
    }
    server.publish(&[trade("MSFT", 0), trade("AAPL", count + 1)]).await;
    while heard.0.get("MSFT") != Some(&1) || heard.0["AAPL"] != count + 2 {
        heard.trades(&client.messages().await);
    }
    assert_eq!((bars, server.metrics.slow_clients.get()), (1, 0));
    assert!(server.metrics.clients_parked.get() >= 1);
}

#[tokio::test]
async fn a_paused_event_stream_resumes_without_loss() {
    let server = Server::start(config()).await;
    let [first, second] = names();
    let mut events = server.get(&format!("/v2/stk/sse?trades={first},{second}")).await;
    until(|| server.metrics.event_streams.get() == 1).await;
    let count = publish_past(&server, 1).await;
    let (mut heard, mut text, mut id) = (Heard::default(), String::new(), None);
    while !heard.has_all(count) {
        let chunk = events.chunk().await.unwrap().expect("the stream goes on");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        while let Some((event, rest)) = text.split_once("\n\n") {
            for line in event.lines() {
                if let Some(data) = line.strip_prefix("data: ") {
                    assert!(!data.contains("caught_up"));
                    heard.trades(&serde_json::from_str::<Vec<Value>>(data).unwrap());
                }
                id = line.strip_prefix("id: ").map(str::to_owned).or(id);
            }
            text = rest.to_owned();
        }
    }
    // The id that it has now is that of all it has heard.
    let more = format!("/v2/stk/sse?trades={first}&since={}", id.unwrap());
    server.publish(&[trade("AAPL", count)]).await;
    let mut resumed = server.get(&more).await;
    let mut text = String::new();
    while !text.contains("caught_up") {
        text.push_str(std::str::from_utf8(&resumed.chunk().await.unwrap().unwrap()).unwrap());
    }
    assert_eq!(text.matches(r#""T":"t""#).count(), 1, "{text}");
}

#[tokio::test]
async fn several_clients_with_one_subscription_resume_each_where_it_stopped() {
    let server = Server::start(config()).await;
    let mut clients = [paused(&server, &subscription("")).await, paused(&server, &subscription("")).await];
    let count = publish_past(&server, 2).await;
    let [first, second] = &mut clients;
    let read = async |client: &mut Client| {
        let mut heard = Heard::default();
        while !heard.has_all(count) {
            heard.trades(&client.messages().await);
        }
    };
    tokio::join!(read(first), read(second));
    // One that leaves while it is parked leaves nothing behind.
    let gone = paused(&server, &subscription(r#","bars":["AAPL"]"#)).await;
    drop((gone, clients));
    until(|| server.metrics.websockets.get() == 0 && server.metrics.queue_bytes.get() == 0).await;
}

#[tokio::test]
async fn a_client_that_returns_too_late_is_closed_as_slow() {
    let mut config = config();
    config.ring_bytes_max = 64 << 10;
    let server = Server::start(config).await;
    let mut client = paused(&server, &subscription("")).await;
    publish_past(&server, 1).await;
    let mut heard = Heard::default();
    let error = loop {
        let messages = client.messages().await;
        heard.trades(&messages);
        if let Some(error) = messages.into_iter().find(|message| message["T"] == "error") {
            break error;
        }
    };
    assert_eq!((error["code"].as_u64(), client.closed().await), (Some(407), 1008), "{error}");
    assert_eq!(server.metrics.slow_clients.get(), 1);
}

#[tokio::test]
async fn a_parked_client_that_never_reads_is_closed_as_slow() {
    let mut config = config();
    config.stall_max = Duration::from_secs(1);
    let server = Server::start(config).await;
    let clients = [paused(&server, &subscription("")).await, paused(&server, &subscription("")).await];
    publish_past(&server, 2).await;
    until(|| server.metrics.slow_clients.get() == 2).await;
    until(|| server.metrics.websockets.get() == 0 && server.metrics.queue_bytes.get() == 0).await;
    drop(clients);
    // Those who share what others read are not parked.
    let mut quick = Client::subscribed(server.address, &subscription("")).await;
    let _slow = paused(&server, &subscription("")).await;
    let parked = server.metrics.clients_parked.get();
    let mut heard = Heard::default();
    for id in (0..20_000).step_by(200) {
        server.publish(&(id..id + 200).map(|id| trade("AAPL", id)).collect::<Vec<_>>()).await;
        while heard.0.get("AAPL") != Some(&(id + 200)) {
            heard.trades(&quick.messages().await);
        }
    }
    assert_eq!(server.metrics.clients_parked.get(), parked);
}

/// It can't answer pings, because it does not read them.
#[tokio::test]
async fn a_pause_is_not_taken_for_a_peer_that_is_gone() {
    let mut config = config();
    config.stall_max = Duration::from_hours(1);
    let server = Server::start(config).await;
    let mut client = paused(&server, &subscription("")).await;
    let count = publish_past(&server, 1).await;
    let is_gone = until(|| server.metrics.mute_clients.get() > 0 || server.metrics.websockets.get() == 0);
    assert!(tokio::time::timeout(Duration::from_secs(32), is_gone).await.is_err());
    let mut heard = Heard::default();
    while !heard.has_all(count) {
        heard.trades(&client.messages().await);
    }
}
