//! What a server said is accepted stands in history exactly once, however often it is killed.
//!
//! A producer brings a simulated market, whose seed makes the expected set, while the server is
//! killed with SIGKILL at random moments and started again: some while it takes ticks, some while it
//! opens its stores, cuts a torn tail and restores hot. The producer's client resends what was not
//! acknowledged; the server has to know the repeats, over the kills too.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::address::OwnAddress;
use super::crash::Row;
use super::support::{self, Home, Server, Starting};
use futures_util::TryStreamExt;
use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use stk::config::{Config, Resolved};
use stk::feed::sim::{Sim, SimConfig};
use stk::market::{Kind, Tick};
use stk::server::stores::Stores;
use stk::tiering::history::HistoryQuery;

const KILLS: usize = 32;
const BATCH_TICKS: usize = 200;
/// The server lives for so many batches, at most.
const LIFE_BATCHES_MAX: u64 = 60;
/// One in so many kills comes before the server listens.
const EARLY_KILLS_ONE_IN: u64 = 3;
/// Names the seed of the moments to kill at; a new one each time without it.
const SEED_VARIABLE: &str = "STK_TEST_KILL_SEED";

/// The seed, which is told when the test fails.
pub(crate) fn seed() -> u64 {
    let given = std::env::var(SEED_VARIABLE).ok();
    let seed = given
        .map_or_else(|| RandomState::new().hash_one(SEED_VARIABLE), |seed| seed.parse().expect("a number"));
    eprintln!("the moments to kill at are of seed {seed}: {SEED_VARIABLE}={seed} repeats them");
    seed
}

fn market() -> Sim {
    let start = "2025-03-07T14:30:00Z".parse().expect("a time");
    Sim::new(SimConfig { seed: 11, symbols: 300, rate_ticks_per_s: 500.0, start, count: None })
}

pub(crate) fn hash(tick: &Tick) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{tick:?}").hash(&mut hasher);
    hasher.finish()
}

/// How often each tick stands in the stored history.
pub(crate) async fn stored(config: &Config) -> BTreeMap<u64, u64> {
    let stores = Stores::open_existing(config).await.expect("a store");
    let mut counts = BTreeMap::new();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Bar) {
        let query = HistoryQuery {
            symbols: Vec::new(),
            kind,
            timeframe: None,
            range: super::crash::rounds(),
            limit: None,
        };
        let answer = stores.history().query(query).await.expect("an answer");
        assert!(answer.coverage.missing.is_empty(), "{:?}", answer.coverage.missing);
        let mut rows = answer.rows;
        while let Some(batch) = rows.try_next().await.expect("rows") {
            let view = batch.rows().expect("columns");
            for row in 0..batch.len() {
                *counts.entry(hash(&view.tick(row).expect("a tick"))).or_insert(0) += 1;
            }
        }
    }
    stores.close().await;
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_and_nothing_doubled() {
    let home = Home::new();
    let data = home.path("data");
    let ingest = OwnAddress::new();
    let env = |life: usize| {
        [
            ("STK_LOG_DURABILITY", ["interval", "always"][life % 2]),
            ("STK_PROCESSOR_ROWS_MAX", "8000"),
            ("STK_PROCESSOR_BLOCK_AGE_MS_MAX", "100"),
            ("STK_LOG_FREE_BYTES_MIN", "0"),
        ]
    };
    // How long the last start took bounds the moment of the next early kill.
    let start_us = Cell::new(0);
    let start = |life: usize| {
        let began = Instant::now();
        let server = Server::start_with(&home, &data, &ingest, &[], &env(life));
        start_us.set(began.elapsed().as_micros() as u64);
        server
    };
    let mut server = start(0);
    let mut client = support::ingest(&ingest, 42, u32::MAX).await.expect("a server");
    let enough = Arc::new(AtomicBool::new(false));
    let (sent, mut is_sent) = tokio::sync::watch::channel(0_u64);
    let producer = tokio::spawn({
        let enough = enough.clone();
        async move {
            let (mut sim, mut ticks) = (market(), Vec::new());
            while !enough.load(Ordering::Relaxed) {
                let from = ticks.len();
                sim.fill(&mut ticks, BATCH_TICKS);
                client.send(&ticks[from..]).await.expect("taken in the end");
                sent.send_modify(|batches| *batches += 1);
            }
            client.flush().await.expect("acknowledged in the end");
            assert_eq!(client.acknowledged_ticks(), ticks.len() as u64);
            ticks
        }
    });
    let mut random = SplitMix64::seed_from_u64(seed());
    let mut row = Row::new("at random, one machine");
    let mut early_kills = 0;
    let mut life = 1;
    while life <= KILLS {
        let until = *is_sent.borrow() + random.next_u64() % LIFE_BATCHES_MAX;
        is_sent.wait_for(|batches| *batches >= until).await.expect("the producer runs");
        server.kill();
        row.killed();
        life += 1;
        while life <= KILLS && random.next_u64().is_multiple_of(EARLY_KILLS_ONE_IN) {
            let starting = Starting::spawn(&home, &data, &ingest, &env(life));
            tokio::time::sleep(Duration::from_micros(random.next_u64() % start_us.get())).await;
            drop(starting);
            row.killed();
            early_kills += 1;
            life += 1;
        }
        server = start(life);
    }
    enough.store(true, Ordering::Relaxed);
    let ticks = producer.await.expect("the producer ends");
    // Once more without mercy: what was acknowledged is durable already.
    server.kill();
    let flags = [("data.dir", data.display().to_string(), "--data")];
    let config = Resolved::new(None, [], &flags).expect("good settings").config();
    let (counts, sent) = (stored(&config).await, ticks.len());
    let expected: BTreeMap<u64, u64> = ticks.iter().fold(BTreeMap::new(), |mut counts, tick| {
        *counts.entry(hash(tick)).or_insert(0) += 1;
        counts
    });
    let lost = expected.iter().filter(|(tick, count)| counts.get(tick).unwrap_or(&0) < count).count();
    let doubled = counts.iter().filter(|(tick, count)| expected.get(tick).unwrap_or(&0) < *count).count();
    row.counted(lost as u64, doubled as u64);
    eprintln!(
        "{KILLS} kills, {early_kills} of them early, {sent} ticks accepted, {lost} lost, {doubled} doubled"
    );
    assert_eq!((lost, doubled), (0, 0), "of {sent} ticks after {KILLS} kills");
    assert!(sent > 10_000, "only {sent} ticks went through");
}
