//! Crashes, damage and cost of the local store.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::TryStreamExt;
use proptest::prelude::*;
use tempfile::TempDir;

use super::files::entries;
use super::*;
use crate::market::{Price, Quote, Seq, Symbol, SymbolTable, Tick, TickBatchBuilder, Timestamp};
use crate::tiering::warm::{ArchiveSource, conformance};

/// Fails the step that is set, and every one after: what is on disk then is what a crash leaves.
#[derive(Default)]
pub(super) struct Crash {
    /// Steps left before the crash; 0 for no crash.
    left: AtomicI64,
    crashed: AtomicBool,
}

impl Crash {
    pub(super) fn step(&self) -> Result<(), WarmError> {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.crashed.store(true, Ordering::Release);
        }
        if self.has_crashed() {
            return Err(WarmError::Io { path: String::new(), reason: "crash".to_owned() });
        }
        Ok(())
    }

    pub(super) fn has_crashed(&self) -> bool {
        self.crashed.load(Ordering::Acquire)
    }
}

const QUIET: LocalWarmOptions = LocalWarmOptions { compaction: false };

fn open(dir: &TempDir) -> Arc<LocalWarm> {
    LocalWarm::open(dir.path(), QUIET).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn parquet_files(dir: &Path) -> HashSet<PathBuf> {
    let mut found = HashSet::new();
    for day in entries(dir)
        .unwrap()
        .into_iter()
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("date="))
    {
        for kind in entries(&day).unwrap() {
            found.extend(entries(&kind).unwrap());
        }
    }
    found
}

fn named_files(warm: &LocalWarm) -> HashSet<PathBuf> {
    warm.segments().iter().map(|info| warm.shared.root.join(info.path())).collect()
}

#[tokio::test]
async fn conforms() {
    let dir = || TempDir::new().unwrap();
    let dirs = [dir(), dir(), dir(), dir(), dir(), dir()];
    conformance::empty_store_stands_at_zero(&*open(&dirs[0])).await;
    conformance::blocks_follow_on_each_other(&*open(&dirs[1])).await;
    conformance::empty_block_moves_the_mark(&*open(&dirs[2])).await;
    conformance::claim_tells_where_it_stands(&*open(&dirs[3])).await;
    conformance::a_rebuilt_bar_is_archived_by_its_place(&*open(&dirs[5])).await;
    let warm = open(&dirs[4]);
    conformance::bars_keep_their_latest_revision(&*warm).await;
    let before = warm.stats();
    while warm.compact().unwrap() {}
    assert_eq!((before[0].rows, before[0].segments), (160, 40));
    // 40 segments: two merges of 16, which drop all but 4 rows each, and 8 that are left.
    assert_eq!((warm.stats()[0].rows, warm.stats()[0].segments), (4 + 4 + 8 * 4, 10));
}

