//! Names and values of the keys: `docs/redis.md` is their contract with other programs.
//!
//! A value is the stream's JSON message with what makes it exact added at its end: a tick's time of
//! receipt and place, a bar's sums and times. Prices are exact decimals, so that what is read back
//! is what was written.

use std::borrow::Cow;

use serde::Deserialize;

use super::super::memory::{Change, Parts, Version};
use crate::market::{Bar, Seq, Symbol, Tick, Timeframe};
use crate::tiering::hot::HotEntry;
use crate::wire::{BarChannel, Message, json};

/// The fields of a symbol's hash, in the order in which they are asked for.
pub(super) const FIELDS: [&str; 9] = [
    "seq",
    "bars_seq",
    "trade",
    "quote",
    "minute_bar",
    "daily_bar",
    "prev_daily_bar",
    "prev_close",
    "status",
];

/// The names of the keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) prefix: String,
}

impl Keys {
    /// The set of all symbols.
    pub(super) fn symbols(&self) -> String {
        format!("{}symbols", self.prefix)
    }

    /// A symbol's hash. The braces make Redis Cluster keep both keys of a symbol together.
    pub(super) fn hot(&self, symbol: Symbol) -> String {
        format!("{}hot:{{{symbol}}}", self.prefix)
    }

    /// The list of a symbol's last ticks.
    pub(super) fn ticks(&self, symbol: Symbol) -> String {
        format!("{}ticks:{{{symbol}}}", self.prefix)
    }

    /// How far a partition has come.
    pub(super) fn mark(&self, partition: u16) -> String {
        format!("{}mark:{partition}", self.prefix)
    }
}

/// A place as text; empty where there is none.
pub(super) fn place(seq: Option<Seq>) -> String {
    seq.map(|seq| seq.to_string()).unwrap_or_default()
}

/// The place that `text` is; `None` for an empty text.
pub(super) fn read_place(text: &str) -> Result<Option<Seq>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut parts = text.split(':');
    let mut next = || parts.next().filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    let (partition, offset, index) = (next(), next(), next());
    let seq = || {
        let (partition, offset, index) =
            (partition?.parse().ok()?, offset?.parse().ok()?, index?.parse().ok()?);
        Some(Seq { partition, offset, index })
    };
    let whole = seq().filter(|_| parts.next().is_none());
    whole.map(Some).ok_or_else(|| format!("\"{}\" is no place in the log", shown(text)))
}

/// A tick's message, its receipt and its place.
pub(super) fn tick(seq: Seq, tick: &Tick) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    json::encode_tick(tick, &mut out);
    let recv_ts = tick.recv_ts();
    add(&mut out, &format_args!(r#","recv":"{recv_ts}","seq":"{seq}""#));
    out
}

/// A bar's message, its place, its sum of price × shares in units of 1e-9, and the times of its
/// first and last trade.
pub(super) fn bar(seq: Seq, bar: &Bar) -> Vec<u8> {
    let channel = if bar.timeframe == Timeframe::Day { BarChannel::Daily } else { BarChannel::Minute };
    let mut out = Vec::with_capacity(384);
    json::encode_bar(channel, bar, &mut out);
    let Bar { notional, open_ts, close_ts, .. } = bar;
    add(
        &mut out,
        &format_args!(
            r#","notional":"{notional}","open_t":"{open_ts}","close_t":"{close_ts}","seq":"{seq}""#
        ),
    );
    out
}

/// Adds members to the object that ends `out`.
fn add(out: &mut Vec<u8>, members: &dyn std::fmt::Display) {
    use std::io::Write;
    out.pop();
    write!(out, "{members}}}").expect("writing to memory does not fail");
}

/// What a message has beside the stream's own fields.
#[derive(Deserialize)]
struct Added<'a> {
    #[serde(borrow)]
    seq: Cow<'a, str>,
    #[serde(borrow)]
    recv: Option<Cow<'a, str>>,
    #[serde(borrow)]
    notional: Option<Cow<'a, str>>,
    #[serde(borrow)]
    open_t: Option<Cow<'a, str>>,
    #[serde(borrow)]
    close_t: Option<Cow<'a, str>>,
}

