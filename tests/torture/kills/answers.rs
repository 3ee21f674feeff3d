//! A kill between the last sync of a change and its answer: the change is there, and once, and who
//! asks again is answered as the design says.

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::SYNCS;
use crate::fixture::{Daemon, PATIENCE, Scrape, ended_by};
use crate::restart::restart;
use crate::stored::Stored;
use crate::strace::attach;

/// The calls by which an answer leaves; what the daemon logs and wakes itself by leaves by others.
const ANSWERS: &str = "sendto,writev,sendmsg";

/// Leases that run out, and such that outlast the test.
const CONFIG: &str = r#"
[defaults]
backoff = { initial = "1h" }

[queues.q]
lease = "10m"

[queues.brief]
lease = "1s"
"#;

/// Whether the last that a trace tells is a sync that went well and an answer after it.
fn ends_between(trace: &str) -> bool {
    let is_sync = |line: &str| line.contains("sync") && line.ends_with("= 0");
    let is_answer = |line: &str| ANSWERS.split(',').any(|call| line.contains(&format!(" {call}(")));
    // Behind it are the ends of the threads.
    let mut calls = trace.lines().rev().filter(|line| line.contains("sync") || is_answer(line));
    calls.next().is_some_and(is_answer) && calls.next().is_some_and(is_sync)
}

/// A daemon that is killed when it is about to answer.
struct Mute {
    daemon: Daemon,
}

impl Mute {
    fn start() -> Self {
        Self { daemon: Daemon::start(CONFIG) }
    }

    /// Asks for a change that is synced and never answered; then the daemon serves again.
    async fn ask_in_vain(&mut self, path: &str, body: &Value) {
        let inject = format!("inject={ANSWERS}:signal=KILL:when=1");
        let strace = attach(&self.daemon, &format!("trace={ANSWERS},{SYNCS}"), Some(&inject), &[]);
        let request = self.daemon.client.post(self.daemon.url(path)).json(body).timeout(PATIENCE);
        let error = request.send().await.expect_err("nobody answers");
        assert!(!error.is_timeout(), "{error:?}");
        assert!(ended_by(self.daemon.wait(), Signal::KILL));
        strace.wait();
        let trace = std::fs::read_to_string(self.daemon.path("trace.log")).expect("it was traced");
        assert!(ends_between(&trace), "{path}, killed elsewhere:\n{trace}");
        restart(&mut self.daemon);
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.daemon.post(path, body.clone()).await
    }

    /// Creates so many jobs and leases them.
    async fn lease(&self, queue: &str, number: usize) -> Vec<Value> {
        let jobs = json!(vec![json!({"queue": queue, "kind": "k"}); number]);
        assert_eq!(self.post("/v1/jobs/batch", &jobs).await.0, StatusCode::CREATED);
        let (status, leased) =
            self.post("/v1/leases", &json!({"queues": [queue], "max": number})).await;
        assert_eq!(status, StatusCode::OK, "{leased}");
        leased["jobs"].as_array().unwrap().clone()
    }

    async fn state(&self, job: &Value) -> String {
        let id = job["id"].as_str().unwrap();
        let (status, job) = self.daemon.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!(status, StatusCode::OK, "{job}");
        job["state"].as_str().unwrap().to_owned()
    }

    /// Checks the counts, and that so many jobs are stored.
    async fn check(mut self, jobs: usize, counts: &[(&str, f64)]) {
        let scrape: Scrape = self.daemon.scrape().await;
        assert_eq!(scrape.broken_identities(), Vec::<String>::new());
        for (sample, number) in counts {
            assert_eq!(scrape.value(&format!("tallyd_{sample}")), *number, "{sample}");
        }
        assert_eq!(self.daemon.stop().code(), Some(0));
        let stored = Stored::read(&self.daemon.path("tallyd.db"));
        assert_eq!((stored.jobs.len(), stored.integrity.len()), (jobs, 0), "{stored:?}");
        assert_eq!(stored.wrong_counts(), Vec::<String>::new());
    }
}

