//! Somebody else's reader holds the file for as long as a backup or a forgotten shell does, while jobs come
//! and go at a moderate pace and leases are renewed again and again.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::held::{check_log, hold, is_busy};
use super::{check_identities, check_stored};
use crate::fixture::{Daemon, scaled};

/// For how many seconds it is held.
const HELD_FOR: u32 = 90;

/// How long the log is before that; from then on it grows at the pace of the jobs.
const FILLED: u64 = 40 << 20;

/// How long it is when the first create may be refused, and the first claim; in whole pages, each with
/// its header, so that it may be a little less.
const PAGE_BYTES: u64 = 4_096 + 24;
const LONG_FOR_CREATES: u64 = (48 << 20) - PAGE_BYTES;
const LONG_FOR_CLAIMS: u64 = (56 << 20) - PAGE_BYTES;

/// How often a job comes and another goes, and how often somebody looks which leases to renew.
const JOBS: Duration = Duration::from_millis(250);
const RENEWALS: Duration = Duration::from_millis(100);

/// How soon all is accepted again when the reader has gone.
const RECOVERED: Duration = Duration::from_secs(5);

/// How long leases are renewed after a crash.
const AFTER_CRASH: Duration = Duration::from_secs(5);

/// Leases that end when claims have stopped already.
const STOCK: usize = 20;

/// So many jobs more than go before claims stop.
const BACKLOG: usize = 500;

/// No retention but for the queue of most jobs, so that it is pruned all the time.
const CONFIG: &str =
    "[queues.q]\nlease = \"10m\"\nmax_completed = 20\n[queues.held]\n[queues.large]\n";

/// A lease that its worker renews at a third, as workers do.
struct Lease {
    lease: Value,
    lasts: Duration,
    /// When it was asked for, or renewed, so that it lasts from then on at least.
    from: Instant,
}

