//! Claims and commits.

use std::sync::Arc;

use arrow_array::{Date32Array, RecordBatch, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use clickhouse::Row;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::schema::{literal, rows_table};
use super::sql::{RESTORED, day_literal};
use super::{ClickHouseWarm, Inner};
use crate::fail;
use crate::market::{Kind, TickBatch, TradingDay};
use crate::tiering::warm::{Block, Mark, WarmError};

/// Epochs that are tried for one claim, when others claim at the same time.
const CLAIM_ATTEMPTS_MAX: u32 = 16;

/// Batches of a block that are inserted side by side.
pub(super) const INSERTS_MAX: usize = 2;

/// How often a read of the books is repeated that met a new owner's tidying.
const READS_MAX: u32 = 8;

/// A partition as its owner knows it.
pub(super) struct Held {
    epoch: u32,
    /// What the claim of the epoch is told from others by.
    nonce: String,
    /// The last block that counts.
    block: u64,
    next_offset: u64,
    /// The block whose outcome is not known, if there is one: only the same one may follow.
    in_doubt: Option<Shape>,
    /// Somebody else has claimed since.
    fenced: bool,
    tidied_at: Instant,
}

/// What a block is told from others by.
#[derive(Clone, PartialEq, Eq)]
struct Shape {
    first_offset: u64,
    next_offset: u64,
    /// Kind, day and rows of each batch.
    parts: Vec<(Kind, TradingDay, u64)>,
    checkpoint: u64,
}

impl Shape {
    fn of(block: &Block) -> Self {
        let rows = block.batches.iter().filter(|(_, batch)| !batch.is_empty());
        Self {
            first_offset: block.first_offset,
            next_offset: block.next_offset,
            parts: rows.map(|(day, batch)| (batch.kind(), *day, batch.len() as u64)).collect(),
            checkpoint: xxh3_64(&block.checkpoint),
        }
    }
}

#[derive(Row, Serialize, Deserialize)]
struct ClaimRow {
    partition: u16,
    epoch: u32,
    nonce: String,
}

/// The epoch's beginning, and its last block.
const BEGIN: i8 = 0;
const MARK: i8 = 1;

#[derive(Row, Serialize)]
struct MarkRow {
    partition: u16,
    epoch: u32,
    entry: i8,
    follows: u32,
    block: u64,
    next_offset: u64,
    version: u64,
}

#[derive(Row, Serialize, Deserialize)]
struct BlockRow {
    partition: u16,
    epoch: u32,
    slot: u8,
    block: u64,
    first_offset: u64,
    next_offset: u64,
    kinds: Vec<String>,
    days: Vec<i32>,
    rows: Vec<u64>,
    #[serde(serialize_with = "bytes_out", deserialize_with = "bytes_in")]
    checkpoint: Bytes,
    /// 0 where it is not known.
    seam: u64,
}

/// A [`BlockRow`] for a table without the column `seam`.
#[derive(Row, Serialize)]
struct BlockRowWithoutSeam {
    partition: u16,
    epoch: u32,
    slot: u8,
    block: u64,
    first_offset: u64,
    next_offset: u64,
    kinds: Vec<String>,
    days: Vec<i32>,
    rows: Vec<u64>,
    #[serde(serialize_with = "bytes_out")]
    checkpoint: Bytes,
}

fn mark_of(next_offset: u64, row: BlockRow) -> Mark {
    Mark { next_offset, checkpoint: row.checkpoint, seam: (row.seam != 0).then_some(row.seam) }
}

fn bytes_out<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

fn bytes_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    struct Raw;
    impl Visitor<'_> for Raw {
        type Value = Bytes;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("bytes")
        }
        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }
        fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(bytes.into())
        }
    }
    deserializer.deserialize_byte_buf(Raw)
}

/// Two blocks of an epoch are kept: the one its mark names, and the one under way.
fn slot(block: u64) -> u8 {
    (block % 2) as u8
}

#[derive(Row, Deserialize)]
struct StandingRow {
    epoch: u32,
    block: u64,
    next_offset: u64,
}

/// Whose the partition is, where it stands, and how many rows there are of each batch of a block.
#[derive(Row, Deserialize)]
struct OwnerRow {
    epoch: u32,
    nonce: String,
    /// Epoch, block and next offset; none before the first claim.
    standing: Vec<(u32, u64, u64)>,
    counts: Vec<u64>,
}

