//! The published schema, `proto/stk/v1/market.proto`: ticks and bars with exact prices and the
//! time of receipt, and the messages of the ingest endpoint.

use super::message::{BarChannel, Message, WireError};
use super::record::StoredNumbers;
use crate::market::{
    self, Conditions, Exchange, GapKind, Kind, Price, Symbol, Tape, Tick, Timeframe, Timestamp, TradeTerms,
};

/// The generated types. `STK_UPDATE=1 cargo test --lib generated` writes them anew.
#[allow(missing_docs, clippy::pedantic)]
#[rustfmt::skip]
pub mod v1 {
    include!("stk.v1.rs");
}

use prost::Message as _;

fn letter(code: u8) -> String {
    char::from(code).to_string()
}

fn terms(terms: &TradeTerms) -> v1::TradeTerms {
    v1::TradeTerms {
        id: terms.id,
        price_nanos: terms.price.nanos(),
        size: terms.size,
        conditions: terms.conditions.as_str().to_owned(),
    }
}

impl From<&Tick> for v1::Tick {
    fn from(tick: &Tick) -> Self {
        let body = match tick {
            Tick::Trade(t) => v1::tick::Body::Trade(v1::Trade {
                price_nanos: t.price.nanos(),
                size: t.size,
                exchange: letter(t.exchange.code()),
                conditions: t.conditions.as_str().to_owned(),
                id: t.id,
                tape: letter(t.tape.code()),
            }),
            Tick::Quote(q) => v1::tick::Body::Quote(v1::Quote {
                bid_nanos: q.bid.nanos(),
                ask_nanos: q.ask.nanos(),
                bid_size: q.bid_size,
                ask_size: q.ask_size,
                bid_exchange: letter(q.bid_exchange.code()),
                ask_exchange: letter(q.ask_exchange.code()),
                conditions: q.conditions.as_str().to_owned(),
                tape: letter(q.tape.code()),
            }),
            Tick::Status(s) => v1::tick::Body::Status(v1::Status {
                code: s.code.to_string(),
                message: s.message.to_string(),
                reason_code: s.reason_code.to_string(),
                reason_message: s.reason_message.to_string(),
                tape: letter(s.tape.code()),
            }),
            Tick::Cancel(c) => v1::tick::Body::Cancel(v1::Cancel {
                id: c.id,
                price_nanos: c.price.nanos(),
                size: c.size,
                exchange: letter(c.exchange.code()),
                action: letter(c.action),
                tape: letter(c.tape.code()),
            }),
            Tick::Correction(c) => v1::tick::Body::Correction(v1::Correction {
                original: Some(terms(&c.original)),
                corrected: Some(terms(&c.corrected)),
                exchange: letter(c.exchange.code()),
                tape: letter(c.tape.code()),
            }),
            Tick::Gap(g) => v1::tick::Body::Gap(v1::Gap {
                kind: match g.kind {
                    GapKind::Missed => v1::GapKind::Missed,
                    GapKind::Reset => v1::GapKind::Reset,
                    GapKind::Disconnect => v1::GapKind::Disconnect,
                } as i32,
                source: g.source.to_string(),
                first: g.first,
                last: g.last,
            }),
            Tick::PrevClose(p) => v1::tick::Body::PrevClose(v1::PrevClose { price_nanos: p.price.nanos() }),
        };
        Self {
            symbol: tick.symbol().map(|symbol| symbol.to_string()).unwrap_or_default(),
            ts: tick.ts().nanos(),
            recv_ts: tick.recv_ts().nanos(),
            body: Some(body),
        }
    }
}

/// Reads values of one kind of tick, naming what is wrong.
struct Read(Kind);

impl Read {
    fn error(&self, field: &'static str, reason: impl ToString) -> WireError {
        WireError::Field { message: self.0.name(), field, reason: reason.to_string() }
    }

    fn price(&self, field: &'static str, nanos: i64) -> Result<Price, WireError> {
        Price::from_nanos(nanos).ok_or_else(|| self.error(field, "is out of range"))
    }

    fn byte(&self, field: &'static str, text: &str) -> Result<u8, WireError> {
        match text.as_bytes() {
            [byte] => Ok(*byte),
            _ => Err(self.error(field, "is not one letter")),
        }
    }

    fn exchange(&self, field: &'static str, text: &str) -> Result<Exchange, WireError> {
        Exchange::from_code(self.byte(field, text)?).map_err(|error| self.error(field, error))
    }

    fn tape(&self, text: &str) -> Result<Tape, WireError> {
        Tape::from_code(self.byte("tape", text)?).map_err(|error| self.error("tape", error))
    }

    fn conditions(&self, text: &str) -> Result<Conditions, WireError> {
        Conditions::from_codes(text.as_bytes()).map_err(|error| self.error("conditions", error))
    }

    fn terms(&self, field: &'static str, terms: Option<&v1::TradeTerms>) -> Result<TradeTerms, WireError> {
        let terms = terms.ok_or_else(|| self.error(field, "is missing"))?;
        Ok(TradeTerms {
            id: terms.id,
            price: self.price(field, terms.price_nanos)?,
            size: terms.size,
            conditions: self.conditions(&terms.conditions)?,
        })
    }
}

