//! Simulated ticks, encoded, durable in the log, processed, in hot and in warm, end to end: in a
//! data directory, or in the services that the configuration names.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{CliError, Findings, Global, machine, rounded};
use crate::cli::serve::node_error;
use crate::config::Config;
use crate::feed::sim::{Pace, SYMBOLS_MAX, Sim, SimConfig, SimFeed};
use crate::market::Tick;
use crate::server::intake::{Intake, IntakeMetrics, run_feed};
use crate::server::processor::ProcessorMetrics;
use crate::server::stores::Stores;

#[derive(Args)]
pub(super) struct IngestArgs {
    #[command(flatten)]
    market: MarketArgs,
    /// Keep what is stored in this directory, which must be empty; otherwise it is removed. What goes
    /// into servers that the configuration names stays there
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// The market that benches store.
#[derive(Args)]
pub(super) struct MarketArgs {
    /// How many ticks
    #[arg(long, value_name = "TICKS", default_value_t = 30_000_000)]
    ticks: u64,
    /// How many symbols trade
    #[arg(long, value_name = "COUNT", default_value_t = SYMBOLS_MAX)]
    symbols: usize,
    /// Ticks per second of simulated time: how many days they spread over
    #[arg(long, value_name = "TICKS", default_value_t = 1_500.0)]
    rate: f64,
    /// The same seed gives the same ticks
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

impl MarketArgs {
    /// From an opening on.
    pub(super) fn market(&self) -> Result<SimConfig, CliError> {
        let Self { ticks, symbols, rate, seed } = *self;
        if !(1..=SYMBOLS_MAX).contains(&symbols) {
            return Err(CliError::usage(format!("{symbols} symbols: the simulator has 1 to {SYMBOLS_MAX}")));
        }
        if !(0.1..=1e8).contains(&rate) {
            return Err(CliError::usage(format!("a rate of {rate}: the simulator takes 0.1 to 100000000")));
        }
        if ticks == 0 {
            return Err(CliError::usage("--ticks 0 leaves nothing to measure"));
        }
        let start = "2025-03-03T14:30:00Z".parse().map_err(CliError::failed)?;
        Ok(SimConfig { seed, symbols, rate_ticks_per_s: rate, start, count: Some(ticks) })
    }

    pub(super) fn tell(&self, findings: &mut Findings) {
        findings.parameter("ticks", self.ticks);
        findings.parameter("symbols", self.symbols);
        findings.parameter("seed", self.seed);
        findings.parameter("rate", rounded(self.rate));
    }
}

/// What storing came to.
pub(super) struct Stored {
    pub(super) elapsed: Duration,
    pub(super) ticks: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    /// Where warm is in the data directory.
    pub(super) segments: Option<u64>,
    /// Each tier, and where it is.
    pub(super) places: Vec<(&'static str, String)>,
}

pub(super) fn run(args: &IngestArgs, global: &Global) -> Result<Findings, CliError> {
    let market = args.market.market()?;
    let temporary = tempfile::tempdir().map_err(CliError::failed)?;
    let dir = match &args.data {
        Some(dir) if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) => {
            return Err(CliError::usage(format!("{} is not empty", dir.display())));
        }
        Some(dir) => dir.clone(),
        None => temporary.path().join("data"),
    };
    let config = config(global, &dir)?;
    let stored = store(&config, market.clone())?;
    let rss_peak_bytes = machine::rss_peak_bytes();
    let generator = generate(market);
    let mut findings = Findings::new("ingest");
    let seconds = stored.elapsed.as_secs_f64();
    findings.figure("ticks_per_s", rounded(stored.ticks as f64 / seconds));
    findings.figure("rss_peak_bytes", rss_peak_bytes);
    findings.figure("elapsed_s", rounded(seconds));
    findings.figure("generator_s", rounded(generator.as_secs_f64()));
    findings.figure("generator_ns_per_tick", rounded(generator.as_nanos() as f64 / stored.ticks as f64));
    findings.figure("bytes_stored", stored.bytes);
    findings.figure("bytes_per_tick", rounded(stored.bytes as f64 / stored.ticks as f64));
    findings.figure("rows_stored", stored.rows);
    if let Some(segments) = stored.segments {
        findings.figure("segments", segments);
    }
    args.market.tell(&mut findings);
    findings.parameter("processor.rows_max", config.rows_max);
    findings.parameter("log.partitions", config.partitions);
    if config.kafka.is_none() {
        let every = config.sync_interval.map(|every| format!("interval {} ms", every.as_millis()));
        findings.parameter("log.durability", every.unwrap_or("always".to_owned()));
    }
    for (tier, place) in stored.places {
        findings.parameter(tier, place);
    }
    Ok(findings)
}

/// What the ticks cost to make, on one thread.
fn generate(market: SimConfig) -> Duration {
    let began = Instant::now();
    let mut sim = Sim::new(market);
    let mut ticks: Vec<Tick> = Vec::with_capacity(crate::feed::BATCH_TICKS_MAX);
    while sim.fill(&mut ticks, crate::feed::BATCH_TICKS_MAX) {
        std::hint::black_box(&ticks).len();
        ticks.clear();
    }
    began.elapsed()
}

/// The settings of a server with its data in `dir`.
pub(super) fn config(global: &Global, dir: &Path) -> Result<Config, CliError> {
    Ok(global.resolve(&[("data.dir", dir.display().to_string(), "--data")])?.config())
}

/// Stores `market`, by the parts and settings that a server has; the time ends when all of
/// it is in warm.
pub(super) fn store(config: &Config, market: SimConfig) -> Result<Stored, CliError> {
    crate::cli::runtime()?.block_on(async {
        let stores = Stores::open(config).await.map_err(node_error)?;
        for partition in 0..stores.bus.partitions() {
            let bounds = stores.bus.bounds(partition).await.map_err(CliError::failed)?;
            if bounds.next > 0 {
                let [(_, log), ..] = &stores.places()[..] else { continue };
                return Err(CliError::usage(format!(
                    "{log} holds records already, and a bench fills stores of its own: name others for it by \
                     log.kafka_topic, warm.clickhouse_database and hot.redis_prefix"
                )));
            }
        }
        let (processor, _hot) = stores.process(config, ProcessorMetrics::default());
        processor.restored().await;
        let began = Instant::now();
        let intake = Intake::new(stores.bus.clone(), IntakeMetrics::default());
        // On a thread of its own, as a server's feeds are.
        let mut feed = SimFeed::new(market, Pace::Max);
        let fed = tokio::spawn(async move { run_feed(&mut feed, intake, CancellationToken::new()).await });
        let fed = fed.await.map_err(CliError::failed)?.map_err(|error| node_error(error.into()))?;
        processor.stop().await.map_err(|error| node_error(error.into()))?;
        let elapsed = began.elapsed();
        drop(processor);
        let units = stores.warm.units().await.map_err(CliError::failed)?;
        let local = stores.local_warm().map(|warm| warm.stats());
        let places = stores.places();
        stores.close().await;
        Ok(Stored {
            elapsed,
            ticks: fed.ticks,
            rows: units.iter().map(|unit| unit.rows).sum(),
            bytes: units.iter().map(|unit| unit.bytes).sum(),
            segments: local.map(|kinds| kinds.iter().map(|kind| kind.segments).sum()),
            places,
        })
    })
}
