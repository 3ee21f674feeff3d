//! What the client sees to be wrong by itself, and what it writes and reads.

use serde_json::json;

use super::*;
use crate::clock::Timestamp;

#[test]
fn the_debug_form_of_a_client_has_neither_token_nor_password() {
    let client =
        Client::new("http://ada:hunter2@localhost:1").and_then(|it| it.with_token("hunter2"));
    let shown = format!("{:?}", client.expect("it is a URL"));
    assert_eq!(shown, "Client { server: \"http://localhost:1\", .. }");
}

#[test]
fn the_url_of_a_server_is_checked() {
    for good in ["http://127.0.0.1:8255", "http://localhost:8255/", "https://a.example/tallyd"] {
        assert!(Client::new(good).is_ok(), "{good}");
    }
    for bad in ["", "localhost:8255", "127.0.0.1:8255", "ftp://a/", "http://", "http://a/?b=c"] {
        let error = Client::new(bad).expect_err(bad).to_string();
        assert!(error.contains("such as http://127.0.0.1:8255, got"), "{error}");
    }
}

#[test]
fn a_password_is_not_shown() {
    let client = Client::new("http://ada:secret@127.0.0.1:1/tallyd/").expect("a URL");
    assert_eq!(client.server(), "http://127.0.0.1:1/tallyd");
    for wrong in
        ["http://ada:secret@a.example:port", "ftp://ada:secret@a.example", "ada:secret@a.example"]
    {
        let error = Client::new(wrong).expect_err(wrong);
        assert!(error.to_string().contains("got \"…@a.example"), "{error}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
}

#[test]
fn routes_stand_below_the_path_of_the_server() {
    for (server, url) in [
        ("http://a.example", "http://a.example/v1/jobs/x/cancel"),
        ("http://a.example/tallyd/", "http://a.example/tallyd/v1/jobs/x/cancel"),
    ] {
        let client = Client::new(server).expect("a URL");
        let request = client.request(Method::POST, &["jobs", "x", "cancel"]).expect("a request");
        assert_eq!(request.build().expect("a request").url().as_str(), url);
    }
    for odd in ["", ".", "..", "a/b", "a b", "?"] {
        assert!(matches!(segment(odd), Err(ClientError::InvalidName(_))), "{odd}");
    }
}

#[test]
fn what_is_not_set_is_not_sent() {
    let job = NewJob { kind: "k".into(), ..NewJob::default() };
    assert_eq!(serde_json::to_string(&job).expect("it is JSON"), r#"{"kind":"k"}"#);
    let payload = RawValue::from_string(r#"{ "a": 1.0 }"#.into()).expect("it is JSON");
    let job = NewJob {
        payload: Some(payload),
        run_at: Some(Timestamp(0)),
        timeout: Some(Duration::from_secs(300)),
        unique_until: Some(UniqueUntil::Done),
        ..job
    };
    assert_eq!(
        serde_json::to_string(&job).expect("it is JSON"),
        r#"{"kind":"k","payload":{ "a": 1.0 },"run_at":"1970-01-01T00:00:00.000Z","timeout":"5m","unique_until":"done"}"#
    );
}

#[test]
fn a_finish_is_written_flat() {
    let result = RawValue::from_string("[1.0]".into()).expect("it is JSON");
    for (outcome, written) in [
        (
            Outcome::Completed { result: Some(result) },
            r#"{"lease":"l","outcome":"completed","result":[1.0]}"#,
        ),
        (
            Outcome::Failed { error: "e".into(), retry_in: None, permanent: true },
            r#"{"lease":"l","outcome":"failed","error":"e","permanent":true}"#,
        ),
        (
            Outcome::Released { retry_in: Some(Duration::from_secs(1)) },
            r#"{"lease":"l","outcome":"released","retry_in":"1s"}"#,
        ),
    ] {
        let finish = Finish { lease: "l".into(), outcome };
        assert_eq!(serde_json::to_string(&finish).expect("it is JSON"), written);
    }
}

#[test]
fn fields_that_are_not_known_are_ignored_and_kept_in_the_document() {
    let text = r#"{"id":"i", "state":"ready", "duplicate":false, "new":[1.0]}"#;
    let created = answer::document::<Created>(text.into()).expect("it is one");
    assert_eq!((created.id.as_str(), created.duplicate), ("i", false));
    assert_eq!(created.json().get(), text);
}

#[test]
fn a_refusal_tells_what_the_server_told() {
    let server = Url::parse("http://a.example").expect("a URL");
    let headers = [("retry-after".parse().expect("a name"), "5".parse().expect("a value"))];
    let headers = headers.into_iter().collect();
    let body = json!({"error": {"code": "queue_full", "message": "full", "index": 7, "new": 1}});
    let status = reqwest::StatusCode::TOO_MANY_REQUESTS;
    let error = ClientError::refused(&server, status, &headers, body.to_string().as_bytes());
    assert!(error.is_busy() && !error.is_unanswered());
    assert_eq!(error.to_string(), "full (queue_full)");
    let refusal = error.refusal().expect("it is one");
    assert_eq!((refusal.index, refusal.retry_after), (Some(7), Some(Duration::from_secs(5))));
    let error = ClientError::refused(&server, status, &headers, b"<html>");
    assert!(error.to_string().contains("does not answer as tallyd does"), "{error}");
}

#[test]
fn requests_can_be_sent_from_spawned_futures() {
    fn check(_: impl Future + Send + 'static) {}
    let client = Client::new("http://127.0.0.1:1").expect("a URL");
    check(async move {
        let job = NewJob::default();
        drop((client.create(&job).await, client.create_batch(&[job]).await));
        drop(client.lease(&LeaseRequest::default()).await);
    });
}

#[tokio::test(start_paused = true)]
async fn repeats_end_after_a_minute_also_if_the_server_is_silent_or_asks_for_patience() {
    let client = Client::new("http://a.example").expect("a URL");
    let silent = || ClientError::Unanswered { server: String::new(), why: String::new() };
    let patient = || {
        ClientError::Refused(Refusal {
            status: 503,
            code: "store_busy".into(),
            message: String::new(),
            field: None,
            index: None,
            retry_after: Some(Duration::from_secs(25)),
        })
    };
    for (error, takes, tries) in [
        (&silent as &dyn Fn() -> ClientError, ANSWER_TIMEOUT, 1..=1),
        (&patient, Duration::ZERO, 3..=3),
        (&silent, Duration::ZERO, 12..=40),
    ] {
        let (begun, sent) = (tokio::time::Instant::now(), std::cell::Cell::new(0));
        let ask = || async {
            sent.set(sent.get() + 1);
            tokio::time::advance(takes).await;
            Err::<(), _>(error())
        };
        client.repeat(ask, |_| true).await.expect_err("it never does better");
        assert!(tries.contains(&sent.get()), "{} tries", sent.get());
        assert!(begun.elapsed() <= Duration::from_secs(60).max(takes), "{:?}", begun.elapsed());
    }
}

#[test]
fn what_servers_are_known_by_must_be_pem() {
    let trusting = |authorities, identity| {
        let trust = Trust { authorities, identity };
        Client::trusting("https://a.example", trust).map(|_| ()).map_err(|error| error.to_string())
    };
    let told = |result: Result<(), String>| result.expect_err("it is none");
    for wrong in [&b""[..], b"text", b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n"]
    {
        assert!(told(trusting(Some(wrong), None)).contains("must have their certificates in PEM"));
        assert!(told(trusting(None, Some(wrong))).contains("must have it and its key"));
    }
}

/// Else they would seem to protect what nothing protects.
#[test]
fn authorities_and_certificates_are_for_servers_under_tls_or_on_this_machine() {
    let pem = Trust { authorities: Some(b""), identity: None };
    let own = Trust { authorities: None, identity: Some(b"") };
    let is_refused = |server: &str, trust| {
        let made = Client::trusting(server, trust);
        matches!(made, Err(ClientError::InTheClear { .. }))
    };
    for here in ["http://127.0.0.1:1", "http://127.8.0.1", "http://[::1]:1", "http://localhost:1"] {
        assert!(!is_refused(here, pem) && !is_refused(here, own), "{here}");
    }
    for there in
        ["http://10.0.0.1", "http://a.example:1", "http://localhost.a.example", "http://[::2]"]
    {
        assert!(is_refused(there, pem) && is_refused(there, own), "{there}");
        assert!(!is_refused(&there.replace("http:", "https:"), pem), "{there}");
    }
    let told = Client::trusting("http://ada:secret@a.example", pem).expect_err("in the clear");
    let told = told.to_string();
    assert!(told.starts_with("http://a.example is not on this machine"), "{told}");
}
