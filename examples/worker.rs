//! A worker in Rust: leases jobs, renews while it works on them, finishes, stops cleanly.
//! `cargo run --example worker -- emails` takes the jobs of the queue `emails` from the server that
//! `TALLYD_SERVER` names, http://127.0.0.1:8255 if it is not set; with the token in `TALLYD_TOKEN`, if any.

use std::time::Duration;

use serde_json::value::{RawValue, to_raw_value};
use tallyd::client::{Client, ClientError, Finish, LeaseRequest, LeaseResult, LeasedJob, Outcome};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How many jobs run at once.
const CONCURRENCY: usize = 4;

/// How long the server waits for a sign of life before it gives a job to another worker.
const LEASE: Duration = Duration::from_secs(10);

/// The work itself: replace it by yours. It may run twice for one job, so it must bear that.
async fn work(job: &LeasedJob) -> Result<Box<RawValue>, String> {
    let payload = job.payload.as_ref().map_or("null", |payload| payload.get());
    match job.kind.as_str() {
        "welcome" => {
            let to: String = serde_json::from_str(payload).map_err(|error| error.to_string())?;
            to_raw_value(&format!("welcome, {to}")).map_err(|error| error.to_string())
        }
        "wait" => {
            let ms = serde_json::from_str(payload).map_err(|error| error.to_string())?;
            sleep(Duration::from_millis(ms)).await;
            Ok(RawValue::NULL.to_owned())
        }
        kind => Err(format!("nothing is known of the kind {kind:?}")),
    }
}

/// Renews a lease, which outlives a restart of the server; returns once it is lost or cancelled, or
/// may have run out: then somebody else may have the job.
async fn keep(client: &Client, lease: &str) {
    let (mut pause, mut renewed) = (LEASE / 3, Instant::now());
    while renewed.elapsed() < LEASE {
        sleep(pause).await;
        let asked = Instant::now();
        (pause, renewed) = match timeout(LEASE / 6, client.renew(&[lease], None)).await {
            Ok(Ok(results)) if results == [LeaseResult::Ok] => (LEASE / 3, asked),
            Ok(Ok(_)) => return, // lost or cancelled
            Ok(Err(ClientError::Unreachable { .. })) => (Duration::from_secs(1), asked),
            _ => (Duration::from_secs(1), renewed),
        }
    }
}

/// Runs one attempt and reports how it ended; told to stop, it gives the job back.
async fn run(client: &Client, job: LeasedJob, stop: &CancellationToken) -> Result<(), ClientError> {
    let outcome = tokio::select! {
        done = work(&job) => match done {
            Ok(result) => Outcome::Completed { result: Some(result) },
            Err(error) => Outcome::Failed { error, retry_in: None, permanent: false },
        },
        () = keep(client, &job.lease) => return Ok(()),
        () = stop.cancelled() => Outcome::Released { retry_in: None },
    };
    // A finish may be repeated: the second one of the same outcome counts nothing.
    let finish = [Finish { lease: job.lease, outcome }];
    let is_worth = |error: &ClientError| error.is_unanswered() || error.is_busy();
    client.repeat(|| client.finish(&finish), is_worth).await.map(drop)
}

/// Leases one job after the other until it is told to stop.
async fn serve(client: Client, request: LeaseRequest, stop: CancellationToken) {
    // A wait that is dropped gives back what would have come.
    while let Some(leased) = stop.run_until_cancelled(client.lease(&request)).await {
        let ended = match leased.map(|mut jobs| jobs.pop()) {
            Ok(Some(job)) => run(&client, job, &stop).await,
            other => other.map(drop),
        };
        if let Err(error) = ended {
            eprintln!("{error}");
            stop.run_until_cancelled(sleep(Duration::from_secs(1))).await;
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = std::env::var("TALLYD_SERVER").unwrap_or("http://127.0.0.1:8255".to_owned());
    let (mut client, stop) = (Client::new(&server)?, CancellationToken::new());
    let token = std::env::var("TALLYD_TOKEN").unwrap_or_default();
    if !token.trim().is_empty() {
        client = client.with_token(token.trim())?;
    }
    let request = LeaseRequest {
        queues: vec![std::env::args().nth(1).unwrap_or("default".to_owned())],
        wait: Some(Duration::from_secs(30)),
        duration: Some(LEASE),
        worker: Some(format!("rust-{}", std::process::id())),
        ..LeaseRequest::default()
    };
    let mut serving = JoinSet::new();
    for _ in 0..CONCURRENCY {
        serving.spawn(serve(client.clone(), request.clone(), stop.clone()));
    }
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! { _ = terminate.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
    stop.cancel();
    serving.join_all().await;
    Ok(())
}
