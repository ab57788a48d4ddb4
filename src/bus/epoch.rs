//! The identity of a log: its id, and the tree of generations that its history is a path through.
//!
//! Every opening of a log begins a *generation* with an id of its own. Two copies of one log share
//! their history up to where they were copied, and no generation after it. So whoever keeps a place
//! in the log (a token, a manifest, a store) with the generation that the place was written in can
//! tell whether this log still has it: the generation is in the history, and ended at or after the
//! place. A place in any other generation belongs to a *lost timeline*: the log was put back from a
//! copy, or lost its last records in a crash.
//!
//! Where other stores hold rows of a lost timeline, the log skips past their offsets, so that no
//! offset ever names two records ([`Lost`]).

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::market::{TimeRange, TradingDay};
use crate::wire::token::{LogId, Position, Token};

/// The maximum number of past generations that are remembered. Places in older ones count as lost.
pub const GENERATIONS_MAX: usize = 4096;

/// The maximum number of skipped ranges that are remembered: one for each time that a log was put
/// back from a copy older than its archive.
pub const LOST_MAX: usize = 256;

/// Ids below this one count the generations of logs made before generations had random ids.
const FIRST_RANDOM: u64 = 1 << 32;

/// A generation that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its id.
    pub generation: u64,
    /// By partition, the offset after its last record that later generations still have.
    pub ends: Vec<u64>,
}

/// Who holds the rows of offsets that the log skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Warm storage processed them before the log lost them.
    Warm,
    /// The archive holds those that were archived; the others are lost.
    Archive,
}

/// Which rows below given offsets no store holds, by their trading days.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gone {
    /// Nobody wrote it down: they may be of any day.
    Unknown,
    /// None.
    Nothing,
    /// Rows of days from `first` to `last`.
    Days {
        /// The first day.
        first: TradingDay,
        /// The last day.
        last: TradingDay,
    },
}

impl Gone {
    /// Rows of these days.
    pub fn of(days: impl IntoIterator<Item = TradingDay>) -> Self {
        let mut days = days.into_iter();
        let Some(day) = days.next() else { return Self::Nothing };
        let (first, last) = days.fold((day, day), |(first, last), day| (first.min(day), last.max(day)));
        Self::Days { first, last }
    }

    /// The first and the last day, where they are known: as it is stored.
    pub fn ends(self) -> Option<Vec<TradingDay>> {
        match self {
            Self::Unknown => None,
            Self::Nothing => Some(Vec::new()),
            Self::Days { first, last } => Some(vec![first, last]),
        }
    }

    /// What was stored as `ends` ([`Gone::ends`]).
    pub fn between(ends: Option<Vec<TradingDay>>) -> Self {
        ends.map_or(Self::Unknown, Self::of)
    }

    /// The first and the last day, where there are such.
    pub fn days(self) -> Option<(TradingDay, TradingDay)> {
        match self {
            Self::Days { first, last } => Some((first, last)),
            Self::Unknown | Self::Nothing => None,
        }
    }

    /// These rows and those of `other`.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let both = self.ends().zip(other.ends());
        Self::between(both.map(|(one, other)| [one, other].concat()))
    }

    /// Whether such rows may have times in `range`.
    pub fn may_be_in(self, range: TimeRange) -> bool {
        match self {
            Self::Unknown => !range.is_empty(),
            Self::Nothing => false,
            Self::Days { first, last } => range.overlaps(&TimeRange { from: first.start(), to: last.end() }),
        }
    }
}

/// Offsets that the log skipped because another store holds rows with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Where their rows are.
    pub holder: Holder,
    /// By partition, the first offset skipped.
    pub from: Vec<u64>,
    /// By partition, the offset after the last one skipped.
    pub to: Vec<u64>,
    /// Which of their rows no store holds.
    pub gone: Gone,
}

impl Lost {
    /// Whether rows below `next_offsets` may have offsets of this range.
    fn is_reached(&self, next_offsets: &[u64]) -> bool {
        let ranges = self.from.iter().zip(&self.to);
        next_offsets.iter().zip(ranges).any(|(next, (from, to))| from < to && next > from)
    }
}

