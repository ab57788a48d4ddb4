//! Trades as they stand now: which were broken or corrected later, and what the corrected ones became.
//!
//! A stored trade never changes. A cancel or correction is a row of its own that comes later, in warm,
//! in the archive or in the log's tail, and amends a trade of its own trading day, as it does for bars
//! ([`FinalTrades`]). So an answer about trades reads the cancels and corrections of its days beside
//! them, in the same order. Where a symbol has any on a day, the trades of that symbol and day are read
//! for those that are meant; everything else passes through untouched.

use std::collections::{BTreeMap, VecDeque};

use foldhash::{HashMap, HashMapExt};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};

use super::{History, HistoryError, HistoryQuery, RowStream};
use crate::market::{
    Exchange, Kind, RowKey, Seq, Symbol, SymbolTable, Tick, TickBatch, TickBatchBuilder, TimeRange, Trade,
    TradeUpdate, TradingDay,
};
use crate::tiering::state::FinalTrades;

/// Cancels or corrections of a tier that are read before the first trade, so that few are held open
/// for as long as the answer takes.
const READ_AHEAD_ROWS: usize = 1 << 14;

/// Rows of an answer, with what became of each later.
#[derive(Clone, Debug, PartialEq)]
pub struct AmendedBatch {
    /// The rows. A corrected trade has the time of the trade it takes the place of, and the place in
    /// the log of the correction.
    pub rows: TickBatch,
    /// What became of each row; empty where none is amended.
    pub updates: Vec<Option<TradeUpdate>>,
}

impl AmendedBatch {
    /// What became of `row`.
    pub fn update(&self, row: usize) -> Option<TradeUpdate> {
        self.updates.get(row).copied().flatten()
    }

    /// The first `len` rows.
    pub(super) fn first(self, len: usize) -> Self {
        let Self { rows, mut updates } = self;
        updates.truncate(len);
        Self { rows: rows.slice(0..len.min(rows.len())), updates }
    }
}

impl From<TickBatch> for AmendedBatch {
    fn from(rows: TickBatch) -> Self {
        Self { rows, updates: Vec::new() }
    }
}

/// A stream of [`AmendedBatch`]es.
pub(super) type AmendedStream = BoxStream<'static, Result<AmendedBatch, HistoryError>>;

/// The whole trading days that `range` lies in: an amendment may come at any time of its day.
pub(super) fn whole_days(range: TimeRange) -> TimeRange {
    let last = range.to.saturating_add_nanos(-1).max(range.from);
    TimeRange { from: range.from.trading_day().start(), to: last.trading_day().end() }
}

/// A cancel or correction.
struct Amendment {
    symbol: Symbol,
    day: TradingDay,
    seq: Seq,
    tick: Tick,
}

/// Cancels or corrections of one tier, ordered by symbol, ts, seq.
pub(super) struct Amendments {
    ready: VecDeque<TickBatch>,
    /// Beyond what is ready; `None` once all was read.
    rest: Option<RowStream>,
    next: VecDeque<Amendment>,
}

impl Amendments {
    /// Those of a tier, if there are any.
    pub(super) async fn stored(rows: RowStream) -> Result<Option<Self>, HistoryError> {
        let mut amendments = Self { ready: VecDeque::new(), rest: Some(rows), next: VecDeque::new() };
        let mut held = 0;
        while held < READ_AHEAD_ROWS
            && let Some(rest) = &mut amendments.rest
        {
            match rest.try_next().await? {
                Some(batch) => {
                    held += batch.len();
                    amendments.ready.push_back(batch);
                }
                None => amendments.rest = None,
            }
        }
        Ok((held > 0).then_some(amendments))
    }

    /// Those of the log's tail, in any order, if there are any.
    pub(super) fn of_tail(ticks: Vec<(Seq, Tick)>) -> Option<Self> {
        let mut ticks: Vec<_> = ticks.into_iter().filter_map(|(seq, tick)| amendment(seq, tick)).collect();
        ticks.sort_by_key(|of| (of.symbol, of.tick.ts(), of.seq));
        (!ticks.is_empty()).then(|| Self { ready: VecDeque::new(), rest: None, next: ticks.into() })
    }

    /// The next of them.
    async fn peek(&mut self) -> Result<Option<&Amendment>, HistoryError> {
        while self.next.is_empty() {
            let batch = match (self.ready.pop_front(), &mut self.rest) {
                (Some(batch), _) => batch,
                (None, None) => return Ok(None),
                (None, Some(rest)) => {
                    let Some(batch) = rest.try_next().await? else {
                        self.rest = None;
                        return Ok(None);
                    };
                    batch
                }
            };
            let rows = batch.rows()?;
            for row in 0..batch.len() {
                self.next.extend(amendment(rows.seq(row), rows.tick(row)?));
            }
        }
        Ok(self.next.front())
    }
}

