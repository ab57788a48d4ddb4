//! A database that is put back, emptied, shared, older, or short of rows: each is noticed.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt};

use super::*;
use crate::bus::epoch::{Ended, LogName, Misfit, Relation};
use crate::market::{Bar, Timeframe, TradingDay};
use crate::tiering::archive::ArchiveError;

const TABLES: [&str; 5] = ["claims", "marks", "blocks", "prev_close_rows", "gap_rows"];

async fn execute(warm: &ClickHouseWarm, sql: &str) {
    warm.inner.nodes.current().execute(sql).await.unwrap();
}

/// Copies what the store holds, for [`put_back`].
async fn copy(warm: &ClickHouseWarm) {
    for table in TABLES {
        execute(warm, &format!("CREATE TABLE copy_{table} AS {table}")).await;
        execute(warm, &format!("INSERT INTO copy_{table} SELECT * FROM {table}")).await;
    }
}

/// Puts the copy in the place of what is there.
async fn put_back(warm: &ClickHouseWarm) {
    for table in TABLES {
        execute(warm, &format!("TRUNCATE TABLE {table}")).await;
        let insert =
            format!("INSERT INTO {table} SELECT * FROM copy_{table} SETTINGS insert_deduplicate = 0");
        execute(warm, &insert).await;
    }
}

fn is_reverted(outcome: Result<(), WarmError>) -> bool {
    match outcome {
        Err(error @ WarmError::Reverted { .. }) => {
            assert!(!error.is_passing() && error.to_string().contains("was put back"), "{error}");
            true
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_store_that_was_put_back_or_emptied_is_noticed_by_the_next_commit() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    warm.claim(0).await.unwrap();
    warm.commit(block(0, 0, 3)).await.unwrap();
    copy(&warm).await;
    warm.commit(block(0, 3, 5)).await.unwrap();
    put_back(&warm).await;
    assert!(is_reverted(warm.commit(block(0, 5, 7)).await));
    // The log has what was lost: from the mark on.
    assert_eq!(warm.claim(0).await.unwrap().next_offset, 3);
    warm.commit(block(0, 3, 7)).await.unwrap();
    assert_eq!(offsets(&warm, 0).await, (0..7).collect::<Vec<_>>());
    // With nothing stored after the copy but a claim.
    put_back(&warm).await;
    assert!(is_reverted(warm.commit(block(0, 7, 9)).await));
    assert_eq!(warm.claim(0).await.unwrap().next_offset, 3);
    warm.commit(block(0, 3, 9)).await.unwrap();
    assert_eq!(offsets(&warm, 0).await, (0..9).collect::<Vec<_>>());

    // Made again by another process, which claims a partition that this one has stored nothing in.
    warm.claim(1).await.unwrap();
    execute(&warm, &format!("DROP DATABASE {} SYNC", database.name)).await;
    let other = database.open().await;
    assert!(is_reverted(warm.commit(block(0, 9, 11)).await));
    other.claim(1).await.unwrap();
    let fenced = warm.commit(block(1, 0, 2)).await;
    assert!(matches!(fenced, Err(WarmError::Fenced { partition: 1 })), "{fenced:?}");
    assert_eq!(warm.claim(0).await.unwrap(), Mark::default());
    warm.commit(block(0, 0, 11)).await.unwrap();
    other.commit(block(1, 0, 2)).await.unwrap();
    assert_eq!(offsets(&warm, 0).await, (0..11).collect::<Vec<_>>());
    assert_eq!(offsets(&warm, 1).await, [0, 1]);
    assert_eq!(warm.metrics().reverts.get(), 3);
}

#[tokio::test]
async fn the_seam_comes_back_with_the_mark() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    warm.commit(Block { seam: Some(u64::MAX), ..block(0, 0, 3) }).await.unwrap();
    assert_eq!(warm.mark(0).await.unwrap().seam, Some(u64::MAX));
    let other = database.open().await;
    assert_eq!(other.claim(0).await.unwrap().seam, Some(u64::MAX));
    other.commit(block(0, 3, 4)).await.unwrap();
    assert_eq!(warm.mark(0).await.unwrap().seam, None);
}

#[tokio::test]
async fn a_database_belongs_to_one_log() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    let origin = Origin { log: 7.into(), partitions: 2 };
    let other = Origin { log: 8.into(), ..origin };
    // Whoever only looks names nothing.
    assert!(!warm.check_origin(&origin).await.unwrap());
    assert!(!warm.check_origin(&other).await.unwrap());
    for _ in 0..2 {
        warm.adopt_origin(&origin).await.unwrap();
    }
    for refused in [warm.check_origin(&other).await.map(drop), warm.adopt_origin(&other).await] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, WarmError::OtherLog { .. }) && !refused.is_passing(), "{refused}");
        let text = refused.to_string();
        assert!(text.contains("0000000000000007") && text.contains("warm.clickhouse_database"), "{text}");
    }
    let more = warm.adopt_origin(&Origin { partitions: 4, ..origin }).await.unwrap_err().to_string();
    assert!(more.contains("made with a log of 2 partitions, and the log has 4"), "{more}");
    assert!(more.contains("make a new topic") && more.contains("a new database"), "{more}");
    // A later version of stk that names the same log otherwise.
    let renamed = Origin { log: LogName { id: 9, former: Some(7) }, partitions: 2 };
    assert!(!warm.check_origin(&renamed).await.unwrap());
    assert!(warm.check_origin(&origin).await.unwrap());
    warm.adopt_origin(&renamed).await.unwrap();
    assert!(warm.check_origin(&renamed).await.unwrap());
    assert!(warm.check_origin(&origin).await.is_err(), "the older one is refused");
}

