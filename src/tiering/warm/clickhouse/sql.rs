//! The rules as SQL: which rows count, which are asked for, and their digest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::ops::Range;

use arrow_schema::DataType;

use super::schema::{literal, rows_table};
use super::state::{State, UnitState};
use crate::market::{Kind, Symbol, TickBatch, TimeRange, Timestamp, TradingDay};

/// Epochs from here on are restores: the rows count if the unit's state names just that one.
pub(super) const RESTORED: u32 = 1 << 31;

/// An array of numbers, looked up by partition.
fn by_partition(values: &[u64]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    let values = if values.is_empty() { "0".to_owned() } else { values.join(", ") };
    // Past the array's end an element is 0.
    format!("arrayElement([{values}], toUInt32(`partition`) + 1)")
}

/// The day as a literal.
pub(super) fn day_literal(day: TradingDay) -> String {
    format!("toDate32('{day}')")
}

fn instant_literal(ts: Timestamp) -> String {
    format!("fromUnixTimestamp64Nano(toInt64({}), 'UTC')", ts.nanos())
}

/// Which rows earlier epochs wrote that the owner of `epoch` took over from without: it followed
/// `follows` at `block`.
pub(super) fn superseded(partition: u16, epoch: u32, follows: u32, block: u64) -> String {
    format!("`partition` = {partition} AND epoch < {epoch} AND (block > {block} OR epoch > {follows})")
}

/// Which rows the processor stored count as far as commits go: those of epochs and blocks up to the
/// partition's mark, but for superseded ones.
pub(super) fn committed(state: &State) -> String {
    let epochs: Vec<u64> = state.marks.iter().map(|mark| u64::from(mark.epoch)).collect();
    let blocks: Vec<u64> = state.marks.iter().map(|mark| mark.block).collect();
    let mut sql = format!("epoch <= {} AND block <= {}", by_partition(&epochs), by_partition(&blocks));
    for takeover in &state.takeovers {
        let hidden = superseded(takeover.partition, takeover.epoch, takeover.follows, takeover.block);
        let _ = write!(sql, " AND NOT ({hidden})");
    }
    sql
}

/// Which rows count: those of [`committed`] blocks that were not dropped, and of restored days the
/// rows of the restore that counts. Of the days in `floors` also those below the floors are left
/// out, unless the day is restored. `days` are all that rows can be of: of years of archived days a
/// store has few.
pub(super) fn counts(
    state: &State,
    floors: &BTreeMap<TradingDay, Vec<u64>>,
    days: &BTreeSet<TradingDay>,
) -> String {
    let mut sql = format!("({}", committed(state));
    let mut least: BTreeMap<TradingDay, Vec<u64>> =
        state.units.iter().map(|(day, unit)| (*day, unit.next_offsets.clone())).collect();
    for (day, floors) in floors.iter().filter(|(day, _)| days.contains(day)) {
        if !state.units.get(day).is_some_and(UnitState::is_restored) {
            let least = least.entry(*day).or_default();
            raise(least, floors);
        }
    }
    least.retain(|day, offsets| days.contains(day) && offsets.iter().any(|offset| *offset > 0));
    for (day, offsets) in &least {
        let _ =
            write!(sql, " AND NOT (`day` = {} AND `offset` < {})", day_literal(*day), by_partition(offsets));
    }
    sql.push(')');
    for (day, unit) in state.units.iter().filter(|(_, unit)| unit.is_restored()) {
        let _ = write!(sql, " OR (`day` = {} AND epoch = {})", day_literal(*day), unit.restored);
    }
    sql
}

/// Raises each offset to the other's, where that is higher.
pub(super) fn raise(offsets: &mut Vec<u64>, others: &[u64]) {
    if offsets.len() < others.len() {
        offsets.resize(others.len(), 0);
    }
    for (offset, other) in offsets.iter_mut().zip(others) {
        *offset = (*offset).max(*other);
    }
}

/// Which rows `drop_rows` may take away: those below `unit`'s offsets, and restores that do not
/// count any more. A restore that was begun after `unit` was read is none of them: whoever drops may
/// have lost its lease meanwhile.
pub(super) fn gone(unit: &UnitState) -> String {
    format!(
        "(epoch < {RESTORED} AND `offset` < {}) OR (epoch >= {RESTORED} AND epoch <= {} AND epoch != {})",
        by_partition(&unit.next_offsets),
        unit.generation,
        unit.restored
    )
}

/// Which rows lie in `offsets`, by partition.
pub(super) fn within(offsets: &[Range<u64>]) -> String {
    let (starts, ends): (Vec<u64>, Vec<u64>) = offsets.iter().map(|range| (range.start, range.end)).unzip();
    format!("`offset` >= {} AND `offset` < {}", by_partition(&starts), by_partition(&ends))
}

/// Which rows lie at `first_offsets`, by partition, or after.
pub(super) fn from(first_offsets: &[u64]) -> String {
    // Against constants: an index can't use what is computed for each row.
    let mut sql = format!("(`partition` >= {}", first_offsets.len());
    for (partition, offset) in first_offsets.iter().enumerate() {
        let _ = write!(sql, " OR (`partition` = {partition} AND `offset` >= {offset})");
    }
    sql.push(')');
    sql
}

