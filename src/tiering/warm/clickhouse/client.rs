//! Requests to ClickHouse, with a bound in time each, and what its errors mean.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::CompressionType;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_schema::SchemaRef;
use bytes::Bytes;
use clickhouse::query::BytesCursor;
use clickhouse::{Client, Compression, Row, RowOwned, RowRead, RowWrite};

use super::ClickHouseOptions;
use super::metrics::ClickHouseWarmMetrics;
use crate::tiering::warm::WarmError;

/// How long a small question or change may take. Past it the outcome is unknown, which every caller
/// is made for.
const REQUEST_SECONDS_MAX: u64 = 60;

/// How long one piece of an insert may wait to be taken, and the server may take after the last.
const INSERT_SECONDS_MAX: u64 = 180;

/// How long the next rows of a scan may take: a filter may pass over a day before it finds one.
const ROWS_SECONDS_MAX: u64 = 300;

/// How long the server waits for a reader that pauses between rows before it gives the scan up.
const READER_SECONDS_MAX: u64 = 3_600;

/// How long a change of stored parts (a mutation) may take.
const MUTATION_SECONDS_MAX: u64 = 3_600;

/// Rows of one message of a stream: some megabytes. The server makes a dictionary anew of every
/// message's, so that small ones cost it more.
const SLICE_ROWS: usize = 65_536;

/// More rows and bytes than any block has: one insert becomes one part.
const INSERT_ROWS_MAX: u64 = 1 << 30;
const INSERT_BYTES_MAX: u64 = 1 << 40;

/// Settings that could make the server leave rows out of an answer without an error, or refuse a long
/// question, as they have to be: sent with every request, so that no profile of the user decides what is found. A profile that
/// forbids to change one of them is refused with the first request.
const WHOLE_ANSWERS: &[(&str, &str)] = &[
    ("limit", "0"),
    ("offset", "0"),
    ("max_rows_to_read", "0"),
    ("max_bytes_to_read", "0"),
    ("max_rows_to_read_leaf", "0"),
    ("max_bytes_to_read_leaf", "0"),
    ("max_result_rows", "0"),
    ("max_result_bytes", "0"),
    ("read_overflow_mode", "throw"),
    ("read_overflow_mode_leaf", "throw"),
    ("result_overflow_mode", "throw"),
    ("timeout_overflow_mode", "throw"),
    ("timeout_overflow_mode_leaf", "throw"),
    ("group_by_overflow_mode", "throw"),
    ("sort_overflow_mode", "throw"),
    ("distinct_overflow_mode", "throw"),
    ("set_overflow_mode", "throw"),
    ("join_overflow_mode", "throw"),
    ("transfer_overflow_mode", "throw"),
    ("additional_table_filters", "{}"),
    ("additional_result_filter", ""),
    ("skip_unavailable_shards", "0"),
    // Thousands of symbols may be asked for by name.
    ("max_query_size", "67108864"),
    ("max_ast_elements", "1000000"),
    // An answer of a moment ago: the books must be read as they are.
    ("use_query_cache", "0"),
    // What an aggregate says of no rows.
    ("empty_result_for_aggregation_by_empty_set", "0"),
    ("aggregate_functions_null_for_empty", "0"),
];

/// The servers, each by a client of its own.
pub(super) struct Nodes {
    /// At least one.
    nodes: Vec<Node>,
    /// The one that is asked; the next one once it does not answer.
    current: AtomicUsize,
    metrics: ClickHouseWarmMetrics,
}

/// One server.
#[derive(Clone)]
pub(super) struct Node {
    client: Client,
    url: Arc<str>,
}

