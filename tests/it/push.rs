//! Jobs of http queues through the real daemon: what is pushed, and what each answer makes of it.

use jiff::{SignedDuration, Timestamp};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderName};
use serde_json::{Value, json};

use crate::fixture::Daemon;
use crate::receiver::{Reaction, Receiver, answer};
use crate::running::{create, in_state};

/// Failures stay where they are seen.
const DEFAULTS: &str = "[defaults]\nbackoff = { initial = \"1h\", jitter = 0 }\n";

fn queue(settings: &str, url: &str, more: &str) -> String {
    format!("{DEFAULTS}[queues.work]\n{settings}\nhttp = {{ url = \"{url}\"{more} }}\n")
}

/// What becomes of a job to whose push the receiver reacts so.
async fn ended_by(reaction: Reaction, settings: &str) -> Value {
    let receiver = Receiver::start(&[reaction]).await;
    let daemon = Daemon::start(&queue(settings, &receiver.url, ""));
    let id = create(&daemon).await;
    let ended = |job: &Value| !["ready", "running"].contains(&job["state"].as_str().unwrap());
    let job = daemon.job_when(&id, ended).await;
    assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
    job
}

fn error(job: &Value) -> &str {
    job["last_error"]["message"].as_str().expect("it has failed")
}

/// F12: the number of the attempt is in every push.
#[tokio::test]
async fn a_push_is_the_payload_and_says_what_it_is() {
    let mut receiver = Receiver::start(&[answer("204 No Content", "", "")]).await;
    let more = ", headers = { Authorization = \"Bearer s3cret\" }";
    let mut daemon = Daemon::start(&queue("concurrency = 1", &receiver.url, more));
    let payload = "{ \"b\" : 1.0e2,\t\"a\": [1,1 , \"\\u00e9é\"] }";
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body = format!(
        r#"{{"queue": "work", "kind": "k:1", "payload": {payload}, "traceparent": "{traceparent}"}}"#
    );
    let json = [("content-type", "application/json")];
    let created = crate::call::call(&daemon, "POST", "/v1/jobs", &json, body).await;
    let id = created.json["id"].as_str().unwrap();
    let first = receiver.pushed().await;
    assert_eq!(first.line, "POST /jobs?a=b HTTP/1.1");
    assert_eq!(String::from_utf8(first.body).unwrap(), payload, "byte for byte");
    for (name, value) in [
        ("content-type", "application/json"),
        ("user-agent", concat!("tallyd/", env!("CARGO_PKG_VERSION"))),
        ("tallyd-job-id", id),
        ("tallyd-queue", "work"),
        ("tallyd-kind", "k:1"),
        ("tallyd-attempt", "1"),
        ("tallyd-failures", "0"),
        ("tallyd-max-attempts", "25"),
        ("traceparent", traceparent),
        ("authorization", "Bearer s3cret"),
    ] {
        assert_eq!(first.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!first.headers.contains_key("webhook-signature"), "there is no secret");
    let done = daemon.job_when(id, in_state("completed")).await;
    assert_eq!((&done["result"], &done["worker"]), (&Value::Null, &json!("tallyd")));

    create(&daemon).await;
    let second = receiver.pushed().await;
    assert_eq!((second.connection, second.body), (0, b"null".to_vec()), "by the same connection");
    assert_eq!(daemon.get("/v1/queues/work").await.1["runner"], "http");
    assert!(!daemon.log().contains("s3cret"));
}

/// Arrays in arrays.
fn deep(levels: usize) -> String {
    "[".repeat(levels) + &"]".repeat(levels)
}

#[tokio::test]
async fn what_a_receiver_answers_is_the_result() {
    let json_type = "content-type: application/json; charset=utf-8\r\n";
    for (headers, body, result) in [
        (json_type, "{\"n\": 1}", json!({"n": 1})),
        (json_type, "{\"n\": ", json!("{\"n\": ")),
        (json_type, &deep(32), serde_json::from_str(&deep(32)).unwrap()),
        (json_type, &deep(33), json!(deep(33))),
        ("content-type: application/problem+json\r\n", "[1]", json!([1])),
        ("", "{\"n\": 1}", json!("{\"n\": 1}")),
        ("content-type: text/plain\r\n", "thänks", json!("thänks")),
    ] {
        let job = ended_by(answer("201 Created", headers, body), "").await;
        assert_eq!((&job["state"], &job["result"]), (&json!("completed"), &result), "{body}");
    }
}

#[tokio::test]
async fn what_is_no_success_fails_the_attempt_and_two_codes_fail_the_job() {
    for (status, state) in [
        ("500 Internal Server Error", "retrying"),
        ("404 Not Found", "retrying"),
        ("410 Gone", "dead"),
        ("422 Unprocessable Entity", "dead"),
        ("100 Continue\r\n\r\nHTTP/1.1 503 Service Unavailable", "retrying"),
    ] {
        let job = ended_by(answer(status, "", "mailbox full"), "").await;
        assert_eq!((&job["state"], &job["failures"]), (&json!(state), &json!(1)), "{status}");
        assert_eq!(job["last_error"]["outcome"], "failed");
        let told = status.rsplit("HTTP/1.1 ").next().unwrap();
        assert_eq!(error(&job), format!("answered {told}: mailbox full"));
    }
}

#[tokio::test]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let mut elsewhere = Receiver::start(&[answer("200 OK", "", "")]).await;
    let location = format!("location: {}\r\n", elsewhere.url);
    let job = ended_by(answer("307 Temporary Redirect", &location, ""), "").await;
    assert_eq!(
        (&job["state"], error(&job)),
        (&json!("retrying"), "answered 307 Temporary Redirect")
    );
    assert!(!elsewhere.has_more());
}