fn amendment(seq: Seq, tick: Tick) -> Option<Amendment> {
    Some(Amendment { symbol: tick.symbol()?, day: tick.ts().trading_day(), seq, tick })
}

/// A corrected trade, at the place of its correction.
struct Added {
    seq: Seq,
    trade: Trade,
    update: TradeUpdate,
}

/// What became of the trades of one symbol and day.
struct DayUpdates {
    symbol: Symbol,
    day: TradingDay,
    /// Of stored trades.
    marks: HashMap<Seq, TradeUpdate>,
    /// Not yet given out, ordered by ts and seq.
    added: VecDeque<Added>,
}

/// Marks the trades of an answer while they stream.
pub(super) struct Amender {
    history: History,
    /// The offsets, by partition, before which the answer's rows lie.
    next_offsets: Vec<u64>,
    range: TimeRange,
    inputs: Vec<Amendments>,
    current: Option<DayUpdates>,
}

/// The rows that go out for a batch.
#[derive(Default)]
struct Out {
    batches: Vec<TickBatch>,
    parts: Vec<(usize, std::ops::Range<usize>)>,
    updates: Vec<Option<TradeUpdate>>,
    is_marked: bool,
}

impl Out {
    fn rows(&mut self, rows: std::ops::Range<usize>, update: Option<TradeUpdate>) {
        self.is_marked |= update.is_some();
        self.updates.extend(std::iter::repeat_n(update, rows.len()));
        match self.parts.last_mut() {
            Some((0, last)) if last.end == rows.start => last.end = rows.end,
            _ => self.parts.push((0, rows)),
        }
    }

    fn add(&mut self, added: &Added) {
        let mut table = SymbolTable::default();
        let mut builder = TickBatchBuilder::new(added.seq.partition);
        builder.push(table.intern(added.trade.symbol), added.seq, &Tick::Trade(added.trade));
        for (_, batch) in builder.finish(&table) {
            self.is_marked = true;
            self.updates.push(Some(added.update));
            self.parts.push((self.batches.len(), 0..1));
            self.batches.push(batch);
        }
    }

    fn finish(self) -> Option<AmendedBatch> {
        let updates = if self.is_marked { self.updates } else { Vec::new() };
        let rows = match &self.parts[..] {
            [] => return None,
            [(batch, rows)] => self.batches[*batch].slice(rows.clone()),
            parts => TickBatch::concat(Kind::Trade, &self.batches, parts),
        };
        Some(AmendedBatch { rows, updates })
    }
}

impl Amender {
    /// Marks trades by `inputs`, in an answer about `range` that ends before `next_offsets`.
    pub(super) fn new(
        history: History,
        next_offsets: Vec<u64>,
        range: TimeRange,
        inputs: Vec<Amendments>,
    ) -> Self {
        Self { history, next_offsets, range, inputs, current: None }
    }

    /// `rows`, marked.
    pub(super) fn stream(self, rows: RowStream) -> AmendedStream {
        stream::try_unfold((Some(self), rows), |(amender, mut rows)| async move {
            let Some(mut amender) = amender else { return Ok(None) };
            while let Some(batch) = rows.try_next().await? {
                if let Some(batch) = amender.amend(batch).await? {
                    return Ok(Some((batch, (Some(amender), rows))));
                }
            }
            let mut out = Out::default();
            amender.leave_day(&mut out);
            Ok(out.finish().map(|batch| (batch, (None, rows))))
        })
        .boxed()
    }

    async fn amend(&mut self, batch: TickBatch) -> Result<Option<AmendedBatch>, HistoryError> {
        let keys = batch.keys()?;
        let mut out = Out { batches: vec![batch], ..Out::default() };
        let mut row = 0;
        while row < keys.len() {
            let RowKey { symbol: Some(symbol), ts, .. } = keys.get(row) else {
                // No trade is without a symbol.
                out.rows(row..row + 1, None);
                row += 1;
                continue;
            };
            let day = ts.trading_day();
            if self.current.as_ref().is_none_or(|current| (current.symbol, current.day) != (symbol, day)) {
                self.leave_day(&mut out);
                match self.next_day(symbol, day).await? {
                    None => {
                        out.rows(row..keys.len(), None);
                        break;
                    }
                    Some(next) if next == (symbol, day) => {
                        self.current = Some(self.updates_of(symbol, day).await?);
                    }
                    Some((symbol, day)) => {
                        let next = (Some(symbol), day.start());
                        let end = end_of(row, keys.len(), |row| {
                            let key = keys.get(row);
                            (key.symbol, key.ts) < next
                        });
                        out.rows(row..end, None);
                        row = end;
                        continue;
                    }
                }
            }
            let end = end_of(row, keys.len(), |row| {
                let key = keys.get(row);
                key.symbol == Some(symbol) && key.ts < day.end()
            });
            let Some(current) = &mut self.current else { continue };
            for row in row..end {
                let key = keys.get(row);
                while let Some(added) =
                    current.added.pop_front_if(|of| (of.trade.ts, of.seq) < (key.ts, key.seq))
                {
                    out.add(&added);
                }
                out.rows(row..row + 1, current.marks.get(&key.seq).copied());
            }
            row = end;
        }
        Ok(out.finish())
    }

