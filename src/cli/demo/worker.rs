//! The demo's outside worker: leases reports over HTTP and writes them, as one of yours would.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::to_raw_value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::client::{Client, Finish, LeaseRequest, LeasedJob, Outcome};

/// How long reports take: long enough to be seen running, and far less than their leases, so that
/// nothing is renewed.
const WORK: Duration = Duration::from_millis(400);

/// How long to wait before another try when the daemon did not take a request.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a report that failed waits at least.
const RETRY_IN: Duration = Duration::from_secs(2);

/// The payload of a job.
#[derive(Deserialize)]
struct Report {
    report: u64,
}

/// Leases reports, a few at once, until `stop`.
pub(super) async fn work(client: &Client, stop: &CancellationToken) {
    let request = LeaseRequest {
        queues: vec!["reports".to_owned()],
        max: Some(10),
        wait: Some(Duration::from_secs(30)),
        worker: Some("demo".to_owned()),
        ..LeaseRequest::default()
    };
    // What is leased is reported, whenever the stop comes.
    while let Some(leased) = stop.run_until_cancelled(client.lease(&request)).await {
        let done = match leased {
            Ok(jobs) if jobs.is_empty() => continue,
            Ok(jobs) => {
                sleep(WORK).await;
                let finishes: Vec<Finish> = jobs.iter().map(finish).collect();
                client.finish(&finishes).await.map(drop)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            warn!(event = "demo_worker_failed", %error);
            stop.run_until_cancelled(sleep(PAUSE)).await;
        }
    }
}

/// How an attempt ends, by the report's number, so that every demo shows the same.
fn finish(job: &LeasedJob) -> Finish {
    let payload = job.payload.as_deref().map_or("null", |payload| payload.get());
    let failed = |error: String, retry_in: Option<Duration>| Outcome::Failed {
        error,
        permanent: retry_in.is_none(),
        retry_in,
    };
    let outcome = match serde_json::from_str(payload) {
        Err(_) => failed("not a report: its payload has no number `report`".to_owned(), None),
        Ok(Report { report }) if report % 25 == 6 => {
            failed(format!("there is no data for report {report}"), None)
        }
        Ok(Report { report }) if report % 10 == 4 && job.attempt == 1 => {
            failed("the database is busy".to_owned(), Some(RETRY_IN))
        }
        Ok(Report { report }) => {
            let result = to_raw_value(&json!({"pages": 1 + report % 9}));
            Outcome::Completed { result: Some(result.expect("a number is JSON")) }
        }
    };
    Finish { lease: job.lease.clone(), outcome }
}