/// Which rows are asked for by symbol and time. `None`: none can be.
pub(super) fn wanted(symbols: Option<&[Symbol]>, range: &TimeRange) -> Option<String> {
    if range.is_empty() || symbols.is_some_and(<[Symbol]>::is_empty) {
        return None;
    }
    let mut terms = Vec::new();
    if let Some(symbols) = symbols {
        let names: Vec<String> = symbols.iter().map(|symbol| literal(symbol.as_str())).collect();
        terms.push(format!("`symbol` IN ({})", names.join(", ")));
    }
    // The day is the partition's key: days out of range are not even opened.
    if range.from > TimeRange::ALL.from {
        terms.push(format!("`day` >= {}", day_literal(range.from.trading_day())));
        terms.push(format!("`ts` >= {}", instant_literal(range.from)));
    }
    if range.to < TimeRange::ALL.to {
        let last = range.to.saturating_add_nanos(-1).trading_day();
        terms.push(format!("`day` <= {}", day_literal(last)));
        terms.push(format!("`ts` < {}", instant_literal(range.to)));
    }
    Some(if terms.is_empty() { "1".to_owned() } else { terms.join(" AND ") })
}

/// The rows of `kind` that match, in the order of scans, with the columns of a batch.
pub(super) fn select(kind: Kind, matching: &str) -> String {
    let schema = TickBatch::schema(kind);
    let columns: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| {
            let name = field.name();
            match field.data_type() {
                // As the integers they are: Arrow's decimals of another width would be copied.
                DataType::Decimal64(..) => format!("reinterpretAsInt64(`{name}`) AS `{name}_`"),
                _ => format!("`{name}`"),
            }
        })
        .collect();
    format!(
        "SELECT {} FROM {} WHERE {matching} ORDER BY `symbol`, `ts`, `partition`, `offset`, `index`",
        columns.join(", "),
        rows_table(kind)
    )
}

/// The digest of the rows of `kind` that match: count, sum, earliest and latest time.
///
/// The bytes of [`TickBatch::digest`], computed by the server: it must never be derived from rows
/// that came out of it.
pub(super) fn digest(kind: Kind, matching: &str) -> String {
    let schema = TickBatch::schema(kind);
    let market = schema.fields().iter().filter(|field| {
        !["symbol", "recv_ts", "partition", "offset", "index"].contains(&field.name().as_str())
    });
    let mut cells = vec![format!("toFixedString(toString(`symbol`), {})", Symbol::LEN_MAX)];
    let mut texts = Vec::new();
    for field in market {
        let name = field.name();
        match field.data_type() {
            DataType::Dictionary(..) => {
                let width = if name == "timeframe" { 8 } else { 4 };
                cells.push(format!("toFixedString(toString(`{name}`), {width})"));
            }
            DataType::Utf8 => texts.push(format!("`{name}`, '\\0'")),
            _ => cells.push(format!("reinterpretAsFixedString(`{name}`)")),
        }
    }
    cells.extend(texts);
    format!(
        "SELECT count() AS rows, sum(xxh3(concat({}))) AS sum, \
         min(reinterpretAsInt64(`ts`)) AS ts_min, max(reinterpretAsInt64(`ts`)) AS ts_max \
         FROM {} WHERE {matching}",
        cells.join(", "),
        rows_table(kind)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiering::warm::clickhouse::state::{Standing, Takeover};

    #[test]
    fn a_restored_day_is_whole_whatever_the_archive_says() {
        let day: TradingDay = "2026-11-20".parse().unwrap();
        let mut state = State {
            marks: vec![Standing { epoch: 3, block: 7, next_offset: 70 }],
            takeovers: vec![Takeover { partition: 0, epoch: 2, follows: 1, block: 5 }],
            ..State::default()
        };
        let floors = BTreeMap::from([(day, vec![9])]);
        assert_eq!(
            counts(&state, &floors, &BTreeSet::from([day])),
            "(epoch <= arrayElement([3], toUInt32(`partition`) + 1) \
             AND block <= arrayElement([7], toUInt32(`partition`) + 1) \
             AND NOT (`partition` = 0 AND epoch < 2 AND (block > 5 OR epoch > 1)) \
             AND NOT (`day` = toDate32('2026-11-20') AND `offset` < arrayElement([9], toUInt32(`partition`) + 1)))"
        );
        assert!(!counts(&state, &floors, &BTreeSet::new()).contains("day"));
        let unit = UnitState { next_offsets: vec![4], restored: RESTORED + 3, ..UnitState::default() };
        state.units.insert(day, unit);
        state.takeovers.clear();
        assert_eq!(
            counts(&state, &floors, &BTreeSet::from([day])),
            "(epoch <= arrayElement([3], toUInt32(`partition`) + 1) \
             AND block <= arrayElement([7], toUInt32(`partition`) + 1) \
             AND NOT (`day` = toDate32('2026-11-20') AND `offset` < arrayElement([4], toUInt32(`partition`) + 1))) \
             OR (`day` = toDate32('2026-11-20') AND epoch = 2147483651)"
        );
    }

    #[test]
    fn what_can_match_nothing_is_not_asked() {
        let nobody: &[Symbol] = &[];
        assert_eq!(wanted(Some(nobody), &TimeRange::ALL), None);
        assert_eq!(wanted(None, &TimeRange::ALL).as_deref(), Some("1"));
        let at = Timestamp::from_nanos(5);
        assert_eq!(wanted(None, &TimeRange { from: at, to: at }), None);
    }
}
