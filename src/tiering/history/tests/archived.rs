//! History of days that warm has dropped.

use super::*;
use crate::tiering::archive::origin::Beside;

/// Two days of trades and quotes, of which everything is in warm and then in the archive of `cold`;
/// warm has dropped the first day.
async fn archived_world(cold: Arc<dyn Cold>) -> World {
    let trade = |minutes: i64, name: &str| {
        let ts = Timestamp::from_nanos(1_763_649_000_000_000_000 + minutes * 60_000_000_000);
        let symbol: Symbol = name.parse().unwrap();
        let (price, conditions) =
            (Price::from_ten_thousandths(1_000_000 + minutes).unwrap(), Conditions::NONE);
        let (exchange, tape, id) = (Exchange::IEX, Tape::A, minutes as u64);
        Tick::Trade(Trade { symbol, ts, recv_ts: ts, price, size: 100, exchange, conditions, id, tape })
    };
    let mut steps = Vec::new();
    for name in ["AAPL", "MSFT", "TSLA"] {
        let partition = name.parse::<Symbol>().unwrap().partition(PARTITIONS);
        for day in 0..2 {
            steps.push(Step::Append(partition, (0..20).map(|at| trade(day * 1440 + at, name)).collect()));
        }
    }
    steps.extend((0..PARTITIONS).map(|partition| Step::Commit(partition, 99, true)));
    let mut world = World::after(steps).await;
    world.archive.reader = Arc::new(ArchiveReader::new(cold));
    for number in 0..4 {
        world.archive.step(&world.warm, number, ArchiveStep::Upload).await;
        world.archive.step(&world.warm, number, ArchiveStep::Commit).await;
    }
    let first = world.archive.committed.keys().next().unwrap().day;
    for unit in world.archive.committed.keys().copied().filter(|unit| unit.day == first).collect::<Vec<_>>() {
        let next_offsets = &world.archive.committed[&unit].next_offsets;
        world.warm.drop_rows(unit, next_offsets).await.unwrap();
    }
    world
}

fn of(name: &str) -> HistoryQuery {
    HistoryQuery { symbols: vec![name.parse().unwrap()], ..all(Kind::Trade) }
}

/// The rows of `name` among those put in.
fn rows_of(world: &World, name: &str) -> Vec<Row> {
    let query = Query::new(Kind::Trade, Some(vec![name.parse().unwrap()]), TimeRange::ALL);
    conformance::expected(&world.rows, &query)
}

#[tokio::test]
async fn what_warm_has_dropped_comes_from_the_archive_and_the_rest_does_not() {
    let dir = TempDir::new().unwrap();
    let world = archived_world(Arc::new(DirCold::open(dir.path()).unwrap())).await;
    let first = world.archive.committed.keys().next().unwrap().day;
    let answer = world.history().query(of("MSFT")).await.unwrap();
    assert_eq!(answer.coverage.archived.days, [first]);
    assert!(!answer.coverage.archived.is_partial());
    let stats = answer.stats.clone();
    assert_eq!(ticks_of(answer).await, rows_of(&world, "MSFT"));
    let stats = *stats.lock().unwrap();
    assert!(stats.archive.files_read > 0 && stats.archive.bytes_read > 0, "{stats:?}");
    assert!(stats.archive.files_read < stats.archive.files_total, "others hold other symbols: {stats:?}");
    assert!(stats.warm.bytes_read > 0, "the second day is in warm: {stats:?}");
    assert!(world.archive.reader.metrics.requests.get() > 0);
    // The second day is in the archive too, but warm is the nearer.
    let range = TimeRange { from: first.end(), to: Timestamp::MAX };
    let answer = world.history().query(HistoryQuery { range, ..of("MSFT") }).await.unwrap();
    assert_eq!(answer.coverage.archived, ArchivedCoverage::default());
    let stats = answer.stats.clone();
    assert_eq!(ticks_of(answer).await.len(), 20);
    assert_eq!(stats.lock().unwrap().archive, ReadStats::default());
    // Bars of the archived day are the archive's too.
    let bars = HistoryQuery { kind: Kind::Bar, timeframe: Some(Timeframe::MINUTE), ..of("MSFT") };
    let answer = world.history().query(bars).await.unwrap();
    assert_eq!(answer.coverage.archived.days, [first]);
    assert_eq!(bars_of(answer).await.len(), 40);
}

