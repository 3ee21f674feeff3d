//! The wall clock jumps by an hour and by a day, forwards and back, under load and across kills:
//! no live lease is lost by it, and nothing that is due stays late once the clock is right.
//!
//! `libfaketime` tells the daemon, and nobody else, another wall time; its monotonic clock goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rand::SeedableRng;
use rand::rngs::StdRng;
use reqwest::StatusCode;
use rustix::process::Pid;
use serde_json::{Value, json};

use crate::crash::receiver::Receiver;
use crate::crash::{CONFIG, Client, note_kill, seed, start_clients};
use crate::fixture::{Daemon, PATIENCE, Scrape, scaled};
use crate::journal::Journal;
use crate::oracle::{LENIENCE, Run, Scrapes, late_recoveries, violations};
use crate::processes::Line;
use crate::restart::restart;
use crate::stored::Stored;

/// By how many hours the clock is wrong, one after the other.
const JUMPS: [i64; 4] = [1, -1, 24, -24];

/// How many answers the clients of the load get while the clock is wrong.
const ANSWERS: u32 = 300;

/// How long the jobs wait that become due; they are, before a lease of a second has run out.
const WAIT: Duration = Duration::from_secs(1);

/// Where they are. In the second, what has failed waits for the backoff and nothing else.
const DUE: [&str; 2] = ["due", "backed_off"];

const DUE_QUEUES: &str = r#"
[queues.due]

[queues.backed_off]
backoff = { initial = "1s", max = "1s", jitter = 0 }
"#;

/// A due job is claimable within 100 ms of when the daemon knows; that the clock was put right it
/// notices at its next look, which is a second away at most.
const PROMISED: Duration = Duration::from_millis(1_100);

/// A daemon that is told the time by a file.
struct Told {
    daemon: Daemon,
    /// Its processes: one that is killed does not remove what the library keeps in memory.
    started: Vec<Pid>,
}

impl Told {
    fn prepare(config: &str) -> Self {
        let library = std::env::var("TALLYD_FAKETIME")
            .expect("TALLYD_FAKETIME is set by tests/run.sh tools and target/tools.env");
        let mut daemon = Daemon::prepare(&format!("{config}{DUE_QUEUES}"));
        let file = daemon.path("offset").display().to_string();
        for (variable, value) in [
            ("LD_PRELOAD", &*library),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ] {
            daemon.set(variable, value);
        }
        let told = Self { daemon, started: Vec::new() };
        told.jump(0);
        told
    }

    /// Has the daemon's wall clock be wrong by so many hours from now on; answers with when that is.
    fn jump(&self, hours: i64) -> Instant {
        let new = self.daemon.path("offset.new");
        std::fs::write(&new, format!("{:+}\n", hours * 3_600)).unwrap();
        std::fs::rename(new, self.daemon.path("offset")).unwrap();
        Instant::now()
    }

    fn restart(&mut self) {
        restart(&mut self.daemon);
        self.started.push(self.daemon.pid());
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.daemon.post(path, body).await;
        assert!(status.is_success(), "{path}: {status}: {answer}");
        answer
    }

    async fn create(&self, job: Value) -> String {
        self.post("/v1/jobs", job).await["id"].as_str().unwrap().to_owned()
    }

