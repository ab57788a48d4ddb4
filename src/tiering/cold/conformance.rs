//! What every cold store does, whatever it is made of: each function is one behaviour, called with
//! an empty store. What a store lacks (storage classes) is an argument.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use super::faulty::{Fault, FaultyCold};
use super::{Availability, Cold, ColdError, RestoreTier, StorageClass, Transition};
use crate::market::Timestamp;

/// A store with nothing in it.
pub(crate) type Store = Arc<dyn Cold>;

/// Moves an object to a class, as a lifecycle rule would.
pub(crate) type MoveTo = dyn Fn(&str, StorageClass) -> Pin<Box<dyn Future<Output = ()>>>;

/// Every behaviour, each with an empty store that `open` gives by a name of its own.
pub(crate) async fn all(open: impl AsyncFn(&'static str) -> Store) {
    macro_rules! each {
        ($($case:ident),* $(,)?) => {{ $( $case(open(stringify!($case)).await).await; )* }};
    }
    each!(
        what_is_put_is_read_back,
        put_replaces,
        an_object_is_created_once,
        of_many_creates_one_succeeds,
        a_create_whose_reply_is_lost_is_read_back,
        a_create_that_was_lost_left_nothing,
        what_is_not_there_is_not_found,
        deleting_twice_is_deleting_once,
        empty_objects_are_objects,
        ranges_come_in_the_order_asked_for,
        ranges_beyond_the_end_are_told,
        many_far_ranges_are_read,
        a_list_is_in_the_order_of_bytes,
        a_list_goes_on_after_a_key,
        a_list_tells_sizes_and_times,
        a_prefix_need_not_be_a_folder,
        a_small_upload_arrives,
        a_large_upload_arrives_and_is_unseen_before,
        an_aborted_upload_leaves_nothing,
        an_upload_dropped_leaves_nothing,
        uploads_side_by_side_do_not_mix,
        odd_keys_are_kept_or_refused,
        new_objects_are_ready,
    );
}

/// What stores with storage classes do.
pub(crate) async fn with_classes(store: Store, move_to: &MoveTo) {
    archived_objects_are_frozen_until_restored(store.clone(), move_to).await;
    asking_to_restore_again_changes_nothing(store.clone(), move_to).await;
    listing_and_deleting_need_no_restore(store.clone(), move_to).await;
    lifecycle_rules_are_set_and_read_back(store).await;
}

/// What stores without storage classes say.
pub(crate) async fn without_classes(store: Store) {
    store.put("a", "x".into()).await.unwrap();
    let unsupported = |error: ColdError| assert!(matches!(error, ColdError::Unsupported { .. }), "{error}");
    unsupported(store.restore("a", 1, RestoreTier::Bulk).await.unwrap_err());
    unsupported(store.lifecycle("ticks/").await.unwrap_err());
    unsupported(store.set_lifecycle("ticks/", &[]).await.unwrap_err());
}

/// Bytes that differ from place to place.
fn bytes(len: usize, seed: u8) -> Bytes {
    (0..len).map(|at| (at % 251) as u8 ^ seed).collect()
}

async fn keys(store: &Store, prefix: &str, after: Option<&str>) -> Vec<String> {
    store.list(prefix, after).await.unwrap().into_iter().map(|object| object.key).collect()
}

fn is_not_found<T: std::fmt::Debug>(answer: Result<T, ColdError>) {
    let error = answer.unwrap_err();
    assert!(matches!(error, ColdError::NotFound { .. }), "{error}");
}

async fn what_is_put_is_read_back(store: Store) {
    store.put("a/b/c", bytes(1000, 1)).await.unwrap();
    assert_eq!(store.get("a/b/c").await.unwrap(), bytes(1000, 1));
}

async fn put_replaces(store: Store) {
    store.put("a", "first".into()).await.unwrap();
    store.put("a", "second".into()).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), "second");
    assert_eq!(keys(&store, "", None).await, ["a"]);
}

async fn an_object_is_created_once(store: Store) {
    assert!(store.create("m/0000.json", "first".into()).await.unwrap());
    assert!(!store.create("m/0000.json", "second".into()).await.unwrap());
    assert_eq!(store.get("m/0000.json").await.unwrap(), "first");
    store.delete("m/0000.json").await.unwrap();
    assert!(store.create("m/0000.json", "third".into()).await.unwrap());
    assert_eq!(store.get("m/0000.json").await.unwrap(), "third");
}