impl<'a> Added<'a> {
    fn read(bytes: &'a [u8]) -> Result<(Self, Seq), String> {
        let added: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let seq = read_place(&added.seq)?.ok_or("it has no place")?;
        Ok((added, seq))
    }
}

fn member<T: std::str::FromStr>(name: &str, text: Option<&str>) -> Result<T, String> {
    let text = text.ok_or_else(|| format!("`{name}` is missing"))?;
    text.parse().map_err(|_| format!("`{name}` can't be \"{}\"", shown(text)))
}

/// What [`tick`] wrote.
pub(super) fn read_tick(bytes: &[u8]) -> Result<(Seq, Tick), String> {
    let (added, seq) = Added::read(bytes)?;
    let recv_ts = member("recv", added.recv.as_deref())?;
    match only(json::decode(bytes, recv_ts).map_err(|error| error.to_string())?) {
        Some(Message::Tick(tick)) => Ok((seq, tick)),
        _ => Err("it is no tick".to_owned()),
    }
}

/// What [`bar`] wrote.
pub(super) fn read_bar(bytes: &[u8]) -> Result<(Seq, Bar), String> {
    let (added, seq) = Added::read(bytes)?;
    let open_ts = member("open_t", added.open_t.as_deref())?;
    let close_ts = member("close_t", added.close_t.as_deref())?;
    let notional = member("notional", added.notional.as_deref())?;
    match only(json::decode(bytes, open_ts).map_err(|error| error.to_string())?) {
        Some(Message::Bar(_, bar)) => Ok((seq, Bar { notional, open_ts, close_ts, ..bar })),
        _ => Err("it is no bar".to_owned()),
    }
}

fn only(messages: Vec<Message>) -> Option<Message> {
    let mut messages = messages.into_iter();
    messages.next().filter(|_| messages.next().is_none())
}

fn shown(text: &str) -> String {
    text.chars().take(48).collect::<String>().escape_debug().to_string()
}

/// The fields of a symbol's hash that a change touches; an empty value takes the field away.
pub(super) fn fields(change: &Change) -> Vec<(&'static str, Vec<u8>)> {
    let told = |placed: Option<(Seq, Tick)>| placed.map(|(seq, told)| tick(seq, &told)).unwrap_or_default();
    let barred = |placed: Option<(Seq, Bar)>| placed.map(|(seq, held)| bar(seq, &held)).unwrap_or_default();
    let mut fields = vec![
        ("seq", place(change.version.seq).into_bytes()),
        ("bars_seq", place(change.version.bars).into_bytes()),
    ];
    if change.parts.has(Parts::TRADE) {
        fields.push(("trade", told(change.trade.map(|(seq, trade)| (seq, Tick::Trade(trade))))));
    }
    if change.parts.has(Parts::QUOTE) {
        fields.push(("quote", told(change.quote.map(|(seq, quote)| (seq, Tick::Quote(quote))))));
    }
    if change.parts.has(Parts::BARS) {
        fields.push(("minute_bar", barred(change.minute_bar)));
        fields.push(("daily_bar", barred(change.daily_bar)));
        fields.push(("prev_daily_bar", barred(change.prev_daily_bar)));
    }
    if change.parts.has(Parts::REST) {
        fields
            .push(("prev_close", told(change.prev_close.map(|(seq, close)| (seq, Tick::PrevClose(close))))));
        let status =
            change.status.as_ref().map(|(seq, status)| (*seq, Tick::Status(Box::new(status.clone()))));
        fields.push(("status", told(status)));
    }
    fields
}

/// A symbol's hash as read.
#[derive(Debug, Default)]
pub(super) struct Stored {
    pub(super) version: Version,
    pub(super) entry: HotEntry,
    /// The last trade, quote, previous close and status, with their places.
    pub(super) ticks: Vec<(Seq, Tick)>,
    /// The bars, with their places.
    pub(super) bars: Vec<(Seq, Bar)>,
}

