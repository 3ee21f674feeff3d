//! A disk that fails, is full, or is held by somebody else: what still works, and what is refused.

mod acknowledged;
mod backed_up;
mod copied;
mod covered;
mod full_disk;
mod held;
mod held_for_long;
mod read_only;

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::crash::seed;
use crate::fixture::{Daemon, PATIENCE, scaled};
use crate::stored::Stored;
use crate::strace::trace;

/// P6 promises a second; a loaded machine gets five.
const FAIL_STOP: Duration = Duration::from_secs(5);

async fn create(daemon: &Daemon, payload: &Value) -> (StatusCode, Value) {
    daemon.post("/v1/jobs", json!({"queue": "q", "kind": "k", "payload": payload})).await
}

/// Creates jobs until one is refused; answers with the ids of those that were not, and the answer.
async fn create_until_refused(
    daemon: &Daemon,
    payload: &Value,
    most: usize,
) -> (Vec<String>, StatusCode, Value) {
    let mut created = Vec::new();
    for _ in 0..most {
        let (status, answer) = create(daemon, payload).await;
        if status != StatusCode::CREATED {
            return (created, status, answer);
        }
        created.push(answer["id"].as_str().unwrap().to_owned());
    }
    panic!("none of {most} creates was refused");
}

/// Asks until a create is accepted again.
async fn until_accepted(daemon: &Daemon, payload: &Value) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, answer) = create(daemon, payload).await;
        if status == StatusCode::CREATED {
            return;
        }
        let refusals = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::INSUFFICIENT_STORAGE];
        assert!(refusals.contains(&status), "{status}: {answer}");
        assert!(Instant::now() < deadline, "still {status}: {answer}");
    }
}

/// Waits until the sweeper has gone round once more, which looks after the files.
async fn tick_of_the_sweeper(daemon: &Daemon) {
    let last_run = "tallyd_sweeper_last_run_timestamp_seconds";
    let before = daemon.scrape().await.value(last_run);
    let deadline = Instant::now() + PATIENCE;
    while daemon.scrape().await.value(last_run) == before {
        assert!(Instant::now() < deadline, "the sweeper stands still");
    }
}

async fn lease(daemon: &Daemon, max: usize) -> Vec<Value> {
    let (status, leased) = daemon.post("/v1/leases", json!({"queues": ["q"], "max": max})).await;
    assert_eq!(status, StatusCode::OK, "{leased}");
    let jobs = leased["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), max);
    jobs.iter().map(|job| job["lease"].clone()).collect()
}

async fn complete(daemon: &Daemon, lease: &Value) {
    let (status, answer) = daemon
        .post("/v1/leases/finish", json!([{"lease": lease, "outcome": "completed", "result": 1}]))
        .await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"results": ["ok"]})));
}

/// Stops the daemon and checks that what it stored is sound and has these jobs.
fn check_stored(daemon: &mut Daemon, created: &[String]) {
    assert_eq!(daemon.stop().code(), Some(0));
    let stored = Stored::read(&daemon.path("tallyd.db"));
    let jobs = stored.by_id();
    let lost: Vec<_> = created.iter().filter(|id| !jobs.contains_key(&***id)).collect();
    assert!(lost.is_empty(), "acknowledged, but lost: {lost:?}");
    assert_eq!(stored.wrong_counts(), Vec::<String>::new());
    assert_eq!(stored.integrity, Vec::<String>::new());
}

async fn check_identities(daemon: &Daemon) {
    assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
}

const SYNCS: &str = "fdatasync,fsync";

/// A daemon on an existing store, of whose threads each fails in its call so numbered of these;
/// `only` is the file whose calls count, if not all do.
fn failing_in(calls: &str, number: u32, only: Option<&str>) -> Daemon {
    let mut daemon = Daemon::start("");
    assert_eq!(daemon.stop().code(), Some(0), "a start makes no new file any more");
    let inject = format!("inject={calls}:error=EIO:when={number}");
    trace(&mut daemon, &format!("trace={calls}"), &[inject], only);
    daemon.restart();
    daemon
}

