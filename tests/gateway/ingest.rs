//! The ingest endpoint, through its client and against it.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use prost::Message as _;
use stk::bus::Bus;
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

async fn endpoint() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bus = Arc::new(MemoryBus::new(2, 10_000));
    let metrics = GatewayMetrics::default();
    let intake = Intake::new(bus.clone(), IntakeMetrics::default());
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
        match self.0.next().await.unwrap().unwrap() {
            Message::Binary(bytes) => v1::IngestAck::decode(bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

fn batch(sequence: u64, ticks: Vec<v1::Tick>) -> Message {
    Message::binary(v1::IngestBatch { producer: 5, sequence, ticks }.encode_to_vec())
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
