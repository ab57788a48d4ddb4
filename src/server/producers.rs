//! Which batches of each producer this server has taken: what tells a batch that is sent again from
//! one that comes too late.
//!
//! Every reader of the log drops a record whose number does not rise above its producer's last one.
//! So a batch below one that was taken is kept by nobody unless it is in the log already, and must
//! not be acknowledged as if it were. Known is what this process has seen; a number from before
//! (a producer that resends after a restart of the server) is taken for one sent again.

use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashMap;

/// Producers that are remembered; past it the one that was silent longest is forgotten.
const PRODUCERS_MAX: usize = 1024;
/// Runs of numbers that are remembered of each; past it the hole between the two lowest is forgotten.
const RUNS_MAX: usize = 256;

/// A batch that readers would drop though it was never taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it was not taken before batch {taken} was, and would now be dropped as a repeat; send its ticks under a number above that"
)]
pub(super) struct TooLate {
    /// The producer's highest batch that was taken.
    taken: u64,
}

/// The batches of one producer. Whoever appends one holds this from [`Batches::admit`] to
/// [`Batches::taken`], so that none overtakes another on a second connection.
#[derive(Debug, Default)]
pub(super) struct Batches {
    /// The first number seen; of those below it nothing is known.
    first: Option<u64>,
    /// Runs of numbers that were taken, first and last, ascending and apart.
    runs: Vec<(u64, u64)>,
}

impl Batches {
    /// Whether batch `sequence` may be appended: it is new, or was taken before.
    pub(super) fn admit(&mut self, sequence: u64) -> Result<(), TooLate> {
        let first = *self.first.get_or_insert(sequence);
        let at = self.runs.partition_point(|run| run.1 < sequence);
        match self.runs.last() {
            Some(&(_, taken)) if at < self.runs.len() && self.runs[at].0 > sequence && sequence >= first => {
                Err(TooLate { taken })
            }
            _ => Ok(()),
        }
    }

    /// Batch `sequence` is in the log.
    pub(super) fn taken(&mut self, sequence: u64) {
        let at = self.runs.partition_point(|run| run.1 < sequence);
        if self.runs.get(at).is_some_and(|run| run.0 <= sequence) {
            return;
        }
        let follows = at > 0 && self.runs[at - 1].1 + 1 == sequence;
        let leads = self.runs.get(at).is_some_and(|run| run.0 == sequence + 1);
        match (follows, leads) {
            (true, true) => self.runs[at - 1].1 = self.runs.remove(at).1,
            (true, false) => self.runs[at - 1].1 = sequence,
            (false, true) => self.runs[at].0 = sequence,
            (false, false) => self.runs.insert(at, (sequence, sequence)),
        }
        self.bound();
    }

    /// Batch `sequence` did not become durable.
    pub(super) fn lost(&mut self, sequence: u64) {
        let at = self.runs.partition_point(|run| run.1 < sequence);
        let Some(&(first, last)) = self.runs.get(at).filter(|run| run.0 <= sequence) else { return };
        let before = (first < sequence).then(|| (first, sequence - 1));
        let after = (sequence < last).then(|| (sequence + 1, last));
        self.runs.splice(at..=at, before.into_iter().chain(after));
        self.bound();
    }

    fn bound(&mut self) {
        if self.runs.len() > RUNS_MAX {
            let (first, _) = self.runs.remove(0);
            self.runs[0].0 = first;
        }
    }
}

struct Known {
    batches: Arc<tokio::sync::Mutex<Batches>>,
    /// When it was asked for last, in the order of askings.
    at: u64,
}

/// The producers that this server knows.
#[derive(Default)]
pub(super) struct Producers {
    known: Mutex<(HashMap<u64, Known>, u64)>,
}

impl Producers {
    /// The batches of `producer`.
    pub(super) fn batches(&self, producer: u64) -> Arc<tokio::sync::Mutex<Batches>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (by_number, askings) = &mut *known;
        *askings += 1;
        let at = *askings;
        if by_number.len() >= PRODUCERS_MAX && !by_number.contains_key(&producer) {
            // One whose batch is being appended is not silent.
            let idle = by_number.iter().filter(|(_, known)| Arc::strong_count(&known.batches) == 1);
            if let Some(silent) = idle.min_by_key(|(_, known)| known.at).map(|(&number, _)| number) {
                by_number.remove(&silent);
            }
        }
        let entry = by_number.entry(producer).or_insert_with(|| Known { batches: Arc::default(), at });
        entry.at = at;
        entry.batches.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_that_was_passed_over_comes_too_late() {
        let mut batches = Batches::default();
        for sequence in [1, 2] {
            batches.admit(sequence).unwrap();
            batches.taken(sequence);
        }
        batches.admit(3).unwrap();
        batches.admit(4).unwrap();
        batches.taken(4);
        assert_eq!(batches.admit(3), Err(TooLate { taken: 4 }));
        for again in [1, 2, 4] {
            batches.admit(again).unwrap();
        }
        batches.admit(0).expect("from before this server: taken for one sent again");
    }

    #[test]
    fn what_was_lost_may_come_again_unless_a_later_one_is_there() {
        let mut batches = Batches::default();
        (1..=4).for_each(|sequence| batches.taken(sequence));
        batches.admit(1).unwrap();
        batches.lost(2);
        assert_eq!(batches.admit(2), Err(TooLate { taken: 4 }));
        (3..=4).for_each(|sequence| batches.lost(sequence));
        batches.admit(2).unwrap();
        batches.taken(2);
        assert_eq!(batches.runs, [(1, 2)]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut batches = Batches::default();
        (0..10_000).for_each(|sequence| batches.taken(2 * sequence));
        assert_eq!(batches.runs.len(), RUNS_MAX);
        batches.admit(0).unwrap();
        assert_eq!(batches.admit(19_997), Err(TooLate { taken: 19_998 }));
        let producers = Producers::default();
        let held = producers.batches(7);
        held.try_lock().unwrap().taken(3);
        (1_000..1_000 + 2 * PRODUCERS_MAX as u64).for_each(|producer| drop(producers.batches(producer)));
        assert_eq!(producers.known.lock().unwrap().0.len(), PRODUCERS_MAX);
        assert_eq!(producers.batches(7).try_lock().unwrap().runs, [(3, 3)], "it was in use");
    }

    proptest! {
        #[test]
        fn runs_are_the_set_of_what_was_taken(steps in prop::collection::vec((0_u64..40, any::<bool>()), 0..80)) {
            let (mut batches, mut model) = (Batches::default(), BTreeSet::new());
            batches.admit(0).unwrap();
            for (sequence, is_taken) in steps {
                if is_taken {
                    batches.taken(sequence);
                    model.insert(sequence);
                } else {
                    batches.lost(sequence);
                    model.remove(&sequence);
                }
                for asked in 0..40 {
                    let fits = model.contains(&asked) || model.last().is_none_or(|last| *last < asked);
                    prop_assert_eq!(batches.admit(asked).is_ok(), fits, "{} of {:?}", asked, model);
                }
                prop_assert!(batches.runs.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
            }
        }
    }
}
