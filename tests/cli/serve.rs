//! The server as it is used: ticks in by every door, out by every door, and back after a restart.

use std::io::Write;
use std::process::Stdio;

use super::support::{Home, Server};
use stk::feed::iex::make;
use stk::market::Timestamp;

/// A capture of so many trades and quotes in two symbols, a second apart.
pub(crate) fn write_capture(home: &Home, seconds: i64) -> std::path::PathBuf {
    write_capture_of(home, seconds, &["AAPL", "MSFT"])
}

/// The same of other symbols, in turns.
pub(crate) fn write_capture_of(home: &Home, seconds: i64, symbols: &[&str]) -> std::path::PathBuf {
    let open: Timestamp = "2025-03-07T14:30:00Z".parse().expect("a time");
    let segments: Vec<_> = (0..seconds)
        .map(|second| {
            let ts = open.saturating_add_nanos(second * 1_000_000_000);
            let symbol = symbols[second as usize % symbols.len()];
            let price = 190_4500 + second * 100;
            let trade = make::trade(symbol, ts, 0, price, 100, second as u64 + 1);
            (ts, vec![make::quote(symbol, ts, 0, (price, 1), (price + 100, 2)), trade])
        })
        .collect();
    let path = home.path("capture.pcap");
    std::fs::write(&path, make::capture(&segments)).expect("written");
    path
}

fn lines_of(shown: &str) -> Vec<&str> {
    let (_, rest) = shown.split_once("--- stdout\n").expect("there is stdout");
    rest.split("--- stderr\n").next().unwrap_or_default().lines().collect()
}

#[test]
fn a_replayed_capture_is_served_and_stands_after_a_restart() {
    let home = Home::new();
    let capture = write_capture(&home, 60).display().to_string();
    let data = home.path("data");
    let server = Server::start(&home, &data, &[]);
    let replayed = home.run(&["replay", &capture, "--speed", "max", "--ingest", &server.ingest]);
    assert!(replayed.starts_with("exit: 0\n"), "{replayed}");
    assert!(replayed.contains("120 messages in 60 packets: 60 quotes, 60 trades"), "{replayed}");
    assert!(replayed.contains("120 ticks durable"), "{replayed}");

    let asked = ["history", "AAPL", "MSFT", "--server", &server.address];
    let trades = home.run(&asked);
    let rows = lines_of(&trades);
    assert_eq!(rows.len(), 61, "{trades}");
    assert!(rows[1].starts_with("AAPL,2025-03-07T14:30:00Z,190.45,100,V,"), "{trades}");
    assert!(trades.contains("nothing is missing"), "{trades}");
    let bars =
        home.run(&["history", "AAPL", "--kind", "bars", "--timeframe", "1Day", "--server", &server.address]);
    assert_eq!(lines_of(&bars).len(), 2, "{bars}");
    assert!(lines_of(&bars)[1].contains(",3000,30,"), "volume and trades of the day: {bars}");
    assert_eq!(lines_of(&home.run(&["symbols", "--server", &server.address])), ["AAPL", "MSFT"]);
    assert_eq!(lines_of(&home.run(&["symbols", "m", "--server", &server.address])), ["MSFT"]);
    let typed = home.run(&["history", "aapl", "msft", "--server", &server.address]);
    assert_eq!(lines_of(&typed), rows, "case does not matter on the command line");

    // Another process can't have the directory meanwhile.
    let taken = home.run(&["history", "AAPL", "--data", &data.display().to_string()]);
    assert!(taken.starts_with("exit: 4\n"), "{taken}");
    assert!(
        taken.contains("[HOME]/data is open in another process") && taken.contains("--server"),
        "{taken}"
    );

    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("120 ticks taken in and durable")), "{said:#?}");

    let stored = home.run(&["history", "AAPL", "MSFT", "--data", &data.display().to_string()]);
    assert_eq!(lines_of(&stored), rows, "the same from the directory as from the server");
    let server = Server::start(&home, &data, &[]);
    let asked = ["history", "AAPL", "MSFT", "--server", &server.address];
    assert_eq!(lines_of(&home.run(&asked)), rows, "the same after a restart");
}

