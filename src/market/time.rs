//! Time: nanosecond instants, trading days, New York sessions, and how a person writes them.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::civil;
use jiff::tz::TimeZone;

/// Nanoseconds since the Unix epoch, UTC. Range: years 1678 to 2262.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// A trading day: the calendar date in New York of a tick's `ts`.
///
/// US sessions cross midnight UTC, never midnight in New York, so this is the unit of warm
/// partitions and of a bare `--from 2025-01-01`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TradingDay(i32);

/// Why a text is no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no time: write a day (2025-01-31) or an instant (2025-01-31T09:30:00-05:00)")]
pub struct TimeError(String);

/// Why a tick of an instant can't be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not within 1900 to 2261")]
pub struct Unstorable(Timestamp);

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const NANOS_PER_MINUTE: i64 = 60 * NANOS_PER_SECOND;
const NANOS_PER_DAY: i64 = 86_400 * NANOS_PER_SECOND;

impl Timestamp {
    /// The first instant that can be written.
    pub const MIN: Self = Self(i64::MIN);
    /// The last instant that can be written.
    pub const MAX: Self = Self(i64::MAX);

    /// An instant from nanoseconds since the Unix epoch.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// This instant, where a tick of it can be stored: from 1900, where the days of ClickHouse begin
    /// (`Date32`), to 2261, which is whole.
    pub fn storable(self) -> Result<Self, Unstorable> {
        let stored = -25_566 * NANOS_PER_DAY..106_651 * NANOS_PER_DAY;
        if stored.contains(&self.0) { Ok(self) } else { Err(Unstorable(self)) }
    }

    /// This machine's clock.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// This machine's clock, which never runs backwards while the process lives: when the clock is set
    /// back, time continues from where it was.
    pub fn now_steady() -> Self {
        static BEGUN: OnceLock<(Instant, Timestamp)> = OnceLock::new();
        let now = Self::now();
        let (began, since) = *BEGUN.get_or_init(|| (Instant::now(), now));
        let elapsed = i64::try_from(began.elapsed().as_nanos()).unwrap_or(i64::MAX);
        now.max(since.saturating_add_nanos(elapsed))
    }

    /// The start of this instant's minute. New York's offset is whole minutes, so a minute is the
    /// same one there.
    pub const fn floor_minute(self) -> Self {
        Self(self.0.saturating_sub(self.0.rem_euclid(NANOS_PER_MINUTE)))
    }

    /// This instant moved by `nanos`, held within the range.
    pub const fn saturating_add_nanos(self, nanos: i64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Nanoseconds from `earlier` to this instant, negative when it is later.
    pub const fn nanos_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The trading day this instant belongs to.
    pub fn trading_day(self) -> TradingDay {
        // Ticks come in runs of one day: the last day's bounds answer nearly every call.
        std::thread_local! {
            static LAST: std::cell::Cell<(i64, i64, i32)> = const { std::cell::Cell::new((0, 0, 0)) };
        }
        let (start, end, day) = LAST.get();
        if (start..end).contains(&self.0) {
            return TradingDay(day);
        }
        let date = self.civil_in_new_york().date();
        let day = TradingDay::from_date(date);
        LAST.set((day.start().nanos(), day.end().nanos(), day.0));
        day
    }

    /// Date and time of day in New York.
    pub fn civil_in_new_york(self) -> civil::DateTime {
        new_york().to_datetime(self.to_jiff())
    }

    fn to_jiff(self) -> jiff::Timestamp {
        jiff::Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or_default()
    }

    /// Writes RFC 3339 in UTC with nine or fewer decimals (`2026-11-24T14:30:00.123456789Z`) into
    /// `out` and returns the text. The fraction is left out when it is zero.
    pub fn write_to(self, out: &mut [u8; Self::PRINT_LEN_MAX]) -> &str {
        let seconds = self.0.div_euclid(NANOS_PER_SECOND);
        let nanos = self.0.rem_euclid(NANOS_PER_SECOND) as u32;
        let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u32);
        let (year, month, day) = civil_from_days(days);
        two(out, 0, year / 100);
        two(out, 2, year % 100);
        out[4] = b'-';
        two(out, 5, month);
        out[7] = b'-';
        two(out, 8, day);
        out[10] = b'T';
        two(out, 11, second_of_day / 3600);
        out[13] = b':';
        two(out, 14, second_of_day / 60 % 60);
        out[16] = b':';
        two(out, 17, second_of_day % 60);
        let mut len = 19;
        if nanos != 0 {
            out[19] = b'.';
            let mut rest = nanos;
            for digit in out[20..29].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            len = 20 + out[20..29].iter().rposition(|&digit| digit != b'0').map_or(0, |last| last + 1);
        }
        out[len] = b'Z';
        std::str::from_utf8(&out[..=len]).unwrap_or_default()
    }

    /// The most bytes [`Timestamp::write_to`] writes.
    pub const PRINT_LEN_MAX: usize = 30;
}

/// How far ahead of this machine's clock the time of a tick may be.
///
/// A tick further ahead is not taken in. One that is stored already is nobody's latest and moves no
/// clock: otherwise a single wrong time would hide everything that comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon(Option<Duration>);

