//! The ingest endpoint, through its client and against it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use stk::bus::epoch::LogEpoch;
use stk::bus::{Bounds, Bus, BusError, BusReader, Durable};
use stk::client::ingest::IngestClient;
use stk::server::gateway::MemoryBus;
use stk::server::ingest;
use stk::server::intake::{Intake, IntakeMetrics};
use stk::server::metrics::GatewayMetrics;
use stk::wire::protobuf::v1;
use stk::wire::record::RecordView;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::support::trade;

struct Endpoint {
    address: SocketAddr,
    bus: Arc<MemoryBus>,
    metrics: GatewayMetrics,
    stop: tokio_util::sync::CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

/// A log whose disk is full for one append.
struct FullOnce {
    inner: Arc<MemoryBus>,
    /// Appends left before that.
    left: AtomicU64,
}

#[async_trait::async_trait]
impl Bus for FullOnce {
    fn partitions(&self) -> u16 {
        self.inner.partitions()
    }

    fn epoch(&self) -> &LogEpoch {
        self.inner.epoch()
    }

    async fn append(&self, records: Vec<(u16, Bytes)>) -> Result<Durable, BusError> {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            return Err(BusError::Full { path: "log".to_owned(), free_bytes: 1, needed_bytes: 2 });
        }
        self.inner.append(records).await
    }

    async fn bounds(&self, partition: u16) -> Result<Bounds, BusError> {
        self.inner.bounds(partition).await
    }

    async fn reader(&self, partition: u16, from: u64) -> Result<Box<dyn BusReader>, BusError> {
        self.inner.reader(partition, from).await
    }

    fn release(&self, partition: u16, offset: u64) {
        self.inner.release(partition, offset);
    }
}

async fn endpoint() -> Endpoint {
    endpoint_full_at(u64::MAX).await
}

/// An endpoint whose log refuses append number `full_at`, from 0.
async fn endpoint_full_at(full_at: u64) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bus = Arc::new(MemoryBus::new(2, 10_000));
    let metrics = GatewayMetrics::default();
    let full_once = FullOnce { inner: bus.clone(), left: AtomicU64::new(full_at) };
    let intake = Intake::new(Arc::new(full_once), IntakeMetrics::default());
    let stop = tokio_util::sync::CancellationToken::new();
    let served =
        tokio::spawn(ingest::serve(listener, intake, metrics.clone(), stop.clone().cancelled_owned()));
    Endpoint { address, bus, metrics, stop, served }
}

/// Ids of the trades in the log, with the batch each came in.
async fn logged(bus: &MemoryBus) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for partition in 0..2 {
        let mut reader = bus.reader(partition, 0).await.unwrap();
        while reader.offset() < bus.bounds(partition).await.unwrap().next {
            for record in reader.next(1 << 20).await.unwrap() {
                let view = RecordView::parse(&record.bytes).unwrap();
                for row in view.ticks() {
                    if let stk::market::Tick::Trade(trade) = row.unwrap().1 {
                        found.push((view.origin.sequence, trade.id));
                    }
                }
            }
        }
    }
    found.sort_unstable();
    found
}

#[tokio::test]
async fn batches_are_acknowledged_in_order_and_stand_in_the_log() {
    let endpoint = endpoint().await;
    let address = endpoint.address.to_string().parse().unwrap();
    let mut client = IngestClient::connect(address, 77, 0, 3).await.unwrap();
    for batch in 0..100_u64 {
        let ticks: Vec<_> =
            (0..5).map(|at| trade(["AAPL", "MSFT"][at as usize % 2], batch * 5 + at)).collect();
        client.send(&ticks).await.unwrap();
    }
    client.flush().await.unwrap();
    assert_eq!((client.acknowledged_ticks(), client.acknowledged_sequence()), (500, 100));
    let logged = logged(&endpoint.bus).await;
    let expected: Vec<_> = (0..500).map(|id| (id / 5, id)).collect();
    assert_eq!(logged, expected);
    assert_eq!(endpoint.metrics.ingest_batches.get(), 100);
    endpoint.stop.cancel();
    endpoint.served.await.unwrap();
}

