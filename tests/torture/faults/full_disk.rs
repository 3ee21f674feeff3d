//! A full disk: creates are refused, and everything else goes on.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use reqwest::{Client, StatusCode};
use rustix::fs::FallocateFlags;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    check_identities, check_stored, complete, create, create_until_refused, lease,
    tick_of_the_sweeper, until_accepted,
};
use crate::fixture::{Daemon, PATIENCE};
use crate::journal::Journal;
use crate::mount::Mount;
use crate::oracle::{Entry, violations};
use crate::stored::Stored;
use crate::strace::trace;

#[tokio::test]
async fn a_full_disk_refuses_creates_and_nothing_else_until_there_is_room() {
    let config = "[queues.q]\nlease = \"10m\"\n";
    let mut daemon = Daemon::prepare("");
    let mount = Mount::over(daemon.directory.path(), "48m").kept();
    daemon.configure(config);
    daemon.restart();
    let payload = Value::from("x".repeat(256 << 10));
    for _ in 0..20 {
        assert_eq!(create(&daemon, &Value::Null).await.0, StatusCode::CREATED);
    }
    let leases = lease(&daemon, 20).await;
    let (mut created, status, answer) = create_until_refused(&daemon, &payload, 1_000).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{answer}");
    assert_eq!(answer["error"]["code"], "disk_full");
    // Pages that are in the log twice take the room of one in the file: on a slow machine there is
    // some again once all of it is copied.
    for _ in 0..2 {
        tick_of_the_sweeper(&daemon).await;
        created.extend(create_until_refused(&daemon, &payload, 1_000).await.0);
    }
    assert!(created.len() > 20, "{} creates filled the disk", created.len());
    for lease in &leases {
        complete(&daemon, lease).await;
        assert_eq!(create(&daemon, &payload).await.0, StatusCode::INSUFFICIENT_STORAGE);
    }
    let more = lease(&daemon, 2).await;
    let (status, _) = daemon.post("/v1/leases/renew", json!({"leases": more})).await;
    assert_eq!(status, StatusCode::OK);
    check_identities(&daemon).await;
    assert_eq!(daemon.get("/-/ready").await.0, StatusCode::OK);

    mount.resize("128m");
    until_accepted(&daemon, &Value::Null).await;
    complete(&daemon, &more[0]).await;
    check_identities(&daemon).await;
    daemon.kill();
    daemon.restart();
    check_identities(&daemon).await;
    complete(&daemon, &more[1]).await;
    check_stored(&mut daemon, &created);
}

/// A daemon on a file system of its own, with leases on a thousand jobs.
async fn with_a_thousand_leases() -> (Daemon, Mount, Vec<Value>) {
    let mut daemon = Daemon::prepare("");
    let mount = Mount::over(daemon.directory.path(), "64m").kept();
    daemon.configure("[queues.q]\nlease = \"10m\"\n");
    daemon.restart();
    let jobs = json!(vec![json!({"queue": "q", "kind": "k"}); 1_000]);
    assert_eq!(daemon.post("/v1/jobs/batch", jobs).await.0, StatusCode::CREATED);
    let leases = lease(&daemon, 1_000).await;
    (daemon, mount, leases)
}

/// F24: the log and the file must not take the room that finishes need, and creates are accepted
/// again without a restart.
#[tokio::test]
async fn a_thousand_jobs_finish_one_by_one_on_a_disk_that_creates_have_filled() {
    let (mut daemon, mount, leases) = with_a_thousand_leases().await;
    let payload = Value::from("x".repeat(128 << 10));
    let (created, status, answer) = create_until_refused(&daemon, &payload, 1_000).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{answer}");
    assert_eq!(answer["error"]["code"], "disk_full");
    for lease in &leases {
        complete(&daemon, lease).await;
    }
    check_identities(&daemon).await;
    mount.resize("128m");
    until_accepted(&daemon, &payload).await;
    check_identities(&daemon).await;
    check_stored(&mut daemon, &created);
}

