//! Row digests: whether two stores hold the same rows, whatever their order, files or engine.
//!
//! A digest covers what the market said and nothing of how it got here (no `recv_ts`, no place in
//! the log), so that the rows of one day are equal wherever they were stored. Every store can
//! compute it by itself; in SQL of ClickHouse it is one aggregate over [`TickBatch::digest`]'s rows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Count, sum of row hashes and span of time of some rows. Order-independent; digests of disjoint
/// rows add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowDigest {
    /// Rows.
    pub rows: u64,
    /// The wrapping sum of every row's XXH3-64 (see [`TickBatch::digest`](super::TickBatch::digest)).
    #[serde(with = "hex")]
    pub sum: u64,
    /// The earliest venue time, nanoseconds since the epoch; `i64::MAX` without rows.
    pub ts_min: i64,
    /// The latest; `i64::MIN` without rows.
    pub ts_max: i64,
}

impl Default for RowDigest {
    fn default() -> Self {
        Self { rows: 0, sum: 0, ts_min: i64::MAX, ts_max: i64::MIN }
    }
}

impl RowDigest {
    /// Adds the digest of other rows.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
        self.ts_min = self.ts_min.min(other.ts_min);
        self.ts_max = self.ts_max.max(other.ts_max);
    }

    /// Adds a row by its hash and time.
    pub(super) fn add_row(&mut self, hash: u64, ts: i64) {
        self.add(Self { rows: 1, sum: hash, ts_min: ts, ts_max: ts });
    }
}

impl fmt::Display for RowDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows, sum {:016x}", self.rows, self.sum)
    }
}

/// Sixteen hexadecimal digits: JSON's numbers are not exact above 2^53 in every reader.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(sum: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{sum:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}
