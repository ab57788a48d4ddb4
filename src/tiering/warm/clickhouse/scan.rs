//! Scans: one query whose rows come in order, as they are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::builder::{Int32Builder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal64Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, DictionaryArray, PrimitiveArray, RecordBatch};
use arrow_schema::DataType;
use clickhouse::Row;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde::Deserialize;

use super::client::BatchStream;
use super::schema::{literal, rows_table};
use super::sql;
use super::state::{State, UnitState};
use super::{Inner, parts_of};
use crate::market::{Kind, TickBatch, TradingDay};
use crate::tiering::warm::{Query, Scan, ScanStats, WarmError};

/// Rows of a batch, at most.
const BATCH_ROWS: &str = "8192";

/// Threads that read for one scan: each holds blocks of every part it merges.
const THREADS: &str = "2";

/// How often a scan is begun anew when days are dropped or restored just then.
const ATTEMPTS_MAX: u32 = 8;

/// How many parts there are and their bytes, and the rows of the kind's by day.
#[derive(Row, Deserialize)]
struct SizeRow {
    parts: u64,
    of_kind: u64,
    bytes: u64,
    /// Days, and the rows of each.
    by_day: (Vec<i32>, Vec<u64>),
}

impl Inner {
    /// The books, and the rows that match by them: as they were at one moment. The server is asked how
    /// many rows there are once all have come, and the stream fails where it brought another number.
    pub(super) async fn open(
        self: &Arc<Self>,
        kind: Kind,
        matching: impl Fn(&State) -> Option<String>,
    ) -> Result<(State, Option<Counted>), WarmError> {
        let mut state = State::read(&self.nodes, kind).await?;
        for _ in 0..ATTEMPTS_MAX {
            let Some(condition) = matching(&state) else { return Ok((state, None)) };
            let settings = [("max_block_size", BATCH_ROWS), ("max_threads", THREADS)];
            let rows = self.nodes.stream(&sql::select(kind, &condition), &settings).await?;
            // What is dropped or replaced is written down before it goes. If nothing was written
            // down until the query had its snapshot, the snapshot has all that the books say.
            let now = State::read(&self.nodes, kind).await?;
            if now.units == state.units {
                let units = state.units.clone();
                let counter = Counter { inner: self.clone(), kind, condition, units };
                return Ok((state, Some(Counted { rows, brought: 0, counter })));
            }
            self.metrics.scan_retries.inc();
            state = now;
        }
        let reason = format!("days of {} rows are dropped or restored again and again", kind.name());
        Err(WarmError::Io { path: self.path.clone(), reason })
    }

    pub(super) async fn scan(self: &Arc<Self>, query: &Query) -> Result<Scan, WarmError> {
        self.metrics.scans.inc();
        let (size, there) = self.size(query.kind).await?;
        let days = there.keys().copied().collect();
        let stats = Arc::new(Mutex::new(size));
        let (state, rows) = self
            .open(query.kind, |state| {
                let mut wanted = sql::wanted(query.symbols.as_deref(), &query.range)?;
                if !query.first_offsets.is_empty() {
                    wanted = format!("{wanted} AND {}", sql::from(&query.first_offsets));
                }
                // A day that comes in just now has only rows that the archive has not.
                Some(format!("{wanted} AND ({})", sql::counts(state, &query.archived, &days)))
            })
            .await?;
        if rows.is_some() {
            self.check_booked(query, &state, &there).await?;
        }
        let mut dropped = BTreeMap::new();
        let mut restored = BTreeSet::new();
        for (day, unit) in &state.units {
            if unit.is_restored() {
                restored.insert(*day);
            } else if unit.next_offsets.iter().any(|offset| *offset > 0) {
                dropped.insert(*day, unit.next_offsets.clone());
            }
        }
        let rows = match rows {
            Some(rows) => batches(query.kind, rows, Some(stats.clone())),
            None => stream::empty().boxed(),
        };
        Ok(Scan { rows, stats, next_offsets: state.next_offsets(), dropped, restored })
    }

    /// What the store holds, and the rows by day in the kind's parts, whether they count or not. Parts are the
    /// store's segments; which of the kind's a query reads can't be told before it runs.
    pub(super) async fn size(&self, kind: Kind) -> Result<(ScanStats, BTreeMap<TradingDay, u64>), WarmError> {
        let table = literal(&self.names.local(&rows_table(kind)));
        let (mut stats, mut there) = (ScanStats::default(), BTreeMap::new());
        for node in self.nodes.all() {
            let sql = format!(
                "SELECT count() AS parts, countIf(`table` = {table}) AS of_kind, sum(bytes_on_disk) AS bytes, \
                 sumMapIf([toInt32(toDate32(`partition`))], [system.parts.rows], `table` = {table}) AS by_day {}",
                parts_of(&self.names, None)
            );
            for row in node.rows::<SizeRow>(&sql).await? {
                stats.segments_total += row.parts;
                stats.segments_read += row.of_kind;
                stats.bytes_stored += row.bytes;
                let (days, rows) = row.by_day;
                for (day, rows) in days.into_iter().zip(rows) {
                    *there.entry(TradingDay::from_days_since_epoch(day)).or_default() += rows;
                }
            }
        }
        Ok((stats, there))
    }
}

