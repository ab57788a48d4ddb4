//! Single questions, and what operators ask.

use std::sync::Arc;

use serde_json::{Value, json};
use stk::market::{Exchange, Tick};
use stk::server::gateway::MemoryBus;
use stk::tiering::hot::memory::MemoryHot;
use stk::tiering::hot::{Hot, HotEntry};

use super::support::{PARTITIONS, Server, cancel, config, quote, symbol, trade};

async fn json_of(server: &Server, path: &str) -> (u16, Value) {
    let response = server.get(path).await;
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn the_last_of_symbols_as_alpaca_answers() {
    let server = Server::start(config()).await;
    server.publish(&[trade("AAPL", 7), quote("AAPL"), trade("TSLA", 8)]).await;
    let last_trade = json!({
        "i": 7, "x": "V", "p": 190.45, "s": 100, "c": ["@"], "t": "2026-11-20T15:00:00.000000001Z", "z": "C",
    });
    assert_eq!(
        json_of(&server, "/v2/stocks/AAPL/trades/latest").await,
        (200, json!({"symbol": "AAPL", "trade": last_trade}))
    );
    let (_, many) = json_of(&server, "/v2/stocks/trades/latest?symbols=TSLA,AAPL,ZZZ").await;
    assert_eq!(many["trades"]["AAPL"], last_trade);
    assert_eq!(many["trades"].as_object().unwrap().len(), 2, "who never traded is left out");
    let (_, quotes) = json_of(&server, "/v2/stocks/quotes/latest?symbols=AAPL").await;
    assert_eq!(
        (&quotes["quotes"]["AAPL"]["bp"], &quotes["quotes"]["AAPL"]["as"]),
        (&json!(190.4), &json!(2))
    );
    let (_, snapshots) = json_of(&server, "/v2/stocks/snapshots?symbols=AAPL,TSLA").await;
    assert_eq!(snapshots["AAPL"]["latestTrade"], last_trade);
    assert_eq!(snapshots["TSLA"].get("latestQuote"), None);
    let (_, snapshot) = json_of(&server, "/v2/stocks/AAPL/snapshot").await;
    assert_eq!((&snapshot["symbol"], &snapshot["latestTrade"]), (&json!("AAPL"), &last_trade));
    assert_eq!(json_of(&server, "/v1/symbols").await, (200, json!({"symbols": ["AAPL", "TSLA"]})));
}

#[tokio::test]
async fn each_exchange_numbers_its_own_trades() {
    let server = Server::start(config()).await;
    let of_exchange = |code: u8, tick: Tick| match tick {
        Tick::Cancel(mut cancel) => {
            cancel.exchange = Exchange::from_code(code).unwrap();
            Tick::Cancel(cancel)
        }
        tick => tick,
    };
    server.publish(&[trade("AAPL", 7), of_exchange(b'Q', cancel("AAPL", 7))]).await;
    let (status, latest) = json_of(&server, "/v2/stocks/AAPL/trades/latest").await;
    assert_eq!((status, &latest["trade"]["i"]), (200, &json!(7)), "another exchange's was broken");
    for exchange in [b'V', b' '] {
        server.publish(&[trade("AAPL", 8), of_exchange(exchange, cancel("AAPL", 8))]).await;
        let (_, latest) = json_of(&server, "/v2/stocks/AAPL/trades/latest").await;
        assert_eq!(latest["trade"]["i"], 7, "broken by {}", exchange as char);
    }
}

#[tokio::test]
async fn what_can_not_be_answered_says_why() {
    let server = Server::start(config()).await;
    let questions = [
        ("/v2/stocks/trades/latest", 400, "symbols is required"),
        (
            "/v2/stocks/aapl/trades/latest",
            400,
            "symbol \"aapl\" has 'a'; it takes 1 to 16 of A-Z 0-9 . - / _ + = ^ # * $ % ! @ ~",
        ),
        ("/v2/stocks/ZZZ/trades/latest", 404, "no trade found for ZZZ"),
        ("/v2/stocks/AAPL/dances", 404, "endpoint not found"),
        ("/v2/stocks/trades?symbols=AAPL", 501, "this server has no history"),
        ("/v2/stocks/bars?symbols=AAPL", 400, "timeframe is required"),
        ("/v2/stocks/trades?symbols=AAPL&limit=0", 400, "limit=0 is not within 1 to 10000"),
        ("/v2/stocks/trades?symbols=AAPL&sort=desc", 400, "sort=\"desc\" is not served; rows are sorted asc"),
        (
            "/v2/stocks/trades?symbols=AAPL&start=2025-01-02&end=2025-01-01",
            400,
            "start=2025-01-02T05:00:00Z is after end=2025-01-01",
        ),
        (
            "/v1/history?symbols=AAPL&from=2025-01-01T00:00:00Z&to=2025-01-01T00:00:00Z",
            400,
            "from=2025-01-01T00:00:00Z is not before to=2025-01-01T00:00:00Z",
        ),
        (
            "/v1/history?symbols=AAPL&when=now",
            400,
            "there is no parameter \"when\" here; this endpoint takes symbols, kind, timeframe, from, to, limit, format",
        ),
        ("/v1/symbols?like=A", 400, "there is no parameter \"like\" here; this endpoint takes no parameters"),
        ("/v1/status?all=1", 400, "there is no parameter \"all\" here; this endpoint takes no parameters"),
        (
            "/v2/stocks/AAPL/trades/latest?symbols=TSLA",
            400,
            "there is no parameter \"symbols\" here; this endpoint takes feed, currency",
        ),
        (
            "/v2/stk/sse?trades=AAPL&conflate=true",
            400,
            "there is no parameter \"conflate\" here; this endpoint takes trades, quotes, bars, updatedBars, dailyBars, \
             statuses, lulds, gaps, prev_closes, snapshot, since, last_event_id",
        ),
        (
            "/v2/stk/sse?trades=AAPL+",
            400,
            "symbol \"AAPL \" has ' '; it takes 1 to 16 of A-Z 0-9 . - / _ + = ^ # * $ % ! @ ~",
        ),
        ("/v2/stk?since=now", 400, "there is no parameter \"since\" here; this endpoint takes no parameters"),
        (
            "/v2/stocks/bars?symbols=AAPL&timeframe=1Day&adjustment=split",
            400,
            "adjustment=\"split\" is not served; prices are served raw, as adjustment=raw",
        ),
        (
            "/v2/stocks/snapshots?symbols=AAPL&currency=EUR",
            400,
            "currency=\"EUR\" is not served; prices are served in US dollars, as currency=USD",
        ),
        (
            "/v2/stocks/trades/latest?symbols=AAPL&feed=bogus",
            400,
            "feed=\"bogus\" is not served; feeds are stk, sip, iex, otc, delayed_sip, boats, overnight",
        ),
        (
            "/v2/stocks/trades?symbols=AAPL&asof=bogus",
            400,
            "asof=\"bogus\" is not served; symbols are those of the day of each row, as asof=-",
        ),
        ("/v2/stocks/trades?symbols=AAPL&limit=1&limit=2", 400, "the parameter \"limit\" stands twice"),
        ("/v2/stocks/trades?symbols=AAPL&timeframe=1Min", 400, "timeframe is for bars alone"),
        (
            "/v2/stocks/quotes?symbols=AAPL,%20TSLA",
            400,
            "symbol \" TSLA\" has ' '; it takes 1 to 16 of A-Z 0-9 . - / _ + = ^ # * $ % ! @ ~; write a plus as %2B, and \
             no blanks",
        ),
        (
            "/v2/stocks/trades?symbols=AAPL&adjustment=raw&currency=USD&sort=asc&asof=-&feed=iex&limit=5\
             &page_limit=3",
            501,
            "this server has no history",
        ),
        (
            "/v1/history?symbols=AAPL&kind=dances",
            400,
            "kind \"dances\" is none of trade, quote, status, cancel, correction, gap, prev_close, bar",
        ),
        ("/nowhere", 404, "endpoint not found"),
    ];
    let asked = questions.len();
    for (path, status, message) in questions {
        let (got, body) = json_of(&server, path).await;
        assert_eq!((got, body["message"].as_str().unwrap()), (status, message), "{path}");
    }
    assert_eq!(server.metrics.rest_errors.get(), asked as u64);
}

#[tokio::test]
async fn keys_guard_everything_but_the_operators_questions() {
    let mut config = config();
    config.keys.push(stk::server::gateway::ClientKey {
        id: "me".to_owned(),
        secret: stk::secret::Secret::new("pass"),
    });
    let server = Server::start(config).await;
    let client = reqwest::Client::new();
    for (secret, status) in [("pass", 200), ("guess", 401)] {
        let request = client
            .get(server.url("/v1/symbols"))
            .header("APCA-API-KEY-ID", "me")
            .header("APCA-API-SECRET-KEY", secret);
        assert_eq!(request.send().await.unwrap().status().as_u16(), status);
    }
    for (path, status) in [("/v1/symbols", 401), ("/v1/status", 401), ("/healthz", 200), ("/readyz", 200)] {
        assert_eq!(server.get(path).await.status().as_u16(), status, "{path}");
    }
    assert_eq!(server.metrics.auth_failures.get(), 1);
}

#[tokio::test]
async fn what_is_wrong_though_all_is_served_stands_beside_a_ready_answer() {
    let reason = "hot: redis 127.0.0.1:1: refused (away since noon); serving from this gateway's memory";
    let own = Arc::new(MemoryHot::new(PARTITIONS));
    let bus = Arc::new(MemoryBus::new(PARTITIONS, 1_000));
    let server = Server::start_on(config(), bus, |state| {
        state.operations.degraded = Arc::new(move || vec![reason.to_owned()]);
        state.own_hot = Some(own.clone());
    })
    .await;
    let expected = json!({"ready": true, "not_ready": [], "degraded": [reason]});
    assert_eq!(json_of(&server, "/readyz").await, (200, expected));
    // That memory holds what the gateway reads from the log.
    server.publish(&[trade("AAPL", 1), quote("AAPL"), trade("TSLA", 2), cancel("TSLA", 2)]).await;
    let symbols = [symbol("AAPL"), symbol("TSLA")];
    assert_eq!(own.symbols().await.unwrap(), symbols);
    // Its bars come with the gateway's clock.
    let ticks = |entry: Option<HotEntry>| entry.map(|entry| (entry.trade, entry.quote, entry.seq));
    let (found, expected) = (own.get(&symbols).await.unwrap(), server.hot.get(&symbols).await.unwrap());
    assert!(found.into_iter().map(ticks).eq(expected.into_iter().map(ticks)));
    let recent = own.recent(symbols[1]).await.unwrap();
    assert_eq!(recent, server.hot.recent(symbols[1]).await.unwrap());
    assert_eq!(recent.len(), 2);
}

#[tokio::test]
async fn operators_see_whether_it_lives_and_is_ready_and_what_it_did() {
    let server = Server::start(config()).await;
    assert_eq!(server.get("/healthz").await.text().await.unwrap(), "ok\n");
    assert_eq!(json_of(&server, "/readyz").await, (200, json!({"ready": true, "not_ready": []})));
    server.not_ready.lock().unwrap().push("partition 3 is being restored".to_owned());
    let (status, body) = json_of(&server, "/readyz").await;
    assert_eq!((status, &body["not_ready"][0]), (503, &json!("partition 3 is being restored")));
    server.publish(&[trade("AAPL", 1)]).await;
    let (_, status) = json_of(&server, "/v1/status").await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["role"], "test", "other parts of the process add to it");
    assert_eq!(status["market_time"], "2026-11-20T15:00:00.000000001Z");
    let metrics = server.get("/metrics").await;
    assert!(metrics.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("stk_gateway_websockets 0") && metrics.ends_with("# EOF\n"), "{metrics}");
    let board = server.get("/").await;
    assert!(board.text().await.unwrap().starts_with("<!doctype html>"));
}
