//! Reading some rows of a file that is far away: which pages hold them is known by the file's end
//! alone, and rows are decoded out of pieces as they come.

use std::ops::Range;
use std::sync::Arc;

use parquet::DecodeResult;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, RowSelection, RowSelectionPolicy};
use parquet::arrow::push_decoder::{ParquetPushDecoder, ParquetPushDecoderBuilder, RowGroupSelection};
use parquet::bloom_filter::Sbbf;
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use super::reader::{Window, metadata};
use super::sums::{Summer, Sums};
use crate::market::{Kind, Symbol, TickBatch, TimeRange, Timestamp};

const SYMBOL_COLUMN: usize = 0;
const TS_COLUMN: usize = 1;

/// Symbols beyond which the bloom filter is not asked: one of so many is likely there.
const BLOOM_SYMBOLS_MAX: usize = 16;

/// Whose rows are wanted. The symbol `None` stands for rows without one, and comes first.
#[derive(Clone, Debug)]
pub(in crate::tiering) enum Wanted {
    /// Of these, sorted and without repeats.
    Of(Arc<[Option<Symbol>]>),
    /// From the first on, before the second; `None` for no end.
    Within(Option<Symbol>, Option<Symbol>),
}

impl Wanted {
    /// All rows.
    pub(in crate::tiering) const ALL: Self = Self::Within(None, None);

    /// Whether rows of `symbol` are wanted.
    pub(in crate::tiering) fn contains(&self, symbol: Option<Symbol>) -> bool {
        match self {
            Self::Of(symbols) => symbols.binary_search(&symbol).is_ok(),
            Self::Within(from, to) => *from <= symbol && (to.is_none() || symbol < *to),
        }
    }

    /// Whether a wanted symbol may be among those from `min` to `max`.
    pub(in crate::tiering) fn may_be_in(&self, min: Option<Symbol>, max: Option<Symbol>) -> bool {
        match self {
            Self::Of(symbols) => {
                let first = symbols.partition_point(|symbol| *symbol < min);
                symbols.get(first).is_some_and(|symbol| *symbol <= max)
            }
            Self::Within(from, to) => *from <= max && (to.is_none() || min < *to),
        }
    }

    /// The first symbol that may be wanted.
    pub(in crate::tiering) fn first(&self) -> Option<Symbol> {
        match self {
            Self::Of(symbols) => symbols.first().copied().flatten(),
            Self::Within(from, _) => *from,
        }
    }
}

/// Whether `ts` lies in `range`. A range that ends at the end of time has no end.
pub(in crate::tiering) fn is_inside(ts: i64, range: TimeRange) -> bool {
    range.from.nanos() <= ts && is_before(ts, range.to)
}

fn is_before(ts: i64, to: Timestamp) -> bool {
    ts < to.nanos() || to == Timestamp::MAX
}

/// What the end of a file tells of its rows: row groups, pages, bloom filters.
pub(in crate::tiering) struct Index {
    kind: Kind,
    metadata: ArrowReaderMetadata,
    /// Of the symbols of each row group, where there is one.
    blooms: Vec<Option<Sbbf>>,
    /// Of the rows' part of the file, at least.
    sums: Sums,
}

/// Rows that hold what is wanted, and a few around them: whole pages.
pub(in crate::tiering) struct Chosen {
    /// Row groups, with the rows in each.
    groups: Vec<(usize, Vec<Range<usize>>)>,
}

impl Chosen {
    /// Whether nothing is chosen.
    pub(in crate::tiering) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

impl Index {
    /// Reads the end of a file of `kind`, which is sound and holds the checksums of the rest: `tail`
    /// begins where the rows end.
    pub(in crate::tiering) fn parse(kind: Kind, tail: &Window) -> Result<Self, ParquetError> {
        let metadata = metadata(kind, tail, PageIndexPolicy::Required)?;
        let sums = Sums::stored(metadata.metadata(), tail.start)?;
        Ok(Self::new(kind, metadata, tail, sums))
    }

    /// The same of a file that was written without checksums: those of the whole file are `sums`.
    pub(in crate::tiering) fn parse_checked_by(
        kind: Kind,
        tail: &Window,
        sums: Sums,
    ) -> Result<Self, ParquetError> {
        Ok(Self::new(kind, metadata(kind, tail, PageIndexPolicy::Required)?, tail, sums))
    }

