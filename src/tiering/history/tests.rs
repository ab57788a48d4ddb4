//! History equals what was put in, whatever happened in between.

mod amended;
mod archived;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::format::{Format, RowWriter};
use super::*;
use crate::bus::epoch::LogEpoch;
use crate::bus::{Bounds, BusReader, Durable, Record};
use crate::market::{
    Bar, Cancel, Conditions, Correction, Exchange, GapKind, NO_SYMBOL, Price, SymbolTable, Tape,
    TickBatchBuilder, Timestamp, Trade, TradeTerms, TradeUpdate, arbitrary,
};
use crate::tiering::archive::manifest::Manifest;
use crate::tiering::archive::read::tests as fake;
use crate::tiering::archive::restore::{self, RestoreError};
use crate::tiering::archive::run::Archiver;
use crate::tiering::archive::{ArchiveError, ArchiveMetrics, ArchiveOptions, Clock, Progress};
use crate::tiering::cold::dir::DirCold;
use crate::tiering::cold::faulty::{Fault, FaultyCold};
use crate::tiering::cold::{Cold, RestoreTier, StorageClass};
use crate::tiering::state::PartitionState;
use crate::tiering::warm::conformance::{self, PARTITIONS, Row};
use crate::tiering::warm::local::{LocalWarm, LocalWarmOptions};
use crate::tiering::warm::{ArchiveSource, Block, Query, Unit};
use crate::wire::record::{Origin, RecordEncoder, RecordView};

pub(in crate::tiering) const LOG_ID: u64 = 7;

/// A log in memory, of which the oldest records can be dropped, and which can hang.
pub(in crate::tiering) struct FakeBus {
    epoch: LogEpoch,
    partitions: Mutex<Vec<(u64, Vec<Bytes>)>>,
    /// Readers wait for ever.
    pub(in crate::tiering) hangs: AtomicBool,
    /// It does not say where it ends.
    pub(in crate::tiering) is_away: AtomicBool,
}

impl FakeBus {
    pub(in crate::tiering) fn new() -> Arc<Self> {
        Self::of_log(LOG_ID)
    }

    pub(in crate::tiering) fn of_log(id: u64) -> Arc<Self> {
        Arc::new(Self {
            epoch: LogEpoch::new(id),
            partitions: Mutex::new(vec![(0, Vec::new()); usize::from(PARTITIONS)]),
            hangs: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
        })
    }

    pub(in crate::tiering) fn push(&self, partition: u16, bytes: Bytes) -> u64 {
        let mut partitions = self.partitions.lock().unwrap();
        let (first, records) = &mut partitions[usize::from(partition)];
        records.push(bytes);
        *first + records.len() as u64 - 1
    }

    pub(in crate::tiering) fn trim(&self, partition: u16, offset: u64) {
        let (first, records) = &mut self.partitions.lock().unwrap()[usize::from(partition)];
        records.drain(..(offset - *first) as usize);
        *first = offset;
    }

    pub(in crate::tiering) fn from(&self, partition: u16, from: u64) -> Result<Vec<Record>, BusError> {
        let (first, records) = &self.partitions.lock().unwrap()[usize::from(partition)];
        if from < *first {
            return Err(BusError::Trimmed { partition, offset: from, first: *first });
        }
        let held = (*first..).zip(records).skip_while(|(offset, _)| *offset < from);
        Ok(held.map(|(offset, bytes)| Record { offset, bytes: bytes.clone() }).collect())
    }
}

#[async_trait::async_trait]
impl Bus for FakeBus {
    fn partitions(&self) -> u16 {
        PARTITIONS
    }

    fn epoch(&self) -> &LogEpoch {
        &self.epoch
    }

    async fn append(&self, records: Vec<(u16, Bytes)>) -> Result<Durable, BusError> {
        let offsets: Vec<u64> =
            records.into_iter().map(|(partition, bytes)| self.push(partition, bytes)).collect();
        Ok(Box::pin(async move { Ok(offsets) }))
    }

    async fn bounds(&self, partition: u16) -> Result<Bounds, BusError> {
        if self.is_away.load(Ordering::Relaxed) {
            return Err(BusError::Unavailable { path: "here".to_owned(), reason: "it is away".to_owned() });
        }
        let (first, records) = &self.partitions.lock().unwrap()[usize::from(partition)];
        Ok(Bounds { first: *first, next: *first + records.len() as u64 })
    }

