//! What the clients of a test remember, whatever happens to the daemon.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::fixture::{PATIENCE, Scrape};
use crate::oracle::{Entry, Scrapes};

/// A lease with the outcome that its holder means to report.
pub type End = (String, &'static str);

/// The memory of all clients.
pub struct Journal {
    file: File,
    begun: Instant,
    known: Mutex<Known>,
    /// A permit for each answer that the daemon has given.
    answers: Semaphore,
    /// A permit for each lease that was lost.
    lost: Semaphore,
    next_mark: AtomicU64,
    /// Whether the daemon may break connections: it is about to be killed.
    may_end: AtomicBool,
}

#[derive(Default)]
pub struct Known {
    entries: Vec<Entry>,
    scrapes: Scrapes,
    /// When a daemon began to serve.
    starts: Vec<Duration>,
    /// Ids that may be cancelled.
    pub ids: Vec<String>,
    /// Creates with a unique key that nobody has answered.
    pub unanswered: Vec<u64>,
    /// Leases whose end nobody has acknowledged.
    pub unfinished: Vec<End>,
    /// Ends that are not reported in time, by the ids of their jobs.
    pub late: BTreeMap<String, End>,
}

impl Journal {
    pub fn new(file: &Path) -> Self {
        Self {
            file: File::create(file).unwrap(),
            begun: Instant::now(),
            known: Mutex::default(),
            answers: Semaphore::new(0),
            lost: Semaphore::new(0),
            next_mark: AtomicU64::new(1),
            may_end: AtomicBool::new(false),
        }
    }

    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    pub fn note(&self, entry: Entry) {
        writeln!(&self.file, "{entry:?}").unwrap();
        let mut known = self.known();
        match &entry {
            Entry::Created { id, .. } => known.ids.push(id.clone()),
            Entry::Ended { answer, .. } if answer == "lease_lost" => self.lost.add_permits(1),
            _ => {}
        }
        known.entries.push(entry);
    }

    /// The time since the first client.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub fn next_mark(&self) -> u64 {
        self.next_mark.fetch_add(1, Ordering::Relaxed)
    }

    pub fn note_answer(&self) {
        self.answers.add_permits(1);
    }

    /// Resolves when so many more answers have come.
    pub async fn answered(&self, number: u32) {
        until(&self.answers, number, "the clients get answers").await;
    }

    /// Resolves when one more report came too late.
    pub async fn lost_a_lease(&self) {
        until(&self.lost, 1, "leases run out, and are reported nevertheless").await;
    }

    /// From now on, or no more, the daemon may break connections.
    pub fn let_end(&self, may_end: bool) {
        self.may_end.store(may_end, Ordering::SeqCst);
    }

    pub fn may_end(&self) -> bool {
        self.may_end.load(Ordering::SeqCst)
    }

    /// A daemon serves, and must go on.
    pub fn note_start(&self) {
        self.let_end(false);
        let now = self.now();
        self.known().starts.push(now);
    }

    pub fn see(&self, scrape: Scrape) {
        self.known().scrapes.see(scrape);
    }

    pub fn entries(&self) -> Vec<Entry> {
        std::mem::take(&mut self.known().entries)
    }

    pub fn starts(&self) -> Vec<Duration> {
        std::mem::take(&mut self.known().starts)
    }

    pub fn scrapes(&self) -> Scrapes {
        std::mem::take(&mut self.known().scrapes)
    }
}

async fn until(permits: &Semaphore, number: u32, promise: &str) {
    let acquired = tokio::time::timeout(PATIENCE, permits.acquire_many(number)).await;
    acquired.expect(promise).unwrap().forget();
}
