//! Drives the real binary: exit code, stdout and stderr in one text, in a directory of its own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use stk::client::ingest::{IngestClient, IngestError};

/// A directory of its own, and `stk` run in it without the user's environment.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

/// How long anything may take before a test gives up: a bound, never a measure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The binary that is tested: another one than cargo has built where `STK_TEST_BIN` names it, such as a
/// release build for a long run.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("STK_TEST_BIN").map_or_else(|| env!("CARGO_BIN_EXE_stk").into(), PathBuf::from)
}

/// The number that the variable `name` gives.
pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// `command`, ended with exit code 124 when it takes longer than [`PATIENCE`].
pub(crate) fn bounded(command: &Command) -> Command {
    let mut bounded = Command::new("timeout");
    bounded.arg(PATIENCE.as_secs().to_string()).arg(command.get_program()).args(command.get_args());
    bounded.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(dir) = command.get_current_dir() {
        bounded.current_dir(dir);
    }
    bounded.stdin(Stdio::null());
    bounded
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
        let mut command = Command::new(binary());
        command.args(args).current_dir(self.dir.path()).env_clear();
        command.env("HOME", self.dir.path()).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        // Logs that are only read are opened there.
        command.envs(std::env::var_os("TMPDIR").map(|dir| ("TMPDIR", dir)));
        command.stdin(Stdio::null());
        command
    }

    /// The same, ended with exit code 124 when it takes longer than [`PATIENCE`].
    pub(crate) fn bounded(&self, args: &[&str]) -> Command {
        bounded(&self.stk(args))
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

/// A running `stk serve`, killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// What it said until it listened.
    pub(crate) began: Vec<String>,
    /// Lines of stderr as they come.
    lines: mpsc::Receiver<String>,
    /// Where clients connect.
    pub(crate) address: String,
    /// Where ticks are taken; empty where none are.
    pub(crate) ingest: String,
}

impl Server {
    /// Starts `stk serve --data DATA` with `more` arguments on free ports, and waits until it says
    /// where it listens.
    pub(crate) fn start(home: &Home, data: &Path, more: &[&str]) -> Self {
        Self::start_with(home, data, "127.0.0.1:0", more, &[])
    }

    /// The same with the address where ticks are taken, and variables of the environment.
    pub(crate) fn start_with(
        home: &Home,
        data: &Path,
        ingest: &str,
        more: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        Self::start_listening(home, data, Some("127.0.0.1:0"), ingest, more, env)
    }

    /// The same with the address for clients too; without one it is left to the environment.
    pub(crate) fn start_listening(
        home: &Home,
        data: &Path,
        listen: Option<&str>,
        ingest: &str,
        more: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        Self::run(serve(home, data, listen, ingest, more, env), true)
    }

    /// Starts `command`, which serves, and waits until it says where it listens and, if it `feeds`,
    /// where it takes ticks.
    pub(crate) fn run(command: Command, feeds: bool) -> Self {
        Self::started(command, feeds).unwrap_or_else(|seen| panic!("serve did not start: {seen:#?}"))
    }

    /// The same of one that may refuse to start, or end, or not come to an end of starting.
    pub(crate) fn try_run(command: Command) -> Option<Self> {
        Self::started(command, true).ok()
    }

    /// The same: what it said, where it did not start.
    pub(crate) fn started(mut command: Command, feeds: bool) -> Result<Self, Vec<String>> {
        let mut child =
            command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the binary runs");
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut seen = Vec::new();
        let (mut address, mut ingest) = (None, None);
        while address.is_none() || (feeds && ingest.is_none()) {
            let Ok(line) = lines.recv_timeout(PATIENCE) else {
                let _ = child.kill();
                let _ = child.wait();
                return Err(seen);
            };
            if let Some((_, rest)) = line.split_once("listening on http://") {
                address = rest.split_whitespace().next().map(|text| text.trim_end_matches('/').to_owned());
            }
            if let Some((_, rest)) = line.split_once("ws://").filter(|_| line.contains("/ingest")) {
                ingest = rest.split('/').next().map(str::to_owned);
            }
            seen.push(line);
        }
        let (address, ingest) = (address.expect("seen"), ingest.unwrap_or_default());
        Ok(Self { child, began: seen, lines, address, ingest })
    }