async fn of_many_creates_one_succeeds(store: Store) {
    let tries = (0..8_u8).map(|number| {
        let store = store.clone();
        async move { (number, store.create("lock", Bytes::from(vec![number])).await) }
    });
    let answers = futures_util::future::join_all(tries).await;
    let own: Vec<_> = answers.iter().filter(|(_, answer)| matches!(answer, Ok(true))).collect();
    // One at most is told that it did; a conflict may leave all of them to ask what is there.
    assert!(own.len() <= 1, "{own:?}");
    assert!(answers.iter().all(|(_, answer)| matches!(answer, Ok(_) | Err(ColdError::Unknown { .. }))));
    if let [(number, _)] = own[..] {
        assert_eq!(store.get("lock").await.unwrap(), vec![*number]);
    }
}

async fn a_create_whose_reply_is_lost_is_read_back(store: Store) {
    let faulty = FaultyCold::new(store, Fault::ReplyLost, 1, 1);
    let answer = faulty.create("m/0000.json", "nonce".into()).await;
    assert!(matches!(answer, Err(ColdError::Unknown { .. })));
    assert_eq!(faulty.get("m/0000.json").await.unwrap(), "nonce");
    assert!(!faulty.create("m/0000.json", "another".into()).await.unwrap());
    assert_eq!(faulty.calls(), 3);
}

async fn a_create_that_was_lost_left_nothing(store: Store) {
    let faulty = FaultyCold::new(store, Fault::Lost, 1, 1);
    assert!(matches!(faulty.create("m/0000.json", "x".into()).await, Err(ColdError::Unknown { .. })));
    is_not_found(faulty.get("m/0000.json").await);
    assert!(faulty.create("m/0000.json", "x".into()).await.unwrap());
}

async fn what_is_not_there_is_not_found(store: Store) {
    is_not_found(store.get("a").await);
    is_not_found(store.get_ranges("a", std::slice::from_ref(&(0..1))).await);
    is_not_found(store.state("a").await);
    assert_eq!(keys(&store, "", None).await, [""; 0]);
}

async fn deleting_twice_is_deleting_once(store: Store) {
    store.put("a", "x".into()).await.unwrap();
    store.delete("a").await.unwrap();
    store.delete("a").await.unwrap();
    store.delete("never/there").await.unwrap();
    is_not_found(store.get("a").await);
}

async fn empty_objects_are_objects(store: Store) {
    store.put("a", Bytes::new()).await.unwrap();
    assert!(store.create("b", Bytes::new()).await.unwrap());
    store.upload("c").await.unwrap().finish().await.unwrap();
    for key in ["a", "b", "c"] {
        assert_eq!(store.get(key).await.unwrap().len(), 0, "{key}");
    }
    assert_eq!(keys(&store, "", None).await, ["a", "b", "c"]);
}

async fn ranges_come_in_the_order_asked_for(store: Store) {
    let whole = bytes(300_000, 7);
    store.put("a", whole.clone()).await.unwrap();
    let ranges = [299_990..300_000, 0..1, 5..5, 100..200, 150..160, 100..200, 0..300_000];
    let read = store.get_ranges("a", &ranges).await.unwrap();
    for (range, bytes) in ranges.iter().zip(&read) {
        assert_eq!(bytes, &whole.slice(range.start as usize..range.end as usize), "{range:?}");
    }
    assert_eq!(read.len(), ranges.len());
}

async fn ranges_beyond_the_end_are_told(store: Store) {
    store.put("a", bytes(10, 0)).await.unwrap();
    for range in [5..11, 10..12, 20..30] {
        let error = store.get_ranges("a", std::slice::from_ref(&range)).await.unwrap_err();
        assert!(matches!(error, ColdError::Short { .. }), "{range:?}: {error}");
    }
}

async fn many_far_ranges_are_read(store: Store) {
    let whole = bytes(24 << 20, 3);
    let mut upload = store.upload("a").await.unwrap();
    upload.write(whole.clone()).await.unwrap();
    upload.finish().await.unwrap();
    let ranges: Vec<_> = (0..24_u64).map(|number| (number << 20)..(number << 20) + 100).rev().collect();
    let read = store.get_ranges("a", &ranges).await.unwrap();
    for (range, bytes) in ranges.iter().zip(&read) {
        assert_eq!(bytes, &whole.slice(range.start as usize..range.end as usize));
    }
}

async fn a_list_is_in_the_order_of_bytes(store: Store) {
    let names = ["t/k=a/d=2/x", "t/k=a/d=1/x", "t/k=a-b/x", "t/k=a/d=10/x", "t/Z", "u"];
    for name in names {
        store.put(name, "x".into()).await.unwrap();
    }
    let sorted: BTreeSet<_> = names.into_iter().collect();
    assert_eq!(keys(&store, "", None).await, sorted.iter().copied().collect::<Vec<_>>());
    assert_eq!(keys(&store, "t/k=a/", None).await, ["t/k=a/d=1/x", "t/k=a/d=10/x", "t/k=a/d=2/x"]);
    assert_eq!(keys(&store, "v/", None).await, [""; 0]);
}

