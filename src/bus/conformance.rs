//! What every [`Bus`] has to do. Each function is one behaviour and takes a fresh, empty log with
//! [`PARTITIONS`] partitions; a backend's tests call them all by [`run`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use futures_util::{FutureExt, poll};

use super::epoch::Mismatch;
use super::{Bounds, Bus, BusError, Record};
use crate::wire::token::{Position, Token};

/// How many partitions the log under test has.
pub(crate) const PARTITIONS: u16 = 3;
/// Longer than any behaviour takes; a guard against hanging, not a pause.
const PATIENCE: Duration = Duration::from_mins(1);

type Behaviour = (&'static str, fn(Arc<dyn Bus>) -> BoxFuture<'static, ()>);

macro_rules! behaviours {
    ($($name:ident),* $(,)?) => {
        /// Every behaviour by its name.
        const BEHAVIOURS: &[Behaviour] = &[$((stringify!($name), |bus| $name(bus).boxed())),*];
    };
}

behaviours![
    begins_empty,
    counts_offsets_by_partition,
    reads_back_what_was_appended,
    appends_all_or_none,
    refuses_unknown_partitions,
    accepts_an_empty_append,
    accepts_an_empty_record,
    resolves_durable_in_any_order,
    keeps_an_append_whose_durable_is_dropped,
    reads_from_any_offset,
    refuses_a_reader_beyond_the_end,
    begins_readers_at_the_end,
    bounds_a_read_by_bytes,
    returns_a_record_larger_than_the_bound,
    wakes_readers_at_the_tail,
    wakes_only_for_its_partition,
    loses_nothing_when_next_is_cancelled,
    reads_the_same_by_many_readers,
    interleaves_many_appenders_without_holes,
    keeps_what_is_not_released,
    ignores_releases_that_go_back,
];

