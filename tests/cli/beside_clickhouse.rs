//! A log on the disk of a machine beside warm in ClickHouse: one of the two is put back, copied or exchanged.
//! What was acknowledged is in one answer, or the store is refused.

use std::process::Command;

use super::support::service;
use super::timelines::{Plant, copy, once, put_back};

/// A data directory beside a database of its own; dropped at the end.
struct Beside {
    plant: Plant,
    url: String,
    databases: Vec<String>,
}

impl Beside {
    /// `None` without ClickHouse, as is said.
    fn new() -> Option<Self> {
        let url = service("CLICKHOUSE")?;
        let nanos = stk::market::Timestamp::now().nanos();
        let databases =
            ["one", "two"].map(|name| format!("stk_beside_{}_{nanos}_{name}", std::process::id()));
        let mut beside = Self { plant: Plant::new(), url, databases: databases.to_vec() };
        beside.database(0);
        Some(beside)
    }

    /// Has every command from now on use the database `number`.
    fn database(&mut self, number: usize) {
        self.plant.env = vec![
            ("STK_WARM_CLICKHOUSE_URL", self.url.clone()),
            ("STK_WARM_CLICKHOUSE_DATABASE", self.databases[number].clone()),
            ("STK_LOG_PARTITIONS", "2".to_owned()),
        ];
    }

    /// What `stk serve` on the plant's data says that refuses to start.
    fn refused(&self) -> String {
        let args = ["serve", "--listen", "127.0.0.1:0", "--ingest-listen", "127.0.0.1:0"];
        let shown = self
            .plant
            .home
            .shown(self.plant.command(&args, &self.plant.data).stdout(std::process::Stdio::null()));
        assert!(shown.starts_with("exit: 1\n"), "{shown}");
        shown
    }

    fn sql(&self, sql: &str) {
        let mut curl = Command::new("curl");
        let asked = curl.args(["-sS", "--fail-with-body", &self.url, "--data-binary", sql]).output();
        let asked = asked.expect("curl is there");
        assert!(asked.status.success(), "{sql}: {}", String::from_utf8_lossy(&asked.stdout));
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        for database in &self.databases {
            let sql = format!("DROP DATABASE IF EXISTS {database} SYNC");
            let _ = Command::new("curl").args(["-s", &self.url, "--data-binary", &sql]).output();
        }
    }
}

#[test]
fn a_data_directory_that_is_put_back_continues_after_what_clickhouse_has() {
    let Some(beside) = Beside::new() else { return };
    let plant = &beside.plant;
    let copied = plant.home.path("copied");
    plant.take(&plant.data, 0..100);
    copy(&plant.data, &copied);
    plant.take(&plant.data, 100..200);
    put_back(&copied, &plant.data);
    let data = plant.data.display().to_string();
    let told = plant.run(&["history", "SA", "SB", "--data", &data, "--format", "csv"]);
    assert!(told.starts_with("exit: 1\n") && told.contains("rows may be missing"), "{told}");
    plant.take(&plant.data, 200..250);
    assert_eq!(plant.history(), once(std::iter::once(0..250)));
    // Another start, and other rows at the offsets that the log had before.
    plant.take(&plant.data, 250..400);
    assert_eq!(plant.history(), once(std::iter::once(0..400)));
}

#[test]
fn a_new_data_directory_is_refused_beside_the_database_of_another() {
    let Some(mut beside) = Beside::new() else { return };
    let first = beside.plant.data.clone();
    beside.plant.take(&first, 0..50);
    beside.plant.data = beside.plant.home.path("new");
    let told = beside.refused();
    assert!(
        told.contains("the data directory names no log") && told.contains("warm.clickhouse_database"),
        "{told}"
    );
    assert!(!beside.plant.data.join("log").exists(), "no log was begun");
    // The first one is not disturbed.
    beside.plant.take(&first, 50..80);
    beside.plant.data = first;
    assert_eq!(beside.plant.history(), once(std::iter::once(0..80)));
    // As it says.
    beside.plant.data = beside.plant.home.path("new");
    beside.database(1);
    beside.plant.take(&beside.plant.data, 100..120);
    assert_eq!(beside.plant.history(), once(std::iter::once(100..120)));
    // And now the database of the other is another log's.
    beside.database(0);
    let told = beside.refused();
    assert!(told.contains("holds rows of the log"), "{told}");
}

/// A copy of the data directory wrote into the database; the first one has taken other rows meanwhile. By
/// offsets alone it looks like a log that was put back, and would pass over its own rows.
#[test]
fn a_data_directory_is_refused_once_its_copy_has_written_into_the_database() {
    let Some(mut beside) = Beside::new() else { return };
    let (first, second) = (beside.plant.data.clone(), beside.plant.home.path("second"));
    beside.plant.take(&first, 0..60);
    copy(&first, &second);
    // Rows that only the log of the first has: its processor wrote elsewhere.
    beside.database(1);
    beside.plant.take(&first, 100..110);
    beside.database(0);
    beside.plant.take(&second, 200..400);
    let told = beside.refused();
    assert!(told.contains("holds rows of another timeline of the log beside it"), "{told}");
    for args in [&["archive", "run"][..], &["history", "SA", "--data", &first.display().to_string()]] {
        let shown = beside.plant.run(args);
        assert!(shown.starts_with("exit: 1\n") && shown.contains("of another timeline"), "{shown}");
    }
    beside.plant.data = second;
    assert_eq!(beside.plant.history(), once([0..60, 200..400]));
    // Beside its own database it goes on.
    beside.plant.data = first;
    beside.database(1);
    beside.plant.take(&beside.plant.data, 110..120);
    assert_eq!(beside.plant.history(), once([0..60, 100..120]));
}

/// A database of an earlier version names no generations: those of the log that fits are taken, once.
#[test]
fn a_database_that_names_no_generations_takes_those_of_its_log() {
    let Some(mut beside) = Beside::new() else { return };
    let (first, second) = (beside.plant.data.clone(), beside.plant.home.path("second"));
    beside.plant.take(&first, 0..60);
    let schema = format!("{}.stk_schema", beside.databases[0]);
    for sql in [
        format!("DROP TABLE {}.lineage SYNC", beside.databases[0]),
        format!("DROP TABLE {schema} SYNC"),
        format!("CREATE TABLE {schema} (version UInt32, program String) ENGINE = MergeTree ORDER BY version"),
        format!("INSERT INTO {schema} VALUES (1, 'stk 0.1.0'), (2, 'stk 0.1.0')"),
    ] {
        beside.sql(&sql);
    }
    beside.plant.take(&first, 60..80);
    copy(&first, &second);
    beside.plant.take(&first, 80..200);
    beside.database(1);
    beside.plant.take(&second, 300..310);
    beside.database(0);
    beside.plant.data = second;
    assert!(beside.refused().contains("of another timeline"));
    beside.plant.data = first;
    assert_eq!(beside.plant.history(), once(std::iter::once(0..200)));
}
