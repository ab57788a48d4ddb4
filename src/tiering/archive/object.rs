//! Data objects: rows in order become Parquet in the store, in memory that does not grow with them.
//!
//! A row group is encoded while the rows of the next are gathered. An object that is large enough
//! ends where a symbol does, so that one symbol's day is seldom in two.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use xxhash_rust::xxh3::Xxh3;

use super::manifest::{ManifestFile, data_prefix, manifest_prefix};
use super::store::Store;
use super::{ArchiveError, ArchiveOptions, Event, Progress};
use crate::fail;
use crate::market::{RowDigest, Symbol, TickBatch};
use crate::tiering::cold::Upload;
use crate::tiering::parquet::{Layout, TickWriter};
use crate::tiering::warm::{Unit, WarmError};

/// Rows of a page: a reader of one symbol takes in whole pages of each column.
const PAGE_ROWS: usize = 1 << 14;

/// How hard pages are compressed.
const ZSTD_LEVEL: i32 = 3;

/// Rows by which the encodings of a unit are chosen.
const SAMPLE_ROWS: usize = 1 << 16;

/// Rows that are digested at once.
const DIGEST_ROWS: usize = 1 << 14;

/// What was written of a unit.
pub(super) struct Written {
    pub(super) files: Vec<ManifestFile>,
    pub(super) digest: RowDigest,
}

/// Writes `rows` of `unit` into objects named by `attempt`.
pub(super) async fn write(
    store: &Store,
    unit: Unit,
    attempt: &str,
    options: &ArchiveOptions,
    rows: BoxStream<'static, Result<TickBatch, WarmError>>,
    progress: &Progress,
) -> Result<Written, ArchiveError> {
    let mut rows = rows.fuse();
    let mut objects = Objects { store, unit, attempt, upload: None, files: Vec::new() };
    let mut encoder = Encoder::new(options);
    let mut encoding: Option<tokio::task::JoinHandle<Result<Encoded, ArchiveError>>> = None;
    let (mut rest, mut ended) = (None, false);
    let written = async {
        while !ended {
            let (group, left) = gather(unit, options.row_group_rows, &mut rows, rest.take()).await?;
            (rest, ended) = (left, group.is_none());
            let pieces = match encoding.take() {
                None => Vec::new(),
                Some(before) => {
                    let (back, pieces) = joined(unit, before.await)?;
                    encoder = back;
                    pieces
                }
            };
            let mut taken = std::mem::take(&mut encoder);
            let damaged = damaged(store, unit, attempt);
            let rows = group.as_ref().map_or(0, TickBatch::len) as u64;
            encoding = Some(tokio::task::spawn_blocking(move || {
                let pieces = match group {
                    Some(group) => taken.write(&group),
                    None => taken.end(),
                };
                Ok((taken, pieces.map_err(damaged)?))
            }));
            objects.put(pieces).await?;
            progress(Event::Written { rows });
        }
        if let Some(last) = encoding.take() {
            let (_, pieces) = joined(unit, last.await)?;
            objects.put(pieces).await?;
        }
        Ok(())
    };
    let written: Result<(), ArchiveError> = written.await;
    if let Err(error) = written {
        if let Some(upload) = objects.upload.take() {
            // What stays is garbage, and collected as such.
            let _ = upload.abort().await;
        }
        return Err(error);
    }
    let mut digest = RowDigest::default();
    objects.files.iter().for_each(|file| digest.add(file.digest));
    Ok(Written { files: objects.files, digest })
}

fn damaged(store: &Store, unit: Unit, attempt: &str) -> impl Fn(String) -> ArchiveError + Send + 'static {
    let (store, key) = (store.clone(), format!("{}…{attempt}", data_prefix(unit)));
    move |reason| store.damaged(&key, reason)
}

type Encoded = (Encoder, Vec<Piece>);

fn joined(
    unit: Unit,
    encoded: Result<Result<Encoded, ArchiveError>, tokio::task::JoinError>,
) -> Result<Encoded, ArchiveError> {
    encoded.unwrap_or_else(|error| {
        Err(ArchiveError::Warm {
            reason: format!("{unit}: rows can't be encoded: {error}"),
            is_passing: false,
        })
    })
}

/// The next row group's rows, and what was read beyond them. `None` after the last.
async fn gather(
    unit: Unit,
    row_group_rows: usize,
    rows: &mut (impl Stream<Item = Result<TickBatch, WarmError>> + Unpin),
    rest: Option<TickBatch>,
) -> Result<(Option<TickBatch>, Option<TickBatch>), ArchiveError> {
    let mut count = rest.as_ref().map_or(0, TickBatch::len);
    let mut batches: Vec<TickBatch> = rest.into_iter().collect();
    while count < row_group_rows {
        let Some(batch) = rows.next().await.transpose()? else { break };
        count += batch.len();
        batches.push(batch);
    }
    if count == 0 {
        return Ok((None, None));
    }
    let over = count.saturating_sub(row_group_rows);
    let joined = tokio::task::spawn_blocking(move || {
        let last = batches.len() - 1;
        let end = |at: usize, batch: &TickBatch| batch.len() - if at == last { over } else { 0 };
        let parts: Vec<_> = batches.iter().enumerate().map(|(at, batch)| (at, 0..end(at, batch))).collect();
        let group = TickBatch::concat(unit.kind, &batches, &parts);
        let left = batches.last().filter(|_| over > 0).map(|last| last.slice(last.len() - over..last.len()));
        (Some(group), left)
    });
    joined.await.map_err(|error| ArchiveError::Warm {
        reason: format!("{unit}: rows can't be joined: {error}"),
        is_passing: false,
    })
}

