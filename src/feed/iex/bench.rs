//! How quickly captures are decoded.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::make;
use super::reader::{IexReader, Selection};
use crate::feed::FeedError;
use crate::feed::pcap::{CaptureFile, Payload};
use crate::market::Timestamp;

/// What a run of [`bench_decode`] came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeFigures {
    /// Bytes of the capture that was decoded.
    pub bytes: u64,
    /// Packets in it.
    pub packets: u64,
    /// Messages in it.
    pub messages: u64,
    /// Ticks made of them, with a gap (reset) for every repetition after the first.
    pub ticks: u64,
    /// How long it took, on one thread.
    pub elapsed: Duration,
    /// Messages a second.
    pub messages_per_s: f64,
    /// Bytes a second.
    pub bytes_per_s: f64,
}

/// Decodes a capture that is repeated in memory, unpacked, until it has `bytes_min` bytes. Each
/// repetition is a session of its own, so that none is taken for a duplicate. Without a `path` the
/// capture is made up.
///
/// Errors: as [`IexReader::open`] and [`IexReader::read`].
pub fn bench_decode(path: Option<&Path>, bytes_min: u64) -> Result<DecodeFigures, FeedError> {
    let source = match path {
        Some(path) => CaptureFile::open(path)?,
        None => CaptureFile::from_reader("made up".to_owned(), Cursor::new(made_up()))?,
    };
    let name = source.name().to_owned();
    let repeated = repeat(source, bytes_min)?;
    let bytes = repeated.len() as u64;
    let capture = CaptureFile::from_reader(name, Cursor::new(repeated))?;
    let mut reader = IexReader::new(PathBuf::new(), capture, Selection::default());
    let mut ticks = 0;
    let start = Instant::now();
    reader.decode_all(&mut |batch| ticks += std::hint::black_box(batch).len() as u64)?;
    let elapsed = start.elapsed();
    let (packets, messages) = (reader.tally().packets, reader.tally().messages);
    let per_s = |count: u64| count as f64 / elapsed.as_secs_f64();
    Ok(DecodeFigures {
        bytes,
        packets,
        messages,
        ticks,
        elapsed,
        messages_per_s: per_s(messages),
        bytes_per_s: per_s(bytes),
    })
}

/// The source's datagrams as one capture of Ethernet, over and over.
fn repeat(mut source: CaptureFile, bytes_min: u64) -> Result<Vec<u8>, FeedError> {
    const SESSION_AT: usize = 8;
    let mut records = Vec::new();
    let mut sessions: Vec<(usize, u32)> = Vec::new();
    while let Some(packet) = source.next_packet()? {
        let Payload::Udp(segment) = packet.payload() else { continue };
        let Some(&session) = segment.get(SESSION_AT..).and_then(|rest| rest.first_chunk()) else { continue };
        records.extend(make::pcap_record(packet.stamp.unwrap_or_default(), &make::ethernet(segment)));
        sessions.push((records.len() - segment.len() + SESSION_AT, u32::from_le_bytes(session)));
    }
    let mut file = make::pcap_header();
    let mut repetition = 0_u32;
    while (file.len() as u64) < bytes_min && !records.is_empty() {
        for (at, session) in &sessions {
            records[*at..at + 4].copy_from_slice(&session.wrapping_add(repetition).to_le_bytes());
        }
        file.extend(&records);
        repetition += 1;
    }
    Ok(file)
}

/// A capture of four messages a segment, of which every fifth is a trade.
fn made_up() -> Vec<u8> {
    const SEGMENTS: i64 = 10_000;
    let start = 1_499_693_400_000_000_000;
    let segments: Vec<_> = (0..SEGMENTS)
        .map(|segment| {
            let ts = Timestamp::from_nanos(start + segment * 1_000_000);
            let messages = (segment * 4..segment * 4 + 4).map(|message| {
                let number = message * 7919 % 5000;
                let letter = |place: i64| char::from(b'A' + (number / place % 26) as u8);
                let symbol: String = [letter(676), letter(26), letter(1)].iter().collect();
                let price = 10_000 + number * 100;
                match message % 5 {
                    0 => make::trade(&symbol, ts, 0, price, 100, message as u64),
                    _ => make::quote(&symbol, ts, 0, (price - 100, 100), (price + 100, 300)),
                }
            });
            (ts, messages.collect())
        })
        .collect();
    make::capture(&segments)
}
