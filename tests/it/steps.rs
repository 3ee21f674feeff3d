//! What the log tells of a job: a line for each step, a warning for each failure, never its payload.

use serde_json::{Value, json};

use crate::fixture::Daemon;

const CONFIG: &str = r#"
[defaults]
backoff = { initial = "0s" }

[queues.work]
exec = { command = ["/bin/false"] }
max_attempts = 1
"#;

/// Event, level, attempt and outcome of the next lines about a job, until one is this event.
fn told(daemon: &mut Daemon, id: &str, until: &str) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let line = daemon.wait_for_log(|line| line["job_id"] == id);
        let text = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
        told.push(format!(
            "{} {} {} {}",
            line["level"],
            text("event"),
            line["attempt"],
            text("outcome")
        ));
        if line["event"] == until {
            return told;
        }
    }
}

async fn create(daemon: &Daemon, queue: &str) -> String {
    let job = json!({"queue": queue, "kind": "k", "payload": "do-not-tell"});
    daemon.post("/v1/jobs", job).await.1["id"].as_str().expect("created").to_owned()
}

async fn lease(daemon: &Daemon) -> Value {
    let request = json!({"queues": ["outside"], "worker": "host-1", "wait": "30s"});
    daemon.post("/v1/leases", request).await.1["jobs"][0]["lease"].clone()
}

#[tokio::test]
async fn each_step_of_a_job_is_one_line_and_each_failure_a_warning() {
    let mut daemon = Daemon::start(CONFIG);
    let id = create(&daemon, "outside").await;
    for finish in [
        json!({"outcome": "failed", "error": "do-not-tell"}),
        json!({"outcome": "failed", "permanent": true}),
    ] {
        let mut finish = finish;
        finish["lease"] = lease(&daemon).await;
        daemon.post("/v1/leases/finish", json!([finish])).await;
    }
    daemon.post(&format!("/v1/jobs/{id}/requeue"), Value::Null).await;
    let last = json!([{"lease": lease(&daemon).await, "outcome": "completed"}]);
    daemon.post("/v1/leases/finish", last).await;
    let expected = [
        "\"DEBUG\" job_created null -",
        "\"DEBUG\" attempt_started 1 -",
        "\"WARN\" attempt_failed 1 failed",
        "\"DEBUG\" job_promoted 1 -",
        "\"DEBUG\" attempt_started 2 -",
        "\"WARN\" attempt_failed 2 failed",
        "\"DEBUG\" job_requeued 2 -",
        "\"DEBUG\" attempt_started 3 -",
        "\"DEBUG\" attempt_ended 3 completed",
    ];
    assert_eq!(told(&mut daemon, &id, "attempt_ended"), expected);

    let id = create(&daemon, "work").await;
    let expected = [
        "\"DEBUG\" job_created null -",
        "\"DEBUG\" attempt_started 1 -",
        "\"WARN\" attempt_failed 1 failed",
    ];
    assert_eq!(told(&mut daemon, &id, "attempt_failed"), expected, "told once, by its worker");
    daemon.job_when(&id, |job| job["state"] == "dead").await;
    daemon.ask(reqwest::Method::DELETE, &format!("/v1/jobs/{id}"), Value::Null).await;
    assert_eq!(told(&mut daemon, &id, "job_discarded"), ["\"DEBUG\" job_discarded 1 -"]);

    let id = create(&daemon, "outside").await;
    daemon.post(&format!("/v1/jobs/{id}/cancel"), Value::Null).await;
    let cancelled = daemon.wait_for_log(|line| line["event"] == "job_cancelled");
    assert_eq!((&cancelled["job_id"], &cancelled["queue"]), (&json!(id), &json!("outside")));
    assert!(!daemon.log().contains("do-not-tell"), "what a job says is not for the log");
}
