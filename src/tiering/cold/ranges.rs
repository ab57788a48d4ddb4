//! Which requests read the ranges asked for.
//!
//! A request costs its wait and its price, a byte that nobody wants costs its time: near ranges go
//! together, and of many the nearest go together until they are few.

use std::ops::Range;

use bytes::Bytes;

/// When ranges are read together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A gap between two ranges that is always read along: what a request's wait would bring.
    pub gap_bytes_min: u64,
    /// A gap that is read along, at most.
    pub gap_bytes_max: u64,
    /// Requests beyond which gaps of up to `gap_bytes_max` are read along, the smallest first.
    pub requests_few: usize,
}

impl Limits {
    /// For a store that answers after some ten milliseconds, and then sends some ten megabytes a
    /// second.
    pub const FAR: Self = Self { gap_bytes_min: 128 << 10, gap_bytes_max: 1 << 20, requests_few: 7 };
}

/// The ranges to request, ascending and apart from one another: every one of `ranges` lies within
/// one of them. Empty ranges need none.
pub fn coalesce(ranges: &[Range<u64>], limits: Limits) -> Vec<Range<u64>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|range| (range.start, range.end));
    let mut requests = merge(sorted, limits.gap_bytes_min);
    if requests.len() > limits.requests_few {
        let gap = |pair: &[Range<u64>]| pair[1].start - pair[0].end;
        let mut gaps: Vec<u64> = requests.windows(2).map(gap).collect();
        gaps.sort_unstable();
        // Reading along the smallest gaps leaves as many requests as there are larger ones, and one.
        let gap = gaps[requests.len() - limits.requests_few - 1];
        requests = merge(requests, gap.min(limits.gap_bytes_max));
    }
    requests
}

/// `sorted` ranges, those together between which lie at most `gap_bytes`.
fn merge(sorted: Vec<Range<u64>>, gap_bytes: u64) -> Vec<Range<u64>> {
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(gap_bytes) => {
                last.end = last.end.max(range.end);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Which of `requests`, as [`coalesce`] made them, holds `range`; `None` for an empty range.
fn holder(requests: &[Range<u64>], range: &Range<u64>) -> Option<usize> {
    if range.is_empty() {
        return None;
    }
    requests.partition_point(|request| request.start <= range.start).checked_sub(1)
}

/// The bytes of each of `ranges`, out of what was `read` for `requests`.
pub(super) fn cut(requests: &[Range<u64>], read: &[Bytes], ranges: &[Range<u64>]) -> Vec<Bytes> {
    let cut = ranges.iter().map(|range| match holder(requests, range) {
        Some(at) => {
            let start = (range.start - requests[at].start) as usize;
            read[at].slice(start..start + (range.end - range.start) as usize)
        }
        None => Bytes::new(),
    });
    cut.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn coalesce(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
        super::coalesce(ranges, Limits::FAR)
    }

    #[test]
    fn near_ranges_go_together_and_far_ones_stay_apart() {
        let mib = 1 << 20;
        assert_eq!(coalesce(&[]), []);
        assert_eq!(coalesce(std::slice::from_ref(&(5..5))), []);
        assert_eq!(coalesce(&[10..20, 0..5, 4..6]), coalesce(std::slice::from_ref(&(0..20))));
        assert_eq!(coalesce(&[0..5, 10 * mib..10 * mib + 1]), [0..5, 10 * mib..10 * mib + 1]);
        // Half a mebibyte apart: a few stay apart, of many the nearest go together.
        let at = |number: u64| number * mib / 2..number * mib / 2 + 10;
        assert_eq!(coalesce(&(0..7).map(at).collect::<Vec<_>>()).len(), 7);
        assert_eq!(coalesce(&(0..8).map(at).collect::<Vec<_>>()).len(), 1);
        // What is too far stays apart, however many there are.
        let far = |number: u64| number * 3 * mib..number * 3 * mib + 10;
        assert_eq!(coalesce(&(0..20).map(far).collect::<Vec<_>>()).len(), 20);
    }

    proptest! {
        #[test]
        fn every_range_lies_in_one_request_and_none_overlap(
            ranges in prop::collection::vec((0_u64..9 << 20, 0_u64..1 << 16), 0..40),
        ) {
            let ranges: Vec<_> = ranges.into_iter().map(|(start, len)| start..start + len).collect();
            let requests = coalesce(&ranges);
            prop_assert!(requests.windows(2).all(|pair| pair[0].end < pair[1].start));
            let read: Vec<_> = requests.iter().map(|request| {
                (request.start..request.end).step_by(1).map(|at| (at % 251) as u8).collect::<Bytes>()
            }).collect();
            for (range, bytes) in ranges.iter().zip(cut(&requests, &read, &ranges)) {
                prop_assert_eq!(bytes.len() as u64, range.end - range.start);
                let ends = [bytes.first().copied(), bytes.last().copied()];
                let expected = [range.start, range.end.wrapping_sub(1)].map(|at| (!range.is_empty()).then_some((at % 251) as u8));
                prop_assert_eq!(ends, expected);
            }
        }
    }
}
