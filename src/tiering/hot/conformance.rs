//! What every hot store does, whatever it is made of.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::{Hot, HotEntry, HotUpdates, RECENT_TICKS};
use crate::market::{
    Bar, Cancel, Conditions, Correction, Exchange, PrevClose, Price, Quote, Seq, Status, Symbol, Tape, Tick,
    Timeframe, Timestamp, Trade, TradeTerms,
};

/// Partitions of the stores under test.
pub(crate) const PARTITIONS: u16 = 2;
const NAMES: [&str; 4] = ["AAPL", "MSFT", "TSLA", "BRK.B"];
const START: Timestamp = Timestamp::from_nanos(1_741_358_000_000_000_000);

/// What happens next to one of the symbols.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Trade(u16),
    Quote(u16),
    /// Breaks the trade that is so far back.
    Cancel(usize),
    Correct(usize, u16),
    Status(u8),
    PrevClose(u16),
}

pub(crate) fn steps(count: usize) -> impl Strategy<Value = Vec<(usize, Step)>> {
    let step = prop_oneof![
        6 => (1_u16..).prop_map(Step::Trade),
        6 => (1_u16..).prop_map(Step::Quote),
        3 => (0_usize..6).prop_map(Step::Cancel),
        2 => ((0_usize..6), 1_u16..).prop_map(|(back, price)| Step::Correct(back, price)),
        1 => any::<u8>().prop_map(Step::Status),
        1 => (1_u16..).prop_map(Step::PrevClose),
    ];
    prop::collection::vec((0..NAMES.len(), step), 1..count)
}

fn cents(price: u16) -> Price {
    Price::from_ten_thousandths(i64::from(price) * 100).expect("small")
}

/// The ticks of `steps` with their places, four to a record.
pub(crate) fn ticks(steps: &[(usize, Step)]) -> Vec<(Seq, Tick)> {
    let mut trades: Vec<Vec<Trade>> = vec![Vec::new(); NAMES.len()];
    let mut ticks = Vec::new();
    for (at, &(number, step)) in steps.iter().enumerate() {
        let symbol: Symbol = NAMES[number].parse().expect("a symbol");
        let recv_ts = START.saturating_add_nanos(at as i64 * 1_000);
        // Some arrive late, and some have the same time as others.
        let late = match step {
            Step::Trade(number) | Step::Quote(number) | Step::PrevClose(number) if number % 3 == 0 => {
                number % 16
            }
            Step::Status(number) if number % 3 == 0 => u16::from(number % 16),
            _ => 0,
        };
        let ts = START.saturating_add_nanos((at as i64 - i64::from(late)) / 2 * 2_000);
        let (tape, conditions) = (Tape::C, Conditions::NONE);
        // Each exchange numbers its own trades.
        let exchange = Exchange::from_code(b"VQ"[at % 2]).expect("a code");
        let target = |back: usize| trades[number].iter().rev().nth(back).copied();
        let tick = match step {
            Step::Trade(price) => {
                let id = at as u64 / 2;
                let trade = Trade {
                    symbol,
                    ts,
                    recv_ts,
                    price: cents(price),
                    size: 100,
                    exchange,
                    conditions,
                    id,
                    tape,
                };
                trades[number].push(trade);
                Tick::Trade(trade)
            }
            Step::Quote(price) => Tick::Quote(Quote {
                symbol,
                ts,
                recv_ts,
                bid: cents(price),
                ask: cents(price),
                bid_size: 1,
                ask_size: 2,
                bid_exchange: exchange,
                ask_exchange: exchange,
                conditions,
                tape,
            }),
            Step::Cancel(back) => {
                let Some(Trade { id, price, size, exchange, .. }) = target(back) else { continue };
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
            }
            Step::Correct(back, price) => {
                let Some(trade) = target(back) else { continue };
                let original = TradeTerms { id: trade.id, price: trade.price, size: trade.size, conditions };
                let corrected = TradeTerms { price: cents(price), ..original };
                Tick::Correction(Box::new(Correction {
                    symbol,
                    ts,
                    recv_ts,
                    exchange: trade.exchange,
                    original,
                    corrected,
                    tape,
                }))
            }
            Step::Status(code) => Tick::Status(Box::new(Status {
                symbol,
                ts,
                recv_ts,
                code: if code % 2 == 0 { "H" } else { "T" }.into(),
                message: "told".into(),
                reason_code: "".into(),
                reason_message: "".into(),
                tape,
            })),
            Step::PrevClose(price) => Tick::PrevClose(PrevClose { symbol, ts, recv_ts, price: cents(price) }),
        };
        let place =
            Seq { partition: symbol.partition(PARTITIONS), offset: at as u64 / 4, index: at as u32 % 4 };
        ticks.push((place, tick));
    }
    ticks
}

