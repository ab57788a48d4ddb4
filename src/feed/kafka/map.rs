//! From a message's fields to a tick, as the configuration says.
//!
//! ```toml
//! [map]
//! kind = { field = "T", values = { t = "trade", q = "quote" }, other = "skip" }
//! symbol = "S"
//! ts = { field = "t", unit = "ns" }
//! price = "p"
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;

use toml::Value as Toml;

use super::value::{NumberError, Value, whole};
use crate::market::{
    Cancel, Conditions, Exchange, Kind, PrevClose, Price, Quote, Status, Symbol, Tape, Tick, Timestamp, Trade,
};

/// The message's own time, in place of a field's path.
const MESSAGE_TIME: &str = "$timestamp";
/// The message's key, in place of a field's path.
const MESSAGE_KEY: &str = "$key";
/// A kind that is not wanted.
const SKIP: &str = "skip";

/// What a tick of each kind has to have, and may have.
const KINDS: &[(Kind, &[&str], &[&str])] = &[
    (Kind::Trade, &["symbol", "ts", "price", "size"], &["exchange", "conditions", "id", "tape"]),
    (
        Kind::Quote,
        &["symbol", "ts", "bid", "ask"],
        &["bid_size", "ask_size", "exchange", "bid_exchange", "ask_exchange", "conditions", "tape"],
    ),
    (Kind::Status, &["symbol", "ts", "code"], &["message", "reason_code", "reason_message", "tape"]),
    (Kind::Cancel, &["symbol", "ts", "id"], &["price", "size", "exchange", "action", "tape"]),
    (Kind::PrevClose, &["symbol", "ts", "price"], &[]),
];

/// Where a field's value comes from, and what is done to it.
#[derive(Debug)]
struct Field {
    name: &'static str,
    source: Source,
    /// Texts that stand for others.
    values: BTreeMap<String, String>,
    /// For what `values` does not name.
    other: Option<String>,
    /// Digits behind the point of a whole number.
    scale: i32,
    /// Of a time that is a number: 9 for seconds, 0 for nanoseconds.
    unit: Option<i32>,
    /// Whether a binary floating point number is taken, by its shortest print.
    takes_floats: bool,
}

#[derive(Debug)]
enum Source {
    /// A field of the payload, by its place among the paths.
    Slot(usize),
    Fixed(String),
    Key,
    MessageTime,
}

/// What of a message is no payload.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Envelope<'a> {
    /// Its key.
    pub(super) key: Option<&'a [u8]>,
    /// Its time.
    pub(super) ts: Option<Timestamp>,
}

/// The line a message is numbered in, and its number there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbered {
    /// Its number.
    pub(super) sequence: u64,
    /// What is numbered apart: a session, a channel; empty where there is one line only.
    pub(super) line: String,
}

/// A message's fields, made into what the log takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mapped {
    /// A tick, and its number where the source numbers.
    Tick(Tick, Option<Numbered>),
    /// A message of a kind that is not wanted.
    Skipped,
}

/// The mapping, checked.
#[derive(Debug)]
pub(super) struct Mapping {
    fields: Vec<Field>,
    kind: Option<Kind>,
    paths: Vec<String>,
}

impl Mapping {
    /// Reads the table `map`, and `sequence` and `line` of the table `sequence`.
    pub(super) fn new(map: &toml::Table, sequence: Option<(&Toml, Option<&Toml>)>) -> Result<Self, String> {
        let mut mapping = Self { fields: Vec::new(), kind: None, paths: Vec::new() };
        for (name, setting) in map {
            let known = known_fields().find(|known| known == name).ok_or_else(|| {
                let nearest = known_fields()
                    .min_by_key(|known| strsim::damerau_levenshtein(known, name))
                    .unwrap_or("kind");
                format!("`map.{name}` is no field of a tick; did you mean `map.{nearest}`?")
            })?;
            mapping.add(known, &format!("map.{name}"), setting)?;
        }
        if let Some((field, line)) = sequence {
            mapping.add("sequence", "sequence.field", field)?;
            if let Some(line) = line {
                mapping.add("line", "sequence.line", line)?;
            }
        }
        mapping.check()?;
        Ok(mapping)
    }

