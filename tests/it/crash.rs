//! `kill -9` under load, again and again: nothing acknowledged is lost, nothing happens twice, and
//! the counts stay exact.

mod clients;

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

use self::clients::{Client, Journal};
use crate::fixture::{Daemon, scaled};
use crate::oracle::{Scrapes, Stored, violations};

/// A queue whose commands report each attempt, two for outside workers, and quick retries.
const CONFIG: &str = r#"
[defaults]
max_attempts = 4
timeout = "0s"
backoff = { initial = "1ms", max = "50ms" }

[queues.outside]
lease = "10m"

[queues.brief]
lease = "1s"

[queues.work]
concurrency = 4
exec = { command = ["/bin/sh", "-c", '''
    echo "$TALLYD_JOB_ID $TALLYD_ATTEMPT" >> runs
    read -r payload
    case "$payload" in *fail*) exit 1;; esac''', "work"] }
"#;

/// How many answers the clients get before the kill, at least and at most.
const ANSWERS: std::ops::Range<u32> = 100..800;

/// The seed of a run: a new one, unless a failed run is to be repeated.
fn seed() -> u64 {
    let seed = std::env::var("TALLYD_TEST_SEED").ok();
    let seed = seed.map_or_else(rand::random, |seed| seed.parse().expect("a seed is a number"));
    eprintln!("repeat with TALLYD_TEST_SEED={seed}");
    seed
}

/// Starts the clients of one cycle; each ends when the daemon has gone.
fn start_clients(journal: &Arc<Journal>, url: &str, random: &mut StdRng) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    let mut client = || Client::new(journal, url, random.random());
    for _ in 0..3 {
        clients.spawn(client().create());
        clients.spawn(client().work("outside", "10m"));
    }
    clients.spawn(client().work("brief", "1s"));
    clients.spawn(client().cancel());
    clients.spawn(client().tidy_up());
    clients.spawn(client().scrape());
    clients
}

/// The attempts that commands have reported.
fn runs(daemon: &Daemon) -> Vec<(String, u64)> {
    let runs = std::fs::read_to_string(daemon.path("runs")).expect("commands have run");
    let run = |line: &str| {
        let (id, attempt) = line.split_once(' ').expect("id and attempt");
        (id.to_owned(), attempt.parse().expect("an attempt is a number"))
    };
    runs.lines().map(run).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9_under_load() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut daemon = Daemon::prepare(CONFIG);
    let journal = Arc::new(Journal::new(&daemon.path("clients.log")));
    for _ in 0..scaled(20) {
        daemon.restart();
        journal.see(daemon.scrape().await);
        let clients = start_clients(&journal, &daemon.url(""), &mut random);
        journal.answered(random.random_range(ANSWERS)).await;
        daemon.kill();
        clients.join_all().await;
    }
    daemon.restart();
    journal.see(daemon.scrape().await);
    Client::new(&journal, &daemon.url(""), 0).settle().await;
    journal.see(daemon.scrape().await);
    assert_eq!(daemon.stop().code(), Some(0));

    let Scrapes { seen, wrong, .. } = journal.scrapes();
    assert_eq!(wrong, Vec::<String>::new(), "of {seen} scrapes");
    let stored = Stored::read(&daemon.path("tallyd.db"));
    let (entries, runs) = (journal.entries(), runs(&daemon));
    eprintln!(
        "{} entries, {} jobs, {} runs, {seen} scrapes",
        entries.len(),
        stored.jobs.len(),
        runs.len()
    );
    assert_eq!(violations(&entries, &runs, &stored), Vec::<String>::new());
}
