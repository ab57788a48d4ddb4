//! Stores at scale that were put back, made again, shared or set up otherwise: every process notices, and
//! nothing that was acknowledged is lost, doubled or mixed with what is another's.

use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use futures_util::TryStreamExt;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, TopicResult};
use rdkafka::client::DefaultClientContext;
use rdkafka::types::RDKafkaErrorCode;
use stk::bus::Bus;
use stk::bus::kafka::{KafkaBus, KafkaBusConfig};
use stk::market::{Conditions, Exchange, Kind, Price, Symbol, Tape, Tick, TimeRange, Timestamp, Trade};
use stk::server::stores::Stores;
use stk::tiering::history::HistoryQuery;

use super::scaled::{Scaled, until, ureq};
use super::support::{self, Home, OwnServices, Server, metric, service};

/// Ticks of a batch: each goes into a record or two of its own.
const BATCH_TICKS: usize = 10;

/// Trade `number`, of a day long past.
fn trade(number: u64) -> Tick {
    let symbols = ["AAPL", "MSFT", "IBM", "AMZN", "GOOG", "NVDA", "TSLA", "META"];
    let symbol: Symbol = symbols[number as usize % symbols.len()].parse().expect("a symbol");
    let open: Timestamp = "2025-03-07T14:30:00Z".parse().expect("a time");
    let ts = open.saturating_add_nanos(number as i64 * 1_000_000);
    let price = Price::from_ten_thousandths(1_000_000 + number as i64).expect("a price");
    let (exchange, conditions, tape) = (Exchange::IEX, Conditions::NONE, Tape::C);
    Tick::Trade(Trade { symbol, ts, recv_ts: ts, price, size: 100, exchange, conditions, id: number, tape })
}

/// Sends trades, and returns once they are acknowledged.
async fn sell(feed: &Server, numbers: Range<u64>) {
    let mut client = support::ingest(&feed.ingest, 1_000_000 + numbers.start, 8).await.expect("a server");
    let ticks: Vec<Tick> = numbers.map(trade).collect();
    for batch in ticks.chunks(BATCH_TICKS) {
        client.send(batch).await.expect("taken");
    }
    client.flush().await.expect("acknowledged");
}

/// The numbers of all trades in history, in order.
async fn sold(scaled: &Scaled) -> Vec<u64> {
    history(scaled, Kind::Trade, |tick| match tick {
        Tick::Trade(trade) => trade.id,
        other => panic!("{other:?}"),
    })
    .await
}

/// What `read` makes of each tick of `kind` in history, in order.
async fn history<T: Ord>(scaled: &Scaled, kind: Kind, read: impl Fn(Tick) -> T) -> Vec<T> {
    let stores = Stores::open_existing(&scaled.config()).await.expect("the stores");
    let query =
        HistoryQuery { symbols: Vec::new(), kind, timeframe: None, range: TimeRange::ALL, limit: None };
    let answer = stores.history().query(query).await.expect("an answer");
    assert!(answer.coverage.missing.is_empty(), "{:?}", answer.coverage.missing);
    let mut found = Vec::new();
    let mut rows = answer.rows;
    while let Some(batch) = rows.try_next().await.expect("rows") {
        let view = batch.rows().expect("columns");
        found.extend((0..batch.len()).map(|row| read(view.tick(row).expect("a tick"))));
    }
    stores.close().await;
    found.sort_unstable();
    found
}

/// Drops from the topic all records that there are.
async fn trim(scaled: &Scaled, partitions: u16) {
    let topic = format!("stk-{}", scaled.name());
    let retention = stk::bus::local::Retention { age: std::time::Duration::ZERO, bytes: 0 };
    let brokers = scaled.config().kafka.expect("it is configured").brokers;
    let config = KafkaBusConfig { retention, ..KafkaBusConfig::new(brokers, topic, partitions) };
    let bus = KafkaBus::open_existing(config).await.expect("it is there");
    for partition in 0..partitions {
        bus.release(partition, bus.bounds(partition).await.expect("bounds").next);
    }
    // A record of this millisecond counts as young.
    until("an empty topic", async || {
        bus.trim().await.expect("trimmed");
        let mut bounds = Vec::new();
        for partition in 0..partitions {
            bounds.push(bus.bounds(partition).await.expect("bounds"));
        }
        bounds.iter().all(|bounds| bounds.first == bounds.next)
    })
    .await;
    bus.close(std::time::Duration::from_secs(30)).await;
}

