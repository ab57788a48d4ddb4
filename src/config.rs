//! Configuration: one table of settings, from which the file, the environment, `config show`,
//! `config init` and the reference in the man page are all made.
//!
//! A value comes from, the later winning: the default, the file, `STK_*` in the environment, a
//! flag. A setting in a file that is not in the table is refused by name; an `STK_*` variable that is not is
//! ignored with a warning, since others set such variables too.

mod env;
mod network;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::env::{RESERVED_ENV, env_name};
use self::env::{is_of_others, nearest};
pub use self::network::Network;
use crate::secret::{Secret, has_credentials};

/// What a setting holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Text,
    /// A whole number within a range.
    Count(u64, u64),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// A list of texts, held as lines; in the environment separated by spaces.
    List,
    /// A text that is never shown.
    Secret,
    /// A list of which each item contains something secret after its first separator.
    Secrets(char),
    /// An address. It may contain a user and a password where `takes_credentials`; otherwise they are
    /// refused, with the settings to use instead.
    Url {
        takes_credentials: bool,
        instead: &'static str,
    },
}

impl Shape {
    const fn is_list(self) -> bool {
        matches!(self, Self::List | Self::Secrets(_))
    }
}

/// An address without credentials.
const fn url(instead: &'static str) -> Shape {
    Shape::Url { takes_credentials: false, instead }
}

/// One setting.
pub struct Setting {
    /// `table.key` in the file; `STK_TABLE_KEY` in the environment.
    pub key: &'static str,
    shape: Shape,
    default: &'static str,
    /// What it does, in a sentence or two.
    pub doc: &'static str,
}

impl Setting {
    /// `value` as it may be shown: without anything secret.
    pub fn shown(&self, value: &str) -> String {
        let count = value.lines().count();
        match self.shape {
            _ if value.is_empty() => String::new(),
            Shape::Secret => "(set)".to_owned(),
            Shape::Secrets(separator) => {
                let what = if separator == ':' { "key" } else { "properties" };
                let plural = if separator == ':' && count != 1 { "s" } else { "" };
                format!("({count} {what}{plural})")
            }
            Shape::Url { .. } if !self.is_directory(value) => Secret::url(value).to_string(),
            Shape::Url { .. } | Shape::Text | Shape::Count(..) | Shape::Choice(_) | Shape::List => {
                value.replace('\n', " ")
            }
        }
    }

    /// Whether `value` names a directory, where the setting also takes an address.
    fn is_directory(&self, value: &str) -> bool {
        self.key == "archive.url" && !value.contains("://")
    }
}

