//! The archive under crashes, lost replies, late rows, rivals and bad stores.

mod http;
mod lease;
mod memory;
mod scrub;
mod timelines;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::journal::{Journal, Step, journal_key};
use super::manifest::{Manifest, ManifestFile, data_prefix, manifest_key, manifest_prefix};
use super::plan::archived_units;
use super::read_back::read_back;
use super::run::{Archiver, Summary};
use super::status::archived;
use super::store::Store;
use super::verify::{Bounds, Scrubber};
use super::*;
use crate::bus::Bus;
use crate::bus::local::{LocalBus, LocalBusConfig};
use crate::market::{
    Bar, Price, Seq, Symbol, SymbolTable, Tick, TickBatch, TickBatchBuilder, TimeRange, Timeframe, Trade,
};
use crate::tiering::cold::Cold;
use crate::tiering::cold::dir::DirCold;
use crate::tiering::cold::faulty::{Fault, FaultyCold};
use crate::tiering::parquet::{Footer, Index, Window};
use crate::tiering::warm::conformance::{self, Case, Row};
use crate::tiering::warm::local::{LocalWarm, LocalWarmOptions};
use crate::tiering::warm::{ArchiveSource, Block, Mark, Query, Scan, UnitInfo, Warm};
use memory::{MemoryCold, Vice};

const QUIET: LocalWarmOptions = LocalWarmOptions { compaction: false };

const HOUR: i64 = 3_600_000_000_000;

/// A warm store, a clock that is set far ahead, and all rows there are.
struct World {
    dir: TempDir,
    warm: Option<Arc<LocalWarm>>,
    now: Arc<AtomicI64>,
    rows: Vec<Row>,
}

fn nothing() -> Progress {
    Arc::new(|_| {})
}

fn options() -> ArchiveOptions {
    ArchiveOptions {
        after_days: 1,
        settle: Duration::ZERO,
        keep_days: 36_600,
        // Small, so that a unit is of many objects.
        object_bytes: 1_500,
        row_group_rows: 16,
        ..ArchiveOptions::default()
    }
}

fn dropping() -> ArchiveOptions {
    ArchiveOptions { keep_days: 1, ..options() }
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let warm = Some(LocalWarm::open(dir.path(), QUIET).unwrap());
        let now: Timestamp = "2101-01-01T12:00:00Z".parse().unwrap();
        Self { dir, warm, now: Arc::new(AtomicI64::new(now.nanos())), rows: Vec::new() }
    }

    fn warm(&self) -> Arc<LocalWarm> {
        self.warm.clone().unwrap()
    }

    /// A process that dies and is started again, so much later that its lease has run out.
    fn restart(&mut self) {
        self.warm = None;
        self.warm = Some(LocalWarm::open(self.dir.path(), QUIET).unwrap());
        self.sleep(HOUR);
    }

    fn sleep(&self, nanos: i64) {
        self.now.fetch_add(nanos, Ordering::AcqRel);
    }

    fn clock(&self) -> Clock {
        let now = self.now.clone();
        Clock::new(move || Timestamp::from_nanos(now.load(Ordering::Acquire)))
    }

    fn archiver(&self, cold: Arc<dyn Cold>, options: ArchiveOptions) -> Archiver {
        Archiver::new(cold, self.warm(), options, self.clock(), ArchiveMetrics::default())
    }

    async fn run(&self, cold: &MemoryCold, options: ArchiveOptions) -> Result<Summary, ArchiveError> {
        self.archiver(Arc::new(cold.clone()), options).run(&nothing()).await
    }

    /// Stores trades of three symbols on two days in `blocks` blocks.
    async fn trades(&mut self, blocks: u64) {
        for _ in 0..blocks {
            for partition in 0..2_u16 {
                self.store(partition, |offset, index| trade(partition, offset, index)).await;
            }
        }
    }

    async fn store(&mut self, partition: u16, tick: impl Fn(u64, u32) -> Tick) {
        let warm = self.warm();
        let first_offset = warm.mark(partition).await.unwrap().next_offset;
        let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(partition));
        for offset in first_offset..first_offset + 3 {
            for index in 0..20 {
                let (seq, tick) = (Seq { partition, offset, index }, tick(offset, index));
                let symbol = tick.symbol().unwrap();
                builder.push(table.intern(symbol), seq, &tick);
                self.rows.push((Some(symbol), tick.ts(), seq, tick));
            }
        }
        let (batches, checkpoint) = (builder.finish(&table), Bytes::new());
        let block =
            Block { partition, first_offset, next_offset: first_offset + 3, batches, checkpoint, seam: None };
        warm.commit(block).await.unwrap();
    }

    /// Every row is read once: from the archive what its manifests cover, the rest from warm.
    async fn check(&self, cold: &dyn Cold) {
        let warm = self.warm();
        for kind in &crate::market::Kind::ALL[..7] {
            let mut query = Query::new(*kind, None, TimeRange::ALL);
            let manifests = manifests_of(cold, *kind).await;
            for manifest in &manifests {
                query.archived.insert(manifest.date, manifest.next_offsets.clone());
            }
            let scan = warm.scan(&query).await.unwrap();
            for (day, dropped) in &scan.dropped {
                let held = query.archived.get(day).map_or(&[][..], |held| held);
                assert!(super::plan::covers(held, dropped), "dropped what is not archived");
            }
            assert!(scan.restored.is_empty());
            drop(scan);
            let mut found = conformance::scanned(&*warm, &query).await.unwrap();
            for manifest in &manifests {
                found.extend(rows_of(cold, manifest).await);
            }
            found.sort_by_key(|(symbol, ts, seq, _)| (*symbol, *ts, *seq));
            let all = Query::new(*kind, None, TimeRange::ALL);
            assert_eq!(found, conformance::expected(&self.rows, &all), "{}", kind.name());
        }
    }
}

