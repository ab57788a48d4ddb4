//! The files of a log that a copy needs, taken at one moment while a server may be writing.
//!
//! fjall moves records from its journals to tables, and then removes the journals. A copy is whole only if
//! the journals and the small files that say which tables count are of one moment. So both are read, and
//! the directory is looked at before and after: if anything but the end of the active journal has changed,
//! the caller tries again. The result is what a power cut at that moment would have left. Journals are
//! taken up to their last whole batch. Tables are never written to again; one that is gone by the time it
//! is copied has the caller try again, too.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::journal::{self, Checked, KEYSPACES_FOLDER, LOCK_FILE, VERSION_FILE};
use super::shadow::TABLES_FOLDERS;
use crate::bus::BusError;

/// What of a log is copied, by paths below its directory. The journals were copied already.
#[derive(Debug, Default)]
pub struct LogFiles {
    /// Small files, with what they held.
    pub small: Vec<(PathBuf, Vec<u8>)>,
    /// Tables, to be copied from the log's directory.
    pub tables: Vec<PathBuf>,
}

/// Which file stands at a path: device and inode, bytes and time of the last change.
type Seen = (u64, u64, Option<(u64, i64, i64)>);

/// Looks at the log in `path` and has its journals copied by `copy`, which receives the path of a journal
/// and how many of its bytes count. `None` where the log changed meanwhile: what was copied is to be thrown
/// away.
///
/// Errors: the log has not been made, is damaged, or can't be read; `copy` failed.
pub fn files<E: From<BusError>>(
    path: &Path,
    copy: &mut dyn FnMut(&Path, u64) -> Result<(), E>,
) -> Result<Option<LogFiles>, E> {
    let failed = |error: io::Error| BusError::Failed {
        path: path.display().to_string(),
        reason: format!("cannot copy it: {error}"),
    };
    if !journal::is_created(path)? {
        return Err(failed(io::Error::other("it holds no log")).into());
    }
    let Some(before) = look(path).map_err(failed)? else { return Ok(None) };
    let mut files = LogFiles::default();
    for relative in before.keys() {
        if is_table(relative) {
            files.tables.push(relative.clone());
        } else if !is_journal(relative) {
            match fs::read(path.join(relative)) {
                Ok(bytes) => files.small.push((relative.clone(), bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed(error).into()),
            }
        }
    }
    let Checked { journals, damage, .. } = journal::check(path)?;
    if let Some(damage) = damage.filter(|damage| damage.was_durable) {
        return Err(failed(io::Error::other(damage.to_string())).into());
    }
    for (journal, bytes) in &journals {
        copy(journal, *bytes)?;
    }
    let after = look(path).map_err(failed)?;
    Ok((after.as_ref() == Some(&before)).then_some(files))
}

fn is_journal(relative: &Path) -> bool {
    relative.extension().is_some_and(|extension| extension == "jnl")
}

fn is_table(relative: &Path) -> bool {
    let dir = relative.parent().and_then(Path::file_name);
    dir.is_some_and(|dir| TABLES_FOLDERS.iter().any(|tables| dir == *tables))
}

/// Every file that belongs to a copy; `None` where one went meanwhile. Of the active journal only that it
/// is there: it grows.
fn look(path: &Path) -> io::Result<Option<BTreeMap<PathBuf, Seen>>> {
    let mut seen = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        let entries = match fs::read_dir(path.join(&dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let relative = dir.join(entry.file_name());
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                metadata => metadata?,
            };
            let is_top = dir.as_os_str().is_empty();
            if metadata.is_dir() {
                if !is_top || relative == Path::new(KEYSPACES_FOLDER) {
                    open.push(relative);
                }
            } else if !is_top || is_kept(&relative) {
                let state = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
                seen.insert(relative, (metadata.dev(), metadata.ino(), Some(state)));
            }
        }
    }
    let number = |relative: &Path| relative.file_stem()?.to_str()?.parse::<u64>().ok();
    let journals = seen.keys().filter(|relative| is_journal(relative));
    let active = journals.max_by_key(|relative| number(relative)).cloned();
    if let Some(seen) = active.and_then(|active| seen.get_mut(&active)) {
        seen.2 = None;
    }
    Ok(Some(seen))
}

/// Whether a file beside the database belongs to a copy: its version, its journals and the log's identity.
fn is_kept(relative: &Path) -> bool {
    let name = relative.to_string_lossy();
    debug_assert_ne!(name, "");
    name != LOCK_FILE
        && (name == VERSION_FILE || name == "epoch" || name == "epoch.copy" || is_journal(relative))
}
