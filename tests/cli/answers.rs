//! What REST and `stk history` answer about the past, over the real server.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use stk::market::{
    Cancel, Conditions, Correction, Exchange, Price, Tape, Tick, Timestamp, Trade, TradeTerms,
};

use super::serve::write_capture;
use super::support::{Home, Server, ingest};

const DAY: &str = "2025-03-07";

fn at(second: i64) -> Timestamp {
    let open: Timestamp = "2025-03-07T14:30:00Z".parse().expect("a time");
    open.saturating_add_nanos(second * 1_000_000_000)
}

fn trade(symbol: &str, id: u64, exchange: u8) -> Trade {
    Trade {
        symbol: symbol.parse().expect("a symbol"),
        ts: at(id as i64),
        recv_ts: at(id as i64),
        price: Price::from_ten_thousandths(100_0000 + id as i64).expect("a price"),
        size: 100 + id as u32,
        exchange: Exchange::from_code(exchange).expect("an exchange"),
        conditions: Conditions::NONE,
        id,
        tape: Tape::C,
    }
}

fn cancel(of: &Trade, second: i64) -> Tick {
    let Trade { symbol, id, price, size, exchange, tape, .. } = *of;
    let (ts, action) = (at(second), b'C');
    Tick::Cancel(Box::new(Cancel { symbol, ts, recv_ts: ts, id, price, size, exchange, action, tape }))
}

fn correction(of: &Trade, id: u64, price: &str, second: i64) -> Tick {
    let Trade { symbol, price: before, size, exchange, conditions, tape, .. } = *of;
    let (ts, price) = (at(second), price.parse().expect("a price"));
    let original = TradeTerms { id: of.id, price: before, size, conditions };
    let corrected = TradeTerms { id, price, size, conditions };
    Tick::Correction(Box::new(Correction { symbol, ts, recv_ts: ts, exchange, original, corrected, tape }))
}

/// Brings ticks to a server, durably.
fn bring(server: &Server, producer: u64, ticks: &[Tick]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut client = ingest(&server.ingest, producer, 3).await.expect("a connection");
        client.send(ticks).await.expect("taken");
        client.flush().await.expect("durable");
    });
}

/// Status and body of an answer.
fn get(server: &Server, path: &str) -> (u16, Value) {
    let url = format!("http://{}{path}", server.address);
    let output =
        Command::new("curl").args(["-s", "-w", "\n%{http_code}", &url]).output().expect("curl is there");
    let text = String::from_utf8(output.stdout).expect("text");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (
        status.parse().expect("a number"),
        serde_json::from_str(body).unwrap_or_else(|_| panic!("{path}: {body}")),
    )
}

fn said(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["message"].as_str().unwrap_or_default())
}

/// The rows of all pages of `path`, of so many rows each.
fn pages(server: &Server, path: &str, limit: usize) -> Vec<Value> {
    let (mut rows, mut next) = (Vec::new(), String::new());
    loop {
        let (status, page) = get(server, &format!("{path}&limit={limit}{next}"));
        assert_eq!(status, 200, "{page}");
        let found = page["trades"].as_array().cloned().unwrap_or_else(|| {
            page["trades"]
                .as_object()
                .expect("rows")
                .values()
                .flat_map(|of| of.as_array().unwrap().clone())
                .collect()
        });
        assert!(found.len() <= limit, "{page}");
        rows.extend(found);
        match page["next_page_token"].as_str() {
            Some(token) => next = format!("&page_token={token}"),
            None => return rows,
        }
    }
}

