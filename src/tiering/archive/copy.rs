//! Moving an archive: everything that a reader would see is copied to another place and proven there.
//!
//! What belongs to an archive never changes once a manifest names it, so the copy needs no lock on the
//! source and writes nothing there: manifests are listed, what they name is copied, and manifests that
//! were committed meanwhile are copied in a further round. At the destination, the order is:
//!
//! 1. a marker in the place of `log.json`, which every reader and archiver refuses;
//! 2. data objects, each read back whole and compared with its manifest, and the copies of their footers;
//! 3. manifests, each unit's in the order of their numbers, and journals;
//! 4. `log.json`, which replaces the marker.
//!
//! A copy that was interrupted continues when it is run again. A destination that is whole already takes
//! what the source has more than it: it stays a whole archive at every moment, since the objects of a
//! manifest are there before the manifest.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use super::journal::{JOURNAL_PREFIX, Journal, Step, journal_key};
use super::lease::{LEASE_PREFIX, Lease};
use super::manifest::{
    DATA_PREFIX, MANIFEST_PREFIX, Manifest, ManifestFile, manifest_key, parse_manifest_key,
};
use super::origin::{self, LOG_KEY, Unfinished};
use super::probe::{PROBE_PREFIX, probe};
use super::read_back::read_back;
use super::run::fresh_id;
use super::store::{Created, Store, mend};
use super::verify::Fault;
use super::{ArchiveError, ArchiveMetrics, Clock, Progress, first, sealed};
use crate::bus::epoch::{Gone, Held, Holder, LogEpoch, Relation, is_within, later};
use crate::fail;
use crate::tiering::cold::{Availability, Cold, ColdError};
use crate::tiering::warm::Unit;

/// Bytes of a data object that are read and written at once.
const PART_BYTES: u64 = 8 << 20;
/// Data objects that are copied at once.
const OBJECTS_AT_ONCE: usize = 4;
/// Small objects that are read at once.
const READS_AT_ONCE: usize = 8;
/// Rounds that copy what was archived meanwhile.
const ROUNDS_MAX: usize = 5;
/// Tries to copy a data object.
const TRIES_MAX: u32 = 3;
/// How long the lease on the destination lasts that is not renewed.
const LEASE: Duration = Duration::from_mins(2);

/// Why an archive could not be copied.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CopyError {
    /// A store refused, or what it holds is damaged.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// There is nothing to copy.
    #[error("{from} holds no archive")]
    Nothing {
        /// The source.
        from: String,
    },
    /// The destination holds something that is not part of the copy.
    #[error("{to} can't take a copy of {from}: {reason}")]
    Occupied {
        /// The source.
        from: String,
        /// The destination.
        to: String,
        /// What the destination holds.
        reason: String,
    },
    /// More was archived in each round.
    #[error("{from}: an archiver commits days faster than they are copied")]
    Growing {
        /// The source.
        from: String,
    },
}

impl From<ColdError> for CopyError {
    fn from(error: ColdError) -> Self {
        Self::Archive(error.into())
    }
}

/// The timeline of a log, to which a copy of a parted archive is limited.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// The log's identity.
    pub epoch: LogEpoch,
    /// By partition, the offset after the last record of the log; `u64::MAX` while a server writes it.
    pub nexts: Vec<u64>,
    /// By partition, where the log's records tell that the archive's timeline parted from it; `None` where it
    /// did not, or the log's generations tell.
    pub parted_at: Option<Vec<u64>>,
}

impl Timeline {
    /// How the rows that `held` names relate to it.
    pub fn relation(&self, held: &Held) -> Relation {
        let parted = self.parted_at.as_ref().map(|at| Relation::Parted { at: at.clone() });
        parted.unwrap_or_else(|| self.epoch.relation(&self.nexts, held))
    }
}

/// What a copy would take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Manifests to be at the destination.
    pub manifests: u64,
    /// Data objects to be at the destination.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Data objects that the destination lacks.
    pub objects_missing: u64,
    /// Their bytes.
    pub bytes_missing: u64,
    /// Manifests of another timeline, which are left out.
    pub manifests_left_out: u64,
    /// What is wrong with the source, as far as its manifests show.
    pub faults: Vec<Fault>,
}

