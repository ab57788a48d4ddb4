//! Errors of the disk and a clock that jumps. While a server takes ticks and its days are archived, calls of
//! it fail that change files, or its clock is set. Then it starts without the fault on what is left, and
//! every row that was acknowledged has to be in history exactly once.
//!
//! `STK_TEST_FAULTS` says how many lives are lived, `STK_TEST_JOBS` side by side, `STK_TEST_FAULT_SEED` repeats
//! them, though not the order of a server's threads. `scripts/fault-matrix` runs many and prints a table.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use stk::config::Resolved;
use stk::market::Tick;

use super::crash::ticks;
use super::kill::{hash, stored};
use super::power::{ENV, recorder};
use super::rot::copy;
use super::support::{self, Home, PATIENCE, Server, number, serve};

/// One of each kind of fault in CI.
const FAULTS_IN_CI: u64 = KINDS.len() as u64;
const TICKS: usize = 300;
const BATCH_TICKS: usize = 50;
/// More than a life makes.
const ALWAYS: u64 = 1 << 40;
const DAY_S: i64 = 86_400;

/// What is done to a server.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A call fails with an error, by its name and number.
    Call(&'static str, &'static str, i32),
    /// The clock is set again and again, by up to so many seconds.
    Clock(&'static str, i64),
}

const KINDS: [Kind; 15] = [
    Kind::Call("open", "EIO", 5),
    Kind::Call("open", "EMFILE", 24),
    Kind::Call("open", "EROFS", 30),
    Kind::Call("write", "EIO", 5),
    Kind::Call("write", "ENOSPC", 28),
    Kind::Call("sync", "EIO", 5),
    Kind::Call("sync", "ENOSPC", 28),
    Kind::Call("rename", "EIO", 5),
    Kind::Call("rename", "ENOSPC", 28),
    Kind::Call("unlink", "EIO", 5),
    Kind::Call("mkdir", "ENOSPC", 28),
    Kind::Call("truncate", "EIO", 5),
    Kind::Clock("hours", 5 * 3600),
    Kind::Clock("days", 20 * DAY_S),
    Kind::Clock("years", 9 * 365 * DAY_S),
];

impl Kind {
    fn name(self) -> String {
        match self {
            Self::Call(call, error, _) => format!("{call} {error}"),
            Self::Clock(span, _) => format!("clock by {span}"),
        }
    }
}

/// How often, by kind of fault.
#[derive(Clone, Copy, Default)]
struct Outcomes {
    lives: u64,
    /// Lives in which the fault came to pass.
    met: u64,
    /// Starts that were refused while it lasted.
    refused: u64,
    acknowledged: u64,
    lost: u64,
    doubled: u64,
    /// Directories that no server starts on afterwards.
    unusable: u64,
}

/// A life with a fault, and what became of it.
struct Life<'a> {
    home: &'a Home,
    data: PathBuf,
    recorder: &'a Path,
    kind: Kind,
    random: SplitMix64,
    /// Sent, and whether it is known to be acknowledged.
    sent: Vec<(Tick, bool)>,
    found: Outcomes,
}

impl Life<'_> {
    fn below(&mut self, count: u64) -> u64 {
        self.random.next_u64() % count
    }

    /// `command` under the fault.
    fn faulty(&mut self, mut command: Command) -> Command {
        let root = fs::canonicalize(self.home.path("")).expect("it is there");
        command.envs(ENV).env("LD_PRELOAD", self.recorder).env("STK_DATA_DIR", &self.data);
        match self.kind {
            Kind::Call(call, _, error) => {
                // Early calls are of the start, of which there are few of most kinds.
                let most = [4, 20, 100, 400][self.below(4) as usize];
                let (at, count) = (self.below(most) + 1, [1, 3, ALWAYS][self.below(3) as usize]);
                command.env("RECORD_ROOT", root.join(self.data.file_name().expect("it has a name")));
                command.env("FAULT_CALL", call).env("FAULT_ERRNO", error.to_string());
                command.env("FAULT_AT", at.to_string()).env("FAULT_COUNT", count.to_string());
                command.env("FAULT_LOG", root.join("met"));
            }
            Kind::Clock(..) => {
                command.env("CLOCK_FILE", self.home.path("clock"));
            }
        }
        command
    }

    fn set_clock(&mut self) {
        let Kind::Clock(_, most_s) = self.kind else { return };
        let offset = self.below(2 * most_s as u64) as i64 - most_s;
        fs::write(self.home.path("clock"), offset.to_le_bytes()).expect("written");
        self.found.met = 1;
    }

    /// Serves, takes ticks, archives, ends.
    async fn live(&mut self, producer: u64) {
        self.set_clock();
        let command = serve(self.home, &self.data, Some("127.0.0.1:0"), "127.0.0.1:0", &[], &[]);
        let command = self.faulty(command);
        let Some(server) = Server::try_run(command) else {
            self.found.refused = 1;
            return;
        };
        for (at, batch) in ticks(producer, TICKS).chunks(BATCH_TICKS).enumerate() {
            let sending = async {
                let mut client = support::ingest(&server.ingest, producer << 8 | at as u64, 1).await?;
                client.send(batch).await?;
                client.flush().await
            };
            let is_acknowledged =
                tokio::time::timeout(PATIENCE / 3, sending).await.is_ok_and(|sent| sent.is_ok());
            self.sent.extend(batch.iter().map(|tick| (tick.clone(), is_acknowledged)));
            self.set_clock();
            if at == 3 {
                let archive = self.home.bounded(&["archive", "run", "--server", &server.address]).output();
                archive.expect("the binary runs");
            }
            if !is_acknowledged && self.below(2) == 0 {
                break;
            }
        }
        self.found.acknowledged =
            self.sent.iter().filter(|(_, is_acknowledged)| *is_acknowledged).count() as u64;
        match self.below(2) {
            0 => server.kill(),
            _ => server.end_soon(),
        }
    }

    /// Starts without the fault, and counts: what is wrong, in words.
    async fn check(&mut self, before: &[Tick]) -> Option<String> {
        let server = serve(self.home, &self.data, Some("127.0.0.1:0"), "127.0.0.1:0", &[], &ENV);
        let Some(server) = Server::try_run(server) else {
            self.found.unusable = 1;
            let mut again = support::bounded(&serve(
                self.home,
                &self.data,
                Some("127.0.0.1:0"),
                "127.0.0.1:0",
                &[],
                &ENV,
            ));
            return Some(format!("no server starts: {}", self.home.shown(&mut again)));
        };
        let (code, said) = server.drained();
        if code != Some(0) {
            self.found.unusable = 1;
            return Some(format!("the server ended with {code:?}: {said:#?}"));
        }
        let flags = [("data.dir", self.data.display().to_string(), "--data")];
        let env = ENV.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let counts = stored(&Resolved::new(None, env, &flags).expect("good settings").config()).await;
        // By tick, how often it may be there, and how often it has to.
        let mut known: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        let all = before.iter().map(|tick| (tick, true));
        for (tick, is_acknowledged) in
            all.chain(self.sent.iter().map(|(tick, acknowledged)| (tick, *acknowledged)))
        {
            let (may, has_to) = known.entry(hash(tick)).or_default();
            *may += 1;
            *has_to += u64::from(is_acknowledged);
        }
        for (tick, (may, has_to)) in &known {
            let count = counts.get(tick).copied().unwrap_or(0);
            self.found.lost += has_to.saturating_sub(count);
            self.found.doubled += count.saturating_sub(*may);
        }
        self.found.doubled +=
            counts.iter().filter(|(tick, _)| !known.contains_key(tick)).map(|(_, count)| count).sum::<u64>();
        let Outcomes { lost, doubled, .. } = self.found;
        (lost + doubled > 0).then(|| format!("{lost} rows lost, {doubled} doubled"))
    }
}

