//! The formats of the exposition: who gets which, that others read both, and that they agree.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use flate2::read::GzDecoder;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, VARY};
use serde_json::json;
use tallyd::clock::Timestamp;
use tallyd::config::Config;
use tallyd::job::State;
use tallyd::metrics::{Format, Metrics};
use tallyd::tally::{Counts, Observation, QueueDelta, RowId, TallyDelta};
use uuid::Uuid;

use crate::call::call;
use crate::exposition::{read_by_python, used};
use crate::fixture::{Daemon, PATIENCE};

/// As Prometheus 3 sends them, byte for byte.
const PROMETHEUS_3: [(&str, &str); 3] = [
    (
        "accept",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
    ),
    ("accept-encoding", "gzip"),
    ("x-prometheus-scrape-timeout-seconds", "10"),
];

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN_METRICS: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores";
const OPEN_METRICS_UTF8: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8";

/// The headers and the bytes of an exposition.
async fn exposition(
    daemon: &Daemon,
    query: &str,
    headers: &[(&str, &str)],
) -> (HeaderMap, Vec<u8>) {
    let url = daemon.url(&format!("/metrics{query}"));
    let mut request = daemon.client.get(url).timeout(PATIENCE);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.expect("it answers");
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    (headers, response.bytes().await.expect("the answer is whole").into())
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().expect("headers are ASCII"))
}

async fn text(daemon: &Daemon, accept: &str) -> String {
    let (_, bytes) = exposition(daemon, "", &[("accept", accept)]).await;
    String::from_utf8(bytes).expect("UTF-8")
}

#[tokio::test]
async fn each_scraper_gets_the_format_that_it_reads_best() {
    let daemon = Daemon::start("");
    let (headers, bytes) = exposition(&daemon, "", &PROMETHEUS_3).await;
    assert_eq!(header(&headers, CONTENT_TYPE), Some(OPEN_METRICS_UTF8));
    assert_eq!(header(&headers, CONTENT_ENCODING), Some("gzip"));
    let mut text = String::new();
    GzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("gzip");
    assert!(text.ends_with("\n# EOF\n"), "{text}");
    assert!(bytes.len() * 5 < text.len(), "{} bytes of {}", bytes.len(), text.len());
    for (accept, expected) in [
        (
            Some(
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ),
            OPEN_METRICS,
        ),
        (Some("*/*"), TEXT),
        (Some("nonsense;;=/"), TEXT),
        (None, TEXT),
    ] {
        let accept = accept.map(|accept| ("accept", accept));
        let (headers, _) = exposition(&daemon, "", accept.as_slice()).await;
        assert_eq!(header(&headers, CONTENT_TYPE), Some(expected), "{accept:?}");
        assert_eq!(header(&headers, CONTENT_ENCODING), None, "{accept:?}");
        assert_eq!(header(&headers, VARY), Some("accept, accept-encoding"), "{accept:?}");
    }
    let head = call(&daemon, "HEAD", "/metrics", &PROMETHEUS_3, "").await;
    assert_eq!(head.header("content-type"), Some(OPEN_METRICS_UTF8));
    assert_eq!((head.header("content-encoding"), head.text.as_str()), (Some("gzip"), ""));
}

/// Families that stand still while nobody creates jobs.
fn stands_still(sample: &str) -> bool {
    let moving = ["process_", "tallyd_http_", "tallyd_sweeper_last_run", "tallyd_store_"];
    !moving.iter().any(|start| sample.starts_with(start))
}

#[tokio::test]
async fn the_python_client_reads_the_same_in_both_formats() {
    let daemon = used().await;
    let read = |format: &str, text: &str| -> BTreeMap<String, f64> {
        let samples = read_by_python(format, text).into_iter();
        let named = samples.map(|sample| {
            let bound = |name: &str| -> Option<String> {
                let (before, rest) = name.split_once("le=")?;
                let (bound, after) = rest.split_at(rest.find([',', '}'])?);
                Some(format!("{before}le={}{after}", bound.parse::<f64>().ok()?))
            };
            (bound(&sample.name).unwrap_or(sample.name), sample.value)
        });
        named.collect()
    };
    let plain = read("text", &text(&daemon, "text/plain").await);
    let open_metrics = read("openmetrics", &text(&daemon, "application/openmetrics-text").await);
    assert!(plain.len() > 300, "{}", plain.len());
    let differs = |(name, value): &(&String, &f64)| {
        stands_still(name) && open_metrics.get(*name) != Some(*value)
    };
    assert_eq!(plain.iter().filter(differs).collect::<Vec<_>>(), []);
    // The first scrape is counted in the second one.
    let is_new = |name: &&String| !plain.contains_key(*name) && !name.contains("=/metrics");
    assert_eq!(open_metrics.keys().filter(is_new).collect::<Vec<_>>(), [""; 0]);
}

