//! Dropping what is released and old, and committing how far processing has come.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{ANSWER_WAIT_MAX, Shared, Turns};
use crate::bus::{Bounds, BusError};
use crate::fail;

/// Trims now and then, until the log is closed or gone.
pub(super) fn start(shared: &Arc<Shared>) {
    let mut turns = Turns::of(shared, shared.config.trim_interval);
    tokio::spawn(async move {
        while let Some(shared) = turns.next().await {
            if let Err(error) = trim(&shared).await {
                tracing::warn!(log = shared.name, %error, "what is old could not be dropped; trying again later");
            }
        }
    });
}

/// One round, alone: of two, each would count what either dropped.
pub(super) async fn trim(shared: &Shared) -> Result<(), BusError> {
    let _turn = shared.trimming.lock().await;
    for member in shared.members() {
        // Nobody waits for it.
        drop(member.commit(shared));
    }
    let mut held = Vec::new();
    for partition in 0..shared.config.partitions {
        let released = shared.marks[usize::from(partition)].released.load(Ordering::Acquire);
        // What other processes have released is their matter.
        if released > 0 {
            held.push((partition, shared.ask_bounds(partition).await?, released));
        }
    }
    held.retain(|(_, bounds, released)| *released > bounds.first);
    if held.is_empty() {
        return Ok(());
    }
    let partitions: Vec<u16> = held.iter().map(|(partition, ..)| *partition).collect();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    let since_ms = now_ms.saturating_sub(shared.config.retention.age.as_millis() as i64);
    let young =
        shared.patiently(ANSWER_WAIT_MAX, || shared.admin.offsets_since(&partitions, since_ms)).await?;

    let all: Vec<Bounds> = held.iter().map(|(_, bounds, _)| *bounds).collect();
    let share = f64::from(shared.config.partitions).recip() * all.len() as f64;
    let bytes_max = (shared.config.retention.bytes as f64 * share) as u64;
    let within = firsts_within(&all, bytes_max, shared.metrics.record_bytes_mean());

    let mut deletions = Vec::new();
    for ((partition, bounds, released), within) in held.into_iter().zip(within) {
        let aged = young.get(&partition).copied().flatten().unwrap_or(bounds.next);
        let before = aged.max(within).min(released).min(bounds.next);
        if before > bounds.first {
            deletions.push((partition, bounds.first, before));
        }
    }
    if deletions.is_empty() {
        return Ok(());
    }
    let offsets: Vec<(u16, u64)> =
        deletions.iter().map(|(partition, _, before)| (*partition, *before)).collect();
    let firsts = shared.patiently(ANSWER_WAIT_MAX, || shared.admin.delete_before(&offsets)).await?;
    fail::point("log.kafka.trimmed");
    for (partition, first) in firsts {
        shared.marks[usize::from(partition)].first.fetch_max(first, Ordering::AcqRel);
        let before = deletions.iter().find(|deletion| deletion.0 == partition).map_or(first, |found| found.1);
        shared.metrics.trimmed_records.inc_by(first.saturating_sub(before));
    }
    Ok(())
}

/// By partition, the first offset to keep so that about `bytes_max` bytes are kept of all, where a
/// record has `record_bytes`: each gives up the same part of what it holds.
fn firsts_within(held: &[Bounds], bytes_max: u64, record_bytes: Option<f64>) -> Vec<u64> {
    let records: u64 = held.iter().map(|bounds| bounds.next - bounds.first).sum();
    let records_max = record_bytes.map_or(u64::MAX, |bytes| (bytes_max as f64 / bytes.max(1.0)) as u64);
    let excess = records.saturating_sub(records_max);
    let part = if records == 0 { 0.0 } else { excess as f64 / records as f64 };
    held.iter().map(|bounds| bounds.first + ((bounds.next - bounds.first) as f64 * part) as u64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_gives_up_the_same_part() {
        let held = [Bounds { first: 100, next: 200 }, Bounds { first: 0, next: 300 }];
        assert_eq!(firsts_within(&held, 4_000, Some(10.0)), [100, 0], "all fit");
        assert_eq!(firsts_within(&held, 1_000, Some(10.0)), [175, 225]);
        assert_eq!(firsts_within(&held, 0, Some(10.0)), [200, 300]);
        assert_eq!(firsts_within(&held, 0, None), [100, 0], "without a size nothing is judged");
        assert_eq!(firsts_within(&[], 0, Some(1.0)), [0; 0]);
    }
}