#[test]
fn broken_and_corrected_trades_are_marked_in_every_answer() {
    let home = Home::new();
    let data = home.path("data");
    let server = Server::start(&home, &data, &[]);
    let of: Vec<Trade> = (1..=6).map(|id| trade("TSTA", id, b'V')).collect();
    let elsewhere = trade("TSTA", 2, b'Q');
    let mut ticks: Vec<Tick> = of.iter().map(|trade| Tick::Trade(*trade)).collect();
    ticks.extend([Tick::Trade(elsewhere), Tick::Trade(trade("TSTB", 2, b'V'))]);
    bring(&server, 1, &ticks);
    // What amends them comes when they are in warm.
    server.drained();
    let server = Server::start(&home, &data, &[]);
    let first = correction(&of[3], 44, "44", 200);
    let Tick::Correction(again) = &first else { panic!("a correction") };
    let corrected = Trade { id: 44, price: again.corrected.price, ..of[3] };
    let amending = [
        cancel(&of[1], 300),
        correction(&of[2], 3, "33", 100),
        first,
        cancel(&corrected, 400),
        // Of a trade that nobody has.
        cancel(&trade("TSTA", 77, b'V'), 400),
    ];
    bring(&server, 2, &amending);

    let path = format!("/v2/stocks/trades?symbols=TSTA,TSTB&start={DAY}&end={DAY}");
    let shown = |rows: &[Value]| -> Value {
        let row =
            |row: &Value| json!([row["i"], row["x"], row["p"], row.get("u").cloned().unwrap_or(Value::Null)]);
        rows.iter().map(row).collect()
    };
    let whole = pages(&server, &path, 100);
    let expected = json!([
        [1, "V", 100.0001, null],
        [2, "V", 100.0002, "canceled"],
        [2, "Q", 100.0002, null],
        [3, "V", 100.0003, "incorrect"],
        [3, "V", 33, "corrected"],
        [4, "V", 100.0004, "incorrect"],
        [44, "V", 44, "canceled"],
        [5, "V", 100.0005, null],
        [6, "V", 100.0006, null],
        [2, "V", 100.0002, null],
    ]);
    assert_eq!(shown(&whole), expected);
    assert_eq!(whole[4]["t"], whole[3]["t"], "a corrected trade has the time of what it corrects");
    for limit in 1..=4 {
        assert_eq!(pages(&server, &path, limit), whole, "in pages of {limit}");
    }
    let single = format!("/v2/stocks/TSTA/trades?start={DAY}&end={DAY}");
    assert_eq!(pages(&server, &single, 3), whole[..9]);
    // Those that stand add up to the bar beside them.
    let stands = |row: &&Value| !matches!(row["u"].as_str(), Some("canceled" | "incorrect"));
    let volume: u64 = whole[..9].iter().filter(stands).filter_map(|row| row["s"].as_u64()).sum();
    let bars = get(&server, &format!("/v2/stocks/TSTA/bars?timeframe=1Day&start={DAY}&end={DAY}")).1;
    assert_eq!(bars["bars"][0]["v"], volume, "{bars}");
    // A range that begins between a trade and what amends it.
    let from = at(3).to_string();
    let late = pages(&server, &format!("/v2/stocks/TSTA/trades?start={from}"), 100);
    assert_eq!(late, whole[3..9]);

    let history = get(&server, "/v1/history?symbols=TSTA,TSTB").1;
    assert_eq!(shown(history.as_array().expect("rows")), expected);
    let csv = |shown: &str| -> Vec<(String, String)> {
        let rows =
            shown.split_once("--- stdout\n").expect("stdout").1.split_once("--- stderr").expect("stderr").0;
        let cells = |line: &str| line.trim_end().split(',').map(str::to_owned).collect::<Vec<_>>();
        let mut rows = rows.lines().map(cells);
        assert_eq!(rows.next().expect("a header").last().map(String::as_str), Some("update"));
        rows.map(|cells| (cells[6].clone(), cells.last().expect("cells").clone())).collect()
    };
    let served = csv(&home.run(&["history", "TSTA", "TSTB", "--server", &server.address]));
    let marks: Vec<&str> = served.iter().map(|(_, update)| update.as_str()).collect();
    assert_eq!(marks, ["", "canceled", "", "incorrect", "corrected", "incorrect", "canceled", "", "", ""]);
    let limited = csv(&home.run(&["history", "TSTA", "--limit", "5", "--server", &server.address]));
    assert_eq!(limited, served[..5], "a corrected row counts as any other");
    server.drained();
    let stored = csv(&home.run(&["history", "TSTA", "TSTB", "--data", &data.display().to_string()]));
    assert_eq!(stored, served);
}

