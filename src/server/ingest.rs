//! The ingest endpoint: the one door through which other programs bring ticks.
//!
//! A WebSocket on a loopback listener of its own. Batches are taken in the order they come in, each
//! is acknowledged when it is durable, in the same order; a batch sent again counts once. A batch
//! that can't be taken is answered with what is wrong, after the acknowledgements of those before
//! it, and ends the connection: nothing after it is read, since it must not overtake it. A batch that
//! readers of the log would drop is refused unless it is stored already (`producers.rs`).

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt, SinkExt, StreamExt};
use prost::Message as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{self, Message, http};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::intake::{Appended, Intake};
use super::metrics::GatewayMetrics;
use crate::feed::BATCH_TICKS_MAX;
use crate::market::Tick;
use crate::wire::protobuf::v1::{IngestAck, IngestBatch, Position};
use crate::wire::record::Origin;

/// Batches of a connection that may wait to be durable; past it nothing more is read from it.
pub const WINDOW_BATCHES_MAX: usize = 64;

/// Programs that bring ticks at once.
const CONNECTIONS_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 8 << 20;
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// How long a client may take to hear why it is closed.
const LINGER_MAX: Duration = Duration::from_secs(5);
/// How long a stop waits for batches under way.
const STOP_MAX: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<TcpStream>;
/// Batches under way, in the order they came in.
type Acks = FuturesOrdered<BoxFuture<'static, IngestAck>>;

const REFUSED: &str = "a batch was refused";

/// Takes batches on `listener` until `stop`; then acknowledges what is under way and returns.
pub async fn serve(
    listener: TcpListener,
    intake: Intake,
    metrics: GatewayMetrics,
    stop: impl Future<Output = ()>,
) {
    let (token, tasks) = (CancellationToken::new(), TaskTracker::new());
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) if !address.ip().to_canonical().is_loopback() => {
                warn!(%address, "ticks are taken from this machine only");
                drop(stream);
            }
            Ok((stream, address)) if tasks.len() < CONNECTIONS_MAX => {
                let (metrics, token) = (metrics.clone(), token.clone());
                let door = Door { intake: intake.clone() };
                tasks.spawn(async move {
                    if let Err(reason) = connection(stream, address, door, metrics, token).await {
                        debug!(%address, %reason, "an ingest connection broke off");
                    }
                });
            }
            Ok((_, address)) => warn!(%address, "too many programs bring ticks at once"),
            Err(reason) => {
                warn!(%reason, "a connection can't be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    token.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_MAX, tasks.wait()).await.is_err() {
        warn!("batches were still under way when the ingest endpoint stopped");
    }
}

/// Takes the handshake on `/ingest` alone.
// The callback's error type is tungstenite's own.
#[allow(clippy::result_large_err)]
fn on_ingest(request: &Request, response: Response) -> Result<Response, ErrorResponse> {
    if request.uri().path() == "/ingest" {
        return Ok(response);
    }
    let mut refusal = ErrorResponse::new(Some("ticks are brought to /ingest\n".to_owned()));
    *refusal.status_mut() = http::StatusCode::NOT_FOUND;
    Err(refusal)
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    mut door: Door,
    metrics: GatewayMetrics,
    stop: CancellationToken,
) -> Result<(), tungstenite::Error> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(BATCH_BYTES_MAX))
        .max_frame_size(Some(BATCH_BYTES_MAX));
    let handshake = tokio_tungstenite::accept_hdr_async_with_config(stream, on_ingest, Some(config));
    let Ok(socket) = tokio::time::timeout(HANDSHAKE_MAX, handshake).await else { return Ok(()) };
    let mut socket = socket?;
    info!(%address, "a program brings ticks");
    let mut acks = Acks::new();
    let ended = take_all(&mut socket, address, &mut door, &mut acks, &metrics, &stop).await;
    let refused = matches!(ended, Ok(REFUSED));
    let closed = match ended {
        Ok(reason) => close(&mut socket, reason).await,
        Err(reason) => Err(reason),
    };
    if refused {
        // A socket that is let go of with batches unread takes back what was said last.
        let discarded = async { while let Some(Ok(_)) = socket.next().await {} };
        let waited = tokio::time::timeout(LINGER_MAX, discarded);
        tokio::select! {
            _ = waited => {}
            () = stop.cancelled() => {}
        }
    }
    // Whether each that was appended became durable is to be known, though nobody is told.
    while acks.next().await.is_some() {}
    closed
}

