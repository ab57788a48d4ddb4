//! The thread that writes: what has queued up becomes one batch; one sync serves many batches.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::state::{Queued, Status};
use super::store::Store;
use super::{Access, Durability, Shared, epoch, free_bytes};
use crate::bus::BusError;
use crate::fail;

/// A batch takes appends until it has so much.
const BATCH_BYTES: u64 = 4 << 20;
/// A sync comes early when so much waits for it.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;
const UNSYNCED_APPENDS_MAX: usize = 1 << 16;
/// With less free than this, an error of the storage is put down to the disk.
const FULL_BYTES: u64 = 8 << 20;
/// A segment is begun when the active one has this part of the age that records are kept.
const AGE_PARTS: u32 = 8;

/// Starts the thread; what is returned turns true when it has ended.
pub(super) fn start(shared: Arc<Shared>, store: Store) -> std::io::Result<watch::Receiver<bool>> {
    let (ended, is_ended) = watch::channel(false);
    std::thread::Builder::new().name("stk-log".into()).spawn(move || {
        let mut writer = Writer::new(&shared, store);
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| writer.run()));
        let error = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(_) => Some("the writer's thread panicked".to_owned()),
        };
        if let Some(reason) = error {
            writer.fail(&reason);
            writer.wait_for_stop();
        }
        // In this order, the directory is free when the end is told.
        let segments = shared.state().take_segments();
        drop(writer);
        drop(segments);
        shared.end(Status::Closed);
        ended.send_replace(true);
    })?;
    Ok(is_ended)
}

