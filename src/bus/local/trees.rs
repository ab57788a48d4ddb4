//! Checks fjall's own files before fjall reads them, and finds the damaged one after fjall met damage.
//!
//! fjall believes the lengths in its files before it checks them, and asks for as much memory; it takes a
//! version of a tree without its checksum; it removes a keyspace whose `current` is missing; and its
//! errors name no file. So before it opens a log, every file that says what others hold is checked here
//! in full, and of every table its end, which says where its blocks lie. The blocks have checksums, which
//! fjall compares whenever it reads one.
//!
//! A keyspace is a directory (lsm-tree 3), little-endian:
//!
//! ```text
//! current     u64 VERSION, u128 XXH3 of the file vVERSION, u8 0
//! vVERSION    an archive; its section `tables`: u8 levels, each u8 runs, each u32 tables, each
//!             u64 id, u8 0, u128 XXH3 of the file tables/ID, u64 sequence number
//! tables/ID   an archive
//! ```
//!
//! An archive (sfa 1) is sections, then `TOC!`, u32 entries, each u64 position, u64 bytes, u16 bytes of the
//! name, name; and at its end `SFA!`, u8 1, u8 0, u128 XXH3 of the entries and the tag before them,
//! u64 their position, u64 their bytes.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::journal::{KEYSPACES_FOLDER, VERSION_FILE};
use super::synced::SYNCED_FILE;

const CURRENT_FILE: &str = "current";
const CURRENT_BYTES: usize = 25;
const TABLES_FOLDER: &str = "tables";
/// The keyspace in which fjall keeps what it knows of the others.
const META_KEYSPACE: &str = "0";
const VERSION: [u8; 4] = *b"FJL\x03";
const TOC_TAG: [u8; 4] = *b"TOC!";
const END_TAG: [u8; 6] = *b"SFA!\x01\x00";
const END_BYTES: u64 = 38;
/// More than any list of sections has.
const TOC_BYTES_MAX: u64 = 1 << 16;
/// More than any list of tables takes.
const VERSION_BYTES_MAX: u64 = 64 << 20;
const BUFFER_BYTES: usize = 256 << 10;

/// What to do about a damaged file of a log.
pub(super) const WAY_OUT: &str = "restore the directory of the log from a copy, or move it away with all that \
                                  is in it: the log then continues behind the rows that warm and the archive hold";

/// Checks what fjall is going to believe of the log in `path`.
///
/// Errors: a file is damaged or missing, in words that name it; or it can't be read.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let version = path.join(VERSION_FILE);
    if read(&version)?.is_some_and(|bytes| bytes != VERSION) {
        return Err(damaged(&version, "it is not what this program writes"));
    }
    let keyspaces = keyspaces(path)?;
    if keyspaces.is_empty() && path.join(SYNCED_FILE).exists() {
        // Records were synced, so there were keyspaces. fjall would make new ones, without the journal's records.
        return Err(damaged(&path.join(KEYSPACES_FOLDER), "it is missing"));
    }
    let is_meta = |keyspace: &PathBuf| keyspace.file_name().is_some_and(|name| name == META_KEYSPACE);
    if !keyspaces.is_empty() && !keyspaces.iter().any(is_meta) {
        return Err(damaged(&path.join(KEYSPACES_FOLDER).join(META_KEYSPACE), "it is missing"));
    }
    for keyspace in &keyspaces {
        let has_more = is_meta(keyspace) && keyspaces.len() > 1;
        for table in tables(keyspace, has_more)? {
            table.check_end()?;
        }
    }
    Ok(())
}

/// The first damaged file of the log in `path`, in words; every byte of every table is read. `None` where
/// none is.
pub(super) fn find_damage(path: &Path) -> Option<String> {
    let find = || {
        check(path)?;
        keyspaces(path)?.iter().try_for_each(|keyspace| find_damage_in(keyspace))
    };
    find().err()
}

/// The same of one keyspace.
pub(super) fn find_damage_in(keyspace: &Path) -> Result<(), String> {
    tables(keyspace, false)?.iter().try_for_each(Table::check)
}

fn damaged(file: &Path, how: &str) -> String {
    format!("{} is damaged: {how}; {WAY_OUT}", file.display())
}

fn cannot_read(file: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", file.display())
}

/// All of a small file; `None` where it is not there.
fn read(file: &Path) -> Result<Option<Vec<u8>>, String> {
    match fs::metadata(file) {
        Ok(metadata) if metadata.len() > VERSION_BYTES_MAX => return Err(damaged(file, "it is too long")),
        _ => {}
    }
    match fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot_read(file, &error)),
    }
}

