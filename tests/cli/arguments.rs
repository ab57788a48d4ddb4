//! The real binary: what it says and how it ends, for good input and bad.

use super::support::Home;

#[test]
fn without_arguments_it_says_what_it_can_do() {
    let home = Home::new();
    let shown = home.run(&[]);
    assert!(shown.starts_with("exit: 2\n"), "{shown}");
    for command in ["demo", "watch", "serve", "history", "replay", "symbols", "bench", "doctor", "config"] {
        assert!(shown.contains(&format!("\n  {command} ")), "{command} is listed:\n{shown}");
    }
    assert!(home.run(&["--version"]).starts_with("exit: 0\n--- stdout\nstk [VERSION]\n"));
    let help = home.run(&["--help"]);
    assert!(
        help.contains("Exit codes:") && help.contains("STK_SERVER") && help.contains("NO_COLOR"),
        "{help}"
    );
}

#[test]
fn wrong_arguments_are_named() {
    let home = Home::new();
    let refused = |args: &[&str], named: &str| {
        let shown = home.run(args);
        assert!(shown.starts_with("exit: 2\n--- stdout\n--- stderr\nerror: "), "{args:?}\n{shown}");
        assert!(shown.contains(named), "{args:?} names {named}\n{shown}");
    };
    refused(&["history", "m&ft"], "symbol \"M&FT\" has '&'");
    refused(&["watch", "m&ft"], "symbol \"M&FT\" has '&'");
    refused(&["history", "MSFT", "--from", "yesterday"], "\"yesterday\" is no time");
    refused(&["history", "MSFT", "--timeframe", "7Day"], "\"7Day\" is no timeframe");
    refused(&["history", "MSFT", "--kind", "ticks"], "trades, quotes, bars");
    refused(&["serve", "--feed", "simm"], "\"simm\" is no feed");
    refused(&["serve", "--feed", "sim:rate=fast"], "\"rate=fast\" is no setting of the simulator");
    refused(&["serve", "--listen", "here"], "it takes an address and a port");
    refused(&["serve", "--ingest-listen", "0.0.0.0:1"], "a loopback address");
    refused(&["serve", "--listen", "0.0.0.0:1"], "without server.keys anybody could read everything");
    refused(&["serve", "--listen", "[::]:1"], "`stk serve --allow-anonymous`");
    refused(&["replay", "no-such-file"], "no-such-file");
    refused(&["watch", "AAPL", "--sort", "colour"], "colour");
    refused(&["watch", "AAPL", "--filter", "last<"], "last<");
    let backwards = ["--from", "2025-02-01", "--to", "2025-01-01"];
    for command in [&["audit"][..], &["archive", "status"], &["archive", "list"], &["archive", "restore"]] {
        refused(&[command, &backwards].concat(), "--from 2025-02-01 is after --to 2025-01-01");
    }
    refused(&["demo", "--for", "10"], "10s");
    refused(&["--config", "none.toml", "config", "check"], "none.toml");
}

#[test]
fn without_a_server_it_says_how_to_start_one() {
    let home = Home::new();
    for args in [&["history", "AAPL", "--server", "127.0.0.1:1"][..], &["symbols", "--server", "127.0.0.1:1"]]
    {
        let shown = home.run(args);
        assert!(shown.starts_with("exit: 3\n--- stdout\n--- stderr\nerror: "), "{args:?}\n{shown}");
        assert!(
            shown.contains("127.0.0.1:1") && shown.contains("hint: ") && shown.contains("stk serve"),
            "{shown}"
        );
    }
}

