//! What every warm store does, whatever it is made of: each function is one behaviour, called with
//! an empty store by every backend's tests.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use futures_util::stream;
use futures_util::{StreamExt, TryStreamExt};
use proptest::prelude::*;

use super::{ArchiveSource, Block, Mark, Query, Unit, Warm, WarmError};
use crate::market::{
    Bar, Kind, NO_SYMBOL, RowDigest, Rows, Seq, Symbol, SymbolTable, Tick, TickBatch, TickBatchBuilder,
    TimeRange, Timestamp, TradingDay, arbitrary,
};

/// Partitions of the log that the cases come from.
pub(crate) const PARTITIONS: u16 = 2;

/// Ticks of a log in the order of their arrival, cut into records and those into blocks.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Each block: its partition, and its records.
    pub(crate) blocks: Vec<(u16, Vec<Vec<Tick>>)>,
}

/// Any log, cut anyhow.
pub(crate) fn case() -> impl Strategy<Value = Case> {
    let record = prop::collection::vec(arbitrary::tick(), 0..6);
    let block = (0..PARTITIONS, prop::collection::vec(record, 0..4));
    prop::collection::vec(block, 0..8).prop_map(|mut blocks| {
        for (partition, records) in &mut blocks {
            for record in records {
                record.retain(|tick| {
                    tick.symbol().is_none_or(|symbol| symbol.partition(PARTITIONS) == *partition)
                });
            }
        }
        Case { blocks }
    })
}

/// What may be asked: of a kind, of some symbols, over a time.
pub(crate) fn query() -> impl Strategy<Value = Query> {
    let symbols = prop::option::of(prop::collection::btree_set(arbitrary::symbol(), 0..7));
    let range = prop_oneof![
        Just(TimeRange::ALL),
        (arbitrary::timestamp(), arbitrary::timestamp()).prop_map(|(from, to)| TimeRange { from, to }),
        (0_i64..50, 0_i64..60).prop_map(|(from, len)| {
            let from = Timestamp::from_nanos(1_499_693_400_000_000_000 + from);
            TimeRange { from, to: from.saturating_add_nanos(len) }
        }),
    ];
    let first_offsets = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(0_u64..12, 1..3)];
    (prop::sample::select(&Kind::ALL[..7]), symbols, range, first_offsets).prop_map(
        |(kind, symbols, range, first_offsets)| Query {
            kind,
            symbols: symbols.map(|symbols| symbols.into_iter().collect()),
            range,
            archived: std::collections::BTreeMap::new(),
            first_offsets,
        },
    )
}

/// A row as it is compared.
pub(crate) type Row = (Option<Symbol>, Timestamp, Seq, Tick);

impl Case {
    /// The blocks, and all rows in them.
    pub(crate) fn blocks(&self) -> (Vec<Block>, Vec<Row>) {
        let mut table = SymbolTable::default();
        let mut next_offsets = [0_u64; PARTITIONS as usize];
        let (mut blocks, mut rows) = (Vec::new(), Vec::new());
        for (partition, records) in &self.blocks {
            let next = &mut next_offsets[usize::from(*partition)];
            let first_offset = *next;
            let mut builder = TickBatchBuilder::new(*partition);
            for record in records {
                for (index, tick) in (0..).zip(record) {
                    let seq = Seq { partition: *partition, offset: *next, index };
                    let symbol = tick.symbol().map_or(NO_SYMBOL, |symbol| table.intern(symbol));
                    builder.push(symbol, seq, tick);
                    rows.push((tick.symbol(), tick.ts(), seq, tick.clone()));
                }
                *next += 1;
            }
            blocks.push(Block {
                partition: *partition,
                first_offset,
                next_offset: *next,
                batches: builder.finish(&table),
                checkpoint: Bytes::from(format!("state at {next}")),
                seam: None,
            });
        }
        (blocks, rows)
    }
}

