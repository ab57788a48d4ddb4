//! The board in a real terminal, and the stream as lines, against the real server.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Instant;

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use stk::market::{Conditions, Exchange, Tape, Tick, Timestamp, Trade};

use super::address::OwnAddress;
use super::support::{self, Home, PATIENCE, Server};

const SIZE: PtySize = PtySize { rows: 20, cols: 100, pixel_width: 0, pixel_height: 0 };

/// `stk` in a terminal of its own.
struct Screen {
    child: Box<dyn Child + Send + Sync>,
    master: Box<dyn MasterPty + Send>,
    keys: Box<dyn Write + Send>,
    output: mpsc::Receiver<Vec<u8>>,
    parser: vt100::Parser,
    raw: Vec<u8>,
}

impl Screen {
    fn open(home: &Home, args: &[&str], env: &[(&str, &str)]) -> Self {
        let pty = native_pty_system().openpty(SIZE).expect("a terminal");
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_stk"));
        command.args(args);
        command.env_clear();
        command.env("TERM", "xterm-256color");
        env.iter().for_each(|(name, value)| command.env(name, value));
        command.cwd(home.path("."));
        let child = pty.slave.spawn_command(command).expect("the binary runs");
        drop(pty.slave);
        let mut reader = pty.master.try_clone_reader().expect("a reader");
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let keys = pty.master.take_writer().expect("a writer");
        let parser = vt100::Parser::new(SIZE.rows, SIZE.cols, 0);
        Self { child, master: pty.master, keys, output, parser, raw: Vec::new() }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.parser.process(bytes);
        self.raw.extend_from_slice(bytes);
    }

    /// Reads until what stands on the screen is as wanted.
    fn wait(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_for(what, |screen| wanted(&screen.contents()))
    }

    /// Reads until the screen is as wanted.
    fn wait_for(&mut self, what: &str, wanted: impl Fn(&vt100::Screen) -> bool) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let shown = self.parser.screen().contents();
            if wanted(self.parser.screen()) {
                return shown;
            }
            match self.output.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.take(&bytes),
                Err(reason) => panic!("{what}: {reason}\n{shown}"),
            }
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    fn pid(&self) -> Pid {
        self.child.process_id().and_then(|pid| Pid::from_raw(pid as i32)).expect("it runs")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it is ours");
    }

    /// Whether the terminal is as a shell wants it: its own screen, a cursor, keys shown and by line.
    fn is_given_back(&self) -> bool {
        let screen = self.parser.screen();
        let modes = self.master.get_termios().expect("modes").local_flags;
        let modes = format!("{modes:?}");
        !screen.alternate_screen()
            && !screen.hide_cursor()
            && modes.contains("ECHO")
            && modes.contains("ICANON")
    }

    /// Waits for its end: the exit code, and whether the terminal is as it was before.
    fn ended(mut self) -> (u32, bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.output.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.take(&bytes),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let _ = self.child.kill();
                    panic!("it does not end:\n{}", self.parser.screen().contents());
                }
            }
        }
        let code = self.child.wait().expect("it ends").exit_code();
        let was_taken = self.raw.windows(8).any(|bytes| bytes == b"\x1b[?1049h");
        (code, was_taken && self.is_given_back())
    }
}

/// Who has a stream of lines end.
enum Ends {
    Reader,
    Person,
}

fn trade(symbol: &str, id: u64, price: &str) -> Tick {
    let ts = Timestamp::now();
    Tick::Trade(Trade {
        symbol: symbol.parse().expect("a symbol"),
        ts,
        recv_ts: ts,
        price: price.parse().expect("a price"),
        size: 100,
        exchange: Exchange::IEX,
        conditions: Conditions::NONE,
        id,
        tape: Tape::C,
    })
}

/// Brings trades to the server and waits until they are durable.
fn bring(server: &Server, producer: u64, ticks: &[Tick]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut client = support::ingest(&server.ingest, producer, 3).await.expect("a server");
        client.send(ticks).await.expect("sent");
        client.flush().await.expect("durable");
    });
}

#[test]
fn prices_are_shown_sorted_filtered_and_the_terminal_given_back() {
    let home = Home::new();
    let server = Server::start(&home, &home.path("data"), &[]);
    bring(&server, 1, &[trade("AAPL", 1, "190.45"), trade("TSLA", 2, "330.10"), trade("XYZ", 3, "5.00")]);
    let mut screen = Screen::open(&home, &["watch", "AAPL", "TSLA", "XYZ", "--server", &server.address], &[]);
    screen.wait("the snapshot", |shown| shown.contains("190.45") && shown.contains("330.10"));
    bring(&server, 2, &[trade("AAPL", 4, "191.00")]);
    let shown = screen.wait("a live trade", |shown| shown.contains("191.00"));
    assert!(shown.contains("● live") && shown.contains("3 symbols"), "{shown}");
    screen.press("s");
    screen.wait("sorted by price, highest first", |shown| {
        shown.contains("LAST↓") && shown.find("TSLA").unwrap_or(9) < shown.find("AAPL").unwrap_or(0)
    });
    screen.press("/last<10\r");
    screen.wait("the filter", |shown| shown.contains("XYZ") && !shown.contains("AAPL"));
    screen.press("\x1b");
    screen.wait("the filter gone", |shown| shown.contains("AAPL"));
    screen.press("?");
    screen.wait("help", |shown| shown.contains("quit, as Ctrl-C does"));
    screen.press("?");
    screen.master.resize(PtySize { rows: 10, cols: 40, ..SIZE }).expect("resized");
    screen.parser.screen_mut().set_size(10, 40);
    screen.wait("a narrow terminal", |shown| shown.contains("AAPL") && !shown.contains("BSIZE"));
    screen.press("q");
    assert_eq!(screen.ended(), (0, true));
}

