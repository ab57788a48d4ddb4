//! The local log's figures: `cargo bench --bench bus [-- FILTER]`.
//!
//! Writes under `STK_BENCH_DIR`, by default the system's temporary directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use stk::bus::Bus;
use stk::bus::local::{Durability, LocalBus, LocalBusConfig};

const PARTITIONS: u16 = 4;
const FOR: Duration = Duration::from_secs(5);
const INTERVAL: Durability = Durability::Interval(Duration::from_millis(50));

#[tokio::main]
async fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let root = std::env::var_os("STK_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    for (name, bytes, durability) in [
        ("write_24k_interval", 24_000, INTERVAL),
        ("write_24k_always", 24_000, Durability::Always),
        ("write_2k_interval", 2_000, INTERVAL),
        ("write_2k_always", 2_000, Durability::Always),
    ] {
        if name.contains(&filter) {
            let directory = tempfile::tempdir_in(&root).unwrap();
            write_and_read(name, directory.path(), bytes, durability).await;
        }
    }
    if "latency".contains(&filter) {
        for (name, durability) in [("interval", INTERVAL), ("always", Durability::Always)] {
            let directory = tempfile::tempdir_in(&root).unwrap();
            latency(name, directory.path(), durability).await;
        }
    }
}

fn open(path: &Path, durability: Durability) -> Arc<LocalBus> {
    LocalBus::open(LocalBusConfig { durability, ..LocalBusConfig::new(path, PARTITIONS) }).unwrap()
}

/// Bytes that do not compress, from a xorshift generator.
fn noise(bytes: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(bytes).collect()
}

async fn write_and_read(name: &str, path: &Path, bytes: usize, durability: Durability) {
    let bus = open(path, durability);
    let begin = Instant::now();
    let mut appenders = Vec::new();
    for partition in 0..PARTITIONS {
        let bus = Arc::clone(&bus);
        appenders.push(tokio::spawn(async move {
            let template = noise(bytes, u64::from(partition) + 7);
            let mut last = None;
            let mut count = 0u64;
            while begin.elapsed() < FOR {
                // A buffer of its own, as from an encoder.
                let record = Bytes::copy_from_slice(&template);
                last = Some(bus.append(vec![(partition, record)]).await.unwrap());
                count += 1;
            }
            last.unwrap().await.unwrap();
            count
        }));
    }
    let mut count = 0;
    for appender in appenders {
        count += appender.await.unwrap();
    }
    let seconds = begin.elapsed().as_secs_f64();
    let metrics = bus.metrics();
    println!(
        "{name}: {:.0} records/s, {:.0} MB/s durable, {} syncs of {:.1} ms, rss peak {} MB, now {} MB",
        count as f64 / seconds,
        (count * bytes as u64) as f64 / seconds / 1e6,
        metrics.syncs.get(),
        metrics.sync_seconds.get() * 1e3 / metrics.syncs.get() as f64,
        status_mb("VmHWM"),
        status_mb("VmRSS"),
    );

    let begin = Instant::now();
    bus.close().await;
    let closed = begin.elapsed();
    let begin = Instant::now();
    let bus = open(path, durability);
    println!("{name}: closed in {closed:.1?}, opened in {:.1?}", begin.elapsed());

    let begin = Instant::now();
    let (mut read_bytes, mut read_records) = (0, 0);
    for partition in 0..PARTITIONS {
        let next = bus.bounds(partition).await.unwrap().next;
        let mut reader = bus.reader(partition, 0).await.unwrap();
        while reader.offset() < next {
            for record in reader.next(1 << 20).await.unwrap() {
                read_bytes += record.bytes.len();
                read_records += 1;
            }
        }
    }
    assert_eq!(read_records, count);
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{name}: read back {:.2} GB/s, rss peak {} MB",
        read_bytes as f64 / seconds / 1e9,
        status_mb("VmHWM")
    );
    bus.close().await;
}

async fn latency(name: &str, path: &Path, durability: Durability) {
    let bus = open(path, durability);
    let record = noise(2_000, 3);
    let (seen, mut is_seen) = tokio::sync::mpsc::channel(1);
    let mut reader = bus.reader(0, 0).await.unwrap();
    tokio::spawn(async move {
        while let Ok(records) = reader.next(1 << 20).await {
            if seen.send((Instant::now(), records.len())).await.is_err() {
                return;
            }
        }
    });
    let (mut readable, mut durable) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(7)).await;
        let begin = Instant::now();
        let is_durable = bus.append(vec![(0, record.clone())]).await.unwrap();
        readable.push(is_seen.recv().await.unwrap().0.duration_since(begin));
        is_durable.await.unwrap();
        durable.push(begin.elapsed());
    }
    for (what, mut times) in [("readable", readable), ("durable", durable)] {
        times.sort_unstable();
        println!("latency_{name}: append to {what}: p50 {:.0?}, p99 {:.0?}", times[50], times[98]);
    }
    bus.close().await;
}

/// A figure of `/proc/self/status`, in MB.
fn status_mb(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or_default() / 1000
}
