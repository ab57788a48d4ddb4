//! Checks the journals before fjall opens them, and puts right what fjall would stumble over.
//!
//! fjall cuts a journal that ends within a batch. But a disk may lose power with later pages
//! written and earlier ones not; then a batch is whole and wrong, and fjall refuses to open; and
//! a damaged tag further up makes it drop all that follows without a word. So the journals are
//! checked here, batch by batch. A damaged batch that was never synced is cut together with what
//! follows, for whoever writes, and kept beside the journal (`torn.rs`). Whether it was synced is known
//! from what comes after it: every batch carries a [`Mark`] of what was synced when it was written; and from
//! the file that says up to where the log was synced (`synced.rs`). Where synced records are damaged nothing
//! is touched, and the error names the file and the byte. Whoever reads cuts nothing: it reads what lies
//! before the damage, and says so (`shadow.rs`).
//!
//! A batch in fjall's journal (format 3), little-endian:
//!
//! ```text
//! u8 1, u32 items, u64 seqno
//! items, each: u8 2, u8 type, u8 compression, u64 keyspace, u16 key bytes, u32 value bytes,
//!              u32 bytes of the value as stored, key, value
//! u8 3, u64 XXH3 of the items, "FJL" 3
//! ```

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::synced::{SYNCED_FILE, Synced};
use super::torn;
use crate::bus::BusError;
use crate::disk::create_dir;

pub(super) const LOCK_FILE: &str = "lock";
pub(super) const VERSION_FILE: &str = "version";
const VERSION_BYTES: u64 = 4;
pub(super) const KEYSPACES_FOLDER: &str = "keyspaces";
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

/// Damage in a journal: a batch that is not whole, and what lies behind it.
#[derive(Clone, Debug)]
pub(super) struct Damage {
    /// The journal.
    pub(super) journal: PathBuf,
    /// Where the damaged batch begins.
    pub(super) at: u64,
    /// From there to the last byte that is not 0.
    pub(super) bytes: u64,
    /// Whole batches behind the damaged one.
    pub(super) batches: u64,
    /// Whether the damaged batch was synced: a later batch, a later journal or [`Synced`] tells.
    pub(super) was_durable: bool,
    /// Whether no other journal follows.
    pub(super) is_in_active: bool,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { journal, at, bytes, batches, was_durable, .. } = self;
        let durable = if *was_durable { ", in records that were durable" } else { "" };
        write!(f, "{} is damaged at byte {at}{durable}: {bytes} bytes from there on, ", journal.display())?;
        match batches {
            0 => write!(f, "without a whole batch behind the damage"),
            1 => write!(f, "with 1 whole batch behind the damage"),
            _ => write!(f, "with {batches} whole batches behind the damage"),
        }
    }
}

/// What the journals of a log hold.
pub(super) struct Checked {
    /// Oldest first, each with the bytes of its whole batches. Nothing of a journal behind damage counts.
    pub(super) journals: Vec<(PathBuf, u64)>,
    /// The number of the last whole batch.
    pub(super) last: u64,
    /// The first damage, if there is any.
    pub(super) damage: Option<Damage>,
    /// Up to where the log is known to have been synced.
    pub(super) synced: Synced,
}

fn failed(path: &Path, reason: String) -> BusError {
    BusError::Failed { path: path.display().to_string(), reason }
}

/// Creates `path` if needed, durably, refuses it if another process has it open, cuts a torn tail, and
/// removes what is left of a creation that was cut short, which fjall would stumble over.
pub(super) fn prepare(path: &Path) -> Result<Checked, BusError> {
    let cannot = |error: io::Error| failed(path, format!("cannot prepare the directory: {error}"));
    create_dir(path).map_err(cannot)?;
    let mut options = OpenOptions::new();
    let lock = options.create(true).truncate(false).read(true).write(true);
    let lock = lock.open(path.join(LOCK_FILE)).map_err(cannot)?;
    locked(path, crate::disk::lock_soon(&lock, File::try_lock))?;
    if !is_created(path)? {
        for file in [VERSION_FILE, FIRST_JOURNAL] {
            match std::fs::remove_file(path.join(file)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
                _ => {}
            }
        }
    }
    let journals = journals(path).map_err(cannot)?;
    journals.iter().try_for_each(|journal| crate::disk::forget_cached(journal)).map_err(cannot)?;
    let checked = check(path)?;
    if let Some(damage) = &checked.damage {
        if damage.was_durable {
            return Err(failed(path, format!("{damage}; {}", way_out(damage)?)));
        }
        torn::cut(path, damage)?;
    }
    Ok(checked)
}

