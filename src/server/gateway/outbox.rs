//! What waits to be written to one connection: control messages, which are never dropped, and
//! data, bounded in bytes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::budget::Budget;

/// The most control messages that wait; a peer that makes more wait without reading is closed.
const CONTROL_MAX: usize = 256;
/// How long a full socket may take nothing before its client counts as stalled.
const STALLED_AFTER: Duration = Duration::from_millis(50);
/// How much has to wait for a client, or a quarter of what may wait, before it counts as stalled.
const STALLED_BYTES: usize = 64 * 1024;

/// The queues of one connection. The hub puts in, the connection's task takes out; one wake-up
/// for all that was put in since it last took.
pub(super) struct Outbox {
    queues: Mutex<Queues>,
    /// Something was put in, or the connection fell behind.
    filled: Notify,
    /// Data was written: there may be room for a replay to go on.
    drained: Notify,
    data_bytes_max: usize,
    /// What all queues of the gateway share.
    budget: Arc<Budget>,
    /// Its number there.
    number: u64,
    /// Cancelled when the connection has fallen too far behind.
    overflow: CancellationToken,
    /// The socket takes no more now: what waits does so for the client.
    is_full: Arc<AtomicBool>,
}

#[derive(Default)]
struct Queues {
    control: VecDeque<Bytes>,
    control_bytes: usize,
    data: VecDeque<Bytes>,
    /// Of the data queue and of what was taken from it and not yet written.
    data_bytes: usize,
    /// Bytes of data that have left for the socket so far.
    written_bytes: u64,
    /// Since when nothing of the data that waits has left.
    waits_since: Option<Instant>,
    overflowed: bool,
    /// Of the data that was dropped when it overflowed.
    first_frame: Option<usize>,
    parking: Parking,
}

impl Queues {
    fn first_frame(&self) -> Option<usize> {
        self.data.front().map(|frame| frame.as_ptr() as usize).or(self.first_frame)
    }
}

/// Whether the hub may park a connection that stalls.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Parking {
    /// It has no place in the hub, or one that is about to change.
    #[default]
    Pinned,
    Allowed,
    Parked,
}

