//! `sim`: a market that looks like one, without a market.
//!
//! Real ticker symbols with skewed activity, a bid and an ask around a price process in valid tick
//! sizes, trades at the quote, odd lots, halts, cancels and corrections, busy openings and closings.
//! The same seed gives the same ticks, whatever the size of the batches that are asked for.
//!
//! `symbols.txt` holds the symbols of one day on IEX (2017-07-10), those without the venue's test
//! symbols, the best known first and then by activity, with some that were listed later. The prices beside
//! them, in 1e-4, are made up: plausible for the best known, log-normal for the rest.

mod feed;

use std::collections::VecDeque;

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

pub use feed::{Pace, SimFeed};

use crate::market::{
    Cancel, Conditions, Correction, Exchange, PrevClose, Price, Quote, Status, Symbol, Tape, Tick, Timestamp,
    Trade, TradeTerms, TradingDay,
};

const SYMBOLS: &str = include_str!("symbols.txt");
/// The symbol that always ticks, as on Alpaca's test stream.
const FAKEPACA: &str = "FAKEPACA";
const FAKEPACA_PERIOD_NANOS: i64 = 200_000_000;
/// The most symbols a simulated market has, FAKEPACA not counted.
pub const SYMBOLS_MAX: usize = 7_791;

/// What market to make.
#[derive(Clone, Debug, PartialEq)]
pub struct SimConfig {
    /// The same seed gives the same market.
    pub seed: u64,
    /// How many symbols trade, 1 to [`SYMBOLS_MAX`].
    pub symbols: usize,
    /// Ticks per second of simulated time outside the busy openings and closings.
    pub rate_ticks_per_s: f64,
    /// When the market begins: the first tick's `ts`.
    pub start: Timestamp,
    /// How many ticks there are; `None`: no end.
    pub count: Option<u64>,
}

/// Fixed point of prices inside the simulator: 1e-4.
type Units = i64;

/// One listed symbol's market.
struct Listing {
    symbol: Symbol,
    /// What the price wanders around.
    fair: Units,
    bid: Units,
    ask: Units,
    /// The smallest price step: a cent from one dollar up, 1e-4 below (Regulation NMS, Rule 612).
    tick: Units,
    bid_size: u32,
    ask_size: u32,
    exchange: Exchange,
    tape: Tape,
    halted: bool,
}

/// A trade that may still be cancelled or corrected.
#[derive(Clone, Copy)]
struct Amendable {
    listing: u32,
    trade: Trade,
}

/// Draws a symbol by its weight in constant time: Walker's alias method in Vose's form (M. D. Vose,
/// "A Linear Algorithm for Generating Random Numbers with a Given Distribution", 1991).
struct Skew {
    /// For each symbol: the threshold out of 2^32 below which it stands for itself, and the other.
    slots: Vec<(u32, u32)>,
}

impl Skew {
    /// Weights 1 / (rank + 8): the first hundred of 7,800 symbols get about two fifths of all ticks.
    fn new(count: usize) -> Self {
        let weights: Vec<f64> = (0..count).map(|rank| 1.0 / (rank as f64 + 8.0)).collect();
        let mean = weights.iter().sum::<f64>() / count as f64;
        let mut shares: Vec<f64> = weights.iter().map(|weight| weight / mean).collect();
        let mut slots = vec![(u32::MAX, 0); count];
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..count).partition(|&at| shares[at] < 1.0);
        while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
            slots[less] = ((shares[less] * f64::from(u32::MAX)) as u32, more as u32);
            shares[more] -= 1.0 - shares[less];
            if shares[more] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        Self { slots }
    }

    #[inline]
    fn draw(&self, random: u64) -> usize {
        let (slot, coin) = (((random >> 32) * self.slots.len() as u64) >> 32, random as u32);
        let (threshold, other) = self.slots[slot as usize];
        if coin <= threshold { slot as usize } else { other as usize }
    }
}

/// The generator: makes ticks as quickly as they are asked for.
pub struct Sim {
    config: SimConfig,
    random: Xoshiro256PlusPlus,
    skew: Skew,
    listings: Vec<Listing>,
    made: u64,
    now: i64,
    /// The last whole second of simulated time that housekeeping was done for.
    second: i64,
    day: TradingDay,
    day_start: i64,
    /// Simulated time from tick to tick, in nanoseconds.
    step: i64,
    next_fakepaca: i64,
    next_halt: i64,
    /// Halted listings with when they resume, soonest first.
    halts: VecDeque<(i64, u32)>,
    amendable: Vec<Amendable>,
    /// How many closes were told at the start.
    closes_told: usize,
}

