//! Reading a data object again, whole and once, to prove what is in it.

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::manifest::ManifestFile;
use super::store::Store;
use super::{ArchiveError, Event, Progress};
use crate::market::{Kind, RowDigest};
use crate::tiering::cold::ColdError;
use crate::tiering::parquet::{Footer, Window};

/// Rows that are decoded and digested at once.
const BATCH_ROWS: usize = 1 << 14;

/// Bytes of a footer, at most: what is larger was not written here.
const FOOTER_BYTES_MAX: u64 = 64 << 20;

/// Bytes read at once where no row group tells what to read.
const PART_BYTES: u64 = 8 << 20;

/// Reads an object again. Its size, checksum and rows must be those of `file`; gives its footer.
pub(super) async fn read_back(
    store: &Store,
    kind: Kind,
    file: &ManifestFile,
    progress: &Progress,
) -> Result<Bytes, ArchiveError> {
    let key = &file.key;
    let damaged = |reason: String| store.damaged(key, reason);
    if file.footer_at >= file.bytes || file.bytes - file.footer_at > FOOTER_BYTES_MAX {
        return Err(damaged(format!("its footer can't begin at {} of {} bytes", file.footer_at, file.bytes)));
    }
    let tail = match store.get_range(key, file.footer_at..file.bytes).await {
        Err(error @ ColdError::Short { .. }) => {
            let found = store.list(key, None).await?.into_iter().find(|object| object.key == *key);
            return Err(match found {
                Some(found) => damaged(format!("it has {} bytes, and had {}", found.bytes, file.bytes)),
                None => error.into(),
            });
        }
        tail => tail?,
    };
    // First, so that nothing is decoded that no writer wrote.
    let checksum = format!("{:016x}", xxh3_64(&tail));
    if let Some(stored) = file.footer_checksum.as_ref().filter(|stored| **stored != checksum) {
        return Err(damaged(format!("the checksum of its footer is {checksum}, and was {stored}")));
    }
    let window = Window { start: file.footer_at, bytes: tail.clone(), file_bytes: file.bytes };
    let footer = Footer::parse(kind, &window).map_err(|error| damaged(error.to_string()))?;
    let groups = footer.row_groups().map_err(|error| damaged(error.to_string()))?;
    let mut reading =
        Reading { footer, file_bytes: file.bytes, hash: Xxh3::new(), digest: RowDigest::default() };
    let mut decoding: Option<tokio::task::JoinHandle<Result<Reading, String>>> = None;
    for (group, range) in groups.iter().enumerate() {
        let bytes = store.get_range(key, range.clone()).await?;
        store.metrics.bytes_read_back.inc_by(bytes.len() as u64);
        if let Some(before) = decoding.take() {
            reading = joined(before.await).map_err(damaged)?;
            progress(Event::ReadBack { rows: reading.footer.group_rows(group - 1) });
        }
        let (taken, start) = (reading.clone(), range.start);
        decoding = Some(tokio::task::spawn_blocking(move || taken.decode(group, start, bytes)));
    }
    if let Some(last) = decoding.take() {
        reading = joined(last.await).map_err(damaged)?;
        progress(Event::ReadBack { rows: reading.footer.group_rows(groups.len() - 1) });
    }
    if groups.is_empty() {
        let mut at = 0;
        while at < file.footer_at {
            let end = file.footer_at.min(at + PART_BYTES);
            reading.hash.update(&store.get_range(key, at..end).await?);
            at = end;
        }
    }
    reading.hash.update(&tail);
    let checksum = format!("{:016x}", reading.hash.digest());
    if checksum != file.checksum {
        return Err(damaged(format!("its checksum is {checksum}, and was {}", file.checksum)));
    }
    if reading.digest != file.digest {
        return Err(damaged(format!("it holds {}, and held {}", reading.digest, file.digest)));
    }
    Ok(tail)
}

fn joined(decoded: Result<Result<Reading, String>, tokio::task::JoinError>) -> Result<Reading, String> {
    // A panic comes from bytes that no writer wrote.
    decoded.unwrap_or_else(|error| Err(format!("it can't be decoded: {error}")))
}

#[derive(Clone)]
struct Reading {
    footer: Footer,
    file_bytes: u64,
    hash: Xxh3,
    digest: RowDigest,
}

impl Reading {
    fn decode(mut self, group: usize, start: u64, bytes: Bytes) -> Result<Self, String> {
        self.hash.update(&bytes);
        let window = Window { start, bytes, file_bytes: self.file_bytes };
        let rows = self.footer.rows(group, window, BATCH_ROWS).map_err(|error| error.to_string())?;
        for batch in rows {
            self.digest.add(batch.map_err(|error| error.to_string())?.digest());
        }
        Ok(self)
    }
}
