//! Days in the archive, read and brought back by the real binary, out of an S3 with Glacier's ways.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use stk::tiering::archive::run::Archiver;
use stk::tiering::archive::{ArchiveMetrics, ArchiveOptions, Clock};
use stk::tiering::cold::s3::{S3Cold, S3Config};
use stk::tiering::cold::{Cold, ColdMetrics};
use stk::tiering::warm::local::{LocalWarm, LocalWarmOptions};

use super::serve::write_capture;
use super::support::{Home, Server, service};

/// A data directory whose only day is in a bucket and no longer in warm.
struct Archived {
    home: Home,
    data: PathBuf,
    endpoint: String,
    bucket: String,
    cold: Arc<S3Cold>,
    /// What history printed before.
    trades: String,
    runtime: tokio::runtime::Runtime,
}

/// What a request to the S3 of the tests carries, which asks who it is and does not check it.
pub(crate) const AUTHORIZATION: &str =
    "AWS4-HMAC-SHA256 Credential=stk/20250307/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00";
const DAY: &str = "2025-03-07";
const ROWS: usize = 40;

impl Archived {
    /// `None` where there is no S3.
    fn make() -> Option<Self> {
        let endpoint = service("S3")?;
        let home = Home::new();
        let capture = write_capture(&home, 2 * ROWS as i64).display().to_string();
        let data = home.path("data");
        let shown = home.run(&["replay", &capture, "--speed", "max", "--data", &data.display().to_string()]);
        assert!(shown.starts_with("exit: 0\n"), "{shown}");
        let before = home.run(&["history", "AAPL", "--data", &data.display().to_string()]);
        let trades = rows_of(&before);
        assert_eq!(trades.lines().count(), ROWS + 1, "{before}");

        let bucket = format!("cli-{}-{}", std::process::id(), stk::market::Timestamp::now().nanos());
        let config =
            S3Config::parse(&format!("s3://{bucket}/stk"), Some(endpoint.clone()), "us-east-1".to_owned())
                .unwrap();
        let keys = Some(("stk".to_owned(), "secret".to_owned()));
        let cold = Arc::new(S3Cold::open(S3Config { keys, ..config }, ColdMetrics::default()).unwrap());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let made = reqwest::Client::new().put(format!("{endpoint}/{bucket}")).send().await.unwrap();
            assert!(made.status().is_success(), "{made:?}");
            let warm = LocalWarm::open(&data.join("warm"), LocalWarmOptions { compaction: false }).unwrap();
            let options = ArchiveOptions {
                after_days: 1,
                keep_days: 1,
                settle: Duration::ZERO,
                ..ArchiveOptions::default()
            };
            let metrics = ArchiveMetrics::default();
            let archiver = Archiver::new(cold.clone(), warm, options, Clock::default(), metrics);
            let mut drops = 0;
            for _ in 0..3 {
                let summary = archiver.run(&(Arc::new(|_| {}) as _)).await.unwrap();
                assert_eq!(summary.failures, []);
                drops += summary.drops;
            }
            assert!(drops >= 3, "trades, quotes and bars are dropped: {drops}");
        });
        Some(Self { home, data, endpoint, bucket, cold, trades, runtime })
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("STK_ARCHIVE_URL", format!("s3://{}/stk", self.bucket)),
            ("STK_ARCHIVE_S3_ENDPOINT", self.endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", "stk".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ]
    }

    fn stk(&self, args: &[&str]) -> Command {
        let mut command = self.home.stk(args);
        command.envs(self.env());
        command
    }

    /// Runs `stk` with `args` and the archive in its environment.
    fn run(&self, args: &[&str]) -> String {
        self.home.shown(&mut self.stk(args))
    }

    fn history(&self, more: &[&str]) -> String {
        let data = self.data.display().to_string();
        let mut args = vec!["history", "AAPL", "--data", &data];
        args.extend(more);
        self.run(&args)
    }

    /// Moves the data objects of `kind` to `class`, as a rule of the bucket would.
    fn move_to(&self, kind: &str, class: &str) -> usize {
        self.runtime.block_on(async {
            let objects = self.cold.list(&format!("ticks/kind={kind}/"), None).await.unwrap();
            for object in &objects {
                let key = format!("{}/stk/{}", self.bucket, object.key);
                let moved = reqwest::Client::new()
                    .put(format!("{}/{key}", self.endpoint))
                    // Who asks must say who; this S3 does not check it.
                    .header("authorization", AUTHORIZATION)
                    .header("x-amz-copy-source", format!("/{key}"))
                    .header("x-amz-storage-class", class)
                    .send()
                    .await
                    .unwrap();
                assert!(moved.status().is_success(), "{moved:?}");
            }
            objects.len()
        })
    }
}

