//! Every route, with every role and every way to be nobody.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::*;
use crate::config::{ExecConfig, ExecLimits, Policy, QueueConfig};
use crate::server::fixture::Fixture;
use crate::server::{Routes, routes};

/// Which roles each route is for, besides admin, written down once more, by people.
const FOR: [(&str, &str); 23] = [
    ("createJob", "create exec"),
    ("createJobs", "create exec"),
    ("listJobs", "create exec work"),
    ("showJob", "create exec work"),
    ("cancelJob", "create exec"),
    ("requeueJob", ""),
    ("discardJob", ""),
    ("listQueues", "metrics create exec work"),
    ("showQueue", "metrics create exec work"),
    ("forgetQueue", ""),
    ("pauseQueue", ""),
    ("resumeQueue", ""),
    ("cancelJobs", ""),
    ("requeueDeadJobs", ""),
    ("discardDeadJobs", ""),
    ("leaseJobs", "work"),
    ("finishJobs", "work"),
    ("renewLeases", "work"),
    ("writeBackup", ""),
    ("showStats", "metrics"),
    ("showMetrics", "metrics"),
    ("describe", "metrics create exec work"),
    ("land", "metrics create exec work"),
];

/// The characters of the token of this name.
fn text(name: &str) -> String {
    format!("tallyd_{name:-<40}")
}

/// A token of this name.
fn token(name: &str, roles: &[Role]) -> Token {
    Token {
        name: name.to_owned(),
        sha256: Hash::of(&text(name)),
        roles: roles.iter().copied().collect(),
        queues: None,
        expires_at: None,
    }
}

/// A server that knows a token for each role, and one that has expired, and has a queue `x` with a command.
fn server(more: &[Token]) -> Fixture {
    let roles = Role::ALL.map(|role| token(role.name(), &[role]));
    let expired = Role::ALL.map(|role| {
        let end = "2026-01-01T00:00:00Z".parse().ok();
        Token { expires_at: end, ..token(&format!("old-{}", role.name()), &[role]) }
    });
    Fixture::new(|config| {
        config.tokens.configured = [&roles[..], &expired[..], more].concat();
        let command = vec!["/bin/true".to_owned()];
        let (env, limits) = (BTreeMap::new(), ExecLimits::default());
        let runner = Runner::Exec(ExecConfig { command, env, dir: None, user: None, limits });
        let queue = QueueConfig { runner, ..QueueConfig::leased(Policy::default()) };
        config.queues.insert("x".into(), queue);
    })
}

async fn send(
    server: &Fixture,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost");
    }
    if !body.is_empty() {
        request = request.header("content-type", "application/json");
    }
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    server.send(Routes::Whole, request.body(Body::from(body.to_owned())).expect("valid")).await
}

/// Status and answer of a request with this token.
async fn ask(server: &Fixture, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let bearer = format!("Bearer {}", text(token));
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let response = send(server, method, path, &[("authorization", &bearer)], &body).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("it is whole").to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test]
async fn every_route_is_for_its_roles_only_and_never_for_nobody() {
    let mut told = 0;
    for route in routes::table() {
        let server = server(&[]);
        let id = "0190163d-8694-739b-aea5-966c26f8ad91";
        let path = route.path.replace("{id}", id).replace("{queue}", "default");
        let method = route.method.as_str();
        let is_open = path.starts_with("/-/");
        let roles = FOR.iter().find(|(name, _)| *name == route.name);
        assert_eq!(roles.is_none(), is_open, "{} is in the list", route.name);
        let nobody = send(&server, method, &path, &[], "").await;
        assert_eq!(nobody.status() == 401, !is_open, "{method} {path} without a token");
        let challenge =
            nobody.headers().get("www-authenticate").and_then(|value| value.to_str().ok());
        assert_eq!(challenge == Some("Bearer realm=\"tallyd\""), !is_open);
        for role in Role::ALL.map(Role::name) {
            for unknown in [format!("old-{role}"), format!("{role}x"), role.to_uppercase()] {
                let (status, answer) = ask(&server, &unknown, method, &path, Value::Null).await;
                assert_eq!(status == 401, !is_open, "{method} {path} with {unknown}: {answer}");
            }
            let is_for = role == "admin"
                || roles.is_none_or(|(_, all)| all.split(' ').any(|one| one == role));
            let (status, answer) = ask(&server, role, method, &path, Value::Null).await;
            assert_ne!(status, 401, "{method} {path} with {role}");
            let code = answer["error"]["code"].as_str().unwrap_or_default();
            assert_eq!(code != "forbidden", is_for, "{method} {path} with {role}: {answer}");
            told += 1;
        }
    }
    assert_eq!(told, (FOR.len() + 2) * Role::ALL.len());
}

