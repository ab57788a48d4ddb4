//! The repository's own rules, as a test over its files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which modules a module may name. `market ← wire ← {feed, bus, tiering, client} ← server ← cli`
/// and `client ← tui ← cli`: nothing below imports anything above.
const ARROWS: &[(&str, &[&str])] = &[
    ("market", &[]),
    ("wire", &["market"]),
    ("backoff", &[]),
    ("feed", &["market", "wire", "backoff", "kafka"]),
    ("bus", &["market", "wire", "backoff", "disk", "kafka", "fail"]),
    ("tiering", &["backoff", "disk", "market", "wire", "bus", "fail", "secret", "text"]),
    ("client", &["market", "wire", "backoff", "secret"]),
    ("server", &["backoff", "disk", "market", "wire", "feed", "bus", "tiering", "config", "fail", "secret"]),
    ("tui", &["market", "wire", "client", "signals", "text"]),
    ("config", &["secret"]),
    ("kafka", &[]),
    ("disk", &[]),
    ("fail", &[]),
    ("secret", &[]),
    ("signals", &[]),
    ("telemetry", &["text"]),
    ("text", &[]),
    (
        "cli",
        &[
            "market",
            "wire",
            "feed",
            "bus",
            "tiering",
            "client",
            "server",
            "config",
            "backoff",
            "fail",
            "kafka",
            "secret",
            "signals",
            "telemetry",
            "text",
            "tui",
        ],
    ),
];

/// Where a backend's or a frame's crate may be named: nowhere but in its own files.
const HOMES: &[(&str, &[&str])] = &[
    ("fjall::", &["src/bus/local"]),
    ("rdkafka::", &["src/kafka", "src/bus/kafka", "src/feed/kafka"]),
    ("redis::", &["src/tiering/hot/redis"]),
    ("clickhouse::", &["src/tiering/warm/clickhouse"]),
    ("object_store::", &["src/tiering/cold"]),
    ("parquet::", &["src/tiering/parquet", "src/tiering/warm/local", "src/tiering/history/format"]),
    ("ratatui::", &["src/tui"]),
    ("crossterm::", &["src/tui", "src/cli"]),
    ("axum::", &["src/server"]),
    ("clap::", &["src/cli"]),
    ("reqwest::", &["src/client"]),
    ("indicatif::", &["src/cli"]),
];

const LINES_MAX: usize = 1_000;

