//! A log that is only read: a directory beside the real one, so that fjall can open it and nothing of the
//! real one changes.
//!
//! fjall knows no way to open a database without writing: it truncates journals, removes files that no
//! version names, and writes tables. So it opens a directory of its own under the system's one for
//! temporary files. Journals, up to damage if there is any, and the small files that say which tables
//! count are copied there; tables, which are never written to again, are symbolic links.
//!
//! The directory goes with its [`Shadow`]. One that a killed process left is removed by the next reader.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::journal::{self, Checked, Damage, KEYSPACES_FOLDER, VERSION_FILE};
use super::synced::Synced;
use crate::bus::BusError;

const PREFIX: &str = "stk-log-";
/// The folders of a keyspace whose files never change.
pub(super) const TABLES_FOLDERS: [&str; 2] = ["tables", "blobs"];
/// In a shadow, locked by the process that has it.
const LOCK_FILE: &str = "shadow";
/// How long a process may take from making a shadow to locking it.
const UNLOCKED_MAX: Duration = Duration::from_mins(1);

/// What fjall opens instead of a log that is only read.
pub(super) struct Shadow {
    pub(super) dir: TempDir,
    /// The number of the last batch in the journals.
    pub(super) last: u64,
    /// Where the journals could not be read any further.
    pub(super) damage: Option<Damage>,
    /// Up to where the log is known to have been synced.
    pub(super) synced: Synced,
    /// Keeps writers out of the real directory.
    _lock: Option<File>,
    /// Keeps other readers from removing the shadow.
    _own_lock: File,
}

impl Shadow {
    /// The shadow of the log in `path`; an empty one where there is none.
    pub(super) fn of(path: &Path) -> Result<Self, BusError> {
        let lock = journal::lock_to_read(path)?;
        let all = std::env::temp_dir();
        sweep(&all);
        let cannot = |error: io::Error| BusError::Failed {
            path: path.display().to_string(),
            reason: format!(
                "cannot copy its journals to {}: {error}; set TMPDIR to a directory with more room",
                all.display()
            ),
        };
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&all).map_err(cannot)?;
        let own_lock = File::create_new(dir.path().join(LOCK_FILE)).map_err(cannot)?;
        own_lock.lock().map_err(cannot)?;
        let mut shadow =
            Self { dir, last: 0, damage: None, synced: Synced::default(), _lock: lock, _own_lock: own_lock };
        if !path.is_dir() || !journal::is_created(path)? {
            return Ok(shadow);
        }
        let Checked { journals, last, damage, synced } = journal::check(path)?;
        // What follows a sealed journal can't be read without it.
        if let Some(damage) = damage.as_ref().filter(|damage| !damage.is_in_active) {
            return Err(BusError::Failed { path: path.display().to_string(), reason: damage.to_string() });
        }
        (shadow.last, shadow.damage, shadow.synced) = (last, damage, synced);
        shadow.fill(path, &journals).map_err(cannot)?;
        Ok(shadow)
    }

    fn fill(&self, path: &Path, journals: &[(PathBuf, u64)]) -> io::Result<()> {
        let to = self.dir.path();
        for (journal, bytes) in journals {
            let mut copy = File::create_new(to.join(journal.file_name().unwrap_or_default()))?;
            io::copy(&mut File::open(journal)?.take(*bytes), &mut copy)?;
        }
        // fjall looks for its lock where there is a version.
        File::create_new(to.join(journal::LOCK_FILE))?;
        mirror(&fs::canonicalize(path)?.join(KEYSPACES_FOLDER), &to.join(KEYSPACES_FOLDER))?;
        // Last, as fjall itself does: with it the log is there.
        fs::copy(path.join(VERSION_FILE), to.join(VERSION_FILE))?;
        Ok(())
    }
}

/// Copies `from`, but for tables, to which it links.
fn mirror(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    let are_tables = from.file_name().is_some_and(|name| TABLES_FOLDERS.iter().any(|tables| name == *tables));
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            mirror(&path, &copy)?;
        } else if are_tables {
            symlink(path, copy)?;
        } else {
            fs::copy(path, copy)?;
        }
    }
    Ok(())
}

/// Removes shadows whose processes are gone. Another process may do the same, or may not be allowed to.
fn sweep(all: &Path) {
    let Ok(entries) = fs::read_dir(all) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            continue;
        }
        let path = entry.path();
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > UNLOCKED_MAX));
        if is_old && File::open(path.join(LOCK_FILE)).map_or(true, |lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(path);
        }
    }
}