/// The values of [`FIELDS`]; `None` when there are none.
pub(super) fn read_fields(values: &[Option<Vec<u8>>]) -> Result<Option<Stored>, String> {
    if values.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut stored = Stored::default();
    for (&field, value) in FIELDS.iter().zip(values) {
        let Some(value) = value else { continue };
        let named = |reason: String| format!("field `{field}`: {reason}");
        match field {
            "seq" | "bars_seq" => {
                let text = std::str::from_utf8(value).map_err(|_| named("it is no text".to_owned()))?;
                let seq = read_place(text).map_err(named)?;
                if field == "seq" {
                    (stored.version.seq, stored.entry.seq) = (seq, seq.unwrap_or_default());
                } else {
                    stored.version.bars = seq;
                }
            }
            "minute_bar" | "daily_bar" | "prev_daily_bar" => {
                let (seq, bar) = read_bar(value).map_err(named)?;
                let entry = &mut stored.entry;
                match field {
                    "minute_bar" => entry.minute_bar = Some(bar),
                    "daily_bar" => entry.daily_bar = Some(bar),
                    _ => entry.prev_daily_bar = Some(bar),
                }
                stored.bars.push((seq, bar));
            }
            _ => {
                let (seq, tick) = read_tick(value).map_err(named)?;
                match &tick {
                    Tick::Trade(trade) => stored.entry.trade = Some(*trade),
                    Tick::Quote(quote) => stored.entry.quote = Some(*quote),
                    Tick::PrevClose(close) => stored.entry.prev_close = Some(*close),
                    Tick::Status(status) => stored.entry.status = Some((**status).clone()),
                    _ => return Err(named("it is of another kind".to_owned())),
                }
                stored.ticks.push((seq, tick));
            }
        }
    }
    Ok(Some(stored))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::market::{Timestamp, arbitrary};

    proptest! {
        #[test]
        fn any_tick_comes_back_exactly(told in arbitrary::tick(), partition: u16, offset: u64, index: u32) {
            let seq = Seq { partition, offset, index };
            prop_assert_eq!(read_tick(&tick(seq, &told)), Ok((seq, told)));
        }

        #[test]
        fn any_bar_comes_back_exactly(held in arbitrary::bar(), offset: u64, has_price: bool) {
            let seq = Seq { partition: 3, offset, index: u32::MAX };
            let mut held = Bar { timeframe: held.timeframe.stored(), ..held };
            if !has_price {
                (held.open_ts, held.close_ts) = (Timestamp::MAX, Timestamp::MIN);
            }
            prop_assert_eq!(read_bar(&bar(seq, &held)), Ok((seq, held)));
        }

        #[test]
        fn whatever_another_program_writes_is_an_error_at_most(bytes: Vec<u8>, text in "\\PC{0,60}") {
            let _ = (read_tick(&bytes), read_bar(&bytes), read_place(&text), read_tick(text.as_bytes()));
        }
    }

    #[test]
    fn a_place_is_three_numbers() {
        let seq = Seq { partition: 1, offset: 20, index: 3 };
        assert_eq!(read_place("1:20:3"), Ok(Some(seq)));
        assert_eq!(read_place(""), Ok(None));
        for bad in ["1:20", "1:20:3:4", "+1:20:3", "1:20:", "70000:1:1", "a:b:c", ":::"] {
            assert!(read_place(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_added_member_does_not_hide_a_messages_own() {
        // The keys are part of the contract in docs/redis.md.
        let close = crate::market::PrevClose {
            symbol: "AAPL".parse().unwrap(),
            ts: Timestamp::from_nanos(1_741_358_000_000_000_000),
            recv_ts: Timestamp::from_nanos(1_741_358_000_000_000_001),
            price: "190.45".parse().unwrap(),
        };
        let seq = Seq { partition: 0, offset: 7, index: 2 };
        let text = String::from_utf8(tick(seq, &Tick::PrevClose(close))).unwrap();
        assert_eq!(
            text,
            r#"{"T":"pc","S":"AAPL","p":190.45,"t":"2025-03-07T14:33:20Z","recv":"2025-03-07T14:33:20.000000001Z","seq":"0:7:2"}"#
        );
    }
}
