//! The memory of producers: which batches of each producer one partition of the log holds.
//!
//! Every reader of the log uses it, and so does the intake. A record whose number does not rise above
//! its producer's last number is dropped by every reader ([`Producers::admit`]). The intake asks
//! [`Producers::look`] first, and refuses a batch that readers would drop unless the log already holds
//! the same batch.
//!
//! The memory is a pure function of the log. It is saved with the state of a partition, so that
//! numbers survive restarts.

use std::collections::VecDeque;

use foldhash::{HashMap, HashMapExt};

use super::codec::{CodecError, Reader, Writer};
use crate::wire::record::Origin;

/// Producers that are known at once. When one more comes, the quarter that was silent longest is retired.
pub const PRODUCERS_MAX: usize = 1 << 16;

/// Retired producers that are told from new ones. With so many retired and [`PRODUCERS_MAX`] known, the
/// intake refuses new producers.
pub const RETIRED_MAX: usize = 1 << 20;

/// The last batches of a producer that are recognized when they are sent again. A server has 64 batches
/// of a connection in flight at most.
pub const RECENT_MAX: usize = 128;

/// Batches of all producers that are recognized. Beyond it the producers silent longest lose theirs.
const RECENT_ALL_MAX: usize = 1 << 16;

/// A producer that is not retired.
#[derive(Clone, Debug)]
struct Known {
    /// The first number admitted, and the checksum of its record.
    first: u64,
    first_checksum: u32,
    /// The highest number.
    last: u64,
    /// The time of its last record, in admissions.
    at: u64,
    /// The last batches by number, ascending, each with the checksum of its record.
    recent: VecDeque<(u64, u32)>,
}

/// What the log holds of a batch, as far as one partition knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its number is above the producer's last one, or the producer is new: readers take it in.
    New,
    /// The log holds this batch.
    Stored,
    /// The log holds another batch under this number, and the producer's last number is this.
    Differs(u64),
    /// Its number is not above the producer's last one (given), and is not among the last ones that are
    /// remembered: readers would drop it.
    Passed(u64),
    /// The producer was silent while very many others were heard; its numbers are no longer known.
    Retired,
    /// As many producers as can be told apart have been heard.
    Full,
}

/// The producers that one partition of the log has heard.
#[derive(Clone, Debug, Default)]
pub struct Producers {
    known: HashMap<u64, Known>,
    admissions: u64,
    /// Entries in all `recent`.
    recent: usize,
    /// Fingerprints of retired producers, ascending.
    retired: Vec<u32>,
    /// Producers retired by this value since it was made or restored.
    retirements: u64,
}

impl Producers {
    /// Takes in a record of `origin` with this checksum. False for a repeat, which readers skip.
    pub fn admit(&mut self, origin: Origin, checksum: u32) -> bool {
        self.admissions += 1;
        let (at, sequence) = (self.admissions, origin.sequence);
        if let Some(known) = self.known.get_mut(&origin.producer) {
            known.at = at;
            if sequence <= known.last {
                return false;
            }
            known.last = sequence;
            known.recent.push_back((sequence, checksum));
            if known.recent.len() > RECENT_MAX {
                known.recent.pop_front();
            } else {
                self.recent += 1;
            }
        } else {
            if self.known.len() >= PRODUCERS_MAX {
                self.retire();
            }
            let recent = VecDeque::from([(sequence, checksum)]);
            let (first, first_checksum) = (sequence, checksum);
            self.known.insert(origin.producer, Known { first, first_checksum, last: sequence, at, recent });
            self.recent += 1;
        }
        if self.recent > RECENT_ALL_MAX {
            self.forget_recent();
        }
        true
    }

    /// What the log holds of the batch of `origin` whose record has this checksum.
    pub fn look(&self, origin: Origin, checksum: u32) -> Standing {
        let Some(known) = self.known.get(&origin.producer) else {
            return if self.is_retired(origin.producer) {
                Standing::Retired
            } else if self.retired.len() >= RETIRED_MAX && self.known.len() >= PRODUCERS_MAX {
                Standing::Full
            } else {
                Standing::New
            };
        };
        if origin.sequence > known.last {
            return Standing::New;
        }
        let at = known.recent.partition_point(|(sequence, _)| *sequence < origin.sequence);
        match known.recent.get(at) {
            Some(&(sequence, held)) if sequence == origin.sequence => {
                if held == checksum {
                    Standing::Stored
                } else {
                    Standing::Differs(known.last)
                }
            }
            _ => Standing::Passed(known.last),
        }
    }

