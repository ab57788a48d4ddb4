//! Operator commands on the stores: archive, verify, restore, audit.
//!
//! `stk archive` and `stk audit` send an [`Order`] to the stores that they opened themselves, or to a
//! running server (`http.rs`). Both use [`Admin::perform`], so the answer is the same. How an answer is
//! printed is decided by `cli`.

pub(super) mod http;
mod refusal;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::http::{AdminMetrics, Door, Line};
pub use self::refusal::{Cause, Refusal};
use super::archiver;
use super::stores::Stores;
use crate::bus::Bus;
use crate::bus::epoch::{Holder, Lost, Relation};
use crate::config::Config;
use crate::market::{Kind, Timestamp, TradingDay};
use crate::tiering::archive::give_up::GivenUp;
use crate::tiering::archive::manifest::Manifest;
use crate::tiering::archive::origin::Beside;
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::archive::restore::{self, Estimate, Survey};
use crate::tiering::archive::run::{Archiver, Summary};
use crate::tiering::archive::status::{UnitStatus, archived};
use crate::tiering::archive::verify::{Bounds, Scrub, Scrubber};
use crate::tiering::archive::{self, ArchiveMetrics, ArchiveOptions, Clock, Planned, Waiting, origin};
use crate::tiering::audit::{self, Auditor, Report, Selection};
use crate::tiering::cold::RestoreTier;
use crate::tiering::repair::{self, Repairer};
use crate::tiering::warm::local::LocalWarm;
use crate::tiering::warm::{ArchiveSource, Unit};

/// What an operator wants done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Report what an archive run would do now.
    ArchivePlan(RunOrder),
    /// Copy and drop the days that are due.
    ArchiveRun(RunOrder),
    /// Report where each unit is stored.
    ArchiveStatus(Selection),
    /// List the manifests.
    ArchiveList(Selection),
    /// Read archived objects again.
    ArchiveVerify(VerifyOrder),
    /// Refuse an archive whose rows are not of this log and timeline, or that lacks rows which warm has dropped.
    ArchiveStanding,
    /// Report which objects can be read now, and what the others would cost.
    RestoreSurvey(RestoreOrder),
    /// Request copies of the objects that can't be read now.
    RestoreRequest(RestoreOrder),
    /// Store archived rows in warm again.
    RestoreIntoWarm(RestoreOrder),
    /// Compare the stores.
    Audit(Selection),
    /// Report what a repair would do.
    RepairPlan(Selection),
    /// Build damaged parts again from other tiers.
    Repair(Selection),
    /// Give up the rows that warm has dropped and no archive holds, or only report which.
    ArchiveGiveUp {
        /// Do it.
        write: bool,
    },
    /// Make the log the archive's own, or only report what that means.
    ArchiveAdopt {
        /// Do it.
        write: bool,
    },
}

/// Which days an archive run takes, and how.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunOrder {
    /// Copy the days before this one, whatever their age.
    pub before: Option<TradingDay>,
    /// Only these kinds; all if empty.
    pub kinds: Vec<Kind>,
    /// The most bytes per second to and from the archive.
    pub bandwidth: Option<u64>,
}

/// How much of the archive is read again.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyOrder {
    /// Stop after this many bytes, at the end of an object.
    pub bytes: Option<u64>,
    /// Stop after this many milliseconds, at the end of an object.
    pub time_ms: Option<u64>,
    /// Start from the beginning.
    pub restart: bool,
    /// The most bytes per second from the archive.
    pub bandwidth: Option<u64>,
}

/// Which archived days are restored, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestoreOrder {
    /// These days; if empty, those from `from` to `to`.
    pub days: Vec<TradingDay>,
    /// The first day; without it, the first that is archived.
    pub from: Option<TradingDay>,
    /// The last day; without it, the last that is archived.
    pub to: Option<TradingDay>,
    /// Only these kinds; all if empty.
    pub kinds: Vec<Kind>,
    /// How fast copies are made.
    pub tier: RestoreTier,
    /// How many days copies can be read.
    pub copy_days: u32,
}

