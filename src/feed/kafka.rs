//! Somebody else's topics, as a feed.
//!
//! A file says where the messages are and what of them is what (`config.rs`, `map.rs`); payloads
//! are JSON, Avro or Protobuf. A message that can't be read, or makes no tick, goes to a
//! dead-letter topic (`dead.rs`). The brokers are told of a message's offset only when the log has
//! accepted its tick, or the dead-letter topic the message. What is read again after a crash is
//! known as a repeat by every reader of the log, since a batch's producer is its partition and its
//! sequence the offset behind it (`line.rs`).
//!
//! Brokers that are away are waited for. What the topic dropped before it was read, and sequence
//! numbers that never came, are told as gaps.

mod avro;
mod config;
mod dead;
mod json;
mod line;
mod map;
mod metrics;
mod protobuf;
mod source;
#[cfg(test)]
mod tests;
mod value;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hasher;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use prometheus_client::registry::Registry;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, OwnedMessage, Timestamp as MessageTime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::config::{Config, Per, Start};
use self::dead::DeadLetters;
use self::line::{Line, Note};
use self::map::{Envelope, Mapped, Numbered};
pub use self::metrics::KafkaFeedMetrics;
use self::source::{Found, Look, LookError, Reading, make_dead_topic};
use super::gaps::{Event, SequenceTracker, Verdict};
use super::{AHEAD_LOG_PERIOD, Ahead, BATCH_TICKS_MAX, Feed, FeedError, Pulled};
use crate::backoff::{Backoff, jitter_seed};
use crate::kafka::{MeetError, Watch, code_of, is_final, is_out_of_range, keep_brokers, meet};
use crate::market::{Gap, GapKind, Horizon, Symbol, Tick, Timestamp};
use crate::wire::record::Origin;

/// How often the topics are looked at for further partitions.
const LOOK_INTERVAL: Duration = Duration::from_mins(1);
/// How long the brokers may be silent at the first contact before that is told.
const MEET_MAX: Duration = Duration::from_secs(10);
/// How often the brokers are told how far reading has come, while there is more under way.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// The most lines whose sequence numbers are followed; further ones are not.
const TRACKERS_MAX: usize = 100_000;
/// After a restart the numbers of so many messages of each partition are followed again.
const NUMBERS_AGAIN_MESSAGES: u64 = 8_192;
/// Of them, how many wait to be looked at.
const AGAIN_WAITING_MAX: usize = 256;

/// A partition of one of the topics, by their order in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    topic: u16,
    partition: u16,
}

/// Ticks of messages of one partition that follow on each other.
struct Batch {
    key: Key,
    /// The first message's offset.
    first: u64,
    /// Under what it goes into the log: its number is the offset behind the last message.
    origin: Origin,
    ticks: Vec<Tick>,
}

/// Partitions that were found, about to be read.
#[derive(Default)]
struct Assigning {
    begun: Vec<(Key, u64)>,
    /// Those that are read already, and go on elsewhere.
    moved: Vec<(Key, u64)>,
    /// Offsets read before, whose numbers are to be followed first.
    again: Vec<(Key, Range<u64>)>,
    reading: Option<Again>,
}

/// Messages that were read before, as they come.
struct Again {
    messages: mpsc::Receiver<OwnedMessage>,
    task: JoinHandle<Result<(), KafkaError>>,
}

/// A mark that the brokers are being told.
type Marking = (Key, Note, JoinHandle<Result<(), KafkaError>>);

