//! Bars: open, high, low, close and volume over a span of time.

use std::fmt;
use std::str::FromStr;

use super::{Conditions, Price, Symbol, Timestamp, Trade, TradingDay};

/// A span that bars are cut in, in New York time, as Alpaca names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timeframe {
    /// 1 to 59 minutes (`5Min`), counted from midnight in New York.
    Minutes(u8),
    /// 1 to 23 hours (`1Hour`), counted from midnight in New York.
    Hours(u8),
    /// A trading day (`1Day`).
    Day,
    /// A week from Monday (`1Week`).
    Week,
    /// 1, 2, 3, 6 or 12 months (`3Month`), counted from January.
    Months(u8),
}

/// Why a text is no timeframe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no timeframe: write 1Min to 59Min, 1Hour to 23Hour, 1Day, 1Week, or 1, 2, 3, 6 or 12Month"
)]
pub struct TimeframeError(String);

const NANOS_PER_MINUTE: i64 = 60_000_000_000;

impl Timeframe {
    /// One minute: the shortest bar that is stored.
    pub const MINUTE: Self = Self::Minutes(1);

    /// The start of the span `ts` falls in.
    pub fn start_of(self, ts: Timestamp) -> Timestamp {
        match self {
            Self::Minutes(1) => ts.floor_minute(),
            Self::Minutes(minutes) => Self::since_midnight(ts, i64::from(minutes)),
            Self::Hours(hours) => Self::since_midnight(ts, i64::from(hours) * 60),
            Self::Day => ts.trading_day().start(),
            Self::Week => {
                let day = ts.trading_day().days_since_epoch();
                // 1970-01-01 was a Thursday, three days after a Monday.
                TradingDay::from_days_since_epoch(day - (day + 3).rem_euclid(7)).start()
            }
            Self::Months(months) => {
                let date = ts.civil_in_new_york().date();
                let month = (date.month() - 1) / months as i8 * months as i8 + 1;
                let first = format!("{:04}-{month:02}-01", date.year());
                first.parse::<TradingDay>().map_or(ts, TradingDay::start)
            }
        }
    }

    fn since_midnight(ts: Timestamp, minutes: i64) -> Timestamp {
        let midnight = ts.trading_day().start();
        let span = minutes * NANOS_PER_MINUTE;
        ts.saturating_add_nanos(-(ts.nanos_since(midnight) % span))
    }

    /// The stored bars this span is made of: minutes within a day, days above.
    pub const fn stored(self) -> Self {
        match self {
            Self::Minutes(_) | Self::Hours(_) => Self::MINUTE,
            Self::Day | Self::Week | Self::Months(_) => Self::Day,
        }
    }
}

impl FromStr for Timeframe {
    type Err = TimeframeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || TimeframeError(text.chars().take(32).collect::<String>().escape_debug().to_string());
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let count: u8 = text[..unit_at].parse().map_err(|_| error())?;
        match (count, &text[unit_at..]) {
            (1..=59, "Min" | "T") => Ok(Self::Minutes(count)),
            (1..=23, "Hour" | "H") => Ok(Self::Hours(count)),
            (1, "Day" | "D") => Ok(Self::Day),
            (1, "Week" | "W") => Ok(Self::Week),
            (1 | 2 | 3 | 6 | 12, "Month" | "M") => Ok(Self::Months(count)),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Timeframe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Minutes(count) => write!(f, "{count}Min"),
            Self::Hours(count) => write!(f, "{count}Hour"),
            Self::Day => f.write_str("1Day"),
            Self::Week => f.write_str("1Week"),
            Self::Months(count) => write!(f, "{count}Month"),
        }
    }
}

/// What a trade's sale conditions let it change in a bar.
///
/// The consolidated tapes' rules: UTP Data Feed Services Specification, "Sale Condition Matrix",
/// and CTS Pillar Output Specification, appendix. As Alpaca does, extended-hours trades (`T`) form
/// minute bars and add only volume to daily ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarEffect {
    /// It may become open or close.
    pub open_close: bool,
    /// It may become high or low.
    pub high_low: bool,
    /// It adds to the volume, the count and the average.
    pub volume: bool,
}

impl BarEffect {
    /// The effect of a trade with `conditions` on a bar of `timeframe`. The strictest code rules.
    pub fn of(conditions: Conditions, timeframe: Timeframe) -> Self {
        let daily = timeframe.stored() == Timeframe::Day;
        let mut effect = Self { open_close: true, high_low: true, volume: true };
        for code in conditions.codes() {
            let (open_close, high_low, volume) = match code {
                b'B' | b'C' | b'H' | b'I' | b'N' | b'R' | b'V' | b'W' | b'7' => (false, false, true),
                b'T' => (!daily, !daily, true),
                b'U' => (false, !daily, true),
                b'G' | b'L' | b'P' | b'Z' | b'4' => (false, true, true),
                b'M' | b'Q' => (false, false, false),
                b'9' => (true, true, false),
                _ => continue,
            };
            effect.open_close &= open_close;
            effect.high_low &= high_low;
            effect.volume &= volume;
        }
        effect
    }
}

