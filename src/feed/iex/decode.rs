//! IEX-TP segments of TOPS 1.6 to ticks, without I/O.
//!
//! What becomes of a message:
//!
//! | type | tick |
//! |---|---|
//! | `Q` | quote of exchange `V`; conditions `R`, or `N` (non-firm) when halted or unavailable, and `T` outside regular hours |
//! | `T` | trade of exchange `V`; conditions `F` intermarket sweep, `T` extended hours, `X` single-price cross, `I` odd lot, `@` when none of them. Trade-through exempt has no code |
//! | `B` | cancel, action `C` |
//! | `H` | status `H`, `O`, `P` or `T`, with its reason |
//! | `O` | status `OH` when an operational halt begins. When it ends, the status that `H` gave last. That a symbol is not halted, where no halt had begun, is said of every symbol each morning and changes nothing: not carried |
//! | `D` | previous close. Of a test symbol, or without a close: not carried |
//! | others | not carried, counted by type |
//!
//! Symbols are taken as they are, with the suffixes of Nasdaq's INET symbology: preferred `-`, class `.`,
//! warrant `+`, right `^`, unit `=`, when issued `#`, when distributed `$`, called `*`, convertible `%`,
//! emerging company `!`, partly paid `@`, test `~`.
//!
//! Test symbols trade by the same messages as others, so their quotes and trades are carried. TOPS
//! does not say on which tape a symbol is; [`Tape::default`] stands there.
//!
//! Of the three clocks a tick's `ts` is the message's, its `recv_ts` the capture's stamp (the send
//! time where there is none), and a gap's `ts` the send time of the segment that showed it.

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use super::tally::Tally;
use crate::feed::gaps::{Event, SequenceTracker, Verdict};
use crate::market::{
    Cancel, Conditions, Exchange, Gap, GapKind, PrevClose, Price, Quote, Status, Symbol, Tape, Tick,
    Timestamp, Trade, TradingDay,
};

/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 40;
/// TOPS 1.6 in a segment's header.
pub const PROTOCOL_TOPS_1_6: u16 = 0x8003;
/// The most channels followed at once; segments of further ones are damaged.
const CHANNELS_MAX: usize = 1024;
/// The most symbols whose halt is remembered; further halts are told all the same.
const HALTS_MAX: usize = 1 << 16;

/// A numbered stream: one channel of a session on one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    /// IEX-TP's session.
    pub session: u32,
    /// IEX-TP's channel.
    pub channel: u32,
    /// The day it was sent on, in New York.
    pub day: TradingDay,
    /// Whether it is a repetition of a capture: all further ones are one stream.
    pub is_repeat: bool,
}

/// A tick's place in its stream: the same whenever the stream is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The stream.
    pub stream: Stream,
    /// A message has its sequence number, shifted by 12 bits; gaps count on from the message before. It rises from
    /// tick to tick of a stream but for late messages.
    pub position: u64,
    /// Whether messages are missing before it, which another capture may have. Of a late message nobody knows.
    pub follows_hole: bool,
}

impl Place {
    /// The place of a tick where nobody asks for places.
    pub(super) const UNKNOWN: Self = Self {
        stream: Stream {
            session: 0,
            channel: 0,
            day: TradingDay::from_days_since_epoch(0),
            is_repeat: false,
        },
        position: 0,
        follows_hole: false,
    };
}

/// Bits of a position below the sequence number.
const POSITION_BITS: u32 = 12;
/// Bits of a position below the number of a repetition.
const PASS_BITS: u32 = 44;

/// Decodes segments to ticks, keeps the sequence numbers and counts everything.
#[derive(Debug)]
pub struct Decoder {
    /// What became of all that was seen.
    pub tally: Tally,
    /// The places of the ticks that were decoded, where somebody wants and takes them.
    pub places: Option<Vec<Place>>,
    lines: HashMap<u32, Line>,
    /// Distinguishes repeats of a capture: each is a new session.
    pass: u32,
    /// The last status other than trading that `H` gave, of symbols that have one.
    halts: HashMap<Symbol, u8>,
    operational_halts: HashSet<Symbol>,
    /// By the flags' upper bits.
    trade_conditions: [Conditions; 32],
    quote_conditions: [Conditions; 4],
}

