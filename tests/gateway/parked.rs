//! Clients that stop reading for a while: they cost nothing meanwhile, and miss nothing.

use std::time::Duration;

use serde_json::Value;
use stk::market::Timestamp;
use stk::wire::token::Token;

use super::bounds::{narrow, until};
use super::support::{Client, Server, config, trade, trade_at, ts};

/// What may wait for a client that is parked, with what its socket holds.
const PARKED_BYTES_MAX: i64 = 1 << 20;

/// Publishes trades of AAPL until so many clients are parked, and then several times what may wait for one.
/// Returns the id of the next trade.
async fn publish_past(server: &Server, parked: u64) -> u64 {
    let (mut id, mut beyond) = (0, 0);
    while beyond < 100 {
        server.publish(&(id..id + 400).map(|id| trade("AAPL", id)).collect::<Vec<_>>()).await;
        id += 400;
        assert!(id < 1_000_000, "nobody is parked");
        beyond += u64::from(server.metrics.clients_parked.get() >= parked);
    }
    assert_eq!(server.metrics.clients_parked.get(), parked, "once each");
    assert!(server.metrics.queue_bytes.get() < PARKED_BYTES_MAX, "{}", server.metrics.queue_bytes.get());
    id
}

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

fn is(message: &Value, kind: &str) -> bool {
    message["T"] == kind
}

#[tokio::test]
async fn a_client_that_pauses_goes_on_where_it_was() {
    let server = Server::start(config()).await;
    let request = r#"{"action":"subscribe","trades":["AAPL"],"bars":["AAPL"],"token":true}"#;
    let mut client = paused(&server, request).await;
    let id = publish_past(&server, 1).await;
    // What it asks for while it is parked holds from where it goes on live.
    client.say(r#"{"action":"subscribe","trades":["MSFT"]}"#).await;
    let minute_later = Timestamp::from_nanos(ts().nanos() + 60_000_000_000);
    server.publish(&[trade_at("AAPL", id, minute_later)]).await;

    let (mut trades, mut bars, mut last_token, mut is_subscribed) = (0, 0, None, false);
    while trades <= id || bars == 0 || !is_subscribed {
        for message in client.messages().await {
            match message["T"].as_str().unwrap() {
                "t" => {
                    assert_eq!(message["i"], trades, "none is missing and none comes twice");
                    trades += 1;
                }
                "b" => bars += 1,
                "token" => {
                    let token: Token = message["token"].as_str().unwrap().parse().unwrap();
                    let positions = token.positions().to_vec();
                    assert!(last_token.is_none_or(|last| last <= positions), "tokens go on");
                    last_token = Some(positions);
                }
                "subscription" => is_subscribed = message["trades"] == serde_json::json!(["AAPL", "MSFT"]),
                _ => panic!("{message}"),
            }
        }
    }
    server.publish(&[trade("MSFT", 1), trade("AAPL", id + 1)]).await;
    let mut live = Vec::new();
    while live.len() < 2 {
        let messages = client.messages().await;
        live.extend(messages.into_iter().filter(|message| is(message, "t")).map(|trade| trade["S"].clone()));
    }
    live.sort_by_key(Value::to_string);
    assert_eq!((live, bars), (vec!["AAPL".into(), "MSFT".into()], 1));
    assert_eq!((server.metrics.slow_clients.get(), server.metrics.clients_parked.get()), (0, 1));
}

#[tokio::test]
async fn events_that_are_not_read_for_a_while_go_on_where_they_were() {
    let server = Server::start(config()).await;
    let mut events = server.get("/v2/stk/sse?trades=AAPL").await;
    until(|| server.metrics.event_streams.get() == 1).await;
    let id = publish_past(&server, 1).await;
    let mut text = Vec::new();
    let last = format!(r#""i":{},"#, id - 1);
    let mut is_last_read = false;
    while !is_last_read || !text.ends_with(b"\n\n") {
        let from = text.len().saturating_sub(last.len());
        text.extend(events.chunk().await.unwrap().expect("the stream goes on"));
        is_last_read |= text[from..].windows(last.len()).any(|part| part == last.as_bytes());
    }
    let text = String::from_utf8(text).unwrap();
    let frames = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let messages = frames.flat_map(|frame| serde_json::from_str::<Vec<Value>>(frame).unwrap());
    let ids: Vec<u64> =
        messages.filter(|message| is(message, "t")).filter_map(|trade| trade["i"].as_u64()).collect();
    assert!(ids.iter().copied().eq(0..id), "{} of {id}", ids.len());
    assert!(!text.contains("caught_up"));
}

#[tokio::test]
async fn who_comes_back_when_memory_has_gone_on_is_told_so() {
    let mut config = config();
    config.ring_bytes_max = 64 << 10;
    let server = Server::start(config).await;
    let mut client = paused(&server, r#"{"action":"subscribe","trades":["AAPL"]}"#).await;
    publish_past(&server, 1).await;
    let mut next = 0;
    let error = loop {
        let messages = client.messages().await;
        let ids: Vec<&Value> =
            messages.iter().filter(|message| is(message, "t")).map(|trade| &trade["i"]).collect();
        assert!(ids.iter().zip(next..).all(|(id, next)| **id == next), "none is missing before that");
        next += ids.len() as u64;
        if let Some(error) = messages.iter().find(|message| is(message, "error")) {
            break error.clone();
        }
    };
    assert_eq!((error["code"].as_u64(), client.closed().await), (Some(407), 1008), "{error}");
    assert_eq!(server.metrics.slow_clients.get(), 1);
}

#[tokio::test]
async fn who_is_parked_and_never_reads_is_closed() {
    let mut config = config();
    config.stall_max = Duration::from_secs(1);
    let server = Server::start(config).await;
    let trades = r#"{"action":"subscribe","trades":["AAPL"]}"#;
    let clients = [paused(&server, trades).await, paused(&server, trades).await];
    publish_past(&server, 2).await;
    until(|| server.metrics.slow_clients.get() == 2).await;
    until(|| server.metrics.websockets.get() == 0).await;
    until(|| server.metrics.queue_bytes.get() == 0).await;
    drop(clients);
    // Those who share what others read are not parked.
    let mut quick = Client::subscribed(server.address, trades).await;
    let _slow = paused(&server, trades).await;
    for id in 0..100 {
        server.publish(&(0..400).map(|at| trade("AAPL", id * 400 + at)).collect::<Vec<_>>()).await;
        let mut heard = 0;
        while heard < 400 {
            heard += quick.messages().await.iter().filter(|message| is(message, "t")).count();
        }
    }
    assert_eq!(server.metrics.clients_parked.get(), 2);
}
