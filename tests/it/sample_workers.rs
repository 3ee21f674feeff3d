//! The workers of `deploy/workers/`, each run as it is shipped against a real daemon.

mod relay;

use std::process::Stdio;

use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::fixture::{Daemon, PATIENCE, Scrape};
use crate::receiver::read;
use crate::tools::python_alone;
use relay::Relay;

/// One queue for outside workers, whose jobs are retried at once.
const CONFIG: &str = "[queues.q]\nkinds = [\"k\"]\nbackoff = { initial = \"0s\", jitter = 0.0 }\n";

/// Longer than any test: work that ends only if it is stopped.
const FOR_EVER: u32 = 86_400;

/// A program of `deploy/workers/`.
#[derive(Debug, Clone, Copy)]
enum Sample {
    Python,
    Node,
}

const SAMPLES: [Sample; 2] = [Sample::Python, Sample::Node];

/// A running worker, which does not outlive its test.
struct Worker {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Sample {
    /// Starts it for the jobs of `q`.
    fn start(self, server: &str, flags: &[&str]) -> Worker {
        println!("{self:?} {flags:?}"); // which of them a failure is about
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/workers/");
        let mut command = match self {
            Self::Python => Command::from(python_alone()),
            Self::Node => Command::new("node"),
        };
        match self {
            Self::Python => command.arg("-B").arg(format!("{directory}worker.py")),
            Self::Node => command.arg(format!("{directory}worker.mjs")),
        };
        command.args(flags).arg("q").env("TALLYD_SERVER", server).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Worker { child, lines }
    }
}

impl Worker {
    /// Waits until it says something with this in it.
    async fn says(&mut self, wanted: &str) {
        let said = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                println!("  {line}");
                if line.contains(wanted) {
                    return;
                }
            }
            panic!("it has ended and never said {wanted:?}");
        };
        timeout(PATIENCE, said).await.unwrap_or_else(|_| panic!("it does not say {wanted:?}"));
    }

    fn terminate(&self) {
        let pid = self.child.id().expect("it runs").cast_signed();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    }

    /// Its exit code.
    async fn ended(mut self) -> Option<i32> {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends");
        while let Some(line) = self.lines.next_line().await.unwrap() {
            println!("  {line}");
        }
        status.unwrap().code()
    }

    async fn stop(self) {
        self.terminate();
        assert_eq!(self.ended().await, Some(0));
    }
}

async fn create(daemon: &Daemon, payload: Value) -> String {
    let job = json!({"queue": "q", "kind": "k", "payload": payload});
    let (status, job) = daemon.post("/v1/jobs", job).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    job["id"].as_str().unwrap().to_owned()
}

async fn completed(daemon: &Daemon, id: &str) -> Value {
    daemon.job_when(id, |job| job["state"] == "completed").await
}

