//! Directories whose entries outlive a power cut: what every store on a disk needs.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes what was created, renamed or removed in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes `dir` and those above it that are missing, durably.
pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    match fs::create_dir(dir) {
        // Another has made it meanwhile, and may not have made it durable yet.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => parent.map_or(Ok(()), sync_dir),
    }
}