/// The rows that `query` asks for, in the order a scan gives them.
pub(crate) fn expected(rows: &[Row], query: &Query) -> Vec<Row> {
    let mut matching: Vec<Row> = rows
        .iter()
        .filter(|(symbol, ts, seq, tick)| {
            let wanted = query.symbols.as_ref();
            let first = query.first_offsets.get(usize::from(seq.partition)).copied().unwrap_or(0);
            tick.kind() == query.kind
                && seq.offset >= first
                && query.range.contains(*ts)
                && wanted.is_none_or(|wanted| symbol.is_some_and(|symbol| wanted.contains(&symbol)))
        })
        .cloned()
        .collect();
    matching.sort_by_key(|(symbol, ts, seq, _)| (*symbol, *ts, *seq));
    matching
}

fn rows_of<T>(batches: &[TickBatch], read: impl Fn(&Rows<'_>, usize) -> T) -> Vec<T> {
    let mut rows = Vec::new();
    for batch in batches {
        let view = batch.rows().expect("a stored batch can be read");
        rows.extend((0..batch.len()).map(|row| read(&view, row)));
    }
    rows
}

/// All ticks of a scan.
pub(crate) async fn scanned(warm: &dyn Warm, query: &Query) -> Result<Vec<Row>, WarmError> {
    let batches: Vec<TickBatch> = warm.scan(query).await?.rows.try_collect().await?;
    Ok(rows_of(&batches, |view, row| {
        (view.symbol(row), view.ts(row), view.seq(row), view.tick(row).expect("a stored tick"))
    }))
}

/// All bars of a scan.
pub(crate) async fn scanned_bars(warm: &dyn Warm, query: &Query) -> Result<Vec<(Seq, Bar)>, WarmError> {
    let batches: Vec<TickBatch> = warm.scan(query).await?.rows.try_collect().await?;
    Ok(rows_of(&batches, |view, row| view.bar(row).expect("a stored bar")))
}

fn all(kind: Kind) -> Query {
    Query::new(kind, None, TimeRange::ALL)
}

/// An empty store stands at offset 0 everywhere and holds nothing.
pub(crate) async fn empty_store_stands_at_zero(warm: &dyn Warm) {
    assert_eq!(warm.mark(0).await.unwrap(), Mark::default());
    assert_eq!(warm.mark(7).await.unwrap(), Mark::default());
    for kind in Kind::ALL {
        let scan = warm.scan(&all(kind)).await.unwrap();
        assert!(scan.next_offsets.iter().all(|offset| *offset == 0));
        assert!(scan.rows.try_collect::<Vec<_>>().await.unwrap().is_empty());
    }
}

/// A block is taken only at the high-water mark; a refused one leaves nothing.
pub(crate) async fn blocks_follow_on_each_other(warm: &dyn Warm) {
    let block = |first_offset, next_offset, state: &'static str| {
        let mut table = SymbolTable::default();
        let mut builder = TickBatchBuilder::new(1);
        let close = crate::market::PrevClose {
            symbol: "AAPL".parse().unwrap(),
            ts: Timestamp::from_nanos(1_499_693_400_000_000_000),
            recv_ts: Timestamp::from_nanos(1_499_693_400_000_000_001),
            price: crate::market::Price::from_ten_thousandths(first_offset as i64).unwrap(),
        };
        let symbol = table.intern(close.symbol);
        builder.push(symbol, Seq { partition: 1, offset: first_offset, index: 0 }, &Tick::PrevClose(close));
        let checkpoint = Bytes::from_static(state.as_bytes());
        Block {
            partition: 1,
            first_offset,
            next_offset,
            batches: builder.finish(&table),
            checkpoint,
            seam: None,
        }
    };
    warm.commit(block(0, 10, "ten")).await.unwrap();
    for (first, next) in [(0, 10), (9, 12), (11, 12)] {
        let refused = warm.commit(block(first, next, "refused")).await.unwrap_err();
        let WarmError::NotNext { partition: 1, first_offset, next_offset: 10 } = refused else {
            panic!("{refused}");
        };
        assert_eq!(first_offset, first);
    }
    assert_eq!(warm.mark(1).await.unwrap(), Mark { next_offset: 10, checkpoint: "ten".into(), seam: None });
    warm.commit(block(10, 11, "eleven")).await.unwrap();
    assert_eq!(
        warm.mark(1).await.unwrap(),
        Mark { next_offset: 11, checkpoint: "eleven".into(), seam: None }
    );
    assert_eq!(warm.mark(0).await.unwrap(), Mark::default());
    let scan = warm.scan(&all(Kind::PrevClose)).await.unwrap();
    assert_eq!(scan.next_offsets.get(1), Some(&11));
    drop(scan);
    assert_eq!(scanned(warm, &all(Kind::PrevClose)).await.unwrap().len(), 2);
}