fn repo() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(dir: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![repo().join(dir)];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The sources of the program itself: not the tests that stand beside them.
fn program_files() -> Vec<PathBuf> {
    let is_test = |path: &PathBuf| {
        let names = ["tests.rs", "testing.rs", "arbitrary.rs", "conformance.rs"];
        names.iter().any(|name| path.ends_with(name)) || name(path).contains("/tests/")
    };
    files_below("src", ".rs").into_iter().filter(|path| !is_test(path)).collect()
}

fn name(path: &Path) -> String {
    path.strip_prefix(repo()).unwrap().display().to_string()
}

/// Code without comments, up to the tests at a file's end.
fn code_of(text: &str) -> String {
    let body = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = body.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

fn report(faults: &BTreeSet<String>) {
    assert!(faults.is_empty(), "\n{}\n", faults.iter().cloned().collect::<Vec<_>>().join("\n"));
}

#[test]
fn arrows_between_modules_point_one_way() {
    let modules: Vec<_> = ARROWS.iter().map(|(module, _)| *module).collect();
    let mut faults = BTreeSet::new();
    for path in files_below("src", ".rs") {
        let inside = path.strip_prefix(repo().join("src")).unwrap();
        let module = inside.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned();
        if matches!(module.as_str(), "lib" | "bin" | "testing") {
            continue;
        }
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == module) else {
            faults.insert(format!("{}: module `{module}` has no place in the arrows", name(&path)));
            continue;
        };
        let code = code_of(&fs::read_to_string(&path).unwrap());
        for (at, _) in code.match_indices("crate::") {
            let rest = &code[at + "crate::".len()..];
            let target: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let known = modules.contains(&target.as_str());
            if rest.starts_with('{') {
                faults.insert(format!("{}: name one module per `use crate::…`", name(&path)));
            } else if known && target != module && !allowed.contains(&target.as_str()) {
                faults.insert(format!("{}: `{module}` must not know `{target}`", name(&path)));
            }
        }
    }
    report(&faults);
}

#[test]
fn backends_are_named_at_home_only() {
    let mut faults = BTreeSet::new();
    for path in program_files() {
        let code = code_of(&fs::read_to_string(&path).unwrap());
        for (backend, homes) in HOMES {
            let starts_word =
                |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            let named = code.match_indices(backend).any(|(at, _)| starts_word(at));
            if named && !homes.iter().any(|home| name(&path).starts_with(home)) {
                faults.insert(format!(
                    "{}: names `{backend}`, whose home is {}",
                    name(&path),
                    homes.join(", ")
                ));
            }
        }
    }
    report(&faults);
}

#[test]
fn every_source_file_says_what_it_is_for_and_stays_readable() {
    let mut faults = BTreeSet::new();
    for path in files_below("src", ".rs").into_iter().chain(files_below("tests", ".rs")) {
        let text = fs::read_to_string(&path).unwrap();
        let generated = text.starts_with("// @generated") || text.starts_with("// This file is @generated");
        if generated {
            continue;
        }
        if !text.starts_with("//! ") {
            faults.insert(format!("{}: begins without a `//!` that says what it is for", name(&path)));
        }
        let lines = code_of(&text).lines().count();
        if lines > LINES_MAX {
            faults.insert(format!("{}: {lines} lines without its tests, at most {LINES_MAX}", name(&path)));
        }
        for (number, line) in text.lines().enumerate() {
            // Written in two parts, so that this file does not accuse itself.
            let leftovers =
                [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("dbg", "!(")];
            if leftovers.iter().any(|leftover| line.contains(leftover)) {
                faults.insert(format!("{}:{}: a leftover: {}", name(&path), number + 1, line.trim()));
            }
            if line.ends_with(char::is_whitespace) {
                faults.insert(format!("{}:{}: white space at the end", name(&path), number + 1));
            }
        }
    }
    report(&faults);
}

#[test]
fn what_is_banned_has_a_better_way() {
    const BANNED: &[(&str, &str, &[&str])] = &[
        ("println!(", "data goes to a locked stdout whose errors are seen", &["src/"]),
        ("eprintln!(", "it panics where nobody reads stderr: `telemetry::say`", &["src/"]),
        ("eprint!(", "it panics where nobody reads stderr: `telemetry::say`", &["src/"]),
        ("thread::sleep(", "wait for the event itself, or on paused time", &["src/", "tests/"]),
        ("process::exit(", "return an error: the door maps it to an exit code", &["src/"]),
        (".unwrap()", "name the error, or say with `expect` why there is none", &["src/"]),
    ];
    let mut faults = BTreeSet::new();
    for path in program_files().into_iter().chain(files_below("tests", ".rs")) {
        let file = name(&path);
        if file == "tests/tidy.rs" {
            continue;
        }
        // fjall tells nobody when a memtable was flushed, nor a system when a lock was let go of or another process
        // has replaced its files: one has to look.
        let looks = ["src/bus/local/store.rs", "src/disk.rs", "src/server/backup/mod.rs"];
        let may = |banned: &str| banned == "thread::sleep(" && looks.contains(&file.as_str());
        let text = fs::read_to_string(&path).unwrap();
        let code = if file.starts_with("src/") { code_of(&text) } else { text };
        for (banned, instead, places) in BANNED {
            let word_start = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric());
            let used = code.match_indices(banned).any(|(at, _)| banned.starts_with('.') || word_start(at));
            if used && !may(banned) && places.iter().any(|place| file.starts_with(place)) {
                faults.insert(format!("{file}: `{banned}`: {instead}"));
            }
        }
    }
    report(&faults);
}

#[test]
fn the_changelog_has_its_shape() {
    let text = fs::read_to_string(repo().join("CHANGELOG.md")).unwrap();
    let versions: Vec<_> = text.lines().filter(|line| line.starts_with("## ")).collect();
    assert!(
        versions.first().is_some_and(|first| *first == "## Unreleased"),
        "the first section is `## Unreleased`"
    );
    for line in text.lines().filter(|line| line.starts_with("### ")) {
        assert!(["### Added", "### Changed", "### Fixed", "### Removed"].contains(&line), "{line}");
    }
}

#[test]
fn the_map_is_short_and_names_every_module() {
    let map = fs::read_to_string(repo().join("ARCHITECTURE.md")).unwrap();
    assert!(map.lines().count() < 200, "ARCHITECTURE.md stays under 200 lines");
    for (module, _) in ARROWS {
        let folder = format!("src/{module}/");
        let file = format!("src/{module}.rs");
        assert!(map.contains(&folder) || map.contains(&file), "ARCHITECTURE.md does not name {module}");
    }
}

#[test]
fn readme_commands_exist() {
    let readme = fs::read_to_string(repo().join("README.md")).unwrap();
    let known: BTreeSet<String> =
        stk::cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let mut in_code = false;
    for line in readme.lines() {
        if line.starts_with("```") {
            in_code = !in_code;
        } else if let Some(rest) = line.strip_prefix("stk ").filter(|_| in_code) {
            let command = rest.split_whitespace().next().unwrap_or_default();
            assert!(
                command.starts_with('-') || known.contains(command),
                "README: there is no `stk {command}`"
            );
        }
    }
}

