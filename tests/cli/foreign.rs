//! Somebody else's topic of JSON, through the feed from Kafka, to history: each message once, whatever
//! becomes of the process that reads it.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;

use super::scaled::{Scaled, digests, until, ureq};
use super::support::{Home, Server, metric, service};

/// Trades of each half; half of them of the one partition, half of the other.
const TRADES: u64 = 200;

/// What they call what.
const MAP: &str = r#"
[payload]
format = "json"

[map]
kind = { field = "what", values = { sale = "trade" }, other = "skip" }
symbol = "instrument.ticker"
ts = { field = "at", unit = "ms" }
price = "px"
size = "lots"
exchange = { value = "V" }
id = "number"
"#;

/// A topic that is not ours.
struct Foreign {
    topic: String,
    producer: FutureProducer,
}

impl Foreign {
    async fn new(brokers: &str) -> Self {
        let nanos = stk::market::Timestamp::now().nanos();
        let topic = format!("theirs-{}-{nanos}", std::process::id());
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", brokers);
        let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
        let wanted = NewTopic::new(&topic, 2, TopicReplication::Fixed(1));
        let made = admin.create_topics(&[wanted], &AdminOptions::new()).await.expect("an answer");
        assert!(made.iter().all(Result::is_ok), "{made:?}");
        Self { topic, producer: client.create().expect("a producer") }
    }

    async fn send(&self, partition: i32, payload: &str) {
        let record = FutureRecord::<str, str>::to(&self.topic).partition(partition).payload(payload);
        self.producer.send(record, Timeout::Never).await.expect("sent");
    }

    async fn sell(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let (ticker, at) = (["AAPL", "MSFT"][number as usize % 2], 1_741_357_800_000 + number);
            let sale = format!(
                r#"{{"what":"sale","instrument":{{"ticker":"{ticker}"}},"at":{at},"px":{}.{:02},"lots":{},"number":{number}}}"#,
                190 + number / 100,
                number % 100,
                number + 1,
            );
            self.send((number % 2) as i32, &sale).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_of_others_stands_in_history_once_though_its_reader_is_killed() {
    let Some(scaled) = Scaled::new(2) else { return };
    let brokers = service("KAFKA").expect("it is there");
    let (home, theirs) = (Home::new(), Foreign::new(&brokers).await);
    let topic = &theirs.topic;
    let head = format!(
        "brokers = \"{brokers}\"\ntopics = [\"{topic}\"]\ngroup = \"{topic}\"\ndead_letter_topic = \"{topic}-dead\"\n"
    );
    std::fs::write(home.path("theirs.toml"), head + MAP).expect("written");
    let feed = || {
        let source = format!("kafka:{}", home.path("theirs.toml").display());
        let args = ["serve", "--roles", "feed", "--feed", &source, "--listen", "127.0.0.1:0"];
        let args = [&args[..], &["--ingest-listen", "127.0.0.1:0"]].concat();
        Server::run(scaled.stk(&home, &args), true)
    };

    theirs.sell(0..TRADES).await;
    let killed = feed();
    until("the first of them", async || metric(&killed.address, "intake_ticks_total") > 0.0).await;
    killed.kill();
    // What its end left in doubt is read again, beside what came since.
    theirs.sell(TRADES..2 * TRADES).await;
    theirs.send(0, "no JSON").await;
    theirs.send(1, r#"{"what":"weather"}"#).await;
    let feed = feed();
    let processor = scaled.serve(&home, "processor");
    let gateway = scaled.serve(&home, "gateway");
    until("the last of them", async || {
        let (digests, _) = digests(&scaled.config()).await;
        assert!(digests["trade"].rows <= 2 * TRADES, "{digests:?}");
        digests["trade"].rows == 2 * TRADES
    })
    .await;
    let dead = format!("stk_feed_kafka_dead_letters_total{{group=\"{topic}\"}} 1");
    until("a dead letter", async || ureq(&feed.address, "/metrics").lines().any(|line| line == dead)).await;
    let shown = home.run(&["history", "AAPL", "MSFT", "--format", "csv", "--server", &gateway.address]);
    assert!(shown.starts_with("exit: 0\n") && shown.contains("nothing is missing"), "{shown}");
    let mut sold = BTreeMap::new();
    let rows = shown.split("--- stdout\n").nth(1).and_then(|rest| rest.split("--- stderr\n").next());
    for row in rows.expect("there is stdout").lines().skip(1) {
        let fields: Vec<_> = row.split(',').collect();
        let (price, size, number) = (fields[2].to_owned(), fields[3].to_owned(), fields[6]);
        let before = sold.insert(number.parse::<u64>().expect("an id"), (price, size));
        assert_eq!(before, None, "{number} twice");
    }
    assert_eq!(sold.len() as u64, 2 * TRADES);
    assert_eq!(sold[&123], ("191.23".to_owned(), "124".to_owned()));
    for server in [feed, processor, gateway] {
        let (code, said) = server.stop();
        assert_eq!(code, Some(0), "{said:#?}");
    }
}
