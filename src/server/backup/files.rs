//! Files that are copied with their checksums, durably.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::{BackupError, BackupFile};
use crate::disk::{create_dir, sync_dir};
use crate::fail;

const BUFFER_BYTES: usize = 1 << 20;

/// What a file was when it was copied: its device, inode, bytes and time of the last change.
type Identity = (u64, u64, u64, i64, i64);

/// The copy of a directory, as far as it has come.
pub(super) struct Copies {
    root: PathBuf,
    /// By path below the root.
    files: BTreeMap<PathBuf, (BackupFile, Option<Identity>)>,
    copied: Box<dyn Fn(u64) + Send + Sync>,
}

impl Copies {
    /// A copy in `root`; `copied` hears how many bytes were copied since the last time.
    pub(super) fn new(root: PathBuf, copied: Box<dyn Fn(u64) + Send + Sync>) -> Self {
        Self { root, files: BTreeMap::new(), copied }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Copies the file `from`, or its first `bytes_max` bytes, unless the same file was copied before.
    /// Whether it is there.
    pub(super) fn copy(
        &mut self,
        from: &Path,
        relative: &Path,
        bytes_max: Option<u64>,
    ) -> Result<bool, BackupError> {
        let mut file = match File::open(from) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(|error| BackupError::io(from, &error))?,
        };
        let metadata = file.metadata().map_err(|error| BackupError::io(from, &error))?;
        let (time, nanos) = (metadata.mtime(), metadata.mtime_nsec());
        let identity = (metadata.dev(), metadata.ino(), metadata.len(), time, nanos);
        let identity = bytes_max.is_none().then_some(identity);
        if self.files.get(relative).is_some_and(|(_, known)| known.is_some() && *known == identity) {
            return Ok(true);
        }
        let to = self.root.join(relative);
        let entry = copy(&mut file, from, &to, bytes_max.unwrap_or(u64::MAX), &*self.copied)?;
        fail::point("backup.file");
        let path = relative.to_string_lossy().into_owned();
        self.files.insert(relative.to_owned(), (BackupFile { path, ..entry }, identity));
        Ok(true)
    }

    /// Writes a file that holds `bytes`.
    pub(super) fn write(&mut self, relative: &Path, bytes: &[u8]) -> Result<(), BackupError> {
        let (to, from) = (self.root.join(relative), Path::new("memory"));
        let entry = copy(&mut &*bytes, from, &to, u64::MAX, &*self.copied)?;
        let path = relative.to_string_lossy().into_owned();
        self.files.insert(relative.to_owned(), (BackupFile { path, ..entry }, None));
        Ok(())
    }

    /// Removes the files below `dir` that are not in `kept`: earlier tries have left them.
    pub(super) fn keep(&mut self, dir: &Path, kept: &[PathBuf]) -> Result<(), BackupError> {
        let kept: BTreeSet<&PathBuf> = kept.iter().collect();
        let is_left = |path: &&PathBuf| path.starts_with(dir) && !kept.contains(path);
        let left: Vec<PathBuf> = self.files.keys().filter(is_left).cloned().collect();
        for relative in left {
            let path = self.root.join(&relative);
            fs::remove_file(&path).map_err(|error| BackupError::io(&path, &error))?;
            self.files.remove(&relative);
        }
        Ok(())
    }

    /// Makes all names durable. Returns the files.
    pub(super) fn finish(self) -> Result<Vec<BackupFile>, BackupError> {
        create_dir(&self.root).map_err(|error| BackupError::io(&self.root, &error))?;
        sync_tree(&self.root)?;
        Ok(self.files.into_values().map(|(file, _)| file).collect())
    }
}

/// Copies at most `bytes_max` bytes of `from`, called `name`, to the file `to`, durably. The path in the
/// result is empty.
pub(super) fn copy(
    from: &mut dyn Read,
    name: &Path,
    to: &Path,
    bytes_max: u64,
    copied: &dyn Fn(u64),
) -> Result<BackupFile, BackupError> {
    let cannot_write = |error: io::Error| BackupError::io(to, &error);
    if let Some(dir) = to.parent() {
        create_dir(dir).map_err(cannot_write)?;
    }
    let mut file = File::create(to).map_err(cannot_write)?;
    let (mut hash, mut bytes, mut buffer) = (Xxh3::new(), 0, vec![0; BUFFER_BYTES]);
    let mut limited = from.take(bytes_max);
    loop {
        let read = limited.read(&mut buffer).map_err(|error| BackupError::io(name, &error))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(cannot_write)?;
        bytes += read as u64;
        copied(read as u64);
    }
    file.sync_all().map_err(cannot_write)?;
    Ok(BackupFile { path: String::new(), bytes, checksum: format!("{:016x}", hash.digest()) })
}

/// The size and checksum of the file at `path`.
pub(super) fn measure(path: &Path) -> Result<BackupFile, BackupError> {
    let cannot = |error: io::Error| BackupError::io(path, &error);
    let mut file = File::open(path).map_err(cannot)?;
    let (mut hash, mut bytes, mut buffer) = (Xxh3::new(), 0, vec![0; BUFFER_BYTES]);
    loop {
        let read = file.read(&mut buffer).map_err(cannot)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok(BackupFile { path: String::new(), bytes, checksum: format!("{:016x}", hash.digest()) })
}

/// Writes a whole file under another name and renames it, durably.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let temporary = path.with_extension("tmp");
    copy(&mut &*bytes, path, &temporary, u64::MAX, &|_| {})?;
    let named = fs::rename(&temporary, path).and_then(|()| sync_dir(path.parent().unwrap_or(Path::new("."))));
    named.map_err(|error| BackupError::io(path, &error))
}

/// Makes the entries of `dir` and of every directory below it durable.
pub(super) fn sync_tree(dir: &Path) -> Result<(), BackupError> {
    for path in entries(dir)? {
        if path.is_dir() {
            sync_tree(&path)?;
        }
    }
    sync_dir(dir).map_err(|error| BackupError::io(dir, &error))
}

/// The entries of `dir`; none where it is missing.
pub(super) fn entries(dir: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let cannot = |error: io::Error| BackupError::io(dir, &error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(cannot)?,
    };
    entries.map(|entry| Ok(entry.map_err(cannot)?.path())).collect()
}
