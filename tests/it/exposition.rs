//! What Prometheus reads: every family, in a form that others can read, equal to `/v1/stats`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::call::{call, send};
use crate::fixture::{Daemon, PATIENCE, Scrape};
use crate::tools::{promtool, python, said};

/// The configuration of a daemon in which everything can happen.
pub const EVERYTHING: &str = "[defaults]\nmax_completed = 0\nbackoff = { initial = \"1h\" }\n\
                              [queues.small]\nmax_depth = 1\n[queues.local]\n\
                              exec = { command = [\"/bin/grep\", \"-q\", \"good\"] }\n";

/// A daemon in which everything has happened that has a metric.
pub async fn used() -> Daemon {
    let daemon = Daemon::start(EVERYTHING);
    make_everything_happen(&daemon, 1).await;
    daemon
}

/// Makes everything happen that has a metric, for the first time, the second, ….
pub async fn make_everything_happen(daemon: &Daemon, time: u64) {
    let lease = async |queue: &str, more: Value| {
        let mut ask = json!({"queues": [queue], "wait": "60s"});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        daemon.post("/v1/leases", ask).await.1["jobs"][0].clone()
    };
    let create = async |job: Value| send(daemon, "POST", "/v1/jobs", job).await.json;
    let finish = async |finish: Value| {
        let answer = daemon.post("/v1/leases/finish", json!([finish])).await.1;
        answer["results"][0].as_str().unwrap().to_owned()
    };
    for outcome in ["completed", "failed", "released"] {
        let key = format!("{outcome} {time}");
        create(json!({"kind": outcome, "queue": "other", "unique_key": key})).await;
        let lease = lease("other", json!({})).await["lease"].clone();
        assert_eq!(finish(json!({"lease": lease, "outcome": outcome})).await, "ok");
    }
    let key = format!("failed {time}");
    let again = json!({"kind": "failed", "queue": "other", "unique_key": key});
    assert_eq!(create(again).await["duplicate"], true);
    let dead = create(json!({"kind": "k"})).await;
    for verb in ["POST /requeue", "DELETE "] {
        let lease = lease("default", json!({})).await["lease"].clone();
        let failed = json!({"lease": lease, "outcome": "failed", "permanent": true});
        assert_eq!(finish(failed.clone()).await, "ok");
        let (method, verb) = verb.split_once(' ').unwrap();
        let path = format!("/v1/jobs/{}{verb}", dead["id"].as_str().unwrap());
        assert!(send(daemon, method, &path, Value::Null).await.status < 300);
        assert_eq!(finish(json!({"lease": lease, "outcome": "completed"})).await, "lease_lost");
    }
    assert_eq!(finish(json!({"lease": "invented", "outcome": "completed"})).await, "lease_lost");
    create(json!({"kind": "k", "delay": "10ms"})).await;
    lease("default", json!({"duration": "1s"})).await;
    let expired = lease("default", json!({})).await;
    let path = format!("/v1/jobs/{}/cancel", expired["id"].as_str().unwrap());
    assert_eq!(send(daemon, "POST", &path, Value::Null).await.json["state"], "cancelled");
    create(json!({"kind": "k", "timeout": "10ms", "max_attempts": 1})).await;
    let timed_out = lease("default", json!({})).await;
    daemon.job_when(timed_out["id"].as_str().unwrap(), |job| job["state"] == "dead").await;
    for payload in ["good", "bad"] {
        let job = create(json!({"kind": "k", "queue": "local", "payload": payload})).await;
        let id = job["id"].as_str().unwrap();
        if payload == "bad" {
            daemon.job_when(id, |job| job["state"] == "retrying").await;
        }
    }
    create(json!({"kind": "scheduled", "queue": "other", "delay": "1h"})).await;
    create(json!({"kind": "k", "queue": "small"})).await;
    assert_eq!(
        send(daemon, "POST", "/v1/jobs", json!({"kind": "k", "queue": "small"})).await.status,
        429
    );
    create(json!({"kind": "running"})).await;
    lease("default", json!({"duration": "1h"})).await;
    daemon.post("/v1/queues/other/pause", Value::Null).await;
    settled(daemon).await;
}