    /// Gives out the corrected trades that are left of the current symbol and day.
    fn leave_day(&mut self, out: &mut Out) {
        self.current.take().into_iter().flat_map(|current| current.added).for_each(|added| out.add(&added));
    }

    /// The first symbol and day from these on with cancels or corrections.
    async fn next_day(
        &mut self,
        symbol: Symbol,
        day: TradingDay,
    ) -> Result<Option<(Symbol, TradingDay)>, HistoryError> {
        let mut first = None;
        for input in &mut self.inputs {
            while let Some(next) = input.peek().await?.map(|next| (next.symbol, next.day)) {
                if next >= (symbol, day) {
                    first = Some(first.map_or(next, |first| next.min(first)));
                    break;
                }
                input.next.pop_front();
            }
        }
        Ok(first)
    }

    async fn updates_of(&mut self, symbol: Symbol, day: TradingDay) -> Result<DayUpdates, HistoryError> {
        let mut ticks = BTreeMap::new();
        for input in &mut self.inputs {
            while input.peek().await?.is_some_and(|next| (next.symbol, next.day) == (symbol, day)) {
                ticks.extend(input.next.pop_front().map(|next| (next.seq, next.tick)));
            }
        }
        let mut named = Named::new(&ticks);
        let range = TimeRange { from: day.start(), to: day.end() };
        let query =
            HistoryQuery { symbols: vec![symbol], kind: Kind::Trade, timeframe: None, range, limit: None };
        let mut rows = self.history.query(query).await?.rows;
        while let Some(batch) = rows.try_next().await? {
            let view = batch.rows()?;
            for row in 0..batch.len() {
                let seq = view.seq(row);
                let is_within =
                    self.next_offsets.get(usize::from(seq.partition)).is_some_and(|next| seq.offset < *next);
                if is_within && let Tick::Trade(trade) = view.tick(row)? {
                    named.take(seq, trade);
                }
            }
        }
        ticks.extend(named.trades());
        let (marks, mut added) = resolve(&ticks);
        added.retain(|added| self.range.contains(added.trade.ts));
        added.sort_by_key(|added| (added.trade.ts, added.seq));
        Ok(DayUpdates { symbol, day, marks, added: added.into() })
    }
}

