//! What callers are told when somebody has changed the file behind the server's back.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::call::{call, send};
use crate::fixture::Daemon;
use crate::refusals::bare;

/// Changes the file while the daemon serves it.
fn tamper(daemon: &Daemon, sql: &str) {
    let file = Connection::open(daemon.path("tallyd.db")).expect("it can be opened");
    file.execute_batch(sql).expect("the statements are valid");
}

async fn create(daemon: &Daemon) -> String {
    let (status, job) = daemon.post("/v1/jobs", json!({"kind": "k"})).await;
    assert_eq!(status, 201, "{job}");
    format!("/v1/jobs/{}", job["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_damaged_job_is_refused_and_others_are_served() {
    let daemon = Daemon::start("");
    let damaged = create(&daemon).await;
    tamper(&daemon, "UPDATE jobs SET ledger = 999");
    let good = create(&daemon).await;
    bare("POST", format!("{damaged}/cancel"), "job_damaged").must_be_refused(&daemon).await;
    assert_eq!(daemon.get(&damaged).await.1["state"], "ready", "nothing has changed it");

    tamper(&daemon, "UPDATE jobs SET attempt = -1 WHERE ledger = 999");
    bare("GET", damaged, "job_damaged").must_be_refused(&daemon).await;
    assert_eq!(daemon.get(&good).await.1["state"], "ready");
    let cancelled = send(&daemon, "POST", &format!("{good}/cancel"), Value::Null).await;
    assert_eq!(cancelled.json["state"], "cancelled");
    assert_eq!(call(&daemon, "GET", "/-/healthy", &[], "").await.status, 200);
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_said_to_be_so() {
    let mut daemon = Daemon::start("");
    let job = create(&daemon).await;
    tamper(&daemon, "ALTER TABLE payloads RENAME TO elsewhere");
    bare("GET", &job, "store_unreadable").must_be_refused(&daemon).await;
    tamper(&daemon, "ALTER TABLE elsewhere RENAME TO payloads");
    assert_eq!(daemon.get(&job).await.1["state"], "ready");
    assert!(daemon.stop().success());
}

/// Looks like the payloads, and takes for ever to read.
const ENDLESS: &str = "ALTER TABLE payloads RENAME TO elsewhere;
    CREATE VIEW payloads AS
        WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers)
        SELECT count(*) AS id, x'00' AS body FROM numbers;";

#[tokio::test]
async fn a_read_that_takes_too_long_is_ended_and_said_to_be_so() {
    let mut daemon = Daemon::start("");
    let job = create(&daemon).await;
    tamper(&daemon, ENDLESS);
    let before = daemon.scrape().await;
    bare("GET", &job, "too_slow").must_be_refused(&daemon).await;
    let counted = r#"tallyd_rejected_total{reason="timeout"}"#;
    assert_eq!(daemon.scrape().await.value(counted), before.value(counted) + 1.0);
    tamper(&daemon, "DROP VIEW payloads; ALTER TABLE elsewhere RENAME TO payloads");
    assert_eq!(daemon.get(&job).await.1["state"], "ready");
    assert!(daemon.stop().success());
}
