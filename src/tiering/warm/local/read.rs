//! Reading a segment: footers once, then only the pages that hold the rows asked for. Every byte is
//! checked before it is used: the footer by the manifest's checksum of it, all else by the checksums
//! in the footer. A segment without those is read whole first.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use bytes::Bytes;
use foldhash::{HashMap, HashSet};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
    RowSelection, RowSelectionPolicy,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::reader::{ChunkReader, Length};

use super::files::{MEND_FILE, damaged, io_error};
use super::segment::is_before;
use super::{Segment, SegmentInfo};
use crate::market::{Kind, Symbol, TickBatch, TimeRange};
use crate::tiering::parquet::{Sums, Window, is_io};
use crate::tiering::warm::{ScanStats, WarmError};

const SYMBOL_COLUMN: usize = 0;
const TS_COLUMN: usize = 1;

/// Reads that are kept for the second time, at most.
const KEPT_MAX: usize = 16;

/// Rows whose symbols are read at once.
const SYMBOLS_BATCH_ROWS: usize = 1 << 16;

/// Symbols beyond which the bloom filter is not asked: one of so many is likely there.
const BLOOM_SYMBOLS_MAX: usize = 16;

/// Which rows are wanted: sorted, without repeats; `None` for all. The symbol `None` stands for
/// rows without one.
pub(super) type Wanted = Option<Arc<[Option<Symbol>]>>;

/// What scans have cost.
pub(super) type SharedStats = Arc<Mutex<ScanStats>>;

/// A segment's file, read at positions, every byte counted.
#[derive(Clone)]
pub(super) struct SegmentFile(Arc<Opened>);

struct Opened {
    file: File,
    len: u64,
    stats: SharedStats,
    /// By which bytes are checked: known before any is read for its rows.
    sums: OnceLock<Arc<Sums>>,
    /// What was read while the rows were looked up, and will be read again with them. None where no
    /// row is looked up: then nothing is read twice.
    kept: Mutex<Option<HashMap<(u64, usize), Bytes>>>,
}

impl SegmentFile {
    fn open(segment: &Segment, stats: SharedStats) -> Result<Self, WarmError> {
        let opened = File::open(&segment.path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len, file) = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => damaged(&segment.path, format!("the file is missing{MEND_FILE}")),
            _ => io_error(&segment.path, &error),
        })?;
        if len != segment.info.bytes {
            let reason =
                format!("it has {len} bytes, not the {} that were written{MEND_FILE}", segment.info.bytes);
            return Err(damaged(&segment.path, reason));
        }
        let (sums, kept) = (OnceLock::new(), Mutex::default());
        Ok(Self(Arc::new(Opened { file, len, stats, sums, kept })))
    }

    /// Checks what is read from here on by `sums`.
    fn check_by(&self, sums: Arc<Sums>) {
        // A second call has the same ones.
        let _ = self.0.sums.set(sums);
    }

    /// Bytes that are not checked.
    fn unchecked(&self, range: &Range<u64>) -> Result<Bytes, ParquetError> {
        if range.end > self.0.len {
            return Err(ParquetError::EOF(format!(
                "bytes {} to {} lie beyond its end",
                range.start, range.end
            )));
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.0.file.read_exact_at(&mut bytes, range.start)?;
        self.count(bytes.len());
        Ok(Bytes::from(bytes))
    }

    /// The bytes of `range`, and the whole blocks they were checked with, which begin at the offset
    /// given along.
    fn checked(&self, range: &Range<u64>) -> Result<(u64, Bytes), ParquetError> {
        let sums = self.0.sums.get();
        let sums = sums.ok_or_else(|| ParquetError::General("its checksums were not read".to_owned()))?;
        let blocks = sums.widen(range)?;
        let bytes = self.unchecked(&blocks)?;
        sums.check(blocks.start, &bytes)?;
        Ok((blocks.start, bytes))
    }

    /// Keeps what is read from here on.
    fn keep(&self) {
        *self.0.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(HashMap::default());
    }

    fn count(&self, bytes: usize) {
        self.0.stats.lock().unwrap_or_else(PoisonError::into_inner).bytes_read += bytes as u64;
    }
}

impl Length for SegmentFile {
    fn len(&self) -> u64 {
        self.0.len
    }
}

