//! What an audit found: counts and digests of each part of the chain, and what does not hold.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::at;
use super::log::Differing;
use super::producers::Producer;
use crate::market::{Gap, RowDigest, TradingDay};
use crate::tiering::archive::chain::Chain;
use crate::tiering::archive::manifest::Manifest;
use crate::tiering::history::LostRecords;
use crate::tiering::warm::Unit;

/// Partitions whose offsets a finding lists.
const PLACES_MAX: usize = 8;

/// Findings that are told one by one.
const FINDINGS_MAX: usize = 1_000;

/// What an audit found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The partitions of the log.
    pub partitions: Vec<PartitionReport>,
    /// Who wrote into it.
    pub producers: Vec<Producer>,
    /// Records of producers that were too many to be told apart.
    pub producers_untold_records: u64,
    /// Gaps in the log that feeds announced, by day.
    pub gaps: Vec<(TradingDay, Gap)>,
    /// Whether there are more gaps.
    pub has_more_gaps: bool,
    /// Records that were lost with log and warm, of which only those that were archived are left.
    pub lost: Vec<LostRecords>,
    /// Ranges of such records that are not among them.
    pub lost_untold: u64,
    /// The units, in order.
    pub units: Vec<UnitReport>,
    /// What does not hold, and what can't be told.
    pub findings: Vec<Finding>,
    /// Findings that are not among them.
    pub findings_untold: u64,
}

impl Report {
    /// How many places the chain is broken in.
    pub fn breaks(&self) -> u64 {
        let told = self.findings.iter().filter(|finding| finding.severity == Severity::Broken).count();
        told as u64 + self.findings_untold
    }

    /// What is said of all of it.
    pub fn verdict(&self) -> Verdict {
        let found = self.findings.iter().map(|finding| finding.severity.verdict()).max();
        let found = found.max((self.findings_untold > 0).then_some(Verdict::Broken));
        let units = self.units.iter().map(|unit| unit.verdict).max();
        found.max(units).unwrap_or(Verdict::Alone)
    }

    /// Days of which that is said, all kinds together: what holds is equal wherever more than one
    /// store has it.
    pub fn days(&self, verdict: Verdict) -> u64 {
        let mut days = BTreeMap::new();
        for unit in &self.units {
            let day = days.entry(unit.unit.day).or_insert(Verdict::Alone);
            *day = unit.verdict.max(*day);
        }
        days.values().filter(|of| **of == verdict).count() as u64
    }

    /// Tells `finding`, unless it was told.
    pub(super) fn find(&mut self, finding: Finding) {
        // Whoever meets one damaged file twice finds the same again.
        let is_known = |known: &Finding| {
            let is_file =
                known.link == Link::Warm && (known.unit, &known.what) == (finding.unit, &finding.what);
            is_file || *known == finding
        };
        if self.findings.iter().any(is_known) {
            return;
        }
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_untold += u64::from(finding.severity == Severity::Broken);
        }
    }
}

/// A partition of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReport {
    /// Which.
    pub partition: u16,
    /// The first offset the log still has.
    pub first: u64,
    /// Where warm stands.
    pub mark: u64,
    /// The offset after the log's last record.
    pub next: u64,
    /// Records read.
    pub records: u64,
    /// Records of them that readers drop as repeats.
    pub repeats: u64,
}

/// A unit in all stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitReport {
    /// Which.
    pub unit: Unit,
    /// By partition, where the log has rows of it.
    pub partitions: Vec<UnitPartition>,
    /// What warm holds of it, at all offsets; none where it can't be read.
    pub warm: Option<RowDigest>,
    /// The offsets (by partition) below which warm has dropped its rows, if it has.
    pub dropped: Vec<u64>,
    /// Whether they were restored into warm.
    pub is_restored: bool,
    /// Its manifests.
    pub manifests: Vec<ManifestReport>,
    /// What is said of it.
    pub verdict: Verdict,
}