/// Reads somebody else's topics.
pub struct KafkaFeed {
    config: Config,
    subject: String,
    client: ClientConfig,
    metrics: KafkaFeedMetrics,
    reading: Reading,
    dead: DeadLetters,
    lines: BTreeMap<Key, Line>,
    /// By partition, symbol where each has its own numbers, and line.
    trackers: HashMap<(Key, Option<Symbol>, String), SequenceTracker>,
    /// Batches that are whole, to be handed out before anything else. Only
    /// [`KafkaFeed::finish_batch`] adds to them, so that nothing overtakes.
    whole: VecDeque<Batch>,
    /// The batch being filled.
    batch: Option<Batch>,
    /// A message that was read and does not go into it.
    held: Option<OwnedMessage>,
    /// Calls handed out.
    calls: u64,
    origin: Option<Origin>,
    /// The first contact, until a broker has answered.
    meeting: Option<JoinHandle<Result<(), MeetError>>>,
    /// The making of the dead-letter topic, until it is there.
    making: Option<JoinHandle<Result<(), LookError>>>,
    is_met: bool,
    is_dead_topic_made: bool,
    looking: Option<JoinHandle<Result<Look, LookError>>>,
    assigning: Option<Assigning>,
    look_at: Instant,
    marking: Option<Marking>,
    backoff: Backoff,
    retry_at: Option<Instant>,
    committed_at: Instant,
    horizon: Horizon,
    /// When a tick too far ahead of the clock was last logged.
    ahead_told_at: Option<Instant>,
}

impl KafkaFeed {
    /// Reads the file that says what to read. To be called within a Tokio runtime; the brokers are
    /// first spoken to when the feed is asked.
    ///
    /// Errors: the file, or one that it names, can't be read or is refused.
    pub fn open(path: &Path) -> Result<Self, FeedError> {
        Self::open_counting(path, KafkaFeedMetrics::default())
    }

    /// As [`KafkaFeed::open`], for a feed that is started again: it goes on counting in `metrics`.
    pub fn open_counting(path: &Path, metrics: KafkaFeedMetrics) -> Result<Self, FeedError> {
        let subject = path.display().to_string();
        let config = Config::read(path)?;
        let refused = |error: crate::kafka::SettingsError| FeedError::Format {
            subject: subject.clone(),
            reason: error.to_string(),
        };
        let properties: Vec<_> = config.file.properties.clone().into_iter().collect();
        let client = crate::kafka::client_config(&config.file.brokers, &properties).map_err(refused)?;
        let watch = Watch::counting(metrics.brokers_up.clone());
        let (topics, group) = (&config.file.topics, &config.file.group);
        let reading = Reading::new(&client, topics, group, &watch).map_err(refused)?;
        let dead = DeadLetters::new(&client, &config.file.dead_letter_topic, group).map_err(refused)?;
        let (brokers, retries) = (&config.file.brokers, &metrics.retries);
        tokio::spawn(keep_brokers(
            Arc::downgrade(reading.consumer()),
            |consumer| consumer.client(),
            watch.health.orphaned(),
            brokers.clone(),
            retries.clone(),
        ));
        tokio::spawn(dead.keep_brokers(brokers.clone(), retries.clone()));
        Ok(Self {
            config,
            subject,
            client,
            metrics,
            reading,
            dead,
            lines: BTreeMap::new(),
            trackers: HashMap::new(),
            whole: VecDeque::new(),
            batch: None,
            held: None,
            calls: 0,
            origin: None,
            meeting: None,
            making: None,
            is_met: false,
            is_dead_topic_made: false,
            looking: None,
            assigning: None,
            look_at: Instant::now(),
            marking: None,
            backoff: Backoff::new(jitter_seed()),
            retry_at: None,
            committed_at: Instant::now(),
            horizon: Horizon::UNLIMITED,
            ahead_told_at: None,
        })
    }

    /// The same feed, whose messages with a tick beyond `horizon` are dead letters.
    pub fn with_horizon(self, horizon: Horizon) -> Self {
        Self { horizon, ..self }
    }

    /// Its counters.
    pub fn metrics(&self) -> &KafkaFeedMetrics {
        &self.metrics
    }

    fn topic(&self, key: Key) -> &str {
        &self.config.file.topics[usize::from(key.topic)]
    }

    fn failed(&self, reason: impl ToString) -> FeedError {
        FeedError::Io { subject: self.subject.clone(), source: std::io::Error::other(reason.to_string()) }
    }

    /// Waits before another attempt, longer each time and never as long as others wait.
    async fn pause(&mut self, what: &str, error: &(dyn std::fmt::Display + Sync)) {
        let backoff = &mut self.backoff;
        let at = *self.retry_at.get_or_insert_with(|| Instant::now() + backoff.next());
        tracing::warn!(feed = self.subject, what, %error, "trying again");
        tokio::time::sleep_until(at).await;
        self.metrics.retries.inc();
        self.retry_at = None;
    }

