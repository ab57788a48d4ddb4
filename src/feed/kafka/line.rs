//! How far one partition of a topic has come, on both sides: what was read, what the log has, and
//! what the brokers are told of it.
//!
//! A batch goes into the log under the offset behind its last message, so that a reader of the log
//! knows a repeat. After a crash it is not known how the messages behind the committed offset were
//! batched, nor which of them the log has. Sent again one by one, each under its own offset, those
//! that are there already are dropped, and those that are not are taken: for a batch that is there
//! has a number at least as high as each of its messages. How far this has to go is known, since
//! no batch is handed out before the brokers keep a mark that lies ahead of it.

use crate::wire::record::Origin;

/// How far ahead of what is handed out the mark is put.
pub(super) const AHEAD_MESSAGES: u64 = 8_192;

/// What the brokers keep beside the committed offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Note {
    /// How often the topic was found made anew: its offsets begin again then.
    pub(super) generation: u32,
    /// At and after this offset nothing was ever handed out.
    pub(super) ahead: u64,
}

impl Note {
    /// Reads what [`Note::text`] wrote; `None` for what somebody else committed.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some("stk1") {
            return None;
        }
        let mut note = Self::default();
        for word in words {
            match word.split_once('=')? {
                ("generation", value) => note.generation = value.parse().ok()?,
                ("ahead", value) => note.ahead = value.parse().ok()?,
                _ => {}
            }
        }
        Some(note)
    }

    pub(super) fn text(self) -> String {
        format!("stk1 generation={} ahead={}", self.generation, self.ahead)
    }
}

/// Messages whose fate is open.
#[derive(Debug)]
struct Open {
    first: u64,
    fate: Fate,
}

/// What has to happen before a message counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The log accepts the ticks of this call.
    Call(u64),
    /// The dead-letter topic takes the message at this offset.
    Dead(u64),
}

/// One partition of a topic.
#[derive(Debug)]
pub(super) struct Line {
    /// What its producer is made of, but for the generation.
    seed: u64,
    note: Note,
    /// The offset of the next message to be read.
    next: u64,
    /// Messages before it are handed out one by one.
    alone_until: u64,
    /// What is not done, at most some hundred.
    open: Vec<Open>,
    committed: Option<u64>,
    /// Under what its last batch is to be handed out.
    queued: Option<Origin>,
}

impl Line {
    /// A partition to be read from `next` on; `note` and `committed` as the brokers keep them.
    pub(super) fn new(seed: u64, next: u64, note: Option<Note>, committed: Option<u64>) -> Self {
        let alone_until = note.map_or(next, |note| note.ahead);
        let note = note.unwrap_or(Note { generation: 0, ahead: next });
        Self { seed, note, next, alone_until, open: Vec::new(), committed, queued: None }
    }

