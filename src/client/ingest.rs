//! The client of the ingest endpoint: brings ticks to a running server, each accepted exactly once.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt};
use prost::Message as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::Endpoint;
use crate::backoff::{Backoff, jitter_seed};
use crate::market::Tick;
use crate::wire::protobuf::v1::{self, IngestAck, IngestBatch};
use crate::wire::record::{Origin, StoredNumbers};

/// How many batches may be on their way at once.
pub const WINDOW_BATCHES_MAX: usize = 64;
/// How long one try of connecting may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Why ticks could not be brought.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// No server takes ticks there.
    #[error("no server takes ticks at {endpoint}: {reason}")]
    Unreachable {
        /// The address tried.
        endpoint: Endpoint,
        /// What the last try said.
        reason: String,
    },
    /// The server does not take a batch. It names what is wrong with it.
    #[error("the server refused batch {sequence}: {reason}")]
    Refused {
        /// The batch's number.
        sequence: u64,
        /// The server's words.
        reason: String,
    },
    /// The server does not speak this protocol.
    #[error("{endpoint} answers what is no acknowledgement: {reason}")]
    Protocol {
        /// The address.
        endpoint: Endpoint,
        /// What was wrong.
        reason: String,
    },
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A connection that brings batches in order, and again after a broken connection: the server knows
/// a repeat by producer and sequence.
pub struct IngestClient {
    endpoint: Endpoint,
    producer: u64,
    tries_max: u32,
    socket: Option<Socket>,
    backoff: Backoff,
    next_sequence: u64,
    /// Batches not yet acknowledged, oldest first: number, ticks, bytes.
    waiting: VecDeque<(u64, usize, Bytes)>,
    acknowledged_ticks: u64,
    /// The last answer to a question.
    stored: Option<v1::StoredNumbers>,
}

impl IngestClient {
    /// Connects to the ingest endpoint as `producer`, a number no other producer has, whose next
    /// batch is `sequence`. After a break it tries again up to `tries_max` times in a row.
    pub async fn connect(
        endpoint: Endpoint,
        producer: u64,
        sequence: u64,
        tries_max: u32,
    ) -> Result<Self, IngestError> {
        let mut client = Self {
            endpoint,
            producer,
            tries_max,
            socket: None,
            backoff: Backoff::new(jitter_seed()),
            next_sequence: sequence,
            waiting: VecDeque::new(),
            acknowledged_ticks: 0,
            stored: None,
        };
        client.socket = Some(client.dial().await.map_err(|reason| client.unreachable(reason))?);
        Ok(client)
    }

    /// Ticks that are durable on the server.
    pub fn acknowledged_ticks(&self) -> u64 {
        self.acknowledged_ticks
    }

    /// The number of the oldest batch that is not known to be durable.
    pub fn acknowledged_sequence(&self) -> u64 {
        self.waiting.front().map_or(self.next_sequence, |(sequence, ..)| *sequence)
    }

    /// Sends `ticks` (at most 4,096) as one batch; waits while the window is full.
    pub async fn send(&mut self, ticks: &[Tick]) -> Result<(), IngestError> {
        let origin = Origin { producer: self.producer, sequence: self.next_sequence };
        self.send_as(origin, None, ticks).await
    }

    /// As [`IngestClient::send`], under another producer and number. `after`: the batch follows on that
    /// number, and is refused where the log is past it.
    pub async fn send_as(
        &mut self,
        origin: Origin,
        after: Option<u64>,
        ticks: &[Tick],
    ) -> Result<(), IngestError> {
        while self.waiting.len() >= WINDOW_BATCHES_MAX {
            self.acknowledgement().await?;
        }
        let Origin { producer, sequence } = origin;
        let ticks_sent = ticks.iter().map(Into::into).collect();
        let batch = IngestBatch { producer, sequence, ticks: ticks_sent, after, asks: false };
        let bytes = Bytes::from(batch.encode_to_vec());
        self.next_sequence = sequence + 1;
        self.waiting.push_back((sequence, ticks.len(), bytes.clone()));
        let socket = self.socket.as_mut();
        let sent = match socket {
            Some(socket) => socket.send(Message::Binary(bytes)).await.map_err(|error| error.to_string()),
            None => Err("the connection was lost".to_owned()),
        };
        if let Err(reason) = sent {
            self.reconnect(reason).await?;
        }
        // What has come meanwhile is taken without a wait, so that the window stays open.
        while let Some(socket) = &mut self.socket {
            match socket.next().now_or_never() {
                Some(message) => self.received(message).await?,
                None => break,
            }
        }
        Ok(())
    }