/// F13: `Retry-After` is a lower bound.
#[tokio::test]
async fn a_receiver_may_ask_for_more_time_than_the_backoff() {
    let now = Timestamp::now();
    let date = (now + SignedDuration::from_hours(5)).strftime("%a, %d %b %Y %H:%M:%S GMT");
    for (asked, hours) in [
        ("7200", 2..=2),
        (&*date.to_string(), 4..=5),
        ("9999999999999999999999", 24..=24),
        ("1", 1..=1),
        ("soon", 1..=1),
    ] {
        let headers = format!("retry-after: {asked}\r\n");
        let job = ended_by(answer("429 Too Many Requests", &headers, ""), "").await;
        let time = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
        let wait = time(&job["run_at"]).duration_since(time(&job["last_error"]["at"]));
        // A date is cut to the second, and is some time ago by now.
        assert!(hours.contains(&wait.as_hours()), "{asked}: {wait:?}");
    }
}

#[tokio::test]
async fn receivers_that_misbehave_fail_the_attempt() {
    let long = "x".repeat(70_000);
    let flood = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\n".to_owned();
    let job = ended_by(Reaction::Flood(flood), "").await;
    assert_eq!(job["state"], "completed");
    assert_eq!(job["result"].as_str().unwrap().len(), 64 << 10, "the first of an endless answer");
    let job = ended_by(answer("500 Internal Server Error", "", &long), "").await;
    assert_eq!(error(&job).len(), (64 << 10) + "answered 500 Internal Server Error: ".len());
    let job = ended_by(Reaction::Hang, "timeout = \"1s\"").await;
    assert_eq!((&job["state"], error(&job)), (&json!("retrying"), "timed out after 1s"));
    assert_eq!(job["last_error"]["outcome"], "timed_out");
    let cut =
        |status: &str| Reaction::Cut(format!("HTTP/1.1 {status}\r\ncontent-length: 10\r\n\r\nabc"));
    let job = ended_by(cut("200 OK"), "").await;
    assert_eq!((&job["state"], &job["result"]), (&json!("completed"), &Value::Null));
    let broken = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".to_owned();
    for (reaction, said) in [
        (Reaction::Reset, "no answer ("),
        (Reaction::Say("SSH-2.0-OpenSSH_9.2\r\n".to_owned()), "no answer ("),
        (Reaction::Say(broken), "timed out after 2s"),
        (cut("500 Oh"), "answered 500 Internal Server Error, but broke off ("),
    ] {
        let job = ended_by(reaction.clone(), "timeout = \"2s\"").await;
        assert_eq!(job["state"], "retrying", "{reaction:?}");
        assert!(error(&job).starts_with(said), "{reaction:?}: {}", error(&job));
    }
}

