//! The ingest endpoint: the one door through which other programs bring ticks.
//!
//! A WebSocket on a loopback listener of its own. Batches are taken in the order they come in, each
//! is acknowledged when it is durable, in the same order; a batch sent again counts once. A batch
//! that can't be taken is answered with what is wrong, and ends the connection: what came after it
//! must not overtake it.

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
/// How long a stop waits for batches under way.
const STOP_MAX: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<TcpStream>;

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
                let (intake, metrics, token) = (intake.clone(), metrics.clone(), token.clone());
                tasks.spawn(async move {
                    if let Err(reason) = connection(stream, address, intake, metrics, token).await {
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
    mut intake: Intake,
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
    let mut acks: FuturesOrdered<BoxFuture<'static, IngestAck>> = FuturesOrdered::new();
    let mut ended: Option<&'static str> = None;
    loop {
        if let Some(reason) = ended
            && acks.is_empty()
        {
            return close(socket, reason).await;
        }
        tokio::select! {
            biased;
            Some(ack) = acks.next() => {
                if ack.error.is_empty() {
                    metrics.ingest_batches.inc();
                } else {
                    metrics.ingest_refusals.inc();
                    warn!(%address, sequence = ack.sequence, reason = ack.error, "a batch was refused");
                    // Nothing after it may be taken, nor be acknowledged as if it had been.
                    acks = FuturesOrdered::new();
                    ended = Some("a batch was refused");
                }
                socket.feed(Message::Binary(ack.encode_to_vec().into())).await?;
                // Those that are ready go with it in one write.
                while let Some(Some(ack)) = (ended.is_none() && !acks.is_empty())
                    .then(|| acks.next().now_or_never().flatten())
                    .map(|ack| ack.filter(|ack| ack.error.is_empty()))
                {
                    metrics.ingest_batches.inc();
                    socket.feed(Message::Binary(ack.encode_to_vec().into())).await?;
                }
                socket.flush().await?;
            }
            () = stop.cancelled(), if ended.is_none() => ended = Some("the server stops"),
            message = socket.next(), if ended.is_none() && acks.len() < WINDOW_BATCHES_MAX => {
                match message {
                    Some(Ok(Message::Binary(bytes))) => {
                        let ack = take(&mut intake, bytes).await;
                        acks.push_back(ack);
                    }
                    Some(Ok(Message::Text(_))) => {
                        acks.push_back(refusal(0, "a text message; batches are binary".to_owned()));
                    }
                    Some(Ok(Message::Close(_))) | None => ended = Some("the client closed"),
                    Some(Ok(_)) => {}
                    Some(Err(tungstenite::Error::Capacity(reason))) => {
                        acks.push_back(refusal(0, reason.to_string()));
                    }
                    Some(Err(reason)) => return Err(reason),
                }
            }
        }
    }
}

async fn close(mut socket: Socket, reason: &'static str) -> Result<(), tungstenite::Error> {
    let frame = CloseFrame { code: CloseCode::Away, reason: reason.into() };
    match tokio::time::timeout(HANDSHAKE_MAX, socket.close(Some(frame))).await {
        Ok(Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed)) | Err(_) => Ok(()),
        Ok(result) => result,
    }
}

fn refusal(sequence: u64, error: String) -> BoxFuture<'static, IngestAck> {
    Box::pin(std::future::ready(IngestAck { sequence, positions: Vec::new(), error }))
}

/// Appends a batch; resolves once it can be read in the log, with what resolves to its
/// acknowledgement.
async fn take(intake: &mut Intake, bytes: Bytes) -> BoxFuture<'static, IngestAck> {
    let batch = match IngestBatch::decode(bytes) {
        Ok(batch) => batch,
        Err(error) => return refusal(0, format!("no batch: {error}")),
    };
    let (producer, sequence) = (batch.producer, batch.sequence);
    if batch.ticks.len() > BATCH_TICKS_MAX {
        let ticks = batch.ticks.len();
        return refusal(sequence, format!("a batch of {ticks} ticks; at most {BATCH_TICKS_MAX} fit"));
    }
    let mut ticks = Vec::with_capacity(batch.ticks.len());
    for (at, tick) in batch.ticks.iter().enumerate() {
        match Tick::try_from(tick) {
            Ok(tick) => ticks.push(tick),
            Err(error) => return refusal(sequence, format!("tick {at}: {error}")),
        }
    }
    match intake.append(&ticks, Origin { producer, sequence }).await {
        Ok(Appended { partitions, durable }) => Box::pin(async move {
            match durable.await {
                Ok(offsets) => {
                    let position = |(partition, offset)| Position { partition: u32::from(partition), offset };
                    let positions = partitions.into_iter().zip(offsets).map(position).collect();
                    IngestAck { sequence, positions, error: String::new() }
                }
                Err(error) => IngestAck { sequence, positions: Vec::new(), error: error.to_string() },
            }
        }),
        Err(error) => refusal(sequence, error.to_string()),
    }
}
