//! The feed `test`: one symbol, FAKEPACA, that always ticks, whatever the market does.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::memory_bus::MemoryBus;
use crate::market::{Conditions, Exchange, Price, Quote, Symbol, Tape, Tick, Timestamp, Trade};
use crate::wire::record::{Origin, RecordEncoder};

/// How often it ticks.
const PERIOD: Duration = Duration::from_millis(500);
/// Records of it that are kept: over an hour.
pub(super) const RECORDS_MAX: usize = 8_192;

/// FAKEPACA.
pub(super) fn fakepaca() -> Symbol {
    static SYMBOL: LazyLock<Symbol> =
        LazyLock::new(|| "FAKEPACA".parse().expect("FAKEPACA is made of a symbol's letters"));
    *SYMBOL
}

/// Ticks into `bus` until `stop`.
pub(super) async fn run(bus: Arc<MemoryBus>, stop: CancellationToken) {
    let mut encoder = RecordEncoder::new();
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0_u64.. {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = period.tick() => {}
        }
        for tick in ticks(number, Timestamp::now()) {
            encoder.push(&tick);
        }
        let record = encoder.finish(Origin { producer: 0, sequence: number });
        if bus.push(0, record).is_err() {
            return;
        }
    }
}

/// A quote and a trade at it; the price wanders between 120 and 150 in cents.
fn ticks(number: u64, ts: Timestamp) -> [Tick; 2] {
    // A step of a multiplicative generator (Knuth's constant): looks like a walk, needs no state.
    let noise = number.wrapping_mul(6_364_136_223_846_793_005) >> 56;
    let wave = (number % 600).abs_diff(300);
    let cents = 12_000 + (wave * 9 + noise / 2) as i64;
    let price = |cents: i64| Price::from_ten_thousandths(cents * 100).unwrap_or(Price::ZERO);
    let (symbol, exchange, tape) = (fakepaca(), Exchange::IEX, Tape::C);
    let quote = Quote {
        symbol,
        ts,
        recv_ts: ts,
        bid: price(cents - 1),
        ask: price(cents + 1),
        bid_size: 100,
        ask_size: 200,
        bid_exchange: exchange,
        ask_exchange: exchange,
        conditions: Conditions::NONE,
        tape,
    };
    let trade = Trade {
        symbol,
        ts,
        recv_ts: ts,
        price: price(cents),
        size: 100,
        exchange,
        conditions: Conditions::NONE,
        id: number + 1,
        tape,
    };
    [Tick::Quote(quote), Tick::Trade(trade)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_stay_in_their_range() {
        for number in 0..2_000 {
            let [_, Tick::Trade(trade)] = ticks(number, Timestamp::from_nanos(0)) else { panic!() };
            assert!((120.0..150.0).contains(&trade.price.to_f64()), "{}", trade.price);
        }
    }
}
