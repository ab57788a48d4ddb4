//! A question to the person at the terminal before something large or costly begins.

use std::io::{IsTerminal, Write};

use super::CliError;

/// Asks a person. Without a terminal, the command needs --yes.
pub(super) fn confirmed(question: &str) -> Result<bool, CliError> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(CliError::usage("nothing was done: there is nobody to confirm it").hint("add `--yes`"));
    }
    let mut stderr = std::io::stderr().lock();
    let asked = write!(stderr, "{question} [y/N] ").and_then(|()| stderr.flush());
    asked.map_err(|error| CliError::failed(format!("stderr: {error}")))?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|error| CliError::failed(format!("stdin: {error}")))?;
    Ok(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"))
}
