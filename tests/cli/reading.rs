//! Commands that read change nothing, whatever they find; what they could not read they say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use stk::market::{Conditions, Exchange, Tape, Tick, Timestamp, Trade};

use super::support::{self, Home, Server};

const BATCHES: usize = 12;
const BATCH_TRADES: usize = 50;

/// Every file and directory below `dir`: its bytes, and when it was changed last.
pub(crate) fn everything(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let (mut found, mut open) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(path) = open.pop() {
        let metadata = std::fs::metadata(&path).expect("it is there");
        let mut bytes = Vec::new();
        if metadata.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a directory");
            open.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else {
            bytes = std::fs::read(&path).expect("a file");
        }
        found.insert(path, (bytes, metadata.modified().expect("a time")));
    }
    found
}

pub(crate) fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().expect("cp is there");
    assert!(status.success());
}

fn trades(first: usize) -> Vec<Tick> {
    let start: Timestamp = "2025-03-07T15:00:00Z".parse().expect("a time");
    let trade = |number: usize| {
        let ts = start.saturating_add_nanos(number as i64 * 1_000_000);
        Tick::Trade(Trade {
            symbol: "LOG".parse().expect("a symbol"),
            ts,
            recv_ts: ts,
            id: number as u64 + 1,
            price: "10.25".parse().expect("a price"),
            size: 1,
            conditions: Conditions::NONE,
            exchange: Exchange::IEX,
            tape: Tape::C,
        })
    };
    (first..first + BATCH_TRADES).map(trade).collect()
}

/// The data directory of a server that was killed: [`BATCHES`] of trades in its log, each synced before
/// the next was sent, and of them the first `in_warm` in warm.
async fn killed(home: &Home, in_warm: usize) -> PathBuf {
    let data = home.path("data");
    for (life, batches) in [0..in_warm, in_warm..BATCHES].into_iter().enumerate() {
        let age = [("STK_LOG_DURABILITY", "always"), ("STK_PROCESSOR_BLOCK_AGE_MS_MAX", "3600000")];
        let server = Server::start_with(home, &data, "127.0.0.1:0", &[], &age);
        let mut client = support::ingest(&server.ingest, 42 + life as u64, 10).await.expect("a server");
        for batch in batches {
            client.send(&trades(batch * BATCH_TRADES)).await.expect("taken");
            client.flush().await.expect("acknowledged");
        }
        if life == 0 {
            let (code, said) = server.drained();
            assert_eq!(code, Some(0), "{said:#?}");
        } else {
            server.kill();
        }
    }
    data
}

/// Where the batches of the newest journal end, and its bytes.
fn journal(data: &Path) -> (PathBuf, Vec<u8>, Vec<usize>) {
    let journal = data.join("log/0.jnl");
    let bytes = std::fs::read(&journal).expect("a journal");
    let windows = bytes.windows(4).enumerate().filter(|(_, window)| window == b"FJL\x03");
    let ends = windows.map(|(at, _)| at + 4).collect();
    (journal, bytes, ends)
}

/// Flips a bit in the middle of the batch that ends as the `back`th from the last one.
fn flip(data: &Path, back: usize) {
    let (journal, mut bytes, ends) = journal(data);
    let (from, to) = (ends[ends.len() - back - 1], ends[ends.len() - back]);
    bytes[usize::midpoint(from, to)] ^= 0x10;
    std::fs::write(journal, bytes).expect("written");
}

/// Runs every command that reads `data`, and makes sure that none of them changes anything. Returns what
/// `history` and `audit` said.
fn read_all(home: &Home, data: &Path) -> (String, String) {
    let shown = data.display().to_string();
    let commands: [&[&str]; 9] = [
        &["history", "LOG", "--format", "csv", "--data", &shown],
        &["history", "LOG", "--kind", "bars", "--data", &shown],
        &["audit", "--data", &shown],
        &["archive", "status", "--data", &shown],
        &["archive", "list", "--data", &shown],
        &["archive", "verify", "--data", &shown],
        &["archive", "run", "--dry-run", "--data", &shown],
        &["archive", "restore", "2025-03-07", "--dry-run", "--data", &shown],
        &["doctor"],
    ];
    let before = everything(data);
    let mut said = Vec::new();
    for args in commands {
        let mut command = home.stk(args);
        command.env("STK_DATA_DIR", data).env("TMPDIR", home.path(""));
        said.push(home.shown(&mut command));
        let after = everything(data);
        let changed: Vec<_> = after
            .iter()
            .filter(|(path, found)| before.get(*path) != Some(found))
            .map(|(path, _)| path)
            .chain(before.keys().filter(|path| !after.contains_key(*path)))
            .collect();
        assert!(changed.is_empty(), "{args:?} changed {changed:#?}: {}", said[said.len() - 1]);
    }
    let left = std::fs::read_dir(home.path("")).expect("a directory");
    let left: Vec<_> = left.map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("stk-log-")), "{left:?}");
    (said.swap_remove(0), said.swap_remove(2))
}

