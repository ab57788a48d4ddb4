//! Writing: batches of ticks into a Parquet file, row group by row group, in bounded memory.

use std::io::Write;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::DataType;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{
    BloomFilterPosition, EnabledStatistics, WriterProperties, WriterPropertiesPtr,
};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnDescPtr, ColumnPath};

use super::dictionary;
use super::sums::Summed;
use crate::market::{Kind, TickBatch};

/// Rows of a page for each byte of a block that has a checksum. A reader takes in whole blocks: larger
/// ones would have it read much beside the pages it wants, smaller ones make the footer large.
const PAGE_ROWS_PER_BLOCK_BYTE: u64 = 2;

/// How a column of numbers (times, prices, counts, places in the log) is encoded before it is
/// compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tiering) enum Numbers {
    /// As they are: where values repeat in patterns that compression finds.
    Plain,
    /// Differences to the one before, bit-packed: where they grow steadily.
    Delta,
    /// The first byte of all, then the second of all: where high bytes change seldom.
    Split,
    /// Each distinct value once, then its number.
    Dictionary,
}

impl Numbers {
    /// Every way.
    pub(in crate::tiering) const ALL: [Self; 4] = [Self::Plain, Self::Delta, Self::Split, Self::Dictionary];
}

/// How files of one kind are laid out.
#[derive(Clone)]
pub(in crate::tiering) struct Layout {
    kind: Kind,
    page_rows: usize,
    row_group_rows: usize,
    zstd_level: ZstdLevel,
    properties: WriterPropertiesPtr,
}

impl Layout {
    /// A layout of `page_rows` rows a page and `row_group_rows` a row group, compressed at
    /// `zstd_level` (1 to 22), in which the columns of numbers are encoded as `numbers` says of
    /// their names.
    pub(in crate::tiering) fn new(
        kind: Kind,
        page_rows: usize,
        row_group_rows: usize,
        zstd_level: i32,
        numbers: impl Fn(&str) -> Numbers,
    ) -> Self {
        let zstd_level = ZstdLevel::try_new(zstd_level).unwrap_or_default();
        let mut builder = WriterProperties::builder()
            .set_created_by(format!("stk {}", env!("CARGO_PKG_VERSION")))
            .set_compression(Compression::ZSTD(zstd_level))
            .set_data_page_row_count_limit(page_rows)
            .set_write_batch_size(page_rows)
            .set_max_row_group_row_count(None)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_dictionary_enabled(false)
            .set_sorting_columns(Some(sorting(kind)))
            // Behind all rows, so that a copy of the file's end is enough to plan by.
            .set_bloom_filter_position(BloomFilterPosition::End);
        for field in TickBatch::schema(kind).fields() {
            let column = ColumnPath::from(field.name().as_str());
            builder = match field.data_type() {
                DataType::Dictionary(..) => builder.set_column_dictionary_enabled(column, true),
                DataType::Utf8 => builder.set_column_encoding(column, Encoding::DELTA_LENGTH_BYTE_ARRAY),
                DataType::Decimal128(..) => builder,
                _ => match numbers(field.name()) {
                    Numbers::Plain => builder.set_column_encoding(column, Encoding::PLAIN),
                    Numbers::Delta => builder.set_column_encoding(column, Encoding::DELTA_BINARY_PACKED),
                    Numbers::Split => builder.set_column_encoding(column, Encoding::BYTE_STREAM_SPLIT),
                    Numbers::Dictionary => builder.set_column_dictionary_enabled(column, true),
                },
            };
        }
        for name in ["symbol", "ts"] {
            builder = builder.set_column_statistics_enabled(name.into(), EnabledStatistics::Page);
        }
        let properties = builder
            .set_column_bloom_filter_enabled("symbol".into(), true)
            .set_column_bloom_filter_max_ndv("symbol".into(), 1 << 13)
            .build();
        Self { kind, page_rows, row_group_rows, zstd_level, properties: Arc::new(properties) }
    }

    /// The same with other row groups.
    pub(in crate::tiering) fn with_row_group_rows(self, row_group_rows: usize) -> Self {
        Self { row_group_rows, ..self }
    }