#[tokio::test]
async fn a_late_trade_of_a_dropped_day_rebuilds_its_bars_from_the_archive() {
    let dir = TempDir::new().unwrap();
    let world = archived_world(Arc::new(DirCold::open(dir.path()).unwrap())).await;
    let symbol: Symbol = "AAPL".parse().unwrap();
    let partition = symbol.partition(PARTITIONS);
    let (_, ts, _, tick) = rows_of(&world, "AAPL").remove(3);
    let Tick::Trade(trade) = tick else { panic!("a trade") };
    let late =
        Tick::Trade(Trade { id: 777, price: Price::from_ten_thousandths(9_000_000).unwrap(), ..trade });
    let cancel = Tick::Cancel(Box::new(Cancel {
        symbol,
        ts,
        recv_ts: ts,
        id: trade.id,
        price: trade.price,
        size: trade.size,
        exchange: trade.exchange,
        action: b'C',
        tape: trade.tape,
    }));
    world.bus.push(partition, encoded(&[late.clone(), cancel.clone()], 900));
    let mut rows = world.rows.clone();
    for (index, tick) in (0..).zip([late, cancel]) {
        let offset = world.bus.bounds(partition).await.unwrap().next - 1;
        rows.push((Some(symbol), ts, Seq { partition, offset, index }, tick));
    }
    let bars = HistoryQuery { kind: Kind::Bar, timeframe: Some(Timeframe::MINUTE), ..of("AAPL") };
    let found = bars_of(world.history().query(bars.clone()).await.unwrap()).await;
    let mut expected = reference_bars(&rows, Timeframe::MINUTE, TimeRange::ALL);
    expected.retain(|bar| bar.symbol == symbol);
    assert_eq!(found, expected, "from the log's tail");
    let tiers = world.history().tiers().clone();
    commit_block(&world.bus, &tiers, partition, 99, true).await;
    assert_eq!(
        bars_of(world.history().query(bars).await.unwrap()).await,
        expected,
        "as stored by a processor"
    );
}

#[tokio::test]
async fn without_an_archive_a_dropped_day_is_an_error_and_not_an_answer() {
    let dir = TempDir::new().unwrap();
    let world = archived_world(Arc::new(DirCold::open(dir.path()).unwrap())).await;
    let alone = History::new(world.bus.clone(), world.warm.clone());
    let error = alone.query(of("AAPL")).await.err().unwrap().to_string();
    let first = world.archive.committed.keys().next().unwrap().day;
    assert_eq!(
        error,
        format!(
            "trade rows of {first} were dropped from warm, and no archive is configured: set archive.url to where \
             they went"
        )
    );
    let range = TimeRange { from: first.end(), to: Timestamp::MAX };
    assert_eq!(ticks_of(alone.query(HistoryQuery { range, ..of("AAPL") }).await.unwrap()).await.len(), 20);
    // An archive that has lost its manifests does not hold what was dropped.
    let empty = TempDir::new().unwrap();
    let cold = Arc::new(DirCold::open(empty.path()).unwrap());
    let lost = alone.with_archive(Arc::new(ArchiveReader::new(cold)));
    let error = lost.query(of("AAPL")).await.err().unwrap().to_string();
    assert!(error.contains(" does not hold them: set archive.url to where they went"), "{error}");
}

#[tokio::test]
async fn an_unplugged_archive_is_told_of_where_it_is_needed() {
    let dir = TempDir::new().unwrap();
    let cold: Arc<dyn Cold> = Arc::new(DirCold::open(dir.path()).unwrap());
    let world = archived_world(cold.clone()).await;
    let first = world.archive.committed.keys().next().unwrap().day;
    let unplugged = Arc::new(FaultyCold::new(cold, Fault::Lost, 1, u64::MAX));
    let history = world.history().with_archive(Arc::new(ArchiveReader::new(unplugged)));
    let error = history.query(of("AAPL")).await.err().unwrap();
    assert!(matches!(&error, HistoryError::Archive(error) if error.is_passing()), "{error}");
    let range = TimeRange { from: first.end(), to: Timestamp::MAX };
    let answer = history.query(HistoryQuery { range, ..of("AAPL") }).await.unwrap();
    assert!(answer.coverage.archived.unasked.as_ref().unwrap().contains("made to fail"));
    assert_eq!(ticks_of(answer).await.len(), 20);
}

