//! How the archive's rows relate to the log, while a server runs.
//!
//! A local log continues after the rows of its archive when it is opened. An archive that could not be asked
//! then is asked here until it answers. If it is ahead of the log, the stores must be opened again, before
//! the log gives the archived offsets to other records. If the log has used them already, the archived rows
//! of the other timeline are no part of this log's history, which `/readyz` says for as long as it is so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bus::epoch::{Held, Relation};
use crate::tiering::archive::origin::{self, Beside};
use crate::tiering::cold::Cold;

/// How often an archive is asked that has not answered yet.
const FIRST_PERIOD: Duration = Duration::from_secs(2);
/// How often it is asked after it has answered: it may be exchanged.
const PERIOD: Duration = Duration::from_mins(1);
/// Ranges of offsets that are named.
const RANGES_MAX: usize = 8;

/// What is known.
#[derive(Default)]
pub(super) struct Standing {
    reason: Mutex<Option<String>>,
    is_ahead: watch::Sender<bool>,
}

impl Standing {
    /// What is wrong, in words.
    pub(super) fn reason(&self) -> Option<String> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Resolves once the archive is ahead of a log that continues after it when it is opened again.
    /// Cancel-safe.
    pub(super) async fn ahead(&self) {
        // The sender is here.
        let _ = self.is_ahead.subscribe().wait_for(|is_ahead| *is_ahead).await;
    }

    fn set(&self, reason: Option<String>) {
        let mut known = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = reason.as_ref().filter(|reason| known.as_ref() != Some(*reason)) {
            tracing::error!(reason, "the archive and the log");
        }
        *known = reason;
    }
}

/// Asks the archive in `cold` how its rows relate to `log`, until `stop`.
pub(super) async fn follow(
    standing: Arc<Standing>,
    cold: Arc<dyn Cold>,
    log: Beside,
    stop: CancellationToken,
) {
    let mut period = FIRST_PERIOD;
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return,
            asked = ask(&*cold, &log) => asked,
        };
        let is_first = period == FIRST_PERIOD;
        if asked.is_some() {
            period = PERIOD;
        }
        match asked {
            Some(Some((held, Relation::Ahead))) => {
                standing.set(Some(format!(
                    "{} holds rows of another timeline of this log, at offsets that the log has not reached",
                    held.name
                )));
                // Later, another server writes the archive's timeline at this moment.
                standing.is_ahead.send_replace(is_first && log.epoch().may_skip());
            }
            Some(Some((held, Relation::Parted { at }))) => standing.set(Some(parted(&held, &at))),
            Some(_) => standing.set(None),
            None => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
        }
    }
}

/// `None` of an archive that does not answer.
async fn ask(cold: &dyn Cold, log: &Beside) -> Option<Option<(Held, Relation)>> {
    let held = match origin::held(cold).await {
        Ok(held) => held,
        Err(error) => {
            tracing::debug!(%error, "the archive does not say which timeline of the log it holds");
            return None;
        }
    };
    let Some(held) = held else { return Some(None) };
    let relation = log.relation(&held).await.ok()?;
    Some(Some((held, relation)))
}

/// Names the offsets of the other timeline.
fn parted(held: &Held, at: &[u64]) -> String {
    let from = |partition: usize| at.get(partition).copied().unwrap_or(0);
    let lost = held.next_offsets.iter().enumerate().filter(|(partition, next)| **next > from(*partition));
    let named = |(partition, next): (usize, &u64)| {
        format!("{} to {} of partition {partition}", from(partition), next.saturating_sub(1))
    };
    let mut ranges: Vec<String> = lost.clone().take(RANGES_MAX).map(named).collect();
    let more = lost.count().saturating_sub(RANGES_MAX);
    if more > 0 {
        ranges.push(format!("and of {more} more partitions"));
    }
    format!(
        "{} holds rows of another timeline of this log, which are no part of its history: offsets {}",
        held.name,
        ranges.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::epoch::Holder;

    #[test]
    fn the_offsets_of_the_other_timeline_are_named() {
        let next_offsets = vec![60, 30, 9];
        let held = Held { log: Some(1), next_offsets, ..Held::nothing(Holder::Archive, "a") };
        assert_eq!(
            parted(&held, &[40, 30]),
            "a holds rows of another timeline of this log, which are no part of its history: \
             offsets 40 to 59 of partition 0, 0 to 8 of partition 2"
        );
        let held = Held { next_offsets: vec![5; 20], ..held };
        assert!(parted(&held, &[]).ends_with("of partition 7, and of 12 more partitions"));
    }
}
