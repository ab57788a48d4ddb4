//! The log's identity on disk: `DATA/log/epoch` and, the same, `DATA/log/epoch.copy`; a few lines of
//! text.
//!
//! ```text
//! stk log epoch 3
//! log ID                          16 hexadecimal digits, chosen when the log was made
//! ended GENERATION OFFSET…        an earlier generation, and where it ended by partition; oldest first
//! lost HOLDER OFFSET… to OFFSET… gone DAYS
//!                                 offsets skipped, since `warm` or `archive` holds rows with them, and
//!                                 which of these rows no store holds: those of `unknown` days, `nothing`,
//!                                 or FIRST LAST
//! generation GENERATION           the present one
//! sealed OFFSET…                  where the log ends; only while it is closed
//! xxh3 HASH                       of all bytes before this line, 16 hexadecimal digits
//! ```
//!
//! Every opening to write begins a generation, durably before a record of it can be read. In version
//! 1 a log that was closed in good order stayed in its generation, and generations counted from 0:
//! those are kept as ids. Version 2 did not say what is gone.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::bus::epoch::{
    Ended, GENERATIONS_MAX, Gone, Held, Holder, LOST_MAX, LogEpoch, Lost, Misfit, Relation, fresh_generation,
    is_within, later,
};

const FILE: &str = "epoch";
const COPY_FILE: &str = "epoch.copy";
const TEMPORARY_FILE: &str = "epoch.tmp";
const HEAD_1: &str = "stk log epoch 1";
const HEAD_2: &str = "stk log epoch 2";
const HEAD: &str = "stk log epoch 3";

/// The content of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    epoch: LogEpoch,
    /// By partition, where the log ended when it was closed.
    sealed: Option<Vec<u64>>,
}

/// The identity with which a log is opened.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) epoch: LogEpoch,
    /// By partition, the offset at which the log continues: after its last record, or further, where
    /// other stores hold rows of a lost timeline.
    pub(super) begins: Vec<u64>,
}

