//! Checksums of a file's blocks, so that every byte read of a file is checked, however few are.
//!
//! ```text
//! 0 ──── block ──── block ──── rest │ footer: bloom filters, page indexes, metadata
//! ```
//!
//! The rows' part of a file is cut into blocks of equal size, the last one shorter. Their CRC-32s are
//! stored in the footer's metadata; the footer's own checksum is stored with whatever names the file.
//! Parquet's page checksums would leave page headers, indexes and statistics unchecked.

use std::io::{self, Write};
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData};

/// The key of the footer's metadata that holds the checksums.
const KEY: &str = "stk.block_crc32";

/// Bytes of a block of files that were written without checksums. They are known once the whole
/// file was read, and kept in memory.
pub(in crate::tiering) const LATE_BLOCK_BYTES: u64 = 64 << 10;

/// The CRC-32 of each block of a file, or of its rows' part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tiering) struct Sums {
    block_bytes: u64,
    /// Where blocks begin anew; the end where they do not.
    footer_at: u64,
    /// Where the last block ends.
    end: u64,
    crcs: Vec<u32>,
}

impl Sums {
    /// The checksums of the rows' part that a footer holds, which begins at `footer_at`.
    ///
    /// Errors: there are none, or those of another file.
    pub(in crate::tiering) fn stored(
        metadata: &ParquetMetaData,
        footer_at: u64,
    ) -> Result<Self, ParquetError> {
        let values = metadata.file_metadata().key_value_metadata();
        let value = values.and_then(|values| values.iter().find(|value| value.key == KEY));
        let parsed = value.and_then(|value| Self::from_text(value.value.as_deref()?, footer_at));
        parsed.ok_or_else(|| ParquetError::General("its footer lacks the checksums of its blocks".to_owned()))
    }

    fn from_text(text: &str, footer_at: u64) -> Option<Self> {
        let (block_bytes, crcs) = text.split_once(' ')?;
        let block_bytes: u64 = block_bytes.parse().ok().filter(|bytes| *bytes > 0)?;
        let crcs = STANDARD.decode(crcs).ok()?;
        let crcs: Vec<u32> = crcs
            .chunks(4)
            .map(|crc| crc.try_into().map(u32::from_le_bytes))
            .collect::<Result<_, _>>()
            .ok()?;
        (crcs.len() as u64 == footer_at.div_ceil(block_bytes)).then_some(Self {
            block_bytes,
            footer_at,
            end: footer_at,
            crcs,
        })
    }

    fn to_text(&self) -> String {
        let bytes: Vec<u8> = self.crcs.iter().flat_map(|crc| crc.to_le_bytes()).collect();
        format!("{} {}", self.block_bytes, STANDARD.encode(bytes))
    }

    /// The same with the checksums of the `footer`, which was found to be sound: it may be read again.
    pub(in crate::tiering) fn with_footer(mut self, footer: &[u8]) -> Self {
        let mut summer = Summer::new(self.block_bytes);
        summer.update(footer);
        self.crcs.extend(summer.finish().crcs);
        self.end = self.footer_at + footer.len() as u64;
        self
    }

    /// Computes the checksums of other bytes in blocks of the same size.
    pub(in crate::tiering) fn summer(&self) -> Summer {
        Summer::new(self.block_bytes)
    }

    /// Memory held, about.
    pub(in crate::tiering) fn bytes(&self) -> usize {
        self.crcs.len() * 4
    }

    /// Blocks before the footer.
    fn blocks_of_rows(&self) -> u64 {
        self.footer_at.div_ceil(self.block_bytes)
    }

    /// The block that holds the byte `at`.
    fn block_of(&self, at: u64) -> u64 {
        match at.checked_sub(self.footer_at) {
            None => at / self.block_bytes,
            Some(after) => self.blocks_of_rows() + after / self.block_bytes,
        }
    }

