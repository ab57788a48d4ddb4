//! What the archive asks: digests by the server, export, and rows that go and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;
use clickhouse::Row;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::client::{NO_SUCH_PART, Node, code_of};
use super::commit::placed;
use super::schema::{literal, rows_table};
use super::sql::{self, RESTORED, day_literal};
use super::state::{State, UnitState, read_unit, write_unit};
use super::{Inner, parts_of};
use crate::fail;
use crate::market::{Kind, RowDigest, TickBatch, TimeRange, Timestamp, TradingDay};
use crate::tiering::warm::{Unit, UnitInfo, WarmError};

/// Rows of one insert of a restore, about: what is held in memory, and becomes a part.
const RESTORE_ROWS: usize = 500_000;

/// How often parts are looked at again that were merged while others were dropped.
const DROP_ROUNDS_MAX: u32 = 16;

#[derive(Row, Deserialize)]
struct PartsRow {
    table: String,
    day: i32,
    rows: u64,
    bytes: u64,
    changed_ms: i64,
}

#[derive(Row, Deserialize)]
struct StoredAtRow {
    kind: String,
    day: i32,
    at_ms: i64,
}

#[derive(Row, Serialize)]
struct StoredRow {
    kind: String,
    day: i32,
    at: i64,
}

/// The rows of a restore, beside those of blocks.
#[derive(Row, Serialize)]
struct LedgerRow {
    kind: String,
    day: i32,
    partition: u16,
    epoch: u32,
    block: u64,
    first_offset: u64,
    stored: u64,
}

#[derive(Row, Deserialize)]
struct DigestRow {
    rows: u64,
    sum: u64,
    ts_min: i64,
    ts_max: i64,
}

impl DigestRow {
    fn digest(&self) -> RowDigest {
        if self.rows == 0 {
            return RowDigest::default();
        }
        RowDigest { rows: self.rows, sum: self.sum, ts_min: self.ts_min, ts_max: self.ts_max }
    }
}

#[derive(Row, Deserialize)]
struct FirstRow {
    partition: u16,
    first_offset: u64,
}

#[derive(Row, Deserialize)]
struct UnitRow {
    kind: String,
    day: i32,
}

#[derive(Row, Deserialize)]
struct PartRow {
    part: String,
    rows: u64,
    kept: u64,
}

impl Inner {
    pub(super) async fn units(&self) -> Result<Vec<UnitInfo>, WarmError> {
        let stored: Vec<StoredAtRow> = self
            .nodes
            .rows(
                "SELECT kind, toInt32(`day`) AS day, toUnixTimestamp64Milli(max(at)) AS at_ms \
                 FROM stored GROUP BY kind, stored.`day`",
            )
            .await?;
        let stored: BTreeMap<(String, i32), i64> =
            stored.into_iter().map(|row| ((row.kind, row.day), row.at_ms)).collect();
        let tables: BTreeMap<String, Kind> =
            Kind::ALL.map(|kind| (self.names.local(&rows_table(kind)), kind)).into();
        let mut units: BTreeMap<Unit, UnitInfo> = BTreeMap::new();
        for node in self.nodes.all() {
            let sql = format!(
                "SELECT `table`, toInt32(toDate32(`partition`)) AS day, sum(rows) AS rows, \
                 sum(bytes_on_disk) AS bytes, max(toInt64(toUnixTimestamp(modification_time))) * 1000 AS changed_ms \
                 {} AND system.parts.rows > 0 GROUP BY `table`, `partition`",
                parts_of(&self.names, None)
            );
            for row in node.rows::<PartsRow>(&sql).await? {
                let Some(kind) = tables.get(&row.table).copied() else { continue };
                let unit = Unit { day: TradingDay::from_days_since_epoch(row.day), kind };
                let at_ms = stored.get(&(kind.name().to_owned(), row.day)).copied();
                let written_at = Timestamp::from_nanos(at_ms.unwrap_or(row.changed_ms) * 1_000_000);
                let info = units.entry(unit).or_insert(UnitInfo { unit, rows: 0, bytes: 0, written_at });
                info.rows += row.rows;
                info.bytes += row.bytes;
            }
        }
        // A day of which all parts are gone without the archive's doing is still a unit: of no rows.
        let sql = "SELECT DISTINCT kind, toInt32(`day`) AS day FROM ledger \
                   WHERE (kind, `day`) GLOBAL NOT IN (SELECT kind, `day` FROM units)";
        for UnitRow { kind, day } in self.nodes.rows(sql).await? {
            let Some(kind) = Kind::from_name(&kind) else { continue };
            let unit = Unit { day: TradingDay::from_days_since_epoch(day), kind };
            let at_ms = stored.get(&(kind.name().to_owned(), day)).copied().unwrap_or(0);
            let written_at = Timestamp::from_nanos(at_ms * 1_000_000);
            units.entry(unit).or_insert(UnitInfo { unit, rows: 0, bytes: 0, written_at });
        }
        Ok(units.into_values().collect())
    }

