//! What is known of a symbol now, as the stream and REST tell it.

use bytes::Bytes;

use super::protocol::{Encoding, Framing, control_frame};
use crate::market::{Bar, Symbol, Tick};
use crate::tiering::hot::HotEntry;
use crate::wire::{BarChannel, json};

/// A tick as REST gives it: Alpaca's message without its type and symbol.
pub(super) fn bare_tick(tick: &Tick, out: &mut Vec<u8>) {
    bare(out, |out| json::encode_tick(tick, out));
}

/// A bar as REST gives it.
pub(super) fn bare_bar(bar: &Bar, out: &mut Vec<u8>) {
    bare(out, |out| json::encode_bar(BarChannel::Minute, bar, out));
}

/// Every message begins with `{"T":"…","S":"…",`, and neither of the two needs escaping.
fn bare(out: &mut Vec<u8>, encode: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    encode(out);
    let commas = out[start..].iter().enumerate().filter(|(_, byte)| **byte == b',').map(|(at, _)| at);
    if let Some(second) = commas.take(2).nth(1) {
        out.drain(start + 1..=start + second);
    }
}

/// The parts of an entry that REST's snapshot has, as members of an object without its braces.
pub(super) fn members(entry: &HotEntry, out: &mut Vec<u8>) {
    let ticks =
        [("latestTrade", entry.trade.map(Tick::Trade)), ("latestQuote", entry.quote.map(Tick::Quote))];
    let bars = [
        ("minuteBar", entry.minute_bar),
        ("dailyBar", entry.daily_bar),
        ("prevDailyBar", entry.prev_daily_bar),
    ];
    let mut is_first = true;
    let mut key = |name: &str, out: &mut Vec<u8>| {
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        out.extend_from_slice(b"\"");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
    };
    for (name, tick) in ticks {
        if let Some(tick) = tick {
            key(name, out);
            bare_tick(&tick, out);
        }
    }
    for (name, bar) in bars {
        if let Some(bar) = bar.filter(Bar::has_price) {
            key(name, out);
            bare_bar(&bar, out);
        }
    }
}

/// The stream's snapshot message in a frame of its own.
pub(super) fn frame(framing: Framing, symbol: Symbol, entry: &HotEntry) -> Bytes {
    let mut text = format!("{{\"T\":\"snapshot\",\"S\":\"{symbol}\"").into_bytes();
    let mut parts = Vec::new();
    members(entry, &mut parts);
    if !parts.is_empty() {
        text.push(b',');
        text.extend_from_slice(&parts);
    }
    if let Some(close) = entry.prev_close {
        text.extend_from_slice(format!(",\"prevClose\":{}", close.price).as_bytes());
    }
    if let Some(status) = &entry.status {
        text.extend_from_slice(b",\"status\":");
        text.extend_from_slice(serde_json::Value::from(&*status.code).to_string().as_bytes());
    }
    text.push(b'}');
    match framing {
        Framing::WebSocket(Encoding::Json) => {
            let payload = [b"[", &text[..], b"]"].concat();
            super::frame::message(super::frame::Opcode::Text, &payload)
        }
        // Floats and times as text are all that a value can carry here.
        Framing::WebSocket(Encoding::MsgPack) => {
            let value = serde_json::from_slice(&text).unwrap_or_default();
            control_frame(framing, &value, None)
        }
        Framing::Sse => [b"data: [", &text[..], b"]\n\n"].concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bare_tick_is_the_message_without_type_and_symbol(
            trade in crate::market::arbitrary::trade(), quote in crate::market::arbitrary::quote(),
        ) {
            for tick in [Tick::Trade(trade), Tick::Quote(quote)] {
                let (mut whole, mut bare) = (Vec::new(), Vec::new());
                json::encode_tick(&tick, &mut whole);
                bare_tick(&tick, &mut bare);
                let mut whole: serde_json::Value = serde_json::from_slice(&whole).unwrap();
                let fields = whole.as_object_mut().unwrap();
                fields.remove("T");
                fields.remove("S");
                prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&bare).unwrap(), whole);
            }
        }
    }

    #[test]
    fn absent_parts_are_left_out() {
        let frame = frame(Framing::Sse, "AAPL".parse().unwrap(), &HotEntry::default());
        assert_eq!(&frame[..], b"data: [{\"T\":\"snapshot\",\"S\":\"AAPL\"}]\n\n");
    }
}
