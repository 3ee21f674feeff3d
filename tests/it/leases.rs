//! Outside workers over HTTP: how attempts end, and which answers a lease gets.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::call::{Answer, call, keys, send};
use crate::fixture::{Daemon, Scrape};

const PAIR: &str = r#"queue="default",kind="k""#;

async fn create(daemon: &Daemon, job: Value) -> String {
    let answer = send(daemon, "POST", "/v1/jobs", job).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json["id"].as_str().unwrap().to_owned()
}

async fn job(daemon: &Daemon, id: &str) -> Value {
    let answer = call(daemon, "GET", &format!("/v1/jobs/{id}"), &[], "").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json
}

/// Leases one job of the queue `default`, which must have one.
async fn lease(daemon: &Daemon) -> Value {
    let answer = send(daemon, "POST", "/v1/leases", json!({"queues": ["default"]})).await;
    assert_eq!((answer.status, answer.keys()), (200, vec!["jobs"]), "{}", answer.text);
    assert_eq!(answer.json["jobs"].as_array().unwrap().len(), 1, "{}", answer.text);
    answer.json["jobs"][0].clone()
}

fn told(answer: &Answer) -> Value {
    assert_eq!((answer.status, answer.keys()), (200, vec!["results"]), "{}", answer.text);
    answer.json["results"].clone()
}

async fn finish(daemon: &Daemon, finishes: Value) -> Value {
    told(&send(daemon, "POST", "/v1/leases/finish", finishes).await)
}

async fn renew(daemon: &Daemon, leases: &[&Value], duration: Value) -> Value {
    let body = json!({"leases": leases, "duration": duration});
    told(&send(daemon, "POST", "/v1/leases/renew", body).await)
}

fn time(job: &Value, field: &str) -> Timestamp {
    job[field].as_str().unwrap_or_else(|| panic!("no {field}: {job}")).parse().unwrap()
}

fn ended(scrape: &Scrape, result: &str) -> f64 {
    scrape.value(&format!("tallyd_attempts_ended_total{{{PAIR},result=\"{result}\"}}"))
}

fn lost(scrape: &Scrape, queue: &str) -> f64 {
    scrape.value(&format!("tallyd_leases_lost_total{{queue=\"{queue}\"}}"))
}

#[tokio::test]
async fn a_leased_job_says_all_that_its_worker_needs() {
    let daemon = Daemon::start("");
    let id = create(&daemon, json!({"kind": "k", "payload": {"a": 1}})).await;
    let ask = json!({"queues": ["default"], "max": 5, "duration": "90s", "worker": "host-1"});
    let answer = send(&daemon, "POST", "/v1/leases", ask).await;
    let mut leased = answer.json["jobs"][0].clone();
    let lease = leased.as_object_mut().unwrap().remove("lease").unwrap();
    assert!(lease.as_str().unwrap().starts_with(&format!("{id}.")));
    let shown = job(&daemon, &id).await;
    assert_eq!((&leased, keys(&leased)), (&shown, keys(&shown)), "the job as it is now");
    let said = ["state", "attempt", "worker", "payload"].map(|key| shown[key].clone());
    assert_eq!(said, [json!("running"), json!(1), json!("host-1"), json!({"a": 1})]);
    let held = time(&shown, "expires_at").duration_since(time(&shown, "claimed_at"));
    assert_eq!(held, SignedDuration::from_secs(90));
    let (_, none) = daemon.post("/v1/leases", json!({"queues": ["default", "nosuch"]})).await;
    assert_eq!(none, json!({"jobs": []}));
}

#[tokio::test]
async fn jobs_come_by_queue_then_priority_then_age() {
    let daemon = Daemon::start("");
    for (queue, priority, name) in
        [("low", 0, "d"), ("top", 9, "c"), ("top", 1, "a"), ("top", 1, "b"), ("low", 5, "e")]
    {
        let job = json!({"kind": name, "queue": queue, "priority": priority});
        create(&daemon, job).await;
    }
    let kinds = async |max: u32| {
        let ask = json!({"queues": ["top", "low"], "max": max});
        let (_, answer) = daemon.post("/v1/leases", ask).await;
        let jobs = answer["jobs"].as_array().unwrap().clone();
        jobs.iter().map(|job| job["kind"].as_str().unwrap().to_owned()).collect::<String>()
    };
    assert_eq!([kinds(2).await, kinds(2).await, kinds(1_000).await], ["ab", "cd", "e"]);
}