#[test]
fn settings_come_from_file_environment_and_flags() {
    let home = Home::new();
    std::fs::write(home.path("stk.toml"), "[log]\npartitions = 2\nsync_interval_ms = 20\n").expect("written");
    let mut command = home.stk(&["--config", "stk.toml", "config", "show"]);
    command.env("STK_LOG_SYNC_INTERVAL_MS", "30");
    let shown = home.shown(&mut command);
    let has = |parts: &[&str]| shown.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == parts);
    assert!(has(&["log.partitions", "2", "stk.toml"]), "{shown}");
    assert!(has(&["log.sync_interval_ms", "30", "STK_LOG_SYNC_INTERVAL_MS"]), "{shown}");
    assert!(has(&["log.durability", "interval", "default"]), "{shown}");

    std::fs::write(home.path("bad.toml"), "[log]\npartition = 2\n").expect("written");
    let shown = home.run(&["--config", "bad.toml", "config", "check"]);
    let expected = "exit: 2\n--- stdout\n--- stderr\n\
        error: bad.toml: there is no setting `log.partition`; did you mean `log.partitions`?\n\n\
        hint: `stk config init` writes a file with every setting\n";
    assert_eq!(shown, expected);

    assert!(home.run(&["config", "init", "new.toml"]).starts_with("exit: 0\n"));
    assert_eq!(home.run(&["--config", "new.toml", "config", "check"]), "exit: 0\n--- stdout\n--- stderr\n");
    let again = home.run(&["config", "init", "new.toml"]);
    assert!(again.starts_with("exit: 2\n") && again.contains("error: new.toml exists already\n"), "{again}");
    // What is wrong with a flag is not mended by a file.
    let flag = home.run(&["serve", "--listen", "here"]);
    assert!(flag.starts_with("exit: 2\n") && !flag.contains("config init"), "{flag}");
}

#[test]
fn variables_that_are_no_settings_stop_nothing() {
    let home = Home::new();
    let check = |name: &str, value: &str| {
        let mut command = home.stk(&["config", "check"]);
        home.shown(command.env(name, value))
    };
    for (name, value) in [("STK_SERVICE_HOST", "10.0.0.1"), ("STK_PORT_7878_TCP", "tcp://10.0.0.1:7878")] {
        assert_eq!(check(name, value), "exit: 0\n--- stdout\n--- stderr\n");
    }
    let warned = check("STK_GATEWAY_LISTEN", "x");
    assert!(
        warned.starts_with("exit: 0\n") && warned.contains("did you mean STK_SERVER_LISTEN?\n"),
        "{warned}"
    );
}

#[test]
fn help_is_found_by_the_word_too() {
    let home = Home::new();
    assert_eq!(home.run(&["help", "archive", "run"]), home.run(&["archive", "run", "--help"]));
    assert!(home.run(&["help", "nothing"]).starts_with("exit: 2\n"));
}

#[test]
fn secrets_are_not_shown() {
    let home = Home::new();
    let mut command = home.stk(&["config", "show"]);
    command.env("STK_SERVER_KEYS", "me:sesame you:mellon");
    command.env("STK_WARM_CLICKHOUSE_PASSWORD", "sesame");
    command.env("STK_HOT_REDIS_URL", "rediss://me:sesame@redis.example:6380/1");
    command.env("STK_LOG_KAFKA_PROPERTIES", "sasl.username=me sasl.password=sesame");
    command.env("STK_SERVER_ADMIN_KEYS", "op:sesame");
    for shown in [home.shown(&mut command), home.shown(command.arg("--json"))] {
        assert!(shown.contains("2 keys") && !shown.contains("sesame"), "{shown}");
        assert!(shown.contains("rediss://…@redis.example:6380/1"), "{shown}");
    }
    for (name, value) in [
        ("STK_WARM_CLICKHOUSE_URL", "http://me:sesame@127.0.0.1:1"),
        ("STK_ARCHIVE_S3_ENDPOINT", "http://me:sesame@127.0.0.1:1"),
        ("STK_LOG_KAFKA_BROKERS", "me:sesame@127.0.0.1:1"),
    ] {
        for args in [&["config", "show"][..], &["serve", "--data", "data"], &["doctor", "--json"], &["audit"]]
        {
            let shown = home.shown(home.stk(args).env(name, value));
            assert!(
                !shown.contains("sesame") && shown.contains("it takes no user, password or query"),
                "{shown}"
            );
        }
    }
    let server = home.run(&["symbols", "--server", "http://me:sesame@127.0.0.1:1"]);
    assert!(server.starts_with("exit: 2\n") && !server.contains("sesame"), "{server}");
}
