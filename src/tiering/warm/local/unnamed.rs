//! Files that the manifest does not name: what a crash left, told from what a damaged manifest no
//! longer mentions.
//!
//! A crash leaves, of each partition, the files of the one block that was being stored, and files
//! whose rows named segments or the archive hold too: inputs and outputs of merges, superseded
//! checkpoints, restored segments. They are moved to `DIR/unnamed/`, where they are kept for a while. It never leaves a named file
//! missing beside unnamed ones, nor rows of an earlier block without a name: that is a manifest
//! that was cut or is older than the files, and nothing is touched then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{create_dir, damaged, entries, io_error, sync_dir};
use super::manifest::{self, CHECKPOINT_DIR, MEND, State};
use super::segment::{RESTORED_LEVEL, SegmentGroup};
use crate::market::{Kind, Timestamp};
use crate::tiering::warm::{Unit, WarmError};

/// Where files that a crash left are moved: a directory for each start that found some.
const UNNAMED_DIR: &str = "unnamed";

/// How long they are kept.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// Starts whose files are kept, at most: the oldest go first.
const KEPT_MAX: usize = 32;

/// A file name's segment or checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Segment {
        group: SegmentGroup,
        first_offset: u64,
        next_offset: u64,
        level: u32,
    },
    Checkpoint {
        partition: u16,
        next_offset: u64,
    },
    /// Not yet under its name.
    Begun,
}

#[derive(Clone, Debug)]
struct Stored {
    /// Relative to the store's directory.
    path: PathBuf,
    id: u64,
    content: Content,
}

/// The files that the manifest does not name, each explained by a crash.
#[derive(Debug, Default)]
pub(super) struct Unnamed {
    files: Vec<Stored>,
}

impl Unnamed {
    /// Compares the files under `dir` with those that `state` names. Changes nothing.
    ///
    /// Errors: files without a name that no crash leaves.
    pub(super) fn find(dir: &Path, state: &State) -> Result<Self, WarmError> {
        let stored = stored_files(dir)?;
        let there: BTreeSet<&Path> = stored.iter().map(|file| file.path.as_path()).collect();
        let named: BTreeSet<PathBuf> = state.files().collect();
        let missing: Vec<&PathBuf> = named.iter().filter(|path| !there.contains(path.as_path())).collect();
        let files: Vec<Stored> = stored.iter().filter(|file| !named.contains(&file.path)).cloned().collect();
        let unnamed: Vec<&Stored> = files.iter().filter(|file| file.content != Content::Begun).collect();
        let manifest = || manifest::path(dir);
        // A repair of a missing segment that did not get to its edit leaves a file of the same rows.
        let lost_contents: Vec<Content> =
            missing.iter().filter_map(|path| parse(path)).map(|file| file.content).collect();
        let mut others = unnamed.iter().filter(|file| !lost_contents.contains(&file.content));
        if let (Some(lost), Some(extra)) = (missing.first(), others.next()) {
            let reason = format!(
                "it names {} files that are not there (such as {}) and does not name {} that are (such as {}): \
                 it was cut short, or is of another time than they{MEND}",
                missing.len(),
                lost.display(),
                unnamed.len(),
                extra.path.display(),
            );
            return Err(damaged(&manifest()?, reason));
        }
        let mut blocks: BTreeMap<u16, u64> = BTreeMap::new();
        let is_explained = |file: &&Stored| !is_trace(file, state, &mut blocks);
        let unexplained: Vec<&Stored> = unnamed.into_iter().filter(is_explained).collect();
        if let Some(extra) = unexplained.first() {
            let reason = format!(
                "it does not name {} files that are there and that no crash leaves (such as {}): it was cut \
                 short, or is of another time than they{MEND}",
                unexplained.len(),
                extra.path.display(),
            );
            return Err(damaged(&manifest()?, reason));
        }
        for path in missing {
            let path = dir.join(path);
            tracing::error!(path = %path.display(), "a file that the manifest names is missing: bring it back from a copy");
        }
        Ok(Self { files })
    }

