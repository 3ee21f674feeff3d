//! The description at `/openapi.json`: valid, complete, and true of what is answered.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::call::{Answer, call, send};
use crate::fixture::Daemon;
use crate::refusals::CASES;
use crate::tools::{python, said};

/// Every route there is.
const ROUTES: [(&str, &str); 25] = [
    ("GET", "/"),
    ("GET", "/-/healthy"),
    ("GET", "/-/ready"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("POST", "/v1/backup"),
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("POST", "/v1/jobs/batch"),
    ("DELETE", "/v1/jobs/{id}"),
    ("GET", "/v1/jobs/{id}"),
    ("POST", "/v1/jobs/{id}/cancel"),
    ("POST", "/v1/jobs/{id}/requeue"),
    ("POST", "/v1/leases"),
    ("POST", "/v1/leases/finish"),
    ("POST", "/v1/leases/renew"),
    ("GET", "/v1/queues"),
    ("DELETE", "/v1/queues/{queue}"),
    ("GET", "/v1/queues/{queue}"),
    ("POST", "/v1/queues/{queue}/cancel"),
    ("POST", "/v1/queues/{queue}/discard-dead"),
    ("POST", "/v1/queues/{queue}/pause"),
    ("POST", "/v1/queues/{queue}/requeue-dead"),
    ("POST", "/v1/queues/{queue}/resume"),
    ("GET", "/v1/stats"),
];

/// A walk through the routes, with what was asked and told.
struct Walk {
    daemon: Daemon,
    exchanges: Vec<Value>,
}

impl Walk {
    fn begin() -> Self {
        Self {
            daemon: Daemon::start("backup_dir = \".\"\n[queues.small]\nmax_depth = 1\n"),
            exchanges: Vec::new(),
        }
    }

    /// Asks `path`, which fits the route `template`.
    async fn ask(&mut self, method: &str, template: &str, path: &str, asked: Value) -> Value {
        let answer: Answer = send(&self.daemon, method, path, asked.clone()).await;
        self.exchanges.push(json!({
            "method": method, "path": template, "status": answer.status,
            "asked": asked, "told": answer.json,
        }));
        answer.json
    }

    async fn get(&mut self, path: &str) -> Value {
        let template = path.split('?').next().expect("a path").to_owned();
        self.ask("GET", &template, path, Value::Null).await
    }

    async fn post(&mut self, path: &str, asked: Value) -> Value {
        self.ask("POST", path, path, asked).await
    }

    /// Acts on one job.
    async fn on_job(&mut self, method: &str, job: &Value, verb: &str) -> Value {
        let path = format!("/v1/jobs/{}{verb}", job["id"].as_str().expect("an id"));
        self.ask(method, &format!("/v1/jobs/{{id}}{verb}"), &path, Value::Null).await
    }

    /// Acts on one queue.
    async fn on_queue(&mut self, method: &str, queue: &str, verb: &str, asked: Value) -> Value {
        let path = format!("/v1/queues/{queue}{verb}");
        self.ask(method, &format!("/v1/queues/{{queue}}{verb}"), &path, asked).await
    }

    async fn jobs(&mut self) {
        let whole = json!({
            "kind": "k", "queue": "q", "payload": {"a": [1, null]}, "priority": 0, "delay": "1h",
            "max_attempts": 3, "timeout": "90s", "unique_key": "u", "unique_until": "done",
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        });
        let job = self.post("/v1/jobs", whole.clone()).await;
        assert_eq!(self.post("/v1/jobs", whole).await["duplicate"], true);
        self.on_job("GET", &job, "").await;
        self.on_job("DELETE", &job, "").await;
        self.on_job("POST", &job, "/cancel").await;
        self.on_job("POST", &job, "/cancel").await;
        self.on_job("GET", &json!({"id": "none"}), "").await;
        let dated = json!({"kind": "k", "run_at": "2999-03-01T12:00:00+02:00"});
        self.post("/v1/jobs/batch", json!([dated, {"kind": "k"}, {"kind": "k"}])).await;
        self.post("/v1/jobs/batch", json!([{"kind": "k"}, {"kind": "k", "colour": 1}])).await;
        self.post("/v1/jobs", json!({"kind": "k", "queue": "small"})).await;
        self.post("/v1/jobs", json!({"kind": "k", "queue": "small"})).await;
        self.get("/v1/jobs?limit=1").await;
        self.get("/v1/jobs?limit=0").await;
    }

    async fn leases(&mut self) {
        let ask = json!({
            "queues": ["q", "default"], "max": 2, "wait": "1s", "duration": "30s", "worker": "w",
        });
        let leased = self.post("/v1/leases", ask).await;
        let [one, two] = [0, 1].map(|index| leased["jobs"][index]["lease"].clone());
        self.post("/v1/leases/renew", json!({"leases": [one, "none"], "duration": "1m"})).await;
        let finishes = json!([
            {"lease": one, "outcome": "completed", "result": {"a": 1}},
            {"lease": two, "outcome": "failed", "error": "no", "permanent": true, "retry_in": "1s"},
            {"lease": "none", "outcome": "released", "retry_in": "1s"},
        ]);
        let told = self.post("/v1/leases/finish", finishes).await;
        assert_eq!(told, json!({"results": ["ok", "ok", "lease_lost"]}));
        self.post("/v1/leases/finish", json!([{"lease": "none"}])).await;
        self.on_job("GET", &leased["jobs"][0], "").await;
        let dead = self.on_job("GET", &leased["jobs"][1], "").await;
        assert_eq!(dead["state"], "dead");
        self.get("/v1/jobs").await;
        self.on_job("POST", &dead, "/requeue").await;
        self.on_job("POST", &dead, "/requeue").await;
        self.post("/v1/leases", json!({"queues": ["a b"]})).await;
        let again = self.post("/v1/leases", json!({"queues": ["default"]})).await;
        let failed = json!([
            {"lease": again["jobs"][0]["lease"], "outcome": "failed", "permanent": true},
        ]);
        self.post("/v1/leases/finish", failed).await;
        self.on_job("DELETE", &dead, "").await;
    }

    async fn queues(&mut self) {
        let bulk = json!({"kind": "k", "before": "2999-01-01T00:00:00Z", "limit": 5});
        for verb in ["/cancel", "/requeue-dead", "/discard-dead"] {
            self.on_queue("POST", "default", verb, bulk.clone()).await;
            self.on_queue("POST", "nosuch", verb, Value::Null).await;
            self.on_queue("POST", "default", verb, json!({"limit": 0})).await;
        }
        for verb in ["/pause", "/resume"] {
            self.on_queue("POST", "default", verb, json!({})).await;
            self.on_queue("POST", "nosuch", verb, Value::Null).await;
        }
        self.get("/v1/queues").await;
        self.on_queue("GET", "default", "", Value::Null).await;
        self.on_queue("GET", "a%20b", "", Value::Null).await;
        self.on_queue("DELETE", "default", "", Value::Null).await;
        self.on_queue("DELETE", "nosuch", "", Value::Null).await;
        self.post("/v1/backup", Value::Null).await;
        self.post("/v1/backup", json!({"file": "x"})).await;
        self.get("/v1/stats").await;
        self.get("/openapi.json").await;
    }
}

#[tokio::test]
async fn the_description_is_valid_and_true_of_every_answer() {
    let mut walk = Walk::begin();
    walk.jobs().await;
    walk.leases().await;
    walk.queues().await;
    let (_, description) = walk.daemon.get("/openapi.json").await;
    assert_eq!(description["openapi"], "3.1.0");
    let files = ["openapi.json", "exchanges.json"].map(|name| walk.daemon.path(name));
    std::fs::write(&files[0], description.to_string()).unwrap();
    std::fs::write(&files[1], Value::from(walk.exchanges).to_string()).unwrap();
    let checked = python("openapi.py", &[&files[0], &files[1]], "");
    assert!(checked.status.success(), "{}", said(&checked));
}

/// The routes of a description, sorted.
fn described(description: &Value) -> Vec<(String, String)> {
    let mut routes = Vec::new();
    for (path, operations) in description["paths"].as_object().expect("an object") {
        for method in operations.as_object().expect("an object").keys() {
            routes.push((path.clone(), method.to_uppercase()));
        }
    }
    routes.sort();
    routes
}

#[tokio::test]
async fn the_description_lists_exactly_the_served_routes() {
    let daemon = Daemon::start("");
    let (_, description) = daemon.get("/openapi.json").await;
    let mut routes = ROUTES.map(|(method, path)| (path.to_owned(), method.to_owned())).to_vec();
    routes.sort();
    assert_eq!(described(&description), routes);

    let landing = call(&daemon, "GET", "/", &[], "").await.text;
    for (path, method) in &routes {
        assert!(landing.contains(path.as_str()), "{path} is not on the landing page");
        let asked = path.replace("{id}", "none").replace("{queue}", "nosuch");
        let answer = call(&daemon, method, &asked, &[], "").await;
        let code = answer.json["error"]["code"].as_str().unwrap_or_default();
        assert!(!["route_not_found", "method_not_allowed"].contains(&code), "{method} {path}");
        let wrong = call(&daemon, "PATCH", &asked, &[], "").await;
        let mut allowed: BTreeSet<_> = wrong.header("allow").expect("allow").split(',').collect();
        allowed.remove("HEAD");
        let served = routes.iter().filter(|(other, _)| other == path);
        assert_eq!(allowed, served.map(|(_, method)| &**method).collect(), "{path}");
    }
}

#[tokio::test]
async fn the_description_names_every_refusal_with_its_status() {
    let daemon = Daemon::start("");
    let (_, description) = daemon.get("/openapi.json").await;
    let mut named = BTreeMap::new();
    for (path, method) in described(&description) {
        let operation = &description["paths"][&path][method.to_lowercase()];
        for (status, response) in operation["responses"].as_object().expect("an object") {
            let status: u16 = status.parse().expect("a status");
            let text = response["description"].as_str().expect("text");
            let names = text.split(", ").filter(|_| status >= 400);
            named.extend(names.map(|name| (name.to_owned(), status)));
        }
    }
    let expected: BTreeMap<_, _> = CASES
        .iter()
        // These are answers to requests that are on no route.
        .filter(|(code, ..)| !["route_not_found", "method_not_allowed"].contains(code))
        .map(|(code, status, _)| ((*code).to_owned(), *status))
        .collect();
    assert_eq!(named, expected);
}
