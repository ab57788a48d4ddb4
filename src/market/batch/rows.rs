//! Columns as rows again: the half of a batch that reads.

use std::borrow::Cow;
use std::ops::Range;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Decimal64Type, Decimal128Type, Int32Type, TimestampNanosecondType, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, DictionaryArray, Int32Array, StringArray};
use arrow_buffer::ScalarBuffer;

use super::{BatchError, Long, TickBatch, Word, code_of, layout, timeframe_of};
use crate::market::{
    Bar, Cancel, Conditions, Correction, Exchange, Gap, GapKind, Kind, PrevClose, Price, Quote, Seq, Status,
    Symbol, Tape, Tick, Timestamp, Trade, TradeTerms,
};

impl TickBatch {
    /// The rows at `offsets` (by partition; none beyond its end), in their order.
    ///
    /// Errors: a symbol that can't be read.
    pub fn at_offsets(&self, offsets: &[Range<u64>]) -> Result<Self, BatchError> {
        let keys = self.keys()?;
        let places = keys.partitions().iter().zip(keys.offsets());
        let is_wanted = |(partition, offset): (&u16, &u64)| {
            offsets.get(usize::from(*partition)).is_some_and(|range| range.contains(offset))
        };
        let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
        for (row, _) in places.enumerate().filter(|(_, place)| is_wanted(*place)) {
            match runs.last_mut() {
                Some((_, run)) if run.end == row => run.end += 1,
                _ => runs.push((0, row..row + 1)),
            }
        }
        Ok(Self::concat(self.kind(), std::slice::from_ref(self), &runs))
    }
}

/// What rows are ordered by: symbol, ts, place in the log. Rows without a symbol come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey {
    /// The symbol; `None` for a gap of no single symbol.
    pub symbol: Option<Symbol>,
    /// The venue's time.
    pub ts: Timestamp,
    /// The place in the log.
    pub seq: Seq,
}

/// The keys of a batch's rows. Shares the batch's columns.
#[derive(Clone, Debug)]
pub struct RowKeys {
    names: Vec<Option<Symbol>>,
    keys: Int32Array,
    ts: ScalarBuffer<i64>,
    partition: ScalarBuffer<u16>,
    offset: ScalarBuffer<u64>,
    index: ScalarBuffer<u32>,
}

impl RowKeys {
    pub(super) fn new(batch: &TickBatch) -> Result<Self, BatchError> {
        let column = |name: &str| batch.rows.column_by_name(name).expect("checked when the batch was made");
        let symbols = column("symbol").as_dictionary::<Int32Type>();
        Ok(Self {
            names: names(batch.kind, symbols)?,
            keys: symbols.keys().clone(),
            ts: column("ts").as_primitive::<TimestampNanosecondType>().values().clone(),
            partition: column("partition").as_primitive::<UInt16Type>().values().clone(),
            offset: column("offset").as_primitive::<UInt64Type>().values().clone(),
            index: column("index").as_primitive::<UInt32Type>().values().clone(),
        })
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.ts.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The symbol of `row`.
    pub fn symbol(&self, row: usize) -> Option<Symbol> {
        if self.keys.is_null(row) { None } else { self.names[self.keys.value(row) as usize] }
    }

    /// The venue times, in nanoseconds since the epoch.
    pub fn ts_nanos(&self) -> &[i64] {
        &self.ts
    }

    /// The log's partitions.
    pub fn partitions(&self) -> &[u16] {
        &self.partition
    }

    /// The offsets in them.
    pub fn offsets(&self) -> &[u64] {
        &self.offset
    }

    /// The key of `row`.
    pub fn get(&self, row: usize) -> RowKey {
        RowKey {
            symbol: self.symbol(row),
            ts: Timestamp::from_nanos(self.ts[row]),
            seq: Seq { partition: self.partition[row], offset: self.offset[row], index: self.index[row] },
        }
    }
}

fn names(kind: Kind, symbols: &DictionaryArray<Int32Type>) -> Result<Vec<Option<Symbol>>, BatchError> {
    let names = symbols.values().as_string::<i32>();
    // A page without any symbol is read back with an empty name that no row uses.
    let parsed = names.iter().map(|name| match name {
        None | Some("") => Ok(None),
        Some(name) => Symbol::from_bytes(name.as_bytes()).map(Some),
    });
    parsed.collect::<Result<Vec<_>, _>>().map_err(|error| BatchError::Value {
        kind: kind.name(),
        row: 0,
        reason: error.to_string(),
    })
}

/// A stored bar and its place: the highest place of a span is the bar's current revision.
pub type PlacedBar = (Seq, Bar);

/// A batch's rows, as ticks again.
pub struct Rows<'a> {
    kind: Kind,
    keys: &'a Int32Array,
    names: Vec<Option<Symbol>>,
    ts: &'a [i64],
    recv_ts: &'a [i64],
    longs: Vec<Cow<'a, [i64]>>,
    words: Vec<Words<'a>>,
    texts: Vec<&'a StringArray>,
    wides: Vec<&'a [i128]>,
    partition: &'a [u16],
    offset: &'a [u64],
    index: &'a [u32],
}

