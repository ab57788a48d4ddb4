//! `stk backup`: copies of the data directory of one machine, and how they are put back.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::json;

use super::archive::{counted, grouped, print};
use super::serve::node_error;
use super::{CliError, Global};
use crate::server::backup::{self, Backup, BackupError};
use crate::telemetry::say;

/// Faults that are named; more are counted.
const FAULTS_MAX: usize = 100;

#[derive(Args)]
pub(super) struct BackupArgs {
    #[command(subcommand)]
    command: BackupCommand,
    /// Data directory to back up, or to restore to
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum BackupCommand {
    /// Copy the data directory to an empty directory, while a server uses it or not
    ///
    /// The copy holds everything that was acknowledged before the command was started. The archive is not part of
    /// it: `stk archive copy` copies that. A backup that was interrupted is refused by the other commands.
    Create {
        /// Where to put the backup: an empty directory, or one that is not there yet
        #[arg(value_name = "BACKUP")]
        to: PathBuf,
    },
    /// Read a backup whole: checksums of all files, then every record and row
    ///
    /// Exits with 1 if anything in it is damaged or missing.
    Verify {
        /// The backup
        #[arg(value_name = "BACKUP")]
        backup: PathBuf,
    },
    /// Verify a backup and put it back to an empty data directory (--data)
    ///
    /// Ticks that were acknowledged after the backup are not in it. Days that were archived since are still
    /// answered from the archive. Clients that resume are told what they may have missed.
    Restore {
        /// The backup
        #[arg(value_name = "BACKUP")]
        backup: PathBuf,
    },
}

pub(super) fn run(args: &BackupArgs, global: &Global) -> Result<(), CliError> {
    crate::telemetry::init("warn", super::colour());
    let config = global.resolve_stores(args.data.as_deref(), None)?.config();
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes}, {bytes_per_sec}") {
        bar.set_style(style);
    }
    let shown = bar.clone();
    let passed = move |bytes| shown.inc(bytes);
    let runtime = super::runtime()?;
    let done = runtime.block_on(async {
        let work = async {
            match &args.command {
                BackupCommand::Create { to } => {
                    let done = backup::create(&config, to, passed).await;
                    done.map(|backup| (backup, None)).map_err(|error| (to, error))
                }
                BackupCommand::Verify { backup } => {
                    let done = backup::verify(&config, backup, passed).await;
                    done.map(|of| (of.backup, Some((of.records, of.rows)))).map_err(|error| (backup, error))
                }
                BackupCommand::Restore { backup } => {
                    let done = backup::restore(&config, backup, &config.data_dir, passed).await;
                    done.map(|of| (of.backup, Some((of.records, of.rows)))).map_err(|error| (backup, error))
                }
            }
        };
        tokio::select! {
            done = work => Ok(done),
            _ = super::stop_signal() => Err(CliError::interrupted()),
        }
    });
    bar.finish_and_clear();
    // What is still being copied is not waited for.
    runtime.shutdown_background();
    let (backup, read) = done?.map_err(|(path, error)| refused(args, path, error))?;
    if args.json {
        let (records, rows) = read.unzip();
        let text = json!({ "backup": summary(&backup), "records_read": records, "rows_read": rows });
        return print(&format!("{text}\n"));
    }
    match &args.command {
        BackupCommand::Create { to } => say_created(&backup, to, &config.data_dir),
        BackupCommand::Verify { backup: path } => {
            let (records, rows) = read.unwrap_or_default();
            say(format_args!(
                "{} is whole: {}, {} records of the log and {} rows of warm read",
                path.display(),
                size(&backup),
                grouped(records),
                grouped(rows)
            ));
        }
        BackupCommand::Restore { backup: path } => say_restored(&backup, path, &config.data_dir),
    }
    Ok(())
}

fn size(backup: &Backup) -> String {
    let bytes = backup.files.iter().map(|file| file.bytes).sum();
    format!("{} ({})", counted(backup.files.len() as u64, "file"), HumanBytes(bytes))
}

