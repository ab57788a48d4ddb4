//! Bit rot: stored files with a flipped bit or a lost end. An answer has exactly the right rows, or says
//! what it lacks, or is an error that names the file; whether it is read by `stk history --data` or
//! by a server.
//!
//! `STK_TEST_ROTS` says how many files are damaged of each kind, `STK_TEST_ROT_SEED` repeats the damage,
//! `STK_TEST_ROT_KIND` picks one kind. `scripts/rot-matrix` runs many and prints a table.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use stk::client::Endpoint;
use stk::client::rest::RestClient;
use stk::config::{Config, Resolved};
use stk::feed::iex::make;
use stk::market::{Kind, TimeRange};
use stk::server::node::Node;
use stk::server::stores::Stores;
use stk::tiering::history::HistoryQuery;
use stk::tiering::history::format::{Format, RowWriter};

use super::support::{Home, Server};

/// Files that are damaged of each kind in CI.
const ROTS_IN_CI: u64 = 1;

/// The kinds of rows that are asked for.
const KINDS: [Kind; 3] = [Kind::Trade, Kind::Quote, Kind::Bar];

/// Damage that only whoever keeps the log can tell from what a crash leaves. They are counted, and
/// fail no test yet.
const OF_THE_LOG: [&str; 3] = ["log journal", "log files", "epoch"];

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
/// archive, one is in warm alone, and some rows are in the log alone.
fn stored(home: &Home) -> PathBuf {
    let data = home.path("sound");
    let data_text = data.display().to_string();
    let run = |args: &[&str]| {
        let mut command = home.stk(args);
        command.env("STK_LOG_PARTITIONS", "2").env("STK_ARCHIVE_SETTLE_MINUTES", "0");
        let shown = home.shown(&mut command);
        assert!(shown.starts_with("exit: 0\n"), "{args:?}: {shown}");
    };
    let first = capture(home, "first.pcap", "2025-03-06", 300, &["AAPL", "MSFT"]);
    run(&["replay", &first, "--speed", "max", "--data", &data_text]);
    run(&["archive", "run", "--data", &data_text]);
    let second = capture(home, "second.pcap", "2025-03-07", 300, &["AAPL", "NVDA", "TSLA"]);
    run(&["replay", &second, "--speed", "max", "--data", &data_text]);
    let server = Server::start_with(home, &data, "127.0.0.1:0", &[], &[]);
    let third = capture(home, "third.pcap", "2025-03-10", 40, &["AAPL", "MSFT"]);
    run(&["replay", &third, "--speed", "max", "--ingest", &server.ingest]);
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

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).map(drop).expect("copied");
        }
    }
}

fn config(data: &Path) -> Config {
    let flags = [
        ("data.dir", data.display().to_string(), "--data"),
        ("server.listen", "127.0.0.1:0".to_owned(), "--listen"),
        ("server.ingest_listen", "127.0.0.1:0".to_owned(), "--ingest-listen"),
    ];
    Resolved::new(None, [], &flags).expect("good settings").config()
}

/// Rows by kind, or why there are none, or what the answer says that it lacks.
type Rows = Result<Vec<String>, String>;

/// As `stk history --data` reads.
async fn offline(data: &Path) -> Rows {
    let stores = Stores::open_existing(&config(data)).await.map_err(|error| error.to_string())?;
    let rows = async {
        let mut all = Vec::new();
        for kind in KINDS {
            let query = HistoryQuery {
                symbols: Vec::new(),
                kind,
                timeframe: None,
                range: TimeRange::ALL,
                limit: None,
            };
            let answer = stores.history().query(query).await.map_err(|error| error.to_string())?;
            let coverage = &answer.coverage;
            if !coverage.missing.is_empty()
                || !coverage.broken.is_empty()
                || coverage.archived.is_partial()
                || coverage.archived.unasked.is_some()
            {
                return Err(format!("partial: {coverage:?}"));
            }
            let mut writer =
                RowWriter::new(Format::Csv, kind, Vec::new()).map_err(|error| error.to_string())?;
            let batches: Vec<_> = answer.rows.try_collect().await.map_err(|error| error.to_string())?;
            for batch in batches {
                writer.write(&batch.into()).map_err(|error| error.to_string())?;
            }
            let bytes = writer.finish().map_err(|error| error.to_string())?;
            all.push(String::from_utf8(bytes).expect("text"));
        }
        Ok(all)
    };
    let rows = rows.await;
    stores.close().await;
    rows
}

