//! What is due: days to copy, late rows to add, days to drop.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::manifest::{MANIFEST_PREFIX, Manifest, manifest_prefix, parse_manifest_key};
use super::origin::Beside;
use super::run::Archiver;
use super::store::Store;
use super::{ArchiveError, ArchiveOptions};
use crate::market::{Kind, TimeRange, Timestamp, TradingDay};
use crate::tiering::state::PartitionState;
use crate::tiering::warm::{ArchiveSource, Query, Unit, UnitInfo};

/// What is to be done with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Copied into the archive.
    Copy,
    /// Its late rows are added, as the manifest of this number.
    Supplement(u32),
    /// Dropped from warm.
    Drop,
}

/// A unit that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Which.
    pub unit: Unit,
    /// For what.
    pub action: Action,
    /// Rows: those that warm holds, or the late ones alone.
    pub rows: u64,
    /// Bytes that warm holds of it.
    pub bytes: u64,
}

/// Why a unit is not copied yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Waiting {
    /// The day is not over.
    Open {
        /// When it is.
        ends: Timestamp,
    },
    /// The day is too young.
    Young {
        /// The day on which it is due.
        due: TradingDay,
        /// How old a day must be, in days.
        after_days: u32,
    },
    /// Rows of the day were stored a short while ago.
    Settling {
        /// When it is due, if nothing more is stored.
        due: Timestamp,
        /// How long nothing may have been stored.
        settle: Duration,
    },
    /// Bars of the day are still to be rebuilt by the processor.
    Rebuilding,
}

impl Waiting {
    /// The reason for a person at `now`, with the setting that decides.
    pub fn in_words(self, now: Timestamp) -> String {
        let minutes = |nanos: i64| (nanos.max(0) + NANOS_PER_MINUTE - 1) / NANOS_PER_MINUTE;
        match self {
            Self::Open { ends } => match minutes(ends.nanos_since(now)) {
                left @ 0..=90 => format!("the day ends in {left} min"),
                left => format!("the day ends in {} h", (left + 59) / 60),
            },
            Self::Young { due, after_days } => format!("due on {due} (archive.after_days = {after_days})"),
            Self::Settling { due, settle } => {
                let (left, settle) = (minutes(due.nanos_since(now)), settle.as_secs() / 60);
                format!("due in {left} min (archive.settle_minutes = {settle})")
            }
            Self::Rebuilding => "due when the processor has rebuilt its bars".to_owned(),
        }
    }
}

const NANOS_PER_MINUTE: i64 = 60_000_000_000;

/// What the warm store says of all units of a kind at one moment.
pub(super) struct Moment {
    /// Of each partition the offset after the last row.
    pub(super) next_offsets: Vec<u64>,
    /// Whether bars of the day are still to be rebuilt after a correction: they can't be sealed yet.
    pub(super) is_rebuilding: bool,
    /// The offsets below which the unit's rows were dropped.
    pub(super) dropped: Vec<u64>,
    /// Whether they were restored.
    pub(super) is_restored: bool,
}

impl Moment {
    /// Asks for nothing but what a scan says beside its rows.
    pub(super) async fn of(warm: &dyn ArchiveSource, unit: Unit) -> Result<Self, ArchiveError> {
        let nothing = TimeRange { from: Timestamp::MIN, to: Timestamp::MIN };
        let scan = warm.scan(&Query::new(unit.kind, Some(Vec::new()), nothing)).await?;
        let mut next_offsets = scan.next_offsets;
        let mut is_rebuilding = false;
        if unit.kind == Kind::Bar {
            // A bar that is rebuilt after a correction stands at the last record taken in, and its block
            // may yet come. What is still to be rebuilt is told by the state that comes with a mark: a
            // seal at marks without any has all bars below it.
            for (partition, next) in (0_u16..).zip(&mut next_offsets) {
                let mark = warm.mark(partition).await?;
                *next = mark.next_offset;
                let state = PartitionState::restore(&mark.checkpoint);
                let mut state = state.map_err(|error| ArchiveError::state(partition, &error))?;
                is_rebuilding |= state.take_rebuilds().iter().any(|(_, day)| *day == unit.day);
            }
        }
        Ok(Self {
            next_offsets,
            is_rebuilding,
            dropped: scan.dropped.get(&unit.day).cloned().unwrap_or_default(),
            is_restored: scan.restored.contains(&unit.day),
        })
    }

