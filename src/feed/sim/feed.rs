//! The simulator as a feed: paced by the clock, or as quick as it is pulled.

use std::time::Duration;

use super::{Sim, SimConfig};
use crate::feed::{BATCH_TICKS_MAX, Feed, FeedError, Pulled};
use crate::market::{Tick, Timestamp};

/// How a simulated market's time relates to the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A tick is handed out when its time has come; `recv_ts` is when that was. The market begins when the
    /// first tick is asked for, and the configured start is not used: what a server does between its
    /// configuration and then adds nothing to a tick's age.
    Clock,
    /// Ticks are handed out as quickly as they are asked for; `recv_ts` is their time.
    Max,
}

/// Ticks of a simulated market.
pub struct SimFeed {
    sim: Sim,
    pace: Pace,
    /// The clock and the simulated time at the first call.
    begun: Option<(tokio::time::Instant, Timestamp)>,
    ended: bool,
    /// Tells the real time; a test may say otherwise.
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

/// A live market that fell behind the clock by more than this (the machine slept) continues from now.
const BEHIND_NANOS_MAX: i64 = 1_000_000_000;

/// How often a paced feed hands out what is due: well below what an eye or a program notices.
const PERIOD: Duration = Duration::from_millis(2);

impl SimFeed {
    /// A feed of the market that `config` describes.
    pub fn new(config: SimConfig, pace: Pace) -> Self {
        Self { sim: Sim::new(config), pace, begun: None, ended: false, now: Box::new(Timestamp::now) }
    }

    fn fill(&mut self, ticks: &mut Vec<Tick>, count: usize) {
        self.ended = !self.sim.fill(ticks, count);
    }

    /// Begins the market, at the first call.
    fn begin(&mut self) -> (tokio::time::Instant, Timestamp) {
        let began = tokio::time::Instant::now();
        if self.pace == Pace::Clock {
            self.sim.restart((self.now)());
        }
        (began, self.sim.now())
    }

    /// The market's time by the clock, `elapsed` after its beginning at `from`. A live market skips what
    /// it slept through.
    fn market_time(&mut self, from: Timestamp, elapsed: Duration) -> Timestamp {
        let now = from.saturating_add_nanos(i64::try_from(elapsed.as_nanos()).unwrap_or(i64::MAX));
        let behind = if self.pace == Pace::Clock { (self.now)().nanos_since(now) } else { 0 };
        if behind <= BEHIND_NANOS_MAX {
            return now;
        }
        self.sim.skip(behind);
        if let Some((_, from)) = &mut self.begun {
            *from = from.saturating_add_nanos(behind);
        }
        now.saturating_add_nanos(behind)
    }
}

#[async_trait::async_trait]
impl Feed for SimFeed {
    fn name(&self) -> &'static str {
        "sim"
    }

