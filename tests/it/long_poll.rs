//! Lease requests that wait: what wakes them, what ends them, and callers who hang up.
//!
//! That a request waits cannot be seen from outside. A request that was sent earlier, and whose
//! connection is counted, has most likely been parked when a later one is answered by the store;
//! where it was not, the test holds as well, so it repeats itself.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::call::{connect, read_to_end};
use crate::fixture::{Daemon, PATIENCE, scaled};

/// A daemon, and the connections of those who wait for its jobs.
struct Callers {
    daemon: Daemon,
    waiting: Cell<u32>,
}

impl Callers {
    fn open(config: &str) -> Self {
        Self { daemon: Daemon::start(config), waiting: Cell::new(0) }
    }

    /// Asks for jobs; returns when the daemon has taken the connection and answered others since.
    async fn wait(&self, ask: Value) -> TcpStream {
        let body = ask.to_string();
        let head = "POST /v1/leases HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let stream = connect(&self.daemon, request.as_bytes());
        self.waiting.update(|waiting| waiting + 1);
        self.noticed().await;
        // Two rounds through the store's writer, behind the request.
        for _ in 0..2 {
            self.daemon.get("/v1/queues").await;
        }
        stream
    }

    /// The jobs that come over a connection, which then ends.
    async fn jobs(&self, stream: TcpStream) -> Vec<Value> {
        self.waiting.update(|waiting| waiting - 1);
        tokio::task::spawn_blocking(|| read_jobs(stream)).await.expect("it is read")
    }

    /// Ends a connection without a look at what comes.
    fn hang_up(&self, stream: TcpStream) {
        self.waiting.update(|waiting| waiting - 1);
        drop(stream);
    }

    /// Returns when the daemon has noticed who has come and gone; one connection is the client's.
    async fn noticed(&self) {
        let wanted = 1.0 + f64::from(self.waiting.get());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let open = self.daemon.scrape().await.value("tallyd_http_connections");
            if open == wanted {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{open} are open, not {wanted}");
        }
    }

    async fn create(&self, job: Value) -> Value {
        let (status, job) = self.daemon.post("/v1/jobs", job).await;
        assert_eq!(status, 201, "{job}");
        job["id"].clone()
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.daemon.post(path, body).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }
}

fn read_jobs(stream: TcpStream) -> Vec<Value> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    for (number, line) in reader.by_ref().lines().map(|line| line.expect("a head")).enumerate() {
        assert!(number > 0 || line == "HTTP/1.1 200 OK", "{line}");
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().expect("a number");
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("the answer is whole");
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    answer["jobs"].as_array().expect("a list").clone()
}

fn ask(queues: &[&str]) -> Value {
    json!({"queues": queues, "wait": "60s", "duration": "1h"})
}

#[tokio::test]
async fn a_create_wakes_the_one_who_waits_longest() {
    let callers = Callers::open("");
    for _ in 0..scaled(20) {
        let first = callers.wait(ask(&["a", "default"])).await;
        let second = callers.wait(ask(&["default"])).await;
        let one = callers.create(json!({"kind": "k"})).await;
        assert_eq!(callers.jobs(first).await[0]["id"], one);
        let two = callers.create(json!({"kind": "k"})).await;
        assert_eq!(callers.jobs(second).await[0]["id"], two);
    }
    assert_eq!(callers.daemon.scrape().await.broken_identities(), Vec::<String>::new());
}

#[tokio::test]
async fn a_job_created_while_the_wait_begins_is_not_missed() {
    let callers = Callers::open("");
    for _ in 0..scaled(200) {
        let (leased, id) = tokio::join!(
            callers.post("/v1/leases", ask(&["default"])),
            callers.create(json!({"kind": "k"}))
        );
        assert_eq!(leased["jobs"][0]["id"], id);
    }
}

#[tokio::test]
async fn a_batch_wakes_several_and_each_job_goes_to_one() {
    let callers = Callers::open("");
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(callers.wait(ask(&["default"])).await);
    }
    let (_, created) =
        callers.daemon.post("/v1/jobs/batch", json!(vec![json!({"kind": "k"}); 10])).await;
    let mut leased = Vec::new();
    for waiting in waiting {
        let jobs = callers.jobs(waiting).await;
        assert_eq!(jobs.len(), 1);
        leased.push(jobs[0]["id"].as_str().unwrap().to_owned());
    }
    leased.sort_unstable();
    assert_eq!(json!(leased), created["ids"], "ids sort by age");
}

#[tokio::test]
async fn a_job_that_becomes_due_wakes() {
    let callers = Callers::open("");
    let id = callers.create(json!({"kind": "k", "delay": "300ms"})).await;
    let waiting = callers.wait(ask(&["default"])).await;
    let jobs = callers.jobs(waiting).await;
    assert_eq!(jobs[0]["id"], id);
    let promoted = r#"tallyd_sweeper_jobs_total{action="promoted"}"#;
    assert_eq!(callers.daemon.scrape().await.value(promoted), 1.0);
}

#[tokio::test]
async fn a_release_and_a_requeue_wake() {
    let callers = Callers::open("");
    let id = callers.create(json!({"kind": "k"})).await;
    let leased = callers.post("/v1/leases", ask(&["default"])).await;
    let waiting = callers.wait(ask(&["default"])).await;
    let released = json!([{"lease": leased["jobs"][0]["lease"], "outcome": "released"}]);
    callers.post("/v1/leases/finish", released).await;
    let jobs = callers.jobs(waiting).await;
    assert_eq!(jobs[0]["id"], id);

    let failed = json!([{"lease": jobs[0]["lease"], "outcome": "failed", "permanent": true}]);
    callers.post("/v1/leases/finish", failed).await;
    let waiting = callers.wait(ask(&["default"])).await;
    callers.post(&format!("/v1/jobs/{}/requeue", id.as_str().unwrap()), Value::Null).await;
    assert_eq!(callers.jobs(waiting).await[0]["id"], id);
}