#[tokio::test]
async fn days_at_hand_are_answered_while_the_archive_says_nothing() {
    let dir = TempDir::new().unwrap();
    let cold: Arc<dyn Cold> = Arc::new(DirCold::open(dir.path()).unwrap());
    let world = archived_world(cold.clone()).await;
    let first = world.archive.committed.keys().next().unwrap().day;
    let range = TimeRange { from: first.end(), to: Timestamp::MAX };
    let at_hand = || HistoryQuery { range, ..of("AAPL") };
    let over =
        |faulty: &Arc<FaultyCold>| world.history().with_archive(Arc::new(ArchiveReader::new(faulty.clone())));
    let silent = Arc::new(FaultyCold::new(cold.clone(), Fault::Silent, 1, u64::MAX));
    let answer = over(&silent).query(at_hand()).await.unwrap();
    assert!(answer.coverage.archived.unasked.as_ref().unwrap().ends_with(": no answer within 1s"));
    assert_eq!(ticks_of(answer).await.len(), 20);
    // What has answered once is not asked again, of kinds neither that it holds nothing of.
    // One that takes longer than anybody waits has answered by the next time.
    let late = Fault::Late(std::time::Duration::from_millis(1_200));
    let history = over(&Arc::new(FaultyCold::new(cold.clone(), late, 1, 1)));
    assert!(history.query(at_hand()).await.unwrap().coverage.archived.unasked.is_some());
    assert_eq!(history.query(at_hand()).await.unwrap().coverage.archived.unasked, None);
    let asked = Arc::new(FaultyCold::new(cold, Fault::Silent, u64::MAX, 0));
    let history = over(&asked);
    history.query(at_hand()).await.unwrap();
    let calls = asked.calls();
    assert!(calls > 0);
    let answer = history.query(at_hand()).await.unwrap();
    assert_eq!((answer.coverage.archived.unasked, asked.calls()), (None, calls));
}

#[tokio::test]
async fn warm_made_anew_beside_an_old_archive_repeats_and_lacks_nothing() {
    let dir = TempDir::new().unwrap();
    let world = archived_world(Arc::new(DirCold::open(dir.path()).unwrap())).await;
    let warm_dir = TempDir::new().unwrap();
    let anew = LocalWarm::open(warm_dir.path(), QUIET).unwrap();
    let tiers = Tiers { warm: anew.clone(), archive: Some(world.archive.reader.clone()) };
    let history = History::new(world.bus.clone(), anew.clone()).with_archive(world.archive.reader.clone());
    for records in [0, 1, 1, 99] {
        for partition in 0..PARTITIONS {
            commit_block(&world.bus, &tiers, partition, records, true).await;
        }
        for name in ["AAPL", "MSFT", "TSLA"] {
            let answer = history.query(of(name)).await.unwrap();
            assert_eq!(ticks_of(answer).await, rows_of(&world, name), "{name} after {records} records");
        }
    }
}

#[tokio::test]
async fn archived_objects_are_named_and_read_once_they_are_restored() {
    let Some(bucket) = crate::tiering::cold::s3::tests::bucket().await else { return };
    let world = archived_world(Arc::new(bucket.clone())).await;
    let (unit, manifest) = world
        .archive
        .committed
        .iter()
        .find(|(unit, _)| unit.kind == Kind::Trade)
        .map(|(unit, manifest)| (*unit, manifest.clone()))
        .unwrap();
    for file in &manifest.files {
        bucket.move_to(&file.key, StorageClass::Glacier).await;
    }
    let answer = world.history().query(of("TSLA")).await.unwrap();
    let archived = answer.coverage.archived.clone();
    assert!(archived.is_partial() && archived.files == 0, "{archived:?}");
    assert!(archived.frozen.iter().all(|frozen| {
        frozen.day == unit.day && frozen.class == StorageClass::Glacier && !frozen.restoring
    }));
    assert_eq!(archived.restore_commands(), [format!("stk archive restore --kind trade {}", unit.day)]);
    assert_eq!(world.archive.reader.metrics.frozen.get(), archived.frozen.len() as u64);
    let second_day: Vec<Row> =
        rows_of(&world, "TSLA").into_iter().filter(|(_, ts, ..)| ts.trading_day() != unit.day).collect();
    assert_eq!(ticks_of(answer).await, second_day, "what can be read is there, and no more");
    // A late trade's bars can't be told without the day's trades: the answer says so.
    let (_, _, _, tick) = rows_of(&world, "TSLA").remove(0);
    let partition = "TSLA".parse::<Symbol>().unwrap().partition(PARTITIONS);
    world.bus.push(partition, encoded(&[tick], 901));
    let bars = HistoryQuery { kind: Kind::Bar, timeframe: Some(Timeframe::Day), ..of("TSLA") };
    let answer = world.history().query(bars).await.unwrap();
    assert!(answer.coverage.archived.frozen.iter().any(|frozen| frozen.kind == Kind::Trade));
    for frozen in &archived.frozen {
        bucket.restore(&frozen.key, 1, RestoreTier::Standard).await.unwrap();
    }
    let answer = world.history().query(of("TSLA")).await.unwrap();
    assert!(!answer.coverage.archived.is_partial() && answer.coverage.archived.files > 0);
    assert!(ticks_of(answer).await.len() >= 40);
}

