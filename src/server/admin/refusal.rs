//! Why an order failed, as it travels from a server to a command.

use serde::{Deserialize, Serialize};

use crate::tiering::archive::ArchiveError;
use crate::tiering::archive::restore::RestoreError;
use crate::tiering::archive::snapshot::ReadError;
use crate::tiering::audit::AuditError;
use crate::tiering::cold::ColdError;
use crate::tiering::repair::RepairError;
use crate::tiering::warm::WarmError;

/// Why an order failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Refusal {
    /// What it means to the operator.
    pub cause: Cause,
    /// The reason, with the store, unit or object.
    pub message: String,
}

/// What a failure means to the operator: decides the exit code and the hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Another archiver holds the lease.
    Leased,
    /// The lease was lost.
    LeaseLost,
    /// The archive's rows are from another log.
    OtherLog,
    /// The archive's rows are from a timeline that this log could continue.
    OtherTimeline,
    /// The archive's rows are from a timeline that this log could continue once it is opened again.
    AheadOfLog,
    /// The archive does not say of which log its rows are.
    Nameless,
    /// The archive's rows and this log have used the same offsets.
    PartedTimeline,
    /// Warm has dropped rows that this archive does not hold.
    NotHere,
    /// The archive's store lacks conditional writes.
    Unconditional,
    /// Something archived is damaged.
    Damaged,
    /// The archive's store refuses: keys, rights, a missing bucket.
    StoreRefused,
    /// The archive's store did not answer as it should.
    StoreUnsure,
    /// The archive's store can't do this.
    Unsupported,
    /// A disk is full.
    Full,
    /// Nothing of the days is archived.
    NotArchived,
    /// Expedited restores don't exist for Deep Archive.
    NotExpedited,
    /// Objects must be restored first.
    Frozen,
    /// Restored rows differ from the archived ones.
    Unequal,
    /// Rows from another log can't be stored in warm.
    ForeignRows,
    /// Warm would take these rows from the log a second time.
    Ahead,
    /// The server is stopping.
    Stopping,
    /// Anything else, and causes that a newer server knows.
    #[serde(other)]
    Other,
}

impl Refusal {
    pub(super) fn new(cause: Cause, message: impl ToString) -> Self {
        Self { cause, message: message.to_string() }
    }
}

impl From<ArchiveError> for Refusal {
    fn from(error: ArchiveError) -> Self {
        let cause = match &error {
            ArchiveError::Leased { .. } => Cause::Leased,
            ArchiveError::LeaseLost { .. } => Cause::LeaseLost,
            ArchiveError::OtherLog { .. } => Cause::OtherLog,
            ArchiveError::OtherTimeline { is_parted: false, .. } => Cause::OtherTimeline,
            ArchiveError::OtherTimeline { is_parted: true, .. } => Cause::PartedTimeline,
            ArchiveError::AheadOfLog { .. } => Cause::AheadOfLog,
            ArchiveError::Nameless { .. } => Cause::Nameless,
            ArchiveError::NotHere { .. } => Cause::NotHere,
            ArchiveError::Unconditional { .. } => Cause::Unconditional,
            ArchiveError::Differs { .. } | ArchiveError::Damaged { .. } => Cause::Damaged,
            ArchiveError::Cold { .. }
            | ArchiveError::Warm { .. }
            | ArchiveError::Taken { .. }
            | ArchiveError::Lost { .. }
            | ArchiveError::Unfinished { .. }
            | ArchiveError::Log { .. } => Cause::Other,
        };
        Self::new(cause, error)
    }
}

impl From<ColdError> for Refusal {
    fn from(error: ColdError) -> Self {
        let cause = match &error {
            ColdError::Refused { .. } => Cause::StoreRefused,
            ColdError::Unknown { .. } => Cause::StoreUnsure,
            ColdError::Unsupported { .. } => Cause::Unsupported,
            ColdError::Full { .. } => Cause::Full,
            ColdError::NotFound { .. } | ColdError::Short { .. } | ColdError::Frozen { .. } => Cause::Other,
        };
        Self::new(cause, error)
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Cold(error) => error.into(),
            ReadError::Unfinished { .. } => Self::new(Cause::Other, error),
            ReadError::Manifest { .. } | ReadError::Damaged { .. } => Self::new(Cause::Damaged, error),
        }
    }
}

impl From<WarmError> for Refusal {
    fn from(error: WarmError) -> Self {
        let cause = if matches!(error, WarmError::Full { .. }) { Cause::Full } else { Cause::Other };
        Self::new(cause, error)
    }
}

impl From<RestoreError> for Refusal {
    fn from(error: RestoreError) -> Self {
        let cause = match error {
            RestoreError::Read(error) => return error.into(),
            RestoreError::Warm(error) => return error.into(),
            RestoreError::NotExpedited { .. } => Cause::NotExpedited,
            RestoreError::Frozen { .. } => Cause::Frozen,
            RestoreError::Unequal { .. } => Cause::Unequal,
            RestoreError::OtherLog { .. } => Cause::ForeignRows,
            RestoreError::Ahead { .. } => Cause::Ahead,
        };
        Self::new(cause, error)
    }
}

impl From<RepairError> for Refusal {
    fn from(error: RepairError) -> Self {
        match error {
            RepairError::Audit(error) => error.into(),
            RepairError::Warm(error) => error.into(),
            RepairError::Archive(error) => error.into(),
            RepairError::Read(error) => error.into(),
            RepairError::Restore(error) => error.into(),
            RepairError::Frozen { .. } => Self::new(Cause::Frozen, error),
            RepairError::Bus(_) | RepairError::Log { .. } | RepairError::Rows { .. } => {
                Self::new(Cause::Other, error)
            }
        }
    }
}

impl From<AuditError> for Refusal {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Archive(error) => error.into(),
            AuditError::Warm(error) => error.into(),
            AuditError::Bus(error) => Self::new(Cause::Other, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_of_a_newer_server_is_still_a_refusal() {
        let refusal: Refusal = serde_json::from_str(r#"{"cause":"newer","message":"m"}"#).unwrap();
        assert_eq!(refusal, Refusal::new(Cause::Other, "m"));
        let leased = Refusal::new(Cause::Leased, "l");
        let text = serde_json::to_string(&leased).unwrap();
        assert_eq!(text, r#"{"cause":"leased","message":"l"}"#);
        assert_eq!(serde_json::from_str::<Refusal>(&text).unwrap(), leased);
    }
}
