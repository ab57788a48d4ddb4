//! One WebSocket connection: Alpaca's conversation, and the socket it goes over.
//!
//! One task a connection reads and writes. It is woken once for all that the hub put into its
//! outbox and writes it in one system call, whatever the number of frames.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Buf;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::frame::{self, CloseCode, FrameError, FrameReader, Incoming};
use super::hub::Attachment;
use super::limits::{ClientKey, Refusal, UnprovenPlace, is_allowed};
use super::outbox::{Outbox, Taken};
use super::protocol::{ClientMessage, Encoding, ErrorCode, Framing, Request, success};
use super::queries::Asker;
use super::replay::{self, Join, JoinError, Joining, Past};
use super::subscription::Subscription;
use super::test_feed::fakepaca;
use super::{Feed, LINGER_MAX, Shared, TAKE_BYTES};
use crate::market::Timestamp;
use crate::secret::Secret;

/// How long a client may take to authenticate.
const AUTH_MAX: Duration = Duration::from_secs(10);
const PING_PERIOD: Duration = Duration::from_secs(10);
/// A peer that sent nothing for so long, not even a pong, is gone.
const MUTE_MAX: Duration = Duration::from_secs(25);
const HEARTBEAT_PERIOD: Duration = Duration::from_secs(5);
/// How often a client is told of its lag.
const LAG_PERIOD: Duration = Duration::from_secs(1);
/// The longest message a client may send.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
const READ_BYTES: usize = 4096;
/// Frames in one system call.
const SLICES_MAX: usize = 64;
/// Requests that may wait for a replay to end.
const PENDING_MAX: usize = 64;

/// What the handshake found.
pub(super) struct Opened {
    pub(super) feed: Feed,
    pub(super) encoding: Encoding,
    pub(super) address: IpAddr,
    /// The key in the request's head, if there was one.
    pub(super) key: Option<ClientKey>,
    /// Its place among those that have not shown a good key yet.
    pub(super) unproven: Option<UnprovenPlace>,
}

/// Why a connection ends.
enum End {
    /// After what is queued, with this code.
    Close(CloseCode, &'static str),
    /// The client showed a wrong key: it is told late.
    Refused(Refusal),
    /// The client closed, with this code.
    Closed(Option<u16>),
    /// The socket is gone.
    Gone,
}

struct Session {
    shared: Arc<Shared>,
    opened: Opened,
    stream: TcpStream,
    reader: FrameReader,
    outbox: Arc<Outbox>,
    /// Cancelled where the outbox overflows.
    overflow: CancellationToken,
    /// The socket takes no more now.
    is_full: Arc<AtomicBool>,
    /// Its place in the hub, unless a replay has it.
    attachment: Option<Attachment>,
    joining: Option<Joining>,
    pending: VecDeque<ClientMessage>,
    writing: VecDeque<Taken>,
    is_authenticated: bool,
    /// The id of the key that it showed, where keys are needed.
    key_id: Option<String>,
    subscription: Subscription,
    wants_token: bool,
    wants_heartbeat: bool,
    heartbeats: u64,
    heard_at: Instant,
    /// Since when data has been waiting.
    behind_since: Option<Instant>,
    /// Since when the socket has taken nothing of what waits.
    stalled_since: Option<Instant>,
    lag_told_at: Option<Instant>,
}

/// Serves one connection to its end.
pub(super) async fn serve(shared: Arc<Shared>, opened: Opened, stream: TcpStream, read_ahead: &[u8]) {
    let (budget, overflow, is_full) =
        (shared.budget.clone(), CancellationToken::new(), Arc::<AtomicBool>::default());
    let outbox = Outbox::open(shared.config.queue_bytes_max, budget, overflow.clone(), is_full.clone());
    let framing = Framing::WebSocket(opened.encoding);
    let attachment = shared.hub(opened.feed).attach(outbox.clone(), framing);
    let mut session = Session {
        shared,
        opened,
        stream,
        reader: FrameReader::new(read_ahead, MESSAGE_BYTES_MAX),
        outbox,
        overflow,
        is_full,
        attachment: Some(attachment),
        joining: None,
        pending: VecDeque::new(),
        writing: VecDeque::new(),
        is_authenticated: false,
        key_id: None,
        subscription: Subscription::default(),
        wants_token: false,
        wants_heartbeat: false,
        heartbeats: 0,
        heard_at: Instant::now(),
        behind_since: None,
        stalled_since: None,
        lag_told_at: None,
    };
    let end = session.run().await;
    session.end(end).await;
}

impl Session {
    fn say(&self, message: &Value) {
        self.outbox.push_control(self.opened.encoding.control(message));
    }

