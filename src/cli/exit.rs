//! How a command ends: every error is mapped to an exit code once, here.

use std::fmt::Display;
use std::process::ExitCode;

use crate::telemetry::say;

/// Exit code of success; also of a reader that went away (a broken pipe).
pub(super) const OK: u8 = 0;
/// Exit code of an operation that failed.
pub(super) const FAILED: u8 = 1;
/// Exit code of wrong arguments, a wrong configuration, or input that can't be read.
pub(super) const USAGE: u8 = 2;
/// Exit code of a server that can't be reached or refused the keys.
pub(super) const NO_SERVER: u8 = 3;
/// Exit code of something another process holds: a port, a data directory.
pub(super) const IN_USE: u8 = 4;
/// Exit code of an answer that was written and is known to lack rows.
pub(super) const INCOMPLETE: u8 = 5;
/// Exit code of an interrupted command.
pub(super) const INTERRUPTED: u8 = 130;

/// Every exit code with its meaning: what help, man page and README show.
pub const EXIT_CODES: &[(u8, &str)] = &[
    (OK, "success, also when the reader of a pipe went away"),
    (FAILED, "the operation failed: the message says at what"),
    (USAGE, "wrong arguments, configuration or input: nothing was done"),
    (NO_SERVER, "the server can't be reached, or refused the keys"),
    (IN_USE, "a port or a data directory is in use by another process"),
    (INCOMPLETE, "the answer was written, but is known to lack rows: the warnings name them"),
    (INTERRUPTED, "interrupted"),
];

/// The tail of the long help: exit codes and environment.
pub(super) fn help() -> String {
    let mut out = String::from("Exit codes:\n");
    for (code, meaning) in EXIT_CODES {
        out.push_str(&format!("  {code:<4} {meaning}\n"));
    }
    out.push_str("\nEnvironment:\n");
    for (name, meaning) in crate::config::RESERVED_ENV {
        out.push_str(&format!("  {name:<15} {meaning}\n"));
    }
    out.push_str("  STK_*           any setting: `stk config show` lists them\n");
    out.push_str("  NO_COLOR        when set, nothing is coloured");
    out
}

/// Why a command failed, as a person is told: what, and what to do next.
#[derive(Debug)]
pub struct CliError {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl CliError {
    /// An operation failed.
    pub fn failed(message: impl Display) -> Self {
        Self { code: FAILED, message: message.to_string(), hint: None }
    }

    /// Arguments, configuration or input are wrong.
    pub fn usage(message: impl Display) -> Self {
        Self { code: USAGE, ..Self::failed(message) }
    }

    /// The server can't be reached, or refused the keys.
    pub fn no_server(message: impl Display) -> Self {
        Self { code: NO_SERVER, ..Self::failed(message) }
    }

    /// Another process holds what is needed.
    pub fn in_use(message: impl Display) -> Self {
        Self { code: IN_USE, ..Self::failed(message) }
    }

    /// The answer was written, and rows are known to be missing from it.
    pub fn incomplete(message: impl Display) -> Self {
        Self { code: INCOMPLETE, ..Self::failed(message) }
    }

    /// The person interrupted.
    pub fn interrupted() -> Self {
        Self { code: INTERRUPTED, ..Self::failed("interrupted") }
    }

    /// Adds what to do next: a sentence without a period.
    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Adds to what is wrong what had been done before.
    pub fn after(mut self, done: impl Display) -> Self {
        self.message = format!("{}; {done}", self.message);
        self
    }

    /// An error of writing to stdout. A broken pipe is a reader that has seen enough: success.
    pub fn stdout(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self { code: OK, message: String::new(), hint: None };
        }
        Self::failed(format!("stdout: {error}"))
    }

    /// What is wrong, without the hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Prints the error to stderr and gives the exit code.
    pub(super) fn report(self) -> ExitCode {
        if self.code != OK {
            say(format_args!("error: {}", self.message));
            if let Some(hint) = self.hint {
                say(format_args!("\nhint: {hint}"));
            }
        }
        self.code.into()
    }
}
