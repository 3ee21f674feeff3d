//! What a store holds, read from its file without tallyd.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::{Connection, OpenFlags};
use tallyd::store::JobId;

/// A job of a torture test: its payload says its mark.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: String,
    pub mark: u64,
    pub queue: String,
    pub kind: String,
    pub state: String,
    pub attempt: u64,
    pub failures: u64,
    /// How many of them it may have, if its creator said so.
    pub max_attempts: Option<u64>,
}

/// A count that is kept, and what the rows say about it.
#[derive(Debug, Clone)]
pub struct Counted {
    pub what: String,
    pub kept: i64,
    pub found: i64,
    /// Rows that are gone may have been counted too.
    pub or_more: bool,
}

/// How many jobs were ever made, came to an end, were put back or removed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    pub created: i64,
    pub completed: i64,
    pub cancelled: i64,
    pub discarded: i64,
    pub requeued: i64,
    /// Completed and cancelled jobs that are gone.
    pub pruned: i64,
}

/// The jobs, the counts that are kept about them, and those that a recount finds.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    pub jobs: Vec<Job>,
    pub counts: Vec<Counted>,
    pub totals: Totals,
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
        let mut counts = levels(&connection);
        counts.extend(attempts(&connection));
        Self { jobs: jobs(&connection), counts, totals: totals(&connection), integrity }
    }

    pub fn by_id(&self) -> BTreeMap<&str, &Job> {
        self.jobs.iter().map(|job| (&*job.id, job)).collect()
    }

    /// Counts that are not what a recount finds.
    pub fn wrong_counts(&self) -> Vec<String> {
        let wrong = self.counts.iter().filter(|counted| match counted.or_more {
            true => counted.kept < counted.found,
            false => counted.kept != counted.found,
        });
        wrong
            .map(|Counted { what, kept, found, .. }| {
                format!("{what}: {kept} counted, {found} found")
            })
            .collect()
    }
}

fn jobs(connection: &Connection) -> Vec<Job> {
    let mut select = connection
        .prepare(
            "SELECT jobs.id, tail, state, attempt, body, name, kind, failures, max_attempts FROM jobs \
             JOIN queues ON queues.id = jobs.queue LEFT JOIN payloads ON payloads.id = jobs.id",
        )
        .unwrap();
    let jobs = select.query_map([], |row| {
        let (key, tail): (i64, i64) = (row.get(0)?, row.get(1)?);
        let payload: Vec<u8> = row.get::<_, Option<_>>(4)?.unwrap_or_default();
        let payload: serde_json::Value = serde_json::from_slice(&payload).unwrap_or_default();
        Ok(Job {
            id: JobId::new(key, tail.cast_unsigned()).to_string(),
            mark: payload["mark"].as_u64().unwrap_or(0),
            queue: row.get(5)?,
            kind: row.get(6)?,
            state: row.get(2)?,
            attempt: u64::from(row.get::<_, u32>(3)?),
            failures: u64::from(row.get::<_, u32>(7)?),
            max_attempts: row.get::<_, Option<u32>>(8)?.map(u64::from),
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

/// The jobs in each state, by row of the ledger and by queue, and altogether.
fn levels(connection: &Connection) -> Vec<Counted> {
    let mut counts = Vec::new();
    let mut count = |what, kept, found| {
        counts.push(Counted { what, kept, found, or_more: false });
    };
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
                count(format!("{state} of {table} {id}"), row.get(index + 1).unwrap(), found);
            }
        }
    }
    let total = "SELECT coalesce(sum(created - discarded - pruned_completed - pruned_cancelled), 0), \
                 (SELECT count(*) FROM jobs) FROM ledger";
    let total = connection.query_row(total, [], |row| Ok((row.get(0)?, row.get(1)?)));
    let (kept, found) = total.unwrap();
    count("jobs ever created and not removed".into(), kept, found);
    counts
}

/// The attempts started, by row of the ledger, against those of the jobs that are there.
fn attempts(connection: &Connection) -> Vec<Counted> {
    let mut select = connection
        .prepare(
            "SELECT id, started, discarded + pruned_completed + pruned_cancelled, \
             coalesce(attempts, 0) FROM ledger LEFT JOIN \
             (SELECT ledger AS row, sum(attempt) AS attempts FROM jobs GROUP BY ledger) \
             ON row = ledger.id",
        )
        .unwrap();
    let counts = select.query_map([], |row| {
        let (id, removed): (i64, i64) = (row.get(0)?, row.get(2)?);
        let what = format!("attempts of ledger {id}");
        Ok(Counted { what, kept: row.get(1)?, found: row.get(3)?, or_more: removed > 0 })
    });
    counts.unwrap().map(Result::unwrap).collect()
}

fn totals(connection: &Connection) -> Totals {
    let sums = "SELECT coalesce(sum(created), 0), coalesce(sum(completed), 0), \
                coalesce(sum(cancelled), 0), coalesce(sum(discarded), 0), \
                coalesce(sum(requeued), 0), \
                coalesce(sum(pruned_completed + pruned_cancelled), 0) FROM ledger";
    let sums = connection.query_row(sums, [], |row| {
        let [created, completed, cancelled, discarded, requeued, pruned] =
            [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?];
        Ok(Totals { created, completed, cancelled, discarded, requeued, pruned })
    });
    sums.unwrap()
}