/// A data object that can't be read before it is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The unit of its rows.
    pub unit: Unit,
    /// Its key.
    pub key: String,
}

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Manifests at the destination.
    pub manifests: u64,
    /// Data objects that were copied now.
    pub objects_copied: u64,
    /// Their bytes.
    pub bytes_copied: u64,
    /// Data objects that were read back at the destination and are what their manifests say.
    pub objects_verified: u64,
    /// Their rows.
    pub rows_verified: u64,
    /// What is wrong with the source.
    pub faults: Vec<Fault>,
    /// Objects that must be restored first.
    pub frozen: Vec<Frozen>,
}

impl Copied {
    /// Whether the destination holds the whole archive, verified.
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty() && self.frozen.is_empty()
    }
}

/// Hears how many bytes were copied or read back since the last time.
pub type Passed<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// Copies an archive from one store to another.
pub struct Copier {
    from: Store,
    to: Store,
    timeline: Option<Timeline>,
    clock: Clock,
}

/// A manifest that is copied.
struct Taken {
    key: String,
    bytes: Bytes,
    manifest: Manifest,
}

/// The manifests of a unit that are copied, in the order of their numbers.
struct Chain {
    unit: Unit,
    taken: Vec<Taken>,
    journal: Option<Bytes>,
    left_out: u64,
    faults: Vec<Fault>,
}

/// The source at one moment.
struct Source {
    chains: Vec<Chain>,
    /// The log and how far the rows go that are copied.
    log: Option<Held>,
    /// Every manifest that was listed.
    keys: BTreeSet<String>,
    faults: Vec<Fault>,
}

/// The destination before a copy.
struct Target {
    /// What it holds, where it is a whole archive.
    log: Option<Held>,
    /// Bytes of its objects by key.
    sizes: HashMap<String, u64>,
}

enum Outcome {
    /// The destination had it.
    Kept,
    Copied,
    Frozen,
    Damaged(Fault),
}

impl Copier {
    /// A copy of the archive in `from` to `to`, which moves at most `bandwidth` bytes per second from
    /// and to each. With a `timeline`, manifests that the log of that timeline can't continue are left out.
    pub fn new(
        from: Arc<dyn Cold>,
        to: Arc<dyn Cold>,
        timeline: Option<Timeline>,
        bandwidth: Option<u64>,
    ) -> Self {
        let store = |cold| Store::new(cold, bandwidth, ArchiveMetrics::default());
        Self { from: store(from), to: store(to), timeline, clock: Clock::default() }
    }

    /// Reports what a copy would do. Changes nothing.
    ///
    /// Errors: a store can't be read, the source holds no archive, or the destination holds something else.
    pub async fn plan(&self) -> Result<Plan, CopyError> {
        let source = self.source().await?;
        let target = self.target(&source).await?;
        Ok(source.plan(&target))
    }

    /// Copies and verifies. The destination is an archive only if [`Copied::is_whole`]; otherwise it is left
    /// as an unfinished copy, which the next call continues.
    ///
    /// Errors: as [`Copier::plan`]; another process works on the destination; or what was written there
    /// can't be read back.
    pub async fn run(&self, passed: Passed<'_>) -> Result<Copied, CopyError> {
        let source = self.source().await?;
        self.target(&source).await?;
        let lease = Lease::take(&self.to, &self.clock, LEASE).await?;
        let done = self.run_leased(&lease, source, passed).await;
        // A lease that can't be given back runs out.
        if let Err(error) = lease.release().await
            && done.is_ok()
        {
            tracing::warn!(%error, "the lease on the copy could not be given back");
        }
        done
    }

    async fn run_leased(
        &self,
        lease: &Lease,
        mut source: Source,
        passed: Passed<'_>,
    ) -> Result<Copied, CopyError> {
        let mut target = self.target(&source).await?;
        probe(&self.to, &fresh_id(self.clock.now())).await?;
        let before = target.log.take();
        if before.is_none() {
            let marker = Unfinished::new(self.from.name(), source.log.as_ref().and_then(|log| log.log));
            self.to.put_json(LOG_KEY, &marker).await?;
            fail::point("copy.begun");
        }
        let (mut copied, mut verified) = (Copied::default(), HashSet::new());
        for _ in 0..ROUNDS_MAX {
            self.objects(lease, &source, &target, &mut verified, &mut copied, passed).await?;
            copied.faults.extend(source.all_faults());
            if !copied.is_whole() {
                return Ok(copied);
            }
            if let (Some(before), Some(log)) = (&before, &source.log)
                && !contains(before, log)
            {
                origin::put(&self.to, log).await?;
            }
            self.manifests(lease, &source, before.is_some()).await?;
            copied.manifests = source.chains.iter().map(|chain| chain.taken.len() as u64).sum();
            let keys = self.from.list(MANIFEST_PREFIX, None).await?;
            if is_all_of(&source.keys, keys.iter().map(|object| &*object.key)) {
                self.finish(lease, &source, before.is_none()).await?;
                return Ok(copied);
            }
            source = self.source().await?;
            target.sizes = self.sizes(&self.to).await?;
        }
        Err(CopyError::Growing { from: self.from.name().to_owned() })
    }

