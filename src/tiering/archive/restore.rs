//! Bringing archived days back: what it takes, what it costs, and doing it.
//!
//! Two things have the name. Objects in Glacier are copied by the store to where they can be read
//! for some days ([`request`], [`wait`]); and rows that warm has dropped are taken back into it
//! ([`into_warm`]), proven equal to what was archived.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::manifest::Manifest;
use super::read::{ArchiveReader, FrozenFile, SharedReadStats};
use super::snapshot::{DataFile, ReadError, Snapshot};
use crate::bus::epoch::Relation;
use crate::market::{Kind, RowDigest, TickBatch, TimeRange, TradingDay};
use crate::tiering::cold::{Availability, Cold, RestoreTier, StorageClass};
use crate::tiering::warm::{ArchiveSource, Unit, WarmError};

/// Objects asked for at once.
const REQUESTS_MAX: usize = 8;

/// When the prices were read, and for which region.
pub const PRICES_OF: &str = "list prices of us-east-1, June 2026";

const GIB: f64 = (1_u64 << 30) as f64;

/// What it costs to bring objects of a class back, in US dollars.
struct Price {
    class: StorageClass,
    tier: RestoreTier,
    /// For a GiB.
    gib: f64,
    /// For a thousand requests.
    thousand: f64,
    /// How long it takes, at least and at most.
    time: (Duration, Duration),
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(60 * minutes)
}

const fn hours(hours: u64) -> Duration {
    minutes(60 * hours)
}

/// <https://aws.amazon.com/s3/pricing/>, as of [`PRICES_OF`].
const PRICES: &[Price] = {
    use RestoreTier::{Bulk, Expedited, Standard};
    use StorageClass::{DeepArchive, Glacier};
    &[
        Price { class: Glacier, tier: Expedited, gib: 0.03, thousand: 10.0, time: (minutes(1), minutes(5)) },
        Price { class: Glacier, tier: Standard, gib: 0.01, thousand: 0.05, time: (hours(3), hours(5)) },
        Price { class: Glacier, tier: Bulk, gib: 0.0, thousand: 0.0, time: (hours(5), hours(12)) },
        Price { class: DeepArchive, tier: Standard, gib: 0.02, thousand: 0.10, time: (hours(9), hours(12)) },
        Price { class: DeepArchive, tier: Bulk, gib: 0.0025, thousand: 0.025, time: (hours(24), hours(48)) },
    ]
};

/// A GiB of the copy in the standard class, for a month of 30 days.
const COPY_GIB_MONTH: f64 = 0.023;

/// What of the archive a restore is about.
pub struct Survey {
    /// The archive's days, of each kind and span.
    pub snapshots: Vec<Snapshot>,
    /// Objects that can be read now.
    pub ready: Vec<DataFile>,
    /// Objects that can't.
    pub frozen: Vec<FrozenFile>,
}

/// What bringing objects back takes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Estimate {
    /// Objects to be asked for.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that are on their way already.
    pub restoring: u64,
    /// What it costs, in US dollars, by [`PRICES_OF`]: requests, retrieval, and the copy.
    pub dollars: f64,
    /// How long it takes, at least and at most.
    pub time: (Duration, Duration),
}

/// Why nothing can be brought back.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RestoreError {
    /// The archive refused.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Warm refused.
    #[error(transparent)]
    Warm(#[from] WarmError),
    /// Deep Archive knows no expedited tier.
    #[error("{key} is in Deep Archive, from which nothing comes expedited")]
    NotExpedited {
        /// The first such object.
        key: String,
    },
    /// Objects of a unit can't be read yet.
    #[error("{unit}: {objects} of its objects must be restored first")]
    Frozen {
        /// The unit.
        unit: Unit,
        /// How many.
        objects: u64,
    },
    /// The rows are of another log than warm's.
    #[error("{unit}: {store} holds rows of another log than the one that warm is filled from")]
    OtherLog {
        /// The unit.
        unit: Unit,
        /// The archive.
        store: String,
    },
    /// Warm would take these rows a second time when it comes to them in the log.
    #[error(
        "{unit}: it is archived up to offset {archived} of partition {partition}, and warm has only come \
         to {warm}: what it still takes out of the log would stand in it twice"
    )]
    Ahead {
        /// The unit.
        unit: Unit,
        /// The first such partition.
        partition: u16,
        /// Up to where the archive holds it, exclusive.
        archived: u64,
        /// Up to where warm has come, exclusive.
        warm: u64,
    },
    /// What came back is not what was archived.
    #[error("{unit}: {place} holds {found}, but its manifest tells of {expected}")]
    Unequal {
        /// The unit.
        unit: Unit,
        /// Where.
        place: &'static str,
        /// The digest of what is there.
        found: RowDigest,
        /// The digest of what was archived.
        expected: RowDigest,
    },
}

