//! Which log this is, and what became of its tails: what tells a token of this log from one of
//! another, and from one whose records were lost.
//!
//! Readers see records before they are synced, so a crash may take what was handed out already, and
//! give its offsets to others. Each such end is the end of a *generation*; what a token of an
//! earlier one stands for is still there up to where that one ended.

use std::collections::VecDeque;

use crate::wire::token::{LogId, Position, Token};

/// The most generations that are remembered, the present one not counted; tokens of older ones are
/// judged as lost.
pub const GENERATIONS_MAX: usize = 64;

/// The names of a log: what stores write down to tell its rows from those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogName {
    /// Of the log; no other has it.
    pub id: u64,
    /// The name that earlier versions of stk gave the same log, where that was another one: what names it
    /// so still belongs to it.
    pub former: Option<u64>,
}

impl LogName {
    /// Whether `id` names this log.
    pub fn is(&self, id: u64) -> bool {
        id == self.id || Some(id) == self.former
    }
}

impl From<u64> for LogName {
    fn from(id: u64) -> Self {
        Self { id, former: None }
    }
}

/// The identity of a log, fixed for as long as it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEpoch {
    log: LogId,
    /// The name that earlier versions of stk gave the same log, where that was another one.
    former: Option<u64>,
    /// Of the generations before `log.generation`, the last at the back: by partition, the offset
    /// after the last record that outlived it. Never falls from one to the next.
    ends: VecDeque<Vec<u64>>,
}

/// Why a token says nothing of this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It is of another one.
    #[error("the token is of another log")]
    OtherLog,
    /// It is of this one, and of records that a crash took before they were durable.
    #[error("what the token stands for was lost when the server came to a sudden end")]
    Lost,
}

impl LogEpoch {
    /// The first generation of the log named `id`, which has to be told from every other log: chosen
    /// at random when it is made, or kept by whoever keeps the log. One that never loses what it
    /// handed out has no other.
    pub fn new(id: u64) -> Self {
        Self { log: LogId { id, generation: 0 }, former: None, ends: VecDeque::new() }
    }

    /// Generation `generation` of the log `id`, with where those before it ended, oldest first.
    pub(crate) fn with_ends(id: u64, generation: u32, ends: impl IntoIterator<Item = Vec<u64>>) -> Self {
        Self { log: LogId { id, generation }, former: None, ends: ends.into_iter().collect() }
    }

    /// The same log, which earlier versions of stk named `former`: what names it so still belongs to it.
    pub fn formerly(self, former: u64) -> Self {
        Self { former: (former != self.log.id).then_some(former), ..self }
    }

    /// What stores know the log by.
    pub fn name(&self) -> LogName {
        LogName { id: self.log.id, former: self.former }
    }

    /// What stands in the tokens of now.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// Where the generations before this one ended, oldest first.
    pub(crate) fn ends(&self) -> impl Iterator<Item = &[u64]> {
        self.ends.iter().map(Vec::as_slice)
    }

    /// Begins the next generation: by partition, the present one ended before `nexts`.
    pub(crate) fn advance(&mut self, nexts: &[u64]) {
        self.log.generation += 1;
        // A log that was restored from a copy is shorter than generations that ended long ago.
        for end in &mut self.ends {
            end.iter_mut().zip(nexts).for_each(|(end, next)| *end = (*end).min(*next));
        }
        self.ends.push_back(nexts.to_vec());
        if self.ends.len() > GENERATIONS_MAX {
            self.ends.pop_front();
        }
    }

    /// Whether what `token` stands for is in this log of `partitions`. Says nothing of places that
    /// the log has not reached.
    pub fn check(&self, token: &Token, partitions: u16) -> Result<(), Mismatch> {
        let LogId { id, generation } = token.log();
        if !self.name().is(id) || token.positions().len() != usize::from(partitions) {
            return Err(Mismatch::OtherLog);
        }
        if generation == self.log.generation {
            return Ok(());
        }
        let back = self.log.generation.checked_sub(generation).ok_or(Mismatch::Lost)? as usize;
        let end = self.ends.len().checked_sub(back).and_then(|at| self.ends.get(at));
        let end = end.ok_or(Mismatch::Lost)?;
        let is_there = |(position, end): (&Position, &u64)| *position <= Position { offset: *end, index: 0 };
        let all = token.positions().iter().zip(end).all(is_there);
        if all { Ok(()) } else { Err(Mismatch::Lost) }
    }
}

/// A name for a log that is made: no other has it.
pub(crate) fn random_id() -> u64 {
    use std::hash::BuildHasher;
    // Keyed by the system's random bytes.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    std::hash::RandomState::new().hash_one(now.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u64, generation: u32, positions: &[(u64, u32)]) -> Token {
        let positions = positions.iter().map(|&(offset, index)| Position { offset, index });
        Token::new(LogId { id, generation }, positions.collect())
    }

    #[test]
    fn a_token_is_good_up_to_where_its_generation_ended() {
        let mut epoch = LogEpoch::new(7);
        let check = |epoch: &LogEpoch, generation, positions: &[(u64, u32)]| {
            epoch.check(&token(7, generation, positions), 2)
        };
        // Of the present generation, whatever the place.
        assert_eq!(check(&epoch, 0, &[(900, 3), (0, 0)]), Ok(()));
        assert_eq!(check(&epoch, 1, &[(0, 0), (0, 0)]), Err(Mismatch::Lost), "of the future");
        epoch.advance(&[10, 20]);
        epoch.advance(&[15, 20]);
        assert_eq!(epoch.log(), LogId { id: 7, generation: 2 });
        for (generation, positions, expected) in [
            (0, [(10, 0), (20, 0)], Ok(())),
            (0, [(9, 5), (0, 0)], Ok(())),
            (0, [(10, 1), (0, 0)], Err(Mismatch::Lost)),
            (0, [(11, 0), (0, 0)], Err(Mismatch::Lost)),
            (0, [(0, 0), (21, 0)], Err(Mismatch::Lost)),
            (1, [(15, 0), (20, 0)], Ok(())),
            (1, [(16, 0), (20, 0)], Err(Mismatch::Lost)),
            (2, [(16, 0), (20, 7)], Ok(())),
        ] {
            assert_eq!(check(&epoch, generation, &positions), expected, "{generation} {positions:?}");
        }
        // Restored from a copy: shorter than both.
        epoch.advance(&[5, 20]);
        assert_eq!(check(&epoch, 0, &[(6, 0), (0, 0)]), Err(Mismatch::Lost));
        assert_eq!(check(&epoch, 0, &[(5, 0), (0, 0)]), Ok(()));
    }

    #[test]
    fn other_logs_and_forgotten_generations_are_known() {
        let mut epoch = LogEpoch::new(7);
        assert_eq!(epoch.check(&token(8, 0, &[(0, 0), (0, 0)]), 2), Err(Mismatch::OtherLog));
        assert_eq!(epoch.check(&token(7, 0, &[(0, 0)]), 2), Err(Mismatch::OtherLog));
        for _ in 0..=GENERATIONS_MAX {
            epoch.advance(&[1, 1]);
        }
        assert_eq!(epoch.check(&token(7, 0, &[(0, 0), (0, 0)]), 2), Err(Mismatch::Lost));
        assert_eq!(epoch.check(&token(7, 1, &[(1, 0), (0, 0)]), 2), Ok(()));
        assert_eq!(epoch.ends().count(), GENERATIONS_MAX);
    }

    #[test]
    fn no_two_logs_have_a_name() {
        let ids: std::collections::HashSet<u64> = (0..100).map(|_| random_id()).collect();
        assert_eq!(ids.len(), 100);
    }
}