/// A block without rows moves the mark all the same.
pub(crate) async fn empty_block_moves_the_mark(warm: &dyn Warm) {
    let block = |first_offset, next_offset, checkpoint| Block {
        partition: 0,
        first_offset,
        next_offset,
        batches: Vec::new(),
        checkpoint,
        seam: None,
    };
    warm.commit(block(0, 3, Bytes::from_static(b"three"))).await.unwrap();
    assert_eq!(warm.mark(0).await.unwrap(), Mark { next_offset: 3, checkpoint: "three".into(), seam: None });
    warm.commit(block(3, 4, Bytes::new())).await.unwrap();
    assert_eq!(warm.mark(0).await.unwrap(), Mark { next_offset: 4, checkpoint: Bytes::new(), seam: None });
}

/// Stores the case.
pub(crate) async fn store(warm: &dyn Warm, case: &Case) -> Vec<Row> {
    let (blocks, rows) = case.blocks();
    for block in blocks {
        warm.commit(block).await.unwrap();
    }
    rows
}

/// A scan gives exactly what matches, in order, each row once.
pub(crate) async fn scans_give_what_matches(warm: &dyn Warm, rows: &[Row], query: &Query) {
    assert_eq!(scanned(warm, query).await.unwrap(), expected(rows, query), "{query:?}");
}

/// A scan shows the store as it was when it was asked.
pub(crate) async fn scan_is_a_snapshot(warm: &dyn Warm, case: &Case) {
    let (mut blocks, rows) = case.blocks();
    let later = blocks.split_off(blocks.len() / 2);
    let mut marks = [0; PARTITIONS as usize];
    for block in blocks {
        marks[usize::from(block.partition)] = block.next_offset;
        warm.commit(block).await.unwrap();
    }
    let scan = warm.scan(&all(Kind::Quote)).await.unwrap();
    for block in later {
        warm.commit(block).await.unwrap();
    }
    let next = |partition: u16| scan.next_offsets.get(usize::from(partition)).copied().unwrap_or(0);
    for partition in 0..PARTITIONS {
        assert_eq!(next(partition), marks[usize::from(partition)]);
    }
    let before: Vec<Row> =
        rows.into_iter().filter(|(_, _, seq, _)| seq.offset < next(seq.partition)).collect();
    let batches: Vec<TickBatch> = scan.rows.try_collect().await.unwrap();
    let found = rows_of(&batches, |view, row| (view.symbol(row), view.seq(row)));
    let wanted = expected(&before, &all(Kind::Quote)).into_iter().map(|(symbol, _, seq, _)| (symbol, seq));
    assert_eq!(found, wanted.collect::<Vec<_>>());
}

