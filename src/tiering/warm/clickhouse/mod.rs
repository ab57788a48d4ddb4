//! Warm in ClickHouse: one table a kind, and books that say which of their rows count.
//!
//! ```text
//! trade_rows, quote_rows, …   a batch's columns, and `day`, `epoch`, `block`
//!                             PARTITION BY day ORDER BY (symbol, ts, partition, offset, index)
//! claims   partition, epoch, nonce                     who owns a partition: one row an epoch
//! marks    partition, epoch, begin|mark, follows,      where an epoch began and how far it has come
//!          block, next_offset
//! blocks   partition, epoch, block, offsets,           what is under way, and the checkpoints
//!          kinds, days, rows, checkpoint, seam
//! ledger   kind, day, partition, epoch, block,         the rows of every block and restore
//!          first_offset, stored
//! origin   version, log, partitions                    the log that the rows come from
//! lineage  version, log, generations, gone             its generations, where it is a machine's own
//! units    kind, day, version, next_offsets, restored  what was dropped, what was restored
//! stored   kind, day, at                               when rows of a day came last
//! trades, quotes, …, bars_1m, bars_1d                  views of what counts, for people's own SQL
//! ```
//!
//! ClickHouse has no transactions. A block is stored all or none, once, because its rows count only
//! by what is written elsewhere, in one insert of one row, which is atomic.
//!
//! # Ownership
//!
//! A partition has owner epochs. A claim takes the next one: a row of `claims` inserted under the
//! token `claim:PARTITION:EPOCH`, of which ClickHouse keeps the first and drops all later ones, so
//! that reading back whose nonce is there is a compare-and-set. Then, and not before, the claim reads
//! where the partition stands, decides what becomes of the block its predecessor had under way, and
//! writes how the epoch begins: the epoch it follows and the block it goes on from.
//!
//! # A commit
//!
//! It begins and ends with a look at `claims` and `marks`: the newest claim must be this process's, and
//! the partition must stand where the last commit left it. A database that was put back to an older
//! state, or emptied, is noticed by that. The commit is [`WarmError::Reverted`] then, and the processor
//! claims the partition again and reads the log from the mark it finds. A later claim by another process
//! makes it [`WarmError::Fenced`].
//!
//! 1. `blocks`: the block's number (one more than the last), offsets, rows by kind and day, checkpoint.
//! 2. The rows, one insert a kind and day, each under the token
//!    `TABLE:PARTITION:EPOCH:BLOCK:FIRST-NEXT:DAY`, which makes its repetition harmless.
//! 3. They are counted. An insert has been acknowledged that wrote nothing; `written_rows` of a
//!    repeated insert says 0 although all is there; only the count tells. The same request looks at
//!    claims and marks.
//! 4. `marks`: the block is the partition's last.
//! 5. No later epoch is claimed, still. A claim whose reading missed the mark came before this look,
//!    so it is seen, and the commit is fenced; a claim that came after has read the mark. What was
//!    acknowledged is never taken back.
//!
//! Every step may be repeated. A commit whose outcome is not known keeps its number; if another
//! block follows instead of the same one, a new epoch is begun first, so that one token never stands
//! for two contents.
//!
//! # What counts
//!
//! The newest epoch that has begun says where a partition stands, and by what each epoch follows
//! there is one chain back to the first. A row of epoch `e` and block `b` counts if `e` is in the
//! chain and `b` is not past the block at which the next epoch in the chain went on. All else never
//! counts, whenever it arrives: rows of a commit that died, a late insert of an owner that was
//! superseded, and whatever an epoch did that was passed over. Blocks are numbered since offsets
//! don't tell them apart: a rebuilt bar stands at an offset of a block before its own.
//!
//! On a claim the block under way is counted. If it is whole it is taken into the chain, and keeps
//! its epoch; if it is not, its rows never count. They are deleted once the grace is over, in which
//! a slow insert may still arrive and a slow claimer may still count; then the takeover is forgotten,
//! so that the rule stays as short as the last hour's history.
//!
//! # Days that go and come back
//!
//! Dropping writes down the offsets below which rows of the day are gone, and only then drops parts,
//! by name: those of which every row lies below. A restore inserts rows under an epoch of its own
//! (from 2^31 on), which counts from the moment the unit's state names it: one row again. A scan
//! reads the books, begins its query, which has a snapshot of the parts from then on, and reads the
//! books of dropped days again: if they are the same, nothing went in between. A day whose parts have fewer
//! rows than `ledger` says were stored and not dropped is refused: somebody else took them away.
//!
//! # Clusters
//!
//! See `schema`: rows are spread by symbol, the books lie on the first shard. Give the address of
//! every server: tables are made, and parts dropped, on each by itself, since `ON CLUSTER` needs a
//! keeper and can't name a part. Several addresses without a cluster are refused: whichever answered
//! would get what comes, and each would lack what the other has.
//!
//! # Replicas
//!
//! A shard has one server, and more are refused. Steps 3 and 5 of a commit and the reading of a claim
//! stand on this: who asks after a write was acknowledged sees it, whoever wrote it. Of replicas
//! ClickHouse promises that only to inserts by quorum one after the other
//! (`insert_quorum_parallel = 0`, read with `select_sequential_consistency`), and then fails an
//! insert into a table while another is on its way; here all partitions insert into the same tables
//! at once. Inserts by quorum side by side may each be on other replicas, and none need have all.

