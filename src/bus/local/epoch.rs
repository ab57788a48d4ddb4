//! The log's identity on disk: `DATA/log/epoch`, a few lines of text.
//!
//! ```text
//! stk log epoch 1
//! log ID                  16 hexadecimal digits, chosen when the log was made
//! generation NUMBER
//! end OFFSET…             where a generation before it ended, by partition; oldest first
//! sealed OFFSET…          where the log ends; only while it is closed
//! xxh3 HASH               of all bytes before this line, 16 hexadecimal digits
//! ```
//!
//! A log that ends in good order is sealed. One that is found without its seal, or that ends
//! elsewhere than the seal says, may have handed out what is gone: it begins a new generation, which
//! is durable before a record of it can be read.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::bus::epoch::{GENERATIONS_MAX, LogEpoch, random_id};

const FILE: &str = "epoch";
const TEMPORARY_FILE: &str = "epoch.tmp";
const HEAD: &str = "stk log epoch 1";

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    epoch: LogEpoch,
    /// By partition, where the log ended when it was closed.
    sealed: Option<Vec<u64>>,
}

/// The epoch of the log in `path`, whose records end before `nexts`.
///
/// A log of a version that had none, or whose file is damaged, gets a new identity: tokens from
/// before are then taken for those of another log.
pub(super) fn open(path: &Path, nexts: &[u64]) -> io::Result<LogEpoch> {
    let file = path.join(FILE);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LogEpoch::new(random_id())),
        // Not text: damaged like any other.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
        Err(error) => return Err(error),
    };
    let Some(Stored { mut epoch, sealed }) = Stored::decode(&text, nexts.len()) else {
        tracing::warn!(
            file = %file.display(),
            "damaged: the log gets a new identity, and clients that come back are told of a gap"
        );
        return Ok(LogEpoch::new(random_id()));
    };
    if sealed.as_deref() != Some(nexts) {
        epoch.advance(nexts);
        tracing::info!(
            generation = epoch.log().generation,
            "the log was not closed in good order: what was not yet durable is gone"
        );
    }
    Ok(epoch)
}

/// Writes that the log is in use, durably.
pub(super) fn begin(path: &Path, epoch: &LogEpoch) -> io::Result<()> {
    write(path, &Stored { epoch: epoch.clone(), sealed: None })?;
    File::open(path)?.sync_all()
}

/// Writes that the log ended in good order before `nexts`. Where the system loses that, the next one
/// begins a generation without need.
pub(super) fn seal(path: &Path, epoch: &LogEpoch, nexts: Vec<u64>) -> io::Result<()> {
    write(path, &Stored { epoch: epoch.clone(), sealed: Some(nexts) })
}

fn write(path: &Path, stored: &Stored) -> io::Result<()> {
    let temporary = path.join(TEMPORARY_FILE);
    let mut file = File::create(&temporary)?;
    file.write_all(stored.encode().as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path.join(FILE))
}

impl Stored {
    fn encode(&self) -> String {
        let mut out = String::new();
        let log = self.epoch.log();
        // Writing to a string can't fail.
        let _ = write!(out, "{HEAD}\nlog {:016x}\ngeneration {}\n", log.id, log.generation);
        let ends = self.epoch.ends().map(|end| ("end", end));
        for (name, offsets) in ends.chain(self.sealed.iter().map(|sealed| ("sealed", sealed.as_slice()))) {
            out.push_str(name);
            for offset in offsets {
                let _ = write!(out, " {offset}");
            }
            out.push('\n');
        }
        let hash = xxh3_64(out.as_bytes());
        let _ = writeln!(out, "xxh3 {hash:016x}");
        out
    }

    /// `None` where a byte is not as it was written, or it is of another log than one of
    /// `partitions`.
    fn decode(text: &str, partitions: usize) -> Option<Self> {
        let (body, hash) = text.strip_suffix('\n')?.rsplit_once('\n')?;
        let hashed = &text[..=body.len()];
        let hash = u64::from_str_radix(hash.strip_prefix("xxh3 ")?, 16).ok()?;
        if xxh3_64(hashed.as_bytes()) != hash {
            return None;
        }
        let mut lines = body.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let id = u64::from_str_radix(lines.next()?.strip_prefix("log ")?, 16).ok()?;
        let generation = lines.next()?.strip_prefix("generation ")?.parse().ok()?;
        let (mut ends, mut sealed) = (Vec::new(), None);
        for line in lines {
            let (name, offsets) = line.split_once(' ')?;
            let offsets: Vec<u64> =
                offsets.split(' ').map(|offset| offset.parse().ok()).collect::<Option<_>>()?;
            if offsets.len() != partitions {
                return None;
            }
            match name {
                "end" if ends.len() < GENERATIONS_MAX => ends.push(offsets),
                "sealed" => sealed = Some(offsets),
                _ => return None,
            }
        }
        Some(Self { epoch: LogEpoch::with_ends(id, generation, ends), sealed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 1 wrote is read for ever.
    const VERSION_1: &str = include_str!("../../../tests/golden/bus/epoch-v1.txt");

    fn stored() -> Stored {
        let ends = [vec![10, 20], vec![12, 20]];
        Stored { epoch: LogEpoch::with_ends(0x0123_4567_89ab_cdef, 2, ends), sealed: Some(vec![1000, 2000]) }
    }

    #[test]
    fn it_reads_what_it_writes_and_nothing_else() {
        assert_eq!(stored().encode(), VERSION_1);
        assert_eq!(Stored::decode(VERSION_1, 2), Some(stored()));
        let open = Stored { sealed: None, ..stored() };
        assert_eq!(Stored::decode(&open.encode(), 2), Some(open));
        assert_eq!(Stored::decode(VERSION_1, 3), None);
        for at in 0..VERSION_1.len() {
            assert_eq!(Stored::decode(&VERSION_1[..at], 2), None, "cut at {at}");
            let mut flipped = VERSION_1.as_bytes().to_vec();
            flipped[at] ^= 1;
            let flipped = String::from_utf8(flipped).unwrap();
            // A digit of the hash in capitals is the same digit; one flipped bit makes none.
            assert_eq!(Stored::decode(&flipped, 2), None, "byte {at} flipped");
        }
    }
}
