//! What stands in memory: the tail of each partition, the queue to the disk, the segments.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::LocalBusConfig;
use super::store::{Entry, Segment};
use crate::bus::{BusError, Record};

/// What a record in the ring costs besides its bytes.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// How the log stands to appends.
pub(super) enum Status {
    Open,
    /// No appends any more; the queue is still written.
    Closing,
    /// The thread has ended.
    Closed,
    Failed(BusError),
}

/// An append on its way to the disk.
pub(super) struct Queued {
    pub(super) entries: Vec<Entry>,
    pub(super) bytes: u64,
    pub(super) done: oneshot::Sender<Result<(), BusError>>,
    /// Freed when it is written.
    pub(super) _room: OwnedSemaphorePermit,
}

/// One partition's tail.
struct Partition {
    /// The newest records; those not yet written are always here.
    ring: VecDeque<Bytes>,
    ring_bytes: usize,
    next: u64,
    /// Before it everything is on disk and can be read there.
    written: u64,
    /// Before it everything may be dropped.
    released: u64,
}

impl Partition {
    fn ring_first(&self) -> u64 {
        self.next - self.ring.len() as u64
    }

    fn evict(&mut self, bytes_max: usize) {
        while self.ring_bytes > bytes_max && self.ring_first() < self.written {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_bytes -= oldest.len() + RECORD_OVERHEAD_BYTES;
        }
    }
}

/// Where records from an offset are to be had.
pub(super) enum Lookup {
    /// Here they are.
    Records(Vec<Record>),
    /// In this segment, up to before `to`.
    Segment { segment: Arc<Segment>, to: u64 },
    /// The log skipped it; it continues at this offset.
    Skip(u64),
    /// Not yet appended.
    Wait,
}

pub(super) struct State {
    pub(super) status: Status,
    pub(super) queue: VecDeque<Queued>,
    /// Since the last look at the disk: when, and how much may be appended until the next.
    pub(super) space_checked: Option<Instant>,
    pub(super) space_bytes: u64,
    /// Set by a release, taken by the writer.
    pub(super) is_release_new: bool,
    /// Set by closing, for the writer to end.
    pub(super) is_stopping: bool,
    partitions: Vec<Partition>,
    /// Oldest first; the last is written to. Empty only when closed.
    segments: VecDeque<Arc<Segment>>,
    /// Where the partitions began when it was closed.
    firsts: Vec<u64>,
    /// Of all records ever appended.
    bytes_total: u64,
    ring_bytes_max: usize,
}

impl State {
    pub(super) fn new(
        config: &LocalBusConfig,
        segments: Vec<Arc<Segment>>,
        nexts: Vec<u64>,
        bytes_total: u64,
    ) -> Self {
        let partition = |next| Partition {
            ring: VecDeque::new(),
            ring_bytes: 0,
            next,
            written: next,
            // Who derives from the log says anew how far it is.
            released: 0,
        };
        Self {
            status: Status::Open,
            queue: VecDeque::new(),
            space_checked: None,
            space_bytes: 0,
            is_release_new: false,
            is_stopping: false,
            firsts: Vec::new(),
            ring_bytes_max: (config.memory_bytes / 12) as usize / nexts.len(),
            partitions: nexts.into_iter().map(partition).collect(),
            segments: segments.into(),
            bytes_total,
        }
    }

    pub(super) fn check_open(&self) -> Result<(), BusError> {
        match &self.status {
            Status::Open => Ok(()),
            Status::Closing | Status::Closed => Err(BusError::Closed),
            Status::Failed(error) => Err(error.clone()),
        }
    }

    /// The oldest offset held.
    pub(super) fn first(&self, partition: u16) -> u64 {
        let index = usize::from(partition);
        self.segments.front().map_or_else(|| self.firsts[index], |segment| segment.starts[index])
    }

    /// The offset that the next record gets.
    pub(super) fn next(&self, partition: u16) -> u64 {
        self.partitions[usize::from(partition)].next
    }

    /// Bytes of the records held.
    pub(super) fn held_bytes(&self) -> u64 {
        self.segments.front().map_or(0, |segment| self.bytes_total - segment.bytes_before)
    }

