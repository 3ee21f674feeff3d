//! What a crash leaves is taken up again in time; and a kill at any write or sync of the start that
//! does so, or of the stop after it, leaves nothing that the next start cannot use.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::bed::copy_store;
use crate::crash::{Client, seed};
use crate::fixture::{Daemon, ended_by, scaled};
use crate::journal::Journal;
use crate::oracle::late_recoveries;
use crate::restart::{CutOff, restart};
use crate::stored::{Job, Stored};
use crate::strace::trace;

/// Commands that do not end by themselves, and a drain that does not wait for them.
const CONFIG: &str = r#"
drain_timeout = "10ms"

[defaults]
backoff = { initial = "1h" }

[queues.work]
concurrency = 2
exec = { command = ["/bin/sleep", "100"] }

[queues.outside]
lease = "10m"
"#;

/// How many attempts the daemon runs itself: the concurrency above.
const OWN: usize = 2;

/// How many attempts others have, under leases that outlast the test.
const OUTSIDE: usize = 20;

/// The calls that change the files of a store.
const CALLS: [(&str, &str); 5] = [
    ("pwrite64", "tallyd.db-wal"),
    ("pwrite64", "tallyd.db"),
    ("fdatasync,fsync", "tallyd.db-wal"),
    ("fdatasync,fsync", "tallyd.db"),
    ("ftruncate,unlink", "tallyd.db-wal"),
];

/// More calls of one sort than a start and a stop make.
const MOST_CALLS: u32 = 1_000;

/// From this scale on each call is tried; before, those that are at most so many calls apart.
const ALL_AT: u32 = 10;
const MOST_BETWEEN: u32 = 6;

