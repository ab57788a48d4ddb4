//! The tables and views, made and migrated by `stk` itself.
//!
//! Migrations run once, in order, and are never changed once they were released: a new version of
//! the schema is a new entry at the end of [`MIGRATIONS`]. Every statement may be repeated, so that
//! a start that was cut short, or two processes that start together, end at the same schema.
//!
//! In a cluster every table `t` is a `t_local` on every server and a Distributed `t` over them, so
//! that all SQL but this file's, mutations and `system.parts` names `t` wherever it runs. Rows are
//! spread by symbol. The store's own books (claims, marks, blocks, units) lie on the first shard
//! alone: a claim is a compare-and-set, which only one server can decide, and a mark and the claim
//! it is checked against must be seen in the order they were written.

use arrow_schema::DataType;
use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::ClickHouseOptions;
use super::client::{Node, Nodes, code_of};
use super::sql::RESTORED;
use crate::market::{Kind, TickBatch};
use crate::tiering::warm::WarmError;

/// What makes version `n + 1` out of version `n`, for each `n`.
const MIGRATIONS: &[fn(&Names) -> Vec<String>] = &[first, second, third, fourth];

/// Blocks whose tokens a table remembers: hours of them, where a repeat comes within minutes.
const DEDUPLICATION_BLOCKS: u32 = 10_000;
/// The same where tables are replicated, which forget by time as well.
const DEDUPLICATION_SECONDS: u32 = 7 * 24 * 3_600;

/// The server's codes for a database and a table that are not there.
const NO_DATABASE: u32 = 81;
const NO_TABLE: u32 = 60;
/// The server's code for a right that the user lacks.
const ACCESS_DENIED: u32 = 497;

/// The version of the schema that this program writes.
pub(super) const fn version() -> u32 {
    MIGRATIONS.len() as u32
}

/// How tables are called and what they are made of.
pub(super) struct Names {
    pub(super) cluster: Option<String>,
    /// The keeper's path, with ClickHouse's macros; none where tables are not replicated.
    keeper_path: Option<String>,
    pub(super) database: String,
    user: String,
}

/// The table that holds the rows of `kind`.
pub(super) fn rows_table(kind: Kind) -> String {
    format!("{}_rows", kind.name())
}

/// The view of the rows of `kind` that count.
pub(super) fn view_name(kind: Kind) -> String {
    match kind {
        Kind::Status => "statuses".to_owned(),
        kind => format!("{}s", kind.name()),
    }
}

#[derive(Row, Serialize, Deserialize)]
struct VersionRow {
    version: u32,
    program: String,
}

