//! Unique keys: the same create again, from anywhere, creates nothing.

use std::collections::HashSet;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::call::{JSON, NDJSON, call, send};
use crate::fixture::Daemon;

fn job(key: &str) -> Value {
    json!({"kind": "k", "unique_key": key, "payload": 1})
}

async fn duplicates(daemon: &Daemon) -> f64 {
    daemon.scrape().await.value(r#"tallyd_duplicates_total{queue="default"}"#)
}

#[tokio::test]
async fn a_create_again_answers_200_with_the_first_job_as_it_is() {
    let daemon = Daemon::start("");
    let first = send(&daemon, "POST", "/v1/jobs", job("u")).await;
    assert_eq!((first.status, &first.json["duplicate"]), (201, &json!(false)));
    let (_, leased) = daemon.post("/v1/leases", json!({"queues": ["default"]})).await;
    let changed = json!({"kind": "other", "unique_key": "u", "payload": 2, "delay": "1h"});
    let again = send(&daemon, "POST", "/v1/jobs", changed).await;
    assert_eq!((again.status, again.header("location")), (200, None));
    assert_eq!((&again.json["duplicate"], &again.json["state"]), (&json!(true), &json!("running")));
    for field in ["id", "kind", "payload", "created_at"] {
        assert_eq!(again.json[field], first.json[field], "{field}");
    }
    let finish = json!([{"lease": leased["jobs"][0]["lease"], "outcome": "completed"}]);
    daemon.post("/v1/leases/finish", finish).await;
    let again = send(&daemon, "POST", "/v1/jobs", job("u")).await;
    assert_eq!((again.status, &again.json["state"]), (200, &json!("completed")), "not gone yet");
    let elsewhere = json!({"kind": "k", "unique_key": "u", "queue": "other"});
    assert_eq!(send(&daemon, "POST", "/v1/jobs", elsewhere).await.status, 201, "another queue");
    assert_eq!(duplicates(&daemon).await, 2.0);
    assert_eq!(daemon.get("/v1/stats").await.1["jobs_created"], 2);
}

#[tokio::test]
async fn a_key_held_until_done_is_free_when_the_job_has_ended() {
    let daemon = Daemon::start("");
    let mut until_done = job("u");
    until_done["unique_until"] = json!("done");
    let first = send(&daemon, "POST", "/v1/jobs", until_done.clone()).await;
    assert_eq!(send(&daemon, "POST", "/v1/jobs", until_done.clone()).await.status, 200);
    send(&daemon, "POST", &format!("{}/cancel", first.location()), Value::Null).await;
    let second = send(&daemon, "POST", "/v1/jobs", until_done).await;
    assert_eq!(second.status, 201);
    assert_ne!(second.json["id"], first.json["id"]);
}

#[tokio::test]
async fn fifty_creates_at_once_with_one_key_create_one_job() {
    let daemon = Daemon::start("");
    for round in 0..4 {
        let job = job(&format!("round {round}"));
        let create = || daemon.client.post(daemon.url("/v1/jobs")).json(&job).send();
        let creates: Vec<_> = (0..50).map(|_| tokio::spawn(create())).collect();
        let (mut created, mut ids) = (0, HashSet::new());
        for create in creates {
            let answer = create.await.unwrap().expect("it answers");
            let is_new = answer.status() == StatusCode::CREATED;
            let job: Value = answer.json().await.expect("a job");
            assert_eq!(job["duplicate"], !is_new, "{job}");
            created += u32::from(is_new);
            ids.insert(job["id"].as_str().unwrap().to_owned());
        }
        assert_eq!((created, ids.len()), (1, 1));
    }
    let (_, stats) = daemon.get("/v1/stats").await;
    assert_eq!((&stats["jobs_created"], &stats["duplicates"]), (&json!(4), &json!(196)));
    assert_eq!(duplicates(&daemon).await, 196.0);
}

#[tokio::test]
async fn a_key_counts_inside_one_batch_too() {
    let daemon = Daemon::start("");
    let jobs = [job("a"), json!({"kind": "k"}), job("a"), job("b"), job("a")];
    let array = Value::from(jobs.to_vec()).to_string();
    let lines = jobs.map(|job| job.to_string()).join("\n");
    let mut ids = Vec::new();
    for (media, body, duplicates) in
        [(JSON, array, json!([2, 4])), (NDJSON, lines, json!([0, 2, 3, 4]))]
    {
        let headers = [("content-type", media)];
        let answer = call(&daemon, "POST", "/v1/jobs/batch", &headers, body).await;
        assert_eq!((answer.status, &answer.json["duplicates"]), (201, &duplicates));
        let told = answer.json["ids"].clone();
        assert_eq!((&told[0], &told[0]), (&told[2], &told[4]));
        ids.push(told);
    }
    assert_eq!((&ids[0][0], &ids[0][3]), (&ids[1][0], &ids[1][3]));
    assert_ne!(ids[0][1], ids[1][1], "a job without a key is new each time");
    let (_, stats) = daemon.get("/v1/stats").await;
    assert_eq!((&stats["jobs_created"], &stats["duplicates"]), (&json!(4), &json!(6)));
    assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
}

#[tokio::test]
async fn a_key_outlives_a_crash() {
    let mut daemon = Daemon::start("");
    let first = send(&daemon, "POST", "/v1/jobs", job("u")).await;
    daemon.kill();
    daemon.restart();
    let again = send(&daemon, "POST", "/v1/jobs", job("u")).await;
    assert_eq!((again.status, &again.json["id"]), (200, &first.json["id"]));
}
