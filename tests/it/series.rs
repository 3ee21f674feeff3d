//! The series of a daemon: all there at 0 before anything happens, gone with their queue, and
//! watched by a recount.

mod limit;

use std::collections::BTreeSet;

use reqwest::Method;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::fixture::{Daemon, Scrape};

/// The labels besides queue and kind, by metric: one series each for every pair.
const OF_A_PAIR: &[(&str, &str, &[&str])] = &[
    ("tallyd_jobs_created_total", "", &[""]),
    ("tallyd_jobs_completed_total", "", &[""]),
    ("tallyd_jobs_cancelled_total", "", &[""]),
    ("tallyd_jobs_discarded_total", "", &[""]),
    ("tallyd_jobs_retried_total", "", &[""]),
    ("tallyd_jobs_died_total", "", &[""]),
    ("tallyd_jobs_requeued_total", "", &[""]),
    ("tallyd_jobs", "state", &["scheduled", "ready", "retrying", "running", "dead"]),
    ("tallyd_attempts_started_total", "", &[""]),
    (
        "tallyd_attempts_ended_total",
        "result",
        &["completed", "failed", "timed_out", "lease_expired", "released", "cancelled"],
    ),
];

/// The series that the ledger keeps for a pair, as written.
fn of_pair(queue: &str, kind: &str) -> BTreeSet<String> {
    let of_metric = |(name, label, values): &(&str, &str, &'static [&str])| {
        let (name, label) = (String::from(*name), String::from(*label));
        let pair = format!("queue=\"{queue}\",kind=\"{kind}\"");
        values.iter().map(move |value| match *value {
            "" => format!("{name}{{{pair}}}"),
            value => format!("{name}{{{pair},{label}=\"{value}\"}}"),
        })
    };
    OF_A_PAIR.iter().flat_map(of_metric).collect()
}

/// Which of the ledger's series of a pair are there, and those that are not 0 with their values.
fn seen(scrape: &Scrape, queue: &str, kind: &str) -> (BTreeSet<String>, Vec<(String, f64)>) {
    let pair = format!("{{queue=\"{queue}\",kind=\"{kind}\"");
    let there = scrape.starting("tallyd_").filter(|(name, _)| name.contains(&pair));
    let kept = there.filter(|(name, _)| !name.starts_with("tallyd_attempt_seconds_total"));
    let kept: Vec<_> = kept.map(|(name, value)| (name.to_owned(), value)).collect();
    let mut busy: Vec<_> = kept.iter().filter(|(_, value)| *value != 0.0).cloned().collect();
    busy.sort_by(|one, other| one.0.cmp(&other.0));
    (kept.into_iter().map(|(name, _)| name).collect(), busy)
}

async fn create(daemon: &Daemon, queue: &str, kind: &str) -> String {
    let (status, job) = daemon.post("/v1/jobs", json!({"queue": queue, "kind": kind})).await;
    assert_eq!(status, 201, "{job}");
    job["id"].as_str().unwrap().to_owned()
}

/// Completes so many jobs of a queue.
async fn complete(daemon: &Daemon, queue: &str, max: usize) {
    let (_, leased) = daemon.post("/v1/leases", json!({"queues": [queue], "max": max})).await;
    let leased = leased["jobs"].as_array().unwrap();
    assert_eq!(leased.len(), max, "queue {queue}");
    let end = |job: &Value| json!({"lease": job["lease"], "outcome": "completed"});
    let ends: Vec<Value> = leased.iter().map(end).collect();
    let (_, ended) = daemon.post("/v1/leases/finish", ends.into()).await;
    assert_eq!(ended["results"], json!(vec!["ok"; max]));
}

#[tokio::test]
async fn all_series_of_a_pair_appear_with_its_first_job_and_stay() {
    let daemon = Daemon::start("");
    assert_eq!(seen(&daemon.scrape().await, "new", "k").0, BTreeSet::new());
    create(&daemon, "new", "k").await;
    let all = of_pair("new", "k");
    assert_eq!(all.len(), 19);
    let pair = "queue=\"new\",kind=\"k\"";
    let created = (format!("tallyd_jobs_created_total{{{pair}}}"), 1.0);
    let ready = (format!("tallyd_jobs{{{pair},state=\"ready\"}}"), 1.0);
    let scrape = daemon.scrape().await;
    assert_eq!(seen(&scrape, "new", "k"), (all.clone(), vec![created.clone(), ready]));
    assert_eq!(scrape.value(&format!("tallyd_attempt_seconds_total{{{pair}}}")), 0.0);

    complete(&daemon, "new", 1).await;
    let ended = (format!("tallyd_attempts_ended_total{{{pair},result=\"completed\"}}"), 1.0);
    let started = (format!("tallyd_attempts_started_total{{{pair}}}"), 1.0);
    let completed = (format!("tallyd_jobs_completed_total{{{pair}}}"), 1.0);
    let now = seen(&daemon.scrape().await, "new", "k");
    assert_eq!(now, (all, vec![ended, started, completed, created]), "the levels fell to 0");
}

