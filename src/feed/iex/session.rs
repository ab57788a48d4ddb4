//! Captures know their messages again: what a store holds of a stream is not stored a second time.
//!
//! IEX-TP numbers the messages of a stream, so a message's number says what it is. The stream goes into
//! the log in runs: stretches without a hole, each under a producer of its own whose batch numbers are
//! the positions of the messages ([`Place`]). A capture that is played asks which runs the log has, skips
//! what lies in them, and adds the rest: to the run that it continues, or as a new run. Parts of a
//! session can so be played in any order, and an interrupted replay goes on where it stopped.
//!
//! A replay of some symbols alone has runs of its own, since its positions have no holes where the other
//! symbols were. Beside them the first tick that it stores of a stream goes under a producer that every
//! replay asks for: the *mark*, whose number names the selection ([`Session::mark_of`]). So a stream is
//! stored whole or as one selection. Whoever plays it otherwise is told, before anything is stored twice.

use std::collections::HashMap;
use std::hash::Hasher;

use super::decode::{Place, Stream};
use super::reader::Selection;
use crate::market::Tick;
use crate::wire::record::{Origin, RecordEncoder, StoredNumbers};

/// Runs of a stream, at most. Further holes stay in the last run, and no other capture fills them: who plays one is
/// told how many ticks that may concern ([`Session::doubtful`]).
const RUNS_MAX: usize = 1024;
/// Streams whose runs are known at once; beyond it all are asked for again.
const STREAMS_MAX: usize = 64;

/// The bits of a mark's number that are the position of its tick; those above name the selection.
const POSITION_BITS: u32 = 44;
const POSITION_MAX: u64 = (1 << POSITION_BITS) - 1;
const SELECTION_MAX: u64 = (1 << 19) - 1;

/// A stretch of a stream without a hole.
struct Run {
    producer: u64,
    /// The position of its first tick, with the checksum of that tick's record where it is to be compared.
    first: u64,
    checksum: Option<u32>,
    /// By partition, up to which position the log holds it.
    last: Vec<Option<u64>>,
    /// Up to which position the log held it when it was asked; 0 for a new run.
    stored: u64,
    /// Up to which position it is stored or was handed out.
    until: u64,
}

impl Run {
    fn holds(&self, tick: &Tick, position: u64) -> bool {
        if position < self.first || position > self.stored {
            return false;
        }
        let last = match tick.symbol() {
            Some(symbol) => self.last[usize::from(symbol.partition(self.last.len() as u16))],
            // A gap of no symbol stands in all partitions.
            None => self.last.iter().copied().max().flatten(),
        };
        last.is_some_and(|last| position <= last)
    }
}

/// What is known of a stream.
#[derive(Default)]
struct Known {
    runs: Vec<Run>,
    /// Whether the log has no further runs.
    is_complete: bool,
    partitions: usize,
    /// The run that the last tick went to, or was found in.
    current: Option<usize>,
    /// Whether the mark was asked for.
    is_mark_known: bool,
    /// The number of the mark, once there is one.
    mark: Option<u64>,
    /// Whether the log has runs of the whole stream, once they were asked for.
    is_whole: Option<bool>,
}

impl Known {
    /// The run that a tick at `position` is part of or follows on, if nothing is missing before it.
    fn run_before(&self, position: u64) -> Option<usize> {
        let begun = self.runs.iter().enumerate().filter(|(_, run)| run.first <= position);
        begun.max_by_key(|(_, run)| run.until.min(position)).map(|(at, _)| at)
    }
}

/// Which part of the ticks at hand goes into the log as one batch.
pub(super) struct Batch {
    /// How many ticks.
    pub(super) ticks: usize,
    pub(super) origin: Origin,
    /// The number that the batch follows on.
    pub(super) after: u64,
}

/// The streams of a capture and what the log has of them.
pub(super) struct Session {
    /// What tells a deliberate repetition, or a selection of symbols, from the stream itself.
    salt: u64,
    /// The same of the whole stream.
    salt_whole: u64,
    /// What names the selection of symbols; `None` where the stream is played whole, or as a session of its
    /// own.
    selection: Option<u64>,
    /// Whether this is a session of its own, which is compared with nothing.
    is_again: bool,
    known: HashMap<Stream, Known>,
    /// What tells the repetitions of this capture from those of another.
    repetition: (i64, u64),
    /// Ticks that were skipped.
    pub(super) already_stored: u64,
    /// Of these, ticks in the last of [`RUNS_MAX`] runs, which may lie in one of its holes.
    pub(super) doubtful: u64,
    encoder: RecordEncoder,
}

