//! What went into the log stands in warm once, whatever happened in between.

mod archived;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::bus::epoch::{Held, LogEpoch};
use crate::bus::local::{LocalBus, LocalBusConfig};
use crate::bus::{Assignment, Bounds, Bus, BusReader, Durable, Membership, Record};
use crate::feed::sim::{Sim, SimConfig};
use crate::market::{Kind, Symbol, Tick, TimeRange, Timeframe, Timestamp};
use crate::server::intake::{Intake, IntakeMetrics};
use crate::testing::service;
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::archive::run::Archiver;
use crate::tiering::archive::{ArchiveMetrics, ArchiveOptions, Clock};
use crate::tiering::cold::{Cold, StorageClass};
use crate::tiering::history::{History, HistoryQuery};
use crate::tiering::hot::HotEntry;
use crate::tiering::hot::redis::{RedisHot, RedisHotConfig};
use crate::tiering::state::PartitionState;
use crate::tiering::warm::local::{LocalWarm, LocalWarmOptions};
use crate::tiering::warm::{Block, Mark, Query, Scan, Unit};
use crate::wire::record::Origin;

const PARTITIONS: u16 = 3;

/// The stores of one life of a process, in `dir`.
struct Life {
    bus: Arc<LocalBus>,
    warm: Arc<LocalWarm>,
    hot: Arc<MemoryHot>,
    stores: Stores,
}

impl Life {
    fn begin(dir: &Path) -> Self {
        Self::begin_beside(dir, Vec::new())
    }

    /// Beside stores that hold rows of the log.
    fn begin_beside(dir: &Path, held: Vec<Held>) -> Self {
        let mut config = LocalBusConfig::new(dir.join("log"), PARTITIONS);
        config.free_bytes_min = 0;
        config.memory_bytes = 16 << 20;
        config.held = held;
        let bus = LocalBus::open(config).unwrap();
        let warm = LocalWarm::open(&dir.join("warm"), LocalWarmOptions::default()).unwrap();
        let hot = Arc::new(MemoryHot::new(PARTITIONS));
        let hot_files = Some((hot.clone(), dir.join("hot")));
        let stores =
            Stores { bus: bus.clone(), hot: hot.clone(), warm: warm.clone(), archive: None, hot_files };
        Self { bus, warm, hot, stores }
    }

    fn process(&self, config: ProcessorConfig) -> Processor {
        Processor::start(self.stores.clone(), config, ProcessorMetrics::default())
    }

    async fn append(&self, ticks: &[Tick], first_sequence: u64) {
        let mut intake = Intake::new(self.bus.clone(), IntakeMetrics::default());
        for (sequence, ticks) in (first_sequence..).zip(ticks.chunks(100)) {
            let origin = Origin { producer: 9, sequence };
            intake.append(ticks, origin).await.unwrap().durable.await.unwrap();
        }
    }

    /// All rows of `kind` in warm, in its order.
    async fn rows(&self, kind: Kind) -> Vec<Tick> {
        let query = Query::new(kind, None, TimeRange::ALL);
        let mut batches = self.warm.scan(&query).await.unwrap().rows;
        let mut ticks = Vec::new();
        while let Some(batch) = batches.next().await {
            let batch = batch.unwrap();
            let rows = batch.rows().unwrap();
            ticks.extend((0..batch.len()).map(|row| rows.tick(row).unwrap()));
        }
        ticks
    }

    async fn bars(&self, symbol: Symbol, timeframe: Timeframe) -> Vec<crate::market::Bar> {
        let query = HistoryQuery {
            symbols: vec![symbol],
            kind: Kind::Bar,
            timeframe: Some(timeframe),
            range: TimeRange::ALL,
            limit: None,
        };
        let mut history = History::new(self.bus.clone(), self.warm.clone());
        if let Some(archive) = &self.stores.archive {
            history = history.with_archive(archive.clone());
        }
        let mut batches = history.query(query).await.unwrap().rows;
        let mut bars = Vec::new();
        while let Some(batch) = batches.next().await {
            let batch = batch.unwrap();
            let rows = batch.rows().unwrap();
            bars.extend((0..batch.len()).map(|row| rows.bar(row).unwrap().1));
        }
        bars
    }

    async fn end(self) {
        let Self { bus, warm, hot, stores } = self;
        drop((stores, warm, hot));
        bus.close().await;
    }
}

fn small() -> ProcessorConfig {
    ProcessorConfig { rows_max: 3_000, retries_max: 0, ..ProcessorConfig::default() }
}