#[tokio::test]
async fn one_answer_holds_at_most_16_mib() {
    let daemon = Daemon::start("");
    let job = json!({"kind": "k", "payload": "x".repeat(1_000_000)});
    for _ in 0..2 {
        let batch = send(&daemon, "POST", "/v1/jobs/batch", json!(vec![&job; 10])).await;
        assert_eq!(batch.status, 201);
    }
    let mut counts = Vec::new();
    for _ in 0..3 {
        let ask = json!({"queues": ["default"], "max": 1000});
        let (_, answer) = daemon.post("/v1/leases", ask).await;
        counts.push(answer["jobs"].as_array().unwrap().len());
    }
    assert_eq!(counts, [16, 4, 0]);
}

#[tokio::test]
async fn error_texts_count_in_the_size_of_an_answer() {
    let daemon = Daemon::start("[defaults]\nbackoff = { initial = \"0s\" }");
    let batch =
        send(&daemon, "POST", "/v1/jobs/batch", json!(vec![json!({"kind": "k"}); 60])).await;
    assert_eq!(batch.status, 201);
    let ask = json!({"queues": ["default"], "max": 1000, "wait": "30s"});
    let (_, leased) = daemon.post("/v1/leases", ask.clone()).await;
    let error = "\u{1}".repeat(60_000);
    let failed = |job: &Value| json!({"lease": job["lease"], "outcome": "failed", "error": error});
    for jobs in leased["jobs"].as_array().unwrap().chunks(20) {
        let failed: Vec<_> = jobs.iter().map(failed).collect();
        assert_eq!(finish(&daemon, failed.into()).await, json!(vec!["ok"; jobs.len()]));
    }
    let retried = json!({"queues": ["default"], "max": 1000, "wait": "30s"});
    let answer = send(&daemon, "POST", "/v1/leases", retried).await;
    assert!(!answer.json["jobs"].as_array().unwrap().is_empty());
    let mib = answer.text.len() >> 20;
    assert!(mib <= 16, "an answer of {mib} MiB");
}

#[tokio::test]
async fn a_repeated_finish_is_ok_again_and_counts_once() {
    let daemon = Daemon::start("");
    let id = create(&daemon, json!({"kind": "k"})).await;
    let leased = lease(&daemon).await;
    let done = json!([{"lease": leased["lease"], "outcome": "completed", "result": {"n": 1}}]);
    for _ in 0..3 {
        assert_eq!(finish(&daemon, done.clone()).await, json!(["ok"]));
    }
    let failed = json!([{"lease": leased["lease"], "outcome": "failed"}]);
    assert_eq!(finish(&daemon, failed).await, json!(["lease_lost"]), "another outcome");
    assert_eq!(renew(&daemon, &[&leased["lease"]], Value::Null).await, json!(["lease_lost"]));
    let done = job(&daemon, &id).await;
    assert_eq!((&done["state"], &done["result"]), (&json!("completed"), &json!({"n": 1})));
    assert!(done["ended_at"].is_string() && done["expires_at"].is_null(), "{done}");
    let scrape = daemon.scrape().await;
    assert_eq!(scrape.value(&format!("tallyd_jobs_completed_total{{{PAIR}}}")), 1.0);
    assert_eq!((ended(&scrape, "completed"), ended(&scrape, "failed")), (1.0, 0.0));
    assert_eq!((lost(&scrape, "default"), lost(&scrape, "__other__")), (2.0, 0.0));
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
}