    /// An id above all of theirs.
    pub(super) fn next_id(&self) -> u64 {
        self.files.iter().map(|file| file.id + 1).max().unwrap_or(0)
    }

    /// Moves the files to a directory of their own, where they no longer count for anything, and
    /// removes those that were moved long ago.
    pub(super) fn move_aside(&self, dir: &Path) -> Result<(), WarmError> {
        let unnamed = dir.join(UNNAMED_DIR);
        let (begun, whole): (Vec<_>, Vec<_>) =
            self.files.iter().partition(|file| file.content == Content::Begun);
        for path in begun.iter().map(|file| dir.join(&file.path)) {
            tracing::info!(path = %path.display(), "remove what an interrupted write left");
            fs::remove_file(&path).map_err(|error| io_error(&path, &error))?;
        }
        forget_old(&unnamed, usize::from(!whole.is_empty()))?;
        if whole.is_empty() {
            return Ok(());
        }
        let seconds = Timestamp::now().nanos() / 1_000_000_000;
        let names = (0..).map(|number| unnamed.join(format!("{seconds:012}-{number}")));
        let aside = names.into_iter().find(|path| !path.exists()).unwrap_or_default();
        tracing::info!(files = whole.len(), to = %aside.display(), "move aside what an interrupted write left");
        let (mut sources, mut targets) = (BTreeSet::new(), BTreeSet::new());
        for file in whole {
            let (from, to) = (dir.join(&file.path), aside.join(&file.path));
            to.parent().map_or(Ok(()), create_dir)?;
            fs::rename(&from, &to).map_err(|error| io_error(&from, &error))?;
            sources.extend(from.parent().map(Path::to_owned));
            targets.extend(to.parent().map(Path::to_owned));
        }
        // In this order: a file that a power loss leaves in both directories is found again, one in neither is lost.
        targets.iter().chain(&sources).try_for_each(|dir| sync_dir(dir))
    }
}

/// Removes what was moved aside long ago, and the oldest where `room` more could not be kept.
fn forget_old(unnamed: &Path, room: usize) -> Result<(), WarmError> {
    if !unnamed.is_dir() {
        return Ok(());
    }
    let mut kept: Vec<(u64, PathBuf)> = entries(unnamed)?
        .into_iter()
        .filter_map(|path| {
            let seconds = path.file_name()?.to_str()?.split('-').next()?.parse().ok()?;
            Some((seconds, path))
        })
        .collect();
    kept.sort_unstable();
    let now = u64::try_from(Timestamp::now().nanos() / 1_000_000_000).unwrap_or(0);
    let too_many = (kept.len() + room).saturating_sub(KEPT_MAX);
    for (at, (seconds, path)) in kept.into_iter().enumerate() {
        if at < too_many || seconds.saturating_add(KEPT.as_secs()) < now {
            fs::remove_dir_all(&path).map_err(|error| io_error(&path, &error))?;
        }
    }
    sync_dir(unnamed)
}

/// Whether a crash may have left `file`, which `state` does not name. `blocks` holds the end of the
/// block of each partition that was being stored, as far as it is known: there is one at most.
fn is_trace(file: &Stored, state: &State, blocks: &mut BTreeMap<u16, u64>) -> bool {
    let mark = |partition: u16| state.marks.get(&partition).map_or(0, |mark| mark.next_offset);
    let mut is_of_one_block =
        |partition: u16, next_offset: u64| *blocks.entry(partition).or_insert(next_offset) == next_offset;
    match file.content {
        // One that is older was superseded.
        Content::Checkpoint { partition, next_offset } => {
            next_offset <= mark(partition) || is_of_one_block(partition, next_offset)
        }
        // A restore that did not get to its edit. Once the edit counts, the segments that it replaces are
        // removed, and a manifest that was cut before the edit names files that are missing; where it replaced
        // none, the archive still has the rows.
        Content::Begun | Content::Segment { level: RESTORED_LEVEL, .. } => true,
        Content::Segment { group, first_offset, next_offset, level } => {
            if level == 0 && next_offset > mark(group.partition) {
                return is_of_one_block(group.partition, next_offset);
            }
            let unit = Unit { day: group.day, kind: group.kind };
            let archived = state.archived.get(&unit);
            let dropped = archived.and_then(|archived| archived.dropped.get(usize::from(group.partition)));
            if dropped.is_some_and(|dropped| first_offset < *dropped) {
                return true;
            }
            let named = || state.segments.values().filter(|segment| segment.group() == group);
            let is_within =
                named().any(|named| named.first_offset <= first_offset && next_offset <= named.next_offset);
            let is_merged = level > 0
                && named().any(|named| named.first_offset == first_offset)
                && named().any(|named| named.next_offset == next_offset);
            // Bars that were rebuilt, stored without a record after them.
            let is_rebuilt = level == 0 && group.kind == Kind::Bar && next_offset == mark(group.partition);
            is_within || is_merged || is_rebuilt && is_of_one_block(group.partition, next_offset)
        }
    }
}