/// Returns when the daemon has nothing left to do that changes a count: its own queue has nothing
/// to run, and what is completed or cancelled is pruned.
async fn settled(daemon: &Daemon) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let (_, stats) = daemon.get("/v1/stats").await;
        let number = |value: &Value| value.as_u64().expect("a number");
        let local = &stats["queues"]["local"];
        let to_run = number(&local["jobs_ready"]) + number(&local["jobs_in_progress"]);
        let ended = number(&stats["jobs_completed"]) + number(&stats["jobs_cancelled"]);
        if to_run == 0 && number(&stats["sweeper"]["pruned"]) == ended {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "it stays so: {stats}");
    }
}

/// The catalogue as `tallyd metrics --json` prints it.
pub fn catalogue() -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_tallyd")).args(["metrics", "--json"]).output();
    serde_json::from_slice(&output.expect("it runs").stdout).expect("JSON")
}

#[tokio::test]
async fn the_catalogue_lists_exactly_what_a_used_daemon_exports() {
    let scrape = used().await.scrape().await;
    let types = scrape.text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let types: Vec<(&str, &str)> = types.map(|line| line.split_once(' ').unwrap()).collect();
    let catalogue = catalogue();
    let text = |metric: &Value, key: &str| metric[key].as_str().unwrap_or_default().to_owned();
    let listed: Vec<_> = catalogue.iter().map(|m| (text(m, "name"), text(m, "type"))).collect();
    assert_eq!(types, listed.iter().map(|(n, t)| (&**n, &**t)).collect::<Vec<_>>());

    let mut labels = BTreeMap::<String, BTreeSet<String>>::new();
    for (sample, _) in scrape.starting("") {
        let name = family(sample, &listed);
        labels.entry(name).or_default().extend(label_names(sample));
    }
    for metric in &catalogue {
        let names = metric["labels"].as_array().unwrap();
        let mut names: BTreeSet<_> = names.iter().map(|l| l.as_str().unwrap().to_owned()).collect();
        if metric["type"] == "histogram" {
            names.insert("le".to_owned());
        }
        assert_eq!(labels[metric["name"].as_str().unwrap()], names, "{metric}");
    }
}

/// The family of a sample: its name, without the end that histograms add.
fn family(sample: &str, listed: &[(String, String)]) -> String {
    let name = sample.split('{').next().unwrap();
    let ends = ["_bucket", "_sum", "_count"];
    let base = ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
    let is_histogram = listed.iter().any(|(n, t)| n == base && t == "histogram");
    if is_histogram { base.to_owned() } else { name.to_owned() }
}