/// The directories of the keyspaces.
fn keyspaces(path: &Path) -> Result<Vec<PathBuf>, String> {
    let folder = path.join(KEYSPACES_FOLDER);
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| cannot_read(&folder, &error))?,
    };
    let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(|error| cannot_read(&folder, &error))?;
    paths.retain(|path| path.is_dir());
    paths.sort_unstable();
    Ok(paths)
}

/// A table as the version of its tree names it.
struct Table {
    path: PathBuf,
    checksum: u128,
}

impl Table {
    /// Checks its end, which says where its blocks lie.
    fn check_end(&self) -> Result<(), String> {
        let check = || -> io::Result<Option<&str>> {
            let file = File::open(&self.path)?;
            let bytes = file.metadata()?.len();
            let Some(at) = bytes.checked_sub(END_BYTES) else { return Ok(Some("it was cut short")) };
            let mut end = [0; END_BYTES as usize];
            file.read_exact_at(&mut end, at)?;
            let Some(toc) = Toc::of(&end, at) else {
                return Ok(Some("its end is not what was written, or was cut off"));
            };
            let mut entries = vec![0; toc.bytes as usize];
            file.read_exact_at(&mut entries, toc.at)?;
            Ok((xxh3_128(&entries) != toc.checksum)
                .then_some("the list of its parts does not match its checksum"))
        };
        self.outcome(check())
    }

    /// Checks all of it.
    fn check(&self) -> Result<(), String> {
        let check = || -> io::Result<Option<&str>> {
            let mut file = BufReader::with_capacity(BUFFER_BYTES, File::open(&self.path)?);
            let (mut buffer, mut hash) = (vec![0; BUFFER_BYTES], Xxh3::new());
            loop {
                let count = file.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                hash.update(&buffer[..count]);
            }
            Ok((hash.digest128() != self.checksum).then_some("its bytes do not match their checksum"))
        };
        self.outcome(check())
    }

    fn outcome(&self, checked: io::Result<Option<&str>>) -> Result<(), String> {
        match checked {
            Ok(None) => Ok(()),
            Ok(Some(how)) => Err(damaged(&self.path, how)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(damaged(&self.path, "it is missing"))
            }
            Err(error) => Err(cannot_read(&self.path, &error)),
        }
    }
}

/// Where the list of an archive's sections lies.
struct Toc {
    at: u64,
    bytes: u64,
    checksum: u128,
}

impl Toc {
    /// As `end` says, which lies at byte `end_at`; `None` where it can't be.
    fn of(end: &[u8; END_BYTES as usize], end_at: u64) -> Option<Self> {
        let mut end = Words(end);
        let is_right = end.take(END_TAG.len())? == END_TAG;
        let (checksum, at, bytes) = (end.u128()?, end.u64()?, end.u64()?);
        let meets = at.checked_add(bytes) == Some(end_at) && bytes <= TOC_BYTES_MAX;
        (is_right && meets).then_some(Self { at, bytes, checksum })
    }
}

/// The tables of the tree in `keyspace`, which `has_more` where it may not be empty.
fn tables(keyspace: &Path, has_more: bool) -> Result<Vec<Table>, String> {
    let current = keyspace.join(CURRENT_FILE);
    let Some(bytes) = read(&current)? else {
        // A crash may have come before the tree was made. Then it has no tables.
        let holds_tables =
            fs::read_dir(keyspace.join(TABLES_FOLDER)).is_ok_and(|mut entries| entries.next().is_some());
        if has_more || holds_tables {
            return Err(damaged(&current, "it is missing"));
        }
        return Ok(Vec::new());
    };
    let mut words = Words(&bytes);
    let (Some(id), Some(checksum), Some(0), CURRENT_BYTES) =
        (words.u64(), words.u128(), words.u8(), bytes.len())
    else {
        return Err(damaged(&current, "it is not what was written"));
    };
    let version = keyspace.join(format!("v{id}"));
    let Some(bytes) = read(&version)? else {
        let how = format!("it names {}, which is not there", version.display());
        return Err(damaged(&current, &how));
    };
    if xxh3_128(&bytes) != checksum {
        let how = format!("it does not match the checksum in {}", current.display());
        return Err(damaged(&version, &how));
    }
    let listed = listed(&bytes).ok_or_else(|| damaged(&version, "it lists no tables"))?;
    let table = |(id, checksum): (u64, u128)| Table {
        path: keyspace.join(TABLES_FOLDER).join(id.to_string()),
        checksum,
    };
    Ok(listed.into_iter().map(table).collect())
}

