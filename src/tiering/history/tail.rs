//! The log's tail: what is not yet in warm, in columns like warm's rows.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::bus::Bus;
use crate::market::{
    Bar, Gap, Kind, NO_SYMBOL, Seq, Symbol, SymbolTable, Tick, TickBatch, TickBatchBuilder, TimeRange,
    TradingDay,
};
use crate::tiering::state::PartitionState;
use crate::tiering::warm::Mark;
use crate::wire::record::RecordView;

use super::HistoryError;
use super::amended::whole_days;

/// Rows of a tail that are held at once, at most. A longer tail is read in several passes, each for
/// as many symbols as have that many rows; one symbol's rows are always held together.
pub(super) const ROWS_MAX: u64 = 1 << 19;

/// Bytes of records taken from the log at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// Which rows of the log are asked for, beside their symbols.
#[derive(Clone)]
pub(super) struct LogFilter {
    pub(super) kind: Kind,
    pub(super) range: TimeRange,
    /// Of which days rows below which offsets (by partition) come from the archive: beyond warm's
    /// high-water mark only where warm was made anew beside an old archive.
    pub(super) archived: Arc<BTreeMap<TradingDay, Vec<u64>>>,
}

impl LogFilter {
    fn wants(&self, seq: Seq, tick: &Tick) -> bool {
        let archived = |offsets: &Vec<u64>| {
            offsets.get(usize::from(seq.partition)).is_some_and(|next| seq.offset < *next)
        };
        tick.kind() == self.kind
            && self.range.contains(tick.ts())
            && (self.archived.is_empty()
                || !self.archived.get(&tick.ts().trading_day()).is_some_and(archived))
    }
}

/// The rows of one kind that the log holds and warm does not.
pub(super) struct Tail {
    filter: LogFilter,
    table: SymbolTable,
    /// By partition; absent where the log holds nothing that warm lacks, and no bars are marked.
    partitions: Vec<Option<Partition>>,
    /// With the partition each stands in.
    gaps: Vec<(u16, Gap)>,
    /// Where trades are asked for, what amends some of them.
    amendments: Vec<(Seq, Tick)>,
    rows: u64,
    rows_max: u64,
    /// Rows of each symbol, once there are more than `rows_max`; none is held then.
    counts: BTreeMap<Option<Symbol>, u64>,
    bytes_read: u64,
}

struct Partition {
    number: u16,
    builder: TickBatchBuilder,
    state: PartitionState,
    /// The offset before which the log is read.
    end: u64,
}

impl Partition {
    /// Rows are counted from now on, and no longer held.
    fn let_go(&mut self) {
        self.builder = TickBatchBuilder::new(self.number);
    }
}

impl Tail {
    /// Reads the rows of `symbols` (sorted; `None` for all, and a symbol that is `None` for rows
    /// without one) out of `log`: offsets by partition, which begin where `marks` end. Where there
    /// are more than `rows_max` they are only counted.
    pub(super) async fn read(
        bus: &dyn Bus,
        marks: &[Mark],
        log: &[Range<u64>],
        filter: &LogFilter,
        symbols: Option<&[Option<Symbol>]>,
        rows_max: u64,
    ) -> Result<Self, HistoryError> {
        let mut tail = Self {
            filter: filter.clone(),
            table: SymbolTable::default(),
            partitions: Vec::new(),
            gaps: Vec::new(),
            amendments: Vec::new(),
            rows: 0,
            rows_max,
            counts: BTreeMap::new(),
            bytes_read: 0,
        };
        for ((partition, mark), offsets) in (0_u16..).zip(marks).zip(log) {
            if offsets.is_empty() && filter.kind != Kind::Bar {
                tail.partitions.push(None);
                continue;
            }
            let state = PartitionState::restore(&mark.checkpoint)
                .map_err(|error| HistoryError::state(partition, &error))?;
            // Bars may be marked to be rebuilt though nothing came after them.
            if offsets.is_empty() && !state.needs_rebuild() {
                tail.partitions.push(None);
                continue;
            }
            let builder = TickBatchBuilder::new(partition);
            let mut read = Partition { number: partition, builder, state, end: offsets.end };
            if offsets.is_empty() {
                tail.partitions.push(Some(read));
                continue;
            }
            let mut reader = bus.reader(partition, offsets.start).await?;
            while reader.offset() < offsets.end {
                for record in reader.next(READ_BYTES_MAX).await? {
                    if record.offset >= offsets.end {
                        break;
                    }
                    tail.bytes_read += record.bytes.len() as u64;
                    let damaged = |reason| HistoryError::Record { partition, offset: record.offset, reason };
                    tail.take(&mut read, record.offset, &record.bytes, symbols).map_err(damaged)?;
                }
            }
            tail.take_bars(&mut read);
            tail.partitions.push(Some(read));
        }
        Ok(tail)
    }