/// A data directory of a day that is archived, and one that is not; and its ticks.
async fn base(home: &Home) -> (PathBuf, Vec<Tick>) {
    let (data, mut all) = (home.path("base"), Vec::new());
    for round in 1..3 {
        let server = Server::start_with(home, &data, "127.0.0.1:0", &[], &ENV);
        let mut client = support::ingest(&server.ingest, round, 3).await.expect("a server");
        let ticks = ticks(round, TICKS);
        client.send(&ticks).await.expect("taken");
        client.flush().await.expect("acknowledged");
        all.extend(ticks);
        let (code, said) = server.drained();
        assert_eq!(code, Some(0), "{said:#?}");
        if round == 1 {
            let mut archive = home.stk(&["archive", "run", "--data", &data.display().to_string()]);
            let shown = home.shown(archive.envs(ENV));
            assert!(shown.starts_with("exit: 0\n"), "{shown}");
        }
    }
    (data, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_outlives_errors_of_the_disk_and_jumps_of_the_clock() {
    let home = Home::new();
    let Some(recorder) = recorder(&home) else { return };
    let (sound, before) = base(&home).await;
    let (seed, lives) = (number("STK_TEST_FAULT_SEED", 1), number("STK_TEST_FAULTS", FAULTS_IN_CI));
    let table: Mutex<BTreeMap<String, Outcomes>> = Mutex::default();
    let wrong = Mutex::new(Vec::new());
    support::side_by_side(lives, |number, home, runtime| {
        let kind = KINDS[(number % KINDS.len() as u64) as usize];
        let mut life = Life {
            home,
            data: home.path("data"),
            recorder: &recorder,
            kind,
            random: SplitMix64::seed_from_u64(seed.wrapping_mul(1 << 32).wrapping_add(number)),
            sent: Vec::new(),
            found: Outcomes { lives: 1, ..Outcomes::default() },
        };
        // One in four begins without a store.
        let is_new = life.below(4) == 0;
        if !is_new {
            copy(&sound, &life.data);
        }
        let before = if is_new { &[][..] } else { &before[..] };
        runtime.block_on(life.live(3 + number % 100));
        let met = fs::read_to_string(home.path("met")).unwrap_or_default();
        life.found.met |= u64::from(!met.is_empty());
        let found = runtime.block_on(life.check(before));
        if let Some(found) = found {
            let mut met: Vec<_> = met.lines().take(5).collect();
            met.dedup();
            let found = format!("life {number}, {}, of {met:?}: {found}", kind.name());
            eprintln!("{found}");
            wrong.lock().expect("no job has failed").push(found);
        }
        let mut table = table.lock().expect("no job has failed");
        let row = table.entry(kind.name()).or_default();
        let found = life.found;
        row.lives += found.lives;
        row.met += found.met;
        row.refused += found.refused;
        row.acknowledged += found.acknowledged;
        row.lost += found.lost;
        row.doubled += found.doubled;
        row.unusable += found.unusable;
        drop(table);
        let _ = fs::remove_file(home.path("met"));
        let _ = fs::remove_dir_all(home.path("data"));
    });
    for (name, row) in table.into_inner().expect("no job has failed") {
        let Outcomes { lives, met, refused, acknowledged, lost, doubled, unusable } = row;
        eprintln!("matrix\t{name}\t{lives}\t{met}\t{refused}\t{acknowledged}\t{lost}\t{doubled}\t{unusable}");
    }
    let wrong = wrong.into_inner().expect("no job has failed");
    assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
}
