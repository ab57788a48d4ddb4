//! Producers that number their own batches: an acknowledged batch is in every answer once.

use std::collections::BTreeSet;

use stk::client::ingest::IngestClient;
use stk::feed::iex::make;
use stk::market::{Conditions, Exchange, Price, Tape, Tick, Timestamp, Trade};

use super::scaled::Scaled;
use super::serve::{write_capture, write_capture_of};
use super::support::{Home, Server, metric};
use super::timelines::{copy, put_back};

fn trade(id: u64) -> Tick {
    let ts: Timestamp = "2025-06-03T14:00:00Z".parse().expect("a time");
    Tick::Trade(Trade {
        symbol: "SEQ".parse().expect("a symbol"),
        ts,
        recv_ts: ts,
        price: Price::from_nanos(id as i64 * 1_000_000_000).expect("a price"),
        size: 1,
        exchange: Exchange::NONE,
        conditions: Conditions::NONE,
        id,
        tape: Tape::A,
    })
}

/// Sends batches of producer 42, each over a connection of its own, with one trade: (number, id). The ids
/// of those that were acknowledged.
async fn send(server: &Server, batches: &[(u64, u64)]) -> BTreeSet<u64> {
    let mut acknowledged = BTreeSet::new();
    for (number, id) in batches {
        let endpoint = server.ingest.parse().expect("an address");
        let mut client = IngestClient::connect(endpoint, 42, *number, 3).await.expect("a server");
        let sent = match client.send(&[trade(*id)]).await {
            Ok(()) => client.flush().await,
            refused => refused,
        };
        match sent {
            Ok(()) => assert!(acknowledged.insert(*id)),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("send new ticks under a number above 1"), "{error}");
            }
        }
    }
    acknowledged
}

