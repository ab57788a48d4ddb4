//! Alpaca's messages as MsgPack, as Alpaca's own stream has them: prices are float64, sizes and
//! counts unsigned, `t` is the timestamp extension (type -1).

use std::borrow::Cow;
use std::io::Read;

use rmp::Marker;
use rmp::encode;

use super::message::{BarChannel, Fields, Message, Value, WireError, read_message, write_bar, write_tick};
use crate::market::{Bar, Price, Tick, Timestamp};

/// The extension type of an instant: `MessagePack` specification, "Timestamp extension type".
const TIMESTAMP: i8 = -1;
const DEPTH_MAX: u32 = 16;
/// Room made for a map before its fields are seen: more than any message has.
const FIELDS_USUAL_MAX: u64 = 16;
const IN_MEMORY: &str = "writing to memory does not fail";

struct Writer<'o>(&'o mut Vec<u8>);

impl Writer<'_> {
    fn key(&mut self, key: &str) {
        encode::write_str(self.0, key).expect(IN_MEMORY);
    }
}

impl Fields for Writer<'_> {
    fn begin(&mut self, fields: u32) {
        encode::write_map_len(self.0, fields).expect(IN_MEMORY);
    }

    fn word(&mut self, key: &'static str, value: &str) {
        self.text(key, value);
    }

    fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        encode::write_str(self.0, value).expect(IN_MEMORY);
    }

    fn count(&mut self, key: &'static str, value: u64) {
        self.key(key);
        encode::write_uint(self.0, value).expect(IN_MEMORY);
    }

    fn price(&mut self, key: &'static str, value: Price) {
        self.key(key);
        encode::write_f64(self.0, value.to_f64()).expect(IN_MEMORY);
    }

    fn codes(&mut self, key: &'static str, codes: &[u8]) {
        self.key(key);
        encode::write_array_len(self.0, codes.len() as u32).expect(IN_MEMORY);
        for &code in codes {
            encode::write_str(self.0, std::str::from_utf8(&[code]).unwrap_or_default()).expect(IN_MEMORY);
        }
    }

    fn instant(&mut self, key: &'static str, ts: Timestamp) {
        self.key(key);
        write_instant(self.0, ts);
    }

    fn end(&mut self) {}
}

/// Writes an instant in the shortest of the extension's forms that holds its nanoseconds.
fn write_instant(out: &mut Vec<u8>, ts: Timestamp) {
    const NANOS_PER_SECOND: i64 = 1_000_000_000;
    let seconds = ts.nanos().div_euclid(NANOS_PER_SECOND);
    let nanos = ts.nanos().rem_euclid(NANOS_PER_SECOND) as u64;
    if seconds >> 34 == 0 {
        encode::write_ext_meta(out, 8, TIMESTAMP).expect(IN_MEMORY);
        out.extend_from_slice(&(nanos << 34 | seconds as u64).to_be_bytes());
    } else {
        encode::write_ext_meta(out, 12, TIMESTAMP).expect(IN_MEMORY);
        out.extend_from_slice(&(nanos as u32).to_be_bytes());
        out.extend_from_slice(&seconds.to_be_bytes());
    }
}

/// Appends `tick` as one message.
pub fn encode_tick(tick: &Tick, out: &mut Vec<u8>) {
    write_tick(tick, &mut Writer(out));
}

/// Appends `bar` as one message of `channel`.
pub fn encode_bar(channel: BarChannel, bar: &Bar, out: &mut Vec<u8>) {
    write_bar(channel, bar, &mut Writer(out));
}

/// Appends a frame of messages that are encoded already.
pub fn join<'m>(messages: impl ExactSizeIterator<Item = &'m [u8]>, out: &mut Vec<u8>) {
    encode::write_array_len(out, messages.len() as u32).expect(IN_MEMORY);
    messages.for_each(|message| out.extend_from_slice(message));
}

/// Appends any value, as control messages are: the same names and shapes as in JSON.
pub fn encode_control(value: &serde_json::Value, out: &mut Vec<u8>) {
    let mut serializer = rmp_serde::Serializer::new(out).with_struct_map();
    serde::Serialize::serialize(value, &mut serializer)
        .expect("a JSON value has no shape that MsgPack lacks");
}

/// Reads a frame: a list of messages, or one message alone. `recv_ts`, which is not on the wire,
/// becomes that of every tick.
pub fn decode(bytes: &[u8], recv_ts: Timestamp) -> Result<Vec<Message>, WireError> {
    let mut input = Input { rest: bytes, len: bytes.len() };
    let value = input.value(0)?;
    if !input.rest.is_empty() {
        return Err(input.error("something after the end"));
    }
    match &value {
        Value::List(messages) => messages.iter().map(|message| read_message(message, recv_ts)).collect(),
        message => read_message(message, recv_ts).map(|message| vec![message]),
    }
}