/// As a server answers.
async fn served(data: &Path) -> Rows {
    let node = Node::start(&config(data)).await.map_err(|error| error.to_string())?;
    let rows = async {
        let endpoint: Endpoint =
            format!("http://{}", node.address()).parse().map_err(|error| format!("{error:?}"))?;
        let client = RestClient::new(endpoint, None).map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        for kind in KINDS {
            let query = [("kind", kind.name().to_owned()), ("format", "csv".to_owned())];
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
    };
    let rows = rows.await;
    let _ = node.stop().await;
    rows
}

#[derive(Default)]
struct Outcomes {
    trials: u64,
    right: u64,
    refused: u64,
    /// Refused, and the message names another file than the damaged one.
    unnamed: u64,
    silent: u64,
}

impl Outcomes {
    fn count(&mut self, found: &Rows, sound: &[String], path: &Path, what: &str) -> Option<String> {
        self.trials += 1;
        match found {
            Ok(rows) if rows == sound => self.right += 1,
            Ok(rows) => {
                self.silent += 1;
                let lines =
                    |rows: &[String]| rows.iter().map(|rows| rows.lines().count()).collect::<Vec<_>>();
                return Some(format!("{what}: {:?} rows, not {:?}", lines(rows), lines(sound)));
            }
            Err(error) => {
                self.refused += 1;
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if !error.contains(name) {
                    self.unnamed += 1;
                    eprintln!("{what}: {error}");
                }
            }
        }
        None
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_never_reads_as_other_rows() {
    let home = Home::new();
    let data = tokio::task::block_in_place(|| stored(&home));
    let sound = offline(&data).await.expect("sound rows");
    let lines: Vec<_> = sound.iter().map(|rows| rows.lines().count()).collect();
    assert_eq!(lines[..2], [641, 641], "every trade and quote, and a head");
    let mut by_kind = BTreeMap::new();
    files(&data, Path::new(""), &mut by_kind);
    let seed = number("STK_TEST_ROT_SEED", 1);
    let only = std::env::var("STK_TEST_ROT_KIND").unwrap_or_default();
    let mut silent = Vec::new();
    for (kind, files) in by_kind.iter().filter(|(kind, _)| kind.contains(&only)) {
        let mut random = SplitMix64::seed_from_u64(seed);
        let (mut by_offline, mut by_server) = (Outcomes::default(), Outcomes::default());
        for trial in 0..number("STK_TEST_ROTS", ROTS_IN_CI) {
            let path = &files[(random.next_u64() % files.len() as u64) as usize];
            let mut bytes = fs::read(data.join(path)).expect("a file");
            let (at, bit) = (random.next_u64() % bytes.len() as u64, random.next_u64() % 8);
            let what = if trial % 4 == 3 {
                bytes.truncate(at as usize);
                format!("{} cut to {at} bytes", path.display())
            } else {
                bytes[at as usize] ^= 1 << bit;
                format!("{} bit {bit} of byte {at}", path.display())
            };
            for is_server in [false, true] {
                let damaged = home.path("damaged");
                let _ = fs::remove_dir_all(&damaged);
                copy(&data, &damaged);
                fs::write(damaged.join(path), &bytes).expect("written");
                let (found, outcomes, reader) = if is_server {
                    (served(&damaged).await, &mut by_server, "a server")
                } else {
                    (offline(&damaged).await, &mut by_offline, "--data")
                };
                let wrong = outcomes.count(&found, &sound, path, &format!("{what}, by {reader}"));
                if let Some(wrong) = wrong {
                    eprintln!("silent: {wrong}");
                    if !OF_THE_LOG.contains(kind) {
                        silent.push(wrong);
                    }
                }
            }
        }
        for (reader, outcomes) in [("--data", by_offline), ("server", by_server)] {
            let Outcomes { trials, right, refused, unnamed, silent } = outcomes;
            eprintln!("matrix\t{kind}\t{reader}\t{trials}\t{right}\t{refused}\t{unnamed}\t{silent}");
        }
    }
    assert!(silent.is_empty(), "seed {seed}: {silent:#?}");
}