/// Creates jobs until one is refused, checks that the daemon ends for this reason, and that the
/// next one finds all jobs but perhaps not the last.
async fn check_fail_stop(
    mut daemon: Daemon,
    payload: Value,
    reasons: &[&str],
    may_be_unseen: bool,
) {
    let client = daemon.client.clone();
    let (created, told) = create_until_error(client, daemon.url("/v1/jobs"), payload).await;
    let refused_at = Instant::now();
    if let Some(answer) = &told {
        assert_eq!(answer["error"]["code"], "store_stopped");
    }
    // A sync that nobody waits for may end it between two requests.
    assert!(told.is_some() || may_be_unseen, "the caller was not told");
    assert!(!created.is_empty(), "the sync of the first failed already");
    let failed = daemon.wait_for_log(|line| line["event"] == "store_failed");
    let reason = failed["reason"].as_str().unwrap();
    assert!(reasons.iter().any(|known| reason.starts_with(known)), "{failed}");
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(refused_at.elapsed() < FAIL_STOP, "it took {:?} to end", refused_at.elapsed());

    daemon.wrap(&[]);
    daemon.restart();
    check_identities(&daemon).await;
    let scrape = daemon.scrape().await;
    let ready = scrape.value(r#"tallyd_jobs{queue="q",kind="k",state="ready"}"#) as usize;
    assert!((created.len()..=created.len() + 1).contains(&ready), "{ready} jobs");
    check_stored(&mut daemon, &created);
}

/// F7: whichever sync it is.
#[tokio::test]
async fn a_failed_sync_is_not_acknowledged_and_ends_the_daemon() {
    let mut random = StdRng::seed_from_u64(seed());
    for _ in 0..scaled(3) {
        let number = random.random_range(5..100);
        eprintln!("the sync {number} of each thread fails");
        let daemon = failing_in(SYNCS, number, None);
        check_fail_stop(daemon, Value::Null, &["disk I/O error"], false).await;
    }
}

/// F7: whoever asked for the sync.
#[tokio::test]
async fn a_failed_sync_of_a_checkpoint_ends_the_daemon_too() {
    let payload = "x".repeat(1_000_000).into();
    let daemon = failing_in(SYNCS, 1, Some("tallyd.db"));
    // Of the two that sync the file, SQLite and the thread itself, either may come first.
    let reasons = ["cannot sync the store's file", "checkpoint failed: disk I/O error"];
    check_fail_stop(daemon, payload, &reasons, true).await;
}

/// Creates jobs until an error comes; answers with the ids of those that were acknowledged, and the
/// error if it was told and not only felt.
async fn create_until_error(
    client: Client,
    url: String,
    payload: Value,
) -> (Vec<String>, Option<Value>) {
    let mut created = Vec::new();
    for _ in 0..1_000 {
        let job = json!({"queue": "q", "kind": "k", "payload": payload});
        let answer = async {
            let answer = client.post(&url).json(&job).timeout(PATIENCE).send().await?;
            Ok::<_, reqwest::Error>((answer.status(), answer.json::<Value>().await?))
        };
        match answer.await {
            Ok((StatusCode::CREATED, job)) => created.push(job["id"].as_str().unwrap().to_owned()),
            Ok((status, answer)) => {
                assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
                return (created, Some(answer));
            }
            Err(error) => {
                assert!(!error.is_timeout(), "{error:?}");
                return (created, None);
            }
        }
    }
    panic!("none of 1,000 creates failed");
}

/// Has many create jobs at once; all are told, or cut off, and none that was acknowledged is lost.
async fn check_fail_stop_of_many(mut daemon: Daemon) {
    const CALLERS: usize = 16;
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(create_until_error(
            crate::fixture::client(),
            daemon.url("/v1/jobs"),
            Value::Null,
        ));
    }
    let callers = callers.join_all().await;
    daemon.wait_for_log(|line| line["event"] == "store_failed");
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(callers.iter().any(|(_, told)| told.is_some()), "nobody was told");
    let created: Vec<String> = callers.into_iter().flat_map(|(created, _)| created).collect();

    daemon.wrap(&[]);
    daemon.restart();
    check_identities(&daemon).await;
    let scrape = daemon.scrape().await;
    let ready = scrape.value(r#"tallyd_jobs{queue="q",kind="k",state="ready"}"#) as usize;
    let (least, most) = (created.len(), created.len() + CALLERS);
    assert!((least..=most).contains(&ready), "{ready} jobs, {least} acknowledged");
    check_stored(&mut daemon, &created);
}

/// F7: however many wait for it.
#[tokio::test]
async fn a_failed_sync_or_write_is_acknowledged_to_nobody_of_many() {
    let mut random = StdRng::seed_from_u64(seed());
    for _ in 0..scaled(2) {
        let [sync, write] = [8..60, 60..1_000].map(|numbers| random.random_range(numbers));
        eprintln!("the sync {sync} or the write {write} of each thread fails");
        check_fail_stop_of_many(failing_in(SYNCS, sync, None)).await;
        // What was written before a failed sync is there after all; what could not be is not.
        check_fail_stop_of_many(failing_in("pwrite64", write, Some("tallyd.db-wal"))).await;
    }
}
