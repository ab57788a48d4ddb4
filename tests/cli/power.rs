//! The power-cut matrix: what `stk` did to its files is recorded call by call, and the data directory is
//! rebuilt as a power cut at any of these calls could have left it. The real binary starts on it, and
//! every row that was acknowledged before the cut has to be in history exactly once.
//!
//! Two orders in which calls reach the disk:
//!
//! - **ext4** (data=ordered, `auto_da_alloc`): names and lengths in the order of the calls, all of them up
//!   to the last sync at least; data that was not synced page by page or not at all, but before the rename
//!   that replaces a file by it.
//! - **POSIX**: a file's data lasts by a sync of the file, a name by a sync of its directory. Of the rest
//!   any part may be there.
//!
//! A few cuts in CI, `STK_TEST_CUTS` of each order by `scripts/power-matrix`, `STK_TEST_JOBS` side by side, at
//! places that `STK_TEST_KILL_SEED` repeats: half of them just before or after a sync, a rename, or a change of a
//! directory, half anywhere.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use stk::client::ingest::IngestClient;
use stk::config::Resolved;
use stk::market::Tick;
use tokio::sync::OnceCell;

use super::address::OwnAddress;
use super::crash::{PRODUCER, ticks, weigh_down};
use super::kill::{hash, seed, stored};
use super::support::{self, Home, Server, bounded, number, serve};

/// Cuts of each order in CI.
const CUTS_IN_CI: u64 = 6;
/// Ticks of a round, and of a batch.
const ROUND_TICKS: usize = 600;
const BATCH_TICKS: usize = 100;
const PAGE_BYTES: u64 = 4096;

/// Small segments and blocks, of which there are many; what was archived is dropped from warm at once.
pub(crate) const ENV: [(&str, &str); 9] = [
    ("STK_LOG_PARTITIONS", "2"),
    ("STK_LOG_DURABILITY", "always"),
    ("STK_LOG_FREE_BYTES_MIN", "0"),
    ("STK_LOG_RETENTION_BYTES", "67108864"),
    ("STK_PROCESSOR_ROWS_MAX", "1000"),
    ("STK_PROCESSOR_BLOCK_AGE_MS_MAX", "200"),
    ("STK_ARCHIVE_EVERY_MINUTES", "0"),
    ("STK_ARCHIVE_SETTLE_MINUTES", "0"),
    ("STK_WARM_KEEP_DAYS", "1"),
];

/// A call that changed something, or made it durable. Files by the number of the call that created them.
enum Op {
    Create { path: String },
    Write { file: usize, offset: u64, data: std::ops::Range<usize> },
    Truncate { file: usize, len: u64 },
    Sync { file: usize, only_data: bool },
    Rename { from: String, to: String },
    Link { from: String, to: String },
    Unlink { path: String },
    MakeDir { path: String },
    RemoveDir { path: String },
    SyncDir { path: String },
}

/// What a recorded process did, and what was acknowledged when.
struct Recording {
    trace: Vec<u8>,
    /// Each with the offset behind it in the trace.
    ops: Vec<(Op, u64)>,
    /// Ticks, and the length of the trace when they were known to be acknowledged.
    acknowledged: Vec<(Tick, u64)>,
    /// How often each tick was sent.
    sent: BTreeMap<u64, u64>,
    /// Calls just before and after which a cut is most likely to be met badly.
    steps: Vec<usize>,
}

