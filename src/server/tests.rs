//! Requests that change the store, from the request to what is stored.

use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::fixture::Fixture;
use super::scrapes::MAX_SCRAPES;
use super::{MAX_WRITES, Routes};
use tokio_util::sync::CancellationToken;

fn post(path: &str, body: &Value) -> Request<Body> {
    Request::builder()
        .method("POST")
        .uri(path)
        .header("host", "localhost")
        .header("content-type", "application/json; charset=utf-8")
        .body(Body::from(body.to_string()))
        .expect("a valid request")
}

/// Creates a job and answers with it.
async fn create(server: &Fixture, fields: &str) -> Value {
    let body = format!(r#"{{"kind":"welcome",{fields}}}"#);
    let (status, job) = server.ask("POST", "/v1/jobs", &body).await;
    assert_eq!(status, 201, "{job}");
    job
}

/// The state of a job as the store has it.
async fn state(server: &Fixture, job: &Value) -> String {
    let path = format!("/v1/jobs/{}", job["id"].as_str().expect("an id"));
    let (status, job) = server.ask("GET", &path, "").await;
    assert_eq!(status, 200);
    job["state"].as_str().expect("a state").to_owned()
}

#[tokio::test]
async fn a_created_job_is_found_where_the_answer_says() {
    let server = Fixture::new(|_| {});
    let body = json!({"kind": "welcome", "payload": {"to": "ä"}, "unique_key": "k"});
    let response = server.send(Routes::Whole, post("/v1/jobs", &body)).await;
    assert_eq!(response.status(), 201);
    let location = response.headers()["location"].to_str().expect("a path").to_owned();
    let (status, job) = server.ask("GET", &location, "").await;
    assert_eq!((status.as_u16(), &job["payload"]), (200, &json!({"to": "ä"})));
    let (status, again) = server.ask("POST", "/v1/jobs", &body.to_string()).await;
    assert_eq!((status.as_u16(), &again["duplicate"]), (200, &json!(true)));
    assert_eq!(again["id"], job["id"]);
}

#[tokio::test]
async fn a_batch_with_one_bad_job_creates_nothing() {
    let server = Fixture::new(|_| {});
    let bad = r#"[{"kind":"a"},{"kind":"a","priority":10}]"#;
    let (status, answer) = server.ask("POST", "/v1/jobs/batch", bad).await;
    assert_eq!((status.as_u16(), &answer["error"]["index"]), (400, &json!(1)));
    assert_eq!(answer["error"]["field"], "priority");
    let (_, page) = server.ask("GET", "/v1/jobs", "").await;
    assert_eq!(page, json!({"jobs": [], "next_cursor": null}));
    let good = r#"[{"kind":"a","unique_key":"k"},{"kind":"a"},{"kind":"a","unique_key":"k"}]"#;
    let (status, answer) = server.ask("POST", "/v1/jobs/batch", good).await;
    assert_eq!((status.as_u16(), &answer["duplicates"]), (201, &json!([2])));
    assert_eq!(answer["ids"][0], answer["ids"][2]);
    let (status, answer) = server.ask("POST", "/v1/jobs/batch", "[]").await;
    assert_eq!((status.as_u16(), answer), (201, json!({"ids": [], "duplicates": []})));
}

#[tokio::test]
async fn a_leased_job_is_finished_once_and_invented_leases_are_counted() {
    let server = Fixture::new(|_| {});
    let job = create(&server, r#""payload":[1]"#).await;
    let ask = r#"{"queues":["default"],"worker":"host-1"}"#;
    let (status, answer) = server.ask("POST", "/v1/leases", ask).await;
    assert_eq!(status, 200, "{answer}");
    let leased = &answer["jobs"][0];
    assert_eq!((&leased["id"], &leased["worker"]), (&job["id"], &json!("host-1")));
    assert_eq!((&leased["state"], &leased["payload"]), (&json!("running"), &json!([1])));
    assert!(leased["expires_at"].is_string(), "{leased}");
    let finish = json!([
        {"lease": leased["lease"], "outcome": "completed", "result": {"ok": true}},
        {"lease": "invented", "outcome": "completed"},
    ]);
    for _ in 0..2 {
        let (status, answer) = server.ask("POST", "/v1/leases/finish", &finish.to_string()).await;
        assert_eq!((status.as_u16(), answer), (200, json!({"results": ["ok", "lease_lost"]})));
    }
    let (_, stats) = server.ask("GET", "/v1/stats", "").await;
    assert_eq!((&stats["jobs_completed"], &stats["jobs_in_progress"]), (&json!(1), &json!(0)));
    assert_eq!(stats["queues"]["__other__"]["leases_lost"], 2);
    assert_eq!(stats["queues"]["default"]["jobs_completed"], 1);
}

#[tokio::test]
async fn jobs_of_an_answer_that_nobody_takes_are_given_back() {
    let server = Fixture::new(|_| {});
    let job = create(&server, r#""priority":1"#).await;
    let ask = json!({"queues": ["default"]});
    let unread = server.send(Routes::Whole, post("/v1/leases", &ask)).await;
    assert_eq!(state(&server, &job).await, "running");
    drop(unread);
    server.api.writes_finished().await;
    assert_eq!(state(&server, &job).await, "ready");
    let (_, answer) = server.ask("POST", "/v1/leases", &ask.to_string()).await;
    let again = &answer["jobs"][0];
    assert_eq!((&again["attempt"], &again["failures"]), (&json!(2), &json!(0)));
    server.api.writes_finished().await;
    assert_eq!(state(&server, &job).await, "running");
}

#[tokio::test]
async fn queues_without_outside_workers_lease_nothing() {
    let server = Fixture::new(|config| {
        let exec = crate::config::ExecConfig {
            command: vec!["true".into()],
            env: [].into(),
            dir: None,
            user: None,
            limits: Default::default(),
        };
        let runner = crate::config::Runner::Exec(exec);
        let policy = config.defaults.clone();
        let queue = crate::config::QueueConfig::leased(policy);
        config.queues.insert("local".into(), crate::config::QueueConfig { runner, ..queue });
        config.strict_queues = true;
    });
    for (queue, status, code) in
        [("local", 409, "queue_has_runner"), ("unknown", 404, "queue_not_configured")]
    {
        let ask = json!({"queues": ["default", queue]}).to_string();
        let (told, answer) = server.ask("POST", "/v1/leases", &ask).await;
        assert_eq!((told.as_u16(), &answer["error"]["code"]), (status, &json!(code)));
        assert_eq!(answer["error"]["field"], "queues[1]");
    }
}

#[tokio::test]
async fn operators_act_on_one_job_and_on_many() {
    let server = Fixture::new(|_| {});
    let job = create(&server, r#""delay":"1h""#).await;
    let path = format!("/v1/jobs/{}", job["id"].as_str().expect("an id"));
    let (status, answer) = server.ask("POST", &format!("{path}/requeue"), "").await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (409, &json!("invalid_state")));
    let (status, answer) = server.ask("POST", &format!("{path}/cancel"), r#"{"why":1}"#).await;
    assert_eq!((status.as_u16(), &answer["error"]["field"]), (400, &json!("why")));
    let (status, answer) = server.ask("POST", &format!("{path}/cancel"), "").await;
    assert_eq!((status.as_u16(), &answer["state"]), (200, &json!("cancelled")));
    for _ in 0..3 {
        create(&server, r#""queue":"other""#).await;
    }
    let (status, answer) = server.ask("POST", "/v1/queues/other/cancel", r#"{"limit":2}"#).await;
    assert_eq!((status.as_u16(), answer), (200, json!({"count": 2, "more": true})));
    let (_, queue) = server.ask("GET", "/v1/queues/other", "").await;
    assert_eq!((&queue["jobs"]["cancelled"], &queue["jobs"]["ready"]), (&json!(2), &json!(1)));
    let (status, queue) = server.ask("POST", "/v1/queues/other/pause", "").await;
    assert_eq!((status.as_u16(), &queue["paused"]), (200, &json!(true)));
    let (status, answer) = server.ask("DELETE", "/v1/queues/other", "").await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (409, &json!("queue_not_empty")));
}

#[tokio::test]
async fn bodies_are_refused_by_type_and_encoding() {
    let server = Fixture::new(|_| {});
    let send = async |name: &'static str, value: &'static str| {
        let mut request = post("/v1/jobs", &json!({"kind": "a"}));
        request.headers_mut().insert(name, value.parse().expect("a header"));
        server.send(Routes::Whole, request).await.status().as_u16()
    };
    assert_eq!(send("content-type", "text/plain").await, 415);
    assert_eq!(send("content-type", "application/x-ndjson").await, 415);
    assert_eq!(send("content-encoding", "gzip").await, 415);
    assert_eq!(send("content-type", "application/json").await, 201);
}

#[tokio::test]
async fn a_write_keeps_the_room_of_its_body_when_its_caller_hangs_up() {
    let Fixture { api, .. } = &Fixture::new(|_| {});
    let mut whole = api.rooms.enter();
    whole.cover(128 << 20).expect("all is free");
    let (finish, finished) = tokio::sync::oneshot::channel();
    let work = async {
        finished.await.expect("it is told");
        Ok(())
    };
    tokio::select! {
        biased;
        _ = api.write_in(whole, work) => panic!("it cannot be finished yet"),
        () = std::future::ready(()) => {} // the caller is gone
    }
    assert!(api.rooms.enter().cover(1 << 20).is_err(), "what was received is still held");
    finish.send(()).expect("the write goes on");
    api.writes_finished().await;
    assert_eq!(api.rooms.enter().cover(1 << 20), Ok(()));
}

#[tokio::test]
async fn writes_whose_callers_have_gone_are_bounded() {
    let Fixture { api, .. } = &Fixture::new(|_| {});
    let stop = CancellationToken::new();
    let mut begun = 0;
    for _ in 0..=MAX_WRITES {
        let stop = stop.clone();
        let work = async move {
            stop.cancelled().await;
            Ok(())
        };
        tokio::select! {
            biased;
            _ = api.write(work) => panic!("it is not stopped yet"),
            () = std::future::ready(()) => begun = api.writes.len(),
        }
    }
    assert_eq!(begun, MAX_WRITES);
    stop.cancel();
    api.writes_finished().await;
}

/// Status, code and `retry-after` of a refusal.
async fn refusal(response: Response<Body>) -> (u16, String, String) {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("it is whole").to_bytes();
    let answer: Value = serde_json::from_slice(&body).expect("JSON");
    let code = answer["error"]["code"].as_str().unwrap_or_default().to_owned();
    let retry = head.headers["retry-after"].to_str().expect("a number").to_owned();
    (head.status.as_u16(), code, retry)
}

fn busy() -> (u16, String, String) {
    (503, "server_busy".to_owned(), "1".to_owned())
}

/// What is exported of refusals by this reason.
fn rejected(server: &Fixture, reason: &str) -> String {
    let name = format!("tallyd_rejected_total{{reason=\"{reason}\"}} ");
    let text = server.api.metrics.snapshot().to_text();
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value.expect("it is exported").to_owned()
}

#[tokio::test]
async fn scrapes_that_nobody_reads_keep_out_further_ones_only_while_they_are_held() {
    let server = Fixture::new(|_| {});
    let get = |path: &str| {
        let request = Request::builder().uri(path).header("host", "localhost");
        request.body(Body::empty()).expect("a valid request")
    };
    tokio::time::pause(); // a place is waited for
    let mut all_unread = Vec::new();
    for (path, refused) in [("/metrics", "1"), ("/v1/stats", "2")] {
        let scrape = async || server.send(Routes::Whole, get(path)).await;
        let mut unread = Vec::new();
        for number in 0..MAX_SCRAPES {
            unread.push(scrape().await);
            assert_eq!(unread[number].status(), 200, "{path} {number}");
        }
        assert_eq!(refusal(scrape().await).await, busy(), "{path}");
        assert_eq!(rejected(&server, "server_busy"), refused);
        all_unread.append(&mut unread);
    }
    // Each sort keeps out its own only: the statistics were answered while no scrape was.
    drop(all_unread.remove(0));
    assert_eq!(server.send(Routes::Whole, get("/metrics")).await.status(), 200);
    assert_eq!(refusal(server.send(Routes::Whole, get("/v1/stats")).await).await, busy());
}

#[tokio::test]
async fn large_bodies_are_refused_while_others_have_all_the_room() {
    let server = Fixture::new(|_| {});
    let mut others = server.api.rooms.enter();
    others.cover(128 << 20).expect("all is free");
    let large = json!({"kind": "k", "payload": "x".repeat(20 << 10)});
    let refused = server.send(Routes::Whole, post("/v1/jobs", &large)).await;
    assert_eq!(refusal(refused).await, busy());
    assert_eq!(rejected(&server, "server_busy"), "1");
    let small = server.send(Routes::Whole, post("/v1/jobs", &json!({"kind": "k"}))).await;
    assert_eq!(small.status(), 201);
    drop(others);
    let taken = server.send(Routes::Whole, post("/v1/jobs", &large)).await;
    assert_eq!(taken.status(), 201);
}

#[tokio::test]
async fn large_answers_are_refused_while_others_have_all_the_room_and_nothing_is_changed() {
    let server = Fixture::new(|_| {});
    let send = async |request| server.send(Routes::Whole, request).await;
    let large = json!({"kind": "k", "unique_key": "u", "payload": "x".repeat(20 << 10)});
    let created = send(post("/v1/jobs", &large)).await;
    assert_eq!(created.status(), 201);
    let job = created.headers()["location"].to_str().expect("a path").to_owned();
    drop(created);
    let mut others = server.api.answers.enter();
    others.cover(128 << 20).expect("all is free");
    let show = || {
        let request = Request::builder().uri(&job).header("host", "localhost");
        request.body(Body::empty()).expect("a valid request")
    };
    let lease = || post("/v1/leases", &json!({"queues": ["default"]}));
    let cancel = || post(&format!("{job}/cancel"), &json!({}));
    let same_key = || post("/v1/jobs", &json!({"kind": "k", "unique_key": "u"}));
    tokio::time::pause(); // the cancel waits for room
    for request in [show(), lease(), cancel(), same_key()] {
        let what = request.uri().clone();
        assert_eq!(refusal(send(request).await).await, busy(), "{what}");
    }
    // A create has had its room before.
    let other = json!({"kind": "k", "queue": "other", "payload": "x".repeat(20 << 10)});
    assert_eq!(send(post("/v1/jobs", &other)).await.status(), 201);

    drop(others);
    let shown = send(show()).await.into_body().collect().await.expect("it is whole").to_bytes();
    let shown: Value = serde_json::from_slice(&shown).expect("JSON");
    assert_eq!((&shown["state"], &shown["attempt"]), (&json!("ready"), &json!(0)));
    for request in [same_key(), lease(), cancel()] {
        let what = request.uri().clone();
        assert_eq!(send(request).await.status(), 200, "{what}");
    }
}

#[tokio::test]
async fn jobs_for_whose_answer_there_is_no_room_stay_or_go_back() {
    let server = Fixture::new(|_| {});
    let send = async |request| server.send(Routes::Whole, request).await;
    let large = json!({"kind": "k", "payload": "x".repeat(900 << 10)});
    let lease =
        |wait: &str| post("/v1/leases", &json!({"queues": ["default"], "max": 2, "wait": wait}));
    let mut others = server.api.answers.enter();
    // One that waits has been told nothing of it yet.
    let mut waiting = std::pin::pin!(send(lease("60s")));
    tokio::select! {
        biased;
        _ = &mut waiting => panic!("there is no job"),
        () = std::future::ready(()) => {}
    }
    others.cover((128 << 20) - (500 << 10)).expect("all is free");
    assert_eq!(send(post("/v1/jobs", &large)).await.status(), 201);
    assert_eq!(refusal(waiting.await).await, busy());
    while server.ask("GET", "/v1/queues/default", "").await.1["jobs"]["ready"] != json!(1) {
        tokio::task::yield_now().await;
    }
    drop(others);
    let mut others = server.api.answers.enter();
    others.cover((128 << 20) - (1 << 20)).expect("all is free");
    assert_eq!(send(post("/v1/jobs", &large)).await.status(), 201);
    let leased = send(lease("0s")).await.into_body().collect().await.expect("it is whole");
    let leased: Value = serde_json::from_slice(&leased.to_bytes()).expect("JSON");
    assert_eq!(leased["jobs"].as_array().map(Vec::len), Some(1), "there is room for one");
}

#[tokio::test]
async fn a_caller_who_hangs_up_is_counted_as_one_who_did() {
    let server = Fixture::new(|_| {});
    let ask = json!({"queues": ["default"], "wait": "60s"});
    tokio::select! {
        biased;
        _ = server.send(Routes::Whole, post("/v1/leases", &ask)) => panic!("there is no job"),
        () = std::future::ready(()) => {} // the caller is gone
    }
    let text = server.api.metrics.snapshot().to_text();
    let mut counted = text.lines().filter(|line| line.starts_with("tallyd_http_requests_total{"));
    let wanted = r#"tallyd_http_requests_total{code="499",method="POST",route="/v1/leases"} 1"#;
    assert_eq!((counted.next(), counted.next()), (Some(wanted), None));
}