    /// Looks at the topics and reads what is not read yet.
    async fn look(&mut self) -> Result<(), FeedError> {
        while self.assigning.is_none() {
            if !self.is_met {
                let meeting = self.meeting.get_or_insert_with(|| {
                    let (client, topic) = (self.client.clone(), self.config.file.topics[0].clone());
                    tokio::spawn(async move { meet(&client, &topic, MEET_MAX).await })
                });
                let met = meeting.await;
                self.meeting = None;
                match met {
                    Ok(Ok(())) => self.is_met = true,
                    Ok(Err(MeetError::Away(reason))) => {
                        self.pause("reaching the brokers", &reason).await;
                        continue;
                    }
                    Ok(Err(MeetError::Refused(reason))) => return Err(self.failed(reason)),
                    Err(error) => return Err(self.failed(error)),
                }
            }
            if !self.is_dead_topic_made {
                let making = self.making.get_or_insert_with(|| {
                    let (client, consumer) = (self.client.clone(), self.reading.consumer().clone());
                    let (topics, dead) =
                        (self.config.file.topics.clone(), self.config.file.dead_letter_topic.clone());
                    tokio::spawn(async move { make_dead_topic(&client, consumer, topics, &dead).await })
                });
                let made = making.await;
                self.making = None;
                match made {
                    Ok(Ok(())) => self.is_dead_topic_made = true,
                    Ok(Err(error)) if error.is_final() => return Err(self.failed(error)),
                    Ok(Err(error)) => {
                        self.pause("making the dead-letter topic", &error).await;
                        continue;
                    }
                    Err(error) => return Err(self.failed(error)),
                }
            }
            let looking = self.looking.get_or_insert_with(|| {
                let consumer = self.reading.consumer().clone();
                let (topics, wanted) = (self.config.file.topics.clone(), self.config.file.partitions.clone());
                tokio::task::spawn_blocking(move || Reading::look(&consumer, &topics, wanted.as_deref()))
            });
            let found = looking.await;
            self.looking = None;
            match found {
                Ok(Ok(look)) => self.assigning = Some(self.take_look(look)?),
                Ok(Err(error)) if error.is_final() => return Err(self.failed(error)),
                Ok(Err(error)) => self.pause("looking at the topics", &error).await,
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.follow_again().await?;
        let Assigning { begun, moved, .. } = self.assigning.take().unwrap_or_default();
        if !begun.is_empty() || !moved.is_empty() {
            tracing::info!(feed = self.subject, partitions = self.lines.len(), "reading");
            self.reading.assign(&begun, &moved).map_err(|error| self.failed(error))?;
        }
        self.backoff.reset();
        self.look_at = Instant::now() + LOOK_INTERVAL;
        Ok(())
    }

    /// Follows the numbers of what was read before, so that what a restart comes between is no gap,
    /// and what is repeated after it a repeat. Cancel-safe.
    async fn follow_again(&mut self) -> Result<(), FeedError> {
        loop {
            let Some(assigning) = self.assigning.as_mut().filter(|assigning| !assigning.again.is_empty())
            else {
                return Ok(());
            };
            let again = assigning.reading.get_or_insert_with(|| {
                let (sender, messages) = mpsc::channel(AGAIN_WAITING_MAX);
                let (client, file) = (self.client.clone(), &self.config.file);
                let (group, topics, spans) =
                    (file.group.clone(), file.topics.clone(), assigning.again.clone());
                let read = move || Reading::read_again(&client, &group, &topics, &spans, &sender);
                Again { messages, task: tokio::task::spawn_blocking(read) }
            });
            if let Some(message) = again.messages.recv().await {
                self.recall(&message);
                continue;
            }
            // A handle may be awaited again after this call was dropped, so nothing is lost by that.
            let read = (&mut again.task).await;
            assigning.reading = None;
            match read {
                Ok(Ok(())) => assigning.again.clear(),
                Ok(Err(error)) if code_of(&error).is_some_and(is_final) => return Err(self.failed(error)),
                Ok(Err(error)) => self.pause("reading the last numbers again", &error).await,
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// Takes note of the numbers of a message that was read before.
    fn recall(&mut self, message: &OwnedMessage) {
        let Some(key) = self.key_of(message) else { return };
        let now = Timestamp::now();
        let (Some(payload), envelope) = (message.payload(), envelope_of(message)) else { return };
        // A dead letter says nothing of its numbers, now as then.
        let Ok(mapped) = self.config.decode(payload, envelope, now) else { return };
        for mapped in mapped {
            let Mapped::Tick(tick, Some(numbered)) = mapped else { continue };
            let Some(tracker) = self.tracker(key, &tick, &numbered.line) else { continue };
            // A hole that was old by its messages' own time has been told.
            tracker.observe(0, numbered.sequence, 1, envelope.ts.unwrap_or(now), &mut |_| {});
        }
    }

    fn key_of(&self, message: &OwnedMessage) -> Option<Key> {
        let topic = self.config.file.topics.iter().position(|topic| topic == message.topic())?;
        Some(Key { topic: topic as u16, partition: message.partition() as u16 })
    }

    /// What is to be read of what was found.
    fn take_look(&mut self, look: Look) -> Result<Assigning, FeedError> {
        if look.partitions.is_empty() {
            return Err(self.failed("none of the `partitions` exist"));
        }
        let (mut assigning, mut lag) = (Assigning::default(), 0);
        for found in look.partitions {
            let key = found.key;
            if let Some(line) = self.lines.get(&key) {
                let at = line.next();
                if at < found.first || at > found.next {
                    self.catch_up(&found);
                    assigning.moved.push((key, self.lines[&key].next()));
                }
            } else {
                let (at, note) = match found.committed {
                    Some((at, note)) => (at, note),
                    // Partitions that are added later are read from their beginning.
                    None if self.config.file.start == Start::Latest && self.calls == 0 => (found.next, None),
                    None => (found.first, None),
                };
                let seed = self.seed(&look.cluster, key);
                self.lines.insert(key, Line::new(seed, at, note, found.committed.map(|(at, _)| at)));
                if at < found.first || at > found.next {
                    self.catch_up(&found);
                } else if self.config.per.is_some() && found.committed.is_some() {
                    let from = at.saturating_sub(NUMBERS_AGAIN_MESSAGES).max(found.first);
                    assigning.again.push((key, from..at));
                }
                assigning.begun.push((key, self.lines[&key].next()));
            }
            lag += found.next.saturating_sub(self.lines[&key].next());
        }
        self.metrics.lag_messages.set(lag as i64);
        Ok(assigning)
    }

    /// Who a partition is as a producer: the same whoever reads it under the same group.
    fn seed(&self, cluster: &str, key: Key) -> u64 {
        let mut hasher = xxhash_rust::xxh64::Xxh64::new(0);
        for part in [cluster, &self.config.file.group, self.topic(key)] {
            hasher.write(part.as_bytes());
            hasher.write(&[0xff]);
        }
        hasher.write_u16(key.partition);
        hasher.finish()
    }

    /// Goes on where a partition begins now, and tells what that leaves out.
    fn catch_up(&mut self, found: &Found) {
        // What was read before comes before the gap, and under the producer of before.
        self.finish_batch();
        if let Some(message) = self.held.take() {
            self.take(message);
            self.finish_batch();
        }
        let key = found.key;
        let source = format!("kafka/{}/{}", self.topic(key), key.partition);
        let Some(line) = self.lines.get_mut(&key) else { return };
        let at = line.next();
        let (kind, first, last) = if at < found.first {
            line.read_up_to(found.first);
            self.metrics.trimmed.inc_by(found.first - at);
            (GapKind::Missed, at, found.first - 1)
        } else if at > found.next {
            line.begin_anew(found.first);
            (GapKind::Reset, found.first, 0)
        } else {
            return;
        };
        tracing::warn!(feed = self.subject, source, at, first = found.first, next = found.next, "a gap");
        let now = Timestamp::now();
        let gap = Gap { symbol: None, ts: now, recv_ts: now, kind, source: source.into(), first, last };
        let (first, origin) = (at.min(found.first), line.origin(found.first));
        self.batch = Some(Batch { key, first, origin, ticks: vec![Tick::Gap(Box::new(gap))] });
        self.finish_batch();
    }

    /// Takes a message in: into the batch, to the dead letters, or aside where it does not go into
    /// the batch.
    fn take(&mut self, message: OwnedMessage) {
        let Some(key) = self.key_of(&message) else { return };
        let offset = message.offset().max(0) as u64;
        let Some(line) = self.lines.get_mut(&key) else { return };
        if offset < line.next() {
            return;
        }
        if self.batch.as_ref().is_some_and(|batch| batch.key != key) {
            self.held = Some(message);
            self.finish_batch();
            return;
        }
        line.read_up_to(offset + 1);
        self.metrics.messages.inc();
        let recv_ts = Timestamp::now();
        let envelope = envelope_of(&message);
        let mapped = match message.payload() {
            // A mark that a key is gone, in topics that are compacted: it says nothing of a tick.
            None => Ok(vec![Mapped::Skipped]),
            Some(payload) => self.config.decode(payload, envelope, recv_ts),
        };
        let mapped = mapped.and_then(|mapped| self.within_horizon(key, offset, mapped));
        match mapped {
            Ok(mapped) => self.add(key, offset, mapped, recv_ts),
            Err(reason) => {
                let shown = self.topic(key);
                tracing::debug!(topic = shown, partition = key.partition, offset, reason, "a dead letter");
                self.metrics.dead_letters.inc();
                if let Some(line) = self.lines.get_mut(&key) {
                    line.dead(offset);
                }
                self.dead.send(key, message, &reason);
            }
        }
    }

    /// What a message says, unless one of its ticks is too far ahead of the clock.
    fn within_horizon(&mut self, key: Key, offset: u64, mapped: Vec<Mapped>) -> Result<Vec<Mapped>, String> {
        let ticks = mapped.iter().filter_map(|mapped| match mapped {
            Mapped::Tick(tick, _) => Some(tick),
            Mapped::Skipped => None,
        });
        let Some(ahead) = Ahead::first_of(ticks, self.horizon) else { return Ok(mapped) };
        self.metrics.ahead.inc();
        if self.ahead_told_at.is_none_or(|at| at.elapsed() >= AHEAD_LOG_PERIOD) {
            self.ahead_told_at = Some(Instant::now());
            let (topic, messages) = (self.topic(key), self.metrics.ahead.get());
            let partition = key.partition;
            tracing::warn!(topic, partition, offset, messages, %ahead, "a dead letter");
        }
        Err(ahead.to_string())
    }

    /// Adds what the message at `offset` says to the batch.
    fn add(&mut self, key: Key, offset: u64, mapped: Vec<Mapped>, recv_ts: Timestamp) {
        let mut ticks = Vec::with_capacity(mapped.len());
        for mapped in mapped {
            match mapped {
                Mapped::Skipped => drop(self.metrics.skipped.inc()),
                Mapped::Tick(tick, None) => ticks.push(tick),
                Mapped::Tick(tick, Some(numbered)) => {
                    if self.is_fresh(key, &tick, &numbered, recv_ts, &mut ticks) {
                        ticks.push(tick);
                    }
                }
            }
        }
        if ticks.is_empty() {
            return;
        }
        // Gaps are told as far as they fit; each tick brings one or two at most, so this is a limit
        // for numbers gone wild, and what was missed is counted all the same.
        ticks.truncate(BATCH_TICKS_MAX);
        self.metrics.ticks.inc_by(ticks.len() as u64);
        if self.batch.as_ref().is_some_and(|batch| batch.ticks.len() + ticks.len() > BATCH_TICKS_MAX) {
            self.finish_batch();
        }
        let Some(line) = self.lines.get(&key) else { return };
        let origin = line.origin(offset + 1);
        let empty = || Batch { key, first: offset, origin, ticks: Vec::new() };
        let batch = self.batch.get_or_insert_with(empty);
        batch.ticks.append(&mut ticks);
        batch.origin = origin;
        if line.is_alone(offset + 1) {
            self.finish_batch();
        }
    }

    /// Whether a numbered tick is to be delivered; what was missed before it is added to `ticks`.
    fn is_fresh(
        &mut self,
        key: Key,
        tick: &Tick,
        numbered: &Numbered,
        recv_ts: Timestamp,
        ticks: &mut Vec<Tick>,
    ) -> bool {
        let Some(tracker) = self.tracker(key, tick, &numbered.line) else { return true };
        let before = tracker.counts();
        let mut events = Vec::new();
        let verdict =
            tracker.observe(0, numbered.sequence, 1, recv_ts, &mut |event: Event| events.push(event));
        let counts = tracker.counts();
        self.metrics.missed.inc_by(counts.missed - before.missed);
        self.metrics.duplicates.inc_by(counts.duplicates - before.duplicates);
        for event in events {
            let (kind, first, last) = match event {
                Event::Missed(span) => (GapKind::Missed, span.first, span.last),
                Event::Reset(first) => (GapKind::Reset, first, 0),
            };
            let mut source = format!("kafka/{}/{}", self.topic(key), key.partition);
            if !numbered.line.is_empty() {
                source.push('/');
                source.push_str(&line_name(&numbered.line));
            }
            let (symbol, source) = (self.numbered_symbol(tick), source.into());
            let gap = Gap { symbol, ts: tick.ts(), recv_ts, kind, source, first, last };
            ticks.push(Tick::Gap(Box::new(gap)));
        }
        verdict != Verdict::Stale
    }

    /// Whose numbers they are, where each symbol has its own.
    fn numbered_symbol(&self, tick: &Tick) -> Option<Symbol> {
        tick.symbol().filter(|_| self.config.per == Some(Per::Symbol))
    }

    /// What follows the numbers of a tick; `None` where too many are followed.
    fn tracker(&mut self, key: Key, tick: &Tick, line: &str) -> Option<&mut SequenceTracker> {
        let numbers = (key, self.numbered_symbol(tick), line_name(line));
        if self.trackers.len() >= TRACKERS_MAX && !self.trackers.contains_key(&numbers) {
            return None;
        }
        Some(self.trackers.entry(numbers).or_insert_with(|| SequenceTracker::new(None)))
    }

    /// Has the batch being filled handed out.
    fn finish_batch(&mut self) {
        let Some(batch) = self.batch.take() else { return };
        if let Some(line) = self.lines.get_mut(&batch.key) {
            line.queue(batch.origin);
        }
        self.whole.push_back(batch);
    }

    /// Makes sure that the brokers keep a mark ahead of the batch that is to be handed out, so that
    /// after a crash it is known how far a repeat may go.
    async fn mark_ahead(&mut self) -> Result<(), FeedError> {
        loop {
            if self.marking.is_none() {
                let Some(batch) = self.whole.front() else { return Ok(()) };
                let (key, first) = (batch.key, batch.first);
                let Some(line) = self.lines.get(&key) else { return Ok(()) };
                // What is left of a topic that is gone can't be read again.
                if !line.is_of(batch.origin) {
                    return Ok(());
                }
                let Some(note) = line.mark_for(batch.origin.sequence) else { return Ok(()) };
                let position = line.position(Some(first));
                let list =
                    self.reading.noted(&[(key, position, note)]).map_err(|error| self.failed(error))?;
                let consumer = self.reading.consumer().clone();
                let commit = move || Reading::commit_and_wait(&consumer, &list);
                self.marking = Some((key, note, tokio::task::spawn_blocking(commit)));
            }
            let Some((key, note, marking)) = &mut self.marking else { continue };
            let (key, note) = (*key, *note);
            // A handle may be awaited again after this call was dropped, so nothing is lost by that.
            let marked = marking.await;
            self.marking = None;
            match marked {
                Ok(Ok(())) => {
                    self.backoff.reset();
                    if let Some(line) = self.lines.get_mut(&key) {
                        line.marked(note);
                    }
                }
                Ok(Err(error)) if code_of(&error).is_some_and(is_final) => return Err(self.failed(error)),
                Ok(Err(error)) => self.pause("committing", &error).await,
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// Tells the brokers how far reading has come.
    fn commit(&mut self) {
        let is_settled = self.lines.values().all(Line::is_settled) && self.whole.is_empty();
        if !is_settled && self.committed_at.elapsed() < COMMIT_INTERVAL {
            return;
        }
        let mut done = Vec::new();
        for (key, line) in &mut self.lines {
            let batches = self.whole.iter().chain(&self.batch);
            let of_line = |batch: &&Batch| batch.key == *key && line.is_of(batch.origin);
            let first = batches.filter(of_line).map(|batch| batch.first).min();
            let position = line.position(first);
            if line.is_news(position) {
                line.told(position);
                done.push((*key, position, line.note()));
            }
        }
        self.committed_at = Instant::now();
        if done.is_empty() {
            return;
        }
        if let Err(error) = self.reading.commit(&done) {
            // The next one says the same and more.
            tracing::debug!(feed = self.subject, %error, "not committed");
        }
    }

    fn buried(&mut self, delivered: Result<(Key, u64), String>) -> Result<(), FeedError> {
        let (key, offset) = delivered.map_err(|reason| self.failed(reason))?;
        if let Some(line) = self.lines.get_mut(&key) {
            line.buried(offset);
        }
        self.commit();
        Ok(())
    }
}

/// A line's name, as much of it as is looked at; the common one of none takes no memory.
fn line_name(line: &str) -> String {
    line.chars().take(64).collect()
}

/// What a message says beside its payload.
fn envelope_of(message: &OwnedMessage) -> Envelope<'_> {
    let time = match message.timestamp() {
        MessageTime::CreateTime(ms) | MessageTime::LogAppendTime(ms) => ms.checked_mul(1_000_000),
        MessageTime::NotAvailable => None,
    };
    Envelope { key: message.key(), ts: time.map(Timestamp::from_nanos) }
}

#[async_trait::async_trait]
impl Feed for KafkaFeed {
    fn name(&self) -> &'static str {
        "kafka"
    }

    async fn next(&mut self, ticks: &mut Vec<Tick>) -> Result<Pulled, FeedError> {
        loop {
            if Instant::now() >= self.look_at {
                self.look().await?;
            }
            if !self.whole.is_empty() {
                self.mark_ahead().await?;
                let Some(batch) = self.whole.pop_front() else { continue };
                let Some(line) = self.lines.get_mut(&batch.key) else { continue };
                self.calls += 1;
                // Offsets of a topic that is gone are none of the one that is there.
                if line.is_of(batch.origin) {
                    line.handed_out(batch.first, self.calls);
                }
                self.origin = Some(batch.origin);
                ticks.extend(batch.ticks);
                return Ok(Pulled::Ticks);
            }
            if self.dead.is_full() {
                let delivered = self.dead.delivered().await;
                self.buried(delivered)?;
                continue;
            }
            if let Some(message) = self.held.take() {
                self.take(message);
                continue;
            }
            let consumer = self.reading.consumer().clone();
            let received = if self.batch.is_some() {
                let Some(received) = consumer.recv().now_or_never() else {
                    self.finish_batch();
                    continue;
                };
                received
            } else {
                tokio::select! {
                    received = consumer.recv() => received,
                    delivered = self.dead.delivered(), if !self.dead.is_empty() => {
                        self.buried(delivered)?;
                        continue;
                    }
                    () = tokio::time::sleep_until(self.look_at) => continue,
                }
            };
            match received {
                Ok(message) => {
                    let message = message.detach();
                    self.take(message);
                }
                // Which partition is not said: all are looked at.
                Err(error) if is_out_of_range(&error) => self.look_at = Instant::now(),
                Err(error) if code_of(&error).is_some_and(is_final) => return Err(self.failed(error)),
                // The brokers are away; librdkafka comes back to them by itself, with jitter.
                Err(error) => tracing::debug!(feed = self.subject, %error, "reading"),
            }
        }
    }

    fn acknowledge(&mut self, calls: u64) {
        self.lines.values_mut().for_each(|line| line.accepted(calls));
        self.commit();
    }

    fn origin(&self) -> Option<Origin> {
        self.origin
    }

    fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry, &self.config.file.group);
    }
}
