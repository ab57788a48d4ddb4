//! The log's tail: what is not yet in warm, in columns like warm's rows.

use std::ops::Range;

use crate::bus::Bus;
use crate::market::{
    Bar, Gap, Kind, NO_SYMBOL, Seq, Symbol, SymbolTable, Tick, TickBatch, TickBatchBuilder, TimeRange,
    TradingDay,
};
use crate::tiering::state::PartitionState;
use crate::tiering::warm::Mark;
use crate::wire::record::RecordView;

use super::{HistoryError, concerns};

/// Bytes of records taken from the log at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// The rows of one kind that the log holds and warm does not.
pub(super) struct Tail {
    kind: Kind,
    range: TimeRange,
    table: SymbolTable,
    /// By partition; absent where the log holds nothing that warm lacks.
    partitions: Vec<Option<Partition>>,
    gaps: Vec<Gap>,
    rows: u64,
    bytes_read: u64,
}

struct Partition {
    builder: TickBatchBuilder,
    state: PartitionState,
    /// The place of the last tick applied.
    last: Seq,
}

impl Tail {
    /// Reads `log` (offsets by partition), which begins where `marks` end.
    pub(super) async fn read(
        bus: &dyn Bus,
        marks: &[Mark],
        log: &[Range<u64>],
        kind: Kind,
        symbols: Option<&[Symbol]>,
        range: TimeRange,
    ) -> Result<Self, HistoryError> {
        let table = SymbolTable::default();
        let mut tail =
            Self { kind, range, table, partitions: Vec::new(), gaps: Vec::new(), rows: 0, bytes_read: 0 };
        for ((partition, mark), offsets) in (0_u16..).zip(marks).zip(log) {
            if offsets.is_empty() {
                tail.partitions.push(None);
                continue;
            }
            let state = PartitionState::restore(&mark.checkpoint)
                .map_err(|error| HistoryError::state(partition, &error))?;
            let mut read =
                Partition { builder: TickBatchBuilder::new(partition), state, last: Seq::default() };
            let mut reader = bus.reader(partition, offsets.start).await?;
            while reader.offset() < offsets.end {
                for record in reader.next(READ_BYTES_MAX).await? {
                    if record.offset >= offsets.end {
                        break;
                    }
                    tail.bytes_read += record.bytes.len() as u64;
                    let damaged = |reason| HistoryError::Record { partition, offset: record.offset, reason };
                    tail.take(&mut read, partition, record.offset, &record.bytes, symbols)
                        .map_err(damaged)?;
                }
            }
            tail.take_bars(&mut read, partition);
            tail.partitions.push(Some(read));
        }
        Ok(tail)
    }

    fn take(
        &mut self,
        read: &mut Partition,
        partition: u16,
        offset: u64,
        bytes: &[u8],
        symbols: Option<&[Symbol]>,
    ) -> Result<(), crate::wire::record::RecordError> {
        let view = RecordView::parse(bytes)?;
        if !read.state.admit(view.origin) {
            return Ok(());
        }
        for (index, row) in (0..).zip(view.ticks()) {
            let (_, tick) = row?;
            let seq = Seq { partition, offset, index };
            if let Tick::Gap(gap) = &tick {
                self.gaps.push((**gap).clone());
            }
            if symbols.is_some() && (tick.symbol().is_none() || !concerns(tick.symbol(), symbols)) {
                continue;
            }
            if self.kind == Kind::Bar {
                read.state.apply(seq, &tick);
                read.last = seq;
            } else if tick.kind() == self.kind && self.range.contains(tick.ts()) {
                let symbol = tick.symbol().map_or(NO_SYMBOL, |symbol| self.table.intern(symbol));
                read.builder.push(symbol, seq, &tick);
                self.rows += 1;
            }
        }
        Ok(())
    }

    fn take_bars(&mut self, read: &mut Partition, _partition: u16) {
        for (seq, bar) in read.state.take_changed_bars() {
            self.push_bar(&mut read.builder, seq, &bar);
        }
    }

    fn push_bar(&mut self, builder: &mut TickBatchBuilder, seq: Seq, bar: &Bar) {
        if self.range.contains(bar.ts) {
            builder.push_bar(self.table.intern(bar.symbol), seq, bar);
            self.rows += 1;
        }
    }

    /// The symbol-days whose bars can't be told from the tail alone: [`Tail::rebuild`] each.
    pub(super) fn rebuilds(&mut self) -> Vec<(Symbol, TradingDay)> {
        let states = self.partitions.iter_mut().flatten();
        states.flat_map(|read| read.state.take_rebuilds()).collect()
    }

    /// Forms the bars of a symbol's day anew from all trades, cancels and corrections of it, in
    /// the order of the log.
    pub(super) fn rebuild(&mut self, symbol: Symbol, day: TradingDay, ticks: &[(Seq, Tick)]) {
        let Some((last, _)) = ticks.last() else { return };
        let at = usize::from(last.partition);
        let Some(mut read) = self.partitions.get_mut(at).and_then(Option::take) else { return };
        read.state.rebuild(symbol, day, read.last, ticks);
        self.take_bars(&mut read, last.partition);
        self.partitions[at] = Some(read);
    }

    /// The gaps in the tail, of all symbols and times.
    pub(super) fn take_gaps(&mut self) -> Vec<Gap> {
        std::mem::take(&mut self.gaps)
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