/// Open, high, low, close, volume and average over one span, with all that is needed to add
/// further trades in any order, or to merge neighbouring bars, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Whose bar.
    pub symbol: Symbol,
    /// The span's start.
    pub ts: Timestamp,
    /// The span's length.
    pub timeframe: Timeframe,
    /// The first trade's price; zero as long as no trade that may form a price was seen.
    pub open: Price,
    /// The highest price.
    pub high: Price,
    /// The lowest price.
    pub low: Price,
    /// The last trade's price.
    pub close: Price,
    /// Shares traded.
    pub volume: u64,
    /// Trades.
    pub trade_count: u64,
    /// Sum of price × shares, in units of 1e-9.
    pub notional: i128,
    /// When the trade that set `open` took place. Of equal times the first in the log rules.
    pub open_ts: Timestamp,
    /// When the trade that set `close` took place. Of equal times the last in the log rules.
    pub close_ts: Timestamp,
}

impl Bar {
    /// A bar without trades over the span that `ts` falls in.
    pub fn empty(symbol: Symbol, timeframe: Timeframe, ts: Timestamp) -> Self {
        Self {
            symbol,
            ts: timeframe.start_of(ts),
            timeframe,
            open: Price::ZERO,
            high: Price::ZERO,
            low: Price::ZERO,
            close: Price::ZERO,
            volume: 0,
            trade_count: 0,
            notional: 0,
            open_ts: Timestamp::MAX,
            close_ts: Timestamp::MIN,
        }
    }

    /// Whether a trade has formed a price: a bar of odd lots alone has volume but is not shown.
    pub fn has_price(&self) -> bool {
        self.open_ts != Timestamp::MAX
    }

    /// Adds a trade of this span, in the order of the log. Returns whether anything changed.
    pub fn add(&mut self, trade: &Trade) -> bool {
        let effect = BarEffect::of(trade.conditions, self.timeframe);
        let high_low_counts = effect.high_low && self.has_price() || effect.open_close;
        if high_low_counts {
            let first = !self.has_price();
            self.high = if first { trade.price } else { self.high.max(trade.price) };
            self.low = if first { trade.price } else { self.low.min(trade.price) };
        }
        if effect.open_close {
            if trade.ts < self.open_ts {
                (self.open, self.open_ts) = (trade.price, trade.ts);
            }
            if trade.ts >= self.close_ts {
                (self.close, self.close_ts) = (trade.price, trade.ts);
            }
        }
        if effect.volume {
            self.volume += u64::from(trade.size);
            self.trade_count += 1;
            self.notional += i128::from(trade.price.nanos()) * i128::from(trade.size);
        }
        high_low_counts || effect.volume
    }

    /// Adds a bar that lies within this one's span.
    pub fn merge(&mut self, part: &Self) {
        if part.has_price() {
            let first = !self.has_price();
            self.high = if first { part.high } else { self.high.max(part.high) };
            self.low = if first { part.low } else { self.low.min(part.low) };
            if part.open_ts < self.open_ts {
                (self.open, self.open_ts) = (part.open, part.open_ts);
            }
            if part.close_ts >= self.close_ts {
                (self.close, self.close_ts) = (part.close, part.close_ts);
            }
        }
        self.volume += part.volume;
        self.trade_count += part.trade_count;
        self.notional += part.notional;
    }