async fn a_list_goes_on_after_a_key(store: Store) {
    for number in 0..5 {
        store.put(&format!("m/{number:04}.json"), "x".into()).await.unwrap();
    }
    assert_eq!(keys(&store, "m/", Some("m/0002.json")).await, ["m/0003.json", "m/0004.json"]);
    assert_eq!(keys(&store, "m/", Some("m/0002")).await.len(), 3);
    assert_eq!(keys(&store, "m/", Some("m/9")).await, [""; 0]);
    assert_eq!(keys(&store, "m/", Some("a")).await.len(), 5);
}

async fn a_list_tells_sizes_and_times(store: Store) {
    let before = Timestamp::now();
    store.put("a", bytes(77, 0)).await.unwrap();
    let [object] = &store.list("", None).await.unwrap()[..] else { panic!("one object") };
    assert_eq!((object.key.as_str(), object.bytes), ("a", 77));
    // A store's clock may be a little off, and S3 tells whole seconds.
    let apart_s = (object.modified.nanos() - before.nanos()).abs() / 1_000_000_000;
    assert!(apart_s < 300, "{apart_s} s");
}

async fn a_prefix_need_not_be_a_folder(store: Store) {
    for name in ["m/date=2026-11-20/0", "m/date=2026-11-21/0", "m/date=2026-12-01/0"] {
        store.put(name, "x".into()).await.unwrap();
    }
    assert_eq!(keys(&store, "m/date=2026-11", None).await.len(), 2);
    assert_eq!(keys(&store, "m", None).await.len(), 3);
}

async fn a_small_upload_arrives(store: Store) {
    let mut upload = store.upload("a").await.unwrap();
    upload.write("some".into()).await.unwrap();
    upload.write(Bytes::new()).await.unwrap();
    upload.write(" bytes".into()).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), "some bytes");
}

async fn a_large_upload_arrives_and_is_unseen_before(store: Store) {
    let mut upload = store.upload("a").await.unwrap();
    let pieces: Vec<_> = (0..7_u8).map(|seed| bytes(3_000_000, seed)).collect();
    for piece in &pieces {
        upload.write(piece.clone()).await.unwrap();
        is_not_found(store.get("a").await);
        assert_eq!(keys(&store, "", None).await, [""; 0]);
    }
    upload.finish().await.unwrap();
    assert!(store.get("a").await.unwrap() == pieces.concat());
    assert_eq!(store.list("", None).await.unwrap()[0].bytes, 21_000_000);
}

async fn an_aborted_upload_leaves_nothing(store: Store) {
    for len in [10, 7_000_000] {
        let mut upload = store.upload("a").await.unwrap();
        upload.write(bytes(len, 0)).await.unwrap();
        upload.abort().await.unwrap();
        is_not_found(store.get("a").await);
    }
}

async fn an_upload_dropped_leaves_nothing(store: Store) {
    let mut upload = store.upload("a").await.unwrap();
    upload.write(bytes(13_000_000, 0)).await.unwrap();
    drop(upload);
    is_not_found(store.get("a").await);
    assert_eq!(keys(&store, "", None).await, [""; 0]);
}

async fn uploads_side_by_side_do_not_mix(store: Store) {
    let mut left = store.upload("left").await.unwrap();
    let mut right = store.upload("right").await.unwrap();
    for _ in 0..4 {
        left.write(bytes(2_000_000, 1)).await.unwrap();
        right.write(bytes(2_000_000, 2)).await.unwrap();
    }
    right.finish().await.unwrap();
    left.finish().await.unwrap();
    assert!(store.get("left").await.unwrap() == bytes(2_000_000, 1).repeat(4));
    assert!(store.get("right").await.unwrap() == bytes(2_000_000, 2).repeat(4));
}

async fn odd_keys_are_kept_or_refused(store: Store) {
    for key in ["kind=a b/x+y", "date=2026-11-20/ü&=;:@$,", "a%2Fb/c", "a..b/.c"] {
        match store.put(key, "x".into()).await {
            Ok(()) => {
                assert_eq!(store.get(key).await.unwrap(), "x", "{key}");
                assert!(!store.create(key, "y".into()).await.unwrap(), "{key}");
                store.state(key).await.unwrap();
                assert_eq!(keys(&store, "", None).await, [key]);
                store.delete(key).await.unwrap();
            }
            Err(error) => assert!(matches!(error, ColdError::Refused { .. }), "{key}: {error}"),
        }
    }
    for key in ["", "a//b", "/a"] {
        let error = store.put(key, "x".into()).await.unwrap_err();
        assert!(matches!(error, ColdError::Refused { .. }), "{key}: {error}");
    }
    assert_eq!(keys(&store, "", None).await, [""; 0]);
}