    async fn reader(&self, partition: u16, from: u64) -> Result<Box<dyn BusReader>, BusError> {
        let records = self.from(partition, from)?;
        let records = if self.hangs.load(Ordering::Relaxed) { Vec::new() } else { records };
        Ok(Box::new(FakeReader { records, at: from }))
    }

    fn release(&self, _partition: u16, _offset: u64) {}
}

struct FakeReader {
    records: Vec<Record>,
    at: u64,
}

#[async_trait::async_trait]
impl BusReader for FakeReader {
    async fn next(&mut self, _bytes_max: usize) -> Result<Vec<Record>, BusError> {
        if self.records.is_empty() {
            std::future::pending::<()>().await;
        }
        let rest = self.records.split_off(self.records.len().min(2));
        let next = std::mem::replace(&mut self.records, rest);
        self.at += next.len() as u64;
        Ok(next)
    }

    fn offset(&self) -> u64 {
        self.at
    }
}

/// What a processor does, one block at a time.
async fn commit_block(bus: &FakeBus, tiers: &Tiers, partition: u16, records_max: usize, rebuilds: bool) {
    let warm = &*tiers.warm;
    let mark = warm.mark(partition).await.unwrap();
    let mut state = PartitionState::restore(&mark.checkpoint).unwrap();
    let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(partition));
    let records = bus.from(partition, mark.next_offset).unwrap();
    let (mut next_offset, mut ticks) = (mark.next_offset, Vec::new());
    for record in records.iter().take(records_max) {
        next_offset = record.offset + 1;
        let view = RecordView::parse(&record.bytes).unwrap();
        if !state.admit(view.origin, view.checksum()) {
            continue;
        }
        for (index, row) in (0..).zip(view.ticks()) {
            let (_, tick) = row.unwrap();
            let seq = Seq { partition, offset: record.offset, index };
            let symbol = tick.symbol().map_or(NO_SYMBOL, |symbol| table.intern(symbol));
            builder.push(symbol, seq, &tick);
            state.apply(seq, &tick);
            ticks.push((seq, tick));
        }
    }
    let rebuilds =
        if rebuilds && next_offset > mark.next_offset { state.take_rebuilds() } else { Vec::new() };
    for (symbol, day) in rebuilds {
        let mut rows = ticks.clone();
        for kind in [Kind::Trade, Kind::Cancel, Kind::Correction] {
            let range = TimeRange { from: day.start(), to: day.end() };
            let scan = tiers.scan(kind, Some(&[symbol]), range).await.unwrap();
            for batch in scan.rows.try_collect::<Vec<_>>().await.unwrap() {
                let view = batch.rows().unwrap();
                rows.extend((0..batch.len()).map(|row| (view.seq(row), view.tick(row).unwrap())));
            }
        }
        let place = Seq { partition, offset: next_offset - 1, index: u32::MAX };
        state.rebuild(symbol, day, place, &rows);
    }
    for (seq, bar) in state.take_changed_bars() {
        builder.push_bar(table.intern(bar.symbol), seq, &bar);
    }
    let block = Block {
        partition,
        first_offset: mark.next_offset,
        next_offset,
        batches: builder.finish(&table),
        checkpoint: state.save(),
        seam: None,
    };
    warm.commit(block).await.unwrap();
}

fn encoded(ticks: &[Tick], sequence: u64) -> Bytes {
    let mut encoder = RecordEncoder::new();
    ticks.iter().for_each(|tick| encoder.push(tick));
    encoder.finish(Origin { producer: 7, sequence })
}

/// What happens to the stores.
#[derive(Clone, Debug)]
enum Step {
    /// A record of ticks arrives.
    Append(u16, Vec<Tick>),
    /// The last record of the partition arrives once more.
    Repeat(u16),
    /// The processor stores so many records, with the bars that are marked to be rebuilt or without.
    Commit(u16, usize, bool),
    Compact,
    Restart,
    /// The log drops what warm holds.
    Trim(u16),
    /// A step of an archive run over one of the units there are, by its number.
    Archive(usize, ArchiveStep),
}

/// The steps of an archive run that readers can tell apart.
#[derive(Clone, Copy, Debug)]
enum ArchiveStep {
    /// All rows in warm that are in no manifest are in the cold store; nothing counts yet.
    Upload,
    /// They count.
    Commit,
    /// Warm drops what is in manifests.
    Drop,
    /// Warm takes them back.
    Restore,
}