    fn new(kind: Kind, metadata: ArrowReaderMetadata, tail: &Window, sums: Sums) -> Self {
        let groups = metadata.metadata().row_groups().iter();
        // One that lies elsewhere is done without.
        let blooms = groups
            .map(|group| Sbbf::read_from_column_chunk(group.column(SYMBOL_COLUMN), tail).unwrap_or_default());
        let blooms = blooms.collect();
        Self { kind, metadata, blooms, sums }
    }

    /// What the end of a file of `kind` tells of its rows as a whole: `tail` begins where the rows end.
    pub(in crate::tiering) fn span(kind: Kind, tail: &Window) -> Result<Span, ParquetError> {
        let index =
            Self::new(kind, metadata(kind, tail, PageIndexPolicy::Required)?, tail, Summer::new(1).finish());
        let mut span = Span { rows: index.rows(), symbols: Vec::new(), ts_min: i64::MAX, ts_max: i64::MIN };
        let missing = || ParquetError::General("it lacks the span of a page".to_owned());
        for group in 0..index.blooms.len() {
            let of_group = index.metadata.metadata().page_index();
            let column = |column| of_group.and_then(|of| of.column_index(group, column)).ok_or_else(missing);
            for (page, _) in index.pages(group, SYMBOL_COLUMN) {
                let (min, max) = page_symbols(column(SYMBOL_COLUMN)?, page).ok_or_else(missing)?;
                span.symbols.extend([min, max]);
            }
            let ColumnIndexMetaData::INT64(times) = column(TS_COLUMN)? else { return Err(missing()) };
            for (page, _) in index.pages(group, TS_COLUMN) {
                span.ts_min = span.ts_min.min(*times.min_value(page).ok_or_else(missing)?);
                span.ts_max = span.ts_max.max(*times.max_value(page).ok_or_else(missing)?);
            }
        }
        span.symbols.sort_unstable();
        Ok(span)
    }

    /// The checksums of the rows' part of the file.
    pub(in crate::tiering) fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Rows of the file.
    pub(in crate::tiering) fn rows(&self) -> u64 {
        self.metadata.metadata().file_metadata().num_rows() as u64
    }

    /// Memory held, about.
    pub(in crate::tiering) fn bytes(&self) -> usize {
        let blooms: usize = self.blooms.iter().flatten().map(|bloom| bloom.num_blocks() * 32).sum();
        self.metadata.metadata().memory_size() + blooms + self.sums.bytes()
    }

    /// Which pages may hold rows of `wanted` in `range`.
    pub(in crate::tiering) fn choose(&self, wanted: &Wanted, range: TimeRange) -> Chosen {
        let mut groups = Vec::new();
        for group in 0..self.blooms.len() {
            if !self.bloom_may_hold(group, wanted) {
                continue;
            }
            let by_symbol = self.pages_where(group, SYMBOL_COLUMN, |index, page| {
                let (min, max) = page_symbols(index, page)?;
                Some(wanted.may_be_in(min, max))
            });
            let by_time = self.pages_where(group, TS_COLUMN, |index, page| {
                let ColumnIndexMetaData::INT64(index) = index else { return None };
                Some(
                    *index.max_value(page)? >= range.from.nanos()
                        && is_before(*index.min_value(page)?, range.to),
                )
            });
            let rows = intersect(&by_symbol, &by_time);
            if !rows.is_empty() {
                groups.push((group, rows));
            }
        }
        Chosen { groups }
    }

    fn bloom_may_hold(&self, group: usize, wanted: &Wanted) -> bool {
        let (Wanted::Of(symbols), Some(bloom)) = (wanted, &self.blooms[group]) else { return true };
        // Gaps may have no symbol at all.
        let asked = self.kind != Kind::Gap && symbols.len() <= BLOOM_SYMBOLS_MAX;
        let may_be = |symbol: &Option<Symbol>| symbol.is_none_or(|symbol| bloom.check(symbol.as_bytes()));
        !asked || symbols.iter().any(may_be)
    }

