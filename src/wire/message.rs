//! The messages of the stream, laid out once for every encoding that names its fields.
//!
//! Alpaca's real-time market data messages: `t` trade, `q` quote, `b` `u` `d` bars, `s` status,
//! `c` correction, `x` cancel. `gap` and `pc` (previous close) are this program's own.

use std::borrow::Cow;

use crate::market::{
    Bar, Cancel, Conditions, Correction, Exchange, Gap, GapKind, PrevClose, Price, Quote, Status, Symbol,
    Tape, Tick, Timeframe, Timestamp, Trade, TradeTerms,
};

/// Which stream of bars a bar belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BarChannel {
    /// `b`: a minute, right after it has ended.
    Minute,
    /// `u`: a minute that late trades have changed.
    Updated,
    /// `d`: the day so far.
    Daily,
}

impl BarChannel {
    /// The message's `T`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Minute => "b",
            Self::Updated => "u",
            Self::Daily => "d",
        }
    }
}

/// One message of a stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// What a feed said.
    Tick(Tick),
    /// A bar. `open_ts` and `close_ts` are not on the wire: both are the bar's start. `notional` is
    /// `vw` × `v`.
    Bar(BarChannel, Bar),
    /// Anything else: answers, errors, and whatever this version does not know.
    Control(serde_json::Value),
}