/// A backup without the list of its files.
fn summary(backup: &Backup) -> serde_json::Value {
    let mut value = json!(backup);
    value["bytes"] = backup.files.iter().map(|file| file.bytes).sum::<u64>().into();
    value["files"] = backup.files.len().into();
    value
}

fn say_created(backup: &Backup, to: &Path, data: &Path) {
    say(format_args!(
        "{} of {} copied to {}. The log goes to {}",
        size(backup),
        data.display(),
        to.display(),
        offsets(backup)
    ));
    let url = &backup.archive.url;
    if !backup.archive.is_in_data {
        say(format_args!("the archive in {url} is not part of it"));
    } else if Path::new(url).is_dir() {
        say(format_args!(
            "warning: the archive in {url} is not part of it: `stk archive copy {url} TO` copies it to a place of its own"
        ));
    }
    say(format_args!("`stk backup verify {}` reads it again", to.display()));
}

fn say_restored(backup: &Backup, path: &Path, data: &Path) {
    say(format_args!(
        "{} restored from {}, which was made at {}. The log goes to {}",
        data.display(),
        path.display(),
        backup.created_at,
        offsets(backup)
    ));
    if backup.archive.is_in_data {
        say(format_args!(
            "the archive was in {}: move it to {}, or set archive.url",
            backup.archive.url,
            data.join("cold").display()
        ));
    } else {
        say(format_args!("the archive was in {}: archive.url must name it", backup.archive.url));
    }
    say(
        "days that were archived after the backup are answered from the archive; then `stk archive run` asks for \
         `stk archive adopt`",
    );
}

fn offsets(backup: &Backup) -> String {
    let nexts: Vec<String> = backup.partitions.iter().map(|at| at.next.to_string()).collect();
    format!("offset {}", nexts.join(", "))
}

fn refused(args: &BackupArgs, path: &Path, error: BackupError) -> CliError {
    let is_create = matches!(args.command, BackupCommand::Create { .. });
    if let BackupError::Faulty { what, .. } = &error {
        for fault in what.iter().take(FAULTS_MAX) {
            say(fault);
        }
        if what.len() > FAULTS_MAX {
            say(format_args!("and {} more", what.len() - FAULTS_MAX));
        }
    }
    match error {
        BackupError::Store(error) if is_create => node_error(error),
        BackupError::Store(error) => {
            CliError::failed(format!("{}: {error}", path.display())).hint("use another backup")
        }
        BackupError::Io { is_full: true, .. } => CliError::failed(&error)
            .hint("free some space or choose another disk; remove what was begun, and run the command again"),
        BackupError::Io { .. } => CliError::failed(&error),
        BackupError::Elsewhere { .. } => CliError::usage(&error)
            .hint("docs/backup.md says what to back up where Kafka or ClickHouse is used"),
        BackupError::NotEmpty { .. } if is_create => {
            CliError::usage(&error).hint("choose a directory that is empty or not there yet")
        }
        BackupError::NotEmpty { .. } => {
            CliError::usage(&error).hint("move it away, or choose another directory with `--data`")
        }
        BackupError::Unfinished { .. } if is_create => {
            CliError::usage(&error).hint("it was interrupted: remove it, or choose another directory")
        }
        BackupError::Unfinished { .. } => CliError::failed(&error)
            .hint("it was interrupted: remove it, and make another with `stk backup create`"),
        BackupError::NotABackup { .. } => {
            CliError::usage(&error).hint("name the directory that `stk backup create` wrote")
        }
        BackupError::Restoring { .. } => {
            CliError::in_use(&error).hint("wait for it, or choose another directory with `--data`")
        }
        BackupError::Busy { .. } => CliError::failed(&error)
            .hint("remove what was begun, and run it again at a quieter time or to a faster disk"),
        BackupError::Damaged { .. } | BackupError::Faulty { .. } => {
            CliError::failed(&error).hint("use another backup; nothing was restored")
        }
    }
}