fn steps(tick: impl Strategy<Value = Tick> + 'static) -> impl Strategy<Value = Vec<Step>> {
    let partition = || 0..PARTITIONS;
    let append = (partition(), prop::collection::vec(tick, 0..6)).prop_map(|(partition, mut ticks)| {
        ticks.retain(|tick| tick.symbol().is_none_or(|symbol| symbol.partition(PARTITIONS) == partition));
        Step::Append(partition, ticks)
    });
    let step = prop_oneof![
        6 => append,
        1 => partition().prop_map(Step::Repeat),
        3 => (partition(), 1_usize..4, any::<bool>())
            .prop_map(|(partition, records, rebuilds)| Step::Commit(partition, records, rebuilds)),
        1 => Just(Step::Compact),
        1 => Just(Step::Restart),
        1 => partition().prop_map(Step::Trim),
        6 => (0_usize..8, prop::sample::select(ARCHIVE_STEPS)).prop_map(|(unit, step)| Step::Archive(unit, step)),
    ];
    prop::collection::vec(step, 0..40)
}

/// What comes about as often as it should for a day to get through all of it.
const ARCHIVE_STEPS: &[ArchiveStep] = &[
    ArchiveStep::Upload,
    ArchiveStep::Upload,
    ArchiveStep::Commit,
    ArchiveStep::Commit,
    ArchiveStep::Drop,
    ArchiveStep::Drop,
    ArchiveStep::Restore,
];

struct World {
    dir: TempDir,
    bus: Arc<FakeBus>,
    warm: Arc<LocalWarm>,
    archive: FakeArchive,
    rows: Vec<Row>,
}

/// An archive, and how far each unit has come.
struct FakeArchive {
    reader: Arc<ArchiveReader>,
    uploaded: BTreeMap<Unit, Manifest>,
    committed: BTreeMap<Unit, Manifest>,
}

impl FakeArchive {
    fn new(dir: &TempDir) -> Self {
        let cold = DirCold::open(&dir.path().join("cold")).unwrap();
        let reader = Arc::new(ArchiveReader::new(Arc::new(cold)));
        Self { reader, uploaded: BTreeMap::new(), committed: BTreeMap::new() }
    }

    async fn step(&mut self, warm: &LocalWarm, number: usize, step: ArchiveStep) {
        let mut units: Vec<Unit> = warm.units().await.unwrap().into_iter().map(|info| info.unit).collect();
        units.extend(self.committed.keys());
        units.sort_unstable();
        units.dedup();
        let Some(unit) = (!units.is_empty()).then(|| units[number % units.len()]) else { return };
        let cold = self.reader.cold().clone();
        let committed = self.committed.get(&unit);
        match step {
            ArchiveStep::Upload => {
                let mut next_offsets = Vec::new();
                for partition in 0..PARTITIONS {
                    next_offsets.push(warm.mark(partition).await.unwrap().next_offset);
                }
                let manifest = fake::upload(warm, &*cold, unit, committed, &next_offsets, fake::TINY).await;
                self.uploaded.insert(unit, manifest);
            }
            ArchiveStep::Commit => {
                if let Some(manifest) = self.uploaded.remove(&unit) {
                    fake::commit(&*cold, &manifest).await;
                    self.committed.insert(unit, manifest);
                }
            }
            ArchiveStep::Drop => {
                if let Some(manifest) = committed {
                    warm.drop_rows(unit, &manifest.next_offsets).await.unwrap();
                }
            }
            ArchiveStep::Restore => {
                if let Some(manifest) = committed {
                    // What is uploaded would repeat what comes back.
                    let range = TimeRange { from: unit.day.start(), to: unit.day.end() };
                    let snapshot = self.reader.snapshot(unit.kind, range).await.unwrap();
                    let files = snapshot.files(unit.day).unwrap();
                    let rows = self.reader.scan(unit.kind, files, None, range, SharedReadStats::default());
                    let rows = rows.map_err(|error| panic!("{error}")).boxed();
                    warm.restore(unit, &manifest.next_offsets, rows).await.unwrap();
                }
            }
        }
    }
}

const QUIET: LocalWarmOptions = LocalWarmOptions { compaction: false };

