//! Random histories of an installation on Kafka, ClickHouse, Redis and S3, of which one service is copied, put
//! back, emptied or exchanged for another, with `stk` stopped or running. After every step each acknowledged row
//! that some store must still hold is in exactly one answer, of the server and of `stk history` alike. An answer
//! that lacks a row of the timeline says so. Every refusal names a way on, which is followed.
//!
//! The oracle knows which batches were acknowledged, and which of them the log, warm and the archive hold for sure.
//! It knows nothing about how `stk` stores them. A copy of a service takes the oracle's knowledge of it along.
//!
//! The variables are those of [`super::histories`]. `scripts/backup-matrix --with SERVICE` runs many and prints a
//! table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use serde_json::Value;
use stk::bus::Bus;
use stk::bus::kafka::{KafkaBus, KafkaBusConfig};
use stk::fail::FAIL_POINTS;
use stk::market::Tick;

use super::histories::{BATCH_ROWS, DAYS, PRODUCERS, SYMBOLS, copy_dir, number, numbers, trade};
use super::histories_ground::{Archive, Ground, Log, Names, Tally, Warm, With};
use super::scaled::Scaled;
use super::support::{self, Home, Server};
use super::whole::delete_topic;

const PARTITIONS: u16 = 2;
/// A server says this of a topic that was deleted, and waits for it.
const ABSENT: &str = "the topic was deleted. Put back";
/// A server says this of a topic that is not the one that it has opened.
const CHANGED: &str = "start the server again, which says how to continue";
/// What a server says that can't continue beside what became of a service: each names what to do.
const WAYS_ON: &[&str] = &[
    ABSENT,
    CHANGED,
    "Put the database back from a backup, or restart",
    "set archive.url to where they went",
    "begin with a new topic",
    "warm.clickhouse_database",
];
/// Steps of a history in CI: the first ones of the same history in the matrix.
const STEPS_IN_CI: usize = 4;
const COPIES_MAX: usize = 3;
/// Rows of another installation on the same services have numbers from here on.
const FOREIGN_FIRST: u64 = 1_000_000;
/// How long a store that was put back may take until answers are right again.
const SETTLES_WITHIN: Duration = Duration::from_mins(1);

/// Whether a running server says that it waits for somebody to do something.
fn has_given_up(said: &str) -> bool {
    said.contains(ABSENT) || said.contains(CHANGED)
}

/// A copy of the service's state, with what the oracle knew of it then.
#[derive(Clone)]
struct Copied {
    /// A directory, or a bucket.
    place: String,
    logs: BTreeMap<String, Log>,
    warms: BTreeMap<String, Warm>,
    archive: Archive,
}

/// The processes of `stk`: one with all roles, or one for each.
struct Plant {
    servers: Vec<Server>,
}

impl Plant {
    fn feed(&self) -> &Server {
        &self.servers[0]
    }

    fn gateway(&self) -> &Server {
        self.servers.last().expect("there is one")
    }

    /// Ends all of them, whatever they say of it.
    fn stop(self) {
        drop(self.last_words());
    }

    /// Ends those that still run: what all of them have said.
    fn last_words(self) -> String {
        let said = self.servers.into_iter().flat_map(|server| server.stop().1);
        said.collect::<Vec<String>>().join("\n")
    }
}

/// An answer about all trades.
#[derive(PartialEq, Debug)]
struct Answer {
    /// How often each row is in it.
    rows: BTreeMap<u64, usize>,
    is_complete: bool,
}

struct History<'a> {
    ground: &'a Ground,
    home: Home,
    scaled: Scaled,
    names: Names,
    random: SplitMix64,
    logs: BTreeMap<String, Log>,
    warms: BTreeMap<String, Warm>,
    archives: BTreeMap<String, Archive>,
    copies: Vec<Copied>,
    /// The service as it was before it was put back or emptied, the last time last.
    asides: Vec<Copied>,
    /// What the configuration named before the service was exchanged.
    exchanged_from: Option<String>,
    /// Day of each row.
    days: BTreeMap<u64, usize>,
    next_row: u64,
    next_numbers: [u64; PRODUCERS],
    made: usize,
    groups: usize,
    /// Something happened since the last start: a refusal may follow.
    is_disturbed: bool,
    /// Records or rows were lost for good, so that the last prices may be of lost rows.
    has_lost: bool,
    skips_expired: bool,
    began: Instant,
    steps: Vec<String>,
    tally: Tally,
}

