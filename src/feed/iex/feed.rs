//! A capture in its own timing, or faster.

use std::collections::VecDeque;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use super::decode::Place;
use super::reader::{IexReader, Selection};
use super::session::Session;
use super::tally::Tally;
use crate::backoff::jitter_seed;
use crate::feed::{BATCH_TICKS_MAX, Feed, FeedError, Pulled};
use crate::market::{Tick, Timestamp};
use crate::wire::record::{Origin, StoredNumbers};

/// How fast a capture is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many times the capture's own; finite and above zero.
    Factor(f64),
    /// As fast as it is taken.
    Max,
}

/// Why a text is no speed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no speed: write a number above 0, such as 1 or 10, or max")]
pub struct SpeedError(String);

impl FromStr for Speed {
    type Err = SpeedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse::<f64>() {
            Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(Self::Factor(factor)),
            _ => Err(SpeedError(text.chars().take(64).collect::<String>().escape_debug().to_string())),
        }
    }
}

/// Plays a capture.
pub struct IexFeed {
    speed: Speed,
    /// With the reader, while nothing is being read.
    reader: Option<Box<IexReader>>,
    /// Reads ahead, off the async threads.
    reading: Option<JoinHandle<Chunk>>,
    ready: VecDeque<(Tick, Place)>,
    ready_pass: u32,
    /// What of the capture the log has, where that is asked for.
    session: Option<Session>,
    /// Under what the last batch goes into the log, and the number that it follows on.
    origin: Option<(Origin, u64)>,
    /// When the pass's first tick was given out, and that tick's capture stamp.
    clock: Option<(Instant, Timestamp)>,
    error: Option<FeedError>,
    subject: String,
    tally: Tally,
}

struct Chunk {
    reader: Box<IexReader>,
    ticks: Vec<(Tick, Place)>,
    pass: u32,
    repetition: (i64, u64),
    more: Result<bool, FeedError>,
}

impl IexFeed {
    /// Opens a capture to be played.
    ///
    /// Errors: the file can't be read, or is no capture.
    pub fn open(path: &Path, selection: Selection, speed: Speed) -> Result<Self, FeedError> {
        let reader = IexReader::open(path, selection)?;
        Ok(Self {
            speed,
            reader: Some(Box::new(reader)),
            reading: None,
            ready: VecDeque::new(),
            ready_pass: 0,
            session: None,
            origin: None,
            clock: None,
            error: None,
            subject: path.display().to_string(),
            tally: Tally::default(),
        })
    }

    /// The same, knowing its messages again: what the log holds of the capture's streams is skipped, and
    /// the rest is added to it. `again`: all of it is stored once more, as a session of its own.
    #[must_use]
    pub fn identified(mut self, again: bool) -> Self {
        if let Some(reader) = &mut self.reader {
            reader.keep_places();
            let again = if again { jitter_seed() | 1 } else { 0 };
            self.session = Some(Session::new(again, reader.selection()));
        }
        self
    }

    /// How many of the ticks that were skipped as stored may not be: they lie where the store has more holes of the
    /// stream than it can tell apart.
    pub fn doubtful(&self) -> u64 {
        self.session.as_ref().map_or(0, |session| session.doubtful)
    }

    /// What became of everything read so far, which at the end is the whole capture. Reading is
    /// ahead of playing by some thousand ticks.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Says which messages of the capture made no tick though they should have.
    fn say_refused(&self) {
        if let Some(first) = &self.tally.refused_first {
            let Tally { refused, .. } = self.tally;
            warn!(refused, %first, capture = %self.subject, "messages of the capture could not be read");
        }
    }

