//! Bad input: each mistake gets its own answer, is counted, and changes nothing.

use serde_json::{Value, json};

use crate::call::{call, connect, read_to_end, send};
use crate::fixture::Daemon;
use crate::refusals::{Row, bare, lines, post, refuse_all};
use crate::tokens;

/// Mistakes in one job: its JSON, the case, the field that is named.
fn bad_jobs() -> Vec<(String, &'static str, &'static str)> {
    let names = ["", "a b", "é", ".a", "__other__", &"a".repeat(129)]
        .map(|name| [("kind", name.to_owned()), ("queue", name.to_owned())]);
    let names = names.into_iter().flatten().map(|(field, name)| {
        let mut job = json!({"kind": "k"});
        job[field] = name.into();
        (job.to_string(), "invalid_name", field)
    });
    let key = format!(r#""unique_key":"{}""#, "k".repeat(201));
    let deep = format!(r#""payload":{}1{}"#, "[".repeat(33), "]".repeat(33));
    let fields = [
        (r#""colour":1"#, "unknown_field", "colour"),
        (r#""Queue":"a""#, "unknown_field", "Queue"),
        (r#""kind":"k""#, "invalid_field", "kind"),
        (r#""queue":7"#, "invalid_field", "queue"),
        (r#""priority":10"#, "invalid_field", "priority"),
        (r#""priority":-1"#, "invalid_field", "priority"),
        (r#""priority":"5""#, "invalid_field", "priority"),
        (r#""priority":5.5"#, "invalid_field", "priority"),
        (r#""priority":1e99"#, "invalid_field", "priority"),
        (r#""priority":1e400"#, "invalid_field", "priority"),
        (r#""priority":18446744073709551615"#, "invalid_field", "priority"),
        (r#""run_at":"2026-03-01T12:00:00""#, "invalid_field", "run_at"),
        (r#""run_at":"tomorrow""#, "invalid_field", "run_at"),
        (r#""run_at":1772366400"#, "invalid_field", "run_at"),
        (r#""run_at":"1969-12-31T23:59:59Z""#, "invalid_field", "run_at"),
        (r#""run_at":"2026-03-01T12:00:00Z","delay":"5s""#, "invalid_field", "delay"),
        (r#""delay":"5""#, "invalid_field", "delay"),
        (r#""delay":"-5s""#, "invalid_field", "delay"),
        (r#""delay":"1.5s""#, "invalid_field", "delay"),
        (r#""delay":"1w""#, "invalid_field", "delay"),
        (r#""delay":"1234567890s""#, "invalid_field", "delay"),
        (r#""delay":"36501d""#, "invalid_field", "delay"),
        (r#""delay":5"#, "invalid_field", "delay"),
        (r#""max_attempts":0"#, "invalid_field", "max_attempts"),
        (r#""max_attempts":1000001"#, "invalid_field", "max_attempts"),
        (r#""max_attempts":"3""#, "invalid_field", "max_attempts"),
        (r#""timeout":"366d""#, "invalid_field", "timeout"),
        (r#""timeout":"soon""#, "invalid_field", "timeout"),
        (r#""unique_key":"""#, "invalid_field", "unique_key"),
        (r#""unique_key":5"#, "invalid_field", "unique_key"),
        (&key, "invalid_field", "unique_key"),
        (r#""unique_until":"done""#, "invalid_field", "unique_until"),
        (r#""unique_until":5"#, "invalid_field", "unique_until"),
        (r#""unique_key":"k","unique_until":{"done":null}"#, "invalid_field", "unique_until"),
        (r#""unique_key":"k","unique_until":"ever""#, "invalid_field", "unique_until"),
        (r#""traceparent":"00-1-2-3""#, "invalid_field", "traceparent"),
        (&deep, "json_too_deep", "payload"),
    ]
    .map(|(field, code, named)| (format!(r#"{{"kind":"k",{field}}}"#), code, named));
    let whole = [("{}", "missing_field"), (r#"{"kind":7}"#, "invalid_field")];
    let whole = whole.map(|(job, code)| (job.to_owned(), code, "kind"));
    names.chain(fields).chain(whole).collect()
}

#[tokio::test]
async fn a_bad_job_is_refused_with_its_field() {
    let daemon = Daemon::start("");
    let path = "/v1/jobs";
    let mut rows: Vec<Row> = bad_jobs()
        .into_iter()
        .map(|(job, code, field)| post(path, job, code).field(field))
        .collect();
    rows.push(post(path, "", "missing_field").field("kind"));
    for text in ["[]", "null", "7", "\"x\"", r#"[{"kind":"k"}]"#] {
        rows.push(post(path, text, "invalid_field"));
    }
    for text in ["{", "x", r#"{"kind":"k"} x"#, r#"{"kind":"k",}"#, r#"{"kind":"k","payload":}"#] {
        rows.push(post(path, text, "invalid_json"));
    }
    rows.push(post(path, *b"{\"kind\":\"k\",\"payload\":\"\xff\"}", "invalid_json"));
    rows.push(
        post(path, format!(r#"{{"kind":{}"#, "[".repeat(500)), "invalid_field").field("kind"),
    );
    refuse_all(&daemon, &rows).await;
}

#[tokio::test]
async fn a_batch_with_one_bad_job_creates_nothing() {
    let daemon = Daemon::start("");
    let path = "/v1/jobs/batch";
    let good = r#"{"kind":"k"}"#;
    let mut rows = Vec::new();
    for (bad, code, field) in bad_jobs() {
        rows.push(post(path, format!("[{good},{bad},{good}]"), code).field(field).at(1));
        rows.push(lines(format!("\n{good}\n{bad}\n{good}\n"), code).field(field).at(1));
    }
    rows.push(post(path, format!("[{good},7]"), "invalid_field").at(1));
    rows.push(post(path, format!("[{good},{good},{{"), "invalid_json").at(2));
    rows.push(post(path, format!("[{good}"), "invalid_json").at(1));
    rows.push(post(path, format!("[{good}] x"), "invalid_json").at(1));
    for broken in ["[{\"kind\":}]", "[{\"kind\":\"k\"", "[{", "["] {
        rows.push(post(path, broken, "invalid_json").at(0));
    }
    rows.push(post(path, good, "invalid_field"));
    rows.push(post(path, "", "invalid_field"));
    rows.push(lines(format!("{good}\n{{\"kind\":\n{good}"), "invalid_json").at(1));
    rows.push(lines(format!("[{good}]"), "invalid_field").at(0));
    rows.push(lines(format!("{good} {good}"), "invalid_json").at(0));
    refuse_all(&daemon, &rows).await;
    let headers = [("content-type", "application/x-ndjson")];
    let body = format!("{good}\n\n{{\"kind\":\n");
    let answer = call(&daemon, "POST", path, &headers, body).await;
    let message = answer.json["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("line 3: "), "{message}");
}

/// F16: payloads, results and error texts have limits.
#[tokio::test]
async fn what_is_too_large_is_refused_after_it_was_read_away() {
    let daemon = Daemon::start("");
    let job_of = |bytes: usize| {
        let frame = r#"{"kind":"k","payload":""}"#;
        format!(r#"{{"kind":"k","payload":"{}"}}"#, "x".repeat(bytes - frame.len()))
    };
    let good = r#"{"kind":"k"}"#;
    let (limit, most) = (1 << 20, 16 << 20);
    let many = |count: usize| format!("[{}{good}]", format!("{good},").repeat(count - 1));
    let batch = "/v1/jobs/batch";
    let padded = |bytes: usize| format!("{good}{}", " ".repeat(bytes - good.len()));
    let rows = [
        post("/v1/jobs", job_of(limit + 1), "job_too_large"),
        post("/v1/jobs", padded(limit + 1), "job_too_large"),
        post("/v1/jobs", padded(limit + most), "job_too_large"),
        post(batch, format!("[{good},{}]", job_of(limit + 1)), "job_too_large").at(1),
        lines(format!("{good}\n{}", job_of(limit + 1)), "job_too_large").at(1),
        post(batch, padded(most + 1), "body_too_large"),
        lines(padded(2 * most), "body_too_large"),
        post(batch, many(10_001), "too_many_items"),
        lines(format!("{good}\n").repeat(10_001), "too_many_items"),
        post("/v1/leases", padded(limit + 1), "body_too_large"),
        post("/v1/leases/renew", padded(limit + 1), "body_too_large"),
        post("/v1/leases/finish", padded(most + 1), "body_too_large"),
        post("/v1/queues/default/pause", padded(limit + 1), "body_too_large"),
    ];
    refuse_all(&daemon, &rows).await;
    let at_limit = call(&daemon, "POST", "/v1/jobs", &[("content-type", "application/json")], {
        job_of(limit)
    });
    assert_eq!(at_limit.await.status, 201);
    let whole = many(10_000);
    let answer = call(&daemon, "POST", batch, &[("content-type", "application/json")], whole).await;
    assert_eq!((answer.status, answer.json["ids"].as_array().unwrap().len()), (201, 10_000));
}

#[tokio::test]
async fn a_body_that_says_it_is_huge_is_refused_unread() {
    let daemon = Daemon::start("");
    let head = "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 109951162777600\r\n\r\n";
    let answer = read_to_end(connect(&daemon, head.as_bytes()));
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains(r#""code":"job_too_large""#), "{answer}");
}

/// Whoever sends all before reading anything would see a reset connection if it was not read.
#[tokio::test]
async fn who_is_refused_at_once_learns_why_also_behind_the_largest_body() {
    let (token, block) = tokens::new(&["reader", "--roles", "metrics"]);
    let daemon = Daemon::start(&block);
    let wrong = token.replace("tallyd_", "tallyd-");
    let body = " ".repeat(16 << 20);
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let behind = "GET /-/healthy HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let most_before = daemon.peak_kib();
    for (line, token, headers, told) in [
        ("POST /v1/jobs/batch", &wrong, "", (401, "unauthorized")),
        ("POST /v1/jobs/batch", &token, "", (403, "forbidden")),
        ("DELETE /v1/jobs", &token, "origin: null\r\n", (403, "cross_site")),
        ("POST /none", &token, "", (404, "route_not_found")),
        ("PUT /v1/jobs/batch", &token, "", (405, "method_not_allowed")),
        ("POST /none", &wrong, "host: evil.example\r\n", (400, "missing_host")),
    ] {
        let head = format!(
            "{line} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n{headers}"
        );
        let whole = format!("{head}content-length: {}\r\n\r\n{body}{behind}", body.len());
        let answers = read_to_end(connect(&daemon, whole.as_bytes()));
        assert!(answers.starts_with(&format!("HTTP/1.1 {} ", told.0)), "{line}: {answers}");
        assert!(answers.contains(&format!(r#"{{"error":{{"code":"{}""#, told.1)), "{answers}");
        assert!(answers.ends_with("healthy\n"), "what stands behind is served: {answers}");
        let whole = format!("{head}transfer-encoding: chunked\r\n\r\n{chunks}");
        let answer = read_to_end(connect(&daemon, whole.as_bytes()));
        assert!(answer.starts_with(&format!("HTTP/1.1 {} ", told.0)), "{line}: {answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    let more = daemon.peak_kib() - most_before;
    assert!(more < (body.len() >> 10) as u64, "{more} KiB more than before");
}

#[tokio::test]
async fn a_max_payload_of_the_configuration_is_the_limit() {
    let daemon = Daemon::start("max_payload = \"1KiB\"");
    let job = format!(r#"{{"kind":"k","payload":"{}"}}"#, "x".repeat(1024));
    refuse_all(&daemon, &[post("/v1/jobs", job, "job_too_large")]).await;
}

#[tokio::test]
async fn bodies_need_their_media_type_and_no_encoding() {
    let daemon = Daemon::start("");
    let good = r#"{"kind":"k"}"#;
    let unsupported = "unsupported_media_type";
    let mut rows = Vec::new();
    for (path, body) in [
        ("/v1/jobs", good),
        ("/v1/jobs/batch", "[]"),
        ("/v1/leases", r#"{"queues":["default"]}"#),
        ("/v1/leases/finish", "[]"),
        ("/v1/leases/renew", r#"{"leases":[]}"#),
        ("/v1/queues/default/pause", "{}"),
        ("/v1/queues/default/resume", "{}"),
        ("/v1/queues/default/cancel", "{}"),
        ("/v1/queues/default/requeue-dead", "{}"),
        ("/v1/queues/default/discard-dead", "{}"),
    ] {
        let row = post(path, body, unsupported);
        rows.push(row.clone().without("content-type"));
        rows.push(row.clone().with("content-type", "text/plain"));
        rows.push(row.with("content-type", "application/x-www-form-urlencoded"));
        rows.push(post(path, body, "unsupported_encoding").with("content-encoding", "gzip"));
    }
    rows.push(lines(good, "unsupported_encoding").with("content-encoding", "identity"));
    rows.push(post("/v1/jobs", good, unsupported).with("content-type", "application/x-ndjson"));
    refuse_all(&daemon, &rows).await;
    for media in ["application/json; charset=utf-8", "Application/JSON"] {
        let answer = call(&daemon, "POST", "/v1/jobs", &[("content-type", media)], good).await;
        assert_eq!(answer.status, 201, "{media}");
    }
}

#[tokio::test]
async fn bad_lease_requests_and_renewals_are_refused() {
    let daemon = Daemon::start("[queues.local]\nexec = { command = [\"/bin/true\"] }\n");
    let queues: Vec<_> = (0..101).map(|number| format!("q{number}")).collect();
    let lease =
        |body: Value, code, field: &str| post("/v1/leases", body.to_string(), code).field(field);
    let of = |field: &str, value: Value| {
        let mut body = json!({"queues": ["default"]});
        body[field] = value;
        lease(body, "invalid_field", field)
    };
    let mut rows = vec![
        lease(json!({}), "missing_field", "queues"),
        lease(json!({"queues": []}), "invalid_field", "queues"),
        lease(json!({"queues": queues}), "invalid_field", "queues"),
        lease(json!({"queues": "default"}), "invalid_field", "queues"),
        lease(json!({"queues": ["default", 1]}), "invalid_field", "queues[1]"),
        lease(json!({"queues": ["default", "a b"]}), "invalid_name", "queues[1]"),
        lease(json!({"queues": ["default"], "wiat": "5s"}), "unknown_field", "wiat"),
        lease(json!({"queues": ["default", "local"]}), "queue_has_runner", "queues[1]"),
        post("/v1/leases", "[\"default\"]", "invalid_field"),
        post("/v1/leases", "{\"queues\":", "invalid_json"),
    ];
    let bad_values = [
        ("max", vec![json!(0), json!(1_001), json!(-1), json!("1"), json!(1.5)]),
        ("wait", vec![json!("61s"), json!("5"), json!(5), json!("-1s")]),
        ("duration", vec![json!("999ms"), json!("61m"), json!("0s"), json!(60)]),
        ("worker", vec![json!(""), json!("w".repeat(201)), json!(7)]),
    ];
    for (field, values) in bad_values {
        rows.extend(values.into_iter().map(|value| of(field, value)));
    }
    let renew = |body: Value, code, field: &str| {
        post("/v1/leases/renew", body.to_string(), code).field(field)
    };
    rows.extend([
        renew(json!({}), "missing_field", "leases"),
        renew(json!({"leases": "x"}), "invalid_field", "leases"),
        renew(json!({"leases": ["x", 1]}), "invalid_field", "leases[1]"),
        renew(json!({"leases": ["x"], "duration": "1ms"}), "invalid_field", "duration"),
        renew(json!({"leases": ["x"], "for": "1m"}), "unknown_field", "for"),
        renew(json!({"leases": vec![""; 10_001]}), "too_many_items", "leases"),
    ]);
    refuse_all(&daemon, &rows).await;
}

#[tokio::test]
async fn one_malformed_finish_among_good_ones_applies_none() {
    let daemon = Daemon::start("");
    daemon.post("/v1/jobs", json!({"kind": "k"})).await;
    let leased = daemon.post("/v1/leases", json!({"queues": ["default"]})).await.1;
    let good = json!({"lease": leased["jobs"][0]["lease"], "outcome": "completed"});
    let large = "x".repeat((64 << 10) + 1);
    let deep = (0..33).fold(json!(1), |inner, _| json!([inner]));
    let bad = [
        (json!({"outcome": "completed"}), "missing_field", "lease"),
        (json!({"lease": "x"}), "missing_field", "outcome"),
        (json!({"lease": 7, "outcome": "completed"}), "invalid_field", "lease"),
        (json!({"lease": "x", "outcome": "done"}), "invalid_field", "outcome"),
        (json!({"lease": "x", "outcome": null}), "invalid_field", "outcome"),
        (json!({"lease": "x", "outcome": {"completed": null}}), "invalid_field", "outcome"),
        (json!({"lease": "x", "outcome": "cancelled"}), "invalid_field", "outcome"),
        (json!({"lease": "x", "outcome": "completed", "why": 1}), "unknown_field", "why"),
        (json!({"lease": "x", "outcome": "failed", "result": 1}), "unknown_field", "result"),
        (json!({"lease": "x", "outcome": "completed", "error": "e"}), "unknown_field", "error"),
        (json!({"lease": "x", "outcome": "released", "error": "e"}), "unknown_field", "error"),
        (
            json!({"lease": "x", "outcome": "completed", "retry_in": "1s"}),
            "unknown_field",
            "retry_in",
        ),
        (
            json!({"lease": "x", "outcome": "released", "permanent": true}),
            "unknown_field",
            "permanent",
        ),
        (json!({"lease": "x", "outcome": "failed", "retry_in": "1"}), "invalid_field", "retry_in"),
        (
            json!({"lease": "x", "outcome": "failed", "permanent": "yes"}),
            "invalid_field",
            "permanent",
        ),
        (json!({"lease": "x", "outcome": "failed", "error": 7}), "invalid_field", "error"),
        (json!({"lease": "x", "outcome": "failed", "error": large}), "error_too_long", "error"),
        (
            json!({"lease": "x", "outcome": "completed", "result": large}),
            "result_too_large",
            "result",
        ),
        (json!({"lease": "x", "outcome": "completed", "result": deep}), "json_too_deep", "result"),
    ];
    let path = "/v1/leases/finish";
    let mut rows: Vec<Row> = bad
        .into_iter()
        .map(|(bad, code, field)| {
            post(path, json!([good, bad, good]).to_string(), code).field(field).at(1)
        })
        .collect();
    rows.push(post(path, good.to_string(), "invalid_field"));
    rows.push(post(path, json!([good, 7]).to_string(), "invalid_field").at(1));
    rows.push(post(path, format!("[{good},{{"), "invalid_json").at(1));
    rows.push(post(path, json!(vec![&good; 10_001]).to_string(), "too_many_items"));
    refuse_all(&daemon, &rows).await;
    let (_, answer) = daemon.post(path, json!([good])).await;
    assert_eq!(answer, json!({"results": ["ok"]}));
}

/// F22: every number has its bounds.
#[tokio::test]
async fn bad_queries_are_refused_and_never_clamped() {
    let daemon = Daemon::start("");
    let rows = [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=-1", "limit"),
        ("limit=ten", "limit"),
        ("limit=", "limit"),
        ("limit=99999999999999999999999", "limit"),
        ("limit=5&limit=5", "limit"),
        ("state=done", "state"),
        ("state=", "state"),
        ("queue=a%20b", "queue"),
        ("queue=%ff", "queue"),
        ("kind=", "kind"),
        ("kind=__other__", "kind"),
        ("cursor=7", "cursor"),
        ("cursor=-000000000000001", "cursor"),
        ("colour=red", "colour"),
        ("queue=default&Limit=5", "Limit"),
    ];
    let row =
        |(query, field)| bare("GET", format!("/v1/jobs?{query}"), "invalid_query").field(field);
    let mut rows: Vec<Row> = rows.map(row).into();
    rows.extend([
        bare("GET", "/v1/stats?queue=default", "invalid_query"),
        bare("GET", "/v1/queues?limit=5", "invalid_query"),
        bare("DELETE", "/v1/queues/default?force", "invalid_query"),
        bare("POST", "/v1/queues/default/pause?for=5s", "invalid_query"),
        post("/v1/jobs?queue=default", r#"{"kind":"k"}"#, "invalid_query"),
        post("/v1/jobs/batch?x", "[]", "invalid_query"),
        post("/v1/leases?wait=5s", r#"{"queues":["default"]}"#, "invalid_query"),
    ]);
    refuse_all(&daemon, &rows).await;
    assert_eq!(call(&daemon, "GET", "/v1/stats?", &[], "").await.status, 200);
}

#[tokio::test]
async fn bad_operations_on_queues_are_refused() {
    let daemon = Daemon::start("");
    send(&daemon, "POST", "/v1/jobs", json!({"kind": "k", "queue": "busy"})).await;
    let mut rows = vec![
        bare("GET", "/v1/queues/nosuch", "queue_not_found"),
        bare("GET", "/v1/queues/a%20b", "invalid_name").field("queue"),
        bare("GET", "/v1/queues/__other__", "invalid_name").field("queue"),
        bare("DELETE", "/v1/queues/nosuch", "queue_not_found"),
        bare("DELETE", "/v1/queues/default", "queue_configured"),
        bare("DELETE", "/v1/queues/busy", "queue_not_empty"),
        bare("DELETE", "/v1/queues/%ff", "invalid_name").field("queue"),
    ];
    for verb in ["pause", "resume", "cancel", "requeue-dead", "discard-dead"] {
        let path = format!("/v1/queues/default/{verb}");
        rows.push(bare("POST", format!("/v1/queues/nosuch/{verb}"), "queue_not_found"));
        rows.push(bare("POST", format!("/v1/queues/.a/{verb}"), "invalid_name").field("queue"));
        rows.push(post(&path, r#"{"why":1}"#, "unknown_field").field("why"));
        rows.push(post(&path, "[]", "invalid_field"));
    }
    for verb in ["cancel", "requeue-dead", "discard-dead"] {
        for (body, code, field) in [
            (r#"{"limit":0}"#, "invalid_field", "limit"),
            (r#"{"limit":10001}"#, "invalid_field", "limit"),
            (r#"{"limit":"5"}"#, "invalid_field", "limit"),
            (r#"{"before":"2026-03-01T12:00:00"}"#, "invalid_field", "before"),
            (r#"{"before":5}"#, "invalid_field", "before"),
            (r#"{"kind":"a b"}"#, "invalid_name", "kind"),
        ] {
            rows.push(post(format!("/v1/queues/busy/{verb}"), body, code).field(field));
        }
    }
    refuse_all(&daemon, &rows).await;
}
