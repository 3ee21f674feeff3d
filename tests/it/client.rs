//! The crate's own client against the real daemon, and against servers that are none.

use std::time::Duration;

use serde_json::value::RawValue;
use tallyd::client::{
    Bulk, BulkRequest, Client, ClientError, Finish, LeaseRequest, LeaseResult, ListQuery, NewJob,
    Outcome, UniqueUntil,
};

use crate::between::Between;
use crate::fixture::Daemon;
use crate::receiver::{Reaction, Receiver, answer};

fn client(daemon: &Daemon) -> Client {
    Client::new(&daemon.url("")).unwrap()
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn job(kind: &str) -> NewJob {
    NewJob { kind: kind.to_owned(), ..NewJob::default() }
}

fn of_default() -> LeaseRequest {
    LeaseRequest { queues: vec!["default".to_owned()], max: Some(10), ..LeaseRequest::default() }
}

#[tokio::test]
async fn a_job_is_created_as_it_is_described_and_read_as_it_is() {
    let daemon = Daemon::start("");
    let client = client(&daemon);
    let wanted = NewJob {
        queue: Some("emails".into()),
        payload: Some(raw("{ \"a\": 1.0 }")),
        priority: Some(0),
        delay: Some(Duration::from_secs(60)),
        max_attempts: Some(3),
        timeout: Some(Duration::ZERO),
        unique_key: Some("u".into()),
        unique_until: Some(UniqueUntil::Done),
        ..job("welcome")
    };
    let created = client.create(&wanted).await.unwrap();
    assert_eq!((created.state.as_str(), created.duplicate), ("scheduled", false));
    let read = client.job(&created.id).await.unwrap();
    assert_eq!((read.queue.as_str(), read.kind.as_str(), read.priority), ("emails", "welcome", 0));
    assert_eq!(read.payload.as_ref().unwrap().get(), "{ \"a\": 1.0 }");
    assert_eq!((read.max_attempts, read.timeout), (3, Duration::ZERO));
    assert_eq!(read.run_at.since(read.created_at), Duration::from_secs(60));
    assert_eq!(read.unique_key.as_deref(), Some("u"));
    assert!(read.json().get().contains(r#""payload":{ "a": 1.0 }"#), "{}", read.json());
    let again = client.create(&wanted).await.unwrap();
    assert_eq!((&again.id, again.duplicate), (&created.id, true));

    assert_eq!(client.cancel(&created.id).await.unwrap().state, "cancelled");
    let error = client.cancel(&created.id).await.unwrap_err();
    let refusal = error.refusal().expect("it is refused");
    assert_eq!((refusal.status, refusal.code.as_str()), (409, "invalid_state"));
}

#[tokio::test]
async fn batches_are_created_and_listed_page_by_page() {
    let daemon = Daemon::start("");
    let client = client(&daemon);
    let jobs: Vec<_> = (0..5).map(|_| job("k")).collect();
    let created = client.create_batch(&jobs).await.unwrap();
    let (mut listed, mut query) =
        (Vec::new(), ListQuery { limit: Some(2), ..ListQuery::default() });
    loop {
        let page = client.list(&query).await.unwrap();
        listed.extend(page.jobs.iter().map(|job| job.id.clone()));
        query.cursor.clone_from(&page.next_cursor);
        if query.cursor.is_none() {
            break;
        }
    }
    listed.reverse();
    assert_eq!(listed, created.ids);
    let query = ListQuery { state: Some("dead".into()), ..ListQuery::default() };
    assert!(client.list(&query).await.unwrap().jobs.is_empty());

    let lines = "{\"kind\":\"k\",\"unique_key\":\"a\"}\n".repeat(2);
    let created = client.create_lines(lines.into()).await.unwrap();
    assert_eq!((created.ids.len(), &created.duplicates[..]), (2, &[1][..]));
    let error = client.create_batch(&[job("k"), job("k k")]).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().index, Some(1));
}

#[tokio::test]
async fn leases_are_renewed_and_finished_each_with_its_outcome() {
    let daemon = Daemon::start("[defaults]\nmax_attempts = 1\n");
    let client = client(&daemon);
    client.create_batch(&[job("a"), job("b"), job("c")]).await.unwrap();
    let leased = client.lease(&of_default()).await.unwrap();
    let leases: Vec<_> = leased.iter().map(|job| job.lease.as_str()).collect();
    let [a, b, c] = leases[..] else { panic!("three were there: {leased:?}") };
    let renewed = client.renew(&[a, "no lease"], Some(Duration::from_secs(600))).await.unwrap();
    assert_eq!(renewed, [LeaseResult::Ok, LeaseResult::LeaseLost]);
    let finish = |lease: &str, outcome| Finish { lease: lease.to_owned(), outcome };
    let failed = Outcome::Failed { error: "e".into(), retry_in: None, permanent: false };
    let finishes = [
        finish(a, Outcome::Completed { result: Some(raw("[7]")) }),
        finish(b, failed),
        finish(c, Outcome::Released { retry_in: Some(Duration::from_secs(60)) }),
    ];
    assert_eq!(client.finish(&finishes).await.unwrap(), [LeaseResult::Ok; 3]);
    let states: Vec<_> = client.list(&ListQuery::default()).await.unwrap().into_value().jobs;
    let states: Vec<_> = states.iter().rev().map(|job| job.state.as_str()).collect();
    assert_eq!(states, ["completed", "dead", "scheduled"]);
    let dead = client.job(&leased[1].id).await.unwrap();
    assert_eq!(dead.last_error.as_ref().unwrap().message, "e");
    assert_eq!(client.requeue(&leased[1].id).await.unwrap().state, "ready");
    let none = LeaseRequest { queues: vec!["other".to_owned()], ..LeaseRequest::default() };
    assert!(client.lease(&none).await.unwrap().is_empty());
}

#[tokio::test]
async fn queues_are_shown_paused_and_emptied() {
    let daemon = Daemon::start("");
    let client = client(&daemon);
    client.create_batch(&[job("a"), job("b"), job("b")]).await.unwrap();
    assert!(client.pause("default").await.unwrap().paused);
    assert!(client.lease(&of_default()).await.unwrap().is_empty());
    assert!(!client.resume("default").await.unwrap().paused);
    let request = BulkRequest { kind: Some("b".into()), limit: Some(1), ..BulkRequest::default() };
    let done = client.act_on_many("default", Bulk::Cancel, &request).await.unwrap();
    assert_eq!((done.count, done.more), (1, true));
    let queue = client.queue("default").await.unwrap();
    assert_eq!((queue.jobs["ready"], queue.jobs["cancelled"]), (2, 1));
    assert_eq!(client.queues().await.unwrap().queues, [queue.into_value()]);
    let stats: serde_json::Value =
        serde_json::from_str(client.stats().await.unwrap().get()).unwrap();
    assert_eq!(stats["jobs_created"], 3);
}

/// F19: our own client does so.
#[tokio::test]
async fn a_create_with_a_key_is_repeated_when_its_answer_is_lost() {
    let daemon = Daemon::start("");
    let between = Between::start(&daemon).await;
    let client = Client::new(&between.url()).unwrap();
    between.lose_next_answer();
    let keyed = NewJob { unique_key: Some("u".into()), ..job("k") };
    assert!(client.create(&keyed).await.unwrap().duplicate, "the first one was stored");
    between.lose_next_answer();
    let created = client.create_batch(std::slice::from_ref(&keyed)).await.unwrap();
    assert_eq!(created.duplicates, [0]);
    for _ in 0..2 {
        between.lose_next_answer();
        let error = client.create(&job("k")).await.unwrap_err();
        assert!(matches!(error, ClientError::Unanswered { .. }), "{error}");
        assert!(error.to_string().contains("whether the request was done is not known"), "{error}");
    }
    assert_eq!(daemon.get("/v1/stats").await.1["jobs_created"], 3, "one with, two without a key");
    let until = Some(UniqueUntil::Done);
    let let_go = NewJob { unique_key: Some("w".into()), unique_until: until, ..job("k") };
    between.lose_next_answer();
    let error = client.create(&let_go).await.unwrap_err();
    assert!(matches!(error, ClientError::Unanswered { .. }), "its key may be free again: {error}");
}

#[tokio::test]
async fn who_is_no_tallyd_is_told_apart_from_nobody() {
    let nobody = Client::new("http://127.0.0.1:1").unwrap();
    let keyed = NewJob { unique_key: Some("u".into()), ..job("k") };
    let error = nobody.create(&keyed).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("is tallyd running there? --server"), "{error}");

    let redirect = answer("302 Found", "location: http://127.0.0.1:1/\r\n", "");
    for (reaction, said) in [
        (answer("200 OK", "", "<html>"), "expected value"),
        (answer("404 Not Found", "", "{\"error\": \"no\"}"), "it answered 404 Not Found"),
        (redirect, "it answered 302 Found"),
    ] {
        let receiver = Receiver::start(&[reaction]).await;
        let url = receiver.url.trim_end_matches("/jobs?a=b");
        let error = Client::new(url).unwrap().job("a").await.unwrap_err();
        assert!(matches!(error, ClientError::NotTallyd { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
    let mut endless = Receiver::start(&[Reaction::Reset]).await;
    let url = endless.url.trim_end_matches("/jobs?a=b").to_owned();
    let error = Client::new(&url).unwrap().job("a").await.unwrap_err();
    assert!(matches!(error, ClientError::Unanswered { .. }), "{error}");
    endless.pushed().await;
    assert!(!endless.has_more(), "nothing but keyed creates is repeated");
}

#[tokio::test]
async fn names_that_would_change_the_path_are_not_sent() {
    let client = Client::new("http://127.0.0.1:1").unwrap();
    for name in ["..", "a/b", "", "a?b"] {
        let error = client.queue(name).await.unwrap_err();
        assert!(matches!(error, ClientError::InvalidName(_)), "{name}: {error}");
    }
}
