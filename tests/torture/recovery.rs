//! A kill at any write or sync of a start after a crash, or of the stop after it, leaves nothing
//! that the next start cannot use.

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::bed::copy_store;
use crate::fixture::{Daemon, ended_by};
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

/// Starts a daemon on a copy of this store and stops it, unless it is killed in the `number`th
/// `call` that a thread makes on this file; none if there are not so many.
fn killed_at(crashed: &Daemon, call: &str, file: &str, number: u32) -> Option<Daemon> {
    let mut daemon = Daemon::prepare(CONFIG);
    copy_store(&crashed.path("tallyd.db"), &daemon.path("tallyd.db"));
    let inject = format!("inject={call}:signal=KILL:when={number}");
    trace(&mut daemon, &format!("trace={call}"), &[inject], Some(file));
    daemon.launch();
    if daemon.serves() && (0..OWN).all(|_| daemon.log_line(is_started).is_some()) {
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

#[tokio::test]
async fn the_next_start_works_after_a_kill_at_any_write_of_a_recovery_or_a_stop() {
    let crashed = crashed().await;
    let jobs = stored(&crashed).jobs;
    let running = jobs.iter().filter(|job| job.state == "running").count();
    assert_eq!(running, OWN + 20, "a start has something to recover");
    for (call, file) in CALLS {
        let mut number = 1;
        while let Some(mut daemon) = killed_at(&crashed, call, file, number) {
            daemon.restart();
            assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
            assert_eq!(daemon.stop().code(), Some(0), "killed at {call} {number} of {file}");
            let stored = stored(&daemon);
            let is_kept = |(was, is): (&Job, &Job)| {
                was.id == is.id && (was.state == "completed") == (is.state == "completed")
            };
            assert_eq!(stored.jobs.len(), jobs.len());
            assert!(jobs.iter().zip(&stored.jobs).all(is_kept), "{stored:?}");
            assert_eq!(stored.wrong_counts(), Vec::<String>::new());
            assert_eq!(stored.integrity, Vec::<String>::new());
            number += 1;
            assert!(number < MOST_CALLS, "it makes more than {MOST_CALLS} calls of {call}");
        }
        eprintln!("{} kills at {call} of {file}", number - 1);
        assert!(number > 1, "neither a start nor a stop calls {call} of {file}");
    }
}

/// What is stored, in the order of the ids.
fn stored(daemon: &Daemon) -> Stored {
    let mut stored = Stored::read(&daemon.path("tallyd.db"));
    stored.jobs.sort_by(|one, other| one.id.cmp(&other.id));
    stored
}
