//! The local log: the suite every log passes, from memory and from disk.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::journal::Damage;
use super::*;
use crate::bus::conformance::{self, PARTITIONS};
use crate::bus::epoch::{Held, Holder, Mismatch};
use crate::wire::token::{Position, Token};

fn config(path: &Path) -> LocalBusConfig {
    LocalBusConfig {
        durability: Durability::Interval(Duration::from_millis(1)),
        free_bytes_min: 0,
        memory_bytes: 8 << 20,
        ..LocalBusConfig::new(path, PARTITIONS)
    }
}

fn open(config: LocalBusConfig) -> Arc<LocalBus> {
    LocalBus::open(config).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_interval() {
    let directory = tempfile::tempdir().unwrap();
    let count = AtomicU64::new(0);
    conformance::run(|| async {
        let path = directory.path().join(count.fetch_add(1, Ordering::Relaxed).to_string());
        open(config(&path)) as Arc<dyn Bus>
    })
    .await;
}

/// With hardly any memory, so that readers go to the disk.
#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_always_and_from_disk() {
    let directory = tempfile::tempdir().unwrap();
    let count = AtomicU64::new(0);
    conformance::run(|| async {
        let path = directory.path().join(count.fetch_add(1, Ordering::Relaxed).to_string());
        open(LocalBusConfig { durability: Durability::Always, memory_bytes: 0, ..config(&path) })
            as Arc<dyn Bus>
    })
    .await;
}

#[tokio::test]
async fn a_log_keeps_the_partitions_it_was_made_with() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(LocalBusConfig { partitions: 3, ..config(directory.path()) });
    bus.append(vec![(2, Bytes::from_static(b"kept"))]).await.unwrap().await.unwrap();
    bus.close().await;
    let bus = open(LocalBusConfig { partitions: 5, ..config(directory.path()) });
    assert_eq!(bus.partitions(), 3);
    let mut reader = bus.reader(2, 0).await.unwrap();
    assert_eq!(reader.next(1).await.unwrap()[0].bytes, "kept");
    assert!(matches!(bus.bounds(3).await, Err(BusError::NoPartition { partition: 3, partitions: 3 })));
    // Who reads its identity beside the server needs not know the number either.
    let stored = LocalBus::stored_identity(directory.path()).unwrap().unwrap();
    assert_eq!((stored.log(), stored.partitions()), (bus.epoch().log(), Some(3)));
    bus.close().await;
}

/// A log of one partition with a batch for each of so many records, closed or left open; then its
/// files, the journal at its real length.
async fn written(records: u64, closed: bool) -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let bus = open(LocalBusConfig { partitions: 1, durability: Durability::Always, ..config(&path) });
    for number in 0..records {
        let record = Bytes::from(format!("record {number}, which is whole or not there"));
        bus.append(vec![(0, record)]).await.unwrap().await.unwrap();
    }
    if closed {
        bus.close().await;
    }
    let copy = directory.path().join("copy");
    copy_directory(&path, &copy);
    // As after a power cut: what it says of the journal may not have reached the disk.
    std::fs::remove_file(copy.join("synced")).unwrap();
    bus.close().await;
    let journal = copy.join("0.jnl");
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    (directory, copy, bytes)
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Opens a copy of the log whose journal is `bytes`, and reads it; then appends one more.
async fn opened_with(copy: &Path, bytes: &[u8]) -> Result<Vec<Bytes>, BusError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    copy_directory(copy, &path);
    std::fs::write(path.join("0.jnl"), bytes).unwrap();
    let bus = LocalBus::open(LocalBusConfig { partitions: 1, ..config(&path) })?;
    let next = bus.bounds(0).await?.next;
    let mut reader = bus.reader(0, 0).await?;
    let mut records = Vec::new();
    while reader.offset() < next {
        records.extend(reader.next(1 << 20).await?.into_iter().map(|record| record.bytes));
    }
    let offsets = bus.append(vec![(0, Bytes::from_static(b"after"))]).await?.await?;
    assert_eq!(offsets, [next], "appends go on where the whole records end");
    bus.close().await;
    Ok(records)
}

/// Where the batches of a journal begin: each ends with fjall's trailer.
fn batch_ends(bytes: &[u8]) -> Vec<usize> {
    bytes.windows(4).enumerate().filter(|(_, window)| window == b"FJL\x03").map(|(at, _)| at + 4).collect()
}

