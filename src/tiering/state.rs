//! What a processor knows of one partition at one offset: which records are repeats, and the bars
//! that are still being formed. A pure function of the log, so that the processor, history and
//! gateways all derive the same from the same records.
//!
//! Of each symbol the bars of its two newest days, and of one more that is being visited (the
//! replay of an old day), are at hand: the daily bar and the last few minutes. What these can't
//! answer (a late trade of a minute that is gone, a trade that is broken or amended) marks the
//! symbol and day for [`PartitionState::rebuild`] from its stored trades.
//!
//! A cancel or correction amends trades of its own trading day, in which trade ids are unique.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use foldhash::{HashMap, HashMapExt};

use super::codec::{CodecError, Reader, Writer};
use crate::market::{Bar, Seq, Symbol, SymbolTable, Tick, Timeframe, Timestamp, Trade, TradingDay};
use crate::wire::record::Origin;

/// The version of the saved state that is written and read.
pub const STATE_VERSION: u8 = 1;

/// How many producers of a partition are remembered; past it the one that was silent longest is
/// forgotten, and its repeats would no longer be known.
pub const PRODUCERS_MAX: usize = 1024;

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
    #[error("a processor state of version {0}; this program reads version 1: use a newer stk")]
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

/// The last batch of a producer, and when it was heard in the order of admissions.
#[derive(Clone, Copy)]
struct Heard {
    sequence: u64,
    at: u64,
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
    producers: HashMap<u64, Heard>,
    admissions: u64,
    producers_evicted: u64,
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

    /// Whether the record of `origin` is new. A repeat (its producer's sequence did not rise) is
    /// to be skipped as a whole.
    pub fn admit(&mut self, origin: Origin) -> bool {
        self.admissions += 1;
        let at = self.admissions;
        if let Some(heard) = self.producers.get_mut(&origin.producer) {
            heard.at = at;
            let new = origin.sequence > heard.sequence;
            heard.sequence = heard.sequence.max(origin.sequence);
            return new;
        }
        if self.producers.len() >= PRODUCERS_MAX {
            let silent = self.producers.iter().min_by_key(|(_, heard)| heard.at).map(|(&id, _)| id);
            if let Some(silent) = silent {
                self.producers.remove(&silent);
                self.producers_evicted += 1;
            }
        }
        self.producers.insert(origin.producer, Heard { sequence: origin.sequence, at });
        true
    }

    /// How many producers were forgotten by this value since it was made or restored.
    pub fn producers_evicted(&self) -> u64 {
        self.producers_evicted
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
            Tick::Cancel(cancel) => self.mark(cancel.symbol, cancel.ts.trading_day(), seq),
            Tick::Correction(correction) => {
                self.mark(correction.symbol, correction.ts.trading_day(), seq);
            }
            Tick::Quote(_) | Tick::Status(_) | Tick::Gap(_) | Tick::PrevClose(_) => {}
        }
    }

    fn mark(&mut self, symbol: Symbol, day: TradingDay, seq: Seq) {
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
            None => return self.mark(trade.symbol, day, seq),
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
            self.mark(trade.symbol, day, seq);
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
    /// [`PartitionState::rebuild`] before the next call of this.
    pub fn take_rebuilds(&mut self) -> Vec<(Symbol, TradingDay)> {
        self.taken = std::mem::take(&mut self.pending);
        self.taken.keys().copied().collect()
    }

    /// Whether [`PartitionState::take_rebuilds`] has something to give.
    pub fn needs_rebuild(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Replaces the bars of `symbol` and `day` by those of `rows`: all of its trades, cancels and
    /// corrections up to `seq` (rows of others are passed over), in any order. Bars that differ
    /// count as changed at `seq`.
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

    /// The newest trading day with a trade.
    pub fn newest_day(&self) -> Option<TradingDay> {
        self.symbols.iter().filter_map(|bars| bars.days.last()).map(|day| day.day).max()
    }

    /// The state as bytes. Changed bars that were not taken are not remembered as changed.
    pub fn save(&self) -> Bytes {
        let mut out = Writer::new(STATE_VERSION, 64 + 16 * self.producers.len() + 256 * self.symbols.len());
        out.varint(u64::from(self.partition));
        let mut producers: Vec<_> = self.producers.iter().collect();
        producers.sort_unstable_by_key(|(_, heard)| heard.at);
        out.varint(producers.len() as u64);
        for (&id, heard) in producers {
            out.varint(id);
            out.varint(heard.sequence);
        }
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
        let mut input = Reader::new(bytes, STATE_VERSION)?;
        state.partition =
            u16::try_from(input.varint()?).map_err(|_| StateError::Damaged("a partition is out of range"))?;
        let partition = state.partition;
        let producers = input.count(2)?;
        state.producers = HashMap::with_capacity(producers.min(PRODUCERS_MAX));
        for _ in 0..producers {
            let (producer, sequence) = (input.varint()?, input.varint()?);
            state.admit(Origin { producer, sequence });
        }
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
        state.producers_evicted = 0;
        Ok(state)
    }
}

const NANOS_PER_MINUTE: u64 = 60_000_000_000;

/// A day in the range of [`Timestamp`], so that its start can be computed.
fn day_from(days: i64) -> Result<TradingDay, StateError> {
    match days {
        -100_000..=100_000 => Ok(TradingDay::from_days_since_epoch(days as i32)),
        _ => Err(StateError::Damaged("a day is out of range")),
    }
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
    /// Where the last trade with an id stands.
    by_id: HashMap<u64, usize>,
    /// Minutes that recent ticks changed.
    touched: BTreeSet<Timestamp>,
}

impl FinalTrades {
    pub(super) fn apply(&mut self, tick: &Tick, recent: bool) {
        let changed = match tick {
            Tick::Trade(trade) => {
                self.by_id.insert(trade.id, self.trades.len());
                self.trades.push(Some(*trade));
                Some(trade.ts)
            }
            Tick::Cancel(cancel) => self.amended(cancel.id, |trade| trade.take().map(|trade| trade.ts)),
            Tick::Correction(correction) => {
                let terms = correction.corrected;
                let changed = self.amended(correction.original.id, |trade| {
                    let trade = trade.as_mut()?;
                    (trade.id, trade.price, trade.size, trade.conditions) =
                        (terms.id, terms.price, terms.size, terms.conditions);
                    Some(trade.ts)
                });
                if changed.is_some()
                    && let Some(at) = self.by_id.remove(&correction.original.id)
                {
                    self.by_id.insert(terms.id, at);
                }
                changed
            }
            Tick::Quote(_) | Tick::Status(_) | Tick::Gap(_) | Tick::PrevClose(_) => None,
        };
        if let (Some(ts), true) = (changed, recent) {
            self.touched.insert(ts.floor_minute());
        }
    }

    fn amended(
        &mut self,
        id: u64,
        amend: impl FnOnce(&mut Option<Trade>) -> Option<Timestamp>,
    ) -> Option<Timestamp> {
        self.by_id.get(&id).and_then(|&at| amend(&mut self.trades[at]))
    }

    pub(super) fn left(&self) -> impl DoubleEndedIterator<Item = &Trade> {
        self.trades.iter().flatten()
    }
}
