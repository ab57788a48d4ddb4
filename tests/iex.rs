//! The `iex` feed: captures made byte by byte, and the real one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use stk::feed::iex::{IexFeed, IexReader, Selection, Speed, Tally, bench_decode, make};
use stk::feed::{BATCH_TICKS_MAX, Feed, FeedError, Pulled};
use stk::market::{GapKind, Tick, TimeRange, Timestamp};

const START: i64 = 1_499_693_400_000_000_000;

fn at_ms(ms: i64) -> Timestamp {
    Timestamp::from_nanos(START + ms * 1_000_000)
}

fn trade(ms: i64, id: u64) -> Vec<u8> {
    make::trade("AAPL", at_ms(ms), 0, 1_904_500, 100, id)
}

/// Writes a capture to a file of its own.
fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn read_path(path: &Path, selection: Selection) -> (Vec<Tick>, Tally, Result<(), FeedError>) {
    let mut reader = match IexReader::open(path, selection) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Tally::default(), Err(error)),
    };
    let mut ticks = Vec::new();
    let result = reader.decode_all(&mut |batch| {
        assert!(!batch.is_empty() && batch.len() <= BATCH_TICKS_MAX);
        ticks.extend_from_slice(batch);
    });
    let tally = reader.tally().clone();
    assert_eq!(tally.accounted(), tally.messages, "every message is accounted for\n{tally}");
    (ticks, tally, result)
}

fn read(bytes: &[u8]) -> (Vec<Tick>, Tally, Result<(), FeedError>) {
    read_path(file(bytes).path(), Selection::default())
}

/// Ticks and tally of a capture that must be good.
fn good(bytes: &[u8]) -> (Vec<Tick>, Tally) {
    let (ticks, tally, result) = read(bytes);
    result.unwrap();
    (ticks, tally)
}

/// The message of a capture that must be bad, with `FILE` for its name.
fn refusal(bytes: &[u8]) -> String {
    let file = file(bytes);
    let (_, _, result) = read_path(file.path(), Selection::default());
    result.unwrap_err().to_string().replace(&file.path().display().to_string(), "FILE")
}

fn pcap_of(packets: &[(Timestamp, Vec<u8>)]) -> Vec<u8> {
    let records = packets.iter().flat_map(|(stamp, packet)| make::pcap_record(*stamp, packet));
    make::pcap_header().into_iter().chain(records).collect()
}

fn segment(sequence: u64, messages: &[Vec<u8>]) -> Vec<u8> {
    make::segment(1, 7, sequence, at_ms(0), messages)
}

fn one_trade() -> Vec<u8> {
    segment(1, &[trade(0, 1)])
}

fn check_golden(name: &str, found: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/iex").join(name);
    if std::env::var_os("STK_UPDATE").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "{} differs; STK_UPDATE=1 rewrites it", path.display());
}

// ---- messages ----

#[test]
fn every_message_becomes_what_the_table_says() {
    let ts = at_ms(1);
    let mut grown = make::quote("GROWN", ts, 0, (10_000, 1), (10_100, 2));
    grown.extend([9; 7]);
    let mut of_the_future = make::system_event(ts, b'O');
    of_the_future[0] = b'z';
    let segments = [
        vec![
            make::system_event(ts, b'O'),
            make::directory("AAPL", ts, 0x00, 1_891_000),
            make::directory("ZVZZT", ts, 0x80, 100_000),
            make::directory("NEWIPO", ts, 0x00, 0),
            make::trading_status("AAPL", ts, b'T', ""),
            make::operational_halt("AAPL", ts, b'N'),
        ],
        vec![
            make::quote("AAPL", ts, 0x00, (1_904_500, 100), (1_904_600, 300)),
            make::quote("AAPL", ts, 0x40, (0, 0), (1_904_600, 300)),
            make::quote("AAPL", ts, 0x80, (0, 0), (0, 0)),
            make::quote("BRK.A", ts, 0xc0, (2_500_000_000, 1), (2_500_000_001, 1)),
            grown,
        ],
        [0x00, 0x80, 0x40, 0x20, 0x10, 0x08, 0xe8]
            .into_iter()
            .enumerate()
            .map(|(id, flags)| make::trade("AAPL", ts, flags, 1_904_550, 7, 171_978 + id as u64))
            .collect(),
        vec![
            make::trade_break("AAPL", ts, 1_904_550, 7, 171_978),
            make::trading_status("AAPL", ts, b'H', "T1"),
            make::operational_halt("AAPL", ts, b'O'),
            make::operational_halt("AAPL", ts, b'N'),
            make::trading_status("AAPL", ts, b'P', "MCB1"),
            make::trading_status("AAPL", ts, b'O', "IPO2"),
            make::trading_status("AAPL", ts, b'T', ""),
        ],
        vec![
            of_the_future,
            make::trade("aapl", ts, 0, 1, 1, 1),
            make::trade("AAPL", ts, 0, -1, 1, 1),
            make::trade("AAPL", ts, 0, i64::MAX, 1, 1),
            make::trade("AAPL", Timestamp::MAX, 0, 1, 1, 1),
            make::trading_status("AAPL", ts, b'?', ""),
            make::operational_halt("AAPL", ts, b'?'),
            vec![b'Q'; 41],
            vec![],
        ],
    ];
    let stamped: Vec<_> = (2..).map(at_ms).zip(segments).collect();
    let (ticks, tally) = good(&make::capture(&stamped));
    let mut text = String::new();
    for tick in &ticks {
        writeln!(text, "{tick:?}").unwrap();
    }
    check_golden("messages.txt", &format!("{text}\n{tally}"));
}