/// Partitions were added to the topic: symbols have moved between them.
#[test]
fn a_log_with_another_number_of_partitions_is_refused() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    let epoch = LogEpoch::new(7);
    let origin = |log: u64, partitions| Origin { log: log.into(), partitions };
    let check = |warm: &LocalWarm, origin| runtime().block_on(warm.check_origin(&origin));
    assert!(!check(&warm, origin(7, 4)).unwrap(), "it names no log yet");
    warm.name_log(&epoch, 2).unwrap();
    drop(warm);
    for is_read_only in [false, true] {
        let warm = if is_read_only { LocalWarm::open_read_only(dir.path()).unwrap() } else { open(&dir) };
        assert!(check(&warm, origin(7, 2)).unwrap());
        let more = check(&warm, origin(7, 4)).unwrap_err();
        assert!(matches!(more, WarmError::OtherLog { .. }) && !more.is_passing(), "{more}");
        let more = more.to_string();
        assert!(more.contains("made with a log of 2 partitions, and the log has 4"), "{more}");
        assert!(more.contains("make a new topic") && more.contains("data.dir"), "{more}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn scans_give_what_matches_also_after_compaction_and_a_restart(
        case in conformance::case(),
        queries in prop::collection::vec(conformance::query(), 1..12),
    ) {
        runtime().block_on(async {
            let dir = TempDir::new().unwrap();
            let warm = open(&dir);
            let rows = conformance::store(&*warm, &case).await;
            for query in &queries {
                conformance::scans_give_what_matches(&*warm, &rows, query).await;
            }
            while warm.compact().unwrap() {}
            for query in &queries {
                conformance::scans_give_what_matches(&*warm, &rows, query).await;
            }
            let segments = warm.segments();
            drop(warm);
            let warm = LocalWarm::open_read_only(dir.path()).unwrap();
            assert_eq!(warm.segments(), segments);
            warm.verify().unwrap();
            for query in &queries {
                conformance::scans_give_what_matches(&*warm, &rows, query).await;
            }
        });
    }

    #[test]
    fn units_are_archived_dropped_and_restored(case in conformance::case()) {
        runtime().block_on(async {
            let dir = TempDir::new().unwrap();
            let warm = open(&dir);
            let rows = conformance::store(&*warm, &case).await;
            conformance::units_are_what_was_stored(&*warm, &rows).await;
            conformance::archived_rows_are_left_out(&*warm, &rows).await;
            while warm.compact().unwrap() {}
            drop(warm);
            let warm = open(&dir);
            conformance::units_are_what_was_stored(&*warm, &rows).await;
            conformance::archived_rows_are_left_out(&*warm, &rows).await;
            conformance::dropped_rows_come_back_by_a_restore(&*warm, &rows).await;
            assert_eq!(parquet_files(dir.path()), named_files(&warm), "no trace is left");
            let (segments, archived) = (warm.segments(), warm.shared.live().archived.clone());
            drop(warm);
            let warm = open(&dir);
            assert_eq!((warm.segments(), &warm.shared.live().archived), (segments, &archived));
        });
    }

    #[test]
    fn bars_have_their_digest(bars in prop::collection::vec(crate::market::arbitrary::bar(), 1..20)) {
        // Of a symbol, time and timeframe there is one bar.
        let mut seen = HashSet::new();
        let bars: Vec<_> =
            bars.into_iter().filter(|bar| seen.insert((bar.symbol, bar.ts, bar.timeframe.to_string()))).collect();
        runtime().block_on(async {
            let dir = TempDir::new().unwrap();
            conformance::bars_have_their_digest(&*open(&dir), &bars).await;
        });
    }

    #[test]
    fn a_scan_is_a_snapshot(case in conformance::case()) {
        runtime().block_on(async {
            let dir = TempDir::new().unwrap();
            conformance::scan_is_a_snapshot(&*open(&dir), &case).await;
        });
    }
}

/// Quotes of `symbols` symbols on one day, `rows` in all, in the order of the log.
fn quotes(partition: u16, first_offset: u64, records: u64, symbols: u64) -> Block {
    let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(partition));
    let open = 1_763_649_000_000_000_000_i64;
    for offset in first_offset..first_offset + records {
        for index in 0..100_u32 {
            let tick = offset * 100 + u64::from(index);
            // Squared, so that some symbols are quoted often and some seldom.
            let number = (tick.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % symbols;
            let symbol: Symbol = format!("S{:04}", number * number / symbols).parse().unwrap();
            let ts = Timestamp::from_nanos(open + tick as i64 * 1_000);
            let price = |cents: u64| Price::from_ten_thousandths((cents * 100) as i64).unwrap();
            let quote = Quote {
                symbol,
                ts,
                recv_ts: ts.saturating_add_nanos(250),
                bid: price(10_000 + tick % 7),
                ask: price(10_001 + tick % 7),
                bid_size: 100,
                ask_size: 200,
                bid_exchange: crate::market::Exchange::IEX,
                ask_exchange: crate::market::Exchange::IEX,
                conditions: crate::market::Conditions::NONE,
                tape: crate::market::Tape::C,
            };
            builder.push(table.intern(symbol), Seq { partition, offset, index }, &Tick::Quote(quote));
        }
    }
    let checkpoint = Bytes::from(format!("state at {}", first_offset + records));
    Block {
        partition,
        first_offset,
        next_offset: first_offset + records,
        batches: builder.finish(&table),
        checkpoint,
        seam: None,
    }
}

fn all_quotes() -> Query {
    Query::new(Kind::Quote, None, TimeRange::ALL)
}

async fn seqs(warm: &LocalWarm, query: &Query) -> Result<Vec<Seq>, WarmError> {
    Ok(conformance::scanned(warm, query).await?.into_iter().map(|(_, _, seq, _)| seq).collect())
}