/// One channel.
#[derive(Debug)]
struct Line {
    tracker: SequenceTracker,
    /// As gap records name it.
    source: Box<str>,
    stream: Stream,
    /// The position of the last tick.
    position: u64,
    /// The number after the highest message seen.
    next: u64,
    /// Whether messages are missing before the next tick.
    follows_hole: bool,
}

impl Line {
    /// Takes note of `ticks` gaps that were told.
    fn place_told(&mut self, places: &mut Option<Vec<Place>>, ticks: usize) {
        if let Some(places) = places {
            // A hole is told of late, and lies before the message that follows it.
            let follows_hole = std::mem::take(&mut self.follows_hole);
            self.place(places, ticks, 0);
            self.follows_hole = follows_hole;
        }
    }

    /// Takes note of `ticks` ticks of a late message, which lie at position `at`.
    fn place_late(&mut self, places: &mut Vec<Place>, ticks: usize, at: u64, follows_hole: bool) {
        let in_order = (self.position, self.follows_hole);
        (self.position, self.follows_hole) = (0, follows_hole);
        self.place(places, ticks, at);
        (self.position, self.follows_hole) = in_order;
    }

    /// Takes note of `ticks` more ticks, which lie at position `at` unless others did.
    fn place(&mut self, places: &mut Vec<Place>, ticks: usize, at: u64) {
        for _ in 0..ticks {
            self.position = (self.position + 1).max(at);
            let follows_hole = std::mem::take(&mut self.follows_hole);
            places.push(Place { stream: self.stream, position: self.position, follows_hole });
        }
    }
}

struct Header {
    channel: u32,
    session: u32,
    payload_bytes: usize,
    messages: u16,
    sequence: u64,
    sent: Timestamp,
}

/// Why a message makes no tick.
enum Left {
    NotCarried,
    Refused(String),
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder that has seen nothing.
    pub fn new() -> Self {
        Self {
            tally: Tally::default(),
            places: None,
            lines: HashMap::new(),
            pass: 0,
            halts: HashMap::new(),
            operational_halts: HashSet::new(),
            trade_conditions: std::array::from_fn(|flags| trade_conditions((flags as u8) << 3)),
            quote_conditions: std::array::from_fn(|flags| quote_conditions((flags as u8) << 6)),
        }
    }

    /// Decodes one datagram, captured at `stamp`, and adds its ticks to `ticks`.
    pub fn datagram(&mut self, bytes: &[u8], stamp: Option<Timestamp>, ticks: &mut Vec<Tick>) {
        let Some((header, mut rest)) = self.header(bytes) else { return };
        let Header { channel, session, messages: announced, sequence, sent, .. } = header;
        let recv_ts = stamp.unwrap_or(sent);
        if self.lines.len() >= CHANNELS_MAX && !self.lines.contains_key(&channel) {
            self.tally.segments_damaged += 1;
            return;
        }
        self.tally.segments += 1;
        self.tally.heartbeats += u64::from(announced == 0);
        // What a damaged segment announces and does not hold is seen as a gap, as if never sent.
        let messages = whole_messages(rest, announced);
        self.tally.segments_damaged += u64::from(messages < announced);
        self.tally.messages += u64::from(messages);

        let stream = Stream { session, channel, day: sent.trading_day(), is_repeat: self.pass > 0 };
        let line = self.lines.entry(channel).or_insert_with(|| Line {
            tracker: SequenceTracker::new(Some(1)),
            source: source(session, channel),
            stream,
            position: 0,
            next: sequence,
            follows_hole: false,
        });
        let counts_before = line.tracker.counts();
        let ticks_before = ticks.len();
        let Line { tracker, source: line_source, .. } = line;
        let key = u64::from(self.pass) << 32 | u64::from(session);
        let verdict = tracker.observe(key, sequence, u64::from(messages), recv_ts, &mut |event| {
            if matches!(event, Event::Reset(_)) {
                *line_source = source(session, channel);
            }
            ticks.push(gap(event, sent, recv_ts, line_source));
        });
        let counts = tracker.counts();
        self.tally.duplicates += counts.duplicates - counts_before.duplicates;
        self.tally.out_of_order += counts.out_of_order - counts_before.out_of_order;
        self.tally.gaps += counts.gaps - counts_before.gaps;
        self.tally.missed = self.tally.missed.saturating_add(counts.missed - counts_before.missed);
        self.tally.resets += counts.resets - counts_before.resets;
        if verdict == Verdict::Stale {
            // Of a session that is over, or messages that came before.
            line.place_told(&mut self.places, ticks.len() - ticks_before);
            return;
        }
        if line.stream != stream {
            (line.stream, line.position, line.next) = (stream, 0, sequence);
        }
        let in_order_from = line.next;
        line.follows_hole |= sequence > line.next;
        line.next = line.next.max(sequence + u64::from(messages));
        line.place_told(&mut self.places, ticks.len() - ticks_before);

        // The late message before, if a tick of it or of those that it follows was placed.
        let mut late_before: Option<u64> = None;
        for index in 0..u64::from(messages) {
            let Some((message, after)) = split_message(rest) else { break };
            rest = after;
            if verdict == Verdict::Partly
                && !self.lines.get(&channel).is_some_and(|line| line.tracker.is_fresh(sequence + index))
            {
                continue;
            }
            let ticks_before = ticks.len();
            match self.message(message, recv_ts, ticks) {
                Ok(()) => {
                    if let (Some(places), Some(line)) = (&mut self.places, self.lines.get_mut(&channel)) {
                        let number = sequence + index;
                        let at = u64::from(self.pass) << PASS_BITS | number << POSITION_BITS;
                        let ticks = ticks.len() - ticks_before;
                        if number < in_order_from {
                            let follows = late_before.is_some_and(|before| before + 1 == number);
                            line.place_late(places, ticks, at, !follows);
                            late_before = (follows || ticks > 0).then_some(number);
                        } else {
                            line.place(places, ticks, at);
                        }
                    }
                }
                Err(Left::NotCarried) => {
                    self.tally.not_carried[usize::from(message.first().copied().unwrap_or(0))] += 1;
                }
                Err(Left::Refused(reason)) => {
                    self.tally
                        .refuse(reason, || format!("message {} of session {session}", sequence + index));
                }
            }
        }
    }