/// F12: whoever works twice is told so.
#[tokio::test]
async fn lost_and_invented_leases_are_refused_one_by_one_and_counted() {
    let daemon = Daemon::start("");
    create(&daemon, json!({"kind": "k"})).await;
    let first = lease(&daemon).await["lease"].clone();
    let released = json!([{"lease": first, "outcome": "released"}]);
    assert_eq!(finish(&daemon, released).await, json!(["ok"]));
    let second = lease(&daemon).await["lease"].clone();
    let digits = second.as_str().unwrap();
    let guess = format!("{}{}", &digits[..digits.len() - 32], "0".repeat(32));
    let nobody = "0190163d-8694-739b-aea5-966c26f8ad91.00000000000000000000000000000000";
    let invented = [json!("invented"), json!(""), json!(nobody)];
    let mut finishes = vec![json!({"lease": first, "outcome": "completed"})];
    finishes.extend(invented.iter().map(|lease| json!({"lease": lease, "outcome": "completed"})));
    finishes.push(json!({"lease": guess, "outcome": "completed"}));
    finishes.push(json!({"lease": second, "outcome": "completed"}));
    let expected =
        json!(["lease_lost", "lease_lost", "lease_lost", "lease_lost", "lease_lost", "ok"]);
    assert_eq!(finish(&daemon, Value::from(finishes)).await, expected);
    let scrape = daemon.scrape().await;
    assert_eq!((lost(&scrape, "default"), lost(&scrape, "__other__")), (2.0, 3.0));
    let answers = renew(&daemon, &[&first, &invented[2]], Value::Null).await;
    assert_eq!(answers, json!(["lease_lost", "lease_lost"]));
    let scrape = daemon.scrape().await;
    assert_eq!((lost(&scrape, "default"), lost(&scrape, "__other__")), (3.0, 4.0));
    assert_eq!((ended(&scrape, "completed"), ended(&scrape, "released")), (1.0, 1.0));
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
}

#[tokio::test]
async fn a_cancelled_job_tells_its_worker_and_counts_nothing_more() {
    let daemon = Daemon::start("");
    let id = create(&daemon, json!({"kind": "k"})).await;
    let leased = lease(&daemon).await;
    let cancelled = send(&daemon, "POST", &format!("/v1/jobs/{id}/cancel"), Value::Null).await;
    assert_eq!(cancelled.json["state"], "cancelled");
    let before = daemon.scrape().await;
    for outcome in ["completed", "failed", "released"] {
        let late = json!([{"lease": leased["lease"], "outcome": outcome}]);
        assert_eq!(finish(&daemon, late).await, json!(["cancelled"]), "{outcome}");
    }
    assert_eq!(renew(&daemon, &[&leased["lease"]], Value::Null).await, json!(["cancelled"]));
    let scrape = daemon.scrape().await;
    assert_eq!(scrape.ledger(), before.ledger());
    assert_eq!(ended(&scrape, "cancelled"), 1.0);
    assert_eq!(job(&daemon, &id).await["state"], "cancelled");
}

#[tokio::test]
async fn a_renewal_lasts_from_now_and_never_past_the_timeout() {
    let daemon = Daemon::start("");
    let id = create(&daemon, json!({"kind": "k", "timeout": "10m"})).await;
    let leased = lease(&daemon).await;
    let claimed = time(&leased, "claimed_at");
    // Without a duration it lasts as long as the last time; the timeout ends it in any case.
    for (duration, least) in [(json!("5m"), 300), (Value::Null, 300), (json!("1h"), 600)] {
        assert_eq!(renew(&daemon, &[&leased["lease"]], duration.clone()).await, json!(["ok"]));
        let held = time(&job(&daemon, &id).await, "expires_at").duration_since(claimed);
        // The end is measured by another clock than `claimed_at`, read a little later.
        let (least, slack) = (SignedDuration::from_secs(least), SignedDuration::from_secs(10));
        assert!(held + slack >= least, "{duration}: {held}");
        assert!(held <= SignedDuration::from_secs(600) + slack, "{duration}: {held}");
    }
}

#[tokio::test]
async fn a_failure_waits_at_least_as_long_as_it_asks_for() {
    let config = "[defaults]\nbackoff = { initial = \"1s\", jitter = 0.0 }\n";
    let daemon = Daemon::start(config);
    let id = create(&daemon, json!({"kind": "k"})).await;
    let leased = lease(&daemon).await;
    let failed = json!([{
        "lease": leased["lease"], "outcome": "failed", "error": "try later", "retry_in": "2h",
    }]);
    assert_eq!(finish(&daemon, failed).await, json!(["ok"]));
    let shown = job(&daemon, &id).await;
    let said = ["state", "failures", "attempt"].map(|key| shown[key].clone());
    assert_eq!(said, [json!("retrying"), json!(1), json!(1)]);
    assert_eq!(shown["last_error"]["message"], "try later");
    let at: Timestamp = shown["last_error"]["at"].as_str().unwrap().parse().unwrap();
    assert_eq!(time(&shown, "run_at").duration_since(at), SignedDuration::from_hours(2));
    let scrape = daemon.scrape().await;
    assert_eq!(scrape.value(&format!("tallyd_jobs_retried_total{{{PAIR}}}")), 1.0);
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());

    let id = create(&daemon, json!({"kind": "k"})).await;
    let leased = lease(&daemon).await;
    let failed = json!([{"lease": leased["lease"], "outcome": "failed", "retry_in": "1ms"}]);
    assert_eq!(finish(&daemon, failed).await, json!(["ok"]));
    let shown = job(&daemon, &id).await;
    let at: Timestamp = shown["last_error"]["at"].as_str().unwrap().parse().unwrap();
    assert_eq!(time(&shown, "run_at").duration_since(at), SignedDuration::from_secs(1), "backoff");
}

