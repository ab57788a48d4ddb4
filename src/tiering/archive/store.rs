//! The cold store as the archive uses it: calls that may be repeated are, what is created is read
//! back where the answer is in doubt, and bytes flow no faster than they may.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::garbage::GARBAGE_KEY;
use super::journal::JOURNAL_PREFIX;
use super::lease::LEASE_PREFIX;
use super::manifest::{DATA_PREFIX, MANIFEST_PREFIX, Manifest, manifest_key};
use super::sealed;
use super::throttle::Throttle;
use super::verify::SCRUB_KEY;
use super::{ArchiveError, ArchiveMetrics};
use crate::tiering::cold::{Availability, Cold, ColdError, ObjectInfo, Upload};
use crate::tiering::warm::Unit;

/// Tries of a call, at most.
const TRIES_MAX: u32 = 4;

/// The wait before the second try; each after it is four times as long.
const WAIT: Duration = Duration::from_millis(100);

/// What became of an object that was to be created.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Created {
    /// It is there, and it is the caller's.
    Own,
    /// Another's is there: its bytes.
    Other(Bytes),
}

/// A cold store.
#[derive(Clone)]
pub(super) struct Store {
    cold: Arc<dyn Cold>,
    throttle: Arc<Throttle>,
    pub(super) metrics: ArchiveMetrics,
}

impl Store {
    pub(super) fn new(cold: Arc<dyn Cold>, bandwidth: Option<u64>, metrics: ArchiveMetrics) -> Self {
        Self { cold, throttle: Arc::new(Throttle::new(bandwidth)), metrics }
    }

    pub(super) fn name(&self) -> &str {
        self.cold.name()
    }

    /// The store itself, for calls that must happen once.
    pub(super) fn cold(&self) -> &dyn Cold {
        &*self.cold
    }

    /// The same, for readers.
    pub(super) fn shared_cold(&self) -> Arc<dyn Cold> {
        self.cold.clone()
    }

    pub(super) fn damaged(&self, key: &str, reason: impl ToString) -> ArchiveError {
        let (store, key) = (self.name().to_owned(), key.to_owned());
        ArchiveError::Damaged { store, key, reason: reason.to_string() }
    }

    async fn again<T, F: Future<Output = Result<T, ColdError>>>(
        &self,
        call: impl Fn() -> F,
    ) -> Result<T, ColdError> {
        let mut tries = 0;
        loop {
            match call().await {
                Err(ColdError::Unknown { .. }) if tries + 1 < TRIES_MAX => self.wait(&mut tries).await,
                done => return done,
            }
        }
    }

    async fn wait(&self, tries: &mut u32) {
        self.metrics.retries.inc();
        tokio::time::sleep(WAIT * 4_u32.pow(*tries)).await;
        *tries += 1;
    }

    pub(super) async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ColdError> {
        self.throttle.take(bytes.len() as u64).await;
        self.again(move || self.cold.put(key, bytes.clone())).await
    }

    pub(super) async fn put_json<T: Serialize>(&self, key: &str, value: &T) -> Result<(), ColdError> {
        self.put(key, sealed::seal(value)).await
    }

    /// The object; `None` if there is none. For small ones: it does not wait until bytes may flow.
    pub(super) async fn get(&self, key: &str) -> Result<Option<Bytes>, ColdError> {
        match self.again(|| self.cold.get(key)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ColdError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ArchiveError> {
        let Some(bytes) = self.get(key).await? else { return Ok(None) };
        sealed::open(&bytes).map(Some).map_err(|reason| self.damaged(key, format!("{reason}{}", mend(key))))
    }

    /// The manifest of that number; `None` if there is none.
    pub(super) async fn manifest(&self, unit: Unit, number: u32) -> Result<Option<Manifest>, ArchiveError> {
        let key = manifest_key(unit, number);
        let Some(bytes) = self.get(&key).await? else { return Ok(None) };
        Manifest::parse(&bytes)
            .map(Some)
            .map_err(|reason| self.damaged(&key, format!("{reason}{}", mend(&key))))
    }

    pub(super) async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, ColdError> {
        self.throttle.take(range.end - range.start).await;
        let ranges = [range];
        let found = self.again(|| self.cold.get_ranges(key, &ranges)).await?;
        found.into_iter().next().ok_or_else(|| ColdError::Unknown {
            store: self.name().to_owned(),
            key: key.to_owned(),
            reason: "it gave no bytes".to_owned(),
        })
    }

    pub(super) async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>, ColdError> {
        self.again(|| self.cold.list(prefix, after)).await
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), ColdError> {
        self.again(|| self.cold.delete(key)).await
    }

    /// Whether the object can be read; `None` if there is none.
    pub(super) async fn availability(&self, key: &str) -> Result<Option<Availability>, ColdError> {
        match self.again(|| self.cold.state(key)).await {
            Ok((_, availability)) => Ok(Some(availability)),
            Err(ColdError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn upload(&self, key: &str) -> Result<Box<dyn Upload>, ColdError> {
        self.again(|| self.cold.upload(key)).await
    }

    pub(super) async fn write(&self, upload: &mut Box<dyn Upload>, bytes: Bytes) -> Result<(), ColdError> {
        self.throttle.take(bytes.len() as u64).await;
        self.metrics.bytes_written.inc_by(bytes.len() as u64);
        upload.write(bytes).await
    }

    /// Creates an object, unless there is one of that key. `is_own` tells the caller's bytes from
    /// another's. An answer that is not a plain yes is not believed: the object is read back, and
    /// only its absence is a reason to try again.
    pub(super) async fn create(
        &self,
        key: &str,
        bytes: Bytes,
        is_own: impl Fn(&[u8]) -> bool,
    ) -> Result<Created, ColdError> {
        let mut tries = 0;
        loop {
            let answer = self.cold.create(key, bytes.clone()).await;
            let answer = match answer {
                Ok(true) => return Ok(Created::Own),
                Ok(false) | Err(ColdError::Unknown { .. }) => answer,
                Err(error) => return Err(error),
            };
            if let Some(found) = self.get(key).await? {
                return Ok(if is_own(&found) { Created::Own } else { Created::Other(found) });
            }
            if tries + 1 >= TRIES_MAX {
                return Err(answer.err().unwrap_or_else(|| ColdError::Unknown {
                    store: self.name().to_owned(),
                    key: key.to_owned(),
                    reason: "it is said to be there, and is not".to_owned(),
                }));
            }
            self.wait(&mut tries).await;
        }
    }
}

/// How to go on where an object is damaged.
pub(super) fn mend(key: &str) -> &'static str {
    if key.starts_with(JOURNAL_PREFIX) {
        "; remove it: the next run goes by the manifests"
    } else if key.starts_with(LEASE_PREFIX) {
        "; if no archiver is running, remove it"
    } else if key == GARBAGE_KEY {
        "; remove it: the next run looks for unnamed objects anew"
    } else if key == SCRUB_KEY {
        "; remove it, and run `stk archive verify`"
    } else if key.starts_with(DATA_PREFIX) || key.ends_with(".footer") {
        "; `stk audit --repair` rebuilds it if warm or the log has its rows, or bring a sound copy of it back"
    } else if key.starts_with(MANIFEST_PREFIX) {
        "; `stk audit --repair` rebuilds it from its objects, or bring a sound copy of it back"
    } else {
        "; bring a sound copy of it back"
    }
}

/// `value` as JSON that a person can read.
pub(super) fn json<T: Serialize>(value: &T) -> Bytes {
    let mut bytes = serde_json::to_vec_pretty(value).expect("what is stored has only string keys");
    bytes.push(b'\n');
    bytes.into()
}
