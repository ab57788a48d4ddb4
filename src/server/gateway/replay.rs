//! The way from the past to now: the last of every symbol, what came since, and then live,
//! without a tick lost or doubled at the cut.
//!
//! A replay reads the log from its start (what is no longer there from history), catches up with
//! the hub's ring, and takes its place in the hub under the hub's lock, exactly where it stands.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde_json::json;
use tokio::time::Instant;

use super::hub::{Ahead, Attachment};
use super::protocol::{FrameBuilder, Framing, Since, control_frame};
use super::queries::{Asker, Busy, PROGRESS_BYTES_MIN, Place, Purpose, Queries};
use super::snapshot;
use super::subscription::{Channel, Subscription};
use crate::bus::epoch::Mismatch;
use crate::bus::{BusError, BusReader, Record};
use crate::market::{Kind, Seq, Symbol, Tick, TickBatch, TimeRange, Timestamp};
use crate::tiering::history::{ArchivedCoverage, History, HistoryError, HistoryQuery};
use crate::tiering::hot::{Hot, HotEntry, HotError};
use crate::tiering::state::PartitionState;
use crate::tiering::warm::Query;
use crate::wire::record::{RecordError, RecordView, checksum};
use crate::wire::token::{LogId, Newest, Position, Token};

/// How much of the log is read at a time.
const READ_BYTES_MAX: usize = 256 * 1024;
/// How much may wait for a client that was parked: it may stop reading again.
const RESUME_BYTES_MAX: usize = 256 * 1024;
/// Symbols asked of hot at a time.
const HOT_SYMBOLS: usize = 512;

/// What a connection joins with.
pub(super) struct Join {
    /// What is to be replayed.
    pub(super) want: Subscription,
    /// What the connection has already.
    pub(super) exclude: Subscription,
    /// What it gets once it is live.
    pub(super) full: Subscription,
    /// Whether tokens are told.
    pub(super) token: bool,
    pub(super) snapshot: bool,
    pub(super) since: Option<Since>,
    /// Where the hub parked the connection, if it did: it goes on from there, as long as memory holds what came
    /// since, and is not told.
    pub(super) parked: Option<Token>,
}

impl Join {
    /// Goes on with `full`, of which all before `parked` was sent.
    pub(super) fn resume(full: Subscription, token: bool, parked: Token) -> Self {
        let (want, exclude) = (full.clone(), Subscription::default());
        Self { want, exclude, full, token, snapshot: false, since: None, parked: Some(parked) }
    }
}

/// Where the past is.
#[derive(Clone)]
pub(super) struct Past {
    pub(super) hot: Arc<dyn Hot>,
    pub(super) history: Option<History>,
    /// Where replays are made, and how many at once.
    pub(super) queries: Arc<Queries>,
    pub(super) asker: Asker,
    /// How long a client may take nothing, or next to nothing, of its replay.
    pub(super) stall_max: Duration,
}

impl Past {
    /// Waits in line to read the log.
    async fn enter_log(&self) -> Result<Place, JoinError> {
        Ok(self.queries.enter(&self.asker, Purpose::LogReplay, 0).await?)
    }

    /// The same for rows of history from `from` on that `want` wants, of all kinds at once.
    async fn enter_history(&self, want: &Subscription, from: Timestamp) -> Result<Place, JoinError> {
        let symbols: Option<Vec<_>> = (!want.any_all()).then(|| want.symbols().into_iter().collect());
        let range = TimeRange { from, to: Timestamp::MAX };
        let merge_bytes = self.history.as_ref().map_or(0, |history| {
            let kinds = REPLAYED.iter().filter(|(channel, _)| want.wants_any(*channel));
            let queries = kinds.map(|(_, kind)| Query::new(*kind, symbols.clone(), range));
            queries.map(|query| history.tiers().merge_bytes(&query)).sum()
        });
        Ok(self.queries.enter(&self.asker, Purpose::HistoryReplay, merge_bytes).await?)
    }
}

/// Why a replay can't go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoinError {
    #[error(transparent)]
    Hot(#[from] HotError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    History(#[from] HistoryError),
    /// Too many others read the past.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The client takes nothing, or next to nothing.
    #[error("the client took too little of what it was sent for too long")]
    Stalled,
}

