//! What a feed says: trades, quotes, and what amends them.

use std::fmt;

use super::{Price, Symbol, Timestamp};

/// An exchange, by the one-letter code that Alpaca and the SIPs use (`V` is IEX).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Exchange(u8);

/// Up to four one-letter condition codes of a trade or a quote, in the order given.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conditions([u8; Conditions::LEN_MAX]);

/// The tape a symbol is reported on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tape {
    /// NYSE-listed.
    #[default]
    A = b'A',
    /// Listed on NYSE Arca, NYSE American and the regional exchanges.
    B = b'B',
    /// Nasdaq-listed.
    C = b'C',
    /// Over the counter.
    O = b'O',
}

/// Why bytes are no exchange, condition or tape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} \"{text}\" is not {expected}")]
pub struct CodeError {
    what: &'static str,
    text: String,
    expected: &'static str,
}

fn code_error(what: &'static str, text: &[u8], expected: &'static str) -> CodeError {
    let text = String::from_utf8_lossy(&text[..text.len().min(32)]).escape_debug().to_string();
    CodeError { what, text, expected }
}

impl Exchange {
    /// Investors Exchange.
    pub const IEX: Self = Self(b'V');
    /// No exchange: the side of a quote without one, or where a source does not tell it.
    pub const NONE: Self = Self(b' ');

    /// An exchange from its code: one printable ASCII byte.
    pub fn from_code(code: u8) -> Result<Self, CodeError> {
        match code {
            b' '..=b'~' => Ok(Self(code)),
            _ => Err(code_error("exchange", &[code], "one printable ASCII character")),
        }
    }

    /// The code, one ASCII byte.
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl Conditions {
    /// The most codes.
    pub const LEN_MAX: usize = 4;
    /// No condition.
    pub const NONE: Self = Self([0; Self::LEN_MAX]);

    /// Conditions from their codes: at most four printable ASCII bytes.
    pub fn from_codes(codes: &[u8]) -> Result<Self, CodeError> {
        if codes.len() > Self::LEN_MAX || !codes.iter().all(|code| (b' '..=b'~').contains(code)) {
            return Err(code_error("conditions", codes, "at most four printable ASCII characters"));
        }
        let mut inline = [0; Self::LEN_MAX];
        inline[..codes.len()].copy_from_slice(codes);
        Ok(Self(inline))
    }

    /// The codes, each one ASCII byte.
    pub fn codes(&self) -> &[u8] {
        let len = self.0.iter().position(|&code| code == 0).unwrap_or(Self::LEN_MAX);
        &self.0[..len]
    }

    /// The codes as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.codes()).unwrap_or_default()
    }

    /// The codes in one integer, zero-padded: what the columns hold.
    pub const fn to_bits(self) -> u32 {
        u32::from_le_bytes(self.0)
    }
}

impl Tape {
    /// A tape from its letter. `N`, which Alpaca uses for over the counter too, is read as `O`.
    pub fn from_code(code: u8) -> Result<Self, CodeError> {
        match code {
            b'A' => Ok(Self::A),
            b'B' => Ok(Self::B),
            b'C' => Ok(Self::C),
            b'O' | b'N' => Ok(Self::O),
            _ => Err(code_error("tape", &[code], "one of A B C O")),
        }
    }

    /// The letter.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 as char)
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// One execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trade {
    /// What was traded.
    pub symbol: Symbol,
    /// The venue's time.
    pub ts: Timestamp,
    /// When this installation received it; on replay the capture's stamp.
    pub recv_ts: Timestamp,
    /// Price of one share.
    pub price: Price,
    /// Shares.
    pub size: u32,
    /// Where.
    pub exchange: Exchange,
    /// Sale conditions.
    pub conditions: Conditions,
    /// The exchange's trade id, unique for the symbol, the exchange and the day: on the consolidated
    /// tape each exchange numbers its own.
    pub id: u64,
    /// The tape.
    pub tape: Tape,
}

impl Trade {
    /// Whether a cancel or correction of trade `id` on `exchange` is about this one, where it is of
    /// the same symbol and day. Where one of the two has no exchange the id decides.
    pub fn is_named(&self, exchange: Exchange, id: u64) -> bool {
        let untold = exchange == Exchange::NONE || self.exchange == Exchange::NONE;
        self.id == id && (untold || self.exchange == exchange)
    }