impl Outbox {
    /// Queues that share `budget`; `overflow` is cancelled where they hold too much, and `is_full` says when
    /// the socket takes no more.
    pub(super) fn open(
        data_bytes_max: usize,
        budget: Arc<Budget>,
        overflow: CancellationToken,
        is_full: Arc<AtomicBool>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|outbox| Self {
            queues: Mutex::default(),
            filled: Notify::new(),
            drained: Notify::new(),
            data_bytes_max,
            number: budget.register(outbox.clone()),
            budget,
            overflow,
            is_full,
        })
    }

    /// Its number among the queues that share its budget.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The budget that it shares.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, Queues> {
        // No code panics while it holds the lock.
        self.queues.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Adds a control message, which goes out before any data that waits. Of several that wait, all
    /// together have no more bytes than data may have.
    pub(super) fn push_control(&self, frame: Bytes) {
        let mut queues = self.queues();
        let bytes = queues.control_bytes + frame.len();
        let has_room = queues.control.is_empty() || bytes <= self.data_bytes_max;
        if queues.control.len() < CONTROL_MAX && has_room {
            queues.control.push_back(self.budget.hold(frame));
            queues.control_bytes = bytes;
        } else {
            self.give_up(&mut queues);
        }
        drop(queues);
        self.filled.notify_one();
    }

    /// Drops what waits: the connection is closed as too slow.
    fn give_up(&self, queues: &mut Queues) {
        queues.overflowed = true;
        queues.first_frame = queues.first_frame();
        let waiting: usize = std::mem::take(&mut queues.data).iter().map(Bytes::len).sum();
        queues.data_bytes -= waiting.min(queues.data_bytes);
        self.overflow.cancel();
    }

    /// Closes the connection as too slow.
    pub(super) fn overflow(&self) {
        self.give_up(&mut self.queues());
        self.filled.notify_one();
        // Whoever waits for room has some now, and goes on to find the connection closed.
        self.drained.notify_one();
    }

    /// Adds data. Past the bound all waiting data is dropped and the connection counts as
    /// overflowed, which is final.
    pub(super) fn push_data(&self, frames: &[Bytes]) {
        let mut queues = self.queues();
        if queues.overflowed {
            return;
        }
        queues.waits_since.get_or_insert_with(Instant::now);
        queues.data_bytes += frames.iter().map(Bytes::len).sum::<usize>();
        if queues.data_bytes > self.data_bytes_max {
            queues.data.extend(frames.iter().cloned());
            self.give_up(&mut queues);
        } else {
            queues.data.extend(frames.iter().cloned());
        }
        drop(queues);
        self.filled.notify_one();
    }

    /// Waits until something was put in. Cancel-safe.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Moves what waits to `frames`, control first, until `frames` has `bytes_max` bytes, so that the rest
    /// still counts and data can still be dropped. Returns whether something is left.
    pub(super) fn take(&self, frames: &mut VecDeque<Taken>, bytes_max: usize) -> bool {
        let mut queues = self.queues();
        // Control goes before data, but never between the parts of a frame already begun.
        let begun = usize::from(frames.front().is_some_and(|taken| taken.begun));
        let mut at = begun;
        while frames.get(at).is_some_and(|taken| taken.is_control) {
            at += 1;
        }
        let mut bytes: usize = frames.iter().map(|taken| taken.frame.len()).sum();
        // Data that was taken before does not keep control waiting.
        let mut before: usize = frames.iter().take(at).map(|taken| taken.frame.len()).sum();
        while before < bytes_max
            && let Some(frame) = queues.control.pop_front()
        {
            queues.control_bytes -= frame.len();
            before += frame.len();
            bytes += frame.len();
            frames.insert(at, Taken { frame, is_control: true, begun: false });
            at += 1;
        }
        while bytes < bytes_max
            && let Some(frame) = queues.data.pop_front()
        {
            bytes += frame.len();
            frames.push_back(Taken { frame, is_control: false, begun: false });
        }
        !queues.control.is_empty() || !queues.data.is_empty()
    }

    /// Tells that so many bytes of data left for the socket.
    pub(super) fn written(&self, data_bytes: usize) {
        let mut queues = self.queues();
        queues.data_bytes -= data_bytes.min(queues.data_bytes);
        queues.written_bytes += data_bytes as u64;
        queues.waits_since = (queues.data_bytes > 0).then(Instant::now);
        drop(queues);
        self.drained.notify_one();
    }

    /// Bytes of data that have left for the socket so far.
    pub(super) fn written_bytes(&self) -> u64 {
        self.queues().written_bytes
    }

    /// The most bytes of data that may wait.
    pub(super) fn data_bytes_max(&self) -> usize {
        self.data_bytes_max
    }

    /// Bytes of data that wait.
    pub(super) fn data_bytes(&self) -> usize {
        self.queues().data_bytes
    }

    /// Bytes that wait, control and data.
    pub(super) fn waiting_bytes(&self) -> usize {
        let queues = self.queues();
        queues.control_bytes + queues.data_bytes
    }

    /// Where the first frame of data that waits, or did before it overflowed, is in memory: the same for all
    /// that share it.
    pub(super) fn first_frame(&self) -> Option<usize> {
        self.queues().first_frame()
    }

    /// Whether more was put in than the bound allows.
    pub(super) fn is_overflowed(&self) -> bool {
        self.queues().overflowed
    }

    /// Whether a quarter of the bound is used: time to tell the client.
    pub(super) fn is_lagging(&self) -> bool {
        self.data_bytes() > self.data_bytes_max / 4
    }

    fn stalls(&self, queues: &Queues, now: Instant) -> bool {
        let is_still = |since| now.saturating_duration_since(since) >= STALLED_AFTER;
        self.is_full.load(Ordering::Relaxed)
            && queues.data_bytes > STALLED_BYTES.min(self.data_bytes_max / 4)
            && queues.waits_since.is_some_and(is_still)
    }

    /// Whether its socket is full and has taken nothing of much that waits for a while.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        // Most are not full, and are asked in every round: that takes no lock.
        self.is_full.load(Ordering::Relaxed) && self.stalls(&self.queues(), now)
    }

    /// Parks a connection that stalls, if it may be parked. Its task then finds that out once it has written
    /// what waits, because that is after this.
    pub(super) fn park(&self, now: Instant) -> bool {
        let mut queues = self.queues();
        let may_park = queues.parking == Parking::Allowed && !queues.overflowed && self.stalls(&queues, now);
        if may_park {
            queues.parking = Parking::Parked;
        }
        may_park
    }

    /// Whether it has a place in the hub, which hands it what it subscribed to.
    pub(super) fn is_live(&self) -> bool {
        self.queues().parking == Parking::Allowed
    }

    /// Whether the hub has parked it.
    pub(super) fn is_parked(&self) -> bool {
        self.queues().parking == Parking::Parked
    }

    /// It is not parked, nor will be before [`Outbox::unpin`].
    pub(super) fn pin(&self) {
        self.queues().parking = Parking::Pinned;
    }

    /// It may be parked, unless it is already.
    pub(super) fn unpin(&self) {
        let mut queues = self.queues();
        if queues.parking == Parking::Pinned {
            queues.parking = Parking::Allowed;
        }
    }

    /// Waits until at most so much data waits. Cancel-safe.
    pub(super) async fn room(&self, data_bytes: usize) {
        while self.data_bytes() > data_bytes {
            self.drained.notified().await;
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.budget.unregister(self.number);
    }
}

