//! What a machine can have wrong: one clear line, no half start, and nothing lost.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use reqwest::StatusCode;
use serde_json::json;

use super::notify::Supervisor;
use crate::fixture::Daemon;
use crate::mount::Mount;

/// Starts it, and expects this end before it ever was ready.
fn fails(daemon: &mut Daemon, supervisor: &Supervisor, code: i32, said: &str) {
    daemon.launch();
    assert!(!daemon.serves());
    let log = daemon.log();
    assert_eq!(daemon.wait().code(), Some(code), "{log}");
    assert!(log.contains(said), "{log}");
    supervisor.is_not_told_of_readiness();
}

#[test]
fn a_credential_that_cannot_be_read_exits_2_and_touches_no_store() {
    let mut daemon = Daemon::prepare("");
    let supervisor = Supervisor::of_daemon(&mut daemon);
    fs::remove_file(daemon.path("tallyd.toml")).unwrap();
    fails(&mut daemon, &supervisor, 2, "cannot read tallyd.toml: No such file or directory");
    fs::create_dir(daemon.path("tallyd.toml")).unwrap();
    fails(&mut daemon, &supervisor, 2, "cannot read tallyd.toml: Is a directory");
    assert!(!daemon.path("tallyd.db").exists());
}

/// Has the daemon run as somebody who may not do everything.
fn as_nobody(daemon: &mut Daemon) {
    if rustix::process::geteuid().is_root() {
        daemon.wrap(&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
}

#[tokio::test]
async fn what_belongs_to_somebody_else_is_named_with_its_directory() {
    let mut daemon = Daemon::start("");
    assert_eq!(daemon.stop().code(), Some(0));
    let directory = daemon.directory.path().canonicalize().unwrap();
    let allow =
        |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let supervisor = Supervisor::of_daemon(&mut daemon);
    as_nobody(&mut daemon);
    allow(&directory, 0o555);
    allow(&daemon.path("tallyd.toml"), 0o000);
    fails(&mut daemon, &supervisor, 2, "cannot read tallyd.toml: Permission denied");
    allow(&daemon.path("tallyd.toml"), 0o444);
    let said = format!("cannot write in the directory {}: Permission denied", directory.display());
    fails(&mut daemon, &supervisor, 1, &said);
    allow(&directory, 0o755);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_written_fails_the_start_and_loses_nothing() {
    let mut daemon = Daemon::prepare("");
    let supervisor = Supervisor::of_daemon(&mut daemon);
    let state = daemon.path("state");
    fs::create_dir(&state).unwrap();
    let mount = Mount::over(&state, "100m");
    fs::write(state.join("tallyd.toml"), "").unwrap();
    daemon.wrap(&["sh", "-c", "cd state && exec \"$@\"", "sh"]);

    mount.set_writable(false);
    fails(&mut daemon, &supervisor, 1, "Read-only file system");
    assert!(!state.join("tallyd.db").exists());
    mount.set_writable(true);
    daemon.restart();
    let (status, job) = daemon.post("/v1/jobs", json!({"kind": "k"})).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    assert_eq!(daemon.stop().code(), Some(0));
    supervisor.hear_until("STOPPING=1");

    mount.set_writable(false);
    fails(&mut daemon, &supervisor, 1, "Read-only file system");
    mount.set_writable(true);
    daemon.restart();
    let (_, found) = daemon.get(&format!("/v1/jobs/{}", job["id"].as_str().unwrap())).await;
    assert_eq!(found["state"], "ready");
    assert_eq!(daemon.stop().code(), Some(0));
}