/// Why bytes are no frame of messages.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not of the encoding.
    #[error("not {encoding}: {reason} at byte {at}")]
    Syntax {
        /// The encoding's name.
        encoding: &'static str,
        /// What was wrong.
        reason: String,
        /// Where.
        at: usize,
    },
    /// A message without a field it must have, or with one that can't be.
    #[error("a \"{message}\" message: `{field}` {reason}")]
    Field {
        /// The message's `T`.
        message: &'static str,
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Takes the fields of one message, in order: an encoding's writer.
pub(super) trait Fields {
    /// Begins a message of `fields` fields.
    fn begin(&mut self, fields: u32);
    /// A text that needs no escaping: a symbol, a fixed word.
    fn word(&mut self, key: &'static str, value: &str);
    /// Any text.
    fn text(&mut self, key: &'static str, value: &str);
    /// A whole number.
    fn count(&mut self, key: &'static str, value: u64);
    /// A price.
    fn price(&mut self, key: &'static str, value: Price);
    /// One-letter codes as a list of texts.
    fn codes(&mut self, key: &'static str, codes: &[u8]);
    /// An instant.
    fn instant(&mut self, key: &'static str, ts: Timestamp);
    /// Ends the message.
    fn end(&mut self);
}

fn code_text(code: &u8) -> &str {
    std::str::from_utf8(std::slice::from_ref(code)).unwrap_or(" ")
}

#[inline]
pub(super) fn write_tick(tick: &Tick, out: &mut impl Fields) {
    match tick {
        Tick::Trade(t) => {
            out.begin(9);
            out.word("T", "t");
            out.word("S", t.symbol.as_str());
            out.count("i", t.id);
            out.text("x", code_text(&t.exchange.code()));
            out.price("p", t.price);
            out.count("s", u64::from(t.size));
            out.codes("c", t.conditions.codes());
            out.instant("t", t.ts);
            out.word("z", code_text(&t.tape.code()));
        }
        Tick::Quote(q) => {
            out.begin(11);
            out.word("T", "q");
            out.word("S", q.symbol.as_str());
            out.text("bx", code_text(&q.bid_exchange.code()));
            out.price("bp", q.bid);
            out.count("bs", u64::from(q.bid_size));
            out.text("ax", code_text(&q.ask_exchange.code()));
            out.price("ap", q.ask);
            out.count("as", u64::from(q.ask_size));
            out.codes("c", q.conditions.codes());
            out.instant("t", q.ts);
            out.word("z", code_text(&q.tape.code()));
        }
        Tick::Status(s) => {
            out.begin(8);
            out.word("T", "s");
            out.word("S", s.symbol.as_str());
            out.text("sc", &s.code);
            out.text("sm", &s.message);
            out.text("rc", &s.reason_code);
            out.text("rm", &s.reason_message);
            out.instant("t", s.ts);
            out.word("z", code_text(&s.tape.code()));
        }
        Tick::Cancel(c) => {
            out.begin(9);
            out.word("T", "x");
            out.word("S", c.symbol.as_str());
            out.count("i", c.id);
            out.text("x", code_text(&c.exchange.code()));
            out.price("p", c.price);
            out.count("s", u64::from(c.size));
            out.text("a", code_text(&c.action));
            out.instant("t", c.ts);
            out.word("z", code_text(&c.tape.code()));
        }
        Tick::Correction(c) => {
            out.begin(13);
            out.word("T", "c");
            out.word("S", c.symbol.as_str());
            out.text("x", code_text(&c.exchange.code()));
            out.count("oi", c.original.id);
            out.price("op", c.original.price);
            out.count("os", u64::from(c.original.size));
            out.codes("oc", c.original.conditions.codes());
            out.count("ci", c.corrected.id);
            out.price("cp", c.corrected.price);
            out.count("cs", u64::from(c.corrected.size));
            out.codes("cc", c.corrected.conditions.codes());
            out.instant("t", c.ts);
            out.word("z", code_text(&c.tape.code()));
        }
        Tick::Gap(g) => {
            out.begin(if g.symbol.is_some() { 7 } else { 6 });
            out.word("T", "gap");
            if let Some(symbol) = &g.symbol {
                out.word("S", symbol.as_str());
            }
            out.word("kind", g.kind.name());
            out.text("source", &g.source);
            out.count("first", g.first);
            out.count("last", g.last);
            out.instant("t", g.ts);
        }
        Tick::PrevClose(p) => {
            out.begin(4);
            out.word("T", "pc");
            out.word("S", p.symbol.as_str());
            out.price("p", p.price);
            out.instant("t", p.ts);
        }
    }
    out.end();
}

#[inline]
pub(super) fn write_bar(channel: BarChannel, bar: &Bar, out: &mut impl Fields) {
    out.begin(10);
    out.word("T", channel.code());
    out.word("S", bar.symbol.as_str());
    out.price("o", bar.open);
    out.price("h", bar.high);
    out.price("l", bar.low);
    out.price("c", bar.close);
    out.count("v", bar.volume);
    out.count("n", bar.trade_count);
    out.price("vw", bar.vwap());
    out.instant("t", bar.ts);
    out.end();
}

/// A decoded value of any encoding.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    /// A number as it stands in a text.
    Digits(&'a str),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Instant(Timestamp),
    List(Vec<Value<'a>>),
    Map(Vec<(Cow<'a, str>, Value<'a>)>),
}

impl Value<'_> {
    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Digits(digits) => {
                digits.parse::<serde_json::Number>().map_or(serde_json::Value::Null, Into::into)
            }
            Self::Unsigned(value) => (*value).into(),
            Self::Signed(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Text(text) => text.as_ref().into(),
            Self::Instant(ts) => ts.to_string().into(),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(fields) => serde_json::Value::Object(
                fields.iter().map(|(k, v)| (k.clone().into_owned(), v.to_json())).collect(),
            ),
        }
    }
}

/// One message's fields, to be read by name.
struct Read<'v, 'a> {
    message: &'static str,
    fields: &'v [(Cow<'a, str>, Value<'a>)],
    recv_ts: Timestamp,
}

impl<'v, 'a> Read<'v, 'a> {
    fn get(&self, field: &str) -> Option<&'v Value<'a>> {
        self.fields
            .iter()
            .find(|(key, _)| key == field)
            .map(|(_, value)| value)
            .filter(|value| **value != Value::Null)
    }

    fn error(&self, field: &'static str, reason: impl ToString) -> WireError {
        WireError::Field { message: self.message, field, reason: reason.to_string() }
    }

    fn missing(&self, field: &'static str) -> WireError {
        self.error(field, "is missing or of the wrong type")
    }

    fn text(&self, field: &'static str) -> Result<&'v str, WireError> {
        match self.get(field) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(self.missing(field)),
        }
    }

    fn text_or_empty(&self, field: &'static str) -> Result<Box<str>, WireError> {
        self.get(field).map_or(Ok("".into()), |_| self.text(field).map(Into::into))
    }

    fn symbol(&self) -> Result<Symbol, WireError> {
        self.text("S")?.parse().map_err(|error| self.error("S", error))
    }

    fn count(&self, field: &'static str) -> Result<u64, WireError> {
        let count = match self.get(field) {
            Some(Value::Unsigned(count)) => Some(*count),
            Some(Value::Digits(digits)) => digits.parse().ok(),
            _ => None,
        };
        count.ok_or_else(|| self.missing(field))
    }

    fn size(&self, field: &'static str) -> Result<u32, WireError> {
        u32::try_from(self.count(field)?).map_err(|_| self.error(field, "is more than a size can be"))
    }

    fn price(&self, field: &'static str) -> Result<Price, WireError> {
        match self.get(field) {
            Some(Value::Digits(digits)) => digits.parse().map_err(|error| self.error(field, error)),
            Some(Value::Float(value)) => {
                Price::from_f64(*value).ok_or_else(|| self.error(field, "is out of range"))
            }
            Some(Value::Unsigned(value)) => {
                value.to_string().parse().map_err(|error| self.error(field, error))
            }
            _ => Err(self.missing(field)),
        }
    }

    fn instant(&self, field: &'static str) -> Result<Timestamp, WireError> {
        match self.get(field) {
            Some(Value::Instant(ts)) => Ok(*ts),
            Some(Value::Text(text)) => text.parse().map_err(|error| self.error(field, error)),
            _ => Err(self.missing(field)),
        }
    }

    fn letter(&self, field: &'static str) -> Result<u8, WireError> {
        match self.text(field)?.as_bytes() {
            [letter] => Ok(*letter),
            _ => Err(self.error(field, "is not one letter")),
        }
    }

    /// An exchange; Alpaca leaves it empty where a side of a quote has none.
    fn exchange(&self, field: &'static str) -> Result<Exchange, WireError> {
        match self.get(field) {
            None => Ok(Exchange::NONE),
            Some(Value::Text(text)) if text.is_empty() => Ok(Exchange::NONE),
            _ => Exchange::from_code(self.letter(field)?).map_err(|error| self.error(field, error)),
        }
    }

    /// A tape; left out by some of Alpaca's messages, and then the default.
    fn tape(&self) -> Result<Tape, WireError> {
        match self.get("z") {
            None => Ok(Tape::default()),
            Some(_) => Tape::from_code(self.letter("z")?).map_err(|error| self.error("z", error)),
        }
    }

    fn conditions(&self, field: &'static str) -> Result<Conditions, WireError> {
        let items = match self.get(field) {
            None => return Ok(Conditions::NONE),
            Some(Value::List(items)) => items,
            Some(_) => return Err(self.missing(field)),
        };
        let mut codes = Vec::with_capacity(Conditions::LEN_MAX);
        for item in items {
            match item {
                Value::Text(text) => codes.extend_from_slice(text.as_bytes()),
                _ => return Err(self.missing(field)),
            }
        }
        Conditions::from_codes(&codes).map_err(|error| self.error(field, error))
    }

    fn terms(
        &self,
        id: &'static str,
        price: &'static str,
        size: &'static str,
        conditions: &'static str,
    ) -> Result<TradeTerms, WireError> {
        Ok(TradeTerms {
            id: self.count(id)?,
            price: self.price(price)?,
            size: self.size(size)?,
            conditions: self.conditions(conditions)?,
        })
    }

    fn tick(&self) -> Result<Tick, WireError> {
        let (ts, recv_ts) = (self.instant("t")?, self.recv_ts);
        if self.message == "gap" {
            let kind = self.text("kind")?;
            let kinds = [GapKind::Missed, GapKind::Reset, GapKind::Disconnect];
            return Ok(Tick::Gap(Box::new(Gap {
                symbol: self.get("S").map(|_| self.symbol()).transpose()?,
                ts,
                recv_ts,
                kind: kinds
                    .into_iter()
                    .find(|known| known.name() == kind)
                    .ok_or_else(|| self.missing("kind"))?,
                source: self.text("source")?.into(),
                first: self.count("first")?,
                last: self.count("last")?,
            })));
        }
        let symbol = self.symbol()?;
        Ok(match self.message {
            "t" => Tick::Trade(Trade {
                symbol,
                ts,
                recv_ts,
                price: self.price("p")?,
                size: self.size("s")?,
                exchange: self.exchange("x")?,
                conditions: self.conditions("c")?,
                id: self.count("i")?,
                tape: self.tape()?,
            }),
            "q" => Tick::Quote(Quote {
                symbol,
                ts,
                recv_ts,
                bid: self.price("bp")?,
                ask: self.price("ap")?,
                bid_size: self.size("bs")?,
                ask_size: self.size("as")?,
                bid_exchange: self.exchange("bx")?,
                ask_exchange: self.exchange("ax")?,
                conditions: self.conditions("c")?,
                tape: self.tape()?,
            }),
            "s" => Tick::Status(Box::new(Status {
                symbol,
                ts,
                recv_ts,
                code: self.text("sc")?.into(),
                message: self.text_or_empty("sm")?,
                reason_code: self.text_or_empty("rc")?,
                reason_message: self.text_or_empty("rm")?,
                tape: self.tape()?,
            })),
            "x" => Tick::Cancel(Box::new(Cancel {
                symbol,
                ts,
                recv_ts,
                id: self.count("i")?,
                price: self.price("p")?,
                size: self.size("s")?,
                exchange: self.exchange("x")?,
                action: self.letter("a")?,
                tape: self.tape()?,
            })),
            "c" => Tick::Correction(Box::new(Correction {
                symbol,
                ts,
                recv_ts,
                exchange: self.exchange("x")?,
                original: self.terms("oi", "op", "os", "oc")?,
                corrected: self.terms("ci", "cp", "cs", "cc")?,
                tape: self.tape()?,
            })),
            _ => Tick::PrevClose(PrevClose { symbol, ts, recv_ts, price: self.price("p")? }),
        })
    }

    fn bar(&self, timeframe: Timeframe) -> Result<Bar, WireError> {
        let (ts, volume, vwap) = (self.instant("t")?, self.count("v")?, self.price("vw")?);
        Ok(Bar {
            symbol: self.symbol()?,
            ts,
            timeframe,
            open: self.price("o")?,
            high: self.price("h")?,
            low: self.price("l")?,
            close: self.price("c")?,
            volume,
            trade_count: self.count("n")?,
            notional: i128::from(vwap.nanos()) * i128::from(volume),
            open_ts: ts,
            close_ts: ts,
        })
    }
}

/// The message that `value` is.
pub(super) fn read_message(value: &Value<'_>, recv_ts: Timestamp) -> Result<Message, WireError> {
    let Value::Map(fields) = value else { return Ok(Message::Control(value.to_json())) };
    let kind = fields.iter().find_map(|(key, value)| match value {
        Value::Text(text) if key == "T" => Some(text.as_ref()),
        _ => None,
    });
    let read = |message| Read { message, fields, recv_ts };
    let tick = |message| read(message).tick().map(Message::Tick);
    match kind {
        Some("t") => tick("t"),
        Some("q") => tick("q"),
        Some("s") => tick("s"),
        Some("x") => tick("x"),
        Some("c") => tick("c"),
        Some("pc") => tick("pc"),
        // What the server itself left out for this client has no source.
        Some("gap") if fields.iter().any(|(key, _)| key == "source") => tick("gap"),
        Some("b") => Ok(Message::Bar(BarChannel::Minute, read("b").bar(Timeframe::MINUTE)?)),
        Some("u") => Ok(Message::Bar(BarChannel::Updated, read("u").bar(Timeframe::MINUTE)?)),
        Some("d") => Ok(Message::Bar(BarChannel::Daily, read("d").bar(Timeframe::Day)?)),
        _ => Ok(Message::Control(value.to_json())),
    }
}
