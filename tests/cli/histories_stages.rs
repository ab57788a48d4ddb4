//! Copies put back at every stage of an archive run: for each step at which a run can be killed, the data
//! directory or the archive is put back from a copy of before the run, or of the moment of the kill. The
//! oracle of the random histories says what has to be answered then.
//!
//! CI takes each stage with one of the copies, `scripts/backup-matrix --stages` with all, and prints a table.

use stk::fail::FAIL_POINTS;

use super::crash_archive::leave_garbage;
use super::histories::History;
use super::support;

/// What is put back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Back {
    /// The data directory as it was before the run.
    DataOfBefore,
    /// The data directory as the killed run left it, after a later run has ended.
    DataOfKill,
    ArchiveOfBefore,
    ArchiveOfKill,
}

const BACKS: [Back; 4] = [Back::DataOfBefore, Back::DataOfKill, Back::ArchiveOfBefore, Back::ArchiveOfKill];
/// What can be put back where warm drops days: these are nowhere else once their archive is gone.
const BACKS_OF_DATA: [Back; 2] = [Back::DataOfBefore, Back::DataOfKill];

/// Of warm's steps those that a run comes to.
const WARM_STAGES: [&str; 4] =
    ["warm.local.sealed", "warm.local.dropping", "warm.local.removed", "warm.local.dropped"];

/// The steps of a run: all of the archive but that of `stk archive verify`.
fn stages() -> impl Iterator<Item = &'static str> {
    let of_archive = |point: &&str| point.starts_with("archive.") && *point != "archive.scrubbed";
    FAIL_POINTS.iter().copied().filter(of_archive).chain(WARM_STAGES)
}

fn live(stage: &str, back: Back, seed: u64) {
    let mut history = History::new(seed);
    history.take_in();
    history.run_archive_to(None, false);
    history.take_in();
    if ["archive.condemned", "archive.removed"].contains(&stage) {
        leave_garbage(&history.archive());
    }
    let drops = BACKS_OF_DATA.contains(&back);
    history.copy();
    let before = history.copy_archive();
    history.run_archive_to(Some(stage.to_owned()), drops);
    assert_eq!(history.tally.killed_runs, 1, "no run comes to {stage}");
    match back {
        Back::DataOfBefore => history.put_back_from(0),
        Back::ArchiveOfBefore => history.put_archive_back(before),
        Back::DataOfKill | Back::ArchiveOfKill => {
            history.copy();
            let killed = history.copy_archive();
            history.run_archive_to(None, drops);
            history.take_in();
            match back {
                Back::DataOfKill => history.put_back_from(1),
                _ => history.put_archive_back(killed),
            }
        }
    }
    history.go_on();
}

#[test]
fn copies_put_back_at_every_stage_of_an_archive_run_lose_and_double_nothing() {
    let is_all = std::env::var_os("STK_TEST_STAGES").is_some();
    let mut trials = Vec::new();
    for (number, stage) in stages().enumerate() {
        let is_drop = stage.contains("drop") || stage == "warm.local.removed";
        let backs = if is_drop { &BACKS_OF_DATA[..] } else { &BACKS[..] };
        let one = backs[number % backs.len()];
        trials.extend(backs.iter().filter(|back| is_all || **back == one).map(|back| (stage, *back)));
    }
    support::live_histories(0..trials.len() as u64, support::jobs(), 2, |number| {
        let (stage, back) = trials[number as usize];
        live(stage, back, number);
        format!("{stage}\t{back:?}")
    });
}