    /// The layout that writes `sample` smallest, each column of numbers by itself.
    pub(in crate::tiering) fn fitted(
        sample: &TickBatch,
        page_rows: usize,
        row_group_rows: usize,
        zstd_level: i32,
    ) -> Result<Self, ParquetError> {
        let kind = sample.kind();
        let mut best: Vec<(String, Numbers, i64)> = Vec::new();
        for numbers in Numbers::ALL {
            let layout = Self::new(kind, page_rows, row_group_rows, zstd_level, |_| numbers);
            let mut writer = TickWriter::new(layout, std::io::sink())?;
            writer.write_whole(sample)?;
            for group in writer.writer.flushed_row_groups() {
                for column in group.columns() {
                    let (name, bytes) = (column.column_path().string(), column.compressed_size());
                    match best.iter_mut().find(|(known, ..)| *known == name) {
                        Some(known) if bytes < known.2 => *known = (name, numbers, bytes),
                        Some(_) => {}
                        None => best.push((name, numbers, bytes)),
                    }
                }
            }
        }
        Ok(Self::new(kind, page_rows, row_group_rows, zstd_level, |name| {
            best.iter().find(|(known, ..)| known == name).map_or(Numbers::Delta, |(_, numbers, _)| *numbers)
        }))
    }
}

/// The rows of `batches` in pieces that end where pages of `page_rows` end: a column's writer ends a
/// page only behind what it was given at once.
fn pieces(batches: &[TickBatch], page_rows: usize) -> Vec<RecordBatch> {
    let (mut pieces, mut in_page) = (Vec::new(), 0);
    for batch in batches {
        let mut start = 0;
        while start < batch.len() {
            let end = batch.len().min(start + page_rows - in_page);
            pieces.push(batch.slice(start..end).record_batch().clone());
            in_page = (in_page + end - start) % page_rows;
            start = end;
        }
    }
    pieces
}

fn sorting(kind: Kind) -> Vec<SortingColumn> {
    let schema = TickBatch::schema(kind);
    let columns = ["symbol", "ts", "partition", "offset", "index"];
    let sorted = columns.iter().filter_map(|name| schema.index_of(name).ok());
    sorted.map(|at| SortingColumn { column_idx: at as i32, descending: false, nulls_first: true }).collect()
}

/// Writes one file.
pub(in crate::tiering) struct TickWriter<W: Write + Send> {
    layout: Layout,
    writer: SerializedFileWriter<Summed<W>>,
    factory: ArrowRowGroupWriterFactory,
    /// What the columns are to Parquet, in their order: none is nested.
    descriptors: Vec<ColumnDescPtr>,
    /// The row group being written in pieces, and its rows.
    open: Option<(Vec<ArrowColumnWriter>, usize)>,
}

impl<W: Write + Send> TickWriter<W> {
    /// Begins a file.
    pub(in crate::tiering) fn new(layout: Layout, sink: W) -> Result<Self, ParquetError> {
        let schema = TickBatch::schema(layout.kind);
        // Without the Arrow schema in the footer, which readers are told anyway: it is as large as
        // the rest of a small file's footer.
        let parquet_schema = ArrowSchemaConverter::new().convert(&schema)?;
        let sink = Summed::new(sink, (layout.page_rows as u64 / PAGE_ROWS_PER_BLOCK_BYTE).max(1));
        let writer =
            SerializedFileWriter::new(sink, parquet_schema.root_schema_ptr(), layout.properties.clone())?;
        let descriptors = writer.schema_descr().columns().to_vec();
        let factory = ArrowRowGroupWriterFactory::new(&writer, schema);
        Ok(Self { layout, writer, factory, descriptors, open: None })
    }

    /// Where the bytes go. What has come out so far may stand in a buffer yet.
    pub(in crate::tiering) fn sink_mut(&mut self) -> &mut W {
        &mut self.writer.inner_mut().inner
    }

    /// Writes all of `batch` as row groups, column by column, so that only one column's pages are in
    /// memory.
    pub(in crate::tiering) fn write_whole(&mut self, batch: &TickBatch) -> Result<(), ParquetError> {
        let mut start = 0;
        while start < batch.len() {
            let end = batch.len().min(start + self.layout.row_group_rows);
            self.write_group(&[batch.slice(start..end)])?;
            start = end;
        }
        Ok(())
    }

