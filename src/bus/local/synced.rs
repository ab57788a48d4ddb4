//! Up to where the log is known to have been durable: `DATA/log/synced`, written in place after each sync.
//!
//! By its journals alone a log can't tell damage in what it synced last from a write that a power cut tore,
//! nor that the end of a journal is gone. This file tells. It is never synced itself: it is behind the
//! journal after a power cut, and never before it. A damaged one, or one of another generation of the log,
//! counts for nothing. Little-endian:
//!
//! ```text
//! "stk sync", u64 log id, u64 generation, u64 number of the last batch,
//! u64 by partition the offset after the last record, u64 XXH3 of all before
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::{epoch, journal};
use crate::wire::token::LogId;

pub(super) const SYNCED_FILE: &str = "synced";
const TAG: [u8; 8] = *b"stk sync";
/// Of one for more partitions than a log has.
const BYTES_MAX: u64 = 1 << 20;

/// What is known to have been durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Synced {
    /// The number of the last batch that was synced.
    pub(super) batch: u64,
    /// By partition, the offset after the last record.
    pub(super) nexts: Vec<u64>,
}

impl Synced {
    /// What is known of the log in `path`; nothing where its file is missing, damaged, or of a generation
    /// before the present one.
    pub(super) fn read(path: &Path) -> Self {
        let file = path.join(SYNCED_FILE);
        let is_good = fs::metadata(&file).is_ok_and(|metadata| metadata.len() <= BYTES_MAX);
        let bytes = if is_good { fs::read(file).unwrap_or_default() } else { Vec::new() };
        let present = epoch::stored(path).ok().flatten().map(|epoch| epoch.log());
        match (Self::decode(&bytes), present) {
            (Some((id, synced)), Some(present)) if id == present => synced,
            _ => Self::default(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<(LogId, Self)> {
        let (hashed, hash) = bytes.split_last_chunk()?;
        let (&tag, words) = hashed.split_first_chunk()?;
        if tag != TAG || xxh3_64(hashed) != u64::from_le_bytes(*hash) {
            return None;
        }
        let (words, []) = words.as_chunks() else { return None };
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let [id, generation, batch, nexts @ ..] = &words[..] else { return None };
        let id = LogId { id: *id, generation: *generation };
        Some((id, Self { batch: *batch, nexts: nexts.to_vec() }))
    }

    fn encode(&self, id: LogId) -> Vec<u8> {
        let words = [id.id, id.generation, self.batch].into_iter().chain(self.nexts.iter().copied());
        let mut bytes: Vec<u8> = TAG.into_iter().chain(words.flat_map(u64::to_le_bytes)).collect();
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        bytes
    }

    /// What the log in `path`, whose records end before `nexts`, lacks of it, in words; `None` where it lacks
    /// nothing.
    pub(super) fn lacks(&self, path: &Path, nexts: &[u64]) -> Option<String> {
        let parts: Vec<_> = (0..)
            .zip(nexts.iter().zip(&self.nexts))
            .filter(|(_, (next, synced))| next < synced)
            .map(|(partition, (next, synced)): (u16, _)| {
                format!("{next} to {synced} of partition {partition}")
            })
            .collect();
        (!parts.is_empty()).then(|| {
            let journal = journal::newest(path);
            format!(
                "{} is damaged: its end is gone, with records that were durable: offsets {}; restore the directory \
                 of the log from a copy, or give these records up by `rm {}`",
                journal.map_or_else(|| format!("the journal of {}", path.display()), |path| path.display().to_string()),
                parts.join(", "),
                path.join(SYNCED_FILE).display(),
            )
        })
    }
}

/// Writes the file, after each sync.
pub(super) struct SyncedFile {
    file: File,
    id: LogId,
}

impl SyncedFile {
    /// The file of the log `id` in `path`, empty.
    pub(super) fn create(path: &Path, id: LogId) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path.join(SYNCED_FILE))?;
        Ok(Self { file, id })
    }

    pub(super) fn write(&self, synced: &Synced) -> io::Result<()> {
        self.file.write_all_at(&synced.encode(self.id), 0)
    }
}