fn parse(trace: &[u8]) -> Vec<(Op, u64)> {
    let (mut ops, mut files, mut at) = (Vec::new(), HashMap::new(), 0);
    let number = |at: usize| u64::from_le_bytes(trace[at..at + 8].try_into().expect("8 bytes"));
    let length = |at: usize| u32::from_le_bytes(trace[at..at + 4].try_into().expect("4 bytes")) as usize;
    // A process that was killed may have left a part of an entry.
    while at + 25 <= trace.len() && at + 25 + length(at + 17) + length(at + 21) <= trace.len() {
        let (kind, inode, a) = (trace[at], number(at + 1), number(at + 9));
        let (first, second) = (length(at + 17), length(at + 21));
        at += 25;
        let text = |from: usize, len: usize| String::from_utf8_lossy(&trace[from..from + len]).into_owned();
        let (path, other) = (text(at, first), at + first..at + first + second);
        at = other.end;
        // A file that was there before the recording does not count.
        let file = || files.get(&inode).copied();
        let to = || text(other.start, second);
        let op = match kind {
            b'C' => {
                files.insert(inode, ops.len());
                Some(Op::Create { path })
            }
            b'W' => file().map(|file| Op::Write { file, offset: a, data: other.clone() }),
            b'T' => file().map(|file| Op::Truncate { file, len: a }),
            b'F' => file().map(|file| Op::Sync { file, only_data: a == 1 }),
            b'R' => Some(Op::Rename { from: path, to: to() }),
            b'L' => Some(Op::Link { from: path, to: to() }),
            b'U' => Some(Op::Unlink { path }),
            b'M' => Some(Op::MakeDir { path }),
            b'D' => Some(Op::RemoveDir { path }),
            b'S' => Some(Op::SyncDir { path }),
            _ => panic!("a trace has no entries of kind {kind}"),
        };
        ops.extend(op.map(|op| (op, at as u64)));
    }
    ops
}

/// What a file holds; pages of zeroes are left out.
#[derive(Clone, Default)]
struct Content {
    len: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Content {
    fn write(&mut self, offset: u64, data: &[u8]) {
        self.len = self.len.max(offset + data.len() as u64);
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (page, within) = (at / PAGE_BYTES, (at % PAGE_BYTES) as usize);
            let count = (PAGE_BYTES as usize - within).min(data.len() - done);
            let bytes = self.pages.entry(page).or_insert_with(|| vec![0; PAGE_BYTES as usize]);
            bytes[within..within + count].copy_from_slice(&data[done..done + count]);
            done += count;
        }
    }

    fn truncate(&mut self, len: u64) {
        self.pages.split_off(&len.div_ceil(PAGE_BYTES));
        if let Some(last) = self.pages.get_mut(&(len / PAGE_BYTES)) {
            last[(len % PAGE_BYTES) as usize..].fill(0);
        }
        self.len = len;
    }

    fn save(&self, path: &Path) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::create(path).expect("created");
        file.set_len(self.len).expect("lengthened");
        for (page, bytes) in &self.pages {
            let at = page * PAGE_BYTES;
            let count = self.len.saturating_sub(at).min(PAGE_BYTES) as usize;
            file.write_all_at(&bytes[..count], at).expect("written");
        }
    }
}

/// A file: what of it is durable, and what was done to it since.
#[derive(Default)]
struct File {
    durable: Content,
    /// By number, calls that are not durable.
    pending: Vec<usize>,
    /// The call that replaced another file by this one, without which ext4 need not have its data.
    replaced_at: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    File(usize),
    Dir,
}

/// What is under each name; the root is not.
type Names = BTreeMap<String, Node>;

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The changes of names that the call `number` makes: name, and what is there then.
fn changes(number: usize, op: &Op, names: &Names) -> Vec<(String, Option<Node>)> {
    match op {
        Op::Create { path } => vec![(path.clone(), Some(Node::File(number)))],
        Op::MakeDir { path } => vec![(path.clone(), Some(Node::Dir))],
        Op::Link { from, to } => vec![(to.clone(), names.get(from).copied())],
        Op::Rename { from, to } => vec![(to.clone(), names.get(from).copied()), (from.clone(), None)],
        Op::Unlink { path } | Op::RemoveDir { path } => vec![(path.clone(), None)],
        _ => Vec::new(),
    }
}

fn apply(names: &mut Names, changes: impl IntoIterator<Item = (String, Option<Node>)>) {
    for (name, node) in changes {
        match node {
            Some(node) => names.insert(name, node),
            None => names.remove(&name),
        };
    }
}

/// The order in which calls reach the disk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Ext4,
    Posix,
}

