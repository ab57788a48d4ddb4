//! Alpaca's messages: what clients send, the control messages they get, and the frames that carry
//! data to them.

use bytes::Bytes;
use serde_json::{Value, json};

use super::frame::{self, Opcode};
use super::subscription::{Channel, Subscription, SymbolSet};
use crate::market::{Bar, Tick, Timestamp};
use crate::wire::token::{Token, TokenError};
use crate::wire::{BarChannel, json, msgpack};

/// Frames stay below this: clients in Python close on more than 1 MiB.
pub(super) const FRAME_BYTES_MAX: usize = 256 * 1024;

/// How a client's messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Encoding {
    /// Text frames.
    Json = 0,
    /// Binary frames.
    MsgPack = 1,
}

impl Encoding {
    pub(super) const COUNT: usize = 2;

    fn opcode(self) -> Opcode {
        match self {
            Self::Json => Opcode::Text,
            Self::MsgPack => Opcode::Binary,
        }
    }

    /// One message object, appended.
    pub(super) fn tick(self, tick: &Tick, out: &mut Vec<u8>) {
        match self {
            Self::Json => json::encode_tick(tick, out),
            Self::MsgPack => msgpack::encode_tick(tick, out),
        }
    }

    /// One message object, appended.
    pub(super) fn bar(self, channel: BarChannel, bar: &Bar, out: &mut Vec<u8>) {
        match self {
            Self::Json => json::encode_bar(channel, bar, out),
            Self::MsgPack => msgpack::encode_bar(channel, bar, out),
        }
    }

    /// A control message, appended.
    fn append_control(self, message: &Value, out: &mut Vec<u8>) {
        match self {
            Self::Json => out.extend_from_slice(message.to_string().as_bytes()),
            Self::MsgPack => msgpack::encode_control(message, out),
        }
    }

    /// A control message in a frame of its own: an array of one.
    pub(super) fn control(self, message: &Value) -> Bytes {
        let mut payload = match self {
            Self::Json => vec![b'['],
            Self::MsgPack => vec![0x91],
        };
        self.append_control(message, &mut payload);
        if self == Self::Json {
            payload.push(b']');
        }
        frame::message(self.opcode(), &payload)
    }
}

/// How frames go over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Framing {
    /// One WebSocket message a frame.
    WebSocket(Encoding),
    /// One server-sent event a frame: its id is the token, its data a JSON array.
    Sse,
}

impl Framing {
    pub(super) fn encoding(self) -> Encoding {
        match self {
            Self::WebSocket(encoding) => encoding,
            Self::Sse => Encoding::Json,
        }
    }
}

/// Joins encoded messages to a frame.
#[derive(Default)]
pub(super) struct FrameBuilder {
    /// Room for the heads, then the messages.
    buffer: Vec<u8>,
    messages: u32,
}

/// Room for a WebSocket head and the longest array head.
const HEADS_BYTES: usize = frame::HEAD_BYTES_MAX + 5;

impl FrameBuilder {
    pub(super) fn messages(&self) -> u32 {
        self.messages
    }

    /// Whether `message` bytes more would make the frame too long.
    pub(super) fn is_full_for(&self, message: usize) -> bool {
        self.messages > 0 && self.buffer.len() + message + 64 > FRAME_BYTES_MAX
    }

    pub(super) fn push(&mut self, encoding: Encoding, message: &[u8]) {
        if self.messages == 0 {
            self.buffer.resize(HEADS_BYTES, 0);
        } else if encoding == Encoding::Json {
            self.buffer.push(b',');
        }
        self.buffer.extend_from_slice(message);
        self.messages += 1;
    }

    /// Takes the frame out. With `token`, which says where the frame ends, as its last message (over
    /// SSE its id): who has the frame has the token too, so that a resume repeats nothing.
    pub(super) fn finish(&mut self, framing: Framing, token: Option<&str>) -> Bytes {
        if let (Framing::WebSocket(encoding), Some(token)) = (framing, token) {
            let mut message = Vec::new();
            encoding.append_control(&json!({ "T": "token", "token": token }), &mut message);
            self.push(encoding, &message);
        }
        let capacity = self.buffer.len();
        let mut buffer = std::mem::take(&mut self.buffer);
        let messages = std::mem::take(&mut self.messages);
        // The next frame is likely to be about as long.
        self.buffer.reserve(capacity.min(FRAME_BYTES_MAX));
        let at = match framing {
            Framing::WebSocket(Encoding::Json) => {
                buffer.push(b']');
                buffer[HEADS_BYTES - 1] = b'[';
                HEADS_BYTES - 1
            }
            Framing::WebSocket(Encoding::MsgPack) => {
                let [a, b, c, d] = messages.to_be_bytes();
                let head: &[u8] = match messages {
                    0..=15 => &[0x90 | d],
                    16..=0xffff => &[0xdc, c, d],
                    _ => &[0xdd, a, b, c, d],
                };
                buffer[HEADS_BYTES - head.len()..HEADS_BYTES].copy_from_slice(head);
                HEADS_BYTES - head.len()
            }
            Framing::Sse => return sse_event(token, &buffer[HEADS_BYTES.min(buffer.len())..]),
        };
        let from = frame::write_head(&mut buffer, at, framing.encoding().opcode());
        Bytes::from(buffer).slice(from..)
    }
}