#[derive(Row, Deserialize)]
struct TakeoverRow {
    epoch: u32,
    follows: u32,
    block: u64,
    next_offset: u64,
}

impl Inner {
    async fn standing(&self, partition: u16) -> Result<Option<StandingRow>, WarmError> {
        let sql = format!("SELECT epoch, block, next_offset FROM standing WHERE `partition` = {partition}");
        Ok(self.nodes.rows(&sql).await?.pop())
    }

    async fn insert_block(&self, row: &BlockRow) -> Result<(), WarmError> {
        if self.has_seam {
            return self.nodes.insert_rows("blocks", None, std::slice::from_ref(row)).await;
        }
        let bare = BlockRowWithoutSeam {
            partition: row.partition,
            epoch: row.epoch,
            slot: row.slot,
            block: row.block,
            first_offset: row.first_offset,
            next_offset: row.next_offset,
            kinds: row.kinds.clone(),
            days: row.days.clone(),
            rows: row.rows.clone(),
            checkpoint: row.checkpoint.clone(),
        };
        self.nodes.insert_rows("blocks", None, &[bare]).await
    }

    /// The block of that number, if it was begun.
    async fn block(&self, partition: u16, epoch: u32, block: u64) -> Result<Option<BlockRow>, WarmError> {
        let sql = format!(
            "SELECT `partition`, epoch, slot, block, first_offset, next_offset, kinds, \
             arrayMap(d -> toInt32(d), days) AS days, rows, checkpoint, {} FROM blocks \
             WHERE `partition` = {partition} AND epoch = {epoch} AND slot = {} AND block = {block} \
             ORDER BY at DESC LIMIT 1",
            if self.has_seam { "seam" } else { "toUInt64(0) AS seam" },
            slot(block)
        );
        Ok(self.nodes.rows(&sql).await?.pop())
    }

    /// Where `partition` stands, with the block that its mark names.
    async fn last(&self, partition: u16) -> Result<Option<(StandingRow, BlockRow)>, WarmError> {
        let mut seen = None;
        for _ in 0..READS_MAX {
            let Some(standing) = self.standing(partition).await? else { return Ok(None) };
            if let Some(row) = self.block(partition, standing.epoch, standing.block).await? {
                return Ok(Some((standing, row)));
            }
            // A new owner has tidied up in between: then it stands elsewhere now.
            let place = (standing.epoch, standing.block);
            if seen.replace(place) == Some(place) {
                break;
            }
        }
        Err(self.damaged(format_args!("the last block of partition {partition} is missing in `blocks`")))
    }

    /// Where `partition` stands.
    pub(super) async fn mark(&self, partition: u16) -> Result<Mark, WarmError> {
        let last = self.last(partition).await?;
        Ok(last.map_or_else(Mark::default, |(standing, row)| mark_of(standing.next_offset, row)))
    }

    /// The highest epoch of a claim, of a block, or in the ledger: a store of which single tables were put back may
    /// hold blocks of owners whose claim it has lost.
    async fn epoch_max(&self, partition: u16) -> Result<u32, WarmError> {
        let sql = format!(
            "SELECT max(epoch) FROM (SELECT epoch FROM claims WHERE `partition` = {partition} \
             UNION ALL SELECT epoch FROM blocks WHERE `partition` = {partition} \
             UNION ALL SELECT epoch FROM ledger WHERE `partition` = {partition} AND epoch < {RESTORED})"
        );
        self.nodes.one(&sql).await
    }

    /// Takes the next epoch after `after` and all that are known: a compare-and-set by the token of its
    /// insert. The epoch, and the nonce of its claim.
    pub(super) async fn take_epoch(&self, partition: u16, after: u32) -> Result<(u32, String), WarmError> {
        for _ in 0..CLAIM_ATTEMPTS_MAX {
            let epoch = self.epoch_max(partition).await?.max(after) + 1;
            if epoch >= RESTORED {
                return Err(self.damaged(format_args!("partition {partition} has no epochs left")));
            }
            let nonce = super::nonce();
            let row = ClaimRow { partition, epoch, nonce: nonce.clone() };
            let token = format!("claim:{partition}:{epoch}");
            self.nodes.insert_rows("claims", Some(&token), &[row]).await?;
            let sql = format!("SELECT nonce FROM claims WHERE `partition` = {partition} AND epoch = {epoch}");
            let found: Vec<String> = self.nodes.rows(&sql).await?;
            match found.as_slice() {
                [one] if *one == nonce => return Ok((epoch, nonce)),
                [_] => {}
                _ => {
                    return Err(self.damaged(format_args!(
                        "epoch {epoch} of partition {partition} was claimed {} times: the table `claims` \
                         does not deduplicate",
                        found.len()
                    )));
                }
            }
        }
        Err(WarmError::Io {
            path: self.path.clone(),
            reason: format!("partition {partition} is claimed by others again and again"),
        })
    }