    /// The paths of the payload's fields, each once.
    pub(super) fn paths(&self) -> &[String] {
        &self.paths
    }

    fn add(&mut self, name: &'static str, shown: &str, setting: &Toml) -> Result<(), String> {
        let mut field = Field {
            name,
            source: Source::Key,
            values: BTreeMap::new(),
            other: None,
            scale: 0,
            unit: None,
            takes_floats: false,
        };
        let wrong = |what: &str| format!("`{shown}`: {what}");
        let mut from_path = |path: &str| match path {
            MESSAGE_KEY => Source::Key,
            MESSAGE_TIME => Source::MessageTime,
            _ => Source::Slot(self.paths.iter().position(|known| known == path).unwrap_or_else(|| {
                self.paths.push(path.to_owned());
                self.paths.len() - 1
            })),
        };
        match setting {
            // The kind is the one field that is more often fixed than not.
            Toml::String(text) if name == "kind" => field.source = Source::Fixed(text.clone()),
            Toml::String(path) => field.source = from_path(path),
            Toml::Table(table) => {
                let mut source = None;
                for (key, value) in table {
                    let text = || value.as_str().ok_or_else(|| wrong(&format!("`{key}` is a text")));
                    match key.as_str() {
                        "field" => source = Some(from_path(text()?)),
                        "value" => source = Some(Source::Fixed(text()?.to_owned())),
                        "other" => field.other = Some(text()?.to_owned()),
                        "values" => {
                            let table =
                                value.as_table().ok_or_else(|| wrong("`values` is a table of texts"))?;
                            for (from, to) in table {
                                let to = to.as_str().ok_or_else(|| wrong("`values` is a table of texts"))?;
                                field.values.insert(from.clone(), to.to_owned());
                            }
                        }
                        "scale" => {
                            let scale = value.as_integer().filter(|scale| (0..=18).contains(scale));
                            field.scale =
                                scale.ok_or_else(|| wrong("`scale` is a number from 0 to 18"))? as i32;
                        }
                        "unit" => field.unit = unit(text()?).map_err(|what| wrong(&what))?,
                        "float" => {
                            field.takes_floats =
                                value.as_bool().ok_or_else(|| wrong("`float` is true or false"))?;
                        }
                        _ => {
                            return Err(wrong(&format!(
                                "there is no setting `{key}`; it takes field, value, values, other, scale, unit, \
                                 float"
                            )));
                        }
                    }
                }
                field.source =
                    source.ok_or_else(|| wrong("it needs `field` (a path) or `value` (a text)"))?;
            }
            _ => return Err(wrong("write the path of a field, or a table with `field` or `value`")),
        }
        if field.unit.is_some() && name != "ts" {
            return Err(wrong("`unit` is for `map.ts` only"));
        }
        self.fields.push(field);
        Ok(())
    }