    fn take(
        &mut self,
        read: &mut Partition,
        offset: u64,
        bytes: &[u8],
        symbols: Option<&[Option<Symbol>]>,
    ) -> Result<(), crate::wire::record::RecordError> {
        let view = RecordView::parse(bytes)?;
        if !read.state.admit(view.origin, view.checksum()) {
            return Ok(());
        }
        for (index, row) in (0..).zip(view.ticks()) {
            let (_, tick) = row?;
            let seq = Seq { partition: read.number, offset, index };
            if let Tick::Gap(gap) = &tick {
                self.gaps.push((read.number, (**gap).clone()));
            }
            if symbols.is_some_and(|symbols| symbols.binary_search(&tick.symbol()).is_err()) {
                continue;
            }
            if let (Kind::Trade, Tick::Cancel(_) | Tick::Correction(_)) = (self.filter.kind, &tick) {
                if whole_days(self.filter.range).contains(tick.ts()) {
                    self.amendments.push((seq, tick));
                }
            } else if self.filter.kind == Kind::Bar {
                read.state.apply(seq, &tick);
            } else if self.filter.wants(seq, &tick) {
                let symbol = tick.symbol().map_or(NO_SYMBOL, |symbol| self.table.intern(symbol));
                self.rows += 1;
                *self.counts.entry(tick.symbol()).or_default() += 1;
                if self.rows <= self.rows_max {
                    read.builder.push(symbol, seq, &tick);
                } else if self.rows == self.rows_max + 1 {
                    self.partitions.iter_mut().flatten().for_each(Partition::let_go);
                    read.let_go();
                }
            }
        }
        Ok(())
    }

    fn take_bars(&mut self, read: &mut Partition) {
        for (seq, bar) in read.state.take_changed_bars() {
            self.push_bar(&mut read.builder, seq, &bar);
        }
    }

    fn push_bar(&mut self, builder: &mut TickBatchBuilder, seq: Seq, bar: &Bar) {
        if self.filter.range.contains(bar.ts) {
            builder.push_bar(self.table.intern(bar.symbol), seq, bar);
            self.rows += 1;
        }
    }

    /// The days of `symbols` (sorted; `None` for all) in the range asked for whose bars can't be told
    /// from the tail alone: [`Tail::rebuild`] each. Others may be marked since before the tail.
    pub(super) fn rebuilds(&mut self, symbols: Option<&[Symbol]>) -> Vec<(Symbol, TradingDay)> {
        let range = self.filter.range;
        let is_wanted = |(symbol, day): &(Symbol, TradingDay)| {
            symbols.is_none_or(|symbols| symbols.binary_search(symbol).is_ok())
                && range.overlaps(&TimeRange { from: day.start(), to: day.end() })
        };
        let states = self.partitions.iter_mut().flatten();
        states.flat_map(|read| read.state.take_rebuilds()).filter(is_wanted).collect()
    }

    /// Forms the bars of a symbol's day anew from all trades, cancels and corrections of it, in
    /// the order of the log.
    pub(super) fn rebuild(&mut self, symbol: Symbol, day: TradingDay, ticks: &[(Seq, Tick)]) {
        let Some((last, _)) = ticks.last() else { return };
        let at = usize::from(last.partition);
        let Some(mut read) = self.partitions.get_mut(at).and_then(Option::take) else { return };
        // After every revision that is stored or in the tail, as the processor places it.
        let place = Seq { partition: read.number, offset: read.end.saturating_sub(1), index: u32::MAX };
        read.state.rebuild(symbol, day, place, ticks);
        self.take_bars(&mut read);
        self.partitions[at] = Some(read);
    }

    /// The gaps in the tail, of all symbols and times, each with the partition it stands in.
    pub(super) fn take_gaps(&mut self) -> Vec<(u16, Gap)> {
        std::mem::take(&mut self.gaps)
    }

    /// The cancels and corrections of the tail that are of the days asked for.
    pub(super) fn take_amendments(&mut self) -> Vec<(Seq, Tick)> {
        std::mem::take(&mut self.amendments)
    }

    /// Groups of symbols to be read one after the other, in order, where the rows are too many to
    /// be held at once.
    pub(super) fn passes(&self) -> Option<Vec<Vec<Option<Symbol>>>> {
        if self.rows <= self.rows_max || self.filter.kind == Kind::Bar {
            return None;
        }
        let (mut passes, mut rows) = (vec![Vec::new()], 0);
        for (symbol, count) in &self.counts {
            let full = rows > 0 && rows + count > self.rows_max;
            if full {
                passes.push(Vec::new());
                rows = 0;
            }
            rows += count;
            passes.last_mut().into_iter().for_each(|pass| pass.push(*symbol));
        }
        Some(passes)
    }

    /// Rows that match.
    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of the log read.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// The rows, in batches that are each ordered.
    pub(super) fn finish(self) -> Vec<TickBatch> {
        let Self { partitions, table, .. } = self;
        let builders = partitions.into_iter().flatten().map(|read| read.builder);
        builders.flat_map(|mut builder| builder.finish(&table)).map(|(_, batch)| batch).collect()
    }
}
