//! The insert stage alone: blocks into ClickHouse, beside posting ready-made files of their rows.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;

use super::ingest::MarketArgs;
use super::{CliError, Findings, Global, machine, rounded};
use crate::cli::serve::node_error;
use crate::feed::BATCH_TICKS_MAX;
use crate::feed::iex::{IexReader, Selection};
use crate::feed::sim::Sim;
use crate::market::{NO_SYMBOL, Seq, SymbolTable, Tick, TickBatchBuilder};
use crate::server::processor::ProcessorConfig;
use crate::tiering::warm::Block;
use crate::tiering::warm::clickhouse::{ClickHouseOptions, InsertFound, InsertRound, bench_insert};

#[derive(Args)]
pub(super) struct WarmInsertArgs {
    /// ClickHouse's HTTP address; otherwise the setting `warm.clickhouse_url`
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    market: MarketArgs,
    /// The ticks of an IEX capture (TOPS 1.6) instead of simulated ones
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ticks", "symbols", "rate", "seed"])]
    capture: Option<PathBuf>,
    /// How often both ways are measured; the figures are of the median round
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

pub(super) fn run(args: &WarmInsertArgs, global: &Global) -> Result<Findings, CliError> {
    let url = args.url.iter().map(|url| ("warm.clickhouse_url", url.clone(), "--url"));
    let config = global.resolve(&url.collect::<Vec<_>>())?.config();
    let set = config.clickhouse.as_ref().ok_or_else(|| {
        CliError::usage("no ClickHouse to measure: give `--url`, or set `warm.clickhouse_url`")
    })?;
    let mut options = ClickHouseOptions::new(&set.url);
    (options.user, options.password) = (set.user.clone(), set.password.clone());
    let processor = ProcessorConfig { rows_max: config.rows_max, ..ProcessorConfig::default() };
    let partitions = config.partitions;
    let rows_max = processor.block_rows_max(partitions);
    // Made once: the same rows in every round, and no part of what is measured.
    let mut cutter = Cutter::new(partitions, rows_max);
    if let Some(file) = &args.capture {
        let mut reader = IexReader::open(file, Selection::default()).map_err(CliError::usage)?;
        reader.decode_all(&mut |ticks| cutter.take(ticks)).map_err(CliError::usage)?;
    } else {
        let mut sim = Sim::new(args.market.market()?);
        let mut ticks = Vec::with_capacity(BATCH_TICKS_MAX);
        let mut more = true;
        while more {
            more = sim.fill(&mut ticks, BATCH_TICKS_MAX);
            cutter.take(&ticks);
            ticks.clear();
        }
    }
    let blocks = cutter.finish();
    let copy = || blocks.iter().map(copy_of).collect();
    let found = super::super::runtime()?
        .block_on(bench_insert(&options, copy, args.rounds))
        .map_err(|error| node_error(error.into()))?;
    let mut findings = Findings::new("warm-insert");
    tell(&found, &mut findings);
    match &args.capture {
        Some(file) => findings.parameter("capture", file.display().to_string()),
        None => args.market.tell(&mut findings),
    }
    findings.parameter("rounds", args.rounds);
    findings.parameter("log.partitions", partitions);
    findings.parameter("processor.rows_max", config.rows_max);
    findings.parameter("block_rows_max", rows_max);
    Ok(findings)
}

fn tell(found: &InsertFound, findings: &mut Findings) {
    let median = |of: &dyn Fn(&InsertRound) -> f64| {
        let mut seconds: Vec<f64> = found.rounds.iter().map(of).collect();
        seconds.sort_by(f64::total_cmp);
        seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let rows = found.rows as f64;
    let (commits, posts) = (
        rows / median(&|round| round.commits.as_secs_f64()),
        rows / median(&|round| round.posts.as_secs_f64()),
    );
    findings.figure("rows_per_s", rounded(commits));
    findings.figure("posted_rows_per_s", rounded(posts));
    findings.figure("ratio", rounded(commits / posts));
    findings.figure("rows", found.rows);
    findings.figure("blocks", found.blocks);
    findings.figure("file_bytes", found.file_bytes);
    findings.figure("stored_bytes_per_row", rounded(found.stored_bytes as f64 / rows));
    findings.figure("rss_peak_bytes", machine::rss_peak_bytes());
}

fn copy_of(block: &Block) -> Block {
    Block {
        partition: block.partition,
        first_offset: block.first_offset,
        next_offset: block.next_offset,
        batches: block.batches.clone(),
        checkpoint: block.checkpoint.clone(),
        seam: None,
    }
}

/// Ticks of a record of the log, as feeds bring them in.
const RECORD_TICKS: u32 = 1_000;

/// Cuts ticks into blocks as the processor does: by partition, each block's rows by kind and day.
struct Cutter {
    rows_max: usize,
    table: SymbolTable,
    partitions: Vec<Partition>,
    blocks: Vec<Block>,
}

struct Partition {
    builder: TickBatchBuilder,
    /// Where the block begins, and where the next tick stands.
    first_offset: u64,
    place: Seq,
}

impl Partition {
    fn cut(&mut self, table: &SymbolTable) -> Block {
        let first_offset = self.first_offset;
        self.first_offset = self.place.offset + 1;
        (self.place.offset, self.place.index) = (self.first_offset, 0);
        Block {
            partition: self.place.partition,
            first_offset,
            next_offset: self.first_offset,
            batches: self.builder.finish(table),
            checkpoint: Bytes::new(),
            seam: None,
        }
    }
}

impl Cutter {
    fn new(partitions: u16, rows_max: usize) -> Self {
        let partition = |partition| Partition {
            builder: TickBatchBuilder::new(partition),
            first_offset: 0,
            place: Seq { partition, offset: 0, index: 0 },
        };
        let partitions = (0..partitions).map(partition).collect();
        Self { rows_max, table: SymbolTable::default(), partitions, blocks: Vec::new() }
    }

    fn take(&mut self, ticks: &[Tick]) {
        for tick in ticks {
            let symbol = tick.symbol();
            let at = symbol.map_or(0, |symbol| symbol.partition(self.partitions.len() as u16));
            let number = symbol.map_or(NO_SYMBOL, |symbol| self.table.intern(symbol));
            let partition = &mut self.partitions[usize::from(at)];
            partition.builder.push(number, partition.place, tick);
            partition.place.index += 1;
            if partition.place.index == RECORD_TICKS {
                (partition.place.offset, partition.place.index) = (partition.place.offset + 1, 0);
            }
            if partition.builder.rows() >= self.rows_max {
                self.blocks.push(partition.cut(&self.table));
            }
        }
    }

    fn finish(mut self) -> Vec<Block> {
        for partition in &mut self.partitions {
            if partition.builder.rows() > 0 {
                self.blocks.push(partition.cut(&self.table));
            }
        }
        self.blocks
    }
}
