//! The real binary: what it says, what it does, and how it ends.

#[path = "../src/testing/address.rs"]
mod address;
#[path = "../src/testing/proxy.rs"]
#[allow(dead_code, reason = "some faults are for the library's own tests")]
mod proxy;
#[path = "cli/support.rs"]
mod support;

#[path = "cli/adopt.rs"]
mod adopt;
#[path = "cli/alpaca.rs"]
mod alpaca;
#[path = "cli/answers.rs"]
mod answers;
#[path = "cli/archive.rs"]
mod archive;
#[path = "cli/arguments.rs"]
mod arguments;
#[path = "cli/audit.rs"]
mod audit;
#[path = "cli/backup.rs"]
mod backup;
#[path = "cli/bench.rs"]
mod bench;
#[path = "cli/beside_clickhouse.rs"]
mod beside_clickhouse;
#[path = "cli/copying.rs"]
mod copying;
#[path = "cli/crash.rs"]
mod crash;
#[path = "cli/crash_archive.rs"]
mod crash_archive;
#[path = "cli/crash_machine.rs"]
mod crash_machine;
#[path = "cli/crash_random.rs"]
mod crash_random;
#[path = "cli/crash_scaled.rs"]
mod crash_scaled;
#[path = "cli/faults.rs"]
mod faults;
#[path = "cli/foreign.rs"]
mod foreign;
#[path = "cli/full.rs"]
mod full;
#[path = "cli/histories.rs"]
mod histories;
#[path = "cli/histories_ground.rs"]
mod histories_ground;
#[path = "cli/histories_scaled.rs"]
mod histories_scaled;
#[path = "cli/histories_stages.rs"]
mod histories_stages;
#[path = "cli/injected.rs"]
mod injected;
#[path = "cli/kill.rs"]
mod kill;
#[path = "cli/memory.rs"]
mod memory;
#[path = "cli/operator.rs"]
mod operator;
#[path = "cli/outage.rs"]
mod outage;
#[path = "cli/power.rs"]
mod power;
#[path = "cli/producers.rs"]
mod producers;
#[path = "cli/reading.rs"]
mod reading;
#[path = "cli/repair.rs"]
mod repair;
#[path = "cli/restore.rs"]
mod restore;
#[path = "cli/resume.rs"]
mod resume;
#[path = "cli/rot.rs"]
mod rot;
#[path = "cli/scaled.rs"]
mod scaled;
#[path = "cli/secure.rs"]
mod secure;
#[path = "cli/serve.rs"]
mod serve;
#[path = "cli/time.rs"]
mod time;
#[path = "cli/timelines.rs"]
mod timelines;
#[path = "cli/watch.rs"]
mod watch;
#[path = "cli/whole.rs"]
mod whole;
