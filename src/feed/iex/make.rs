//! Captures made byte by byte: for tests, and for a benchmark without a file.
//!
//! Prices are in 1e-4 dollars, as on the wire.

use super::decode::{HEADER_BYTES, PROTOCOL_TOPS_1_6};
use crate::market::Timestamp;

fn headed(kind: u8, detail: u8, ts: Timestamp, symbol: &str) -> Vec<u8> {
    let mut message = vec![kind, detail];
    message.extend(ts.nanos().to_le_bytes());
    message.extend(format!("{symbol:<8}").bytes().take(8));
    message
}

/// A quote update: each side as (price, size).
pub fn quote(symbol: &str, ts: Timestamp, flags: u8, bid: (i64, u32), ask: (i64, u32)) -> Vec<u8> {
    let mut message = headed(b'Q', flags, ts, symbol);
    message.extend(bid.1.to_le_bytes());
    message.extend(bid.0.to_le_bytes());
    message.extend(ask.0.to_le_bytes());
    message.extend(ask.1.to_le_bytes());
    message
}

/// A trade report.
pub fn trade(symbol: &str, ts: Timestamp, flags: u8, price: i64, size: u32, id: u64) -> Vec<u8> {
    let mut message = headed(b'T', flags, ts, symbol);
    message.extend(size.to_le_bytes());
    message.extend(price.to_le_bytes());
    message.extend(id.to_le_bytes());
    message
}

/// A trade break: the layout of a trade report.
pub fn trade_break(symbol: &str, ts: Timestamp, price: i64, size: u32, id: u64) -> Vec<u8> {
    let mut message = trade(symbol, ts, 0, price, size, id);
    message[0] = b'B';
    message
}

/// A trading status; the reason has up to four characters.
pub fn trading_status(symbol: &str, ts: Timestamp, status: u8, reason: &str) -> Vec<u8> {
    let mut message = headed(b'H', status, ts, symbol);
    message.extend(format!("{reason:<4}").bytes().take(4));
    message
}

/// An operational halt: `O` halted, `N` not.
pub fn operational_halt(symbol: &str, ts: Timestamp, status: u8) -> Vec<u8> {
    headed(b'O', status, ts, symbol)
}

/// A security directory message.
pub fn directory(symbol: &str, ts: Timestamp, flags: u8, close: i64) -> Vec<u8> {
    let mut message = headed(b'D', flags, ts, symbol);
    message.extend(100_u32.to_le_bytes());
    message.extend(close.to_le_bytes());
    message.push(1);
    message
}

/// A system event.
pub fn system_event(ts: Timestamp, event: u8) -> Vec<u8> {
    headed(b'S', event, ts, "")[..10].to_vec()
}

/// A segment of TOPS 1.6 with these messages, the first of number `sequence`.
pub fn segment(channel: u32, session: u32, sequence: u64, sent: Timestamp, messages: &[Vec<u8>]) -> Vec<u8> {
    let payload_bytes: usize = messages.iter().map(|message| 2 + message.len()).sum();
    let mut segment = Vec::with_capacity(HEADER_BYTES + payload_bytes);
    segment.extend([1, 0]);
    segment.extend(PROTOCOL_TOPS_1_6.to_le_bytes());
    segment.extend(channel.to_le_bytes());
    segment.extend(session.to_le_bytes());
    segment.extend((payload_bytes as u16).to_le_bytes());
    segment.extend((messages.len() as u16).to_le_bytes());
    segment.extend(0_i64.to_le_bytes());
    segment.extend(sequence.to_le_bytes());
    segment.extend(sent.nanos().to_le_bytes());
    for message in messages {
        segment.extend((message.len() as u16).to_le_bytes());
        segment.extend(message);
    }
    segment
}

/// A UDP datagram in IPv4, without a link layer. Checksums are left out.
pub fn ipv4(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((28 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 233, 215, 21, 4]);
    packet.extend(10_378_u16.to_be_bytes());
    packet.extend(10_378_u16.to_be_bytes());
    packet.extend((8 + payload.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// A UDP datagram in IPv4 in Ethernet.
pub fn ethernet(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![1, 0, 0x5e, 87, 21, 4, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend(ipv4(payload));
    frame
}

/// A pcap file's header: Ethernet, little-endian, stamps in nanoseconds.
pub fn pcap_header() -> Vec<u8> {
    let mut header = 0xa1b2_3c4d_u32.to_le_bytes().to_vec();
    header.extend([2, 0, 4, 0]);
    header.extend([0; 8]);
    header.extend(65_535_u32.to_le_bytes());
    header.extend(1_u32.to_le_bytes());
    header
}

/// A packet's record, after [`pcap_header`].
pub fn pcap_record(stamp: Timestamp, packet: &[u8]) -> Vec<u8> {
    let (seconds, nanos) = (stamp.nanos() / 1_000_000_000, stamp.nanos() % 1_000_000_000);
    let mut record = Vec::with_capacity(16 + packet.len());
    for word in [seconds as u32, nanos as u32, packet.len() as u32, packet.len() as u32] {
        record.extend(word.to_le_bytes());
    }
    record.extend(packet);
    record
}

/// A whole capture of one session and channel: one segment a stamp.
pub fn capture(segments: &[(Timestamp, Vec<Vec<u8>>)]) -> Vec<u8> {
    let mut file = pcap_header();
    let mut sequence = 1;
    for (stamp, messages) in segments {
        file.extend(pcap_record(*stamp, &ethernet(&segment(1, 7, sequence, *stamp, messages))));
        sequence += messages.len() as u64;
    }
    file
}
