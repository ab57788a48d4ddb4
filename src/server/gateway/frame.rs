//! WebSocket frames (RFC 6455), the server's side.
//!
//! A frame from a server is not masked, so its bytes are the same for every receiver: it is built
//! once, head included, and one `Bytes` is written to all sockets without a copy per connection.
//! General WebSocket libraries copy each message into each connection's buffer, which is why this
//! codec exists. It carries no extension: permessage-deflate is declined.

use bytes::{Buf, Bytes, BytesMut};

/// The longest head of a server's frame.
pub(super) const HEAD_BYTES_MAX: usize = 10;
const CONTROL_BYTES_MAX: usize = 125;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FIN: u8 = 0x80;

/// Whether a message is text or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    /// UTF-8.
    Text,
    /// Anything.
    Binary,
}

/// The close codes this server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum CloseCode {
    GoingAway = 1001,
    Protocol = 1002,
    InvalidText = 1007,
    Policy = 1008,
    TooBig = 1009,
    Internal = 1011,
    TryAgainLater = 1013,
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A whole message, its fragments joined.
    Message(Opcode, Bytes),
    /// To be echoed.
    Ping(Bytes),
    Pong(Bytes),
    /// The client's close code, where it gave one.
    Close(Option<u16>),
}

/// Why a client's bytes are refused; the connection is closed with [`FrameError::close_code`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("{0}")]
    Protocol(&'static str),
    #[error("a text message or the reason of a close is not UTF-8")]
    InvalidText,
    #[error("a message is longer than {0} bytes")]
    TooBig(usize),
}

impl FrameError {
    pub(super) fn close_code(&self) -> CloseCode {
        match self {
            Self::Protocol(_) => CloseCode::Protocol,
            Self::InvalidText => CloseCode::InvalidText,
            Self::TooBig(_) => CloseCode::TooBig,
        }
    }
}

/// Writes the head of a final frame right-aligned before `at` in `buffer`, and returns where it
/// begins. `buffer[at..]` is the payload; at least [`HEAD_BYTES_MAX`] bytes lie before it.
pub(super) fn write_head(buffer: &mut [u8], at: usize, opcode: Opcode) -> usize {
    let payload_bytes = buffer.len() - at;
    let first = FIN | if opcode == Opcode::Text { TEXT } else { BINARY };
    match payload_bytes {
        0..=125 => {
            buffer[at - 2..at].copy_from_slice(&[first, payload_bytes as u8]);
            at - 2
        }
        126..=0xffff => {
            let [high, low] = (payload_bytes as u16).to_be_bytes();
            buffer[at - 4..at].copy_from_slice(&[first, 126, high, low]);
            at - 4
        }
        _ => {
            buffer[at - 8..at].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            buffer[at - 10..at - 8].copy_from_slice(&[first, 127]);
            at - 10
        }
    }
}

/// A whole message in one frame.
pub(super) fn message(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut buffer = vec![0; HEAD_BYTES_MAX];
    buffer.extend_from_slice(payload);
    let from = write_head(&mut buffer, HEAD_BYTES_MAX, opcode);
    Bytes::from(buffer).slice(from..)
}

fn control(opcode: u8, payload: &[u8]) -> Bytes {
    let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
    let mut frame = Vec::with_capacity(2 + payload.len());
    frame.extend_from_slice(&[FIN | opcode, payload.len() as u8]);
    frame.extend_from_slice(payload);
    frame.into()
}

/// A ping.
pub(super) fn ping(payload: &[u8]) -> Bytes {
    control(PING, payload)
}

/// The answer to a ping.
pub(super) fn pong(payload: &[u8]) -> Bytes {
    control(PONG, payload)
}

/// A close with a reason of at most 123 bytes; a longer one is cut at a character.
pub(super) fn close(code: CloseCode, reason: &str) -> Bytes {
    let mut end = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = (code as u16).to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    control(CLOSE, &payload)
}

/// The answer to a client's close: its own code, which [`close_of`] has checked.
pub(super) fn close_echo(code: Option<u16>) -> Bytes {
    control(CLOSE, code.map(u16::to_be_bytes).as_ref().map_or(&[], |code| &code[..]))
}

/// Takes a client's frames apart. Holds at most one message and what was read beyond it.
pub(super) struct FrameReader {
    /// What was read and not yet taken apart.
    pub(super) buffer: BytesMut,
    message: Vec<u8>,
    /// Of the message whose fragments are coming in.
    opcode: Option<Opcode>,
    message_bytes_max: usize,
}

impl FrameReader {
    pub(super) fn new(read_ahead: &[u8], message_bytes_max: usize) -> Self {
        Self { buffer: BytesMut::from(read_ahead), message: Vec::new(), opcode: None, message_bytes_max }
    }