/// Takes batches and acknowledges them until the client, the server or a refusal ends it: which.
async fn take_all(
    socket: &mut Socket,
    address: SocketAddr,
    door: &mut Door,
    acks: &mut Acks,
    metrics: &GatewayMetrics,
    stop: &CancellationToken,
) -> Result<&'static str, tungstenite::Error> {
    let mut ended: Option<&'static str> = None;
    loop {
        if let Some(reason) = ended
            && acks.is_empty()
        {
            return Ok(reason);
        }
        tokio::select! {
            biased;
            Some(ack) = acks.next() => {
                // Those that are ready go with it in one write.
                let mut ready = Some(ack);
                while let Some(ack) = ready {
                    let is_refusal = !ack.error.is_empty();
                    if is_refusal {
                        metrics.ingest_refusals.inc();
                        warn!(%address, sequence = ack.sequence, reason = ack.error, "a batch was refused");
                    } else if ack.stored.is_none() {
                        metrics.ingest_batches.inc();
                    }
                    socket.feed(Message::Binary(ack.encode_to_vec().into())).await?;
                    if is_refusal {
                        // What was appended after it is not acknowledged as if it had been in order.
                        socket.flush().await?;
                        return Ok(REFUSED);
                    }
                    ready = acks.next().now_or_never().flatten();
                }
                socket.flush().await?;
            }
            () = stop.cancelled(), if ended.is_none() => ended = Some("the server stops"),
            message = socket.next(), if ended.is_none() && acks.len() < WINDOW_BATCHES_MAX => {
                let taken = match message {
                    Some(Ok(Message::Binary(bytes))) => door.take(bytes).await,
                    Some(Ok(Message::Text(_))) => {
                        Err(refusal(0, "a text message; batches are binary"))
                    }
                    Some(Err(tungstenite::Error::Capacity(reason))) => Err(refusal(0, reason)),
                    Some(Ok(Message::Close(_))) | None => {
                        ended = Some("the client closed");
                        continue;
                    }
                    Some(Ok(_)) => continue,
                    Some(Err(reason)) => return Err(reason),
                };
                acks.push_back(taken.unwrap_or_else(|refusal| {
                    ended = Some(REFUSED);
                    Box::pin(std::future::ready(refusal))
                }));
            }
        }
    }
}

async fn close(socket: &mut Socket, reason: &'static str) -> Result<(), tungstenite::Error> {
    let frame = CloseFrame { code: CloseCode::Away, reason: reason.into() };
    match tokio::time::timeout(LINGER_MAX, socket.close(Some(frame))).await {
        Ok(Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed)) | Err(_) => Ok(()),
        Ok(result) => result,
    }
}

fn refusal(sequence: u64, error: impl ToString) -> IngestAck {
    IngestAck { sequence, error: error.to_string(), ..IngestAck::default() }
}

/// What batches of one connection go through.
struct Door {
    intake: Intake,
}

impl Door {
    /// Appends a batch; resolves once it can be read in the log, with what resolves to its
    /// acknowledgement. An error is the refusal of a batch of which nothing was appended.
    async fn take(&mut self, bytes: Bytes) -> Result<BoxFuture<'static, IngestAck>, IngestAck> {
        let batch = IngestBatch::decode(bytes).map_err(|error| refusal(0, format!("no batch: {error}")))?;
        let (producer, sequence) = (batch.producer, batch.sequence);
        if batch.asks {
            let stored = self.intake.producers().stored(producer).await;
            let stored = stored.map_err(|error| refusal(sequence, error))?;
            let ack = IngestAck { sequence, stored: Some(stored.into()), ..IngestAck::default() };
            return Ok(Box::pin(std::future::ready(ack)));
        }
        if batch.ticks.len() > BATCH_TICKS_MAX {
            let ticks = batch.ticks.len();
            return Err(refusal(
                sequence,
                format!("a batch of {ticks} ticks; at most {BATCH_TICKS_MAX} fit"),
            ));
        }
        let mut ticks = Vec::with_capacity(batch.ticks.len());
        for (at, tick) in batch.ticks.iter().enumerate() {
            let tick = Tick::try_from(tick);
            ticks.push(tick.map_err(|error| refusal(sequence, format!("tick {at}: {error}")))?);
        }
        let appended = self.intake.take(&ticks, Origin { producer, sequence }, batch.after).await;
        let Appended { partitions, durable } = appended.map_err(|error| refusal(sequence, error))?;
        Ok(Box::pin(async move {
            match durable.await {
                Ok(offsets) => {
                    let position = |(partition, offset)| Position { partition: u32::from(partition), offset };
                    let positions = partitions.into_iter().zip(offsets).map(position).collect();
                    IngestAck { sequence, positions, ..IngestAck::default() }
                }
                Err(error) => refusal(sequence, error),
            }
        }))
    }
}
