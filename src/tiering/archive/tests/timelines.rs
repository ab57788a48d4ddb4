//! The log that an archive belongs to, and what it says of how far its rows go.

use super::*;
use crate::bus::epoch::{Gone, Relation, is_within};
use crate::market::{Kind, TradingDay};
use crate::tiering::archive::origin::{self, Beside};
use crate::tiering::archive::read::{Ahead, ArchiveReader};
use crate::tiering::history::tests::{FakeBus, LOG_ID};

/// Options of an archiver beside a log that has every record that a test stores.
fn beside(log: u64) -> ArchiveOptions {
    let bus = FakeBus::of_log(log);
    for partition in [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1] {
        bus.push(partition, Bytes::from_static(b"record"));
    }
    ArchiveOptions { log: Some(Beside::new(bus)), ..options() }
}

/// Trades of partition 0 that are all of one of two days.
async fn trades_of(world: &mut World, day: u64) {
    world.store(0, |offset, index| trade(0, offset / 2 * 2 + day, index)).await;
}

#[tokio::test(start_paused = true)]
async fn a_declaration_that_comes_late_takes_back_nothing() {
    let mut world = World::new();
    world.trades(1).await;
    let cold = MemoryCold::new();
    let gate = Arc::new((Semaphore::new(0), Semaphore::new(0)));
    let slow = MemoryCold { slow_put: Some(("log.copy.json", gate.clone())), ..cold.clone() };
    let slow = world.archiver(Arc::new(slow), beside(LOG_ID));
    let mut asleep = tokio::spawn(async move { slow.run(&nothing()).await });
    // First it names the log, then what its first manifest reaches.
    for passed in [1, 0] {
        tokio::select! {
            permit = gate.0.acquire() => permit.unwrap().forget(),
            done = &mut asleep => panic!("it did not come so far: {done:?}"),
        }
        gate.1.add_permits(passed);
    }
    world.sleep(HOUR);
    world.trades(2).await;
    // What the other had proven, and the rest.
    for _ in 0..2 {
        world.run(&cold, beside(LOG_ID)).await.unwrap();
    }
    let declared = async || origin::held(&cold).await.unwrap().unwrap().next_offsets;
    assert!(is_within(&[9, 9], &declared().await));
    gate.1.add_permits(100);
    let error = asleep.await.unwrap().unwrap_err();
    assert!(matches!(error, ArchiveError::LeaseLost { .. }), "{error}");
    assert!(is_within(&[9, 9], &declared().await), "{:?}", declared().await);
    world.check(&cold).await;
}

/// The run was killed, and the data directory put back from a copy in which the log had not come so far:
/// late rows of the day will have those offsets.
#[tokio::test(start_paused = true)]
async fn objects_of_offsets_that_warm_has_yet_to_come_to_are_not_taken_up() {
    let mut world = World::new();
    trades_of(&mut world, 0).await;
    trades_of(&mut world, 1).await;
    let cold = MemoryCold::new();
    let gate = Arc::new((Semaphore::new(0), Semaphore::new(0)));
    let slow = MemoryCold { gate: Some(gate.clone()), ..cold.clone() };
    let killed = world.archiver(Arc::new(slow), options());
    let killed = tokio::spawn(async move { killed.run(&nothing()).await });
    gate.0.acquire().await.unwrap().forget();
    killed.abort();
    assert!(killed.await.unwrap_err().is_cancelled());
    let mut put_back = World::new();
    trades_of(&mut put_back, 0).await;
    put_back.sleep(HOUR);
    let summary = put_back.run(&cold, options()).await.unwrap();
    assert_eq!((summary.commits, summary.failures), (1, Vec::new()));
    trades_of(&mut put_back, 0).await;
    put_back.check(&cold).await;
    put_back.run(&cold, dropping()).await.unwrap();
    put_back.check(&cold).await;
}

#[tokio::test(start_paused = true)]
async fn an_archive_is_ahead_where_late_rows_of_an_older_day_are() {
    let mut world = World::new();
    let cold = MemoryCold::new();
    trades_of(&mut world, 0).await;
    trades_of(&mut world, 1).await;
    world.run(&cold, beside(LOG_ID)).await.unwrap();
    trades_of(&mut world, 0).await;
    assert_eq!(world.run(&cold, beside(LOG_ID)).await.unwrap().commits, 1);
    let reader = Arc::new(ArchiveReader::new(Arc::new(cold.clone())));
    assert_eq!(reader.is_ahead_of(&[8]).await.unwrap(), Ahead::Is);
    assert_eq!(reader.is_ahead_of(&[9]).await.unwrap(), Ahead::Not);
    assert_eq!(reader.is_ahead_of(&[8]).await.unwrap(), Ahead::Is, "warm was put back");
    // Of an archive that does not name its log the manifests say the same.
    for key in ["log.json", "log.copy.json"] {
        cold.delete(key).await.unwrap();
    }
    let reader = Arc::new(ArchiveReader::new(Arc::new(cold)));
    assert_eq!(reader.is_ahead_of(&[8]).await.unwrap(), Ahead::Is);
    assert_eq!(reader.is_ahead_of(&[9]).await.unwrap(), Ahead::Not);
}

