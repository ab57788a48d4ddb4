//! What has to be put right before fjall opens its directory: above all the torn tail.
//!
//! fjall cuts a journal that ends within a batch. But a disk may lose power with later pages
//! written and earlier ones not; then a batch is whole and wrong, and fjall refuses to open; and
//! a damaged tag further up makes it drop all that follows without a word. So the journals are
//! checked here, batch by batch. A batch that is wrong is cut at its first byte, if it was never
//! synced. That is known from what comes after it: every batch carries a [`Mark`] of what was
//! synced when it was written. Where synced records are damaged nothing is touched, and the error
//! names the file and the byte.
//!
//! A batch in fjall's journal (format 3), little-endian:
//!
//! ```text
//! u8 1, u32 items, u64 seqno
//! items, each: u8 2, u8 type, u8 compression, u64 keyspace, u16 key bytes, u32 value bytes,
//!              u32 bytes of the value as stored, key, value
//! u8 3, u64 XXH3 of the items, "FJL" 3
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::bus::BusError;

const LOCK_FILE: &str = "lock";
const VERSION_FILE: &str = "version";
const VERSION_BYTES: u64 = 4;
const KEYSPACES_FOLDER: &str = "keyspaces";
const FIRST_JOURNAL: &str = "0.jnl";
const JOURNAL_EXTENSION: &str = "jnl";

/// The unit in which the system counts what a file takes.
const BLOCK_BYTES: u64 = 512;

const TAG_START: u8 = 1;
const TAG_ITEM: u8 = 2;
const TAG_END: u8 = 3;
const TRAILER: [u8; 4] = *b"FJL\x03";
const START_BYTES: usize = 12;
const ITEM_BYTES: usize = 20;
const BUFFER_BYTES: usize = 256 << 10;

/// Stands in every batch, after the records: its number, and up to which one was synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Counted over all batches, from 1.
    pub(super) number: u64,
    /// All batches up to this one were synced before this one was written.
    pub(super) synced: u64,
}

impl Mark {
    /// Behind all partitions.
    pub(super) const KEY: [u8; 2] = [0xff, 0xfe];

    pub(super) fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.number.to_le_bytes());
        out[8..].copy_from_slice(&self.synced.to_le_bytes());
        out
    }

    fn decode(value: &[u8]) -> Option<Self> {
        let (number, rest) = value.split_first_chunk()?;
        let synced = rest.try_into().ok()?;
        Some(Self { number: u64::from_le_bytes(*number), synced: u64::from_le_bytes(synced) })
    }
}

/// Creates `path` if needed, refuses it if another process has it open, cuts a torn tail, and
/// removes what is left of a creation that was cut short, which fjall would stumble over. Returns
/// the number of the last batch in the journals.
pub(super) fn prepare(path: &Path) -> Result<u64, BusError> {
    let failed = |reason: String| BusError::Failed { path: path.display().to_string(), reason };
    let cannot = |error: io::Error| failed(format!("cannot prepare the directory: {error}"));
    std::fs::create_dir_all(path).map_err(cannot)?;
    let mut options = OpenOptions::new();
    let lock = options.create(true).truncate(false).read(true).write(true);
    let lock = lock.open(path.join(LOCK_FILE)).map_err(cannot)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(BusError::Locked { path: path.display().to_string() });
        }
        Err(TryLockError::Error(error)) => return Err(cannot(error)),
    }

    let version = path.join(VERSION_FILE);
    let is_created = std::fs::metadata(&version).is_ok_and(|metadata| metadata.len() >= VERSION_BYTES);
    if !is_created {
        // The first keyspace is made after the version file: with none there was no record yet.
        let keyspaces = std::fs::read_dir(path.join(KEYSPACES_FOLDER));
        if keyspaces.is_ok_and(|mut keyspaces| keyspaces.next().is_some()) {
            return Err(failed(format!(
                "{} is missing or cut short: restore it from a copy of the directory",
                version.display()
            )));
        }
        for file in [&version, &path.join(FIRST_JOURNAL)] {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
                _ => {}
            }
        }
    }

    let mut last = 0;
    let journals = journals(path).map_err(cannot)?;
    for (index, journal) in journals.iter().enumerate() {
        let is_active = index + 1 == journals.len();
        last = check(journal, last, is_active).map_err(|fault| match fault {
            Fault::Io(error) => failed(format!("cannot check {}: {error}", journal.display())),
            Fault::Damaged { at } => failed(format!(
                "{} is damaged at byte {at}, in records that were durable: restore the directory from a \
                 copy, or give up what follows by `truncate -s {at} {}`",
                journal.display(),
                journal.display()
            )),
        })?;
    }
    Ok(last)
}

/// How much of the disk the journals take: their length says nothing, since they are made long.
pub(super) fn allocated_bytes(path: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for journal in journals(path)? {
        bytes += std::fs::metadata(journal)?.blocks() * BLOCK_BYTES;
    }
    Ok(bytes)
}

/// Empties the active journal of `path`, durably; all that it holds has to be in tables, and its
/// writer must be done.
pub(super) fn empty(path: &Path) -> io::Result<()> {
    let Some(active) = journals(path)?.pop() else { return Ok(()) };
    let file = OpenOptions::new().write(true).open(active)?;
    file.set_len(0)?;
    file.sync_all()
}

