//! Random histories of an installation on one machine: rows are written, archived, dropped from warm, the
//! data directory is copied, put back, cloned, partly lost, and servers and archive runs are killed. After
//! every step each acknowledged row of the timeline that survives is in exactly one answer, of a server
//! and of `stk history --data` alike, and rows that a restored store is known to lack are named.
//!
//! The oracle keeps one list for each data directory: the batches whose places in the log are used, in
//! order. Two lists that begin alike are one timeline up to where they differ. It knows where a batch was
//! for sure (in the log, in warm, in the archive), and nothing about how `stk` stores it.
//!
//! `STK_TEST_HISTORIES` says how many histories there are, `STK_TEST_HISTORY_SEED` repeats one, and
//! `STK_TEST_HISTORY_KEEP` names a directory for the files of one that fails. `scripts/backup-matrix` runs many
//! and prints a table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use stk::fail::FAIL_POINTS;
use stk::market::{Conditions, Exchange, Tape, Tick, Trade};

use super::support::{self, Home, Server};

/// Histories in CI, which take the seeds from 1 on.
const HISTORIES_IN_CI: u64 = 3;
pub(crate) const BATCH_ROWS: u64 = 12;
const PARTITIONS: usize = 2;
const COPIES_MAX: usize = 3;
pub(crate) const PRODUCERS: usize = 3;
/// Days of the trades, all long closed.
pub(crate) const DAYS: [&str; 4] = ["2025-03-03", "2025-03-04", "2025-03-05", "2025-03-06"];
pub(crate) const SYMBOLS: [&str; 6] = ["SA", "SB", "SC", "SD", "SE", "SF"];

/// By partition.
type Offsets = [u64; PARTITIONS];

/// A batch, by the number of its first row, and the offsets after its records, one in each partition.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Place {
    batch: u64,
    to: Offsets,
    /// Which opening of a log skipped its offsets, since an archive has rows with them; 0 where the log wrote
    /// them.
    skipped: u64,
}

/// How an archive relates to a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Relation {
    /// The archive's rows are the log's own, or their offsets are skipped.
    Fits,
    /// The archive has further rows, at whose offsets the log has none.
    Ahead,
    /// Both have used the same offsets, after so many places that they share.
    Parted(usize),
}

/// What the oracle knows of a data directory.
#[derive(Clone, Default)]
struct Held {
    /// Batches whose places in the log are used or skipped, in order.
    path: Vec<Place>,
    /// Batches in the log.
    log: BTreeSet<u64>,
    /// Batches that are in warm, or were dropped from it since the archive has them.
    warm: BTreeSet<u64>,
    /// Batches that may be in warm.
    warm_may: BTreeSet<u64>,
    /// The log was lost while warm may have lagged behind it: the path has to be learned again.
    is_unsure: bool,
}

/// What the oracle knows of an archive.
#[derive(Clone, Default)]
pub(crate) struct Archive {
    /// The path of the log as far as `log.json` says that rows may be archived.
    path: Vec<Place>,
    /// The offsets below which rows may be archived.
    reached: Offsets,
    /// Batches that are archived for sure.
    sure: BTreeSet<u64>,
}

#[derive(Clone)]
struct Dir {
    data: PathBuf,
    held: Held,
    /// Its archive, by number.
    archive: usize,
}

fn common(one: &[Place], other: &[Place]) -> usize {
    let is_same = |one: &Place, other: &Place| one.batch == other.batch && one.skipped == other.skipped;
    one.iter().zip(other).take_while(|(one, other)| is_same(one, other)).count()
}

fn relation(log: &[Place], archive: &[Place]) -> Relation {
    let shared = common(log, archive);
    let Some(reached) = archive[shared..].last().map(|place| place.to) else { return Relation::Fits };
    let is_below = |place: &Place| place.to.iter().zip(reached).any(|(to, reached)| to - 1 < reached);
    let own = &log[shared..];
    if own.iter().any(|place| place.skipped == 0 && is_below(place)) {
        return Relation::Parted(shared);
    }
    let end = own.last().map_or([0; PARTITIONS], |place| place.to);
    let is_passed = end.iter().zip(reached).all(|(end, reached)| *end >= reached);
    if is_passed { Relation::Fits } else { Relation::Ahead }
}

/// What an answer about all trades says.
#[derive(PartialEq, Debug)]
struct Answer {
    /// How often each row is in it.
    rows: BTreeMap<u64, usize>,
    is_complete: bool,
}