/// The offsets that gaps of the log name, by partition's gap.
async fn expired(scaled: &Scaled) -> Vec<(u64, u64)> {
    history(scaled, Kind::Gap, |tick| match tick {
        Tick::Gap(gap) if &*gap.source == "log" => (gap.first, gap.last),
        other => panic!("{other:?}"),
    })
    .await
}

/// What ClickHouse answers in the database of `scaled`.
fn sql(scaled: &Scaled, statement: &str) -> String {
    let clickhouse = scaled.config().clickhouse.expect("it is configured");
    let url = format!("{}/?database={}&mutations_sync=2", clickhouse.url, clickhouse.database);
    let answer = Command::new("curl").args(["-sS", "--fail-with-body", &url, "-d", statement]).output();
    let answer = answer.expect("curl is there");
    assert!(answer.status.success(), "{statement}: {answer:?}");
    String::from_utf8(answer.stdout).expect("text")
}

fn numbers(numbers: Range<u64>) -> Vec<u64> {
    numbers.collect()
}

/// Waits until a processor has stored so many rows in warm since its start.
async fn stored(processor: &Server, rows: f64) {
    until("rows in warm", async || metric(&processor.address, "processor_rows_total") >= rows).await;
}

fn copy_dir(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("cp is there");
    assert!(copied.success(), "{} is copied", from.display());
}

/// Runs `stk serve` with `roles`, which must refuse to start: what it says.
fn refused(scaled: &Scaled, home: &Home, roles: &str) -> String {
    let args = ["serve", "--roles", roles, "--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0"];
    let shown = home.shown(scaled.stk(home, &args).stdout(Stdio::null()));
    assert!(shown.starts_with("exit: 1\n"), "{shown}");
    shown
}

/// The operator puts back yesterday's ClickHouse under a running processor, and then sets up a profile
/// that cuts answers short.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clickhouse_put_back_under_a_running_processor_or_with_limits_loses_nothing() {
    let Some(services) = OwnServices::up(&["clickhouse"]) else { return };
    let own = |name: &str| services.address(name).or_else(|| service(name));
    let Some(scaled) = Scaled::on(2, own) else { return };
    let home = Home::new();
    let server = scaled.serve(&home, "feed,processor");
    server.await_ready();
    sell(&server, 0..200).await;
    stored(&server, 200.0).await;
    let (data, copy) = (services.path("clickhouse/data"), home.path("copy"));
    services.kill("clickhouse");
    copy_dir(&data, &copy);
    services.start("clickhouse");
    sell(&server, 200..600).await;
    stored(&server, 600.0).await;
    services.kill("clickhouse");
    copy_dir(&copy, &data);
    services.start("clickhouse");
    // Nothing new comes: retention could drop from the log what is nowhere else.
    until("a new claim", async || metric(&server.address, "processor_reverts_total") >= 1.0).await;
    stored(&server, 1000.0).await;
    sell(&server, 600..700).await;
    assert_eq!(sold(&scaled).await, numbers(0..700));
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    assert_eq!(sold(&scaled).await, numbers(0..700), "all of it in warm");

    // Limits that cut an answer short without a word.
    services.kill("clickhouse");
    services.edit(
        "clickhouse",
        "config.xml",
        "</clickhouse>",
        &format!(
            "<users_config>{}</users_config></clickhouse>",
            services.path("clickhouse/users.xml").display()
        ),
    );
    let with_profile = |settings: &str, constraints: &str| {
        let users = format!(
            "<clickhouse><profiles><default>{settings}<constraints>{constraints}</constraints></default></profiles>\
             <users><default><password></password><networks><ip>::/0</ip></networks><profile>default</profile>\
             <quota>default</quota></default></users><quotas><default></default></quotas></clickhouse>"
        );
        std::fs::write(services.path("clickhouse/users.xml"), users).expect("written");
        services.start("clickhouse");
    };
    with_profile(
        "<limit>50</limit><max_rows_to_read>100</max_rows_to_read><read_overflow_mode>break</read_overflow_mode>\
         <max_result_rows>10</max_result_rows><result_overflow_mode>break</result_overflow_mode>",
        "",
    );
    assert_eq!(sold(&scaled).await, numbers(0..700));
    services.kill("clickhouse");
    with_profile("<limit>50</limit>", "<limit><const/></limit>");
    let shown = home.shown(&mut scaled.stk(&home, &["archive", "run"]));
    assert!(!shown.starts_with("exit: 0\n") && shown.contains("limit"), "{shown}");
}

