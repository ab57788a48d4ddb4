//! Rows that are lost for good: warm has dropped them, and the archive that held them is gone.
//!
//! History refuses to answer about their days, and archive runs fail for them. To give a day up is to write a
//! manifest without objects. History then answers the rest and names the lost rows, and later runs archive late
//! rows behind that manifest.

use serde::{Deserialize, Serialize};

use super::lease::Lease;
use super::manifest::{LOST_VERSION, Manifest, manifest_key};
use super::plan::manifests;
use super::run::{Archiver, fresh_id};
use super::sealed::seal;
use super::store::Created;
use super::{ArchiveError, origin};
use crate::bus::epoch::{Gone, later};
use crate::fail;
use crate::market::RowDigest;
use crate::tiering::history::LostRecords;
use crate::tiering::warm::Unit;

/// Rows of a unit that warm has dropped and no manifest covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// The unit.
    pub unit: Unit,
    /// By partition, the offset of the log from which on there may be such rows.
    pub first_offsets: Vec<u64>,
    /// By partition, the offset after the last of them.
    pub next_offsets: Vec<u64>,
}

impl Archiver {
    /// What [`Archiver::give_up`] would give up.
    ///
    /// Errors: a store can't be read, or the manifests of such a unit are damaged.
    pub async fn to_give_up(&self) -> Result<Vec<GivenUp>, ArchiveError> {
        let mut found = Vec::new();
        for (unit, dropped) in self.dropped_elsewhere().await? {
            let manifests = manifests(&self.store, unit).await?;
            let mut first_offsets = manifests.last().map_or_else(Vec::new, |last| last.next_offsets.clone());
            let next_offsets = later(&first_offsets, &dropped);
            first_offsets.resize(next_offsets.len(), 0);
            found.push(GivenUp { unit, first_offsets, next_offsets });
        }
        Ok(found)
    }

    /// Gives up all rows that warm has dropped and no manifest covers: what.
    ///
    /// Errors: as a run's; units that it came to before the error are given up.
    pub async fn give_up(&self) -> Result<Vec<GivenUp>, ArchiveError> {
        let lease = self.hold().await?;
        let done = self.give_up_leased(&lease).await;
        let released = lease.release().await;
        let done = done?;
        released?;
        Ok(done)
    }

    async fn give_up_leased(&self, lease: &Lease) -> Result<Vec<GivenUp>, ArchiveError> {
        if let Some(log) = &self.options.log {
            origin::claim(&self.store, log).await?;
            log.check_source(&*self.warm).await?;
        }
        let found = self.to_give_up().await?;
        for GivenUp { unit, first_offsets, next_offsets } in &found {
            let number = manifests(&self.store, *unit).await?.len() as u32;
            if let Some(log) = &self.options.log {
                origin::declare(&self.store, lease, log, next_offsets).await?;
            }
            let manifest = Manifest {
                version: LOST_VERSION,
                date: unit.day,
                kind: unit.kind.name().to_owned(),
                number,
                nonce: fresh_id(self.clock.now()),
                committed_at: self.clock.now().to_string(),
                writer: format!("stk {}", env!("CARGO_PKG_VERSION")),
                generation: self.options.log.as_ref().map(|log| origin::generation(log, next_offsets)),
                first_offsets: first_offsets.clone(),
                next_offsets: next_offsets.clone(),
                is_lost: true,
                digest: RowDigest::default(),
                files: Vec::new(),
            };
            let is_own = |found: &[u8]| {
                serde_json::from_slice::<Manifest>(found).is_ok_and(|found| found.nonce == manifest.nonce)
            };
            lease.check()?;
            let created = self.store.create(&manifest_key(*unit, number), seal(&manifest), is_own).await?;
            if let Created::Other(_) = created {
                return Err(ArchiveError::Taken { unit: *unit, number });
            }
            fail::point("give_up.manifest");
        }
        Ok(found)
    }
}

impl Manifest {
    /// The records whose rows it gives up.
    pub fn lost_records(&self) -> Vec<LostRecords> {
        if !self.is_lost {
            return Vec::new();
        }
        let ranges = (0_u16..).zip(self.offsets()).filter(|(_, offsets)| !offsets.is_empty());
        let lost = ranges.map(|(partition, offsets)| LostRecords {
            partition,
            first_offset: offsets.start,
            next_offset: offsets.end,
            gone: Gone::of([self.date]),
        });
        lost.collect()
    }
}
