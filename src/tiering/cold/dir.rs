//! Cold in a directory: a file an object.
//!
//! ```text
//! DIR/ticks/kind=trade/date=2026-11-20/part-0000-….parquet   an object, its key's parts as directories
//! DIR/.tmp/12f3-00000a                                       what is being written
//! ```
//!
//! A file is written whole under `.tmp`, synced, and only then gets its name: by a hard link where
//! there must be none of that name, else by a rename. Its directory is synced before the call
//! returns. Whoever writes a temporary file holds its lock, so that the next one to write can tell what
//! a crash left, and remove it, from what is being written. Whoever only reads changes nothing.
//!
//! Bytes of a key other than letters, digits and `. - _ =` are written as `%2F` is in a URL, and so
//! is the dot that a part begins with: no key leaves the directory or meets `.tmp`.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};

use bytes::Bytes;

use super::{Availability, Cold, ColdError, ObjectInfo, RestoreTier, StorageClass, Transition, Upload};
use crate::disk::{create_dir, sync_dir};
use crate::market::Timestamp;

/// Where files are written before they get their names.
const TEMPORARY_DIR: &str = ".tmp";

/// Bytes of a part of a key, escaped, at most: what file systems take as a name.
const NAME_BYTES_MAX: usize = 255;

/// Bytes of an upload that are gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A directory of objects.
#[derive(Clone)]
pub struct DirCold {
    store: Arc<Store>,
}

struct Store {
    root: PathBuf,
    name: String,
    /// Temporary files made so far.
    temporaries: AtomicU64,
    /// Done once what a crash left was removed.
    swept: Once,
}

impl DirCold {
    /// Opens the store in `dir`, and changes nothing. A directory that is missing holds nothing, and is
    /// created by the first write. Blocking.
    pub fn open(dir: &Path) -> Result<Self, ColdError> {
        let (name, temporaries) = (dir.display().to_string(), AtomicU64::new(0));
        let store = Store { root: dir.to_owned(), name, temporaries, swept: Once::new() };
        match fs::read_dir(dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(store.error("", &error)),
            _ => Ok(Self { store: Arc::new(store) }),
        }
    }

    /// Runs `work` off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Arc<Store>) -> Result<T, ColdError> + Send + 'static,
    ) -> Result<T, ColdError> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|error| Err(self.store.unknown(key, error)))
    }
}

impl Store {
    fn unknown(&self, key: &str, reason: impl ToString) -> ColdError {
        ColdError::Unknown { store: self.name.clone(), key: key.to_owned(), reason: reason.to_string() }
    }

    fn refused(&self, reason: impl ToString) -> ColdError {
        ColdError::Refused { store: self.name.clone(), reason: reason.to_string() }
    }

    fn error(&self, key: &str, error: &io::Error) -> ColdError {
        match error.kind() {
            ErrorKind::NotFound => ColdError::NotFound { store: self.name.clone(), key: key.to_owned() },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ColdError::Full { store: self.name.clone() },
            ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::Unsupported => self.refused(format!("{key}: {error}")),
            _ => self.unknown(key, error),
        }
    }