/// Deletes a topic, if it is there.
pub(crate) async fn delete_topic(brokers: &str, topic: &str) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", brokers);
    let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
    let deleted = admin.delete_topics(&[topic], &AdminOptions::new()).await.expect("an answer");
    let is_gone =
        |result: &TopicResult| matches!(result, Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)));
    assert!(deleted.iter().all(is_gone), "{deleted:?}");
}

/// The topic is made again and has more records by now than the old one had: by offsets alone nobody
/// could tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_made_again_is_refused_by_feeds_and_processors() {
    let Some(scaled) = Scaled::new(2) else { return };
    let home = Home::new();
    let server = scaled.serve(&home, "feed,processor");
    server.await_ready();
    sell(&server, 0..100).await;
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");

    let brokers = service("KAFKA").expect("it is there");
    let topic = format!("stk-{}", scaled.name());
    delete_topic(&brokers, &topic).await;
    let config = KafkaBusConfig::new(&brokers, &topic, 2);
    until("the topic's end", async || {
        let found = KafkaBus::open_existing(config.clone()).await;
        matches!(found, Err(stk::bus::BusError::Missing { .. }))
    })
    .await;
    let bus = KafkaBus::open(config).await.expect("made again");
    for number in 0..50_u8 {
        let records = (0..2).map(|partition| (partition, vec![number; 10].into())).collect();
        bus.append(records).await.expect("queued").await.expect("durable");
    }
    bus.close(std::time::Duration::from_secs(30)).await;
    for roles in ["feed", "processor", "feed,processor", "gateway"] {
        let shown = if roles == "processor" {
            // It starts, and ends when it has looked at its partitions.
            let args = ["serve", "--roles", roles, "--listen", "127.0.0.1:0"];
            home.shown(scaled.stk(&home, &args).stdout(Stdio::null()))
        } else {
            refused(&scaled, &home, roles)
        };
        assert!(shown.starts_with("exit: 1\n"), "{shown}");
        assert!(
            shown.contains("the topic was made again") || shown.contains("the log was made again"),
            "{shown}"
        );
        assert!(shown.contains("warm.clickhouse_database"), "{roles}: {shown}");
    }
    // As it says: a new topic and a new database; the old days stay in the old one.
    let (id, fresh) = (scaled.name().to_owned(), Scaled::new(2).expect("they were there"));
    let server = fresh.serve(&home, "feed,processor");
    server.await_ready();
    sell(&server, 100..200).await;
    assert_eq!(sold(&fresh).await, numbers(100..200), "beside {id}");
}

/// The topic is the same and long enough, but the record before warm's mark is another one, as after the
/// topic was put back from a copy: no role serves or accepts anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_with_another_record_at_warms_mark_is_refused_by_every_role() {
    let Some(scaled) = Scaled::new(2) else { return };
    let home = Home::new();
    let server = scaled.serve(&home, "feed,processor");
    server.await_ready();
    sell(&server, 0..100).await;
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    let change = |sql: &str| {
        let url = format!(
            "{}/?database=stk_{}&mutations_sync=1",
            service("CLICKHOUSE").expect("it is there"),
            scaled.name()
        );
        let changed = Command::new("curl").args(["-sf", &url, "--data-binary", sql]).status();
        assert!(changed.expect("curl is there").success(), "{sql}");
    };
    change("ALTER TABLE blocks UPDATE seam = seam - 1 WHERE seam > 1");
    for roles in ["gateway", "feed", "feed,processor,gateway"] {
        let shown = refused(&scaled, &home, roles);
        assert!(shown.contains("is not the one that warm took in there"), "{roles}: {shown}");
    }
    // The copy that belongs to the topic is put back.
    change("ALTER TABLE blocks UPDATE seam = seam + 1 WHERE seam > 0");
    let server = scaled.serve(&home, "feed,processor,gateway");
    server.await_ready();
    sell(&server, 100..150).await;
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    assert_eq!(sold(&scaled).await, numbers(0..150));
}

