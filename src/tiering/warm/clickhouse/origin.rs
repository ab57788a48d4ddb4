//! Which log the rows come from: named by the first processor that claims a partition, and compared
//! by every process that opens the database.
//!
//! A log on the disk of a machine can be put back from a copy under its name. Its generations are named too,
//! by each process that opens it to write.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::Inner;
use super::schema::literal;
use crate::bus::epoch::{Ended, Gone, Held, LogEpoch};
use crate::tiering::warm::named::{self, LogOf};
use crate::tiering::warm::{Origin, WarmError, other_partitions};

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

/// The generations of a log, one row for each time that they were named: the row of the highest version counts.
#[derive(Row, Serialize, Deserialize)]
struct LineageRow {
    version: u64,
    /// Sixteen hexadecimal digits.
    log: String,
    /// Of each generation its id, and by partition where it ended; oldest first.
    generations: Vec<(u64, Vec<u64>)>,
    /// See [`gone_text`].
    gone: String,
    nonce: String,
}

/// By partition where the store ends, and the names of the log by version.
#[derive(Row, Deserialize)]
struct HeldRow {
    marks: Vec<(u16, u64)>,
    names: Vec<(u32, String)>,
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
            let way_on = "make a new topic (log.kafka_topic) and a new database (warm.clickhouse_database), and \
                          keep the old database to read its days";
            let (path, partitions) = (self.named(), usize::from(found.partitions));
            return Err(other_partitions(path, partitions, origin.partitions, way_on));
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
            tracing::warn!(database, log, partitions, "the database did not name its log: it does now");
        }
        Ok(())
    }

    /// The log that the database names, with the generations of a log on the disk of a machine.
    pub(super) async fn held(&self) -> Result<Held, WarmError> {
        let found: HeldRow = self
            .nodes
            .one(
                "SELECT (SELECT groupArray((`partition`, next_offset)) FROM standing) AS marks, \
                 (SELECT groupArray((version, log)) FROM origin) AS names",
            )
            .await?;
        let mut next_offsets = Vec::new();
        for (partition, next_offset) in found.marks {
            let at = usize::from(partition);
            next_offsets.resize(next_offsets.len().max(at + 1), 0);
            next_offsets[at] = next_offset;
        }
        let (_, named) = self.lineage().await?;
        let named = match (named, found.names.into_iter().max()) {
            (None, Some((_, log))) => {
                Some(LogOf { id: self.read_name(&log)?, lineage: Vec::new(), gone: Gone::Nothing })
            }
            (named, _) => named,
        };
        Ok(named::held(self.named(), named, next_offsets))
    }

    /// Has the database name the generations of the log of `epoch`, which it was found to fit to.
    pub(super) async fn name_log(&self, epoch: &LogEpoch, partitions: u16) -> Result<(), WarmError> {
        let Held { next_offsets, .. } = self.held().await?;
        let log = LogOf::new(epoch, partitions, next_offsets);
        let (version, before) = self.lineage().await?;
        if before.as_ref() == Some(&log) {
            return Ok(());
        }
        if before.is_none() && log.lineage.iter().any(|ended| ended.ends.iter().any(|end| *end > 0)) {
            tracing::warn!(
                database = self.path,
                log = name(log.id),
                "the database did not name the generations of its log: it does now"
            );
        }
        let generation = |ended: &Ended| (ended.generation, ended.ends.clone());
        let (version, nonce) = (version + 1, super::nonce());
        let row = LineageRow {
            version,
            log: name(log.id),
            generations: log.lineage.iter().map(generation).collect(),
            gone: gone_text(log.gone),
            nonce: nonce.clone(),
        };
        // A compare-and-set by the token, as a claim is.
        self.nodes.insert_rows("lineage", Some(&format!("lineage:{version}")), &[row]).await?;
        let sql =
            format!("SELECT nonce FROM lineage WHERE version = {version} AND nonce = {}", literal(&nonce));
        if self.nodes.rows::<String>(&sql).await?.is_empty() {
            let reason = "another process has named its log at the same time".to_owned();
            return Err(WarmError::Io { path: self.path.clone(), reason });
        }
        Ok(())
    }

    /// The log and its generations, as they were named last, and the version of that; version 0 where none
    /// are named.
    async fn lineage(&self) -> Result<(u64, Option<LogOf>), WarmError> {
        let sql = "SELECT version, log, generations, gone, nonce FROM lineage ORDER BY version DESC LIMIT 1";
        let Some(found) = self.nodes.rows::<LineageRow>(sql).await?.pop() else { return Ok((0, None)) };
        let ended = |(generation, ends)| Ended { generation, ends };
        let lineage = found.generations.into_iter().map(ended).collect();
        let gone = read_gone(&found.gone).ok_or_else(|| self.unreadable(&found.gone))?;
        Ok((found.version, Some(LogOf { id: self.read_name(&found.log)?, lineage, gone })))
    }

    fn read_name(&self, text: &str) -> Result<u64, WarmError> {
        u64::from_str_radix(text, 16).map_err(|_| self.unreadable(text))
    }

    fn unreadable(&self, text: &str) -> WarmError {
        let reason = format!("{text:?} does not name a log or its days");
        WarmError::Damaged { path: self.named(), reason }
    }

    /// What the store is called.
    fn named(&self) -> String {
        format!("the database {}", self.path)
    }

    fn other_log(&self, reason: String) -> WarmError {
        WarmError::OtherLog { path: self.named(), reason }
    }
}

/// Days as the table has them: nothing where it is not known which, `none`, or the first and the last.
fn gone_text(gone: Gone) -> String {
    match gone {
        Gone::Unknown => String::new(),
        Gone::Nothing => "none".to_owned(),
        Gone::Days { first, last } => format!("{first} {last}"),
    }
}

/// What [`gone_text`] wrote.
fn read_gone(text: &str) -> Option<Gone> {
    match text {
        "" => Some(Gone::Unknown),
        "none" => Some(Gone::Nothing),
        days => {
            let (first, last) = days.split_once(' ')?;
            Some(Gone::Days { first: first.parse().ok()?, last: last.parse().ok()? })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_come_back_as_they_were_written() {
        let days = Gone::Days { first: "2026-11-02".parse().unwrap(), last: "2026-11-27".parse().unwrap() };
        for gone in [Gone::Unknown, Gone::Nothing, days] {
            assert_eq!(read_gone(&gone_text(gone)), Some(gone));
        }
        assert_eq!(read_gone("2026-11-02"), None);
    }
}
