//! Sequence numbers: what was missed, what came twice, what came late.
//!
//! One [`SequenceTracker`] follows one numbered line: a channel of a session, or a product where a
//! feed numbers by product. It holds no socket and no file, so it outlives both. Every number is
//! either delivered once or reported missed once.

use std::collections::VecDeque;

use crate::market::Timestamp;

/// The most holes that wait to be filled; past it the oldest is reported missed.
pub const HOLES_MAX: usize = 64;

/// How long a hole waits to be filled by a message that took a longer way.
pub const PATIENCE_NANOS: i64 = 1_000_000_000;

/// Sequence numbers `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first number.
    pub first: u64,
    /// The last number, not less than the first.
    pub last: u64,
}

/// What a tracker has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// These never came.
    Missed(Span),
    /// A new session began; the number is the first one seen of it.
    Reset(u64),
}

/// Which of the messages just seen are to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All.
    Fresh,
    /// Those for which [`SequenceTracker::is_fresh`] holds.
    Partly,
    /// None: all came before, or come after they were reported missed.
    Stale,
}

/// What a tracker has counted, in messages except where it says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Gaps reported.
    pub gaps: u64,
    /// Messages that never came.
    pub missed: u64,
    /// Messages dropped since they came before, or too late.
    pub duplicates: u64,
    /// Messages that came late and were delivered.
    pub out_of_order: u64,
    /// Sessions begun after the first.
    pub resets: u64,
}

#[derive(Clone, Copy, Debug)]
struct Hole {
    span: Span,
    since: Timestamp,
}

/// Follows the sequence numbers of one line.
#[derive(Debug)]
pub struct SequenceTracker {
    starts_at: Option<u64>,
    session: Option<u64>,
    session_before: Option<u64>,
    next: u64,
    /// In order of both number and time, never overlapping, all below `next`.
    holes: VecDeque<Hole>,
    fresh: Vec<Span>,
    counts: Counts,
}

