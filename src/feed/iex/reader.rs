//! A capture to ticks, as quickly as it can.

use std::path::{Path, PathBuf};

use foldhash::HashSet;

use super::decode::{Decoder, Place};
use super::tally::{Tally, protocol_name};
use crate::feed::pcap::{CaptureFile, Payload};
use crate::feed::{BATCH_TICKS_MAX, FeedError};
use crate::market::{Symbol, Tick, TimeRange, Timestamp};

/// A capture without a segment of TOPS 1.6 in so many packets is none of TOPS.
const PROBE_PACKETS_MAX: u64 = 100_000;

/// Which ticks of a capture are wanted, and how often.
#[derive(Clone, Debug)]
pub struct Selection {
    /// By the ticks' own time, as it stands in the capture.
    pub range: TimeRange,
    /// These symbols; none means all. Gaps of a whole channel are always told.
    pub symbols: HashSet<Symbol>,
    /// Begins again at the end, for ever. Each pass is a new session, whose times go on after the
    /// last pass and whose trade ids are new too.
    pub repeat: bool,
}

impl Default for Selection {
    fn default() -> Self {
        Self { range: TimeRange::ALL, symbols: HashSet::default(), repeat: false }
    }
}

impl Selection {
    fn is_all(&self) -> bool {
        self.symbols.is_empty() && self.range == TimeRange::ALL
    }

    fn has(&self, tick: &Tick) -> bool {
        self.range.contains(tick.ts())
            && (self.symbols.is_empty() || tick.symbol().is_none_or(|symbol| self.symbols.contains(&symbol)))
    }
}

/// Reads a capture's ticks, synchronously.
pub struct IexReader {
    path: PathBuf,
    capture: CaptureFile,
    decoder: Decoder,
    selection: Selection,
    /// The last capture stamp seen.
    now: Timestamp,
    pass: u32,
    moved: Moved,
    /// Of this pass, before it is moved.
    extent: Extent,
    /// Whether a tick was left out by its time since the last one that was kept.
    left_out: bool,
    /// By how much the first repetition is moved: what tells one repeated capture from another.
    step: Moved,
    ended: bool,
}

/// By how much a pass is moved, so that it follows the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    nanos: i64,
    ids: u64,
}

/// What the ticks of a pass span.
#[derive(Clone, Copy, Debug)]
struct Extent {
    ts: (i64, i64),
    recv_ts: (i64, i64),
    id_max: u64,
    ticks: u64,
}

impl Extent {
    const EMPTY: Self = Self { ts: (i64::MAX, i64::MIN), recv_ts: (i64::MAX, i64::MIN), id_max: 0, ticks: 0 };

    fn add(&mut self, tick: &Tick) {
        let widen = |(low, high): (i64, i64), at: i64| (low.min(at), high.max(at));
        self.ts = widen(self.ts, tick.ts().nanos());
        self.recv_ts = widen(self.recv_ts, tick.recv_ts().nanos());
        if let Tick::Trade(trade) = tick {
            self.id_max = self.id_max.max(trade.id);
        }
        self.ticks += 1;
    }

    /// The least shift that puts the same ticks after themselves, on both clocks.
    fn nanos(&self) -> i64 {
        let span = |(low, high): (i64, i64)| high.saturating_sub(low).saturating_add(1);
        span(self.ts).max(span(self.recv_ts))
    }
}

impl IexReader {
    /// Opens a capture.
    ///
    /// Errors: the file can't be read, or is no capture.
    pub fn open(path: &Path, selection: Selection) -> Result<Self, FeedError> {
        Ok(Self::new(path.to_owned(), CaptureFile::open(path)?, selection))
    }

    pub(super) fn new(path: PathBuf, capture: CaptureFile, selection: Selection) -> Self {
        Self {
            path,
            capture,
            decoder: Decoder::new(),
            selection,
            now: Timestamp::MIN,
            pass: 0,
            moved: Moved::default(),
            extent: Extent::EMPTY,
            left_out: false,
            step: Moved::default(),
            ended: false,
        }
    }

    /// Which ticks are wanted.
    pub(super) fn selection(&self) -> &Selection {
        &self.selection
    }

    /// What tells the repetitions of this capture from those of another, once it was read to its end.
    pub fn repetition(&self) -> (i64, u64) {
        (self.step.nanos, self.step.ids)
    }

    /// Has the places of ticks kept from now on: see [`IexReader::take_places`].
    pub fn keep_places(&mut self) {
        self.decoder.places = Some(Vec::new());
    }