/// Of a bar's revisions the latest is always there, and bars come in order.
pub(crate) async fn bars_keep_their_latest_revision(warm: &dyn Warm) {
    let ts: Timestamp = "2026-11-20T05:00:00Z".parse().unwrap();
    let day: TradingDay = ts.trading_day();
    assert_eq!(day.start(), ts);
    let mut latest = Vec::new();
    for revision in 0_u64..40 {
        let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(0));
        latest.clear();
        for name in ["AAPL", "MSFT"] {
            for timeframe in [crate::market::Timeframe::MINUTE, crate::market::Timeframe::Day] {
                let mut bar = Bar::empty(name.parse().unwrap(), timeframe, ts);
                (bar.volume, bar.trade_count) = (100 * (revision + 1), revision + 1);
                let seq = Seq { partition: 0, offset: revision, index: latest.len() as u32 };
                builder.push_bar(table.intern(bar.symbol), seq, &bar);
                latest.push((seq, bar));
            }
        }
        let block = Block {
            partition: 0,
            first_offset: revision,
            next_offset: revision + 1,
            batches: builder.finish(&table),
            checkpoint: Bytes::new(),
            seam: None,
        };
        warm.commit(block).await.unwrap();
    }
    let mut found = scanned_bars(warm, &all(Kind::Bar)).await.unwrap();
    assert!(found.is_sorted_by_key(|(seq, bar)| (bar.symbol, bar.ts, *seq)));
    found.retain(|row| latest.contains(row));
    found.sort_by_key(|(seq, _)| *seq);
    assert_eq!(found, latest);
}

/// A bar that is rebuilt after a correction stands at the last record before its block: that is where
/// the archive finds it, and what it is dropped by.
pub(crate) async fn a_rebuilt_bar_is_archived_by_its_place(warm: &dyn ArchiveSource) {
    let ts: Timestamp = "2026-11-20T05:00:00Z".parse().unwrap();
    let unit = Unit { day: ts.trading_day(), kind: Kind::Bar };
    let block = |first_offset, next_offset, bar: Option<Seq>| {
        let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(0));
        if let Some(seq) = bar {
            let bar = Bar::empty("AAPL".parse().unwrap(), crate::market::Timeframe::MINUTE, ts);
            builder.push_bar(table.intern(bar.symbol), seq, &bar);
        }
        let batches = builder.finish(&table);
        Block { partition: 0, first_offset, next_offset, batches, checkpoint: Bytes::new(), seam: None }
    };
    warm.commit(block(0, 4, None)).await.unwrap();
    let rebuilt = Seq { partition: 0, offset: 3, index: u32::MAX };
    warm.commit(block(4, 4, Some(rebuilt))).await.unwrap();
    warm.commit(block(4, 9, None)).await.unwrap();
    let of_partition = |offsets: std::ops::Range<u64>| vec![offsets];
    assert_eq!(warm.digest(unit, &of_partition(4..9)).await.unwrap().rows, 0);
    assert_eq!(warm.digest(unit, &of_partition(0..4)).await.unwrap().rows, 1);
    let exported: Vec<TickBatch> =
        warm.export(unit, &of_partition(0..4)).await.unwrap().try_collect().await.unwrap();
    assert_eq!(exported.iter().map(TickBatch::len).sum::<usize>(), 1);
    assert_eq!(warm.drop_rows(unit, &[4]).await.unwrap(), 0);
    assert_eq!(warm.units().await.unwrap(), []);
}

/// A claim tells where the partition stands, and commits go on from there.
pub(crate) async fn claim_tells_where_it_stands(warm: &dyn Warm) {
    let block = |first_offset, next_offset, state: &'static str| Block {
        partition: 1,
        first_offset,
        next_offset,
        batches: Vec::new(),
        checkpoint: Bytes::from_static(state.as_bytes()),
        seam: None,
    };
    assert_eq!(warm.claim(1).await.unwrap(), Mark::default());
    assert_eq!(warm.claim(1).await.unwrap(), Mark::default());
    warm.commit(block(0, 4, "four")).await.unwrap();
    let four = Mark { next_offset: 4, checkpoint: "four".into(), seam: None };
    assert_eq!(warm.claim(1).await.unwrap(), four);
    assert_eq!(warm.mark(1).await.unwrap(), four);
    warm.commit(block(4, 4, "still four")).await.unwrap();
    warm.commit(block(4, 9, "nine")).await.unwrap();
    assert_eq!(warm.claim(1).await.unwrap(), Mark { next_offset: 9, checkpoint: "nine".into(), seam: None });
    assert_eq!(warm.claim(0).await.unwrap(), Mark::default());
}