impl SequenceTracker {
    /// A tracker of a line whose sessions start at number `starts_at`; `None` when they start
    /// anywhere, so that nothing before the first message seen is missed.
    pub fn new(starts_at: Option<u64>) -> Self {
        Self {
            starts_at,
            session: None,
            session_before: None,
            next: 0,
            holes: VecDeque::new(),
            fresh: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Takes note of messages `first..first + count` of `session`, seen at `now`, and says which
    /// of them to deliver. A `count` of zero is a heartbeat: `first` is the next number to come.
    ///
    /// What is known to be missed is told to `tell`, before the messages that follow it. A hole is
    /// told once it is older than [`PATIENCE_NANOS`], so that reordering on the way is no loss.
    pub fn observe(
        &mut self,
        session: u64,
        first: u64,
        count: u64,
        now: Timestamp,
        tell: &mut impl FnMut(Event),
    ) -> Verdict {
        if self.session != Some(session) {
            if self.session_before == Some(session) {
                self.counts.duplicates += count;
                return Verdict::Stale;
            }
            self.begin(session, first, tell);
        }
        while self.holes.front().is_some_and(|hole| now.nanos_since(hole.since) > PATIENCE_NANOS) {
            self.give_up_oldest(tell);
        }
        let end = first.saturating_add(count);
        if first >= self.next {
            if first > self.next {
                self.holes.push_back(Hole { span: Span { first: self.next, last: first - 1 }, since: now });
            }
            self.next = end;
            self.bound_holes(tell);
            return Verdict::Fresh;
        }
        self.fill(first, end, count);
        self.bound_holes(tell);
        match self.fresh.as_slice() {
            [] => Verdict::Stale,
            [only] if only.first == first && only.last + 1 == end => Verdict::Fresh,
            _ => Verdict::Partly,
        }
    }

    /// After [`Verdict::Partly`]: whether the message of that number is to be delivered.
    pub fn is_fresh(&self, sequence: u64) -> bool {
        self.fresh.iter().any(|span| span.first <= sequence && sequence <= span.last)
    }

    /// Tells every hole that still waits: for the end of the source.
    pub fn finish(&mut self, tell: &mut impl FnMut(Event)) {
        while !self.holes.is_empty() {
            self.give_up_oldest(tell);
        }
    }

    /// The session followed at present.
    pub fn session(&self) -> Option<u64> {
        self.session
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn begin(&mut self, session: u64, first: u64, tell: &mut impl FnMut(Event)) {
        self.finish(tell);
        if self.session.is_some() {
            self.counts.resets += 1;
            tell(Event::Reset(first));
        }
        self.session_before = self.session;
        self.session = Some(session);
        self.next = self.starts_at.unwrap_or(first);
    }

    /// Takes `first..end` out of the holes and moves `next` on; what was taken is `fresh`.
    fn fill(&mut self, first: u64, end: u64, count: u64) {
        self.fresh.clear();
        let mut late = 0;
        let mut index = 0;
        while let Some(&Hole { span, since }) = self.holes.get(index) {
            let taken = Span { first: span.first.max(first), last: span.last.min(end.saturating_sub(1)) };
            if end <= span.first {
                break;
            }
            if taken.first > taken.last || count == 0 {
                index += 1;
                continue;
            }
            late += taken.last - taken.first + 1;
            self.fresh.push(taken);
            self.holes.remove(index);
            for rest in [(span.first, taken.first.wrapping_sub(1)), (taken.last + 1, span.last)] {
                if rest.0 <= rest.1 && rest.1 <= span.last {
                    self.holes.insert(index, Hole { span: Span { first: rest.0, last: rest.1 }, since });
                    index += 1;
                }
            }
        }
        let mut ahead = 0;
        if end > self.next {
            ahead = end - self.next;
            self.fresh.push(Span { first: self.next, last: end - 1 });
            self.next = end;
        }
        self.counts.out_of_order += late;
        self.counts.duplicates += count - late - ahead;
    }

    fn bound_holes(&mut self, tell: &mut impl FnMut(Event)) {
        while self.holes.len() > HOLES_MAX {
            self.give_up_oldest(tell);
        }
    }

    fn give_up_oldest(&mut self, tell: &mut impl FnMut(Event)) {
        if let Some(Hole { span, .. }) = self.holes.pop_front() {
            self.counts.gaps += 1;
            self.counts.missed = self.counts.missed.saturating_add(span.last - span.first + 1);
            tell(Event::Missed(span));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    struct Line {
        tracker: SequenceTracker,
        /// How often each number was delivered or reported missed.
        seen: BTreeMap<u64, (u32, u32)>,
        events: Vec<Event>,
    }

    impl Line {
        fn new(starts_at: Option<u64>) -> Self {
            Self { tracker: SequenceTracker::new(starts_at), seen: BTreeMap::new(), events: Vec::new() }
        }

        fn observe(&mut self, session: u64, first: u64, count: u64, now_ms: i64) -> Verdict {
            let now = Timestamp::from_nanos(now_ms * 1_000_000);
            let events = &mut self.events;
            let verdict = self.tracker.observe(session, first, count, now, &mut |event| events.push(event));
            for sequence in first..first + count {
                let delivered = match verdict {
                    Verdict::Fresh => true,
                    Verdict::Partly => self.tracker.is_fresh(sequence),
                    Verdict::Stale => false,
                };
                self.seen.entry(sequence).or_default().0 += u32::from(delivered);
            }
            verdict
        }

        fn finish(&mut self) {
            let events = &mut self.events;
            self.tracker.finish(&mut |event| events.push(event));
            for event in &self.events {
                if let Event::Missed(span) = event {
                    for sequence in span.first..=span.last {
                        self.seen.entry(sequence).or_default().1 += 1;
                    }
                }
            }
        }
    }

    #[test]
    fn a_hole_that_is_filled_in_time_is_no_gap() {
        let mut line = Line::new(Some(1));
        assert_eq!(line.observe(7, 1, 3, 0), Verdict::Fresh);
        assert_eq!(line.observe(7, 6, 2, 1), Verdict::Fresh);
        assert_eq!(line.observe(7, 3, 3, 2), Verdict::Partly);
        assert_eq!(line.observe(7, 3, 3, 3), Verdict::Stale);
        line.finish();
        assert_eq!(line.events, []);
        let expected = Counts { duplicates: 4, out_of_order: 2, ..Counts::default() };
        assert_eq!(line.tracker.counts(), expected);
    }

    #[test]
    fn a_hole_is_told_after_a_second_and_stays_told() {
        let mut line = Line::new(Some(1));
        line.observe(7, 5, 1, 0);
        line.observe(7, 6, 1, 1000);
        assert_eq!(line.events, []);
        line.observe(7, 7, 1, 1001);
        assert_eq!(line.events, [Event::Missed(Span { first: 1, last: 4 })]);
        assert_eq!(line.observe(7, 2, 1, 1002), Verdict::Stale, "a number is never both");
    }

    #[test]
    fn a_heartbeat_shows_the_loss_at_the_tail() {
        let mut line = Line::new(None);
        line.observe(7, 100, 2, 0);
        line.observe(7, 105, 0, 1);
        line.finish();
        assert_eq!(line.events, [Event::Missed(Span { first: 102, last: 104 })]);
    }

    #[test]
    fn a_new_session_starts_again_and_the_old_one_is_over() {
        let mut line = Line::new(Some(1));
        line.observe(7, 1, 10, 0);
        line.observe(7, 12, 1, 0);
        assert_eq!(line.observe(8, 3, 1, 0), Verdict::Fresh);
        assert_eq!(line.observe(7, 13, 1, 0), Verdict::Stale);
        line.finish();
        let missed = |first, last| Event::Missed(Span { first, last });
        assert_eq!(line.events, [missed(11, 11), Event::Reset(3), missed(1, 2)]);
    }

    /// A segment as sent, and what the way did with it.
    fn segments() -> impl Strategy<Value = Vec<(u64, Option<u8>, bool)>> {
        prop::collection::vec(
            (0_u64..5, prop::option::weighted(0.8, 0_u8..12), prop::bool::weighted(0.1)),
            1..200,
        )
    }

    proptest! {
        /// Whatever is dropped, doubled and reordered: every number sent is delivered once or
        /// reported missed once, never both, and no other number is.
        #[test]
        fn delivered_and_missed_cover_what_was_sent(segments in segments(), step_ms in 0_i64..400) {
            let mut next = 1;
            let mut arrivals = Vec::new();
            for (at, (count, delay, twice)) in segments.into_iter().enumerate() {
                if let Some(delay) = delay {
                    arrivals.push((at + usize::from(delay), next, count));
                    if twice {
                        arrivals.push((at + 2 * usize::from(delay), next, count));
                    }
                }
                next += count;
            }
            arrivals.sort_by_key(|arrival| arrival.0);
            let mut line = Line::new(Some(1));
            for (at, first, count) in arrivals {
                line.observe(7, first, count, at as i64 * step_ms);
            }
            line.observe(7, next, 0, 1_000_000);
            line.finish();
            let all: Vec<u64> = line.seen.keys().copied().collect();
            prop_assert_eq!(all, (1..next).collect::<Vec<_>>());
            for (sequence, (delivered, missed)) in &line.seen {
                prop_assert_eq!(delivered + missed, 1, "{}: {} delivered, {} missed", sequence, delivered, missed);
            }
            let missed: u64 = line.seen.values().map(|seen| u64::from(seen.1)).sum();
            prop_assert_eq!(line.tracker.counts().missed, missed);
        }

        #[test]
        fn any_numbers_are_survived(observed in prop::collection::vec((0_u64..3, any::<u64>(), 0_u64..70_000, any::<i64>()), 0..50)) {
            let mut tracker = SequenceTracker::new(Some(1));
            for (session, first, count, now) in observed {
                tracker.observe(session, first, count, Timestamp::from_nanos(now), &mut |_| ());
                prop_assert!(tracker.holes.len() <= HOLES_MAX);
            }
        }
    }
}
