//! Files: errors that name them, and directories made durable.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::tiering::warm::WarmError;

pub(super) fn io_error(path: &Path, error: &io::Error) -> WarmError {
    WarmError::Io { path: path.display().to_string(), reason: error.to_string() }
}

pub(super) fn damaged(path: &Path, reason: impl ToString) -> WarmError {
    WarmError::Damaged { path: path.display().to_string(), reason: reason.to_string() }
}

/// Makes what was created, renamed or removed in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), WarmError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| io_error(dir, &error))
}

/// Makes `dir` and those above it that are missing, durably.
pub(super) fn create_dir(dir: &Path) -> Result<(), WarmError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_dir(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_error(dir, &error)),
        _ => dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_dir),
    }
}
