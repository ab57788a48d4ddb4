//! Brokers that are killed or hang while clients are at work.

use std::path::Path;
use std::process::Command;

use super::*;

/// A broker of its own, for a test that kills it.
struct Broker {
    _dir: tempfile::TempDir,
    run: String,
    address: String,
}

impl Broker {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run").to_str().unwrap().to_owned();
        let printed = services(&["up", "--run", &run, "kafka"]);
        let address = printed
            .lines()
            .find_map(|line| {
                line.split_once("STK_TEST_KAFKA=").map(|(_, address)| address.trim_matches(['"', '\'']))
            })
            .unwrap_or_else(|| panic!("no Kafka in {printed}"))
            .to_owned();
        Self { _dir: dir, run, address }
    }

    fn told(&self, verb: &str) {
        services(&[verb, "kafka", &self.run]);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        services(&["down", &self.run]);
    }
}

fn services(arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
    let output = Command::new(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn told(broker: Broker, verb: &'static str) -> Broker {
    let tell = move || {
        broker.told(verb);
        broker
    };
    tokio::task::spawn_blocking(tell).await.unwrap()
}

/// The broker is killed while appends are under way, and comes back: nothing that was accepted is
/// lost, nothing is doubled, the order holds, and readers go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_is_killed_loses_nothing() {
    if service("KAFKA").is_none() {
        return;
    }
    let broker = tokio::task::spawn_blocking(Broker::start).await.unwrap();
    let bus = open(config(&broker.address)).await;
    let mut tail = bus.reader(0, 0).await.unwrap();
    let stop = CancellationToken::new();
    let (accepted, mut accepts) = tokio::sync::watch::channel(0);
    let appender = {
        let (bus, stop) = (bus.clone(), stop.clone());
        tokio::spawn(async move {
            let mut pending = std::collections::VecDeque::new();
            let mut count = 0_u64;
            while !stop.is_cancelled() || !pending.is_empty() {
                // As a feed does: so many in flight, then it waits for the oldest.
                while pending.len() < 64 && !stop.is_cancelled() {
                    let all =
                        (0..PARTITIONS).map(|partition| (partition, Bytes::from(format!("{count:0200}"))));
                    pending.push_back(bus.append(all.collect()).await.unwrap());
                    count += 1;
                }
                if let Some(durable) = pending.pop_front() {
                    durable.await.unwrap();
                    accepted.send_modify(|accepted| *accepted += 1);
                }
            }
            count
        })
    };
    let mut outages = bus.outages();
    let mut broker = broker;
    for round in 1..3 {
        let enough = |accepted: &u64| *accepted > round * 300;
        within("appending", accepts.wait_for(enough)).await.unwrap();
        // It leaves a consumer that is polled again only when the broker is back.
        within("reading", bus.reader(1, 0).await.unwrap().next(1 << 10)).await.unwrap();
        broker = told(broker, "kill").await;
        within("noticing", outages.wait_for(Option::is_some)).await.unwrap();
        assert!(bus.ready().unwrap_err().contains("can't be reached"));
        broker = told(broker, "start").await;
        within("recovering", outages.wait_for(Option::is_none)).await.unwrap();
        let until = *accepts.borrow() + 100;
        within("going on", accepts.wait_for(|accepted| *accepted > until)).await.unwrap();
        outages.mark_unchanged();
        within("reading", bus.reader(1, 0).await.unwrap().next(1 << 10)).await.unwrap();
        assert!(!outages.has_changed().unwrap(), "of what is over nothing is told");
        bus.ready().unwrap();
    }
    within("appending", accepts.wait_for(|accepted| *accepted > 1_500)).await.unwrap();
    stop.cancel();
    let count = within("the last appends", appender).await.unwrap();
    let expected: Vec<String> = (0..count).map(|i| format!("{i:0200}")).collect();
    for partition in 0..PARTITIONS {
        let texts = within("reading back", read_texts(&*bus, partition, 0)).await;
        assert!(texts == expected, "partition {partition}: {} of {count}", texts.len());
    }
    let mut followed = Vec::new();
    while followed.len() < expected.len() {
        let records = within("the tail", tail.next(1 << 16)).await.unwrap();
        followed.extend(records.into_iter().map(|record| String::from_utf8(record.bytes.to_vec()).unwrap()));
    }
    assert!(followed == expected);
    drop((tail, bus));
    tokio::task::spawn_blocking(move || drop(broker)).await.unwrap();
}

/// The only broker hangs for longer than the cluster waits for it: it answers then that there is none, and
/// librdkafka forgets it. Every client comes back to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_hangs_is_come_back_to() {
    if service("KAFKA").is_none() {
        return;
    }
    let mut broker = tokio::task::spawn_blocking(Broker::start).await.unwrap();
    let mut config = config(&broker.address);
    // So that each client asks while the answer is that.
    config.properties.push(("topic.metadata.refresh.interval.ms".to_owned(), "100".to_owned()));
    let bus = open(config.clone()).await;
    let mut membership = bus.join().await.unwrap();
    until(&mut *membership, &mut BTreeSet::new(), usize::from(PARTITIONS)).await;
    // As whoever processes does.
    let processing = tokio::spawn(async move {
        loop {
            if let Assignment::Revoked(revoked) = membership.next().await.unwrap() {
                membership.released(&revoked).await;
            }
        }
    });
    let mut tail = bus.reader(0, 0).await.unwrap();
    let mut expected = Vec::new();
    for round in 0_u64..2 {
        let texts: Vec<String> = (0..100).map(|number| format!("{round} {number}")).collect();
        append(&*bus, 0, &texts[..50]).await;
        expected.extend(texts.iter().cloned());
        let mut followed = Vec::new();
        while followed.len() < 50 {
            followed.extend(within("the tail", tail.next(1 << 16)).await.unwrap());
        }
        // One that is on its way back to the beginning.
        let mut behind = bus.reader(0, 0).await.unwrap();
        within("catching up", behind.next(1)).await.unwrap();

        broker = told(broker, "pause").await;
        let appended = bus.append(vec![(1, Bytes::from("meanwhile"))]).await.unwrap();
        // More than what a broker may be silent before it is out of the cluster.
        tokio::time::sleep(Duration::from_secs(11)).await;
        broker = told(broker, "resume").await;

        within("the append", appended).await.unwrap();
        within("appending", append(&*bus, 0, &texts[50..])).await;
        while followed.len() < 100 {
            followed.extend(within("the tail again", tail.next(1 << 16)).await.unwrap());
        }
        let followed: Vec<_> =
            followed.iter().map(|record| String::from_utf8(record.bytes.to_vec()).unwrap()).collect();
        assert_eq!(followed, texts);
        while behind.offset() < expected.len() as u64 {
            within("catching up again", behind.next(1 << 16)).await.unwrap();
        }
        assert_eq!(within("reading back", read_texts(&*bus, 0, 0)).await, expected);
        assert_eq!(within("asking", bus.bounds(1)).await.unwrap().next, round + 1);
        // Its partitions were nobody's meanwhile.
        bus.release(0, 10 * (round + 1));
        committed(&bus, &config, 10 * (round as i64 + 1)).await;
        // Of its reasons not to be ready only one has an event.
        within("being well", async {
            while bus.ready().is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
    processing.abort();
    drop((tail, bus));
    tokio::task::spawn_blocking(move || drop(broker)).await.unwrap();
}

/// An older copy of the broker's data is put back while nobody reads or writes: whoever has the log open says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_topic_that_is_put_back_older_ends_the_log_for_whoever_has_it_open() {
    if service("KAFKA").is_none() {
        return;
    }
    let broker = tokio::task::spawn_blocking(Broker::start).await.unwrap();
    let config = KafkaBusConfig { identity_interval: Duration::from_millis(100), ..config(&broker.address) };
    let bus = open(config).await;
    append(&*bus, 1, 0..3).await;
    // Of a partition without records: it learns nothing by itself.
    let mut idle = bus.reader(0, 0).await.unwrap();
    let broker = told(broker, "kill").await;
    let (data, copy) = (Path::new(&broker.run).join("kafka/data"), Path::new(&broker.run).join("copy"));
    assert!(Command::new("cp").arg("-a").args([&data, &copy]).status().unwrap().success());
    let broker = told(broker, "start").await;
    within("appending", append(&*bus, 1, 3..5)).await;
    let broker = told(broker, "kill").await;
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&copy, &data).unwrap();
    let broker = told(broker, "start").await;
    let reason = within("the log's end", async {
        loop {
            if let Err(error) = idle.next(1 << 16).await {
                return error.to_string();
            }
        }
    });
    let reason = reason.await;
    assert!(reason.contains("put back from an older copy"), "{reason}");
    assert_eq!(bus.ready().unwrap_err(), reason);
    let refused = bus.append(vec![(1, Bytes::from_static(b"late"))]).await.err().unwrap().to_string();
    assert_eq!(refused, reason);
    drop((idle, bus));
    tokio::task::spawn_blocking(move || drop(broker)).await.unwrap();
}