struct Writer<'a> {
    shared: &'a Shared,
    store: Store,
    batch: Vec<Queued>,
    /// Written, not yet synced.
    unsynced: Vec<oneshot::Sender<Result<(), BusError>>>,
    unsynced_bytes: u64,
    sync_at: Option<Instant>,
    interval: Duration,
    age_ms_max: u64,
    segment_age_ms_max: u64,
    tick: Duration,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared, store: Store) -> Self {
        let age = shared.config.retention.age;
        let segment_age = age / AGE_PARTS;
        Self {
            shared,
            store,
            batch: Vec::new(),
            unsynced: Vec::new(),
            unsynced_bytes: 0,
            sync_at: None,
            interval: match shared.config.durability {
                Durability::Always => Duration::ZERO,
                Durability::Interval(interval) => interval,
            },
            age_ms_max: age.as_millis() as u64,
            segment_age_ms_max: segment_age.as_millis() as u64,
            tick: segment_age.clamp(Duration::from_millis(100), Duration::from_mins(1)),
        }
    }

    fn run(&mut self) -> Result<(), String> {
        loop {
            let is_stopping = self.take_batch();
            let is_idle = self.batch.is_empty();
            if !is_idle {
                self.write()?;
            }
            let is_due = self.sync_at.is_some_and(|at| at <= Instant::now())
                || self.unsynced_bytes >= UNSYNCED_BYTES_MAX
                || self.unsynced.len() >= UNSYNCED_APPENDS_MAX;
            if is_due || (is_stopping && is_idle) {
                self.sync()?;
            }
            self.retain()?;
            if is_stopping && is_idle {
                return self.seal();
            }
        }
    }

    /// Waits for something to do, takes what is queued, and tells whether the log is ending.
    fn take_batch(&mut self) -> bool {
        let tick_at = Instant::now() + self.tick;
        let deadline = self.sync_at.map_or(tick_at, |at| at.min(tick_at));
        let mut state = self.shared.state();
        while state.queue.is_empty() && !state.is_stopping && !state.is_release_new {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                break;
            };
            state = self.shared.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.is_release_new = false;
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some(append) = state.queue.pop_front()
        {
            bytes += append.bytes;
            self.batch.push(append);
        }
        state.is_stopping
    }

    fn write(&mut self) -> Result<(), String> {
        if let Some(segment) = self.store.roll((self.shared.clock)(), self.segment_age_ms_max)? {
            self.shared.state().begin_segment(segment);
        }
        let metrics = &self.shared.metrics;
        self.store.commit(self.batch.iter().flat_map(|append| &append.entries), metrics)?;
        fail::point("log.local.written");
        self.shared.state().set_written(self.batch.iter().flat_map(|append| &append.entries));
        let bytes: u64 = self.batch.iter().map(|append| append.bytes).sum();
        self.shared.metrics.queue_bytes.dec_by(bytes as i64);
        self.unsynced_bytes += bytes;
        self.unsynced.extend(self.batch.drain(..).map(|append| append.done));
        self.sync_at.get_or_insert_with(|| Instant::now() + self.interval);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), String> {
        self.sync_at = None;
        let begin = Instant::now();
        self.store.sync()?;
        fail::point("log.local.synced");
        self.shared.metrics.syncs.inc();
        self.shared.metrics.sync_seconds.inc_by(begin.elapsed().as_secs_f64());
        self.unsynced_bytes = 0;
        // Whoever let go of the future does not want to know.
        self.unsynced.drain(..).for_each(|done| drop(done.send(Ok(()))));
        Ok(())
    }

    /// Tells the next one to open the log that nothing is gone that was handed out.
    fn seal(&mut self) -> Result<(), String> {
        self.store.seal()?;
        fail::point("log.local.ended");
        if self.shared.config.access == Access::Write {
            let nexts = self.store.nexts().to_vec();
            // Without it the next one begins a new generation, in which nothing is lost either.
            if let Err(error) = epoch::seal(&self.shared.config.path, &self.shared.epoch, nexts) {
                tracing::warn!(path = self.shared.path(), %error, "can't tell that the log ended in good order");
            }
            fail::point("log.local.sealed");
            let segments = self.shared.state().segments();
            // The next opening takes longer, no more.
            if let Err(reason) = self.store.settle(&segments) {
                tracing::warn!(path = self.shared.path(), reason, "the journal of the log stays long");
            }
        }
        Ok(())
    }

    /// Drops what need not be kept.
    fn retain(&mut self) -> Result<(), String> {
        let now_ms = (self.shared.clock)();
        if self.batch.is_empty()
            && let Some(segment) = self.store.roll(now_ms, self.segment_age_ms_max)?
        {
            self.shared.state().begin_segment(segment);
        }
        loop {
            let expired = {
                let mut state = self.shared.state();
                let expired = state.take_expired(now_ms, self.age_ms_max, self.shared.config.retention.bytes);
                self.shared.metrics.held_bytes.set(state.held_bytes() as i64);
                expired
            };
            let Some((segment, records)) = expired else { break };
            self.store.drop_segment(segment);
            self.store.empty_dropped()?;
            fail::point("log.local.dropped");
            self.shared.metrics.trimmed_records.inc_by(records);
        }
        self.store.empty_dropped()
    }

    /// Takes no more appends; those not yet durable get the error.
    fn fail(&mut self, reason: &str) {
        let free_bytes = free_bytes(&self.shared.config.path).unwrap_or(u64::MAX);
        let bytes: u64 = self.batch.iter().map(|append| append.bytes).sum();
        let needed_bytes = bytes + FULL_BYTES;
        let (failed, pending) = if free_bytes < needed_bytes {
            let full = BusError::Full { path: self.shared.path(), free_bytes, needed_bytes };
            (BusError::FilledUp { path: self.shared.path(), reason: reason.to_owned() }, full)
        } else {
            let failed = self.shared.failed(reason);
            (failed.clone(), failed)
        };
        tracing::error!(error = %failed, "the log takes no more appends");
        // First the status, so that nothing is queued after the queue was emptied.
        self.shared.end(Status::Failed(failed));
        let queue = std::mem::take(&mut self.shared.state().queue);
        self.unsynced.extend(self.batch.drain(..).chain(queue).map(|append| append.done));
        self.unsynced.drain(..).for_each(|done| drop(done.send(Err(pending.clone()))));
        self.shared.metrics.queue_bytes.set(0);
    }

    /// A failed log can still be read, until it is closed.
    fn wait_for_stop(&self) {
        let mut state = self.shared.state();
        while !state.is_stopping {
            state = self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