/// Whether byte `at` is of the number that fjall gives to the batch which begins at `batch`.
fn is_number(batch: usize, at: usize) -> bool {
    (batch + 5..batch + 13).contains(&at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_torn_at_any_byte_is_cut_to_the_last_whole_record() {
    let (_directory, copy, bytes) = written(4, false).await;
    let ends = batch_ends(&bytes);
    // The header of the segment, and four records.
    assert_eq!((ends.len(), ends[4]), (5, bytes.len()));
    for at in ends[2]..=bytes.len() {
        let whole = ends.iter().filter(|end| **end <= at).count() - 1;
        let records = opened_with(&copy, &bytes[..at]).await.unwrap();
        assert_eq!(records.len(), whole, "cut at byte {at}");
        for (number, record) in records.iter().enumerate() {
            assert_eq!(*record, format!("record {number}, which is whole or not there"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_is_never_served_and_never_passed_over() {
    let (_directory, copy, bytes) = written(4, true).await;
    let ends = batch_ends(&bytes);
    // A seal after the records tells that they were synced.
    assert_eq!(ends.len(), 6);
    for (number, batch) in ends.windows(2).take(4).enumerate() {
        for at in (batch[0]..batch[1]).step_by(5) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            let error = match opened_with(&copy, &flipped).await {
                // The batch's number, which no checksum covers, says nothing of its records.
                Ok(records) => {
                    assert!(is_number(batch[0], at) && records.len() == 4, "byte {at} of record {number}");
                    continue;
                }
                Err(error) => error.to_string(),
            };
            let named = format!("0.jnl is damaged at byte {}, in records that were durable", batch[0]);
            assert!(error.contains(&named), "byte {at} of record {number}: {error}");
        }
    }
    // What no later batch vouches for is taken for a torn tail: it is cut, and never read.
    let (_directory, copy, bytes) = written(4, false).await;
    let last = batch_ends(&bytes)[3];
    for at in (last..bytes.len()).step_by(3) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        let expected = if is_number(last, at) { 4 } else { 3 };
        assert_eq!(opened_with(&copy, &flipped).await.unwrap().len(), expected, "byte {at}");
    }
}

/// A log of one partition with a batch for each of its records and a sync after every `group` of
/// them; then its journal at its real length.
fn written_in_groups(records: u64, group: u64) -> (tempfile::TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let metrics = LocalBusMetrics::default();
    let mut opened = Store::open(&LocalBusConfig { partitions: 1, ..config(path) }, 0).unwrap();
    for offset in 0..records {
        let bytes = Bytes::from(format!("record {offset}, which is whole or not there"));
        opened.store.commit([Entry { partition: 0, offset, bytes }].iter(), &metrics).unwrap();
        if (offset + 1) % group == 0 {
            opened.store.sync().unwrap();
        }
    }
    drop(opened);
    let mut bytes = std::fs::read(path.join("0.jnl")).unwrap();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
    (directory, bytes)
}

/// The batches of one sync know nothing of it: only a later one vouches for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_in_any_batch_of_a_sync_is_named_once_a_later_batch_vouches_for_it() {
    let (directory, bytes) = written_in_groups(9, 3);
    let ends = batch_ends(&bytes);
    // The header of the segment, and nine records.
    assert_eq!(ends.len(), 10);
    for (number, batch) in ends.windows(2).enumerate() {
        for at in (batch[0]..batch[1]).step_by(7).filter(|&at| !is_number(batch[0], at)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            match opened_with(directory.path(), &flipped).await {
                Err(error) => {
                    let named =
                        format!("0.jnl is damaged at byte {}, in records that were durable", batch[0]);
                    assert!(error.to_string().contains(&named), "byte {at} of record {number}: {error}");
                    assert!(number < 6, "byte {at} of record {number}: nothing vouches for it");
                }
                Ok(records) => assert!(number >= 6 && records.len() == number, "byte {at} of {number}"),
            }
        }
    }
    // The same where the damaged batch is the first of all.
    let mut flipped = bytes.clone();
    flipped[ends[0] / 2] ^= 0x10;
    let error = opened_with(directory.path(), &flipped).await.unwrap_err().to_string();
    assert!(error.contains("0.jnl is damaged at byte 0, "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_when_it_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let open = async |which: u32| open(config(&directory.path().join(which.to_string())));
    conformance::run_reopened(open, async |bus: Arc<LocalBus>| bus.close().await).await;
}

/// The token of a reader that has seen everything before `offset` of the only partition.
fn token(bus: &LocalBus, offset: u64) -> Token {
    Token::new(bus.epoch().log(), vec![Position { offset, index: 0 }])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_opening_begins_a_generation_and_a_sudden_end_voids_what_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let of_one = |path: &Path| LocalBusConfig { partitions: 1, ..config(path) };
    let append = async |bus: &LocalBus| {
        bus.append(vec![(0, Bytes::from_static(b"a record"))]).await.unwrap().await.unwrap()
    };
    let bus = open(of_one(&path));
    for _ in 0..4 {
        append(&bus).await;
    }
    // Gone without a word, and with the last record.
    let copy = directory.path().join("copy");
    copy_directory(&path, &copy);
    let tokens: Vec<Token> = (0..=4).map(|offset| token(&bus, offset)).collect();
    bus.close().await;
    let bytes = std::fs::read(copy.join("0.jnl")).unwrap();
    let ends = batch_ends(&bytes);
    std::fs::write(copy.join("0.jnl"), &bytes[..ends[ends.len() - 2]]).unwrap();
    std::fs::remove_file(copy.join("synced")).unwrap();

    let id = bus.epoch().log().id;
    let reading = LocalBusConfig { access: Access::Read, ..of_one(&copy) };
    let before = std::fs::read(copy.join("epoch")).unwrap();
    let mut generations = std::collections::HashSet::from([tokens[0].log().generation]);
    for access in [&reading, &reading, &of_one(&copy), &of_one(&copy)] {
        let bus = open(access.clone());
        assert_eq!(bus.epoch().log().id, id);
        assert!(generations.insert(bus.epoch().log().generation), "a generation of its own");
        if access.access == Access::Read {
            assert_eq!(std::fs::read(copy.join("epoch")).unwrap(), before, "a reader changes nothing");
        }
        for (offset, token) in (0..).zip(&tokens) {
            let expected = if offset <= 3 { Ok(()) } else { Err(Mismatch::Lost) };
            assert_eq!(bus.epoch().check(token, 1), expected, "the first generation, offset {offset}");
        }
        bus.close().await;
    }
    // The offset is given to another record; the old token is not taken for that.
    let bus = open(of_one(&copy));
    assert_eq!(append(&bus).await, [3]);
    assert_eq!(bus.epoch().check(&tokens[4], 1), Err(Mismatch::Lost));
    assert_eq!(bus.epoch().check(&token(&bus, 4), 1), Ok(()));
    let of_second = token(&bus, 4);
    bus.close().await;
    let bus = open(of_one(&copy));
    assert_ne!(bus.epoch().log(), of_second.log());
    assert_eq!(bus.epoch().check(&of_second, 1), Ok(()), "it ended in good order");
    bus.close().await;
}

#[tokio::test]
async fn a_damaged_identity_is_another_and_one_that_only_reads_takes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(config(directory.path()));
    bus.append(vec![(0, Bytes::from_static(b"kept"))]).await.unwrap().await.unwrap();
    let before = bus.epoch().clone();
    bus.close().await;
    let sealed = std::fs::read_to_string(directory.path().join("epoch")).unwrap();
    let reading = LocalBusConfig { access: Access::Read, ..config(directory.path()) };
    let bus = open(reading.clone());
    assert_eq!(*bus.epoch(), before);
    let refused = bus.append(vec![(0, Bytes::from_static(b"refused"))]).await.err().unwrap();
    assert!(refused.to_string().contains("it is open to be read"), "{refused}");
    assert_eq!(bus.reader(0, 0).await.unwrap().next(1).await.unwrap()[0].bytes, "kept");
    bus.close().await;
    assert_eq!(std::fs::read_to_string(directory.path().join("epoch")).unwrap(), sealed);
    std::fs::write(directory.path().join("epoch"), "nonsense").unwrap();
    let bus = open(config(directory.path()));
    assert_eq!(bus.epoch().log().id, before.log().id, "the copy is used");
    bus.close().await;
    for file in ["epoch", "epoch.copy"] {
        std::fs::write(directory.path().join(file), "nonsense").unwrap();
    }
    for access in [reading, config(directory.path())] {
        let refused = LocalBus::open(access).err().unwrap().to_string();
        assert!(refused.contains("epoch.copy are damaged"), "{refused}");
    }
}

/// A log that other stores are ahead of continues after them; what it has is read across the hole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_put_back_from_a_copy_skips_what_others_hold() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let record = |number: u64| Bytes::from(format!("record {number}"));
    let held =
        |next_offsets: Vec<u64>| Held { next_offsets, ..Held::nothing(Holder::Archive, "the archive") };
    let config = LocalBusConfig { partitions: 2, ..config(&path) };
    let bus = open(config.clone());
    for number in 0..4 {
        bus.append(vec![(0, record(number)), (1, record(number))]).await.unwrap().await.unwrap();
    }
    bus.close().await;
    let ahead = LocalBusConfig { held: vec![held(vec![9, 2])], ..config.clone() };
    for access in [ahead.clone(), ahead, config.clone()] {
        let bus = open(access);
        assert_eq!(bus.epoch().lost().len(), 1, "once");
        let next = bus.bounds(0).await.unwrap().next;
        let offsets = bus.append(vec![(0, record(next)), (1, record(0))]).await.unwrap().await.unwrap();
        assert_eq!(offsets[0], next.max(10));
        for from in [0, 3, 4, 6, 10] {
            let mut reader = bus.reader(0, from).await.unwrap();
            let mut found = Vec::new();
            let mut expected = from;
            while reader.offset() <= next {
                let records = reader.next(1).await.unwrap();
                reader.check_follows(expected, &records).unwrap();
                expected = reader.offset();
                found.extend(records);
            }
            let offsets: Vec<u64> = found.iter().map(|record| record.offset).collect();
            let all: Vec<u64> = (from..4).chain(10.max(from)..=next).collect();
            assert_eq!(offsets, all, "from {from}");
            assert!(found.iter().all(|found| found.bytes == record(found.offset)));
        }
        assert_eq!(bus.bounds(1).await.unwrap().first, 0);
        bus.close().await;
    }
    // What is released is dropped across the hole, as it is elsewhere.
    let short = Retention { age: Duration::from_millis(1), bytes: 1 << 20 };
    let bus = open(LocalBusConfig { retention: short, ..config });
    bus.release(0, 10);
    bus.release(1, 4);
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while bus.bounds(0).await.unwrap().first < 10 {
        assert!(std::time::Instant::now() < deadline, "it keeps what is released");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bus.close().await;
}

/// A table with a byte flipped: who opens the log to write is refused, who opens it to read is told
/// once the record is read, and is never given it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_damaged_in_a_table_is_found_by_the_writer_at_once_and_by_a_reader_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let config = LocalBusConfig { partitions: 1, memory_bytes: 0, ..config(&path) };
    let bus = open(config.clone());
    let record = |number: u64| Bytes::from(vec![number as u8; 64 << 10]);
    // More than is left in a journal, less than a segment.
    for number in 0..80 {
        bus.append(vec![(0, record(number))]).await.unwrap().await.unwrap();
    }
    bus.close().await;
    let tables = std::fs::read_dir(path.join("keyspaces"))
        .unwrap()
        .filter_map(|keyspace| std::fs::read_dir(keyspace.unwrap().path().join("tables")).ok())
        .flatten()
        .map(|table| table.unwrap().path());
    // In the middle of the first record, whose bytes are 0.
    let zeroes =
        |bytes: &[u8]| bytes.windows(1 << 10).position(|window| window.iter().all(|byte| *byte == 0));
    let mut found = tables.map(|table| (std::fs::read(&table).unwrap(), table));
    let (at, mut bytes, table) =
        found.find_map(|(bytes, table)| Some((zeroes(&bytes)? + 99, bytes, table))).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(table, bytes).unwrap();

    let refused = LocalBus::open(config.clone()).err().unwrap();
    assert!(refused.to_string().contains(&path.display().to_string()), "{refused}");
    let bus = open(LocalBusConfig { access: Access::Read, ..config });
    let mut reader = bus.reader(0, 0).await.unwrap();
    assert!(reader.next(1).await.is_err(), "a flipped byte is never served");
    bus.close().await;
}

/// A log whose keyspaces are gone is refused, and the refused opening changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_whose_keyspaces_are_gone_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let config = LocalBusConfig { partitions: 1, ..config(&path) };
    let bus = open(config.clone());
    for number in 0..5 {
        bus.append(vec![(0, Bytes::from(vec![number; 9]))]).await.unwrap().await.unwrap();
    }
    bus.close().await;
    let aside = directory.path().join("aside");
    std::fs::rename(path.join("keyspaces"), &aside).unwrap();
    for access in [Access::Write, Access::Read] {
        let refused = LocalBus::open(LocalBusConfig { access, ..config.clone() }).err().unwrap().to_string();
        assert!(refused.contains("keyspaces is damaged: it is missing"), "{refused}");
        assert!(!path.join("keyspaces").exists(), "{refused}");
    }
    std::fs::rename(&aside, path.join("keyspaces")).unwrap();
    let bus = open(config);
    assert_eq!(bus.bounds(0).await.unwrap().next, 5);
    bus.close().await;
}

/// A log that ends in good order leaves no long journal to be read at the next opening, and loses
/// nothing by it; whatever comes after is numbered and checked as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_closed_leaves_its_records_in_tables() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let config = LocalBusConfig { partitions: 1, ..config(&path) };
    let number_of = |record: &[u8]| u64::from_le_bytes(record[..8].try_into().unwrap());
    let mut count = 0_u64;
    // 6 MiB, then 64 KiB, which stay where they are.
    for (life, records) in [96, 1].into_iter().enumerate() {
        let bus = open(config.clone());
        assert_eq!(bus.bounds(0).await.unwrap().next, count);
        for _ in 0..records {
            let mut record = vec![1; 64 << 10];
            record[..8].copy_from_slice(&count.to_le_bytes());
            bus.append(vec![(0, record.into())]).await.unwrap().await.unwrap();
            count += 1;
        }
        bus.close().await;
        let journal_bytes = journal::allocated_bytes(&path).unwrap();
        assert_eq!(journal_bytes > 0, life == 1, "{journal_bytes} bytes after life {life}");
    }
    // With a journal that begins anew, a tail is torn and damage named as before.
    let bytes = std::fs::read(path.join("0.jnl")).unwrap();
    let first = batch_ends(&bytes)[0];
    for (at, is_durable) in [(first / 2, true), (bytes.len() - 1, false)] {
        let copy = directory.path().join("copy");
        copy_directory(&path, &copy);
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        std::fs::write(copy.join("0.jnl"), flipped).unwrap();
        let opened = LocalBus::open(LocalBusConfig { path: copy, ..config.clone() });
        match opened {
            Ok(bus) => {
                assert!(!is_durable);
                bus.close().await;
            }
            Err(error) => assert!(is_durable && error.to_string().contains("damaged at byte 0"), "{error}"),
        }
    }
    let bus = open(LocalBusConfig { access: Access::Read, ..config });
    let mut reader = bus.reader(0, 0).await.unwrap();
    while reader.offset() < count {
        for record in reader.next(1 << 20).await.unwrap() {
            assert_eq!(number_of(&record.bytes), record.offset);
        }
    }
    bus.close().await;
}

#[tokio::test]
async fn a_directory_has_one_log_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(config(directory.path()));
    let second = LocalBus::open(config(directory.path())).err().unwrap();
    assert_eq!(second.to_string(), format!("{} is open in another process", directory.path().display()));
    bus.close().await;
    open(config(directory.path())).close().await;
}

#[tokio::test]
async fn too_little_space_is_refused_by_name_and_what_is_there_stays() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(config(directory.path()));
    bus.append(vec![(0, Bytes::from_static(b"kept"))]).await.unwrap().await.unwrap();
    bus.close().await;
    let bus = open(LocalBusConfig { free_bytes_min: u64::MAX / 2, ..config(directory.path()) });
    let refused = bus.append(vec![(0, Bytes::from_static(b"refused"))]).await.err().unwrap();
    assert!(matches!(refused, BusError::Full { .. }), "{refused}");
    let start = format!("the disk of {} is full: ", directory.path().display());
    assert!(refused.to_string().starts_with(&start), "{refused}");
    assert_eq!(bus.bounds(0).await.unwrap(), Bounds { first: 0, next: 1 });
    let mut reader = bus.reader(0, 0).await.unwrap();
    assert_eq!(reader.next(1).await.unwrap()[0].bytes, "kept");
    // Whether what is there is durable can still be asked.
    assert_eq!(bus.append(Vec::new()).await.unwrap().await.unwrap(), [0; 0]);
    bus.close().await;
}