async fn new_objects_are_ready(store: Store) {
    store.put("a", "x".into()).await.unwrap();
    store.upload("b").await.unwrap().finish().await.unwrap();
    for key in ["a", "b"] {
        assert_eq!(store.state(key).await.unwrap(), (StorageClass::Standard, Availability::Ready));
    }
}

async fn archived_objects_are_frozen_until_restored(store: Store, move_to: &MoveTo) {
    store.put("ticks/frozen", bytes(100, 5)).await.unwrap();
    move_to("ticks/frozen", StorageClass::Glacier).await;
    assert_eq!(store.state("ticks/frozen").await.unwrap(), (StorageClass::Glacier, Availability::Frozen));
    let frozen = |error: ColdError| assert!(matches!(error, ColdError::Frozen { .. }), "{error}");
    frozen(store.get("ticks/frozen").await.unwrap_err());
    frozen(store.get_ranges("ticks/frozen", &[0..1, 50..60]).await.unwrap_err());
    store.restore("ticks/frozen", 2, RestoreTier::Standard).await.unwrap();
    let mut tries = 0;
    loop {
        let (class, availability) = store.state("ticks/frozen").await.unwrap();
        assert_eq!(class, StorageClass::Glacier);
        match availability {
            Availability::Restored { until } => {
                let days = (until.unwrap().nanos() - Timestamp::now().nanos()) / 86_400_000_000_000;
                assert!((1..=3).contains(&days), "{days}");
                break;
            }
            Availability::Restoring if tries < 100 => tries += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(store.get("ticks/frozen").await.unwrap(), bytes(100, 5));
    let read = store.get_ranges("ticks/frozen", std::slice::from_ref(&(10..20))).await.unwrap();
    assert_eq!(read, [bytes(100, 5).slice(10..20)]);
}

async fn asking_to_restore_again_changes_nothing(store: Store, move_to: &MoveTo) {
    store.put("ticks/twice", "x".into()).await.unwrap();
    // Nothing to restore.
    store.restore("ticks/twice", 1, RestoreTier::Bulk).await.unwrap();
    assert_eq!(store.state("ticks/twice").await.unwrap().1, Availability::Ready);
    move_to("ticks/twice", StorageClass::DeepArchive).await;
    for _ in 0..3 {
        store.restore("ticks/twice", 1, RestoreTier::Bulk).await.unwrap();
    }
    let (class, availability) = store.state("ticks/twice").await.unwrap();
    assert_eq!(class, StorageClass::DeepArchive);
    assert!(matches!(availability, Availability::Restoring | Availability::Restored { .. }));
    is_not_found(store.restore("ticks/none", 1, RestoreTier::Bulk).await);
}

async fn listing_and_deleting_need_no_restore(store: Store, move_to: &MoveTo) {
    store.put("listed/a", bytes(9, 0)).await.unwrap();
    move_to("listed/a", StorageClass::DeepArchive).await;
    assert_eq!(store.list("listed/", None).await.unwrap()[0].bytes, 9);
    assert!(!store.create("listed/a", "x".into()).await.unwrap());
    store.delete("listed/a").await.unwrap();
    is_not_found(store.state("listed/a").await);
}

async fn lifecycle_rules_are_set_and_read_back(store: Store) {
    assert_eq!(store.lifecycle("ticks/").await.unwrap(), []);
    let plan = [
        Transition { days: 30, class: StorageClass::Glacier },
        Transition { days: 365, class: StorageClass::DeepArchive },
    ];
    store.set_lifecycle("ticks/", &plan).await.unwrap();
    assert_eq!(store.lifecycle("ticks/").await.unwrap(), plan);
    assert_eq!(store.lifecycle("manifest/").await.unwrap(), []);
    store.set_lifecycle("other/", &plan[1..]).await.unwrap();
    store.set_lifecycle("ticks/", &plan[..1]).await.unwrap();
    assert_eq!(store.lifecycle("ticks/").await.unwrap(), plan[..1]);
    assert_eq!(store.lifecycle("other/").await.unwrap(), plan[1..]);
    store.set_lifecycle("ticks/", &[]).await.unwrap();
    store.set_lifecycle("other/", &[]).await.unwrap();
    assert_eq!(store.lifecycle("ticks/").await.unwrap(), []);
}
