//! The log and the timeline of it that the archived rows belong to.
//!
//! ```text
//! log.json        the log's id, its generations so far, the offsets below which rows may be archived, the
//!                 days of rows below them that are not, and checksums of the log's records
//! log.copy.json   the same
//! ```
//!
//! A row's place in the log means nothing in another log, nor in another timeline of the same log: a
//! data directory that was put back from a backup gives the offsets after the backup to other
//! records. So a run first compares the log with `log.json` ([`LogEpoch::relation`]), and archives
//! only where every archived row is one of the log's. Before a manifest is committed, `log.json`
//! names the generation and the offsets that the manifest reaches.
//!
//! A topic of Kafka has no generations: brokers that are put back from a copy do not tell. So `log.json` keeps,
//! for each moment up to which rows were archived, the checksum of the last record of each partition
//! ([`Seam`]). Where the log has another record there, it is of another timeline, and the newest moment whose
//! records it does have is where they parted. What a run finds so is noted: once the log has dropped those
//! records, nothing else tells.
//!
//! A run ends with noting the days of which warm still holds rows below those offsets that are not archived:
//! if log and warm were lost then, answers would name these days. And the offsets below which every row is
//! archived: a warm store that was lost may begin there, though the log no longer has the records before.
//!
//! Version 1 named only the id, version 2 no such days, version 4 neither seams nor whole offsets. Their archives
//! are taken for the log's own as far as the log goes.
//!
//! Where manifests are there and both objects are missing, the generations that the manifests name tell
//! whose rows they are. Manifests that name none are taken for the log's own by readers alone: nothing is
//! archived beside them before somebody says whose they are (`stk archive adopt`).
//!
//! Version 3 is written while `stk archive copy` fills a new place: it names no log, so that every
//! program refuses what is not whole yet. The last step of the copy replaces it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::ArchiveError;
use super::lease::Lease;
use super::manifest::{MANIFEST_PREFIX, Manifest, parse_manifest_key};
use super::sealed;
use super::snapshot::ReadError;
use super::store::{Created, Store, json, mend};
use crate::bus::epoch::{Ended, Gone, Held, Holder, LogEpoch, Relation, Seam, is_unique, is_within, later};
use crate::bus::{Bounds, Bus, BusError};
use crate::market::TradingDay;
use crate::tiering::cold::{Cold, ColdError};
use crate::tiering::seam::{self, SeamError};
use crate::tiering::warm::{self, ArchiveSource};

/// The key of the log's name.
pub const LOG_KEY: &str = "log.json";

/// The key of its copy.
const COPY_KEY: &str = "log.copy.json";

/// The version that is written. Versions 1, 2 and 4 are read too.
const VERSION: u32 = 5;

/// The version before, without seams and whole offsets.
const VERSION_4: u32 = 4;

/// A version without [`Origin::unarchived`] too.
const VERSION_2: u32 = 2;

/// Moments of the log that are kept, at most. Of the older half every second one goes when there are more.
const SEAMS_MAX: usize = 64;

/// Manifests that are read at once.
const READS_MAX: usize = 8;

/// The log beside which an archive is written or read.
#[derive(Clone)]
pub struct Beside(Arc<dyn Bus>);

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Beside").field(&self.0.epoch().log()).finish()
    }
}

impl Beside {
    /// The log `bus`.
    pub fn new(bus: Arc<dyn Bus>) -> Self {
        Self(bus)
    }

    /// The log's identity.
    pub fn epoch(&self) -> &LogEpoch {
        self.0.epoch()
    }

    /// Refuses a warm store whose rows are of another log.
    pub(super) async fn check_source(&self, warm: &dyn ArchiveSource) -> Result<(), ArchiveError> {
        warm.check_origin(&warm::Origin::of(&*self.0)).await?;
        Ok(())
    }

    /// How the rows that `held` names relate to the log now. Of a log without generations its records tell.
    pub async fn relation(&self, held: &Held) -> Result<Relation, BusError> {
        let mut bounds = Vec::new();
        for partition in 0..self.0.partitions() {
            bounds.push(self.0.bounds(partition).await?);
        }
        let nexts: Vec<u64> = bounds.iter().map(|bounds| bounds.next).collect();
        let relation = self.epoch().relation(&nexts, held);
        if self.epoch().may_skip() || !matches!(relation, Relation::Own | Relation::Ahead) {
            return Ok(relation);
        }
        let parted_at = self.parted_at(held, &bounds).await?;
        Ok(parted_at.map_or(relation, |at| Relation::Parted { at }))
    }