impl Session {
    /// `again`: a number that makes this a session of its own; 0 for the session itself.
    pub(super) fn new(again: u64, selection: &Selection) -> Self {
        let mut symbols: Vec<_> = selection.symbols.iter().collect();
        symbols.sort_unstable();
        let mut salt = xxhash_rust::xxh64::Xxh64::new(0);
        salt.write_u64(again);
        let salt_whole = salt.finish();
        for symbol in &symbols {
            salt.write(symbol.as_bytes());
            salt.write_u8(0xff);
        }
        let salt = salt.finish();
        let selection = (again == 0 && !symbols.is_empty()).then(|| (salt & SELECTION_MAX).max(1));
        Self {
            salt,
            salt_whole,
            selection,
            is_again: again != 0,
            known: HashMap::new(),
            repetition: (0, 0),
            already_stored: 0,
            doubtful: 0,
            encoder: RecordEncoder::new(),
        }
    }

    pub(super) fn set_repetition(&mut self, repetition: (i64, u64)) {
        self.repetition = repetition;
    }

    /// The producer of run `number` of a stream: of the whole stream, where the log has that.
    fn producer(&self, stream: Stream, number: usize) -> u64 {
        let is_whole = self.known.get(&stream).is_none_or(|known| known.is_whole != Some(false));
        let salt = if self.selection.is_some() && is_whole { self.salt_whole } else { self.salt };
        self.hash(salt, b"iex", stream, number)
    }

    /// The producer of a stream's mark.
    fn mark_producer(&self, stream: Stream) -> u64 {
        self.hash(self.salt_whole, b"iex-selection", stream, 0)
    }

    /// The number of the mark that says which selection was stored; `position` is that of its first tick. `None`
    /// if the stream is played whole, or as a session of its own.
    fn mark_of(&self, position: u64) -> Option<u64> {
        self.selection.map(|selection| selection << POSITION_BITS | position & POSITION_MAX)
    }

    fn hash(&self, salt: u64, kind: &[u8], stream: Stream, number: usize) -> u64 {
        let mut hash = xxhash_rust::xxh64::Xxh64::new(salt);
        hash.write(kind);
        hash.write_u32(stream.session);
        hash.write_u32(stream.channel);
        hash.write_i32(stream.day.days_since_epoch());
        hash.write_u64(number as u64);
        if stream.is_repeat {
            hash.write_i64(self.repetition.0);
            hash.write_u64(self.repetition.1);
        }
        hash.finish()
    }

    /// The producer that the log must be asked for before ticks of `stream` can be told from stored ones.
    pub(super) fn asks(&mut self, stream: Stream) -> Option<u64> {
        if self.known.len() >= STREAMS_MAX && !self.known.contains_key(&stream) {
            self.known.clear();
        }
        let known = self.known.entry(stream).or_default();
        if !self.is_again && !known.is_mark_known {
            return Some(self.mark_producer(stream));
        }
        let (number, is_complete) = (known.runs.len(), known.is_complete);
        (!is_complete).then(|| self.producer(stream, number))
    }

    /// The answer to [`Session::asks`].
    pub(super) fn told(&mut self, stream: Stream, stored: StoredNumbers) -> Result<(), String> {
        if stored.is_retired {
            return Err(format!(
                "{} was stored long ago, and it is no longer known how much of it; \
                 use `stk replay --again` to store it as a new session",
                named(stream)
            ));
        }
        let selection = self.selection;
        let producer = self.producer(stream, self.known.get(&stream).map_or(0, |known| known.runs.len()));
        let known = self.known.entry(stream).or_default();
        known.partitions = stored.last.len();
        if !self.is_again && !std::mem::replace(&mut known.is_mark_known, true) {
            known.mark = stored.first.map(|(number, _)| number);
            return match known.mark {
                Some(mark) if Some(mark >> POSITION_BITS) != selection => Err(format!(
                    "some symbols of {} are stored alone, by `stk replay --symbols`, and would be stored a second \
                     time; play the same symbols to continue, or use `stk replay --again` to store it as a new session",
                    named(stream)
                )),
                _ => Ok(()),
            };
        }
        if selection.is_some() && known.is_whole.is_none() {
            known.is_whole = Some(stored.first.is_some());
            if stored.first.is_none() {
                // The selection's own runs come next.
                return Ok(());
            }
        }
        match stored.first {
            Some((first, checksum)) => {
                let until = stored.last.iter().copied().max().flatten().unwrap_or(first);
                let checksum = Some(checksum);
                known.runs.push(Run { producer, first, checksum, last: stored.last, stored: until, until });
                known.is_complete = known.runs.len() >= RUNS_MAX;
            }
            None => known.is_complete = true,
        }
        Ok(())
    }