    fn group_rows(&self, group: usize) -> usize {
        self.metadata.metadata().row_group(group).num_rows() as usize
    }

    /// The rows of the pages of `column` that `matches` holds for, or can't tell of.
    fn pages_where(
        &self,
        group: usize,
        column: usize,
        matches: impl Fn(&ColumnIndexMetaData, usize) -> Option<bool>,
    ) -> Vec<Range<usize>> {
        let mut chosen: Vec<Range<usize>> = Vec::new();
        for (page, rows) in self.pages(group, column) {
            let index = self.metadata.metadata().page_index();
            let index = index.and_then(|index| index.column_index(group, column));
            if index.and_then(|index| matches(index, page)).unwrap_or(true) {
                push_range(&mut chosen, rows);
            }
        }
        chosen
    }

    /// The pages of a column with the rows in each; one for all where there is no page index.
    fn pages(&self, group: usize, column: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let rows = self.group_rows(group);
        let index = self.metadata.metadata().page_index();
        let places = index.and_then(|index| index.page_locations(group, column));
        let starts: Vec<usize> = match places {
            Some(places) => places.iter().map(|place| place.first_row_index as usize).collect(),
            None => vec![0],
        };
        (0..starts.len()).map(move |page| (page, starts[page]..starts.get(page + 1).copied().unwrap_or(rows)))
    }

    /// Bytes of a row's columns as they are stored, about.
    fn bytes_of_rows(&self, group: usize, rows: usize) -> u64 {
        let bytes = self.metadata.metadata().row_group(group).compressed_size().max(0) as u64;
        bytes * rows as u64 / (self.group_rows(group) as u64).max(1)
    }

    /// Bytes that the decoder of `chosen` holds at once, at most: those of its largest row group.
    pub(in crate::tiering) fn held_bytes(&self, chosen: &Chosen) -> u64 {
        let groups = chosen.groups.iter();
        let bytes = groups.map(|(group, rows)| self.bytes_of_rows(*group, rows.iter().map(Range::len).sum()));
        bytes.max().unwrap_or(0)
    }

    /// The first symbol of each page of `chosen`, with its bytes, about.
    pub(in crate::tiering) fn weights(&self, chosen: &Chosen) -> Vec<(Option<Symbol>, u64)> {
        let mut weights = Vec::new();
        for (group, rows) in &chosen.groups {
            let index = self.metadata.metadata().page_index();
            let index = index.and_then(|index| index.column_index(*group, SYMBOL_COLUMN));
            for (page, page_rows) in self.pages(*group, SYMBOL_COLUMN) {
                let len: usize =
                    intersect(rows, std::slice::from_ref(&page_rows)).iter().map(Range::len).sum();
                let symbols = index.and_then(|index| page_symbols(index, page));
                if len > 0 {
                    weights.push((symbols.and_then(|(min, _)| min), self.bytes_of_rows(*group, len)));
                }
            }
        }
        weights
    }