/// What is known of `symbol` after `ticks`, found in the simplest way.
fn naive(symbol: Symbol, ticks: &[(Seq, Tick)]) -> (Option<HotEntry>, Vec<(Seq, Tick)>) {
    let mine: Vec<&(Seq, Tick)> = ticks.iter().filter(|(_, tick)| tick.symbol() == Some(symbol)).collect();
    let Some((last, _)) = mine.last() else { return (None, Vec::new()) };
    let mut entry = HotEntry { seq: *last, ..HotEntry::default() };
    let mut trades: Vec<Trade> = Vec::new();
    for (_, tick) in &mine {
        let ts = tick.ts();
        match tick {
            Tick::Trade(trade) => trades.push(*trade),
            Tick::Quote(quote) if entry.quote.is_none_or(|last| ts >= last.ts) => entry.quote = Some(*quote),
            Tick::Status(status) if entry.status.as_ref().is_none_or(|last| ts >= last.ts) => {
                entry.status = Some((**status).clone());
            }
            Tick::PrevClose(close) if entry.prev_close.is_none_or(|last| ts >= last.ts) => {
                entry.prev_close = Some(*close);
            }
            Tick::Cancel(cancel) => trades.retain(|trade| !trade.is_named(cancel.exchange, cancel.id)),
            Tick::Correction(correction) => {
                let (exchange, id) = (correction.exchange, correction.original.id);
                for trade in trades.iter_mut().filter(|trade| trade.is_named(exchange, id)) {
                    trade.correct(&correction.corrected);
                }
            }
            Tick::Quote(_) | Tick::Status(_) | Tick::PrevClose(_) | Tick::Gap(_) => {}
        }
    }
    entry.trade = trades.iter().max_by_key(|trade| trade.ts).copied();
    let recent = mine[mine.len().saturating_sub(RECENT_TICKS)..].iter().map(|placed| (*placed).clone());
    (Some(entry), recent.collect())
}

pub(crate) fn symbols() -> Vec<Symbol> {
    NAMES.iter().map(|name| name.parse().expect("a symbol")).collect()
}

async fn tell(hot: &dyn Hot, ticks: &[(Seq, Tick)]) {
    for partition in 0..PARTITIONS {
        let mine = ticks.iter().filter(|(seq, _)| seq.partition == partition).cloned().collect();
        hot.apply(partition, &HotUpdates { ticks: mine, ..HotUpdates::default() }).await.expect("applied");
    }
}

pub(crate) async fn is_as_told(hot: &dyn Hot, ticks: &[(Seq, Tick)]) -> Result<(), TestCaseError> {
    let entries = hot.get(&symbols()).await.expect("an answer");
    for (symbol, entry) in symbols().into_iter().zip(entries) {
        let (expected, recent) = naive(symbol, ticks);
        prop_assert_eq!(entry, expected, "{}", symbol);
        prop_assert_eq!(hot.recent(symbol).await.expect("an answer"), recent, "{}", symbol);
    }
    let mut seen: Vec<Symbol> = ticks.iter().filter_map(|(_, tick)| tick.symbol()).collect();
    seen.sort_unstable();
    seen.dedup();
    prop_assert_eq!(hot.symbols().await.expect("an answer"), seen);
    Ok(())
}

/// Runs everything against stores that `open` makes, each empty and of [`PARTITIONS`].
pub(crate) fn run(open: impl Fn() -> Arc<dyn Hot>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut runner = TestRunner::default();
    let knows_the_last_of_every_symbol = runner.run(&(steps(60), 1_usize..9), |(steps, batch)| {
        runtime.block_on(async {
            let (hot, ticks) = (open(), ticks(&steps));
            for end in (batch..ticks.len() + batch).step_by(batch) {
                let end = end.min(ticks.len());
                tell(&*hot, &ticks[..end]).await;
                is_as_told(&*hot, &ticks[..end]).await?;
            }
            Ok(())
        })
    });
    knows_the_last_of_every_symbol.expect("the last of every symbol is known, whatever is told again");
    runtime.block_on(a_late_tick_replaces_no_newer_one(&*open()));
    runtime.block_on(keeps_so_many_ticks_and_no_more(&*open()));
    runtime.block_on(keeps_the_newest_bars_as_last_revised(&*open()));
    runtime.block_on(knows_nothing_of_others(&*open()));
}