/// Records on their way to one connection.
pub(super) struct Replay {
    log: LogId,
    framing: Framing,
    want: Subscription,
    exclude: Subscription,
    positions: Vec<Position>,
    /// What tokens name; nothing in a log with generations.
    pub(super) newest: Option<Newest>,
    /// Ticks before this time are passed over.
    from: Timestamp,
    tells_caught_up: bool,
    /// Whether frames bear tokens.
    token: bool,
    /// Whether rows come in an order in which no token says where they end.
    is_unplaced: bool,
    /// What was read from the log, by partition: by it repeats are known.
    read: Vec<PartitionState>,
    builder: FrameBuilder,
    frames: Vec<Bytes>,
    scratch: Vec<u8>,
    behind: Behind,
    /// How much may wait for the client before it goes on.
    waiting_bytes_max: usize,
}

impl Replay {
    fn wants(&self, channel: Channel, symbol: Option<Symbol>) -> bool {
        self.want.wants(channel, symbol) && !self.exclude.wants(channel, symbol)
    }

    fn token(&self) -> Token {
        Token::new(self.log, self.positions.clone()).naming(self.newest)
    }

    /// The next tick wanted of a partition.
    pub(super) fn position(&self, partition: usize) -> Position {
        self.positions[partition]
    }

    /// Everything of the partition before `offset` was replayed.
    pub(super) fn advance(&mut self, partition: usize, offset: u64) {
        let position = &mut self.positions[partition];
        if offset > position.offset {
            *position = Position { offset, index: 0 };
        }
    }

    fn push(&mut self, tick: &Tick) {
        let encoding = self.framing.encoding();
        self.scratch.clear();
        encoding.tick(tick, &mut self.scratch);
        if self.builder.is_full_for(self.scratch.len()) {
            self.finish_frame();
        }
        self.builder.push(encoding, &self.scratch);
    }

    fn finish_frame(&mut self) {
        let token = (self.token && !self.is_unplaced).then(|| self.token().to_string());
        self.frames.push(self.builder.finish(self.framing, token.as_deref()));
    }

    /// Adds what is wanted of a record.
    pub(super) fn record(&mut self, partition: u16, record: &Record) {
        let number = usize::from(partition);
        let position = self.positions[number];
        if record.offset < position.offset {
            return;
        }
        if self.newest.is_some() {
            let checksum = checksum(&record.bytes);
            self.newest = Some(Newest { partition, offset: record.offset, checksum });
        }
        let first = if record.offset == position.offset { position.index } else { 0 };
        let unreadable = self.ticks(partition, record, first).is_err();
        let before = unreadable.then(|| self.token());
        self.positions[number] = Position { offset: record.offset + 1, index: 0 };
        if let Some(before) = before {
            if self.builder.messages() > 0 {
                self.finish_frame();
            }
            let gap = self.gap("unreadable", &before, &self.token());
            self.frames.push(gap);
        }
    }

    /// Adds what is wanted of a record's ticks from `first` on, as far as they can be read.
    fn ticks(&mut self, partition: u16, record: &Record, first: u32) -> Result<(), RecordError> {
        let view = RecordView::parse(&record.bytes)?;
        for (index, row) in (0..).zip(view.ticks()) {
            self.positions[usize::from(partition)] =
                Position { offset: record.offset, index: index.max(first) };
            let (_, tick) = row?;
            if index < first || tick.ts() < self.from {
                continue;
            }
            // A gap of no symbol stands in every partition.
            let is_copy = tick.symbol().is_none() && partition != 0;
            if !is_copy && self.wants(Channel::of(&tick), tick.symbol()) {
                self.push(&tick);
            }
        }
        Ok(())
    }

    /// As [`Replay::record`], of a record in which repeats may stand.
    fn log_record(&mut self, partition: u16, record: &Record, is_repeat: bool) {
        let read = &mut self.read[usize::from(partition)];
        let view = RecordView::parse(&record.bytes);
        // One that can't be read is told as a gap.
        let is_new = view.map_or(true, |view| read.admit(view.origin, view.checksum()));
        if is_repeat || !is_new {
            self.advance(usize::from(partition), record.offset + 1);
        } else {
            self.record(partition, record);
        }
    }

    /// The frames so far.
    pub(super) fn take_frames(&mut self) -> Vec<Bytes> {
        if self.builder.messages() > 0 {
            self.finish_frame();
        }
        std::mem::take(&mut self.frames)
    }

    /// What tells that the replay has reached live, for who asked for one.
    pub(super) fn caught_up(&self) -> Option<Bytes> {
        let token = self.token();
        let message = json!({ "T": "caught_up", "token": token.to_string() });
        self.tells_caught_up.then(|| control_frame(self.framing, &message, Some(&token)))
    }

