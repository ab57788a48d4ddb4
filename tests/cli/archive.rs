//! `stk archive` by the real binary: what it says, and that others read what it wrote.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::serve::write_capture;
use super::support::{Home, service};

/// Ticks of the capture: half of them trades, half quotes.
pub(crate) const TICKS: u64 = 2_000;

/// A data directory with a day of 2025 in warm.
pub(crate) fn stored(home: &Home) -> String {
    let capture = write_capture(home, TICKS as i64 / 2).display().to_string();
    let data = home.path("data").display().to_string();
    let replayed = home.run(&["replay", &capture, "--speed", "max", "--data", &data]);
    assert!(replayed.starts_with("exit: 0\n"), "{replayed}");
    data
}

fn json(home: &Home, args: &[&str]) -> Value {
    let output = home.stk(args).env("STK_ARCHIVE_SETTLE_MINUTES", "0").output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {said}"))
}

/// Rows by kind that the archive holds.
fn archived(home: &Home, data: &str) -> Vec<(String, u64, u64)> {
    let status = json(home, &["archive", "status", "--data", data, "--json"]);
    let units = status.as_array().expect("a list").iter();
    let count = |unit: &Value, name: &str| unit[name].as_u64().expect("a number");
    let row = |unit: &Value| {
        let kind = unit["kind"].as_str().expect("a name").to_owned();
        (kind, count(unit, "archived_rows"), count(unit, "warm_rows"))
    };
    units.map(row).collect()
}

#[test]
fn a_day_goes_into_the_archive_and_is_found_there() {
    let home = Home::new();
    let data = stored(&home);
    // Nothing was stored just now that is quiet already.
    let run = home.run(&["archive", "run", "--data", &data]);
    assert!(run.contains("0 units archived"), "{run}");
    let plan = json(&home, &["archive", "run", "--dry-run", "--data", &data, "--json"]);
    let kinds: Vec<_> = plan.as_array().expect("a list").iter().map(|unit| unit["kind"].clone()).collect();
    assert!(kinds.contains(&"trade".into()) && kinds.contains(&"quote".into()), "{plan}");
    assert!(!home.path("data/cold/manifest").exists(), "a dry run does nothing");
    let summary = json(&home, &["archive", "run", "--kind", "trade,quote", "--data", &data, "--json"]);
    assert_eq!((&summary["commits"], &summary["rows"]), (&2.into(), &TICKS.into()), "{summary}");
    // 30 days have long gone: what is archived is dropped at once.
    assert_eq!(summary["drops"], 2, "{summary}");
    let half = TICKS / 2;
    let of: Vec<_> = archived(&home, &data).into_iter().filter(|(_, archived, _)| *archived > 0).collect();
    assert_eq!(of, [("trade".to_owned(), half, 0), ("quote".to_owned(), half, 0)]);
    let manifest = json(&home, &["archive", "list", "--kind", "trade", "--data", &data, "--json"]);
    assert_eq!((&manifest["number"], &manifest["digest"]["rows"]), (&0.into(), &half.into()));
    let table = home.run(&["archive", "list", "--data", &data]);
    assert!(table.contains("ticks/kind=quote/date="), "{table}");
    let scrub = json(&home, &["archive", "verify", "--data", &data, "--json"]);
    assert_eq!((&scrub["is_finished"], &scrub["rows"]), (&true.into(), &TICKS.into()), "{scrub}");
    // In a pipe each unit is told of in a line.
    let rest = home.stk(&["archive", "run", "--data", &data]).env("STK_ARCHIVE_SETTLE_MINUTES", "0").output();
    let said = String::from_utf8(rest.expect("the binary runs").stderr).expect("text");
    assert!(
        said.contains("bar of ") && said.contains(": copy, ") && said.contains(" rows: archived (1 of "),
        "{said}"
    );
    assert!(said.contains(" rows: dropped from warm ("), "{said}");
    // A flipped bit is found, and told by the exit code.
    let key = manifest["files"][0]["key"].as_str().expect("a key");
    let path = home.path("data/cold").join(key);
    let mut bytes = std::fs::read(&path).expect("an object");
    bytes[40] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let verify = home.run(&["archive", "verify", "--data", &data]);
    assert!(verify.starts_with("exit: 1\n") && verify.contains(key), "{verify}");
    assert!(verify.contains("1 object damaged or missing"), "{verify}");
    // The next one begins with the bars, and has not forgotten it.
    let begun = home.run(&["archive", "verify", "--bytes", "1", "--data", &data]);
    assert!(begun.starts_with("exit: 1\n") && begun.contains(key), "{begun}");
    assert!(begun.contains("(found before, not read again yet)"), "{begun}");
}

