//! Bit rot: stored files of every kind with a flipped bit or a lost end. An answer has exactly the right rows,
//! or says what it lacks, or is an error that names the file; whether it is read by `stk history --data` or by
//! a server. `stk archive run` and `stk archive verify` remove and replace nothing that they do not name, call
//! nothing sound that is not, and history after them is right or says what is wrong. The real binary reads, so
//! that a reader that dies ends no run. Then what the message advises is done, one of its ways after the other
//! from trial to trial, and all readers have to answer again.
//!
//! `STK_TEST_ROTS` says how many files are damaged, of each kind in turn, `STK_TEST_ROT_SEED` repeats the
//! damage, `STK_TEST_ROT_KIND` picks the kinds with that in their name, `STK_TEST_ROT_FOLLOW` has the advice of
//! one in so many messages followed, `STK_TEST_JOBS` says how many are tried side by side. `scripts/rot-matrix`
//! runs many and prints a table.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::iter::Peekable;
use std::os::unix::fs::FileExt;
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
use super::support::{self, Home, PATIENCE, Server, bounded, number, serve};

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

/// An object that no manifest names, as an attempt that died leaves it.
const UNNAMED_OBJECT: &str = "ticks/kind=trade/date=2025-03-06/part-0000-01M8RQKQG08MSWNBBK1ZYH5QEE.parquet";

/// `stk archive run` takes a day as soon as it is closed.
const ARCHIVE_ENV: [(&str, &str); 2] =
    [("STK_ARCHIVE_SETTLE_MINUTES", "0"), ("STK_ARCHIVE_GRACE_HOURS", "1")];

/// A data directory of which one day is archived and dropped from warm, one has late rows in the
/// archive, one is in warm alone, and some rows are in the log alone: in a table of it, and in its journal.
/// Besides, it has every kind of file that crashes, scrubs and repairs leave.
fn stored(home: &Home) -> PathBuf {
    let data = home.path("sound");
    let data_text = data.display().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // With little memory, it keeps its rows in tables after 1 MiB.
    let log = LocalBusConfig { memory_bytes: 8 << 20, ..LocalBusConfig::new(data.join("log"), 2) };
    runtime.block_on(async { LocalBus::open(log).expect("a log").close().await });
    let stk = |args: &[&str]| {
        let mut command = home.stk(args);
        command.envs(ENV).envs(ARCHIVE_ENV);
        command
    };
    let run = |args: &[&str]| {
        let shown = home.shown(&mut stk(args));
        assert!(shown.starts_with("exit: 0\n"), "{args:?}: {shown}");
    };
    let first = capture(home, "first.pcap", "2025-03-06", 300, &["AAPL", "MSFT"]);
    run(&["replay", &first, "--speed", "max", "--data", &data_text]);
    run(&["archive", "run", "--data", &data_text]);
    let second = capture(home, "second.pcap", "2025-03-07", 300, &["AAPL", "NVDA", "TSLA"]);
    let replay = ["replay", &second, "--speed", "max", "--data", &data_text];
    // It leaves a segment that no manifest names.
    let killed = home.shown(stk(&replay).env("STK_FAIL_POINT", "warm.local.segment"));
    assert!(killed.starts_with("exit: signal\n"), "{killed}");
    run(&replay);
    let unnamed = data.join("cold").join(UNNAMED_OBJECT);
    fs::write(&unnamed, "what an attempt wrote before it died").expect("written");
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(24 * 366 * 50);
    fs::File::options().write(true).open(&unnamed).and_then(|file| file.set_modified(long_ago)).expect("set");
    run(&["archive", "run", "--kind", "gap", "--data", &data_text]);
    // What a repair replaces is kept.
    for kind in ["warm tick segment", "cold tick object"] {
        let mut by_kind = BTreeMap::new();
        files(&data, Path::new(""), &mut by_kind);
        let path = data.join(&by_kind[kind][0]);
        let mut bytes = fs::read(&path).expect("a file");
        bytes[40] ^= 1;
        replace(&path, &bytes);
    }
    run(&["audit", "--repair", "--yes", "--data", &data_text]);
    run(&["archive", "verify", "--data", &data_text]);
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
    // A write that a power cut tore: the next start keeps it in a file of its own.
    let journal = data.join("log/0.jnl");
    let bytes = fs::read(&journal).expect("the journal");
    let torn = fs::OpenOptions::new().write(true).open(&journal).expect("the journal");
    torn.write_all_at(&[7; 200], written(&bytes)).expect("written");
    Server::start_with(home, &data, "127.0.0.1:0", &[], &ENV).kill();
    data
}

