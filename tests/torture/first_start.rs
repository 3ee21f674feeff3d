//! A kill at any write of the very first start leaves nothing that the next one cannot use.

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::json;

use crate::fixture::{Daemon, ended_by};
use crate::restart::restart;
use crate::stored::Stored;
use crate::strace::trace;

/// The calls that change files.
const CALLS: [&str; 6] = ["pwrite64", "fdatasync", "fsync", "unlink", "ftruncate", "fallocate"];

/// More calls of one sort than a first start makes.
const MOST_CALLS: u32 = 300;

/// Starts a daemon in an empty directory that is killed at the `number`th `call` of a thread;
/// none if it serves without so many.
fn killed_at(call: &str, number: u32) -> Option<Daemon> {
    let mut daemon = Daemon::prepare("[queues.work]\nkinds = [\"k\"]\n");
    let inject = format!("inject={call}:signal=KILL:when={number}");
    trace(&mut daemon, &format!("trace={call}"), &[inject], None);
    daemon.launch();
    if daemon.serves() {
        return None;
    }
    assert!(ended_by(daemon.wait(), Signal::KILL));
    daemon.wrap(&[]);
    Some(daemon)
}

/// F8: each write of the first start.
#[tokio::test]
async fn the_next_start_works_after_a_kill_at_any_write_of_the_first() {
    let mut kills = 0;
    for call in CALLS {
        for number in 1.. {
            assert!(number < MOST_CALLS, "it makes more than {MOST_CALLS} calls of {call}");
            let Some(mut daemon) = killed_at(call, number) else { break };
            kills += 1;
            eprintln!("killed at {call} {number}");
            restart(&mut daemon);
            let (status, job) =
                daemon.post("/v1/jobs", json!({"queue": "work", "kind": "k"})).await;
            assert_eq!(status, StatusCode::CREATED, "{job}");
            assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
            assert_eq!(daemon.stop().code(), Some(0));
            let stored = Stored::read(&daemon.path("tallyd.db"));
            assert_eq!((stored.jobs.len(), stored.integrity.len()), (1, 0), "{stored:?}");
            assert_eq!(stored.wrong_counts(), Vec::<String>::new());
        }
    }
    assert!(kills >= 10, "the first start was killed {kills} times only");
}