#[test]
fn a_capture_goes_straight_into_a_store_and_out_in_every_format() {
    let home = Home::new();
    let capture = write_capture(&home, 40).display().to_string();
    let data = home.path("data").display().to_string();
    let replayed = home.run(&["replay", &capture, "--speed", "max", "--data", &data, "--symbols", "aapl"]);
    assert!(replayed.starts_with("exit: 0\n") && replayed.contains("40 ticks durable"), "{replayed}");
    assert!(replayed.contains("40 passed over by --from, --to or --symbols"), "{replayed}");
    let of = |more: &[&str]| home.run(&[&["history", "AAPL", "--data", &data], more].concat());
    assert_eq!(lines_of(&of(&["--kind", "quotes"])).len(), 21);
    assert_eq!(lines_of(&of(&["--limit", "3"])).len(), 4);
    assert_eq!(lines_of(&of(&["--from", "2025-03-07T14:30:10Z", "--to", "2025-03-07T14:30:20Z"])).len(), 6);
    assert_eq!(lines_of(&of(&["--to", "2025-03-06"])).len(), 1, "a day without rows has a header");
    let json: Vec<serde_json::Value> =
        serde_json::from_str(&lines_of(&of(&["--format", "json"])).concat()).expect("JSON");
    assert_eq!((json.len(), &json[0]["p"]), (20, &serde_json::json!(190.45)));
    assert_eq!(lines_of(&of(&["--format", "ndjson"])).len(), 20);
    let stats = of(&["--stats"]);
    assert!(stats.contains("first row after ") && stats.contains("of the log"), "{stats}");
    for format in ["parquet", "arrow"] {
        let file = home.path(&format!("rows.{format}"));
        let shown = of(&["--format", format, "--output", &file.display().to_string()]);
        assert!(shown.starts_with("exit: 0\n--- stdout\n--- stderr\n"), "{shown}");
        assert!(std::fs::metadata(&file).expect("written").len() > 500);
        assert!(!home.path(&format!("rows.{format}.partial")).exists());
    }
    let warm = std::path::Path::new(&data).join("warm/date=2025-03-07/kind=trade");
    let segment = std::fs::read_dir(&warm).expect("segments").next().expect("one").expect("read").path();
    let whole = std::fs::read(&segment).expect("read");
    std::fs::write(&segment, &whole[..whole.len() / 2]).expect("written");
    let damaged = of(&[]);
    assert!(damaged.starts_with("exit: 1\n") && damaged.contains("is damaged: it has "), "{damaged}");
    assert!(damaged.contains("kind=trade") && damaged.contains("hint: `stk audit --repair`"), "{damaged}");
    std::fs::write(&segment, whole).expect("written");
    // What no manifest names is no reader's to remove; what is there without one is not given up.
    let stray = segment.with_file_name("stray.parquet");
    std::fs::write(&stray, b"of a crash").expect("written");
    assert_eq!(lines_of(&of(&[])).len(), 21);
    let warm_dir = std::path::Path::new(&data).join("warm");
    let manifest = std::fs::read_dir(&warm_dir)
        .expect("a store")
        .map(|entry| entry.expect("read").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .expect("a manifest");
    std::fs::rename(&manifest, home.path("manifest")).expect("moved");
    for command in [&["history", "AAPL", "--data", &data][..], &["replay", &capture, "--data", &data]] {
        let lost = home.run(command);
        assert!(lost.starts_with("exit: 1\n") && lost.contains("hint: `stk audit --repair`"), "{lost}");
        assert!(lost.contains("[HOME]/data/warm/manifest-*.jsonl is damaged: it is missing"), "{lost}");
    }
    assert!(stray.exists() && segment.exists());
    std::fs::rename(home.path("manifest"), &manifest).expect("moved back");
    assert_eq!(lines_of(&of(&[])).len(), 21);
    let nowhere = of(&["--output", "no/such/dir/rows.csv"]);
    assert!(nowhere.starts_with("exit: 2\n") && nowhere.contains("no/such/dir/rows.csv"), "{nowhere}");
}

#[test]
fn what_is_taken_or_absent_is_named_with_its_exit_code() {
    let home = Home::new();
    let data = home.path("data");
    let server = Server::start(&home, &data, &[]);
    let other = home.path("other").display().to_string();
    let port = home.run(&["serve", "--data", &other, "--listen", &server.address]);
    assert!(port.starts_with("exit: 4\n"), "{port}");
    assert!(port.contains(&format!("{} is in use by another program", server.address)), "{port}");
    let same = home.run(&[
        "serve",
        "--data",
        &data.display().to_string(),
        "--listen",
        "127.0.0.1:0",
        "--ingest-listen",
        "127.0.0.1:0",
    ]);
    assert!(
        same.starts_with("exit: 4\n") && same.contains("[HOME]/data is open in another process"),
        "{same}"
    );
    let absent = home.run(&["history", "AAPL", "--data", &other]);
    assert!(absent.starts_with("exit: 2\n") && absent.contains("holds nothing that stk stored"), "{absent}");
    std::fs::write(home.path("junk"), vec![7; 4096]).expect("written");
    let junk = home.run(&[
        "serve",
        "--feed",
        "iex:junk",
        "--data",
        &other,
        "--listen",
        "127.0.0.1:0",
        "--ingest-listen",
        "127.0.0.1:0",
    ]);
    assert!(junk.starts_with("exit: 2\n") && junk.contains("junk"), "{junk}");
    let nobody =
        home.run(&["replay", &write_capture(&home, 2).display().to_string(), "--ingest", "127.0.0.1:1"]);
    assert!(nobody.starts_with("exit: 3\n") && nobody.contains("stk serve"), "{nobody}");
}

#[test]
fn a_simulated_market_is_seen_by_every_door() {
    let home = Home::new();
    let server = Server::start(&home, &home.path("data"), &["--feed", "sim:rate=5000,symbols=50"]);
    // Waits by the server's own events, never by the clock.
    let mut stream = std::net::TcpStream::connect(&server.address).expect("a server");
    let request = format!("GET /v2/stk/sse?quotes=*&trades=* HTTP/1.1\r\nHost: {}\r\n\r\n", server.address);
    stream.write_all(request.as_bytes()).expect("sent");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stream)).map_while(Result::ok);
    assert!(lines.any(|line| line.contains(r#""T":"q""#)));
    assert!(lines.any(|line| line.contains(r#""T":"t""#)));
    let doctor = home.run(&["doctor", "--server", &server.address]);
    assert!(doctor.contains(&format!("a server answers at {}", server.address)), "{doctor}");
    let symbols = home.run(&["symbols", "--server", &server.address]);
    assert!(lines_of(&symbols).len() > 5, "{symbols}");
}

#[test]
fn a_reader_of_a_pipe_that_goes_away_is_no_error() {
    let home = Home::new();
    let capture = write_capture(&home, 4_000).display().to_string();
    let data = home.path("data").display().to_string();
    assert!(home.run(&["replay", &capture, "--speed", "max", "--data", &data]).starts_with("exit: 0\n"));
    let mut history = home
        .stk(&["history", "AAPL", "MSFT", "--data", &data])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    drop(history.stdout.take());
    assert_eq!(history.wait().expect("ours").code(), Some(0));
}

/// The capture is played up to the fault: that is stored, and said.
#[test]
fn a_capture_that_breaks_off_says_what_is_durable() {
    let home = Home::new();
    let capture = write_capture(&home, 10_000);
    let mut bytes = std::fs::read(&capture).expect("written");
    bytes.extend([0xff; 64]);
    std::fs::write(&capture, bytes).expect("written");
    let capture = capture.display().to_string();
    let data = home.path("data").display().to_string();
    let server = Server::start(&home, &home.path("served"), &[]);
    for into in [["--data", &data], ["--ingest", &server.ingest]] {
        let shown = home.run(&[&["replay", &capture, "--speed", "max"], &into[..]].concat());
        assert!(shown.starts_with("exit: 1\n"), "{shown}");
        assert!(shown.contains("error: [HOME]/capture.pcap"), "{shown}");
        assert!(shown.contains("; the 20000 ticks before that are durable\n\nhint: mend the"), "{shown}");
    }
    for from in [["--data", &data], ["--server", &server.address]] {
        let shown = home.run(&[&["history", "AAPL", "MSFT"], &from[..]].concat());
        assert_eq!(lines_of(&shown).len(), 10_001, "{from:?}");
    }
}

/// Nobody reads stderr any more, as where a supervisor's log has gone: no reason not to drain.
#[test]
fn a_server_whose_stderr_nobody_reads_drains_all_the_same() {
    let home = Home::new();
    let data = home.path("data").display().to_string();
    let any = "127.0.0.1:0";
    let mut server = home
        .stk(&["serve", "--data", &data, "--listen", any, "--ingest-listen", any])
        .env("STK_LOG", "debug")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut said = std::io::BufRead::lines(std::io::BufReader::new(server.stderr.take().expect("piped")));
    let mut ingest = None;
    loop {
        let line = said.next().expect("it starts").expect("read");
        if let Some((_, rest)) = line.split_once("taking ticks on ws://") {
            ingest = rest.split('/').next().map(str::to_owned);
        }
        if line.starts_with("storing in ") {
            break;
        }
    }
    drop(said);
    let capture = write_capture(&home, 30).display().to_string();
    let ingest = ingest.expect("it takes ticks");
    let replayed = home.run(&["replay", &capture, "--speed", "max", "--ingest", &ingest]);
    assert!(replayed.contains("60 ticks durable"), "{replayed}");
    let pid = rustix::process::Pid::from_child(&server);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    assert_eq!(server.wait().expect("it is ours").code(), Some(0));
    let stored = home.run(&["history", "AAPL", "MSFT", "--stats", "--data", &data]);
    assert_eq!(lines_of(&stored).len(), 31, "{stored}");
    assert!(stored.contains("30 rows, 0 of them from the log"), "it was drained: {stored}");
}