/// The kind of a stored file, by its path in the data directory; `None` for one whose content does not count: a lock,
/// and what is left of a write that a kill ended.
fn kind_of(path: &Path) -> Option<&'static str> {
    let text = path.to_str().expect("names are text");
    let parts: Vec<&str> = text.split('/').collect();
    let (name, is_bar) = (parts[parts.len() - 1], text.contains("kind=bar"));
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    let kind = match &parts[..] {
        [.., "lock"] | ["cold", ".tmp", _] => return None,
        _ if ending == "tmp" => return None,
        ["log", "epoch"] => "log epoch",
        ["log", "epoch.copy"] => "log epoch copy",
        ["log", "synced"] => "log synced",
        ["log", "version"] => "log version",
        ["log", _] if ending == "jnl" => "log journal",
        ["log", _] if name.starts_with("torn-") => "log torn",
        ["log", "keyspaces", _, "current"] => "log current",
        ["log", "keyspaces", _, "tables", _] => "log tables",
        ["log", "keyspaces", _, _] if name[1..].parse::<u64>().is_ok() => "log tree",
        ["hot", _] if ending == "hot" => "hot checkpoint",
        ["warm", _] if stem.starts_with("manifest-") && ending == "jsonl" => "warm manifest",
        ["warm", "checkpoint", _] if ending == "bin" => "warm checkpoint",
        ["warm", "unnamed", ..] => "warm unnamed",
        ["warm", _, _, _] if ending == "parquet" && is_bar => "warm bar segment",
        ["warm", _, _, _] if ending == "parquet" => "warm tick segment",
        ["kept", ..] => "kept",
        ["cold", "log.json"] => "log.json",
        ["cold", "log.copy.json"] => "log.copy.json",
        ["cold", "garbage.json"] => "garbage.json",
        ["cold", "scrub.json"] => "scrub.json",
        ["cold", "lease", _] => "lease",
        ["cold", "kept", ..] => "cold kept",
        ["cold", "journal", _, _] => "cold journal",
        ["cold", "manifest", ..] if ending == "json" => "cold manifest",
        ["cold", "manifest", ..] if ending == "footer" => "cold footer",
        ["cold", ..] if text.ends_with(UNNAMED_OBJECT) => "cold unnamed object",
        ["cold", "ticks", _, _, _] if is_bar => "cold bar object",
        ["cold", "ticks", _, _, _] => "cold tick object",
        _ => panic!("{text}: a file of no known kind"),
    };
    Some(kind)
}

/// Every kind of file.
const FILE_KINDS: usize = 28;

/// What a message calls the file at `path` of the data directory, at least.
fn called(path: &Path) -> String {
    let below_cold = path.strip_prefix("cold").ok();
    let parts: Vec<_> = below_cold.unwrap_or(path).iter().map(|part| part.to_string_lossy()).collect();
    parts[parts.len().saturating_sub(2)..].join("/")
}

/// Whether `said` names what the manifest of warm at `path` named before its last edits, and what is to be brought
/// back: one that lost whole edits is as it was before them, and its files that a repair replaced are missing.
fn is_of_before(path: &Path, said: &str) -> bool {
    kind_of(path) == Some("warm manifest") && said.contains(".parquet is damaged: the file is missing; ")
}

/// The files of `dir` below a path, which all have content, by kind.
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
    /// It did what it must not do without a word: what.
    Wrong(String),
}

