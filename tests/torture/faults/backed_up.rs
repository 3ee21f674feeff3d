//! A backup is synced, and so is its name, before anybody is told of it, as the kernel saw it. It is
//! written outside of SQLite, where the simulated power cuts see nothing of it.

use std::collections::BTreeMap;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::create;
use crate::fixture::Daemon;
use crate::stored::Stored;
use crate::strace::trace;

const CALLS: &str =
    "trace=openat,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,write,writev,sendto";

/// How the names of a backup end until it is complete, and of the directory.
const PARTIAL: &str = ".partial";
const DIRECTORY: &str = "backups";

/// What happens to a backup, in the order in which it has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Written,
    Synced,
    Named,
    NameSynced,
    Told,
}

/// The calls of a trace in the order in which they ended, each without its thread.
fn calls(trace: &str) -> Vec<String> {
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    let mut calls = Vec::new();
    for (thread, call) in trace.lines().filter_map(|line| line.split_once(' ')) {
        let call = call.trim_start();
        if let Some(first) = call.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, first);
        } else if let Some((_, rest)) = call.split_once(" resumed>") {
            calls.push(format!("{}{rest}", begun.remove(thread).unwrap_or_default()));
        } else {
            calls.push(call.to_owned());
        }
    }
    calls
}

/// What a trace shows of the only backup in it.
fn steps(trace: &str) -> Vec<Step> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut steps = Vec::new();
    for call in calls(trace) {
        let Some((name, arguments)) = call.split_once('(') else { continue };
        if name == "openat" {
            let path = arguments.split('"').nth(1).unwrap_or_default();
            let number = call.rsplit("= ").next().unwrap_or_default();
            files.insert(number.to_owned(), path.to_owned());
            continue;
        }
        let file = arguments.split([',', ')']).next().and_then(|number| files.get(number));
        let is_of = |end: &str| file.is_some_and(|file| file.ends_with(end));
        let is_done = call.ends_with("= 0");
        let step = match name {
            "pwrite64" | "ftruncate" if is_of(PARTIAL) => Step::Written,
            "fsync" if is_of(PARTIAL) && is_done => Step::Synced,
            "fsync" if is_of(DIRECTORY) && is_done => Step::NameSynced,
            "rename" | "renameat" | "renameat2" if call.contains(PARTIAL) && is_done => Step::Named,
            _ if call.contains("HTTP/1.1 200") => Step::Told,
            _ => continue,
        };
        steps.push(step);
    }
    steps
}

/// Whether a backup, once it is complete, does nothing but end in order.
fn ends_in_order(steps: &[Step]) -> bool {
    let end = [Step::Written, Step::Synced, Step::Named, Step::NameSynced, Step::Told];
    let is_once =
        |step: &Step| *step <= Step::Synced || steps.iter().filter(|s| *s == step).count() == 1;
    steps.ends_with(&end) && end.iter().all(is_once)
}

/// P1: a backup that was told of is there after a power cut, and whole.
#[tokio::test]
async fn a_backup_is_told_of_after_it_and_its_name_are_synced() {
    let mut daemon = Daemon::prepare("backup_dir = \"backups\"\n");
    std::fs::create_dir(daemon.path(DIRECTORY)).unwrap();
    trace(&mut daemon, CALLS, &[], None);
    daemon.restart();
    let payload = Value::from("x".repeat(100_000));
    for _ in 0..20 {
        assert_eq!(create(&daemon, &payload).await.0, StatusCode::CREATED);
    }
    // Others write meanwhile.
    let creates = async {
        for _ in 0..20 {
            assert_eq!(create(&daemon, &payload).await.0, StatusCode::CREATED);
        }
    };
    let ((status, backup), ()) = tokio::join!(daemon.post("/v1/backup", json!({})), creates);
    assert_eq!(status, StatusCode::OK, "{backup}");
    assert_eq!(daemon.stop().code(), Some(0));
    let steps = steps(&std::fs::read_to_string(daemon.path("trace.log")).unwrap());
    assert!(ends_in_order(&steps), "{steps:?}");
    let stored = Stored::read(backup["file"].as_str().unwrap().as_ref());
    assert!(stored.jobs.len() >= 20);
    assert_eq!(stored.integrity, Vec::<String>::new());
}

#[test]
fn a_backup_told_of_too_early_is_found() {
    let open = "7 openat(AT_FDCWD, \"/d/backups/a.db.partial\", O_RDWR) = 12";
    let write = "7 pwrite64(12, \"x\"..., 4096, 0) = 4096";
    let begun = "7 fsync(12 <unfinished ...>";
    let other = "8 pwrite64(5, \"y\"..., 4096, 0) = 4096";
    let sync = "7 <... fsync resumed>) = 0";
    let name =
        "7 renameat2(AT_FDCWD, \"/d/backups/a.db.partial\", AT_FDCWD, \"/d/backups/a.db\", 0) = 0";
    let directory = "7 openat(AT_FDCWD, \"/d/backups\", O_RDONLY) = 13";
    let named = "7 fsync(13) = 0";
    let told = "9 writev(20, [{\"HTTP/1.1 200 OK\"}]) = 20";
    let is_right = |lines: &[&str]| ends_in_order(&steps(&lines.join("\n")));
    assert!(is_right(&[open, write, begun, other, sync, name, directory, named, told]));
    assert!(!is_right(&[open, write, name, directory, named, told]), "not synced");
    assert!(!is_right(&[open, begun, sync, write, name, directory, named, told]), "nor to its end");
    assert!(!is_right(&[open, write, begun, sync, name, directory, told]), "nor its name");
    assert!(!is_right(&[open, write, begun, sync, name, told, directory, named]), "told before");
}
