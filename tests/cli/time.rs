//! Market time: what arrives late, and what is ahead of the clock.

use std::process::Command;

use serde_json::Value;
use stk::feed::iex::make;
use stk::market::{Conditions, Exchange, Price, Tape, Tick, Timestamp, Trade};

use super::support::{Home, PATIENCE, Server, ingest, metric};

/// The answer of the server to `path`.
fn ask(server: &Server, path: &str) -> Value {
    let url = format!("http://{}{path}", server.address);
    let shown = Command::new("curl").args(["-s", &url]).output().expect("curl is there").stdout;
    serde_json::from_slice(&shown).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn latest_price(server: &Server) -> Value {
    ask(server, "/v2/stocks/AAPL/trades/latest")["trade"]["p"].clone()
}

/// A capture of one day: a quote and a trade a second, the last at `price` dollars.
fn capture_of(home: &Home, day: &str, price: i64) -> String {
    let open: Timestamp = format!("{day}T14:30:00Z").parse().expect("a time");
    let mut file = make::pcap_header();
    for second in 0..150_u32 {
        let ts = open.saturating_add_nanos(i64::from(second) * 1_000_000_000);
        let price = (price - 1) * 10_000 + i64::from(second + 1) * 10_000 / 150;
        let trade = make::trade("AAPL", ts, 0, price, 100, u64::from(second) + 1);
        let quote = make::quote("AAPL", ts, 0, (price, 1), (price + 100, 2));
        // Each day is a session of its own.
        let session = (open.nanos() / 1_000_000_000) as u32;
        let segment = make::segment(1, session, u64::from(second) * 2 + 1, ts, &[quote, trade]);
        file.extend(make::pcap_record(ts, &make::ethernet(&segment)));
    }
    let path = home.path(&format!("{day}.pcap"));
    std::fs::write(&path, file).expect("written");
    path.display().to_string()
}

#[test]
fn a_day_that_is_replayed_late_replaces_no_newer_price() {
    let home = Home::new();
    let data = home.path("data");
    let mut server = Server::start(&home, &data, &[]);
    for (day, price) in [("2025-06-03", 200), ("2025-06-02", 100)] {
        let capture = capture_of(&home, day, price);
        let replayed = home.run(&["replay", &capture, "--speed", "max", "--ingest", &server.ingest]);
        assert!(replayed.starts_with("exit: 0\n"), "{replayed}");
    }
    for end in ["not at all", "in good order", "killed"] {
        if end == "in good order" {
            assert_eq!(server.stop().0, Some(0));
            server = Server::start(&home, &data, &[]);
        } else if end == "killed" {
            server.kill();
            server = Server::start(&home, &data, &[]);
        }
        assert_eq!(latest_price(&server), 200, "ended {end}");
        let snapshot = ask(&server, "/v2/stocks/AAPL/snapshot");
        assert_eq!(snapshot["latestTrade"]["p"], 200, "ended {end}: {snapshot}");
        assert_eq!(snapshot["latestQuote"]["bp"], 200, "ended {end}: {snapshot}");
        assert!(
            snapshot["dailyBar"]["t"].as_str().is_some_and(|t| t.starts_with("2025-06-03")),
            "{snapshot}"
        );
    }
}

fn trade(ts: Timestamp, id: u64, cents: i64) -> Tick {
    Tick::Trade(Trade {
        symbol: "AAPL".parse().expect("a symbol"),
        ts,
        recv_ts: ts,
        price: Price::from_ten_thousandths(cents * 100).expect("a price"),
        size: 100,
        exchange: Exchange::IEX,
        conditions: Conditions::NONE,
        id,
        tape: Tape::C,
    })
}

const DAY: i64 = 86_400_000_000_000;

#[test]
fn a_tick_far_ahead_of_the_clock_is_refused_and_one_that_is_stored_pins_nothing() {
    let home = Home::new();
    let data = home.path("data");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let now = Timestamp::now();
    let ahead = now.saturating_add_nanos(3 * DAY);
    let send = |server: &Server, producer: u64, ticks: Vec<Tick>| {
        runtime.block_on(async {
            let mut client = ingest(&server.ingest, producer, 1).await?;
            client.send(&ticks).await?;
            tokio::time::timeout(PATIENCE, client.flush()).await.expect("an answer")
        })
    };
    // As a version stored it that took ticks of any time.
    let any = [("STK_SERVER_AHEAD_MS_MAX", "300000000")];
    let server = Server::start_with(&home, &data, "127.0.0.1:0", &[], &any);
    send(&server, 1, vec![trade(now.saturating_add_nanos(-DAY), 1, 10_000)]).expect("of the past");
    send(&server, 2, vec![trade(ahead, 2, 99_900)]).expect("any time is allowed");
    assert_eq!(server.stop().0, Some(0));

    let server = Server::start(&home, &data, &[]);
    send(&server, 3, vec![trade(Timestamp::now(), 3, 10_100)]).expect("of now");
    let refused =
        send(&server, 4, vec![trade(now, 4, 10_200), trade(ahead, 5, 99_900)]).unwrap_err().to_string();
    let expected = format!("tick 1 (AAPL) of {ahead} is ");
    assert!(refused.contains(&expected) && refused.contains("at most 60 s"), "{refused}");
    assert!(refused.contains("server.ahead_ms_max"), "{refused}");
    let begun = std::time::Instant::now();
    while latest_price(&server) != 101 {
        assert!(begun.elapsed() < PATIENCE, "the latest is {}", latest_price(&server));
    }
    assert!((metric(&server.address, "intake_ahead_ticks_total") - 1.0).abs() < f64::EPSILON);
    let snapshot = ask(&server, "/v2/stocks/AAPL/snapshot");
    let of_future = ahead.to_string()[..10].to_owned();
    for part in ["latestTrade", "minuteBar", "dailyBar", "prevDailyBar"] {
        let t = snapshot[part]["t"].as_str().unwrap_or_default();
        assert!(!t.starts_with(&of_future), "{part} is of the future: {snapshot}");
    }
    let market_time = ask(&server, "/v1/status")["market_time"].as_str().unwrap_or_default().to_owned();
    assert!(market_time.as_str() < &ahead.to_string()[..10], "{market_time}");
    let (code, said) = server.stop();
    assert_eq!(code, Some(0));
    assert!(said.iter().any(|line| line.contains("too far ahead of the clock")), "{said:#?}");
    // It is history all the same.
    let data = data.display().to_string();
    let stored = home.run(&["history", "AAPL", "--data", &data]);
    assert!(stored.contains(",999,100,"), "{stored}");
}

#[test]
fn a_capture_of_days_to_come_is_not_stored_in_silence() {
    let home = Home::new();
    let capture = capture_of(&home, "2090-06-02", 100);
    let data = home.path("data").display().to_string();
    let shown = home.run(&["replay", &capture, "--speed", "max", "--data", &data]);
    assert!(shown.starts_with("exit: 1\n"), "{shown}");
    assert!(
        shown.contains("ticks were not stored: they are too far ahead of this machine's clock"),
        "{shown}"
    );
}
