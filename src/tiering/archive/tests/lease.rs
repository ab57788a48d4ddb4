//! The lease: who holds it, until when, and who takes it over.

use super::*;
use crate::tiering::archive::lease::Lease;

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_it_is_held_and_kept_from_others() {
    let world = World::new();
    let cold = MemoryCold::new();
    let store = Store::new(Arc::new(cold.clone()), None, ArchiveMetrics::default());
    let began = tokio::time::Instant::now();
    let clock = Clock::new(move || Timestamp::from_nanos(began.elapsed().as_nanos() as i64));
    let lease = Lease::take(&store, &clock, Duration::from_mins(2)).await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_mins(1)).await;
        lease.check().unwrap();
        let refused = Lease::take(&store, &clock, Duration::from_mins(2)).await.err().unwrap();
        assert!(matches!(refused, ArchiveError::Leased { .. }), "{refused}");
    }
    assert!(cold.keys("lease/").len() <= 2, "old numbers are removed");
    lease.release().await.unwrap();
    let next = Lease::take(&store, &clock, Duration::from_mins(2)).await.unwrap();
    // One whose process is no more need not be waited for.
    drop(next);
    let newest = cold.keys("lease/").pop().unwrap();
    let mut file: serde_json::Value = serde_json::from_slice(&cold.get(&newest).await.unwrap()).unwrap();
    assert_eq!(file["owner"]["pid"], std::process::id());
    (file["owner"]["pid"], file["nonce"]) = (i32::MAX.into(), "X".into());
    cold.put(&newest, sealed::seal(&file)).await.unwrap();
    Lease::take(&store, &clock, Duration::from_mins(2)).await.unwrap();
    drop(world);
}

const LEASE: Duration = Duration::from_mins(2);

/// A store, and a clock that goes with the paused one.
fn place() -> (MemoryCold, Store, Clock) {
    let cold = MemoryCold::new();
    let store = Store::new(Arc::new(cold.clone()), None, ArchiveMetrics::default());
    let began = tokio::time::Instant::now();
    (cold, store, Clock::new(move || Timestamp::from_nanos(began.elapsed().as_nanos() as i64)))
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_a_clock_that_was_ahead_is_taken_over_once_nobody_renews_it() {
    let (cold, store, clock) = place();
    let base = clock.clone();
    let ahead = Clock::new(move || base.now().saturating_add_nanos(90 * 24 * HOUR));
    let held = Lease::take(&store, &ahead, LEASE).await.unwrap();
    let refused = Lease::take(&store, &clock, LEASE).await.err().unwrap();
    assert!(matches!(refused, ArchiveError::Leased { .. }), "it is renewed: {refused}");
    // Its machine is gone.
    drop(held);
    let newest = cold.keys("lease/").pop().unwrap();
    let mut file: serde_json::Value = serde_json::from_slice(&cold.get(&newest).await.unwrap()).unwrap();
    assert!(file["owner"]["boot"].is_string());
    file["owner"]["boot"] = "X".into();
    cold.put(&newest, sealed::seal(&file)).await.unwrap();
    Lease::take(&store, &clock, LEASE).await.unwrap();
}

/// The newest lease object: until when, in seconds, and whether it was released.
async fn newest(cold: &MemoryCold) -> (i64, bool) {
    let bytes = cold.get(&cold.keys("lease/").pop().unwrap()).await.unwrap();
    let file: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let until: Timestamp = file["expires_at"].as_str().unwrap().parse().unwrap();
    (until.nanos() / 1_000_000_000, file["released"].as_bool().unwrap())
}

/// A renewal by the holder itself that lands, until `seconds`, and of which it hears nothing.
async fn land(cold: &MemoryCold, seconds: i64) {
    let key = cold.keys("lease/").pop().unwrap();
    let bytes = cold.get(&key).await.unwrap();
    let mut file: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    file["expires_at"] = Timestamp::from_nanos(seconds * 1_000_000_000).to_string().into();
    let number: u64 =
        key.strip_prefix("lease/archiver-").unwrap().strip_suffix(".json").unwrap().parse().unwrap();
    let next = format!("lease/archiver-{:016}.json", number + 1);
    assert!(cold.create(&next, file.to_string().into()).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_held_for_as_long_as_its_object_says_also_after_a_lost_reply() {
    let (cold, store, clock) = place();
    let lease = Lease::take(&store, &clock, LEASE).await.unwrap();
    // As if it had been renewed early, at 10 s, and the next renewals found that one.
    tokio::time::sleep(Duration::from_secs(10)).await;
    land(&cold, 130).await;
    let mut renewed = BTreeSet::new();
    for second in 10..400 {
        let (until, _) = newest(&cold).await;
        assert!(lease.check().is_err() || second < until - 20, "at {second} s it is held, until {until} s");
        assert!(lease.check().is_ok(), "at {second} s");
        renewed.insert(until);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(renewed.iter().take(3).copied().collect::<Vec<_>>(), [130, 160, 200]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_renewals_are_not_answered_is_not_held_longer_than_its_object_says() {
    // A take is three calls: a listing, a create, a listing. The renewal at 40 s, the fourth, is there and
    // its reply is lost, as are the tries to read it back. At about 80 s the store is there again, for
    // some calls.
    for lost_from in 5..20 {
        let (cold, _, clock) = place();
        let lost = FaultyCold::new(Arc::new(cold.clone()), Fault::Lost, lost_from, u64::MAX);
        let unread = FaultyCold::new(Arc::new(lost), Fault::Lost, 5, 4);
        let faulty = FaultyCold::new(Arc::new(unread), Fault::ReplyLost, 4, 1);
        let store = Store::new(Arc::new(faulty), None, ArchiveMetrics::default());
        let lease = Lease::take(&store, &clock, LEASE).await.unwrap();
        let mut held = 0;
        for second in 0..400 {
            if lease.check().is_ok() {
                let (until, _) = newest(&cold).await;
                assert!(second < until, "{lost_from}: at {second} s it is held, until {until} s");
                held = second;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(held >= 99, "{lost_from}: held until {held} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_given_back_though_a_renewal_landed_unheard() {
    let (cold, store, clock) = place();
    let lease = Lease::take(&store, &clock, LEASE).await.unwrap();
    // The keeper was stopped when the request had left.
    land(&cold, 160).await;
    lease.release().await.unwrap();
    assert!(newest(&cold).await.1, "the newest one says that it was released");
    Lease::take(&store, &clock, LEASE).await.unwrap();
}
