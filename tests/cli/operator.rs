//! Operator commands on a running server: its archive, its audit, and who may give them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use super::archive::{TICKS, stored};
use super::serve::write_capture;
use super::support::{Home, PATIENCE, Server};

/// A server on a day of 2025 that is due to be archived.
fn serving(home: &Home, env: &[(&str, &str)]) -> (Server, String) {
    let data = stored(home);
    let env = [&[("STK_ARCHIVE_SETTLE_MINUTES", "0")], env].concat();
    let server = Server::start_with(home, data.as_ref(), "127.0.0.1:0", &[], &env);
    server.await_ready();
    (server, data)
}

fn json(home: &Home, args: &[&str]) -> Value {
    let output = home.stk(args).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{args:?}: {error}: {said}"))
}

/// Rows in warm and in the archive, of trades and quotes.
fn rows(home: &Home, address: &str) -> Vec<(u64, u64)> {
    let args = ["archive", "status", "--kind", "trade,quote", "--json", "--server", address];
    let status = json(home, &args);
    let count = |unit: &Value, name: &str| unit[name].as_u64().expect("a number");
    let units = status.as_array().expect("a list").iter();
    units.map(|unit| (count(unit, "warm_rows"), count(unit, "archived_rows"))).collect()
}

#[test]
fn a_running_server_looks_after_its_archive() {
    let home = Home::new();
    let (server, data) = serving(&home, &[]);
    let address = server.address.as_str();
    // The directory is the server's: each command names the way through it.
    for command in ["archive status", "archive run", "archive restore --from 2025-03-07 --into-warm", "audit"]
    {
        let mut args: Vec<_> = command.split(' ').collect();
        args.extend(["--data", &data]);
        let refused = home.run(&args);
        let name = command.split(" --").next().expect("there is a first part");
        assert!(refused.starts_with("exit: 4\n"), "{refused}");
        assert!(
            refused
                .contains(&format!("hint: ask the server that has it open: `stk {name} --server {address}`")),
            "{refused}"
        );
    }
    let asked = |args: &[&str]| home.run(&[args, &["--server", address]].concat());
    let half = TICKS / 2;
    assert_eq!(rows(&home, address), [(half, 0), (half, 0)]);
    let plan = json(&home, &["archive", "run", "--dry-run", "--json", "--server", address]);
    assert!(plan.as_array().expect("a list").iter().any(|unit| unit["kind"] == "trade"), "{plan}");
    assert_eq!(rows(&home, address), [(half, 0), (half, 0)], "a dry run does nothing");
    let run = asked(&["archive", "run"]);
    assert!(run.starts_with("exit: 0\n") && run.contains(" rows: archived (1 of "), "{run}");
    assert!(run.contains(" rows: dropped from warm ("), "{run}");
    assert_eq!(rows(&home, address), [(0, half), (0, half)]);
    let list = asked(&["archive", "list"]);
    assert!(list.contains("ticks/kind=quote/date=2025-03-07/"), "{list}");
    let verify = asked(&["archive", "verify"]);
    assert!(verify.starts_with("exit: 0\n") && verify.contains(" manifests read: "), "{verify}");
    let audit = asked(&["audit"]);
    assert!(audit.starts_with("exit: 0\n") && audit.contains("the chain holds: 1 day"), "{audit}");
    let lines = home.stk(&["audit", "--json", "--server", address]).output().expect("the binary runs").stdout;
    let total = String::from_utf8(lines).expect("text");
    let total: Value = serde_json::from_str(total.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&total["line"], &total["verdict"]), (&"total".into(), &"holds".into()), "{total}");
    let restored = asked(&["archive", "restore", "2025-03-07", "--into-warm"]);
    assert!(restored.starts_with("exit: 0\n"), "{restored}");
    assert!(restored.contains(&format!("trade of 2025-03-07: {half} rows are in warm again")), "{restored}");
    assert_eq!(rows(&home, address), [(half, half), (half, half)]);
    let status = asked(&["archive", "status", "--kind", "trade"]);
    assert!(status.contains("2025-03-07  trade  restored "), "{status}");
    let nothing = asked(&["archive", "restore", "2024-01-02"]);
    assert!(
        nothing.starts_with("exit: 1\n") && nothing.contains("nothing of these days is archived"),
        "{nothing}"
    );
    let both = asked(&["archive", "status", "--data", &data]);
    assert!(both.starts_with("exit: 2\n"), "{both}");
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    // The address in the lock is that of a server which is gone.
    let free = home.run(&["archive", "status", "--data", &data]);
    assert!(free.starts_with("exit: 0\n"), "{free}");
}

#[test]
fn a_run_goes_on_when_its_client_is_gone() {
    let home = Home::new();
    let (server, _) = serving(&home, &[]);
    let args = ["archive", "run", "--limit-bandwidth", "200kB", "--server", &server.address];
    let mut client = home.stk(&args).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let said = BufReader::new(client.stderr.take().expect("stderr is piped"));
    let first = said.lines().map_while(Result::ok).find(|line| line.contains("archived (1 of "));
    assert!(first.is_some(), "it tells of each unit as it is done");
    client.kill().expect("it runs");
    client.wait().expect("it is ours");
    let half = TICKS / 2;
    let began = Instant::now();
    while rows(&home, &server.address) != [(0, half), (0, half)] {
        assert!(began.elapsed() < 2 * PATIENCE, "{:?}", rows(&home, &server.address));
    }
    assert_eq!(server.stop().0, Some(0));
}

