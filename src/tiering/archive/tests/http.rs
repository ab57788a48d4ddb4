//! The archive in an S3 to which the network fails, at each request in turn: of a run, of a scrub, of
//! a restore.

use futures_util::{StreamExt, stream};

use super::*;
use crate::market::Kind;
use crate::testing::proxy::{Fault, Gate, Proxy};
use crate::tiering::archive::read::ArchiveReader;
use crate::tiering::archive::restore;
use crate::tiering::cold::s3::S3Cold;
use crate::tiering::cold::s3::tests::bucket;
use crate::tiering::cold::{RestoreTier, StorageClass};

/// Runs at once: while one waits to try again, others go on.
const RUNS_MAX: usize = 6;

/// A day of trades that is due, and a bucket with an object for the run to remove.
async fn day() -> Option<(World, S3Cold)> {
    let cold = bucket().await?;
    let mut world = World::new();
    for partition in 0..2 {
        world.store(partition, |offset, index| trade(partition, 2 * offset, index)).await;
    }
    let orphan = format!("{}part-0000-DEAD.parquet", data_prefix(unit(&world).await));
    cold.put(&orphan, "x".into()).await.unwrap();
    let condemned = format!("{{ \"version\": 1, \"since\": {{ \"{orphan}\": \"2100-01-01T00:00:00Z\" }} }}");
    cold.put(garbage::GARBAGE_KEY, condemned.into()).await.unwrap();
    Some((world, cold))
}

async fn unit(world: &World) -> Unit {
    let units = world.warm().units().await.unwrap();
    assert_eq!(units.len(), 1);
    units[0].unit
}

async fn run(world: &World, cold: &S3Cold) -> Summary {
    world.archiver(Arc::new(cold.clone()), dropping()).run(&nothing()).await.unwrap()
}

/// Of every row there is one, every object is as it was written, and nothing else is left.
async fn check(world: &World, cold: &S3Cold, manifests: u64) {
    world.check(cold).await;
    let metrics = ArchiveMetrics::default();
    let scrubber = Scrubber::new(Arc::new(cold.clone()), None, world.clock(), metrics);
    let scrub = scrubber.run(Bounds::ALL, true, &nothing()).await.unwrap();
    assert_eq!((scrub.is_finished, scrub.faults, scrub.manifests), (true, Vec::new(), manifests));
    assert_eq!(scrub.rows, world.rows.len() as u64);
}

/// The requests of a run at which nothing fails.
async fn requests_of_a_run() -> Option<Vec<String>> {
    let (world, cold) = day().await?;
    let proxy = Proxy::to(cold.endpoint()).await;
    let summary = run(&world, &cold.by(proxy.url())).await;
    assert_eq!((summary.commits, summary.drops, summary.objects_removed), (1, 1, 1));
    check(&world, &cold, 1).await;
    let requests = proxy.requests();
    for (what, least) in [
        ("PUT /", 15),
        ("GET /", 15),
        ("HEAD /", 4),
        ("?delete", 2),
        ("/lease/archiver-", 2),
        ("/probe/", 3),
        ("/journal/", 9),
        ("/ticks/", 10),
        (".footer", 3),
        ("/0000.json", 2),
        ("/garbage.json", 1),
        ("list-type=2", 8),
    ] {
        let found = requests.iter().filter(|request| request.contains(what)).count();
        assert!(found >= least, "{found} × {what}: {requests:#?}");
    }
    Some(requests)
}

/// A run of which the `nth` request meets `fault` ends as one that meets none, and so does the next.
async fn fault_at(nth: usize, request: &str, fault: Fault) {
    let told = format!("request {nth}, {request}, {fault:?}");
    let late = if let Fault::Late(gate) = &fault { Some(gate.clone()) } else { None };
    let (mut world, cold) = day().await.unwrap();
    let proxy = Proxy::to(cold.endpoint()).await;
    proxy.fail(nth, fault);
    let summary = run(&world, &cold.by(proxy.url())).await;
    assert_eq!(proxy.fired(), 1, "{told}");
    assert_eq!((summary.commits, summary.drops, summary.failures), (1, 1, Vec::new()), "{told}");
    if let Some(gate) = late {
        gate.open();
        gate.landed().await;
    }
    check(&world, &cold, 1).await;
    if request.starts_with("GET") || request.starts_with("HEAD") {
        return;
    }
    // Rows that come late, into an archive that was left like this.
    world.store(0, |offset, index| trade(0, 2 * offset, index)).await;
    let summary = run(&world, &cold).await;
    assert_eq!((summary.commits, summary.drops, summary.failures), (1, 1, Vec::new()), "{told}");
    check(&world, &cold, 2).await;
    assert!(unnamed(&cold).await.is_empty(), "{told}");
}