#[tokio::test]
async fn a_thousand_jobs_finish_one_by_one_on_a_disk_that_others_have_filled() {
    let (mut daemon, _mount, leases) = with_a_thousand_leases().await;
    let filler = File::create(daemon.path("filler")).expect("there is room for a name");
    let system = rustix::fs::fstatvfs(&filler).expect("it is a file system");
    let free = system.f_bavail * system.f_frsize;
    rustix::fs::fallocate(&filler, FallocateFlags::empty(), 0, free).expect("so much is free");
    let payload = Value::from("x".repeat(128 << 10));
    let (created, status, answer) = create_until_refused(&daemon, &payload, 1_000).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{answer}");
    assert!(!daemon.path("tallyd.db.reserve").exists(), "it was given up");
    for lease in &leases {
        complete(&daemon, lease).await;
    }
    check_identities(&daemon).await;
    filler.set_len(0).expect("room is made");
    until_accepted(&daemon, &Value::Null).await;
    assert!(daemon.path("tallyd.db.reserve").exists(), "and taken back");
    check_stored(&mut daemon, &created);
}

/// One of those who are there when the disk gets full, with connections of their own.
#[derive(Clone)]
struct Caller {
    journal: Arc<Journal>,
    client: Client,
    url: String,
    stop: CancellationToken,
}

/// How many creates each caller tries once the disk is full: the reserve is bounded.
const REFUSED: usize = 3;

/// How many callers fill the disk.
const FILLING: usize = 4;

/// How many callers pass jobs on to each other.
const PASSING: usize = 12;

impl Caller {
    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        let request = self.client.post(format!("{}{path}", self.url)).json(&body).timeout(PATIENCE);
        let response = request.send().await.expect("it answers");
        (response.status(), response.json().await.expect("JSON"))
    }

    /// Creates a job that says its mark; none if the disk is full.
    async fn create(&self, queue: &str, fill: &str) -> Option<Value> {
        let mark = self.journal.next_mark();
        self.journal.note(Entry::Creating { marks: vec![mark], unique: false });
        let payload = json!({"mark": mark, "fill": fill});
        let job = json!({"queue": queue, "kind": "k", "payload": payload});
        let (status, job) = self.post("/v1/jobs", job).await;
        if status == StatusCode::CREATED {
            let id = job["id"].as_str().unwrap().to_owned();
            self.journal.note(Entry::Created { mark, id });
            return Some(job);
        }
        assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{job}");
        assert_eq!(job["error"]["code"], "disk_full");
        None
    }

    /// Creates many jobs, while there is room.
    async fn create_batch(&self, queue: &str, number: usize) {
        let marks: Vec<u64> = (0..number).map(|_| self.journal.next_mark()).collect();
        self.journal.note(Entry::Creating { marks: marks.clone(), unique: false });
        let job = |mark| json!({"queue": queue, "kind": "k", "payload": {"mark": mark}});
        let jobs: Vec<Value> = marks.iter().map(job).collect();
        let (status, answer) = self.post("/v1/jobs/batch", jobs.into()).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        for (mark, id) in marks.into_iter().zip(answer["ids"].as_array().unwrap()) {
            self.journal.note(Entry::Created { mark, id: id.as_str().unwrap().to_owned() });
        }
    }

    /// Fills the disk, and a little more.
    async fn fill(self) {
        let fill = "x".repeat(64 << 10);
        let mut refused = 0;
        while refused < REFUSED {
            refused += usize::from(self.create("full", &fill).await.is_none());
        }
    }

    async fn create_when_there_is_room(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.create("full", "").await.is_none() {
            assert!(Instant::now() < deadline, "creates are refused for ever");
        }
    }

    /// Leases a job of this queue, waiting for it, and ends its attempt, until `stop`.
    async fn work(self, queue: &'static str, outcome: &'static str) {
        while !self.stop.is_cancelled() {
            let asked_at = self.journal.now();
            let (status, leased) =
                self.post("/v1/leases", json!({"queues": [queue], "wait": "1s"})).await;
            assert_eq!(status, StatusCode::OK, "{leased}");
            for job in leased["jobs"].as_array().unwrap() {
                let text = |key: &str| job[key].as_str().unwrap().to_owned();
                let (id, lease, at) = (text("id"), text("lease"), self.journal.now());
                let [attempt, mark] = [&job["attempt"], &job["payload"]["mark"]]
                    .map(|number| number.as_u64().unwrap());
                let (brief, token) = (None, lease.clone());
                self.journal.note(Entry::Leased { id, mark, attempt, lease, brief, asked_at, at });
                self.finish(token, outcome).await;
            }
        }
    }

    async fn finish(&self, lease: String, outcome: &'static str) {
        self.journal.note(Entry::Ending { lease: lease.clone(), outcome });
        let finish = json!([{"lease": lease, "outcome": outcome}]);
        let (status, answer) = self.post("/v1/leases/finish", finish).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let (answer, at) = (answer["results"][0].as_str().unwrap().to_owned(), self.journal.now());
        self.journal.note(Entry::Ended { lease, outcome, answer, at });
    }
}