    /// Where the log, which has `bounds`, and the timeline of the rows that `held` names parted, by the records
    /// of the log; `None` where they did not, or nothing tells.
    async fn parted_at(&self, held: &Held, bounds: &[Bounds]) -> Result<Option<Vec<u64>>, BusError> {
        let mut differs = false;
        for known in held.seams.iter().rev() {
            match self.has(known, bounds).await? {
                Some(true) => return Ok(differs.then(|| known.next_offsets.clone())),
                Some(false) => differs = true,
                // It is older than all that the log has. So are those before it.
                None if differs => return Ok(Some(known.next_offsets.clone())),
                None => return Ok(held.parted_at.clone()),
            }
        }
        Ok(if differs { Some(vec![0; bounds.len()]) } else { held.parted_at.clone() })
    }

    /// Whether the log, which has `bounds`, has the records of `known`; `None` where none is left by which it can
    /// be told.
    async fn has(&self, known: &Seam, bounds: &[Bounds]) -> Result<Option<bool>, BusError> {
        if known.next_offsets.iter().all(|next| *next == 0) {
            return Ok(Some(true));
        }
        let mut marks = Vec::new();
        for ((partition, bounds), (next_offset, seam)) in
            (0_u16..).zip(bounds).zip(known.next_offsets.iter().zip(&known.records))
        {
            let mark = warm::Mark { next_offset: *next_offset, seam: *seam, ..warm::Mark::default() };
            marks.push((partition, *bounds, mark));
        }
        let mut checks = stream::iter(marks.into_iter().map(|(partition, bounds, mark)| async move {
            match seam::check_record(&*self.0, partition, bounds, &mark).await {
                Ok(()) => Ok(Some(true).filter(|_| mark.seam.is_some() && mark.next_offset > bounds.first)),
                Err(SeamError::Ahead(_) | SeamError::OtherRecord { .. }) => Ok(Some(false)),
                Err(SeamError::Bus { source, .. }) => Err(source),
            }
        }))
        .buffer_unordered(READS_MAX);
        let mut has = None;
        while let Some(fits) = checks.try_next().await? {
            if fits == Some(false) {
                return Ok(fits);
            }
            has = has.or(fits);
        }
        Ok(has)
    }

    /// The records of the log before `next_offsets`.
    async fn seam(&self, next_offsets: &[u64]) -> Result<Seam, BusError> {
        let next_offsets = next_offsets.to_vec();
        let records = stream::iter((0_u16..).zip(next_offsets.clone()).map(|(partition, next)| async move {
            let record = seam::record_before(&*self.0, partition, next).await?;
            Ok::<_, BusError>(record.as_deref().map(seam::of))
        }));
        let records = records.buffered(READS_MAX).try_collect().await?;
        Ok(Seam { next_offsets, records })
    }
}

#[derive(Serialize, Deserialize)]
struct Generation {
    /// Its id, in decimal.
    generation: String,
    /// Where it ended, by partition.
    ends: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
struct StoredSeam {
    /// By partition.
    next_offsets: Vec<u64>,
    /// By partition, sixteen hexadecimal digits; `null` where it is not known.
    records: Vec<Option<String>>,
}

#[derive(Serialize, Deserialize)]
struct Origin {
    version: u32,
    /// Sixteen hexadecimal digits.
    log: String,
    /// The generations of the log, oldest first, the last as far as rows may be archived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lineage: Vec<Generation>,
    /// By partition, the offset below which rows may be archived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    next_offsets: Vec<u64>,
    /// The first and the last day of rows below `next_offsets` that are not archived; empty where all are.
    /// Missing where that is not known, as during a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unarchived: Option<Vec<TradingDay>>,
    /// By partition, an offset below which every row is archived. Missing where none is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    whole_offsets: Vec<u64>,
    /// Oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    seams: Vec<StoredSeam>,
    /// By partition, where a run found that the log is of another timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parted_at: Option<Vec<u64>>,
    /// XXH3-64 of this object as compact JSON with an empty checksum, sixteen hexadecimal digits. None in
    /// version 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

/// The version of the marker that stands in the place of the log's name until a copy is whole.
const UNFINISHED_VERSION: u32 = 3;

/// A copy of an archive that is not whole yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unfinished {
    version: u32,
    /// The archive that is copied, as a person calls it.
    pub(super) copy_of: String,
    /// The log of that archive; none where the archive names none.
    pub(super) log: Option<String>,
}

impl Unfinished {
    /// A copy of `copy_of`, whose rows are of `log`.
    pub(super) fn new(copy_of: &str, log: Option<u64>) -> Self {
        Self { version: UNFINISHED_VERSION, copy_of: copy_of.to_owned(), log: log.map(name) }
    }