    /// The topic was made anew, and begins at `next`: its messages are no repeats of earlier ones.
    pub(super) fn begin_anew(&mut self, next: u64) {
        self.note = Note { generation: self.note.generation + 1, ahead: next };
        (self.next, self.alone_until, self.committed) = (next, next, None);
        self.open.clear();
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Messages before `next` are read, or gone.
    pub(super) fn read_up_to(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// Whether a batch that ends before `next` is to be handed out as it is.
    pub(super) fn is_alone(&self, next: u64) -> bool {
        next <= self.alone_until
    }

    /// Under what a batch that ends before `next` goes into the log.
    pub(super) fn origin(&self, next: u64) -> Origin {
        let mixed = (self.seed ^ u64::from(self.note.generation)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Origin { producer: mixed ^ (mixed >> 32), sequence: next }
    }

    /// Whether `origin` is this producer's, not that of the topic before it was made anew.
    pub(super) fn is_of(&self, origin: Origin) -> bool {
        self.origin(0).producer == origin.producer
    }

    /// A batch of `origin` is whole, to be handed out after all that are whole already. Readers of
    /// the log drop what does not rise, so its number has to; and no batch of before comes once
    /// the topic was made anew.
    pub(super) fn queue(&mut self, origin: Origin) {
        debug_assert!(self.is_of(origin), "a batch of a topic that is gone comes late");
        debug_assert!(
            self.queued
                .is_none_or(|last| last.producer != origin.producer || last.sequence < origin.sequence),
            "{origin:?} after {:?}",
            self.queued
        );
        self.queued = Some(origin);
    }

    /// The mark that has to be kept before a batch that ends before `next` may be handed out, where
    /// the one that is kept is too low.
    pub(super) fn mark_for(&self, next: u64) -> Option<Note> {
        let note = Note { ahead: next + AHEAD_MESSAGES, ..self.note };
        (next > self.note.ahead).then_some(note)
    }

    /// The brokers keep `note` now.
    pub(super) fn marked(&mut self, note: Note) {
        if note.generation == self.note.generation {
            self.note.ahead = self.note.ahead.max(note.ahead);
        }
    }

    pub(super) fn note(&self) -> Note {
        self.note
    }

    /// A batch whose first message is at `first` is handed out as call number `call`.
    pub(super) fn handed_out(&mut self, first: u64, call: u64) {
        self.open.push(Open { first, fate: Fate::Call(call) });
    }

    /// The message at `offset` is on its way to the dead-letter topic.
    pub(super) fn dead(&mut self, offset: u64) {
        self.open.push(Open { first: offset, fate: Fate::Dead(offset) });
    }

    /// The log has accepted the first `calls` calls.
    pub(super) fn accepted(&mut self, calls: u64) {
        self.open.retain(|open| !matches!(open.fate, Fate::Call(call) if call <= calls));
    }

    /// The dead-letter topic has the message at `offset`.
    pub(super) fn buried(&mut self, offset: u64) {
        self.open.retain(|open| open.fate != Fate::Dead(offset));
    }

    /// Up to where everything is done, when a batch that begins at `batch_first` is being filled.
    pub(super) fn position(&self, batch_first: Option<u64>) -> u64 {
        let open = self.open.iter().map(|open| open.first).chain(batch_first).min();
        open.unwrap_or(self.next)
    }

    /// Whether the brokers have to be told of `position`.
    pub(super) fn is_news(&self, position: u64) -> bool {
        self.committed != Some(position)
    }

    /// The brokers were told of `position`.
    pub(super) fn told(&mut self, position: u64) {
        self.committed = Some(position);
    }

    /// Whether nothing is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn notes_are_read_back_and_others_are_not_taken_for_one() {
        let note = Note { generation: 3, ahead: 123 };
        assert_eq!(Note::parse(&note.text()), Some(note));
        assert_eq!(Note::parse("stk1 ahead=7 later=x generation=1"), Some(Note { generation: 1, ahead: 7 }));
        for other in ["", "stk2 ahead=1", "stk1 ahead", "stk1 ahead=x"] {
            assert_eq!(Note::parse(other), None, "{other}");
        }
    }

    #[test]
    fn nothing_is_committed_before_all_before_it_is_done() {
        let mut line = Line::new(1, 10, None, None);
        line.handed_out(10, 1);
        line.dead(12);
        line.read_up_to(20);
        line.handed_out(15, 2);
        assert_eq!(line.position(Some(18)), 10);
        line.buried(12);
        assert_eq!(line.position(Some(18)), 10);
        line.accepted(1);
        assert_eq!(line.position(Some(18)), 15);
        line.accepted(2);
        assert_eq!((line.position(Some(18)), line.position(None)), (18, 20));
        assert!(line.is_settled() && line.is_news(20));
        line.told(20);
        assert!(!line.is_news(20));
    }

    #[test]
    fn a_topic_made_anew_is_another_producer() {
        let mut line = Line::new(1, 100, Some(Note { generation: 0, ahead: 150 }), Some(100));
        let before = line.origin(101);
        assert!(line.is_alone(150) && !line.is_alone(151));
        line.begin_anew(0);
        assert_ne!(line.origin(101).producer, before.producer);
        assert_eq!((line.next(), line.note()), (0, Note { generation: 1, ahead: 0 }));
        line.marked(Note { generation: 0, ahead: 500 });
        assert_eq!(line.note().ahead, 0, "a mark of before is none");
    }

    proptest! {
        /// Messages are batched at random and go to one of three partitions of the log; a crash
        /// keeps a prefix of each, and a commit of anything that was accepted. However often that
        /// happens, the log's readers see every message once, in order.
        #[test]
        fn crashes_repeat_nothing(
            crashes in prop::collection::vec(
                (prop::collection::vec(1..9u64, 1..12), 0..100u32, [0..100u32, 0..100u32, 0..100u32]), 1..5,
            ),
        ) {
            let mut seen: [(u64, Vec<u64>); 3] = Default::default();
            let (mut committed, mut note): (u64, Option<Note>) = (0, None);
            for (batches, commit, kept) in crashes {
                let mut line = Line::new(7, committed, note, Some(committed));
                let mut next = committed;
                let mut sent: Vec<(u64, u64)> = Vec::new();
                for size in batches {
                    let until = next + size;
                    while next < until {
                        let first = next;
                        next = if line.is_alone(first + 1) { first + 1 } else { until };
                        if let Some(mark) = line.mark_for(next) {
                            line.marked(mark);
                        }
                        sent.push((first, next));
                    }
                }
                note = Some(line.note());
                // What of the batches each partition of the log keeps; all have what is committed.
                let of = |part: u32| (sent.len() as u32 * part / 100) as usize;
                let accepted = of(*kept.iter().min().unwrap_or(&0));
                for (at, (last, messages)) in seen.iter_mut().enumerate() {
                    for (first, next) in &sent[..of(kept[at])] {
                        let sequence = line.origin(*next).sequence;
                        if sequence > *last {
                            *last = sequence;
                            messages.extend((*first..*next).filter(|message| message % 3 == at as u64));
                        }
                    }
                }
                let done = (accepted as u32 * commit / 100) as usize;
                committed = sent[..done].last().map_or(committed, |(_, next)| *next);
            }
            for (at, (_, messages)) in seen.iter().enumerate() {
                let upto = messages.last().map_or(0, |last| last + 1);
                let expected: Vec<u64> = (0..upto).filter(|message| message % 3 == at as u64).collect();
                prop_assert_eq!(messages, &expected);
            }
        }
    }
}