/// What history says is lost: the first offset, and the offset after the last, of each range.
async fn lost(scaled: &Scaled) -> Vec<(u64, u64)> {
    let stores = Stores::open_existing(&scaled.config()).await.expect("the stores");
    let range = TimeRange::ALL;
    let query = HistoryQuery { symbols: Vec::new(), kind: Kind::Trade, timeframe: None, range, limit: None };
    let coverage = stores.history().query(query).await.expect("an answer").coverage;
    stores.close().await;
    coverage.lost.iter().map(|lost| (lost.first_offset, lost.next_offset)).collect()
}

/// Topic and database are put back to the same night, so that they fit to each other; the archive alone has rows of
/// what came after that. The log grows past them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_put_back_together_with_its_database_is_told_from_the_archive_of_the_lost_days() {
    let Some(services) = OwnServices::up(&["kafka", "clickhouse"]) else { return };
    let own = |name: &str| services.address(name).or_else(|| service(name));
    let Some(scaled) = Scaled::on(1, own) else { return };
    let home = Home::new();
    let life = async |scaled: &Scaled, sold: Range<u64>| {
        let server = scaled.serve(&home, "feed,processor");
        server.await_ready();
        sell(&server, sold).await;
        let (code, said) = server.stop();
        assert_eq!(code, Some(0), "{said:#?}");
    };
    let run = |scaled: &Scaled, args: &[&str]| home.shown(&mut scaled.stk(&home, args));
    let data = ["kafka", "clickhouse"].map(|name| (name, services.path(name).join("data"), home.path(name)));
    let each = |work: &dyn Fn(&Path, &Path)| {
        data.iter().for_each(|(name, ..)| services.kill(name));
        data.iter().for_each(|(_, data, copy)| work(data, copy));
        data.iter().for_each(|(name, ..)| services.start(name));
    };
    life(&scaled, 0..200).await;
    let archived = run(&scaled, &["archive", "run"]);
    assert!(archived.starts_with("exit: 0\n"), "{archived}");
    life(&scaled, 200..250).await;
    each(&|data, copy| copy_dir(data, copy));
    life(&scaled, 250..400).await;
    let archived = run(&scaled, &["archive", "run"]);
    assert!(archived.starts_with("exit: 0\n"), "{archived}");
    assert_eq!(sold(&scaled).await, numbers(0..400));
    let gateway = scaled.serve(&home, "gateway");
    gateway.await_ready();
    let (_, token) = support::events(&gateway, "2025-03-01T00:00:00Z", "caught_up");
    drop(gateway);
    each(&|data, copy| copy_dir(copy, data));

    let left: Vec<u64> = (0..250).chain(1_000..1_300).collect();
    life(&scaled, 1_000..1_300).await;
    let gateway = scaled.serve(&home, "gateway");
    let (told, _) = support::events(&gateway, &token, "caught_up");
    assert!(told.contains(r#""kind":"reset""#) && told.contains("no longer has the records"), "{told}");
    drop(gateway);
    for _ in 0..2 {
        assert_eq!(sold(&scaled).await, left);
        assert_eq!(lost(&scaled).await, [(20, 40)], "from the last run before the copy on");
        for args in [&["archive", "run"][..], &["archive", "verify"], &["audit"]] {
            let told = run(&scaled, args);
            assert!(
                told.starts_with("exit: 1\n") && told.contains("another timeline of this log"),
                "{args:?}: {told}"
            );
            assert!(told.contains("stk archive copy --own"), "{args:?}: {told}");
        }
        let gateway = scaled.serve(&home, "gateway");
        until("what the archive is", async || {
            let health = ureq(&gateway.address, "/readyz");
            health.contains("another timeline of this log") && health.contains("offsets 20 to 39")
        })
        .await;
        drop(gateway);
        // Once the log has dropped the records that tell, it is still known.
        trim(&scaled, 1).await;
    }

    // As it says.
    let [from, to] = ["days", "own"].map(|name| format!("s3://stk-{}/{name}", scaled.name()));
    let copied = run(&scaled, &["archive", "copy", "--own", "--yes", &from, &to]);
    assert!(copied.starts_with("exit: 0\n"), "{copied}");
    let scaled = scaled.with("STK_ARCHIVE_URL", &to);
    assert_eq!(sold(&scaled).await, left);
    assert!(lost(&scaled).await.is_empty());
    for args in [&["archive", "run"][..], &["archive", "verify"], &["audit"]] {
        let told = run(&scaled, args);
        assert!(told.starts_with("exit: 0\n"), "{args:?}: {told}");
    }
    assert_eq!(sold(&scaled).await, left);
}

/// By then only the database's own books know of the rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_was_dropped_by_hand_is_told_though_the_log_has_dropped_its_records_too() {
    let Some(scaled) = Scaled::on(1, service) else { return };
    let scaled = scaled.with("STK_WARM_KEEP_DAYS", "36600");
    let home = Home::new();
    let server = scaled.serve(&home, "feed,processor");
    server.await_ready();
    sell(&server, 0..200).await;
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    let audited = home.shown(&mut scaled.stk(&home, &["audit"]));
    assert!(audited.starts_with("exit: 0\n"), "{audited}");
    sql(&scaled, "ALTER TABLE trade_rows DROP PARTITION '2025-03-07'");
    trim(&scaled, 1).await;
    let mut forget = String::new();
    for args in [&["history", "AAPL", "--data", "unused"][..], &["archive", "run"], &["audit"]] {
        let told = home.shown(&mut scaled.stk(&home, args));
        assert!(told.starts_with("exit: 1\n"), "{args:?}: {told}");
        assert!(told.contains("200 rows that were stored in warm are no longer there"), "{args:?}: {told}");
        let (_, statement) = told.split_once("forget them: ").unwrap_or_else(|| panic!("{told}"));
        forget = statement.lines().next().expect("a statement").to_owned();
    }
    // As it says.
    sql(&scaled, &forget);
    for args in [&["archive", "run"][..], &["archive", "verify"], &["audit"]] {
        let told = home.shown(&mut scaled.stk(&home, args));
        assert!(told.starts_with("exit: 0\n"), "{args:?}: {told}");
    }
}