    /// Asserts that the daemon believes in a clock which is wrong by so much: a new job says so.
    async fn believes(&self, hours: i64) {
        let job = self.post("/v1/jobs", json!({"queue": "probe", "kind": "probe"})).await;
        let created: Timestamp = job["created_at"].as_str().unwrap().parse().unwrap();
        let wrong = created.duration_since(Timestamp::now()) - SignedDuration::from_hours(hours);
        assert!(wrong.abs() < SignedDuration::from_mins(30), "{job} by {hours} h");
        let cancel = format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap());
        self.post(&cancel, Value::Null).await;
    }

    /// Leases one job of these queues, waiting for it if need be.
    async fn lease(&self, queues: &[&str]) -> Value {
        let ask = json!({"queues": queues, "wait": "60s", "duration": "10m"});
        let job = self.post("/v1/leases", ask).await["jobs"][0].clone();
        assert!(!job.is_null(), "nothing of {queues:?} comes");
        job
    }

    async fn finish(&self, job: &Value, mut end: Value) {
        end["lease"] = job["lease"].clone();
        let answer = self.post("/v1/leases/finish", json!([end])).await;
        assert_eq!(answer["results"], json!(["ok"]), "{end} of {job}");
    }

    async fn complete(&self, job: &Value) {
        self.finish(job, json!({"outcome": "completed"})).await;
    }

    /// Asserts that a lease stands: it is renewed.
    async fn stands(&self, job: &Value) {
        let answer = self.post("/v1/leases/renew", json!({"leases": [job["lease"]]})).await;
        assert_eq!(answer["results"], json!(["ok"]), "{job}");
    }

    /// Makes jobs that become due soon, in each way there is; answers with when each is, at the latest.
    async fn make_due(&self) -> BTreeMap<String, Instant> {
        let mut due = BTreeMap::new();
        let wait = format!("{}ms", WAIT.as_millis());
        for (queue, kind, end) in [
            (DUE[0], "retry_in", json!({"outcome": "failed", "retry_in": wait})),
            (DUE[0], "released", json!({"outcome": "released", "retry_in": wait})),
            (DUE[1], "backoff", json!({"outcome": "failed"})),
        ] {
            let id = self.create(json!({"queue": queue, "kind": kind})).await;
            self.finish(&self.lease(&[queue]).await, end).await;
            due.insert(id, Instant::now() + WAIT);
        }
        let run_at = (Timestamp::now() + WAIT).to_string();
        for (kind, when) in [("delay", wait), ("run_at", run_at)] {
            let id = self.create(json!({"queue": DUE[0], "kind": kind, kind: when})).await;
            due.insert(id, Instant::now() + WAIT);
        }
        due
    }

    /// Waits for the jobs that are due; each comes once, and none late after the clock is `right`.
    async fn due_come(&self, mut due: BTreeMap<String, Instant>, right: Instant) {
        let mut late = Vec::new();
        while !due.is_empty() {
            let job = self.lease(&DUE).await;
            let at = due.remove(job["id"].as_str().unwrap());
            let at = at.unwrap_or_else(|| panic!("{job} is given out twice"));
            let took = at.max(right).elapsed();
            eprintln!("{} came {took:?} after it was due and the clock right", job["kind"]);
            if took > PROMISED * LENIENCE {
                late.push(format!("{} came after {took:?}", job["kind"]));
            }
            self.complete(&job).await;
        }
        assert_eq!(late, Vec::<String>::new());
        let none = json!({"queues": DUE, "max": 10});
        assert_eq!(self.post("/v1/leases", none).await["jobs"], json!([]));
    }

    /// Waits for two looks of the sweeper: after them nothing that happened before will wake it.
    async fn swept_twice(&self) {
        let swept = async || {
            let scrape = self.daemon.scrape().await;
            scrape.value("tallyd_sweeper_last_run_timestamp_seconds")
        };
        let mut looks = tokio::time::interval(Duration::from_millis(50));
        for _ in 0..2 {
            let (before, since) = (swept().await, Instant::now());
            while swept().await == before {
                assert!(since.elapsed() < PATIENCE, "it does not sweep");
                looks.tick().await;
            }
        }
    }

    /// Waits until the sweeper says that it has run by the right clock.
    async fn swept_by_the_right_clock(&self) -> Scrape {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let scrape = self.daemon.scrape().await;
            let swept = scrape.value("tallyd_sweeper_last_run_timestamp_seconds");
            let ago = Timestamp::now().as_millisecond() as f64 / 1e3 - swept;
            if ago.abs() < PATIENCE.as_secs_f64() {
                return scrape;
            }
            assert!(tokio::time::Instant::now() < deadline, "it swept {ago} s ago, it says");
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        for pid in &self.started {
            for file in ["faketime_shm_", "sem.faketime_sem_"] {
                // One that ended in order has done so itself.
                drop(std::fs::remove_file(format!("/dev/shm/{file}{pid}")));
            }
        }
    }
}

/// Attempts that took an hour or more, or waits of less than nothing: no clock may make those.
fn impossible_times(scrape: &Scrape) -> Vec<String> {
    let durations = "tallyd_attempt_duration_seconds";
    let sums = scrape.starting(durations).filter(|(name, _)| name.contains("_sum"));
    let long = sums.filter(|(name, sum)| {
        let count = scrape.value(&name.replace("_sum", "_count"));
        *sum < 0.0 || *sum > 600.0 * count
    });
    let negative = scrape.starting("tallyd_job_wait_seconds_sum").filter(|(_, sum)| *sum < 0.0);
    long.chain(negative).map(|(name, sum)| format!("{name} {sum}")).collect()
}

