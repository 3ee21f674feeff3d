//! A file system that becomes read-only under the running daemon, as after an error of the disk.
//!
//! Linux does not let anybody remount it while the daemon has files open for writing, as is shown
//! here, but does so itself. To the daemon each write then fails with EROFS, as is injected here;
//! what comes after is a real remount.

use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Instant;

use reqwest::StatusCode;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{FAIL_STOP, check_identities, check_stored, create, create_until_error};
use crate::crash::{Client, judge};
use crate::fixture::Daemon;
use crate::journal::Journal;
use crate::mount::Mount;
use crate::strace::attach;

/// How many answers there are before it happens.
const ANSWERS: u32 = 300;

/// A daemon on a file system of its own, where nobody else writes: the logs are elsewhere.
fn mounted() -> (TempDir, Daemon, Mount) {
    let elsewhere = TempDir::new().unwrap();
    let mut daemon = Daemon::prepare("");
    let mount = Mount::over(daemon.directory.path(), "64m").kept();
    daemon.configure("[queues.outside]\nlease = \"10m\"\n");
    for name in ["trace.log", "tallyd.log"] {
        symlink(elsewhere.path().join(name), daemon.path(name)).unwrap();
    }
    daemon.restart();
    (elsewhere, daemon, mount)
}

/// F7: if the kernel refuses, nothing changes; if it should not, the daemon stops, as after an error.
#[tokio::test]
async fn a_remount_is_refused_while_the_daemon_writes_and_changes_nothing() {
    let (_elsewhere, mut daemon, mount) = mounted();
    let id = |(status, job): (StatusCode, Value)| {
        assert_eq!(status, StatusCode::CREATED, "{job}");
        job["id"].as_str().unwrap().to_owned()
    };
    let mut created = vec![id(create(&daemon, &Value::Null).await)];
    let Err(refusal) = mount.try_read_only() else {
        let (client, url) = (daemon.client.clone(), daemon.url("/v1/jobs"));
        create_until_error(client, url, Value::Null).await;
        daemon.wait_for_log(|line| line["event"] == "store_failed");
        assert_eq!(daemon.wait().code(), Some(1));
        return;
    };
    eprintln!("{refusal}");
    created.push(id(create(&daemon, &Value::Null).await));
    check_identities(&daemon).await;
    check_stored(&mut daemon, &created);
    mount.try_read_only().expect("nobody else had a file open for writing");
}

/// F7: the daemon stops, acknowledges nothing more, and says at its next start why it cannot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_system_that_becomes_read_only_ends_the_daemon_and_loses_nothing() {
    let (elsewhere, mut daemon, mount) = mounted();
    let journal = Arc::new(Journal::new(&elsewhere.path().join("clients.log")));
    let mut callers = JoinSet::new();
    for seed in 0..4 {
        callers.spawn(Client::new(&journal, &daemon, seed).create());
        callers.spawn(Client::new(&journal, &daemon, seed).work("outside", "10m", None));
    }
    journal.answered(ANSWERS).await;
    journal.let_end(true);
    let calls = "pwrite64,ftruncate,fallocate";
    let inject = format!("inject={calls}:error=EROFS");
    let files = ["tallyd.db", "tallyd.db-wal", "tallyd.db.reserve"];
    let strace = attach(&daemon, &format!("trace={calls}"), Some(&inject), &files);
    let failed = daemon.wait_for_log(|line| line["event"] == "store_failed");
    let failed_at = Instant::now();
    assert_eq!(daemon.wait().code(), Some(1), "{failed}");
    assert!(failed_at.elapsed() < FAIL_STOP, "it took {:?} to end", failed_at.elapsed());
    strace.wait();
    callers.join_all().await;

    mount.set_writable(false);
    daemon.launch();
    assert!(!daemon.serves(), "it cannot serve");
    let log = daemon.log();
    assert!(log.contains("Read-only file system"), "{log}");
    assert_eq!(daemon.wait().code(), Some(1));
    mount.set_writable(true);
    judge(&mut daemon, &journal, Vec::new).await;
}