impl Horizon {
    /// Ticks of any time are taken.
    pub const UNLIMITED: Self = Self(None);

    /// At most `ahead_max` ahead of this machine's clock.
    pub const fn ahead_of_clock(ahead_max: Duration) -> Self {
        Self(Some(ahead_max))
    }

    /// How far ahead a tick may be; `None`: as far as it likes.
    pub const fn ahead_max(self) -> Option<Duration> {
        self.0
    }

    /// The last instant that is taken now.
    pub fn end(self) -> Timestamp {
        let Some(ahead_max) = self.0 else { return Timestamp::MAX };
        let nanos = i64::try_from(ahead_max.as_nanos()).unwrap_or(i64::MAX);
        Timestamp::now_steady().saturating_add_nanos(nanos)
    }
}

fn two(out: &mut [u8], at: usize, value: u32) {
    out[at] = b'0' + (value / 10 % 10) as u8;
    out[at + 1] = b'0' + (value % 10) as u8;
}

/// Days since the epoch to (year, month, day): Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`.
fn civil_from_days(days: i64) -> (u32, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u32, month as u32, day as u32)
}

fn new_york() -> &'static TimeZone {
    static ZONE: OnceLock<TimeZone> = OnceLock::new();
    ZONE.get_or_init(|| TimeZone::get("America/New_York").expect("the time zone is compiled in"))
}

impl TradingDay {
    fn from_date(date: civil::Date) -> Self {
        let epoch = civil::date(1970, 1, 1);
        Self((date - epoch).get_days())
    }

    /// A day from days since 1970-01-01.
    pub const fn from_days_since_epoch(days: i32) -> Self {
        Self(days)
    }

    /// Days since 1970-01-01, as Arrow's `Date32`.
    pub const fn days_since_epoch(self) -> i32 {
        self.0
    }

    fn date(self) -> civil::Date {
        let (year, month, day) = civil_from_days(i64::from(self.0));
        civil::date(year as i16, month as i8, day as i8)
    }

    /// Midnight in New York at which the day begins.
    pub fn start(self) -> Timestamp {
        self.at(civil::time(0, 0, 0, 0))
    }

    /// Midnight in New York at which the day ends: the next day's start.
    pub fn end(self) -> Timestamp {
        Self(self.0 + 1).start()
    }

    /// The opening of the regular session, 09:30 in New York.
    pub fn session_open(self) -> Timestamp {
        self.at(civil::time(9, 30, 0, 0))
    }

    /// The close of the regular session, 16:00 in New York. Early closes are not known.
    pub fn session_close(self) -> Timestamp {
        self.at(civil::time(16, 0, 0, 0))
    }

    fn at(self, time: civil::Time) -> Timestamp {
        let local = self.date().to_datetime(time);
        new_york()
            .to_ambiguous_timestamp(local)
            .compatible()
            .ok()
            .and_then(|instant| i64::try_from(instant.as_nanosecond()).ok())
            // Beyond what a timestamp holds lies its nearest end.
            .map_or(if self.0 < 0 { Timestamp::MIN } else { Timestamp::MAX }, Timestamp)
    }

    /// The next day.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The day before.
    pub const fn previous(self) -> Self {
        Self(self.0 - 1)
    }

    /// Whether the day is a Saturday or a Sunday.
    pub fn is_weekend(self) -> bool {
        // 1970-01-01 was a Thursday.
        matches!((self.0 + 4).rem_euclid(7), 0 | 6)
    }
}

impl FromStr for TradingDay {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.as_bytes();
        let shaped = bytes.len() == 10 && bytes[4] == b'-' && bytes[7] == b'-';
        let day = text.parse().ok().filter(|_| shaped).map(Self::from_date);
        let days = Timestamp::MIN.trading_day()..=Timestamp::MAX.trading_day();
        day.filter(|day| days.contains(day)).ok_or_else(|| TimeError(shown(text)))
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect::<String>().escape_debug().to_string()
}