/// The spans that make up `days`, in order.
pub fn spans(days: impl IntoIterator<Item = TradingDay>) -> Vec<RangeInclusive<TradingDay>> {
    let days: Vec<TradingDay> = days.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let runs = days.chunk_by(|day, next| day.next() == *next);
    runs.filter_map(|run| Some(*run.first()?..=*run.last()?)).collect()
}

/// Looks at the archived objects of `kinds` and of the days of `spans`, and at no others.
pub async fn survey(
    reader: &ArchiveReader,
    kinds: &[Kind],
    spans: &[RangeInclusive<TradingDay>],
) -> Result<Survey, ReadError> {
    let (mut snapshots, mut files) = (Vec::new(), Vec::new());
    for kind in kinds {
        for days in spans {
            let range = TimeRange { from: days.start().start(), to: days.end().end() };
            let snapshot = reader.snapshot(*kind, range).await?;
            for (day, _) in snapshot.days() {
                files.extend(snapshot.files(day)?);
            }
            snapshots.push(snapshot);
        }
    }
    let (ready, frozen) = reader.availability(files, &SharedReadStats::default()).await?;
    Ok(Survey { snapshots, ready, frozen })
}

/// What it takes to have copies of `frozen` for `days`.
pub fn estimate(frozen: &[FrozenFile], tier: RestoreTier, days: u32) -> Result<Estimate, RestoreError> {
    let (mut estimate, mut retrieval) = (Estimate::NOTHING, 0.0);
    for frozen in frozen {
        let price = PRICES.iter().find(|price| (price.class, price.tier) == (frozen.class, tier));
        // What is on its way already comes by the tier it was asked for with, the slowest perhaps.
        let slowest = || PRICES.iter().rfind(|price| frozen.restoring && price.class == frozen.class);
        let Some(price) = price.or_else(slowest) else {
            return Err(RestoreError::NotExpedited { key: frozen.file.file.key.clone() });
        };
        let slowest = estimate.time.0.max(price.time.0);
        estimate.time = (slowest, estimate.time.1.max(price.time.1));
        if frozen.restoring {
            estimate.restoring += 1;
            continue;
        }
        estimate.objects += 1;
        estimate.bytes += frozen.file.file.bytes;
        retrieval += price.thousand / 1000.0 + price.gib * frozen.file.file.bytes as f64 / GIB;
    }
    let copy = COPY_GIB_MONTH * estimate.bytes as f64 / GIB * f64::from(days) / 30.0;
    Ok(Estimate { dollars: retrieval + copy, ..estimate })
}

impl Estimate {
    const NOTHING: Self =
        Self { objects: 0, bytes: 0, restoring: 0, dollars: 0.0, time: (Duration::ZERO, Duration::ZERO) };
}

/// Asks for copies of `frozen` that can be read for `days`. Calls `asked` after each. To be called
/// again where it fails: what was asked for already is not asked for twice.
pub async fn request(
    cold: &dyn Cold,
    frozen: &[FrozenFile],
    tier: RestoreTier,
    days: u32,
    mut asked: impl FnMut(&FrozenFile),
) -> Result<(), ReadError> {
    let left: Vec<FrozenFile> = frozen.iter().filter(|frozen| !frozen.restoring).cloned().collect();
    let mut requests = stream::iter(left.into_iter().map(|frozen| async move {
        cold.restore(&frozen.file.file.key, days, tier).await?;
        Ok::<_, ReadError>(frozen)
    }))
    .buffer_unordered(REQUESTS_MAX);
    while let Some(frozen) = requests.try_next().await? {
        asked(&frozen);
    }
    Ok(())
}

