//! The daemon under strace: calls that fail on purpose, and the order of those that were made.

use std::process::Command;

use crate::fixture::Daemon;

const STRACE: &str = "strace";

/// Fails if there is no strace, with what to do.
fn check_strace() {
    let version = Command::new(STRACE).arg("-V").output();
    assert!(
        version.is_ok_and(|version| version.status.success()),
        "this test needs strace: run tests/run.sh tools, or apt-get install strace"
    );
}

/// Has the next starts traced into `trace.log`, with calls that fail on purpose; `only` those
/// that concern this file.
pub fn trace(daemon: &mut Daemon, calls: &str, inject: &[String], only: Option<&str>) {
    check_strace();
    let only = only.map(|file| daemon.path(file).display().to_string());
    let mut words = vec![STRACE, "-f", "-qq", "-s", "24", "-o", "trace.log", "-e", calls];
    inject.iter().for_each(|inject| words.extend(["-e", inject]));
    only.iter().for_each(|file| words.extend(["-P", file]));
    daemon.wrap(&words);
}
