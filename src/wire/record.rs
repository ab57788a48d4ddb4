//! What stands in the log: a record of some thousand ticks, compact and quick both ways.
//!
//! Layout of version 1. Integers are little-endian; `varint` is LEB128, `zigzag` a varint of a
//! signed value folded as in Protocol Buffers.
//!
//! ```text
//! u8       version = 1
//! u64      producer         who wrote it; with the sequence it makes repeats visible
//! u64      sequence         the producer's batch number; rises within a producer and partition
//! i64      base time        what the first row's ts is relative to, ns since the epoch
//! varint   ticks
//! varint   symbols, then each: u8 length, bytes
//! rows, each:
//!   u8     kind (low 4 bits), 0x10 codes as in the last row of the kind, 0x20 prices in 1e-4
//!   varint symbol, 1 + its index; 0 for none
//!   zigzag ts − the last row's ts
//!   zigzag (recv_ts − ts) − the last row's
//!   then by kind
//! ```
//!
//! Prices are relative to the symbol's last price in the record, ids to the last id.

use bytes::Bytes;
use foldhash::HashMap;

use crate::market::{
    Cancel, Conditions, Correction, Exchange, Gap, GapKind, Kind, PrevClose, Price, Quote, Status, Symbol,
    Tape, Tick, Timestamp, Trade, TradeTerms,
};

/// The version that is written.
pub const VERSION: u8 = 1;

const SAME_CODES: u8 = 0x10;
const COARSE_PRICES: u8 = 0x20;
const KIND_MASK: u8 = 0x0f;
/// Nanos in 1e-4, the tick size of nearly every US price.
const COARSE: i64 = 100_000;

/// Why bytes are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a later version of the program.
    #[error("a log record of version {0}; this program reads version 1: use a newer stk")]
    Version(u8),
    /// Cut short.
    #[error("a log record ends within {0}")]
    Truncated(&'static str),
    /// A value that no tick can have.
    #[error("a log record is damaged: {0}")]
    Value(String),
}

/// Where a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Who wrote it.
    pub producer: u64,
    /// The producer's batch number: rises within a producer and partition, so that a reader knows
    /// a repeat by `sequence <= last`.
    pub sequence: u64,
}

/// What the log holds of a producer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredNumbers {
    /// The producer's first number, with the [`checksum`] of its record; `None` for a producer that was
    /// never heard.
    pub first: Option<(u64, u32)>,
    /// By partition, the highest number.
    pub last: Vec<Option<u64>>,
    /// Whether the producer was heard so long ago that its numbers are no longer known.
    pub is_retired: bool,
}

/// What rows are relative to; the same on both sides.
#[derive(Default)]
struct Last {
    ts: i64,
    lag: i64,
    id: i64,
    /// By symbol index + 1.
    prices: Vec<i64>,
    trade_codes: [u8; 6],
    quote_codes: [u8; 7],
}

/// Builds one record after another, keeping its buffers.
#[derive(Default)]
pub struct RecordEncoder {
    symbols: Vec<Symbol>,
    indexes: HashMap<Symbol, u32>,
    rows: Vec<u8>,
    ticks: u32,
    base: i64,
    last: Last,
}

impl RecordEncoder {
    /// An empty encoder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ticks in the record so far.
    pub fn ticks(&self) -> u32 {
        self.ticks
    }

    /// Whether no tick was added yet.
    pub fn is_empty(&self) -> bool {
        self.ticks == 0
    }

    /// About how many bytes the record has so far.
    pub fn bytes(&self) -> usize {
        self.rows.len() + 18 * self.symbols.len()
    }

