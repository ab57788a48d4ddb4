//! What a processor knows of one partition at one offset: which records are repeats, and the bars
//! that are still being formed. A pure function of the log, so that the processor, history and
//! gateways all derive the same from the same records.
//!
//! Of each symbol the bars of its two newest days, and of one more that is being visited (the
//! replay of an old day), are at hand: the daily bar and the last few minutes. What these can't
//! answer (a late trade of a minute that is gone, a trade that is broken or amended) marks the
//! symbol and day for [`PartitionState::rebuild`] from its stored trades.
//!
//! A cancel or correction amends trades of its own trading day, in which an exchange's trade ids are
//! unique.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use foldhash::HashMap;

use super::codec::{CodecError, Reader, Writer};
use super::producers::Producers;
use crate::market::{Bar, Exchange, Seq, Symbol, SymbolTable, Tick, Timeframe, Timestamp, Trade, TradingDay};
use crate::wire::record::Origin;

/// The version of the saved state that is written. Version 1, which kept the last number of each
/// producer alone, is read too.
pub const STATE_VERSION: u8 = 2;

/// Minutes with trades of each symbol and day that are kept at hand.
const MINUTES_MAX: usize = 4;
/// The newest days of a symbol that are always kept.
const NEWEST_DAYS: usize = 2;
/// Those, and one that is visited.
const DAYS_MAX: usize = NEWEST_DAYS + 1;

/// Why saved bytes are no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Written by another version of the program.
    #[error("a processor state of version {0}; this program reads versions 1 and 2: use a newer stk")]
    Version(u8),
    /// Cut short or altered.
    #[error("a processor state is damaged: {0}")]
    Damaged(&'static str),
}

impl From<CodecError> for StateError {
    fn from(error: CodecError) -> Self {
        match error {
            CodecError::Version(found) => Self::Version(found),
            CodecError::Damaged(what) => Self::Damaged(what),
        }
    }
}

/// A bar, the place of the last tick in it, and whether it changed since it was taken.
#[derive(Clone)]
struct Held {
    seq: Seq,
    bar: Bar,
    changed: bool,
}

impl Held {
    fn add(&mut self, seq: Seq, trade: &Trade) -> bool {
        if !self.bar.add(trade) {
            return false;
        }
        self.seq = seq;
        self.changed = true;
        true
    }
}

/// The bars of one symbol and day.
#[derive(Clone)]
struct Day {
    day: TradingDay,
    daily: Held,
    /// The last minutes with trades, ascending.
    minutes: Vec<Held>,
    /// The newest minute that is no longer at hand.
    evicted: Timestamp,
}

#[derive(Clone, Default)]
struct SymbolBars {
    /// Ascending by day.
    days: Vec<Day>,
    /// Whether the symbol stands in [`PartitionState::changed`].
    listed: bool,
}

/// What is known of one partition at one offset.
#[derive(Default)]
pub struct PartitionState {
    partition: u16,
    producers: Producers,
    table: SymbolTable,
    symbols: Vec<SymbolBars>,
    /// Numbers of the symbols with changed bars.
    changed: Vec<u32>,
    /// Changed bars that are no longer at hand.
    changed_evicted: Vec<(Seq, Bar)>,
    /// What must be rebuilt, and the first tick that asked for it.
    pending: BTreeMap<(Symbol, TradingDay), Seq>,
    /// As [`PartitionState::pending`], taken and not yet rebuilt.
    taken: BTreeMap<(Symbol, TradingDay), Seq>,
}

impl PartitionState {
    /// The state before the first record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the record of `origin`, which has this checksum, is new. A repeat (its producer's
    /// sequence did not rise) must be skipped as a whole.
    pub fn admit(&mut self, origin: Origin, checksum: u32) -> bool {
        self.producers.admit(origin, checksum)
    }

    /// The producers heard so far.
    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    /// The same, without the rest of the state.
    pub fn into_producers(self) -> Producers {
        self.producers
    }

    /// The number of `symbol` in [`PartitionState::symbols`]: a record's symbols are numbered once,
    /// and its ticks applied by number.
    #[inline]
    pub fn number(&mut self, symbol: Symbol) -> u32 {
        let number = self.table.intern(symbol);
        if number as usize == self.symbols.len() {
            self.symbols.push(SymbolBars::default());
        }
        number
    }

    /// The symbols seen, by number.
    pub fn symbols(&self) -> &SymbolTable {
        &self.table
    }