impl ChunkReader for SegmentFile {
    type T = ReadFrom;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(ReadFrom { file: self.clone(), at: start, block: Bytes::new() })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = kept.as_ref().and_then(|kept| kept.get(&(start, length))) {
            return Ok(bytes.clone());
        }
        let beyond = || ParquetError::EOF(format!("{length} bytes at {start} lie beyond its end"));
        let end = start.checked_add(length as u64).ok_or_else(beyond)?;
        let (from, bytes) = self.checked(&(start..end))?;
        let skipped = (start - from) as usize;
        let bytes = bytes.slice(skipped..skipped + length);
        if let Some(kept) = kept.as_mut().filter(|kept| kept.len() < KEPT_MAX) {
            kept.insert((start, length), bytes.clone());
        }
        Ok(bytes)
    }
}

/// Reads on from a position, block by block.
pub(super) struct ReadFrom {
    file: SegmentFile,
    at: u64,
    /// The rest of the block at hand.
    block: Bytes,
}

impl Read for ReadFrom {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.block.is_empty() && self.at < self.file.0.len {
            let checked = self.file.checked(&(self.at..self.at + 1));
            let (start, block) =
                checked.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            self.block = block.slice((self.at - start) as usize..);
        }
        let read = out.len().min(self.block.len());
        out[..read].copy_from_slice(&self.block.split_to(read));
        self.at += read as u64;
        Ok(read)
    }
}

/// Parsed footers with page indexes, the least recently used dropped first.
pub(super) struct MetadataCache {
    bytes_max: usize,
    entries: Mutex<CacheEntries>,
}

#[derive(Default)]
struct CacheEntries {
    by_id: HashMap<u64, CacheEntry>,
    bytes: usize,
    uses: u64,
}

struct CacheEntry {
    metadata: ArrowReaderMetadata,
    sums: Arc<Sums>,
    bytes: usize,
    last_use: u64,
}

impl MetadataCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, entries: Mutex::default() }
    }

    pub(super) fn forget(&self, id: u64) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.by_id.remove(&id) {
            entries.bytes -= entry.bytes;
        }
    }

    /// The footer of `segment`; `file` is checked by it from here on.
    fn get(&self, segment: &Segment, file: &SegmentFile) -> Result<ArrowReaderMetadata, WarmError> {
        let id = segment.info.id;
        {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.uses += 1;
            let use_now = entries.uses;
            if let Some(entry) = entries.by_id.get_mut(&id) {
                entry.last_use = use_now;
                file.check_by(entry.sums.clone());
                return Ok(entry.metadata.clone());
            }
        }
        let (metadata, sums) = load(segment, file)?;
        let bytes = metadata.metadata().memory_size() + sums.bytes();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let last_use = entries.uses;
        let entry = CacheEntry { metadata: metadata.clone(), sums, bytes, last_use };
        if entries.by_id.insert(id, entry).is_none() {
            entries.bytes += bytes;
        }
        while entries.bytes > self.bytes_max && entries.by_id.len() > 1 {
            let oldest = entries.by_id.iter().min_by_key(|(_, entry)| entry.last_use).map(|(id, _)| *id);
            let Some(entry) = oldest.and_then(|oldest| entries.by_id.remove(&oldest)) else { break };
            entries.bytes -= entry.bytes;
        }
        Ok(metadata)
    }
}

/// Reads the footer of `segment` and the checksums by which the rest of `file` is checked.
fn load(segment: &Segment, file: &SegmentFile) -> Result<(ArrowReaderMetadata, Arc<Sums>), WarmError> {
    let named = |error: ParquetError| read_error(segment, error);
    let options = || {
        ArrowReaderOptions::new()
            .with_schema(TickBatch::schema(segment.info.kind))
            .with_page_index_policy(PageIndexPolicy::Required)
    };
    let SegmentInfo { footer_at, footer_crc, bytes: file_bytes, .. } = segment.info;
    if footer_at == 0 {
        let sums = segment.late_sums()?;
        file.count(file_bytes as usize);
        file.check_by(sums.clone());
        return Ok((ArrowReaderMetadata::load(file, options()).map_err(named)?, sums));
    }
    let footer = file.unchecked(&(footer_at..file_bytes)).map_err(named)?;
    if crc32fast::hash(&footer) != footer_crc {
        return Err(damaged(&segment.path, format!("its footer does not match its checksum{MEND_FILE}")));
    }
    let window = Window { start: footer_at, bytes: footer.clone(), file_bytes };
    let metadata = ArrowReaderMetadata::load(&window, options()).map_err(named)?;
    let sums = Sums::stored(metadata.metadata(), footer_at).map_err(named)?;
    let sums = Arc::new(sums.with_footer(&footer));
    file.check_by(sums.clone());
    Ok((metadata, sums))
}

