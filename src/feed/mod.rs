//! Feeds: where ticks come from.
//!
//! One file per source. A feed knows its source's format, its sequence numbers, its duplicates
//! and its gaps; it knows nothing of the log. It is pulled, which is its back-pressure: a caller
//! that does not ask makes the source wait (or, where the source can't wait, its socket).

pub mod gaps;
pub mod iex;
pub mod kafka;
pub mod pcap;
pub mod sim;
pub mod source;

use std::time::Duration;

use prometheus_client::registry::Registry;

use crate::market::{Horizon, Symbol, Tick, Timestamp};
use crate::wire::record::{Origin, StoredNumbers};

/// What a call of [`Feed::next`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// Ticks were added, at least one.
    Ticks,
    /// Before it goes on, the feed must be told what the log holds of this producer: [`Feed::told`].
    Asks(u64),
    /// The source has ended; every further call says so again.
    End,
}

/// Why a feed can't go on.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The source can't be opened or read.
    #[error("{subject}: {source}")]
    Io {
        /// The file or address.
        subject: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The source holds what its format does not allow.
    #[error("{subject}: {reason}")]
    Format {
        /// The file or address, with the byte offset where it helps.
        subject: String,
        /// What is wrong.
        reason: String,
    },
    /// The log holds something that the source can't be added to.
    #[error("{subject}: {reason}")]
    Stored {
        /// The file.
        subject: String,
        /// What the log holds, and what to do.
        reason: String,
    },
}

/// A source of ticks.
#[async_trait::async_trait]
pub trait Feed: Send {
    /// The feed's name, as in the configuration, metrics and gap records: `sim`, `iex`.
    fn name(&self) -> &str;

    /// Waits until ticks are due and adds them to `ticks`, at most [`BATCH_TICKS_MAX`] a call.
    ///
    /// Cancel-safe: a call dropped before it returned loses no tick. A feed with a connection
    /// reconnects by itself, by [`Backoff`](crate::backoff::Backoff) and with a bound; an error is
    /// final.
    async fn next(&mut self, ticks: &mut Vec<Tick>) -> Result<Pulled, FeedError>;

    /// Tells that all ticks of the first `calls` calls are durable, so that the feed may
    /// acknowledge them upstream. Never goes backwards.
    fn acknowledge(&mut self, calls: u64) {
        let _ = calls;
    }

    /// Under what the ticks of the last call go into the log, for a feed that knows its source's
    /// messages again: what it hands out twice counts once. `None` leaves it to the caller, whose
    /// batches are no repeats of anything.
    fn origin(&self) -> Option<Origin> {
        None
    }

    /// The number of [`Feed::origin`]'s producer that the last call's ticks follow on, for a feed that must
    /// be the only one that brings its stream: they are refused where the log is past that number.
    fn follows(&self) -> Option<u64> {
        None
    }

    /// Answers [`Pulled::Asks`].
    ///
    /// Errors: the source can't be added to what the log holds.
    fn told(&mut self, stored: StoredNumbers) -> Result<(), FeedError> {
        let _ = stored;
        Ok(())
    }

    /// How many ticks were not handed out, since the log holds them already.
    fn already_stored(&self) -> u64 {
        0
    }

    /// Registers what the feed counts.
    fn register(&self, registry: &mut Registry) {
        let _ = registry;
    }
}

/// A tick whose time is too far ahead of this machine's clock to be taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "tick {at} ({}) of {ts} is {} s ahead of this machine's clock, and at most {} s are allowed (server.ahead_ms_max): compare the clocks of both machines",
    symbol.as_ref().map_or("no symbol", Symbol::as_str), ahead.as_secs(), ahead_max.as_secs_f64()
)]
pub struct Ahead {
    /// Where it is among the ticks it came with, from 0.
    pub at: usize,
    /// Its symbol, where it has one.
    pub symbol: Option<Symbol>,
    /// Its time.
    pub ts: Timestamp,
    /// How far ahead of the clock it is.
    pub ahead: Duration,
    /// How far ahead it may be.
    pub ahead_max: Duration,
}

impl Ahead {
    /// The first of `ticks` that is beyond `horizon`.
    pub fn first_of<'a>(ticks: impl IntoIterator<Item = &'a Tick>, horizon: Horizon) -> Option<Self> {
        let ahead_max = horizon.ahead_max()?;
        let end = horizon.end();
        let (at, tick) = ticks.into_iter().enumerate().find(|(_, tick)| tick.ts() > end)?;
        let beyond = Duration::from_nanos(tick.ts().nanos_since(end).unsigned_abs());
        Some(Self { at, symbol: tick.symbol(), ts: tick.ts(), ahead: beyond + ahead_max, ahead_max })
    }
}

/// The least time between two log lines about ticks that are too far ahead.
pub const AHEAD_LOG_PERIOD: Duration = Duration::from_secs(10);

/// The most ticks of one call of [`Feed::next`], and of one record in the log.
pub const BATCH_TICKS_MAX: usize = 4096;