impl Recording {
    /// Rebuilds in `to` what a power cut after the first `cut` calls may have left.
    fn rebuild(&self, order: Order, cut: usize, random: &mut SplitMix64, to: &Path) {
        let mut files: HashMap<usize, File> = HashMap::new();
        let (mut live, mut durable) = (Names::new(), Names::new());
        // Changes of names that no sync of their directory covers: the call, and the change.
        let mut loose: Vec<(usize, String, Option<Node>)> = Vec::new();
        // Names and lengths of all calls before are on the disk, as ext4 orders them.
        let mut committed = 0;
        for (number, (op, _)) in self.ops[..cut].iter().enumerate() {
            let changed = changes(number, op, &live);
            match op {
                Op::Create { .. } => drop(files.insert(number, File::default())),
                Op::Write { file, .. } | Op::Truncate { file, .. } => {
                    files.get_mut(file).expect("created").pending.push(number);
                }
                Op::Sync { file, only_data } => {
                    let synced = files.get_mut(file).expect("created");
                    let len = synced.durable.len;
                    for pending in std::mem::take(&mut synced.pending) {
                        self.put(pending, &mut synced.durable, |_| true);
                    }
                    if !only_data || synced.durable.len != len {
                        committed = number + 1;
                    }
                }
                Op::SyncDir { path } => {
                    committed = number + 1;
                    // What moved away is gone once it arrived.
                    let arrives: BTreeSet<usize> = loose
                        .iter()
                        .filter(|(_, name, node)| node.is_some() && parent(name) != path)
                        .map(|(number, ..)| *number)
                        .collect();
                    let is_kept = |(number, name, node): &(usize, String, Option<Node>)| {
                        parent(name) != path || (node.is_none() && arrives.contains(number))
                    };
                    let (left, lasts): (Vec<_>, Vec<_>) = loose.drain(..).partition(is_kept);
                    loose = left;
                    apply(&mut durable, lasts.into_iter().map(|(_, name, node)| (name, node)));
                }
                Op::Rename { from, to } => {
                    if let (Some(Node::File(file)), true) = (live.get(from), live.contains_key(to)) {
                        files.get_mut(file).expect("created").replaced_at = Some(number);
                    }
                }
                _ => {}
            }
            loose.extend(changed.iter().map(|(name, node)| (number, name.clone(), *node)));
            apply(&mut live, changed);
        }

        // Of what is not durable: nothing, anything or all.
        let share = [0, 50, 100][(random.next_u64() % 3) as usize];
        let is_lucky = |random: &mut SplitMix64| random.next_u64() % 100 < share;
        let written = match share {
            100 => cut,
            _ => committed + (random.next_u64() % (cut - committed + 1) as u64) as usize,
        };
        let names = match order {
            Order::Ext4 => {
                let mut names = Names::new();
                for (number, (op, _)) in self.ops[..written].iter().enumerate() {
                    let changed = changes(number, op, &names);
                    apply(&mut names, changed);
                }
                names
            }
            Order::Posix => {
                let mut arrived = BTreeSet::new();
                let moves: BTreeSet<usize> =
                    loose.iter().filter(|(.., node)| node.is_some()).map(|(number, ..)| *number).collect();
                for (number, name, node) in loose {
                    // What moves is in its old place until it is in the new one.
                    let is_left = node.is_none() && moves.contains(&number);
                    let lasts = if is_left { arrived.contains(&number) } else { is_lucky(random) };
                    if lasts {
                        arrived.insert(number);
                        apply(&mut durable, [(name, node)]);
                    }
                }
                durable
            }
        };
        std::fs::create_dir(to).expect("created");
        for (name, node) in &names {
            // Sorted, so that a directory comes before what is in it, which may be gone with it.
            let path = to.join(name);
            if !path.parent().is_some_and(Path::is_dir) {
                continue;
            }
            let Node::File(file) = node else {
                std::fs::create_dir(path).expect("created");
                continue;
            };
            let file = &files[file];
            let mut content = file.durable.clone();
            for &pending in &file.pending {
                let is_replacement = file.replaced_at.is_some_and(|at| pending < at && at < written);
                match (order, &self.ops[pending].0) {
                    (Order::Ext4, Op::Truncate { .. }) if pending >= written => {}
                    (Order::Ext4, Op::Truncate { .. }) => self.put(pending, &mut content, |_| true),
                    (Order::Ext4, _) if is_replacement => self.put(pending, &mut content, |_| true),
                    _ => self.put(pending, &mut content, |_| is_lucky(random)),
                }
            }
            content.save(&path);
        }
    }