/// The end of the rows from `start` that `holds` for, which are the first.
fn end_of(start: usize, len: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (start, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// The trades of a symbol and day that cancels and corrections may be about. Feeds without trade ids
/// give all trades the same one: of those only as many are kept as can be meant.
struct Named {
    /// Where each id is named, in the log's order.
    ids: HashMap<u64, Vec<Seq>>,
    /// By exchange and id, and how often the id was named before.
    trades: HashMap<(Exchange, u64, usize), BTreeMap<Seq, Trade>>,
}

impl Named {
    fn new(amendments: &BTreeMap<Seq, Tick>) -> Self {
        let mut ids: HashMap<u64, Vec<Seq>> = HashMap::new();
        for (&seq, tick) in amendments {
            let named = match tick {
                Tick::Cancel(cancel) => [Some(cancel.id), None],
                Tick::Correction(of) => [Some(of.original.id), Some(of.corrected.id)],
                _ => [None, None],
            };
            named.into_iter().flatten().for_each(|id| ids.entry(id).or_default().push(seq));
        }
        Self { ids, trades: HashMap::new() }
    }

    fn take(&mut self, seq: Seq, trade: Trade) {
        let Some(named) = self.ids.get(&trade.id) else { return };
        let before = named.partition_point(|at| *at < seq);
        let trades = self.trades.entry((trade.exchange, trade.id, before)).or_default();
        trades.insert(seq, trade);
        if trades.len() > named.len() {
            trades.pop_first();
        }
    }

    fn trades(self) -> impl Iterator<Item = (Seq, Tick)> {
        self.trades.into_values().flatten().map(|(seq, trade)| (seq, Tick::Trade(trade)))
    }
}

/// What became of trades, out of them and what amends them, in the log's order.
fn resolve(ticks: &BTreeMap<Seq, Tick>) -> (HashMap<Seq, TradeUpdate>, Vec<Added>) {
    /// The row that a trade stands in.
    enum Row {
        Stored(Seq),
        Added(usize),
    }
    let mut trades = FinalTrades::default();
    let mut rows: Vec<Row> = Vec::new();
    let (mut marks, mut added) = (HashMap::new(), Vec::<Added>::new());
    let mut mark = |row: &Row, update: TradeUpdate, added: &mut Vec<Added>| match row {
        Row::Stored(seq) => {
            marks.insert(*seq, update);
        }
        Row::Added(at) => added[*at].update = update,
    };
    for (&seq, tick) in ticks {
        let at = match tick {
            Tick::Cancel(cancel) => trades.named(cancel.exchange, cancel.id),
            Tick::Correction(of) => trades.named(of.exchange, of.original.id),
            _ => None,
        };
        let at = at.filter(|at| trades.get(*at).is_some());
        trades.apply(tick, false);
        match (tick, at) {
            (Tick::Trade(_), _) => rows.push(Row::Stored(seq)),
            (Tick::Cancel(_), Some(at)) => mark(&rows[at], TradeUpdate::Canceled, &mut added),
            (Tick::Correction(correction), Some(at)) => {
                mark(&rows[at], TradeUpdate::Incorrect, &mut added);
                if let Some(trade) = trades.get(at) {
                    rows[at] = Row::Added(added.len());
                    let trade = Trade { recv_ts: correction.recv_ts, ..*trade };
                    added.push(Added { seq, trade, update: TradeUpdate::Corrected });
                }
            }
            _ => {}
        }
    }
    (marks, added)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::{Cancel, Conditions, Correction, Price, Tape, Timestamp, TradeTerms};

    fn tick(kind: u8, exchange: u8, id: u64, corrected: u64) -> Tick {
        let symbol = "AAPL".parse().unwrap();
        let ts = Timestamp::from_nanos(1_763_649_000_000_000_000);
        let (exchange, tape) = (Exchange::from_code(exchange).unwrap(), Tape::A);
        let (price, size, conditions) =
            (Price::from_ten_thousandths(corrected as i64 + 1).unwrap(), 1, Conditions::NONE);
        let terms = |id| TradeTerms { id, price, size, conditions };
        match kind {
            0 => Tick::Cancel(Box::new(Cancel {
                symbol,
                ts,
                recv_ts: ts,
                id,
                price,
                size,
                exchange,
                action: b'C',
                tape,
            })),
            1 => Tick::Correction(Box::new(Correction {
                symbol,
                ts,
                recv_ts: ts,
                exchange,
                original: terms(id),
                corrected: terms(corrected),
                tape,
            })),
            _ => Tick::Trade(Trade { symbol, ts, recv_ts: ts, price, size, exchange, conditions, id, tape }),
        }
    }

    proptest! {
        // Feeds without trade ids: many trades of one id, few of which can be meant.
        #[test]
        fn what_can_not_be_meant_need_not_be_kept(
            ticks in prop::collection::vec(
                (0_u8..12, prop::sample::select(&[b'V', b'Q', b' '][..]), 0_u64..3, 0_u64..3), 0..60,
            ),
        ) {
            let ticks: BTreeMap<Seq, Tick> = (0..)
                .map(|offset| Seq { partition: 1, offset, index: 0 })
                .zip(ticks.into_iter().map(|(kind, exchange, id, corrected)| tick(kind, exchange, id, corrected)))
                .collect();
            let is_trade = |tick: &Tick| matches!(tick, Tick::Trade(_));
            let mut kept: BTreeMap<Seq, Tick> =
                ticks.iter().filter(|(_, tick)| !is_trade(tick)).map(|(seq, tick)| (*seq, tick.clone())).collect();
            let mut named = Named::new(&kept);
            // In the order of time, which is any.
            for (seq, tick) in ticks.iter().rev() {
                if let Tick::Trade(trade) = tick {
                    named.take(*seq, *trade);
                }
            }
            kept.extend(named.trades());
            let shown = |ticks: &BTreeMap<Seq, Tick>| {
                let (marks, added) = resolve(ticks);
                let marks: BTreeMap<Seq, TradeUpdate> = marks.into_iter().collect();
                (marks, added.into_iter().map(|of| (of.seq, of.trade, of.update)).collect::<Vec<_>>())
            };
            prop_assert_eq!(shown(&kept), shown(&ticks));
        }
    }
}