    /// The name of the log, last: with it the copy is an archive.
    async fn finish(&self, lease: &Lease, source: &Source, is_new: bool) -> Result<(), CopyError> {
        lease.check()?;
        if is_new {
            match &source.log {
                Some(log) => origin::put(&self.to, log).await?,
                None => self.to.delete(LOG_KEY).await?,
            }
        }
        let found = origin::named(self.to.cold()).await.map_err(ArchiveError::from)?;
        let is_there = match (&found, &source.log) {
            (Some(found), Some(log)) => contains(found, log),
            (found, log) => found.is_some() == log.is_some(),
        };
        if is_there {
            return Ok(());
        }
        Err(self.to.damaged(LOG_KEY, "it is not what was written").into())
    }

    /// Copies data objects that are missing, and reads all of them back.
    async fn objects(
        &self,
        lease: &Lease,
        source: &Source,
        target: &Target,
        verified: &mut HashSet<String>,
        copied: &mut Copied,
        passed: Passed<'_>,
    ) -> Result<(), CopyError> {
        let files = source.files().filter(|(_, file)| !verified.contains(&file.key));
        let files: Vec<(Unit, ManifestFile)> = files.map(|(unit, file)| (unit, file.clone())).collect();
        let mut work = stream::iter(files.into_iter().map(|(unit, file)| async move {
            lease.check()?;
            let is_there = target.sizes.get(&file.key) == Some(&file.bytes);
            let outcome = self.object(unit, &file, is_there, passed).await?;
            Ok::<_, CopyError>((unit, file, outcome))
        }))
        .buffer_unordered(OBJECTS_AT_ONCE);
        while let Some((unit, file, outcome)) = work.try_next().await? {
            match outcome {
                Outcome::Frozen => copied.frozen.push(Frozen { unit, key: file.key }),
                Outcome::Damaged(fault) => copied.faults.push(fault),
                outcome => {
                    if matches!(outcome, Outcome::Copied) {
                        copied.objects_copied += 1;
                        copied.bytes_copied += file.bytes;
                    }
                    copied.objects_verified += 1;
                    copied.rows_verified += file.digest.rows;
                    verified.insert(file.key);
                }
            }
        }
        Ok(())
    }

    async fn object(
        &self,
        unit: Unit,
        file: &ManifestFile,
        is_there: bool,
        passed: Passed<'_>,
    ) -> Result<Outcome, CopyError> {
        if is_there {
            match self.prove(unit, file, passed).await {
                // An interrupted copy, or a disk, left other bytes.
                Err(CopyError::Archive(ArchiveError::Damaged { .. })) => {}
                proven => return proven.map(|()| Outcome::Kept),
            }
        }
        match self.from.availability(&file.key).await? {
            None => return Ok(damaged(&file.key, "it is missing".to_owned())),
            Some(Availability::Frozen | Availability::Restoring) => return Ok(Outcome::Frozen),
            Some(Availability::Ready | Availability::Restored { .. }) => {}
        }
        let mut tries = 0;
        loop {
            tries += 1;
            match self.copy(file, passed).await {
                Ok(None) => break,
                Ok(Some(reason)) => return Ok(damaged(&file.key, reason)),
                Err(ColdError::Unknown { .. }) if tries < TRIES_MAX => {}
                Err(error) => return Err(error.into()),
            }
        }
        fail::point("copy.object");
        self.prove(unit, file, passed).await?;
        Ok(Outcome::Copied)
    }

