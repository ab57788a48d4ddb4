//! What an answer covers: where its rows came from, and what is not among them.

use serde::{Deserialize, Serialize};

use crate::bus::epoch::{Gone, LogEpoch, Lost};
use crate::market::{Gap, Kind, TimeRange, TradingDay};
use crate::tiering::cold::StorageClass;
use crate::tiering::tiers::ArchivedPart;

/// Gaps that a coverage lists, at most; the rest is counted.
pub const GAPS_MAX: usize = 1000;

/// Archived objects that can't be read now and that a coverage lists, at most; the rest is counted.
pub const FROZEN_MAX: usize = 1000;

/// Ranges of lost records that a coverage lists, at most; the rest is counted.
pub const LOST_MAX: usize = 1000;

/// What an answer covers: nothing is left out of it unsaid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Each partition's part that came from warm and from the log.
    pub partitions: Vec<PartitionCoverage>,
    /// Holes in what the feeds received that lie in the time asked for and concern a symbol asked
    /// for, ordered by time: the first [`GAPS_MAX`].
    pub gaps: Vec<Gap>,
    /// Gaps beyond those listed.
    pub gaps_not_listed: u64,
    /// Records that neither warm nor the log holds.
    pub missing: Vec<Missing>,
    /// Records of a lost timeline, of which only those that were archived are left: the first [`LOST_MAX`].
    pub lost: Vec<LostRecords>,
    /// Such ranges beyond those listed.
    pub lost_not_listed: u64,
    /// What is wrong with the stores, in words: rows that they should hold may be missing, without
    /// anybody knowing which.
    pub broken: Vec<String>,
    /// What came from the archive, and what of it can't be read now.
    pub archived: ArchivedCoverage,
}

impl Coverage {
    /// Whether the answer has all that was ever to be had: no store is at fault, no record is missing or lost, no
    /// feed missed anything, and nothing is archived where it can't be read now.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
            && self.lost.is_empty()
            && self.broken.is_empty()
            && self.gaps.is_empty()
            && self.gaps_not_listed == 0
            && !self.archived.is_partial()
            && self.archived.unasked.is_none()
    }

    /// Adds what another answer of the same store, asked later, covers: of what both tell, once.
    pub fn add(&mut self, later: Self) {
        self.partitions = later.partitions;
        self.gaps_not_listed = self.gaps_not_listed.max(later.gaps_not_listed);
        for gap in later.gaps {
            if !self.gaps.contains(&gap) {
                self.gaps.push(gap);
            }
        }
        self.gaps.sort_by_key(|gap| gap.ts);
        for missing in later.missing {
            if !self.missing.contains(&missing) {
                self.missing.push(missing);
            }
        }
        self.lost_not_listed = self.lost_not_listed.max(later.lost_not_listed);
        for lost in later.lost {
            if !self.lost.contains(&lost) {
                self.lost.push(lost);
            }
        }
        for broken in later.broken {
            if !self.broken.contains(&broken) {
                self.broken.push(broken);
            }
        }
        self.archived.add(later.archived);
    }
}

/// Where the rows of one partition came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionCoverage {
    /// The partition.
    pub partition: u16,
    /// Warm holds what came before this offset.
    pub warm_next_offset: u64,
    /// The log was read up to this offset, exclusive.
    pub log_next_offset: u64,
}

/// Records `first_offset..next_offset` of a partition are nowhere: retention dropped them from the
/// log before they were in warm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The partition.
    pub partition: u16,
    /// The first record that is missing.
    pub first_offset: u64,
    /// The offset after the last.
    pub next_offset: u64,
}

/// Records `first_offset..next_offset` of a partition that log and warm no longer have, since the data directory
/// or the topic was lost or put back from an older copy. Of those that had been archived the rows are answered, unless
/// the log has given their offsets to other records; no store has the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRecords {
    /// The partition.
    pub partition: u16,
    /// The first of these offsets.
    pub first_offset: u64,
    /// The offset after the last.
    pub next_offset: u64,
    /// The days of the rows that are nowhere.
    pub gone: Gone,
}

