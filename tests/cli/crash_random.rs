//! Processes of every role and the servers they share, killed at random moments under load: what was
//! accepted stands in history once, and the archive is whole.
//!
//! The servers are this test's own, so that no other sees them die. `STK_TEST_RANDOM_KILLS` says how
//! often something is killed, `STK_TEST_KILL_SEED` repeats the moments.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use stk::client::ingest::IngestClient;
use stk::feed::sim::{Sim, SimConfig};
use stk::market::Tick;
use tokio::sync::Notify;

use super::address::OwnAddress;
use super::crash::{PRODUCER, Row, day};
use super::kill::{hash, seed, stored};
use super::scaled::{Scaled, digests};
use super::support::{Home, OwnServices, Server};

/// Kills in CI.
const KILLS_IN_CI: u64 = 6;

/// What is killed: each once, in any order, before all of them come again.
const TARGETS: [&str; 6] = ["processor", "archiver", "feed", "kafka", "clickhouse", "redis"];

/// So many kills come on one day of the market; then it is closed, and to be archived.
const KILLS_OF_DAY: u64 = 4;

const BATCH_TICKS: usize = 40;
const BATCH_EVERY: Duration = Duration::from_millis(100);

/// The longest wait from one kill to the next, beside what it takes to start a server again.
const PAUSE_MS_MAX: u64 = 2_500;

/// A process that is started again whenever it is gone, killed when dropped.
struct Process {
    name: &'static str,
    command: Box<dyn Fn() -> Command + Send>,
    child: Child,
    log: PathBuf,
    /// Ends that nobody brought about.
    ended: u64,
}

impl Process {
    fn start(name: &'static str, log: PathBuf, command: impl Fn() -> Command + Send + 'static) -> Self {
        let command = Box::new(command);
        let child = Self::spawn(&log, &*command);
        Self { name, command, child, log, ended: 0 }
    }

    fn spawn(log: &Path, command: &dyn Fn() -> Command) -> Child {
        let log = File::options().create(true).append(true).open(log).expect("a file");
        command().stdout(Stdio::null()).stderr(log).spawn().expect("the binary runs")
    }

    fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    fn start_again(&mut self) {
        self.child = Self::spawn(&self.log, &*self.command);
    }

    /// As whoever keeps services running would.
    fn keep(&mut self) {
        if self.child.try_wait().expect("it is ours").is_some() {
            self.ended += 1;
            self.start_again();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("{} said last:\n{}", self.name, lines[lines.len().saturating_sub(15)..].join("\n"));
        }
    }
}

/// `stk archive run`, again and again.
struct Archiving {
    running: Arc<Mutex<Option<Child>>>,
    enough: Arc<AtomicBool>,
    finished: Arc<AtomicU64>,
    /// Told of each run that begins.
    begun: Arc<Notify>,
}