impl Default for RestoreOrder {
    fn default() -> Self {
        Self {
            days: Vec::new(),
            from: None,
            to: None,
            kinds: Vec::new(),
            tier: RestoreTier::Standard,
            copy_days: 3,
        }
    }
}

impl RestoreOrder {
    fn kinds(&self) -> Vec<Kind> {
        if self.kinds.is_empty() { Kind::ALL.to_vec() } else { self.kinds.clone() }
    }

    fn spans(&self) -> Vec<RangeInclusive<TradingDay>> {
        if !self.days.is_empty() {
            return restore::spans(self.days.iter().copied());
        }
        let first = self.from.unwrap_or(Timestamp::MIN.trading_day());
        vec![first..=self.to.unwrap_or(Timestamp::MAX.trading_day())]
    }
}

/// What an order reports while it is carried out.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Heard {
    /// An archive run or a verification.
    Archive(archive::Event),
    /// A copy of one object was requested.
    Requested,
    /// A unit is in warm again.
    Restored {
        /// The unit.
        unit: Unit,
        /// Its rows, which are equal to the archived ones.
        rows: u64,
    },
    /// An audit.
    Audit(audit::Event),
    /// A step of a repair is done, or failed.
    Repair(repair::Done),
}

/// Receives what an order reports.
pub type Tell = Arc<dyn Fn(Heard) + Send + Sync>;

/// The result of an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Of [`Order::ArchivePlan`].
    Plan {
        /// What is due.
        planned: Vec<Planned>,
        /// What is not due yet, and why.
        waiting: Vec<(Unit, Waiting)>,
    },
    /// Of [`Order::ArchiveRun`].
    Run(RunAnswer),
    /// Of [`Order::ArchiveStatus`].
    Status(Vec<(Unit, UnitStatus)>),
    /// Of [`Order::ArchiveList`].
    List(Vec<Manifest>),
    /// Of [`Order::ArchiveVerify`].
    Verify(Box<Scrub>),
    /// Of [`Order::ArchiveStanding`]: the archive is not refused.
    Standing,
    /// Of [`Order::RestoreSurvey`].
    Survey(Surveyed),
    /// Of [`Order::RestoreRequest`]: the number of objects.
    Requested(u64),
    /// Of [`Order::RestoreIntoWarm`]: the number of rows.
    Restored(u64),
    /// Of [`Order::Audit`].
    Audit(Box<Report>),
    /// Of [`Order::RepairPlan`].
    RepairPlan(Vec<repair::Step>),
    /// Of [`Order::Repair`].
    Repaired(Vec<repair::Done>),
    /// Of [`Order::ArchiveGiveUp`].
    GaveUp(Vec<GivenUp>),
    /// Of [`Order::ArchiveAdopt`].
    Adopt(AdoptAnswer),
}

/// Whose rows the archive holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdoptAnswer {
    /// The archive's address.
    pub archive: String,
    /// What it holds, before it was adopted.
    pub holds: ArchiveHolds,
    /// Whether it was adopted just now.
    pub adopted: bool,
}

/// Whose rows an archive holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveHolds {
    /// It is empty.
    Nothing,
    /// Rows of the log alone.
    OwnRows,
    /// Rows of a log that it does not name, and that may be this one.
    NamelessRows,
    /// Rows of another timeline of the log, too.
    OtherRows {
        /// Where they are in the other timeline.
        offsets: Vec<OffsetSpan>,
    },
}

/// Offsets of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetSpan {
    /// The partition.
    pub partition: u16,
    /// The first offset.
    pub first: u64,
    /// The last offset.
    pub last: u64,
}

