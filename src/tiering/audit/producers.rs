//! What the log says of its producers: which of their batches it holds, and which records every reader
//! drops.
//!
//! A producer's numbers need only rise, and some skip (a feed out of Kafka numbers by the offsets of its
//! source), so that a number without a record is told and is no break. A record that is dropped as
//! a repeat though no record before it had its number is one: what it held is nowhere.

use std::collections::BTreeMap;

use foldhash::HashMap;

use crate::wire::record::Origin;

/// Producers that are told apart, at most; further ones are counted.
const PRODUCERS_MAX: usize = 1 << 16;

/// Numbers of one chunk of a set.
const CHUNK: u64 = 4096;

/// Chunks that all sets together may hold, half a KiB each. Past it no further numbers are followed.
const CHUNKS_MAX: usize = 1 << 15;

/// A set of numbers that lie near each other.
#[derive(Clone, Debug, Default)]
struct Numbers {
    chunks: HashMap<u64, Box<[u64; CHUNK as usize / 64]>>,
}

impl Numbers {
    fn has(&self, number: u64) -> bool {
        let at = (number % CHUNK) as usize;
        self.chunks.get(&(number / CHUNK)).is_some_and(|chunk| chunk[at / 64] >> (at % 64) & 1 == 1)
    }

    fn insert(&mut self, number: u64) {
        let at = (number % CHUNK) as usize;
        let chunk = self.chunks.entry(number / CHUNK).or_insert_with(|| Box::new([0; CHUNK as usize / 64]));
        chunk[at / 64] |= 1 << (at % 64);
    }

    fn add(&mut self, other: &Self) {
        for (&at, words) in &other.chunks {
            let own = self.chunks.entry(at).or_insert_with(|| Box::new([0; CHUNK as usize / 64]));
            own.iter_mut().zip(words.iter()).for_each(|(own, word)| *own |= word);
        }
    }

    fn len(&self) -> u64 {
        let words = self.chunks.values().flat_map(|chunk| chunk.iter());
        words.map(|word| u64::from(word.count_ones())).sum()
    }
}

/// What is known of a producer, in one partition or in all.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The number of its first record in the partition.
    began: u64,
    /// The lowest number.
    first: u64,
    last: u64,
    records: u64,
    repeats: u64,
    /// None where there are too many to be followed.
    numbers: Option<Numbers>,
}

/// A producer, as all partitions of the log know it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Producer {
    /// Who.
    pub producer: u64,
    /// The lowest number in the log.
    pub first: u64,
    /// The highest.
    pub last: u64,
    /// Numbers in the log; none where they are too many to be followed.
    pub batches: Option<u64>,
    /// Records: a batch has one in each partition that it has ticks of.
    pub records: u64,
    /// Records of them that every reader drops as repeats.
    pub repeats: u64,
    /// The first number between `first` and `last` of which there is no record.
    pub first_missing: Option<u64>,
}

impl Producer {
    /// Numbers between the first and the last of which there is no record.
    pub fn missing(&self) -> u64 {
        self.batches.map_or(0, |batches| (self.last - self.first + 1).saturating_sub(batches))
    }
}

/// All producers.
#[derive(Debug, Default)]
pub(super) struct Producers {
    all: BTreeMap<u64, Seen>,
    here: BTreeMap<u64, Seen>,
    chunks: usize,
    /// Records of producers past [`PRODUCERS_MAX`].
    pub(super) untold_records: u64,
}

impl Producers {
    /// Takes in a record of the partition at hand. Whether every reader drops it though nothing
    /// before it in the partition had its number. `is_trimmed` says that the partition has lost its beginning.
    pub(super) fn take(&mut self, origin: Origin, is_new: bool, is_trimmed: bool) -> bool {
        let Origin { producer, sequence } = origin;
        if self.here.len() >= PRODUCERS_MAX && !self.here.contains_key(&producer) {
            self.untold_records += 1;
            return false;
        }
        let seen = self.here.entry(producer).or_insert_with(|| Seen {
            began: sequence,
            first: sequence,
            last: sequence,
            numbers: (self.chunks < CHUNKS_MAX).then(Numbers::default),
            ..Seen::default()
        });
        // What is sent again from before the beginning is below that number, whatever came of it already.
        let may_be_known = is_trimmed && sequence < seen.began;
        let was_heard = seen.numbers.as_ref().is_none_or(|numbers| numbers.has(sequence));
        let is_lost = !(is_new || may_be_known || was_heard);
        seen.records += 1;
        seen.repeats += u64::from(!is_new);
        (seen.first, seen.last) = (seen.first.min(sequence), seen.last.max(sequence));
        if let Some(numbers) = &mut seen.numbers {
            let before = numbers.chunks.len();
            numbers.insert(sequence);
            self.chunks += numbers.chunks.len() - before;
            if self.chunks > CHUNKS_MAX {
                self.chunks -= numbers.chunks.len();
                seen.numbers = None;
            }
        }
        is_lost
    }