    /// The last number of a producer; `None` of one that is not known.
    pub fn last(&self, producer: u64) -> Option<u64> {
        self.known.get(&producer).map(|known| known.last)
    }

    /// The first number of a producer, with the checksum of its record.
    pub fn first(&self, producer: u64) -> Option<(u64, u32)> {
        self.known.get(&producer).map(|known| (known.first, known.first_checksum))
    }

    /// Whether a producer was known once and is no longer. Of a million new producers, some 200 are taken
    /// for retired ones when a million are retired.
    pub fn is_retired(&self, producer: u64) -> bool {
        self.retired.binary_search(&fingerprint(producer)).is_ok()
    }

    /// How many producers this value has retired since it was made or restored.
    pub fn retirements(&self) -> u64 {
        self.retirements
    }

    /// Retires the quarter of the producers that was silent longest.
    fn retire(&mut self) {
        let mut ats: Vec<u64> = self.known.values().map(|known| known.at).collect();
        let quarter = ats.len() / 4;
        let (_, &mut newest, _) = ats.select_nth_unstable(quarter);
        let mut retired = std::mem::take(&mut self.retired);
        self.known.retain(|producer, known| {
            let stays = known.at >= newest;
            if !stays {
                self.recent -= known.recent.len();
                self.retirements += 1;
                retired.push(fingerprint(*producer));
            }
            stays
        });
        retired.sort_unstable();
        retired.dedup();
        // Feeds of the server itself are not refused: room for very many of their restarts.
        retired.truncate(RETIRED_MAX + PRODUCERS_MAX);
        self.retired = retired;
    }

    /// Drops the recent batches of the producers silent longest, until a quarter is free.
    fn forget_recent(&mut self) {
        let mut ats: Vec<u64> = self.known.values().map(|known| known.at).collect();
        ats.sort_unstable();
        let by_at: HashMap<u64, u64> = self.known.iter().map(|(id, known)| (known.at, *id)).collect();
        for at in ats {
            if self.recent <= RECENT_ALL_MAX / 4 * 3 {
                break;
            }
            if let Some(known) = by_at.get(&at).and_then(|id| self.known.get_mut(id)) {
                self.recent -= known.recent.len();
                known.recent = VecDeque::new();
            }
        }
    }

    /// About how many bytes [`Producers::save`] writes.
    pub(super) fn saved_bytes(&self) -> usize {
        24 * self.known.len() + 6 * self.recent + 3 * self.retired.len()
    }

    /// Writes it, as [`super::state::STATE_VERSION`] does.
    pub(super) fn save(&self, out: &mut Writer) {
        let mut known: Vec<_> = self.known.iter().collect();
        known.sort_unstable_by_key(|(_, known)| known.at);
        out.varint(known.len() as u64);
        for (&producer, known) in known {
            out.varint(producer);
            out.varint(known.last);
            out.varint(known.last - known.first);
            out.u32(known.first_checksum);
            out.varint(known.recent.len() as u64);
            let mut after = known.last;
            for (sequence, checksum) in known.recent.iter().rev() {
                out.varint(after - sequence);
                out.u32(*checksum);
                after = *sequence;
            }
        }
        out.varint(self.retired.len() as u64);
        let mut before = 0;
        for fingerprint in &self.retired {
            out.varint(u64::from(fingerprint - before));
            before = *fingerprint;
        }
    }

    /// Reads what [`Producers::save`] wrote, or what version 1 of the state kept: the last number of each
    /// producer alone.
    pub(super) fn restore(input: &mut Reader<'_>, version: u8) -> Result<Self, CodecError> {
        let mut read = Self::default();
        let count = input.count(2)?;
        read.known = HashMap::with_capacity(count.min(PRODUCERS_MAX));
        for at in 1..=count as u64 {
            let (producer, last) = (input.varint()?, input.varint()?);
            let mut known = Known { first: last, first_checksum: 0, last, at, recent: VecDeque::new() };
            if version > 1 {
                let out_of_range = CodecError::Damaged("a batch is out of range");
                known.first = last.checked_sub(input.varint()?).ok_or(out_of_range.clone())?;
                known.first_checksum = input.u32()?;
                let mut after = last;
                for _ in 0..input.count(5)?.min(RECENT_MAX) {
                    after = after.checked_sub(input.varint()?).ok_or(out_of_range.clone())?;
                    known.recent.push_front((after, input.u32()?));
                }
            }
            read.recent += known.recent.len();
            if let Some(twice) = read.known.insert(producer, known) {
                read.recent -= twice.recent.len();
            }
        }
        read.admissions = count as u64;
        if version > 1 {
            let mut before = 0_u32;
            for _ in 0..input.count(1)? {
                let step = u32::try_from(input.varint()?).ok();
                let fingerprint = step.and_then(|step| before.checked_add(step));
                before = fingerprint.ok_or(CodecError::Damaged("a retired producer is out of range"))?;
                read.retired.push(before);
            }
        }
        Ok(read)
    }
}

