//! What warm costs: nanoseconds and bytes a row on the way in, time and bytes read on the way out.
//!
//! `cargo bench --bench warm -- [rows] [write]`, by default 8,000,000 quotes of 8,000 symbols whose
//! activity falls with their rank (Zipf), in blocks of 250,000 rows over 4 partitions. What a row
//! costs is time on a processor, of all threads, so that a busy machine tells the same.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::TryStreamExt;
use parquet::file::reader::{FileReader, SerializedFileReader};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use stk::market::{
    Conditions, Exchange, Kind, Price, Quote, Seq, Symbol, SymbolTable, Tape, Tick, TickBatchBuilder,
    TimeRange, Timestamp,
};
use stk::tiering::warm::local::{LocalWarm, LocalWarmOptions};
use stk::tiering::warm::{Block, Query, Warm};

const SYMBOLS: usize = 8_000;
const PARTITIONS: u16 = 4;
const BLOCK_ROWS: usize = 250_000;
const RECORD_TICKS: u32 = 1_000;

/// A market that costs little to make: rows a simulator would send, not a simulator.
struct Market {
    random: Xoshiro256PlusPlus,
    symbols: Vec<Symbol>,
    partitions: Vec<u16>,
    cumulated: Vec<f64>,
    cents: Vec<i64>,
    ts: i64,
    next: Vec<(u64, u32)>,
}

impl Market {
    fn new() -> Self {
        let symbols: Vec<Symbol> = (0..SYMBOLS).map(|rank| name(rank).parse().expect("a symbol")).collect();
        let partitions = symbols.iter().map(|symbol| symbol.partition(PARTITIONS)).collect();
        let mut sum = 0.0;
        let cumulated = (1..=SYMBOLS)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        let cents = symbols.iter().map(|_| 500 + (random.next_u64() % 40_000) as i64).collect();
        let ts = "2026-11-20T14:30:00Z".parse::<Timestamp>().expect("a time").nanos();
        Self {
            random,
            symbols,
            partitions,
            cumulated,
            cents,
            ts,
            next: vec![(0, 0); usize::from(PARTITIONS)],
        }
    }

    fn quote(&mut self) -> (usize, Seq, Tick) {
        let draw = self.random.next_u64();
        let total = self.cumulated[SYMBOLS - 1];
        let point = (draw >> 11) as f64 / (1_u64 << 53) as f64 * total;
        let rank = self.cumulated.partition_point(|sum| *sum < point).min(SYMBOLS - 1);
        let bits = self.random.next_u64();
        self.cents[rank] = (self.cents[rank] + (bits % 3) as i64 - 1).max(100);
        self.ts += (bits >> 8) as i64 % 2_000;
        let spread = 1 + (bits >> 24) as i64 % 3;
        let price = |cents: i64| Price::from_ten_thousandths(cents * 100).expect("in range");
        let exchange =
            |bits: u64| Exchange::from_code(b"VNQPZKJYXBAC"[(bits % 12) as usize]).expect("a letter");
        let partition = self.partitions[rank];
        let (offset, index) = &mut self.next[usize::from(partition)];
        let seq = Seq { partition, offset: *offset, index: *index };
        *index += 1;
        if *index == RECORD_TICKS {
            (*offset, *index) = (*offset + 1, 0);
        }
        let quote = Quote {
            symbol: self.symbols[rank],
            ts: Timestamp::from_nanos(self.ts),
            recv_ts: Timestamp::from_nanos(self.ts + 20_000 + (bits >> 32) as i64 % 3_000),
            bid: price(self.cents[rank]),
            ask: price(self.cents[rank] + spread),
            bid_size: 100 * (1 + (bits >> 40) as u32 % 9),
            ask_size: 100 * (1 + (bits >> 44) as u32 % 9),
            bid_exchange: exchange(bits >> 48),
            ask_exchange: exchange(bits >> 52),
            conditions: Conditions::from_codes(b"R").expect("a letter"),
            tape: [Tape::A, Tape::B, Tape::C][rank % 3],
        };
        (rank, seq, Tick::Quote(quote))
    }
}

fn name(rank: usize) -> String {
    let mut letters = String::new();
    let mut rest = rank * 7919 % 456_976;
    for _ in 0..4 {
        letters.push((b'A' + (rest % 26) as u8) as char);
        rest /= 26;
    }
    letters
}

fn main() {
    let rows = std::env::args().nth(1).and_then(|rows| rows.parse().ok()).unwrap_or(8_000_000_usize);
    let write_only = std::env::args().any(|argument| argument == "write");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let warm = LocalWarm::open(dir.path(), LocalWarmOptions { compaction: false }).expect("a store");
    runtime.block_on(async {
        write(&warm, rows).await;
        columns(dir.path(), &warm);
        if write_only {
            return;
        }
        read(&warm, "before compaction").await;
        let began = Instant::now();
        let mut merges = 0;
        while warm.compact().expect("merged") {
            merges += 1;
        }
        let written = warm.metrics().compaction_bytes_written.get();
        println!("compaction: {merges} merges, {written} bytes written, {:?}", began.elapsed());
        read(&warm, "after compaction").await;
    });
    println!("rss_peak_kb: {}", rss_peak_kb());
}

