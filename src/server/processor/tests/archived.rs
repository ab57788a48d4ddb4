//! What the log lost, skipped or put back, beside an archive that has it.

use super::*;
use crate::tiering::archive::origin::{self, Beside};
use crate::tiering::archive::verify::{self, Scrubber};
use crate::tiering::cold::dir::DirCold;

/// The copy of a log was taken before warm had all of it, and put back when the archive had more than the
/// copy: the hole after its last record is passed once warm has come to it, and the bars have the trades
/// of both sides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_ahead_of_warm_is_passed_when_it_is_reached() {
    let home = TempDir::new().unwrap();
    let [dir, copy] = ["data", "copy"].map(|name| home.path().join(name));
    let cold: Arc<dyn Cold> = Arc::new(DirCold::open(&home.path().join("cold")).unwrap());
    let (symbol, trades, _) = busy_symbol();
    let third = trades.len() / 3;
    let (copied, rest) = trades.split_at(third);
    let (archived, later) = rest.split_at(third);
    let life = Life::begin(&dir);
    life.append(copied, 1).await;
    life.end().await;
    let done = std::process::Command::new("cp").arg("-a").args([&dir, &copy]).status().unwrap();
    assert!(done.success());
    let life = Life::begin(&dir);
    life.append(archived, 1_000).await;
    life.process(small()).stop().await.unwrap();
    let options = ArchiveOptions {
        before: Some("2025-04-01".parse().unwrap()),
        settle: Duration::ZERO,
        log: Some(Beside::new(life.bus.clone())),
        ..ArchiveOptions::default()
    };
    let archiver =
        Archiver::new(cold.clone(), life.warm.clone(), options, Clock::default(), ArchiveMetrics::default());
    assert!(archiver.run(&(Arc::new(|_| {}) as _)).await.unwrap().commits > 0);
    drop(archiver);
    life.end().await;

    let held = origin::held(&*cold).await.unwrap().unwrap();
    let partition = symbol.partition(PARTITIONS);
    let mut marks = Vec::new();
    for (sequence, ticks) in [(0, &[][..]), (2_000, later)] {
        let mut life = Life::begin_beside(&copy, vec![held.clone()]);
        let archive = ArchiveReader::new(cold.clone()).beside(Beside::new(life.bus.clone()));
        life.stores.archive = Some(Arc::new(archive));
        life.append(ticks, sequence).await;
        let processor = life.process(small());
        let stopped = tokio::time::timeout(Duration::from_mins(1), processor.stop());
        stopped.await.expect("no record has to follow the hole").unwrap();
        drop(processor);
        let mark = life.warm.mark(partition).await.unwrap();
        assert_eq!(mark.next_offset, life.bus.bounds(partition).await.unwrap().next);
        let days = life.bars(symbol, Timeframe::Day).await;
        let minutes = life.bars(symbol, Timeframe::MINUTE).await;
        let volume = |bars: &[crate::market::Bar]| bars.iter().map(|bar| bar.volume).sum::<u64>();
        marks.push((mark.seam.is_some(), volume(&days), volume(&minutes)));
        life.end().await;
    }
    let size = |ticks: &[Tick]| -> u64 {
        ticks.iter().map(|tick| if let Tick::Trade(trade) = tick { u64::from(trade.size) } else { 0 }).sum()
    };
    let before = size(copied) + size(archived);
    assert_eq!((marks[0].1, marks[0].2), (before, before), "with what only the archive has");
    assert!(!marks[0].0, "the log has no record there");
    let all = before + size(later);
    assert_eq!((marks[1].1, marks[1].2), (all, all));
}

/// Warm was put back, the log begins after it, and the archive has what is between. Warm's own rows of the
/// day are given up only for an archive that has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_left_to_no_archive_that_is_damaged() {
    let home = TempDir::new().unwrap();
    let [warm, copy] = ["warm", "copy"].map(|name| home.path().join(name));
    let cold = Arc::new(DirCold::open(&home.path().join("cold")).unwrap());
    let (symbol, trades, _) = busy_symbol();
    let partition = symbol.partition(PARTITIONS);
    let (before, after) = trades.split_at(trades.len() / 2);
    for (sequence, ticks) in [(1, before), (1_000, after)] {
        let life = Life::begin(home.path());
        life.append(ticks, sequence).await;
        life.process(small()).stop().await.unwrap();
        if sequence > 1 {
            let options = ArchiveOptions {
                before: Some("2025-04-01".parse().unwrap()),
                kinds: vec![Kind::Trade],
                settle: Duration::ZERO,
                ..ArchiveOptions::default()
            };
            let (clock, metrics) = (Clock::default(), ArchiveMetrics::default());
            let archiver = Archiver::new(cold.clone(), life.warm.clone(), options, clock, metrics);
            assert_eq!(archiver.run(&(Arc::new(|_| {}) as _)).await.unwrap().commits, 1);
        }
        life.end().await;
        if sequence == 1 {
            let done = std::process::Command::new("cp").arg("-a").args([&warm, &copy]).status().unwrap();
            assert!(done.success());
        }
    }
    std::fs::remove_dir_all(&warm).unwrap();
    std::fs::rename(&copy, &warm).unwrap();
    let life = Life::begin(home.path());
    let next = life.bus.bounds(partition).await.unwrap().next;
    let run = async || {
        let (gained, told) = mpsc::unbounded_channel();
        let members = Mutex::new(vec![told]);
        let bus = SharedBus { bus: life.bus.clone(), lost: None, trimmed: 0, first: next, members };
        let archive = Some(Arc::new(ArchiveReader::new(cold.clone())));
        let stores = Stores { bus: Arc::new(bus), hot_files: None, archive, ..life.stores.clone() };
        let config = ProcessorConfig { skips_expired: true, ..small() };
        let processor = Processor::start(stores, config, ProcessorMetrics::default());
        gained.send((Assignment::Gained(vec![partition]), oneshot::channel().0)).unwrap();
        let failed = processor.failed();
        tokio::select! {
            () = processor.restored() => {}
            () = failed.cancelled() => {}
        }
        processor.stop().await
    };
    let key = cold.list("ticks/", None).await.unwrap().remove(0).key;
    let object = cold.get(&key).await.unwrap();
    let scrub = async || {
        let scrubber = Scrubber::new(cold.clone(), None, Clock::default(), ArchiveMetrics::default());
        scrubber.run(verify::Bounds::ALL, true, &(Arc::new(|_| {}) as _)).await.unwrap().faults.len()
    };
    cold.delete(&key).await.unwrap();
    let why = run().await.unwrap_err().to_string();
    assert!(why.contains(&key) && why.contains("it is not there"), "{why}");
    let mut flipped = object.to_vec();
    flipped[100] ^= 1;
    cold.put(&key, flipped.into()).await.unwrap();
    assert_eq!(scrub().await, 1);
    let why = run().await.unwrap_err().to_string();
    assert!(why.contains(&key) && why.contains("is damaged"), "{why}");
    assert_eq!(texts(&life.rows(Kind::Trade).await), texts(before), "warm has given up nothing");
    cold.put(&key, object).await.unwrap();
    assert_eq!(scrub().await, 0);
    run().await.unwrap();
    assert_eq!(life.warm.mark(partition).await.unwrap().next_offset, next);
    assert!(life.rows(Kind::Trade).await.is_empty(), "they are read from the archive");
    life.end().await;
}

