//! Drives the real binary: exit code, stdout and stderr in one text, in a directory of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A directory of its own, and `stk` run in it without the user's environment.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `stk` with `args`, ready to run.
    pub(crate) fn stk(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stk"));
        command.args(args).current_dir(self.dir.path()).env_clear();
        command.env("HOME", self.dir.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::null());
        command
    }

    /// Runs `stk` to its end: exit code, stdout and stderr in one text, with what varies filtered.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        self.shown(&mut self.stk(args))
    }

    pub(crate) fn shown(&self, command: &mut Command) -> String {
        let output = command.output().expect("the binary runs");
        let text = format!(
            "exit: {}\n--- stdout\n{}--- stderr\n{}",
            output.status.code().map_or("signal".to_owned(), |code| code.to_string()),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        self.filtered(&text)
    }

    fn filtered(&self, text: &str) -> String {
        let here = self.dir.path().display().to_string();
        text.replace(&here, "[HOME]").replace(env!("CARGO_PKG_VERSION"), "[VERSION]")
    }
}