    /// An error of reading: a key that runs through or ends at what is no file names no object.
    fn read_error(&self, key: &str, error: &io::Error) -> ColdError {
        match error.kind() {
            ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
                self.error(key, &ErrorKind::NotFound.into())
            }
            _ => self.error(key, error),
        }
    }

    /// Removes what writers that are gone left half-written. What can't be removed does no harm.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(TEMPORARY_DIR)) else { return };
        for entry in entries.flatten() {
            let path = entry.path();
            // Another may have finished or removed it since.
            let Ok(file) = File::open(&path) else { continue };
            if file.try_lock().is_ok() {
                tracing::info!(path = %path.display(), "remove what an interrupted write left");
                let _ = fs::remove_file(&path);
            }
        }
    }

    /// The object's file.
    fn path(&self, key: &str) -> Result<PathBuf, ColdError> {
        let mut path = self.root.clone();
        for part in key.split('/') {
            let name = escape(part);
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                let shown = key.escape_debug();
                return Err(self.refused(format!(
                    "\"{shown}\" is no key: each part between slashes takes 1 to {NAME_BYTES_MAX} bytes"
                )));
            }
            path.push(name);
        }
        Ok(path)
    }

    fn temporary(&self) -> io::Result<Temporary> {
        let dir = self.root.join(TEMPORARY_DIR);
        create_dir(&dir)?;
        self.swept.call_once(|| self.sweep());
        loop {
            let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
            let name = format!("{:x}-{:p}-{number:06x}", std::process::id(), self);
            let path = dir.join(name);
            let file = match File::create_new(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                file => file?,
            };
            let temporary = Temporary { path, file: Arc::new(file) };
            // Between its creation and its lock another may have taken it for a leftover.
            if temporary.file.try_lock().is_ok() && temporary.file.metadata()?.nlink() > 0 {
                return Ok(temporary);
            }
        }
    }

    /// Writes a whole temporary file, not yet under its name.
    fn written(&self, bytes: &[u8]) -> io::Result<Temporary> {
        let temporary = self.temporary()?;
        (&*temporary.file).write_all(bytes)?;
        temporary.file.sync_all()?;
        Ok(temporary)
    }

    fn create(&self, key: &str, bytes: &[u8]) -> Result<bool, ColdError> {
        let path = self.path(key)?;
        let create = || -> io::Result<bool> {
            let temporary = self.written(bytes)?;
            let dir = path.parent().unwrap_or(&self.root);
            create_dir(dir)?;
            let created = match fs::hard_link(&temporary.path, &path) {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                Err(error) => return Err(error),
            };
            // Also where another has created it: that it is there must stay true.
            sync_dir(dir)?;
            Ok(created)
        };
        let created = create().map_err(|error| self.error(key, &error))?;
        if !created && path.is_dir() {
            return Err(self.refused(format!("{key}: there are objects below it")));
        }
        Ok(created)
    }

    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), ColdError> {
        let path = self.path(key)?;
        let put = self.written(bytes).and_then(|temporary| self.name(temporary, &path));
        put.map_err(|error| self.error(key, &error))
    }

    /// Gives a synced file its name, in the place of one that may have it.
    fn name(&self, temporary: Temporary, path: &Path) -> io::Result<()> {
        let dir = path.parent().unwrap_or(&self.root);
        create_dir(dir)?;
        fs::rename(&temporary.path, path)?;
        sync_dir(dir)
    }

    fn get_ranges(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ColdError> {
        let path = self.path(key)?;
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = opened.map_err(|error| self.read_error(key, &error))?;
        if !metadata.is_file() {
            return Err(self.error(key, &ErrorKind::NotFound.into()));
        }
        let read = |range: &Range<u64>| {
            if range.start > range.end || range.end > metadata.len() {
                return Err(ColdError::Short { store: self.name.clone(), key: key.to_owned() });
            }
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut bytes, range.start).map_err(|error| self.read_error(key, &error))?;
            Ok(bytes.into())
        };
        ranges.iter().map(read).collect()
    }

    fn get(&self, key: &str) -> Result<Bytes, ColdError> {
        let bytes = fs::read(self.path(key)?).map_err(|error| self.read_error(key, &error))?;
        Ok(bytes.into())
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>, ColdError> {
        let mut found = Vec::new();
        let mut open = vec![(self.root.clone(), String::new())];
        while let Some((dir, key_of_dir)) = open.pop() {
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(self.error(&key_of_dir, &error)),
            };
            for entry in entries {
                let entry = entry.map_err(|error| self.error(&key_of_dir, &error))?;
                // What has a name that no key leads to is not ours.
                let Some(part) = entry.file_name().to_str().and_then(unescape) else { continue };
                let key = format!("{key_of_dir}{part}");
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    // Removed since it was listed.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(self.error(&key, &error)),
                };
                if metadata.is_dir() {
                    let key = key + "/";
                    if key.starts_with(prefix) || prefix.starts_with(&key) {
                        open.push((entry.path(), key));
                    }
                } else if key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after) {
                    let modified = metadata.modified().map_err(|error| self.error(&key, &error))?;
                    found.push(ObjectInfo { key, bytes: metadata.len(), modified: timestamp(modified) });
                }
            }
        }
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn delete(&self, key: &str) -> Result<(), ColdError> {
        let path = self.path(key)?;
        match fs::remove_file(&path) {
            Ok(()) => {
                let synced = path.parent().map_or(Ok(()), sync_dir);
                synced.map_err(|error| self.error(key, &error))
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(()),
            Err(_) if path.is_dir() => Ok(()),
            Err(error) => Err(self.error(key, &error)),
        }
    }

    fn check_is_there(&self, key: &str) -> Result<(), ColdError> {
        match fs::metadata(self.path(key)?) {
            Ok(metadata) if metadata.is_file() => Ok(()),
            Ok(_) => Err(self.error(key, &ErrorKind::NotFound.into())),
            Err(error) => Err(self.read_error(key, &error)),
        }
    }
}

