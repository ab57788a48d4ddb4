//! The manifest: which segments there are and where each partition stands.
//!
//! A file of lines, each a checksum and a JSON [`Edit`]. What a commit or a compaction did is one
//! line, appended and synced: with it the step has happened, without it it has not. A line cut
//! short by a crash is the last one and is taken off at the next start. When the edits outgrow the
//! state they add up to, the state is written to a new file whose name is one higher, and the old
//! file goes.
//!
//! The state that a file begins with ends with [`Edit::End`], which counts its lines, and is in
//! place before the file has its name. A file that ends before that line was cut afterwards. A last
//! line that fails its checksum is a torn append only if bytes are missing: its end, or whole blocks
//! that read as zeros. Anything else is damage, and never taken off.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::{Temporary, damaged, io_error};
use super::segment::SegmentInfo;
use crate::bus::epoch::{Ended, Gone};
use crate::fail;
use crate::market::{Kind, TradingDay};
use crate::tiering::warm::named::LogOf;
use crate::tiering::warm::{Unit, WarmError};

/// The version that is written. Version 1 had no edits of the archive, version 2 no [`Edit::End`], version 3
/// neither [`Edit::Log`] nor seams, and version 4 did not say what is gone; their files can be read.
pub(super) const VERSION: u32 = 5;

/// The first version whose files have an [`Edit::End`].
const VERSION_WITH_END: u32 = 3;

/// Edits that a manifest may grow by before its state is written anew, at least.
const EDITS_MIN: usize = 1000;

const CHECKSUM_LEN: usize = 8;

/// The smallest block that a disk writes or leaves unwritten.
const DISK_BLOCK_BYTES: usize = 512;

/// Where a store keeps the checkpoints.
pub(super) const CHECKPOINT_DIR: &str = "checkpoint";

/// How to go on where a manifest is damaged.
pub(super) const MEND: &str = "; `stk audit --repair` rebuilds the store from the log and the archive, or bring a sound copy of the directory back";

/// Where a partition stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MarkEdit {
    pub(super) partition: u16,
    /// The offset after the last stored one.
    pub(super) next_offset: u64,
    /// The state that came with it, a file under `checkpoint/`; `None` where it was empty.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) checkpoint: Option<CheckpointFile>,
    /// The checksum of the log's record before `next_offset` (see [`crate::tiering::seam`]).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) seam: Option<u64>,
}