fn rows_of(shown: &str) -> String {
    let (_, rest) = shown.split_once("--- stdout\n").expect("there is stdout");
    rest.split("--- stderr\n").next().unwrap_or_default().to_owned()
}

#[test]
fn history_reads_the_archive_and_says_what_it_cannot() {
    let Some(archived) = Archived::make() else { return };
    let shown = archived.history(&["--stats"]);
    assert_eq!(rows_of(&shown), archived.trades, "the same rows as before: {shown}");
    assert!(shown.contains("covers 1 day of the archive, warm: nothing is missing"), "{shown}");
    assert!(shown.contains(" requests to the archive for "), "the archive was read: {shown}");

    // Without the archive an answer would lack rows: there is none.
    let data = archived.data.display().to_string();
    let shown = archived.home.run(&["history", "AAPL", "--data", &data]);
    assert!(shown.starts_with("exit: 1\n") && rows_of(&shown).is_empty(), "{shown}");
    let lost = format!("trade rows of {DAY} were dropped from warm, but [HOME]/data/cold does not hold them");
    assert!(shown.contains(&lost), "{shown}");

    assert_eq!(archived.move_to("trade", "GLACIER"), 1);
    let shown = archived.history(&[]);
    assert_eq!(rows_of(&shown).lines().count(), 1, "a header and no row: {shown}");
    let warning = format!(
        "warning: archived, and not in this answer: trade of {DAY}: ticks/kind=trade/date={DAY}/part-"
    );
    assert!(shown.contains(&warning), "{shown}");
    let hint = format!(
        "hint: `stk archive restore --kind trade {DAY}` brings them back, and tells first what it costs"
    );
    assert!(shown.contains(&hint), "{shown}");
    // Bars are not archived in Glacier, and answered as ever.
    let bars = archived.history(&["--kind", "bars"]);
    assert!(bars.contains("nothing is missing") && rows_of(&bars).lines().count() > 1, "{bars}");

    // The same through a server: rows of others, and the coverage in a header.
    let env = archived.env();
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::start_with(&archived.home, &archived.data, "127.0.0.1:0", &[], &env);
    archived.runtime.block_on(async {
        for path in ["/v1/history?symbols=AAPL", "/v2/stocks/trades?symbols=AAPL&start=2025-03-07"] {
            let response = reqwest::get(format!("http://{}{path}", server.address)).await.unwrap();
            assert_eq!(response.status(), 200, "{path}");
            let coverage = response.headers()["stk-coverage"].to_str().unwrap().to_owned();
            let coverage: serde_json::Value = serde_json::from_str(&coverage).unwrap();
            let part = &coverage["archived"];
            assert_eq!((&part["days"], &part["first_day"]), (&1.into(), &DAY.into()), "{path}");
            assert_eq!((&part["files"], &part["frozen_not_listed"]), (&0.into(), &0.into()), "{path}");
            let [frozen] = &part["frozen"].as_array().unwrap()[..] else { panic!("one object: {part}") };
            assert_eq!((&frozen["kind"], &frozen["date"]), (&"trade".into(), &DAY.into()));
            assert_eq!((&frozen["class"], &frozen["restoring"]), (&"glacier".into(), &false.into()));
            assert_eq!(
                part["restore"],
                serde_json::json!([format!("stk archive restore --kind trade {DAY}")])
            );
        }
        let metrics = reqwest::get(format!("http://{}/metrics", server.address)).await.unwrap();
        let metrics = metrics.text().await.unwrap();
        let value = |name: &str| -> u64 {
            let line = metrics.lines().find(|line| line.starts_with(name)).expect("the metric is there");
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert_eq!(value("stk_archive_frozen_files_total"), 2);
        assert!(value("stk_cold_requests_total{method=\"HEAD\"}") >= 2);
    });
    let asked = archived.run(&["history", "AAPL", "--server", &server.address, "--restore", "--yes"]);
    assert_eq!(rows_of(&asked), archived.trades, "{asked}");
    assert!(asked.contains("1 object can be read for 3 days"), "{asked}");
    server.stop();
}

#[test]
fn what_is_in_glacier_comes_back_after_a_word_on_its_cost() {
    let Some(archived) = Archived::make() else { return };
    let days = ["archive", "restore", "--kind", "trade", DAY];
    let with = |more: &[&'static str]| archived.run(&[&days[..], more].concat());
    assert!(with(&[]).contains("1 object can be read now"), "nothing is to be done");
    assert_eq!(archived.move_to("trade", "DEEP_ARCHIVE"), 1);
    let shown = with(&["--dry-run"]);
    assert!(shown.starts_with("exit: 0\n"), "{shown}");
    assert!(shown.contains("0 objects can be read now (0 B), 1 object can't"), "{shown}");
    assert!(shown.contains("takes 9 to 12 hours and costs about $0.00"), "{shown}");
    assert!(shown.contains("an estimate by list prices of us-east-1, June 2026"), "{shown}");
    let shown = with(&[]);
    assert!(
        shown.starts_with("exit: 2\n") && shown.contains("hint: add `--yes`"),
        "nobody is there to ask: {shown}"
    );
    let shown = with(&["--tier", "expedited", "--yes"]);
    assert!(shown.starts_with("exit: 2\n") && shown.contains("nothing comes expedited"), "{shown}");
    assert_eq!(rows_of(&archived.history(&[])).lines().count(), 1, "nothing was asked for so far");
    let shown = with(&["--tier", "bulk", "--days", "7", "--yes", "--wait"]);
    assert!(shown.starts_with("exit: 0\n") && shown.contains("1 object can be read for 7 days"), "{shown}");
    assert_eq!(rows_of(&archived.history(&[])), archived.trades);

    let data = archived.data.display().to_string();
    let shown = archived.run(&["archive", "restore", DAY, "--into-warm", "--data", &data]);
    assert!(shown.starts_with("exit: 0\n"), "{shown}");
    assert!(
        shown.contains(&format!("trade of {DAY}: {} rows are in warm again, equal", 2 * ROWS)),
        "{shown}"
    );
    let shown = archived.history(&[]);
    assert_eq!(rows_of(&shown), archived.trades, "{shown}");
    assert!(shown.contains("covers warm: nothing is missing"), "it is read from warm: {shown}");

    let shown = archived.run(&["archive", "restore", "2025-03-08"]);
    assert!(shown.starts_with("exit: 1\n") && shown.contains("nothing of these days is archived"), "{shown}");
}

#[test]
fn history_brings_back_what_it_needs_when_asked_to() {
    let Some(archived) = Archived::make() else { return };
    archived.move_to("trade", "GLACIER");
    let shown = archived.history(&["--restore"]);
    assert!(shown.starts_with("exit: 2\n") && shown.contains("hint: add `--yes`"), "{shown}");
    let shown = archived.history(&["--restore", "--restore-tier", "bulk", "--restore-days", "1", "--yes"]);
    assert!(shown.contains("takes 5 to 12 hours"), "{shown}");
    assert_eq!(rows_of(&shown), archived.trades, "{shown}");
}

#[test]
fn a_buckets_rules_are_shown_planned_and_set() {
    let Some(archived) = Archived::make() else { return };
    let lifecycle = |more: &[&'static str]| archived.run(&[&["archive", "lifecycle"], more].concat());
    let stays = "data objects stay where they can be read at once\n";
    assert_eq!(rows_of(&lifecycle(&[])), stays);
    let plan = ["--glacier-after", "30", "--deep-archive-after", "365"];
    let planned = format!(
        "now: {stays}then: data objects are in glacier from day 30 on, deep archive from day 365 on\n"
    );
    assert_eq!(rows_of(&lifecycle(&[&plan[..], &["--dry-run"]].concat())), planned);
    assert_eq!(rows_of(&lifecycle(&[])), stays, "a dry run changes nothing");
    assert_eq!(rows_of(&lifecycle(&plan)), planned);
    assert_eq!(
        rows_of(&lifecycle(&[])),
        "data objects are in glacier from day 30 on, deep archive from day 365 on\n"
    );
    let soon = lifecycle(&["--glacier-after", "30", "--deep-archive-after", "60"]);
    assert!(soon.contains("warning: objects leave Glacier after 30 days, and are billed for 90"), "{soon}");
    lifecycle(&["--none"]);
    assert_eq!(rows_of(&lifecycle(&[])), stays);
    // A directory has no such rules.
    let shown = archived.home.run(&["archive", "lifecycle", "--data", &archived.data.display().to_string()]);
    assert!(shown.starts_with("exit: 2\n") && shown.contains("has no storage classes"), "{shown}");
}