    /// Takes the terms that a correction gives.
    pub fn correct(&mut self, terms: &TradeTerms) {
        (self.id, self.price, self.size, self.conditions) =
            (terms.id, terms.price, terms.size, terms.conditions);
    }
}

/// The best bid and offer of one venue, or the NBBO where the feed gives that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// What is quoted.
    pub symbol: Symbol,
    /// The venue's time.
    pub ts: Timestamp,
    /// When this installation received it; on replay the capture's stamp.
    pub recv_ts: Timestamp,
    /// Best bid; zero when there is none.
    pub bid: Price,
    /// Best offer; zero when there is none.
    pub ask: Price,
    /// Shares at the bid.
    pub bid_size: u32,
    /// Shares at the offer.
    pub ask_size: u32,
    /// Where the bid stands.
    pub bid_exchange: Exchange,
    /// Where the offer stands.
    pub ask_exchange: Exchange,
    /// Quote conditions.
    pub conditions: Conditions,
    /// The tape.
    pub tape: Tape,
}

/// A change of a symbol's trading status: a halt, a pause, a resumption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whose status.
    pub symbol: Symbol,
    /// The venue's time.
    pub ts: Timestamp,
    /// When this installation received it.
    pub recv_ts: Timestamp,
    /// The status code (`H` halted, `T` trading, `P` paused, `O` order acceptance).
    pub code: Box<str>,
    /// The status in words.
    pub message: Box<str>,
    /// The reason's code, empty when none was given.
    pub reason_code: Box<str>,
    /// The reason in words.
    pub reason_message: Box<str>,
    /// The tape.
    pub tape: Tape,
}

/// A trade broken later: it counts as if it had never been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// What had been traded.
    pub symbol: Symbol,
    /// The time of the break; the broken trade's own time may be earlier.
    pub ts: Timestamp,
    /// When this installation received it.
    pub recv_ts: Timestamp,
    /// The broken trade's id.
    pub id: u64,
    /// The broken trade's price.
    pub price: Price,
    /// The broken trade's shares.
    pub size: u32,
    /// Where.
    pub exchange: Exchange,
    /// `C` for a cancellation, `E` for an error.
    pub action: u8,
    /// The tape.
    pub tape: Tape,
}

/// What a correction amends of a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TradeTerms {
    /// The trade's id.
    pub id: u64,
    /// Price of one share.
    pub price: Price,
    /// Shares.
    pub size: u32,
    /// Sale conditions.
    pub conditions: Conditions,
}

/// A trade amended later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// What had been traded.
    pub symbol: Symbol,
    /// The time of the correction.
    pub ts: Timestamp,
    /// When this installation received it.
    pub recv_ts: Timestamp,
    /// Where.
    pub exchange: Exchange,
    /// The trade as first reported.
    pub original: TradeTerms,
    /// The trade as it stands now.
    pub corrected: TradeTerms,
    /// The tape.
    pub tape: Tape,
}

/// What became of a trade later; Alpaca's field `u`. Without one the trade stands as it was reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TradeUpdate {
    /// It was broken.
    Canceled,
    /// It was corrected: another row has the values that count.
    Incorrect,
    /// It has the values that a correction gave to an incorrect one.
    Corrected,
}

impl TradeUpdate {
    /// Alpaca's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Canceled => "canceled",
            Self::Incorrect => "incorrect",
            Self::Corrected => "corrected",
        }
    }
}

/// What went wrong between a feed and its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum GapKind {
    /// Sequence numbers `first..=last` never came.
    Missed = 1,
    /// The source began a new session; `first` is its first sequence number.
    Reset = 2,
    /// The connection was down; how much was missed is not known.
    Disconnect = 3,
}

impl GapKind {
    /// The kind by its stored number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Missed),
            2 => Some(Self::Reset),
            3 => Some(Self::Disconnect),
            _ => None,
        }
    }

    /// The kind's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::Reset => "reset",
            Self::Disconnect => "disconnect",
        }
    }
}

