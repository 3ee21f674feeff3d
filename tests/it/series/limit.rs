//! A million names, sent by a client: the series stop at the limit, and every job is counted.

use std::collections::BTreeMap;

use crate::call::{NDJSON, call};
use crate::fixture::{Daemon, Scrape, scaled};
use crate::refusals::post;

use super::complete;

/// The defaults of `max_pairs` and `max_queues`; one queue is the daemon's own.
const PAIRS: u32 = 500;
const QUEUES: u32 = 999;

/// How many jobs one request creates.
const BATCH: u32 = 10_000;

/// What `/metrics` may come to, and by how much the memory may grow: to keep 64 bytes for each of a
/// million names would be more.
const MOST_TEXT: usize = 4 << 20;
const MOST_GROWTH_KB: u64 = 48 << 10;

/// Names of 32 bytes.
fn queue(job: u32) -> String {
    format!("queue-{:0>26}", job % QUEUES)
}

fn kind(job: u32) -> String {
    format!("kind-{job:0>27}")
}

/// By (queue, kind), what is counted as created.
type Created = BTreeMap<(String, String), f64>;

/// What the first jobs come to: the first pairs have rows of their own, the other kinds of their
/// queues are one row each, and all other queues are one.
fn expected(jobs: u32) -> Created {
    let mut rows = Created::new();
    for job in 0..jobs {
        let other = || "__other__".to_owned();
        let row = match job {
            0..PAIRS => (queue(job), kind(job)),
            _ if job % QUEUES < PAIRS => (queue(job), other()),
            _ => (other(), other()),
        };
        *rows.entry(row).or_default() += 1.0;
    }
    rows
}

/// A counter of every pair.
fn by_pair(scrape: &Scrape, metric: &str) -> Created {
    let prefix = format!("{metric}{{queue=\"");
    let rows = scrape.starting(&prefix).map(|(name, value)| {
        let names = name[prefix.len()..].trim_end_matches("\"}");
        let (queue, kind) = names.split_once("\",kind=\"").expect("both labels");
        ((queue.to_owned(), kind.to_owned()), value)
    });
    rows.collect()
}

/// A scrape, which must be sound, small, and add up to these rows.
async fn checked(daemon: &Daemon, rows: &Created, pairs: u32) -> Scrape {
    let scrape = daemon.scrape().await;
    assert!(scrape.text.len() < MOST_TEXT, "{} bytes", scrape.text.len());
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
    assert_eq!(&by_pair(&scrape, "tallyd_jobs_created_total"), rows);
    assert_eq!(scrape.value("tallyd_pairs"), f64::from(pairs));
    let beyond = rows.iter().filter(|((_, kind), _)| kind == "__other__");
    let beyond: f64 = beyond.map(|(_, created)| created).sum();
    assert_eq!(scrape.value("tallyd_pairs_overflow_jobs_total"), beyond);
    scrape
}

/// Creates a job of a pair each; answers with how many kB of memory the daemon has then.
async fn create(daemon: &Daemon, jobs: std::ops::Range<u32>) -> u64 {
    let line = |job| format!("{{\"queue\":\"{}\",\"kind\":\"{}\"}}\n", queue(job), kind(job));
    let body: String = jobs.map(line).collect();
    let answer = call(daemon, "POST", "/v1/jobs/batch", &[("content-type", NDJSON)], body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    daemon.resident_kib()
}

/// Sends all names, and now and then a queue too many; answers with by how many kB the memory grew
/// after the first tenth.
async fn create_all(daemon: &Daemon, jobs: u32) -> u64 {
    let mut resident = Vec::new();
    for from in (0..jobs).step_by(BATCH as usize) {
        resident.push(create(daemon, from..jobs.min(from + BATCH)).await);
        let job = format!("{{\"queue\":\"beyond-{from}\",\"kind\":\"k\"}}");
        post("/v1/jobs", job, "too_many_queues").must_be_refused(daemon).await;
    }
    resident[resident.len() - 1].saturating_sub(resident[resident.len() / 10])
}

/// F17: names of users make a bounded number of series.
#[tokio::test]
async fn names_without_end_stop_at_the_limit_and_every_job_is_counted() {
    let mut daemon = Daemon::start("");
    let jobs = scaled(1_000_000).max(5 * QUEUES);
    let mut rows = expected(jobs);
    let grown = create_all(&daemon, jobs).await;
    assert!(grown < MOST_GROWTH_KB, "memory has grown by {grown} kB");
    let before = checked(&daemon, &rows, PAIRS).await;
    daemon.kill();
    daemon.restart();
    let after = checked(&daemon, &rows, PAIRS).await;
    assert_eq!(after.ledger(), before.ledger());

    // With a lower limit no row goes, and no new one comes.
    daemon.kill();
    daemon.configure("max_pairs = 10");
    daemon.restart();
    let lower = checked(&daemon, &rows, PAIRS).await;
    assert_eq!((lower.ledger(), lower.value("tallyd_pairs_limit")), (before.ledger(), 10.0));
    create(&daemon, jobs..jobs + QUEUES).await;
    rows = expected(jobs + QUEUES);
    checked(&daemon, &rows, PAIRS).await;

    // With a higher one the next pairs have rows, whether or not their kinds are new.
    assert!(daemon.stop().success());
    daemon.configure("max_pairs = 505");
    daemon.restart();
    checked(&daemon, &rows, PAIRS).await;
    create(&daemon, PAIRS..PAIRS + 6).await;
    rows.extend((PAIRS..PAIRS + 5).map(|job| ((queue(job), kind(job)), 1.0)));
    *rows.get_mut(&("__other__".to_owned(), "__other__".to_owned())).unwrap() += 1.0;
    checked(&daemon, &rows, PAIRS + 5).await;

    finish_some(&daemon).await;
    checked(&daemon, &rows, PAIRS + 5).await;
}

/// Jobs count where they began: the first of a queue in its own row, the next beside it, and those
/// of a queue that had no row under `__other__`, though it has one now.
async fn finish_some(daemon: &Daemon) {
    complete(daemon, &queue(0), 3).await;
    complete(daemon, &queue(PAIRS), 3).await;
    let completed = by_pair(&daemon.scrape().await, "tallyd_jobs_completed_total");
    let completed: Created = completed.into_iter().filter(|(_, jobs)| *jobs != 0.0).collect();
    let other = || "__other__".to_owned();
    let wanted =
        [((queue(0), kind(0)), 1.0), ((queue(0), other()), 2.0), ((other(), other()), 3.0)];
    assert_eq!(completed, Created::from(wanted));
}