/// The last record of each partition at one moment of a log: by them a timeline of a log is known that has no
/// generations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seam {
    /// By partition, the offset after the record.
    pub next_offsets: Vec<u64>,
    /// By partition, the record's checksum (see [`crate::tiering::seam`]); `None` where there was no record, or
    /// it could not be read.
    pub records: Vec<Option<u64>>,
}

/// How far another store has come with the log that its rows are of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which store.
    pub holder: Holder,
    /// What a person calls it.
    pub name: String,
    /// The id of the log; `None` where the store does not name one.
    pub log: Option<u64>,
    /// The generations of the log, oldest first, the last one as far as the store has come; empty where
    /// the store does not name them.
    pub lineage: Vec<Ended>,
    /// By partition, the offset after the last row that the store may hold.
    pub next_offsets: Vec<u64>,
    /// Which rows before these offsets are gone where nothing but this store is left.
    pub gone: Gone,
    /// By partition, an offset below which the store has every row that the log ever had; empty where none is
    /// known.
    pub whole_offsets: Vec<u64>,
    /// Moments of the log that the store has come past, oldest first; none of a log with generations.
    pub seams: Vec<Seam>,
    /// By partition, where the log was found to be of another timeline than the store's rows, by its records.
    pub parted_at: Option<Vec<u64>>,
}

impl Held {
    /// A store that holds nothing yet, and names no log.
    pub fn nothing(holder: Holder, name: impl Into<String>) -> Self {
        Self {
            holder,
            name: name.into(),
            log: None,
            lineage: Vec::new(),
            next_offsets: Vec::new(),
            gone: Gone::Nothing,
            whole_offsets: Vec::new(),
            seams: Vec::new(),
            parted_at: None,
        }
    }
}

/// Why a store can't be used beside a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The store holds rows of another log.
    #[error("{store} holds rows of the log {held:016x}, and the log beside it is {log:016x}: {WAY_ON}")]
    OtherLog {
        /// The store, as a person knows it.
        store: String,
        /// The log that the store names.
        held: u64,
        /// The log beside it.
        log: u64,
    },
    /// The store holds rows of more partitions than the log has.
    #[error("{store} holds rows of {held} partitions, and the log beside it has {log}: {WAY_ON}")]
    Partitions {
        /// The store, as a person knows it.
        store: String,
        /// Up to the last partition that it has rows of.
        held: usize,
        /// The log's partitions.
        log: usize,
    },
    /// The store holds rows of another timeline of the log, and the log has other records with their
    /// offsets.
    #[error(
        "{store} holds rows of another timeline of the log beside it, which has other records from offset {offset} \
         of partition {partition} on: {WAY_ON}"
    )]
    Parted {
        /// The store, as a person knows it.
        store: String,
        /// A partition in which they differ.
        partition: usize,
        /// The offset from which on they differ in it.
        offset: u64,
    },
}

/// What to do where a store does not fit to its log.
const WAY_ON: &str = "one of the two was put back from another copy. Put back the log that the store belongs \
     to, or move the store away: a new one is filled from the log";

/// How the rows of another store relate to a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// All are rows of this log.
    Own,
    /// Some are rows of a lost timeline. The log has no records with their offsets, and has skipped
    /// them already.
    Skipped,
    /// Some are rows of a lost timeline. The log has no records with their offsets so far.
    Ahead,
    /// Some are rows of another timeline, and the log has other records with the same offsets.
    Parted {
        /// By partition, the offset from which on their records differ.
        at: Vec<u64>,
    },
    /// They are rows of another log.
    OtherLog,
}

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
    /// The generations before `log.generation`, oldest first. Ends never fall from one to the next.
    ended: VecDeque<Ended>,
    /// Oldest first.
    lost: Vec<Lost>,
}

/// Why a place is not in this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It is of another log.
    #[error("the token is of another log")]
    OtherLog,
    /// It is of this log, in records that a crash took or that a restored copy never had.
    #[error(
        "the log no longer has the records before this token: it was restored, or crashed before they were durable"
    )]
    Lost,
}