/// A frame on its way to the socket.
pub(super) struct Taken {
    /// What is left of it to write.
    pub(super) frame: Bytes,
    pub(super) is_control: bool,
    /// Whether some of it was written.
    pub(super) begun: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::metrics::GatewayMetrics;

    fn outbox(data_bytes_max: usize) -> Arc<Outbox> {
        let budget = Budget::new(usize::MAX >> 1, GatewayMetrics::default());
        Outbox::open(data_bytes_max, budget, CancellationToken::new(), Arc::default())
    }

    fn frame(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn order(frames: &VecDeque<Taken>) -> Vec<&str> {
        frames.iter().map(|taken| std::str::from_utf8(&taken.frame).unwrap()).collect()
    }

    #[test]
    fn control_goes_first_but_never_into_a_frame_begun() {
        let outbox = outbox(100);
        let mut frames = VecDeque::new();
        outbox.push_data(&[frame("d1"), frame("d2")]);
        outbox.push_control(frame("c1"));
        outbox.take(&mut frames, usize::MAX);
        assert_eq!(order(&frames), ["c1", "d1", "d2"]);
        frames.pop_front();
        frames[0].begun = true;
        outbox.push_control(frame("c2"));
        outbox.take(&mut frames, usize::MAX);
        outbox.push_control(frame("c3"));
        outbox.take(&mut frames, usize::MAX);
        assert_eq!(order(&frames), ["d1", "c2", "c3", "d2"]);
    }

    #[test]
    fn past_the_bound_the_data_is_dropped_for_good() {
        let outbox = outbox(4);
        outbox.push_data(&[frame("abcd")]);
        assert!(!outbox.is_overflowed() && outbox.is_lagging());
        outbox.push_data(&[frame("e")]);
        assert!(outbox.is_overflowed());
        let mut frames = VecDeque::new();
        outbox.written(5);
        outbox.push_data(&[frame("f")]);
        outbox.push_control(frame("bye"));
        outbox.take(&mut frames, usize::MAX);
        assert_eq!(order(&frames), ["bye"]);
    }

    #[test]
    fn control_that_nobody_reads_has_a_bound_too() {
        let outbox = outbox(10);
        let mut frames = VecDeque::new();
        let long = Bytes::from(vec![b'c'; 20]);
        outbox.push_control(long.clone());
        assert!(!outbox.is_overflowed(), "one may be longer than the bound");
        assert!(!outbox.take(&mut frames, 5), "taken");
        outbox.push_control(long.clone());
        assert!(outbox.take(&mut frames, 5), "what was taken waits still");
        assert_eq!((frames.len(), outbox.waiting_bytes(), outbox.budget().bytes()), (1, 20, 40));
        outbox.push_control(frame("c"));
        assert!(outbox.is_overflowed());
        frames.clear();
        outbox.take(&mut frames, usize::MAX);
        assert_eq!((frames.len(), outbox.waiting_bytes()), (1, 0));
    }

    #[test]
    fn only_so_much_is_taken_at_a_time() {
        let outbox = outbox(100);
        let mut frames = VecDeque::new();
        outbox.push_data(&[frame("d1"), frame("d2"), frame("d3")]);
        outbox.push_control(frame("c1"));
        assert!(outbox.take(&mut frames, 5));
        assert_eq!(order(&frames), ["c1", "d1", "d2"]);
        assert!(outbox.take(&mut frames, 5));
        frames.clear();
        assert!(!outbox.take(&mut frames, 5));
        assert_eq!(order(&frames), ["d3"]);
    }

    #[tokio::test]
    async fn a_replay_waits_for_room() {
        let outbox = outbox(4);
        outbox.push_data(&[frame("abcd")]);
        let waiting = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.room(2).await }
        });
        outbox.written(2);
        waiting.await.unwrap();
    }
}
