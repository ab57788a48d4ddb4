//! Server-sent events: the stream for whoever can read an HTTP answer.
//!
//! Every event's id is a resume token; a comment every now and then keeps proxies from hanging up.
//! What can't be served ends with status 200 and a `retry`, since any other status ends an
//! `EventSource` for good.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hub::Attachment;
use super::outbox::{Outbox, Taken};
use super::parameters::Parameters;
use super::protocol::{ErrorCode, Framing, Since, control_frame, success};
use super::queries::Asker;
use super::replay::{self, Join, JoinError, Joining};
use super::rest::ApiError;
use super::socket::Ties;
use super::subscription::{Channel, Subscription, SymbolSet};
use super::test_feed::fakepaca;
use super::{Feed, Shared, Streaming, TAKE_BYTES};
use crate::market::Timestamp;
use crate::wire::token::{Token, TokenError};

const COMMENT_PERIOD: Duration = Duration::from_secs(15);
/// A client that comes back does so within one to three seconds, spread.
const RETRY_MS_MIN: u64 = 1_000;
const RETRY_MS_SPREAD: u64 = 2_000;

/// What was asked for in the address.
pub(super) struct Asked {
    subscription: Subscription,
    snapshot: bool,
    since: Option<Since>,
    /// A token of an older version, and what is said of it.
    outdated: Option<(String, String)>,
}

impl Asked {
    pub(super) fn parse(parameters: &Parameters, headers: &HeaderMap) -> Result<Self, ApiError> {
        let channels = Channel::NAMED.iter().map(|(_, name)| *name);
        let known = channels.chain(["gaps", "prev_closes", "snapshot", "since", "last_event_id"]);
        parameters.only(&known.collect::<Vec<_>>())?;
        let mut subscription = Subscription {
            gaps: parameters.flag("gaps")?,
            prev_closes: parameters.flag("prev_closes")?,
            ..Subscription::default()
        };
        for (channel, name) in Channel::NAMED {
            if let Some(names) = parameters.list(name) {
                *subscription.set_mut(channel) = SymbolSet::from_names(names).map_err(ApiError::invalid)?;
            }
        }
        if subscription.is_empty() {
            let names: Vec<&str> = Channel::NAMED.iter().map(|(_, name)| *name).collect();
            return Err(ApiError::invalid(format!(
                "nothing is asked for: name symbols, or *, for one of {}",
                names.join(", ")
            )));
        }
        // Where a client goes on: its own memory of the last event before what the page once said.
        let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let last = last.or_else(|| parameters.get("last_event_id")).or_else(|| parameters.get("since"));
        let last = last.filter(|last| !last.is_empty());
        let snapshot = parameters.flag("snapshot")?;
        if let Some(last) = last
            && let Err(outdated @ TokenError::Version1(_)) = last.parse::<Token>()
        {
            let outdated = Some((last.to_owned(), outdated.to_string()));
            return Ok(Self { subscription, snapshot, since: None, outdated });
        }
        let since = last.map(Since::parse).transpose().map_err(ApiError::invalid)?;
        Ok(Self { subscription, snapshot, since, outdated: None })
    }
}

/// The end of a stream that can't go on, with the last event: the client comes back by itself.
fn farewell(event: &Bytes) -> Bytes {
    let retry = retry_ms();
    [format!("retry: {retry}\n\n").as_bytes(), event].concat().into()
}

/// The event that says so.
fn saying(message: &serde_json::Value) -> Bytes {
    control_frame(Framing::Sse, message, None)
}

fn retry_ms() -> u64 {
    // The clock's last digits spread clients as well as any generator.
    RETRY_MS_MIN + Timestamp::now().nanos().unsigned_abs() / 1_000 % RETRY_MS_SPREAD
}

fn response(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    ];
    (StatusCode::OK, headers, body).into_response()
}

/// The answer to a client that is not let in now, with the reason.
pub(super) fn refused(reason: &str) -> Response {
    response(Body::from(farewell(&saying(&ErrorCode::Busy.message(reason)))))
}

struct EventStream {
    outbox: Arc<Outbox>,
    asker: Asker,
    feed: Feed,
    subscription: Subscription,
    joining: Option<Joining>,
    /// Held for as long as the stream lives.
    attachment: Option<Attachment>,
    stop: CancellationToken,
    shared: Arc<Shared>,
    /// Taken from the outbox, and not yet asked for.
    writing: VecDeque<Taken>,
    comment_at: Instant,
    is_over: bool,
    ties: Ties,
    _streaming: Streaming,
}