#[tokio::test]
async fn a_database_names_the_generations_of_a_log_on_a_disk() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    let held = warm.held().await.unwrap();
    assert_eq!((held.log, held.lineage, held.next_offsets), (None, Vec::new(), Vec::new()));
    let mut epoch = LogEpoch::begin();
    warm.name_log(&epoch, 2).await.unwrap();
    warm.commit(block(0, 0, 3)).await.unwrap();
    let held = database.open().await.held().await.unwrap();
    assert_eq!(held.log, Some(epoch.log().id));
    assert_eq!(held.lineage, [Ended { generation: epoch.log().generation, ends: vec![3, 0] }]);
    assert_eq!(epoch.fit(&[3, 0], &held), Ok(Relation::Own));
    epoch.advance(&[3, 0]);
    for _ in 0..2 {
        warm.name_log(&epoch, 2).await.unwrap();
    }
    let rows: u64 = warm.inner.nodes.one("SELECT max(version) FROM lineage").await.unwrap();
    assert_eq!(rows, 2, "the same is named once");
    // A copy of the log of before, with other records.
    let mut copy = LogEpoch::with_history(epoch.log().id, 1 << 40, [], Vec::new());
    copy.advance(&[2, 0]);
    let parted = copy.fit(&[9, 0], &warm.held().await.unwrap());
    assert!(matches!(parted, Err(Misfit::Parted { partition: 0, .. })), "{parted:?}");
    let other = LogEpoch::begin().fit(&[9, 0], &warm.held().await.unwrap());
    assert!(matches!(other, Err(Misfit::OtherLog { .. })), "{other:?}");
}

/// How many rows of `unit` at `offsets` of the first partition are booked, and not there.
async fn lost(warm: &ClickHouseWarm, unit: Unit, offsets: std::ops::Range<u64>) -> u64 {
    warm.rows_lost(unit, std::slice::from_ref(&offsets)).await.unwrap().map_or(0, |lost| lost.rows)
}

/// Makes a database of version 1 of the schema, with three records of a partition.
async fn as_version_1(database: &Database) {
    let warm = database.open().await;
    warm.commit(block(0, 0, 3)).await.unwrap();
    for sql in [
        "DROP TABLE lineage",
        "DROP TABLE origin",
        "DROP TABLE ledger_by_blocks",
        "DROP TABLE ledger",
        "ALTER TABLE blocks DROP COLUMN seam",
        "DROP TABLE stk_schema",
        "CREATE TABLE stk_schema (version UInt32, program String) ENGINE = MergeTree ORDER BY version",
        "INSERT INTO stk_schema VALUES (1, 'stk 0.1.0')",
    ] {
        execute(&warm, sql).await;
    }
}

