//! What a connection gets, whatever happens to it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use stk::bus::epoch::LogEpoch;
use stk::market::{Seq, SymbolTable, TickBatchBuilder};
use stk::server::gateway::MemoryBus;
use stk::tiering::history::History;
use stk::tiering::warm::local::{LocalWarm, LocalWarmOptions};
use stk::tiering::warm::{Block, Warm};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::support::{Client, LOG_ID, PARTITIONS, Server, config, epoch, quote, symbol, trade, trade_at};

/// The identity of a log without generations, as one in Kafka is.
fn unnamed() -> LogEpoch {
    LogEpoch::new(LOG_ID)
}

fn ids(messages: &[Value]) -> Vec<u64> {
    messages
        .iter()
        .filter(|message| message["T"] == "t")
        .map(|message| message["i"].as_u64().unwrap())
        .collect()
}

fn token(messages: &[Value]) -> Option<String> {
    messages.iter().rev().find_map(|message| message["token"].as_str()).map(str::to_owned)
}

/// A client that is cut off after any frame and resumes from the last token it has gets every trade
/// once: from the ring, and from the log where the ring is too short.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_cut_off_at_any_frame_misses_nothing_and_gets_nothing_twice() {
    // A log without generations has tokens that name a record.
    for (ring_bytes_max, epoch) in
        [(0, epoch()), (1 << 10, epoch()), (1 << 20, epoch()), (0, unnamed()), (1 << 20, unnamed())]
    {
        let mut config = config();
        config.ring_bytes_max = ring_bytes_max;
        let generation = epoch.log().generation;
        let bus = Arc::new(MemoryBus::new(PARTITIONS, 100_000).with_epoch(epoch));
        let server = Arc::new(Server::start_on(config, bus, |_| {}).await);
        let trades = 600_u64;
        let publisher = {
            let server = server.clone();
            tokio::spawn(async move {
                for batch in (0..trades).collect::<Vec<_>>().chunks(3) {
                    let ticks: Vec<_> = batch
                        .iter()
                        .map(|&id| trade(["AAPL", "MSFT", "TSLA"][id as usize % 3], id))
                        .collect();
                    server.publish(&ticks).await;
                }
            })
        };
        let mut got: Vec<u64> = Vec::new();
        let mut since = format!("\"2.a.{generation}.0_0\"");
        for life in 0_usize.. {
            let request = format!(r#"{{"action":"subscribe","trades":["*"],"token":true,"since":{since}}}"#);
            let mut client = Client::subscribed(server.address, &request).await;
            for _ in 0..=life % 5 {
                let messages = client.messages().await;
                got.extend(ids(&messages));
                if let Some(token) = token(&messages) {
                    assert_eq!(token.starts_with("3."), generation == 0, "{token}");
                    since = format!("\"{token}\"");
                }
                if got.len() as u64 >= trades {
                    break;
                }
            }
            if got.len() as u64 >= trades {
                break;
            }
        }
        publisher.await.unwrap();
        let distinct: HashSet<u64> = got.iter().copied().collect();
        assert_eq!((got.len() as u64, distinct.len() as u64), (trades, trades), "a ring of {ring_bytes_max}");
        for symbol in 0..3 {
            let mine: Vec<u64> = got.iter().copied().filter(|id| id % 3 == symbol).collect();
            assert!(mine.is_sorted(), "the order within a symbol is the log's");
        }
    }
}

