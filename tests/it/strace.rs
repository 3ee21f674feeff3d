//! The daemon under strace: calls that fail on purpose, and the order of those that were made.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

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
    let only = only.map(|file| daemon.path(file).display().to_string());
    let mut words = vec!["-s", "24", "-e", calls];
    inject.iter().for_each(|inject| words.extend(["-e", inject]));
    only.iter().for_each(|file| words.extend(["-P", file]));
    wrap(daemon, &words);
}

/// The same with all bytes that are written: a page of a file.
pub fn trace_whole(daemon: &mut Daemon, calls: &str, inject: Option<&str>) {
    let mut words = vec!["-s", "4200", "-e", calls];
    inject.iter().for_each(|inject| words.extend(["-e", inject]));
    wrap(daemon, &words);
}

fn wrap(daemon: &mut Daemon, words: &[&str]) {
    check_strace();
    daemon.wrap(&[&[STRACE, "-f", "-qq", "-o", "trace.log"], words].concat());
}

/// A strace beside the daemon, which ends with the test at the latest.
pub struct Attached(Child);

impl Attached {
    /// Waits until it ends, as it does when nothing is left that it traces.
    pub fn wait(mut self) {
        self.0.wait().expect("it is our child");
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // It may have ended by itself; what it traced goes on without it.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Traces a daemon that runs already, from now on and until its end; those calls that concern
/// these files, or all.
pub fn attach(daemon: &Daemon, calls: &str, inject: Option<&str>, files: &[&str]) -> Attached {
    let pid = daemon.pid().as_raw_nonzero().to_string();
    attach_to(daemon, &["-f", "-p", &pid], calls, inject, files)
}

/// The same of one thread only, of this name.
pub fn attach_to_thread(
    daemon: &Daemon,
    thread: &str,
    calls: &str,
    inject: Option<&str>,
    files: &[&str],
) -> Attached {
    let threads = format!("/proc/{}/task", daemon.pid().as_raw_nonzero());
    let is_wanted = |directory: &std::fs::DirEntry| {
        let name = std::fs::read_to_string(directory.path().join("comm"));
        name.is_ok_and(|name| name.trim_end() == thread)
    };
    let mut threads = std::fs::read_dir(threads).expect("it runs").filter_map(Result::ok);
    let found = threads.find(is_wanted).unwrap_or_else(|| panic!("no thread is named {thread}"));
    let id = found.file_name().into_string().expect("it is a number");
    attach_to(daemon, &["-p", &id], calls, inject, files)
}

fn attach_to(
    daemon: &Daemon,
    whom: &[&str],
    calls: &str,
    inject: Option<&str>,
    files: &[&str],
) -> Attached {
    check_strace();
    let mut strace = Command::new(STRACE);
    strace.current_dir(daemon.directory.path());
    strace.args(whom).args(["-s", "8", "-o", "trace.log", "-e", calls]);
    strace.args(inject.iter().flat_map(|inject| ["-e", inject]));
    for file in files {
        strace.arg("-P").arg(daemon.path(file));
    }
    let mut attached = Attached(strace.stderr(Stdio::piped()).spawn().expect("it starts"));
    let mut told = String::new();
    // The rest of what it says has room in the pipe.
    let mut stderr = BufReader::new(attached.0.stderr.as_mut().expect("it is piped"));
    stderr.read_line(&mut told).expect("it says that it has attached");
    assert!(told.contains("attached"), "{told}");
    attached
}
