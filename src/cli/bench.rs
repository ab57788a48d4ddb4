//! `stk bench`: every figure the README states, for anyone to repeat on their machine.
//!
//! One JSON object a bench: its name, the figures under plain names with units, the parameters,
//! and the machine.

mod archive;
mod fanout;
mod history;
mod ingest;
pub(super) mod machine;
mod readers;
mod warm_insert;
mod watch;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{CliError, Global};
use crate::feed::iex::bench_decode;

#[derive(Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    bench: Bench,
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Bench {
    /// Simulated ticks through the log and the processor into hot and warm, end to end
    Ingest(ingest::IngestArgs),
    /// How quickly an IEX capture is decoded
    Decode {
        /// Capture in IEX-TP/TOPS 1.6; without it one is made up
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Repeat the capture in memory to at least so many bytes
        #[arg(long, value_name = "BYTES", default_value_t = 100_000_000)]
        bytes: u64,
    },
    /// Quotes to many WebSocket connections, beside a bare loop in the same run
    Fanout(fanout::FanoutArgs),
    /// One symbol of median activity out of many stored rows
    History(history::HistoryArgs),
    /// Blocks into ClickHouse, beside posting ready-made files of the same rows
    WarmInsert(warm_insert::WarmInsertArgs),
    /// Stored days into an archive, proven equal on the way
    Archive(archive::ArchiveArgs),
    /// What clients that do not read cost those that do
    Readers(readers::ReadersArgs),
    /// What the board costs under many updates, in a terminal of its own
    Watch(watch::WatchArgs),
}

/// What a bench found.
struct Findings {
    bench: &'static str,
    figures: Map<String, Value>,
    parameters: Map<String, Value>,
}

impl Findings {
    fn new(bench: &'static str) -> Self {
        Self { bench, figures: Map::new(), parameters: Map::new() }
    }

    fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    fn parameter(&mut self, name: &str, value: impl Into<Value>) {
        self.parameters.insert(name.to_owned(), value.into());
    }

    fn print(self, json: bool) -> Result<(), CliError> {
        let machine = machine::describe();
        let mut out = String::new();
        if json {
            let mut object = Map::new();
            object.insert("bench".to_owned(), self.bench.into());
            object.extend(self.figures);
            object.insert("parameters".to_owned(), Value::Object(self.parameters));
            object.insert("machine".to_owned(), machine);
            out = Value::Object(object).to_string() + "\n";
        } else {
            out.push_str(&format!("{}\n", self.bench));
            for (name, value) in &self.figures {
                out.push_str(&format!("  {name:<28} {}\n", grouped(value)));
            }
            for (name, value) in &self.parameters {
                out.push_str(&format!("  with {name:<23} {}\n", grouped(value)));
            }
            out.push_str(&format!("  on {machine}\n"));
        }
        std::io::stdout().write_all(out.as_bytes()).map_err(|error| CliError::stdout(&error))
    }
}

fn decode(file: Option<&Path>, bytes: u64) -> Result<Findings, CliError> {
    let found = bench_decode(file, bytes).map_err(CliError::usage)?;
    let mut findings = Findings::new("decode");
    findings.figure("messages_per_s", rounded(found.messages_per_s));
    findings.figure("bytes_per_s", rounded(found.bytes_per_s));
    findings.figure("messages", found.messages);
    findings.figure("ticks", found.ticks);
    findings.figure("rss_peak_bytes", machine::rss_peak_bytes());
    findings.parameter("capture", file.map_or("made up".to_owned(), |file| file.display().to_string()));
    findings.parameter("capture_bytes", found.bytes);
    findings.parameter("threads", 1);
    Ok(findings)
}

/// A number as a person reads it: groups of three digits, at most three decimals.
fn grouped(value: &Value) -> String {
    let Some(number) = value.as_f64() else { return value.to_string() };
    let whole = number.trunc().abs() as u64;
    let digits = whole.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    let fraction = number.abs().fract();
    if fraction > 0.0005 && whole < 1_000 {
        out.push_str(format!("{fraction:.3}").trim_start_matches('0').trim_end_matches('0'));
    }
    if number < 0.0 { format!("-{out}") } else { out }
}

/// `value` rounded to three decimals, so that JSON carries no noise.
fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

pub(super) fn run(args: BenchArgs, global: &Global) -> Result<(), CliError> {
    let findings = match args.bench {
        Bench::Ingest(bench) => ingest::run(&bench, global)?,
        Bench::Decode { file, bytes } => decode(file.as_deref(), bytes)?,
        Bench::Fanout(bench) => fanout::run(&bench)?,
        Bench::Readers(bench) => readers::run(&bench)?,
        Bench::History(bench) => history::run(&bench, global)?,
        Bench::WarmInsert(bench) => warm_insert::run(&bench, global)?,
        Bench::Archive(bench) => archive::run(&bench, global)?,
        Bench::Watch(bench) => watch::run(&bench, global)?,
    };
    findings.print(args.json)
}
