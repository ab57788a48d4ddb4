//! What is read again and again and never changes, in bounded memory.

use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashMap;

/// Values by key; the least recently used go first.
pub(super) struct Cache<V> {
    bytes_max: usize,
    entries: Mutex<Entries<V>>,
}

struct Entries<V> {
    by_key: HashMap<String, Entry<V>>,
    bytes: usize,
    uses: u64,
}

struct Entry<V> {
    value: Arc<V>,
    bytes: usize,
    last_use: u64,
}

impl<V> Cache<V> {
    pub(super) fn new(bytes_max: usize) -> Self {
        let entries = Entries { by_key: HashMap::default(), bytes: 0, uses: 0 };
        Self { bytes_max, entries: Mutex::new(entries) }
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<V>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.uses += 1;
        let use_now = entries.uses;
        let entry = entries.by_key.get_mut(key)?;
        entry.last_use = use_now;
        Some(entry.value.clone())
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.by_key.clear();
        entries.bytes = 0;
    }

    /// Keeps a value of `bytes` bytes; the last one is kept whatever its size.
    pub(super) fn insert(&self, key: &str, value: Arc<V>, bytes: usize) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.uses += 1;
        let entry = Entry { value, bytes, last_use: entries.uses };
        entries.bytes += bytes;
        if let Some(before) = entries.by_key.insert(key.to_owned(), entry) {
            entries.bytes -= before.bytes;
        }
        while entries.bytes > self.bytes_max && entries.by_key.len() > 1 {
            let oldest = entries.by_key.iter().min_by_key(|(_, entry)| entry.last_use);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { break };
            if let Some(entry) = entries.by_key.remove(&oldest) {
                entries.bytes -= entry.bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes_first() {
        let cache = Cache::new(100);
        for (key, bytes) in [("a", 40), ("b", 40)] {
            cache.insert(key, Arc::new(bytes), bytes);
        }
        assert_eq!(cache.get("a").as_deref(), Some(&40));
        cache.insert("c", Arc::new(40), 40);
        assert!(cache.get("b").is_none() && cache.get("a").is_some() && cache.get("c").is_some());
        cache.insert("c", Arc::new(60), 60);
        assert_eq!(cache.get("c").as_deref(), Some(&60));
        cache.insert("huge", Arc::new(1000), 1000);
        assert!(cache.get("huge").is_some() && cache.get("a").is_none());
    }
}