// ---- files ----

fn pcap_with(magic: u32, big_endian: bool, fraction: u32, link: u32, packet: &[u8]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut bytes = word(magic).to_vec();
    bytes.extend(half(2));
    bytes.extend(half(4));
    let seconds = (START / 1_000_000_000) as u32;
    let len = packet.len() as u32;
    for value in [0, 0, 65_535, link, seconds, fraction, len, len] {
        bytes.extend(word(value));
    }
    bytes.extend(packet);
    bytes
}

#[test]
fn both_stamps_and_byte_orders_gzip_or_not() {
    let packet = make::ethernet(&one_trade());
    for big_endian in [false, true] {
        for (magic, fraction, nanos) in
            [(0xa1b2_c3d4, 123_456, 123_456_000), (0xa1b2_3c4d, 123_456_789, 123_456_789)]
        {
            let plain = pcap_with(magic, big_endian, fraction, 1, &packet);
            let two_members = [gzip(&plain[..30]), gzip(&plain[30..])].concat();
            for bytes in [plain.clone(), gzip(&plain), two_members] {
                let (ticks, tally) = good(&bytes);
                assert_eq!((ticks.len(), tally.trades, tally.packets), (1, 1, 1));
                assert_eq!(ticks[0].recv_ts(), Timestamp::from_nanos(START + nanos));
                assert_eq!(ticks[0].ts(), at_ms(0));
            }
        }
    }
}

#[test]
fn every_link_layer_leads_to_the_datagram() {
    let ip = make::ipv4(&one_trade());
    let with = |head: &[u8]| [head, &ip].concat();
    let macs = [0; 12];
    let tagged = |tags: &[u8]| with(&[&macs[..], tags].concat());
    let mut padded = make::ethernet(&one_trade());
    padded.extend([0xee; 20]);
    let mut sll = vec![0, 0, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0, 8, 0];
    let mut sll2 = vec![8, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6, 0, 0];
    sll.extend(&ip);
    sll2.extend(&ip);
    let cases = [
        (1, make::ethernet(&one_trade())),
        (1, padded),
        (1, tagged(&[0x81, 0, 0, 5, 8, 0])),
        (1, tagged(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0])),
        (1, tagged(&[0x91, 0, 0, 5, 0x81, 0, 0, 6, 8, 0])),
        (101, ip.clone()),
        (228, ip.clone()),
        (113, sll),
        (276, sll2),
        (0, with(&[2, 0, 0, 0])),
    ];
    for (link, packet) in cases {
        let (ticks, tally) = good(&pcap_with(0xa1b2_3c4d, false, 0, link, &packet));
        assert_eq!(ticks.len(), 1, "link {link}: {tally}");
    }
}

