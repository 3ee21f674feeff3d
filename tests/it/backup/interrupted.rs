//! Backups that cannot be written, or not to their end.

use std::fs::File;

use reqwest::StatusCode;
use rustix::fs::FallocateFlags;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{CONFIG, back_up, backups, check_copy, daemon_with, fill, prepare};
use crate::fixture::{Daemon, PATIENCE};
use crate::mount::Mount;
use crate::strace::trace;

/// The jobs whose backup takes at least ten steps.
const JOBS: usize = 8_000;

/// A daemon whose backups take seconds: each of their steps is held up.
async fn slow_daemon() -> Daemon {
    let mut daemon = prepare(CONFIG);
    let slow = "inject=fadvise64:delay_enter=500000".to_owned();
    trace(&mut daemon, "trace=fadvise64", &[slow], None);
    daemon.restart();
    fill(&daemon, JOBS).await;
    daemon
}

/// Asks for a backup, and waits until it has begun.
fn begin(daemon: &mut Daemon) -> JoinHandle<(StatusCode, Value)> {
    let request = daemon.client.post(daemon.url("/v1/backup")).timeout(PATIENCE);
    let asked = tokio::spawn(async move {
        let Ok(response) = request.send().await else { return Default::default() };
        let status = response.status();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    });
    let daemon_log = |line: &Value| line["event"] == "backup_begun";
    tokio::task::block_in_place(|| daemon.wait_for_log(daemon_log));
    asked
}

/// A create is answered as ever.
async fn check_creates(daemon: &Daemon) {
    let (status, answer) = daemon.post("/v1/jobs", json!({"queue": "q", "kind": "k"})).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    assert_eq!(daemon.get("/-/ready").await.0, StatusCode::OK);
}

#[tokio::test]
async fn without_backup_dir_no_backup_is_written_and_the_answer_says_what_to_set() {
    let daemon = Daemon::start("");
    let (status, answer) = daemon.post("/v1/backup", Value::Null).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(answer["error"]["code"], "no_backup_dir");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("backup_dir is not set") && message.contains("configuration"));
}