#[test]
fn signals_give_the_terminal_back_too() {
    let home = Home::new();
    let server = Server::start(&home, &home.path("data"), &["--feed", "sim:rate=500,symbols=5"]);
    for (signal, code) in [(Signal::TERM, 130), (Signal::HUP, 130), (Signal::QUIT, 130)] {
        let mut screen = Screen::open(&home, &["watch", "--server", &server.address], &[("NO_COLOR", "1")]);
        screen.wait("rows", |shown| shown.contains("FAKEPACA"));
        screen.signal(signal);
        let colours = screen.raw.windows(5).any(|bytes| bytes == b"\x1b[38;");
        assert!(!colours, "NO_COLOR is set");
        assert_eq!(screen.ended(), (code, true), "{signal:?}");
    }
    let mut screen = Screen::open(&home, &["watch", "--server", &server.address], &[]);
    screen.wait("rows", |shown| shown.contains("FAKEPACA"));
    screen.press("\x03");
    assert_eq!(screen.ended(), (0, true), "Ctrl-C quits the board");
    let screen = Screen::open(&home, &["watch", "--for", "1s", "--server", &server.address], &[]);
    assert_eq!(screen.ended(), (0, true), "its time is over");
}

#[test]
fn a_suspended_board_gives_the_terminal_to_the_shell_and_takes_it_again() {
    let home = Home::new();
    let server = Server::start(&home, &home.path("data"), &["--feed", "sim:rate=500,symbols=5"]);
    let mut screen = Screen::open(&home, &["watch", "--server", &server.address], &[]);
    screen.wait("rows", |shown| shown.contains("FAKEPACA"));
    for by_key in [true, false] {
        if by_key {
            screen.press("\x1a");
        } else {
            screen.signal(Signal::TSTP);
        }
        let (_, status) =
            waitpid(Some(screen.pid()), WaitOptions::UNTRACED).expect("it is ours").expect("it has stopped");
        assert!(status.stopped(), "{status:?}");
        screen.wait_for("the shell's screen", |screen| !screen.alternate_screen());
        assert!(screen.is_given_back());
        screen.signal(Signal::CONT);
        screen.wait_for("the board again", |screen| {
            screen.alternate_screen() && screen.contents().contains("FAKEPACA")
        });
        assert!(!screen.is_given_back());
    }
    screen.press("q");
    assert_eq!(screen.ended(), (0, true));
}

#[test]
fn a_server_that_goes_away_is_shown_and_comes_back_without_a_gap() {
    let home = Home::new();
    let data = home.path("data");
    // A port of its own, so that the board finds the server again.
    let listen = OwnAddress::new();
    let start =
        || Server::start_listening(&home, &data, None, "127.0.0.1:0", &[], &[("STK_SERVER_LISTEN", &listen)]);
    let server = start();
    bring(&server, 1, &[trade("AAPL", 1, "190.45")]);
    let mut screen = Screen::open(&home, &["watch", "AAPL", "--server", &server.address], &[]);
    screen.wait("the snapshot", |shown| shown.contains("190.45") && shown.contains("● live"));
    bring(&server, 2, &[trade("AAPL", 2, "190.46")]);
    screen.wait("a live trade", |shown| shown.contains("190.46"));
    server.kill();
    screen.wait("the lost link", |shown| shown.contains("no link for") && shown.contains("190.46"));
    let server = start();
    bring(&server, 3, &[trade("AAPL", 3, "190.47"), trade("AAPL", 4, "190.48")]);
    let shown = screen.wait("the link again", |shown| shown.contains("● live") && shown.contains("190.48"));
    // Four trades of a hundred shares: none missed, none counted twice.
    assert!(shown.contains(" 400 ") && !shown.contains("gap"), "{shown}");
    screen.press("q");
    assert_eq!(screen.ended(), (0, true));
}

/// Lines as they come, on a thread of their own.
fn lines_of(pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    lines
}

