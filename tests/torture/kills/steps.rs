//! What the daemon does when it is killed at a write: one operation each.

use std::time::{Duration, Instant};

use reqwest::Method;
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::WRITES;
use crate::crash::{Client, Gone};
use crate::fixture::{Daemon, PATIENCE};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// One job, one with a key, a batch.
    Create,
    /// Some jobs at once, then one.
    Claim,
    /// A renewal, every outcome, and again; a cancel; dead jobs put back or discarded.
    Finish,
    /// Jobs come due, leases run out, completed jobs are too many.
    Sweep,
    /// The thread copies the log.
    Checkpoint,
    /// The log has become too long behind a reader, who goes: the writer copies the rest.
    Rest,
    /// Commands that end in time and others, with a caller who goes on.
    Drain,
}

/// Ids of jobs with the leases on them.
type Leases = Vec<(String, String)>;

/// What a step begins with.
#[derive(Default)]
pub struct Ready {
    leases: Leases,
    /// Keeps the log from beginning anew.
    reader: Option<Connection>,
}

impl From<Leases> for Ready {
    fn from(leases: Leases) -> Self {
        Self { leases, reader: None }
    }
}

/// A payload of which a few make the log long enough to be copied.
const LARGE: usize = 900_000;

/// One that takes the writer little time.
const MEDIUM: usize = 100_000;

/// How many of them do.
const LARGE_JOBS: usize = 6;

/// How many jobs are created during a drain.
const DRAINING: usize = 3;

/// How many jobs of the queue that keeps little are completed: more than it keeps.
const KEPT: usize = 6;

/// The length of the log from which the writer copies, and one below it that shows that it has.
const LONG: f64 = 33e6;
const SHORT: f64 = 16e6;

const BRIEF: Duration = Duration::from_secs(1);

impl Step {
    /// Makes what the step needs.
    pub async fn prepare(self, client: &mut Client, daemon: &mut Daemon) -> Result<Ready, Gone> {
        client.repeat_unanswered().await?;
        let leases = match self {
            Self::Create | Self::Checkpoint => Vec::new(),
            Self::Rest => {
                let reader = Some(hold(daemon));
                until_log(client, LARGE, |bytes| bytes > LONG).await?;
                return Ok(Ready { leases: Vec::new(), reader });
            }
            Self::Claim => {
                create(client, "outside", "work", 8).await?;
                Vec::new()
            }
            Self::Finish => {
                create(client, "outside", "fail", 8).await?;
                client.lease("outside", 8, "10m", None).await?
            }
            Self::Sweep => {
                create(client, "kept", "work", KEPT).await?;
                create(client, "brief", "work", 4).await?;
                // It runs out, and nobody reports the end.
                client.lease("brief", 4, "1s", Some(BRIEF)).await?;
                client.lease("kept", KEPT as u32, "10m", None).await?
            }
            Self::Drain => {
                create(client, "outside", "work", 4).await?;
                create(client, "work", "short", 2).await?;
                create(client, "work", "long", 1).await?;
                for _ in 0..2 {
                    daemon.wait_for_log(|line| {
                        line["event"] == "attempt_started" && line["queue"] == "work"
                    });
                }
                client.lease("outside", 2, "10m", None).await?
            }
        };
        Ok(leases.into())
    }

    /// The one thread that is watched, if not all are.
    pub fn thread(self) -> Option<&'static str> {
        (self == Self::Rest).then_some("tallyd-writer")
    }

    /// How many of these calls come, if that is not to be counted: the thread leaves more one time and
    /// less another, but nearly always a whole job, and if anything then one sync.
    pub fn calls(self, calls: &str) -> Option<u32> {
        let pages = (MEDIUM / 4_096) as u32;
        (self == Self::Rest).then_some(if calls == WRITES { pages } else { 1 })
    }

    /// How often it is tried to be killed at one call.
    pub fn tries(self) -> u32 {
        if self == Self::Rest { 3 } else { 1 }
    }

    /// Takes the step; it may be the last.
    pub async fn take(
        self,
        client: &mut Client,
        daemon: &Daemon,
        ready: Ready,
    ) -> Result<(), Gone> {
        let Ready { leases, reader } = ready;
        match self {
            Self::Create => {
                create_one(client, "").await?;
                client.create_unique(client.journal.next_mark()).await?;
                create(client, "outside", "work", 5).await
            }
            Self::Claim => {
                client.lease("outside", 6, "10m", None).await?;
                client.lease("outside", 1, "10m", None).await.map(drop)
            }
            Self::Finish => finish(client, leases).await,
            Self::Sweep => sweep(client, leases).await,
            Self::Checkpoint => {
                let before = bytes_of_store(daemon);
                let large = "x".repeat(LARGE);
                for _ in 0..LARGE_JOBS {
                    create_one(client, &large).await?;
                }
                until_copied(client, daemon, before).await
            }
            Self::Rest => {
                drop(reader);
                // Who asks alone leaves the writer nothing: the thread copies it meanwhile.
                let mut others = [1, 2, 3].map(|seed| Client::new(&client.journal, daemon, seed));
                let [second, third, fourth] = &mut others;
                let create = async |client| until_log(client, MEDIUM, |bytes| bytes < SHORT).await;
                tokio::try_join!(create(client), create(second), create(third), create(fourth))
                    .map(drop)
            }
            Self::Drain => {
                daemon.signal(Signal::TERM);
                let ends = leases.into_iter().map(|(_, lease)| (lease, "completed"));
                client.finish(ends.collect()).await?;
                // As many as come before the listener closes, and no more, so that most of the calls
                // are the drain's own.
                create(client, "outside", "work", DRAINING).await?;
                Err(Gone)
            }
        }
    }
}