/// The records that `log`, which ends before `nexts`, is known to have lost for good and that may have rows in
/// `range`; and how many ranges of them more than [`LOST_MAX`]. `archived` are offsets of another timeline that the
/// archive has rows of, which the log has not skipped; `given_up` those whose rows the archive has given up.
pub fn lost_records(
    log: &LogEpoch,
    archived: Option<&Lost>,
    given_up: Vec<LostRecords>,
    range: TimeRange,
) -> (Vec<LostRecords>, u64) {
    let mut lost = given_up;
    for Lost { from, to, gone, .. } in log.lost().iter().chain(archived) {
        let gone = *gone;
        if !gone.may_be_in(range) {
            continue;
        }
        for (partition, (&first_offset, &next_offset)) in (0_u16..).zip(from.iter().zip(to)) {
            if first_offset < next_offset {
                lost.push(LostRecords { partition, first_offset, next_offset, gone });
            }
        }
    }
    let not_listed = lost.len().saturating_sub(LOST_MAX) as u64;
    lost.truncate(LOST_MAX);
    (lost, not_listed)
}

/// What came from the archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchivedCoverage {
    /// The days whose rows came from the archive, in order.
    pub days: Vec<TradingDay>,
    /// Objects that may hold rows asked for and could be read.
    pub files: u64,
    /// Objects that may hold rows asked for and can't be read now: the first [`FROZEN_MAX`]. Their
    /// rows are not in the answer.
    pub frozen: Vec<Frozen>,
    /// Such objects beyond those listed.
    pub frozen_not_listed: u64,
    /// Why nothing was read of the archive, which may hold more than warm: it could not be asked, or
    /// is of another log. Warm has dropped nothing of what was asked for.
    pub unasked: Option<String>,
    /// Records whose rows the archive has given up; those of an answer are in [`Coverage::lost`].
    pub given_up: Vec<LostRecords>,
}

/// An archived object that can't be read before it is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The kind of its rows.
    pub kind: Kind,
    /// Their trading day.
    pub day: TradingDay,
    /// Its key in the store.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// Where it rests.
    pub class: StorageClass,
    /// Whether it is on its way back already.
    pub restoring: bool,
}

impl ArchivedCoverage {
    pub(super) fn new(kind: Kind, part: ArchivedPart) -> Self {
        let frozen_not_listed = part.frozen.len().saturating_sub(FROZEN_MAX) as u64;
        let frozen = part.frozen.into_iter().take(FROZEN_MAX).map(|frozen| Frozen {
            kind,
            day: frozen.file.unit.day,
            key: frozen.file.file.key,
            bytes: frozen.file.file.bytes,
            class: frozen.class,
            restoring: frozen.restoring,
        });
        Self {
            days: part.days,
            files: part.files,
            frozen: frozen.collect(),
            frozen_not_listed,
            unasked: part.unasked,
            given_up: part.given_up,
        }
    }

    /// Whether rows that the answer should have are in objects that can't be read now.
    pub fn is_partial(&self) -> bool {
        !self.frozen.is_empty() || self.frozen_not_listed > 0
    }

    /// Adds what another answer, or another part of this one, covers: of what both tell, once.
    pub fn add(&mut self, other: Self) {
        self.days.extend(other.days);
        self.days.sort_unstable();
        self.days.dedup();
        self.files = self.files.max(other.files);
        self.frozen_not_listed = self.frozen_not_listed.max(other.frozen_not_listed);
        for frozen in other.frozen {
            if !self.frozen.iter().any(|known| known.key == frozen.key) {
                if self.frozen.len() < FROZEN_MAX {
                    self.frozen.push(frozen);
                } else {
                    self.frozen_not_listed += 1;
                }
            }
        }
        self.unasked = self.unasked.take().or(other.unasked);
        self.given_up.extend(other.given_up);
    }

    /// The commands that bring back what can't be read: one for each kind of row.
    pub fn restore_commands(&self) -> Vec<String> {
        let mut kinds: Vec<Kind> = self.frozen.iter().map(|frozen| frozen.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let command = |kind: &Kind| {
            let days = self.frozen.iter().filter(|frozen| frozen.kind == *kind).map(|frozen| frozen.day);
            let (first, last) = (days.clone().min(), days.max());
            let days = match (first, last) {
                (Some(first), Some(last)) if first != last => format!("--from {first} --to {last}"),
                (Some(day), _) => day.to_string(),
                (None, _) => String::new(),
            };
            format!("stk archive restore --kind {} {days}", kind.name())
        };
        kinds.iter().map(command).collect()
    }
}