/// A stream whose rows are counted, and compared at its end with how many the server says there are. A
/// scan that nobody reads to its end costs no count.
pub(super) struct Counted {
    rows: BatchStream,
    /// Rows that have arrived.
    brought: u64,
    counter: Counter,
}

impl Counted {
    /// The next batch; `None` after the last. Errors: the server failed, or brought other rows than it
    /// counts.
    async fn next(&mut self) -> Result<Option<RecordBatch>, WarmError> {
        let batch = self.rows.next().await?;
        match &batch {
            Some(batch) => self.brought += batch.num_rows() as u64,
            None => self.counter.check(self.brought).await?,
        }
        Ok(batch)
    }
}

/// Asks how many rows a scan has to bring.
struct Counter {
    inner: Arc<Inner>,
    kind: Kind,
    /// Which rows match.
    condition: String,
    /// What was dropped and restored when the scan began.
    units: BTreeMap<TradingDay, UnitState>,
}

impl Counter {
    async fn check(&self, brought: u64) -> Result<(), WarmError> {
        let Self { inner, kind, condition, units } = self;
        let sql = format!("SELECT count() FROM {} WHERE {condition}", rows_table(*kind));
        let counted: u64 = inner.nodes.one(&sql).await?;
        // Rows that were dropped or replaced since can't be counted any more.
        if counted == brought || State::read(&inner.nodes, *kind).await?.units != *units {
            return Ok(());
        }
        let reason = format!(
            "a query brought {brought} rows, and the server counts {counted}: something cuts answers short, such \
             as a row policy of the user; take it away"
        );
        Err(WarmError::Io { path: inner.path.clone(), reason })
    }
}

/// The rows that arrive, as batches of ticks.
pub(super) fn batches(
    kind: Kind,
    rows: Counted,
    stats: Option<Arc<Mutex<ScanStats>>>,
) -> BoxStream<'static, Result<TickBatch, WarmError>> {
    let step = move |rows: Option<Counted>| {
        let stats = stats.clone();
        async move {
            let mut rows = rows?;
            let next = loop {
                let next = rows.next().await;
                if let Some(stats) = &stats {
                    stats.lock().unwrap_or_else(PoisonError::into_inner).bytes_read = rows.rows.bytes_read();
                }
                match next {
                    Ok(Some(batch)) if batch.num_rows() == 0 => {}
                    next => break next,
                }
            };
            match next {
                Ok(next) => next.map(|batch| {
                    let batch = ticks(kind, &batch);
                    let rows = batch.is_ok().then_some(rows);
                    (batch, rows)
                }),
                Err(error) => Some((Err(error), None)),
            }
        }
    };
    stream::unfold(Some(rows), step).boxed()
}

/// A batch as ClickHouse gives it, in the columns of a batch of ticks.
fn ticks(kind: Kind, rows: &RecordBatch) -> Result<TickBatch, WarmError> {
    let schema = TickBatch::schema(kind);
    let damaged = |reason: String| WarmError::Damaged { path: rows_table(kind), reason };
    if rows.num_columns() != schema.fields().len() {
        return Err(damaged(format!(
            "{} columns where {} were asked for",
            rows.num_columns(),
            schema.fields().len()
        )));
    }
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(rows.num_columns());
    for (field, column) in schema.fields().iter().zip(rows.columns()) {
        let column = match field.data_type() {
            DataType::Decimal64(precision, scale) => {
                let values = column.as_primitive_opt::<Int64Type>();
                values.map(|values| {
                    let prices = PrimitiveArray::<Decimal64Type>::new(values.values().clone(), None);
                    Arc::new(prices.with_data_type(DataType::Decimal64(*precision, *scale))) as ArrayRef
                })
            }
            DataType::Dictionary(..) if field.is_nullable() => nameless(column),
            _ => Some(column.clone()),
        };
        let of_other_type = || damaged(format!("column \"{}\" is of another type", field.name()));
        let column = column.ok_or_else(of_other_type)?;
        if column.data_type() != field.data_type() {
            return Err(damaged(format!(
                "column \"{}\" is {} where {} was asked for",
                field.name(),
                column.data_type(),
                field.data_type()
            )));
        }
        columns.push(column);
    }
    let batch = RecordBatch::try_new(schema, columns).map_err(|error| damaged(error.to_string()))?;
    TickBatch::from_record_batch(kind, batch).map_err(|error| damaged(error.to_string()))
}

/// A column of symbols in which none is stored as the empty text.
fn nameless(column: &ArrayRef) -> Option<ArrayRef> {
    let column = column.as_dictionary_opt::<Int32Type>()?;
    let names = column.values().as_string_opt::<i32>()?;
    let (mut keys, mut named) = (Int32Builder::with_capacity(column.len()), StringBuilder::new());
    // Each name's key in the new dictionary, which lacks the empty one.
    let mut next = 0;
    let renamed: Vec<Option<i32>> = (0..names.len())
        .map(|key| {
            let name = if names.is_null(key) { "" } else { names.value(key) };
            (!name.is_empty()).then(|| {
                named.append_value(name);
                next += 1;
                next - 1
            })
        })
        .collect();
    for key in column.keys() {
        keys.append_option(key.and_then(|key| renamed.get(key as usize).copied().flatten()));
    }
    let keys = keys.finish();
    Some(Arc::new(DictionaryArray::try_new(keys, Arc::new(named.finish())).ok()?))
}