async fn write(warm: &Arc<LocalWarm>, rows: usize) {
    let mut market = Market::new();
    let mut tables: Vec<SymbolTable> = (0..PARTITIONS).map(|_| SymbolTable::default()).collect();
    let mut builders: Vec<TickBatchBuilder> = (0..PARTITIONS).map(TickBatchBuilder::new).collect();
    let mut first = vec![0_u64; usize::from(PARTITIONS)];
    let (mut push, mut finish, mut commit) = (0_u64, 0_u64, 0_u64);
    let mut generated = Vec::with_capacity(BLOCK_ROWS);
    let mut left = rows;
    let began_all = Instant::now();
    while left > 0 {
        generated.clear();
        generated.extend((0..left.min(BLOCK_ROWS)).map(|_| market.quote()));
        left -= generated.len();
        let began = cpu_nanos();
        for (_, seq, tick) in &generated {
            let partition = usize::from(seq.partition);
            let number = tables[partition].intern(tick.symbol().expect("a quote has one"));
            builders[partition].push(number, *seq, tick);
        }
        push += cpu_nanos() - began;
        for partition in 0..PARTITIONS {
            let at = usize::from(partition);
            if builders[at].rows() < BLOCK_ROWS && left > 0 {
                continue;
            }
            let began = cpu_nanos();
            let batches = builders[at].finish(&tables[at]);
            finish += cpu_nanos() - began;
            let began = cpu_nanos();
            let next_offset = market.next[at].0;
            let block = Block {
                partition,
                first_offset: first[at],
                next_offset,
                batches,
                checkpoint: Bytes::from_static(&[0; 4096]),
                seam: None,
            };
            first[at] = next_offset;
            warm.commit(block).await.expect("stored");
            commit += cpu_nanos() - began;
        }
    }
    let per_row = |spent: u64| spent as f64 / rows as f64;
    let bytes: u64 = warm.stats().iter().map(|kind| kind.bytes).sum();
    println!(
        "rows: {rows}  push {:.0} ns  finish {:.0} ns  commit {:.0} ns  bytes/row {:.2}  segments {}",
        per_row(push),
        per_row(finish),
        per_row(commit),
        bytes as f64 / rows as f64,
        warm.segments().len(),
    );
    println!("wall, with making the rows: {:?}", began_all.elapsed());
}

/// Nanoseconds that this process's threads were on a processor.
fn cpu_nanos() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let of = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.flatten().map(|task| of(task.path())).sum()
}

/// Bytes a row by column, footers apart.
fn columns(dir: &Path, warm: &LocalWarm) {
    let (mut by_column, mut order, mut rows, mut total) = (HashMap::new(), Vec::new(), 0, 0);
    for info in warm.segments() {
        let file = std::fs::File::open(dir.join(info.path())).expect("a segment");
        let reader = SerializedFileReader::new(file).expect("a Parquet file");
        for group in reader.metadata().row_groups() {
            for column in group.columns() {
                let name = column.column_path().string();
                let bytes = by_column.entry(name.clone()).or_insert_with(|| {
                    order.push(name);
                    0
                });
                *bytes += column.compressed_size();
                total -= column.compressed_size();
            }
        }
        rows += info.rows;
        total += info.bytes as i64;
    }
    for name in order {
        println!("  {name:14} {:.3} bytes/row", by_column[&name] as f64 / rows as f64);
    }
    println!("  {:14} {:.3} bytes/row", "footers", total as f64 / rows as f64);
}

async fn read(warm: &LocalWarm, when: &str) {
    println!("{when}: {} segments", warm.segments().len());
    for (what, rank) in
        [("median symbol", SYMBOLS / 2), ("busiest symbol", 0), ("rarest symbol", SYMBOLS - 1)]
    {
        let symbol: Symbol = name(rank).parse().expect("a symbol");
        let query = Query::new(Kind::Quote, Some(vec![symbol]), TimeRange::ALL);
        timed(warm, what, &query).await;
        timed(warm, "  again", &query).await;
    }
    timed(warm, "all", &Query::new(Kind::Quote, None, TimeRange::ALL)).await;
}

async fn timed(warm: &LocalWarm, what: &str, query: &Query) {
    let began = Instant::now();
    let mut scan = warm.scan(query).await.expect("a scan");
    let (mut rows, mut first) = (0, None);
    while let Some(batch) = scan.rows.try_next().await.expect("rows") {
        first.get_or_insert_with(|| began.elapsed());
        rows += batch.len();
    }
    let (whole, stats) = (began.elapsed(), *scan.stats.lock().expect("not poisoned"));
    println!(
        "  {what:15} first row {:>10.2?}  all {rows} rows {whole:>10.2?}  bytes read {} ({:.3} %)",
        first.unwrap_or_default(),
        stats.bytes_read,
        100.0 * stats.bytes_read as f64 / stats.bytes_stored as f64,
    );
}

fn rss_peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|value| value.parse().ok()).unwrap_or(0)
}
