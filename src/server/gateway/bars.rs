//! Live bars: when a bar that the log's trades have formed is told to clients.
//!
//! A minute is over when its symbol's own clock says so: the latest time of the venue seen for it,
//! and what has passed since on this machine. So a replayed day has its bars as a live one does,
//! and a symbol that falls silent still gets its last bar.

use foldhash::HashMap;

use crate::market::{Bar, Symbol, Timeframe, Timestamp};
use crate::wire::BarChannel;

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * NANOS_PER_SECOND;
/// Late minutes that wait for the half minute, and days that wait for the minute's end; of more, the
/// oldest is not told.
const LATE_MAX: usize = 8;

/// Bars that wait to be told.
#[derive(Default)]
pub(super) struct LiveBars {
    symbols: HashMap<Symbol, Live>,
    /// Symbols with something that waits.
    waiting: Vec<Symbol>,
}

#[derive(Default)]
struct Live {
    is_waiting: bool,
    /// Minutes not yet told, ascending.
    open: Vec<Bar>,
    /// The last minute told.
    told: Option<Timestamp>,
    /// Minutes changed after they were told, ascending, and when they are due.
    late: Vec<Bar>,
    late_due: Option<Timestamp>,
    /// Days changed, ascending, and when they are due.
    days: Vec<Bar>,
    days_due: Option<Timestamp>,
}

/// Puts `bar` in its place, or in that of the one it revises.
fn insert(bars: &mut Vec<Bar>, bar: Bar) {
    match bars.binary_search_by_key(&bar.ts, |other| other.ts) {
        Ok(at) => bars[at] = bar,
        Err(at) => bars.insert(at, bar),
    }
}

fn insert_late(bars: &mut Vec<Bar>, bar: Bar) {
    insert(bars, bar);
    if bars.len() > LATE_MAX {
        bars.remove(0);
    }
}

impl LiveBars {
    /// Takes a bar as it stands now.
    pub(super) fn change(&mut self, bar: Bar) {
        let live = self.symbols.entry(bar.symbol).or_default();
        if !std::mem::replace(&mut live.is_waiting, true) {
            self.waiting.push(bar.symbol);
        }
        if bar.timeframe == Timeframe::Day {
            insert_late(&mut live.days, bar);
        } else if live.told.is_none_or(|told| bar.ts > told) {
            insert(&mut live.open, bar);
        } else {
            insert_late(&mut live.late, bar);
        }
    }

    /// Takes out what is due by each symbol's clock: minutes right after their end, late ones at
    /// the half minute, days each minute.
    pub(super) fn due(&mut self, clock: impl Fn(Symbol) -> Option<Timestamp>) -> Vec<(BarChannel, Bar)> {
        let mut due = Vec::new();
        let symbols = &mut self.symbols;
        self.waiting.retain(|symbol| {
            let Some(live) = symbols.get_mut(symbol) else { return false };
            // Rebuilt before its first tick it has no clock yet.
            let Some(now) = clock(*symbol) else { return true };
            live.take_due(now, &mut due);
            live.is_waiting = !live.open.is_empty() || !live.late.is_empty() || !live.days.is_empty();
            live.is_waiting
        });
        due
    }
}

