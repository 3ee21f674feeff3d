//! A disk that fails, is full, or is held by somebody else: what still works, and what is refused.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::fixture::{Daemon, MOST_WAL_BYTES, PATIENCE};
use crate::oracle::Stored;
use crate::strace::trace;

/// P6 promises a second; a loaded machine gets five.
const FAIL_STOP: Duration = Duration::from_secs(5);

async fn create(daemon: &Daemon, payload: &Value) -> (StatusCode, Value) {
    daemon.post("/v1/jobs", json!({"queue": "q", "kind": "k", "payload": payload})).await
}

/// Creates jobs until one is refused; answers with the ids of those that were not, and the answer.
async fn create_until_refused(
    daemon: &Daemon,
    payload: &Value,
    most: usize,
) -> (Vec<String>, StatusCode, Value) {
    let mut created = Vec::new();
    for _ in 0..most {
        let (status, answer) = create(daemon, payload).await;
        if status != StatusCode::CREATED {
            return (created, status, answer);
        }
        created.push(answer["id"].as_str().unwrap().to_owned());
    }
    panic!("none of {most} creates was refused");
}

/// Asks until a create is accepted again.
async fn until_accepted(daemon: &Daemon) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, answer) = create(daemon, &Value::Null).await;
        if status == StatusCode::CREATED {
            return;
        }
        assert!(Instant::now() < deadline, "still {status}: {answer}");
    }
}

async fn lease(daemon: &Daemon, max: usize) -> Vec<Value> {
    let (status, leased) = daemon.post("/v1/leases", json!({"queues": ["q"], "max": max})).await;
    assert_eq!(status, StatusCode::OK, "{leased}");
    let jobs = leased["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), max);
    jobs.iter().map(|job| job["lease"].clone()).collect()
}

async fn complete(daemon: &Daemon, lease: &Value) {
    let (status, answer) = daemon
        .post("/v1/leases/finish", json!([{"lease": lease, "outcome": "completed", "result": 1}]))
        .await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"results": ["ok"]})));
}

/// Stops the daemon and checks that what it stored is sound and has these jobs.
fn check_stored(daemon: &mut Daemon, created: &[String]) {
    assert_eq!(daemon.stop().code(), Some(0));
    let stored = Stored::read(&daemon.path("tallyd.db"));
    let jobs = stored.by_id();
    let lost: Vec<_> = created.iter().filter(|id| !jobs.contains_key(&***id)).collect();
    assert!(lost.is_empty(), "acknowledged, but lost: {lost:?}");
    assert_eq!(stored.wrong_counts(), Vec::<String>::new());
    assert_eq!(stored.integrity, Vec::<String>::new());
}

async fn check_identities(daemon: &Daemon) {
    assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
}

/// A daemon on an existing store, of whose threads each fails in its sync so numbered; `only` is
/// the file whose syncs count, if not all do.
fn failing_to_sync(number: u32, only: Option<&str>) -> Daemon {
    let mut daemon = Daemon::start("");
    assert_eq!(daemon.stop().code(), Some(0), "a start makes no new file any more");
    let inject = format!("inject=fdatasync,fsync:error=EIO:when={number}");
    trace(&mut daemon, "trace=fdatasync,fsync", &[inject], only);
    daemon.restart();
    daemon
}