    /// Does to `content` what the call `number` does, of a write the pages that are `lucky`.
    fn put(&self, number: usize, content: &mut Content, mut lucky: impl FnMut(u64) -> bool) {
        match &self.ops[number].0 {
            Op::Truncate { len, .. } if lucky(0) => content.truncate(*len),
            Op::Write { offset, data, .. } => {
                let mut at = data.start;
                while at < data.end {
                    let to = offset + (at - data.start) as u64;
                    let count = ((PAGE_BYTES - to % PAGE_BYTES) as usize).min(data.end - at);
                    if lucky(to / PAGE_BYTES) {
                        content.write(to, &self.trace[at..at + count]);
                    }
                    at += count;
                }
            }
            _ => {}
        }
    }
}

/// Calls just before and after which a cut is most likely to be met badly.
fn steps(ops: &[(Op, u64)]) -> Vec<usize> {
    let is_step = |op: &Op| !matches!(op, Op::Write { .. } | Op::Truncate { .. } | Op::Create { .. });
    let steps = ops.iter().enumerate().filter(|(_, (op, _))| is_step(op));
    steps.flat_map(|(number, _)| [number, number + 1]).collect()
}

/// Compiles the recorder. `None`, as said, where it can't be used.
pub(crate) fn recorder(home: &Home) -> Option<PathBuf> {
    let library = home.path("recorder.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power/recorder.c");
    let mut compile = Command::new("cc");
    compile.args(["-O2", "-Wall", "-shared", "-fPIC", "-o"]).arg(&library).arg(source);
    assert!(compile.status().expect("cc is there, as Rust links by it").success());
    let mut probe = recorded(home.stk(&["--version"]), &library, home);
    let is_good = probe.output().expect("the binary runs").status.success();
    if !is_good {
        assert!(std::env::var_os("CI").is_none(), "system calls can't be trapped by seccomp here");
        eprintln!("skipped: system calls can't be trapped by seccomp here");
    }
    is_good.then_some(library)
}

fn recorded(mut command: Command, recorder: &Path, home: &Home) -> Command {
    let root = std::fs::canonicalize(home.path("")).expect("it is there");
    command.envs(ENV).env("LD_PRELOAD", recorder);
    command.env("RECORD_ROOT", root.join("data")).env("RECORD_TRACE", root.join("trace"));
    command.env("STK_DATA_DIR", root.join("data"));
    command
}

/// Records two lives of a server and an archive run between them.
async fn record(home: &Home, recorder: &Path) -> Recording {
    let (data, ingest) = (home.path("data"), OwnAddress::new());
    std::fs::create_dir(&data).expect("created");
    let life = || {
        let command = serve(home, &data, Some("127.0.0.1:0"), &ingest, &[], &ENV);
        Server::run(recorded(command, recorder, home), true)
    };
    let mut acknowledged = Vec::new();
    let mut server = life();
    let mut client = support::ingest(&ingest, PRODUCER, u32::MAX).await.expect("a server");
    for round in 0..6 {
        bring(home, &mut client, &ticks(round, ROUND_TICKS), &mut acknowledged).await;
        // More than a segment of the log, every third round.
        weigh_down(&ingest, 3).await.expect("a server");
        if round == 3 {
            let (code, said) = server.drained();
            assert_eq!(code, Some(0), "{said:#?}");
            let archived = recorded(home.stk(&["archive", "run"]), recorder, home).output();
            let archived = archived.expect("the binary runs");
            assert!(archived.status.success(), "{}", String::from_utf8_lossy(&archived.stderr));
            server = life();
        }
    }
    server.kill();
    let trace = std::fs::read(home.path("trace")).expect("a trace");
    let ops = parse(&trace);
    let mut sent: BTreeMap<u64, u64> = BTreeMap::new();
    acknowledged.iter().for_each(|(tick, _)| *sent.entry(hash(tick)).or_insert(0) += 1);
    Recording { steps: steps(&ops), trace, ops, acknowledged, sent }
}

async fn bring(home: &Home, client: &mut IngestClient, ticks: &[Tick], acknowledged: &mut Vec<(Tick, u64)>) {
    for batch in ticks.chunks(BATCH_TICKS) {
        client.send(batch).await.expect("taken in the end");
        client.flush().await.expect("acknowledged in the end");
        let at = std::fs::metadata(home.path("trace")).expect("a trace").len();
        acknowledged.extend(batch.iter().map(|tick| (tick.clone(), at)));
    }
}

