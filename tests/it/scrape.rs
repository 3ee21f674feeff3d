//! Scrapes under load and across ends: every one is exact, and no counter of the ledger goes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Daemon, Scrape, scaled};
use crate::oracle::Scrapes;

const CONFIG: &str = r#"
[defaults]
max_attempts = 3
backoff = { initial = "1ms", max = "10ms" }

[queues.work]
concurrency = 2
exec = { command = ["/bin/sh", "-c", "read -r payload; test \"$payload\" = 1"] }
"#;

/// How many scrapers run at once.
const SCRAPERS: u32 = 4;

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
    let mut jobs = vec![job("outside", 0); 8];
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
    assert!(status == StatusCode::OK || status == StatusCode::CONFLICT, "{status}");
}

/// Rounds until `stop`.
async fn load(url: String, next: Arc<AtomicU32>, stop: CancellationToken) {
    let client = crate::fixture::client();
    while !stop.is_cancelled() {
        round(&client, &url, next.fetch_add(1, Ordering::Relaxed)).await;
    }
}

async fn scrape_often(url: String, times: u32) -> Scrapes {
    let client = crate::fixture::client();
    let mut scrapes = Scrapes::default();
    for _ in 0..times {
        let response = client.get(format!("{url}/metrics")).send().await.unwrap();
        scrapes.see(Scrape::parse(&response.text().await.unwrap()));
    }
    scrapes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scrape_is_exact_while_four_scrape_at_full_speed() {
    let daemon = Daemon::start(CONFIG);
    let (stop, rounds) = (CancellationToken::new(), Arc::new(AtomicU32::new(0)));
    let mut loads = JoinSet::new();
    for _ in 0..3 {
        loads.spawn(load(daemon.url(""), rounds.clone(), stop.clone()));
    }
    let mut scrapers = JoinSet::new();
    for _ in 0..SCRAPERS {
        scrapers.spawn(scrape_often(daemon.url(""), scaled(2_000).div_ceil(SCRAPERS)));
    }
    let scrapes = scrapers.join_all().await;
    stop.cancel();
    loads.join_all().await;
    let rounds = rounds.load(Ordering::Relaxed);
    assert!(rounds > scaled(20), "there was no load to speak of: {rounds} rounds");
    for Scrapes { seen, wrong, .. } in scrapes {
        assert_eq!(wrong, Vec::<String>::new(), "of {seen} scrapes, in {rounds} rounds");
    }
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
    daemon.restart();
    assert_eq!(kept(&daemon.scrape().await), kept(&before), "after kill -9");
    assert_eq!(daemon.stop().code(), Some(0));
    daemon.restart();
    assert_eq!(kept(&daemon.scrape().await), kept(&before), "after a drain");
}
