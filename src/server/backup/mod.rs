//! Backups of a data directory, made beside a running server as well as without one.
//!
//! ```text
//! BACKUP/data/log/…    the log, as a power cut at one moment would have left it
//! BACKUP/data/warm/…   what the manifest of warm named at an earlier moment
//! BACKUP/data/hot/…    checkpoints of hot, from before that
//! BACKUP/backup.json   every file with its size and checksum, and where the log and warm end; written last
//! ```
//!
//! The order makes the copy consistent: the log is copied after warm, so that it ends at or after the
//! offsets that warm has taken in. A server whose log drops old records meanwhile may make it begin after
//! them; then warm is copied again, of which only what is new takes time. Nothing in the data directory
//! is changed or locked.

mod files;
mod restore;
mod verify;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::files::Copies;
pub use self::restore::restore;
pub use self::verify::{Verified, verify};
use super::node::NodeError;
use super::stores::{self, Stores};
use crate::bus::BusError;
use crate::bus::local::LocalBus;
use crate::bus::local::backup::{LogFiles, files as log_files};
use crate::config::Config;
use crate::disk::create_dir;
use crate::fail;
use crate::market::Timestamp;
use crate::secret::Secret;
use crate::tiering::archive::origin;
use crate::tiering::archive::sealed;
use crate::tiering::cold::ColdMetrics;
use crate::tiering::warm::WarmError;
use crate::tiering::warm::local::backup::{WarmFiles, files as warm_files};

/// The name of the file that makes a directory a backup.
pub const BACKUP_FILE: &str = "backup.json";
/// The directory in a backup that holds the copy of the data directory.
const DATA_DIR: &str = "data";
/// The version that is written.
const VERSION: u32 = 1;
/// How often a store is copied again because it changed meanwhile.
const TRIES_MAX: u32 = 50;
/// The wait between two of those.
const WAIT: Duration = Duration::from_millis(100);
/// How often everything is copied again because the log has dropped what warm had not taken in.
const ROUNDS_MAX: u32 = 5;
/// How long the archive may take to say which log it belongs to.
const ARCHIVE_WAIT_MAX: Duration = Duration::from_secs(10);

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// 1.
    pub version: u32,
    /// When it was finished, RFC 3339.
    pub created_at: String,
    /// The program that made it.
    pub writer: String,
    /// The id of the log, 16 hexadecimal digits.
    pub log: String,
    /// The log's generation, in decimal.
    pub generation: String,
    /// The partitions of the log.
    pub partitions: Vec<Partition>,
    /// The archive that the configuration named.
    pub archive: Archive,
    /// Every file, by its path.
    pub files: Vec<BackupFile>,
}

/// The offsets of one partition in a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// The offset of the first record of the log.
    pub first: u64,
    /// The offset below which warm has taken records in. From `first` to `next`.
    pub mark: u64,
    /// The offset after the last record of the log.
    pub next: u64,
}

/// The archive beside which a backup was made. It is not part of the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// Where it is, without secrets.
    pub url: String,
    /// Whether it lies in the data directory.
    pub is_in_data: bool,
    /// The id of the log that it names; none where it named none or could not be asked.
    pub log: Option<String>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFile {
    /// Its path below `data`.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// XXH3-64 of its bytes, 16 hexadecimal digits.
    pub checksum: String,
}

/// Why a backup could not be made, read or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or directory can't be read or written.
    #[error("{}: {reason}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        reason: String,
        /// Whether the disk is full.
        is_full: bool,
    },
    /// A store can't be read.
    #[error(transparent)]
    Store(#[from] NodeError),
    /// The log or warm are on servers of their own.
    #[error("the log and the days are not both in {}: their own servers' backups hold them", data.display())]
    Elsewhere {
        /// The data directory.
        data: PathBuf,
    },
    /// The directory holds something.
    #[error("{} is not empty: it has {entry}", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of its entries.
        entry: String,
    },
    /// The directory holds a backup that was interrupted.
    #[error("{} is an unfinished backup: it has no {BACKUP_FILE}", path.display())]
    Unfinished {
        /// The directory.
        path: PathBuf,
    },
    /// The directory is not a backup.
    #[error("{} is not a backup: it has no {BACKUP_FILE}", path.display())]
    NotABackup {
        /// The directory.
        path: PathBuf,
    },
    /// `backup.json` is not what was written.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The stores changed each time they were copied.
    #[error("{}: it changed {tries} times while it was copied", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
        /// How often it was tried.
        tries: u32,
    },
    /// Another process restores a backup to the same place.
    #[error("another `stk backup restore` is writing {}", data.display())]
    Restoring {
        /// The data directory.
        data: PathBuf,
    },
    /// Something in the backup is not what was written.
    #[error("{} is damaged or not complete", path.display())]
    Faulty {
        /// The backup.
        path: PathBuf,
        /// Every fault that was found.
        what: Vec<String>,
    },
}