pub(crate) struct History {
    home: Home,
    random: SplitMix64,
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    dir: Dir,
    copies: Vec<Dir>,
    archives: Vec<Archive>,
    next_row: u64,
    next_numbers: [u64; PRODUCERS],
    dirs_made: usize,
    is_skipping_expired: bool,
    /// Openings of logs that skipped offsets.
    skips: u64,
    /// What was done, for whoever reads about a failure.
    steps: Vec<String>,
    pub(crate) tally: Tally,
}

/// A line of the table.
#[derive(Default)]
pub(crate) struct Tally {
    steps: u64,
    starts: u64,
    acknowledged: u64,
    put_back: u64,
    clones: u64,
    lost_parts: u64,
    pub(crate) killed_runs: u64,
    refusals: u64,
    /// Answers that lacked rows and said so.
    named: u64,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { steps, starts, acknowledged, put_back, clones, lost_parts, .. } = self;
        write!(f, "{steps}\t{starts}\t{acknowledged}\t{put_back}\t{clones}\t{lost_parts}\t")?;
        let Self { killed_runs, refusals, named, .. } = self;
        write!(f, "{killed_runs}\t{refusals}\t{named}")
    }
}

impl History {
    pub(crate) fn new(seed: u64) -> Self {
        let home = Home::new();
        let dir = Dir { data: home.path("data"), held: Held::default(), archive: 0 };
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            runtime: tokio::runtime::Runtime::new().expect("a runtime"),
            http: reqwest::Client::new(),
            random: SplitMix64::seed_from_u64(seed),
            home,
            dir,
            copies: Vec::new(),
            archives: vec![Archive::default()],
            next_row: 0,
            next_numbers: [0; PRODUCERS],
            dirs_made: 0,
            is_skipping_expired: false,
            skips: 0,
            steps: Vec::new(),
            tally: Tally::default(),
        }
    }

    fn below(&mut self, end: usize) -> usize {
        (self.random.next_u64() % end as u64) as usize
    }

    fn said(&mut self, step: String) {
        self.steps.push(step);
    }

    fn fail(&self, what: &str) -> ! {
        if let Ok(kept) = std::env::var("STK_TEST_HISTORY_KEEP") {
            copy_dir(&self.home.path(""), Path::new(&kept));
        }
        panic!("{what}\nafter these steps: {:#?}", self.steps);
    }

    /// The directory of the archive in use.
    pub(crate) fn archive(&self) -> PathBuf {
        self.archive_path(self.dir.archive)
    }

    fn archive_path(&self, number: usize) -> PathBuf {
        self.home.path(&format!("archive-{number}"))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.home.stk(args);
        command.env("STK_DATA_DIR", &self.dir.data);
        command.env("STK_ARCHIVE_URL", self.archive());
        command.env("STK_ARCHIVE_SETTLE_MINUTES", "0").env("STK_ARCHIVE_EVERY_MINUTES", "0");
        command.env("STK_LOG_PARTITIONS", PARTITIONS.to_string()).env("STK_WARM_KEEP_DAYS", "36600");
        if self.is_skipping_expired {
            command.env("STK_PROCESSOR_EXPIRED", "skip");
        }
        command
    }

    /// How the archive relates to the log of the directory that is in use.
    fn relation(&self) -> Relation {
        relation(&self.dir.held.path, &self.archives[self.dir.archive].path)
    }

    /// The log continues after the offsets of an archive that is ahead of it, whoever opens it to write.
    fn opened(&mut self) {
        if self.relation() == Relation::Ahead {
            self.skips += 1;
            let (held, archive) = (&mut self.dir.held, &self.archives[self.dir.archive]);
            let shared = common(&held.path, &archive.path);
            let ahead = archive.path[shared..].iter().filter(|place| !held.path.contains(place));
            let skipped: Vec<Place> = ahead.map(|place| Place { skipped: self.skips, ..*place }).collect();
            held.path.extend(skipped);
        }
    }

    /// The batches that have to be in an answer, and those that may be.
    fn expected(&self) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let (held, archive) = (&self.dir.held, &self.archives[self.dir.archive]);
        let shared = match self.relation() {
            Relation::Parted(shared) => shared,
            Relation::Fits | Relation::Ahead => archive.path.len(),
        };
        let archived: BTreeSet<u64> = archive.path[..shared].iter().map(|place| place.batch).collect();
        let sure = archived.iter().copied().filter(|batch| archive.sure.contains(batch));
        let must = held.log.iter().chain(&held.warm).copied().chain(sure).collect();
        let path = held.path.iter().map(|place| place.batch);
        let may = path.chain(held.warm_may.iter().copied()).chain(archived).collect();
        (must, may)
    }

    /// Compares an answer with what is expected.
    fn compare(&mut self, answer: &Answer, by: &str) {
        let (must, may) = self.expected();
        let rows = |batch: u64| batch..batch + BATCH_ROWS;
        let lost: Vec<u64> =
            must.iter().copied().flat_map(rows).filter(|row| !answer.rows.contains_key(row)).collect();
        if !lost.is_empty() {
            self.fail(&format!("{by} lacks rows {lost:?} (complete: {})", answer.is_complete));
        }
        let doubled: Vec<_> = answer.rows.iter().filter(|(_, count)| **count > 1).collect();
        if !doubled.is_empty() {
            self.fail(&format!("{by} has rows more than once: {doubled:?}"));
        }
        let foreign: Vec<_> =
            answer.rows.keys().filter(|row| !may.contains(&(*row / BATCH_ROWS * BATCH_ROWS))).collect();
        if !foreign.is_empty() {
            self.fail(&format!("{by} has rows of another timeline: {foreign:?}"));
        }
        if self.dir.held.is_unsure {
            return;
        }
        let path = self.dir.held.path.iter().map(|place| place.batch);
        let gone: Vec<u64> = path.flat_map(rows).filter(|row| !answer.rows.contains_key(row)).collect();
        if !gone.is_empty() {
            if answer.is_complete {
                self.fail(&format!("{by} lacks rows {gone:?} of a lost timeline, and says nothing"));
            }
            self.tally.named += 1;
        }
    }

    /// The answer of `stk history --data`; `None` where there is nothing to read or it is refused.
    fn offline(&mut self) -> Option<Answer> {
        let data = self.dir.data.display().to_string();
        let mut args = vec!["history"];
        args.extend(SYMBOLS);
        args.extend(["--data", &data, "--format", "csv"]);
        let shown = self.home.shown(&mut self.command(&args));
        // 5: with rows that are known to be missing.
        if !["exit: 0\n", "exit: 5\n"].iter().any(|exit| shown.starts_with(exit)) {
            self.refused("history", &shown);
            return None;
        }
        let (out, said) = shown.split_once("--- stdout\n")?.1.split_once("--- stderr\n")?;
        Some(Answer { rows: numbers(out), is_complete: said.contains("nothing is missing") })
    }

    /// The server's answer, and where its log ends.
    fn online(&mut self, server: &Server) -> (Answer, Offsets) {
        let get = |path: String| {
            let url = format!("http://{}{path}", server.address);
            let got = self
                .runtime
                .block_on(async { self.http.get(url).send().await?.error_for_status()?.text().await });
            got.unwrap_or_else(|error| self.fail(&format!("the server: {error}")))
        };
        let symbols = SYMBOLS.join(",");
        let rows = numbers(&get(format!("/v1/history?kind=trade&format=csv&symbols={symbols}")));
        let coverage = get(format!("/v1/coverage?kind=trade&symbols={symbols}"));
        let coverage: serde_json::Value = serde_json::from_str(&coverage).expect("JSON");
        let next = |at: usize| coverage["partitions"][at]["log_next_offset"].as_u64().unwrap_or(0);
        let is_complete = coverage["complete"] == true;
        (Answer { rows, is_complete }, std::array::from_fn(next))
    }

    /// A refusal has to be one that names a way on.
    fn refused(&mut self, what: &str, shown: &str) {
        self.tally.refusals += 1;
        let shown = shown.split_once("--- stderr\n").map_or(shown, |(_, said)| said).trim().to_owned();
        eprintln!("refused\t{what}\t{}", shown.replace('\n', " | "));
        self.said(format!("{what} is refused: {shown}"));
    }

    fn serve(&mut self) -> Server {
        let offline = (self.dir.data.is_dir()).then(|| self.offline()).flatten();
        if let Some(answer) = &offline {
            self.compare(answer, "stk history --data");
        }
        let args = ["serve", "--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0"];
        self.tally.starts += 1;
        let server = Server::run(self.command(&args), true);
        if !self.becomes_ready(&server) {
            let (_, said) = server.ended();
            let said = said.join("\n");
            self.refused("serve", &said);
            if !said.contains("processor.expired=skip") || self.is_skipping_expired {
                self.fail(&format!("the server does not start: {said}"));
            }
            self.is_skipping_expired = true;
            return self.serve();
        }
        let (answer, _) = self.online(&server);
        self.learn(&answer);
        self.opened();
        self.compare(&answer, "the server");
        if let Some(offline) = offline
            && offline.rows != answer.rows
        {
            self.fail(&format!("the server and --data differ: {answer:?}, {offline:?}"));
        }
        server
    }

    /// Waits until a server is ready; whether it is, or has ended instead.
    fn becomes_ready(&self, server: &Server) -> bool {
        let url = format!("http://{}/readyz", server.address);
        let since = std::time::Instant::now();
        let mut said = String::new();
        while since.elapsed() < support::PATIENCE {
            let asked: Result<_, reqwest::Error> = self.runtime.block_on(async {
                let answer = self.http.get(&url).send().await?;
                let is_ready = answer.status().is_success();
                if !is_ready {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                Ok((is_ready, answer.text().await?))
            });
            match asked {
                Err(_) => return false,
                Ok((true, _)) => return true,
                Ok((false, text)) => said = text,
            }
        }
        self.fail(&format!("the server is not ready: {said}"));
    }

    /// After the log was lost, only an answer says how much of it warm had.
    fn learn(&mut self, answer: &Answer) {
        let held = &mut self.dir.held;
        if std::mem::take(&mut held.is_unsure) {
            let is_there = |batch: u64| (batch..batch + BATCH_ROWS).all(|row| answer.rows.contains_key(&row));
            let archive = &self.archives[self.dir.archive];
            let is_known = |batch: u64| archive.path.iter().any(|place| place.batch == batch);
            held.path.retain(|place| is_there(place.batch) || is_known(place.batch));
            let may = std::mem::take(&mut held.warm_may);
            held.warm.extend(may.iter().copied().filter(|batch| is_there(*batch)));
            held.warm_may = may;
        }
    }

    fn write(&mut self, server: &Server) {
        for _ in 0..=self.below(2) {
            let (batch, producer) = (self.next_row, self.below(PRODUCERS));
            self.next_row += BATCH_ROWS;
            let (first, days) = (self.below(DAYS.len()), 1 + self.below(2));
            let day = |row: u64| DAYS[(first + row as usize % days) % DAYS.len()];
            let ticks: Vec<Tick> = (batch..batch + BATCH_ROWS).map(|row| trade(row, day(row))).collect();
            let number = &mut self.next_numbers[producer];
            let sequence = *number;
            *number += 1;
            let sent = self.runtime.block_on(async {
                let endpoint = server.ingest.parse().expect("an address");
                let id = 1 + producer as u64;
                let mut client =
                    stk::client::ingest::IngestClient::connect(endpoint, id, sequence, 0).await?;
                client.send(&ticks).await?;
                client.flush().await
            });
            if let Err(error) = sent {
                self.fail(&format!("batch {batch} is not taken: {error}"));
            }
            let (answer, to) = self.online(server);
            self.dir.held.path.push(Place { batch, to, skipped: 0 });
            self.dir.held.log.insert(batch);
            self.dir.held.warm_may.insert(batch);
            self.tally.acknowledged += BATCH_ROWS;
            self.said(format!("batch {batch} of {first}+{days} up to {to:?}"));
            self.compare(&answer, "the server");
        }
    }

    /// Ends a server in good order, or not.
    fn end(&mut self, server: Server) {
        if self.below(2) == 0 {
            server.kill();
            self.said("the server is killed".to_owned());
        } else {
            self.stop(server);
        }
    }

    fn stop(&mut self, server: Server) {
        let (code, said) = server.stop();
        if code != Some(0) {
            self.fail(&format!("the server does not end: {said:#?}"));
        }
        let held = &mut self.dir.held;
        held.warm.extend(held.log.iter().copied());
        self.said("the server is stopped".to_owned());
    }

    /// Has a server take in rows, and warm have them.
    pub(crate) fn take_in(&mut self) {
        let server = self.serve();
        self.write(&server);
        self.stop(server);
    }

    /// The offsets below which rows may be archived, as the archive says.
    fn reached(&self) -> Offsets {
        let path = self.archive().join("log.json");
        let text = std::fs::read(path).unwrap_or_default();
        let origin: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        std::array::from_fn(|at| origin["next_offsets"][at].as_u64().unwrap_or(0))
    }

    /// Notes what a run of the archive did, to its end or not, once it was not refused.
    fn ran(&mut self, is_done: bool) {
        let reached = self.reached();
        let held = &self.dir.held;
        let is_reached = |place: &&Place| place.to.iter().zip(reached).any(|(to, reached)| *to <= reached);
        let archive = &mut self.archives[self.dir.archive];
        if reached != archive.reached || is_done {
            archive.reached = reached;
            archive.path = held.path.iter().take_while(is_reached).copied().collect();
        }
        if is_done {
            archive.sure.extend(held.warm.iter().copied());
        }
    }

    fn run_archive(&mut self) {
        let drops = self.below(2) == 0;
        let points: Vec<_> = FAIL_POINTS
            .iter()
            .filter(|point| point.starts_with("archive.") || point.starts_with("warm.local."))
            .collect();
        let point = (self.below(2) == 0)
            .then(|| format!("{}:{}", points[self.below(points.len())], 1 + self.below(3)));
        self.run_archive_to(point, drops);
    }

    /// Runs the archive up to `point`, if one is given.
    pub(crate) fn run_archive_to(&mut self, point: Option<String>, drops: bool) {
        let mut command = self.command(&["archive", "run"]);
        if drops {
            command.env("STK_WARM_KEEP_DAYS", "1");
        }
        let mut what = "archive run".to_owned();
        if let Some(point) = point {
            what = format!("archive run, killed at {point}");
            command.env("STK_FAIL_POINT", point);
        }
        let shown = self.home.shown(&mut command);
        self.opened();
        self.said(what);
        if shown.starts_with("exit: signal\n") {
            self.tally.killed_runs += 1;
            self.ran(false);
        } else if shown.starts_with("exit: 0\n") {
            self.ran(true);
        } else {
            self.refused("archive run", &shown);
            self.follow(&shown);
        }
    }

    /// Follows the advice of a run that was refused.
    fn follow(&mut self, shown: &str) {
        let is_parted = matches!(self.relation(), Relation::Parted(_));
        if shown.contains("run `stk archive adopt`") && !is_parted {
            let adopted = self.home.shown(&mut self.command(&["archive", "adopt", "--yes"]));
            if !adopted.starts_with("exit: 0\n") {
                self.fail(&format!("the archive can't be adopted: {adopted}"));
            }
            let shown = self.home.shown(&mut self.command(&["archive", "run"]));
            if !shown.starts_with("exit: 0\n") {
                self.fail(&format!("an adopted archive takes no rows: {shown}"));
            }
            self.said("the archive is adopted".to_owned());
            self.ran(true);
        } else if shown.contains("set archive.url to another place") && is_parted {
            self.said("the archive is another timeline's".to_owned());
        } else {
            self.fail(&format!("a refusal without a way on: {shown}"));
        }
    }

    pub(crate) fn copy(&mut self) {
        if !self.dir.data.is_dir() {
            return;
        }
        if self.copies.len() == COPIES_MAX {
            let old = self.below(COPIES_MAX);
            self.copies.remove(old);
        }
        self.dirs_made += 1;
        let to = self.home.path(&format!("copy-{}", self.dirs_made));
        copy_dir(&self.dir.data, &to);
        self.copies.push(Dir { data: to, ..self.dir.clone() });
        self.said(format!("copy {}", self.dirs_made));
    }

    fn put_back(&mut self) {
        if !self.copies.is_empty() {
            let from = self.below(self.copies.len());
            self.put_back_from(from);
        }
    }

    /// Puts back copy `from`.
    pub(crate) fn put_back_from(&mut self, from: usize) {
        let copied = self.copies[from].clone();
        std::fs::remove_dir_all(&self.dir.data).expect("it is there");
        copy_dir(&copied.data, &self.dir.data);
        self.dir = Dir { data: self.dir.data.clone(), ..copied };
        self.tally.put_back += 1;
        self.said(format!("{} is put back", self.copies[from].data.display()));
    }

    /// Another server goes on with a copy for a while, or for good.
    fn swap(&mut self) {
        if self.copies.is_empty() {
            return;
        }
        let from = self.below(self.copies.len());
        std::mem::swap(&mut self.dir, &mut self.copies[from]);
        self.tally.clones += 1;
        self.said(format!("a server on {}", self.dir.data.display()));
    }

    fn lose(&mut self, part: &str) {
        let path = self.dir.data.join(part);
        if !path.is_dir() {
            return;
        }
        std::fs::remove_dir_all(path).expect("removed");
        self.tally.lost_parts += 1;
        self.said(format!("{part} is lost"));
        let held = &mut self.dir.held;
        match part {
            "log" => {
                held.log.clear();
                held.is_unsure = true;
                if held.warm.is_empty() {
                    // Nothing that is left knows the generations of older copies: a warm store that was lost and
                    // not filled since does not say how far they came.
                    self.copies.clear();
                }
                let server = self.serve();
                self.end(server);
            }
            "warm" => {
                held.warm.clear();
                held.warm_may = held.log.clone();
            }
            _ => {}
        }
    }

    fn step(&mut self) {
        self.tally.steps += 1;
        match self.below(16) {
            0..5 => {
                let server = self.serve();
                self.write(&server);
                if self.below(4) == 0 {
                    self.said("of the running server:".to_owned());
                    self.copy();
                }
                self.end(server);
            }
            5..9 => {
                if self.dir.data.is_dir() {
                    self.run_archive();
                }
            }
            9..11 => self.copy(),
            11..13 => self.put_back(),
            13 => self.swap(),
            14 => {
                let part = ["log", "hot"][self.below(2)];
                self.lose(part);
            }
            _ => self.lose("warm"),
        }
    }

    /// A copy of the archive in use.
    pub(crate) fn copy_archive(&mut self) -> (PathBuf, Archive) {
        self.dirs_made += 1;
        let to = self.home.path(&format!("archive-copy-{}", self.dirs_made));
        copy_dir(&self.archive(), &to);
        self.said(format!("copy {} of the archive", self.dirs_made));
        (to, self.archives[self.dir.archive].clone())
    }

    pub(crate) fn put_archive_back(&mut self, (copied, held): (PathBuf, Archive)) {
        let number = self.dir.archive;
        let archive = self.archive_path(number);
        std::fs::remove_dir_all(&archive).expect("it is there");
        copy_dir(&copied, &archive);
        self.archives[number] = held;
        self.said(format!("{} is put back", copied.display()));
    }

    fn live(mut self) -> Tally {
        for _ in 0..10 + self.below(16) {
            self.step();
        }
        self.go_on()
    }

    pub(crate) fn go_on(mut self) -> Tally {
        // It takes rows, archives them and answers with all there is.
        for _ in 0..2 {
            let server = self.serve();
            self.write(&server);
            self.end(server);
            self.run_archive();
        }
        let server = self.serve();
        drop(server);
        self.tally
    }
}