#[test]
fn what_is_no_whole_datagram_is_counted_and_not_guessed() {
    let whole = make::ethernet(&one_trade());
    let ip = 14;
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = whole.clone();
        change(&mut packet);
        packet
    };
    let packets = [
        whole.clone(),
        changed(&|packet| packet[ip + 6] = 0x20),
        changed(&|packet| packet[ip + 7] = 1),
        changed(&|packet| packet[ip + 9] = 6),
        changed(&|packet| packet[12] = 0x86),
        changed(&|packet| packet[ip + 28] = 2),
        changed(&|packet| packet.truncate(60)),
        vec![],
        vec![0; 13],
    ];
    let stamped: Vec<_> = packets.into_iter().map(|packet| (at_ms(0), packet)).collect();
    let (_, tally) = good(&pcap_of(&stamped));
    assert_eq!((tally.trades, tally.duplicates), (1, 0), "{tally}");
    assert_eq!(tally.packets_fragmented, 2, "{tally}");
    assert_eq!(tally.packets_other + tally.packets_cut, 6, "{tally}");

    let mut snapped = make::pcap_header();
    snapped.extend(make::pcap_record(at_ms(0), &whole));
    snapped.extend(make::pcap_record(at_ms(0), &whole[..60]));
    let original_length_at = snapped.len() - 60 - 4;
    snapped[original_length_at] = whole.len() as u8;
    assert_eq!(good(&snapped).1.packets_cut, 1);
}

/// A pcapng block, in either byte order.
fn block(big_endian: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let word = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let padding = body.len().next_multiple_of(4) - body.len();
    let len = word((12 + body.len() + padding) as u32);
    [&word(kind)[..], &len, body, &[0; 3][..padding], &len].concat()
}

fn section(big_endian: bool) -> Vec<u8> {
    let (magic, version) = (0x1a2b_3c4d_u32, 1_u16);
    let (magic, version) = if big_endian {
        (magic.to_be_bytes(), version.to_be_bytes())
    } else {
        (magic.to_le_bytes(), version.to_le_bytes())
    };
    block(big_endian, 0x0a0d_0d0a, &[&magic[..], &version, &[0; 2], &[0xff; 8]].concat())
}

fn interface(big_endian: bool, link: u16, resolution: Option<u8>, offset: Option<i64>) -> Vec<u8> {
    let half = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut body = half(link).to_vec();
    body.extend([0; 6]);
    if let Some(resolution) = resolution {
        body.extend(half(9));
        body.extend(half(1));
        body.extend([resolution, 0, 0, 0]);
    }
    if let Some(offset) = offset {
        body.extend(half(14));
        body.extend(half(8));
        body.extend(if big_endian { offset.to_be_bytes() } else { offset.to_le_bytes() });
    }
    body.extend([0; 4]);
    block(big_endian, 1, &body)
}

fn enhanced(big_endian: bool, interface: u32, units: u64, packet: &[u8]) -> Vec<u8> {
    let len = packet.len() as u32;
    let words = [interface, (units >> 32) as u32, units as u32, len, len];
    let mut body: Vec<u8> = words
        .into_iter()
        .flat_map(|value| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() })
        .collect();
    body.extend(packet);
    block(big_endian, 6, &body)
}

#[test]
fn pcapng_keeps_links_and_clocks_by_interface_and_section() {
    let seconds = (START / 1_000_000_000) as u64;
    let mut bytes = Vec::new();
    for (big_endian, first) in [(false, 1_u64), (true, 5)] {
        let datagram = |sequence: u64| segment(sequence, &[trade(0, sequence)]);
        bytes.extend(section(big_endian));
        bytes.extend(interface(big_endian, 1, None, None));
        bytes.extend(interface(big_endian, 101, Some(9), None));
        bytes.extend(interface(big_endian, 1, Some(0x8a), Some(1_000_000_000)));
        // A block of a kind that nobody knows is skipped.
        bytes.extend(block(big_endian, 0x0bad, &[1, 2, 3]));
        bytes.extend(enhanced(big_endian, 0, seconds * 1_000_000 + 1, &make::ethernet(&datagram(first))));
        bytes.extend(enhanced(big_endian, 1, seconds * 1_000_000_000 + 2, &make::ipv4(&datagram(first + 1))));
        let binary_units = (seconds - 1_000_000_000) * 1024 + 512;
        bytes.extend(enhanced(big_endian, 2, binary_units, &make::ethernet(&datagram(first + 2))));
        let packet = make::ethernet(&datagram(first + 3));
        let len = packet.len() as u32;
        let len = if big_endian { len.to_be_bytes() } else { len.to_le_bytes() };
        bytes.extend(block(big_endian, 3, &[&len[..], &packet].concat()));
    }
    let (ticks, tally) = good(&bytes);
    let stamps: Vec<i64> = ticks.iter().map(|tick| tick.recv_ts().nanos() - START).collect();
    assert_eq!(stamps, [1000, 2, 500_000_000, 0, 1000, 2, 500_000_000, 0], "{tally}");
    assert_eq!(tally.gaps, 0);
}