    /// Takes in a tick of an admitted record.
    pub fn apply(&mut self, seq: Seq, tick: &Tick) {
        if let (Some(symbol), Tick::Trade(_) | Tick::Cancel(_) | Tick::Correction(_)) = (tick.symbol(), tick)
        {
            let number = self.number(symbol);
            self.apply_numbered(number, seq, tick);
        }
    }

    /// As [`PartitionState::apply`], with the symbol's number.
    #[inline]
    pub fn apply_numbered(&mut self, number: u32, seq: Seq, tick: &Tick) {
        match tick {
            Tick::Trade(trade) => self.trade(number, seq, trade),
            Tick::Cancel(cancel) => self.mark_rebuild(cancel.symbol, cancel.ts.trading_day(), seq),
            Tick::Correction(correction) => {
                self.mark_rebuild(correction.symbol, correction.ts.trading_day(), seq);
            }
            Tick::Quote(_) | Tick::Status(_) | Tick::Gap(_) | Tick::PrevClose(_) => {}
        }
    }

    /// Marks the bars of `symbol` and `day` to be rebuilt from their stored trades; `seq` is the place of
    /// the tick that makes it necessary.
    pub fn mark_rebuild(&mut self, symbol: Symbol, day: TradingDay, seq: Seq) {
        self.partition = seq.partition;
        self.pending.entry((symbol, day)).or_insert(seq);
    }

    fn trade(&mut self, number: u32, seq: Seq, trade: &Trade) {
        self.partition = seq.partition;
        let day = trade.ts.trading_day();
        let bars = &mut self.symbols[number as usize];
        let at = match bars.days.iter().rposition(|held| held.day == day) {
            Some(at) => at,
            None if bars.days.last().is_none_or(|newest| day > newest.day) => {
                bars.days.push(Day::empty(trade.symbol, day, seq));
                drop_visited(&mut bars.days, day, &mut self.changed_evicted);
                bars.days.len() - 1
            }
            // A day that may have trades already: what its bars hold is to be read back.
            None => return self.mark_rebuild(trade.symbol, day, seq),
        };
        let day_bars = &mut bars.days[at];
        let mut changed = day_bars.daily.add(seq, trade);
        let minute = day_bars.minute(trade.symbol, trade.ts.floor_minute(), seq, &mut self.changed_evicted);
        let known = minute.is_some();
        changed |= minute.is_some_and(|minute| minute.add(seq, trade));
        if changed && !bars.listed {
            bars.listed = true;
            self.changed.push(number);
        }
        if !known {
            self.mark_rebuild(trade.symbol, day, seq);
        }
    }

    /// Takes the bars that changed since the last call, each as it stands now with the place of
    /// the last tick in it. An empty bar says that all trades of its span were broken.
    pub fn take_changed_bars(&mut self) -> Vec<(Seq, Bar)> {
        let mut taken = std::mem::take(&mut self.changed_evicted);
        for number in self.changed.drain(..) {
            let bars = &mut self.symbols[number as usize];
            bars.listed = false;
            for held in bars.days.iter_mut().flat_map(Day::all_mut) {
                if std::mem::take(&mut held.changed) {
                    taken.push((held.seq, held.bar));
                }
            }
        }
        taken
    }

    /// Takes the symbols and days whose bars must be rebuilt from their stored trades, by
    /// [`PartitionState::rebuild`]. Those that are not rebuilt before the next call are taken again.
    pub fn take_rebuilds(&mut self) -> Vec<(Symbol, TradingDay)> {
        for (key, seq) in std::mem::take(&mut self.pending) {
            self.taken.entry(key).or_insert(seq);
        }
        self.taken.keys().copied().collect()
    }

    /// Forgets what was taken and not rebuilt.
    pub fn forget_rebuilds(&mut self) {
        self.taken.clear();
    }

    /// Whether [`PartitionState::take_rebuilds`] has something to give.
    pub fn needs_rebuild(&self) -> bool {
        !self.pending.is_empty() || !self.taken.is_empty()
    }

    /// Marks a symbol's day again that was taken and could not be rebuilt.
    pub fn postpone(&mut self, symbol: Symbol, day: TradingDay) {
        if let Some(since) = self.taken.remove(&(symbol, day)) {
            // What was marked since then came after it.
            self.pending.insert((symbol, day), since);
        }
    }