impl LogEpoch {
    /// The only generation of the log `id`: for a log that never loses what it handed out, because
    /// another system keeps it.
    pub fn new(id: u64) -> Self {
        Self::with_history(id, 0, [], Vec::new())
    }

    /// The same log, which earlier versions of stk named `former`: what names it so still belongs to it.
    pub fn formerly(self, former: u64) -> Self {
        Self { former: (former != self.log.id).then_some(former), ..self }
    }

    /// What stores know the log by.
    pub fn name(&self) -> LogName {
        LogName { id: self.log.id, former: self.former }
    }

    /// Generation `generation` of the log `id`, with its history, oldest first.
    pub fn with_history(
        id: u64,
        generation: u64,
        ended: impl IntoIterator<Item = Ended>,
        lost: Vec<Lost>,
    ) -> Self {
        Self { log: LogId { id, generation }, former: None, ended: ended.into_iter().collect(), lost }
    }

    /// The log and generation that tokens name now.
    pub fn log(&self) -> LogId {
        self.log
    }

    /// The generations before this one, oldest first.
    pub fn ended(&self) -> impl Iterator<Item = &Ended> {
        self.ended.iter()
    }

    /// The number of partitions that the history names; `None` of a first generation.
    pub fn partitions(&self) -> Option<usize> {
        let ended = self.ended.back().map(|ended| ended.ends.len());
        ended.or_else(|| self.lost.last().map(|lost| lost.to.len()))
    }

    /// The ranges of offsets that the log skipped, oldest first.
    pub fn lost(&self) -> &[Lost] {
        &self.lost
    }

    /// Which rows that the log ever had no store holds, as far as is known.
    pub fn gone(&self) -> Gone {
        self.lost.iter().fold(Gone::Nothing, |gone, lost| gone.and(lost.gone))
    }

    /// Whether rows below `next_offsets` may have offsets that the log skipped because other stores hold
    /// rows with them: the log can't give these to a warm store that has lost them.
    pub fn reaches_skipped(&self, next_offsets: &[u64]) -> bool {
        self.lost.iter().any(|lost| lost.is_reached(next_offsets))
    }

    /// The range of `partition` that the log skipped and that `offset` is in.
    pub fn skipped(&self, partition: u16, offset: u64) -> Option<std::ops::Range<u64>> {
        let at = usize::from(partition);
        let range = |lost: &Lost| Some(*lost.from.get(at)?..*lost.to.get(at)?);
        self.lost.iter().filter_map(range).find(|range| range.contains(&offset))
    }

    /// Where `partition` continues after the last range that it skipped, where that is after `offset`: from
    /// there on the log has every record, and before it only history has all that there is.
    pub fn whole_from(&self, partition: u16, offset: u64) -> Option<u64> {
        let at = usize::from(partition);
        let ranges = self.lost.iter().filter_map(|lost| Some(*lost.from.get(at)?..*lost.to.get(at)?));
        ranges.filter(|range| !range.is_empty() && range.end > offset).map(|range| range.end).max()
    }

    /// Whether the log skipped all offsets of `partition` from `from` to before `to`.
    pub fn is_skipped(&self, partition: u16, from: u64, to: u64) -> bool {
        let mut offset = from;
        while offset < to
            && let Some(skipped) = self.skipped(partition, offset)
        {
            offset = skipped.end;
        }
        offset >= to
    }

    /// Begins the next generation; by partition, the present one ended before `nexts`.
    pub(crate) fn advance(&mut self, nexts: &[u64]) {
        // A log that was put back from a copy is shorter than generations that ended long ago.
        for ended in &mut self.ended {
            ended.ends.iter_mut().zip(nexts).for_each(|(end, next)| *end = (*end).min(*next));
        }
        self.ended.push_back(Ended { generation: self.log.generation, ends: nexts.to_vec() });
        self.log.generation = fresh_generation();
        if self.ended.len() > GENERATIONS_MAX {
            // A generation that added nothing says no more than the one before it.
            let is_idle = |pair: &usize| self.ended[*pair].ends == self.ended[*pair - 1].ends;
            let idle = (1..self.ended.len() - 1).find(is_idle);
            self.ended.remove(idle.unwrap_or(0));
        }
    }