impl Live {
    fn take_due(&mut self, now: Timestamp, due: &mut Vec<(BarChannel, Bar)>) {
        let is_over = |bar: &Bar| bar.ts.saturating_add_nanos(MINUTE) <= now;
        let over = self.open.iter().take_while(|bar| is_over(bar)).count();
        for bar in self.open.drain(..over) {
            self.told = Some(bar.ts);
            if bar.has_price() {
                due.push((BarChannel::Minute, bar));
            }
        }
        if !self.late.is_empty() {
            let half = *self.late_due.get_or_insert_with(|| {
                let half = now.floor_minute().saturating_add_nanos(MINUTE / 2);
                if half < now { half.saturating_add_nanos(MINUTE) } else { half }
            });
            if now >= half {
                self.late_due = None;
                due.extend(self.late.drain(..).filter(Bar::has_price).map(|bar| (BarChannel::Updated, bar)));
            }
        }
        if !self.days.is_empty() {
            let minute_end =
                *self.days_due.get_or_insert_with(|| now.floor_minute().saturating_add_nanos(MINUTE));
            if now >= minute_end {
                self.days_due = None;
                due.extend(self.days.drain(..).filter(Bar::has_price).map(|bar| (BarChannel::Daily, bar)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::{Conditions, Exchange, Price, Tape, Trade};

    fn bar(timeframe: Timeframe, ts: Timestamp, price: i64) -> Bar {
        let trade = Trade {
            symbol: "AAPL".parse().unwrap(),
            ts,
            recv_ts: ts,
            price: Price::from_ten_thousandths(price).unwrap(),
            size: 100,
            exchange: Exchange::IEX,
            conditions: Conditions::NONE,
            id: 1,
            tape: Tape::C,
        };
        let mut bar = Bar::empty(trade.symbol, timeframe, ts);
        bar.add(&trade);
        bar
    }

    fn at(text: &str) -> Timestamp {
        format!("2026-11-20T15:{text}Z").parse().unwrap()
    }

    fn told(bars: &mut LiveBars, now: &str) -> Vec<(&'static str, String)> {
        let told = bars.due(|_| Some(at(now)));
        told.iter().map(|(channel, bar)| (channel.code(), bar.close.to_string())).collect()
    }

    #[test]
    fn minutes_at_their_end_late_ones_at_the_half_minute_days_each_minute() {
        let mut bars = LiveBars::default();
        bars.change(bar(Timeframe::MINUTE, at("00:10"), 1_0000));
        bars.change(bar(Timeframe::Day, at("00:10"), 1_0000));
        assert_eq!(told(&mut bars, "00:59"), []);
        bars.change(bar(Timeframe::MINUTE, at("00:59"), 2_0000));
        assert_eq!(told(&mut bars, "01:00"), [("b", "2".to_owned()), ("d", "1".to_owned())]);
        assert_eq!(told(&mut bars, "01:01"), []);
        bars.change(bar(Timeframe::MINUTE, at("00:58"), 3_0000));
        assert_eq!(told(&mut bars, "01:05"), []);
        assert_eq!(told(&mut bars, "01:30"), [("u", "3".to_owned())]);
        assert_eq!(told(&mut bars, "02:30"), []);
    }

    #[test]
    fn a_late_trade_of_another_day_hides_none_of_today() {
        let mut bars = LiveBars::default();
        let yesterday = at("00:10").saturating_add_nanos(-86_400 * NANOS_PER_SECOND);
        bars.change(bar(Timeframe::Day, at("00:10"), 2_0000));
        bars.change(bar(Timeframe::Day, yesterday, 1_0000));
        assert_eq!(told(&mut bars, "00:11"), []);
        assert_eq!(told(&mut bars, "01:00"), [("d", "1".to_owned()), ("d", "2".to_owned())]);
        assert_eq!(told(&mut bars, "02:00"), []);
    }

    #[test]
    fn a_symbol_without_a_tick_yet_is_told_with_its_first() {
        let mut bars = LiveBars::default();
        bars.change(bar(Timeframe::MINUTE, at("00:10"), 1_0000));
        assert!(bars.due(|_| None).is_empty());
        bars.change(bar(Timeframe::MINUTE, at("01:10"), 2_0000));
        assert_eq!(told(&mut bars, "02:00"), [("b", "1".to_owned()), ("b", "2".to_owned())]);
    }

    #[test]
    fn minutes_that_came_at_once_are_told_in_order() {
        let mut bars = LiveBars::default();
        for minute in ["02:00", "00:00", "01:00"] {
            bars.change(bar(Timeframe::MINUTE, at(minute), 1_0000));
        }
        let told: Vec<_> = bars.due(|_| Some(at("02:30"))).iter().map(|(_, bar)| bar.ts).collect();
        assert_eq!(told, [at("00:00"), at("01:00")]);
    }
}
