//! What hot in Redis costs: how many ticks a second it keeps up with, how far Redis is behind, what
//! travels, whose processor time it takes, and the memory of a symbol.
//!
//! `STK_TEST_REDIS=redis://… cargo bench --bench redis -- [ticks a second] [seconds]`, by default
//! 500,000 for 10 seconds; 0 is as fast as it goes. A simulated market of 8,000 symbols over 4
//! partitions, in batches of 10,000 ticks, as a processor reads them.

use std::time::{Duration, Instant};

use stk::bus::local::{LocalBus, LocalBusConfig};
use stk::feed::sim::{Sim, SimConfig};
use stk::market::{Bar, Seq, Tick, Timeframe};
use stk::tiering::hot::redis::{RedisHot, RedisHotConfig};
use stk::tiering::hot::{Hot, HotUpdates};

const SYMBOLS: usize = 8_000;
const PARTITIONS: u16 = 4;
const BATCH_TICKS: usize = 10_000;
const TICKS: usize = 1_000_000;

fn main() {
    let Ok(url) = std::env::var("STK_TEST_REDIS") else {
        println!("skipped: STK_TEST_REDIS is not set: `scripts/services up redis` starts one");
        return;
    };
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse::<f64>().ok());
    let (rate, seconds) = (arguments.next().unwrap_or(500_000.0), arguments.next().unwrap_or(10.0));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let batches = batches();
    runtime.block_on(run(&url, batches, rate, seconds));
}

/// The market's ticks by partition, in batches, and with each symbol's bars at its end.
fn batches() -> Vec<(u16, HotUpdates)> {
    let start = "2025-03-07T14:30:00Z".parse().expect("a time");
    let count = Some(TICKS as u64);
    let mut sim =
        Sim::new(SimConfig { seed: 7, symbols: SYMBOLS, rate_ticks_per_s: 100_000.0, start, count });
    let mut ticks = Vec::new();
    while sim.fill(&mut ticks, BATCH_TICKS) {}
    let mut batches: Vec<(u16, HotUpdates)> = Vec::new();
    for partition in 0..PARTITIONS {
        let of_partition =
            |tick: &&Tick| tick.symbol().is_some_and(|symbol| symbol.partition(PARTITIONS) == partition);
        let mine: Vec<&Tick> = ticks.iter().filter(of_partition).collect();
        batches.extend(mine.chunks(BATCH_TICKS).map(|chunk| {
            let ticks =
                (0..).zip(chunk).map(|(index, tick)| (Seq { partition, offset: 0, index }, (*tick).clone()));
            (partition, HotUpdates { ticks: ticks.collect(), ..HotUpdates::default() })
        }));
    }
    // Partitions take turns, as their processors do.
    batches.sort_by_key(|(_, updates)| updates.ticks.first().map(|(_, tick)| tick.ts()));
    batches
}

/// A number out of Redis's `INFO`.
async fn info(client: &redis::Client, section: &str, name: &str) -> f64 {
    let mut connection = client.get_multiplexed_async_connection().await.expect("connected");
    let text: String = redis::cmd("INFO").arg(section).query_async(&mut connection).await.expect("an answer");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(f64::NAN)
}

async fn redis_cpu(client: &redis::Client) -> f64 {
    info(client, "cpu", "used_cpu_user").await + info(client, "cpu", "used_cpu_sys").await
}

/// Seconds on a processor of this process, all threads.
fn own_cpu() -> f64 {
    let times = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = times.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap_or(0.0)).sum();
    ticks / 100.0
}