    /// The places of the ticks read since the last call, in their order.
    pub fn take_places(&mut self) -> Vec<Place> {
        self.decoder.places.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// What became of everything read so far.
    pub fn tally(&self) -> &Tally {
        &self.decoder.tally
    }

    /// How often the capture has begun again.
    pub fn pass(&self) -> u32 {
        self.pass
    }

    /// Gives all ticks to `sink`, at most [`BATCH_TICKS_MAX`] at once. Of a repeated selection it
    /// comes back only with an error.
    ///
    /// Errors come after all ticks before them.
    pub fn decode_all(&mut self, sink: &mut impl FnMut(&[Tick])) -> Result<(), FeedError> {
        let mut ticks = Vec::with_capacity(2 * BATCH_TICKS_MAX);
        loop {
            let more = self.read(&mut ticks);
            ticks.chunks(BATCH_TICKS_MAX).for_each(&mut *sink);
            ticks.clear();
            if !more? {
                return Ok(());
            }
        }
    }

    /// Adds ticks of one pass to `ticks`, at least [`BATCH_TICKS_MAX`] unless the pass ends before,
    /// and a few more than that; whether there may be more to come.
    ///
    /// On an error `ticks` holds what came before it.
    pub fn read(&mut self, ticks: &mut Vec<Tick>) -> Result<bool, FeedError> {
        let first = ticks.len();
        while !self.ended && ticks.len() < first + BATCH_TICKS_MAX {
            let start = ticks.len();
            let more = self.read_packet(ticks);
            self.select(ticks, start);
            match more {
                Ok(true) => {}
                Ok(false) => {
                    self.end_pass()?;
                    return Ok(!self.ended);
                }
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
        Ok(!self.ended)
    }

    /// Decodes one packet; at the end of the file, tells what is still missing and returns false.
    fn read_packet(&mut self, ticks: &mut Vec<Tick>) -> Result<bool, FeedError> {
        let tally = &mut self.decoder.tally;
        let Some(packet) = self.capture.next_packet()? else {
            tally.truncation = self.capture.truncation().map(str::to_owned);
            self.decoder.finish(self.now, ticks);
            self.require_tops()?;
            return Ok(false);
        };
        tally.packets += 1;
        self.now = packet.stamp.unwrap_or(self.now);
        match packet.payload() {
            Payload::Udp(_) if packet.snapped => tally.packets_cut += 1,
            Payload::Udp(datagram) => self.decoder.datagram(datagram, packet.stamp, ticks),
            Payload::Fragment => tally.packets_fragmented += 1,
            Payload::Cut => tally.packets_cut += 1,
            Payload::Other => tally.packets_other += 1,
        }
        if self.tally().packets == PROBE_PACKETS_MAX {
            self.require_tops()?;
        }
        Ok(true)
    }

    fn require_tops(&self) -> Result<(), FeedError> {
        let Tally { packets, segments, segments_other, truncation, .. } = self.tally();
        if *segments > 0 {
            return Ok(());
        }
        let reason = if segments_other.is_empty() {
            let cut = truncation.as_deref().map(|truncation| format!(" ({truncation})")).unwrap_or_default();
            format!("no IEX-TP in its first {packets} packets{cut}; give a capture of IEX's TOPS 1.6 feed")
        } else {
            let found: Vec<String> = segments_other
                .keys()
                .take(4)
                .map(|&protocol| format!("{} ({protocol:#06x})", protocol_name(protocol)))
                .collect();
            format!("carries {}, which is not supported; give a capture of TOPS 1.6", found.join(", "))
        };
        Err(FeedError::Format { subject: self.capture.name().to_owned(), reason })
    }

    /// Leaves out of `ticks[start..]` what is not wanted, and moves the rest to its pass.
    fn select(&mut self, ticks: &mut Vec<Tick>, start: usize) {
        if !self.selection.is_all() {
            let mut kept = start;
            let mut places = self.decoder.places.as_mut();
            // The places of `ticks[start..]` are the last ones.
            let ahead = places.as_ref().map_or(0, |places| places.len() + start - ticks.len());
            for index in start..ticks.len() {
                if self.selection.has(&ticks[index]) {
                    ticks.swap(kept, index);
                    if let Some(places) = &mut places {
                        let place = places[ahead + index - start];
                        let follows_hole = place.follows_hole | std::mem::take(&mut self.left_out);
                        places[ahead + kept - start] = Place { follows_hole, ..place };
                    }
                    kept += 1;
                } else {
                    let place = places.as_ref().map(|places| places[ahead + index - start]);
                    self.left_out |= !self.selection.range.contains(ticks[index].ts())
                        || place.is_some_and(|place| place.follows_hole);
                }
            }
            if let Some(places) = &mut places {
                places.truncate(ahead + kept - start);
            }
            self.decoder.tally.filtered += (ticks.len() - kept) as u64;
            ticks.truncate(kept);
        }
        if !self.selection.repeat {
            return;
        }
        let Moved { nanos, ids } = self.moved;
        for tick in &mut ticks[start..] {
            self.extent.add(tick);
            tick.shift(nanos);
            match tick {
                Tick::Trade(trade) => trade.id = trade.id.wrapping_add(ids),
                Tick::Cancel(cancel) => cancel.id = cancel.id.wrapping_add(ids),
                _ => {}
            }
        }
    }

    fn end_pass(&mut self) -> Result<(), FeedError> {
        if let Some(truncation) = &self.decoder.tally.truncation
            && self.pass == 0
        {
            tracing::warn!(%truncation, "the capture is cut short");
        }
        // A selection without a tick would be repeated for ever in vain.
        if !self.selection.repeat || self.extent.ticks == 0 {
            self.ended = true;
            return Ok(());
        }
        self.moved.nanos = self.moved.nanos.saturating_add(self.extent.nanos());
        self.moved.ids = self.moved.ids.wrapping_add(self.extent.id_max.saturating_add(1));
        if self.pass == 0 {
            self.step = self.moved;
        }
        self.extent = Extent::EMPTY;
        self.pass = self.pass.wrapping_add(1);
        self.capture = match CaptureFile::open(&self.path) {
            Ok(capture) => capture,
            Err(error) => {
                self.ended = true;
                return Err(error);
            }
        };
        Ok(())
    }
}
