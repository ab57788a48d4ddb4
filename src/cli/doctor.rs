//! `stk doctor`: gathers what could be wrong into one struct, checks it, and says what to do.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::bench::machine;
use super::server_args::{KEY_HINT, ServerArgs};
use super::{CliError, Global};
use crate::client::rest::RestError;
use crate::config::KafkaConfig;

#[derive(Args)]
pub(super) struct DoctorArgs {
    /// Print everything gathered as JSON, for a bug report
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// What the doctor looked at.
#[derive(Serialize)]
struct Gathered {
    version: &'static str,
    machine: serde_json::Value,
    config_error: Option<String>,
    data: Option<Data>,
    open_files_max: Option<u64>,
    /// What this build can do towards Kafka.
    kafka_features: Vec<String>,
    /// Where the log is in Kafka.
    kafka: Option<Kafka>,
    server: String,
    server_status: Option<serde_json::Value>,
    server_error: Option<String>,
    /// Whether a server answers, and refuses.
    server_refuses: bool,
    findings: Vec<Finding>,
}

/// The brokers of the log.
#[derive(Serialize)]
struct Kafka {
    brokers: String,
    /// Why they serve nobody with these settings.
    error: Option<String>,
}

/// The data directory.
#[derive(Serialize)]
struct Data {
    path: PathBuf,
    exists: bool,
    writable: bool,
    in_use: bool,
    bytes: u64,
    free_bytes: Option<u64>,
    free_bytes_min: u64,
}

/// Something looked at, and whether it is well.
#[derive(Serialize)]
struct Finding {
    severity: Severity,
    what: String,
    /// What to do about it.
    next: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Good,
    Note,
    Bad,
}

impl Finding {
    fn good(what: impl Into<String>) -> Self {
        Self { severity: Severity::Good, what: what.into(), next: None }
    }

    fn note(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { severity: Severity::Note, what: what.into(), next: Some(next.into()) }
    }