    /// Copies a data object. Returns what is wrong with it at the source; nothing is written then.
    async fn copy(&self, file: &ManifestFile, passed: Passed<'_>) -> Result<Option<String>, ColdError> {
        let mut upload = self.to.upload(&file.key).await?;
        let (mut hash, mut at) = (Xxh3::new(), 0);
        while at < file.bytes {
            let end = file.bytes.min(at + PART_BYTES);
            let part = async {
                let bytes = self.from.get_range(&file.key, at..end).await?;
                hash.update(&bytes);
                self.to.write(&mut upload, bytes).await
            };
            if let Err(error) = part.await {
                // What can't be removed is garbage, and is collected as such.
                let _ = upload.abort().await;
                return Err(error);
            }
            passed(end - at);
            at = end;
        }
        let checksum = format!("{:016x}", hash.digest());
        if checksum != file.checksum {
            let _ = upload.abort().await;
            return Ok(Some(format!("its checksum is {checksum}, and was {}", file.checksum)));
        }
        upload.finish().await?;
        Ok(None)
    }

    /// Reads a data object back at the destination, and writes its footer's copy where that is missing.
    async fn prove(&self, unit: Unit, file: &ManifestFile, passed: Passed<'_>) -> Result<(), CopyError> {
        let quiet: Progress = Arc::new(|_| {});
        let footer = read_back(&self.to, unit.kind, file, &quiet).await?;
        self.put_same(&file.footer_key, &footer).await?;
        passed(file.bytes);
        Ok(())
    }

    /// Makes the object `key` at the destination be `bytes`, and reads it back.
    async fn put_same(&self, key: &str, bytes: &Bytes) -> Result<(), CopyError> {
        if self.to.get(key).await?.as_ref() == Some(bytes) {
            return Ok(());
        }
        self.to.put(key, bytes.clone()).await?;
        if self.to.get(key).await?.as_ref() == Some(bytes) {
            return Ok(());
        }
        Err(self.to.damaged(key, "it is not what was written").into())
    }

    /// Writes manifests and journals that the destination lacks. A journal of a destination that is in use
    /// is replaced only if the destination's unit has grown.
    async fn manifests(&self, lease: &Lease, source: &Source, is_in_use: bool) -> Result<(), CopyError> {
        for chain in &source.chains {
            let mut has_grown = !is_in_use;
            for taken in &chain.taken {
                if self.to.get(&taken.key).await?.as_ref() == Some(&taken.bytes) {
                    continue;
                }
                lease.check()?;
                has_grown = true;
                let is_own = |found: &[u8]| *found == taken.bytes[..];
                let created = self.to.create(&taken.key, taken.bytes.clone(), is_own).await?;
                if let Created::Other(_) = created {
                    return Err(self.occupied(format!("it has another {}", taken.key)));
                }
                if self.to.get(&taken.key).await?.as_ref() != Some(&taken.bytes) {
                    return Err(self.to.damaged(&taken.key, "it is not what was written").into());
                }
                fail::point("copy.manifest");
            }
            if let Some(journal) = chain.journal.as_ref().filter(|_| has_grown) {
                self.put_same(&journal_key(chain.unit), journal).await?;
            }
        }
        Ok(())
    }

    fn occupied(&self, reason: String) -> CopyError {
        CopyError::Occupied { from: self.from.name().to_owned(), to: self.to.name().to_owned(), reason }
    }