    /// Tells the gaps that still wait to be filled, at the end of a capture. What follows is a new
    /// session of every channel.
    pub fn finish(&mut self, now: Timestamp, ticks: &mut Vec<Tick>) {
        let mut channels: Vec<u32> = self.lines.keys().copied().collect();
        channels.sort_unstable();
        for channel in channels {
            let Some(line) = self.lines.get_mut(&channel) else { continue };
            let (before, ticks_before) = (line.tracker.counts(), ticks.len());
            line.tracker.finish(&mut |event| ticks.push(gap(event, now, now, &line.source)));
            let counts = line.tracker.counts();
            self.tally.gaps += counts.gaps - before.gaps;
            self.tally.missed = self.tally.missed.saturating_add(counts.missed - before.missed);
            line.place_told(&mut self.places, ticks.len() - ticks_before);
        }
        self.pass += 1;
    }

    fn header<'a>(&mut self, bytes: &'a [u8]) -> Option<(Header, &'a [u8])> {
        let protocol = bytes.get(2..4).map(|b| u16::from_le_bytes([b[0], b[1]])).unwrap_or_default();
        let Some((&head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>().filter(|(head, _)| {
            // Every message protocol of IEX-TP has a number from 0x8000 on.
            head[0] == 1 && protocol & 0xff00 == 0x8000
        }) else {
            self.tally.packets_other += 1;
            return None;
        };
        if protocol != PROTOCOL_TOPS_1_6 {
            *self.tally.segments_other.entry(protocol).or_default() += 1;
            return None;
        }
        let sequence = u64_at(&head, 24);
        let header = Header {
            channel: u32_at(&head, 4),
            session: u32_at(&head, 8),
            payload_bytes: usize::from(u16_at(&head, 12)),
            messages: u16_at(&head, 14),
            sequence,
            sent: Timestamp::from_nanos(u64_at(&head, 32) as i64),
        };
        let Some(payload) = rest.get(..header.payload_bytes).filter(|_| i64::try_from(sequence).is_ok())
        else {
            self.tally.segments_damaged += 1;
            return None;
        };
        Some((header, payload))
    }

    fn message(&mut self, message: &[u8], recv_ts: Timestamp, ticks: &mut Vec<Tick>) -> Result<(), Left> {
        let Some(&kind) = message.first() else {
            return Err(Left::Refused("an empty message".to_owned()));
        };
        match kind {
            b'Q' => {
                let m = known::<42>(message)?;
                ticks.push(Tick::Quote(Quote {
                    symbol: symbol(m)?,
                    ts: ts(m)?,
                    recv_ts,
                    bid: price(m, 22)?,
                    ask: price(m, 30)?,
                    bid_size: u32_at(m, 18),
                    ask_size: u32_at(m, 38),
                    bid_exchange: Exchange::IEX,
                    ask_exchange: Exchange::IEX,
                    conditions: self.quote_conditions[usize::from(m[1] >> 6)],
                    tape: Tape::default(),
                }));
                self.tally.quotes += 1;
            }
            b'T' => {
                let m = known::<38>(message)?;
                ticks.push(Tick::Trade(Trade {
                    symbol: symbol(m)?,
                    ts: ts(m)?,
                    recv_ts,
                    price: price(m, 22)?,
                    size: u32_at(m, 18),
                    exchange: Exchange::IEX,
                    conditions: self.trade_conditions[usize::from(m[1] >> 3)],
                    id: u64_at(m, 30),
                    tape: Tape::default(),
                }));
                self.tally.trades += 1;
            }
            b'B' => {
                let m = known::<38>(message)?;
                ticks.push(Tick::Cancel(Box::new(Cancel {
                    symbol: symbol(m)?,
                    ts: ts(m)?,
                    recv_ts,
                    id: u64_at(m, 30),
                    price: price(m, 22)?,
                    size: u32_at(m, 18),
                    exchange: Exchange::IEX,
                    action: b'C',
                    tape: Tape::default(),
                })));
                self.tally.cancels += 1;
            }
            b'H' => self.trading_status(known::<22>(message)?, recv_ts, ticks)?,
            b'O' => self.operational_halt(known::<18>(message)?, recv_ts, ticks)?,
            b'D' => {
                let m = known::<31>(message)?;
                let (is_test, price) = (m[1] & 0x80 != 0, price(m, 22)?);
                if is_test || price.is_zero() {
                    return Err(Left::NotCarried);
                }
                ticks.push(Tick::PrevClose(PrevClose { symbol: symbol(m)?, ts: ts(m)?, recv_ts, price }));
                self.tally.prev_closes += 1;
            }
            _ => return Err(Left::NotCarried),
        }
        Ok(())
    }

    fn trading_status(
        &mut self,
        m: &[u8; 22],
        recv_ts: Timestamp,
        ticks: &mut Vec<Tick>,
    ) -> Result<(), Left> {
        let (symbol, ts) = (symbol(m)?, ts(m)?);
        let code = m[1];
        let Some(words) = status_words(code) else {
            return Err(Left::Refused(format!("trading status '{}' of {symbol}", code.escape_ascii())));
        };
        if code == b'T' {
            self.halts.remove(&symbol);
        } else if self.halts.len() < HALTS_MAX {
            self.halts.insert(symbol, code);
        }
        let reason = std::str::from_utf8(&m[18..22]).unwrap_or_default().trim_end_matches([' ', '\0']);
        ticks.push(status(symbol, ts, recv_ts, char::from(code).encode_utf8(&mut [0; 4]), words, reason));
        self.tally.statuses += 1;
        Ok(())
    }

    fn operational_halt(
        &mut self,
        m: &[u8; 18],
        recv_ts: Timestamp,
        ticks: &mut Vec<Tick>,
    ) -> Result<(), Left> {
        let (symbol, ts) = (symbol(m)?, ts(m)?);
        match m[1] {
            b'O' => {
                if self.operational_halts.len() < HALTS_MAX {
                    self.operational_halts.insert(symbol);
                }
                ticks.push(status(symbol, ts, recv_ts, "OH", "Operational Halt", ""));
            }
            b'N' if self.operational_halts.remove(&symbol) => {
                let code = self.halts.get(&symbol).copied().unwrap_or(b'T');
                let words = status_words(code).unwrap_or_default();
                let code = char::from(code);
                ticks.push(status(symbol, ts, recv_ts, code.encode_utf8(&mut [0; 4]), words, ""));
            }
            b'N' => return Err(Left::NotCarried),
            code => {
                return Err(Left::Refused(format!(
                    "operational halt status '{}' of {symbol}",
                    code.escape_ascii()
                )));
            }
        }
        self.tally.statuses += 1;
        Ok(())
    }
}

fn source(session: u32, channel: u32) -> Box<str> {
    format!("iex/{session}/{channel}").into()
}

fn gap(event: Event, ts: Timestamp, recv_ts: Timestamp, source: &str) -> Tick {
    let (kind, first, last) = match event {
        Event::Missed(span) => (GapKind::Missed, span.first, span.last),
        Event::Reset(first) => (GapKind::Reset, first, 0),
    };
    Tick::Gap(Box::new(Gap { symbol: None, ts, recv_ts, kind, source: source.into(), first, last }))
}

fn status(symbol: Symbol, ts: Timestamp, recv_ts: Timestamp, code: &str, words: &str, reason: &str) -> Tick {
    Tick::Status(Box::new(Status {
        symbol,
        ts,
        recv_ts,
        code: code.into(),
        message: words.into(),
        reason_code: reason.into(),
        reason_message: reason_words(reason).into(),
        tape: Tape::default(),
    }))
}

fn status_words(code: u8) -> Option<&'static str> {
    Some(match code {
        b'H' => "Trading Halt",
        b'O' => "Order Acceptance Period",
        b'P' => "Trading Pause",
        b'T' => "Trading",
        _ => return None,
    })
}