/// Quotes a name for SQL.
pub(super) fn identifier(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// Quotes a text for SQL.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

impl Names {
    pub(super) fn new(options: &ClickHouseOptions) -> Self {
        Self {
            cluster: options.cluster.clone(),
            keeper_path: options.replicated.then(|| options.keeper_path.clone()),
            database: options.database.clone(),
            user: options.user.clone(),
        }
    }

    /// The table that lies on a server itself.
    pub(super) fn local(&self, table: &str) -> String {
        if self.cluster.is_some() { format!("{table}_local") } else { table.to_owned() }
    }

    /// The `family` of `MergeTree` with its arguments, replicated or not.
    fn engine(&self, family: &str, arguments: &str) -> String {
        match &self.keeper_path {
            None => format!("{family}MergeTree({arguments})"),
            Some(path) => {
                let comma = if arguments.is_empty() { "" } else { ", " };
                format!("Replicated{family}MergeTree({}, '{{replica}}'{comma}{arguments})", literal(path))
            }
        }
    }

    /// The statements that make one table: `columns` and what follows the engine. `sharding` says
    /// on which shard a row lies.
    fn table(&self, name: &str, columns: &str, engine: &str, rest: &str, sharding: &str) -> Vec<String> {
        let window = if self.keeper_path.is_some() {
            format!(
                "replicated_deduplication_window = {DEDUPLICATION_BLOCKS}, \
                 replicated_deduplication_window_seconds = {DEDUPLICATION_SECONDS}"
            )
        } else {
            format!("non_replicated_deduplication_window = {DEDUPLICATION_BLOCKS}")
        };
        let local = self.local(name);
        let mut statements = vec![format!(
            "CREATE TABLE IF NOT EXISTS {local} ({columns}) ENGINE = {engine} {rest} \
             SETTINGS {window}, fsync_after_insert = 1, fsync_part_directory = 1"
        )];
        if let Some(cluster) = &self.cluster {
            let (cluster, database) = (literal(cluster), literal(&self.database));
            statements.push(format!(
                "CREATE TABLE IF NOT EXISTS {name} AS {local} \
                 ENGINE = Distributed({cluster}, {database}, {}, {sharding})",
                literal(&local)
            ));
        }
        statements
    }
}

/// The version of a server's own tables, not of a cluster's Distributed above them; 0 where there are none,
/// `None` where there is no such database.
///
/// Errors: it is a later one than this program's.
async fn found(node: &Node, names: &Names) -> Result<Option<u32>, WarmError> {
    let database = identifier(&names.database);
    let found: Result<Vec<u32>, WarmError> =
        node.rows(&format!("SELECT max(version) FROM {database}.stk_schema")).await;
    let found = match found {
        Ok(found) => found.first().copied().unwrap_or(0),
        Err(WarmError::Refused { reason, .. }) if code_of(&reason) == Some(NO_DATABASE) => return Ok(None),
        Err(WarmError::Refused { reason, .. }) if code_of(&reason) == Some(NO_TABLE) => 0,
        Err(error) => return Err(error),
    };
    if found > version() {
        let reason = format!(
            "the database {database} has schema version {found}, and this program knows up to {}; \
             run the program that made it, or a newer one",
            version()
        );
        return Err(WarmError::Refused { path: node.url().to_owned(), reason });
    }
    Ok(Some(found))
}

/// Makes sure that the database is there, of this program's version; makes nothing.
///
/// Errors: it is not there, as [`WarmError::Missing`]; its version is another one; a shard has several
/// replicas.
pub(super) async fn check(nodes: &mut Nodes, names: &Names) -> Result<(), WarmError> {
    refuse_replicas_of_cluster(nodes, names).await?;
    for node in nodes.all() {
        let place = format!("database {} at {}", names.database, node.url());
        match found(node, names).await? {
            None => return Err(WarmError::Missing { path: place }),
            Some(0) => return Err(WarmError::Missing { path: format!("schema of stk in {place}") }),
            Some(found) => {
                let older = |reason| WarmError::Refused { path: node.url().to_owned(), reason };
                check_version(&names.database, found, version()).map_err(older)?;
            }
        }
    }
    refuse_replicas_of_tables(nodes, names).await?;
    nodes.use_database(&names.database);
    Ok(())
}

/// Refuses a schema that is to be migrated before it can be read.
fn check_version(database: &str, found: u32, version: u32) -> Result<(), String> {
    if found >= version {
        return Ok(());
    }
    Err(format!(
        "the database {} has schema version {found}, and this program reads version {version}: `stk serve` of \
         this version migrates it",
        identifier(database)
    ))
}

/// Brings the database to this program's version.
///
/// Errors: its version is a later one; the user may not create what is missing; a shard has several
/// replicas.
pub(super) async fn migrate(nodes: &mut Nodes, names: &Names) -> Result<(), WarmError> {
    let database = identifier(&names.database);
    refuse_replicas_of_cluster(nodes, names).await?;
    let mut missing = Vec::new();
    // Before anything is made, so that who only reads needs no right to.
    for node in nodes.all() {
        missing.push(found(node, names).await?.unwrap_or(0));
    }
    for (node, _) in nodes.all().iter().zip(&missing).filter(|(_, found)| **found == 0) {
        node.execute(&format!("CREATE DATABASE IF NOT EXISTS {database}")).await?;
    }
    nodes.use_database(&names.database);
    let columns = "version UInt32, program String, at DateTime64(3, 'UTC') DEFAULT now64(3)";
    for (node, found) in nodes.all().iter().zip(missing).filter(|(_, found)| *found < version()) {
        let create = format!(
            "CREATE TABLE IF NOT EXISTS stk_schema ({columns}) ENGINE = MergeTree ORDER BY version \
             SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1"
        );
        node.execute(&create).await?;
        for (number, migration) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > found) {
            tracing::info!(url = node.url(), %database, version = number, "making the schema");
            for statement in migration(names) {
                node.execute(&statement).await?;
            }
            let program = format!("stk {}", env!("CARGO_PKG_VERSION"));
            let row = VersionRow { version: number, program };
            node.insert_rows("stk_schema", Some(&format!("schema:{number}")), &[row]).await?;
        }
    }
    add_seam(nodes, names).await?;
    refuse_replicas_of_tables(nodes, names).await
}

