//! `stk config`: what is set, and by what.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::archive::table;
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
            let out = if json {
                let rows: serde_json::Map<_, _> = resolved
                    .iter()
                    .map(|(setting, value, origin)| {
                        let value =
                            serde_json::json!({"value": setting.shown(value), "from": origin.to_string()});
                        (setting.key.to_owned(), value)
                    })
                    .collect();
                serde_json::Value::Object(rows).to_string() + "\n"
            } else {
                let rows = resolved.iter().map(|(setting, value, origin)| {
                    let value = setting.shown(value);
                    let value = if value.is_empty() { "-".to_owned() } else { value };
                    [setting.key.to_owned(), value, origin.to_string()]
                });
                table(["SETTING", "VALUE", "FROM"], rows, 3)
            };
            super::stdout().write_all(out.as_bytes()).map_err(|error| CliError::stdout(&error))
        }
        Action::Init { path } => {
            let mut file = std::fs::File::create_new(&path).map_err(|error| {
                if error.kind() == std::io::ErrorKind::AlreadyExists {
                    CliError::usage(format!("{} exists already", path.display()))
                        .hint("name another file, such as `stk config init other.toml`")
                } else {
                    CliError::usage(format!("{}: {error}", path.display()))
                }
            })?;
            file.write_all(crate::config::sample_file().as_bytes())
                .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))?;
            crate::telemetry::say(format_args!("wrote {}: every setting, at its default", path.display()));
            Ok(())
        }
    }
}