    /// Begins an epoch, later than `after`, where the last one ends; what that has under way counts
    /// whole or never.
    async fn begin(&self, partition: u16, after: u32) -> Result<(Held, Mark), WarmError> {
        let began = Instant::now();
        let (epoch, nonce) = self.take_epoch(partition, after).await?;
        fail::point("warm.clickhouse.claimed");
        self.metrics.claims.inc();
        // Read after the claim: a commit that is not in this has seen, or will see, the claim.
        let (mut follows, mut block, mut mark) = (0, 0, Mark::default());
        if let Some((last, row)) = self.last(partition).await? {
            follows = last.epoch;
            block = last.block;
            mark = mark_of(last.next_offset, row);
            if let Some(pending) = self.block(partition, last.epoch, last.block + 1).await?
                && self.is_whole(&pending).await?
            {
                block = pending.block;
                mark = mark_of(pending.next_offset, pending);
            }
        }
        let begun = BlockRow {
            partition,
            epoch,
            slot: slot(block),
            block,
            first_offset: mark.next_offset,
            next_offset: mark.next_offset,
            kinds: Vec::new(),
            days: Vec::new(),
            rows: Vec::new(),
            checkpoint: mark.checkpoint.clone(),
            seam: mark.seam.unwrap_or(0),
        };
        self.insert_block(&begun).await?;
        // What was counted above is deleted by nobody within the grace, and may be after it.
        if began.elapsed() > self.grace / 2 {
            let reason = format!("claiming partition {partition} took {} s", began.elapsed().as_secs());
            return Err(WarmError::Io { path: self.path.clone(), reason });
        }
        let entry = MarkRow {
            partition,
            epoch,
            entry: BEGIN,
            follows,
            block,
            next_offset: mark.next_offset,
            // Nothing came before the first epoch that could have to be hidden.
            version: u64::from(follows == 0),
        };
        self.nodes.insert_rows("marks", None, &[entry]).await?;
        fail::point("warm.clickhouse.begun");
        let next_offset = mark.next_offset;
        let tidied_at = Instant::now();
        let held = Held { epoch, nonce, block, next_offset, in_doubt: None, fenced: false, tidied_at };
        self.tidy(partition, epoch).await;
        Ok((held, mark))
    }

    /// Whether all rows of a block are there that a predecessor had under way.
    async fn is_whole(&self, pending: &BlockRow) -> Result<bool, WarmError> {
        let found = self.count(pending).await?;
        let (partition, block) = (pending.partition, pending.block);
        if found == pending.rows {
            self.metrics.confirmed_blocks.inc();
            tracing::info!(partition, block, "a predecessor's last block is whole and counts");
            return Ok(true);
        }
        if found.iter().any(|rows| *rows > 0) {
            self.metrics.broken_blocks.inc();
            tracing::warn!(
                partition,
                block,
                rows = found.iter().sum::<u64>(),
                rows_whole = pending.rows.iter().sum::<u64>(),
                "a predecessor's last block is not whole; its rows do not count and will be deleted"
            );
        }
        Ok(false)
    }

    /// How many rows there are of each batch of a block.
    async fn count(&self, block: &BlockRow) -> Result<Vec<u64>, WarmError> {
        Ok(self.owner(block.partition, Some(block)).await?.counts)
    }

