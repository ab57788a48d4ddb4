//! Columns of ticks: the unit that moves from the processor on.
//!
//! Rows become columns once, after the log. Every kind is laid out by one table ([`Layout`]), so
//! that building, storing, reading back and digesting need no code of their own per kind.

mod digest;
mod rows;

use std::ops::Range;
use std::sync::Arc;

use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Decimal64Type, Decimal128Type, Int32Type, TimestampNanosecondType, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, ArrowPrimitiveType, Decimal64Array, Decimal128Array, DictionaryArray, Int32Array,
    PrimitiveArray, RecordBatch, StringArray, TimestampNanosecondArray, UInt16Array, UInt32Array,
    UInt64Array,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use foldhash::HashMap;

pub use rows::{PlacedBar, RowKey, RowKeys, Rows};

use super::{Bar, Kind, Seq, Symbol, Tick, Timeframe, Timestamp, TradingDay};

/// What a column of 64-bit values means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Long {
    Price,
    Time,
    Count,
}

/// What a column of 32-bit values means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Count,
    /// Up to four ASCII bytes, little-endian, zero-padded: a string to readers.
    Code,
    /// A timeframe's count and unit: its name to readers.
    Timeframe,
}

/// The columns of one kind, after `symbol, ts, recv_ts` and before `partition, offset, index`.
struct Layout {
    longs: &'static [(&'static str, Long)],
    words: &'static [(&'static str, Word)],
    texts: &'static [&'static str],
    /// `Decimal(38, 9)`.
    wides: &'static [&'static str],
}

const fn layout(kind: Kind) -> &'static Layout {
    const TRADE: Layout = Layout {
        longs: &[("price", Long::Price), ("id", Long::Count)],
        words: &[
            ("size", Word::Count),
            ("exchange", Word::Code),
            ("conditions", Word::Code),
            ("tape", Word::Code),
        ],
        texts: &[],
        wides: &[],
    };
    const QUOTE: Layout = Layout {
        longs: &[("bid", Long::Price), ("ask", Long::Price)],
        words: &[
            ("bid_size", Word::Count),
            ("ask_size", Word::Count),
            ("bid_exchange", Word::Code),
            ("ask_exchange", Word::Code),
            ("conditions", Word::Code),
            ("tape", Word::Code),
        ],
        texts: &[],
        wides: &[],
    };
    const STATUS: Layout = Layout {
        longs: &[],
        words: &[("tape", Word::Code)],
        texts: &["code", "message", "reason_code", "reason_message"],
        wides: &[],
    };
    const CANCEL: Layout = Layout {
        longs: &[("price", Long::Price), ("id", Long::Count)],
        words: &[
            ("size", Word::Count),
            ("exchange", Word::Code),
            ("action", Word::Code),
            ("tape", Word::Code),
        ],
        texts: &[],
        wides: &[],
    };
    const CORRECTION: Layout = Layout {
        longs: &[
            ("original_price", Long::Price),
            ("original_id", Long::Count),
            ("corrected_price", Long::Price),
            ("corrected_id", Long::Count),
        ],
        words: &[
            ("original_size", Word::Count),
            ("original_conditions", Word::Code),
            ("corrected_size", Word::Count),
            ("corrected_conditions", Word::Code),
            ("exchange", Word::Code),
            ("tape", Word::Code),
        ],
        texts: &[],
        wides: &[],
    };
    const GAP: Layout = Layout {
        longs: &[("first", Long::Count), ("last", Long::Count)],
        words: &[("gap_kind", Word::Count)],
        texts: &["source"],
        wides: &[],
    };
    const PREV_CLOSE: Layout =
        Layout { longs: &[("price", Long::Price)], words: &[], texts: &[], wides: &[] };
    const BAR: Layout = Layout {
        longs: &[
            ("open", Long::Price),
            ("high", Long::Price),
            ("low", Long::Price),
            ("close", Long::Price),
            ("volume", Long::Count),
            ("trade_count", Long::Count),
            ("open_ts", Long::Time),
            ("close_ts", Long::Time),
        ],
        words: &[("timeframe", Word::Timeframe)],
        texts: &[],
        wides: &["notional"],
    };
    match kind {
        Kind::Trade => &TRADE,
        Kind::Quote => &QUOTE,
        Kind::Status => &STATUS,
        Kind::Cancel => &CANCEL,
        Kind::Correction => &CORRECTION,
        Kind::Gap => &GAP,
        Kind::PrevClose => &PREV_CLOSE,
        Kind::Bar => &BAR,
    }
}