/// Trades in what `history --format csv` said.
fn rows(said: &str) -> usize {
    said.lines().filter(|line| line.contains("LOG")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_reads_changes_nothing_and_says_what_it_could_not_read() {
    let home = Home::new();
    let data = killed(&home, 0).await;
    let all = BATCHES * BATCH_TRADES;
    let (history, audit) = read_all(&home, &data);
    assert!(history.starts_with("exit: 0\n") && rows(&history) == all, "{history}");
    assert!(audit.starts_with("exit: 0\n"), "{audit}");

    // In the last batch, which no other vouches for: it may be a torn tail. After a power cut nothing else
    // need have told either.
    let torn = home.path("torn");
    copy(&data, &torn);
    std::fs::remove_file(torn.join("log/synced")).expect("a server was here");
    flip(&torn, 1);
    let (history, audit) = read_all(&home, &torn);
    assert!(history.starts_with("exit: 1\n") && rows(&history) == all - BATCH_TRADES, "{history}");
    assert!(history.contains("0.jnl is damaged at byte"), "{history}");
    assert!(audit.starts_with("exit: 1\n") && audit.contains("0.jnl is damaged at byte"), "{audit}");
    let (_, bytes, _) = journal(&torn);
    let server = Server::start(&home, &torn, &[]);
    server.await_ready();
    server.kill();
    let kept = std::fs::read(torn.join("log/torn-1")).expect("what was cut is kept");
    assert!(!kept.is_empty() && bytes.windows(kept.len()).any(|window| window == kept));
    let (history, _) = read_all(&home, &torn);
    assert!(history.starts_with("exit: 0\n") && rows(&history) == all - BATCH_TRADES, "{history}");

    // In the middle: no torn tail. The server starts once its advice is followed.
    let damaged = home.path("damaged");
    copy(&data, &damaged);
    flip(&damaged, 5);
    let (history, audit) = read_all(&home, &damaged);
    assert!(history.starts_with("exit: 1\n") && rows(&history) == all - 5 * BATCH_TRADES, "{history}");
    assert!(history.contains("with 4 whole batches behind the damage"), "{history}");
    assert!(audit.starts_with("exit: 1\n"), "{audit}");
    let mut serve = support::serve(&home, &damaged, Some("127.0.0.1:0"), "127.0.0.1:0", &[], &[]);
    let refused = home.shown(&mut serve);
    assert!(refused.starts_with("exit: 1\n") && refused.contains("0.jnl is damaged at byte"), "{refused}");
    let advice = refused.split('`').find(|text| text.starts_with("truncate ")).expect("a way on");
    let advice = advice.replace("[HOME]", home.path("").display().to_string().trim_end_matches('/'));
    assert!(Command::new("sh").args(["-c", &advice]).status().expect("sh is there").success(), "{advice}");
    let server = Server::start(&home, &damaged, &[]);
    server.await_ready();
    server.kill();
    let (history, _) = read_all(&home, &damaged);
    assert!(history.starts_with("exit: 0\n") && rows(&history) == all - 5 * BATCH_TRADES, "{history}");
}

/// Warm has more than a log that lost its end: a reader says so, as the server does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_before_warm_does_is_named_by_readers() {
    let home = Home::new();
    let data = killed(&home, BATCHES / 2).await;
    let (history, _) = read_all(&home, &data);
    assert!(history.starts_with("exit: 0\n") && rows(&history) == BATCHES * BATCH_TRADES, "{history}");
    // All but the log's first two batches, and the header.
    let (journal, _, ends) = journal(&data);
    let file = std::fs::File::options().write(true).open(journal).expect("a journal");
    file.set_len(ends[2] as u64).expect("cut");
    let (history, _) = read_all(&home, &data);
    assert!(history.starts_with("exit: 1\n"), "{history}");
    assert!(history.contains("0.jnl is damaged: its end is gone"), "{history}");
    // As after a power cut.
    std::fs::remove_file(data.join("log/synced")).expect("a server was here");
    let (history, audit) = read_all(&home, &data);
    assert!(history.starts_with("exit: 1\n"), "{history}");
    assert_eq!(rows(&history), BATCHES / 2 * BATCH_TRADES, "{history}");
    assert!(history.contains("warm ends at offset 6, but the log at 2"), "{history}");
    assert!(audit.starts_with("exit: 1\n"), "{audit}");
}

/// Splits the only journal into three, as if the first two had been sealed. Returns where the batches of
/// each begin and end.
fn split(data: &Path) -> Vec<(PathBuf, Vec<(usize, usize)>)> {
    let (path, bytes, ends) = journal(data);
    let starts: Vec<usize> = std::iter::once(0).chain(ends.iter().copied()).collect();
    let (first, second) = (ends.len() / 3, 2 * ends.len() / 3);
    let parts = [0..first, first..second, second..ends.len()];
    let dir = path.parent().expect("a directory");
    let write = |(number, batches): (usize, std::ops::Range<usize>)| {
        let begin = starts[batches.start];
        let end = if batches.end == ends.len() { bytes.len() } else { ends[batches.end - 1] };
        let path = dir.join(format!("{number}.jnl"));
        std::fs::write(&path, &bytes[begin..end]).expect("written");
        let of_batch = |at: usize| (starts[at] - begin, ends[at] - begin);
        (path, batches.map(of_batch).collect())
    };
    parts.into_iter().enumerate().map(write).collect()
}

/// A bit flips in a journal that others follow: readers stop before it and name the file, the server
/// refuses, and starts once its advice is followed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_an_older_journal_is_named_and_the_advice_works() {
    let home = Home::new();
    let data = killed(&home, 0).await;
    let journals = split(&data);
    let all = BATCHES * BATCH_TRADES;
    let (history, audit) = read_all(&home, &data);
    assert!(history.starts_with("exit: 0\n") && rows(&history) == all, "{history}");
    assert!(audit.starts_with("exit: 0\n"), "{audit}");
    for (number, (path, batches)) in journals.iter().enumerate().take(2) {
        for at in [batches[0], batches[batches.len() - 1]] {
            // A batch with trades is longer than one without.
            let whole = journals[..number].iter().flat_map(|(_, batches)| batches);
            let whole = whole.chain(batches.iter().take_while(|batch| batch.0 < at.0));
            let left = BATCH_TRADES * whole.filter(|batch| batch.1 - batch.0 > 500).count();
            let damaged = home.path("damaged");
            let _ = std::fs::remove_dir_all(&damaged);
            copy(&data, &damaged);
            let name = path.file_name().expect("a name");
            let file = damaged.join("log").join(name);
            let mut bytes = std::fs::read(&file).expect("a journal");
            bytes[usize::midpoint(at.0, at.1)] ^= 0x10;
            std::fs::write(&file, bytes).expect("written");
            let said = format!("{number}.jnl is damaged at byte {}, in records that were durable", at.0);

            let (history, audit) = read_all(&home, &damaged);
            assert!(history.starts_with("exit: 1\n") && history.contains(&said), "{history}");
            assert!(audit.starts_with("exit: 1\n") && audit.contains(&said), "{audit}");
            // Nothing is answered out of journals of which one is damaged that others follow.
            assert_eq!(rows(&history), 0, "{history}");
            let mut serve = support::serve(&home, &damaged, Some("127.0.0.1:0"), "127.0.0.1:0", &[], &[]);
            let refused = home.shown(&mut serve);
            assert!(refused.starts_with("exit: 1\n") && refused.contains(&said), "{refused}");
            let advice = refused.split('`').find(|text| text.starts_with("truncate ")).expect("a way on");
            let here = home.path("").display().to_string();
            let advice = advice.replace("[HOME]", here.trim_end_matches('/'));
            let followed = Command::new("sh").args(["-c", &advice]).status().expect("sh is there");
            assert!(followed.success(), "{advice}");
            let server = Server::start(&home, &damaged, &[]);
            server.await_ready();
            server.kill();
            let (history, _) = read_all(&home, &damaged);
            assert!(
                history.starts_with("exit: 0\n") && rows(&history) == left,
                "{number}: {left} rows: {history}"
            );
        }
    }
}