    /// Writes the rows of all `batches` as one row group, whatever its size, column by column.
    pub(in crate::tiering) fn write_group(&mut self, batches: &[TickBatch]) -> Result<(), ParquetError> {
        self.close_row_group()?;
        if batches.is_empty() {
            return Ok(());
        }
        let number = self.writer.flushed_row_groups().len();
        let columns = self.factory.create_column_writers(number)?;
        let mut row_group = self.writer.next_row_group()?;
        let (page_rows, level) = (self.layout.page_rows, self.layout.zstd_level);
        let pieces = pieces(batches, page_rows);
        let schema = TickBatch::schema(self.layout.kind);
        let fields = schema.fields().iter().zip(self.descriptors.iter());
        for (at, (mut column, (field, descriptor))) in columns.into_iter().zip(fields).enumerate() {
            if matches!(field.data_type(), DataType::Dictionary(..)) {
                let whole = TickBatch::concat_column(batches, at);
                if dictionary::can_append(&whole, descriptor) {
                    let index = field.name() == "symbol";
                    dictionary::append(&mut row_group, descriptor.clone(), &whole, index, page_rows, level)?;
                    continue;
                }
            }
            for piece in &pieces {
                for leaf in compute_leaves(field, piece.column(at))? {
                    column.write(&leaf)?;
                }
            }
            column.close()?.append_to_row_group(&mut row_group)?;
        }
        row_group.close()?;
        Ok(())
    }

    /// Writes the next rows of many: memory grows to one row group's encoded pages.
    pub(in crate::tiering) fn write_part(&mut self, batch: &TickBatch) -> Result<(), ParquetError> {
        let rows = batch.record_batch();
        if self.open.is_none() {
            let number = self.writer.flushed_row_groups().len();
            self.open = Some((self.factory.create_column_writers(number)?, 0));
        }
        let Some((columns, open_rows)) = &mut self.open else { return Ok(()) };
        for ((column, field), array) in columns.iter_mut().zip(rows.schema_ref().fields()).zip(rows.columns())
        {
            for leaf in compute_leaves(field, array)? {
                column.write(&leaf)?;
            }
        }
        *open_rows += rows.num_rows();
        if *open_rows >= self.layout.row_group_rows { self.close_row_group() } else { Ok(()) }
    }

    fn close_row_group(&mut self) -> Result<(), ParquetError> {
        let Some((columns, _)) = self.open.take() else { return Ok(()) };
        let mut row_group = self.writer.next_row_group()?;
        for column in columns {
            column.close()?.append_to_row_group(&mut row_group)?;
        }
        row_group.close()?;
        Ok(())
    }

    /// Ends the file.
    pub(in crate::tiering) fn finish(mut self) -> Result<Finished<W>, ParquetError> {
        self.close_row_group()?;
        self.writer.flush()?;
        let ended = self.writer.inner_mut().end_rows();
        let (footer_at, sums) =
            ended.ok_or_else(|| ParquetError::General("the file has ended already".to_owned()))?;
        self.writer.append_key_value_metadata(sums);
        let summed = self.writer.into_inner()?;
        Ok(Finished { footer_at, footer_crc: summed.footer_crc(), sink: summed.inner })
    }
}

/// A file that was written.
pub(in crate::tiering) struct Finished<W> {
    /// Where it went.
    pub(in crate::tiering) sink: W,
    /// Where its rows end and its footer begins.
    pub(in crate::tiering) footer_at: u64,
    /// CRC-32 of the footer.
    pub(in crate::tiering) footer_crc: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::{NO_SYMBOL, Seq, SymbolTable, TickBatchBuilder, arbitrary};

    const PAGE_ROWS: usize = 8;

    fn file(kind: Kind, batches: &[TickBatch]) -> Vec<u8> {
        let layout = Layout::new(kind, PAGE_ROWS, 1_000, 1, |_| Numbers::Delta);
        let mut writer = TickWriter::new(layout, Vec::new()).unwrap();
        writer.write_group(batches).unwrap();
        writer.finish().unwrap().sink
    }

    proptest! {
        #[test]
        fn a_row_group_is_the_same_however_its_rows_are_cut(
            ticks in prop::collection::vec(arbitrary::tick(), 1..100),
            cut in 1_usize..30,
        ) {
            let (mut builder, mut table) = (TickBatchBuilder::new(3), SymbolTable::default());
            for (offset, tick) in (0..).zip(&ticks) {
                let symbol = tick.symbol().map_or(NO_SYMBOL, |symbol| table.intern(symbol));
                builder.push(symbol, Seq { partition: 3, offset, index: 0 }, tick);
            }
            for (_, batch) in builder.finish(&table) {
                let whole = (0, 0..batch.len());
                let batch = TickBatch::concat(batch.kind(), &[batch], &[whole]);
                let starts = (0..batch.len()).step_by(cut);
                let parts: Vec<_> =
                    starts.map(|start| batch.slice(start..batch.len().min(start + cut))).collect();
                prop_assert_eq!(file(batch.kind(), &parts), file(batch.kind(), &[batch]));
            }
        }
    }
}
