//! Stores of the first version: they name no generation and no store, and are adopted once, with a message.
//!
//! `tests/golden/store/v1` was written by `stk` of commit a6554ec, with `STK_LOG_PARTITIONS=2` and
//! `STK_ARCHIVE_SETTLE_MINUTES=0`, out of captures of seconds of AAPL, MSFT, NVDA and TSLA
//! ([`super::rot::capture`]):
//!
//! - `data`: `stk replay` of 2025-03-06 and `stk archive run`, which dropped the day from warm; `stk replay` of
//!   2025-03-07 and `STK_WARM_KEEP_DAYS=36600 stk archive run`; `stk replay` of 2025-03-10; a replay of 2025-03-11
//!   into a `stk serve` that was killed before it stored a block.
//! - `*.csv`: what `stk history --format csv` of that version answered.
//! - `archive`, `topic.tsv` (partition, offset, key, value, headers; `-` where there is none, otherwise hexadecimal),
//!   `clickhouse` and `redis.tsv` (key, field, value; `+` of a set, `>` of a list): the same days with `stk serve` on
//!   Kafka, ClickHouse and Redis, the last one taken in by a process with the role feed alone. `{database}` and
//!   `{log}` stand for the database and the id that the version gave the log, which has the cluster's id in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord};
use stk::bus::Bus;
use stk::bus::kafka::{KafkaBus, KafkaBusConfig};

use super::rot::capture;
use super::scaled::{Scaled, until, ureq};
use super::support::{Home, Server, service};
use super::timelines::copy;

/// The kinds of rows that are asked for.
const KINDS: [&str; 3] = ["trades", "quotes", "bars"];
const SYMBOLS: [&str; 4] = ["AAPL", "MSFT", "NVDA", "TSLA"];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store/v1").join(name)
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of `csv` in order, by the columns that the first version wrote but for the place in the log.
fn rows(csv: &str, kind: &str) -> Vec<String> {
    let head = text(&golden(&format!("{kind}.csv")));
    let columns = head.lines().next().expect("a header").split(',').filter(|column| *column != "seq");
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().expect("a header").split(',').collect();
    let places: Vec<usize> =
        columns.map(|column| names.iter().position(|name| *name == column).expect("a column")).collect();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        places.iter().map(|place| cells[*place]).collect::<Vec<_>>().join(",")
    };
    lines.map(row).collect()
}

/// The rows of `kind` that the first version answered.
fn known(kind: &str) -> Vec<String> {
    rows(&text(&golden(&format!("{kind}.csv"))), kind)
}

/// Makes sure that `ask`, which runs `stk history`, has all rows of the golden store, and no trade or quote besides
/// those of `new` seconds of 2025-03-12.
fn check_history(new: usize, ask: impl Fn(&[&str]) -> Command, home: &Home) {
    for kind in KINDS {
        let args = [&["history", "--kind", kind, "--format", "csv"], &SYMBOLS[..]].concat();
        let shown = home.shown(&mut ask(&args));
        let (_, answer) =
            shown.split_once("exit: 0\n--- stdout\n").unwrap_or_else(|| panic!("{kind}: {shown}"));
        let (csv, said) = answer.split_once("--- stderr\n").expect("there is stderr");
        assert!(said.contains("nothing is missing"), "{kind}: {said}");
        let answered = rows(csv, kind);
        let (newer, older): (Vec<_>, Vec<_>) =
            answered.into_iter().partition(|row| row.contains("2025-03-12"));
        assert_eq!(older, known(kind), "{kind}");
        if kind != "bars" {
            assert_eq!(newer.len(), new, "{kind}: {newer:#?}");
        }
    }
}

