//! A disk that fills up while ticks come in.

use std::path::Path;
use std::process::Command;

use super::serve::write_capture;
use super::support::{Home, Server, metric};

/// A small disk, unmounted when dropped.
struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    /// `None` where this user may not mount.
    fn mount(at: &'a Path, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a directory");
        let size = format!("size={bytes}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(Self(at));
        }
        assert!(std::env::var_os("CI").is_none(), "a small disk can't be mounted: run CI as root");
        eprintln!("skipped: only root can mount a small disk");
        None
    }

    fn grow(&self, bytes: u64) {
        let size = format!("remount,size={bytes}");
        let grown = Command::new("mount").args(["-o", &size]).arg(self.0).status().expect("mount runs");
        assert!(grown.success());
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_named_and_what_was_accepted_is_there_once_there_is_room() {
    let home = Home::new();
    let small = home.path("small");
    let Some(disk) = Disk::mount(&small, 24 << 20) else { return };
    let capture = write_capture(&home, 20_000).display().to_string();
    let data = small.join("data").display().to_string();
    for free_bytes_min in ["0", "8388608"] {
        let mut replay = home.stk(&["replay", &capture, "--speed", "max", "--loop", "--data", &data]);
        let shown = home.shown(replay.env("STK_LOG_FREE_BYTES_MIN", free_bytes_min));
        assert!(shown.starts_with("exit: 1\n"), "{shown}");
        assert!(shown.contains("[HOME]/small/data/"), "the place is named: {shown}");
        assert!(shown.contains("full") || shown.contains("No space left"), "and the reason: {shown}");
        assert!(shown.contains("hint: free some space"), "{shown}");
    }
    disk.grow(256 << 20);
    let history = || {
        let mut history = home.stk(&["history", "AAPL", "--limit", "5", "--data", &data]);
        let shown = home.shown(history.env("STK_LOG_FREE_BYTES_MIN", "0"));
        assert!(!shown.contains("are missing"), "{shown}");
        assert_eq!(shown.lines().filter(|line| line.starts_with("AAPL,")).count(), 5, "{shown}");
        shown
    };
    // The write that met the full disk may have left a part of a batch. A reader names it, a start cuts it off.
    let shown = history();
    let names_part =
        shown.starts_with("exit: 1\n") && shown.contains("without a whole batch behind the damage");
    assert!(shown.starts_with("exit: 0\n") || names_part, "{shown}");
    let mut replay = home.stk(&["replay", &capture, "--again", "--speed", "max", "--data", &data]);
    let shown = home.shown(replay.env("STK_LOG_FREE_BYTES_MIN", "0"));
    assert!(shown.starts_with("exit: 0\n") && shown.contains("40000 ticks durable"), "{shown}");
    let shown = history();
    assert!(shown.starts_with("exit: 0\n"), "{shown}");
}

#[test]
fn below_its_limit_of_free_space_a_server_refuses_ticks_and_goes_on_with_what_it_has() {
    let home = Home::new();
    let capture = write_capture(&home, 60).display().to_string();
    let data = home.path("data");
    let replay = |server: &Server| {
        home.run(&["replay", &capture, "--again", "--speed", "max", "--ingest", &server.ingest])
    };
    let server = Server::start(&home, &data, &[]);
    let taken = replay(&server);
    assert!(taken.contains("120 ticks durable"), "{taken}");
    // Its records are in the log alone: a block waits for a minute.
    server.kill();
    let env = [("STK_LOG_FREE_BYTES_MIN", "1000000000000000"), ("STK_PROCESSOR_BLOCK_AGE_MS_MAX", "100")];
    let server = Server::start_with(&home, &data, "127.0.0.1:0", &[], &env);
    let refused = replay(&server);
    assert!(refused.starts_with("exit: 1\n"), "{refused}");
    let reason = "the server refused batch 4096: the disk of [HOME]/data/log is full: ";
    assert!(refused.contains(reason) && refused.contains("at least 1000000000"), "{refused}");
    let rows = |shown: &str| shown.lines().filter(|line| line.starts_with("AAPL,")).count();
    let served = home.run(&["history", "AAPL", "--server", &server.address]);
    assert!(served.starts_with("exit: 0\n") && rows(&served) == 30, "{served}");
    // All of the log still goes to warm, where it frees space.
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    let stored = home.run(&["history", "AAPL", "--data", &data.display().to_string()]);
    assert!(stored.contains("covers warm: nothing is missing") && rows(&stored) == 30, "{stored}");
}

/// What the server answers at `path`.
fn answer(server: &Server, path: &str) -> String {
    let url = format!("http://{}{path}", server.address);
    let asked = Command::new("curl").args(["-s", &url]).output().expect("curl is there");
    String::from_utf8_lossy(&asked.stdout).into_owned()
}

#[test]
fn a_feed_that_met_a_full_disk_comes_back_when_there_is_room() {
    let home = Home::new();
    let small = home.path("small");
    let Some(disk) = Disk::mount(&small, 64 << 20) else { return };
    let env = [("STK_LOG_FREE_BYTES_MIN", "134217728")];
    let data = small.join("data");
    let server = Server::start_with(&home, &data, "127.0.0.1:0", &["--feed", "sim:rate=100"], &env);
    let said = answer(&server, "/readyz");
    assert!(said.contains("is full: "), "{said}");
    let served = answer(&server, "/v1/history?symbols=AAPL&kind=trades&format=csv");
    assert!(served.starts_with("symbol,"), "what is stored is served: {served}");
    disk.grow(1 << 30);
    server.await_ready();
    assert!(metric(&server.address, "intake_feed_restarts_total") > 0.0);
    assert!(metric(&server.address, "intake_ticks_total") > 0.0);
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
}

/// Fills the disk of `file` with it to the last byte.
fn fill(file: &Path) {
    use std::io::Write;
    let mut filler = std::fs::File::create(file).expect("a file");
    while filler.write_all(&[7; 4096]).is_ok() {}
    while filler.write_all(&[7]).is_ok() {}
}

#[test]
fn a_server_whose_log_met_a_full_disk_opens_its_stores_again_when_there_is_room() {
    let home = Home::new();
    let small = home.path("small");
    let Some(_disk) = Disk::mount(&small, 96 << 20) else { return };
    let capture = write_capture(&home, 60).display().to_string();
    let env = [("STK_LOG_FREE_BYTES_MIN", "0"), ("STK_PROCESSOR_BLOCK_AGE_MS_MAX", "100")];
    let feed = ["--feed", "sim:rate=2000"];
    let server = Server::start_with(&home, &small.join("data"), "127.0.0.1:0", &feed, &env);
    let replay = || home.run(&["replay", &capture, "--again", "--speed", "max", "--ingest", &server.ingest]);
    let taken = replay();
    assert!(taken.contains("120 ticks durable"), "{taken}");
    let filler = small.join("filler");
    // An append may find the disk full before anything is written. Then the log goes on by itself.
    let mut has_failed = false;
    for _ in 0..20 {
        fill(&filler);
        let mut told = std::iter::repeat_with(|| answer(&server, "/readyz"));
        let said = told.find(|said| said.contains("full")).expect("it is asked again and again");
        std::fs::remove_file(&filler).expect("it is there");
        has_failed = said.contains("became full");
        if has_failed {
            break;
        }
        server.await_ready();
        has_failed = metric(&server.address, "server_reopens_total") > 0.0;
        if has_failed {
            break;
        }
    }
    assert!(has_failed, "the log has not met the full disk");
    server.awaits("the stores are opened again");
    server.await_ready();
    assert!(metric(&server.address, "server_reopens_total") > 0.0);
    assert!(metric(&server.address, "intake_ticks_total") > 0.0);
    let again = replay();
    assert!(again.contains("120 ticks durable"), "{again}");
    let served = home.run(&["history", "AAPL", "--server", &server.address]);
    let rows = served.lines().filter(|line| line.starts_with("AAPL,")).count();
    assert!(rows >= 60, "{served}");
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
}