/// Manifests of versions that named no generations, or only some that every log has.
#[tokio::test(start_paused = true)]
async fn nothing_is_archived_where_nothing_says_of_which_log_the_days_are() {
    for writer in [options(), beside(LOG_ID)] {
        let mut world = World::new();
        let cold = MemoryCold::new();
        world.trades(1).await;
        world.run(&cold, writer).await.unwrap();
        for key in ["log.json", "log.copy.json"] {
            cold.delete(key).await.unwrap();
        }
        world.trades(1).await;
        let before = cold.keys("");
        let refused = world.run(&cold, beside(LOG_ID)).await.unwrap_err();
        assert!(matches!(refused, ArchiveError::Nameless { .. }), "{refused}");
        let kept = |keys: Vec<String>| -> Vec<String> {
            keys.into_iter().filter(|key| !key.starts_with("lease/")).collect()
        };
        assert_eq!(kept(cold.keys("")), kept(before));
        // As the message says.
        let log = beside(LOG_ID).log.unwrap();
        origin::adopt(Arc::new(cold.clone()), &log).await.unwrap();
        assert_eq!(world.run(&cold, beside(LOG_ID)).await.unwrap().commits, 2);
        world.check(&cold).await;
        let refused = world.run(&cold, beside(LOG_ID + 1)).await.unwrap_err();
        assert!(matches!(refused, ArchiveError::OtherLog { .. }), "{refused}");
    }
}

/// A log without generations, as one in Kafka is: what `text` says from offset `from` on, and before it what any
/// such log has there.
fn topic(records: u64, from: u64, text: &str) -> Arc<FakeBus> {
    let bus = FakeBus::of_log(LOG_ID);
    for partition in 0..2 {
        for offset in 0..records {
            let text = if offset < from { "common" } else { text };
            bus.push(partition, format!("{text} {partition} {offset}").into());
        }
    }
    bus
}

fn beside_topic(bus: &Arc<FakeBus>) -> ArchiveOptions {
    ArchiveOptions { log: Some(Beside::new(bus.clone())), ..options() }
}

/// By offsets alone nobody could tell, once the log has grown past where the archive ends.
#[tokio::test(start_paused = true)]
async fn a_topic_that_was_put_back_is_known_by_its_records_however_far_it_has_grown() {
    let mut world = World::new();
    let cold = MemoryCold::new();
    let own = topic(40, 5, "own");
    let held = async || origin::held(&cold).await.unwrap().unwrap();
    for blocks in [1, 2] {
        world.trades(blocks).await;
        world.run(&cold, beside_topic(&own)).await.unwrap();
        // Later records of the log change nothing.
        assert_eq!(Beside::new(own.clone()).relation(&held().await).await.unwrap(), Relation::Own);
    }
    let seams = held().await.seams;
    assert!(seams.iter().any(|seam| seam.next_offsets == [3, 3]), "{seams:?}");
    assert_eq!(seams.last().unwrap().next_offsets, [9, 9]);

    // The archive ends at 9, and the last moment before they part at 5 is that of 3.
    let parted = Relation::Parted { at: vec![3, 3] };
    for records in [5, 8, 9, 10, 40] {
        let other = topic(records, 5, "other");
        assert_eq!(Beside::new(other).relation(&held().await).await.unwrap(), parted, "{records}");
    }
    let other = topic(40, 5, "other");
    let before = cold.keys("manifest/");
    let refused = world.run(&cold, beside_topic(&other)).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::OtherTimeline { is_parted: true, .. }), "{refused}");
    assert_eq!(cold.keys("manifest/"), before);
    // What was archived up to there is answered, and the rest is told to be lost.
    let reader = ArchiveReader::new(Arc::new(cold.clone())).beside(Beside::new(other.clone()));
    let snapshot = reader.snapshot(Kind::Trade, TimeRange::ALL).await.unwrap();
    assert_eq!(snapshot.days().map(|(_, next)| next).collect::<Vec<_>>(), [[3, 3], [3, 3]]);
    let lost = reader.known_lost(&[40, 40]).unwrap();
    assert_eq!((lost.from, lost.to, lost.gone), (vec![3, 3], vec![9, 9], Gone::Unknown));

    // Once the log has dropped the records that tell, what the run has found still does.
    for partition in 0..2 {
        other.trim(partition, 30);
    }
    assert_eq!(Beside::new(other.clone()).relation(&held().await).await.unwrap(), parted);
    let refused = world.run(&cold, beside_topic(&other)).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::OtherTimeline { is_parted: true, .. }), "{refused}");

    // An archiver of another log takes that back as little.
    let noted = held().await;
    assert_eq!(noted.parted_at, Some(vec![3, 3]));
    let refused = world.run(&cold, beside(LOG_ID + 1)).await.unwrap_err();
    assert!(matches!(refused, ArchiveError::OtherLog { .. }), "{refused}");
    assert_eq!(held().await, noted);

    // The topic is put back as it was.
    world.trades(1).await;
    assert_eq!(world.run(&cold, beside_topic(&own)).await.unwrap().commits, 2);
    assert_eq!(held().await.parted_at, None);
    world.check(&cold).await;
}

