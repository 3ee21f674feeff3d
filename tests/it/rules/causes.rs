//! The faults: each prepares a daemon, waits for the others, and does its harm until the test is over.

use std::future::pending;
use std::time::Duration;

use reqwest::StatusCode;
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::faults::Stage;
use crate::between::Between;
use crate::fixture::Daemon;
use crate::mount::Mount;
use crate::receiver::{Receiver, answer};
use crate::strace::trace;

/// A job of this kind that nobody runs before the test is over.
fn later(kind: &str) -> Value {
    json!({"queue": "q", "kind": kind, "delay": "1d"})
}

/// How often a fault does its harm: a few times between two scrapes.
fn pace() -> Interval {
    let mut pace = interval(Duration::from_millis(300));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

async fn create(daemon: &Daemon, job: Value) {
    let (status, answer) = daemon.post("/v1/jobs", job).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
}

/// Asks again and again for what must be refused so in the end.
async fn keep_asking(daemon: &Daemon, job: impl Fn(usize) -> Value, refusal: &str) {
    let mut pace = pace();
    for number in 0.. {
        let (status, answer) = daemon.post("/v1/jobs", job(number)).await;
        if status == StatusCode::CREATED {
            continue; // as quickly as it can, until it is refused
        }
        assert_eq!(answer["error"]["code"], refusal, "{answer}");
        pace.tick().await;
    }
}

/// Leases one job, which is there.
async fn lease(daemon: &Daemon, duration: &str) -> Value {
    let ask = json!({"queues": ["q"], "duration": duration, "wait": "60s"});
    let (_, leased) = daemon.post("/v1/leases", ask).await;
    leased["jobs"][0].clone()
}

async fn finish(daemon: &Daemon, lease: &Value, outcome: Value) -> Value {
    let mut finish = outcome;
    finish["lease"] = lease.clone();
    daemon.post("/v1/leases/finish", json!([finish])).await.1["results"][0].clone()
}

/// Creates a job, leases it, and ends it so.
async fn work(daemon: &Daemon, outcome: Value) {
    work_at(daemon, "k", outcome).await;
}

async fn work_at(daemon: &Daemon, kind: &str, outcome: Value) {
    create(daemon, json!({"queue": "q", "kind": kind})).await;
    let leased = lease(daemon, "10m").await;
    assert_eq!(finish(daemon, &leased["lease"], outcome).await, "ok");
}

/// No fault at all.
pub async fn well(stage: Stage) {
    let daemon = Daemon::start("");
    stage.scraped(&daemon).await;
    let mut pace = pace();
    loop {
        work(&daemon, json!({"outcome": "completed"})).await;
        pace.tick().await;
    }
}

pub async fn killed(stage: Stage) {
    let mut daemon = Daemon::start("");
    stage.scraped(&daemon).await;
    daemon.kill();
    pending().await
}

pub async fn stopped(stage: Stage) {
    let daemon = Daemon::start("");
    stage.scraped(&daemon).await;
    daemon.signal(Signal::STOP);
    pending().await
}

/// It can be reached for a third of the time.
pub async fn flapping(stage: Stage) {
    let daemon = Daemon::start("");
    let address = Between::start(&daemon).await;
    stage.scraped_at(&address.url()).await;
    let mut pace = interval(Duration::from_millis(1_200)); // at least one scrape
    loop {
        address.now_to(&daemon);
        pace.tick().await;
        address.now_to_nobody();
        pace.tick().await;
        pace.tick().await;
    }
}

pub async fn restarting(stage: Stage) {
    let mut daemon = Daemon::start("");
    let address = Between::start(&daemon).await;
    stage.scraped_at(&address.url()).await;
    let mut pace = interval(Duration::from_secs(3)); // it must be scraped in between
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        daemon.kill();
        daemon.restart();
        address.now_to(&daemon);
    }
}