const MIB: u64 = 1 << 20;

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "data.dir",
        shape: Shape::Text,
        default: "",
        doc: "Where everything is stored. Empty: `stk` in the user's data directory \
              ($XDG_DATA_HOME, or ~/.local/share).",
    },
    Setting {
        key: "server.roles",
        shape: Shape::List,
        default: "feed\nprocessor\ngateway\narchiver",
        doc: "What this process does: any of `feed`, `processor`, `gateway`, `archiver`. Fewer than all \
              of them need a log in Kafka and warm in ClickHouse, which processes can share.",
    },
    Setting {
        key: "server.listen",
        shape: Shape::Text,
        default: "127.0.0.1:7878",
        doc: "Address and port for clients: WebSocket, SSE, REST. Port 0 takes a free one.",
    },
    Setting {
        key: "server.ingest_listen",
        shape: Shape::Text,
        default: "127.0.0.1:7879",
        doc: "Address and port for programs that bring ticks (`stk replay`). Loopback only; empty: off.",
    },
    Setting {
        key: "server.keys",
        shape: Shape::Secrets(':'),
        default: "",
        doc: "Keys that clients must show, each `id:secret`. Empty: anybody may connect.",
    },
    Setting {
        key: "server.admin_keys",
        shape: Shape::Secrets(':'),
        default: "",
        doc: "Keys for operator commands on a running server (`stk archive --server`), each `id:secret`. Empty: \
              operator commands are accepted from the server's own machine, and from nobody if server.keys is set.",
    },
    Setting {
        key: "server.allow_anonymous",
        shape: Shape::Choice(&["no", "yes"]),
        default: "no",
        doc: "Whether a server without keys may listen on an address that other machines reach.",
    },
    Setting {
        key: "server.connections_max",
        shape: Shape::Count(1, 1_000_000),
        default: "10000",
        doc: "The most streaming connections at once.",
    },
    Setting {
        key: "server.queue_bytes_max",
        shape: Shape::Count(1 << 20, 1 << 30),
        default: "8388608",
        doc: "Bytes a slow connection may fall behind before it is told so and closed. Connections \
              with the same subscription share them.",
    },
    Setting {
        key: "server.queues_bytes_max",
        shape: Shape::Count(16 * MIB, 1 << 40),
        default: "268435456",
        doc: "Bytes that may wait for all connections together. Past it the slowest are closed first.",
    },
    Setting {
        key: "server.stall_seconds_max",
        shape: Shape::Count(1, 3_600),
        default: "25",
        doc: "How long a client may take nothing of what is sent to it before it is closed, in seconds.",
    },
    Setting {
        key: "server.history_queries_max",
        shape: Shape::Count(1, 1_024),
        default: "16",
        doc: "The most queries of history at once, replays of streams among them. Others wait in line for a \
              moment; then they are answered with 429 and `Retry-After`.",
    },
    Setting {
        key: "server.history_queries_per_client_max",
        shape: Shape::Count(1, 1_024),
        default: "8",
        doc: "The most queries of history at once for each key, and for each address. One counts until its \
              answer has been sent.",
    },
    Setting {
        key: "server.history_bytes_max",
        shape: Shape::Count(64 * MIB, 1 << 40),
        default: "536870912",
        doc: "Bytes of memory for all queries of history and their answers together. A query takes 32 MiB, \
              and 64 MiB for a stream, while it runs; then as much as is left to send.",
    },
    Setting {
        key: "server.trusted_proxies",
        shape: Shape::List,
        default: "",
        doc: "Addresses or networks (`10.0.0.0/8`) of proxies that are believed when they name the client: by \
              the PROXY protocol, `Forwarded` or `X-Forwarded-For`. Limits by address then hold for clients.",
    },
    Setting {
        key: "server.ahead_ms_max",
        shape: Shape::Count(1, 10 * 366 * 86_400_000),
        default: "60000",
        doc: "How far ahead of this machine's clock the time of a tick may be, in milliseconds. One further \
              ahead is refused by the ingest endpoint, put among the dead letters by a Kafka feed, and \
              dropped and counted by other feeds. One that is stored already is nobody's latest.",
    },
    Setting {
        key: "feed.sources",
        shape: Shape::List,
        default: "",
        doc: "Where ticks come from: `sim`, `sim:rate=1000,seed=7,symbols=500`, `iex:FILE`, \
              `kafka:FILE.toml` (see docs/kafka.md). Empty: only what `stk replay` brings.",
    },
    Setting {
        key: "log.partitions",
        shape: Shape::Count(1, 64),
        default: "4",
        doc: "Partitions of the log. Fixed once the data directory, or the topic, exists.",
    },
    Setting {
        key: "log.kafka_brokers",
        shape: url("sasl.username and sasl.password in log.kafka_properties"),
        default: "",
        doc: "Keeps the log in Kafka: `host:port`, several separated by commas. Empty: in the data directory.",
    },
    Setting {
        key: "log.kafka_topic",
        shape: Shape::Text,
        default: "stk-log",
        doc: "The topic that is the log. `stk serve` makes it where it is missing; one that exists is checked.",
    },
    Setting {
        key: "log.kafka_group",
        shape: Shape::Text,
        default: "stk-processor",
        doc: "The consumer group in which processors share the partitions.",
    },
    Setting {
        key: "log.kafka_replication",
        shape: Shape::Count(1, 15),
        default: "1",
        doc: "Copies of each partition when the topic is made; 3 in production.",
    },
    Setting {
        key: "log.kafka_properties",
        shape: Shape::Secrets('='),
        default: "",
        doc: "Further properties of librdkafka, each `name=value`, for TLS and SASL: \
              `security.protocol=SASL_SSL`, `sasl.mechanisms=SCRAM-SHA-512` (docs/kafka.md). TLS and SCRAM \
              need a binary built with the feature `kafka-tls`; `stk doctor` tells.",
    },
    Setting {
        key: "log.durability",
        shape: Shape::Choice(&["interval", "always"]),
        default: "interval",
        doc: "`interval`: one sync every log.sync_interval_ms covers all that came in between; \
              `always`: every group of appends is synced at once. A tick counts as accepted only \
              when synced, either way.",
    },
    Setting {
        key: "log.sync_interval_ms",
        shape: Shape::Count(1, 10_000),
        default: "50",
        doc: "How often the log is synced under `interval`, in milliseconds.",
    },
    Setting {
        key: "log.retention_hours",
        shape: Shape::Count(1, 24 * 3660),
        default: "24",
        doc: "How long the log keeps what is already in warm, in hours. Clients resume from it.",
    },
    Setting {
        key: "log.retention_bytes",
        shape: Shape::Count(64 * MIB, u64::MAX / 2),
        default: "8589934592",
        doc: "How much the log keeps of what is already in warm, in bytes.",
    },
    Setting {
        key: "log.free_bytes_min",
        shape: Shape::Count(0, u64::MAX / 2),
        default: "268435456",
        doc: "Free bytes on the disk below which nothing more is accepted.",
    },
    Setting {
        key: "processor.rows_max",
        shape: Shape::Count(0, 100_000_000),
        default: "0",
        doc: "Rows held in memory, all partitions together, before they go to warm. 0: 500000, and 4000000 \
              where warm is ClickHouse, which takes few large inserts better than many small ones.",
    },
    Setting {
        key: "processor.block_age_ms_max",
        shape: Shape::Count(100, 3_600_000),
        default: "60000",
        doc: "How long rows may wait in memory before they go to warm, in milliseconds. They are \
              durable in the log meanwhile, and history reads them from there.",
    },
    Setting {
        key: "processor.expired",
        shape: Shape::Choice(&["refuse", "skip"]),
        default: "refuse",
        doc: "What becomes of records that the log dropped before warm took them in, because their retention \
              ended or warm was lost. `refuse`: the processor does not start. `skip`: it goes on where the log \
              begins; a gap names the records, and history reads from the archive what went there. Set it for \
              one start.",
    },
    Setting {
        key: "hot.redis_url",
        shape: Shape::Url { takes_credentials: true, instead: "" },
        default: "",
        doc: "Keeps the last of every symbol in Redis, for all gateways: `redis://host:port/db`, `rediss://` \
              for TLS. Empty: in this process's memory.",
    },
    Setting {
        key: "hot.redis_prefix",
        shape: Shape::Text,
        default: "stk:",
        doc: "What the names of all keys in Redis begin with.",
    },
    Setting {
        key: "warm.clickhouse_url",
        shape: url("warm.clickhouse_user and warm.clickhouse_password"),
        default: "",
        doc: "Keeps warm in ClickHouse: `http://host:8123`, or https; of a cluster the addresses of all servers, \
              separated by commas. Several are refused without `warm.clickhouse_cluster`. Empty: as Parquet in \
              the data directory.",
    },
    Setting {
        key: "warm.clickhouse_database",
        shape: Shape::Text,
        default: "stk",
        doc: "The database; `stk serve` makes it where it is missing.",
    },
    Setting { key: "warm.clickhouse_user", shape: Shape::Text, default: "default", doc: "The user." },
    Setting {
        key: "warm.clickhouse_password",
        shape: Shape::Secret,
        default: "",
        doc: "The user's password.",
    },
    Setting {
        key: "warm.clickhouse_cluster",
        shape: Shape::Text,
        default: "",
        doc: "The cluster over which the tables are distributed, by its name in ClickHouse's `remote_servers`. \
              Empty: one node.",
    },
    Setting {
        key: "warm.clickhouse_replicated",
        shape: Shape::Choice(&["no", "yes"]),
        default: "no",
        doc: "Whether tables are ReplicatedMergeTree, which needs a keeper. A shard has one replica.",
    },
    Setting {
        key: "warm.clickhouse_keeper_path",
        shape: Shape::Text,
        default: "/clickhouse/tables/{shard}/{database}/{table}",
        doc: "Where replicated tables lie in the keeper, with ClickHouse's macros.",
    },
    Setting {
        key: "warm.keep_days",
        shape: Shape::Count(1, 36_600),
        default: "30",
        doc: "How many days stay in warm once they are in the archive. What is not in the archive is \
              never dropped.",
    },
    Setting {
        key: "archive.url",
        shape: url("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"),
        default: "",
        doc: "Where archived days go: a directory, or `s3://bucket/prefix`. Keys come from AWS_ACCESS_KEY_ID \
              and AWS_SECRET_ACCESS_KEY, or the machine's role. Empty: `cold` in the data directory.",
    },
    Setting {
        key: "archive.s3_endpoint",
        shape: url("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"),
        default: "",
        doc: "The address of an S3 that is not Amazon's: `http://host:9000`.",
    },
    Setting {
        key: "archive.s3_region",
        shape: Shape::Text,
        default: "us-east-1",
        doc: "The bucket's region.",
    },
    Setting {
        key: "archive.every_minutes",
        shape: Shape::Count(0, 10_080),
        default: "0",
        doc: "How often the archiver role runs, in minutes. 0: only `stk archive run` archives.",
    },
    Setting {
        key: "archive.after_days",
        shape: Shape::Count(1, 36_600),
        default: "7",
        doc: "How many days old a day is when it is copied into the archive.",
    },
    Setting {
        key: "archive.settle_minutes",
        shape: Shape::Count(0, 10_080),
        default: "60",
        doc: "How long nothing may have been stored of a day before it is archived, in minutes.",
    },
    Setting {
        key: "archive.grace_hours",
        shape: Shape::Count(1, 24 * 366),
        default: "24",
        doc: "How old an object that no manifest names must be before it is removed, in hours: longer \
              than any upload takes.",
    },
];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The table of settings.
    Default,
    /// A file, by its path.
    File(PathBuf),
    /// An environment variable, by its name.
    Env(String),
    /// A flag, by its name.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Why a configuration is refused. The message names the place and the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{path}: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's words, with the line.
        reason: String,
    },
    /// A setting that does not exist.
    #[error("{place}: there is no setting `{key}`{}", nearest.map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    Unknown {
        /// The file or the variable.
        place: String,
        /// What was written.
        key: String,
        /// The setting with the nearest name.
        nearest: Option<&'static str>,
    },
    /// A value that the setting does not take.
    #[error("{origin}: `{key}` is \"{value}\": {reason}")]
    Value {
        /// Where it was written.
        origin: Origin,
        /// The setting.
        key: &'static str,
        /// What was written.
        value: String,
        /// What it takes.
        reason: String,
    },
}