/// A line of the matrix, told when it is let go of.
struct Row {
    order: &'static str,
    cuts: u64,
    lost: u64,
    doubled: u64,
    refused: u64,
}

impl Drop for Row {
    fn drop(&mut self) {
        let Self { order, cuts, lost, doubled, refused } = self;
        let failed = if std::thread::panicking() { "failed" } else { "passed" };
        eprintln!("\npower\t{order}\t{cuts}\t{lost}\t{doubled}\t{refused}\t{failed}");
    }
}

/// What all tests cut: recorded once.
async fn recording() -> Option<&'static Recording> {
    static RECORDING: OnceCell<Option<Recording>> = OnceCell::const_new();
    let record = async || {
        let home = Home::new();
        let recorder = recorder(&home)?;
        Some(record(&home, &recorder).await)
    };
    RECORDING.get_or_init(record).await.as_ref()
}

/// The place of the cut `number`, and what is left of what was not durable: always the same of a seed.
fn random_of(seed: u64, number: u64) -> SplitMix64 {
    SplitMix64::seed_from_u64(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// Cuts the power, and looks for every row: what is wrong then, in words.
async fn cut(recording: &Recording, order: Order, home: &Home, mut random: SplitMix64, row: &Mutex<Row>) {
    let (steps, calls) = (&recording.steps, recording.ops.len());
    let cut = match random.next_u64() % 2 {
        0 => steps[(random.next_u64() % steps.len() as u64) as usize],
        _ => (random.next_u64() % calls as u64) as usize + 1,
    };
    let data = home.path("rebuilt");
    recording.rebuild(order, cut, &mut random, &data);
    let row = || row.lock().unwrap_or_else(PoisonError::into_inner);
    row().cuts += 1;
    let name = row().order;
    let command = || serve(home, &data, Some("127.0.0.1:0"), "127.0.0.1:0", &[], &ENV);
    let command_to_start = command();
    let started = tokio::task::spawn_blocking(move || Server::run(command_to_start, true).drained());
    if !started.await.is_ok_and(|(code, _)| code == Some(0)) {
        row().refused += 1;
        // One that does start now is ended.
        let said = home.shown(&mut bounded(&command()));
        panic!("{name}: the server does not start after a cut after call {cut} of {calls}: {said}");
    }
    let flags = [("data.dir", data.display().to_string(), "--data")];
    let env = ENV.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let counts = stored(&Resolved::new(None, env, &flags).expect("good settings").config()).await;
    let end = recording.ops[..cut].last().map_or(0, |(_, end)| *end);
    let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
    let before = recording.acknowledged.iter().filter(|(_, at)| *at <= end);
    before.for_each(|(tick, _)| *expected.entry(hash(tick)).or_insert(0) += 1);
    let more = |these: &BTreeMap<u64, u64>, than: &BTreeMap<u64, u64>| -> u64 {
        these.iter().map(|(tick, count)| count.saturating_sub(*than.get(tick).unwrap_or(&0))).sum()
    };
    let (lost, doubled) = (more(&expected, &counts), more(&counts, &recording.sent));
    row().lost += lost;
    row().doubled += doubled;
    assert_eq!((lost, doubled), (0, 0), "{name}: lost, doubled after call {cut} of {calls}");
    std::fs::remove_dir_all(data).expect("removed");
}

async fn matrix(order: Order, name: &'static str) {
    let Some(recording) = recording().await else { return };
    let (cuts, seed) = (number("STK_TEST_CUTS", CUTS_IN_CI), seed());
    let row = Mutex::new(Row { order: name, cuts: 0, lost: 0, doubled: 0, refused: 0 });
    support::side_by_side(cuts, |number, home, runtime| {
        runtime.block_on(cut(recording, order, home, random_of(seed, number), &row));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_in_the_order_of_ext4_loses_and_doubles_nothing() {
    matrix(Order::Ext4, "ext4").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_in_the_order_of_posix_loses_and_doubles_nothing() {
    matrix(Order::Posix, "POSIX").await;
}