/// A user who may not add columns migrates a database of version 1 all the same, and seams begin once
/// somebody with more rights has opened it.
#[tokio::test]
async fn a_user_who_may_not_alter_tables_is_not_refused() {
    let Some(mut database) = one() else { return };
    // The only one that this user may use.
    database.name = "stk_restricted".to_owned();
    as_version_1(&database).await;
    let restricted = ClickHouseOptions {
        user: "restricted".to_owned(),
        password: crate::secret::Secret::new("restricted"),
        ..database.options()
    };
    let sealed = |first, next| Block { seam: Some(7), ..block(0, first, next) };
    let origin = Origin { log: 7.into(), partitions: 1 };
    for (first, next) in [(3, 5), (5, 6)] {
        let warm = ClickHouseWarm::open(&restricted).await.unwrap();
        warm.adopt_origin(&origin).await.unwrap();
        assert_eq!(warm.claim(0).await.unwrap().next_offset, first);
        warm.commit(sealed(first, next)).await.unwrap();
        assert_eq!(warm.mark(0).await.unwrap().seam, None);
        let reader = ClickHouseWarm::open_existing(&restricted).await.unwrap();
        assert_eq!(offsets(&reader, 0).await, (0..next).collect::<Vec<_>>());
    }
    let warm = database.open().await;
    warm.commit(sealed(6, 8)).await.unwrap();
    assert_eq!(warm.mark(0).await.unwrap().seam, Some(7));
    let warm = ClickHouseWarm::open(&restricted).await.unwrap();
    assert_eq!(warm.claim(0).await.unwrap().seam, Some(7));
    warm.commit(sealed(8, 9)).await.unwrap();
    assert_eq!(offsets(&warm, 0).await, (0..9).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_database_of_the_version_before_is_migrated_and_adopted() {
    let Some(database) = one() else { return };
    as_version_1(&database).await;
    let refused = ClickHouseWarm::open_existing(&database.options()).await.err().unwrap().to_string();
    assert!(refused.ends_with("`stk serve` of this version migrates it"), "{refused}");
    let warm = database.open().await;
    let mark = warm.claim(0).await.unwrap();
    assert_eq!((mark.next_offset, mark.seam), (3, None));
    warm.adopt_origin(&Origin { log: 7.into(), partitions: 1 }).await.unwrap();
    warm.commit(block(0, 3, 5)).await.unwrap();
    assert_eq!(offsets(&warm, 0).await, [0, 1, 2, 3, 4]);
    // The ledger begins with the migration.
    for info in warm.units().await.unwrap() {
        assert_eq!(lost(&warm, info.unit, 0..5).await, 0);
    }
    let versions: Vec<u32> =
        warm.inner.nodes.rows("SELECT version FROM stk_schema ORDER BY version").await.unwrap();
    assert_eq!(versions, [1, 2, 3, 4]);
}

#[tokio::test]
async fn rows_that_were_removed_by_hand_are_not_archived_around() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    for (first, next) in [(0, 3), (3, 5)] {
        warm.commit(block(0, first, next)).await.unwrap();
    }
    // What did not become a whole block is in the ledger, and is not missed.
    let fence = database.open().await;
    fence.claim(0).await.unwrap();
    assert!(warm.commit(block(0, 5, 9)).await.is_err());
    let units = warm.units().await.unwrap();
    for info in &units {
        assert_eq!(lost(&warm, info.unit, 0..5).await, 0);
    }
    let gone = units.iter().find(|info| info.unit.kind == Kind::PrevClose).unwrap().unit;
    execute(&warm, &format!("ALTER TABLE prev_close_rows DROP PARTITION '{}'", gone.day)).await;
    assert_eq!(lost(&warm, gone, 0..5).await, 5);
    assert_eq!(lost(&warm, gone, 3..5).await, 2, "from the second block on");

    let dir = tempfile::tempdir().unwrap();
    let cold = Arc::new(DirCold::open(dir.path()).unwrap());
    let options =
        ArchiveOptions { after_days: 1, keep_days: 1, settle: Duration::ZERO, ..ArchiveOptions::default() };
    let archiver = Archiver::new(cold, warm.clone(), options, Clock::default(), ArchiveMetrics::default());
    let nothing: Progress = Arc::new(|_| {});
    let failures = archiver.run(&nothing).await.unwrap().failures;
    let [(unit, ArchiveError::Lost { rows: 5, .. })] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!(*unit, gone);
    // The way out that the message names.
    let text = failures[0].1.to_string();
    let forget = text.split_once("forget them: ").unwrap().1;
    execute(&warm, &format!("{forget} SETTINGS mutations_sync = 2")).await;
    let again = archiver.run(&nothing).await.unwrap();
    assert_eq!(again.failures, []);
    let left = warm.units().await.unwrap();
    assert!(left.iter().all(|info| info.unit != gone), "{left:?}");
}

/// A query that is refused since rows are gone: how many, and what the message says.
async fn refused(warm: &ClickHouseWarm, query: &Query) -> (u64, String) {
    let error = warm.scan(query).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, WarmError::Damaged { .. }), "{error}");
    let text = error.to_string();
    let (before, _) = text.split_once(" rows that were stored in warm are no longer there: ").unwrap();
    (before.rsplit(' ').next().unwrap().parse().unwrap(), text)
}

