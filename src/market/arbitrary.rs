//! Any tick there can be, for property tests of everything that carries ticks.

use proptest::prelude::*;

use super::{
    Bar, Cancel, Conditions, Correction, Exchange, Gap, GapKind, PrevClose, Price, Quote, Status, Symbol,
    Tape, Tick, Timeframe, Timestamp, Trade, TradeTerms,
};

/// A symbol out of a small set, so that ticks share symbols, or any other.
pub(crate) fn symbol() -> impl Strategy<Value = Symbol> {
    prop_oneof![3 => "(AAPL|MSFT|BRK\\.B|A)", 1 => "[A-Z0-9./_+=^#-][A-Z0-9./_+=^#*$%!@~-]{0,15}"]
        .prop_map(|text| text.parse().unwrap())
}

/// An instant from 1990 to 2100.
pub(crate) fn timestamp() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        631_152_000_000_000_000_i64..4_102_444_800_000_000_000,
        1_499_693_400_000_000_000_i64..1_499_693_400_000_000_050
    ]
    .prop_map(Timestamp::from_nanos)
}

/// A price that is not negative, with up to nine decimals.
pub(crate) fn price() -> impl Strategy<Value = Price> {
    prop_oneof![
        (0_i64..100_000_000).prop_map(|units| Price::from_ten_thousandths(units).unwrap()),
        (0_i64..=Price::MAX.nanos()).prop_map(|nanos| Price::from_nanos(nanos).unwrap()),
    ]
}

/// Up to four condition codes.
pub(crate) fn conditions() -> impl Strategy<Value = Conditions> {
    "[@A-Z0-9 ]{0,4}".prop_map(|text| Conditions::from_codes(text.as_bytes()).unwrap())
}

fn exchange() -> impl Strategy<Value = Exchange> {
    (b'A'..=b'Z').prop_map(|code| Exchange::from_code(code).unwrap())
}

fn tape() -> impl Strategy<Value = Tape> {
    prop_oneof![Just(Tape::A), Just(Tape::B), Just(Tape::C), Just(Tape::O)]
}

prop_compose! {
    /// Any trade.
    pub(crate) fn trade()(
        symbol in symbol(), ts in timestamp(), recv_ts in timestamp(), price in price(), size in any::<u32>(),
        exchange in exchange(), conditions in conditions(), id in any::<u64>(), tape in tape(),
    ) -> Trade {
        Trade { symbol, ts, recv_ts, price, size, exchange, conditions, id, tape }
    }
}

prop_compose! {
    /// Any quote.
    pub(crate) fn quote()(
        symbol in symbol(), (ts, recv_ts) in (timestamp(), timestamp()), bid in price(), ask in price(),
        bid_size in any::<u32>(), ask_size in any::<u32>(), bid_exchange in exchange(), ask_exchange in exchange(),
        conditions in conditions(), tape in tape(),
    ) -> Quote {
        Quote { symbol, ts, recv_ts, bid, ask, bid_size, ask_size, bid_exchange, ask_exchange, conditions, tape }
    }
}

prop_compose! {
    fn terms()(id in any::<u64>(), price in price(), size in any::<u32>(), conditions in conditions()) -> TradeTerms {
        TradeTerms { id, price, size, conditions }
    }
}

/// Any tick of any kind.
pub(crate) fn tick() -> impl Strategy<Value = Tick> {
    let text = || "[ -~é\"\\\\]{0,12}".prop_map(String::into_boxed_str);
    let key = || (symbol(), timestamp(), timestamp());
    let kind = prop_oneof![Just(GapKind::Missed), Just(GapKind::Reset), Just(GapKind::Disconnect)];
    prop_oneof![
        4 => trade().prop_map(Tick::Trade),
        4 => quote().prop_map(Tick::Quote),
        1 => (key(), text(), text(), text(), text(), tape()).prop_map(
            |((symbol, ts, recv_ts), code, message, reason_code, reason_message, tape)| {
                Tick::Status(Box::new(Status { symbol, ts, recv_ts, code, message, reason_code, reason_message, tape }))
            }
        ),
        1 => (key(), any::<u64>(), price(), any::<u32>(), exchange(), prop_oneof![Just(b'C'), Just(b'E')], tape())
            .prop_map(|((symbol, ts, recv_ts), id, price, size, exchange, action, tape)| {
                Tick::Cancel(Box::new(Cancel { symbol, ts, recv_ts, id, price, size, exchange, action, tape }))
            }),
        1 => (key(), exchange(), terms(), terms(), tape()).prop_map(
            |((symbol, ts, recv_ts), exchange, original, corrected, tape)| {
                Tick::Correction(Box::new(Correction { symbol, ts, recv_ts, exchange, original, corrected, tape }))
            }
        ),
        1 => (prop::option::of(symbol()), timestamp(), timestamp(), kind, text(), any::<u64>(), any::<u64>()).prop_map(
            |(symbol, ts, recv_ts, kind, source, first, last)| {
                Tick::Gap(Box::new(Gap { symbol, ts, recv_ts, kind, source, first, last }))
            }
        ),
        1 => (key(), price()).prop_map(|((symbol, ts, recv_ts), price)| {
            Tick::PrevClose(PrevClose { symbol, ts, recv_ts, price })
        }),
    ]
}

/// A stored bar (a minute's or a day's) of a few trades.
pub(crate) fn bar() -> impl Strategy<Value = Bar> {
    let timeframe = prop_oneof![Just(Timeframe::MINUTE), Just(Timeframe::Day)];
    (timeframe, prop::collection::vec(trade(), 1..5)).prop_map(|(timeframe, trades)| {
        let mut bar = Bar::empty(trades[0].symbol, timeframe, trades[0].ts);
        for trade in &trades {
            bar.add(trade);
        }
        bar
    })
}
