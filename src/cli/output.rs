//! Where rows go: stdout, a file, or whatever else stands at a path.
//!
//! A regular file appears whole or not at all: its rows go into a temporary file beside it, which takes
//! its place at the end. Devices and FIFOs are written through and never replaced, and a symbolic link
//! stays a link.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use tempfile::NamedTempFile;

use super::CliError;
use crate::tiering::history::format::Format;

/// The path that stands for stdout.
const STDOUT: &str = "-";

/// The path of a file that is asked for; `None` for stdout.
pub(super) fn file(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| *path != Path::new(STDOUT))
}

/// The format that a file's name asks for by its ending.
pub(super) fn format_of(path: &Path) -> Option<Format> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    match ending.as_str() {
        "jsonl" => Some(Format::Ndjson),
        "txt" => Some(Format::Table),
        name => name.parse().ok(),
    }
}

/// An output that rows are being written to. Dropped, it leaves nothing behind.
pub(super) struct Output {
    sink: BufWriter<Sink>,
    /// As the person wrote it; `None` is stdout.
    path: Option<PathBuf>,
    progress: ProgressBar,
}

enum Sink {
    /// Escaped for a terminal.
    Stdout(Box<dyn Write + Send>),
    /// Something that can't be replaced, or is not to be.
    Through(File),
    /// What will be at `target`.
    Whole { file: NamedTempFile, target: PathBuf },
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::Through(file) => file.write(bytes),
            // By itself it would name the temporary file in its errors.
            Self::Whole { file, .. } => file.as_file_mut().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::Through(file) => file.flush(),
            Self::Whole { file, .. } => file.as_file_mut().flush(),
        }
    }
}

impl Output {
    /// Opens `path`, or stdout where there is none. Waits for a reader where it is a FIFO.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = file(path) else {
            let sink = BufWriter::with_capacity(1 << 16, Sink::Stdout(super::stdout()));
            return Ok(Self { sink, path: None, progress: ProgressBar::hidden() });
        };
        let sink = sink_at(path).map_err(|error| CliError::usage(format!("{}: {error}", path.display())))?;
        // Drawn on a terminal alone.
        let progress = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes} written, {bytes_per_sec}") {
            progress.set_style(style);
        }
        Ok(Self { sink: BufWriter::with_capacity(1 << 18, sink), path: Some(path.to_owned()), progress })
    }

    fn error(&self, error: &io::Error) -> CliError {
        match &self.path {
            None => CliError::stdout(error),
            Some(path) => CliError::failed(format!("{}: {error}", path.display())),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.progress.inc(bytes.len() as u64);
        self.sink.write_all(bytes).map_err(|error| self.error(&error))
    }

    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        self.sink.flush().map_err(|error| self.error(&error))
    }

    /// Ends the output: a file is there from now on.
    pub(super) fn keep(mut self) -> Result<(), CliError> {
        self.flush()?;
        self.progress.finish_and_clear();
        let Self { sink, path, .. } = self;
        let (sink, _) = sink.into_parts();
        let Sink::Whole { file, target } = sink else { return Ok(()) };
        let kept = file.as_file().sync_all().and_then(|()| Ok(file.persist(target)?));
        let shown = path.unwrap_or_default();
        kept.map(drop).map_err(|error| CliError::failed(format!("{}: {error}", shown.display())))
    }
}

/// Looks at what is at `path`, and opens it accordingly.
fn sink_at(path: &Path) -> io::Result<Sink> {
    let refused = |what: &str| Err(io::Error::other(what.to_owned()));
    let there = match path.metadata() {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return whole(target_of(path)?, None),
        Err(error) => return Err(error),
    };
    let file_type = there.file_type();
    if file_type.is_char_device() || file_type.is_fifo() {
        return OpenOptions::new().write(true).open(path).map(Sink::Through);
    }
    if file_type.is_dir() {
        return refused("is a directory; name a file in it");
    }
    if !file_type.is_file() {
        return refused("is neither a file, a FIFO nor a character device; name another path");
    }
    // Such as /dev/stdout: the file is open already, and whoever opened it has placed it.
    if is_descriptor(path) {
        return OpenOptions::new().append(true).open(path).map(Sink::Through);
    }
    // What can't be written can't be replaced either, whatever its directory allows.
    OpenOptions::new().write(true).open(path)?;
    whole(path.canonicalize()?, Some(&there))
}

/// Whether `path` names an open file of this process.
fn is_descriptor(path: &Path) -> bool {
    let proc = |path: io::Result<PathBuf>| path.is_ok_and(|path| path.starts_with("/proc"));
    proc(path.read_link()) || proc(path.parent().unwrap_or(path).canonicalize())
}

/// The file that is to be made for `path`, which does not lead to one yet.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    const LINKS_MAX: usize = 16;
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        match target.read_link() {
            Ok(to) => target = target.parent().map_or(to.clone(), |parent| parent.join(to)),
            Err(_) => return Ok(target),
        }
    }
    Err(io::Error::other("is a chain of too many symbolic links"))
}

/// A file that takes the place of `target` once it is whole, with the rights of what is `there` now.
fn whole(target: PathBuf, there: Option<&Metadata>) -> io::Result<Sink> {
    let name = target.file_name().ok_or(io::ErrorKind::NotFound)?.to_owned();
    let dir = match target.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");
    // Opened here, since errors and rights are to be those of any other file.
    let open = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
    let file = tempfile::Builder::new().prefix(&prefix).suffix(".partial").make_in(dir, open)?;
    if let Some(there) = there {
        let own = file.as_file().metadata()?;
        if (own.uid(), own.gid()) != (there.uid(), there.gid()) {
            let (uid, gid) = (rustix::fs::Uid::from_raw(there.uid()), rustix::fs::Gid::from_raw(there.gid()));
            rustix::fs::fchown(file.as_file(), Some(uid), Some(gid)).map_err(|_| {
                io::Error::other("is another user's; write to stdout instead, and from there into it")
            })?;
        }
        file.as_file().set_permissions(there.permissions())?;
    }
    Ok(Sink::Whole { file, target })
}
