//! What is due: days to copy, late rows to add, days to drop.

use super::manifest::{MANIFEST_PREFIX, MANIFEST_VERSION, Manifest, manifest_prefix, parse_manifest_key};
use super::run::Archiver;
use super::store::Store;
use super::{ArchiveError, ArchiveOptions};
use crate::market::{Kind, TimeRange, Timestamp, TradingDay};
use crate::tiering::state::PartitionState;
use crate::tiering::warm::{ArchiveSource, Query, Unit, UnitInfo};

/// What is to be done with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Copied into the archive.
    Copy,
    /// Its late rows are added, as the manifest of this number.
    Supplement(u32),
    /// Dropped from warm.
    Drop,
}

/// A unit that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        let manifest: Manifest =
            store.get_json(&key).await?.ok_or_else(|| wrong("it has gone".to_owned()))?;
        if manifest.version != MANIFEST_VERSION {
            return Err(wrong(format!("it is of version {}: use a newer stk", manifest.version)));
        }
        if (manifest.date, manifest.kind.as_str(), manifest.number) != (unit.day, unit.kind.name(), number) {
            return Err(wrong("it is the manifest of another unit".to_owned()));
        }
        let first = found.last().map_or(&[][..], |before: &Manifest| &before.next_offsets);
        if !is_same(first, &manifest.first_offsets) {
            return Err(wrong("it does not begin where the one before it ends".to_owned()));
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

impl ArchiveOptions {
    fn takes(&self, unit: Unit) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&unit.kind)
    }

    /// Whether a unit may be copied now.
    pub(super) fn is_due(&self, info: &UnitInfo, now: Timestamp) -> bool {
        let today = now.trading_day();
        let quiet =
            now.nanos_since(info.written_at) >= i64::try_from(self.settle.as_nanos()).unwrap_or(i64::MAX);
        let is_old = match self.before {
            Some(before) => info.unit.day < before,
            None => is_aged(info.unit.day, self.after_days, today),
        };
        // A day that goes on can't be sealed, whatever is asked for.
        is_old && info.unit.day < today && quiet
    }
}

fn is_aged(day: TradingDay, days: u32, today: TradingDay) -> bool {
    i64::from(day.days_since_epoch()) + i64::from(days) <= i64::from(today.days_since_epoch())
}

impl Archiver {
    /// What a run would do now, in the order in which it would.
    pub async fn plan(&self) -> Result<Vec<Planned>, ArchiveError> {
        let (mut copies, mut drops) = (Vec::new(), Vec::new());
        let now = self.clock.now();
        for info in self.warm.units().await?.into_iter().filter(|info| self.options.takes(info.unit)) {
            let unit = info.unit;
            let planned = |action, rows| Planned { unit, action, rows, bytes: info.bytes };
            let manifests = manifests(&self.store, unit).await?;
            let is_due = self.options.is_due(&info, now);
            match manifests.last() {
                _ if !is_due || Moment::of(&*self.warm, unit).await?.is_rebuilding => {}
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
            {
                drops.push(planned(Action::Drop, info.rows));
            }
        }
        Ok(copies.into_iter().chain(drops).collect())
    }
}

/// The offsets from `first` to `next`, by partition.
pub(super) fn offsets(first: &[u64], next: &[u64]) -> Vec<std::ops::Range<u64>> {
    next.iter().enumerate().map(|(at, next)| first.get(at).copied().unwrap_or(0)..*next).collect()
}