impl fmt::Display for TradingDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(i64::from(self.0));
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl fmt::Debug for TradingDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl serde::Serialize for TradingDay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for TradingDay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for Timestamp {
    type Err = TimeError;

    /// Parses an RFC 3339 instant, with any offset.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let instant: jiff::Timestamp = text.parse().map_err(|_| TimeError(shown(text)))?;
        i64::try_from(instant.as_nanosecond()).map(Self).map_err(|_| TimeError(shown(text)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.write_to(&mut [0; Self::PRINT_LEN_MAX]))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A half-open range of time, `from <= ts < to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeRange {
    /// The first instant inside.
    pub from: Timestamp,
    /// The first instant after.
    pub to: Timestamp,
}

impl TimeRange {
    /// All of time.
    pub const ALL: Self = Self { from: Timestamp::MIN, to: Timestamp::MAX };

    /// Whether `ts` is inside.
    pub fn contains(&self, ts: Timestamp) -> bool {
        self.from <= ts && ts < self.to
    }

    /// Whether the two ranges share an instant. An empty range shares none, wherever it lies.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.from.max(other.from) < self.to.min(other.to)
    }

    /// Whether nothing is inside.
    pub fn is_empty(&self) -> bool {
        self.from >= self.to
    }
}

/// Reads `--from`: an instant, or a day, which begins at its midnight in New York.
pub fn parse_from(text: &str) -> Result<Timestamp, TimeError> {
    text.parse::<TradingDay>().map(TradingDay::start).or_else(|_| text.parse())
}

/// Reads `--to`: an instant, exclusive, or a day, which is taken whole.
pub fn parse_to(text: &str) -> Result<Timestamp, TimeError> {
    text.parse::<TradingDay>().map(TradingDay::end).or_else(|_| text.parse())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn days_at_the_ends_of_time_hold_all_of_it() {
        assert_eq!(Timestamp::MIN.trading_day().start(), Timestamp::MIN);
        assert_eq!(Timestamp::MAX.trading_day().end(), Timestamp::MAX);
    }

    #[test]
    fn days_are_new_yorks() {
        // 03:59 UTC in July is 23:59 of the day before in New York; in January it is 22:59.
        for (instant, day) in [
            ("2017-07-11T03:59:59Z", "2017-07-10"),
            ("2017-07-11T04:00:00Z", "2017-07-11"),
            ("2025-01-02T04:59:59.999999999Z", "2025-01-01"),
            ("2025-01-02T05:00:00Z", "2025-01-02"),
            ("2025-03-09T04:59:59Z", "2025-03-08"),
            ("2025-03-10T03:59:59Z", "2025-03-09"),
        ] {
            assert_eq!(at(instant).trading_day().to_string(), day, "{instant}");
        }
        let short: TradingDay = "2025-03-09".parse().unwrap();
        assert_eq!(short.end().nanos_since(short.start()), 23 * 3600 * NANOS_PER_SECOND);
        assert_eq!(short.session_open(), at("2025-03-09T13:30:00Z"));
        assert!(short.is_weekend() && !short.next().is_weekend());
    }

    #[test]
    fn ticks_are_of_years_that_every_store_has() {
        for (text, is_storable) in [
            ("1899-12-31T23:59:59Z", false),
            ("1900-01-02T00:00:00Z", true),
            ("2261-12-31T23:59:59Z", true),
            ("2262-01-01T00:00:00Z", false),
        ] {
            assert_eq!(at(text).storable().is_ok(), is_storable, "{text}");
        }
        assert!(Timestamp::MIN.storable().is_err() && Timestamp::MAX.storable().is_err());
    }

    #[test]
    fn bounds_take_days_and_instants() {
        assert_eq!(parse_from("2025-01-01").unwrap(), at("2025-01-01T05:00:00Z"));
        assert_eq!(parse_to("2025-01-01").unwrap(), at("2025-01-02T05:00:00Z"));
        assert_eq!(parse_to("2025-01-01T09:30:00-05:00").unwrap(), at("2025-01-01T14:30:00Z"));
        for text in ["", "yesterday", "2025-13-01", "2025-02-30", "2025-1-1", "20250101", "9999-01-01"] {
            let message = parse_from(text).unwrap_err().to_string();
            assert!(message.contains(&format!("\"{text}\"")), "{message}");
        }
    }

    proptest! {
        #[test]
        fn parse_and_print_are_inverse(nanos in -6_000_000_000_000_000_000_i64..i64::MAX) {
            let ts = Timestamp::from_nanos(nanos);
            prop_assert_eq!(ts.to_string().parse::<Timestamp>().unwrap(), ts);
            prop_assert_eq!(ts.to_string(), ts.to_jiff().to_string());
        }

        #[test]
        fn a_day_holds_its_instants(nanos in prop_oneof![
            any::<i64>(),
            i64::MIN..i64::MIN + 2 * NANOS_PER_DAY,
            i64::MAX - 2 * NANOS_PER_DAY..i64::MAX,
        ]) {
            let ts = Timestamp::from_nanos(nanos);
            let day = ts.trading_day();
            prop_assert!(day.start() <= ts && (ts < day.end() || ts == Timestamp::MAX));
            // Until 1883 New York was four hours, 56 minutes and two seconds behind.
            prop_assert!(ts.floor_minute() <= ts);
            prop_assert!(day.start() <= ts.floor_minute() || ts.storable().is_err());
            prop_assert_eq!(day.to_string().parse::<TradingDay>().unwrap(), day);
            prop_assert_eq!(day.next().previous(), day);
        }

        #[test]
        fn ranges_overlap_where_they_share_an_instant(bounds in prop::array::uniform4(0_i64..6)) {
            let [from, to, other_from, other_to] = bounds.map(Timestamp::from_nanos);
            let (range, other) = (TimeRange { from, to }, TimeRange { from: other_from, to: other_to });
            let is_shared = |nanos| {
                let ts = Timestamp::from_nanos(nanos);
                range.contains(ts) && other.contains(ts)
            };
            prop_assert_eq!(range.overlaps(&other), (0..6).any(is_shared));
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = (parse_from(&text), parse_to(&text));
        }
    }
}
