//! The local log: the suite every log passes, from memory and from disk.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::bus::conformance::{self, PARTITIONS};

fn config(path: &Path) -> LocalBusConfig {
    LocalBusConfig {
        durability: Durability::Interval(Duration::from_millis(1)),
        free_bytes_min: 0,
        memory_bytes: 8 << 20,
        ..LocalBusConfig::new(path, PARTITIONS)
    }
}

fn open(config: LocalBusConfig) -> Arc<LocalBus> {
    LocalBus::open(config).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_interval() {
    let directory = tempfile::tempdir().unwrap();
    let count = AtomicU64::new(0);
    conformance::run(|| async {
        let path = directory.path().join(count.fetch_add(1, Ordering::Relaxed).to_string());
        open(config(&path)) as Arc<dyn Bus>
    })
    .await;
}

/// With hardly any memory, so that readers go to the disk.
#[tokio::test(flavor = "multi_thread")]
async fn conforms_with_always_and_from_disk() {
    let directory = tempfile::tempdir().unwrap();
    let count = AtomicU64::new(0);
    conformance::run(|| async {
        let path = directory.path().join(count.fetch_add(1, Ordering::Relaxed).to_string());
        open(LocalBusConfig { durability: Durability::Always, memory_bytes: 0, ..config(&path) })
            as Arc<dyn Bus>
    })
    .await;
}

#[tokio::test]
async fn a_log_keeps_the_partitions_it_was_made_with() {
    let directory = tempfile::tempdir().unwrap();
    let bus = open(LocalBusConfig { partitions: 3, ..config(directory.path()) });
    bus.append(vec![(2, Bytes::from_static(b"kept"))]).await.unwrap().await.unwrap();
    bus.close().await;
    let bus = open(LocalBusConfig { partitions: 5, ..config(directory.path()) });
    assert_eq!(bus.partitions(), 3);
    let mut reader = bus.reader(2, 0).await.unwrap();
    assert_eq!(reader.next(1).await.unwrap()[0].bytes, "kept");
    assert!(matches!(bus.bounds(3).await, Err(BusError::NoPartition { partition: 3, partitions: 3 })));
    bus.close().await;
}