/// A day is told, and then the day before it, with more ticks than are kept.
async fn a_late_tick_replaces_no_newer_one(hot: &dyn Hot) {
    let newer = ticks(&[(0, Step::Trade(1)), (0, Step::Trade(2)), (0, Step::Quote(4)), (0, Step::Trade(5))]);
    let older: Vec<_> = (0..2 * RECENT_TICKS as u16)
        .map(|price| (0, if price % 2 == 0 { Step::Trade(10 + price) } else { Step::Quote(10 + price) }))
        .collect();
    let mut told = newer.clone();
    for (at, (mut seq, mut tick)) in ticks(&older).into_iter().enumerate() {
        seq.offset += 10;
        match &mut tick {
            Tick::Trade(trade) => {
                (trade.ts, trade.id) =
                    (trade.ts.saturating_add_nanos(-86_400_000_000_000), 1_000 + at as u64);
            }
            Tick::Quote(quote) => quote.ts = quote.ts.saturating_add_nanos(-86_400_000_000_000),
            _ => {}
        }
        told.push((seq, tick));
    }
    tell(hot, &told).await;
    is_as_told(hot, &told).await.expect("the newer day's trade and quote");
    let (last, before) = (&newer[3].1, &newer[1].1);
    let latest =
        |entries: Vec<Option<HotEntry>>| entries[0].as_ref().and_then(|entry| entry.trade).map(Tick::Trade);
    assert_eq!(latest(hot.get(&symbols()).await.expect("an answer")).as_ref(), Some(last));
    let Tick::Trade(Trade { symbol, ts, recv_ts, id, price, size, exchange, tape, .. }) = *last else {
        return;
    };
    let cancel = Cancel { symbol, ts, recv_ts, id, price, size, exchange, action: b'C', tape };
    let place = Seq { offset: 1_000, ..told[0].0 };
    tell(hot, &[(place, Tick::Cancel(Box::new(cancel)))]).await;
    assert_eq!(latest(hot.get(&symbols()).await.expect("an answer")).as_ref(), Some(before));
}

async fn keeps_so_many_ticks_and_no_more(hot: &dyn Hot) {
    let steps: Vec<_> = (0..3 * RECENT_TICKS as u16).map(|price| (0, Step::Trade(price + 1))).collect();
    let ticks = ticks(&steps);
    tell(hot, &ticks).await;
    is_as_told(hot, &ticks).await.expect("as told");
    assert_eq!(hot.recent(symbols()[0]).await.expect("an answer").len(), RECENT_TICKS);
}

async fn keeps_the_newest_bars_as_last_revised(hot: &dyn Hot) {
    let symbol = symbols()[0];
    let partition = symbol.partition(PARTITIONS);
    let minute = START.floor_minute();
    let unpriced = |minutes: i64, timeframe, volume| Bar {
        volume,
        ..Bar::empty(symbol, timeframe, minute.saturating_add_nanos(minutes * 60_000_000_000))
    };
    let bar = |minutes, timeframe, volume| {
        let bar = unpriced(minutes, timeframe, volume);
        Bar { open_ts: bar.ts, close_ts: bar.ts, ..bar }
    };
    let day = 24 * 60;
    let told = [
        (1, bar(0, Timeframe::MINUTE, 1)),
        (1, bar(-day, Timeframe::Day, 10)),
        (2, bar(0, Timeframe::MINUTE, 2)),
        (2, bar(0, Timeframe::Day, 20)),
        // Of an older minute, and an older revision: neither is the newest.
        (3, bar(-1, Timeframe::MINUTE, 9)),
        (1, bar(0, Timeframe::MINUTE, 8)),
        // The day before is corrected late.
        (4, bar(-day, Timeframe::Day, 11)),
        // Odd lots alone set no price, and are the last bar of nobody.
        (5, unpriced(1, Timeframe::MINUTE, 7)),
        (5, unpriced(day, Timeframe::Day, 7)),
    ];
    let bars = told.map(|(offset, bar)| (Seq { partition, offset, index: 0 }, bar)).to_vec();
    hot.apply(partition, &HotUpdates { bars, ..HotUpdates::default() }).await.expect("applied");
    let entry = hot.get(&[symbol]).await.expect("an answer").remove(0).expect("known");
    let volumes =
        [entry.minute_bar, entry.daily_bar, entry.prev_daily_bar].map(|bar| bar.map(|bar| bar.volume));
    assert_eq!(volumes, [Some(2), Some(20), Some(11)]);
}

async fn knows_nothing_of_others(hot: &dyn Hot) {
    let stranger: Symbol = "ZZZ".parse().expect("a symbol");
    assert_eq!(hot.get(&[stranger]).await.expect("an answer"), [None]);
    assert!(hot.recent(stranger).await.expect("an answer").is_empty());
    assert!(hot.symbols().await.expect("an answer").is_empty());
    assert!(hot.get(&[]).await.expect("an answer").is_empty());
}