/// Begins a stream of what was `asked` for.
///
/// A client that does not read is found beside the body, which is asked for more only while the socket
/// has room: by its queue's overflow, and by the socket, which ends where nothing is taken from it.
pub(super) fn serve(
    shared: Arc<Shared>,
    feed: Feed,
    mut asked: Asked,
    asker: Asker,
    streaming: Streaming,
    ties: Ties,
) -> Response {
    let hub = shared.hub(feed).clone();
    if feed == Feed::Test {
        asked.subscription.restrict_to(fakepaca());
    }
    if let Some((token, reason)) = &asked.outdated {
        // A refusal would end the client for good: it is told what it misses, and comes back with
        // the id of that.
        let gap = replay::reset(Framing::Sse, token, &hub.token(), reason);
        return response(Body::from(farewell(&gap)));
    }
    ties.set_streams();
    let outbox = {
        let (budget, cut, is_full) = (shared.budget.clone(), ties.cut.clone(), ties.is_full.clone());
        Outbox::open(shared.config.queue_bytes_max, budget, cut, is_full)
    };
    let head = format!("retry: {}\n\n", retry_ms());
    outbox.push_control(head.into());
    outbox.push_control(control_frame(Framing::Sse, &success("connected"), None));
    outbox.push_control(control_frame(Framing::Sse, &asked.subscription.answer(), None));
    let mut attachment = hub.attach(outbox.clone(), Framing::Sse);
    let mut joining: Option<Joining> = None;
    let mut held = None;
    if asked.snapshot || asked.since.is_some() {
        shared.metrics.replays.inc();
        let join = Join {
            want: asked.subscription.clone(),
            exclude: Subscription::default(),
            full: asked.subscription.clone(),
            token: true,
            snapshot: asked.snapshot,
            since: asked.since,
            parked: None,
        };
        joining = Some(replay::join(attachment, shared.past(feed, asker.clone()), join));
    } else {
        attachment.set(&asked.subscription, true);
        held = Some(attachment);
    }
    let events = EventStream {
        outbox,
        asker,
        feed,
        subscription: asked.subscription,
        joining,
        attachment: held,
        stop: shared.stop.clone(),
        shared,
        writing: VecDeque::new(),
        comment_at: Instant::now() + COMMENT_PERIOD,
        is_over: false,
        ties,
        _streaming: streaming,
    };
    let stream = stream::unfold(events, |mut events| async move {
        let bytes = events.next().await?;
        Some((Ok::<Bytes, Infallible>(bytes), events))
    });
    response(Body::from_stream(stream))
}

impl EventStream {
    /// The next events, whole. What there is beyond leaves in the same flush: it is asked for at once.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        loop {
            if self.outbox.is_overflowed() {
                self.is_over = true;
                return Some(farewell(&saying(&ErrorCode::SlowClient.message(""))));
            }
            if self.writing.is_empty() {
                self.outbox.take(&mut self.writing, TAKE_BYTES);
            }
            if let Some(taken) = self.writing.pop_front() {
                if !taken.is_control {
                    // It is asked for when the socket has room again: it has left the queue.
                    self.outbox.written(taken.frame.len());
                }
                self.comment_at = Instant::now() + COMMENT_PERIOD;
                return Some(taken.frame);
            }
            if self.outbox.is_parked() {
                self.go_on();
            }
            let joined = async {
                match &mut self.joining {
                    Some(joining) => joining.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    self.is_over = true;
                    return Some(farewell(&saying(&success("the server stops"))));
                }
                (attachment, result) = joined => {
                    self.joining = None;
                    self.attachment = Some(attachment);
                    if let Err(reason) = result {
                        let code = match &reason {
                            JoinError::Stalled => {
                                self.outbox.overflow();
                                continue;
                            }
                            JoinError::Busy(_) => ErrorCode::Busy,
                            _ => ErrorCode::Internal,
                        };
                        self.is_over = true;
                        return Some(farewell(&saying(&code.message(&reason.to_string()))));
                    }
                }
                () = self.outbox.filled() => {}
                () = tokio::time::sleep_until(self.comment_at) => {
                    self.comment_at = Instant::now() + COMMENT_PERIOD;
                    return Some(Bytes::from_static(b": heartbeat\n\n"));
                }
            }
        }
    }

    /// Begins to replay what has come since the hub parked the connection, if it did.
    fn go_on(&mut self) {
        let past = self.shared.past(self.feed, self.asker.clone());
        let resumed = replay::resume(&mut self.attachment, past, &self.subscription, true);
        self.joining = resumed.or(self.joining.take());
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if self.outbox.is_overflowed() || self.ties.has_stalled() {
            self.shared.metrics.slow_clients.inc();
        }
    }
}
