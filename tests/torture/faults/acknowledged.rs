//! The order of a sync and of the answers that promise it, as the kernel saw them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::fixture::Daemon;
use crate::strace::trace;

/// What one line of a trace says about the promise to sync first.
enum Step {
    /// Bytes went to a file of the store.
    Wrote,
    Synced,
    /// A change was acknowledged.
    Acknowledged,
}

fn step(line: &str) -> Option<Step> {
    let is_sync = line.contains("fdatasync") || line.contains("fsync");
    if line.contains("HTTP/1.1 20") {
        Some(Step::Acknowledged)
    } else if line.contains("pwrite64(") || line.contains("pwritev(") {
        Some(Step::Wrote)
    } else if is_sync && line.ends_with("= 0") {
        Some(Step::Synced)
    } else {
        None
    }
}

/// What was asked for, and whether the answer promises something that has to be written.
struct Asked {
    what: String,
    is_written: bool,
}

/// Asks for changes one after the other, and remembers which.
struct Caller {
    daemon: Daemon,
    asked: Vec<Asked>,
}

const CREATE: &str = "/v1/jobs";
const LEASE: &str = "/v1/leases";
const FINISH: &str = "/v1/leases/finish";
const RENEW: &str = "/v1/leases/renew";

impl Caller {
    async fn ask(&mut self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.daemon.ask(method.clone(), path, body).await;
        assert!(status.is_success(), "{method} {path}: {status}, {answer}");
        self.asked.push(Asked { what: format!("{method} {path}"), is_written: true });
        answer
    }

    async fn post(&mut self, path: &str, body: Value) -> Value {
        self.ask(Method::POST, path, body).await
    }

    /// Asks for what changes nothing, and counts nothing.
    async fn post_unwritten(&mut self, path: &str, body: Value) -> Value {
        let answer = self.post(path, body).await;
        self.asked.last_mut().expect("it was just asked").is_written = false;
        answer
    }

    /// Creates a job and leases it; answers with its path and its lease.
    async fn leased(&mut self, queue: &str) -> (String, Value) {
        let job = self.post(CREATE, json!({"queue": queue, "kind": "k"})).await;
        let leased = self.post(LEASE, json!({"queues": [queue]})).await;
        assert_eq!(leased["jobs"][0]["id"], job["id"]);
        let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
        (path, leased["jobs"][0]["lease"].clone())
    }

    async fn finish(&mut self, finish: Value, lease: &Value) {
        assert_eq!(self.post(FINISH, end(finish, lease)).await, results("ok"));
    }

    async fn fail_for_good(&mut self, lease: &Value) {
        self.finish(json!({"outcome": "failed", "permanent": true}), lease).await;
    }
}

fn end(mut finish: Value, lease: &Value) -> Value {
    finish["lease"] = lease.clone();
    json!([finish])
}

fn results(result: &str) -> Value {
    json!({"results": [result]})
}

/// One change of every sort to a job, to a queue, and to many jobs.
async fn change_everything(caller: &mut Caller) {
    let (_, lease) = caller.leased("q").await;
    assert_eq!(caller.post(RENEW, json!({"leases": [lease]})).await, results("ok"));
    caller.finish(json!({"outcome": "completed", "result": 1}), &lease).await;

    let (path, lease) = caller.leased("q").await;
    caller.fail_for_good(&lease).await;
    caller.post(&format!("{path}/requeue"), Value::Null).await;
    caller.post(&format!("{path}/cancel"), Value::Null).await;

    let (path, lease) = caller.leased("gone").await;
    caller.fail_for_good(&lease).await;
    caller.ask(Method::DELETE, &path, Value::Null).await;
    caller.ask(Method::DELETE, "/v1/queues/gone", Value::Null).await;

    let (_, lease) = caller.leased("q").await;
    caller.finish(json!({"outcome": "released"}), &lease).await;
    caller.post("/v1/queues/q/pause", Value::Null).await;
    caller.post("/v1/queues/q/resume", Value::Null).await;
    caller.post("/v1/jobs/batch", json!(vec![json!({"queue": "q", "kind": "k"}); 3])).await;
    assert_eq!(caller.post("/v1/queues/q/cancel", json!({})).await["count"], 4);

    for action in ["requeue-dead", "discard-dead"] {
        let (_, lease) = caller.leased("q").await;
        caller.fail_for_good(&lease).await;
        let acted = caller.post(&format!("/v1/queues/q/{action}"), json!({})).await;
        assert_eq!(acted["count"], 1, "{action}");
        if action == "requeue-dead" {
            caller.post("/v1/queues/q/cancel", json!({})).await;
        }
    }
}