fn sse_event(token: Option<&str>, messages: &[u8]) -> Bytes {
    let id = token.map(|token| format!("id: {token}\n")).unwrap_or_default();
    // Messages are JSON, which has no line breaks outside strings and escapes those within.
    [id.as_bytes(), b"data: [", messages, b"]\n\n"].concat().into()
}

/// A control message in the connection's framing: over SSE an event that bears the message's type.
pub(super) fn control_frame(framing: Framing, message: &Value, token: Option<&Token>) -> Bytes {
    match framing {
        Framing::WebSocket(encoding) => encoding.control(message),
        Framing::Sse => {
            let id = token.map(|token| format!("id: {token}\n")).unwrap_or_default();
            format!("{id}data: [{message}]\n\n").into()
        }
    }
}

/// Alpaca's error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum ErrorCode {
    InvalidSyntax = 400,
    NotAuthenticated = 401,
    AuthFailed = 402,
    AlreadyAuthenticated = 403,
    AuthTimeout = 404,
    SymbolLimit = 405,
    SlowClient = 407,
    Busy = 429,
    Internal = 500,
}

impl ErrorCode {
    fn text(self) -> &'static str {
        match self {
            Self::InvalidSyntax => "invalid syntax",
            Self::NotAuthenticated => "not authenticated",
            Self::AuthFailed => "auth failed",
            Self::AlreadyAuthenticated => "already authenticated",
            Self::AuthTimeout => "auth timeout",
            Self::SymbolLimit => "symbol limit exceeded",
            Self::SlowClient => "slow client",
            Self::Busy => "too many requests",
            Self::Internal => "internal error",
        }
    }

    /// The message, with what is wrong after Alpaca's own words.
    pub(super) fn message(self, detail: &str) -> Value {
        let text = self.text();
        let message = if detail.is_empty() { text.to_owned() } else { format!("{text}: {detail}") };
        json!({ "T": "error", "code": self as u16, "msg": message })
    }
}

/// `connected` or `authenticated`.
pub(super) fn success(what: &str) -> Value {
    json!({ "T": "success", "msg": what })
}

/// Where a replay begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Since {
    /// After all that this token stands for.
    Token(Token),
    /// At this time of the venue.
    Time(Timestamp),
}

impl Since {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(token) => return Ok(Self::Token(token)),
            Err(outdated @ TokenError::Version1(_)) => return Err(outdated.to_string()),
            Err(TokenError::NoToken(_)) => {}
        }
        match crate::market::parse_from(text) {
            Ok(time) => Ok(Self::Time(time)),
            Err(error) => Err(format!("since is neither a token nor a time: {error}")),
        }
    }
}

/// What a subscribe or unsubscribe names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// The channels and symbols.
    pub(super) subscription: Subscription,
    /// The last of every symbol first.
    pub(super) snapshot: bool,
    /// What came since first.
    pub(super) since: Option<Since>,
    /// Tokens after data.
    pub(super) token: bool,
    /// Heartbeats, and lag.
    pub(super) heartbeat: bool,
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClientMessage {
    Auth { key: String, secret: String },
    Subscribe(Box<Request>),
    Unsubscribe(Box<Request>),
}

impl ClientMessage {
    /// Reads a message; the error is the detail of a 400.
    pub(super) fn parse(opcode: Opcode, encoding: Encoding, payload: &[u8]) -> Result<Self, String> {
        let value: Value = match (opcode, encoding) {
            (Opcode::Binary, Encoding::MsgPack) => {
                rmp_serde::from_slice(payload).map_err(|error| error.to_string())?
            }
            _ => serde_json::from_slice(payload).map_err(|error| error.to_string())?,
        };
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        match text("action") {
            Some("auth") => match (text("key"), text("secret")) {
                (Some(key), Some(secret)) => {
                    Ok(Self::Auth { key: key.to_owned(), secret: secret.to_owned() })
                }
                _ => Err("auth needs key and secret".to_owned()),
            },
            Some("subscribe") => Ok(Self::Subscribe(Box::new(request(&value)?))),
            Some("unsubscribe") => Ok(Self::Unsubscribe(Box::new(request(&value)?))),
            _ => Err("action is none of auth, subscribe, unsubscribe".to_owned()),
        }
    }
}

fn request(value: &Value) -> Result<Request, String> {
    let flag = |name: &str| match value.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(format!("{name} is not true or false")),
    };
    let mut subscription =
        Subscription { gaps: flag("gaps")?, prev_closes: flag("prev_closes")?, ..Subscription::default() };
    for (channel, name) in Channel::NAMED {
        let names = match value.get(name) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(names)) => names,
            Some(_) => return Err(format!("{name} is not a list of symbols")),
        };
        if !names.iter().all(Value::is_string) {
            return Err(format!("{name} is not a list of symbols"));
        }
        *subscription.set_mut(channel) = SymbolSet::from_names(names.iter().filter_map(Value::as_str))?;
    }
    let since = match value.get("since") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(Since::parse(text)?),
        Some(_) => return Err("since is not a text".to_owned()),
    };
    let (snapshot, token, heartbeat) = (flag("snapshot")?, flag("token")?, flag("heartbeat")?);
    Ok(Request { subscription, snapshot, since, token, heartbeat })
}