#[test]
fn a_data_directory_of_the_first_version_is_adopted_once_and_goes_on() {
    let home = Home::new();
    let data = home.path("data");
    copy(&golden("data"), &data);
    let data_text = data.display().to_string();
    let stk = |args: &[&str]| {
        let mut command = home.stk(args);
        command.args(["--data", &data_text]).env("STK_ARCHIVE_SETTLE_MINUTES", "0");
        command.env("STK_LOG_PARTITIONS", "2");
        command
    };
    let good = |args: &[&str]| {
        let shown = home.shown(&mut stk(args));
        assert!(shown.starts_with("exit: 0\n"), "{args:?}: {shown}");
        shown
    };
    check_history(0, stk, &home);
    let (warm, archive) =
        ("the store did not name the log it was filled from", "is of an earlier version of stk");
    let capture = capture(&home, "new.pcap", "2025-03-12", 12, &SYMBOLS);
    for (is_first, new) in [(true, 12), (false, 12)] {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0"];
        let server = Server::run(stk(&serve), true);
        let began = server.began.join("\n");
        assert_eq!(began.contains(warm), is_first, "{began}");
        let played = home.run(&["replay", &capture, "--speed", "max", "--ingest", &server.ingest]);
        assert!(played.starts_with("exit: 0\n"), "{played}");
        let (code, said) = server.drained();
        assert_eq!(code, Some(0), "{said:#?}");
        check_history(new, stk, &home);
        let ran = good(&["archive", "run"]);
        assert_eq!(ran.contains(archive), is_first, "{ran}");
        assert!(!ran.contains(warm), "{ran}");
        check_history(new, stk, &home);
        good(&["archive", "verify"]);
        good(&["audit"]);
    }
}

/// `stk archive run` comes first: it adopts warm, too.
#[test]
fn an_archive_run_adopts_a_data_directory_of_the_first_version() {
    let home = Home::new();
    let data = home.path("data");
    copy(&golden("data"), &data);
    let data = data.display().to_string();
    for is_first in [true, false] {
        let mut run = home.stk(&["archive", "run", "--data", &data]);
        let ran = home.shown(run.env("STK_ARCHIVE_SETTLE_MINUTES", "0").env("STK_WARM_KEEP_DAYS", "36600"));
        assert!(ran.starts_with("exit: 0\n"), "{ran}");
        for message in
            ["the store did not name the log it was filled from", "is of an earlier version of stk"]
        {
            assert_eq!(ran.contains(message), is_first, "{message}: {ran}");
        }
    }
}

/// Loads what the first version wrote into services: the topic as it made it, its records, the database and the keys.
async fn load(scaled: &Scaled, archive: &Path) {
    let config = scaled.config();
    let kafka = config.kafka.as_ref().expect("it is configured");
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &kafka.brokers);
    let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
    let topic = NewTopic::new(&kafka.topic, 2, TopicReplication::Fixed(1))
        .set("cleanup.policy", "delete")
        .set("retention.ms", "-1")
        .set("retention.bytes", "-1")
        .set("max.message.bytes", "4195328")
        .set("min.insync.replicas", "1")
        .set("unclean.leader.election.enable", "false")
        .set("message.timestamp.type", "LogAppendTime");
    let made = admin.create_topics(&[topic], &AdminOptions::new()).await.expect("an answer");
    made[0].as_ref().expect("it is made");
    let producer: FutureProducer =
        client.clone().set("enable.idempotence", "true").create().expect("a producer");
    for line in text(&golden("topic.tsv")).lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        assert_eq!((fields[2], fields[4]), ("-", ""), "the first version wrote neither keys nor headers");
        let value = unhex(fields[3]);
        let record = FutureRecord::<(), _>::to(&kafka.topic).partition(fields[0].parse().expect("a number"));
        let sent = producer.send(record.payload(&value), Duration::from_secs(30)).await.expect("sent");
        assert_eq!(sent.offset.to_string(), fields[1], "it has the offset that it had");
    }
    // The name that the first version gave this topic.
    let bus =
        KafkaBus::open_existing(KafkaBusConfig::new(&kafka.brokers, &kafka.topic, 2)).await.expect("a log");
    let log = format!("{:016x}", bus.epoch().name().former.expect("a former name"));
    bus.close(Duration::from_secs(30)).await;

    copy(&golden("archive"), archive);
    let named = text(&archive.join("log.json")).replace("{log}", &log);
    std::fs::write(archive.join("log.json"), named).expect("written");

    let clickhouse = config.clickhouse.as_ref().expect("it is configured");
    let database = &clickhouse.database;
    sql(&clickhouse.url, format!("CREATE DATABASE {database}").as_bytes());
    let schema = text(&golden("clickhouse/schema.sql")).replace("{database}", database);
    // Views come last: one of them would count the rows again.
    let (views, tables): (Vec<_>, Vec<_>) = schema
        .split("\n;\n")
        .filter(|statement| !statement.is_empty())
        .partition(|statement| !statement.starts_with("CREATE TABLE"));
    tables.iter().for_each(|statement| sql(&clickhouse.url, statement.as_bytes()));
    for entry in std::fs::read_dir(golden("clickhouse")).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|ending| ending == "tsv") {
            let table = path.file_stem().and_then(|name| name.to_str()).expect("a name");
            let head = format!("INSERT INTO {database}.{table} FORMAT TSVWithNamesAndTypes\n").into_bytes();
            sql(&clickhouse.url, &[head, std::fs::read(&path).expect("rows")].concat());
        }
    }
    views.iter().for_each(|statement| sql(&clickhouse.url, statement.as_bytes()));

    let redis = config.redis.as_ref().expect("it is configured");
    let client = redis::Client::open(redis.url.expose()).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("it is there");
    for line in text(&golden("redis.tsv")).replace("{log}", &log).lines() {
        let [key, field, value] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let key = format!("{}{key}", redis.prefix);
        let command = match field {
            "+" => redis::cmd("SADD").arg(key).arg(value).to_owned(),
            ">" => redis::cmd("RPUSH").arg(key).arg(value).to_owned(),
            _ => redis::cmd("HSET").arg(key).arg(field).arg(value).to_owned(),
        };
        command.query_async::<i64>(&mut connection).await.expect("written");
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("a byte")).collect()
}