    /// Asks it to end, and ends it if it does not soon.
    pub(crate) fn end_soon(mut self) {
        self.ask_to_end();
        let until = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("the server is ours").is_none() && Instant::now() < until {
            let _ = self.lines.recv_timeout(Duration::from_millis(100));
        }
    }

    /// Ends it at once, as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the server runs");
        self.child.wait().expect("the server is ours");
    }

    /// Waits until it dies by a signal: which.
    pub(crate) fn killed(mut self) -> Option<i32> {
        // Its stderr ends with it.
        let silent = loop {
            if let Err(silent) = self.lines.recv_timeout(2 * PATIENCE) {
                break silent;
            }
        };
        assert_eq!(silent, mpsc::RecvTimeoutError::Disconnected, "the server lives on");
        let status = self.child.wait().expect("the server is ours");
        std::os::unix::process::ExitStatusExt::signal(&status)
    }

    /// Waits until it is ready, asks it to end and waits: the exit code, and what it said last.
    pub(crate) fn drained(self) -> (Option<i32>, Vec<String>) {
        self.await_ready();
        self.stop()
    }

    /// Waits until it is ready.
    pub(crate) fn await_ready(&self) {
        let url = format!("http://{}/readyz", self.address);
        let is_ready = || {
            let asked = Command::new("curl").args(["-sf", &url]).output().expect("curl is there");
            asked.status.success()
        };
        let since = std::time::Instant::now();
        while !is_ready() {
            assert!(since.elapsed() < 2 * PATIENCE, "the server did not become ready");
        }
    }

    /// Waits until it says a line that contains `text`.
    pub(crate) fn awaits(&self, text: &str) {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(2 * PATIENCE) {
                Ok(line) if line.contains(text) => return,
                Ok(line) => seen.push(line),
                Err(error) => panic!("it did not say {text:?}: {error}: {seen:#?}"),
            }
        }
    }

    /// Processor time that the server has taken so far (proc(5): fields 14 and 15 of `stat`).
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let ticks =
            fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().expect("a number"));
        ticks.sum::<f64>() / 100.0
    }

    /// Asks it to end.
    pub(crate) fn ask_to_end(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the server runs");
    }

    /// Waits until it ends: the exit code, and what it said last.
    pub(crate) fn ended(mut self) -> (Option<i32>, Vec<String>) {
        let said = self.lines.iter().collect();
        let status = self.child.wait().expect("the server is ours");
        (status.code(), said)
    }

    /// Asks it to end and waits: the exit code, and what it said last.
    pub(crate) fn stop(mut self) -> (Option<i32>, Vec<String>) {
        self.end()
    }

    /// As [`Server::stop`], of one that is to be replaced.
    pub(crate) fn end(&mut self) -> (Option<i32>, Vec<String>) {
        self.ask_to_end();
        let (until, mut said) = (Instant::now() + 4 * PATIENCE, Vec::new());
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => said.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the server does not end: {said:#?}"),
            }
        }
        let status = self.child.wait().expect("the server is ours");
        (status.code(), said)
    }
}

/// `stk serve`, ready to run.
pub(crate) fn serve(
    home: &Home,
    data: &Path,
    listen: Option<&str>,
    ingest: &str,
    more: &[&str],
    env: &[(&str, &str)],
) -> Command {
    let data = data.display().to_string();
    let mut args = vec!["serve", "--data", &data, "--ingest-listen", ingest];
    args.extend(listen.into_iter().flat_map(|listen| ["--listen", listen]));
    args.extend(more);
    let mut command = home.stk(&args);
    command.envs(env.iter().copied()).stdout(Stdio::null());
    command
}

/// A `stk serve` for whose start nobody waits, killed when dropped.
pub(crate) struct Starting(Child);