impl World {
    async fn after(steps: Vec<Step>) -> Self {
        let dir = TempDir::new().unwrap();
        let bus = FakeBus::new();
        let mut warm = LocalWarm::open(&dir.path().join("warm"), QUIET).unwrap();
        let mut archive = FakeArchive::new(&dir);
        let (mut rows, mut last) = (Vec::new(), BTreeMap::new());
        for (sequence, step) in (1..).zip(steps) {
            match step {
                Step::Append(partition, ticks) => {
                    let bytes = encoded(&ticks, sequence);
                    last.insert(partition, bytes.clone());
                    let offset = bus.push(partition, bytes);
                    rows.extend((0..).zip(ticks).map(|(index, tick)| {
                        (tick.symbol(), tick.ts(), Seq { partition, offset, index }, tick)
                    }));
                }
                Step::Repeat(partition) => {
                    if let Some(bytes) = last.get(&partition) {
                        bus.push(partition, bytes.clone());
                    }
                }
                Step::Commit(partition, records, rebuilds) => {
                    let tiers = Tiers { warm: warm.clone(), archive: Some(archive.reader.clone()) };
                    commit_block(&bus, &tiers, partition, records, rebuilds).await;
                }
                Step::Archive(unit, step) => archive.step(&warm, unit, step).await,
                Step::Compact => while warm.compact().unwrap() {},
                Step::Restart => {
                    drop(warm);
                    warm = LocalWarm::open(&dir.path().join("warm"), QUIET).unwrap();
                }
                Step::Trim(partition) => {
                    bus.trim(partition, warm.mark(partition).await.unwrap().next_offset);
                }
            }
        }
        Self { dir, bus, warm, archive, rows }
    }

    fn history(&self) -> History {
        History::new(self.bus.clone(), self.warm.clone()).with_archive(self.archive.reader.clone())
    }
}

async fn ticks_of(answer: HistoryAnswer) -> Vec<Row> {
    let batches: Vec<TickBatch> = answer.rows.try_collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in &batches {
        let view = batch.rows().unwrap();
        rows.extend(
            (0..batch.len())
                .map(|row| (view.symbol(row), view.ts(row), view.seq(row), view.tick(row).unwrap())),
        );
    }
    rows
}

