//! The feed out of Kafka, on a real one: each format, dead letters, gaps, and restarts.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use apache_avro::writer::datum::GenericDatumWriter;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::Offset;
use rdkafka::util::Timeout;

use super::*;
use crate::testing::{service, tls_service};

/// A guard against hanging, not a pause.
const PATIENCE: Duration = Duration::from_mins(2);

async fn within<T>(what: &str, waited: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{what} hangs"))
}

/// A topic that no other test has, and the feed's file beside it.
struct Place {
    dir: tempfile::TempDir,
    brokers: String,
    topic: String,
    client: ClientConfig,
    producer: FutureProducer,
}

impl Place {
    async fn new(brokers: String, partitions: i32) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let topic = format!("stk-feed-{since}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let client = crate::kafka::client_config(&brokers, &[]).unwrap();
        let admin: AdminClient<_> = client.create().unwrap();
        let wanted = NewTopic::new(&topic, partitions, TopicReplication::Fixed(1));
        admin.create_topics(&[wanted], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
        let producer = client.create().unwrap();
        Self { dir: tempfile::tempdir().unwrap(), brokers, topic, client, producer }
    }

    async fn send(&self, partition: i32, payload: &[u8]) {
        let record = FutureRecord::<[u8], [u8]>::to(&self.topic).partition(partition).payload(payload);
        self.producer.send(record.key(b"a key"), Timeout::Never).await.unwrap();
    }

    fn dead_topic(&self) -> String {
        format!("{}-dead", self.topic)
    }

    /// The feed, with `more` of its file.
    fn feed(&self, more: &str) -> KafkaFeed {
        let path = self.dir.path().join("feed.toml");
        let (brokers, topic, dead) = (&self.brokers, &self.topic, self.dead_topic());
        let text = format!(
            "brokers = \"{brokers}\"\ntopics = [\"{topic}\"]\ngroup = \"{topic}\"\ndead_letter_topic = \"{dead}\"\n{more}"
        );
        std::fs::write(&path, text).unwrap();
        KafkaFeed::open(&path).unwrap()
    }

    fn admin(&self) -> AdminClient<rdkafka::client::DefaultClientContext> {
        self.client.create().unwrap()
    }

    /// The settings of the dead-letter topic that Kafka's own would differ from; `None` without such a topic.
    async fn dead_settings(&self) -> Option<[String; 4]> {
        let dead = self.dead_topic();
        let asked =
            self.admin().describe_configs(&[ResourceSpecifier::Topic(&dead)], &AdminOptions::new()).await;
        let found = asked.unwrap().remove(0).ok()?;
        // Of a topic that is being deleted nothing is said.
        let setting = |name| found.get(name)?.value.clone();
        Some([
            setting("cleanup.policy")?,
            setting("retention.ms")?,
            setting("retention.bytes")?,
            setting("unclean.leader.election.enable")?,
        ])
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn asker(&self, topic: &str) -> BaseConsumer {
        let mut config = self.client.clone();
        config.set("group.id", &self.topic).set("enable.auto.commit", "false");
        let asker: BaseConsumer = config.create().unwrap();
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
        asker.assign(&list).unwrap();
        asker
    }

    /// How far the brokers were told that partition 0 was read.
    fn committed(&self) -> Option<u64> {
        let asker = self.asker(&self.topic);
        match asker.committed(PATIENCE).unwrap().find_partition(&self.topic, 0).unwrap().offset() {
            Offset::Offset(offset) => Some(offset as u64),
            _ => None,
        }
    }

    async fn until_committed(&self, offset: u64) {
        within("the commit", async {
            while self.committed() != Some(offset) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Pulls until there are `count` ticks.
async fn pull(feed: &mut KafkaFeed, count: usize) -> Vec<Tick> {
    let mut ticks = Vec::new();
    while ticks.len() < count {
        assert_eq!(within("the feed", feed.next(&mut ticks)).await.unwrap(), Pulled::Ticks);
    }
    assert_eq!(ticks.len(), count);
    ticks
}

const JSON: &str = r#"
[payload]
format = "json"
[map]
kind = "trade"
symbol = "S"
ts = { field = "t", unit = "ns" }
price = "p"
size = "s"
id = "i"
exchange = { value = "V" }
"#;

fn json(id: u64) -> String {
    format!(r#"{{"S":"AAPL","t":{},"p":190.{id:09},"s":{id},"i":{id}}}"#, 1_000 + id)
}

fn ids(ticks: &[Tick]) -> Vec<u64> {
    let id = |tick: &Tick| match tick {
        Tick::Trade(trade) => trade.id,
        other => panic!("{other:?}"),
    };
    ticks.iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_read_exactly() {
    let Some(brokers) = service("KAFKA") else { return };
    let place = Place::new(brokers, 1).await;
    for id in 1..=3 {
        place.send(0, json(id).as_bytes()).await;
    }
    let ticks = pull(&mut place.feed(JSON), 3).await;
    assert_eq!(ids(&ticks), [1, 2, 3]);
    let Tick::Trade(trade) = &ticks[2] else { panic!() };
    assert_eq!((trade.price.nanos(), trade.ts.nanos(), trade.size), (190_000_000_003, 1_003, 3));
    assert_eq!(trade.exchange.code(), b'V');
}

#[tokio::test(flavor = "multi_thread")]
async fn avro_is_read_plain_and_framed() {
    const SCHEMA: &str = r#"{"type":"record","name":"Close","fields":[
        {"name":"symbol","type":"string"},
        {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
        {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":18,"scale":4}}]}"#;
    const MAP: &str = r#"
[map]
kind = "prev_close"
symbol = "symbol"
ts = "at"
price = "price"
"#;
    let Some(brokers) = service("KAFKA") else { return };
    let schema = apache_avro::Schema::parse_str(SCHEMA).unwrap();
    let mut record = apache_avro::types::Record::new(&schema).unwrap();
    record.put("symbol", "MSFT");
    record.put("at", apache_avro::types::Value::TimestampMillis(5));
    let unscaled = 4_150_001_i64.to_be_bytes();
    record.put("price", apache_avro::types::Value::Decimal(unscaled.as_slice().into()));
    let datum = GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(record).unwrap();
    let framed = [&[0, 0, 0, 0, 7][..], &datum].concat();
    for (payload, settings) in [
        (&datum, "[payload]\nformat = \"avro\"\nschema = \"close.avsc\"\n"),
        (
            &framed,
            "[payload]\nformat = \"avro\"\nframing = \"confluent\"\nschemas = { 7 = \"close.avsc\" }\n",
        ),
    ] {
        let place = Place::new(brokers.clone(), 1).await;
        place.write("close.avsc", SCHEMA);
        place.send(0, payload).await;
        let ticks = pull(&mut place.feed(&format!("{settings}{MAP}")), 1).await;
        let Tick::PrevClose(close) = &ticks[0] else { panic!("{ticks:?}") };
        assert_eq!((close.symbol.as_str(), close.ts.nanos()), ("MSFT", 5_000_000));
        assert_eq!(close.price.to_string(), "415.0001");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_is_compiled_and_read() {
    const SETTINGS: &str = r#"
[payload]
format = "protobuf"
proto = "quotes.proto"
message = "their.Quote"
[map]
kind = "quote"
symbol = "sym"
ts = { field = "ns", unit = "ns" }
bid = { field = "bid_e4", scale = 4 }
ask = { field = "ask_e4", scale = 4 }
bid_size = "bid_size"
"#;
    let Some(brokers) = service("KAFKA") else { return };
    let place = Place::new(brokers, 1).await;
    place.write(
        "quotes.proto",
        "syntax = \"proto3\"; package their; message Quote { string sym = 1; int64 ns = 2; int64 bid_e4 = 3; \
         int64 ask_e4 = 4; uint32 bid_size = 5; }",
    );
    // sym = "SPY", ns = 300, bid_e4 = 12345, ask_e4 absent, bid_size = 2.
    place.send(0, b"\x0a\x03SPY\x10\xac\x02\x18\xb9\x60\x28\x02").await;
    let ticks = pull(&mut place.feed(SETTINGS), 1).await;
    let Tick::Quote(quote) = &ticks[0] else { panic!("{ticks:?}") };
    assert_eq!((quote.symbol.as_str(), quote.ts.nanos(), quote.bid_size), ("SPY", 300, 2));
    assert_eq!((quote.bid.to_string(), quote.ask.is_zero()), ("1.2345".to_owned(), true));
}

/// What makes no tick goes to the dead-letter topic, with where it came from and why; only then is
/// its offset committed.
#[tokio::test(flavor = "multi_thread")]
async fn poison_is_buried_with_its_reason() {
    let Some(brokers) = service("KAFKA") else { return };
    let place = Place::new(brokers, 1).await;
    place.send(0, json(1).as_bytes()).await;
    place.send(0, b"{\"S\":").await;
    place.send(0, json(2).replace("AAPL", "a b").as_bytes()).await;
    // A trade of the year 2191.
    place.send(0, json(2).replace("1002", "7000000000000000000").as_bytes()).await;
    place.send(0, json(3).as_bytes()).await;
    let mut feed = place.feed(JSON).with_horizon(Horizon::ahead_of_clock(Duration::from_mins(1)));
    assert_eq!(ids(&pull(&mut feed, 2).await), [1, 3]);
    assert_eq!((feed.metrics().dead_letters.get(), feed.metrics().ahead.get()), (3, 1));
    let (calls, mut ticks) = (feed.calls, Vec::new());
    feed.acknowledge(calls);
    // It goes on by itself: the letters are on their way while nothing is pulled.
    let asker = place.asker(&place.dead_topic());
    let letters = tokio::task::spawn_blocking(move || {
        let letter = |_| {
            let message = loop {
                if let Some(Ok(message)) = asker.poll(PATIENCE) {
                    break message;
                }
            };
            let headers = message.headers().unwrap();
            let header = |name: &str| {
                let found = headers.iter().find(|header| header.key == name);
                String::from_utf8(found.unwrap().value.unwrap().to_vec()).unwrap()
            };
            assert_eq!(message.key(), Some(&b"a key"[..]));
            (
                message.payload().unwrap().to_vec(),
                header("stk.topic"),
                header("stk.offset"),
                header("stk.reason"),
            )
        };
        let mut letters: Vec<_> = (0..3).map(letter).collect();
        letters.sort_by(|a, b| a.2.cmp(&b.2));
        letters
    });
    let letters = within("the dead letters", letters).await.unwrap();
    assert_eq!((&letters[0].0[..], &*letters[0].1, &*letters[0].2), (&b"{\"S\":"[..], &*place.topic, "1"));
    assert!(letters[0].3.contains("EOF while parsing"), "{}", letters[0].3);
    assert_eq!(letters[1].2, "2");
    assert!(letters[1].3.contains("a b"), "{}", letters[1].3);
    assert_eq!(letters[2].2, "3");
    assert!(letters[2].3.contains("at most 60 s are allowed (server.ahead_ms_max)"), "{}", letters[2].3);
    within("the commit", async {
        while place.committed() != Some(5) {
            // It learns of the deliveries when it is asked for more.
            let _ = tokio::time::timeout(Duration::from_millis(10), feed.next(&mut ticks)).await;
        }
    })
    .await;
    assert_eq!(ticks, []);
    let settings = place.dead_settings().await.unwrap();
    assert_eq!(settings, ["delete", "-1", "-1", "false"], "Kafka drops no dead letter by itself");
}

/// The brokers of the tests let clients make topics, as Kafka does by default. The feed makes its dead-letter
/// topic by itself, and never has the brokers make one with settings of their own.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_topic_that_was_deleted_is_not_made_by_a_broker() {
    let Some(brokers) = service("KAFKA") else { return };
    let place = Place::new(brokers, 1).await;
    place.send(0, json(1).as_bytes()).await;
    // A topic that is missing is told after this time: 30 s by default.
    let quick = format!("properties = {{ 'topic.metadata.propagation.max.ms' = '1000' }}\n{JSON}");
    let mut feed = place.feed(&quick);
    assert_eq!(ids(&pull(&mut feed, 1).await), [1]);
    let dead = place.dead_topic();
    place.admin().delete_topics(&[&dead], &AdminOptions::new()).await.unwrap().remove(0).unwrap();
    within("the deletion", async { while place.dead_settings().await.is_some() {} }).await;
    place.send(0, b"poison").await;
    place.send(0, json(2).as_bytes()).await;
    let mut ticks = Vec::new();
    let error = within("the error", async {
        loop {
            if let Err(error) = feed.next(&mut ticks).await {
                break error.to_string();
            }
        }
    })
    .await;
    assert!(error.contains(&format!("topic {dead}: ")) && error.contains("Unknown"), "{error}");
    assert_eq!(place.dead_settings().await, None, "nobody made it again");
    // The feed is started again, as a server does, and makes it as at first.
    drop(feed);
    let mut feed = place.feed(&quick);
    while feed.metrics().dead_letters.get() == 0 {
        within("the feed", feed.next(&mut ticks)).await.unwrap();
    }
    let asker = place.asker(&dead);
    let letter = tokio::task::spawn_blocking(move || {
        asker.poll(PATIENCE).unwrap().unwrap().payload().unwrap().to_vec()
    });
    assert_eq!(within("the dead letter", letter).await.unwrap(), b"poison");
    assert_eq!(place.dead_settings().await.unwrap(), ["delete", "-1", "-1", "false"]);
}

/// Numbers that never came are told as a gap, those that came before are dropped.
#[tokio::test(flavor = "multi_thread")]
async fn sequence_numbers_are_followed_by_symbol() {
    let Some(brokers) = service("KAFKA") else { return };
    let place = Place::new(brokers, 1).await;
    let message = |symbol: &str, sequence: u64| {
        let rest = format!("\"n\":{sequence},{}", &json(sequence)[1..]);
        format!("{{{rest}").replace("AAPL", symbol)
    };
    for (symbol, sequence) in [("A", 1), ("B", 7), ("A", 2), ("A", 2), ("B", 8), ("A", 3)] {
        place.send(0, message(symbol, sequence).as_bytes()).await;
    }
    let mut feed = place.feed(&format!("{JSON}[sequence]\nfield = \"n\"\nper = \"symbol\"\n"));
    assert_eq!(ids(&pull(&mut feed, 5).await), [1, 7, 2, 8, 3]);
    assert_eq!(feed.metrics().duplicates.get(), 1);
    // A hole is told once it was not filled for a second, by the clock of this machine.
    place.send(0, message("A", 6).as_bytes()).await;
    assert_eq!(ids(&pull(&mut feed, 1).await), [6]);
    let mut sequence = 7;
    let gap = within("the gap", async {
        loop {
            place.send(0, message("A", sequence).as_bytes()).await;
            sequence += 1;
            let mut ticks = Vec::new();
            feed.next(&mut ticks).await.unwrap();
            if let Some(Tick::Gap(gap)) = ticks.first() {
                return gap.clone();
            }
        }
    })
    .await;
    assert_eq!((gap.kind, gap.first, gap.last), (GapKind::Missed, 4, 5));
    assert_eq!((gap.symbol.unwrap().as_str(), &*gap.source), ("A", &*format!("kafka/{}/0", place.topic)));
    assert_eq!(feed.metrics().missed.get(), 2);
}

/// A restart changes nothing about what is a repeat and what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn sequence_numbers_are_followed_across_a_restart() {
    let Some(brokers) = service("KAFKA") else { return };
    let place = Place::new(brokers, 2).await;
    let message = |number: u64| format!("{{\"n\":{number},{}", &json(number)[1..]);
    // Partition 1 is never read further than it was.
    for (partition, number) in [(0, 1), (0, 2), (0, 3), (1, 7)] {
        place.send(partition, message(number).as_bytes()).await;
    }
    let numbered = format!("{JSON}[sequence]\nfield = \"n\"\n");
    let mut feed = place.feed(&numbered);
    pull(&mut feed, 4).await;
    let calls = feed.calls;
    feed.acknowledge(calls);
    drop(feed);
    place.until_committed(3).await;

    for number in [3, 2, 4, 8] {
        place.send(0, message(number).as_bytes()).await;
    }
    let mut feed = place.feed(&numbered);
    assert_eq!(ids(&pull(&mut feed, 2).await), [4, 8]);
    assert_eq!((feed.metrics().duplicates.get(), feed.metrics().dead_letters.get()), (2, 0));
    let gap = within("the gap", async {
        for number in 9.. {
            place.send(0, message(number).as_bytes()).await;
            let mut ticks = Vec::new();
            feed.next(&mut ticks).await.unwrap();
            if let Some(Tick::Gap(gap)) = ticks.first() {
                return gap.clone();
            }
        }
        unreachable!("numbers end")
    })
    .await;
    assert_eq!((gap.kind, gap.first, gap.last), (GapKind::Missed, 5, 7));
}

/// What the topic dropped before it was read is told.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_topic_dropped_is_a_gap() {
    let Some(brokers) = service("KAFKA") else { return };
    let place = Place::new(brokers, 1).await;
    for id in 1..=2 {
        place.send(0, json(id).as_bytes()).await;
    }
    let mut feed = place.feed(JSON);
    pull(&mut feed, 2).await;
    let calls = feed.calls;
    feed.acknowledge(calls);
    drop(feed);
    place.until_committed(2).await;
    for id in 3..=6 {
        place.send(0, json(id).as_bytes()).await;
    }
    let admin: AdminClient<_> = place.client.create().unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset(&place.topic, 0, Offset::Offset(5)).unwrap();
    admin.delete_records(&list, &AdminOptions::new()).await.unwrap();
    let mut feed = place.feed(JSON);
    let ticks = pull(&mut feed, 2).await;
    let Tick::Gap(gap) = &ticks[0] else { panic!("{ticks:?}") };
    assert_eq!((gap.kind, gap.first, gap.last), (GapKind::Missed, 2, 4));
    assert_eq!(ids(&ticks[1..]), [6]);
    assert_eq!(feed.metrics().trimmed.get(), 3);
}

/// Whatever is read, trimmed and made anew, in any order: what is handed out rises for each
/// producer, and every message and gap is in it, under the producer of its time.
#[tokio::test]
async fn nothing_overtakes_a_batch() {
    const KEYS: u16 = 2;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("feed.toml");
    let text = format!(
        "brokers = \"127.0.0.1:1\"\ntopics = [\"t\"]\ngroup = \"g\"\ndead_letter_topic = \"d\"\n{JSON}"
    );
    std::fs::write(&path, text).unwrap();
    let mut feed = KafkaFeed::open(&path).unwrap();
    let keys = (0..KEYS).map(|partition| Key { topic: 0, partition });
    for key in keys.clone() {
        feed.lines.insert(key, Line::new(u64::from(key.partition) << 40, 100, None, None));
    }
    let mut producers: Vec<Vec<u64>> = keys.map(|key| vec![feed.lines[&key].origin(0).producer]).collect();
    let (mut taken, mut gaps, mut random) = (Vec::new(), 0, 7_u64);
    let mut expected: Vec<(u64, u64)> = Vec::new();
    for id in 1..=3_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (what, key) = ((random >> 33) % 16, Key { topic: 0, partition: (random >> 60) as u16 % KEYS });
        let at = feed.held.as_ref().filter(|held| held.partition() == i32::from(key.partition));
        let at = at.map_or(feed.lines[&key].next(), |held| held.offset() as u64 + 1);
        match what {
            0 => feed.catch_up(&Found { key, first: at + 3, next: at + 9, committed: None }),
            1 if at > 0 => {
                feed.catch_up(&Found { key, first: at / 4, next: at / 2, committed: None });
                producers[usize::from(key.partition)].push(feed.lines[&key].origin(0).producer);
            }
            _ => {
                // As `next` does.
                if let Some(held) = feed.held.take() {
                    feed.take(held);
                }
                let at = feed.lines[&key].next();
                let (payload, partition) = (json(id).into_bytes(), i32::from(key.partition));
                let time = MessageTime::NotAvailable;
                let (topic, offset) = ("t".to_owned(), at as i64);
                feed.take(OwnedMessage::new(Some(payload), None, topic, time, partition, offset, None));
                expected.push((*producers[usize::from(key.partition)].last().unwrap(), id));
            }
        }
        gaps += usize::from(what == 0 || (what == 1 && at > 0));
        if what > 12 {
            taken.extend(feed.whole.drain(..));
        }
    }
    if let Some(held) = feed.held.take() {
        feed.take(held);
    }
    feed.finish_batch();
    taken.extend(feed.whole.drain(..));
    let mut heard: HashMap<u64, u64> = HashMap::new();
    let mut found = Vec::new();
    for Batch { origin, ticks, .. } in taken {
        let last = heard.insert(origin.producer, origin.sequence);
        assert!(last.is_none_or(|last| last < origin.sequence), "{origin:?} after {last:?}");
        for tick in ticks {
            match tick {
                Tick::Gap(_) => gaps -= 1,
                tick => found.push((origin.producer, ids(&[tick])[0])),
            }
        }
    }
    assert_eq!(gaps, 0);
    assert_eq!(found, expected);
}

/// A feed that ends at any moment, with anything accepted or not, repeats nothing in the log and
/// leaves nothing out.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_repeat_nothing_and_lose_nothing() {
    within("the restarts", restarts()).await;
}

async fn restarts() {
    const MESSAGES: u64 = 600;
    const A_RUN: u64 = 60;
    let Some(brokers) = service("KAFKA") else { return };
    let place = Place::new(brokers, 2).await;
    // One partition of the log: what a reader of it knows of each producer, and what it took.
    let mut heard: HashMap<u64, u64> = HashMap::new();
    let mut logged: Vec<u64> = Vec::new();
    let (mut repeats, mut sent) = (0, 0);
    for run in 0.. {
        // Some come before the feed begins, so that they are batched.
        for id in sent + 1..=(sent + A_RUN).min(MESSAGES) {
            place.send((id % 2) as i32, json(id).as_bytes()).await;
            sent = id;
        }
        let mut feed = place.feed(JSON);
        let calls_max = if sent < MESSAGES { 2 + 25 * run } else { u64::MAX };
        for call in 1..=calls_max {
            let mut ticks = Vec::new();
            // A call that is dropped loses nothing.
            while tokio::time::timeout(Duration::from_millis(5), feed.next(&mut ticks)).await.is_err() {}
            let origin = feed.origin().unwrap();
            // The last one never reached the log.
            if call == calls_max {
                break;
            }
            let last = heard.entry(origin.producer).or_insert(0);
            if origin.sequence > *last {
                *last = origin.sequence;
                logged.extend(ids(&ticks));
            } else {
                repeats += ticks.len();
            }
            // The log has accepted some of it, and the feed was told or not.
            if call % 3 == run % 3 {
                feed.acknowledge(call / 2);
            }
            if logged.len() >= MESSAGES as usize {
                break;
            }
        }
        if logged.len() >= MESSAGES as usize {
            break;
        }
    }
    assert_eq!(logged.len(), MESSAGES as usize, "nothing twice");
    assert_eq!(logged.iter().copied().collect::<HashSet<_>>(), (1..=MESSAGES).collect());
    assert!(repeats > 0, "something was sent again");
    assert_eq!(heard.len(), 2, "a producer for each partition, whoever runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_named() {
    let Some(brokers) = service("KAFKA") else { return };
    let place = Place::new(brokers, 1).await;
    let mut other = place.feed(JSON);
    other.config.file.topics = vec!["no-such-topic".to_owned()];
    let error = within("the refusal", other.next(&mut Vec::new())).await.unwrap_err().to_string();
    assert!(error.ends_with("feed.toml: there is no topic no-such-topic"), "{error}");
}

/// The same topic by another listener.
fn by(mut place: Place, listener: String, properties: &str) -> KafkaFeed {
    place.brokers = listener;
    place.feed(&format!("properties = {{ {properties} }}\n{JSON}"))
}

fn login(protocol: &str, mechanism: &str, password: &str) -> String {
    format!(
        "'security.protocol' = '{protocol}', 'sasl.mechanisms' = '{mechanism}', 'sasl.username' = 'stk', \
         'sasl.password' = '{password}'"
    )
}

/// Reads a message, and buries another.
async fn is_read_by(listener: String, properties: &str) {
    let place = Place::new(service("KAFKA").unwrap(), 1).await;
    place.send(0, json(1).as_bytes()).await;
    place.send(0, b"poison").await;
    place.send(0, json(2).as_bytes()).await;
    let mut feed = by(place, listener, properties);
    assert_eq!(ids(&pull(&mut feed, 2).await), [1, 2]);
    assert_eq!(feed.metrics().dead_letters.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_read_with_a_password() {
    let Some(sasl) = service("KAFKA_SASL") else { return };
    is_read_by(sasl, &login("SASL_PLAINTEXT", "PLAIN", "stk-secret")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_read_over_tls() {
    let Some(sasl_tls) = tls_service("KAFKA_SASL_TLS") else { return };
    let certificates = service("KAFKA_CERTS").unwrap();
    let login = login("SASL_SSL", "SCRAM-SHA-256", "stk-secret");
    is_read_by(sasl_tls, &format!("{login}, 'ssl.ca.location' = '{certificates}/ca.pem'")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_ends_the_feed() {
    let Some(sasl) = service("KAFKA_SASL") else { return };
    let place = Place::new(service("KAFKA").unwrap(), 1).await;
    let mut feed = by(place, sasl, &login("SASL_PLAINTEXT", "PLAIN", "not-the-secret"));
    let error = within("the refusal", feed.next(&mut Vec::new())).await.unwrap_err().to_string();
    assert!(error.contains("feed.toml: ") && error.contains("Invalid username or password"), "{error}");
    assert!(error.contains("check `sasl.mechanisms`") && !error.contains("not-the-secret"), "{error}");
}