    /// Records that the present generation begins where `lost` ends, because its holder has rows below
    /// that. Whether it could: there is room for [`LOST_MAX`].
    pub(crate) fn skip(&mut self, lost: Lost) -> bool {
        let has_room = self.lost.len() < LOST_MAX;
        if has_room {
            self.lost.push(lost);
        }
        has_room
    }

    /// The history with the present generation at its end, which ends at `nexts` so far.
    pub fn lineage(&self, nexts: &[u64]) -> Vec<Ended> {
        let present = Ended { generation: self.log.generation, ends: nexts.to_vec() };
        self.ended.iter().cloned().chain([present]).collect()
    }

    /// A log of its own that begins now.
    pub(crate) fn begin() -> Self {
        Self::with_history(random_id(), fresh_generation(), [], Vec::new())
    }

    /// How the rows of another store relate to this log, which ends before `nexts`.
    pub fn relation(&self, nexts: &[u64], held: &Held) -> Relation {
        let is_wider = held.next_offsets.iter().skip(nexts.len()).any(|next| *next > 0);
        // Partitions can be added to a topic, and symbols then move between them. A store that names no generations may
        // leave out partitions at the end that had no records.
        let named = held.lineage.last().map(|last| last.ends.len());
        let is_narrower = !self.may_skip() && named.is_some_and(|partitions| partitions < nexts.len());
        if is_wider || is_narrower || held.log.is_some_and(|log| !self.name().is(log)) {
            return Relation::OtherLog;
        }
        let parted_at = if held.lineage.is_empty() {
            // Of a version that did not name generations: taken for its own, as far as the log goes.
            nexts.to_vec()
        } else {
            let own = self.lineage(nexts);
            let common = held.lineage.iter().rev().find_map(|theirs| {
                let ours = own.iter().find(|ours| ours.generation == theirs.generation)?;
                Some(ours.ends.iter().zip(&theirs.ends).map(|(ours, theirs)| *ours.min(theirs)).collect())
            });
            common.unwrap_or_else(|| vec![0; nexts.len()])
        };
        if is_within(&held.next_offsets, &parted_at) {
            // A log that was lost, and took its generations from the store, has none of the store's offsets.
            let is_reached = is_within(&held.next_offsets, nexts);
            return if is_reached { Relation::Own } else { Relation::Ahead };
        }
        let is_clean = (0..nexts.len()).all(|at| {
            let held_next = held.next_offsets.get(at).copied().unwrap_or(0).min(nexts[at]);
            self.is_skipped(at as u16, parted_at.get(at).copied().unwrap_or(0), held_next)
        });
        match is_clean {
            false => Relation::Parted { at: parted_at },
            true if is_within(&held.next_offsets, nexts) => Relation::Skipped,
            true => Relation::Ahead,
        }
    }

    /// As [`LogEpoch::relation`], for a store that is of no use beside a log that it does not fit to.
    ///
    /// Errors: the store holds rows of another log, or of another timeline whose offsets the log has used.
    pub fn fit(&self, nexts: &[u64], held: &Held) -> Result<Relation, Misfit> {
        let store = || held.name.clone();
        match self.relation(nexts, held) {
            Relation::OtherLog => Err(match held.log {
                Some(id) if !self.name().is(id) => {
                    Misfit::OtherLog { store: store(), held: id, log: self.log.id }
                }
                _ => {
                    let (held, log) = (held.next_offsets.len(), nexts.len());
                    Misfit::Partitions { store: store(), held, log }
                }
            }),
            Relation::Parted { at } => {
                let differs = |at: &usize, from: u64| {
                    let to = held.next_offsets.get(*at).copied().unwrap_or(0);
                    !self.is_skipped(*at as u16, from, to.min(nexts[*at]))
                };
                let offset = |partition: usize| at.get(partition).copied().unwrap_or(0);
                let partition = (0..nexts.len()).find(|partition| differs(partition, offset(*partition)));
                let partition = partition.unwrap_or(0);
                Err(Misfit::Parted { store: store(), partition, offset: offset(partition) })
            }
            relation => Ok(relation),
        }
    }