    pub(super) async fn digest(&self, unit: Unit, offsets: &[Range<u64>]) -> Result<RowDigest, WarmError> {
        let state = State::read(&self.nodes, unit.kind).await?;
        self.digest_of(unit.kind, &in_unit(&state, unit, offsets)).await
    }

    /// See [`ArchiveSource::first_offsets`](crate::tiering::warm::ArchiveSource::first_offsets).
    pub(super) async fn first_offsets(
        &self,
        unit: Unit,
        offsets: &[Range<u64>],
    ) -> Result<Vec<u64>, WarmError> {
        let state = State::read(&self.nodes, unit.kind).await?;
        let sql = format!(
            "SELECT `partition`, min(`offset`) AS first_offset FROM {} WHERE {} GROUP BY `partition`",
            rows_table(unit.kind),
            in_unit(&state, unit, offsets)
        );
        let mut first: Vec<u64> = offsets.iter().map(|range| range.end).collect();
        for FirstRow { partition, first_offset } in self.nodes.rows(&sql).await? {
            if let Some(first) = first.get_mut(usize::from(partition)) {
                *first = first_offset;
            }
        }
        Ok(first)
    }

    async fn digest_of(&self, kind: Kind, matching: &str) -> Result<RowDigest, WarmError> {
        let row: DigestRow = self.nodes.one(&sql::digest(kind, matching)).await?;
        Ok(row.digest())
    }