mod archive;
mod bench;
mod booked;
mod client;
mod commit;
mod metrics;
mod origin;
mod scan;
mod schema;
mod sql;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::BoxStream;

pub use self::bench::{InsertFound, InsertRound, bench_insert};
use self::booked::Remembered;
use self::client::Nodes;
use self::commit::Held;
pub use self::metrics::ClickHouseWarmMetrics;
use self::schema::{Names, literal};
use super::{ArchiveSource, Block, Mark, Origin, Query, Removed, Scan, Unit, UnitInfo, Warm, WarmError};
use crate::bus::epoch::{Held as LogHeld, LogEpoch};
use crate::market::{Kind, RowDigest, TickBatch};
use crate::secret::Secret;

/// Where tables lie in a keeper, unless told otherwise; ClickHouse fills in the macros.
pub const KEEPER_PATH: &str = "/clickhouse/tables/{shard}/{database}/{table}";

/// How long after a takeover an insert of the predecessor may still arrive: longer than any request
/// lives.
const GRACE: Duration = Duration::from_hours(1);

/// Which database, and how it is laid out.
#[derive(Clone)]
pub struct ClickHouseOptions {
    /// The HTTP address of the server; of a cluster those of all servers, of which the first that
    /// answers is asked. Several without a cluster are refused.
    pub urls: Vec<String>,
    /// The database.
    pub database: String,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: Secret,
    /// The cluster's name in `remote_servers`, over which rows are distributed.
    pub cluster: Option<String>,
    /// Whether tables are ReplicatedMergeTree. Each has one replica all the same.
    pub replicated: bool,
    /// The tables' path in the keeper, with ClickHouse's macros; where tables are replicated.
    pub keeper_path: String,
    /// How long after a takeover an insert of the predecessor may still arrive.
    pub grace: Duration,
}

impl ClickHouseOptions {
    /// The database `stk` of the server at `url`; several addresses are separated by commas.
    pub fn new(url: &str) -> Self {
        let urls = url.split(',').map(str::trim).filter(|url| !url.is_empty());
        Self {
            urls: urls.map(ToOwned::to_owned).collect(),
            database: "stk".to_owned(),
            user: "default".to_owned(),
            password: Secret::default(),
            cluster: None,
            replicated: false,
            keeper_path: KEEPER_PATH.to_owned(),
            grace: GRACE,
        }
    }
}

/// What is shared by all that a store does.
struct Inner {
    nodes: Nodes,
    names: Names,
    /// Whether `blocks` has the column `seam`, which takes a right to add in an older database.
    has_seam: bool,
    metrics: ClickHouseWarmMetrics,
    /// What was last booked of each kind that was asked for.
    booked: Mutex<HashMap<Kind, Remembered>>,
    /// The address and database, for messages.
    path: String,
    grace: Duration,
}

/// Days of ticks in ClickHouse.
pub struct ClickHouseWarm {
    inner: Arc<Inner>,
    /// The partitions this process has claimed.
    held: Mutex<HashMap<u16, Arc<tokio::sync::Mutex<Option<Held>>>>>,
}

impl ClickHouseWarm {
    /// Connects, and makes or migrates the schema.
    ///
    /// Errors: the server can't be reached; the user may not; the schema is a later one; there are
    /// several servers that don't make one store.
    pub async fn open(options: &ClickHouseOptions) -> Result<Arc<Self>, WarmError> {
        let (mut nodes, names, metrics) = Self::connect(options)?;
        schema::migrate(&mut nodes, &names).await?;
        Self::of(nodes, names, metrics, options).await
    }

    /// Connects to a database that is there, and makes and migrates nothing.
    ///
    /// Errors: there is no such database, or none of `stk`'s, as [`WarmError::Missing`]; the schema is an
    /// older or a later one; the server can't be reached; there are several servers that don't make one
    /// store.
    pub async fn open_existing(options: &ClickHouseOptions) -> Result<Arc<Self>, WarmError> {
        let (mut nodes, names, metrics) = Self::connect(options)?;
        schema::check(&mut nodes, &names).await?;
        Self::of(nodes, names, metrics, options).await
    }