    fn gap(&self, kind: &str, first: &Token, last: &Token) -> Bytes {
        let (first_token, last_token) = (first.to_string(), last.to_string());
        let message =
            json!({ "T": "gap", "kind": kind, "first_token": first_token, "last_token": last_token });
        control_frame(self.framing, &message, Some(last))
    }

    /// Rows that were asked for are archived where they can't be read before they are restored: how
    /// much, and by what command.
    fn archived_gap(&self, archived: &ArchivedCoverage, first: &Token) -> Bytes {
        let token = self.token();
        let message = json!({
            "T": "gap",
            "kind": "archived",
            "first_token": first.to_string(),
            "last_token": token.to_string(),
            "objects": archived.frozen.len() as u64 + archived.frozen_not_listed,
            "restore": archived.restore_commands(),
        });
        control_frame(self.framing, &message, Some(&token))
    }
}

/// A message that the stream continues from `last`: what the client saw between there and `first` is in no
/// log any more, or is not known.
pub(super) fn reset(framing: Framing, first: &str, last: &Token, reason: &str) -> Bytes {
    let message = json!({
        "T": "gap", "kind": "reset", "first_token": first, "last_token": last.to_string(), "msg": reason,
    });
    control_frame(framing, &message, Some(last))
}

/// A replay under way: gives its place back, and what came of it.
pub(super) type Joining = BoxFuture<'static, (Attachment, Result<(), JoinError>)>;

/// Sends what `join` asks for and goes live, on the threads of history.
pub(super) fn join(mut attachment: Attachment, past: Past, join: Join) -> Joining {
    let queries = past.queries.clone();
    queries.run(async move {
        // A client that was parked, and is too slow to catch up, is slow.
        let run_max = if join.parked.is_some() { past.stall_max } else { Duration::MAX };
        let result = tokio::time::timeout(run_max, run(&mut attachment, &past, join)).await;
        (attachment, result.unwrap_or(Err(JoinError::Stalled)))
    })
}

/// Begins to replay what has come since the hub parked the connection in `place`, if it did. Otherwise the place is
/// left as it is from now on ([`Attachment::pin`]).
pub(super) fn resume(
    place: &mut Option<Attachment>,
    past: Past,
    full: &Subscription,
    token: bool,
) -> Option<Joining> {
    let parked = place.as_mut()?.pin()?;
    let join_from = Join::resume(full.clone(), token, parked);
    Some(join(place.take()?, past, join_from))
}