/// The reasons that IEX names: "IEX TOPS Specification", Trading Status Message.
fn reason_words(code: &str) -> &'static str {
    match code {
        "T1" => "News Pending",
        "IPO1" => "IPO Not Yet Trading",
        "IPOD" => "IPO Deferred",
        "MCB3" => "Market-Wide Circuit Breaker Level 3 Breached",
        "T2" => "News Dissemination",
        "IPO2" => "IPO Order Acceptance Period",
        "IPO3" => "IPO Pre-Launch Period",
        "MCB1" => "Market-Wide Circuit Breaker Level 1 Breached",
        "MCB2" => "Market-Wide Circuit Breaker Level 2 Breached",
        "NA" => "Reason Not Available",
        _ => "",
    }
}

fn trade_conditions(flags: u8) -> Conditions {
    let codes = [(0x80, b'F'), (0x40, b'T'), (0x08, b'X'), (0x20, b'I')];
    let mut given: Vec<u8> =
        codes.into_iter().filter(|&(flag, _)| flags & flag != 0).map(|(_, code)| code).collect();
    if given.is_empty() {
        given.push(b'@');
    }
    Conditions::from_codes(&given).unwrap_or(Conditions::NONE)
}

fn quote_conditions(flags: u8) -> Conditions {
    let codes: &[u8] = match (flags & 0x80 != 0, flags & 0x40 != 0) {
        (false, false) => b"R",
        (false, true) => b"RT",
        (true, false) => b"N",
        (true, true) => b"NT",
    };
    Conditions::from_codes(codes).unwrap_or(Conditions::NONE)
}

