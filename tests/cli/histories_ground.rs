//! The services under random histories at scale: one of them of the test's own, which is killed, copied and put
//! back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::OnceLock;
use std::time::Duration;

use super::support::{OwnServices, service};

/// The S3 of the tests looks at no signature, but there has to be one.
const ANY_KEY: &str = "AWS4-HMAC-SHA256 Credential=key/20250301/us-east-1/s3/aws4_request, \
     SignedHeaders=host, Signature=0";

/// The service that things happen to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum With {
    Kafka,
    ClickHouse,
    Redis,
    S3,
}

impl With {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::ClickHouse => "clickhouse",
            Self::Redis => "redis",
            Self::S3 => "s3",
        }
    }
}

/// What the oracle knows of a topic.
#[derive(Clone, Default)]
pub(crate) struct Log {
    /// Batches that were acknowledged, those that retention has dropped too.
    pub(crate) path: BTreeSet<u64>,
    /// Batches that are there.
    pub(crate) there: BTreeSet<u64>,
}

/// What the oracle knows of a database.
#[derive(Clone, Default)]
pub(crate) struct Warm {
    /// Batches that are there, and not dropped.
    pub(crate) sure: BTreeSet<u64>,
    /// By bucket, batches that are there or in that bucket's archive.
    pub(crate) moved: BTreeMap<String, BTreeSet<u64>>,
}

/// What the oracle knows of a bucket.
#[derive(Clone, Default)]
pub(crate) struct Archive {
    /// Batches that are archived for sure.
    pub(crate) sure: BTreeSet<u64>,
    /// A run was killed since the last one that ended: the next leaves rows for the one after it.
    pub(crate) is_unfinished: bool,
}

/// The names of an installation in the services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) topic: String,
    pub(crate) database: String,
    pub(crate) prefix: String,
    pub(crate) bucket: String,
}

impl Names {
    pub(crate) fn of(id: &str) -> Self {
        Self {
            topic: format!("stk-{id}"),
            database: format!("stk_{id}"),
            prefix: format!("{id}:"),
            bucket: format!("stk-{id}"),
        }
    }

    pub(crate) fn of_mut(&mut self, with: With) -> &mut String {
        match with {
            With::Kafka => &mut self.topic,
            With::ClickHouse => &mut self.database,
            With::Redis => &mut self.prefix,
            With::S3 => &mut self.bucket,
        }
    }
}

/// A line of the table.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) steps: u64,
    pub(crate) starts: u64,
    pub(crate) acknowledged: u64,
    pub(crate) put_back: u64,
    pub(crate) emptied: u64,
    pub(crate) exchanged: u64,
    pub(crate) trims: u64,
    pub(crate) killed_runs: u64,
    pub(crate) refusals: u64,
    /// Answers that lacked rows and said so.
    pub(crate) named: u64,
    /// Batches that only a service that was put back had, so that nobody can name them.
    pub(crate) forgotten: u64,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { steps, starts, acknowledged, put_back, emptied, exchanged, trims, .. } = self;
        write!(f, "{steps}\t{starts}\t{acknowledged}\t{put_back}\t{emptied}\t{exchanged}\t{trims}\t")?;
        let Self { killed_runs, refusals, named, forgotten, .. } = self;
        write!(f, "{killed_runs}\t{refusals}\t{named}\t{forgotten}")
    }
}

/// What all histories of a run share.
pub(crate) struct Ground {
    pub(crate) with: With,
    /// The service that things happen to, of the test's own.
    pub(crate) own: OwnServices,
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) http: reqwest::Client,
    /// Another installation on the same services, once it was needed.
    pub(crate) other: OnceLock<Names>,
}

impl Ground {
    /// `None` where a service is missing.
    pub(crate) fn new(with: With) -> Option<Self> {
        for name in ["KAFKA", "CLICKHOUSE", "REDIS", "S3"] {
            service(name)?;
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let own = OwnServices::up(&[with.name()])?;
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        Some(Self { with, own, runtime, http: reqwest::Client::new(), other: OnceLock::new() })
    }

    pub(crate) fn address(&self, name: &str) -> Option<String> {
        self.own.address(name).or_else(|| service(name))
    }

    pub(crate) fn get(&self, url: &str) -> Result<(u16, String), reqwest::Error> {
        self.runtime.block_on(async {
            let answer = self.http.get(url).send().await?;
            Ok((answer.status().as_u16(), answer.text().await?))
        })
    }

    /// Runs `sql` in ClickHouse.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let url = self.address("CLICKHOUSE").expect("it is there");
        let asked = self.runtime.block_on(async {
            self.http.post(url).body(sql.to_owned()).send().await?.error_for_status()?.text().await
        });
        asked.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Copies all objects of a bucket into another, which is emptied first.
    pub(crate) fn copy_bucket(&self, from: &str, to: &str) {
        self.empty_bucket(to);
        for key in self.keys(from) {
            let object = self.s3(reqwest::Method::GET, &format!("{from}/{key}"), Vec::new());
            self.s3(reqwest::Method::PUT, &format!("{to}/{key}"), object);
        }
    }

    /// Makes a bucket that is empty.
    pub(crate) fn empty_bucket(&self, bucket: &str) {
        self.s3(reqwest::Method::PUT, bucket, Vec::new());
        for key in self.keys(bucket) {
            self.s3(reqwest::Method::DELETE, &format!("{bucket}/{key}"), Vec::new());
        }
    }

    pub(crate) fn keys(&self, bucket: &str) -> Vec<String> {
        let listed = self.s3(reqwest::Method::GET, &format!("{bucket}?list-type=2"), Vec::new());
        let listed = String::from_utf8(listed).expect("text");
        assert!(listed.contains("<IsTruncated>false"), "{listed}");
        let keys = listed.split("<Key>").skip(1);
        keys.map(|rest| rest.split("</Key>").next().unwrap_or_default().to_owned()).collect()
    }

    pub(crate) fn s3(&self, method: reqwest::Method, path: &str, body: Vec<u8>) -> Vec<u8> {
        let url = format!("{}/{path}", self.address("S3").expect("it is there"));
        let asked = self.runtime.block_on(async {
            let request = self.http.request(method, &url).header("authorization", ANY_KEY).body(body);
            request.send().await?.error_for_status()?.bytes().await
        });
        asked.unwrap_or_else(|error| panic!("{url}: {error}")).to_vec()
    }

    /// Sends Redis a command.
    pub(crate) fn redis(&self, command: &str) {
        let url = self.address("REDIS").expect("it is there");
        let address = url.strip_prefix("redis://").expect("an address").trim_end_matches('/').to_owned();
        let mut stream = std::net::TcpStream::connect(address).expect("Redis answers");
        stream.write_all(format!("{command}\r\n").as_bytes()).expect("sent");
        let mut answer = [0; 3];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"+OK", "{command}");
    }

    /// Waits before something is looked at again.
    pub(crate) fn wait(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }
}