#[test]
fn a_page_token_is_refused_by_another_question() {
    let home = Home::new();
    let server = Server::start(&home, &home.path("data"), &[]);
    let symbols = ["ACAQ", "ACAQ+", "TOKA", "TOKB"];
    let ticks: Vec<Tick> =
        symbols.iter().flat_map(|symbol| (1..=4).map(|id| Tick::Trade(trade(symbol, id, b'V')))).collect();
    bring(&server, 1, &ticks);

    let days = format!("start={DAY}&end={DAY}");
    let (status, first) = get(&server, &format!("/v2/stocks/TOKA/trades?{days}&limit=2"));
    assert_eq!((status, first["trades"].as_array().map(Vec::len)), (200, Some(2)));
    let token = first["next_page_token"].as_str().expect("more").to_owned();
    for path in [
        format!("/v2/stocks/TOKB/trades?{days}"),
        format!("/v2/stocks/TOKA/quotes?{days}"),
        format!("/v2/stocks/TOKA/bars?{days}&timeframe=1Min"),
        format!("/v2/stocks/TOKA/trades?start={DAY}"),
        format!("/v2/stocks/TOKA/trades?start=2025-03-06&end={DAY}"),
        format!("/v2/stocks/trades?{days}&symbols=TOKA,TOKB"),
    ] {
        let answer = get(&server, &format!("{path}&limit=2&page_token={token}"));
        let (status, message) = said(&answer);
        assert!(status == 400 && message.contains("was not issued for this request"), "{path}: {answer:?}");
    }
    // The same question, also where the path names the symbol and the page has another size.
    let (status, second) = get(&server, &format!("/v2/stocks/TOKA/trades?{days}&limit=9&page_token={token}"));
    assert_eq!((status, second["trades"].as_array().map(Vec::len)), (200, Some(2)), "{second}");
    let old =
        get(&server, &format!("/v2/stocks/TOKA/trades?{days}&page_token=1.1741357801000000000.0.0.0.TOKA"));
    assert!(said(&old).1.contains("ask for the first page again"), "{old:?}");

    // A plus that is not escaped is a blank, and "ACAQ " is not the symbol ACAQ.
    let blank = get(&server, &format!("/v2/stocks/trades?{days}&symbols=ACAQ+"));
    assert_eq!(blank.0, 400, "{blank:?}");
    assert!(said(&blank).1.contains("\"ACAQ \"") && said(&blank).1.contains("%2B"), "{blank:?}");
    let symbols_of = |path: &str| -> Vec<String> {
        let (status, page) = get(&server, path);
        assert_eq!(status, 200, "{page}");
        page["trades"].as_object().expect("rows").keys().cloned().collect()
    };
    assert_eq!(symbols_of(&format!("/v2/stocks/trades?{days}&symbols=ACAQ%2B")), ["ACAQ+"]);
    assert_eq!(
        symbols_of(&format!("/v2/stocks/trades?{days}&symbols=TOKA&symbols=TOKB,ACAQ")),
        ["ACAQ", "TOKA", "TOKB"]
    );
    // Pages whose next row is of a symbol with a plus.
    let path = format!("/v2/stocks/trades?{days}&symbols=ACAQ%2B,ACAQ");
    assert_eq!(pages(&server, &path, 3), pages(&server, &path, 100));
    let asked = get(
        &server,
        &format!("/v2/stocks/TOKA/trades?{days}&currency=USD&adjustment=raw&asof=-&feed=sip&sort=asc"),
    );
    assert_eq!((asked.0, &asked.1["currency"]), (200, &json!("USD")), "{asked:?}");
    assert_eq!(first.get("currency"), None, "where nobody asked for it");
}

