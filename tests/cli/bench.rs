//! `stk bench NAME --json`: one object with the figures that the README states, under their names.

use serde_json::Value;

use super::scaled::Scaled;
use super::support::Home;

/// Runs a bench; its object.
fn bench(home: &Home, args: &[&str]) -> Value {
    let shown = home.run(&[&["bench", "--json"], args].concat());
    assert!(shown.starts_with("exit: 0\n--- stdout\n"), "{shown}");
    let (_, rest) = shown.split_once("--- stdout\n").expect("there is stdout");
    let (out, _) = rest.split_once("--- stderr\n").expect("there is stderr");
    assert_eq!(out.lines().count(), 1, "one object: {out}");
    serde_json::from_str(out).expect("JSON")
}

#[test]
fn every_bench_prints_its_figures_its_parameters_and_the_machine() {
    let home = Home::new();
    let market = ["--ticks", "20000", "--symbols", "40", "--seed", "7"];
    let cases: [(Vec<&str>, &[&str], &[&str]); 7] = [
        (
            [&["ingest"], &market[..]].concat(),
            &["ticks_per_s", "rss_peak_bytes", "bytes_stored", "bytes_per_tick", "generator_ns_per_tick"],
            &["ticks", "symbols", "seed"],
        ),
        (
            vec!["decode", "--bytes", "200000"],
            &["messages_per_s", "bytes_per_s", "rss_peak_bytes"],
            &["capture_bytes"],
        ),
        (
            vec!["fanout", "--connections", "2", "--seconds", "0.2", "--unbound"],
            &["messages_per_s", "p50_us", "p99_us", "p999_us", "bare_messages_per_s", "ratio_to_bare"],
            &["connections", "seconds", "message_bytes"],
        ),
        (
            [&["history"], &market[..]].concat(),
            &["first_row_ms", "bytes_read", "bytes_stored", "share_read_percent", "bytes_per_tick"],
            &["ticks_of_symbol", "ticks"],
        ),
        (
            [&["archive"], &market[..]].concat(),
            &["rows_per_s_core", "rss_peak_bytes", "bytes", "quote_bytes_per_row", "trade_bytes_per_row"],
            &["ticks", "symbols", "seed"],
        ),
        (
            vec![
                "readers",
                "--good",
                "2",
                "--streams",
                "4",
                "--history",
                "4",
                "--rate",
                "1000",
                "--seconds",
                "1",
            ],
            &["alone_p99_us", "beside_p99_us", "p99_ratio", "rss_peak_bytes", "beside_healthz_max_us"],
            &["good", "streams", "history", "rate", "seconds"],
        ),
        (
            vec!["watch", "--rate", "200", "--symbols", "10", "--seconds", "1"],
            &["messages_per_s", "terminal_bytes_per_s", "rss_peak_bytes"],
            &["rate", "symbols", "seconds"],
        ),
    ];
    for (args, figures, parameters) in cases {
        check(&bench(&home, &args), args[0], figures, parameters);
    }
}

/// Whether an object has what is expected of it, each more than nothing.
fn check(found: &Value, bench: &str, figures: &[&str], parameters: &[&str]) {
    assert_eq!(found["bench"], bench);
    for name in figures {
        assert!(found[name].as_f64().is_some_and(|figure| figure > 0.0), "{name} of {found}");
    }
    for name in parameters {
        assert!(found["parameters"][name].as_f64().is_some_and(|value| value > 0.0), "{name} of {found}");
    }
    let machine = &found["machine"];
    assert!(machine["cpu"].is_string() && machine["os"].is_string(), "{machine}");
    assert!(machine["cores"].as_u64() > Some(0) && machine["memory_bytes"].as_u64() > Some(0), "{machine}");
    for (name, value) in found.as_object().expect("an object") {
        let is_told_apart = ["bench", "parameters", "machine"].contains(&name.as_str());
        assert!(is_told_apart || value.is_number(), "{name} is a figure: {value}");
    }
}

#[test]
fn benches_of_servers_print_theirs() {
    let Some(scaled) = Scaled::new(2) else { return };
    let home = Home::new();
    let run = |args: &[&str]| {
        let market = ["--ticks", "20000", "--symbols", "40", "--seed", "7"];
        scaled.stk(&home, &[&["bench", "--json"], args, &market].concat()).output().expect("the binary runs")
    };
    let found = |args: &[&str]| -> Value {
        let output = run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let ingest = found(&["ingest"]);
    let figures = ["ticks_per_s", "rss_peak_bytes", "bytes_stored", "bytes_per_tick", "rows_stored"];
    check(&ingest, "ingest", &figures, &["ticks", "log.partitions", "processor.rows_max"]);
    assert!(ingest["rows_stored"].as_u64() > Some(20_000), "bars too: {ingest}");
    let warm = ingest["parameters"]["warm"].as_str();
    assert!(warm.is_some_and(|place| place.starts_with("clickhouse at ")), "{ingest}");
    // Nothing is added to what somebody else has.
    let again = run(&["ingest"]);
    let said = String::from_utf8_lossy(&again.stderr);
    assert_eq!(again.status.code(), Some(2), "{said}");
    assert!(said.contains("holds records already"), "{said}");
    let insert = found(&["warm-insert", "--rounds", "1"]);
    let figures = ["rows_per_s", "posted_rows_per_s", "ratio", "stored_bytes_per_row"];
    check(&insert, "warm-insert", &figures, &["rounds", "block_rows_max"]);
}
