//! The archiver's role: days move from warm to cold by themselves, every so often.
//!
//! Several processes may have it: one at a time works, by the lease in the store. What a run is, and
//! what is safe about it, is `tiering::archive`'s business.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::stores::Stores;
use crate::config::Config;
use crate::tiering::archive::origin::Beside;
use crate::tiering::archive::run::Archiver;
use crate::tiering::archive::{ArchiveError, ArchiveMetrics, ArchiveOptions, Clock, Event, Progress};

/// A running archiver.
pub struct ArchiverRole {
    every: Duration,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

/// What `config` says of how days are archived.
pub fn options(config: &Config) -> ArchiveOptions {
    ArchiveOptions {
        after_days: config.archive.after_days,
        settle: config.archive.settle,
        keep_days: config.warm_keep_days,
        grace: config.archive.grace,
        ..ArchiveOptions::default()
    }
}

/// Starts the archiver, unless it is not to run by itself.
pub(super) fn start(config: &Config, stores: &Stores, metrics: ArchiveMetrics) -> Option<ArchiverRole> {
    let every = config.archive.every?;
    let options = ArchiveOptions { log: Some(Beside::new(stores.bus.clone())), ..options(config) };
    let archiver = Archiver::new(stores.cold(), stores.warm.clone(), options, Clock::default(), metrics);
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(archiver, every, stop.clone()));
    Some(ArchiverRole { every, task, stop })
}

async fn run(archiver: Archiver, every: Duration, stop: CancellationToken) {
    let progress: Progress = Arc::new(|event| match event {
        Event::Done { planned } => tracing::info!(?planned, "archived"),
        Event::Failed { unit, reason } => tracing::error!(%unit, reason, "a day could not be archived"),
        _ => {}
    });
    let mut turn = tokio::time::interval(every);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = turn.tick() => {}
        }
        // Whatever step a stop interrupts is done again by the next run.
        let ran = tokio::select! {
            () = stop.cancelled() => return,
            ran = archiver.run(&progress) => ran,
        };
        match ran {
            Ok(summary) => tracing::info!(
                commits = summary.commits,
                rows = summary.rows,
                drops = summary.drops,
                failures = summary.failures.len(),
                "the archive is up to date"
            ),
            Err(error @ ArchiveError::Leased { .. }) => tracing::info!(%error, "not archiving now"),
            Err(error) => tracing::error!(%error, "the archive run has ended; the next goes on from there"),
        }
    }
}

impl ArchiverRole {
    /// What it does, for a person.
    pub(super) fn describe(&self) -> String {
        format!("archiving closed days every {} minutes", self.every.as_secs() / 60)
    }

    /// Ends it, in the middle of a run if there is one.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::tiering::cold::dir::DirCold;
    use crate::tiering::cold::faulty::{Fault, FaultyCold};
    use crate::tiering::warm::local::{LocalWarm, LocalWarmOptions};

    #[tokio::test(start_paused = true)]
    async fn a_run_comes_at_once_and_every_so_often_also_after_one_that_failed() {
        let (warm, cold) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let warm = LocalWarm::open(warm.path(), LocalWarmOptions { compaction: false }).unwrap();
        let cold = Arc::new(DirCold::open(cold.path()).unwrap());
        // More calls than a run makes before it gives up.
        let cold = Arc::new(FaultyCold::new(cold, Fault::Lost, 1, 4));
        let metrics = ArchiveMetrics::default();
        let options = ArchiveOptions::default();
        let archiver = Archiver::new(cold, warm, options, Clock::default(), metrics.clone());
        let stop = CancellationToken::new();
        let role = tokio::spawn(run(archiver, Duration::from_hours(1), stop.clone()));
        for runs in 1..=3 {
            tokio::time::sleep(Duration::from_mins(50)).await;
            assert_eq!(metrics.runs.get(), runs);
            assert_eq!(metrics.last_success_seconds.get() > 0, runs > 1);
            tokio::time::sleep(Duration::from_mins(10)).await;
        }
        stop.cancel();
        role.await.unwrap();
    }
}