#[tokio::test]
async fn a_refused_connection_fails_the_attempt_and_no_proxy_is_asked() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut proxy = Receiver::start(&[answer("200 OK", "", "")]).await;
    let mut daemon = Daemon::prepare(&queue("", &format!("http://{free}/"), ""));
    daemon.wrap(&[
        "env",
        &format!("HTTP_PROXY={}", proxy.url),
        &format!("http_proxy={}", proxy.url),
    ]);
    daemon.restart();
    let id = create(&daemon).await;
    let job = daemon.job_when(&id, in_state("retrying")).await;
    assert_eq!(error(&job), "not connected (Connection refused (os error 111))");
    assert!(!proxy.has_more());
    let told = daemon.wait_for_log(|line| line["event"] == "attempt_failed");
    assert_eq!((&told["queue"], &told["outcome"]), (&json!("work"), &json!("failed")));
}

#[tokio::test]
async fn a_cancel_drops_the_request() {
    let mut receiver = Receiver::start(&[Reaction::Hang]).await;
    let daemon = Daemon::start(&queue("", &receiver.url, ""));
    let id = create(&daemon).await;
    receiver.pushed().await;
    let (status, _) = daemon.post(&format!("/v1/jobs/{id}/cancel"), Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    receiver.hung_up().await;
    let job = daemon.job_when(&id, in_state("cancelled")).await;
    assert_eq!((&job["attempt"], &job["last_error"]), (&json!(1), &Value::Null));
}

#[tokio::test]
async fn a_drain_gives_back_what_is_not_answered_in_time() {
    let mut receiver = Receiver::start(&[Reaction::Hang, answer("200 OK", "", "")]).await;
    let top = "drain_timeout = \"0s\"\n";
    let mut daemon = Daemon::start(&format!("{top}{}", queue("", &receiver.url, "")));
    let id = create(&daemon).await;
    receiver.pushed().await;
    assert_eq!(daemon.stop().code(), Some(0));
    receiver.hung_up().await;
    daemon.restart();
    let again = receiver.pushed().await;
    assert_eq!((&*again.headers["tallyd-attempt"], &*again.headers["tallyd-failures"]), ("2", "0"));
    daemon.job_when(&id, in_state("completed")).await;
}

#[tokio::test]
async fn a_receiver_can_verify_who_sent_a_push() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let mut receiver = Receiver::start(&[answer("500 Oh", "", ""), answer("200 OK", "", "")]).await;
    let more = format!(", secret = \"{secret}\"");
    let settings = "backoff = { initial = \"0s\" }";
    let mut daemon = Daemon::start(&queue(settings, &receiver.url, &more));
    let id = create(&daemon).await;
    let webhook = standardwebhooks::Webhook::new(secret).unwrap();
    for _ in 0..2 {
        let pushed = receiver.pushed().await;
        assert_eq!(pushed.headers["webhook-id"], id, "the same for each attempt");
        let mut headers = HeaderMap::new();
        for (name, value) in &pushed.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        webhook.verify(&pushed.body, &headers).expect("it is signed");
        assert!(webhook.verify(b"forged", &headers).is_err());
    }
    assert!(!daemon.log().contains("MfKQ9r8"));
}
