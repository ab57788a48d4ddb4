//! Unplugged: under load each service is stopped, and started again some time later. What is served
//! meanwhile is what docs/outages.md says, nothing is lost, nothing is doubled, and all is well again
//! without a process of ours being touched.
//!
//! `STK_TEST_OUTAGE_SECONDS` says how long each is away.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stk::config::Resolved;
use stk::feed::iex::make;
use stk::market::Timestamp;

use super::scaled::{Scaled, digests, subscribed, until};
use super::serve::write_capture;
use super::support::{Home, OwnServices, PATIENCE, Server, metric, service};

/// A quote and a trade every so often.
const PERIOD_MILLIS: i64 = 20;

const OTHERS: [&str; 8] = ["MSFT", "IBM", "AMZN", "GOOG", "NVDA", "TSLA", "META", "ORCL"];

/// Of a day long past: as many trades as quotes.
const OLD_SECONDS: i64 = 60;

/// One plant at a time: each is of nine processes.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn outage() -> Duration {
    let seconds = std::env::var("STK_TEST_OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(6))
}

/// What the server at `address` answers: status and body.
fn ask(address: &str, path: &str) -> (u16, String) {
    let url = format!("http://{address}{path}");
    let asked = Command::new("curl").args(["-s", "-m", "200", "-w", "\n%{http_code}", &url]).output();
    let shown = asked.expect("curl is there").stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    let (body, status) = shown.rsplit_once('\n').expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}

fn count(server: &Server, name: &str) -> u64 {
    metric(&server.address, name) as u64
}

/// `/readyz`: whether it is, and what it says of what is wrong.
fn health(server: &Server) -> (bool, String) {
    let (status, body) = ask(&server.address, "/readyz");
    let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{status}: {body}"));
    let wrong = ["not_ready", "degraded"].map(|name| body[name].as_array().cloned().unwrap_or_default());
    let wrong: Vec<_> =
        wrong.concat().iter().map(|reason| reason.as_str().unwrap_or("").to_owned()).collect();
    (status == 200, wrong.join("; "))
}

/// A client, ended with the test.
struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All of `stk` on services of the test's own.
struct Plant {
    own: OwnServices,
    scaled: Scaled,
    home: Home,
    feed: Server,
    processors: [Server; 2],
    gateway: Server,
    archiver: Server,
    watch: Watch,
    watched: PathBuf,
    /// The producer under whose load something is away.
    load: Option<Child>,
    /// Captures replayed so far.
    played: Vec<PathBuf>,
    trades_of_aapl: usize,
    /// When the next capture begins.
    next: Timestamp,
}

impl Plant {
    async fn new() -> Option<Self> {
        let own = OwnServices::up(&["kafka", "redis", "clickhouse", "s3"])?;
        let scaled = Scaled::on(4, |name| own.address(name))?
            .with("STK_ARCHIVE_EVERY_MINUTES", "1")
            // Plans of history end between two blocks, also on a slow machine.
            .with("STK_PROCESSOR_BLOCK_AGE_MS_MAX", "2000");
        let home = Home::new();
        let feed = scaled.serve(&home, "feed");
        let processors = [scaled.serve(&home, "processor"), scaled.serve(&home, "processor")];
        let gateway = scaled.serve(&home, "gateway");
        let old = write_capture(&home, OLD_SECONDS);
        let replay = ["replay", &old.display().to_string(), "--speed", "max", "--ingest", &feed.ingest];
        let replayed = home.run(&replay);
        assert!(replayed.contains("120 ticks durable"), "{replayed}");
        until("the day long past in ClickHouse", async || {
            let stored: u64 = processors.iter().map(|each| count(each, "processor_rows_total")).sum();
            stored >= 2 * OLD_SECONDS as u64
        })
        .await;
        // Of itself, as it starts.
        let archiver = scaled.serve(&home, "archiver");
        until("the archive's run", async || count(&archiver, "archive_units_dropped_total") >= 3).await;
        let watched = home.path("watched");
        let mut watch =
            scaled.stk(&home, &["watch", "AAPL", "--format", "json", "--server", &gateway.address]);
        watch.stdout(File::create(&watched).expect("a file"));
        watch.stderr(File::create(home.path("watch.err")).expect("a file"));
        let watch = Watch(watch.spawn().expect("the binary runs"));
        subscribed(&gateway.address).await;
        tell("all is up, and a day is in the archive");
        let next = Timestamp::now();
        let (played, trades_of_aapl) = (vec![old], 0);
        Some(Self {
            own,
            scaled,
            home,
            feed,
            processors,
            gateway,
            archiver,
            watch,
            watched,
            load: None,
            played,
            trades_of_aapl,
            next,
        })
    }