/// The topic is put back from an older copy, and others write into it until it reaches further than warm's
/// marks: nothing is moved, dropped or answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_put_back_and_grown_past_the_mark_is_refused_by_whoever_moves_days() {
    let Some(services) = OwnServices::up(&["kafka"]) else { return };
    let own = |name: &str| services.address(name).or_else(|| service(name));
    let Some(scaled) = Scaled::on(2, own) else { return };
    let home = Home::new();
    let life = async |numbers| {
        let server = scaled.serve(&home, "feed,processor");
        server.await_ready();
        sell(&server, numbers).await;
        let (code, said) = server.stop();
        assert_eq!(code, Some(0), "{said:#?}");
    };
    life(0..100).await;
    let (data, copy) = (services.path("kafka/data"), home.path("copy"));
    services.kill("kafka");
    copy_dir(&data, &copy);
    services.start("kafka");
    life(100..200).await;
    services.kill("kafka");
    copy_dir(&copy, &data);
    services.start("kafka");
    let brokers = services.address("KAFKA").expect("it was started");
    let config = KafkaBusConfig::new(brokers, format!("stk-{}", scaled.name()), 2);
    let bus = KafkaBus::open_existing(config).await.expect("it is there");
    for number in 0..50_u8 {
        let records = (0..2).map(|partition| (partition, vec![number; 10].into())).collect();
        bus.append(records).await.expect("queued").await.expect("durable");
    }
    bus.close(std::time::Duration::from_secs(30)).await;
    let other_record = "is not the one that warm took in there";
    for args in [
        &["archive", "run"][..],
        &["archive", "run", "--dry-run"],
        &["archive", "restore", "2025-03-07", "--into-warm", "--yes"],
        &["audit", "--repair", "--yes"],
        &["history", "AAPL", "--data", "unused"],
    ] {
        let shown = home.shown(&mut scaled.stk(&home, args));
        assert!(shown.starts_with("exit: 1\n") && shown.contains(other_record), "{args:?}: {shown}");
    }
    let shown = refused(&scaled, &home, "archiver");
    assert!(shown.contains(other_record), "{shown}");
    let held = home.shown(&mut scaled.stk(&home, &["archive", "list"]));
    assert!(!held.contains("2025-03-07"), "nothing was archived: {held}");
}