enum Words<'a> {
    Counts(&'a [u32]),
    Codes(&'a [i32], Vec<u32>),
}

impl Words<'_> {
    fn get(&self, row: usize) -> u32 {
        match self {
            Self::Counts(values) => values[row],
            Self::Codes(keys, codes) => codes.get(keys[row] as usize).copied().unwrap_or(0),
        }
    }
}

impl<'a> Rows<'a> {
    pub(super) fn new(batch: &'a TickBatch) -> Result<Self, BatchError> {
        let layout = layout(batch.kind);
        let column = |name: &str| batch.rows.column_by_name(name).expect("checked when the batch was made");
        let instants = |name: &str| column(name).as_primitive::<TimestampNanosecondType>().values();
        let symbols = column("symbol").as_dictionary::<Int32Type>();
        let names = names(batch.kind, symbols)?;
        let longs = layout.longs.iter().map(|(name, meaning)| match meaning {
            Long::Price => Cow::Borrowed(&column(name).as_primitive::<Decimal64Type>().values()[..]),
            Long::Time => Cow::Borrowed(&instants(name)[..]),
            Long::Count => {
                column(name).as_primitive::<UInt64Type>().values().iter().map(|&count| count as i64).collect()
            }
        });
        let words = layout.words.iter().map(|(name, meaning)| match meaning {
            Word::Count => Words::Counts(column(name).as_primitive::<UInt32Type>().values()),
            Word::Code | Word::Timeframe => {
                let codes = column(name).as_dictionary::<Int32Type>();
                let names = codes.values().as_string::<i32>().iter();
                let bits = names.map(|name| code_of(*meaning, name.unwrap_or_default()));
                Words::Codes(codes.keys().values(), bits.collect())
            }
        });
        Ok(Self {
            kind: batch.kind,
            keys: symbols.keys(),
            names,
            ts: instants("ts"),
            recv_ts: instants("recv_ts"),
            longs: longs.collect(),
            words: words.collect(),
            texts: layout.texts.iter().map(|name| column(name).as_string::<i32>()).collect(),
            wides: layout
                .wides
                .iter()
                .map(|name| &column(name).as_primitive::<Decimal128Type>().values()[..])
                .collect(),
            partition: column("partition").as_primitive::<UInt16Type>().values(),
            offset: column("offset").as_primitive::<UInt64Type>().values(),
            index: column("index").as_primitive::<UInt32Type>().values(),
        })
    }

    /// The row's place in the log.
    pub fn seq(&self, row: usize) -> Seq {
        Seq { partition: self.partition[row], offset: self.offset[row], index: self.index[row] }
    }

    /// The row's venue time.
    pub fn ts(&self, row: usize) -> Timestamp {
        Timestamp::from_nanos(self.ts[row])
    }

    /// The row's symbol; `None` for a gap of no single symbol.
    pub fn symbol(&self, row: usize) -> Option<Symbol> {
        if self.keys.is_null(row) {
            None
        } else {
            self.names.get(self.keys.value(row) as usize).copied().flatten()
        }
    }

    fn error(&self, row: usize, reason: impl ToString) -> BatchError {
        BatchError::Value { kind: self.kind.name(), row, reason: reason.to_string() }
    }

    fn named(&self, row: usize) -> Result<Symbol, BatchError> {
        self.symbol(row).ok_or_else(|| self.error(row, "no symbol"))
    }

    fn price(&self, column: usize, row: usize) -> Result<Price, BatchError> {
        Price::from_nanos(self.longs[column][row]).ok_or_else(|| self.error(row, "price out of range"))
    }

    fn byte(&self, column: usize, row: usize) -> u8 {
        self.words[column].get(row) as u8
    }

    fn exchange(&self, column: usize, row: usize) -> Result<Exchange, BatchError> {
        Exchange::from_code(self.byte(column, row)).map_err(|error| self.error(row, error))
    }