pub(crate) fn numbers(csv: &str) -> BTreeMap<u64, usize> {
    let mut lines = csv.lines();
    let mut found = BTreeMap::new();
    let Some(head) = lines.next() else { return found };
    let id = head.split(',').position(|column| column == "id").expect("an id");
    for line in lines {
        let number = line.split(',').nth(id).and_then(|id| id.parse().ok()).expect("a number");
        *found.entry(number).or_default() += 1;
    }
    found
}

/// Trade `row` of `day`.
pub(crate) fn trade(row: u64, day: &str) -> Tick {
    let ts = format!("{day}T15:00:00Z").parse::<stk::market::Timestamp>().expect("a time");
    let ts = ts.saturating_add_nanos(row as i64 * 1_000_000);
    Tick::Trade(Trade {
        symbol: SYMBOLS[row as usize % SYMBOLS.len()].parse().expect("a symbol"),
        ts,
        recv_ts: ts,
        price: "10.5".parse().expect("a price"),
        size: 100,
        exchange: Exchange::NONE,
        conditions: Conditions::default(),
        id: row,
        tape: Tape::A,
    })
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).stderr(Stdio::null()).status();
    copied.expect("cp is there");
}

pub(crate) fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn every_row_of_the_surviving_timeline_is_answered_once() {
    let first = number("STK_TEST_HISTORY_SEED").unwrap_or(1);
    let count = number("STK_TEST_HISTORIES").unwrap_or(HISTORIES_IN_CI);
    support::live_histories(first..first + count, support::jobs(), 9, |seed| {
        History::new(seed).live().to_string()
    });
}
