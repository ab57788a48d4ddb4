//! A cold store in memory, which can be made to misbehave.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::market::Timestamp;
use crate::tiering::cold::{
    Availability, Cold, ColdError, ObjectInfo, RestoreTier, StorageClass, Transition, Upload,
};

/// What a store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vice {
    None,
    /// Creates what is there already, and says so.
    Overwrites,
    /// Creates what is there already, and says that it did not.
    OverwritesInSecret,
}

#[derive(Clone)]
pub(super) struct MemoryCold {
    pub(super) objects: Arc<Mutex<BTreeMap<String, Bytes>>>,
    pub(super) vice: Vice,
    /// Who creates a manifest waits for a permit of the second, and adds one to the first.
    pub(super) gate: Option<Arc<(Semaphore, Semaphore)>>,
    /// The same for whoever puts an object of that key.
    pub(super) slow_put: Option<(&'static str, Arc<(Semaphore, Semaphore)>)>,
    /// What becomes of uploads whose key holds the text.
    pub(super) spoil: Arc<Mutex<Option<String>>>,
}

impl MemoryCold {
    pub(super) fn new() -> Self {
        Self::with(Vice::None)
    }

    pub(super) fn with(vice: Vice) -> Self {
        Self { objects: Arc::default(), vice, gate: None, slow_put: None, spoil: Arc::default() }
    }

    pub(super) fn keys(&self, prefix: &str) -> Vec<String> {
        self.objects
            .lock()
            .expect("not poisoned")
            .keys()
            .filter(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    }

    fn not_found(&self, key: &str) -> ColdError {
        ColdError::NotFound { store: self.name().to_owned(), key: key.to_owned() }
    }
}

struct MemoryUpload {
    cold: MemoryCold,
    key: String,
    bytes: Vec<u8>,
}

#[async_trait::async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ColdError> {
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ColdError> {
        let spoil = self.cold.spoil.lock().expect("not poisoned").clone();
        if spoil.is_some_and(|part| self.key.contains(&part)) {
            let middle = self.bytes.len() / 2;
            self.bytes[middle] ^= 1;
        }
        self.cold.objects.lock().expect("not poisoned").insert(self.key, self.bytes.into());
        Ok(())
    }

    async fn abort(self: Box<Self>) -> Result<(), ColdError> {
        Ok(())
    }
}

#[async_trait::async_trait]
impl Cold for MemoryCold {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<bool, ColdError> {
        if let Some(gate) = self.gate.as_ref().filter(|_| key.starts_with("manifest/")) {
            gate.0.add_permits(1);
            gate.1.acquire().await.expect("never closed").forget();
        }
        let mut objects = self.objects.lock().expect("not poisoned");
        let is_there = objects.contains_key(key);
        if !is_there || self.vice != Vice::None {
            objects.insert(key.to_owned(), bytes);
        }
        Ok(!is_there || self.vice == Vice::Overwrites)
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ColdError> {
        if let Some((_, gate)) = self.slow_put.as_ref().filter(|(slow, _)| *slow == key) {
            gate.0.add_permits(1);
            gate.1.acquire().await.expect("never closed").forget();
        }
        self.objects.lock().expect("not poisoned").insert(key.to_owned(), bytes);
        Ok(())
    }

    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>, ColdError> {
        Ok(Box::new(MemoryUpload { cold: self.clone(), key: key.to_owned(), bytes: Vec::new() }))
    }

    async fn get(&self, key: &str) -> Result<Bytes, ColdError> {
        self.objects.lock().expect("not poisoned").get(key).cloned().ok_or_else(|| self.not_found(key))
    }

    async fn get_ranges(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ColdError> {
        let bytes = self.get(key).await?;
        let part = |range: &Range<u64>| {
            let range = range.start as usize..range.end as usize;
            let short = ColdError::Short { store: self.name().to_owned(), key: key.to_owned() };
            bytes.get(range.clone()).map(|_| bytes.slice(range)).ok_or(short)
        };
        ranges.iter().map(part).collect()
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>, ColdError> {
        let objects = self.objects.lock().expect("not poisoned");
        let found = objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        let info = |(key, bytes): (&String, &Bytes)| ObjectInfo {
            key: key.clone(),
            bytes: bytes.len() as u64,
            modified: Timestamp::from_nanos(0),
        };
        Ok(found.map(info).collect())
    }

    async fn delete(&self, key: &str) -> Result<(), ColdError> {
        self.objects.lock().expect("not poisoned").remove(key);
        Ok(())
    }

    async fn state(&self, key: &str) -> Result<(StorageClass, Availability), ColdError> {
        self.get(key).await.map(|_| (StorageClass::Standard, Availability::Ready))
    }

    async fn restore(&self, _: &str, _: u32, _: RestoreTier) -> Result<(), ColdError> {
        Err(ColdError::Unsupported { store: self.name().to_owned(), what: "frozen objects" })
    }

    async fn lifecycle(&self, _: &str) -> Result<Vec<Transition>, ColdError> {
        Err(ColdError::Unsupported { store: self.name().to_owned(), what: "classes" })
    }

    async fn set_lifecycle(&self, _: &str, _: &[Transition]) -> Result<(), ColdError> {
        Err(ColdError::Unsupported { store: self.name().to_owned(), what: "classes" })
    }
}