    /// Replaces the bars of `symbol` and `day` by those of `rows`: all of its trades, cancels and
    /// corrections up to `seq` (rows of others are passed over), in any order. Bars that differ
    /// count as changed at `seq`, which should lie after every tick applied: a bar that was stored
    /// at the same place would not be told from its revision.
    pub fn rebuild(&mut self, symbol: Symbol, day: TradingDay, seq: Seq, rows: &[(Seq, Tick)]) {
        self.partition = seq.partition;
        let since = self.taken.remove(&(symbol, day)).unwrap_or_default();
        let mut trades = FinalTrades::default();
        let mut ordered: Vec<&(Seq, Tick)> = rows
            .iter()
            .filter(|(_, tick)| tick.symbol() == Some(symbol) && tick.ts().trading_day() == day)
            .collect();
        ordered.sort_unstable_by_key(|(seq, _)| *seq);
        ordered.dedup_by_key(|(seq, _)| *seq);
        for (place, tick) in ordered {
            trades.apply(tick, *place >= since);
        }
        let mut daily = Held { seq, bar: Bar::empty(symbol, Timeframe::Day, day.start()), changed: true };
        let mut minutes: BTreeMap<Timestamp, Bar> = BTreeMap::new();
        let empty = |minute| Bar::empty(symbol, Timeframe::MINUTE, minute);
        for trade in trades.left() {
            daily.bar.add(trade);
            let minute = trade.ts.floor_minute();
            minutes.entry(minute).or_insert_with(|| empty(minute)).add(trade);
        }
        let number = self.number(symbol);
        let bars = &mut self.symbols[number as usize];
        let at = bars.days.partition_point(|held| held.day < day);
        let before = bars.days.get(at).filter(|held| held.day == day).cloned();
        let shown_before = before.iter().flat_map(|day| &day.minutes).map(|held| held.bar.ts);
        for minute in shown_before.chain(trades.touched.iter().copied()) {
            minutes.entry(minute).or_insert_with(|| empty(minute));
        }
        let mut rebuilt =
            Day { day, daily, minutes: Vec::with_capacity(MINUTES_MAX), evicted: Timestamp::MIN };
        let was = |minute| {
            let held = before.iter().flat_map(|day| &day.minutes).find(|held| held.bar.ts == minute);
            held.map(|held| (held.bar, held.changed))
        };
        let gone = minutes.len().saturating_sub(MINUTES_MAX);
        for (index, (minute, bar)) in minutes.into_iter().enumerate() {
            let changed = match was(minute) {
                Some((held, untaken)) => untaken || held != bar,
                None => trades.touched.contains(&minute),
            };
            if index >= gone {
                rebuilt.minutes.push(Held { seq, bar, changed });
                continue;
            }
            rebuilt.evicted = minute;
            if changed {
                self.changed_evicted.push((seq, bar));
            }
        }
        if let Some(before) = &before {
            rebuilt.daily.changed = before.daily.changed || before.daily.bar != rebuilt.daily.bar;
            rebuilt.evicted = rebuilt.evicted.max(before.evicted);
            bars.days[at] = rebuilt;
        } else {
            bars.days.insert(at, rebuilt);
            drop_visited(&mut bars.days, day, &mut self.changed_evicted);
        }
        if !std::mem::replace(&mut bars.listed, true) {
            self.changed.push(number);
        }
    }