#[test]
fn a_server_with_another_log_is_told_and_followed_at_once() {
    let home = Home::new();
    let listen = OwnAddress::new();
    let start = |data: &str| {
        let feed = ["--feed", "sim:rate=500,symbols=5"];
        Server::start_listening(&home, &home.path(data), Some(&listen), "127.0.0.1:0", &feed, &[])
    };
    let server = start("data");
    let mut watch = home
        .stk(&["watch", "--format", "json", "--server", &server.address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let (out, talk) =
        (lines_of(watch.stdout.take().expect("piped")), lines_of(watch.stderr.take().expect("piped")));
    out.recv_timeout(PATIENCE).expect("a line of the first server");
    server.kill();
    let server = start("other");
    // The new log is far behind the token: the client would wait for it for long, and miss what is
    // between without a word.
    let mut said = Vec::new();
    while !said.last().is_some_and(|line: &String| line.starts_with("stk: gap: ")) {
        let line = talk.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no gap is told: {said:#?}"));
        said.push(line);
    }
    let gap = said.last().expect("just seen");
    assert!(
        gap.ends_with("what this client saw last is not in the log any more: the token is of another log"),
        "{gap}"
    );
    out.try_iter().for_each(drop);
    let line = out.recv_timeout(PATIENCE).expect("a line of the second server");
    assert!(serde_json::from_str::<serde_json::Value>(&line).expect("JSON")["T"].is_string());
    kill_process(Pid::from_child(&watch), Signal::INT).expect("it is ours");
    watch.wait().expect("it ends");
    assert_eq!(talk.iter().find(|line| line.contains("no link")), None, "the link was lost once: {said:#?}");
    server.kill();
}

#[test]
fn without_a_terminal_there_are_lines() {
    let home = Home::new();
    let server = Server::start(&home, &home.path("data"), &["--feed", "sim:rate=2000,symbols=20"]);
    // A second is enough, but for a machine that has other things to do.
    let run = |command: &[&str], is_enough: fn(&str) -> bool| {
        let mut shown = String::new();
        for time in ["1s", "4s", "16s"] {
            shown = home.run(&[command, &["--for", time]].concat());
            assert!(shown.starts_with("exit: 0\n"), "{shown}");
            if is_enough(&shown) {
                return shown;
            }
        }
        panic!("it is not there: {shown}");
    };
    let of = |more: &[&str], is_enough: fn(&str) -> bool| {
        run(&[&["watch", "--server", &server.address], more].concat(), is_enough)
    };
    of(&[], |shown| shown.contains("  quote "));
    let json =
        of(&["--format", "json"], |shown| shown.lines().filter(|line| line.starts_with('{')).count() > 10);
    let lines: Vec<serde_json::Value> = json
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert!(lines.iter().all(|line| line["T"].is_string()));
    let csv = of(&["--format", "csv", "FAKEPACA"], |shown| shown.contains("quote,FAKEPACA,"));
    assert!(csv.contains("\ntype,symbol,time,price,"), "{csv}");
    // A reader that has seen enough, and a person who has.
    for (ends, code) in [(Ends::Reader, 0), (Ends::Person, 130)] {
        let mut lines = home
            .stk(&["watch", "--server", &server.address])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut out = BufReader::new(lines.stdout.take().expect("it is piped"));
        let mut line = String::new();
        out.read_line(&mut line).expect("a line");
        assert!(line.ends_with('\n'));
        match ends {
            Ends::Reader => drop(out),
            Ends::Person => kill_process(Pid::from_child(&lines), Signal::INT).expect("it is ours"),
        }
        assert_eq!(lines.wait().expect("it ends").code(), Some(code));
    }
    let demo = run(&["demo", "--symbols", "20"], |shown| shown.contains("  trade "));
    assert!(demo.contains("done after") && demo.contains("listening on http://"), "{demo}");
}

/// A demo whose server can't go on says so, and does not stand there with old prices.
#[test]
fn a_demo_ends_when_its_server_fails() {
    let home = Home::new();
    let temporary = home.path("temporary");
    std::fs::create_dir(&temporary).expect("made");
    let mut demo = home
        .stk(&["demo", "--symbols", "5", "--rate", "200"])
        .env("STK_PROCESSOR_BLOCK_AGE_MS_MAX", "100")
        .env("TMPDIR", &temporary)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let stderr = BufReader::new(demo.stderr.take().expect("it is piped"));
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let mut said = Vec::new();
    // The processor tries for twenty seconds before it gives up.
    while let Ok(line) = lines.recv_timeout(PATIENCE + PATIENCE) {
        if line.starts_with("storing in ") {
            let data = std::fs::read_dir(&temporary).expect("made").next().expect("the demo's own");
            let warm = data.expect("read").path().join("warm");
            let file = warm.with_file_name("file");
            std::fs::write(&file, "no directory").expect("written");
            // At once, or the demo makes the directory anew in between.
            renameat_with(CWD, &file, CWD, &warm, RenameFlags::EXCHANGE).expect("exchanged");
        }
        said.push(line);
    }
    let ended = demo.try_wait().expect("it is ours");
    if ended.is_none() {
        let _ = demo.kill();
    }
    let code = demo.wait().expect("it is ours").code();
    assert_eq!(code, Some(1), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("error: ") && line.contains("/warm/")), "{said:#?}");
}