    /// Whether all rows of `next_offsets` are dropped.
    pub(super) fn has_dropped(&self, next_offsets: &[u64]) -> bool {
        !self.is_restored && covers(&self.dropped, next_offsets)
    }
}

/// Whether each of `offsets` is at most that of `held`.
pub(super) fn covers(held: &[u64], offsets: &[u64]) -> bool {
    offsets.iter().enumerate().all(|(at, offset)| held.get(at).copied().unwrap_or(0) >= *offset)
}

/// Whether they are the same, partitions beyond an end at 0.
pub(super) fn is_same(offsets: &[u64], others: &[u64]) -> bool {
    covers(offsets, others) && covers(others, offsets)
}

/// The manifests of a unit, in the order of their numbers, each beginning where the one before ends.
pub(super) async fn manifests(store: &Store, unit: Unit) -> Result<Vec<Manifest>, ArchiveError> {
    let objects = store.list(&manifest_prefix(unit), None).await?;
    let mut found: Vec<Manifest> = Vec::new();
    for key in objects.into_iter().map(|object| object.key) {
        let Some((_, number)) = parse_manifest_key(&key) else { continue };
        let wrong = |reason: String| store.damaged(&key, reason);
        if number as usize != found.len() {
            return Err(wrong(format!("there is no manifest {:04} before it", found.len())));
        }
        let manifest = store.manifest(unit, number).await?.ok_or_else(|| wrong("it has gone".to_owned()))?;
        let first = found.last().map_or(&[][..], |before: &Manifest| &before.next_offsets);
        if let Some(fault) = manifest.fault(unit, number, Some(first)) {
            return Err(wrong(fault.to_owned()));
        }
        found.push(manifest);
    }
    Ok(found)
}

/// Every unit there are manifests of, in order.
pub(super) async fn archived_units(store: &Store) -> Result<Vec<Unit>, ArchiveError> {
    let objects = store.list(MANIFEST_PREFIX, None).await?;
    let mut units: Vec<Unit> =
        objects.iter().filter_map(|object| parse_manifest_key(&object.key)).map(|(unit, _)| unit).collect();
    units.sort_unstable();
    units.dedup();
    Ok(units)
}

/// The number of the last manifest of every unit there are manifests of.
pub(super) async fn last_numbers(store: &Store) -> Result<BTreeMap<Unit, u32>, ArchiveError> {
    let objects = store.list(MANIFEST_PREFIX, None).await?;
    // In the order of their keys, so that the last of a unit stays.
    Ok(objects.iter().filter_map(|object| parse_manifest_key(&object.key)).collect())
}

impl ArchiveOptions {
    pub(super) fn takes_kind(&self, kind: Kind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// Whether a unit may be copied now, otherwise why not. Only whether its bars are to be rebuilt is
    /// not known here. `Ok(false)`: it was not asked for.
    pub(super) fn is_due(&self, info: &UnitInfo, now: Timestamp) -> Result<bool, Waiting> {
        let (day, today) = (info.unit.day, now.trading_day());
        if self.before.is_some_and(|before| day >= before) {
            return Ok(false);
        }
        // A day that goes on can't be sealed, whatever is asked for.
        if day >= today {
            return Err(Waiting::Open { ends: day.end() });
        }
        let after_days = self.after_days;
        if self.before.is_none() && !is_aged(day, after_days, today) {
            let due = i32::try_from(after_days)
                .map_or(i32::MAX, |days| day.days_since_epoch().saturating_add(days));
            return Err(Waiting::Young { due: TradingDay::from_days_since_epoch(due), after_days });
        }
        let settle = self.settle;
        let settle_nanos = i64::try_from(settle.as_nanos()).unwrap_or(i64::MAX);
        let age = now.nanos_since(info.written_at);
        // Further ahead than that, it was stored while the clock was wrong, and says nothing of how long
        // ago that was: waiting for the clock to get there could take years.
        if age < settle_nanos && age > settle_nanos.saturating_neg() {
            return Err(Waiting::Settling {
                due: info.written_at.saturating_add_nanos(settle_nanos),
                settle,
            });
        }
        Ok(true)
    }
}

fn is_aged(day: TradingDay, days: u32, today: TradingDay) -> bool {
    i64::from(day.days_since_epoch()) + i64::from(days) <= i64::from(today.days_since_epoch())
}

/// What was found when a unit was last compared with its manifests, and what it was like then: as long as
/// it is like that, its rows need not be digested again.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Looked {
    info: UnitInfo,
    /// Of the last manifest.
    number: u32,
    dropped: Vec<u64>,
    /// Whether warm lacked rows that the archive holds.
    lacks: bool,
}