    pub(super) async fn export(
        self: &Arc<Self>,
        unit: Unit,
        offsets: &[Range<u64>],
    ) -> Result<BoxStream<'static, Result<TickBatch, WarmError>>, WarmError> {
        let (_, rows) = self.open(unit.kind, |state| Some(in_unit(state, unit, offsets))).await?;
        Ok(rows.map_or_else(|| stream::empty().boxed(), |rows| super::scan::batches(unit.kind, rows, None)))
    }

    /// See [`ArchiveSource::drop_rows`](crate::tiering::warm::ArchiveSource::drop_rows).
    pub(super) async fn drop_rows(&self, unit: Unit, next_offsets: &[u64]) -> Result<u64, WarmError> {
        let state = read_unit(&self.nodes, unit).await?;
        let mut dropped = UnitState { restored: 0, version: state.version + 1, ..state.clone() };
        sql::raise(&mut dropped.next_offsets, next_offsets);
        if dropped.next_offsets != state.next_offsets || state.is_restored() {
            write_unit(&self.nodes, unit, &dropped).await?;
            fail::point("warm.clickhouse.dropped");
        }
        let mut left = 0;
        for node in self.nodes.all() {
            left += self.drop_parts(node, unit, &dropped).await?;
        }
        Ok(left)
    }

    /// Drops the parts on one server that hold nothing but rows that are gone. How many such rows
    /// are left, in parts that hold others as well.
    pub(super) async fn drop_parts(
        &self,
        node: &Node,
        unit: Unit,
        state: &UnitState,
    ) -> Result<u64, WarmError> {
        let table = self.names.local(&rows_table(unit.kind));
        let day = day_literal(unit.day);
        for _ in 0..DROP_ROUNDS_MAX {
            let sql = format!(
                "SELECT toString(_part) AS part, count() AS rows, countIf(NOT ({})) AS kept FROM {table} \
                 WHERE `day` = {day} GROUP BY _part ORDER BY part",
                sql::gone(state)
            );
            let parts: Vec<PartRow> = node.rows(&sql).await?;
            let (droppable, mixed): (Vec<_>, Vec<_>) = parts.into_iter().partition(|part| part.kept == 0);
            if droppable.is_empty() {
                return Ok(mixed.iter().map(|part| part.rows - part.kept).sum());
            }
            for part in droppable {
                // By its name: a part never changes, and one that was merged away is not found.
                let sql = format!("ALTER TABLE {table} DROP PART {}", literal(&part.part));
                match node.execute(&sql).await {
                    Ok(()) => {
                        self.metrics.parts_dropped.inc();
                        fail::point("warm.clickhouse.part_dropped");
                    }
                    Err(WarmError::Io { reason, .. }) if code_of(&reason) == Some(NO_SUCH_PART) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let reason = format!("parts of {unit} are merged faster than they can be dropped");
        Err(WarmError::Io { path: node.url().to_owned(), reason })
    }

    /// See [`ArchiveSource::restore`](crate::tiering::warm::ArchiveSource::restore).
    pub(super) async fn restore(
        &self,
        unit: Unit,
        next_offsets: &[u64],
        mut rows: BoxStream<'static, Result<TickBatch, WarmError>>,
    ) -> Result<(), WarmError> {
        // A number of its own, for the rows and for the tokens of their inserts: ClickHouse
        // remembers the tokens of rows that are long dropped.
        let mut state = read_unit(&self.nodes, unit).await?;
        state.version += 1;
        state.generation = state.generation.max(RESTORED) + 1;
        let generation = state.generation;
        write_unit(&self.nodes, unit, &state).await?;
        fail::point("warm.clickhouse.restoring");
        let (mut sent, mut chunk, mut chunk_rows, mut number) = (RowDigest::default(), Vec::new(), 0, 0_u64);
        loop {
            let batch = rows.try_next().await?;
            let ended = batch.is_none();
            if let Some(batch) = batch {
                check(unit, next_offsets, &batch)?;
                sent.add(batch.digest());
                chunk_rows += batch.len();
                chunk.push(batch);
            }
            if chunk_rows >= RESTORE_ROWS || ended && chunk_rows > 0 {
                self.restore_chunk(unit, generation, number, &chunk).await?;
                number += 1;
                chunk_rows = 0;
                chunk.clear();
            }
            if ended {
                break;
            }
        }
        let matching = format!("`day` = {} AND epoch = {generation}", day_literal(unit.day));
        let stored = self.digest_of(unit.kind, &matching).await?;
        if stored != sent {
            let reason = format!("{unit} was not restored: {sent} were sent and {stored} are there");
            return Err(WarmError::Damaged { path: self.path.clone(), reason });
        }
        let at = StoredRow {
            kind: unit.kind.name().to_owned(),
            day: unit.day.days_since_epoch(),
            at: Timestamp::now().nanos() / 1_000_000,
        };
        self.nodes.insert_rows("stored", None, &[at]).await?;
        let entry = LedgerRow {
            kind: unit.kind.name().to_owned(),
            day: unit.day.days_since_epoch(),
            partition: 0,
            epoch: generation,
            block: 0,
            first_offset: 0,
            stored: sent.rows,
        };
        self.nodes.insert_rows("ledger", None, &[entry]).await?;
        fail::point("warm.clickhouse.restore_booked");
        // All at once: from here on the rows of this number count and those below the offsets don't.
        state.version += 1;
        state.restored = generation;
        sql::raise(&mut state.next_offsets, next_offsets);
        write_unit(&self.nodes, unit, &state).await?;
        fail::point("warm.clickhouse.restored");
        self.metrics.restored_rows.inc_by(sent.rows);
        Ok(())
    }

    async fn restore_chunk(
        &self,
        unit: Unit,
        generation: u32,
        number: u64,
        chunk: &[TickBatch],
    ) -> Result<(), WarmError> {
        let schema = TickBatch::schema(unit.kind);
        let batches: Vec<&RecordBatch> = chunk.iter().map(TickBatch::record_batch).collect();
        // One batch, since a stream's batches share one dictionary a column.
        let rows = concat_batches(&schema, batches).map_err(|error| error.to_string()).and_then(|rows| {
            TickBatch::from_record_batch(unit.kind, rows).map_err(|error| error.to_string())
        });
        let rows = rows.map_err(|reason| WarmError::Damaged { path: unit.to_string(), reason })?;
        let table = rows_table(unit.kind);
        let token = format!("{table}:restore:{}:{generation}:{number}", unit.day);
        let rows = placed(&rows, unit.day, generation, 0);
        self.nodes.insert_batches(&table, &token, &[rows]).await?;
        fail::point("warm.clickhouse.restored_rows");
        Ok(())
    }
}

/// Which rows of the unit count and lie in `offsets`.
fn in_unit(state: &State, unit: Unit, offsets: &[Range<u64>]) -> String {
    format!(
        "`day` = {} AND {} AND ({})",
        day_literal(unit.day),
        sql::within(offsets),
        sql::counts(state, &BTreeMap::new(), &BTreeSet::from([unit.day]))
    )
}

/// Refuses rows that do not belong to what is restored.
fn check(unit: Unit, next_offsets: &[u64], batch: &TickBatch) -> Result<(), WarmError> {
    let refused = |reason: String| WarmError::Damaged { path: unit.to_string(), reason };
    if batch.kind() != unit.kind {
        return Err(refused(format!("rows to restore are of kind {}", batch.kind().name())));
    }
    let keys = batch.keys().map_err(|error| refused(error.to_string()))?;
    let span = TimeRange { from: unit.day.start(), to: unit.day.end() };
    for row in 0..keys.len() {
        let key = keys.get(row);
        let next = next_offsets.get(usize::from(key.seq.partition)).copied().unwrap_or(0);
        if key.seq.offset >= next {
            return Err(refused(format!("a row to restore is at {}, not below offset {next}", key.seq)));
        }
        if !span.contains(key.ts) {
            return Err(refused(format!("a row to restore is of {}", key.ts.trading_day())));
        }
    }
    Ok(())
}