/// Why a log can't have an identity.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    /// It can't be read or written, is damaged, or has no room for another skipped range.
    #[error("cannot keep its identity: {0}")]
    Io(#[from] io::Error),
    /// Warm storage is not of this log.
    #[error(transparent)]
    Misfit(#[from] Misfit),
}

/// The identity to read the log in `path`, whose records end before `nexts`: as it is stored, or as a store
/// in `held` names it.
pub(super) fn read(path: &Path, nexts: &[u64], held: &[Held]) -> io::Result<LogEpoch> {
    let Some(Stored { mut epoch, sealed }) = find(path, Some(nexts.len()))? else {
        return Ok(adopt(nexts, held).unwrap_or_else(LogEpoch::begin));
    };
    if sealed.as_deref() != Some(nexts) {
        epoch.advance(nexts);
    }
    Ok(epoch)
}

/// The identity of the log in `path` as it is stored now; `None` where none is stored. A process may have
/// the log open: the file is replaced as a whole.
///
/// Errors: it is damaged.
pub(super) fn stored(path: &Path) -> io::Result<Option<LogEpoch>> {
    Ok(find(path, None)?.map(|stored| stored.epoch))
}

/// The identity to write the log in `path`, whose records end before `nexts`: a new generation, which
/// skips the offsets of rows that are `held` elsewhere and are not in the log.
///
/// Errors: the identity is damaged, too many ranges were skipped before, or warm storage holds rows of
/// another log or timeline. Nothing was stored.
pub(super) fn open(path: &Path, nexts: &[u64], held: &[Held]) -> Result<Identity, IdentityError> {
    let is_empty = nexts.iter().all(|next| *next == 0);
    let mut epoch = if let Some(Stored { mut epoch, sealed }) = find(path, Some(nexts.len()))? {
        epoch.advance(nexts);
        if sealed.as_deref() != Some(nexts) {
            tracing::info!(
                "the log was not closed in good order: records that were not yet durable are gone"
            );
        }
        epoch
    } else {
        adopt(nexts, held).unwrap_or_else(|| {
            if !is_empty {
                let path = path.join(FILE);
                tracing::warn!(file = %path.display(), "missing: the log gets a new identity");
            }
            LogEpoch::begin()
        })
    };
    let mut begins = unfinished_skip(&mut epoch, nexts)?;
    // Of the stores, what the log is to skip beyond that.
    let nexts = &begins.clone()[..];
    for held in held {
        // An archive may stay beside a log that it does not fit to: nothing is written to it.
        let relation = match held.holder {
            Holder::Warm => epoch.fit(nexts, held)?,
            Holder::Archive => epoch.relation(nexts, held),
        };
        match relation {
            Relation::Ahead => {
                let to = skip_target(nexts, held);
                skip(&mut epoch, held.holder, nexts, &to, held.gone)?;
                tracing::warn!(
                    store = held.name, log_ends = ?nexts, store_ends = ?held.next_offsets,
                    "the log was put back from a copy older than this store: it continues after the store's offsets"
                );
                begins = later(&begins, &to);
            }
            Relation::Parted { at } => tracing::error!(
                store = held.name, parted_at = ?at,
                "this store holds rows of another timeline of the log with offsets that the log has used since"
            ),
            Relation::Own | Relation::Skipped | Relation::OtherLog => {}
        }
    }
    Ok(Identity { epoch, begins })
}

/// By partition, where a log that ends at `nexts` continues after the ranges that `epoch` says it skipped. It
/// ends before or within one where a crash came between noting the range and skipping it. The store that
/// the range is of may be away now.
fn unfinished_skip(epoch: &mut LogEpoch, nexts: &[u64]) -> io::Result<Vec<u64>> {
    let partitions = || (0_u16..).zip(nexts);
    let begins: Vec<u64> =
        partitions().map(|(at, next)| epoch.whole_from(at, *next).unwrap_or(*next)).collect();
    // Records before the range that were not yet durable are gone too: nothing else may have their offsets.
    let is_noted = partitions().zip(&begins).all(|((at, next), begin)| epoch.is_skipped(at, *next, *begin));
    if !is_noted && let Some((holder, gone)) = epoch.lost().last().map(|lost| (lost.holder, lost.gone)) {
        skip(epoch, holder, nexts, &begins, gone)?;
    }
    if begins != nexts {
        tracing::warn!(
            log_ends = ?nexts, continues_at = ?begins,
            "the log ends before offsets that it skips since other stores hold rows with them"
        );
    }
    Ok(begins)
}

fn skip(epoch: &mut LogEpoch, holder: Holder, from: &[u64], to: &[u64], gone: Gone) -> io::Result<()> {
    if epoch.skip(Lost { holder, from: from.to_vec(), to: to.to_vec(), gone }) {
        return Ok(());
    }
    let reason = format!("it was put back from copies older than its stores {LOST_MAX} times");
    Err(io::Error::other(reason))
}

/// By partition, where a log that ends at `nexts` continues after what is `held`. Before the first record
/// that follows rows of the archive there is room for the bars of both.
fn skip_target(nexts: &[u64], held: &Held) -> Vec<u64> {
    let room = u64::from(held.holder == Holder::Archive);
    let target = |(next, held): (&u64, &u64)| if held > next { held + room } else { *next };
    let known = nexts.iter().zip(&held.next_offsets).map(target);
    known.chain(nexts.iter().skip(held.next_offsets.len()).copied()).collect()
}

/// The identity that warm or else the archive names, for a log that has none: one that is empty beside the
/// stores of a log that was lost, or one whose identity was lost.
fn adopt(nexts: &[u64], held: &[Held]) -> Option<LogEpoch> {
    let names = |holder: Holder| held.iter().find(|held| held.holder == holder && held.log.is_some());
    let store = names(Holder::Warm).or_else(|| names(Holder::Archive))?;
    // An archive of another number of partitions is of another log. Warm names the partitions it has marks of.
    let is_alike = store.holder == Holder::Warm || store.next_offsets.len() == nexts.len();
    let id = store.log.filter(|_| is_alike && store.next_offsets.len() <= nexts.len())?;
    let is_empty = nexts.iter().all(|next| *next == 0);
    let history = if is_empty && store.holder == Holder::Archive {
        // The archive lacks rows of these generations: a place in them is a place in a lost timeline.
        Vec::new()
    } else if is_empty {
        // Copies of the data directory that are older than the loss stay in this log's past.
        let reached = |ended: &Ended| {
            let ends = ended.ends.iter().zip(&store.next_offsets).map(|(end, held)| *end.min(held));
            Ended { generation: ended.generation, ends: ends.collect() }
        };
        store.lineage.iter().map(reached).collect()
    } else if is_within(&store.next_offsets, nexts) {
        store.lineage.clone()
    } else {
        return None;
    };
    tracing::warn!(
        store = store.name,
        log = format!("{id:016x}"),
        "the log has no identity: it takes the one that this store names"
    );
    Some(LogEpoch::with_history(id, fresh_generation(), history, Vec::new()))
}

/// The stored identity of a log of `partitions`, where that number is known; `None` where none is stored.
///
/// Errors: what is stored is damaged.
fn find(path: &Path, partitions: Option<usize>) -> io::Result<Option<Stored>> {
    let mut damaged = Vec::new();
    for name in [FILE, COPY_FILE] {
        let file = path.join(name);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let text = String::from_utf8(bytes).unwrap_or_default();
        match Stored::decode(&text, partitions) {
            Some(stored) => {
                if !damaged.is_empty() {
                    tracing::warn!(?damaged, used = name, "the log's identity is damaged; its copy is used");
                }
                return Ok(Some(stored));
            }
            None => damaged.push(file.display().to_string()),
        }
    }
    if damaged.is_empty() {
        return Ok(None);
    }
    let reason = format!(
        "{} damaged, or written by a newer stk: put it back from a backup, or move it away, and the log takes \
         the identity that its archive names",
        if damaged.len() == 1 {
            format!("{} is", damaged[0])
        } else {
            format!("{} are", damaged.join(" and "))
        }
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, reason))
}