/// What an archive run did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RunAnswer {
    /// Manifests committed.
    pub commits: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of their data objects.
    pub bytes: u64,
    /// Units dropped from warm.
    pub drops: u64,
    /// Units whose rows could not all be dropped yet.
    pub drops_pending: u64,
    /// Objects of interrupted runs that were removed.
    pub objects_removed: u64,
    /// Units that failed, and why.
    pub failures: Vec<(Unit, Refusal)>,
    /// Units that are not due yet, and why.
    pub waiting: Vec<(Unit, Waiting)>,
}

impl From<Summary> for RunAnswer {
    fn from(summary: Summary) -> Self {
        let Summary { commits, rows, bytes, drops, drops_pending, objects_removed, failures, waiting } =
            summary;
        let failures = failures.into_iter().map(|(unit, error)| (unit, error.into())).collect();
        Self { commits, rows, bytes, drops, drops_pending, objects_removed, failures, waiting }
    }
}

/// Archived objects by whether they can be read.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Surveyed {
    /// Objects that can be read now.
    pub ready: u64,
    /// Their bytes.
    pub ready_bytes: u64,
    /// Objects that must be restored first.
    pub frozen: u64,
    /// Their bytes.
    pub frozen_bytes: u64,
    /// What restoring them takes.
    pub estimate: Estimate,
}

/// The log and warm.
struct OpenStores {
    bus: Arc<dyn Bus>,
    warm: Arc<dyn ArchiveSource>,
    /// Warm, where it is in the data directory.
    local: Option<Arc<LocalWarm>>,
    /// The data directory.
    dir: PathBuf,
}

/// Carries out orders.
pub struct Admin {
    reader: Arc<ArchiveReader>,
    stores: Option<OpenStores>,
    options: ArchiveOptions,
    metrics: ArchiveMetrics,
}

impl Admin {
    /// Carries out orders on all of `stores`.
    pub fn new(config: &Config, stores: &Stores, metrics: ArchiveMetrics) -> Self {
        Self {
            reader: stores.archive.clone(),
            stores: Some(OpenStores {
                bus: stores.bus.clone(),
                warm: stores.warm.clone(),
                local: stores.local_warm().cloned(),
                dir: stores.dir().to_owned(),
            }),
            options: ArchiveOptions {
                log: Some(Beside::new(stores.bus.clone())),
                ..archiver::options(config)
            },
            metrics,
        }
    }

    /// Carries out the orders that take nothing but the archive.
    pub fn of_archive(reader: Arc<ArchiveReader>) -> Self {
        let (options, metrics) = (ArchiveOptions::default(), ArchiveMetrics::default());
        Self { reader, stores: None, options, metrics }
    }

