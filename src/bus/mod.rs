//! The log that every tick goes through: partitioned, durable, read from any offset.
//!
//! [`Bus`] is the seam between one machine ([`local`]) and many ([`kafka`]). Records are opaque here: what
//! stands in them is `wire::record`'s business.

#[cfg(test)]
mod conformance;
pub mod epoch;
pub mod kafka;
pub mod local;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use self::epoch::{LogEpoch, Misfit};

/// A record as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the partition, from 0. Records follow on each other without holes, but for
    /// those that [`BusReader::is_hole`] vouches for.
    pub offset: u64,
    /// What was appended.
    pub bytes: Bytes,
}

/// The offsets a partition holds: `first <= offset < next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest record still held.
    pub first: u64,
    /// The offset that the next record will get.
    pub next: u64,
}

/// Why the log refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// The reader's offset was dropped by retention.
    #[error("offset {offset} of partition {partition} is no longer in the log, which begins at {first}")]
    Trimmed {
        /// The partition.
        partition: u16,
        /// What was asked for.
        offset: u64,
        /// The oldest offset still held.
        first: u64,
    },
    /// No such partition.
    #[error("the log has no partition {partition}; it has {partitions}")]
    NoPartition {
        /// What was asked for.
        partition: u16,
        /// How many there are.
        partitions: u16,
    },
    /// The disk is full. Nothing of the append was accepted.
    #[error("the disk of {path} is full: {free_bytes} bytes free, at least {needed_bytes} needed")]
    Full {
        /// Where the log lies.
        path: String,
        /// What is free.
        free_bytes: u64,
        /// What has to be free.
        needed_bytes: u64,
    },
    /// There is no such log, and it was to be there.
    #[error("there is no {path}")]
    Missing {
        /// What it is called, and where it was looked for.
        path: String,
    },
    /// Another process has the log open.
    #[error("{path} is open in another process")]
    Locked {
        /// Where the log lies.
        path: String,
    },
    /// The disk became full under the log; it takes no further appends until it is opened again.
    #[error("the disk of {path} became full: {reason}")]
    FilledUp {
        /// Where the log lies.
        path: String,
        /// What the storage said.
        reason: String,
    },
    /// The log can't be read or written; it takes no further appends.
    #[error("the log in {path} failed: {reason}")]
    Failed {
        /// Where the log lies.
        path: String,
        /// What the storage said.
        reason: String,
    },
    /// A record is larger than the log takes. Nothing of the append was accepted.
    #[error("a record of {bytes} bytes; the log in {path} takes at most {bytes_max}")]
    TooLarge {
        /// Where the log lies.
        path: String,
        /// The record's bytes.
        bytes: usize,
        /// The most it takes.
        bytes_max: usize,
    },
    /// A store beside the log holds rows of another log, or of another timeline of it. The log was not
    /// changed.
    #[error(transparent)]
    Misfit(Misfit),
    /// The log can't be reached, after waiting for it; it may answer later.
    #[error("the log in {path} can't be reached: {reason}")]
    Unavailable {
        /// Where the log lies.
        path: String,
        /// What was noticed.
        reason: String,
    },
    /// The log is closed.
    #[error("the log is closed")]
    Closed,
}

/// Resolves when an append is durable, with the offsets its records got, in their order.
pub type Durable = BoxFuture<'static, Result<Vec<u64>, BusError>>;

