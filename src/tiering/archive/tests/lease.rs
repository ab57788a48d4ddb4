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
    let text = String::from_utf8(cold.get(&newest).await.unwrap().to_vec()).unwrap();
    let own = format!("\"pid\": {}", std::process::id());
    assert!(text.contains(&own));
    let gone =
        text.replace(&own, &format!("\"pid\": {}", i32::MAX)).replace("\"nonce\": \"", "\"nonce\": \"X");
    cold.put(&newest, gone.into()).await.unwrap();
    Lease::take(&store, &clock, Duration::from_mins(2)).await.unwrap();
    drop(world);
}