    /// The next message or control frame; `None` when more bytes are needed.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, FrameError> {
        // A frame that only adds to a message gives nothing yet: go on with the one after it.
        while let Some((first, payload_bytes, head_bytes)) = self.head()? {
            if self.buffer.len() < head_bytes + payload_bytes {
                return Ok(None);
            }
            let mut frame = self.buffer.split_to(head_bytes + payload_bytes);
            let mut mask = [0; 4];
            mask.copy_from_slice(&frame[head_bytes - 4..head_bytes]);
            frame.advance(head_bytes);
            for (at, byte) in frame.iter_mut().enumerate() {
                *byte ^= mask[at & 3];
            }
            let incoming = match first & 0x0f {
                PING => Some(Incoming::Ping(frame.freeze())),
                PONG => Some(Incoming::Pong(frame.freeze())),
                CLOSE => Some(close_of(&frame)?),
                _ => self.data(first, &frame)?,
            };
            if incoming.is_some() {
                return Ok(incoming);
            }
        }
        Ok(None)
    }

    /// The first byte, payload length and head length of the frame at hand, as soon as its head
    /// has come in whole.
    fn head(&self) -> Result<Option<(u8, usize, usize)>, FrameError> {
        let [first, second, rest @ ..] = &self.buffer[..] else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(FrameError::Protocol("a frame has reserved bits set: no extension was agreed on"));
        }
        if second & 0x80 == 0 {
            return Err(FrameError::Protocol("a frame from a client is not masked"));
        }
        let (length, length_bytes) = match (second & 0x7f, rest) {
            (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 2),
            (127, rest) => match rest.first_chunk() {
                Some(length) => (u64::from_be_bytes(*length), 8),
                None => return Ok(None),
            },
            (126, _) => return Ok(None),
            (length, _) => (u64::from(length), 0),
        };
        // RFC 6455, 5.2: "the minimal number of bytes MUST be used".
        if matches!((length_bytes, length), (2, ..126) | (8, ..0x1_0000)) {
            return Err(FrameError::Protocol("a frame's length takes more bytes than it needs"));
        }
        let is_control = first & 0x08 != 0;
        if is_control && (first & FIN == 0 || length > CONTROL_BYTES_MAX as u64) {
            return Err(FrameError::Protocol("a control frame is fragmented or too long"));
        }
        match first & 0x0f {
            CONTINUATION if self.opcode.is_none() => {
                return Err(FrameError::Protocol("a continuation without a message to continue"));
            }
            TEXT | BINARY if self.opcode.is_some() => {
                return Err(FrameError::Protocol("a new message within a fragmented one"));
            }
            CONTINUATION | TEXT | BINARY | PING | PONG | CLOSE => {}
            _ => return Err(FrameError::Protocol("a frame of unknown type")),
        }
        if !is_control && length > (self.message_bytes_max - self.message.len()) as u64 {
            return Err(FrameError::TooBig(self.message_bytes_max));
        }
        Ok(Some((*first, length as usize, 2 + length_bytes + 4)))
    }

    fn data(&mut self, first: u8, payload: &[u8]) -> Result<Option<Incoming>, FrameError> {
        let opcode = match (first & 0x0f, self.opcode) {
            (CONTINUATION, Some(opcode)) => opcode,
            (TEXT, _) => Opcode::Text,
            _ => Opcode::Binary,
        };
        self.message.extend_from_slice(payload);
        if first & FIN == 0 {
            self.opcode = Some(opcode);
            return Ok(None);
        }
        self.opcode = None;
        let message = Bytes::from(std::mem::take(&mut self.message));
        if opcode == Opcode::Text && std::str::from_utf8(&message).is_err() {
            return Err(FrameError::InvalidText);
        }
        Ok(Some(Incoming::Message(opcode, message)))
    }
}

