//! Which partitions are this process's, and the threads that process them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{ProcessorError, Shared, Status, worker};
use crate::bus::Assignment;
use crate::fail;

/// How long a fenced partition rests before it is claimed again: longer than the log takes to say
/// that it is another process's.
const FENCED_REST: Duration = Duration::from_secs(15);

/// What a worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// Process until told otherwise.
    Run,
    /// Take in all that is in the log now, store it, and end.
    Drain,
    /// Store what was taken in, and end: another process goes on from there.
    HandOver,
    /// End: another process has the partition, and what this one would store does not count.
    Abandon,
}

struct Worker {
    goal: watch::Sender<Goal>,
    thread: JoinHandle<Result<(), ProcessorError>>,
}

/// Follows the log's word on whose partitions are whose, until told to stop.
pub(super) async fn run(shared: Arc<Shared>, mut fenced: mpsc::Receiver<u16>) -> Result<(), ProcessorError> {
    let mut workers: BTreeMap<u16, Worker> = BTreeMap::new();
    let outcome = follow(&shared, &mut workers, &mut fenced).await;
    if let Err(error) = &outcome {
        tracing::error!(%error, "the processor has stopped");
        shared.failed.cancel();
    }
    let partitions: Vec<u16> = workers.keys().copied().collect();
    outcome.and(end(&mut workers, &partitions, Goal::Drain).await)
}

/// Returns when told to stop, with the workers that are left. The membership ends with it only where
/// it failed: workers drain first, so that nobody is given their partitions meanwhile.
async fn follow(
    shared: &Arc<Shared>,
    workers: &mut BTreeMap<u16, Worker>,
    fenced: &mut mpsc::Receiver<u16>,
) -> Result<(), ProcessorError> {
    let failed = |source| ProcessorError::Membership { source };
    // What the log says comes before a stop: a processor that is stopped at once drains all the same.
    let mut membership = tokio::select! {
        biased;
        joined = shared.stores.bus.join() => joined.map_err(failed)?,
        () = shared.stop.cancelled() => return Ok(()),
    };
    // Partitions that were fenced and are this process's by the log's word, and when they are tried again.
    let mut again: VecDeque<(Instant, u16)> = VecDeque::new();
    loop {
        let due = again.front().map(|(at, _)| *at);
        let change = tokio::select! {
            biased;
            change = membership.next() => change.map_err(failed)?,
            () = shared.stop.cancelled() => break,
            Some(partition) = fenced.recv() => {
                again.push_back((Instant::now() + FENCED_REST, partition));
                continue;
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                // The log's word may still be on its way; by now it would have come.
                if let Some((_, partition)) = again.pop_front()
                    && workers.get(&partition).is_some_and(|worker| worker.thread.is_finished())
                {
                    tracing::info!(partition, "the partition is claimed again");
                    shared.set_status(partition, Status::Restoring);
                    workers.insert(partition, spawn(shared, partition)?);
                }
                continue;
            }
        };
        match change {
            Assignment::Gained(partitions) => {
                tracing::info!(?partitions, "partitions gained");
                for partition in partitions {
                    shared.metrics.gained.inc();
                    shared.set_status(partition, Status::Restoring);
                    workers.insert(partition, spawn(shared, partition)?);
                }
                shared.assigned.store(true, Ordering::Release);
                shared.status_changes.send_replace(());
            }
            Assignment::Revoked(partitions) => {
                tracing::info!(?partitions, "partitions are handed over");
                // What a worker could not store the next one takes from the log.
                let _ = end(workers, &partitions, Goal::HandOver).await;
                fail::point("processor.handed_over");
                shared.metrics.handed_over.inc_by(partitions.len() as u64);
                partitions.iter().for_each(|partition| shared.set_status(*partition, Status::NotOurs));
                membership.released(&partitions).await;
            }
            Assignment::Lost(partitions) => {
                tracing::warn!(?partitions, "partitions were taken over by another process");
                let _ = end(workers, &partitions, Goal::Abandon).await;
                shared.metrics.lost.inc_by(partitions.len() as u64);
                partitions.iter().for_each(|partition| shared.set_status(*partition, Status::NotOurs));
            }
        }
    }
    let partitions: Vec<u16> = workers.keys().copied().collect();
    end(workers, &partitions, Goal::Drain).await
}

fn spawn(shared: &Arc<Shared>, partition: u16) -> Result<Worker, ProcessorError> {
    let (goal, told) = watch::channel(Goal::Run);
    let (shared, runtime) = (shared.clone(), Handle::current());
    let thread = std::thread::Builder::new().name(format!("stk-processor-{partition}"));
    let run = move || runtime.block_on(worker::run(shared, partition, told));
    let thread = thread.spawn(run).map_err(|error| ProcessorError::Worker {
        partition,
        what: format!("could not be started: {error}"),
    })?;
    Ok(Worker { goal, thread })
}

/// Tells the workers of `partitions` to end, all at once, and waits for them. The first error; the
/// others end all the same.
async fn end(
    workers: &mut BTreeMap<u16, Worker>,
    partitions: &[u16],
    goal: Goal,
) -> Result<(), ProcessorError> {
    let ending: Vec<_> = partitions.iter().filter_map(|partition| workers.remove_entry(partition)).collect();
    for (_, worker) in &ending {
        worker.goal.send_replace(goal);
    }
    let mut outcome = Ok(());
    for (partition, Worker { goal: _goal, thread }) in ending {
        let panicked = |what: &str| ProcessorError::Worker { partition, what: what.to_owned() };
        let ended = match tokio::task::spawn_blocking(move || thread.join()).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) => Err(panicked("panicked")),
            Err(_) => Err(panicked("could not be waited for")),
        };
        outcome = outcome.and(ended);
    }
    outcome
}
