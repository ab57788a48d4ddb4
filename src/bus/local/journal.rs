//! What has to be put right before fjall opens its directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::bus::BusError;

const LOCK_FILE: &str = "lock";
const VERSION_FILE: &str = "version";
const VERSION_BYTES: u64 = 4;
const KEYSPACES_FOLDER: &str = "keyspaces";
const FIRST_JOURNAL: &str = "0.jnl";

/// Creates `path` if needed, refuses it if another process has it open, and removes what is left
/// of a creation that was cut short, which fjall would stumble over.
pub(super) fn prepare(path: &Path) -> Result<(), BusError> {
    let failed = |error: std::io::Error| BusError::Failed {
        path: path.display().to_string(),
        reason: format!("cannot prepare the directory: {error}"),
    };
    std::fs::create_dir_all(path).map_err(failed)?;
    let lock: File = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path.join(LOCK_FILE))
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(BusError::Locked { path: path.display().to_string() });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }

    let version = path.join(VERSION_FILE);
    let is_created = std::fs::metadata(&version).is_ok_and(|metadata| metadata.len() >= VERSION_BYTES);
    // The first keyspace is made after the version file: with none there was no record yet.
    let is_empty =
        std::fs::read_dir(path.join(KEYSPACES_FOLDER)).map_or(true, |mut entries| entries.next().is_none());
    if !is_created && is_empty {
        for file in [&version, &path.join(FIRST_JOURNAL)] {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
    }
    Ok(())
}
