//! One archiver at a time.
//!
//! ```text
//! lease/archiver-0000000000000007.json   who, until when
//! ```
//!
//! The object of the highest number tells who holds the lease. Nothing is overwritten: who takes it
//! over, and who renews it, creates the next number, which one can. A holder that could not renew in
//! time stops by itself before others may begin, with room for clocks that differ. Who finds that
//! the holder is a process of this machine that is no more need not wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::sealed::seal;
use super::store::{Created, Store};
use super::{ArchiveError, Clock, run};
use crate::fail;
use crate::market::Timestamp;

/// What the keys of leases begin with.
pub(super) const LEASE_PREFIX: &str = "lease/archiver-";

/// The version that is written. Version 1 had no checksum.
const VERSION: u32 = 2;

/// Tries to take a lease that others are taking too.
const TRIES_MAX: usize = 3;

/// The share of a lease by which clocks may differ: as much earlier its holder stops, as much later
/// others begin.
const MARGIN: u32 = 6;

/// Which process of which machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    host: String,
    /// The machine since it was started.
    boot: String,
    /// Where the process id is one.
    pid_namespace: String,
    pid: u32,
    /// When the process was started, in the kernel's ticks: ids are used again. 0 if it can't tell.
    started: u64,
}

impl Owner {
    fn this() -> Self {
        let pid = std::process::id();
        let line = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Self {
            host: line("/proc/sys/kernel/hostname"),
            boot: line("/proc/sys/kernel/random/boot_id"),
            pid_namespace: namespace.display().to_string(),
            pid,
            started: started(pid).unwrap_or(0),
        }
    }

    /// Whether it surely is no more.
    fn is_gone(&self) -> bool {
        let this = Self::this();
        let is_seen = !self.boot.is_empty()
            && !self.pid_namespace.is_empty()
            && (&self.boot, &self.pid_namespace) == (&this.boot, &this.pid_namespace);
        is_seen && (!is_there(self.pid) || is_another(self.started, started(self.pid)))
    }
}

/// Whether there is a process of that id, whoever's it is and however little of it can be seen.
fn is_there(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

/// Whether a process that `started` then is surely not the one of its id `now`: of another user's
/// process that may be hidden, and nothing follows from that.
fn is_another(started: u64, now: Option<u64>) -> bool {
    started > 0 && now.is_some_and(|now| now != started)
}

/// When a process was started; `None` if that can't be read.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseFile {
    version: u32,
    owner: Owner,
    nonce: String,
    /// RFC 3339.
    expires_at: String,
    /// Whether its holder has given it back.
    released: bool,
}

struct Held {
    generation: u64,
    expires_at: Timestamp,
    /// When it was last confirmed, by a clock that nobody sets.
    confirmed: Instant,
    lost: Option<String>,
}

/// The right to archive into a store, renewed for as long as this lives.
pub struct Lease {
    shared: Arc<Shared>,
    keeper: AbortOnDropHandle<()>,
}

struct Shared {
    store: Store,
    clock: Clock,
    lease: Duration,
    nonce: String,
    owner: Owner,
    held: Mutex<Held>,
}

fn key(generation: u64) -> String {
    format!("{LEASE_PREFIX}{generation:016}.json")
}