fn market(count: u64) -> Vec<Tick> {
    market_at(50.0, count)
}

fn market_at(rate_ticks_per_s: f64, count: u64) -> Vec<Tick> {
    let start: Timestamp = "2025-03-07T14:30:00Z".parse().unwrap();
    let mut sim = Sim::new(SimConfig { seed: 5, symbols: 40, rate_ticks_per_s, start, count: Some(count) });
    let mut ticks = Vec::new();
    while sim.fill(&mut ticks, 4096) {}
    ticks
}

/// The trades of the busiest symbol but the first, and that one: its minute is none any more of those
/// that the state knows once the others are in.
fn busy_symbol() -> (Symbol, Vec<Tick>, Tick) {
    let mut trades: Vec<Tick> =
        market_at(10.0, 20_000).into_iter().filter(|tick| tick.kind() == Kind::Trade).collect();
    let mut counts: BTreeMap<Symbol, usize> = BTreeMap::new();
    trades.iter().filter_map(Tick::symbol).for_each(|symbol| *counts.entry(symbol).or_default() += 1);
    let symbol = *counts.iter().max_by_key(|(_, count)| **count).unwrap().0;
    trades.retain(|tick| tick.symbol() == Some(symbol));
    let late = trades.remove(0);
    let minutes: BTreeSet<Timestamp> = trades.iter().map(|tick| tick.ts().floor_minute()).collect();
    assert!(minutes.len() > 8, "{} minutes", minutes.len());
    (symbol, trades, late)
}

/// The shares of `late` and of all `trades` of its minute.
fn volume(trades: &[Tick], late: &Tick) -> u64 {
    let minute = late.ts().floor_minute();
    let sizes = trades.iter().chain([late]).filter_map(|tick| match tick {
        Tick::Trade(trade) if trade.ts.floor_minute() == minute => Some(u64::from(trade.size)),
        _ => None,
    });
    sizes.sum()
}

/// As a text, so that a difference can be read and anything be ordered.
fn texts<'a>(ticks: impl IntoIterator<Item = &'a Tick>) -> Vec<String> {
    let mut texts: Vec<String> = ticks.into_iter().map(|tick| format!("{tick:?}")).collect();
    texts.sort_unstable();
    texts
}

async fn check_ticks(life: &Life, ticks: &[Tick]) {
    for kind in [Kind::Trade, Kind::Quote, Kind::Status] {
        let expected = texts(ticks.iter().filter(|tick| tick.kind() == kind));
        assert_eq!(texts(&life.rows(kind).await), expected, "{kind:?}");
    }
}