    /// What the source holds. Journals are read before the manifests are listed, so that none names a
    /// manifest that was not seen; `log.json` after them, so that it reaches as far as they do.
    async fn source(&self) -> Result<Source, CopyError> {
        let mut faults = Vec::new();
        let mut journals = self.journals(&mut faults).await?;
        let (mut keys, mut numbers) = (BTreeSet::new(), BTreeMap::<Unit, BTreeSet<u32>>::new());
        for object in self.from.list(MANIFEST_PREFIX, None).await? {
            if let Some((unit, number)) = parse_manifest_key(&object.key) {
                numbers.entry(unit).or_default().insert(number);
                keys.insert(object.key);
            }
        }
        let sizes = self.from.list(DATA_PREFIX, None).await?;
        let sizes: HashMap<String, u64> =
            sizes.into_iter().map(|object| (object.key, object.bytes)).collect();
        let mut log = origin::held(self.from.cold()).await.map_err(ArchiveError::from)?;
        if keys.is_empty() && log.is_none() {
            return Err(CopyError::Nothing { from: self.from.name().to_owned() });
        }
        let parted_at = self.parted_at(log.as_ref())?;
        // A copy names no log either, where only the manifests tell.
        log = log.filter(|held| held.log.is_some());
        let mut chains = stream::iter(numbers.into_iter().map(|(unit, numbers)| {
            let (journal, sizes, parted_at) = (journals.remove(&unit), &sizes, parted_at.as_deref());
            async move { self.chain(unit, &numbers, journal, sizes, parted_at).await }
        }))
        .buffered(READS_AT_ONCE)
        .try_collect::<Vec<_>>()
        .await?;
        chains.retain(|chain| !chain.taken.is_empty() || chain.left_out > 0 || !chain.faults.is_empty());
        if let (Some(timeline), Some(parted_at)) = (&self.timeline, &parted_at) {
            let taken = chains.iter().flat_map(|chain| &chain.taken);
            let reached = taken.fold(vec![0; timeline.nexts.len()], |reached, taken| {
                later(&reached, &taken.manifest.next_offsets)
            });
            let mut own = Held::nothing(Holder::Archive, self.to.name());
            own.seams = log.map_or_else(Vec::new, |held| held.seams);
            own.seams.retain(|seam| is_within(&seam.next_offsets, parted_at));
            log = Some(origin::place(
                &timeline.epoch,
                Held { next_offsets: reached, gone: Gone::Unknown, ..own },
            ));
        }
        Ok(Source { chains, log, keys, faults })
    }

    /// Where the archive's timeline and that of the log parted, if the copy is limited to the log's and
    /// they did.
    fn parted_at(&self, log: Option<&Held>) -> Result<Option<Vec<u64>>, CopyError> {
        let (Some(timeline), Some(held)) = (&self.timeline, log) else { return Ok(None) };
        let epoch = &timeline.epoch;
        match timeline.relation(held) {
            Relation::Parted { at } => Ok(Some(at)),
            Relation::OtherLog => {
                let name = |log: u64| format!("{log:016x}");
                let archived = name(held.log.unwrap_or_default());
                let (store, log) = (self.from.name().to_owned(), name(epoch.log().id));
                Err(ArchiveError::OtherLog { store, archived, log }.into())
            }
            // Such a log will give the offsets to records of its own.
            Relation::Ahead if !epoch.may_skip() => Ok(Some(timeline.nexts.clone())),
            Relation::Own | Relation::Skipped | Relation::Ahead => Ok(None),
        }
    }

    async fn journals(&self, faults: &mut Vec<Fault>) -> Result<HashMap<Unit, (Journal, Bytes)>, CopyError> {
        let keys = self.from.list(JOURNAL_PREFIX, None).await?;
        let read = stream::iter(keys.into_iter().map(|object| async move {
            let bytes = self.from.get(&object.key).await?;
            Ok::<_, CopyError>((object.key, bytes))
        }));
        let read: Vec<_> = read.buffered(READS_AT_ONCE).try_collect().await?;
        let mut journals = HashMap::new();
        for (key, bytes) in read.into_iter().filter_map(|(key, bytes)| Some((key, bytes?))) {
            let journal = sealed::open::<Journal>(&bytes);
            let unit = |journal: &Journal| {
                let kind = crate::market::Kind::from_name(&journal.kind)?;
                Some(Unit { day: journal.date, kind }).filter(|unit| journal_key(*unit) == key)
            };
            match journal.map(|journal| unit(&journal).map(|unit| (unit, journal))) {
                Ok(Some((unit, journal))) => drop(journals.insert(unit, (journal, bytes))),
                Ok(None) => faults.push(fault(&key, "it is the journal of another unit")),
                Err(reason) => faults.push(fault(&key, &reason)),
            }
        }
        Ok(journals)
    }

