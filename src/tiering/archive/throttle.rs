//! A bound on bytes a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much may be taken at once after a time of rest.
const BURST: Duration = Duration::from_millis(250);

/// A bucket that fills at a steady rate. Who takes more than is there waits for the rest.
pub(super) struct Throttle {
    bytes_per_s: Option<u64>,
    /// When all that was taken will have flowed in.
    paid_at: Mutex<Option<Instant>>,
}

impl Throttle {
    /// A bucket of `bytes_per_s`; without, nobody waits.
    pub(super) fn new(bytes_per_s: Option<u64>) -> Self {
        Self { bytes_per_s, paid_at: Mutex::new(None) }
    }

    /// Takes `bytes`, once they may flow.
    pub(super) async fn take(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_s else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let until = {
            let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let from = paid_at.map_or(now, |paid_at| paid_at.max(now.checked_sub(BURST).unwrap_or(now)));
            *paid_at = Some(from + cost);
            from + cost
        };
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_flow_at_the_rate_whatever_their_pieces() {
        for piece in [10_u64, 1_000, 100_000] {
            let throttle = Throttle::new(Some(1_000));
            let began = Instant::now();
            for _ in 0..100_000 / piece {
                throttle.take(piece).await;
            }
            let took = began.elapsed().as_secs_f64();
            assert!((99.0..=101.0).contains(&took), "{piece}: {took}");
        }
        let free = Throttle::new(None);
        let began = Instant::now();
        free.take(u64::MAX).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
