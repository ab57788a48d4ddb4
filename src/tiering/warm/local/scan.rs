//! A scan: the wanted rows of many segments as one ordered stream.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use super::read::{Cursor, MetadataCache, SharedStats, Wanted, Within, symbols_of};
use super::{Segment, files::damaged};
use crate::market::{Kind, Merge, Merged, RowKey, Seq, Symbol, TickBatch, TimeRange, Timestamp};
use crate::tiering::warm::WarmError;

/// Rows of a batch, at most.
pub(super) const BATCH_ROWS: usize = 8192;

/// Segments that are read side by side, at most, where more than one symbol is asked for. Past
/// that one symbol is read after the other, since of one symbol only those segments are open whose
/// times have come.
const SEGMENTS_OPEN_MAX: usize = 256;

/// Rows that the segments read side by side hold decoded, about.
const ROWS_OPEN_MAX: usize = 128 * 1024;

/// Symbols up to which each is read by itself, whatever the number of segments: their query needs no more memory
/// with more of these.
pub const SYMBOLS_ALONE_MAX: usize = 4;

/// What a segment that is being read takes, at most: a page of each column and a batch of rows. Measured: 0.74 MiB,
/// with the 245 segments of a month of quotes.
const SEGMENT_OPEN_BYTES_MAX: u64 = 768 << 10;

/// How many times its size in the file a small segment takes while it is read.
pub(super) const GROWTH: u64 = 4;

/// The memory that a scan of segments of these sizes (bytes of one kind's files) takes where it reads all side by
/// side.
pub(super) fn merge_bytes(segments: impl Iterator<Item = u64>) -> usize {
    let open = |bytes: u64| (GROWTH * bytes).min(SEGMENT_OPEN_BYTES_MAX);
    let all_bytes: u64 = segments.map(open).sum();
    all_bytes.min(SEGMENTS_OPEN_MAX as u64 * SEGMENT_OPEN_BYTES_MAX) as usize
}

/// A segment, and the offsets of its rows that are wanted.
#[derive(Clone)]
pub(super) struct Part {
    pub(super) segment: Arc<Segment>,
    pub(super) offsets: Range<u64>,
}

/// The state of a scan. Blocking: runs off the async threads.
pub(super) struct Scanner {
    kind: Kind,
    range: TimeRange,
    parts: Vec<Part>,
    cache: Arc<MetadataCache>,
    stats: SharedStats,
    /// What is still to be read, one group of symbols after the other.
    groups: VecDeque<Wanted>,
    /// All symbols are wanted of more segments than can be read side by side.
    list_symbols: bool,
    current: Option<Current>,
}

struct Current {
    wanted: Wanted,
    merge: Merge,
    batch_rows: usize,
    inputs: Vec<Input>,
}

enum Input {
    Closed(Part),
    Open(Box<Cursor>),
    Ended,
}

impl Scanner {
    pub(super) fn new(
        kind: Kind,
        range: TimeRange,
        wanted: Wanted,
        parts: Vec<Part>,
        cache: Arc<MetadataCache>,
        stats: SharedStats,
    ) -> Self {
        let many = parts.len() > SEGMENTS_OPEN_MAX;
        let list_symbols = many && wanted.is_none();
        let groups = match &wanted {
            Some(symbols) if many || symbols.len() <= SYMBOLS_ALONE_MAX => each(symbols.iter().copied()),
            _ => VecDeque::from([wanted]),
        };
        Self { kind, range, parts, cache, stats, groups, list_symbols, current: None }
    }

    /// The kind of the rows.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The next rows; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<TickBatch>, WarmError> {
        if std::mem::take(&mut self.list_symbols) {
            let mut symbols = BTreeSet::new();
            for part in &self.parts {
                symbols.extend(symbols_of(&part.segment, &self.cache, self.stats.clone())?);
            }
            self.groups = each(symbols.into_iter());
        }
        loop {
            let Some(current) = &mut self.current else {
                let Some(wanted) = self.groups.pop_front() else { return Ok(None) };
                self.current = Some(self.begin(wanted));
                continue;
            };
            match current.merge.advance() {
                Merged::Rows(rows) => return Ok(Some(rows)),
                Merged::End => self.current = None,
                Merged::Need(at) => {
                    if let Input::Closed(Part { segment, offsets }) = &current.inputs[at] {
                        let (cache, stats) = (&self.cache, self.stats.clone());
                        let within = Within { range: self.range, offsets: offsets.clone() };
                        let (wanted, rows) = (&current.wanted, current.batch_rows);
                        let cursor = Cursor::open(segment, cache, stats, wanted, within, rows)?;
                        current.inputs[at] =
                            cursor.map_or(Input::Ended, |cursor| Input::Open(Box::new(cursor)));
                    }
                    let batch = match &mut current.inputs[at] {
                        Input::Open(cursor) => cursor.next()?,
                        _ => None,
                    };
                    if batch.is_none() {
                        current.inputs[at] = Input::Ended;
                    }
                    current
                        .merge
                        .feed(at, batch)
                        .map_err(|error| damaged(std::path::Path::new("a segment"), error))?;
                }
            }
        }
    }

    fn begin(&self, wanted: Wanted) -> Current {
        let may_hold = |part: &&Part| part.segment.info.may_hold(&self.range, wanted.as_deref());
        let parts: Vec<_> = self.parts.iter().filter(may_hold).cloned().collect();
        let bounds = parts.iter().map(|Part { segment, .. }| RowKey {
            symbol: wanted.as_ref().and_then(|wanted| wanted[0]).max(segment.info.symbol_min),
            ts: Timestamp::from_nanos(segment.info.ts_min).max(self.range.from),
            seq: Seq::default(),
        });
        let merge = Merge::new(self.kind, BATCH_ROWS, bounds);
        let batch_rows = (ROWS_OPEN_MAX / parts.len().max(1)).clamp(1024, BATCH_ROWS);
        let inputs = parts.into_iter().map(Input::Closed).collect();
        Current { wanted, merge, batch_rows, inputs }
    }
}

fn each(symbols: impl Iterator<Item = Option<Symbol>>) -> VecDeque<Wanted> {
    symbols.map(|symbol| Some(Arc::from([symbol]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_the_segments_that_are_read_side_by_side() {
        assert_eq!(merge_bytes(std::iter::empty()), 0);
        assert_eq!(merge_bytes([10_000, 20_000].into_iter()), 120_000, "small ones take little");
        assert_eq!(merge_bytes(std::iter::repeat_n(50 << 20, 100)), 75 << 20);
        assert_eq!(merge_bytes(std::iter::repeat_n(50 << 20, 10_000)), 192 << 20, "so many, and no more");
    }
}