/// Stores durably that the log is in use.
pub(super) fn begin(path: &Path, epoch: &LogEpoch) -> io::Result<()> {
    write(path, &Stored { epoch: epoch.clone(), sealed: None })?;
    File::open(path)?.sync_all()
}

/// Stores that the log was closed in good order before `nexts`.
pub(super) fn seal(path: &Path, epoch: &LogEpoch, nexts: Vec<u64>) -> io::Result<()> {
    write(path, &Stored { epoch: epoch.clone(), sealed: Some(nexts) })
}

fn write(path: &Path, stored: &Stored) -> io::Result<()> {
    for name in [FILE, COPY_FILE] {
        let temporary = path.join(TEMPORARY_FILE);
        let mut file = File::create(&temporary)?;
        file.write_all(stored.encode().as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path.join(name))?;
    }
    Ok(())
}

fn read_gone(text: &str) -> Option<Gone> {
    match text {
        "unknown" => Some(Gone::Unknown),
        "nothing" => Some(Gone::Nothing),
        days => {
            let (first, last) = days.split_once(' ')?;
            Some(Gone::Days { first: first.parse().ok()?, last: last.parse().ok()? })
        }
    }
}

fn push_offsets(out: &mut String, offsets: &[u64]) {
    for offset in offsets {
        // Writing to a string can't fail.
        let _ = write!(out, " {offset}");
    }
}

impl Stored {
    fn encode(&self) -> String {
        let mut out = String::new();
        let log = self.epoch.log();
        let _ = writeln!(out, "{HEAD}\nlog {:016x}", log.id);
        for Ended { generation, ends } in self.epoch.ended() {
            let _ = write!(out, "ended {generation}");
            push_offsets(&mut out, ends);
            out.push('\n');
        }
        for Lost { holder, from, to, gone } in self.epoch.lost() {
            out.push_str(match holder {
                Holder::Warm => "lost warm",
                Holder::Archive => "lost archive",
            });
            push_offsets(&mut out, from);
            out.push_str(" to");
            push_offsets(&mut out, to);
            let _ = match gone {
                Gone::Unknown => writeln!(out, " gone unknown"),
                Gone::Nothing => writeln!(out, " gone nothing"),
                Gone::Days { first, last } => writeln!(out, " gone {first} {last}"),
            };
        }
        let _ = writeln!(out, "generation {}", log.generation);
        if let Some(sealed) = &self.sealed {
            out.push_str("sealed");
            push_offsets(&mut out, sealed);
            out.push('\n');
        }
        let hash = xxh3_64(out.as_bytes());
        let _ = writeln!(out, "xxh3 {hash:016x}");
        out
    }