struct Input<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Input<'a> {
    fn error(&self, reason: &str) -> WireError {
        WireError::Syntax { encoding: "MsgPack", reason: reason.to_owned(), at: self.len - self.rest.len() }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.error("cut short"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// A big-endian number of `len` bytes.
    fn number(&mut self, len: usize) -> Result<u64, WireError> {
        Ok(self.take(len)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn text(&mut self, len: u64) -> Result<Value<'a>, WireError> {
        let bytes = self.take(usize::try_from(len).map_err(|_| self.error("cut short"))?)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.error("a text that is not UTF-8"))?;
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn list(&mut self, len: u64, depth: u32) -> Result<Value<'a>, WireError> {
        // An item takes a byte at least, so a longer list is damage, not a reason to allocate.
        if len > self.rest.len() as u64 {
            return Err(self.error("cut short"));
        }
        (0..len).map(|_| self.value(depth + 1)).collect::<Result<_, _>>().map(Value::List)
    }

    fn map(&mut self, len: u64, depth: u32) -> Result<Value<'a>, WireError> {
        if len > self.rest.len() as u64 / 2 {
            return Err(self.error("cut short"));
        }
        // A length is a claim: nested ones would each be believed in full.
        let mut fields = Vec::with_capacity(len.min(FIELDS_USUAL_MAX) as usize);
        for _ in 0..len {
            let Value::Text(key) = self.value(depth + 1)? else {
                return Err(self.error("a key that is no text"));
            };
            fields.push((key, self.value(depth + 1)?));
        }
        Ok(Value::Map(fields))
    }

    fn extension(&mut self, len: u64) -> Result<Value<'a>, WireError> {
        let kind = self.number(1)? as i8;
        let bytes = self.take(usize::try_from(len).map_err(|_| self.error("cut short"))?)?;
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
        let (seconds, nanos) = match (kind, bytes.len()) {
            (TIMESTAMP, 4) => (number(bytes) as i64, 0),
            (TIMESTAMP, 8) => ((number(bytes) & ((1 << 34) - 1)) as i64, (number(bytes) >> 34) as i64),
            (TIMESTAMP, 12) => (number(&bytes[4..]) as i64, number(&bytes[..4]) as i64),
            _ => return Err(self.error("an unknown extension")),
        };
        let instant = seconds.checked_mul(1_000_000_000).and_then(|whole| whole.checked_add(nanos));
        instant
            .map(|ts| Value::Instant(Timestamp::from_nanos(ts)))
            .ok_or_else(|| self.error("an instant out of range"))
    }

    fn value(&mut self, depth: u32) -> Result<Value<'a>, WireError> {
        if depth > DEPTH_MAX {
            return Err(self.error("values nested too deep"));
        }
        let mut marker = [0];
        self.rest.read_exact(&mut marker).map_err(|_| self.error("cut short"))?;
        match Marker::from_u8(marker[0]) {
            Marker::Null => Ok(Value::Null),
            Marker::True => Ok(Value::Bool(true)),
            Marker::False => Ok(Value::Bool(false)),
            Marker::FixPos(value) => Ok(Value::Unsigned(value.into())),
            Marker::FixNeg(value) => Ok(Value::Signed(value.into())),
            Marker::U8 => self.number(1).map(Value::Unsigned),
            Marker::U16 => self.number(2).map(Value::Unsigned),
            Marker::U32 => self.number(4).map(Value::Unsigned),
            Marker::U64 => self.number(8).map(Value::Unsigned),
            Marker::I8 => self.number(1).map(|n| signed((n as i8).into())),
            Marker::I16 => self.number(2).map(|n| signed((n as i16).into())),
            Marker::I32 => self.number(4).map(|n| signed((n as i32).into())),
            Marker::I64 => self.number(8).map(|n| signed(n as i64)),
            Marker::F32 => self.number(4).map(|n| Value::Float(f32::from_bits(n as u32).into())),
            Marker::F64 => self.number(8).map(|n| Value::Float(f64::from_bits(n))),
            Marker::FixStr(len) => self.text(len.into()),
            Marker::Str8 | Marker::Bin8 => self.number(1).and_then(|len| self.text(len)),
            Marker::Str16 | Marker::Bin16 => self.number(2).and_then(|len| self.text(len)),
            Marker::Str32 | Marker::Bin32 => self.number(4).and_then(|len| self.text(len)),
            Marker::FixArray(len) => self.list(len.into(), depth),
            Marker::Array16 => self.number(2).and_then(|len| self.list(len, depth)),
            Marker::Array32 => self.number(4).and_then(|len| self.list(len, depth)),
            Marker::FixMap(len) => self.map(len.into(), depth),
            Marker::Map16 => self.number(2).and_then(|len| self.map(len, depth)),
            Marker::Map32 => self.number(4).and_then(|len| self.map(len, depth)),
            Marker::FixExt1 => self.extension(1),
            Marker::FixExt2 => self.extension(2),
            Marker::FixExt4 => self.extension(4),
            Marker::FixExt8 => self.extension(8),
            Marker::FixExt16 => self.extension(16),
            Marker::Ext8 => self.number(1).and_then(|len| self.extension(len)),
            Marker::Ext16 => self.number(2).and_then(|len| self.extension(len)),
            Marker::Ext32 => self.number(4).and_then(|len| self.extension(len)),
            Marker::Reserved => Err(self.error("a reserved marker")),
        }
    }
}

fn signed<'a>(value: i64) -> Value<'a> {
    u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned)
}
