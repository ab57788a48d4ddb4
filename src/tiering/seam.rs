//! The seam between the log and warm: whether the record before a partition's mark is still the one that
//! the processor took in last.
//!
//! A log that was made again, or put back from an older copy, gives its offsets to other records. By
//! offsets alone nobody can tell: once it has grown past the mark, it looks like a log that went on. So
//! each block carries the checksum of its last record, and who goes on at the mark, or accepts records
//! behind it, compares it with what the log holds there.

use std::time::Duration;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::warm::Mark;
use crate::bus::{Bounds, Bus, BusError};

/// How long a reader is waited for. The log has said that it reaches further.
const READ_TIME_MAX: Duration = Duration::from_mins(1);

/// Warm ends behind the log: one of the two was replaced, or the log lost its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "partition {partition}: warm ends at offset {warm_offset}, but the log at {log_offset}; they do not belong together"
)]
pub struct Ahead {
    /// The partition.
    pub partition: u16,
    /// Where warm ends.
    pub warm_offset: u64,
    /// Where the log ends.
    pub log_offset: u64,
}

/// Compares where warm and the log end, in `partition`. The mark of warm has to be asked for first, since
/// both go on meanwhile.
pub fn check(partition: u16, warm_offset: u64, log_offset: u64) -> Result<(), Ahead> {
    if warm_offset <= log_offset { Ok(()) } else { Err(Ahead { partition, warm_offset, log_offset }) }
}

/// Why a log and a mark do not fit together.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SeamError {
    /// The log ends before the mark.
    #[error("{}: {}", .0, WAY_ON)]
    Ahead(#[from] Ahead),
    /// The log holds another record before the mark than the one that was taken in, or none.
    #[error(
        "partition {partition}: the log's record at offset {offset} is not the one that warm took in there; they do not belong together: {}",
        WAY_ON
    )]
    OtherRecord {
        /// The partition.
        partition: u16,
        /// The record's offset.
        offset: u64,
    },
    /// The log can't be read.
    #[error("partition {partition}: {source}")]
    Bus {
        /// The partition.
        partition: u16,
        /// What the log said.
        source: BusError,
    },
}

/// What to do where a log does not fit to its warm store.
const WAY_ON: &str = "the log was made again or put back from an older copy. Put back the log as it was, or begin \
     with a new topic and a new database (log.kafka_topic and warm.clickhouse_database; without servers, move \
     the directory `warm` away, and it is filled from the log again); the old days stay in the old one";

/// The checksum of a record, as a seam has it.
pub fn of(record: &[u8]) -> u64 {
    // 0 stands for a seam that is not known.
    xxh3_64(record).max(1)
}

/// Makes sure that `bus`, which holds `bounds` of `partition`, has the record before `mark` that was taken
/// in there. One that has been trimmed, and one of a mark without a seam, are not looked at.
pub async fn check_record(
    bus: &dyn Bus,
    partition: u16,
    bounds: Bounds,
    mark: &Mark,
) -> Result<(), SeamError> {
    check(partition, mark.next_offset, bounds.next)?;
    let Some(seam) = mark.seam.filter(|_| mark.next_offset > bounds.first) else { return Ok(()) };
    let offset = mark.next_offset - 1;
    if bus.epoch().skipped(partition, offset).is_some() {
        // Of a lost timeline: the log has no record there.
        return Ok(());
    }
    match record_at(bus, partition, offset).await {
        Ok(record) if record.as_deref().map(of) == Some(seam) => Ok(()),
        Ok(_) => Err(SeamError::OtherRecord { partition, offset }),
        // Retention was quicker.
        Err(BusError::Trimmed { .. }) => Ok(()),
        Err(source) => Err(SeamError::Bus { partition, source }),
    }
}