/// The archive says below which offsets it has every row, whatever else warm has.
#[tokio::test(start_paused = true)]
async fn the_offsets_below_which_all_is_archived_are_named() {
    let mut world = World::new();
    let cold = MemoryCold::new();
    let own = topic(40, 40, "");
    let whole = async || origin::held(&cold).await.unwrap().unwrap().whole_offsets;
    let run = async |world: &World, day: &str, kinds: Vec<Kind>| {
        let before = Some(day.parse().unwrap());
        world.run(&cold, ArchiveOptions { before, kinds, ..beside_topic(&own) }).await.unwrap()
    };
    // Offsets 1, 3, 5 are of the second day.
    trades_of(&mut world, 0).await;
    trades_of(&mut world, 1).await;
    assert_eq!(run(&world, "2026-11-20", vec![Kind::Trade]).await.commits, 1);
    assert!(whole().await.is_empty(), "nothing was asked of other kinds");
    assert_eq!(run(&world, "2026-11-20", Vec::new()).await.commits, 0);
    run(&world, "2026-11-21", Vec::new()).await;
    assert_eq!(whole().await, [6]);
    trades_of(&mut world, 1).await;
    trades_of(&mut world, 0).await;
    run(&world, "2026-11-20", Vec::new()).await;
    assert_eq!(whole().await, [6], "a late row of the second day is at 6");
    run(&world, "2026-11-21", Vec::new()).await;
    assert_eq!(whole().await, [12]);
}

/// The archive that held dropped days is gone for good.
#[tokio::test(start_paused = true)]
async fn what_is_given_up_is_told_to_be_lost_and_late_rows_are_archived_behind_it() {
    let mut world = World::new();
    let log = beside(LOG_ID);
    world.trades(2).await;
    let dropping = ArchiveOptions { keep_days: 1, ..log.clone() };
    world.run(&MemoryCold::new(), dropping.clone()).await.unwrap();
    assert!(world.warm().units().await.unwrap().is_empty());
    let (cold, archiver) =
        (MemoryCold::new(), |cold: &MemoryCold| world.archiver(Arc::new(cold.clone()), dropping.clone()));
    let failed = archiver(&cold).run(&nothing()).await.unwrap().failures;
    assert!(failed.iter().all(|(_, error)| matches!(error, ArchiveError::NotHere { .. })), "{failed:?}");
    let planned = archiver(&cold).to_give_up().await.unwrap();
    let days: Vec<_> = planned.iter().map(|given_up| given_up.unit.day.to_string()).collect();
    assert_eq!((days, failed.len()), (vec!["2026-11-19".to_owned(), "2026-11-20".to_owned()], 2));
    assert!(planned.iter().all(|given_up| given_up.next_offsets == [6, 6]), "{planned:?}");
    assert!(cold.keys("manifest/").is_empty(), "a plan changes nothing");
    assert_eq!(archiver(&cold).give_up().await.unwrap(), planned);
    assert!(archiver(&cold).give_up().await.unwrap().is_empty(), "once");

    world.rows.clear();
    world.trades(1).await;
    let summary = world.run(&cold, dropping.clone()).await.unwrap();
    assert_eq!((summary.commits, summary.drops, summary.failures), (2, 2, Vec::new()));
    world.check(&cold).await;
    let reader = ArchiveReader::new(Arc::new(cold.clone())).beside(log.log.unwrap());
    let tiers = crate::tiering::tiers::Tiers { warm: world.warm(), archive: Some(Arc::new(reader)) };
    let range = TimeRange { from: "2026-11-20".parse::<TradingDay>().unwrap().start(), to: Timestamp::MAX };
    let archived = tiers.scan(Kind::Trade, None, range).await.unwrap().archived;
    let lost: Vec<_> = archived.given_up.iter().map(|lost| (lost.partition, lost.next_offset)).collect();
    assert_eq!(lost, [(0, 6), (1, 6)]);
    assert!(archived.given_up.iter().all(|lost| lost.gone == Gone::of(["2026-11-20".parse().unwrap()])));
    // A program that does not know such manifests refuses them.
    let manifest = cold.get(&cold.keys("manifest/")[0]).await.unwrap();
    assert!(String::from_utf8_lossy(&manifest).contains("\"version\": 3"));
}