    /// Whose the partition is, where it stands, and how many rows there are of each batch of a block:
    /// in one request.
    async fn owner(&self, partition: u16, block: Option<&BlockRow>) -> Result<OwnerRow, WarmError> {
        let counts = block.map(counts_of).unwrap_or_default();
        let sql = format!(
            "SELECT max(claims.epoch) AS epoch, argMax(claims.nonce, claims.epoch) AS nonce, \
             (SELECT groupArray((epoch, block, next_offset)) FROM standing WHERE `partition` = {partition}) \
             AS standing, CAST([{counts}], 'Array(UInt64)') AS counts FROM claims \
             WHERE `partition` = {partition}"
        );
        self.nodes.one(&sql).await
    }

    /// Whether the store is as `held` left it, or has `own` (block and next offset) after that, which
    /// is then the block being stored.
    fn check_held(
        &self,
        partition: u16,
        held: &Held,
        own: Option<(u64, u64)>,
        found: &OwnerRow,
    ) -> Result<(), WarmError> {
        let is_claimed = found.epoch == held.epoch && found.nonce == held.nonce;
        if !is_claimed && found.epoch >= held.epoch {
            return Err(WarmError::Fenced { partition });
        }
        let is_held = |&(epoch, block, next_offset): &(u32, u64, u64)| {
            epoch == held.epoch
                && ((block, next_offset) == (held.block, held.next_offset)
                    || Some((block, next_offset)) == own)
        };
        if is_claimed && found.standing.first().is_some_and(is_held) {
            return Ok(());
        }
        let place = |(_, _, next_offset): &(u32, u64, u64)| format!("offset {next_offset}");
        Err(WarmError::Reverted {
            partition,
            path: self.path.clone(),
            found: found.standing.first().map_or_else(|| "its beginning".to_owned(), place),
            next_offset: held.next_offset,
        })
    }

    async fn check_owner(
        &self,
        partition: u16,
        held: &Held,
        own: Option<(u64, u64)>,
    ) -> Result<(), WarmError> {
        let found = self.owner(partition, None).await?;
        self.check_held(partition, held, own, &found)
    }

    /// Deletes what takeovers made useless. Nothing depends on it: a failure is told, and it is
    /// tried again later.
    async fn tidy(&self, partition: u16, epoch: u32) {
        if let Err(error) = self.delete_superseded(partition, epoch).await {
            tracing::warn!(partition, %error, "could not tidy up after a predecessor");
        }
    }

    /// Deletes rows that takeovers hide, once nobody can count them in any more and no insert of
    /// them can still arrive; then the takeover is forgotten.
    pub(super) async fn delete_superseded(&self, partition: u16, current: u32) -> Result<(), WarmError> {
        let sql = format!(
            "SELECT t.epoch AS epoch, t.follows AS follows, t.block AS block, m.next_offset AS next_offset \
             FROM takeovers AS t INNER JOIN (SELECT epoch, any(marks.next_offset) AS next_offset, \
             min(marks.at) AS at FROM marks WHERE `partition` = {partition} AND entry = 'begin' \
             GROUP BY epoch) AS m ON m.epoch = t.epoch \
             WHERE t.`partition` = {partition} AND m.at < now64(3) - toIntervalMillisecond({})",
            self.grace.as_millis()
        );
        let old: Vec<TakeoverRow> = self.nodes.rows(&sql).await?;
        for TakeoverRow { epoch, follows, block, next_offset } in old {
            let hidden = super::sql::superseded(partition, epoch, follows, block);
            let counts = Kind::ALL.map(|kind| {
                format!("assumeNotNull((SELECT count() FROM {} WHERE {hidden}))", rows_table(kind))
            });
            let sql = format!("SELECT [{}]", counts.join(", "));
            let rows: Vec<u64> = self.nodes.one(&sql).await?;
            for (kind, _) in Kind::ALL.into_iter().zip(&rows).filter(|(_, rows)| **rows > 0) {
                let table = self.names.local(&rows_table(kind));
                for node in self.nodes.all() {
                    node.mutate(&format!("ALTER TABLE {table} DELETE WHERE {hidden}")).await?;
                }
            }
            let rows: u64 = rows.iter().sum();
            if rows > 0 {
                let left: Vec<u64> = self.nodes.one(&sql).await?;
                let left: u64 = left.iter().sum();
                self.metrics.deleted_rows.inc_by(rows - left.min(rows));
                tracing::warn!(partition, epoch, rows, left, "deleted rows of a superseded owner");
                if left > 0 {
                    continue;
                }
            }
            // A block that never became whole would be missed once nothing says any more that it does not count.
            self.delete_booked("ledger", &hidden).await?;
            let pruned = MarkRow { partition, epoch, entry: BEGIN, follows, block, next_offset, version: 1 };
            self.nodes.insert_rows("marks", None, &[pruned]).await?;
        }
        // The checkpoints of epochs before: the current one has its own.
        self.delete_booked("blocks", &format!("`partition` = {partition} AND epoch < {current}")).await
    }

