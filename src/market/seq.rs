//! A tick's place in the log.

use std::fmt;

/// Where a tick stands in the log: partition, the record's offset in it, the tick's index in the
/// record.
///
/// Totally ordered within a symbol, since a symbol always hashes to one partition. What makes
/// dedupe, resume and gap detection possible everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq {
    /// The log's partition.
    pub partition: u16,
    /// The record's offset in the partition, from 0.
    pub offset: u64,
    /// The tick's index in the record, from 0.
    pub index: u32,
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.partition, self.offset, self.index)
    }
}