    /// Begins to produce `time`'s worth of ticks, in their own time.
    fn load(&mut self, time: Duration) {
        let count = time.as_millis() as i64 / PERIOD_MILLIS;
        let first = self.next;
        let segment = |number: i64| {
            let ts = first.saturating_add_nanos(number * PERIOD_MILLIS * 1_000_000);
            // One that is watched, and some in every partition.
            let symbol = if number % 2 == 0 { "AAPL" } else { OTHERS[(number / 2) as usize % OTHERS.len()] };
            let price = 190_4500 + number;
            let id = (self.trades_of_aapl as i64 * 2 + number) as u64 + 1;
            let trade = make::trade(symbol, ts, 0, price, 100, id);
            (ts, vec![make::quote(symbol, ts, 0, (price, 1), (price + 100, 2)), trade])
        };
        let segments: Vec<_> = (0..count).map(segment).collect();
        self.next = first.saturating_add_nanos(count * PERIOD_MILLIS * 1_000_000);
        self.trades_of_aapl += (count as usize).div_ceil(2);
        self.load = Some(self.play(&segments));
    }

    /// Produces on where what was to be produced is at its end, as it is early on a slow machine.
    fn load_on(&mut self) {
        if let Some(ended) = self.load.as_mut().and_then(|load| load.try_wait().expect("it is ours")) {
            assert!(ended.success(), "the producer: {ended}");
            self.load(Duration::from_secs(4));
        }
    }

    /// Another producer, with one trade that nobody watches.
    fn one_more(&mut self) -> Child {
        let trade = make::trade("XOM", self.next, 0, 110_0000, 100, 1);
        self.play(&[(self.next, vec![trade])])
    }

    fn play(&mut self, segments: &[(Timestamp, Vec<Vec<u8>>)]) -> Child {
        let path = self.home.path(&format!("load-{}.pcap", self.played.len()));
        std::fs::write(&path, make::capture(segments)).expect("written");
        // All of them are of one session, which they fill with different messages.
        let path_shown = path.display().to_string();
        let args = ["replay", &path_shown, "--again", "--speed", "1", "--ingest", &self.feed.ingest];
        let mut replay = self.home.stk(&args);
        let replay = replay.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        self.played.push(path);
        replay
    }

    /// Ids of the trades that the client has seen, in their order.
    fn seen(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(&self.watched).expect("a file");
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let message = |line: &str| -> Value { serde_json::from_str(line).expect("JSON") };
        let trades = whole.lines().map(message).filter(|message| message["T"] == "t");
        trades.map(|trade| trade["i"].as_u64().expect("an id")).collect()
    }

    /// That the live stream goes on.
    async fn goes_on(&mut self, what: &str) {
        let count = self.seen().len() + 20;
        until(&format!("live trades {what}"), async || {
            self.load_on();
            self.seen().len() >= count
        })
        .await;
    }

    /// The time of the last trade of AAPL, as a snapshot has it.
    fn latest(&self) -> String {
        let (status, body) = ask(&self.gateway.address, "/v2/stocks/AAPL/trades/latest");
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        body["trade"]["t"].as_str().expect("a time").to_owned()
    }

    async fn latest_goes_on(&mut self, what: &str) {
        let before = self.latest();
        until(&format!("a later snapshot {what}"), async || {
            self.load_on();
            self.latest() > before
        })
        .await;
    }

    fn servers(&self) -> [&Server; 5] {
        let [first, second] = &self.processors;
        [&self.feed, first, second, &self.gateway, &self.archiver]
    }