    /// Deletes the rows of one of the store's own books that match, if there are any.
    async fn delete_booked(&self, book: &str, matching: &str) -> Result<(), WarmError> {
        if self.nodes.one::<u64>(&format!("SELECT count() FROM {book} WHERE {matching}")).await? > 0 {
            let sql = format!("ALTER TABLE {} DELETE WHERE {matching}", self.names.local(book));
            for node in self.nodes.all() {
                node.mutate(&sql).await?;
            }
        }
        Ok(())
    }

    /// Stores `block` as the one after `held`'s last.
    async fn store(&self, held: &Held, block: &Block, shape: &Shape) -> Result<(), WarmError> {
        let number = held.block + 1;
        let own = Some((number, block.next_offset));
        // Before anything is written: in a store that was put back, even a block under way would take
        // the place of the checkpoint that the mark there names.
        self.check_owner(block.partition, held, own).await?;
        let row = BlockRow {
            partition: block.partition,
            epoch: held.epoch,
            slot: slot(number),
            block: number,
            first_offset: block.first_offset,
            next_offset: block.next_offset,
            kinds: shape.parts.iter().map(|(kind, ..)| kind.name().to_owned()).collect(),
            days: shape.parts.iter().map(|(_, day, _)| day.days_since_epoch()).collect(),
            rows: shape.parts.iter().map(|(.., rows)| *rows).collect(),
            checkpoint: block.checkpoint.clone(),
            seam: block.seam.unwrap_or(0),
        };
        self.insert_block(&row).await?;
        fail::point("warm.clickhouse.pending");
        let batches = block.batches.iter().filter(|(_, batch)| !batch.is_empty());
        stream::iter(batches)
            .map(Ok)
            .try_for_each_concurrent(INSERTS_MAX, |(day, batch)| async move {
                let table = rows_table(batch.kind());
                let token = format!(
                    "{table}:{}:{}:{number}:{}-{}:{day}",
                    block.partition, held.epoch, block.first_offset, block.next_offset
                );
                let rows = placed(batch, *day, held.epoch, number);
                self.nodes.insert_batches(&table, &token, &[rows]).await?;
                fail::point("warm.clickhouse.rows");
                Ok::<_, WarmError>(())
            })
            .await?;
        // An insert that was acknowledged may have written nothing: what is there is what counts.
        let found = self.owner(block.partition, Some(&row)).await?;
        self.check_held(block.partition, held, own, &found)?;
        if found.counts != row.rows {
            return Err(WarmError::Io {
                path: self.path.clone(),
                reason: format!(
                    "partition {}: of block {number} there are {:?} rows where {:?} were sent",
                    block.partition, found.counts, row.rows
                ),
            });
        }
        let mark = MarkRow {
            partition: block.partition,
            epoch: held.epoch,
            entry: MARK,
            follows: 0,
            block: number,
            next_offset: block.next_offset,
            version: number,
        };
        self.nodes.insert_rows("marks", None, &[mark]).await?;
        fail::point("warm.clickhouse.marked");
        // A claim that came before the mark may not have seen it: then the block does not count.
        self.check_owner(block.partition, held, own).await
    }

    fn damaged(&self, reason: impl ToString) -> WarmError {
        WarmError::Damaged { path: self.path.clone(), reason: reason.to_string() }
    }
}

/// How many rows there are of each batch of a block, as SQL.
fn counts_of(block: &BlockRow) -> String {
    let place =
        format!("`partition` = {} AND epoch = {} AND block = {}", block.partition, block.epoch, block.block);
    let counts = block.kinds.iter().zip(&block.days).map(|(kind, day)| {
        let table = table_of(kind);
        let day = day_literal(TradingDay::from_days_since_epoch(*day));
        format!("assumeNotNull((SELECT count() FROM {table} WHERE `day` = {day} AND {place}))")
    });
    counts.collect::<Vec<_>>().join(", ")
}