/// The status of `POST /v1/admin` with `more` arguments of curl.
fn posted(address: &str, more: &[&str]) -> String {
    let url = format!("http://{address}/v1/admin");
    let mut args = vec!["-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", r#"{"order":"archive_list"}"#];
    args.extend(more);
    args.push(&url);
    let output = Command::new("curl").args(&args).output().expect("curl is there");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn orders_are_taken_from_operators_alone() {
    const JSON: [&str; 2] = ["-H", "content-type: application/json"];
    let home = Home::new();
    let with = |more: &[&'static str]| [&JSON[..], more].concat();
    // Without keys: from this machine, and by nobody on behalf of another.
    let server = Server::start(&home, &home.path("open"), &[]);
    assert_eq!(posted(&server.address, &JSON), "200");
    assert_eq!(posted(&server.address, &[]), "415", "a form, as any web page may send it");
    assert_eq!(posted(&server.address, &with(&["-H", "x-forwarded-for: 192.0.2.1"])), "403");
    assert_eq!(posted(&server.address, &with(&["-H", "host: prices.example"])), "403");
    drop(server);
    // With keys of clients alone: from nobody.
    let keys = ("STK_SERVER_KEYS", "me:sesame");
    let client = ["-H", "apca-api-key-id: me", "-H", "apca-api-secret-key: sesame"];
    let server = Server::start_with(&home, &home.path("keys"), "127.0.0.1:0", &[], &[keys]);
    assert_eq!(
        (posted(&server.address, &JSON), posted(&server.address, &with(&client))),
        ("403".into(), "403".into())
    );
    let refused = home.run(&["archive", "status", "--server", &server.address]);
    assert!(refused.starts_with("exit: 3\n") && refused.contains("server.admin_keys"), "{refused}");
    drop(server);
    // With a key of the operator: by it alone. It is good for everything else, too.
    let admin = ("STK_SERVER_ADMIN_KEYS", "op:mellon");
    let server = Server::start_with(&home, &home.path("admin"), "127.0.0.1:0", &[], &[keys, admin]);
    assert_eq!(
        (posted(&server.address, &JSON), posted(&server.address, &with(&client))),
        ("401".into(), "401".into())
    );
    let as_operator = |args: &[&str]| {
        let mut command = home.stk(&[args, &["--server", &server.address]].concat());
        command.env("STK_KEY_ID", "op").env("STK_SECRET_KEY", "mellon");
        home.shown(&mut command)
    };
    for args in [&["archive", "list"][..], &["symbols"]] {
        let shown = as_operator(args);
        assert!(shown.starts_with("exit: 0\n"), "{shown}");
    }
    let wanting = |args: &[&str]| home.run(&[args, &["--server", &server.address]].concat());
    for args in [&["audit"][..], &["symbols"], &["history", "AAPL"], &["watch", "--format", "line"]] {
        let shown = wanting(args);
        assert!(shown.starts_with("exit: 3\n"), "{shown}");
        assert!(shown.contains(&format!("error: {} needs a key\n", server.address)), "{shown}");
    }
    let doctor = wanting(&["doctor"]);
    assert!(doctor.starts_with("exit: 1\n") && doctor.contains("BAD   127.0.0.1"), "{doctor}");
}

#[test]
fn a_closed_terminal_ends_a_server_in_good_order() {
    let home = Home::new();
    let server = Server::start(&home, &home.path("data"), &["--feed", "sim:rate=100,symbols=5"]);
    server.await_ready();
    // A shell and the kernel may both send it.
    server.signal(Signal::HUP);
    server.signal(Signal::HUP);
    let (code, said) = server.ended();
    assert_eq!(code, Some(0), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("SIGHUP")), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("done after")), "{said:#?}");
}

#[test]
fn a_server_that_was_started_to_ignore_a_closed_terminal_does() {
    let home = Home::new();
    let mut command = Command::new("sh");
    let data = home.path("data").display().to_string();
    let args = ["serve", "--data", &data, "--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0"];
    let stk = home.stk(&[]);
    command.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_stk")]).args(args);
    command.env_clear().envs(stk.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let server = Server::run(command, true);
    server.signal(Signal::HUP);
    server.await_ready();
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("SIGTERM")), "{said:#?}");
}

#[test]
fn a_closed_terminal_ends_a_replay_in_good_order() {
    let home = Home::new();
    let capture = write_capture(&home, 600).display().to_string();
    let data = home.path("data").display().to_string();
    let mut replay = home.stk(&["replay", &capture, "--speed", "1", "--data", &data]);
    let mut replay = replay.stderr(Stdio::piped()).spawn().expect("the binary runs");
    let began = Instant::now();
    while !home.path("data/warm").is_dir() {
        assert!(began.elapsed() < PATIENCE, "it did not begin");
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&replay), Signal::HUP).expect("it runs");
    let said = BufReader::new(replay.stderr.take().expect("stderr is piped"));
    let said: Vec<_> = said.lines().map_while(Result::ok).collect();
    assert_eq!(replay.wait().expect("it is ours").code(), Some(130), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("ticks durable")), "{said:#?}");
}
