//! The intake's memory of producers: tells a batch that is sent again from one that readers would drop.
//!
//! Every reader of the log drops a record whose number does not rise above its producer's last number
//! ([`crate::tiering::producers`]). The intake uses the same memory: it begins with the state that the
//! processor saved in warm and with the log after it, so that numbers survive restarts. A batch that
//! readers would drop is refused unless the log already holds it.
//!
//! Where this process alone writes the log, its appends keep the memory up to date. Where other processes
//! append too, the memory follows the log: a batch is acknowledged once the memory has read its records
//! back and taken them in, as readers do. So it does not matter through which process a batch comes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use foldhash::HashMap;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::JoinSet;

use super::intake::IntakeError;
use crate::backoff::{Backoff, jitter_seed};
use crate::bus::{Bus, BusError, BusReader, Record};
use crate::tiering::producers::{self, PRODUCERS_MAX, RETIRED_MAX, Standing};
use crate::tiering::state::PartitionState;
use crate::tiering::warm::{Warm, WarmError};
use crate::wire::record::{self, Origin, RecordView, StoredNumbers};

/// Bytes of records read from the log at once.
const READ_BYTES_MAX: usize = 256 << 10;
/// How often warm and the log are asked before a batch is refused.
const TRIES_MAX: u32 = 10;
/// Locks of producers that are kept though nobody holds them.
const HOLDS_MAX: usize = 1024;

/// Why a batch is not taken in: readers would drop it, or keep it twice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The number is not above the last one, and is not known to be stored.
    #[error(
        "producer {producer} is at batch {last} already, and this batch is not among its last stored ones; \
         send new ticks under a number above {last}"
    )]
    Passed {
        /// The producer.
        producer: u64,
        /// Its highest number.
        last: u64,
    },
    /// Another batch is stored under the number.
    #[error(
        "producer {producer} stored other ticks under this number before; \
         send new ticks under a number above {last}"
    )]
    Differs {
        /// The producer.
        producer: u64,
        /// Its highest number.
        last: u64,
    },
    /// The producer is past the batch that this one follows.
    #[error(
        "producer {producer} is at batch {last}, but this batch follows on {after}: \
         another program brings the same stream at this moment; stop one of them"
    )]
    Overtaken {
        /// The producer.
        producer: u64,
        /// Its highest number.
        last: u64,
        /// The number that the batch follows on.
        after: u64,
    },
    /// The producer's numbers are no longer known.
    #[error(
        "producer {producer} was silent while {PRODUCERS_MAX} others were heard, and its numbers are no longer \
         known; see what history holds of it, and continue under a producer number that was never used"
    )]
    Retired {
        /// The producer.
        producer: u64,
    },
    /// No further producer can be told from earlier ones.
    #[error(
        "more than {RETIRED_MAX} producers have been heard, and no further ones can be told apart; \
         use the number of an earlier producer, and continue its batch numbers"
    )]
    Full,
}

/// One partition's memory.
#[derive(Default)]
struct Partition {
    memory: Mutex<producers::Producers>,
    /// The offset up to which the memory has followed a log that others write to.
    followed: watch::Sender<u64>,
}

impl Partition {
    fn memory(&self) -> MutexGuard<'_, producers::Producers> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The producers that the log has heard, as the intake knows them.
pub struct Producers {
    bus: Arc<dyn Bus>,
    warm: Option<Arc<dyn Warm>>,
    /// Whether other processes append to the log.
    is_shared: bool,
    partitions: Arc<[Partition]>,
    is_begun: AtomicBool,
    /// What follows a shared log, once the memory has begun.
    followers: tokio::sync::Mutex<JoinSet<()>>,
    holds: Mutex<HashMap<u64, Arc<tokio::sync::Mutex<()>>>>,
}

impl Producers {
    /// The producers of `bus`, whose processors save their state in `warm`; without it the log is read
    /// from its beginning. `is_shared`: other processes append to it too.
    pub fn new(bus: Arc<dyn Bus>, warm: Option<Arc<dyn Warm>>, is_shared: bool) -> Self {
        let partitions = (0..bus.partitions()).map(|_| Partition::default()).collect();
        Self {
            bus,
            warm,
            is_shared,
            partitions,
            is_begun: AtomicBool::new(false),
            followers: tokio::sync::Mutex::default(),
            holds: Mutex::default(),
        }
    }