impl<'a> History<'a> {
    fn new(ground: &'a Ground, seed: u64) -> Self {
        let scaled = Scaled::on(PARTITIONS, |name| ground.address(name)).expect("they are there");
        Self {
            names: Names::of(scaled.name()),
            ground,
            home: Home::new(),
            scaled,
            random: SplitMix64::seed_from_u64(seed),
            logs: BTreeMap::new(),
            warms: BTreeMap::new(),
            archives: BTreeMap::new(),
            copies: Vec::new(),
            asides: Vec::new(),
            exchanged_from: None,
            days: BTreeMap::new(),
            next_row: 0,
            next_numbers: [0; PRODUCERS],
            made: 0,
            groups: 0,
            is_disturbed: false,
            has_lost: false,
            skips_expired: false,
            began: Instant::now(),
            steps: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Another installation, with rows in all of its stores.
    fn other(&self) -> &'a Names {
        self.ground.other.get_or_init(|| {
            let mut history = History::new(self.ground, 0);
            history.next_row = FOREIGN_FIRST;
            let plant = history.serve();
            history.write(&plant);
            history.end(plant, true);
            history.run_archive();
            history.names
        })
    }

    fn below(&mut self, end: usize) -> usize {
        (self.random.next_u64() % end as u64) as usize
    }

    fn said(&mut self, step: impl Into<String>) {
        let step = format!("{:.1} s: {}", self.began.elapsed().as_secs_f64(), step.into());
        if std::env::var_os("STK_TEST_HISTORY_STEPS").is_some() {
            eprintln!("{step}");
        }
        self.steps.push(step);
    }

    fn fail(&self, what: &str) -> ! {
        panic!("{what}\nwith {:?}\nafter these steps: {:#?}", self.names, self.steps);
    }

    fn log(&mut self) -> &mut Log {
        self.logs.entry(self.names.topic.clone()).or_default()
    }

    fn warm(&mut self) -> &mut Warm {
        self.warms.entry(self.names.database.clone()).or_default()
    }

    fn archive(&mut self) -> &mut Archive {
        self.archives.entry(self.names.bucket.clone()).or_default()
    }

    /// Batches that are in warm, or in the archive.
    fn moved(&mut self) -> &mut BTreeSet<u64> {
        let bucket = self.names.bucket.clone();
        self.warm().moved.entry(bucket).or_default()
    }

    /// A name that nothing had before.
    fn fresh(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{}{what}{}", self.scaled.name(), self.made)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.scaled.stk(&self.home, args);
        let Names { topic, database, prefix, bucket } = &self.names;
        command.env("STK_LOG_KAFKA_TOPIC", topic).env("STK_WARM_CLICKHOUSE_DATABASE", database);
        command.env("STK_HOT_REDIS_PREFIX", prefix).env("STK_ARCHIVE_URL", format!("s3://{bucket}/days"));
        command.env("STK_LOG_KAFKA_GROUP", format!("{}-{}", self.scaled.name(), self.groups));
        command.env("STK_WARM_KEEP_DAYS", "36600");
        if self.skips_expired {
            command.env("STK_PROCESSOR_EXPIRED", "skip");
        }
        command
    }

    /// Starts `stk`. Follows what it says where it refuses to start.
    fn serve(&mut self) -> Plant {
        if self.below(3) == 0 {
            self.ask_offline();
        }
        let mut refusals = 0;
        loop {
            self.tally.starts += 1;
            let said = match self.try_serve() {
                Ok(plant) => {
                    self.skips_expired = false;
                    match self.check(&plant) {
                        Ok(()) => {
                            self.is_disturbed = false;
                            return plant;
                        }
                        Err(said) => {
                            plant.stop();
                            said
                        }
                    }
                }
                Err(said) => said,
            };
            refusals += 1;
            self.refused("serve", &said);
            if !self.may_refuse() || refusals > 6 {
                self.fail(&format!("the server does not start: {said}"));
            }
            self.follow(&said);
        }
    }

    fn try_serve(&mut self) -> Result<Plant, String> {
        let roles: &[&str] = match self.below(4) {
            0 => &["feed", "processor", "gateway"],
            _ => &["feed,processor,gateway"],
        };
        let mut plant = Plant { servers: Vec::new() };
        for roles in roles {
            let mut args = vec!["serve", "--roles", roles, "--listen", "127.0.0.1:0"];
            let is_feed = roles.contains("feed");
            if is_feed {
                args.extend(["--ingest-listen", "127.0.0.1:0"]);
            }
            match Server::started(self.command(&args), is_feed) {
                Ok(server) => plant.servers.push(server),
                Err(said) => {
                    plant.stop();
                    return Err(said.join("\n"));
                }
            }
        }
        self.await_ready(plant)
    }

    /// Waits until all processes are ready, or one has ended: what it said.
    fn await_ready(&mut self, mut plant: Plant) -> Result<Plant, String> {
        let since = Instant::now();
        let mut at = 0;
        let mut last = String::new();
        while at < plant.servers.len() {
            let url = format!("http://{}/readyz", plant.servers[at].address);
            match self.ground.get(&url) {
                Err(_) => {
                    let (_, said) = plant.servers.remove(at).ended();
                    plant.stop();
                    return Err(said.join("\n"));
                }
                Ok((200, _)) => at += 1,
                Ok((_, said)) if has_given_up(&said) => {
                    plant.stop();
                    return Err(said);
                }
                Ok((_, said)) => {
                    last = said;
                    self.ground.wait(Duration::from_millis(20));
                }
            }
            if since.elapsed() > SETTLES_WITHIN {
                self.fail(&format!("the server does not become ready: {last}"));
            }
        }
        Ok(plant)
    }

    /// The gateway's answer, or why there is none.
    fn online(&self, plant: &Plant) -> Result<Answer, String> {
        let rows = self.ask(plant, "/v1/history?format=csv&")?;
        let coverage = self.coverage(plant)?;
        Ok(Answer { rows: numbers(&rows), is_complete: coverage["complete"] == true })
    }

    fn coverage(&self, plant: &Plant) -> Result<Value, String> {
        let coverage = self.ask(plant, "/v1/coverage?")?;
        Ok(serde_json::from_str(&coverage).expect("JSON"))
    }

    /// What the gateway answers about all trades.
    fn ask(&self, plant: &Plant, path: &str) -> Result<String, String> {
        let (address, symbols) = (&plant.gateway().address, SYMBOLS.join(","));
        let url = format!("http://{address}{path}kind=trade&symbols={symbols}");
        let since = Instant::now();
        loop {
            match self.ground.get(&url) {
                Ok((200, text)) => return Ok(text),
                Ok((429 | 503, said)) if since.elapsed() > SETTLES_WITHIN || has_given_up(&said) => {
                    return Err(said);
                }
                Ok((429 | 503, _)) => self.ground.wait(Duration::from_millis(50)),
                Ok((status, said)) => return Err(format!("{status}: {said}")),
                Err(error) => return Err(format!("no answer: {error}")),
            }
        }
    }

    /// Compares the gateway's answers with what is expected. An error is a refusal that it gave.
    fn check(&mut self, plant: &Plant) -> Result<(), String> {
        let answer = self.online(plant)?;
        self.compare(&answer, "the server");
        if !self.has_lost {
            self.check_latest(plant, &answer);
        }
        Ok(())
    }

    /// The last price of each symbol is that of the last trade in history, soon.
    fn check_latest(&self, plant: &Plant, answer: &Answer) {
        let mut expected = BTreeMap::new();
        for row in answer.rows.keys() {
            let symbol = SYMBOLS[*row as usize % SYMBOLS.len()];
            let place = (self.days.get(row), *row);
            let last = expected.entry(symbol).or_insert(place);
            *last = (*last).max(place);
        }
        let mut expected: BTreeMap<&str, u64> =
            expected.into_iter().map(|(symbol, (_, row))| (symbol, row)).collect();
        let Tally { put_back, emptied, exchanged, .. } = self.tally;
        if self.ground.with == With::Redis && put_back + emptied + exchanged > 0 {
            // Redis is filled from the log and warm then, not from the archive.
            let (log, warm) = (self.logs.get(&self.names.topic), self.warms.get(&self.names.database));
            let of_log = log.into_iter().flat_map(|log| &log.there);
            let near: BTreeSet<_> = of_log.chain(warm.into_iter().flat_map(|warm| &warm.sure)).collect();
            expected.retain(|_, row| near.contains(&(*row / BATCH_ROWS * BATCH_ROWS)));
        }
        let url = format!(
            "http://{}/v2/stocks/trades/latest?symbols={}",
            plant.gateway().address,
            SYMBOLS.join(",")
        );
        let since = Instant::now();
        loop {
            let (_, text) = self.ground.get(&url).unwrap_or_default();
            let told: Value = serde_json::from_str(&text).unwrap_or_default();
            let of = |symbol: &str| told["trades"][symbol]["i"].as_u64();
            if expected.iter().all(|(symbol, row)| of(symbol) == Some(*row)) {
                return;
            }
            if since.elapsed() > SETTLES_WITHIN {
                self.fail(&format!("the last trades are {text}, not {expected:?}"));
            }
            self.ground.wait(Duration::from_millis(100));
        }
    }

    /// Batches that have to be in an answer.
    fn must(&mut self) -> BTreeSet<u64> {
        let (there, stored) = (self.log().there.clone(), self.warm().sure.clone());
        let (moved, archived) = (self.moved().clone(), self.archive().sure.clone());
        [there, stored, moved, archived].into_iter().flatten().collect()
    }

    fn compare(&mut self, answer: &Answer, by: &str) {
        let rows = |batch: u64| batch..batch + BATCH_ROWS;
        let lacks = |batches: &BTreeSet<u64>| -> Vec<u64> {
            batches.iter().copied().flat_map(rows).filter(|row| !answer.rows.contains_key(row)).collect()
        };
        let lost = lacks(&self.must());
        if !lost.is_empty() {
            self.fail(&format!("{by} lacks rows {lost:?} (complete: {})", answer.is_complete));
        }
        let doubled: Vec<_> = answer.rows.iter().filter(|(_, count)| **count > 1).collect();
        if !doubled.is_empty() {
            self.fail(&format!("{by} has rows more than once: {doubled:?}"));
        }
        let foreign: Vec<_> = answer.rows.keys().filter(|row| !self.days.contains_key(row)).collect();
        if !foreign.is_empty() {
            self.fail(&format!("{by} has rows of another installation: {foreign:?}"));
        }
        let gone = lacks(&self.log().path.clone());
        if !gone.is_empty() {
            if answer.is_complete {
                self.fail(&format!("{by} lacks rows {gone:?}, and says nothing"));
            }
            self.tally.named += 1;
            // The last prices may be of these.
            self.has_lost = true;
        }
    }

    /// Asks `stk history` of the stores, without a server.
    fn ask_offline(&mut self) {
        let data = self.home.path("data").display().to_string();
        let mut args = vec!["history"];
        args.extend(SYMBOLS);
        args.extend(["--data", &data, "--format", "csv"]);
        let shown = self.home.shown(&mut self.command(&args));
        if shown.starts_with("exit: 0\n") {
            let (out, said) = shown
                .split_once("--- stdout\n")
                .expect("stdout")
                .1
                .split_once("--- stderr\n")
                .expect("stderr");
            let answer = Answer { rows: numbers(out), is_complete: said.contains("nothing is missing") };
            self.compare(&answer, "stk history");
        } else if !shown.contains("there is no") && !self.may_refuse() {
            self.fail(&format!("stk history is refused: {shown}"));
        }
    }

    fn refused(&mut self, what: &str, shown: &str) {
        self.tally.refusals += 1;
        let shown = shown.split_once("--- stderr\n").map_or(shown, |(_, said)| said).trim().to_owned();
        let short: String = shown.chars().rev().take(1500).collect::<Vec<_>>().into_iter().rev().collect();
        eprintln!("refused\t{what}\t{}", short.replace('\n', " | "));
        self.said(format!("{what} is refused: {short}"));
    }

    /// Whether what happened to the service may be more than `stk` mends by itself.
    fn may_refuse(&self) -> bool {
        let Tally { put_back, emptied, exchanged, trims, .. } = &self.tally;
        match self.ground.with {
            With::Kafka | With::S3 => put_back + emptied + exchanged > 0,
            // The log has all, unless it was trimmed.
            With::ClickHouse => *exchanged > 0 || (*trims > 0 && put_back + emptied > 0),
            With::Redis => false,
        }
    }

    /// Does what a refusal says.
    fn follow(&mut self, said: &str) {
        let is_back = self.exchanged_from.is_some();
        let is_put_back = self.below(2) == 0;
        if said.contains("processor.expired=skip") {
            self.said("expired records are skipped once");
            self.skips_expired = true;
            self.has_lost = true;
        } else if self.ground.with == With::Kafka
            && (said.contains("begin with a new topic") || said.contains("make a new topic"))
        {
            if is_back {
                self.exchange();
            } else if let Some(aside) = self.asides.pop_if(|_| is_put_back) {
                self.put_in_place(&aside);
                self.said("the log is put back as it was");
            } else {
                self.begin_anew();
            }
        } else if self.ground.with == With::Kafka && said.contains("warm.clickhouse_database") {
            if is_back {
                self.exchange();
            } else {
                self.names.database = self.fresh("d");
                // Until it has rows, the old archive is answered, and nobody knows its last prices.
                self.has_lost = true;
                // Then it is another log's archive, which answers say that they lack.
                self.archives.remove(&self.names.bucket);
                self.said("a new database");
            }
        } else if is_back && self.ground.with == With::ClickHouse && said.contains("warm.clickhouse_database")
        {
            self.exchange();
        } else if self.ground.with == With::S3 && said.contains("archive.url") {
            if is_back {
                self.exchange();
            } else if let Some(aside) = self.asides.pop() {
                self.said(format!("archive.url names the copy {}", aside.place));
                self.names.bucket.clone_from(&aside.place);
                self.archives.insert(aside.place, aside.archive);
            } else {
                self.fail(&format!("a refusal without a way on: {said}"));
            }
        } else {
            self.fail(&format!("a refusal without a way on: {said}"));
        }
    }

    /// A new topic, database, bucket and prefix. The old days stay where they are.
    fn begin_anew(&mut self) {
        let held: BTreeSet<u64> = self.warm().sure.clone();
        let database = self.names.database.clone();
        let stored = self.ground.sql(&format!("SELECT id FROM {database}.trades FORMAT TSV"));
        let stored: BTreeSet<u64> = stored.lines().filter_map(|line| line.parse().ok()).collect();
        let gone: Vec<_> = held.iter().filter(|batch| !stored.contains(batch)).collect();
        if !gone.is_empty() {
            self.fail(&format!("the old database lacks batches {gone:?}"));
        }
        let id = self.fresh("n");
        self.names = Names { prefix: self.names.prefix.clone(), ..Names::of(&id) };
        self.ground.empty_bucket(&self.names.bucket.clone());
        self.copies.clear();
        self.asides.clear();
        self.exchanged_from = None;
        self.days.clear();
        self.has_lost = false;
        self.said(format!("a new installation: {:?}", self.names));
    }

    fn write(&mut self, plant: &Plant) {
        for _ in 0..=self.below(2) {
            if let Err(said) = self.write_one(plant) {
                self.fail(&format!("a batch is not taken: {said}"));
            }
        }
        if let Err(said) = self.check(plant) {
            self.fail(&format!("the server does not answer: {said}"));
        }
    }

    fn write_one(&mut self, plant: &Plant) -> Result<(), String> {
        let (batch, producer) = (self.next_row, self.below(PRODUCERS));
        self.next_row += BATCH_ROWS;
        let (first, days) = (self.below(DAYS.len()), 1 + self.below(2));
        let day = |row: u64| (first + row as usize % days) % DAYS.len();
        let rows = batch..batch + BATCH_ROWS;
        let ticks: Vec<Tick> = rows.clone().map(|row| trade(row, DAYS[day(row)])).collect();
        self.days.extend(rows.map(|row| (row, day(row))));
        let sequence = self.next_numbers[producer];
        self.next_numbers[producer] += 1;
        let sent = self.ground.runtime.block_on(async {
            let endpoint = plant.feed().ingest.parse().expect("an address");
            let id = FOREIGN_FIRST + 1 + producer as u64;
            let sending = async {
                let mut client =
                    stk::client::ingest::IngestClient::connect(endpoint, id, sequence, 0).await?;
                client.send(&ticks).await?;
                client.flush().await
            };
            match tokio::time::timeout(SETTLES_WITHIN, sending).await {
                Ok(sent) => sent.map_err(|error| error.to_string()),
                Err(_) => Err("no acknowledgement".to_owned()),
            }
        });
        self.said(format!("batch {batch} of days {first}+{days}: {sent:?}"));
        sent?;
        let log = self.log();
        log.path.insert(batch);
        log.there.insert(batch);
        self.tally.acknowledged += BATCH_ROWS;
        Ok(())
    }

    /// Ends `stk`, once all is in warm or at once.
    fn end(&mut self, plant: Plant, is_orderly: bool) {
        if !is_orderly {
            plant.servers.into_iter().for_each(Server::kill);
            self.groups += 1;
            self.said("the server is killed");
            return;
        }
        if self.coverage(&plant).is_ok_and(|coverage| coverage["broken"] != Value::Array(Vec::new())) {
            // Answers say that the stores do not belong together; the next start says how to continue.
            self.said("the server is stopped, and says that stores do not belong together");
            self.tally.named += 1;
            self.is_disturbed = true;
            plant.stop();
            return;
        }
        let since = Instant::now();
        let is_stored = |coverage: &Value| {
            let mut parts = coverage["partitions"].as_array().into_iter().flatten();
            parts.all(|part| part["warm_next_offset"] == part["log_next_offset"])
        };
        loop {
            match self.coverage(&plant) {
                Ok(coverage) if is_stored(&coverage) => break,
                // It has noticed only now what happened to the service.
                Err(said) if self.may_refuse() && said.starts_with("no answer") => {
                    self.refused_while_running(&said, plant);
                    self.is_disturbed = true;
                    return;
                }
                _ => {}
            }
            if since.elapsed() > SETTLES_WITHIN {
                self.fail("warm does not take in all");
            }
            self.ground.wait(Duration::from_millis(50));
        }
        for server in plant.servers {
            let (code, said) = server.stop();
            if code != Some(0) {
                self.fail(&format!("the server does not end: {said:#?}"));
            }
        }
        // What warm has dropped it does not take in again, though the log still has it.
        let there = &self.log().there.clone() - self.moved();
        self.warm().sure.extend(there);
        self.said("the server is stopped");
    }

    fn run_archive(&mut self) {
        let mut command = self.command(&["archive", "run"]);
        let is_dropping = self.below(2) == 0;
        if is_dropping {
            command.env("STK_WARM_KEEP_DAYS", "1");
        }
        let mut what = format!("archive run, dropping: {is_dropping}");
        if self.below(3) == 0 {
            let points: Vec<_> = FAIL_POINTS.iter().filter(|point| point.starts_with("archive.")).collect();
            let point = format!("{}:{}", points[self.below(points.len())], 1 + self.below(3));
            what = format!("{what}, killed at {point}");
            command.env("STK_FAIL_POINT", point);
        }
        let shown = self.home.shown(&mut command);
        self.said(what);
        let is_killed = shown.starts_with("exit: signal\n");
        let is_done = shown.starts_with("exit: 0\n");
        if is_killed {
            self.tally.killed_runs += 1;
        } else if !is_done {
            self.refused("archive run", &shown);
        }
        // Whatever came of it, some days may have been dropped.
        let sure = self.warm().sure.clone();
        if is_dropping {
            self.moved().extend(sure.iter().copied());
            self.warm().sure.clear();
        }
        let archive = self.archive();
        if is_done && !archive.is_unfinished {
            archive.sure.extend(sure);
        }
        archive.is_unfinished = !is_done;
        if !is_killed && !is_done && !shown.contains("there is no") {
            if !self.may_refuse() {
                self.fail(&format!("the archive takes nothing: {shown}"));
            }
            self.follow_run(&shown);
        }
    }

    /// Does what a refused archive run says.
    fn follow_run(&mut self, shown: &str) {
        if self.ground.with == With::S3 && (shown.contains("archive.url") || shown.contains("archive copy")) {
            if self.exchanged_from.is_some() {
                self.exchange();
            } else if let Some(aside) = self.asides.pop() {
                self.said(format!("archive.url names the copy {}", aside.place));
                self.names.bucket.clone_from(&aside.place);
                self.archives.insert(aside.place, aside.archive);
            } else {
                self.fail(&format!("a refusal without a way on: {shown}"));
            }
        } else if shown.contains("begin with a new topic")
            || shown.contains("make a new topic")
            || shown.contains("warm.clickhouse_database")
        {
            self.follow(shown);
        } else if self.ground.with == With::Kafka && shown.contains("archive.url") {
            let bucket = self.fresh("b");
            self.ground.empty_bucket(&bucket);
            self.said(format!("archive.url names the new bucket {bucket}"));
            self.names.bucket = bucket;
        } else {
            self.fail(&format!("a refusal without a way on: {shown}"));
        }
    }

    /// What is copied of the service now.
    fn present(&mut self, place: String) -> Copied {
        let archive = self.archive().clone();
        Copied { place, logs: self.logs.clone(), warms: self.warms.clone(), archive }
    }

    fn data(&self) -> PathBuf {
        self.ground.own.path(&format!("{}/data", self.ground.with.name()))
    }

    /// A copy of the service, which a server that is copied is stopped for.
    fn copied(&mut self) -> Copied {
        let with = self.ground.with;
        if with == With::S3 {
            let place = self.fresh("c");
            self.ground.copy_bucket(&self.names.bucket, &place);
            let names = self.names.clone();
            // What is in warm or in the bucket is in warm or in the copy.
            for warm in self.warms.values_mut() {
                let moved = warm.moved.get(&names.bucket).cloned().unwrap_or_default();
                warm.moved.insert(place.clone(), moved);
            }
            return self.present(place);
        }
        self.made += 1;
        let to = self.home.path(&format!("copy-{}", self.made));
        self.ground.own.kill(with.name());
        copy_dir(&self.data(), &to);
        self.ground.own.start(with.name());
        self.present(to.display().to_string())
    }

    fn copy(&mut self) {
        let copied = self.copied();
        if self.copies.len() == COPIES_MAX {
            let old = self.below(COPIES_MAX);
            self.copies.remove(old);
        }
        self.said(format!("copied to {}", copied.place));
        self.copies.push(copied);
    }

    /// The service's state becomes that of a copy.
    fn put_in_place(&mut self, copied: &Copied) {
        let with = self.ground.with;
        if with == With::S3 {
            let bucket = self.names.bucket.clone();
            self.ground.copy_bucket(&copied.place, &bucket);
            self.forget_moved(&bucket);
            self.archives.insert(bucket, copied.archive.clone());
        } else {
            self.ground.own.kill(with.name());
            std::fs::remove_dir_all(self.data()).expect("it is there");
            copy_dir(Path::new(&copied.place), &self.data());
            self.ground.own.start(with.name());
            self.groups += 1;
            match with {
                With::Kafka => self.logs.clone_from(&copied.logs),
                With::ClickHouse => self.warms.clone_from(&copied.warms),
                With::Redis | With::S3 => {}
            }
        }
        self.is_disturbed = true;
    }

    /// Days that warm has dropped may be in no bucket of that name any more.
    fn forget_moved(&mut self, bucket: &str) {
        for warm in self.warms.values_mut() {
            warm.moved.remove(bucket);
        }
    }

    fn put_back(&mut self) {
        if self.copies.is_empty() {
            return;
        }
        let at = self.below(self.copies.len());
        let copied = self.copies[at].clone();
        self.said(format!("{} is put back", copied.place));
        if matches!(self.ground.with, With::Kafka | With::S3) {
            let aside = self.copied();
            self.asides.push(aside);
        }
        let path = self.log().path.clone();
        self.put_in_place(&copied);
        let lost = path.difference(&self.log().path).count() as u64;
        self.tally.forgotten += lost;
        self.has_lost |= lost > 0;
        self.tally.put_back += 1;
    }

    fn empty(&mut self) {
        self.tally.emptied += 1;
        self.is_disturbed = true;
        self.said(format!("{:?} is emptied", self.ground.with));
        match self.ground.with {
            With::Kafka => {
                if !self.logs.contains_key(&self.names.topic) {
                    return;
                }
                let aside = self.copied();
                self.asides.push(aside);
                let brokers = self.ground.address("KAFKA").expect("it is there");
                self.ground.runtime.block_on(delete_topic(&brokers, &self.names.topic));
                self.logs.remove(&self.names.topic);
                self.groups += 1;
            }
            With::ClickHouse => {
                self.ground.sql(&format!("DROP DATABASE IF EXISTS {} SYNC", self.names.database));
                self.warms.remove(&self.names.database);
            }
            With::Redis => self.ground.redis("FLUSHALL"),
            With::S3 => {
                let aside = self.copied();
                self.asides.push(aside);
                let bucket = self.names.bucket.clone();
                self.ground.empty_bucket(&bucket);
                self.forget_moved(&bucket);
                self.archives.remove(&bucket);
            }
        }
    }

    /// The configuration names another place, of another installation or empty; or the former one again.
    fn exchange(&mut self) {
        let with = self.ground.with;
        self.is_disturbed = true;
        self.groups += 1;
        if let Some(former) = self.exchanged_from.take() {
            self.said(format!("{with:?} is {former} again"));
            *self.names.of_mut(with) = former;
            return;
        }
        let to = if self.below(2) == 0 {
            self.other().clone().of_mut(with).clone()
        } else {
            let id = self.fresh("x");
            let to = Names::of(&id).of_mut(with).clone();
            if with == With::S3 {
                self.ground.empty_bucket(&to);
            }
            to
        };
        self.tally.exchanged += 1;
        self.said(format!("{with:?} is exchanged for {to}"));
        self.exchanged_from = Some(std::mem::replace(self.names.of_mut(with), to));
    }

    /// Retention drops what is in warm from the log.
    fn trim(&mut self) {
        // Nobody drops what no processor has stored.
        let plant = self.serve();
        self.end(plant, true);
        let brokers = self.ground.address("KAFKA").expect("it is there");
        let retention = stk::bus::local::Retention { age: Duration::ZERO, bytes: 0 };
        let config =
            KafkaBusConfig { retention, ..KafkaBusConfig::new(brokers, &self.names.topic, PARTITIONS) };
        self.ground.runtime.block_on(async {
            let bus = KafkaBus::open_existing(config).await.expect("it is there");
            let since = Instant::now();
            for partition in 0..PARTITIONS {
                bus.release(partition, bus.bounds(partition).await.expect("bounds").next);
            }
            // A record of this millisecond counts as young.
            loop {
                bus.trim().await.expect("trimmed");
                let mut is_empty = true;
                for partition in 0..PARTITIONS {
                    let bounds = bus.bounds(partition).await.expect("bounds");
                    is_empty &= bounds.first == bounds.next;
                }
                if is_empty {
                    break;
                }
                assert!(since.elapsed() < SETTLES_WITHIN, "the topic is not trimmed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            bus.close(Duration::from_secs(30)).await;
        });
        self.log().there.clear();
        self.tally.trims += 1;
        self.said("the log is trimmed");
    }

    /// Something happens to the service while `stk` runs.
    fn disturb(&mut self, plant: Plant) -> Option<Plant> {
        self.said("while the server runs:");
        match self.below(3) {
            0 => {
                self.copy();
                self.is_disturbed = true;
            }
            1 => self.put_back(),
            _ => self.empty(),
        }
        // It goes on, or ends and says why.
        match self.await_ready(plant) {
            Ok(plant) => match self.check(&plant) {
                Ok(()) => Some(plant),
                Err(said) => self.refused_while_running(&said, plant),
            },
            Err(said) => self.refused_while_running(&said, Plant { servers: Vec::new() }),
        }
    }

    /// A running server that can't continue has to name a way on, too, in an answer or as it ends. The next start shows
    /// which one works. No plant is left.
    fn refused_while_running(&mut self, answer: &str, plant: Plant) -> Option<Plant> {
        let said = format!("{answer}\n{}", plant.last_words());
        self.refused("the running server", &said);
        if !WAYS_ON.iter().any(|way| said.contains(way)) {
            self.fail(&format!("a refusal without a way on: {said}"));
        }
        None
    }

    fn step(&mut self) {
        self.tally.steps += 1;
        match self.below(16) {
            0..6 => {
                let plant = self.serve();
                self.write(&plant);
                let plant = if self.below(2) == 0 { self.disturb(plant) } else { Some(plant) };
                let Some(plant) = plant else { return };
                if self.below(2) == 0 && self.write_one(&plant).is_err() {
                    // It has to say why to the next one.
                    self.is_disturbed = true;
                    plant.stop();
                    return;
                }
                let is_orderly = self.below(2) == 0;
                self.end(plant, is_orderly);
            }
            6..9 => {
                if !self.warm().sure.is_empty() {
                    self.run_archive();
                }
            }
            9 => self.trim(),
            10 => self.copy(),
            11..14 => self.put_back(),
            14 => self.empty(),
            _ => self.exchange(),
        }
    }

    fn live(mut self, steps_max: usize) -> Tally {
        let plant = self.serve();
        self.write(&plant);
        self.end(plant, true);
        if self.below(2) == 0 {
            self.run_archive();
        }
        self.copy();
        let steps = 5 + self.below(6);
        for _ in 0..steps.min(steps_max) {
            self.step();
        }
        // It takes rows, archives them and answers with all there is.
        let plant = self.serve();
        self.write(&plant);
        self.end(plant, true);
        self.run_archive();
        let plant = self.serve();
        plant.stop();
        let database = self.names.database.clone();
        self.ground.sql(&format!("DROP DATABASE IF EXISTS {database}"));
        self.tally
    }
}

fn every_row_of_the_surviving_timeline_is_answered_once(with: With, histories_in_ci: std::ops::Range<u64>) {
    let Some(ground) = Ground::new(with) else { return };
    let first = number("STK_TEST_HISTORY_SEED").unwrap_or(histories_in_ci.start);
    let asked = number("STK_TEST_HISTORIES");
    let count = asked.unwrap_or(histories_in_ci.end - histories_in_ci.start);
    let steps_max = asked.map_or(STEPS_IN_CI, |_| usize::MAX);
    let ground = std::panic::AssertUnwindSafe(&ground);
    // They share the services.
    support::live_histories(first..first + count, 1, 11, move |seed| {
        History::new(*ground, seed).live(steps_max).to_string()
    });
}

#[test]
fn with_kafka_put_back_emptied_or_exchanged() {
    every_row_of_the_surviving_timeline_is_answered_once(With::Kafka, 1..2);
}

#[test]
fn with_clickhouse_put_back_emptied_or_exchanged() {
    every_row_of_the_surviving_timeline_is_answered_once(With::ClickHouse, 1..2);
}

#[test]
fn with_redis_put_back_emptied_or_exchanged() {
    every_row_of_the_surviving_timeline_is_answered_once(With::Redis, 1..2);
}

#[test]
fn with_s3_put_back_emptied_or_exchanged() {
    every_row_of_the_surviving_timeline_is_answered_once(With::S3, 1..2);
}
