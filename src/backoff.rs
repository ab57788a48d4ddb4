//! Waits between tries of reaching what is not there: for feeds and clients alike.

use std::time::Duration;

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// How long to wait before one more try: doubles from a quarter of a second to eight seconds, each
/// spread over a half to the whole, so that a crowd of clients does not come back at one instant.
pub struct Backoff {
    tries: u32,
    random: SplitMix64,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(250);
    const DOUBLINGS_MAX: u32 = 5;

    /// Waits that are spread by `seed`: see [`jitter_seed`].
    pub fn new(seed: u64) -> Self {
        Self { tries: 0, random: SplitMix64::seed_from_u64(seed) }
    }

    /// The wait before the next try.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> Duration {
        let whole = Self::FIRST * 2_u32.pow(self.tries.min(Self::DOUBLINGS_MAX));
        self.tries += 1;
        let share = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        whole.mul_f64(0.5 + share / 2.0)
    }

    /// Waits given since the last success.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// A try has succeeded: the next wait is the shortest again.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// A seed that differs between processes and moments: for jitter, not for secrets.
pub fn jitter_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = since.map_or(0, |since| since.as_nanos() as u64);
    nanos ^ u64::from(std::process::id()).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_spread_and_stay_bounded() {
        let mut backoff = Backoff::new(1);
        let waits: Vec<_> = (0..12).map(|_| backoff.next()).collect();
        assert!(waits[0] >= Duration::from_millis(125) && waits[0] <= Duration::from_millis(250));
        assert!(waits[6..].iter().all(|wait| (4.0..=8.0).contains(&wait.as_secs_f64())), "{waits:?}");
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(250));
    }
}