/// What comes out of the encoder.
enum Piece {
    /// Bytes of the object at hand, which begins with its first.
    Bytes(Bytes),
    /// The object ends.
    End(Box<Facts>),
}

/// What is known of an object so far.
#[derive(Default)]
struct Facts {
    bytes: u64,
    /// Known at its end.
    footer_at: u64,
    hash: Xxh3,
    digest: RowDigest,
    symbol_min: Option<Symbol>,
    symbol_max: Option<Symbol>,
}

/// The objects being written.
struct Objects<'a> {
    store: &'a Store,
    unit: Unit,
    attempt: &'a str,
    upload: Option<Box<dyn Upload>>,
    files: Vec<ManifestFile>,
}

impl Objects<'_> {
    fn name(&self) -> String {
        format!("part-{:04}-{}", self.files.len(), self.attempt)
    }

    fn key(&self) -> String {
        format!("{}{}.parquet", data_prefix(self.unit), self.name())
    }

    async fn put(&mut self, pieces: Vec<Piece>) -> Result<(), ArchiveError> {
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => {
                    let mut upload = match self.upload.take() {
                        Some(upload) => upload,
                        None => self.store.upload(&self.key()).await?,
                    };
                    let written = self.store.write(&mut upload, bytes).await;
                    self.upload = Some(upload);
                    written?;
                }
                Piece::End(facts) => {
                    if let Some(upload) = self.upload.take() {
                        upload.finish().await?;
                    }
                    fail::point("archive.object");
                    self.files.push(ManifestFile {
                        key: self.key(),
                        footer_key: format!("{}{}.footer", manifest_prefix(self.unit), self.name()),
                        bytes: facts.bytes,
                        footer_at: facts.footer_at,
                        checksum: format!("{:016x}", facts.hash.digest()),
                        digest: facts.digest,
                        symbol_min: facts.symbol_min.map(|symbol| symbol.to_string()),
                        symbol_max: facts.symbol_max.map(|symbol| symbol.to_string()),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Rows into bytes. Blocking.
#[derive(Default)]
struct Encoder {
    object_bytes: u64,
    row_group_rows: usize,
    layout: Option<Layout>,
    open: Option<Open>,
}

/// The object at hand.
struct Open {
    writer: TickWriter<Vec<u8>>,
    facts: Facts,
}

impl Encoder {
    fn new(options: &ArchiveOptions) -> Self {
        let (object_bytes, row_group_rows) = (options.object_bytes, options.row_group_rows);
        Self { object_bytes, row_group_rows, layout: None, open: None }
    }

    /// Encodes the next rows, a row group at most.
    fn write(&mut self, rows: &TickBatch) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        let keys = rows.keys().map_err(|error| error.to_string())?;
        let written = self.open.as_ref().map_or(0, |open| open.facts.bytes);
        let mut start = 0;
        if let Some(open) = self.open.as_ref().filter(|_| written >= self.object_bytes) {
            let same = (0..keys.len()).find(|&row| keys.symbol(row) != open.facts.symbol_max);
            let is_full = written >= self.object_bytes + self.object_bytes / 4 * 3;
            start = same.unwrap_or(if is_full { 0 } else { keys.len() });
            if start > 0 {
                self.append(&rows.slice(0..start), &mut pieces)?;
            }
            if same.is_some() || is_full {
                pieces.extend(self.end()?);
            }
        }
        if start < rows.len() {
            self.append(&rows.slice(start..rows.len()), &mut pieces)?;
        }
        Ok(pieces)
    }

    fn append(&mut self, rows: &TickBatch, pieces: &mut Vec<Piece>) -> Result<(), String> {
        let layout = match &self.layout {
            Some(layout) => layout.clone(),
            None => {
                let sample = rows.slice(0..rows.len().min(SAMPLE_ROWS));
                let layout = Layout::fitted(&sample, PAGE_ROWS, self.row_group_rows, ZSTD_LEVEL);
                self.layout.insert(layout.map_err(|error| error.to_string())?).clone()
            }
        };
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open {
                writer: TickWriter::new(layout, Vec::new()).map_err(|error| error.to_string())?,
                facts: Facts::default(),
            },
        };
        let keys = rows.keys().map_err(|error| error.to_string())?;
        let facts = &mut open.facts;
        if facts.digest.rows == 0 {
            facts.symbol_min = keys.symbol(0);
        }
        facts.symbol_max = keys.symbol(keys.len() - 1);
        let mut at = 0;
        while at < rows.len() {
            let end = rows.len().min(at + DIGEST_ROWS);
            facts.digest.add(rows.slice(at..end).digest());
            at = end;
        }
        open.writer.write_whole(rows).map_err(|error| error.to_string())?;
        let bytes = std::mem::take(open.writer.sink_mut());
        open.facts.take(bytes, pieces);
        self.open = Some(open);
        Ok(())
    }

    /// Ends the object at hand, if there is one.
    fn end(&mut self) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        let Some(Open { writer, mut facts }) = self.open.take() else { return Ok(pieces) };
        facts.footer_at = writer.bytes_written();
        facts.take(writer.finish().map_err(|error| error.to_string())?, &mut pieces);
        pieces.push(Piece::End(Box::new(facts)));
        Ok(pieces)
    }
}

impl Facts {
    fn take(&mut self, bytes: Vec<u8>, pieces: &mut Vec<Piece>) {
        if !bytes.is_empty() {
            self.hash.update(&bytes);
            self.bytes += bytes.len() as u64;
            pieces.push(Piece::Bytes(bytes.into()));
        }
    }
}
