//! `stk archive copy`: moves an archive to another place.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::json;

use super::{counted, grouped, print};
use crate::cli::CliError;
use crate::cli::desk::{refusal, store_error};
use crate::config::Config;
use crate::server::stores;
use crate::telemetry::say;
use crate::tiering::archive::copy::{Copied, Copier, CopyError, Frozen, Plan};
use crate::tiering::archive::verify::Fault;
use crate::tiering::cold::{self, Cold, ColdMetrics};

/// Damaged or frozen objects that are named; more are counted.
const LINES_MAX: usize = 100;

#[derive(Args)]
pub(super) struct CopyArgs {
    /// Archive to copy: a directory or `s3://bucket/prefix`. It is not changed
    #[arg(value_name = "FROM")]
    from: String,
    /// Where to copy it: an empty place, or one with an earlier copy of the same archive
    #[arg(value_name = "TO")]
    to: String,
    /// Copy only what belongs to the timeline of this log (--data), from an archive of several timelines
    #[arg(long)]
    own: bool,
    /// Show what would be copied, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Bytes per second from and to each archive, at most: 20MB
    #[arg(long, value_name = "BYTES", value_parser = super::bytes)]
    limit_bandwidth: Option<u64>,
    /// Endpoint of the bucket that FROM names, if not `archive.s3_endpoint`
    #[arg(long, value_name = "URL")]
    from_endpoint: Option<String>,
    /// Endpoint of the bucket that TO names, if not `archive.s3_endpoint`
    #[arg(long, value_name = "URL")]
    to_endpoint: Option<String>,
    /// Region of the bucket that FROM names, if not `archive.s3_region`
    #[arg(long, value_name = "REGION")]
    from_region: Option<String>,
    /// Region of the bucket that TO names, if not `archive.s3_region`
    #[arg(long, value_name = "REGION")]
    to_region: Option<String>,
}

pub(super) async fn run(args: &CopyArgs, config: &Config, json: bool) -> Result<(), CliError> {
    check_places(&args.from, &args.to)?;
    let from = open(config, &args.from, args.from_endpoint.as_deref(), args.from_region.as_deref())?;
    let to = open(config, &args.to, args.to_endpoint.as_deref(), args.to_region.as_deref())?;
    let timeline = if args.own {
        let timeline = stores::timeline(config, &*from).await;
        Some(timeline.map_err(|error| store_error(error, "archive copy"))?)
    } else {
        None
    };
    let copier = Copier::new(from, to, timeline, args.limit_bandwidth);
    let plan = copier.plan().await.map_err(copy_error)?;
    if args.dry_run && json {
        return print(&format!("{}\n", json!(plan)));
    }
    say(plan_in_words(&plan, args));
    if args.dry_run {
        name_faults(&plan.faults);
        return Ok(());
    }
    if !args.yes && !crate::cli::confirm::confirmed(&format!("copy {} to {}?", args.from, args.to))? {
        return Err(CliError::interrupted());
    }
    // Every byte passes twice: when it is copied and when it is read back.
    let bar = ProgressBar::new(plan.bytes_missing + plan.bytes);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:30} {bytes} of {total_bytes} copied and verified, {eta} left")
    {
        bar.set_style(style);
    }
    let done = copier.run(&|bytes| bar.inc(bytes)).await;
    bar.finish_and_clear();
    let copied = done.map_err(copy_error)?;
    if json {
        print(&format!("{}\n", summary(args, &copied)))?;
    }
    report(args, &copied, json)
}

