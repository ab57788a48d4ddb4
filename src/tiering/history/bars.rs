//! Bars of any timeframe out of the stored ones: of each the latest revision, merged.

use std::collections::BTreeMap;

use futures_util::stream;
use futures_util::{StreamExt, TryStreamExt};

use super::{HistoryError, RowStream};
use crate::market::{
    Bar, Kind, Seq, Symbol, SymbolTable, TickBatch, TickBatchBuilder, TimeRange, Timeframe, Timestamp,
};

const NANOS_PER_MINUTE: i64 = 60_000_000_000;

/// Days of the longest span, which is a year.
const SPAN_DAYS_MAX: usize = 366;

/// The times of the stored bars that bars of `timeframe` within `range` are made of: the last of
/// them may begin within the range and end after it.
pub(super) fn parts_range(timeframe: Timeframe, range: TimeRange) -> TimeRange {
    if range.is_empty() || range.to == Timestamp::MAX {
        return range;
    }
    let last = timeframe.start_of(range.to.saturating_add_nanos(-1));
    TimeRange { from: range.from, to: range.to.max(end_of_span(timeframe, last)) }
}

/// The first instant after the span that begins at `start`.
fn end_of_span(timeframe: Timeframe, start: Timestamp) -> Timestamp {
    let day = start.trading_day();
    let minutes = match timeframe {
        Timeframe::Minutes(minutes) => i64::from(minutes),
        Timeframe::Hours(hours) => i64::from(hours) * 60,
        Timeframe::Day => return day.end(),
        Timeframe::Week | Timeframe::Months(_) => {
            let mut next = day.next();
            for _ in 0..SPAN_DAYS_MAX {
                if timeframe.start_of(next.start()) != start {
                    break;
                }
                next = next.next();
            }
            return next.start();
        }
    };
    // The day's last span is cut short by midnight.
    start.saturating_add_nanos(minutes * NANOS_PER_MINUTE).min(day.end())
}

/// Forms bars of `timeframe` that begin within `range` out of `parts`: stored bars in order, with
/// all their revisions.
pub(super) fn merged(parts: RowStream, timeframe: Timeframe, range: TimeRange) -> RowStream {
    let forming = Forming { timeframe, range, part: None, bar: None, table: SymbolTable::default() };
    stream::try_unfold((parts, Some(forming)), |(mut parts, mut forming)| async move {
        loop {
            let Some(open) = &mut forming else { return Ok::<_, HistoryError>(None) };
            let rows = match parts.try_next().await? {
                Some(batch) => open.take(&batch)?,
                None => forming.take().map(Forming::finish).transpose()?.flatten(),
            };
            if let Some(rows) = rows {
                return Ok(Some((rows, (parts, forming))));
            }
        }
    })
    .boxed()
}

struct Forming {
    timeframe: Timeframe,
    range: TimeRange,
    /// The latest revision so far of the stored bar that rows are still coming of.
    part: Option<(Seq, Bar)>,
    /// The bar that stored ones are still merged into.
    bar: Option<(Seq, Bar)>,
    table: SymbolTable,
}

/// Finished bars in their order: by symbol and time, which for one timeframe are unique.
type Finished = BTreeMap<(Symbol, Timestamp), (Seq, Bar)>;

impl Forming {
    fn take(&mut self, batch: &TickBatch) -> Result<Option<TickBatch>, HistoryError> {
        debug_assert_eq!(batch.kind(), Kind::Bar);
        let rows = batch.rows()?;
        let mut finished = Finished::new();
        for row in 0..batch.len() {
            let (seq, bar) = rows.bar(row)?;
            if bar.timeframe != self.timeframe.stored() {
                continue;
            }
            if self.part.as_ref().is_some_and(|(_, part)| (part.symbol, part.ts) != (bar.symbol, bar.ts)) {
                self.close_part(&mut finished);
            }
            // Revisions come in the order of their places: the last one stands.
            self.part = Some((seq, bar));
        }
        self.built(&finished)
    }

    fn finish(mut self) -> Result<Option<TickBatch>, HistoryError> {
        let mut finished = Finished::new();
        self.close_part(&mut finished);
        self.close_bar(&mut finished);
        self.built(&finished)
    }

    fn close_part(&mut self, finished: &mut Finished) {
        let Some((seq, part)) = self.part.take() else { return };
        let start = self.timeframe.start_of(part.ts);
        if self.bar.as_ref().is_some_and(|(_, bar)| (bar.symbol, bar.ts) != (part.symbol, start)) {
            self.close_bar(finished);
        }
        let (last, bar) =
            self.bar.get_or_insert_with(|| (seq, Bar::empty(part.symbol, self.timeframe, part.ts)));
        bar.merge(&part);
        *last = seq.max(*last);
    }

    fn close_bar(&mut self, finished: &mut Finished) {
        let Some((seq, bar)) = self.bar.take() else { return };
        if bar.has_price() && self.range.contains(bar.ts) {
            finished.insert((bar.symbol, bar.ts), (seq, bar));
        }
    }

    fn built(&mut self, finished: &Finished) -> Result<Option<TickBatch>, HistoryError> {
        let mut builders: BTreeMap<u16, TickBatchBuilder> = BTreeMap::new();
        let mut batches = Vec::new();
        for (seq, bar) in finished.values() {
            let builder =
                builders.entry(seq.partition).or_insert_with(|| TickBatchBuilder::new(seq.partition));
            builder.push_bar(self.table.intern(bar.symbol), *seq, bar);
        }
        for mut builder in builders.into_values() {
            batches.extend(builder.finish(&self.table).into_iter().map(|(_, batch)| batch));
        }
        // One batch per day and partition: put together in the order of the whole.
        let mut places = Vec::new();
        for (number, batch) in batches.iter().enumerate() {
            let keys = batch.keys()?;
            places.extend((0..batch.len()).map(|row| (keys.get(row), number, row)));
        }
        places.sort_unstable();
        let parts: Vec<_> = places.into_iter().map(|(_, number, row)| (number, row..row + 1)).collect();
        Ok((!parts.is_empty()).then(|| TickBatch::concat(Kind::Bar, &batches, &parts)))
    }
}