    /// Reads what was stored before, unless that is done. Waits for a store that is away, for about a
    /// minute.
    pub async fn begin(&self) -> Result<(), IntakeError> {
        if self.is_begun.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut followers = self.followers.lock().await;
        if self.is_begun.load(Ordering::Acquire) {
            return Ok(());
        }
        followers.abort_all();
        let mut backoff = Backoff::new(jitter_seed());
        for partition in 0..self.bus.partitions() {
            let (memory, reader) = loop {
                match self.read(partition).await {
                    Ok(read) => break read,
                    Err(error) if error.is_passing() && backoff.tries() < TRIES_MAX => {
                        if backoff.tries() == 0 {
                            tracing::warn!(partition, %error, "cannot read the last numbers of producers yet; trying again");
                        }
                        tokio::time::sleep(backoff.next()).await;
                    }
                    Err(error) => return Err(IntakeError::Producers { reason: error.to_string() }),
                }
            };
            let held = &self.partitions[usize::from(partition)];
            *held.memory() = memory;
            held.followed.send_replace(reader.offset());
            if self.is_shared {
                followers.spawn(follow(self.bus.clone(), self.partitions.clone(), partition, reader));
            }
        }
        self.is_begun.store(true, Ordering::Release);
        Ok(())
    }

    /// The memory of a partition at the log's present end, and a reader there.
    async fn read(&self, partition: u16) -> Result<(producers::Producers, Box<dyn BusReader>), ReadError> {
        let mark = match &self.warm {
            Some(warm) => warm.mark(partition).await?,
            None => crate::tiering::warm::Mark::default(),
        };
        let state = PartitionState::restore(&mark.checkpoint);
        let mut memory = state.map_err(|error| ReadError::State(error.to_string()))?.into_producers();
        let bounds = self.bus.bounds(partition).await?;
        let from = mark.next_offset.clamp(bounds.first, bounds.next);
        let mut reader = self.bus.reader(partition, from).await?;
        while reader.offset() < bounds.next {
            let records = reader.next(READ_BYTES_MAX).await?;
            take_in(&mut memory, &records);
            tokio::task::yield_now().await;
        }
        Ok((memory, reader))
    }