async fn run(attachment: &mut Attachment, past: &Past, join: Join) -> Result<(), JoinError> {
    let Join { want, exclude, full, token, snapshot, since, parked } = join;
    let hub = attachment.hub().clone();
    let tells_caught_up = since.is_some();
    let mut since = since;
    let mut lost = None;
    if let Some(Since::Token(token)) = &since
        && let Err(mismatch) = check(attachment, past, token).await?
    {
        // The client has records that are gone. All that the log has had since is new to it.
        lost = Some((token.clone(), mismatch));
        since = match mismatch {
            Mismatch::Lost => Some(Since::Token(hub.parted(token).await?)),
            Mismatch::OtherLog => None,
        };
    }
    let (is_parked, mut start) = (parked.is_some(), parked);
    let mut snapshots = None;
    if snapshot {
        let mut entries = entries(attachment, past, &want).await?;
        start = Some(hub.bring_up_to_date(&mut entries));
        snapshots = Some(entries);
    }
    let (positions, from) = match &since {
        Some(Since::Token(token)) => (token.positions().to_vec(), Timestamp::MIN),
        Some(Since::Time(time)) => (Vec::new(), *time),
        None => (start.unwrap_or_else(|| hub.token()).positions().to_vec(), Timestamp::MIN),
    };
    let newest = match &since {
        Some(Since::Token(token)) => token.newest(),
        _ => None,
    };
    let is_by_time = positions.is_empty();
    let positions = if is_by_time { hub.token().positions().to_vec() } else { positions };
    let framing = attachment.framing;
    let mut replay = Replay {
        log: hub.bus.epoch().log(),
        framing,
        want,
        exclude,
        positions,
        newest: newest.or_else(|| hub.token().newest()),
        from,
        tells_caught_up,
        token,
        is_unplaced: false,
        read: (0..hub.bus.partitions()).map(|_| PartitionState::new()).collect(),
        builder: FrameBuilder::default(),
        frames: Vec::new(),
        scratch: Vec::new(),
        behind: None,
        waiting_bytes_max: {
            let half = attachment.outbox.data_bytes_max() / 2;
            if is_parked { half.min(RESUME_BYTES_MAX) } else { half }
        },
    };
    if let Some((first, mismatch)) = lost {
        let told = reset(framing, &first.to_string(), &replay.token(), &mismatch.to_string());
        attachment.push(vec![told]);
    }
    if let Some(entries) = snapshots {
        for (symbol, entry) in &entries {
            room(attachment, past, &mut replay).await?;
            attachment.push(vec![snapshot::frame(framing, *symbol, entry)]);
        }
        let mut end = json!({ "T": "snapshot_end", "count": entries.len() });
        // With a replay by time to come there is no token yet that everything before was sent for.
        let token = (!is_by_time).then(|| replay.token());
        if let Some(token) = &token {
            end["token"] = token.to_string().into();
        }
        attachment.push(vec![control_frame(framing, &end, token.as_ref())]);
    }
    let mut place = None;
    if is_by_time {
        let from = replay.from;
        place = Some(past.enter_history(&replay.want, from).await?);
        from_history(attachment, past, &mut replay, from, None).await?;
        if past.history.is_some() {
            // History was filtered by time; what came after its cut is new whatever its time.
            replay.from = Timestamp::MIN;
        }
    }
    loop {
        match attachment.go_live(&full, token, &mut replay) {
            Ahead::Nothing => return Ok(()),
            Ahead::Records(records) => {
                for (partition, record) in records {
                    replay.record(partition, &record);
                    send(attachment, past, &mut replay).await?;
                }
            }
            // Slow clients must not take the places of those who ask for the past.
            Ahead::Log if is_parked => return Err(JoinError::Stalled),
            Ahead::Log => {
                if place.is_none() {
                    place = Some(past.enter_log().await?);
                }
                match from_log(attachment, past, &mut replay).await {
                    Err(JoinError::Bus(BusError::Trimmed { .. })) => {
                        // Given back first, so that two that wait never wait for each other.
                        drop(place.take());
                        place = Some(past.enter_history(&replay.want, Timestamp::MIN).await?);
                        let lower = replay.positions.clone();
                        from_history(attachment, past, &mut replay, Timestamp::MIN, Some(lower)).await?;
                    }
                    result => result?,
                }
            }
        }
    }
}

/// Whether a replay from `token` can be, else why not.
async fn check(
    attachment: &Attachment,
    past: &Past,
    token: &Token,
) -> Result<Result<(), Mismatch>, JoinError> {
    let hub = attachment.hub();
    if let Err(mismatch) = hub.check(token).await? {
        return Ok(Err(mismatch));
    }
    let Some(newest) = token.newest() else { return Ok(Ok(())) };
    let has = if let Some(has) = hub.remembers(newest) {
        has
    } else {
        let _place = past.enter_log().await?;
        hub.has(newest).await?
    };
    Ok(if has { Ok(()) } else { Err(Mismatch::Lost) })
}

async fn send(attachment: &Attachment, past: &Past, replay: &mut Replay) -> Result<(), JoinError> {
    let frames = replay.take_frames();
    if !frames.is_empty() {
        room(attachment, past, replay).await?;
        attachment.push(frames);
    }
    // Others have their turn after every record.
    tokio::task::yield_now().await;
    Ok(())
}

/// Since when much waits for a client, and how many bytes had left for its socket then.
type Behind = Option<(Instant, u64)>;

/// Waits until the client has taken enough of what it was sent. While much waits for it, it has to take some
/// of that in each time in which it may not take nothing.
async fn room(attachment: &Attachment, past: &Past, replay: &mut Replay) -> Result<(), JoinError> {
    let (outbox, behind, waiting_bytes_max) =
        (&attachment.outbox, &mut replay.behind, replay.waiting_bytes_max);
    if outbox.data_bytes() <= waiting_bytes_max / 2 {
        *behind = None;
        return Ok(());
    }
    let progress_bytes_min = PROGRESS_BYTES_MIN.min(waiting_bytes_max / 2) as u64;
    loop {
        let (since, written) = *behind.get_or_insert_with(|| (Instant::now(), outbox.written_bytes()));
        let room = tokio::time::timeout_at(since + past.stall_max, outbox.room(waiting_bytes_max)).await;
        if since.elapsed() >= past.stall_max {
            if outbox.written_bytes() - written < progress_bytes_min {
                return Err(JoinError::Stalled);
            }
            *behind = None;
        }
        if room.is_ok() {
            return Ok(());
        }
    }
}

