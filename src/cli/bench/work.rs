//! What one connection does, again and again.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::connection::Connection;
use super::error::BenchError;
use super::load::Recorder;

/// The queue that is loaded.
pub(super) const QUEUE: &str = "bench";

/// A work, with its requests made in advance.
#[derive(Clone)]
pub(super) enum Work {
    /// One job a request.
    Create { job: Bytes },
    /// Many jobs a request.
    CreateBatch { jobs: Bytes, count: u64 },
    /// Create, lease and finish, many at once.
    Lifecycle { jobs: Bytes, lease: Bytes },
}

#[derive(Serialize)]
struct NewJob<'a> {
    queue: &'a str,
    kind: &'a str,
    payload: &'a RawValue,
}

#[derive(Serialize)]
struct LeaseRequest<'a> {
    queues: [&'a str; 1],
    max: u64,
}

#[derive(Deserialize)]
struct Leased<'a> {
    #[serde(borrow)]
    jobs: Vec<LeasedJob<'a>>,
}

#[derive(Deserialize)]
struct LeasedJob<'a> {
    lease: &'a str,
}

#[derive(Serialize)]
struct Finish<'a> {
    lease: &'a str,
    outcome: &'a str,
}

#[derive(Deserialize)]
struct Results<'a> {
    #[serde(borrow)]
    results: Vec<&'a str>,
}

impl Work {
    /// One job a request, with a payload of so many bytes.
    pub(super) fn create(payload_bytes: usize) -> Self {
        Self::Create { job: json(&job(&payload(payload_bytes))) }
    }

    /// `count` jobs a request.
    pub(super) fn create_batch(payload_bytes: usize, count: u64) -> Self {
        Self::CreateBatch { jobs: batch(payload_bytes, count), count }
    }

    /// `count` jobs created, leased and finished at a time.
    pub(super) fn lifecycle(payload_bytes: usize, count: u64) -> Self {
        let lease = json(&LeaseRequest { queues: [QUEUE], max: count });
        Self::Lifecycle { jobs: batch(payload_bytes, count), lease }
    }

    /// The sorts of requests that it sends.
    pub(super) fn sorts(&self) -> &'static [&'static str] {
        match self {
            Self::Create { .. } | Self::CreateBatch { .. } => &["create"],
            Self::Lifecycle { .. } => &["create", "lease", "finish"],
        }
    }

    /// Creates its jobs once, without noting anything.
    pub(super) async fn create_all(&self, connection: &mut Connection) -> Result<(), BenchError> {
        match self {
            Self::Create { job } => connection.post("/v1/jobs", job.clone()).await?,
            Self::CreateBatch { jobs, .. } | Self::Lifecycle { jobs, .. } => {
                connection.post("/v1/jobs/batch", jobs.clone()).await?
            }
        };
        Ok(())
    }

    /// Does it once.
    pub(super) async fn step(
        &self,
        connection: &mut Connection,
        recorder: &mut Recorder,
    ) -> Result<(), BenchError> {
        let sent = Instant::now();
        match self {
            Self::Create { job } => {
                connection.post("/v1/jobs", job.clone()).await?;
                recorder.answered(0, sent);
                recorder.done(1);
            }
            Self::CreateBatch { jobs, count } => {
                connection.post("/v1/jobs/batch", jobs.clone()).await?;
                recorder.answered(0, sent);
                recorder.done(*count);
            }
            Self::Lifecycle { jobs, lease } => {
                connection.post("/v1/jobs/batch", jobs.clone()).await?;
                recorder.answered(0, sent);
                let sent = Instant::now();
                let leased = connection.post("/v1/leases", lease.clone()).await?;
                recorder.answered(1, sent);
                finish(&leased, connection, recorder).await?;
            }
        }
        Ok(())
    }
}

/// Finishes what was leased; others may have left fewer jobs than were asked for, or none.
async fn finish(
    leased: &[u8],
    connection: &mut Connection,
    recorder: &mut Recorder,
) -> Result<(), BenchError> {
    let path = "/v1/leases";
    let leased: Leased<'_> = read(path, leased)?;
    if leased.jobs.is_empty() {
        return Ok(());
    }
    let leases = leased.jobs.iter().map(|job| job.lease);
    let finishes: Vec<_> = leases.map(|lease| Finish { lease, outcome: "completed" }).collect();
    let path = "/v1/leases/finish";
    let sent = Instant::now();
    let answer = connection.post(path, json(&finishes)).await?;
    recorder.answered(2, sent);
    let answer: Results<'_> = read(path, &answer)?;
    match answer.results.iter().find(|result| **result != "ok") {
        None => recorder.done(answer.results.len() as u64),
        Some(other) => return Err(BenchError::Answer { path, text: (*other).to_owned() }),
    }
    Ok(())
}

fn read<'a, T: Deserialize<'a>>(path: &'static str, answer: &'a [u8]) -> Result<T, BenchError> {
    let read = serde_json::from_slice(answer);
    read.map_err(|error| BenchError::Answer { path, text: error.to_string() })
}

fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("text, numbers and lists are valid JSON").into()
}

/// A JSON object of exactly so many bytes, as far as there is room for its braces.
fn payload(bytes: usize) -> Box<RawValue> {
    let frame = r#"{"data":""}"#;
    let text = format!(r#"{{"data":"{}"}}"#, "x".repeat(bytes.saturating_sub(frame.len())));
    RawValue::from_string(text).expect("it is JSON")
}

fn job(payload: &RawValue) -> NewJob<'_> {
    NewJob { queue: QUEUE, kind: "bench", payload }
}

fn batch(payload_bytes: usize, count: u64) -> Bytes {
    let payload = payload(payload_bytes);
    json(&(0..count).map(|_| job(&payload)).collect::<Vec<_>>())
}