/// Of two processes that share the store, who claimed a partition last is its only writer.
///
/// For stores that several processes can have open.
pub(crate) async fn a_claim_fences_who_claimed_before(
    first: &dyn Warm,
    second: &dyn Warm,
    one: &Case,
    other: &Case,
) {
    let of_zero = |case: &Case| {
        let blocks: Vec<_> = case.blocks.iter().filter(|(partition, _)| *partition == 0).cloned().collect();
        Case { blocks }.blocks()
    };
    let ((before, rows), (refused, _)) = (of_zero(one), of_zero(other));
    first.claim(0).await.unwrap();
    let mut mark = Mark::default();
    for block in before {
        mark = Mark { next_offset: block.next_offset, checkpoint: block.checkpoint.clone(), seam: None };
        first.commit(block).await.unwrap();
    }
    assert_eq!(second.claim(0).await.unwrap(), mark);
    let shifted = |mut block: Block| {
        // The offsets that come next, whatever rows there are in it: they must not count.
        let len = block.next_offset - block.first_offset;
        (block.first_offset, block.next_offset) = (mark.next_offset, mark.next_offset + len);
        block
    };
    for block in refused.into_iter().map(shifted).chain([Block {
        partition: 0,
        first_offset: mark.next_offset,
        next_offset: mark.next_offset + 1,
        batches: Vec::new(),
        checkpoint: Bytes::new(),
        seam: None,
    }]) {
        let error = first.commit(block).await.unwrap_err();
        assert!(matches!(error, WarmError::Fenced { partition: 0 }), "{error}");
    }
    for kind in &Kind::ALL[..7] {
        let query = all(*kind);
        assert_eq!(scanned(second, &query).await.unwrap(), expected(&rows, &query), "{}", kind.name());
    }
    let next = Block {
        partition: 0,
        first_offset: mark.next_offset,
        next_offset: mark.next_offset + 2,
        batches: Vec::new(),
        checkpoint: Bytes::from_static(b"second"),
        seam: None,
    };
    second.commit(next).await.unwrap();
    let mark = Mark { next_offset: mark.next_offset + 2, checkpoint: "second".into(), seam: None };
    // And back again: a fenced process may claim anew.
    assert_eq!(first.claim(0).await.unwrap(), mark);
    assert_eq!(second.mark(0).await.unwrap(), mark);
}

/// The rows of each unit.
pub(crate) fn by_unit(rows: &[Row]) -> BTreeMap<Unit, Vec<Row>> {
    let mut units: BTreeMap<Unit, Vec<Row>> = BTreeMap::new();
    for row in rows {
        let unit = Unit { day: row.1.trading_day(), kind: row.3.kind() };
        units.entry(unit).or_default().push(row.clone());
    }
    units
}

/// The rows as batches, as they could come out of an archive.
pub(crate) fn as_batches(rows: &[Row]) -> Vec<TickBatch> {
    let mut batches = Vec::new();
    for partition in rows.iter().map(|(_, _, seq, _)| seq.partition).collect::<BTreeSet<_>>() {
        let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(partition));
        for (symbol, _, seq, tick) in rows.iter().filter(|(_, _, seq, _)| seq.partition == partition) {
            builder.push(symbol.map_or(NO_SYMBOL, |symbol| table.intern(symbol)), *seq, tick);
        }
        batches.extend(builder.finish(&table).into_iter().map(|(_, batch)| batch));
    }
    batches
}

fn digest_of(batches: &[TickBatch]) -> RowDigest {
    let mut digest = RowDigest::default();
    batches.iter().for_each(|batch| digest.add(batch.digest()));
    digest
}