impl Found {
    fn said(&self) -> Option<&str> {
        match self {
            Self::Rows(_) | Self::Wrong(_) => None,
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

/// Every object of the archive in `dir`, by its path in the data directory.
fn objects(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut by_kind = BTreeMap::new();
    files(dir, Path::new(""), &mut by_kind);
    let all = by_kind.into_values().flatten().filter(|path| path.starts_with("cold"));
    all.map(|path| (path.clone(), fs::read(dir.join(path)).expect("an object"))).collect()
}

/// As `stk archive run` and `stk archive verify` take it, and `stk history --data` after them. The file that
/// is `damaged` may be replaced only if the commands name it, and the others only where each run rewrites them.
fn archived(home: &Home, dir: &Path, damaged: &Path) -> Found {
    let before = objects(dir);
    let data = dir.display().to_string();
    let (mut said, mut refused, mut is_called_sound) = (String::new(), String::new(), false);
    for command in ["run", "verify"] {
        let mut command = home.stk(&["archive", command, "--data", &data]);
        let output = bounded(command.envs(ARCHIVE_ENV)).output().expect("the binary runs");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        if is_crash(output.status) {
            return Found::Died(text.into_owned());
        }
        if !output.status.success() {
            refused.push_str(&text);
        }
        is_called_sound = output.status.success();
        said.push_str(&text);
    }
    let after = objects(dir);
    let is_told = said.contains(&called(damaged));
    let newest_lease = before.keys().rfind(|path| kind_of(path) == Some("lease")).cloned();
    let is_lost = |(path, bytes): (&PathBuf, &Vec<u8>)| {
        let is_state = matches!(
            kind_of(path),
            Some("log.json" | "log.copy.json" | "garbage.json" | "scrub.json" | "cold journal")
        );
        let is_spared = match kind_of(path) {
            // All but the newest are of no use, and are removed.
            Some("lease") => Some(path) != newest_lease.as_ref() || path != damaged || is_told,
            // Cut by its last line break alone, it says all that it said.
            _ if path == damaged && is_state && bytes.ends_with(b"}") => {
                is_told || serde_json::from_slice::<serde_json::Value>(bytes).is_ok()
            }
            _ if path == damaged => is_told,
            _ => is_state,
        };
        (!is_spared && after.get(path) != Some(bytes)).then(|| path.display().to_string())
    };
    let lost: Vec<_> = before.iter().filter_map(is_lost).collect();
    if !lost.is_empty() {
        return Found::Wrong(format!("{} removed or replaced: {said}", lost.join(", ")));
    }
    match offline(home, dir) {
        Found::Said(found) if is_called_sound && damaged.starts_with("cold") => {
            Found::Wrong(format!("called sound: {said}\n  history: {found}"))
        }
        Found::Said(found) => Found::Said(refused + &found),
        Found::Rows(_) if !refused.is_empty() => Found::Said(refused),
        found => found,
    }
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
    /// The archive's other object with the log's name is copied over the damaged one.
    CopyOther,
}

#[derive(Clone, Copy, Default)]
struct Outcomes {
    trials: u64,
    right: u64,
    refused: u64,
    /// Refused, and what it said does not name the damaged file.
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
            Found::Wrong(wrong) => {
                self.silent += 1;
                return Some(format!("{what}: {wrong}"));
            }
            Found::Said(said) => (said, false),
            Found::Died(said) => (said, true),
        };
        self.refused += 1;
        if has_died {
            self.died += 1;
            eprintln!("died: {what}: {said}");
        } else if !said.contains(&called(path)) && !is_of_before(path, said) {
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

/// One damaged file, read by all.
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

    /// As the readers find the copy in `dir` of the store in `sound`: by their names. The last one changes
    /// what it can, so that its advice can be followed there.
    fn read(&self, home: &Home, sound: &Path, dir: &Path) -> [Found; 3] {
        let damage = || {
            let _ = fs::remove_dir_all(dir);
            copy(sound, dir);
            replace(&dir.join(&self.path), &self.bytes);
        };
        damage();
        let by_archive = archived(home, dir, &self.path);
        damage();
        [offline(home, dir), served(home, dir), by_archive]
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
        if is_advised(&["; copy log.json over it", "; copy log.copy.json over it"]) {
            ways.push(Way::CopyOther);
        }
        if is_advised(&["; remove it", ", remove it"]) {
            ways.push(Way::Remove);
        }
        ways
    }

    /// What has to come back from a copy as a whole.
    fn copied(&self) -> PathBuf {
        match self.kind {
            _ if self.path.starts_with("log") => PathBuf::from("log"),
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
            Way::CopyOther => {
                let other = if self.kind == "log.json" { "cold/log.copy.json" } else { "cold/log.json" };
                fs::copy(dir.join(other), dir.join(&self.path)).map(drop).expect("copied");
            }
        }
        // The server first: it begins a new log where the old one is gone. The archive waits for a decision then.
        let mut all = vec![("server", served(home, dir)), ("--data", offline(home, dir))];
        if !gives_up {
            all.push(("archive", archived(home, dir, &self.path)));
        }
        for (reader, found) in all {
            let rows = match found {
                Found::Rows(rows) => rows,
                Found::Said(said) | Found::Died(said) => return Err(format!("then {reader} says {said}")),
                Found::Wrong(wrong) => return Err(format!("then {reader} did wrong: {wrong}")),
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
    assert_eq!(by_kind.len(), FILE_KINDS, "{by_kind:?}");
    assert!(by_kind["log tables"].len() > 2, "{by_kind:?}");
    let only = std::env::var("STK_TEST_ROT_KIND").unwrap_or_default();
    by_kind.retain(|kind, _| kind.contains(&only));
    let (seed, trials) = (number("STK_TEST_ROT_SEED", 1), number("STK_TEST_ROTS", by_kind.len() as u64));
    let follow_every = number("STK_TEST_ROT_FOLLOW", 1);
    let table = Mutex::new(Table::default());
    let begin = |job| home.path(&format!("damaged-{job}"));
    support::share_out(0..trials, support::jobs(), begin, |dir, number| {
        let trial = Trial::new(number, seed, &data, &by_kind);
        let found = trial.read(&home, &data, dir);
        let said: Vec<_> = found.iter().filter_map(Found::said).collect();
        // Of each kind one in so many, whichever has its turn.
        let is_followed = !said.is_empty() && (number / by_kind.len() as u64).is_multiple_of(follow_every);
        let stuck = is_followed.then(|| trial.follow(&home, (&data, &sound), dir, &said.concat()).err());
        let mut table = table.lock().expect("no job has failed");
        for (found, reader) in found.iter().zip(["--data", "server", "archive"]) {
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
    for (outcome, counted) in [
        ("refused by dying", (|outcomes| outcomes.died) as fn(&Outcomes) -> u64),
        ("refused without the name of the file", |outcomes| outcomes.unnamed),
    ] {
        let count: u64 = table.rows.values().map(counted).sum();
        assert_eq!(count, 0, "seed {seed}: {outcome}, see above");
    }
}