    /// Adds a tick.
    #[inline]
    pub fn push(&mut self, tick: &Tick) {
        if self.ticks == 0 {
            self.base = tick.ts().nanos();
            self.last.ts = self.base;
            self.last.prices.push(0);
        }
        let symbol = tick.symbol().map_or(0, |symbol| self.index(symbol) + 1);
        self.ticks += 1;
        match tick {
            Tick::Trade(t) => {
                let codes = codes_of_trade(t.exchange, t.conditions, t.tape);
                let same = std::mem::replace(&mut self.last.trade_codes, codes) == codes;
                let coarse = is_coarse(t.price);
                self.head(Kind::Trade, same, coarse, symbol, t.ts, t.recv_ts);
                self.price(symbol, t.price, coarse);
                self.varint(u64::from(t.size));
                self.id(t.id);
                if !same {
                    self.rows.extend_from_slice(&codes);
                }
            }
            Tick::Quote(q) => {
                let codes = codes_of_quote(q);
                let same = std::mem::replace(&mut self.last.quote_codes, codes) == codes;
                let coarse = is_coarse(q.bid) && is_coarse(q.ask);
                self.head(Kind::Quote, same, coarse, symbol, q.ts, q.recv_ts);
                self.price(symbol, q.bid, coarse);
                self.price(symbol, q.ask, coarse);
                self.varint(u64::from(q.bid_size));
                self.varint(u64::from(q.ask_size));
                if !same {
                    self.rows.extend_from_slice(&codes);
                }
            }
            Tick::Status(s) => {
                self.head(Kind::Status, false, false, symbol, s.ts, s.recv_ts);
                self.rows.push(s.tape.code());
                for text in [&s.code, &s.message, &s.reason_code, &s.reason_message] {
                    self.text(text);
                }
            }
            Tick::Cancel(c) => {
                self.head(Kind::Cancel, false, false, symbol, c.ts, c.recv_ts);
                self.price(symbol, c.price, false);
                self.varint(u64::from(c.size));
                self.id(c.id);
                self.rows.extend_from_slice(&[c.exchange.code(), c.action, c.tape.code()]);
            }
            Tick::Correction(c) => {
                self.head(Kind::Correction, false, false, symbol, c.ts, c.recv_ts);
                for terms in [&c.original, &c.corrected] {
                    self.price(symbol, terms.price, false);
                    self.varint(u64::from(terms.size));
                    self.id(terms.id);
                    self.rows.extend_from_slice(&terms.conditions.to_bits().to_le_bytes());
                }
                self.rows.extend_from_slice(&[c.exchange.code(), c.tape.code()]);
            }
            Tick::Gap(g) => {
                self.head(Kind::Gap, false, false, symbol, g.ts, g.recv_ts);
                self.rows.push(g.kind as u8);
                self.varint(g.first);
                self.varint(g.last);
                self.text(&g.source);
            }
            Tick::PrevClose(p) => {
                let coarse = is_coarse(p.price);
                self.head(Kind::PrevClose, false, coarse, symbol, p.ts, p.recv_ts);
                self.price(symbol, p.price, coarse);
            }
        }
    }

