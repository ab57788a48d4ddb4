//! Readers of a partition: from memory where they keep up, else from the brokers.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;

use super::pool::{Lease, Pool, Reading};
use super::tail::{Lookup, Tail};
use super::{FELL_BACK, RETRY_WAIT_MAX, Shared};
use crate::bus::{Bounds, BusError, BusReader, Record};
use crate::kafka::{code_of, is_final, is_out_of_range};

/// Reads one partition.
pub(super) struct KafkaReader {
    shared: Arc<Shared>,
    tail: Arc<Tail>,
    pool: Arc<Pool>,
    partition: u16,
    offset: u64,
    /// Read from the brokers and not yet returned; the first one is at `offset` or after.
    fetched: VecDeque<Record>,
    /// Where the log ended when it was asked last; the brokers have at least what is before.
    known_next: Option<u64>,
    lease: Arc<Lease>,
    /// What the client in the lease was borrowed for. The log reached up to there by then, so an
    /// end that it tells of lies there or behind; of what was appended since, it says nothing.
    lent_until: u64,
    /// The client has told of a trouble that may have cost it a record.
    is_doubtful: bool,
    /// Where the brokers have no records (from, to), in order; those not yet passed.
    holes: Vec<(u64, u64)>,
}

impl KafkaReader {
    pub(super) fn new(
        shared: Arc<Shared>,
        tail: Arc<Tail>,
        pool: Arc<Pool>,
        partition: u16,
        offset: u64,
    ) -> Self {
        tail.enter(partition);
        Self {
            shared,
            tail,
            pool,
            partition,
            offset,
            fetched: VecDeque::new(),
            known_next: None,
            lease: Arc::default(),
            lent_until: 0,
            is_doubtful: false,
            holes: Vec::new(),
        }
    }

    /// The offset of the next record to be fetched.
    fn position(&self) -> u64 {
        self.fetched.back().map_or(self.offset, |record| record.offset + 1)
    }

    /// What was fetched, as much as fits.
    fn take_fetched(&mut self, bytes_max: usize) -> Vec<Record> {
        let mut bytes = 0;
        let fits = |record: &&Record| {
            bytes += record.bytes.len();
            bytes <= bytes_max
        };
        let count = self.fetched.iter().take_while(fits).count().max(1).min(self.fetched.len());
        self.fetched.drain(..count).collect()
    }