/// Which rows of a segment are wanted, beside their symbols.
#[derive(Clone)]
pub(super) struct Within {
    pub(super) range: TimeRange,
    pub(super) offsets: Range<u64>,
}

impl Within {
    /// All rows.
    pub(super) const ALL: Self = Self { range: TimeRange::ALL, offsets: 0..u64::MAX };

    /// All rows at `offsets`.
    pub(super) fn offsets(offsets: Range<u64>) -> Self {
        Self { offsets, ..Self::ALL }
    }

    fn covers(&self, segment: &Segment) -> bool {
        covers(segment, self.range)
            && self.offsets.start <= segment.info.first_offset
            && segment.info.next_offset <= self.offsets.end
    }
}

/// The wanted rows of one segment, in order.
pub(super) struct Cursor {
    segment: Arc<Segment>,
    reader: ParquetRecordBatchReader,
    within: Within,
    /// Whether all rows of the segment are within.
    covered: bool,
}

impl Cursor {
    /// Opens `segment` and finds out which pages to read. `None` where no row is wanted.
    pub(super) fn open(
        segment: &Arc<Segment>,
        cache: &MetadataCache,
        stats: SharedStats,
        wanted: &Wanted,
        within: Within,
        batch_rows: usize,
    ) -> Result<Option<Self>, WarmError> {
        let range = within.range;
        let file = SegmentFile::open(segment, stats)?;
        let named = |error: ParquetError| read_error(segment, error);
        let metadata = cache.get(segment, &file)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata.clone())
            .with_batch_size(batch_rows);
        let builder = if wanted.is_none() && covers(segment, range) {
            builder
        } else {
            file.keep();
            let plan = plan(segment.info.kind, &file, &metadata, wanted.as_deref(), range).map_err(named)?;
            if plan.groups.is_empty() {
                return Ok(None);
            }
            builder
                .with_row_groups(plan.groups)
                .with_row_selection(plan.rows)
                .with_row_selection_policy(RowSelectionPolicy::Selectors)
        };
        let reader = builder.build().map_err(named)?;
        let covered = within.covers(segment);
        Ok(Some(Self { segment: segment.clone(), reader, within, covered }))
    }

    /// The next rows; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<TickBatch>, WarmError> {
        loop {
            let Some(rows) = self.reader.next() else { return Ok(None) };
            let rows = rows.map_err(|error| match error {
                arrow_schema::ArrowError::ExternalError(error) => match error.downcast::<ParquetError>() {
                    Ok(error) => read_error(&self.segment, *error),
                    Err(error) => damaged(&self.segment.path, error),
                },
                error => damaged(&self.segment.path, error),
            })?;
            let batch = TickBatch::from_record_batch(self.segment.info.kind, rows)
                .map_err(|error| damaged(&self.segment.path, error))?;
            let batch = if self.covered {
                batch
            } else {
                self.only_within(batch).map_err(|error| damaged(&self.segment.path, error))?
            };
            if !batch.is_empty() {
                return Ok(Some(batch));
            }
        }
    }

    fn only_within(&self, batch: TickBatch) -> Result<TickBatch, crate::market::BatchError> {
        let keys = batch.keys()?;
        let Within { range, offsets } = &self.within;
        let from = range.from.nanos();
        let rows = keys.ts_nanos().iter().zip(keys.offsets());
        let inside =
            runs(rows.map(|(&ts, at)| from <= ts && is_before(ts, range.to) && offsets.contains(at)));
        Ok(match &inside[..] {
            [whole] if whole.len() == batch.len() => batch,
            [run] => batch.slice(run.clone()),
            inside => {
                let parts: Vec<_> = inside.iter().map(|run| (0, run.clone())).collect();
                TickBatch::concat(batch.kind(), std::slice::from_ref(&batch), &parts)
            }
        })
    }
}

/// The symbols that `segment` holds rows of.
pub(super) fn symbols_of(
    segment: &Arc<Segment>,
    cache: &MetadataCache,
    stats: SharedStats,
) -> Result<HashSet<Option<Symbol>>, WarmError> {
    let file = SegmentFile::open(segment, stats)?;
    let named = |error: ParquetError| read_error(segment, error);
    let metadata = cache.get(segment, &file)?;
    let mut found = HashSet::default();
    for row_group in 0..metadata.metadata().num_row_groups() {
        let rows = metadata.metadata().row_group(row_group).num_rows() as usize;
        let mut last = None;
        scan_symbols(&file, &metadata, row_group, std::slice::from_ref(&(0..rows)), |symbol, _| {
            if last != Some(symbol) {
                last = Some(symbol);
                found.insert(symbol);
            }
        })
        .map_err(named)?;
    }
    Ok(found)
}