/// [`fault_at`] each request of a run whose line holds one of `methods`.
async fn fault_at_every_request(what: &str, methods: &[&str], fault: fn() -> Fault) {
    let Some(requests) = requests_of_a_run().await else { return };
    let cases = requests
        .iter()
        .enumerate()
        .filter(|(_, request)| methods.iter().any(|method| request.starts_with(method)));
    let done: Vec<()> = stream::iter(cases)
        .map(|(nth, request)| fault_at(nth, request, fault()))
        .buffer_unordered(RUNS_MAX)
        .collect()
        .await;
    assert!(done.len() >= 15, "{}", done.len());
    // A line of the crash matrix; a row lost or doubled, or an archive not finished, has failed before.
    let times = done.len();
    eprintln!("\nmatrix\trequests of the archive: {what}\t{times}\t0\t0\t{times} of {times}\tpassed");
}

#[tokio::test]
async fn lost_reply_at_every_request_of_the_archive_over_http() {
    fault_at_every_request("reply lost", &["PUT", "GET", "HEAD", "POST"], || Fault::LoseReply).await;
}

#[tokio::test]
async fn a_connection_cut_before_any_write_of_the_archive() {
    fault_at_every_request("cut", &["PUT", "POST"], || Fault::Cut).await;
}

#[tokio::test]
async fn any_write_of_the_archive_may_land_when_the_run_has_long_ended() {
    fault_at_every_request("lands late", &["PUT", "POST"], || Fault::Late(Gate::new())).await;
}

/// Does `work` with a new proxy in front of `cold`, of whose requests the first meets a fault, then
/// with another the second, and so on, for as long as there are any. How often.
async fn at_every_request<F: Future<Output = ()>>(
    cold: &S3Cold,
    fault: &Fault,
    work: impl Fn(S3Cold, String) -> F,
) -> usize {
    for nth in 0.. {
        let proxy = Proxy::to(cold.endpoint()).await;
        proxy.fail(nth, fault.clone());
        work(cold.by(proxy.url()), format!("request {nth}, {fault:?}")).await;
        if proxy.fired() == 0 {
            return nth;
        }
    }
    unreachable!("it ends with the work's requests")
}

#[tokio::test]
async fn any_request_of_a_scrub_or_a_restore_may_fail() {
    let Some((world, cold)) = day().await else { return };
    let unit = unit(&world).await;
    run(&world, &cold).await;
    let objects = cold.list("ticks/", None).await.unwrap();
    assert!(!objects.is_empty());
    for fault in [Fault::LoseReply, Fault::Cut] {
        let requests = at_every_request(&cold, &fault, async |cold, told| {
            let scrubber = Scrubber::new(Arc::new(cold), None, world.clock(), ArchiveMetrics::default());
            let scrub = scrubber.run(Bounds::ALL, true, &nothing()).await.expect(&told);
            assert_eq!((scrub.is_finished, scrub.faults), (true, Vec::new()), "{told}");
        });
        assert!(requests.await > 5);

        // Out of Glacier, as far as the store says, and back into warm.
        let requests = at_every_request(&cold, &fault, async |faulty, told| {
            for object in &objects {
                cold.move_to(&object.key, StorageClass::Glacier).await;
            }
            let reader = Arc::new(ArchiveReader::new(Arc::new(faulty.clone())));
            let survey = restore::survey(&reader, &[Kind::Trade], &[unit.day..=unit.day]).await.expect(&told);
            assert_eq!((survey.ready.len(), survey.frozen.len()), (0, objects.len()), "{told}");
            restore::request(&faulty, &survey.frozen, RestoreTier::Standard, 1, |_| {}).await.expect(&told);
            restore::wait(&faulty, &survey.frozen, Duration::from_millis(10), |_| {}).await.expect(&told);
            let warm = world.warm();
            let rows = restore::into_warm(&reader, &survey.snapshots[0], &*warm, unit).await.expect(&told);
            assert_eq!(rows, world.rows.len() as u64, "{told}");
            let query = Query::new(Kind::Trade, None, TimeRange::ALL);
            conformance::scans_give_what_matches(&*warm, &world.rows, &query).await;
            let all = survey.snapshots[0].next_offsets(unit.day);
            assert_eq!(warm.drop_rows(unit, all).await.unwrap(), 0, "{told}");
        });
        assert!(requests.await > 10);
    }
}