impl UnitReport {
    /// Rows that its manifests hold.
    pub fn archived_rows(&self) -> u64 {
        self.manifests.iter().map(|manifest| manifest.digest.rows).sum()
    }
}

/// A unit's rows of one partition, in the log and in warm, at the same offsets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitPartition {
    /// Which partition.
    pub partition: u16,
    /// Rows that the log still has and warm has taken in, whether it has dropped them or not.
    pub log_rows: u64,
    /// The offsets that are compared: those of such rows, without what warm has dropped.
    pub offsets: Range<u64>,
    /// What the log holds there.
    pub log: RowDigest,
    /// What warm holds there; none where it can't be read.
    pub warm: Option<RowDigest>,
    /// Rows in the log that warm has not come to yet.
    pub pending: u64,
    /// What is said of it.
    pub verdict: Verdict,
}

/// A manifest, and what it was held against.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestReport {
    /// Its number.
    pub number: u32,
    /// The digest it names.
    pub digest: RowDigest,
    /// Whether warm still holds its rows, and was found equal or not. Of bars, other revisions of the same ones
    /// are equal.
    pub warm: Option<bool>,
    /// The same of the log.
    pub log: Option<bool>,
}

/// What is said of a part of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// One store alone holds it: there was nothing to compare.
    Alone,
    /// What was compared is equal.
    Holds,
    /// Something can't be told.
    Unknown,
    /// Something is not equal, or missing.
    Broken,
}

impl Verdict {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Holds => "holds",
            Self::Unknown => "unknown",
            Self::Broken => "broken",
        }
    }
}

/// Something that does not hold, or can't be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where in the chain.
    pub link: Link,
    /// Of which rows; none where it is about more than one unit.
    pub unit: Option<Unit>,
    /// In which partition; none where it is about all.
    pub partition: Option<u16>,
    /// At which offsets of that partition.
    pub offsets: Option<Range<u64>>,
    /// What is wrong.
    pub what: String,
    /// What to do next.
    pub next: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut place = Vec::new();
        place.extend(self.unit.map(|unit| unit.to_string()));
        place.extend(self.partition.map(|partition| format!("partition {partition}")));
        place.extend(self.offsets.as_ref().map(|offsets| match offsets.end - offsets.start {
            1 => format!("offset {}", offsets.start),
            _ => format!("offsets {} to {}", offsets.start, offsets.end.saturating_sub(1)),
        }));
        if place.is_empty() {
            return f.write_str(&self.what);
        }
        write!(f, "{}: {}", place.join(", "), self.what)
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It can't be told whether the chain holds there.
    Unknown,
    /// The chain does not hold there.
    Broken,
}

impl Severity {
    pub(super) const fn verdict(self) -> Verdict {
        match self {
            Self::Unknown => Verdict::Unknown,
            Self::Broken => Verdict::Broken,
        }
    }
}

/// Where in the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// From the feeds to the log.
    Feed,
    /// The log itself.
    Log,
    /// From the log to warm.
    LogWarm,
    /// Warm itself.
    Warm,
    /// From warm, or the log, to the archive.
    Cold,
}

impl Link {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed to log",
            Self::Log => "log",
            Self::LogWarm => "log to warm",
            Self::Warm => "warm",
            Self::Cold => "archive",
        }
    }
}

/// Warm does not hold what the log does.
pub(super) fn differs(unit: Unit, chain: &Chain, partition: u16, found: Differing) -> Finding {
    let warm = found.warm;
    let what = match found.log {
        Some(log) if warm.rows < log.rows => {
            format!("warm lacks {} of the log's {} rows", log.rows - warm.rows, log.rows)
        }
        Some(log) if warm.rows > log.rows => {
            format!("warm holds {} rows that the log does not, which has {}", warm.rows - log.rows, log.rows)
        }
        Some(log) => format!("warm's rows are not the log's: {warm}, not {log}"),
        None => "warm's rows are not the log's, which has been trimmed meanwhile".to_owned(),
    };
    let is_archived = chain.faults.is_empty() && found.offsets.end <= at(chain.next_offsets(), partition);
    let next = if is_archived {
        format!(
            "the archive covers these offsets: `stk archive restore {} --kind {} --into-warm` takes its rows back",
            unit.day,
            unit.kind.name()
        )
    } else {
        "keep the log, which still has them (raise log.retention_hours), and put warm back from a copy; an empty \
         warm store is filled from the log"
            .to_owned()
    };
    Finding {
        severity: Severity::Broken,
        link: Link::LogWarm,
        unit: Some(unit),
        partition: Some(partition),
        offsets: Some(found.offsets),
        what,
        next,
    }
}