#[tokio::test]
async fn what_is_not_there_is_told_to_callers_who_are_known() {
    let server = server(&[]);
    for (method, path, status) in [("GET", "/v1/nothing", 404), ("PATCH", "/v1/jobs", 405)] {
        assert_eq!(send(&server, method, path, &[], "").await.status(), 401, "{path}");
        assert_eq!(ask(&server, "metrics", method, path, Value::Null).await.0, status, "{path}");
    }
    assert_eq!(send(&server, "PATCH", "/-/ready", &[], "").await.status(), 405);
}

#[tokio::test]
async fn jobs_of_a_queue_with_a_command_need_a_role_of_their_own() {
    let server = server(&[token("both", &[Role::Create, Role::Exec])]);
    for (bearer, queue, status) in [
        ("create", "default", 201),
        ("create", "x", 403),
        ("exec", "x", 201),
        ("exec", "default", 403),
        ("both", "x", 201),
        ("both", "default", 201),
        ("admin", "x", 201),
    ] {
        let job = json!({"kind": "k", "queue": queue});
        let (told, answer) = ask(&server, bearer, "POST", "/v1/jobs", job.clone()).await;
        assert_eq!(told, status, "{bearer} on {queue}: {answer}");
        let batch = json!([{"kind": "k", "queue": "x"}, job]);
        let (told, answer) = ask(&server, bearer, "POST", "/v1/jobs/batch", batch).await;
        let has_both = ["both", "admin"].contains(&bearer);
        assert_eq!(told == 201, has_both || (bearer, queue) == ("exec", "x"), "{bearer}: {answer}");
    }
    for (owner, queue, other) in [("create", "default", "exec"), ("exec", "x", "create")] {
        let job = json!({"kind": "k", "queue": queue, "delay": "1h"});
        let (_, job) = ask(&server, owner, "POST", "/v1/jobs", job).await;
        let path = format!("/v1/jobs/{}/cancel", job["id"].as_str().expect("an id"));
        assert_eq!(
            ask(&server, other, "POST", &path, Value::Null).await.0,
            403,
            "{other} on {queue}"
        );
        assert_eq!(ask(&server, owner, "POST", &path, Value::Null).await.0, 200);
    }
    let jobs = json!([{"kind": "k"}, {"kind": "k", "queue": "x"}]);
    let (_, answer) = ask(&server, "create", "POST", "/v1/jobs/batch", jobs).await;
    assert_eq!(answer["error"]["index"], 1, "{answer}");
}

/// A server with tokens that are for queue `a` only, and a job in `a` and one in `b`.
async fn limited() -> (Fixture, [String; 2]) {
    let only = |name: &str, role| {
        let queues = Some(BTreeSet::from(["a".to_owned()]));
        Token { queues, ..token(name, &[role]) }
    };
    let server =
        server(&[only("ca", Role::Create), only("wa", Role::Work), only("aa", Role::Admin)]);
    let mut ids = Vec::new();
    for queue in ["a", "b"] {
        let job = json!({"kind": "k", "queue": queue});
        let (_, job) = ask(&server, "create", "POST", "/v1/jobs", job).await;
        ids.push(job["id"].as_str().expect("an id").to_owned());
    }
    (server, ids.try_into().expect("two"))
}

