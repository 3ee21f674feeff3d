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

/// Asks for changes one after the other, and remembers which.
struct Caller {
    daemon: Daemon,
    changes: Vec<String>,
}

impl Caller {
    async fn ask(&mut self, method: Method, path: &str, body: Value) -> Value {
        let (status, answer) = self.daemon.ask(method.clone(), path, body).await;
        assert!(status.is_success(), "{method} {path}: {status}, {answer}");
        self.changes.push(format!("{method} {path}"));
        answer
    }

    async fn post(&mut self, path: &str, body: Value) -> Value {
        self.ask(Method::POST, path, body).await
    }

    /// Creates a job and leases it; answers with its path and its lease.
    async fn leased(&mut self) -> (String, Value) {
        let job = self.post("/v1/jobs", json!({"queue": "q", "kind": "k"})).await;
        let leased = self.post("/v1/leases", json!({"queues": ["q"]})).await;
        assert_eq!(leased["jobs"][0]["id"], job["id"]);
        let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
        (path, leased["jobs"][0]["lease"].clone())
    }

    async fn finish(&mut self, mut finish: Value, lease: Value) {
        finish["lease"] = lease;
        let answer = self.post("/v1/leases/finish", json!([finish])).await;
        assert_eq!(answer["results"], json!(["ok"]));
    }
}

/// One change of every sort.
async fn change_everything(caller: &mut Caller) {
    let (_, lease) = caller.leased().await;
    let renewed = caller.post("/v1/leases/renew", json!({"leases": [lease]})).await;
    assert_eq!(renewed["results"], json!(["ok"]));
    caller.finish(json!({"outcome": "completed", "result": 1}), lease).await;

    let (path, lease) = caller.leased().await;
    caller.finish(json!({"outcome": "failed", "permanent": true}), lease).await;
    caller.post(&format!("{path}/requeue"), Value::Null).await;
    caller.post(&format!("{path}/cancel"), Value::Null).await;

    let (path, lease) = caller.leased().await;
    caller.finish(json!({"outcome": "failed", "permanent": true}), lease).await;
    caller.ask(Method::DELETE, &path, Value::Null).await;

    let (_, lease) = caller.leased().await;
    caller.finish(json!({"outcome": "released"}), lease).await;
    caller.post("/v1/queues/q/pause", Value::Null).await;
    caller.post("/v1/queues/q/resume", Value::Null).await;
    caller.post("/v1/jobs/batch", json!(vec![json!({"queue": "q", "kind": "k"}); 3])).await;
    let cancelled = caller.post("/v1/queues/q/cancel", json!({})).await;
    assert_eq!(cancelled["count"], 4);
}

#[tokio::test]
async fn each_change_is_acknowledged_after_its_sync() {
    let mut daemon = Daemon::prepare("");
    let calls = "trace=pwrite64,pwritev,fdatasync,fsync,write,writev,sendto,sendmsg";
    trace(&mut daemon, calls, &[], None);
    daemon.restart();
    let mut caller = Caller { daemon, changes: Vec::new() };
    for _ in 0..4 {
        change_everything(&mut caller).await;
    }
    let Caller { mut daemon, changes } = caller;
    assert_eq!(daemon.stop().code(), Some(0));
    let trace = std::fs::read_to_string(daemon.path("trace.log")).unwrap();
    let mut changes = changes.into_iter();
    let (mut wrote, mut synced) = (false, false);
    for step in trace.lines().filter_map(step) {
        match step {
            Step::Wrote => (wrote, synced) = (true, false),
            Step::Synced => synced = true,
            Step::Acknowledged => {
                let change = changes.next().expect("each answer is to a change");
                assert!(wrote && synced, "{change} was acknowledged unsynced");
                (wrote, synced) = (false, false);
            }
        }
    }
    assert_eq!(changes.next(), None, "not in the trace");
}