/// The edit that makes `log` of what the store named `before`; `None` where it is the same.
pub(super) fn edit_after(log: &LogOf, before: Option<&LogOf>) -> Option<Edit> {
    let known = before.filter(|before| before.id == log.id).map_or(&[][..], |before| &before.lineage);
    let keep = known.iter().zip(&log.lineage).take_while(|(known, ended)| known == ended).count();
    (before != Some(log)).then(|| Edit::Log {
        log: format!("{:016x}", log.id),
        keep: keep as u64,
        add: log.lineage[keep..].iter().cloned().map(GenerationEdit::from).collect(),
        gone: log.gone.ends(),
    })
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GenerationEdit {
    generation: u64,
    /// By partition, where it ended.
    ends: Vec<u64>,
}

impl From<Ended> for GenerationEdit {
    fn from(Ended { generation, ends }: Ended) -> Self {
        Self { generation, ends }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CheckpointFile {
    /// Unique among checkpoints and segments, for ever.
    pub(super) id: u64,
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) crc: u32,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Edit {
    /// The first line of a file.
    Begin { version: u32, next_id: u64 },
    /// Ends the state that a file begins with: the number of lines before this one.
    End { edits: u64 },
    /// The rows are of the log with this id (sixteen hexadecimal digits): the first `keep` of the generations
    /// that were named before, and these. Rows of the days `gone` are in no store, as far as is known.
    Log {
        log: String,
        keep: u64,
        add: Vec<GenerationEdit>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        gone: Option<Vec<TradingDay>>,
    },
    /// A block was stored.
    Commit { mark: MarkEdit, segments: Vec<SegmentInfo> },
    /// Segments were rewritten: `drop` by id, all of one partition, kind and day.
    Replace { drop: Vec<u64>, add: Vec<SegmentInfo> },
    /// Rows of the unit below these offsets go into the archive as they are now: they are merged with
    /// none from there on.
    Seal {
        #[serde(flatten)]
        unit: UnitName,
        next_offsets: Vec<u64>,
    },
    /// Rows of the unit below these offsets were dropped; `add` holds the others of segments in
    /// `drop`.
    Drop {
        #[serde(flatten)]
        unit: UnitName,
        next_offsets: Vec<u64>,
        drop: Vec<u64>,
        add: Vec<SegmentInfo>,
    },
    /// Rows of the unit below these offsets were restored from the archive.
    Restore {
        #[serde(flatten)]
        unit: UnitName,
        next_offsets: Vec<u64>,
        drop: Vec<u64>,
        add: Vec<SegmentInfo>,
    },
}

/// A unit as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct UnitName {
    #[serde(with = "super::segment::day_text")]
    day: TradingDay,
    #[serde(with = "super::segment::kind_name")]
    kind: Kind,
}

impl From<Unit> for UnitName {
    fn from(unit: Unit) -> Self {
        Self { day: unit.day, kind: unit.kind }
    }
}

impl From<UnitName> for Unit {
    fn from(unit: UnitName) -> Self {
        Self { day: unit.day, kind: unit.kind }
    }
}

/// What the archive has done with a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Archived {
    /// Offsets by partition at which the unit was sealed, and of which rows are still here.
    pub(super) seals: Vec<Vec<u64>>,
    /// Offsets by partition below which rows were dropped; none once they were restored.
    pub(super) dropped: Vec<u64>,
    /// Offsets by partition below which rows were restored.
    pub(super) restored: Option<Vec<u64>>,
}

impl Archived {
    pub(super) fn seal(&mut self, next_offsets: Vec<u64>) {
        if !self.seals.contains(&next_offsets) {
            self.seals.push(next_offsets);
        }
    }

    pub(super) fn drop_below(&mut self, next_offsets: &[u64]) {
        self.restored = None;
        self.dropped.resize(self.dropped.len().max(next_offsets.len()), 0);
        self.dropped
            .iter_mut()
            .zip(next_offsets)
            .for_each(|(dropped, next)| *dropped = (*dropped).max(*next));
        let dropped = |partition: usize| self.dropped.get(partition).copied().unwrap_or(0);
        self.seals.retain(|seal| seal.iter().enumerate().any(|(partition, next)| *next > dropped(partition)));
    }

    pub(super) fn restore_below(&mut self, next_offsets: Vec<u64>) {
        self.dropped.clear();
        self.restored = Some(next_offsets);
    }

    /// Between which seals a segment lies, by their number: segments are merged with those of the
    /// same. `None` for one that lies on both sides of a seal.
    pub(super) fn stretch(&self, info: &SegmentInfo) -> Option<usize> {
        let below = |offset: u64| {
            let next = |seal: &&Vec<u64>| seal.get(usize::from(info.partition)).copied().unwrap_or(0);
            self.seals.iter().filter(|seal| next(seal) <= offset).count()
        };
        let (first, last) = (below(info.first_offset), below(info.next_offset.saturating_sub(1)));
        (first == last).then_some(first)
    }
}

/// What all edits add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) marks: BTreeMap<u16, MarkEdit>,
    pub(super) segments: BTreeMap<u64, SegmentInfo>,
    pub(super) archived: BTreeMap<Unit, Archived>,
    /// `None` of a store that was written by a version that named no log.
    pub(super) log: Option<LogOf>,
    pub(super) next_id: u64,
    /// The version of the file that was read.
    version: u32,
}

