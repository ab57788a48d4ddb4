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

use prometheus_client::registry::Registry;

use crate::market::Tick;
use crate::wire::record::Origin;

/// What a call of [`Feed::next`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// Ticks were added, at least one.
    Ticks,
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

    /// Registers what the feed counts.
    fn register(&self, registry: &mut Registry) {
        let _ = registry;
    }
}

/// The most ticks of one call of [`Feed::next`], and of one record in the log.
pub const BATCH_TICKS_MAX: usize = 4096;
