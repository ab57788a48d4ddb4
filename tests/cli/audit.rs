//! `stk audit` by the real binary: a chain that holds, and every way in which it does not, by name.

use std::path::{Path, PathBuf};
use std::process::Command;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;
use stk::config::Resolved;
use stk::feed::iex::{IexFeed, Selection, Speed};
use stk::server::intake::{Intake, IntakeMetrics, run_feed};
use stk::server::processor::ProcessorMetrics;
use stk::server::stores::Stores;
use tokio_util::sync::CancellationToken;

use super::restore::AUTHORIZATION;
use super::scaled::Scaled;
use super::serve::write_capture;
use super::support::{Home, PATIENCE, Server};

const DAY: &str = "2025-03-07";

/// Trades, and as many quotes, of one replay.
const TRADES: u64 = 1_000;

fn replayed(home: &Home, capture: &str) {
    let shown = home.run(&["replay", capture, "--again", "--speed", "max", "--data", &data(home)]);
    assert!(shown.starts_with("exit: 0\n"), "{shown}");
}

fn data(home: &Home) -> String {
    home.path("data").display().to_string()
}

/// A data directory with a day of trades and quotes in log and warm.
fn stored() -> Home {
    let home = Home::new();
    let capture = write_capture(&home, TRADES as i64).display().to_string();
    replayed(&home, &capture);
    home
}

/// Archives all there is; what is archived is dropped from warm once it is `keep_days` old.
fn archive(home: &Home, keep_days: &str) {
    let mut command = home.stk(&["archive", "run", "--data", &data(home)]);
    command.env("STK_ARCHIVE_SETTLE_MINUTES", "0").env("STK_WARM_KEEP_DAYS", keep_days);
    let shown = home.shown(&mut command);
    assert!(shown.starts_with("exit: 0\n"), "{shown}");
}

fn audit(home: &Home) -> String {
    home.run(&["audit", "--data", &data(home)])
}