/// A short name for a producer: its upper half after a mixing that spreads small numbers too.
fn fingerprint(producer: u64) -> u32 {
    let mixed = (producer ^ (producer >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(producer: u64, sequence: u64) -> Origin {
        Origin { producer, sequence }
    }

    /// What a restart makes of it.
    fn restarted(producers: &Producers) -> Producers {
        let mut out = Writer::new(2, producers.saved_bytes());
        producers.save(&mut out);
        let bytes = out.finish();
        let (version, mut input) = Reader::of_versions(&bytes, 2..=2).unwrap();
        let read = Producers::restore(&mut input, version).unwrap();
        input.end().unwrap();
        read
    }

    #[test]
    fn a_batch_is_new_stored_or_passed_before_and_after_a_restart() {
        let mut producers = Producers::default();
        for sequence in [10, 11, 13] {
            assert!(producers.admit(origin(42, sequence), sequence as u32));
        }
        assert!(!producers.admit(origin(42, 11), 11) && !producers.admit(origin(42, 12), 12));
        for producers in [&producers, &restarted(&producers)] {
            let look = |sequence, checksum| producers.look(origin(42, sequence), checksum);
            assert_eq!([look(10, 10), look(11, 11), look(13, 13)], [Standing::Stored; 3]);
            assert_eq!((look(11, 12), look(14, 14)), (Standing::Differs(13), Standing::New));
            assert_eq!([look(5, 5), look(12, 12)], [Standing::Passed(13); 2]);
            assert_eq!(producers.look(origin(1, 1), 1), Standing::New);
            assert_eq!((producers.first(42), producers.last(42)), (Some((10, 10)), Some(13)));
        }
    }

    #[test]
    fn the_last_batches_of_each_producer_are_recognized() {
        let mut producers = Producers::default();
        for sequence in 1..=1_000 {
            assert!(producers.admit(origin(7, sequence), 1));
        }
        assert_eq!(producers.recent, RECENT_MAX);
        let first = 1_000 - RECENT_MAX as u64;
        assert_eq!(producers.look(origin(7, first), 1), Standing::Passed(1_000));
        assert_eq!(producers.look(origin(7, first + 1), 1), Standing::Stored);
        for sequence in 0..RECENT_ALL_MAX as u64 {
            producers.admit(origin(1_000 + sequence / 64, sequence), 1);
            assert!(producers.recent <= RECENT_ALL_MAX);
        }
        assert_eq!(producers.look(origin(7, 1_000), 1), Standing::Passed(1_000), "silent longest");
        assert_eq!(producers.look(origin(7, 1_001), 1), Standing::New);
        assert_eq!(restarted(&producers).recent, producers.recent);
    }

    #[test]
    fn a_retired_producer_is_never_taken_for_a_new_one() {
        let mut producers = Producers::default();
        for producer in 0..=PRODUCERS_MAX as u64 {
            assert!(producers.admit(origin(producer, 1), 1));
            producers.admit(origin(0, 1), 1);
        }
        assert_eq!(producers.retirements(), PRODUCERS_MAX as u64 / 4);
        for producers in [&producers, &restarted(&producers)] {
            assert_eq!(producers.look(origin(1, 1), 1), Standing::Retired);
            assert_eq!(producers.look(origin(1, 2), 1), Standing::Retired);
            assert_eq!(producers.look(origin(0, 1), 1), Standing::Stored, "heard all the time");
            assert_eq!(producers.look(origin(PRODUCERS_MAX as u64, 1), 1), Standing::Stored);
            assert_eq!(producers.look(origin(1 << 40, 1), 1), Standing::New);
        }
        let mut full = producers;
        full.retired = (0..RETIRED_MAX as u32).map(|at| at * 2).collect();
        let unknown = (1 << 40..1 << 41).find(|id| fingerprint(*id) % 2 == 1).unwrap();
        assert_eq!(full.look(origin(unknown, 1), 1), Standing::New, "there is room yet");
        (1..PRODUCERS_MAX as u64 / 4).for_each(|id| assert!(full.admit(origin(1 << 50 | id, 1), 1)));
        let unknown =
            (1 << 40..1 << 41).find(|id| full.look(origin(*id, 1), 1) != Standing::Retired).unwrap();
        assert_eq!(full.look(origin(unknown, 1), 1), Standing::Full);
    }
}
