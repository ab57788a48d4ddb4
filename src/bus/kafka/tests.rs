//! The log in Kafka, on a real one: the suite every log passes, and what only Kafka can do to it.

mod outage;
mod secure;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::poll;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::*;
use crate::bus::Assignment;
use crate::bus::conformance::{self, PARTITIONS};
use crate::testing::service;

/// A guard against hanging, not a pause.
const PATIENCE: Duration = Duration::from_mins(2);

/// A topic that no other test has, of any run.
fn config(brokers: &str) -> KafkaBusConfig {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let name = format!("stk-test-{since}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    KafkaBusConfig {
        group: name.clone(),
        trim_interval: Duration::from_hours(1),
        ..KafkaBusConfig::new(brokers, name, PARTITIONS)
    }
}

async fn open(config: KafkaBusConfig) -> Arc<KafkaBus> {
    KafkaBus::open(config).await.unwrap()
}

async fn within<T>(what: &str, waited: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

async fn append(bus: &dyn Bus, partition: u16, texts: impl IntoIterator<Item: ToString>) -> Vec<u64> {
    let record = |text: &dyn ToString| Bytes::from(text.to_string());
    let records = texts.into_iter().map(|text| (partition, record(&text))).collect();
    bus.append(records).await.unwrap().await.unwrap()
}

async fn read_texts(bus: &dyn Bus, partition: u16, from: u64) -> Vec<String> {
    let end = bus.bounds(partition).await.unwrap().next;
    let mut reader = bus.reader(partition, from).await.unwrap();
    let mut texts = Vec::new();
    while reader.offset() < end {
        let records = reader.next(1 << 16).await.unwrap();
        texts.extend(records.iter().map(|record| String::from_utf8(record.bytes.to_vec()).unwrap()));
    }
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let Some(brokers) = service("KAFKA") else { return };
    conformance::run(|| async { open(config(&brokers)).await as Arc<dyn Bus> }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_when_it_is_opened_again() {
    let Some(brokers) = service("KAFKA") else { return };
    let configs = [config(&brokers), config(&brokers)];
    conformance::run_reopened(
        async |which: u32| open(configs[which as usize].clone()).await,
        async |bus: Arc<KafkaBus>| bus.close(PATIENCE).await,
    )
    .await;
}

/// With hardly any memory and one consumer, so that readers go to the brokers and share it.
#[tokio::test(flavor = "multi_thread")]
async fn conforms_from_the_brokers() {
    let Some(brokers) = service("KAFKA") else { return };
    conformance::run(|| async {
        let small = KafkaBusConfig { tail_bytes_max: 0, catch_ups_max: 1, ..config(&brokers) };
        open(small).await as Arc<dyn Bus>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_the_same_for_whoever_opens_it() {
    let Some(brokers) = service("KAFKA") else { return };
    let config = config(&brokers);
    let first = open(config.clone()).await;
    append(&*first, 1, 0..10).await;
    let second = open(config.clone()).await;
    let mut reader = second.reader(1, 10).await.unwrap();
    append(&*first, 1, ["from elsewhere"]).await;
    assert_eq!(within("the tail", reader.next(100)).await.unwrap()[0].bytes, "from elsewhere");
    let mut waiting = first.reader(0, 0).await.unwrap();
    let mut read = waiting.next(100);
    assert!(poll!(&mut read).is_pending());
    first.close(PATIENCE).await;
    assert!(matches!(within("a reader of a closed log", read).await, Err(BusError::Closed)));
    assert!(matches!(first.append(vec![(0, Bytes::new())]).await.err(), Some(BusError::Closed)));
    assert_eq!(read_texts(&*second, 1, 0).await.len(), 11);
    assert_eq!(second.bounds_seen(1).await.unwrap(), Bounds { first: 0, next: 11 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_with_other_partitions_is_refused_by_name() {
    let Some(brokers) = service("KAFKA") else { return };
    let config = config(&brokers);
    open(config.clone()).await;
    let other = KafkaBusConfig { partitions: PARTITIONS + 1, ..config.clone() };
    let error = KafkaBus::open(other).await.err().unwrap().to_string();
    let told = format!("topic {} has 3 partitions, but 4 are configured", config.topic);
    assert!(error.contains(&told), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_to_be_there_is_not_made() {
    let Some(brokers) = service("KAFKA") else { return };
    let config = config(&brokers);
    let error = KafkaBus::open_existing(config.clone()).await.err().unwrap();
    assert!(matches!(error, BusError::Missing { .. }), "{error}");
    assert_eq!(error.to_string(), format!("there is no topic {} at {brokers}", config.topic));
    let client = crate::kafka::client_config(&brokers, &[]).unwrap();
    let topics = tokio::task::spawn_blocking(move || {
        let asker: BaseConsumer = client.create().unwrap();
        let all = asker.fetch_metadata(None, PATIENCE).unwrap();
        all.topics().iter().map(|topic| topic.name().to_owned()).collect::<BTreeSet<_>>()
    });
    assert!(!topics.await.unwrap().contains(&config.topic));
    append(&*open(config.clone()).await, 1, 0..3).await;
    let found = KafkaBus::open_existing(config.clone()).await.unwrap();
    assert_eq!(read_texts(&*found, 1, 0).await, ["0", "1", "2"]);
    let other = KafkaBusConfig { partitions: PARTITIONS + 1, ..config };
    assert!(matches!(KafkaBus::open_existing(other).await.err(), Some(BusError::Failed { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_made_again_ends_the_log_for_whoever_has_it_open() {
    use rdkafka::admin::{AdminClient, AdminOptions};
    use rdkafka::client::DefaultClientContext;
    let Some(brokers) = service("KAFKA") else { return };
    let config = KafkaBusConfig { identity_interval: Duration::from_millis(50), ..config(&brokers) };
    let bus = open(config.clone()).await;
    append(&*bus, 0, 0..3).await;
    let mut reader = bus.reader(0, 3).await.unwrap();
    let mut client = rdkafka::ClientConfig::new();
    let admin: AdminClient<DefaultClientContext> =
        client.set("bootstrap.servers", &brokers).create().unwrap();
    admin.delete_topics(&[&config.topic], &AdminOptions::new()).await.unwrap();
    let is_gone =
        async || matches!(KafkaBus::open_existing(config.clone()).await, Err(BusError::Missing { .. }));
    within("the topic's end", async { while !is_gone().await {} }).await;
    let again = open(config.clone()).await;
    append(&*again, 0, 0..10).await;
    let reason = within("the reader", async {
        loop {
            if let Err(error) = reader.next(1 << 16).await {
                return error.to_string();
            }
        }
    });
    let reason = reason.await;
    assert!(reason.contains("deleted and made again since it was opened"), "{reason}");
    let refused = bus.append(vec![(0, Bytes::from_static(b"late"))]).await.err().unwrap().to_string();
    assert_eq!(refused, reason);
    assert_eq!(bus.ready().unwrap_err(), reason);
    assert_eq!(read_texts(&*again, 0, 0).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_gone_is_told_before_anybody_writes() {
    use rdkafka::admin::{AdminClient, AdminOptions};
    use rdkafka::client::DefaultClientContext;
    let Some(brokers) = service("KAFKA") else { return };
    let config = KafkaBusConfig { identity_interval: Duration::from_millis(50), ..config(&brokers) };
    let bus = open(config.clone()).await;
    append(&*bus, 0, 0..3).await;
    assert_eq!(bus.ready(), Ok(()));
    let mut client = rdkafka::ClientConfig::new();
    let admin: AdminClient<DefaultClientContext> =
        client.set("bootstrap.servers", &brokers).create().unwrap();
    admin.delete_topics(&[&config.topic], &AdminOptions::new()).await.unwrap();
    let told = within("the topic's end", async {
        loop {
            if let Err(told) = bus.ready() {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let told = told.await;
    assert!(told.contains("the topic was deleted. Put back"), "{told}");
    // Nobody waits for it for as long as for brokers that are away.
    let asked = bus.bounds(0).await.unwrap_err();
    assert!(
        matches!(&asked, BusError::Unavailable { reason, .. } if reason.contains("the topic was deleted")),
        "{asked}"
    );
}

#[tokio::test]
async fn brokers_that_are_not_there_are_told_of() {
    let config = KafkaBusConfig {
        open_wait_max: Duration::from_millis(300),
        ..KafkaBusConfig::new("127.0.0.1:1", "ticks", 1)
    };
    let error = KafkaBus::open(config).await.err().unwrap();
    assert!(matches!(error, BusError::Unavailable { .. }), "{error}");
    let told = "the log in topic ticks at 127.0.0.1:1 can't be reached: ";
    assert!(error.to_string().starts_with(told), "{error}");
}

#[tokio::test]
async fn what_the_build_or_a_promise_does_not_allow_is_refused_before_anything() {
    for (name, value) in [("acks", "0"), ("sasl.mechanism", "SCRAM-SHA-512"), ("no.such.property", "1")] {
        if value.starts_with("SCRAM") && cfg!(feature = "kafka-tls") {
            continue;
        }
        let properties = vec![(name.to_owned(), value.to_owned())];
        let config = KafkaBusConfig { properties, ..KafkaBusConfig::new("127.0.0.1:1", "ticks", 1) };
        let error = KafkaBus::open(config).await.err().unwrap().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_is_refused_whole() {
    let Some(brokers) = service("KAFKA") else { return };
    let bus = open(config(&brokers)).await;
    let large = Bytes::from(vec![7; RECORD_BYTES_MAX + 1]);
    let refused = bus.append(vec![(0, Bytes::new()), (1, large)]).await;
    assert!(matches!(refused.err(), Some(BusError::TooLarge { .. })));
    let largest = Bytes::from(vec![7; RECORD_BYTES_MAX]);
    assert_eq!(bus.append(vec![(0, largest)]).await.unwrap().await.unwrap(), [0]);
}

/// The queue is smaller than what is appended: appends wait, and all of it arrives in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_makes_appends_wait() {
    let Some(brokers) = service("KAFKA") else { return };
    let bus = open(KafkaBusConfig { queue_bytes_max: 4_096, ..config(&brokers) }).await;
    let mut pending = Vec::new();
    for i in 0..200 {
        pending.push(bus.append(vec![(0, Bytes::from(format!("{i:0500}")))]).await.unwrap());
    }
    for (offset, durable) in (0..).zip(pending) {
        assert_eq!(durable.await.unwrap(), [offset]);
    }
    assert!(bus.metrics().queue_waits.get() > 0);
    assert_eq!(bus.metrics().queue_bytes.get(), 0);
    let expected: Vec<String> = (0..200).map(|i| format!("{i:0500}")).collect();
    assert_eq!(read_texts(&*bus, 0, 0).await, expected);
}

/// More readers than consumers, all reading at once in small steps.
#[tokio::test(flavor = "multi_thread")]
async fn readers_share_few_consumers() {
    let Some(brokers) = service("KAFKA") else { return };
    let bus = open(KafkaBusConfig { catch_ups_max: 2, ..config(&brokers) }).await;
    append(&*bus, 0, (0..300).map(|i| format!("{i:0100}"))).await;
    let mut readers = Vec::new();
    for from in 0..8 {
        readers.push(bus.reader(0, from).await.unwrap());
    }
    let mut next: Vec<u64> = (0..8).collect();
    while next.iter().any(|next| *next < 300) {
        for (reader, next) in readers.iter_mut().zip(&mut next).filter(|(_, next)| **next < 300) {
            for record in within("a reader", reader.next(5_000)).await.unwrap() {
                assert_eq!((record.offset, &*record.bytes), (*next, format!("{next:0100}").as_bytes()));
                *next += 1;
            }
        }
    }
    assert!(bus.metrics().catch_up_steals.get() > 0);
    assert!(bus.metrics().catch_up_consumers.get() <= 2);
}

/// A reader that lags pauses where the log ended when its consumer looked; the log goes on, and the
/// ring has turned over when the reader does.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_before_is_none_of_now() {
    let Some(brokers) = service("KAFKA") else { return };
    let bus = open(KafkaBusConfig { tail_bytes_max: 0, ..config(&brokers) }).await;
    let texts = |range: std::ops::Range<u64>| range.map(|i| format!("{i:0100}"));
    append(&*bus, 0, texts(0..10)).await;
    let mut tail = bus.reader(0, 10).await.unwrap();
    let following = tokio::spawn(async move {
        while tail.offset() < 20 {
            tail.next(1 << 16).await.unwrap();
        }
        tail
    });
    within("following", async {
        while !matches!(bus.tail.lookup(0, 10, 1), tail::Lookup::Wait) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut lagging = bus.reader(0, 0).await.unwrap();
    let mut offsets = Vec::new();
    let mut read = async |reader: &mut Box<dyn BusReader>| {
        let records = within("the lagging reader", reader.next(500)).await.unwrap();
        reader.check_follows(offsets.len() as u64, &records).unwrap();
        offsets.extend(records.iter().map(|record| record.offset));
        offsets.len()
    };
    while read(&mut lagging).await < 5 {}
    // Its consumer fetches ahead, which nothing tells of: to the end, and that it is the end.
    tokio::time::sleep(Duration::from_millis(300)).await;
    append(&*bus, 0, texts(10..20)).await;
    let _tail = within("the tail", following).await.unwrap();
    while read(&mut lagging).await < 20 {}
    assert_eq!(offsets, (0..20).collect::<Vec<u64>>());
}

/// A read that is dropped half-way leaves its consumer to who waits for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_gave_up_holds_nobody_up() {
    let Some(brokers) = service("KAFKA") else { return };
    for _ in 0..10 {
        let bus = open(KafkaBusConfig { catch_ups_max: 1, ..config(&brokers) }).await;
        append(&*bus, 0, 0..10).await;
        let (mut first, mut second) = (bus.reader(0, 0).await.unwrap(), bus.reader(0, 0).await.unwrap());
        let mut reading = first.next(1);
        let is_half_way = within("the first one's consumer", async {
            let mut is_pending = true;
            while is_pending && bus.metrics().catch_up_consumers.get() == 0 {
                is_pending = futures_util::poll!(&mut reading).is_pending();
                tokio::task::yield_now().await;
            }
            is_pending
        })
        .await;
        // A machine that slept between two steps of a read finds its records there.
        if !is_half_way {
            continue;
        }
        let waiting = tokio::spawn(async move { second.next(1).await });
        within("waiting", async {
            while bus.metrics().catch_up_waits.get() == 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop(reading);
        let records = within("the second", waiting).await.unwrap().unwrap();
        assert_eq!(records[0].offset, 0);
        return;
    }
    panic!("no read was ever half-way");
}

/// Kafka's own marks take offsets: the reader goes over them, and only over them.
#[tokio::test(flavor = "multi_thread")]
async fn marks_are_holes_that_the_reader_vouches_for() {
    let Some(brokers) = service("KAFKA") else { return };
    let config = config(&brokers);
    let bus = open(config.clone()).await;
    let (topic, client) = (config.topic.clone(), crate::kafka::client_config(&brokers, &[]).unwrap());
    let transact = move || {
        use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
        let mut client = client.clone();
        let producer: BaseProducer = client.set("transactional.id", &topic).create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        for _ in 0..2 {
            producer.begin_transaction().unwrap();
            for _ in 0..2 {
                producer.send(BaseRecord::<[u8], [u8]>::to(&topic).partition(0).payload(b"x")).unwrap();
            }
            producer.commit_transaction(PATIENCE).unwrap();
        }
    };
    // A commit is answered before the brokers have written its mark.
    let marked = async |next: u64| {
        within("the brokers' last mark", async {
            while bus.bounds(0).await.unwrap().next < next {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    tokio::task::spawn_blocking(transact.clone()).await.unwrap();
    marked(6).await;
    let mut reader = bus.reader(0, 0).await.unwrap();
    let read = async |reader: &mut Box<dyn BusReader>, from: u64, last: u64| {
        let (mut next, mut offsets) = (from, Vec::new());
        while next <= last {
            let records = within("the records", reader.next(1)).await.unwrap();
            reader.check_follows(next, &records).unwrap();
            offsets.extend(records.iter().map(|record| record.offset));
            next = reader.offset();
        }
        offsets
    };
    assert_eq!(read(&mut reader, 0, 4).await, [0, 1, 3, 4]);
    within("the last mark", async {
        while reader.offset() < 6 {
            let waiting = tokio::time::timeout(Duration::from_millis(200), reader.next(1)).await;
            assert!(waiting.is_err(), "there is no more");
        }
    })
    .await;
    assert_eq!(reader.offset(), 6, "behind the last mark");
    append(&*bus, 0, ["after"]).await;
    let records = within("the record after", reader.next(1)).await.unwrap();
    assert_eq!((records[0].offset, reader.check_follows(5, &records)), (6, Ok(())));
    assert_eq!(reader.check_follows(4, &records), Err((4, 6)), "there was a record");
    // At the tail, the record behind a mark tells of it.
    let appending = async {
        tokio::task::spawn_blocking(transact).await.unwrap();
        marked(13).await;
        append(&*bus, 0, ["behind the last mark"]).await;
    };
    let (offsets, ()) = tokio::join!(read(&mut reader, 7, 13), appending);
    assert_eq!(offsets, [7, 8, 10, 11, 13]);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_trims_only_what_is_released() {
    let Some(brokers) = service("KAFKA") else { return };
    let retention = Retention { age: Duration::ZERO, bytes: 1 << 30 };
    let bus = open(KafkaBusConfig { retention, ..config(&brokers) }).await;
    for partition in 0..2 {
        append(&*bus, partition, 0..10).await;
    }
    bus.trim().await.unwrap();
    assert_eq!(bus.bounds(0).await.unwrap(), Bounds { first: 0, next: 10 }, "nothing is released");
    let mut late = bus.reader(0, 0).await.unwrap();
    bus.release(0, 4);
    // An age of nothing is over with the next millisecond of the brokers' clock.
    within("trimming", async {
        while bus.bounds(0).await.unwrap().first < 4 {
            bus.trim().await.unwrap();
        }
    })
    .await;
    assert_eq!(bus.bounds(0).await.unwrap(), Bounds { first: 4, next: 10 });
    assert_eq!(bus.bounds(1).await.unwrap(), Bounds { first: 0, next: 10 });
    assert_eq!(bus.metrics().trimmed_records.get(), 4);
    let trimmed = |error: Option<BusError>| {
        matches!(error, Some(BusError::Trimmed { partition: 0, offset: 0, first: 4 }))
    };
    assert!(trimmed(bus.reader(0, 0).await.err()));
    assert!(trimmed(within("a late reader", late.next(100)).await.err()));
    assert_eq!(read_texts(&*bus, 0, 4).await, ["4", "5", "6", "7", "8", "9"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_keeps_what_is_young_and_what_fits() {
    let Some(brokers) = service("KAFKA") else { return };
    let config = config(&brokers);
    let retention = Retention { age: Duration::from_hours(1), bytes: 1 << 30 };
    let bus = open(KafkaBusConfig { retention, ..config.clone() }).await;
    append(&*bus, 0, (0..100).map(|i| format!("{i:010}"))).await;
    bus.release(0, 90);
    bus.trim().await.unwrap();
    assert_eq!(bus.bounds(0).await.unwrap().first, 0);
    // A third of it is one partition's share.
    let small = KafkaBusConfig { retention: Retention { bytes: 3 * 250, ..retention }, ..config };
    let small = open(small).await;
    assert_eq!(read_texts(&*small, 0, 0).await.len(), 100, "its records' size is known now");
    small.release(0, 90);
    small.trim().await.unwrap();
    assert_eq!(small.bounds(0).await.unwrap(), Bounds { first: 75, next: 100 });
}

/// The next change, and whose partitions it leaves with the member.
async fn next(member: &mut dyn Membership, held: &mut BTreeSet<u16>) -> Assignment {
    let change = within("a change", member.next()).await.unwrap();
    match &change {
        Assignment::Gained(gained) => gained.iter().for_each(|p| assert!(held.insert(*p), "{change:?}")),
        Assignment::Revoked(lost) | Assignment::Lost(lost) => {
            lost.iter().for_each(|p| assert!(held.remove(p), "{change:?}"));
        }
    }
    change
}

/// Takes changes until `held` has `count` partitions, letting go of what is revoked.
async fn until(member: &mut dyn Membership, held: &mut BTreeSet<u16>, count: usize) {
    while held.len() != count {
        if let Assignment::Revoked(revoked) = next(member, held).await {
            member.released(&revoked).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_share_partitions_and_take_over_both_ways() {
    let Some(brokers) = service("KAFKA") else { return };
    let config = config(&brokers);
    let (bus_a, bus_b) = (open(config.clone()).await, open(config).await);
    let (mut held_a, mut held_b) = (BTreeSet::new(), BTreeSet::new());
    let mut a = bus_a.join().await.unwrap();
    until(&mut *a, &mut held_a, 3).await;
    let kept_before = held_a.clone();

    let mut b = bus_b.join().await.unwrap();
    let Assignment::Revoked(revoked) = next(&mut *a, &mut held_a).await else { panic!("not revoked") };
    {
        let mut gained = b.next();
        assert!(poll!(&mut gained).is_pending(), "nobody has it before it is let go of");
        a.released(&revoked).await;
        assert_eq!(within("the other", gained).await.unwrap(), Assignment::Gained(revoked.clone()));
    }
    held_b.extend(revoked);
    assert!(held_a.is_subset(&kept_before) && held_a.is_disjoint(&held_b));
    assert_eq!(held_a.len() + held_b.len(), 3);

    drop(a);
    until(&mut *b, &mut held_b, 3).await;
    let mut a = bus_a.join().await.unwrap();
    held_a.clear();
    let Assignment::Revoked(revoked) = next(&mut *b, &mut held_b).await else { panic!("not revoked") };
    b.released(&revoked).await;
    until(&mut *a, &mut held_a, revoked.len()).await;
    drop(b);
    until(&mut *a, &mut held_a, 3).await;
    assert_eq!(bus_b.metrics().lost_partitions.get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_let_go_in_time_loses_what_was_revoked() {
    let Some(brokers) = service("KAFKA") else { return };
    let config = KafkaBusConfig { revoke_wait_max: Duration::from_millis(200), ..config(&brokers) };
    let (bus_a, bus_b) = (open(config.clone()).await, open(config).await);
    let (mut held_a, mut held_b) = (BTreeSet::new(), BTreeSet::new());
    let mut a = bus_a.join().await.unwrap();
    until(&mut *a, &mut held_a, 3).await;
    let mut b = bus_b.join().await.unwrap();
    let Assignment::Revoked(revoked) = next(&mut *a, &mut held_a).await else { panic!("not revoked") };
    let lost = within("the loss", a.next()).await.unwrap();
    assert_eq!(lost, Assignment::Lost(revoked.clone()));
    until(&mut *b, &mut held_b, revoked.len()).await;
    assert_eq!(bus_a.metrics().lost_partitions.get(), revoked.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_groups_offsets_are_what_is_released() {
    let Some(brokers) = service("KAFKA") else { return };
    let config = config(&brokers);
    let bus = open(config.clone()).await;
    append(&*bus, 0, 0..10).await;
    let mut member = bus.join().await.unwrap();
    until(&mut *member, &mut BTreeSet::new(), 3).await;
    bus.release(0, 7);
    committed(&bus, &config, 7).await;
}

/// Waits until the group's offset of the first partition is `offset`.
async fn committed(bus: &KafkaBus, config: &KafkaBusConfig, offset: i64) {
    let client = crate::kafka::client_config(&config.brokers, &[]).unwrap();
    let mut client = client.clone();
    let asker: BaseConsumer = client.set("group.id", &config.group).create().unwrap();
    let asker = Arc::new(asker);
    let committed = || {
        let (asker, topic) = (asker.clone(), config.topic.clone());
        tokio::task::spawn_blocking(move || {
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic, 0);
            let committed = asker.committed_offsets(list, PATIENCE).unwrap();
            committed.find_partition(&topic, 0).unwrap().offset()
        })
    };
    within("the commit", async {
        // A commit amid a rebalance is refused; the next one says the same.
        while committed().await.unwrap() != Offset::Offset(offset) {
            bus.trim().await.unwrap();
        }
    })
    .await;
}