async fn bars_of(answer: HistoryAnswer) -> Vec<Bar> {
    let batches: Vec<TickBatch> = answer.rows.try_collect().await.unwrap();
    let mut rows = Vec::new();
    for batch in &batches {
        let view = batch.rows().unwrap();
        rows.extend((0..batch.len()).map(|row| view.bar(row).unwrap().1));
    }
    rows
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// Trades of three symbols on two exchanges within three days, and cancels of some of them.
fn trading() -> impl Strategy<Value = Tick> {
    let start = 1_763_649_000_000_000_000_i64;
    let minute = 60_000_000_000_i64;
    let ts = prop_oneof![0_i64..5, 300_i64..310, 1400_i64..1405, 2900_i64..2903]
        .prop_map(move |minutes| start + minutes * minute);
    let symbol = prop::sample::select(&["AAPL", "MSFT", "BRK.B"][..]);
    let exchange = prop::sample::select(&[(b'V', b'V'), (b'Q', b'Q'), (b'Q', b' ')][..]);
    (symbol, ts, 0_i64..60, 1_i64..500, 1_u32..300, (exchange, 0_u64..10), 0..8).prop_map(
        |(symbol, ts, second, price, size, (exchange, id), cancel)| {
            let symbol: Symbol = symbol.parse().unwrap();
            let ts = Timestamp::from_nanos(ts).saturating_add_nanos(second * 1_000_000_000);
            let price = Price::from_ten_thousandths(price * 100).unwrap();
            let (of_trade, of_cancel) = exchange;
            let (exchange, tape) = (Exchange::from_code(of_trade).unwrap(), Tape::A);
            if cancel == 0 {
                // Some do not tell whose trade they break.
                let exchange = Exchange::from_code(of_cancel).unwrap();
                let cancel =
                    Cancel { symbol, ts, recv_ts: ts, id, price, size, exchange, action: b'C', tape };
                return Tick::Cancel(Box::new(cancel));
            }
            let conditions = Conditions::NONE;
            Tick::Trade(Trade { symbol, ts, recv_ts: ts, price, size, exchange, conditions, id, tape })
        },
    )
}

/// Without trades that have another's exchange and id on its day.
fn with_unique_ids(mut steps: Vec<Step>) -> Vec<Step> {
    let mut seen = HashSet::new();
    for step in &mut steps {
        if let Step::Append(_, ticks) = step {
            ticks.retain(|tick| match tick {
                Tick::Trade(trade) => {
                    seen.insert((trade.symbol, trade.exchange, trade.ts.trading_day(), trade.id))
                }
                _ => true,
            });
        }
    }
    steps
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn history_is_the_sorted_input_each_once(
        steps in steps(arbitrary::tick()),
        queries in prop::collection::vec((conformance::query(), prop::option::of(0_u64..20)), 1..6),
        tail_rows_max in prop_oneof![Just(u64::MAX), 0_u64..5],
    ) {
        runtime().block_on(async {
            let world = World::after(steps).await;
            for (query, limit) in queries {
                let asked = HistoryQuery {
                    symbols: query.symbols.clone().unwrap_or_default(),
                    kind: query.kind,
                    timeframe: None,
                    range: query.range,
                    limit,
                };
                // No symbol asks for all of them here, and for none of a store.
                let symbols = query.symbols.clone().filter(|symbols| !symbols.is_empty());
                let first_offsets = query.first_offsets.clone();
                let whole = Query { symbols, first_offsets: Vec::new(), ..query };
                let mut expected = conformance::expected(&world.rows, &whole);
                let from = |seq: &Seq| seq.offset >= first_offsets.get(usize::from(seq.partition)).copied().unwrap_or(0);
                let unlimited = HistoryQuery { limit: None, ..asked.clone() };
                let mut later = ticks_of(world.history().query_from(unlimited, &first_offsets).await.unwrap()).await;
                later.retain(|(_, _, seq, _)| from(seq));
                assert!(expected.iter().filter(|(_, _, seq, _)| from(seq)).eq(&later), "{asked:?} {first_offsets:?}");
                expected.truncate(limit.unwrap_or(u64::MAX) as usize);
                let history = History { tail_rows_max, ..world.history() };
                let answer = history.query(asked.clone()).await.unwrap();
                assert!(answer.coverage.missing.is_empty());
                let stats = answer.stats.clone();
                assert_eq!(ticks_of(answer).await, expected, "{asked:?}");
                assert_eq!(stats.lock().unwrap().rows, expected.len() as u64);
            }
            drop(world.dir);
        });
    }

    #[test]
    fn bars_are_those_of_the_trades_that_stand(
        steps in steps(trading()).prop_map(with_unique_ids),
        timeframe in prop::sample::select(&["1Min", "5Min", "1Hour", "7Hour", "1Day", "1Week", "1Month"][..]),
        from_minutes in 0_i64..3000,
        len_minutes in 0_i64..6000,
        whole in any::<bool>(),
        symbols in prop::sample::subsequence(&["AAPL", "BRK.B", "MSFT"][..], 0..=3),
    ) {
        runtime().block_on(async {
            let world = World::after(steps).await;
            let timeframe: Timeframe = timeframe.parse().unwrap();
            let from = Timestamp::from_nanos(1_763_649_000_000_000_000 + from_minutes * 60_000_000_000);
            let range = TimeRange { from, to: from.saturating_add_nanos(len_minutes * 60_000_000_000) };
            let range = if whole { TimeRange::ALL } else { range };
            let symbols: Vec<Symbol> = symbols.iter().map(|symbol| symbol.parse().unwrap()).collect();
            let is_asked = |bar: &Bar| symbols.is_empty() || symbols.contains(&bar.symbol);
            let mut expected = reference_bars(&world.rows, timeframe, range);
            expected.retain(is_asked);
            let query = HistoryQuery { symbols, kind: Kind::Bar, timeframe: Some(timeframe), range, limit: None };
            let found = bars_of(world.history().query(query).await.unwrap()).await;
            assert_eq!(found, expected);
        });
    }
}

/// The bars by the book: all trades that no later cancel of their day breaks, added one by one. A
/// cancel breaks the last that it can be about.
fn reference_bars(rows: &[Row], timeframe: Timeframe, range: TimeRange) -> Vec<Bar> {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by_key(|(_, _, seq, _)| *seq);
    let mut standing: Vec<Trade> = Vec::new();
    for (_, _, _, tick) in rows {
        match tick {
            Tick::Trade(trade) => standing.push(*trade),
            Tick::Cancel(cancel) => {
                let is_broken = |trade: &Trade| {
                    (trade.symbol, trade.ts.trading_day()) == (cancel.symbol, cancel.ts.trading_day())
                        && trade.is_named(cancel.exchange, cancel.id)
                };
                if let Some(at) = standing.iter().rposition(is_broken) {
                    standing.remove(at);
                }
            }
            _ => {}
        }
    }
    let mut bars: BTreeMap<(Symbol, Timestamp), Bar> = BTreeMap::new();
    for trade in standing {
        let empty = Bar::empty(trade.symbol, timeframe, trade.ts);
        bars.entry((trade.symbol, empty.ts)).or_insert(empty).add(&trade);
    }
    bars.into_values().filter(|bar| bar.has_price() && range.contains(bar.ts)).collect()
}

fn all(kind: Kind) -> HistoryQuery {
    HistoryQuery { symbols: Vec::new(), kind, timeframe: None, range: TimeRange::ALL, limit: None }
}

fn gap(symbol: Option<&str>, first: u64) -> Tick {
    let ts: Timestamp = "2026-11-20T15:00:00Z".parse().unwrap();
    Tick::Gap(Box::new(Gap {
        symbol: symbol.map(|symbol| symbol.parse().unwrap()),
        ts: ts.saturating_add_nanos(first as i64),
        recv_ts: ts,
        kind: GapKind::Missed,
        source: "iex/1".into(),
        first,
        last: first,
    }))
}

#[tokio::test]
async fn coverage_tells_gaps_and_where_rows_came_from() {
    let steps = vec![
        Step::Append(0, vec![gap(None, 1), gap(Some("AAPL"), 2)]),
        Step::Append(1, vec![gap(None, 1), gap(Some("TSLA"), 3)]),
        Step::Commit(0, 9, true),
        Step::Append(0, vec![gap(Some("MSFT"), 4)]),
    ];
    let world = World::after(steps).await;
    let query = HistoryQuery { symbols: vec!["AAPL".parse().unwrap()], ..all(Kind::Trade) };
    let coverage = world.history().query(query).await.unwrap().coverage;
    let firsts: Vec<u64> = coverage.gaps.iter().map(|gap| gap.first).collect();
    assert_eq!(firsts, [1, 2], "the one of all symbols is told once, those of others are not");
    let parts = coverage.partitions.iter().map(|part| (part.warm_next_offset, part.log_next_offset));
    assert_eq!(parts.collect::<Vec<_>>(), [(1, 2), (0, 1)]);
    let all_gaps = world.history().query(all(Kind::Gap)).await.unwrap();
    assert_eq!(all_gaps.coverage.gaps.len(), 4);
    assert_eq!(ticks_of(all_gaps).await.len(), 5, "it stands in every partition");
}

#[tokio::test]
async fn of_many_gaps_the_first_are_listed_and_all_are_counted() {
    let of_all = |first: u64| gap(None, first);
    let (late, early): (Vec<Tick>, Vec<Tick>) =
        ((700..1400).map(of_all).collect(), (0..700).map(of_all).collect());
    let mut steps = Vec::new();
    for partition in 0..PARTITIONS {
        steps.push(Step::Append(partition, late.clone()));
        steps.push(Step::Commit(partition, 1, true));
        steps.push(Step::Append(partition, early.clone()));
    }
    steps.push(Step::Append(0, vec![gap(Some("AAPL"), 1400)]));
    let coverage = World::after(steps).await.history().query(all(Kind::Trade)).await.unwrap().coverage;
    assert!(coverage.gaps.iter().map(|gap| gap.first).eq(0..GAPS_MAX as u64));
    assert_eq!(coverage.gaps_not_listed, 401);
}

#[tokio::test]
async fn records_that_are_nowhere_are_told() {
    let world = World::after(vec![
        Step::Append(0, vec![gap(None, 1)]),
        Step::Append(0, vec![gap(None, 2)]),
        Step::Append(0, vec![gap(None, 3)]),
        Step::Commit(0, 1, true),
    ])
    .await;
    world.bus.trim(0, 2);
    let answer = world.history().query(all(Kind::Gap)).await.unwrap();
    assert_eq!(answer.coverage.missing, [Missing { partition: 0, first_offset: 1, next_offset: 2 }]);
    assert_eq!(ticks_of(answer).await.len(), 2);
}

#[tokio::test]
async fn no_time_of_an_archived_day_holds_no_row() {
    let archive = |step| Step::Archive(0, step);
    let world = World::after(vec![
        Step::Append(0, vec![gap(None, 1)]),
        Step::Commit(0, 1, true),
        archive(ArchiveStep::Upload),
        archive(ArchiveStep::Commit),
        archive(ArchiveStep::Drop),
    ])
    .await;
    let from = gap(None, 1).ts();
    for (nanos, rows) in [(1, 1), (0, 0), (-1, 0)] {
        let range = TimeRange { from, to: from.saturating_add_nanos(nanos) };
        let answer = world.history().query(HistoryQuery { range, ..all(Kind::Gap) }).await.unwrap();
        assert_eq!(ticks_of(answer).await.len(), rows, "{range:?}");
    }
}

#[tokio::test]
async fn a_damaged_record_is_named() {
    let world = World::after(vec![Step::Append(1, vec![gap(None, 1)])]).await;
    world.bus.push(1, Bytes::from_static(&[9]));
    let error = world.history().query(all(Kind::Trade)).await.err().unwrap().to_string();
    assert!(error.starts_with("record 1 of partition 1: a log record of version 9"), "{error}");
}

/// One tick of every kind, and bars, in every format.
fn samples() -> Vec<(Kind, AmendedBatch)> {
    let ts: Timestamp = "2026-11-20T15:00:00.123456789Z".parse().unwrap();
    let recv_ts = ts.saturating_add_nanos(1_000);
    let symbol: Symbol = "BRK.B".parse().unwrap();
    let price = |text: &str| text.parse::<Price>().unwrap();
    let (exchange, tape) = (Exchange::IEX, Tape::C);
    let conditions = Conditions::from_codes(b"@T").unwrap();
    let trade =
        Trade { symbol, ts, recv_ts, price: price("190.4501"), size: 100, exchange, conditions, id: 7, tape };
    let terms = |id, text| TradeTerms { id, price: price(text), size: 5, conditions };
    let ticks = [
        Tick::Trade(trade),
        Tick::Quote(crate::market::Quote {
            symbol,
            ts,
            recv_ts,
            bid: price("190.45"),
            ask: price("190.46"),
            bid_size: 300,
            ask_size: 12,
            bid_exchange: exchange,
            ask_exchange: Exchange::NONE,
            conditions,
            tape,
        }),
        Tick::Status(Box::new(crate::market::Status {
            symbol,
            ts,
            recv_ts,
            code: "H".into(),
            message: "Halted, \"news\"\u{1b}[2J".into(),
            reason_code: "T1".into(),
            reason_message: String::new().into(),
            tape,
        })),
        Tick::Cancel(Box::new(Cancel {
            symbol,
            ts,
            recv_ts,
            id: 7,
            price: price("190.4501"),
            size: 100,
            exchange,
            action: b'C',
            tape,
        })),
        Tick::Correction(Box::new(Correction {
            symbol,
            ts,
            recv_ts,
            exchange,
            original: terms(7, "1"),
            corrected: terms(8, "1.5"),
            tape,
        })),
        gap(None, 5),
        Tick::PrevClose(crate::market::PrevClose { symbol, ts, recv_ts, price: price("189.1") }),
    ];
    let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(2));
    for (index, tick) in (0..).zip(&ticks) {
        let number = tick.symbol().map_or(NO_SYMBOL, |symbol| table.intern(symbol));
        builder.push(number, Seq { partition: 2, offset: 41, index }, tick);
    }
    let mut bar = Bar::empty(symbol, Timeframe::Minutes(15), ts);
    bar.add(&Trade { conditions: Conditions::NONE, ..trade });
    builder.push_bar(table.intern(symbol), Seq { partition: 2, offset: 41, index: 9 }, &bar);
    builder.finish(&table).into_iter().map(|(_, batch)| (batch.kind(), batch.into())).collect()
}