/// The admin of [`partitions_that_were_added_are_refused_whatever_number_is_set`], with warm on disk, which one process has for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_were_added_are_refused_by_warm_on_disk() {
    let Some(brokers) = service("KAFKA") else { return };
    let home = Home::new();
    let topic = format!("stk-disk-{}-{}", std::process::id(), Timestamp::now().nanos());
    let args = ["serve", "--data", "data", "--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0"];
    let stk = |args: &[&str], partitions: &str| {
        let mut command = home.stk(args);
        command.env("STK_LOG_KAFKA_BROKERS", &brokers).env("STK_LOG_KAFKA_TOPIC", &topic);
        command.env("STK_LOG_KAFKA_GROUP", &topic).env("STK_LOG_PARTITIONS", partitions);
        command
    };
    for numbers in [0..50, 50..80] {
        let server = Server::run(stk(&args, "2"), true);
        server.await_ready();
        sell(&server, numbers).await;
        let (code, said) = server.stop();
        assert_eq!(code, Some(0), "{said:#?}");
    }
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &brokers);
    let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
    let more = rdkafka::admin::NewPartitions::new(&topic, 4);
    let added = admin.create_partitions(&[more], &AdminOptions::new()).await.expect("an answer");
    assert!(added.iter().all(Result::is_ok), "{added:?}");
    for args in [&args[..], &["archive", "run", "--data", "data"], &["audit", "--data", "data"]] {
        let told = home.shown(stk(args, "4").stdout(Stdio::null()));
        assert!(told.starts_with("exit: 1\n"), "{told}");
        assert!(told.contains("was made with a log of 2 partitions, and the log has 4"), "{told}");
        assert!(told.contains("make a new topic (log.kafka_topic)") && told.contains("data.dir"), "{told}");
    }
}

/// A second cluster, or a second topic, whose configuration names the first one's database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_log_in_one_database_is_refused_and_does_not_disturb_the_first() {
    let (Some(first), Some(second)) = (Scaled::new(2), Scaled::new(2)) else { return };
    let home = Home::new();
    let server = first.serve(&home, "feed,processor,gateway");
    server.await_ready();
    sell(&server, 0..100).await;
    let second = second.with("STK_WARM_CLICKHOUSE_DATABASE", &format!("stk_{}", first.name()));
    for roles in ["processor", "feed", "gateway"] {
        let shown = refused(&second, &home, roles);
        assert!(
            shown.contains("holds rows of the log") && shown.contains("warm.clickhouse_database"),
            "{shown}"
        );
    }
    sell(&server, 100..200).await;
    server.await_ready();
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    assert_eq!(sold(&first).await, numbers(0..200));
}

/// An admin adds partitions, and follows the advice to set their new number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_were_added_are_refused_whatever_number_is_set() {
    let Some(scaled) = Scaled::new(2) else { return };
    let home = Home::new();
    let server = scaled.serve(&home, "feed,processor");
    server.await_ready();
    sell(&server, 0..50).await;
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    let archived = home.shown(&mut scaled.stk(&home, &["archive", "run"]));
    assert!(archived.starts_with("exit: 0\n"), "{archived}");
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", service("KAFKA").expect("it is there"));
    let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
    let topic = format!("stk-{}", scaled.name());
    let more = rdkafka::admin::NewPartitions::new(&topic, 4);
    let added = admin.create_partitions(&[more], &AdminOptions::new()).await.expect("an answer");
    assert!(added.iter().all(Result::is_ok), "{added:?}");
    let told = refused(&scaled, &home, "feed,processor");
    assert!(
        told.contains("has 4 partitions, but 2 are configured") && told.contains("a new topic"),
        "{told}"
    );
    let scaled = scaled.with("STK_LOG_PARTITIONS", "4");
    let told = refused(&scaled, &home, "feed,processor");
    assert!(told.contains("was made with a log of 2 partitions, and the log has 4"), "{told}");
    assert!(told.contains("make a new topic (log.kafka_topic) and a new database"), "{told}");

    // A new database alone has no such number, but the records say that their symbols have moved, and the archive
    // how many partitions there were.
    let fresh = format!("stk_{}_again", scaled.name());
    let scaled = scaled.with("STK_WARM_CLICKHOUSE_DATABASE", &fresh);
    for roles in ["feed,processor", "processor,gateway"] {
        let told = refused(&scaled, &home, roles);
        assert!(told.contains("of 4: partitions were added to the topic since"), "{told}");
        assert!(told.contains("make a new topic (log.kafka_topic) and a new warm store"), "{told}");
    }
    let archive = ["archive", "run"];
    let told = home.shown(&mut scaled.stk(&home, &archive));
    assert!(told.starts_with("exit: 1\n") && told.contains(" with 2 partitions) than this one ("), "{told}");
    assert!(told.contains("set archive.url to a place of its own"), "{told}");
    // As they say: a new topic, a new database, a new archive.
    let own = format!("s3://stk-{}/own", scaled.name());
    let scaled = scaled
        .with("STK_LOG_KAFKA_TOPIC", &format!("{topic}-again"))
        .with("STK_WARM_CLICKHOUSE_DATABASE", &format!("{fresh}_2"))
        .with("STK_ARCHIVE_URL", &own);
    let server = scaled.serve(&home, "feed,processor");
    server.await_ready();
    sell(&server, 200..250).await;
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    let told = home.shown(&mut scaled.stk(&home, &archive));
    assert!(told.starts_with("exit: 0\n"), "{told}");
    assert_eq!(sold(&scaled).await, numbers(200..250));
}