/// A partitioned, durable log.
#[async_trait::async_trait]
pub trait Bus: Send + Sync + 'static {
    /// How many partitions there are; fixed for the life of the log.
    fn partitions(&self) -> u16;

    /// Which log this is: by it a place of this log is told from one of another log, and from one
    /// whose records were handed out and lost. Fixed for as long as the log is open.
    fn epoch(&self) -> &LogEpoch;

    /// What of the log could not be read when it was opened, in words: records from there on are
    /// missing. `None` where all of it can be read.
    fn damage(&self) -> Option<&str> {
        None
    }

    /// Appends `records` (partition, bytes), all or none, in order within each partition.
    ///
    /// Returns as soon as they can be read; they are accepted only when the returned future has
    /// resolved. Waits while the disk is behind (back-pressure) and refuses when it is full.
    async fn append(&self, records: Vec<(u16, Bytes)>) -> Result<Durable, BusError>;

    /// What `partition` holds now.
    async fn bounds(&self, partition: u16) -> Result<Bounds, BusError>;

    /// What `partition` holds, as far as it is known without asking anybody: never more than
    /// [`Bus::bounds`] would say. For metrics, and wherever an answer a moment old will do.
    async fn bounds_seen(&self, partition: u16) -> Result<Bounds, BusError> {
        self.bounds(partition).await
    }

    /// A reader of `partition` whose first record will be the one at `from`, which may lie in the
    /// future (at most `bounds.next`).
    async fn reader(&self, partition: u16, from: u64) -> Result<Box<dyn BusReader>, BusError>;

    /// Takes part in processing the log with every other process that has joined: each partition is
    /// assigned to one of them at a time.
    async fn join(&self) -> Result<Box<dyn Membership>, BusError> {
        Ok(Box::new(Alone { gained: Some((0..self.partitions()).collect()) }))
    }

    /// Allows retention to drop records before `offset`: all that is derived from them is durable
    /// elsewhere. Records at or after the mark are kept whatever their age; appends wait rather
    /// than push them out. A lower offset than before takes back what has not been dropped yet, where
    /// what is derived can be lost without the log (a server's database that is put back to an older
    /// state); a local log ignores it.
    fn release(&self, partition: u16, offset: u64);
}

/// Reads one partition in order.
#[async_trait::async_trait]
pub trait BusReader: Send {
    /// Waits until there is a record, without polling, and returns those there are, at least one
    /// and at most about `bytes_max` bytes of them (one more than fits, so that a large record
    /// does not stop the reader). Where the log skipped offsets it returns none, and
    /// [`BusReader::offset`] is behind them. Cancel-safe.
    async fn next(&mut self, bytes_max: usize) -> Result<Vec<Record>, BusError>;

    /// The offset of the next record this reader will return.
    fn offset(&self) -> u64;

    /// Whether this reader has made sure where the log lies that there are no records in
    /// `from..to`, just before one of those that [`BusReader::next`] returned last. Any other hole
    /// is a loss, and who takes records in must not pass over it.
    fn is_hole(&self, _from: u64, _to: u64) -> bool {
        false
    }

    /// Whether `records`, which [`BusReader::next`] returned last, follow on `next`; otherwise
    /// (offset missed, offset found instead).
    fn check_follows(&self, mut next: u64, records: &[Record]) -> Result<(), (u64, u64)> {
        for Record { offset, .. } in records {
            if *offset < next || (*offset > next && !self.is_hole(next, *offset)) {
                return Err((next, *offset));
            }
            next = offset + 1;
        }
        Ok(())
    }
}

/// What happened to the partitions of a process that has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// These are this process's from now on.
    Gained(Vec<u16>),
    /// These are to be let go of: nobody has them before [`Membership::released`] is told so, or
    /// the bus has lost patience.
    Revoked(Vec<u16>),
    /// These are another process's already: this one was silent for too long.
    Lost(Vec<u16>),
}

/// A process's part in processing the log. Dropping it gives all its partitions up.
#[async_trait::async_trait]
pub trait Membership: Send {
    /// Waits for the next change. Cancel-safe.
    async fn next(&mut self) -> Result<Assignment, BusError>;

    /// Tells that nothing is processed any more of what [`Assignment::Revoked`] named.
    async fn released(&mut self, partitions: &[u16]);
}

/// The membership where no other process can have the log: all partitions, once.
struct Alone {
    gained: Option<Vec<u16>>,
}

#[async_trait::async_trait]
impl Membership for Alone {
    async fn next(&mut self) -> Result<Assignment, BusError> {
        match self.gained.take() {
            Some(gained) => Ok(Assignment::Gained(gained)),
            None => std::future::pending().await,
        }
    }

    async fn released(&mut self, _: &[u16]) {}
}