/// What warm holds can't be read.
pub(super) fn damaged(unit: Unit, partition: Option<u16>, reason: &str) -> Finding {
    Finding {
        severity: Severity::Broken,
        link: Link::Warm,
        unit: Some(unit),
        partition,
        offsets: None,
        what: reason.to_owned(),
        next: "`stk audit --repair` rebuilds it from the log or the archive, if they have its rows"
            .to_owned(),
    }
}

/// The digests of the same rows in each tier; none where it does not have them all.
pub(super) struct Compared {
    pub(super) archived: RowDigest,
    pub(super) warm: Option<RowDigest>,
    pub(super) log: Option<RowDigest>,
}

impl Compared {
    /// Which two tiers agree, in words.
    fn agreement(&self) -> &'static str {
        match (self.warm, self.log) {
            (Some(warm), Some(log)) if warm == log => "; the log and warm agree",
            (_, Some(log)) if log == self.archived => "; the log and the archive agree",
            (Some(warm), _) if warm == self.archived => "; warm and the archive agree",
            (Some(_), Some(_)) => "; no two tiers agree",
            (_, None) => "; the log does not have them all",
            (None, _) => "; warm does not have them all",
        }
    }
}

/// A manifest is not what another store holds at its offsets.
pub(super) fn unequal(
    unit: Unit,
    manifest: &Manifest,
    store: &str,
    found: RowDigest,
    compared: &Compared,
) -> Finding {
    // Which rows they are is in the words where there is more than one partition.
    let mut places: Vec<(u16, Range<u64>)> =
        (0..).zip(manifest.offsets()).filter(|(_, offsets)| !offsets.is_empty()).collect();
    let place = if places.len() == 1 { places.pop() } else { None };
    let listed = places.iter().take(PLACES_MAX).map(|(partition, offsets)| {
        format!("partition {partition}: {} to {}", offsets.start, offsets.end.saturating_sub(1))
    });
    let listed = listed.collect::<Vec<_>>().join(", ");
    let listed = if listed.is_empty() { listed } else { format!(" ({listed})") };
    Finding {
        severity: Severity::Broken,
        link: Link::Cold,
        unit: Some(unit),
        partition: place.as_ref().map(|(partition, _)| *partition),
        offsets: place.map(|(_, offsets)| offsets),
        what: format!(
            "manifest {:04} has {}, and {store} has {found} at its offsets{listed}{}",
            manifest.number,
            manifest.digest,
            compared.agreement()
        ),
        next: "`stk archive verify` tells whether the archive holds what was written; then keep the store that is \
               right, or have `stk audit --repair` restore warm where the log does not contradict the archive"
            .to_owned(),
    }
}

/// A part of a manifest's rows is not what another store holds.
pub(super) fn part_differs(
    unit: Unit,
    manifest: &Manifest,
    partition: u16,
    offsets: Range<u64>,
    store: &str,
    found: RowDigest,
    compared: &Compared,
) -> Finding {
    Finding {
        severity: Severity::Broken,
        link: Link::Cold,
        unit: Some(unit),
        partition: Some(partition),
        offsets: Some(offsets),
        what: format!(
            "the objects of manifest {:04} hold {} there, and {store} has {found}{}",
            manifest.number,
            compared.archived,
            compared.agreement()
        ),
        next: "`stk archive verify` tells whether the archive holds what was written; then keep the store that is right"
            .to_owned(),
    }
}
