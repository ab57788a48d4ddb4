//! Rows that the books say were stored, held against those that are there.
//!
//! Nobody but the archive takes rows away that count, and it writes down what it takes before it does. If
//! somebody drops a partition by hand, `ledger` still lists its rows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use clickhouse::Row;
use serde::Deserialize;

use super::Inner;
use super::schema::{identifier, literal, rows_table};
use super::sql::{self, day_literal};
use super::state::{State, UnitState};
use crate::market::{Kind, TradingDay};
use crate::tiering::warm::{Query, Removed, Unit, WarmError};

/// How long the booked rows of a kind are cached. Rows that are stored meanwhile are missed only after that.
const REMEMBERED: Duration = Duration::from_mins(1);

/// How often rows are counted again while days are dropped or restored.
const ATTEMPTS_MAX: u32 = 8;

/// Rows by day.
type RowsByDay = BTreeMap<TradingDay, u64>;

/// The booked rows of a kind, as they were at one moment.
pub(super) struct Remembered {
    at: Instant,
    /// What was dropped and restored then.
    units: BTreeMap<TradingDay, UnitState>,
    rows: Arc<RowsByDay>,
}

#[derive(Row, Deserialize)]
struct DayRow {
    d: i32,
    rows: u64,
}

/// Rows that blocks have stored, and those of them that are there.
#[derive(Row, Deserialize)]
struct FoundRow {
    booked: u64,
    found: u64,
}

impl Inner {
    /// Refuses a scan of a day that has fewer rows than the books list. `there` are the rows of the kind's parts,
    /// asked for before `state` was read: rows that do not count are among them, so that a day may have more than
    /// are booked, never fewer.
    pub(super) async fn check_booked(
        &self,
        query: &Query,
        state: &State,
        there: &RowsByDay,
    ) -> Result<(), WarmError> {
        let kind = query.kind;
        if first_short(query, &*self.remembered(kind, state, there).await?, there).is_none() {
            return Ok(());
        }
        // Rows may have been stored between the two questions, and those that the archive answers need not be here.
        for _ in 0..ATTEMPTS_MAX {
            let state = State::read(&self.nodes, kind).await?;
            let rows = self.booked_rows(kind, &state, there, &query.archived).await?;
            let (_, there) = self.size(kind).await?;
            let Some((day, rows)) = first_short(query, &rows, &there) else { return Ok(()) };
            if State::read(&self.nodes, kind).await?.units.get(&day) == state.units.get(&day) {
                let unit = Unit { day, kind };
                let lost = Removed { rows, next: self.way_to_rows(unit) };
                return Err(WarmError::Damaged {
                    path: self.path.clone(),
                    reason: format!("{unit}: {lost}"),
                });
            }
            self.metrics.scan_retries.inc();
        }
        let reason = format!("days of {} rows are dropped or restored again and again", kind.name());
        Err(WarmError::Io { path: self.path.clone(), reason })
    }

    /// What to do where rows of `unit` are gone, and not by the archive's doing.
    fn way_to_rows(&self, unit: Unit) -> String {
        let (kind, day) = (unit.kind.name(), unit.day);
        let everywhere = if self.names.cluster.is_some() { " on every server" } else { "" };
        format!(
            "attach the partition that was dropped or detached again, or restore the table from a backup; if the \
             archive has the day, `stk archive restore {day} --kind {kind} --into-warm` brings it back; rows that are \
             gone for good are no longer missed once you forget them{everywhere}: ALTER TABLE {}.{} DELETE WHERE kind = \
             '{kind}' AND day = '{day}'",
            identifier(&self.names.database),
            self.names.local("ledger")
        )
    }

    /// The rows by day that count by the books, as they were a minute ago at most.
    async fn remembered(
        &self,
        kind: Kind,
        state: &State,
        there: &RowsByDay,
    ) -> Result<Arc<RowsByDay>, WarmError> {
        let known = || self.booked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_of_now = |known: &&Remembered| known.at.elapsed() < REMEMBERED && known.units == state.units;
        if let Some(known) = known().get(&kind).filter(is_of_now) {
            return Ok(known.rows.clone());
        }
        let at = Instant::now();
        let rows = Arc::new(self.booked_rows(kind, state, there, &BTreeMap::new()).await?);
        known().insert(kind, Remembered { at, units: state.units.clone(), rows: rows.clone() });
        Ok(rows)
    }