    /// Takes the record out and empties the encoder.
    pub fn finish(&mut self, origin: Origin) -> Bytes {
        let mut out = Vec::with_capacity(48 + 17 * self.symbols.len() + self.rows.len());
        out.push(VERSION);
        out.extend_from_slice(&origin.producer.to_le_bytes());
        out.extend_from_slice(&origin.sequence.to_le_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        write_varint(&mut out, u64::from(self.ticks));
        write_varint(&mut out, self.symbols.len() as u64);
        for symbol in &self.symbols {
            out.push(symbol.as_bytes().len() as u8);
            out.extend_from_slice(symbol.as_bytes());
        }
        out.extend_from_slice(&self.rows);
        self.symbols.clear();
        self.indexes.clear();
        self.rows.clear();
        self.ticks = 0;
        let mut prices = std::mem::take(&mut self.last.prices);
        prices.clear();
        self.last = Last { prices, ..Last::default() };
        out.into()
    }

    #[inline]
    fn index(&mut self, symbol: Symbol) -> u32 {
        *self.indexes.entry(symbol).or_insert_with(|| {
            self.symbols.push(symbol);
            self.last.prices.push(0);
            (self.symbols.len() - 1) as u32
        })
    }

    #[inline]
    fn head(&mut self, kind: Kind, same: bool, coarse: bool, symbol: u32, ts: Timestamp, recv_ts: Timestamp) {
        let flags = if same { SAME_CODES } else { 0 } | if coarse { COARSE_PRICES } else { 0 };
        self.rows.push(kind as u8 | flags);
        self.varint(u64::from(symbol));
        self.zigzag(ts.nanos().wrapping_sub(self.last.ts));
        self.last.ts = ts.nanos();
        let lag = recv_ts.nanos().wrapping_sub(ts.nanos());
        self.zigzag(lag.wrapping_sub(self.last.lag));
        self.last.lag = lag;
    }

    #[inline]
    fn price(&mut self, symbol: u32, price: Price, coarse: bool) {
        let last = std::mem::replace(&mut self.last.prices[symbol as usize], price.nanos());
        // A coarse row is relative to the last price cut down to 1e-4, so that it divides.
        self.zigzag(if coarse { price.nanos() / COARSE - last / COARSE } else { price.nanos() - last });
    }

    #[inline]
    fn id(&mut self, id: u64) {
        let last = std::mem::replace(&mut self.last.id, id as i64);
        self.zigzag((id as i64).wrapping_sub(last));
    }

    fn text(&mut self, text: &str) {
        self.varint(text.len() as u64);
        self.rows.extend_from_slice(text.as_bytes());
    }

    #[inline]
    fn varint(&mut self, value: u64) {
        write_varint(&mut self.rows, value);
    }

    #[inline]
    fn zigzag(&mut self, value: i64) {
        write_varint(&mut self.rows, ((value << 1) ^ (value >> 63)) as u64);
    }
}

fn is_coarse(price: Price) -> bool {
    price.nanos() % COARSE == 0
}

fn codes_of_trade(exchange: Exchange, conditions: Conditions, tape: Tape) -> [u8; 6] {
    let [a, b, c, d] = conditions.to_bits().to_le_bytes();
    [exchange.code(), tape.code(), a, b, c, d]
}

fn codes_of_quote(quote: &Quote) -> [u8; 7] {
    let [a, b, c, d] = quote.conditions.to_bits().to_le_bytes();
    [quote.bid_exchange.code(), quote.ask_exchange.code(), quote.tape.code(), a, b, c, d]
}

#[inline]
fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A record to read: its head is parsed, its rows are not yet.
pub struct RecordView<'a> {
    /// Who wrote it.
    pub origin: Origin,
    /// How many ticks it holds.
    pub ticks: u32,
    symbols: Vec<Symbol>,
    base: i64,
    rows: &'a [u8],
    bytes: &'a [u8],
}

/// The checksum by which a record that is sent again is told from another one under the same number.
pub fn checksum(record: &[u8]) -> u32 {
    xxhash_rust::xxh3::xxh3_64(record) as u32
}

impl<'a> RecordView<'a> {
    /// Reads the head and the symbols.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut input = Input { bytes };
        let version = input.byte("the version")?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let origin = Origin { producer: input.u64("the head")?, sequence: input.u64("the head")? };
        let base = input.u64("the head")? as i64;
        let ticks = u32::try_from(input.varint("the head")?)
            .map_err(|_| RecordError::Value("more ticks than a record can hold".to_owned()))?;
        let symbol_count = input.varint("the head")?;
        // A symbol takes two bytes at least, so a count past that is damage, not a reason to
        // allocate.
        if symbol_count > input.bytes.len() as u64 {
            return Err(RecordError::Truncated("the symbols"));
        }
        let mut symbols = Vec::with_capacity(symbol_count as usize);
        for _ in 0..symbol_count {
            let len = input.byte("the symbols")?;
            let name = input.take(usize::from(len), "the symbols")?;
            symbols.push(Symbol::from_bytes(name).map_err(value)?);
        }
        Ok(Self { origin, ticks, symbols, base, rows: input.bytes, bytes })
    }

    /// The record's [`checksum`].
    pub fn checksum(&self) -> u32 {
        checksum(self.bytes)
    }

    /// The symbols in the record, in the order of first sight. Few records hold all of a
    /// partition's, so a reader of some symbols skips most records by this alone.
    pub fn symbols(&self) -> &[Symbol] {
        &self.symbols
    }

    /// When the first tick was received; [`Timestamp::MIN`] where none can be read.
    pub fn received(&self) -> Timestamp {
        self.ticks().next().and_then(Result::ok).map_or(Timestamp::MIN, |(_, tick)| tick.recv_ts())
    }

    /// Reads the rows.
    pub fn ticks(&self) -> Ticks<'_> {
        let last = Last { ts: self.base, prices: vec![0; self.symbols.len() + 1], ..Last::default() };
        Ticks { input: Input { bytes: self.rows }, symbols: &self.symbols, left: self.ticks, last }
    }
}