/// How many of the messages announced are there, to their last byte.
fn whole_messages(mut bytes: &[u8], announced: u16) -> u16 {
    for whole in 0..announced {
        match split_message(bytes) {
            Some((_, after)) => bytes = after,
            None => return whole,
        }
    }
    announced
}

fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))
}

/// The known prefix of a message, which a later version may have made longer.
fn known<const BYTES: usize>(message: &[u8]) -> Result<&[u8; BYTES], Left> {
    message.first_chunk().ok_or_else(|| {
        let (kind, len) = (message[0].escape_ascii(), message.len());
        Left::Refused(format!("type {kind} with {len} bytes instead of {BYTES}"))
    })
}

fn ts(message: &[u8]) -> Result<Timestamp, Left> {
    let ts = Timestamp::from_nanos(u64_at(message, 2) as i64);
    ts.storable().map_err(|error| Left::Refused(format!("time {error}")))
}

#[inline]
fn symbol(message: &[u8]) -> Result<Symbol, Left> {
    let padded = &message[10..18];
    let len = padded.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
    Symbol::from_bytes(&padded[..len]).map_err(|error| Left::Refused(error.to_string()))
}

#[inline]
fn price(message: &[u8], at: usize) -> Result<Price, Left> {
    let units = u64_at(message, at) as i64;
    Price::from_ten_thousandths(units)
        .filter(|_| units >= 0)
        .ok_or_else(|| Left::Refused(format!("price {units} (in 1/10000) is out of range")))
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
