//! Directories whose entries outlive a power cut: what every store on a disk needs.
//!
//! Some file systems keep a name only once the directory that holds it was synced. So whoever creates,
//! renames or removes something that must last syncs the directory afterwards.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Makes what was created, renamed or removed in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates `dir` and its missing parents, durably.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir(parent)?;
    }
    match fs::create_dir(dir) {
        // Another process has created it, and may not have synced it yet.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        // A relative path of one part lies in the working directory.
        _ => sync_dir(parent.unwrap_or(Path::new("."))),
    }
}

/// Times that a lock is tried, and the wait between two of them.
const LOCK_TRIES: u32 = 10;
const LOCK_WAIT: std::time::Duration = std::time::Duration::from_millis(20);

/// Takes a lock on `file` by `lock`, which does not wait. A program that the holder is just starting has
/// its descriptors, and with them its locks, for a moment after the holder let go of them.
pub(crate) fn lock_soon(
    file: &std::fs::File,
    lock: impl Fn(&std::fs::File) -> Result<(), std::fs::TryLockError>,
) -> Result<(), std::fs::TryLockError> {
    for _ in 1..LOCK_TRIES {
        match lock(file) {
            Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_WAIT),
            done => return done,
        }
    }
    lock(file)
}

/// Bytes that this user may still write on the disk of `path`.
pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes the next read of the file at `path` come from the disk instead of the page cache. The two may differ
/// after a failed sync, and the sync after that reports success.
pub(crate) fn forget_cached(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_data()?;
    // Only advice: a file system in memory has no disk to read from.
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    Ok(())
}