async fn run(url: &str, mut batches: Vec<(u16, HotUpdates)>, rate: f64, seconds: f64) {
    let client = redis::Client::open(url).expect("a URL");
    let prefix = format!("bench:{}:", std::process::id());
    let dir = tempfile::tempdir().expect("a directory");
    let log = LocalBus::open(LocalBusConfig::new(dir.path(), PARTITIONS)).expect("a log");
    let config = RedisHotConfig::new(url.to_owned(), prefix.clone());
    let hot = RedisHot::connect(config, log).await.expect("connected");
    let memory_before = info(&client, "memory", "used_memory").await;
    let (cpu_before, own_before) = (redis_cpu(&client).await, own_cpu());
    let began = Instant::now();
    let (mut told, mut offset, mut apply_max) = (0_usize, 0_u64, Duration::ZERO);
    let mut behind = Vec::new();
    let mut look_at = began + Duration::from_secs(1);
    let settled = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    'run: loop {
        for (partition, updates) in &mut batches {
            if began.elapsed().as_secs_f64() >= seconds {
                break 'run;
            }
            updates.ticks.iter_mut().for_each(|(seq, _)| seq.offset = offset);
            updates.bars = bars(updates);
            offset += 1;
            let applying = Instant::now();
            hot.apply(*partition, updates).await.expect("applied");
            apply_max = apply_max.max(applying.elapsed());
            told += updates.ticks.len();
            if Instant::now() >= look_at {
                look_at += Duration::from_millis(250);
                behind.push(hot.metrics().waiting_symbols.get());
                let (hot, settled, asked) = (hot.clone(), settled.clone(), Instant::now());
                tokio::spawn(async move {
                    hot.settled().await;
                    settled.lock().expect("unpoisoned").push(asked.elapsed());
                });
            }
            if rate > 0.0 {
                let due = began + Duration::from_secs_f64(told as f64 / rate);
                tokio::time::sleep_until(due.into()).await;
            }
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    let (cpu, own) = (redis_cpu(&client).await - cpu_before, own_cpu() - own_before);
    let ending = Instant::now();
    hot.settled().await;
    println!("ticks_per_s: {:.0}", told as f64 / elapsed);
    println!("apply_max_ms: {:.1}", apply_max.as_secs_f64() * 1e3);
    println!("last_settled_after_ms: {:.0}", ending.elapsed().as_secs_f64() * 1e3);
    let mut settled = settled.lock().expect("unpoisoned").clone();
    settled.sort_unstable();
    if let (Some(median), Some(worst)) = (settled.get(settled.len() / 2), settled.last()) {
        println!(
            "behind_ms: median {:.0}, worst {:.0}",
            median.as_secs_f64() * 1e3,
            worst.as_secs_f64() * 1e3
        );
    }
    let metrics = hot.metrics();
    println!("trips: {}, symbols written: {}", metrics.trips.get(), metrics.puts.get());
    println!(
        "ticks_sent: {} ({:.1} %)",
        metrics.ticks.get(),
        metrics.ticks.get() as f64 * 100.0 / told as f64
    );
    println!("sent_mb_per_s: {:.1}", metrics.sent_bytes.get() as f64 / 1e6 / elapsed);
    println!("redis_cpu: {:.2} of a core, this process: {:.2}", cpu / elapsed, own / elapsed);
    let symbols = hot.symbols().await.expect("an answer").len();
    let memory = info(&client, "memory", "used_memory").await - memory_before;
    println!("symbols: {symbols}, redis bytes a symbol: {:.0}", memory / symbols as f64);
    hot.close().await;
    erase(&client, &prefix).await;
}

/// A minute's bar of every symbol in a batch: what a processor would tell.
fn bars(updates: &HotUpdates) -> Vec<(Seq, Bar)> {
    let mut bars = std::collections::HashMap::new();
    for (seq, tick) in &updates.ticks {
        if let Tick::Trade(trade) = tick {
            for timeframe in [Timeframe::MINUTE, Timeframe::Day] {
                let empty = Bar::empty(trade.symbol, timeframe, trade.ts);
                let (place, bar) = bars.entry((trade.symbol, timeframe)).or_insert((*seq, empty));
                *place = *seq;
                bar.add(trade);
            }
        }
    }
    bars.into_values().collect()
}

async fn erase(client: &redis::Client, prefix: &str) {
    let mut connection = client.get_multiplexed_async_connection().await.expect("connected");
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("{prefix}*")).query_async(&mut connection).await.expect("an answer");
    for keys in keys.chunks(500) {
        redis::cmd("UNLINK").arg(keys).query_async::<()>(&mut connection).await.expect("removed");
    }
}