impl State {
    fn apply(&mut self, edit: Edit) -> Result<(), String> {
        match edit {
            Edit::Begin { version, next_id } => {
                if !(1..=VERSION).contains(&version) {
                    return Err(format!(
                        "it is of version {version}; this program reads up to version {VERSION}: use a newer stk"
                    ));
                }
                self.version = version;
                self.next_id = self.next_id.max(next_id);
            }
            // Only its place matters, and `parse` checks that.
            Edit::End { .. } => {}
            Edit::Log { log, keep, add, gone } => {
                let id = u64::from_str_radix(&log, 16).map_err(|_| format!("{log:?} does not name a log"))?;
                let mut lineage = self.log.take().map_or_else(Vec::new, |known| known.lineage);
                if keep > lineage.len() as u64 {
                    return Err("it continues generations of the log that it does not name".to_owned());
                }
                lineage.truncate(keep as usize);
                lineage.extend(
                    add.into_iter().map(|GenerationEdit { generation, ends }| Ended { generation, ends }),
                );
                self.log = Some(LogOf { id, lineage, gone: Gone::between(gone) });
            }
            Edit::Commit { mark, segments } => {
                if let Some(checkpoint) = &mark.checkpoint {
                    self.next_id = self.next_id.max(checkpoint.id + 1);
                }
                self.marks.insert(mark.partition, mark);
                segments.into_iter().try_for_each(|segment| self.add(segment))?;
            }
            Edit::Replace { drop, add } => self.replace(drop, add)?,
            Edit::Seal { unit, next_offsets } => {
                self.archived.entry(unit.into()).or_default().seal(next_offsets);
            }
            Edit::Drop { unit, next_offsets, drop, add } => {
                self.archived.entry(unit.into()).or_default().drop_below(&next_offsets);
                self.replace(drop, add)?;
            }
            Edit::Restore { unit, next_offsets, drop, add } => {
                self.archived.entry(unit.into()).or_default().restore_below(next_offsets);
                self.replace(drop, add)?;
            }
        }
        Ok(())
    }

    fn replace(&mut self, drop: Vec<u64>, add: Vec<SegmentInfo>) -> Result<(), String> {
        for id in drop {
            self.segments.remove(&id).ok_or_else(|| format!("it drops segment {id} twice"))?;
        }
        add.into_iter().try_for_each(|segment| self.add(segment))
    }

    fn add(&mut self, segment: SegmentInfo) -> Result<(), String> {
        self.next_id = self.next_id.max(segment.id + 1);
        let id = segment.id;
        match self.segments.insert(id, segment) {
            None => Ok(()),
            Some(_) => Err(format!("it adds segment {id} twice")),
        }
    }

    fn edits(&self) -> impl Iterator<Item = Edit> {
        let begin = Edit::Begin { version: VERSION, next_id: self.next_id };
        let log = self.log.as_ref().and_then(|log| edit_after(log, None));
        let marks = self.marks.values().map(|mark| Edit::Commit { mark: mark.clone(), segments: Vec::new() });
        let segments = self
            .segments
            .values()
            .map(|segment| Edit::Replace { drop: Vec::new(), add: vec![segment.clone()] });
        let archived = self.archived.iter().flat_map(|(unit, archived)| {
            let unit = UnitName::from(*unit);
            let dropped = (!archived.dropped.is_empty()).then(|| archived.dropped.clone());
            let (drop, add) = (Vec::new(), Vec::new());
            let dropped = dropped.map(|next_offsets| Edit::Drop { unit, next_offsets, drop, add });
            let (drop, add) = (Vec::new(), Vec::new());
            let restored = archived.restored.clone();
            let restored = restored.map(|next_offsets| Edit::Restore { unit, next_offsets, drop, add });
            let seals = archived.seals.iter().cloned();
            let seals = seals.map(move |next_offsets| Edit::Seal { unit, next_offsets });
            dropped.into_iter().chain(restored).chain(seals)
        });
        std::iter::once(begin).chain(log).chain(marks).chain(segments).chain(archived)
    }

