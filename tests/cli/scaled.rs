//! The same binary on Kafka, ClickHouse, Redis and S3, as separate processes: what goes in is what
//! comes out, and what one process with its own disk gives.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use futures_util::TryStreamExt;
use stk::config::{Config, Resolved};
use stk::market::{Kind, RowDigest, TimeRange};
use stk::server::stores::Stores;
use stk::tiering::history::{HistoryQuery, HistoryStats};

use super::crash::Digests;
use super::serve::write_capture_of;
use super::support::{Home, Server, iex_capture, metric, service};

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/scaled.toml");

/// The services of a test, and names in them that no other test has.
pub(crate) struct Scaled {
    id: String,
    env: Vec<(String, String)>,
}

impl Scaled {
    /// None where a service is not there, which is then said.
    pub(crate) fn new(partitions: u16) -> Option<Self> {
        Self::on(partitions, service)
    }

    /// The same, where `address_of` says where each service is.
    pub(crate) fn on(partitions: u16, address_of: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let [kafka, redis, clickhouse, s3] = ["KAFKA", "REDIS", "CLICKHOUSE", "S3"].map(address_of);
        let (kafka, redis, clickhouse, s3) = (kafka?, redis?, clickhouse?, s3?);
        let mut id = String::new();
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        write!(id, "t{:x}", since.as_nanos()).expect("written");
        let bucket = format!("{s3}/stk-{id}");
        let made = std::process::Command::new("curl").args(["-sf", "-X", "PUT", &bucket]).status();
        assert!(made.expect("curl is there").success(), "a bucket is made");
        let env = [
            ("STK_LOG_KAFKA_BROKERS", kafka),
            ("STK_LOG_KAFKA_TOPIC", format!("stk-{id}")),
            ("STK_LOG_KAFKA_GROUP", format!("stk-{id}")),
            ("STK_LOG_PARTITIONS", partitions.to_string()),
            ("STK_HOT_REDIS_URL", redis),
            ("STK_HOT_REDIS_PREFIX", format!("{id}:")),
            ("STK_WARM_CLICKHOUSE_URL", clickhouse),
            ("STK_WARM_CLICKHOUSE_DATABASE", format!("stk_{id}")),
            ("STK_WARM_KEEP_DAYS", "1".to_owned()),
            ("STK_ARCHIVE_URL", format!("s3://stk-{id}/days")),
            ("STK_ARCHIVE_S3_ENDPOINT", s3),
            ("STK_ARCHIVE_AFTER_DAYS", "1".to_owned()),
            ("STK_ARCHIVE_SETTLE_MINUTES", "0".to_owned()),
            ("STK_ARCHIVE_EVERY_MINUTES", "0".to_owned()),
            ("STK_PROCESSOR_BLOCK_AGE_MS_MAX", "300".to_owned()),
        ];
        Some(Self { id, env: env.map(|(name, value)| (name.to_owned(), value)).to_vec() })
    }

    /// With another value of a setting.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `stk` with `args` and the configuration of `deploy/`.
    pub(crate) fn stk(&self, home: &Home, args: &[&str]) -> std::process::Command {
        let mut command = home.stk(args);
        command.env("STK_CONFIG", DEPLOY).envs(self.env.iter().map(|(name, value)| (name, value)));
        // `scripts/services env` says them, for this process too.
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            command.env(name, std::env::var_os(name).unwrap_or_default());
        }
        command
    }

    /// A process of its own with `roles`.
    pub(crate) fn serve(&self, home: &Home, roles: &str) -> Server {
        let mut args = vec!["serve", "--roles", roles, "--listen", "127.0.0.1:0"];
        let feeds = roles.contains("feed");
        if feeds {
            args.extend(["--ingest-listen", "127.0.0.1:0"]);
        }
        Server::run(self.stk(home, &args), feeds)
    }

    /// What all its names begin with.
    pub(crate) fn name(&self) -> &str {
        &self.id
    }

    /// The digests of all that history holds.
    pub(crate) async fn digests(&self) -> Digests {
        digests(&self.config()).await.0
    }

    /// The configuration, for calls of the library.
    pub(crate) fn config(&self) -> Config {
        let path = std::path::Path::new(DEPLOY);
        Resolved::new(Some(path), self.env.clone(), &[]).expect("good settings").config()
    }
}

/// The digest of all that history holds of each kind (but for ballast), and what it cost.
pub(crate) async fn digests(config: &Config) -> (Digests, HistoryStats) {
    let (mut digests, cost) = digests_within(config, &[super::crash::rounds()]).await;
    (digests.remove(0), cost)
}