/// Fills the disk while others work and pass jobs on; returns when none of them does any more.
async fn fill_under_load(caller: &Caller) {
    let caller = Caller { stop: CancellationToken::new(), ..caller.clone() };
    let mut others = JoinSet::new();
    for outcome in ["completed", "failed"] {
        others.spawn(caller.clone().work("work", outcome));
    }
    for _ in 0..PASSING {
        others.spawn(caller.clone().work("passed", "released"));
    }
    let mut filling = JoinSet::new();
    (0..FILLING).for_each(|_| drop(filling.spawn(caller.clone().fill())));
    filling.join_all().await;
    caller.stop.cancel();
    others.join_all().await;
}

/// Has many be there when the disk gets full, and again when there is room; judges what they were told.
async fn check_those_who_are_there(daemon: &mut Daemon, clients: &Path, make_room: impl FnOnce()) {
    let journal = Arc::new(Journal::new(clients));
    daemon.restart();
    let (url, stop) = (daemon.url(""), CancellationToken::new());
    let caller = Caller { journal: journal.clone(), client: crate::fixture::client(), url, stop };
    caller.create_batch("work", 1_000).await;
    // Few for many: at every moment half of those who pass them on wait for one.
    caller.create_batch("passed", PASSING / 2).await;
    fill_under_load(&caller).await;
    check_identities(daemon).await;
    make_room();
    caller.create_when_there_is_room().await;
    check_identities(daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
    let stored = Stored::read(&daemon.path("tallyd.db"));
    let entries = journal.entries();
    let created = entries.iter().filter(|entry| matches!(entry, Entry::Created { .. })).count();
    assert_eq!(stored.jobs.len(), created, "a refused create is not there");
    assert_eq!(violations(&entries, &[], &stored), Vec::<String>::new());
}

/// Syncs that take their time, as on a disk: what comes meanwhile is one batch.
const SLOW: &str = "inject=fdatasync,fsync:delay_enter=4000";

#[tokio::test]
async fn those_who_are_there_when_the_disk_gets_full_are_answered_as_ever() {
    let elsewhere = TempDir::new().unwrap();
    let mut daemon = Daemon::prepare("");
    let mount = Mount::over(daemon.directory.path(), "64m").kept();
    daemon.configure("");
    symlink(elsewhere.path().join("trace.log"), daemon.path("trace.log")).unwrap();
    trace(&mut daemon, "trace=fdatasync,fsync", &[SLOW.to_owned()], None);
    let clients = elsewhere.path().join("clients.log");
    check_those_who_are_there(&mut daemon, &clients, || mount.resize("128m")).await;
}

/// F24: creates stop before the disk is full, so that only somebody else can have a batch meet it,
/// here by one write of the log that fails. All but the creates in it are done from the reserve.
#[tokio::test]
async fn those_in_the_batch_that_meets_a_full_disk_are_answered_as_ever() {
    let mut daemon = Daemon::prepare("");
    let full = "inject=pwrite64:error=ENOSPC:when=2000".to_owned();
    let calls = "trace=fdatasync,fsync,pwrite64";
    trace(&mut daemon, calls, &[SLOW.to_owned(), full], Some("tallyd.db-wal"));
    let clients = daemon.path("clients.log");
    check_those_who_are_there(&mut daemon, &clients, || {}).await;
    let log = std::fs::read_to_string(daemon.path("tallyd.log")).unwrap();
    assert!(log.contains("\"event\":\"disk_full\""), "no batch has met it: {log}");
}