#[tokio::test]
async fn the_last_failure_and_a_permanent_one_end_the_job() {
    let daemon = Daemon::start("");
    for (max_attempts, permanent) in [(1, false), (25, true)] {
        let id = create(&daemon, json!({"kind": "k", "max_attempts": max_attempts})).await;
        let leased = lease(&daemon).await;
        let failed =
            json!([{"lease": leased["lease"], "outcome": "failed", "permanent": permanent}]);
        assert_eq!(finish(&daemon, failed).await, json!(["ok"]));
        let dead = job(&daemon, &id).await;
        assert_eq!((&dead["state"], &dead["failures"]), (&json!("dead"), &json!(1)));
        assert!(dead["ended_at"].is_string());
    }
    let scrape = daemon.scrape().await;
    assert_eq!(scrape.value(&format!("tallyd_jobs_died_total{{{PAIR}}}")), 2.0);
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
}

#[tokio::test]
async fn a_release_uses_up_no_try() {
    let daemon = Daemon::start("");
    let id = create(&daemon, json!({"kind": "k", "max_attempts": 1})).await;
    for attempt in 1..=3 {
        let leased = lease(&daemon).await;
        assert_eq!((&leased["attempt"], &leased["failures"]), (&json!(attempt), &json!(0)));
        let released = json!([{"lease": leased["lease"], "outcome": "released"}]);
        assert_eq!(finish(&daemon, released).await, json!(["ok"]));
        assert_eq!(job(&daemon, &id).await["state"], "ready");
    }
    let leased = lease(&daemon).await;
    let later = json!([{"lease": leased["lease"], "outcome": "released", "retry_in": "1h"}]);
    assert_eq!(finish(&daemon, later).await, json!(["ok"]));
    let shown = job(&daemon, &id).await;
    assert_eq!((&shown["state"], &shown["last_error"]), (&json!("scheduled"), &Value::Null));
    assert!(time(&shown, "run_at") > time(&leased, "claimed_at") + SignedDuration::from_mins(59));
    let scrape = daemon.scrape().await;
    assert_eq!(ended(&scrape, "released"), 4.0);
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
}

#[tokio::test]
async fn an_expired_lease_gives_the_job_to_another_and_refuses_the_late_finish() {
    let daemon = Daemon::start("");
    let id = create(&daemon, json!({"kind": "k"})).await;
    let ask = json!({"queues": ["default"], "duration": "1s", "worker": "gone"});
    let (_, first) = daemon.post("/v1/leases", ask).await;
    let ask = json!({"queues": ["default"], "wait": "60s", "worker": "next"});
    let (_, second) = daemon.post("/v1/leases", ask).await;
    let second = &second["jobs"][0];
    assert_eq!((&second["id"], &second["attempt"]), (&json!(id), &json!(2)), "{second}");
    assert_eq!(second["last_error"]["outcome"], "lease_expired");
    let late = json!({"lease": first["jobs"][0]["lease"], "outcome": "completed"});
    let own = json!({"lease": second["lease"], "outcome": "completed"});
    assert_eq!(finish(&daemon, json!([late, own])).await, json!(["lease_lost", "ok"]));
    let scrape = daemon.scrape().await;
    assert_eq!((ended(&scrape, "lease_expired"), lost(&scrape, "default")), (1.0, 1.0));
    assert_eq!(scrape.value(r#"tallyd_sweeper_jobs_total{action="expired"}"#), 1.0);
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
}