/// Runs all, each on a log of its own from `open`.
pub(crate) async fn run<F, Fut>(open: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn Bus>>,
{
    for (name, behaviour) in BEHAVIOURS {
        let bus = open().await;
        assert_eq!(bus.partitions(), PARTITIONS);
        assert!(tokio::time::timeout(PATIENCE, behaviour(bus)).await.is_ok(), "{name} hangs");
    }
}

/// What a log has to do over its reopening: `open` opens log number `which`, made if it is not there,
/// and `close` ends it in good order.
pub(crate) async fn run_reopened<B: Bus>(open: impl AsyncFn(u32) -> Arc<B>, close: impl AsyncFn(Arc<B>)) {
    let behaviour = async {
        let bus = open(0).await;
        append(&*bus, 1, ["a", "b"]).await;
        let log = bus.epoch().log();
        let at = |log, offset| {
            let at = |partition| Position { offset: if partition == 1 { offset } else { 0 }, index: 0 };
            Token::new(log, (0..PARTITIONS).map(at).collect())
        };
        assert_eq!(bus.epoch().check(&at(log, 2), PARTITIONS), Ok(()));
        close(bus).await;
        let bus = open(0).await;
        assert_eq!(bus.epoch().log().id, log.id, "a log keeps its name");
        for offset in 0..=2 {
            assert_eq!(bus.epoch().check(&at(log, offset), PARTITIONS), Ok(()), "what was there is there");
        }
        assert_eq!(read(&*bus, 1, 0).await, expected(0, ["a", "b"]));
        let other = open(1).await;
        assert_ne!(other.epoch().log().id, log.id, "no two logs have the same");
        assert_eq!(other.epoch().check(&at(log, 0), PARTITIONS), Err(Mismatch::OtherLog));
        close(bus).await;
        close(other).await;
    };
    assert!(tokio::time::timeout(PATIENCE, behaviour).await.is_ok(), "a reopening hangs");
}

fn record(text: impl ToString) -> Bytes {
    Bytes::from(text.to_string())
}

async fn append(bus: &dyn Bus, partition: u16, texts: impl IntoIterator<Item: ToString>) -> Vec<u64> {
    let records = texts.into_iter().map(|text| (partition, record(text))).collect();
    bus.append(records).await.unwrap().await.unwrap()
}

/// All from `from` to the present end.
async fn read(bus: &dyn Bus, partition: u16, from: u64) -> Vec<Record> {
    let end = bus.bounds(partition).await.unwrap().next;
    let mut reader = bus.reader(partition, from).await.unwrap();
    let mut records = Vec::new();
    while reader.offset() < end {
        records.extend(reader.next(1 << 16).await.unwrap());
    }
    records
}

fn expected(from: u64, texts: impl IntoIterator<Item: ToString>) -> Vec<Record> {
    (from..).zip(texts).map(|(offset, text)| Record { offset, bytes: record(text) }).collect()
}

async fn begins_empty(bus: Arc<dyn Bus>) {
    for partition in 0..PARTITIONS {
        assert_eq!(bus.bounds(partition).await.unwrap(), Bounds { first: 0, next: 0 });
    }
}

async fn counts_offsets_by_partition(bus: Arc<dyn Bus>) {
    let records = vec![(1, record("a")), (0, record("b")), (1, record("c")), (1, record("d"))];
    assert_eq!(bus.append(records).await.unwrap().await.unwrap(), [0, 0, 1, 2]);
    assert_eq!(append(&*bus, 1, ["e"]).await, [3]);
    assert_eq!(append(&*bus, 2, ["f"]).await, [0]);
    assert_eq!(bus.bounds(1).await.unwrap(), Bounds { first: 0, next: 4 });
}

async fn reads_back_what_was_appended(bus: Arc<dyn Bus>) {
    for chunk in 0..10 {
        append(&*bus, 2, (0..10).map(|i| chunk * 10 + i)).await;
    }
    assert_eq!(read(&*bus, 2, 0).await, expected(0, 0..100));
}

async fn appends_all_or_none(bus: Arc<dyn Bus>) {
    let refused = bus.append(vec![(0, record("a")), (PARTITIONS, record("b"))]).await;
    assert!(matches!(refused.err(), Some(BusError::NoPartition { .. })));
    assert_eq!(append(&*bus, 0, ["c"]).await, [0]);
    assert_eq!(read(&*bus, 0, 0).await, expected(0, ["c"]));
}

async fn refuses_unknown_partitions(bus: Arc<dyn Bus>) {
    let is_refused = |error: Option<BusError>| {
        matches!(error, Some(BusError::NoPartition { partition: PARTITIONS, partitions: PARTITIONS }))
    };
    assert!(is_refused(bus.bounds(PARTITIONS).await.err()));
    assert!(is_refused(bus.reader(PARTITIONS, 0).await.err()));
    assert!(is_refused(bus.append(vec![(PARTITIONS, record("a"))]).await.err()));
    bus.release(PARTITIONS, 1);
}

async fn accepts_an_empty_append(bus: Arc<dyn Bus>) {
    assert_eq!(bus.append(Vec::new()).await.unwrap().await.unwrap(), [0; 0]);
}

async fn accepts_an_empty_record(bus: Arc<dyn Bus>) {
    append(&*bus, 0, ["", "a", ""]).await;
    assert_eq!(read(&*bus, 0, 0).await, expected(0, ["", "a", ""]));
}

async fn resolves_durable_in_any_order(bus: Arc<dyn Bus>) {
    let mut pending = Vec::new();
    for i in 0..20u64 {
        pending.push((i, bus.append(vec![(0, record(i))]).await.unwrap()));
    }
    for (i, durable) in pending.into_iter().rev() {
        assert_eq!(durable.await.unwrap(), [i]);
    }
}

async fn keeps_an_append_whose_durable_is_dropped(bus: Arc<dyn Bus>) {
    drop(bus.append(vec![(0, record("a"))]).await.unwrap());
    assert_eq!(append(&*bus, 0, ["b"]).await, [1]);
    assert_eq!(read(&*bus, 0, 0).await, expected(0, ["a", "b"]));
}

async fn reads_from_any_offset(bus: Arc<dyn Bus>) {
    append(&*bus, 0, 0..50).await;
    for from in [0, 1, 25, 49] {
        assert_eq!(read(&*bus, 0, from).await, expected(from, from..50));
    }
}

async fn refuses_a_reader_beyond_the_end(bus: Arc<dyn Bus>) {
    append(&*bus, 0, 0..5).await;
    assert!(bus.reader(0, 5).await.is_ok());
    assert!(bus.reader(0, 6).await.is_err());
}

async fn begins_readers_at_the_end(bus: Arc<dyn Bus>) {
    append(&*bus, 0, 0..5).await;
    let mut reader = bus.reader(0, 5).await.unwrap();
    append(&*bus, 0, ["new"]).await;
    assert_eq!(reader.next(1000).await.unwrap(), expected(5, ["new"]));
    assert_eq!(reader.offset(), 6);
}

async fn bounds_a_read_by_bytes(bus: Arc<dyn Bus>) {
    append(&*bus, 0, (0..20).map(|_| "0123456789")).await;
    let mut reader = bus.reader(0, 0).await.unwrap();
    let mut count = 0;
    while count < 20 {
        let records = reader.next(35).await.unwrap();
        assert!((1..=4).contains(&records.len()), "{} records of 10 bytes in 35", records.len());
        count += records.len();
        assert_eq!(reader.offset(), count as u64);
    }
}

async fn returns_a_record_larger_than_the_bound(bus: Arc<dyn Bus>) {
    let large = "x".repeat(1 << 20);
    append(&*bus, 0, [large.as_str(), "small"]).await;
    let mut reader = bus.reader(0, 0).await.unwrap();
    assert_eq!(reader.next(1).await.unwrap(), expected(0, [large]));
    assert_eq!(reader.next(1).await.unwrap(), expected(1, ["small"]));
}

async fn wakes_readers_at_the_tail(bus: Arc<dyn Bus>) {
    let mut reader = bus.reader(0, 0).await.unwrap();
    let mut next = reader.next(1000);
    assert!(poll!(&mut next).is_pending());
    append(&*bus, 0, ["a"]).await;
    assert_eq!(next.await.unwrap(), expected(0, ["a"]));
}

async fn wakes_only_for_its_partition(bus: Arc<dyn Bus>) {
    let mut reader = bus.reader(0, 0).await.unwrap();
    let mut next = reader.next(1000);
    assert!(poll!(&mut next).is_pending());
    append(&*bus, 1, ["other"]).await;
    assert!(poll!(&mut next).is_pending());
    append(&*bus, 0, ["own"]).await;
    assert_eq!(next.await.unwrap(), expected(0, ["own"]));
}

async fn loses_nothing_when_next_is_cancelled(bus: Arc<dyn Bus>) {
    let mut reader = bus.reader(0, 0).await.unwrap();
    let mut records = Vec::new();
    for i in 0..20 {
        assert!(poll!(&mut reader.next(1000)).is_pending());
        append(&*bus, 0, [i]).await;
        // Polled once and dropped, ready or not.
        if let std::task::Poll::Ready(ready) = poll!(&mut reader.next(1000)) {
            records.extend(ready.unwrap());
        }
        while records.len() <= i {
            records.extend(reader.next(1000).await.unwrap());
        }
    }
    assert_eq!(records, expected(0, 0..20));
}

async fn reads_the_same_by_many_readers(bus: Arc<dyn Bus>) {
    append(&*bus, 0, 0..100).await;
    let reads = join_all((0..8).map(|_| read(&*bus, 0, 0))).await;
    reads.iter().for_each(|records| assert_eq!(*records, expected(0, 0..100)));
}

async fn interleaves_many_appenders_without_holes(bus: Arc<dyn Bus>) {
    let appender = |who: u64| {
        let bus = Arc::clone(&bus);
        tokio::spawn(async move {
            let mut pending = Vec::new();
            for i in 0..50 {
                let both = vec![(0, record(format!("{who} {i}"))), (1, record(format!("{who} {i}")))];
                pending.push((format!("{who} {i}"), bus.append(both).await.unwrap()));
            }
            let mut places = Vec::new();
            for (text, durable) in pending {
                places.push((text, durable.await.unwrap()));
            }
            places
        })
    };
    let tasks = join_all((0..8).map(appender)).await;
    let places: Vec<(String, Vec<u64>)> = tasks.into_iter().flat_map(Result::unwrap).collect();
    for partition in 0..2 {
        let by_offset: BTreeMap<u64, &String> =
            places.iter().map(|(text, offsets)| (offsets[usize::from(partition)], text)).collect();
        let records = read(&*bus, partition, 0).await;
        assert_eq!(records, expected(0, by_offset.values()));
        assert_eq!(records.len(), 400);
    }
    // In order within each appender.
    assert!(places.chunks(50).all(|of_one| of_one.is_sorted_by_key(|(_, offsets)| offsets[0])));
}

async fn keeps_what_is_not_released(bus: Arc<dyn Bus>) {
    append(&*bus, 0, 0..10).await;
    bus.release(0, 5);
    append(&*bus, 0, 10..20).await;
    assert!(bus.bounds(0).await.unwrap().first <= 5);
    assert_eq!(read(&*bus, 0, 5).await, expected(5, 5..20));
}

async fn ignores_releases_that_go_back(bus: Arc<dyn Bus>) {
    append(&*bus, 0, 0..10).await;
    bus.release(0, 8);
    bus.release(0, 2);
    bus.release(0, 0);
    assert_eq!(read(&*bus, 0, 8).await, expected(8, 8..10));
}
