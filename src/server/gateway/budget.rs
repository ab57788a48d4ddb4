//! One budget of memory for everything that waits to be sent to clients. Where it is used up, the
//! clients that are furthest behind are closed until it is not.
//!
//! A frame counts once, however many connections wait for it, and for as long as one does.

use std::cmp::Reverse;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use foldhash::HashMap;
use tokio::time::Instant;

use super::outbox::Outbox;
use crate::server::metrics::GatewayMetrics;

/// Answers other than history may hold as much as this part of what the queues may, beside it.
const ANSWERS_PART: usize = 8;

type BytesGauge = prometheus_client::metrics::gauge::Gauge<i64, std::sync::atomic::AtomicI64>;

/// The budget, and the queues that share it.
pub(super) struct Budget {
    bytes_max: usize,
    metrics: GatewayMetrics,
    outboxes: Mutex<Outboxes>,
}

#[derive(Default)]
struct Outboxes {
    open: HashMap<u64, Weak<Outbox>>,
    next: u64,
}

/// Bytes that count until their last holder lets go of them.
struct Held {
    bytes: Bytes,
    waiting: BytesGauge,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.dec_by(self.bytes.len() as i64);
    }
}

fn held(bytes: Bytes, waiting: &BytesGauge) -> Bytes {
    waiting.inc_by(bytes.len() as i64);
    Bytes::from_owner(Held { bytes, waiting: waiting.clone() })
}

impl Budget {
    pub(super) fn new(bytes_max: usize, metrics: GatewayMetrics) -> Arc<Self> {
        Arc::new(Self { bytes_max, metrics, outboxes: Mutex::default() })
    }

    /// Bytes that wait, over all clients.
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.metrics.queue_bytes.get()).unwrap_or(0)
    }

    /// Counts `bytes` of a stream until its last clone is dropped.
    pub(super) fn hold(&self, bytes: Bytes) -> Bytes {
        held(bytes, &self.metrics.queue_bytes)
    }

    /// Counts `bytes` of an answer until its last clone is dropped. No client's queue holds them, so no
    /// stream is closed because of them.
    pub(super) fn hold_answer(&self, bytes: Bytes) -> Bytes {
        held(bytes, &self.metrics.answer_bytes)
    }

    /// Whether so much of other answers waits for its readers that no further one may be made.
    pub(super) fn is_full_of_answers(&self) -> bool {
        usize::try_from(self.metrics.answer_bytes.get()).unwrap_or(0) > self.bytes_max / ANSWERS_PART
    }

    /// A number for a queue that shares the budget.
    pub(super) fn register(&self, outbox: Weak<Outbox>) -> u64 {
        let mut outboxes = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        outboxes.next += 1;
        let number = outboxes.next;
        outboxes.open.insert(number, outbox);
        number
    }

    pub(super) fn unregister(&self, number: u64) {
        self.outboxes.lock().unwrap_or_else(PoisonError::into_inner).open.remove(&number);
    }

    fn outboxes(&self) -> Vec<Arc<Outbox>> {
        let outboxes = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        outboxes.open.values().filter_map(Weak::upgrade).collect()
    }

    /// Clients of live data for which much waits, and which take of it.
    pub(super) fn behind(&self) -> Vec<Arc<Outbox>> {
        let (mut outboxes, now) = (self.outboxes(), Instant::now());
        outboxes.retain(|outbox| outbox.is_live() && outbox.is_lagging() && !outbox.is_stalled(now));
        outboxes
    }

    /// Closes the slowest clients where more waits than the budget allows.
    pub(super) fn enforce(&self) {
        // Early, because what a closed client's task has taken comes free only when that runs.
        let bytes_high = self.bytes_max / 8 * 5;
        if self.bytes() <= bytes_high {
            return;
        }
        // Taken out of the lock first: the last holder of a queue takes it when it lets go.
        let outboxes = self.outboxes();
        let mut leaving = Leaving::default();
        let mut slowest = Vec::new();
        for outbox in &outboxes {
            match outbox.waiting_bytes() {
                0 => {}
                bytes if outbox.is_overflowed() => leaving.add(outbox, bytes),
                bytes => slowest.push((Reverse(bytes), outbox.first_frame(), outbox)),
            }
        }
        if self.bytes().saturating_sub(leaving.bytes) <= bytes_high {
            return;
        }
        // Those who wait for the same frames go one after the other: only the last of them frees these.
        slowest.sort_unstable_by_key(|(bytes, first, _)| (*bytes, *first));
        for (.., outbox) in slowest {
            // Some room is made, so that not every round has to close one.
            if self.bytes().saturating_sub(leaving.bytes) <= self.bytes_max / 2 {
                break;
            }
            outbox.overflow();
            self.metrics.clients_evicted.inc();
            leaving.add(outbox, outbox.waiting_bytes());
        }
    }
}

