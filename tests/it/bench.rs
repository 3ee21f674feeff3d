//! The benchmark: measures a real server, prints figures that hold together, leaves nothing behind.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

fn bench(place: &TempDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyd"));
    command.arg("bench").args(arguments).arg("--dir").arg(place.path());
    command.output().expect("the benchmark can be run")
}

fn report(place: &TempDir, arguments: &[&str]) -> Value {
    let output = bench(place, &[arguments, &["--json", "--seconds", "1"]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).expect("its report is JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} must be a number"))
}

fn is_empty(place: &TempDir) -> bool {
    let mut left = place.path().read_dir().expect("it is still there");
    left.next().is_none()
}

#[test]
fn creates_are_measured_in_turns_with_a_server_that_stores_nothing() {
    let place = tempfile::tempdir().expect("a directory");
    let report = report(&place, &["create", "--turns", "2", "--connections", "4"]);
    let turns = report["turns"].as_array().expect("a list");
    assert_eq!(turns.len(), 2);
    for turn in turns {
        let (durable, storeless) = (&turn["durable"], &turn["storeless"]);
        let ratio = number(&durable["jobs_per_second"]) / number(&storeless["jobs_per_second"]);
        assert!((number(&turn["ratio"]) - ratio).abs() < 1e-9, "{turn}");
        assert!(number(&durable["p50_ms"]) <= number(&durable["p99_ms"]), "{turn}");
        assert!(number(&durable["p99_ms"]) <= number(&durable["max_ms"]), "{turn}");
    }
    assert!(number(&report["server"]["memory_bytes"]) > 1e6, "{report}");
    assert!(number(&report["server"]["store_bytes"]) > 0.0, "{report}");
    assert!(is_empty(&place));
}

#[test]
fn whole_lives_are_measured_behind_stored_jobs() {
    let place = tempfile::tempdir().expect("a directory");
    let arguments = ["lifecycle", "--connections", "2", "--batch", "10", "--stored", "20010"];
    let report = report(&place, &arguments);
    assert_eq!(report["stored"], 20_010);
    assert!(number(&report["jobs_per_second"]) >= 10.0, "{report}");
    for sort in ["create", "lease", "finish"] {
        assert!(number(&report[sort]["p99_ms"]) > 0.0, "{report}");
    }
    // Every job has some 200 bytes of payload, and none is pruned within a second.
    let held = &report["server"];
    let bytes = number(&held["store_bytes"]) + number(&held["wal_bytes"]);
    assert!(bytes > 20_010.0 * 200.0, "{report}");
    assert!(is_empty(&place));
}

#[test]
fn large_payloads_are_stored_in_advance_as_well() {
    let place = tempfile::tempdir().expect("a directory");
    let flags = ["--batch", "2", "--turns", "1", "--payload", "100000", "--stored", "200"];
    let report = report(&place, &[&["create"], &flags[..]].concat());
    assert_eq!(report["stored"], 200);
}

#[test]
fn people_get_a_table() {
    let place = tempfile::tempdir().expect("a directory");
    let arguments = ["create", "--batch", "50", "--turns", "1", "--connections", "2"];
    let output = bench(&place, &[&arguments[..], &["--seconds", "1"]].concat());
    let text = String::from_utf8(output.stdout).expect("text");
    for part in ["create: 2 connections, 50 jobs in a request", "median: ", "server: ready after"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(output.stderr.is_empty(), "no progress is shown where nobody looks");
}

#[test]
fn a_server_that_does_not_start_is_told_of() {
    let place = tempfile::tempdir().expect("a directory");
    let output = bench(&place, &["create", "--under", "/bin/false"]);
    let errors = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.starts_with("the server under test has ended"), "{errors}");
    let missing = place.path().join("missing");
    let missing = missing.to_str().expect("text");
    let output = Command::new(env!("CARGO_BIN_EXE_tallyd"))
        .args(["bench", "lifecycle", "--dir", missing])
        .output()
        .expect("the benchmark can be run");
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(errors.contains("--dir") && errors.contains(missing), "{errors}");
    assert!(is_empty(&place));
}

#[test]
fn pushes_are_measured_at_once_and_one_at_a_time() {
    let place = tempfile::tempdir().expect("a directory");
    let output = bench(&place, &["push", "--jobs", "300", "--singles", "5", "--json"]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("its report is JSON");
    assert!(number(&report["jobs_per_second"]) > 0.0, "{report}");
    let single = &report["create_to_start"];
    assert!(number(&single["p50_ms"]) > 0.0, "{report}");
    assert!(number(&single["p50_ms"]) <= number(&single["max_ms"]), "{report}");
    assert!(is_empty(&place));
}

#[tokio::test]
async fn an_interrupt_leaves_nothing_behind() {
    let place = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyd"));
    command.args(["bench", "lifecycle", "--seconds", "600", "--dir"]).arg(place.path());
    let child = command.stderr(Stdio::piped()).spawn().expect("the benchmark can be run");
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    while is_empty(&place) {
        looks.tick().await;
    }
    let pid = Pid::from_raw(child.id().cast_signed()).expect("it runs");
    kill_process(pid, Signal::INT).expect("it is there");
    let output = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("interrupted"), "{errors}");
    assert!(is_empty(&place));
}