    /// `None` where a byte is not as it was written, or it is of a log that has not `partitions`.
    fn decode(text: &str, mut partitions: Option<usize>) -> Option<Self> {
        let (body, hash) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let hashed = &text[..=body.len()];
        let hash = u64::from_str_radix(hash.strip_prefix("xxh3 ")?, 16).ok()?;
        if xxh3_64(hashed.as_bytes()) != hash {
            return None;
        }
        let mut lines = body.lines();
        let version = match lines.next()? {
            HEAD_1 => 1,
            HEAD_2 => 2,
            HEAD => 3,
            _ => return None,
        };
        let mut offsets = |text: &str| -> Option<Vec<u64>> {
            let offsets: Option<Vec<u64>> = text.split(' ').map(|offset| offset.parse().ok()).collect();
            offsets.filter(|offsets| offsets.len() == *partitions.get_or_insert(offsets.len()))
        };
        let id = u64::from_str_radix(lines.next()?.strip_prefix("log ")?, 16).ok()?;
        let (mut ended, mut lost, mut generation, mut sealed) = (Vec::new(), Vec::new(), None, None);
        let mut ends = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(' ')?;
            match name {
                "ended" if ended.len() < GENERATIONS_MAX => {
                    let (generation, ends) = value.split_once(' ')?;
                    ended.push(Ended { generation: generation.parse().ok()?, ends: offsets(ends)? });
                }
                "end" if version == 1 && ends.len() < GENERATIONS_MAX => ends.push(offsets(value)?),
                "lost" if lost.len() < LOST_MAX => {
                    let (holder, range) = value.split_once(' ')?;
                    let holder = match holder {
                        "warm" => Holder::Warm,
                        "archive" => Holder::Archive,
                        _ => return None,
                    };
                    let (from, to) = range.split_once(" to ")?;
                    let (to, gone) = match holder {
                        _ if version > 2 => {
                            let (to, gone) = to.split_once(" gone ")?;
                            (to, read_gone(gone)?)
                        }
                        Holder::Warm => (to, Gone::Nothing),
                        Holder::Archive => (to, Gone::Unknown),
                    };
                    lost.push(Lost { holder, from: offsets(from)?, to: offsets(to)?, gone });
                }
                "generation" => generation = Some(value.parse().ok()?),
                "sealed" => sealed = Some(offsets(value)?),
                _ => return None,
            }
        }
        let generation: u64 = generation?;
        if version == 1 {
            let first = generation.checked_sub(ends.len() as u64)?;
            ended.extend((first..).zip(ends).map(|(generation, ends)| Ended { generation, ends }));
        }
        Some(Self { epoch: LogEpoch::with_history(id, generation, ended, lost), sealed })
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// Every version that was ever written is read for ever.
    const VERSION_1: &str = include_str!("../../../tests/golden/bus/epoch-v1.txt");
    const VERSION_2: &str = include_str!("../../../tests/golden/bus/epoch-v2.txt");
    const VERSION_3: &str = include_str!("../../../tests/golden/bus/epoch-v3.txt");

    const ID: u64 = 0x0123_4567_89ab_cdef;

    fn ended(generation: u64, ends: [u64; 2]) -> Ended {
        Ended { generation, ends: ends.to_vec() }
    }

    fn lost(holder: Holder, from: [u64; 2], to: [u64; 2], gone: Gone) -> Lost {
        Lost { holder, from: from.to_vec(), to: to.to_vec(), gone }
    }

    fn stored() -> Stored {
        let days = Gone::of(["2026-11-28", "2026-11-27"].map(|day| day.parse().unwrap()));
        let history = [ended(0, [10, 20]), ended(7_000_000_000_000_000_000, [12, 20])];
        let lost = vec![
            lost(Holder::Archive, [10, 20], [12, 20], Gone::Unknown),
            lost(Holder::Warm, [12, 20], [15, 29], Gone::Nothing),
            lost(Holder::Archive, [16, 29], [20, 30], days),
        ];
        let epoch = LogEpoch::with_history(ID, 7_100_000_000_000_000_000, history, lost);
        Stored { epoch, sealed: Some(vec![1000, 2000]) }
    }

