//! What was archived is read back, whole or in parts, at little cost.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::market::{
    Exchange, Price, RowDigest, SymbolTable, Tape, Tick, TickBatchBuilder, Trade, TradingDay,
};
use crate::tiering::archive::manifest::{
    MANIFEST_VERSION, ManifestFile, data_prefix, manifest_key, manifest_prefix,
};
use crate::tiering::archive::sealed;
use crate::tiering::cold::dir::DirCold;
use crate::tiering::cold::{ObjectInfo, RestoreTier, Transition, Upload};
use crate::tiering::parquet::{Finished, Layout, Numbers, TickWriter};
use crate::tiering::warm::conformance::{self, PARTITIONS, Row};
use crate::tiering::warm::local::{LocalWarm, LocalWarmOptions};
use crate::tiering::warm::{ArchiveSource, Query, Unit, Warm};

/// How the archiver of these tests writes.
#[derive(Clone, Copy, Debug)]
pub(in crate::tiering) struct Shape {
    pub(in crate::tiering) file_rows: usize,
    pub(in crate::tiering) group_rows: usize,
    pub(in crate::tiering) page_rows: usize,
}

/// So small that a few rows make several of everything.
pub(in crate::tiering) const TINY: Shape = Shape { file_rows: 7, group_rows: 4, page_rows: 2 };

/// Uploads the rows of a unit at offsets from those of the manifest before up to `next_offsets`,
/// and gives the manifest that makes them count once [`commit`] creates it.
pub(in crate::tiering) async fn upload(
    source: &dyn ArchiveSource,
    cold: &dyn Cold,
    unit: Unit,
    before: Option<&Manifest>,
    next_offsets: &[u64],
    shape: Shape,
) -> Manifest {
    let first_offsets =
        before.map_or_else(|| vec![0; next_offsets.len()], |before| before.next_offsets.clone());
    let number = before.map_or(0, |before| before.number + 1);
    let offsets: Vec<_> = first_offsets.iter().zip(next_offsets).map(|(first, next)| *first..*next).collect();
    let rows = source.export(unit, &offsets).await.unwrap();
    let rows: Vec<TickBatch> = rows.try_collect().await.unwrap();
    write(cold, unit, number, (first_offsets, next_offsets.to_vec()), &rows, shape).await
}

/// Uploads `batches`, which are ordered, as [`upload`] does.
pub(in crate::tiering) async fn write(
    cold: &dyn Cold,
    unit: Unit,
    number: u32,
    (first_offsets, next_offsets): (Vec<u64>, Vec<u64>),
    batches: &[TickBatch],
    shape: Shape,
) -> Manifest {
    static NONCE: AtomicU64 = AtomicU64::new(0);
    let nonce = NONCE.fetch_add(1, Ordering::Relaxed);
    let whole: Vec<_> = batches.iter().enumerate().map(|(at, batch)| (at, 0..batch.len())).collect();
    let rows = (!batches.is_empty()).then(|| TickBatch::concat(unit.kind, batches, &whole));
    let (mut files, mut digest, mut start) = (Vec::new(), RowDigest::default(), 0);
    while let Some(rows) = rows.as_ref().filter(|rows| start < rows.len()) {
        let part = rows.slice(start..rows.len().min(start + shape.file_rows));
        start += part.len();
        let layout = Layout::new(unit.kind, shape.page_rows, shape.group_rows, 1, |_| Numbers::Delta);
        let mut writer = TickWriter::new(layout, Vec::new()).unwrap();
        writer.write_whole(&part).unwrap();
        let Finished { sink, footer_at, .. } = writer.finish().unwrap();
        let bytes = Bytes::from(sink);
        let name = format!("part-{:04}-{nonce:016x}", files.len());
        let file = ManifestFile {
            key: format!("{}{name}.parquet", data_prefix(unit)),
            footer_key: format!("{}{name}.footer", manifest_prefix(unit)),
            bytes: bytes.len() as u64,
            footer_at,
            checksum: format!("{:016x}", xxh3_64(&bytes)),
            footer_checksum: Some(format!("{:016x}", xxh3_64(&bytes[footer_at as usize..]))),
            digest: part.digest(),
            symbol_min: part.keys().unwrap().symbol(0).map(|symbol| symbol.to_string()),
            symbol_max: part.keys().unwrap().symbol(part.len() - 1).map(|symbol| symbol.to_string()),
        };
        cold.put(&file.footer_key, bytes.slice(footer_at as usize..)).await.unwrap();
        cold.put(&file.key, bytes).await.unwrap();
        digest.add(file.digest);
        files.push(file);
    }
    Manifest {
        version: MANIFEST_VERSION,
        date: unit.day,
        kind: unit.kind.name().to_owned(),
        number,
        nonce: format!("{nonce:016x}"),
        committed_at: Timestamp::now().to_string(),
        writer: "test".to_owned(),
        generation: None,
        first_offsets,
        next_offsets,
        is_lost: false,
        digest,
        files,
    }
}