/// Logs of every version are opened and continued. `STK_UPDATE=1` writes that of the present one again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_of_every_version_are_read() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bus");
    if std::env::var_os("STK_UPDATE").is_some() {
        let (_directory, copy, bytes) = written(4, true).await;
        let golden = golden.join("v3");
        let _ = std::fs::remove_dir_all(&golden);
        copy_directory(&copy, &golden);
        std::fs::write(golden.join("0.jnl"), bytes).unwrap();
    }
    for version in ["v1", "v2", "v3"] {
        let golden = golden.join(version);
        let bytes = std::fs::read(golden.join("0.jnl")).unwrap();
        let records = opened_with(&golden, &bytes).await.unwrap();
        let expected: Vec<_> =
            (0..4).map(|number| format!("record {number}, which is whole or not there")).collect();
        assert_eq!(records, expected, "{version}");
    }
}

/// Every file below `path` with its bytes.
fn files(path: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(entry.path(), std::fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// How many files there are below `path`, of which some may go meanwhile.
fn count_files(path: &Path) -> usize {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count_files(&entry.path()),
            Ok(_) => 1,
            Err(_) => 0,
        })
        .sum()
}

/// Damage in the last group of records that were synced looks like a torn tail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_stops_before_damage_and_changes_nothing_and_a_writer_keeps_what_it_cuts() {
    let (directory, mut bytes) = written_in_groups(9, 3);
    let path = directory.path();
    let ends = batch_ends(&bytes);
    // The first of the last three records: two whole batches behind it.
    bytes[usize::midpoint(ends[6], ends[7])] ^= 0x10;
    std::fs::write(path.join("0.jnl"), &bytes).unwrap();
    let before = files(path);
    let reading = LocalBusConfig { partitions: 1, access: Access::Read, ..config(path) };
    // Readers do not keep each other out; a writer they do.
    let readers = [open(reading.clone()), open(reading)];
    let writing = LocalBusConfig { partitions: 1, ..config(path) };
    assert!(matches!(LocalBus::open(writing.clone()).err(), Some(BusError::Locked { .. })));
    for bus in readers {
        let named = format!("0.jnl is damaged at byte {}: ", ends[6]);
        let damage = bus.damage().unwrap();
        assert!(
            damage.contains(&named) && damage.ends_with("with 2 whole batches behind the damage"),
            "{damage}"
        );
        let mut reader = bus.reader(0, 0).await.unwrap();
        while reader.offset() < bus.bounds(0).await.unwrap().next {
            reader.next(1).await.unwrap();
        }
        assert_eq!(reader.offset(), 6);
        bus.close().await;
    }
    assert!(files(path) == before, "a reader changed the directory");

    let bus = open(writing);
    assert_eq!(bus.bounds(0).await.unwrap().next, 6);
    assert_eq!(std::fs::read(path.join("torn-1")).unwrap(), &bytes[ends[6]..]);
    bus.close().await;
    // Two whole batches were cut off with it: whoever asks is told, until somebody has moved the file away.
    for access in [Access::Write, Access::Read] {
        let bus = open(LocalBusConfig { partitions: 1, access, ..config(path) });
        let damage = bus.damage().unwrap_or_default().to_owned();
        assert!(damage.contains("torn-1 (") && damage.contains("2 whole batches"), "{damage}");
        bus.close().await;
    }
    std::fs::remove_file(path.join("torn-1")).unwrap();
    for access in [Access::Write, Access::Read] {
        let bus = open(LocalBusConfig { partitions: 1, access, ..config(path) });
        assert_eq!(bus.damage(), None);
        bus.close().await;
    }
}