/// Every setting's value as text, and where it came from.
#[derive(Clone, Debug)]
pub struct Resolved {
    values: BTreeMap<&'static str, (String, Origin)>,
    /// What was ignored, and may have been meant.
    pub warnings: Vec<String>,
}

impl Resolved {
    /// Resolves the default, `file`, `env` (name and value pairs; an `STK_*` that is not a setting is
    /// ignored with a warning) and `flags` (setting, value, the flag's name).
    pub fn new(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (String, String)>,
        flags: &[(&'static str, String, &'static str)],
    ) -> Result<Self, ConfigError> {
        let defaults = SETTINGS.iter().map(|s| (s.key, (s.default.to_owned(), Origin::Default)));
        let mut resolved = Self { values: defaults.collect(), warnings: Vec::new() };
        if let Some(path) = file {
            resolved.read_file(path)?;
        }
        for (name, value) in env {
            let Some(rest) = name.strip_prefix("STK_") else { continue };
            let Some(setting) = SETTINGS.iter().find(|s| env_name(s.key) == name) else {
                if !is_of_others(&name, rest, &value) {
                    let nearest = nearest(&rest.to_lowercase().replacen('_', ".", 1)).map(env_name);
                    let nearest = nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                    resolved.warnings.push(format!("{name} in the environment is not a setting{nearest}"));
                }
                continue;
            };
            let value = if setting.shape.is_list() {
                value.split_whitespace().collect::<Vec<_>>().join("\n")
            } else {
                value
            };
            resolved.set(setting, value, Origin::Env(name))?;
        }
        for (key, value, flag) in flags {
            let setting = SETTINGS.iter().find(|s| s.key == *key).expect("flags name settings of the table");
            resolved.set(setting, value.clone(), Origin::Flag(flag))?;
        }
        Ok(resolved)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), reason: error.to_string() })?;
        let tables: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line =
                error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
            ConfigError::Syntax { path: path.to_owned(), reason: format!("line {line}: {}", error.message()) }
        })?;
        let place = path.display().to_string();
        let unknown =
            |key: String| ConfigError::Unknown { place: place.clone(), nearest: nearest(&key), key };
        for (table, entries) in tables {
            let toml::Value::Table(entries) = entries else { return Err(unknown(table)) };
            for (name, value) in entries {
                let key = format!("{table}.{name}");
                let Some(setting) = SETTINGS.iter().find(|s| s.key == key) else { return Err(unknown(key)) };
                let text = match &value {
                    toml::Value::String(text) => text.clone(),
                    toml::Value::Integer(number) => number.to_string(),
                    toml::Value::Array(items) if setting.shape.is_list() => {
                        let texts = items.iter().map(toml::Value::as_str).collect::<Option<Vec<_>>>();
                        texts.map_or_else(|| value.to_string(), |texts| texts.join("\n"))
                    }
                    other => other.to_string(),
                };
                self.set(setting, text, Origin::File(path.to_owned()))?;
            }
        }
        Ok(())
    }

    fn set(&mut self, setting: &Setting, value: String, origin: Origin) -> Result<(), ConfigError> {
        let refused = |reason: String| ConfigError::Value {
            origin: origin.clone(),
            key: setting.key,
            value: match setting.shape {
                Shape::Secret | Shape::Secrets(_) => "…".to_owned(),
                _ => setting.shown(&value).escape_debug().to_string(),
            },
            reason,
        };
        match setting.shape {
            Shape::Count(least, most) => match value.replace('_', "").parse::<u64>() {
                Ok(count) if (least..=most).contains(&count) => {}
                _ => return Err(refused(format!("it takes a whole number from {least} to {most}"))),
            },
            Shape::Choice(words) if !words.contains(&value.as_str()) => {
                return Err(refused(format!("it takes one of {}", words.join(", "))));
            }
            Shape::Url { takes_credentials: false, instead }
                if has_credentials(&value) && !setting.is_directory(&value) =>
            {
                return Err(refused(format!("it takes no user, password or query; use {instead}")));
            }
            Shape::Choice(_)
            | Shape::Text
            | Shape::List
            | Shape::Secret
            | Shape::Secrets(_)
            | Shape::Url { .. } => {}
        }
        if setting.key == "processor.rows_max"
            && value.parse().is_ok_and(|rows: u64| (1..1_000).contains(&rows))
        {
            return Err(refused("it takes 0, or at least 1000: each block is a durable commit".into()));
        }
        if setting.key.ends_with("listen") && !value.is_empty() {
            let address: SocketAddr = value
                .parse()
                .map_err(|_| refused("it takes an address and a port, such as 127.0.0.1:7878".into()))?;
            if setting.key == "server.ingest_listen" && !address.ip().is_loopback() {
                return Err(refused(
                    "ticks are taken from this machine only: a loopback address such as 127.0.0.1:7879"
                        .into(),
                ));
            }
        }
        let is_key = |key: &str| {
            key.split_once(':').is_some_and(|(id, secret)| !id.trim().is_empty() && !secret.trim().is_empty())
        };
        if setting.key.ends_with("keys") && !value.lines().all(is_key) {
            return Err(refused("each key is `id:secret`, and neither part is empty".into()));
        }
        if setting.key == "server.trusted_proxies" {
            value.lines().try_for_each(|text| text.parse::<Network>().map(|_| ())).map_err(refused)?;
        }
        if setting.key == "log.kafka_properties" && value.lines().any(|property| !property.contains('=')) {
            return Err(refused("each property is `name=value`".into()));
        }
        if setting.key == "server.roles"
            && (value.is_empty() || value.lines().any(|role| role.parse::<Role>().is_err()))
        {
            return Err(refused("it takes some of feed, processor, gateway, archiver".into()));
        }
        self.values.insert(setting.key, (value, origin));
        Ok(())
    }

    /// Refuses a gateway that everybody on the network could read: it listens beyond loopback, has no
    /// keys, and `server.allow_anonymous` is not set. Other commands may use the same file.
    pub fn check_access(&self) -> Result<(), ConfigError> {
        let config = self.config();
        let is_open = config.roles.contains(&Role::Gateway)
            && config.keys.is_empty()
            && !config.allow_anonymous
            && !config.listen.ip().to_canonical().is_loopback();
        if !is_open {
            return Ok(());
        }
        let (value, origin) = &self.values["server.listen"];
        Err(ConfigError::Value {
            origin: origin.clone(),
            key: "server.listen",
            value: value.clone(),
            reason:
                "other machines can reach this address, and without server.keys anybody could read everything"
                    .to_owned(),
        })
    }

    /// Every setting with its value as text and its origin, in the table's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Setting, &str, &Origin)> {
        SETTINGS.iter().map(|setting| {
            let (value, origin) = &self.values[setting.key];
            (setting, value.as_str(), origin)
        })
    }

    /// Where the setting's value came from.
    pub fn origin(&self, key: &str) -> &Origin {
        &self.values[key].1
    }

    fn text(&self, key: &str) -> &str {
        &self.values[key].0
    }

    fn count(&self, key: &str) -> u64 {
        self.text(key).replace('_', "").parse().expect("checked when it was set")
    }

    /// The text, unless it is empty.
    fn optional(&self, key: &str) -> Option<String> {
        Some(self.text(key).to_owned()).filter(|text| !text.is_empty())
    }

    /// The list's items, each cut in two at `separator`, which was checked when it was set.
    fn secrets(&self, key: &str, separator: char) -> Vec<(String, Secret)> {
        let items = self.list(key);
        let pairs = items.iter().filter_map(|item| item.split_once(separator));
        pairs.map(|(name, value)| (name.to_owned(), Secret::new(value))).collect()
    }

    fn list(&self, key: &str) -> Vec<String> {
        self.text(key).lines().map(str::to_owned).collect()
    }

    /// The values, typed.
    pub fn config(&self) -> Config {
        let address = |key: &str| self.text(key).parse::<SocketAddr>().ok();
        let dir = self.text("data.dir");
        Config {
            data_dir: if dir.is_empty() { default_data_dir() } else { PathBuf::from(dir) },
            listen: address("server.listen").unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 7878))),
            ingest_listen: address("server.ingest_listen"),
            keys: self.secrets("server.keys", ':'),
            admin_keys: self.secrets("server.admin_keys", ':'),
            allow_anonymous: self.text("server.allow_anonymous") == "yes",
            connections_max: self.count("server.connections_max") as usize,
            queue_bytes_max: self.count("server.queue_bytes_max") as usize,
            queues_bytes_max: self.count("server.queues_bytes_max") as usize,
            stall_max: Duration::from_secs(self.count("server.stall_seconds_max")),
            history_queries_max: self.count("server.history_queries_max") as usize,
            history_queries_per_client_max: self.count("server.history_queries_per_client_max") as usize,
            history_bytes_max: self.count("server.history_bytes_max") as usize,
            trusted_proxies: self
                .list("server.trusted_proxies")
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect(),
            ahead_max: Duration::from_millis(self.count("server.ahead_ms_max")),
            sources: self.list("feed.sources"),
            partitions: self.count("log.partitions") as u16,
            sync_interval: (self.text("log.durability") == "interval")
                .then(|| Duration::from_millis(self.count("log.sync_interval_ms"))),
            retention_age: Duration::from_secs(3600 * self.count("log.retention_hours")),
            retention_bytes: self.count("log.retention_bytes"),
            free_bytes_min: self.count("log.free_bytes_min"),
            roles: self.list("server.roles").iter().filter_map(|role| role.parse().ok()).collect(),
            kafka: self.optional("log.kafka_brokers").map(|brokers| KafkaConfig {
                brokers,
                topic: self.text("log.kafka_topic").to_owned(),
                group: self.text("log.kafka_group").to_owned(),
                replication: self.count("log.kafka_replication") as u16,
                properties: self.secrets("log.kafka_properties", '='),
            }),
            redis: self.optional("hot.redis_url").map(|url| RedisConfig {
                url: Secret::url(url),
                prefix: self.text("hot.redis_prefix").to_owned(),
            }),
            clickhouse: self.optional("warm.clickhouse_url").map(|url| ClickHouseConfig {
                url,
                database: self.text("warm.clickhouse_database").to_owned(),
                user: self.text("warm.clickhouse_user").to_owned(),
                password: Secret::new(self.text("warm.clickhouse_password")),
                cluster: self.optional("warm.clickhouse_cluster"),
                replicated: self.text("warm.clickhouse_replicated") == "yes",
                keeper_path: self.text("warm.clickhouse_keeper_path").to_owned(),
            }),
            warm_keep_days: self.count("warm.keep_days") as u32,
            archive: ArchiveConfig {
                url: self.optional("archive.url"),
                s3_endpoint: self.optional("archive.s3_endpoint"),
                s3_region: self.text("archive.s3_region").to_owned(),
                every: Some(Duration::from_mins(self.count("archive.every_minutes")))
                    .filter(|every| !every.is_zero()),
                after_days: self.count("archive.after_days") as u32,
                settle: Duration::from_mins(self.count("archive.settle_minutes")),
                grace: Duration::from_hours(self.count("archive.grace_hours")),
            },
            rows_max: match self.count("processor.rows_max") as usize {
                0 if self.optional("warm.clickhouse_url").is_some() => 4_000_000,
                0 => 500_000,
                rows => rows,
            },
            block_age_max: Duration::from_millis(self.count("processor.block_age_ms_max")),
            skips_expired: self.text("processor.expired") == "skip",
        }
    }
}