/// Fails where files of a store are there without the manifest that says which of them count: a
/// store begins with its manifest, so it was lost, and what it named must not be taken for the trace
/// of a crash.
pub(super) fn check_manifest(dir: &Path) -> Result<(), WarmError> {
    if manifest::is_there(dir)? {
        return Ok(());
    }
    match stored_files(dir)?.len() {
        0 => Ok(()),
        files => {
            let reason = format!("it is missing, while {files} files that it named are there{MEND}");
            Err(damaged(&dir.join("manifest-*.jsonl"), reason))
        }
    }
}

/// The segments whose files are under `dir`.
pub(super) fn segments(dir: &Path) -> Result<Vec<(Unit, u16, Range<u64>)>, WarmError> {
    let files = stored_files(dir)?.into_iter().filter_map(|file| match file.content {
        Content::Segment { group, first_offset, next_offset, .. } => {
            Some((Unit { day: group.day, kind: group.kind }, group.partition, first_offset..next_offset))
        }
        _ => None,
    });
    Ok(files.collect())
}

/// The segments and checkpoints under `dir`, whole or begun. Files that no store writes are left out.
fn stored_files(dir: &Path) -> Result<Vec<Stored>, WarmError> {
    let mut dirs = vec![dir.join(CHECKPOINT_DIR)];
    dirs.retain(|checkpoints| checkpoints.is_dir());
    for day in entries(dir)?.into_iter().filter(|path| is_named(path, "date=")) {
        dirs.extend(entries(&day)?.into_iter().filter(|path| is_named(path, "kind=")));
    }
    let files = dirs.iter().map(|dir| entries(dir)).collect::<Result<Vec<_>, _>>()?.concat();
    Ok(files.iter().filter_map(|path| parse(path.strip_prefix(dir).ok()?)).collect())
}

fn parse(path: &Path) -> Option<Stored> {
    let name = path.file_name()?.to_str()?;
    let (stem, extension) = name.rsplit_once('.')?;
    let parts: Vec<&str> = stem.strip_prefix('p')?.split('-').collect();
    let (id, content) = match (&parts[..], extension) {
        ([partition, first, next, level, id], "parquet" | "tmp") => {
            let of =
                |part: &str| path.iter().find_map(|dir| dir.to_str()?.strip_prefix(part).map(str::to_owned));
            let group = SegmentGroup {
                day: of("date=")?.parse().ok()?,
                kind: Kind::from_name(&of("kind=")?)?,
                partition: partition.parse().ok()?,
            };
            let (first_offset, next_offset) = (first.parse().ok()?, next.parse().ok()?);
            let level = level.strip_prefix('L')?.parse().ok()?;
            let content = Content::Segment { group, first_offset, next_offset, level };
            (*id, if extension == "tmp" { Content::Begun } else { content })
        }
        ([partition, next, id], "bin") => {
            let (partition, next_offset) = (partition.parse().ok()?, next.parse().ok()?);
            (*id, Content::Checkpoint { partition, next_offset })
        }
        _ => return None,
    };
    Some(Stored { path: path.to_owned(), id: u64::from_str_radix(id, 16).ok()?, content })
}

fn is_named(path: &Path, prefix: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
}
