//! Scrapes under load and across ends: every one is exact, and no counter of the ledger goes back.

mod load;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use reqwest::header::ACCEPT;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::load::Load;
use crate::fixture::{Daemon, Scrape, scaled};
use crate::oracle::Scrapes;
use crate::restart::restart;

const CONFIG: &str = r#"
[defaults]
max_attempts = 3
backoff = { initial = "1ms", max = "10ms" }

[queues.work]
concurrency = 2
exec = { command = ["/bin/sh", "-c", "read -r payload; test \"$payload\" = 1"] }
"#;

const TEXT: &str = "text/plain;version=0.0.4";
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0";

/// What the scrapers ask for that run at once.
const SCRAPERS: [&str; 4] = [TEXT, OPEN_METRICS, TEXT, OPEN_METRICS];

/// How many jobs a round creates, all or none.
const BATCH: f64 = 10.0;

async fn post(client: &Client, url: &str, path: &str, body: &Value) -> Value {
    let response = client.post(format!("{url}{path}")).json(body).send().await.unwrap();
    assert!(response.status().is_success(), "{path}: {}", response.status());
    response.json().await.unwrap()
}

/// One round through most of a job's life: jobs of both queues, some of which fail, are given back
/// or cancelled; kinds differ, so that pairs appear all the time until there are 40.
async fn round(client: &Client, url: &str, number: u32) {
    let kind = format!("k{}", number % 20);
    let job = |queue: &str, payload: u32| json!({"queue": queue, "kind": kind, "payload": payload});
    let mut jobs = vec![job("outside", 0); BATCH as usize - 2];
    jobs.push(job("work", number % 2));
    jobs.push(json!({"queue": "outside", "kind": kind, "delay": "10ms"}));
    let created = post(client, url, "/v1/jobs/batch", &jobs.into()).await;
    let leased = post(client, url, "/v1/leases", &json!({"queues": ["outside"], "max": 8})).await;
    let outcomes = ["completed", "failed", "released", "completed"];
    let leased = leased["jobs"].as_array().unwrap().iter().zip(outcomes.iter().cycle());
    let ends: Vec<Value> =
        leased.map(|(job, outcome)| json!({"lease": job["lease"], "outcome": outcome})).collect();
    post(client, url, "/v1/leases/finish", &ends.clone().into()).await;
    post(client, url, "/v1/leases/finish", &ends.into()).await;
    let cancel = format!("{url}/v1/jobs/{}/cancel", created["ids"][9].as_str().unwrap());
    let status = client.post(cancel).send().await.unwrap().status();
    assert!([200, 404, 409].contains(&status.as_u16()), "{status}");
}

/// Scrapes one after the other in one format, and judges each.
async fn scrape_often(url: String, format: &'static str, times: u32) -> (&'static str, Scrapes) {
    let client = crate::fixture::client();
    let mut scrapes = Scrapes::default();
    for _ in 0..times {
        let request = client.get(format!("{url}/metrics")).header(ACCEPT, format);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.text().await.unwrap();
        assert_eq!(text.ends_with("\n# EOF\n"), format == OPEN_METRICS, "{text}");
        let scrape = Scrape::parse_ledger(&text);
        scrapes.wrong.extend(torn_batch(&scrape));
        scrapes.wrong.extend(other_than_timed(&scrape));
        scrapes.see(scrape);
    }
    (format, scrapes)
}

/// Jobs come by [`BATCH`], across pairs: a rest is a part of a batch.
fn torn_batch(scrape: &Scrape) -> Option<String> {
    let created = sum(scrape, "tallyd_jobs_created_total{", "");
    (created % BATCH != 0.0).then(|| format!("half a batch: {created} created"))
}

/// Since the process began, histograms have counted each attempt that the ledger has: they are
/// series of other families, and of another kind, in the same cut.
fn other_than_timed(scrape: &Scrape) -> Option<String> {
    let total = |start: &str| sum(scrape, start, "");
    let started =
        [total("tallyd_attempts_started_total{"), total("tallyd_job_wait_seconds_count{")];
    let ended =
        [total("tallyd_attempts_ended_total{"), total("tallyd_attempt_duration_seconds_count{")];
    let differ = [started, ended].iter().any(|[counted, timed]| counted != timed);
    differ.then(|| format!("attempts counted and timed: {started:?} started, {ended:?} ended"))
}

/// The sum of the samples that begin and end so.
fn sum(scrape: &Scrape, start: &str, end: &str) -> f64 {
    let samples = scrape.starting(start).filter(|(name, _)| name.ends_with(end));
    samples.map(|(_, value)| value).sum()
}

/// The kinds of events that are counted and never happened.
fn never_happened(scrape: &Scrape) -> Vec<String> {
    let results = ["completed", "failed", "lease_expired", "released"];
    let results = results.map(|result| ("attempts_ended", format!("result=\"{result}\"}}")));
    let swept = ["expired", "promoted", "pruned"];
    let swept = swept.map(|action| ("sweeper_jobs", format!("action=\"{action}\"}}")));
    let jobs = ["created", "completed", "cancelled", "discarded", "retried", "died", "requeued"];
    let named = jobs.map(|event| format!("jobs_{event}"));
    let plain = ["attempts_started", "leases_lost"].map(str::to_owned).into_iter().chain(named);
    let mut never: Vec<String> =
        plain.filter(|name| sum(scrape, &format!("tallyd_{name}_total{{"), "") == 0.0).collect();
    for (name, label) in results.into_iter().chain(swept) {
        if sum(scrape, &format!("tallyd_{name}_total{{"), &label) == 0.0 {
            never.push(format!("{name} {label}"));
        }
    }
    never
}