fn table_of(kind: &str) -> String {
    Kind::from_name(kind).map_or_else(|| literal(kind), rows_table)
}

/// The batch with the columns that say which rows count.
pub(super) fn placed(batch: &TickBatch, day: TradingDay, epoch: u32, block: u64) -> RecordBatch {
    let (rows, len) = (batch.record_batch(), batch.len());
    let mut fields: Vec<Arc<Field>> = rows.schema_ref().fields().iter().cloned().collect();
    let mut columns = rows.columns().to_vec();
    fields.push(Arc::new(Field::new("day", DataType::Date32, false)));
    columns.push(Arc::new(Date32Array::from_value(day.days_since_epoch(), len)));
    fields.push(Arc::new(Field::new("epoch", DataType::UInt32, false)));
    columns.push(Arc::new(UInt32Array::from_value(epoch, len)));
    fields.push(Arc::new(Field::new("block", DataType::UInt64, false)));
    columns.push(Arc::new(UInt64Array::from_value(block, len)));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .expect("columns of one length, each of its field's type")
}

impl ClickHouseWarm {
    /// The partition's owner, as far as this process knows; locked, since one block follows another.
    async fn owned(&self, partition: u16) -> tokio::sync::OwnedMutexGuard<Option<Held>> {
        let held = {
            let mut held = self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            held.entry(partition).or_default().clone()
        };
        held.lock_owned().await
    }

    pub(super) async fn claim_partition(&self, partition: u16) -> Result<Mark, WarmError> {
        let mut held = self.owned(partition).await;
        // Whatever comes of it, the epoch before is over for this process.
        if let Some(owner) = held.as_mut() {
            owner.fenced = true;
        }
        let (owner, mark) = self.inner.begin(partition, after(held.as_ref())).await?;
        *held = Some(owner);
        Ok(mark)
    }

    pub(super) async fn commit_block(&self, block: Block) -> Result<(), WarmError> {
        let partition = block.partition;
        let mut held = self.owned(partition).await;
        let shape = Shape::of(&block);
        let is_other = |owner: &Held| owner.in_doubt.as_ref().is_some_and(|before| *before != shape);
        match &*held {
            Some(owner) if owner.fenced => return Err(WarmError::Fenced { partition }),
            // Parts of another block may be stored under the number that this one would have.
            Some(owner) if is_other(owner) => {
                let in_doubt = owner.in_doubt.as_ref().map(|shape| (owner.block + 1, shape.next_offset));
                self.inner.check_owner(partition, owner, in_doubt).await?;
                *held = Some(self.inner.begin(partition, owner.epoch).await?.0);
            }
            Some(_) => {}
            None => *held = Some(self.inner.begin(partition, 0).await?.0),
        }
        let Some(owner) = held.as_mut() else { return Err(WarmError::Fenced { partition }) };
        if block.first_offset != owner.next_offset || block.next_offset < block.first_offset {
            return Err(WarmError::NotNext {
                partition,
                first_offset: block.first_offset,
                next_offset: owner.next_offset,
            });
        }
        let rows: u64 = shape.parts.iter().map(|(.., rows)| *rows).sum();
        owner.in_doubt = Some(shape.clone());
        let outcome = self.inner.store(owner, &block, &shape).await;
        match &outcome {
            Ok(()) => {
                owner.in_doubt = None;
                owner.block += 1;
                owner.next_offset = block.next_offset;
                self.inner.metrics.commits.inc();
                self.inner.metrics.rows.inc_by(rows);
                if owner.tidied_at.elapsed() > self.inner.grace {
                    owner.tidied_at = Instant::now();
                    self.inner.tidy(partition, owner.epoch).await;
                }
            }
            Err(WarmError::Fenced { .. }) => {
                owner.fenced = true;
                self.inner.metrics.fenced.inc();
            }
            // What was stored after the mark that the store has now is to be read from the log again,
            // under a new claim.
            Err(WarmError::Reverted { .. }) => {
                owner.fenced = true;
                self.inner.metrics.reverts.inc();
            }
            Err(_) => {}
        }
        outcome
    }
}

/// The epoch after which the next one of this process has to come.
fn after(held: Option<&Held>) -> u32 {
    held.map_or(0, |owner| owner.epoch)
}
