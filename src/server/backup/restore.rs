//! Putting a backup back.

use std::fs::{self, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Backup, BackupError, DATA_DIR, Verified, check_empty, files, verify};
use crate::config::Config;
use crate::disk::sync_dir;
use crate::fail;

/// Verifies the backup in `path` and copies its data directory to `data`, which must be empty or missing.
/// It has its name only once it is whole. The next start begins a new generation of the log there, as each
/// start does, so that records which the original took in after the backup are never mixed with it.
///
/// Errors: as [`verify`]; `data` is not empty or can't be written.
pub async fn restore(
    config: &Config,
    path: &Path,
    data: &Path,
    copied: impl Fn(u64) + Clone + Send + Sync + 'static,
) -> Result<Verified, BackupError> {
    check_empty(data)?;
    let verified = verify(config, path, copied.clone()).await?;
    let (from, data, backup) = (path.join(DATA_DIR), data.to_owned(), verified.backup.clone());
    super::blocking(move || {
        let (temporary, _lock) = beside(&data)?;
        let done = put(&from, &temporary, &data, &backup, &copied);
        if done.is_err() {
            // What stays is removed by the next restore.
            let _ = fs::remove_dir_all(&temporary);
        }
        done
    })
    .await?;
    Ok(verified)
}

/// The name under which `data` is written, an empty directory, and the lock of it.
///
/// Errors: another restore has it.
fn beside(data: &Path) -> Result<(PathBuf, fs::File), BackupError> {
    let absolute = std::path::absolute(data).map_err(|error| BackupError::io(data, &error))?;
    let name = absolute.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let temporary = absolute.with_file_name(format!(".{name}.stk-restoring"));
    let io = |error: std::io::Error| BackupError::io(&temporary, &error);
    fs::create_dir_all(&temporary).map_err(io)?;
    let lock = fs::File::open(&temporary).map_err(io)?;
    let is_ours = match lock.try_lock() {
        // Whoever had it may have given it its name meanwhile.
        Ok(()) => {
            let (ours, there) = (lock.metadata().map_err(io)?, fs::metadata(&temporary));
            there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
        }
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => return Err(io(error)),
    };
    if !is_ours {
        return Err(BackupError::Restoring { data: data.to_owned() });
    }
    // What an interrupted restore left.
    for entry in fs::read_dir(&temporary).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(io)?;
    }
    Ok((temporary, lock))
}

fn put(
    from: &Path,
    temporary: &Path,
    data: &Path,
    backup: &Backup,
    copied: &dyn Fn(u64),
) -> Result<(), BackupError> {
    for file in &backup.files {
        let (source, to) = (from.join(&file.path), temporary.join(&file.path));
        let mut open = fs::File::open(&source).map_err(|error| BackupError::io(&source, &error))?;
        let written = files::copy(&mut open, &source, &to, u64::MAX, copied)?;
        if (written.bytes, &written.checksum) != (file.bytes, &file.checksum) {
            let reason = "it changed since it was verified".to_owned();
            return Err(BackupError::Damaged { path: source, reason });
        }
        fail::point("backup.restoring");
    }
    files::sync_tree(temporary)?;
    // In the place of the empty directory.
    let parent = temporary.parent().unwrap_or(Path::new("."));
    let named = fs::rename(temporary, data).and_then(|()| sync_dir(parent));
    named.map_err(|error| BackupError::io(data, &error))
}