impl Starting {
    pub(crate) fn spawn(home: &Home, data: &Path, ingest: &str, env: &[(&str, &str)]) -> Self {
        let mut command = serve(home, data, Some("127.0.0.1:0"), ingest, &[], env);
        Self(command.stderr(Stdio::null()).spawn().expect("the binary runs"))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the server at {}: {:#?}", self.address, self.lines.try_iter().collect::<Vec<_>>());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The trades that `server` streams as events since `last`, up to a line in which `end` is, and the id of the last
/// event.
pub(crate) fn events(server: &Server, last: &str, end: &str) -> (String, String) {
    let url = format!("http://{}/v2/stk/sse?trades=*", server.address);
    let mut command = Command::new("curl");
    command.args(["-sN", "--max-time", "20", "-H", &format!("last-event-id: {last}"), &url]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("curl is there");
    let (mut text, mut id) = (String::new(), None);
    for line in BufReader::new(child.stdout.take().expect("stdout is piped")).lines() {
        let line = line.expect("text");
        // It comes before the data of an event.
        id = line.strip_prefix("id: ").map(str::to_owned).or(id);
        text.push_str(&line);
        text.push('\n');
        if line.contains(end) {
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    (text, id.expect("an event has an id"))
}

/// Where the service `name` (`S3`, `KAFKA`, …) is: what `STK_TEST_<NAME>` says. Where it is not set
/// the test says so and is skipped; under CI that takes `STK_TEST_<NAME>_SKIP`, the reason.
pub(crate) fn service(name: &str) -> Option<String> {
    let variable = format!("STK_TEST_{name}");
    if let Some(address) = std::env::var(&variable).ok().filter(|address| !address.is_empty()) {
        return Some(address);
    }
    let reason = std::env::var(format!("{variable}_SKIP")).ok();
    assert!(
        reason.is_some() || std::env::var_os("CI").is_none(),
        "{variable} is not set: `scripts/services up` starts the service"
    );
    eprintln!("skipped: {}", reason.unwrap_or_else(|| format!("{variable} is not set")));
    None
}

/// A client of the server that takes ticks in at `address`. A machine that has other things to do may
/// answer late; a server that is gone is told at once.
pub(crate) async fn ingest(
    address: &str,
    producer: u64,
    tries_max: u32,
) -> Result<IngestClient, IngestError> {
    let began = Instant::now();
    loop {
        let endpoint = address.parse().expect("an address");
        match IngestClient::connect(endpoint, producer, 0, tries_max).await {
            Err(error) if error.to_string().contains("no answer within") && began.elapsed() < PATIENCE => {}
            connected => return connected,
        }
    }
}

/// The same of what takes a build with the feature `kafka-tls`, too.
pub(crate) fn tls_service(name: &str) -> Option<String> {
    let address = service(name)?;
    if cfg!(feature = "kafka-tls") {
        return Some(address);
    }
    assert!(std::env::var_os("CI").is_none(), "the tests of {name} take `--features kafka-tls`");
    eprintln!("skipped: this build lacks the feature kafka-tls");
    None
}

/// The real capture, where it is.
pub(crate) fn iex_capture() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/iex/TOPS16.pcapng.gz");
    let found = path.is_file().then_some(path);
    if found.is_none() {
        eprintln!("skipped: ../shared/data/iex/TOPS16.pcapng.gz is not here");
    }
    found
}

/// The value of a metric without labels, as the server at `address` shows it; 0 where it is not shown.
pub(crate) fn metric(address: &str, name: &str) -> f64 {
    let url = format!("http://{address}/metrics");
    let shown = Command::new("curl").args(["-s", &url]).output().expect("curl is there").stdout;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    let line = shown.lines().find_map(|line| line.strip_prefix(&format!("stk_{name} ")));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
}

/// Services of a test's own, which it may stop; ended with it, also when it fails.
pub(crate) struct OwnServices {
    run: PathBuf,
    env: BTreeMap<String, String>,
    _dir: tempfile::TempDir,
}

impl OwnServices {
    /// Starts `names`. `None`, as said, where tests have none of them.
    pub(crate) fn up(names: &[&str]) -> Option<Self> {
        for name in names {
            service(&name.to_uppercase())?;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let run = dir.path().join("services");
        let mut own = Self { run, env: BTreeMap::new(), _dir: dir };
        let run = own.run.display().to_string();
        let shown = Self::script(&[&["up", "--run", &run], names].concat());
        let value = |text: &str| text.trim_matches('\'').to_owned();
        let line = |line: &str| {
            let (name, text) = line.strip_prefix("export ")?.split_once('=')?;
            Some((name.to_owned(), value(text)))
        };
        own.env = shown.lines().filter_map(line).collect();
        Some(own)
    }

    fn script(args: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
        let output = Command::new(script).args(args).output().expect("scripts/services runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "scripts/services {args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Where the service `name` (`S3`, `KAFKA`, …) is.
    pub(crate) fn address(&self, name: &str) -> Option<String> {
        self.env.get(&format!("STK_TEST_{name}")).cloned()
    }

    /// A file or directory of the services' own.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.run.join(name)
    }

    /// Ends a service at once, as a crash does.
    pub(crate) fn kill(&self, name: &str) {
        Self::script(&["kill", name, &self.run.display().to_string()]);
    }

    /// Starts it again, with what it kept, and waits until it answers.
    pub(crate) fn start(&self, name: &str) {
        Self::script(&["start", name, &self.run.display().to_string()]);
    }

    /// Changes the text of a file of its own, for its next start.
    pub(crate) fn edit(&self, name: &str, file: &str, from: &str, to: &str) {
        let path = self.run.join(name).join(file);
        let text = std::fs::read_to_string(&path).expect("it was started");
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).expect("written");
    }

    /// Has it answer nothing from now on, though it is there.
    pub(crate) fn pause(&self, name: &str) {
        Self::script(&["pause", name, &self.run.display().to_string()]);
    }

    /// Has it go on.
    pub(crate) fn resume(&self, name: &str) {
        Self::script(&["resume", name, &self.run.display().to_string()]);
    }
}

impl Drop for OwnServices {
    fn drop(&mut self) {
        // Without a look at how it went: the test may have failed already.
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/services");
        let _ = Command::new(script).arg("down").arg(&self.run).output();
    }
}

/// Does `work` for each of `numbers`, in `jobs` threads. Each thread begins with a state of its own (`begin`, by the
/// thread's number), which its next number finds as the last one left it.
pub(crate) fn share_out<S>(
    numbers: std::ops::Range<u64>,
    jobs: u64,
    begin: impl Fn(u64) -> S + Sync,
    work: impl Fn(&mut S, u64) + Sync,
) {
    let next = AtomicU64::new(numbers.start);
    let thread = |job: u64| {
        let mut state = begin(job);
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                break;
            }
            work(&mut state, number);
        }
    };
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let thread = &thread;
            scope.spawn(move || thread(job));
        }
    });
}

/// How many threads share out a test's trials.
pub(crate) fn jobs() -> u64 {
    number("STK_TEST_JOBS", 2)
}

/// Does `job` for each number below `count`, several side by side, each of these with a home and a runtime that
/// its next number finds as the last one left them. For a test with a runtime of several threads.
pub(crate) fn side_by_side(count: u64, job: impl Fn(u64, &Home, &tokio::runtime::Runtime) + Sync) {
    let begin = |_| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        (Home::new(), runtime.expect("a runtime"))
    };
    tokio::task::block_in_place(|| {
        share_out(0..count, jobs(), begin, |(home, runtime), number| job(number, home, runtime));
    });
}

/// Lives the histories of `seeds` in `jobs` threads. Prints a line of the matrix for each: what `live` returns, or a
/// dash in each of the `columns` where it failed. Fails with the seeds of those that failed.
pub(crate) fn live_histories(
    seeds: std::ops::Range<u64>,
    jobs: u64,
    columns: usize,
    live: impl Fn(u64) -> String + std::panic::RefUnwindSafe + Sync,
) {
    let failed = Mutex::new(Vec::new());
    let live_one = |(): &mut (), seed| {
        let since = Instant::now();
        let lived = std::panic::catch_unwind(|| live(seed));
        let seconds = since.elapsed().as_secs();
        let ended = if lived.is_ok() { "passed" } else { "failed" };
        let tally = lived.unwrap_or_else(|_| vec!["-"; columns].join("\t"));
        eprintln!("matrix\t{seed}\t{tally}\t{ended}\t{seconds} s");
        if ended == "failed" {
            failed.lock().expect("whoever holds it pushes").push(seed);
        }
    };
    share_out(seeds, jobs, |_| (), live_one);
    let failed = failed.into_inner().expect("whoever held it pushed");
    assert!(failed.is_empty(), "seeds of histories that failed: {failed:?}");
}