    /// Asks what the log holds of `producer`, once everything sent is durable.
    pub async fn stored(&mut self, producer: u64) -> Result<StoredNumbers, IngestError> {
        self.flush().await?;
        let question = IngestBatch { producer, asks: true, ..IngestBatch::default() }.encode_to_vec();
        // It is sent again after a break, like a batch.
        self.waiting.push_back((0, 0, question.clone().into()));
        let sent = match &mut self.socket {
            Some(socket) => socket.send(Message::Binary(question.into())).await,
            None => Err(tungstenite::Error::ConnectionClosed),
        };
        if let Err(error) = sent {
            self.reconnect(error.to_string()).await?;
        }
        self.flush().await?;
        self.stored.take().map(Into::into).ok_or_else(|| IngestError::Protocol {
            endpoint: self.endpoint.clone(),
            reason: "it does not say what it has stored; it is an older stk".to_owned(),
        })
    }

    /// Waits until everything sent is durable.
    pub async fn flush(&mut self) -> Result<(), IngestError> {
        while !self.waiting.is_empty() {
            self.acknowledgement().await?;
        }
        Ok(())
    }

    /// Waits for one message of the server, reconnecting where the connection breaks.
    async fn acknowledgement(&mut self) -> Result<(), IngestError> {
        match &mut self.socket {
            Some(socket) => {
                let message = socket.next().await;
                self.received(message).await
            }
            None => self.reconnect("the connection was lost".to_owned()).await,
        }
    }

    async fn received(
        &mut self,
        message: Option<Result<Message, tungstenite::Error>>,
    ) -> Result<(), IngestError> {
        let bytes = match message {
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Close(_))) | None => {
                return self.reconnect("the server closed".to_owned()).await;
            }
            Some(Ok(_)) => return Ok(()),
            Some(Err(error)) => return self.reconnect(error.to_string()).await,
        };
        let protocol = |reason: String| IngestError::Protocol { endpoint: self.endpoint.clone(), reason };
        let ack = IngestAck::decode(bytes).map_err(|error| protocol(error.to_string()))?;
        if !ack.error.is_empty() {
            return Err(IngestError::Refused { sequence: ack.sequence, reason: ack.error });
        }
        match self.waiting.front() {
            Some((sequence, ticks, _)) if *sequence == ack.sequence => {
                self.acknowledged_ticks += *ticks as u64;
                self.waiting.pop_front();
                self.stored = ack.stored;
                self.backoff.reset();
                Ok(())
            }
            _ => Err(protocol(format!("an acknowledgement of batch {} out of turn", ack.sequence))),
        }
    }

    /// Connects again and sends what is not acknowledged, in order.
    async fn reconnect(&mut self, mut reason: String) -> Result<(), IngestError> {
        self.socket = None;
        loop {
            if self.backoff.tries() >= self.tries_max {
                return Err(self.unreachable(reason));
            }
            tokio::time::sleep(self.backoff.next()).await;
            match self.dial().await {
                Ok(mut socket) => match resend(&mut socket, &self.waiting).await {
                    Ok(()) => {
                        self.socket = Some(socket);
                        return Ok(());
                    }
                    Err(error) => reason = error.to_string(),
                },
                Err(error) => reason = error,
            }
        }
    }

    async fn dial(&self) -> Result<Socket, String> {
        let address = self.endpoint.ws("/ingest");
        // Without delay: a small batch must not wait for the reply to the one before it.
        let connecting = tokio_tungstenite::connect_async_with_config(address, None, true);
        match tokio::time::timeout(CONNECT_MAX, connecting).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", CONNECT_MAX.as_secs())),
        }
    }

    fn unreachable(&self, reason: String) -> IngestError {
        IngestError::Unreachable { endpoint: self.endpoint.clone(), reason }
    }
}

