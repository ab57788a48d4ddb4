//! The store against a real ClickHouse: the suite of all warm stores, lost requests at every step,
//! owners that fence each other, and a cluster.

mod whole;

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;
use crate::market::{
    NO_SYMBOL, PrevClose, Price, Seq, SymbolTable, Tick, TickBatchBuilder, TimeRange, Timestamp, arbitrary,
};
use crate::testing::proxy::{Fault, Gate, Proxy};
use crate::testing::service;
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::archive::run::Archiver;
use crate::tiering::archive::{ArchiveMetrics, ArchiveOptions, Clock, Progress};
use crate::tiering::cold::dir::DirCold;
use crate::tiering::tiers::Tiers;
use crate::tiering::warm::conformance::{self, Case};

/// A database of a test's own; dropped at its end, also of a failed one.
struct Database {
    urls: Vec<String>,
    name: String,
}

impl Database {
    fn new(urls: &[String]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("stk_test_{}_{number}_{}", std::process::id(), nonce());
        Self { urls: urls.to_vec(), name }
    }

    fn options(&self) -> ClickHouseOptions {
        ClickHouseOptions { database: self.name.clone(), ..ClickHouseOptions::new(&self.urls.join(",")) }
    }

    async fn open(&self) -> Arc<ClickHouseWarm> {
        ClickHouseWarm::open(&self.options()).await.unwrap()
    }

    /// The same database by way of `proxy`.
    async fn open_by(&self, proxy: &Proxy) -> Arc<ClickHouseWarm> {
        let options = ClickHouseOptions { urls: vec![proxy.url().to_owned()], ..self.options() };
        ClickHouseWarm::open(&options).await.unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (urls, sql) = (self.urls.clone(), format!("DROP DATABASE IF EXISTS {} SYNC", self.name));
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for url in urls {
                    let options = ClickHouseOptions::new(&url);
                    let nodes = Nodes::new(&options, ClickHouseWarmMetrics::default()).unwrap();
                    let _ = nodes.current().execute(&sql).await;
                }
            });
        });
        let _ = dropped.join();
    }
}

fn one() -> Option<Database> {
    service("CLICKHOUSE").map(|url| Database::new(&[url]))
}

/// Logs of the suite's kind, the same ones in every run.
fn cases(count: usize) -> Vec<Case> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut case = || conformance::case().new_tree(&mut runner).unwrap().current();
    let mut cases = Vec::new();
    while cases.len() < count {
        let next: Case = case();
        // A case of few rows shows little and takes as long.
        if next.blocks.iter().flat_map(|(_, records)| records).map(Vec::len).sum::<usize>() >= 20 {
            cases.push(next);
        }
    }
    cases
}

fn queries(count: usize) -> Vec<Query> {
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count).map(|_| conformance::query().new_tree(&mut runner).unwrap().current()).collect()
}

fn all(kind: Kind) -> Query {
    Query::new(kind, None, TimeRange::ALL)
}

/// A block with a row of each of two kinds and two days, at every offset.
fn block(partition: u16, first_offset: u64, next_offset: u64) -> Block {
    let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(partition));
    for offset in first_offset..next_offset {
        for (index, day) in (0..).zip([0, 1]) {
            let symbol = "AAPL".parse().unwrap();
            let ts =
                Timestamp::from_nanos(1_499_693_400_000_000_000 + day * 86_400_000_000_000 + offset as i64);
            let price = Price::from_ten_thousandths(1 + offset as i64).unwrap();
            let close = Tick::PrevClose(PrevClose { symbol, ts, recv_ts: ts, price });
            builder.push(table.intern(symbol), Seq { partition, offset, index }, &close);
            let gap = crate::market::Gap {
                symbol: None,
                ts,
                recv_ts: ts,
                kind: crate::market::GapKind::Missed,
                source: "test".into(),
                first: offset,
                last: offset,
            };
            let seq = Seq { partition, offset, index: 2 + index };
            builder.push(NO_SYMBOL, seq, &Tick::Gap(Box::new(gap)));
        }
    }
    let checkpoint = Bytes::from(format!("state at {next_offset}"));
    Block { partition, first_offset, next_offset, batches: builder.finish(&table), checkpoint, seam: None }
}

/// The offsets of `partition` that a scan shows, and that every row of them is there once.
async fn offsets(warm: &ClickHouseWarm, partition: u16) -> Vec<u64> {
    let mut shown = Vec::new();
    for kind in [Kind::PrevClose, Kind::Gap] {
        let rows = conformance::scanned(warm, &all(kind)).await.unwrap();
        let mut found: Vec<u64> =
            rows.iter().filter(|row| row.2.partition == partition).map(|row| row.2.offset).collect();
        found.sort_unstable();
        assert!(found.chunks(2).all(|pair| pair[0] == pair[1]), "{} of {found:?}", kind.name());
        found.dedup();
        shown.push(found);
    }
    assert_eq!(shown[0], shown[1]);
    shown.swap_remove(0)
}