    /// The path of every file that counts, relative to the store's directory: segments, and
    /// checkpoints.
    pub(super) fn files(&self) -> impl Iterator<Item = PathBuf> {
        let checkpoints = self.marks.values().filter_map(|mark| mark.checkpoint.as_ref());
        let checkpoints = checkpoints.map(|checkpoint| Path::new(CHECKPOINT_DIR).join(&checkpoint.file));
        self.segments.values().map(SegmentInfo::path).chain(checkpoints)
    }
}

/// The manifest's file, open for appending.
pub(super) struct Manifest {
    dir: PathBuf,
    number: u64,
    path: PathBuf,
    file: File,
    /// Bytes of whole lines: where the next one goes.
    len: u64,
    edits: usize,
    edits_max: usize,
    /// An append failed: what the file's end holds is not known.
    failed: Option<WarmError>,
}

/// Whether there is a manifest under `dir`.
pub(super) fn is_there(dir: &Path) -> Result<bool, WarmError> {
    Ok(newest(dir)?.is_some())
}

/// Reads the manifest under `dir` without changing anything. `None` where there is none yet.
pub(super) fn read(dir: &Path) -> Result<Option<State>, WarmError> {
    let Some((_, path)) = newest(dir)? else { return Ok(None) };
    let bytes = fs::read(&path).map_err(|error| io_error(&path, &error))?;
    parse(&path, &bytes).map(|parsed| Some(parsed.state))
}

/// What `bytes` of the manifest at `path` add up to.
pub(super) fn parse_state(path: &Path, bytes: &[u8]) -> Result<State, WarmError> {
    parse(path, bytes).map(|parsed| parsed.state)
}

/// The path of the newest manifest under `dir`, or of the first.
pub(super) fn path(dir: &Path) -> Result<PathBuf, WarmError> {
    Ok(newest(dir)?.map_or_else(|| path_of(dir, 1), |(_, path)| path))
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("manifest-{number:010}.jsonl"))
}

impl Manifest {
    /// Opens the manifest under `dir`, or begins one, cuts off a torn end, and removes what an
    /// earlier rewrite left behind. `check` sees the state before anything is changed.
    pub(super) fn open(
        dir: &Path,
        check: impl FnOnce(&State) -> Result<(), WarmError>,
    ) -> Result<(Self, State), WarmError> {
        let Some((number, path)) = newest(dir)? else {
            let state = State { version: VERSION, ..State::default() };
            return Self::begin(dir, 1, &state).map(|manifest| (manifest, state));
        };
        let bytes = crate::disk::forget_cached(&path).and_then(|()| fs::read(&path));
        let bytes = bytes.map_err(|error| io_error(&path, &error))?;
        let Parsed { mut state, mut len, edits, lacks_newline } = parse(&path, &bytes)?;
        check(&state)?;
        let file =
            OpenOptions::new().read(true).write(true).open(&path).map_err(|error| io_error(&path, &error))?;
        if len < bytes.len() as u64 {
            tracing::warn!(path = %path.display(), bytes = bytes.len() as u64 - len, "cut a torn line off the manifest");
            file.set_len(len).and_then(|()| file.sync_data()).map_err(|error| io_error(&path, &error))?;
        }
        if lacks_newline {
            let ended = (&file).seek(SeekFrom::Start(len)).and_then(|_| (&file).write_all(b"\n"));
            ended.and_then(|()| file.sync_data()).map_err(|error| io_error(&path, &error))?;
            len += 1;
        }
        if state.version < VERSION {
            // An earlier program would take the first edit it does not know for damage.
            state.version = VERSION;
            return Self::begin(dir, number + 1, &state).map(|manifest| (manifest, state));
        }
        let edits_max = EDITS_MIN.max(2 * state.segments.len());
        let manifest = Self { dir: dir.to_owned(), number, path, file, len, edits, edits_max, failed: None };
        manifest.remove_others()?;
        Ok((manifest, state))
    }