    /// Bytes of the segments that hold a record not yet released.
    pub(super) fn unreleased_bytes(&self) -> u64 {
        let released = (1..self.segments.len()).take_while(|&index| self.is_released_before(index)).count();
        self.segments.get(released).map_or(0, |segment| self.bytes_total - segment.bytes_before)
    }

    /// Whether everything before segment `index` is released.
    fn is_released_before(&self, index: usize) -> bool {
        let mut pairs = self.partitions.iter().zip(&self.segments[index].befores);
        pairs.all(|(partition, before)| partition.released >= *before)
    }

    /// Appends to the tail and returns the offset.
    pub(super) fn push(&mut self, partition: u16, bytes: Bytes) -> u64 {
        self.bytes_total += bytes.len() as u64;
        let partition = &mut self.partitions[usize::from(partition)];
        partition.ring_bytes += bytes.len() + RECORD_OVERHEAD_BYTES;
        partition.ring.push_back(bytes);
        partition.next += 1;
        partition.evict(self.ring_bytes_max);
        partition.next - 1
    }

    /// `entries` can be read from the disk from now on.
    pub(super) fn set_written<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        for entry in entries {
            let partition = &mut self.partitions[usize::from(entry.partition)];
            partition.written = entry.offset + 1;
            partition.evict(self.ring_bytes_max);
        }
    }

    /// Whether the mark moved.
    pub(super) fn release(&mut self, partition: u16, offset: u64) -> bool {
        let partition = &mut self.partitions[usize::from(partition)];
        let moved = offset > partition.released;
        if moved {
            partition.released = offset.min(partition.next);
            self.is_release_new = true;
        }
        moved
    }

    pub(super) fn begin_segment(&mut self, segment: Arc<Segment>) {
        self.segments.push_back(segment);
    }

    /// Takes out the oldest segment, if it is released and too old or too much is held, and how
    /// many records it has.
    pub(super) fn take_expired(
        &mut self,
        now_ms: u64,
        age_ms_max: u64,
        bytes_max: u64,
    ) -> Option<(Arc<Segment>, u64)> {
        let next = self.segments.get(1)?;
        let is_old = now_ms.saturating_sub(next.created_ms) >= age_ms_max;
        if !self.is_released_before(1) || !(is_old || self.held_bytes() > bytes_max) {
            return None;
        }
        let records =
            next.befores.iter().zip(&self.segments[0].starts).map(|(next, first)| next - first).sum();
        Some((self.segments.pop_front()?, records))
    }

    /// Where to read on from `offset`.
    pub(super) fn lookup(&self, partition: u16, offset: u64, bytes_max: usize) -> Result<Lookup, BusError> {
        let index = usize::from(partition);
        let first = self.first(partition);
        if offset < first {
            return Err(BusError::Trimmed { partition, offset, first });
        }
        let tail = &self.partitions[index];
        if offset >= tail.next {
            return match &self.status {
                Status::Open => Ok(Lookup::Wait),
                Status::Closing | Status::Closed => Err(BusError::Closed),
                Status::Failed(error) => Err(error.clone()),
            };
        }
        let ring_first = tail.ring_first();
        if offset >= ring_first {
            let mut bytes_total = 0;
            let mut records = Vec::new();
            for (offset, bytes) in (offset..).zip(tail.ring.range((offset - ring_first) as usize..)) {
                records.push(Record { offset, bytes: bytes.clone() });
                bytes_total += bytes.len();
                if bytes_total >= bytes_max {
                    break;
                }
            }
            return Ok(Lookup::Records(records));
        }
        if self.segments.is_empty() {
            return Err(BusError::Closed);
        }
        let after = self.segments.partition_point(|segment| segment.starts[index] <= offset);
        let to = self.segments.get(after).map_or(tail.written, |segment| segment.befores[index]);
        if let Some(next) = self.segments.get(after)
            && offset >= to
        {
            return Ok(Lookup::Skip(next.starts[index]));
        }
        Ok(Lookup::Segment { segment: Arc::clone(&self.segments[after - 1]), to })
    }

    /// Oldest first.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.iter().cloned().collect()
    }

    /// Lets go of the files, so that the directory is free.
    pub(super) fn take_segments(&mut self) -> VecDeque<Arc<Segment>> {
        self.firsts = (0u16..).zip(&self.partitions).map(|(partition, _)| self.first(partition)).collect();
        std::mem::take(&mut self.segments)
    }
}