impl TryFrom<&v1::Tick> for Tick {
    type Error = WireError;

    fn try_from(tick: &v1::Tick) -> Result<Self, WireError> {
        let recv_ts = Timestamp::from_nanos(tick.recv_ts);
        let wrong = |field, reason| WireError::Field { message: "tick", field, reason };
        let ts = Timestamp::from_nanos(tick.ts).storable();
        let ts = ts.map_err(|error| wrong("ts", error.to_string()))?;
        let body = tick
            .body
            .as_ref()
            .ok_or_else(|| wrong("body", "is missing, or of a kind this version does not know".to_owned()))?;
        let symbol = |read: &Read| tick.symbol.parse::<Symbol>().map_err(|error| read.error("symbol", error));
        Ok(match body {
            v1::tick::Body::Trade(t) => {
                let read = Read(Kind::Trade);
                Self::Trade(market::Trade {
                    symbol: symbol(&read)?,
                    ts,
                    recv_ts,
                    price: read.price("price_nanos", t.price_nanos)?,
                    size: t.size,
                    exchange: read.exchange("exchange", &t.exchange)?,
                    conditions: read.conditions(&t.conditions)?,
                    id: t.id,
                    tape: read.tape(&t.tape)?,
                })
            }
            v1::tick::Body::Quote(q) => {
                let read = Read(Kind::Quote);
                Self::Quote(market::Quote {
                    symbol: symbol(&read)?,
                    ts,
                    recv_ts,
                    bid: read.price("bid_nanos", q.bid_nanos)?,
                    ask: read.price("ask_nanos", q.ask_nanos)?,
                    bid_size: q.bid_size,
                    ask_size: q.ask_size,
                    bid_exchange: read.exchange("bid_exchange", &q.bid_exchange)?,
                    ask_exchange: read.exchange("ask_exchange", &q.ask_exchange)?,
                    conditions: read.conditions(&q.conditions)?,
                    tape: read.tape(&q.tape)?,
                })
            }
            v1::tick::Body::Status(s) => {
                let read = Read(Kind::Status);
                Self::Status(Box::new(market::Status {
                    symbol: symbol(&read)?,
                    ts,
                    recv_ts,
                    code: s.code.as_str().into(),
                    message: s.message.as_str().into(),
                    reason_code: s.reason_code.as_str().into(),
                    reason_message: s.reason_message.as_str().into(),
                    tape: read.tape(&s.tape)?,
                }))
            }
            v1::tick::Body::Cancel(c) => {
                let read = Read(Kind::Cancel);
                Self::Cancel(Box::new(market::Cancel {
                    symbol: symbol(&read)?,
                    ts,
                    recv_ts,
                    id: c.id,
                    price: read.price("price_nanos", c.price_nanos)?,
                    size: c.size,
                    exchange: read.exchange("exchange", &c.exchange)?,
                    action: read.byte("action", &c.action)?,
                    tape: read.tape(&c.tape)?,
                }))
            }
            v1::tick::Body::Correction(c) => {
                let read = Read(Kind::Correction);
                Self::Correction(Box::new(market::Correction {
                    symbol: symbol(&read)?,
                    ts,
                    recv_ts,
                    exchange: read.exchange("exchange", &c.exchange)?,
                    original: read.terms("original", c.original.as_ref())?,
                    corrected: read.terms("corrected", c.corrected.as_ref())?,
                    tape: read.tape(&c.tape)?,
                }))
            }
            v1::tick::Body::Gap(g) => {
                let read = Read(Kind::Gap);
                Self::Gap(Box::new(market::Gap {
                    symbol: if tick.symbol.is_empty() { None } else { Some(symbol(&read)?) },
                    ts,
                    recv_ts,
                    kind: match g.kind() {
                        v1::GapKind::Missed => GapKind::Missed,
                        v1::GapKind::Reset => GapKind::Reset,
                        v1::GapKind::Disconnect => GapKind::Disconnect,
                        v1::GapKind::Unspecified => return Err(read.error("kind", "is not known")),
                    },
                    source: g.source.as_str().into(),
                    first: g.first,
                    last: g.last,
                }))
            }
            v1::tick::Body::PrevClose(p) => {
                let read = Read(Kind::PrevClose);
                let price = read.price("price_nanos", p.price_nanos)?;
                Self::PrevClose(market::PrevClose { symbol: symbol(&read)?, ts, recv_ts, price })
            }
        })
    }
}

/// Appends `tick` as a frame of one message; frames join by their bytes.
pub fn encode_tick(tick: &Tick, out: &mut Vec<u8>) {
    encode_message(v1::message::Body::Tick(tick.into()), out);
}

