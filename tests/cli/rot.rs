//! Bit rot: stored files with a flipped bit or a lost end. An answer has exactly the right rows, or says
//! what it lacks, or is an error that names the file; whether it is read by `stk history --data` or by a
//! server. The real binary reads, so that a reader that dies ends no run. Then what the message advises is
//! done, one of its ways after the other from trial to trial, and both have to answer again.
//!
//! `STK_TEST_ROTS` says how many files are damaged, of each kind in turn, `STK_TEST_ROT_SEED` repeats the
//! damage, `STK_TEST_ROT_KIND` picks the kinds with that in their name, `STK_TEST_ROT_FOLLOW` has the advice of
//! one in so many messages followed, `STK_TEST_JOBS` says how many are tried side by side. `scripts/rot-matrix`
//! runs many and prints a table.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::str::Lines;
use std::sync::{Mutex, mpsc};

use futures_util::TryStreamExt;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use stk::bus::local::{LocalBus, LocalBusConfig};
use stk::client::rest::RestClient;
use stk::feed::iex::make;

use super::crash::weigh_down;
use super::support::{self, Home, PATIENCE, Server, number, serve};

/// Half of the damage is in so many bytes at the end of a file.
const END_BYTES: u64 = 1024;
/// Cumulative lines of the table are told after so many trials, for a run that is ended early.
const TOLD_EVERY: u64 = 500;

/// The kinds of rows that are asked for, as the command and as the server call them.
const KINDS: [(&str, &str); 3] = [("trades", "trade"), ("quotes", "quote"), ("bars", "bar")];
/// Blocks are cut late, so that the rows that a server takes in stay in the log alone.
const ENV: [(&str, &str); 1] = [("STK_PROCESSOR_BLOCK_AGE_MS_MAX", "3600000")];
/// Days of which only the log has rows.
const LOG_DAYS: [&str; 3] = ["2025-03-10", "2025-03-11", "2025-03-12"];
const SYMBOLS: [&str; 4] = ["AAPL", "MSFT", "NVDA", "TSLA"];

pub(crate) fn capture(home: &Home, name: &str, day: &str, seconds: i64, symbols: &[&str]) -> String {
    let open = format!("{day}T14:30:00Z").parse::<stk::market::Timestamp>().expect("a time");
    let segments: Vec<_> = (0..seconds)
        .map(|second| {
            let ts = open.saturating_add_nanos(second * 1_000_000_000);
            let symbol = symbols[second as usize % symbols.len()];
            let price = 190_4500 + second * 100;
            let trade = make::trade(symbol, ts, 0, price, 100, second as u64 + 1);
            (ts, vec![make::quote(symbol, ts, 0, (price, 1), (price + 100, 2)), trade])
        })
        .collect();
    let path = home.path(name);
    fs::write(&path, make::capture(&segments)).expect("written");
    path.display().to_string()
}

/// A data directory of which one day is archived and dropped from warm, one has late rows in the
/// archive, one is in warm alone, and some rows are in the log alone: in a table of it, and in its journal.
fn stored(home: &Home) -> PathBuf {
    let data = home.path("sound");
    let data_text = data.display().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // With little memory, it keeps its rows in tables after 1 MiB.
    let log = LocalBusConfig { memory_bytes: 8 << 20, ..LocalBusConfig::new(data.join("log"), 2) };
    runtime.block_on(async { LocalBus::open(log).expect("a log").close().await });
    let run = |args: &[&str]| {
        let mut command = home.stk(args);
        command.envs(ENV).env("STK_ARCHIVE_SETTLE_MINUTES", "0");
        let shown = home.shown(&mut command);
        assert!(shown.starts_with("exit: 0\n"), "{args:?}: {shown}");
    };
    let first = capture(home, "first.pcap", "2025-03-06", 300, &["AAPL", "MSFT"]);
    run(&["replay", &first, "--speed", "max", "--data", &data_text]);
    run(&["archive", "run", "--data", &data_text]);
    let second = capture(home, "second.pcap", "2025-03-07", 300, &["AAPL", "NVDA", "TSLA"]);
    run(&["replay", &second, "--speed", "max", "--data", &data_text]);
    let server = Server::start_with(home, &data, "127.0.0.1:0", &[], &ENV);
    for (number, day) in LOG_DAYS.into_iter().enumerate() {
        if number > 0 {
            // So that what came before goes into a table.
            runtime.block_on(weigh_down(&server.ingest, 1)).expect("a server");
        }
        let capture = capture(home, &format!("{day}.pcap"), day, 20, &["AAPL", "MSFT"]);
        run(&["replay", &capture, "--speed", "max", "--ingest", &server.ingest]);
    }
    server.kill();
    data
}

