//! The log that an archive belongs to, and what it says of how far its rows go.

use super::*;
use crate::bus::epoch::is_within;
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