    fn block(&self, block: u64) -> Range<u64> {
        let rows = self.blocks_of_rows();
        let (start, end) = match block.checked_sub(rows) {
            None => (block * self.block_bytes, self.footer_at),
            Some(after) => (self.footer_at + after * self.block_bytes, self.end),
        };
        start..end.min(start + self.block_bytes)
    }

    /// The blocks that hold `range`: what must be read to check it.
    pub(in crate::tiering) fn widen(&self, range: &Range<u64>) -> Result<Range<u64>, ParquetError> {
        if range.end > self.end || range.start > range.end {
            return Err(ParquetError::EOF(format!(
                "bytes {} to {} lie beyond its end at {}",
                range.start, range.end, self.end
            )));
        }
        if range.is_empty() {
            return Ok(range.clone());
        }
        Ok(self.block(self.block_of(range.start)).start..self.block(self.block_of(range.end - 1)).end)
    }

    /// Checks whole blocks: `bytes` of the file from `start` on.
    pub(in crate::tiering) fn check(&self, start: u64, bytes: &[u8]) -> Result<(), ParquetError> {
        let (mut at, mut rest) = (start, bytes);
        while !rest.is_empty() {
            let number = self.block_of(at);
            let block = self.block(number);
            let len = (block.end - block.start) as usize;
            let is_sound = at == block.start
                && rest.len() >= len
                && self.crcs.get(number as usize).is_some_and(|crc| *crc == crc32fast::hash(&rest[..len]));
            if !is_sound {
                let (start, end) = (block.start, block.end);
                return Err(ParquetError::General(format!(
                    "bytes {start} to {end} do not match their checksum"
                )));
            }
            rest = &rest[len..];
            at = block.end;
        }
        Ok(())
    }

    /// What of `ranges`, in any order, must be read: whole blocks, in order, none twice.
    pub(in crate::tiering) fn blocks(&self, ranges: &[Range<u64>]) -> Result<Vec<Range<u64>>, ParquetError> {
        let mut wide = ranges.iter().map(|range| self.widen(range)).collect::<Result<Vec<_>, _>>()?;
        wide.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::new();
        for range in wide.into_iter().filter(|range| !range.is_empty()) {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        Ok(merged)
    }

    /// Checks the bytes of [`Sums::blocks`] and cuts `ranges` out of them.
    pub(in crate::tiering) fn cut(
        &self,
        ranges: &[Range<u64>],
        blocks: &[Range<u64>],
        bytes: &[Bytes],
    ) -> Result<Vec<Bytes>, ParquetError> {
        for (block, bytes) in blocks.iter().zip(bytes) {
            if bytes.len() as u64 != block.end - block.start {
                return Err(ParquetError::EOF(format!(
                    "of bytes {} to {} there are {}",
                    block.start,
                    block.end,
                    bytes.len()
                )));
            }
            self.check(block.start, bytes)?;
        }
        let cut = |range: &Range<u64>| {
            if range.is_empty() {
                return Ok(Bytes::new());
            }
            let at = blocks.partition_point(|block| block.end <= range.start);
            let found = blocks.get(at).zip(bytes.get(at));
            let (block, bytes) =
                found.filter(|(block, _)| block.start <= range.start && range.end <= block.end).ok_or_else(
                    || ParquetError::EOF(format!("bytes {} to {} were not read", range.start, range.end)),
                )?;
            Ok(bytes.slice((range.start - block.start) as usize..(range.end - block.start) as usize))
        };
        ranges.iter().map(cut).collect()
    }
}

/// Computes checksums of blocks out of bytes in order.
pub(in crate::tiering) struct Summer {
    block_bytes: u64,
    crc: crc32fast::Hasher,
    /// Bytes of the block at hand.
    in_block: u64,
    bytes: u64,
    crcs: Vec<u32>,
}

impl Summer {
    pub(in crate::tiering) fn new(block_bytes: u64) -> Self {
        Self { block_bytes, crc: crc32fast::Hasher::new(), in_block: 0, bytes: 0, crcs: Vec::new() }
    }