/// F18: each scrape is one cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scrape_is_exact_while_four_scrape_at_full_speed() {
    let daemon = Daemon::start(&CONFIG.replace("[defaults]", "[defaults]\nmax_completed = 20"));
    let load = Arc::new(Load::default());
    let mut loads = JoinSet::new();
    for _ in 0..3 {
        let (load, url) = (load.clone(), daemon.url(""));
        loads.spawn(async move { load.run(&url).await });
    }
    let mut scrapers = JoinSet::new();
    let times = scaled(20_000).div_ceil(SCRAPERS.len() as u32);
    for format in SCRAPERS {
        scrapers.spawn(scrape_often(daemon.url(""), format, times));
    }
    let scrapes = scrapers.join_all().await;
    load.stop.cancel();
    loads.join_all().await;
    let rounds = load.rounds.load(Ordering::Relaxed);
    assert!(rounds > scaled(200), "there was no load to speak of: {rounds} rounds");
    for format in [TEXT, OPEN_METRICS] {
        let of = scrapes.iter().filter(|(of, _)| *of == format);
        let seen: u64 = of.map(|(_, scrapes)| scrapes.seen).sum();
        assert_eq!(seen, u64::from(2 * times), "{format}");
    }
    for (format, Scrapes { seen, wrong, .. }) in scrapes {
        assert_eq!(wrong, Vec::<String>::new(), "of {seen} {format}, in {rounds} rounds");
    }
    assert_eq!(load.missing(), [""; 0], "in {rounds} rounds");
    assert_eq!(never_happened(&daemon.scrape().await), [""; 0], "in {rounds} rounds");
}

#[tokio::test]
async fn a_torn_batch_and_missing_events_are_found() {
    let daemon = Daemon::start("");
    let scrape = daemon.scrape().await;
    assert_eq!(torn_batch(&scrape), None);
    assert_eq!(never_happened(&scrape).len(), 16, "nothing has happened");
    daemon.post("/v1/jobs", json!({"kind": "k"})).await;
    let scrape = daemon.scrape().await;
    assert_eq!(torn_batch(&scrape), Some("half a batch: 1 created".into()));
    assert!(!never_happened(&scrape).contains(&"jobs_created".to_owned()));
    assert_eq!(other_than_timed(&scrape), None);
    let untimed = scrape.text.replace(
        "wait_seconds_count{queue=\"default\"} 0",
        "wait_seconds_count{queue=\"default\"} 1",
    );
    assert!(other_than_timed(&Scrape::parse(&untimed)).is_some());
}

/// Waits until nothing is to be done any more.
async fn until_idle(daemon: &Daemon) -> Scrape {
    loop {
        let scrape = daemon.scrape().await;
        let is_busy = |(name, value): (&str, f64)| value > 0.0 && !name.ends_with("\"dead\"}");
        if !scrape.starting("tallyd_jobs{").any(is_busy) {
            return scrape;
        }
        let leases = json!({"queues": ["outside"], "max": 100});
        let (_, leased) = daemon.post("/v1/leases", leases).await;
        let complete = |job: &Value| json!({"lease": job["lease"], "outcome": "completed"});
        let ends: Vec<Value> = leased["jobs"].as_array().unwrap().iter().map(complete).collect();
        daemon.post("/v1/leases/finish", ends.into()).await;
    }
}

/// All that the ledger keeps: its counters, and the levels.
fn kept(scrape: &Scrape) -> Vec<(String, f64)> {
    let mut kept: Vec<_> = scrape.ledger().into_iter().collect();
    let others =
        ["tallyd_jobs{", "tallyd_pairs"].into_iter().flat_map(|name| scrape.starting(name));
    kept.extend(others.map(|(name, value)| (name.to_owned(), value)));
    kept.sort_by(|one, other| one.0.cmp(&other.0));
    kept
}

#[tokio::test]
async fn counters_are_the_same_before_and_after_kill_9_and_a_drain() {
    let mut daemon = Daemon::start(CONFIG);
    let url = daemon.url("");
    for number in 0..50 {
        round(&daemon.client, &url, number).await;
    }
    let before = until_idle(&daemon).await;
    assert!(kept(&before).len() > 40 * 19, "{}", before.text);
    assert!(before.value(r#"tallyd_jobs_died_total{queue="work",kind="k0"}"#) > 0.0);
    daemon.kill();
    restart(&mut daemon);
    assert_eq!(kept(&daemon.scrape().await), kept(&before), "after kill -9");
    assert_eq!(daemon.stop().code(), Some(0));
    daemon.restart();
    assert_eq!(kept(&daemon.scrape().await), kept(&before), "after a drain");
}