/// Such a log may be put back from a copy. Once it has grown past a token, its records alone tell.
#[tokio::test]
async fn a_token_names_a_record_by_which_a_log_that_was_put_back_is_known() {
    for ring_bytes_max in [0, 1 << 20] {
        let start = async |ids: &[u64]| {
            let mut config = config();
            config.ring_bytes_max = ring_bytes_max;
            let bus = Arc::new(MemoryBus::new(PARTITIONS, 100_000).with_epoch(unnamed()));
            let server = Server::start_on(config, bus, |_| {}).await;
            for id in ids {
                server.publish(&[trade("AAPL", *id)]).await;
            }
            server
        };
        // The trades and gaps since `token`, and the token behind them.
        let since = async |server: &Server, token: &str| {
            let subscription = r#""action":"subscribe","trades":["*"],"gaps":true,"token":true"#;
            let request = format!(r#"{{{subscription},"since":"{token}"}}"#);
            let mut client = Client::subscribed(server.address, &request).await;
            let (mut got, mut gaps) = (Vec::new(), Vec::new());
            loop {
                let messages = client.messages().await;
                got.extend(ids(&messages));
                gaps.extend(messages.iter().filter(|message| message["T"] == "gap").cloned());
                if let Some(end) = messages.iter().find(|message| message["T"] == "caught_up") {
                    return (got, gaps, end["token"].as_str().unwrap().to_owned());
                }
            }
        };
        let lost = start(&[1, 2, 3, 4, 5]).await;
        let common = start(&[1, 2]).await;
        let put_back = start(&[1, 2, 13, 14, 15, 16, 17]).await;
        let (got, gaps, of_common) = since(&common, "2.a.0.0_0").await;
        assert_eq!((got, gaps), (vec![1, 2], vec![]));
        let (got, gaps, of_lost) = since(&lost, &of_common).await;
        assert_eq!((got, gaps), (vec![3, 4, 5], vec![]));
        let (got, gaps, _) = since(&lost, &of_lost).await;
        assert_eq!((got, gaps), (vec![], vec![]));
        let (got, gaps, _) = since(&put_back, &of_common).await;
        assert_eq!((got, gaps), (vec![13, 14, 15, 16, 17], vec![]));
        let (got, gaps, _) = since(&put_back, &of_lost).await;
        assert_eq!((got, gaps.len()), (vec![16, 17], 1));
        assert_eq!((&gaps[0]["kind"], &gaps[0]["first_token"]), (&"reset".into(), &of_lost.into()));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_told_so_and_closed_and_harms_nobody() {
    let mut config = config();
    config.queue_bytes_max = 128 << 10;
    let server = Server::start(config).await;
    let request = r#"{"action":"subscribe","trades":["*"]}"#;
    let mut slow = Client::subscribed(server.address, request).await;
    let mut quick = Client::subscribed(server.address, request).await;
    let mut heard = 0;
    let mut id = 0;
    // Socket buffers swallow some megabytes before the queue fills.
    while server.metrics.slow_clients.get() == 0 {
        let ticks: Vec<_> = (id..id + 400).map(|id| trade("AAPL", id)).collect();
        id += 400;
        server.publish(&ticks).await;
        while heard < id {
            heard += ids(&quick.messages().await).len() as u64;
        }
        assert!(id < 1_000_000, "the queue has no bound");
    }
    let mut last = Vec::new();
    let code = loop {
        match slow.0.next().await.unwrap().unwrap() {
            Message::Text(text) => last = serde_json::from_str::<Vec<Value>>(&text).unwrap(),
            Message::Close(Some(frame)) => break u16::from(frame.code),
            _ => {}
        }
    };
    assert_eq!((last[0]["code"].as_u64(), code), (Some(407), 1008), "{last:?}");
    assert_eq!(server.metrics.slow_clients.get(), 1);
}

/// The log has more at hand, over all partitions, than a connection's queue holds: it comes in pieces
/// that fit, and who reads is not taken for slow.
#[tokio::test]
async fn a_client_that_reads_is_never_closed_for_what_the_log_has_at_once() {
    let mut config = config();
    config.queue_bytes_max = 1 << 20;
    let bus = std::sync::Arc::new(stk::server::gateway::MemoryBus::new(4, 1_000));
    let server = Server::start_on(config, bus, |_| {}).await;
    let mut client = Client::subscribed(server.address, r#"{"action":"subscribe","quotes":["*"]}"#).await;
    let mut by_partition: [Option<String>; 4] = Default::default();
    for name in (0..).map(|at| format!("S{at}")) {
        let partition = usize::from(super::support::symbol(&name).partition(4));
        by_partition[partition].get_or_insert(name);
        if by_partition.iter().all(Option::is_some) {
            break;
        }
    }
    let (rounds, ticks) = (8, 4_000);
    for round in 1..=rounds {
        for (partition, name) in (0..).zip(by_partition.iter().flatten()) {
            let record = super::support::record(&vec![quote(name); ticks], round);
            server.bus.push(partition, record).unwrap();
        }
    }
    let (mut heard, mut bytes) = (0, 0);
    while heard < 4 * ticks * rounds as usize {
        let text = client.hear().await;
        bytes += text.len();
        heard += text.matches(r#""T":"q""#).count();
    }
    assert_eq!(heard, 4 * ticks * rounds as usize);
    assert!(bytes > 8 << 20, "more than the queue holds, several times over: {bytes}");
    assert_eq!(server.metrics.slow_clients.get(), 0);
}

#[tokio::test]
async fn what_is_said_in_msgpack_is_what_is_said_in_json() {
    let server = Server::start(config()).await;
    let headers = [
        ("APCA-API-KEY-ID".to_owned(), "me".to_owned()),
        ("Content-Type".to_owned(), "application/msgpack".to_owned()),
    ];
    let mut packed = Client::open(server.address, "/v2/stk", &headers).await.unwrap();
    let mut plain = Client::authenticated(server.address).await;
    let unpack = |message: Message| match message {
        Message::Binary(bytes) => stk::wire::msgpack::decode(&bytes, super::support::ts()).unwrap(),
        other => panic!("{other:?}"),
    };
    let request = serde_json::json!({"action": "subscribe", "trades": ["AAPL"], "quotes": ["AAPL"]});
    let bytes = rmp_serde::to_vec_named(&request).unwrap();
    futures_util::SinkExt::send(&mut packed.0, Message::binary(bytes)).await.unwrap();
    plain.say(&request.to_string()).await;
    plain.hear().await;
    for _ in 0..3 {
        unpack(packed.0.next().await.unwrap().unwrap());
    }
    server.publish(&[trade("AAPL", 5), quote("AAPL")]).await;
    let packed = unpack(packed.0.next().await.unwrap().unwrap());
    let plain = stk::wire::json::decode(plain.hear().await.as_bytes(), super::support::ts()).unwrap();
    assert_eq!(format!("{packed:?}"), format!("{plain:?}"));
    assert_eq!(packed.len(), 2);
}

#[tokio::test]
async fn too_many_connections_are_refused_and_places_come_free() {
    let mut config = config();
    config.connections_max = 2;
    let server = Server::start(config).await;
    let first = Client::authenticated(server.address).await;
    let second = Client::authenticated(server.address).await;
    // After this status clients come back.
    match Client::open(server.address, "/v2/stk", &[]).await {
        Err(Error::Http(refused)) => {
            let retry_after = refused.headers()["retry-after"].to_str().unwrap();
            assert_eq!((refused.status().as_u16(), retry_after), (503, "5"));
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let in"),
    }
    let events = server.get("/v2/stk/sse?trades=AAPL").await;
    assert_eq!(events.status(), 200);
    let events = events.text().await.unwrap();
    assert!(events.starts_with("retry: ") && events.contains("too many connections"), "{events}");
    assert_eq!(server.metrics.connections_refused.get(), 2);
    drop(first);
    while server.metrics.websockets.get() > 1 {
        tokio::task::yield_now().await;
    }
    Client::authenticated(server.address).await;
    drop(second);
}

#[tokio::test]
async fn a_server_that_stops_says_what_it_has_and_says_goodbye() {
    let mut server = Server::start(config()).await;
    let mut client = Client::subscribed(server.address, r#"{"action":"subscribe","trades":["*"]}"#).await;
    server.publish(&[trade("AAPL", 1)]).await;
    server.stop();
    assert_eq!(ids(&client.messages().await), [1]);
    assert_eq!(client.closed().await, 1001);
    tokio::time::timeout(Duration::from_mins(1), server.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn events_bear_ids_and_resume_where_the_last_one_was() {
    let server = Server::start(config()).await;
    for id in 1..=3 {
        server.publish(&[trade("AAPL", id)]).await;
    }
    let client = reqwest::Client::new();
    let events = |last: &'static str| {
        let request = client.get(server.url("/v2/stk/sse?trades=AAPL")).header("last-event-id", last);
        async move { request.send().await.unwrap() }
    };
    let mut response = events("2.a.1.1_0").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    while !text.contains("caught_up") {
        text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    assert!(
        !text.contains(r#""i":1,"#) && text.contains(r#""i":2,"#) && text.contains(r#""i":3,"#),
        "{text}"
    );
    assert!(text.contains("id: 2.a.1.3_0\ndata: ["), "{text}");
    server.publish(&[trade("AAPL", 4)]).await;
    while !text.contains("id: 2.a.1.4_0\n") {
        text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    assert_eq!(text.matches(r#""i":4,"#).count(), 1);
}

/// An `EventSource` that comes back to a server with another log goes on with that, and is told so;
/// one whose id is of an older version too, and not refused, which would end it for good.
#[tokio::test]
async fn events_of_another_log_begin_anew_with_a_gap() {
    let server = Server::start(config()).await;
    server.publish(&[trade("AAPL", 1)]).await;
    let client = reqwest::Client::new();
    let events = |last: &'static str| {
        let request = client.get(server.url("/v2/stk/sse?trades=AAPL")).header("last-event-id", last);
        async move { request.send().await.unwrap() }
    };
    let gap = |first: &str, last: &str| {
        let message =
            format!(r#"[{{"T":"gap","first_token":"{first}","kind":"reset","last_token":"{last}","#);
        format!("id: {last}\ndata: {message}")
    };
    let mut response = events("2.b.7.5_5").await;
    let mut text = String::new();
    while !text.contains("caught_up") {
        text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    assert!(text.contains(&gap("2.b.7.5_5", "2.a.1.1_0")) && !text.contains(r#""i":1,"#), "{text}");
    server.publish(&[trade("AAPL", 2)]).await;
    while !text.contains(r#""i":2,"#) {
        text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
    }
    let response = events("1.0_0").await;
    assert_eq!(response.status(), 200);
    let text = response.text().await.unwrap();
    assert!(text.starts_with("retry: ") && text.contains(&gap("1.0_0", "2.a.1.2_0")), "{text}");
}

/// What the log has dropped since comes from history, however long ago it was traded.
#[tokio::test]
async fn a_token_that_the_log_has_dropped_is_resumed_from_out_of_history() {
    let dir = tempfile::tempdir().unwrap();
    let warm = LocalWarm::open(dir.path(), LocalWarmOptions { compaction: false }).unwrap();
    let bus = Arc::new(MemoryBus::new(PARTITIONS, 4).with_epoch(epoch()));
    let history = History::new(bus.clone(), warm.clone());
    let server = Server::start_on(config(), bus, |state| state.history = Some(history)).await;
    let traded = |id: u64| trade_at("AAPL", id, "2017-07-10T15:00:00Z".parse().unwrap());
    let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(0));
    for id in 0..10 {
        server.publish(&[traded(id)]).await;
        if id < 8 {
            let seq = Seq { partition: 0, offset: id, index: 0 };
            builder.push(table.intern(symbol("AAPL")), seq, &traded(id));
        }
    }
    let batches = builder.finish(&table);
    let checkpoint = bytes::Bytes::new();
    warm.commit(Block { partition: 0, first_offset: 0, next_offset: 8, batches, checkpoint, seam: None })
        .await
        .unwrap();

    let request = r#"{"action":"subscribe","trades":["*"],"gaps":true,"token":true,"since":"2.a.1.2_0"}"#;
    let mut client = Client::subscribed(server.address, request).await;
    let mut got = Vec::new();
    while got.last() != Some(&9) {
        let messages = client.messages().await;
        assert!(messages.iter().all(|message| message["T"] != "gap"), "{messages:?}");
        got.extend(ids(&messages));
    }
    assert!(got.iter().copied().eq(2..10), "{got:?}");
}

/// The log has a record that nobody can read: those who asked are told between which places, live
/// and in a replay, and what stands around it comes.
#[tokio::test]
async fn a_record_that_cannot_be_read_is_a_gap_with_its_places() {
    let server = Server::start(config()).await;
    let request = r#"{"action":"subscribe","trades":["*"],"gaps":true,"token":true,"since":"2.a.1.0_0"}"#;
    let mut live = Client::subscribed(server.address, request).await;
    server.publish(&[trade("AAPL", 1)]).await;
    server.bus.push(0, bytes::Bytes::from_static(b"no record")).unwrap();
    server.publish(&[trade("AAPL", 2)]).await;
    let mut replayed = Client::subscribed(server.address, request).await;
    for client in [&mut live, &mut replayed] {
        let (mut got, mut gaps) = (Vec::new(), Vec::new());
        while got.len() < 2 {
            let messages = client.messages().await;
            got.extend(ids(&messages));
            gaps.extend(messages.into_iter().filter(|message| message["T"] == "gap"));
        }
        assert_eq!(got, [1, 2]);
        let gap = serde_json::json!({
            "T": "gap", "kind": "unreadable", "first_token": "2.a.1.1_0", "last_token": "2.a.1.2_0",
        });
        assert_eq!(gaps, [gap]);
    }
}