/// What clients that are being closed still hold: it comes free as soon as their tasks run.
#[derive(Default)]
struct Leaving {
    /// By the first of the frames that some share.
    shared: HashMap<usize, usize>,
    bytes: usize,
}

impl Leaving {
    fn add(&mut self, outbox: &Outbox, bytes: usize) {
        let Some(first) = outbox.first_frame() else {
            self.bytes += bytes;
            return;
        };
        let shared = self.shared.entry(first).or_default();
        self.bytes += bytes.saturating_sub(*shared);
        *shared = bytes.max(*shared);
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn outbox(budget: &Arc<Budget>) -> Arc<Outbox> {
        Outbox::open(usize::MAX, budget.clone(), CancellationToken::new(), Arc::default())
    }

    #[test]
    fn a_frame_counts_once_and_until_nobody_waits_for_it() {
        let budget = Budget::new(1_000, GatewayMetrics::default());
        let (first, second) = (outbox(&budget), outbox(&budget));
        let frame = budget.hold(Bytes::from(vec![0; 400]));
        for outbox in [&first, &second] {
            outbox.push_data(std::slice::from_ref(&frame));
        }
        drop(frame);
        assert_eq!(budget.bytes(), 400);
        drop(first);
        assert_eq!(budget.bytes(), 400);
        drop(second);
        assert_eq!(budget.bytes(), 0);
        assert!(budget.outboxes.lock().unwrap().open.is_empty());
    }

    #[test]
    fn the_slowest_are_closed_first_and_no_more_than_needed() {
        let budget = Budget::new(1_600, GatewayMetrics::default());
        let outboxes: Vec<_> = (0..4).map(|_| outbox(&budget)).collect();
        for (outbox, bytes) in outboxes.iter().zip([100, 500, 300, 90]) {
            outbox.push_data(&[budget.hold(Bytes::from(vec![0; bytes]))]);
        }
        budget.enforce();
        assert!(outboxes.iter().all(|outbox| !outbox.is_overflowed()), "990, of which 1000 may wait");
        outboxes[3].push_data(&[budget.hold(Bytes::from(vec![0; 60]))]);
        budget.enforce();
        let closed: Vec<_> = outboxes.iter().map(|outbox| outbox.is_overflowed()).collect();
        assert_eq!(closed, [false, true, false, false]);
        assert_eq!((budget.bytes(), budget.metrics.clients_evicted.get()), (550, 1));
    }

    #[test]
    fn those_who_share_frames_go_together() {
        let budget = Budget::new(1_600, GatewayMetrics::default());
        let outboxes: Vec<_> = (0..9).map(|_| outbox(&budget)).collect();
        let shared: Vec<_> = (0..3).map(|_| budget.hold(Bytes::from(vec![0; 400]))).collect();
        for (number, outbox) in outboxes.iter().enumerate() {
            outbox.push_data(std::slice::from_ref(&shared[number % 3]));
        }
        drop(shared);
        budget.enforce();
        let is_closed: Vec<_> = outboxes.iter().map(|outbox| outbox.is_overflowed()).collect();
        assert_eq!(budget.bytes(), 800);
        assert_eq!(is_closed.iter().filter(|is_closed| **is_closed).count(), 3);
        assert_eq!(is_closed[..3], is_closed[3..6]);
    }

    #[test]
    fn answers_that_nobody_reads_close_no_stream() {
        let budget = Budget::new(1_600, GatewayMetrics::default());
        let quick = outbox(&budget);
        quick.push_data(&[budget.hold(Bytes::from(vec![0; 10]))]);
        let answer = budget.hold_answer(Bytes::from(vec![0; 5_000]));
        budget.enforce();
        assert!(!quick.is_overflowed() && budget.is_full_of_answers());
        drop(answer);
        assert!(!budget.is_full_of_answers());
    }

    #[test]
    fn clients_that_are_leaving_already_are_waited_for() {
        let budget = Budget::new(1_600, GatewayMetrics::default());
        let (first, second) = (outbox(&budget), outbox(&budget));
        first.push_data(&[budget.hold(Bytes::from(vec![0; 900]))]);
        let mut writing = std::collections::VecDeque::new();
        first.take(&mut writing, usize::MAX);
        second.push_data(&[budget.hold(Bytes::from(vec![0; 200]))]);
        budget.enforce();
        budget.enforce();
        assert!(first.is_overflowed() && !second.is_overflowed());
        assert_eq!(budget.bytes(), 1_100, "its task has not run yet");
    }
}