    /// Carries out `order`, and reports to `tell` meanwhile. To stop, drop the future: an interrupted
    /// archive run is continued by the next one.
    ///
    /// Errors: the order fails, or it takes more than the archive.
    pub async fn perform(&self, order: Order, tell: &Tell) -> Result<Answer, Refusal> {
        let of_archive = tell.clone();
        let progress: archive::Progress = Arc::new(move |event| of_archive(Heard::Archive(event)));
        match order {
            Order::ArchivePlan(run) => {
                let bus = &self.stores()?.bus;
                origin::check(&**self.reader.cold(), &Beside::new(bus.clone())).await?;
                let (planned, waiting) = self.archiver(run)?.plan().await?;
                Ok(Answer::Plan { planned, waiting })
            }
            Order::ArchiveRun(run) => {
                let summary = self.archiver(run)?.run(&progress).await?;
                Ok(Answer::Run(summary.into()))
            }
            Order::ArchiveStatus(selection) => {
                let archiver = self.archiver(RunOrder::default())?;
                let found = archiver.status(|unit| selection.takes(unit)).await?;
                Ok(Answer::Status(found.into_iter().collect()))
            }
            Order::ArchiveList(selection) => {
                let found = archived(self.reader.cold(), |unit| selection.takes(unit)).await?;
                Ok(Answer::List(found.into_values().flatten().collect()))
            }
            Order::ArchiveVerify(order) => {
                let scrubber = Scrubber::new(
                    self.reader.cold().clone(),
                    order.bandwidth,
                    Clock::default(),
                    self.metrics.clone(),
                );
                let time = order.time_ms.map_or(Duration::MAX, Duration::from_millis);
                let bounds = Bounds { bytes: order.bytes.unwrap_or(u64::MAX), time };
                Ok(Answer::Verify(Box::new(scrubber.run(bounds, order.restart, &progress).await?)))
            }
            Order::ArchiveStanding => {
                let log = Beside::new(self.stores()?.bus.clone());
                origin::check(&**self.reader.cold(), &log).await?;
                self.archiver(RunOrder::default())?.check_dropped().await?;
                Ok(Answer::Standing)
            }
            Order::RestoreSurvey(order) => {
                let survey = self.survey(&order).await?;
                let estimate = restore::estimate(&survey.frozen, order.tier, order.copy_days)?;
                Ok(Answer::Survey(Surveyed {
                    ready: survey.ready.len() as u64,
                    ready_bytes: survey.ready.iter().map(|file| file.file.bytes).sum(),
                    frozen: survey.frozen.len() as u64,
                    frozen_bytes: survey.frozen.iter().map(|frozen| frozen.file.file.bytes).sum(),
                    estimate,
                }))
            }
            Order::RestoreRequest(order) => {
                let frozen = self.survey(&order).await?.frozen;
                let mut requested = 0;
                let each = |_: &_| {
                    requested += 1;
                    tell(Heard::Requested);
                };
                restore::request(&**self.reader.cold(), &frozen, order.tier, order.copy_days, each).await?;
                Ok(Answer::Requested(requested))
            }
            Order::RestoreIntoWarm(order) => self.restore_into_warm(&order, tell).await.map(Answer::Restored),
            Order::RepairPlan(selection) => {
                let of_audit = tell.clone();
                let progress: audit::Progress = Arc::new(move |event| of_audit(Heard::Audit(event)));
                Ok(Answer::RepairPlan(self.repairer(selection)?.plan(&progress).await?))
            }
            Order::Repair(selection) => {
                let of_audit = tell.clone();
                let progress: audit::Progress = Arc::new(move |event| of_audit(Heard::Audit(event)));
                let each = |done: &repair::Done| tell(Heard::Repair(done.clone()));
                Ok(Answer::Repaired(self.repairer(selection)?.run(&progress, each).await?))
            }
            Order::Audit(selection) => {
                let OpenStores { bus, warm, .. } = self.stores()?;
                let tell = tell.clone();
                let progress: audit::Progress = Arc::new(move |event| tell(Heard::Audit(event)));
                let cold = self.reader.cold().clone();
                let auditor = Auditor::new(bus.clone(), warm.clone(), cold, selection, progress);
                Ok(Answer::Audit(Box::new(auditor.run().await?)))
            }
            Order::ArchiveGiveUp { write } => {
                let archiver = self.archiver(RunOrder::default())?;
                let given_up = if write { archiver.give_up().await? } else { archiver.to_give_up().await? };
                Ok(Answer::GaveUp(given_up))
            }
            Order::ArchiveAdopt { write } => self.adopt(write).await.map(Answer::Adopt),
        }
    }

    fn repairer(&self, selection: Selection) -> Result<Repairer, Refusal> {
        let OpenStores { bus, warm, local, dir } = self.stores()?;
        Ok(Repairer {
            bus: bus.clone(),
            warm: warm.clone(),
            local: local.clone(),
            reader: self.reader.clone(),
            archiver: self.archiver(RunOrder::default())?,
            dir: dir.clone(),
            selection,
        })
    }

    fn stores(&self) -> Result<&OpenStores, Refusal> {
        self.stores.as_ref().ok_or_else(|| Refusal::new(Cause::Other, "only the archive is open"))
    }

