//! Where load gathers: jobs that fail together do not come back together, and a receiver that is
//! down holds up no queue but its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use tallyd::config::BackoffPolicy;
use tallyd::job::Outcome;
use tallyd::store::{Finish, LeaseAnswer, LeasedJob};
use tokio::net::{TcpListener, TcpStream};

use crate::bed::{Bed, FAILED, claim, job};
use crate::fixture::{Daemon, scaled};
use crate::receiver::{Reaction, Receiver, answer};

/// The most jobs of one request that creates or finishes, and of one that leases.
const BATCH: usize = 10_000;
const MOST_LEASED: usize = 1_000;

/// The first backoff by the defaults, 5 s ± 20 %: from when to when a job comes back.
const FIRST_MS: i64 = 4_000;
const LAST_MS: i64 = 6_000;

const SECOND_MS: i64 = 1_000;

async fn post(daemon: &Daemon, path: &str, body: Value) -> Value {
    let (status, answer) = daemon.post(path, body).await;
    assert!(status.is_success(), "{path}: {status}: {answer}");
    answer
}

async fn create(daemon: &Daemon, queue: &str, number: usize) {
    let jobs = vec![json!({"queue": queue, "kind": "k"}); number];
    for batch in jobs.chunks(BATCH) {
        post(daemon, "/v1/jobs/batch", json!(batch)).await;
    }
}

/// Creates so many jobs, leases all, and only then has all of them fail.
async fn fail_together(daemon: &Daemon, number: usize) {
    create(daemon, "hot", number).await;
    let mut ends = Vec::new();
    while ends.len() < number {
        let ask = json!({"queues": ["hot"], "max": MOST_LEASED, "duration": "1h"});
        let leased = post(daemon, "/v1/leases", ask).await;
        let jobs = leased["jobs"].as_array().unwrap();
        assert!(!jobs.is_empty(), "{} of {number}", ends.len());
        ends.extend(jobs.iter().map(|job| json!({"lease": job["lease"], "outcome": "failed"})));
    }
    for batch in ends.chunks(BATCH) {
        let answer = post(daemon, "/v1/leases/finish", json!(batch)).await;
        assert!(answer["results"].as_array().unwrap().iter().all(|result| result == "ok"));
    }
}