impl Archiving {
    fn start(command: impl Fn() -> Command + Send + 'static) -> Self {
        let (running, finished) = (Arc::new(Mutex::new(None::<Child>)), Arc::new(AtomicU64::new(0)));
        let (enough, begun) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        tokio::spawn({
            let (running, finished) = (running.clone(), finished.clone());
            let (enough, begun) = (enough.clone(), begun.clone());
            async move {
                let mut looks = tokio::time::interval(Duration::from_millis(50));
                loop {
                    looks.tick().await;
                    let mut child = running.lock().unwrap_or_else(PoisonError::into_inner);
                    if enough.load(Ordering::Acquire) {
                        return;
                    }
                    match child.as_mut().map(|child| child.try_wait().expect("it is ours")) {
                        None => {
                            *child = Some(command().spawn().expect("the binary runs"));
                            begun.notify_one();
                        }
                        Some(Some(status)) => {
                            finished.fetch_add(u64::from(status.success()), Ordering::AcqRel);
                            *child = None;
                        }
                        Some(None) => {}
                    }
                }
            }
        });
        Self { running, enough, finished, begun }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the run under way: whether there is one.
    fn kill(&self) -> bool {
        match self.running().as_mut().map(|child| (child.try_wait().expect("it is ours"), child)) {
            Some((None, child)) => child.kill().is_ok(),
            _ => false,
        }
    }

    /// Runs that were finished.
    fn finished(&self) -> u64 {
        self.finished.load(Ordering::Acquire)
    }
}

impl Drop for Archiving {
    fn drop(&mut self) {
        let mut running = self.running();
        self.enough.store(true, Ordering::Release);
        if let Some(mut child) = running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Brings ticks of the market's day until there are enough: all that were brought.
async fn bring(mut client: IngestClient, today: Arc<AtomicU64>, enough: Arc<AtomicBool>) -> Vec<Tick> {
    let mut every = tokio::time::interval(BATCH_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut ticks, mut number, mut sim) = (Vec::new(), 0, None);
    while !enough.load(Ordering::Acquire) {
        every.tick().await;
        let today = today.load(Ordering::Acquire);
        if number != today {
            number = today;
            let start = format!("{}T14:00:00Z", day(number)).parse().expect("a time");
            let config = SimConfig { seed: number, symbols: 50, rate_ticks_per_s: 400.0, start, count: None };
            sim = Some(Sim::new(config));
        }
        let from = ticks.len();
        if let Some(sim) = &mut sim {
            sim.fill(&mut ticks, BATCH_TICKS);
        }
        client.send(&ticks[from..]).await.expect("taken in the end");
    }
    client.flush().await.expect("acknowledged in the end");
    assert_eq!(client.acknowledged_ticks(), ticks.len() as u64);
    ticks
}

fn random_kills() -> u64 {
    std::env::var("STK_TEST_RANDOM_KILLS").map_or(KILLS_IN_CI, |kills| kills.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_under_load_what_was_accepted_stands_in_history_once() {
    let Some(services) = OwnServices::up(&["kafka", "redis", "clickhouse", "s3"]) else { return };
    let Some(scaled) = Scaled::on(4, |name| services.address(name)).map(Arc::new) else { return };
    let home = Arc::new(Home::new());
    let ingest = OwnAddress::new();

    let serve = |roles: &'static str, more: &[&str]| {
        let (scaled, home) = (scaled.clone(), home.clone());
        let more: Vec<String> = more.iter().map(|arg| (*arg).to_owned()).collect();
        move || {
            let mut args = vec!["serve", "--roles", roles, "--listen", "127.0.0.1:0"];
            args.extend(more.iter().map(String::as_str));
            let mut command = scaled.stk(&home, &args);
            // A processor that was killed is missed earlier than by default.
            command.env("STK_LOG_KAFKA_PROPERTIES", "session.timeout.ms=6000");
            command
        }
    };
    let mut feed = Process::start("feed", home.path("feed"), serve("feed", &["--ingest-listen", &ingest]));
    let mut processors = [
        Process::start("processor", home.path("one"), serve("processor", &[])),
        Process::start("processor", home.path("two"), serve("processor", &[])),
    ];
    let mut gateway = Process::start("gateway", home.path("gateway"), serve("gateway", &[]));
    let today = Arc::new(AtomicU64::new(1));
    let archive = {
        let (scaled, home, today) = (scaled.clone(), home.clone(), today.clone());
        move || {
            let before = day(today.load(Ordering::Acquire)).to_string();
            let mut command = scaled.stk(&home, &["archive", "run", "--before", &before]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        }
    };
    let archiving = Archiving::start(archive.clone());

    let endpoint: stk::client::Endpoint = ingest.parse().expect("an address");
    let client = loop {
        match IngestClient::connect(endpoint.clone(), PRODUCER, 0, u32::MAX).await {
            Ok(client) => break client,
            Err(error) => {
                feed.keep();
                assert!(feed.ended == 0, "{error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let enough = Arc::new(AtomicBool::new(false));
    let producer = tokio::spawn(bring(client, today.clone(), enough.clone()));

    let mut rows: BTreeMap<&str, Row> = TARGETS
        .into_iter()
        .map(|target| {
            let row = Row::new(format!("at random, {target}"));
            (target, if target == "archiver" { row.archives() } else { row })
        })
        .collect();
    let mut random = SplitMix64::seed_from_u64(seed());
    let (kills, mut left) = (random_kills(), Vec::new());
    for kill in 0..kills {
        today.store(1 + kill / KILLS_OF_DAY, Ordering::Release);
        tokio::time::sleep(Duration::from_millis(random.next_u64() % PAUSE_MS_MAX)).await;
        if left.is_empty() {
            left = TARGETS.to_vec();
        }
        let target = left.swap_remove((random.next_u64() % left.len() as u64) as usize);
        match target {
            "processor" => {
                let processor = &mut processors[(random.next_u64() % 2) as usize];
                processor.kill();
                processor.start_again();
            }
            "feed" => {
                feed.kill();
                feed.start_again();
            }
            "archiver" => {
                while !archiving.kill() {
                    archiving.begun.notified().await;
                }
            }
            name => {
                services.kill(name);
                tokio::time::sleep(Duration::from_millis(random.next_u64() % 1_000)).await;
                services.start(name);
            }
        }
        if let Some(row) = rows.get_mut(target) {
            row.killed();
        }
        for process in processors.iter_mut().chain([&mut feed, &mut gateway]) {
            process.keep();
        }
        assert!(!producer.is_finished(), "the producer has ended");
    }

    // In the end everything is brought, taken in, and in the archive.
    enough.store(true, Ordering::Release);
    let mut producer = producer;
    let ticks = loop {
        match tokio::time::timeout(Duration::from_secs(1), &mut producer).await {
            Ok(ticks) => break ticks.expect("no panic"),
            Err(_) => feed.keep(),
        }
    };
    let ended: Vec<String> = processors
        .iter()
        .chain([&feed, &gateway])
        .filter(|process| process.ended > 0)
        .map(|process| format!("{} {} times", process.name, process.ended))
        .collect();
    let finished = archiving.finished();
    drop(archiving);
    processors.iter_mut().for_each(Process::kill);
    let mut last = serve("processor", &[])();
    last.env("STK_LOG_KAFKA_GROUP", format!("{}-last", scaled.name()));
    let (code, said) = Server::run(last, false).drained();
    assert_eq!(code, Some(0), "{said:#?}");
    let run = |args: &[&str]| {
        let output = scaled.stk(&home, args).output().expect("the binary runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let before = day(today.load(Ordering::Acquire) + 1).to_string();
    run(&["archive", "run", "--before", &before]);
    let scrub: serde_json::Value =
        serde_json::from_str(&run(&["archive", "verify", "--restart", "--json"])).expect("JSON");
    assert_eq!((&scrub["is_finished"], &scrub["faults_found"]), (&true.into(), &0.into()), "{scrub}");

    let counts = stored(&scaled.config()).await;
    let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
    ticks.iter().for_each(|tick| *expected.entry(hash(tick)).or_insert(0) += 1);
    let more = |these: &BTreeMap<u64, u64>, than: &BTreeMap<u64, u64>| -> u64 {
        these.iter().map(|(tick, count)| count.saturating_sub(*than.get(tick).unwrap_or(&0))).sum()
    };
    let (lost, doubled) = (more(&expected, &counts), more(&counts, &expected));
    for row in rows.values_mut() {
        row.counted(lost, doubled);
    }
    if let Some(row) = rows.get_mut("archiver") {
        row.all_finished();
    }
    let (_, cost) = digests(&scaled.config()).await;
    eprintln!(
        "{kills} kills under load: {} ticks accepted, {lost} lost, {doubled} doubled; {finished} archive runs \
         finished meanwhile; ended by themselves: {ended:?}",
        ticks.len()
    );
    assert_eq!((lost, doubled), (0, 0), "of {} ticks after {kills} kills", ticks.len());
    assert!(cost.archive.files_read > 0, "read from the archive: {cost:?}");
    assert!(ticks.len() as u64 > 20 * kills, "only {} ticks went through", ticks.len());
}