fn is_within(seq: Seq, offsets: &[Range<u64>]) -> bool {
    offsets.get(usize::from(seq.partition)).is_some_and(|range| range.contains(&seq.offset))
}

/// The offset after the last of each partition.
fn ends(rows: &[Row]) -> Vec<u64> {
    let end = |partition| {
        let offsets = rows.iter().filter(|(_, _, seq, _)| seq.partition == partition);
        offsets.map(|(_, _, seq, _)| seq.offset + 1).max().unwrap_or(0)
    };
    (0..PARTITIONS).map(end).collect()
}

/// Units, digests and exports are those of the rows that were stored.
pub(crate) async fn units_are_what_was_stored(warm: &dyn ArchiveSource, rows: &[Row]) {
    let units = by_unit(rows);
    let told = warm.units().await.unwrap();
    let found: Vec<_> = told.iter().map(|info| (info.unit, info.rows)).collect();
    assert_eq!(found, units.iter().map(|(unit, rows)| (*unit, rows.len() as u64)).collect::<Vec<_>>());
    assert!(told.iter().all(|info| info.bytes > 0 && info.written_at > Timestamp::from_nanos(0)));
    let ends = ends(rows);
    let whole: Vec<Range<u64>> = ends.iter().map(|end| 0..*end).collect();
    let middle: Vec<Range<u64>> = ends.iter().map(|end| end / 3..end * 2 / 3 + 1).collect();
    for (unit, rows) in &units {
        for offsets in [&whole[..], &middle, &whole[..1], &[]] {
            let wanted: Vec<Row> =
                rows.iter().filter(|(_, _, seq, _)| is_within(*seq, offsets)).cloned().collect();
            let digest = warm.digest(*unit, offsets).await.unwrap();
            assert_eq!(digest, digest_of(&as_batches(&wanted)), "{unit} at {offsets:?}");
            let exported: Vec<TickBatch> =
                warm.export(*unit, offsets).await.unwrap().try_collect().await.unwrap();
            assert_eq!(digest_of(&exported), digest, "{unit} at {offsets:?}");
            let exported = rows_of(&exported, |view, row| {
                (view.symbol(row), view.ts(row), view.seq(row), view.tick(row).unwrap())
            });
            assert_eq!(exported, expected(&wanted, &all(unit.kind)), "{unit} at {offsets:?}");
            let first = warm.first_offsets(*unit, offsets).await.unwrap();
            for (partition, (first, offsets)) in (0..).zip(first.iter().zip(offsets)) {
                let offset = |(_, _, seq, _): &Row| (seq.partition == partition).then_some(seq.offset);
                let expected = wanted.iter().filter_map(offset).min().unwrap_or(offsets.end);
                assert!(offsets.start <= *first && *first <= expected, "{unit}: {first}, {expected}");
            }
            assert_eq!(first.len(), offsets.len());
        }
    }
}

/// The store's own digest of bars is that of the batches they came in.
pub(crate) async fn bars_have_their_digest(warm: &dyn ArchiveSource, bars: &[Bar]) {
    let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(0));
    for (index, bar) in (0..).zip(bars) {
        builder.push_bar(table.intern(bar.symbol), Seq { partition: 0, offset: 0, index }, bar);
    }
    let batches = builder.finish(&table);
    let (first_offset, checkpoint) = (0, Bytes::new());
    let block = Block {
        partition: 0,
        first_offset,
        next_offset: 1,
        batches: batches.clone(),
        checkpoint,
        seam: None,
    };
    warm.commit(block).await.unwrap();
    for (day, batch) in &batches {
        let unit = Unit { day: *day, kind: Kind::Bar };
        assert_eq!(warm.digest(unit, std::slice::from_ref(&(0..1))).await.unwrap(), batch.digest());
    }
    let stored = scanned_bars(warm, &all(Kind::Bar)).await.unwrap();
    let mut stored: Vec<_> = stored.into_iter().map(|(seq, bar)| (seq.index, bar)).collect();
    stored.sort_by_key(|(index, _)| *index);
    assert_eq!(stored, (0..).zip(bars.iter().copied()).collect::<Vec<_>>());
}

