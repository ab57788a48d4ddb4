//! `stk config`: what is set, and by what.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{CliError, Global};

#[derive(Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Print every setting, its value, and where that came from
    Show {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Check the file and the environment; print nothing when they are good
    Check,
    /// Write a file with every setting at its default
    Init {
        /// The file to write
        #[arg(value_name = "FILE", default_value = "stk.toml")]
        path: PathBuf,
    },
}

pub(super) fn run(args: ConfigArgs, global: &Global) -> Result<(), CliError> {
    match args.action {
        Action::Check => super::check_access(&global.resolve(&[])?),
        Action::Show { json } => {
            let resolved = global.resolve(&[])?;
            // Secrets are shown to nobody: only that there are some.
            let shown = |key: &str, value: &str| match key {
                _ if value.is_empty() => String::new(),
                "server.keys" => format!("{} keys", value.lines().count()),
                "warm.clickhouse_password" => "set".to_owned(),
                "log.kafka_properties" => format!("{} properties", value.lines().count()),
                // What stands before the host.
                "hot.redis_url" => match value.split_once("://").zip(value.rsplit_once('@')) {
                    Some(((scheme, _), (_, place))) => format!("{scheme}://…@{place}"),
                    None => value.to_owned(),
                },
                _ => value.replace('\n', " "),
            };
            let mut out = String::new();
            if json {
                let rows: serde_json::Map<_, _> = resolved
                    .iter()
                    .map(|(setting, value, origin)| {
                        let value = serde_json::json!({"value": shown(setting.key, value), "from": origin.to_string()});
                        (setting.key.to_owned(), value)
                    })
                    .collect();
                out = serde_json::Value::Object(rows).to_string() + "\n";
            } else {
                out.push_str(&format!("{:<28} {:<24} {}\n", "SETTING", "VALUE", "FROM"));
                for (setting, value, origin) in resolved.iter() {
                    let value = shown(setting.key, value);
                    let value = if value.is_empty() { "-" } else { &value };
                    out.push_str(&format!("{:<28} {value:<24} {origin}\n", setting.key));
                }
            }
            std::io::stdout().write_all(out.as_bytes()).map_err(|error| CliError::stdout(&error))
        }
        Action::Init { path } => {
            let mut file = std::fs::File::create_new(&path).map_err(|error| {
                let failed = CliError::usage(format!("{}: {error}", path.display()));
                if error.kind() == std::io::ErrorKind::AlreadyExists {
                    failed.hint("name another file, such as `stk config init other.toml`")
                } else {
                    failed
                }
            })?;
            file.write_all(crate::config::sample_file().as_bytes())
                .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))?;
            crate::telemetry::say(format_args!("wrote {}: every setting, at its default", path.display()));
            Ok(())
        }
    }
}