    fn bad(what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { severity: Severity::Bad, what: what.into(), next: Some(next.into()) }
    }
}

/// How long the log's brokers may be silent.
const KAFKA_WAIT_MAX: Duration = Duration::from_secs(5);

/// Connections and segments both take open files; below this many a busy server runs out.
const OPEN_FILES_WANTED: u64 = 4_096;

pub(super) fn run(args: DoctorArgs, global: &Global) -> Result<(), CliError> {
    let mut gathered = gather(&args, global)?;
    gathered.findings = check(&gathered);
    let bad = gathered.findings.iter().filter(|finding| finding.severity == Severity::Bad).count();
    let mut out = String::new();
    if args.json {
        out = serde_json::to_string_pretty(&gathered).map_err(CliError::failed)? + "\n";
    } else {
        for finding in &gathered.findings {
            let mark = match finding.severity {
                Severity::Good => "ok  ",
                Severity::Note => "note",
                Severity::Bad => "BAD ",
            };
            out.push_str(&format!("{mark}  {}\n", finding.what));
            if let Some(next) = &finding.next {
                out.push_str(&format!("      {next}\n"));
            }
        }
    }
    super::stdout().write_all(out.as_bytes()).map_err(|error| CliError::stdout(&error))?;
    match bad {
        0 => Ok(()),
        1 => Err(CliError::failed("1 thing is wrong")),
        _ => Err(CliError::failed(format!("{bad} things are wrong"))),
    }
}

fn gather(args: &DoctorArgs, global: &Global) -> Result<Gathered, CliError> {
    let (config_error, data, kafka) = match global.resolve(&[]) {
        Ok(resolved) => {
            let config = resolved.config();
            let error = super::check_access(&resolved).err().map(|error| error.message().to_owned());
            (error, Some(look_at(&config.data_dir, config.free_bytes_min)), config.kafka)
        }
        Err(error) => (Some(error.message().to_owned()), None, None),
    };
    let (status, kafka) = super::runtime()?.block_on(async {
        let client = args.server.rest()?;
        let kafka = match kafka {
            Some(kafka) => Some(meet(kafka).await),
            None => None,
        };
        Ok::<_, CliError>((client.status().await, kafka))
    })?;
    let server_refuses = matches!(&status, Err(RestError::Key(_) | RestError::Denied { .. }));
    let (server_status, server_error) = match status {
        Ok(status) => (Some(status), None),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(Gathered {
        version: env!("CARGO_PKG_VERSION"),
        machine: machine::describe(),
        config_error,
        data,
        open_files_max: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        kafka_features: crate::kafka::features(),
        kafka,
        server: args.server.server.to_string(),
        server_status,
        server_error,
        server_refuses,
        findings: Vec::new(),
    })
}

/// Whether the brokers serve a client with these settings.
async fn meet(kafka: KafkaConfig) -> Kafka {
    let error = match crate::kafka::client_config(&kafka.brokers, &kafka.exposed_properties()) {
        Ok(client) => {
            let met = crate::kafka::meet(&client, &kafka.topic, KAFKA_WAIT_MAX).await;
            met.err().map(|error| error.to_string())
        }
        Err(error) => Some(error.to_string()),
    };
    Kafka { brokers: kafka.brokers, error }
}

fn look_at(path: &Path, free_bytes_min: u64) -> Data {
    // The nearest directory that exists tells of the disk that the data will lie on.
    let existing = path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("."));
    let free_bytes =
        rustix::fs::statvfs(existing).ok().map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    let writable = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_ok();
    let lock = std::fs::File::options().write(true).open(path.join("lock"));
    let in_use = lock.is_ok_and(|file| matches!(file.try_lock(), Err(std::fs::TryLockError::WouldBlock)));
    Data {
        path: path.to_owned(),
        exists: path.is_dir(),
        writable,
        in_use,
        bytes: bytes_below(path),
        free_bytes,
        free_bytes_min,
    }
}

fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Judges what was gathered: pure, so that every finding can be tested.
fn check(gathered: &Gathered) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &gathered.config_error {
        None => findings.push(Finding::good("the configuration is good")),
        Some(error) => {
            findings.push(Finding::bad(error.clone(), "fix it, or see every setting with `stk config init`"));
        }
    }
    if let Some(data) = &gathered.data {
        let path = data.path.display();
        if !data.writable {
            findings.push(Finding::bad(
                format!("{path} can't be written"),
                "fix its permissions, or set data.dir to another directory",
            ));
        } else if !data.exists {
            findings.push(Finding::note(format!("{path} does not exist yet"), "`stk serve` makes it"));
        } else if data.in_use {
            findings
                .push(Finding::good(format!("{path} is open in a server: {} MB", data.bytes / 1_000_000)));
        } else {
            findings.push(Finding::good(format!("{path} can be opened: {} MB", data.bytes / 1_000_000)));
        }
        match data.free_bytes {
            Some(free) if free < data.free_bytes_min => findings.push(Finding::bad(
                format!("{} MB free on its disk, less than log.free_bytes_min", free / 1_000_000),
                "free some space: until then no tick is accepted",
            )),
            Some(free) if free / 4 < data.free_bytes_min => findings.push(Finding::note(
                format!("{} MB free on its disk", free / 1_000_000),
                "a busy day takes some GB: free some space, or lower log.retention_bytes",
            )),
            Some(free) => {
                findings.push(Finding::good(format!("{} GB free on its disk", free / 1_000_000_000)));
            }
            None => {}
        }
    }
    if let Some(open_files) = gathered.open_files_max.filter(|open_files| *open_files < OPEN_FILES_WANTED) {
        findings.push(Finding::note(
            format!("a process may open {open_files} files"),
            format!("for many connections raise it before `stk serve`: ulimit -n {OPEN_FILES_WANTED}"),
        ));
    }
    findings.push(kafka_finding(&gathered.kafka_features));
    match &gathered.kafka {
        Some(Kafka { brokers, error: None }) => {
            findings.push(Finding::good(format!("Kafka at {brokers} serves this client")));
        }
        Some(Kafka { brokers, error: Some(error) }) => findings.push(Finding::bad(
            format!("Kafka at {brokers} does not serve this client: {error}"),
            "docs/kafka.md has settings for TLS and SASL that are known to work",
        )),
        None => {}
    }
    match (&gathered.server_status, &gathered.server_error) {
        (Some(status), _) => {
            let version = status.get("version").and_then(serde_json::Value::as_str).unwrap_or("?");
            findings.push(Finding::good(format!("a server answers at {}: stk {version}", gathered.server)));
            if version != gathered.version {
                findings.push(Finding::note(
                    format!("this is stk {}, the server is {version}", gathered.version),
                    "use one version for both",
                ));
            }
            if let Some(reasons) = status.get("not_ready").and_then(serde_json::Value::as_array) {
                for reason in reasons {
                    let reason = reason.as_str().map_or_else(|| reason.to_string(), str::to_owned);
                    findings.push(Finding::bad(
                        format!("the server is not ready: {reason}"),
                        "its log says more",
                    ));
                }
            }
        }
        (None, Some(error)) if gathered.server_refuses => findings.push(Finding::bad(error, KEY_HINT)),
        (None, error) => findings.push(Finding::note(
            error.clone().unwrap_or_else(|| format!("no server at {}: no answer", gathered.server)),
            "start one with `stk serve --feed sim`, or name another with `--server`",
        )),
    }
    findings
}

/// Which ways of TLS and SASL this build has.
fn kafka_finding(features: &[String]) -> Finding {
    let secure = features.iter().filter(|feature| *feature == "ssl" || feature.starts_with("sasl_"));
    let has = secure.map(|feature| feature.replace('_', " ").to_uppercase()).collect::<Vec<_>>().join(", ");
    if features.iter().any(|feature| feature == "ssl") {
        return Finding::good(format!("Kafka: this binary has {has}"));
    }
    let has = if has.is_empty() { "neither SSL nor SASL".to_owned() } else { format!("{has}, no SSL") };
    Finding::note(
        format!("Kafka: this binary has {has}"),
        "brokers that ask for TLS, SCRAM or OAUTHBEARER need one built with `--features kafka-tls`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kafka_can_be_asked_for_is_told() {
        let told = |features: &[&str]| {
            let features: Vec<_> = features.iter().map(|feature| (*feature).to_owned()).collect();
            let finding = kafka_finding(&features);
            (finding.what, finding.next.is_some())
        };
        let plain = told(&["gzip", "sasl", "sasl_plain", "zstd"]);
        assert_eq!(plain, ("Kafka: this binary has SASL PLAIN, no SSL".to_owned(), true));
        let secure = told(&["ssl", "sasl_plain", "sasl_scram"]);
        assert_eq!(secure, ("Kafka: this binary has SSL, SASL PLAIN, SASL SCRAM".to_owned(), false));
        assert_eq!(told(&[]).0, "Kafka: this binary has neither SSL nor SASL");
    }
}