/// How many trades are remembered for cancels and corrections.
const AMENDABLE_MAX: usize = 256;
/// One tick in so many amends an earlier trade.
const AMEND_ONE_IN: u64 = 20_000;
const HALT_PERIOD_NANOS: i64 = 120_000_000_000;
const HALT_NANOS: i64 = 30_000_000_000;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

impl Sim {
    /// A market as `config` says. Symbols are held to 1..=[`SYMBOLS_MAX`], the rate to 0.001..=1e9.
    pub fn new(config: SimConfig) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(config.seed);
        let count = config.symbols.clamp(1, SYMBOLS_MAX);
        let mut listings: Vec<_> = SYMBOLS
            .lines()
            .take(count)
            .map(|line| {
                let (symbol, close) = line.split_once(' ').expect("the list is compiled in");
                listing(symbol, close.parse().expect("the list is compiled in"), random.next_u64())
            })
            .collect();
        listings.push(listing(FAKEPACA, 1_330_000, random.next_u64()));
        let start = config.start.nanos();
        let mut sim = Self {
            random,
            skew: Skew::new(count),
            listings,
            made: 0,
            now: start,
            second: i64::MIN,
            day: config.start.trading_day(),
            day_start: config.start.trading_day().start().nanos(),
            step: 1,
            next_fakepaca: start,
            next_halt: start + HALT_PERIOD_NANOS,
            halts: VecDeque::new(),
            amendable: Vec::with_capacity(AMENDABLE_MAX),
            closes_told: 0,
            config,
        };
        sim.each_second();
        sim
    }

    /// Begins again at `start`, as if nothing had been made.
    pub(super) fn restart(&mut self, start: Timestamp) {
        *self = Self::new(SimConfig { start, ..self.config.clone() });
    }

    /// Moves the market's time by `nanos` without a tick.
    pub(super) fn skip(&mut self, nanos: i64) {
        self.now = self.now.saturating_add(nanos);
    }

    /// Ticks made so far.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// The simulated time of the next tick.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.now)
    }

    /// Adds the next `count` ticks to `ticks`, fewer only at the end. Returns whether any is left.
    pub fn fill(&mut self, ticks: &mut Vec<Tick>, count: usize) -> bool {
        let left = self.config.count.map_or(u64::MAX, |end| end.saturating_sub(self.made));
        for _ in 0..(count as u64).min(left) {
            let tick = self.tick();
            ticks.push(tick);
        }
        self.made += (count as u64).min(left);
        left > count as u64
    }

    #[inline]
    fn tick(&mut self) -> Tick {
        // Before the tick, so that its id counts from the midnight of its own day.
        if self.now.div_euclid(NANOS_PER_SECOND) != self.second {
            self.each_second();
        }
        let ts = Timestamp::from_nanos(self.now);
        self.now += self.step;
        if self.closes_told < self.listings.len() {
            let listing = &self.listings[self.closes_told];
            self.closes_told += 1;
            return Tick::PrevClose(PrevClose {
                symbol: listing.symbol,
                ts,
                recv_ts: ts,
                price: price(listing.fair),
            });
        }
        if ts.nanos() >= self.next_fakepaca {
            self.next_fakepaca = ts.nanos() + FAKEPACA_PERIOD_NANOS;
            return self.quote_or_trade(self.listings.len() - 1, ts);
        }
        if self.halts.front().is_some_and(|(resume, _)| *resume <= ts.nanos()) || ts.nanos() >= self.next_halt
        {
            return self.halt_or_resume(ts);
        }
        let random = self.random.next_u64();
        if random.is_multiple_of(AMEND_ONE_IN) && !self.amendable.is_empty() {
            return self.amend(ts);
        }
        let mut at = self.skew.draw(random);
        while self.listings[at].halted {
            // FAKEPACA, the last, is never halted: the search ends.
            at += 1;
        }
        self.quote_or_trade(at, ts)
    }

    /// Moves the quote, or trades at it: one trade for five quotes.
    #[inline]
    fn quote_or_trade(&mut self, at: usize, ts: Timestamp) -> Tick {
        let random = self.random.next_u64();
        let listing = &mut self.listings[at];
        let (symbol, tape) = (listing.symbol, listing.tape);
        if random & 0x7ff < 341 && listing.bid > 0 {
            let at_ask = random & 0x800 != 0;
            let units = if at_ask { listing.ask } else { listing.bid };
            // Mostly round lots, a quarter odd ones; sizes fall off by powers of two.
            let odd = random >> 12 & 3 == 0;
            let size = if odd {
                (random >> 14) as u32 % 99 + 1
            } else {
                100 << (random >> 14 & 0xff).leading_zeros().saturating_sub(56).min(5)
            };
            let trade = Trade {
                symbol,
                ts,
                recv_ts: ts,
                price: price(units),
                size,
                exchange: listing.exchange,
                conditions: if odd { odd_lot() } else { regular() },
                id: (ts.nanos() - self.day_start) as u64,
                tape,
            };
            let amendable = Amendable { listing: at as u32, trade };
            if self.amendable.len() < AMENDABLE_MAX {
                self.amendable.push(amendable);
            } else {
                self.amendable[random as usize >> 40 & (AMENDABLE_MAX - 1)] = amendable;
            }
            return Tick::Trade(trade);
        }
        move_quote(listing, random >> 16);
        Tick::Quote(Quote {
            symbol,
            ts,
            recv_ts: ts,
            bid: price(listing.bid),
            ask: price(listing.ask),
            bid_size: listing.bid_size,
            ask_size: listing.ask_size,
            bid_exchange: listing.exchange,
            ask_exchange: listing.exchange,
            conditions: regular_quote(),
            tape,
        })
    }

    /// Halts a busy symbol, or lets the one whose time has come trade again.
    fn halt_or_resume(&mut self, ts: Timestamp) -> Tick {
        let resumed = self.halts.pop_front_if(|(resume, _)| *resume <= ts.nanos());
        let (at, halted) = if let Some((_, at)) = resumed {
            (at as usize, false)
        } else {
            self.next_halt = ts.nanos() + HALT_PERIOD_NANOS;
            let at = self.skew.draw(self.random.next_u64());
            // A draw of one that is halted already leaves things as they are: it is told again.
            if !self.listings[at].halted {
                self.halts.push_back((ts.nanos() + HALT_NANOS, at as u32));
            }
            (at, true)
        };
        let listing = &mut self.listings[at];
        listing.halted = halted;
        let (code, message, reason_code, reason_message) = if halted {
            ("H", "Trading Halt", "LUDP", "Volatility Trading Pause")
        } else {
            ("T", "Trading Resumption", "", "")
        };
        Tick::Status(Box::new(Status {
            symbol: listing.symbol,
            ts,
            recv_ts: ts,
            code: code.into(),
            message: message.into(),
            reason_code: reason_code.into(),
            reason_message: reason_message.into(),
            tape: listing.tape,
        }))
    }

    /// Cancels or corrects a trade that was made before, each at most once.
    fn amend(&mut self, ts: Timestamp) -> Tick {
        let random = self.random.next_u64();
        let Amendable { listing, trade } = self.amendable.swap_remove(random as usize % self.amendable.len());
        let original =
            TradeTerms { id: trade.id, price: trade.price, size: trade.size, conditions: trade.conditions };
        let (symbol, exchange, tape) = (trade.symbol, trade.exchange, trade.tape);
        if random >> 63 == 0 {
            return Tick::Cancel(Box::new(Cancel {
                symbol,
                ts,
                recv_ts: ts,
                id: trade.id,
                price: trade.price,
                size: trade.size,
                exchange,
                action: b'C',
                tape,
            }));
        }
        let tick = self.listings[listing as usize].tick;
        let amended = Price::from_nanos(trade.price.nanos() + tick * 100_000).unwrap_or(trade.price);
        let corrected = TradeTerms { id: (ts.nanos() - self.day_start) as u64, price: amended, ..original };
        Tick::Correction(Box::new(Correction {
            symbol,
            ts,
            recv_ts: ts,
            exchange,
            original,
            corrected,
            tape,
        }))
    }

    /// What changes with the clock: the day, and how busy the market is.
    fn each_second(&mut self) {
        self.second = self.now.div_euclid(NANOS_PER_SECOND);
        let now = Timestamp::from_nanos(self.now);
        if now >= self.day.end() {
            self.day = now.trading_day();
            self.day_start = self.day.start().nanos();
            self.amendable.clear();
        }
        let minutes = |nanos: i64| nanos as f64 / 60e9;
        let since_open = minutes(now.nanos_since(self.day.session_open()));
        let to_close = minutes(self.day.session_close().nanos_since(now));
        // Three times as busy at the bell, twice as busy at the close, easing within half an hour.
        let busy = if since_open >= 0.0 && to_close >= 0.0 {
            1.0 + 2.0 * (-since_open / 10.0).exp() + (-to_close / 10.0).exp()
        } else {
            1.0
        };
        let rate = self.config.rate_ticks_per_s.clamp(0.001, 1e9) * busy;
        self.step = ((NANOS_PER_SECOND as f64 / rate) as i64).max(1);
    }
}

