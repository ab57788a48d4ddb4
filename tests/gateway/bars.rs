//! Live bars after what amends them: they are the bars of the trades that stand.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use stk::market::{Horizon, Tick, Timestamp};
use stk::server::gateway::{GatewayConfig, MemoryBus};
use stk::tiering::history::History;
use stk::tiering::warm::local::{LocalWarm, LocalWarmOptions};
use stk::tiering::warm::{Block, Mark, Query, Scan, Unit, Warm, WarmError};
use tokio::sync::watch;

use super::support::{Client, PARTITIONS, Server, cancel, config, trade_at};

fn at(time: &str) -> Timestamp {
    format!("2026-11-20T15:{time}Z").parse().unwrap()
}

fn trade(id: u64, time: &str, price: &str) -> Tick {
    let Tick::Trade(trade) = trade_at("AAPL", id, at(time)) else { unreachable!() };
    Tick::Trade(stk::market::Trade { price: price.parse().unwrap(), ..trade })
}

/// A store whose scans wait while it is shut.
struct Gated {
    inner: Arc<LocalWarm>,
    scans: watch::Sender<u64>,
    is_open: watch::Sender<bool>,
}

#[async_trait::async_trait]
impl Warm for Gated {
    async fn held(&self) -> Result<stk::bus::epoch::Held, WarmError> {
        self.inner.held().await
    }

    async fn claim(&self, partition: u16) -> Result<Mark, WarmError> {
        self.inner.claim(partition).await
    }

    async fn mark(&self, partition: u16) -> Result<Mark, WarmError> {
        self.inner.mark(partition).await
    }

    async fn commit(&self, block: Block) -> Result<(), WarmError> {
        self.inner.commit(block).await
    }

    async fn leave_to_archive(&self, unit: Unit, next_offsets: &[u64]) -> Result<(), WarmError> {
        self.inner.leave_to_archive(unit, next_offsets).await
    }

    async fn scan(&self, query: &Query) -> Result<Scan, WarmError> {
        self.scans.send_modify(|scans| *scans += 1);
        self.is_open.subscribe().wait_for(|is_open| *is_open).await.unwrap();
        self.inner.scan(query).await
    }
}

/// Waits for so many rebuilds of bars.
async fn rebuilt(server: &Server, count: u64) {
    let patience = tokio::time::timeout(Duration::from_mins(1), async {
        while server.metrics.bars_rebuilt.get() < count {
            tokio::task::yield_now().await;
        }
    });
    patience.await.expect("marked bars are rebuilt");
}

/// The next bars, at least one: channel, minute, highest price, close, shares, trades.
async fn bars(client: &mut Client) -> Vec<Value> {
    loop {
        let messages = client.messages().await;
        let bars: Vec<Value> = messages
            .iter()
            .filter(|message| ["b", "u", "d"].map(Value::from).contains(&message["T"]))
            .map(|bar| json!([bar["T"], bar["t"], bar["h"], bar["c"], bar["v"], bar["n"]]))
            .collect();
        if !bars.is_empty() {
            return bars;
        }
    }
}

