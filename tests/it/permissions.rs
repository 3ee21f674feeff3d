//! Who may read the files that the daemon makes: their owner, from the moment at which they are there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::fixture::Daemon;

/// Leaves it to the daemon who may read its files, and writes down every file that it makes.
const WRAPPER: [&str; 11] = [
    "/bin/sh",
    "-c",
    "umask 0; exec \"$@\"",
    "sh",
    "strace",
    "-f",
    "-qq",
    "-o",
    "trace.log",
    "-e",
    "trace=open,openat,creat,chmod,fchmod,fchmodat",
];

/// Names and permissions of the files in a directory, but of those that the test itself made.
fn modes(directory: &Path) -> Vec<(String, u32)> {
    let mut modes = Vec::new();
    for entry in fs::read_dir(directory).expect("it is there") {
        let entry = entry.expect("it can be read");
        let name = entry.file_name().to_string_lossy().into_owned();
        let data = entry.metadata().expect("it is there");
        if data.is_file() && !["tallyd.toml", "tallyd.log", "trace.log"].contains(&&*name) {
            modes.push((name, data.permissions().mode() & 0o777));
        }
    }
    modes.sort();
    modes
}

#[tokio::test]
async fn what_the_daemon_writes_is_its_owners_from_the_first_moment_whatever_the_umask() {
    let mut daemon = Daemon::prepare("backup_dir = \"backups\"\n");
    fs::create_dir(daemon.path("backups")).expect("it can be made");
    daemon.wrap(&WRAPPER);
    let mut traced = String::new();
    for _ in 0..2 {
        daemon.restart();
        let (status, job) = daemon.post("/v1/jobs", json!({"kind": "k", "payload": "p"})).await;
        assert_eq!(status, StatusCode::CREATED, "{job}");
        let (status, backup) = daemon.post("/v1/backup", Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{backup}");
        let files = modes(daemon.directory.path());
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        let all = ["", "-shm", "-wal", ".lock", ".reserve"].map(|end| format!("tallyd.db{end}"));
        assert_eq!(names, all);
        let files = [files, modes(&daemon.path("backups"))].concat();
        assert!(files.iter().all(|(_, mode)| *mode == 0o600), "{files:?}");
        daemon.kill();
        traced += &fs::read_to_string(daemon.path("trace.log")).expect("strace has written it");
    }
    let made: Vec<&str> = traced.lines().filter(|line| line.contains("O_CREAT")).collect();
    assert!(made.len() >= 10, "{made:?}");
    let open = made.iter().find(|line| !line.contains(", 0600)") && !line.contains(", 0600 <unf"));
    assert!(open.is_none(), "{open:?}");
    let changed = traced.lines().find(|line| line.contains("chmod"));
    assert!(changed.is_none(), "it was open before: {changed:?}");
}