/// F19: with a key a create can be repeated, alone and in a batch; without one it has happened.
#[tokio::test]
async fn a_create_that_was_synced_and_never_answered_is_there_once() {
    let mut mute = Mute::start();
    let job = |key: &str| json!({"queue": "q", "kind": "k", "unique_key": key});
    mute.ask_in_vain("/v1/jobs", &job("one")).await;
    let (status, again) = mute.post("/v1/jobs", &job("one")).await;
    assert_eq!((status, &again["duplicate"]), (StatusCode::OK, &json!(true)), "{again}");

    let batch = json!([job("two"), job("three"), job("one")]);
    mute.ask_in_vain("/v1/jobs/batch", &batch).await;
    let (status, again) = mute.post("/v1/jobs/batch", &batch).await;
    assert!(status.is_success(), "{status}: {again}");
    assert_eq!(again["duplicates"], json!([0, 1, 2]), "{again}");

    mute.ask_in_vain("/v1/jobs", &json!({"queue": "q", "kind": "k"})).await;
    let counts = [
        (r#"jobs_created_total{queue="q",kind="k"}"#, 4.0),
        (r#"duplicates_total{queue="q"}"#, 5.0),
    ];
    mute.check(4, &counts).await;
}

/// F12: the attempt has begun, and is seen to end with its lease; the next one has the next number.
#[tokio::test]
async fn a_claim_that_was_synced_and_never_answered_is_an_attempt_that_expires() {
    let mut mute = Mute::start();
    let create = json!({"queue": "brief", "kind": "k"});
    assert_eq!(mute.post("/v1/jobs", &create).await.0, StatusCode::CREATED);
    let claim = json!({"queues": ["brief"], "wait": "60s"});
    mute.ask_in_vain("/v1/leases", &claim).await;
    let (status, leased) = mute.post("/v1/leases", &claim).await;
    assert_eq!(status, StatusCode::OK, "{leased}");
    let job = &leased["jobs"][0];
    assert_eq!((&job["attempt"], &job["failures"]), (&json!(2), &json!(1)), "{leased}");
    let end = json!([{"lease": job["lease"], "outcome": "completed"}]);
    mute.post("/v1/leases/finish", &end).await;
    let counts = [
        (r#"attempts_started_total{queue="brief",kind="k"}"#, 2.0),
        (r#"attempts_ended_total{queue="brief",kind="k",result="lease_expired"}"#, 1.0),
    ];
    mute.check(1, &counts).await;
}

/// F6: who repeats it is told what the first answer said, and nothing is counted again.
#[tokio::test]
async fn a_finish_that_was_synced_and_never_answered_can_be_repeated_and_counts_once() {
    let mut mute = Mute::start();
    let jobs = mute.lease("q", 4).await;
    let ends = [
        json!({"outcome": "completed", "result": 1}),
        json!({"outcome": "failed", "error": "no"}),
        json!({"outcome": "failed", "error": "never", "permanent": true}),
        json!({"outcome": "released", "retry_in": "1h"}),
    ];
    let with_lease = |(job, end): (&Value, &Value)| {
        let mut end = end.clone();
        end["lease"] = job["lease"].clone();
        end
    };
    let ends: Value = jobs.iter().zip(&ends).map(with_lease).collect();
    mute.ask_in_vain("/v1/leases/finish", &ends).await;
    let mut states = Vec::new();
    for job in &jobs {
        states.push(mute.state(job).await);
    }
    assert_eq!(states, ["completed", "retrying", "dead", "scheduled"]);
    let (status, again) = mute.post("/v1/leases/finish", &ends).await;
    assert_eq!((status, again), (StatusCode::OK, json!({"results": ["ok", "ok", "ok", "ok"]})));
    let other = json!([{"lease": jobs[0]["lease"], "outcome": "released"}]);
    let (status, other) = mute.post("/v1/leases/finish", &other).await;
    assert_eq!((status, other), (StatusCode::OK, json!({"results": ["lease_lost"]})));
    let ended =
        |result: &str| format!(r#"attempts_ended_total{{queue="q",kind="k",result="{result}"}}"#);
    let counts = [
        (&*ended("completed"), 1.0),
        (&ended("failed"), 2.0),
        (&ended("released"), 1.0),
        (r#"leases_lost_total{queue="q"}"#, 1.0),
    ];
    mute.check(4, &counts).await;
}

#[test]
fn a_kill_before_the_sync_or_without_an_answer_is_found() {
    let (sync, sent) = ("1 fdatasync(9) = 0", "2 sendto(12, \"HTTP/1.1\"... <unfinished ...>");
    let end = "2 +++ killed by SIGKILL +++";
    assert!(ends_between(&[sync, sent, end].join("\n")));
    let open = "1 fdatasync(9 <unfinished ...>";
    for other in [vec![sync, end], vec![sent, end], vec![open, sent, end], vec![sync, sent, open]] {
        assert!(!ends_between(&other.join("\n")), "{other:?}");
    }
}