#[tokio::test]
async fn a_slow_bucket_leads_to_its_job_and_its_trace() {
    let now = || jiff::Timestamp::now().as_millisecond() as f64 / 1e3;
    let began = now();
    let daemon = Daemon::start("");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = format!("00-{trace}-00f067aa0ba902b7-01");
    let (_, traced) =
        daemon.post("/v1/jobs", json!({"kind": "k", "traceparent": traceparent})).await;
    let plain = json!({"kind": "k", "queue": "plain", "max_attempts": 1});
    let (_, plain) = daemon.post("/v1/jobs", plain).await;
    for (queue, outcome) in [("default", "completed"), ("plain", "failed")] {
        let (_, leased) = daemon.post("/v1/leases", json!({"queues": [queue]})).await;
        let finish = json!([{"lease": leased["jobs"][0]["lease"], "outcome": outcome}]);
        assert_eq!(daemon.post("/v1/leases/finish", finish).await.1["results"], json!(["ok"]));
    }
    let ended = now();
    let text = text(&daemon, "application/openmetrics-text").await;
    let exemplars = read_by_python("openmetrics", &text).into_iter();
    let exemplars: Vec<_> = exemplars.filter(|sample| !sample.exemplar.is_null()).collect();
    assert_eq!(exemplars.len(), 4, "the wait and the duration of two attempts");
    for (queue, expected) in [
        ("default", json!({"job_id": traced["id"], "trace_id": trace})),
        ("plain", json!({"job_id": plain["id"]})),
    ] {
        for name in ["tallyd_job_wait_seconds_bucket", "tallyd_attempt_duration_seconds_bucket"] {
            let is_of = |sample: &str| {
                sample.starts_with(name) && sample.contains(&format!("queue={queue}"))
            };
            let of: Vec<_> = exemplars.iter().filter(|sample| is_of(&sample.name)).collect();
            assert_eq!(of.len(), 1, "{name} of {queue}");
            assert_eq!(of[0].exemplar[0], expected, "{name} of {queue}");
            let [seconds, at] = [1, 2].map(|part| of[0].exemplar[part].as_f64().unwrap());
            assert!((0.0..PATIENCE.as_secs_f64()).contains(&seconds), "{seconds} s");
            assert!((began..=ended).contains(&at), "{began} <= {at} <= {ended}");
        }
    }
}

/// Names may not hold such characters; what is written with them can be read all the same.
#[test]
fn odd_label_values_are_read_back_as_they_were() {
    const ODD: &str = "q\"u\\o\nte,=}{ ü #";
    let metrics = Metrics::new(Arc::new(Config::default()));
    let observed = Observation { seconds: 0.5, at: Timestamp(0), job: Uuid::nil(), trace: None };
    let queue = QueueDelta { has_series: true, waits: vec![observed], ..QueueDelta::default() };
    let mut counts = Counts::default();
    counts.record_created(State::Ready);
    let batch = TallyDelta {
        new_rows: vec![(RowId(1), ODD.into(), "k".into())],
        rows: vec![(RowId(1), counts)],
        queues: vec![(ODD.into(), queue)],
        ..TallyDelta::default()
    };
    metrics.publish(&batch, 1, 0.1);
    let snapshot = metrics.snapshot();
    for (name, format) in [("text", Format::Text), ("openmetrics", Format::OpenMetrics)] {
        let read = read_by_python(name, &snapshot.encode(format, |_| true));
        let of = |wanted: &str| read.iter().find(|sample| sample.name == wanted).map(|s| s.value);
        let created = format!("tallyd_jobs_created_total{{kind=k,queue={ODD}}}");
        assert_eq!(of(&created), Some(1.0), "{name}");
        let bound = if format == Format::Text { "1" } else { "1.0" };
        let bucket = format!("tallyd_job_wait_seconds_bucket{{le={bound},queue={ODD}}}");
        assert_eq!(of(&bucket), Some(1.0), "{name}");
    }
}

#[tokio::test]
async fn a_scrape_may_ask_for_single_families() {
    let daemon = Daemon::start("");
    let families = async |query: &str| {
        let (_, bytes) = exposition(&daemon, query, &[]).await;
        let text = String::from_utf8(bytes).expect("UTF-8");
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        types.map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let asked = "?name[]=tallyd_pairs&name%5B%5D=tallyd_job_wait_seconds_bucket&name[]=unknown";
    assert_eq!(families(asked).await, ["tallyd_job_wait_seconds", "tallyd_pairs"]);
    assert_eq!(families("?name[]=unknown").await, [""; 0]);
    assert!(families("?other=1").await.len() > 20, "parameters of others mean nothing");
    let gzip = [("accept", "application/openmetrics-text"), ("accept-encoding", "gzip")];
    let (_, bytes) = exposition(&daemon, "?name[]=tallyd_pairs", &gzip).await;
    let mut text = String::new();
    GzDecoder::new(&bytes[..]).read_to_string(&mut text).expect("gzip");
    assert_eq!(text.lines().count(), 4, "help, type, sample, end: {text}");
}