/// A data object of which only key and size matter.
pub(in crate::tiering) fn data_file(key: &str, bytes: u64) -> DataFile {
    let file = ManifestFile {
        key: key.to_owned(),
        footer_key: String::new(),
        bytes,
        footer_at: 0,
        checksum: String::new(),
        footer_checksum: None,
        digest: RowDigest::default(),
        symbol_min: None,
        symbol_max: None,
    };
    let unit = Unit { day: "2026-11-20".parse().unwrap(), kind: Kind::Trade };
    DataFile { unit, file, symbol_min: None, symbol_max: None }
}

/// Some ticks of every kind, the same at every call.
pub(in crate::tiering) fn some_case() -> conformance::Case {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut case = conformance::Case { blocks: Vec::new() };
    while case.blocks.iter().flat_map(|(_, records)| records).flatten().count() < 60 {
        case.blocks.extend(conformance::case().new_tree(&mut runner).unwrap().current().blocks);
    }
    case
}

/// Makes a manifest's rows count.
pub(in crate::tiering) async fn commit(cold: &dyn Cold, manifest: &Manifest) {
    let unit = Unit { day: manifest.date, kind: Kind::from_name(&manifest.kind).unwrap() };
    let bytes = sealed::seal(manifest);
    assert!(cold.create(&manifest_key(unit, manifest.number), bytes).await.unwrap());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

/// All days of `kind` in an archive as rows.
async fn scanned(reader: &Arc<ArchiveReader>, query: &Query) -> Result<Vec<Row>, ReadError> {
    let snapshot = reader.snapshot(query.kind, query.range).await?;
    let mut files = Vec::new();
    for (day, _) in snapshot.days() {
        files.extend(snapshot.files(day)?);
    }
    let symbols: Option<Vec<Option<Symbol>>> =
        query.symbols.as_ref().map(|symbols| symbols.iter().copied().map(Some).collect());
    let rows = reader.scan(query.kind, files, symbols.as_deref(), query.range, SharedReadStats::default());
    let batches: Vec<TickBatch> = rows.try_collect().await?;
    let mut rows = Vec::new();
    for batch in &batches {
        let view = batch.rows().unwrap();
        let row = |row: usize| (view.symbol(row), view.ts(row), view.seq(row), view.tick(row).unwrap());
        rows.extend((0..batch.len()).map(row));
    }
    Ok(rows)
}

pub(in crate::tiering) async fn archive_all(
    warm: &LocalWarm,
    cold: &dyn Cold,
    shape: Shape,
) -> Vec<Manifest> {
    let mut manifests = Vec::new();
    for info in warm.units().await.unwrap() {
        // In two steps, so that late rows have a manifest of their own.
        let mut next = vec![0; usize::from(PARTITIONS)];
        for partition in 0..PARTITIONS {
            next[usize::from(partition)] = warm.mark(partition).await.unwrap().next_offset;
        }
        let half: Vec<u64> = next.iter().map(|next| next / 2).collect();
        let first = upload(warm, cold, info.unit, None, &half, shape).await;
        let second = upload(warm, cold, info.unit, Some(&first), &next, shape).await;
        for manifest in [first, second] {
            commit(cold, &manifest).await;
            manifests.push(manifest);
        }
    }
    manifests
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_scan_gives_exactly_what_matches(
        case in conformance::case(),
        queries in prop::collection::vec(conformance::query(), 1..4),
        shape in (1_usize..9, 1_usize..6, 1_usize..4).prop_map(|(file_rows, group_rows, page_rows)| Shape {
            file_rows, group_rows, page_rows,
        }),
    ) {
        runtime().block_on(async {
            let (dir, cold_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
            let warm = LocalWarm::open(dir.path(), LocalWarmOptions { compaction: false }).unwrap();
            let rows = conformance::store(&*warm, &case).await;
            let cold: Arc<dyn Cold> = Arc::new(DirCold::open(cold_dir.path()).unwrap());
            archive_all(&warm, &*cold, shape).await;
            let reader = Arc::new(ArchiveReader::new(cold));
            for query in &queries {
                let query = &Query { first_offsets: Vec::new(), ..query.clone() };
                assert_eq!(scanned(&reader, query).await.unwrap(), conformance::expected(&rows, query), "{query:?}");
            }
        });
    }
}

fn symbol_named(number: u32) -> Symbol {
    format!("S{number:05}").parse().unwrap()
}

/// A day of trades: `symbols` symbols with `each` trades of realistic entropy.
fn day_of_trades(day: TradingDay, symbols: u32, each: u32) -> Vec<TickBatch> {
    use rand_xoshiro::Xoshiro256PlusPlus;
    use rand_xoshiro::rand_core::{Rng, SeedableRng};
    let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
    let mut table = SymbolTable::default();
    let mut batches = Vec::new();
    let mut id = 0;
    for number in 0..symbols {
        let mut builder = TickBatchBuilder::new((number % 4) as u16);
        let symbol = symbol_named(number);
        let interned = table.intern(symbol);
        let mut ts = day.session_open();
        for row in 0..each {
            ts = ts.saturating_add_nanos((random.next_u64() % 40_000_000_000) as i64);
            id += random.next_u64() % 9;
            let trade = Trade {
                symbol,
                ts,
                recv_ts: ts.saturating_add_nanos((random.next_u64() % 1_000_000) as i64),
                price: Price::from_ten_thousandths(1_000_000 + (random.next_u64() % 5_000) as i64).unwrap(),
                size: (random.next_u64() % 500) as u32,
                exchange: Exchange::from_code(b'A' + (random.next_u64() % 16) as u8).unwrap(),
                conditions: crate::market::Conditions::default(),
                id,
                tape: Tape::C,
            };
            let seq = Seq { partition: (number % 4) as u16, offset: u64::from(row) * 3, index: number };
            builder.push(interned, seq, &Tick::Trade(trade));
        }
        batches.extend(builder.finish(&table).into_iter().map(|(_, batch)| batch));
    }
    batches
}

/// A store that counts what a bucket would be asked, with the limits of a day `1 / scale` as large.
struct Counting {
    inner: DirCold,
    limits: ranges::Limits,
    scale: u64,
    requests: AtomicU64,
    bytes: AtomicU64,
    read_keys: Mutex<BTreeSet<String>>,
}

impl Counting {
    fn count(&self, requests: usize, bytes: u64) {
        self.requests.fetch_add(requests as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[async_trait::async_trait]
impl Cold for Counting {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn create(&self, key: &str, bytes: Bytes) -> Result<bool, ColdError> {
        self.inner.create(key, bytes).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), ColdError> {
        self.inner.put(key, bytes).await
    }

    async fn upload(&self, key: &str) -> Result<Box<dyn Upload>, ColdError> {
        self.inner.upload(key).await
    }

    async fn get(&self, key: &str) -> Result<Bytes, ColdError> {
        self.read_keys.lock().unwrap().insert(key.to_owned());
        let bytes = self.inner.get(key).await?;
        // Footers and manifests have as many pages to tell of as those of the whole day.
        self.count(1, bytes.len() as u64 / self.scale);
        Ok(bytes)
    }

    async fn get_ranges(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, ColdError> {
        self.read_keys.lock().unwrap().insert(key.to_owned());
        let requests = ranges::coalesce(ranges, self.limits);
        self.count(requests.len(), requests.iter().map(|request| request.end - request.start).sum());
        self.inner.get_ranges(key, ranges).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Vec<ObjectInfo>, ColdError> {
        self.count(1, 0);
        self.inner.list(prefix, after).await
    }

    async fn delete(&self, key: &str) -> Result<(), ColdError> {
        self.inner.delete(key).await
    }

    async fn state(&self, key: &str) -> Result<(StorageClass, Availability), ColdError> {
        self.count(1, 0);
        self.inner.state(key).await
    }

    async fn restore(&self, key: &str, days: u32, tier: RestoreTier) -> Result<(), ColdError> {
        self.inner.restore(key, days, tier).await
    }

    async fn lifecycle(&self, prefix: &str) -> Result<Vec<Transition>, ColdError> {
        self.inner.lifecycle(prefix).await
    }

    async fn set_lifecycle(&self, prefix: &str, transitions: &[Transition]) -> Result<(), ColdError> {
        self.inner.set_lifecycle(prefix, transitions).await
    }
}

/// What it costs to read one symbol's day out of a day of `symbols` times `each` rows, whose row
/// groups and pages, and the gaps that are read along, are `1 / scale` of what they are.
async fn cost_of_one_symbol(symbols: u32, each: u32, scale: usize) -> (u64, f64) {
    let day: TradingDay = "2026-11-20".parse().unwrap();
    let unit = Unit { day, kind: Kind::Trade };
    let dir = TempDir::new().unwrap();
    let limits = ranges::Limits {
        gap_bytes_min: ranges::Limits::FAR.gap_bytes_min / scale as u64,
        gap_bytes_max: ranges::Limits::FAR.gap_bytes_max / scale as u64,
        ..ranges::Limits::FAR
    };
    let cold = Arc::new(Counting {
        inner: DirCold::open(dir.path()).unwrap(),
        limits,
        scale: scale as u64,
        requests: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        read_keys: Mutex::default(),
    });
    let batches = day_of_trades(day, symbols, each);
    // As the archiver writes.
    let shape =
        Shape { file_rows: 12_000_000 / scale, group_rows: (1 << 17) / scale, page_rows: (1 << 14) / scale };
    let offsets = (vec![0; 4], vec![u64::from(each) * 3; 4]);
    let manifest = write(&*cold, unit, 0, offsets, &batches, shape).await;
    commit(&*cold, &manifest).await;
    drop(batches);
    let stored: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    let (mut requests_max, mut share_max) = (0, 0_f64);
    // The middle of the day's symbols, one that lies across two row groups, and the last.
    let across = shape.group_rows as u32 / each;
    for number in [symbols / 2 + 1, across, symbols - 1] {
        let reader = Arc::new(ArchiveReader::new(cold.clone()));
        let (requests, bytes) = (cold.requests.load(Ordering::Relaxed), cold.bytes.load(Ordering::Relaxed));
        cold.read_keys.lock().unwrap().clear();
        let symbols = [Some(symbol_named(number))];
        let range = TimeRange { from: day.start(), to: day.end() };
        let snapshot = reader.snapshot(Kind::Trade, range).await.unwrap();
        let mut files = snapshot.files(day).unwrap();
        files.retain(|file| file.may_hold_any(Some(&symbols), range));
        let stats = SharedReadStats::default();
        let (ready, frozen) = reader.availability(files, &stats).await.unwrap();
        assert!(frozen.is_empty());
        let rows = reader.scan(Kind::Trade, ready, Some(&symbols), range, stats.clone());
        let batches: Vec<TickBatch> = rows.try_collect().await.unwrap();
        assert_eq!(batches.iter().map(TickBatch::len).sum::<usize>(), each as usize);
        let requests = cold.requests.load(Ordering::Relaxed) - requests;
        let bytes = cold.bytes.load(Ordering::Relaxed) - bytes;
        let share = bytes as f64 / stored as f64;
        eprintln!("S{number:05}: {requests} requests, {bytes} of {stored} bytes ({:.2} %)", share * 100.0);
        assert!(cold.read_keys.lock().unwrap().iter().any(|key| key.starts_with("ticks/")));
        (requests_max, share_max) = (requests_max.max(requests), share_max.max(share));
    }
    (requests_max, share_max)
}

#[tokio::test]
async fn one_symbols_day_costs_few_requests_and_few_bytes() {
    // A hundredth of a day of 30,000,000 rows: 300,000 of 400 symbols. `stk bench archive` reads of the day.
    let (requests, share) = cost_of_one_symbol(400, 750, 100).await;
    assert!(requests < 20, "{requests} requests");
    assert!(share < 0.02, "{:.2} % of the bytes", share * 100.0);
}

#[tokio::test]
async fn footers_and_manifests_are_read_once() {
    let (dir, cold_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let warm = LocalWarm::open(dir.path(), LocalWarmOptions { compaction: false }).unwrap();
    let day: TradingDay = "2026-11-20".parse().unwrap();
    let unit = Unit { day, kind: Kind::Trade };
    let cold = Arc::new(Counting {
        inner: DirCold::open(cold_dir.path()).unwrap(),
        limits: ranges::Limits::FAR,
        scale: 1,
        requests: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        read_keys: Mutex::default(),
    });
    drop(warm);
    let manifest = write(&*cold, unit, 0, (vec![0], vec![30]), &day_of_trades(day, 3, 10), TINY).await;
    commit(&*cold, &manifest).await;
    let reader = Arc::new(ArchiveReader::new(cold.clone()));
    let query = Query::new(Kind::Trade, Some(vec![symbol_named(1)]), TimeRange::ALL);
    assert_eq!(scanned(&reader, &query).await.unwrap().len(), 10);
    let first = std::mem::take(&mut *cold.read_keys.lock().unwrap());
    assert!(first.contains(&manifest_key(unit, 0)) && first.iter().any(|key| key.ends_with(".footer")));
    assert_eq!(scanned(&reader, &query).await.unwrap().len(), 10);
    let second = std::mem::take(&mut *cold.read_keys.lock().unwrap());
    assert!(!second.is_empty() && second.iter().all(|key| key.ends_with(".parquet")), "{second:?}");
    // A symbol that the files' ranges rule out costs a list alone.
    let query = Query::new(Kind::Trade, Some(vec!["ZZZ".parse().unwrap()]), TimeRange::ALL);
    assert_eq!(scanned(&reader, &query).await.unwrap().len(), 0);
    assert!(cold.read_keys.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_chain_that_does_not_hold_is_named() {
    let dir = TempDir::new().unwrap();
    let cold: Arc<dyn Cold> = Arc::new(DirCold::open(dir.path()).unwrap());
    let day: TradingDay = "2026-11-20".parse().unwrap();
    let unit = Unit { day, kind: Kind::Trade };
    let rows = day_of_trades(day, 1, 10);
    let first = write(&*cold, unit, 0, (vec![0; 2], vec![10, 20]), &rows, TINY).await;
    let second = write(&*cold, unit, 1, (vec![10, 21], vec![11, 22]), &[], TINY).await;
    commit(&*cold, &second).await;
    let reader = || ArchiveReader::new(cold.clone());
    let failed = async || reader().snapshot(Kind::Trade, TimeRange::ALL).await.unwrap_err().to_string();
    let store = dir.path().display();
    let missing = failed().await;
    assert_eq!(
        missing,
        format!(
            "the archive of trade of 2026-11-20 in {store}: manifest 0000 is missing, though there is 0001"
        )
    );
    commit(&*cold, &first).await;
    assert!(failed().await.contains("0001.json is damaged: it does not begin where the one before it ends"));
    let key = manifest_key(unit, 1);
    cold.put(&key, sealed::seal(&Manifest { version: 4, ..second.clone() })).await.unwrap();
    assert!(failed().await.contains("0001.json is damaged: it is of version 4: use a newer stk"));
    cold.put(&key, "{".into()).await.unwrap();
    assert!(failed().await.contains("0001.json is damaged: EOF"));
    let copy = Manifest { first_offsets: vec![10, 20], kind: "quote".to_owned(), ..second.clone() };
    cold.put(&key, sealed::seal(&copy)).await.unwrap();
    assert!(failed().await.contains("it is the manifest of another unit"));
    let met = Manifest { first_offsets: vec![10, 20], ..second };
    let more = RowDigest { rows: 1, ..met.digest };
    cold.put(&key, sealed::seal(&Manifest { digest: more, ..met.clone() })).await.unwrap();
    assert!(failed().await.contains("0001.json is damaged: its objects do not add up to its rows"));
    let unsealed = serde_json::to_vec(&met).unwrap();
    cold.put(&key, unsealed.into()).await.unwrap();
    assert!(failed().await.contains("0001.json is damaged: it lacks its checksum"));
    cold.put(&key, sealed::seal(&met)).await.unwrap();
    let snapshot = reader().snapshot(Kind::Trade, TimeRange::ALL).await.unwrap();
    assert_eq!(snapshot.next_offsets(day), [11, 22]);
    assert!(
        snapshot.covers(day, &[11]) && !snapshot.covers(day, &[11, 23]) && !snapshot.covers(day.next(), &[1])
    );
}

#[tokio::test]
async fn damage_is_told_by_the_objects_name() {
    let dir = TempDir::new().unwrap();
    let cold: Arc<dyn Cold> = Arc::new(DirCold::open(dir.path()).unwrap());
    let day: TradingDay = "2026-11-20".parse().unwrap();
    let unit = Unit { day, kind: Kind::Trade };
    let manifest = write(&*cold, unit, 0, (vec![0], vec![30]), &day_of_trades(day, 1, 7), TINY).await;
    commit(&*cold, &manifest).await;
    let file = &manifest.files[0];
    let query = Query::new(Kind::Trade, None, TimeRange::ALL);
    let failed = async || {
        let error = scanned(&Arc::new(ArchiveReader::new(cold.clone())), &query).await.unwrap_err();
        assert!(matches!(error, ReadError::Damaged { .. }), "{error}");
        error.to_string()
    };
    let (data, footer) = (cold.get(&file.key).await.unwrap(), cold.get(&file.footer_key).await.unwrap());
    let read = async || scanned(&Arc::new(ArchiveReader::new(cold.clone())), &query).await.unwrap().len();
    // A footer's copy that is damaged or missing is done without.
    for copy in [footer.slice(1..), footer.iter().rev().copied().collect()] {
        cold.put(&file.footer_key, copy).await.unwrap();
        assert_eq!(read().await, 7);
    }
    cold.delete(&file.footer_key).await.unwrap();
    assert_eq!(read().await, 7);
    let mut flipped = data.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    cold.put(&file.key, flipped.into()).await.unwrap();
    assert!(failed().await.contains(".parquet is damaged: its footer does not match its checksum"));
    cold.put(&file.footer_key, footer).await.unwrap();
    assert_eq!(read().await, 7, "of the object the rows alone are read");
    cold.put(&file.key, vec![0; data.len()].into()).await.unwrap();
    assert!(failed().await.contains(".parquet is damaged"));
    cold.delete(&file.key).await.unwrap();
    assert!(failed().await.contains("it is not there, though a manifest names it"));
    cold.put(&file.key, data).await.unwrap();
    assert_eq!(read().await, 7);
}

/// Whatever bit is flipped, in an object that has the checksums of its blocks or, as an earlier version
/// wrote it, has none.
#[tokio::test]
async fn a_flipped_bit_of_an_object_never_reads_as_another_row() {
    let dir = TempDir::new().unwrap();
    let cold: Arc<dyn Cold> = Arc::new(DirCold::open(dir.path()).unwrap());
    let day: TradingDay = "2026-11-20".parse().unwrap();
    let unit = Unit { day, kind: Kind::Trade };
    let mut manifest = write(&*cold, unit, 0, (vec![0], vec![30]), &day_of_trades(day, 1, 7), TINY).await;
    commit(&*cold, &manifest).await;
    let key = manifest.files[0].key.clone();
    let data = cold.get(&key).await.unwrap();
    let query = Query::new(Kind::Trade, None, TimeRange::ALL);
    let sound = scanned(&Arc::new(ArchiveReader::new(cold.clone())), &query).await.unwrap();
    for is_old in [false, true] {
        if is_old {
            manifest.version = 1;
            manifest.files.iter_mut().for_each(|file| file.footer_checksum = None);
            let bytes = serde_json::to_vec(&manifest).unwrap();
            cold.put(&manifest_key(unit, 0), bytes.into()).await.unwrap();
        }
        let rows = scanned(&Arc::new(ArchiveReader::new(cold.clone())), &query).await.unwrap();
        assert_eq!(rows, sound);
        let mut failed = 0;
        for at in (0..data.len()).step_by(13) {
            let mut flipped = data.to_vec();
            flipped[at] ^= 1 << (at % 8);
            cold.put(&key, flipped.into()).await.unwrap();
            match scanned(&Arc::new(ArchiveReader::new(cold.clone())), &query).await {
                // In the footer, of which the copy was read.
                Ok(rows) => assert_eq!(rows, sound, "byte {at}"),
                Err(error) => {
                    assert!(error.to_string().contains(&key), "{error}");
                    failed += 1;
                }
            }
        }
        let trials = data.len().div_ceil(13);
        assert!(if is_old { failed == trials } else { failed > trials / 10 }, "{failed} of {trials}");
        cold.put(&key, data.clone()).await.unwrap();
    }
}

#[test]
fn symbols_are_read_in_passes_that_cover_each_once() {
    let names = ["A", "B", "C", "D"].map(|name| Some(name.parse::<Symbol>().unwrap()));
    let by_symbol = [(None, 5), (names[0], 5), (names[1], 8), (names[3], 30)].into_iter().collect();
    let spans = passes(&Wanted::ALL, &by_symbol, 10);
    assert_eq!(spans.len(), 3, "{spans:?}");
    for symbol in names.into_iter().chain([None]) {
        assert_eq!(spans.iter().filter(|span| span.contains(symbol)).count(), 1, "{symbol:?}");
    }
    let lists = passes(&Wanted::Of([names[0], names[2], names[3]].into()), &by_symbol, 10);
    let lists: Vec<Vec<_>> =
        lists.iter().map(|list| names.iter().filter(|name| list.contains(**name)).collect()).collect();
    assert_eq!(lists, [vec![&names[0]], vec![&names[2]], vec![&names[3]]]);
    assert_eq!(passes(&Wanted::ALL, &BTreeMap::new(), 10).len(), 1);
}

#[tokio::test]
async fn many_large_days_are_read_in_passes() {
    let dir = TempDir::new().unwrap();
    let cold: Arc<dyn Cold> = Arc::new(DirCold::open(dir.path()).unwrap());
    let mut day: TradingDay = "2026-11-16".parse().unwrap();
    let mut files = Vec::new();
    let shape = Shape { file_rows: 1 << 20, group_rows: 1 << 20, page_rows: 50 };
    for _ in 0..5 {
        let unit = Unit { day, kind: Kind::Trade };
        let manifest =
            write(&*cold, unit, 0, (vec![0], vec![600]), &day_of_trades(day, 20, 200), shape).await;
        commit(&*cold, &manifest).await;
        day = day.next();
    }
    let reader = ArchiveReader::new(cold);
    let snapshot = reader.snapshot(Kind::Trade, TimeRange::ALL).await.unwrap();
    for (day, _) in snapshot.days() {
        files.extend(snapshot.files(day).unwrap());
    }
    let stats = SharedReadStats::default();
    let bytes: u64 = files.iter().map(|file| file.file.bytes).sum();
    let planned = plan(&reader, &files, &Wanted::ALL, TimeRange::ALL, &stats, bytes / 4).await.unwrap();
    assert!((3..=8).contains(&planned.len()), "{}", planned.len());
    let reader = Arc::new(reader);
    let mut scanner = Scanner {
        reader: reader.clone(),
        kind: Kind::Trade,
        range: TimeRange::ALL,
        files: files.clone(),
        stats: stats.clone(),
        passes: Some(planned),
        current: None,
    };
    let (mut rows, mut last) = (0, None);
    while let Some(batch) = scanner.next(&Wanted::ALL).await.unwrap() {
        let keys = batch.keys().unwrap();
        for row in 0..keys.len() {
            assert!(last < Some(keys.get(row)));
            last = Some(keys.get(row));
        }
        rows += keys.len();
    }
    assert_eq!(rows, 5 * 20 * 200);
}