    /// Makes the caller the only one that appends batches of `producer` in this process.
    pub async fn hold(&self, producer: u64) -> OwnedMutexGuard<()> {
        let lock = {
            let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
            if holds.len() >= HOLDS_MAX {
                holds.retain(|_, lock| Arc::strong_count(lock) > 1);
            }
            holds.entry(producer).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// Those of a batch's records (by partition) that the log does not hold. `after`: the batch continues a
    /// stream from that number.
    pub fn new_records(
        &self,
        records: Vec<(u16, Bytes)>,
        origin: Origin,
        after: Option<u64>,
    ) -> Result<Vec<(u16, Bytes)>, Refusal> {
        let Origin { producer, .. } = origin;
        let mut new = Vec::with_capacity(records.len());
        for (partition, bytes) in records {
            let memory = self.partitions[usize::from(partition)].memory();
            match memory.look(origin, record::checksum(&bytes)) {
                Standing::New => {}
                Standing::Stored => continue,
                Standing::Differs(last) => return Err(Refusal::Differs { producer, last }),
                Standing::Passed(last) => return Err(Refusal::Passed { producer, last }),
                Standing::Retired => return Err(Refusal::Retired { producer }),
                Standing::Full => return Err(Refusal::Full),
            }
            if let (Some(last), Some(after)) = (memory.last(producer), after)
                && last > after
            {
                return Err(Refusal::Overtaken { producer, last, after });
            }
            new.push((partition, bytes));
        }
        Ok(new)
    }

    /// Refuses a retired producer: readers have forgotten its batches, and would store a repeated one again.
    pub async fn check_known(&self, producer: u64) -> Result<(), IntakeError> {
        self.begin().await?;
        let is_retired = self.partitions.iter().any(|partition| {
            let memory = partition.memory();
            memory.last(producer).is_none() && memory.is_retired(producer)
        });
        if is_retired { Err(Refusal::Retired { producer }.into()) } else { Ok(()) }
    }

    /// Takes note of records that were appended, each by its partition and checksum.
    pub fn appended(&self, origin: Origin, records: &[(u16, u32)]) {
        // A memory that follows the log meets them there.
        if !self.is_shared {
            for (partition, checksum) in records {
                self.partitions[usize::from(*partition)].memory().admit(origin, *checksum);
            }
        }
    }

    /// What was appended is not durable: the memory is read again before it is asked again.
    pub fn failed(&self) {
        if !self.is_shared {
            self.is_begun.store(false, Ordering::Release);
        }
    }

    /// Waits until readers have met records that are durable at `offsets`, and says whether they keep them.
    pub async fn kept(&self, origin: Origin, records: &[(u16, u32)], offsets: &[u64]) -> Result<(), Refusal> {
        if !self.is_shared {
            return Ok(());
        }
        for ((partition, checksum), offset) in records.iter().zip(offsets) {
            let partition = &self.partitions[usize::from(*partition)];
            let mut followed = partition.followed.subscribe();
            // The sender lives as long as the partitions do.
            let _ = followed.wait_for(|followed| followed > offset).await;
            let standing = partition.memory().look(origin, *checksum);
            if let Standing::Differs(last) | Standing::Passed(last) = standing {
                return Err(Refusal::Passed { producer: origin.producer, last });
            }
        }
        Ok(())
    }

    /// What the log holds of `producer` at this moment.
    pub async fn stored(&self, producer: u64) -> Result<StoredNumbers, IntakeError> {
        self.begin().await?;
        let mut stored = StoredNumbers::default();
        for (number, partition) in (0..).zip(&*self.partitions) {
            if self.is_shared {
                let next = self.bus.bounds(number).await?.next;
                let _ = partition.followed.subscribe().wait_for(|followed| *followed >= next).await;
            }
            let memory = partition.memory();
            let last = memory.last(producer);
            stored.is_retired |= last.is_none() && memory.is_retired(producer);
            stored.last.push(last);
            stored.first = stored.first.into_iter().chain(memory.first(producer)).min();
        }
        Ok(stored)
    }
}

/// Why the memory could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Warm(#[from] WarmError),
    #[error("{0}")]
    State(String),
}

impl ReadError {
    fn is_passing(&self) -> bool {
        match self {
            // Warm's mark has moved on meanwhile, and retention with it.
            Self::Bus(error) => matches!(error, BusError::Unavailable { .. } | BusError::Trimmed { .. }),
            Self::Warm(error) => error.is_passing(),
            Self::State(_) => false,
        }
    }
}

/// Takes records in as every reader does. One that can't be read ends every reader, and says nothing here.
fn take_in(memory: &mut producers::Producers, records: &[Record]) {
    for record in records {
        if let Ok(view) = RecordView::parse(&record.bytes) {
            memory.admit(view.origin, view.checksum());
        }
    }
}

/// Keeps a partition's memory at the end of a log that others write to.
async fn follow(
    bus: Arc<dyn Bus>,
    partitions: Arc<[Partition]>,
    number: u16,
    mut reader: Box<dyn BusReader>,
) {
    let partition = &partitions[usize::from(number)];
    let mut backoff = Backoff::new(jitter_seed());
    // Logged once when the log can't be followed any more, and once when it is followed again.
    let is_stopped = AtomicBool::new(false);
    let stopped = |error: &BusError| {
        if !is_stopped.swap(true, Ordering::Relaxed) {
            tracing::warn!(partition = number, %error, "the numbers of producers can't be followed; trying again");
        }
    };
    loop {
        let offset = reader.offset();
        let from = match reader.next(READ_BYTES_MAX).await {
            Ok(records) => {
                take_in(&mut partition.memory(), &records);
                partition.followed.send_replace(reader.offset());
                backoff.reset();
                if is_stopped.swap(false, Ordering::Relaxed) {
                    tracing::info!(partition = number, "the numbers of producers are followed again");
                }
                continue;
            }
            Err(BusError::Trimmed { first, .. }) => first,
            Err(error) => {
                stopped(&error);
                offset
            }
        };
        loop {
            tokio::time::sleep(backoff.next()).await;
            match bus.reader(number, from).await {
                Ok(opened) => break reader = opened,
                Err(error) => stopped(&error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::bus::epoch::LogEpoch;
    use crate::bus::{Bounds, Durable};
    use crate::market::{PrevClose, Price, Tick, Timestamp};
    use crate::server::gateway::MemoryBus;
    use crate::server::intake::{Intake, IntakeMetrics};

    fn tick(id: u64) -> Tick {
        let (ts, price) = (Timestamp::from_nanos(id as i64), Price::from_nanos(1_000).unwrap());
        Tick::PrevClose(PrevClose { symbol: "A".parse().unwrap(), ts, recv_ts: ts, price })
    }

    /// Sends batch `sequence` of producer 7 with the tick `id`: what is wrong with it, if anything.
    async fn send(intake: &mut Intake, sequence: u64, id: u64) -> Result<(), String> {
        let origin = Origin { producer: 7, sequence };
        let appended = intake.take(&[tick(id)], origin, None).await.map_err(|error| error.to_string())?;
        appended.durable.await.map(|_| ()).map_err(|error| error.to_string())
    }

    /// The numbers of the records that readers keep.
    async fn kept(bus: &MemoryBus) -> Vec<u64> {
        let (mut memory, mut kept) = (producers::Producers::default(), Vec::new());
        let next = bus.bounds(0).await.unwrap().next;
        let mut reader = bus.reader(0, 0).await.unwrap();
        while reader.offset() < next {
            for record in reader.next(1 << 20).await.unwrap() {
                let view = RecordView::parse(&record.bytes).unwrap();
                if memory.admit(view.origin, view.checksum()) {
                    kept.push(view.origin.sequence);
                }
            }
        }
        kept
    }

    fn intake(bus: &Arc<MemoryBus>, is_shared: bool) -> Intake {
        let producers = Producers::new(bus.clone(), None, is_shared);
        Intake::new(bus.clone(), IntakeMetrics::default()).with_producers(Arc::new(producers))
    }

    #[tokio::test]
    async fn numbers_survive_a_restart_and_hold_for_every_process() {
        let bus = Arc::new(MemoryBus::new(1, 1_000));
        let mut first = intake(&bus, true);
        for sequence in [1, 2, 10, 11] {
            send(&mut first, sequence, sequence).await.unwrap();
        }
        // Another process at the same time, and one that is started later.
        for mut other in [intake(&bus, true), intake(&bus, false)] {
            let refused = send(&mut other, 5, 5).await.unwrap_err();
            assert!(refused.starts_with("producer 7 is at batch 11 already"), "{refused}");
            let refused = send(&mut other, 1, 100).await.unwrap_err();
            assert!(refused.starts_with("producer 7 stored other ticks under this number"), "{refused}");
            send(&mut other, 10, 10).await.expect("it is stored");
        }
        assert_eq!(kept(&bus).await, [1, 2, 10, 11]);
        assert_eq!(bus.bounds(0).await.unwrap().next, 4, "what is stored is not appended again");
    }

    /// A log whose readers fail, and can't be opened, a number of times.
    struct Away {
        bus: Arc<MemoryBus>,
        failures_left: Arc<AtomicU32>,
    }

    fn fails(left: &AtomicU32) -> Result<(), BusError> {
        let left = left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let away = || BusError::Unavailable { path: "here".to_owned(), reason: "it is away".to_owned() };
        left.map_or(Ok(()), |_| Err(away()))
    }

    #[async_trait::async_trait]
    impl Bus for Away {
        fn partitions(&self) -> u16 {
            self.bus.partitions()
        }

        fn epoch(&self) -> &LogEpoch {
            self.bus.epoch()
        }

        async fn append(&self, records: Vec<(u16, Bytes)>) -> Result<Durable, BusError> {
            self.bus.append(records).await
        }

        async fn bounds(&self, partition: u16) -> Result<Bounds, BusError> {
            self.bus.bounds(partition).await
        }

        async fn reader(&self, partition: u16, from: u64) -> Result<Box<dyn BusReader>, BusError> {
            fails(&self.failures_left)?;
            let reader = self.bus.reader(partition, from).await?;
            Ok(Box::new(AwayReader { reader, failures_left: self.failures_left.clone() }))
        }

        fn release(&self, partition: u16, offset: u64) {
            self.bus.release(partition, offset);
        }
    }

    struct AwayReader {
        reader: Box<dyn BusReader>,
        failures_left: Arc<AtomicU32>,
    }

    #[async_trait::async_trait]
    impl BusReader for AwayReader {
        async fn next(&mut self, bytes_max: usize) -> Result<Vec<Record>, BusError> {
            let records = self.reader.next(bytes_max).await?;
            // What it can't hand out is read again.
            fails(&self.failures_left).map(|()| records)
        }

        fn offset(&self) -> u64 {
            self.reader.offset()
        }
    }

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Logged(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Logged {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_is_away_is_logged_once_and_again_when_it_is_back() {
        let logged = Logged::default();
        let writer = logged.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        let _guard = tracing::subscriber::set_default(subscriber.finish());
        let failures_left = Arc::new(AtomicU32::new(0));
        let memory = Arc::new(MemoryBus::new(1, 1_000));
        let bus: Arc<dyn Bus> = Arc::new(Away { bus: memory, failures_left: failures_left.clone() });
        let producers = Producers::new(bus.clone(), None, true);
        let mut intake =
            Intake::new(bus.clone(), IntakeMetrics::default()).with_producers(Arc::new(producers));
        for round in 1..=2 {
            send(&mut intake, 2 * round, 2 * round).await.unwrap();
            failures_left.store(5, Ordering::Relaxed);
            send(&mut intake, 2 * round + 1, 2 * round + 1).await.unwrap();
            assert_eq!(failures_left.load(Ordering::Relaxed), 0);
            let said = String::from_utf8(logged.0.lock().unwrap().clone()).unwrap();
            let lines = |text: &str| said.lines().filter(|line| line.contains(text)).count() as u64;
            assert_eq!(lines("can't be followed; trying again"), round, "{said}");
            assert_eq!(lines("are followed again"), round, "{said}");
        }
    }

    #[tokio::test]
    async fn what_two_processes_acknowledge_at_once_is_kept_by_readers() {
        let bus = Arc::new(MemoryBus::new(1, 100_000));
        let mut acknowledged = Vec::new();
        let mut feeds = [intake(&bus, true), intake(&bus, true)];
        for round in 0..500_u64 {
            // Neither of the two knows of the other's batch when it appends its own.
            let (low, high) = (2 * round + 1, 2 * round + 2);
            let [one, two] = &mut feeds;
            let (low_sent, high_sent) = tokio::join!(send(one, low, low), send(two, high, high));
            high_sent.expect("nothing is above it");
            acknowledged.extend(low_sent.is_ok().then_some(low));
            acknowledged.push(high);
            // The other process takes the same again.
            send(one, high, high).await.expect("a repeat");
        }
        assert_eq!(kept(&bus).await, acknowledged);
    }

    #[tokio::test]
    async fn a_stream_that_two_programs_bring_is_not_stored_twice() {
        let bus = Arc::new(MemoryBus::new(1, 1_000));
        let mut intake = intake(&bus, false);
        let mut take = async |after, sequence| {
            let origin = Origin { producer: 9, sequence };
            intake.take(&[tick(sequence)], origin, Some(after)).await.map(|_| ())
        };
        take(0, 20).await.unwrap();
        take(0, 20).await.expect("it is stored");
        let refused = take(15, 25).await.unwrap_err().to_string();
        assert!(refused.contains("is at batch 20, but this batch follows on 15"), "{refused}");
        take(20, 25).await.unwrap();
        assert_eq!(kept(&bus).await, [20, 25]);
    }
}