fn history(home: &Home, from: &[&str]) -> Vec<u64> {
    let shown = home.run(&[&["history", "SEQ", "--format", "ndjson"], from].concat());
    let rows = shown.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    rows.filter_map(|row| row["i"].as_u64()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_is_kept_and_what_readers_would_drop_is_refused() {
    let home = Home::new();
    let data = home.path("data");
    let server = Server::start(&home, &data, &[]);
    let mut kept = send(&server, &[10, 5, 9, 11, 13, 12].map(|number| (number, number))).await;
    assert_eq!(kept, BTreeSet::from([10, 11, 13]));
    assert_eq!(server.stop().0, Some(0));
    // What is known of the producer is in warm now; the program counts from 1 again.
    let server = Server::start(&home, &data, &[]);
    assert_eq!(send(&server, &[(1, 101), (2, 102), (13, 103)]).await, BTreeSet::new());
    assert_eq!(send(&server, &[(11, 11), (13, 13)]).await, BTreeSet::from([11, 13]), "stored already");
    kept.extend(send(&server, &[(14, 14)]).await);
    // And now in the log alone.
    server.kill();
    let server = Server::start(&home, &data, &[]);
    assert_eq!(send(&server, &[(3, 104), (14, 105)]).await, BTreeSet::new());
    kept.extend(send(&server, &[(14, 14), (15, 15)]).await);
    assert_eq!(kept, BTreeSet::from([10, 11, 13, 14, 15]));
    let expected: Vec<u64> = kept.into_iter().collect();
    assert_eq!(history(&home, &["--server", &server.address]), expected);
    assert_eq!(server.stop().0, Some(0));
    let data = data.display().to_string();
    assert_eq!(history(&home, &["--data", &data]), expected);
    assert!(home.run(&["audit", "--data", &data]).starts_with("exit: 0\n"));
}

/// Several feed processes write one topic, and a producer's batches come through any of them: none of them
/// acknowledges a batch that readers drop, whichever took the batches before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_is_known_to_every_feed_process_of_a_topic() {
    let Some(scaled) = Scaled::new(2) else { return };
    let home = Home::new();
    let none = BTreeSet::new();
    let first = scaled.serve(&home, "feed");
    let second = scaled.serve(&home, "feed");
    assert_eq!(send(&second, &[(1, 1)]).await, BTreeSet::from([1]));
    let mut kept = send(&first, &[2, 10, 11].map(|number| (number, number))).await;
    assert_eq!(kept, BTreeSet::from([2, 10, 11]));
    kept.insert(1);
    assert_eq!(send(&first, &[(5, 105)]).await, none);
    assert_eq!(send(&second, &[(5, 205), (1, 201)]).await, none);
    assert_eq!(send(&second, &[(10, 10), (11, 11)]).await, BTreeSet::from([10, 11]), "stored already");
    // A process that is started later learns the numbers from the log,
    assert_eq!(second.stop().0, Some(0));
    let second = scaled.serve(&home, "feed");
    assert_eq!(send(&second, &[(6, 306), (1, 301)]).await, none);
    kept.extend(send(&second, &[(12, 12)]).await);
    assert_eq!(send(&first, &[(12, 412)]).await, none, "the first one has heard of it");
    // and from what processors have stored.
    let (code, said) = scaled.serve(&home, "processor").drained();
    assert_eq!(code, Some(0), "{said:#?}");
    assert_eq!(first.stop().0, Some(0));
    let first = scaled.serve(&home, "feed");
    assert_eq!(send(&first, &[(7, 507), (12, 512)]).await, none);
    // The same batches over both at once are stored once.
    let both: Vec<(u64, u64)> = (13..53).map(|number| (number, number)).collect();
    let (one, other) = tokio::join!(send(&first, &both), send(&second, &both));
    let acknowledged = &one | &other;
    assert_eq!(acknowledged, (13..53).collect());
    kept.extend(acknowledged);
    assert_eq!(kept, [1, 2].into_iter().chain(10..53).collect());

    let (code, said) = scaled.serve(&home, "processor").drained();
    assert_eq!(code, Some(0), "{said:#?}");
    let gateway = scaled.serve(&home, "gateway");
    gateway.await_ready();
    let mut stored = history(&home, &["--server", &gateway.address]);
    stored.sort_unstable();
    assert_eq!(stored, kept.into_iter().collect::<Vec<_>>());
    let audited = home.shown(&mut scaled.stk(&home, &["audit"]));
    assert!(audited.starts_with("exit: 0\n"), "{audited}");
    for server in [first, second, gateway] {
        assert_eq!(server.stop().0, Some(0));
    }
}

/// Plays the capture into the store in `data` (without a server), or into the one at an address.
fn play(home: &Home, capture: &str, more: &[&str]) -> String {
    let played = home.run(&[&["replay", capture, "--speed", "max"], more].concat());
    assert!(played.starts_with("exit: 0\n"), "{played}");
    played
}

/// Rows of trades in a store.
fn trades(home: &Home, from: &[&str]) -> usize {
    let shown = home.run(&[&["history", "AAPL", "MSFT", "--format", "ndjson"], from].concat());
    assert!(shown.starts_with("exit: 0\n"), "{shown}");
    shown.lines().filter(|line| line.starts_with('{')).count()
}

#[test]
fn a_capture_that_is_played_again_adds_nothing_and_says_so() {
    let home = Home::new();
    let capture = write_capture(&home, 600).display().to_string();
    let data = home.path("data").display().to_string();
    let into = ["--data", &data];
    // Interrupted, as far as the store can tell: the first part of the same capture.
    let played = play(&home, &capture, &[&into[..], &["--to", "2025-03-07T14:33:20Z"]].concat());
    assert!(played.contains("400 ticks durable") && !played.contains("already"), "{played}");
    let played = play(&home, &capture, &into);
    assert!(played.contains("400 ticks already stored; use --again to store them"), "{played}");
    assert!(played.contains("\n800 ticks durable"), "{played}");
    let played = play(&home, &capture, &into);
    assert!(played.contains("1200 ticks already stored"), "{played}");
    assert!(played.contains("\n0 ticks durable"), "{played}");
    assert_eq!(trades(&home, &into), 600);
    // A server that is started again, and a program beside it.
    let feed = format!("iex:{capture}");
    let server = Server::start(&home, &home.path("data"), &["--feed", &feed]);
    server.await_ready();
    let played = play(&home, &capture, &["--ingest", &server.ingest]);
    assert!(played.contains("1200 ticks already stored"), "{played}");
    assert!(metric(&server.address, "intake_ticks_total").abs() < f64::EPSILON);
    let played = play(&home, &capture, &["--again", "--ingest", &server.ingest]);
    assert!(played.contains("1200 ticks durable\nstored as a new session (--again)"), "{played}");
    assert_eq!(trades(&home, &["--server", &server.address]), 1_200);
    assert_eq!(server.stop().0, Some(0));
    assert_eq!(trades(&home, &into), 1_200);
    assert!(home.run(&["audit", "--data", &data]).starts_with("exit: 0\n"));
}

/// Some symbols of a session were stored alone: the whole would store them a second time, and is refused.
#[test]
fn a_selection_of_symbols_and_the_whole_session_are_never_both_stored() {
    let home = Home::new();
    let capture = write_capture(&home, 600).display().to_string();
    let counted = |data: &str, expected: [usize; 2]| {
        let found = ["AAPL", "MSFT"].map(|symbol| {
            let shown = home.run(&["history", symbol, "--data", data, "--format", "csv"]);
            assert!(shown.starts_with("exit: 0\n"), "{shown}");
            let rows = shown.split("--- stdout\n").nth(1).and_then(|rest| rest.split("--- stderr\n").next());
            rows.expect("there is stdout").lines().count().saturating_sub(1)
        });
        assert_eq!(found, expected);
    };
    let replay = |data: &str, more: &[&str]| {
        home.run(&[&["replay", &capture, "--speed", "max", "--data", data], more].concat())
    };
    let data = home.path("selected").display().to_string();
    let part = ["--symbols", "AAPL", "--to", "2025-03-07T14:33:20Z"];
    assert!(replay(&data, &part).starts_with("exit: 0\n"));
    assert!(replay(&data, &["--symbols", "AAPL"]).starts_with("exit: 0\n"));
    let again = replay(&data, &["--symbols", "AAPL"]);
    assert!(again.starts_with("exit: 0\n") && again.contains("600 ticks already stored"), "{again}");
    counted(&data, [300, 0]);
    for more in [&[][..], &["--symbols", "MSFT"], &["--symbols", "AAPL,MSFT"]] {
        let refused = replay(&data, more);
        assert!(refused.starts_with("exit: 1\n"), "{more:?}: {refused}");
        assert!(
            refused.contains("some symbols of session 7, channel 1 of 2025-03-07 are stored alone"),
            "{refused}"
        );
    }
    counted(&data, [300, 0]);
    // As it says.
    assert!(replay(&data, &["--again"]).starts_with("exit: 0\n"));
    counted(&data, [600, 300]);

    let data = home.path("whole").display().to_string();
    assert!(replay(&data, &["--to", "2025-03-07T14:33:20Z"]).starts_with("exit: 0\n"));
    let refused = replay(&data, &["--symbols", "AAPL"]);
    assert!(refused.starts_with("exit: 1\n") && refused.contains("play it without `--symbols`"), "{refused}");
    assert!(replay(&data, &[]).starts_with("exit: 0\n"));
    let played = replay(&data, &["--symbols", "AAPL"]);
    assert!(played.starts_with("exit: 0\n") && played.contains("600 ticks already stored"), "{played}");
    counted(&data, [300, 300]);
}

#[test]
fn parts_of_a_session_are_played_in_any_order_and_another_capture_is_refused() {
    let home = Home::new();
    let capture = write_capture(&home, 600).display().to_string();
    let data = home.path("data").display().to_string();
    let [from, to] = ["2025-03-07T14:32:00Z", "2025-03-07T14:35:00Z"];
    for part in [&["--from", to][..], &["--to", from], &["--from", from, "--to", to]] {
        let played = play(&home, &capture, &[&["--data", &data], part].concat());
        assert!(!played.contains("already"), "{played}");
    }
    assert_eq!(trades(&home, &["--data", &data]), 600);
    let played = play(&home, &capture, &["--data", &data]);
    assert!(played.contains("1200 ticks already stored") && played.contains("\n0 ticks"), "{played}");

    let other = write_capture_of(&home, 600, &["MSFT", "AAPL"]).display().to_string();
    let refused = home.run(&["replay", &other, "--speed", "max", "--data", &data]);
    assert!(refused.starts_with("exit: 1\n"), "{refused}");
    let reason =
        "another capture of session 7, channel 1 of 2025-03-07 is stored, whose first message differs";
    assert!(refused.contains(reason), "{refused}");
    assert_eq!(trades(&home, &["--data", &data]), 600);
}

/// A capture that was stored whole is played again once the data directory was put back from an older copy: the rest
/// of it is stored, once, by the server that has the directory open, as the hint says.
#[test]
fn a_capture_is_played_into_the_server_that_has_an_older_copy_open() {
    let home = Home::new();
    let (data, copied) = (home.path("data"), home.path("copied"));
    let data_text = data.display().to_string();
    let capture = write_capture(&home, 40).display().to_string();
    let play = |more: &[&str]| home.run(&[&["replay", &capture, "--speed", "max"], more].concat());
    let part = play(&["--to", "2025-03-07T14:30:10Z", "--data", &data_text]);
    assert!(part.contains("20 ticks durable"), "{part}");
    copy(&data, &copied);
    assert!(play(&["--data", &data_text]).contains("60 ticks durable"));
    put_back(&copied, &data);
    let server = Server::start(&home, &data, &[]);
    let refused = play(&["--data", &data_text]);
    assert!(refused.starts_with("exit: 4\n"), "{refused}");
    let hint = "hint: play it into the server that has it open: `--ingest` instead of `--data`";
    assert!(refused.contains(hint), "{refused}");
    let played = play(&["--ingest", &server.ingest]);
    assert!(played.contains("20 ticks already stored") && played.contains("60 ticks durable"), "{played}");
    let asked = ["history", "AAPL", "MSFT", "--format", "csv", "--server", &server.address];
    let trades = home.run(&asked);
    assert_eq!(trades.lines().filter(|line| line.contains(",2025-03-07T14:30:")).count(), 40, "{trades}");
}

/// Writes a capture of the packets `numbers` of one session, in that order, with a trade of AAPL each.
fn write_packets(home: &Home, name: &str, numbers: impl IntoIterator<Item = u64>) -> String {
    let open: Timestamp = "2025-03-07T14:30:00Z".parse().expect("a time");
    let mut capture = make::pcap_header();
    for number in numbers {
        let ts = open.saturating_add_nanos(number as i64 * 1_000_000);
        let trade = make::trade("AAPL", ts, 0, 1_000_000, 100, number + 1);
        let segment = make::segment(1, 7, number + 1, ts, &[trade]);
        capture.extend(make::pcap_record(ts, &make::ethernet(&segment)));
    }
    let path = home.path(name);
    std::fs::write(&path, capture).expect("written");
    path.display().to_string()
}

/// A capture that lost packets, and then a better one of the same session: what the first one lacks is added. Where it
/// lacks too much to tell what, that is said.
#[test]
fn a_better_capture_fills_the_holes_of_the_one_before() {
    for (packets, is_told) in [(800, false), (2_400, true)] {
        let home = Home::new();
        let data = home.path("data").display().to_string();
        let holed = write_packets(&home, "holed.pcap", (0..packets).step_by(2));
        let whole = write_packets(&home, "whole.pcap", 0..packets);
        play(&home, &holed, &["--data", &data]);
        let shown = home.run(&["replay", &whole, "--speed", "max", "--data", &data]);
        let stored = trades(&home, &["--data", &data]) as u64;
        assert_eq!(stored < packets, is_told, "{shown}");
        assert_eq!(shown.contains("ticks already stored may not be"), is_told, "{shown}");
        assert_eq!(shown.starts_with("exit: 0\n"), !is_told, "{shown}");
    }
}

/// Two captures of one session that saw its packets in different orders, one of which lost some: all is stored once.
#[test]
fn captures_that_saw_packets_in_another_order_are_the_same() {
    let pairs = |from: u64| (from..from + 100).flat_map(|pair| [2 * pair + 1, 2 * pair]);
    let groups = (0..40).flat_map(|group| (5 * group..5 * group + 5).rev());
    let orders: [Vec<u64>; 4] = [
        (0..200).collect(),
        pairs(0).collect(),
        groups.collect(),
        // Of three missing ones the middle one comes late.
        (0..20).flat_map(|ten| [0, 1, 5, 3, 6, 7, 8, 9].map(|number| 10 * ten + number)).collect(),
    ];
    for first in &orders {
        for second in &orders {
            let home = Home::new();
            let data = home.path("data").display().to_string();
            for order in [first, second, &orders[0]] {
                let capture = write_packets(&home, "capture.pcap", order.iter().copied());
                play(&home, &capture, &["--data", &data]);
            }
            assert_eq!(trades(&home, &["--data", &data]), 200, "{first:?}, then {second:?}");
        }
    }
}