    /// Whether each kind that may come has what it needs, and nothing is mapped in vain.
    fn check(&mut self) -> Result<(), String> {
        let Some(kind) = self.field("kind") else {
            return Err("`map.kind` is missing: write the kind of all messages, such as \"trade\", or where it stands"
                .to_owned());
        };
        let texts: Vec<&str> = match &kind.source {
            Source::Fixed(text) => vec![text],
            _ if kind.values.is_empty() => KINDS.iter().map(|(kind, ..)| kind.name()).collect(),
            _ => kind.values.values().chain(&kind.other).map(String::as_str).collect(),
        };
        let is_open = kind.values.is_empty() && !matches!(kind.source, Source::Fixed(_));
        let mut fixed = None;
        let mut used = vec!["kind", "sequence", "line"];
        for text in texts.into_iter().filter(|text| *text != SKIP) {
            let of_kind = KINDS.iter().find(|(kind, ..)| kind.name() == text);
            let (kind, needed, possible) = of_kind.ok_or_else(|| {
                let names: Vec<_> = KINDS.iter().map(|(kind, ..)| kind.name()).collect();
                format!("`map.kind` gives \"{text}\"; a kind is one of {}, or skip", names.join(", "))
            })?;
            fixed = Some(*kind);
            used.extend(needed.iter().chain(*possible));
            let missing = needed.iter().find(|name| self.field(name).is_none());
            // Where any kind may come, one that lacks a field is refused when it comes.
            if let Some(missing) = missing.filter(|_| !is_open) {
                return Err(format!("`map.{missing}` is missing: a {text} needs it"));
            }
        }
        if let Some(vain) = self.fields.iter().find(|field| !used.contains(&field.name)) {
            return Err(format!("`map.{}` is part of no kind that `map.kind` gives", vain.name));
        }
        if matches!(self.field("kind"), Some(Field { source: Source::Fixed(_), .. })) {
            self.kind = fixed;
        }
        Ok(())
    }

    fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// The tick that the `values` of a message make, in the order of [`Mapping::paths`].
    ///
    /// Errors: why they make none, with the field and what stood in it.
    pub(super) fn tick(
        &self,
        values: &[Option<Value<'_>>],
        envelope: Envelope<'_>,
        recv_ts: Timestamp,
    ) -> Result<Mapped, String> {
        let row = Row { mapping: self, values, envelope };
        let kind = match self.kind {
            Some(kind) => kind,
            None => match row.need("kind")?.as_ref() {
                SKIP => return Ok(Mapped::Skipped),
                text => {
                    Kind::from_name(text).ok_or_else(|| format!("kind \"{}\" is unknown", shown(text)))?
                }
            },
        };
        let symbol = Symbol::from_bytes(row.need("symbol")?.as_bytes()).map_err(|error| error.to_string())?;
        let ts = row.time()?;
        let tape = row.code("tape", Tape::from_code)?.unwrap_or_default();
        let exchange = |name: &str| row.code(name, Exchange::from_code);
        let tick = match kind {
            Kind::Trade => Tick::Trade(Trade {
                symbol,
                ts,
                recv_ts,
                price: row.price("price")?.ok_or_else(|| absent("price"))?,
                size: row.number("size")?.ok_or_else(|| absent("size"))?,
                exchange: exchange("exchange")?.unwrap_or(Exchange::NONE),
                conditions: row.conditions()?,
                id: row.number("id")?.unwrap_or(0),
                tape,
            }),
            Kind::Quote => {
                let of_both = exchange("exchange")?.unwrap_or(Exchange::NONE);
                Tick::Quote(Quote {
                    symbol,
                    ts,
                    recv_ts,
                    // No price on a side is a quote like any other.
                    bid: row.price("bid")?.unwrap_or(Price::ZERO),
                    ask: row.price("ask")?.unwrap_or(Price::ZERO),
                    bid_size: row.number("bid_size")?.unwrap_or(0),
                    ask_size: row.number("ask_size")?.unwrap_or(0),
                    bid_exchange: exchange("bid_exchange")?.unwrap_or(of_both),
                    ask_exchange: exchange("ask_exchange")?.unwrap_or(of_both),
                    conditions: row.conditions()?,
                    tape,
                })
            }
            Kind::Status => {
                let text = |name: &str| row.text(name).map(|text| text.unwrap_or_default().into());
                Tick::Status(Box::new(Status {
                    symbol,
                    ts,
                    recv_ts,
                    code: row.need("code")?.into(),
                    message: text("message")?,
                    reason_code: text("reason_code")?,
                    reason_message: text("reason_message")?,
                    tape,
                }))
            }
            Kind::Cancel => Tick::Cancel(Box::new(Cancel {
                symbol,
                ts,
                recv_ts,
                id: row.number("id")?.ok_or_else(|| absent("id"))?,
                price: row.price("price")?.unwrap_or(Price::ZERO),
                size: row.number("size")?.unwrap_or(0),
                exchange: exchange("exchange")?.unwrap_or(Exchange::NONE),
                action: row.code("action", Ok::<_, String>)?.unwrap_or(b'C'),
                tape,
            })),
            Kind::PrevClose => Tick::PrevClose(PrevClose {
                symbol,
                ts,
                recv_ts,
                price: row.price("price")?.ok_or_else(|| absent("price"))?,
            }),
            Kind::Correction | Kind::Gap | Kind::Bar => {
                return Err(format!("kind \"{}\" can't be mapped", kind.name()));
            }
        };
        let numbered = match row.number("sequence")? {
            Some(sequence) => {
                Some(Numbered { sequence, line: row.text("line")?.unwrap_or_default().into_owned() })
            }
            None if self.field("sequence").is_some() => return Err(absent("sequence")),
            None => None,
        };
        Ok(Mapped::Tick(tick, numbered))
    }
}

fn known_fields() -> impl Iterator<Item = &'static str> {
    let of_kinds = KINDS.iter().flat_map(|(_, needed, possible)| needed.iter().chain(*possible).copied());
    std::iter::once("kind").chain(of_kinds)
}