    /// Decodes the rows of `chosen` that are of `wanted` and in `range`, in batches of at most
    /// `batch_rows`.
    pub(in crate::tiering) fn decoder(
        &self,
        chosen: Chosen,
        wanted: Wanted,
        range: TimeRange,
        batch_rows: usize,
    ) -> Result<Decoder, ParquetError> {
        let selections = chosen.groups.into_iter().map(|(group, rows)| {
            let whole = self.group_rows(group);
            let selection = RowSelection::from_consecutive_ranges(rows.into_iter(), whole);
            RowGroupSelection::new(group, Some(selection))
        });
        let decoder = ParquetPushDecoderBuilder::new_with_metadata(self.metadata.clone())
            .with_row_group_selections(selections.collect())
            .with_row_selection_policy(RowSelectionPolicy::Selectors)
            .with_batch_size(batch_rows)
            .build()?;
        Ok(Decoder { kind: self.kind, decoder, wanted, range })
    }
}

/// What a file holds as a whole.
pub(in crate::tiering) struct Span {
    /// Rows.
    pub(in crate::tiering) rows: u64,
    /// The first and the last symbol of each page, sorted.
    pub(in crate::tiering) symbols: Vec<Option<Symbol>>,
    /// The earliest venue time.
    pub(in crate::tiering) ts_min: i64,
    /// The latest.
    pub(in crate::tiering) ts_max: i64,
}

/// The least and the greatest symbol of a page.
fn page_symbols(index: &ColumnIndexMetaData, page: usize) -> Option<(Option<Symbol>, Option<Symbol>)> {
    let ColumnIndexMetaData::BYTE_ARRAY(index) = index else { return None };
    if index.is_null_page(page) {
        return Some((None, None));
    }
    let symbol = |bytes: &[u8]| Symbol::from_bytes(bytes).ok();
    let (min, max) = (symbol(index.min_value(page)?)?, symbol(index.max_value(page)?)?);
    let nulls = index.null_count(page).is_none_or(|nulls| nulls > 0);
    Some((if nulls { None } else { Some(min) }, Some(max)))
}

/// What a [`Decoder`] does next.
pub(in crate::tiering) enum Step {
    /// These bytes of the file must be pushed before it can go on.
    Need(Vec<Range<u64>>),
    /// The next rows.
    Rows(TickBatch),
    /// All rows were given out.
    End,
}

/// Decodes a file's rows, and says which of its bytes it needs for that: those of one row group at
/// a time. Blocking.
pub(in crate::tiering) struct Decoder {
    kind: Kind,
    decoder: ParquetPushDecoder,
    wanted: Wanted,
    range: TimeRange,
}

impl Decoder {
    /// Gives it the `bytes` of `ranges`.
    pub(in crate::tiering) fn push(
        &mut self,
        ranges: Vec<Range<u64>>,
        bytes: Vec<bytes::Bytes>,
    ) -> Result<(), ParquetError> {
        self.decoder.push_ranges(ranges, bytes)
    }

    /// Goes on.
    pub(in crate::tiering) fn step(&mut self) -> Result<Step, ParquetError> {
        loop {
            let rows = match self.decoder.try_decode()? {
                DecodeResult::NeedsData(ranges) => return Ok(Step::Need(ranges)),
                DecodeResult::Finished => return Ok(Step::End),
                DecodeResult::Data(rows) => rows,
            };
            let general = |error: crate::market::BatchError| ParquetError::General(error.to_string());
            let batch = TickBatch::from_record_batch(self.kind, rows).map_err(general)?;
            let batch = self.wanted_of(batch).map_err(general)?;
            if !batch.is_empty() {
                return Ok(Step::Rows(batch));
            }
        }
    }

    /// The rows of `batch` that are wanted.
    fn wanted_of(&self, batch: TickBatch) -> Result<TickBatch, crate::market::BatchError> {
        let keys = batch.keys()?;
        let (mut last, mut of_wanted) = (None, false);
        let mut runs = Vec::new();
        for (row, &ts) in keys.ts_nanos().iter().enumerate() {
            let symbol = keys.symbol(row);
            if last != Some(symbol) {
                last = Some(symbol);
                of_wanted = self.wanted.contains(symbol);
            }
            if of_wanted && is_inside(ts, self.range) {
                push_range(&mut runs, row..row + 1);
            }
        }
        Ok(match &runs[..] {
            [run] if run.len() == batch.len() => batch,
            [run] => batch.slice(run.clone()),
            runs => {
                let parts: Vec<_> = runs.iter().map(|run| (0, run.clone())).collect();
                TickBatch::concat(batch.kind(), std::slice::from_ref(&batch), &parts)
            }
        })
    }
}

fn push_range(ranges: &mut Vec<Range<usize>>, next: Range<usize>) {
    match ranges.last_mut() {
        _ if next.is_empty() => {}
        Some(last) if last.end == next.start => last.end = next.end,
        _ => ranges.push(next),
    }
}

fn intersect(left: &[Range<usize>], right: &[Range<usize>]) -> Vec<Range<usize>> {
    let (mut both, mut l, mut r) = (Vec::new(), 0, 0);
    while let (Some(a), Some(b)) = (left.get(l), right.get(r)) {
        let start = a.start.max(b.start);
        push_range(&mut both, start..a.end.min(b.end).max(start));
        if a.end <= b.end { l += 1 } else { r += 1 }
    }
    both
}
