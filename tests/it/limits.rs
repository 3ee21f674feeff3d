//! What a state, a limit, a route or a host does not allow, and the drain.

use serde_json::{Value, json};

use crate::call::{Answer, call, connect, read_to_end, send};
use crate::fixture::Daemon;
use crate::refusals::{Row, bare, post, refuse_all};

/// Creates a job and tells its id.
async fn create(daemon: &Daemon, job: Value) -> String {
    let answer = send(daemon, "POST", "/v1/jobs", job).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json["id"].as_str().unwrap().to_owned()
}

/// Leases the next job of a queue and ends its attempt so.
async fn end(daemon: &Daemon, queue: &str, mut finish: Value) {
    let leased = daemon.post("/v1/leases", json!({"queues": [queue]})).await.1;
    finish["lease"] = leased["jobs"][0]["lease"].clone();
    let answer = daemon.post("/v1/leases/finish", json!([finish])).await.1;
    assert_eq!(answer, json!({"results": ["ok"]}), "{leased}");
}

#[tokio::test]
async fn a_state_that_does_not_allow_it_is_a_conflict() {
    let daemon = Daemon::start("");
    let permanent = json!({"outcome": "failed", "permanent": true});
    let mut jobs = Vec::new();
    for (state, finish) in [("completed", json!({"outcome": "completed"})), ("dead", permanent)] {
        jobs.push((state, create(&daemon, json!({"kind": "k"})).await));
        end(&daemon, "default", finish).await;
    }
    jobs.push(("running", create(&daemon, json!({"kind": "k"})).await));
    daemon.post("/v1/leases", json!({"queues": ["default"]})).await;
    jobs.push(("ready", create(&daemon, json!({"kind": "k"})).await));
    jobs.push(("scheduled", create(&daemon, json!({"kind": "k", "delay": "1h"})).await));
    jobs.push(("cancelled", create(&daemon, json!({"kind": "k", "delay": "1h"})).await));
    send(&daemon, "POST", &format!("/v1/jobs/{}/cancel", jobs[5].1), Value::Null).await;

    let mut rows = Vec::new();
    for (state, id) in &jobs {
        assert_eq!(daemon.get(&format!("/v1/jobs/{id}")).await.1["state"], *state);
        if *state != "dead" {
            rows.push(bare("POST", format!("/v1/jobs/{id}/requeue"), "invalid_state"));
            rows.push(bare("DELETE", format!("/v1/jobs/{id}"), "invalid_state"));
        }
        if ["completed", "cancelled", "dead"].contains(state) {
            rows.push(bare("POST", format!("/v1/jobs/{id}/cancel"), "invalid_state"));
        }
    }
    refuse_all(&daemon, &rows).await;
}

#[tokio::test]
async fn a_requeue_whose_unique_key_is_held_is_a_conflict() {
    let daemon = Daemon::start("");
    let job = json!({"kind": "k", "unique_key": "u", "unique_until": "done"});
    let dead = create(&daemon, job.clone()).await;
    end(&daemon, "default", json!({"outcome": "failed", "permanent": true})).await;
    create(&daemon, job).await;
    let row = bare("POST", format!("/v1/jobs/{dead}/requeue"), "unique_key_held");
    refuse_all(&daemon, &[row]).await;
}

#[tokio::test]
async fn unknown_jobs_and_bad_ids_are_not_found() {
    let daemon = Daemon::start("");
    let mut rows = Vec::new();
    for id in [
        "0190163d-8694-739b-aea5-966c26f8ad91",
        "0190163d-8694-439b-aea5-966c26f8ad91",
        "0190163d8694739baea5966c26f8ad91",
        "7",
        "batch",
        "%ff",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "00000000-0000-7000-8000-000000000000",
    ] {
        rows.push(bare("GET", format!("/v1/jobs/{id}"), "job_not_found"));
        rows.push(bare("POST", format!("/v1/jobs/{id}/cancel"), "job_not_found"));
        rows.push(bare("POST", format!("/v1/jobs/{id}/requeue"), "job_not_found"));
        rows.push(bare("DELETE", format!("/v1/jobs/{id}"), "job_not_found"));
    }
    let one_of_batch =
        |row: &Row| row.is("GET", "/v1/jobs/batch") || row.is("DELETE", "/v1/jobs/batch");
    rows.retain(|row| !one_of_batch(row));
    refuse_all(&daemon, &rows).await;
}

