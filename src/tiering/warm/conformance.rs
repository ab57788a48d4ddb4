//! What every warm store does, whatever it is made of: each function is one behaviour, called with
//! an empty store by every backend's tests.

use bytes::Bytes;
use futures_util::TryStreamExt;
use proptest::prelude::*;

use super::{Block, Mark, Query, Warm, WarmError};
use crate::market::{
    Bar, Kind, NO_SYMBOL, Rows, Seq, Symbol, SymbolTable, Tick, TickBatch, TickBatchBuilder, TimeRange,
    Timestamp, TradingDay, arbitrary,
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
    (prop::sample::select(&Kind::ALL[..7]), symbols, range).prop_map(|(kind, symbols, range)| Query {
        kind,
        symbols: symbols.map(|symbols| symbols.into_iter().collect()),
        range,
        archived: std::collections::BTreeMap::new(),
    })
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
            });
        }
        (blocks, rows)
    }
}

/// The rows that `query` asks for, in the order a scan gives them.
pub(crate) fn expected(rows: &[Row], query: &Query) -> Vec<Row> {
    let mut matching: Vec<Row> = rows
        .iter()
        .filter(|(symbol, ts, _, tick)| {
            let wanted = query.symbols.as_ref();
            tick.kind() == query.kind
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
        Block { partition: 1, first_offset, next_offset, batches: builder.finish(&table), checkpoint }
    };
    warm.commit(block(0, 10, "ten")).await.unwrap();
    for (first, next) in [(0, 10), (9, 12), (11, 12)] {
        let refused = warm.commit(block(first, next, "refused")).await.unwrap_err();
        let WarmError::NotNext { partition: 1, first_offset, next_offset: 10 } = refused else {
            panic!("{refused}");
        };
        assert_eq!(first_offset, first);
    }
    assert_eq!(warm.mark(1).await.unwrap(), Mark { next_offset: 10, checkpoint: "ten".into() });
    warm.commit(block(10, 11, "eleven")).await.unwrap();
    assert_eq!(warm.mark(1).await.unwrap(), Mark { next_offset: 11, checkpoint: "eleven".into() });
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
    };
    warm.commit(block(0, 3, Bytes::from_static(b"three"))).await.unwrap();
    assert_eq!(warm.mark(0).await.unwrap(), Mark { next_offset: 3, checkpoint: "three".into() });
    warm.commit(block(3, 4, Bytes::new())).await.unwrap();
    assert_eq!(warm.mark(0).await.unwrap(), Mark { next_offset: 4, checkpoint: Bytes::new() });
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
        };
        warm.commit(block).await.unwrap();
    }
    let mut found = scanned_bars(warm, &all(Kind::Bar)).await.unwrap();
    assert!(found.is_sorted_by_key(|(seq, bar)| (bar.symbol, bar.ts, *seq)));
    found.retain(|row| latest.contains(row));
    found.sort_by_key(|(seq, _)| *seq);
    assert_eq!(found, latest);
}