    async fn chain(
        &self,
        unit: Unit,
        numbers: &BTreeSet<u32>,
        journal: Option<(Journal, Bytes)>,
        sizes: &HashMap<String, u64>,
        parted_at: Option<&[u64]>,
    ) -> Result<Chain, CopyError> {
        let mut chain = Chain { unit, taken: Vec::new(), journal: None, left_out: 0, faults: Vec::new() };
        for (expected, &number) in (0_u32..).zip(numbers) {
            let key = manifest_key(unit, expected);
            if number != expected {
                chain.faults.push(fault(&key, &format!("it is missing, and there is {number:04}")));
                break;
            }
            let Some(bytes) = self.from.get(&key).await? else {
                chain.faults.push(fault(&key, "it is missing"));
                break;
            };
            let manifest = match self.manifest(unit, number, &bytes, chain.next_offsets()).await? {
                Ok(manifest) => manifest,
                Err(reason) => {
                    chain.faults.push(fault(&key, &reason));
                    break;
                }
            };
            if parted_at.is_some_and(|at| !self.is_own(&manifest, at)) {
                chain.left_out = numbers.len() as u64 - u64::from(number);
                break;
            }
            for file in &manifest.files {
                match sizes.get(&file.key) {
                    Some(bytes) if *bytes == file.bytes => {}
                    Some(bytes) => {
                        let reason = format!("it has {bytes} bytes, and had {}", file.bytes);
                        chain.faults.push(fault(&file.key, &reason));
                    }
                    None => chain.faults.push(fault(&file.key, "it is missing")),
                }
            }
            chain.taken.push(Taken { key, bytes, manifest });
        }
        // Notes of work that is under way are of no use elsewhere.
        chain.journal = journal.and_then(|(journal, bytes)| {
            let is_done = matches!(journal.step, Step::Committed | Step::Dropping | Step::Dropped);
            (is_done && journal.number as usize + 1 == chain.taken.len()).then_some(bytes)
        });
        Ok(chain)
    }

    /// The manifest in `bytes`, or what is wrong with it.
    async fn manifest(
        &self,
        unit: Unit,
        number: u32,
        bytes: &Bytes,
        first: &[u64],
    ) -> Result<Result<Manifest, String>, CopyError> {
        let manifest = match Manifest::parse(bytes) {
            Ok(manifest) => manifest,
            Err(reason) => return Ok(Err(reason)),
        };
        if manifest.version == 1
            && let Some(reason) = first::fault(self.from.cold(), unit, &manifest).await?
        {
            return Ok(Err(reason));
        }
        Ok(match manifest.fault(unit, number, Some(first)) {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(manifest),
        })
    }

    /// Whether the rows of a manifest are of the timeline to which the copy is limited.
    fn is_own(&self, manifest: &Manifest, parted_at: &[u64]) -> bool {
        let Some(Timeline { epoch, nexts, .. }) = &self.timeline else { return true };
        is_within(&manifest.next_offsets, nexts) && manifest.is_of(epoch, parted_at)
    }

    async fn sizes(&self, store: &Store) -> Result<HashMap<String, u64>, CopyError> {
        let mut sizes = HashMap::new();
        for prefix in [DATA_PREFIX, MANIFEST_PREFIX] {
            let objects = store.list(prefix, None).await?;
            sizes.extend(objects.into_iter().map(|object| (object.key, object.bytes)));
        }
        Ok(sizes)
    }

    /// What the destination holds: nothing, an unfinished copy of `source`, or an archive that `source`
    /// continues or that continues `source`.
    async fn target(&self, source: &Source) -> Result<Target, CopyError> {
        let own = Unfinished::new(self.from.name(), source.log.as_ref().and_then(|log| log.log));
        let unfinished = Unfinished::find(&self.to).await?;
        if let Some(other) = unfinished.as_ref().filter(|found| found.log != own.log) {
            return Err(self.occupied(format!("it is an unfinished copy of {}", other.copy_of)));
        }
        let log = match &unfinished {
            Some(_) => None,
            None => origin::named(self.to.cold()).await.map_err(ArchiveError::from)?,
        };
        if unfinished.is_none() && log.is_none() {
            let all = self.to.list("", None).await?;
            let mut others = all.iter().filter(|object| {
                !object.key.starts_with(LEASE_PREFIX) && !object.key.starts_with(PROBE_PREFIX)
            });
            if let Some(object) = others.next() {
                return Err(self.occupied(format!("it is not empty: it has {}", object.key)));
            }
            return Ok(Target { log: None, sizes: HashMap::new() });
        }
        if let Some(log) = &log {
            let is_one = source.log.as_ref().is_some_and(|own| contains(own, log) || contains(log, own));
            if !is_one {
                return Err(self.occupied("it holds the archive of another log or timeline".to_owned()));
            }
        }
        let sizes = self.sizes(&self.to).await?;
        let known: HashMap<&str, &Bytes> = source
            .chains
            .iter()
            .flat_map(|chain| &chain.taken)
            .map(|taken| (&*taken.key, &taken.bytes))
            .collect();
        let (known, is_in_use) = (&known, log.is_some());
        let there = sizes.keys().filter(|key| parse_manifest_key(key).is_some());
        let mut compared = stream::iter(there.map(|key| async move {
            let Some(own) = known.get(key.as_str()) else { return Ok((key, is_in_use)) };
            Ok::<_, CopyError>((key, self.to.get(key).await?.as_ref() == Some(*own)))
        }))
        .buffer_unordered(READS_AT_ONCE);
        while let Some((key, is_same)) = compared.try_next().await? {
            if !is_same {
                return Err(self.occupied(format!("it has another {key}")));
            }
        }
        drop(compared);
        Ok(Target { log, sizes })
    }
}