#[tokio::test]
async fn a_crash_at_any_step_leaves_both_or_neither() {
    let mut outcomes = HashSet::new();
    for steps in 1..8 {
        let dir = TempDir::new().unwrap();
        let warm = open(&dir);
        warm.commit(quotes(0, 0, 2, 10)).await.unwrap();
        warm.shared.crash.left.store(steps, Ordering::Release);
        let crashed = warm.commit(quotes(0, 2, 3, 10)).await.is_err();
        drop(warm);
        let warm = open(&dir);
        let mark = warm.mark(0).await.unwrap();
        assert_eq!(mark.checkpoint, format!("state at {}", mark.next_offset));
        let rows = seqs(&warm, &all_quotes()).await.unwrap();
        assert_eq!(rows.len() as u64, 100 * mark.next_offset);
        assert!(rows.iter().all(|seq| seq.offset < mark.next_offset));
        assert_eq!(parquet_files(dir.path()), named_files(&warm), "no trace is left");
        assert_eq!(entries(&dir.path().join(CHECKPOINT_DIR)).unwrap().len(), 1);
        assert!(crashed || mark.next_offset == 5);
        outcomes.insert((crashed, mark.next_offset));
        // Whatever happened, the block can be given again, or is known to be there.
        match warm.commit(quotes(0, 2, 3, 10)).await {
            Ok(()) => assert_eq!(mark.next_offset, 2),
            Err(error) => assert!(matches!(error, WarmError::NotNext { next_offset: 5, .. }), "{error}"),
        }
        assert_eq!(seqs(&warm, &all_quotes()).await.unwrap().len(), 500);
    }
    assert_eq!(outcomes, HashSet::from([(true, 2), (true, 5), (false, 5)]), "every outcome was seen");
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_compaction_changes_no_row() {
    let mut outcomes = HashSet::new();
    for steps in 1..5 {
        let dir = TempDir::new().unwrap();
        let warm = open(&dir);
        for block in 0..16 {
            warm.commit(quotes(0, 2 * block, 2, 50)).await.unwrap();
        }
        let before = seqs(&warm, &all_quotes()).await.unwrap();
        warm.shared.crash.left.store(steps, Ordering::Release);
        let crashed = warm.compact().is_err();
        drop(warm);
        let warm = open(&dir);
        assert_eq!(seqs(&warm, &all_quotes()).await.unwrap(), before);
        assert_eq!(parquet_files(dir.path()), named_files(&warm));
        outcomes.insert((crashed, warm.segments().len()));
    }
    assert_eq!(outcomes, HashSet::from([(true, 16), (true, 1), (false, 1)]));
}

#[tokio::test]
async fn a_manifest_cut_anywhere_in_its_last_line_is_the_state_before_it() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    warm.commit(quotes(0, 0, 1, 10)).await.unwrap();
    let manifest = dir.path().join("manifest-0000000001.jsonl");
    let before = fs::read(&manifest).unwrap().len();
    warm.commit(quotes(0, 1, 1, 10)).await.unwrap();
    drop(warm);
    let whole = fs::read(&manifest).unwrap();
    for len in before..=whole.len() {
        fs::write(&manifest, &whole[..len]).unwrap();
        let state = manifest::read(dir.path()).unwrap().unwrap();
        assert_eq!(state.marks[&0].next_offset, if len + 1 >= whole.len() { 2 } else { 1 });
    }
    // A last line that has its checksum was not cut off by a crash, whatever it says.
    let strange = br#"{"of":"another version"}"#;
    let line = format!("{:08x} {}\n", crc32fast::hash(strange), std::str::from_utf8(strange).unwrap());
    fs::write(&manifest, [&whole[..], line.as_bytes()].concat()).unwrap();
    let error = LocalWarm::open(dir.path(), QUIET).err().unwrap().to_string();
    assert!(
        error.contains(&format!("the line at byte {} can't be read: unknown variant", whole.len())),
        "{error}"
    );
    // Damage before the last line is no crash.
    let mut damaged = whole.clone();
    damaged[before - 10] ^= 1;
    fs::write(&manifest, &damaged).unwrap();
    let error = LocalWarm::open(dir.path(), QUIET).err().unwrap();
    assert!(matches!(&error, WarmError::Damaged { path, .. } if path.ends_with("0001.jsonl")), "{error}");
}