/// Waits until all of `frozen` can be read, and looks every `interval`. Calls `ready` with how many
/// can be, after each look. Has no end of its own: the store keeps a restore it has accepted.
pub async fn wait(
    cold: &dyn Cold,
    frozen: &[FrozenFile],
    interval: Duration,
    mut ready: impl FnMut(usize),
) -> Result<(), ReadError> {
    let mut left: Vec<String> = frozen.iter().map(|frozen| frozen.file.file.key.clone()).collect();
    loop {
        let states = stream::iter(left.into_iter().map(|key| async move {
            let (_, availability) = cold.state(&key).await?;
            Ok::<_, ReadError>((key, availability))
        }));
        let states: Vec<_> = states.buffered(REQUESTS_MAX).try_collect().await?;
        let waiting = |availability: &Availability| {
            matches!(availability, Availability::Restoring | Availability::Frozen)
        };
        left = states.into_iter().filter(|(_, state)| waiting(state)).map(|(key, _)| key).collect();
        ready(frozen.len() - left.len());
        if left.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(interval).await;
    }
}

/// Takes the archived rows of `unit` back into `warm`, and proves that they are the ones that were
/// archived: while they are read, and by what warm says of them then. How many rows.
pub async fn into_warm(
    reader: &Arc<ArchiveReader>,
    snapshot: &Snapshot,
    warm: &dyn ArchiveSource,
    unit: Unit,
) -> Result<u64, RestoreError> {
    if reader.standing().await? == Relation::OtherLog {
        return Err(RestoreError::OtherLog { unit, store: reader.cold().name().to_owned() });
    }
    let files = snapshot.files(unit.day)?;
    let (ready, frozen) = reader.availability(files, &SharedReadStats::default()).await?;
    if !frozen.is_empty() {
        return Err(RestoreError::Frozen { unit, objects: frozen.len() as u64 });
    }
    let next_offsets = snapshot.next_offsets(unit.day);
    for (partition, &archived) in (0_u16..).zip(next_offsets) {
        let warm = warm.mark(partition).await?.next_offset;
        if warm < archived {
            return Err(RestoreError::Ahead { unit, partition, archived, warm });
        }
    }
    let mut expected = RowDigest::default();
    snapshot.manifests(unit.day).for_each(|manifest| expected.add(manifest.digest));
    let rows = reader.scan(unit.kind, ready, None, TimeRange::ALL, SharedReadStats::default());
    // Warm stores all or nothing: an error at the end of the rows leaves it as it was.
    let rows = checked(rows.map_err(|error| unreadable(&error)).boxed(), unit, expected);
    warm.restore(unit, next_offsets, rows).await?;
    for manifest in snapshot.manifests(unit.day) {
        prove(warm, unit, manifest).await?;
    }
    Ok(expected.rows)
}

type Rows = stream::BoxStream<'static, Result<TickBatch, WarmError>>;

/// `rows`, and after them an error if they are not those of `expected`.
fn checked(rows: Rows, unit: Unit, expected: RowDigest) -> Rows {
    stream::try_unfold((rows, RowDigest::default()), move |(mut rows, mut found)| async move {
        match rows.try_next().await? {
            Some(batch) => {
                found.add(batch.digest());
                Ok(Some((batch, (rows, found))))
            }
            None if found == expected => Ok(None),
            None => Err(unreadable(&RestoreError::Unequal { unit, place: "the archive", found, expected })),
        }
    })
    .boxed()
}

/// An error of the archive, to the store that takes its rows.
fn unreadable(error: &dyn std::error::Error) -> WarmError {
    WarmError::Io { path: "the archive".to_owned(), reason: error.to_string() }
}

