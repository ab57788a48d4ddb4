//! Files: errors that name them, and directories made durable.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk;
use crate::tiering::warm::WarmError;

/// How to go on where a segment or a checkpoint is damaged.
pub(super) const MEND_FILE: &str =
    "; `stk audit --repair` rebuilds it from the log or the archive, or bring a sound copy of the file back";

pub(super) fn io_error(path: &Path, error: &io::Error) -> WarmError {
    let path = path.display().to_string();
    match error.kind() {
        io::ErrorKind::StorageFull => WarmError::Full { path },
        _ => WarmError::Io { path, reason: error.to_string() },
    }
}

pub(super) fn damaged(path: &Path, reason: impl ToString) -> WarmError {
    WarmError::Damaged { path: path.display().to_string(), reason: reason.to_string() }
}

/// Makes what was created, renamed or removed in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), WarmError> {
    disk::sync_dir(dir).map_err(|error| io_error(dir, &error))
}

/// Makes `dir` and those above it that are missing, durably.
pub(super) fn create_dir(dir: &Path) -> Result<(), WarmError> {
    disk::create_dir(dir).map_err(|error| io_error(dir, &error))
}

/// What is in `dir`.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, WarmError> {
    let read = fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    read.map_err(|error| io_error(dir, &error))
}

/// A file that is removed again unless it gets its name: what failed must not fill the disk.
pub(super) struct Temporary {
    path: PathBuf,
    named: bool,
}

impl Temporary {
    /// The file to be written in the place of `path`.
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.with_extension("tmp"), named: false }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file, which is synced, its name, durably.
    pub(super) fn rename(mut self, path: &Path) -> Result<(), WarmError> {
        fs::rename(&self.path, path).map_err(|error| io_error(path, &error))?;
        self.named = true;
        path.parent().map_or(Ok(()), sync_dir)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.named {
            // What stays is removed at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}
