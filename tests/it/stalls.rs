//! Own attempts while something else gives way: the store is held, the machine is short of
//! descriptors, or a second daemon works beside.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::fixture::Daemon;
use crate::processes::{Line, Process};
use crate::running::{create, in_state, queue};

/// Says its own id, and waits for a line.
const HELD: &str = "echo $$ > said; read _ < go";

/// A daemon with one job that runs.
struct Working {
    daemon: Daemon,
    said: Line,
    go: Line,
    id: String,
    process: Process,
}

impl Working {
    async fn start(settings: &str) -> Self {
        let mut daemon = Daemon::prepare(&queue(settings, HELD));
        let mut said = Line::new(daemon.directory.path(), "said");
        let go = Line::new(daemon.directory.path(), "go");
        daemon.restart();
        let id = create(&daemon).await;
        let process = said.hear_process().await;
        Self { daemon, said, go, id, process }
    }

    /// Keeps the store from being written.
    fn hold_store(&self) -> Connection {
        let other = Connection::open(self.daemon.path("tallyd.db")).expect("it opens");
        other.busy_timeout(crate::processes::NEVER).expect("it can wait");
        other.execute_batch("BEGIN IMMEDIATE").expect("it may write");
        other
    }
}

/// F4: the attempt renews its own lease, and ends with it.
#[tokio::test]
async fn an_attempt_whose_lease_cannot_be_renewed_stops_and_is_given_up() {
    let Working { mut daemon, mut said, go, id, process } = {
        let working = Working::start("lease = \"2s\"").await;
        let other = working.hold_store();
        let Working { mut daemon, .. } = working;
        let late = daemon.wait_for_log(|line| line["event"] == "renewal_late");
        assert_eq!(late["job_id"], json!(working.id));
        daemon.wait_for_log(|line| line["event"] == "lease_unrenewed");
        working.process.ended().await;
        other.execute_batch("ROLLBACK").expect("it is let go");
        Working { daemon, ..working }
    };
    drop(process);
    let next = said.hear_process().await;
    let job = daemon.job_when(&id, |job| job["attempt"] == 2).await;
    assert_eq!((&job["state"], &job["failures"]), (&json!("running"), &json!(1)));
    assert_eq!(job["last_error"]["outcome"], "lease_expired");
    go.say(1);
    daemon.job_when(&id, in_state("completed")).await;
    next.ended().await;
    let ended = daemon.wait_for_log(|line| line["event"] == "attempt_failed");
    assert_eq!((&ended["attempt"], &ended["outcome"]), (&json!(1), &json!("lease_expired")));
    assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
}

/// A copy has the UUID of its original, whose commands it must leave alone.
#[tokio::test]
async fn a_daemon_on_a_copy_of_the_store_ends_no_command_of_the_original() {
    let Working { daemon, go, id, process, .. } = Working::start("").await;
    let copy = Daemon::prepare("");
    Connection::open(daemon.path("tallyd.db"))
        .and_then(|store| store.execute("VACUUM INTO ?", [copy.path("tallyd.db").to_str()]))
        .expect("a copy");
    let mut copy = copy;
    copy.restart();
    assert_eq!(copy.get(&format!("/v1/jobs/{id}")).await.1["id"], json!(id), "it is a copy");
    assert!(process.lives());
    go.say(1);
    daemon.job_when(&id, in_state("completed")).await;
}

#[tokio::test]
async fn jobs_wait_without_harm_while_the_machine_is_short_of_descriptors() {
    let mut daemon = Daemon::prepare(&queue("concurrency = 20", HELD));
    let mut said = Line::new(daemon.directory.path(), "said");
    let go = Line::new(daemon.directory.path(), "go");
    daemon.wrap(&["prlimit", "--nofile=64:64", "--"]);
    daemon.restart();
    let jobs = json!(vec![json!({"queue": "work", "kind": "k"}); 20]);
    let (_, created) = daemon.post("/v1/jobs/batch", jobs).await;
    let short = daemon.wait_for_log(|line| {
        line["error"].as_str().is_some_and(|error| error.contains("Too many open files"))
    });
    assert_eq!(short["outcome"], "released");
    let mut processes = Vec::new();
    for _ in 0..20 {
        processes.push(said.hear_process().await);
        go.say(1); // whichever reads it ends
    }
    for id in created["ids"].as_array().expect("ids") {
        let job = daemon.job_when(id.as_str().expect("an id"), in_state("completed")).await;
        assert_eq!((&job["failures"], &job["last_error"]), (&json!(0), &Value::Null));
    }
}
