//! Alpaca's messages as CBOR (RFC 8949): the names and shapes of the JSON; prices are float64, as
//! in MsgPack. An instant is the text of RFC 3339 under tag 0 (section 3.4.1), since tag 1 has no
//! room for nanoseconds that every reader keeps.

use std::borrow::Cow;

use minicbor::data::{Tag, Type};
use minicbor::{Decoder, Encoder};

use super::message::{BarChannel, Fields, Message, Value, WireError, read_message, write_bar, write_tick};
use crate::market::{Bar, Price, Tick, Timestamp};

const DEPTH_MAX: u32 = 16;
/// Room made for a map before its fields are seen: more than any message has.
const FIELDS_USUAL_MAX: u64 = 16;
const IN_MEMORY: &str = "writing to memory does not fail";

struct Writer<'o>(Encoder<&'o mut Vec<u8>>);

impl Fields for Writer<'_> {
    fn begin(&mut self, fields: u32) {
        self.0.map(fields.into()).expect(IN_MEMORY);
    }

    fn word(&mut self, key: &'static str, value: &str) {
        self.text(key, value);
    }

    fn text(&mut self, key: &'static str, value: &str) {
        self.0.str(key).and_then(|out| out.str(value)).expect(IN_MEMORY);
    }

    fn count(&mut self, key: &'static str, value: u64) {
        self.0.str(key).and_then(|out| out.u64(value)).expect(IN_MEMORY);
    }

    fn price(&mut self, key: &'static str, value: Price) {
        self.0.str(key).and_then(|out| out.f64(value.to_f64())).expect(IN_MEMORY);
    }

    fn codes(&mut self, key: &'static str, codes: &[u8]) {
        self.0.str(key).and_then(|out| out.array(codes.len() as u64)).expect(IN_MEMORY);
        for &code in codes {
            self.0.str(std::str::from_utf8(&[code]).unwrap_or_default()).expect(IN_MEMORY);
        }
    }

    fn instant(&mut self, key: &'static str, ts: Timestamp) {
        let mut text = [0; Timestamp::PRINT_LEN_MAX];
        let out = self.0.str(key).and_then(|out| out.tag(Tag::new(0)));
        out.and_then(|out| out.str(ts.write_to(&mut text))).expect(IN_MEMORY);
    }

    fn end(&mut self) {}
}

/// Appends `tick` as one message.
pub fn encode_tick(tick: &Tick, out: &mut Vec<u8>) {
    write_tick(tick, &mut Writer(Encoder::new(out)));
}

/// Appends `bar` as one message of `channel`.
pub fn encode_bar(channel: BarChannel, bar: &Bar, out: &mut Vec<u8>) {
    write_bar(channel, bar, &mut Writer(Encoder::new(out)));
}

/// Appends a frame of messages that are encoded already.
pub fn join<'m>(messages: impl ExactSizeIterator<Item = &'m [u8]>, out: &mut Vec<u8>) {
    Encoder::new(&mut *out).array(messages.len() as u64).expect(IN_MEMORY);
    messages.for_each(|message| out.extend_from_slice(message));
}

/// Reads a frame: a list of messages, or one message alone. `recv_ts`, which is not on the wire,
/// becomes that of every tick.
pub fn decode(bytes: &[u8], recv_ts: Timestamp) -> Result<Vec<Message>, WireError> {
    let mut input = Decoder::new(bytes);
    let value = value(&mut input, 0).map_err(|reason| syntax(&input, reason))?;
    if input.position() < bytes.len() {
        return Err(syntax(&input, "something after the end".to_owned()));
    }
    match &value {
        Value::List(messages) => messages.iter().map(|message| read_message(message, recv_ts)).collect(),
        message => read_message(message, recv_ts).map(|message| vec![message]),
    }
}

fn syntax(input: &Decoder<'_>, reason: String) -> WireError {
    WireError::Syntax { encoding: "CBOR", reason, at: input.position() }
}

fn value<'a>(input: &mut Decoder<'a>, depth: u32) -> Result<Value<'a>, String> {
    if depth > DEPTH_MAX {
        return Err("values nested too deep".to_owned());
    }
    let failed = |error: minicbor::decode::Error| error.to_string();
    match input.datatype().map_err(failed)? {
        Type::Null | Type::Undefined => input.skip().map(|()| Value::Null).map_err(failed),
        Type::Bool => input.bool().map(Value::Bool).map_err(failed),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => input.u64().map(Value::Unsigned).map_err(failed),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 => input.i64().map(Value::Signed).map_err(failed),
        Type::F16 => input.f16().map(|value| Value::Float(value.into())).map_err(failed),
        Type::F32 => input.f32().map(|value| Value::Float(value.into())).map_err(failed),
        Type::F64 => input.f64().map(Value::Float).map_err(failed),
        Type::String => input.str().map(|text| Value::Text(Cow::Borrowed(text))).map_err(failed),
        Type::Tag => {
            let tag = input.tag().map_err(failed)?;
            match value(input, depth + 1)? {
                Value::Text(text) if tag == Tag::new(0) => text
                    .parse()
                    .map(Value::Instant)
                    .map_err(|error: crate::market::TimeError| error.to_string()),
                other => Ok(other),
            }
        }
        Type::Array => {
            let len = input.array().map_err(failed)?.ok_or("a list of unknown length")?;
            if len > input.input().len() as u64 {
                return Err("cut short".to_owned());
            }
            (0..len).map(|_| value(input, depth + 1)).collect::<Result<_, _>>().map(Value::List)
        }
        Type::Map => {
            let len = input.map().map_err(failed)?.ok_or("a map of unknown length")?;
            if len > input.input().len() as u64 / 2 {
                return Err("cut short".to_owned());
            }
            // A length is a claim: nested ones would each be believed in full.
            let mut fields = Vec::with_capacity(len.min(FIELDS_USUAL_MAX) as usize);
            for _ in 0..len {
                let key = input.str().map_err(failed)?;
                fields.push((Cow::Borrowed(key), value(input, depth + 1)?));
            }
            Ok(Value::Map(fields))
        }
        other => Err(format!("a value of type {other}")),
    }
}