fn dictionary_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

fn instant_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
}

const PRICE_PRECISION: u8 = 18;
const PRICE_SCALE: i8 = 9;

/// Why columns are no batch of ticks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A column is missing or of another type.
    #[error("column \"{column}\" of {kind} rows is missing or not of type {expected}")]
    Column {
        /// The kind of the rows.
        kind: &'static str,
        /// The column's name.
        column: String,
        /// The type it should have.
        expected: String,
    },
    /// A value that no tick can have.
    #[error("row {row} of {kind} rows: {reason}")]
    Value {
        /// The kind of the rows.
        kind: &'static str,
        /// The row's index in the batch.
        row: usize,
        /// What is wrong.
        reason: String,
    },
}

/// Symbols by number: what lets a tick's symbol be hashed once on its way through the processor.
#[derive(Default)]
pub struct SymbolTable {
    numbers: HashMap<Symbol, u32>,
    symbols: Vec<Symbol>,
}

impl SymbolTable {
    /// The number of `symbol`, given out from 0 in the order of first sight.
    pub fn intern(&mut self, symbol: Symbol) -> u32 {
        *self.numbers.entry(symbol).or_insert_with(|| {
            self.symbols.push(symbol);
            (self.symbols.len() - 1) as u32
        })
    }

    /// The number of `symbol`, if it has one.
    pub fn get(&self, symbol: Symbol) -> Option<u32> {
        self.numbers.get(&symbol).copied()
    }

    /// The symbols by number.
    pub fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }
}

/// The number that stands for "no symbol" in a builder: gaps of a whole channel have none.
pub const NO_SYMBOL: u32 = u32::MAX;

/// Rows of one kind and one trading day, not yet in order.
///
/// A row lies in cells next to each other, so that taking it in and putting it in its place touch
/// one or two cache lines and not one in each column.
struct Columns {
    kind: Kind,
    day: TradingDay,
    partition: u16,
    /// Each row's symbol, by its number.
    symbols: Vec<u32>,
    /// Cells of a row.
    stride: usize,
    /// Each row: `ts`, `recv_ts`, offset, index, the longs, the words two to a cell.
    cells: Vec<u64>,
    texts: Vec<Vec<Box<str>>>,
    wides: Vec<Vec<i128>>,
}

const TS: usize = 0;
const RECV_TS: usize = 1;
const OFFSET: usize = 2;
const INDEX: usize = 3;
const LONGS: usize = 4;

/// Rows of one symbol, next to each other.
struct Run {
    symbol: Option<Symbol>,
    rows: Range<usize>,
}

/// A column being put in order.
enum Ordered {
    Longs { cell: usize, values: Vec<i64> },
    Words { cell: usize, shift: u32, values: Vec<u32> },
}

impl Columns {
    fn new(kind: Kind, day: TradingDay, partition: u16) -> Self {
        let layout = layout(kind);
        Self {
            kind,
            day,
            partition,
            symbols: Vec::new(),
            stride: LONGS + layout.longs.len() + layout.words.len().div_ceil(2),
            cells: Vec::new(),
            texts: vec![Vec::new(); layout.texts.len()],
            wides: vec![Vec::new(); layout.wides.len()],
        }
    }

    #[inline]
    fn key(&mut self, symbol: u32, seq: Seq, ts: Timestamp, recv_ts: Timestamp) {
        self.symbols.push(symbol);
        self.cells.extend_from_slice(&[
            ts.nanos() as u64,
            recv_ts.nanos() as u64,
            seq.offset,
            u64::from(seq.index),
        ]);
    }

    #[inline]
    fn values<const L: usize, const W: usize>(&mut self, longs: [i64; L], words: [u32; W]) {
        self.cells.extend_from_slice(&longs.map(|value| value as u64));
        for pair in words.chunks(2) {
            let high = pair.get(1).copied().unwrap_or(0);
            self.cells.push(u64::from(pair[0]) | u64::from(high) << 32);
        }
        debug_assert_eq!(self.cells.len(), self.symbols.len() * self.stride);
    }