#[tokio::test]
async fn a_scan_of_a_day_whose_rows_were_removed_by_hand_is_refused() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    for (first, next) in [(0, 3), (3, 5)] {
        warm.commit(block(0, first, next)).await.unwrap();
    }
    let all = Query::new(Kind::PrevClose, None, TimeRange::ALL);
    let rows = async |query: &Query| {
        let scan = warm.scan(query).await.unwrap();
        let batches: Vec<TickBatch> = scan.rows.try_collect().await.unwrap();
        batches.iter().map(TickBatch::len).sum::<usize>()
    };
    // From here on what was booked is remembered.
    assert_eq!(rows(&all).await, 10);
    let units = warm.units().await.unwrap();
    let mut closes = units.iter().map(|info| info.unit).filter(|unit| unit.kind == Kind::PrevClose);
    let (gone, left) = (closes.next().unwrap(), closes.next().unwrap());
    let exported = async |unit| {
        let rows = warm.export(unit, std::slice::from_ref(&(0..5))).await.unwrap();
        rows.try_collect::<Vec<TickBatch>>().await.unwrap()
    };
    let closes = exported(gone).await;
    let drop_by_hand = format!("ALTER TABLE prev_close_rows DROP PARTITION '{}'", gone.day);
    execute(&warm, &drop_by_hand).await;
    // With what was booked in the cache, and by a new process.
    for warm in [warm.clone(), database.open().await] {
        let (missing, text) = refused(&warm, &all).await;
        assert_eq!(missing, 5);
        assert!(
            text.contains(&format!("{gone}: 5 rows")) && text.contains("forget them: ALTER TABLE"),
            "{text}"
        );
        let symbol = Query { symbols: Some(vec!["AAPL".parse().unwrap()]), ..all.clone() };
        assert_eq!(refused(&warm, &symbol).await.0, 5);
    }
    // Of other days and kinds nothing is missing.
    let day = |unit: Unit| TimeRange { from: unit.day.start(), to: unit.day.end() };
    assert_eq!(rows(&Query { range: day(left), ..all.clone() }).await, 5);
    assert_eq!(refused(&warm, &Query { range: day(gone), ..all.clone() }).await.0, 5);
    assert_eq!(rows(&Query { kind: Kind::Gap, ..all.clone() }).await, 10);
    // Nor of what the archive answers: the second block alone, and nothing.
    let archived = |offset| Query { archived: BTreeMap::from([(gone.day, vec![offset])]), ..all.clone() };
    assert_eq!(refused(&warm, &archived(3)).await.0, 2);
    assert_eq!(rows(&archived(5)).await, 5);
    // More that comes does not hide what is gone.
    warm.commit(block(0, 5, 9)).await.unwrap();
    assert_eq!(refused(&*database.open().await, &all).await.0, 5);

    // What was restored is missed as well, and a restore brings it back.
    let restore = async || {
        let rows = closes.clone().into_iter().map(Ok);
        warm.restore(gone, &[5], futures_util::stream::iter(rows).boxed()).await.unwrap();
    };
    restore().await;
    assert_eq!(rows(&all).await, 18);
    execute(&warm, &drop_by_hand).await;
    for warm in [warm.clone(), database.open().await] {
        let (missing, text) = refused(&warm, &all).await;
        assert_eq!(missing, 9);
        assert!(
            text.contains(&format!("`stk archive restore {} --kind prev_close --into-warm`", gone.day)),
            "{text}"
        );
        assert_eq!(lost(&warm, gone, 0..9).await, 9);
        assert_eq!(lost(&warm, gone, 5..9).await, 4, "of the log's");
    }
    restore().await;
    assert_eq!(refused(&warm, &all).await.0, 4);
    // The way out that the message names.
    let (_, text) = refused(&warm, &all).await;
    let forget = text.split_once("forget them: ").unwrap().1;
    execute(&warm, &format!("{forget} SETTINGS mutations_sync = 2")).await;
    assert_eq!(rows(&all).await, 14);
}