    /// Whether this log has all records of `generation` of one partition below `offset`. Says nothing of
    /// offsets that the present generation has not reached.
    pub fn has_in(&self, partition: u16, generation: u64, offset: u64) -> bool {
        let ended = self.ended.iter().find(|ended| ended.generation == generation);
        let end = ended.map(|ended| ended.ends.get(usize::from(partition)).copied().unwrap_or(0));
        generation == self.log.generation || end.is_some_and(|end| offset <= end)
    }

    /// The oldest generation in which the log had all records below `offsets`: a place named by it is
    /// valid in as many copies of the log as can be.
    pub fn generation_of(&self, offsets: &[u64]) -> u64 {
        let ended = self.ended.iter().find(|ended| is_within(offsets, &ended.ends));
        ended.map_or(self.log.generation, |ended| ended.generation)
    }

    /// Whether this log has all records of `generation` below `offsets` (by partition). Says nothing
    /// of offsets that the present generation has not reached.
    pub fn has(&self, generation: u64, offsets: &[u64]) -> bool {
        if generation == self.log.generation {
            return true;
        }
        let ended = self.ended.iter().find(|ended| ended.generation == generation);
        ended.is_some_and(|ended| is_within(offsets, &ended.ends))
    }

    /// Whether openings of the log may skip offsets that other stores hold rows of: a log of this machine's own.
    pub fn may_skip(&self) -> bool {
        self.log.generation != 0
    }

    /// Whether what `token` stands for is in this log of `partitions`. Says nothing of places that
    /// the log has not reached.
    pub fn check(&self, token: &Token, partitions: u16) -> Result<(), Mismatch> {
        let LogId { id, generation } = token.log();
        // A former name may also be that of a log that was made again: its places are not trusted.
        if id != self.log.id || token.positions().len() != usize::from(partitions) {
            return Err(Mismatch::OtherLog);
        }
        // A position within a record stands for a part of it.
        let offset = |position: &Position| position.offset + u64::from(position.index > 0);
        let offsets: Vec<u64> = token.positions().iter().map(offset).collect();
        if self.has(generation, &offsets) { Ok(()) } else { Err(Mismatch::Lost) }
    }

    /// Where the log and the timeline of a lost `token` of this log parted: all records from there on
    /// are new to its holder. Never after the token's own positions.
    ///
    /// Of a generation that this log does not know, only its time is known: it began after the last
    /// generation that both have. Where clocks are wrong, the replay may begin too early or too
    /// late; the client knows from the reset that rows may be missing.
    pub fn parted(&self, token: &Token) -> Vec<Position> {
        let generation = token.log().generation;
        if generation == self.log.generation {
            return token.positions().to_vec();
        }
        let known = self.ended.iter().find(|ended| ended.generation == generation);
        let began = |ended: &&Ended| ended.generation < FIRST_RANDOM || ended.generation < generation;
        let ends = known.or_else(|| self.ended.iter().rev().find(began)).map_or(&[][..], |ended| &ended.ends);
        let positions = token.positions().iter().enumerate();
        let parted = |(at, position): (usize, &Position)| {
            let end = Position { offset: ends.get(at).copied().unwrap_or(0), index: 0 };
            end.min(*position)
        };
        positions.map(parted).collect()
    }
}

/// Whether only one log has a generation of this id: neither those of Kafka nor those of old logs, which were
/// counted.
pub(crate) fn is_unique(generation: u64) -> bool {
    generation >= FIRST_RANDOM
}

/// Whether each of `offsets` is at most its end; a partition without an end has ended at 0.
pub(crate) fn is_within(offsets: &[u64], ends: &[u64]) -> bool {
    let end = |at: usize| ends.get(at).copied().unwrap_or(0);
    offsets.iter().enumerate().all(|(at, offset)| *offset <= end(at))
}