#[tokio::test]
async fn passes_the_suite_of_warm_stores() {
    let Some(database) = one() else { return };
    let empty = database.open().await;
    conformance::empty_store_stands_at_zero(&*empty).await;
    conformance::claim_tells_where_it_stands(&*empty).await;
    let own = || Database::new(&database.urls);
    let database = own();
    conformance::blocks_follow_on_each_other(&*database.open().await).await;
    let database = own();
    conformance::empty_block_moves_the_mark(&*database.open().await).await;
    let database = own();
    conformance::bars_keep_their_latest_revision(&*database.open().await).await;
    let database = own();
    conformance::a_rebuilt_bar_is_archived_by_its_place(&*database.open().await).await;
}

#[tokio::test]
async fn scans_give_what_was_stored() {
    let Some(database) = one() else { return };
    for case in cases(2) {
        let database = Database::new(&database.urls);
        let warm = database.open().await;
        let rows = conformance::store(&*warm, &case).await;
        for query in queries(20).iter().chain(&Kind::ALL.map(all)) {
            conformance::scans_give_what_matches(&*warm, &rows, query).await;
        }
        conformance::archived_rows_are_left_out(&*warm, &rows).await;
        // And the same after a restart.
        let warm = database.open().await;
        for kind in &Kind::ALL[..7] {
            conformance::scans_give_what_matches(&*warm, &rows, &all(*kind)).await;
        }
        let database = Database::new(&database.urls);
        conformance::scan_is_a_snapshot(&*database.open().await, &case).await;
    }
}

#[tokio::test]
async fn the_archive_gets_units_digests_and_rows() {
    let Some(database) = one() else { return };
    for case in cases(2) {
        let database = Database::new(&database.urls);
        let warm = database.open().await;
        let rows = conformance::store(&*warm, &case).await;
        conformance::units_are_what_was_stored(&*warm, &rows).await;
        conformance::dropped_rows_come_back_by_a_restore(&*warm, &rows).await;
    }
}

#[tokio::test]
async fn bars_have_their_digest() {
    let Some(database) = one() else { return };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let bars = prop::collection::vec(arbitrary::bar(), 60).new_tree(&mut runner).unwrap().current();
    // One without a price has the first and the last instant there is as its times.
    assert!(bars.iter().any(|bar| !bar.has_price()) && bars.iter().any(crate::market::Bar::has_price));
    conformance::bars_have_their_digest(&*database.open().await, &bars).await;
}

#[tokio::test]
async fn a_claim_fences_who_claimed_before() {
    let Some(database) = one() else { return };
    let cases = cases(2);
    let (first, second) = (database.open().await, database.open().await);
    conformance::a_claim_fences_who_claimed_before(&*first, &*second, &cases[0], &cases[1]).await;
    assert!(first.metrics().fenced.get() > 0);
}

#[tokio::test]
async fn many_claims_at_once_have_an_epoch_each() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    let claims = (0..8).map(|_| {
        let warm = warm.inner.clone();
        async move { warm.take_epoch(3, 0).await.unwrap().0 }
    });
    let mut epochs = futures_util::future::join_all(claims).await;
    epochs.sort_unstable();
    epochs.dedup();
    assert_eq!(epochs.len(), 8, "{epochs:?}");
}

const FAULTS: [fn() -> Fault; 4] =
    [|| Fault::Cut, || Fault::CutRequest, || Fault::LoseReply, || Fault::Answer(503)];

/// A look at the owner, a block's entry, four inserts, the count, the mark, another look.
const COMMIT_REQUESTS: usize = 9;

/// Commits as the processor does: again while the error passes. The errors met.
async fn commit_again(warm: &ClickHouseWarm, partition: u16, first: u64, next: u64) -> usize {
    for errors in 0..5 {
        match warm.commit(block(partition, first, next)).await {
            Ok(()) => return errors,
            Err(error) => assert!(error.is_passing(), "{error}"),
        }
    }
    panic!("the fault does not pass");
}