/// F11: clock jumps expire live leases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jumps_of_the_clock_under_load_lose_no_lease_and_leave_nothing_late() {
    let mut random = StdRng::seed_from_u64(seed());
    let receiver = Receiver::start().await;
    let mut told = Told::prepare(&CONFIG.replace("URL", &receiver.url));
    told.restart();
    let journal = Arc::new(Journal::new(&told.daemon.path("clients.log")));
    told.create(json!({"queue": "held", "kind": "held"})).await;
    let held = told.lease(&["held"]).await;
    let clients = start_clients(&journal, &told.daemon, &mut random);
    for hours in (0..scaled(1)).flat_map(|_| JUMPS) {
        let due = told.make_due().await;
        told.jump(hours);
        told.believes(hours).await;
        journal.answered(ANSWERS).await;
        // Leases run out as ever; the judge knows of each whether it may have.
        journal.lost_a_lease().await;
        told.stands(&held).await;
        let right = told.jump(0);
        told.believes(0).await;
        told.due_come(due, right).await;
        told.stands(&held).await;
        let scrape = told.swept_by_the_right_clock().await;
        assert_eq!(impossible_times(&scrape), Vec::<String>::new());
    }
    told.complete(&held).await;
    journal.let_end(true);
    told.daemon.kill();
    clients.join_all().await;
    note_kill(&told.daemon);
    receiver.note_kill().await;
    told.restart();
    journal.note_start();
    Client::new(&journal, &told.daemon, 0).settle().await;
    journal.see(told.daemon.scrape().await);
    assert_eq!(told.daemon.stop().code(), Some(0));

    let Scrapes { seen, wrong, .. } = journal.scrapes();
    assert_eq!(wrong, Vec::<String>::new(), "of {seen} scrapes");
    let mut stored = Stored::read(&told.daemon.path("tallyd.db"));
    // The clients know nothing of the jobs of the test itself.
    let (of_clients, own): (Vec<_>, Vec<_>) =
        stored.jobs.into_iter().partition(|job| job.mark != 0);
    stored.jobs = of_clients;
    let ended = |state: &str| own.iter().filter(|job| job.state == state).count() as i64;
    stored.totals.created -= own.len() as i64;
    stored.totals.completed -= ended("completed");
    stored.totals.cancelled -= ended("cancelled");
    let runs = [Run::read(&told.daemon.path("runs")), receiver.runs()].concat();
    let entries = journal.entries();
    eprintln!("{} entries, {} runs, {seen} scrapes", entries.len(), runs.len());
    assert_eq!(late_recoveries(&entries, &journal.starts()), Vec::<String>::new());
    assert_eq!(violations(&entries, &runs, &stored), Vec::<String>::new());
}

/// A command that says it is up, and ends when it is told to.
const COMMANDS: &str = r#"
[defaults]
backoff = { initial = "1ms" }
max_attempts = 1000

[queues.work]
exec = { command = ["/bin/sh", "-c", "echo up > said; read -r _ < go"] }
"#;

/// F11: of a start by a wrong clock, what others hold is theirs, what the daemon ran is run again,
/// and all the rest is there.
#[tokio::test]
async fn a_start_by_a_wrong_clock_loses_nothing() {
    for hours in JUMPS {
        let mut told = Told::prepare(COMMANDS);
        let directory = told.daemon.directory.path().to_owned();
        let (mut said, go) = (Line::new(&directory, "said"), Line::new(&directory, "go"));
        told.restart();
        let own = told.create(json!({"queue": "work", "kind": "own"})).await;
        assert_eq!(said.hear().await, "up");
        for kind in ["held", "ready"] {
            told.create(json!({"queue": "outside", "kind": kind})).await;
        }
        let held = told.lease(&["outside"]).await;
        let due = told.make_due().await;
        let completed = json!(3 + due.len());
        told.daemon.kill();

        told.jump(hours);
        told.restart();
        told.believes(hours).await;
        told.stands(&held).await;
        assert_eq!(said.hear().await, "up", "it was cut off, and runs again");
        told.complete(&told.lease(&["outside"]).await).await;
        told.swept_twice().await;
        let right = told.jump(0);
        told.believes(0).await;
        told.due_come(due, right).await;
        told.stands(&held).await;
        told.daemon.kill();

        told.restart();
        told.stands(&held).await;
        told.complete(&held).await;
        assert_eq!(said.hear().await, "up");
        go.say(1);
        told.daemon.job_when(&own, |job| job["state"] == "completed").await;
        let scrape = told.swept_by_the_right_clock().await;
        assert_eq!(scrape.broken_identities(), Vec::<String>::new());
        assert_eq!(impossible_times(&scrape), Vec::<String>::new());
        let lost = scrape.starting("tallyd_leases_lost_total").map(|(_, lost)| lost);
        assert_eq!(lost.sum::<f64>(), 0.0);
        let (status, stats) = told.daemon.get("/v1/stats").await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(stats["jobs_completed"], completed, "after {hours} h: {stats}");
        assert_eq!(told.daemon.stop().code(), Some(0));
    }
}
