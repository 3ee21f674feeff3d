//! What a store holds, read from its file without tallyd.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, params_from_iter};
use tallyd::store::JobId;

/// A job of a torture test: its payload says its mark.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: String,
    pub mark: u64,
    pub state: String,
    pub attempt: u64,
}

/// The jobs, the counts that are kept about them, and those that a recount finds.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    pub jobs: Vec<Job>,
    /// What is counted, the count that is kept, and the number of rows.
    pub counts: Vec<(String, i64, i64)>,
    /// What the engine's own check complains about.
    pub integrity: Vec<String>,
}

/// Columns of the ledger, and the states of the rows that each must equal.
const LEVELS: [(&str, &str); 7] = [
    ("scheduled", "scheduled"),
    ("ready", "ready"),
    ("retrying", "retrying"),
    ("running", "running"),
    ("dead", "dead"),
    ("completed - pruned_completed", "completed"),
    ("cancelled - pruned_cancelled", "cancelled"),
];

fn open(file: &Path) -> Connection {
    Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("it can be opened")
}

/// The UUID that a store was given when it was made.
pub fn identity_of_store(file: &Path) -> String {
    open(file).query_row("SELECT store FROM totals", [], |row| row.get(0)).expect("it has one")
}

impl Stored {
    /// Reads a store that no tallyd has open.
    pub fn read(file: &Path) -> Self {
        let connection = open(file);
        let mut check = connection.prepare("PRAGMA integrity_check").unwrap();
        let lines = check.query_map([], |row| row.get::<_, String>(0)).unwrap();
        let integrity = lines.map(Result::unwrap).filter(|line| line != "ok").collect();
        Self { jobs: jobs(&connection), counts: counts(&connection), integrity }
    }

    pub fn job(&self, id: &str) -> Option<&Job> {
        self.jobs.iter().find(|job| job.id == id)
    }

    /// Counts that are not what a recount finds.
    pub fn wrong_counts(&self) -> Vec<String> {
        let wrong = self.counts.iter().filter(|(_, kept, found)| kept != found);
        wrong.map(|(what, kept, found)| format!("{what}: {kept} counted, {found} found")).collect()
    }
}

fn jobs(connection: &Connection) -> Vec<Job> {
    let mut select = connection
        .prepare(
            "SELECT jobs.id, tail, state, attempt, body FROM jobs LEFT JOIN payloads USING (id)",
        )
        .unwrap();
    let jobs = select.query_map([], |row| {
        let (key, tail): (i64, i64) = (row.get(0)?, row.get(1)?);
        let payload: Vec<u8> = row.get::<_, Option<_>>(4)?.unwrap_or_default();
        let payload: serde_json::Value = serde_json::from_slice(&payload).unwrap_or_default();
        Ok(Job {
            id: JobId::new(key, tail.cast_unsigned()).to_string(),
            mark: payload["mark"].as_u64().unwrap_or(0),
            state: row.get(2)?,
            attempt: u64::from(row.get::<_, u32>(3)?),
        })
    });
    jobs.unwrap().map(Result::unwrap).collect()
}

/// Groups of jobs by a column and their state.
fn grouped(connection: &Connection, column: &str) -> BTreeMap<(i64, String), i64> {
    let select = format!("SELECT {column}, state, count(*) FROM jobs GROUP BY {column}, state");
    let mut select = connection.prepare(&select).unwrap();
    let groups = select.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)));
    groups.unwrap().map(Result::unwrap).collect()
}

fn counts(connection: &Connection) -> Vec<(String, i64, i64)> {
    let mut counts = Vec::new();
    let states = LEVELS.map(|(_, state)| state);
    for (table, column, levels) in
        [("ledger", "ledger", LEVELS.map(|(level, _)| level)), ("queues", "queue", states)]
    {
        let rows = grouped(connection, column);
        let select = format!("SELECT id, {} FROM {table}", levels.join(", "));
        let mut select = connection.prepare(&select).unwrap();
        let mut kept = select.query([]).unwrap();
        while let Some(row) = kept.next().unwrap() {
            let id: i64 = row.get(0).unwrap();
            for (index, state) in states.into_iter().enumerate() {
                let found = rows.get(&(id, state.to_owned())).copied().unwrap_or(0);
                counts.push((
                    format!("{state} of {table} {id}"),
                    row.get(index + 1).unwrap(),
                    found,
                ));
            }
        }
    }
    let total = "SELECT coalesce(sum(created - discarded - pruned_completed - pruned_cancelled), 0), \
                 (SELECT count(*) FROM jobs) FROM ledger";
    let total =
        connection.query_row(total, params_from_iter([0; 0]), |row| Ok((row.get(0)?, row.get(1)?)));
    let (kept, found) = total.unwrap();
    counts.push(("jobs ever created and not removed".into(), kept, found));
    counts
}