    fn refuse(&self, code: ErrorCode, detail: &str) {
        self.say(&code.message(detail));
    }

    async fn run(&mut self) -> End {
        self.say(&success("connected"));
        if let Some(key) = self.opened.key.take()
            && let Some(end) = self.authenticate(&key)
        {
            return end;
        }
        if let Err(end) = self.take_apart() {
            return end;
        }
        let opened_at = Instant::now();
        let mut ping_at = opened_at + PING_PERIOD;
        let mut heartbeat_at = opened_at + HEARTBEAT_PERIOD;
        let (outbox, overflow) = (self.outbox.clone(), self.overflow.clone());
        let (stop, stall_max) = (self.shared.stop.clone(), self.shared.config.stall_max);
        loop {
            if outbox.is_overflowed() {
                self.shared.metrics.slow_clients.inc();
                self.refuse(ErrorCode::SlowClient, "this client takes too little of what is sent to it");
                return End::Close(CloseCode::Policy, "slow client");
            }
            let has_more = outbox.take(&mut self.writing, TAKE_BYTES);
            if self.write().is_err() {
                return End::Gone;
            }
            let is_written = self.writing.is_empty();
            let has_more = has_more && is_written;
            if is_written && !has_more && outbox.is_parked() {
                self.go_on();
            }
            let mut wake_at = ping_at;
            if let Some(since) = self.stalled_since {
                wake_at = wake_at.min(since + stall_max);
            }
            if !self.is_authenticated {
                wake_at = wake_at.min(opened_at + AUTH_MAX);
            }
            if self.wants_heartbeat {
                wake_at = wake_at.min(heartbeat_at);
            }
            let joined = async {
                match &mut self.joining {
                    Some(joining) => joining.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return End::Close(CloseCode::GoingAway, "the server stops"),
                readable = self.stream.readable() => {
                    if readable.is_err() {
                        return End::Gone;
                    }
                    if let Err(end) = self.read() {
                        return end;
                    }
                }
                () = overflow.cancelled() => {}
                writable = self.stream.writable(), if !is_written => {
                    if writable.is_err() {
                        return End::Gone;
                    }
                }
                (attachment, result) = joined => {
                    self.joining = None;
                    self.attachment = Some(attachment);
                    if let Err(reason) = result {
                        debug!(%reason, "a replay failed");
                        let (code, close, why) = match &reason {
                            JoinError::Stalled => {
                                outbox.overflow();
                                continue;
                            }
                            JoinError::Busy(_) => (ErrorCode::Busy, CloseCode::TryAgainLater, "too many replays"),
                            _ => (ErrorCode::Internal, CloseCode::Internal, "the replay failed"),
                        };
                        self.refuse(code, &reason.to_string());
                        return End::Close(close, why);
                    }
                    while self.joining.is_none()
                        && let Some(message) = self.pending.pop_front()
                    {
                        self.request(message);
                    }
                }
                () = std::future::ready(()), if has_more => {}
                // While the socket is full, new data needs no wake-up.
                () = outbox.filled(), if is_written => {}
                () = tokio::time::sleep_until(wake_at) => {
                    let now = Instant::now();
                    if self.stalled_since.is_some_and(|since| now >= since + stall_max) {
                        outbox.overflow();
                        continue;
                    }
                    if !self.is_authenticated && now >= opened_at + AUTH_MAX {
                        self.refuse(ErrorCode::AuthTimeout, "");
                        return End::Close(CloseCode::Policy, "auth timeout");
                    }
                    if now >= ping_at {
                        // One that reads nothing can't answer; it has a bound of its own.
                        if self.stalled_since.is_none() && now.duration_since(self.heard_at) > MUTE_MAX {
                            self.shared.metrics.mute_clients.inc();
                            return End::Gone;
                        }
                        outbox.push_control(frame::ping(b"stk"));
                        ping_at = now + PING_PERIOD;
                    }
                    if now >= heartbeat_at {
                        heartbeat_at = now + HEARTBEAT_PERIOD;
                        if self.wants_heartbeat {
                            self.heartbeats += 1;
                            let t = Timestamp::now().to_string();
                            self.say(&json!({ "T": "heartbeat", "n": self.heartbeats, "t": t }));
                        }
                    }
                }
            }
        }
    }

    /// Writes what waits, as much as the socket takes.
    fn write(&mut self) -> std::io::Result<()> {
        let (mut data_bytes, mut has_taken) = (0, false);
        let result = loop {
            if self.writing.is_empty() {
                (self.behind_since, self.stalled_since) = (None, None);
                break Ok(());
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slice, taken) in slices.iter_mut().zip(&self.writing) {
                *slice = IoSlice::new(&taken.frame);
                count += 1;
            }
            match self.stream.try_write_vectored(&slices[..count]) {
                Ok(written) => {
                    if self.stalled_since.is_some() {
                        // It is there, and answers what it finds once it has read so far.
                        self.heard_at = Instant::now();
                    }
                    data_bytes += advance(&mut self.writing, written);
                    has_taken = true;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let now = Instant::now();
                    self.behind_since.get_or_insert(now);
                    self.stalled_since = self.stalled_since.filter(|_| !has_taken).or(Some(now));
                    break Ok(());
                }
                Err(error) => break Err(error),
            }
        };
        self.is_full.store(!self.writing.is_empty(), Ordering::Relaxed);
        if data_bytes > 0 {
            self.outbox.written(data_bytes);
        }
        self.tell_lag();
        result
    }

    /// Tells a client that asked for heartbeats how far it is behind, before harm is done.
    fn tell_lag(&mut self) {
        let (true, Some(since)) = (self.wants_heartbeat, self.behind_since) else { return };
        let now = Instant::now();
        let is_due = self.lag_told_at.is_none_or(|at| now.duration_since(at) >= LAG_PERIOD);
        if is_due && (self.outbox.is_lagging() || self.outbox.is_parked()) {
            self.lag_told_at = Some(now);
            let ms = now.duration_since(since).as_millis() as u64;
            self.say(&json!({ "T": "lag", "ms": ms, "queued_bytes": self.outbox.data_bytes() }));
        }
    }

    fn read(&mut self) -> Result<(), End> {
        loop {
            self.reader.buffer.reserve(READ_BYTES);
            match self.stream.try_read_buf(&mut self.reader.buffer) {
                Ok(0) => return Err(End::Gone),
                Ok(_) => {
                    self.heard_at = Instant::now();
                    self.take_apart()?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(End::Gone),
            }
        }
    }

    fn take_apart(&mut self) -> Result<(), End> {
        loop {
            match self.reader.next() {
                Ok(None) => return Ok(()),
                Ok(Some(Incoming::Ping(payload))) => self.outbox.push_control(frame::pong(&payload)),
                Ok(Some(Incoming::Pong(_))) => {}
                Ok(Some(Incoming::Close(code))) => return Err(End::Closed(code)),
                Ok(Some(Incoming::Message(opcode, payload))) => {
                    match ClientMessage::parse(opcode, self.opened.encoding, &payload) {
                        Ok(message) => self.message(message)?,
                        Err(detail) => self.refuse(ErrorCode::InvalidSyntax, &detail),
                    }
                }
                Err(error) => {
                    self.shared.metrics.protocol_errors.inc();
                    let reason = match error {
                        FrameError::Protocol(reason) => reason,
                        FrameError::InvalidText => "a text is not UTF-8",
                        FrameError::TooBig(_) => "a message is too long",
                    };
                    return Err(End::Close(error.close_code(), reason));
                }
            }
        }
    }

    fn message(&mut self, message: ClientMessage) -> Result<(), End> {
        match message {
            ClientMessage::Auth { key, secret } => {
                if self.is_authenticated {
                    self.refuse(ErrorCode::AlreadyAuthenticated, "");
                    return Ok(());
                }
                self.authenticate(&ClientKey { id: key, secret: Secret::new(secret) }).map_or(Ok(()), Err)
            }
            _ if !self.is_authenticated => {
                self.refuse(ErrorCode::NotAuthenticated, "");
                Ok(())
            }
            // A replay ends where its subscription begins: what would change that waits.
            message if self.joining.is_some() => {
                if self.pending.len() < PENDING_MAX {
                    self.pending.push_back(message);
                } else {
                    self.refuse(ErrorCode::InvalidSyntax, "too many requests wait for a replay to end");
                }
                Ok(())
            }
            message => {
                self.request(message);
                Ok(())
            }
        }
    }

    fn request(&mut self, message: ClientMessage) {
        if self.go_on() {
            self.pending.push_front(message);
            return;
        }
        match message {
            ClientMessage::Auth { .. } => {}
            ClientMessage::Subscribe(request) => self.subscribe(*request),
            ClientMessage::Unsubscribe(request) => self.unsubscribe(&request),
        }
        if self.joining.is_none() {
            self.outbox.unpin();
        }
    }

    /// Begins to replay what has come since the hub parked the connection, if it did. Otherwise the place in
    /// the hub is left as it is from now on, since it is about to change.
    fn go_on(&mut self) -> bool {
        let past = self.past();
        let resumed = replay::resume(&mut self.attachment, past, &self.subscription, self.wants_token);
        let is_resumed = resumed.is_some();
        self.joining = resumed.or(self.joining.take());
        is_resumed
    }

    fn past(&self) -> Past {
        let asker = Asker { address: self.opened.address, key: self.key_id.clone() };
        self.shared.past(self.opened.feed, asker)
    }

    fn authenticate(&mut self, key: &ClientKey) -> Option<End> {
        if !is_allowed(&self.shared.config.keys, key) {
            self.shared.metrics.auth_failures.inc();
            let refusal = self.shared.failures.count(self.opened.address, &key.id);
            if refusal.is_none() {
                self.shared.metrics.handshakes_limited.inc();
            }
            return Some(refusal.map_or(End::Gone, End::Refused));
        }
        self.is_authenticated = true;
        self.opened.unproven = None;
        self.key_id = (!self.shared.config.keys.is_empty()).then(|| key.id.clone());
        self.say(&success("authenticated"));
        None
    }

    fn subscribe(&mut self, mut request: Request) {
        if self.opened.feed == Feed::Test {
            request.subscription.restrict_to(fakepaca());
        }
        let Some(mut attachment) = self.attachment.take() else { return };
        let mut full = self.subscription.clone();
        full.add(&request.subscription);
        let symbols_max = self.shared.config.symbols_max;
        if full.named_count() > symbols_max {
            self.refuse(ErrorCode::SymbolLimit, &format!("at most {symbols_max} over all channels"));
            self.attachment = Some(attachment);
            return;
        }
        self.wants_token |= request.token;
        self.wants_heartbeat |= request.heartbeat;
        let exclude = std::mem::replace(&mut self.subscription, full.clone());
        self.say(&full.answer());
        if !request.snapshot && request.since.is_none() {
            attachment.set(&full, self.wants_token);
            self.attachment = Some(attachment);
            return;
        }
        self.shared.metrics.replays.inc();
        let join = Join {
            want: request.subscription,
            exclude,
            full,
            token: self.wants_token,
            snapshot: request.snapshot,
            since: request.since,
            parked: None,
        };
        self.joining = Some(replay::join(attachment, self.past(), join));
    }

    fn unsubscribe(&mut self, request: &Request) {
        self.subscription.remove(&request.subscription);
        self.say(&self.subscription.answer());
        if let Some(attachment) = &mut self.attachment {
            attachment.set(&self.subscription, self.wants_token);
        }
    }

    /// Waits until a refusal may be told: whether the client is still there. Only the socket is kept.
    async fn wait_out(&mut self, refusal: &Refusal) -> bool {
        self.reader = FrameReader::new(&[], 0);
        let stop = self.shared.stop.clone();
        let mut discarded = [0; READ_BYTES];
        let gone = async {
            loop {
                if self.stream.readable().await.is_err() {
                    return;
                }
                match self.stream.try_read(&mut discarded) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        };
        tokio::select! {
            biased;
            () = gone => false,
            () = stop.cancelled() => true,
            () = tokio::time::sleep(refusal.delay) => true,
        }
    }

    /// Says what is left to say, closes, and lets go of the socket.
    async fn end(mut self, end: End) {
        self.joining = None;
        self.attachment = None;
        let last = match &end {
            End::Gone => return,
            End::Close(code, reason) => frame::close(*code, reason),
            End::Refused(refusal) => {
                if !self.wait_out(refusal).await {
                    return;
                }
                self.refuse(ErrorCode::AuthFailed, "");
                frame::close(CloseCode::Policy, "auth failed")
            }
            End::Closed(code) => {
                // What waits is of no use to a client that leaves.
                self.writing.retain(|taken| taken.begun);
                frame::close_echo(*code)
            }
        };
        let until = Instant::now() + LINGER_MAX;
        if !matches!(end, End::Closed(_)) {
            if self.outbox.is_overflowed() {
                self.writing.retain(|taken| taken.begun || taken.is_control);
            }
            self.outbox.take(&mut self.writing, usize::MAX);
        }
        self.writing.push_back(Taken { frame: last, is_control: true, begun: false });
        let said = tokio::time::timeout_at(until, async {
            while !self.writing.is_empty() {
                self.stream.writable().await?;
                self.write()?;
            }
            std::io::Result::Ok(())
        });
        let is_said = matches!(said.await, Ok(Ok(())));
        if !is_said || matches!(end, End::Closed(_)) {
            return;
        }
        // A socket that is let go of with bytes unread would take back what was said last.
        let _ = self.stream.shutdown().await;
        let mut discarded = [0; READ_BYTES];
        let _ = tokio::time::timeout_at(until, async {
            loop {
                self.stream.readable().await?;
                match self.stream.try_read(&mut discarded) {
                    Ok(0) => return std::io::Result::Ok(()),
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        })
        .await;
    }
}

/// Takes off what was written, and returns how much of it was data.
fn advance(writing: &mut VecDeque<Taken>, mut written: usize) -> usize {
    let mut data_bytes = 0;
    while let Some(taken) = writing.front_mut() {
        let bytes = taken.frame.len().min(written);
        data_bytes += if taken.is_control { 0 } else { bytes };
        written -= bytes;
        if bytes < taken.frame.len() {
            taken.begun |= bytes > 0;
            taken.frame.advance(bytes);
            break;
        }
        writing.pop_front();
    }
    data_bytes
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn only_data_counts_against_the_queue() {
        let taken = |text: &'static str, is_control| Taken {
            frame: Bytes::from_static(text.as_bytes()),
            is_control,
            begun: false,
        };
        let mut writing = VecDeque::from([taken("12", true), taken("345", false), taken("6789", false)]);
        assert_eq!(advance(&mut writing, 4), 2);
        assert_eq!(writing.iter().map(|taken| taken.frame.len()).collect::<Vec<_>>(), [1, 4]);
        assert!(writing[0].begun && !writing[1].begun);
        assert_eq!(advance(&mut writing, 5), 5);
        assert!(writing.is_empty());
    }
}