/// The file beside the journals tells damage in what was synced last from a torn tail, and that the end of
/// a journal is gone; it counts for nothing itself where it is damaged, or of another time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_what_was_synced_last_is_named_and_given_up_as_the_message_says() {
    let directory = tempfile::tempdir().unwrap();
    let (path, copy) = (directory.path().join("log"), directory.path().join("copy"));
    let config = LocalBusConfig { partitions: 1, durability: Durability::Always, ..config(&path) };
    let bus = open(config.clone());
    let record = |number: u64| Bytes::from(format!("record {number}, which is whole or not there"));
    for number in 0..4 {
        bus.append(vec![(0, record(number))]).await.unwrap().await.unwrap();
    }
    copy_directory(&path, &copy);
    bus.close().await;
    let bytes = std::fs::read(copy.join("0.jnl")).unwrap();
    let ends = batch_ends(&bytes);
    let (last, end) = (ends[3], ends[4]);
    let mut flipped = bytes.clone();
    flipped[usize::midpoint(last, end)] ^= 0x10;
    for damaged in [flipped, bytes[..last].to_vec(), bytes[..end - 5].to_vec(), bytes[..ends[1]].to_vec()] {
        let lacks = if damaged.len() < last { 3 } else { 1 };
        let _ = std::fs::remove_dir_all(&path);
        copy_directory(&copy, &path);
        std::fs::write(path.join("0.jnl"), damaged).unwrap();
        let bus = open(LocalBusConfig { access: Access::Read, ..config.clone() });
        assert!(bus.damage().is_some_and(|damage| damage.contains("0.jnl is damaged")), "{:?}", bus.damage());
        bus.close().await;
        let refused = LocalBus::open(config.clone()).err().unwrap().to_string();
        assert!(refused.contains("0.jnl is damaged") && refused.contains("were durable"), "{refused}");
        assert!(!path.join("torn-1").exists(), "nothing is cut");
        let advice = refused.split('`').nth(1).unwrap();
        assert!(
            std::process::Command::new("sh").args(["-c", advice]).status().unwrap().success(),
            "{advice}"
        );
        let bus = open(config.clone());
        assert_eq!((bus.damage(), bus.bounds(0).await.unwrap().next), (None, 4 - lacks));
        bus.append(vec![(0, record(9))]).await.unwrap().await.unwrap();
        bus.close().await;
    }
    // Of an earlier life, or damaged itself.
    for synced in [std::fs::read(copy.join("synced")).unwrap(), b"stk sync".to_vec()] {
        std::fs::write(path.join("synced"), synced).unwrap();
        let bus = open(config.clone());
        assert_eq!(bus.damage(), None);
        bus.close().await;
    }
}

