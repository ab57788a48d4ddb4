//! What an answer about the past covers, as JSON: whole as an answer of its own, and short in a header.
//!
//! Proxies and clients take heads of a few kilobytes alone, so the header lists what fits and counts the
//! rest.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::Shared;
use super::parameters::Parameters;
use super::rest::{Answer, history_of, history_query, refused};
use crate::market::Gap;
use crate::tiering::history::{Coverage, Frozen, LostRecords, Missing};

/// The header that says what an answer covers.
pub(super) const HEADER: header::HeaderName = header::HeaderName::from_static("stk-coverage");

/// Bytes of the header's value, at most.
const HEADER_BYTES_MAX: usize = 1024;
/// Bytes of a text in the header that says why the archive was not read.
const REASON_BYTES_MAX: usize = 200;

/// The lists that the header has room for in part: where each is, and where the rest is counted.
const LISTS: [(&str, &str); 6] = [
    ("/broken", "/broken_not_listed"),
    ("/missing", "/missing_not_listed"),
    ("/lost", "/lost_not_listed"),
    ("/archived/frozen", "/archived/frozen_not_listed"),
    ("/gaps", "/gaps_not_listed"),
    ("/archived/restore", ""),
];

/// `/v1/coverage`: what an answer of `/v1/history` to the same question would cover, in whole.
pub(super) async fn coverage(State(shared): State<Arc<Shared>>, parameters: Parameters) -> Answer {
    parameters.only(&["symbols", "kind", "timeframe", "from", "to"])?;
    let query = history_query(&parameters)?;
    let answer = history_of(&shared)?.query_amended(query).await.map_err(|error| refused(&shared, &error))?;
    Ok(Json(whole(&answer.coverage)).into_response())
}

/// Everything that is known of it.
fn whole(coverage: &Coverage) -> Value {
    let archived = &coverage.archived;
    let partitions: Vec<Value> = coverage
        .partitions
        .iter()
        .map(|part| {
            json!({
                "partition": part.partition,
                "warm_next_offset": part.warm_next_offset,
                "log_next_offset": part.log_next_offset,
            })
        })
        .collect();
    let log_records: u64 = coverage
        .partitions
        .iter()
        .map(|part| part.log_next_offset.saturating_sub(part.warm_next_offset))
        .sum();
    json!({
        "complete": coverage.is_complete(),
        "partitions": partitions,
        "log_records": log_records,
        "broken": coverage.broken.iter().map(|fault| fault.escape_default().to_string()).collect::<Vec<_>>(),
        "broken_not_listed": 0,
        "missing": coverage.missing.iter().map(missing).collect::<Vec<_>>(),
        "missing_not_listed": 0,
        "lost": coverage.lost.iter().map(lost).collect::<Vec<_>>(),
        "lost_not_listed": coverage.lost_not_listed,
        "gaps": coverage.gaps.iter().map(gap).collect::<Vec<_>>(),
        "gaps_not_listed": coverage.gaps_not_listed,
        "archived": {
            "days": archived.days.len(),
            "first_day": archived.days.first().map(ToString::to_string),
            "last_day": archived.days.last().map(ToString::to_string),
            "files": archived.files,
            "frozen": archived.frozen.iter().map(frozen).collect::<Vec<_>>(),
            "frozen_not_listed": archived.frozen_not_listed,
            "restore": archived.restore_commands(),
            // Headers are ASCII.
            "unasked": archived.unasked.as_ref().map(|reason| reason.escape_default().to_string()),
        },
    })
}

fn missing(part: &Missing) -> Value {
    json!({
        "partition": part.partition,
        "first_offset": part.first_offset,
        "next_offset": part.next_offset,
    })
}

fn lost(part: &LostRecords) -> Value {
    let days = part.gone.days();
    json!({
        "partition": part.partition,
        "first_offset": part.first_offset,
        "next_offset": part.next_offset,
        "first_day": days.map(|(first, _)| first),
        "last_day": days.map(|(_, last)| last),
    })
}

fn gap(gap: &Gap) -> Value {
    json!({
        "symbol": gap.symbol,
        "source": gap.source.escape_default().to_string(),
        "kind": gap.kind.name(),
        "first": gap.first,
        "last": gap.last,
        "ts": gap.ts.to_string(),
    })
}

fn frozen(frozen: &Frozen) -> Value {
    json!({
        "kind": frozen.kind.name(),
        "date": frozen.day.to_string(),
        "key": frozen.key.escape_default().to_string(),
        "bytes": frozen.bytes,
        "class": frozen.class.name(),
        "restoring": frozen.restoring,
    })
}