    /// Ends the partition at hand.
    pub(super) fn end_partition(&mut self) {
        for (producer, here) in std::mem::take(&mut self.here) {
            let held = |seen: &Seen| seen.numbers.as_ref().map_or(0, |numbers| numbers.chunks.len());
            let Some(all) = self.all.get_mut(&producer) else {
                if self.all.len() < PRODUCERS_MAX {
                    self.all.insert(producer, here);
                } else {
                    self.untold_records += here.records;
                    self.chunks -= held(&here);
                }
                continue;
            };
            self.chunks -= held(all) + held(&here);
            match (&mut all.numbers, &here.numbers) {
                (Some(numbers), Some(here)) => numbers.add(here),
                (numbers, _) => *numbers = None,
            }
            self.chunks += held(all);
            (all.first, all.last) = (all.first.min(here.first), all.last.max(here.last));
            all.records += here.records;
            all.repeats += here.repeats;
        }
    }

    /// Forgets what was taken of the partition at hand, which is begun anew.
    pub(super) fn restart_partition(&mut self) {
        let here = std::mem::take(&mut self.here);
        let chunks =
            here.values().filter_map(|seen| seen.numbers.as_ref()).map(|numbers| numbers.chunks.len());
        self.chunks -= chunks.sum::<usize>();
    }

    /// What is known of each, by its number.
    pub(super) fn finish(self) -> Vec<Producer> {
        let told = self.all.into_iter().map(|(producer, seen)| {
            let batches = seen.numbers.as_ref().map(Numbers::len);
            let is_whole = batches.is_none_or(|batches| batches == seen.last - seen.first + 1);
            let missing = seen.numbers.as_ref().filter(|_| !is_whole);
            let first_missing =
                missing.and_then(|numbers| (seen.first..seen.last).find(|number| !numbers.has(*number)));
            let Seen { first, last, records, repeats, .. } = seen;
            Producer { producer, first, last, batches, records, repeats, first_missing }
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(producers: &mut Producers, number: u64, is_new: bool) -> bool {
        producers.take(Origin { producer: 7, sequence: number }, is_new, false)
    }

    #[test]
    fn the_numbers_of_all_partitions_together_are_without_a_hole() {
        let mut producers = Producers::default();
        for numbers in [[1, 3, 9_000], [2, 4, 9_001]] {
            assert!(!numbers.iter().any(|number| take(&mut producers, *number, true)));
            producers.end_partition();
        }
        let told = producers.finish();
        let Producer { first, last, batches, records, .. } = told[0];
        assert_eq!((first, last, batches, records), (1, 9_001, Some(6), 6));
        assert_eq!((told[0].missing(), told[0].first_missing), (8_995, Some(5)));
    }

    #[test]
    fn a_record_that_was_overtaken_is_no_repeat() {
        let mut producers = Producers::default();
        assert!(!take(&mut producers, 5, true));
        assert!(!take(&mut producers, 5, false), "it was there before");
        assert!(take(&mut producers, 4, false), "nothing before it had its number");
        // Where the beginning is gone it may have been there.
        producers.restart_partition();
        assert!(!producers.take(Origin { producer: 7, sequence: 5 }, true, true));
        for sequence in [2, 3, 4] {
            assert!(!producers.take(Origin { producer: 7, sequence }, false, true), "batch {sequence}");
        }
        producers.end_partition();
        assert_eq!((producers.chunks, producers.finish()[0].repeats), (1, 3));
    }

    #[test]
    fn numbers_that_lie_far_apart_take_bounded_memory() {
        let mut producers = Producers::default();
        for number in 0..2 * CHUNKS_MAX as u64 {
            take(&mut producers, number * CHUNK, true);
            assert!(producers.chunks <= CHUNKS_MAX);
        }
        producers.end_partition();
        assert_eq!((producers.chunks, producers.finish()[0].batches), (0, None));
    }
}