/// What is read from the archive instead is left out of a scan, by day, partition and offset.
pub(crate) async fn archived_rows_are_left_out(warm: &dyn Warm, rows: &[Row]) {
    let ends = ends(rows);
    for (unit, _) in by_unit(rows) {
        for floors in [vec![], vec![ends[0] / 2], vec![0, ends[1] / 2], ends.clone(), vec![u64::MAX; 9]] {
            let mut query = all(unit.kind);
            query.archived.insert(unit.day, floors.clone());
            let below = |ts: &Timestamp, seq: &Seq| {
                let floor = floors.get(usize::from(seq.partition)).copied().unwrap_or(0);
                ts.trading_day() == unit.day && seq.offset < floor
            };
            let wanted: Vec<Row> = rows.iter().filter(|(_, ts, seq, _)| !below(ts, seq)).cloned().collect();
            assert_eq!(scanned(warm, &query).await.unwrap(), expected(&wanted, &query), "{unit} {floors:?}");
        }
    }
}

/// A tick of the unit at the end of `partition`, as a late one.
async fn store_late(warm: &dyn Warm, rows: &mut Vec<Row>, like: &Row) {
    let (symbol, ts, seq, tick) = like;
    let mark = warm.mark(seq.partition).await.unwrap();
    let seq = Seq { partition: seq.partition, offset: mark.next_offset, index: 0 };
    let late = (*symbol, *ts, seq, tick.clone());
    let batches = as_batches(std::slice::from_ref(&late)).into_iter();
    let block = Block {
        partition: seq.partition,
        first_offset: seq.offset,
        next_offset: seq.offset + 1,
        batches: batches.map(|batch| (ts.trading_day(), batch)).collect(),
        checkpoint: Bytes::from_static(b"late"),
        seam: None,
    };
    warm.commit(block).await.unwrap();
    rows.push(late);
}

/// `offsets` without the zeroes at its end, which say nothing.
fn trimmed(mut offsets: Vec<u64>) -> Vec<u64> {
    while offsets.last() == Some(&0) {
        offsets.pop();
    }
    offsets
}