fn covers(segment: &Segment, range: TimeRange) -> bool {
    range.from.nanos() <= segment.info.ts_min && is_before(segment.info.ts_max, range.to)
}

struct Plan {
    groups: Vec<usize>,
    rows: RowSelection,
}

fn plan(
    kind: Kind,
    file: &SegmentFile,
    metadata: &ArrowReaderMetadata,
    wanted: Option<&[Option<Symbol>]>,
    range: TimeRange,
) -> Result<Plan, ParquetError> {
    let (mut groups, mut ranges, mut rows_before) = (Vec::new(), Vec::new(), 0);
    for group in 0..metadata.metadata().num_row_groups() {
        let rows = metadata.metadata().row_group(group).num_rows() as usize;
        let pages = Pages { metadata: metadata.metadata(), group };
        let mut chosen = pages_in_range(&pages, rows, range);
        if let Some(wanted) = wanted {
            chosen = intersect(&chosen, &pages_with_symbols(&pages, rows, wanted));
            // Few rows of the other kinds exist, and gaps may have no symbol at all.
            let by_bloom = kind != Kind::Gap && wanted.len() <= BLOOM_SYMBOLS_MAX;
            if !chosen.is_empty() && by_bloom && !bloom_may_hold(file, metadata, group, wanted)? {
                chosen.clear();
            }
            if !chosen.is_empty() {
                chosen = rows_with_symbols(file, metadata, group, &chosen, wanted)?;
            }
        }
        if chosen.is_empty() {
            continue;
        }
        groups.push(group);
        ranges.extend(chosen.into_iter().map(|rows| rows.start + rows_before..rows.end + rows_before));
        rows_before += rows;
    }
    Ok(Plan { groups, rows: RowSelection::from_consecutive_ranges(ranges.into_iter(), rows_before) })
}

/// The pages of a row group.
struct Pages<'a> {
    metadata: &'a ParquetMetaData,
    group: usize,
}

/// The rows of the pages of `column` that `matches` holds for.
fn pages_where(
    pages: &Pages<'_>,
    column: usize,
    rows: usize,
    matches: impl Fn(&ColumnIndexMetaData, usize) -> bool,
) -> Vec<Range<usize>> {
    let of_file = pages.metadata.page_index();
    let index = of_file.and_then(|pages_of| pages_of.column_index(pages.group, column));
    let locations = of_file.and_then(|pages_of| pages_of.page_locations(pages.group, column));
    let (Some(index), Some(locations)) = (index, locations) else {
        return std::iter::once(0..rows).collect();
    };
    let start = |page: usize| locations.get(page).map_or(rows, |page| page.first_row_index as usize);
    let mut chosen: Vec<Range<usize>> = Vec::new();
    for page in (0..locations.len()).filter(|&page| matches(index, page)) {
        push_range(&mut chosen, start(page)..start(page + 1));
    }
    chosen
}

fn push_range(ranges: &mut Vec<Range<usize>>, next: Range<usize>) {
    match ranges.last_mut() {
        Some(last) if last.end == next.start => last.end = next.end,
        _ if next.is_empty() => {}
        _ => ranges.push(next),
    }
}

fn pages_in_range(pages: &Pages<'_>, rows: usize, range: TimeRange) -> Vec<Range<usize>> {
    let from = range.from.nanos();
    pages_where(pages, TS_COLUMN, rows, |index, page| match index {
        ColumnIndexMetaData::INT64(index) => {
            index.min_value(page).is_none_or(|&min| is_before(min, range.to))
                && index.max_value(page).is_none_or(|&max| max >= from)
        }
        _ => true,
    })
}

fn pages_with_symbols(pages: &Pages<'_>, rows: usize, wanted: &[Option<Symbol>]) -> Vec<Range<usize>> {
    pages_where(pages, SYMBOL_COLUMN, rows, |index, page| match index {
        ColumnIndexMetaData::BYTE_ARRAY(index) => {
            let nulls = index.null_count(page).is_none_or(|nulls| nulls > 0);
            let (Some(min), Some(max)) = (index.min_value(page), index.max_value(page)) else { return true };
            let first =
                wanted.partition_point(|symbol| symbol.as_ref().is_none_or(|symbol| symbol.as_bytes() < min));
            let named =
                wanted[first..].first().copied().flatten().is_some_and(|symbol| symbol.as_bytes() <= max);
            named || nulls && wanted.first() == Some(&None)
        }
        _ => true,
    })
}