#[test]
fn of_what_is_cut_the_newest_is_kept_within_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let journal = path.join("0.jnl");
    for number in 1..=11_u8 {
        std::fs::write(&journal, [number; 100]).unwrap();
        let (at, bytes) = (60, 40);
        let damage = Damage {
            journal: journal.clone(),
            at,
            bytes,
            batches: 0,
            was_durable: false,
            is_in_active: true,
        };
        torn::cut(path, &damage).unwrap();
        assert_eq!(std::fs::read(&journal).unwrap(), [number; 60]);
        assert_eq!(std::fs::read(path.join(format!("torn-{number}"))).unwrap(), [number; 40]);
    }
    assert_eq!(files(path).len(), 1 + 8);
    assert!(!path.join("torn-3").exists() && path.join("torn-4").exists());
}

#[tokio::test]
async fn a_log_that_is_missing_is_empty_to_a_reader_and_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let bus = open(LocalBusConfig { access: Access::Read, ..config(&path) });
    assert_eq!(bus.bounds(0).await.unwrap(), Bounds { first: 0, next: 0 });
    bus.close().await;
    assert!(!path.exists());
}

/// A log of one partition that keeps four segments of four records, each of 256 KiB, at a clock of the
/// test's: nothing in it happens by itself.
fn small(path: &Path, clock: &Arc<AtomicU64>) -> Arc<LocalBus> {
    let retention = Retention { age: Duration::from_secs(80), bytes: 4 << 20 };
    let config = LocalBusConfig { partitions: 1, durability: Durability::Always, retention, ..config(path) };
    let clock = Arc::clone(clock);
    LocalBus::open_with_clock(config, Arc::new(move || clock.load(Ordering::Relaxed))).unwrap()
}