fn price(units: Units) -> Price {
    Price::from_ten_thousandths(units).unwrap_or(Price::ZERO)
}

fn odd_lot() -> Conditions {
    Conditions::from_codes(b"@I").unwrap_or_default()
}

fn regular() -> Conditions {
    Conditions::from_codes(b"@").unwrap_or_default()
}

fn regular_quote() -> Conditions {
    Conditions::from_codes(b"R").unwrap_or_default()
}

fn listing(symbol: &str, close: Units, random: u64) -> Listing {
    let tick = if close >= 10_000 { 100 } else { 1 };
    let fair = (close / tick * tick).max(2 * tick);
    let exchanges = [b'V', b'Q', b'N', b'P', b'Z', b'K'];
    Listing {
        symbol: symbol.parse().expect("the list is compiled in"),
        fair,
        bid: fair - tick,
        ask: fair + tick,
        tick,
        bid_size: 100,
        ask_size: 100,
        exchange: Exchange::from_code(exchanges[random as usize % exchanges.len()]).unwrap_or(Exchange::IEX),
        tape: [Tape::A, Tape::B, Tape::C][(random >> 32) as usize % 3],
        halted: false,
    }
}

/// One step of the price: a walk of a tick at most on either side, drawn back to the fair price,
/// which itself jumps now and then.
#[inline]
fn move_quote(listing: &mut Listing, random: u64) {
    let tick = listing.tick;
    if random & 0x3ff == 0 {
        // A jump of up to 16 ticks either way; prices stay where their tick size is valid.
        let jump = ((random >> 10 & 31) as i64 - 16) * tick;
        let least = if tick == 100 { 10_000 + 32 * tick } else { 8 };
        let most = if tick == 100 { i64::MAX } else { 10_000 - 32 };
        listing.fair = (listing.fair + jump).clamp(least.min(most), most);
    }
    let middle = i64::midpoint(listing.bid, listing.ask);
    let pull = (listing.fair - middle).signum();
    let step = match random >> 16 & 7 {
        0 | 1 => pull,
        2 => 1,
        3 => -1,
        _ => 0,
    };
    let width = 1 + i64::from(random >> 20 & 3 == 0) + i64::from(random >> 22 & 15 == 0) * 2;
    let bid = (listing.bid + step * tick).max(tick);
    // A penny stock's bid stays below a dollar and its ask too: one tick size for one listing.
    let bid = if tick == 1 { bid.min(10_000 - 8) } else { bid.max(10_000) };
    listing.bid = bid;
    listing.ask = bid + width * tick;
    listing.bid_size = 100 * (1 + (random >> 26 & 15) as u32);
    listing.ask_size = 100 * (1 + (random >> 30 & 15) as u32);
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn config(seed: u64, count: u64) -> SimConfig {
        let start = "2026-11-20T14:29:00Z".parse().unwrap();
        SimConfig { seed, symbols: SYMBOLS_MAX, rate_ticks_per_s: 2_000.0, start, count: Some(count) }
    }

    fn ticks(config: SimConfig, batch: usize) -> Vec<Tick> {
        let mut sim = Sim::new(config);
        let mut ticks = Vec::new();
        while sim.fill(&mut ticks, batch) {}
        ticks
    }

    #[test]
    fn the_list_is_whole() {
        assert_eq!(SYMBOLS.lines().count(), SYMBOLS_MAX);
        let sim = Sim::new(config(1, 1));
        let symbols: HashSet<_> = sim.listings.iter().map(|listing| listing.symbol).collect();
        assert_eq!(symbols.len(), SYMBOLS_MAX + 1, "no symbol stands twice");
    }

    #[test]
    fn the_same_seed_gives_the_same_ticks_in_any_batches() {
        let whole = ticks(config(7, 30_000), 30_000);
        assert_eq!(whole.len(), 30_000);
        assert!(whole == ticks(config(7, 30_000), 17));
        assert!(whole != ticks(config(8, 30_000), 30_000));
    }

    #[test]
    fn a_seed_means_the_same_for_ever() {
        // Golden: programs and tests elsewhere rely on a seed's ticks.
        let mut encoder = crate::wire::record::RecordEncoder::new();
        ticks(config(7, 20_000), 1_000).iter().for_each(|tick| encoder.push(tick));
        let bytes = encoder.finish(crate::wire::record::Origin { producer: 0, sequence: 0 });
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!(format!("{hash:016x}"), GOLDEN);
    }

    const GOLDEN: &str = "a507e691d76ddbf6";

    #[test]
    fn it_looks_like_a_market() {
        let ticks = ticks(config(3, 600_000), 4_096);
        let mut quotes: HashMap<Symbol, Quote> = HashMap::new();
        let mut trades: HashMap<(Symbol, u64), Trade> = HashMap::new();
        let mut activity: HashMap<Symbol, u64> = HashMap::new();
        let (mut last, mut halted, mut amended) = (Timestamp::MIN, HashSet::new(), 0);
        for tick in &ticks {
            assert!(tick.ts() > last, "time goes on with every tick");
            last = tick.ts();
            if let Some(symbol) = tick.symbol().filter(|_| matches!(tick, Tick::Trade(_) | Tick::Quote(_))) {
                assert!(!halted.contains(&symbol), "{symbol} ticks while halted");
                *activity.entry(symbol).or_default() += 1;
            }
            match tick {
                Tick::Quote(q) => {
                    assert!(q.bid < q.ask && !q.bid.is_zero(), "{q:?}");
                    let step = if q.ask.nanos() > 1_000_000_000 { 10_000_000 } else { 100_000 };
                    assert_eq!((q.bid.nanos() % step, q.ask.nanos() % step), (0, 0), "{q:?}");
                    quotes.insert(q.symbol, *q);
                }
                Tick::Trade(t) => {
                    if let Some(quote) = quotes.get(&t.symbol) {
                        assert!(t.price == quote.bid || t.price == quote.ask, "{t:?} at {quote:?}");
                    }
                    assert_eq!(t.size < 100, t.conditions.as_str().contains('I'), "{t:?}");
                    assert!(trades.insert((t.symbol, t.id), *t).is_none(), "an id stands twice: {t:?}");
                }
                Tick::Cancel(c) => {
                    amended += 1;
                    let broken = trades.remove(&(c.symbol, c.id)).expect("a cancel names an earlier trade");
                    assert_eq!((broken.price, broken.size), (c.price, c.size));
                }
                Tick::Correction(c) => {
                    amended += 1;
                    assert!(
                        trades.remove(&(c.symbol, c.original.id)).is_some(),
                        "a correction names an earlier trade"
                    );
                }
                Tick::Status(s) if &*s.code == "H" => {
                    assert!(halted.insert(s.symbol) || halted.contains(&s.symbol));
                }
                Tick::Status(s) => assert!(halted.remove(&s.symbol), "{s:?}"),
                Tick::PrevClose(_) | Tick::Gap(_) => {}
            }
        }
        assert!(amended > 5, "{amended} cancels and corrections");
        let share = |symbol: &str| activity[&symbol.parse().unwrap()] as f64 / ticks.len() as f64;
        assert!(share("SPY") > 0.01 && share("FAKEPACA") > 0.001, "{} {}", share("SPY"), share("FAKEPACA"));
        let ratio = (ticks.len() - trades.len()) as f64 / trades.len() as f64;
        assert!((4.0..8.0).contains(&ratio), "{ratio} quotes a trade");
        let mut counts: Vec<_> = activity.values().copied().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let first_hundred = counts[..100].iter().sum::<u64>() as f64 / counts.iter().sum::<u64>() as f64;
        assert!((0.3..0.5).contains(&first_hundred), "{first_hundred} of all ticks in a hundred symbols");
    }

    #[test]
    fn ids_begin_anew_at_midnight_in_new_york() {
        // 05:00 UTC in November is midnight; at so low a rate a step crosses many seconds.
        let start = "2026-11-20T04:59:30Z".parse().unwrap();
        for rate_ticks_per_s in [0.3, 7.0, 1_000.0] {
            let count = Some((rate_ticks_per_s * 60.0) as u64 + 10);
            let config = SimConfig { seed: 5, symbols: 2, rate_ticks_per_s, start, count };
            for tick in ticks(config, 64) {
                if let Tick::Trade(trade) = tick {
                    let midnight = trade.ts.trading_day().start();
                    assert_eq!(trade.id, trade.ts.nanos_since(midnight) as u64, "{trade:?}");
                }
            }
        }
    }

    #[test]
    fn the_opening_is_busy() {
        let ticks = ticks(config(1, 300_000), 4_096);
        let open = "2026-11-20T14:30:00Z".parse::<Timestamp>().unwrap();
        let within = |from: i64, to: i64| {
            let inside = |tick: &&Tick| (from..to).contains(&tick.ts().nanos_since(open));
            ticks.iter().filter(inside).count()
        };
        let second = NANOS_PER_SECOND;
        assert!(within(0, second) > 2 * within(-second, 0));
    }
}
