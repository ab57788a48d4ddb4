//! The archive: closed days move from warm to cold, proven equal, each row once at every moment.
//!
//! A unit, the rows of one kind and day, goes through these steps. Each is durable before the next
//! begins, and each may be done again:
//!
//! 1. **planned**: the day is over and nothing was stored of it for a while.
//! 2. **sealed**: the marks of all partitions at this moment; rows from there on are late, and go
//!    into a supplement by the same steps.
//! 3. **exporting**: rows in order into objects whose names no other attempt has.
//! 4. **uploaded**: the digest while writing equals the one that the source computed by itself.
//! 5. **verified**: every object was read again, and its checksum and rows are what was written.
//! 6. **committed**: the manifest, created only where there is none of its number. It alone makes
//!    the objects count; who is not answered reads it back, and knows its own by the nonce.
//! 7. **dropping**, later: the source's digest is what the manifests say; then its rows go.
//! 8. **dropped**.
//!
//! Where a unit stands is told by its [`journal`] and, whatever that says, by its manifests. One
//! archiver at a time works on a store, by a [`lease`] in it. What a crash leaves is [`garbage`].

pub(in crate::tiering) mod bars;
mod cache;
pub mod chain;
pub mod copy;
mod first;
pub mod garbage;
pub mod give_up;
pub mod journal;
pub mod lease;
pub mod manifest;
mod metrics;
mod object;
pub mod origin;
mod plan;
mod probe;
pub mod read;
mod read_back;
pub mod rebuild;
pub mod remade;
pub mod restore;
pub mod run;
pub(crate) mod sealed;
pub mod snapshot;
pub mod status;
mod store;
#[cfg(test)]
mod tests;
mod throttle;
pub mod verify;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::metrics::ArchiveMetrics;
pub use self::plan::{Action, Planned, Waiting};
use crate::market::{Kind, RowDigest, Timestamp, TradingDay};
use crate::tiering::cold::ColdError;
use crate::tiering::state::StateError;
use crate::tiering::warm::{Unit, WarmError};

/// What runs of the archive do, and how.
#[derive(Clone, Debug)]
pub struct ArchiveOptions {
    /// Days are copied from this age on, in days.
    pub after_days: u32,
    /// Days before this one are copied, whatever their age.
    pub before: Option<TradingDay>,
    /// Kinds that are copied and dropped; all if none.
    pub kinds: Vec<Kind>,
    /// How long nothing may have been stored of a day.
    pub settle: Duration,
    /// Days are dropped from warm from this age on, in days.
    pub keep_days: u32,
    /// How old what no manifest names must be before it is removed.
    pub grace: Duration,
    /// Bytes a second to and from the store, at most: what is written, and data objects that are read.
    /// Manifests and notes that are read are small, and those of a lease must not wait.
    pub bandwidth: Option<u64>,
    /// How long a lease lasts that is not renewed.
    pub lease: Duration,
    /// Bytes from which on a data object ends with its symbol; it never grows to twice as much.
    pub object_bytes: u64,
    /// Rows of a row group of ticks, and twice those of bars. Small enough that the columns of the few
    /// pages a symbol takes lie near each other and are fetched in a request or two; some memory is
    /// that of two.
    pub row_group_rows: usize,
    /// The log that warm is filled from, where there is one: the archive then holds rows of no other, and
    /// of no other timeline of it.
    pub log: Option<origin::Beside>,
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        Self {
            after_days: 7,
            before: None,
            kinds: Vec::new(),
            settle: Duration::from_hours(1),
            keep_days: 30,
            grace: Duration::from_hours(24),
            bandwidth: None,
            lease: Duration::from_mins(2),
            object_bytes: 256 << 20,
            row_group_rows: 1 << 17,
            log: None,
        }
    }
}

/// Tells the time; a test may say otherwise.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that `now` reads.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(Timestamp::now)
    }
}

/// What a run tells of itself while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// What is due is known.
    Planned {
        /// All of it, in order.
        units: Vec<Planned>,
    },
    /// A unit is begun.
    Begun {
        /// What is done with it.
        planned: Planned,
    },
    /// A unit has come to a step.
    Step {
        /// Which.
        unit: Unit,
        /// The step's name.
        step: Cow<'static, str>,
    },
    /// Rows were written.
    Written {
        /// How many, since the last time.
        rows: u64,
    },
    /// Rows were read again.
    ReadBack {
        /// How many, since the last time.
        rows: u64,
    },
    /// A unit is done.
    Done {
        /// What was done with it.
        planned: Planned,
    },
    /// A unit could not be done; the run goes on with the next.
    Failed {
        /// Which.
        unit: Unit,
        /// Why.
        reason: String,
    },
    /// What a crash left was removed.
    Removed {
        /// Objects.
        objects: u64,
    },
}

/// Hears what a run tells.
pub type Progress = Arc<dyn Fn(Event) + Send + Sync>;