    /// The marker in `bytes`, if they are one.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        sealed::open::<Self>(bytes).ok().filter(|read| read.version == UNFINISHED_VERSION)
    }

    /// Whether `store` is a copy that is not whole yet.
    pub(super) async fn find(store: &Store) -> Result<Option<Self>, ColdError> {
        Ok(store.get(LOG_KEY).await?.and_then(|found| Self::read(&found)))
    }
}

fn name(log: u64) -> String {
    format!("{log:016x}")
}

/// What [`name`] has written; `None` for anything else.
fn number(name: &str) -> Option<u64> {
    u64::from_str_radix(name, 16).ok().filter(|_| name.len() == 16)
}

impl Origin {
    fn new(held: &Held) -> Self {
        let generation =
            |ended: &Ended| Generation { generation: ended.generation.to_string(), ends: ended.ends.clone() };
        let seam = |seam: &Seam| StoredSeam {
            next_offsets: seam.next_offsets.clone(),
            records: seam.records.iter().map(|record| record.map(name)).collect(),
        };
        let mut origin = Self {
            version: VERSION,
            log: name(held.log.unwrap_or_default()),
            lineage: held.lineage.iter().map(generation).collect(),
            next_offsets: held.next_offsets.clone(),
            unarchived: held.gone.ends(),
            whole_offsets: held.whole_offsets.clone(),
            seams: held.seams.iter().map(seam).collect(),
            parted_at: held.parted_at.clone(),
            checksum: None,
        };
        origin.checksum = Some(origin.sum());
        origin
    }

    fn sum(&self) -> String {
        let Self { version, log, lineage, next_offsets, unarchived, .. } = self;
        let Self { whole_offsets, seams, parted_at, checksum: _, .. } = self;
        let summed = match *version {
            VERSION_2 => serde_json::json!([version, log, lineage, next_offsets]),
            VERSION_4 => serde_json::json!([version, log, lineage, next_offsets, unarchived]),
            _ => serde_json::json!([
                version,
                log,
                lineage,
                next_offsets,
                unarchived,
                whole_offsets,
                seams,
                parted_at
            ]),
        }
        .to_string();
        format!("{:016x}", xxh3_64(summed.as_bytes()))
    }

    /// Reads an origin, or says what is wrong with `bytes`.
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let origin: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        match (origin.version, &origin.checksum) {
            (1, None) => Ok(origin),
            (VERSION_2 | VERSION_4 | VERSION, Some(checksum)) if *checksum == origin.sum() => Ok(origin),
            (1 | VERSION_2 | VERSION_4 | VERSION, _) => Err("its checksum is wrong".to_owned()),
            (version, _) => Err(format!("it is of version {version}: use a newer stk")),
        }
    }

    fn held(&self, store: &str) -> Result<Held, String> {
        let log = number(&self.log);
        let ended = |generation: &Generation| {
            Some(Ended { generation: generation.generation.parse().ok()?, ends: generation.ends.clone() })
        };
        let lineage: Option<Vec<Ended>> = self.lineage.iter().map(ended).collect();
        let (Some(log), Some(lineage)) = (log, lineage) else {
            return Err("it does not name a log".to_owned());
        };
        let seam = |stored: &StoredSeam| {
            let records = stored.records.iter().map(|record| record.as_deref().map(number));
            // A number that is none is not one that is not known.
            let records = records.map(|record| record.map_or(Some(None), |number| number.map(Some)));
            let (next_offsets, records) = (stored.next_offsets.clone(), records.collect::<Option<_>>()?);
            Some(Seam { next_offsets, records })
        };
        let seams: Option<Vec<Seam>> = self.seams.iter().map(seam).collect();
        Ok(Held {
            log: Some(log),
            lineage,
            next_offsets: self.next_offsets.clone(),
            gone: Gone::between(self.unarchived.clone()),
            whole_offsets: self.whole_offsets.clone(),
            seams: seams.ok_or("it names a record by no checksum")?,
            parted_at: self.parted_at.clone(),
            ..Held::nothing(Holder::Archive, store)
        })
    }
}

