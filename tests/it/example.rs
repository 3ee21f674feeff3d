//! The worker of `examples/` takes, keeps, finishes and gives back jobs.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::fixture::Daemon;

/// The example, which does not outlive its test.
struct Worker(Child);

impl Worker {
    fn start(daemon: &Daemon) -> Self {
        let built = Path::new(env!("CARGO_BIN_EXE_tallyd")).with_file_name("examples");
        let mut command = Command::new(built.join("worker"));
        command.arg("work").env("TALLYD_SERVER", daemon.url("")).stdin(Stdio::null());
        Self(command.spawn().expect("examples are built with the tests"))
    }

    fn stop(&mut self) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        drop((self.0.kill(), self.0.wait()));
    }
}

async fn create(daemon: &Daemon, kind: &str, payload: serde_json::Value) -> String {
    let job = json!({"queue": "work", "kind": kind, "payload": payload});
    daemon.post("/v1/jobs", job).await.1["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_rust_worker_finishes_what_it_can_and_gives_back_the_rest() {
    let daemon = Daemon::start("");
    let mut worker = Worker::start(&daemon);
    let done = create(&daemon, "welcome", json!("ada")).await;
    let done = daemon.job_when(&done, |job| job["state"] == "completed").await;
    assert_eq!(done["result"], "welcome, ada");
    let failed = create(&daemon, "fly", json!(null)).await;
    let failed = daemon.job_when(&failed, |job| job["state"] == "retrying").await;
    assert_eq!(failed["last_error"]["message"], "nothing is known of the kind \"fly\"");

    let long = create(&daemon, "wait", json!(3_600_000)).await;
    let begun = daemon.job_when(&long, |job| job["state"] == "running").await;
    assert!(begun["worker"].as_str().unwrap().starts_with("rust-"), "{begun}");
    let renewed = |job: &serde_json::Value| job["expires_at"] != begun["expires_at"];
    assert_eq!(daemon.job_when(&long, renewed).await["state"], "running");

    worker.stop();
    // One of its own waits may have got the job once more before it was given up.
    let given_back = daemon.job_when(&long, |job| job["state"] == "ready").await;
    assert_eq!((&given_back["failures"], &given_back["last_error"]), (&json!(0), &json!(null)));
    assert!(daemon.scrape().await.broken_identities().is_empty());
}

#[tokio::test]
async fn the_rust_worker_drops_a_job_that_is_cancelled() {
    let daemon = Daemon::start("");
    let mut worker = Worker::start(&daemon);
    // As many as it runs at once: the next can only start when one is dropped.
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(create(&daemon, "wait", json!(3_600_000)).await);
    }
    for id in &held {
        daemon.job_when(id, |job| job["state"] == "running").await;
    }
    let next = create(&daemon, "welcome", json!("ada")).await;
    daemon.post(&format!("/v1/jobs/{}/cancel", held[0]), json!({})).await;
    daemon.job_when(&next, |job| job["state"] == "completed").await;
    worker.stop();
}
