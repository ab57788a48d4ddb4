//! Reading a file that is somewhere else, part by part, front to back.

use std::io;
use std::ops::Range;

use bytes::{Buf, Bytes};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};

use crate::market::{Kind, TickBatch};

/// A part of a file, which is read as if it were the whole.
#[derive(Clone)]
pub(in crate::tiering) struct Window {
    /// Where in the file the part begins.
    pub(in crate::tiering) start: u64,
    /// Its bytes.
    pub(in crate::tiering) bytes: Bytes,
    /// The size of the whole file.
    pub(in crate::tiering) file_bytes: u64,
}

impl Window {
    fn part(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let begin = start.checked_sub(self.start).and_then(|begin| usize::try_from(begin).ok());
        let range = begin.and_then(|begin| Some(begin..begin.checked_add(length)?));
        match range.filter(|range| range.end <= self.bytes.len()) {
            Some(range) => Ok(self.bytes.slice(range)),
            None => Err(ParquetError::EOF(format!("{length} bytes at {start} lie outside of what was read"))),
        }
    }
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.file_bytes
    }
}

impl ChunkReader for Window {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let end = self.start + self.bytes.len() as u64;
        Ok(self.part(start, end.saturating_sub(start) as usize)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        self.part(start, length)
    }
}

/// The metadata of a file of `kind`. Where it is damaged the library may panic, and does so at the latest when it is
/// asked for a column that begins before the file.
pub(super) fn metadata(
    kind: Kind,
    tail: &Window,
    pages: PageIndexPolicy,
) -> Result<ArrowReaderMetadata, ParquetError> {
    let options =
        ArrowReaderOptions::new().with_schema(TickBatch::schema(kind)).with_page_index_policy(pages);
    let load = std::panic::AssertUnwindSafe(|| ArrowReaderMetadata::load(tail, options));
    let damaged = |what: &str| ParquetError::General(what.to_owned());
    let metadata = std::panic::catch_unwind(load)
        .unwrap_or_else(|_| Err(damaged("its footer is not what any writer wrote")))?;
    let is_negative = |column: &ColumnChunkMetaData| {
        let dictionary = column.dictionary_page_offset().unwrap_or(0);
        column.data_page_offset().min(dictionary).min(column.compressed_size()) < 0
    };
    let groups = metadata.metadata().row_groups();
    if groups.iter().any(|group| group.num_rows() < 0 || group.columns().iter().any(is_negative)) {
        return Err(damaged("its footer has negative places or sizes"));
    }
    Ok(metadata)
}

/// What the end of a file says of the rest.
#[derive(Clone)]
pub(in crate::tiering) struct Footer {
    kind: Kind,
    metadata: ArrowReaderMetadata,
    /// Where it begins: where the rows end.
    start: u64,
}

impl Footer {
    /// Reads the end of a file of `kind`: `tail` begins where the rows end.
    pub(in crate::tiering) fn parse(kind: Kind, tail: &Window) -> Result<Self, ParquetError> {
        let metadata = metadata(kind, tail, PageIndexPolicy::Skip)?;
        Ok(Self { kind, metadata, start: tail.start })
    }

    /// The bytes of each row group. The first begins with the file, each next where the one before
    /// it ends, and the last ends where the footer begins.
    pub(in crate::tiering) fn row_groups(&self) -> Result<Vec<Range<u64>>, ParquetError> {
        let mut starts = Vec::new();
        for group in self.metadata.metadata().row_groups() {
            let start = group.columns().iter().map(|column| column.byte_range().0).min().unwrap_or(0);
            if starts.last().is_some_and(|last| start <= *last) || start > self.start {
                return Err(ParquetError::General("its row groups are not in order".to_owned()));
            }
            starts.push(start);
        }
        let ends = starts.iter().skip(1).copied().chain([self.start]);
        let mut ranges: Vec<_> = starts.iter().zip(ends).map(|(start, end)| *start..end).collect();
        if let Some(first) = ranges.first_mut() {
            first.start = 0;
        }
        Ok(ranges)
    }

    /// The name and the size in the file of every column of every row group.
    pub(in crate::tiering) fn column_bytes(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let groups = self.metadata.metadata().row_groups().iter();
        let columns = groups.flat_map(RowGroupMetaData::columns);
        columns.map(|column| (column.column_path().string(), column.compressed_size() as u64))
    }

    /// How many rows a row group has.
    pub(in crate::tiering) fn group_rows(&self, group: usize) -> u64 {
        self.metadata.metadata().row_group(group).num_rows() as u64
    }

    /// The rows of a row group, in batches of `batch_rows`, out of its bytes.
    pub(in crate::tiering) fn rows(
        &self,
        group: usize,
        bytes: Window,
        batch_rows: usize,
    ) -> Result<RowGroupRows, ParquetError> {
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, self.metadata.clone())
            .with_row_groups(vec![group])
            .with_batch_size(batch_rows)
            .build()?;
        Ok(RowGroupRows { kind: self.kind, reader })
    }
}

/// Batches of a row group.
pub(in crate::tiering) struct RowGroupRows {
    kind: Kind,
    reader: ParquetRecordBatchReader,
}

impl Iterator for RowGroupRows {
    type Item = Result<TickBatch, ParquetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.reader.next()?;
        let batch = rows.map_err(|error| ParquetError::ArrowError(error.to_string())).and_then(|rows| {
            let batch = TickBatch::from_record_batch(self.kind, rows);
            batch.map_err(|error| ParquetError::General(error.to_string()))
        });
        Some(batch)
    }
}

/// The system's error, where it is one.
pub(in crate::tiering) fn is_io(error: &ParquetError) -> Option<&io::Error> {
    match error {
        ParquetError::External(source) => source.downcast_ref(),
        _ => None,
    }
}
