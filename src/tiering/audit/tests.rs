//! An audit finds what was done to a chain, where it was done, and nothing else.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::bus::epoch::LogEpoch;
use crate::bus::{Bounds, BusReader, Durable, Record};
use crate::market::{
    Conditions, Exchange, Gap, GapKind, NO_SYMBOL, Price, Seq, Symbol, SymbolTable, Tape, Tick,
    TickBatchBuilder, Trade, arbitrary,
};
use crate::tiering::archive::run::Archiver;
use crate::tiering::archive::{ArchiveMetrics, ArchiveOptions, Clock};
use crate::tiering::cold::dir::DirCold;
use crate::tiering::cold::{
    Availability, ColdError, ObjectInfo, RestoreTier, StorageClass, Transition, Upload,
};
use crate::tiering::history::tests::FakeBus;
use crate::tiering::state::PartitionState;
use crate::tiering::warm::conformance::PARTITIONS;
use crate::tiering::warm::local::{LocalWarm, LocalWarmOptions};
use crate::tiering::warm::{Block, Warm};
use crate::wire::record::{Origin, RecordEncoder, RecordView};

/// What becomes of a row on its way from the log to warm.
type Fate<'a> = &'a (dyn Fn(Seq, Tick) -> Option<Tick> + Sync);

struct World {
    dir: TempDir,
    bus: Arc<FakeBus>,
    warm: Arc<LocalWarm>,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let options = LocalWarmOptions { compaction: false };
        let warm = LocalWarm::open(&dir.path().join("warm"), options).unwrap();
        Self { dir, bus: FakeBus::new(), warm }
    }

    fn push(&self, partition: u16, producer: u64, sequence: u64, ticks: &[Tick]) -> u64 {
        let mut encoder = RecordEncoder::new();
        ticks.iter().for_each(|tick| encoder.push(tick));
        self.bus.push(partition, encoder.finish(Origin { producer, sequence }))
    }

    /// Four records of trades in each partition, by one producer.
    fn trades(&self) {
        for sequence in 0..4 {
            for partition in 0..PARTITIONS {
                let ticks: Vec<_> = (0..5).map(|id| trade(partition, 10 * sequence + id)).collect();
                self.push(partition, 7, sequence + 1, &ticks);
            }
        }
    }

    /// What a processor stores of a partition, in blocks of at most two records, `fate` aside.
    async fn store(&self, partition: u16, fate: Fate<'_>) {
        self.store_blocks(partition, 2, fate).await;
    }

    async fn store_blocks(&self, partition: u16, records_max: usize, fate: Fate<'_>) {
        loop {
            let mark = self.warm.mark(partition).await.unwrap();
            let mut state = PartitionState::restore(&mark.checkpoint).unwrap();
            let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(partition));
            let records = self.bus.from(partition, mark.next_offset).unwrap();
            let mut next_offset = mark.next_offset;
            for record in records.iter().take(records_max) {
                next_offset = record.offset + 1;
                let view = RecordView::parse(&record.bytes).unwrap();
                if !state.admit(view.origin, view.checksum()) {
                    continue;
                }
                for (index, row) in (0..).zip(view.ticks()) {
                    let seq = Seq { partition, offset: record.offset, index };
                    if let Some(tick) = fate(seq, row.unwrap().1) {
                        let symbol = tick.symbol().map_or(NO_SYMBOL, |symbol| table.intern(symbol));
                        builder.push(symbol, seq, &tick);
                    }
                }
            }
            if next_offset == mark.next_offset {
                return;
            }
            let (batches, checkpoint) = (builder.finish(&table), state.save());
            let block = Block {
                partition,
                first_offset: mark.next_offset,
                next_offset,
                batches,
                checkpoint,
                seam: None,
            };
            self.warm.commit(block).await.unwrap();
        }
    }

    async fn store_whole(&self, partition: u16) {
        self.store(partition, &|_, tick| Some(tick)).await;
    }

    async fn store_all(&self) {
        for partition in 0..PARTITIONS {
            self.store_whole(partition).await;
        }
    }

    fn cold(&self) -> std::path::PathBuf {
        self.dir.path().join("cold")
    }

    /// An archive run; days are dropped if `drops`.
    async fn archive(&self, drops: bool) {
        let options = ArchiveOptions {
            after_days: 1,
            settle: Duration::ZERO,
            keep_days: if drops { 1 } else { 36_600 },
            ..ArchiveOptions::default()
        };
        let cold = Arc::new(DirCold::open(&self.cold()).unwrap());
        let archiver =
            Archiver::new(cold, self.warm.clone(), options, Clock::default(), ArchiveMetrics::default());
        let progress: crate::tiering::archive::Progress = Arc::new(|_| {});
        assert_eq!(archiver.run(&progress).await.unwrap().failures, []);
    }

    async fn audit_of(&self, bus: Arc<dyn Bus>, selection: Selection) -> Report {
        let cold = Arc::new(DirCold::open(&self.cold()).unwrap());
        let progress: Progress = Arc::new(|_| {});
        Auditor::new(bus, self.warm.clone(), cold, selection, progress).run().await.unwrap()
    }

    /// An audit beside an archiver, which runs the moment the audit asks for what `key` begins.
    async fn audit_while(self: &Arc<Self>, key: &'static str) -> Report {
        let inner = DirCold::open(&self.cold()).unwrap();
        let cold = Arc::new(Busy { inner, world: self.clone(), key: Mutex::new(Some(key)) });
        let progress: Progress = Arc::new(|_| {});
        let auditor = Auditor::new(self.bus.clone(), self.warm.clone(), cold, Selection::default(), progress);
        auditor.run().await.unwrap()
    }

    async fn audit(&self) -> Report {
        self.audit_of(self.bus.clone(), Selection::default()).await
    }
}