impl BackupError {
    fn io(path: &Path, error: &std::io::Error) -> Self {
        let is_full =
            matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        Self::Io { path: path.to_owned(), reason: error.to_string(), is_full }
    }
}

impl From<BusError> for BackupError {
    fn from(error: BusError) -> Self {
        Self::Store(error.into())
    }
}

impl From<WarmError> for BackupError {
    fn from(error: WarmError) -> Self {
        Self::Store(error.into())
    }
}

/// Makes a backup of the data directory of `config` in `to`, which must be empty or missing. `copied` hears
/// how many bytes were copied since the last time.
///
/// Errors: the data directory can't be read, `to` can't be written or is not empty, or the stores change
/// faster than they are copied.
pub async fn create(
    config: &Config,
    to: &Path,
    copied: impl Fn(u64) + Send + Sync + 'static,
) -> Result<Backup, BackupError> {
    let data = config.data_dir.clone();
    if config.kafka.is_some() || config.clickhouse.is_some() {
        return Err(BackupError::Elsewhere { data });
    }
    if !data.join(stores::LOG_DIR).is_dir() && !data.join(stores::WARM_DIR).is_dir() {
        return Err(NodeError::NoStore { path: data }.into());
    }
    check_empty(to)?;
    let mut copies = Copies::new(to.join(DATA_DIR), Box::new(copied));
    let root = copies.root().to_owned();
    for _ in 0..ROUNDS_MAX {
        let from = data.clone();
        copies = blocking(move || copy_stores(&from, &mut copies).map(|()| copies)).await?;
        let partitions = partitions(config, &root).await?;
        // Records that warm had not taken in when it was copied, and that were gone when the log was.
        if partitions.iter().any(|at| at.mark < at.first) {
            continue;
        }
        let identity = LocalBus::stored_identity(&root.join(stores::LOG_DIR))?;
        let log = identity.map(|epoch| epoch.log()).unwrap_or_default();
        let archive = archive(config).await;
        let (sealing, name) = (to.to_owned(), format!("{:016x}", log.id));
        return blocking(move || {
            let backup = Backup {
                version: VERSION,
                created_at: Timestamp::now().to_string(),
                writer: format!("stk {}", env!("CARGO_PKG_VERSION")),
                log: name,
                generation: log.generation.to_string(),
                partitions,
                archive,
                files: copies.finish()?,
            };
            fail::point("backup.copied");
            files::write_whole(&sealing.join(BACKUP_FILE), &sealed::seal(&backup))?;
            Ok(backup)
        })
        .await;
    }
    Err(BackupError::Busy { path: data, tries: ROUNDS_MAX })
}

/// Refuses a directory that holds anything. Creates it where it is missing.
fn check_empty(path: &Path) -> Result<(), BackupError> {
    create_dir(path).map_err(|error| BackupError::io(path, &error))?;
    let mut entries = fs::read_dir(path).map_err(|error| BackupError::io(path, &error))?;
    match entries.next() {
        None => Ok(()),
        Some(_) if path.join(DATA_DIR).is_dir() && !path.join(BACKUP_FILE).exists() => {
            Err(BackupError::Unfinished { path: path.to_owned() })
        }
        Some(entry) => {
            let entry = entry.map_err(|error| BackupError::io(path, &error))?;
            let entry = entry.file_name().to_string_lossy().into_owned();
            Err(BackupError::NotEmpty { path: path.to_owned(), entry })
        }
    }
}

/// Copies hot, warm and the log of `data`, in this order.
fn copy_stores(data: &Path, copies: &mut Copies) -> Result<(), BackupError> {
    copy_hot(data, copies)?;
    copy_warm(data, copies)?;
    copy_log(data, copies)
}

/// Copies the checkpoints of hot. A server replaces them; where none can be had, a start builds hot again.
fn copy_hot(data: &Path, copies: &mut Copies) -> Result<(), BackupError> {
    let hot = Path::new(stores::HOT_DIR);
    let mut kept = Vec::new();
    for path in files::entries(&data.join(hot))? {
        let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|end| end == "hot")) else {
            continue;
        };
        if copies.copy(&path, &hot.join(name), None)? {
            kept.push(hot.join(name));
        }
    }
    copies.keep(hot, &kept)
}