/// The log that the archive in `cold` names, and how far its rows go; `None` where there is no archive
/// yet. The log's id is `None` where only the manifests tell.
///
/// Errors: the store can't be read, or both copies of the log's name are damaged, or a manifest that is read
/// in their place.
pub async fn held(cold: &dyn Cold) -> Result<Option<Held>, ReadError> {
    let named = named(cold).await?;
    if named.is_some() {
        return Ok(named);
    }
    let (lineage, next_offsets) = reached(cold).await?;
    let is_archive = !next_offsets.is_empty();
    let nothing = Held::nothing(Holder::Archive, cold.name());
    Ok(is_archive.then_some(Held { lineage, next_offsets, gone: Gone::Unknown, ..nothing }))
}

/// As [`held`], where the archive names its log.
pub(super) async fn named(cold: &dyn Cold) -> Result<Option<Held>, ReadError> {
    let mut damaged = None;
    for key in [LOG_KEY, COPY_KEY] {
        let found = match cold.get(key).await {
            Ok(found) => found,
            Err(ColdError::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        if let Some(Unfinished { copy_of, .. }) = Unfinished::read(&found) {
            return Err(ReadError::Unfinished { store: cold.name().to_owned(), copy_of });
        }
        let read = Origin::read(&found).and_then(|origin| Ok((origin.held(cold.name())?, origin.version)));
        match read {
            Ok((mut held, version)) => {
                if let Some((key, reason)) = &damaged {
                    tracing::warn!(store = cold.name(), key, reason, "damaged; its copy is used");
                }
                if version == 1 {
                    held.next_offsets = reached(cold).await?.1;
                }
                return Ok(Some(held));
            }
            Err(reason) => {
                damaged.get_or_insert((key, reason));
            }
        }
    }
    let Some((key, reason)) = damaged else { return Ok(None) };
    let reason = format!("{reason}; put it back from another copy of the archive");
    Err(ReadError::Damaged { store: cold.name().to_owned(), key: key.to_owned(), reason })
}

/// The generations that the manifests name, oldest first, each as far as they say that it reached; and the
/// offsets that all of them reach.
async fn reached(cold: &dyn Cold) -> Result<(Vec<Ended>, Vec<u64>), ReadError> {
    let mut last = BTreeMap::new();
    for object in cold.list(MANIFEST_PREFIX, None).await? {
        if let Some((unit, _)) = parse_manifest_key(&object.key) {
            last.insert(unit, object.key);
        }
    }
    let read = stream::iter(last.into_values().map(|key| async move {
        let bytes = cold.get(&key).await?;
        Manifest::parse(&bytes).map_err(|reason| {
            let (store, reason) = (cold.name().to_owned(), format!("{reason}{}", mend(&key)));
            ReadError::Damaged { store, key, reason }
        })
    }));
    let manifests: Vec<Manifest> = read.buffered(READS_MAX).try_collect().await?;
    let (mut ends, mut next_offsets) = (BTreeMap::<u64, Vec<u64>>::new(), Vec::new());
    for Manifest { generation, next_offsets: reached, .. } in manifests {
        next_offsets = later(&next_offsets, &reached);
        // One that other logs have too says nothing.
        let generation = generation.and_then(|generation| generation.parse().ok());
        if let Some(generation) = generation.filter(|generation| is_unique(*generation)) {
            let ends = ends.entry(generation).or_default();
            *ends = later(ends, &reached);
        }
    }
    let ended = |(generation, ends)| Ended { generation, ends };
    let mut lineage: Vec<Ended> = ends.into_iter().map(ended).collect();
    // A later generation reaches further: a manifest names the oldest that had all of its rows.
    lineage.sort_by_key(|ended| ended.ends.iter().map(|end| u128::from(*end)).sum::<u128>());
    Ok((lineage, next_offsets))
}

/// Refuses an archive that holds rows of another log, or of another timeline of this one. Returns what
/// it holds.
///
/// Errors: as [`ArchiveError::OtherLog`] and [`ArchiveError::OtherTimeline`]; or the store refuses.
pub async fn check(cold: &dyn Cold, log: &Beside) -> Result<Option<Held>, ArchiveError> {
    compare(log, held(cold).await?).await
}

/// As [`check`], of what `log.json` alone says: manifests are not read.
pub async fn check_named(cold: &dyn Cold, log: &Beside) -> Result<Option<Held>, ArchiveError> {
    compare(log, named(cold).await?).await
}

async fn compare(log: &Beside, held: Option<Held>) -> Result<Option<Held>, ArchiveError> {
    if let Some(held) = &held {
        let relation = log.relation(held).await?;
        refuse(held, &relation, log.epoch())?;
    }
    Ok(held)
}

/// Refuses an archive whose rows, which `held` names, have a `relation` to the log of `epoch` in which none can be
/// added.
///
/// Errors: as [`check`].
pub fn refuse(held: &Held, relation: &Relation, epoch: &LogEpoch) -> Result<(), ArchiveError> {
    let store = held.name.clone();
    match relation {
        Relation::Own => Ok(()),
        Relation::OtherLog => {
            let mut archived = name(held.log.unwrap_or_default());
            if held.log.is_some_and(|log| epoch.name().is(log)) {
                archived = format!("{archived} with {} partitions", held.next_offsets.len());
            }
            Err(ArchiveError::OtherLog { store, archived, log: name(epoch.log().id) })
        }
        // A log that can't skip the offsets will use them itself.
        Relation::Ahead if !epoch.may_skip() => Err(ArchiveError::OtherTimeline { store, is_parted: true }),
        Relation::Ahead => Err(ArchiveError::AheadOfLog { store }),
        Relation::Skipped => Err(ArchiveError::OtherTimeline { store, is_parted: false }),
        Relation::Parted { .. } => Err(ArchiveError::OtherTimeline { store, is_parted: true }),
    }
}

/// Makes sure that all rows of the archive in `store` are of `log`, and names it in a new archive. That they
/// are not is noted, where a log without generations may one day have dropped the records by which it is told.
pub(super) async fn claim(store: &Store, log: &Beside) -> Result<(), ArchiveError> {
    if let Some(held) = held(store.cold()).await? {
        let relation = log.relation(&held).await?;
        let parted_at = match &relation {
            Relation::Parted { at } if !log.epoch().may_skip() => Some(at.clone()),
            Relation::Own => None,
            // Another log says nothing about where this one parted.
            _ => held.parted_at.clone(),
        };
        if held.log.is_some() && held.parted_at != parted_at {
            put(store, &Held { parted_at, ..held.clone() }).await?;
        }
        refuse(&held, &relation, log.epoch())?;
        return match held.log {
            Some(_) => Ok(()),
            None if held.lineage.is_empty() => Err(ArchiveError::Nameless { store: store.name().to_owned() }),
            // Its manifests are of generations of this log.
            None => write(store, log, held).await,
        };
    }
    let next_offsets = vec![0; usize::from(log.0.partitions())];
    let new = Held { next_offsets, ..Held::nothing(Holder::Archive, store.name()) };
    let own = json(&Origin::new(&place(log.epoch(), new)));
    match store.create(LOG_KEY, own.clone(), |found| *found == own[..]).await? {
        Created::Own => Ok(store.put(COPY_KEY, own).await?),
        // Another archiver was first.
        Created::Other(_) => check(store.cold(), log).await.map(drop),
    }
}

/// Names, durably, the rows that a manifest of `log` is about to hold: those below `next_offsets`.
///
/// Errors: as [`check`]; or the lease is lost.
pub(super) async fn declare(
    store: &Store,
    lease: &Lease,
    log: &Beside,
    next_offsets: &[u64],
) -> Result<(), ArchiveError> {
    lease.check()?;
    let held = check_named(store.cold(), log).await?;
    if let Some(held) = &held
        && held.log == Some(log.epoch().log().id)
        && !held.lineage.is_empty()
        && is_within(next_offsets, &held.next_offsets)
    {
        return Ok(());
    }
    let held = held.unwrap_or_else(|| Held::nothing(Holder::Archive, store.name()));
    if held.log.is_some() && held.lineage.is_empty() {
        tracing::warn!(
            store = held.name,
            log = name(log.epoch().log().id),
            "the archive is of an earlier version of stk and did not say how far its rows go: it does now, and earlier \
             versions refuse it"
        );
    }
    let next_offsets = later(&held.next_offsets, next_offsets);
    let mut declared = Held { next_offsets, gone: Gone::Unknown, ..held };
    if !log.epoch().may_skip() {
        add_seam(&mut declared.seams, log.seam(&declared.next_offsets).await?);
    }
    write(store, log, declared.clone()).await?;
    let is_held = lease.check();
    if is_held.is_err() {
        // It came late, and may have replaced what the next holder of the lease has written since.
        let (_, committed) = reached(store.cold()).await.map_err(ArchiveError::from)?;
        let next_offsets = later(&declared.next_offsets, &committed);
        write(store, log, Held { next_offsets, ..declared }).await?;
    }
    is_held
}

/// Adds the newest.
fn add_seam(seams: &mut Vec<Seam>, newest: Seam) {
    seams.push(newest);
    if seams.len() > SEAMS_MAX {
        let mut at = 0;
        seams.retain(|_| {
            at += 1;
            at > SEAMS_MAX / 2 || at % 2 == 1
        });
    }
}

/// Notes which rows below the offsets that the archive names are `unarchived`, and the offsets below which
/// none are.
pub(super) async fn settle(
    store: &Store,
    lease: &Lease,
    log: &Beside,
    unarchived: Gone,
    whole_offsets: &[u64],
) -> Result<(), ArchiveError> {
    lease.check()?;
    let Some(held) = check_named(store.cold(), log).await? else { return Ok(()) };
    let whole_offsets = later(&held.whole_offsets, whole_offsets);
    if held.gone == unarchived && held.whole_offsets == whole_offsets {
        return Ok(());
    }
    write(store, log, Held { gone: unarchived, whole_offsets, ..held }).await
}

/// Makes `log` the only one whose rows the archive takes from now on, where the archive holds rows of a
/// lost timeline whose offsets the log has skipped: these stay what they are. So does what an archive holds
/// that names no log, where it may be of this one.
///
/// Errors: as [`check`], but for that.
pub async fn adopt(store: Arc<dyn Cold>, log: &Beside) -> Result<(), ArchiveError> {
    let store = Store::new(store, None, super::ArchiveMetrics::default());
    let Some(held) = held(store.cold()).await.map_err(ArchiveError::from)? else { return Ok(()) };
    match log.relation(&held).await? {
        Relation::Skipped => write(&store, log, Held { gone: Gone::Unknown, ..held }).await,
        Relation::Own if held.log.is_none() => write(&store, log, Held { gone: Gone::Unknown, ..held }).await,
        relation => refuse(&held, &relation, log.epoch()),
    }
}

async fn write(store: &Store, log: &Beside, mut held: Held) -> Result<(), ArchiveError> {
    // Manifests leave out partitions at the end that had no records.
    held.next_offsets.resize(held.next_offsets.len().max(log.0.partitions().into()), 0);
    put(store, &place(log.epoch(), held)).await
}

/// Writes down that the archive in `store` holds the rows of `held`. Replaces the marker of an unfinished
/// copy last.
pub(super) async fn put(store: &Store, held: &Held) -> Result<(), ArchiveError> {
    for (key, reason) in damaged_names(store).await? {
        tracing::warn!(store = store.name(), key, reason, "damaged; it is written again");
    }
    let origin = json(&Origin::new(held));
    for key in [COPY_KEY, LOG_KEY] {
        store.put(key, origin.clone()).await?;
    }
    Ok(())
}

/// Which of the two objects that name the log are damaged, and how.
pub(super) async fn damaged_names(store: &Store) -> Result<Vec<(&'static str, String)>, ColdError> {
    let mut damaged = Vec::new();
    for (key, other) in [(LOG_KEY, COPY_KEY), (COPY_KEY, LOG_KEY)] {
        let Some(found) = store.get(key).await?.filter(|found| Unfinished::read(found).is_none()) else {
            continue;
        };
        if let Err(reason) = Origin::read(&found).and_then(|origin| origin.held(store.name())) {
            damaged.push((key, format!("{reason}; copy {other} over it")));
        }
    }
    Ok(damaged)
}

/// What the archive holds, as rows of the log of `epoch`, with its generations up to the one that reached there.
pub(super) fn place(epoch: &LogEpoch, held: Held) -> Held {
    let next_offsets = &held.next_offsets;
    let generation = epoch.generation_of(next_offsets);
    let mut lineage = epoch.lineage(next_offsets);
    let last = lineage.iter().position(|ended| ended.generation == generation);
    lineage.truncate(last.map_or(lineage.len(), |last| last + 1));
    if let Some(last) = lineage.last_mut() {
        last.ends.clone_from(next_offsets);
    }
    Held { log: Some(epoch.log().id), lineage, ..held }
}

/// The generation that a manifest of rows below `next_offsets` names.
pub(super) fn generation(log: &Beside, next_offsets: &[u64]) -> String {
    log.epoch().generation_of(next_offsets).to_string()
}

impl From<BusError> for ArchiveError {
    fn from(error: BusError) -> Self {
        let is_passing = matches!(error, BusError::Unavailable { .. });
        Self::Log { reason: error.to_string(), is_passing }
    }
}

impl From<ReadError> for ArchiveError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Cold(error) => error.into(),
            ReadError::Damaged { store, key, reason } => Self::Damaged { store, key, reason },
            ReadError::Unfinished { store, copy_of } => Self::Unfinished { store, copy_of },
            ReadError::Manifest { store, unit, reason } => {
                Self::Damaged { store, key: super::manifest::manifest_prefix(unit), reason }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every version that was ever written is read for ever.
    const VERSION_1_JSON: &[u8] = include_bytes!("../../../tests/golden/archive/log/v1.json");
    const VERSION_2_JSON: &[u8] = include_bytes!("../../../tests/golden/archive/log/v2.json");
    const VERSION_4_JSON: &[u8] = include_bytes!("../../../tests/golden/archive/log/v4.json");
    const VERSION_5_JSON: &[u8] = include_bytes!("../../../tests/golden/archive/log/v5.json");

    #[test]
    fn names_of_every_version_are_read_and_no_damaged_one_is() {
        let first = Origin::read(VERSION_1_JSON).unwrap().held("a").unwrap();
        let nothing = Held { gone: Gone::Unknown, ..Held::nothing(Holder::Archive, "a") };
        assert_eq!(first, Held { log: Some(0xfe32_aea1_ddf6_3f86), ..nothing });
        let before = Origin::read(VERSION_2_JSON).unwrap().held("a").unwrap();
        assert_eq!((before.log, &before.next_offsets[..]), (Some(0xed03_574b_688d_482b), &[5, 5][..]));
        assert_eq!(before.gone, Gone::Unknown);
        let days = ["2026-11-27", "2026-11-28"].map(|day| day.parse().unwrap());
        let written = Held { gone: Gone::of(days), ..before };
        assert_eq!(Origin::read(VERSION_4_JSON).unwrap().held("a").unwrap(), written);
        let seam = |next_offsets: [u64; 2], records: [Option<u64>; 2]| Seam {
            next_offsets: next_offsets.to_vec(),
            records: records.to_vec(),
        };
        let written = Held {
            whole_offsets: vec![4, 3],
            seams: vec![seam([3, 0], [Some(0x1f), None]), seam([5, 5], [Some(u64::MAX), Some(1)])],
            parted_at: Some(vec![3, 0]),
            ..written
        };
        assert_eq!(
            String::from_utf8_lossy(&json(&Origin::new(&written))),
            String::from_utf8_lossy(VERSION_5_JSON)
        );
        assert_eq!(Origin::read(VERSION_5_JSON).unwrap().held("a").unwrap(), written);
        for gone in [Gone::Unknown, Gone::Nothing] {
            let written = Held { gone, ..written.clone() };
            assert_eq!(Origin::read(&json(&Origin::new(&written))).unwrap().held("a").unwrap(), written);
        }
        let text = String::from_utf8_lossy(VERSION_5_JSON);
        for (is, becomes) in [
            ("2026-11-27", "2026-11-26"),
            ("\"version\": 5", "\"version\": 4"),
            ("5", "6"),
            ("000000000000001f", "000000000000001e"),
            ("parted_at", "departed"),
        ] {
            assert!(Origin::read(text.replacen(is, becomes, 1).as_bytes()).is_err(), "{becomes}");
        }
    }

    #[test]
    fn of_many_moments_the_newest_are_kept_and_some_of_the_oldest() {
        let mut seams = Vec::new();
        for next in 0..1_000 {
            add_seam(&mut seams, Seam { next_offsets: vec![next], records: vec![Some(next)] });
            assert!(seams.len() <= SEAMS_MAX);
        }
        let kept: Vec<u64> = seams.iter().map(|seam| seam.next_offsets[0]).collect();
        assert!(kept.is_sorted() && kept.ends_with(&(970..1_000).collect::<Vec<_>>()), "{kept:?}");
        assert_eq!(kept[0], 0, "{kept:?}");
    }
}
