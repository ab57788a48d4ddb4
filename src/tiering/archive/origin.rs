//! Which log the archived rows are of, since their places in it mean nothing in another.
//!
//! ```text
//! log.json   the log's name
//! ```
//!
//! It is created with the first run. Who archives rows of another log is refused, and who reads beside
//! another log is told. An archive that has the name that an earlier version of stk gave the log gets the
//! present one with the next run.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::ArchiveError;
use super::snapshot::ReadError;
use super::store::{Created, Store, json};
use crate::bus::epoch::LogName;
use crate::tiering::cold::{Cold, ColdError};

/// The key of the log's name.
pub const LOG_KEY: &str = "log.json";

/// The version that is written and read.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Origin {
    version: u32,
    /// Sixteen hexadecimal digits.
    log: String,
}

fn name(log: u64) -> String {
    format!("{log:016x}")
}

/// The name in `bytes`, or what is wrong with them.
fn read(bytes: &Bytes) -> Result<String, String> {
    let origin: Origin = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match origin.version {
        VERSION => Ok(origin.log),
        version => Err(format!("it is of version {version}: use a newer stk")),
    }
}

/// Writes down that the rows to come are of `log`.
///
/// Errors: those that are there are of another, as [`ArchiveError::OtherLog`]; or the store refuses.
pub(super) async fn claim(store: &Store, log: impl Into<LogName>) -> Result<(), ArchiveError> {
    let log = log.into();
    let own = json(&Origin { version: VERSION, log: name(log.id) });
    match store.create(LOG_KEY, own.clone(), |found| *found == own[..]).await? {
        Created::Own => Ok(()),
        Created::Other(found) => {
            let found = read(&found).map_err(|reason| store.damaged(LOG_KEY, reason))?;
            refuse_other(store.cold(), Some(&found), log)?;
            if found != name(log.id) {
                tracing::info!(
                    archive = store.cold().name(),
                    log = name(log.id),
                    "the log's name is written anew"
                );
                store.put(LOG_KEY, own).await?;
            }
            Ok(())
        }
    }
}

/// Refuses an archive of another log.
///
/// Errors: as [`ArchiveError::OtherLog`]; or the store refuses.
pub async fn check(cold: &dyn Cold, log: impl Into<LogName>) -> Result<(), ArchiveError> {
    match told(cold).await {
        Ok(found) => refuse_other(cold, found.as_deref(), log.into()),
        Err(ReadError::Cold(error)) => Err(error.into()),
        Err(error) => {
            let (store, reason) = (cold.name().to_owned(), error.to_string());
            Err(ArchiveError::Damaged { store, key: LOG_KEY.to_owned(), reason })
        }
    }
}

/// Whether `archived` is a name of `log`.
fn is_name(archived: &str, log: LogName) -> bool {
    archived == name(log.id) || log.former.is_some_and(|former| archived == name(former))
}

fn refuse_other(cold: &dyn Cold, archived: Option<&str>, log: LogName) -> Result<(), ArchiveError> {
    match archived {
        Some(archived) if !is_name(archived, log) => {
            let (store, archived) = (cold.name().to_owned(), archived.to_owned());
            Err(ArchiveError::OtherLog { store, archived, log: name(log.id) })
        }
        _ => Ok(()),
    }
}

/// The name of the log that the rows in `cold` are of; `None` where it does not say.
async fn told(cold: &dyn Cold) -> Result<Option<String>, ReadError> {
    let found = match cold.get(LOG_KEY).await {
        Ok(found) => found,
        Err(ColdError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (store, key) = (cold.name().to_owned(), LOG_KEY.to_owned());
    read(&found).map(Some).map_err(|reason| ReadError::Damaged { store, key, reason })
}

/// Whether the rows in `cold` are of another log than `log`; `None` where it does not say.
pub(super) async fn is_foreign(cold: &dyn Cold, log: impl Into<LogName>) -> Result<Option<bool>, ReadError> {
    let log = log.into();
    Ok(told(cold).await?.map(|found| !is_name(&found, log)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::*;
    use crate::tiering::archive::ArchiveMetrics;
    use crate::tiering::cold::dir::DirCold;

    #[tokio::test]
    async fn an_archive_is_of_the_log_that_came_first() {
        let dir = TempDir::new().unwrap();
        let cold = Arc::new(DirCold::open(dir.path()).unwrap());
        let store = Store::new(cold.clone(), None, ArchiveMetrics::default());
        assert_eq!(is_foreign(&*cold, 7).await.unwrap(), None);
        check(&*cold, 7).await.unwrap();
        for _ in 0..2 {
            claim(&store, 7).await.unwrap();
        }
        // Read for ever.
        let stored = "{\n  \"version\": 1,\n  \"log\": \"0000000000000007\"\n}\n";
        assert_eq!(cold.get(LOG_KEY).await.unwrap(), stored);
        let foreign = [is_foreign(&*cold, 7).await.unwrap(), is_foreign(&*cold, 8).await.unwrap()];
        assert_eq!(foreign, [Some(false), Some(true)]);
        for refused in [claim(&store, 8).await, check(&*cold, 8).await] {
            assert!(matches!(refused, Err(ArchiveError::OtherLog { .. })), "{refused:?}");
        }
    }

    #[tokio::test]
    async fn a_name_of_an_earlier_version_is_adopted_once() {
        let dir = TempDir::new().unwrap();
        let cold = Arc::new(DirCold::open(dir.path()).unwrap());
        let store = Store::new(cold.clone(), None, ArchiveMetrics::default());
        claim(&store, 7).await.unwrap();
        let log = LogName { id: 9, former: Some(7) };
        check(&*cold, log).await.unwrap();
        assert_eq!(is_foreign(&*cold, log).await.unwrap(), Some(false));
        claim(&store, log).await.unwrap();
        check(&*cold, 9).await.unwrap();
        assert!(
            claim(&store, 7).await.is_err() && check(&*cold, 7).await.is_err(),
            "the older stk is refused"
        );
        // Another topic of the same name, later.
        let again = LogName { id: 11, former: Some(7) };
        assert_eq!(is_foreign(&*cold, again).await.unwrap(), Some(true));
        assert!(claim(&store, again).await.is_err());
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_read_is_none_of_another() {
        let dir = TempDir::new().unwrap();
        let cold = Arc::new(DirCold::open(dir.path()).unwrap());
        let store = Store::new(cold.clone(), None, ArchiveMetrics::default());
        for (stored, told) in
            [("{", "EOF"), (r#"{"version":2,"log":"0000000000000007"}"#, "of version 2: use a newer stk")]
        {
            cold.put(LOG_KEY, stored.into()).await.unwrap();
            for refused in [claim(&store, 7).await, check(&*cold, 7).await] {
                assert!(matches!(refused, Err(ArchiveError::Damaged { .. })), "{refused:?}");
            }
            let error = is_foreign(&*cold, 7).await.unwrap_err().to_string();
            assert!(error.contains(LOG_KEY) && error.contains(told), "{error}");
        }
    }
}