/// The kind of a stored file, by its path in the data directory; `None` for one without content that
/// counts.
fn kind_of(path: &Path) -> Option<&'static str> {
    let text = path.to_str()?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let kind = match text.split('/').next()? {
        "log" if text == "log/epoch" => "epoch",
        "log" if ending == "jnl" => "log journal",
        "log" if text.contains("/tables/") => "log tables",
        "log" if text.ends_with("lock") => return None,
        "log" => "log files",
        "hot" => "hot checkpoint",
        "warm" => match (ending, text.contains("kind=bar")) {
            ("jsonl", _) => "warm manifest",
            ("bin", _) => "warm checkpoint",
            ("parquet", true) => "warm bar segment",
            ("parquet", false) => "warm tick segment",
            _ => return None,
        },
        "cold" => match (text.split('/').nth(1)?, ending, text.contains("kind=bar")) {
            ("log.json", ..) => "log.json",
            ("lease", ..) => "lease",
            ("journal", ..) => "cold journal",
            ("manifest", "json", _) => "cold manifest",
            ("manifest", ..) => "cold footer",
            ("ticks", _, true) => "cold bar object",
            ("ticks", ..) => "cold tick object",
            _ => return None,
        },
        _ => return None,
    };
    Some(kind)
}

fn files(dir: &Path, below: &Path, found: &mut BTreeMap<&'static str, Vec<PathBuf>>) {
    for entry in fs::read_dir(dir.join(below)).expect("a directory") {
        let path = below.join(entry.expect("an entry").file_name());
        if dir.join(&path).is_dir() {
            files(dir, &path, found);
        } else if let Some(kind) = kind_of(&path)
            && fs::metadata(dir.join(&path)).expect("a file").len() > 0
        {
            found.entry(kind).or_default().push(path);
        }
    }
}

/// Copies `from`. Files that nobody writes to again are the same under another name.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        let is_final = from.ends_with("tables") || path.extension().is_some_and(|ending| ending == "parquet");
        if path.is_dir() {
            copy(&path, &to);
        } else if is_final {
            fs::hard_link(path, to).expect("linked");
        } else {
            fs::copy(path, to).map(drop).expect("copied");
        }
    }
}

/// What a reader did with a damaged store.
enum Found {
    /// It answered, and does not say that it lacks anything: the rows by kind.
    Rows(Vec<String>),
    /// It says what it lacks, or refused: all that it said.
    Said(String),
    /// It died of it, or did not end: all that it said.
    Died(String),
}

impl Found {
    fn said(&self) -> Option<&str> {
        match self {
            Self::Rows(_) => None,
            Self::Said(said) | Self::Died(said) => Some(said),
        }
    }
}

fn is_crash(status: ExitStatus) -> bool {
    // A panic, a signal, or the end that `timeout` makes.
    matches!(status.code(), Some(101 | 124) | None)
}

/// As `stk history --data` reads.
fn offline(home: &Home, data: &Path) -> Found {
    let mut all = Vec::new();
    for (kind, _) in KINDS {
        let mut command = home.bounded(&["history", "--kind", kind, "--format", "csv", "--data"]);
        let output = command.arg(data).args(SYMBOLS).output().expect("the binary runs");
        if output.status.success() {
            all.push(String::from_utf8(output.stdout).expect("text"));
            continue;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return if is_crash(output.status) { Found::Died(said) } else { Found::Said(said) };
    }
    Found::Rows(all)
}

/// As a server answers.
fn served(home: &Home, data: &Path) -> Found {
    let mut server = serve(home, data, Some("127.0.0.1:0"), "127.0.0.1:0", &[], &[]);
    let mut server = server.stderr(Stdio::piped()).spawn().expect("the binary runs");
    let stderr = BufReader::new(server.stderr.take().expect("stderr is piped"));
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut said = Vec::new();
    let mut answer = None;
    let mut is_hung = false;
    loop {
        let line = match lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => {
                is_hung = error == mpsc::RecvTimeoutError::Timeout;
                break;
            }
        };
        let address = line.split_once("listening on http://").map(|(_, rest)| rest.to_owned());
        said.push(line);
        if let Some(address) = address.as_deref().and_then(|rest| rest.split_whitespace().next()) {
            answer = Some(asked(address.trim_end_matches('/')));
            break;
        }
    }
    // One that said nothing of an address has ended, or is ended now.
    let ended = match answer {
        Some(_) => server.try_wait().expect("the server is ours"),
        None if is_hung => None,
        None => Some(server.wait().expect("the server is ours")),
    };
    let _ = server.kill();
    let _ = server.wait();
    said.extend(lines.iter());
    let said = said.join("\n");
    match answer {
        _ if is_hung || ended.is_some_and(is_crash) => Found::Died(said),
        Some(Ok(rows)) => Found::Rows(rows),
        Some(Err(error)) => Found::Said(format!("{error}\n{said}")),
        None => Found::Said(said),
    }
}