/// The ticks of a record, each with its symbol's index in [`RecordView::symbols`].
pub struct Ticks<'a> {
    input: Input<'a>,
    symbols: &'a [Symbol],
    left: u32,
    last: Last,
}

impl Iterator for Ticks<'_> {
    type Item = Result<(Option<u32>, Tick), RecordError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let row = self.row();
        if row.is_err() {
            self.left = 0;
        }
        Some(row)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left as usize))
    }
}

impl Ticks<'_> {
    #[inline]
    fn row(&mut self) -> Result<(Option<u32>, Tick), RecordError> {
        const ROW: &str = "a row";
        let tag = self.input.byte(ROW)?;
        let kind = Kind::from_number(tag & KIND_MASK)
            .ok_or_else(|| value(format!("row of unknown kind {tag:#04x}")))?;
        let (same, coarse) = (tag & SAME_CODES != 0, tag & COARSE_PRICES != 0);
        let number = self.input.varint(ROW)? as usize;
        let index = (number > 0).then(|| number as u32 - 1);
        let symbol = match number {
            0 if kind == Kind::Gap => None,
            0 => return Err(value("a row without a symbol")),
            _ => Some(
                *self.symbols.get(number - 1).ok_or_else(|| value("a symbol that is not in the record"))?,
            ),
        };
        self.last.ts = self.last.ts.wrapping_add(self.input.zigzag(ROW)?);
        self.last.lag = self.last.lag.wrapping_add(self.input.zigzag(ROW)?);
        let ts = Timestamp::from_nanos(self.last.ts);
        let recv_ts = Timestamp::from_nanos(self.last.ts.wrapping_add(self.last.lag));
        let Some(symbol) = symbol else { return Ok((None, self.gap(None, ts, recv_ts)?)) };
        let tick = match kind {
            Kind::Trade => {
                let price = self.price(number, coarse)?;
                let size = self.size()?;
                let id = self.id()?;
                if !same {
                    self.last.trade_codes = self.input.array(ROW)?;
                }
                let [exchange, tape, conditions @ ..] = self.last.trade_codes;
                Tick::Trade(Trade {
                    symbol,
                    ts,
                    recv_ts,
                    price,
                    size,
                    exchange: Exchange::from_code(exchange).map_err(value)?,
                    conditions: conditions_of(&conditions)?,
                    id,
                    tape: Tape::from_code(tape).map_err(value)?,
                })
            }
            Kind::Quote => {
                let bid = self.price(number, coarse)?;
                let ask = self.price(number, coarse)?;
                let (bid_size, ask_size) = (self.size()?, self.size()?);
                if !same {
                    self.last.quote_codes = self.input.array(ROW)?;
                }
                let [bid_exchange, ask_exchange, tape, conditions @ ..] = self.last.quote_codes;
                Tick::Quote(Quote {
                    symbol,
                    ts,
                    recv_ts,
                    bid,
                    ask,
                    bid_size,
                    ask_size,
                    bid_exchange: Exchange::from_code(bid_exchange).map_err(value)?,
                    ask_exchange: Exchange::from_code(ask_exchange).map_err(value)?,
                    conditions: conditions_of(&conditions)?,
                    tape: Tape::from_code(tape).map_err(value)?,
                })
            }
            Kind::Status => {
                let tape = Tape::from_code(self.input.byte(ROW)?).map_err(value)?;
                let (code, message) = (self.input.text()?, self.input.text()?);
                let (reason_code, reason_message) = (self.input.text()?, self.input.text()?);
                Tick::Status(Box::new(Status {
                    symbol,
                    ts,
                    recv_ts,
                    code,
                    message,
                    reason_code,
                    reason_message,
                    tape,
                }))
            }
            Kind::Cancel => {
                let price = self.price(number, coarse)?;
                let size = self.size()?;
                let id = self.id()?;
                let [exchange, action, tape] = self.input.array(ROW)?;
                let exchange = Exchange::from_code(exchange).map_err(value)?;
                let tape = Tape::from_code(tape).map_err(value)?;
                Tick::Cancel(Box::new(Cancel {
                    symbol,
                    ts,
                    recv_ts,
                    id,
                    price,
                    size,
                    exchange,
                    action,
                    tape,
                }))
            }
            Kind::Correction => {
                let (original, corrected) = (self.terms(number)?, self.terms(number)?);
                let [exchange, tape] = self.input.array(ROW)?;
                let exchange = Exchange::from_code(exchange).map_err(value)?;
                let tape = Tape::from_code(tape).map_err(value)?;
                Tick::Correction(Box::new(Correction {
                    symbol,
                    ts,
                    recv_ts,
                    exchange,
                    original,
                    corrected,
                    tape,
                }))
            }
            Kind::Gap => self.gap(Some(symbol), ts, recv_ts)?,
            Kind::PrevClose => {
                Tick::PrevClose(PrevClose { symbol, ts, recv_ts, price: self.price(number, coarse)? })
            }
            Kind::Bar => return Err(value("bars are not in the log")),
        };
        Ok((index, tick))
    }

    fn gap(
        &mut self,
        symbol: Option<Symbol>,
        ts: Timestamp,
        recv_ts: Timestamp,
    ) -> Result<Tick, RecordError> {
        let kind = self.input.byte("a gap")?;
        let kind = GapKind::from_number(kind).ok_or_else(|| value(format!("gap of unknown kind {kind}")))?;
        let (first, last) = (self.input.varint("a gap")?, self.input.varint("a gap")?);
        let source = self.input.text()?;
        Ok(Tick::Gap(Box::new(Gap { symbol, ts, recv_ts, kind, source, first, last })))
    }

    fn terms(&mut self, number: usize) -> Result<TradeTerms, RecordError> {
        let price = self.price(number, false)?;
        let size = self.size()?;
        let id = self.id()?;
        let conditions = conditions_of(&self.input.array::<4>("a correction")?)?;
        Ok(TradeTerms { id, price, size, conditions })
    }

    #[inline]
    fn price(&mut self, number: usize, coarse: bool) -> Result<Price, RecordError> {
        let delta = self.input.zigzag("a price")?;
        let last = &mut self.last.prices[number];
        let nanos = if coarse {
            (*last / COARSE).checked_add(delta).and_then(|units| units.checked_mul(COARSE))
        } else {
            last.checked_add(delta)
        };
        let price = nanos.and_then(Price::from_nanos).ok_or_else(|| value("a price out of range"))?;
        *last = price.nanos();
        Ok(price)
    }

    #[inline]
    fn size(&mut self) -> Result<u32, RecordError> {
        u32::try_from(self.input.varint("a size")?).map_err(|_| value("a size out of range"))
    }

    #[inline]
    fn id(&mut self) -> Result<u64, RecordError> {
        self.last.id = self.last.id.wrapping_add(self.input.zigzag("an id")?);
        Ok(self.last.id as u64)
    }
}