/// The string literals of some code, each in one line.
fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut chars = code.chars().peekable();
    while let Some(letter) = chars.next() {
        match letter {
            // A character: what may be a quote is none.
            '\'' if chars.peek() == Some(&'"') => drop(chars.nth(1)),
            '"' => {
                let mut literal = String::new();
                while let Some(letter) = chars.next().filter(|letter| *letter != '"') {
                    match letter {
                        '\\' => match chars.next() {
                            Some('\n') => while chars.next_if(|letter| letter.is_whitespace()).is_some() {},
                            Some(escaped) => literal.push(escaped),
                            None => {}
                        },
                        letter => literal.push(letter),
                    }
                }
                found.push(literal);
            }
            _ => {}
        }
    }
    found
}

/// The commands whose messages a file of `src/cli` holds: as they are typed, without `stk`.
fn commands_of(file: &str) -> &'static [&'static str] {
    let name = file.trim_start_matches("src/cli/").trim_end_matches(".rs");
    match name {
        "archive" | "archive/progress" => {
            &["archive run", "archive status", "archive list", "archive verify"]
        }
        "archive/adopt" => &["archive adopt"],
        "archive/copy" => &["archive copy"],
        "archive/lifecycle" => &["archive lifecycle"],
        "archive/restore" => &["archive restore"],
        "audit" => &["audit"],
        "backup" => &["backup create", "backup restore"],
        "confirm" => &["archive copy", "archive restore"],
        "bench/ingest" => &["bench ingest"],
        "bench/warm_insert" => &["bench warm-insert"],
        "bench/watch" => &["bench watch"],
        "demo" => &["demo"],
        "desk" => {
            &["archive run", "archive status", "archive list", "archive verify", "archive restore", "audit"]
        }
        "doctor" => &["doctor"],
        "history" | "output" => &["history"],
        "mod" => &["archive status", "archive list", "archive restore", "audit"],
        "replay" => &["replay"],
        "serve" => &["serve"],
        "watch" => &["watch"],
        _ => &[],
    }
}

/// Whether `stk` followed by `words` is a command with the options that `words` name: what is wrong.
fn wrong_command<'a>(words: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut root = stk::cli::command();
    root.build();
    let mut command = &root;
    for word in words {
        let word = word.trim_end_matches([',', ';', ':', '.']);
        if word.starts_with('{') && command.has_subcommands() {
            // Filled in when it is shown: tests of the real binary look at it.
            return None;
        }
        if let Some(option) = word.strip_prefix("--") {
            let option = option.split(['=', '{']).next().unwrap_or_default();
            if !command.get_arguments().any(|known| known.get_long() == Some(option)) {
                return Some(format!("`{}` has no `--{option}`", command.get_name()));
            }
        } else if let Some(inner) = command.find_subcommand(word) {
            command = inner;
        } else if command.has_subcommands() {
            return Some(format!("`{}` has no subcommand `{word}`", command.get_name()));
        }
    }
    None
}

#[test]
fn messages_name_commands_and_options_that_exist() {
    // Values of the settings that flags set, and options of other programs.
    const OTHERS: &[&str] = &["--features"];
    let mut faults = BTreeSet::new();
    for path in program_files() {
        let file = name(&path);
        for literal in literals(&code_of(&fs::read_to_string(&path).unwrap())) {
            let quoted = literal.split('`').skip(1).step_by(2);
            for command in quoted.filter_map(|quoted| quoted.strip_prefix("stk ")) {
                let wrong = wrong_command(command.split_whitespace());
                faults.extend(wrong.map(|wrong| format!("{file}: \"{literal}\": {wrong}")));
            }
            if !file.starts_with("src/cli/") {
                continue;
            }
            let outside =
                literal.split('`').enumerate().filter(|(at, part)| at % 2 == 0 || !part.starts_with("stk "));
            for option in outside.flat_map(|(_, part)| part.split_whitespace()) {
                let option = option.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-');
                if !option.starts_with("--") || OTHERS.contains(&option) {
                    continue;
                }
                let commands = commands_of(&file);
                let is_flag_name = literal == option;
                if commands.is_empty() && !is_flag_name {
                    faults.insert(format!("{file}: \"{literal}\": which command has `{option}`?"));
                }
                for command in commands.iter().filter(|_| !is_flag_name) {
                    let wrong = wrong_command(command.split(' ').chain([option]));
                    faults.extend(wrong.map(|wrong| format!("{file}: \"{literal}\": {wrong}")));
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn generated_files_are_current() {
    let update = std::env::var_os("STK_UPDATE").is_some();
    let mut stale = Vec::new();
    for (path, bytes) in stk::cli::generated_files() {
        let full = repo().join(&path);
        if update {
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            fs::write(&full, &bytes).unwrap();
        } else if fs::read(&full).ok() != Some(bytes) {
            stale.push(path.display().to_string());
        }
    }
    assert!(stale.is_empty(), "not current: {}; run `STK_UPDATE=1 cargo test --test tidy`", stale.join(", "));
}