/// Nothing says which files count then: that is no reason to count none and remove them all.
#[tokio::test]
async fn a_lost_manifest_is_damage_and_removes_nothing() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    warm.commit(quotes(0, 0, 3, 10)).await.unwrap();
    drop(warm);
    let manifest = dir.path().join("manifest-0000000001.jsonl");
    let kept = fs::read(&manifest).unwrap();
    fs::remove_file(&manifest).unwrap();
    let files = parquet_files(dir.path());
    let opened = [LocalWarm::open(dir.path(), QUIET), LocalWarm::open_read_only(dir.path())];
    for error in opened.map(|opened| opened.err().expect("it is damaged")) {
        assert!(matches!(&error, WarmError::Damaged { path, .. } if path.contains("manifest-")), "{error}");
        assert!(
            error.to_string().contains("it is missing, while 2 files that it named are there"),
            "{error}"
        );
    }
    assert_eq!(parquet_files(dir.path()), files);
    assert_eq!(entries(&dir.path().join(CHECKPOINT_DIR)).unwrap().len(), 1);
    fs::write(&manifest, kept).unwrap();
    assert_eq!(seqs(&open(&dir), &all_quotes()).await.unwrap().len(), 300);
}

#[tokio::test]
async fn opening_to_read_removes_nothing() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    warm.commit(quotes(0, 0, 1, 10)).await.unwrap();
    let info = warm.segments()[0].clone();
    let stray =
        dir.path().join(info.path()).with_file_name("p0000-000000000001-000000000009-L0-0000ff.parquet");
    let foreign = stray.with_file_name("notes.parquet");
    drop(warm);
    fs::write(&stray, b"of a crash").unwrap();
    fs::write(&foreign, b"of somebody").unwrap();
    drop(LocalWarm::open_read_only(dir.path()).unwrap());
    assert!(stray.exists());
    let warm = open(&dir);
    assert!(!stray.exists(), "a writer cleans up");
    assert!(foreign.exists(), "a file that no store writes is left alone");
    let aside = entries(&dir.path().join("unnamed")).unwrap();
    let moved = aside[0].join(stray.strip_prefix(dir.path()).unwrap());
    assert_eq!((aside.len(), fs::read(moved).unwrap()), (1, b"of a crash".to_vec()));
    warm.commit(quotes(0, 1, 1, 10)).await.unwrap();
    assert!(warm.segments().iter().all(|info| info.id <= 1 || info.id > 0xff), "no id is used twice");
}

/// A store with merged, archived, dropped and restored segments.
async fn busy(dir: &TempDir) {
    let warm = open(dir);
    for block in 0..18 {
        warm.commit(quotes(0, 2 * block, 2, 50)).await.unwrap();
        warm.commit(quotes(1, 2 * block, 2, 50)).await.unwrap();
    }
    while warm.compact().unwrap() {}
    let unit = quote_unit(&warm);
    let (next, offsets) = ([5, 7], [0..5, 0..7]);
    let rows: Vec<TickBatch> = warm.export(unit, &offsets).await.unwrap().try_collect().await.unwrap();
    warm.drop_rows(unit, &next).await.unwrap();
    warm.restore(unit, &next, Box::pin(futures_util::stream::iter(rows.into_iter().map(Ok)))).await.unwrap();
    warm.commit(quotes(0, 36, 2, 50)).await.unwrap();
}

fn all_files(dir: &Path) -> HashSet<PathBuf> {
    let checkpoints = entries(&dir.join("checkpoint")).unwrap();
    parquet_files(dir).into_iter().chain(checkpoints).collect()
}

/// An interrupted copy, a full disk: lines are gone that name files which are there.
#[tokio::test]
async fn a_manifest_cut_short_removes_nothing() {
    let dir = TempDir::new().unwrap();
    busy(&dir).await;
    let files = all_files(dir.path());
    let path = manifest::path(dir.path()).unwrap();
    let whole = fs::read(&path).unwrap();
    let last_line = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
    let line_ends: Vec<usize> = (1..last_line).filter(|&at| whole[at - 1] == b'\n').collect();
    let cuts = line_ends.iter().flat_map(|&at| [at, at + 5]).chain((0..last_line).step_by(997));
    for cut in cuts {
        fs::write(&path, &whole[..cut]).unwrap();
        let opened = [LocalWarm::open(dir.path(), QUIET), LocalWarm::open_read_only(dir.path())];
        for error in opened.map(|opened| opened.err().unwrap_or_else(|| panic!("cut at {cut}"))) {
            let error = error.to_string();
            assert!(error.contains("manifest-") && error.contains("bring a sound copy"), "{cut}: {error}");
        }
        assert_eq!(all_files(dir.path()), files, "cut at {cut}");
        assert_eq!(fs::read(&path).unwrap().len(), cut, "and it is left as it was");
    }
    // What the message says: a sound copy.
    fs::write(&path, &whole).unwrap();
    assert_eq!(seqs(&open(&dir), &all_quotes()).await.unwrap().len(), 7400);
}