/// Rows that are dropped are gone for later scans, remembered, and come back by a restore, whole;
/// what came late stays all the while. `rows` are all that was stored before.
pub(crate) async fn dropped_rows_come_back_by_a_restore(warm: &dyn ArchiveSource, rows: &[Row]) {
    let mut rows = rows.to_vec();
    let Some((unit, of_unit)) = by_unit(&rows).into_iter().max_by_key(|(_, rows)| rows.len()) else { return };
    let ends_before = ends(&rows);
    let next: Vec<u64> = {
        let mut next = Vec::new();
        for partition in 0..PARTITIONS {
            next.push(warm.mark(partition).await.unwrap().next_offset);
        }
        next
    };
    assert!(next.iter().zip(&ends_before).all(|(next, end)| next >= end));
    let whole: Vec<Range<u64>> = next.iter().map(|next| 0..*next).collect();
    let exported: Vec<TickBatch> = warm.export(unit, &whole).await.unwrap().try_collect().await.unwrap();
    let digest = warm.digest(unit, &whole).await.unwrap();
    assert_eq!(digest, digest_of(&exported));

    // A part of them first: what is left shares files with what stays.
    let under_way = warm.scan(&all(unit.kind)).await.unwrap();
    let half: Vec<u64> = next.iter().map(|next| next / 2).collect();
    let below_half = of_unit.iter().filter(|(_, _, seq, _)| seq.offset < half[usize::from(seq.partition)]);
    let left = warm.drop_rows(unit, &half).await.unwrap();
    assert!(left <= below_half.count() as u64);
    let read = |offsets: &[u64]| {
        let mut query = all(unit.kind);
        query.archived.insert(unit.day, offsets.to_vec());
        query
    };
    let stay = |rows: &[Row], offsets: &[u64]| {
        let is_gone = |row: &&Row| {
            let floor = offsets.get(usize::from(row.2.partition)).copied().unwrap_or(0);
            row.1.trading_day() == unit.day && row.3.kind() == unit.kind && row.2.offset < floor
        };
        rows.iter().filter(|row| !is_gone(row)).cloned().collect::<Vec<Row>>()
    };
    let query = read(&half);
    assert_eq!(scanned(warm, &query).await.unwrap(), expected(&stay(&rows, &half), &query));
    let scan = warm.scan(&query).await.unwrap();
    let dropped = scan.dropped.get(&unit.day).cloned().unwrap_or_default();
    assert_eq!(trimmed(dropped), trimmed(half.clone()));
    drop(scan);

    // A late row, then all that was before it.
    let late_like = of_unit[0].clone();
    store_late(warm, &mut rows, &late_like).await;
    warm.drop_rows(unit, &next).await.unwrap();
    let seen: Vec<TickBatch> = under_way.rows.try_collect().await.unwrap();
    assert_eq!(seen.iter().map(TickBatch::len).sum::<usize>(), expected(&rows, &all(unit.kind)).len() - 1);
    let query = read(&next);
    assert_eq!(scanned(warm, &query).await.unwrap(), expected(&stay(&rows, &next), &query));
    let scan = warm.scan(&query).await.unwrap();
    assert_eq!(trimmed(scan.dropped[&unit.day].clone()), trimmed(next.clone()));
    assert!(scan.restored.is_empty());
    drop(scan);
    for other in Kind::ALL.into_iter().filter(|kind| *kind != unit.kind) {
        assert!(warm.scan(&all(other)).await.unwrap().dropped.is_empty());
    }
    // Lower offsets than before take nothing back.
    warm.drop_rows(unit, &half).await.unwrap();
    assert_eq!(scanned(warm, &query).await.unwrap(), expected(&stay(&rows, &next), &query));

    // Twice: the second replaces what the first brought.
    for _ in 0..2 {
        let again = stream::iter(exported.clone()).map(Ok).boxed();
        warm.restore(unit, &next, again).await.unwrap();
        for query in [&query, &all(unit.kind)] {
            assert_eq!(scanned(warm, query).await.unwrap(), expected(&rows, query));
        }
        let scan = warm.scan(&query).await.unwrap();
        assert_eq!(scan.restored, BTreeSet::from([unit.day]));
        assert!(!scan.dropped.contains_key(&unit.day));
        drop(scan);
        assert_eq!(warm.digest(unit, &whole).await.unwrap(), digest);
    }

    // A restore that breaks off changes nothing.
    let broken = WarmError::Io { path: "the archive".to_owned(), reason: "is away".to_owned() };
    let first = exported.first().cloned();
    let cut_off = stream::iter(first.map(Ok).into_iter().chain([Err(broken)])).boxed();
    warm.restore(unit, &next, cut_off).await.unwrap_err();
    assert_eq!(scanned(warm, &query).await.unwrap(), expected(&rows, &query));

    // And gone again, the late row too.
    let mut all_of_it = next.clone();
    all_of_it[usize::from(late_like.2.partition)] += 1;
    assert_eq!(warm.drop_rows(unit, &all_of_it).await.unwrap(), 0);
    let query = read(&all_of_it);
    let scan = warm.scan(&query).await.unwrap();
    assert!(scan.restored.is_empty());
    assert_eq!(trimmed(scan.dropped[&unit.day].clone()), trimmed(all_of_it.clone()));
    drop(scan);
    assert_eq!(scanned(warm, &query).await.unwrap(), expected(&stay(&rows, &all_of_it), &query));
    assert!(warm.units().await.unwrap().iter().all(|info| info.unit != unit));
    store_late(warm, &mut rows, &late_like).await;
    assert_eq!(scanned(warm, &query).await.unwrap(), expected(&stay(&rows, &all_of_it), &query));
}