#[tokio::test]
async fn a_token_for_some_queues_reaches_no_other() {
    let (server, [of_a, of_b]) = limited().await;
    let get = async |token, path: &str| ask(&server, token, "GET", path, Value::Null).await.0;
    let post = async |token, path: &str, body| ask(&server, token, "POST", path, body).await;
    for token in ["ca", "wa", "aa"] {
        assert_eq!(get(token, &format!("/v1/jobs/{of_a}")).await, 200);
        assert_eq!(get(token, &format!("/v1/jobs/{of_b}")).await, 404);
        assert_eq!(get(token, "/v1/jobs").await, 403);
        assert_eq!(get(token, "/v1/jobs?queue=b").await, 403);
        assert_eq!(get(token, "/v1/jobs?queue=a").await, 200);
        assert_eq!(get(token, "/v1/queues/b").await, 403);
        let (_, listed) = ask(&server, token, "GET", "/v1/queues", Value::Null).await;
        let names: Vec<_> = listed["queues"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|queue| &queue["name"])
            .collect();
        assert_eq!(names, ["a"], "{token}");
    }
    for path in ["/v1/stats", "/metrics"] {
        assert_eq!(get("aa", path).await, 403, "{path} is about all");
    }
    assert_eq!(post("aa", "/v1/backup", Value::Null).await.0, 403);
    for (queue, status) in [("a", 201), ("b", 403), ("x", 403)] {
        let job = json!({"kind": "k", "queue": queue});
        assert_eq!(post("ca", "/v1/jobs", job.clone()).await.0, status);
        assert_eq!(post("ca", "/v1/jobs/batch", json!([job])).await.0, status);
    }
    for action in ["pause", "resume", "cancel", "requeue-dead", "discard-dead"] {
        assert_eq!(post("aa", &format!("/v1/queues/a/{action}"), Value::Null).await.0, 200);
        assert_eq!(post("aa", &format!("/v1/queues/b/{action}"), Value::Null).await.0, 403);
    }
    for (id, status) in [(&of_b, 404), (&of_a, 409)] {
        let cancelled = post("ca", &format!("/v1/jobs/{id}/cancel"), Value::Null).await.0;
        assert_eq!(cancelled, status);
        assert_eq!(post("aa", &format!("/v1/jobs/{id}/requeue"), Value::Null).await.0, status);
        let path = format!("/v1/jobs/{id}");
        assert_eq!(ask(&server, "aa", "DELETE", &path, Value::Null).await.0, status);
    }
    assert_eq!(ask(&server, "aa", "DELETE", "/v1/queues/b", Value::Null).await.0, 403);
    let (status, answer) = post("wa", "/v1/leases", json!({"queues": ["a", "b"]})).await;
    assert_eq!((status, &answer["error"]["field"]), (403, &json!("queues[1]")));
    assert_eq!(post("wa", "/v1/leases", json!({"queues": ["a"]})).await.0, 200);
}

/// What is in other queues cannot be told from what is not there.
#[tokio::test]
async fn a_refusal_does_not_tell_what_exists() {
    let (server, [_, of_b]) = limited().await;
    let made_up = crate::store::JobId::new(7, 7).to_string();
    let refusal = async |token: &str, method: &str, path: String, body: Value, named: &str| {
        let (status, answer) = ask(&server, token, method, &path, body).await;
        assert!(status == 403 || status == 404, "{method} {path}: {status}");
        let told = answer["error"].to_string();
        (
            status,
            told.replace(&format!("job {named}"), "it").replace(&format!("\\\"{named}\\\""), "it"),
        )
    };
    for (token, method, path) in [
        ("aa", "GET", "/v1/jobs/{}"),
        ("aa", "DELETE", "/v1/jobs/{}"),
        ("ca", "POST", "/v1/jobs/{}/cancel"),
        ("aa", "POST", "/v1/jobs/{}/requeue"),
        ("aa", "GET", "/v1/queues/{}"),
        ("aa", "DELETE", "/v1/queues/{}"),
        ("aa", "POST", "/v1/queues/{}/pause"),
        ("aa", "GET", "/v1/jobs?queue={}"),
    ] {
        let [there, not_there] =
            if path.contains("/v1/jobs/") { [&*of_b, &*made_up] } else { ["b", "nowhere"] };
        let [of_there, of_none] = [there, not_there]
            .map(|named| refusal(token, method, path.replace("{}", named), Value::Null, named));
        assert_eq!(of_there.await, of_none.await, "{method} {path}");
    }
    for path in ["/v1/jobs", "/v1/leases"] {
        let token = if path == "/v1/jobs" { "ca" } else { "wa" };
        let [there, none] = ["b", "nowhere"].map(|queue| {
            let body = json!({"kind": "k", "queue": queue});
            let body = if token == "ca" { body } else { json!({"queues": [queue]}) };
            refusal(token, "POST", path.to_owned(), body, queue)
        });
        assert_eq!(there.await, none.await, "{path}");
    }
}

#[tokio::test]
async fn a_token_must_come_as_the_standard_says_and_once() {
    let server = server(&[]);
    let with = async |values: &[&str]| {
        let headers: Vec<_> = values.iter().map(|value| ("authorization", *value)).collect();
        send(&server, "GET", "/v1/queues", &headers, "").await.status().as_u16()
    };
    let work = text("work");
    for right in [format!("Bearer {work}"), format!("bearer {work}"), format!("BEARER   {work} ")] {
        assert_eq!(with(&[&right]).await, 200, "{right}");
    }
    let wrong = ["{}", "Bearer", "Bearer ", "Basic {}", "Bearer {} x", "Bearer, {}", "Bearer{}"];
    for wrong in wrong.map(|form| form.replace("{}", &work)) {
        assert_eq!(with(&[&wrong]).await, 401, "{wrong}");
    }
    let right = format!("Bearer {work}");
    assert_eq!(with(&[&right, &right]).await, 401);
}

