//! The `iex` feed: captures of IEX's TOPS 1.6, played as if they were live.
//!
//! A capture file ([`crate::feed::pcap`]) gives datagrams, [`decode`] makes ticks of them,
//! [`tally`] accounts for every message. [`IexReader`] does it as quickly as it can, for `--speed
//! max`; [`IexFeed`] keeps the capture's own timing, and skips what is stored already (`session.rs`). [`make`] writes captures, for tests and the
//! benchmark.

pub mod decode;
pub mod make;
pub mod tally;

mod bench;
mod feed;
mod reader;
mod session;

pub use bench::{DecodeFigures, bench_decode};
pub use decode::Decoder;
pub use feed::{IexFeed, Speed, SpeedError};
pub use reader::{IexReader, Selection};
pub use tally::Tally;