/// Why the archive could not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// The cold store refused.
    #[error("{reason}")]
    Cold {
        /// What it said.
        reason: String,
        /// Whether a later try may succeed.
        is_passing: bool,
    },
    /// The warm store refused.
    #[error("{reason}")]
    Warm {
        /// What it said.
        reason: String,
        /// Whether a later try may succeed.
        is_passing: bool,
    },
    /// The store creates an object that is there: two archivers could both commit.
    #[error(
        "{store} overwrites what it is told to create only where there is nothing: it can't hold an archive"
    )]
    Unconditional {
        /// The store.
        store: String,
    },
    /// The archive's rows are of another log, in which places mean something else.
    #[error("{store} holds rows of another log ({archived}) than this one ({log})")]
    OtherLog {
        /// The store.
        store: String,
        /// The log that it is of.
        archived: String,
        /// The log at hand.
        log: String,
    },
    /// The archive holds rows of a timeline of the log that this log is not on: it, or the log whose rows
    /// they are, was put back from a copy.
    #[error("{store} holds rows of another timeline of this log")]
    OtherTimeline {
        /// The store.
        store: String,
        /// Whether this log has used the offsets of those rows for other records.
        is_parted: bool,
    },
    /// The archive does not say of which log its rows are.
    #[error("{store} holds archived days and does not say of which log: its log.json is missing")]
    Nameless {
        /// The store.
        store: String,
    },
    /// The store is a copy of an archive that was interrupted.
    #[error(
        "{store} is an unfinished copy of {copy_of}: finish it with `stk archive copy {copy_of} {store}`"
    )]
    Unfinished {
        /// The store.
        store: String,
        /// The archive that was copied.
        copy_of: String,
    },
    /// The archive holds rows of another timeline of the log at offsets that the log has not reached. It was
    /// put back from a copy, and could not ask the archive when it was opened.
    #[error("{store} holds rows of another timeline of this log, at offsets that the log has not reached")]
    AheadOfLog {
        /// The store.
        store: String,
    },
    /// Warm has dropped rows that this archive does not hold.
    #[error("{unit}: warm has dropped rows that {store} does not hold: they are in another archive, or lost")]
    NotHere {
        /// The store.
        store: String,
        /// The unit.
        unit: Unit,
    },
    /// The log can't be asked how far it goes.
    #[error("{reason}")]
    Log {
        /// What it said.
        reason: String,
        /// Whether a later try may succeed.
        is_passing: bool,
    },
    /// Another archiver is at work.
    #[error("{store}: {owner} is archiving, until {until} at the latest")]
    Leased {
        /// The store.
        store: String,
        /// Who.
        owner: String,
        /// Until when, if it does not go on.
        until: String,
    },
    /// Another archiver may have begun meanwhile: this one must stop.
    #[error("{store}: the lease was lost: {reason}")]
    LeaseLost {
        /// The store.
        store: String,
        /// How.
        reason: String,
    },
    /// Another attempt has committed the unit.
    #[error("{unit}: manifest {number:04} was committed by another")]
    Taken {
        /// The unit.
        unit: Unit,
        /// The manifest's number.
        number: u32,
    },
    /// Rows are not what they should be. Nothing was committed, nothing dropped.
    #[error("{unit}: {what}: {found}, not {expected}; nothing was committed or dropped")]
    Differs {
        /// The unit.
        unit: Unit,
        /// What was compared with what.
        what: &'static str,
        /// What it is.
        found: RowDigest,
        /// What it should be.
        expected: RowDigest,
    },
    /// Rows that blocks had stored are no longer in warm, and not by the archive's doing. Nothing was
    /// committed, nothing dropped.
    #[error("{unit}: {rows} rows that were stored in warm are no longer there; nothing was archived: {next}")]
    Lost {
        /// The unit.
        unit: Unit,
        /// Rows that are not there.
        rows: u64,
        /// What to do.
        next: String,
    },
    /// An object is not what was stored.
    #[error("{store}: {key} is damaged: {reason}")]
    Damaged {
        /// The store.
        store: String,
        /// The object.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

impl ArchiveError {
    /// Whether a later try may succeed.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Cold { is_passing, .. } | Self::Warm { is_passing, .. } | Self::Log { is_passing, .. } => {
                *is_passing
            }
            Self::Taken { .. } => true,
            _ => false,
        }
    }

    /// What the processor keeps with a mark can't be read.
    fn state(partition: u16, error: &StateError) -> Self {
        Self::Warm { reason: format!("the state of partition {partition}: {error}"), is_passing: false }
    }

    /// Whether nothing more can be done with the store.
    fn ends_run(&self) -> bool {
        matches!(
            self,
            Self::Unconditional { .. }
                | Self::Leased { .. }
                | Self::LeaseLost { .. }
                | Self::OtherLog { .. }
                | Self::OtherTimeline { .. }
                | Self::AheadOfLog { .. }
                | Self::Nameless { .. }
                | Self::Unfinished { .. }
        )
    }
}

impl From<ColdError> for ArchiveError {
    fn from(error: ColdError) -> Self {
        let is_passing = matches!(error, ColdError::Unknown { .. } | ColdError::Full { .. });
        Self::Cold { reason: error.to_string(), is_passing }
    }
}

impl From<WarmError> for ArchiveError {
    fn from(error: WarmError) -> Self {
        Self::Warm { reason: error.to_string(), is_passing: error.is_passing() }
    }
}