    /// The brokers have no records from `from` to `to`.
    fn hole(&mut self, from: u64, to: u64) {
        tracing::debug!(log = self.shared.name, partition = self.partition, from, to, "no records");
        match self.holes.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => self.holes.push((from, to)),
        }
    }

    /// Fetches about `bytes_max` bytes of what is before `until`, where the log reaches by now: at
    /// least one record, unless there turns out to be none or it has to be tried again.
    async fn catch_up(&mut self, until: u64, bytes_max: usize) -> Result<(), BusError> {
        let lease = self.lease.clone();
        // Ends after the lock.
        let _reading = Reading(self.pool.clone());
        let mut client = lease.client.lock().await;
        self.pool.touch(&lease);
        if client.is_none() {
            *client = Some(self.pool.borrow(&lease, self.partition, self.position()).await?);
            (self.lent_until, self.is_doubtful) = (until, false);
        }
        let Some(consumer) = client.as_ref() else { return Ok(()) };
        let mut bytes = 0;
        while bytes < bytes_max && self.position() < until {
            let received = if self.fetched.is_empty() {
                tokio::select! {
                    received = consumer.recv() => received,
                    () = self.shared.closed.cancelled() => return Err(self.shared.ended()),
                }
            } else {
                match consumer.recv().now_or_never() {
                    Some(received) => received,
                    None => break,
                }
            };
            match received {
                Ok(message) => {
                    let offset = message.offset().max(0) as u64;
                    if offset < self.position() {
                        continue;
                    }
                    // A client reads all that there is: what it leaves out are Kafka's own marks.
                    if offset > self.position() {
                        if self.is_doubtful {
                            tracing::warn!(log = self.shared.name, offset, "a hole; reading it again");
                            drop(message);
                            self.pool.give_back_of(&mut client);
                            break;
                        }
                        self.hole(self.position(), offset);
                    }
                    let payload = message.payload().unwrap_or_default();
                    bytes += payload.len();
                    self.shared.metrics.catch_up_records.inc();
                    self.shared.metrics.observe_record(payload.len());
                    self.fetched.push_back(Record { offset, bytes: Bytes::copy_from_slice(payload) });
                }
                Err(KafkaError::PartitionEOF(_)) => {
                    // All that there was has come. A client tells of an end once, so who has to
                    // know whether it is one still asks with another.
                    self.pool.give_back_of(&mut client);
                    // What is left before `until` are Kafka's own marks.
                    if self.fetched.is_empty() && self.lent_until >= until && !self.is_doubtful {
                        self.hole(self.offset, until);
                        self.offset = until;
                    }
                    break;
                }
                Err(error) if is_out_of_range(&error) => {
                    self.pool.give_back_of(&mut client);
                    let bounds = self.shared.ask_bounds(self.partition).await?;
                    return self.check(bounds);
                }
                Err(error) if code_of(&error).is_some_and(is_final) => {
                    self.pool.give_back_of(&mut client);
                    return Err(self.shared.error(&error));
                }
                // The brokers are away, all of them: a new client asks the first ones again, whatever this one
                // has learned since.
                Err(error) if code_of(&error) == Some(RDKafkaErrorCode::AllBrokersDown) => {
                    tracing::debug!(log = self.shared.name, %error, "catching up with a new client");
                    self.pool.forsake(&mut client);
                    drop(client);
                    self.shared.metrics.retries.inc();
                    tokio::select! {
                        () = tokio::time::sleep(RETRY_WAIT_MAX) => return Ok(()),
                        () = self.shared.closed.cancelled() => return Err(self.shared.ended()),
                    }
                }
                // librdkafka comes back by itself.
                Err(error) => {
                    tracing::debug!(log = self.shared.name, %error, "catching up");
                    self.is_doubtful = true;
                }
            }
        }
        if self.position() >= until {
            self.pool.give_back_of(&mut client);
        }
        Ok(())
    }

    /// Whether the next record can be in a log that holds `bounds`.
    fn check(&self, bounds: Bounds) -> Result<(), BusError> {
        let (partition, offset) = (self.partition, self.position());
        if offset < bounds.first {
            return Err(BusError::Trimmed { partition, offset, first: bounds.first });
        }
        if offset > bounds.next {
            return Err(self.shared.failed(format!(
                "partition {partition} ends at offset {}, but was read up to {offset}: {FELL_BACK}",
                bounds.next
            )));
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl BusReader for KafkaReader {
    async fn next(&mut self, bytes_max: usize) -> Result<Vec<Record>, BusError> {
        let offset = self.offset;
        self.holes.retain(|(_, to)| *to >= offset);
        let records = loop {
            if !self.fetched.is_empty() {
                break self.take_fetched(bytes_max);
            }
            let tail = self.tail.clone();
            let appended = tail.appended(self.partition);
            tokio::pin!(appended);
            appended.as_mut().enable();
            if self.shared.closed.is_cancelled() {
                return Err(self.shared.ended());
            }
            match tail.lookup(self.partition, self.offset, bytes_max) {
                Lookup::Records(records) => break records,
                Lookup::Wait => appended.await,
                Lookup::Behind(first) => self.catch_up(first, bytes_max).await?,
                Lookup::Failed(reason) => return Err(self.shared.failed(reason)),
                Lookup::Idle => match self.known_next {
                    Some(next) if self.offset < next => self.catch_up(next, bytes_max).await?,
                    Some(_) => {
                        self.known_next = None;
                        self.tail.follow_from(self.partition, self.offset);
                    }
                    None => {
                        let bounds = self.shared.ask_bounds(self.partition).await?;
                        self.check(bounds)?;
                        self.known_next = Some(bounds.next);
                    }
                },
            }
        };
        if let Some(last) = records.last() {
            self.offset = last.offset + 1;
        }
        Ok(records)
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn is_hole(&self, from: u64, to: u64) -> bool {
        self.holes.iter().any(|hole| hole.0 <= from && to <= hole.1)
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        // Who holds the lock has taken it for himself.
        if let Ok(mut client) = self.lease.client.try_lock() {
            self.pool.give_back_of(&mut client);
        }
        self.tail.leave(self.partition);
    }
}
