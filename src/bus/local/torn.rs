//! What a writer cut off a journal: `DATA/log/torn-N`, the bytes as they were, for whoever wants to know
//! what they held.
//!
//! A torn tail is an ordinary trace of a power cut. But a flipped bit in the last group of records that
//! were synced may look the same (`synced.rs` tells most of them apart), so that nothing is thrown away. Where
//! whole batches stand behind what was torn they may have been durable: answers say so, until somebody moves
//! the file away ([`untold`]). The oldest go when there are [`FILES_MAX`] or more than [`BYTES_MAX`] bytes,
//! first those without whole batches.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::journal::{self, Damage};
use crate::bus::BusError;
use crate::disk::sync_dir;

const PREFIX: &str = "torn-";
/// Files that are kept, at most.
const FILES_MAX: usize = 8;
/// Bytes that are kept, at most, or those of the newest file where it has more.
const BYTES_MAX: u64 = 256 << 20;

/// Cuts the journal of `damage`, which lies in `dir`, where the damage begins, and keeps what it cuts.
pub(super) fn cut(dir: &Path, damage: &Damage) -> Result<(), BusError> {
    let Damage { journal, at, bytes, batches, .. } = damage;
    let kept = keep(dir, damage).map_err(|error| {
        let reason = format!("{damage}; cannot keep that in a file before it is cut: {error}");
        let path = dir.display().to_string();
        match error.kind() {
            io::ErrorKind::StorageFull => BusError::FilledUp { path, reason },
            _ => BusError::Failed { path, reason },
        }
    })?;
    let cut = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(journal)?;
        file.set_len(*at)?;
        file.sync_all()
    };
    cut().map_err(|error| BusError::Failed {
        path: dir.display().to_string(),
        reason: format!("cannot cut {}: {error}", journal.display()),
    })?;
    tracing::warn!(
        journal = %journal.display(),
        at,
        bytes,
        whole_batches = batches,
        kept = %kept.display(),
        "cut a torn tail of the log; producers resend what was not acknowledged"
    );
    Ok(())
}

/// Writes what is to be cut to a file of its own, durably.
fn keep(dir: &Path, damage: &Damage) -> io::Result<PathBuf> {
    let mut kept = kept(dir)?;
    let mut bytes: u64 = damage.bytes + kept.iter().map(|(_, _, bytes)| bytes).sum::<u64>();
    let number = kept.last().map_or(1, |(number, ..)| number + 1);
    while !kept.is_empty() && (kept.len() >= FILES_MAX || bytes > BYTES_MAX) {
        let is_plain = |path: &Path| whole_batches(path).is_ok_and(|batches| batches == 0);
        let oldest = kept.iter().position(|(_, path, _)| is_plain(path)).unwrap_or(0);
        let (_, path, of_file) = kept.remove(oldest);
        fs::remove_file(path)?;
        bytes -= of_file;
    }
    let path = dir.join(format!("{PREFIX}{number}"));
    let mut journal = File::open(&damage.journal)?;
    journal.seek(SeekFrom::Start(damage.at))?;
    let mut file = File::create_new(&path)?;
    io::copy(&mut journal.take(damage.bytes), &mut file)?;
    file.sync_all()?;
    sync_dir(dir)?;
    Ok(path)
}

fn whole_batches(path: &Path) -> io::Result<u64> {
    journal::whole_batches(&fs::read(path)?)
}

/// What was cut off the journals of `dir` and may have been durable, in words; `None` where nothing is.
pub(super) fn untold(dir: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for (_, path, bytes) in kept(dir).unwrap_or_default() {
        match whole_batches(&path) {
            Ok(0) => {}
            Ok(1) => parts.push(format!("{} ({bytes} bytes, 1 whole batch)", path.display())),
            Ok(batches) => parts.push(format!("{} ({bytes} bytes, {batches} whole batches)", path.display())),
            Err(error) => parts.push(format!("{} (it can't be read: {error})", path.display())),
        }
    }
    (!parts.is_empty()).then(|| {
        format!(
            "what was cut off the log's journal may hold records that were durable: {}; if the power failed, these \
             were most likely never acknowledged: move the files away, and answers are whole again; if not, \
             the disk has lost records: restore the directory of the log from a copy",
            parts.join(", ")
        )
    })
}

/// What is kept: number, file and bytes, oldest first.
fn kept(dir: &Path) -> io::Result<Vec<(u64, PathBuf, u64)>> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
        if let Some(number) = number {
            kept.push((number, entry.path(), entry.metadata()?.len()));
        }
    }
    kept.sort_unstable();
    Ok(kept)
}
