//! Ticks as Parquet: the one layout that warm's segments and the archive's objects share.
//!
//! Rows are ordered by symbol, ts and place in the log, and the footer says so. `symbol` and `ts`
//! have statistics and a page index, `symbol` a bloom filter. What differs between the two, how many
//! rows a page and a row group take and how hard they are compressed, is a [`Layout`].
//!
//! Does not belong here: where the bytes go and come from, and which files count.

mod dictionary;
mod reader;
mod select;
mod writer;

/// Why a file can't be read.
pub(super) use ::parquet::errors::ParquetError as DecodeError;
pub(super) use reader::{Footer, Window, is_io};
pub(super) use select::{Decoder, Index, Step, Wanted, is_inside};
pub(super) use writer::{Layout, Numbers, TickWriter};
