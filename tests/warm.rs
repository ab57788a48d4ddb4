//! Stores written by earlier versions are read for ever, and gone on with.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::TryStreamExt;
use stk::bus::epoch::LogEpoch;
use stk::market::{
    Bar, Cancel, Conditions, Correction, Exchange, Gap, GapKind, Kind, NO_SYMBOL, PrevClose, Price, Quote,
    Seq, Status, Symbol, SymbolTable, Tape, Tick, TickBatchBuilder, TimeRange, Timeframe, Timestamp, Trade,
    TradeTerms,
};
use stk::tiering::history::format::{Format, RowWriter};
use stk::tiering::warm::local::{LocalWarm, LocalWarmOptions};
use stk::tiering::warm::{Block, Mark, Query, Warm};

const QUIET: LocalWarmOptions = LocalWarmOptions { compaction: false };

/// Records of each partition in the golden store: enough for one merge.
const RECORDS: u64 = 17;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/warm").join(name)
}

fn price(text: &str) -> Price {
    text.parse().expect("a price")
}

/// One tick of every kind and two bars, told apart by where they stand.
fn block(partition: u16, offset: u64) -> Block {
    let symbol: Symbol = ["AAPL", "BRK.B"][usize::from(partition)].parse().expect("a symbol");
    let start: Timestamp = "2026-11-20T14:30:00Z".parse().expect("a time");
    let ts = start.saturating_add_nanos(offset as i64 * 1_000_000_007);
    let recv_ts = ts.saturating_add_nanos(1_234);
    let (exchange, tape) = (Exchange::IEX, Tape::C);
    let conditions = Conditions::from_codes(b"@I").expect("codes");
    let size = 100 + offset as u32;
    let trade =
        Trade { symbol, ts, recv_ts, price: price("190.4501"), size, exchange, conditions, id: offset, tape };
    let terms = |id, text| TradeTerms { id, price: price(text), size, conditions };
    let ticks = [
        Tick::Trade(trade),
        Tick::Quote(Quote {
            symbol,
            ts,
            recv_ts,
            bid: price("190.45"),
            ask: price("190.46"),
            bid_size: size,
            ask_size: 7,
            bid_exchange: exchange,
            ask_exchange: Exchange::NONE,
            conditions,
            tape,
        }),
        Tick::Status(Box::new(Status {
            symbol,
            ts,
            recv_ts,
            code: "H".into(),
            message: "Halted".into(),
            reason_code: "T1".into(),
            reason_message: "".into(),
            tape,
        })),
        Tick::Cancel(Box::new(Cancel {
            symbol,
            ts,
            recv_ts,
            id: offset,
            price: price("0.000000001"),
            size,
            exchange,
            action: b'C',
            tape,
        })),
        Tick::Correction(Box::new(Correction {
            symbol,
            ts,
            recv_ts,
            exchange,
            original: terms(offset, "1"),
            corrected: terms(u64::MAX, "999999999.999999999"),
            tape,
        })),
        Tick::Gap(Box::new(Gap {
            symbol: None,
            ts,
            recv_ts,
            kind: GapKind::Missed,
            source: "iex/1".into(),
            first: offset,
            last: offset,
        })),
        Tick::Gap(Box::new(Gap {
            symbol: Some(symbol),
            ts,
            recv_ts,
            kind: GapKind::Reset,
            source: "".into(),
            first: 0,
            last: 0,
        })),
        Tick::PrevClose(PrevClose { symbol, ts, recv_ts, price: price("189.1") }),
    ];
    let (mut table, mut builder) = (SymbolTable::default(), TickBatchBuilder::new(partition));
    let mut index = 0;
    for tick in &ticks {
        let number = tick.symbol().map_or(NO_SYMBOL, |symbol| table.intern(symbol));
        builder.push(number, Seq { partition, offset, index }, tick);
        index += 1;
    }
    for timeframe in [Timeframe::MINUTE, Timeframe::Day] {
        let mut bar = Bar::empty(symbol, timeframe, ts);
        bar.add(&Trade { conditions: Conditions::NONE, ..trade });
        builder.push_bar(table.intern(symbol), Seq { partition, offset, index }, &bar);
    }
    let checkpoint = Bytes::from(format!("partition {partition} at {}", offset + 1));
    Block {
        partition,
        first_offset: offset,
        next_offset: offset + 1,
        batches: builder.finish(&table),
        checkpoint,
        seam: Some(seam(offset)),
    }
}

/// The seam of the block of the record at `offset`.
fn seam(offset: u64) -> u64 {
    u64::MAX - offset
}

/// Everything in a store, as text.
async fn shown(warm: &LocalWarm) -> String {
    let mut out = Vec::new();
    for kind in Kind::ALL {
        let mut writer = RowWriter::new(Format::Csv, kind, out).expect("a writer");
        let scan = warm.scan(&Query::new(kind, None, TimeRange::ALL)).await.expect("a scan");
        let batches: Vec<_> = scan.rows.try_collect().await.expect("rows");
        batches.iter().for_each(|batch| writer.write(&batch.clone().into()).expect("written"));
        out = writer.finish().expect("finished");
    }
    String::from_utf8(out).expect("text").replace("\r\n", "\n")
}

