//! Killed at each durable step of warm in `ClickHouse`, a processor is taken over by the next, and an
//! archive run goes on: every row stands there once.
//!
//! Once each in CI, `STK_TEST_KILLS` times by `scripts/crash-matrix`.

use stk::config::Config;
use stk::market::{Kind, RowDigest};

use super::scaled::{Scaled, digests};
use super::serve::write_capture;
use super::support::Home;

/// What a processor goes through for each block, and when it takes a partition over.
const COMMITS: [&str; 5] = ["claimed", "begun", "pending", "rows", "marked"];

/// Seconds of the capture: as many trades as quotes.
const TICKS: u64 = 60;

/// The trades and quotes of history, wherever they lie.
async fn stored(config: &Config) -> [RowDigest; 2] {
    let (digests, _) = digests(config).await;
    [Kind::Trade, Kind::Quote].map(|kind| digests[kind.name()])
}

/// `digest` of rows that stand there `times` times.
fn times(digest: RowDigest, times: u64) -> RowDigest {
    RowDigest { rows: digest.rows * times, sum: digest.sum.wrapping_mul(times), ..digest }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_warm_in_clickhouse_has_every_row_once() {
    let Some(scaled) = Scaled::new(2) else { return };
    let home = Home::new();
    let capture = write_capture(&home, TICKS as i64).display().to_string();
    let feed = scaled.serve(&home, "feed");
    let replay = || {
        let replayed = home.run(&["replay", &capture, "--speed", "max", "--ingest", &feed.ingest]);
        assert!(replayed.contains("120 ticks durable"), "{replayed}");
    };
    replay();
    let once = stored(&scaled.config()).await;
    assert_eq!(once.map(|digest| digest.rows), [TICKS, TICKS]);

    let mut replays = 1;
    let kills = std::env::var("STK_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(1);
    for point in COMMITS {
        for kill in 0..kills {
            // Every other time the claim or block of one partition is through.
            let point = format!("warm.clickhouse.{point}:{}", 1 + kill % 2);
            let doomed = scaled.serve_until(&home, "processor", &point);
            replay();
            replays += 1;
            assert_eq!(doomed.killed(), Some(9), "{point} was not reached");
            let next = scaled.serve(&home, "processor");
            let (code, said) = next.drained();
            assert_eq!(code, Some(0), "{point}: {said:#?}");
            let expected = once.map(|digest| times(digest, replays));
            assert_eq!(stored(&scaled.config()).await, expected, "{point}, {replays} times replayed");
        }
        tell(&format!("warm.clickhouse.{point}"), kills);
    }
    let (code, said) = feed.stop();
    assert_eq!(code, Some(0), "{said:#?}");

    // Into the archive, out of warm, and back into it.
    let expected = once.map(|digest| times(digest, replays));
    let day = "2025-03-07";
    let run = ["archive", "run", "--before", "2026-01-01"];
    let back = ["archive", "restore", day, "--into-warm", "--yes"];
    for (points, args) in
        [(&["dropped", "part_dropped"][..], &run[..]), (&["restoring", "restored_rows", "restored"], &back)]
    {
        // Each goes on where the one before was killed.
        for point in points {
            let point = format!("warm.clickhouse.{point}");
            let killed = scaled.stk(&home, args).env("STK_FAIL_POINT", &point).status().expect("it runs");
            let signal = std::os::unix::process::ExitStatusExt::signal(&killed);
            assert_eq!(signal, Some(9), "{point} was not reached");
            assert_eq!(stored(&scaled.config()).await, expected, "killed at {point}");
            tell(&point, 1);
        }
        let whole = home.shown(&mut scaled.stk(&home, args));
        assert!(whole.starts_with("exit: 0\n"), "{whole}");
        assert_eq!(stored(&scaled.config()).await, expected, "{args:?}");
    }
}

/// A line of the matrix; a row lost or doubled has failed the test before.
fn tell(point: &str, kills: u64) {
    eprintln!("{point:<32} {kills:>4} killed, 0 lost, 0 doubled");
}