fn bloom_may_hold(
    file: &SegmentFile,
    metadata: &ArrowReaderMetadata,
    group: usize,
    wanted: &[Option<Symbol>],
) -> Result<bool, ParquetError> {
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata.clone());
    let Some(bloom) = builder.get_row_group_column_bloom_filter(group, SYMBOL_COLUMN)? else {
        return Ok(true);
    };
    Ok(wanted.iter().any(|symbol| symbol.is_none_or(|symbol| bloom.check(symbol.as_bytes()))))
}

/// Which of the rows in `within` are of a wanted symbol, exactly.
fn rows_with_symbols(
    file: &SegmentFile,
    metadata: &ArrowReaderMetadata,
    group: usize,
    within: &[Range<usize>],
    wanted: &[Option<Symbol>],
) -> Result<Vec<Range<usize>>, ParquetError> {
    let mut found = Vec::new();
    scan_symbols(file, metadata, group, within, |symbol, rows| {
        if wanted.binary_search(&symbol).is_ok() {
            push_range(&mut found, rows);
        }
    })?;
    Ok(found)
}

/// Reads the symbols of the rows in `within` and calls `run` for each run of one symbol.
fn scan_symbols(
    file: &SegmentFile,
    metadata: &ArrowReaderMetadata,
    group: usize,
    within: &[Range<usize>],
    mut run: impl FnMut(Option<Symbol>, Range<usize>),
) -> Result<(), ParquetError> {
    let rows = metadata.metadata().row_group(group).num_rows() as usize;
    let mask = ProjectionMask::leaves(metadata.parquet_schema(), [SYMBOL_COLUMN]);
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata.clone())
        .with_projection(mask)
        .with_row_groups(vec![group])
        .with_row_selection(RowSelection::from_consecutive_ranges(within.iter().cloned(), rows))
        .with_row_selection_policy(RowSelectionPolicy::Selectors)
        .with_batch_size(SYMBOLS_BATCH_ROWS)
        .build()?;
    let mut places = within.iter().cloned();
    let mut place = places.next().unwrap_or_default();
    for batch in reader {
        let batch = batch?;
        let column = batch.column(0).as_dictionary::<Int32Type>();
        let names = column.values().as_string::<i32>();
        let parsed = |key: Option<i32>| -> Result<Option<Symbol>, ParquetError> {
            let Some(key) = key else { return Ok(None) };
            let name = names.value(key as usize).as_bytes();
            Symbol::from_bytes(name).map(Some).map_err(|error| ParquetError::General(error.to_string()))
        };
        let key_at = |row: usize| column.is_valid(row).then(|| column.keys().value(row));
        let mut row = 0;
        while row < column.len() {
            if place.is_empty() {
                place = places
                    .next()
                    .ok_or_else(|| ParquetError::General("more rows than were asked for".to_owned()))?;
            }
            let key = key_at(row);
            let end = column.len().min(row + place.len());
            let same = (row..end).take_while(|&other| key_at(other) == key).count();
            run(parsed(key)?, place.start..place.start + same);
            place.start += same;
            row += same;
        }
    }
    Ok(())
}

fn intersect(left: &[Range<usize>], right: &[Range<usize>]) -> Vec<Range<usize>> {
    let (mut both, mut l, mut r) = (Vec::new(), 0, 0);
    while let (Some(a), Some(b)) = (left.get(l), right.get(r)) {
        push_range(&mut both, a.start.max(b.start)..a.end.min(b.end).max(a.start.max(b.start)));
        if a.end <= b.end { l += 1 } else { r += 1 }
    }
    both
}

fn runs(inside: impl Iterator<Item = bool>) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    for (row, inside) in inside.enumerate() {
        if inside {
            push_range(&mut runs, row..row + 1);
        }
    }
    runs
}

fn read_error(segment: &Segment, error: ParquetError) -> WarmError {
    match is_io(&error) {
        Some(error) if !matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => {
            io_error(&segment.path, error)
        }
        _ => damaged(&segment.path, format!("{error}{MEND_FILE}")),
    }
}
