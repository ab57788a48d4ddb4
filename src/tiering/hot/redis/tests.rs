//! Against a real Redis: `scripts/services up redis` starts one. Those that kill it start their own.

use std::collections::VecDeque;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::*;
use crate::bus::epoch::{Ended, LogEpoch};
use crate::bus::{Bounds, BusError, BusReader, Durable};
use crate::market::Bar;
use crate::testing::address::OwnAddress;
use crate::testing::service;
use crate::tiering::hot::conformance::{self, PARTITIONS, is_as_told, steps, ticks};
use crate::tiering::hot::fallback::FallbackHot;
use crate::tiering::seam;

/// A prefix that no other store of any test has.
fn prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("test:{}:{}:{count}:", std::process::id(), Timestamp::now().nanos())
}

fn config(url: &str, prefix: &str) -> RedisHotConfig {
    let (url, prefix) = (url.to_owned(), prefix.to_owned());
    RedisHotConfig {
        round_interval: Duration::ZERO,
        foreign_rest: Duration::ZERO,
        // A busy machine is no Redis that is away.
        read_wait_max: Duration::from_secs(30),
        ..RedisHotConfig::new(url, prefix)
    }
}

async fn open(url: &str, prefix: &str) -> Arc<RedisHot> {
    open_beside(url, prefix, MadeUpLog::of(1)).await
}

async fn open_beside(url: &str, prefix: &str, log: MadeUpLog) -> Arc<RedisHot> {
    RedisHot::connect(config(url, prefix), Arc::new(log)).await.unwrap()
}

/// The offset at which logs end.
const LOG_NEXT: u64 = 1_000;

/// A log whose records are made up when they are read: those of one timeline up to an offset, and of
/// another from there on.
struct MadeUpLog {
    epoch: LogEpoch,
    next: u64,
    parts_at: u64,
    timeline: &'static str,
}

impl MadeUpLog {
    fn of(id: u64) -> Self {
        Self { epoch: LogEpoch::new(id), next: LOG_NEXT, parts_at: u64::MAX, timeline: "other" }
    }

    fn record(&self, partition: u16, offset: u64) -> Record {
        let timeline = if offset < self.parts_at { "first" } else { self.timeline };
        Record { offset, bytes: format!("{timeline} {partition} {offset}").into() }
    }
}

#[async_trait::async_trait]
impl Bus for MadeUpLog {
    fn partitions(&self) -> u16 {
        PARTITIONS
    }

    fn epoch(&self) -> &LogEpoch {
        &self.epoch
    }

    async fn append(&self, _: Vec<(u16, bytes::Bytes)>) -> Result<Durable, BusError> {
        Err(BusError::Closed)
    }

    async fn bounds(&self, _: u16) -> Result<Bounds, BusError> {
        Ok(Bounds { first: 0, next: self.next })
    }

    async fn reader(&self, partition: u16, from: u64) -> Result<Box<dyn BusReader>, BusError> {
        let records = (from..self.next).map(|offset| self.record(partition, offset)).collect();
        Ok(Box::new(MadeUpReader { offset: from, records }))
    }

    fn release(&self, _: u16, _: u64) {}
}

struct MadeUpReader {
    offset: u64,
    records: VecDeque<Record>,
}