/// Has ClickHouse do `statement`.
fn sql(url: &str, statement: &[u8]) {
    let mut curl = Command::new("curl");
    let curl = curl.args(["-sS", "--fail-with-body", url, "--data-binary", "@-"]);
    let curl = curl.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut curl = curl.spawn().expect("curl is there");
    std::io::Write::write_all(&mut curl.stdin.take().expect("piped"), statement).expect("taken");
    let answer = curl.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&answer.stdout);
    assert!(
        answer.status.success(),
        "{}: {said}",
        String::from_utf8_lossy(&statement[..statement.len().min(200)])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_a_database_and_keys_of_the_first_version_are_adopted_once_and_go_on() {
    let home = Home::new();
    let archive = home.path("archive");
    let Some(scaled) = Scaled::on(2, service) else { return };
    let scaled = scaled.with("STK_ARCHIVE_URL", &archive.display().to_string());
    let scaled = scaled.with("STK_WARM_KEEP_DAYS", "36600");
    load(&scaled, &archive).await;
    let good = |args: &[&str]| {
        let shown = home.shown(&mut scaled.stk(&home, args));
        assert!(shown.starts_with("exit: 0\n"), "{args:?}: {shown}");
        shown
    };
    let capture = capture(&home, "new.pcap", "2025-03-12", 12, &SYMBOLS);
    let (database, archived) = ("the database did not name its log", "is of an earlier version of stk");
    for is_first in [true, false] {
        let server = scaled.serve(&home, "feed,processor,gateway");
        server.await_ready();
        let ask = |args: &[&str]| {
            let mut command = scaled.stk(&home, args);
            command.args(["--server", &server.address]);
            command
        };
        check_history(if is_first { 0 } else { 12 }, ask, &home);
        let played = home.run(&["replay", &capture, "--speed", "max", "--ingest", &server.ingest]);
        assert!(played.starts_with("exit: 0\n"), "{played}");
        check_history(12, ask, &home);
        // The last trade of a day that the first version had in Redis, and the new one's.
        until("the last of TSLA", async || {
            ureq(&server.address, "/v2/stocks/TSLA/trades/latest").contains("2025-03-12T14:30:11Z")
        })
        .await;
        let began = server.began.join("\n");
        let (code, said) = server.stop();
        assert_eq!(code, Some(0), "{said:#?}");
        let said = format!("{began}\n{}", said.join("\n"));
        assert_eq!(said.contains(database), is_first, "{said}");
        assert!(!said.contains("ERROR"), "{said}");
        let ran = good(&["archive", "run"]);
        assert_eq!(ran.contains(archived), is_first, "{ran}");
        good(&["archive", "verify"]);
        good(&["audit"]);
    }
}