#[tokio::test]
async fn bodies_of_operations_on_a_job_take_no_field() {
    let daemon = Daemon::start("");
    let id = create(&daemon, json!({"kind": "k"})).await;
    let mut rows = Vec::new();
    for verb in ["cancel", "requeue"] {
        let path = format!("/v1/jobs/{id}/{verb}");
        rows.push(post(&path, r#"{"why":"so"}"#, "unknown_field").field("why"));
        rows.push(post(&path, "[]", "invalid_field"));
        rows.push(post(&path, "{}", "unsupported_media_type").without("content-type"));
    }
    refuse_all(&daemon, &rows).await;
    let path = format!("/v1/jobs/{id}/cancel");
    assert_eq!(send(&daemon, "POST", &path, json!({})).await.json["state"], "cancelled");
}

#[tokio::test]
async fn strict_queues_refuses_queues_that_are_not_configured() {
    let daemon = Daemon::start("strict_queues = true\n[queues.known]\n");
    let rows = [
        post("/v1/jobs", r#"{"kind":"k","queue":"other"}"#, "queue_not_configured"),
        post("/v1/jobs", r#"{"kind":"k"}"#, "queue_not_configured"),
        post(
            "/v1/jobs/batch",
            r#"[{"kind":"k","queue":"known"},{"kind":"k","queue":"other"}]"#,
            "queue_not_configured",
        )
        .at(1),
        post("/v1/leases", r#"{"queues":["known","other"]}"#, "queue_not_configured")
            .field("queues[1]"),
    ];
    refuse_all(&daemon, &rows).await;
    create(&daemon, json!({"kind": "k", "queue": "known"})).await;
}

#[tokio::test]
async fn one_queue_too_many_is_forbidden() {
    let daemon = Daemon::start("max_queues = 2");
    create(&daemon, json!({"kind": "k", "queue": "second"})).await;
    let rows = [
        post("/v1/jobs", r#"{"kind":"k","queue":"third"}"#, "too_many_queues"),
        post("/v1/jobs/batch", r#"[{"kind":"k"},{"kind":"k","queue":"third"}]"#, "too_many_queues")
            .at(1),
    ];
    refuse_all(&daemon, &rows).await;
    create(&daemon, json!({"kind": "k", "queue": "second"})).await;
}

#[tokio::test]
async fn a_full_queue_refuses_creates_and_takes_repeated_ones() {
    let daemon = Daemon::start("[queues.small]\nmax_depth = 2\n");
    let first = json!({"kind": "k", "queue": "small", "unique_key": "u"});
    let id = create(&daemon, first.clone()).await;
    create(&daemon, json!({"kind": "k", "queue": "small", "delay": "1h"})).await;
    let another = json!({"kind": "k", "queue": "small"});
    let rows = [
        post("/v1/jobs", another.to_string(), "queue_full"),
        post("/v1/jobs/batch", json!([{"kind": "k"}, another]).to_string(), "queue_full").at(1),
    ];
    refuse_all(&daemon, &rows).await;
    let answer = send(&daemon, "POST", "/v1/jobs", another.clone()).await;
    assert_eq!(answer.header("retry-after"), Some("5"));

    let again = send(&daemon, "POST", "/v1/jobs", first.clone()).await;
    assert_eq!((again.status, again.json["id"].as_str()), (200, Some(&*id)));
    let batch = send(&daemon, "POST", "/v1/jobs/batch", json!([first])).await;
    assert_eq!((batch.status, &batch.json["ids"]), (201, &json!([id])));

    let ask = json!({"queues": ["small"]});
    assert_eq!(daemon.post("/v1/leases", ask).await.1["jobs"][0]["id"], id);
    create(&daemon, another).await;
}

#[tokio::test]
async fn unknown_routes_and_methods_are_refused() {
    let daemon = Daemon::start("");
    let rows = [
        bare("GET", "/v1", "route_not_found"),
        bare("GET", "/v1/nothing", "route_not_found"),
        bare("POST", "/v2/jobs", "route_not_found"),
        bare("GET", "/v1/jobs/", "route_not_found"),
        bare("POST", "/v1/jobs/a/b", "route_not_found"),
        bare("GET", "//metrics", "route_not_found"),
        bare("GET", "/v1/queues/", "route_not_found"),
        bare("PUT", "/v1/jobs", "method_not_allowed"),
        bare("PATCH", "/v1/jobs/batch", "method_not_allowed"),
        bare("GET", "/v1/leases", "method_not_allowed"),
        bare("POST", "/metrics", "method_not_allowed"),
        bare("OPTIONS", "/v1/stats", "method_not_allowed"),
        bare("BREW", "/", "method_not_allowed"),
    ];
    refuse_all(&daemon, &rows).await;
    for (method, path, allowed) in [
        ("PUT", "/v1/jobs", "GET,HEAD,POST"),
        ("GET", "/v1/leases", "POST"),
        ("POST", "/metrics", "GET,HEAD"),
        ("POST", "/v1/queues/default", "DELETE,GET,HEAD"),
    ] {
        let answer = call(&daemon, method, path, &[], "").await;
        assert_eq!(allow(&answer), allowed, "{method} {path}");
    }
}

/// The methods of the allow header, sorted.
fn allow(answer: &Answer) -> String {
    let mut methods: Vec<_> = answer.header("allow").expect("an allow header").split(',').collect();
    methods.sort_unstable();
    methods.join(",")
}

#[tokio::test]
async fn a_foreign_host_is_refused() {
    let daemon = Daemon::start("hosts = [\"jobs.example\"]");
    let at = |path: &str, host| bare("GET", path, "misdirected").field("host").with("host", host);
    let rows = [
        at("/v1/stats", "evil.example"),
        at("/v1/stats", "localhost.evil.example"),
        at("/v1/stats", "127.0.0.1.evil.example:8255"),
        at("/metrics", "evil.example:8255"),
        at("/", "evil.example"),
        at("/nothing", "evil.example"),
        post("/v1/jobs", r#"{"kind":"k"}"#, "misdirected")
            .field("host")
            .with("host", "evil.example"),
    ];
    refuse_all(&daemon, &rows).await;
    for host in ["localhost", "LOCALHOST:80", "[::1]:8255", "10.0.0.7", "Jobs.Example:8255"] {
        let answer = call(&daemon, "GET", "/v1/stats", &[("host", host)], "").await;
        assert_eq!(answer.status, 200, "{host}");
    }
    for path in ["/-/healthy", "/-/ready"] {
        let answer = call(&daemon, "GET", path, &[("host", "evil.example")], "").await;
        assert_eq!(answer.status, 200, "probes use the address that they know");
    }
}

#[tokio::test]
async fn a_request_needs_one_host() {
    let daemon = Daemon::start("");
    for hosts in ["", "host: localhost\r\nhost: localhost\r\n"] {
        let head = format!("GET /v1/stats HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        let answer = read_to_end(connect(&daemon, head.as_bytes()));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains(r#""code":"missing_host""#), "{answer}");
    }
    let counted = r#"tallyd_rejected_total{reason="unknown_host"}"#;
    assert_eq!(daemon.scrape().await.value(counted), 2.0);
}

#[tokio::test]
async fn a_page_of_another_site_may_only_read() {
    let daemon = Daemon::start("");
    let id = create(&daemon, json!({"kind": "k"})).await;
    let foreign = [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ];
    let mut rows = Vec::new();
    for (header, value) in foreign {
        let row = |row: Row| row.with(header, value);
        rows.push(row(post("/v1/jobs", r#"{"kind":"k"}"#, "cross_site")));
        rows.push(row(bare("POST", format!("/v1/jobs/{id}/cancel"), "cross_site")));
        rows.push(row(bare("DELETE", format!("/v1/jobs/{id}"), "cross_site")));
        rows.push(row(bare("POST", "/v1/queues/default/pause", "cross_site")));
    }
    refuse_all(&daemon, &rows).await;
    for header in foreign {
        let read = call(&daemon, "GET", "/v1/stats", &[header], "").await;
        assert_eq!(read.status, 200, "{header:?}");
    }
    let own = daemon.url("");
    let headers = [("origin", &*own), ("sec-fetch-site", "same-origin")];
    let cancel = call(&daemon, "POST", &format!("/v1/jobs/{id}/cancel"), &headers, "").await;
    assert_eq!(cancel.status, 200, "{}", cancel.text);
}

#[tokio::test]
async fn a_body_that_breaks_off_creates_nothing() {
    let daemon = Daemon::start("");
    let head = "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let begun = format!("{head}content-length: 12\r\n\r\n{{\"kind\"");
    drop(connect(&daemon, begun.as_bytes()));
    let broken =
        format!("{head}transfer-encoding: chunked\r\n\r\nx\r\n{{\"kind\":\"k\"}}\r\n0\r\n\r\n");
    let answer = read_to_end(connect(&daemon, broken.as_bytes()));
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains(r#""code":"invalid_body""#), "{answer}");
    assert_eq!(daemon.get("/v1/stats").await.1["jobs_created"], 0);
}

#[tokio::test]
async fn a_draining_daemon_leases_nothing_and_takes_everything_else() {
    let config = "[queues.slow]\nexec = { command = [\"/bin/sleep\", \"600\"] }\n";
    let mut daemon = Daemon::start(config);
    let slow = create(&daemon, json!({"kind": "k", "queue": "slow"})).await;
    daemon.job_when(&slow, |job| job["state"] == "running").await;
    let id = create(&daemon, json!({"kind": "k"})).await;
    let leased = daemon.post("/v1/leases", json!({"queues": ["default"]})).await.1;
    create(&daemon, json!({"kind": "k"})).await;
    assert_eq!(call(&daemon, "GET", "/-/ready", &[], "").await.status, 200);

    daemon.signal(rustix::process::Signal::TERM);
    daemon.wait_for_log(|line| line["event"] == "draining");
    let ask = json!({"queues": ["default"], "wait": "60s"});
    loop {
        // The log line comes just before the drain begins.
        let ready = call(&daemon, "GET", "/-/ready", &[], "").await;
        if ready.status == 503 {
            assert_eq!(ready.json["error"]["code"], "draining");
            break;
        }
    }
    let rows =
        [post("/v1/leases", ask.to_string(), "draining"), bare("GET", "/-/ready", "draining")];
    let before = daemon.scrape().await;
    for row in &rows {
        row.must_be_refused(&daemon).await;
    }
    let counted = r#"tallyd_rejected_total{reason="draining"}"#;
    assert_eq!(
        daemon.scrape().await.value(counted),
        before.value(counted) + 1.0,
        "probes are no refusals"
    );

    create(&daemon, json!({"kind": "k"})).await;
    let lease = &leased["jobs"][0]["lease"];
    let (_, renewed) = daemon.post("/v1/leases/renew", json!({"leases": [lease]})).await;
    assert_eq!(renewed, json!({"results": ["ok"]}));
    let finish = json!([{"lease": lease, "outcome": "completed"}]);
    assert_eq!(daemon.post("/v1/leases/finish", finish).await.1, json!({"results": ["ok"]}));
    assert_eq!(daemon.get(&format!("/v1/jobs/{id}")).await.1["state"], "completed");
    assert_eq!(call(&daemon, "GET", "/-/healthy", &[], "").await.status, 200);
    assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
    send(&daemon, "POST", &format!("/v1/jobs/{slow}/cancel"), Value::Null).await;
    assert!(daemon.wait().success(), "with its last attempt ended, it has drained");
}

/// A page may be short, and only a null cursor ends the list.
#[tokio::test]
async fn a_page_of_jobs_with_long_error_texts_is_short() {
    let daemon = Daemon::start("");
    for _ in 0..12 {
        create(&daemon, json!({"kind": "k"})).await;
    }
    let leased = daemon.post("/v1/leases", json!({"queues": ["default"], "max": 12})).await.1;
    let text = "\u{1}".repeat(64 << 10); // each of them takes six bytes in an answer
    let fail = |job: &Value| json!({"lease": job["lease"], "outcome": "failed", "error": text});
    let finishes = leased["jobs"].as_array().unwrap().iter().map(fail).collect();
    let (_, answer) = daemon.post("/v1/leases/finish", Value::Array(finishes)).await;
    assert_eq!(answer, json!({"results": vec!["ok"; 12]}));

    let (mut path, mut listed, mut pages) = ("/v1/jobs?limit=500".to_owned(), 0, 0);
    loop {
        let answer = call(&daemon, "GET", &path, &[], "").await;
        assert!(answer.text.len() < 3 << 20, "a page of {} bytes", answer.text.len());
        listed += answer.json["jobs"].as_array().unwrap().len();
        pages += 1;
        let Some(cursor) = answer.json["next_cursor"].as_str() else { break };
        path = format!("/v1/jobs?limit=500&cursor={cursor}");
    }
    assert_eq!((listed, pages), (12, 3));
}