/// Every lease object, the newest last.
async fn generations(store: &Store) -> Result<Vec<u64>, ArchiveError> {
    let objects = store.list(LEASE_PREFIX, None).await?;
    let number = |key: &str| key.strip_prefix(LEASE_PREFIX)?.strip_suffix(".json")?.parse().ok();
    let mut found: Vec<u64> = objects.iter().filter_map(|object| number(&object.key)).collect();
    found.sort_unstable();
    Ok(found)
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

impl Lease {
    /// Takes the lease, if nobody has it.
    pub(super) async fn take(store: &Store, clock: &Clock, lease: Duration) -> Result<Self, ArchiveError> {
        let nonce = run::fresh_id(clock.now());
        let shared = Shared {
            store: store.clone(),
            clock: clock.clone(),
            lease,
            nonce,
            owner: Owner::this(),
            held: Mutex::new(Held {
                generation: 0,
                expires_at: Timestamp::MIN,
                confirmed: Instant::now(),
                lost: None,
            }),
        };
        shared.take().await?;
        fail::point("archive.leased");
        let shared = Arc::new(shared);
        let keeper = tokio::spawn(Shared::keep(shared.clone()));
        Ok(Self { shared, keeper: AbortOnDropHandle::new(keeper) })
    }

    /// Whether it is still held: to be asked before every step that another's would contradict.
    pub fn check(&self) -> Result<(), ArchiveError> {
        self.shared.check()
    }

    /// Gives it back.
    pub async fn release(self) -> Result<(), ArchiveError> {
        drop(self.keeper);
        self.shared.check()?;
        self.shared.advance(true).await
    }
}

impl Shared {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, reason: impl ToString) -> ArchiveError {
        ArchiveError::LeaseLost { store: self.store.name().to_owned(), reason: reason.to_string() }
    }

    fn check(&self) -> Result<(), ArchiveError> {
        let margin = self.lease / MARGIN;
        let held = self.held();
        if let Some(reason) = &held.lost {
            return Err(self.lost(reason));
        }
        let now = self.clock.now();
        let by_wall = now.saturating_add_nanos(nanos(margin)) < held.expires_at;
        let by_time = held.confirmed.elapsed() + margin < self.lease;
        if by_wall && by_time { Ok(()) } else { Err(self.lost("it could not be renewed in time")) }
    }

    async fn take(&self) -> Result<(), ArchiveError> {
        for _ in 0..TRIES_MAX {
            let newest = generations(&self.store).await?.last().copied();
            if let Some(generation) = newest
                && let Some(other) = self.store.get_json::<LeaseFile>(&key(generation)).await?
                && other.nonce != self.nonce
                && !other.released
                && !other.owner.is_gone()
            {
                let until: Timestamp = other.expires_at.parse().unwrap_or(Timestamp::MAX);
                let until = until.saturating_add_nanos(nanos(self.lease / MARGIN));
                if self.clock.now() < until && !self.is_abandoned(generation, until).await? {
                    return Err(ArchiveError::Leased {
                        store: self.store.name().to_owned(),
                        owner: format!("process {} on {}", other.owner.pid, other.owner.host),
                        until: until.to_string(),
                    });
                }
            }
            self.held().generation = newest.unwrap_or(0);
            match self.advance(false).await {
                // Another was quicker: who it is can be read now.
                Err(ArchiveError::LeaseLost { .. }) => {}
                done => return done,
            }
        }
        Err(self.lost("others take it again and again"))
    }

    /// Whether a lease that lasts until `until` by its holder's clock is renewed by nobody. Further ahead
    /// than any lease lasts, the holder's clock was ahead of this one: then it is watched for as long as
    /// a lease lasts.
    async fn is_abandoned(&self, generation: u64, until: Timestamp) -> Result<bool, ArchiveError> {
        let lasts = self.lease + 2 * (self.lease / MARGIN);
        if until.nanos_since(self.clock.now()) <= nanos(lasts) {
            return Ok(false);
        }
        tracing::warn!(%until, "the archive's lease is of a clock that is ahead; waiting whether it is renewed");
        tokio::time::sleep(lasts).await;
        Ok(generations(&self.store).await?.last() == Some(&generation))
    }

    /// Creates the next number.
    async fn advance(&self, released: bool) -> Result<(), ArchiveError> {
        for _ in 0..TRIES_MAX {
            if self.advance_once(released).await? {
                return Ok(());
            }
        }
        Err(self.lost("its renewals are found again and again"))
    }

    /// Creates the next number. Gives `false` where it turns out to be there already, by an earlier
    /// renewal of which no answer came: that one's time is not this one's, nor need it be a release.
    /// What was held before is, until the number after it is created.
    async fn advance_once(&self, released: bool) -> Result<bool, ArchiveError> {
        let generation = self.held().generation + 1;
        // Before the request leaves: it is from here that the time runs.
        let (now, confirmed) = (self.clock.now(), Instant::now());
        let expires_at = now.saturating_add_nanos(nanos(self.lease));
        let file = LeaseFile {
            version: VERSION,
            owner: self.owner.clone(),
            nonce: self.nonce.clone(),
            expires_at: expires_at.to_string(),
            released,
        };
        let parsed = |found: &[u8]| serde_json::from_slice::<LeaseFile>(found).ok();
        let is_own = |found: &[u8]| parsed(found).is_some_and(|found| found == file);
        if let Created::Other(found) = self.store.create(&key(generation), seal(&file), is_own).await? {
            if parsed(&found).is_none_or(|found| found.nonce != self.nonce) {
                return Err(self.lost("another archiver has taken it"));
            }
            self.held().generation = generation;
            return Ok(false);
        }
        // The number may have been free because others have gone past it and removed it.
        let all = generations(&self.store).await?;
        if all.last() != Some(&generation) {
            return Err(self.lost("another archiver has taken it"));
        }
        *self.held() = Held { generation, expires_at, confirmed, lost: None };
        for old in all.into_iter().filter(|old| old + 1 < generation) {
            self.store.delete(&key(old)).await?;
        }
        Ok(true)
    }

    async fn keep(shared: Arc<Self>) {
        loop {
            tokio::time::sleep(shared.lease / 3).await;
            if shared.check().is_err() {
                return;
            }
            match shared.advance(false).await {
                Ok(()) => {}
                Err(error @ ArchiveError::LeaseLost { .. }) => {
                    shared.held().lost = Some(error.to_string());
                    return;
                }
                // As long as it lasts there is time to try again.
                Err(error) => tracing::warn!(%error, "the archive's lease could not be renewed yet"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_gone_if_there_is_none_or_another_and_not_if_it_is_hidden() {
        let this = Owner::this();
        assert!(!this.is_gone() && this.started > 0);
        // Whoever runs this, it is there.
        assert!(is_there(1));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        assert!(is_there(pid), "it is not waited for yet");
        child.wait().unwrap();
        assert!(Owner { pid, ..this.clone() }.is_gone());
        assert!(Owner { pid: u32::MAX, ..this.clone() }.is_gone());
        assert!(Owner { started: this.started - 1, ..this.clone() }.is_gone());
        assert!(!Owner { started: 0, ..this.clone() }.is_gone());
        assert!(!Owner { boot: "another".to_owned(), pid, ..this }.is_gone());
        // Of a process of another user, /proc mounted with hidepid=2 tells nothing.
        for (started, now, another) in
            [(7, None, false), (7, Some(7), false), (7, Some(8), true), (0, Some(8), false)]
        {
            assert_eq!(is_another(started, now), another, "{started} {now:?}");
        }
    }
}