/// The larger of each two offsets, by partition.
pub(crate) fn later(offsets: &[u64], others: &[u64]) -> Vec<u64> {
    let at = |offsets: &[u64], at: usize| offsets.get(at).copied().unwrap_or(0);
    (0..offsets.len().max(others.len())).map(|n| at(offsets, n).max(at(others, n))).collect()
}

/// The id of a log that is made: no other has it.
pub(crate) fn random_id() -> u64 {
    use std::hash::BuildHasher;
    // Keyed by the system's random bytes.
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    std::hash::RandomState::new().hash_one(now.unwrap_or_default())
}

/// The id of a generation that begins now: milliseconds since 1970, then 22 random bits.
pub(crate) fn fresh_generation() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = (since.as_millis() as u64).max(FIRST_RANDOM);
    (millis << 22) | (random_id() >> 42)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u64, generation: u64, positions: &[(u64, u32)]) -> Token {
        let positions = positions.iter().map(|&(offset, index)| Position { offset, index });
        Token::new(LogId { id, generation }, positions.collect())
    }

    #[test]
    fn a_token_is_valid_up_to_where_its_generation_ended() {
        let mut epoch = LogEpoch::new(7);
        let check = |epoch: &LogEpoch, generation, positions: &[(u64, u32)]| {
            epoch.check(&token(7, generation, positions), 2)
        };
        // Of the present generation, whatever the place.
        assert_eq!(check(&epoch, 0, &[(900, 3), (0, 0)]), Ok(()));
        assert_eq!(check(&epoch, 1, &[(0, 0), (0, 0)]), Err(Mismatch::Lost), "an unknown generation");
        epoch.advance(&[10, 20]);
        let first = epoch.log().generation;
        epoch.advance(&[15, 20]);
        let second = epoch.log().generation;
        for (generation, positions, expected) in [
            (0, [(10, 0), (20, 0)], Ok(())),
            (0, [(9, 5), (0, 0)], Ok(())),
            (0, [(10, 1), (0, 0)], Err(Mismatch::Lost)),
            (0, [(11, 0), (0, 0)], Err(Mismatch::Lost)),
            (0, [(0, 0), (21, 0)], Err(Mismatch::Lost)),
            (first, [(15, 0), (20, 0)], Ok(())),
            (first, [(16, 0), (20, 0)], Err(Mismatch::Lost)),
            (second, [(16, 0), (20, 7)], Ok(())),
        ] {
            assert_eq!(check(&epoch, generation, &positions), expected, "{generation} {positions:?}");
        }
        // Put back from a copy shorter than both.
        epoch.advance(&[5, 20]);
        assert_eq!(check(&epoch, 0, &[(6, 0), (0, 0)]), Err(Mismatch::Lost));
        assert_eq!(check(&epoch, 0, &[(5, 0), (0, 0)]), Ok(()));
    }

    #[test]
    fn two_copies_share_no_generation_after_the_copy() {
        let mut log = LogEpoch::new(7);
        log.advance(&[10, 10]);
        let mut copy = log.clone();
        log.advance(&[40, 40]);
        copy.advance(&[40, 40]);
        let (of_log, of_copy) = (log.log().generation, copy.log().generation);
        assert_ne!(of_log, of_copy);
        assert!(!copy.has(of_log, &[0, 0]) && !log.has(of_copy, &[0, 0]));
        log.advance(&[90, 90]);
        // Before they parted, each knows the other's places.
        for ended in log.ended().take(2) {
            assert!(copy.has(ended.generation, &ended.ends));
        }
    }

    /// Under its former name a topic may have been deleted and made again.
    #[test]
    fn a_token_with_a_former_name_is_of_another_log() {
        let epoch = LogEpoch::new(7).formerly(6);
        assert_eq!(epoch.check(&token(7, 0, &[(5, 0)]), 1), Ok(()));
        assert_eq!(epoch.check(&token(6, 0, &[(5, 0)]), 1), Err(Mismatch::OtherLog));
        assert!(epoch.name().is(6), "stores that name it so are still its own");
    }

    #[test]
    fn a_lost_token_is_replayed_from_where_the_timelines_parted() {
        let generation = |seconds: u64| (((1_700_000_000 + seconds) * 1000) << 22) | 5;
        let ended = |generation, end| Ended { generation, ends: vec![end, end] };
        let history = [ended(0, 10), ended(generation(100), 40), ended(generation(300), 50)];
        let epoch = LogEpoch::with_history(7, generation(400), history, Vec::new());
        let parted =
            |generation, offset: u64| epoch.parted(&token(7, generation, &[(offset, 3), (offset, 0)]))[0];
        let at = |offset| Position { offset, index: 0 };
        // Its generation is known, and ended at 40.
        assert_eq!(parted(generation(100), 65), at(40));
        // Of a copy that was begun after 100 and lost before 300.
        assert_eq!(parted(generation(200), 65), at(40));
        assert_eq!(parted(generation(200), 20), Position { offset: 20, index: 3 });
        // Nothing of it is known: all that the log has since its first end.
        assert_eq!(parted(generation(50), 65), at(10));
    }

    #[test]
    fn a_store_of_fewer_partitions_than_the_topic_has_is_of_another_log() {
        let epoch = LogEpoch::new(7);
        let named = vec![Ended { generation: 0, ends: vec![5, 5] }];
        let relation = |lineage: &[Ended], nexts: &[u64]| {
            let nothing = Held::nothing(Holder::Archive, "a");
            let lineage = lineage.to_vec();
            epoch.relation(nexts, &Held { log: Some(7), lineage, next_offsets: vec![5, 5], ..nothing })
        };
        assert_eq!(relation(&named, &[9, 9]), Relation::Own);
        assert_eq!(relation(&named, &[9, 9, 9]), Relation::OtherLog);
        assert_eq!(
            relation(&[], &[9, 9, 9]),
            Relation::Own,
            "the first version did not name empty partitions"
        );
    }

    #[test]
    fn skipped_offsets_are_found() {
        let mut epoch = LogEpoch::new(7);
        let lost = |holder, from: [u64; 2], to: [u64; 2]| {
            let (from, to) = (from.to_vec(), to.to_vec());
            Lost { holder, from, to, gone: Gone::Nothing }
        };
        assert!(epoch.skip(lost(Holder::Archive, [40, 10], [80, 10])));
        assert_eq!([39, 40, 79, 80].map(|at| epoch.skipped(0, at)), [None, Some(40..80), Some(40..80), None]);
        assert_eq!(epoch.skipped(1, 10), None);
        for _ in 1..LOST_MAX {
            assert!(epoch.skip(lost(Holder::Warm, [0, 0], [1, 1])));
        }
        assert!(!epoch.skip(lost(Holder::Warm, [0, 0], [1, 1])));
    }

    #[test]
    fn other_logs_and_forgotten_generations_are_known() {
        let mut epoch = LogEpoch::new(7);
        assert_eq!(epoch.check(&token(8, 0, &[(0, 0), (0, 0)]), 2), Err(Mismatch::OtherLog));
        assert_eq!(epoch.check(&token(7, 0, &[(0, 0)]), 2), Err(Mismatch::OtherLog));
        for end in 1..=GENERATIONS_MAX as u64 + 1 {
            epoch.advance(&[end, end]);
        }
        assert_eq!(epoch.check(&token(7, 0, &[(0, 0), (0, 0)]), 2), Err(Mismatch::Lost));
        let oldest = epoch.ended().next().unwrap().clone();
        assert_eq!(epoch.check(&token(7, oldest.generation, &[(1, 0), (1, 0)]), 2), Ok(()));
        assert_eq!(epoch.ended().count(), GENERATIONS_MAX);
        // Restarts that add nothing push no other generation out.
        for _ in 0..10 {
            epoch.advance(&[GENERATIONS_MAX as u64 + 1; 2]);
        }
        assert!(epoch.has(epoch.ended().nth(100).unwrap().generation, &[0, 0]));
        assert_eq!(epoch.ended().count(), GENERATIONS_MAX);
    }

    #[test]
    fn no_two_logs_have_an_id() {
        let ids: std::collections::HashSet<u64> = (0..100).map(|_| random_id()).collect();
        assert_eq!(ids.len(), 100);
    }
}
