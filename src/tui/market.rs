//! The market's own date and time, beside this machine's: a replay of another day must not look live.

use crate::market::Timestamp;

/// A tick that arrives with this much delay, or more, is not of now.
const DELAY_NANOS_MIN: i64 = 60_000_000_000;

/// The latest market time of all ticks, and when it was heard of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MarketTime {
    latest: Option<(Timestamp, Timestamp)>,
    /// Whether ticks arrive that are not of now.
    is_delayed: bool,
}

/// What the market's time is, as a person is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing is known of it.
    Unknown,
    /// Ticks are of now; the latest is of this time.
    Live(Timestamp),
    /// Ticks of another day, or of earlier today, arrive.
    Delayed {
        /// The latest one's time.
        ts: Timestamp,
        /// By how much, in nanoseconds.
        by: i64,
    },
    /// No ticks arrive; the latest is of this time.
    Silent(Timestamp),
}

impl MarketTime {
    /// A tick of `ts` that came over the stream, heard of at `at`; `is_live`: it is not one of those that
    /// are made up for after a break.
    pub(super) fn hear(&mut self, ts: Timestamp, at: Timestamp, is_live: bool) {
        if self.latest.is_none_or(|(latest, _)| ts >= latest) {
            self.latest = Some((ts, at));
            if is_live {
                self.is_delayed = at.nanos_since(ts) >= DELAY_NANOS_MIN;
            }
        }
    }

    /// The time of what was known already when it was asked for at `at`.
    pub(super) fn know(&mut self, ts: Timestamp, at: Timestamp) {
        if self.latest.is_none_or(|(latest, _)| ts > latest) {
            self.latest = Some((ts, at));
        }
    }

    /// The market's time at `now`, by which ages are told: the clock, or in a replay the latest tick's
    /// time and what has passed since.
    pub(super) fn clock(&self, now: Timestamp) -> Timestamp {
        match self.latest {
            Some((ts, at)) if self.is_delayed => ts.saturating_add_nanos(now.nanos_since(at).max(0)),
            _ => now,
        }
    }

    /// What a person is told at `now`.
    pub(super) fn told(&self, now: Timestamp) -> Told {
        match self.latest {
            None => Told::Unknown,
            Some((ts, at)) if self.is_delayed => Told::Delayed { ts, by: at.nanos_since(ts) },
            Some((ts, _)) if now.nanos_since(ts) >= DELAY_NANOS_MIN => Told::Silent(ts),
            Some((ts, _)) => Told::Live(ts),
        }
    }
}

/// The time of day in New York: `09:31:07 ET`.
pub(super) fn time_of_day(ts: Timestamp) -> String {
    let time = ts.civil_in_new_york();
    format!("{:02}:{:02}:{:02} ET", time.hour(), time.minute(), time.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_replay_is_told_from_a_live_market_and_its_ages_are_its_own() {
        let now = at("2026-11-27T15:00:00Z");
        let mut market = MarketTime::default();
        assert_eq!((market.told(now), market.clock(now)), (Told::Unknown, now));
        let replayed = at("2017-07-10T13:31:07Z");
        market.know(replayed, now);
        assert_eq!(
            (market.told(now), market.clock(now)),
            (Told::Silent(replayed), now),
            "a snapshot is no replay"
        );
        market.hear(replayed, now, true);
        assert!(matches!(market.told(now), Told::Delayed { ts, .. } if ts == replayed));
        let later = now.saturating_add_nanos(2_000_000_000);
        assert_eq!(market.clock(later), replayed.saturating_add_nanos(2_000_000_000));
        assert_eq!(time_of_day(replayed), "09:31:07 ET");
        // A tick of now: what is older than the latest changes nothing any more.
        market.hear(now, now, true);
        market.hear(replayed, later, true);
        assert_eq!((market.told(later), market.clock(later)), (Told::Live(now), later));
        let silent = now.saturating_add_nanos(DELAY_NANOS_MIN);
        assert_eq!(market.told(silent), Told::Silent(now));
        // What is made up for after a break is late for that reason.
        market.hear(silent, silent.saturating_add_nanos(DELAY_NANOS_MIN), false);
        assert_eq!(market.told(silent), Told::Live(silent));
    }
}