/// No processor runs here: a gateway is right by itself.
#[tokio::test]
async fn a_broken_trade_is_out_of_the_bars_that_are_told_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let inner = LocalWarm::open(dir.path(), LocalWarmOptions { compaction: false }).unwrap();
    let gated = Arc::new(Gated { inner, scans: watch::Sender::new(0), is_open: watch::Sender::new(true) });
    let bus = Arc::new(MemoryBus::new(PARTITIONS, 100_000));
    let history = History::new(bus.clone(), gated.clone());
    let server = Server::start_on(config(), bus, |state| state.history = Some(history)).await;
    let request = r#"{"action":"subscribe","bars":["AAPL"],"updatedBars":["AAPL"],"dailyBars":["AAPL"]}"#;
    let mut client = Client::subscribed(server.address, request).await;

    // Broken before the minute is told.
    server.publish(&[trade(1, "00:10", "190"), trade(2, "00:20", "500")]).await;
    server.publish(&[cancel("AAPL", 2)]).await;
    rebuilt(&server, 1).await;
    server.publish(&[trade(3, "01:10", "191")]).await;
    assert_eq!(
        bars(&mut client).await,
        [
            json!(["b", "2026-11-20T15:00:00Z", 190, 190, 100, 1]),
            json!(["d", "2026-11-20T05:00:00Z", 191, 191, 200, 2]),
        ]
    );
    // What is formed from now on goes on from there.
    server.publish(&[trade(4, "02:10", "192")]).await;
    assert_eq!(bars(&mut client).await, [json!(["b", "2026-11-20T15:01:00Z", 191, 191, 100, 1])]);

    // Broken after they were told; and a trade that comes while the rest is being read.
    let scans = *gated.scans.borrow();
    gated.is_open.send_replace(false);
    let late = trade(6, "01:20", "600");
    server.publish(&[trade(5, "02:12", "193"), late, cancel("AAPL", 1), cancel("AAPL", 6)]).await;
    gated.scans.subscribe().wait_for(|now| *now > scans).await.unwrap();
    server.publish(&[trade(7, "02:13", "193.5")]).await;
    gated.is_open.send_replace(true);
    rebuilt(&server, 2).await;
    // The half minute tells it. The minute whose only trade was broken has no price left to tell.
    server.publish(&[trade(8, "02:40", "194")]).await;
    assert_eq!(bars(&mut client).await, [json!(["u", "2026-11-20T15:01:00Z", 191, 191, 100, 1])]);
    server.publish(&[trade(9, "03:00", "195")]).await;
    assert_eq!(
        bars(&mut client).await,
        [
            json!(["b", "2026-11-20T15:02:00Z", 194, 194, 400, 4]),
            json!(["d", "2026-11-20T05:00:00Z", 195, 195, 600, 6]),
        ]
    );
}

/// One tick far ahead of the clock, as an older version stored it.
#[tokio::test]
async fn a_tick_of_days_to_come_ends_no_minute_and_a_late_one_is_not_the_last() {
    let horizon = Horizon::ahead_of_clock(Duration::from_mins(1));
    let server = Server::start(GatewayConfig { horizon, ..config() }).await;
    let request = r#"{"action":"subscribe","bars":["AAPL","MSFT"]}"#;
    let mut client = Client::subscribed(server.address, request).await;
    let ahead = Timestamp::now().saturating_add_nanos(3 * 86_400_000_000_000);
    server.publish(&[trade(1, "00:10", "190"), trade_at("AAPL", 2, ahead)]).await;
    // The bars of another symbol are told: those of the first are not among them.
    server.publish(&[trade_at("MSFT", 3, at("00:10")), trade_at("MSFT", 4, at("01:10"))]).await;
    let told = client.messages().await;
    assert!(told.len() == 1 && told[0]["S"] == "MSFT", "{told:?}");
    server.publish(&[trade(5, "00:20", "191"), trade(6, "01:10", "192"), trade(7, "00:50", "193")]).await;
    let told = bars(&mut client).await;
    assert_eq!(told[0], json!(["b", "2026-11-20T15:00:00Z", 193, 193, 300, 3]));
    let status: Value = server.get("/v1/status").await.json().await.unwrap();
    assert_eq!(status["market_time"], "2026-11-20T15:01:10Z");
    // What a client is told first, and what REST answers.
    let request = r#"{"action":"subscribe","trades":["AAPL"],"snapshot":true}"#;
    let mut client = Client::subscribed(server.address, request).await;
    let snapshot = client.messages().await.remove(0);
    assert_eq!(
        (&snapshot["T"], &snapshot["latestTrade"]["i"]),
        (&json!("snapshot"), &json!(6)),
        "{snapshot}"
    );
    let latest: Value = server.get("/v2/stocks/AAPL/trades/latest").await.json().await.unwrap();
    assert_eq!(latest["trade"]["i"], 6);
    server.publish(&[cancel("AAPL", 6)]).await;
    let latest: Value = server.get("/v2/stocks/AAPL/trades/latest").await.json().await.unwrap();
    assert_eq!(latest["trade"]["i"], 7, "the last was broken: the latest of those that stand");
}
