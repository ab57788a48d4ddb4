//! Rebuilding: damaged or missing objects of a manifest are written again from rows of another store.
//!
//! ```text
//! kept/20261120T120000Z/manifest/kind=trade/…/0000.json   what was replaced, at its key below a time
//! ```
//!
//! All rows of the manifest are written into new objects, read back, and must have the digest that the
//! manifest names. Then the old manifest and the damaged objects are copied to `kept/`, and a manifest of
//! the same number and offsets, which names the new objects, takes the place of the old one. Until that
//! last step the archive is what it was. Old objects that no manifest names any more are garbage.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::chain::Chains;
use super::journal::{JOURNAL_PREFIX, parse_journal_key};
use super::lease::Lease;
use super::manifest::{MANIFEST_VERSION, Manifest, manifest_key, parse_manifest_key};
use super::read_back::read_back;
use super::remade::Remade;
use super::run::{Archiver, fresh_id};
use super::sealed::seal;
use super::verify::Fault;
use super::{ArchiveError, Progress, object};
use crate::fail;
use crate::market::TickBatch;
use crate::tiering::cold::Availability;
use crate::tiering::warm::{Unit, WarmError};

/// What the keys of replaced objects begin with.
pub const KEPT_PREFIX: &str = "kept/";

/// Bytes of an object that are copied at once.
const PART_BYTES: u64 = 8 << 20;

/// A manifest of which objects are damaged or missing.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// The unit.
    pub unit: Unit,
    /// The manifest, which is sound.
    pub manifest: Manifest,
    /// The damaged or missing objects, and copies of footers.
    pub faults: Vec<Fault>,
    /// Whether only copies of footers are damaged: the rows are sound.
    pub is_footers_only: bool,
}

/// What reading the whole archive found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Manifests with damaged objects.
    pub damaged: Vec<Damaged>,
    /// Manifests that are damaged or missing.
    pub remade: Vec<Remade>,
    /// Other faults of manifests, and those of journals.
    pub faults: Vec<(Unit, Fault)>,
    /// Objects that could not be read because they are in Glacier.
    pub frozen: u64,
}

impl Archiver {
    /// Reads every object of the units that `wanted` selects.
    ///
    /// Errors: the store can't be read. Damage is in the result.
    pub async fn find_damaged(
        &self,
        wanted: impl Fn(Unit) -> bool,
        progress: &Progress,
    ) -> Result<Findings, ArchiveError> {
        let mut found = Findings::default();
        let chains = Chains::new(self.store.shared_cold());
        let mut units: BTreeSet<Unit> = chains.units(&wanted).await?.collect();
        // A unit whose only manifest is missing has a journal still.
        let journals = self.store.list(JOURNAL_PREFIX, None).await?;
        let journals = journals.iter().filter_map(|object| parse_journal_key(&object.key));
        units.extend(journals.filter(|unit| wanted(*unit)));
        for unit in units {
            let chain = chains.read(unit).await?;
            let named = |key: &str| {
                let files = chain.manifests.iter().flat_map(|manifest| &manifest.files);
                files.clone().any(|file| file.key == key || file.footer_key == key)
            };
            let others: Vec<_> = chain.faults.iter().filter(|fault| !named(&fault.key)).cloned().collect();
            for fault in others {
                let lost = parse_manifest_key(&fault.key).map(|(_, number)| number);
                let lost =
                    lost.filter(|number| chain.manifests.iter().all(|manifest| manifest.number != *number));
                match lost {
                    Some(number) => found.remade.push(self.remake(unit, &chain, number, fault).await?),
                    None => found.faults.push((unit, fault)),
                }
            }
            for manifest in chain.manifests {
                let (faults, is_footers_only) =
                    self.faults_of(unit, &manifest, &mut found.frozen, progress).await?;
                if !faults.is_empty() {
                    found.damaged.push(Damaged { unit, manifest, faults, is_footers_only });
                }
            }
        }
        Ok(found)
    }