    fn texts<const N: usize>(&mut self, texts: [&str; N]) {
        for (column, value) in self.texts.iter_mut().zip(texts) {
            column.push(value.into());
        }
    }

    fn push(&mut self, symbol: u32, seq: Seq, tick: &Tick) {
        self.key(symbol, seq, tick.ts(), tick.recv_ts());
        match tick {
            Tick::Trade(t) => self.values(
                [t.price.nanos(), t.id as i64],
                [t.size, code(t.exchange.code()), t.conditions.to_bits(), code(t.tape.code())],
            ),
            Tick::Quote(q) => self.values(
                [q.bid.nanos(), q.ask.nanos()],
                [
                    q.bid_size,
                    q.ask_size,
                    code(q.bid_exchange.code()),
                    code(q.ask_exchange.code()),
                    q.conditions.to_bits(),
                    code(q.tape.code()),
                ],
            ),
            Tick::Status(s) => {
                self.values([], [code(s.tape.code())]);
                self.texts([&s.code, &s.message, &s.reason_code, &s.reason_message]);
            }
            Tick::Cancel(c) => self.values(
                [c.price.nanos(), c.id as i64],
                [c.size, code(c.exchange.code()), code(c.action), code(c.tape.code())],
            ),
            Tick::Correction(c) => self.values(
                [
                    c.original.price.nanos(),
                    c.original.id as i64,
                    c.corrected.price.nanos(),
                    c.corrected.id as i64,
                ],
                [
                    c.original.size,
                    c.original.conditions.to_bits(),
                    c.corrected.size,
                    c.corrected.conditions.to_bits(),
                    code(c.exchange.code()),
                    code(c.tape.code()),
                ],
            ),
            Tick::Gap(g) => {
                self.values([g.first as i64, g.last as i64], [g.kind as u32]);
                self.texts([&g.source]);
            }
            Tick::PrevClose(p) => self.values([p.price.nanos()], []),
        }
    }

    fn push_bar(&mut self, symbol: u32, seq: Seq, bar: &Bar) {
        self.key(symbol, seq, bar.ts, bar.ts);
        self.values(
            [
                bar.open.nanos(),
                bar.high.nanos(),
                bar.low.nanos(),
                bar.close.nanos(),
                bar.volume as i64,
                bar.trade_count as i64,
                bar.open_ts.nanos(),
                bar.close_ts.nanos(),
            ],
            [timeframe_code(bar.timeframe)],
        );
        self.wides[0].push(bar.notional);
    }

    /// Takes the rows out in columns, ordered by symbol, ts, seq. Keeps the cells' memory for as many
    /// rows again: to have the system map it anew costs more than to put the rows in order.
    fn finish(&mut self, table: &SymbolTable) -> TickBatch {
        let (mut order, runs) = self.order(table);
        let layout = layout(self.kind);
        let mut columns = self.ordered(&order);
        // Rows come in the log's order, so that the times of most symbols ascend by themselves.
        if let Some(Ordered::Longs { values: ts, .. }) = columns.first()
            && runs.iter().any(|run| !ts[run.rows.clone()].is_sorted())
        {
            for run in &runs {
                order[run.rows.clone()]
                    .sort_by_key(|&row| self.cells[row as usize * self.stride + TS] as i64);
            }
            columns = self.ordered(&order);
        }
        self.cells.shrink_to(2 * self.cells.len());
        self.cells.clear();
        self.symbols.shrink_to(2 * self.symbols.len());
        self.symbols.clear();
        let mut columns = columns.into_iter();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(16);
        arrays.push(symbols(&runs));
        let meanings = [Long::Time, Long::Time].iter().chain(layout.longs.iter().map(|(_, meaning)| meaning));
        for (meaning, values) in meanings.zip(columns.by_ref().map(Ordered::longs)) {
            arrays.push(match meaning {
                Long::Price => prices(values),
                Long::Time => instants(values),
                Long::Count => counts(values),
            });
        }
        for ((_, meaning), values) in layout.words.iter().zip(columns.by_ref().map(Ordered::words)) {
            arrays.push(match meaning {
                Word::Count => Arc::new(UInt32Array::from(values)),
                Word::Code | Word::Timeframe => codes(*meaning, &values),
            });
        }
        for column in self.texts.iter_mut().map(std::mem::take) {
            let mut builder = StringBuilder::new();
            order.iter().for_each(|&row| builder.append_value(&column[row as usize]));
            arrays.push(Arc::new(builder.finish()));
        }
        for column in self.wides.iter_mut().map(std::mem::take) {
            let values = order.iter().map(|&row| column[row as usize]);
            let values = Decimal128Array::from_iter_values(values);
            arrays.push(Arc::new(values.with_data_type(DataType::Decimal128(38, PRICE_SCALE))));
        }
        arrays.push(Arc::new(UInt16Array::from(vec![self.partition; order.len()])));
        for column in columns {
            arrays.push(match column {
                Ordered::Longs { values, .. } => counts(values),
                Ordered::Words { values, .. } => Arc::new(UInt32Array::from(values)),
            });
        }
        let rows = RecordBatch::try_new(TickBatch::schema(self.kind), arrays)
            .expect("the columns are built from the layout that the schema is built from");
        TickBatch { kind: self.kind, rows }
    }

