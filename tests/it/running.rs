//! Jobs of exec queues through the real daemon: how many at once, how they end, and what they see.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::fixture::{Daemon, Scrape};
use crate::processes::Line;
use crate::stored::identity_of_store;

/// A configuration with one queue, `work`, whose jobs run a shell script in the daemon's directory.
pub fn queue(settings: &str, script: &str) -> String {
    let exec = format!("exec = {{ command = [\"/bin/sh\", \"-c\", '''{script}'''] }}");
    format!("[queues.work]\n{settings}\n{exec}\n")
}

/// A daemon whose jobs say their process id on `said`, and wait for a line on `go`.
struct Held {
    daemon: Daemon,
    said: Line,
    go: Line,
}

impl Held {
    fn start(settings: &str) -> Self {
        Self::start_in(&std::env::temp_dir(), settings)
    }

    fn start_in(place: &Path, settings: &str) -> Self {
        let config = queue(settings, "echo $$ > said; echo run >> runs; read _ < go");
        let mut daemon = Daemon::prepare_in(place, &config);
        let said = Line::new(daemon.directory.path(), "said");
        let go = Line::new(daemon.directory.path(), "go");
        daemon.restart();
        Self { daemon, said, go }
    }
}

/// Creates a job of the queue `work` and answers with its id.
pub async fn create(daemon: &Daemon) -> String {
    let (status, job) = daemon.post("/v1/jobs", json!({"queue": "work", "kind": "k"})).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    job["id"].as_str().unwrap().to_owned()
}

async fn create_many(daemon: &Daemon, number: usize) {
    let jobs = json!(vec![json!({"queue": "work", "kind": "k"}); number]);
    let (status, answer) = daemon.post("/v1/jobs/batch", jobs).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
}

pub fn in_state(state: &str) -> impl Fn(&Value) -> bool {
    move |job| job["state"] == state
}

