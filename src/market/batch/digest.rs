//! The digest of a batch's rows.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Decimal64Type, Decimal128Type, Int32Type, TimestampNanosecondType, UInt32Type, UInt64Type,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{Long, TickBatch, Word, layout};
use crate::market::{RowDigest, Symbol};

/// Bytes of a timeframe's name, zero-padded.
const TIMEFRAME_BYTES: usize = 8;

impl TickBatch {
    /// The digest of all rows.
    ///
    /// A row's hash is XXH3-64, seed 0, over its market columns in the schema's order, without
    /// `recv_ts`, `partition`, `offset` and `index`: the symbol zero-padded to 16 bytes (all zero
    /// for none); `ts`, prices, times and counts of 64 bits as little-endian i64 or u64; counts of
    /// 32 bits as little-endian u32; codes zero-padded to 4 bytes, a timeframe's name to 8;
    /// `Decimal(38,9)` as little-endian i128; then each text and a zero byte.
    pub fn digest(&self) -> RowDigest {
        let mut digest = RowDigest::default();
        if self.is_empty() {
            return digest;
        }
        let (layout, len) = (layout(self.kind), self.len());
        let column = |name: &str| self.rows.column_by_name(name).expect("checked when the batch was made");
        let word_bytes = |meaning: Word| if meaning == Word::Timeframe { TIMEFRAME_BYTES } else { 4 };
        let words_bytes: usize = layout.words.iter().map(|(_, meaning)| word_bytes(*meaning)).sum();
        let stride = Symbol::LEN_MAX + 8 + 8 * layout.longs.len() + words_bytes + 16 * layout.wides.len();
        // Every row's fixed part lies in `stride` bytes; columns are written one after the other.
        let mut fixed = vec![0_u8; len * stride];
        let mut at = 0;
        let mut put = |width: usize, values: &mut dyn FnMut(usize, &mut [u8])| {
            for (row, cells) in fixed.chunks_exact_mut(stride).enumerate() {
                values(row, &mut cells[at..at + width]);
            }
            at += width;
        };
        let symbols = column("symbol").as_dictionary::<Int32Type>();
        let names = symbols.values().as_string::<i32>();
        put(Symbol::LEN_MAX, &mut |row, cell| {
            if !symbols.is_null(row) {
                let name = names.value(symbols.keys().value(row) as usize).as_bytes();
                cell[..name.len()].copy_from_slice(name);
            }
        });
        let ts = column("ts").as_primitive::<TimestampNanosecondType>().values();
        put(8, &mut |row, cell| cell.copy_from_slice(&ts[row].to_le_bytes()));
        for (name, meaning) in layout.longs {
            let column = column(name);
            match meaning {
                Long::Price => {
                    let values = column.as_primitive::<Decimal64Type>().values();
                    put(8, &mut |row, cell| cell.copy_from_slice(&values[row].to_le_bytes()));
                }
                Long::Time => {
                    let values = column.as_primitive::<TimestampNanosecondType>().values();
                    put(8, &mut |row, cell| cell.copy_from_slice(&values[row].to_le_bytes()));
                }
                Long::Count => {
                    let values = column.as_primitive::<UInt64Type>().values();
                    put(8, &mut |row, cell| cell.copy_from_slice(&values[row].to_le_bytes()));
                }
            }
        }
        for (name, meaning) in layout.words {
            let column = column(name);
            match meaning {
                Word::Count => {
                    let values = column.as_primitive::<UInt32Type>().values();
                    put(4, &mut |row, cell| cell.copy_from_slice(&values[row].to_le_bytes()));
                }
                Word::Code | Word::Timeframe => {
                    let codes = column.as_dictionary::<Int32Type>();
                    let names = codes.values().as_string::<i32>();
                    let width = word_bytes(*meaning);
                    put(width, &mut |row, cell| {
                        let name = names.value(codes.keys().value(row) as usize).as_bytes();
                        let name = &name[..name.len().min(width)];
                        cell[..name.len()].copy_from_slice(name);
                    });
                }
            }
        }
        for name in layout.wides {
            let values = column(name).as_primitive::<Decimal128Type>().values();
            put(16, &mut |row, cell| cell.copy_from_slice(&values[row].to_le_bytes()));
        }
        let texts: Vec<_> = layout.texts.iter().map(|name| column(name).as_string::<i32>()).collect();
        let mut whole = Vec::new();
        for (row, cells) in fixed.chunks_exact(stride).enumerate() {
            let hash = if texts.is_empty() {
                xxh3_64(cells)
            } else {
                whole.clear();
                whole.extend_from_slice(cells);
                for text in &texts {
                    whole.extend_from_slice(text.value(row).as_bytes());
                    whole.push(0);
                }
                xxh3_64(&whole)
            };
            digest.add_row(hash, ts[row]);
        }
        digest
    }
}
