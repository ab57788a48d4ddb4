//! Bytes of what the tiers keep for themselves: varints in, varints out, a checksum at the end.

use std::fmt;
use std::ops::RangeInclusive;

use crate::market::{Bar, Price, Seq, Symbol, Timeframe, Timestamp};

/// Why stored bytes can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CodecError {
    /// Written by another version of the program.
    Version(u8),
    /// Cut short, altered, or never such bytes.
    Damaged(&'static str),
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(found) => write!(f, "version {found} is not one this program reads"),
            Self::Damaged(what) => f.write_str(what),
        }
    }
}

const CHECKSUM_BYTES: usize = 8;

/// FNV-1a over words of eight bytes: finds damage, keeps no secret.
fn checksum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut tail = [0; 8];
    tail[..rest.len()].copy_from_slice(rest);
    let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    let hash = words.iter().fold(0xcbf2_9ce4_8422_2325, |hash, word| step(hash, u64::from_le_bytes(*word)));
    step(step(hash, u64::from_le_bytes(tail)), bytes.len() as u64)
}

/// Writes a stored thing: a version, values, a checksum.
pub(super) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    pub(super) fn new(version: u8, capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.push(version);
        Self { out }
    }

    pub(super) fn finish(mut self) -> bytes::Bytes {
        let sum = checksum(&self.out);
        self.out.extend_from_slice(&sum.to_le_bytes());
        self.out.into()
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    pub(super) fn zigzag(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)) as u64);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.varint(bytes.len() as u64);
        self.out.extend_from_slice(bytes);
    }

    pub(super) fn symbol(&mut self, symbol: Symbol) {
        self.bytes(symbol.as_bytes());
    }

    /// Offset and index; the partition is known from elsewhere.
    pub(super) fn place(&mut self, seq: Seq) {
        self.varint(seq.offset);
        self.varint(u64::from(seq.index));
    }

    /// A bar but for its symbol and timeframe, its times relative to `base`.
    pub(super) fn bar(&mut self, base: Timestamp, bar: &Bar) {
        self.zigzag(bar.ts.nanos_since(base));
        self.u8(u8::from(bar.has_price()));
        if bar.has_price() {
            self.zigzag(bar.open.nanos());
            for price in [bar.high, bar.low, bar.close] {
                self.zigzag(price.nanos() - bar.open.nanos());
            }
            self.zigzag(bar.open_ts.nanos().wrapping_sub(bar.ts.nanos()));
            self.zigzag(bar.close_ts.nanos().wrapping_sub(bar.ts.nanos()));
        }
        self.varint(bar.volume);
        self.varint(bar.trade_count);
        // What the average differs from the open by: small, where the sum itself is not.
        let rest = bar.notional - i128::from(bar.open.nanos()) * i128::from(bar.volume);
        let folded = ((rest << 1) ^ (rest >> 127)) as u128;
        self.varint(folded as u64);
        self.varint((folded >> 64) as u64);
    }
}

/// Reads what [`Writer`] wrote. Never panics, whatever the bytes.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks the checksum, and that the version is one of `versions`: which.
    pub(super) fn of_versions(
        bytes: &'a [u8],
        versions: RangeInclusive<u8>,
    ) -> Result<(u8, Self), CodecError> {
        let (body, sum) =
            bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(CodecError::Damaged("it is cut short"))?;
        let (&found, rest) = body.split_first().ok_or(CodecError::Damaged("it is cut short"))?;
        if !versions.contains(&found) {
            return Err(CodecError::Version(found));
        }
        if checksum(body) != u64::from_le_bytes(*sum) {
            return Err(CodecError::Damaged("its checksum does not fit"));
        }
        Ok((found, Self { bytes: rest }))
    }

    pub(super) fn u32(&mut self) -> Result<u32, CodecError> {
        let (word, rest) = self.bytes.split_first_chunk().ok_or(CodecError::Damaged("a value is missing"))?;
        self.bytes = rest;
        Ok(u32::from_le_bytes(*word))
    }

    pub(super) fn u8(&mut self) -> Result<u8, CodecError> {
        let (&byte, rest) = self.bytes.split_first().ok_or(CodecError::Damaged("a value is missing"))?;
        self.bytes = rest;
        Ok(byte)
    }

    pub(super) fn varint(&mut self) -> Result<u64, CodecError> {
        let mut value = 0;
        for at in 0..10 {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CodecError::Damaged("a number is too long"))
    }

    pub(super) fn zigzag(&mut self) -> Result<i64, CodecError> {
        let folded = self.varint()?;
        Ok((folded >> 1) as i64 ^ -((folded & 1) as i64))
    }

    /// A count of things that take `bytes_min` bytes each at least: one past what is left is
    /// damage, not a reason to allocate.
    pub(super) fn count(&mut self, bytes_min: usize) -> Result<usize, CodecError> {
        let count = self.varint()?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.bytes.len() / bytes_min.max(1))
            .ok_or(CodecError::Damaged("a count is too high"))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], CodecError> {
        let len = self.count(1)?;
        let (taken, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn symbol(&mut self) -> Result<Symbol, CodecError> {
        Symbol::from_bytes(self.bytes()?).map_err(|_| CodecError::Damaged("a symbol is none"))
    }

    pub(super) fn place(&mut self, partition: u16) -> Result<Seq, CodecError> {
        let offset = self.varint()?;
        let index =
            u32::try_from(self.varint()?).map_err(|_| CodecError::Damaged("an index is out of range"))?;
        Ok(Seq { partition, offset, index })
    }

    fn price(&mut self, base: i64) -> Result<Price, CodecError> {
        let nanos = base.checked_add(self.zigzag()?);
        nanos.and_then(Price::from_nanos).ok_or(CodecError::Damaged("a price is out of range"))
    }

    pub(super) fn bar(
        &mut self,
        base: Timestamp,
        symbol: Symbol,
        timeframe: Timeframe,
    ) -> Result<Bar, CodecError> {
        let ts = base.saturating_add_nanos(self.zigzag()?);
        let mut bar = Bar { ts, ..Bar::empty(symbol, timeframe, base) };
        if self.u8()? != 0 {
            bar.open = self.price(0)?;
            bar.high = self.price(bar.open.nanos())?;
            bar.low = self.price(bar.open.nanos())?;
            bar.close = self.price(bar.open.nanos())?;
            bar.open_ts = Timestamp::from_nanos(ts.nanos().wrapping_add(self.zigzag()?));
            bar.close_ts = Timestamp::from_nanos(ts.nanos().wrapping_add(self.zigzag()?));
        }
        bar.volume = self.varint()?;
        bar.trade_count = self.varint()?;
        let folded = u128::from(self.varint()?) | u128::from(self.varint()?) << 64;
        let rest = (folded >> 1) as i128 ^ -((folded & 1) as i128);
        bar.notional = rest.wrapping_add(i128::from(bar.open.nanos()) * i128::from(bar.volume));
        Ok(bar)
    }

    /// Nothing may be left over.
    pub(super) fn end(self) -> Result<(), CodecError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(CodecError::Damaged("bytes are left over")) }
    }
}