/// Two installations that were given one prefix of Redis: the second tells its own prices, and leaves the
/// keys of the first alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_installations_with_one_prefix_of_redis_tell_their_own_prices() {
    let (Some(first), Some(second)) = (Scaled::new(2), Scaled::new(2)) else { return };
    let home = Home::new();
    let second = second.with("STK_HOT_REDIS_PREFIX", &format!("{}:", first.name()));
    let latest = |server: &Server| ureq(&server.address, "/v2/stocks/AAPL/trades/latest");
    let one = first.serve(&home, "feed,processor,gateway");
    one.await_ready();
    sell(&one, 16..24).await;
    until("the first's last trade", async || latest(&one).contains("\"i\":16")).await;
    let other = second.serve(&home, "feed,processor,gateway");
    other.await_ready();
    sell(&other, 800..808).await;
    until("the second's last trade", async || latest(&other).contains("\"i\":800")).await;
    let health = ureq(&other.address, "/readyz");
    assert!(health.contains("are of another log; set hot.redis_prefix"), "{health}");
    assert!(latest(&one).contains("\"i\":16"), "{}", latest(&one));
    assert!(metric(&other.address, "hot_redis_purges_total") < 1.0);
    let health = ureq(&one.address, "/readyz");
    assert!(!health.contains("redis_prefix"), "{health}");
}

/// No processor writes into Redis any more: a gateway answers with what it reads itself from the log, says so, and
/// goes back to Redis once a processor is there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_no_processor_writes_counts_as_away() {
    let Some(scaled) = Scaled::new(1) else { return };
    let home = Home::new();
    let feed = scaled.serve(&home, "feed");
    let processor = scaled.serve(&home, "processor");
    processor.await_ready();
    let gateway = scaled.serve(&home, "gateway");
    gateway.await_ready();
    let latest = || ureq(&gateway.address, "/v2/stocks/AAPL/trades/latest");
    let is_away = || ureq(&gateway.address, "/readyz").contains("serving from this gateway's memory");
    sell(&feed, 0..80).await;
    until("the processor's last trade", async || latest().contains("\"i\":72")).await;
    assert!(!is_away());
    let (code, said) = processor.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    sell(&feed, 80..160).await;
    until("the log's last trade", async || latest().contains("\"i\":152")).await;
    assert!(is_away(), "{}", ureq(&gateway.address, "/readyz"));
    let processor = scaled.serve(&home, "processor");
    processor.await_ready();
    until("an answer of Redis", async || !is_away() && latest().contains("\"i\":152")).await;
}