/// All rows of the server at `address`, or what it says.
#[tokio::main(flavor = "current_thread")]
async fn asked(address: &str) -> Result<Vec<String>, String> {
    let endpoint = format!("http://{address}").parse().map_err(|error| format!("{error:?}"))?;
    let client = RestClient::new(endpoint, None).map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    for (_, kind) in KINDS {
        let query = [("kind", kind.to_owned()), ("format", "csv".to_owned())];
        let answer = client.history(&query).await.map_err(|error| error.to_string())?;
        let coverage = answer.coverage.clone().unwrap_or_default();
        let lacks = |value: &serde_json::Value| match value {
            serde_json::Value::Array(list) => !list.is_empty(),
            value => !value.is_null(),
        };
        if lacks(&coverage["missing"])
            || lacks(&coverage["broken"])
            || lacks(&coverage["archived"]["frozen"])
            || lacks(&coverage["archived"]["unasked"])
        {
            return Err(format!("partial: {coverage}"));
        }
        let parts: Vec<_> = answer.bytes().try_collect().await.map_err(|error| error.to_string())?;
        all.push(String::from_utf8(parts.concat()).expect("text"));
    }
    Ok(all)
}

/// What somebody does who follows a message.
enum Way {
    /// `stk audit --repair`, or the sound copy that the message names too where no tier has the rows.
    Repair,
    /// A command that the message spells out. It gives up what is damaged.
    Run(String),
    /// What is below the path comes back from a copy.
    Restore(PathBuf),
    /// The directory of the log is moved away.
    MoveLog,
    /// The damaged file is removed.
    Remove,
}

#[derive(Clone, Copy, Default)]
struct Outcomes {
    trials: u64,
    right: u64,
    refused: u64,
    /// Refused, and what it said names another file than the damaged one.
    unnamed: u64,
    /// Refused by dying.
    died: u64,
    silent: u64,
    /// Damages whose message was followed.
    followed: u64,
    /// Of these, those after which the store does not answer as it should.
    stuck: u64,
}

impl Outcomes {
    /// Counts what was found; in words, if the answer was wrong without a word.
    fn count(&mut self, found: &Found, sound: &[String], path: &Path, what: &str) -> Option<String> {
        self.trials += 1;
        let (said, has_died) = match found {
            Found::Rows(rows) if rows == sound => {
                self.right += 1;
                return None;
            }
            Found::Rows(rows) => {
                self.silent += 1;
                let lines =
                    |rows: &[String]| rows.iter().map(|rows| rows.lines().count()).collect::<Vec<_>>();
                return Some(format!("{what}: {:?} rows, not {:?}", lines(rows), lines(sound)));
            }
            Found::Said(said) => (said, false),
            Found::Died(said) => (said, true),
        };
        self.refused += 1;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if has_died {
            self.died += 1;
            eprintln!("died: {what}: {said}");
        } else if !said.contains(name) {
            self.unnamed += 1;
            eprintln!("unnamed: {what}: {said}");
        }
        None
    }
}

/// What was found so far, by kind of file and by reader.
#[derive(Default)]
struct Table {
    rows: BTreeMap<(&'static str, &'static str), Outcomes>,
    silent: Vec<String>,
    stuck: Vec<String>,
    trials: u64,
}

impl Table {
    fn tell(&self) {
        for ((kind, reader), outcomes) in &self.rows {
            let Outcomes { trials, right, refused, unnamed, died, silent, followed, stuck } = outcomes;
            eprintln!(
                "matrix\t{kind}\t{reader}\t{trials}\t{right}\t{refused}\t{unnamed}\t{died}\t{silent}\t{followed}\t{stuck}"
            );
        }
    }
}

/// One damaged file, read by both.
struct Trial {
    number: u64,
    kind: &'static str,
    path: PathBuf,
    bytes: Vec<u8>,
    what: String,
}