    fn archiver(&self, run: RunOrder) -> Result<Archiver, Refusal> {
        let warm = &self.stores()?.warm;
        let options = ArchiveOptions {
            before: run.before,
            kinds: run.kinds,
            bandwidth: run.bandwidth,
            ..self.options.clone()
        };
        let cold = self.reader.cold().clone();
        Ok(Archiver::new(cold, warm.clone(), options, Clock::default(), self.metrics.clone()))
    }

    async fn survey(&self, order: &RestoreOrder) -> Result<Survey, Refusal> {
        let survey = restore::survey(&self.reader, &order.kinds(), &order.spans()).await?;
        if survey.ready.is_empty() && survey.frozen.is_empty() {
            let what = format!("{}: nothing of these days is archived", self.reader.cold().name());
            return Err(Refusal::new(Cause::NotArchived, what));
        }
        Ok(survey)
    }

    /// Makes the log the archive's own, if `write`, where its offsets skip those of the archive's other
    /// timeline. Holds the lease meanwhile.
    async fn adopt(&self, write: bool) -> Result<AdoptAnswer, Refusal> {
        let (cold, log) = (self.reader.cold(), Beside::new(self.stores()?.bus.clone()));
        let answer = |holds, adopted| AdoptAnswer { archive: cold.name().to_owned(), holds, adopted };
        let Some(held) = origin::held(&**cold).await? else {
            return Ok(answer(ArchiveHolds::Nothing, false));
        };
        let relation = log.relation(&held).await.map_err(archive::ArchiveError::from)?;
        match relation {
            Relation::Own if held.log.is_some() => return Ok(answer(ArchiveHolds::OwnRows, false)),
            Relation::Own | Relation::Skipped => {}
            // All of these are refused.
            Relation::Ahead | Relation::Parted { .. } | Relation::OtherLog => {
                origin::check(&**cold, &log).await?;
            }
        }
        let holds = match relation {
            Relation::Own => ArchiveHolds::NamelessRows,
            _ => ArchiveHolds::OtherRows { offsets: offsets_in_archive(log.epoch().lost()) },
        };
        if write {
            let lease = self.archiver(RunOrder::default())?.hold().await?;
            let adopted = origin::adopt(cold.clone(), &log).await;
            let released = lease.release().await;
            adopted?;
            released?;
        }
        Ok(answer(holds, write))
    }

    /// Stores the days in warm again. Holds the lease meanwhile, so that nobody archives or drops them.
    async fn restore_into_warm(&self, order: &RestoreOrder, tell: &Tell) -> Result<u64, Refusal> {
        let warm = &self.stores()?.warm;
        let lease = self.archiver(RunOrder::default())?.hold().await?;
        let restored = async {
            let mut restored = 0;
            // The manifests under the lease may be more than those of an earlier survey.
            for snapshot in &self.survey(order).await?.snapshots {
                for (day, _) in snapshot.days() {
                    let unit = Unit { day, kind: snapshot.kind() };
                    lease.check()?;
                    let rows = restore::into_warm(&self.reader, snapshot, &**warm, unit).await?;
                    tell(Heard::Restored { unit, rows });
                    restored += rows;
                }
            }
            Ok::<_, Refusal>(restored)
        };
        let restored = restored.await;
        let released = lease.release().await;
        let restored = restored?;
        released?;
        Ok(restored)
    }
}

/// The offsets of `lost` timelines whose rows the archive has.
fn offsets_in_archive(lost: &[Lost]) -> Vec<OffsetSpan> {
    let of_archive = lost.iter().filter(|lost| lost.holder == Holder::Archive);
    let spans = of_archive.flat_map(|lost| (0u16..).zip(lost.from.iter().zip(&lost.to)));
    spans
        .filter(|(_, (from, to))| from < to)
        .map(|(partition, (&first, to))| OffsetSpan { partition, first, last: to - 1 })
        .collect()
}
