//! Where the log and warm meet: warm must not hold more than the log has had.

/// Warm ends behind the log: one of the two was replaced, or the log lost its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "partition {partition}: warm ends at offset {warm_offset}, but the log at {log_offset}; they do not belong together"
)]
pub struct Ahead {
    /// The partition.
    pub partition: u16,
    /// Where warm ends.
    pub warm_offset: u64,
    /// Where the log ends.
    pub log_offset: u64,
}

/// Compares where warm and the log end, in `partition`. The mark of warm has to be asked for first, since
/// both go on meanwhile.
pub fn check(partition: u16, warm_offset: u64, log_offset: u64) -> Result<(), Ahead> {
    if warm_offset <= log_offset { Ok(()) } else { Err(Ahead { partition, warm_offset, log_offset }) }
}
