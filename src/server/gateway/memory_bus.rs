//! A log in memory, bounded and without durability: what the test feed, the fan-out benchmark and
//! tests run a gateway on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::bus::epoch::{self, LogEpoch};
use crate::bus::{Bounds, Bus, BusError, BusReader, Durable, Record};

/// A log that keeps the last records of every partition in memory.
pub struct MemoryBus {
    epoch: LogEpoch,
    partitions: Arc<[Partition]>,
    records_max: usize,
}

struct Partition {
    records: Mutex<VecDeque<Record>>,
    next: watch::Sender<u64>,
}

impl Partition {
    fn records(&self) -> MutexGuard<'_, VecDeque<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryBus {
    /// An empty log of `partitions` that keeps `records_max` records of each.
    pub fn new(partitions: u16, records_max: usize) -> Self {
        let partition = |_| Partition { records: Mutex::default(), next: watch::Sender::new(0) };
        let epoch = LogEpoch::new(epoch::random_id());
        Self { epoch, partitions: (0..partitions).map(partition).collect(), records_max }
    }

    /// The same under an identity of the caller's choice.
    #[must_use]
    pub fn with_epoch(self, epoch: LogEpoch) -> Self {
        Self { epoch, ..self }
    }

    fn partition(&self, partition: u16) -> Result<&Partition, BusError> {
        let partitions = self.partitions.len() as u16;
        self.partitions.get(usize::from(partition)).ok_or(BusError::NoPartition { partition, partitions })
    }

    /// Appends one record and returns its offset.
    pub fn push(&self, partition: u16, bytes: Bytes) -> Result<u64, BusError> {
        let partition = self.partition(partition)?;
        let mut records = partition.records();
        let offset = *partition.next.borrow();
        records.push_back(Record { offset, bytes });
        if records.len() > self.records_max {
            records.pop_front();
        }
        partition.next.send_replace(offset + 1);
        Ok(offset)
    }
}

#[async_trait::async_trait]
impl Bus for MemoryBus {
    fn partitions(&self) -> u16 {
        self.partitions.len() as u16
    }

    fn epoch(&self) -> &LogEpoch {
        &self.epoch
    }

    async fn append(&self, records: Vec<(u16, Bytes)>) -> Result<Durable, BusError> {
        let offsets: Result<Vec<u64>, BusError> =
            records.into_iter().map(|(partition, bytes)| self.push(partition, bytes)).collect();
        let offsets = offsets?;
        Ok(Box::pin(std::future::ready(Ok(offsets))))
    }

    async fn bounds(&self, partition: u16) -> Result<Bounds, BusError> {
        let partition = self.partition(partition)?;
        let records = partition.records();
        let next = *partition.next.borrow();
        Ok(Bounds { first: next - records.len() as u64, next })
    }

    async fn reader(&self, partition: u16, from: u64) -> Result<Box<dyn BusReader>, BusError> {
        let changes = self.partition(partition)?.next.subscribe();
        Ok(Box::new(MemoryReader { partitions: self.partitions.clone(), partition, offset: from, changes }))
    }

    fn release(&self, _partition: u16, _offset: u64) {}
}

struct MemoryReader {
    partitions: Arc<[Partition]>,
    partition: u16,
    offset: u64,
    changes: watch::Receiver<u64>,
}

#[async_trait::async_trait]
impl BusReader for MemoryReader {
    async fn next(&mut self, bytes_max: usize) -> Result<Vec<Record>, BusError> {
        let wanted = self.offset;
        self.changes.wait_for(|next| *next > wanted).await.map_err(|_| BusError::Closed)?;
        let records = self.partitions[usize::from(self.partition)].records();
        let first = records.front().map_or(wanted, |record| record.offset);
        if first > wanted {
            return Err(BusError::Trimmed { partition: self.partition, offset: wanted, first });
        }
        let mut bytes = 0;
        let mut found = Vec::new();
        for record in records.iter().skip((wanted - first) as usize) {
            found.push(record.clone());
            bytes += record.bytes.len();
            if bytes >= bytes_max {
                break;
            }
        }
        self.offset += found.len() as u64;
        Ok(found)
    }

    fn offset(&self) -> u64 {
        self.offset
    }
}
