//! Ticks as Parquet: the one layout that warm's segments and the archive's objects share.
//!
//! Rows are ordered by symbol, ts and place in the log, and the footer says so. `symbol` and `ts`
//! have statistics and a page index, `symbol` a bloom filter. Every byte is covered by a checksum
//! ([`sums`]). What differs between the two, how many
//! rows a page and a row group take and how hard they are compressed, is a [`Layout`].
//!
//! Does not belong here: where the bytes go and come from, and which files count.

mod dictionary;
mod reader;
mod select;
mod sums;
mod writer;

/// Why a file can't be read.
pub(super) use ::parquet::errors::ParquetError as DecodeError;
pub(super) use reader::{Footer, Window, is_io};
pub(super) use select::{Decoder, Index, Step, Wanted, is_inside};
pub(super) use sums::{LATE_BLOCK_BYTES, Summer, Sums};
pub(super) use writer::{Finished, Layout, Numbers, TickWriter};
