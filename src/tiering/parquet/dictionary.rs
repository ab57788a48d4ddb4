//! Dictionary columns written as they are.
//!
//! The Arrow writer looks every value of a dictionary array up in a dictionary of its own, by
//! hash. The array's keys say the same already, so they are packed into pages here: a tenth of the
//! time.

use std::io::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use arrow_array::{Array, ArrayRef};
use bytes::Bytes;
use parquet::basic::{BoundaryOrder, Compression, Encoding, Type, ZstdLevel};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{CompressedPage, Page, PageWriter};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ColumnIndexBuilder, OffsetIndexBuilder};
use parquet::file::statistics::Statistics;
use parquet::file::writer::{SerializedPageWriter, SerializedRowGroupWriter, TrackedWrite};
use parquet::schema::types::ColumnDescPtr;

/// Wrong answers of the bloom filter, of all symbols that are not there.
const BLOOM_FALSE_POSITIVES: f64 = 0.02;

/// Values that share a run of packed keys.
const GROUP: usize = 8;

/// Whether [`append`] can write a column.
pub(super) fn can_append(column: &ArrayRef, descriptor: &ColumnDescPtr) -> bool {
    column.as_dictionary_opt::<Int32Type>().is_some() && descriptor.max_def_level() == 0
}

/// Writes `column`, a dictionary without nulls, as the next column of `row_group`, in pages of
/// `page_rows`. With `index` the pages' first and last values and a bloom filter are written too; then the values ascend.
pub(super) fn append<W: Write + Send>(
    row_group: &mut SerializedRowGroupWriter<'_, W>,
    descriptor: ColumnDescPtr,
    column: &ArrayRef,
    index: bool,
    page_rows: usize,
    zstd_level: ZstdLevel,
) -> Result<(), ParquetError> {
    let column = column.as_dictionary::<Int32Type>();
    let (keys, names) = (&column.keys().values()[..], column.values().as_string::<i32>());
    let mut sink = TrackedWrite::new(Vec::new());
    let mut pages = Pages {
        writer: SerializedPageWriter::new(&mut sink),
        zstd: zstd::bulk::Compressor::new(zstd_level.compression_level())?,
        uncompressed: 0,
        compressed: 0,
    };
    let mut dictionary = Vec::new();
    for name in names.iter().flatten() {
        dictionary.extend_from_slice(&(name.len() as u32).to_le_bytes());
        dictionary.extend_from_slice(name.as_bytes());
    }
    let num_values = names.len() as u32;
    pages.write(&dictionary, |buf| Page::DictionaryPage {
        buf,
        num_values,
        encoding: Encoding::PLAIN,
        is_sorted: false,
    })?;
    let data_page_offset = pages.compressed as i64;

    let width = u32::BITS - (names.len().saturating_sub(1) as u32).leading_zeros();
    let mut offsets = OffsetIndexBuilder::new();
    let mut bounds = ColumnIndexBuilder::new(Type::BYTE_ARRAY);
    let name = |key: i32| names.value(key as usize).as_bytes();
    let mut packed = Vec::new();
    for page in keys.chunks(page_rows) {
        packed.clear();
        packed.push(width as u8);
        pack(page, width, &mut packed);
        let offset = pages.compressed as i64;
        let size = pages.write(&packed, |buf| Page::DataPage {
            buf,
            num_values: page.len() as u32,
            encoding: Encoding::RLE_DICTIONARY,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        })?;
        offsets.append_row_count(page.len() as i64);
        offsets.append_offset_and_size(offset, size as i32);
        if index && let (Some(first), Some(last)) = (page.first(), page.last()) {
            bounds.append(false, name(*first).to_vec(), name(*last).to_vec(), 0, None);
        }
    }
    let (compressed, uncompressed) = (pages.compressed as i64, pages.uncompressed as i64);

    let mut metadata = ColumnChunkMetaData::builder(descriptor)
        .set_compression(Compression::ZSTD(zstd_level))
        .set_encodings(vec![Encoding::PLAIN, Encoding::RLE, Encoding::RLE_DICTIONARY])
        .set_total_compressed_size(compressed)
        .set_total_uncompressed_size(uncompressed)
        .set_num_values(keys.len() as i64)
        .set_dictionary_page_offset(Some(0))
        .set_data_page_offset(data_page_offset);
    let (mut bloom_filter, mut column_index) = (None, None);
    if index && let (Some(first), Some(last)) = (keys.first(), keys.last()) {
        let value = |key: i32| Some(ByteArray::from(name(key).to_vec()));
        metadata = metadata.set_statistics(Statistics::byte_array(
            value(*first),
            value(*last),
            None,
            Some(0),
            false,
        ));
        let mut bloom = Sbbf::new_with_ndv_fpp(names.len() as u64, BLOOM_FALSE_POSITIVES)?;
        names.iter().flatten().for_each(|name| bloom.insert(name.as_bytes()));
        bloom_filter = Some(bloom);
        bounds.set_boundary_order(BoundaryOrder::ASCENDING);
        column_index = Some(bounds.build()?);
    }
    let close = ColumnCloseResult {
        bytes_written: compressed as u64,
        rows_written: keys.len() as u64,
        metadata: metadata.build()?,
        bloom_filter,
        column_index,
        offset_index: Some(offsets.build()),
    };
    row_group.append_column(&Bytes::from(sink.into_inner()?), close)
}