/// The log and warm were lost, and others begin beside the archive: their offsets say nothing of it.
#[tokio::test]
async fn rows_of_a_new_log_are_not_taken_for_archived_ones_of_the_old() {
    let dir = TempDir::new().unwrap();
    let cold: Arc<dyn Cold> = Arc::new(DirCold::open(&dir.path().join("cold")).unwrap());
    let old = World::after((1..4).map(|first| Step::Append(0, vec![gap(None, first)])).collect()).await;
    let old_tiers = Tiers::warm_alone(old.warm.clone());
    commit_block(&old.bus, &old_tiers, 0, 9, true).await;
    let new = World::after(vec![Step::Append(0, vec![gap(None, 7)])]).await;
    // A log with the id of the old one, whose first record is another one, and another log.
    let beside = |log: u64| match log {
        LOG_ID => Beside::new(new.bus.clone()),
        log => Beside::new(FakeBus::of_log(log)),
    };
    let options = |log| ArchiveOptions {
        before: Some("2026-12-01".parse().unwrap()),
        settle: std::time::Duration::ZERO,
        log: Some(beside(log)),
        ..ArchiveOptions::default()
    };
    let archiver = |warm, log| {
        Archiver::new(cold.clone(), warm, options(log), Clock::default(), ArchiveMetrics::default())
    };
    let progress: Progress = Arc::new(|_| {});
    let of_old = ArchiveOptions { log: Some(Beside::new(old.bus.clone())), ..options(LOG_ID) };
    let (metrics, clock) = (ArchiveMetrics::default(), Clock::default());
    let archiver_of_old = Archiver::new(cold.clone(), old.warm.clone(), of_old, clock, metrics);
    assert_eq!(archiver_of_old.run(&progress).await.unwrap().rows, 3);

    let history = |log| {
        let archive = Arc::new(ArchiveReader::new(cold.clone()).beside(beside(log)));
        History::new(new.bus.clone(), new.warm.clone()).with_archive(archive)
    };
    let firsts = async |log| {
        let answer = history(log).query(all(Kind::Gap)).await.unwrap();
        let unasked = answer.coverage.archived.unasked.clone();
        let mut firsts: Vec<_> = ticks_of(answer)
            .await
            .into_iter()
            .map(|(_, _, _, tick)| match tick {
                Tick::Gap(gap) => gap.first,
                other => panic!("{other:?}"),
            })
            .collect();
        firsts.sort_unstable();
        (firsts, unasked.is_some())
    };
    assert_eq!(firsts(LOG_ID).await, (vec![7], false), "the archive is of another timeline");
    let other = LOG_ID + 1;
    assert_eq!(firsts(other).await, (vec![1, 2, 3, 7], false), "the new store is empty");
    let tiers = history(other).tiers().clone();
    commit_block(&new.bus, &tiers, 0, 9, true).await;
    assert_eq!(firsts(other).await, (vec![7], true), "and has rows of its own now");
    for first in 8..12 {
        new.bus.push(0, encoded(&[gap(None, first)], first));
    }
    commit_block(&new.bus, &tiers, 0, 9, true).await;
    assert_eq!(firsts(other).await, (vec![7, 8, 9, 10, 11], true), "also once it has passed the old offsets");
    let later = history(other).query_from(all(Kind::Gap), &[1]).await.unwrap();
    assert_eq!(ticks_of(later).await.len(), 4);

    let refused = archiver(new.warm.clone(), other).run(&progress).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::OtherLog { .. }), "{refused}");
    let reader = Arc::new(ArchiveReader::new(cold.clone()).beside(beside(other)));
    let snapshot = reader.snapshot(Kind::Gap, TimeRange::ALL).await.unwrap();
    let unit = Unit { day: snapshot.days().next().unwrap().0, kind: Kind::Gap };
    let refused = restore::into_warm(&reader, &snapshot, &*new.warm, unit).await.unwrap_err();
    assert!(matches!(refused, RestoreError::OtherLog { .. }), "{refused}");
}