    /// Begins to read the next chunk, where that has not begun and there is more.
    fn read_ahead(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let mut ticks = Vec::with_capacity(2 * BATCH_TICKS_MAX);
                let (pass, repetition) = (reader.pass(), reader.repetition());
                let more = reader.read(&mut ticks);
                let places = reader.take_places().into_iter().chain(std::iter::repeat(Place::UNKNOWN));
                let ticks = ticks.into_iter().zip(places).collect();
                Chunk { reader, ticks, pass, repetition, more }
            }));
        }
    }

    /// Takes over what was read; false when there is nothing more to read.
    async fn take_chunk(&mut self) -> bool {
        self.read_ahead();
        let Some(reading) = &mut self.reading else { return false };
        // A handle may be awaited again after this call was dropped, so nothing is lost by that.
        let finished = reading.await;
        self.reading = None;
        match finished {
            Ok(Chunk { reader, ticks, pass, repetition, more }) => {
                self.tally.clone_from(reader.tally());
                self.ready = ticks.into();
                if let Some(session) = &mut self.session {
                    session.set_repetition(repetition);
                }
                if pass != self.ready_pass {
                    (self.ready_pass, self.clock) = (pass, None);
                }
                match more {
                    Ok(true) => {
                        self.reader = Some(reader);
                        self.read_ahead();
                    }
                    Ok(false) => self.say_refused(),
                    Err(error) => {
                        self.say_refused();
                        self.error = Some(error);
                    }
                }
            }
            Err(stopped) => {
                let source = std::io::Error::other(stopped);
                self.error = Some(FeedError::Io { subject: self.subject.clone(), source });
            }
        }
        true
    }

    fn refused(&self, reason: String) -> FeedError {
        FeedError::Stored { subject: self.subject.clone(), reason }
    }

    /// Skips ticks that the log holds already. The producer that the log must be asked for first, if it is
    /// not known what it holds.
    fn skip_stored(&mut self) -> Result<Option<u64>, FeedError> {
        let Some(session) = &mut self.session else { return Ok(None) };
        while let Some((tick, place)) = self.ready.front() {
            let asks = session.asks(place.stream);
            if asks.is_some() {
                return Ok(asks);
            }
            match session.is_stored(tick, *place) {
                Ok(true) => session.already_stored += 1,
                Ok(false) => break,
                Err(reason) => return Err(self.refused(reason)),
            }
            self.ready.pop_front();
        }
        Ok(None)
    }

    /// Waits until ticks are due; how many are.
    async fn due(&mut self, first: Timestamp) -> usize {
        let Speed::Factor(factor) = self.speed else { return self.ready.len() };
        let (start, base) = *self.clock.get_or_insert_with(|| (Instant::now(), first));
        let due = |stamp: Timestamp| start + after(stamp.nanos_since(base), factor);
        tokio::time::sleep_until(due(first)).await;
        let now = Instant::now();
        self.ready
            .iter()
            .take(BATCH_TICKS_MAX)
            .take_while(|(tick, _)| due(tick.recv_ts()) <= now)
            .count()
            .max(1)
    }
}

/// How long a capture's `nanos` last at `factor`.
fn after(nanos: i64, factor: f64) -> Duration {
    const WAIT_MAX: Duration = Duration::from_hours(365 * 24);
    Duration::try_from_secs_f64(nanos.max(0) as f64 / 1e9 / factor).unwrap_or(WAIT_MAX).min(WAIT_MAX)
}

#[async_trait::async_trait]
impl Feed for IexFeed {
    fn name(&self) -> &'static str {
        "iex"
    }

    async fn next(&mut self, ticks: &mut Vec<Tick>) -> Result<Pulled, FeedError> {
        loop {
            if let Some(producer) = self.skip_stored()? {
                return Ok(Pulled::Asks(producer));
            }
            if let Some(first) = self.ready.front().map(|(tick, _)| tick.recv_ts()) {
                let mut due = self.due(first).await.min(BATCH_TICKS_MAX);
                if let Some(session) = &mut self.session {
                    let batch = session.batch(self.ready.iter().take(due));
                    let batch = batch.map_err(|reason| self.refused(reason))?;
                    due = batch.ticks;
                    self.origin = Some((batch.origin, batch.after));
                }
                ticks.extend(self.ready.drain(..due).map(|(tick, _)| tick));
                return Ok(Pulled::Ticks);
            }
            if let Some(error) = self.error.take() {
                return Err(error);
            }
            if !self.take_chunk().await {
                return Ok(Pulled::End);
            }
        }
    }

    fn told(&mut self, stored: StoredNumbers) -> Result<(), FeedError> {
        let (Some(session), Some((_, place))) = (&mut self.session, self.ready.front()) else {
            return Ok(());
        };
        session.told(place.stream, stored).map_err(|reason| self.refused(reason))
    }

    fn origin(&self) -> Option<Origin> {
        self.origin.map(|(origin, _)| origin)
    }

    fn follows(&self) -> Option<u64> {
        self.origin.map(|(_, after)| after)
    }

    fn already_stored(&self) -> u64 {
        self.session.as_ref().map_or(0, |session| session.already_stored)
    }
}