/// A file under `.tmp`, whose lock is held; removed unless it was renamed.
struct Temporary {
    path: PathBuf,
    file: Arc<File>,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already where it was renamed; what stays is removed when the store is opened next.
        let _ = fs::remove_file(&self.path);
    }
}

fn timestamp(time: std::time::SystemTime) -> Timestamp {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_nanos(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-_=".contains(&byte)
}

/// A part of a key as a file's name.
fn escape(part: &str) -> String {
    let mut name = String::with_capacity(part.len());
    for (at, byte) in part.bytes().enumerate() {
        if is_plain(byte) && (at > 0 || byte != b'.') {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    name
}

/// The part of a key that has this name; `None` for a name that none has.
fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().filter(|part| escape(part) == name)
}

/// An object being written, under `.tmp`.
struct DirUpload {
    cold: DirCold,
    key: String,
    path: PathBuf,
    temporary: Temporary,
    buffer: Vec<u8>,
}

impl DirUpload {
    async fn flush(&mut self) -> Result<(), ColdError> {
        let (buffer, file) = (std::mem::take(&mut self.buffer), self.temporary.file.clone());
        let key = self.key.clone();
        let written = self.cold.blocking(&self.key, move |store| {
            (&*file).write_all(&buffer).map_err(|error| store.error(&key, &error))
        });
        written.await
    }
}

#[async_trait::async_trait]
impl Upload for DirUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ColdError> {
        self.buffer.extend_from_slice(&bytes);
        if self.buffer.len() < BUFFER_BYTES { Ok(()) } else { self.flush().await }
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ColdError> {
        self.flush().await?;
        let Self { cold, key, path, temporary, .. } = *self;
        let of = key.clone();
        let named = cold.blocking(&key, move |store| {
            let named = temporary.file.sync_all().and_then(|()| store.name(temporary, &path));
            named.map_err(|error| store.error(&of, &error))
        });
        named.await
    }

    async fn abort(self: Box<Self>) -> Result<(), ColdError> {
        // The temporary file goes with it.
        Ok(())
    }
}

#[async_trait::async_trait]
impl Cold for DirCold {
    fn name(&self) -> &str {
        &self.store.name
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<bool, ColdError> {
        let of = key.to_owned();
        self.blocking(key, move |store| store.create(&of, &bytes)).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ColdError> {
        let of = key.to_owned();
        self.blocking(key, move |store| store.put(&of, &bytes)).await
    }

    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>, ColdError> {
        let path = self.store.path(key)?;
        let of = key.to_owned();
        let temporary =
            self.blocking(key, move |store| store.temporary().map_err(|error| store.error(&of, &error)));
        let temporary = temporary.await?;
        let buffer = Vec::new();
        Ok(Box::new(DirUpload { cold: self.clone(), key: key.to_owned(), path, temporary, buffer }))
    }

    async fn get(&self, key: &str) -> Result<Bytes, ColdError> {
        let of = key.to_owned();
        self.blocking(key, move |store| store.get(&of)).await
    }

    async fn get_ranges(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ColdError> {
        let (of, ranges) = (key.to_owned(), ranges.to_vec());
        self.blocking(key, move |store| store.get_ranges(&of, &ranges)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>, ColdError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.blocking("", move |store| store.list(&prefix, after.as_deref())).await
    }

    async fn delete(&self, key: &str) -> Result<(), ColdError> {
        let of = key.to_owned();
        self.blocking(key, move |store| store.delete(&of)).await
    }

    async fn state(&self, key: &str) -> Result<(StorageClass, Availability), ColdError> {
        let of = key.to_owned();
        self.blocking(key, move |store| store.check_is_there(&of)).await?;
        Ok((StorageClass::Standard, Availability::Ready))
    }

    async fn restore(&self, _key: &str, _days: u32, _tier: RestoreTier) -> Result<(), ColdError> {
        Err(ColdError::Unsupported { store: self.store.name.clone(), what: "archived objects to restore" })
    }

    async fn lifecycle(&self, _prefix: &str) -> Result<Vec<Transition>, ColdError> {
        Err(ColdError::Unsupported { store: self.store.name.clone(), what: "storage classes" })
    }

    async fn set_lifecycle(&self, _prefix: &str, _transitions: &[Transition]) -> Result<(), ColdError> {
        Err(ColdError::Unsupported { store: self.store.name.clone(), what: "storage classes" })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    /// Every path below `dir`, relative to it.
    fn paths(dir: &Path) -> BTreeSet<String> {
        let (mut found, mut open) = (BTreeSet::new(), vec![dir.to_owned()]);
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path.clone());
                }
                found.insert(path.strip_prefix(dir).unwrap().display().to_string());
            }
        }
        found
    }

    #[tokio::test]
    async fn of_two_who_create_a_key_one_does() {
        let dir = TempDir::new().unwrap();
        let cold = DirCold::open(dir.path()).unwrap();
        let other = DirCold::open(dir.path()).unwrap();
        for round in 0..20 {
            let key = format!("manifest/{round}.json");
            let (a, b) = tokio::join!(cold.create(&key, "a".into()), other.create(&key, "b".into()));
            let (a, b) = (a.unwrap(), b.unwrap());
            assert!(a != b);
            assert_eq!(cold.get(&key).await.unwrap(), if a { "a" } else { "b" });
        }
        assert_eq!(fs::read_dir(dir.path().join(".tmp")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_upload_is_seen_whole_or_not_at_all() {
        let dir = TempDir::new().unwrap();
        let cold = DirCold::open(dir.path()).unwrap();
        let mut upload = cold.upload("ticks/a").await.unwrap();
        let piece = Bytes::from(vec![7; 700_000]);
        for _ in 0..5 {
            upload.write(piece.clone()).await.unwrap();
            assert!(matches!(cold.get("ticks/a").await, Err(ColdError::NotFound { .. })));
            assert!(cold.list("", None).await.unwrap().is_empty());
        }
        // A second process that opens the store does not take what is being written for a leftover.
        DirCold::open(dir.path()).unwrap();
        upload.finish().await.unwrap();
        assert_eq!(cold.get("ticks/a").await.unwrap().len(), 5 * 700_000);
        let mut upload = cold.upload("ticks/b").await.unwrap();
        upload.write(piece.clone()).await.unwrap();
        upload.abort().await.unwrap();
        drop(cold.upload("ticks/c").await.unwrap());
        assert_eq!(paths(dir.path()), ["ticks", "ticks/a", ".tmp"].map(str::to_owned).into());
    }

    #[tokio::test]
    async fn what_a_crash_left_is_removed_by_the_first_write_and_by_no_reader() {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join(".tmp")).unwrap();
        fs::write(dir.path().join(".tmp/1-2-3"), "half").unwrap();
        let cold = DirCold::open(dir.path()).unwrap();
        assert_eq!(cold.list("", None).await.unwrap(), []);
        assert_eq!(paths(dir.path()), [".tmp", ".tmp/1-2-3"].map(str::to_owned).into());
        cold.put("a", "x".into()).await.unwrap();
        assert_eq!(paths(dir.path()), [".tmp", "a"].map(str::to_owned).into());
    }

    #[tokio::test]
    async fn a_directory_that_is_missing_is_made_by_the_first_write() {
        let outer = TempDir::new().unwrap();
        let dir = outer.path().join("a/store");
        let cold = DirCold::open(&dir).unwrap();
        assert_eq!(cold.list("", None).await.unwrap(), []);
        assert!(matches!(cold.get("a").await, Err(ColdError::NotFound { .. })));
        assert_eq!(paths(outer.path()), BTreeSet::new());
        cold.put("a", "x".into()).await.unwrap();
        assert_eq!(paths(&dir), [".tmp", "a"].map(str::to_owned).into());
        // A file in its place is told at once.
        assert!(matches!(DirCold::open(&dir.join("a")), Err(ColdError::Refused { .. })));
    }

    #[tokio::test]
    async fn keys_stay_below_the_directory() {
        let outer = TempDir::new().unwrap();
        let cold = DirCold::open(&outer.path().join("store")).unwrap();
        for key in ["../out", "a/../../out", ".tmp/x", "..", ".", "/etc/x", "a//b", "", "a/", "%2E%2E/x"] {
            let _ = cold.put(key, "x".into()).await;
            let _ = cold.create(key, "x".into()).await;
        }
        assert!(paths(outer.path()).iter().all(|path| path.starts_with("store")));
        assert_eq!(paths(&outer.path().join("store/.tmp")).len(), 0);
        for key in ["", "a/", "/a", "a//b"] {
            assert!(matches!(cold.put(key, "x".into()).await, Err(ColdError::Refused { .. })), "{key}");
        }
        fs::write(outer.path().join("store/a file.txt"), "a stranger's").unwrap();
        let keys: Vec<_> = cold.list("", None).await.unwrap().into_iter().map(|object| object.key).collect();
        assert_eq!(keys, ["%2E%2E/x", ".", "../out", ".tmp/x", "a/../../out"]);
    }

    fn key() -> impl Strategy<Value = String> {
        prop_oneof!["[a-c=]{1,2}(/[a-c.]{1,3}){0,2}", "[^/]{1,6}(/[^/]{1,6}){0,2}",]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_directory_is_a_map_of_keys(
            keys in prop::collection::vec(key(), 1..20),
            prefix in key(),
            after in prop::option::of(key()),
        ) {
            runtime().block_on(async {
                let dir = TempDir::new().unwrap();
                let cold = DirCold::open(dir.path()).unwrap();
                let mut model: BTreeMap<String, Bytes> = BTreeMap::new();
                for (number, key) in keys.iter().enumerate() {
                    let bytes = Bytes::from(number.to_string());
                    match number % 3 {
                        0 => {
                            // Refused where one key is a directory of another.
                            if let Ok(created) = cold.create(key, bytes.clone()).await {
                                assert_eq!(created, !model.contains_key(key));
                                model.entry(key.clone()).or_insert(bytes);
                            }
                        }
                        1 => {
                            if cold.put(key, bytes.clone()).await.is_ok() {
                                model.insert(key.clone(), bytes);
                            }
                        }
                        _ => {
                            cold.delete(key).await.unwrap();
                            model.remove(key);
                        }
                    }
                }
                for key in &keys {
                    assert_eq!(cold.get(key).await.ok().as_ref(), model.get(key));
                    assert_eq!(cold.state(key).await.is_ok(), model.contains_key(key));
                }
                let begins: String = prefix.chars().take(1).collect();
                let found = cold.list(&begins, after.as_deref()).await.unwrap();
                let found: Vec<_> = found.into_iter().map(|object| object.key).collect();
                let expected: Vec<_> = model
                    .keys()
                    .filter(|key| key.starts_with(&begins) && after.as_ref().is_none_or(|after| *key > after))
                    .cloned()
                    .collect();
                assert_eq!(found, expected);
            });
        }
    }

    #[tokio::test]
    async fn ranges_are_what_was_asked_for() {
        let dir = TempDir::new().unwrap();
        let cold = DirCold::open(dir.path()).unwrap();
        cold.put("a", "0123456789".into()).await.unwrap();
        let found = cold.get_ranges("a", &[8..10, 0..3, 5..5]).await.unwrap();
        assert_eq!(found, [Bytes::from("89"), Bytes::from("012"), Bytes::new()]);
        let error = cold.get_ranges("a", std::slice::from_ref(&(5..11))).await.unwrap_err();
        assert!(matches!(error, ColdError::Short { .. }), "{error}");
        assert!(matches!(cold.get_ranges("b", &[]).await, Err(ColdError::NotFound { .. })));
    }
}
