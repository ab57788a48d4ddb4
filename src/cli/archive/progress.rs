//! How far a run of the archive or a scrub is.

use std::borrow::Cow;
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::{action, grouped};
use crate::telemetry::say;
use crate::text::printable;
use crate::tiering::archive::{Action, Event, Planned, Progress};

/// Of a run: each row passes twice, when it is written and when it is read again, and the bar counts
/// both, so that it goes on at one pace.
const PASSES: u64 = 2;

/// Bars on a terminal; elsewhere a line for each unit that is done.
pub(super) struct Shown {
    bars: MultiProgress,
    now: ProgressBar,
    rows: ProgressBar,
    is_terminal: bool,
}

impl Shown {
    /// Of a run: rows written of those planned, the phase of the unit at hand, rate and time left.
    pub(super) fn of_run() -> Arc<Self> {
        let style = |template| {
            ProgressStyle::with_template(template).map(|style| {
                style.with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
                    let _ = write!(out, "{}", HumanCount(state.per_sec() as u64 / PASSES));
                })
            })
        };
        Self::new(style("  {bar:30} {msg}, {rate} rows/s, {eta} left"))
    }

    /// Of a scrub, which does not know yet how much there is: rows, and rate.
    pub(super) fn of_scrub() -> Arc<Self> {
        Self::new(ProgressStyle::with_template("  {human_pos} rows, {per_sec}"))
    }

    fn new<E>(rows_style: Result<ProgressStyle, E>) -> Arc<Self> {
        let is_terminal = std::io::stderr().is_terminal();
        let bars = MultiProgress::new();
        if !is_terminal {
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        let bar = || bars.add(ProgressBar::new_spinner());
        let (now, rows) = (bar(), bar());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            now.set_style(style);
        }
        if let Ok(style) = rows_style {
            rows.set_style(style);
        }
        if is_terminal {
            now.enable_steady_tick(Duration::from_millis(250));
        }
        Arc::new(Self { bars, now, rows, is_terminal })
    }

    /// What a run or a scrub tells of itself is told to.
    pub(super) fn progress(self: &Arc<Self>) -> Progress {
        let shown = self.clone();
        let tally = Mutex::new(Tally::default());
        Arc::new(move |event| {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.take(&event);
            match event {
                Event::Planned { .. } => shown.rows.set_length(PASSES * tally.rows),
                Event::Failed { reason, .. } => {
                    let _ = shown.bars.println(format!("error: {}", printable(&reason)));
                }
                Event::Done { planned } if !shown.is_terminal => say(tally.line(planned)),
                _ => {}
            }
            shown.now.set_message(tally.phase());
            shown.rows.set_position(tally.passed());
            shown.rows.set_message(tally.written());
        })
    }

    pub(super) fn clear(&self) {
        self.now.finish_and_clear();
        self.rows.finish_and_clear();
    }
}

fn head(planned: Planned) -> String {
    format!("{}: {}", planned.unit, action(planned.action))
}

/// What has been heard.
#[derive(Default)]
struct Tally {
    units: usize,
    units_done: usize,
    /// Rows to be copied, of all units.
    rows: u64,
    /// Those of the units that are done.
    rows_done: u64,
    /// The unit at hand, and what is being done with it.
    unit: Option<Planned>,
    step: Cow<'static, str>,
    /// Rows of the unit at hand.
    written: u64,
    read_back: u64,
}

/// Rows that are copied for it.
fn rows_of(planned: &Planned) -> u64 {
    if planned.action == Action::Drop { 0 } else { planned.rows }
}

