//! The vocabulary: what a market says, in exact types. No I/O, no async.
//!
//! Does not belong here: anything that knows a wire format, a file or a socket.

#[cfg(test)]
pub(crate) mod arbitrary;
mod bar;
mod batch;
mod digest;
mod merge;
mod price;
mod seq;
mod symbol;
mod tick;
mod time;

pub use bar::{Bar, BarEffect, Timeframe, TimeframeError};
pub use batch::{
    BatchError, NO_SYMBOL, PlacedBar, RowKey, RowKeys, Rows, SymbolTable, TickBatch, TickBatchBuilder,
};
pub use digest::RowDigest;
pub use merge::{Merge, Merged};
pub use price::{Price, PriceError};
pub use seq::Seq;
pub use symbol::{Symbol, SymbolError};
pub use tick::{
    Cancel, CodeError, Conditions, Correction, Exchange, Gap, GapKind, Kind, PrevClose, Quote, Status, Tape,
    Tick, Trade, TradeTerms, TradeUpdate,
};
pub use time::{Horizon, TimeError, TimeRange, Timestamp, TradingDay, Unstorable, parse_from, parse_to};
