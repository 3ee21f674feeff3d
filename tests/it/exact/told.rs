//! What clients were told, as the counters of the ledger in which it must be found.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// The log of all clients: one line for each event, the name of the counter that it raised.
pub struct Told {
    path: PathBuf,
    file: File,
}

/// How often each counter was raised.
pub type Events = BTreeMap<String, u64>;

impl Told {
    pub fn new(path: &Path) -> Self {
        let file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        Self { path: path.to_owned(), file }
    }

    fn note(&self, counter: &str) {
        // In one piece, since many write to the end of the file.
        (&self.file).write_all(format!("{counter}\n").as_bytes()).unwrap();
    }

    /// A job was created, completed, cancelled, discarded, retried, requeued, or has died.
    pub fn job(&self, event: &str, queue: &str, kind: &str) {
        self.note(&format!("tallyd_jobs_{event}_total{{kind=\"{kind}\",queue=\"{queue}\"}}"));
    }

    pub fn started(&self, queue: &str, kind: &str) {
        self.note(&format!("tallyd_attempts_started_total{{kind=\"{kind}\",queue=\"{queue}\"}}"));
    }

    pub fn ended(&self, result: &str, queue: &str, kind: &str) {
        let labels = format!("kind=\"{kind}\",queue=\"{queue}\",result=\"{result}\"");
        self.note(&format!("tallyd_attempts_ended_total{{{labels}}}"));
    }

    /// The sweeper has promoted, expired or pruned one.
    pub fn swept(&self, action: &str) {
        self.note(&format!("tallyd_sweeper_jobs_total{{action=\"{action}\"}}"));
    }

    pub fn duplicate(&self, queue: &str) {
        self.note(&format!("tallyd_duplicates_total{{queue=\"{queue}\"}}"));
    }

    pub fn lease_lost(&self, queue: &str) {
        self.note(&format!("tallyd_leases_lost_total{{queue=\"{queue}\"}}"));
    }

    pub fn overflow(&self) {
        self.note("tallyd_pairs_overflow_jobs_total");
    }

    /// All events so far.
    pub fn events(&self) -> Events {
        let mut events = Events::new();
        for line in std::fs::read_to_string(&self.path).unwrap().lines() {
            *events.entry(line.to_owned()).or_default() += 1;
        }
        events
    }
}