/// Oldest first.
fn journals(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        let id = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(id) = id
            && path.extension().is_some_and(|extension| extension == JOURNAL_EXTENSION)
        {
            journals.push((id, path));
        }
    }
    journals.sort_unstable();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

enum Fault {
    Io(io::Error),
    Damaged { at: u64 },
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Checks `journal`, cuts its tail if it is the active one and torn, and returns the number of its
/// last batch; `last` is that of the journals before it, 0 if there was none.
fn check(journal: &Path, mut last: u64, is_active: bool) -> Result<u64, Fault> {
    let file = OpenOptions::new().read(true).write(true).open(journal)?;
    let file_bytes = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, &file);
    let mut at = 0;
    let mut scratch = Vec::new();
    while let Some(batch) = read_batch(&mut reader, file_bytes - at, &mut scratch)? {
        at += batch.bytes;
        last = batch.mark.map_or(last, |mark| mark.number);
    }

    // fjall makes its files long beforehand.
    reader.seek(SeekFrom::Start(at))?;
    if is_zero(&mut reader)? {
        return Ok(last);
    }
    // Synced as a whole when it was sealed.
    if !is_active || is_synced_after(&file, at, last)? {
        return Err(Fault::Damaged { at });
    }
    tracing::warn!(journal = %journal.display(), at, "cut a torn tail of the log");
    file.set_len(at)?;
    file.sync_all()?;
    Ok(last)
}

fn is_zero(reader: &mut impl Read) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(true);
        }
        if buffer[..count].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
    }
}

/// Whether a batch after `at` tells that the one at `at` was synced. The next one need not know yet:
/// batches share a sync, so all of them are asked.
fn is_synced_after(mut file: &File, at: u64, last: u64) -> io::Result<bool> {
    file.seek(SeekFrom::Start(at))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    let mut scratch = Vec::new();
    // The broken one comes after `last`. With no batch before it, it can only be told that it comes
    // before the first whole one.
    let mut broken = (last > 0).then_some(last + 1);
    let mut from = 1;
    while from < rest.len() {
        let left = &rest[from..];
        let batch = match left[0] {
            TAG_START => read_batch(&mut Cursor::new(left), left.len() as u64, &mut scratch)?,
            _ => None,
        };
        let Some(Batch { bytes, mark }) = batch else {
            from += 1;
            continue;
        };
        if let Some(mark) = mark
            && mark.synced >= *broken.get_or_insert(mark.number.saturating_sub(1))
        {
            return Ok(true);
        }
        from += bytes as usize;
    }
    Ok(false)
}

struct Batch {
    bytes: u64,
    mark: Option<Mark>,
}

/// The batch that begins here, or none if it is not whole and right within `bytes_max`.
fn read_batch(reader: &mut impl Read, bytes_max: u64, scratch: &mut Vec<u8>) -> io::Result<Option<Batch>> {
    match try_read_batch(reader, bytes_max, scratch) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        result => result,
    }
}

fn try_read_batch(
    reader: &mut impl Read,
    bytes_max: u64,
    scratch: &mut Vec<u8>,
) -> io::Result<Option<Batch>> {
    if read_array(reader)? != [TAG_START] {
        return Ok(None);
    }
    let start: [u8; START_BYTES] = read_array(reader)?;
    let items = u32_at(&start, 0);
    let mut bytes = 1 + START_BYTES as u64;
    let mut mark = None;
    let mut hash = Xxh3::new();
    for _ in 0..items {
        if read_array(reader)? != [TAG_ITEM] {
            return Ok(None);
        }
        let head: [u8; ITEM_BYTES] = read_array(reader)?;
        let key_bytes = usize::from(u16::from_le_bytes([head[10], head[11]]));
        let (value_bytes, stored_bytes) = (u32_at(&head, 12), u32_at(&head, 16));
        let body_bytes = key_bytes as u64 + u64::from(stored_bytes);
        bytes += 1 + ITEM_BYTES as u64 + body_bytes;
        // Only plain values are ever written here. A length beyond the file is no length.
        if head[..2] != [0, 0] || value_bytes != stored_bytes || bytes > bytes_max {
            return Ok(None);
        }
        scratch.resize(body_bytes as usize, 0);
        reader.read_exact(scratch)?;
        hash.update(&[TAG_ITEM]);
        hash.update(&head);
        hash.update(scratch);
        let (key, value) = scratch.split_at(key_bytes);
        if *key == Mark::KEY {
            mark = Mark::decode(value);
        }
    }
    if read_array(reader)? != [TAG_END] {
        return Ok(None);
    }
    let checksum: [u8; 8] = read_array(reader)?;
    let trailer: [u8; 4] = read_array(reader)?;
    bytes += 13;
    let is_right = u64::from_le_bytes(checksum) == hash.digest() && trailer == TRAILER && items > 0;
    Ok(is_right.then_some(Batch { bytes, mark }))
}

fn read_array<const N: usize>(reader: &mut impl Read) -> io::Result<[u8; N]> {
    let mut array = [0; N];
    reader.read_exact(&mut array)?;
    Ok(array)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