    fn held(lineage: Vec<Ended>, next_offsets: [u64; 2]) -> Held {
        let next_offsets = next_offsets.to_vec();
        Held { log: Some(ID), lineage, next_offsets, ..Held::nothing(Holder::Archive, "the archive") }
    }

    #[test]
    fn it_reads_what_it_writes_and_nothing_else() {
        assert_eq!(stored().encode(), VERSION_3);
        for text in [VERSION_1, VERSION_2, VERSION_3] {
            for at in 0..text.len() {
                assert_eq!(Stored::decode(&text[..at], Some(2)), None, "cut at {at}");
                let mut flipped = text.as_bytes().to_vec();
                flipped[at] ^= 1;
                let flipped = String::from_utf8(flipped).unwrap();
                assert_eq!(Stored::decode(&flipped, Some(2)), None, "byte {at} flipped");
            }
            assert_eq!(Stored::decode(text, Some(3)), None);
        }
        assert_eq!(Stored::decode(VERSION_3, Some(2)), Some(stored()));
        let lost = stored().epoch.lost()[..2].to_vec();
        let before = stored().epoch.ended().cloned().collect::<Vec<_>>();
        let epoch = LogEpoch::with_history(ID, stored().epoch.log().generation, before, lost);
        let sealed = Some(vec![1000, 2000]);
        assert_eq!(Stored::decode(VERSION_2, Some(2)), Some(Stored { epoch, sealed }), "the version before");
        let open = Stored { sealed: None, ..stored() };
        assert_eq!(Stored::decode(&open.encode(), Some(2)), Some(open));
        let history = [ended(0, [10, 20]), ended(1, [12, 20])];
        let epoch = LogEpoch::with_history(ID, 2, history, Vec::new());
        let sealed = Some(vec![1000, 2000]);
        assert_eq!(Stored::decode(VERSION_1, Some(2)), Some(Stored { epoch, sealed }));
    }

    #[test]
    fn a_damaged_identity_is_read_from_its_copy_and_refused_where_both_are() {
        let dir = TempDir::new().unwrap();
        let nexts = [1000, 2000];
        write(dir.path(), &stored()).unwrap();
        for name in [FILE, COPY_FILE] {
            write(dir.path(), &stored()).unwrap();
            fs::write(dir.path().join(name), "nonsense").unwrap();
            assert_eq!(read(dir.path(), &nexts, &[]).unwrap(), stored().epoch);
            let opened = open(dir.path(), &nexts, &[]).unwrap().epoch;
            assert_eq!(opened.log().id, ID);
            assert!(opened.has(stored().epoch.log().generation, &nexts));
        }
        fs::write(dir.path().join(FILE), VERSION_3.replace("1000", "1001")).unwrap();
        let errors = [
            read(dir.path(), &nexts, &[]).unwrap_err().to_string(),
            open(dir.path(), &nexts, &[]).unwrap_err().to_string(),
        ];
        for error in errors {
            assert!(error.contains("epoch and ") && error.contains("epoch.copy are damaged"), "{error}");
            assert!(error.contains("move it away, and the log takes the identity"), "{error}");
        }
        // As the message says.
        fs::remove_file(dir.path().join(FILE)).unwrap();
        fs::remove_file(dir.path().join(COPY_FILE)).unwrap();
        let archive = held(vec![ended(0, [10, 20]), ended(5, [900, 2000])], [900, 2000]);
        let Identity { epoch, begins } = open(dir.path(), &nexts, std::slice::from_ref(&archive)).unwrap();
        assert_eq!((epoch.log().id, &begins[..]), (ID, &nexts[..]));
        assert_eq!(epoch.relation(&nexts, &archive), Relation::Own);
        // The archive reaches further than the log: not its archive, for all that is known.
        let archive = held(vec![ended(5, [1001, 2000])], [1001, 2000]);
        assert_ne!(open(dir.path(), &nexts, &[archive]).unwrap().epoch.log().id, ID);
    }