/// Asserts that no lease was lost and no job is running; that many attempts ended so.
async fn assert_ended(daemon: &Daemon, ends: &[(&str, f64)]) {
    let scrape = daemon.scrape().await;
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
    assert_eq!(scrape.value(r#"tallyd_leases_lost_total{queue="q"}"#), 0.0);
    assert_eq!(scrape.value(r#"tallyd_jobs{queue="q",kind="k",state="running"}"#), 0.0);
    let results = ["completed", "failed", "timed_out", "lease_expired", "released", "cancelled"];
    for result in results {
        let wanted = ends.iter().find(|(name, _)| *name == result).map_or(0.0, |(_, count)| *count);
        assert_eq!(ended(&scrape, result), wanted, "{result}");
    }
}

/// How many attempts ended so.
fn ended(scrape: &Scrape, result: &str) -> f64 {
    scrape.value(&format!(
        "tallyd_attempts_ended_total{{queue=\"q\",kind=\"k\",result=\"{result}\"}}"
    ))
}

#[tokio::test]
async fn jobs_complete_with_what_the_work_returned() {
    for sample in SAMPLES {
        let daemon = Daemon::start(CONFIG);
        let worker = sample.start(&daemon.url(""), &[]);
        for payload in [json!({"a": 1}), json!("text"), json!([null, 1.5]), Value::Null] {
            let done = completed(&daemon, &create(&daemon, payload.clone()).await).await;
            assert_eq!(done["result"], json!({"done": payload}));
            let pid = worker.child.id().unwrap();
            assert!(done["worker"].as_str().unwrap().ends_with(&format!("-{pid}")), "{done}");
        }
        worker.stop().await;
        assert_ended(&daemon, &[("completed", 4.0)]).await;
    }
}

#[tokio::test]
async fn a_failing_job_is_retried_with_its_error_unless_that_is_permanent() {
    for sample in SAMPLES {
        let daemon = Daemon::start(CONFIG);
        let worker = sample.start(&daemon.url(""), &[]);
        let done = completed(&daemon, &create(&daemon, json!({"failures": 2})).await).await;
        assert_eq!((&done["attempt"], &done["failures"]), (&json!(3), &json!(2)));
        let error = done["last_error"]["message"].as_str().unwrap();
        assert!(error.contains("this did not work"), "{error}");
        let refused = create(&daemon, json!({"refuse": true})).await;
        let dead = daemon.job_when(&refused, |job| job["state"] == "dead").await;
        let error = dead["last_error"]["message"].as_str().unwrap();
        assert!(dead["attempt"] == 1 && error.contains("this will never work"), "{dead}");
        worker.stop().await;
        assert_ended(&daemon, &[("completed", 1.0), ("failed", 3.0)]).await;
    }
}

#[tokio::test]
async fn a_result_that_tallyd_refuses_fails_the_attempt_with_its_reason() {
    for sample in SAMPLES {
        let daemon = Daemon::start("[queues.q]\nkinds = [\"k\"]\nmax_attempts = 1\n");
        let mut worker = sample.start(&daemon.url(""), &[]);
        let large = create(&daemon, json!("x".repeat(70_000))).await;
        worker.says(&large).await; // or the pipe is full
        let dead = daemon.job_when(&large, |job| job["state"] == "dead").await;
        let error = dead["last_error"]["message"].as_str().unwrap();
        assert!(error.contains("result_too_large"), "{error}");
        worker.stop().await;
        assert_ended(&daemon, &[("failed", 1.0)]).await;
    }
}

#[tokio::test]
async fn a_job_longer_than_its_lease_is_renewed_and_completes_at_its_first_attempt() {
    for sample in SAMPLES {
        let daemon = Daemon::start(CONFIG);
        let worker = sample.start(&daemon.url(""), &["--lease", "3"]);
        let done = completed(&daemon, &create(&daemon, json!({"seconds": 5})).await).await;
        assert_eq!(done["attempt"], 1);
        worker.stop().await;
        assert_ended(&daemon, &[("completed", 1.0)]).await;
    }
}

#[tokio::test]
async fn a_cancelled_job_is_stopped_and_makes_room_for_another() {
    for sample in SAMPLES {
        let daemon = Daemon::start(CONFIG);
        let flags = ["--concurrency", "1", "--lease", "3"];
        let mut worker = sample.start(&daemon.url(""), &flags);
        let id = create(&daemon, json!({"seconds": FOR_EVER})).await;
        worker.says(&id).await;
        let (status, _) = daemon.post(&format!("/v1/jobs/{id}/cancel"), Value::Null).await;
        assert_eq!(status, StatusCode::OK);
        completed(&daemon, &create(&daemon, json!({})).await).await;
        worker.stop().await;
        assert_ended(&daemon, &[("cancelled", 1.0), ("completed", 1.0)]).await;
    }
}

#[tokio::test]
async fn sigterm_lets_work_end_within_the_grace() {
    for sample in SAMPLES {
        let daemon = Daemon::start(CONFIG);
        let mut worker = sample.start(&daemon.url(""), &["--lease", "3", "--grace", "600"]);
        let id = create(&daemon, json!({"seconds": 5})).await;
        worker.says(&id).await;
        worker.stop().await;
        let (_, job) = daemon.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!(job["state"], "completed", "{job}");
        assert_ended(&daemon, &[("completed", 1.0)]).await;
    }
}

#[tokio::test]
async fn sigterm_gives_back_what_does_not_end_within_the_grace() {
    for sample in SAMPLES {
        let daemon = Daemon::start(CONFIG);
        let mut worker = sample.start(&daemon.url(""), &["--grace", "0"]);
        let id = create(&daemon, json!({"seconds": FOR_EVER})).await;
        worker.says(&id).await;
        worker.stop().await;
        let (_, job) = daemon.get(&format!("/v1/jobs/{id}")).await;
        let told = ["state", "attempt", "failures", "last_error"].map(|key| job[key].clone());
        assert_eq!(told, [json!("ready"), json!(1), json!(0), Value::Null]);
        assert_ended(&daemon, &[("released", 1.0)]).await;
    }
}

/// A daemon that answers a poll only once the worker has hung up.
#[tokio::test]
async fn a_job_that_is_on_its_way_at_sigterm_is_given_back() {
    for sample in SAMPLES {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let worker = sample.start(&url, &["--concurrency", "1"]);
        let accepted = timeout(PATIENCE, listener.accept()).await.expect("it polls");
        let mut poll = BufReader::new(accepted.unwrap().0);
        let asked = read(&mut poll, 0).await.expect("a whole request");
        assert_eq!(asked.line, "POST /v1/leases HTTP/1.1");
        worker.terminate();
        let hung_up = timeout(PATIENCE, poll.read_to_end(&mut Vec::new())).await;
        hung_up.expect("it hangs up").unwrap();
        let job = json!({"lease": "L", "id": "I", "kind": "k", "attempt": 1, "payload": null});
        poll.write_all(answer(&json!({"jobs": [job]})).as_bytes()).await.unwrap();
        drop(poll);
        let accepted = timeout(PATIENCE, listener.accept()).await.expect("it gives the job back");
        let mut finish = BufReader::new(accepted.unwrap().0);
        let told = read(&mut finish, 0).await.expect("a whole request");
        let told: Value = serde_json::from_slice(&told.body).unwrap();
        assert_eq!(told, json!([{"lease": "L", "outcome": "released"}]));
        finish.write_all(answer(&json!({"results": ["ok"]})).as_bytes()).await.unwrap();
        assert_eq!(worker.ended().await, Some(0));
    }
}

fn answer(body: &Value) -> String {
    let body = body.to_string();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_restart_of_tallyd_during_the_work_changes_nothing() {
    for sample in SAMPLES {
        let mut daemon = Daemon::start(CONFIG);
        let relay = Relay::start(&daemon.url("")).await;
        let mut worker = sample.start(&relay.url, &["--concurrency", "2", "--grace", "0"]);
        let id = create(&daemon, json!({"seconds": 2})).await;
        worker.says(&id).await;
        relay.target("");
        assert!(daemon.stop().success());
        worker.says("tallyd is away").await;
        daemon.restart();
        relay.target(&daemon.url(""));
        assert_eq!(completed(&daemon, &id).await["attempt"], 1);
        // Both of its slots are back: one is busy, the other takes the next job.
        let busy = create(&daemon, json!({"seconds": FOR_EVER})).await;
        worker.says(&busy).await;
        completed(&daemon, &create(&daemon, json!({})).await).await;
        worker.stop().await;
        // The job that was busy; and one whose poll was cut off just as it was given out.
        let released = ended(&daemon.scrape().await, "released");
        assert!(released >= 1.0);
        assert_ended(&daemon, &[("completed", 2.0), ("released", released)]).await;
    }
}

#[tokio::test]
async fn a_worker_that_nobody_answers_stops_its_work_when_the_lease_may_have_run_out() {
    for sample in SAMPLES {
        let daemon = Daemon::start(CONFIG);
        let relay = Relay::start(&daemon.url("")).await;
        let mut worker = sample.start(&relay.url, &["--concurrency", "1", "--lease", "2"]);
        let id = create(&daemon, json!({"seconds": FOR_EVER})).await;
        worker.says(&id).await;
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        relay.target(&format!("http://{}", silent.local_addr().unwrap()));
        worker.says(&format!("so its work stops: {id}")).await;
        // Its slot is free again: it is who takes the second attempt.
        relay.target(&daemon.url(""));
        worker.says(&format!("{id} attempt 2")).await;
        worker.stop().await;
        let ended = [("lease_expired", 1.0), ("released", 1.0)];
        assert_ended(&daemon, &ended).await;
    }
}

#[tokio::test]
async fn a_finish_whose_answer_was_lost_is_told_again_and_counts_once() {
    for sample in SAMPLES {
        let daemon = Daemon::start(CONFIG);
        let relay = Relay::start(&daemon.url("")).await;
        relay.lose_an_answer_of("/v1/leases/finish");
        let mut worker = sample.start(&relay.url, &[]);
        completed(&daemon, &create(&daemon, json!({})).await).await;
        worker.says("tallyd is away").await;
        worker.stop().await;
        assert_eq!(relay.asked_for("/v1/leases/finish"), 2);
        assert_ended(&daemon, &[("completed", 1.0)]).await;
    }
}

#[tokio::test]
async fn a_worker_that_is_refused_says_why_and_ends_with_1() {
    for sample in SAMPLES {
        let config = "[queues.q]\nexec = { command = [\"/bin/true\"] }\n";
        let daemon = Daemon::start(config);
        let mut worker = sample.start(&daemon.url(""), &[]);
        worker.says("the daemon itself runs the jobs of queue").await;
        assert_eq!(worker.ended().await, Some(1));
    }
}

#[tokio::test]
async fn a_wrong_option_ends_it_with_2() {
    for sample in SAMPLES {
        let wrong = [
            ["--concurrency", "0"],
            ["--concurrency", "abc"],
            ["--lease", "0"],
            ["--grace", "-1"],
            ["--server", "localhost:8255"],
            ["--server", "http://"],
            ["--server", "http://127.0.0.1:http"],
        ];
        for [name, value] in wrong {
            let flag = format!("{name}={value}");
            assert_eq!(sample.start("http://127.0.0.1:1", &[&flag]).ended().await, Some(2));
        }
    }
}

/// A server that is not tallyd's at first.
#[tokio::test]
async fn an_unreadable_answer_is_no_reason_to_end() {
    for sample in SAMPLES {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut worker = sample.start(&url, &["--concurrency", "1"]);
        for _ in 0..2 {
            let accepted = timeout(PATIENCE, listener.accept()).await.expect("it polls");
            let mut poll = BufReader::new(accepted.unwrap().0);
            read(&mut poll, 0).await.expect("a whole request");
            let page = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>";
            poll.write_all(page.as_bytes()).await.unwrap();
            worker.says("tallyd is away").await;
        }
        worker.stop().await;
    }
}