#[async_trait::async_trait]
impl BusReader for MadeUpReader {
    async fn next(&mut self, _: usize) -> Result<Vec<Record>, BusError> {
        match self.records.pop_front() {
            Some(record) => {
                self.offset = record.offset + 1;
                Ok(vec![record])
            }
            None => std::future::pending().await,
        }
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}

/// Ticks of about `count` steps, always the same.
fn market(count: usize) -> Vec<(Seq, Tick)> {
    let strategy = prop::collection::vec(steps(2).prop_map(|mut steps| steps.remove(0)), count);
    ticks(&strategy.new_tree(&mut TestRunner::deterministic()).unwrap().current())
}

async fn tell(hot: &dyn Hot, ticks: &[(Seq, Tick)]) {
    for partition in 0..PARTITIONS {
        let mine: Vec<_> = ticks.iter().filter(|(seq, _)| seq.partition == partition).cloned().collect();
        hot.apply(partition, &HotUpdates { ticks: mine, ..HotUpdates::default() }).await.unwrap();
    }
}

/// As [`tell`], of records of `log`.
async fn tell_of(log: &MadeUpLog, hot: &dyn Hot, ticks: &[(Seq, Tick)]) {
    for partition in 0..PARTITIONS {
        let mine: Vec<_> = ticks.iter().filter(|(seq, _)| seq.partition == partition).cloned().collect();
        let record = mine.last().map(|(seq, _)| log.record(partition, seq.offset));
        hot.apply(partition, &HotUpdates { ticks: mine, bars: Vec::new(), record }).await.unwrap();
    }
}

/// All that stands in the hashes and lists, byte by byte.
async fn dump(hot: &RedisHot) -> Vec<Value> {
    let mut pipeline = Pipeline::new();
    for symbol in hot.symbols().await.unwrap() {
        for field in FIELDS {
            pipeline.cmd("HGET").arg(hot.shared.keys.hot(symbol)).arg(field);
        }
        pipeline.cmd("LRANGE").arg(hot.shared.keys.ticks(symbol)).arg(0).arg(-1);
    }
    hot.shared.query(&hot.writer, &pipeline, WRITE_MAX).await.unwrap()
}

/// Looks until `is_so`, for half a minute at most.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    let looking = async {
        while !is_so().await {
            looks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Tells only what is in Redis, and lives on a runtime of its own.
struct Settled {
    hot: Arc<RedisHot>,
    runtime: Handle,
}

impl Settled {
    async fn on<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.spawn(work).await.unwrap()
    }
}

#[async_trait::async_trait]
impl Hot for Settled {
    async fn apply(&self, partition: u16, updates: &HotUpdates) -> Result<(), HotError> {
        let updates = HotUpdates {
            ticks: updates.ticks.clone(),
            bars: updates.bars.clone(),
            record: updates.record.clone(),
        };
        let hot = self.hot.clone();
        self.on(async move {
            hot.apply(partition, &updates).await?;
            hot.settled().await;
            Ok(())
        })
        .await
    }

    async fn get(&self, symbols: &[Symbol]) -> Result<Vec<Option<HotEntry>>, HotError> {
        let (hot, symbols) = (self.hot.clone(), symbols.to_vec());
        self.on(async move { hot.get(&symbols).await }).await
    }

    async fn recent(&self, symbol: Symbol) -> Result<Vec<(Seq, Tick)>, HotError> {
        let hot = self.hot.clone();
        self.on(async move { hot.recent(symbol).await }).await
    }

