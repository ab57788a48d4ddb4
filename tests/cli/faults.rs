//! Two archivers as processes, and those that `serve` runs by itself: one at a time works, and every
//! row stays there once.

use std::process::Stdio;
use std::sync::Arc;

use serde_json::Value;
use stk::market::Timestamp;
use stk::tiering::cold::{self, Cold, ColdMetrics};

use super::proxy::{Fault, Gate, Proxy};
use super::scaled::{Scaled, digests, until};
use super::serve::write_capture;
use super::support::{Home, PATIENCE, Server, metric, service};

/// Seconds of the capture: as many trades as quotes.
const SECONDS: u64 = 60;

/// Trades, quotes and the bars made of them.
const KINDS: u64 = 3;

const RUN: [&str; 4] = ["archive", "run", "--before", "2026-01-01"];

/// A day in `ClickHouse`, ready to be archived.
fn stored(scaled: &Scaled, home: &Home) {
    let capture = write_capture(home, SECONDS as i64).display().to_string();
    let feed = scaled.serve(home, "feed");
    let processor = scaled.serve(home, "processor");
    let replayed = home.run(&["replay", &capture, "--speed", "max", "--ingest", &feed.ingest]);
    assert!(replayed.contains("120 ticks durable"), "{replayed}");
    for server in [processor, feed] {
        let (code, said) = server.drained();
        assert_eq!(code, Some(0), "{said:#?}");
    }
}

/// The store of `scaled`'s archive.
fn store(scaled: &Scaled) -> Arc<dyn Cold> {
    let archive = scaled.config().archive;
    let url = archive.url.expect("an archive");
    cold::open(&url, archive.s3_endpoint.as_deref(), &archive.s3_region, &ColdMetrics::default())
        .expect("an archive's store")
}

/// Runs `stk` with `args` until it ends well: how it told of that.
async fn until_done(scaled: &Scaled, home: &Home, args: &[&str]) -> String {
    let mut shown = String::new();
    until("the run's good end", async || {
        shown = home.shown(&mut scaled.stk(home, args));
        shown.starts_with("exit: 0\n")
    })
    .await;
    shown
}