impl Tally {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Planned { units } => {
                (self.units, self.rows) = (units.len(), units.iter().map(rows_of).sum());
            }
            Event::Begun { planned } => {
                (self.unit, self.step) = (Some(*planned), Cow::Borrowed(""));
                (self.written, self.read_back) = (0, 0);
            }
            Event::Step { step, .. } => {
                self.step.clone_from(step);
                match &**step {
                    // What was written before, it begins anew.
                    "exporting" => self.written = 0,
                    // Also of an earlier run.
                    "uploaded" => self.read_back = 0,
                    _ => {}
                }
            }
            Event::Written { rows } => self.written += rows,
            Event::ReadBack { rows } => self.read_back += rows,
            Event::Done { .. } | Event::Failed { .. } => {
                self.units_done += 1;
                self.rows_done += self.unit.take().as_ref().map_or(0, rows_of);
                (self.written, self.read_back) = (0, 0);
            }
            Event::Removed { .. } => {}
        }
    }

    /// Rows of the unit at hand that `passed`: not more than planned, should late ones have come.
    fn of_unit(&self, passed: u64) -> u64 {
        self.unit.as_ref().map_or(passed, |unit| passed.min(rows_of(unit)))
    }

    /// Rows written and rows read again.
    fn passed(&self) -> u64 {
        // What an earlier run has written is read again only.
        let written = self.written.max(if self.unit.is_some() { self.read_back } else { 0 });
        PASSES * self.rows_done + self.of_unit(written) + self.of_unit(self.read_back)
    }

    fn written(&self) -> String {
        let written = self.rows_done + self.of_unit(self.written.max(self.read_back));
        format!("{} of {} rows written", grouped(written), grouped(self.rows))
    }

    /// That a unit is done, by the step it has come to.
    fn line(&self, planned: Planned) -> String {
        let became = match &*self.step {
            "committed" => "archived",
            "dropped" => "dropped from warm",
            // Rows in it are to change yet, or share a file with others, or its copy failed.
            _ => "left to a later run",
        };
        let rows = grouped(planned.rows);
        format!("{}, {rows} rows: {became} ({} of {})", head(planned), self.units_done, self.units)
    }

    fn phase(&self) -> String {
        let Some(unit) = self.unit else { return String::new() };
        let doing = match &*self.step {
            "" => "looking at it",
            "exporting" => "writing",
            "uploaded" => "reading again what was written",
            "verified" => "committing",
            step => step,
        };
        format!("{} ({} of {}): {doing}", head(unit), self.units_done + 1, self.units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::Kind;
    use crate::tiering::warm::Unit;

    fn planned(action: Action, rows: u64) -> Planned {
        let unit = Unit { day: "2026-11-20".parse().unwrap(), kind: Kind::Trade };
        Planned { unit, action, rows, bytes: 1 }
    }

    #[test]
    fn rows_are_counted_once_and_never_beyond_what_is_planned() {
        let (copy, late) = (planned(Action::Copy, 1_000), planned(Action::Supplement(1), 10));
        let drop = planned(Action::Drop, 1_000);
        let step = |step: &'static str| Event::Step { unit: copy.unit, step: step.into() };
        let script = [
            (Event::Planned { units: vec![copy, late, drop] }, 0, "0 of 1,010 rows written"),
            (Event::Begun { planned: copy }, 0, "0 of 1,010 rows written"),
            (step("exporting"), 0, "0 of 1,010 rows written"),
            (Event::Written { rows: 400 }, 400, "400 of 1,010 rows written"),
            // A try that failed is begun again.
            (step("exporting"), 0, "0 of 1,010 rows written"),
            (Event::Written { rows: 1_005 }, 1_000, "1,000 of 1,010 rows written"),
            (step("uploaded"), 1_000, "1,000 of 1,010 rows written"),
            (Event::ReadBack { rows: 600 }, 1_600, "1,000 of 1,010 rows written"),
            (Event::Done { planned: copy }, 2_000, "1,000 of 1,010 rows written"),
            // What an earlier run has written is only read again.
            (Event::Begun { planned: late }, 2_000, "1,000 of 1,010 rows written"),
            (Event::ReadBack { rows: 10 }, 2_020, "1,010 of 1,010 rows written"),
            (Event::Done { planned: late }, 2_020, "1,010 of 1,010 rows written"),
            (Event::Begun { planned: drop }, 2_020, "1,010 of 1,010 rows written"),
        ];
        let mut tally = Tally::default();
        for (event, passed, written) in script {
            tally.take(&event);
            assert_eq!((tally.passed(), tally.written().as_str()), (passed, written), "{event:?}");
        }
        assert_eq!(tally.phase(), "trade of 2026-11-20: drop (3 of 3): looking at it");
        tally.take(&step("dropping"));
        assert_eq!(tally.phase(), "trade of 2026-11-20: drop (3 of 3): dropping");
        tally.take(&Event::Done { planned: drop });
        let line = |became| format!("trade of 2026-11-20: drop, 1,000 rows: {became} (3 of 3)");
        assert_eq!(tally.line(drop), line("left to a later run"));
        tally.take(&step("dropped"));
        assert_eq!(tally.line(drop), line("dropped from warm"));
    }

    #[test]
    fn a_scrub_counts_what_it_reads() {
        let mut tally = Tally::default();
        tally.take(&Event::ReadBack { rows: 7 });
        tally.take(&Event::ReadBack { rows: 5 });
        assert_eq!(tally.passed(), 12);
    }
}