/// A rewritten manifest ends its state with a count, so a cut is told from a torn append there too.
#[tokio::test]
async fn a_rewritten_manifest_cut_short_is_damage() {
    let dir = TempDir::new().unwrap();
    busy(&dir).await;
    {
        let (_, state) = Manifest::open(dir.path(), |_| Ok(())).unwrap();
        Manifest::begin(dir.path(), 2, &state).unwrap();
    }
    let path = manifest::path(dir.path()).unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() - 1 {
        fs::write(&path, &whole[..cut]).unwrap();
        let error = manifest::read(dir.path()).err().unwrap_or_else(|| panic!("cut at {cut}"));
        assert!(matches!(error, WarmError::Damaged { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_the_manifest_is_damage_and_removes_nothing() {
    let dir = TempDir::new().unwrap();
    busy(&dir).await;
    let files = all_files(dir.path());
    let path = manifest::path(dir.path()).unwrap();
    let whole = fs::read(&path).unwrap();
    let state = manifest::read(dir.path()).unwrap();
    let (mut same, mut refused) = (0, 0);
    let last_line = whole[..whole.len() - 1].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
    for (at, bit) in (0..last_line)
        .step_by(37)
        .chain(last_line..whole.len())
        .flat_map(|at| (0..8).map(move |bit| (at, bit)))
    {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << bit;
        fs::write(&path, &flipped).unwrap();
        match manifest::read(dir.path()) {
            // The case of a hexadecimal digit, the last newline.
            Ok(read) => {
                assert_eq!(read, state, "byte {at} bit {bit}");
                same += 1;
            }
            Err(error) => {
                assert!(
                    matches!(&error, WarmError::Damaged { path: named, .. } if Path::new(named) == path),
                    "{error}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 10 * same && same >= 8, "{same} {refused}");
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&path, &flipped).unwrap();
    let warm = open(&dir);
    warm.commit(quotes(1, 36, 1, 10)).await.unwrap();
    drop(warm);
    assert_eq!(open(&dir).mark(1).await.unwrap().next_offset, 37);
    assert!(parquet_files(dir.path()).len() > files.len() - 4);
}

/// Blocks of a disk that were never written read as zeros, though the file has its length.
#[tokio::test]
async fn an_append_of_which_blocks_were_not_written_is_torn() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    warm.commit(quotes(0, 0, 1, 10)).await.unwrap();
    let path = manifest::path(dir.path()).unwrap();
    let before = fs::read(&path).unwrap().len();
    warm.commit(quotes(0, 1, 1, 10)).await.unwrap();
    drop(warm);
    let whole = fs::read(&path).unwrap();
    let edge = before.next_multiple_of(512);
    assert!(edge < whole.len(), "the line runs over a block's edge");
    for zeros in [before..edge, edge..whole.len()] {
        // Without its newline alone the line is whole.
        let expected = if zeros.len() == 1 { 2 } else { 1 };
        let mut torn = whole.clone();
        torn[zeros].fill(0);
        fs::write(&path, &torn).unwrap();
        assert_eq!(manifest::read(dir.path()).unwrap().unwrap().marks[&0].next_offset, expected);
    }
}

#[test]
fn a_manifest_that_grows_is_written_anew() {
    let dir = TempDir::new().unwrap();
    let (mut manifest, mut state) = Manifest::open(dir.path(), |_| Ok(())).unwrap();
    let mut len_max = 0;
    for next_offset in 1..4000 {
        let mark = MarkEdit { partition: 0, next_offset, checkpoint: None, seam: None };
        manifest.append(&mut state, Edit::Commit { mark, segments: Vec::new() }).unwrap();
        len_max = len_max.max(manifest.len());
    }
    assert!(len_max < 200_000, "{len_max}");
    drop(manifest);
    assert_eq!(entries(dir.path()).unwrap().len(), 1);
    assert_eq!(Manifest::open(dir.path(), |_| Ok(())).unwrap().1, state);
}

#[tokio::test]
async fn damage_is_an_error_that_names_the_file() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    warm.commit(quotes(0, 0, 50, 20)).await.unwrap();
    let path = dir.path().join(warm.segments()[0].path());
    let sound = fs::read(&path).unwrap();
    drop(warm);
    let check = async |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let warm = LocalWarm::open_read_only(dir.path()).unwrap();
        let error = warm.verify().unwrap_err();
        assert!(
            matches!(&error, WarmError::Damaged { path: named, .. } if Path::new(named) == path),
            "{error}"
        );
        let scan = warm.scan(&all_quotes()).await?;
        scan.rows.try_collect::<Vec<_>>().await
    };
    assert!(matches!(check(&sound[..sound.len() - 1]).await, Err(WarmError::Damaged { .. })));
    assert!(matches!(check(&[]).await, Err(WarmError::Damaged { .. })));
    // A flipped bit is found by the checksum, wherever a scan that reads all meets it.
    for at in (0..sound.len()).step_by(97) {
        let mut flipped = sound.clone();
        flipped[at] ^= 0x10;
        assert!(matches!(check(&flipped).await, Err(WarmError::Damaged { .. })), "byte {at}");
    }
    fs::remove_file(&path).unwrap();
    let warm = LocalWarm::open_read_only(dir.path()).unwrap();
    let error = seqs(&warm, &all_quotes()).await.unwrap_err();
    assert!(error.to_string().contains("is damaged: the file is missing"), "{error}");
}

#[tokio::test]
async fn merged_segments_stay_until_no_scan_reads_them() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    for block in 0..16 {
        warm.commit(quotes(0, 20 * block, 20, 500)).await.unwrap();
    }
    let old = named_files(&warm);
    let expected = seqs(&warm, &all_quotes()).await.unwrap();
    let mut scan = warm.scan(&all_quotes()).await.unwrap();
    let first = scan.rows.try_next().await.unwrap().unwrap();
    assert!(warm.compact().unwrap());
    assert!(old.is_subset(&parquet_files(dir.path())), "still read");
    let rest: Vec<TickBatch> = scan.rows.try_collect().await.unwrap();
    let mut found = Vec::new();
    for batch in std::iter::once(&first).chain(&rest) {
        let rows = batch.rows().unwrap();
        found.extend((0..batch.len()).map(|row| rows.seq(row)));
    }
    assert_eq!(found, expected);
    assert_eq!(parquet_files(dir.path()), named_files(&warm), "gone with the last reader");
    assert_eq!(warm.segments().len(), 1);
    assert_eq!(seqs(&warm, &all_quotes()).await.unwrap(), expected);
}

#[tokio::test]
async fn a_query_counts_the_segments_that_it_may_read() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    assert_eq!(warm.merge_bytes(&all_quotes()), 0);
    for block in 0..3 {
        warm.commit(quotes(0, 20 * block, 20, 500)).await.unwrap();
    }
    let bytes: u64 = warm.segments().iter().map(|info| info.bytes).sum();
    assert_eq!(warm.merge_bytes(&all_quotes()), (scan::GROWTH * bytes) as usize);
    assert_eq!(warm.merge_bytes(&Query { kind: Kind::Trade, ..all_quotes() }), 0);
    let day = warm.segments()[0].day;
    let after = TimeRange { from: day.end(), to: Timestamp::MAX };
    assert_eq!(warm.merge_bytes(&Query { range: after, ..all_quotes() }), 0);
}

#[tokio::test]
async fn one_symbol_costs_few_bytes() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    for block in 0..4 {
        warm.commit(quotes(0, 2000 * block, 2000, 4000)).await.unwrap();
    }
    let query = Query { symbols: Some(vec!["S2000".parse().unwrap()]), ..all_quotes() };
    let scan = warm.scan(&query).await.unwrap();
    let rows: usize = scan
        .rows
        .map_ok(|batch| batch.len())
        .try_fold(0, |sum, len| async move { Ok(sum + len) })
        .await
        .unwrap();
    let stats = *scan.stats.lock().unwrap();
    assert!(rows > 10, "{rows}");
    assert_eq!(stats.bytes_stored, warm.stats()[0].bytes);
    // Four small segments, of which the footers alone are a part that larger ones dilute.
    assert!(stats.bytes_read * 10 < stats.bytes_stored, "{stats:?}");
    let absent = Query { symbols: Some(vec!["ZZZ".parse().unwrap()]), ..all_quotes() };
    let scan = warm.scan(&absent).await.unwrap();
    assert!(scan.rows.try_collect::<Vec<_>>().await.unwrap().is_empty());
    assert_eq!(scan.stats.lock().unwrap().bytes_read, 0, "ruled out by the manifest");
}

#[tokio::test]
async fn two_processes_do_not_write_one_store() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    let error = LocalWarm::open(dir.path(), QUIET).err().unwrap().to_string();
    assert!(error.ends_with("another process has the store open; stop it, or ask it by --server"), "{error}");
    assert!(LocalWarm::open_read_only(dir.path()).is_err());
    drop(warm);
    let reader = LocalWarm::open_read_only(dir.path()).unwrap();
    let refused = reader.commit(quotes(0, 0, 1, 1)).await.unwrap_err().to_string();
    assert!(refused.ends_with("the store was opened to read"), "{refused}");
}

#[tokio::test]
async fn compaction_in_the_background_bounds_the_files() {
    let dir = TempDir::new().unwrap();
    let warm = LocalWarm::open(dir.path(), LocalWarmOptions::default()).unwrap();
    for block in 0..200 {
        warm.commit(quotes(0, block, 1, 30)).await.unwrap();
    }
    let rows = seqs(&warm, &all_quotes()).await.unwrap();
    assert_eq!(rows.len(), 200 * 100);
    while warm.compact().unwrap() {}
    assert!(warm.segments().len() <= 32, "{}", warm.segments().len());
    assert_eq!(seqs(&warm, &all_quotes()).await.unwrap(), rows);
}

fn quote_unit(warm: &LocalWarm) -> Unit {
    warm.segments()[0].unit()
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_drop_or_a_restore_is_both_or_neither() {
    let mut outcomes = HashSet::new();
    for is_restore in [false, true] {
        for steps in 1..6 {
            let dir = TempDir::new().unwrap();
            let warm = open(&dir);
            warm.commit(quotes(0, 0, 4, 10)).await.unwrap();
            warm.commit(quotes(1, 0, 2, 10)).await.unwrap();
            let unit = quote_unit(&warm);
            // In the midst of partition 0's segment: what stays is written anew.
            let next = [3, 2];
            let offsets = [0..3, 0..2];
            let rows: Vec<TickBatch> =
                warm.export(unit, &offsets).await.unwrap().try_collect().await.unwrap();
            if is_restore {
                warm.drop_rows(unit, &next).await.unwrap();
            }
            warm.shared.crash.left.store(steps, Ordering::Release);
            let done = if is_restore {
                let rows = Box::pin(futures_util::stream::iter(rows.into_iter().map(Ok)));
                warm.restore(unit, &next, rows).await
            } else {
                warm.drop_rows(unit, &next).await.map(|_| ())
            };
            drop(warm);
            let warm = open(&dir);
            assert_eq!(parquet_files(dir.path()), named_files(&warm), "no trace is left");
            let scan = warm.scan(&all_quotes()).await.unwrap();
            let (dropped, restored) = (!scan.dropped.is_empty(), !scan.restored.is_empty());
            drop(scan);
            let found = seqs(&warm, &all_quotes()).await.unwrap().len();
            assert_eq!(found, if dropped { 100 } else { 600 });
            assert!(!is_restore || restored != dropped);
            assert!(done.is_err() || is_restore == restored);
            outcomes.insert((is_restore, done.is_err(), dropped));
        }
    }
    // Not begun to count, counting but not answered, done: of each of the two.
    let expected = [
        (false, true, false),
        (false, true, true),
        (false, false, true),
        (true, true, true),
        (true, true, false),
        (true, false, false),
    ];
    assert_eq!(outcomes, HashSet::from(expected));
}

/// A day that is restored while warm still has it, or has late rows since it was restored before.
#[tokio::test]
async fn a_crash_within_a_restore_of_a_day_that_warm_has_leaves_a_store_that_opens() {
    for is_again in [false, true] {
        for steps in 1..5 {
            let dir = TempDir::new().unwrap();
            let warm = open(&dir);
            warm.commit(quotes(0, 0, 2, 10)).await.unwrap();
            warm.commit(quotes(0, 2, 2, 10)).await.unwrap();
            warm.commit(quotes(1, 0, 2, 10)).await.unwrap();
            let unit = quote_unit(&warm);
            let restore = async |next: [u64; 2]| {
                let rows: Vec<TickBatch> =
                    warm.export(unit, &next.map(|next| 0..next)).await.unwrap().try_collect().await.unwrap();
                if next == [4, 2] && is_again {
                    warm.drop_rows(unit, &next).await.unwrap();
                }
                warm.restore(unit, &next, Box::pin(futures_util::stream::iter(rows.into_iter().map(Ok))))
                    .await
            };
            if is_again {
                restore([4, 2]).await.unwrap();
            }
            warm.commit(quotes(0, 4, 2, 10)).await.unwrap();
            let rows = seqs(&warm, &all_quotes()).await.unwrap();
            warm.shared.crash.left.store(steps, Ordering::Release);
            assert_eq!(restore([6, 2]).await.is_err(), steps < 4, "{steps}");
            drop(warm);
            let warm = open(&dir);
            assert_eq!(seqs(&warm, &all_quotes()).await.unwrap(), rows, "{is_again} {steps}");
            assert_eq!(parquet_files(dir.path()), named_files(&warm), "no trace is left");
        }
    }
}

#[tokio::test]
async fn what_was_sealed_is_merged_with_nothing_after_it() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    let ts: Timestamp = "2026-11-20T05:00:00Z".parse().unwrap();
    let revision = |offset: u64| {
        let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(0));
        let mut bar =
            crate::market::Bar::empty("AAPL".parse().unwrap(), crate::market::Timeframe::MINUTE, ts);
        (bar.volume, bar.trade_count) = (offset + 1, offset + 1);
        builder.push_bar(table.intern(bar.symbol), Seq { partition: 0, offset, index: 0 }, &bar);
        let (batches, checkpoint) = (builder.finish(&table), Bytes::new());
        Block { partition: 0, first_offset: offset, next_offset: offset + 1, batches, checkpoint, seam: None }
    };
    let unit = Unit { day: ts.trading_day(), kind: Kind::Bar };
    for offset in 0..10 {
        warm.commit(revision(offset)).await.unwrap();
    }
    let whole = std::slice::from_ref(&(0..10));
    let sealed = warm.digest(unit, whole).await.unwrap();
    assert_eq!(sealed.rows, 1, "of a bar's revisions the latest alone is archived");
    for offset in 10..40 {
        warm.commit(revision(offset)).await.unwrap();
        while warm.compact().unwrap() {}
        assert_eq!(warm.digest(unit, whole).await.unwrap(), sealed);
    }
    assert!(warm.metrics().compactions.get() > 0);
    drop(warm);
    // The seal is remembered: a day later than this one has merges begin sooner.
    let warm = open(&dir);
    warm.commit(quotes(1, 0, 1, 5)).await.unwrap();
    while warm.compact().unwrap() {}
    assert_eq!(warm.digest(unit, whole).await.unwrap(), sealed);
    assert!(
        warm.segments()
            .iter()
            .all(|info| info.next_offset <= 10 || info.first_offset >= 10 || info.partition == 1)
    );
    warm.drop_rows(unit, &[10]).await.unwrap();
    assert_eq!(warm.digest(unit, whole).await.unwrap().rows, 0);
    assert_eq!(warm.digest(unit, std::slice::from_ref(&(10..40))).await.unwrap().rows, 1);
}