/// The tables that the version `bytes` lists: each with its checksum.
fn listed(bytes: &[u8]) -> Option<Vec<(u64, u128)>> {
    let (_, end) = bytes.split_last_chunk()?;
    let toc = Toc::of(end, bytes.len() as u64 - END_BYTES)?;
    let mut words = Words(bytes.get(toc.at as usize..)?);
    let is_toc = words.take(TOC_TAG.len())? == TOC_TAG;
    let mut section = None;
    for _ in 0..words.u32().filter(|_| is_toc)? {
        let (at, len, name_len) = (words.u64()?, words.u64()?, words.u16()?);
        if words.take(usize::from(name_len))? == b"tables" {
            section = bytes.get(at as usize..)?.get(..len as usize);
        }
    }
    let mut words = Words(section?);
    let mut tables = Vec::new();
    for _level in 0..words.u8()? {
        for _run in 0..words.u8()? {
            for _table in 0..words.u32()? {
                let (id, kind, checksum) = (words.u64()?, words.u8()?, words.u128()?);
                let _sequence = words.u64()?;
                tables.push((id, checksum));
                if kind != 0 {
                    return None;
                }
            }
        }
    }
    Some(tables)
}

/// What is left of some bytes to be read in words.
struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::super::{Access, LocalBus, LocalBusConfig};
    use super::*;
    use crate::bus::Bus;

    fn config(path: &Path) -> LocalBusConfig {
        LocalBusConfig { memory_bytes: 0, free_bytes_min: 0, ..LocalBusConfig::new(path, 1) }
    }

    /// All records, or why there are none.
    async fn read_all(path: &Path) -> Result<Vec<Bytes>, String> {
        let bus = LocalBus::open(LocalBusConfig { access: Access::Read, ..config(path) });
        let bus = bus.map_err(|error| error.to_string())?;
        let (mut reader, next) = (bus.reader(0, 0).await.unwrap(), bus.bounds(0).await.unwrap().next);
        let mut records = Vec::new();
        while reader.offset() < next {
            match reader.next(1 << 20).await {
                Ok(more) => records.extend(more.into_iter().map(|record| record.bytes)),
                Err(error) => {
                    bus.close().await;
                    return Err(error.to_string());
                }
            }
        }
        bus.close().await;
        Ok(records)
    }

    /// A bit flipped, or the end cut off, here and there and most of all at the ends of files. The records are
    /// right, or the file is named, and what the message advises leads on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn damage_in_any_file_of_a_tree_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let bus: Arc<LocalBus> = LocalBus::open(config(&path)).unwrap();
        // More than is left in a journal, less than a segment.
        for number in 0..5 {
            let record = Bytes::from(vec![number; 1 << 20]);
            bus.append(vec![(0, record)]).await.unwrap().await.unwrap();
        }
        bus.close().await;
        let sound = read_all(&path).await.unwrap();
        assert_eq!(sound.len(), 5);
        check(&path).unwrap();
        assert_eq!(find_damage(&path), None);

        let mut files = vec![path.join(VERSION_FILE)];
        for keyspace in keyspaces(&path).unwrap() {
            let entries = |dir: &Path| -> Vec<PathBuf> {
                fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
            };
            files.extend(entries(&keyspace).into_iter().filter(|path| path.is_file()));
            files.extend(entries(&keyspace.join(TABLES_FOLDER)));
        }
        assert!(files.len() > 6, "{files:?}");
        let mut last = PathBuf::new();
        for file in files {
            let bytes = fs::read(&file).unwrap();
            let end = bytes.len().saturating_sub(400);
            let places = (0..end).step_by(bytes.len() / 2 + 1).chain((end..bytes.len()).step_by(97));
            for at in places {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                for damaged in [&flipped[..], &bytes[..at]] {
                    fs::write(&file, damaged).unwrap();
                    let found = read_all(&path).await;
                    // Of what fjall does not need, such as a filter, it does not know.
                    let name = file.display().to_string();
                    match found {
                        Ok(records) => assert!(records == sound, "{name} at {at}"),
                        Err(error) => {
                            assert!(error.contains(&name), "{name} at {at}: {error}");
                            let way_out = ["move it away", "restore it from a copy of the directory"];
                            assert!(way_out.iter().any(|way_out| error.contains(way_out)), "{error}");
                        }
                    }
                }
            }
            fs::remove_file(&file).unwrap();
            // A version before the present one may still be there.
            let found = read_all(&path).await;
            fs::write(&file, bytes).unwrap();
            match found {
                Ok(records) => assert!(records == sound, "{}", file.display()),
                Err(error) => {
                    assert!(error.contains(&file.display().to_string()), "{error}");
                    last = file;
                }
            }
        }
        fs::write(&last, b"damaged").unwrap();
        let refused = LocalBus::open(config(&path)).err().unwrap().to_string();
        assert!(refused.contains("move it away"), "{refused}");
        fs::rename(&path, directory.path().join("away")).unwrap();
        LocalBus::open(config(&path)).unwrap().close().await;
    }
}