    /// The cells as columns in `order`: `ts`, `recv_ts`, the longs, the words, offset, index. Block by
    /// block, so that a block's rows are fetched once for all columns: few enough that each may lie
    /// on a memory page of its own.
    fn ordered(&self, order: &[u32]) -> Vec<Ordered> {
        const BLOCK_ROWS: usize = 32;
        let layout = layout(self.kind);
        let longs = |cell| Ordered::Longs { cell, values: Vec::with_capacity(order.len()) };
        let words = |cell, shift| Ordered::Words { cell, shift, values: Vec::with_capacity(order.len()) };
        let first_word = LONGS + layout.longs.len();
        let mut columns = vec![longs(TS), longs(RECV_TS)];
        columns.extend((LONGS..first_word).map(longs));
        columns
            .extend((0..layout.words.len()).map(|word| words(first_word + word / 2, 32 * (word as u32 % 2))));
        columns.extend([longs(OFFSET), words(INDEX, 0)]);
        let (cells, stride) = (&self.cells[..], self.stride);
        for block in order.chunks(BLOCK_ROWS) {
            for column in &mut columns {
                match column {
                    Ordered::Longs { cell, values } => {
                        values.extend(block.iter().map(|&row| cells[row as usize * stride + *cell] as i64));
                    }
                    Ordered::Words { cell, shift, values } => {
                        let word = |&row: &u32| (cells[row as usize * stride + *cell] >> *shift) as u32;
                        values.extend(block.iter().map(word));
                    }
                }
            }
        }
        columns
    }

    /// The rows' order by symbol, then as they came, and the runs of rows of one symbol in it. A
    /// counting sort, which is stable.
    fn order(&self, table: &SymbolTable) -> (Vec<u32>, Vec<Run>) {
        let nameless = table.symbols.len();
        let slot = |symbol: u32| if symbol == NO_SYMBOL { nameless } else { symbol as usize };
        let mut counts = vec![0_u32; nameless + 1];
        for &symbol in &self.symbols {
            counts[slot(symbol)] += 1;
        }
        let mut used: Vec<u32> = (0..nameless as u32).filter(|&number| counts[number as usize] > 0).collect();
        used.sort_unstable_by_key(|&number| table.symbols[number as usize]);

        // Rows without a symbol come first, as nulls do.
        let first = Run { symbol: None, rows: 0..counts[nameless] as usize };
        let mut runs = Vec::with_capacity(used.len() + 1);
        let mut next = first.rows.end;
        runs.push(first);
        // Where the next row of each symbol goes.
        let mut free = vec![0_u32; nameless + 1];
        for &number in &used {
            free[number as usize] = next as u32;
            let end = next + counts[number as usize] as usize;
            runs.push(Run { symbol: Some(table.symbols[number as usize]), rows: next..end });
            next = end;
        }
        let mut order = vec![0_u32; self.symbols.len()];
        for (row, &symbol) in self.symbols.iter().enumerate() {
            let place = &mut free[slot(symbol)];
            order[*place as usize] = row as u32;
            *place += 1;
        }
        (order, runs)
    }

    /// Bytes held, by the rows' sizes.
    fn bytes(&self) -> usize {
        let texts: usize = self.texts.iter().flatten().map(|text| text.len() + size_of::<Box<str>>()).sum();
        self.symbols.len() * (4 + 8 * self.stride + 16 * self.wides.len()) + texts
    }
}