#[inline]
fn conditions_of(padded: &[u8; 4]) -> Result<Conditions, RecordError> {
    if *padded == [0; 4] {
        return Ok(Conditions::NONE);
    }
    let len = padded.iter().position(|&code| code == 0).unwrap_or(padded.len());
    Conditions::from_codes(&padded[..len]).map_err(value)
}

fn value(reason: impl ToString) -> RecordError {
    RecordError::Value(reason.to_string())
}

struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    #[inline]
    fn take(&mut self, len: usize, within: &'static str) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(RecordError::Truncated(within))?;
        self.bytes = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self, within: &'static str) -> Result<[u8; N], RecordError> {
        let (taken, rest) = self.bytes.split_first_chunk::<N>().ok_or(RecordError::Truncated(within))?;
        self.bytes = rest;
        Ok(*taken)
    }

    #[inline]
    fn byte(&mut self, within: &'static str) -> Result<u8, RecordError> {
        let (&byte, rest) = self.bytes.split_first().ok_or(RecordError::Truncated(within))?;
        self.bytes = rest;
        Ok(byte)
    }

    fn u64(&mut self, within: &'static str) -> Result<u64, RecordError> {
        Ok(u64::from_le_bytes(self.array(within)?))
    }

    #[inline]
    fn varint(&mut self, within: &'static str) -> Result<u64, RecordError> {
        let mut value = 0;
        for (at, &byte) in self.bytes.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                self.bytes = &self.bytes[at + 1..];
                return Ok(value);
            }
        }
        Err(RecordError::Truncated(within))
    }

    #[inline]
    fn zigzag(&mut self, within: &'static str) -> Result<i64, RecordError> {
        let folded = self.varint(within)?;
        Ok((folded >> 1) as i64 ^ -((folded & 1) as i64))
    }

    fn text(&mut self) -> Result<Box<str>, RecordError> {
        let len = self.varint("a text")?;
        let len = usize::try_from(len).map_err(|_| RecordError::Truncated("a text"))?;
        let bytes = self.take(len, "a text")?;
        std::str::from_utf8(bytes).map(Into::into).map_err(|_| value("a text that is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::arbitrary;

    const ORIGIN: Origin = Origin { producer: 0x1122_3344_5566_7788, sequence: 42 };

    fn encoded(ticks: &[Tick]) -> Bytes {
        let mut encoder = RecordEncoder::new();
        ticks.iter().for_each(|tick| encoder.push(tick));
        encoder.finish(ORIGIN)
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<Tick>, RecordError> {
        let view = RecordView::parse(bytes)?;
        view.ticks().map(|row| row.map(|(_, tick)| tick)).collect()
    }

    proptest! {
        #[test]
        fn ticks_come_back_exactly(ticks in prop::collection::vec(arbitrary::tick(), 0..60)) {
            let mut encoder = RecordEncoder::new();
            for _ in 0..2 {
                ticks.iter().for_each(|tick| encoder.push(tick));
                let bytes = encoder.finish(ORIGIN);
                let view = RecordView::parse(&bytes).unwrap();
                prop_assert_eq!((view.origin, view.ticks as usize), (ORIGIN, ticks.len()));
                for row in view.ticks() {
                    let (index, tick) = row.unwrap();
                    prop_assert_eq!(index.map(|index| view.symbols()[index as usize]), tick.symbol());
                }
                prop_assert_eq!(decoded(&bytes).unwrap(), ticks.clone());
            }
        }

        #[test]
        fn damage_is_an_error_not_a_panic(
            ticks in prop::collection::vec(arbitrary::tick(), 1..20),
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = encoded(&ticks);
            let mut flipped = whole.to_vec();
            flipped[at.index(whole.len())] ^= flip;
            let _ = decoded(&flipped);
            prop_assert!(decoded(&whole[..cut.index(whole.len())]).is_err());
        }

        #[test]
        fn noise_is_an_error_not_a_panic(mut noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decoded(&noise);
            if let Some(version) = noise.first_mut() {
                *version = VERSION;
            }
            let _ = decoded(&noise);
        }
    }

    #[test]
    fn a_later_version_is_refused_by_name() {
        assert_eq!(
            decoded(&[2, 0, 0]).unwrap_err().to_string(),
            "a log record of version 2; this program reads version 1: use a newer stk"
        );
    }
}
