//! Which log the rows come from: named by the first processor that claims a partition, and compared
//! by every process that opens the database.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::Inner;
use super::schema::literal;
use crate::tiering::warm::{Origin, WarmError};

/// A log takes a new name in the table when a later version of stk names it otherwise: the row of the
/// highest version counts.
#[derive(Row, Serialize)]
struct OriginRow {
    version: u32,
    /// Sixteen hexadecimal digits.
    log: String,
    partitions: u16,
    nonce: String,
}

/// What the database says; version 0 where it says nothing.
#[derive(Row, Deserialize)]
struct NamedRow {
    version: u32,
    log: String,
    partitions: u16,
    /// Rows of `marks`: none where nobody has claimed a partition yet.
    marks: u64,
}

fn name(log: u64) -> String {
    format!("{log:016x}")
}

/// What a comparison found.
enum Compared {
    /// The database names this log.
    Same,
    /// It names none, or this one by its former name.
    ToBeNamed(NamedRow),
}

impl Inner {
    async fn compare_origin(&self, origin: &Origin) -> Result<Compared, WarmError> {
        let found: NamedRow = self
            .nodes
            .one(
                "SELECT max(origin.version) AS version, argMax(origin.log, origin.version) AS log, \
                 argMax(origin.partitions, origin.version) AS partitions, \
                 assumeNotNull((SELECT count() FROM marks)) AS marks FROM origin",
            )
            .await?;
        if found.version == 0 {
            return Ok(Compared::ToBeNamed(found));
        }
        let own = name(origin.log.id);
        let is_former = origin.log.former.is_some_and(|former| found.log == name(former));
        if found.log != own && !is_former {
            return Err(self.other_log(format!(
                "holds rows of the log {}, and the log that is configured is {}: the topic was made again, or \
                 the database belongs to another installation; set warm.clickhouse_database to the database \
                 of this log, or to a new one",
                found.log, own
            )));
        }
        if found.partitions != origin.partitions {
            return Err(self.other_log(format!(
                "was made with a log of {} partitions, and the log has {}: partitions that were added can't \
                 be taken away, and symbols have moved between them; make a new topic (log.kafka_topic) and a \
                 new database (warm.clickhouse_database), and keep the old database to read its days",
                found.partitions, origin.partitions
            )));
        }
        Ok(if is_former { Compared::ToBeNamed(found) } else { Compared::Same })
    }

    /// See [`Warm::check_origin`](crate::tiering::warm::Warm::check_origin).
    pub(super) async fn check_origin(&self, origin: &Origin) -> Result<bool, WarmError> {
        Ok(matches!(self.compare_origin(origin).await?, Compared::Same))
    }

    /// See [`Warm::adopt_origin`](crate::tiering::warm::Warm::adopt_origin).
    pub(super) async fn adopt_origin(&self, origin: &Origin) -> Result<(), WarmError> {
        let Compared::ToBeNamed(found) = self.compare_origin(origin).await? else { return Ok(()) };
        let version = found.version + 1;
        let nonce = super::nonce();
        let (log, partitions) = (name(origin.log.id), origin.partitions);
        let row = OriginRow { version, log: log.clone(), partitions, nonce: nonce.clone() };
        // A compare-and-set by the token, as a claim is.
        self.nodes.insert_rows("origin", Some(&format!("origin:{version}")), &[row]).await?;
        let sql =
            format!("SELECT nonce FROM origin WHERE version = {version} AND nonce = {}", literal(&nonce));
        if self.nodes.rows::<String>(&sql).await?.is_empty() {
            // Another process was quicker.
            return self.check_origin(origin).await.map(drop);
        }
        if found.marks > 0 {
            let database = &self.path;
            tracing::info!(database, log, partitions, "the database did not name its log: it does now");
        }
        Ok(())
    }

    fn other_log(&self, reason: String) -> WarmError {
        WarmError::OtherLog { path: format!("the database {}", self.path), reason }
    }
}
