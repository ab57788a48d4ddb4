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
use crate::market::{Kind, RowDigest, Symbol, TickBatch};
use crate::tiering::cold::Upload;
use crate::tiering::parquet::{Finished, Layout, TickWriter};
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
    write_below(store, "", unit, attempt, options, rows, progress).await
}

/// As [`write`], with `prefix` before the keys.
pub(super) async fn write_below(
    store: &Store,
    prefix: &str,
    unit: Unit,
    attempt: &str,
    options: &ArchiveOptions,
    rows: BoxStream<'static, Result<TickBatch, WarmError>>,
    progress: &Progress,
) -> Result<Written, ArchiveError> {
    let mut rows = rows.fuse();
    // A bar is twice as wide as a tick.
    let row_group_rows = options.row_group_rows / if unit.kind == Kind::Bar { 2 } else { 1 };
    let mut objects = Objects { store, prefix, unit, attempt, upload: None, files: Vec::new() };
    let mut encoder = Encoder::new(options.object_bytes);
    let mut encoding: Option<tokio::task::JoinHandle<Result<Encoded, ArchiveError>>> = None;
    let (mut rest, mut ended) = (Vec::new(), false);
    let written = async {
        while !ended {
            let (group, left) = gather(row_group_rows, &mut rows, rest).await?;
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
            let rows = group.as_deref().map_or(0, rows_of) as u64;
            encoding = Some(tokio::task::spawn_blocking(move || {
                let pieces = match group {
                    Some(group) => taken.write(group),
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
    row_group_rows: usize,
    rows: &mut (impl Stream<Item = Result<TickBatch, WarmError>> + Unpin),
    rest: Vec<TickBatch>,
) -> Result<(Option<Vec<TickBatch>>, Vec<TickBatch>), ArchiveError> {
    let (mut count, mut group) = (rows_of(&rest), rest);
    while count < row_group_rows {
        let Some(batch) = rows.next().await.transpose()? else { break };
        count += batch.len();
        group.push(batch);
    }
    if count == 0 {
        return Ok((None, Vec::new()));
    }
    let rest = split_off(&mut group, row_group_rows);
    Ok((Some(group), rest))
}

fn rows_of(batches: &[TickBatch]) -> usize {
    batches.iter().map(TickBatch::len).sum()
}

/// Leaves the first `rows` in `batches`, at most, and gives out the others.
fn split_off(batches: &mut Vec<TickBatch>, rows: usize) -> Vec<TickBatch> {
    let mut before = 0;
    let last = batches.iter().position(|batch| {
        before += batch.len();
        before > rows
    });
    let Some(last) = last else { return Vec::new() };
    let mut rest = batches.split_off(last);
    let cut = rest[0].len() - (before - rows);
    if cut > 0 {
        batches.push(rest[0].slice(0..cut));
        rest[0] = rest[0].slice(cut..rest[0].len());
    }
    rest
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
    /// Of the footer alone.
    footer_hash: Xxh3,
    digest: RowDigest,
    symbol_min: Option<Symbol>,
    symbol_max: Option<Symbol>,
}

/// The objects being written.
struct Objects<'a> {
    store: &'a Store,
    prefix: &'a str,
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
        format!("{}{}{}.parquet", self.prefix, data_prefix(self.unit), self.name())
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
                        footer_checksum: Some(format!("{:016x}", facts.footer_hash.digest())),
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
    layout: Option<Layout>,
    open: Option<Open>,
}

/// The object at hand.
struct Open {
    writer: TickWriter<Vec<u8>>,
    facts: Facts,
}

impl Encoder {
    fn new(object_bytes: u64) -> Self {
        Self { object_bytes, layout: None, open: None }
    }

    /// Encodes the next row group: as one, or as two where an object ends within.
    fn write(&mut self, mut rows: Vec<TickBatch>) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        let written = self.open.as_ref().map_or(0, |open| open.facts.bytes);
        if let Some(open) = self.open.as_ref().filter(|_| written >= self.object_bytes) {
            let same = rows_of_symbol(&rows, open.facts.symbol_max)?;
            let is_full = written >= self.object_bytes + self.object_bytes / 4 * 3;
            let ends = same < rows_of(&rows) || is_full;
            let rest = if ends {
                // Without an end of the symbol in sight the object ends at once.
                let first = if same < rows_of(&rows) { same } else { 0 };
                split_off(&mut rows, first)
            } else {
                Vec::new()
            };
            self.append(&rows, &mut pieces)?;
            if ends {
                pieces.extend(self.end()?);
            }
            rows = rest;
        }
        self.append(&rows, &mut pieces)?;
        Ok(pieces)
    }

    fn append(&mut self, rows: &[TickBatch], pieces: &mut Vec<Piece>) -> Result<(), String> {
        let Some((first, last)) = rows.first().zip(rows.last()) else { return Ok(()) };
        let layout = if let Some(layout) = &self.layout {
            layout.clone()
        } else {
            let mut sample = rows.to_vec();
            split_off(&mut sample, SAMPLE_ROWS);
            let whole: Vec<_> = sample.iter().enumerate().map(|(at, batch)| (at, 0..batch.len())).collect();
            let sample = TickBatch::concat(first.kind(), &sample, &whole);
            let layout = Layout::fitted(&sample, PAGE_ROWS, SAMPLE_ROWS, ZSTD_LEVEL);
            self.layout.insert(layout.map_err(|error| error.to_string())?).clone()
        };
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open {
                writer: TickWriter::new(layout, Vec::new()).map_err(|error| error.to_string())?,
                facts: Facts::default(),
            },
        };
        let facts = &mut open.facts;
        let keys = |batch: &TickBatch| batch.keys().map_err(|error| error.to_string());
        if facts.digest.rows == 0 {
            facts.symbol_min = keys(first)?.symbol(0);
        }
        facts.symbol_max = keys(last)?.symbol(last.len() - 1);
        for batch in rows {
            let mut at = 0;
            while at < batch.len() {
                let end = batch.len().min(at + DIGEST_ROWS);
                facts.digest.add(batch.slice(at..end).digest());
                at = end;
            }
        }
        open.writer.write_group(rows).map_err(|error| error.to_string())?;
        let bytes = std::mem::take(open.writer.sink_mut());
        open.facts.take(bytes, pieces);
        self.open = Some(open);
        Ok(())
    }

    /// Ends the object at hand, if there is one.
    fn end(&mut self) -> Result<Vec<Piece>, String> {
        let mut pieces = Vec::new();
        let Some(Open { writer, mut facts }) = self.open.take() else { return Ok(pieces) };
        let Finished { sink, footer_at, .. } = writer.finish().map_err(|error| error.to_string())?;
        // What came out of the rows before is in pieces already.
        facts.footer_hash.update(&sink[(footer_at - facts.bytes) as usize..]);
        facts.footer_at = footer_at;
        facts.take(sink, &mut pieces);
        pieces.push(Piece::End(Box::new(facts)));
        Ok(pieces)
    }
}

/// How many of the first rows are of `symbol`.
fn rows_of_symbol(batches: &[TickBatch], symbol: Option<Symbol>) -> Result<usize, String> {
    let mut before = 0;
    for batch in batches {
        let keys = batch.keys().map_err(|error| error.to_string())?;
        if let Some(other) = (0..keys.len()).find(|&row| keys.symbol(row) != symbol) {
            return Ok(before + other);
        }
        before += batch.len();
    }
    Ok(before)
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