struct Pages<'a> {
    writer: SerializedPageWriter<'a, Vec<u8>>,
    zstd: zstd::bulk::Compressor<'static>,
    uncompressed: usize,
    compressed: usize,
}

impl Pages<'_> {
    /// Writes a page; returns its size in the file.
    fn write(&mut self, plain: &[u8], page: impl FnOnce(Bytes) -> Page) -> Result<usize, ParquetError> {
        let buf = Bytes::from(self.zstd.compress(plain)?);
        let written = self.writer.write_page(CompressedPage::new(page(buf), plain.len()))?;
        self.uncompressed += written.uncompressed_size;
        self.compressed += written.compressed_size;
        Ok(written.compressed_size)
    }
}

/// Parquet's hybrid of runs and packed keys: long runs as a count and the key, the rest packed in
/// groups of eight at `width` bits each.
fn pack(keys: &[i32], width: u32, out: &mut Vec<u8>) {
    let (mut packed_from, mut at) = (0, 0);
    while at < keys.len() {
        let run = 1 + keys[at + 1..].iter().take_while(|&&key| key == keys[at]).count();
        // What was packed so far has to be filled up to whole groups, from the run.
        let fill = (packed_from..at).len().next_multiple_of(GROUP) - (at - packed_from);
        if run >= fill + GROUP {
            pack_groups(&keys[packed_from..at + fill], width, out);
            write_varint(((run - fill) as u64) << 1, out);
            out.extend_from_slice(&keys[at].to_le_bytes()[..width.div_ceil(8) as usize]);
            packed_from = at + run;
        }
        at += run;
    }
    pack_groups(&keys[packed_from..], width, out);
}

fn pack_groups(keys: &[i32], width: u32, out: &mut Vec<u8>) {
    if keys.is_empty() {
        return;
    }
    write_varint(((keys.len().div_ceil(GROUP) as u64) << 1) | 1, out);
    for group in keys.chunks(GROUP) {
        // Keys take 32 bits at most, so that a byte's worth or more is always taken out in time.
        let (mut bits, mut count) = (0_u64, 0);
        for place in 0..GROUP {
            bits |= u64::from(group.get(place).copied().unwrap_or(0) as u32) << count;
            count += width;
            while count >= 8 {
                out.push(bits as u8);
                bits >>= 8;
                count -= 8;
            }
        }
    }
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{DictionaryArray, Int32Array, StringArray};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use proptest::prelude::*;

    use super::*;

    fn read_back(column: &ArrayRef) -> Vec<String> {
        let schema = Arc::new(parse_message_type("message rows { required binary name (UTF8); }").unwrap());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
        let descriptor = writer.schema_descr().column(0);
        assert!(can_append(column, &descriptor));
        let mut row_group = writer.next_row_group().unwrap();
        append(&mut row_group, descriptor, column, false, 4096, ZstdLevel::default()).unwrap();
        row_group.close().unwrap();
        let reader =
            ParquetRecordBatchReader::try_new(Bytes::from(writer.into_inner().unwrap()), 1000).unwrap();
        let batches = reader.map(|batch| batch.unwrap().column(0).as_string::<i32>().clone());
        batches.flat_map(|names| names.iter().flatten().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_keys_are_read_back(
            names in 1_i32..3000,
            runs in prop::collection::vec((any::<u32>(), prop_oneof![4 => 1_usize..4, 1 => 1_usize..3000]), 1..400),
        ) {
            let keys = runs.iter().flat_map(|(key, len)| std::iter::repeat_n((key % names as u32) as i32, *len));
            let keys: Vec<i32> = keys.collect();
            let texts: Vec<String> = (0..names).map(|name| format!("N{name}")).collect();
            let expected: Vec<String> = keys.iter().map(|&key| texts[key as usize].clone()).collect();
            let values = Arc::new(StringArray::from(texts));
            let column: ArrayRef = Arc::new(DictionaryArray::new(Int32Array::from(keys), values));
            prop_assert_eq!(read_back(&column), expected);
        }
    }
}
