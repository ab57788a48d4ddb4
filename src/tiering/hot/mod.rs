//! Hot: the last trade, quote, bars and ticks of every symbol.
//!
//! [`Hot`] is the seam between one process ([`memory`]) and a store that several gateways share
//! ([`redis`], with [`fallback`] for a gateway that loses it).

#[cfg(test)]
pub(crate) mod conformance;
pub mod fallback;
pub mod memory;
pub mod redis;
pub(crate) mod timeline;

use crate::bus::Record;
use crate::market::{Bar, PrevClose, Quote, Seq, Status, Symbol, Tick, Timestamp, Trade};

/// How many ticks of each symbol are kept.
pub const RECENT_TICKS: usize = 100;

/// What is known of one symbol now.
///
/// Last means the latest market time (`ts`), whatever arrived last: a late tick never replaces a newer
/// one. Of equal times the last in the log counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HotEntry {
    /// The last trade that is not cancelled.
    pub trade: Option<Trade>,
    /// The last quote.
    pub quote: Option<Quote>,
    /// The bar of the last minute with a trade.
    pub minute_bar: Option<Bar>,
    /// The bar of the last day with a trade.
    pub daily_bar: Option<Bar>,
    /// The bar of the trading day before [`HotEntry::daily_bar`], where it is known.
    pub prev_daily_bar: Option<Bar>,
    /// The previous session's close, where the feed tells it.
    pub prev_close: Option<PrevClose>,
    /// The trading status last told.
    pub status: Option<Status>,
    /// The place in the log of the last tick applied.
    pub seq: Seq,
}

impl HotEntry {
    /// The same without what is later than `until`.
    pub fn up_to(mut self, until: Timestamp) -> Self {
        self.trade = self.trade.filter(|trade| trade.ts <= until);
        self.quote = self.quote.filter(|quote| quote.ts <= until);
        self.status = self.status.filter(|status| status.ts <= until);
        self.prev_close = self.prev_close.filter(|close| close.ts <= until);
        let bars = [&mut self.minute_bar, &mut self.daily_bar, &mut self.prev_daily_bar];
        bars.into_iter().for_each(|bar| *bar = bar.filter(|bar| bar.ts <= until));
        self
    }
}

/// Why the store could not answer or be written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("hot store: {reason}")]
pub struct HotError {
    /// What went wrong.
    pub reason: String,
}

/// What changed, in the order of the log: ticks of one partition, and the bars they moved.
#[derive(Debug, Default)]
pub struct HotUpdates {
    /// Ticks with their places.
    pub ticks: Vec<(Seq, Tick)>,
    /// Bars as they stand after these ticks (a minute's or a day's), with the place of the last
    /// tick in them.
    pub bars: Vec<(Seq, Bar)>,
    /// The log's record that the last tick came in; `None` where it is not known.
    pub record: Option<Record>,
}

/// The last of every symbol.
#[async_trait::async_trait]
pub trait Hot: Send + Sync + 'static {
    /// Takes in what changed. A tick at or before the symbol's [`HotEntry::seq`] changes nothing,
    /// so that a batch may be applied again.
    async fn apply(&self, partition: u16, updates: &HotUpdates) -> Result<(), HotError>;

    /// What is known of each of `symbols`, in their order; `None` for one never seen.
    async fn get(&self, symbols: &[Symbol]) -> Result<Vec<Option<HotEntry>>, HotError>;

    /// The last ticks of `symbol`, oldest first, at most [`RECENT_TICKS`].
    async fn recent(&self, symbol: Symbol) -> Result<Vec<(Seq, Tick)>, HotError>;

    /// Every symbol seen, in byte order.
    async fn symbols(&self) -> Result<Vec<Symbol>, HotError>;

    /// Begins to write a partition whose warm ends at `to`. True when the store has all before `to`,
    /// from another processor or an earlier run; otherwise it is to be told again.
    async fn begin(&self, partition: u16, to: u64) -> Result<bool, HotError> {
        let _ = (partition, to);
        Ok(false)
    }

    /// Writes the partition no more: another processor does.
    async fn end(&self, partition: u16) {
        let _ = partition;
    }
}