/// The password of a person, whose hash somebody put there.
#[tokio::test]
async fn what_can_be_guessed_is_no_token() {
    let short = Token { sha256: Hash::of("hunter2"), ..token("short", &[Role::Admin]) };
    let server = server(&[short]);
    let headers = [("authorization", "Bearer hunter2")];
    assert_eq!(send(&server, "GET", "/v1/queues", &headers, "").await.status(), 401);
}

/// A web page cannot bring along a token that it does not know, so a name of its own gets it nowhere.
#[tokio::test(start_paused = true)]
async fn with_a_token_any_host_is_served() {
    let server = server(&[]);
    let with = async |token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {}", text(token)));
        let mut headers = vec![("host", "jobs.example.com")];
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        send(&server, "GET", "/v1/queues", &headers, "").await.status().as_u16()
    };
    assert_eq!(with(Some("work")).await, 200);
    assert_eq!(with(Some("old-work")).await, 421);
    assert_eq!(with(None).await, 421);
    for _ in 0..FAILURES as u32 {
        with(Some("guess")).await;
    }
    assert_eq!(with(Some("guess")).await, 429);
}

#[tokio::test(start_paused = true)]
async fn who_comes_with_a_wrong_token_again_and_again_is_asked_to_slow_down_and_nobody_else_is() {
    let server = server(&[]);
    let with = async |token: &str| {
        let bearer = format!("Bearer {}", text(token));
        let response = send(&server, "GET", "/v1/queues", &[("authorization", &bearer)], "").await;
        let waits = response.headers().contains_key("retry-after");
        (response.status().as_u16(), waits)
    };
    for _ in 0..FAILURES as u32 {
        assert_eq!(with("guess").await, (401, false));
    }
    assert_eq!(with("guess").await, (429, true));
    assert_eq!(with("work").await, (200, false));
    assert_eq!(send(&server, "GET", "/v1/queues", &[], "").await.status(), 401, "it has none");
    tokio::time::advance(Duration::from_millis(110)).await;
    assert_eq!(with("guess").await, (401, false));
    assert_eq!(with("guess").await, (429, true));
    let counted = server.api.metrics.snapshot().to_text();
    assert!(counted.contains("tallyd_rejected_total{reason=\"unauthorized\"} 54\n"), "{counted}");
}

#[tokio::test]
async fn tokens_are_replaced_from_one_request_to_the_next() {
    let server = server(&[]);
    server.api.guard.replace([token("new", &[Role::Work])].iter());
    assert_eq!(ask(&server, "work", "GET", "/v1/queues", Value::Null).await.0, 401);
    assert_eq!(ask(&server, "new", "GET", "/v1/queues", Value::Null).await.0, 200);
}

#[tokio::test]
async fn a_token_ends_at_its_end() {
    let begin = "2027-01-01T00:00:00Z".parse::<jiff::Timestamp>().expect("a time");
    let clock = Clock::manual(crate::clock::Timestamp(begin.as_millisecond()));
    let server = Fixture::by(clock.clone(), |config| {
        let end = begin.checked_add(jiff::SignedDuration::from_secs(1)).ok();
        let brief = Token { expires_at: end, ..token("brief", &[Role::Work]) };
        config.tokens.from_file.push(brief);
    });
    let status = async || ask(&server, "brief", "GET", "/v1/queues", Value::Null).await.0;
    clock.advance(Duration::from_millis(999));
    assert_eq!(status().await, 200);
    clock.advance(Duration::from_millis(1));
    assert_eq!(status().await, 401);
}

#[tokio::test]
async fn what_is_asked_by_head_needs_what_it_needs_by_get() {
    let server = server(&[]);
    for (token, status) in [("work", 403), ("metrics", 200), ("old-metrics", 401)] {
        for path in ["/v1/stats", "/metrics"] {
            assert_eq!(ask(&server, token, "HEAD", path, Value::Null).await.0, status, "{path}");
        }
    }
}

#[tokio::test]
async fn a_listener_of_its_own_for_metrics_asks_too() {
    let server = server(&[]);
    for (token, status) in [("work", 403), ("metrics", 200), ("nobody", 401)] {
        let request = Request::get("/metrics").header("host", "localhost");
        let request = request.header("authorization", format!("Bearer {}", text(token)));
        let request = request.body(Body::empty()).expect("valid");
        assert_eq!(server.send(Routes::MetricsOnly, request).await.status(), status, "{token}");
    }
}

#[tokio::test]
async fn without_tokens_nobody_is_asked_and_one_that_comes_is_ignored() {
    let server = Fixture::new(|_| {});
    assert_eq!(ask(&server, "anything", "GET", "/v1/queues", Value::Null).await.0, 200);
}