/// A job that says its mark and its fate, and fails, or takes long, once only.
fn job(mark: u64, queue: &str, fate: &str, fill: &str) -> Value {
    let payload = json!({"mark": mark, "fate": fate, "fill": fill});
    // Those that take long would take up all slots if each kill had them begin again.
    let most = if ["fail", "long"].contains(&fate) { 1 } else { 4 };
    json!({"queue": queue, "kind": fate, "payload": payload, "max_attempts": most})
}

async fn create_one(client: &mut Client, fill: &str) -> Result<(), Gone> {
    let mark = client.journal.next_mark();
    client.create_one(mark, job(mark, "outside", "work", fill)).await
}

async fn create(client: &mut Client, queue: &str, fate: &str, number: usize) -> Result<(), Gone> {
    let marks: Vec<u64> = (0..number).map(|_| client.journal.next_mark()).collect();
    let jobs = marks.into_iter().map(|mark| (mark, job(mark, queue, fate, "")));
    client.create_batch(jobs.collect()).await
}

async fn finish(client: &mut Client, leases: Leases) -> Result<(), Gone> {
    let leases: Vec<String> = leases.into_iter().map(|(_, lease)| lease).collect();
    client.renew(leases.clone()).await?;
    let outcomes = ["completed", "failed", "released", "failed"].into_iter().cycle();
    let ends: Vec<_> = leases.into_iter().zip(outcomes).collect();
    client.finish(ends.clone()).await?;
    client.finish(ends).await?;
    client.cancel_one().await?;
    client.tidy_up_some().await?;
    client.act_on_some().await
}

async fn sweep(client: &mut Client, leases: Leases) -> Result<(), Gone> {
    let pruned = |scrape: crate::fixture::Scrape| {
        scrape.value("tallyd_sweeper_jobs_total{action=\"pruned\"}")
    };
    let before = pruned(client.scrape_once().await?);
    let mark = client.journal.next_mark();
    let mut due = job(mark, "brief", "work", "");
    due["delay"] = "50ms".into();
    client.create_one(mark, due).await?;
    let ends = leases.into_iter().map(|(_, lease)| (lease, "completed"));
    client.finish(ends.collect()).await?;
    let mut given_again = 0;
    while given_again < 5 {
        given_again += client.lease("brief", 5, "10m", None).await?.len();
    }
    let deadline = Instant::now() + PATIENCE;
    while pruned(client.scrape_once().await?) == before {
        assert!(Instant::now() < deadline, "nothing is pruned");
    }
    Ok(())
}

/// A transaction of another program, that reads.
fn hold(daemon: &Daemon) -> Connection {
    let reader = Connection::open(daemon.path("tallyd.db")).expect("opens");
    reader.execute_batch("BEGIN; SELECT count(*) FROM jobs").expect("reads");
    reader
}

/// Creates jobs of this size until so much of the log is in use.
async fn until_log(
    client: &mut Client,
    bytes: usize,
    is_wanted: impl Fn(f64) -> bool,
) -> Result<(), Gone> {
    let fill = "x".repeat(bytes);
    let deadline = Instant::now() + PATIENCE;
    while !is_wanted(client.scrape_once().await?.value("tallyd_store_wal_size_bytes")) {
        create_one(client, &fill).await?;
        assert!(Instant::now() < deadline, "the log does not get there");
    }
    Ok(())
}

fn bytes_of_store(daemon: &Daemon) -> u64 {
    std::fs::metadata(daemon.path("tallyd.db")).expect("it is there").len()
}

/// Waits until the log was copied, and the file synced if that is traced.
async fn until_copied(client: &mut Client, daemon: &Daemon, before: u64) -> Result<(), Gone> {
    let is_synced = || {
        let trace = std::fs::read_to_string(daemon.path("trace.log")).expect("it is traced");
        trace.lines().any(|line| line.contains("sync") && line.ends_with("= 0"))
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        client.ask(Method::GET, "/-/ready", &Value::Null).await?;
        if bytes_of_store(daemon) > before && is_synced() {
            return Ok(());
        }
        assert!(Instant::now() < deadline, "the log is not copied");
    }
}