/// Creates jobs until one is refused, checks that the daemon ends for this reason, and that the
/// next one finds all jobs but perhaps not the last.
async fn check_fail_stop(mut daemon: Daemon, payload: Value, reasons: &[&str]) {
    let (created, status, answer) = create_until_refused(&daemon, &payload, 40).await;
    let refused_at = Instant::now();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert_eq!(answer["error"]["code"], "store_stopped");
    assert!(!created.is_empty(), "the sync of the first failed already");
    let failed = daemon.wait_for_log(|line| line["event"] == "store_failed");
    let reason = failed["reason"].as_str().unwrap();
    assert!(reasons.iter().any(|known| reason.starts_with(known)), "{failed}");
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(refused_at.elapsed() < FAIL_STOP, "it took {:?} to end", refused_at.elapsed());

    daemon.wrap(&[]);
    daemon.restart();
    check_identities(&daemon).await;
    let scrape = daemon.scrape().await;
    let ready = scrape.value(r#"tallyd_jobs{queue="q",kind="k",state="ready"}"#) as usize;
    assert!((created.len()..=created.len() + 1).contains(&ready), "{ready} jobs");
    check_stored(&mut daemon, &created);
}

#[tokio::test]
async fn a_failed_sync_is_not_acknowledged_and_ends_the_daemon() {
    for number in [3, 8] {
        check_fail_stop(failing_to_sync(number, None), Value::Null, &["disk I/O error"]).await;
    }
}

#[tokio::test]
async fn a_failed_sync_of_a_checkpoint_ends_the_daemon_too() {
    let payload = "x".repeat(1_000_000).into();
    let daemon = failing_to_sync(1, Some("tallyd.db"));
    // Of the two that sync the file, SQLite and the thread itself, either may come first.
    let reasons = ["cannot sync the store's file", "checkpoint failed: disk I/O error"];
    check_fail_stop(daemon, payload, &reasons).await;
}

/// A file system in memory, mounted over a directory until it is dropped.
struct Mount(PathBuf);

impl Mount {
    fn over(directory: &Path, size: &str) -> Self {
        let mount = Self(directory.to_owned());
        mount.run("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        mount
    }

    fn resize(&self, size: &str) {
        self.run("mount", &["-o", &format!("remount,size={size}")]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let root = rustix::process::geteuid().is_root();
        let mut command = Command::new(if root { program } else { "sudo" });
        if !root {
            command.args(["-n", program]);
        }
        let output = command.args(arguments).arg(&self.0).output().expect("it starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "this test must be able to {program}, as root: {error}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.run("umount", &["--lazy"]);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_creates_and_nothing_else_until_there_is_room() {
    let config = "[queues.q]\nlease = \"10m\"\n";
    let mut daemon = Daemon::prepare("");
    let mount = Mount::over(daemon.directory.path(), "48m");
    daemon.configure(config);
    daemon.restart();
    let payload = Value::from("x".repeat(256 << 10));
    for _ in 0..20 {
        assert_eq!(create(&daemon, &Value::Null).await.0, StatusCode::CREATED);
    }
    let leases = lease(&daemon, 20).await;
    let (created, status, answer) = create_until_refused(&daemon, &payload, 1_000).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{answer}");
    assert_eq!(answer["error"]["code"], "disk_full");
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
    until_accepted(&daemon).await;
    complete(&daemon, &more[0]).await;
    check_identities(&daemon).await;
    daemon.kill();
    daemon.restart();
    check_identities(&daemon).await;
    complete(&daemon, &more[1]).await;
    check_stored(&mut daemon, &created);
}

#[tokio::test]
async fn a_reader_that_holds_the_file_stops_creates_only_and_the_log_stays_bounded() {
    let mut daemon = Daemon::start("[queues.q]\nlease = \"10m\"\n");
    for _ in 0..10 {
        assert_eq!(create(&daemon, &Value::Null).await.0, StatusCode::CREATED);
    }
    let leases = lease(&daemon, 10).await;
    let reader = Connection::open(daemon.path("tallyd.db")).unwrap();
    let count = "SELECT count(*) FROM jobs";
    reader.execute_batch("BEGIN").unwrap();
    let held: i64 = reader.query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(held, 10);

    let payload = Value::from("x".repeat(1_000_000));
    let (created, status, answer) = create_until_refused(&daemon, &payload, 200).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert_eq!(answer["error"]["code"], "store_busy");
    for lease in &leases {
        complete(&daemon, lease).await;
        assert_eq!(create(&daemon, &payload).await.0, StatusCode::SERVICE_UNAVAILABLE);
    }
    let more = lease(&daemon, 1).await;
    let written = daemon.wal_bytes();
    assert!(written < MOST_WAL_BYTES, "the log has {written} bytes");
    check_identities(&daemon).await;

    reader.execute_batch("COMMIT").unwrap();
    until_accepted(&daemon).await;
    complete(&daemon, &more[0]).await;
    for _ in 0..80 {
        assert_eq!(create(&daemon, &payload).await.0, StatusCode::CREATED, "the log goes round");
    }
    let written = daemon.wal_bytes();
    assert!(written < MOST_WAL_BYTES, "the log has {written} bytes");
    drop(reader);
    check_stored(&mut daemon, &created);
}

/// What one line of a trace says about the promise to sync first.
enum Step {
    /// Bytes went to a file of the store.
    Wrote,
    Synced,
    /// A create was acknowledged.
    Acknowledged,
}

fn step(line: &str) -> Option<Step> {
    let is_sync = line.contains("fdatasync") || line.contains("fsync");
    if line.contains("HTTP/1.1 201") {
        Some(Step::Acknowledged)
    } else if line.contains("pwrite64(") || line.contains("pwritev(") {
        Some(Step::Wrote)
    } else if is_sync && line.ends_with("= 0") {
        Some(Step::Synced)
    } else {
        None
    }
}

#[tokio::test]
async fn a_create_is_acknowledged_after_its_sync() {
    const CREATES: usize = 20;
    let mut daemon = Daemon::prepare("");
    let calls = "trace=pwrite64,pwritev,fdatasync,fsync,write,writev,sendto,sendmsg";
    trace(&mut daemon, calls, &[], None);
    daemon.restart();
    for _ in 0..CREATES {
        assert_eq!(create(&daemon, &Value::Null).await.0, StatusCode::CREATED);
    }
    assert_eq!(daemon.stop().code(), Some(0));
    let trace = std::fs::read_to_string(daemon.path("trace.log")).unwrap();
    let (mut wrote, mut synced, mut acknowledged) = (false, false, 0);
    for step in trace.lines().filter_map(step) {
        match step {
            Step::Wrote => (wrote, synced) = (true, false),
            Step::Synced => synced = true,
            Step::Acknowledged => {
                assert!(wrote && synced, "create {acknowledged} was acknowledged unsynced");
                (wrote, synced) = (false, false);
                acknowledged += 1;
            }
        }
    }
    assert_eq!(acknowledged, CREATES, "in the trace");
}