fn code(byte: u8) -> u32 {
    u32::from(byte)
}

/// The unit in the second byte, the count in the first.
fn timeframe_code(timeframe: Timeframe) -> u32 {
    match timeframe {
        Timeframe::Minutes(count) => u32::from(count),
        Timeframe::Hours(count) => 0x100 | u32::from(count),
        Timeframe::Day => 0x201,
        Timeframe::Week => 0x301,
        Timeframe::Months(count) => 0x400 | u32::from(count),
    }
}

fn timeframe_of(code: u32) -> Option<Timeframe> {
    let count = code as u8;
    match code >> 8 {
        0 if (1..60).contains(&count) => Some(Timeframe::Minutes(count)),
        1 if (1..24).contains(&count) => Some(Timeframe::Hours(count)),
        2 => Some(Timeframe::Day),
        3 => Some(Timeframe::Week),
        4 if (1..=12).contains(&count) => Some(Timeframe::Months(count)),
        _ => None,
    }
}

fn code_name(meaning: Word, value: u32) -> String {
    if meaning == Word::Timeframe {
        return timeframe_of(value).map(|timeframe| timeframe.to_string()).unwrap_or_default();
    }
    let bytes = value.to_le_bytes();
    let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

fn code_of(meaning: Word, name: &str) -> u32 {
    if meaning == Word::Timeframe {
        return name.parse().map_or(u32::MAX, timeframe_code);
    }
    let mut bytes = [0; 4];
    bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    u32::from_le_bytes(bytes)
}

impl Ordered {
    fn longs(self) -> Vec<i64> {
        match self {
            Self::Longs { values, .. } => values,
            Self::Words { values, .. } => values.into_iter().map(i64::from).collect(),
        }
    }

    fn words(self) -> Vec<u32> {
        match self {
            Self::Words { values, .. } => values,
            Self::Longs { values, .. } => values.into_iter().map(|value| value as u32).collect(),
        }
    }
}

/// The column of symbols: `runs` of which the first is of no symbol.
fn symbols(runs: &[Run]) -> ArrayRef {
    let (nameless, named) = runs.split_first().map_or((0, runs), |(first, named)| (first.rows.len(), named));
    let mut keys = Int32Array::builder(runs.last().map_or(0, |run| run.rows.end));
    keys.append_nulls(nameless);
    for (key, run) in named.iter().enumerate() {
        keys.append_value_n(key as i32, run.rows.len());
    }
    let names = named.iter().filter_map(|run| run.symbol.as_ref().map(Symbol::as_str));
    Arc::new(DictionaryArray::new(keys.finish(), Arc::new(StringArray::from_iter_values(names))))
}

fn instants(values: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from(values).with_timezone("UTC"))
}

fn counts(values: Vec<i64>) -> ArrayRef {
    Arc::new(UInt64Array::from(values.into_iter().map(|value| value as u64).collect::<Vec<_>>()))
}

fn prices(values: Vec<i64>) -> ArrayRef {
    let prices = Decimal64Array::from(values);
    Arc::new(prices.with_data_type(DataType::Decimal64(PRICE_PRECISION, PRICE_SCALE)))
}

fn codes(meaning: Word, values: &[u32]) -> ArrayRef {
    // Few codes exist: a handful of exchanges, tapes and combinations of conditions. Most are one
    // letter, whose key is looked up by itself.
    const UNKNOWN: i32 = -1;
    let mut known: Vec<u32> = Vec::new();
    let mut by_letter = [UNKNOWN; 256];
    let mut last = (0, UNKNOWN);
    let mut key_of = |value: u32| {
        let key = known.iter().position(|&other| other == value).unwrap_or_else(|| {
            known.push(value);
            known.len() - 1
        });
        key as i32
    };
    let keys: Vec<i32> = values
        .iter()
        .map(|&value| {
            if let Some(key) = by_letter.get_mut(value as usize) {
                if *key == UNKNOWN {
                    *key = key_of(value);
                }
                return *key;
            }
            if last.1 == UNKNOWN || last.0 != value {
                last = (value, key_of(value));
            }
            last.1
        })
        .collect();
    let keys = Int32Array::from(keys);
    let names = StringArray::from_iter_values(known.iter().map(|&value| code_name(meaning, value)));
    Arc::new(DictionaryArray::new(keys, Arc::new(names)))
}