    async fn symbols(&self) -> Result<Vec<Symbol>, HotError> {
        let hot = self.hot.clone();
        self.on(async move { hot.symbols().await }).await
    }
}

#[test]
fn conforms() {
    let Some(url) = service("REDIS") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    conformance::run(|| {
        let (told, opened) = std::sync::mpsc::channel();
        let config = config(&url, &prefix());
        runtime.spawn(async move {
            told.send(RedisHot::connect(config, Arc::new(MadeUpLog::of(1))).await.unwrap()).unwrap();
        });
        Arc::new(Settled { hot: opened.recv().unwrap(), runtime: runtime.handle().clone() })
    });
}

#[tokio::test]
async fn gateways_share_what_one_processor_writes() {
    let Some(url) = service("REDIS") else { return };
    let (prefix, ticks) = (prefix(), market(600));
    let processor = open(&url, &prefix).await;
    tell(&*processor, &ticks).await;
    processor.settled().await;
    let (trips, puts) = (processor.metrics().trips.get(), processor.metrics().puts.get());
    assert!(trips <= 8 && puts == 4, "600 ticks of 4 symbols in {trips} round trips, {puts} states");
    for _ in 0..2 {
        let gateway = FallbackHot::alone(open(&url, &prefix).await, PARTITIONS);
        is_as_told(&*gateway, &ticks).await.unwrap();
        assert_eq!(gateway.degraded(), None);
        // It has copied all of it, for when it is alone.
        until("copied", async || is_as_told(&*gateway.own(), &ticks).await.is_ok()).await;
    }
}

#[tokio::test]
async fn one_that_takes_over_and_replays_changes_nothing() {
    let Some(url) = service("REDIS") else { return };
    let (prefix, ticks) = (prefix(), market(400));
    let first = open(&url, &prefix).await;
    tell(&*first, &ticks).await;
    first.settled().await;
    let before = dump(&first).await;
    let second = open(&url, &prefix).await;
    for end in [ticks.len() / 3, ticks.len() / 2, ticks.len()] {
        tell(&*second, &ticks[..end]).await;
        second.settled().await;
        assert_eq!(dump(&second).await, before, "after {end} ticks");
    }
    // From there it goes on.
    let more = market(500);
    assert_eq!(more[..ticks.len()], ticks);
    tell(&*second, &more).await;
    second.settled().await;
    is_as_told(&*second, &more).await.unwrap();
}

#[tokio::test]
async fn a_stale_processors_batch_changes_nothing() {
    let Some(url) = service("REDIS") else { return };
    let (prefix, ticks) = (prefix(), market(400));
    let stale = open(&url, &prefix).await;
    tell(&*stale, &ticks[..150]).await;
    stale.settled().await;
    let current = open(&url, &prefix).await;
    tell(&*current, &ticks).await;
    current.settled().await;
    let before = dump(&current).await;
    tell(&*stale, &ticks[..300]).await;
    stale.settled().await;
    assert_eq!(dump(&current).await, before);
    assert!(stale.metrics().conflicts.get() + stale.metrics().losses.get() > 0, "it was noticed");
    // Nor does it hold up the current one.
    let more = market(450);
    tell(&*current, &more).await;
    current.settled().await;
    is_as_told(&*current, &more).await.unwrap();
}

#[tokio::test]
async fn what_redis_has_is_taken_over_unless_it_is_of_another_log() {
    let Some(url) = service("REDIS") else { return };
    let (prefix, ticks) = (prefix(), market(300));
    let first = open(&url, &prefix).await;
    for partition in 0..PARTITIONS {
        assert!(!first.begin(partition, 0).await.unwrap(), "there is nothing");
    }
    let bar = |seq: Seq, tick: &Tick| {
        let bar = Bar::empty(tick.symbol().unwrap(), crate::market::Timeframe::MINUTE, tick.ts());
        (seq, Bar { volume: 7, notional: 1 << 80, open_ts: tick.ts(), close_ts: tick.ts(), ..bar })
    };
    tell(&*first, &ticks).await;
    let (seq, tick) = ticks.last().unwrap();
    let bars = HotUpdates { bars: vec![bar(*seq, tick)], ..HotUpdates::default() };
    first.apply(seq.partition, &bars).await.unwrap();
    first.close().await;
    let reached = |partition| {
        let mine = ticks.iter().rev().find(|(seq, _)| seq.partition == partition);
        mine.map_or(0, |(seq, _)| seq.offset + 1)
    };
    let second = open(&url, &prefix).await;
    for partition in 0..PARTITIONS {
        assert!(!second.begin(partition, reached(partition) + 1).await.unwrap(), "it is behind");
        assert!(second.begin(partition, reached(partition)).await.unwrap(), "it has all");
    }
    is_as_told(&RedisOnly(second.mirror()), &ticks).await.unwrap();
    let entry = second.mirror().get(&[tick.symbol().unwrap()]).await.unwrap().remove(0).unwrap();
    assert_eq!(entry.minute_bar, Some(bar(*seq, tick).1));
    second.close().await;
    assert_eq!(second.metrics().puts.get(), 0, "and nothing was to be written");
    // A log that ends before what Redis has, and another log.
    let third = open_beside(&url, &prefix, MadeUpLog { next: 1, ..MadeUpLog::of(1) }).await;
    assert!(!third.begin(0, 0).await.unwrap());
    until("what the log does not have is removed", async || {
        let left = third.shared.symbols(&third.reader, WRITE_MAX).await.unwrap();
        left.iter().all(|symbol| symbol.partition(PARTITIONS) == 1)
    })
    .await;
    third.close().await;
    let fourth = open_beside(&url, &prefix, MadeUpLog::of(2)).await;
    for partition in 0..PARTITIONS {
        assert!(!fourth.begin(partition, 0).await.unwrap());
    }
    until("the other log's keys are removed", async || {
        fourth.symbols().await.is_ok_and(|symbols| symbols.is_empty())
    })
    .await;
    assert_eq!((third.metrics().purges.get(), fourth.metrics().purges.get()), (1, u64::from(PARTITIONS)));
}

/// Two installations with one prefix: who comes second neither answers from the keys of the first nor
/// removes them, for as long as somebody writes them.
#[tokio::test]
async fn what_another_log_is_being_written_to_is_left_alone_and_not_answered_from() {
    let Some(url) = service("REDIS") else { return };
    let (prefix, ticks) = (prefix(), market(100));
    let first = open(&url, &prefix).await;
    for partition in 0..PARTITIONS {
        first.begin(partition, 0).await.unwrap();
    }
    tell(&*first, &ticks).await;
    first.settled().await;
    let before = dump(&first).await;
    let config = |rest| {
        let base = config(&url, &prefix);
        RedisHotConfig { foreign_rest: rest, ..base }
    };
    let other_log = || Arc::new(MadeUpLog::of(2));
    let second = RedisHot::connect(config(Duration::from_hours(1)), other_log()).await.unwrap();
    let gateway = FallbackHot::beside_processor(second.clone());
    for partition in 0..PARTITIONS {
        assert!(!second.begin(partition, 0).await.unwrap(), "nothing of it is taken over");
    }
    let own = &ticks[..10];
    tell(&*second, own).await;
    let told = |reason: Option<String>| reason.is_some_and(|reason| reason.contains("are of another log"));
    until("the writer says so", async || told(second.degraded())).await;
    is_as_told(&*gateway, own).await.unwrap();
    until("the gateway says so", async || told(gateway.degraded())).await;
    let symbol = ticks[0].1.symbol().unwrap();
    assert!(second.get(&[symbol]).await.is_err() && second.recent(symbol).await.is_err());
    assert_eq!(dump(&first).await, before);
    assert_eq!(first.degraded(), None);
    assert_eq!((first.metrics().purges.get(), second.metrics().purges.get()), (0, 0));
    second.close().await;
    // Once nobody writes it any more, it is removed.
    first.close().await;
    let third = RedisHot::connect(config(Duration::from_millis(10)), other_log()).await.unwrap();
    for partition in 0..PARTITIONS {
        third.begin(partition, 0).await.unwrap();
    }
    tell(&*third, own).await;
    third.settled().await;
    is_as_told(&*third, own).await.unwrap();
    assert_eq!(third.metrics().purges.get(), u64::from(PARTITIONS));
}

fn mine(ticks: &[(Seq, Tick)], partition: u16) -> impl Iterator<Item = Seq> {
    ticks.iter().map(|(seq, _)| *seq).filter(move |seq| seq.partition == partition)
}

/// The topic was put back from an older copy beside a Redis that was not, and has grown past what Redis
/// has: the prices are those of the log that is left.
#[tokio::test]
async fn what_redis_has_of_another_timeline_is_replaced_though_the_log_has_grown_past_it() {
    let Some(url) = service("REDIS") else { return };
    let (prefix, ticks) = (prefix(), market(300));
    let log = MadeUpLog::of(1);
    let first = open(&url, &prefix).await;
    for partition in 0..PARTITIONS {
        first.begin(partition, 0).await.unwrap();
    }
    tell_of(&log, &*first, &ticks).await;
    first.close().await;
    let ends: Vec<u64> =
        (0..PARTITIONS).map(|partition| mine(&ticks, partition).last().unwrap().offset + 1).collect();
    // The log as it was: all of it is taken over, from any process.
    let same = open(&url, &prefix).await;
    for partition in 0..PARTITIONS {
        assert!(same.begin(partition, ends[usize::from(partition)]).await.unwrap());
    }
    same.close().await;
    assert_eq!((same.metrics().purges.get(), same.metrics().puts.get()), (0, 0));

    let other = || MadeUpLog { parts_at: 10, ..MadeUpLog::of(1) };
    assert!(ends.iter().all(|end| (11..LOG_NEXT).contains(end)), "{ends:?}");
    let gateway = FallbackHot::alone(open_beside(&url, &prefix, other()).await, PARTITIONS);
    let symbol = ticks[0].1.symbol().unwrap();
    assert_eq!(gateway.get(&[symbol]).await.unwrap(), [None], "a gateway does not tell them either");
    until("the gateway says so", async || {
        gateway.degraded().is_some_and(|reason| reason.contains("ends with another record than the log has"))
    })
    .await;
    // Other ticks at the same offsets: fewer of them, so that none is later than what redis has.
    let second = open_beside(&url, &prefix, other()).await;
    let own: Vec<_> = ticks.iter().step_by(2).cloned().collect();
    for partition in 0..PARTITIONS {
        assert!(
            !second.begin(partition, ends[usize::from(partition)]).await.unwrap(),
            "nothing is taken over"
        );
    }
    tell_of(&other(), &*second, &own).await;
    second.settled().await;
    is_as_told(&*second, &own).await.unwrap();
    assert_eq!(second.metrics().purges.get(), u64::from(PARTITIONS));
    until("the gateway is back", async || gateway.degraded().is_none()).await;
    is_as_told(&*gateway, &own).await.unwrap();
    second.close().await;
    // Whoever comes next with that log goes on.
    let third = open_beside(&url, &prefix, other()).await;
    for partition in 0..PARTITIONS {
        assert!(third.begin(partition, mine(&own, partition).last().unwrap().offset + 1).await.unwrap());
    }
}

/// A local log that was put back, or lost its end in a crash, begins a generation.
#[tokio::test]
async fn generations_tell_what_redis_has_of_a_lost_timeline() {
    let Some(url) = service("REDIS") else { return };
    let ticks = market(300);
    let ends: Vec<u64> =
        (0..PARTITIONS).map(|partition| mine(&ticks, partition).last().unwrap().offset + 1).collect();
    let (first, second) = (1 << 40, 2 << 40);
    let in_first = || LogEpoch::with_history(1, first, [], Vec::new());
    let ended = |less: u64| {
        let ends = ends.iter().map(|end| end - less).collect();
        LogEpoch::with_history(1, second, [Ended { generation: first, ends }], Vec::new())
    };
    let unknown = LogEpoch::with_history(1, second, [], Vec::new());
    for (epoch, is_kept) in [(ended(0), true), (ended(1), false), (unknown, false)] {
        let prefix = prefix();
        let before = MadeUpLog { epoch: in_first(), ..MadeUpLog::of(1) };
        let hot = open_beside(&url, &prefix, MadeUpLog { epoch: in_first(), ..MadeUpLog::of(1) }).await;
        for partition in 0..PARTITIONS {
            hot.begin(partition, 0).await.unwrap();
        }
        tell_of(&before, &*hot, &ticks).await;
        hot.close().await;
        let hot = open_beside(&url, &prefix, MadeUpLog { epoch: epoch.clone(), ..MadeUpLog::of(1) }).await;
        for partition in 0..PARTITIONS {
            assert_eq!(hot.begin(partition, 0).await.unwrap(), is_kept, "{epoch:?}");
        }
        tell(&*hot, &ticks[..20]).await;
        hot.settled().await;
        is_as_told(&*hot, if is_kept { &ticks } else { &ticks[..20] }).await.unwrap();
        assert_eq!(hot.metrics().purges.get(), if is_kept { 0 } else { u64::from(PARTITIONS) });
    }
}

/// What the writer put beyond its last mark, of records that a crash took from the log.
#[tokio::test]
async fn ticks_beyond_the_mark_that_the_log_lost_are_noticed() {
    let Some(url) = service("REDIS") else { return };
    let (prefix, ticks) = (prefix(), market(300));
    let (first, second) = (1 << 40, 2 << 40);
    let epoch = LogEpoch::with_history(1, first, [], Vec::new());
    let log = MadeUpLog { epoch: epoch.clone(), ..MadeUpLog::of(1) };
    let hot = open_beside(&url, &prefix, MadeUpLog { epoch, ..MadeUpLog::of(1) }).await;
    for partition in 0..PARTITIONS {
        hot.begin(partition, 0).await.unwrap();
    }
    tell_of(&log, &*hot, &ticks).await;
    hot.close().await;
    // A mark of before the last ticks, as a crash between the two leaves it.
    let marked = 10;
    let mut pipeline = Pipeline::new();
    for partition in 0..PARTITIONS {
        let seam = format!("{marked}:{:016x}", seam::of(&log.record(partition, marked - 1).bytes));
        let key = hot.shared.keys.mark(partition);
        pipeline.cmd("HSET").arg(key).arg(&[("next_offset", marked.to_string()), ("seam", seam)]);
    }
    hot.shared.query(&hot.writer, &pipeline, WRITE_MAX).await.unwrap();
    let ended = Ended { generation: first, ends: vec![marked + 1; usize::from(PARTITIONS)] };
    let epoch = LogEpoch::with_history(1, second, [ended], Vec::new());
    let hot = open_beside(&url, &prefix, MadeUpLog { epoch, ..MadeUpLog::of(1) }).await;
    for partition in 0..PARTITIONS {
        assert!(!hot.begin(partition, 0).await.unwrap());
    }
    tell(&*hot, &ticks[..20]).await;
    hot.settled().await;
    is_as_told(&*hot, &ticks[..20]).await.unwrap();
}

/// Marks of the version before this one name no record, and that version moves the offset of a mark on without
/// naming one.
#[tokio::test]
async fn marks_that_name_no_record_are_adopted_and_named() {
    let Some(url) = service("REDIS") else { return };
    let (prefix, ticks) = (prefix(), market(300));
    let log = MadeUpLog::of(1);
    let begin = async |log: MadeUpLog| {
        let hot = open_beside(&url, &prefix, log).await;
        let mut taken = Vec::new();
        for partition in 0..PARTITIONS {
            taken.push(hot.begin(partition, 1).await.unwrap());
        }
        (hot, taken)
    };
    let edit = async |hot: &RedisHot, command: &str, rest: &[&str]| {
        let mut pipeline = Pipeline::new();
        for partition in 0..PARTITIONS {
            pipeline.cmd(command).arg(hot.shared.keys.mark(partition)).arg(rest);
        }
        hot.shared.query(&hot.writer, &pipeline, WRITE_MAX).await.unwrap();
    };
    let (hot, taken) = begin(MadeUpLog::of(1)).await;
    assert_eq!(taken, [false; PARTITIONS as usize]);
    tell_of(&log, &*hot, &ticks[..200]).await;
    hot.close().await;
    edit(&hot, "HDEL", &["seam", "generation"]).await;
    let (hot, taken) = begin(MadeUpLog::of(1)).await;
    assert_eq!(taken, [true; PARTITIONS as usize], "adopted");
    tell_of(&log, &*hot, &ticks).await;
    hot.close().await;
    // The earlier version goes on.
    edit(&hot, "HSET", &["next_offset", &(LOG_NEXT - 1).to_string()]).await;
    let (hot, taken) = begin(MadeUpLog::of(1)).await;
    assert_eq!(taken, [true; PARTITIONS as usize], "the record that is named is in the log still");
    hot.close().await;
    let (_, taken) = begin(MadeUpLog { parts_at: 10, ..MadeUpLog::of(1) }).await;
    assert_eq!(taken, [false; PARTITIONS as usize], "and is not in another one");
}

/// The mirror's entries without their bars.
struct RedisOnly(Arc<MemoryHot>);

#[async_trait::async_trait]
impl Hot for RedisOnly {
    async fn apply(&self, partition: u16, updates: &HotUpdates) -> Result<(), HotError> {
        self.0.apply(partition, updates).await
    }

