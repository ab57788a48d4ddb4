//! What became of every packet and every message of a capture.

use std::collections::BTreeMap;
use std::fmt;

/// Reasons for refused messages that are counted one by one.
pub const REASONS_MAX: usize = 32;

/// The count of everything that was read, so that nothing is lost unseen: every message is
/// decoded, not carried, refused or a duplicate.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Packets of the capture.
    pub packets: u64,
    /// Packets that are not UDP over IPv4, or UDP that is not IEX-TP.
    pub packets_other: u64,
    /// Fragments of IPv4 datagrams, which are not put together.
    pub packets_fragmented: u64,
    /// Packets of which too little was captured.
    pub packets_cut: u64,
    /// Segments of TOPS 1.6, with the heartbeats.
    pub segments: u64,
    /// Segments without a message.
    pub heartbeats: u64,
    /// Segments of other message protocols, by the protocol's number.
    pub segments_other: BTreeMap<u16, u64>,
    /// Segments that hold less than they announce; what is whole in them is read.
    pub segments_damaged: u64,
    /// Messages of the TOPS 1.6 segments, as far as they are whole.
    pub messages: u64,
    /// `Q` → quotes.
    pub quotes: u64,
    /// `T` → trades.
    pub trades: u64,
    /// `B` → cancels.
    pub cancels: u64,
    /// `H` and `O` → statuses.
    pub statuses: u64,
    /// `D` → previous closes.
    pub prev_closes: u64,
    /// Messages that no tick is made of, by type.
    pub not_carried: [u64; 256],
    /// Messages with what the vocabulary refuses: a symbol, a price, a status, a length.
    pub refused: u64,
    /// The first refused one, and why.
    pub refused_first: Option<String>,
    /// How many were refused for each reason, which names the symbol or value: the first
    /// [`REASONS_MAX`] reasons.
    pub refused_reasons: BTreeMap<String, u64>,
    /// Messages dropped since their sequence numbers came before, or too late.
    pub duplicates: u64,
    /// Messages that came late and were delivered.
    pub out_of_order: u64,
    /// Gaps reported.
    pub gaps: u64,
    /// Messages that never came, by their sequence numbers.
    pub missed: u64,
    /// Sessions begun after a channel's first.
    pub resets: u64,
    /// Ticks decoded and then left out, since the symbols or the time asked for are others.
    pub filtered: u64,
    /// Where and how the capture was cut short at its end.
    pub truncation: Option<String>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            packets: 0,
            packets_other: 0,
            packets_fragmented: 0,
            packets_cut: 0,
            segments: 0,
            heartbeats: 0,
            segments_other: BTreeMap::new(),
            segments_damaged: 0,
            messages: 0,
            quotes: 0,
            trades: 0,
            cancels: 0,
            statuses: 0,
            prev_closes: 0,
            not_carried: [0; 256],
            refused: 0,
            refused_first: None,
            refused_reasons: BTreeMap::new(),
            duplicates: 0,
            out_of_order: 0,
            gaps: 0,
            missed: 0,
            resets: 0,
            filtered: 0,
            truncation: None,
        }
    }
}

impl Tally {
    /// Messages that became a tick.
    pub fn decoded(&self) -> u64 {
        self.quotes + self.trades + self.cancels + self.statuses + self.prev_closes
    }

    /// Messages of which the tally says what became of them; equal to `messages`, always.
    pub fn accounted(&self) -> u64 {
        self.decoded() + self.not_carried.iter().sum::<u64>() + self.refused + self.duplicates
    }

    /// Counts a message that is refused for `reason`; `message` says which it is.
    pub(super) fn refuse(&mut self, reason: String, message: impl FnOnce() -> String) {
        self.refused += 1;
        if self.refused_first.is_none() {
            self.refused_first = Some(format!("{}: {reason}", message()));
        }
        if let Some(count) = self.refused_reasons.get_mut(&reason) {
            *count += 1;
        } else if self.refused_reasons.len() < REASONS_MAX {
            self.refused_reasons.insert(reason, 1);
        }
    }
}

/// What a type of message is called, and why no tick is made of it.
fn not_carried_name(kind: u8) -> &'static str {
    match kind {
        b'S' => "system event",
        b'D' => "security directory of a test symbol or without a close",
        b'I' => "retail interest",
        b'O' => "operational halt: no change",
        b'P' => "short sale price test",
        b'X' => "official price",
        b'A' => "auction information",
        _ => "unknown type",
    }
}

/// The protocols of IEX-TP that have a name.
pub(super) fn protocol_name(protocol: u16) -> &'static str {
    match protocol {
        0x8002 => "TOPS 1.5",
        0x8003 => "TOPS 1.6",
        0x8004 => "DEEP 1.0",
        _ => "unknown",
    }
}

impl fmt::Display for Tally {
    /// Several lines, each a count and what it counts; lines of zeros are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |count: u64, what: &dyn fmt::Display| match count {
            0 => Ok(()),
            _ => writeln!(f, "{count:>12}  {what}"),
        };
        line(self.packets, &"packets")?;
        line(self.packets_other, &"packets: not IEX-TP over IPv4 and UDP")?;
        line(self.packets_fragmented, &"packets: fragments, not read")?;
        line(self.packets_cut, &"packets: captured in part, not read")?;
        line(self.segments, &"segments of TOPS 1.6")?;
        line(self.heartbeats, &"segments: heartbeats")?;
        for (&protocol, &count) in &self.segments_other {
            let name = protocol_name(protocol);
            line(count, &format_args!("segments of protocol {protocol:#06x} ({name}), not supported"))?;
        }
        line(self.segments_damaged, &"segments: damaged, read as far as they are whole")?;
        line(self.messages, &"messages")?;
        line(self.quotes, &"quotes")?;
        line(self.trades, &"trades")?;
        line(self.cancels, &"cancels")?;
        line(self.statuses, &"statuses")?;
        line(self.prev_closes, &"previous closes")?;
        for (kind, &count) in (0..=u8::MAX).zip(&self.not_carried) {
            let (letter, name) = (kind.escape_ascii(), not_carried_name(kind));
            line(count, &format_args!("not carried: {letter} ({name})"))?;
        }
        let first = self.refused_first.as_deref().unwrap_or_default();
        line(self.refused, &format_args!("refused, the first: {first}"))?;
        line(self.duplicates, &"duplicates, dropped")?;
        line(self.out_of_order, &"out of order, delivered")?;
        line(self.missed, &format_args!("missed, in {} gaps", self.gaps))?;
        line(self.resets, &"new sessions")?;
        line(self.filtered, &"outside the symbols or the time asked for")?;
        match &self.truncation {
            Some(truncation) => writeln!(f, "cut short: {truncation}"),
            None => Ok(()),
        }
    }
}