/// The header's value: as [`whole`], without the partitions, and with as much of each list as fits.
pub(super) fn short(coverage: &Coverage) -> String {
    let mut short = whole(coverage);
    if let Some(members) = short.as_object_mut() {
        members.remove("partitions");
    }
    if let Some(Value::String(reason)) = short.pointer_mut("/archived/unasked") {
        reason.truncate(REASON_BYTES_MAX);
    }
    let lists = LISTS.map(|(list, not_listed)| {
        let items = match short.pointer_mut(list) {
            Some(Value::Array(items)) => std::mem::take(items),
            _ => Vec::new(),
        };
        count(&mut short, not_listed, items.len() as i64);
        items
    });
    for ((list, not_listed), items) in LISTS.into_iter().zip(lists) {
        for item in items {
            if let Some(Value::Array(items)) = short.pointer_mut(list) {
                items.push(item);
            }
            count(&mut short, not_listed, -1);
            if short.to_string().len() > HEADER_BYTES_MAX {
                if let Some(Value::Array(items)) = short.pointer_mut(list) {
                    items.pop();
                }
                count(&mut short, not_listed, 1);
                break;
            }
        }
    }
    short.to_string()
}

/// Adds to a number in `value`, if there is one at `pointer`.
fn count(value: &mut Value, pointer: &str, more: i64) {
    if let Some(number) = value.pointer_mut(pointer)
        && let Some(before) = number.as_u64()
    {
        *number = before.saturating_add_signed(more).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::epoch::Gone;
    use crate::market::{GapKind, Kind, Timestamp};
    use crate::tiering::cold::StorageClass;
    use crate::tiering::history::{ArchivedCoverage, PartitionCoverage};

    /// As much as there can be, with texts of `len` characters.
    fn large(len: usize) -> Coverage {
        let text = "é".repeat(len);
        let of_days = |kind, at: u32| Frozen {
            kind,
            day: format!("2025-01-{:02}", 1 + at % 28).parse().unwrap(),
            key: text.clone(),
            bytes: u64::MAX,
            class: StorageClass::DeepArchive,
            restoring: false,
        };
        let frozen = (0..500).flat_map(|at| [of_days(Kind::Trade, at), of_days(Kind::Correction, at)]);
        Coverage {
            partitions: (0..64)
                .map(|partition| PartitionCoverage {
                    partition,
                    warm_next_offset: u64::MAX - 3,
                    log_next_offset: u64::MAX - 1,
                })
                .collect(),
            gaps: (0..1000)
                .map(|at| Gap {
                    symbol: None,
                    ts: Timestamp::from_nanos(at),
                    recv_ts: Timestamp::MIN,
                    kind: GapKind::Disconnect,
                    source: text.clone().into(),
                    first: u64::MAX,
                    last: u64::MAX,
                })
                .collect(),
            gaps_not_listed: 7,
            missing: (0..64)
                .map(|partition| Missing { partition, first_offset: u64::MAX - 1, next_offset: u64::MAX })
                .collect(),
            lost: (0..64)
                .map(|partition| LostRecords {
                    partition,
                    first_offset: u64::MAX - 9,
                    next_offset: u64::MAX,
                    gone: Gone::of(["2025-01-01".parse().unwrap()]),
                })
                .collect(),
            lost_not_listed: 3,
            broken: (0..20).map(|_| text.clone()).collect(),
            archived: ArchivedCoverage {
                frozen: frozen.collect(),
                frozen_not_listed: 9,
                unasked: Some(text.clone()),
                ..ArchivedCoverage::default()
            },
        }
    }

    #[test]
    fn the_header_is_short_and_counts_what_it_does_not_list() {
        for len in [0, 1, 30, 5_000] {
            let coverage = large(len);
            let short = short(&coverage);
            assert!(short.len() <= HEADER_BYTES_MAX && short.is_ascii(), "{} bytes: {short}", short.len());
            let short: Value = serde_json::from_str(&short).unwrap();
            assert_eq!(short["complete"], false);
            assert_eq!(short["log_records"], 128);
            let whole = whole(&coverage);
            for (list, not_listed) in &LISTS[..5] {
                let all = |of: &Value| {
                    let listed = of.pointer(list).unwrap().as_array().unwrap().len() as u64;
                    listed + of.pointer(not_listed).unwrap().as_u64().unwrap()
                };
                assert_eq!(all(&short), all(&whole), "{list}");
            }
        }
    }

    #[test]
    fn what_fits_is_listed() {
        let mut coverage = Coverage::default();
        assert_eq!(serde_json::from_str::<Value>(&short(&coverage)).unwrap()["complete"], true);
        coverage.gaps = large(5).gaps[..2].to_vec();
        let short: Value = serde_json::from_str(&short(&coverage)).unwrap();
        assert_eq!(short["complete"], false);
        assert_eq!((&short["gaps"], &short["gaps_not_listed"]), (&whole(&coverage)["gaps"], &json!(0)));
    }
}