/// A store as a crash leaves it: with attempts of its own and of others, and all in the log.
async fn crashed() -> Daemon {
    let mut daemon = Daemon::start(CONFIG);
    for (queue, number) in [("work", 10), ("outside", 300)] {
        let jobs = json!(vec![json!({"queue": queue, "kind": "k", "payload": "x"}); number]);
        let (status, answer) = daemon.post("/v1/jobs/batch", jobs).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
    let (status, leased) =
        daemon.post("/v1/leases", json!({"queues": ["outside"], "max": 30})).await;
    assert_eq!(status, StatusCode::OK, "{leased}");
    let finish = |job: &Value| json!({"lease": job["lease"], "outcome": "completed"});
    let ends: Vec<Value> = leased["jobs"].as_array().unwrap()[..10].iter().map(finish).collect();
    assert_eq!(daemon.post("/v1/leases/finish", ends.into()).await.0, StatusCode::OK);
    (0..OWN).for_each(|_| drop(daemon.wait_for_log(is_started)));
    daemon.kill();
    daemon
}

fn is_started(line: &Value) -> bool {
    line["event"] == "attempt_started" && line["queue"] == "work"
}

/// Whether all of the daemon's own attempts start before it ends: some may have before it listened.
fn all_start(daemon: &mut Daemon) -> bool {
    loop {
        let log = daemon.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        if lines.filter(is_started).count() >= OWN {
            return true;
        }
        if daemon.log_line(|_| true).is_none() {
            return false;
        }
    }
}

/// Starts a daemon on a copy of this store and stops it, unless it is killed in the `number`th
/// `call` that a thread makes on this file; none if there are not so many.
fn killed_at(crashed: &Daemon, call: &str, file: &str, number: u32) -> Option<Daemon> {
    let mut daemon = Daemon::prepare(CONFIG);
    copy_store(&crashed.path("tallyd.db"), &daemon.path("tallyd.db"));
    let inject = format!("inject={call}:signal=KILL:when={number}");
    trace(&mut daemon, &format!("trace={call}"), &[inject], Some(file));
    daemon.launch();
    if daemon.serves() && all_start(&mut daemon) {
        daemon.signal(Signal::TERM);
    }
    let status = daemon.wait();
    daemon.wrap(&[]);
    if status.success() {
        return None;
    }
    assert!(ended_by(status, Signal::KILL), "{call} {number} of {file}: {status}");
    Some(daemon)
}

/// F8: neither a start nor a shutdown that was cut off stands in the way of the next start.
#[tokio::test]
async fn the_next_start_works_after_a_kill_at_any_write_of_a_recovery_or_a_stop() {
    let crashed = crashed().await;
    let jobs = stored(&crashed).jobs;
    let running = jobs.iter().filter(|job| job.state == "running").count();
    assert_eq!(running, OWN + OUTSIDE, "a start has something to recover");
    let mut random = StdRng::seed_from_u64(seed());
    let most_between = if scaled(1) >= ALL_AT { 1 } else { MOST_BETWEEN };
    for (call, file) in CALLS {
        let (mut number, mut kills) = (1, 0);
        while let Some(mut daemon) = killed_at(&crashed, call, file, number) {
            restart(&mut daemon);
            assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
            assert_eq!(daemon.stop().code(), Some(0), "killed at {call} {number} of {file}");
            let stored = stored(&daemon);
            let is_kept = |(was, is): (&Job, &Job)| {
                was.id == is.id && (was.state == "completed") == (is.state == "completed")
            };
            assert_eq!(stored.jobs.len(), jobs.len());
            assert!(jobs.iter().zip(&stored.jobs).all(is_kept), "{stored:?}");
            let pairs = jobs.iter().zip(&stored.jobs);
            let still_run = pairs.filter(|(was, is)| {
                was.state == "running" && is.state == "running" && was.attempt == is.attempt
            });
            assert_eq!(still_run.count(), OUTSIDE, "what others have leased is theirs");
            assert_eq!(stored.wrong_counts(), Vec::<String>::new());
            assert_eq!(stored.integrity, Vec::<String>::new());
            kills += 1;
            number += random.random_range(1..=most_between);
            assert!(number < MOST_CALLS, "it makes more than {MOST_CALLS} calls of {call}");
        }
        eprintln!("{kills} kills at {call} of {file}");
        assert!(kills > 0, "neither a start nor a stop calls {call} of {file}");
    }
}

/// What is stored, in the order of the ids.
fn stored(daemon: &Daemon) -> Stored {
    let mut stored = Stored::read(&daemon.path("tallyd.db"));
    stored.jobs.sort_by(|one, other| one.id.cmp(&other.id));
    stored
}

/// F14: each has used up a try, and waits its backoff.
#[tokio::test]
async fn own_running_jobs_are_back_with_their_backoff_before_the_listener_opens() {
    let mut daemon = crashed().await;
    let cut_off = CutOff::left_in(&daemon);
    daemon.launch();
    let recovered = daemon.wait_for_log(|line| line["event"] == "recovered");
    assert_eq!(recovered["cut_off"], OWN, "{recovered}");
    assert!(daemon.serves(), "and only then it listens");
    cut_off.check_recovered(&daemon);
    let scrape = daemon.scrape().await;
    let pair = "queue=\"work\",kind=\"k\"";
    let waiting = scrape.value(&format!("tallyd_jobs{{{pair},state=\"retrying\"}}"));
    let tries = scrape.value(&format!("tallyd_jobs_retried_total{{{pair}}}"));
    assert_eq!((waiting, tries), (OWN as f64, OWN as f64));
}

/// F4: whoever has vanished with a lease, and whether or not the daemon was killed meanwhile.
#[tokio::test]
async fn the_job_of_a_dead_worker_is_claimable_soon_after_its_lease() {
    const BRIEF: Option<Duration> = Some(Duration::from_secs(1));
    let mut daemon = Daemon::start("");
    let journal = Arc::new(Journal::new(&daemon.path("clients.log")));
    let mark = journal.next_mark();
    let job = json!({"queue": "brief", "kind": "k", "payload": {"mark": mark}});
    Client::new(&journal, &daemon, 0).create_one(mark, job).await.unwrap();
    for is_killed in [false, false, true, false] {
        let mut client = Client::new(&journal, &daemon, 0);
        while client.lease("brief", 1, "1s", BRIEF).await.unwrap().is_empty() {}
        if is_killed {
            daemon.kill();
            restart(&mut daemon);
            journal.note_start();
        }
    }
    assert_eq!(late_recoveries(&journal.entries(), &journal.starts()), Vec::<String>::new());
}