/// Warm is lost and the log begins in the middle of an archived day that is not the newest. The archive has all that
/// the log no longer has, so that nobody has to allow anything and no gap is told; the bars of a symbol that has no
/// trade after that day have all of its trades once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bars_of_a_day_that_the_log_has_the_end_of_are_whole() {
    let home = TempDir::new().unwrap();
    let cold = Arc::new(DirCold::open(&home.path().join("cold")).unwrap());
    let (symbol, trades, _) = busy_symbol();
    let partition = symbol.partition(PARTITIONS);
    let third = trades.len() / 3;
    let is_other = |tick: &Tick| tick.kind() == Kind::Trade && tick.symbol() != Some(symbol);
    let mut newest = market(2_000).into_iter().find(is_other).unwrap();
    if let Tick::Trade(trade) = &mut newest {
        trade.ts = trade.ts.saturating_add_nanos(3 * 86_400_000_000_000);
    }
    let life = Life::begin(home.path());
    life.append(&trades[..third], 1).await;
    let first = life.bus.bounds(partition).await.unwrap().next;
    life.append(&trades[third..2 * third], 1_000).await;
    life.append(&[newest], 2_000).await;
    life.process(small()).stop().await.unwrap();
    let options = ArchiveOptions {
        before: Some("2025-04-01".parse().unwrap()),
        settle: Duration::ZERO,
        log: Some(Beside::new(life.bus.clone())),
        ..ArchiveOptions::default()
    };
    let (clock, metrics) = (Clock::default(), ArchiveMetrics::default());
    let archiver = Archiver::new(cold.clone(), life.warm.clone(), options, clock, metrics);
    assert!(archiver.run(&(Arc::new(|_| {}) as _)).await.unwrap().commits > 2);
    drop(archiver);
    life.end().await;

    std::fs::remove_dir_all(home.path().join("warm")).unwrap();
    let life = Life::begin(home.path());
    // Late ones, which no archive has.
    life.append(&trades[2 * third..], 3_000).await;
    let (gained, told) = mpsc::unbounded_channel();
    let members = Mutex::new(vec![told]);
    let bus = SharedBus { bus: life.bus.clone(), lost: None, trimmed: 0, first, members };
    let archive = Arc::new(ArchiveReader::new(cold.clone()).beside(Beside::new(life.bus.clone())));
    let (bus, archived): (Arc<dyn Bus>, _) = (Arc::new(bus), Some(archive.clone()));
    let stores = Stores { bus: bus.clone(), hot_files: None, archive: archived, ..life.stores.clone() };
    let processor = Processor::start(stores, small(), ProcessorMetrics::default());
    gained.send((Assignment::Gained(vec![partition]), oneshot::channel().0)).unwrap();
    processor.restored().await;
    processor.stop().await.unwrap();
    drop(processor);
    let query = HistoryQuery {
        symbols: vec![symbol],
        kind: Kind::Bar,
        timeframe: Some(Timeframe::Day),
        range: TimeRange::ALL,
        limit: None,
    };
    let history = History::new(bus, life.warm.clone()).with_archive(archive);
    let mut batches = history.query(query).await.unwrap().rows;
    let mut volume = 0;
    while let Some(batch) = batches.next().await {
        let batch = batch.unwrap();
        let rows = batch.rows().unwrap();
        volume += (0..batch.len()).map(|row| rows.bar(row).unwrap().1.volume).sum::<u64>();
    }
    drop(history);
    assert!(life.rows(Kind::Gap).await.is_empty(), "nothing is missing");
    let size = |tick: &Tick| if let Tick::Trade(trade) = tick { u64::from(trade.size) } else { 0 };
    assert_eq!(volume, trades.iter().map(size).sum::<u64>());
    life.end().await;
}