/// A store that was put back has other blocks than the archive's days end with: all of a block's rows of a day
/// can lie below what is dropped, though the block goes on.
#[tokio::test]
async fn rows_of_a_block_that_is_dropped_in_part_are_not_missed() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    warm.commit(Block { next_offset: 7, ..block(0, 0, 3) }).await.unwrap();
    warm.commit(block(0, 7, 9)).await.unwrap();
    let units = warm.units().await.unwrap();
    for unit in units.iter().map(|info| info.unit) {
        assert_eq!(warm.drop_rows(unit, &[5]).await.unwrap(), 0);
        assert_eq!(lost(&warm, unit, 5..9).await, 0, "{unit}");
    }
    for warm in [warm.clone(), database.open().await] {
        assert_eq!(offsets(&warm, 0).await, [7, 8]);
    }
    execute(&warm, "ALTER TABLE prev_close_rows DELETE WHERE `offset` = 8 SETTINGS mutations_sync = 2").await;
    let all = Query::new(Kind::PrevClose, None, TimeRange::ALL);
    assert_eq!(refused(&warm, &all).await.0, 1);
}

/// A bar of a day, stored at `offset`.
fn bar_at(offset: u64) -> (TradingDay, TickBatch) {
    let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(0));
    let bar = Bar::empty("AAPL".parse().unwrap(), Timeframe::MINUTE, "2026-11-20T15:00:00Z".parse().unwrap());
    let seq = Seq { partition: 0, offset, index: u32::MAX };
    builder.push_bar(table.intern(bar.symbol), seq, &bar);
    builder.finish(&table).remove(0)
}

/// Bars that are rebuilt stand at the last offset before their block, which can be empty.
#[tokio::test]
async fn rebuilt_bars_that_are_archived_are_not_missed() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    let (day, bar) = bar_at(3);
    let unit = Unit { day, kind: Kind::Bar };
    let rebuilt = |first_offset, next_offset, offset| Block {
        next_offset,
        batches: vec![bar_at(offset)],
        ..block(0, first_offset, first_offset)
    };
    warm.commit(block(0, 0, 4)).await.unwrap();
    warm.commit(rebuilt(4, 4, 3)).await.unwrap();
    let all = Query::new(Kind::Bar, None, TimeRange::ALL);
    let scanned = async || {
        let batches: Vec<TickBatch> = warm.scan(&all).await.unwrap().rows.try_collect().await.unwrap();
        batches.iter().map(TickBatch::len).sum::<usize>()
    };
    assert_eq!(scanned().await, 1);
    assert_eq!(warm.drop_rows(unit, &[4]).await.unwrap(), 0);
    assert_eq!(scanned().await, 0);
    assert_eq!((lost(&warm, unit, 0..9).await, lost(&warm, unit, 4..9).await), (0, 0));
    let archived = futures_util::stream::iter([Ok(bar)]).boxed();
    warm.restore(unit, &[4], archived).await.unwrap();
    assert_eq!(scanned().await, 1);
    warm.commit(block(0, 4, 6)).await.unwrap();
    warm.commit(rebuilt(6, 6, 5)).await.unwrap();
    assert_eq!(scanned().await, 2);
    assert_eq!((lost(&warm, unit, 0..9).await, lost(&warm, unit, 4..9).await), (0, 0));
    execute(&warm, "TRUNCATE TABLE bar_rows").await;
    assert_eq!(refused(&warm, &all).await.0, 2);
    assert_eq!(lost(&warm, unit, 0..9).await, 2);
}