// ---- bad files ----

#[test]
fn bad_files_are_refused_by_name_with_what_to_do() {
    assert_eq!(refusal(b""), "FILE: empty; give a pcap or pcapng capture");
    assert_eq!(
        refusal(b"PK\x03\x04 and so on and so on"),
        "FILE: not a capture (it starts with 50 4b 03 04); give a pcap or pcapng file, gzip or not"
    );
    assert_eq!(
        refusal(&gzip(b"hello")),
        "FILE: not a capture (it starts with 68 65 6c 6c); give a pcap or pcapng file, gzip or not"
    );
    let packet = |datagram: &[u8]| pcap_of(&[(at_ms(0), make::ethernet(datagram))]);
    assert_eq!(
        refusal(&packet(b"some other datagram")),
        "FILE: no IEX-TP in its first 1 packets; give a capture of IEX's TOPS 1.6 feed"
    );
    for (protocol, name) in [(0x02, "TOPS 1.5 (0x8002)"), (0x04, "DEEP 1.0 (0x8004)")] {
        let mut other = one_trade();
        other[2] = protocol;
        assert_eq!(
            refusal(&packet(&other)),
            format!("FILE: carries {name}, which is not supported; give a capture of TOPS 1.6")
        );
    }
    let missing = IexReader::open(Path::new("/nowhere/day.pcap"), Selection::default());
    let message = missing.err().unwrap().to_string();
    assert!(message.starts_with("/nowhere/day.pcap: No such file"), "{message}");
    let directory = IexReader::open(Path::new("/"), Selection::default()).err().unwrap().to_string();
    assert_eq!(directory, "/: a directory; give a capture file");
}

#[test]
fn a_damaged_middle_is_an_error_after_what_came_before() {
    let mut bytes = pcap_of(&[(at_ms(0), make::ethernet(&one_trade()))]);
    let damage_at = bytes.len();
    bytes.extend([0xff; 16]);
    let damaged = file(&bytes);
    let (ticks, _, result) = read_path(damaged.path(), Selection::default());
    assert_eq!(ticks.len(), 1);
    let message = result.unwrap_err().to_string();
    assert!(message.contains(&format!(", byte {damage_at}: ")), "{message}");

    let mut packed = gzip(&pcap_of(&[(at_ms(0), make::ethernet(&one_trade()))]));
    let checksum_at = packed.len() - 8;
    packed[checksum_at] ^= 1;
    let message = refusal(&packed);
    assert!(message.starts_with("FILE, byte ") && message.contains("gzip stream is damaged"), "{message}");
}

#[test]
fn a_capture_cut_at_any_byte_gives_all_before_the_cut() {
    let segments: Vec<_> = (0..4).map(|at| (at_ms(at), vec![trade(at, at as u64)])).collect();
    let whole = make::capture(&segments);
    let record_bytes = (whole.len() - 24) / 4;
    for len in 24 + record_bytes..whole.len() {
        let (ticks, tally) = good(&whole[..len]);
        assert_eq!(ticks.len(), (len - 24) / record_bytes);
        assert_eq!(tally.truncation.is_some(), (len - 24) % record_bytes != 0, "{len}");
        if let Some(truncation) = tally.truncation {
            let place = 24 + record_bytes * ticks.len();
            assert!(truncation.contains(&format!(", byte {place}: the capture ends within")), "{truncation}");
        }
    }
    let packed = gzip(&whole);
    let (_, tally) = good(&packed[..packed.len() - 4]);
    assert!(tally.truncation.unwrap().contains("the gzip stream ends too early"));
}

// ---- sequence numbers ----

