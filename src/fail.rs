//! Fail points: where a crash test has the process die.
//!
//! A point stands behind every durable step of the log, hot, warm and the archive, and of the
//! processor between them. Off unless `STK_FAIL_POINT` names it: `name`, or `name:3` for the third time it is reached. The process then
//! ends as by SIGKILL, with nothing flushed and no destructor run. In every build, so that anyone
//! can run the crash matrix on the binary they have.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Every fail point, by its name: what the crash matrix goes through.
pub const FAIL_POINTS: &[&str] = &[
    "log.local.begun",
    "log.local.written",
    "log.local.synced",
    "log.local.rolled",
    "log.local.dropped",
    "log.local.drop_noted",
    "log.local.ended",
    "log.local.sealed",
    "log.local.settled",
    "log.local.emptied",
    "log.kafka.delivered",
    "log.kafka.committed",
    "log.kafka.trimmed",
    "processor.claimed",
    "processor.replayed",
    "processor.restored",
    "processor.stored",
    "processor.rebuilt",
    "processor.drained",
    "processor.handed_over",
    "hot.memory.checkpoint",
    "hot.redis.compared",
    "hot.redis.written",
    "warm.local.manifest",
    "warm.local.writing",
    "warm.local.segment",
    "warm.local.checkpoint",
    "warm.local.committed",
    "warm.local.superseded",
    "warm.local.merged",
    "warm.local.replaced",
    "warm.local.removed",
    "warm.local.sealed",
    "warm.local.dropping",
    "warm.local.dropped",
    "warm.local.restoring",
    "warm.local.restored",
    "warm.clickhouse.begun",
    "warm.clickhouse.claimed",
    "warm.clickhouse.dropped",
    "warm.clickhouse.marked",
    "warm.clickhouse.part_dropped",
    "warm.clickhouse.pending",
    "warm.clickhouse.restore_booked",
    "warm.clickhouse.restored",
    "warm.clickhouse.restored_rows",
    "warm.clickhouse.restoring",
    "warm.clickhouse.rows",
    "archive.leased",
    "archive.planned",
    "archive.sealed",
    "archive.exporting",
    "archive.object",
    "archive.uploaded",
    "archive.footer",
    "archive.verified",
    "archive.committed",
    "archive.noted",
    "archive.dropping",
    "archive.rows_dropped",
    "archive.dropped",
    "archive.condemned",
    "archive.removed",
    "archive.scrubbed",
    "backup.file",
    "backup.copied",
    "backup.restoring",
    "give_up.manifest",
    "copy.begun",
    "copy.object",
    "copy.manifest",
    "repair.segment_written",
    "repair.segment_replaced",
    "repair.objects_written",
    "repair.objects_kept",
    "repair.manifest_replaced",
    "repair.warm_moved",
];

struct Armed {
    name: String,
    /// Times it is still passed.
    left: AtomicU64,
}

/// Dies here if this point is armed. Costs a load and a comparison: stands behind durable steps,
/// never in the path of a tick.
pub fn point(name: &'static str) {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    debug_assert!(FAIL_POINTS.contains(&name), "the fail point {name} is not in the list");
    let armed = ARMED.get_or_init(|| {
        let setting = std::env::var("STK_FAIL_POINT").ok()?;
        let (name, times) = setting.split_once(':').unwrap_or((&setting, "1"));
        Some(Armed { name: name.to_owned(), left: AtomicU64::new(times.parse().unwrap_or(1)) })
    });
    let Some(armed) = armed.as_ref().filter(|armed| armed.name == name) else { return };
    if armed.left.fetch_sub(1, Ordering::AcqRel) == 1 {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal may take a moment to arrive; nothing after this point may happen.
        loop {
            std::thread::park();
        }
    }
}
