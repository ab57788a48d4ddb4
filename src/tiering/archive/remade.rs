//! Manifests that are damaged or missing, made again from what proves them.
//!
//! The offsets of a manifest are those where the manifest before it ends and the one after it begins; of the
//! last one the journal has them. Its objects are those that no other manifest names. They hold the
//! checksums of their own blocks, and copies of their footers are stored beside the manifests. Which attempt
//! was committed, where several left objects, only the rows of another store can tell.

use std::collections::BTreeMap;

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::ArchiveError;
use super::chain::Chain;
use super::journal::{Journal, Step};
use super::lease::Lease;
use super::manifest::{MANIFEST_VERSION, Manifest, ManifestFile, data_prefix, manifest_key, manifest_prefix};
use super::origin;
use super::run::Archiver;
use super::sealed::seal;
use super::verify::Fault;
use crate::market::{Kind, RowDigest, Symbol};
use crate::tiering::cold::Availability;
use crate::tiering::parquet::{Footer, Index, Window};
use crate::tiering::warm::Unit;

/// Rows that are decoded and digested at once.
const BATCH_ROWS: usize = 1 << 14;
/// Bytes of an object that are read at once.
const PART_BYTES: u64 = 8 << 20;

/// A manifest that is damaged or missing, and what could take its place.
#[derive(Clone, Debug)]
pub struct Remade {
    /// The unit.
    pub unit: Unit,
    /// What is wrong with the manifest.
    pub fault: Fault,
    /// A manifest for each attempt whose objects are sound and whole, all with the same offsets. None where
    /// the offsets are not known or no objects are left.
    pub candidates: Vec<Manifest>,
    /// Whether it was committed, and only one attempt has left objects.
    pub is_proven: bool,
}

/// The objects of an attempt by their number, with their bytes.
type Parts = BTreeMap<u32, (String, u64)>;

/// The number and the attempt in an object's key.
fn part_of(key: &str, prefix: &str, suffix: &str) -> Option<(u32, String)> {
    let name = key.strip_prefix(prefix)?.strip_prefix("part-")?.strip_suffix(suffix)?;
    let (number, attempt) = name.split_once('-')?;
    Some((number.parse().ok()?, attempt.to_owned()))
}