    /// The rows by day that count by the books, but for those below `archived`. Days that the archive has taken
    /// whole, of which no rows are `there`, are left out: they can be years.
    async fn booked_rows(
        &self,
        kind: Kind,
        state: &State,
        there: &RowsByDay,
        archived: &BTreeMap<TradingDay, Vec<u64>>,
    ) -> Result<RowsByDay, WarmError> {
        let is_taken = |(day, unit): &(&TradingDay, &UnitState)| {
            !unit.is_restored() && unit.next_offsets.iter().any(|next| *next > 0) && !there.contains_key(*day)
        };
        let taken: BTreeSet<TradingDay> = state.units.iter().filter(is_taken).map(|(day, _)| *day).collect();
        let days = there.keys().chain(archived.keys()).chain(state.units.keys());
        let days = days.filter(|day| !taken.contains(*day)).copied().collect();
        let taken: Vec<String> = taken.into_iter().map(day_literal).collect();
        let but = if taken.is_empty() {
            String::new()
        } else {
            format!(" AND `day` NOT IN ({})", taken.join(", "))
        };
        let sql = format!(
            "SELECT toInt32(`day`) AS d, sum(stored) AS rows FROM ({}) WHERE {} GROUP BY `day` \
             SETTINGS optimize_aggregation_in_order = 1",
            blocks_of(kind, &but),
            sql::counts(state, archived, &days)
        );
        let rows: Vec<DayRow> = self.nodes.rows(&sql).await?;
        Ok(rows.into_iter().map(|row| (TradingDay::from_days_since_epoch(row.d), row.rows)).collect())
    }

    /// See [`ArchiveSource::rows_lost`](crate::tiering::warm::ArchiveSource::rows_lost).
    ///
    /// Blocks that an earlier version of the schema wrote are not in the ledger, and not looked at. What is sealed
    /// ends with a block. A block that begins below what was dropped may be gone; if the unit was restored and
    /// offsets below are asked for, the rows of the restore have to be there.
    pub(super) async fn rows_lost(
        &self,
        unit: Unit,
        offsets: &[Range<u64>],
    ) -> Result<Option<Removed>, WarmError> {
        let state = State::read(&self.nodes, unit.kind).await?;
        let day = day_literal(unit.day);
        let of_unit = state.units.get(&unit.day);
        let dropped = of_unit.map_or(&[][..], |unit| &unit.next_offsets);
        let first = |at: usize| dropped.get(at).copied().unwrap_or(0);
        let kept = offsets.iter().enumerate().map(|(at, range)| {
            let first = first(at).max(range.start);
            first..range.end.max(first)
        });
        let kept: Vec<Range<u64>> = kept.collect();
        let is_below = offsets.iter().enumerate().any(|(at, range)| range.start < first(at));
        // The ledger lists a restore's rows as one block, whatever their partitions.
        let restored = of_unit.filter(|unit| unit.is_restored() && is_below);
        let restored = restored.map_or(String::new(), |unit| format!(" OR epoch = {}", unit.restored));
        let blocks = format!(
            "FROM ({}) WHERE ({} AND {}){restored}",
            blocks_of(unit.kind, &format!(" AND `day` = {day}")),
            sql::within(&kept),
            sql::committed(&state)
        );
        let table = rows_table(unit.kind);
        let sql = format!(
            "SELECT assumeNotNull((SELECT sum(stored) {blocks})) AS booked, \
             assumeNotNull((SELECT count() FROM {table} WHERE `day` = {day} AND ((`partition`, epoch, block) \
             GLOBAL IN (SELECT `partition`, epoch, block {blocks}){restored}))) AS found"
        );
        let row: FoundRow = self.nodes.one(&sql).await?;
        let rows = row.booked.saturating_sub(row.found);
        Ok((rows > 0).then(|| Removed { rows, next: self.way_to_rows(unit) }))
    }
}

/// The blocks that stored rows of `kind`, and the restores, each once; `and` says of which days. A block stands where
/// the first of its rows can, so that by the rules for rows it counts if all of its rows do: rebuilt bars lie at
/// the last offset before their block.
fn blocks_of(kind: Kind, and: &str) -> String {
    let first = if kind == Kind::Bar { "greatest(max(first_offset), 1) - 1" } else { "max(first_offset)" };
    format!(
        "SELECT `day`, `partition`, epoch, block, {first} AS `offset`, max(ledger.stored) AS stored \
         FROM ledger WHERE kind = {}{and} GROUP BY `day`, `partition`, epoch, block",
        literal(kind.name())
    )
}

/// The first day of the query's of which fewer rows are there than booked, and how many are missing.
fn first_short(query: &Query, booked: &RowsByDay, there: &RowsByDay) -> Option<(TradingDay, u64)> {
    let first = query.range.from.trading_day();
    let last = query.range.to.saturating_add_nanos(-1).trading_day();
    booked.range(first..=last).find_map(|(day, booked)| {
        let missing = booked.saturating_sub(there.get(day).copied().unwrap_or(0));
        (missing > 0).then_some((*day, missing))
    })
}