impl Chain {
    fn next_offsets(&self) -> &[u64] {
        self.taken.last().map_or(&[], |last| &last.manifest.next_offsets)
    }
}

impl Source {
    fn files(&self) -> impl Iterator<Item = (Unit, &ManifestFile)> {
        self.chains.iter().flat_map(|chain| {
            let files = chain.taken.iter().flat_map(|taken| &taken.manifest.files);
            // What the listing has shown to be damaged is not read.
            let is_sound = |file: &&ManifestFile| chain.faults.iter().all(|fault| fault.key != file.key);
            files.filter(is_sound).map(|file| (chain.unit, file))
        })
    }

    fn all_faults(&self) -> impl Iterator<Item = Fault> {
        self.faults.iter().chain(self.chains.iter().flat_map(|chain| &chain.faults)).cloned()
    }

    fn plan(&self, target: &Target) -> Plan {
        let mut plan = Plan { faults: self.all_faults().collect(), ..Plan::default() };
        for chain in &self.chains {
            plan.manifests += chain.taken.len() as u64;
            plan.manifests_left_out += chain.left_out;
        }
        for (_, file) in self.files() {
            plan.objects += 1;
            plan.bytes += file.bytes;
            if target.sizes.get(&file.key) != Some(&file.bytes) {
                plan.objects_missing += 1;
                plan.bytes_missing += file.bytes;
            }
        }
        plan
    }
}

/// Whether the archive that holds `held` has all rows of one that holds `other`, by their names.
fn contains(held: &Held, other: &Held) -> bool {
    let Some(log) = held.log else { return false };
    let mut ended = held.lineage.clone();
    let generation = ended.pop().map_or(0, |last| last.generation);
    let epoch = LogEpoch::with_history(log, generation, ended, Vec::new());
    epoch.relation(&held.next_offsets, other) == Relation::Own
}

/// Whether the manifests among `keys` are those of `known`.
fn is_all_of<'a>(known: &BTreeSet<String>, keys: impl Iterator<Item = &'a str>) -> bool {
    keys.filter(|key| parse_manifest_key(key).is_some()).all(|key| known.contains(key))
}

fn fault(key: &str, reason: &str) -> Fault {
    Fault { key: key.to_owned(), reason: format!("{reason}{}", mend(key)) }
}