#[tokio::test]
async fn configured_queues_and_kinds_are_there_at_0_from_the_start() {
    let daemon = Daemon::start("[queues.mail]\nkinds = [\"welcome\", \"bye\"]\n[queues.plain]");
    let scrape = daemon.scrape().await;
    for kind in ["welcome", "bye"] {
        assert_eq!(seen(&scrape, "mail", kind), (of_pair("mail", kind), Vec::new()));
    }
    assert_eq!(scrape.pairs().len(), 2);
    assert_eq!(scrape.value("tallyd_pairs"), 2.0);
    for queue in ["mail", "plain", "default"] {
        for metric in [
            "tallyd_leases_lost_total",
            "tallyd_duplicates_total",
            "tallyd_job_wait_seconds_count",
            "tallyd_attempt_duration_seconds_count",
            "tallyd_queue_paused",
            "tallyd_queue_workers_busy",
        ] {
            assert_eq!(scrape.value(&format!("{metric}{{queue=\"{queue}\"}}")), 0.0);
        }
    }
}

#[tokio::test]
async fn the_series_of_a_forgotten_queue_go_and_no_others() {
    let daemon = Daemon::start("[defaults]\nkeep_completed = \"1ms\"");
    let before = daemon.scrape().await;
    create(&daemon, "gone", "k").await;
    create(&daemon, "stays", "k").await;
    complete(&daemon, "gone", 1).await;
    assert!(daemon.scrape().await.text.contains("queue=\"gone\""));
    let mut gone = 0;
    while gone != 204 {
        let (status, answer) = daemon.ask(Method::DELETE, "/v1/queues/gone", Value::Null).await;
        gone = status.as_u16();
        assert!(gone == 204 || answer["error"]["code"] == "queue_not_empty", "{answer}");
    }
    let scrape = daemon.scrape().await;
    assert!(!scrape.text.contains("queue=\"gone\""), "{}", scrape.text);
    assert_eq!(seen(&scrape, "stays", "k").0, of_pair("stays", "k"));
    assert_eq!(scrape.value("tallyd_pairs"), before.value("tallyd_pairs") + 1.0);
}

/// Ends the daemon as a crash would, changes the file, and answers with what the first recount of
/// the next start says.
async fn mismatch_after(daemon: &mut Daemon, sql: &str) -> f64 {
    daemon.kill();
    let file = Connection::open(daemon.path("tallyd.db")).expect("it can be opened");
    file.execute_batch(sql).expect("the statements are valid");
    drop(file);
    daemon.restart();
    let is_told = |line: &Value| line["event"] == "recounted";
    // It may have come before the daemon was ready.
    let lines: Vec<_> = daemon.log().lines().flat_map(serde_json::from_str).collect();
    let told = lines.into_iter().find(is_told).unwrap_or_else(|| daemon.wait_for_log(is_told));
    let gauge = daemon.scrape().await.value("tallyd_tally_mismatch");
    assert_eq!(told["mismatch"].as_f64(), Some(gauge), "{told}");
    gauge
}

#[tokio::test]
async fn a_row_changed_behind_the_servers_back_is_told_as_a_mismatch() {
    let mut daemon = Daemon::start("");
    for kind in ["a", "b", "c"] {
        create(&daemon, "work", kind).await;
    }
    assert_eq!(mismatch_after(&mut daemon, "").await, 0.0, "a crash alone is none");
    let other_row = "UPDATE ledger SET ready = ready + 1, created = created + 1 WHERE kind = 'a'";
    assert_eq!(mismatch_after(&mut daemon, other_row).await, 1.0, "the ledger has one too many");
    let same_row = "UPDATE ledger SET ready = ready - 1, created = created - 1 WHERE kind = 'a'";
    assert_eq!(mismatch_after(&mut daemon, same_row).await, 0.0);
    let cancelled = "UPDATE jobs SET state = 'cancelled', ended_at = run_at WHERE kind = 'b'";
    assert_eq!(mismatch_after(&mut daemon, cancelled).await, 2.0, "one less ready, one more ended");
    let ready = "UPDATE jobs SET state = 'ready', ended_at = NULL WHERE kind = 'b'";
    assert_eq!(mismatch_after(&mut daemon, ready).await, 0.0);
    let lost = "DELETE FROM jobs WHERE kind = 'c'";
    assert_eq!(mismatch_after(&mut daemon, lost).await, 1.0, "one is missing");
}