    fn tape(&self, column: usize, row: usize) -> Result<Tape, BatchError> {
        Tape::from_code(self.byte(column, row)).map_err(|error| self.error(row, error))
    }

    fn conditions(&self, column: usize, row: usize) -> Result<Conditions, BatchError> {
        let bytes = self.words[column].get(row).to_le_bytes();
        let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Conditions::from_codes(&bytes[..len]).map_err(|error| self.error(row, error))
    }

    /// The row as a tick.
    ///
    /// Errors: a value that no tick can have, which only a damaged or foreign file holds; and any
    /// row of a batch of bars, which [`Rows::bar`] reads.
    pub fn tick(&self, row: usize) -> Result<Tick, BatchError> {
        let (ts, recv_ts) = (self.ts(row), Timestamp::from_nanos(self.recv_ts[row]));
        let text = |column: usize| self.texts[column].value(row).into();
        let count = |column: usize| self.longs[column][row] as u64;
        Ok(match self.kind {
            Kind::Trade => Tick::Trade(Trade {
                symbol: self.named(row)?,
                ts,
                recv_ts,
                price: self.price(0, row)?,
                id: count(1),
                size: self.words[0].get(row),
                exchange: self.exchange(1, row)?,
                conditions: self.conditions(2, row)?,
                tape: self.tape(3, row)?,
            }),
            Kind::Quote => Tick::Quote(Quote {
                symbol: self.named(row)?,
                ts,
                recv_ts,
                bid: self.price(0, row)?,
                ask: self.price(1, row)?,
                bid_size: self.words[0].get(row),
                ask_size: self.words[1].get(row),
                bid_exchange: self.exchange(2, row)?,
                ask_exchange: self.exchange(3, row)?,
                conditions: self.conditions(4, row)?,
                tape: self.tape(5, row)?,
            }),
            Kind::Status => Tick::Status(Box::new(Status {
                symbol: self.named(row)?,
                ts,
                recv_ts,
                code: text(0),
                message: text(1),
                reason_code: text(2),
                reason_message: text(3),
                tape: self.tape(0, row)?,
            })),
            Kind::Cancel => Tick::Cancel(Box::new(Cancel {
                symbol: self.named(row)?,
                ts,
                recv_ts,
                price: self.price(0, row)?,
                id: count(1),
                size: self.words[0].get(row),
                exchange: self.exchange(1, row)?,
                action: self.byte(2, row),
                tape: self.tape(3, row)?,
            })),
            Kind::Correction => Tick::Correction(Box::new(Correction {
                symbol: self.named(row)?,
                ts,
                recv_ts,
                original: TradeTerms {
                    price: self.price(0, row)?,
                    id: count(1),
                    size: self.words[0].get(row),
                    conditions: self.conditions(1, row)?,
                },
                corrected: TradeTerms {
                    price: self.price(2, row)?,
                    id: count(3),
                    size: self.words[2].get(row),
                    conditions: self.conditions(3, row)?,
                },
                exchange: self.exchange(4, row)?,
                tape: self.tape(5, row)?,
            })),
            Kind::Gap => Tick::Gap(Box::new(Gap {
                symbol: self.symbol(row),
                ts,
                recv_ts,
                first: count(0),
                last: count(1),
                kind: GapKind::from_number(self.byte(0, row))
                    .ok_or_else(|| self.error(row, "unknown kind of gap"))?,
                source: text(0),
            })),
            Kind::PrevClose => Tick::PrevClose(PrevClose {
                symbol: self.named(row)?,
                ts,
                recv_ts,
                price: self.price(0, row)?,
            }),
            Kind::Bar => return Err(self.error(row, "a bar is no tick")),
        })
    }

    /// The row of a batch of bars, with its place.
    pub fn bar(&self, row: usize) -> Result<PlacedBar, BatchError> {
        if self.kind != Kind::Bar {
            return Err(self.error(row, "not a bar"));
        }
        let timeframe =
            timeframe_of(self.words[0].get(row)).ok_or_else(|| self.error(row, "unknown timeframe"))?;
        let bar = Bar {
            symbol: self.named(row)?,
            ts: self.ts(row),
            timeframe,
            open: self.price(0, row)?,
            high: self.price(1, row)?,
            low: self.price(2, row)?,
            close: self.price(3, row)?,
            volume: self.longs[4][row] as u64,
            trade_count: self.longs[5][row] as u64,
            open_ts: Timestamp::from_nanos(self.longs[6][row]),
            close_ts: Timestamp::from_nanos(self.longs[7][row]),
            notional: self.wides[0][row],
        };
        Ok((self.seq(row), bar))
    }
}