/// How long each job waits from its failure until it comes back.
fn waits(store: &Path) -> Vec<i64> {
    let store = Connection::open_with_flags(store, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut select = store.prepare("SELECT run_at - at FROM jobs JOIN errors USING (id)").unwrap();
    let rows = select.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// How many of these times, in milliseconds, fall into the fullest second, and how many into one
/// on average between the first and the last.
fn peak_and_mean(times: &[i64]) -> (f64, f64) {
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    let mut seconds: BTreeMap<i64, u32> = BTreeMap::new();
    times.iter().for_each(|at| *seconds.entry((at - first) / SECOND_MS).or_default() += 1);
    let span = ((last - first) as f64 / SECOND_MS as f64).max(1.0);
    let peak = seconds.values().max().copied().unwrap();
    (f64::from(peak), times.len() as f64 / span)
}

/// What is wrong with how long jobs wait: with when they would come back, had all of them failed in
/// one millisecond. How quickly this machine has them fail is of no interest.
///
/// That is over two seconds, of which neither can have more than twice the mean, so there it must
/// be nearly even. A wait that is the same for all would be its own mean, so they must span what
/// the jitter gives, too.
fn crowded(waits: &[i64]) -> Vec<String> {
    let mut wrong = Vec::new();
    let (peak, mean) = peak_and_mean(waits);
    if peak > 1.2 * mean {
        wrong.push(format!("{peak} jobs in one second, {mean:.0} on average"));
    }
    let (first, last) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    // Of so many, the first and the last come close to the ends.
    let near = (LAST_MS - FIRST_MS) / 20;
    if *first < FIRST_MS || *first > FIRST_MS + near || *last > LAST_MS || *last < LAST_MS - near {
        wrong.push(format!("they wait from {first} to {last} ms"));
    }
    wrong
}

/// F13: 100,000 retries in the same second.
#[tokio::test]
async fn jobs_that_fail_together_do_not_come_back_together() {
    let number = scaled(100_000).min(500_000) as usize; // they are in the test's memory too
    let mut daemon = Daemon::start("[queues.hot]\nmax_attempts = 25\n");
    fail_together(&daemon, number).await;
    daemon.kill();
    let waits = waits(&daemon.path("tallyd.db"));
    assert_eq!(waits.len(), number, "some have not failed");
    assert_eq!(crowded(&waits), Vec::<String>::new());
    let (peak, mean) = peak_and_mean(&waits);
    eprintln!("{} jobs: {peak} in the fullest second, {mean:.0} on average", waits.len());
}

/// From when to when a job comes back by the backoff below, in seconds: a minute ± 30 s.
const FROM_SECS: usize = 30;
const TO_SECS: usize = 90;

/// What is wrong with how many jobs came back in each second after they had failed.
fn gathered(by_second: &[usize]) -> Vec<String> {
    let mut wrong = Vec::new();
    let come = || by_second.iter().enumerate().filter(|(_, jobs)| **jobs > 0).map(|(at, _)| at);
    let (first, last) = (come().min().unwrap(), come().max().unwrap());
    let mean = by_second.iter().sum::<usize>() as f64 / (last + 1 - first) as f64;
    let peak = *by_second.iter().max().unwrap();
    if peak as f64 > 2.0 * mean {
        wrong.push(format!("{peak} jobs in one second, {mean:.0} on average"));
    }
    if first > FROM_SECS + 2 || last < TO_SECS - 2 {
        wrong.push(format!("they come from second {first} to {last}"));
    }
    wrong
}

/// Claims and completes all that is ready; how many jobs that are.
async fn complete_ready(bed: &Bed) -> usize {
    let mut completed = 0;
    loop {
        let jobs = bed.claim(claim(&["a"], MOST_LEASED)).await;
        if jobs.is_empty() {
            return completed;
        }
        completed += jobs.len();
        end_all(bed, &jobs, Outcome::Completed).await;
    }
}

async fn end_all(bed: &Bed, jobs: &[LeasedJob], outcome: Outcome) {
    let end = |job: &LeasedJob| Finish { lease: job.lease, outcome, result: None, error: None };
    let answers = bed.store.finish(jobs.iter().map(end).collect()).await.unwrap();
    assert!(answers.iter().all(|answer| *answer == LeaseAnswer::Ok), "{answers:?}");
}

/// F13: nor are they given out together. The clock is put forward second by second, so that it is no
/// matter how quickly this machine promotes and claims them; the backoff lasts long enough for a
/// second to have more than twice its share.
#[tokio::test]
async fn jobs_that_fail_together_are_claimable_one_second_after_the_other() {
    let number = scaled(10_000).min(100_000) as usize;
    let bed = Bed::with_policy(|policy| {
        let initial = Duration::from_secs(60);
        policy.backoff = BackoffPolicy { initial, jitter: 0.5, ..BackoffPolicy::default() };
    });
    let mut failed = 0;
    while failed < number {
        bed.store.create_batch(vec![job("a", "k"); MOST_LEASED]).await.unwrap();
        failed += MOST_LEASED;
    }
    let mut leased = Vec::new();
    while leased.len() < failed {
        leased.extend(bed.claim(claim(&["a"], MOST_LEASED)).await);
    }
    for jobs in leased.chunks(BATCH) {
        end_all(&bed, jobs, FAILED).await;
    }
    let mut by_second = vec![0];
    while by_second.iter().sum::<usize>() < failed {
        assert!(by_second.len() <= TO_SECS + 1, "some do not come back: {by_second:?}");
        bed.advance_secs(1);
        bed.sweep().await;
        by_second.push(complete_ready(&bed).await);
    }
    eprintln!("{failed} jobs: {by_second:?}");
    assert_eq!(gathered(&by_second), Vec::<String>::new());
}

#[test]
fn jobs_that_are_claimable_together_are_found() {
    let even: Vec<usize> = (0..=TO_SECS).map(|at| if at < FROM_SECS { 0 } else { 100 }).collect();
    assert_eq!(gathered(&even), Vec::<String>::new());
    let mut at_once = vec![0; TO_SECS];
    at_once[60] = 6_000;
    assert!(!gathered(&at_once).is_empty(), "no jitter");
    let by_tens = (0..=TO_SECS).map(|at| if at < FROM_SECS || at % 10 > 0 { 0 } else { 1_000 });
    assert!(!gathered(&by_tens.collect::<Vec<_>>()).is_empty(), "promoted every ten seconds");
    let mut heap = even;
    heap[40] += 200;
    assert!(!gathered(&heap).is_empty(), "three times the share in one second");
}

#[test]
fn jobs_that_come_back_together_are_found() {
    let spread = |from: i64, to: i64| (0..10_000).map(move |n| from + n * (to - from) / 9_999);
    assert_eq!(crowded(&spread(FIRST_MS, LAST_MS).collect::<Vec<_>>()), Vec::<String>::new());
    assert!(!crowded(&[5_000; 100]).is_empty(), "no jitter");
    assert!(!crowded(&spread(4_500, 5_500).collect::<Vec<_>>()).is_empty(), "half the jitter");
    let heap = spread(FIRST_MS, LAST_MS).chain(std::iter::repeat_n(5_100, 100_000));
    assert!(!crowded(&heap.collect::<Vec<_>>()).is_empty(), "most of them in one second");
}

/// How a receiver is down.
#[derive(Debug, Clone, Copy)]
enum Down {
    /// It takes the request and never answers.
    Silent,
    /// It takes no connection: whoever waits for one, waits.
    Full,
    /// Nobody listens.
    Refusing,
    /// It answers that it cannot, and asks for an hour's peace.
    Overloaded,
}

/// How many slots each queue has.
const SLOTS: usize = 10;

/// How many jobs the other queue completes meanwhile.
const LIVE: u32 = 1_000;

/// Takes connections until nobody gets one any more, and keeps them.
async fn fill(address: std::net::SocketAddr) -> Vec<TcpStream> {
    let mut kept = Vec::new();
    let soon = Duration::from_millis(200);
    while let Ok(stream) = tokio::time::timeout(soon, TcpStream::connect(address)).await {
        kept.push(stream.unwrap());
    }
    kept
}

/// How many attempts of a queue have ended.
async fn ended(daemon: &Daemon, queue: &str, result: &str) -> f64 {
    let scrape = daemon.scrape().await;
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
    scrape.value(&format!(
        "tallyd_attempts_ended_total{{queue=\"{queue}\",kind=\"k\",result=\"{result}\"}}"
    ))
}

/// Has a live queue work beside one whose receiver is down.
async fn work_beside(down: Down) {
    let mut dead = match down {
        Down::Overloaded => {
            let headers = "retry-after: 3600\r\n";
            Receiver::start(&[answer("503 Service Unavailable", headers, "")]).await
        }
        _ => Receiver::start(&[Reaction::Hang]).await,
    };
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let _kept = if matches!(down, Down::Full) { fill(address).await } else { Vec::new() };
    if matches!(down, Down::Refusing) {
        drop(silent);
    }
    let url = match down {
        Down::Silent | Down::Overloaded => dead.url.clone(),
        Down::Full | Down::Refusing => format!("http://{address}/"),
    };
    let mut live = Receiver::start(&[answer("200 OK", "", "")]).await;
    let daemon = Daemon::start(&format!(
        "[queues.dead]\nconcurrency = {SLOTS}\nkinds = [\"k\"]\nhttp = {{ url = \"{url}\", \
         connect_timeout = \"60s\" }}\n\
         [queues.live]\nconcurrency = {SLOTS}\nkinds = [\"k\"]\nhttp = {{ url = \"{}\" }}\n",
        live.url
    ));
    create(&daemon, "dead", LIVE as usize).await;
    if matches!(down, Down::Silent | Down::Overloaded) {
        for _ in 0..SLOTS {
            dead.pushed().await;
        }
    }
    create(&daemon, "live", LIVE as usize).await;
    let mut come = BTreeSet::new();
    while come.len() < LIVE as usize {
        come.insert(live.pushed().await.headers["tallyd-job-id"].clone());
    }
    let (status, page) = daemon.get("/v1/jobs?queue=live&state=running").await;
    assert_eq!(status, StatusCode::OK);
    for job in page["jobs"].as_array().unwrap() {
        // The last ones: pushed, and about to be reported.
        let id = job["id"].as_str().unwrap();
        daemon.job_when(id, |job| job["state"] == "completed").await;
    }
    assert_eq!(ended(&daemon, "live", "completed").await, f64::from(LIVE), "{down:?}");
    let busy = daemon.scrape().await.value("tallyd_queue_workers_busy{queue=\"dead\"}");
    let failed = ended(&daemon, "dead", "failed").await;
    match down {
        // All of them are held still, by the same attempts.
        Down::Silent | Down::Full => assert_eq!((busy, failed), (SLOTS as f64, 0.0), "{down:?}"),
        Down::Refusing | Down::Overloaded => assert!(failed > 0.0, "{down:?}"),
    }
}

/// F13: one queue's dead receiver slows no other queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_receiver_is_down_holds_up_no_other() {
    for down in [Down::Silent, Down::Full, Down::Refusing, Down::Overloaded] {
        work_beside(down).await;
    }
}