/// The lock by which whoever reads `path` keeps writers out, as long as it is held. `None` where no
/// writer ever was.
pub(super) fn lock_to_read(path: &Path) -> Result<Option<File>, BusError> {
    let lock = match File::open(path.join(LOCK_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        lock => lock.map_err(|error| failed(path, format!("cannot open its lock: {error}")))?,
    };
    locked(path, crate::disk::lock_soon(&lock, File::try_lock_shared))?;
    Ok(Some(lock))
}

fn locked(path: &Path, locked: Result<(), TryLockError>) -> Result<(), BusError> {
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(BusError::Locked { path: path.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(failed(path, format!("cannot lock it: {error}"))),
    }
}

/// Whether the creation of the log in `path` came to its end: it has no record before.
pub(super) fn is_created(path: &Path) -> Result<bool, BusError> {
    let version = path.join(VERSION_FILE);
    if std::fs::metadata(&version).is_ok_and(|metadata| metadata.len() >= VERSION_BYTES) {
        return Ok(true);
    }
    // The first keyspace is made after the version file: with none there was no record yet.
    let keyspaces = std::fs::read_dir(path.join(KEYSPACES_FOLDER));
    if keyspaces.is_ok_and(|mut keyspaces| keyspaces.next().is_some()) {
        return Err(failed(
            path,
            format!("{} is missing or cut short: restore it from a copy of the directory", version.display()),
        ));
    }
    Ok(false)
}

/// What to do about damage in records that were durable.
fn way_out(damage: &Damage) -> Result<String, BusError> {
    let Damage { journal, at, .. } = damage;
    let dir = journal.parent().unwrap_or(Path::new("."));
    let journals = journals(dir).map_err(|error| failed(dir, format!("cannot list it: {error}")))?;
    let later = journals.iter().skip_while(|other| *other != journal).skip(1);
    let later: String = later.map(|later| format!(" {}", later.display())).collect();
    Ok(format!(
        "restore the directory from a copy, or give up what follows by `truncate -s {at} {} && rm -f{later} {}`",
        journal.display(),
        dir.join(SYNCED_FILE).display()
    ))
}

/// Checks the journals of `path`, and changes nothing.
pub(super) fn check(path: &Path) -> Result<Checked, BusError> {
    let cannot = |error: io::Error| failed(path, format!("cannot list its journals: {error}"));
    // Before the journals: one that is open grows.
    let synced = Synced::read(path);
    let found = journals(path).map_err(cannot)?;
    let mut checked = Checked { journals: Vec::new(), last: 0, damage: None, synced };
    for (index, journal) in found.iter().enumerate() {
        let is_active = index + 1 == found.len();
        let (whole_bytes, damage) =
            check_journal(journal, &mut checked.last, checked.synced.batch, is_active)
                .map_err(|error| failed(path, format!("cannot check {}: {error}", journal.display())))?;
        checked.journals.push((journal.clone(), whole_bytes));
        if damage.is_some() {
            checked.damage = damage;
            break;
        }
    }
    Ok(checked)
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

/// The journal that is written to; `None` where there is none.
pub(super) fn newest(path: &Path) -> Option<PathBuf> {
    journals(path).ok()?.pop()
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

/// Checks `journal`: the bytes of its whole batches, and what is wrong behind them. `last` is the number
/// of the last batch before, 0 if there was none, and becomes that of its own last one; all batches up to
/// `synced` are known to have been synced.
fn check_journal(
    journal: &Path,
    last: &mut u64,
    synced: u64,
    is_active: bool,
) -> io::Result<(u64, Option<Damage>)> {
    let file = File::open(journal)?;
    let file_bytes = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, &file);
    let mut at = 0;
    let mut scratch = Vec::new();
    while let Some(batch) = read_batch(&mut reader, file_bytes - at, &mut scratch)? {
        at += batch.bytes;
        *last = batch.mark.map_or(*last, |mark| mark.number);
    }

    // fjall makes its files long beforehand.
    reader.seek(SeekFrom::Start(at))?;
    if is_zero(&mut reader)? {
        return Ok((at, None));
    }
    let mut rest = Vec::new();
    (&file).seek(SeekFrom::Start(at))?;
    (&file).read_to_end(&mut rest)?;
    let bytes = rest.iter().rposition(|byte| *byte != 0).map_or(0, |end| end as u64 + 1);
    let (batches, is_vouched_for) = look_behind(&rest, *last, synced)?;
    // A journal that is not the active one was synced as a whole when it was sealed.
    let was_durable = !is_active || is_vouched_for;
    Ok((
        at,
        Some(Damage {
            journal: journal.to_owned(),
            at,
            bytes,
            batches,
            was_durable,
            is_in_active: is_active,
        }),
    ))
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

/// How many whole batches there are in `bytes`, wherever they begin.
pub(super) fn whole_batches(bytes: &[u8]) -> io::Result<u64> {
    Ok(look_behind(bytes, 0, 0)?.0)
}

/// Looks at what lies behind the batch `last`, which begins with a damaged one: how many whole batches
/// there are, and whether the damaged one was synced, as one of them tells, or `synced`. The next one need
/// not know yet: batches share a sync, so all of them are asked.
fn look_behind(rest: &[u8], last: u64, synced: u64) -> io::Result<(u64, bool)> {
    let mut scratch = Vec::new();
    // The broken one comes after `last`. With no batch before it, it can only be told that it comes
    // before the first whole one.
    let mut broken = (last > 0).then_some(last + 1);
    let (mut batches, mut was_synced) = (0, false);
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
        batches += 1;
        if let Some(mark) = mark {
            was_synced |= mark.synced >= *broken.get_or_insert(mark.number.saturating_sub(1));
        }
        from += bytes as usize;
    }
    Ok((batches, was_synced || broken.is_some_and(|broken| synced >= broken)))
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