pub async fn workers_gone(stage: Stage) {
    let daemon = Daemon::start("");
    for _ in 0..10 {
        work(&daemon, json!({"outcome": "completed"})).await;
    }
    stage.scraped(&daemon).await;
    let mut pace = pace();
    loop {
        create(&daemon, json!({"queue": "q", "kind": "k"})).await;
        pace.tick().await;
    }
}

pub async fn receiver_fails(stage: Stage) {
    let receiver = Receiver::start(&[answer("500 Oh", "", "no")]).await;
    let backoff = "{ initial = \"1s\", max = \"1s\", jitter = 0.0 }";
    let url = &receiver.url;
    let daemon = Daemon::start(&format!(
        "[queues.q]\nmax_attempts = 10000\nbackoff = {backoff}\nhttp = {{ url = \"{url}\" }}\n"
    ));
    stage.scraped(&daemon).await;
    for _ in 0..20 {
        create(&daemon, json!({"queue": "q", "kind": "k"})).await;
    }
    pending().await
}

/// One job of this kind, and nine that do not die, so that few attempts fail.
async fn one_dies(daemon: &Daemon, kind: &str) {
    work_at(daemon, kind, json!({"outcome": "failed", "permanent": true})).await;
    for _ in 0..9 {
        work(daemon, json!({"outcome": "completed"})).await;
    }
}

pub async fn jobs_die(stage: Stage) {
    let daemon = Daemon::start("[queues.q]\nkinds = [\"k\"]\n");
    stage.scraped(&daemon).await;
    let mut pace = pace();
    loop {
        one_dies(&daemon, "k").await;
        pace.tick().await;
    }
}

/// The series of each begins with its death, so none increases.
pub async fn new_kinds_die(stage: Stage) {
    let daemon = Daemon::start("max_pairs = 10000\n");
    stage.scraped(&daemon).await;
    let mut pace = pace();
    for number in 0.. {
        one_dies(&daemon, &format!("new-{number}")).await;
        pace.tick().await;
    }
}

pub async fn attempts_last(stage: Stage) {
    let daemon = Daemon::start(
        "[queues.q]\nconcurrency = 2\ntimeout = \"1h\"\nexec = { command = [\"/bin/sleep\", \"1h\"] }\n",
    );
    stage.scraped(&daemon).await;
    let mut pace = pace();
    loop {
        create(&daemon, json!({"queue": "q", "kind": "k"})).await;
        pace.tick().await;
    }
}

/// A worker whose lease has expired, and whose job is somebody else's.
pub async fn late_worker(stage: Stage) {
    let daemon = Daemon::start("[queues.q]\nkinds = [\"k\"]\n");
    stage.scraped(&daemon).await;
    create(&daemon, json!({"queue": "q", "kind": "k"})).await;
    let late = lease(&daemon, "1s").await["lease"].clone();
    assert_eq!(lease(&daemon, "1h").await["attempt"], 2);
    let mut pace = pace();
    loop {
        assert_eq!(finish(&daemon, &late, json!({"outcome": "completed"})).await, "lease_lost");
        pace.tick().await;
    }
}

pub async fn queue_full(stage: Stage) {
    let daemon = Daemon::start("[queues.q]\nmax_depth = 10\n");
    stage.scraped(&daemon).await;
    keep_asking(&daemon, |_| later("k"), "queue_full").await;
}

pub async fn paused(stage: Stage) {
    let daemon = Daemon::start("[queues.q]\n");
    stage.scraped(&daemon).await;
    assert_eq!(daemon.post("/v1/queues/q/pause", Value::Null).await.0, StatusCode::OK);
    let mut pace = pace();
    loop {
        create(&daemon, json!({"queue": "q", "kind": "k"})).await;
        pace.tick().await;
    }
}