/// Collects the ticks of one partition of the log, row by row, into columns by kind and day.
pub struct TickBatchBuilder {
    partition: u16,
    columns: Vec<Columns>,
    /// Where in `columns` the last row of each kind went: ticks come in runs of one day.
    last: [usize; Kind::ALL.len() + 1],
    rows: usize,
}

impl TickBatchBuilder {
    /// An empty builder for ticks of `partition`.
    pub fn new(partition: u16) -> Self {
        Self { partition, columns: Vec::new(), last: [usize::MAX; Kind::ALL.len() + 1], rows: 0 }
    }

    #[inline]
    fn columns(&mut self, kind: Kind, day: TradingDay) -> &mut Columns {
        self.rows += 1;
        let at = self.last[kind as usize];
        if self.columns.get(at).is_some_and(|columns| columns.kind == kind && columns.day == day) {
            return &mut self.columns[at];
        }
        let found = self.columns.iter().position(|columns| columns.kind == kind && columns.day == day);
        let at = found.unwrap_or_else(|| {
            self.columns.push(Columns::new(kind, day, self.partition));
            self.columns.len() - 1
        });
        self.last[kind as usize] = at;
        &mut self.columns[at]
    }

    /// Adds a tick whose symbol has `symbol` as its number in the table that [`finish`] is given
    /// ([`NO_SYMBOL`] for a gap without one).
    ///
    /// [`finish`]: TickBatchBuilder::finish
    #[inline]
    pub fn push(&mut self, symbol: u32, seq: Seq, tick: &Tick) {
        self.columns(tick.kind(), tick.ts().trading_day()).push(symbol, seq, tick);
    }

    /// Adds a bar as it stood after the tick at `seq`. Those that are stored are a minute's or a
    /// day's.
    pub fn push_bar(&mut self, symbol: u32, seq: Seq, bar: &Bar) {
        self.columns(Kind::Bar, bar.ts.trading_day()).push_bar(symbol, seq, bar);
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.columns.iter().map(Columns::bytes).sum()
    }

    /// Takes all rows out, one batch for each kind and day, each ordered by symbol, ts, seq.
    pub fn finish(&mut self, table: &SymbolTable) -> Vec<(TradingDay, TickBatch)> {
        self.rows = 0;
        // Kinds and days that had no row since the last time are over.
        self.columns.retain(|columns| !columns.symbols.is_empty());
        self.last.fill(usize::MAX);
        self.columns.iter_mut().map(|columns| (columns.day, columns.finish(table))).collect()
    }
}

/// Rows of one kind in Arrow columns.
///
/// Columns: `symbol, ts, recv_ts`, the kind's own, then `partition, offset, index`. Times are
/// `Timestamp(ns, UTC)`, prices `Decimal(18, 9)`, codes and symbols dictionaries of strings.
#[derive(Clone, Debug, PartialEq)]
pub struct TickBatch {
    kind: Kind,
    rows: RecordBatch,
}

impl TickBatch {
    /// The schema of `kind`.
    pub fn schema(kind: Kind) -> SchemaRef {
        let layout = layout(kind);
        let field = |name: &str, data_type: DataType| Field::new(name, data_type, false);
        let mut fields = vec![
            Field::new("symbol", dictionary_type(), kind == Kind::Gap),
            field("ts", instant_type()),
            field("recv_ts", instant_type()),
        ];
        fields.extend(layout.longs.iter().map(|(name, meaning)| {
            field(
                name,
                match meaning {
                    Long::Price => DataType::Decimal64(PRICE_PRECISION, PRICE_SCALE),
                    Long::Time => instant_type(),
                    Long::Count => DataType::UInt64,
                },
            )
        }));
        fields.extend(layout.words.iter().map(|(name, meaning)| {
            field(name, if *meaning == Word::Count { DataType::UInt32 } else { dictionary_type() })
        }));
        fields.extend(layout.texts.iter().map(|name| field(name, DataType::Utf8)));
        fields.extend(layout.wides.iter().map(|name| field(name, DataType::Decimal128(38, PRICE_SCALE))));
        fields.push(field("partition", DataType::UInt16));
        fields.push(field("offset", DataType::UInt64));
        fields.push(field("index", DataType::UInt32));
        Arc::new(Schema::new(fields))
    }