fn damaged(key: &str, reason: String) -> Outcome {
    Outcome::Damaged(fault(key, &reason))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::bus::{Bounds, Bus, BusError, BusReader, Durable};
    use crate::tiering::archive::origin::Beside;
    use crate::tiering::archive::read::tests as fake;
    use crate::tiering::cold::dir::DirCold;
    use crate::tiering::cold::s3::tests::bucket;
    use crate::tiering::cold::{RestoreTier, StorageClass};
    use crate::tiering::warm::conformance;
    use crate::tiering::warm::local::{LocalWarm, LocalWarmOptions};

    /// A log in Kafka, as far as an archive asks: its identity, and by partition where it ends.
    struct Topic(LogEpoch, Vec<u64>);

    #[async_trait::async_trait]
    impl Bus for Topic {
        fn partitions(&self) -> u16 {
            self.1.len() as u16
        }

        fn epoch(&self) -> &LogEpoch {
            &self.0
        }

        async fn append(&self, _: Vec<(u16, Bytes)>) -> Result<Durable, BusError> {
            Err(BusError::Closed)
        }

        async fn bounds(&self, partition: u16) -> Result<Bounds, BusError> {
            Ok(Bounds { first: 0, next: self.1[usize::from(partition)] })
        }

        async fn reader(&self, _: u16, _: u64) -> Result<Box<dyn BusReader>, BusError> {
            Err(BusError::Closed)
        }

        fn release(&self, _: u16, _: u64) {}
    }

    /// A topic was put back from a copy that is older than the archive. Unlike a local log it can't skip the
    /// offsets of the archived rows.
    #[tokio::test]
    async fn of_an_archive_ahead_of_a_log_that_cannot_skip_the_own_days_are_copied() {
        let (warm_dir, from_dir, to_dir) =
            (TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap());
        let warm = LocalWarm::open(warm_dir.path(), LocalWarmOptions { compaction: false }).unwrap();
        conformance::store(&*warm, &fake::some_case()).await;
        let [from, to] =
            [&from_dir, &to_dir].map(|dir| Arc::new(DirCold::open(dir.path()).unwrap()) as Arc<dyn Cold>);
        let manifests = fake::archive_all(&warm, &*from, fake::TINY).await;
        let (half, whole) = (manifests[0].next_offsets.clone(), manifests[1].next_offsets.clone());
        let epoch = LogEpoch::new(7);
        let log_up_to = |nexts: &[u64]| Beside::new(Arc::new(Topic(epoch.clone(), nexts.to_vec())));
        let store = Store::new(from.clone(), None, ArchiveMetrics::default());
        let held = Held { next_offsets: whole, ..Held::nothing(Holder::Archive, from.name()) };
        origin::put(&store, &origin::place(&epoch, held)).await.unwrap();
        let older = log_up_to(&half);
        let refused = origin::check(&*from, &older).await.unwrap_err();
        assert!(matches!(refused, ArchiveError::OtherTimeline { is_parted: true, .. }), "{refused}");
        // As the hint of this error says.
        let timeline = Timeline { epoch: epoch.clone(), nexts: half, parted_at: None };
        let copied = Copier::new(from.clone(), to.clone(), Some(timeline), None).run(&|_| {}).await.unwrap();
        assert!(copied.is_whole(), "{copied:?}");
        origin::check(&*to, &older).await.unwrap();
        let [all, taken] = [&from, &to].map(|cold| cold.list(MANIFEST_PREFIX, None));
        let (all, taken) = (all.await.unwrap().len(), taken.await.unwrap().len());
        assert!(taken > 0 && taken < all, "{taken} of {all}");
    }

    /// What an unfinished copy has in the place of `log.json`, which every later version must refuse.
    #[tokio::test]
    async fn an_unfinished_copy_of_any_version_is_refused() {
        let dir = TempDir::new().unwrap();
        let marker = include_bytes!("../../../tests/golden/archive/unfinished/log.json");
        std::fs::write(dir.path().join(LOG_KEY), marker).unwrap();
        let cold = DirCold::open(dir.path()).unwrap();
        let refused = origin::held(&cold).await.unwrap_err().to_string();
        assert!(
            refused.contains("is an unfinished copy of v2: finish it with `stk archive copy v2"),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn frozen_objects_are_named_and_the_rest_is_copied() {
        let Some(bucket) = bucket().await else { return };
        let (warm_dir, to_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let warm = LocalWarm::open(warm_dir.path(), LocalWarmOptions { compaction: false }).unwrap();
        conformance::store(&*warm, &fake::some_case()).await;
        let manifests = fake::archive_all(&warm, &bucket, fake::TINY).await;
        let key = &manifests[0].files[0].key;
        bucket.move_to(key, StorageClass::DeepArchive).await;
        let to: Arc<dyn Cold> = Arc::new(DirCold::open(to_dir.path()).unwrap());
        let copier = Copier::new(Arc::new(bucket.clone()), to.clone(), None, None);
        let copied = copier.run(&|_| {}).await.unwrap();
        let frozen: Vec<&String> = copied.frozen.iter().map(|frozen| &frozen.key).collect();
        assert_eq!((frozen, copied.is_whole()), (vec![key], false));
        assert!(origin::held(&*to).await.unwrap_err().to_string().contains("unfinished copy"));
        bucket.restore(key, 1, RestoreTier::Bulk).await.unwrap();
        let rest = copier.run(&|_| {}).await.unwrap();
        assert!(rest.is_whole() && rest.objects_copied == 1, "{rest:?}");
        assert_eq!(to.get(key).await.unwrap(), bucket.get(key).await.unwrap());
    }
}