    /// Fails where an earlier append failed: nothing can be appended before the next start.
    pub(super) fn check(&self) -> Result<(), WarmError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Appends `edit` and applies it to `state`. Durable when it returns. After an error nothing further can
    /// be appended before the next start, unless the end of the file is known to be as it was.
    pub(super) fn append(&mut self, state: &mut State, edit: Edit) -> Result<(), WarmError> {
        self.check()?;
        let line = line(&edit);
        let written =
            (&self.file).seek(SeekFrom::Start(self.len)).and_then(|_| (&self.file).write_all(&line));
        if let Err(error) = written {
            // No sync was tried yet, so the part of the line that was written can be taken back.
            let cut = self.file.set_len(self.len).and_then(|()| self.file.sync_data());
            return Err(match cut {
                Ok(()) => io_error(&self.path, &error),
                Err(_) => self.fail(&error),
            });
        }
        if let Err(error) = self.file.sync_data() {
            return Err(self.fail(&error));
        }
        self.len += line.len() as u64;
        self.edits += 1;
        if let Err(reason) = state.apply(edit) {
            // The file has an edit that the state has not.
            return Err(self.failed.insert(damaged(&self.path, reason)).clone());
        }
        if self.edits > self.edits_max {
            self.rewrite(state);
        }
        Ok(())
    }

    /// Takes nothing more after `error`, which may have left anything at the end of the file.
    fn fail(&mut self, error: &std::io::Error) -> WarmError {
        let path = self.path.display().to_string();
        let reason = format!("{error}; the store takes nothing more until it is opened again");
        self.failed.insert(WarmError::Io { path, reason }).clone()
    }

    /// Begins a manifest anew, so that it does not grow for ever. The edit before is durable, whatever
    /// comes of this: a failure must not read as that of the edit, which would be done again.
    fn rewrite(&mut self, state: &State) {
        match Self::begin(&self.dir, self.number + 1, state) {
            Ok(rewritten) => *self = rewritten,
            Err(error) => match newest(&self.dir) {
                // Nothing of it is to be seen: this file goes on, for as many edits more.
                Ok(Some((number, _))) if number == self.number => {
                    tracing::warn!(%error, "the manifest could not be rewritten; it is tried again later");
                    self.edits_max *= 2;
                }
                // The next start reads the new one, so nothing may be added to this.
                _ => self.failed = Some(error),
            },
        }
    }

    /// The file's bytes.
    #[cfg(test)]
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Writes `state` to a file of its own and makes that the manifest.
    pub(super) fn begin(dir: &Path, number: u64, state: &State) -> Result<Self, WarmError> {
        let path = path_of(dir, number);
        let temporary = Temporary::of(&path);
        let mut bytes = Vec::new();
        let mut edits = 0;
        for edit in state.edits() {
            bytes.extend_from_slice(&line(&edit));
            edits += 1;
        }
        bytes.extend_from_slice(&line(&Edit::End { edits: edits as u64 }));
        edits += 1;
        let written = File::create(temporary.path()).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        written.map_err(|error| io_error(temporary.path(), &error))?;
        temporary.rename(&path)?;
        fail::point("warm.local.manifest");
        let file =
            OpenOptions::new().read(true).write(true).open(&path).map_err(|error| io_error(&path, &error))?;
        let manifest = Self {
            dir: dir.to_owned(),
            number,
            path,
            file,
            len: bytes.len() as u64,
            edits,
            edits_max: EDITS_MIN + 2 * edits,
            failed: None,
        };
        manifest.remove_others()?;
        Ok(manifest)
    }

    fn remove_others(&self) -> Result<(), WarmError> {
        for (_, path) in all(&self.dir)?.into_iter().filter(|(number, _)| *number != self.number) {
            fs::remove_file(&path).map_err(|error| io_error(&path, &error))?;
        }
        Ok(())
    }
}

fn line(edit: &Edit) -> Vec<u8> {
    let json = serde_json::to_vec(edit).expect("an edit has only string keys");
    let mut line = Vec::with_capacity(json.len() + CHECKSUM_LEN + 2);
    line.extend_from_slice(format!("{:08x} ", crc32fast::hash(&json)).as_bytes());
    line.extend_from_slice(&json);
    line.push(b'\n');
    line
}