fn close_of(payload: &[u8]) -> Result<Incoming, FrameError> {
    let (code, reason) = match payload {
        [] => return Ok(Incoming::Close(None)),
        [_] => return Err(FrameError::Protocol("a close frame is malformed")),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    if !is_close_code(code) {
        return Err(FrameError::Protocol("a close code that no endpoint may send"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(FrameError::InvalidText);
    }
    Ok(Incoming::Close(Some(code)))
}

/// Whether an endpoint may send `code` (RFC 6455, 7.4, and the registry it opened): 1004 is reserved,
/// 1005, 1006 and 1015 stand for closes without a code, and the rest below 3000 is not assigned.
fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(0x80 | length as u8),
            length @ 126..=0xffff => {
                frame.push(0xfe);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(0xff);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at & 3]));
        frame
    }

    fn all(bytes: &[u8]) -> Result<Vec<Incoming>, FrameError> {
        let mut reader = FrameReader::new(bytes, 1 << 20);
        let mut found = Vec::new();
        while let Some(incoming) = reader.next()? {
            found.push(incoming);
        }
        Ok(found)
    }

    #[test]
    fn a_message_as_the_python_client_fragments_it() {
        let mut bytes = masked(BINARY, &vec![1; 32_768]);
        bytes.extend(masked(FIN | PING, b"now"));
        bytes.extend(masked(CONTINUATION, &[2; 10]));
        bytes.extend(masked(FIN | CONTINUATION, &[]));
        let whole: Vec<u8> = std::iter::repeat_n(1, 32_768).chain(std::iter::repeat_n(2, 10)).collect();
        let expected =
            vec![Incoming::Ping(Bytes::from_static(b"now")), Incoming::Message(Opcode::Binary, whole.into())];
        assert_eq!(all(&bytes), Ok(expected));
    }

    #[test]
    fn what_the_protocol_forbids_is_refused() {
        let protocol = |bytes: &[u8]| match all(bytes) {
            Err(error) => error.close_code(),
            Ok(found) => panic!("{found:?} was let through"),
        };
        assert_eq!(protocol(&[0x81, 0x01, b'a']), CloseCode::Protocol, "not masked");
        assert_eq!(protocol(&masked(0xc1, b"a")), CloseCode::Protocol, "reserved bit");
        assert_eq!(protocol(&masked(0x83, b"a")), CloseCode::Protocol, "unknown type");
        assert_eq!(protocol(&masked(0x80, b"a")), CloseCode::Protocol, "nothing to continue");
        assert_eq!(protocol(&masked(0x09, b"")), CloseCode::Protocol, "fragmented ping");
        assert_eq!(protocol(&masked(0x88, b"a")), CloseCode::Protocol, "half a close code");
        assert_eq!(protocol(&masked(0x81, b"\xff")), CloseCode::InvalidText);
        assert_eq!(protocol(&masked(0x82, &vec![0; (1 << 20) + 1])), CloseCode::TooBig);
        let twice = [masked(0x01, b"a"), masked(0x01, b"b")].concat();
        assert_eq!(protocol(&twice), CloseCode::Protocol, "a message within a message");
    }

    #[test]
    fn a_length_is_refused_before_its_bytes_are_awaited() {
        let mut head = masked(0x82, &vec![0; 70_000]);
        head[2..10].copy_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(all(&head[..14]), Err(FrameError::TooBig(1 << 20)));
    }

    #[test]
    fn a_length_in_more_bytes_than_it_needs_is_refused() {
        let head = |length: &[u8]| [&[FIN | BINARY][..], length, &[0; 4], &vec![0; 0x1_0000]].concat();
        let refused = |length: &[u8]| all(&head(length)).map_err(|error| error.close_code());
        for length in [&[0xfe, 0, 0][..], &[0xfe, 0, 125], &[0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]] {
            assert_eq!(refused(length), Err(CloseCode::Protocol), "{length:?}");
        }
        let message = |bytes: usize| Ok(vec![Incoming::Message(Opcode::Binary, vec![0; bytes].into())]);
        assert_eq!(all(&head(&[0xfe, 0, 126])[..8 + 126]), message(126));
        let length = [0xff, 0, 0, 0, 0, 0, 1, 0, 0];
        assert_eq!(all(&head(&length)[..14 + 0x1_0000]), message(0x1_0000));
    }

    #[test]
    fn a_close_code_that_nobody_may_send_is_not_echoed() {
        let close = |code: u16, reason: &[u8]| {
            all(&masked(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())).map_err(|e| e.close_code())
        };
        for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
            assert_eq!(close(code, b""), Err(CloseCode::Protocol), "{code}");
        }
        for code in [1000, 1003, 1007, 1014, 3000, 4999] {
            assert_eq!(close(code, "är".as_bytes()), Ok(vec![Incoming::Close(Some(code))]), "{code}");
        }
        assert_eq!(close(1000, b"\xff"), Err(CloseCode::InvalidText));
        assert_eq!(all(&masked(FIN | CLOSE, b"")), Ok(vec![Incoming::Close(None)]));
    }

    #[test]
    fn a_close_reason_is_cut_at_a_character() {
        let frame = close(CloseCode::Policy, &"é".repeat(100));
        assert_eq!(usize::from(frame[1]), 2 + 122);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }

    proptest! {
        #[test]
        fn cut_anywhere_the_same_messages_come_out(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..5),
            chunk in 1_usize..50,
        ) {
            let bytes = payloads.concat_frames();
            let mut reader = FrameReader::new(&[], 1 << 20);
            let mut found = Vec::new();
            for part in bytes.chunks(chunk) {
                reader.buffer.extend_from_slice(part);
                while let Some(incoming) = reader.next().unwrap() {
                    found.push(incoming);
                }
            }
            let expected: Vec<_> =
                payloads.into_iter().map(|payload| Incoming::Message(Opcode::Binary, payload.into())).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = all(&bytes);
        }

        #[test]
        fn a_servers_frame_is_what_its_head_says(length in prop_oneof![0_usize..300, 65_000_usize..66_000]) {
            let frame = message(Opcode::Text, &vec![b'a'; length]);
            let head = frame.len() - length;
            prop_assert_eq!(head, match length { 0..=125 => 2, 126..=0xffff => 4, _ => 10 });
            prop_assert_eq!(frame[0], 0x81);
        }
    }

    trait ConcatFrames {
        fn concat_frames(&self) -> Vec<u8>;
    }

    impl ConcatFrames for Vec<Vec<u8>> {
        fn concat_frames(&self) -> Vec<u8> {
            self.iter().flat_map(|payload| masked(FIN | BINARY, payload)).collect()
        }
    }
}