/// `stk` in the user's data directory.
pub fn default_data_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("XDG_DATA_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| PathBuf::from("stk-data"), |base| base.join("stk"))
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Takes ticks in: feeds and the ingest endpoint.
    Feed,
    /// Brings the log into hot and warm.
    Processor,
    /// Serves clients.
    Gateway,
    /// Moves closed days from warm to cold.
    Archiver,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Feed, Self::Processor, Self::Gateway, Self::Archiver];

    /// Its name, as in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Processor => "processor",
            Self::Gateway => "gateway",
            Self::Archiver => "archiver",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or(())
    }
}

/// The log in Kafka.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// The topic that is the log.
    pub topic: String,
    /// The group in which processors share its partitions.
    pub group: String,
    /// Copies of each partition, when the topic is made.
    pub replication: u16,
    /// Further properties (name, value) of librdkafka.
    pub properties: Vec<(String, Secret)>,
}

impl KafkaConfig {
    /// The properties with their secrets, for librdkafka.
    pub fn exposed_properties(&self) -> Vec<(String, String)> {
        self.properties.iter().map(|(name, value)| (name.clone(), value.expose().to_owned())).collect()
    }
}

/// Hot in Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where it is, with the user and the password.
    pub url: Secret,
    /// What all keys begin with.
    pub prefix: String,
}