    /// Waits until `server` says that `reason` is wrong, and is as ready as it should be then.
    async fn until_told(&self, server: &Server, reason: &str, is_ready: bool) {
        let mut told = (false, String::new());
        until(&format!("\"{reason}\" in /readyz"), async || {
            told = health(server);
            // It may not be ready yet for another reason.
            told.1.contains(reason) && told.0 == is_ready
        })
        .await;
        tell(&format!("/readyz: {}", told.1));
    }

    /// Waits until each of `servers` says that all is well, for as long as a request may hang that was
    /// made in the wrong moment, and be made again.
    async fn until_well(&self, servers: &[&Server]) {
        let mut last = String::new();
        let well = tokio::time::timeout(4 * PATIENCE, async {
            for server in servers {
                loop {
                    let (is_ready, wrong) = health(server);
                    last = wrong;
                    if is_ready && last.is_empty() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        });
        assert!(well.await.is_ok(), "it does not become well: {last}");
    }

    /// That all ends as it should.
    fn end(self) {
        let pid = rustix::process::Pid::from_child(&self.watch.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let Self { feed, processors: [first, second], gateway, archiver, mut watch, .. } = self;
        watch.0.wait().expect("it is ours");
        for server in [feed, first, second, gateway, archiver] {
            let (code, said) = server.stop();
            assert_eq!(code, Some(0), "{said:#?}");
        }
    }

    /// What history answers of a day: status and body.
    fn history(&self, day: &str) -> (u16, String) {
        let path = format!("/v1/history?symbols=AAPL&kind=trades&from={day}&to={day}&format=csv");
        ask(&self.gateway.address, &path)
    }

    /// Asks history of a day without waiting for it.
    fn asking(&self, day: &str) -> Child {
        let path = format!("/v1/history?symbols=AAPL&kind=trades&from={day}&to={day}&format=csv");
        let url = format!("http://{}{path}", self.gateway.address);
        let mut asking = Command::new("curl");
        asking.args(["-s", "-m", "200", &url]).stdout(Stdio::piped()).spawn().expect("curl is there")
    }

    /// Waits until history has an answer of a day: rows there are.
    async fn until_history(&self, day: &str) {
        until(&format!("history of {day}"), async || {
            let (status, body) = self.history(day);
            status == 200 && body.lines().count() > 20
        })
        .await;
    }

    /// Waits until `producer` has ended.
    async fn ended(&self, producer: Child, what: &str) -> Output {
        let pid = rustix::process::Pid::from_child(&producer);
        let ended = tokio::task::spawn_blocking(move || producer.wait_with_output());
        if let Ok(ended) = tokio::time::timeout(4 * PATIENCE, ended).await {
            return ended.expect("it waits").expect("it is ours");
        }
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let wrong: Vec<_> = self.servers().iter().map(|server| health(server)).collect();
        panic!("{what}: the producer does not end; {wrong:#?}");
    }

    /// Waits until all was done and seen; every row is there once.
    async fn check(&mut self, what: &str) {
        let load = self.load.take().expect("a load");
        let output = self.ended(load, what).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}: {said}");
        tell("the producer has ended");
        self.until_well(&self.servers()).await;
        tell("/readyz is ready everywhere");
        until(&format!("all trades: {what}"), async || self.seen().len() >= self.trades_of_aapl).await;
        let mut seen = self.seen();
        assert!(seen.is_sorted(), "{what}: in order");
        seen.dedup();
        assert_eq!(seen.len(), self.trades_of_aapl, "{what}: each once");
        assert_eq!(count(&self.gateway, "gateway_websockets"), 1, "{what}");

        // The same captures on one machine.
        let data = self.home.path(&format!("data-{}", self.played.len())).display().to_string();
        for capture in &self.played {
            let args =
                ["replay", &capture.display().to_string(), "--again", "--speed", "max", "--data", &data];
            let replayed = self.home.run(&args);
            assert!(replayed.starts_with("exit: 0\n"), "{replayed}");
        }
        let embedded = Resolved::new(None, [], &[("data.dir", data, "--data")]).expect("good settings");
        let (expected, _) = digests(&embedded.config()).await;
        let config = self.scaled.config();
        let (stored, _) =
            tokio::time::timeout(4 * PATIENCE, digests(&config)).await.expect("history answers");
        for kind in ["trade", "quote", "bar"] {
            assert_eq!(stored[kind], expected[kind], "{what}: {kind}");
        }
        tell(&format!("{what}: {} trades, 0 lost, 0 doubled", stored["trade"].rows));
    }
}

/// What happens, and when, for who runs it.
fn tell(what: &str) {
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    eprintln!("{:>6.1} s  {what}", BEGAN.get_or_init(Instant::now).elapsed().as_secs_f64());
}

const OLD_DAY: &str = "2025-03-07";

fn today() -> String {
    Timestamp::now().trading_day().to_string()
}

/// What [`Plant::asking`] was answered.
fn answered(asking: Child) -> String {
    let answer = asking.wait_with_output().expect("curl is there").stdout;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits for what is left of the outage that began at `since`.
async fn wait_out(since: Instant) {
    tokio::time::sleep(outage().saturating_sub(since.elapsed())).await;
}

/// How long ticks come: during the outage, and while all comes back.
fn load_time() -> Duration {
    outage() + Duration::from_secs(8)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_service_may_be_away_under_load() {
    let _turn = TURN.lock().await;
    let Some(mut plant) = Plant::new().await else { return };

    plant.load(load_time());
    plant.goes_on("before Redis is stopped").await;
    let since = Instant::now();
    plant.own.kill("redis");
    tell("redis: kill");
    plant.until_told(&plant.gateway, "serving from this gateway's memory", true).await;
    for processor in &plant.processors {
        plant.until_told(processor, "redis", true).await;
    }
    until("a gauge", async || count(&plant.gateway, "hot_redis_reader_away") == 1).await;
    plant.goes_on("without Redis").await;
    plant.latest_goes_on("without Redis").await;
    plant.until_history(&today()).await;
    wait_out(since).await;
    plant.own.start("redis");
    tell("redis: start");
    plant.check("Redis was away").await;

    plant.load(load_time());
    plant.goes_on("before ClickHouse is stopped").await;
    let since = Instant::now();
    plant.own.kill("clickhouse");
    tell("clickhouse: kill");
    for processor in &plant.processors {
        plant.until_told(processor, "rows wait for it in the log", true).await;
    }
    plant.goes_on("without ClickHouse").await;
    plant.latest_goes_on("without ClickHouse").await;
    let (status, body) = plant.history(&today());
    assert!(status == 429 && body.contains("http://127.0.0.1:"), "{status}: {body}");
    plant.until_well(&[&plant.gateway]).await;
    wait_out(since).await;
    let of_processors = |name| plant.processors.iter().map(|each| count(each, name)).sum::<u64>();
    assert!(of_processors("processor_retries_total") > 0, "storing is tried again");
    assert!(of_processors("processor_held_rows") > 0, "and rows wait");
    plant.own.start("clickhouse");
    tell("clickhouse: start");
    plant.check("ClickHouse was away").await;

    plant.load(load_time());
    plant.goes_on("before Kafka is stopped").await;
    let since = Instant::now();
    plant.own.kill("kafka");
    tell("kafka: kill");
    for server in plant.servers() {
        plant.until_told(server, "can't be reached", false).await;
    }
    until("no broker", async || count(&plant.gateway, "bus_brokers_up") == 0).await;
    let (idle_since, idle_cpu) = (Instant::now(), plant.gateway.cpu_seconds());
    plant.latest();
    let waiting = plant.asking(&today());
    let mut one_more = plant.one_more();
    wait_out(since).await;
    // It waits for the brokers, and does not ask in a circle.
    let busy = (plant.gateway.cpu_seconds() - idle_cpu) / idle_since.elapsed().as_secs_f64();
    assert!(busy < 0.5, "the gateway keeps {busy:.2} of a processor busy");
    assert_eq!(one_more.try_wait().expect("it is ours"), None, "nothing is acknowledged");
    assert_eq!(count(&plant.gateway, "gateway_websockets"), 1, "clients stay connected");
    plant.own.start("kafka");
    tell("kafka: start");
    let answer = answered(waiting);
    assert!(answer.lines().count() > 20, "what was asked waited for the log: {answer}");
    let code = plant.ended(one_more, "what waited").await.status.code();
    assert_eq!(code, Some(0), "what waited is acknowledged");
    plant.check("Kafka was away").await;

    // Of S3 the memory is the disk: it stays, and answers nothing.
    plant.load(load_time());
    plant.goes_on("before S3 is stopped").await;
    let since = Instant::now();
    plant.own.pause("s3");
    tell("s3: pause");
    let waiting = plant.asking(OLD_DAY);
    plant.goes_on("without S3").await;
    plant.latest_goes_on("without S3").await;
    plant.until_history(&today()).await;
    plant.until_well(&plant.servers()).await;
    wait_out(since).await;
    plant.own.resume("s3");
    tell("s3: resume");
    let back = Timestamp::now().nanos() as f64 / 1e9;
    let answer = answered(waiting);
    assert!(answer.lines().count() > 20 || answer.contains("s3://stk-"), "{answer}");
    tell(&format!("history of an archived day while S3 hung: {}", answer.lines().next().unwrap_or_default()));
    plant.check("S3 was away").await;
    until("a run of the archive after S3", async || {
        metric(&plant.archiver.address, "archive_last_success_seconds") > back
    })
    .await;

    // For good: what is archived is named, the rest is served.
    plant.own.kill("s3");
    tell("s3: kill");
    let (status, body) = plant.history(OLD_DAY);
    assert!(status == 429 && body.contains("s3://stk-"), "{status}: {body}");
    assert!(count(&plant.gateway, "cold_failures_total") > 0, "and counted");
    plant.until_history(&today()).await;

    plant.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_service_may_hang_under_load() {
    let _turn = TURN.lock().await;
    let Some(mut plant) = Plant::new().await else { return };
    for service in ["redis", "clickhouse", "kafka"] {
        plant.load(load_time());
        plant.goes_on(&format!("before {service} hangs")).await;
        let since = Instant::now();
        plant.own.pause(service);
        tell(&format!("{service}: pause"));
        if service != "kafka" {
            plant.goes_on(&format!("while {service} hangs")).await;
            plant.latest_goes_on(&format!("while {service} hangs")).await;
        }
        if service == "redis" {
            plant.until_told(&plant.gateway, "serving from this gateway's memory", true).await;
            plant.until_history(&today()).await;
        }
        wait_out(since).await;
        plant.own.resume(service);
        tell(&format!("{service}: resume"));
        plant.check(&format!("{service} hung")).await;
    }
    plant.end();
}

/// A supervisor does not wait for Kafka: who is told to end while it is away ends, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_end_while_kafka_is_away_it_ends_and_nothing_is_lost() {
    let _turn = TURN.lock().await;
    let Some(own) = OwnServices::up(&["kafka"]) else { return };
    let address_of = |name: &str| if name == "KAFKA" { own.address(name) } else { service(name) };
    let Some(scaled) = Scaled::on(2, address_of) else { return };
    let home = Home::new();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0"];
    let both = [&serve[..], &["--roles", "feed,processor", "--feed", "sim"]].concat();
    let both = Server::run(scaled.stk(&home, &both), true);
    let gateway = scaled.serve(&home, "gateway");
    until("rows in warm", async || count(&both, "processor_rows_total") > 0).await;
    own.kill("kafka");
    for server in [&both, &gateway] {
        until("the outage", async || health(server).1.contains("can't be reached")).await;
    }
    // Its feed's last batches are on their way to nowhere.
    let (code, said) = both.stop();
    let said = said.join("\n");
    assert!(code == Some(1) && said.contains("ended without it"), "{code:?}: {said}");
    let (code, said) = gateway.stop();
    assert_eq!(code, Some(0), "{said:?}");

    own.start("kafka");
    let (code, said) = scaled.serve(&home, "processor").stop();
    assert_eq!(code, Some(0), "{said:?}");
    let audited = scaled.stk(&home, &["audit"]).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&audited.stderr);
    assert!(audited.status.success() && said.contains("the chain holds"), "{said}");
}
