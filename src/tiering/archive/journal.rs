//! Where a unit stands on its way into the archive.
//!
//! ```text
//! journal/kind=trade/date=2026-11-20.json
//! ```
//!
//! One object a unit, overwritten at each step by whoever holds the lease. It is a note for whoever
//! goes on: what counts is the manifests, and a journal that does not fit them is not believed.

use serde::{Deserialize, Serialize};

use super::manifest::ManifestFile;
use super::store::Store;
use super::{ArchiveError, Clock};
use crate::market::{Kind, RowDigest, TradingDay};
use crate::tiering::cold::ColdError;
use crate::tiering::warm::Unit;

/// The version of journals that is written. Version 1 had no checksum; its journals can be read.
pub const JOURNAL_VERSION: u32 = 2;

/// Where all journals lie.
pub const JOURNAL_PREFIX: &str = "journal/";

/// What is written of a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// [`JOURNAL_VERSION`].
    pub version: u32,
    /// The trading day.
    pub date: TradingDay,
    /// The name of the kind.
    pub kind: String,
    /// The number of the manifest that is, or was last, on its way.
    pub number: u32,
    /// Of each partition, the first offset of its rows.
    pub first_offsets: Vec<u64>,
    /// Of each partition, the offset after the last; empty before the unit is sealed.
    pub next_offsets: Vec<u64>,
    /// When it was written, RFC 3339.
    pub updated_at: String,
    /// The step.
    #[serde(flatten)]
    pub step: Step,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// The unit is due.
    Planned,
    /// Which offsets it takes is settled.
    Sealed,
    /// Objects of this attempt are being written.
    Exporting {
        /// What their names hold.
        attempt: String,
    },
    /// All of them are there.
    Uploaded {
        /// The attempt: the manifest's nonce.
        attempt: String,
        /// The digest of all rows.
        digest: RowDigest,
        /// The objects.
        files: Vec<ManifestFile>,
    },
    /// They were read again.
    Verified {
        /// The attempt: the manifest's nonce.
        attempt: String,
        /// The digest of all rows.
        digest: RowDigest,
        /// The objects.
        files: Vec<ManifestFile>,
    },
    /// The manifest is there.
    Committed,
    /// The source holds what the manifests say, and its rows are going.
    Dropping,
    /// They are gone.
    Dropped,
}

impl Step {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Sealed => "sealed",
            Self::Exporting { .. } => "exporting",
            Self::Uploaded { .. } => "uploaded",
            Self::Verified { .. } => "verified",
            Self::Committed => "committed",
            Self::Dropping => "dropping",
            Self::Dropped => "dropped",
        }
    }

    /// The attempt whose objects may yet come to count.
    pub fn attempt(&self) -> Option<&str> {
        match self {
            Self::Exporting { attempt } | Self::Uploaded { attempt, .. } | Self::Verified { attempt, .. } => {
                Some(attempt)
            }
            _ => None,
        }
    }
}

/// The key of a unit's journal.
pub fn journal_key(unit: Unit) -> String {
    format!("{JOURNAL_PREFIX}kind={}/date={}.json", unit.kind.name(), unit.day)
}

/// The unit in a journal's key; `None` for other keys.
pub(super) fn parse_journal_key(key: &str) -> Option<Unit> {
    let (kind, day) = key.strip_prefix(JOURNAL_PREFIX)?.strip_prefix("kind=")?.split_once("/date=")?;
    let unit = Unit { day: day.strip_suffix(".json")?.parse().ok()?, kind: Kind::from_name(kind)? };
    (journal_key(unit) == key).then_some(unit)
}

impl Journal {
    /// The first note of a manifest on its way.
    pub(super) fn new(unit: Unit, number: u32, first_offsets: Vec<u64>) -> Self {
        Self {
            version: JOURNAL_VERSION,
            date: unit.day,
            kind: unit.kind.name().to_owned(),
            number,
            first_offsets,
            next_offsets: Vec::new(),
            updated_at: String::new(),
            step: Step::Planned,
        }
    }

    /// A unit's journal, if it has one.
    pub(super) async fn read(store: &Store, unit: Unit) -> Result<Option<Self>, ArchiveError> {
        let key = journal_key(unit);
        let journal: Option<Self> = store.get_json(&key).await?;
        if let Some(journal) = &journal
            && !(1..=JOURNAL_VERSION).contains(&journal.version)
        {
            let version = journal.version;
            return Err(store.damaged(&key, format!("it is of version {version}: use a newer stk")));
        }
        Ok(journal)
    }

    pub(super) async fn write(&mut self, store: &Store, unit: Unit, clock: &Clock) -> Result<(), ColdError> {
        self.version = JOURNAL_VERSION;
        self.updated_at = clock.now().to_string();
        store.put_json(&journal_key(unit), self).await
    }
}
