//! The way a job takes, from a create over HTTP to its end, through the real binary.

use reqwest::StatusCode;
use serde_json::json;

use crate::fixture::Daemon;

const CHECKSUMS: &str = r#"
[queues.checksums]
concurrency = 2
exec = { command = ["/usr/bin/sha256sum"] }
"#;

#[tokio::test]
async fn a_job_of_an_exec_queue_runs_and_leaves_its_result() {
    let daemon = Daemon::start(CHECKSUMS);
    let body = json!({"queue": "checksums", "kind": "sum", "payload": "hello"});
    let (status, job) = daemon.post("/v1/jobs", body).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    let id = job["id"].as_str().unwrap();
    let done = daemon.job_when(id, |job| job["state"] == "completed").await;
    let sum = "5aa762ae383fbb727af3c7a36d4940a5b8c40a989452d2304fc958ff3f354e7a  -\n";
    assert_eq!(done["result"], sum, "the SHA-256 of \"hello\" with its quotes");
    assert_eq!(done["attempt"], 1);
    let scrape = daemon.scrape().await;
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
    let pair = r#"{queue="checksums",kind="sum"}"#;
    assert_eq!(scrape.value(&format!("tallyd_jobs_completed_total{pair}")), 1.0);
}

#[tokio::test]
async fn a_job_is_leased_and_finished_over_http() {
    let daemon = Daemon::start("");
    let (_, job) = daemon.post("/v1/jobs", json!({"kind": "k", "payload": {"a": [1, 2]}})).await;
    let (status, leased) = daemon.post("/v1/leases", json!({"queues": ["default"]})).await;
    assert_eq!(status, StatusCode::OK, "{leased}");
    let leased = &leased["jobs"][0];
    assert_eq!(leased["id"], job["id"]);
    assert_eq!(leased["payload"], json!({"a": [1, 2]}));
    let finish = json!([{"lease": leased["lease"], "outcome": "completed", "result": [7]}]);
    let (status, answer) = daemon.post("/v1/leases/finish", finish).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"results": ["ok"]})));
    let (_, done) = daemon.get(&format!("/v1/jobs/{}", job["id"].as_str().unwrap())).await;
    assert_eq!((&done["state"], &done["result"]), (&json!("completed"), &json!([7])));
}