fn trade(partition: u16, offset: u64, index: u32) -> Tick {
    let symbol: Symbol =
        [["AAPL", "MSFT"], ["IBM", "IBM"]][usize::from(partition)][index as usize % 2].parse().unwrap();
    let day: Timestamp =
        ["2026-11-19T15:00:00Z", "2026-11-20T15:00:00Z"][offset as usize % 2].parse().unwrap();
    let ts = day.saturating_add_nanos((offset * 1_000 + u64::from(index)) as i64 * 1_000_003);
    Tick::Trade(Trade {
        symbol,
        ts,
        recv_ts: ts.saturating_add_nanos(7),
        price: Price::from_ten_thousandths(1_904_500 + i64::from(index)).unwrap(),
        size: 100,
        exchange: crate::market::Exchange::IEX,
        conditions: crate::market::Conditions::NONE,
        id: offset * 100 + u64::from(index),
        tape: crate::market::Tape::C,
    })
}

async fn manifests_of(cold: &dyn Cold, kind: crate::market::Kind) -> Vec<Manifest> {
    let mut found = Vec::new();
    for object in cold.list(&format!("manifest/kind={}/", kind.name()), None).await.unwrap() {
        if super::manifest::parse_manifest_key(&object.key).is_some() {
            found.push(serde_json::from_slice(&cold.get(&object.key).await.unwrap()).unwrap());
        }
    }
    found
}

/// The rows of a manifest's objects, in their order.
async fn rows_of(cold: &dyn Cold, manifest: &Manifest) -> Vec<Row> {
    let kind = crate::market::Kind::from_name(&manifest.kind).unwrap();
    let mut rows = Vec::new();
    for file in &manifest.files {
        let whole = cold.get(&file.key).await.unwrap();
        assert_eq!(whole.len() as u64, file.bytes);
        let footer = cold.get(&file.footer_key).await.unwrap();
        assert_eq!(footer, whole.slice(file.footer_at as usize..), "a footer is a copy");
        let tail = Window { start: file.footer_at, bytes: footer, file_bytes: file.bytes };
        let footer = Footer::parse(kind, &tail).unwrap();
        let from = rows.len();
        for (group, range) in footer.row_groups().unwrap().into_iter().enumerate() {
            let bytes = whole.slice(range.start as usize..range.end as usize);
            let window = Window { start: range.start, bytes, file_bytes: file.bytes };
            for batch in footer.rows(group, window, 1000).unwrap() {
                rows.extend(rows_in(&batch.unwrap()));
            }
        }
        let symbol = |row: Option<&Row>| row.and_then(|(symbol, ..)| symbol.map(|symbol| symbol.to_string()));
        assert_eq!(
            (symbol(rows.get(from)), symbol(rows.last())),
            (file.symbol_min.clone(), file.symbol_max.clone())
        );
        assert_eq!((rows.len() - from) as u64, file.digest.rows);
    }
    assert!(rows.is_sorted_by_key(|(symbol, ts, seq, _)| (*symbol, *ts, *seq)));
    rows
}

fn rows_in(batch: &TickBatch) -> Vec<Row> {
    let view = batch.rows().unwrap();
    let row = |row| (view.symbol(row), view.ts(row), view.seq(row), view.tick(row).unwrap());
    (0..batch.len()).map(row).collect()
}

/// Objects that no manifest names.
async fn unnamed(cold: &dyn Cold) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for prefix in ["ticks/", "manifest/"] {
        found.extend(cold.list(prefix, None).await.unwrap().into_iter().map(|object| object.key));
    }
    for kind in crate::market::Kind::ALL {
        for manifest in manifests_of(cold, kind).await {
            let unit = Unit { day: manifest.date, kind };
            found.remove(&manifest_key(unit, manifest.number));
            for file in manifest.files {
                found.remove(&file.key);
                found.remove(&file.footer_key);
            }
        }
    }
    found
}

fn is_send<T: Send>(value: T) -> T {
    value
}