#[test]
fn symbols_of_every_kind_of_security_are_kept() {
    let capture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/faults/inet-symbols.pcap");
    if !capture.is_file() {
        eprintln!("skipped: {} is not here", capture.display());
        return;
    }
    let home = Home::new();
    let data = home.path("data").display().to_string();
    let replayed = home.run(&["replay", &capture.display().to_string(), "--speed", "max", "--data", &data]);
    assert!(replayed.starts_with("exit: 0\n") && replayed.contains("7 ticks durable"), "{replayed}");
    let all = ["WFC+", "WYND#", "TPGH=", "VST+A", "SAN-I*", "BAC-I*", "ABC$"];
    let shown = home.run(&[&["history", "--data", &data], &all[..]].concat());
    for symbol in all {
        assert!(shown.contains(&format!("\n{symbol},")), "{shown}");
    }
}

#[test]
fn a_capture_with_messages_that_can_not_be_read_is_not_a_success() {
    let home = Home::new();
    let data = home.path("data").display().to_string();
    let capture = super::serve::write_capture_of(&home, 4, &["AAPL", "aapl"]).display().to_string();
    let replayed = home.run(&["replay", &capture, "--speed", "max", "--data", &data]);
    assert!(replayed.starts_with("exit: 1\n"), "{replayed}");
    assert!(replayed.contains("4 ticks durable"), "{replayed}");
    assert!(replayed.contains("could not be read: 4 with symbol \"aapl\" has 'a'"), "{replayed}");
    assert!(replayed.contains("error: 4 messages of the capture could not be read"), "{replayed}");
}

#[test]
fn rows_go_to_whatever_is_at_the_path() {
    let home = Home::new();
    let data = home.path("data").display().to_string();
    let capture = write_capture(&home, 20).display().to_string();
    assert!(home.run(&["replay", &capture, "--speed", "max", "--data", &data]).starts_with("exit: 0\n"));
    let out = home.path("out");
    std::fs::create_dir(&out).expect("made");
    let to = |path: &str, more: &[&str]| {
        home.run(&[&["history", "AAPL", "--data", &data, "--output", path][..], more].concat())
    };
    let path = |name: &str| out.join(name).display().to_string();
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(&out)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let stdout = to("-", &[]);
    assert!(stdout.starts_with("exit: 0\n") && stdout.contains("\nAAPL,"), "{stdout}");

    // The format follows the ending, unless it is named.
    for (name, begins) in [
        ("rows.parquet", &b"PAR1"[..]),
        ("rows.ndjson", b"{\"T\":"),
        ("rows.JSON", b"[{\"T\":"),
        ("rows", b"symbol,ts"),
    ] {
        let shown = to(&path(name), &[]);
        assert!(shown.starts_with("exit: 0\n--- stdout\n--- stderr\n"), "{shown}");
        assert!(std::fs::read(path(name)).expect("written").starts_with(begins), "{name}");
    }
    to(&path("rows.parquet"), &["--format", "csv"]);
    let csv = std::fs::read(path("rows.parquet")).expect("written");
    assert!(csv.starts_with(b"symbol,ts"));
    assert_eq!(names(), ["rows", "rows.JSON", "rows.ndjson", "rows.parquet"]);

    // A file keeps its rights, and a link stays a link, also one that leads nowhere yet.
    std::fs::set_permissions(path("rows"), std::fs::Permissions::from_mode(0o640)).expect("set");
    symlink("rows", out.join("link")).expect("made");
    symlink("new.csv", out.join("ahead")).expect("made");
    for link in ["link", "ahead"] {
        let shown = to(&path(link), &[]);
        assert!(shown.starts_with("exit: 0\n"), "{shown}");
        assert!(std::fs::symlink_metadata(path(link)).expect("there").file_type().is_symlink());
    }
    assert_eq!(std::fs::metadata(path("rows")).expect("there").mode() & 0o777, 0o640);
    assert_eq!(std::fs::read(path("new.csv")).expect("made"), csv);

    // Devices and FIFOs are written through.
    let null = std::fs::metadata("/dev/null").expect("there").rdev();
    assert!(to("/dev/null", &[]).starts_with("exit: 0\n"));
    let after = std::fs::symlink_metadata("/dev/null").expect("there");
    assert!(after.file_type().is_char_device() && after.rdev() == null);
    let fifo = path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo is there").success());
    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || std::fs::read(fifo).expect("read")
    });
    assert!(to(&fifo, &[]).starts_with("exit: 0\n"));
    assert_eq!(reader.join().expect("read"), csv);
    assert!(std::fs::symlink_metadata(&fifo).expect("there").file_type().is_fifo());
    let sent = to("/dev/stdout", &[]);
    assert!(sent.contains("\nAAPL,"), "{sent}");

    // What fails names the path that was given, and leaves what was there.
    let before = names();
    let full = to("/dev/full", &[]);
    assert!(full.starts_with("exit: 1\n") && full.contains("error: /dev/full: "), "{full}");
    let dir = to(&out.display().to_string(), &[]);
    assert!(dir.starts_with("exit: 2\n") && dir.contains("[HOME]/out: is a directory"), "{dir}");
    let absent = to(&path("no/rows.csv"), &[]);
    assert!(
        absent.starts_with("exit: 2\n") && absent.contains("[HOME]/out/no/rows.csv: No such file"),
        "{absent}"
    );
    let failed = home.run(&["history", "AAPL", "--data", "nowhere", "--output", &path("rows")]);
    assert!(!failed.starts_with("exit: 0\n"), "{failed}");
    assert_eq!(names(), before);
    assert_eq!(std::fs::read(path("rows")).expect("there"), csv);
}