    /// Takes columns that were stored, after a check of their names and types.
    pub fn from_record_batch(kind: Kind, rows: RecordBatch) -> Result<Self, BatchError> {
        let expected = Self::schema(kind);
        for field in expected.fields() {
            let found = rows.column_by_name(field.name());
            if found.is_none_or(|column| column.data_type() != field.data_type()) {
                return Err(BatchError::Column {
                    kind: kind.name(),
                    column: field.name().clone(),
                    expected: field.data_type().to_string(),
                });
            }
        }
        Ok(Self { kind, rows })
    }

    /// The kind of the rows.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Rows held.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The columns.
    pub fn record_batch(&self) -> &RecordBatch {
        &self.rows
    }

    /// The rows' keys, which batches are ordered by.
    pub fn keys(&self) -> Result<RowKeys, BatchError> {
        RowKeys::new(self)
    }

    /// Ranges of rows of `batches`, which are all of `kind`, one after the other. Dictionaries of
    /// the result hold only what its rows use.
    pub fn concat(kind: Kind, batches: &[Self], parts: &[(usize, Range<usize>)]) -> Self {
        let schema = Self::schema(kind);
        let arrays = schema.fields().iter().map(|field| {
            let columns = batches.iter().map(|batch| {
                debug_assert_eq!(batch.kind, kind);
                batch.rows.column_by_name(field.name()).expect("checked when the batch was made")
            });
            concat_column(field.data_type(), &columns.collect::<Vec<_>>(), parts)
        });
        let rows = RecordBatch::try_new(schema.clone(), arrays.collect())
            .expect("the columns have the types of the schema that they are taken by");
        Self { kind, rows }
    }

    /// Column number `at` of `batches`, which are of one kind and at least one, one after the other. A
    /// dictionary holds only what the rows use.
    pub fn concat_column(batches: &[Self], at: usize) -> ArrayRef {
        let columns: Vec<_> = batches.iter().map(|batch| batch.rows.column(at)).collect();
        let whole: Vec<_> =
            columns.iter().enumerate().map(|(batch, column)| (batch, 0..column.len())).collect();
        concat_column(columns[0].data_type(), &columns, &whole)
    }

    /// The rows of `range`, without a copy.
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self { kind: self.kind, rows: self.rows.slice(range.start, range.len()) }
    }

    /// Rows to read, with the columns looked up once.
    pub fn rows(&self) -> Result<Rows<'_>, BatchError> {
        Rows::new(self)
    }
}

type Parts<'a> = &'a [(usize, Range<usize>)];

fn concat_column(data_type: &DataType, columns: &[&ArrayRef], parts: Parts<'_>) -> ArrayRef {
    fn values<T: ArrowPrimitiveType>(
        data_type: &DataType,
        columns: &[&ArrayRef],
        parts: Parts<'_>,
    ) -> ArrayRef {
        let columns: Vec<&[T::Native]> =
            columns.iter().map(|column| &column.as_primitive::<T>().values()[..]).collect();
        let mut values = Vec::with_capacity(rows_of(parts));
        for (batch, range) in parts {
            values.extend_from_slice(&columns[*batch][range.clone()]);
        }
        Arc::new(PrimitiveArray::<T>::new(values.into(), None).with_data_type(data_type.clone()))
    }
    match data_type {
        DataType::Timestamp(..) => values::<TimestampNanosecondType>(data_type, columns, parts),
        DataType::Decimal64(..) => values::<Decimal64Type>(data_type, columns, parts),
        DataType::Decimal128(..) => values::<Decimal128Type>(data_type, columns, parts),
        DataType::UInt64 => values::<UInt64Type>(data_type, columns, parts),
        DataType::UInt32 => values::<UInt32Type>(data_type, columns, parts),
        DataType::UInt16 => values::<UInt16Type>(data_type, columns, parts),
        DataType::Dictionary(..) => concat_dictionaries(columns, parts),
        _ => {
            let mut builder = StringBuilder::new();
            for (batch, range) in parts {
                let column = columns[*batch].as_string::<i32>();
                range.clone().for_each(|row| builder.append_value(column.value(row)));
            }
            Arc::new(builder.finish())
        }
    }
}