impl Trial {
    /// The trial `number` of `seed` on the store in `data`: kinds take turns.
    fn new(number: u64, seed: u64, data: &Path, by_kind: &BTreeMap<&'static str, Vec<PathBuf>>) -> Self {
        let mut random = SplitMix64::seed_from_u64(seed.wrapping_mul(1 << 32).wrapping_add(number));
        let (kind, files) =
            by_kind.iter().nth((number % by_kind.len() as u64) as usize).expect("there are kinds");
        let path = files[(random.next_u64() % files.len() as u64) as usize].clone();
        let mut bytes = fs::read(data.join(&path)).expect("a file");
        let end = written(&bytes);
        // What says where the rest lies is at the end of most files.
        let from = end.saturating_sub(END_BYTES) * (random.next_u64() % 2);
        let (at, bit) = (from + random.next_u64() % (end - from), random.next_u64() % 8);
        let what = if random.next_u64().is_multiple_of(4) {
            bytes.truncate(at as usize);
            format!("{} cut to {at} bytes", path.display())
        } else {
            bytes[at as usize] ^= 1 << bit;
            format!("{} bit {bit} of byte {at}", path.display())
        };
        Self { number, kind, path, bytes, what: format!("trial {number}: {what}") }
    }

    /// As `stk history --data` and a server read the store in `dir`.
    fn read(&self, home: &Home, dir: &Path) -> [Found; 2] {
        replace(&dir.join(&self.path), &self.bytes);
        // The server has its files changed by then.
        let by_offline = offline(home, dir);
        [by_offline, served(home, dir)]
    }

    /// The ways on that a message names.
    fn ways(&self, said: &str) -> Vec<Way> {
        let mut ways = Vec::new();
        let is_advised = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
        let command = said.split('`').find(|text| text.starts_with("truncate ") || text.starts_with("rm "));
        ways.extend(command.map(|command| Way::Run(command.to_owned())));
        if is_advised(&["`stk audit --repair` rebuilds"]) {
            ways.push(Way::Repair);
        }
        if is_advised(&["restore the directory", "bring a sound copy of"]) {
            ways.push(Way::Restore(self.copied()));
        }
        if is_advised(&["restore it from a copy of the directory"]) {
            ways.push(Way::Restore(self.path.clone()));
        }
        if is_advised(&["or move it away with all that is in it"]) {
            ways.push(Way::MoveLog);
        }
        if is_advised(&["; remove it", ", remove it"]) {
            ways.push(Way::Remove);
        }
        ways
    }

    /// What has to come back from a copy as a whole.
    fn copied(&self) -> PathBuf {
        match self.kind {
            kind if kind.starts_with("log ") => PathBuf::from("log"),
            "warm manifest" | "warm checkpoint" => PathBuf::from("warm"),
            _ => self.path.clone(),
        }
    }

    /// Follows one of the ways on that `said` names, after which the store in `dir` has to answer what it
    /// answered in `sound` before the damage, or, where the way gives something up, all that warm and the
    /// archive hold. Otherwise says what came of it.
    fn follow(&self, home: &Home, sound: (&Path, &[String]), dir: &Path, said: &str) -> Result<(), String> {
        let (sound_dir, sound) = sound;
        let ways = self.ways(said);
        let Some(way) = ways.get((self.number % ways.len().max(1) as u64) as usize) else {
            return Err(format!("no way on in {said}"));
        };
        let restore = |path: &Path| {
            let (from, to) = (sound_dir.join(path), dir.join(path));
            if from.is_dir() {
                let _ = fs::remove_dir_all(&to);
                copy(&from, &to);
            } else {
                let _ = fs::remove_file(&to);
                fs::copy(&from, &to).expect("copied");
            }
        };
        let mut gives_up = false;
        match way {
            Way::Repair => {
                let data = dir.display().to_string();
                let mut command = home.stk(&["audit", "--repair", "--yes", "--data", &data]);
                let repaired = home.shown(command.env("STK_LOG_PARTITIONS", "2"));
                if repaired.contains("not repairable: ") {
                    restore(&self.copied());
                } else if !repaired.starts_with("exit: 0\n") {
                    return Err(repaired);
                }
            }
            Way::Run(command) => {
                gives_up = true;
                let status = std::process::Command::new("sh").args(["-c", command]).status();
                if !status.expect("sh is there").success() {
                    return Err(format!("{command} fails"));
                }
            }
            Way::Restore(path) => restore(path),
            Way::MoveLog => {
                gives_up = true;
                let _ = fs::remove_dir_all(dir.join("log"));
            }
            Way::Remove => fs::remove_file(dir.join(&self.path)).expect("removed"),
        }
        // The server first: it begins a new log where the old one is gone.
        for (reader, found) in [("server", served(home, dir)), ("--data", offline(home, dir))] {
            let rows = match found {
                Found::Rows(rows) => rows,
                Found::Said(said) | Found::Died(said) => return Err(format!("then {reader} says {said}")),
            };
            let is_good = if gives_up { is_left(&rows, sound) } else { rows == sound };
            if !is_good {
                let lines = rows.iter().map(|rows| rows.lines().count()).collect::<Vec<_>>();
                return Err(format!("then {reader} answers {lines:?} rows"));
            }
        }
        Ok(())
    }
}