/// Bars of a day are archived in the revisions that were stored as the day went on. A database that is filled again
/// from the log has fewer of them: the archiver replaces what is in warm, and nothing is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bars_of_a_database_that_was_filled_again_differ_from_the_archived_ones() {
    let Some(scaled) = Scaled::new(1) else { return };
    let keeping = scaled.with("STK_WARM_KEEP_DAYS", "36600");
    let home = Home::new();
    let life = async |scaled: &Scaled, bought: Range<u64>| {
        let server = scaled.serve(&home, "feed,processor");
        server.await_ready();
        sell(&server, bought).await;
        let (code, said) = server.stop();
        assert_eq!(code, Some(0), "{said:#?}");
    };
    let run = |scaled: &Scaled, args: &[&str]| {
        let shown = home.shown(&mut scaled.stk(&home, args));
        assert!(shown.starts_with("exit: 0\n"), "{args:?}: {shown}");
        shown
    };
    for first in [0, 40, 80] {
        life(&keeping, first..first + 40).await;
    }
    let archived = run(&keeping, &["archive", "run"]);
    assert!(archived.contains("bar of 2025-03-07"), "{archived}");
    let revisions = || sql(&keeping, "SELECT count() FROM bars");
    let before = revisions();
    sql(&keeping, &format!("DROP DATABASE stk_{} SYNC", keeping.name()));
    life(&keeping, 120..160).await;
    assert_ne!(revisions(), before, "of fewer blocks");
    for _ in 0..2 {
        run(&keeping, &["archive", "run"]);
        run(&keeping, &["audit"]);
        assert_eq!(sold(&keeping).await, numbers(0..160));
    }
    let scaled = keeping.with("STK_WARM_KEEP_DAYS", "1");
    for _ in 0..2 {
        run(&scaled, &["archive", "run"]);
        run(&scaled, &["audit"]);
        assert_eq!(sold(&scaled).await, numbers(0..160));
    }
    let days = home.shown(&mut scaled.stk(
        &home,
        &["history", "AAPL", "--kind", "bars", "--timeframe", "1Day", "--format", "csv", "--data", "unused"],
    ));
    assert!(days.contains(",2000,20,"), "twenty trades of a hundred shares: {days}");
}

/// Warm is lost, what the log had was trimmed long ago, and the archive has all of it: the processor goes on behind
/// it by itself. Then records expire before anybody has processed them: it refuses, and goes on as it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_expired_are_skipped_when_told_and_named() {
    let Some(scaled) = Scaled::new(1) else { return };
    let home = Home::new();
    let life = async |scaled: &Scaled, roles: &str, bought: Range<u64>| {
        let server = scaled.serve(&home, roles);
        if roles.contains("processor") {
            server.await_ready();
        }
        sell(&server, bought).await;
        let (code, said) = server.stop();
        assert_eq!(code, Some(0), "{said:#?}");
    };
    life(&scaled, "feed,processor", 0..100).await;
    let archive = ["archive", "run"];
    let archived = home.shown(&mut scaled.stk(&home, &archive));
    assert!(archived.starts_with("exit: 0\n"), "{archived}");
    trim(&scaled, 1).await;
    // Everything that ClickHouse had.
    let fresh = format!("stk_{}_again", scaled.name());
    let scaled = scaled.with("STK_WARM_CLICKHOUSE_DATABASE", &fresh);
    // Late trades of the archived day among them: their bars are those of the whole day.
    life(&scaled, "feed,processor", 100..150).await;
    assert_eq!(sold(&scaled).await, numbers(0..150));
    assert!(expired(&scaled).await.is_empty(), "nothing is missing");
    let asked = ["history", "AAPL", "--kind", "bars", "--timeframe", "1Day", "--format", "csv", "--server"];
    let gateway = scaled.serve(&home, "gateway");
    let bars = home.run(&[&asked[..], &[&gateway.address]].concat());
    assert!(
        bars.contains(&format!(",{},", 100 * (0..150).filter(|number| number % 8 == 0).count())),
        "{bars}"
    );
    drop(gateway);

    // Nobody processes, and the topic is trimmed by somebody else.
    life(&scaled, "feed", 150..170).await;
    trim(&scaled, 1).await;
    let args = ["serve", "--roles", "processor", "--listen", "127.0.0.1:0"];
    let told = home.shown(scaled.stk(&home, &args).stdout(Stdio::null()));
    assert!(told.starts_with("exit: 1\n"), "{told}");
    assert!(told.contains("the records from offset 15 to 16 are no longer in the log"), "{told}");
    assert!(told.contains("processor.expired=skip"), "{told}");
    let scaled = scaled.with("STK_PROCESSOR_EXPIRED", "skip");
    life(&scaled, "feed,processor", 170..200).await;
    let left: Vec<u64> = (0..150).chain(170..200).collect();
    assert_eq!(sold(&scaled).await, left);
    assert_eq!(expired(&scaled).await, [(15, 16)]);
}