    /// The faults of the objects of a manifest, and whether only copies of footers have any.
    async fn faults_of(
        &self,
        unit: Unit,
        manifest: &Manifest,
        frozen: &mut u64,
        progress: &Progress,
    ) -> Result<(Vec<Fault>, bool), ArchiveError> {
        let (mut faults, mut is_footers_only) = (Vec::new(), true);
        for file in &manifest.files {
            let fault = |reason: String| Fault { key: file.key.clone(), reason };
            match self.store.availability(&file.key).await? {
                None => {
                    faults.push(fault("it is missing".to_owned()));
                    is_footers_only = false;
                    continue;
                }
                Some(Availability::Frozen | Availability::Restoring) => {
                    *frozen += 1;
                    continue;
                }
                Some(Availability::Ready | Availability::Restored { .. }) => {}
            }
            let footer = match read_back(&self.store, unit.kind, file, progress).await {
                Ok(footer) => footer,
                Err(ArchiveError::Damaged { reason, .. }) => {
                    faults.push(fault(reason));
                    is_footers_only = false;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let copy = self.store.get(&file.footer_key).await?;
            if copy.as_ref() != Some(&footer) {
                let reason =
                    if copy.is_some() { "it is no copy of its object's footer" } else { "it is missing" };
                faults.push(Fault { key: file.footer_key.clone(), reason: reason.to_owned() });
            }
        }
        Ok((faults, is_footers_only))
    }

    /// Puts copies of footers back, of objects that are sound. What was damaged is kept under `kept`.
    pub async fn rebuild_footers(
        &self,
        lease: &Lease,
        damaged: &Damaged,
        kept: &str,
        progress: &Progress,
    ) -> Result<(), ArchiveError> {
        for file in &damaged.manifest.files {
            if !damaged.faults.iter().any(|fault| fault.key == file.footer_key) {
                continue;
            }
            let footer = read_back(&self.store, damaged.unit.kind, file, progress).await?;
            self.keep(&file.footer_key, kept).await?;
            lease.check()?;
            self.store.put(&file.footer_key, footer).await?;
        }
        Ok(())
    }

    /// Replaces `damaged` by a manifest whose objects hold `rows`: all rows of the manifest, ordered by
    /// symbol, ts and seq. What is replaced is kept under `kept`. To be called with the lease held.
    ///
    /// Errors: the rows are not the archived ones, as [`ArchiveError::Differs`]; the store refuses. The
    /// manifest is unchanged then.
    pub async fn rebuild(
        &self,
        lease: &Lease,
        damaged: &Damaged,
        kept: &str,
        rows: BoxStream<'static, Result<TickBatch, WarmError>>,
        progress: &Progress,
    ) -> Result<(), ArchiveError> {
        let Damaged { unit, manifest, faults, .. } = damaged;
        lease.check()?;
        let attempt = fresh_id(self.clock.now());
        let written = object::write(&self.store, *unit, &attempt, &self.options, rows, progress).await?;
        if written.digest != manifest.digest {
            return Err(ArchiveError::Differs {
                unit: *unit,
                what: "the other store's rows are not the archived ones",
                found: written.digest,
                expected: manifest.digest,
            });
        }
        self.verify(*unit, manifest.digest, &written.files, progress).await?;
        fail::point("repair.objects_written");
        let key = manifest_key(*unit, manifest.number);
        for key in std::iter::once(&key).chain(faults.iter().map(|fault| &fault.key)) {
            self.keep(key, kept).await?;
        }
        fail::point("repair.objects_kept");
        let rebuilt = Manifest {
            version: MANIFEST_VERSION,
            nonce: attempt,
            committed_at: self.clock.now().to_string(),
            writer: format!("stk {}", env!("CARGO_PKG_VERSION")),
            files: written.files,
            ..manifest.clone()
        };
        lease.check()?;
        self.store.put(&key, seal(&rebuilt)).await?;
        fail::point("repair.manifest_replaced");
        Ok(())
    }

    /// Writes `rows` of `unit`, which another store is about to lose, into objects below `kept`. Returns how many
    /// rows they are.
    ///
    /// Errors: the store refuses, or the rows can't be read.
    pub async fn keep_rows(
        &self,
        lease: &Lease,
        unit: Unit,
        kept: &str,
        rows: BoxStream<'static, Result<TickBatch, WarmError>>,
        progress: &Progress,
    ) -> Result<u64, ArchiveError> {
        lease.check()?;
        let attempt = fresh_id(self.clock.now());
        let (store, options) = (&self.store, &self.options);
        let written = object::write_below(store, kept, unit, &attempt, options, rows, progress).await?;
        Ok(written.digest.rows)
    }

    /// Copies an object, if it is there, to its key below `kept`.
    pub(super) async fn keep(&self, key: &str, kept: &str) -> Result<(), ArchiveError> {
        let found = self.store.list(key, None).await?.into_iter().find(|object| object.key == key);
        let Some(object) = found else { return Ok(()) };
        let to = format!("{kept}{key}");
        if object.bytes == 0 {
            return Ok(self.store.put(&to, Bytes::new()).await?);
        }
        let mut upload = self.store.upload(&to).await?;
        let mut at = 0;
        while at < object.bytes {
            let end = object.bytes.min(at + PART_BYTES);
            let part = self.store.get_range(key, at..end).await?;
            self.store.write(&mut upload, part).await?;
            at = end;
        }
        Ok(upload.finish().await?)
    }
}