#[tokio::test]
async fn a_store_of_the_first_version_is_gone_on_with() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    warm.commit(quotes(0, 0, 4, 10)).await.unwrap();
    drop(warm);
    let path = dir.path().join("manifest-0000000001.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    let begin = "{\"begin\":{\"version\":1,\"next_id\":0}}";
    fs::write(&path, format!("{:08x} {begin}\n{rest}", crc32fast::hash(begin.as_bytes()))).unwrap();
    let warm = open(&dir);
    let unit = quote_unit(&warm);
    assert!(!path.exists(), "written anew, so that an earlier program says what it lacks");
    warm.drop_rows(unit, &[2]).await.unwrap();
    drop(warm);
    let warm = open(&dir);
    assert_eq!(seqs(&warm, &all_quotes()).await.unwrap().len(), 200);
}

#[tokio::test]
async fn a_manifest_that_cannot_be_rewritten_fails_no_commit() {
    let dir = TempDir::new().unwrap();
    let warm = open(&dir);
    // Where the rewrite would be written.
    let in_the_way = dir.path().join("manifest-0000000002.tmp");
    std::fs::create_dir(&in_the_way).unwrap();
    let commits = 1_100;
    for offset in 0..commits {
        let empty = Block {
            partition: 0,
            first_offset: offset,
            next_offset: offset + 1,
            batches: Vec::new(),
            checkpoint: bytes::Bytes::new(),
            seam: None,
        };
        warm.commit(empty).await.unwrap();
    }
    warm.commit(quotes(1, 0, 1, 10)).await.unwrap();
    drop(warm);
    std::fs::remove_dir(&in_the_way).unwrap();
    let warm = open(&dir);
    assert_eq!(warm.mark(0).await.unwrap().next_offset, commits);
    let rows = conformance::scanned(&*warm, &all_quotes()).await.unwrap();
    let places: std::collections::BTreeSet<_> = rows.iter().map(|(_, _, seq, _)| *seq).collect();
    assert_eq!((rows.len(), places.len()), (100, 100), "each row once");
}