/// The digest of what history holds of each kind in each of `ranges`, and what it cost together.
pub(crate) async fn digests_within(config: &Config, ranges: &[TimeRange]) -> (Vec<Digests>, HistoryStats) {
    let stores = Stores::open_existing(config).await.expect("the stores");
    let mut cost = HistoryStats::default();
    let mut within = Vec::new();
    for range in ranges {
        within.push(digests_of(&stores, *range, &mut cost).await);
    }
    stores.close().await;
    (within, cost)
}

async fn digests_of(stores: &Stores, range: TimeRange, cost: &mut HistoryStats) -> Digests {
    let mut digests = BTreeMap::new();
    for kind in Kind::ALL {
        let query = HistoryQuery { symbols: Vec::new(), kind, timeframe: None, range, limit: None };
        let answer = stores.history().query(query).await.expect("an answer");
        assert!(answer.coverage.missing.is_empty(), "{:?}", answer.coverage.missing);
        let mut digest = RowDigest::default();
        let mut rows = answer.rows;
        while let Some(batch) = rows.try_next().await.expect("rows") {
            digest.add(batch.digest());
        }
        let stats = *answer.stats.lock().expect("no panic");
        cost.log_rows += stats.log_rows;
        cost.archive.add(stats.archive);
        digests.insert(kind.name(), digest);
    }
    digests
}