/// Appends `bar` as a frame of one message of `channel`.
pub fn encode_bar(channel: BarChannel, bar: &market::Bar, out: &mut Vec<u8>) {
    let channel = match channel {
        BarChannel::Minute => v1::BarChannel::Minute,
        BarChannel::Updated => v1::BarChannel::Updated,
        BarChannel::Daily => v1::BarChannel::Daily,
    };
    let bar = v1::Bar {
        channel: channel as i32,
        symbol: bar.symbol.to_string(),
        ts: bar.ts.nanos(),
        open_nanos: bar.open.nanos(),
        high_nanos: bar.high.nanos(),
        low_nanos: bar.low.nanos(),
        close_nanos: bar.close.nanos(),
        volume: bar.volume,
        trade_count: bar.trade_count,
        vwap_nanos: bar.vwap().nanos(),
    };
    encode_message(v1::message::Body::Bar(bar), out);
}

fn encode_message(body: v1::message::Body, out: &mut Vec<u8>) {
    let frame = v1::Frame { messages: vec![v1::Message { body: Some(body) }] };
    frame.encode(out).expect("writing to memory does not fail");
}

/// Appends a frame of messages that are encoded already.
pub fn join<'m>(messages: impl ExactSizeIterator<Item = &'m [u8]>, out: &mut Vec<u8>) {
    messages.for_each(|message| out.extend_from_slice(message));
}

/// Reads a frame. The time of receipt is the one on the wire.
pub fn decode(bytes: &[u8]) -> Result<Vec<Message>, WireError> {
    let syntax = |reason: String| WireError::Syntax { encoding: "Protocol Buffers", reason, at: 0 };
    let frame = v1::Frame::decode(bytes).map_err(|error| syntax(error.to_string()))?;
    frame.messages.iter().map(read_message).collect()
}

fn read_message(message: &v1::Message) -> Result<Message, WireError> {
    match &message.body {
        Some(v1::message::Body::Tick(tick)) => Tick::try_from(tick).map(Message::Tick),
        Some(v1::message::Body::Bar(bar)) => read_bar(bar),
        Some(v1::message::Body::ControlJson(text)) => {
            serde_json::from_str(text).map(Message::Control).map_err(|error| WireError::Syntax {
                encoding: "JSON",
                reason: error.to_string(),
                at: error.column(),
            })
        }
        None => Ok(Message::Control(serde_json::Value::Null)),
    }
}

fn read_bar(bar: &v1::Bar) -> Result<Message, WireError> {
    let read = Read(Kind::Bar);
    let (channel, timeframe) = match bar.channel() {
        v1::BarChannel::Minute => (BarChannel::Minute, Timeframe::MINUTE),
        v1::BarChannel::Updated => (BarChannel::Updated, Timeframe::MINUTE),
        v1::BarChannel::Daily => (BarChannel::Daily, Timeframe::Day),
        v1::BarChannel::Unspecified => return Err(read.error("channel", "is not known")),
    };
    let ts = Timestamp::from_nanos(bar.ts);
    let vwap = read.price("vwap_nanos", bar.vwap_nanos)?;
    let bar = market::Bar {
        symbol: bar.symbol.parse().map_err(|error| read.error("symbol", error))?,
        ts,
        timeframe,
        open: read.price("open_nanos", bar.open_nanos)?,
        high: read.price("high_nanos", bar.high_nanos)?,
        low: read.price("low_nanos", bar.low_nanos)?,
        close: read.price("close_nanos", bar.close_nanos)?,
        volume: bar.volume,
        trade_count: bar.trade_count,
        notional: i128::from(vwap.nanos()) * i128::from(bar.volume),
        open_ts: ts,
        close_ts: ts,
    };
    Ok(Message::Bar(channel, bar))
}

impl From<StoredNumbers> for v1::StoredNumbers {
    fn from(stored: StoredNumbers) -> Self {
        let StoredNumbers { first, last, is_retired } = stored;
        Self {
            first: first.map(|(first, _)| first),
            first_checksum: first.map_or(0, |(_, checksum)| checksum),
            last: last.into_iter().map(|last| last.map_or(0, |last| last.saturating_add(1))).collect(),
            is_retired,
        }
    }
}

impl From<v1::StoredNumbers> for StoredNumbers {
    fn from(stored: v1::StoredNumbers) -> Self {
        let v1::StoredNumbers { first, first_checksum, last, is_retired } = stored;
        Self {
            first: first.map(|first| (first, first_checksum)),
            last: last.into_iter().map(|last| last.checked_sub(1)).collect(),
            is_retired,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use prost_build::Config;

    #[test]
    fn generated_code_is_current() {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR"));
        let schema = protox::compile(["stk/v1/market.proto"], [repo.join("proto")]).unwrap();
        let out = tempfile::tempdir().unwrap();
        Config::new().out_dir(out.path()).compile_fds(schema).unwrap();
        let generated = std::fs::read_to_string(out.path().join("stk.v1.rs")).unwrap();
        let committed = repo.join("src/wire/stk.v1.rs");
        if std::env::var_os("STK_UPDATE").is_some() {
            std::fs::write(committed, generated).unwrap();
        } else {
            let current = std::fs::read_to_string(committed).unwrap();
            assert!(current == generated, "run `STK_UPDATE=1 cargo test --lib generated`");
        }
    }
}