/// Renews leases until this time; answers with how often. One may be lost only if the test itself comes
/// too late.
async fn renew(daemon: &Daemon, leases: &mut Vec<Lease>, until: Instant) -> usize {
    let mut looks = interval(RENEWALS);
    let mut renewed = 0;
    while Instant::now() < until {
        looks.tick().await;
        let is_due = |one: &&mut Lease| one.from.elapsed() >= one.lasts / 3;
        let mut due: Vec<_> = leases.iter_mut().filter(is_due).collect();
        if due.is_empty() {
            continue;
        }
        let asked = Instant::now();
        let asks: Vec<_> = due.iter().map(|one| one.lease.clone()).collect();
        let (status, answer) = daemon.post("/v1/leases/renew", json!({"leases": asks})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        for (one, result) in due.iter_mut().zip(answer["results"].as_array().unwrap()) {
            let (took, lasts) = (one.from.elapsed(), one.lasts);
            assert!(result == "ok" || took >= lasts, "{result} {took:?} into a lease of {lasts:?}");
            one.from = asked;
            if result != "ok" {
                one.lease = Value::Null;
            }
        }
        renewed += due.len();
        leases.retain(|one| !one.lease.is_null());
    }
    renewed
}

/// Asserts that the log is long enough to refuse something.
fn check_length(daemon: &Daemon, least: u64, refused: &str) {
    let bytes = daemon.wal_bytes();
    assert!(bytes >= least, "{refused} are refused at {bytes} bytes of log");
}

/// The jobs that come and go.
#[derive(Default)]
struct Jobs {
    created: usize,
    completed: usize,
    creates_refused: bool,
    claims_refused: bool,
    /// Leases of jobs that can end at any time.
    stock: Vec<Value>,
    /// How long the log was when claims were refused and none of those was left.
    quiet_at: Option<u64>,
}

impl Jobs {
    /// One job comes; if the log is too long for it, none comes any more.
    async fn come(&mut self, daemon: &Daemon, round: usize) {
        let payload = "x".repeat(if round.is_multiple_of(8) { 60_000 } else { 10 });
        let delay = if round.is_multiple_of(3) { "1s" } else { "0s" };
        let job = json!({"queue": "q", "kind": "k", "payload": payload, "delay": delay});
        let (status, answer) = daemon.post("/v1/jobs", job).await;
        if status == StatusCode::CREATED {
            assert!(!self.creates_refused, "accepted after others were refused");
            self.created += 1;
            return;
        }
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
        assert_eq!(answer["error"]["code"], "store_busy");
        check_length(daemon, LONG_FOR_CREATES, "creates");
        self.creates_refused = true;
    }

    /// One job is leased and completed; when none can be leased any more, one of the stock, at times.
    async fn go(&mut self, daemon: &Daemon, round: usize) {
        let given = daemon.post("/v1/leases", json!({"queues": ["q"]})).await;
        let lease = if is_busy(&given) {
            assert!(self.creates_refused, "claims stop after creates");
            check_length(daemon, LONG_FOR_CLAIMS, "claims");
            self.claims_refused = true;
            if self.stock.is_empty() {
                self.quiet_at.get_or_insert(daemon.wal_bytes());
            }
            if round.is_multiple_of(4) { self.stock.pop() } else { None }
        } else {
            assert!(!self.claims_refused, "given out after others were refused");
            given.1["jobs"].get(0).map(|job| job["lease"].clone())
        };
        if let Some(lease) = lease {
            self.complete(daemon, &lease, if round.is_multiple_of(4) { 65_000 } else { 10 }).await;
        }
    }

    async fn complete(&mut self, daemon: &Daemon, lease: &Value, bytes: usize) {
        let result = "x".repeat(bytes);
        let end = json!([{"lease": lease, "outcome": "completed", "result": result}]);
        let (status, answer) = daemon.post("/v1/leases/finish", end).await;
        assert_eq!((status, answer), (StatusCode::OK, json!({"results": ["ok"]})));
        self.completed += 1;
    }

    async fn come_and_go(&mut self, daemon: &Daemon, until: Instant) {
        let mut rounds = interval(JOBS);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 0.. {
            rounds.tick().await;
            if Instant::now() >= until {
                return;
            }
            self.come(daemon, round).await;
            self.go(daemon, round).await;
            check_log(daemon);
            if round.is_multiple_of(20) {
                check_identities(daemon).await;
                eprintln!("{} KiB of log", daemon.wal_bytes() >> 10);
            }
        }
    }

    /// Waits until creates and claims are accepted again.
    async fn recover(&mut self, daemon: &Daemon) {
        let since = Instant::now();
        let mut looks = interval(RENEWALS);
        loop {
            looks.tick().await;
            let job = json!({"queue": "q", "kind": "k"});
            let is_created = daemon.post("/v1/jobs", job).await.0 == StatusCode::CREATED;
            self.created += usize::from(is_created);
            let given = daemon.post("/v1/leases", json!({"queues": ["q"]})).await;
            let is_given = !is_busy(&given);
            if is_given {
                self.stock.push(given.1["jobs"][0]["lease"].clone());
            }
            if is_created && is_given {
                return;
            }
            assert!(since.elapsed() < RECOVERED, "still refused");
        }
    }
}

/// Creates a job in this queue; answers with its id.
async fn create(daemon: &Daemon, queue: &str, bytes: usize) -> String {
    let job = json!({"queue": queue, "kind": "k", "payload": "x".repeat(bytes)});
    let (status, answer) = daemon.post("/v1/jobs", job).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    answer["id"].as_str().unwrap().to_owned()
}

/// Creates a job in this queue and leases it.
async fn create_and_lease(daemon: &Daemon, queue: &str, duration: &str) -> Value {
    create(daemon, queue, 10).await;
    let ask = json!({"queues": [queue], "duration": duration});
    let (status, given) = daemon.post("/v1/leases", ask).await;
    assert_eq!(status, StatusCode::OK, "{given}");
    given["jobs"][0]["lease"].clone()
}

/// F9: held for minutes. Creates stop when the log is long and not before, claims later, nothing else
/// does: no lease is lost, what runs ends, and all goes on when the reader has gone.
#[tokio::test]
async fn while_a_reader_stays_for_minutes_leases_are_kept_and_the_log_stays_bounded() {
    let mut daemon = Daemon::prepare(CONFIG);
    daemon.log_at("info");
    daemon.restart();
    let many = vec![json!({"queue": "q", "kind": "k", "priority": 9}); BACKLOG];
    let (status, answer) = daemon.post("/v1/jobs/batch", many.into()).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let mut stock = Vec::new();
    for _ in 0..STOCK {
        stock.push(create_and_lease(&daemon, "q", "1h").await);
    }
    let reader = hold(&daemon);
    let mut large = Vec::new();
    while daemon.wal_bytes() < FILLED {
        large.push(create(&daemon, "large", 1_000_000).await);
    }
    let mut leases = Vec::new();
    for seconds in 2..=10 {
        let (from, lasts) = (Instant::now(), Duration::from_secs(seconds));
        let lease = create_and_lease(&daemon, "held", &format!("{seconds}s")).await;
        leases.push(Lease { lease, lasts, from });
    }
    let held = leases.len();
    let created = BACKLOG + STOCK + large.len() + held;
    let mut jobs = Jobs { created, stock, ..Jobs::default() };

    let until = Instant::now() + Duration::from_secs(scaled(HELD_FOR).into());
    let (renewed, ()) =
        tokio::join!(renew(&daemon, &mut leases, until), jobs.come_and_go(&daemon, until));
    let bytes = daemon.wal_bytes();
    eprintln!("{renewed} renewals, {} jobs completed, {bytes} bytes of log", jobs.completed);
    assert!(jobs.creates_refused && jobs.claims_refused, "it was not long enough");
    if leases.len() == held {
        assert_eq!(jobs.quiet_at, Some(bytes), "nothing ends, and leases are renewed all the same");
    }
    check_log(&daemon);
    check_identities(&daemon).await;

    // A crash knows nothing of the renewals that were not written.
    daemon.kill();
    leases.iter_mut().for_each(|one| one.from = Instant::now());
    daemon.restart();
    renew(&daemon, &mut leases, Instant::now() + AFTER_CRASH).await;
    check_log(&daemon);

    reader.execute_batch("COMMIT").unwrap();
    drop(reader);
    let until = Instant::now() + RECOVERED;
    tokio::join!(renew(&daemon, &mut leases, until), jobs.recover(&daemon));
    // Those that end soon did so as their worker should: it renews no more.
    leases.retain(|one| one.lasts >= RECOVERED);
    let held: Vec<_> = leases.into_iter().map(|one| one.lease).collect();
    for lease in held.iter().chain(&std::mem::take(&mut jobs.stock)) {
        jobs.complete(&daemon, lease, 10).await;
    }
    check_identities(&daemon).await;
    let (_, stats) = daemon.get("/v1/stats").await;
    let told = (json!(jobs.created), json!(jobs.completed));
    assert_eq!((&stats["jobs_created"], &stats["jobs_completed"]), (&told.0, &told.1));
    check_stored(&mut daemon, &large);
}