async fn hot_of(hot: &dyn Hot) -> Vec<String> {
    let symbols = hot.symbols().await.unwrap();
    let entries = hot.get(&symbols).await.unwrap();
    let mut shown: Vec<String> = symbols.iter().zip(entries).map(|entry| format!("{entry:?}")).collect();
    for symbol in symbols {
        shown.push(format!("{:?}", hot.recent(symbol).await.unwrap()));
    }
    shown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_leaves_all_of_the_log_in_warm_each_tick_once() {
    let dir = TempDir::new().unwrap();
    let ticks = market(20_000);
    let (half, rest) = ticks.split_at(10_000);
    let life = Life::begin(dir.path());
    life.append(half, 1).await;
    let processor = life.process(small());
    life.append(rest, 101).await;
    // All of it again, as a producer does that heard no acknowledgement.
    life.append(&ticks, 1).await;
    processor.stop().await.unwrap();
    drop(processor);
    check_ticks(&life, &ticks).await;
    for partition in 0..PARTITIONS {
        let next = life.bus.bounds(partition).await.unwrap().next;
        assert_eq!(life.warm.mark(partition).await.unwrap().next_offset, next);
    }
    assert!(life.warm.segments().len() > usize::from(PARTITIONS), "more than one block a partition");
    let before = hot_of(&*life.hot).await;
    life.end().await;

    // The next life knows what the last one knew: from the checkpoint, and without it from the log.
    for checkpoint in [true, false] {
        if !checkpoint {
            std::fs::remove_dir_all(dir.path().join("hot")).unwrap();
        }
        let life = Life::begin(dir.path());
        life.process(small()).stop().await.unwrap();
        assert_eq!(hot_of(&*life.hot).await, before, "with a checkpoint: {checkpoint}");
        check_ticks(&life, &ticks).await;
        life.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_hot_store_is_taken_over_or_filled_again() {
    let Some(url) = service("REDIS") else { return };
    let dir = TempDir::new().unwrap();
    let prefix = format!("test:{}:", dir.path().display());
    let open = |bus: &Arc<LocalBus>| {
        let config = RedisHotConfig::new(url.clone(), prefix.clone());
        // A busy machine is no Redis that is away.
        let config = RedisHotConfig { read_wait_max: Duration::from_secs(30), ..config };
        RedisHot::connect(config, bus.clone())
    };
    let ticks = market(20_000);
    let life = Life::begin(dir.path());
    life.append(&ticks, 1).await;
    life.process(small()).stop().await.unwrap();
    let expected = hot_of(&*life.hot).await;
    life.end().await;
    for (is_new, is_lost) in [(true, false), (false, false), (false, true)] {
        let mut life = Life::begin(dir.path());
        let redis = open(&life.bus).await.unwrap();
        if is_lost {
            redis.erase().await;
        }
        (life.stores.hot, life.stores.hot_files) = (redis.clone(), None);
        let processor = life.process(small());
        processor.restored().await;
        processor.ready().unwrap();
        processor.stop().await.unwrap();
        assert_eq!(hot_of(&*redis).await, expected, "new: {is_new}, lost: {is_lost}");
        let puts = redis.metrics().puts.get();
        assert_eq!(puts > 0, is_new || is_lost, "{puts} states were written");
        drop(processor);
        redis.close().await;
        life.end().await;
    }
}

/// Looks until there is something, for a minute at most.
async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            match look() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(1), looking).await.expect("it comes")
}

/// Refuses every commit after some, as a disk that fails, and the first scans; or loses its owner after
/// every second block, as a database that is put back.
struct FailingWarm {
    warm: Arc<LocalWarm>,
    commits_left: AtomicU32,
    scans_refused: AtomicU32,
    is_damaged: AtomicBool,
    reverts_left: AtomicU32,
    is_second: AtomicBool,
    /// Whether it names the log.
    is_named: AtomicBool,
}

impl FailingWarm {
    /// One that does not fail yet.
    fn new(warm: &Arc<LocalWarm>) -> Self {
        Self {
            warm: warm.clone(),
            commits_left: AtomicU32::new(u32::MAX),
            scans_refused: AtomicU32::new(0),
            is_damaged: AtomicBool::new(false),
            reverts_left: AtomicU32::new(0),
            is_second: AtomicBool::new(false),
            is_named: AtomicBool::new(true),
        }
    }

    fn refused() -> WarmError {
        WarmError::Io { path: "warm".to_owned(), reason: "no space".to_owned() }
    }
}

/// Takes one from `count`: whether there was one.
fn took_one(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
}

#[async_trait::async_trait]
impl Warm for FailingWarm {
    async fn held(&self) -> Result<crate::bus::epoch::Held, WarmError> {
        self.warm.held().await
    }

    async fn check_origin(&self, _: &crate::tiering::warm::Origin) -> Result<bool, WarmError> {
        Ok(self.is_named.load(Ordering::Relaxed))
    }

    async fn adopt_origin(&self, _: &crate::tiering::warm::Origin) -> Result<(), WarmError> {
        self.is_named.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn claim(&self, partition: u16) -> Result<Mark, WarmError> {
        self.warm.claim(partition).await
    }

    async fn mark(&self, partition: u16) -> Result<Mark, WarmError> {
        self.warm.mark(partition).await
    }

    async fn commit(&self, block: Block) -> Result<(), WarmError> {
        if self.is_second.fetch_xor(true, Ordering::Relaxed) && took_one(&self.reverts_left) {
            let (partition, next_offset) = (block.partition, block.first_offset);
            let (path, found) = ("warm".to_owned(), "its beginning".to_owned());
            return Err(WarmError::Reverted { partition, path, found, next_offset });
        }
        if took_one(&self.commits_left) { self.warm.commit(block).await } else { Err(Self::refused()) }
    }

    async fn leave_to_archive(&self, unit: Unit, next_offsets: &[u64]) -> Result<(), WarmError> {
        self.warm.leave_to_archive(unit, next_offsets).await
    }

    async fn scan(&self, query: &Query) -> Result<Scan, WarmError> {
        if self.is_damaged.load(Ordering::Relaxed) {
            return Err(WarmError::Damaged { path: "warm".to_owned(), reason: "rows are gone".to_owned() });
        }
        if took_one(&self.scans_refused) { Err(Self::refused()) } else { self.warm.scan(query).await }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_at_any_block_costs_nothing() {
    let ticks = market(5_000);
    let symbol = ticks.iter().find(|tick| tick.kind() == Kind::Trade).and_then(Tick::symbol).unwrap();
    let mut bars_seen = BTreeSet::new();
    for commits in [0, 1, 4] {
        let dir = TempDir::new().unwrap();
        let life = Life::begin(dir.path());
        life.append(&ticks, 1).await;
        let failing: Arc<dyn Warm> =
            Arc::new(FailingWarm { commits_left: AtomicU32::new(commits), ..FailingWarm::new(&life.warm) });
        let stores = Stores { warm: failing, ..life.stores.clone() };
        let metrics = ProcessorMetrics::default();
        let processor = Processor::start(stores, small(), metrics.clone());
        processor.failed().cancelled().await;
        assert!(processor.ready().is_err());
        let why = processor.stop().await.unwrap_err().to_string();
        drop(processor);
        assert_eq!(metrics.held_rows.get(), 0, "rows of workers that are gone");
        assert!(why.contains("no space"), "{why}");
        life.end().await;

        let life = Life::begin(dir.path());
        life.process(small()).stop().await.unwrap();
        check_ticks(&life, &ticks).await;
        let bars = (life.bars(symbol, Timeframe::MINUTE).await, life.bars(symbol, Timeframe::Day).await);
        bars_seen.insert(format!("{bars:?}"));
        life.end().await;
    }
    assert_eq!(bars_seen.len(), 1, "the same bars after any kind of end: {bars_seen:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_trade_corrects_a_minute_long_past() {
    let dir = TempDir::new().unwrap();
    let (symbol, trades, late) = busy_symbol();
    let life = Life::begin(dir.path());
    let processor = life.process(ProcessorConfig { rebuild_interval: Duration::ZERO, ..small() });
    life.append(&trades, 1).await;
    life.append(std::slice::from_ref(&late), 1_000).await;
    processor.stop().await.unwrap();
    drop(processor);
    let mut all = trades.clone();
    all.push(late.clone());
    let minute = late.ts().floor_minute();
    let bars = life.bars(symbol, Timeframe::MINUTE).await;
    let bar = bars.iter().find(|bar| bar.ts == minute).unwrap();
    assert_eq!(bar.volume, volume(&trades, &late));
    let days = life.bars(symbol, Timeframe::Day).await;
    let total: u64 = bars.iter().map(|bar| bar.volume).sum();
    assert_eq!(days.iter().map(|day| day.volume).sum::<u64>(), total);
    life.end().await;
}

/// However many blocks fall due meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_hears_of_new_ticks_while_warm_is_away() {
    let dir = TempDir::new().unwrap();
    let life = Life::begin(dir.path());
    let away = Arc::new(FailingWarm { commits_left: AtomicU32::new(0), ..FailingWarm::new(&life.warm) });
    let stores = Stores { warm: away.clone(), ..life.stores.clone() };
    let config = ProcessorConfig {
        block_age_max: Duration::from_millis(1),
        retries_max: u32::MAX,
        ..ProcessorConfig::default()
    };
    let metrics = ProcessorMetrics::default();
    let processor = Processor::start(stores, config, metrics.clone());
    let ticks = market(300);
    for (sequence, part) in (1..).zip(ticks.chunks(100)) {
        life.append(part, sequence).await;
        let trade_of = |tick| if let &Tick::Trade(trade) = tick { Some(trade) } else { None };
        let last = part.iter().rev().find_map(trade_of).unwrap();
        let heard = async {
            let is_last = |entry: &HotEntry| entry.trade.is_some_and(|trade| trade.ts >= last.ts);
            while !life.hot.get(&[last.symbol]).await.unwrap()[0].as_ref().is_some_and(is_last) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), heard).await.expect("hot has the last trade");
        // Longer than a block's age.
        let retries = metrics.retries.get() + 2;
        until(|| (metrics.retries.get() >= retries).then_some(())).await;
    }
    processor.ready().unwrap();
    away.commits_left.store(u32::MAX, Ordering::Relaxed);
    processor.stop().await.unwrap();
    drop(processor);
    check_ticks(&life, &ticks).await;
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebuilt_bars_go_to_warm_though_no_record_follows() {
    let dir = TempDir::new().unwrap();
    let (symbol, trades, late) = busy_symbol();
    let minute = late.ts().floor_minute();
    let life = Life::begin(dir.path());
    // Each record is a block of its own, so that none is open when bars are rebuilt.
    let config = ProcessorConfig {
        rows_max: 1,
        rebuild_interval: Duration::ZERO,
        block_age_max: Duration::from_millis(10),
        ..ProcessorConfig::default()
    };
    let metrics = ProcessorMetrics::default();
    let processor = Processor::start(life.stores.clone(), config, metrics.clone());
    processor.restored().await;
    life.append(&trades, 1).await;
    let volume =
        |bars: Vec<crate::market::Bar>| bars.iter().find(|bar| bar.ts == minute).map_or(0, |bar| bar.volume);
    while metrics.rows.get() < trades.len() as u64 {
        processor.ready().unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = volume(life.bars(symbol, Timeframe::MINUTE).await);
    life.append(std::slice::from_ref(&late), 1_000).await;
    let Tick::Trade(trade) = &late else { unreachable!("only trades are left") };
    let told = tokio::time::timeout(Duration::from_mins(1), async {
        while volume(life.bars(symbol, Timeframe::MINUTE).await) != before + u64::from(trade.size) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    told.await.expect("the bar of the late trade is in warm");
    processor.stop().await.unwrap();
    drop(processor);
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bars_of_a_day_in_glacier_stay_as_they_are_and_marked() {
    let Some(bucket) = crate::tiering::cold::s3::tests::bucket().await else { return };
    let dir = TempDir::new().unwrap();
    let (symbol, trades, late) = busy_symbol();
    let life = Life::begin(dir.path());
    life.append(&trades, 1).await;
    life.process(small()).stop().await.unwrap();
    let minutes = async || {
        let query = Query::new(Kind::Bar, Some(vec![symbol]), TimeRange::ALL);
        let batches: Vec<_> = life.warm.scan(&query).await.unwrap().rows.collect().await;
        let mut bars = Vec::new();
        for batch in batches {
            let batch = batch.unwrap();
            let rows = batch.rows().unwrap();
            bars.extend((0..batch.len()).map(|row| rows.bar(row).unwrap().1));
        }
        bars.retain(|bar| bar.timeframe == Timeframe::MINUTE);
        bars
    };
    let before = minutes().await;
    let options = ArchiveOptions {
        before: Some("2025-04-01".parse().unwrap()),
        kinds: vec![Kind::Trade],
        settle: Duration::ZERO,
        keep_days: 0,
        ..ArchiveOptions::default()
    };
    let cold: Arc<dyn Cold> = Arc::new(bucket.clone());
    let archiver =
        Archiver::new(cold.clone(), life.warm.clone(), options, Clock::default(), ArchiveMetrics::default());
    assert_eq!(archiver.run(&(Arc::new(|_| {}) as _)).await.unwrap().drops, 1);
    for object in cold.list("ticks/", None).await.unwrap() {
        bucket.move_to(&object.key, StorageClass::Glacier).await;
    }

    let archive = Some(Arc::new(ArchiveReader::new(cold)));
    let stores = Stores { archive, ..life.stores.clone() };
    let metrics = ProcessorMetrics::default();
    let config = ProcessorConfig { rebuild_interval: Duration::ZERO, ..small() };
    let processor = Processor::start(stores, config, metrics.clone());
    life.append(&[late], 1_000).await;
    until(|| (metrics.rebuilds_kept_back.get() > 0).then_some(())).await;
    // Its end is a round more.
    processor.stop().await.unwrap();
    drop(processor);
    assert_eq!(metrics.rebuilds_kept_back.get(), 1, "it is not asked for again at once");
    assert_eq!(minutes().await, before);
    let mark = life.warm.mark(symbol.partition(PARTITIONS)).await.unwrap();
    assert!(PartitionState::restore(&mark.checkpoint).unwrap().needs_rebuild(), "whoever goes on finds it");
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_warm_answers_again_says_that_warm_is_back() {
    let dir = TempDir::new().unwrap();
    let (_, trades, late) = busy_symbol();
    let life = Life::begin(dir.path());
    let warm =
        Arc::new(FailingWarm { scans_refused: AtomicU32::new(u32::MAX), ..FailingWarm::new(&life.warm) });
    let stores = Stores { warm: warm.clone(), ..life.stores.clone() };
    // No block is cut before the end.
    let config = ProcessorConfig {
        rebuild_interval: Duration::ZERO,
        retries_max: 1_000,
        ..ProcessorConfig::default()
    };
    let metrics = ProcessorMetrics::default();
    let processor = Processor::start(stores, config, metrics.clone());
    life.append(&trades, 1).await;
    life.append(&[late], 1_000).await;
    let degraded = until(|| processor.degraded()).await;
    assert_eq!(degraded, "warm: warm: no space; rows wait for it in the log");
    warm.scans_refused.store(0, Ordering::Relaxed);
    until(|| (metrics.rebuilds.get() > 0).then_some(())).await;
    assert_eq!(processor.degraded(), None, "it answers again");
    assert_eq!(warm.commits_left.load(Ordering::Relaxed), u32::MAX, "no block has told so");
    processor.stop().await.unwrap();
    drop((processor, warm));
    life.end().await;
}

/// A day that is damaged in warm keeps its bars as they are, and everything else goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bars_of_a_day_whose_rows_are_gone_wait_for_them() {
    let dir = TempDir::new().unwrap();
    let (symbol, trades, late) = busy_symbol();
    let life = Life::begin(dir.path());
    let warm = Arc::new(FailingWarm { is_damaged: AtomicBool::new(true), ..FailingWarm::new(&life.warm) });
    let stores = Stores { warm: warm.clone(), ..life.stores.clone() };
    let config = ProcessorConfig { rebuild_interval: Duration::ZERO, ..ProcessorConfig::default() };
    let metrics = ProcessorMetrics::default();
    let processor = Processor::start(stores, config, metrics.clone());
    life.append(&trades, 1).await;
    life.append(std::slice::from_ref(&late), 1_000).await;
    until(|| (metrics.rebuilds_kept_back.get() > 0).then_some(())).await;
    life.append(&trades[trades.len() - 1..], 2_000).await;
    warm.is_damaged.store(false, Ordering::Relaxed);
    until(|| (metrics.rebuilds.get() > 0).then_some(())).await;
    processor.stop().await.unwrap();
    assert_eq!(life.rows(Kind::Trade).await.len(), trades.len() + 2);
    let minute = late.ts().floor_minute();
    let bars = life.bars(symbol, Timeframe::MINUTE).await;
    assert_eq!(bars.iter().find(|bar| bar.ts == minute).unwrap().volume, volume(&trades, &late));
    drop((processor, warm));
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_is_named_and_never_skipped() {
    let dir = TempDir::new().unwrap();
    let life = Life::begin(dir.path());
    let ticks = market(2_000);
    life.append(&ticks[..1_000], 1).await;
    let next = life.bus.bounds(1).await.unwrap().next;
    let appended = life.bus.append(vec![(1, Bytes::from_static(b"no record"))]).await.unwrap();
    appended.await.unwrap();
    life.append(&ticks[1_000..], 100).await;
    let processor = life.process(small());
    processor.failed().cancelled().await;
    let why = processor.stop().await.unwrap_err().to_string();
    assert!(why.starts_with(&format!("partition 1, offset {next} of the log: ")), "{why}");
    assert!(life.warm.mark(1).await.unwrap().next_offset <= next);
    for partition in [0, 2] {
        let bounds = life.bus.bounds(partition).await.unwrap();
        assert_eq!(
            life.warm.mark(partition).await.unwrap().next_offset,
            bounds.next,
            "the others are drained"
        );
    }
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_lost_what_warm_has_is_refused() {
    let dir = TempDir::new().unwrap();
    let life = Life::begin(dir.path());
    life.append(&market(2_000), 1).await;
    life.process(small()).stop().await.unwrap();
    life.end().await;
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    let life = Life::begin(dir.path());
    let processor = life.process(small());
    processor.failed().cancelled().await;
    let why = processor.stop().await.unwrap_err().to_string();
    assert!(why.contains("they do not belong together"), "{why}");
    life.end().await;
}

/// A database of a version that named no log: a log that does not fit to it in one partition is not named
/// there, whatever the others say, so that the one it was filled from is still taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_refused_is_not_named_in_warm() {
    let dir = TempDir::new().unwrap();
    let life = Life::begin(dir.path());
    let warm = Arc::new(FailingWarm { is_named: AtomicBool::new(false), ..FailingWarm::new(&life.warm) });
    let (_, trades, _) = busy_symbol();
    life.append(&trades, 1).await;
    let stores = |life: &Life, warm: &Arc<FailingWarm>| Stores { warm: warm.clone(), ..life.stores.clone() };
    Processor::start(stores(&life, &warm), small(), ProcessorMetrics::default()).stop().await.unwrap();
    assert!(warm.is_named.load(Ordering::Relaxed), "the first log is");
    drop(warm);
    life.end().await;
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    let life = Life::begin(dir.path());
    let warm = Arc::new(FailingWarm { is_named: AtomicBool::new(false), ..FailingWarm::new(&life.warm) });
    let processor = Processor::start(stores(&life, &warm), small(), ProcessorMetrics::default());
    let why = processor.stop().await.unwrap_err().to_string();
    assert!(why.contains("they do not belong together"), "{why}");
    assert!(!warm.is_named.load(Ordering::Relaxed));
    drop((processor, warm));
    life.end().await;
}

/// A store may be put back any number of times, as long as blocks are stored in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reverts_with_blocks_in_between_are_outlived_however_many() {
    let dir = TempDir::new().unwrap();
    let life = Life::begin(dir.path());
    let (_, trades, _) = busy_symbol();
    // A record a block.
    let config = ProcessorConfig { rows_max: 1, retries_max: 1, ..ProcessorConfig::default() };
    for (sequence, trade) in (1..).zip(&trades[..10]) {
        life.append(std::slice::from_ref(trade), sequence).await;
    }
    let warm = FailingWarm { reverts_left: AtomicU32::new(3), ..FailingWarm::new(&life.warm) };
    let stores = Stores { warm: Arc::new(warm), ..life.stores.clone() };
    let metrics = ProcessorMetrics::default();
    let processor = Processor::start(stores, config, metrics.clone());
    processor.stop().await.unwrap();
    drop(processor);
    assert_eq!(metrics.reverts.get(), 3);
    check_ticks(&life, &trades[..10]).await;
    life.end().await;
}

/// What the test tells a member, and by whose end it knows that it was carried out.
type Told = mpsc::UnboundedReceiver<(Assignment, oneshot::Sender<()>)>;

/// A log whose partitions are assigned by the test: one half of a channel for each member.
struct SharedBus {
    bus: Arc<LocalBus>,
    /// An offset that its readers leave out.
    lost: Option<u64>,
    /// Where the log begins once a reader has read one record of what is before.
    trimmed: u64,
    /// Where the log begins.
    first: u64,
    members: Mutex<Vec<Told>>,
}

struct Assigned {
    changes: Told,
    /// Told once the last change is carried out: of what was revoked, or by the next call.
    done: Option<oneshot::Sender<()>>,
}

#[async_trait::async_trait]
impl Membership for Assigned {
    async fn next(&mut self) -> Result<Assignment, BusError> {
        drop(self.done.take());
        match self.changes.recv().await {
            Some((change, done)) => {
                self.done = Some(done);
                Ok(change)
            }
            None => std::future::pending().await,
        }
    }

    async fn released(&mut self, _: &[u16]) {
        drop(self.done.take());
    }
}

struct Leaky {
    reader: Box<dyn BusReader>,
    from: u64,
    lost: Option<u64>,
    trimmed: u64,
}

#[async_trait::async_trait]
impl BusReader for Leaky {
    async fn next(&mut self, bytes_max: usize) -> Result<Vec<Record>, BusError> {
        let offset = self.reader.offset();
        if self.from < offset && offset < self.trimmed {
            return Err(BusError::Trimmed { partition: 0, offset, first: self.trimmed });
        }
        let mut records = self.reader.next(if offset < self.trimmed { 1 } else { bytes_max }).await?;
        records.retain(|record| Some(record.offset) != self.lost);
        Ok(records)
    }

    fn offset(&self) -> u64 {
        self.reader.offset()
    }
}

#[async_trait::async_trait]
impl Bus for SharedBus {
    fn partitions(&self) -> u16 {
        self.bus.partitions()
    }

    fn epoch(&self) -> &LogEpoch {
        self.bus.epoch()
    }

    async fn append(&self, records: Vec<(u16, Bytes)>) -> Result<Durable, BusError> {
        self.bus.append(records).await
    }

    async fn bounds(&self, partition: u16) -> Result<Bounds, BusError> {
        let bounds = self.bus.bounds(partition).await?;
        Ok(Bounds { first: bounds.first.max(self.first), ..bounds })
    }

    async fn reader(&self, partition: u16, from: u64) -> Result<Box<dyn BusReader>, BusError> {
        let reader = self.bus.reader(partition, from).await?;
        Ok(Box::new(Leaky { reader, from, lost: self.lost, trimmed: self.trimmed }))
    }

    async fn join(&self) -> Result<Box<dyn Membership>, BusError> {
        let changes = self.members.lock().unwrap().remove(0);
        Ok(Box::new(Assigned { changes, done: None }))
    }

    fn release(&self, partition: u16, offset: u64) {
        self.bus.release(partition, offset);
    }
}

/// A record that the log's reader leaves out without saying that there is none is missed, and
/// nothing is stored over it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_that_the_log_does_not_vouch_for_is_refused() {
    let dir = TempDir::new().unwrap();
    let life = Life::begin(dir.path());
    for sequence in 1..=10 {
        life.append(&market(2_000), sequence).await;
    }
    let (first, told) = mpsc::unbounded_channel();
    let bus = SharedBus {
        bus: life.bus.clone(),
        lost: Some(3),
        trimmed: 0,
        first: 0,
        members: Mutex::new(vec![told]),
    };
    let stores = Stores { bus: Arc::new(bus), hot_files: None, ..life.stores.clone() };
    let processor = Processor::start(stores, small(), ProcessorMetrics::default());
    first.send((Assignment::Gained(vec![0]), oneshot::channel().0)).unwrap();
    processor.failed().cancelled().await;
    let error = processor.stop().await.unwrap_err();
    assert!(matches!(error, ProcessorError::Hole { partition: 0, expected: 3, found: 4 }), "{error}");
    let mark = life.stores.warm.claim(0).await.unwrap();
    assert!(mark.next_offset <= 3, "{}", mark.next_offset);
    life.end().await;
}

/// What the log loses while hot is filled from it, hot has from warm: closes before the day too, which
/// came long ago.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_trimmed_while_hot_is_filled_comes_from_warm() {
    let dir = TempDir::new().unwrap();
    let life = Life::begin(dir.path());
    life.append(&market(20_000), 1).await;
    life.process(small()).stop().await.unwrap();
    let expected = hot_of(&*life.hot).await;
    life.end().await;

    let life = Life::begin(dir.path());
    let (gained, told) = mpsc::unbounded_channel();
    let bus = Arc::new(SharedBus {
        bus: life.bus.clone(),
        lost: None,
        trimmed: 150,
        first: 0,
        members: Mutex::new(vec![told]),
    });
    for partition in 0..PARTITIONS {
        assert!(life.bus.bounds(partition).await.unwrap().next > bus.trimmed);
    }
    let stores = Stores { bus: bus.clone(), hot_files: None, ..life.stores.clone() };
    let processor = Processor::start(stores, small(), ProcessorMetrics::default());
    gained.send((Assignment::Gained((0..PARTITIONS).collect()), oneshot::channel().0)).unwrap();
    processor.restored().await;
    processor.stop().await.unwrap();
    assert_eq!(hot_of(&*life.hot).await, expected);
    drop((processor, bus));
    life.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_move_between_processes_keep_every_tick_once() {
    let dir = TempDir::new().unwrap();
    let life = Life::begin(dir.path());
    let ticks = market(12_000);
    let (first, first_told) = mpsc::unbounded_channel();
    let (second, second_told) = mpsc::unbounded_channel();
    let bus = Arc::new(SharedBus {
        bus: life.bus.clone(),
        lost: None,
        trimmed: 0,
        first: 0,
        members: Mutex::new(vec![first_told, second_told]),
    });
    let metrics = ProcessorMetrics::default();
    let start = || {
        let stores = Stores { bus: bus.clone(), hot_files: None, ..life.stores.clone() };
        Processor::start(stores, small(), metrics.clone())
    };
    let tell = |member: &mpsc::UnboundedSender<_>, change: Assignment| {
        let (done, is_done) = oneshot::channel::<()>();
        member.send((change, done)).unwrap();
        async move { drop(is_done.await) }
    };
    let processors = [start(), start()];
    let members = [&first, &second];
    let mut owners = vec![0; usize::from(PARTITIONS)];
    tell(&first, Assignment::Gained((0..PARTITIONS).collect())).await;
    tell(&second, Assignment::Gained(vec![])).await;
    for (turn, chunk) in ticks.chunks(1_000).enumerate() {
        life.append(chunk, 1 + 10 * turn as u64).await;
        let partition = (turn % usize::from(PARTITIONS)) as u16;
        let owner = owners[usize::from(partition)];
        // Every third time without asking: the old worker's block under way is of no account, or counts.
        let change = if turn % 3 == 2 { Assignment::Lost } else { Assignment::Revoked };
        tell(members[owner], change(vec![partition])).await;
        owners[usize::from(partition)] = 1 - owner;
        drop(tell(members[1 - owner], Assignment::Gained(vec![partition])));
    }
    for processor in &processors {
        processor.restored().await;
        processor.stop().await.unwrap();
    }
    drop(processors);
    assert_eq!(metrics.held_rows.get(), 0, "rows of partitions that were lost");
    check_ticks(&life, &ticks).await;
    drop(bus);
    life.end().await;
}