const LARGE_BYTES: usize = 256 << 10;
const SEGMENT_RECORDS: u64 = 4;

fn large() -> Vec<(u16, Bytes)> {
    vec![(0, Bytes::from(vec![7; LARGE_BYTES]))]
}

async fn fill(bus: &LocalBus, records: u64) {
    for _ in 0..records {
        bus.append(large()).await.unwrap().await.unwrap();
    }
}

/// Waits until the writer has looked after retention since now: it does before it takes the second.
async fn looked_after(bus: &LocalBus) -> Bounds {
    for _ in 0..2 {
        bus.append(Vec::new()).await.unwrap().await.unwrap();
    }
    bus.bounds(0).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn age_drops_what_is_released_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(AtomicU64::new(1_000));
    let bus = small(directory.path(), &clock);
    fill(&bus, 2).await;
    let mut behind = bus.reader(0, 0).await.unwrap();
    // An eighth of the age later the next record begins a segment.
    clock.fetch_add(10_000, Ordering::Relaxed);
    fill(&bus, 2).await;
    clock.fetch_add(79_999, Ordering::Relaxed);
    bus.release(0, 2);
    assert_eq!(looked_after(&bus).await, Bounds { first: 0, next: 4 }, "a millisecond too young");
    clock.fetch_add(1, Ordering::Relaxed);
    assert_eq!(looked_after(&bus).await, Bounds { first: 2, next: 4 });
    assert_eq!(bus.metrics().trimmed_records.get(), 2);
    // Old as it may be, what is not released stays.
    clock.fetch_add(1_000_000, Ordering::Relaxed);
    bus.release(0, 3);
    assert_eq!(looked_after(&bus).await, Bounds { first: 2, next: 4 });

    for fallen in [behind.next(1).await.err(), bus.reader(0, 1).await.err()] {
        assert!(
            matches!(fallen, Some(BusError::Trimmed { partition: 0, offset: 0 | 1, first: 2 })),
            "{fallen:?}"
        );
    }
    assert_eq!(bus.reader(0, 2).await.unwrap().next(1).await.unwrap()[0].offset, 2);
    bus.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn size_drops_what_is_released_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let bus = small(directory.path(), &Arc::new(AtomicU64::new(1_000)));
    fill(&bus, 4 * SEGMENT_RECORDS).await;
    bus.release(0, 2 * SEGMENT_RECORDS);
    assert_eq!(looked_after(&bus).await.first, 0, "all of it fits");
    let mut behind = bus.reader(0, 0).await.unwrap();
    fill(&bus, 1).await;
    assert_eq!(looked_after(&bus).await.first, SEGMENT_RECORDS, "the oldest goes, the next fits again");
    assert_eq!(bus.metrics().trimmed_records.get(), SEGMENT_RECORDS);
    assert!(bus.metrics().held_bytes.get() <= 4 << 20);
    let fallen = behind.next(1).await.err();
    assert!(
        matches!(fallen, Some(BusError::Trimmed { offset: 0, first: SEGMENT_RECORDS, .. })),
        "{fallen:?}"
    );
    // Everything from there on is there.
    let mut reader = bus.reader(0, SEGMENT_RECORDS).await.unwrap();
    while reader.offset() < 4 * SEGMENT_RECORDS + 1 {
        assert!(reader.next(1).await.unwrap().iter().all(|record| record.bytes.len() == LARGE_BYTES));
    }
    bus.close().await;
}