/// The power of ten that makes nanoseconds; `None` for RFC 3339.
fn unit(text: &str) -> Result<Option<i32>, String> {
    match text {
        "s" => Ok(Some(9)),
        "ms" => Ok(Some(6)),
        "us" => Ok(Some(3)),
        "ns" => Ok(Some(0)),
        "rfc3339" => Ok(None),
        _ => Err(format!("`unit` is \"{}\"; it is one of s, ms, us, ns, rfc3339", shown(text))),
    }
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect::<String>().escape_debug().to_string()
}

fn absent(name: &str) -> String {
    format!("it has no {name}")
}

/// One message's values, by the mapping's names.
struct Row<'m, 'a> {
    mapping: &'m Mapping,
    values: &'m [Option<Value<'a>>],
    envelope: Envelope<'m>,
}

impl<'m> Row<'m, '_> {
    /// The field and what stands in it; `None` where it is not mapped or absent.
    fn get(&self, name: &str) -> Result<Option<(&'m Field, Cow<'m, Value<'m>>)>, String> {
        let Some(field) = self.mapping.field(name) else { return Ok(None) };
        let text = |text: &'m str| Some(Cow::Owned(Value::Text(text.into())));
        let value = match &field.source {
            Source::Slot(slot) => self.values[*slot].as_ref().map(Cow::Borrowed),
            Source::Fixed(fixed) => text(fixed),
            Source::Key => match self.envelope.key.map(std::str::from_utf8) {
                Some(Ok(key)) => text(key),
                Some(Err(_)) => return Err(format!("{name}: the message's key is no text")),
                None => None,
            },
            Source::MessageTime => self.envelope.ts.map(|ts| Cow::Owned(Value::Instant(ts))),
        };
        let Some(value) = value else { return Ok(None) };
        if field.values.is_empty() {
            return Ok(Some((field, value)));
        }
        let key = match value.as_ref() {
            Value::Text(text) | Value::Decimal(text) => text.as_ref(),
            Value::Bool(true) => "true",
            Value::Bool(false) => "false",
            other => return Err(format!("{name} is {}, which stands for nothing", other.shown())),
        };
        match field.values.get(key).or(field.other.as_ref()) {
            Some(meant) => Ok(Some((field, Cow::Owned(Value::Text(meant.as_str().into()))))),
            None => Err(format!("{name} is {}, which `map.{name}.values` does not name", value.shown())),
        }
    }

    fn text(&self, name: &str) -> Result<Option<Cow<'m, str>>, String> {
        let Some((_, value)) = self.get(name)? else { return Ok(None) };
        match value {
            Cow::Borrowed(Value::Text(text) | Value::Decimal(text)) => Ok(Some(Cow::Borrowed(text.as_ref()))),
            Cow::Owned(Value::Text(text) | Value::Decimal(text)) => Ok(Some(text)),
            other => Err(format!("{name} is {}, not a text", other.shown())),
        }
    }

    fn need(&self, name: &str) -> Result<Cow<'m, str>, String> {
        self.text(name)?.ok_or_else(|| absent(name))
    }

    /// A number × 10^`power`, exactly.
    fn whole(&self, name: &str, power: i32) -> Result<Option<i128>, String> {
        let Some((field, value)) = self.get(name)? else { return Ok(None) };
        let number = match value.as_ref() {
            Value::Text(text) | Value::Decimal(text) => text.trim(),
            Value::Float(text) if field.takes_floats => text,
            Value::Float(text) => {
                return Err(format!(
                    "{name} is {text}, a floating point number, which is not exact: set `float = true` to take \
                     its shortest print"
                ));
            }
            other => return Err(format!("{name} is {}, not a number", other.shown())),
        };
        whole(number, power - field.scale).map(Some).map_err(|error| {
            let what = match error {
                NumberError::NotDecimal => "not a decimal number",
                NumberError::TooPrecise => "which has more decimals than are kept",
                NumberError::OutOfRange => "which is out of range",
            };
            format!("{name} is {}, {what}", value.shown())
        })
    }

    fn price(&self, name: &str) -> Result<Option<Price>, String> {
        let Some(nanos) = self.whole(name, 9)? else { return Ok(None) };
        let price = i64::try_from(nanos).ok().and_then(Price::from_nanos);
        price.map(Some).ok_or_else(|| format!("{name} is out of range (±{})", Price::MAX))
    }

    fn number<N: TryFrom<i128>>(&self, name: &str) -> Result<Option<N>, String> {
        let Some(number) = self.whole(name, 0)? else { return Ok(None) };
        N::try_from(number).map(Some).map_err(|_| format!("{name} is {number}, which is out of range"))
    }

    fn time(&self) -> Result<Timestamp, String> {
        self.any_time()?.storable().map_err(|error| format!("ts {error}"))
    }

    fn any_time(&self) -> Result<Timestamp, String> {
        let Some((field, value)) = self.get("ts")? else { return Err(absent("ts")) };
        if let Value::Instant(ts) = value.as_ref() {
            return Ok(*ts);
        }
        if let Some(power) = field.unit {
            let nanos = self.whole("ts", power)?.ok_or_else(|| absent("ts"))?;
            let nanos = i64::try_from(nanos)
                .map_err(|_| format!("ts is {}, which is out of range", value.shown()))?;
            return Ok(Timestamp::from_nanos(nanos));
        }
        match value.as_ref() {
            Value::Text(text) => text.parse().map_err(|_| format!("ts is {}, not RFC 3339", value.shown())),
            _ => Err(format!("ts is {}, not RFC 3339: set its `unit` to s, ms, us or ns", value.shown())),
        }
    }

    /// A one-letter code.
    fn code<T, E: ToString>(
        &self,
        name: &str,
        from_code: impl Fn(u8) -> Result<T, E>,
    ) -> Result<Option<T>, String> {
        match self.text(name)?.as_deref().map(str::as_bytes) {
            None | Some([]) => Ok(None),
            Some([code]) => {
                from_code(*code).map(Some).map_err(|error| format!("{name}: {}", error.to_string()))
            }
            Some(other) => {
                let text = String::from_utf8_lossy(other);
                Err(format!(
                    "{name} is \"{}\", not one letter: `values` can say what it stands for",
                    shown(&text)
                ))
            }
        }
    }

    /// One text of letters, or a list of letters.
    fn conditions(&self) -> Result<Conditions, String> {
        let Some((_, value)) = self.get("conditions")? else { return Ok(Conditions::NONE) };
        let mut codes = String::new();
        match value.as_ref() {
            Value::Text(text) => codes.push_str(text),
            Value::List(letters) => {
                for letter in letters {
                    match letter {
                        Value::Text(text) => codes.push_str(text),
                        other => return Err(format!("conditions hold {}, not a text", other.shown())),
                    }
                }
            }
            other => return Err(format!("conditions are {}, not a text or a list of texts", other.shown())),
        }
        Conditions::from_codes(codes.as_bytes()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::Json;
    use super::*;

    fn mapping(text: &str) -> Result<Mapping, String> {
        let table: toml::Table = text.parse().unwrap();
        let map = table["map"].as_table().unwrap();
        let sequence = table.get("sequence").and_then(Toml::as_table);
        Mapping::new(map, sequence.map(|sequence| (&sequence["field"], sequence.get("line"))))
    }

    fn tick(map: &str, payload: &str) -> Result<Mapped, String> {
        let mapping = mapping(map).unwrap();
        let rows = Json::new(mapping.paths()).decode(payload.as_bytes()).unwrap();
        let envelope = Envelope { key: Some(b"MSFT"), ts: Some(Timestamp::from_nanos(9)) };
        mapping.tick(&rows[0], envelope, Timestamp::from_nanos(7))
    }

    const TRADES: &str = r#"
        [map]
        kind = "trade"
        symbol = "S"
        ts = { field = "t", unit = "ms" }
        price = "p"
        size = "s"
        exchange = { field = "x", values = { NASDAQ = "Q" }, other = "V" }
        conditions = "c"
        id = "i"
        [sequence]
        field = "n"
        line = "session"
    "#;

    #[test]
    fn a_trade_is_exact() {
        let payload = r#"{"S":"AAPL","t":1732546800123.5,"p":190.450000001,"s":"100","x":"NASDAQ","c":["@","T"],
                          "i":18446744073709551615,"n":5,"session":"a"}"#;
        let Mapped::Tick(Tick::Trade(trade), numbered) = tick(TRADES, payload).unwrap() else {
            panic!("no trade");
        };
        assert_eq!(trade.ts.nanos(), 1_732_546_800_123_500_000);
        assert_eq!((trade.price.nanos(), trade.size), (190_450_000_001, 100));
        assert_eq!((trade.exchange.code(), trade.conditions.as_str(), trade.id), (b'Q', "@T", u64::MAX));
        assert_eq!(trade.recv_ts.nanos(), 7);
        assert_eq!(numbered, Some(Numbered { sequence: 5, line: "a".to_owned() }));
    }

    #[test]
    fn what_makes_no_tick_names_the_field_and_what_stood_in_it() {
        let good = r#"{"S":"AAPL","t":1,"p":1.5,"s":1,"n":1}"#;
        assert!(tick(TRADES, good).is_ok());
        for (from, to, told) in [
            (r#""AAPL""#, r#""A PL""#, "A PL"),
            (r#""S":"AAPL","#, "", "it has no symbol"),
            ("1.5", "1.0000000001", "price is 1.0000000001, which has more decimals than are kept"),
            ("1.5", "1e12", "price is out of range"),
            ("1.5", "true", "price is true, not a number"),
            ("1.5", r#""much""#, "price is \"much\", not a decimal number"),
            (r#""s":1"#, r#""s":-1"#, "size is -1, which is out of range"),
            (r#""s":1"#, r#""s":1.5"#, "size is 1.5, which has more decimals"),
            (r#""t":1"#, r#""t":"noon""#, "ts is \"noon\", not a decimal number"),
            (r#""t":1"#, r#""t":9220000000000"#, "ts 2262-03-03T23:06:40Z is not within 1900 to 2261"),
            (r#","n":1"#, "", "it has no sequence"),
            (r#""n":1"#, r#""n":1,"c":[1]"#, "conditions hold 1, not a text"),
        ] {
            let error = tick(TRADES, &good.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(told), "{to}: {error}");
        }
    }

    #[test]
    fn the_kind_may_stand_in_a_field_and_key_and_time_in_the_message() {
        let map = r#"
            [map]
            kind = { field = "T", values = { q = "quote", h = "status" }, other = "skip" }
            symbol = "$key"
            ts = "$timestamp"
            bid = { field = "b", scale = 4 }
            ask = "a"
            code = { value = "H" }
        "#;
        let Ok(Mapped::Tick(Tick::Quote(quote), None)) = tick(map, r#"{"T":"q","b":1904500,"a":null}"#)
        else {
            panic!("no quote");
        };
        assert_eq!((quote.symbol.as_str(), quote.ts.nanos()), ("MSFT", 9));
        assert_eq!((quote.bid.to_string(), quote.ask), ("190.45".to_owned(), Price::ZERO));
        let Ok(Mapped::Tick(Tick::Status(status), None)) = tick(map, r#"{"T":"h"}"#) else {
            panic!("no status");
        };
        assert_eq!(&*status.code, "H");
        assert_eq!(tick(map, r#"{"T":"heartbeat"}"#), Ok(Mapped::Skipped));
    }

    #[test]
    fn floats_are_taken_only_when_asked_for() {
        let close = |extra: &str| {
            mapping(&format!(
                "[map]\nkind = \"prev_close\"\nsymbol = \"s\"\nts = {{ field = \"t\", unit = \"s\" }}\n\
                 price = {{ field = \"p\"{extra} }}"
            ))
            .unwrap()
        };
        let row = [
            Some(Value::float(0.1)),
            Some(Value::Text("A".into())),
            Some(Value::Decimal("1.000000001".into())),
        ];
        let now = Timestamp::from_nanos(0);
        let error = close("").tick(&row, Envelope::default(), now).unwrap_err();
        assert!(error.starts_with("price is 0.1, a floating point number, which is not exact"), "{error}");
        match close(", float = true").tick(&row, Envelope::default(), now).unwrap() {
            Mapped::Tick(Tick::PrevClose(close), None) => {
                assert_eq!((close.price.nanos(), close.ts.nanos()), (100_000_000, 1_000_000_001));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_wrong_with_a_mapping_is_named() {
        let with = |more: &str| {
            let base = "[map]\nkind = \"trade\"\nsymbol = \"S\"\nts = \"t\"\nsize = \"s\"\n";
            mapping(&format!("{base}{more}")).unwrap_err()
        };
        assert_eq!(with("prise = \"p\""), "`map.prise` is no field of a tick; did you mean `map.price`?");
        assert_eq!(with(""), "`map.price` is missing: a trade needs it");
        assert_eq!(with("price = \"p\"\nbid = \"b\""), "`map.bid` is part of no kind that `map.kind` gives");
        assert!(with("price = 3").contains("write the path of a field"));
        assert!(with("price = { field = \"p\", round = 2 }").contains("there is no setting `round`"));
        assert!(with("price = { scale = 2 }").contains("it needs `field`"));
        assert!(with("price = { field = \"p\", unit = \"s\" }").contains("`unit` is for `map.ts` only"));
        let error = mapping("[map]\nsymbol = \"S\"").unwrap_err();
        assert!(error.starts_with("`map.kind` is missing"), "{error}");
        let error = mapping("[map]\nkind = \"bar\"").unwrap_err();
        assert!(error.starts_with("`map.kind` gives \"bar\"; a kind is one of trade, quote"), "{error}");
        let error = mapping("[map]\nkind = \"trade\"\nts = { field = \"t\", unit = \"h\" }").unwrap_err();
        assert!(error.contains("`unit` is \"h\"; it is one of s, ms, us, ns, rfc3339"), "{error}");
    }
}