/// A hole in what a feed received. Data like any other, so that history and clients can be told.
///
/// A gap of no single symbol stands in every partition of the log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Gap {
    /// The symbol, where the feed numbers by symbol.
    pub symbol: Option<Symbol>,
    /// When it was noticed.
    pub ts: Timestamp,
    /// When this installation noticed it; on replay the capture's stamp.
    pub recv_ts: Timestamp,
    /// What went wrong.
    pub kind: GapKind,
    /// The feed and its session or channel, such as `iex/1150681088`.
    pub source: Box<str>,
    /// The first sequence number missed, or 0.
    pub first: u64,
    /// The last sequence number missed, or 0.
    pub last: u64,
}

/// The official close of the session before, adjusted, as a venue's directory gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrevClose {
    /// Whose close.
    pub symbol: Symbol,
    /// The venue's time of the message.
    pub ts: Timestamp,
    /// When this installation received it.
    pub recv_ts: Timestamp,
    /// The close.
    pub price: Price,
}

/// Anything a feed says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tick {
    /// One execution.
    Trade(Trade),
    /// A new best bid and offer.
    Quote(Quote),
    /// A change of trading status.
    Status(Box<Status>),
    /// A trade broken.
    Cancel(Box<Cancel>),
    /// A trade amended.
    Correction(Box<Correction>),
    /// A hole in what was received.
    Gap(Box<Gap>),
    /// The close of the session before.
    PrevClose(PrevClose),
}

/// The kinds of row that are stored: every [`Tick`], and bars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// [`Tick::Trade`].
    Trade = 1,
    /// [`Tick::Quote`].
    Quote = 2,
    /// [`Tick::Status`].
    Status = 3,
    /// [`Tick::Cancel`].
    Cancel = 4,
    /// [`Tick::Correction`].
    Correction = 5,
    /// [`Tick::Gap`].
    Gap = 6,
    /// [`Tick::PrevClose`].
    PrevClose = 7,
    /// [`Bar`](super::Bar).
    Bar = 8,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Trade,
        Self::Quote,
        Self::Status,
        Self::Cancel,
        Self::Correction,
        Self::Gap,
        Self::PrevClose,
        Self::Bar,
    ];

    /// The name, as in file names and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trade => "trade",
            Self::Quote => "quote",
            Self::Status => "status",
            Self::Cancel => "cancel",
            Self::Correction => "correction",
            Self::Gap => "gap",
            Self::PrevClose => "prev_close",
            Self::Bar => "bar",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The kind of that number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1..=8 => Some(Self::ALL[number as usize - 1]),
            _ => None,
        }
    }
}