    /// Every bar at hand, changed or not, by symbol in the order of first sight, then by day: what
    /// hot is filled from at start.
    pub fn bars(&self) -> impl Iterator<Item = (Seq, Bar)> + '_ {
        let days = self.symbols.iter().flat_map(|bars| &bars.days);
        days.flat_map(Day::all).map(|held| (held.seq, held.bar))
    }

    /// The newest trading day with a trade, `last` at the latest.
    pub fn newest_day(&self, last: TradingDay) -> Option<TradingDay> {
        let days = self.symbols.iter().flat_map(|bars| &bars.days).map(|day| day.day);
        days.filter(|day| *day <= last).max()
    }

    /// The state as bytes. Changed bars that were not taken are not remembered as changed.
    pub fn save(&self) -> Bytes {
        let mut out =
            Writer::new(STATE_VERSION, 64 + self.producers.saved_bytes() + 256 * self.symbols.len());
        out.varint(u64::from(self.partition));
        self.producers.save(&mut out);
        out.varint(self.symbols.len() as u64);
        for (&symbol, bars) in self.table.symbols().iter().zip(&self.symbols) {
            out.symbol(symbol);
            out.u8(bars.days.len() as u8);
            for day in &bars.days {
                let base = day.day.start();
                out.zigzag(i64::from(day.day.days_since_epoch()));
                out.varint(if day.evicted == Timestamp::MIN {
                    0
                } else {
                    1 + day.evicted.nanos_since(base) as u64 / NANOS_PER_MINUTE
                });
                out.u8(day.minutes.len() as u8);
                for held in day.all() {
                    out.place(held.seq);
                    out.bar(base, &held.bar);
                }
            }
        }
        let mut pending = self.taken.clone();
        for (&key, &seq) in &self.pending {
            pending.entry(key).or_insert(seq);
        }
        out.varint(pending.len() as u64);
        for ((symbol, day), seq) in pending {
            out.symbol(symbol);
            out.zigzag(i64::from(day.days_since_epoch()));
            out.place(seq);
        }
        out.finish()
    }

    /// Reads what [`PartitionState::save`] wrote; no bytes are the state before the first record.
    pub fn restore(bytes: &[u8]) -> Result<Self, StateError> {
        let mut state = Self::new();
        if bytes.is_empty() {
            return Ok(state);
        }
        let (version, mut input) = Reader::of_versions(bytes, 1..=STATE_VERSION)?;
        state.partition =
            u16::try_from(input.varint()?).map_err(|_| StateError::Damaged("a partition is out of range"))?;
        let partition = state.partition;
        state.producers = Producers::restore(&mut input, version)?;
        for expected in 0..input.count(3)? {
            let symbol = input.symbol()?;
            let number = state.number(symbol) as usize;
            if number != expected {
                return Err(StateError::Damaged("a symbol stands twice"));
            }
            for _ in 0..input.u8()? {
                let day = day_from(input.zigzag()?)?;
                let base = day.start();
                let evicted = match input.varint()? {
                    0 => Timestamp::MIN,
                    minutes @ 1..=1_600 => {
                        base.saturating_add_nanos(((minutes - 1) * NANOS_PER_MINUTE) as i64)
                    }
                    _ => return Err(StateError::Damaged("a minute is out of its day")),
                };
                let minutes = input.u8()?;
                let seq = input.place(partition)?;
                let bar = input.bar(base, symbol, Timeframe::Day)?;
                let mut held = Day {
                    day,
                    daily: Held { seq, bar, changed: false },
                    minutes: Vec::with_capacity(MINUTES_MAX),
                    evicted,
                };
                for _ in 0..minutes {
                    let seq = input.place(partition)?;
                    let bar = input.bar(base, symbol, Timeframe::MINUTE)?;
                    held.minutes.push(Held { seq, bar, changed: false });
                }
                state.symbols[number].days.push(held);
            }
        }
        for _ in 0..input.count(4)? {
            let (symbol, day) = (input.symbol()?, day_from(input.zigzag()?)?);
            state.pending.insert((symbol, day), input.place(partition)?);
        }
        input.end()?;
        Ok(state)
    }
}

const NANOS_PER_MINUTE: u64 = 60_000_000_000;

/// A day in the range of [`Timestamp`], so that its start can be computed.
fn day_from(days: i64) -> Result<TradingDay, StateError> {
    let known = Timestamp::MIN.trading_day()..=Timestamp::MAX.trading_day();
    let day = i32::try_from(days).map(TradingDay::from_days_since_epoch).ok();
    day.filter(|day| known.contains(day)).ok_or(StateError::Damaged("a day is out of range"))
}

/// Keeps the newest days and one visited, the one just added; changed bars of a day that goes
/// still count.
fn drop_visited(days: &mut Vec<Day>, added: TradingDay, gone: &mut Vec<(Seq, Bar)>) {
    while days.len() > DAYS_MAX {
        let visited = &days[..days.len() - NEWEST_DAYS];
        let at = visited.iter().position(|held| held.day != added).unwrap_or(0);
        let day = days.remove(at);
        gone.extend(day.all().filter(|held| held.changed).map(|held| (held.seq, held.bar)));
    }
}

impl Day {
    fn empty(symbol: Symbol, day: TradingDay, seq: Seq) -> Self {
        let daily = Held { seq, bar: Bar::empty(symbol, Timeframe::Day, day.start()), changed: false };
        Self { day, daily, minutes: Vec::with_capacity(MINUTES_MAX), evicted: Timestamp::MIN }
    }

    fn all(&self) -> impl Iterator<Item = &Held> {
        std::iter::once(&self.daily).chain(&self.minutes)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        std::iter::once(&mut self.daily).chain(&mut self.minutes)
    }