const DAY: &str = "2017-07-10T14:00:00Z";

fn trade(partition: u16, id: u64) -> Tick {
    let ts: Timestamp = DAY.parse().unwrap();
    let names = ["A", "B", "C", "D", "E"].map(|name| name.parse::<Symbol>().unwrap());
    let symbol = names.into_iter().find(|symbol| symbol.partition(PARTITIONS) == partition).unwrap();
    let ts = ts.saturating_add_nanos(id as i64);
    Tick::Trade(Trade {
        symbol,
        ts,
        recv_ts: ts,
        price: Price::from_ten_thousandths(50_000).unwrap(),
        size: 100,
        exchange: Exchange::IEX,
        conditions: Conditions::NONE,
        id,
        tape: Tape::C,
    })
}

fn broken(report: &Report) -> Vec<String> {
    let broken = report.findings.iter().filter(|finding| finding.severity == Severity::Broken);
    broken.map(ToString::to_string).collect()
}

fn assert_whole(report: &Report) {
    assert_eq!(broken(report), Vec::<String>::new());
}

fn verdicts(report: &Report) -> Vec<(Kind, Verdict)> {
    report.units.iter().map(|unit| (unit.unit.kind, unit.verdict)).collect()
}

#[tokio::test]
async fn a_chain_that_holds_is_counted_on_every_side() {
    let world = World::new();
    world.trades();
    world.push(0, 7, 2, &[trade(0, 10)]);
    let gap = Gap {
        symbol: None,
        ts: DAY.parse().unwrap(),
        recv_ts: DAY.parse().unwrap(),
        kind: GapKind::Missed,
        source: "iex/1".into(),
        first: 5,
        last: 9,
    };
    for partition in 0..PARTITIONS {
        world.push(partition, 8, 3, &[Tick::Gap(Box::new(gap.clone()))]);
    }
    world.store_all().await;
    world.push(1, 7, 6, &[trade(1, 99)]);
    let report = world.audit().await;
    assert_eq!(report.findings, []);
    assert_eq!(verdicts(&report), [(Kind::Trade, Verdict::Holds), (Kind::Gap, Verdict::Holds)]);
    let trades = &report.units[0];
    let rows: Vec<_> =
        trades.partitions.iter().map(|of| (of.log.rows, of.warm.unwrap().rows, of.pending)).collect();
    assert_eq!(rows, [(20, 20, 0), (20, 20, 1)]);
    assert_eq!(trades.partitions[0].offsets, 0..6);
    assert_eq!(trades.warm.unwrap().rows, 40);
    assert_eq!((report.partitions[0].records, report.partitions[0].repeats), (6, 1));
    let [first, second] = &report.producers[..] else { panic!("{:?}", report.producers) };
    assert_eq!(
        (first.batches, first.missing(), first.first_missing, first.repeats),
        (Some(5), 1, Some(5), 1)
    );
    assert_eq!((second.first, second.last, second.records), (3, 3, 2));
    // It stands in both partitions, and is one.
    assert_eq!(report.gaps, [(gap.ts.trading_day(), gap)]);

    world.archive(false).await;
    let report = world.audit().await;
    assert_whole(&report);
    let manifest = &report.units[0].manifests[0];
    assert_eq!((manifest.warm, manifest.log, manifest.digest.rows), (Some(true), Some(true), 40));
    assert_eq!(report.units[0].warm.unwrap().rows, 40);

    world.archive(true).await;
    let report = world.audit().await;
    assert_whole(&report);
    let trades = &report.units[0];
    let manifest = &trades.manifests[0];
    assert_eq!((manifest.warm, manifest.log, trades.warm.unwrap().rows), (None, Some(true), 0));
    assert_eq!(trades.verdict, Verdict::Holds);
    // Once the log has gone too, the archive has the only copy.
    (0..PARTITIONS).for_each(|partition| world.bus.trim(partition, 5));
    let report = world.audit().await;
    assert_whole(&report);
    assert_eq!(report.units[0].verdict, Verdict::Alone);
}