/// The tables that have the column `seam`. A Distributed table has columns of its own.
fn tables_with_seam(names: &Names) -> Vec<String> {
    let mut tables = vec![names.local("blocks"), "blocks".to_owned()];
    tables.dedup();
    tables
}

/// Adds the column `seam` on servers that made `blocks` before there was one. A user who may not is told
/// which right is missing: without the column a log that was exchanged is not noticed by its records.
async fn add_seam(nodes: &Nodes, names: &Names) -> Result<(), WarmError> {
    for node in nodes.all() {
        if node_has_seam(node, names).await? {
            continue;
        }
        for table in tables_with_seam(names) {
            let add = format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS seam UInt64 DEFAULT 0");
            match node.execute(&add).await {
                Ok(()) => {}
                Err(WarmError::Refused { reason, .. }) if code_of(&reason) == Some(ACCESS_DENIED) => {
                    tracing::warn!(
                        url = node.url(),
                        "a column is missing in which stk notes the last record of each block, so that a log \
                         that was exchanged may not be noticed; have an administrator run: GRANT ALTER ADD COLUMN \
                         ON {}.{table} TO {}",
                        identifier(&names.database),
                        identifier(&names.user)
                    );
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

async fn node_has_seam(node: &Node, names: &Names) -> Result<bool, WarmError> {
    let tables = tables_with_seam(names);
    let listed: Vec<String> = tables.iter().map(|table| literal(table)).collect();
    let sql = format!(
        "SELECT count() FROM system.columns WHERE database = currentDatabase() AND name = 'seam' \
         AND `table` IN ({})",
        listed.join(", ")
    );
    Ok(node.rows::<u64>(&sql).await?.pop() == Some(tables.len() as u64))
}

/// Whether every server has the column `seam`.
pub(super) async fn has_seam(nodes: &Nodes, names: &Names) -> Result<bool, WarmError> {
    for node in nodes.all() {
        if !node_has_seam(node, names).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// By each server's own configuration: by that it forwards what it is sent.
async fn refuse_replicas_of_cluster(nodes: &Nodes, names: &Names) -> Result<(), WarmError> {
    let Some(cluster) = &names.cluster else { return Ok(()) };
    let cluster = literal(cluster);
    refuse_replicas(nodes, &format!("SELECT max(replica_num) FROM system.clusters WHERE cluster = {cluster}"))
        .await
}

/// The keeper knows of servers that nobody has named here, once there are tables.
async fn refuse_replicas_of_tables(nodes: &Nodes, names: &Names) -> Result<(), WarmError> {
    if names.keeper_path.is_none() {
        return Ok(());
    }
    let database = literal(&names.database);
    let sql = format!("SELECT max(total_replicas) FROM system.replicas WHERE database = {database}");
    refuse_replicas(nodes, &sql).await
}

/// Refuses servers of which `sql` says that a shard has several: see "Replicas" in the module's
/// documentation.
async fn refuse_replicas(nodes: &Nodes, sql: &str) -> Result<(), WarmError> {
    for node in nodes.all() {
        let replicas = node.rows::<u32>(sql).await?.pop().unwrap_or(0);
        if replicas > 1 {
            let reason = format!(
                "a shard has {replicas} replicas, and what is acknowledged by one might be missing on \
                 another: give each shard one server"
            );
            return Err(WarmError::Refused { path: node.url().to_owned(), reason });
        }
    }
    Ok(())
}

/// Version 1.
fn first(names: &Names) -> Vec<String> {
    let mut statements = Vec::new();
    let at = "`at` DateTime64(3, 'UTC') DEFAULT now64(3)";
    // A constant: everything lies on the first shard.
    let one_shard = "0";
    let mut book = |name: &str, columns: &str, engine: &str, order: &str| {
        statements.extend(names.table(name, columns, engine, &format!("ORDER BY ({order})"), one_shard));
    };
    book(
        "claims",
        &format!("`partition` UInt16, epoch UInt32, nonce String, {at}"),
        &names.engine("", ""),
        "`partition`, epoch",
    );
    book(
        "marks",
        &format!(
            "`partition` UInt16, epoch UInt32, entry Enum8('begin' = 0, 'mark' = 1), \
             follows UInt32, block UInt64, next_offset UInt64, version UInt64, {at}"
        ),
        &names.engine("Replacing", "version"),
        "`partition`, epoch, entry",
    );
    book(
        "blocks",
        &format!(
            "`partition` UInt16, epoch UInt32, slot UInt8, block UInt64, first_offset UInt64, \
             next_offset UInt64, kinds Array(LowCardinality(String)), days Array(Date32), \
             rows Array(UInt64), checkpoint String CODEC(ZSTD(1)), {at}, seam UInt64 DEFAULT 0"
        ),
        &names.engine("Replacing", "block"),
        "`partition`, epoch, slot",
    );
    book(
        "units",
        &format!(
            "kind LowCardinality(String), `day` Date32, version UInt64, nonce String, \
             next_offsets Array(UInt64), restored UInt32, generation UInt32, {at}"
        ),
        &names.engine("Replacing", "version"),
        "kind, `day`",
    );
    book(
        "stored",
        "kind LowCardinality(String), `day` Date32, \
         `at` SimpleAggregateFunction(max, DateTime64(3, 'UTC'))",
        &names.engine("Aggregating", ""),
        "kind, `day`",
    );
    statements.push(format!(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS stored_by_blocks TO {} AS \
         SELECT kind, `day`, at FROM {} ARRAY JOIN kinds AS kind, days AS `day`",
        names.local("stored"),
        names.local("blocks")
    ));
    for kind in Kind::ALL {
        statements.extend(names.table(
            &rows_table(kind),
            &columns(kind),
            &names.engine("", ""),
            "PARTITION BY `day` ORDER BY (`symbol`, `ts`, `partition`, `offset`, `index`)",
            "xxHash64(`symbol`)",
        ));
    }
    statements.push(
        "CREATE VIEW IF NOT EXISTS standing AS SELECT `partition`, \
         max(marks.epoch) AS epoch, argMax(marks.block, (marks.epoch, marks.block)) AS block, \
         argMax(marks.next_offset, (marks.epoch, marks.block)) AS next_offset \
         FROM marks GROUP BY `partition`"
            .to_owned(),
    );
    // From the newest epoch back along what each one followed: an epoch that was passed over is in
    // no one's past, whenever its beginning was written.
    statements.push(
        "CREATE VIEW IF NOT EXISTS takeovers AS SELECT `partition`, link.1 AS epoch, \
         link.2 AS follows, link.3 AS block FROM (SELECT `partition`, \
         arrayReverseSort(groupArray((begun, followed, at_block, forgotten))) AS links, \
         arrayFold((past, link) -> if(link.1 = past.1, (link.2, arrayPushBack(past.2, link)), past), \
         links, (links[1].1, CAST([], 'Array(Tuple(UInt32, UInt32, UInt64, UInt8))'))).2 AS chain \
         FROM (SELECT `partition`, marks.epoch AS begun, any(marks.follows) AS followed, \
         any(marks.block) AS at_block, toUInt8(max(version) > 0) AS forgotten FROM marks \
         WHERE entry = 'begin' GROUP BY `partition`, begun) GROUP BY `partition`) \
         ARRAY JOIN chain AS link WHERE link.4 = 0"
            .to_owned(),
    );
    statements.push(
        "CREATE VIEW IF NOT EXISTS dropped AS SELECT kind, `day`, \
         argMax(units.next_offsets, version) AS next_offsets, \
         argMax(units.restored, version) AS restored FROM units GROUP BY kind, `day`"
            .to_owned(),
    );
    statements.extend(Kind::ALL.into_iter().map(view));
    for (name, timeframe) in [("bars_1m", "1Min"), ("bars_1d", "1Day")] {
        statements.push(bars_view(name, timeframe));
    }
    statements
}

/// Version 2: the log that the rows come from. [`add_seam`] adds the seam of each block.
fn second(names: &Names) -> Vec<String> {
    let at = "`at` DateTime64(3, 'UTC') DEFAULT now64(3)";
    names.table(
        "origin",
        &format!("version UInt32, log String, partitions UInt16, nonce String, {at}"),
        &names.engine("", ""),
        "ORDER BY version",
        "0",
    )
}

/// Version 3: the generations of the log, where it is on the disk of a machine.
fn third(names: &Names) -> Vec<String> {
    names.table(
        "lineage",
        "version UInt64, log String, generations Array(Tuple(UInt64, Array(UInt64))) CODEC(ZSTD(1)), gone String, \
         nonce String, `at` DateTime64(3, 'UTC') DEFAULT now64(3)",
        &names.engine("Replacing", "version"),
        "ORDER BY log",
        "0",
    )
}

/// Version 4: the rows of every block and restore, for good. Where a block begins says whether all of it lies after
/// what was dropped; that was missing in the `tally` of versions 2 and 3, which nothing reads any more.
fn fourth(names: &Names) -> Vec<String> {
    // Of an attempt that is repeated, and of a block whose row was written twice, one stays.
    let mut statements = names.table(
        "ledger",
        "kind LowCardinality(String), `day` Date32, `partition` UInt16, epoch UInt32, block UInt64, \
         first_offset UInt64, stored UInt64",
        &names.engine("Replacing", ""),
        "ORDER BY (kind, `day`, `partition`, epoch, block)",
        "0",
    );
    statements.push(format!(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS ledger_by_blocks TO {} AS \
         SELECT kind, `day`, `partition`, epoch, block, first_offset, stored FROM {} \
         ARRAY JOIN kinds AS kind, days AS `day`, rows AS stored",
        names.local("ledger"),
        names.local("blocks")
    ));
    statements
}

/// The view of the rows of `kind` that count: the rule of [`super::sql::counts`], on what stands at
/// the moment of a query.
fn view(kind: Kind) -> String {
    let name = literal(kind.name());
    let columns: Vec<String> =
        TickBatch::schema(kind).fields().iter().map(|field| format!("`{}`", field.name())).collect();
    format!(
        "CREATE VIEW IF NOT EXISTS {view} AS WITH \
         (SELECT mapFromArrays(groupArray(`partition`), groupArray(block)) FROM standing) AS blocks_of, \
         (SELECT mapFromArrays(groupArray(`partition`), groupArray(epoch)) FROM standing) AS epochs_of, \
         (SELECT groupArray((`partition`, epoch, follows, block)) FROM takeovers) AS taken, \
         (SELECT groupArray((`day`, next_offsets, restored)) FROM dropped WHERE kind = {name}) AS gone \
         SELECT `day`, {columns} FROM {table} WHERE \
         (epoch <= epochs_of[`partition`] AND block <= blocks_of[`partition`] \
         AND NOT arrayExists(t -> t.1 = `partition` AND epoch < t.2 AND (block > t.4 OR epoch > t.3), taken) \
         AND (`day` NOT IN (SELECT `day` FROM dropped WHERE kind = {name}) \
         OR NOT arrayExists(g -> g.1 = `day` AND `offset` < g.2[toUInt32(`partition`) + 1], gone))) \
         OR (epoch >= {RESTORED} AND arrayExists(g -> g.1 = `day` AND g.3 = epoch, gone))",
        view = view_name(kind),
        columns = columns.join(", "),
        table = rows_table(kind),
    )
}

/// Of each bar the newest revision: nothing is computed here but which one that is.
fn bars_view(name: &str, timeframe: &str) -> String {
    let values: Vec<String> = TickBatch::schema(Kind::Bar)
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .filter(|name| {
            !["symbol", "ts", "recv_ts", "timeframe", "partition", "offset", "index"].contains(name)
        })
        .map(|name| format!("argMax(bars.`{name}`, (bars.`offset`, bars.`index`)) AS `{name}`"))
        .collect();
    format!(
        "CREATE VIEW IF NOT EXISTS {name} AS SELECT `day`, `symbol`, `ts`, {} FROM bars \
         WHERE timeframe = {} GROUP BY `day`, `symbol`, `ts`",
        values.join(", "),
        literal(timeframe)
    )
}

/// The columns of the table of `kind`: the batch's, then those that say which rows count.
fn columns(kind: Kind) -> String {
    let schema = TickBatch::schema(kind);
    let mut columns: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| {
            let (name, type_name) = (field.name().as_str(), type_name(field.data_type()));
            format!("`{name}` {type_name} CODEC({})", codec(name, field.data_type()))
        })
        .collect();
    columns.push("`day` Date32 CODEC(ZSTD(1))".to_owned());
    columns.push("`epoch` UInt32 CODEC(ZSTD(1))".to_owned());
    columns.push("`block` UInt64 CODEC(Delta, ZSTD(1))".to_owned());
    columns.push("INDEX place (`partition`, `block`, `offset`) TYPE minmax GRANULARITY 4".to_owned());
    columns.join(", ")
}

fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Timestamp(..) => "DateTime64(9, 'UTC')",
        DataType::Decimal64(..) => "Decimal(18, 9)",
        DataType::Decimal128(..) => "Decimal(38, 9)",
        DataType::UInt16 => "UInt16",
        DataType::UInt32 => "UInt32",
        DataType::UInt64 => "UInt64",
        DataType::Dictionary(..) => "LowCardinality(String)",
        _ => "String",
    }
}

/// Chosen by measurement, on simulated ticks and on a capture of IEX: docs/clickhouse.md has the
/// figures.
fn codec(name: &str, data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Timestamp(..) | DataType::Decimal64(..) | DataType::UInt64 => "Delta, ZSTD(1)",
        // Sizes of quotes repeat; those of trades are small and don't.
        DataType::UInt32 if name.ends_with("_size") => "ZSTD(1)",
        DataType::UInt32 => "T64, ZSTD(1)",
        _ => "ZSTD(1)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ClickHouseOptions {
        ClickHouseOptions { database: "it's".to_owned(), ..ClickHouseOptions::new("http://127.0.0.1:1") }
    }

    #[test]
    fn one_server_has_plain_tables() {
        let all = first(&Names::new(&options())).join(";\n");
        assert!(!all.contains("Replicated") && !all.contains("Distributed") && !all.contains("_local"));
        assert!(all.contains("non_replicated_deduplication_window = 10000"));
    }

    #[test]
    fn a_cluster_spreads_rows_by_symbol_and_keeps_its_books_on_one_shard() {
        let options = ClickHouseOptions { cluster: Some("stk".to_owned()), ..options() };
        let all = first(&Names::new(&options));
        let distributed: Vec<_> = all.iter().filter(|sql| sql.contains("Distributed")).collect();
        assert_eq!(distributed.len(), 5 + Kind::ALL.len());
        for sql in distributed {
            let sharding = if sql.contains("_rows ") { "xxHash64(`symbol`))" } else { ", 0)" };
            assert!(sql.ends_with(sharding), "{sql}");
            assert!(sql.contains("Distributed('stk', 'it\\'s', "), "{sql}");
        }
        let tables = all.iter().filter(|sql| sql.contains("MergeTree"));
        for sql in tables {
            assert!(sql.contains("_local (") && !sql.contains("Replicated"), "{sql}");
        }
    }

    #[test]
    fn replicated_tables_name_the_keepers_path() {
        let keeper_path = "/stk/{shard}/{table}".to_owned();
        let options = ClickHouseOptions { replicated: true, keeper_path, ..options() };
        let all = first(&Names::new(&options));
        for sql in all.iter().filter(|sql| sql.contains("MergeTree")) {
            assert!(sql.contains("MergeTree('/stk/{shard}/{table}', '{replica}'"), "{sql}");
            assert!(sql.contains("replicated_deduplication_window_seconds = 604800"), "{sql}");
            assert!(!sql.contains("non_replicated"), "{sql}");
        }
        let marks = all.iter().find(|sql| sql.contains(" marks (")).unwrap();
        assert!(marks.contains("ReplicatedReplacingMergeTree('/stk/{shard}/{table}', '{replica}', version)"));
    }

    #[test]
    fn an_older_schema_is_not_read() {
        assert_eq!(check_version("stk", 2, 2), Ok(()));
        let refused = check_version("stk", 1, 2).unwrap_err();
        assert!(
            refused.starts_with("the database `stk` has schema version 1, and this program reads version 2")
        );
        assert!(refused.ends_with("`stk serve` of this version migrates it"), "{refused}");
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(identifier("a`b\\"), "`a\\`b\\\\`");
        assert_eq!(literal("a'b\\"), "'a\\'b\\\\'");
    }
}
