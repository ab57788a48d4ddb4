//! A client's socket: it ends where the peer takes nothing for too long, and says what it is for.
//!
//! Every answer goes through it, so that no reader, whatever it asked for, holds memory for ever.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How long a socket may be silent before the system asks the peer whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// How often it asks again.
const KEEPALIVE_PERIOD: Duration = Duration::from_secs(5);
/// How often it asks before the peer counts as gone.
const KEEPALIVE_TRIES: u32 = 2;

/// How much longer than a peer may take nothing it may acknowledge nothing.
#[cfg(target_os = "linux")]
const VANISHED_AFTER_STALL: Duration = Duration::from_secs(5);
/// Bytes that the system takes beyond what is on its way to the peer. Without a bound it takes some MiB for a
/// peer that reads nothing.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 64 * 1024;

/// What a connection and the streams on it tell each other.
#[derive(Clone, Default)]
pub(super) struct Ties {
    /// The stream on this connection can't go on; it has a moment to say so.
    pub(super) cut: CancellationToken,
    /// The peer took nothing for too long.
    stalled: Arc<AtomicBool>,
    /// A stream is on this connection, which counts its own end.
    streams: Arc<AtomicBool>,
    /// The socket takes no more now.
    pub(super) is_full: Arc<AtomicBool>,
}

impl Ties {
    /// Whether the connection ended because its peer took nothing.
    pub(super) fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    /// Says that a stream is on the connection.
    pub(super) fn set_streams(&self) {
        self.streams.store(true, Ordering::Relaxed);
    }

    /// Whether a stream is on the connection.
    pub(super) fn streams(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }
}

/// A socket whose writes fail once the peer has taken nothing for `stall_max`.
pub(super) struct Socket {
    stream: TcpStream,
    /// What was read before, and comes first.
    read_ahead: Bytes,
    stall_max: Duration,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
    ties: Ties,
}

impl Socket {
    /// Of `stream`, from which `read_ahead` was read already.
    pub(super) fn new(stream: TcpStream, read_ahead: Vec<u8>, stall_max: Duration, ties: Ties) -> Self {
        if let Err(reason) = prepare(&stream, stall_max) {
            debug!(%reason, "a socket's options can't be set");
        }
        Self { stream, read_ahead: read_ahead.into(), stall_max, stall: None, ties }
    }

    /// Remembers whether an error means that the peer takes nothing or is not there.
    fn note(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut {
            self.ties.stalled.store(true, Ordering::Relaxed);
        }
    }

    /// The socket alone, for a connection that looks after its peer itself.
    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
    }

    /// Passes on what a write came to, and watches over those that wait.
    fn watched(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.ties.is_full.store(written.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(written) = written {
            self.stall = None;
            return Poll::Ready(written.inspect_err(|error| self.note(error)));
        }
        let stall_max = self.stall_max;
        let stall =
            self.stall.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + stall_max)));
        ready!(stall.as_mut().poll(context));
        let error = io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing");
        self.note(&error);
        Poll::Ready(Err(error))
    }
}

/// Has small writes leave at once, and the system look for peers that vanished.
fn prepare(stream: &TcpStream, stall_max: Duration) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_PERIOD)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_TRIES)?;
    // What was written and is not acknowledged for so long never will be: the peer has vanished. One that is there
    // and reads nothing is found before that, and told.
    #[cfg(target_os = "linux")]
    {
        let vanished_after = stall_max + VANISHED_AFTER_STALL;
        sockopt::set_tcp_user_timeout(stream, u32::try_from(vanished_after.as_millis()).unwrap_or(u32::MAX))?;
    }
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    Ok(())
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read_ahead.is_empty() {
            let length = self.read_ahead.len().min(buffer.remaining());
            buffer.put_slice(&self.read_ahead.split_to(length));
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        read.map_err(|error| {
            self.note(&error);
            error
        })
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watched(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