#[tokio::test(start_paused = true)]
async fn a_day_is_copied_then_dropped_and_every_row_is_read_once() {
    let mut world = World::new();
    world.trades(4).await;
    let cold = MemoryCold::new();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let heard = steps.clone();
    let progress: Progress = Arc::new(move |event| {
        if let Event::Step { unit, step } = event {
            heard.lock().unwrap().push((unit.day, step));
        }
    });
    let archiver = world.archiver(Arc::new(cold.clone()), options());
    let (planned, waiting) = archiver.plan().await.unwrap();
    assert_eq!(waiting, []);
    assert_eq!(
        planned.iter().map(|planned| planned.action).collect::<Vec<_>>(),
        [Action::Copy, Action::Copy]
    );
    assert!(cold.keys("").is_empty(), "a plan writes nothing");
    let summary = is_send(archiver.run(&progress)).await.unwrap();
    assert_eq!((summary.commits, summary.rows, summary.drops), (2, world.rows.len() as u64, 0));
    let days: Vec<_> = planned.iter().map(|planned| planned.unit.day).collect();
    let names = ["planned", "sealed", "exporting", "uploaded", "verified", "committed"];
    let expected: Vec<_> = days.iter().flat_map(|day| names.map(|name| (*day, name.into()))).collect();
    assert_eq!(*steps.lock().unwrap(), expected);
    world.check(&cold).await;
    assert!(unnamed(&cold).await.is_empty());
    let again = world.run(&cold, options()).await.unwrap();
    assert_eq!(again, Summary::default(), "nothing is due");
    let summary = world.run(&cold, dropping()).await.unwrap();
    assert_eq!((summary.commits, summary.drops), (0, 2));
    assert!(world.warm().units().await.unwrap().is_empty());
    world.check(&cold).await;
    let status = world.archiver(Arc::new(cold.clone()), options()).status(|_| true).await.unwrap();
    assert!(status.values().all(|unit| unit.step.as_ref().is_some_and(|(step, _)| *step == "dropped")));
    assert_eq!(status.values().map(status::UnitStatus::archived_rows).sum::<u64>(), world.rows.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_day_is_not_due_for_a_reason_and_never_waits_for_a_clock_that_was_ahead() {
    let mut world = World::new();
    world.trades(1).await;
    let cold = MemoryCold::new();
    let settling = ArchiveOptions { settle: Duration::from_hours(1), ..options() };
    // How many minutes after the rows were stored it is by the archiver's clock, and how many days are due.
    for (minutes, due) in [(-3 * 24 * 60, 2), (-59, 0), (20, 0), (61, 2)] {
        let now = Timestamp::now().saturating_add_nanos(minutes * HOUR / 60);
        world.now.store(now.nanos(), Ordering::Release);
        let archiver = world.archiver(Arc::new(cold.clone()), settling.clone());
        let (planned, waiting) = archiver.plan().await.unwrap();
        assert_eq!((planned.len(), waiting.len()), (due, 2 - due), "after {minutes} min: {waiting:?}");
        let status = archiver.status(|_| true).await.unwrap();
        assert_eq!(status.values().filter(|unit| unit.waiting.is_some()).count(), 2 - due);
    }
    world.now.store(Timestamp::now().saturating_add_nanos(HOUR / 3).nanos(), Ordering::Release);
    let summary = world.run(&cold, settling).await.unwrap();
    let words = |why: &Waiting| why.in_words(Timestamp::from_nanos(world.now.load(Ordering::Acquire)));
    assert_eq!(words(&summary.waiting[0].1), "due in 40 min (archive.settle_minutes = 60)");
    let old = ArchiveOptions { after_days: 36_500, ..options() };
    let (_, waiting) = world.archiver(Arc::new(cold.clone()), old).plan().await.unwrap();
    assert!(words(&waiting[0].1).ends_with(" (archive.after_days = 36500)"), "{waiting:?}");
}

#[tokio::test(start_paused = true)]
async fn late_rows_become_a_supplement_also_after_the_drop() {
    let mut world = World::new();
    let cold = MemoryCold::new();
    for round in 0..3_u32 {
        world.trades(1).await;
        let options = if round == 1 { dropping() } else { options() };
        let summary = world.run(&cold, options).await.unwrap();
        assert_eq!((summary.commits, summary.failures), (2, Vec::new()));
        world.check(&cold).await;
    }
    for unit in
        archived_units(&Store::new(Arc::new(cold.clone()), None, ArchiveMetrics::default())).await.unwrap()
    {
        let keys = cold.keys(&manifest_prefix(unit));
        assert_eq!(keys.iter().filter(|key| super::manifest::parse_manifest_key(key).is_some()).count(), 3);
    }
    // The late rows of the last round go too, though what came before them is gone already.
    let summary = world.run(&cold, dropping()).await.unwrap();
    assert_eq!((summary.drops, summary.failures), (2, Vec::new()));
    assert!(world.warm().units().await.unwrap().is_empty());
    world.check(&cold).await;
}

#[tokio::test(start_paused = true)]
async fn revisions_of_bars_are_archived_by_their_latest() {
    let mut world = World::new();
    let cold = MemoryCold::new();
    let ts: Timestamp = "2026-11-20T15:00:00Z".parse().unwrap();
    let warm = world.warm();
    for offset in 0..40_u64 {
        let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(0));
        let mut bar = Bar::empty("AAPL".parse().unwrap(), Timeframe::MINUTE, ts);
        bar.volume = offset;
        builder.push_bar(table.intern(bar.symbol), Seq { partition: 0, offset, index: 0 }, &bar);
        let (batches, checkpoint) = (builder.finish(&table), Bytes::new());
        let block = Block {
            partition: 0,
            first_offset: offset,
            next_offset: offset + 1,
            batches,
            checkpoint,
            seam: None,
        };
        warm.commit(block).await.unwrap();
        if offset % 10 == 9 {
            let summary = world.run(&cold, options()).await.unwrap();
            assert_eq!((summary.commits, summary.rows), (1, 1), "{offset}");
            while warm.compact().unwrap() {}
        }
    }
    let summary = world.run(&cold, dropping()).await.unwrap();
    assert_eq!((summary.drops, summary.failures), (1, Vec::new()));
    world.warm = None;
}

/// Footers are read without a checksum where a manifest is lost, and those of the first versions have none.
#[tokio::test]
async fn no_flipped_bit_of_a_footer_ends_the_process() {
    let world = World::new();
    let cold = MemoryCold::new();
    revisions(&world.warm(), 0..40, &[(3, 7), (9, 8)]).await;
    assert_eq!(world.run(&cold, options()).await.unwrap().commits, 1);
    let shared: Arc<dyn Cold> = Arc::new(cold.clone());
    let manifests = archived(&shared, |_| true).await.unwrap();
    let file = manifests.values().flatten().flat_map(|manifest| &manifest.files).next().unwrap().clone();
    let whole = cold.get(&file.key).await.unwrap();
    let store = Store::new(shared, None, ArchiveMetrics::default());
    let nothing: Progress = Arc::new(|_| {});
    let read = async |file: &ManifestFile| read_back(&store, Kind::Bar, file, &nothing).await.map(|_| ());
    assert_eq!(read(&file).await, Ok(()));
    let unchecked = ManifestFile { footer_checksum: None, ..file.clone() };
    for at in file.footer_at as usize..whole.len() {
        for bit in [0, 1 + at % 7] {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1 << bit;
            let bytes = Bytes::copy_from_slice(&flipped[file.footer_at as usize..]);
            let tail = Window { start: file.footer_at, bytes, file_bytes: file.bytes };
            let _ = Footer::parse(Kind::Bar, &tail).and_then(|footer| footer.row_groups());
            let _ = Index::parse(Kind::Bar, &tail);
            cold.put(&file.key, flipped.into()).await.unwrap();
            for file in [&file, &unchecked] {
                assert!(read(file).await.is_err(), "byte {at} bit {bit}");
            }
        }
    }
}

/// A block of revisions of one bar, whose volume says which.
async fn revisions(warm: &LocalWarm, offsets: std::ops::Range<u64>, volumes: &[(u64, u64)]) {
    let ts: Timestamp = "2026-11-20T15:00:00Z".parse().unwrap();
    let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(0));
    for (offset, volume) in volumes {
        let bar = Bar::empty("AAPL".parse().unwrap(), Timeframe::MINUTE, ts);
        let bar = Bar { volume: *volume, ..bar };
        builder.push_bar(table.intern(bar.symbol), Seq { partition: 0, offset: *offset, index: 0 }, &bar);
    }
    let block = Block {
        partition: 0,
        first_offset: offsets.start,
        next_offset: offsets.end,
        batches: builder.finish(&table),
        checkpoint: Bytes::new(),
        seam: None,
    };
    warm.commit(block).await.unwrap();
}