/// What hot knows of the symbols that are wanted, once the hub has passed all of it.
async fn entries(
    attachment: &Attachment,
    past: &Past,
    want: &Subscription,
) -> Result<Vec<(Symbol, HotEntry)>, JoinError> {
    let hub = attachment.hub();
    let mut symbols = want.symbols();
    if want.any_all() {
        symbols.extend(past.hot.symbols().await?);
        symbols.extend(hub.symbols());
    }
    let symbols: Vec<Symbol> = symbols.into_iter().collect();
    let mut entries = Vec::with_capacity(symbols.len());
    let mut places: Vec<Seq> = Vec::new();
    for symbols in symbols.chunks(HOT_SYMBOLS) {
        let found = past.hot.get(symbols).await?;
        for (symbol, entry) in symbols.iter().zip(found) {
            let entry = entry.unwrap_or_default();
            if entry != HotEntry::default() {
                match places.iter_mut().find(|place| place.partition == entry.seq.partition) {
                    Some(place) => *place = (*place).max(entry.seq),
                    None => places.push(entry.seq),
                }
            }
            entries.push((*symbol, entry));
        }
    }
    hub.passed(&places).await;
    Ok(entries)
}

/// Replays the log up to where the hub's ring begins, partitions interleaved by time.
async fn from_log(attachment: &Attachment, past: &Past, replay: &mut Replay) -> Result<(), JoinError> {
    struct Source {
        partition: u16,
        reader: Box<dyn BusReader>,
        end: u64,
        records: VecDeque<(Timestamp, Record)>,
    }
    let hub = attachment.hub();
    let mut sources = Vec::new();
    for (number, end) in hub.ring_starts().into_iter().enumerate() {
        let from = replay.position(number).offset;
        if from < end {
            let partition = number as u16;
            // Asked first, since a reader of what is gone may only say so once it is read.
            let bounds = hub.bus.bounds(partition).await?;
            let first = hub.bus.epoch().whole_from(partition, from).unwrap_or(bounds.first);
            if from < first {
                return Err(BusError::Trimmed { partition, offset: from, first }.into());
            }
            let reader = hub.bus.reader(partition, from).await?;
            sources.push(Source { partition, reader, end, records: VecDeque::new() });
        }
    }
    loop {
        for source in &mut sources {
            if source.records.is_empty() && source.reader.offset() < source.end {
                // What the hub has not passed yet it will hand out itself.
                let records = source.reader.next(READ_BYTES_MAX).await?.into_iter();
                for record in records.take_while(|record| record.offset < source.end) {
                    let received = RecordView::parse(&record.bytes);
                    let received = received.map_or(Timestamp::MIN, |view| view.received());
                    source.records.push_back((received, record));
                }
            }
        }
        let next = sources.iter_mut().filter(|source| !source.records.is_empty());
        let Some(source) = next.min_by_key(|source| source.records.front().map(|(ts, _)| *ts)) else {
            return Ok(());
        };
        let Some((_, record)) = source.records.pop_front() else { return Ok(()) };
        let is_repeat = hub.is_repeat(source.partition, record.offset);
        replay.log_record(source.partition, &record, is_repeat);
        send(attachment, past, replay).await?;
    }
}

/// One kind of row of an answer.
struct Rows {
    stream: BoxStream<'static, Result<TickBatch, HistoryError>>,
    ticks: VecDeque<(Seq, Tick)>,
}

impl Rows {
    async fn fill(&mut self) -> Result<(), HistoryError> {
        while self.ticks.is_empty() {
            let Some(batch) = self.stream.next().await else { return Ok(()) };
            let batch = batch?;
            let rows = batch.rows()?;
            for row in 0..batch.len() {
                self.ticks.push_back((rows.seq(row), rows.tick(row)?));
            }
        }
        Ok(())
    }
}

/// The kinds of rows that a channel is replayed from.
const REPLAYED: [(Channel, Kind); 7] = [
    (Channel::Trades, Kind::Trade),
    (Channel::Trades, Kind::Cancel),
    (Channel::Trades, Kind::Correction),
    (Channel::Quotes, Kind::Quote),
    (Channel::Statuses, Kind::Status),
    (Channel::Gaps, Kind::Gap),
    (Channel::PrevCloses, Kind::PrevClose),
];