async fn resend(
    socket: &mut Socket,
    waiting: &VecDeque<(u64, usize, Bytes)>,
) -> Result<(), tungstenite::Error> {
    for (.., bytes) in waiting {
        socket.feed(Message::Binary(bytes.clone())).await?;
    }
    socket.flush().await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::net::TcpListener;

    use super::*;
    use crate::feed::sim::{Sim, SimConfig};

    /// A server that acknowledges late, forgets connections on the way, and says what it took.
    async fn flaky_server(listener: TcpListener, lifetimes: &[usize]) -> Vec<u64> {
        let mut taken = Vec::new();
        for &lifetime in lifetimes {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            let mut owed = VecDeque::new();
            for at in 0..lifetime {
                let Some(Ok(Message::Binary(bytes))) = socket.next().await else { break };
                let batch = IngestBatch::decode(bytes).unwrap();
                taken.push(batch.sequence);
                owed.push_back(batch.sequence);
                // Every third batch all but one are acknowledged.
                while at % 3 == 0 && owed.len() > 1 {
                    acknowledge(&mut socket, owed.pop_front().unwrap()).await;
                }
            }
            if lifetime == usize::MAX {
                unreachable!("the client closes first");
            }
        }
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(Message::Binary(bytes))) = socket.next().await {
            let batch = IngestBatch::decode(bytes).unwrap();
            taken.push(batch.sequence);
            acknowledge(&mut socket, batch.sequence).await;
        }
        taken
    }

    async fn acknowledge(socket: &mut WebSocketStream<TcpStream>, sequence: u64) {
        let ack = IngestAck { sequence, ..IngestAck::default() };
        let _ = socket.send(Message::Binary(ack.encode_to_vec().into())).await;
    }

    fn ticks(count: usize) -> Vec<Tick> {
        let start = "2026-11-20T15:00:00Z".parse().unwrap();
        let config = SimConfig { seed: 1, symbols: 5, rate_ticks_per_s: 1e3, start, count: None };
        let mut ticks = Vec::new();
        Sim::new(config).fill(&mut ticks, count);
        ticks
    }

    #[tokio::test]
    async fn nothing_is_lost_or_reordered_by_broken_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint: Endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let server = tokio::spawn(async move { flaky_server(listener, &[7, 1, 30]).await });
        let mut client = IngestClient::connect(endpoint, 9, 1, 5).await.unwrap();
        let all = ticks(500);
        for batch in all.chunks(5) {
            client.send(batch).await.unwrap();
        }
        client.flush().await.unwrap();
        assert_eq!(client.acknowledged_ticks(), 500);
        assert_eq!(client.acknowledged_sequence(), 101);
        drop(client);
        let taken = server.await.unwrap();
        assert_eq!(taken.iter().copied().collect::<BTreeSet<_>>(), (1..=100).collect());
        // Each connection takes up at or before where the last one was: no hole, no reordering.
        assert!(taken.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{taken:?}");
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_reason() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint: Endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            let _ = socket.next().await;
            let ack = IngestAck { sequence: 1, error: "the disk is full".to_owned(), ..IngestAck::default() };
            socket.send(Message::Binary(ack.encode_to_vec().into())).await.unwrap();
            let _ = socket.next().await;
        });
        let mut client = IngestClient::connect(endpoint, 9, 1, 0).await.unwrap();
        client.send(&ticks(1)).await.unwrap();
        let error = client.flush().await.unwrap_err().to_string();
        assert_eq!(error, "the server refused batch 1: the disk is full");
        drop(client);
        server.await.unwrap();
    }

    #[tokio::test]
    async fn no_server_is_an_error_that_names_the_address() {
        let endpoint: Endpoint = "127.0.0.1:1".parse().unwrap();
        let error = IngestClient::connect(endpoint, 9, 1, 3).await.err().unwrap().to_string();
        assert!(error.starts_with("no server takes ticks at 127.0.0.1:1: "), "{error}");
    }
}