/// A sample of the queue's only pair of queue and kind.
pub fn counted(scrape: &Scrape, name: &str, label: &str) -> f64 {
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
    scrape.value(&format!("{name}{{queue=\"work\",kind=\"k\"{label}}}"))
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

/// F13: what comes back at once does not run at once.
#[tokio::test]
async fn no_more_attempts_run_than_the_queue_allows() {
    let Held { daemon, mut said, go } = Held::start("concurrency = 3");
    create_many(&daemon, 8).await;
    let mut heard = vec![said.hear_process().await, said.hear_process().await];
    for ready in (0..=5).rev() {
        heard.push(said.hear_process().await);
        let scrape = daemon.scrape().await;
        assert_eq!(counted(&scrape, "tallyd_jobs", ",state=\"running\""), 3.0);
        assert_eq!(counted(&scrape, "tallyd_jobs", ",state=\"ready\""), f64::from(ready));
        assert_eq!(scrape.value("tallyd_queue_workers_busy{queue=\"work\"}"), 3.0);
        assert_eq!(heard.iter().filter(|process| process.lives()).count(), 3);
        go.say(1);
    }
}

#[tokio::test]
async fn one_claim_takes_as_many_jobs_as_there_are_free_slots() {
    let Held { daemon, mut said, go } = Held::start("concurrency = 8");
    assert_eq!(daemon.post("/v1/queues/work/pause", Value::Null).await.0, StatusCode::OK);
    create_many(&daemon, 9).await;
    let commits = "tallyd_store_commit_duration_seconds_count";
    let before = daemon.scrape().await.value(commits);
    assert_eq!(daemon.post("/v1/queues/work/resume", Value::Null).await.0, StatusCode::OK);
    for _ in 0..8 {
        said.hear().await;
    }
    let scrape = daemon.scrape().await;
    assert_eq!(counted(&scrape, "tallyd_jobs", ",state=\"running\""), 8.0);
    assert_eq!(scrape.value(commits) - before, 1.0, "claimed together, as the queue went on");
    go.say(9);
    said.hear().await;
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_timed_out_and_tried_again() {
    let settings = "timeout = \"100ms\"\nmax_attempts = 2\nbackoff = { initial = \"1ms\" }";
    let daemon = Daemon::start(&queue(settings, "exec sleep 100"));
    let id = create(&daemon).await;
    let job = daemon.job_when(&id, in_state("dead")).await;
    assert_eq!((&job["attempt"], &job["failures"]), (&json!(2), &json!(2)));
    assert_eq!(job["last_error"]["outcome"], "timed_out");
    let message = job["last_error"]["message"].as_str().unwrap();
    assert!(message.starts_with("timed out after 100ms"), "{message}");
    let scrape = daemon.scrape().await;
    let timed_out = ",result=\"timed_out\"";
    assert_eq!(counted(&scrape, "tallyd_attempts_ended_total", timed_out), 2.0);
    assert_eq!(counted(&scrape, "tallyd_jobs_retried_total", ""), 1.0);
    assert_eq!(counted(&scrape, "tallyd_jobs_died_total", ""), 1.0);
}

#[tokio::test]
async fn a_failed_job_waits_its_backoff() {
    let backoff = "backoff = { initial = \"1h\", jitter = 0.0 }";
    let daemon = Daemon::start(&queue(backoff, "echo no route >&2; exit 1"));
    let id = create(&daemon).await;
    let job = daemon.job_when(&id, in_state("retrying")).await;
    assert_eq!(job["last_error"]["message"], "exit status 1: no route");
    let wait = time(&job["run_at"]).duration_since(time(&job["last_error"]["at"]));
    assert_eq!(wait.unsigned_abs(), Duration::from_secs(3600));
}

#[tokio::test]
async fn a_job_that_always_fails_is_dead_after_its_last_try() {
    let settings = "max_attempts = 3\nbackoff = { initial = \"1ms\", max = \"2ms\" }";
    let daemon = Daemon::start(&queue(settings, "echo run >> runs; exit 1"));
    let id = create(&daemon).await;
    let job = daemon.job_when(&id, in_state("dead")).await;
    assert_eq!((&job["attempt"], &job["failures"]), (&json!(3), &json!(3)));
    assert_eq!(job["last_error"]["outcome"], "failed");
    assert_eq!(std::fs::read_to_string(daemon.path("runs")).unwrap(), "run\n".repeat(3));
}

#[tokio::test]
async fn exit_65_is_not_tried_again() {
    let daemon = Daemon::start(&queue("max_attempts = 25", "echo no address >&2; exit 65"));
    let id = create(&daemon).await;
    let job = daemon.job_when(&id, in_state("dead")).await;
    assert_eq!((&job["attempt"], &job["failures"]), (&json!(1), &json!(1)));
    assert_eq!(job["last_error"]["message"], "exit status 65: no address");
}

#[tokio::test]
async fn the_error_of_a_job_is_the_end_of_stderr() {
    let daemon = Daemon::start(&queue("max_attempts = 1", "seq 100000 >&2; exit 1"));
    let id = create(&daemon).await;
    let job = daemon.job_when(&id, in_state("dead")).await;
    let message = job["last_error"]["message"].as_str().unwrap();
    let tail = message.strip_prefix("exit status 1: ").unwrap();
    assert!(tail.ends_with("99999\n100000") && tail.len() == (4 << 10) - 1, "{tail}");
}

#[tokio::test]
async fn a_cancelled_job_loses_its_processes_and_frees_its_slot() {
    let script = "sleep 100 & echo $! > said; echo $$ > said; wait";
    let mut daemon = Daemon::prepare(&queue("concurrency = 1", script));
    let mut said = Line::new(daemon.directory.path(), "said");
    daemon.restart();
    let id = create(&daemon).await;
    let processes = [said.hear_process().await, said.hear_process().await];
    assert!(processes.iter().all(|process| process.lives()));
    let (status, job) = daemon.post(&format!("/v1/jobs/{id}/cancel"), Value::Null).await;
    assert_eq!((status, &job["state"]), (StatusCode::OK, &json!("cancelled")));
    for process in &processes {
        process.ended().await;
    }
    let scrape = daemon.scrape().await;
    assert_eq!(counted(&scrape, "tallyd_attempts_ended_total", ",result=\"cancelled\""), 1.0);
    create(&daemon).await;
    let _next = [said.hear_process().await, said.hear_process().await];
}

#[tokio::test]
async fn an_attempt_longer_than_its_lease_keeps_it_and_runs_once() {
    // In memory: a disk that is busy with other things may take longer to sync than a lease lasts.
    let Held { daemon, mut said, go } = Held::start_in(Path::new("/dev/shm"), "lease = \"10s\"");
    let id = create(&daemon).await;
    let _process = said.hear_process().await;
    let first = daemon.job_when(&id, in_state("running")).await;
    let two_leases = time(&first["claimed_at"]) + Duration::from_secs(20);
    while time(&daemon.job_when(&id, in_state("running")).await["expires_at"]) < two_leases {
        // A request that waits lets time go by and keeps nobody busy.
        daemon.post("/v1/leases", json!({"queues": ["nobody"], "wait": "1s"})).await;
    }
    go.say(1);
    let job = daemon.job_when(&id, |job| job["state"] != "running").await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)));
    assert_eq!(std::fs::read_to_string(daemon.path("runs")).unwrap(), "run\n");
    let scrape = daemon.scrape().await;
    assert_eq!(counted(&scrape, "tallyd_attempts_started_total", ""), 1.0);
}

#[tokio::test]
async fn a_job_sees_its_variables_and_nothing_else_and_its_output_is_a_string() {
    let exec = r#"exec = { command = ["/usr/bin/env"], env = { REPORT = "a b" } }"#;
    let daemon = Daemon::start(&format!("[queues.work]\n{exec}\n"));
    let id = create(&daemon).await;
    let job = daemon.job_when(&id, in_state("completed")).await;
    let mut variables: Vec<_> = job["result"].as_str().unwrap().lines().collect();
    variables.sort_unstable();
    let expected = [
        "REPORT=a b",
        "TALLYD_ATTEMPT=1",
        "TALLYD_FAILURES=0",
        &format!("TALLYD_JOB_ID={id}"),
        "TALLYD_KIND=k",
        "TALLYD_QUEUE=work",
    ];
    let (marks, others): (Vec<_>, Vec<_>) =
        variables.into_iter().partition(|variable| variable.starts_with("TALLYD_STORE="));
    assert_eq!(others, expected);
    let store = identity_of_store(&daemon.path("tallyd.db"));
    assert!(
        marks.len() == 1 && marks[0].starts_with(&format!("TALLYD_STORE={store}@")),
        "{marks:?}"
    );
}