/// The record before `next_offset` of `partition`; `None` where `bus` has none there, or none any more.
pub async fn record_before(
    bus: &dyn Bus,
    partition: u16,
    next_offset: u64,
) -> Result<Option<Bytes>, BusError> {
    let bounds = bus.bounds(partition).await?;
    if next_offset <= bounds.first || next_offset > bounds.next {
        return Ok(None);
    }
    match record_at(bus, partition, next_offset - 1).await {
        Err(BusError::Trimmed { .. }) => Ok(None),
        read => read,
    }
}

/// The record at `offset` of `partition`, which is below the log's end; `None` where that offset has no record.
pub(crate) async fn record_at(bus: &dyn Bus, partition: u16, offset: u64) -> Result<Option<Bytes>, BusError> {
    for _ in 0..2 {
        let read = tokio::time::timeout(READ_TIME_MAX, async {
            let mut reader = bus.reader(partition, offset).await?;
            Ok::<_, BusError>(reader.next(1).await?.into_iter().next())
        });
        if let Ok(record) = read.await {
            return Ok(record?.filter(|record| record.offset == offset).map(|record| record.bytes));
        }
        // Of a log that hangs this is the error. Of one that answers, a second reader has to wait in vain too
        // before it counts as having no record there.
        bus.bounds(partition).await?;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::bus::local::{LocalBus, LocalBusConfig};
    use crate::tiering::history::tests::FakeBus;

    async fn append(bus: &LocalBus, records: &[&'static str]) {
        let records = records.iter().map(|record| (0, Bytes::from_static(record.as_bytes()))).collect();
        bus.append(records).await.unwrap().await.unwrap();
    }

    async fn checked(bus: &LocalBus, next_offset: u64, seam: Option<u64>) -> Result<(), SeamError> {
        let mark = Mark { next_offset, seam, ..Mark::default() };
        check_record(bus, 0, bus.bounds(0).await.unwrap(), &mark).await
    }

    #[tokio::test]
    async fn another_record_before_the_mark_is_noticed_however_long_the_log_is() {
        let dir = tempfile::tempdir().unwrap();
        let bus = LocalBus::open(LocalBusConfig::new(dir.path(), 1)).unwrap();
        checked(&bus, 0, None).await.unwrap();
        append(&bus, &["a", "b", "c"]).await;
        let seam = Some(of(b"b"));
        checked(&bus, 2, seam).await.unwrap();
        checked(&bus, 3, Some(of(b"c"))).await.unwrap();
        checked(&bus, 2, None).await.unwrap();
        let other = checked(&bus, 2, Some(of(b"B"))).await.unwrap_err();
        assert!(matches!(other, SeamError::OtherRecord { partition: 0, offset: 1 }), "{other}");
        assert!(other.to_string().contains("begin with a new topic"), "{other}");
        let ahead = checked(&bus, 4, seam).await.unwrap_err();
        assert!(matches!(ahead, SeamError::Ahead(Ahead { warm_offset: 4, log_offset: 3, .. })), "{ahead}");
        bus.close().await;
    }

    /// Else an outage of a minute would part a log from its archive.
    #[tokio::test(start_paused = true)]
    async fn a_log_that_hangs_is_not_taken_for_another_one() {
        let bus = FakeBus::new();
        bus.push(0, Bytes::from_static(b"a"));
        let mark = Mark { next_offset: 1, seam: Some(of(b"a")), ..Mark::default() };
        let bounds = bus.bounds(0).await.unwrap();
        let check = async || check_record(&*bus, 0, bounds, &mark).await;
        check().await.unwrap();
        bus.hangs.store(true, Ordering::Relaxed);
        bus.is_away.store(true, Ordering::Relaxed);
        let away = check().await.unwrap_err();
        assert!(matches!(away, SeamError::Bus { partition: 0, .. }), "{away}");
        // It answers, and has nothing there.
        bus.is_away.store(false, Ordering::Relaxed);
        let none = check().await.unwrap_err();
        assert!(matches!(none, SeamError::OtherRecord { partition: 0, offset: 0 }), "{none}");
    }
}