/// Whether `rows` are `sound` ones without some that only the log held.
fn is_left(rows: &[String], sound: &[String]) -> bool {
    let in_log = |line: &str| LOG_DAYS.iter().any(|day| line.contains(day));
    rows.iter().zip(sound).all(|(rows, sound)| {
        let mut rows = rows.lines().peekable();
        let is_there =
            |line: &str, rows: &mut Peekable<Lines<'_>>| rows.next_if(|row| *row == line).is_some();
        sound.lines().all(|line| is_there(line, &mut rows) || in_log(line)) && rows.next().is_none()
    })
}

/// Up to the last byte that is not zero: journals are made long beforehand.
fn written(bytes: &[u8]) -> u64 {
    bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last as u64 + 1)
}

fn replace(path: &Path, bytes: &[u8]) {
    // Another file: the sound one may have other names.
    fs::remove_file(path).expect("removed");
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_damaged_file_never_reads_as_other_rows() {
    let home = Home::new();
    let data = stored(&home);
    let Found::Rows(sound) = offline(&home, &data) else { panic!("the store is sound") };
    let lines: Vec<_> = sound.iter().map(|rows| rows.lines().count()).collect();
    assert_eq!(lines[..2], [661, 661], "every trade and quote, and a head");
    let mut by_kind = BTreeMap::new();
    files(&data, Path::new(""), &mut by_kind);
    assert!(by_kind["log tables"].len() > 2, "{by_kind:?}");
    let only = std::env::var("STK_TEST_ROT_KIND").unwrap_or_default();
    by_kind.retain(|kind, _| kind.contains(&only));
    let (seed, trials) = (number("STK_TEST_ROT_SEED", 1), number("STK_TEST_ROTS", by_kind.len() as u64));
    let follow_every = number("STK_TEST_ROT_FOLLOW", 1);
    let table = Mutex::new(Table::default());
    let begin = |job| {
        let dir = home.path(&format!("damaged-{job}"));
        copy(&data, &dir);
        dir
    };
    support::share_out(0..trials, support::jobs(), begin, |dir, number| {
        let trial = Trial::new(number, seed, &data, &by_kind);
        let found = trial.read(&home, dir);
        let said: Vec<_> = found.iter().filter_map(Found::said).collect();
        // Of each kind one in so many, whichever has its turn.
        let is_followed = !said.is_empty() && (number / by_kind.len() as u64).is_multiple_of(follow_every);
        let stuck = is_followed.then(|| trial.follow(&home, (&data, &sound), dir, &said.concat()).err());
        let _ = fs::remove_dir_all(&*dir);
        copy(&data, dir);
        let mut table = table.lock().expect("no job has failed");
        for (found, reader) in found.iter().zip(["--data", "server"]) {
            let what = format!("{}, by {reader}", trial.what);
            let outcomes = table.rows.entry((trial.kind, reader)).or_default();
            outcomes.followed += u64::from(is_followed);
            outcomes.stuck += u64::from(stuck.as_ref().is_some_and(Option::is_some));
            if let Some(wrong) = outcomes.count(found, &sound, &trial.path, &what) {
                eprintln!("silent: {wrong}");
                table.silent.push(wrong);
            }
        }
        if let Some(reason) = stuck.flatten() {
            eprintln!("stuck: {}: {reason}\n  after: {}", trial.what, said.concat());
            table.stuck.push(format!("{}: {reason}", trial.what));
        }
        table.trials += 1;
        if table.trials.is_multiple_of(TOLD_EVERY) {
            table.tell();
        }
    });
    let table = table.into_inner().expect("no job has failed");
    table.tell();
    assert!(table.silent.is_empty(), "seed {seed}: {:#?}", table.silent);
    assert!(table.stuck.is_empty(), "seed {seed}: {:#?}", table.stuck);
    let died: u64 = table.rows.values().map(|outcomes| outcomes.died).sum();
    assert_eq!(died, 0, "seed {seed}: refused by dying, see above");
}