    /// Whether the log holds the tick already.
    pub(super) fn is_stored(&mut self, tick: &Tick, place: Place) -> Result<bool, String> {
        let mark = self.mark_of(place.position);
        let Some(known) = self.known.get_mut(&place.stream) else { return Ok(false) };
        if mark.is_some() && mark == known.mark && tick.symbol().is_some() {
            return Ok(true);
        }
        let Some(at) = known.runs.iter().position(|run| run.holds(tick, place.position)) else {
            return Ok(false);
        };
        let run = &mut known.runs[at];
        if run.first == place.position
            && let Some(stored) = run.checksum.take()
        {
            self.encoder.push(tick);
            let origin = Origin { producer: run.producer, sequence: place.position };
            if crate::wire::record::checksum(&self.encoder.finish(origin)) != stored {
                return Err(format!(
                    "another capture of {} is stored, whose first message differs; \
                     use `stk replay --again` to store this one as a new session",
                    named(place.stream)
                ));
            }
        }
        self.doubtful += u64::from(at + 1 == RUNS_MAX);
        known.current = Some(at);
        Ok(true)
    }

    /// Which of the ticks (at least one, of which the first is not stored) are the next batch.
    pub(super) fn batch<'a>(
        &mut self,
        ticks: impl Iterator<Item = &'a (Tick, Place)>,
    ) -> Result<Batch, String> {
        let mut ticks = ticks.peekable();
        let Some((_, Place { stream, position, .. })) = ticks.peek().copied() else {
            return Err("there is no tick".to_owned());
        };
        let producer = self.producer(*stream, self.known.get(stream).map_or(0, |known| known.runs.len()));
        let (mark, mark_producer) = (self.mark_of(*position), self.mark_producer(*stream));
        let known = self.known.entry(*stream).or_default();
        if self.selection.is_some() && known.is_whole == Some(true) {
            return Err(format!(
                "{} is stored whole, but not to its end; play it without `--symbols` to continue it",
                named(*stream)
            ));
        }
        if let Some(sequence) = mark
            && known.mark.is_none()
            && ticks.peek().is_some_and(|(tick, _)| tick.symbol().is_some())
        {
            known.mark = mark;
            return Ok(Batch { ticks: 1, origin: Origin { producer: mark_producer, sequence }, after: 0 });
        }
        let may_begin = known.runs.len() < RUNS_MAX;
        let to = |known: &Known, place: &Place| {
            // Where the stream is taken up, nobody knows what lies between.
            known.current?;
            match (place.follows_hole, may_begin) {
                (false, _) => known.run_before(place.position),
                (true, true) => None,
                (true, false) => Some(RUNS_MAX - 1),
            }
        };
        if let Some(at) = to(known, &ticks.peek().expect("it was looked at").1) {
            let is_next = |(index, (tick, place)): &(usize, &(Tick, Place))| {
                *index == 0
                    || (place.stream == *stream
                        && to(known, place) == Some(at)
                        && !known.runs.iter().any(|run| run.holds(tick, place.position)))
            };
            let run = &known.runs[at];
            let (after, mut count, mut sequence) = (run.until, 0, *position);
            for (_, (_, place)) in ticks.enumerate().take_while(is_next) {
                (count, sequence) = (count + 1, place.position);
            }
            if sequence > run.stored {
                // What is late in a run with holes counts on, as a batch that is new.
                sequence = sequence.max(after + 1);
            }
            let run = &mut known.runs[at];
            run.until = after.max(sequence);
            known.current = Some(at);
            return Ok(Batch { ticks: count, origin: Origin { producer: run.producer, sequence }, after });
        }
        if !may_begin {
            return Err(format!(
                "{} is stored in {RUNS_MAX} pieces with holes between them, which is as many as can be told apart; \
                 use `stk replay --again` to store it as a new session",
                named(*stream)
            ));
        }
        // The first tick alone, so that its number says where the run begins.
        let last = vec![None; known.partitions];
        let (first, until) = (*position, *position);
        known.runs.push(Run { producer, first, checksum: None, last, stored: 0, until });
        known.current = Some(known.runs.len() - 1);
        Ok(Batch { ticks: 1, origin: Origin { producer, sequence: *position }, after: 0 })
    }
}

/// A stream, for a person.
fn named(stream: Stream) -> String {
    let Stream { session, channel, day, is_repeat } = stream;
    let of = if is_repeat { "the repetition of " } else { "" };
    format!("{of}session {session}, channel {channel} of {day}")
}