fn copy_warm(data: &Path, copies: &mut Copies) -> Result<(), BackupError> {
    let warm = Path::new(stores::WARM_DIR);
    let dir = data.join(warm);
    again(&dir, || {
        let Some(WarmFiles { manifest, bytes, files }) = warm_files(&dir)? else {
            return copies.keep(warm, &[]).map(Some);
        };
        for file in &files {
            if !copies.copy(&dir.join(file), &warm.join(file), None)? {
                return Ok(None);
            }
        }
        copies.write(&warm.join(&manifest), &bytes)?;
        let kept: Vec<PathBuf> = files.iter().chain([&manifest]).map(|file| warm.join(file)).collect();
        copies.keep(warm, &kept).map(Some)
    })
}

fn copy_log(data: &Path, copies: &mut Copies) -> Result<(), BackupError> {
    let log = Path::new(stores::LOG_DIR);
    let dir = data.join(log);
    again(&dir, || {
        let mut kept = Vec::new();
        let found = log_files::<BackupError>(&dir, &mut |journal, bytes| {
            let relative = log.join(journal.file_name().unwrap_or_default());
            copies.copy(journal, &relative, Some(bytes))?;
            kept.push(relative);
            Ok(())
        })?;
        let Some(LogFiles { small, tables }) = found else { return Ok(None) };
        for table in tables {
            if !copies.copy(&dir.join(&table), &log.join(&table), None)? {
                return Ok(None);
            }
            kept.push(log.join(table));
        }
        for (file, bytes) in small {
            copies.write(&log.join(&file), &bytes)?;
            kept.push(log.join(file));
        }
        copies.keep(log, &kept).map(Some)
    })
}

/// Has `copy` try again while it returns `None`, or fails because a store changes under it.
fn again(path: &Path, mut copy: impl FnMut() -> Result<Option<()>, BackupError>) -> Result<(), BackupError> {
    let mut last = None;
    for _ in 0..TRIES_MAX {
        match copy() {
            Ok(Some(())) => return Ok(()),
            Ok(None) => last = None,
            // A file that is read while it is written or replaced looks damaged.
            Err(error @ BackupError::Store(_)) => last = Some(error),
            Err(error) => return Err(error),
        }
        std::thread::sleep(WAIT);
    }
    Err(last.unwrap_or_else(|| BackupError::Busy { path: path.to_owned(), tries: TRIES_MAX }))
}

/// The configuration of the stores in `data`, without an archive.
fn config_of(config: &Config, data: &Path) -> Config {
    let mut of =
        Config { data_dir: data.to_owned(), kafka: None, clickhouse: None, redis: None, ..config.clone() };
    // A directory that is not there holds nothing.
    of.archive.url = Some(data.join("no-archive").display().to_string());
    of
}

/// Where each partition of the stores in `data` stands.
async fn partitions(config: &Config, data: &Path) -> Result<Vec<Partition>, BackupError> {
    let stores = Stores::open_existing(&config_of(config, data)).await?;
    let mut partitions = Vec::new();
    for partition in 0..stores.bus.partitions() {
        let bounds = stores.bus.bounds(partition).await?;
        let mark = stores.warm.mark(partition).await?.next_offset;
        partitions.push(Partition { first: bounds.first, mark, next: bounds.next });
    }
    stores.close().await;
    Ok(partitions)
}

async fn archive(config: &Config) -> Archive {
    let is_in_data = config.archive.url.is_none();
    let url = config.archive.url.clone();
    let url = url.unwrap_or_else(|| config.data_dir.join(stores::COLD_DIR).display().to_string());
    let absolute = std::path::absolute(&url).ok().filter(|_| !url.contains("://"));
    let url = absolute.map_or(url, |path| path.display().to_string());
    let asked = async {
        let cold = stores::open_cold(config, &ColdMetrics::default()).ok()?;
        origin::held(&*cold).await.ok()??.log
    };
    let log = tokio::time::timeout(ARCHIVE_WAIT_MAX, asked).await.ok().flatten();
    let log = log.map(|log| format!("{log:016x}"));
    Archive { url: Secret::url(url).to_string(), is_in_data, log }
}

/// Runs `work`, which blocks, beside the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BackupError> + Send + 'static,
) -> Result<T, BackupError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
