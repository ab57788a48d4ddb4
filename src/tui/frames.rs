//! When to draw: requests are coalesced, and a rate is never passed.

use std::time::Duration;

use tokio::time::Instant;

/// At the most so often after a key: what a hand does is seen at once.
const INPUT_PERIOD: Duration = Duration::from_millis(16);
/// At the most so often for prices alone: faster than an eye reads a number.
const DATA_PERIOD: Duration = Duration::from_millis(100);

/// Decides when the next frame is due.
pub(super) struct Frames {
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self { last: None, due: None }
    }

    /// A person did something.
    pub(super) fn input(&mut self) {
        self.request(INPUT_PERIOD);
    }

    /// Prices changed, or time went on.
    pub(super) fn data(&mut self) {
        self.request(DATA_PERIOD);
    }

    fn request(&mut self, period: Duration) {
        let now = Instant::now();
        let earliest = self.last.map_or(now, |last| (last + period).max(now));
        self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
    }

    /// Waits until a requested frame is due; for ever where none is. Cancel-safe.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// A frame was drawn.
    pub(super) fn drawn(&mut self) {
        self.last = Some(Instant::now());
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_are_coalesced_and_the_rate_is_held() {
        let mut frames = Frames::new();
        let begun = Instant::now();
        let mut drawn = 0;
        while begun.elapsed() < Duration::from_secs(1) {
            // Ten updates a millisecond, and yet ten frames a second.
            (0..10).for_each(|_| frames.data());
            tokio::select! {
                () = frames.due() => { frames.drawn(); drawn += 1; }
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        assert!((9..=11).contains(&drawn), "{drawn} frames");
        frames.data();
        frames.input();
        frames.due().await;
        let waited = begun.elapsed();
        frames.drawn();
        frames.input();
        frames.due().await;
        assert_eq!(begun.elapsed(), waited + INPUT_PERIOD, "a hand is answered at sixty a second at most");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_asked_for_nothing_drawn() {
        let frames = Frames::new();
        assert!(tokio::time::timeout(Duration::from_hours(1), frames.due()).await.is_err());
    }
}