    pub(in crate::tiering) fn update(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let left = usize::try_from(self.block_bytes - self.in_block).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(left));
            self.crc.update(now);
            self.in_block += now.len() as u64;
            if self.in_block == self.block_bytes {
                self.end_block();
            }
            bytes = later;
        }
    }

    fn end_block(&mut self) {
        self.crcs.push(std::mem::take(&mut self.crc).finalize());
        self.in_block = 0;
    }

    /// The checksums of all bytes, none of which is a footer.
    pub(in crate::tiering) fn finish(mut self) -> Sums {
        if self.in_block > 0 {
            self.end_block();
        }
        Sums { block_bytes: self.block_bytes, footer_at: self.bytes, end: self.bytes, crcs: self.crcs }
    }
}

/// A sink that computes the checksums of what goes through it: of blocks of the rows, then of the
/// footer.
pub(super) struct Summed<W> {
    pub(super) inner: W,
    rows: Option<Summer>,
    footer: crc32fast::Hasher,
}

impl<W> Summed<W> {
    pub(super) fn new(inner: W, block_bytes: u64) -> Self {
        Self { inner, rows: Some(Summer::new(block_bytes)), footer: crc32fast::Hasher::new() }
    }

    /// The rows have ended: where, and what the footer's metadata has to say.
    pub(super) fn end_rows(&mut self) -> Option<(u64, KeyValue)> {
        let sums = self.rows.take()?.finish();
        Some((sums.end, KeyValue::new(KEY.to_owned(), sums.to_text())))
    }

    /// CRC-32 of what came after the rows.
    pub(super) fn footer_crc(&self) -> u32 {
        self.footer.clone().finalize()
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        match &mut self.rows {
            Some(rows) => rows.update(&bytes[..written]),
            None => self.footer.update(&bytes[..written]),
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_cut_out_of_blocks_and_no_flip_gets_through(
            rows in prop::collection::vec(any::<u8>(), 1..300),
            footer in prop::collection::vec(any::<u8>(), 0..50),
            block_bytes in 1_u64..70,
            picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
            flip in (any::<prop::sample::Index>(), 0_u8..8),
        ) {
            let mut summer = Summer::new(block_bytes);
            rows.chunks(7).for_each(|piece| summer.update(piece));
            let sums = summer.finish();
            let parsed = Sums::from_text(&sums.to_text(), rows.len() as u64);
            prop_assert_eq!(parsed.as_ref(), Some(&sums));
            prop_assert_eq!(Sums::from_text(&sums.to_text(), rows.len() as u64 + block_bytes), None);
            let sums = sums.with_footer(&footer);
            let file = [rows, footer].concat();
            let ranges: Vec<_> = picks.iter().map(|(start, end)| {
                let (a, b) = (start.index(file.len() + 1) as u64, end.index(file.len() + 1) as u64);
                a.min(b)..a.max(b)
            }).collect();
            let blocks = sums.blocks(&ranges).unwrap();
            let read = |file: &[u8]| -> Vec<Bytes> {
                let part = |block: &Range<u64>| Bytes::copy_from_slice(&file[block.start as usize..block.end as usize]);
                blocks.iter().map(part).collect()
            };
            let cut = sums.cut(&ranges, &blocks, &read(&file)).unwrap();
            for (range, bytes) in ranges.iter().zip(&cut) {
                prop_assert_eq!(&bytes[..], &file[range.start as usize..range.end as usize]);
            }
            let at = flip.0.index(file.len());
            let mut flipped = file.clone();
            flipped[at] ^= 1 << flip.1;
            let is_read = blocks.iter().any(|block| block.contains(&(at as u64)));
            prop_assert_eq!(sums.cut(&ranges, &blocks, &read(&flipped)).is_err(), is_read);
            prop_assert!(sums.widen(&(0..file.len() as u64 + 1)).is_err());
        }
    }
}
