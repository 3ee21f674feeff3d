//! Ends and starts: what a drain finishes, releases and refuses, and what a start makes of a crash.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::call::connect;
use crate::exposition::metrics_address;
use crate::fixture::{Daemon, Scrape};
use crate::processes::{Line, NEVER, Process};
use crate::running::{counted, create, in_state, queue};

/// Says the ids of a child and of itself, and waits for a line.
const HELD: &str = "sleep 100 & echo $! > said; echo $$ > said; read _ < go";

/// Never due again within a test.
const FAR: &str = "backoff = { initial = \"1h\" }\n";

/// A daemon with these settings at the top, and one job that runs [`HELD`].
struct Working {
    daemon: Daemon,
    go: Line,
    id: String,
    processes: [Process; 2],
}

impl Working {
    async fn start(top: &str) -> Self {
        let mut daemon = Daemon::prepare(&format!("{top}\n{}", queue(FAR, HELD)));
        let mut said = Line::new(daemon.directory.path(), "said");
        let go = Line::new(daemon.directory.path(), "go");
        daemon.restart();
        let id = create(&daemon).await;
        let processes = [said.hear_process().await, said.hear_process().await];
        Self { daemon, go, id, processes }
    }

    async fn job(&self) -> Value {
        self.daemon.get(&format!("/v1/jobs/{}", self.id)).await.1
    }
}

/// Asks until the drain has begun.
async fn until_draining(daemon: &Daemon) {
    let drains =
        async { while daemon.get("/-/ready").await.0 != StatusCode::SERVICE_UNAVAILABLE {} };
    tokio::time::timeout(NEVER, drains).await.expect("it drains");
}

/// Creates a job for outside workers, and leases it.
async fn lease(daemon: &Daemon, duration: &str) -> Value {
    let (status, job) = daemon.post("/v1/jobs", json!({"queue": "outside", "kind": "k"})).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    let request = json!({"queues": ["outside"], "duration": duration});
    let (_, leased) = daemon.post("/v1/leases", request).await;
    assert_eq!(leased["jobs"][0]["id"], job["id"]);
    leased["jobs"][0].clone()
}

async fn complete(daemon: &Daemon, leased: &Value) -> Value {
    let finish = json!([{"lease": leased["lease"], "outcome": "completed"}]);
    daemon.post("/v1/leases/finish", finish).await.1["results"][0].clone()
}

#[tokio::test]
async fn a_drain_lets_attempts_end_and_accepts_all_but_leases() {
    let working = Working::start("drain_timeout = \"5m\"").await;
    let daemon = &working.daemon;
    let (first, second) = (lease(daemon, "10m").await, lease(daemon, "10m").await);
    let poll = json!({"queues": ["outside"], "wait": "60s"});
    let waiting = crate::fixture::client().post(daemon.url("/v1/leases")).json(&poll).send();
    let waiting = tokio::spawn(waiting);
    while daemon.scrape().await.value("tallyd_http_connections") < 2.0 {}

    daemon.signal(Signal::TERM);
    until_draining(daemon).await;
    let polled = waiting.await.unwrap().unwrap();
    // Empty or refused, whichever the drain comes to first; but at once.
    let ended = [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE];
    assert!(ended.contains(&polled.status()), "a long poll ends: {}", polled.status());
    let (status, refused) = daemon.post("/v1/leases", json!({"queues": ["outside"]})).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused["error"]["code"], "draining");
    let (status, late) = daemon.post("/v1/jobs", json!({"queue": "outside", "kind": "k"})).await;
    assert_eq!(status, StatusCode::CREATED, "{late}");
    let (_, renewed) = daemon.post("/v1/leases/renew", json!({"leases": [first["lease"]]})).await;
    assert_eq!(renewed, json!({"results": ["ok"]}));
    assert_eq!(complete(daemon, &first).await, "ok");
    assert_eq!(working.job().await["state"], "running");
    assert!(working.processes.iter().all(Process::lives));
    assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
    assert_eq!(daemon.get("/-/healthy").await.0, StatusCode::OK);

    working.go.say(1);
    let Working { mut daemon, id, .. } = working;
    assert_eq!(daemon.wait().code(), Some(0));
    daemon.restart();
    let (_, job) = daemon.get(&format!("/v1/jobs/{id}")).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)));
    daemon.job_when(late["id"].as_str().unwrap(), in_state("ready")).await;
    assert_eq!(complete(&daemon, &second).await, "ok", "its lease is valid across the restart");
}

