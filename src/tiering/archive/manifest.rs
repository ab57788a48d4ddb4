//! Manifests: which objects of the cold store count.
//!
//! ```text
//! ticks/kind=trade/date=2026-11-20/part-0000-01JD….parquet   data; nothing counts that no manifest names
//! manifest/kind=trade/date=2026-11-20/0000.json              which of them count; 0001.json adds late rows
//! manifest/kind=trade/date=2026-11-20/part-0000-01JD….footer a copy of the data object's footer
//! ```
//!
//! Manifests and footers stay in the standard class for ever, data may go to Glacier, so that
//! planning a query never waits for a restore. A manifest is never changed. The next number is
//! created only where the one before it exists, and begins at the offsets where that one ends.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::plan::is_same;
use super::sealed;
use crate::bus::epoch::{LogEpoch, is_within};
use crate::market::{Kind, RowDigest, TradingDay};
use crate::tiering::warm::Unit;

/// Where all manifests and footers lie.
pub const MANIFEST_PREFIX: &str = "manifest/";

/// Where all data lies.
pub const DATA_PREFIX: &str = "ticks/";

/// The version of manifests of rows that is written. Version 1 had no checksum, of itself or of footers; its
/// manifests can be read.
pub const MANIFEST_VERSION: u32 = 2;

/// The version of a manifest that gives rows up ([`Manifest::is_lost`]): programs that do not know such
/// manifests would take the rows for ones that never were.
pub(super) const LOST_VERSION: u32 = 3;

/// What is archived of a unit by one archive run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`]; one more where its rows are lost.
    pub version: u32,
    /// The trading day of the rows.
    pub date: TradingDay,
    /// The name of their kind.
    pub kind: String,
    /// 0 for the first, then one more for each supplement of late rows.
    pub number: u32,
    /// Which attempt wrote it: how an archiver knows its own after a lost reply.
    pub nonce: String,
    /// When it was written, RFC 3339.
    pub committed_at: String,
    /// The program that wrote it.
    pub writer: String,
    /// The oldest generation of the log that had all rows below `next_offsets`, in decimal; none where
    /// the writer named none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// Of each partition of the log, the first offset that the rows may come from: where the
    /// manifest before it ends.
    pub first_offsets: Vec<u64>,
    /// Of each partition, the offset after the last: rows below it that are in no manifest do not
    /// exist.
    pub next_offsets: Vec<u64>,
    /// Whether its rows are lost: warm has dropped them, and the archive that held them is gone. It names no
    /// objects.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_lost: bool,
    /// The digest of all rows: computed by the source, while writing, and from the stored objects,
    /// and found equal.
    pub digest: RowDigest,
    /// The data objects, in the order of their rows. None where the rows were none.
    pub files: Vec<ManifestFile>,
}

/// A data object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its key.
    pub key: String,
    /// The key of its footer's copy.
    pub footer_key: String,
    /// Its size.
    pub bytes: u64,
    /// Where its footer begins: the copy holds the bytes from there to the end.
    pub footer_at: u64,
    /// XXH3-64 of the object, sixteen hexadecimal digits.
    pub checksum: String,
    /// XXH3-64 of its footer, which holds the checksums of the blocks before it. None in version 1:
    /// the object has no such checksums then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub footer_checksum: Option<String>,
    /// The digest of its rows.
    pub digest: RowDigest,
    /// The first symbol; none if a row has none.
    pub symbol_min: Option<String>,
    /// The last symbol; none if no row has one.
    pub symbol_max: Option<String>,
}

impl Manifest {
    /// The offsets of each partition that the rows come from.
    pub fn offsets(&self) -> Vec<Range<u64>> {
        self.first_offsets.iter().zip(&self.next_offsets).map(|(first, next)| *first..*next).collect()
    }

    /// Whether its rows are of the log of `epoch`, whose timeline parted from the archive's at `parted_at`.
    pub(super) fn is_of(&self, epoch: &LogEpoch, parted_at: &[u64]) -> bool {
        let generation = self.generation.as_ref().and_then(|generation| generation.parse().ok());
        match generation.filter(|_| epoch.may_skip()) {
            Some(generation) => epoch.has(generation, &self.next_offsets),
            None => is_within(&self.next_offsets, parted_at),
        }
    }

    /// The manifest in `bytes`, or what is wrong with them.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let manifest: Self = sealed::open(bytes)?;
        match manifest.version {
            1..=LOST_VERSION => Ok(manifest),
            version => Err(format!("it is of version {version}: use a newer stk")),
        }
    }

    /// What is wrong with it as the manifest of `unit` and `number`, which must begin at the offsets
    /// `first`, where they are known: those where the one before it ends.
    pub(super) fn fault(&self, unit: Unit, number: u32, first: Option<&[u64]>) -> Option<&'static str> {
        if (self.date, self.kind.as_str(), self.number) != (unit.day, unit.kind.name(), number) {
            return Some("it is the manifest of another unit");
        }
        if first.is_some_and(|first| !is_same(first, &self.first_offsets)) {
            return Some("it does not begin where the one before it ends");
        }
        let mut sum = RowDigest::default();
        self.files.iter().for_each(|file| sum.add(file.digest));
        (sum != self.digest).then_some("its objects do not add up to its rows")
    }
}

/// Where the data of a unit lies.
pub fn data_prefix(unit: Unit) -> String {
    format!("{DATA_PREFIX}kind={}/date={}/", unit.kind.name(), unit.day)
}

/// Where the manifests and footers of a unit lie.
pub fn manifest_prefix(unit: Unit) -> String {
    format!("{MANIFEST_PREFIX}kind={}/date={}/", unit.kind.name(), unit.day)
}

/// The key of a unit's manifest of that number.
pub fn manifest_key(unit: Unit, number: u32) -> String {
    format!("{}{number:04}.json", manifest_prefix(unit))
}

/// The unit and number of a manifest's key; `None` for the key of something else.
pub(super) fn parse_manifest_key(key: &str) -> Option<(Unit, u32)> {
    let rest = key.strip_prefix(MANIFEST_PREFIX)?.strip_prefix("kind=")?;
    let (kind, rest) = rest.split_once("/date=")?;
    let (day, file) = rest.split_once('/')?;
    let unit = Unit { day: day.parse().ok()?, kind: Kind::from_name(kind)? };
    let number = file.strip_suffix(".json")?.parse().ok()?;
    (manifest_key(unit, number) == key).then_some((unit, number))
}
