//! What the daemon does when it is killed at a write: one operation each.

use std::time::{Duration, Instant};

use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

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
    /// Commands that end in time and others, with a caller who goes on.
    Drain,
}

/// Ids of jobs with the leases on them.
type Leases = Vec<(String, String)>;

/// A payload of which a few make the log long enough to be copied.
const LARGE: usize = 900_000;

/// How many of them do.
const LARGE_JOBS: usize = 6;

/// How many jobs are created during a drain.
const DRAINING: usize = 3;

/// How many jobs of the queue that keeps little are completed: more than it keeps.
const KEPT: usize = 6;

const BRIEF: Duration = Duration::from_secs(1);

impl Step {
    /// Makes what the step needs.
    pub async fn prepare(self, client: &mut Client, daemon: &mut Daemon) -> Result<Leases, Gone> {
        client.repeat_unanswered().await?;
        match self {
            Self::Create | Self::Checkpoint => {}
            Self::Claim => create(client, "outside", "work", 8).await?,
            Self::Finish => {
                create(client, "outside", "fail", 8).await?;
                return client.lease("outside", 8, "10m", None).await;
            }
            Self::Sweep => {
                create(client, "kept", "work", KEPT).await?;
                create(client, "brief", "work", 4).await?;
                // It runs out, and nobody reports the end.
                client.lease("brief", 4, "1s", Some(BRIEF)).await?;
                return client.lease("kept", KEPT as u32, "10m", None).await;
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
                return client.lease("outside", 2, "10m", None).await;
            }
        }
        Ok(Vec::new())
    }

    /// Takes the step; it may be the last.
    pub async fn take(
        self,
        client: &mut Client,
        daemon: &Daemon,
        leases: Leases,
    ) -> Result<(), Gone> {
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

/// A job that says its mark and its fate, and fails once only.
fn job(mark: u64, queue: &str, fate: &str, fill: &str) -> Value {
    let payload = json!({"mark": mark, "fate": fate, "fill": fill});
    let most = if fate == "fail" { 1 } else { 4 };
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