fn label_names(sample: &str) -> Vec<String> {
    let Some((_, labels)) = sample.trim_end_matches('}').split_once('{') else { return Vec::new() };
    // No value here has a quote or an equals sign in it.
    labels.split("\",").map(|label| label.split('=').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn promtool_has_nothing_to_complain_about() {
    let scrape = used().await.scrape().await;
    let checked = promtool(&["check", "metrics"], &scrape.text);
    assert_eq!((checked.status.code(), said(&checked)), (Some(0), String::new()));
}

#[tokio::test]
async fn the_python_client_reads_every_sample() {
    let scrape = used().await.scrape().await;
    let read = read_by_python("text", &scrape.text);
    let read: BTreeMap<_, _> = read.into_iter().map(|sample| (sample.name, sample.value)).collect();
    let own: BTreeMap<_, _> =
        scrape.starting("").map(|(name, value)| (with_sorted_labels(name), value)).collect();
    assert_eq!(read, own);
    assert_eq!(own.len(), scrape.starting("").count());
}

/// A sample as `prometheus_client` has read it.
pub struct ReadSample {
    /// With its labels, sorted.
    pub name: String,
    pub value: f64,
    /// The labels, the value and the time of its exemplar; null if it has none.
    pub exemplar: Value,
    /// All but the exemplar, with the labels as they stood.
    pub line: String,
}

/// Reads an exposition with the parser of this format: `text` or `openmetrics`.
pub fn read_by_python(format: &str, text: &str) -> Vec<ReadSample> {
    let read = python("exposition.py", &[Path::new(format)], text);
    assert!(read.status.success(), "{}", said(&read));
    let lines = String::from_utf8(read.stdout).unwrap();
    let samples = lines.lines().map(|line| {
        let (kind, name, labels, value, exemplar, line): (
            String,
            String,
            BTreeMap<String, String>,
            String,
            Value,
            String,
        ) = serde_json::from_str(line).unwrap();
        assert!(["counter", "gauge", "histogram"].contains(&&*kind), "{name} is of type {kind}");
        let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let name = if labels.is_empty() { name } else { format!("{name}{{{}}}", labels.join(",")) };
        ReadSample { name, value: value.parse().unwrap(), exemplar, line }
    });
    samples.collect()
}

fn with_sorted_labels(sample: &str) -> String {
    let Some((name, labels)) = sample.split_once('{') else { return sample.to_owned() };
    let labels = labels.trim_end_matches("\"}");
    let mut labels: Vec<_> = labels.split("\",").map(|label| label.replace("=\"", "=")).collect();
    labels.sort();
    format!("{name}{{{}}}", labels.join(","))
}

/// The fields of the statistics, each with the samples that it sums.
const FIELDS: [(&str, &[&str]); 14] = [
    ("jobs_created", &["tallyd_jobs_created_total"]),
    ("jobs_completed", &["tallyd_jobs_completed_total"]),
    ("jobs_cancelled", &["tallyd_jobs_cancelled_total"]),
    ("jobs_discarded", &["tallyd_jobs_discarded_total"]),
    ("jobs_retried", &["tallyd_jobs_retried_total"]),
    ("jobs_died", &["tallyd_jobs_died_total"]),
    ("jobs_requeued", &["tallyd_jobs_requeued_total"]),
    ("jobs_scheduled", &["tallyd_jobs state=scheduled"]),
    ("jobs_ready", &["tallyd_jobs state=ready"]),
    ("jobs_retrying", &["tallyd_jobs state=retrying"]),
    ("jobs_in_progress", &["tallyd_jobs state=running"]),
    ("jobs_dead", &["tallyd_jobs state=dead"]),
    ("attempts_started", &["tallyd_attempts_started_total"]),
    (
        "jobs_failed",
        &[
            "tallyd_attempts_ended_total result=failed",
            "tallyd_attempts_ended_total result=timed_out",
            "tallyd_attempts_ended_total result=lease_expired",
        ],
    ),
];

/// The sum over all kinds of a queue, or over all queues.
fn sum(scrape: &Scrape, queue: Option<&str>, samples: &[&str]) -> f64 {
    let of = |sample: &str| {
        let (name, last) = sample.split_once(' ').unwrap_or((sample, ""));
        let start =
            format!("{name}{{{}", queue.map_or(String::new(), |q| format!("queue=\"{q}\",")));
        let last = last.replace('=', "=\"");
        let all = scrape.starting(&start).filter(|(name, _)| name.contains(&last));
        all.map(|(_, value)| value).sum::<f64>()
    };
    samples.iter().map(|sample| of(sample)).sum()
}

#[tokio::test]
async fn the_statistics_equal_the_metrics() {
    let daemon = used().await;
    let (_, stats) = daemon.get("/v1/stats").await;
    for field in FIELDS.map(|(field, _)| field) {
        assert!(stats[field].as_f64() > Some(0.0), "{field} was not used: {stats}");
    }
    check_statistics(&stats, &daemon.scrape().await);
    for (format, accept) in
        [("text", "text/plain"), ("openmetrics", "application/openmetrics-text")]
    {
        let headers = [("accept", accept)];
        let text = call(&daemon, "GET", "/metrics", &headers, "").await.text;
        let read: Vec<_> = read_by_python(format, &text).into_iter().map(|s| s.line).collect();
        check_statistics(&stats, &Scrape::parse(&read.join("\n")));
    }
}

/// Whether the statistics say what a scrape says.
fn check_statistics(stats: &Value, scrape: &Scrape) {
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
    let queues: Vec<_> = stats["queues"].as_object().unwrap().keys().map(|q| &**q).collect();
    assert_eq!(queues, ["__other__", "default", "local", "other", "small"]);
    let all = [None].into_iter().chain(queues.into_iter().map(Some));
    for queue in all {
        let counts = queue.map_or(stats, |queue| &stats["queues"][queue]);
        for (field, samples) in FIELDS {
            let told = counts[field].as_f64().unwrap();
            assert_eq!(told, sum(scrape, queue, samples), "{field} of {queue:?}");
        }
        for result in ["completed", "failed", "timed_out", "lease_expired", "released", "cancelled"]
        {
            let sample = format!("tallyd_attempts_ended_total result={result}");
            let told = counts["attempts_ended"][result].as_f64().unwrap();
            assert_eq!(told, sum(scrape, queue, &[&sample]), "{result} of {queue:?}");
        }
        for (field, name) in
            [("leases_lost", "tallyd_leases_lost_total"), ("duplicates", "tallyd_duplicates_total")]
        {
            let all = || scrape.starting(name).map(|(_, value)| value).sum();
            let one = |queue| scrape.value(&format!("{name}{{queue=\"{queue}\"}}"));
            assert_eq!(counts[field].as_f64(), Some(queue.map_or_else(all, one)), "{field}");
        }
    }
    for action in ["promoted", "expired", "pruned"] {
        let sample = format!("tallyd_sweeper_jobs_total{{action=\"{action}\"}}");
        assert_eq!(stats["sweeper"][action].as_f64(), Some(scrape.value(&sample)), "{action}");
    }
}

/// The value of the only sample of a name.
fn only(scrape: &Scrape, name: &str) -> f64 {
    let samples: Vec<_> = scrape.starting(name).filter(|(sample, _)| is_of(sample, name)).collect();
    assert_eq!(samples.len(), 1, "{name}: {samples:?}");
    samples[0].1
}

fn is_of(sample: &str, name: &str) -> bool {
    sample.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
}

#[tokio::test]
async fn what_is_measured_and_what_is_configured_have_sensible_values() {
    let started = Timestamp::now().as_second() as f64;
    let daemon = used().await;
    let scrape = daemon.scrape().await;
    let at_most = Timestamp::now().as_second() as f64 + 1.0;

    let size = only(&scrape, "tallyd_store_size_bytes");
    assert!(size > 0.0 && size % 4096.0 == 0.0, "whole pages: {size}");
    let free = only(&scrape, "tallyd_store_free_bytes");
    assert!(free > f64::from(1 << 20) && free % 512.0 == 0.0, "room for this test: {free}");
    let swept = only(&scrape, "tallyd_sweeper_last_run_timestamp_seconds");
    assert!((started..=at_most).contains(&swept), "{started} <= {swept} <= {at_most}");

    let limit = |queue| scrape.value(&format!("tallyd_queue_workers_limit{{queue=\"{queue}\"}}"));
    assert_eq!(["local", "small", "other"].map(limit), [10.0, 0.0, 0.0]);
    let depths: Vec<_> = scrape.starting("tallyd_queue_depth_limit").collect();
    assert_eq!(depths, [("tallyd_queue_depth_limit{queue=\"small\"}", 1.0)]);
    assert_eq!(only(&scrape, "tallyd_pairs_limit"), 500.0);

    let commits = only(&scrape, "tallyd_store_commit_duration_seconds_count");
    assert!(commits > 10.0, "{commits}");
    assert_eq!(only(&scrape, "tallyd_store_commit_operations_count"), commits);
    assert!(only(&scrape, "tallyd_store_commit_duration_seconds_sum") > 0.0);
    assert!(only(&scrape, "tallyd_store_commit_operations_sum") >= commits);

    for route in ["/v1/jobs", "/v1/jobs/{id}", "/v1/leases", "/v1/leases/finish", "/v1/stats"] {
        let name = "tallyd_http_request_duration_seconds_count";
        let timed = scrape.value(&format!("{name}{{route=\"{route}\"}}"));
        let label = format!("route=\"{route}\"");
        let counted = scrape.starting("tallyd_http_requests_total{");
        let counted = counted.filter(|(sample, _)| sample.contains(&label));
        assert_eq!(timed, counted.map(|(_, value)| value).sum::<f64>(), "{route}");
        assert!(timed > 0.0, "{route} was used");
    }
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    let built: Vec<_> = scrape.starting("tallyd_build_info{").collect();
    assert!(matches!(built[..], [(sample, 1.0)] if sample.contains(&version)), "{built:?}");
}

#[tokio::test]
async fn pages_answer_get_and_head() {
    let daemon = Daemon::start("");
    for (path, media) in [
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/-/healthy", "text/plain; charset=utf-8"),
        ("/-/ready", "text/plain; charset=utf-8"),
        ("/", "text/html; charset=utf-8"),
        ("/openapi.json", "application/json"),
        ("/v1/stats", "application/json"),
    ] {
        let whole = call(&daemon, "GET", path, &[], "").await;
        assert_eq!((whole.status, whole.header("content-type")), (200, Some(media)), "{path}");
        let head = call(&daemon, "HEAD", path, &[], "").await;
        assert_eq!((head.status, head.header("content-type")), (200, Some(media)), "{path}");
        assert!(head.text.is_empty() && !whole.text.is_empty(), "{path}");
        if path != "/metrics" {
            let length = head.header("content-length").expect("a length");
            assert_eq!(length, whole.text.len().to_string(), "{path}");
        }
    }
    assert_eq!(call(&daemon, "GET", "/-/healthy", &[], "").await.text, "healthy\n");
    assert_eq!(call(&daemon, "GET", "/-/ready", &[], "").await.text, "ready\n");
    let landing = call(&daemon, "GET", "/", &[], "").await;
    let policy = landing.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let requests = r#"tallyd_http_requests_total{code="200",method="HEAD",route="/metrics"}"#;
    assert_eq!(daemon.scrape().await.value(requests), 1.0);
}

/// Where a daemon with `metrics_listen` says that it serves them.
pub fn metrics_address(daemon: &mut Daemon) -> String {
    let log = daemon.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut addresses = lines.filter(|line| line["message"] == "serving metrics");
    addresses.next().expect("it says where")["address"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn with_metrics_listen_the_exposition_is_only_there() {
    let mut daemon = Daemon::start("metrics_listen = \"127.0.0.1:0\"");
    assert_eq!(daemon.get("/metrics").await.0, 404);
    assert_eq!(daemon.get("/v1/stats").await.0, 200);
    let address = metrics_address(&mut daemon);
    let get = async |path: &str| {
        let response = daemon.client.get(format!("http://{address}{path}")).send().await;
        let response = response.expect("it answers");
        (response.status().as_u16(), response.text().await.expect("the answer is whole"))
    };
    for (path, status) in
        [("/-/healthy", 200), ("/-/ready", 200), ("/v1/stats", 404), ("/v1/jobs", 404), ("/", 404)]
    {
        assert_eq!(get(path).await.0, status, "{path}");
    }
    let (status, text) = get("/metrics").await;
    assert_eq!(status, 200);
    let sample = r#"tallyd_http_requests_total{code="200",method="GET",route="/v1/stats"}"#;
    assert_eq!(Scrape::parse(&text).value(sample), 1.0, "one set of metrics for both");
}