/// Asks again, and with leases that do not stand: some of it is counted, and some leaves no trace.
async fn ask_again(caller: &mut Caller) {
    let job = json!({"queue": "q", "kind": "k", "unique_key": caller.asked.len().to_string()});
    let first = caller.post(CREATE, job.clone()).await;
    let again = caller.post(CREATE, job.clone()).await;
    assert_eq!((&again["id"], &again["duplicate"]), (&first["id"], &json!(true)));
    let again = caller.post("/v1/jobs/batch", json!([job])).await;
    assert_eq!(again, json!({"ids": [first["id"]], "duplicates": [0]}));

    let lease = caller.post(LEASE, json!({"queues": ["q"]})).await["jobs"][0]["lease"].clone();
    assert_eq!(caller.post_unwritten(LEASE, json!({"queues": ["q"]})).await, json!({"jobs": []}));
    let (completed, failed) = (json!({"outcome": "completed"}), json!({"outcome": "failed"}));
    caller.finish(completed.clone(), &lease).await;
    let again = caller.post_unwritten(FINISH, end(completed, &lease)).await;
    assert_eq!(again, results("ok"));
    assert_eq!(caller.post(FINISH, end(failed.clone(), &lease)).await, results("lease_lost"));
    assert_eq!(caller.post(RENEW, json!({"leases": [lease]})).await, results("lease_lost"));

    let (path, lease) = caller.leased("q").await;
    caller.post(&format!("{path}/cancel"), Value::Null).await;
    let late = caller.post_unwritten(FINISH, end(failed.clone(), &lease)).await;
    assert_eq!(late, results("cancelled"));

    let (path, lease) = caller.leased("q").await;
    caller.fail_for_good(&lease).await;
    caller.ask(Method::DELETE, &path, Value::Null).await;
    assert_eq!(caller.post(FINISH, end(failed, &lease)).await, results("lease_lost"));
}

/// P1: a change, and what is counted beside it, as a lost lease and a duplicate.
#[tokio::test]
async fn each_change_is_acknowledged_after_its_sync() {
    let mut daemon = Daemon::prepare("");
    let calls = "trace=pwrite64,pwritev,fdatasync,fsync,write,writev,sendto,sendmsg";
    trace(&mut daemon, calls, &[], None);
    daemon.restart();
    let mut caller = Caller { daemon, asked: Vec::new() };
    for _ in 0..4 {
        change_everything(&mut caller).await;
        ask_again(&mut caller).await;
    }
    let Caller { mut daemon, asked } = caller;
    assert_eq!(daemon.stop().code(), Some(0));
    let trace = std::fs::read_to_string(daemon.path("trace.log")).unwrap();
    let mut asked = asked.into_iter();
    let (mut wrote, mut synced) = (false, false);
    for step in trace.lines().filter_map(step) {
        match step {
            Step::Wrote => (wrote, synced) = (true, false),
            Step::Synced => synced = true,
            Step::Acknowledged => {
                let Asked { what, is_written } = asked.next().expect("each answer is to a change");
                assert!(wrote || !is_written, "{what} was acknowledged and nothing written");
                assert!(synced || !wrote, "{what} was acknowledged unsynced");
                (wrote, synced) = (false, false);
            }
        }
    }
    assert!(asked.next().is_none(), "not in the trace");
}