/// Warm in ClickHouse.
#[derive(Clone, Debug)]
pub struct ClickHouseConfig {
    /// Its HTTP interface.
    pub url: String,
    /// The database.
    pub database: String,
    /// The user.
    pub user: String,
    /// The user's password.
    pub password: Secret,
    /// The cluster the tables are distributed over.
    pub cluster: Option<String>,
    /// Whether the tables are replicated.
    pub replicated: bool,
    /// The tables' path in the keeper, with ClickHouse's macros.
    pub keeper_path: String,
}

/// The archive.
#[derive(Clone, Debug)]
pub struct ArchiveConfig {
    /// A directory or `s3://bucket/prefix`; `None`: in the data directory.
    pub url: Option<String>,
    /// The address of an S3 that is not Amazon's.
    pub s3_endpoint: Option<String>,
    /// The bucket's region.
    pub s3_region: String,
    /// How often a server archives by itself.
    pub every: Option<Duration>,
    /// How old a day is when it is archived, in days.
    pub after_days: u32,
    /// How long nothing may have been stored of a day before.
    pub settle: Duration,
    /// How old an object that no manifest names must be to be removed.
    pub grace: Duration,
}

/// The settings, typed.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where everything is stored.
    pub data_dir: PathBuf,
    /// What this process does.
    pub roles: Vec<Role>,
    /// The log in Kafka; `None`: in the data directory.
    pub kafka: Option<KafkaConfig>,
    /// Hot in Redis; `None`: in memory.
    pub redis: Option<RedisConfig>,
    /// Warm in ClickHouse; `None`: in the data directory.
    pub clickhouse: Option<ClickHouseConfig>,
    /// Days that stay in warm once they are archived.
    pub warm_keep_days: u32,
    /// The archive.
    pub archive: ArchiveConfig,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where programs that bring ticks connect.
    pub ingest_listen: Option<SocketAddr>,
    /// Keys (id, secret) that clients must show; none: anybody may connect.
    pub keys: Vec<(String, Secret)>,
    /// Keys (id, secret) that may send operator commands.
    pub admin_keys: Vec<(String, Secret)>,
    /// Whether a server without keys may listen beyond loopback.
    pub allow_anonymous: bool,
    /// The most streaming connections.
    pub connections_max: usize,
    /// Bytes a connection may fall behind.
    pub queue_bytes_max: usize,
    /// Bytes that may wait for all connections together.
    pub queues_bytes_max: usize,
    /// How long a client may take nothing.
    pub stall_max: Duration,
    /// The most queries of history at once.
    pub history_queries_max: usize,
    /// The most for each key and for each address.
    pub history_queries_per_client_max: usize,
    /// Bytes of memory for all of them together.
    pub history_bytes_max: usize,
    /// Proxies that are believed when they name the client.
    pub trusted_proxies: Vec<Network>,
    /// How far ahead of the clock a tick may be.
    pub ahead_max: Duration,
    /// Feeds, as written.
    pub sources: Vec<String>,
    /// Partitions of a new log.
    pub partitions: u16,
    /// How often the log is synced; `None`: after every group of appends.
    pub sync_interval: Option<Duration>,
    /// How long the log keeps what is in warm.
    pub retention_age: Duration,
    /// How much the log keeps of what is in warm.
    pub retention_bytes: u64,
    /// Free bytes below which nothing is accepted.
    pub free_bytes_min: u64,
    /// Rows held in memory before they go to warm.
    pub rows_max: usize,
    /// How long rows wait before they go to warm.
    pub block_age_max: Duration,
    /// Whether records that the log dropped before warm took them in are skipped.
    pub skips_expired: bool,
}

/// A file with every setting, commented out at its default, and what it does.
pub fn sample_file() -> String {
    let mut out = String::from(
        "# Configuration of stk. Every setting is here, at its default.\n\
         # A value comes from, the later winning: this file, STK_* in the environment, a flag.\n",
    );
    let mut table = "";
    for setting in SETTINGS {
        let (in_table, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if in_table == table {
            out.push('\n');
        } else {
            out.push_str(&format!("\n[{in_table}]\n"));
            table = in_table;
        }
        for line in wrapped(setting.doc, 96) {
            out.push_str(&format!("# {line}\n"));
        }
        let value = match setting.shape {
            Shape::Count(..) => setting.default.to_owned(),
            Shape::List | Shape::Secrets(_) => {
                let items: Vec<String> = setting.default.lines().map(|item| format!("\"{item}\"")).collect();
                format!("[{}]", items.join(", "))
            }
            Shape::Text | Shape::Choice(_) | Shape::Secret | Shape::Url { .. } => {
                format!("\"{}\"", setting.default)
            }
        };
        out.push_str(&format!("# {name} = {value}\n"));
    }
    out
}

/// `text` in lines of at most `width` characters, cut at spaces.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is always a line");
        if !line.is_empty() && line.len() + 1 + word.len() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}