impl Tick {
    /// Which kind it is.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Trade(_) => Kind::Trade,
            Self::Quote(_) => Kind::Quote,
            Self::Status(_) => Kind::Status,
            Self::Cancel(_) => Kind::Cancel,
            Self::Correction(_) => Kind::Correction,
            Self::Gap(_) => Kind::Gap,
            Self::PrevClose(_) => Kind::PrevClose,
        }
    }

    /// The symbol; `None` for a gap of no single symbol.
    pub fn symbol(&self) -> Option<Symbol> {
        match self {
            Self::Trade(trade) => Some(trade.symbol),
            Self::Quote(quote) => Some(quote.symbol),
            Self::Status(status) => Some(status.symbol),
            Self::Cancel(cancel) => Some(cancel.symbol),
            Self::Correction(correction) => Some(correction.symbol),
            Self::Gap(gap) => gap.symbol,
            Self::PrevClose(close) => Some(close.symbol),
        }
    }

    /// The venue's time.
    pub fn ts(&self) -> Timestamp {
        match self {
            Self::Trade(trade) => trade.ts,
            Self::Quote(quote) => quote.ts,
            Self::Status(status) => status.ts,
            Self::Cancel(cancel) => cancel.ts,
            Self::Correction(correction) => correction.ts,
            Self::Gap(gap) => gap.ts,
            Self::PrevClose(close) => close.ts,
        }
    }

    /// When this installation received it.
    pub fn recv_ts(&self) -> Timestamp {
        match self {
            Self::Trade(trade) => trade.recv_ts,
            Self::Quote(quote) => quote.recv_ts,
            Self::Status(status) => status.recv_ts,
            Self::Cancel(cancel) => cancel.recv_ts,
            Self::Correction(correction) => correction.recv_ts,
            Self::Gap(gap) => gap.recv_ts,
            Self::PrevClose(close) => close.recv_ts,
        }
    }

    /// Sets when this installation received it.
    pub fn set_recv_ts(&mut self, ts: Timestamp) {
        *self.times_mut().1 = ts;
    }

    /// The tick moved in time by `nanos`: what replays a past day as if it were now.
    pub fn shift(&mut self, nanos: i64) {
        let (ts, recv_ts) = self.times_mut();
        *ts = ts.saturating_add_nanos(nanos);
        *recv_ts = recv_ts.saturating_add_nanos(nanos);
    }

    fn times_mut(&mut self) -> (&mut Timestamp, &mut Timestamp) {
        match self {
            Self::Trade(trade) => (&mut trade.ts, &mut trade.recv_ts),
            Self::Quote(quote) => (&mut quote.ts, &mut quote.recv_ts),
            Self::Status(status) => (&mut status.ts, &mut status.recv_ts),
            Self::Cancel(cancel) => (&mut cancel.ts, &mut cancel.recv_ts),
            Self::Correction(correction) => (&mut correction.ts, &mut correction.recv_ts),
            Self::Gap(gap) => (&mut gap.ts, &mut gap.recv_ts),
            Self::PrevClose(close) => (&mut close.ts, &mut close.recv_ts),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_exchange_is_read_as_it_is_printed() {
        for code in 0..=u8::MAX {
            let read = Exchange::from_code(code);
            assert_eq!(read.is_ok(), code == b' ' || code.is_ascii_graphic(), "{code}");
            if let Ok(exchange) = read {
                assert_eq!((exchange.code(), exchange.to_string().as_bytes()), (code, &[code][..]));
            }
        }
    }

    proptest! {
        #[test]
        fn conditions_are_read_as_they_are_printed(codes in prop_oneof![
            prop::collection::vec(b' '..=b'~', 0..6),
            prop::collection::vec(any::<u8>(), 0..6),
        ]) {
            let fits = codes.len() <= Conditions::LEN_MAX && codes.iter().all(|code| (b' '..=b'~').contains(code));
            match Conditions::from_codes(&codes) {
                Ok(conditions) => {
                    prop_assert!(fits);
                    let printed = conditions.to_string();
                    prop_assert_eq!(printed.as_bytes(), &codes[..]);
                    prop_assert_eq!(Conditions::from_codes(printed.as_bytes()), Ok(conditions));
                    prop_assert_eq!(&conditions.to_bits().to_le_bytes()[..codes.len()], &codes[..]);
                }
                Err(_) => prop_assert!(!fits),
            }
        }
    }

    #[test]
    fn codes_are_checked() {
        assert_eq!(Exchange::from_code(b'V'), Ok(Exchange::IEX));
        assert_eq!(
            Exchange::from_code(7).unwrap_err().to_string(),
            "exchange \"\\u{7}\" is not one printable ASCII character"
        );
        assert_eq!(Conditions::from_codes(b"@TI").unwrap().as_str(), "@TI");
        assert!(Conditions::from_codes(b"@TIXY").is_err());
        assert!(Conditions::from_codes(b"\0").is_err());
        assert_eq!(Tape::from_code(b'N'), Ok(Tape::O));
        assert!(Tape::from_code(b'Z').is_err());
    }

    #[test]
    fn kinds_keep_their_numbers_and_names() {
        for (number, name) in
            (1..).zip(["trade", "quote", "status", "cancel", "correction", "gap", "prev_close", "bar"])
        {
            let kind = Kind::from_number(number).unwrap();
            assert_eq!((kind.name(), Kind::from_name(name)), (name, Some(kind)));
        }
        assert_eq!(Kind::from_number(0), None);
    }

    #[test]
    fn a_tick_stays_within_a_cache_line_and_a_half() {
        assert!(size_of::<Tick>() <= 72, "{}", size_of::<Tick>());
    }
}
