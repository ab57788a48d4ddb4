//! Alpaca's messages as JSON: the gateway's hottest path, and the client's.
//!
//! Prices are printed and read as exact decimals, never through a float.

use std::borrow::Cow;

use super::message::{BarChannel, Fields, Message, Value, WireError, read_message, write_bar, write_tick};
use crate::market::{Bar, Price, Tick, Timestamp};

/// How deep values may nest: a frame is a list of maps of lists.
const DEPTH_MAX: u32 = 16;

struct Writer<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl Writer<'_> {
    #[inline]
    fn key(&mut self, key: &'static str) {
        self.out.push(if self.first { b'{' } else { b',' });
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

impl Fields for Writer<'_> {
    #[inline]
    fn begin(&mut self, _fields: u32) {
        self.first = true;
    }

    #[inline]
    fn word(&mut self, key: &'static str, value: &str) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(value.as_bytes());
        self.out.push(b'"');
    }

    #[inline]
    fn text(&mut self, key: &'static str, value: &str) {
        if value.bytes().all(is_plain) {
            return self.word(key, value);
        }
        self.key(key);
        write_escaped(self.out, value);
    }

    #[inline]
    fn count(&mut self, key: &'static str, value: u64) {
        self.key(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    #[inline]
    fn price(&mut self, key: &'static str, value: Price) {
        self.key(key);
        self.out.extend_from_slice(value.write_to(&mut [0; Price::PRINT_LEN_MAX]).as_bytes());
    }

    #[inline]
    fn codes(&mut self, key: &'static str, codes: &[u8]) {
        self.key(key);
        self.out.push(b'[');
        for (at, &code) in codes.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            if is_plain(code) {
                self.out.extend_from_slice(&[b'"', code, b'"']);
            } else {
                write_escaped(self.out, std::str::from_utf8(&[code]).unwrap_or_default());
            }
        }
        self.out.push(b']');
    }

    #[inline]
    fn instant(&mut self, key: &'static str, ts: Timestamp) {
        self.key(key);
        self.out.push(b'"');
        self.out.extend_from_slice(ts.write_to(&mut [0; Timestamp::PRINT_LEN_MAX]).as_bytes());
        self.out.push(b'"');
    }

    #[inline]
    fn end(&mut self) {
        self.out.push(b'}');
    }
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn write_escaped(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing a text to memory does not fail");
}

/// Appends `tick` as one message.
pub fn encode_tick(tick: &Tick, out: &mut Vec<u8>) {
    write_tick(tick, &mut Writer { out, first: true });
}

/// Appends `bar` as one message of `channel`.
pub fn encode_bar(channel: BarChannel, bar: &Bar, out: &mut Vec<u8>) {
    write_bar(channel, bar, &mut Writer { out, first: true });
}

/// Appends a frame of messages that are encoded already.
pub fn join<'m>(messages: impl ExactSizeIterator<Item = &'m [u8]>, out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, message) in messages.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(message);
    }
    out.push(b']');
}

/// Reads a frame: a list of messages, or one message alone. `recv_ts`, which is not on the wire,
/// becomes that of every tick.
pub fn decode(bytes: &[u8], recv_ts: Timestamp) -> Result<Vec<Message>, WireError> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| syntax("text that is not UTF-8", error.valid_up_to()))?;
    let mut input = Input { text, at: 0 };
    let value = input.value(0)?;
    input.space();
    if input.at < text.len() {
        return Err(syntax("something after the end", input.at));
    }
    match &value {
        Value::List(messages) => messages.iter().map(|message| read_message(message, recv_ts)).collect(),
        message => read_message(message, recv_ts).map(|message| vec![message]),
    }
}

fn syntax(reason: &str, at: usize) -> WireError {
    WireError::Syntax { encoding: "JSON", reason: reason.to_owned(), at }
}

/// A reader of JSON (RFC 8259) that leaves numbers as they are written.
struct Input<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes `byte` if it is next, after white space.
    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), WireError> {
        if self.take(byte) { Ok(()) } else { Err(syntax(&format!("no '{}'", byte as char), self.at)) }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, WireError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(syntax("no value", self.at));
        }
        self.at += word.len();
        Ok(value)
    }

    fn value(&mut self, depth: u32) -> Result<Value<'a>, WireError> {
        if depth > DEPTH_MAX {
            return Err(syntax("values nested too deep", self.at));
        }
        self.space();
        match self.peek() {
            Some(b'"') => self.string().map(Value::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'{') => {
                self.at += 1;
                let mut fields = Vec::with_capacity(12);
                if self.take(b'}') {
                    return Ok(Value::Map(fields));
                }
                loop {
                    self.space();
                    let key = self.string()?;
                    self.expect(b':')?;
                    fields.push((key, self.value(depth + 1)?));
                    if self.take(b'}') {
                        return Ok(Value::Map(fields));
                    }
                    self.expect(b',')?;
                }
            }
            Some(b'[') => {
                self.at += 1;
                let mut items = Vec::new();
                if self.take(b']') {
                    return Ok(Value::List(items));
                }
                loop {
                    items.push(self.value(depth + 1)?);
                    if self.take(b']') {
                        return Ok(Value::List(items));
                    }
                    self.expect(b',')?;
                }
            }
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(syntax("no value", self.at)),
        }
    }

    fn number(&mut self) -> Result<Value<'a>, WireError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let digits = &self.text[start..self.at];
        // Only what serde_json would take is a number; nearly every one is digits with a point.
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
            && !digits.starts_with('.')
            && !digits.ends_with('.')
            && digits.bytes().filter(|&byte| byte == b'.').count() < 2;
        if plain || digits.parse::<serde_json::Number>().is_ok() {
            Ok(Value::Digits(digits))
        } else {
            Err(syntax("no number", start))
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, WireError> {
        if self.peek() != Some(b'"') {
            return Err(syntax("no text", self.at));
        }
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut at = start + 1;
        let mut escaped = false;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    at += 2;
                }
                Some(0..=0x1f) => return Err(syntax("a control character in a text", at)),
                Some(_) => at += 1,
                None => return Err(syntax("a text that does not end", start)),
            }
        }
        self.at = at + 1;
        if !escaped {
            return Ok(Cow::Borrowed(&self.text[start + 1..at]));
        }
        let quoted = self.text.get(start..=at).ok_or_else(|| syntax("a bad escape", start))?;
        serde_json::from_str(quoted).map(Cow::Owned).map_err(|_| syntax("a bad escape", start))
    }
}