    /// The bar of the minute that starts at `minute`; `None` when it is no longer at hand.
    fn minute(
        &mut self,
        symbol: Symbol,
        minute: Timestamp,
        seq: Seq,
        gone: &mut Vec<(Seq, Bar)>,
    ) -> Option<&mut Held> {
        if let Some(at) = self.minutes.iter().rposition(|held| held.bar.ts == minute) {
            return Some(&mut self.minutes[at]);
        }
        if minute <= self.evicted {
            return None;
        }
        if self.minutes.len() == MINUTES_MAX {
            // Older than all at hand, it would be the one to go: leave it to the rebuild.
            if minute < self.minutes[0].bar.ts {
                self.evicted = minute;
                return None;
            }
            let oldest = self.minutes.remove(0);
            self.evicted = oldest.bar.ts;
            if oldest.changed {
                gone.push((oldest.seq, oldest.bar));
            }
        }
        let at = self.minutes.partition_point(|held| held.bar.ts < minute);
        let bar = Bar::empty(symbol, Timeframe::MINUTE, minute);
        self.minutes.insert(at, Held { seq, bar, changed: false });
        Some(&mut self.minutes[at])
    }
}

/// The trades of a symbol and day that stand after all that amends them, in the log's order.
#[derive(Default)]
pub(super) struct FinalTrades {
    trades: Vec<Option<Trade>>,
    /// Where the last trade of an exchange with an id stands.
    by_id: HashMap<(Exchange, u64), usize>,
    /// Minutes that recent ticks changed.
    touched: BTreeSet<Timestamp>,
}

impl FinalTrades {
    pub(super) fn apply(&mut self, tick: &Tick, recent: bool) {
        let changed = match tick {
            Tick::Trade(trade) => {
                self.by_id.insert((trade.exchange, trade.id), self.trades.len());
                self.trades.push(Some(*trade));
                Some(trade.ts)
            }
            Tick::Cancel(cancel) => {
                let at = self.named(cancel.exchange, cancel.id);
                at.and_then(|at| self.trades[at].take()).map(|trade| trade.ts)
            }
            Tick::Correction(correction) => {
                let at = self.named(correction.exchange, correction.original.id);
                at.and_then(|at| {
                    let trade = self.trades[at].as_mut()?;
                    self.by_id.remove(&(trade.exchange, trade.id));
                    trade.correct(&correction.corrected);
                    self.by_id.insert((trade.exchange, trade.id), at);
                    Some(trade.ts)
                })
            }
            Tick::Quote(_) | Tick::Status(_) | Tick::Gap(_) | Tick::PrevClose(_) => None,
        };
        if let (Some(ts), true) = (changed, recent) {
            self.touched.insert(ts.floor_minute());
        }
    }

    /// The trade that came as number `at`, from 0, as it stands; `None` once it is broken.
    pub(super) fn get(&self, at: usize) -> Option<&Trade> {
        self.trades.get(at)?.as_ref()
    }

    /// Where the last trade stands that [is named](Trade::is_named) by an exchange and an id.
    pub(super) fn named(&self, exchange: Exchange, id: u64) -> Option<usize> {
        let exact = self.by_id.get(&(exchange, id));
        if let Some(at) = exact.or_else(|| self.by_id.get(&(Exchange::NONE, id))) {
            return Some(*at);
        }
        if exchange != Exchange::NONE {
            return None;
        }
        // Few sources leave the exchange out, and then seldom of what amends alone.
        self.trades.iter().rposition(|trade| trade.is_some_and(|trade| trade.is_named(exchange, id)))
    }

    pub(super) fn left(&self) -> impl Iterator<Item = &Trade> {
        self.trades.iter().flatten()
    }