/// Whether warm holds the rows of `manifest`, by its own digest of them.
async fn prove(warm: &dyn ArchiveSource, unit: Unit, manifest: &Manifest) -> Result<(), RestoreError> {
    let found = warm.digest(unit, &manifest.offsets()).await?;
    if found == manifest.digest {
        return Ok(());
    }
    Err(RestoreError::Unequal { unit, place: "warm", found, expected: manifest.digest })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::market::Timestamp;
    use crate::tiering::archive::read::tests as fake;
    use crate::tiering::cold::dir::DirCold;
    use crate::tiering::cold::s3::tests::bucket;
    use crate::tiering::warm::Query;
    use crate::tiering::warm::conformance;
    use crate::tiering::warm::local::{LocalWarm, LocalWarmOptions};

    fn frozen(class: StorageClass, bytes: u64, restoring: bool) -> FrozenFile {
        let file = fake::data_file("ticks/kind=trade/date=2026-11-20/part-0000.parquet", bytes);
        FrozenFile { file, class, restoring }
    }

    #[test]
    fn what_it_costs_is_told_first() {
        let gib = 1 << 30;
        let files = [
            frozen(StorageClass::Glacier, 100 * gib, false),
            frozen(StorageClass::DeepArchive, 50 * gib, false),
            frozen(StorageClass::DeepArchive, 7 * gib, true),
        ];
        let standard = estimate(&files, RestoreTier::Standard, 30).unwrap();
        assert_eq!((standard.objects, standard.bytes, standard.restoring), (2, 150 * gib, 1));
        assert_eq!(standard.time, (hours(9), hours(12)));
        // 100 * 0.01 + 50 * 0.02, two requests, and 150 GiB for a month.
        assert!((standard.dollars - (2.0 + 0.00015 + 150.0 * 0.023)).abs() < 1e-9, "{standard:?}");
        let bulk = estimate(&files, RestoreTier::Bulk, 1).unwrap();
        assert!((bulk.dollars - (50.0 * 0.0025 + 0.000_025 + 150.0 * 0.023 / 30.0)).abs() < 1e-9);
        assert_eq!(bulk.time, (hours(24), hours(48)));
        let refused = estimate(&files, RestoreTier::Expedited, 1).unwrap_err();
        assert!(matches!(refused, RestoreError::NotExpedited { .. }));
        // One that is on its way already is not asked for, and refuses nothing.
        let under_way = [files[0].clone(), files[2].clone()];
        let expedited = estimate(&under_way, RestoreTier::Expedited, 1).unwrap();
        assert_eq!((expedited.objects, expedited.restoring), (1, 1));
        assert_eq!(expedited.time, (hours(24), hours(48)));
        assert_eq!(estimate(&files[..1], RestoreTier::Expedited, 1).unwrap().time, (minutes(1), minutes(5)));
        assert_eq!(estimate(&[], RestoreTier::Bulk, 1).unwrap(), Estimate::NOTHING);
    }

    #[test]
    fn days_one_after_the_other_are_one_span() {
        let day = TradingDay::from_days_since_epoch;
        assert_eq!(spans([5, 3, 9, 4, 3].map(day)), [day(3)..=day(5), day(9)..=day(9)]);
        assert!(spans([]).is_empty());
    }

    fn open(dir: &TempDir) -> Arc<LocalWarm> {
        LocalWarm::open(dir.path(), LocalWarmOptions { compaction: false }).unwrap()
    }

    /// A warm store with some rows, all archived in `cold` and dropped.
    async fn dropped(warm: &LocalWarm, cold: &dyn Cold) -> Vec<conformance::Row> {
        let rows = conformance::store(warm, &fake::some_case()).await;
        for manifest in fake::archive_all(warm, cold, fake::TINY).await {
            let unit = Unit { day: manifest.date, kind: Kind::from_name(&manifest.kind).unwrap() };
            warm.drop_rows(unit, &manifest.next_offsets).await.unwrap();
        }
        assert!(warm.units().await.unwrap().is_empty());
        rows
    }

    #[tokio::test]
    async fn days_come_back_into_warm_and_are_the_same() {
        let (dir, cold_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let warm = open(&dir);
        let cold: Arc<dyn Cold> = Arc::new(DirCold::open(cold_dir.path()).unwrap());
        let rows = dropped(&warm, &*cold).await;
        let reader = Arc::new(ArchiveReader::new(cold.clone()));
        let mut restored = 0;
        for kind in Kind::ALL {
            let snapshot = reader.snapshot(kind, TimeRange::ALL).await.unwrap();
            for (day, _) in snapshot.days() {
                restored += into_warm(&reader, &snapshot, &*warm, Unit { day, kind }).await.unwrap();
            }
        }
        assert_eq!(restored, rows.len() as u64);
        for kind in &Kind::ALL[..7] {
            let query = Query::new(*kind, None, TimeRange::ALL);
            conformance::scans_give_what_matches(&*warm, &rows, &query).await;
        }
    }

    #[tokio::test]
    async fn what_warm_has_yet_to_come_to_does_not_come_back_before_it() {
        let (dir, new_dir, cold_dir) =
            (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        let cold: Arc<dyn Cold> = Arc::new(DirCold::open(cold_dir.path()).unwrap());
        dropped(&open(&dir), &*cold).await;
        let reader = Arc::new(ArchiveReader::new(cold));
        let snapshot = reader.snapshot(Kind::Trade, TimeRange::ALL).await.unwrap();
        let unit = Unit { day: snapshot.days().next().unwrap().0, kind: Kind::Trade };
        let warm = open(&new_dir);
        let error = into_warm(&reader, &snapshot, &*warm, unit).await.unwrap_err();
        assert!(matches!(error, RestoreError::Ahead { warm: 0, .. }), "{error}");
        assert!(warm.units().await.unwrap().is_empty(), "nothing came back");
    }

    #[tokio::test]
    async fn what_is_not_as_it_was_archived_does_not_come_back() {
        let (dir, cold_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let warm = open(&dir);
        let cold: Arc<dyn Cold> = Arc::new(DirCold::open(cold_dir.path()).unwrap());
        dropped(&warm, &*cold).await;
        // A manifest that tells of other rows than its objects hold.
        let keys = cold.list("manifest/", None).await.unwrap();
        let key = keys.iter().find(|object| object.key.ends_with("0000.json")).unwrap().key.clone();
        let mut manifest: Manifest = serde_json::from_slice(&cold.get(&key).await.unwrap()).unwrap();
        let sum = manifest.digest.sum.wrapping_add(1);
        manifest.files[0].digest.sum = manifest.files[0].digest.sum.wrapping_add(1);
        manifest.digest.sum = sum;
        cold.put(&key, crate::tiering::archive::sealed::seal(&manifest)).await.unwrap();
        let unit = Unit { day: manifest.date, kind: Kind::from_name(&manifest.kind).unwrap() };
        let reader = Arc::new(ArchiveReader::new(cold));
        let snapshot = reader.snapshot(unit.kind, TimeRange::ALL).await.unwrap();
        let error = into_warm(&reader, &snapshot, &*warm, unit).await.unwrap_err();
        assert!(error.to_string().contains("but its manifest tells of"), "{error}");
        assert!(warm.units().await.unwrap().is_empty(), "nothing came back");
    }

    #[tokio::test]
    async fn archived_objects_are_asked_for_once_and_waited_for() {
        let Some(bucket) = bucket().await else { return };
        let dir = TempDir::new().unwrap();
        let warm = open(&dir);
        dropped(&warm, &bucket).await;
        let reader = Arc::new(ArchiveReader::new(Arc::new(bucket.clone())));
        let days = [Timestamp::MIN.trading_day()..=Timestamp::MAX.trading_day()];
        let all = survey(&reader, &Kind::ALL, &days).await.unwrap();
        assert!(all.frozen.is_empty() && all.ready.len() > 1);
        for file in &all.ready {
            bucket.move_to(&file.file.key, StorageClass::DeepArchive).await;
        }
        let survey = survey(&reader, &Kind::ALL, &days).await.unwrap();
        assert_eq!((survey.ready.len(), survey.frozen.len()), (0, all.ready.len()));
        let snapshot = &survey.snapshots[0];
        let unit = Unit { day: snapshot.days().next().unwrap().0, kind: Kind::Trade };
        let error = into_warm(&reader, snapshot, &*warm, unit).await.unwrap_err();
        assert!(matches!(error, RestoreError::Frozen { .. }), "{error}");
        let mut asked = 0;
        request(&bucket, &survey.frozen, RestoreTier::Bulk, 3, |_| asked += 1).await.unwrap();
        assert_eq!(asked, survey.frozen.len());
        let mut looks = Vec::new();
        wait(&bucket, &survey.frozen, Duration::from_millis(10), |ready| looks.push(ready)).await.unwrap();
        assert_eq!(looks.last(), Some(&survey.frozen.len()));
        assert!(into_warm(&reader, snapshot, &*warm, unit).await.unwrap() > 0);
    }
}