/// Waits until `done`, which is asked again and again, for as long as anything may take.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let patience = std::time::Duration::from_mins(1);
    let waited = tokio::time::timeout(patience, async {
        while !done().await {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} did not come");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_capture_through_kafka_clickhouse_redis_and_s3_is_what_one_machine_gives() {
    let (Some(scaled), Some(capture)) = (Scaled::new(3), iex_capture()) else { return };
    let home = Home::new();
    let capture = capture.display().to_string();

    // On one machine.
    let data = home.path("data");
    let replayed = home.run(&["replay", &capture, "--speed", "max", "--data", &data.display().to_string()]);
    assert!(replayed.contains("41422 ticks durable"), "{replayed}");
    let flags = [("data.dir", data.display().to_string(), "--data")];
    let embedded = Resolved::new(None, [], &flags).expect("good settings").config();
    let (expected, _) = digests(&embedded).await;
    assert_eq!(expected["quote"].rows, 27_217);
    assert_eq!(expected["trade"].rows, 6_390);
    assert!(expected["bar"].rows > 100, "{:?}", expected["bar"]);

    // At scale, each role a process, two of them processors.
    let feed = scaled.serve(&home, "feed");
    let processors = [scaled.serve(&home, "processor"), scaled.serve(&home, "processor")];
    // Each has its part of the log.
    processors.iter().for_each(Server::await_ready);
    let gateway = scaled.serve(&home, "gateway");
    let mut watch = scaled.stk(&home, &["watch", "AAPL", "--format", "json", "--server", &gateway.address]);
    let watch = watch.stdout(std::process::Stdio::piped()).spawn().expect("the binary runs");
    subscribed(&gateway.address).await;
    let replayed = home.run(&["replay", &capture, "--speed", "max", "--ingest", &feed.ingest]);
    assert!(replayed.contains("41422 ticks durable"), "{replayed}");
    let (live, _) = digests(&scaled.config()).await;
    assert_eq!(live, expected, "log and warm together, whatever is where");
    until("the last of AAPL in Redis", async || {
        let entry = ureq(&gateway.address, "/v2/stocks/trades/latest?symbols=AAPL");
        entry.contains("\"AAPL\"")
    })
    .await;
    for processor in processors {
        let (code, said) = processor.stop();
        assert_eq!(code, Some(0), "{said:#?}");
    }
    let (stored, cost) = digests(&scaled.config()).await;
    assert_eq!(stored, expected, "all in ClickHouse");
    assert_eq!(cost.log_rows, 0, "none of it out of the log");
    assert_eq!(cost.archive.files_read, 0, "none of it out of the archive");

    // Into the archive, and out of ClickHouse.
    let archived = home.shown(&mut scaled.stk(&home, &["archive", "run", "--before", "2020-01-01"]));
    assert!(archived.starts_with("exit: 0\n"), "{archived}");
    let archived = home.shown(&mut scaled.stk(&home, &["archive", "run", "--before", "2020-01-01"]));
    assert!(archived.starts_with("exit: 0\n"), "again: {archived}");
    let (cold, cost) = digests(&scaled.config()).await;
    assert_eq!(cold, expected, "all in S3");
    assert!(cost.archive.files_read > 0, "read from the archive: {cost:?}");

    // Through the server and the command line, to a person.
    let asked = ["history", "AAPL", "--format", "csv"];
    let served = home.run(&[&asked[..], &["--server", &gateway.address]].concat());
    let local = home.run(&[&asked[..], &["--data", &data.display().to_string()]].concat());
    let without_place = |shown: &str| -> Vec<String> {
        let (_, out) = shown.split_once("--- stdout\n").expect("there is stdout");
        let out = out.split("--- stderr\n").next().unwrap_or_default();
        let head = out.lines().next().unwrap_or_default();
        let place = head.split(',').position(|column| column == "seq").expect("a place");
        let others = |line: &str| {
            let cells = line.split(',').enumerate().filter(|(at, _)| *at != place);
            cells.map(|(_, cell)| cell).collect::<Vec<_>>().join(",")
        };
        out.lines().map(others).collect()
    };
    assert_eq!(without_place(&served), without_place(&local));
    assert!(served.contains("nothing is missing"), "{served}");

    let pid = rustix::process::Pid::from_child(&watch);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    let seen = watch.wait_with_output().expect("it ended").stdout;
    let seen = String::from_utf8_lossy(&seen);
    let trades = seen.lines().filter(|line| line.contains("\"T\":\"t\"")).count();
    assert_eq!(trades, without_place(&local).len() - 1, "every trade of AAPL was watched once");
    for server in [feed, gateway] {
        let (code, said) = server.stop();
        assert_eq!(code, Some(0), "{said:#?}");
    }
}

/// Nobody starts it again, and nobody has to: the others of its group find out by its silence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_processor_had_the_other_one_takes_over() {
    let Some(scaled) = Scaled::new(4) else { return };
    let home = Home::new();
    // Some in every partition.
    let symbols = ["AAPL", "MSFT", "IBM", "AMZN", "GOOG", "NVDA", "TSLA", "META", "ORCL"];
    let capture = write_capture_of(&home, 60, &symbols).display().to_string();
    let data = home.path("data").display().to_string();
    let feed = scaled.serve(&home, "feed");
    let [doomed, heir] = ["processor", "processor"].map(|role| scaled.serve(&home, role));
    let gained = |server: &Server| metric(&server.address, "processor_gained_total");
    until("partitions of both", async || gained(&doomed) >= 2.0 && gained(&heir) >= 2.0).await;
    let before = gained(&heir);
    // Rounds of the same ticks: before it dies, while its partitions are nobody's, and after.
    let play = |to: &[&str]| {
        let played = home.run(&[&["replay", &capture, "--speed", "max", "--again"], to].concat());
        assert!(played.contains("120 ticks durable"), "{played}");
    };
    play(&["--ingest", &feed.ingest]);
    until("rows of its own", async || metric(&doomed.address, "processor_rows_total") > 0.0).await;
    doomed.kill();
    play(&["--ingest", &feed.ingest]);
    until("what it had with the other", async || gained(&heir) >= before + 2.0).await;
    play(&["--ingest", &feed.ingest]);
    let (code, said) = heir.stop();
    assert_eq!(code, Some(0), "{said:#?}");

    for _ in 0..3 {
        play(&["--data", &data]);
    }
    let embedded = Resolved::new(None, [], &[("data.dir", data, "--data")]).expect("good settings");
    let (expected, _) = digests(&embedded.config()).await;
    let (stored, cost) = digests(&scaled.config()).await;
    for kind in ["trade", "quote"] {
        assert_eq!(stored[kind], expected[kind], "{kind}");
    }
    assert_eq!(cost.log_rows, 0, "all of it is in ClickHouse");
}

/// Waits until somebody has subscribed at a gateway.
pub(crate) async fn subscribed(address: &str) {
    until("a subscription", async || {
        let status: serde_json::Value =
            serde_json::from_str(&ureq(address, "/v1/status")).unwrap_or_default();
        status["connections"]["groups"].as_u64() > Some(0)
    })
    .await;
}

/// What the server at `address` answers.
pub(crate) fn ureq(address: &str, path: &str) -> String {
    let url = format!("http://{address}{path}");
    let answer = std::process::Command::new("curl").args(["-s", &url]).output().expect("curl is there");
    String::from_utf8_lossy(&answer.stdout).into_owned()
}
