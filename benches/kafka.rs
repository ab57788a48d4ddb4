//! The log in Kafka's figures: `STK_TEST_KAFKA=host:port cargo bench --bench kafka [-- FILTER]`.
//!
//! Records are of 1,000 simulated ticks. Each run makes topics of its own, whose names it prints,
//! and leaves them: what they take is seen in the brokers' directories.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use stk::bus::Bus;
use stk::bus::kafka::{KafkaBus, KafkaBusConfig};
use stk::feed::sim::{Sim, SimConfig};
use stk::wire::record::{Origin, RecordEncoder};

const PARTITIONS: u16 = 4;
const RECORDS: usize = 4_000;
const TICKS: usize = 1_000;
const IN_FLIGHT: usize = 64;

#[tokio::main]
async fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let Ok(brokers) = std::env::var("STK_TEST_KAFKA") else {
        eprintln!("skipped: STK_TEST_KAFKA is not set");
        return;
    };
    let records = records();
    for (name, properties) in [
        ("none", &[("compression.codec", "none")][..]),
        ("lz4", &[("compression.codec", "lz4")]),
        ("zstd 1", &[("compression.codec", "zstd"), ("compression.level", "1")]),
        ("zstd 3", &[("compression.codec", "zstd"), ("compression.level", "3")]),
    ] {
        if name.contains(&filter) {
            let bus = open(&brokers, properties).await;
            append(name, &bus, &records).await;
            read(name, &bus).await;
            bus.close(Duration::from_secs(10)).await;
        }
    }
    if "readers".contains(&filter) {
        let bus = open(&brokers, &[]).await;
        append("readers", &bus, &records[..400]).await;
        readers(&bus).await;
        latency(&bus, &records).await;
    }
}

/// As a feed's batches arrive: each record holds what of the market is one partition's.
fn records() -> Vec<(u16, Bytes)> {
    let start = "2026-11-20T14:30:00Z".parse().unwrap();
    let symbols = 500;
    let config = SimConfig { seed: 1, symbols, rate_ticks_per_s: 500_000.0, start, count: None };
    let mut sim = Sim::new(config);
    let mut encoders: Vec<RecordEncoder> = (0..PARTITIONS).map(|_| RecordEncoder::new()).collect();
    let (mut ticks, mut records) = (Vec::new(), Vec::with_capacity(RECORDS));
    while records.len() < RECORDS {
        ticks.clear();
        sim.fill(&mut ticks, TICKS);
        for tick in &ticks {
            let partition = tick.symbol().map_or(0, |symbol| symbol.partition(PARTITIONS));
            let encoder = &mut encoders[usize::from(partition)];
            encoder.push(tick);
            if encoder.ticks() as usize == TICKS {
                let origin = Origin { producer: 1, sequence: records.len() as u64 };
                records.push((partition, encoder.finish(origin)));
            }
        }
    }
    records.truncate(RECORDS);
    records
}

async fn open(brokers: &str, properties: &[(&str, &str)]) -> Arc<KafkaBus> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let properties =
        properties.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let config = KafkaBusConfig::new(brokers, format!("stk-bench-{since}"), PARTITIONS);
    println!("topic {}", config.topic);
    KafkaBus::open(KafkaBusConfig { properties, ..config }).await.unwrap()
}

/// Seconds of processor time that this process has taken.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<i64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split(' ')
        .filter_map(|field| field.parse().ok())
        .collect();
    // utime and stime, of which a tick is 10 ms on every Linux that matters.
    fields.get(10..12).map_or(0.0, |times| times.iter().sum::<i64>() as f64 / 100.0)
}

fn report(what: &str, records: usize, bytes: usize, took: Duration, cpu: f64) {
    let seconds = took.as_secs_f64();
    println!(
        "{what:<16} {:>8.0} records/s {:>7.1} MB/s {:>6.2} Mticks/s {:>6.2} s of processor",
        records as f64 / seconds,
        bytes as f64 / seconds / 1e6,
        (records * TICKS) as f64 / seconds / 1e6,
        cpu,
    );
}

async fn append(name: &str, bus: &KafkaBus, records: &[(u16, Bytes)]) {
    let (begin, cpu) = (Instant::now(), cpu_seconds());
    let mut pending = std::collections::VecDeque::new();
    for record in records {
        if pending.len() == IN_FLIGHT {
            let durable: stk::bus::Durable = pending.pop_front().unwrap();
            durable.await.unwrap();
        }
        pending.push_back(bus.append(vec![record.clone()]).await.unwrap());
    }
    for durable in pending {
        durable.await.unwrap();
    }
    let bytes = records.iter().map(|(_, bytes)| bytes.len()).sum();
    report(&format!("append {name}"), records.len(), bytes, begin.elapsed(), cpu_seconds() - cpu);
}

async fn read(name: &str, bus: &KafkaBus) {
    let (begin, cpu) = (Instant::now(), cpu_seconds());
    let (mut count, mut bytes) = (0, 0);
    for partition in 0..PARTITIONS {
        let end = bus.bounds(partition).await.unwrap().next;
        let mut reader = bus.reader(partition, 0).await.unwrap();
        while reader.offset() < end {
            let records = reader.next(1 << 20).await.unwrap();
            count += records.len();
            bytes += records.iter().map(|record| record.bytes.len()).sum::<usize>();
        }
    }
    report(&format!("read {name}"), count, bytes, begin.elapsed(), cpu_seconds() - cpu);
}

fn quantiles(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!("{what:<32} {:>8.2} ms median {:>8.2} ms p99 {:>8.2} ms most", at(0.5), at(0.99), at(1.0));
}

/// What it costs to open a reader somewhere in the log and to read once.
async fn readers(bus: &KafkaBus) {
    let mut times = Vec::new();
    for round in 0..200_u64 {
        let begin = Instant::now();
        let partition = (round % u64::from(PARTITIONS)) as u16;
        let next = bus.bounds_seen(partition).await.unwrap().next;
        let mut reader = bus.reader(partition, round % next).await.unwrap();
        reader.next(1 << 16).await.unwrap();
        times.push(begin.elapsed());
    }
    println!("the first, with a consumer to be made: {:.2} ms", times[0].as_secs_f64() * 1e3);
    quantiles("open a reader and read once", times.split_off(1));
    let mut times = Vec::new();
    for _ in 0..200 {
        let begin = Instant::now();
        bus.bounds(0).await.unwrap();
        times.push(begin.elapsed());
    }
    quantiles("bounds, asked for", times);
}

/// From an append to the reader at the tail.
async fn latency(bus: &KafkaBus, records: &[(u16, Bytes)]) {
    let next = bus.bounds(0).await.unwrap().next;
    let mut reader = bus.reader(0, next).await.unwrap();
    let mut times = Vec::new();
    for (_, bytes) in &records[..300] {
        let begin = Instant::now();
        let durable = bus.append(vec![(0, bytes.clone())]).await.unwrap();
        reader.next(1 << 20).await.unwrap();
        times.push(begin.elapsed());
        durable.await.unwrap();
    }
    quantiles("append to tail", times);
}