fn rows_of(parts: Parts<'_>) -> usize {
    parts.iter().map(|(_, range)| range.len()).sum()
}

fn concat_dictionaries(columns: &[&ArrayRef], parts: Parts<'_>) -> ArrayRef {
    const UNSEEN: i32 = -1;
    let mut numbers: HashMap<&str, i32> = HashMap::default();
    let mut names: Vec<&str> = Vec::new();
    // For each batch the new key of each of its old ones.
    let mut renumbered: Vec<Vec<i32>> = vec![Vec::new(); columns.len()];
    let mut keys = Int32Array::builder(rows_of(parts));
    for (batch, range) in parts {
        let column = columns[*batch].as_dictionary::<Int32Type>();
        let values = column.values().as_string::<i32>();
        let renumbered = &mut renumbered[*batch];
        renumbered.resize(values.len(), UNSEEN);
        let (mut last_old, mut last_new) = (UNSEEN, UNSEEN);
        for row in range.clone() {
            if column.is_null(row) {
                keys.append_null();
                continue;
            }
            let old = column.keys().value(row);
            if old != last_old {
                let new = &mut renumbered[old as usize];
                if *new == UNSEEN {
                    let name = values.value(old as usize);
                    *new = *numbers.entry(name).or_insert_with(|| {
                        names.push(name);
                        names.len() as i32 - 1
                    });
                }
                (last_old, last_new) = (old, *new);
            }
            keys.append_value(last_new);
        }
    }
    Arc::new(DictionaryArray::new(keys.finish(), Arc::new(StringArray::from_iter_values(names))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::arbitrary;

    fn built(ticks: &[Tick]) -> (TickBatchBuilder, SymbolTable) {
        let (mut builder, mut table) = (TickBatchBuilder::new(3), SymbolTable::default());
        for (offset, tick) in ticks.iter().enumerate() {
            let symbol = tick.symbol().map_or(NO_SYMBOL, |symbol| table.intern(symbol));
            builder.push(symbol, Seq { partition: 3, offset: offset as u64, index: 7 }, tick);
        }
        (builder, table)
    }

    proptest! {
        #[test]
        fn rows_come_back_whole_and_in_order(ticks in prop::collection::vec(arbitrary::tick(), 0..80)) {
            let (mut builder, table) = built(&ticks);
            prop_assert_eq!(builder.rows(), ticks.len());
            let mut seen = 0;
            for (day, batch) in builder.finish(&table) {
                let batch = TickBatch::from_record_batch(batch.kind(), batch.record_batch().clone()).unwrap();
                let rows = batch.rows().unwrap();
                let mut last = None;
                for row in 0..batch.len() {
                    let (seq, tick) = (rows.seq(row), rows.tick(row).unwrap());
                    prop_assert_eq!(&tick, &ticks[seq.offset as usize]);
                    prop_assert_eq!((seq.partition, seq.index), (3, 7));
                    prop_assert_eq!(tick.ts().trading_day(), day);
                    let key = (tick.symbol(), tick.ts(), seq);
                    prop_assert!(last.is_none_or(|last| last < key), "order by symbol, ts, seq");
                    last = Some(key);
                }
                seen += batch.len();
            }
            prop_assert_eq!(seen, ticks.len());
            prop_assert_eq!(builder.rows(), 0);
        }

        #[test]
        fn bars_come_back_whole(bar in arbitrary::bar()) {
            let (mut builder, mut table) = (TickBatchBuilder::new(0), SymbolTable::default());
            let seq = Seq { partition: 0, offset: 9, index: 1 };
            builder.push_bar(table.intern(bar.symbol), seq, &bar);
            let batches = builder.finish(&table);
            let rows = batches[0].1.rows().unwrap();
            prop_assert_eq!(rows.bar(0).unwrap(), (seq, bar));
            prop_assert!(rows.tick(0).is_err());
        }
    }

    #[test]
    fn foreign_columns_are_refused_by_name() {
        let (mut builder, table) = built(&[]);
        assert!(builder.finish(&table).is_empty());
        let quotes = RecordBatch::new_empty(TickBatch::schema(Kind::Quote));
        let error = TickBatch::from_record_batch(Kind::Trade, quotes).unwrap_err();
        assert_eq!(
            error.to_string(),
            "column \"price\" of trade rows is missing or not of type Decimal64(18, 9)"
        );
    }
}