struct Raw(WebSocketStream<TcpStream>);

impl Raw {
    async fn open(address: SocketAddr, path: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).await.unwrap();
        tokio_tungstenite::client_async(format!("ws://{address}{path}"), stream)
            .await
            .ok()
            .map(|open| Self(open.0))
    }

    async fn ask(&mut self, message: Message) -> v1::IngestAck {
        self.0.send(message).await.unwrap();
        self.answer().await.unwrap()
    }

    /// The next acknowledgement; `None` once the server closes.
    async fn answer(&mut self) -> Option<v1::IngestAck> {
        match self.0.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => Some(v1::IngestAck::decode(bytes).unwrap()),
            Message::Close(_) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Sends `messages` at once; every answer, by batch and what is wrong with it, until there are
    /// as many or the server closes.
    async fn ask_all(&mut self, messages: Vec<Message>) -> Vec<(u64, String)> {
        let count = messages.len();
        for message in messages {
            self.0.feed(message).await.unwrap();
        }
        self.0.flush().await.unwrap();
        let mut answers = Vec::new();
        while answers.len() < count
            && let Some(ack) = self.answer().await
        {
            answers.push((ack.sequence, ack.error));
        }
        answers
    }
}

fn batch(sequence: u64, ticks: Vec<v1::Tick>) -> Message {
    Message::binary(v1::IngestBatch { producer: 5, sequence, ticks, ..Default::default() }.encode_to_vec())
}

#[tokio::test]
async fn what_is_no_batch_is_refused_by_name_and_ends_the_connection() {
    let endpoint = endpoint().await;
    assert!(Raw::open(endpoint.address, "/elsewhere").await.is_none());
    let good = v1::Tick::from(&trade("AAPL", 1));
    let mut bad = good.clone();
    bad.symbol = "no symbol".to_owned();
    let cases = [
        (Message::text("hello"), "a text message; batches are binary"),
        (Message::binary(vec![0xff; 9]), "no batch: "),
        (batch(3, vec![good.clone(); 4097]), "a batch of 4097 ticks; at most 4096 fit"),
        (batch(4, vec![good.clone(), bad]), "tick 1: "),
    ];
    let count = cases.len() as u64;
    for (message, expected) in cases {
        let mut raw = Raw::open(endpoint.address, "/ingest").await.unwrap();
        let ack = raw.ask(message).await;
        assert!(ack.error.starts_with(expected), "{}", ack.error);
        assert!(matches!(raw.0.next().await, Some(Ok(Message::Close(_)))));
    }
    assert_eq!(endpoint.metrics.ingest_refusals.get(), count);
    assert_eq!(logged(&endpoint.bus).await, [], "nothing of a refused batch is taken");
    let mut raw = Raw::open(endpoint.address, "/ingest").await.unwrap();
    let ack = raw.ask(batch(9, vec![good])).await;
    assert_eq!((ack.sequence, ack.error.as_str(), ack.positions.len()), (9, "", 1));
}

fn good(sequence: u64) -> Message {
    batch(sequence, vec![(&trade("AAPL", sequence)).into()])
}

fn accepted(sequence: u64) -> (u64, String) {
    (sequence, String::new())
}