/// Warm was lost and filled from the log again, in other blocks.
#[tokio::test(start_paused = true)]
async fn bars_of_a_warm_that_was_filled_again_are_dropped_where_their_newest_is_archived() {
    for (volume, is_same) in [(12, true), (13, false)] {
        let (mut first, cold) = (World::new(), MemoryCold::new());
        let warm = first.warm();
        revisions(&warm, 0..6, &[(5, 6)]).await;
        revisions(&warm, 6..10, &[(9, 12)]).await;
        drop(warm);
        assert_eq!(first.run(&cold, options()).await.unwrap().commits, 1);
        first.warm = None;
        let mut again = World::new();
        // The one block ends behind what was sealed: the bar's only revision is a late row.
        revisions(&again.warm(), 0..12, &[(11, volume)]).await;
        let summary = again.run(&cold, dropping()).await.unwrap();
        assert_eq!((summary.commits, summary.drops, summary.failures.len()), (1, 1, 0), "{summary:?}");
        again.warm = None;
        // All of it lies below the seal.
        let mut once_more = World::new();
        revisions(&once_more.warm(), 0..12, &[(7, volume), (10, 12)]).await;
        let failures = once_more.run(&cold, dropping()).await.unwrap().failures;
        assert_eq!(failures.is_empty(), is_same, "{failures:?}");
        once_more.warm = None;
    }
}

