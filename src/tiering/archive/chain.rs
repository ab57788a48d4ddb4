//! The manifests of a unit as they are, with all that is wrong with them: where every other reader stops
//! at the first fault, an audit names each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::journal::{Journal, Step};
use super::manifest::{Manifest, data_prefix, manifest_key, manifest_prefix, parse_manifest_key};
use super::plan;
use super::store::Store;
use super::verify::Fault;
use super::{ArchiveError, ArchiveMetrics};
use crate::tiering::cold::Cold;
use crate::tiering::warm::Unit;

/// How often a chain is read anew because an archiver added to it meanwhile.
const TRIES_MAX: usize = 8;

/// What there is of a unit.
#[derive(Debug, Default)]
pub struct Chain {
    /// The manifests that can be read, in the order of their numbers.
    pub manifests: Vec<Manifest>,
    /// What is wrong: manifests that are missing, do not meet or do not add up, and objects they
    /// name that are not there or of another size. What the objects hold is not looked at.
    pub faults: Vec<Fault>,
}

impl Chain {
    /// Of each partition the offset below which the archive holds every row.
    pub fn next_offsets(&self) -> &[u64] {
        self.manifests.last().map_or(&[], |last| &last.next_offsets)
    }

    /// Rows that its manifests say they hold.
    pub fn rows(&self) -> u64 {
        self.manifests.iter().map(|manifest| manifest.digest.rows).sum()
    }
}

/// Reads chains.
pub struct Chains {
    store: Store,
}

impl Chains {
    /// Of the archive in `cold`.
    pub fn new(cold: Arc<dyn Cold>) -> Self {
        Self { store: Store::new(cold, None, ArchiveMetrics::default()) }
    }

    /// The units there are manifests of and `wanted` holds for, in order.
    pub async fn units(
        &self,
        wanted: impl Fn(Unit) -> bool,
    ) -> Result<impl Iterator<Item = Unit>, ArchiveError> {
        let units = plan::archived_units(&self.store).await?;
        Ok(units.into_iter().filter(move |unit| wanted(*unit)))
    }

    /// The chain of `unit`; empty where nothing is archived.
    ///
    /// Errors: the store can't be read. What is wrong with what it holds is in the chain.
    pub async fn read(&self, unit: Unit) -> Result<Chain, ArchiveError> {
        let mut tries = 0;
        loop {
            let (chain, has_grown) = self.read_once(unit).await?;
            tries += 1;
            if !has_grown || tries == TRIES_MAX {
                return Ok(chain);
            }
        }
    }

    /// The chain, and whether there are manifests by now that were not when it was begun.
    async fn read_once(&self, unit: Unit) -> Result<(Chain, bool), ArchiveError> {
        let mut chain = Chain::default();
        let mut sizes = self.sizes(&manifest_prefix(unit)).await?;
        let found = sizes.keys().filter_map(|key| parse_manifest_key(key));
        let numbers: BTreeSet<u32> = found.map(|(_, number)| number).collect();
        if !numbers.is_empty() {
            sizes.extend(self.sizes(&data_prefix(unit)).await?);
        }
        let mut expected = 0;
        for number in numbers {
            for missing in expected..number {
                chain.fault(manifest_key(unit, missing), format!("it is missing, and there is {number:04}"));
            }
            expected = number + 1;
            if let Some(manifest) = self.manifest(unit, number, &mut chain).await? {
                chain.objects(&manifest, &sizes);
                chain.manifests.push(manifest);
            }
        }
        let has_grown = self.journal(unit, expected, &mut chain).await?;
        Ok((chain, has_grown))
    }

    /// The objects below `prefix`, with their bytes. One answer tells of a thousand.
    async fn sizes(&self, prefix: &str) -> Result<BTreeMap<String, u64>, ArchiveError> {
        let objects = self.store.list(prefix, None).await?;
        Ok(objects.into_iter().map(|object| (object.key, object.bytes)).collect())
    }

    /// The manifest of that number, its faults noted; `None` where it can't be read.
    async fn manifest(
        &self,
        unit: Unit,
        number: u32,
        chain: &mut Chain,
    ) -> Result<Option<Manifest>, ArchiveError> {
        let key = manifest_key(unit, number);
        let manifest = match self.store.manifest(unit, number).await {
            Ok(Some(manifest)) => manifest,
            Ok(None) => {
                chain.fault(key, "it has gone");
                return Ok(None);
            }
            Err(ArchiveError::Damaged { key, reason, .. }) => {
                chain.fault(key, reason);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // Where the one before is missing or can't be read, that is told already.
        let before = chain.manifests.last().filter(|before| before.number + 1 == number);
        let first = match before {
            Some(before) => Some(&before.next_offsets[..]),
            None => (number == 0).then_some(&[][..]),
        };
        match manifest.fault(unit, number, first) {
            Some(reason) => chain.fault(key, reason),
            None => return Ok(Some(manifest)),
        }
        let is_own = (manifest.date, manifest.kind.as_str()) == (unit.day, unit.kind.name());
        Ok(is_own.then_some(manifest))
    }

    /// A manifest that the journal says was committed must be there: without it the last of a chain
    /// could be lost and nobody would know. The journal may be of later than what was `found`: whether
    /// there are more manifests by now.
    async fn journal(&self, unit: Unit, found: u32, chain: &mut Chain) -> Result<bool, ArchiveError> {
        let journal = match Journal::read(&self.store, unit).await {
            Ok(Some(journal)) => journal,
            Ok(None) => return Ok(false),
            Err(ArchiveError::Damaged { key, reason, .. }) => {
                chain.fault(key, reason);
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let mut has_grown = false;
        if matches!(journal.step, Step::Committed | Step::Dropping | Step::Dropped) {
            for missing in found..=journal.number {
                let key = manifest_key(unit, missing);
                if self.store.get(&key).await?.is_some() {
                    has_grown = true;
                    continue;
                }
                let step = journal.step.name();
                chain.fault(key, format!("it is missing, and the journal says {step}"));
            }
        }
        Ok(has_grown)
    }
}

impl Chain {
    /// Notes which of the objects that a manifest names are not among those there are.
    fn objects(&mut self, manifest: &Manifest, sizes: &BTreeMap<String, u64>) {
        for file in &manifest.files {
            for key in [&file.key, &file.footer_key] {
                match sizes.get(key) {
                    None => {
                        let number = manifest.number;
                        self.fault(key, format!("manifest {number:04} names it, and it is not there"));
                    }
                    Some(bytes) if key == &file.key && *bytes != file.bytes => {
                        self.fault(key, format!("it is of {bytes} bytes, not {}", file.bytes));
                    }
                    Some(_) => {}
                }
            }
        }
    }

    fn fault(&mut self, key: impl Into<String>, reason: impl Into<String>) {
        self.faults.push(Fault { key: key.into(), reason: reason.into() });
    }
}