    #[test]
    fn a_log_put_back_from_a_copy_continues_after_what_other_stores_hold() {
        let dir = TempDir::new().unwrap();
        let first = open(dir.path(), &[0, 0], &[]).unwrap().epoch;
        begin(dir.path(), &first).unwrap();
        let id = first.log().id;
        let copy = TempDir::new().unwrap();
        for name in [FILE, COPY_FILE] {
            fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
        }
        // The log goes on, in the same generation and in a further one, and is archived.
        let mut later = first.clone();
        later.advance(&[60, 30]);
        for lineage in [first.lineage(&[60, 30]), later.lineage(&[90, 35])] {
            let next_offsets: Vec<u64> = lineage.last().unwrap().ends.clone();
            let archive =
                Held { log: Some(id), ..held(lineage.clone(), next_offsets.clone().try_into().unwrap()) };
            let Identity { epoch, begins } =
                open(copy.path(), &[40, 30], std::slice::from_ref(&archive)).unwrap();
            let after = |at: usize, next: u64| next + u64::from(next > [40, 30][at]);
            assert_eq!(begins, [after(0, next_offsets[0]), after(1, next_offsets[1])]);
            assert_eq!(epoch.skipped(0, 40), Some(40..begins[0]));
            assert_eq!(epoch.relation(&begins, &archive), Relation::Skipped);
            // Opened again, it skips nothing more.
            let again = TempDir::new().unwrap();
            begin(again.path(), &epoch).unwrap();
            let reopened = open(again.path(), &begins, std::slice::from_ref(&archive)).unwrap();
            assert_eq!((reopened.begins, reopened.epoch.lost()), (begins, epoch.lost()));
            // Had it gone on before it saw the archive, the same offsets would name other records.
            let mut parted = Stored { epoch: first.clone(), sealed: None };
            parted.epoch.advance(&[40, 30]);
            begin(again.path(), &parted.epoch).unwrap();
            let Identity { epoch, begins } =
                open(again.path(), &[50, 30], std::slice::from_ref(&archive)).unwrap();
            assert_eq!(begins, [50, 30]);
            assert_eq!(epoch.relation(&begins, &archive), Relation::Parted { at: vec![40, 30] });
        }
        // All that is archived is older than the copy.
        let archive = Held { log: Some(id), ..held(first.lineage(&[40, 20]), [40, 20]) };
        let Identity { epoch, begins } = open(copy.path(), &[40, 30], &[archive]).unwrap();
        assert_eq!((begins, epoch.lost().len()), (vec![40, 30], 0));
    }

