//! The store's books as they are read: marks, takeovers, and what was dropped and restored.

use std::collections::BTreeMap;

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::client::Nodes;
use super::schema::literal;
use super::sql::{RESTORED, day_literal};
use crate::market::{Kind, TradingDay};
use crate::tiering::warm::{Unit, WarmError};

/// What decides which rows count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// Where each partition stands; all zero where nobody has claimed it yet.
    pub(super) marks: Vec<Standing>,
    /// Where owners took over, as long as rows of their predecessors may be left that don't count.
    pub(super) takeovers: Vec<Takeover>,
    /// What was dropped and restored, of one kind.
    pub(super) units: BTreeMap<TradingDay, UnitState>,
}

/// Where a partition stands: the last block of the newest epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) epoch: u32,
    pub(super) block: u64,
    pub(super) next_offset: u64,
}

/// `epoch` followed `follows` at `block`: what earlier epochs wrote after it, and epochs in between
/// wrote at all, does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Takeover {
    pub(super) partition: u16,
    pub(super) epoch: u32,
    pub(super) follows: u32,
    pub(super) block: u64,
}

/// What was done to a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UnitState {
    /// One more for each change; 0 before the first.
    pub(super) version: u64,
    /// By partition, the offsets below which rows were dropped.
    pub(super) next_offsets: Vec<u64>,
    /// The restore whose rows count; 0 for none.
    pub(super) restored: u32,
    /// The last restore that was begun; 0 for none.
    pub(super) generation: u32,
}

impl UnitState {
    pub(super) fn is_restored(&self) -> bool {
        self.restored >= RESTORED
    }
}

/// The books in one row, so that one request reads them.
#[derive(Row, Deserialize)]
struct BooksRow {
    marks: Vec<(u16, u32, u64, u64)>,
    takeovers: Vec<(u16, u32, u32, u64)>,
    units: Vec<UnitTuple>,
}

/// Day, version, offsets, restored, generation.
type UnitTuple = (i32, u64, Vec<u64>, u32, u32);

fn units_sql(condition: &str) -> String {
    format!(
        "SELECT toInt32(`day`) AS d, max(units.version) AS v, argMax(units.next_offsets, units.version) AS n, \
         argMax(units.restored, units.version) AS r, argMax(units.generation, units.version) AS g \
         FROM units WHERE {condition} GROUP BY kind, `day`"
    )
}

fn unit_of((day, version, next_offsets, restored, generation): UnitTuple) -> (TradingDay, UnitState) {
    let state = UnitState { version, next_offsets, restored, generation };
    (TradingDay::from_days_since_epoch(day), state)
}

impl State {
    /// Reads what decides which rows of `kind` count.
    pub(super) async fn read(nodes: &Nodes, kind: Kind) -> Result<Self, WarmError> {
        let units = units_sql(&format!("kind = {}", literal(kind.name())));
        let row: BooksRow = nodes
            .one(&format!(
                "SELECT \
                 (SELECT groupArray((`partition`, epoch, block, next_offset)) FROM standing) AS marks, \
                 (SELECT groupArray((`partition`, epoch, follows, block)) FROM takeovers) AS takeovers, \
                 (SELECT groupArray((d, v, n, r, g)) FROM ({units})) AS units"
            ))
            .await?;
        let mut marks: Vec<Standing> = Vec::new();
        for (partition, epoch, block, next_offset) in row.marks {
            let at = usize::from(partition);
            if marks.len() <= at {
                marks.resize(at + 1, Standing::default());
            }
            marks[at] = Standing { epoch, block, next_offset };
        }
        let takeover = |(partition, epoch, follows, block)| Takeover { partition, epoch, follows, block };
        let mut takeovers: Vec<Takeover> = row.takeovers.into_iter().map(takeover).collect();
        takeovers.sort_unstable_by_key(|takeover| (takeover.partition, takeover.epoch));
        Ok(Self { marks, takeovers, units: row.units.into_iter().map(unit_of).collect() })
    }

    /// The offset after the last that counts, by partition.
    pub(super) fn next_offsets(&self) -> Vec<u64> {
        self.marks.iter().map(|mark| mark.next_offset).collect()
    }
}

#[derive(Row, Deserialize)]
struct UnitReadRow {
    d: i32,
    v: u64,
    n: Vec<u64>,
    r: u32,
    g: u32,
}

/// Reads what was done to `unit`.
pub(super) async fn read_unit(nodes: &Nodes, unit: Unit) -> Result<UnitState, WarmError> {
    let condition = format!("kind = {} AND `day` = {}", literal(unit.kind.name()), day_literal(unit.day));
    let rows: Vec<UnitReadRow> = nodes.rows(&units_sql(&condition)).await?;
    Ok(rows.into_iter().next().map(|row| unit_of((row.d, row.v, row.n, row.r, row.g)).1).unwrap_or_default())
}

#[derive(Row, Serialize)]
struct UnitRow {
    kind: String,
    day: i32,
    version: u64,
    nonce: String,
    next_offsets: Vec<u64>,
    restored: u32,
    generation: u32,
}

/// Writes `next`, the state of `unit` that follows the one of the version before it.
///
/// A compare-and-set by the token of the version: of two that write the same one, one wins and the
/// other is told so.
pub(super) async fn write_unit(nodes: &Nodes, unit: Unit, next: &UnitState) -> Result<(), WarmError> {
    let nonce = super::nonce();
    let (kind, day) = (unit.kind.name(), unit.day.days_since_epoch());
    let row = UnitRow {
        kind: kind.to_owned(),
        day,
        version: next.version,
        nonce: nonce.clone(),
        next_offsets: next.next_offsets.clone(),
        restored: next.restored,
        generation: next.generation,
    };
    let token = format!("unit:{kind}:{day}:{}", next.version);
    nodes.insert_rows("units", Some(&token), &[row]).await?;
    let sql = format!(
        "SELECT nonce FROM units WHERE kind = {} AND `day` = {} AND version = {}",
        literal(kind),
        day_literal(unit.day),
        next.version
    );
    let found: Vec<String> = nodes.rows(&sql).await?;
    if found.first() == Some(&nonce) {
        return Ok(());
    }
    let reason = "another archiver changed it at the same time; let one run after the other".to_owned();
    Err(WarmError::Io { path: unit.to_string(), reason })
}