#[tokio::test]
async fn a_commit_outlives_the_loss_of_any_request() {
    let Some(database) = one() else { return };
    let proxy = Proxy::to(&database.urls[0]).await;
    let warm = database.open_by(&proxy).await;
    warm.claim(0).await.unwrap();
    let mut next = 0;
    for fault in FAULTS {
        let mut at = 0;
        loop {
            proxy.fail(at, fault());
            let fired = proxy.fired();
            commit_again(&warm, 0, next, next + 2).await;
            next += 2;
            proxy.heal();
            assert_eq!(warm.mark(0).await.unwrap().next_offset, next);
            if proxy.fired() == fired {
                break;
            }
            at += 1;
        }
        assert_eq!(at, COMMIT_REQUESTS);
    }
    assert_eq!(offsets(&warm, 0).await, (0..next).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_successor_goes_on_whatever_request_the_commit_died_at() {
    let Some(database) = one() else { return };
    let proxy = Proxy::to(&database.urls[0]).await;
    let other = database.open().await;
    let (mut next, mut confirmed) = (0, 0);
    for fault in FAULTS {
        for at in 0..COMMIT_REQUESTS {
            let dying = database.open_by(&proxy).await;
            assert_eq!(dying.claim(0).await.unwrap().next_offset, next);
            proxy.fail(at, fault());
            let died = dying.commit(block(0, next, next + 2)).await.unwrap_err();
            assert!(died.is_passing(), "{died}");
            let mark = other.claim(0).await.unwrap();
            assert!(mark.next_offset == next || mark.next_offset == next + 2, "{mark:?} after {next}");
            if mark.next_offset > next {
                confirmed += 1;
                assert_eq!(mark.checkpoint, block(0, next, next + 2).checkpoint);
            } else {
                other.commit(block(0, next, next + 2)).await.unwrap();
            }
            next += 2;
            let fenced = dying.commit(block(0, next - 2, next)).await.unwrap_err();
            assert!(matches!(fenced, WarmError::Fenced { .. }), "{fenced}");
        }
        assert_eq!(offsets(&other, 0).await, (0..next).collect::<Vec<_>>());
    }
    assert!(confirmed > 0 && other.metrics().confirmed_blocks.get() > 0);
    assert!(other.metrics().broken_blocks.get() > 0);
    views_show_what_scans_do(&other).await;
}

#[tokio::test]
async fn a_claim_may_fail_at_any_request() {
    let Some(database) = one() else { return };
    let proxy = Proxy::to(&database.urls[0]).await;
    let warm = database.open_by(&proxy).await;
    let (mut next, mut failed) = (0, 0);
    for fault in FAULTS {
        for at in 0.. {
            // Something under way, half of it stored, for the claim to decide on.
            warm.claim(0).await.unwrap();
            proxy.fail_on("INSERT INTO `marks`", 0, Fault::Cut);
            if at % 2 == 0 {
                proxy.fail_on("INSERT INTO gap_rows", 1, Fault::Cut);
            }
            warm.commit(block(0, next, next + 2)).await.unwrap_err();
            proxy.heal();
            let fired = proxy.fired();
            proxy.fail(at, fault());
            let mut claimed = warm.claim(0).await;
            let is_over = proxy.fired() == fired;
            if claimed.is_err() {
                failed += 1;
                claimed = warm.claim(0).await;
            }
            proxy.heal();
            next = claimed.unwrap().next_offset;
            commit_again(&warm, 0, next, next + 1).await;
            next += 1;
            if is_over {
                break;
            }
        }
    }
    assert!(failed >= 4 * 6, "{failed}");
    assert_eq!(offsets(&warm, 0).await, (0..next).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_late_insert_of_a_superseded_owner_never_counts() {
    let Some(database) = one() else { return };
    let proxy = Proxy::to(&database.urls[0]).await;
    let slow = database.open_by(&proxy).await;
    let successor = ClickHouseWarm::open(&database.options()).await.unwrap();
    slow.claim(0).await.unwrap();
    slow.commit(block(0, 0, 3)).await.unwrap();
    let gate = Gate::new();
    proxy.fail_on("INSERT INTO prev_close_rows", 0, Fault::Hold(gate.clone()));
    let commit = tokio::spawn({
        let slow = slow.clone();
        async move { slow.commit(block(0, 3, 6)).await }
    });
    gate.reached().await;
    assert_eq!(successor.claim(0).await.unwrap().next_offset, 3);
    successor.commit(block(0, 3, 5)).await.unwrap();
    gate.open();
    let fenced = commit.await.unwrap().unwrap_err();
    assert!(matches!(fenced, WarmError::Fenced { partition: 0 }), "{fenced}");
    assert_eq!(offsets(&successor, 0).await, [0, 1, 2, 3, 4]);
    views_show_what_scans_do(&successor).await;
    let stored = "SELECT count() FROM prev_close_rows";
    assert_eq!(successor.inner.nodes.one::<u64>(stored).await.unwrap(), 2 * (3 + 2 + 3));
    // Once the grace is over they go, and the rule forgets the takeover.
    let takeovers = "SELECT count() FROM takeovers";
    assert_eq!(successor.inner.nodes.one::<u64>(takeovers).await.unwrap(), 1);
    let options = ClickHouseOptions { grace: Duration::from_millis(1), ..database.options() };
    let later = ClickHouseWarm::open(&options).await.unwrap();
    while successor.inner.nodes.one::<u64>(takeovers).await.unwrap() > 0 {
        later.inner.delete_superseded(0, 2).await.unwrap();
    }
    assert_eq!(successor.inner.nodes.one::<u64>(stored).await.unwrap(), 2 * (3 + 2));
    assert!(later.metrics().deleted_rows.get() > 0);
    assert_eq!(offsets(&successor, 0).await, [0, 1, 2, 3, 4]);
    // The day can be archived: the block that never counted is not missed.
    successor.commit(block(0, 5, 7)).await.unwrap();
    for info in successor.units().await.unwrap() {
        let lost = successor.rows_lost(info.unit, std::slice::from_ref(&(0..7))).await.unwrap();
        assert_eq!(lost, None, "{}", info.unit);
    }
    assert_eq!(successor.claim(0).await.unwrap().next_offset, 7);
}

#[tokio::test]
async fn an_epoch_that_was_passed_over_takes_nothing_from_others() {
    let Some(database) = one() else { return };
    let proxy = Proxy::to(&database.urls[0]).await;
    let (first, late, last) = (database.open().await, database.open_by(&proxy).await, database.open().await);
    first.claim(0).await.unwrap();
    first.commit(block(0, 0, 2)).await.unwrap();
    // The late one has read where the first stands, and is held up before it says so.
    let gate = Gate::new();
    proxy.fail_on("INSERT INTO `marks`", 0, Fault::Hold(gate.clone()));
    let claim = tokio::spawn({
        let late = late.clone();
        async move { late.claim(0).await }
    });
    gate.reached().await;
    assert_eq!(last.claim(0).await.unwrap().next_offset, 2);
    last.commit(block(0, 2, 4)).await.unwrap();
    gate.open();
    assert_eq!(claim.await.unwrap().unwrap().next_offset, 2);
    let fenced = late.commit(block(0, 2, 3)).await.unwrap_err();
    assert!(matches!(fenced, WarmError::Fenced { .. }), "{fenced}");
    last.commit(block(0, 4, 5)).await.unwrap();
    assert_eq!(offsets(&last, 0).await, [0, 1, 2, 3, 4]);
    assert_eq!(
        last.mark(0).await.unwrap(),
        Mark { next_offset: 5, checkpoint: "state at 5".into(), seam: None }
    );
    views_show_what_scans_do(&last).await;
    assert_eq!(first.claim(0).await.unwrap().next_offset, 5);
    assert_eq!(offsets(&first, 0).await, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn another_block_after_one_in_doubt_is_not_taken_for_its_repetition() {
    let Some(database) = one() else { return };
    let proxy = Proxy::to(&database.urls[0]).await;
    let warm = database.open_by(&proxy).await;
    warm.claim(0).await.unwrap();
    // Of the same offsets, with other rows.
    let other = || {
        let mut other = block(0, 0, 3);
        for (_, batch) in &mut other.batches {
            let rows = batch.record_batch().slice(0, batch.len() - 1);
            *batch = TickBatch::from_record_batch(batch.kind(), rows).unwrap();
        }
        other
    };
    proxy.fail_on("INSERT INTO gap_rows", 1, Fault::Cut);
    warm.commit(block(0, 0, 3)).await.unwrap_err();
    warm.commit(other()).await.unwrap();
    let rows = conformance::scanned(&*warm, &all(Kind::PrevClose)).await.unwrap();
    assert_eq!(rows.len(), 4);
    assert_eq!(warm.mark(0).await.unwrap().next_offset, 3);
    // One that turns out to be whole stands, and the other comes too late.
    proxy.fail_on("INSERT INTO `marks`", 0, Fault::Cut);
    warm.commit(block(0, 3, 6)).await.unwrap_err();
    let mut late = other();
    (late.first_offset, late.next_offset) = (3, 6);
    let refused = warm.commit(late).await.unwrap_err();
    assert!(matches!(refused, WarmError::NotNext { next_offset: 6, .. }), "{refused}");
    let rows = conformance::scanned(&*warm, &all(Kind::PrevClose)).await.unwrap();
    assert_eq!(rows.len(), 4 + 6);
}

/// People's views show exactly the rows that scans do.
async fn views_show_what_scans_do(warm: &ClickHouseWarm) {
    #[derive(clickhouse::Row, serde::Deserialize)]
    struct Place {
        partition: u16,
        offset: u64,
        index: u32,
    }
    for kind in Kind::ALL {
        let batches: Vec<TickBatch> = {
            use futures_util::TryStreamExt;
            warm.scan(&all(kind)).await.unwrap().rows.try_collect().await.unwrap()
        };
        let mut wanted = Vec::new();
        for batch in &batches {
            let keys = batch.keys().unwrap();
            wanted.extend((0..keys.len()).map(|row| keys.get(row).seq));
        }
        let sql = format!(
            "SELECT `partition`, `offset`, `index` FROM {} ORDER BY `symbol`, `ts`, `partition`, `offset`, `index`",
            schema::view_name(kind)
        );
        let shown: Vec<Place> = warm.inner.nodes.rows(&sql).await.unwrap();
        let shown: Vec<Seq> = shown
            .iter()
            .map(|place| Seq { partition: place.partition, offset: place.offset, index: place.index })
            .collect();
        assert_eq!(shown, wanted, "{}", kind.name());
    }
}

#[tokio::test]
async fn views_show_what_counts() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    let rows = conformance::store(&*warm, &cases(1)[0]).await;
    views_show_what_scans_do(&warm).await;
    let (unit, _) = conformance::by_unit(&rows).into_iter().max_by_key(|(_, rows)| rows.len()).unwrap();
    let next: Vec<u64> = vec![2, 2];
    warm.drop_rows(unit, &next).await.unwrap();
    views_show_what_scans_do(&warm).await;
    let below = rows
        .iter()
        .filter(|row| row.1.trading_day() == unit.day && row.3.kind() == unit.kind && row.2.offset < 2);
    let back = conformance::as_batches(&below.cloned().collect::<Vec<_>>());
    warm.restore(unit, &next, Box::pin(futures_util::stream::iter(back.into_iter().map(Ok)))).await.unwrap();
    views_show_what_scans_do(&warm).await;
}

#[tokio::test]
async fn bars_views_show_the_newest_revision() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    conformance::bars_keep_their_latest_revision(&*warm).await;
    for view in ["bars_1m", "bars_1d"] {
        let sql =
            format!("SELECT concat(toString(`symbol`), ' ', toString(volume)) FROM {view} ORDER BY `symbol`");
        let shown: Vec<String> = warm.inner.nodes.rows(&sql).await.unwrap();
        assert_eq!(shown, ["AAPL 4000", "MSFT 4000"], "{view}");
    }
}

#[tokio::test]
async fn dropping_and_restoring_may_fail_at_any_request() {
    let Some(database) = one() else { return };
    let proxy = Proxy::to(&database.urls[0]).await;
    let warm = database.open_by(&proxy).await;
    warm.commit(block(0, 0, 4)).await.unwrap();
    warm.commit(block(1, 0, 4)).await.unwrap();
    let unit =
        warm.units().await.unwrap().into_iter().map(|info| info.unit).find(|unit| unit.kind == Kind::Gap);
    let unit = unit.unwrap();
    let (whole, next) = ([0..4, 0..4], [4, 4]);
    let exported: Vec<TickBatch> = {
        use futures_util::TryStreamExt;
        warm.export(unit, &whole).await.unwrap().try_collect().await.unwrap()
    };
    let digest = warm.digest(unit, &whole).await.unwrap();
    assert_eq!(digest.rows, 8);
    let mut query = all(Kind::Gap);
    query.archived.insert(unit.day, next.to_vec());
    let (mut failed, other_day) = (0, 8);
    for fault in [|| Fault::Cut, || Fault::LoseReply] {
        let mut at = 0;
        loop {
            let fired = proxy.fired();
            proxy.fail(at, fault());
            let dropped = warm.drop_rows(unit, &next).await;
            proxy.heal();
            if dropped.is_err() {
                failed += 1;
                // Whatever was done of it: the reader who has the archive sees no row twice.
                let seen = conformance::scanned(&*warm, &query).await.unwrap().len();
                assert!(seen == other_day || seen == other_day + 8, "{seen}");
                assert_eq!(warm.drop_rows(unit, &next).await.unwrap(), 0);
            }
            assert_eq!(conformance::scanned(&*warm, &query).await.unwrap().len(), other_day);
            assert!(warm.scan(&query).await.unwrap().dropped.contains_key(&unit.day));
            let dropping_is_over = proxy.fired() == fired;

            let fired = proxy.fired();
            proxy.fail(at, fault());
            let again = || Box::pin(futures_util::stream::iter(exported.clone().into_iter().map(Ok)));
            let restored = warm.restore(unit, &next, again()).await;
            proxy.heal();
            if restored.is_err() {
                failed += 1;
                let seen = conformance::scanned(&*warm, &query).await.unwrap().len();
                assert!(seen == other_day || seen == other_day + 8, "{seen}");
                warm.restore(unit, &next, again()).await.unwrap();
            }
            assert_eq!(warm.digest(unit, &whole).await.unwrap(), digest);
            assert_eq!(conformance::scanned(&*warm, &query).await.unwrap().len(), other_day + 8);
            if dropping_is_over && proxy.fired() == fired {
                break;
            }
            at += 1;
        }
    }
    assert!(failed >= 2 * (5 + 8), "{failed}");
}

#[tokio::test]
async fn a_drop_that_goes_on_after_its_lease_leaves_a_restore_alone() {
    use futures_util::{StreamExt, TryStreamExt};
    let Some(database) = one() else { return };
    let warm = database.open().await;
    warm.commit(block(0, 0, 4)).await.unwrap();
    warm.commit(block(1, 0, 4)).await.unwrap();
    let (whole, next) = ([0..4, 0..4], [4, 4]);
    let mut units = warm.units().await.unwrap().into_iter().map(|info| info.unit);
    let unit = units.find(|unit| unit.kind == Kind::Gap).unwrap();
    let rows: Vec<TickBatch> = warm.export(unit, &whole).await.unwrap().try_collect().await.unwrap();
    let digest = warm.digest(unit, &whole).await.unwrap();
    let restore = async || {
        let rows = rows.clone().into_iter().map(Ok);
        warm.restore(unit, &next, futures_util::stream::iter(rows).boxed()).await.unwrap();
    };
    let node = warm.inner.nodes.current();
    // Of a day that never came back before, and of one that did.
    for _ in 0..2 {
        assert_eq!(warm.drop_rows(unit, &next).await.unwrap(), 0);
        let known = state::read_unit(&warm.inner.nodes, unit).await.unwrap();
        restore().await;
        assert_eq!(warm.inner.drop_parts(node, unit, &known).await.unwrap(), 0);
        assert_eq!(warm.digest(unit, &whole).await.unwrap(), digest);
        assert_eq!(warm.rows_lost(unit, &whole).await.unwrap(), None, "another archive can have them");
    }
    assert_eq!(warm.drop_rows(unit, &next).await.unwrap(), 0);
    assert_eq!(warm.units().await.unwrap().iter().filter(|info| info.unit == unit).count(), 0);
}

/// The offsets of gaps that warm and the archive show together; every row of each is there once.
async fn offsets_of_tiers(warm: &Arc<ClickHouseWarm>, cold: &Arc<DirCold>) -> Vec<u64> {
    use futures_util::TryStreamExt;
    let archive = Some(Arc::new(ArchiveReader::new(cold.clone())));
    let tiers = Tiers { warm: warm.clone(), archive };
    let scan = tiers.scan(Kind::Gap, None, TimeRange::ALL).await.unwrap();
    let batches: Vec<TickBatch> = scan.rows.try_collect().await.unwrap();
    let mut found = Vec::new();
    for batch in &batches {
        let keys = batch.keys().unwrap();
        found.extend((0..keys.len()).map(|row| keys.get(row).seq.offset));
    }
    found.sort_unstable();
    assert!(found.chunks(2).all(|pair| pair[0] == pair[1]), "{found:?}");
    found.dedup();
    found
}

#[tokio::test]
async fn an_archive_run_outlives_the_loss_of_any_request() {
    tokio::join!(
        an_archive_run_outlives(|| Fault::Cut),
        an_archive_run_outlives(|| Fault::LoseReply),
        an_archive_run_outlives(|| Fault::CutReply),
    );
}

async fn an_archive_run_outlives(fault: fn() -> Fault) {
    let Some(database) = one() else { return };
    let (proxy, dir) = (Proxy::to(&database.urls[0]).await, tempfile::tempdir().unwrap());
    let (warm, direct) = (database.open_by(&proxy).await, database.open().await);
    let cold = Arc::new(DirCold::open(dir.path()).unwrap());
    let archiver = |warm: &Arc<ClickHouseWarm>| {
        let options = ArchiveOptions {
            after_days: 1,
            keep_days: 1,
            settle: Duration::ZERO,
            kinds: vec![Kind::Gap],
            ..ArchiveOptions::default()
        };
        Archiver::new(cold.clone(), warm.clone(), options, Clock::default(), ArchiveMetrics::default())
    };
    let nothing: Progress = Arc::new(|_| {});
    let (mut next, mut again) = (0, 0);
    for at in 0.. {
        direct.commit(block(0, next, next + 2)).await.unwrap();
        next += 2;
        let fired = proxy.fired();
        proxy.fail(at, fault());
        let run = archiver(&warm).run(&nothing).await;
        let is_over = proxy.fired() == fired;
        proxy.heal();
        let told = format!("request {at}, {:?}: {run:?}", fault());
        let seen = offsets_of_tiers(&direct, &cold).await;
        assert_eq!(seen, (0..next).collect::<Vec<_>>(), "{told}");
        // What is asked once a run ends the run, a unit's requests are made again within it.
        if !run.is_ok_and(|summary| summary.failures.is_empty() && summary.drops == 2) {
            again += 1;
            let summary = archiver(&warm).run(&nothing).await.unwrap();
            assert_eq!(summary.failures, [], "{told}");
        }
        assert!(direct.units().await.unwrap().iter().all(|info| info.unit.kind != Kind::Gap), "{told}");
        if is_over {
            assert!(at > 10, "{at} requests");
            break;
        }
    }
    assert_eq!(offsets_of_tiers(&direct, &cold).await, (0..next).collect::<Vec<_>>());
    assert!(again < next / 4, "{:?}: {again} of {} runs had to be made again", fault(), next / 2);
}

#[tokio::test]
async fn a_scan_is_begun_anew_when_its_day_is_dropped_just_then() {
    let Some(database) = one() else { return };
    let proxy = Proxy::to(&database.urls[0]).await;
    let (reader, archiver) = (database.open_by(&proxy).await, database.open().await);
    archiver.commit(block(0, 0, 4)).await.unwrap();
    let unit = archiver.units().await.unwrap()[0].unit;
    let gate = Gate::new();
    proxy.fail_on("ORDER BY `symbol`", 0, Fault::Hold(gate.clone()));
    let scan = tokio::spawn({
        let reader = reader.clone();
        async move { reader.scan(&all(unit.kind)).await }
    });
    gate.reached().await;
    assert_eq!(archiver.drop_rows(unit, &[4]).await.unwrap(), 0);
    gate.open();
    let scan = scan.await.unwrap().unwrap();
    // The scan knows that rows are gone, and does not pass what is left off as all there was.
    assert_eq!(scan.dropped.get(&unit.day), Some(&vec![4]));
    assert_eq!(reader.metrics().scan_retries.get(), 1);
}

#[tokio::test]
async fn a_scan_that_is_cut_ends_with_an_error() {
    let Some(database) = one() else { return };
    let proxy = Proxy::to(&database.urls[0]).await;
    let warm = database.open_by(&proxy).await;
    warm.commit(block(0, 0, 3_000)).await.unwrap();
    proxy.fail_on("ORDER BY `symbol`", 0, Fault::CutReply);
    let outcome = conformance::scanned(&*warm, &all(Kind::Gap)).await;
    assert!(outcome.unwrap_err().is_passing());
    assert_eq!(proxy.fired(), 1);
    assert_eq!(conformance::scanned(&*warm, &all(Kind::Gap)).await.unwrap().len(), 6_000);
}

#[tokio::test]
async fn a_later_schema_is_refused_and_the_same_one_is_made_once() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    database.open().await;
    let versions = "SELECT version FROM stk_schema ORDER BY version";
    let found: Vec<u32> = warm.inner.nodes.rows(versions).await.unwrap();
    assert_eq!(found, (1..=schema::version()).collect::<Vec<_>>());
    let later = schema::version() + 1;
    let insert = format!("INSERT INTO stk_schema (version, program) VALUES ({later}, 'stk 99')");
    warm.inner.nodes.current().execute(&insert).await.unwrap();
    let Err(error) = ClickHouseWarm::open(&database.options()).await else { panic!("it opened") };
    let text = error.to_string();
    assert!(text.contains(&format!("has schema version {later}")) && !error.is_passing(), "{text}");
}

#[tokio::test]
async fn a_database_that_is_to_be_there_is_not_made() {
    let Some(database) = one() else { return };
    let refused = async || ClickHouseWarm::open_existing(&database.options()).await.err().unwrap();
    let (error, place) = (refused().await, format!("database {} at {}", database.name, database.urls[0]));
    assert!(matches!(error, WarmError::Missing { .. }), "{error}");
    assert_eq!(error.to_string(), format!("there is no {place}"));
    let nodes = Nodes::new(&database.options(), ClickHouseWarmMetrics::default()).unwrap();
    let count = format!("SELECT count() FROM system.databases WHERE name = {}", literal(&database.name));
    assert_eq!(nodes.one::<u64>(&count).await.unwrap(), 0);

    // One that is somebody else's.
    nodes.current().execute(&format!("CREATE DATABASE {}", database.name)).await.unwrap();
    assert_eq!(refused().await.to_string(), format!("there is no schema of stk in {place}"));
    let count = format!("SELECT count() FROM system.tables WHERE database = {}", literal(&database.name));
    assert_eq!(nodes.one::<u64>(&count).await.unwrap(), 0);

    database.open().await.commit(block(0, 0, 2)).await.unwrap();
    let found = ClickHouseWarm::open_existing(&database.options()).await.unwrap();
    assert_eq!(found.mark(0).await.unwrap().next_offset, 2);
    let later = format!("INSERT INTO {}.stk_schema (version, program) VALUES (99, 'stk 99')", database.name);
    nodes.current().execute(&later).await.unwrap();
    let error = refused().await;
    assert!(
        matches!(error, WarmError::Refused { .. }) && error.to_string().contains("version 99"),
        "{error}"
    );
}

#[tokio::test]
async fn errors_say_whether_a_later_try_may_help() {
    let Some(database) = one() else { return };
    let closed = ClickHouseWarm::open(&ClickHouseOptions::new("http://127.0.0.1:1")).await;
    let Err(error) = closed else { panic!("it opened") };
    assert!(error.is_passing() && error.to_string().starts_with("http://127.0.0.1:1: "), "{error}");
    let stranger = ClickHouseOptions { user: "nobody".to_owned(), ..database.options() };
    let Err(error) = ClickHouseWarm::open(&stranger).await else { panic!("it opened") };
    assert!(matches!(error, WarmError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn every_insert_of_rows_has_a_token_of_its_own() {
    let Some(database) = one() else { return };
    let proxy = Proxy::to(&database.urls[0]).await;
    let warm = database.open_by(&proxy).await;
    for first in 0..3 {
        warm.commit(block(0, first, first + 1)).await.unwrap();
    }
    // One that brings no offsets but bars, as a rebuild does, and another one at the same offsets.
    for _ in 0..2 {
        let mut empty = block(0, 0, 1);
        (empty.first_offset, empty.next_offset) = (3, 3);
        warm.commit(empty).await.unwrap();
    }
    let requests = proxy.requests();
    let inserts: Vec<_> = requests.iter().filter(|request| request.contains("FORMAT ArrowStream")).collect();
    let token = |request: &&String| {
        let (_, rest) = request.split_once("insert_deduplication_token=").unwrap();
        rest.split('&').next().unwrap().to_owned()
    };
    let tokens: std::collections::BTreeSet<String> = inserts.iter().map(token).collect();
    assert_eq!(inserts.len(), 5 * 4);
    assert_eq!(tokens.len(), inserts.len(), "{tokens:?}");
    for setting in ["async_insert=0", "insert_deduplicate=1", "max_insert_threads=1"] {
        assert!(inserts.iter().all(|request| request.contains(setting)), "{setting}");
    }
    assert_eq!(conformance::scanned(&*warm, &all(Kind::PrevClose)).await.unwrap().len(), 2 * 5);
}

#[tokio::test]
async fn one_insert_is_one_part_and_its_repetition_none() {
    let Some(database) = one() else { return };
    let warm = database.open().await;
    let large = block(0, 0, 100_000);
    let (day, batch) = large.batches.iter().find(|(_, batch)| batch.kind() == Kind::PrevClose).unwrap();
    let rows = commit::placed(batch, *day, 1, 1);
    for _ in 0..2 {
        warm.inner
            .nodes
            .insert_batches("prev_close_rows", "once", std::slice::from_ref(&rows))
            .await
            .unwrap();
    }
    let sql = "SELECT count() FROM system.parts WHERE active AND database = currentDatabase() \
               AND `table` = 'prev_close_rows'";
    assert_eq!(warm.inner.nodes.one::<u64>(sql).await.unwrap(), 1);
    let sql = "SELECT count() FROM prev_close_rows";
    assert_eq!(warm.inner.nodes.one::<u64>(sql).await.unwrap(), batch.len() as u64);
}

#[tokio::test]
async fn servers_that_make_no_store_together_are_refused() {
    let refused = async |options: &ClickHouseOptions| {
        let Err(error) = ClickHouseWarm::open(options).await else { panic!("it opened") };
        assert!(matches!(error, WarmError::Refused { .. }), "{error}");
        error.to_string()
    };
    // Each would lack what the other has been sent; nobody is even asked.
    let two = ClickHouseOptions::new("http://127.0.0.1:1, http://127.0.0.1:2");
    let error = refused(&two).await;
    assert!(error.contains("name it in `warm.clickhouse_cluster`, or give one address"), "{error}");
    let Some(first) = service("CLICKHOUSE") else { return };
    let Some(second) = service("CLICKHOUSE_2") else { return };
    let database = Database::new(&[first, second]);
    // The same two as replicas of one shard.
    let cluster = Some("stk_replicas".to_owned());
    let error = refused(&ClickHouseOptions { cluster, ..database.options() }).await;
    assert!(error.contains("a shard has 2 replicas") && error.contains("one server"), "{error}");
    let made = format!("SELECT count() FROM system.databases WHERE name = {}", literal(&database.name));
    let one = Nodes::new(&ClickHouseOptions::new(&database.urls[0]), ClickHouseWarmMetrics::default());
    assert_eq!(one.unwrap().one::<u64>(&made).await.unwrap(), 0);
}

#[tokio::test]
async fn a_cluster_behaves_as_one_server() {
    let Some(first) = service("CLICKHOUSE") else { return };
    let Some(second) = service("CLICKHOUSE_2") else { return };
    let urls = [first, second];
    let open = async |database: &Database| {
        let options = ClickHouseOptions { cluster: Some("stk".to_owned()), ..database.options() };
        ClickHouseWarm::open(&options).await.unwrap()
    };
    let database = Database::new(&urls);
    let warm = open(&database).await;
    let case = &cases(1)[0];
    let rows = conformance::store(&*warm, case).await;
    for query in queries(10).iter().chain(&Kind::ALL.map(all)) {
        conformance::scans_give_what_matches(&*warm, &rows, query).await;
    }
    conformance::units_are_what_was_stored(&*warm, &rows).await;
    // Rows lie on both shards; the books on the first alone.
    for (table, servers) in [("trade_rows_local", 2), ("quote_rows_local", 2), ("claims_local", 1)] {
        let mut holding = 0;
        for node in warm.inner.nodes.all() {
            let count: Vec<u64> = node.rows(&format!("SELECT count() FROM {table}")).await.unwrap();
            holding += usize::from(count[0] > 0);
        }
        assert_eq!(holding, servers, "{table}");
    }
    views_show_what_scans_do(&warm).await;
    conformance::dropped_rows_come_back_by_a_restore(&*warm, &rows).await;

    // Repetitions by way of either server are none, and a claim is decided on one of them.
    let database = Database::new(&urls);
    let (warm, other) = (open(&database).await, open(&database).await);
    other.inner.nodes.use_next();
    let cases = cases(2);
    conformance::a_claim_fences_who_claimed_before(&*warm, &*other, &cases[0], &cases[1]).await;
    let proxy = Proxy::to(&urls[0]).await;
    let database = Database::new(&urls);
    let options = ClickHouseOptions {
        cluster: Some("stk".to_owned()),
        urls: vec![proxy.url().to_owned(), urls[1].clone()],
        ..database.options()
    };
    let warm = ClickHouseWarm::open(&options).await.unwrap();
    let mut next = 0;
    for at in 0..COMMIT_REQUESTS {
        while warm.inner.nodes.current().url() != proxy.url() {
            warm.inner.nodes.use_next();
        }
        proxy.fail(at, Fault::LoseReply);
        // The first server is gone for the client, the second one is told the same again.
        assert_eq!(commit_again(&warm, 0, next, next + 2).await, 1);
        next += 2;
    }
    assert_eq!(offsets(&warm, 0).await, (0..next).collect::<Vec<_>>());
}