    /// Volume-weighted average price, rounded half up to 1e-9; zero without volume.
    pub fn vwap(&self) -> Price {
        if self.volume == 0 {
            return Price::ZERO;
        }
        let volume = i128::from(self.volume);
        let rounded = (self.notional + volume / 2).div_euclid(volume);
        i64::try_from(rounded).ok().and_then(Price::from_nanos).unwrap_or(Price::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::{Exchange, Tape};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn trade(ts: i64, price: i64, size: u32, conditions: &str) -> Trade {
        Trade {
            symbol: "AAPL".parse().unwrap(),
            ts: Timestamp::from_nanos(ts),
            recv_ts: Timestamp::from_nanos(ts),
            price: Price::from_ten_thousandths(price).unwrap(),
            size,
            exchange: Exchange::IEX,
            conditions: Conditions::from_codes(conditions.as_bytes()).unwrap(),
            id: 1,
            tape: Tape::C,
        }
    }

    #[test]
    fn timeframes_are_alpacas() {
        for text in ["1Min", "59Min", "1Hour", "23Hour", "1Day", "1Week", "1Month", "12Month"] {
            assert_eq!(text.parse::<Timeframe>().unwrap().to_string(), text);
        }
        for text in ["", "Min", "0Min", "60Min", "24Hour", "2Day", "5Month", "1min", "256Min", "1"] {
            assert!(text.parse::<Timeframe>().is_err(), "{text}");
        }
    }

    #[test]
    fn spans_start_in_new_york() {
        let start = |text: &str, ts: &str| text.parse::<Timeframe>().unwrap().start_of(at(ts)).to_string();
        assert_eq!(start("1Min", "2025-01-02T14:30:59.9Z"), "2025-01-02T14:30:00Z");
        assert_eq!(start("15Min", "2025-01-02T14:44:59Z"), "2025-01-02T14:30:00Z");
        assert_eq!(start("4Hour", "2025-01-02T14:30:00Z"), "2025-01-02T13:00:00Z");
        assert_eq!(start("1Day", "2025-01-02T01:00:00Z"), "2025-01-01T05:00:00Z");
        assert_eq!(start("1Week", "2025-01-05T12:00:00Z"), "2024-12-30T05:00:00Z");
        assert_eq!(start("3Month", "2025-08-15T12:00:00Z"), "2025-07-01T04:00:00Z");
    }

    #[test]
    fn conditions_rule_what_a_trade_changes() {
        let mut bar = Bar::empty("AAPL".parse().unwrap(), Timeframe::MINUTE, Timestamp::from_nanos(0));
        bar.add(&trade(0, 999_0000, 10, "I"));
        assert!(!bar.has_price(), "an odd lot forms no price");
        assert_eq!((bar.volume, bar.trade_count), (10, 1));
        bar.add(&trade(1, 100_0000, 100, "@"));
        bar.add(&trade(2, 101_0000, 100, "T"));
        bar.add(&trade(3, 50_0000, 100, "M"));
        assert_eq!((bar.open.to_string(), bar.close.to_string()), ("100".into(), "101".into()));
        assert_eq!((bar.low.to_string(), bar.volume), ("100".into(), 210));
        let mut day = Bar::empty("AAPL".parse().unwrap(), Timeframe::Day, Timestamp::from_nanos(0));
        day.add(&trade(2, 101_0000, 100, "T"));
        assert!(!day.has_price() && day.volume == 100);
    }

    fn any_timeframe() -> impl Strategy<Value = Timeframe> {
        prop_oneof![
            (1_u8..=59).prop_map(Timeframe::Minutes),
            (1_u8..=23).prop_map(Timeframe::Hours),
            Just(Timeframe::Day),
            Just(Timeframe::Week),
            prop::sample::select(vec![1_u8, 2, 3, 6, 12]).prop_map(Timeframe::Months),
        ]
    }

    proptest! {
        #[test]
        fn every_timeframe_is_read_as_it_is_printed(timeframe in any_timeframe()) {
            prop_assert_eq!(timeframe.to_string().parse::<Timeframe>(), Ok(timeframe));
        }

        #[test]
        fn what_is_read_as_a_timeframe_is_printed_as_one(text in "[0-9]{0,3}(Min|Hour|Day|Week|Month|T|H|D|W|M|min|s|é)?") {
            match text.parse::<Timeframe>() {
                Ok(read) => {
                    let printed = read.to_string();
                    prop_assert_eq!(printed.parse::<Timeframe>(), Ok(read));
                    // The short names are read too; the count is the same.
                    let count = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().unwrap();
                    prop_assert_eq!(count(&printed), count(&text));
                }
                Err(error) => prop_assert!(error.to_string().contains(&text), "{}", error),
            }
        }

        #[test]
        fn order_of_arrival_changes_nothing_and_parts_merge_to_the_whole(
            trades in prop::collection::btree_map(0_i64..60_000, (1_i64..10_000_000, 1_u32..1000), 1..40),
            cut in 0_i64..60_000,
        ) {
            let symbol = "AAPL".parse().unwrap();
            let empty = Bar::empty(symbol, Timeframe::MINUTE, Timestamp::from_nanos(0));
            let rows: Vec<_> = trades.iter().map(|(&ts, &(price, size))| trade(ts, price, size, "")).collect();
            let (mut forward, mut backward, mut early, mut late) = (empty, empty, empty, empty);
            rows.iter().for_each(|row| { forward.add(row); });
            rows.iter().rev().for_each(|row| { backward.add(row); });
            rows.iter().for_each(|row| { if row.ts.nanos() < cut { &mut early } else { &mut late }.add(row); });
            let mut merged = empty;
            merged.merge(&late);
            merged.merge(&early);
            prop_assert_eq!(forward, backward);
            prop_assert_eq!(forward, merged);
            prop_assert!(forward.low <= forward.vwap() && forward.vwap() <= forward.high);
        }
    }
}