async fn check(warm: &LocalWarm, version: &str) {
    let is_named = matches!(version, "v4" | "v5");
    assert_eq!(warm.held().await.expect("a store").log, is_named.then_some(LOG));
    let seam = is_named.then_some(seam(RECORDS - 1));
    for partition in 0..2 {
        let checkpoint = format!("partition {partition} at {RECORDS}").into();
        assert_eq!(
            warm.mark(partition).await.expect("a mark"),
            Mark { next_offset: RECORDS, checkpoint, seam }
        );
    }
    warm.verify().expect("sound");
    let expected = fs::read_to_string(golden("v1.csv")).expect("golden rows");
    assert_eq!(shown(warm).await, expected);
}

/// The versions of stores that earlier programs and this one wrote, all with the same rows.
const VERSIONS: [&str; 4] = ["v1", "v3", "v4", "v5"];

/// The log that the stores of those versions name that name one.
const LOG: u64 = 0x0123_4567_89ab_cdef;

/// With `STK_UPDATE=1` a missing golden store is written; an existing one never is.
async fn write_golden(version: &str) {
    let dir = golden(version);
    if dir.exists() {
        return;
    }
    let warm = LocalWarm::open(&dir, QUIET).expect("a store");
    warm.name_log(&LogEpoch::new(LOG), 2).expect("named");
    for offset in 0..RECORDS {
        for partition in 0..2 {
            warm.commit(block(partition, offset)).await.expect("stored");
        }
    }
    // All are merged but one kind's of one partition, which stay as they were written.
    for _ in 1..2 * Kind::ALL.len() {
        warm.compact().expect("merged");
    }
    check(&warm, version).await;
}

#[tokio::test]
async fn stores_of_every_version_are_read_and_gone_on_with() {
    for version in VERSIONS {
        if std::env::var_os("STK_UPDATE").is_some() {
            write_golden(version).await;
        }
        let warm = LocalWarm::open_read_only(&golden(version)).expect("a store");
        check(&warm, version).await;
        let segments = warm.segments();
        let levels: Vec<u32> = segments.iter().map(|segment| segment.level).collect();
        assert!(levels.contains(&0) && levels.contains(&1), "{levels:?}");
        assert!(segments.iter().all(|segment| (segment.footer_at > 0) == (version != "v1")));
        drop(warm);

        let copy = tempfile::tempdir().expect("a directory");
        copy_dir(&golden(version), copy.path());
        let warm = LocalWarm::open(copy.path(), QUIET).expect("a store");
        check(&warm, version).await;
        warm.commit(block(0, RECORDS)).await.expect("stored");
        let rows = shown(&warm).await.lines().count();
        let before = fs::read_to_string(golden("v1.csv")).expect("golden rows").lines().count();
        assert_eq!(rows, before + 10);
    }
}

/// A store of version 2, with a day that went into the archive: that of the first version of `stk` which a machine
/// may still have (`tests/cli/adopt.rs` says how it was made).
#[tokio::test]
async fn a_store_of_version_2_with_an_archived_day_is_read_and_gone_on_with() {
    let copy = tempfile::tempdir().expect("a directory");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store/v1/data/warm");
    copy_dir(&golden, copy.path());
    let check = async |warm: &LocalWarm, is_named: bool| {
        let held = warm.held().await.expect("a store");
        assert_eq!((held.log.is_some(), held.next_offsets), (is_named, vec![3, 1]));
        warm.verify().expect("sound");
        let scan = warm.scan(&Query::new(Kind::Trade, None, TimeRange::ALL)).await.expect("a scan");
        assert_eq!(scan.dropped.into_iter().collect::<Vec<_>>(), [("2025-03-06".parse().unwrap(), vec![1])]);
        let rows: Vec<_> = scan.rows.try_collect().await.expect("rows");
        assert_eq!(rows.iter().map(stk::market::TickBatch::len).sum::<usize>(), 24 + 20);
    };
    let warm = LocalWarm::open_read_only(copy.path()).expect("a store");
    check(&warm, false).await;
    drop(warm);
    let warm = LocalWarm::open(copy.path(), QUIET).expect("a store");
    warm.name_log(&LogEpoch::new(LOG), 2).expect("named");
    check(&warm, true).await;
    drop(warm);
    let warm = LocalWarm::open_read_only(copy.path()).expect("a store");
    check(&warm, true).await;
}

/// Segments of version 1 have no checksums of their blocks: they are read whole before a row is believed.
#[tokio::test]
async fn a_flipped_bit_in_a_store_of_any_version_is_an_error() {
    for version in VERSIONS {
        let copy = tempfile::tempdir().expect("a directory");
        copy_dir(&golden(version), copy.path());
        let warm = LocalWarm::open_read_only(copy.path()).expect("a store");
        for segment in warm.segments().into_iter().step_by(3) {
            let path = copy.path().join(segment.path());
            let sound = fs::read(&path).expect("a segment");
            for at in (4..sound.len()).step_by(211) {
                let mut flipped = sound.clone();
                flipped[at] ^= 1 << (at % 8);
                fs::write(&path, flipped).expect("written");
                let warm = LocalWarm::open_read_only(copy.path()).expect("a store");
                let query = Query::new(segment.kind, None, TimeRange::ALL);
                let scan = warm.scan(&query).await.expect("a scan");
                let read: Result<Vec<_>, _> = scan.rows.try_collect().await;
                let error =
                    read.err().unwrap_or_else(|| panic!("{version}: byte {at} of {}", path.display()));
                assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            }
            fs::write(&path, sound).expect("written");
        }
    }
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).expect("copied");
        }
    }
}