/// Whether bytes travel within this machine: compressing them costs more than it saves (5.9 M rows/s
/// into a server on loopback without, 3.2 M with LZ4).
fn is_loopback(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Nodes {
    /// Errors: no address is given, or several without a cluster.
    pub(super) fn new(
        options: &ClickHouseOptions,
        metrics: ClickHouseWarmMetrics,
    ) -> Result<Self, WarmError> {
        let nodes: Vec<Node> = options
            .urls
            .iter()
            .map(|url| {
                let compression = if is_loopback(url) { Compression::None } else { Compression::Lz4 };
                let client = Client::default()
                    .with_url(url)
                    .with_user(&options.user)
                    .with_password(options.password.expose())
                    .with_compression(compression)
                    .with_product_info("stk", env!("CARGO_PKG_VERSION"));
                let client = WHOLE_ANSWERS
                    .iter()
                    .fold(client, |client, (name, value)| client.with_setting(*name, *value));
                Node { client, url: url.as_str().into() }
            })
            .collect();
        let reason = match nodes.len() {
            0 => Some("no address of a server is given"),
            2.. if options.cluster.is_none() => Some(
                "several addresses are given and no cluster that makes one store of the servers: name it in \
                 `warm.clickhouse_cluster`, or give one address",
            ),
            _ => None,
        };
        if let Some(reason) = reason {
            return Err(WarmError::Refused { path: "clickhouse".to_owned(), reason: reason.to_owned() });
        }
        Ok(Self { nodes, current: AtomicUsize::new(0), metrics })
    }

    /// Has every request name `database`, which exists from here on.
    pub(super) fn use_database(&mut self, database: &str) {
        for node in &mut self.nodes {
            node.client = node.client.clone().with_database(database);
        }
    }

    /// Every server.
    pub(super) fn all(&self) -> &[Node] {
        &self.nodes
    }

    /// The server to ask.
    pub(super) fn current(&self) -> &Node {
        &self.nodes[self.current.load(Ordering::Relaxed) % self.nodes.len()]
    }

    /// Asks the next server from now on.
    pub(super) fn use_next(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure, and goes on with the next server if this one can't be reached.
    fn note<T>(&self, outcome: Result<T, WarmError>) -> Result<T, WarmError> {
        if let Err(error) = &outcome {
            self.metrics.request_failures.inc();
            if error.is_passing() {
                self.use_next();
            }
        }
        outcome
    }

    pub(super) async fn rows<T: RowOwned + RowRead>(&self, sql: &str) -> Result<Vec<T>, WarmError> {
        self.note(self.current().rows(sql).await)
    }

    pub(super) async fn one<T: RowOwned + RowRead>(&self, sql: &str) -> Result<T, WarmError> {
        let mut rows = self.rows(sql).await?;
        let missing = || self.current().io("an answer without a row");
        rows.pop().ok_or_else(missing)
    }

    /// Inserts rows of the store's own books. With a `token` a second insert under the same one
    /// does nothing.
    pub(super) async fn insert_rows<T>(
        &self,
        table: &str,
        token: Option<&str>,
        rows: &[T],
    ) -> Result<(), WarmError>
    where
        T: RowWrite + for<'a> Row<Value<'a> = T>,
    {
        self.note(self.current().insert_rows(table, token, rows).await)
    }

    /// Inserts the batches, all of one schema, into the table's columns of the same names: one part
    /// a shard, once however often it is repeated under the same token.
    pub(super) async fn insert_batches(
        &self,
        table: &str,
        token: &str,
        batches: &[RecordBatch],
    ) -> Result<(), WarmError> {
        self.note(self.current().insert_batches(table, token, batches).await)
    }

    pub(super) async fn stream(
        &self,
        sql: &str,
        settings: &[(&str, &str)],
    ) -> Result<BatchStream, WarmError> {
        self.note(self.current().stream(sql, settings).await)
    }
}

impl Node {
    /// The address, for messages.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    fn io(&self, reason: impl ToString) -> WarmError {
        WarmError::Io { path: self.url.to_string(), reason: reason.to_string() }
    }

    fn failed(&self, error: &clickhouse::error::Error) -> WarmError {
        meaning(&self.url, error)
    }

    async fn within<T>(
        &self,
        seconds: u64,
        request: impl Future<Output = Result<T, clickhouse::error::Error>>,
    ) -> Result<T, WarmError> {
        match tokio::time::timeout(Duration::from_secs(seconds), request).await {
            Ok(outcome) => outcome.map_err(|error| self.failed(&error)),
            Err(_) => Err(self.io(format_args!("no answer within {seconds} s"))),
        }
    }

    pub(super) async fn execute(&self, sql: &str) -> Result<(), WarmError> {
        self.within(REQUEST_SECONDS_MAX, self.client.query_raw(sql).execute()).await
    }

    /// Changes rows that are stored, and waits until it is done.
    pub(super) async fn mutate(&self, sql: &str) -> Result<(), WarmError> {
        let query = self.client.query_raw(sql).with_setting("mutations_sync", "2");
        self.within(MUTATION_SECONDS_MAX, query.execute()).await
    }

    pub(super) async fn rows<T: RowOwned + RowRead>(&self, sql: &str) -> Result<Vec<T>, WarmError> {
        self.within(ROWS_SECONDS_MAX, self.client.query_raw(sql).fetch_all::<T>()).await
    }

    pub(super) async fn insert_rows<T>(
        &self,
        table: &str,
        token: Option<&str>,
        rows: &[T],
    ) -> Result<(), WarmError>
    where
        T: RowWrite + for<'a> Row<Value<'a> = T>,
    {
        let insert = async {
            let mut insert = self.client.insert::<T>(table).await?;
            insert = insert
                .with_setting("async_insert", "0")
                .with_setting("distributed_foreground_insert", "1")
                .with_setting("insert_deduplicate", if token.is_some() { "1" } else { "0" })
                .with_setting("insert_deduplication_token", token.unwrap_or_default());
            for row in rows {
                insert.write(row).await?;
            }
            insert.end().await
        };
        self.within(REQUEST_SECONDS_MAX, insert).await
    }

    async fn insert_batches(
        &self,
        table: &str,
        token: &str,
        batches: &[RecordBatch],
    ) -> Result<(), WarmError> {
        let Some(first) = batches.first() else { return Ok(()) };
        let columns: Vec<String> =
            first.schema_ref().fields().iter().map(|field| format!("`{}`", field.name())).collect();
        let sql = format!("INSERT INTO {table} ({}) FORMAT ArrowStream", columns.join(", "));
        let limit = Some(Duration::from_secs(INSERT_SECONDS_MAX));
        let mut insert = self.client.insert_formatted_with(sql).with_timeouts(limit, limit);
        let (rows_max, bytes_max) = (INSERT_ROWS_MAX.to_string(), INSERT_BYTES_MAX.to_string());
        for (name, value) in [
            ("async_insert", "0"),
            ("distributed_foreground_insert", "1"),
            ("insert_deduplicate", "1"),
            ("insert_deduplication_token", token),
            ("max_insert_threads", "1"),
            ("max_insert_block_size", &rows_max),
            ("min_insert_block_size_rows", &rows_max),
            ("min_insert_block_size_bytes", &bytes_max),
            ("input_format_parallel_parsing", "0"),
            ("input_format_null_as_default", "1"),
            ("optimize_on_insert", "0"),
        ] {
            insert = insert.with_setting(name, value);
        }
        let mut encoder = Encoder::new(&first.schema()).map_err(|error| self.io(error))?;
        for batch in batches {
            for from in (0..batch.num_rows()).step_by(SLICE_ROWS) {
                let slice = batch.slice(from, SLICE_ROWS.min(batch.num_rows() - from));
                // Some milliseconds of copying: not on an async thread.
                let encoded = tokio::task::spawn_blocking(move || {
                    let bytes = encoder.encode(&slice)?;
                    Ok::<_, arrow_schema::ArrowError>((encoder, bytes))
                });
                let encoded = encoded.await.map_err(|error| self.io(error))?;
                let bytes;
                (encoder, bytes) = encoded.map_err(|error| self.io(error))?;
                insert.send(bytes).await.map_err(|error| self.failed(&error))?;
            }
        }
        let bytes = encoder.finish().map_err(|error| self.io(error))?;
        insert.send(bytes).await.map_err(|error| self.failed(&error))?;
        insert.end().await.map_err(|error| self.failed(&error))
    }

    async fn stream(&self, sql: &str, settings: &[(&str, &str)]) -> Result<BatchStream, WarmError> {
        let mut query = self.client.query_raw(sql);
        let reader_seconds = READER_SECONDS_MAX.to_string();
        for (name, value) in [
            ("output_format_arrow_string_as_string", "1"),
            ("output_format_arrow_low_cardinality_as_dictionary", "1"),
            ("output_format_arrow_compression_method", "none"),
            ("cancel_http_readonly_queries_on_client_close", "1"),
            ("http_send_timeout", &reader_seconds),
        ]
        .iter()
        .chain(settings)
        {
            query = query.with_setting(*name, *value);
        }
        let cursor = query.fetch_bytes("ArrowStream").map_err(|error| self.failed(&error))?;
        let mut stream = BatchStream {
            node: self.clone(),
            cursor,
            decoder: StreamDecoder::new(),
            left: None,
            ended: false,
        };
        // The server takes its snapshot before it answers at all.
        stream.fill().await?;
        Ok(stream)
    }
}

/// Batches as they arrive. Memory does not grow with their number; dropped, the server ends the
/// query.
pub(super) struct BatchStream {
    node: Node,
    cursor: BytesCursor,
    decoder: StreamDecoder,
    /// What has arrived and is not yet decoded.
    left: Option<Buffer>,
    /// Nothing more will arrive.
    ended: bool,
}

impl BatchStream {
    /// Waits for what arrives next.
    async fn fill(&mut self) -> Result<(), WarmError> {
        let node = self.node.clone();
        match node.within(ROWS_SECONDS_MAX, self.cursor.next()).await? {
            Some(chunk) => self.left = Some(Buffer::from(chunk)),
            None => self.ended = true,
        }
        Ok(())
    }

    /// The next batch; `None` after the last. Errors: the server failed or ended before the last.
    pub(super) async fn next(&mut self) -> Result<Option<RecordBatch>, WarmError> {
        loop {
            if let Some(mut buffer) = self.left.take() {
                let batch = self.decoder.decode(&mut buffer).map_err(|error| self.node.io(error))?;
                if !buffer.is_empty() {
                    self.left = Some(buffer);
                }
                if batch.is_some() {
                    return Ok(batch);
                }
            } else if self.ended {
                self.decoder.finish().map_err(|error| self.node.io(error))?;
                return Ok(None);
            } else {
                self.fill().await?;
            }
        }
    }

    /// Bytes the server has read for the query, as far as it has told: its own count when it began
    /// to answer, and never less than what it has sent.
    pub(super) fn bytes_read(&self) -> u64 {
        let told = self.cursor.summary().and_then(clickhouse::QuerySummary::read_bytes);
        told.unwrap_or(0).max(self.cursor.decoded_bytes())
    }
}

/// Batches as pieces of one Arrow stream.
pub(super) struct Encoder(StreamWriter<Vec<u8>>);

impl Encoder {
    pub(super) fn new(schema: &SchemaRef) -> Result<Self, arrow_schema::ArrowError> {
        let options = IpcWriteOptions::default().try_with_compression(None::<CompressionType>)?;
        StreamWriter::try_new_with_options(Vec::new(), schema, options).map(Self)
    }

    pub(super) fn encode(&mut self, batch: &RecordBatch) -> Result<Bytes, arrow_schema::ArrowError> {
        self.0.write(batch)?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }

    pub(super) fn finish(&mut self) -> Result<Bytes, arrow_schema::ArrowError> {
        self.0.finish()?;
        Ok(std::mem::take(self.0.get_mut()).into())
    }
}

const UNKNOWN_TABLE: u32 = 60;
const UNKNOWN_DATABASE: u32 = 81;

/// What to do where a table is gone that was there when the store was opened.
const DROPPED: &str = "it was dropped while it was in use. Put the database back from a backup, or restart a process \
     with the role `processor`: it makes what is missing and fills it from the log";

/// Of the server's error codes those that no later try can change: the request, the schema or the
/// user's rights are wrong.
const LASTING: &[u32] = &[
    16,  // no such column
    20,  // number of columns doesn't match
    36,  // bad arguments
    43,  // illegal type of argument
    44,  // illegal column
    46,  // unknown function
    47,  // unknown identifier
    48,  // not implemented
    53,  // type mismatch
    57,  // table already exists
    62,  // syntax error
    73,  // unknown format
    115, // unknown setting
    164, // read only
    170, // cluster not found
    192, // unknown user
    344, // support is disabled
    392, // query is prohibited
    452, // setting constraint violation
    497, // access denied
    516, // authentication failed
];

/// No space left on the server's disk.
const NOT_ENOUGH_SPACE: u32 = 243;

/// A part or partition that is not there (any more).
pub(super) const NO_SUCH_PART: u32 = 232;

/// The code in `Code: 516. DB::Exception: …`.
pub(super) fn code_of(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("Code: ")?;
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}

fn meaning(url: &str, error: &clickhouse::error::Error) -> WarmError {
    use clickhouse::error::Error;
    let path = url.to_owned();
    match error {
        Error::BadResponse(text) => {
            // The server's words end with its version, its beginning is all that helps.
            let reason: String = text.chars().take(500).collect();
            match code_of(text) {
                Some(NOT_ENOUGH_SPACE) => WarmError::Full { path },
                Some(UNKNOWN_TABLE | UNKNOWN_DATABASE) => {
                    WarmError::Refused { path, reason: format!("{reason}: {DROPPED}") }
                }
                Some(code) if LASTING.contains(&code) => WarmError::Refused { path, reason },
                _ => WarmError::Io { path, reason },
            }
        }
        Error::InvalidParams(_)
        | Error::SchemaMismatch(_)
        | Error::Unsupported(_)
        | Error::InvalidColumnsHeader(_)
        | Error::InvalidUtf8Encoding(_) => WarmError::Refused { path, reason: error.to_string() },
        _ => {
            let mut reason = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                let text = cause.to_string();
                if !reason.contains(&text) {
                    reason.push_str(": ");
                    reason.push_str(&text);
                }
                source = cause.source();
            }
            WarmError::Io { path, reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_other_hosts() {
        for url in
            ["http://localhost:8123", "http://127.0.0.1", "https://u@127.9.1.1:1/x", "http://[::1]:8123/"]
        {
            assert!(is_loopback(url), "{url}");
        }
        for url in
            ["http://10.0.0.1:8123", "https://localhost.example.com", "http://[fe80::1]:8123", "http://"]
        {
            assert!(!is_loopback(url), "{url}");
        }
    }

    #[test]
    fn errors_are_told_by_their_code() {
        let of = |text: &str| meaning("http://h", &clickhouse::error::Error::BadResponse(text.to_owned()));
        assert!(matches!(of("Code: 243. DB::Exception: no space"), WarmError::Full { .. }));
        assert!(matches!(of("Code: 516. DB::Exception: who are you"), WarmError::Refused { .. }));
        let dropped = of("Code: 81. DB::Exception: Database stk does not exist. (UNKNOWN_DATABASE)");
        assert!(matches!(dropped, WarmError::Refused { .. }));
        assert!(dropped.to_string().contains("Put the database back from a backup, or restart"), "{dropped}");
        assert!(matches!(of("Code: 241. DB::Exception: memory"), WarmError::Io { .. }));
        assert!(matches!(of("502 Bad Gateway"), WarmError::Io { .. }));
        let cut = clickhouse::error::Error::Network("reset".into());
        assert!(meaning("http://h", &cut).is_passing());
    }
}