    fn connect(options: &ClickHouseOptions) -> Result<(Nodes, Names, ClickHouseWarmMetrics), WarmError> {
        let metrics = ClickHouseWarmMetrics::default();
        let nodes = Nodes::new(options, metrics.clone())?;
        Ok((nodes, Names::new(options), metrics))
    }

    async fn of(
        nodes: Nodes,
        names: Names,
        metrics: ClickHouseWarmMetrics,
        options: &ClickHouseOptions,
    ) -> Result<Arc<Self>, WarmError> {
        let has_seam = schema::has_seam(&nodes, &names).await?;
        let path = format!("{}/{}", nodes.current().url().trim_end_matches('/'), options.database);
        let booked = Mutex::default();
        let inner = Arc::new(Inner { nodes, names, has_seam, metrics, booked, path, grace: options.grace });
        Ok(Arc::new(Self { inner, held: Mutex::default() }))
    }

    /// The address and database, for messages.
    pub fn path(&self) -> &str {
        &self.inner.path
    }

    /// Has the database name the generations of the log of `epoch`, with `partitions`, which it was found to
    /// fit to: of a log on the disk of this machine, which can be put back from a copy.
    pub async fn name_log(&self, epoch: &LogEpoch, partitions: u16) -> Result<(), WarmError> {
        self.inner.name_log(epoch, partitions).await
    }

    /// What the store counts.
    pub fn metrics(&self) -> ClickHouseWarmMetrics {
        self.inner.metrics.clone()
    }
}

/// A name that nobody else gives: eight random bytes, sixteen digits.
fn nonce() -> String {
    use std::hash::{BuildHasher, Hasher};
    let random = || std::hash::RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", random(), random())
}

/// `FROM` and `WHERE` of a server's own active parts: of all rows, or of one kind's.
fn parts_of(names: &Names, kind: Option<Kind>) -> String {
    let kinds = Kind::ALL.into_iter().filter(|of| kind.is_none_or(|kind| kind == *of));
    let tables: Vec<String> = kinds.map(|kind| literal(&names.local(&schema::rows_table(kind)))).collect();
    format!(
        "FROM system.parts WHERE active AND database = currentDatabase() AND `table` IN ({})",
        tables.join(", ")
    )
}

#[async_trait::async_trait]
impl Warm for ClickHouseWarm {
    async fn held(&self) -> Result<LogHeld, WarmError> {
        self.inner.held().await
    }

    async fn check_origin(&self, origin: &Origin) -> Result<bool, WarmError> {
        self.inner.check_origin(origin).await
    }

    async fn adopt_origin(&self, origin: &Origin) -> Result<(), WarmError> {
        self.inner.adopt_origin(origin).await
    }

    async fn claim(&self, partition: u16) -> Result<Mark, WarmError> {
        self.claim_partition(partition).await
    }

    async fn mark(&self, partition: u16) -> Result<Mark, WarmError> {
        self.inner.mark(partition).await
    }

    /// A partition that this process never claimed is claimed first.
    async fn commit(&self, block: Block) -> Result<(), WarmError> {
        self.commit_block(block).await
    }

    async fn leave_to_archive(&self, unit: Unit, next_offsets: &[u64]) -> Result<(), WarmError> {
        self.drop_rows(unit, next_offsets).await.map(|_| ())
    }

    async fn scan(&self, query: &Query) -> Result<Scan, WarmError> {
        self.inner.scan(query).await
    }
}

#[async_trait::async_trait]
impl ArchiveSource for ClickHouseWarm {
    async fn units(&self) -> Result<Vec<UnitInfo>, WarmError> {
        self.inner.units().await
    }

    async fn digest(&self, unit: Unit, offsets: &[Range<u64>]) -> Result<RowDigest, WarmError> {
        self.inner.digest(unit, offsets).await
    }

    async fn first_offsets(&self, unit: Unit, offsets: &[Range<u64>]) -> Result<Vec<u64>, WarmError> {
        self.inner.first_offsets(unit, offsets).await
    }

    async fn export(
        &self,
        unit: Unit,
        offsets: &[Range<u64>],
    ) -> Result<BoxStream<'static, Result<TickBatch, WarmError>>, WarmError> {
        self.inner.export(unit, offsets).await
    }

    async fn rows_lost(&self, unit: Unit, offsets: &[Range<u64>]) -> Result<Option<Removed>, WarmError> {
        self.inner.rows_lost(unit, offsets).await
    }

    async fn drop_rows(&self, unit: Unit, next_offsets: &[u64]) -> Result<u64, WarmError> {
        self.inner.drop_rows(unit, next_offsets).await
    }

    async fn restore(
        &self,
        unit: Unit,
        next_offsets: &[u64],
        rows: BoxStream<'static, Result<TickBatch, WarmError>>,
    ) -> Result<(), WarmError> {
        self.inner.restore(unit, next_offsets, rows).await
    }
}
