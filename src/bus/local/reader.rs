//! Readers of a partition: from memory where they keep up, else from disk.

use std::sync::Arc;

use super::Shared;
use super::state::Lookup;
use crate::bus::{BusError, BusReader, Record};

/// Reads one partition: its tail from memory, what is further back from the disk.
pub(super) struct LocalReader {
    shared: Arc<Shared>,
    partition: u16,
    offset: u64,
}

impl LocalReader {
    pub(super) fn new(shared: Arc<Shared>, partition: u16, offset: u64) -> Self {
        Self { shared, partition, offset }
    }
}

#[async_trait::async_trait]
impl BusReader for LocalReader {
    async fn next(&mut self, bytes_max: usize) -> Result<Vec<Record>, BusError> {
        let Self { shared, partition, offset } = self;
        let partition = *partition;
        let records = loop {
            let from = *offset;
            let appended = shared.appended[usize::from(partition)].notified();
            tokio::pin!(appended);
            appended.as_mut().enable();
            let lookup = shared.state().lookup(partition, from, bytes_max)?;
            match lookup {
                Lookup::Records(records) => break records,
                Lookup::Segment { segment, to } => {
                    let read = move || segment.read(partition, from, to, bytes_max);
                    let records = tokio::task::spawn_blocking(read).await;
                    let records = records.unwrap_or_else(|panic| Err(panic.to_string()));
                    break records.map_err(|reason| shared.failed(reason))?;
                }
                Lookup::Skip(next) => {
                    *offset = next;
                    return Ok(Vec::new());
                }
                Lookup::Wait => appended.await,
            }
        };
        *offset += records.len() as u64;
        Ok(records)
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn is_hole(&self, from: u64, to: u64) -> bool {
        self.shared.epoch.is_skipped(self.partition, from, to)
    }
}