fn open(
    config: &Config,
    url: &str,
    endpoint: Option<&str>,
    region: Option<&str>,
) -> Result<Arc<dyn Cold>, CliError> {
    // A directory may have any name.
    for address in [Some(url).filter(|url| url.contains("://")), endpoint].into_iter().flatten() {
        if crate::secret::has_credentials(address) {
            return Err(CliError::usage("an archive's address takes no user, password or query")
                .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"));
        }
    }
    let endpoint = endpoint.or(config.archive.s3_endpoint.as_deref());
    let region = region.unwrap_or(&config.archive.s3_region);
    cold::open(url, endpoint, region, &ColdMetrics::default()).map_err(|error| refusal(error.into()))
}

/// Refuses places of which one lies in the other.
fn check_places(from: &str, to: &str) -> Result<(), CliError> {
    let place = |url: &str| -> std::path::PathBuf {
        if url.contains("://") {
            return Path::new(url.trim_end_matches('/')).to_owned();
        }
        let path = std::path::absolute(url).unwrap_or_else(|_| url.into());
        path.canonicalize().unwrap_or(path)
    };
    let (of_from, of_to) = (place(from), place(to));
    if of_from.starts_with(&of_to) || of_to.starts_with(&of_from) {
        return Err(CliError::usage(format!("{from} and {to} are not separate places"))
            .hint("copy to a directory or prefix of its own"));
    }
    Ok(())
}

fn copy_error(error: CopyError) -> CliError {
    match &error {
        CopyError::Archive(inner) => refusal(inner.clone().into()),
        CopyError::Nothing { .. } => {
            CliError::usage(&error).hint("name the directory or `s3://bucket/prefix` that archive.url had")
        }
        CopyError::Occupied { .. } => CliError::usage(&error)
            .hint("choose an empty place; nothing there was changed, and nothing was switched"),
        CopyError::Growing { .. } => CliError::failed(&error)
            .hint("let the archiver finish, or stop it, and run the command again: it continues"),
    }
}

fn plan_in_words(plan: &Plan, args: &CopyArgs) -> String {
    let there = plan.objects - plan.objects_missing;
    let mut text = format!(
        "{} with {} ({}) from {} to {}",
        counted(plan.manifests, "manifest"),
        counted(plan.objects, "object"),
        HumanBytes(plan.bytes),
        args.from,
        args.to
    );
    if there > 0 {
        text.push_str(&format!("; {} there already", counted(there, "object")));
    }
    if plan.manifests_left_out > 0 {
        let left_out = counted(plan.manifests_left_out, "manifest");
        text.push_str(&format!("; {left_out} of another timeline left out"));
    }
    text
}

fn name_faults(faults: &[Fault]) {
    for fault in faults.iter().take(LINES_MAX) {
        say(format_args!("{}: {}", fault.key, fault.reason));
    }
    if faults.len() > LINES_MAX {
        say(format_args!("and {} more", faults.len() - LINES_MAX));
    }
}

fn name_frozen(frozen: &[Frozen]) {
    for frozen in frozen.iter().take(LINES_MAX) {
        say(format_args!("{}: frozen", frozen.key));
    }
    if frozen.len() > LINES_MAX {
        say(format_args!("and {} more", frozen.len() - LINES_MAX));
    }
}

fn summary(args: &CopyArgs, copied: &Copied) -> serde_json::Value {
    json!({
        "from": args.from,
        "to": args.to,
        "is_whole": copied.is_whole(),
        "manifests": copied.manifests,
        "objects_copied": copied.objects_copied,
        "bytes_copied": copied.bytes_copied,
        "objects_verified": copied.objects_verified,
        "rows_verified": copied.rows_verified,
        "faults": copied.faults,
        "frozen": copied.frozen.iter().map(|frozen| &frozen.key).collect::<Vec<_>>(),
    })
}

/// Says what was done, and how to switch if everything is there.
fn report(args: &CopyArgs, copied: &Copied, json: bool) -> Result<(), CliError> {
    let (from, to) = (&args.from, &args.to);
    say(format_args!(
        "{} copied ({}); {} with {} rows read back from {to} and equal to their manifests",
        counted(copied.objects_copied, "object"),
        HumanBytes(copied.bytes_copied),
        counted(copied.objects_verified, "object"),
        grouped(copied.rows_verified),
    ));
    name_faults(&copied.faults);
    name_frozen(&copied.frozen);
    if !copied.faults.is_empty() {
        let count = counted(copied.faults.len() as u64, "object");
        return Err(CliError::failed(format!(
            "{count} in {from} damaged or missing: {to} is not a whole copy"
        ))
        .hint(
            "mend what is named above and run the command again: it continues. Keep archive.url as it is",
        ));
    }
    if let Some(last) = copied.frozen.iter().map(|frozen| frozen.unit.day).max() {
        let first = copied.frozen.iter().map(|frozen| frozen.unit.day).min().unwrap_or(last);
        let count = counted(copied.frozen.len() as u64, "object");
        return Err(CliError::failed(format!("{count} in {from} frozen: {to} is not a whole copy")).hint(format!(
            "`stk archive restore --from {first} --to {last} --url {from} --wait` brings them back; then run the \
             command again: it continues. Keep archive.url as it is"
        )));
    }
    if !json {
        say(format_args!(
            "{to} is a whole archive now. To switch, set archive.url to {to} and restart the processes that use \
             {from}.\nIf days were archived in {from} meanwhile, run the command again: it adds them. Keep {from} \
             until `stk archive run` has succeeded with {to}"
        ));
    }
    Ok(())
}
