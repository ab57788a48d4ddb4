//! The log that a store names as that of its rows.

use crate::bus::epoch::{Ended, Gone, Held, Holder, LogEpoch};

/// The log that the rows are of, and its generations, oldest first. In the last one, the log is read now:
/// rows of it reach up to the marks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogOf {
    pub(super) id: u64,
    pub(super) lineage: Vec<Ended>,
    /// Which of the log's rows below the marks no store holds.
    pub(super) gone: Gone,
}

impl LogOf {
    /// The name that a log of `epoch` with `partitions` and a store with marks at `next_offsets` has.
    /// Generations that added nothing to the one before are left out.
    pub(super) fn new(epoch: &LogEpoch, partitions: u16, mut next_offsets: Vec<u64>) -> Self {
        next_offsets.resize(usize::from(partitions), 0);
        let mut lineage: Vec<Ended> = Vec::new();
        for ended in epoch.ended() {
            if lineage.last().is_none_or(|last| last.ends != ended.ends) {
                lineage.push(ended.clone());
            }
        }
        lineage.push(Ended { generation: epoch.log().generation, ends: next_offsets });
        Self { id: epoch.log().id, lineage, gone: epoch.gone() }
    }

    /// The number of the log's partitions, where it is named.
    pub(super) fn partitions(&self) -> Option<usize> {
        self.lineage.last().map(|last| last.ends.len())
    }
}

/// How far the store `name`, which names `log` and has marks at `next_offsets`, has come with that log.
pub(super) fn held(name: String, log: Option<LogOf>, mut next_offsets: Vec<u64>) -> Held {
    // What names no log is of a version whose logs skipped nothing.
    let unnamed = (None, Vec::new(), Gone::Nothing);
    let (log, mut lineage, gone) = log.map_or(unnamed, |log| (Some(log.id), log.lineage, log.gone));
    if let Some(last) = lineage.last_mut() {
        next_offsets.resize(next_offsets.len().max(last.ends.len()), 0);
        last.ends.clone_from(&next_offsets);
    }
    Held { log, lineage, next_offsets, gone, ..Held::nothing(Holder::Warm, name) }
}