/// What a manifest's file adds up to.
struct Parsed {
    state: State,
    /// Bytes of whole lines.
    len: u64,
    /// Their number.
    edits: usize,
    /// The last line is whole but for its newline.
    lacks_newline: bool,
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Parsed, WarmError> {
    let (mut state, mut len, mut edits) = (State::default(), 0, 0);
    let (mut lacks_newline, mut is_ended) = (false, false);
    while len < bytes.len() {
        let rest = &bytes[len..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        // The newline of the last line may be missing or damaged: the line is whole without it.
        let line_len = end.unwrap_or_else(|| {
            let without_last = rest.len() - 1;
            if whole_line(&rest[..without_last]).is_some() { without_last } else { rest.len() }
        });
        let Some(json) = whole_line(&rest[..line_len]) else {
            if edits > 0 && is_torn(rest, len) {
                break;
            }
            return Err(damaged(path, format!("the line at byte {len} does not match its checksum{MEND}")));
        };
        // Never taken for a torn one: what it says was committed.
        let edit = serde_json::from_slice(json)
            .map_err(|error| damaged(path, format!("the line at byte {len} can't be read: {error}")))?;
        if (edits == 0) != matches!(edit, Edit::Begin { .. }) {
            return Err(damaged(path, "its first line, and no other, has to tell the version"));
        }
        if let Edit::End { edits: counted } = edit {
            if is_ended || counted != edits as u64 {
                return Err(damaged(path, format!("lines before byte {len} are missing{MEND}")));
            }
            is_ended = true;
        }
        state.apply(edit).map_err(|reason| damaged(path, reason))?;
        edits += 1;
        lacks_newline = end.is_none();
        len += line_len;
        if lacks_newline {
            break;
        }
        len += 1;
    }
    if edits == 0 {
        return Err(damaged(path, format!("it is empty{MEND}")));
    }
    if state.version >= VERSION_WITH_END && !is_ended {
        return Err(damaged(path, format!("it was cut short at byte {len}{MEND}")));
    }
    Ok(Parsed { state, len: len as u64, edits, lacks_newline })
}

/// Whether `rest`, which begins at byte `at` with a line that fails its checksum, is what a crash
/// leaves of the last append: its end is missing, or whole blocks of it read as zeros.
fn is_torn(rest: &[u8], at: usize) -> bool {
    let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { return true };
    if end + 1 < rest.len() {
        return false;
    }
    let is_block_edge =
        |index: usize| index == 0 || index == rest.len() || (at + index).is_multiple_of(DISK_BLOCK_BYTES);
    let mut zeros = rest
        .chunk_by(|a, b| (*a == 0) == (*b == 0))
        .scan(0, |start, run| {
            let range = *start..*start + run.len();
            *start = range.end;
            Some((run[0] == 0, range))
        })
        .filter(|(is_zero, _)| *is_zero)
        .peekable();
    zeros.peek().is_some() && zeros.all(|(_, run)| is_block_edge(run.start) && is_block_edge(run.end))
}

/// The text of a line that has its checksum.
fn whole_line(line: &[u8]) -> Option<&[u8]> {
    let (checksum, json) = line.split_at_checked(CHECKSUM_LEN)?;
    let json = json.strip_prefix(b" ")?;
    let checksum = u32::from_str_radix(std::str::from_utf8(checksum).ok()?, 16).ok()?;
    (checksum == crc32fast::hash(json)).then_some(json)
}

fn newest(dir: &Path) -> Result<Option<(u64, PathBuf)>, WarmError> {
    Ok(all(dir)?.into_iter().max())
}

fn all(dir: &Path) -> Result<Vec<(u64, PathBuf)>, WarmError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| io_error(dir, &error))? {
        let path = entry.map_err(|error| io_error(dir, &error))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("manifest-").and_then(|rest| rest.strip_suffix(".jsonl"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, path));
        }
    }
    Ok(found)
}
