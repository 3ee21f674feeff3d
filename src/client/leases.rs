//! What workers ask for, get and report.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::jobs::LastError;
use super::time::{read_duration, read_time, write_duration};
use crate::clock::Timestamp;

/// What a worker asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LeaseRequest {
    /// Searched in this order.
    pub queues: Vec<String>,
    /// At most so many jobs, 1 to 1,000; 1 if none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u16>,
    /// How long to wait for a job, at most 60 s; not at all if none is given.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_duration")]
    pub wait: Option<Duration>,
    /// How long the leases last, 1 s to 1 h; the queue's if none is given.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_duration")]
    pub duration: Option<Duration>,
    /// Who asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// The jobs that a worker got.
#[derive(Deserialize)]
pub(super) struct Leased {
    pub(super) jobs: Vec<LeasedJob>,
}

/// A job with the right to run its attempt: what a worker has to know of it.
#[derive(Debug, Clone, Deserialize)]
pub struct LeasedJob {
    /// The token that finishes or renews it.
    pub lease: String,
    /// When the lease ends unless it is renewed.
    #[serde(deserialize_with = "read_time")]
    pub expires_at: Timestamp,
    /// The job's id, a UUID.
    pub id: String,
    /// Its queue.
    pub queue: String,
    /// What sort of work it is.
    pub kind: String,
    /// What there is to work on.
    pub payload: Option<Box<RawValue>>,
    /// How often it was claimed, this time included.
    pub attempt: u32,
    /// The failures since it was created or requeued.
    pub failures: u32,
    /// How many failures make it dead.
    pub max_attempts: u32,
    /// How long this attempt may take; zero is as long as it likes.
    #[serde(deserialize_with = "read_duration")]
    pub timeout: Duration,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
    /// The last end of an attempt that used up a try.
    pub last_error: Option<LastError>,
}

/// Leases to renew.
#[derive(Serialize)]
pub(super) struct Renewal<'a> {
    pub(super) leases: &'a [&'a str],
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_duration")]
    pub(super) duration: Option<Duration>,
}

/// The end of an attempt.
#[derive(Debug, Clone, Serialize)]
pub struct Finish {
    /// The token of the attempt.
    pub lease: String,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How an attempt ended.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Outcome {
    /// The work is done.
    Completed {
        /// What to keep, at most 64 KiB.
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<Box<RawValue>>,
    },
    /// The work failed.
    Failed {
        /// What went wrong, at most 64 KiB.
        error: String,
        /// The least time until the next attempt.
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_duration")]
        retry_in: Option<Duration>,
        /// Whether another attempt would fail as well.
        permanent: bool,
    },
    /// Given back: no try used up.
    Released {
        /// The least time until the next attempt.
        #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_duration")]
        retry_in: Option<Duration>,
    },
}

/// What became of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseResult {
    /// It stands, or the attempt is finished.
    Ok,
    /// The job is somebody else's: stop.
    LeaseLost,
    /// The job was cancelled: stop.
    Cancelled,
}

/// What became of each lease, in the order of the request.
#[derive(Deserialize)]
pub(super) struct Results {
    pub(super) results: Vec<LeaseResult>,
}