/// Every row once, all of it in the archive and sound.
async fn check(scaled: &Scaled, home: &Home) {
    let (digests, cost) = digests(&scaled.config()).await;
    assert_eq!((digests["trade"].rows, digests["quote"].rows), (SECONDS, SECONDS));
    assert!(cost.archive.files_read > 0 && cost.log_rows == 0, "{cost:?}");
    let verified = home.shown(&mut scaled.stk(home, &["archive", "verify"]));
    assert!(verified.starts_with("exit: 0\n"), "{verified}");
    let manifests = store(scaled).list("manifest/", None).await.expect("a listing");
    let manifests: Vec<_> = manifests.iter().filter(|object| !object.key.ends_with(".footer")).collect();
    assert!(manifests.len() as u64 == KINDS, "{manifests:?}");
    assert!(manifests.iter().all(|object| object.key.ends_with("/0000.json")), "{manifests:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_archivers_the_second_waits_until_the_first_is_gone() {
    let Some(scaled) = Scaled::new(2) else { return };
    let home = Home::new();
    stored(&scaled, &home);
    // The first stands before its first commit, its request on the way.
    let proxy = Proxy::to(&service("S3").expect("it is there")).await;
    let gate = Gate::new();
    proxy.fail_on("\"committed_at\"", 0, Fault::Hold(gate.clone()));
    let mut first = scaled.stk(&home, &RUN);
    first.env("STK_ARCHIVE_S3_ENDPOINT", proxy.url()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut first = first.spawn().expect("the binary runs");
    tokio::time::timeout(2 * PATIENCE, gate.reached()).await.expect("a commit");
    let second = home.shown(&mut scaled.stk(&home, &RUN));
    let told = format!("process {} on ", first.id());
    assert!(second.starts_with("exit: 4\n"), "{second}");
    assert!(second.contains(&told) && second.contains(" is archiving, until "), "{second}");

    // Its process is no more: nobody waits for the lease's end.
    first.kill().expect("it runs");
    first.wait().expect("it is ours");
    let second = home.shown(&mut scaled.stk(&home, &RUN));
    assert!(second.starts_with("exit: 0\n"), "{second}");
    // The request of the dead comes after all, and is refused.
    gate.open();
    gate.landed().await;
    home.shown(&mut scaled.stk(&home, &RUN));
    check(&scaled, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archivers_that_begin_at_once_archive_each_row_once() {
    let Some(scaled) = Scaled::new(2) else { return };
    let home = Home::new();
    stored(&scaled, &home);
    let spawn = |_| {
        let mut command = scaled.stk(&home, &RUN);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    };
    let all: Vec<_> = (0..3).map(spawn).collect();
    let mut done = 0;
    for archiver in all {
        let output = archiver.wait_with_output().expect("it ended");
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            done += 1;
        } else {
            let told = said.contains(" is archiving, until ") || said.contains("the lease was lost");
            assert!(told, "{said}");
        }
    }
    assert!(done >= 1, "one of them has archived");
    until_done(&scaled, &home, &RUN).await;
    check(&scaled, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_holder_on_another_machine_is_followed_once_its_lease_has_run_out() {
    let Some(scaled) = Scaled::new(2) else { return };
    let home = Home::new();
    stored(&scaled, &home);
    let killed = scaled.stk(&home, &RUN).env("STK_FAIL_POINT", "archive.uploaded").status();
    let signal = std::os::unix::process::ExitStatusExt::signal(&killed.expect("it runs"));
    assert_eq!(signal, Some(9));
    // As another machine would have left it, two minutes ago.
    let store = store(&scaled);
    let leases = store.list("lease/", None).await.expect("a listing");
    let key = &leases.last().expect("a lease").key;
    let bytes = store.get(key).await.expect("a lease");
    let mut lease: Value = serde_json::from_slice(&bytes).expect("JSON");
    assert_eq!(lease["released"], false);
    lease["owner"]["host"] = "elsewhere".into();
    lease["owner"]["boot"] = "another".into();
    // Others wait for twenty seconds more, as clocks differ.
    let expires_at = Timestamp::now();
    lease["expires_at"] = expires_at.to_string().into();
    // Its checksum is of the object without it.
    lease.as_object_mut().expect("an object").remove("checksum");
    let checksum = xxhash_rust::xxh3::xxh3_64(lease.to_string().as_bytes());
    lease["checksum"] = format!("{checksum:016x}").into();
    store.put(key, lease.to_string().into()).await.expect("written");

    let refused = home.shown(&mut scaled.stk(&home, &RUN));
    let pid = &lease["owner"]["pid"];
    let until = expires_at.saturating_add_nanos(20_000_000_000);
    let told = format!("process {pid} on elsewhere is archiving, until {until} at the latest");
    assert!(refused.starts_with("exit: 4\n") && refused.contains(&told), "{refused}");
    until_done(&scaled, &home, &RUN).await;
    assert!(Timestamp::now() >= until, "it began before the lease had run out");
    home.shown(&mut scaled.stk(&home, &RUN));
    check(&scaled, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archivers_that_serve_archive_by_themselves() {
    let Some(scaled) = Scaled::new(2) else { return };
    let scaled = scaled.with("STK_ARCHIVE_EVERY_MINUTES", "1");
    let home = Home::new();
    stored(&scaled, &home);
    // Both at once: one works, and the other says who does.
    let archivers = [scaled.serve(&home, "archiver"), scaled.serve(&home, "archiver")];
    let count = |name: &str| archivers.iter().map(|each| metric(&each.address, name) as u64).sum::<u64>();
    until("the archive's run", async || {
        count("archive_units_dropped_total") >= KINDS && count("archive_runs_total") >= 2
    })
    .await;
    assert_eq!(count("archive_commits_total"), KINDS);
    check(&scaled, &home).await;
    for archiver in archivers {
        let (code, said) = archiver.drained();
        assert_eq!(code, Some(0), "{said:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_archives_its_days_by_itself() {
    let home = Home::new();
    let capture = write_capture(&home, SECONDS as i64).display().to_string();
    let data = home.path("data");
    let name = data.display().to_string();
    let replayed = home.run(&["replay", &capture, "--speed", "max", "--data", &name]);
    assert!(replayed.starts_with("exit: 0\n"), "{replayed}");
    let before = home.run(&["history", "AAPL", "--data", &name]);
    let env = [
        ("STK_ARCHIVE_EVERY_MINUTES", "1"),
        ("STK_ARCHIVE_SETTLE_MINUTES", "0"),
        ("STK_ARCHIVE_AFTER_DAYS", "1"),
        ("STK_WARM_KEEP_DAYS", "1"),
    ];
    let server = Server::start_with(&home, &data, "127.0.0.1:0", &[], &env);
    until("the archive's run", async || {
        metric(&server.address, "archive_units_dropped_total") as u64 >= KINDS
    })
    .await;
    let (code, said) = server.stop();
    assert_eq!(code, Some(0), "{said:#?}");
    let after = home.run(&["history", "AAPL", "--data", &name]);
    let rows = |shown: &str| shown.split("--- stderr\n").next().map(str::to_owned);
    assert_eq!(rows(&after), rows(&before));
    assert!(after.contains("1 day of the archive"), "{after}");
    let day = data.join("cold/ticks/kind=trade/date=2025-03-07");
    assert!(day.is_dir(), "{} is not there", day.display());
}