/// The lines of `--json` of which `line` is the name, and the exit code.
fn lines(command: &mut Command, line: &str) -> (Vec<Value>, Option<i32>) {
    let output = command.output().expect("the binary runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let all: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(all.last().expect("a total")["line"], "total", "{text}");
    (all.into_iter().filter(|value| value["line"] == line).collect(), output.status.code())
}

fn of_home(home: &Home) -> Command {
    home.stk(&["audit", "--json", "--data", &data(home)])
}

/// What is broken, as `--json` says it.
fn broken(home: &Home) -> Vec<Value> {
    let (findings, code) = lines(&mut of_home(home), "finding");
    assert_eq!(code, Some(i32::from(!findings.is_empty())), "{findings:#?}");
    findings
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> =
        entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect();
    files.sort();
    files
}

fn one_with(dir: &Path, parts: [&str; 2]) -> PathBuf {
    let files = files_below(dir);
    let has = |path: &&PathBuf| parts.iter().all(|part| path.to_string_lossy().contains(part));
    files.iter().find(has).unwrap_or_else(|| panic!("{parts:?} in {files:#?}")).clone()
}

#[test]
fn a_chain_that_holds_is_shown_with_its_counts() {
    let home = stored();
    let shown = audit(&home);
    assert!(shown.starts_with("exit: 0\n"), "{shown}");
    assert!(shown.contains("the chain holds: 1 day\n"), "{shown}");
    let row = |name: &str, shown: &str| -> Vec<String> {
        let line = shown.lines().find(|line| line.starts_with(&format!("{DAY}  {name} ")));
        let line = line.unwrap_or_else(|| panic!("no {name} in {shown}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row("all", &shown)[2..], ["holds", "2,000", "2,000"], "{shown}");
    assert_eq!(row("bars", &shown)[2], "alone", "the log has none: {shown}");
    let (rows, code) = lines(&mut of_home(&home), "rows");
    assert_eq!(code, Some(0));
    let sum = |kind: &str| -> u64 {
        let of_kind = rows.iter().filter(|row| row["kind"] == kind && row["log"] == row["warm"]);
        of_kind.map(|row| row["log"]["rows"].as_u64().expect("a number")).sum()
    };
    assert_eq!((sum("trade"), sum("quote")), (TRADES, TRADES));
    let (producers, _) = lines(&mut of_home(&home), "producer");
    // A capture's numbers are those of its messages.
    assert_eq!((producers.len(), &producers[0]["repeats"]), (1, &0.into()), "{producers:?}");

    archive(&home, "36600");
    let shown = audit(&home);
    assert_eq!(row("all", &shown)[2..], ["holds", "2,000", "2,000", "2,000"], "{shown}");
    assert_eq!(row("bars", &shown)[2], "holds", "{shown}");
    // Out of warm, the archive is held against the log.
    archive(&home, "1");
    let shown = audit(&home);
    assert!(shown.starts_with("exit: 0\n"), "{shown}");
    assert_eq!(row("all", &shown)[2..], ["holds", "2,000", "0", "2,000"], "{shown}");
    let (units, _) = lines(&mut of_home(&home), "unit");
    let trades = units.iter().find(|unit| unit["kind"] == "trade").expect("trades");
    assert_eq!((&trades["manifests"][0]["is_in_log"], &trades["warm"]["rows"]), (&true.into(), &0.into()));

    // A part of it.
    let mut command = of_home(&home);
    let (units, _) = lines(command.args(["--day", DAY, "--kind", "quote"]), "unit");
    assert_eq!((units.len(), &units[0]["kind"]), (1, &"quote".into()));
    let shown = home.run(&["audit", "--to", "2025-03-06", "--data", &data(&home)]);
    assert!(shown.contains("there is nothing of that in any store"), "{shown}");
}

#[test]
fn a_running_server_has_the_directory() {
    let home = Home::new();
    let server = Server::start(&home, &home.path("data"), &[]);
    let shown = audit(&home);
    assert!(shown.starts_with("exit: 4\n") && shown.contains("`stk audit --server 127.0.0.1:"), "{shown}");
    assert_eq!(server.stop().0, Some(0));
    let shown = home.run(&["audit", "--data", &home.path("none").display().to_string()]);
    assert!(shown.starts_with("exit: 2\n"), "{shown}");
}

#[test]
fn a_segment_of_warm_that_is_changed_or_gone_is_named() {
    let home = stored();
    let segment = one_with(&home.path("data/warm"), ["trade", ".parquet"]);
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    let whole = std::fs::read(&segment).expect("a segment");
    let mut bytes = whole.clone();
    bytes[40] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    let shown = audit(&home);
    assert!(shown.starts_with("exit: 1\n"), "{shown}");
    assert!(shown.contains("broken: warm: trade of 2025-03-07, partition "), "{shown}");
    assert!(shown.contains(&name) && shown.contains(" do not match"), "{shown}");
    assert!(shown.contains("  next: `stk audit --repair` rebuilds it from the log"), "{shown}");
    assert!(shown.contains("error: the chain is broken in 1 place\n"), "{shown}");
    std::fs::remove_file(&segment).expect("removed");
    let found = broken(&home);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0]["what"].as_str().is_some_and(|what| what.contains("is damaged: the file is missing")));
    std::fs::write(&segment, whole).expect("written");
    assert_eq!(broken(&home), [Value::Null; 0]);
}

/// What a store holds that took in another log is told with its place.
#[test]
fn rows_that_warm_has_otherwise_than_the_log_are_named_with_their_offset() {
    let home = stored();
    let other = Home::new();
    let capture = write_capture(&other, TRADES as i64 - 1).display().to_string();
    replayed(&other, &capture);
    std::fs::rename(home.path("data/warm"), home.path("own")).expect("moved");
    std::fs::rename(other.path("data/warm"), home.path("data/warm")).expect("moved");
    let found = broken(&home);
    let of_kind = |kind: &str| found.iter().find(|finding| finding["kind"] == kind).cloned();
    let trades = of_kind("trade").unwrap_or_else(|| panic!("{found:#?}"));
    assert_eq!((&trades["link"], &trades["date"]), (&"log to warm".into(), &DAY.into()));
    assert!(
        trades["what"].as_str().is_some_and(|what| what.starts_with("warm lacks 1 of the log's")),
        "{trades}"
    );
    let offsets = [&trades["first_offset"], &trades["next_offset"]].map(|at| at.as_u64().expect("an offset"));
    assert_eq!(offsets[1] - offsets[0], 1, "the one record: {trades}");
    assert!(of_kind("quote").is_some());
}

#[test]
fn what_the_archive_has_lost_is_named() {
    let home = Home::new();
    let capture = write_capture(&home, 100).display().to_string();
    // Each replay is a session of its own: what it brings of the day is late, and a supplement.
    for _ in 0..3 {
        replayed(&home, &capture);
        archive(&home, "36600");
    }
    assert_eq!(broken(&home), [Value::Null; 0]);
    let cold = home.path("data/cold");
    let without = |path: &Path, named: &str| {
        let bytes = std::fs::read(path).expect("an object");
        std::fs::remove_file(path).expect("removed");
        let found = broken(&home);
        assert!(
            found.iter().any(|finding| {
                (&finding["link"], &finding["kind"]) == (&"archive".into(), &"trade".into())
                    && finding["what"].as_str().is_some_and(|what| what.contains(named))
            }),
            "{named}: {found:#?}"
        );
        std::fs::write(path, bytes).expect("written");
    };
    let object = one_with(&cold.join("ticks"), ["kind=trade", ".parquet"]);
    let name = object.file_name().expect("a name").to_string_lossy().into_owned();
    without(&object, &format!("{name}: manifest 0000 names it, and it is not there"));
    let footer = one_with(&cold, ["kind=trade", ".footer"]);
    without(&footer, "and it is not there");
    let manifests = format!("manifest/kind=trade/date={DAY}");
    without(
        &cold.join(&manifests).join("0001.json"),
        &format!("{manifests}/0001.json: it is missing, and there is 0002"),
    );
    let last = cold.join(&manifests).join("0002.json");
    without(&last, "it is missing, and the journal says committed");
    // All of it, with the journals, once warm has dropped what was there.
    archive(&home, "1");
    assert_eq!(broken(&home), [Value::Null; 0]);
    std::fs::remove_dir_all(&cold).expect("removed");
    let shown = audit(&home);
    assert!(shown.starts_with("exit: 1\n"), "{shown}");
    assert!(shown.contains("warm has dropped rows that no manifest covers"), "{shown}");
    assert!(shown.contains("set archive.url to where the day went"), "{shown}");
}

/// Plays `capture` through log and processor, as `stk replay --data` does, into a log that keeps
/// little.
async fn replayed_with_small_log(home: &Home, capture: &Path) {
    let flags = [("data.dir", data(home), "--data")];
    let mut config = Resolved::new(None, [], &flags).expect("good settings").config();
    config.retention_bytes = 2 << 20;
    let stores = Stores::open(&config).await.expect("the stores");
    let (processor, _hot) = stores.process(&config, ProcessorMetrics::default());
    let mut feed = IexFeed::open(capture, Selection::default(), Speed::Max).expect("a capture");
    let intake = Intake::new(stores.bus.clone(), IntakeMetrics::default());
    run_feed(&mut feed, intake, CancellationToken::new()).await.expect("taken in");
    processor.stop().await.expect("stored");
    drop(processor);
    stores.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_trimmed_holds_and_one_that_is_lost_does_not() {
    let home = Home::new();
    let capture = write_capture(&home, 20_000);
    for _ in 0..8 {
        replayed_with_small_log(&home, &capture).await;
    }
    let (partitions, code) = lines(&mut of_home(&home), "partition");
    assert_eq!(code, Some(0));
    let is_trimmed = |of: &Value| of["log_first"].as_u64().is_some_and(|first| first > 0);
    assert!(partitions.iter().any(is_trimmed), "{partitions:#?}");
    let (units, _) = lines(&mut of_home(&home), "unit");
    let trades = units.iter().find(|unit| unit["kind"] == "trade").expect("trades");
    assert_eq!((&trades["warm"]["rows"], &trades["verdict"]), (&160_000.into(), &"holds".into()));

    std::fs::remove_dir_all(home.path("data/log")).expect("removed");
    let found = broken(&home);
    let lost =
        |finding: &Value| finding["what"].as_str().is_some_and(|what| what.contains("never had or has lost"));
    assert!(found.iter().any(lost), "{found:#?}");
}

/// What `query` gives in ClickHouse, as its administrator.
fn clickhouse(url: &str, query: &str) -> String {
    let asked = Command::new("curl").args(["-sf", url, "--data-binary", query]).output();
    let asked = asked.expect("curl is there");
    assert!(asked.status.success(), "{query}");
    String::from_utf8(asked.stdout).expect("UTF-8")
}

/// The topics of Kafka.
fn topics(brokers: &str) -> Vec<String> {
    let asker: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client");
    let all = asker.fetch_metadata(None, PATIENCE).expect("an answer");
    all.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

/// With a name mistyped a question is an error that says so, and what it named is not there afterwards.
#[test]
fn asking_makes_no_topic_no_database_and_no_directory() {
    // Without Redis and S3, hot and the archive would be in the data directory.
    let Some(scaled) = Scaled::new(2) else { return };
    let scaled = scaled.with("STK_HOT_REDIS_URL", "").with("STK_ARCHIVE_URL", "");
    let (home, config) = (Home::new(), scaled.config());
    let (kafka, of) = (config.kafka.expect("Kafka"), config.clickhouse.expect("ClickHouse"));
    let questions: [&[&str]; 4] = [
        &["audit", "--data", "none"],
        &["history", "AAPL", "--data", "none"],
        &["archive", "status", "--data", "none"],
        &["archive", "run", "--data", "none"],
    ];
    let refused = |name: &str, value: &str, what: &str, hint: &str| {
        for question in questions {
            let shown = home.shown(scaled.stk(&home, question).env(name, value));
            let expected =
                format!("exit: 2\n--- stdout\n--- stderr\nerror: there is no {what}\n\nhint: {hint}\n");
            assert_eq!(shown, expected, "{question:?}");
        }
    };
    let check_topic = "check log.kafka_topic, or start `stk serve`, which makes it";
    let check_database =
        "check warm.clickhouse_url and warm.clickhouse_database, or start `stk serve`, which makes it";
    let topic = |topic: &str| format!("topic {topic} at {}", kafka.brokers);
    let database = |database: &str| format!("database {database} at {}", of.url);
    // Nothing was started yet.
    refused("STK_DATA_DIR", "none", &topic(&kafka.topic), check_topic);
    assert_eq!(scaled.serve(&home, "feed,processor,gateway").drained().0, Some(0));
    let mistyped = format!("{}-mistyped", kafka.topic);
    refused("STK_LOG_KAFKA_TOPIC", &mistyped, &topic(&mistyped), check_topic);
    let mistyped = format!("{}_mistyped", of.database);
    refused("STK_WARM_CLICKHOUSE_DATABASE", &mistyped, &database(&mistyped), check_database);
    let foreign = format!("schema of stk in {}", database("default"));
    refused("STK_WARM_CLICKHOUSE_DATABASE", "default", &foreign, check_database);
    for question in &questions[..3] {
        let shown = home.shown(&mut scaled.stk(&home, question));
        assert!(shown.starts_with("exit: 0\n"), "{question:?}: {shown}");
    }

    let of_test = |names: Vec<String>, name: &str| -> Vec<String> {
        names.into_iter().filter(|of| of.starts_with(name)).collect()
    };
    assert_eq!(of_test(topics(&kafka.brokers), &kafka.topic), [&*kafka.topic]);
    let databases = clickhouse(&of.url, "SHOW DATABASES").lines().map(str::to_owned).collect();
    assert_eq!(of_test(databases, &of.database), [&*of.database]);
    assert_eq!(clickhouse(&of.url, "SHOW TABLES FROM default LIKE 'stk_schema'"), "");
    assert!(!home.path("none").exists());
}

#[test]
fn what_clickhouse_and_s3_have_lost_is_named() {
    let Some(scaled) = Scaled::new(2) else { return };
    let home = Home::new();
    let capture = write_capture(&home, TRADES as i64).display().to_string();
    let server = scaled.serve(&home, "feed,processor,gateway");
    let replayed = home.run(&["replay", &capture, "--speed", "max", "--ingest", &server.ingest]);
    assert!(replayed.contains("2000 ticks durable"), "{replayed}");
    // Beside the server, whatever it has come to.
    let shown = home.shown(&mut scaled.stk(&home, &["audit"]));
    assert!(shown.starts_with("exit: 0\n"), "{shown}");
    assert_eq!(server.drained().0, Some(0));
    let shown = home.shown(&mut scaled.stk(&home, &["audit"]));
    assert!(shown.starts_with("exit: 0\n") && shown.contains("the chain holds: 1 day"), "{shown}");
    let kept = |command: &mut Command| home.shown(command.env("STK_WARM_KEEP_DAYS", "36600"));
    let archived = kept(&mut scaled.stk(&home, &["archive", "run"]));
    assert!(archived.starts_with("exit: 0\n"), "{archived}");
    let audit = || scaled.stk(&home, &["audit", "--json"]);
    let (units, code) = lines(&mut audit(), "unit");
    assert_eq!(code, Some(0), "{units:#?}");
    let trades = units.iter().find(|unit| unit["kind"] == "trade").expect("trades");
    let manifest = &trades["manifests"][0];
    assert_eq!((&manifest["is_in_warm"], &manifest["is_in_log"]), (&true.into(), &true.into()), "{trades}");

    // An object of S3.
    let config = scaled.config();
    let listed =
        scaled.stk(&home, &["archive", "list", "--kind", "quote", "--json"]).output().expect("it runs");
    let quotes: Value = serde_json::from_slice(&listed.stdout).expect("one manifest");
    let key = quotes["files"][0]["key"].as_str().expect("a key");
    let bucket = config.archive.url.as_deref().and_then(|url| url.strip_prefix("s3://")).expect("a bucket");
    let object = format!("{}/{bucket}/{key}", config.archive.s3_endpoint.expect("an endpoint"));
    let who = format!("authorization: {AUTHORIZATION}");
    let gone = Command::new("curl").args(["-sf", "-X", "DELETE", "-H", &who, &object]).status();
    assert!(gone.expect("curl is there").success());
    let (found, code) = lines(&mut audit(), "finding");
    assert_eq!((found.len(), code), (1, Some(1)), "{found:#?}");
    assert_eq!((&found[0]["link"], &found[0]["kind"]), (&"archive".into(), &"quote".into()));
    assert!(found[0]["what"].as_str().is_some_and(|what| what.starts_with(key)), "{found:#?}");

    // A trade in ClickHouse.
    let of = config.clickhouse.expect("ClickHouse");
    let database = &of.database;
    clickhouse(
        &of.url,
        &format!(
            "DELETE FROM {database}.trade_rows WHERE id = 500 SETTINGS mutations_sync = 2, lightweight_deletes_sync = 2"
        ),
    );
    let (found, code) = lines(&mut audit(), "finding");
    assert_eq!(code, Some(1));
    let trades: Vec<_> = found.iter().filter(|finding| finding["kind"] == "trade").collect();
    let [log, manifest] = trades[..] else { panic!("{found:#?}") };
    assert_eq!((&log["link"], &log["date"]), (&"log to warm".into(), &DAY.into()), "{log}");
    assert!(log["what"].as_str().is_some_and(|what| what.starts_with("warm lacks 1 of the log's")), "{log}");
    assert_eq!(
        log["first_offset"].as_u64().map(|first| first + 1),
        log["next_offset"].as_u64(),
        "the one record: {log}"
    );
    assert!(
        log["next"].as_str().is_some_and(|next| next.contains("stk archive restore 2025-03-07 --kind trade"))
    );
    assert!(manifest["what"].as_str().is_some_and(|what| what.contains("warm has 999 rows")), "{manifest}");
}