/// Replays from history, by symbol and time, what lies after `from` and not before `lower`, and
/// puts the replay where history ends. What is nowhere is told as a gap.
async fn from_history(
    attachment: &Attachment,
    past: &Past,
    replay: &mut Replay,
    from: Timestamp,
    lower: Option<Vec<Position>>,
) -> Result<(), JoinError> {
    let hub = attachment.hub();
    let before = replay.token();
    let Some(history) = &past.history else {
        let mut firsts = Vec::new();
        for partition in 0..hub.bus.partitions() {
            firsts.push(hub.bus.bounds(partition).await?.first);
        }
        let is_trimmed = lower.is_some();
        for (number, first) in firsts.into_iter().enumerate() {
            if is_trimmed {
                replay.advance(number, first);
            } else {
                replay.positions[number] = Position { offset: first, index: 0 };
            }
        }
        if is_trimmed {
            attachment.push(vec![replay.gap("trimmed", &before, &replay.token())]);
        } else {
            // Without history, by time: all that the log has of it.
            from_log(attachment, past, replay).await?;
        }
        return Ok(());
    };
    let symbols: Vec<Symbol> =
        if replay.want.any_all() { Vec::new() } else { replay.want.symbols().into_iter().collect() };
    let mut ends: Vec<u64> = hub.positions();
    let first_offsets: Vec<u64> = match &lower {
        Some(lower) => lower.iter().map(|position| position.offset).collect(),
        None => vec![0; ends.len()],
    };
    let mut sources = Vec::new();
    let (mut is_missing, mut archived) = (false, ArchivedCoverage::default());
    for (channel, kind) in REPLAYED {
        if !replay.want.wants_any(channel) {
            continue;
        }
        let range = TimeRange { from, to: Timestamp::MAX };
        let query = HistoryQuery { symbols: symbols.clone(), kind, timeframe: None, range, limit: None };
        let answer = history.query_from(query, &first_offsets).await?;
        for covered in &answer.coverage.partitions {
            if let Some(end) = ends.get_mut(usize::from(covered.partition)) {
                *end = (*end).min(covered.log_next_offset);
            }
        }
        is_missing |= answer.coverage.missing.iter().any(|missing| {
            let position = lower.as_ref().and_then(|lower| lower.get(usize::from(missing.partition)));
            position.is_none_or(|position| missing.next_offset > position.offset)
        });
        is_missing |= answer.coverage.lost.iter().any(|lost| {
            let position = lower.as_ref().and_then(|lower| lower.get(usize::from(lost.partition)));
            position.is_none_or(|position| lost.next_offset > position.offset)
        });
        archived.add(answer.coverage.archived);
        sources.push(Rows { stream: answer.rows, ticks: VecDeque::new() });
    }
    replay.is_unplaced = true;
    loop {
        for source in &mut sources {
            source.fill().await?;
        }
        let key =
            |source: &&mut Rows| source.ticks.front().map(|(seq, tick)| (tick.symbol(), tick.ts(), *seq));
        let Some(source) = sources.iter_mut().filter(|source| !source.ticks.is_empty()).min_by_key(key)
        else {
            break;
        };
        let Some((seq, tick)) = source.ticks.pop_front() else { break };
        let number = usize::from(seq.partition);
        let is_after = lower.as_ref().is_none_or(|lower| {
            lower
                .get(number)
                .is_some_and(|position| (seq.offset, seq.index) >= (position.offset, position.index))
        });
        let is_before = ends.get(number).is_some_and(|end| seq.offset < *end);
        let is_copy = tick.symbol().is_none() && seq.partition != 0;
        if is_after && is_before && !is_copy && replay.wants(Channel::of(&tick), tick.symbol()) {
            replay.push(&tick);
            if !replay.frames.is_empty() {
                send(attachment, past, replay).await?;
            }
        }
    }
    // What is left of it goes before any token.
    send(attachment, past, replay).await?;
    replay.is_unplaced = false;
    for (number, end) in ends.into_iter().enumerate() {
        match lower {
            Some(_) => replay.advance(number, end),
            None => replay.positions[number] = Position { offset: end, index: 0 },
        }
    }
    if is_missing {
        attachment.push(vec![replay.gap("trimmed", &before, &replay.token())]);
    }
    if archived.is_partial() {
        attachment.push(vec![replay.archived_gap(&archived, &before)]);
    }
    Ok(())
}