/// The sample as it is after its trade was broken.
fn broken(batch: &AmendedBatch) -> AmendedBatch {
    let is_trade = batch.rows.kind() == Kind::Trade;
    let updates = if is_trade { vec![Some(TradeUpdate::Canceled)] } else { Vec::new() };
    AmendedBatch { updates, ..batch.clone() }
}

#[test]
fn text_formats_are_golden() {
    let mut shown = String::new();
    for format in Format::ALL.into_iter().filter(|format| format.is_text()) {
        for (kind, batch) in samples() {
            let mut writer = RowWriter::new(format, kind, Vec::new()).unwrap();
            writer.write(&batch).unwrap();
            writer.write(&broken(&batch)).unwrap();
            let out = writer.finish().unwrap();
            writeln!(shown, "--- {format} {}", kind.name()).unwrap();
            shown.push_str(&String::from_utf8(out).unwrap().replace('\r', "␍"));
        }
    }
    insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "../../../tests/golden/history" }, {
        insta::assert_snapshot!("formats", shown);
    });
}

#[test]
fn a_table_is_as_wide_as_what_is_in_it() {
    let of = |symbol: &str, id: u64, price: &str| -> AmendedBatch {
        let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(0));
        let ts = "2026-11-20T15:00:00Z".parse().unwrap();
        let (symbol, price) = (symbol.parse().unwrap(), price.parse().unwrap());
        let (exchange, tape, conditions) = (Exchange::IEX, Tape::C, Conditions::NONE);
        let trade = Trade { symbol, ts, recv_ts: ts, price, size: 1, exchange, conditions, id, tape };
        builder.push(table.intern(symbol), Seq::default(), &Tick::Trade(trade));
        builder.finish(&table).remove(0).1.into()
    };
    let columns = |batches: &[AmendedBatch]| -> Vec<Vec<usize>> {
        let mut writer = RowWriter::new(Format::Table, Kind::Trade, Vec::new()).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        let text = String::from_utf8(writer.finish().unwrap()).unwrap();
        // Where the columns on the left begin and those on the right end.
        let places = |line: &str| {
            let ends = |what: &str| line.find(what).map(|at| at + what.len());
            let price = ends("PRICE").or_else(|| ends("123456789.123456789")).or_else(|| ends("190.4501"));
            let ts = line.find("TS").or_else(|| line.find("2026-"));
            let tape = line.find("TAPE").or_else(|| line.rfind('C'));
            vec![ts.unwrap(), price.unwrap(), tape.unwrap()]
        };
        text.lines().map(places).collect()
    };
    let wide = of("ABCDEFGHIJKLMN.A", u64::MAX, "123456789.123456789");
    let narrow = of("B", 7, "190.4501");
    let lines = columns(&[wide.clone(), narrow.clone()]);
    assert!(lines.len() == 3 && lines.iter().all(|line| *line == lines[0]), "{lines:?}");
    let grown = columns(&[narrow.clone(), wide, narrow]);
    assert_eq!(grown[3], grown[2], "from the first that is wider on");
    assert_ne!(grown[1], grown[2]);
    assert_eq!(columns(&[]).len(), 1, "an answer without rows has a head");
}