#[tokio::test]
async fn a_wait_takes_the_first_of_its_queues_that_has_jobs() {
    let callers = Callers::open("");
    let waiting = callers.wait(ask(&["top", "middle", "low"])).await;
    let low = callers.create(json!({"kind": "k", "queue": "low"})).await;
    assert_eq!(callers.jobs(waiting).await[0]["id"], low, "it is the only one");

    let ask = json!({"queues": ["top", "middle", "low"], "wait": "60s", "max": 3});
    let waiting = callers.wait(ask).await;
    let batch = ["low", "top", "middle"].map(|queue| json!({"kind": "k", "queue": queue}));
    callers.daemon.post("/v1/jobs/batch", json!(batch)).await;
    let jobs = callers.jobs(waiting).await;
    let queues: Vec<_> = jobs.iter().map(|job| job["queue"].as_str().unwrap()).collect();
    assert_eq!(queues, ["top", "middle", "low"]);
}

#[tokio::test]
async fn a_wait_that_ends_answers_empty() {
    let callers = Callers::open("");
    callers.create(json!({"kind": "k", "queue": "other"})).await;
    for wait in ["0s", "1ms", "150ms"] {
        let ask = json!({"queues": ["default", "nosuch"], "wait": wait});
        assert_eq!(callers.post("/v1/leases", ask).await, json!({"jobs": []}), "{wait}");
    }
    let id = callers.create(json!({"kind": "k"})).await;
    let leased = callers.post("/v1/leases", ask(&["default"])).await;
    assert_eq!(leased["jobs"][0]["attempt"], 1, "nobody else had it");
    assert_eq!(leased["jobs"][0]["id"], id);
}

#[tokio::test]
async fn a_paused_queue_leases_nothing_until_it_is_resumed() {
    let callers = Callers::open("");
    let id = callers.create(json!({"kind": "k"})).await;
    callers.post("/v1/queues/default/pause", Value::Null).await;
    let answer = callers.post("/v1/leases", json!({"queues": ["default"]})).await;
    assert_eq!(answer, json!({"jobs": []}));
    let waiting = callers.wait(ask(&["default"])).await;
    callers.create(json!({"kind": "k"})).await;
    let other = callers.create(json!({"kind": "k", "queue": "other"})).await;
    let answer = callers.post("/v1/leases", ask(&["default", "other"])).await;
    assert_eq!(answer["jobs"][0]["id"], other, "others go on");
    let (_, stats) = callers.daemon.get("/v1/stats").await;
    assert_eq!(stats["queues"]["default"]["attempts_started"], 0);
    callers.post("/v1/queues/default/resume", Value::Null).await;
    assert_eq!(callers.jobs(waiting).await[0]["id"], id);
}

#[tokio::test]
async fn the_job_of_a_caller_who_hung_up_goes_to_another() {
    let callers = Callers::open("");
    for round in 0..scaled(20) {
        let gone = callers.wait(ask(&["default"])).await;
        let next = callers.wait(ask(&["default"])).await;
        callers.hang_up(gone);
        if round % 2 == 0 {
            callers.noticed().await; // else it has a job for the caller by then, perhaps
        }
        let id = callers.create(json!({"kind": "k"})).await;
        let jobs = callers.jobs(next).await;
        assert_eq!((&jobs[0]["id"], &jobs[0]["failures"]), (&id, &json!(0)));
    }
    let scrape = callers.daemon.scrape().await;
    let expired = r#"tallyd_sweeper_jobs_total{action="expired"}"#;
    assert_eq!(scrape.value(expired), 0.0, "no lease had to run out");
    let gone = r#"tallyd_http_requests_total{code="499",method="POST",route="/v1/leases"}"#;
    assert!(scrape.value(gone) >= 1.0, "those who are gone for sure are counted as such");
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
}

#[tokio::test]
async fn many_callers_who_hang_up_leave_nothing_behind() {
    let callers = Callers::open("");
    for _ in 0..200 {
        let request = ask(&["default"]).to_string();
        let head = "POST /v1/leases HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
        let length = request.len();
        let request = format!("{head}\r\ncontent-length: {length}\r\n\r\n{request}");
        drop(connect(&callers.daemon, request.as_bytes()));
    }
    // Connections are taken in their order: when one more is answered, all were taken.
    let last = b"GET /-/ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let ready = read_to_end(connect(&callers.daemon, last));
    assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
    callers.noticed().await;
    let id = callers.create(json!({"kind": "k"})).await;
    let leased = callers.post("/v1/leases", ask(&["default"])).await;
    assert_eq!((&leased["jobs"][0]["id"], &leased["jobs"][0]["attempt"]), (&id, &json!(1)));
}

#[tokio::test]
async fn a_drain_ends_the_wait_empty_or_refused() {
    let mut callers = Callers::open("");
    let mut waiting = callers.wait(ask(&["default"])).await;
    assert!(callers.daemon.stop().success());
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).expect("it ends in order");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains(r#""code":"draining""#), "{answer}");
    assert!(answer.to_lowercase().contains("\r\nretry-after: 5\r\n"), "{answer}");
}