    async fn get(&self, symbols: &[Symbol]) -> Result<Vec<Option<HotEntry>>, HotError> {
        let entries = self.0.get(symbols).await?;
        Ok(entries
            .into_iter()
            .map(|entry| entry.map(|entry| HotEntry { minute_bar: None, ..entry }))
            .collect())
    }

    async fn recent(&self, symbol: Symbol) -> Result<Vec<(Seq, Tick)>, HotError> {
        self.0.recent(symbol).await
    }

    async fn symbols(&self) -> Result<Vec<Symbol>, HotError> {
        self.0.symbols().await
    }
}

#[tokio::test]
async fn a_wrong_password_or_url_is_told_at_once() {
    let Some(url) = service("REDIS") else { return };
    let bad = RedisHot::connect(config("http://127.0.0.1", "x:"), Arc::new(MadeUpLog::of(1)))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(bad.contains("the URL in hot.redis_url is not usable"), "{bad}");
    let url = url.replacen("redis://", "redis://nobody:secret@", 1);
    let refused =
        RedisHot::connect(config(&url, "x:"), Arc::new(MadeUpLog::of(1))).await.err().unwrap().to_string();
    assert!(refused.contains("check the user, the password") && !refused.contains("secret"), "{refused}");
}

#[tokio::test]
async fn a_value_that_another_program_broke_names_its_key() {
    let Some(url) = service("REDIS") else { return };
    let hot = open(&url, &prefix()).await;
    tell(&*hot, &market(50)).await;
    hot.settled().await;
    let symbol = conformance::symbols()[0];
    let key = hot.shared.keys.hot(symbol);
    let mut pipeline = Pipeline::new();
    pipeline.cmd("HSET").arg(&key).arg("trade").arg("{}");
    hot.shared.query(&hot.writer, &pipeline, WRITE_MAX).await.unwrap();
    let error = hot.get(&[symbol]).await.unwrap_err().to_string();
    assert!(error.contains(&format!("key {key} can't be read: field `trade`")), "{error}");
}

/// A Redis that this test may kill, without persistence.
struct OwnRedis {
    address: OwnAddress,
    dir: TempDir,
    process: Option<Child>,
}

impl OwnRedis {
    /// `None`, said on stderr, where there is no server to start.
    async fn start() -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            // As for any other service, CI has to have it.
            service("REDIS_SERVER").map(|_| ())?;
        }
        let mut redis = Self { address: OwnAddress::new(), dir: TempDir::new().unwrap(), process: None };
        redis.again().await;
        Some(redis)
    }

    fn url(&self) -> String {
        format!("redis://{}", &*self.address)
    }

    async fn again(&mut self) {
        let (host, port) = self.address.split_once(':').unwrap();
        let mut server = Command::new("redis-server");
        server.args(["--save", "", "--appendonly", "no", "--bind", host, "--port", port]);
        let process = self
            .process
            .insert(server.arg("--dir").arg(self.dir.path()).stdout(Stdio::null()).spawn().unwrap());
        until("redis-server listens", async || {
            assert!(process.try_wait().unwrap().is_none(), "redis-server ended");
            tokio::net::TcpStream::connect(&*self.address).await.is_ok()
        })
        .await;
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_started_again_under_load_it_is_filled_again() {
    let Some(mut redis) = OwnRedis::start().await else { return };
    let prefix = prefix();
    let processor = open(&redis.url(), &prefix).await;
    let asked = open(&redis.url(), &prefix).await;
    let gateway = FallbackHot::alone(asked.clone(), PARTITIONS);
    let all = market(4_000);
    let (mut told, step) = (0, 200);
    let mut go_on = async |count: usize| {
        for _ in 0..count {
            let next = &all[told..(told + step).min(all.len())];
            // The gateway reads the same log.
            tell(&*processor, next).await;
            tell(&*gateway, next).await;
            told += next.len();
        }
        told
    };
    go_on(4).await;
    processor.settled().await;
    for _ in 0..2 {
        redis.kill();
        let told = go_on(4).await;
        // Nothing has waited, and the gateway answers all of it.
        is_as_told(&*gateway, &all[..told]).await.unwrap();
        until("the gateway says so", async || gateway.degraded().is_some()).await;
        until("the processor says so", async || processor.degraded().is_some()).await;
        let reason = gateway.degraded().unwrap();
        assert!(
            reason.starts_with("hot: redis 127.0.0.1:") && reason.ends_with("this gateway's memory"),
            "{reason}"
        );
        assert!(processor.degraded().unwrap().contains("wait to be written"));
        is_as_told(&*gateway, &all[..told]).await.unwrap();
        redis.again().await;
        let told = go_on(1).await;
        processor.settled().await;
        is_as_told(&*processor, &all[..told]).await.unwrap();
        until("the gateway is back", async || gateway.degraded().is_none()).await;
        assert_eq!(processor.degraded(), None);
        let fallbacks = asked.metrics().fallbacks.get();
        is_as_told(&*gateway, &all[..told]).await.unwrap();
        assert_eq!(asked.metrics().fallbacks.get(), fallbacks, "redis is asked again");
        assert!(fallbacks > 0);
    }
    assert!(processor.metrics().reconciles.get() >= 6, "each time both partitions were compared");
}

#[tokio::test]
async fn data_lost_behind_an_open_connection_is_noticed_though_nothing_trades() {
    let Some(redis) = OwnRedis::start().await else { return };
    let hot = open(&redis.url(), "x:").await;
    let ticks = market(300);
    tell(&*hot, &ticks).await;
    hot.settled().await;
    let before = dump(&hot).await;
    let mut pipeline = Pipeline::new();
    pipeline.cmd("FLUSHALL").cmd("SCRIPT").arg("FLUSH");
    hot.shared.query(&hot.writer, &pipeline, WRITE_MAX).await.unwrap();
    until("it is filled again", async || hot.metrics().losses.get() > 0 && dump(&hot).await == before).await;
    is_as_told(&*hot, &ticks).await.unwrap();
}

#[tokio::test]
async fn a_processor_starts_before_its_redis() {
    let Some(mut redis) = OwnRedis::start().await else { return };
    redis.kill();
    let hot = open(&redis.url(), "x:").await;
    assert!(!hot.begin(0, 5).await.unwrap());
    let ticks = market(100);
    tell(&*hot, &ticks).await;
    until("it says so", async || hot.degraded().is_some()).await;
    redis.again().await;
    hot.settled().await;
    is_as_told(&*hot, &ticks).await.unwrap();
}