/// The interpreter with DuckDB, polars and pyarrow that `scripts/test` prepares.
fn python() -> Option<PathBuf> {
    let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/readers/bin/python");
    if python.exists() {
        return Some(python);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing: scripts/test makes it", python.display());
    eprintln!("skipped: {} is missing; scripts/test makes it", python.display());
    None
}

/// What `rows` trades of [`stored`] add up to: each of 100 shares, at a cent more than the one before.
fn sums(rows: u64) -> Value {
    let cents: u64 = (0..rows).map(|second| 19_045 + second).sum();
    let price_nanos = (cents * 10_000_000).to_string();
    serde_json::json!({ "rows": rows, "size": 100 * rows, "price_nanos": price_nanos })
}

#[test]
fn duckdb_polars_and_pyarrow_read_the_archive_as_it_is() {
    let Some(python) = python() else { return };
    let home = Home::new();
    let data = stored(&home);
    json(&home, &["archive", "run", "--data", &data, "--json"]);
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/readers/read.py");
    let output = Command::new(python).arg(script).arg(home.path("data/cold/ticks")).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let got: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = TICKS / 2;
    for reader in ["duckdb", "polars", "pyarrow"] {
        let of = &got[reader];
        assert_eq!((&of["trades"], &of["quotes"]), (&rows.into(), &rows.into()), "{reader}: {got}");
        assert_eq!(of["trade"], sums(rows), "{reader}: {got}");
        assert_eq!(of["one_symbol"], of["all_symbols"], "{reader}: {got}");
    }
}

#[test]
fn clickhouse_reads_the_archive_in_s3_as_it_is() {
    let (Some(clickhouse), Some(s3)) = (service("CLICKHOUSE"), service("S3")) else { return };
    let home = Home::new();
    let data = stored(&home);
    let bucket = format!("readers-{}-{}", std::process::id(), stk::market::Timestamp::now().nanos());
    let made = Command::new("curl").args(["-sf", "-X", "PUT", &format!("{s3}/{bucket}")]).status();
    assert!(made.expect("curl is there").success(), "a bucket is made");
    let archived = home
        .stk(&["archive", "run", "--data", &data])
        .env("STK_ARCHIVE_URL", format!("s3://{bucket}/days"))
        .env("STK_ARCHIVE_S3_ENDPOINT", &s3)
        .env("STK_ARCHIVE_SETTLE_MINUTES", "0")
        .envs([("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")])
        .output()
        .expect("the binary runs");
    assert!(archived.status.success(), "{}", String::from_utf8_lossy(&archived.stderr));
    let ask = |select: &str, kind: &str| -> Value {
        let table = format!(
            "s3('{s3}/{bucket}/days/ticks/kind={kind}/date=*/*.parquet', 'key', 'secret', 'Parquet')"
        );
        let sql = format!(
            "SELECT {select} FROM {table} FORMAT JSONEachRow SETTINGS output_format_json_quote_64bit_integers = 0"
        );
        let asked = Command::new("curl").args(["-s", &clickhouse, "--data-binary", &sql]).output();
        let asked = asked.expect("curl is there").stdout;
        serde_json::from_slice(&asked).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&asked)))
    };
    let rows = TICKS / 2;
    let nanos = "toString(toInt128(sum(price) * 1000000000)) AS price_nanos";
    assert_eq!(ask(&format!("count() AS rows, sum(size) AS size, {nanos}"), "trade"), sums(rows));
    let sound = ask("countIf(bid <= ask AND ts <= recv_ts) AS rows, uniqExact(symbol) AS symbols", "quote");
    assert_eq!(sound, serde_json::json!({ "rows": rows, "symbols": 2 }));
    let one = ask("countIf(symbol = 'AAPL') AS rows", "trade");
    assert_eq!(one, serde_json::json!({ "rows": rows / 2 }));
}