/// The calls that a run of copying and dropping makes.
async fn calls_of_a_run() -> u64 {
    let mut world = World::new();
    world.trades(2).await;
    let cold = Arc::new(FaultyCold::new(Arc::new(MemoryCold::new()), Fault::Lost, u64::MAX, 0));
    world.archiver(cold.clone(), dropping()).run(&nothing()).await.unwrap();
    cold.calls()
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_any_two_calls_is_made_good_by_the_next_run() {
    let calls = calls_of_a_run().await;
    assert!(calls > 60, "{calls}");
    let mut commits = BTreeSet::new();
    for first in 1..=calls {
        for fault in [Fault::Lost, Fault::ReplyLost] {
            let mut world = World::new();
            world.trades(2).await;
            let cold = MemoryCold::new();
            // Of the call's reply nothing is heard, and of all after it nothing happens.
            let dead = FaultyCold::new(Arc::new(cold.clone()), Fault::Lost, first + 1, u64::MAX);
            let crashed = FaultyCold::new(Arc::new(dead), fault, first, u64::MAX);
            let _ = world.archiver(Arc::new(crashed), dropping()).run(&nothing()).await;
            world.restart();
            world.check(&cold).await;
            world.trades(1).await;
            let summary = world.run(&cold, dropping()).await.unwrap();
            assert_eq!(summary.failures, [], "call {first}, {fault:?}");
            world.check(&cold).await;
            commits.insert(summary.commits);
            // What the crash left goes, once it is old enough, in two runs.
            world.sleep(2 * HOUR);
            world.run(&cold, dropping()).await.unwrap();
            assert!(world.warm().units().await.unwrap().is_empty());
            world.sleep(2 * HOUR);
            world.run(&cold, dropping()).await.unwrap();
            assert_eq!(unnamed(&cold).await, BTreeSet::new(), "call {first}, {fault:?}");
            assert_eq!(cold.keys("probe/"), [""; 0], "call {first}, {fault:?}");
            assert!(cold.keys("lease/").len() <= 2);
            world.check(&cold).await;
        }
    }
    // One of each day, and where an attempt was taken up another, of what came since it began.
    assert_eq!(commits, BTreeSet::from([2, 3]));
}

#[tokio::test(start_paused = true)]
async fn a_reply_lost_at_any_call_is_found_out_in_the_same_run() {
    let calls = calls_of_a_run().await;
    for first in 1..=calls {
        for fault in [Fault::Lost, Fault::ReplyLost] {
            let mut world = World::new();
            world.trades(2).await;
            let cold = MemoryCold::new();
            let faulty = FaultyCold::new(Arc::new(cold.clone()), fault, first, 1);
            let summary = world.archiver(Arc::new(faulty), dropping()).run(&nothing()).await.unwrap();
            assert_eq!((summary.commits, summary.drops), (2, 2), "call {first}, {fault:?}");
            assert_eq!(summary.failures, [], "call {first}, {fault:?}");
            world.check(&cold).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_archivers_at_once_one_works() {
    let mut world = World::new();
    world.trades(2).await;
    let cold = MemoryCold::new();
    let (a, b) = tokio::join!(world.run(&cold, options()), world.run(&cold, options()));
    let (done, refused) = if a.is_ok() { (a, b) } else { (b, a) };
    assert_eq!(done.unwrap().commits, 2);
    let refused = refused.unwrap_err();
    assert!(matches!(refused, ArchiveError::Leased { .. } | ArchiveError::LeaseLost { .. }), "{refused}");
    world.check(&cold).await;
}

#[tokio::test(start_paused = true)]
async fn an_archiver_that_slept_over_its_lease_commits_nothing() {
    let mut world = World::new();
    world.trades(2).await;
    let cold = MemoryCold::new();
    let gate = Arc::new((Semaphore::new(0), Semaphore::new(0)));
    let slow = MemoryCold { gate: Some(gate.clone()), ..cold.clone() };
    let slow = world.archiver(Arc::new(slow), options());
    let mut asleep = tokio::spawn(async move { slow.run(&nothing()).await });
    // It stands before its first commit, its request on the way.
    tokio::select! {
        permit = gate.0.acquire() => permit.unwrap().forget(),
        done = &mut asleep => panic!("it did not come so far: {done:?}"),
    }
    world.sleep(HOUR);
    let summary = world.run(&cold, options()).await.unwrap();
    assert_eq!(summary.commits, 2);
    let before = cold.keys("manifest/");
    gate.1.add_permits(100);
    let error = asleep.await.unwrap().unwrap_err();
    assert!(matches!(error, ArchiveError::LeaseLost { .. }), "{error}");
    assert_eq!(cold.keys("manifest/").iter().filter(|key| key.ends_with("json")).count(), 2);
    assert!(before.iter().all(|key| cold.keys("manifest/").contains(key)));
    world.check(&cold).await;
    // What it had proven was taken up by the other, under its nonce; what it began is garbage.
    for _ in 0..2 {
        world.sleep(2 * HOUR);
        world.run(&cold, options()).await.unwrap();
    }
    assert_eq!(unnamed(&cold).await, BTreeSet::new());
    world.check(&cold).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_ignores_conditions_is_refused() {
    for vice in [Vice::Overwrites, Vice::OverwritesInSecret] {
        let mut world = World::new();
        world.trades(1).await;
        let cold = MemoryCold::with(vice);
        let error = world.run(&cold, dropping()).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Unconditional { .. }), "{error}");
        assert!(cold.keys("ticks/").is_empty() && cold.keys("manifest/").is_empty());
        world.check(&cold).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_spoilt_on_the_way_is_not_committed() {
    let mut world = World::new();
    world.trades(2).await;
    let cold = MemoryCold::new();
    *cold.spoil.lock().unwrap() = Some("date=2026-11-19/part-0000".to_owned());
    let summary = world.run(&cold, dropping()).await.unwrap();
    assert_eq!((summary.commits, summary.drops, summary.failures.len()), (1, 1, 1));
    let (unit, error) = &summary.failures[0];
    assert_eq!(unit.day.to_string(), "2026-11-19");
    assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
    world.check(&cold).await;
    *cold.spoil.lock().unwrap() = None;
    let summary = world.run(&cold, dropping()).await.unwrap();
    assert_eq!((summary.commits, summary.drops, summary.failures), (1, 1, Vec::new()));
    world.check(&cold).await;
}

/// A source whose own digest is another than its rows', or one that is exchanged for another log's after
/// some looks.
struct Liar {
    warm: Arc<LocalWarm>,
    lies: bool,
    looks_left: AtomicU32,
}

#[async_trait::async_trait]
impl Warm for Liar {
    async fn held(&self) -> Result<crate::bus::epoch::Held, WarmError> {
        self.warm.held().await
    }

    async fn check_origin(&self, _: &crate::tiering::warm::Origin) -> Result<bool, WarmError> {
        let looks_left = &self.looks_left;
        let own = looks_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let (path, reason) = ("the database".to_owned(), "holds rows of another log".to_owned());
        own.map(|_| true).map_err(|_| WarmError::OtherLog { path, reason })
    }
    async fn claim(&self, partition: u16) -> Result<Mark, WarmError> {
        self.warm.claim(partition).await
    }
    async fn mark(&self, partition: u16) -> Result<Mark, WarmError> {
        self.warm.mark(partition).await
    }
    async fn commit(&self, block: Block) -> Result<(), WarmError> {
        self.warm.commit(block).await
    }
    async fn leave_to_archive(&self, unit: Unit, next_offsets: &[u64]) -> Result<(), WarmError> {
        self.warm.leave_to_archive(unit, next_offsets).await
    }

    async fn scan(&self, query: &Query) -> Result<Scan, WarmError> {
        self.warm.scan(query).await
    }
}

#[async_trait::async_trait]
impl ArchiveSource for Liar {
    async fn units(&self) -> Result<Vec<UnitInfo>, WarmError> {
        self.warm.units().await
    }
    async fn digest(&self, unit: Unit, offsets: &[std::ops::Range<u64>]) -> Result<RowDigest, WarmError> {
        let mut digest = self.warm.digest(unit, offsets).await?;
        digest.sum ^= u64::from(self.lies);
        Ok(digest)
    }
    async fn first_offsets(
        &self,
        unit: Unit,
        offsets: &[std::ops::Range<u64>],
    ) -> Result<Vec<u64>, WarmError> {
        self.warm.first_offsets(unit, offsets).await
    }
    async fn export(
        &self,
        unit: Unit,
        offsets: &[std::ops::Range<u64>],
    ) -> Result<BoxStream<'static, Result<TickBatch, WarmError>>, WarmError> {
        self.warm.export(unit, offsets).await
    }
    async fn drop_rows(&self, unit: Unit, next_offsets: &[u64]) -> Result<u64, WarmError> {
        self.warm.drop_rows(unit, next_offsets).await
    }
    async fn restore(
        &self,
        unit: Unit,
        next_offsets: &[u64],
        rows: BoxStream<'static, Result<TickBatch, WarmError>>,
    ) -> Result<(), WarmError> {
        self.warm.restore(unit, next_offsets, rows).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_holds_other_rows_is_neither_committed_nor_dropped() {
    let mut world = World::new();
    world.trades(2).await;
    let cold = MemoryCold::new();
    let liar = || {
        let warm = Arc::new(Liar { warm: world.warm(), lies: true, looks_left: AtomicU32::new(u32::MAX) });
        let cold = Arc::new(cold.clone());
        Archiver::new(cold, warm, dropping(), world.clock(), ArchiveMetrics::default())
    };
    let summary = liar().run(&nothing()).await.unwrap();
    assert_eq!((summary.commits, summary.drops, summary.failures.len()), (0, 0, 2));
    assert!(cold.keys("manifest/").is_empty());
    // Committed by one who tells the truth, it is not dropped by one who does not.
    world.run(&cold, options()).await.unwrap();
    let summary = liar().run(&nothing()).await.unwrap();
    assert_eq!((summary.drops, world.warm().units().await.unwrap().len()), (0, 2));
    assert!(summary.failures.iter().all(|(_, error)| matches!(error, ArchiveError::Differs { .. })));
    world.check(&cold).await;
}

/// The database is exchanged for another log's while an archiver runs: nothing of it is archived, and
/// nothing is dropped from it.
#[tokio::test]
async fn a_source_that_becomes_another_logs_is_neither_archived_nor_dropped() {
    let mut world = World::new();
    world.trades(2).await;
    let dir = TempDir::new().unwrap();
    let mut config = LocalBusConfig::new(dir.path(), 2);
    config.free_bytes_min = 0;
    let bus = LocalBus::open(config).unwrap();
    let records = (0..6).flat_map(|_| [0, 1]).map(|partition| (partition, Bytes::from_static(b"a record")));
    bus.append(records.collect()).await.unwrap().await.unwrap();
    // Looks are at the start, before each of two commits, and before each of two drops.
    for (looks, commits, drops) in [(0, 0, 0), (1, 0, 0), (2, 1, 0), (3, 2, 0), (4, 2, 1)] {
        let cold = MemoryCold::new();
        let warm = Liar { warm: world.warm(), lies: false, looks_left: AtomicU32::new(looks) };
        let options = ArchiveOptions { log: Some(origin::Beside::new(bus.clone())), ..dropping() };
        let (shared, warm) = (Arc::new(cold.clone()), Arc::new(warm));
        let archiver = Archiver::new(shared, warm, options, world.clock(), ArchiveMetrics::default());
        match archiver.run(&nothing()).await {
            Ok(summary) => {
                assert_eq!((summary.commits, summary.drops), (commits, drops), "{looks}: {summary:?}");
                let (_, error) = &summary.failures[0];
                assert!(error.to_string().contains("rows of another log"), "{error}");
            }
            Err(error) => assert!(looks == 0 && error.to_string().contains("rows of another log"), "{error}"),
        }
        assert_eq!(world.warm().units().await.unwrap().len(), 2 - drops as usize);
    }
    bus.close().await;
}

#[tokio::test(start_paused = true)]
async fn garbage_never_takes_what_counts_or_may_come_to_count() {
    let mut world = World::new();
    world.trades(2).await;
    let cold = MemoryCold::new();
    world.run(&cold, options()).await.unwrap();
    let counts = cold.keys("ticks/").len() + cold.keys("manifest/").len();
    let unit = world.warm().units().await.unwrap()[0].unit;
    let orphan = format!("{}part-0000-DEAD.parquet", data_prefix(unit));
    let alive = format!("{}part-0000-ALIVE.parquet", data_prefix(unit));
    let footer = format!("{}part-0000-DEAD.footer", manifest_prefix(unit));
    let probe = "probe/DEAD".to_owned();
    for key in [&orphan, &alive, &footer, &probe] {
        cold.put(key, "x".into()).await.unwrap();
    }
    let elsewhere = Unit { day: unit.day.next(), kind: crate::market::Kind::Gap };
    let mut journal = Journal::new(elsewhere, 0, Vec::new());
    journal.step = Step::Exporting { attempt: "ALIVE".to_owned() };
    cold.put(&journal_key(elsewhere), sealed::seal(&journal)).await.unwrap();
    let there = |key: &String| cold.keys("").contains(key);
    let removed = world.run(&cold, options()).await.unwrap().objects_removed;
    assert!(removed == 0 && there(&orphan), "condemned first");
    let removed = world.run(&cold, options()).await.unwrap().objects_removed;
    assert!(removed == 0 && there(&orphan), "and not removed at once");
    world.sleep(2 * HOUR);
    let removed = world.run(&cold, options()).await.unwrap().objects_removed;
    assert_eq!((removed, there(&orphan), there(&footer), there(&alive)), (3, false, false, true));
    assert!(!there(&probe));
    assert_eq!(cold.keys("ticks/").len() + cold.keys("manifest/").len(), counts + 1);
    // What is younger than the grace stays, whatever nobody says of it.
    cold.put(&orphan, "x".into()).await.unwrap();
    let patient = ArchiveOptions { grace: Duration::from_hours(24 * 366 * 200), ..options() };
    for _ in 0..3 {
        world.sleep(2 * HOUR);
        assert_eq!(world.run(&cold, patient.clone()).await.unwrap().objects_removed, 0);
    }
    world.check(&cold).await;
}

#[tokio::test]
async fn a_directory_holds_an_archive_as_well() {
    let mut world = World::new();
    world.trades(3).await;
    let dir = TempDir::new().unwrap();
    let cold = Arc::new(DirCold::open(dir.path()).unwrap());
    let summary = world.archiver(cold.clone(), dropping()).run(&nothing()).await.unwrap();
    assert_eq!((summary.commits, summary.drops, summary.failures), (2, 2, Vec::new()));
    world.check(&*cold).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_days_that_are_to_come_back_no_object_between_is_looked_at() {
    let mut world = World::new();
    let day_nanos = 24 * HOUR;
    world
        .store(0, |offset, index| {
            let Tick::Trade(mut trade) = trade(0, 0, index) else { unreachable!("it is a trade") };
            trade.ts = trade.ts.saturating_add_nanos(offset as i64 * day_nanos);
            Tick::Trade(trade)
        })
        .await;
    let cold = MemoryCold::new();
    world.run(&cold, options()).await.unwrap();
    let days: Vec<_> = world.warm().units().await.unwrap().iter().map(|info| info.unit.day).collect();
    assert_eq!(days.len(), 3);
    let reader = read::ArchiveReader::new(Arc::new(cold.clone()));
    let kinds = [crate::market::Kind::Trade];
    let survey = restore::survey(&reader, &kinds, &restore::spans([days[2], days[0]])).await.unwrap();
    let seen: BTreeSet<_> = survey.ready.iter().map(|file| file.unit.day).collect();
    assert_eq!(seen, BTreeSet::from([days[0], days[2]]));
}

/// What may happen, in any order.
#[derive(Clone, Debug)]
enum Happening {
    /// The next block is stored.
    Commit,
    /// A run of the archive; with a fault, from that call on.
    Run {
        drops: bool,
        fault: Option<(u64, bool)>,
    },
    Compact,
    Restart,
}

fn happening() -> impl Strategy<Value = Happening> {
    let fault = prop::option::of((1_u64..120, any::<bool>()));
    prop_oneof![
        3 => Just(Happening::Commit),
        3 => (any::<bool>(), fault).prop_map(|(drops, fault)| Happening::Run { drops, fault }),
        1 => Just(Happening::Compact),
        1 => Just(Happening::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_happens_every_row_is_read_once(
        case in conformance::case(),
        happenings in prop::collection::vec(happening(), 1..14),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(whatever_happens(&case, happenings));
    }
}

async fn whatever_happens(case: &Case, happenings: Vec<Happening>) {
    let mut world = World::new();
    let cold = MemoryCold::new();
    let (blocks, rows) = case.blocks();
    let mut blocks = blocks.into_iter();
    for happening in happenings {
        match happening {
            Happening::Commit => {
                let Some(block) = blocks.next() else { continue };
                let range = block.first_offset..block.next_offset;
                world.rows.extend(
                    rows.iter()
                        .filter(|(_, _, seq, _)| {
                            seq.partition == block.partition && range.contains(&seq.offset)
                        })
                        .cloned(),
                );
                world.warm().commit(block).await.unwrap();
            }
            Happening::Run { drops, fault } => {
                let options = if drops { dropping() } else { options() };
                match fault {
                    None => {
                        world.sleep(HOUR);
                        let summary = world.run(&cold, options).await.unwrap();
                        assert_eq!(summary.failures, []);
                    }
                    Some((first, reply_lost)) => {
                        let fault = if reply_lost { Fault::ReplyLost } else { Fault::Lost };
                        let dead = FaultyCold::new(Arc::new(cold.clone()), Fault::Lost, first + 1, u64::MAX);
                        let crashed = FaultyCold::new(Arc::new(dead), fault, first, u64::MAX);
                        let _ = world.archiver(Arc::new(crashed), options).run(&nothing()).await;
                        world.restart();
                    }
                }
            }
            Happening::Compact => {
                let warm = world.warm();
                while warm.compact().unwrap() {}
            }
            Happening::Restart => world.restart(),
        }
        world.check(&cold).await;
    }
}

fn golden(version: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/archive").join(version)
}

/// Archives that earlier versions wrote are read for ever. `STK_UPDATE=1` writes a new one, where
/// there is none.
#[tokio::test]
async fn archives_of_every_version_are_read() {
    for version in ["v1", "v2"] {
        archive_is_read(version).await;
    }
}

async fn archive_is_read(version: &str) {
    let golden = golden(version);
    if std::env::var_os("STK_UPDATE").is_some() && !golden.exists() {
        let mut world = World::new();
        world.now.store("2026-12-01T12:00:00Z".parse::<Timestamp>().unwrap().nanos(), Ordering::Release);
        let cold = Arc::new(DirCold::open(&golden).unwrap());
        for _ in 0..2 {
            world.trades(1).await;
            world.archiver(cold.clone(), options()).run(&nothing()).await.unwrap();
        }
        for other in ["lease", "probe", ".tmp"] {
            let _ = std::fs::remove_dir_all(golden.join(other));
        }
    }
    // Read from a copy: a scrub writes down where it stands.
    let dir = TempDir::new().unwrap();
    copy(&golden, dir.path());
    let cold = Arc::new(DirCold::open(dir.path()).unwrap());
    let mut found = BTreeMap::new();
    for manifest in manifests_of(&*cold, crate::market::Kind::Trade).await {
        for row in rows_of(&*cold, &manifest).await {
            assert!(found.insert(row.2, row.3).is_none());
        }
    }
    let mut expected = BTreeMap::new();
    for partition in 0..2_u16 {
        for offset in 0..6 {
            for index in 0..20 {
                expected.insert(Seq { partition, offset, index }, trade(partition, offset, index));
            }
        }
    }
    assert_eq!(found, expected);
    let scrubber = Scrubber::new(cold.clone(), None, Clock::default(), ArchiveMetrics::default());
    let scrub = scrubber.run(Bounds::ALL, true, &nothing()).await.unwrap();
    assert_eq!((scrub.is_finished, scrub.faults, scrub.manifests), (true, Vec::new(), 4));
    for object in cold.list("journal/", None).await.unwrap() {
        let journal: Journal = serde_json::from_slice(&cold.get(&object.key).await.unwrap()).unwrap();
        assert_eq!((journal.step, journal.number), (Step::Committed, 1));
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