    #[test]
    fn warm_of_another_timeline_is_refused_before_anything_is_stored() {
        let (dir, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let first = open(dir.path(), &[0, 0], &[]).unwrap().epoch;
        let id = first.log().id;
        begin(dir.path(), &first).unwrap();
        begin(copy.path(), &first).unwrap();
        let second = open(dir.path(), &[40, 30], &[]).unwrap().epoch;
        let warm = |lineage, next_offsets| Held {
            holder: Holder::Warm,
            log: Some(id),
            ..held(lineage, next_offsets)
        };
        // Warm has come further in the second generation than a copy of the first: the copy skips that.
        let ahead = warm(second.lineage(&[60, 30]), [60, 30]);
        let opened = open(copy.path(), &[40, 30], std::slice::from_ref(&ahead)).unwrap();
        assert_eq!(opened.begins, [60, 30]);
        // A copy that has used the offsets itself.
        let parted = open(copy.path(), &[40, 30], &[]).unwrap().epoch;
        begin(copy.path(), &parted).unwrap();
        let stored = fs::read(copy.path().join(FILE)).unwrap();
        let refused = open(copy.path(), &[90, 30], std::slice::from_ref(&ahead)).unwrap_err();
        let IdentityError::Misfit(Misfit::Parted { partition: 0, offset: 40, .. }) = refused else {
            panic!("{refused}")
        };
        let other = Held { log: Some(!id), ..ahead.clone() };
        let refused = open(copy.path(), &[90, 30], &[other]).unwrap_err();
        assert!(matches!(refused, IdentityError::Misfit(Misfit::OtherLog { .. })), "{refused}");
        assert_eq!(fs::read(copy.path().join(FILE)).unwrap(), stored);
        // What warm holds is older than the copy, or warm names nothing.
        for fits in
            [warm(second.lineage(&[40, 30]), [40, 30]), Held { log: None, ..warm(Vec::new(), [60, 30]) }]
        {
            assert_eq!(open(copy.path(), &[90, 30], &[fits]).unwrap().begins, [90, 30]);
        }
    }

    #[test]
    fn a_skip_that_a_crash_interrupted_is_finished_without_the_store_that_it_is_of() {
        let dir = TempDir::new().unwrap();
        let first = open(dir.path(), &[0, 0], &[]).unwrap().epoch;
        begin(dir.path(), &first).unwrap();
        let mut other = first.clone();
        other.advance(&[40, 30]);
        let archive = Held { log: Some(first.log().id), ..held(other.lineage(&[60, 30]), [60, 30]) };
        let skipping = open(dir.path(), &[40, 30], std::slice::from_ref(&archive)).unwrap();
        assert_eq!(skipping.begins, [61, 30]);
        begin(dir.path(), &skipping.epoch).unwrap();
        // The log ends where it did, and the archive may be away.
        for stores in [&[][..], std::slice::from_ref(&archive)] {
            let Identity { epoch, begins } = open(dir.path(), &[40, 30], stores).unwrap();
            assert_eq!((&begins[..], epoch.lost()), (&[61, 30][..], skipping.epoch.lost()));
            assert!(epoch.has(skipping.epoch.log().generation, &[40, 30]), "it ended there");
            assert_eq!(epoch.relation(&begins, &archive), Relation::Skipped);
        }
        // Records before the range are gone as well, though the next start had read them.
        let Identity { epoch, begins } = open(dir.path(), &[37, 30], &[]).unwrap();
        assert_eq!(begins, [61, 30]);
        assert!(epoch.is_skipped(0, 37, 61) && epoch.is_skipped(1, 30, 30));
        assert_eq!(epoch.relation(&begins, &archive), Relation::Skipped);
        // Once it was skipped, nothing more is.
        let done = open(dir.path(), &[61, 30], &[]).unwrap();
        assert_eq!((done.begins, done.epoch.lost()), (vec![61, 30], skipping.epoch.lost()));
    }

    #[test]
    fn a_log_that_was_lost_alone_keeps_the_generations_that_warm_names() {
        let dir = TempDir::new().unwrap();
        let mut first = open(dir.path(), &[0, 0], &[]).unwrap().epoch;
        let copied = first.lineage(&[30, 30]);
        first.advance(&[50, 30]);
        let gone = Gone::of(["2026-11-27".parse().unwrap()]);
        let (holder, id) = (Holder::Warm, first.log().id);
        // Warm had not come to the end of the first generation.
        let warm = Held { holder, log: Some(id), gone, ..held(first.lineage(&[45, 30]), [45, 30]) };
        let Identity { epoch, begins } = open(dir.path(), &[0, 0], std::slice::from_ref(&warm)).unwrap();
        assert_eq!((epoch.log().id, &begins[..]), (id, &[45, 30][..]));
        assert_eq!(epoch.lost(), [lost(holder, [0, 0], [45, 30], gone)]);
        assert_eq!(epoch.relation(&begins, &warm), Relation::Own);
        let archive = Held { log: Some(id), ..held(copied, [30, 30]) };
        assert_eq!(epoch.relation(&begins, &archive), Relation::Own, "a copy of before the loss");
        // What the log had beyond warm is gone, and so are the places there.
        let generation = epoch.ended().next().unwrap().generation;
        assert!(epoch.has(generation, &[45, 30]) && !epoch.has(generation, &[46, 30]));
    }

    #[test]
    fn a_new_log_beside_an_archive_takes_its_place() {
        let dir = TempDir::new().unwrap();
        let archive = held(vec![ended(3, [60, 30])], [60, 30]);
        let Identity { epoch, begins } = open(dir.path(), &[0, 0], std::slice::from_ref(&archive)).unwrap();
        assert_eq!((epoch.log().id, &begins[..]), (ID, &[61, 31][..]));
        assert_eq!(epoch.relation(&begins, &archive), Relation::Skipped);
        // Symbols would be in other partitions.
        let archive = Held { next_offsets: vec![60, 30, 10], ..archive };
        let Identity { epoch, begins } = open(dir.path(), &[0, 0], &[archive]).unwrap();
        assert!(epoch.log().id != ID && begins == [0, 0]);
    }
}