#[tokio::test]
async fn a_backup_dir_that_is_none_is_told_at_the_start_and_to_whoever_asks() {
    let mut daemon = Daemon::start(CONFIG);
    let log = daemon.log();
    assert!(log.contains("no_backup_dir") && log.contains("No such file or directory"), "{log}");
    let (status, answer) = daemon.post("/v1/backup", Value::Null).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer["error"]["code"], "backup_failed");
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains("backup_dir backups: No such file or directory"), "{message}");
    std::fs::create_dir(daemon.path("backups")).unwrap();
    back_up(&daemon).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_backup_is_written_at_a_time_and_commits_go_on() {
    let mut daemon = slow_daemon().await;
    let first = begin(&mut daemon);
    let (status, answer) = daemon.post("/v1/backup", json!({})).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::CONFLICT, &json!("backup_running"))
    );
    for _ in 0..20 {
        check_creates(&daemon).await;
    }
    assert!(!first.is_finished(), "it takes at least five seconds");
    let (status, answer) = first.await.unwrap();
    assert_eq!(status, StatusCode::OK, "{answer}");
    check_copy(answer["file"].as_str().unwrap().as_ref(), &[], &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_hangs_up_finds_the_backup_there() {
    let mut daemon = slow_daemon().await;
    let asked = begin(&mut daemon);
    asked.abort();
    let line = |line: &Value| line["event"] == "backup_written";
    tokio::task::block_in_place(|| daemon.wait_for_log(line));
    let names = backups(&daemon);
    assert!(names.len() == 1 && names[0].ends_with("Z.db"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_a_backup_and_leaves_nothing_of_it() {
    let mut daemon = slow_daemon().await;
    let asked = begin(&mut daemon);
    assert!(backups(&daemon)[0].ends_with(".db.partial"));
    let status = tokio::task::block_in_place(|| daemon.stop());
    assert_eq!(status.code(), Some(0));
    let (status, answer) = asked.await.unwrap();
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("draining"))
    );
    assert_eq!(backups(&daemon), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_leaves_of_a_backup_is_removed_by_the_next_start() {
    let mut daemon = slow_daemon().await;
    let asked = begin(&mut daemon);
    for name in ["tallyd-mine.db.partial", "tallyd-2026-11-25T190000.123Z.db"] {
        std::fs::write(daemon.path("backups").join(name), "mine").unwrap();
    }
    daemon.kill();
    asked.await.unwrap();
    assert_eq!(backups(&daemon).len(), 3, "the backup is incomplete");
    daemon.restart();
    let mut names = backups(&daemon);
    names.sort();
    assert_eq!(names, ["tallyd-2026-11-25T190000.123Z.db", "tallyd-mine.db.partial"]);
    check_creates(&daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
    check_copy(&daemon.path("tallyd.db"), &[], &[]);
}

/// Takes room until so many bytes are free. A backup that goes on may take some at the same time.
fn leave_free(mount: &std::path::Path, bytes: u64) -> File {
    let file = File::create(mount.join("filler")).unwrap();
    loop {
        let system = rustix::fs::statvfs(mount).unwrap();
        let room = system.f_bavail * system.f_frsize - bytes;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, room) {
            Err(rustix::io::Errno::NOSPC) => {}
            taken => return taken.map(|()| file).unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_finds_no_room_is_refused_and_leaves_the_store_alone() {
    let mut daemon = slow_daemon().await;
    let mount = Mount::over(&daemon.path("backups"), "16m");
    // No room from the beginning.
    let filler = leave_free(&daemon.path("backups"), 1 << 20);
    let (status, answer) = daemon.post("/v1/backup", Value::Null).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{answer}");
    assert_eq!(answer["error"]["code"], "disk_full");
    assert!(answer["error"]["message"].as_str().unwrap().contains("no room for a backup in"));
    assert_eq!(backups(&daemon), ["filler"]);
    drop(filler);
    // Somebody else takes it on the way.
    std::fs::remove_file(daemon.path("backups/filler")).unwrap();
    let asked = begin(&mut daemon);
    let filler = leave_free(&daemon.path("backups"), 0);
    let (status, answer) = asked.await.unwrap();
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{answer}");
    assert_eq!(backups(&daemon), ["filler"]);
    drop(filler);
    check_creates(&daemon).await;
    drop(mount);
    back_up(&daemon).await;
}

#[tokio::test]
async fn a_backup_beside_the_store_leaves_it_the_room_that_it_needs() {
    let mut daemon = Daemon::prepare("");
    let mount = Mount::over(daemon.directory.path(), "64m");
    daemon.configure("backup_dir = \".\"\n[queues.q]\n");
    daemon.restart();
    fill(&daemon, JOBS).await;
    let bytes = daemon.path("tallyd.db").metadata().unwrap().len() + daemon.wal_bytes();
    let filler = leave_free(daemon.directory.path(), bytes + (4 << 20));
    let (status, answer) = daemon.post("/v1/backup", Value::Null).await;
    assert_eq!(status, StatusCode::INSUFFICIENT_STORAGE, "{answer}");
    check_creates(&daemon).await;
    drop(filler);
    std::fs::remove_file(daemon.path("filler")).unwrap();
    let (status, answer) = daemon.post("/v1/backup", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    check_creates(&daemon).await;
    daemon.stop();
    drop(mount);
}

#[tokio::test]
async fn a_backup_takes_no_options() {
    let daemon = daemon_with(0).await;
    let (status, answer) = daemon.post("/v1/backup", json!({"file": "x"})).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (StatusCode::BAD_REQUEST, &json!("unknown_field"))
    );
    assert_eq!(answer["error"]["field"], "file");
    assert_eq!(backups(&daemon), Vec::<String>::new());
}