#[tokio::test]
async fn an_interrupt_drains_as_well() {
    let mut working = Working::start("drain_timeout = \"5m\"").await;
    working.daemon.signal(Signal::INT);
    let stopping = working.daemon.wait_for_log(|line| line["event"] == "stopping");
    assert_eq!(stopping["signal"], "SIGINT");
    until_draining(&working.daemon).await;
    assert_eq!(working.job().await["state"], "running");
    assert!(working.processes.iter().all(Process::lives));
    working.go.say(1);
    let Working { mut daemon, id, .. } = working;
    assert_eq!(daemon.wait().code(), Some(0));
    daemon.restart();
    let (_, job) = daemon.get(&format!("/v1/jobs/{id}")).await;
    assert_eq!((&job["state"], &job["attempt"]), (&json!("completed"), &json!(1)));
}

#[tokio::test]
async fn metrics_on_a_listener_of_their_own_are_answered_until_the_end_of_a_drain() {
    let mut working =
        Working::start("drain_timeout = \"5m\"\nmetrics_listen = \"127.0.0.1:0\"").await;
    let address = metrics_address(&mut working.daemon);
    let scrape = async || {
        let answer = crate::fixture::client()
            .get(format!("http://{address}/metrics"))
            .send()
            .await
            .expect("it answers");
        assert_eq!(answer.status(), StatusCode::OK);
        Scrape::parse(&answer.text().await.expect("the answer is whole"))
    };
    // A create whose body has not come holds up the end of the main listener's requests.
    let body = r#"{"queue":"outside","kind":"k"}"#;
    let head = "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                expect: 100-continue\r\ncontent-length: 30\r\n\r\n";
    assert_eq!(body.len(), 30);
    let mut late = BufReader::new(connect(&working.daemon, head.as_bytes()));
    let mut line = String::new();
    late.read_line(&mut line).expect("it answers");
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n");

    working.daemon.signal(Signal::TERM);
    until_draining(&working.daemon).await;
    let running = counted(&scrape().await, "tallyd_jobs", ",state=\"running\"");
    assert_eq!(running, 1.0);
    working.go.say(1);
    let main = working.daemon.url("").trim_start_matches("http://").to_owned();
    let closes = async {
        while TcpStream::connect(&main).is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(NEVER, closes).await.expect("the main listener closes");
    let last = scrape().await;
    assert_eq!(counted(&last, "tallyd_jobs_completed_total", ""), 1.0, "{}", last.text);

    late.get_mut().write_all(body.as_bytes()).expect("the connection stands");
    let mut answer = String::new();
    late.read_to_string(&mut answer).expect("it ends in order");
    assert!(answer.contains("HTTP/1.1 201 "), "{answer}");
    assert_eq!(working.daemon.wait().code(), Some(0));
}

#[tokio::test]
async fn a_drain_that_times_out_releases_without_using_up_a_try() {
    let working = Working::start("drain_timeout = \"50ms\"").await;
    let Working { mut daemon, id, processes, go: _held } = working;
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(!processes.iter().any(Process::lives), "they outlived the daemon");
    daemon.configure(""); // with no runner nothing claims the job
    daemon.restart();
    let (_, job) = daemon.get(&format!("/v1/jobs/{id}")).await;
    assert_eq!(job["state"], "ready");
    assert_eq!((&job["attempt"], &job["failures"]), (&json!(1), &json!(0)));
    let scrape = daemon.scrape().await;
    assert_eq!(counted(&scrape, "tallyd_attempts_ended_total", ",result=\"released\""), 1.0);
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut working = Working::start("drain_timeout = \"5m\"").await;
    working.daemon.signal(Signal::TERM);
    until_draining(&working.daemon).await;
    working.daemon.signal(Signal::TERM);
    assert_eq!(working.daemon.wait().code(), Some(1));
    working.processes[1].ended().await;
    working.daemon.restart();
    let job = working.job().await;
    assert_eq!((&job["state"], &job["failures"]), (&json!("retrying"), &json!(1)));
}

#[tokio::test]
async fn attempts_cut_off_by_a_crash_used_up_a_try_before_anyone_can_ask() {
    let mut working = Working::start("").await;
    working.daemon.kill();
    working.daemon.restart();
    let job = working.job().await;
    assert_eq!(job["state"], "retrying");
    assert_eq!((&job["attempt"], &job["failures"]), (&json!(1), &json!(1)));
    let message = job["last_error"]["message"].as_str().unwrap();
    assert!(message.contains("the daemon ended"), "{message}");
    let scrape = working.daemon.scrape().await;
    let expired = ",result=\"lease_expired\"";
    assert_eq!(counted(&scrape, "tallyd_attempts_ended_total", expired), 1.0);
    assert_eq!(counted(&scrape, "tallyd_jobs_retried_total", ""), 1.0);
}

#[tokio::test]
async fn outside_leases_survive_a_crash_and_expire_if_their_worker_does_not() {
    let mut daemon = Daemon::start("");
    let (alive, dead) = (lease(&daemon, "10m").await, lease(&daemon, "1s").await);
    daemon.kill();
    daemon.restart();
    assert_eq!(complete(&daemon, &alive).await, "ok");
    let request = json!({"queues": ["outside"], "wait": "30s"});
    let (_, again) = daemon.post("/v1/leases", request).await;
    let again = &again["jobs"][0];
    assert_eq!(again["id"], dead["id"], "claimable a second after its lease, at the latest");
    assert_eq!((&again["attempt"], &again["failures"]), (&json!(2), &json!(1)));
    assert_eq!(complete(&daemon, &dead).await, "lease_lost");
    assert_eq!(complete(&daemon, again).await, "ok");
    assert_eq!(daemon.scrape().await.value("tallyd_leases_lost_total{queue=\"outside\"}"), 1.0);
}

/// Children that outlive their parent: one ignores SIGTERM, one has left the process group.
const STUBBORN: &str = "(trap '' TERM; exec sleep 100) & echo $! > said
    setsid sleep 100 & echo $! > said; echo $$ > said; read _ < go";

/// F21: no command outlives a killed daemon for long.
#[tokio::test]
async fn processes_left_by_a_crash_are_gone_before_anything_is_claimed() {
    let config = queue("backoff = { initial = \"0s\" }", STUBBORN);
    let mut daemon = Daemon::prepare(&config);
    let mut said = Line::new(daemon.directory.path(), "said");
    let _go = Line::new(daemon.directory.path(), "go");
    daemon.restart();
    create(&daemon).await;
    let left = [said.hear_process().await, said.hear_process().await];
    let command = said.hear_process().await;
    daemon.kill();
    command.ended().await;
    assert!(left.iter().all(Process::lives), "nothing has ended them yet");

    daemon.launch();
    let first = daemon.wait_for_log(|line| {
        ["leftovers_ended", "attempt_started"].iter().any(|event| line["event"] == *event)
    });
    assert_eq!((&first["event"], &first["ended"]), (&json!("leftovers_ended"), &json!(2)));
    assert!(!left.iter().any(Process::lives));
    assert!(daemon.serves());
    let _next = [said.hear_process().await, said.hear_process().await, said.hear_process().await];
    let scrape = daemon.scrape().await;
    assert_eq!(counted(&scrape, "tallyd_attempts_started_total", ""), 2.0);
}
