//! Which log the archived rows are of, since their places in it mean nothing in another.
//!
//! ```text
//! log.json   the log's name
//! ```
//!
//! It is created with the first run and never changes. Who archives rows of another log is refused.
//! Who reads beside another log, as after that one was lost, takes the archive's days for rows of
//! their own: none is a row that warm or the log has, whatever the offsets say.

use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::store::{Created, Store, json};
use crate::tiering::cold::{Cold, ColdError};

/// The key of the log's name.
pub const LOG_KEY: &str = "log.json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    version: u32,
    /// Sixteen hexadecimal digits.
    log: String,
}

impl Origin {
    fn of(log: u64) -> Self {
        Self { version: 1, log: format!("{log:016x}") }
    }

    /// What `bytes` say instead, if they are not this.
    fn differs(&self, bytes: &[u8]) -> Option<String> {
        match serde_json::from_slice::<Self>(bytes) {
            Ok(found) => (found != *self).then_some(found.log),
            Err(error) => Some(format!("{LOG_KEY} can't be read: {error}")),
        }
    }
}

/// Writes down that the rows to come are of `log`.
///
/// Errors: those that are there are of another, as [`ArchiveError::OtherLog`]; or the store refuses.
pub(super) async fn claim(store: &Store, log: u64) -> Result<(), ArchiveError> {
    let own = Origin::of(log);
    let is_own = |found: &[u8]| own.differs(found).is_none();
    match store.create(LOG_KEY, json(&own), is_own).await? {
        Created::Own => Ok(()),
        Created::Other(found) => refused(store.cold(), own.differs(&found), log),
    }
}

/// Refuses an archive of another log.
///
/// Errors: as [`ArchiveError::OtherLog`]; or the store refuses.
pub async fn check(cold: &dyn Cold, log: u64) -> Result<(), ArchiveError> {
    refused(cold, other_log(cold, log).await?, log)
}

/// The log that the rows in `cold` are of, where it is another than `log`. Of an archive that does
/// not say it is the same.
pub(super) async fn other_log(cold: &dyn Cold, log: u64) -> Result<Option<String>, ColdError> {
    match cold.get(LOG_KEY).await {
        Ok(found) => Ok(Origin::of(log).differs(&found)),
        Err(ColdError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn refused(cold: &dyn Cold, other: Option<String>, log: u64) -> Result<(), ArchiveError> {
    let Some(archived) = other else { return Ok(()) };
    Err(ArchiveError::OtherLog { store: cold.name().to_owned(), archived, log: Origin::of(log).log })
}