#[test]
fn gaps_duplicates_and_sessions_are_told() {
    let packet = |ms: i64, bytes: Vec<u8>| (at_ms(ms), make::ethernet(&bytes));
    let of = |session: u32, sequence: u64, ids: &[u64]| {
        let messages: Vec<_> = ids.iter().map(|&id| trade(0, id)).collect();
        make::segment(1, session, sequence, at_ms(5), &messages)
    };
    let bytes = pcap_of(&[
        packet(0, of(7, 1, &[1, 2])),
        packet(1, of(7, 1, &[1, 2])),
        packet(2, of(7, 6, &[6])),
        packet(3, of(7, 4, &[4])),
        packet(1500, of(7, 7, &[7])),
        packet(1501, of(7, 10, &[])),
        packet(1502, of(8, 1, &[101])),
    ]);
    let (ticks, tally) = good(&bytes);
    let told: Vec<String> = ticks
        .iter()
        .map(|tick| match tick {
            Tick::Trade(trade) => trade.id.to_string(),
            Tick::Gap(gap) => {
                assert_eq!(gap.ts, at_ms(5), "the send time");
                let kind = gap.kind.name();
                format!("{kind} {} {}-{}", gap.source, gap.first, gap.last)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        told,
        [
            "1",
            "2",
            "6",
            "4",
            "missed iex/7/1 3-3",
            "missed iex/7/1 5-5",
            "7",
            "missed iex/7/1 8-9",
            "reset iex/8/1 1-0",
            "101",
        ]
    );
    let counted = (tally.duplicates, tally.out_of_order, tally.gaps, tally.missed, tally.resets);
    assert_eq!(counted, (2, 1, 3, 4, 1));
    assert_eq!((tally.segments, tally.heartbeats), (7, 1));
}

#[test]
fn a_segment_that_ends_too_early_is_read_as_far_as_it_is_whole() {
    let mut damaged = segment(1, &[trade(0, 1), trade(0, 2), trade(0, 3)]);
    // The second message claims more than there is.
    damaged[40 + 40] = 200;
    let bytes = pcap_of(&[
        (at_ms(0), make::ethernet(&damaged)),
        (at_ms(1), make::ethernet(&segment(4, &[trade(0, 4)]))),
    ]);
    let (ticks, tally) = good(&bytes);
    assert!(
        matches!(&ticks[..], [Tick::Trade(_), Tick::Trade(_), Tick::Gap(gap)]
        if gap.kind == GapKind::Missed && (gap.first, gap.last) == (2, 3)),
        "{ticks:?}"
    );
    assert_eq!((tally.segments_damaged, tally.messages, tally.missed), (1, 2, 2));
}

// ---- what is asked for ----

#[test]
fn symbols_and_times_are_chosen() {
    let messages =
        ["AAPL", "MSFT", "TSLA"].map(|symbol| move |ms| make::trade(symbol, at_ms(ms), 0, 1, 1, 1));
    let segments: Vec<_> =
        (0..10).map(|ms| (at_ms(ms), messages.iter().map(|message| message(ms)).collect())).collect();
    let file = file(&make::capture(&segments));
    let selection = Selection {
        range: TimeRange { from: at_ms(2), to: at_ms(5) },
        symbols: ["TSLA", "AAPL"].iter().map(|symbol| symbol.parse().unwrap()).collect(),
        repeat: false,
    };
    let (ticks, tally, result) = read_path(file.path(), selection);
    result.unwrap();
    let chosen: Vec<_> = ticks.iter().map(|tick| (tick.symbol().unwrap().to_string(), tick.ts())).collect();
    let expected: Vec<_> =
        (2..5).flat_map(|ms| ["AAPL", "TSLA"].map(|symbol| (symbol.to_owned(), at_ms(ms)))).collect();
    assert_eq!(chosen, expected);
    assert_eq!((tally.trades, tally.filtered), (30, 24));
}

#[test]
fn each_pass_is_a_session_later_in_time() {
    let mut segments: Vec<_> = (0..100).map(|ms| (at_ms(ms), vec![trade(ms - 3, ms as u64)])).collect();
    segments[99].1.push(make::trade_break("AAPL", at_ms(99), 1, 1, 50));
    let file = file(&make::capture(&segments));
    let selection = Selection { repeat: true, ..Selection::default() };
    let mut reader = IexReader::open(file.path(), selection).unwrap();
    let mut ticks = Vec::new();
    while reader.pass() < 3 {
        assert!(reader.read(&mut ticks).unwrap());
    }
    let mut ids = BTreeSet::new();
    let (mut last, mut resets) = (Timestamp::MIN, 0);
    for tick in &ticks {
        match tick {
            Tick::Trade(trade) => {
                assert!(ids.insert(trade.id), "trade ids are never used again");
                assert!(last < trade.recv_ts && trade.recv_ts.nanos_since(trade.ts) == 3_000_000);
                last = trade.recv_ts;
            }
            Tick::Cancel(cancel) => assert!(ids.contains(&cancel.id)),
            Tick::Gap(gap) => {
                assert_eq!((gap.kind, gap.first), (GapKind::Reset, 1));
                resets += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((ids.len(), resets), (300, 2));
    assert_eq!(reader.tally().duplicates, 0);
}

#[test]
fn a_selection_without_a_tick_ends_even_when_repeated() {
    let file = file(&make::capture(&[(at_ms(0), vec![trade(0, 1)])]));
    let symbols = ["NOBODY"].iter().map(|symbol| symbol.parse().unwrap()).collect();
    let (ticks, _, result) =
        read_path(file.path(), Selection { symbols, repeat: true, ..Selection::default() });
    result.unwrap();
    assert!(ticks.is_empty());
}

// ---- playing ----

#[tokio::test(start_paused = true)]
async fn the_capture_keeps_its_time() {
    let times_ms = [0, 0, 10, 1000, 60_000];
    let segments: Vec<_> = times_ms.iter().map(|&ms| (at_ms(ms), vec![trade(ms, ms as u64)])).collect();
    let file = file(&make::capture(&segments));
    for (speed, factor) in [("1", 1), ("10", 10)] {
        let mut feed = IexFeed::open(file.path(), Selection::default(), speed.parse().unwrap()).unwrap();
        let mut start = None;
        let mut played = Vec::new();
        let mut ticks = Vec::new();
        while feed.next(&mut ticks).await.unwrap() == Pulled::Ticks {
            let start = *start.get_or_insert_with(tokio::time::Instant::now);
            played.extend(ticks.drain(..).map(|tick| (tick.ts(), start.elapsed().as_millis())));
        }
        let expected: Vec<_> = times_ms.iter().map(|&ms| (at_ms(ms), (ms / factor) as u128)).collect();
        for (played, expected) in played.iter().zip(&expected) {
            assert!(
                played.0 == expected.0 && (expected.1..=expected.1 + 1).contains(&played.1),
                "{played:?} {expected:?}"
            );
        }
        assert_eq!(played.len(), expected.len());
        assert_eq!(feed.next(&mut ticks).await.unwrap(), Pulled::End);
        assert_eq!(feed.tally().trades, 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_loses_nothing() {
    let segments: Vec<_> = (0..200).map(|ms| (at_ms(ms * 7), vec![trade(ms, ms as u64)])).collect();
    let file = file(&make::capture(&segments));
    let mut feed = IexFeed::open(file.path(), Selection::default(), Speed::Factor(1.0)).unwrap();
    let mut ticks = Vec::new();
    loop {
        let patience = std::time::Duration::from_millis(3);
        match tokio::time::timeout(patience, feed.next(&mut ticks)).await {
            Ok(Ok(Pulled::End)) => break,
            Ok(pulled) => assert_eq!(pulled.unwrap(), Pulled::Ticks),
            Err(_) => {}
        }
    }
    let ids: Vec<u64> = ticks
        .iter()
        .filter_map(|tick| if let Tick::Trade(trade) = tick { Some(trade.id) } else { None })
        .collect();
    assert_eq!(ids, (0..200).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_repeated_capture_goes_on_at_once() {
    let segments: Vec<_> =
        (0..3).map(|second| (at_ms(second * 1000), vec![trade(second * 1000, 1)])).collect();
    let file = file(&make::capture(&segments));
    let selection = Selection { repeat: true, ..Selection::default() };
    let mut feed = IexFeed::open(file.path(), selection, Speed::Factor(1.0)).unwrap();
    let (mut ticks, start) = (Vec::new(), tokio::time::Instant::now());
    while ticks.iter().filter(|tick| matches!(tick, Tick::Trade(_))).count() < 9 {
        assert_eq!(feed.next(&mut ticks).await.unwrap(), Pulled::Ticks);
    }
    assert!((6_000..=6_010).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
}

#[tokio::test]
async fn batches_are_bounded_and_errors_come_last() {
    let segments: Vec<_> =
        (0..100).map(|ms| (at_ms(ms), (0..100).map(|id| trade(ms, id)).collect())).collect();
    let mut bytes = make::capture(&segments);
    bytes.extend([0xff; 16]);
    let file = file(&bytes);
    let mut feed = IexFeed::open(file.path(), Selection::default(), Speed::Max).unwrap();
    let mut total = 0;
    let error = loop {
        let mut ticks = Vec::new();
        match feed.next(&mut ticks).await {
            Ok(pulled) => assert_eq!(pulled, Pulled::Ticks),
            Err(error) => break error,
        }
        assert!((1..=BATCH_TICKS_MAX).contains(&ticks.len()));
        total += ticks.len();
    };
    assert_eq!(total, 10_000);
    assert!(error.to_string().contains("damaged"), "{error}");
    assert_eq!(feed.next(&mut Vec::new()).await.unwrap(), Pulled::End);
}

#[test]
fn speeds_are_numbers_above_zero_or_max() {
    assert_eq!("max".parse(), Ok(Speed::Max));
    assert_eq!("0.5".parse(), Ok(Speed::Factor(0.5)));
    for text in ["", "0", "-1", "inf", "NaN", "fast", "1x"] {
        let message = text.parse::<Speed>().unwrap_err().to_string();
        assert!(message.starts_with(&format!("\"{text}\" is no speed")), "{message}");
    }
}

// ---- no input may bring it down ----

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn any_flipped_bytes_are_survived(flips in proptest::collection::vec((0_usize..4000, 0_u8..255), 1..20)) {
        let segments: Vec<_> = (0..20)
            .map(|ms| (at_ms(ms), vec![trade(ms, 1), make::operational_halt("AAPL", at_ms(ms), b'O')]))
            .collect();
        let mut bytes = make::capture(&segments);
        for (at, value) in flips {
            let len = bytes.len();
            bytes[at % len] = value;
        }
        // Whatever is read, the tally adds up.
        let _ = read(&bytes);
    }
}

// ---- the real capture ----

fn real_capture() -> Option<PathBuf> {
    let shared = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let found = Some(shared.join("data/iex/TOPS16.pcapng.gz")).filter(|path| path.is_file());
    if found.is_none() {
        assert!(
            std::env::var("CI").as_deref() != Ok("true") || !shared.is_dir(),
            "CI has ../shared without data/iex/TOPS16.pcapng.gz"
        );
        // Not by `eprintln!`, which the harness keeps to itself as long as a test passes.
        let message = b"skipped: ../shared/data/iex/TOPS16.pcapng.gz is not here\n";
        std::io::stderr().write_all(message).unwrap();
    }
    found
}

#[test]
fn the_real_capture_is_decoded_to_the_last_message() {
    let Some(path) = real_capture() else { return };
    let (ticks, tally, result) = read_path(&path, Selection::default());
    result.unwrap();
    let symbols: BTreeSet<_> = ticks.iter().filter_map(Tick::symbol).collect();
    assert_eq!((tally.quotes, tally.trades, symbols.len(), tally.cancels), (27_217, 6_390, 7_799, 3));
    assert_eq!((tally.packets, tally.segments, tally.heartbeats), (13_022, 13_022, 237));
    assert_eq!((tally.refused, tally.duplicates, tally.missed, tally.gaps), (0, 0, 0, 0));
    let mut text = tally.to_string();
    for kind in stk::market::Kind::ALL {
        let mut of_kind = ticks.iter().filter(|tick| tick.kind() == kind);
        for tick in of_kind.next().into_iter().chain(of_kind.next_back()) {
            write!(text, "\n{tick:?}").unwrap();
        }
    }
    check_golden("real.txt", &(text + "\n"));
}

#[test]
fn the_real_capture_cut_in_its_gzip_gives_what_came_before() {
    let Some(path) = real_capture() else { return };
    let mut packed = Vec::new();
    std::fs::File::open(path).unwrap().take(200_000).read_to_end(&mut packed).unwrap();
    let (ticks, tally) = good(&packed);
    assert!(ticks.len() > 1000 && tally.gaps == 0);
    assert!(tally.truncation.is_some());
}

#[test]
fn the_benchmark_decodes_every_repetition() {
    let figures = bench_decode(None, 7_000_000).unwrap();
    assert!(figures.bytes >= 7_000_000);
    assert_eq!(figures.messages, 3 * 40_000);
    assert_eq!(figures.ticks, figures.messages + 2, "each is a tick, and each new session a gap");
    let Some(path) = real_capture() else { return };
    let figures = bench_decode(Some(&path), 7_000_000).unwrap();
    assert_eq!(figures.packets, 3 * 13_022);
}