impl Archiver {
    /// Whether warm lacks rows of the unit that the archive holds, since the log skipped their offsets: they
    /// are of a lost timeline, or warm was lost since. Warm can't prove what it would drop of such a day.
    async fn lacks_skipped(&self, info: &UnitInfo, manifests: &[Manifest]) -> Result<bool, ArchiveError> {
        let unit = info.unit;
        let reaches_skipped =
            |log: &Beside, manifest: &Manifest| log.epoch().reaches_skipped(&manifest.next_offsets);
        let Some(log) = &self.options.log else { return Ok(false) };
        let Some(last) = manifests.last().filter(|last| reaches_skipped(log, last)) else {
            return Ok(false);
        };
        let moment = Moment::of(&*self.warm, unit).await?;
        let seen =
            Looked { info: info.clone(), number: last.number, dropped: moment.dropped.clone(), lacks: false };
        if let Some(known) = self.looked().get(&unit)
            && *known == (Looked { lacks: known.lacks, ..seen.clone() })
        {
            return Ok(known.lacks);
        }
        let mut lacks = false;
        for manifest in manifests.iter().filter(|manifest| !moment.has_dropped(&manifest.next_offsets)) {
            lacks |= self.warm.digest(unit, &manifest.offsets()).await?.rows < manifest.digest.rows;
            if lacks {
                break;
            }
        }
        // At most one for each unit that warm holds.
        self.looked().insert(unit, Looked { lacks, ..seen });
        Ok(lacks)
    }

    /// What a run would do now, in the order in which it would; and why units that are not archived are
    /// not copied yet.
    pub async fn plan(&self) -> Result<(Vec<Planned>, Vec<(Unit, Waiting)>), ArchiveError> {
        let (mut copies, mut drops, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        let now = self.clock.now();
        for info in
            self.warm.units().await?.into_iter().filter(|info| self.options.takes_kind(info.unit.kind))
        {
            let unit = info.unit;
            let planned = |action, rows| Planned { unit, action, rows, bytes: info.bytes };
            let manifests = manifests(&self.store, unit).await?;
            let mut due = self.options.is_due(&info, now);
            if due == Ok(true) && Moment::of(&*self.warm, unit).await?.is_rebuilding {
                due = Err(Waiting::Rebuilding);
            }
            let is_due = due == Ok(true);
            match manifests.last() {
                last if !is_due => {
                    waiting.extend(due.err().filter(|_| is_news(&info, last)).map(|why| (unit, why)));
                }
                None => copies.push(planned(Action::Copy, info.rows)),
                Some(last) => {
                    let moment = Moment::of(&*self.warm, unit).await?;
                    let late =
                        self.warm.digest(unit, &offsets(&last.next_offsets, &moment.next_offsets)).await?;
                    if late.rows > 0 {
                        copies.push(planned(Action::Supplement(last.number + 1), late.rows));
                    }
                }
            }
            if is_aged(unit.day, self.options.keep_days, now.trading_day())
                && (is_due || !manifests.is_empty())
                && !Moment::of(&*self.warm, unit).await?.is_restored
                && !self.lacks_skipped(&info, &manifests).await?
            {
                drops.push(planned(Action::Drop, info.rows));
            }
        }
        Ok((copies.into_iter().chain(drops).collect(), waiting))
    }
}

/// Whether warm may hold rows of a unit that its last manifest has not.
pub(super) fn is_news(info: &UnitInfo, last: Option<&Manifest>) -> bool {
    let committed_at = last.and_then(|last| last.committed_at.parse::<Timestamp>().ok());
    committed_at.is_none_or(|committed_at| info.written_at > committed_at)
}

/// The offsets from `first` to `next`, by partition.
pub(super) fn offsets(first: &[u64], next: &[u64]) -> Vec<std::ops::Range<u64>> {
    next.iter().enumerate().map(|(at, next)| first.get(at).copied().unwrap_or(0)..*next).collect()
}
