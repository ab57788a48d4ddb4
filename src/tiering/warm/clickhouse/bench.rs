//! How quickly blocks go in, beside ready-made files of the same rows posted to the same server.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::Encoder;
use super::commit::{INSERTS_MAX, placed};
use super::schema::{identifier, rows_table};
use super::{ClickHouseOptions, ClickHouseWarm};
use crate::market::{Kind, TickBatch, TradingDay};
use crate::tiering::warm::{Block, Warm, WarmError};

/// Rows of one message of a ready-made file.
const FILE_BATCH_ROWS: usize = 65_536;

/// What one round found.
#[derive(Clone, Copy, Debug)]
pub struct InsertRound {
    /// The time of all commits: rows, counts, marks and looks at the claims.
    pub commits: Duration,
    /// The time of posting the ready-made files.
    pub posts: Duration,
}

/// What was inserted, and how long it took, by round.
#[derive(Clone, Debug)]
pub struct InsertFound {
    /// Rows of each round, either way.
    pub rows: u64,
    /// Blocks of each round.
    pub blocks: u64,
    /// Bytes of the ready-made files.
    pub file_bytes: u64,
    /// Bytes that the rows take on the server's disk as commits store them.
    pub stored_bytes: u64,
    /// Each round.
    pub rounds: Vec<InsertRound>,
}

/// Commits `make`'s blocks, and posts Arrow streams of the same rows by plain HTTP to tables of the
/// same structure, `rounds` times in a database that is made for it and dropped. Blocks of one
/// partition follow on each other, partitions go side by side; files, one a partition and kind, are
/// posted as many side by side as commits have inserts. The server must speak plain HTTP.
pub async fn bench_insert(
    options: &ClickHouseOptions,
    make: impl Fn() -> Vec<Block>,
    rounds: u32,
) -> Result<InsertFound, WarmError> {
    let mut options = options.clone();
    options.database = format!("stk_bench_{}", super::nonce());
    let warm = ClickHouseWarm::open(&options).await?;
    let outcome = measure(&options, &warm, make, rounds).await;
    let drop = format!("DROP DATABASE {} SYNC", identifier(&options.database));
    let dropped = warm.inner.nodes.current().execute(&drop).await;
    let found = outcome?;
    dropped.map(|()| found)
}

async fn measure(
    options: &ClickHouseOptions,
    warm: &ClickHouseWarm,
    make: impl Fn() -> Vec<Block>,
    rounds: u32,
) -> Result<InsertFound, WarmError> {
    let blocks = make();
    let files = files(&blocks)?;
    let rows_of = |block: &Block| block.batches.iter().map(|(_, batch)| batch.len() as u64).sum::<u64>();
    let mut found = InsertFound {
        rows: blocks.iter().map(rows_of).sum(),
        blocks: blocks.len() as u64,
        file_bytes: files.iter().map(|(.., file)| file.len() as u64).sum(),
        stored_bytes: 0,
        rounds: Vec::new(),
    };
    let server = warm.inner.nodes.current();
    let kinds: BTreeSet<Kind> = files.iter().map(|(_, kind, _)| *kind).collect();
    for kind in &kinds {
        server.execute(&format!("CREATE TABLE posted_{0} AS {0}", rows_table(*kind))).await?;
    }
    drop(blocks);
    for round in 0..rounds {
        let mut partitions: BTreeMap<u16, Vec<Block>> = BTreeMap::new();
        for block in make() {
            partitions.entry(block.partition).or_default().push(block);
        }
        let mut marks = BTreeMap::new();
        for partition in partitions.keys() {
            marks.insert(*partition, warm.claim(*partition).await?.next_offset);
        }
        let began = Instant::now();
        stream::iter(partitions)
            .map(Ok::<_, WarmError>)
            .try_for_each_concurrent(None, |(partition, blocks)| {
                let from = marks[&partition];
                async move {
                    for mut block in blocks {
                        block.first_offset += from;
                        block.next_offset += from;
                        warm.commit(block).await?;
                    }
                    Ok(())
                }
            })
            .await?;
        let commits = began.elapsed();
        let began = Instant::now();
        stream::iter(marks.keys())
            .map(Ok)
            .try_for_each_concurrent(None, |partition| {
                stream::iter(files.iter().filter(move |(of, ..)| of == partition))
                    .map(Ok)
                    .try_for_each_concurrent(INSERTS_MAX, |(_, kind, file)| post(options, *kind, file))
            })
            .await?;
        found.rounds.push(InsertRound { commits, posts: began.elapsed() });
        for kind in &kinds {
            server.execute(&format!("TRUNCATE TABLE posted_{} SYNC", rows_table(*kind))).await?;
        }
        if round == 0 {
            found.stored_bytes = warm.inner.units().await?.iter().map(|unit| unit.bytes).sum();
        }
    }
    Ok(found)
}

/// All rows of a partition and kind as one Arrow stream, with the columns that commits add.
fn files(blocks: &[Block]) -> Result<Vec<(u16, Kind, Vec<u8>)>, WarmError> {
    let failed = |reason: String| WarmError::Io { path: "the ready-made file".to_owned(), reason };
    let mut batches: BTreeMap<(u16, Kind), Vec<(TradingDay, &TickBatch)>> = BTreeMap::new();
    for block in blocks {
        for (day, batch) in &block.batches {
            batches.entry((block.partition, batch.kind())).or_default().push((*day, batch));
        }
    }
    let mut files = Vec::new();
    for ((partition, kind), batches) in batches {
        let mut rows = Vec::new();
        let mut encoder = None;
        for (day, batch) in batches {
            let batch = placed(batch, day, 1, 1);
            if encoder.is_none() {
                encoder = Some(Encoder::new(&batch.schema()).map_err(|error| failed(error.to_string()))?);
            }
            let Some(encoder) = &mut encoder else { continue };
            for from in (0..batch.num_rows()).step_by(FILE_BATCH_ROWS) {
                let slice = batch.slice(from, FILE_BATCH_ROWS.min(batch.num_rows() - from));
                rows.extend(encoder.encode(&slice).map_err(|error| failed(error.to_string()))?);
            }
        }
        if let Some(mut encoder) = encoder {
            rows.extend(encoder.finish().map_err(|error| failed(error.to_string()))?);
            files.push((partition, kind, rows));
        }
    }
    Ok(files)
}

/// Posts `file` as any HTTP client would.
async fn post(options: &ClickHouseOptions, kind: Kind, file: &[u8]) -> Result<(), WarmError> {
    let url = options.urls.first().map(String::as_str).unwrap_or_default();
    let failed = |reason: String| WarmError::Io { path: url.to_owned(), reason };
    let Some(host) = url.strip_prefix("http://").map(|host| host.trim_end_matches('/')) else {
        return Err(failed("the file is posted by plain HTTP: give an address with http://".to_owned()));
    };
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let head = format!(
        "POST /?database={}&query=INSERT%20INTO%20posted_{}%20FORMAT%20ArrowStream HTTP/1.1\r\nhost: {host}\r\n\
         x-clickhouse-user: {}\r\nx-clickhouse-key: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        options.database,
        rows_table(kind),
        options.user,
        options.password.expose(),
        file.len()
    );
    let exchange = async {
        let mut stream = TcpStream::connect(&address).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(file).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = exchange.await.map_err(|error| failed(error.to_string()))?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(failed(answer)) }
}