    async fn next(&mut self, ticks: &mut Vec<Tick>) -> Result<Pulled, FeedError> {
        if self.ended {
            return Ok(Pulled::End);
        }
        if self.pace == Pace::Max {
            self.fill(ticks, BATCH_TICKS_MAX);
            return Ok(if ticks.is_empty() { Pulled::End } else { Pulled::Ticks });
        }
        let (began, from) = if let Some(begun) = self.begun { begun } else { self.begin() };
        self.begun = Some((began, from));
        let due_in = Duration::from_nanos(self.sim.now().nanos_since(from).max(0) as u64);
        // Nothing is taken before the wait is over: a dropped call has lost nothing.
        tokio::time::sleep_until((began + due_in).max(tokio::time::Instant::now() + PERIOD.min(due_in)))
            .await;
        let now = self.market_time(from, began.elapsed());
        let before = ticks.len();
        // One at a time until the clock is reached: a step changes with the time of day.
        while !self.ended && self.sim.now() <= now && ticks.len() - before < BATCH_TICKS_MAX {
            self.fill(ticks, 1);
        }
        let received = Timestamp::now();
        for tick in &mut ticks[before..] {
            tick.set_recv_ts(received);
        }
        Ok(if ticks.len() == before { Pulled::End } else { Pulled::Ticks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(rate_ticks_per_s: f64, count: u64, pace: Pace) -> SimFeed {
        let start = "2026-11-20T12:00:00Z".parse().unwrap();
        SimFeed::new(SimConfig { seed: 1, symbols: 10, rate_ticks_per_s, start, count: Some(count) }, pace)
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_paces_it() {
        let mut feed = feed(1_000.0, 3_000, Pace::Clock);
        let began = tokio::time::Instant::now();
        // The rate changes with the time of day, so the day's time is given; and the paused clock is the
        // only one, so that a busy machine does not look like one that slept.
        let start: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        feed.now = Box::new(move || start.saturating_add_nanos(began.elapsed().as_nanos() as i64));
        let (mut ticks, mut calls) = (Vec::new(), 0);
        while feed.next(&mut ticks).await.unwrap() == Pulled::Ticks {
            calls += 1;
            let due = began.elapsed().as_millis() as usize;
            assert!(ticks.len() <= due + 2, "{} ticks after {due} ms", ticks.len());
        }
        assert_eq!(ticks.len(), 3_000);
        let elapsed = began.elapsed();
        assert!(
            (Duration::from_millis(2_990)..Duration::from_millis(3_020)).contains(&elapsed),
            "{elapsed:?}"
        );
        assert!(calls > 1_000, "handed out as they come due, in {calls} calls");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_call_loses_nothing() {
        let mut feed = feed(10.0, 20, Pace::Clock);
        let mut ticks = Vec::new();
        while ticks.len() < 20 {
            let patience = Duration::from_millis(30);
            let _ = tokio::time::timeout(patience, feed.next(&mut ticks)).await;
        }
        let mut again = Vec::new();
        Sim::new(SimConfig {
            seed: 1,
            symbols: 10,
            rate_ticks_per_s: 10.0,
            start: ticks[0].ts(),
            count: Some(20),
        })
        .fill(&mut again, 20);
        let times = |ticks: &[Tick]| ticks.iter().map(|tick| (tick.symbol(), tick.ts())).collect::<Vec<_>>();
        assert_eq!(times(&ticks), times(&again));
    }

    #[tokio::test]
    async fn a_live_market_begins_when_it_is_first_asked() {
        // Configured long before: the age of that does not stick to its ticks.
        let mut feed = feed(1_000.0, 200, Pace::Clock);
        let before = Timestamp::now();
        let mut ticks = Vec::new();
        while feed.next(&mut ticks).await.unwrap() == Pulled::Ticks {}
        assert!(
            ticks[0].ts() >= before && ticks.iter().all(|tick| tick.ts() <= tick.recv_ts()),
            "{:?}",
            ticks[0]
        );
        assert_eq!(ticks.len(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_market_that_slept_continues_from_now() {
        let mut feed = feed(1_000.0, 3_000, Pace::Clock);
        let mut ticks = Vec::new();
        assert_eq!(feed.next(&mut ticks).await.unwrap(), Pulled::Ticks);
        // As if the machine had slept for an hour.
        let (_, from) = feed.begun.as_mut().unwrap();
        *from = from.saturating_add_nanos(-3_600_000_000_000);
        feed.sim.skip(-3_600_000_000_000);
        ticks.clear();
        assert_eq!(feed.next(&mut ticks).await.unwrap(), Pulled::Ticks);
        let age = ticks[0].recv_ts().nanos_since(ticks[0].ts());
        assert!(age < 60_000_000_000, "{age} ns old, {} ticks", ticks.len());
    }

    #[tokio::test(start_paused = true)]
    async fn without_pace_it_waits_for_nothing() {
        let mut feed = feed(1.0, 10_000, Pace::Max);
        let began = tokio::time::Instant::now();
        let mut ticks = Vec::new();
        while feed.next(&mut ticks).await.unwrap() == Pulled::Ticks {}
        assert_eq!((ticks.len(), began.elapsed()), (10_000, Duration::ZERO));
    }
}
