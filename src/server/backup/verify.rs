//! Reading a backup again, whole.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{BACKUP_FILE, Backup, BackupError, DATA_DIR, VERSION, config_of, files};
use crate::config::Config;
use crate::server::stores::{self, Stores};
use crate::tiering::archive::sealed;
use crate::tiering::audit::{Auditor, Link, Selection, Severity};
use crate::tiering::hot::memory::MemoryHot;

/// A backup that is whole.
#[derive(Debug)]
pub struct Verified {
    /// What it holds.
    pub backup: Backup,
    /// Records of the log that were read.
    pub records: u64,
    /// Rows of warm that were read.
    pub rows: u64,
}

/// Reads the backup in `path`: first every file's size and checksum, then every record of the log and
/// every row of warm, which are compared with each other as `stk audit` does. Changes nothing. `read` hears
/// how many bytes of files were read since the last time.
///
/// Errors: it is not a backup, is unfinished or is damaged.
pub async fn verify(
    config: &Config,
    path: &Path,
    read: impl Fn(u64) + Send + Sync + 'static,
) -> Result<Verified, BackupError> {
    let own = path.to_owned();
    let backup = super::blocking(move || {
        let backup = open(&own)?;
        check_files(&own, &backup, &read)?;
        Ok(backup)
    })
    .await?;
    let (records, rows, what) = read_stores(config, &path.join(DATA_DIR), &backup).await?;
    faulty(path, what)?;
    Ok(Verified { backup, records, rows })
}

fn faulty(path: &Path, what: Vec<String>) -> Result<(), BackupError> {
    if what.is_empty() { Ok(()) } else { Err(BackupError::Faulty { path: path.to_owned(), what }) }
}

/// What the backup in `path` says of itself.
pub(super) fn open(path: &Path) -> Result<Backup, BackupError> {
    let file = path.join(BACKUP_FILE);
    let bytes = match fs::read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.join(DATA_DIR).is_dir() => {
            return Err(BackupError::Unfinished { path: path.to_owned() });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(BackupError::NotABackup { path: path.to_owned() });
        }
        bytes => bytes.map_err(|error| BackupError::io(&file, &error))?,
    };
    let damaged = |reason: String| BackupError::Damaged { path: file.clone(), reason };
    // Its first version has a checksum already.
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if value["checksum"].is_null() {
        return Err(damaged("it lacks its checksum".to_owned()));
    }
    if let Some(version) = value["version"].as_u64().filter(|version| *version > u64::from(VERSION)) {
        return Err(damaged(format!("it is of version {version}: use a newer stk")));
    }
    sealed::open(&bytes).map_err(damaged)
}

/// Compares every file with its size and checksum, and finds files that are not part of the backup.
fn check_files(path: &Path, backup: &Backup, read: &dyn Fn(u64)) -> Result<(), BackupError> {
    let data = path.join(DATA_DIR);
    let mut what = Vec::new();
    let mut unnamed = BTreeSet::new();
    walk(&data, &mut unnamed)?;
    for file in &backup.files {
        let of = data.join(&file.path);
        if !unnamed.remove(&of) {
            what.push(format!("{}: it is missing", of.display()));
            continue;
        }
        let found = files::measure(&of)?;
        if found.bytes != file.bytes {
            what.push(format!("{}: it has {} bytes, and had {}", of.display(), found.bytes, file.bytes));
        } else if found.checksum != file.checksum {
            let (found, was) = (found.checksum, &file.checksum);
            what.push(format!("{}: its checksum is {found}, and was {was}", of.display()));
        }
        read(file.bytes);
    }
    what.extend(unnamed.iter().map(|of| format!("{}: {BACKUP_FILE} does not name it", of.display())));
    faulty(path, what)
}

fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) -> Result<(), BackupError> {
    for path in files::entries(dir)? {
        if path.is_dir() {
            walk(&path, found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}

/// Reads every record and every row: how many of each, and what is wrong.
async fn read_stores(
    config: &Config,
    data: &Path,
    backup: &Backup,
) -> Result<(u64, u64, Vec<String>), BackupError> {
    let mut what = Vec::new();
    let stores = Stores::open_existing(&config_of(config, data)).await?;
    let auditor = Auditor::new(
        stores.bus.clone(),
        stores.warm.clone(),
        stores.cold(),
        Selection::default(),
        Arc::new(|_| {}),
    );
    let audited = auditor.run().await;
    let mut records = 0;
    match audited {
        Ok(report) => {
            records = report.partitions.iter().map(|of| of.records).sum();
            // What the feeds sent and what is archived are not the backup's concern.
            let own = report.findings.iter().filter(|finding| {
                let is_own = matches!(finding.link, Link::Log | Link::LogWarm | Link::Warm);
                is_own && finding.severity == Severity::Broken
            });
            what.extend(own.map(ToString::to_string));
        }
        Err(error) => what.push(error.to_string()),
    }
    let mut marks = Vec::new();
    for (partition, at) in (0_u16..).zip(&backup.partitions) {
        let bounds = stores.bus.bounds(partition).await?;
        let mark = stores.warm.mark(partition).await?.next_offset;
        if (bounds.first, mark, bounds.next) != (at.first, at.mark, at.next) {
            what.push(format!("partition {partition}: the log or warm do not reach where they did"));
        }
        marks.push(0..mark);
        let hot = MemoryHot::new(stores.bus.partitions());
        let dir = data.join(stores::HOT_DIR);
        let loaded = tokio::task::spawn_blocking(move || hot.load(&dir, partition, bounds.next).map(drop));
        if let Ok(Err(error)) = loaded.await {
            what.push(error.to_string());
        }
    }
    let mut rows = 0;
    for info in stores.warm.units().await? {
        match stores.warm.digest(info.unit, &marks).await {
            Ok(digest) => rows += digest.rows,
            Err(error) => what.push(error.to_string()),
        }
    }
    stores.close().await;
    Ok((records, rows, what))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const VERSION_1: &[u8] = include_bytes!("../../../tests/golden/backup/v1/backup.json");

    #[test]
    fn every_version_of_a_backup_is_read_and_a_newer_one_is_refused() {
        let dir = TempDir::new().unwrap();
        let write = |bytes: &[u8]| fs::write(dir.path().join(BACKUP_FILE), bytes).unwrap();
        write(VERSION_1);
        let backup = open(dir.path()).unwrap();
        assert_eq!((backup.version, backup.partitions.len(), backup.files.len()), (1, 4, 36));
        assert_eq!(backup.partitions[0].next, 1407);
        write(&sealed::seal(&Backup { version: VERSION + 1, ..backup.clone() }));
        let refused = open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("it is of version 2: use a newer stk"), "{refused}");
        for at in (0..VERSION_1.len()).step_by(7) {
            let mut flipped = VERSION_1.to_vec();
            flipped[at] ^= 1;
            write(&flipped);
            assert!(open(dir.path()).map_or(true, |read| read == backup), "byte {at}");
        }
    }
}