/// Descriptors of this process that are open below `path`.
fn open_below(path: &Path) -> usize {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    descriptors.filter(|of| std::fs::read_link(of.path()).is_ok_and(|file| file.starts_with(path))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_segments_leave_neither_files_nor_descriptors_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (clock, mut next, mut files_max) = (Arc::new(AtomicU64::new(1_000)), 0, 0);
    // What was there at opening is dropped in the second life.
    for life in 0..2 {
        let bus = small(path, &clock);
        bus.release(0, next);
        // A table of each segment that was there at opening, and what the database itself has open.
        let descriptors_max = 12;
        for segment in 0..24 {
            fill(&bus, SEGMENT_RECORDS).await;
            next += SEGMENT_RECORDS;
            bus.release(0, next);
            let bounds = looked_after(&bus).await;
            assert!(next - bounds.first <= 6 * SEGMENT_RECORDS, "{bounds:?}");
            if life == 0 && segment < 12 {
                files_max = files_max.max(count_files(path) + 8);
            }
            // fjall's threads put what is in memory into tables in their own time.
            let deadline = Instant::now() + Duration::from_secs(30);
            loop {
                let (files, descriptors) = (count_files(path), open_below(path));
                if files <= files_max && descriptors <= descriptors_max {
                    break;
                }
                assert!(
                    Instant::now() < deadline,
                    "{files} files, {descriptors} descriptors in segment {segment} of life {life}"
                );
                looked_after(&bus).await;
            }
        }
        let mut reader = bus.reader(0, bus.bounds(0).await.unwrap().first).await.unwrap();
        while reader.offset() < next {
            assert!(reader.next(1).await.unwrap().iter().all(|record| record.bytes.len() == LARGE_BYTES));
        }
        bus.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_waits_for_a_release_when_nothing_may_be_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let bus = small(directory.path(), &Arc::new(AtomicU64::new(1_000)));
    fill(&bus, 4 * SEGMENT_RECORDS).await;
    assert_eq!(bus.metrics().release_waits.get(), 0);
    let mut waiting = bus.append(large());
    assert!(futures_util::poll!(&mut waiting).is_pending());
    // Not a whole segment: nothing can go.
    bus.release(0, SEGMENT_RECORDS - 1);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    bus.release(0, SEGMENT_RECORDS);
    assert_eq!(waiting.await.unwrap().await.unwrap(), [4 * SEGMENT_RECORDS]);
    assert_eq!(bus.metrics().release_waits.get(), 1);
    assert_eq!(looked_after(&bus).await.first, SEGMENT_RECORDS);
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn an_append_that_waits_too_long_is_refused_and_nothing_of_it_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let bus = small(directory.path(), &Arc::new(AtomicU64::new(1_000)));
    fill(&bus, 4 * SEGMENT_RECORDS).await;
    let began = tokio::time::Instant::now();
    let refused = bus.append(large()).await.err().unwrap();
    assert_eq!(began.elapsed().as_secs(), RELEASE_WAIT_MAX.as_secs());
    assert!(matches!(refused, BusError::Full { .. }), "{refused}");
    assert!(refused.to_string().contains("holds only records not yet released"), "{refused}");
    // Whether what is there is durable is answered meanwhile: who releases asks that first.
    assert_eq!(looked_after(&bus).await, Bounds { first: 0, next: 4 * SEGMENT_RECORDS });
    bus.release(0, 4 * SEGMENT_RECORDS);
    assert_eq!(bus.append(large()).await.unwrap().await.unwrap(), [4 * SEGMENT_RECORDS]);
    assert_eq!(bus.metrics().release_waits.get(), 1);
    bus.close().await;
}

#[tokio::test]
async fn an_append_waits_while_the_queue_to_the_disk_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(config(directory.path()));
    let shared = &bus.shared;
    let whole = Arc::clone(&shared.queue).acquire_many_owned(shared.queue_bytes_max).await.unwrap();
    let mut waiting = bus.append(vec![(0, Bytes::from_static(b"a record"))]);
    assert!(futures_util::poll!(&mut waiting).is_pending());
    assert_eq!(bus.metrics().queue_waits.get(), 1);
    drop(whole);
    assert_eq!(waiting.await.unwrap().await.unwrap(), [0]);
    bus.close().await;
}