/// Many at once: what comes before the bad one is acknowledged, the bad one is refused last, what
/// comes after it is not taken; and once it is sent well, all of it is there.
#[tokio::test]
async fn a_refusal_is_the_last_answer_and_nothing_after_it_is_taken() {
    let endpoint = endpoint().await;
    let bad = batch(2, vec![v1::Tick { symbol: "no symbol".to_owned(), ..(&trade("AAPL", 2)).into() }]);
    let mut raw = Raw::open(endpoint.address, "/ingest").await.unwrap();
    let mut sent = vec![good(1), bad];
    sent.extend((3..60).map(good));
    let answers = raw.ask_all(sent).await;
    assert_eq!(answers[..1], [accepted(1)]);
    assert!(answers[1].0 == 2 && answers[1].1.starts_with("tick 0: "), "{answers:?}");
    assert_eq!((answers.len(), logged(&endpoint.bus).await), (2, vec![(1, 1)]));
    let mut raw = Raw::open(endpoint.address, "/ingest").await.unwrap();
    assert_eq!(raw.ask_all((2..6).map(good).collect()).await, (2..6).map(accepted).collect::<Vec<_>>());
    assert_eq!(logged(&endpoint.bus).await, (1..6).map(|id| (id, id)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_disk_that_is_full_for_a_moment_loses_nothing() {
    let endpoint = endpoint_full_at(2).await;
    let mut raw = Raw::open(endpoint.address, "/ingest").await.unwrap();
    let answers = raw.ask_all((1..=9).map(good).collect()).await;
    assert_eq!(answers[..2], [accepted(1), accepted(2)]);
    assert!(answers.len() == 3 && answers[2].0 == 3 && answers[2].1.contains("is full"), "{answers:?}");
    let mut raw = Raw::open(endpoint.address, "/ingest").await.unwrap();
    assert_eq!(raw.ask_all((3..=9).map(good).collect()).await, (3..=9).map(accepted).collect::<Vec<_>>());
    assert_eq!(logged(&endpoint.bus).await, (1..=9).map(|id| (id, id)).collect::<Vec<_>>());
}

/// Readers drop what does not rise: a batch that was passed over must not be acknowledged.
#[tokio::test]
async fn a_batch_below_one_that_was_taken_is_refused_unless_it_is_a_repeat() {
    let endpoint = endpoint().await;
    let mut raw = Raw::open(endpoint.address, "/ingest").await.unwrap();
    assert_eq!(raw.ask_all(vec![good(1), good(3)]).await, [accepted(1), accepted(3)]);
    assert_eq!(raw.ask_all(vec![good(1), good(3)]).await, [accepted(1), accepted(3)], "repeats");
    let mut other = Raw::open(endpoint.address, "/ingest").await.unwrap();
    let answers = other.ask_all(vec![good(2)]).await;
    let expected = "producer 5 is at batch 3 already, and this batch is not among its last stored ones; \
        send new ticks under a number above 3";
    assert_eq!(answers, [(2, expected.to_owned())]);
    assert!(other.answer().await.is_none());
    assert_eq!(raw.ask_all(vec![good(4)]).await, [accepted(4)]);
    assert!(!logged(&endpoint.bus).await.contains(&(2, 2)));
}

/// However many producers are heard in between, a batch that is sent again counts once.
#[tokio::test]
async fn a_batch_sent_again_after_thousands_of_other_producers_is_stored_once() {
    let endpoint = endpoint().await;
    let mut raw = Raw::open(endpoint.address, "/ingest").await.unwrap();
    assert_eq!(raw.ask_all(vec![good(1)]).await, [accepted(1)]);
    for others in (100..3_100_u64).collect::<Vec<_>>().chunks(50) {
        let one = |producer: &u64| {
            let ticks = vec![(&trade("AAPL", *producer)).into()];
            Message::binary(
                v1::IngestBatch { producer: *producer, sequence: 1, ticks, ..Default::default() }
                    .encode_to_vec(),
            )
        };
        let answers = raw.ask_all(others.iter().map(one).collect()).await;
        assert!(answers.iter().all(|answer| *answer == accepted(1)), "{answers:?}");
    }
    assert_eq!(raw.ask_all(vec![good(1)]).await, [accepted(1)]);
    let logged = logged(&endpoint.bus).await;
    assert_eq!(logged.iter().filter(|(_, id)| *id == 1).count(), 1);
    assert_eq!(logged.len(), 3_001);
}