#[test]
fn binary_formats_read_back_as_they_were() {
    for (kind, batch) in samples() {
        let written = |format| {
            let mut writer = RowWriter::new(format, kind, Vec::new()).unwrap();
            writer.write(&batch).unwrap();
            writer.write(&broken(&batch)).unwrap();
            Bytes::from(writer.finish().unwrap())
        };
        let parquet =
            parquet::arrow::arrow_reader::ParquetRecordBatchReader::try_new(written(Format::Parquet), 10);
        let arrow_bytes = written(Format::Arrow);
        let arrow = arrow_ipc::reader::StreamReader::try_new(&arrow_bytes[..], None);
        let read = [parquet.unwrap().next(), arrow.unwrap().next()];
        let batch = batch.rows;
        for rows in read {
            let rows = rows.unwrap().unwrap();
            if let (Kind::Trade, Some(updates)) = (kind, rows.column_by_name("update")) {
                assert!(updates.is_null(0), "a trade that stands has none");
            }
            let read = TickBatch::from_record_batch(kind, rows).unwrap();
            if kind == Kind::Bar {
                assert_eq!(read.rows().unwrap().bar(0).unwrap(), batch.rows().unwrap().bar(0).unwrap());
            } else {
                assert_eq!(read.rows().unwrap().tick(0).unwrap(), batch.rows().unwrap().tick(0).unwrap());
            }
        }
    }
    assert_eq!(
        "xlsx".parse::<Format>().unwrap_err().to_string(),
        "\"xlsx\" is no format: write table, csv, json, ndjson, parquet or arrow"
    );
    let names: HashSet<_> =
        Format::ALL.iter().map(|format| format.name().parse::<Format>().unwrap().name()).collect();
    assert_eq!(names.len(), Format::ALL.len());
}