    /// As [`FinalTrades::left`], each with its number among all trades applied, from 0.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (usize, &Trade)> {
        self.trades.iter().enumerate().filter_map(|(number, trade)| Some((number, trade.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::{Cancel, Conditions, Correction, Exchange, Price, Quote, Tape, TradeTerms};
    use crate::tiering::golden;
    use crate::tiering::producers::Standing;

    /// What happens next in a made-up log.
    #[derive(Clone, Debug)]
    enum Step {
        Trade {
            symbol: u8,
            day: u8,
            second: u16,
            price: u16,
            size: u8,
            conditions: &'static str,
        },
        /// Breaks the trade that is so far back.
        Cancel {
            back: usize,
        },
        Correct {
            back: usize,
            price: u16,
            size: u8,
        },
        /// Saves and restores.
        Restart,
        Rebuild,
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        let conditions =
            prop_oneof![4 => Just(""), 1 => Just("I"), 1 => Just("T"), 1 => Just("Z"), 1 => Just("M")];
        prop_oneof![
            20 => (0_u8..2, 0_u8..4, 0_u16..600, 1_u16..500, 1_u8.., conditions).prop_map(
                |(symbol, day, second, price, size, conditions)| Step::Trade { symbol, day, second, price, size, conditions }
            ),
            3 => (0_usize..20).prop_map(|back| Step::Cancel { back }),
            3 => (0_usize..20, 1_u16..500, 1_u8..).prop_map(|(back, price, size)| Step::Correct { back, price, size }),
            1 => Just(Step::Restart),
            1 => Just(Step::Rebuild),
            2 => Just(Step::Take),
        ]
    }

    fn made_trade(symbol: u8, day: u8, second: u16, id: u64) -> Trade {
        let day = "2025-03-07".parse::<TradingDay>().unwrap().days_since_epoch() + i32::from(day);
        let open = TradingDay::from_days_since_epoch(day).session_open();
        let ts = open.saturating_add_nanos(i64::from(second) * 1_000_000_000);
        Trade {
            symbol: ["AAPL", "MSFT"][usize::from(symbol)].parse().unwrap(),
            ts,
            recv_ts: ts,
            price: Price::ZERO,
            size: 0,
            exchange: Exchange::IEX,
            conditions: Conditions::NONE,
            id,
            tape: Tape::C,
        }
    }

    fn cents(price: u16) -> Price {
        Price::from_ten_thousandths(i64::from(price) * 100).unwrap()
    }

    /// The ticks of `steps` with what else happens after each, as (tick, step).
    fn ticks_of(steps: &[Step]) -> Vec<(Option<Tick>, Step)> {
        let mut trades: Vec<Trade> = Vec::new();
        let mut ticks = Vec::new();
        for (number, step) in (1..).zip(steps) {
            let target = |back: usize| trades.len().checked_sub(back + 1).map(|at| trades[at]);
            let tick = match *step {
                Step::Trade { symbol, day, second, price, size, conditions } => {
                    let conditions = Conditions::from_codes(conditions.as_bytes()).unwrap();
                    let trade = Trade {
                        price: cents(price),
                        size: u32::from(size),
                        conditions,
                        // Each exchange numbers its own trades.
                        exchange: Exchange::from_code(b"VQ"[number as usize % 2]).unwrap(),
                        ..made_trade(symbol, day, second, number / 2)
                    };
                    trades.push(trade);
                    Some(Tick::Trade(trade))
                }
                Step::Cancel { back } => target(back).map(|trade| {
                    let Trade { symbol, ts, recv_ts, price, size, exchange, id, tape, .. } = trade;
                    Tick::Cancel(Box::new(Cancel {
                        symbol,
                        ts,
                        recv_ts,
                        id,
                        price,
                        size,
                        exchange,
                        action: b'C',
                        tape,
                    }))
                }),
                Step::Correct { back, price, size } => target(back).map(|trade| {
                    let Trade { symbol, ts, recv_ts, exchange, id, tape, conditions, .. } = trade;
                    let original = TradeTerms { id, price: trade.price, size: trade.size, conditions };
                    let corrected = TradeTerms { id, price: cents(price), size: u32::from(size), conditions };
                    Tick::Correction(Box::new(Correction {
                        symbol,
                        ts,
                        recv_ts,
                        exchange,
                        original,
                        corrected,
                        tape,
                    }))
                }),
                Step::Restart | Step::Rebuild | Step::Take => None,
            };
            ticks.push((tick, step.clone()));
        }
        ticks
    }

    type Key = (Symbol, Timeframe, Timestamp);

    /// All bars of the final trades: the trades that no cancel names, with the last terms given.
    fn naive_bars(ticks: &[Tick]) -> BTreeMap<Key, Bar> {
        let mut trades: Vec<Trade> = Vec::new();
        for tick in ticks {
            match tick {
                Tick::Trade(trade) => trades.push(*trade),
                Tick::Cancel(cancel) => trades.retain(|trade| !trade.is_named(cancel.exchange, cancel.id)),
                Tick::Correction(correction) => {
                    let (exchange, id) = (correction.exchange, correction.original.id);
                    for trade in trades.iter_mut().filter(|trade| trade.is_named(exchange, id)) {
                        trade.correct(&correction.corrected);
                    }
                }
                _ => {}
            }
        }
        let mut bars = BTreeMap::new();
        for trade in &trades {
            for timeframe in [Timeframe::MINUTE, Timeframe::Day] {
                let empty = Bar::empty(trade.symbol, timeframe, trade.ts);
                bars.entry((trade.symbol, timeframe, empty.ts)).or_insert(empty).add(trade);
            }
        }
        bars
    }

    /// Bars with something in them: an empty bar and no bar say the same.
    fn shown(bars: impl IntoIterator<Item = (Key, Bar)>) -> BTreeMap<Key, Bar> {
        bars.into_iter().filter(|(_, bar)| bar.has_price() || bar.volume > 0).collect()
    }

    #[derive(Default)]
    struct Run {
        state: PartitionState,
        rows: Vec<(Seq, Tick)>,
        /// As history reads them: the highest place rules.
        bars: BTreeMap<Key, (Seq, Bar)>,
    }

    impl Run {
        fn take(&mut self) {
            for (seq, bar) in self.state.take_changed_bars() {
                let held = self.bars.entry((bar.symbol, bar.timeframe, bar.ts)).or_insert((seq, bar));
                assert!(seq >= held.0, "a bar's place went back");
                *held = (seq, bar);
            }
        }

        fn rebuild(&mut self) {
            let offset = self.rows.len() as u64;
            for (symbol, day) in self.state.take_rebuilds() {
                let seq = Seq { partition: 3, offset: offset.saturating_sub(1), index: u32::MAX };
                self.state.rebuild(symbol, day, seq, &self.rows);
            }
        }

        fn step(&mut self, tick: Option<Tick>, step: &Step) {
            if let Some(tick) = tick {
                let seq = Seq { partition: 3, offset: self.rows.len() as u64, index: 0 };
                self.state.apply(seq, &tick);
                self.rows.push((seq, tick));
            }
            match step {
                Step::Restart => {
                    self.take();
                    let saved = self.state.save();
                    self.state = PartitionState::restore(&saved).unwrap();
                    assert_eq!(self.state.save(), saved);
                }
                Step::Rebuild => self.rebuild(),
                Step::Take => self.take(),
                _ => {}
            }
        }

        fn finish(mut self) -> BTreeMap<Key, Bar> {
            self.rebuild();
            self.take();
            shown(self.bars.into_iter().map(|(key, (_, bar))| (key, bar)))
        }
    }

    proptest! {
        #[test]
        fn bars_are_those_of_the_final_trades(steps in prop::collection::vec(step(), 1..120)) {
            let ticks = ticks_of(&steps);
            let mut run = Run::default();
            for (tick, step) in &ticks {
                run.step(tick.clone(), step);
            }
            let all: Vec<Tick> = ticks.into_iter().filter_map(|(tick, _)| tick).collect();
            prop_assert_eq!(run.finish(), shown(naive_bars(&all)));
        }

        #[test]
        fn damage_is_an_error_not_a_panic(
            steps in prop::collection::vec(step(), 1..60),
            at in any::<prop::sample::Index>(),
            flip in 1_u8..,
            cut in any::<prop::sample::Index>(),
        ) {
            let mut run = Run::default();
            for (tick, step) in ticks_of(&steps) {
                run.step(tick, &step);
            }
            let whole = run.state.save();
            let mut flipped = whole.to_vec();
            flipped[at.index(whole.len())] ^= flip;
            prop_assert!(PartitionState::restore(&flipped).is_err());
            let cut = cut.index(whole.len());
            prop_assert!(cut == 0 || PartitionState::restore(&whole[..cut]).is_err());
        }

        #[test]
        fn bytes_with_a_good_checksum_do_not_panic(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Writer::new(STATE_VERSION, 0);
            noise.iter().for_each(|byte| out.u8(*byte));
            if let Ok(mut state) = PartitionState::restore(&out.finish()) {
                let tick = Tick::Trade(made_trade(0, 0, 0, 1));
                state.apply(Seq::default(), &tick);
                let _ = (state.take_changed_bars(), state.save());
            }
        }
    }

    #[test]
    fn repeats_are_known_by_producer() {
        let mut state = PartitionState::new();
        let origin = |producer, sequence| Origin { producer, sequence };
        assert!(state.admit(origin(1, 5), 0) && state.admit(origin(2, 1), 0) && state.admit(origin(1, 6), 0));
        assert!(!state.admit(origin(1, 6), 0) && !state.admit(origin(1, 5), 0));
        let mut restored = PartitionState::restore(&state.save()).unwrap();
        assert!(!restored.admit(origin(2, 1), 0) && restored.admit(origin(2, 2), 0));
    }

    #[test]
    fn a_replayed_day_needs_one_rebuild_only() {
        let mut state = PartitionState::new();
        let mut offset = 0;
        let mut trade = |state: &mut PartitionState, day, second| {
            let seq = Seq { partition: 0, offset, index: 0 };
            let tick = Tick::Trade(Trade { size: 1, ..made_trade(0, day, second, offset) });
            state.apply(seq, &tick);
            offset += 1;
            (seq, tick)
        };
        trade(&mut state, 3, 0);
        assert!(!state.needs_rebuild());
        let visited = trade(&mut state, 0, 0);
        assert_eq!(state.take_rebuilds().len(), 1);
        let symbol = visited.1.symbol().unwrap();
        state.rebuild(symbol, visited.1.ts().trading_day(), visited.0, &[visited]);
        for second in 1..600 {
            trade(&mut state, 0, second);
            trade(&mut state, 3, second);
        }
        assert!(!state.needs_rebuild());
    }

    #[test]
    fn stays_a_few_megabytes_for_a_whole_market() {
        let mut state = PartitionState::new();
        for number in 0_u32..8_000 {
            let symbol: Symbol = format!("S{number}").parse().unwrap();
            for (minute, day) in (0..10).flat_map(|minute| [(minute, 0), (minute, 1)]) {
                let seq = Seq { partition: 0, offset: u64::from(number), index: 0 };
                let trade = made_trade(0, day, minute * 60, 1);
                state.apply(seq, &Tick::Trade(Trade { symbol, price: cents(450), size: 100, ..trade }));
            }
        }
        let bytes = state.save().len();
        assert!(bytes < 6 << 20, "{bytes}");
    }

    #[test]
    fn states_of_both_versions_are_read_for_ever() {
        let mut state = PartitionState::new();
        state.admit(Origin { producer: 0x1122_3344_5566_7788, sequence: 42 }, 0x0102_0304);
        state.admit(Origin { producer: 7, sequence: 1 }, 0xffff_ffff);
        let steps = (0..6)
            .map(|minute| Step::Trade {
                symbol: (minute % 2) as u8,
                day: 1,
                second: minute * 60,
                price: 100 + minute,
                size: 100,
                conditions: "",
            })
            .chain([Step::Cancel { back: 0 }]);
        let ticks = ticks_of(&steps.collect::<Vec<_>>());
        for (offset, tick) in (1000..).zip(ticks.iter().filter_map(|(tick, _)| tick.as_ref())) {
            state.apply(Seq { partition: 3, offset, index: 5 }, tick);
        }
        let stored = golden::check("state-v2.txt", &state.save());
        assert_eq!(PartitionState::restore(&stored).unwrap().save(), stored);
        let rebuilds = state.take_rebuilds();
        for (stored, standing) in
            [(stored, Standing::Stored), (golden::read("state-v1.txt"), Standing::Passed(1))]
        {
            let mut read = PartitionState::restore(&stored).unwrap();
            assert_eq!(read.bars().collect::<Vec<_>>(), state.bars().collect::<Vec<_>>());
            assert_eq!(read.take_rebuilds(), rebuilds);
            let last = Origin { producer: 7, sequence: 1 };
            assert_eq!(read.producers().look(last, 0xffff_ffff), standing);
            assert!(!read.admit(last, 0xffff_ffff) && read.admit(Origin { sequence: 2, ..last }, 1));
        }
        assert_eq!(
            PartitionState::restore(&[9; 20]).err().map(|error| error.to_string()).unwrap_or_default(),
            "a processor state of version 9; this program reads versions 1 and 2: use a newer stk"
        );
    }

    #[test]
    fn days_at_both_ends_are_saved_and_read() {
        let mut state = PartitionState::new();
        for (offset, ts) in (0..).zip(["1900-01-02T15:00:00Z", "2261-12-31T15:00:00Z"]) {
            let trade = Trade { size: 100, ts: ts.parse().unwrap(), ..made_trade(0, 0, 0, offset) };
            state.apply(Seq { partition: 3, offset, index: 0 }, &Tick::Trade(trade));
        }
        let marked = Seq { partition: 3, offset: 2, index: 0 };
        state.mark_rebuild("MSFT".parse().unwrap(), Timestamp::MIN.trading_day(), marked);
        state.take_changed_bars();
        let read = PartitionState::restore(&state.save()).unwrap();
        assert!(read.bars().eq(state.bars()) && read.bars().count() == 4);
    }

    #[test]
    fn quotes_move_no_bar() {
        let mut state = PartitionState::new();
        let Trade { symbol, ts, recv_ts, .. } = made_trade(0, 0, 0, 1);
        let quote = Quote {
            symbol,
            ts,
            recv_ts,
            bid: cents(1),
            ask: cents(2),
            bid_size: 1,
            ask_size: 1,
            bid_exchange: Exchange::IEX,
            ask_exchange: Exchange::IEX,
            conditions: Conditions::NONE,
            tape: Tape::A,
        };
        state.apply(Seq::default(), &Tick::Quote(quote));
        assert!(state.take_changed_bars().is_empty() && !state.needs_rebuild());
    }
}