/// Rows that are known to be missing are an exit code of their own, and the others are written.
#[test]
fn an_answer_that_is_known_to_lack_rows_exits_with_its_own_code() {
    let missing = json!([{ "partition": 0, "first_offset": 3, "next_offset": 7 }]);
    let frozen = json!([{
        "kind": "trade", "date": "2025-03-06", "key": "ticks/a", "bytes": 7, "class": "GLACIER", "restoring": false,
    }]);
    let none = json!([]);
    let lost = json!([{
        "partition": 0, "first_offset": 3, "next_offset": 7, "first_day": "2025-03-06", "last_day": "2025-03-06",
    }]);
    for (missing, frozen, broken, lost, code) in [
        (&none, &none, &none, None, 0),
        (&missing, &none, &none, None, 5),
        (&none, &frozen, &none, None, 5),
        (&none, &none, &none, Some(&lost), 5),
        (&missing, &none, &json!(["warm"]), None, 1),
    ] {
        let mut coverage = json!({
            "complete": false, "log_records": 0, "broken": broken, "broken_not_listed": 0,
            "missing": missing, "missing_not_listed": 0, "gaps": [], "gaps_not_listed": 0,
            "archived": { "days": 0, "frozen": frozen, "frozen_not_listed": 0, "restore": [], "unasked": null },
        });
        // Servers of older versions do not know of it.
        if let Some(lost) = lost {
            coverage["lost"] = lost.clone();
            coverage["lost_not_listed"] = 0.into();
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let answered = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                std::io::Read::read_exact(&mut stream, &mut byte).expect("a request");
                head.push(byte[0]);
            }
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\nstk-coverage: {coverage}\r\ncontent-length: 4\r\n\
                 connection: close\r\n\r\nrow\n"
            );
            std::io::Write::write_all(&mut stream, answer.as_bytes()).expect("written");
        });
        let home = Home::new();
        let shown = home.run(&["history", "AAPL", "--format", "csv", "--server", &address]);
        answered.join().expect("answered");
        assert!(shown.starts_with(&format!("exit: {code}\n--- stdout\nrow\n")), "{shown}");
    }
}