/// Another program has begun to write to the file, and does not end.
pub async fn store_held(stage: Stage) {
    let daemon = Daemon::start("");
    stage.scraped(&daemon).await;
    let other = Connection::open(daemon.path("tallyd.db")).expect("it opens");
    other.busy_timeout(crate::processes::NEVER).expect("it can wait");
    other.execute_batch("BEGIN IMMEDIATE").expect("it may write");
    pending::<()>().await;
    drop(other);
}

pub async fn no_backups(stage: Stage) {
    let mut daemon = Daemon::prepare("backup_dir = \"backups\"\n");
    std::fs::create_dir(daemon.path("backups")).unwrap();
    daemon.restart();
    stage.scraped(&daemon).await;
    std::fs::remove_dir(daemon.path("backups")).unwrap();
    let mut pace = pace();
    loop {
        let (_, refused) = daemon.post("/v1/backup", Value::Null).await;
        assert_eq!(refused["error"]["code"], "backup_failed", "{refused}");
        pace.tick().await;
    }
}

pub async fn slow_disk(stage: Stage) {
    let mut daemon = Daemon::prepare("");
    let slow = "inject=fdatasync:delay_exit=1200000".to_owned();
    trace(&mut daemon, "trace=fdatasync", &[slow], Some("tallyd.db-wal"));
    daemon.restart();
    stage.scraped(&daemon).await;
    loop {
        create(&daemon, later("k")).await;
    }
}

/// The file system shrinks by what others would write to it.
pub async fn disk_filling(stage: Stage) {
    let mut daemon = Daemon::prepare("");
    let mount = Mount::over(daemon.directory.path(), "8g");
    daemon.configure("");
    daemon.restart();
    stage.scraped(&daemon).await;
    let mut pace = pace();
    for step in 1.. {
        pace.tick().await;
        mount.resize(&format!("{}m", (8_192 - step * 64).max(1_024)));
    }
}

pub async fn disk_full(stage: Stage) {
    let mut daemon = Daemon::prepare("");
    let _mount = Mount::over(daemon.directory.path(), "48m");
    daemon.configure("");
    daemon.restart();
    stage.scraped(&daemon).await;
    let payload = "x".repeat(256 << 10);
    let large = |_| json!({"queue": "q", "kind": "k", "delay": "1d", "payload": payload});
    keep_asking(&daemon, large, "disk_full").await;
}

/// Another program reads the file, and does not end.
pub async fn log_held(stage: Stage) {
    let daemon = Daemon::start("");
    create(&daemon, later("k")).await;
    stage.scraped(&daemon).await;
    let reader = Connection::open(daemon.path("tallyd.db")).expect("it opens");
    reader.execute_batch("BEGIN; SELECT count(*) FROM jobs").expect("it may read");
    let payload = "x".repeat(1_000_000);
    let large = |_| json!({"queue": "q", "kind": "k", "delay": "1d", "payload": payload});
    keep_asking(&daemon, large, "store_busy").await;
    drop(reader);
}

pub async fn wrong_caller(stage: Stage) {
    let daemon = Daemon::start("");
    stage.scraped(&daemon).await;
    keep_asking(&daemon, |_| json!({"kind": "no name"}), "invalid_name").await;
}

pub async fn many_kinds(stage: Stage) {
    let daemon = Daemon::start("max_pairs = 3\n");
    stage.scraped(&daemon).await;
    let mut pace = pace();
    for number in 0.. {
        create(&daemon, later(&format!("for-user-{number}"))).await;
        pace.tick().await;
    }
}

/// Somebody has changed the ledger by hand: one job more than there is.
pub async fn tampered(stage: Stage) {
    let mut daemon = Daemon::start("");
    create(&daemon, later("k")).await;
    assert!(daemon.stop().success());
    let file = Connection::open(daemon.path("tallyd.db")).expect("it opens");
    let more =
        "UPDATE ledger SET created = created + 1, scheduled = scheduled + 1 WHERE kind = 'k'";
    assert_eq!(file.execute(more, []), Ok(1));
    drop(file);
    daemon.restart();
    stage.scraped(&daemon).await;
    pending().await
}