#[tokio::test]
async fn a_selection_leaves_out_other_kinds_and_days() {
    let world = World::new();
    world.trades();
    world.store_all().await;
    let other = TradingDay::from_days_since_epoch(5);
    for selection in [
        Selection { kinds: vec![Kind::Quote], ..Selection::default() },
        Selection { to: Some(other), ..Selection::default() },
    ] {
        assert_eq!(world.audit_of(world.bus.clone(), selection).await.units, []);
    }
}

/// Ticks of partition 0 in records, which are stored at once but for those repeated.
fn logs() -> impl Strategy<Value = Vec<(u64, bool, Vec<Tick>)>> {
    let record = (0_u64..3, any::<bool>(), prop::collection::vec(arbitrary::tick(), 1..6));
    prop::collection::vec(record, 1..20)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// A row that warm lacks is named with its record; where none is lacking nothing is, whatever is
    /// repeated and trimmed.
    #[test]
    fn a_lost_row_is_named_with_its_offset(
        log in logs(),
        lost in any::<prop::sample::Index>(),
        trimmed in any::<prop::sample::Index>(),
        trims in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let mut sequences = [0; 3];
            let (mut rows, mut repeated) = (Vec::new(), BTreeSet::new());
            for (producer, repeats, mut ticks) in log {
                ticks.retain(|tick| tick.symbol().is_none_or(|symbol| symbol.partition(PARTITIONS) == 0));
                let sequence = &mut sequences[producer as usize];
                *sequence += 1;
                let offset = world.push(0, producer, *sequence, &ticks);
                rows.extend((0..).zip(&ticks).map(|(index, tick)| (offset, index, super::log::unit_of(tick))));
                if repeats {
                    world.push(0, producer, *sequence, &ticks);
                    repeated.insert(offset);
                }
            }
            let (whole, robbed) = (World { bus: world.bus.clone(), ..World::new() }, world);
            whole.store_all().await;
            let lost = (!rows.is_empty()).then(|| *lost.get(&rows));
            robbed
                .store(0, &|seq, tick| Some(tick).filter(|_| lost.is_none_or(|(offset, index, _)| (seq.offset, seq.index) != (offset, index))))
                .await;
            let next = robbed.bus.bounds(0).await.unwrap().next;
            let first = if trims { trimmed.index(next as usize + 1) as u64 } else { 0 };
            robbed.bus.trim(0, first);
            let report = whole.audit().await;
            prop_assert!(report.findings.is_empty(), "{:?}", report.findings);
            let report = robbed.audit().await;
            let Some((offset, _, unit)) = lost else { return Ok(()) };
            let told: Vec<_> = report.findings.iter().map(|of| (of.unit, of.partition, of.offsets.clone())).collect();
            let named = (Some(unit), Some(0), Some(offset..offset + 1));
            if offset < first {
                // The log has it still where it was sent again.
                let is_held = repeated.contains(&offset) && offset + 1 == first;
                prop_assert!(is_held || report.findings.is_empty(), "{:?}", report.findings);
            } else {
                prop_assert!(told.contains(&named), "{named:?}: {:?}", report.findings);
                prop_assert_eq!((report.breaks(), told.len()), (1, 1));
            }
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_changed_row_is_named_and_what_to_do() {
    let world = World::new();
    world.trades();
    let cheaper = |seq: Seq, tick: Tick| match tick {
        Tick::Trade(trade) if (seq.offset, seq.index) == (2, 3) => {
            Some(Tick::Trade(Trade { size: trade.size - 1, ..trade }))
        }
        tick => Some(tick),
    };
    world.store_whole(0).await;
    world.store(1, &cheaper).await;
    let report = world.audit().await;
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert!(
        finding
            .to_string()
            .starts_with("trade of 2017-07-10, partition 1, offset 2: warm's rows are not the log's"),
        "{finding}"
    );
    assert!(finding.next.contains("log.retention_hours"), "{}", finding.next);
    let of: Vec<_> = report.units[0].partitions.iter().map(|of| of.verdict).collect();
    assert_eq!(of, [Verdict::Holds, Verdict::Broken]);

    // The archive was made from what warm held: the log says that it is not right.
    world.archive(true).await;
    let report = world.audit().await;
    assert_eq!(report.units[0].manifests[0].log, Some(false));
    assert!(broken(&report)[0].contains("the log has 40 rows"), "{:?}", report.findings);
}

#[tokio::test]
async fn rows_that_the_log_never_had_are_named() {
    let world = World::new();
    world.trades();
    let doubled = Arc::new(World { bus: FakeBus::new(), ..World::new() });
    // Another log: one row more in the second record, and a day of its own in the third.
    for sequence in 0..4 {
        let mut ticks: Vec<_> = (0..5).map(|id| trade(0, 10 * sequence + id)).collect();
        if sequence == 1 {
            ticks.push(trade(0, 1_000));
        }
        if sequence == 2 {
            let Tick::Trade(of) = trade(0, 1) else { panic!() };
            ticks.push(Tick::Trade(Trade { ts: of.ts.saturating_add_nanos(-86_400_000_000_000), ..of }));
        }
        doubled.push(0, 7, sequence + 1, &ticks);
    }
    doubled.store_whole(0).await;
    let report = doubled.audit_of(world.bus.clone(), Selection::default()).await;
    assert_eq!(
        broken(&report),
        [
            "trade of 2017-07-09: warm holds 1 rows at offsets at which the log has none",
            "trade of 2017-07-10, partition 0, offset 1: warm holds 1 rows that the log does not, which has 5",
        ]
    );
}

#[tokio::test]
async fn a_log_that_lost_its_beginning_too_early_or_its_end_is_named() {
    let world = World::new();
    world.trades();
    world.bus.trim(0, 3);
    world.store_whole(1).await;
    let report = world.audit().await;
    assert_eq!(
        broken(&report),
        [
            "partition 0, offsets 0 to 2: the log has dropped records that warm had not come to: their rows are in no store"
        ]
    );
    let report = world.audit_of(FakeBus::new(), Selection::default()).await;
    assert_eq!(
        broken(&report),
        ["partition 1, offsets 0 to 3: warm holds what the log, which ends at 0, never had or has lost"]
    );
}

/// A log without the records at `hole` of partition 0, and with noise after them.
struct Holed {
    bus: Arc<FakeBus>,
    hole: Range<u64>,
    /// Whether it drops its first two records once the noise was read.
    trims: bool,
}

struct HoledReader {
    bus: Arc<FakeBus>,
    hole: Range<u64>,
    trims: bool,
    inner: Box<dyn BusReader>,
}

#[async_trait::async_trait]
impl Bus for Holed {
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
        self.bus.bounds(partition).await
    }

    async fn reader(&self, partition: u16, from: u64) -> Result<Box<dyn BusReader>, BusError> {
        let inner = self.bus.reader(partition, from).await?;
        if partition > 0 {
            return Ok(inner);
        }
        let (bus, hole) = (self.bus.clone(), self.hole.clone());
        Ok(Box::new(HoledReader { bus, hole, trims: self.trims, inner }))
    }

    fn release(&self, _: u16, _: u64) {}
}

#[async_trait::async_trait]
impl BusReader for HoledReader {
    async fn next(&mut self, bytes_max: usize) -> Result<Vec<Record>, BusError> {
        let (offset, first) = (self.inner.offset(), self.bus.bounds(0).await?.first);
        if self.trims && first == 0 && offset > self.hole.end {
            self.bus.trim(0, 2);
            return Err(BusError::Trimmed { partition: 0, offset, first: 2 });
        }
        let mut records = self.inner.next(bytes_max).await?;
        records.retain(|record| !self.hole.contains(&record.offset));
        for record in records.iter_mut().filter(|record| record.offset == self.hole.end) {
            record.bytes = Bytes::from_static(b"\x01noise");
        }
        Ok(records)
    }

    fn offset(&self) -> u64 {
        self.inner.offset()
    }
}

#[tokio::test]
async fn a_hole_and_damage_in_the_log_are_named_and_passed_over() {
    let world = World::new();
    world.trades();
    world.store_all().await;
    let holed = Holed { bus: world.bus.clone(), hole: 1..2, trims: false };
    let report = world.audit_of(Arc::new(holed), Selection::default()).await;
    let broken = broken(&report);
    assert!(
        broken.contains(
            &"partition 0, offset 1: the log has no records there, though it has some before and after"
                .to_owned()
        ),
        "{broken:#?}"
    );
    assert!(
        broken.contains(&"partition 0, offset 2: a log record ends within the head".to_owned()),
        "{broken:#?}"
    );
    assert!(broken.contains(&"trade of 2017-07-10, partition 0, offsets 1 to 2: warm holds 10 rows that the log does not, which has 0".to_owned()), "{broken:#?}");
    assert_eq!(broken.len(), 3, "{broken:#?}");
}

#[tokio::test]
async fn what_is_found_before_a_partition_is_begun_anew_is_told_once() {
    let world = World::new();
    world.trades();
    world.store_all().await;
    // A block of which warm has kept no state that can be read.
    let at = world.push(0, 7, 5, &[]);
    let checkpoint = Bytes::from_static(b"noise");
    let block = Block {
        partition: 0,
        first_offset: at,
        next_offset: at + 1,
        batches: Vec::new(),
        checkpoint,
        seam: None,
    };
    world.warm.commit(block).await.unwrap();
    let trimming = Holed { bus: world.bus.clone(), hole: 1..3, trims: true };
    let report = world.audit_of(Arc::new(trimming), Selection::default()).await;
    assert_eq!(report.partitions[0].first, 2, "it was begun anew");
    let found: Vec<_> = report.findings.iter().filter(|of| of.unit.is_none()).collect();
    let places: Vec<_> = found.iter().map(|of| (of.link, of.offsets.clone())).collect();
    let expected = [(Link::LogWarm, None), (Link::Log, Some(2..3)), (Link::Log, Some(3..4))];
    assert_eq!(places, expected, "{found:#?}");
}

#[tokio::test]
async fn a_batch_that_was_overtaken_is_named() {
    let world = World::new();
    world.push(0, 7, 2, &[trade(0, 1)]);
    world.push(0, 7, 1, &[trade(0, 2)]);
    world.push(0, 7, 2, &[trade(0, 1)]);
    world.store_all().await;
    let report = world.audit().await;
    let [finding] = &report.findings[..] else { panic!("{:?}", report.findings) };
    assert_eq!((finding.link, finding.offsets.clone()), (Link::Feed, Some(1..2)));
    assert!(
        finding.what.starts_with("batch 1 of producer 0000000000000007 came after a later one"),
        "{finding}"
    );
}

/// A partition whose beginning is gone: what a producer sends again of it is a repeat that the log does not
/// know, and what it sends new is not.
#[tokio::test]
async fn repeats_of_what_was_trimmed_are_told_from_losses() {
    let world = World::new();
    world.push(0, 7, 1, &[trade(0, 1)]);
    world.push(0, 7, 2, &[trade(0, 2)]);
    world.push(0, 7, 2, &[trade(0, 2)]);
    world.push(0, 7, 3, &[trade(0, 3)]);
    world.push(0, 7, 4, &[trade(0, 4), trade(0, 5)]);
    let lossy = |seq: Seq, tick: Tick| Some(tick).filter(|_| (seq.offset, seq.index) != (4, 1));
    world.store(0, &lossy).await;
    world.bus.trim(0, 2);
    let report = world.audit().await;
    let found: Vec<_> = report.findings.iter().map(|of| (of.severity, of.offsets.clone())).collect();
    assert_eq!(found, [(Severity::Broken, Some(4..5))]);
    assert!(
        report.findings[0].to_string().ends_with("warm lacks 1 of the log's 2 rows"),
        "{:?}",
        report.findings
    );
}

/// A record that warm has nothing of, of a day that is nowhere else.
#[tokio::test]
async fn what_warm_lost_at_the_beginning_of_a_trimmed_log_is_named() {
    let world = World::new();
    world.push(0, 7, 1, &[trade(0, 1)]);
    world.push(0, 7, 2, &[trade(0, 2)]);
    world.store(0, &|_, _| None).await;
    world.bus.trim(0, 1);
    let report = world.audit().await;
    let found: Vec<_> = report.findings.iter().map(|of| (of.severity, of.offsets.clone())).collect();
    assert_eq!(found, [(Severity::Broken, Some(1..2))]);
    assert_eq!(verdicts(&report), [(Kind::Trade, Verdict::Broken)]);
}

/// Warm has dropped what would tell a repeat from a loss.
#[tokio::test]
async fn what_may_repeat_rows_that_are_in_the_archive_alone_is_unknown() {
    let world = World::new();
    world.push(0, 7, 1, &[trade(0, 1)]);
    world.push(0, 7, 2, &[trade(0, 2)]);
    world.store_all().await;
    world.archive(true).await;
    world.push(0, 7, 2, &[trade(0, 2)]);
    world.push(0, 7, 3, &[trade(0, 3)]);
    world.store_all().await;
    world.bus.trim(0, 2);
    let report = world.audit().await;
    let found: Vec<_> = report.findings.iter().map(|of| (of.severity, of.offsets.clone())).collect();
    assert_eq!(found, [(Severity::Unknown, Some(2..3))], "{:?}", report.findings);
    assert_eq!(verdicts(&report), [(Kind::Trade, Verdict::Unknown)]);
}

/// A producer sends only so much again: what warm lacks beyond that is lost, and warm is not asked for ever.
#[tokio::test]
async fn a_trimmed_log_does_not_hide_that_warm_lost_its_beginning() {
    const DOUBTFUL: u64 = super::log::DOUBTFUL_RECORDS_MAX;
    let world = World::new();
    world.push(0, 7, 1, &[trade(0, 0)]);
    world.store_whole(0).await;
    world.archive(true).await;
    for sequence in 1..DOUBTFUL + 9 {
        world.push(0, 7, sequence + 1, &[trade(0, sequence)]);
    }
    // Beside what is before the log's first record, the last of all.
    let kept = DOUBTFUL + 8;
    world.store_blocks(0, usize::MAX, &|seq, tick| Some(tick).filter(|_| seq.offset == kept)).await;
    world.bus.trim(0, 1);
    let report = world.audit().await;
    let found: Vec<_> = report.findings.iter().map(|of| (of.severity, of.offsets.clone())).collect();
    let lost = DOUBTFUL + 1;
    assert_eq!(found, [(Severity::Unknown, Some(1..lost)), (Severity::Broken, Some(lost..lost + 7))]);
    assert!(report.findings[1].what.ends_with("warm lacks 7 of the log's 7 rows"), "{:?}", report.findings);
}

/// The log has lost the beginning of a manifest: the rest is compared over the offsets that it still has.
#[tokio::test]
async fn a_part_of_a_manifest_is_compared_at_the_same_offsets() {
    let sound = World::new();
    sound.trades();
    sound.store_all().await;
    sound.archive(true).await;
    sound.bus.trim(1, 2);
    assert_whole(&sound.audit().await);

    let world = World::new();
    world.trades();
    world.store_whole(0).await;
    world.store(1, &|seq, tick| Some(tick).filter(|_| (seq.offset, seq.index) != (3, 1))).await;
    world.archive(false).await;
    world.bus.trim(1, 2);
    let report = world.audit().await;
    let found: Vec<_> = report.findings.iter().filter(|finding| finding.link == Link::Cold).collect();
    let [found] = found[..] else { panic!("{:?}", report.findings) };
    assert_eq!((found.partition, found.offsets.clone()), (Some(1), Some(2..4)));
    assert!(found.what.ends_with("; warm and the archive agree"), "{}", found.what);
}

/// An archive that the log's records come into, by way of warm, while it is asked for something.
struct Busy {
    inner: DirCold,
    world: Arc<World>,
    key: Mutex<Option<&'static str>>,
}

impl Busy {
    async fn asked(&self, key: &str) {
        let is_now = self.key.lock().unwrap().take_if(|of| key.starts_with(*of)).is_some();
        if is_now {
            self.world.store_all().await;
            self.world.archive(false).await;
        }
    }
}

#[async_trait::async_trait]
impl Cold for Busy {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn get(&self, key: &str) -> Result<Bytes, ColdError> {
        self.asked(key).await;
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>, ColdError> {
        self.asked(prefix).await;
        self.inner.list(prefix, after).await
    }

    async fn create(&self, _: &str, _: Bytes) -> Result<bool, ColdError> {
        unreachable!("an audit writes nothing")
    }

    async fn put(&self, _: &str, _: Bytes) -> Result<(), ColdError> {
        unreachable!("an audit writes nothing")
    }

    async fn upload(&self, _: &str) -> Result<Box<dyn Upload>, ColdError> {
        unreachable!("an audit writes nothing")
    }

    async fn get_ranges(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ColdError> {
        self.inner.get_ranges(key, ranges).await
    }

    async fn delete(&self, _: &str) -> Result<(), ColdError> {
        unreachable!("an audit writes nothing")
    }

    async fn state(&self, key: &str) -> Result<(StorageClass, Availability), ColdError> {
        self.inner.state(key).await
    }

    async fn restore(&self, _: &str, _: u32, _: RestoreTier) -> Result<(), ColdError> {
        unreachable!("an audit writes nothing")
    }

    async fn lifecycle(&self, prefix: &str) -> Result<Vec<Transition>, ColdError> {
        self.inner.lifecycle(prefix).await
    }

    async fn set_lifecycle(&self, _: &str, _: &[Transition]) -> Result<(), ColdError> {
        unreachable!("an audit writes nothing")
    }
}

#[tokio::test]
async fn a_manifest_that_came_before_the_journal_was_read_is_not_missing() {
    let world = archived_in_three().await;
    for partition in 0..PARTITIONS {
        world.push(partition, 7, 4, &[trade(partition, 1_000)]);
    }
    // Warm has it before the audit begins, so that it holds in every store.
    world.store_all().await;
    let report = Arc::new(world).audit_while("journal/").await;
    assert_eq!(report.findings, []);
    assert_eq!(report.units[0].manifests.len(), 4);
}

#[tokio::test]
async fn an_archive_of_another_log_is_not_held_against_this_one() {
    let world = archived_in_three().await;
    let other = Bytes::from_static(br#"{"version":1,"log":"0000000000000001"}"#);
    let cold = Arc::new(DirCold::open(&world.cold()).unwrap());
    cold.put(origin::LOG_KEY, other).await.unwrap();
    let progress: Progress = Arc::new(|_| {});
    let auditor = Auditor::new(world.bus.clone(), world.warm.clone(), cold, Selection::default(), progress);
    let refused = auditor.run().await.unwrap_err().to_string();
    assert!(
        refused.ends_with("holds rows of another log (0000000000000001) than this one (0000000000000007)"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_manifest_of_rows_that_warm_took_in_meanwhile_is_compared() {
    let world = World::new();
    world.trades();
    world.store_all().await;
    for partition in 0..PARTITIONS {
        world.push(partition, 7, 5, &[trade(partition, 1_000)]);
    }
    let report = Arc::new(world).audit_while("manifest/").await;
    assert_eq!(report.findings, []);
    let manifest = &report.units[0].manifests[0];
    assert_eq!((manifest.digest.rows, manifest.warm, manifest.log), (42, Some(true), None));
    assert_eq!(report.units[0].verdict, Verdict::Holds);
}

/// A log during whose reading warm drops what lies below offset 3 of partition 0.
struct Dropping(Arc<World>);

#[async_trait::async_trait]
impl Bus for Dropping {
    fn partitions(&self) -> u16 {
        self.0.bus.partitions()
    }

    fn epoch(&self) -> &LogEpoch {
        self.0.bus.epoch()
    }

    async fn append(&self, records: Vec<(u16, Bytes)>) -> Result<Durable, BusError> {
        self.0.bus.append(records).await
    }

    async fn bounds(&self, partition: u16) -> Result<Bounds, BusError> {
        self.0.bus.bounds(partition).await
    }

    async fn reader(&self, partition: u16, from: u64) -> Result<Box<dyn BusReader>, BusError> {
        let unit = Unit { day: DAY.parse::<Timestamp>().unwrap().trading_day(), kind: Kind::Trade };
        self.0.warm.drop_rows(unit, &[3]).await.unwrap();
        self.0.bus.reader(partition, from).await
    }

    fn release(&self, _: u16, _: u64) {}
}

/// The log was read in one stretch, and is to be held against warm from within it.
#[tokio::test]
async fn a_drop_at_an_offset_that_no_manifest_named_is_no_difference() {
    let world = World::new();
    world.trades();
    world.store_all().await;
    let world = Arc::new(world);
    let report = world.audit_of(Arc::new(Dropping(world.clone())), Selection::default()).await;
    assert!(report.findings.iter().all(|of| of.link == Link::Cold), "{:#?}", report.findings);
    let of = &report.units[0].partitions[0];
    assert_eq!((of.offsets.clone(), of.log.rows, of.verdict), (3..4, 5, Verdict::Holds));
    assert_eq!(of.warm, Some(of.log));
}

/// The record is looked for as long as it is a few differences; the others are told with all they lie in.
#[tokio::test]
async fn of_many_differences_the_first_are_narrowed() {
    let world = World::new();
    for day in 0..NARROWED_MAX as i64 + 2 {
        let Tick::Trade(of) = trade(0, 1) else { panic!() };
        let ticks = [0, 1].map(|id| {
            Tick::Trade(Trade { ts: of.ts.saturating_add_nanos(day * 86_400_000_000_000), id, ..of })
        });
        world.push(0, 7, day as u64 + 1, &ticks);
    }
    world.store(0, &|seq, tick| Some(tick).filter(|_| seq.index == 0)).await;
    let report = world.audit().await;
    let next = NARROWED_MAX as u64 + 2;
    let places: Vec<_> =
        (0..next).map(|at| if at < NARROWED_MAX as u64 { at..at + 1 } else { 0..next }).collect();
    let found: Vec<_> = report.findings.iter().map(|of| of.offsets.clone().unwrap()).collect();
    assert_eq!(found, places);
    assert!(broken(&report).iter().all(|of| of.ends_with("warm lacks 1 of the log's 2 rows")), "{report:#?}");
}

/// Three manifests of one day: two of them are supplements.
async fn archived_in_three() -> World {
    let world = World::new();
    for part in 0..3 {
        for partition in 0..PARTITIONS {
            world.push(partition, 7, part + 1, &[trade(partition, part), trade(partition, 100 + part)]);
        }
        world.store_all().await;
        world.archive(false).await;
    }
    world
}

fn removed(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn what_the_archive_lacks_is_named() {
    let chain = "manifest/kind=trade/date=2017-07-10";
    let world = archived_in_three().await;
    let report = world.audit().await;
    assert_whole(&report);
    assert_eq!(report.units[0].manifests.len(), 3);

    // The one in the middle.
    let middle = world.cold().join(chain).join("0001.json");
    let bytes = std::fs::read(&middle).unwrap();
    removed(&middle);
    let found = broken(&world.audit().await);
    assert_eq!(found, [format!("trade of 2017-07-10: {chain}/0001.json: it is missing, and there is 0002")]);
    std::fs::write(&middle, &bytes).unwrap();

    // One that is another's, and one that is none.
    let last = world.cold().join(chain).join("0002.json");
    let own = std::fs::read(&last).unwrap();
    std::fs::write(&last, bytes).unwrap();
    let found = broken(&world.audit().await);
    assert_eq!(
        found,
        [format!("trade of 2017-07-10: {chain}/0002.json: it is the manifest of another unit")]
    );
    std::fs::write(&last, "{").unwrap();
    let found = broken(&world.audit().await);
    assert!(found[0].starts_with(&format!("trade of 2017-07-10: {chain}/0002.json: ")), "{found:?}");

    // The last: the journal knows that there was one.
    removed(&last);
    let found = broken(&world.audit().await);
    assert_eq!(
        found,
        [format!("trade of 2017-07-10: {chain}/0002.json: it is missing, and the journal says committed")]
    );
    std::fs::write(&last, own).unwrap();
    world.archive(true).await;
    assert_whole(&world.audit().await);

    // And once warm has dropped what it covers, so does warm.
    removed(&last);
    let found = broken(&world.audit().await);
    assert_eq!(found.len(), 1 + usize::from(PARTITIONS), "{found:#?}");
    assert!(
        found.contains(
            &"trade of 2017-07-10, partition 1, offset 2: warm has dropped rows that no manifest covers"
                .to_owned()
        ),
        "{found:#?}"
    );
}

#[tokio::test]
async fn a_missing_object_and_a_damaged_segment_are_named() {
    let world = archived_in_three().await;
    let data = world.cold().join("ticks/kind=trade/date=2017-07-10");
    let object = std::fs::read_dir(&data).unwrap().next().unwrap().unwrap().path();
    let name = object.file_name().unwrap().to_string_lossy().into_owned();
    let bytes = std::fs::read(&object).unwrap();
    std::fs::write(&object, &bytes[1..]).unwrap();
    let found = broken(&world.audit().await);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(
        found[0].ends_with(&format!("it is of {} bytes, not {}", bytes.len() - 1, bytes.len())),
        "{found:?}"
    );
    removed(&object);
    let found = broken(&world.audit().await);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains(&name) && found[0].contains("names it, and it is not there"), "{found:?}");

    let segment = world.warm.segments()[0].clone();
    let path = walk(&world.dir.path().join("warm"))
        .into_iter()
        .find(|path| path.metadata().unwrap().len() == segment.bytes);
    removed(&path.unwrap());
    let found = broken(&world.audit().await);
    assert!(found.iter().any(|of| of.contains("is damaged: the file is missing")), "{found:#?}");
}

fn walk(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