impl Archiver {
    /// What could take the place of manifest `number` of `unit`, of which `chain` has the others. Reads all
    /// objects that no manifest names.
    ///
    /// Errors: the store can't be read.
    pub(super) async fn remake(
        &self,
        unit: Unit,
        chain: &Chain,
        number: u32,
        fault: Fault,
    ) -> Result<Remade, ArchiveError> {
        let mut remade = Remade { unit, fault, candidates: Vec::new(), is_proven: false };
        let journal = match Journal::read(&self.store, unit).await {
            Ok(journal) => journal,
            Err(ArchiveError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some((mut first_offsets, next_offsets)) = offsets(chain, number, journal.as_ref()) else {
            return Ok(remade);
        };
        first_offsets.resize(next_offsets.len().max(first_offsets.len()), 0);
        let attempts = self.unnamed(chain, &data_prefix(unit), ".parquet").await?;
        let footers = self.unnamed(chain, &manifest_prefix(unit), ".footer").await?;
        let is_later = |of: &Journal| {
            let is_done = matches!(of.step, Step::Committed | Step::Dropping | Step::Dropped);
            of.number > number || (of.number == number && is_done)
        };
        let is_committed = chain.manifests.iter().any(|other| other.number > number)
            || journal.as_ref().is_some_and(is_later);
        let is_alone = attempts.len() == 1 && footers.keys().eq(attempts.keys());
        let committed_at = journal.filter(|of| of.number == number).map(|of| of.updated_at);
        for (attempt, parts) in &attempts {
            let Some(copies) = footers.get(attempt) else { continue };
            let Some(files) = self.files(unit, parts, copies).await? else { continue };
            let mut digest = RowDigest::default();
            files.iter().for_each(|file| digest.add(file.digest));
            remade.candidates.push(Manifest {
                version: MANIFEST_VERSION,
                date: unit.day,
                kind: unit.kind.name().to_owned(),
                number,
                nonce: attempt.clone(),
                committed_at: committed_at.clone().unwrap_or_else(|| self.clock.now().to_string()),
                writer: format!("stk {}", env!("CARGO_PKG_VERSION")),
                generation: self.options.log.as_ref().map(|log| origin::generation(log, &next_offsets)),
                first_offsets: first_offsets.clone(),
                next_offsets: next_offsets.clone(),
                is_lost: false,
                digest,
                files,
            });
        }
        remade.is_proven = is_committed && is_alone && remade.candidates.len() == 1;
        Ok(remade)
    }

    /// The objects below `prefix` whose keys end with `suffix` and that none of the manifests names, by attempt.
    async fn unnamed(
        &self,
        chain: &Chain,
        prefix: &str,
        suffix: &str,
    ) -> Result<BTreeMap<String, Parts>, ArchiveError> {
        let files: Vec<_> = chain.manifests.iter().flat_map(|manifest| &manifest.files).collect();
        let mut attempts: BTreeMap<String, Parts> = BTreeMap::new();
        for object in self.store.list(prefix, None).await? {
            let is_named = files.iter().any(|file| file.key == object.key || file.footer_key == object.key);
            if let Some((number, attempt)) = part_of(&object.key, prefix, suffix).filter(|_| !is_named) {
                attempts.entry(attempt).or_default().insert(number, (object.key, object.bytes));
            }
        }
        Ok(attempts)
    }

    /// What a manifest says of the objects of an attempt; `None` where one of them is missing or damaged, or
    /// can't be read now.
    async fn files(
        &self,
        unit: Unit,
        parts: &Parts,
        copies: &Parts,
    ) -> Result<Option<Vec<ManifestFile>>, ArchiveError> {
        let is_whole = parts.keys().eq(copies.keys()) && parts.keys().copied().eq(0..parts.len() as u32);
        if !is_whole {
            return Ok(None);
        }
        let mut files = Vec::new();
        for ((key, bytes), (footer_key, _)) in parts.values().zip(copies.values()) {
            match self.file(unit.kind, key, *bytes, footer_key).await? {
                Some(file) => files.push(file),
                None => return Ok(None),
            }
        }
        Ok(Some(files))
    }

    async fn file(
        &self,
        kind: Kind,
        key: &str,
        bytes: u64,
        footer_key: &str,
    ) -> Result<Option<ManifestFile>, ArchiveError> {
        let is_ready = matches!(
            self.store.availability(key).await?,
            Some(Availability::Ready | Availability::Restored { .. })
        );
        let footer = self.store.get(footer_key).await?;
        let Some(footer) = footer.filter(|_| is_ready) else { return Ok(None) };
        let Some(footer_at) = bytes.checked_sub(footer.len() as u64) else { return Ok(None) };
        let tail = Window { start: footer_at, bytes: footer.clone(), file_bytes: bytes };
        let Ok(sums) = Index::parse(kind, &tail).map(|index| index.sums().clone()) else { return Ok(None) };
        let Ok(parsed) = Footer::parse(kind, &tail) else { return Ok(None) };
        let (mut hash, mut summer, mut at) = (Xxh3::new(), sums.summer(), 0);
        while at < footer_at {
            let end = footer_at.min(at + PART_BYTES);
            let part = self.store.get_range(key, at..end).await?;
            hash.update(&part);
            summer.update(&part);
            at = end;
        }
        let end = self.store.get_range(key, footer_at..bytes).await?;
        hash.update(&end);
        if end != footer || summer.finish() != sums {
            return Ok(None);
        }
        let Ok(groups) = parsed.row_groups() else { return Ok(None) };
        let mut rows = Rows::default();
        for (group, range) in groups.iter().enumerate() {
            let read = self.store.get_range(key, range.clone()).await?;
            let (footer, start) = (parsed.clone(), range.start);
            let decoded = tokio::task::spawn_blocking(move || {
                rows.take(&footer, group, start, read, bytes).map(|()| rows)
            });
            // A panic comes from bytes that no writer wrote.
            let Ok(Some(taken)) = decoded.await else { return Ok(None) };
            rows = taken;
        }
        let (symbol_min, symbol_max) = rows.ends.unwrap_or_default();
        let name = |symbol: Option<Symbol>| symbol.map(|symbol| symbol.to_string());
        Ok(Some(ManifestFile {
            key: key.to_owned(),
            footer_key: footer_key.to_owned(),
            bytes,
            footer_at,
            checksum: format!("{:016x}", hash.digest()),
            footer_checksum: Some(format!("{:016x}", xxh3_64(&footer))),
            digest: rows.digest,
            symbol_min: name(symbol_min),
            symbol_max: name(symbol_max),
        }))
    }

    /// Puts `manifest` in its place. What was there is kept under `kept`. To be called with the lease held.
    ///
    /// Errors: the store refuses, or the lease is lost.
    pub async fn put_remade(
        &self,
        lease: &Lease,
        unit: Unit,
        manifest: &Manifest,
        kept: &str,
    ) -> Result<(), ArchiveError> {
        let key = manifest_key(unit, manifest.number);
        self.keep(&key, kept).await?;
        lease.check()?;
        self.store.put(&key, seal(manifest)).await?;
        Ok(())
    }
}

/// Where manifest `number` begins and ends, as far as its neighbours and the journal say.
fn offsets(chain: &Chain, number: u32, journal: Option<&Journal>) -> Option<(Vec<u64>, Vec<u64>)> {
    let of = |number: u32| chain.manifests.iter().find(|manifest| manifest.number == number);
    let first = match number.checked_sub(1) {
        None => Vec::new(),
        Some(before) => of(before)?.next_offsets.clone(),
    };
    let of_journal = || {
        let journal = journal.filter(|journal| journal.number == number && !journal.next_offsets.is_empty());
        journal.map(|journal| journal.next_offsets.clone())
    };
    let next = of(number + 1).map(|after| after.first_offsets.clone()).or_else(of_journal)?;
    Some((first, next))
}

/// Rows of an object, taken in order.
#[derive(Default)]
struct Rows {
    digest: RowDigest,
    /// The symbols of the first and the last row, once there are rows.
    ends: Option<(Option<Symbol>, Option<Symbol>)>,
}

impl Rows {
    fn take(
        &mut self,
        footer: &Footer,
        group: usize,
        start: u64,
        bytes: Bytes,
        file_bytes: u64,
    ) -> Option<()> {
        let window = Window { start, bytes, file_bytes };
        for batch in footer.rows(group, window, BATCH_ROWS).ok()? {
            let batch = batch.ok()?;
            if batch.is_empty() {
                continue;
            }
            let keys = batch.keys().ok()?;
            let first = self.ends.map_or_else(|| keys.symbol(0), |(first, _)| first);
            self.ends = Some((first, keys.symbol(batch.len() - 1)));
            self.digest.add(batch.digest());
        }
        Some(())
    }
}
