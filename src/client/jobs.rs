//! Jobs as they are sent and as they come.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::time::{read_duration, read_time, read_time_if_any, write_duration, write_time};
use crate::clock::Timestamp;

/// A job to create; what is left out is the server's to choose.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NewJob {
    /// What sort of work it is; all that is required.
    pub kind: String,
    /// The queue, `default` if none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// What its worker gets, byte for byte; null if none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    /// 0 (first) to 9 (last), 5 if none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// When it may run; not together with `delay`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_time")]
    pub run_at: Option<Timestamp>,
    /// How long after its creation it may run; not together with `run_at`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_duration")]
    pub delay: Option<Duration>,
    /// How many failures make it dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// How long an attempt may take; zero is as long as it likes.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_duration")]
    pub timeout: Option<Duration>,
    /// While a job of the queue holds this key, creating it again creates nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_key: Option<String>,
    /// What ends the hold on `unique_key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_until: Option<UniqueUntil>,
    /// The trace it belongs to (W3C Trace Context).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// What ends the hold on a unique key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UniqueUntil {
    /// The job is removed.
    Gone,
    /// The job is completed, cancelled or dead.
    Done,
}

impl NewJob {
    /// Whether creating it once more creates nothing more: its key outlasts its end.
    pub fn is_repeatable(&self) -> bool {
        self.unique_key.is_some() && self.unique_until != Some(UniqueUntil::Done)
    }
}

impl UniqueUntil {
    /// Its name in requests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Done => "done",
        }
    }
}

/// The answer to a create.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Created {
    /// The job: the new one, or the one that holds the key.
    pub id: String,
    /// Its state.
    pub state: String,
    /// Whether it was there already, and nothing was created.
    pub duplicate: bool,
}

/// The answer to a batch.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CreatedBatch {
    /// In the order of the request.
    pub ids: Vec<String>,
    /// The indexes of those that were there already.
    pub duplicates: Vec<usize>,
}

/// A job.
#[derive(Debug, Clone, Deserialize)]
pub struct Job {
    /// Its id, a UUID.
    pub id: String,
    /// Its queue.
    pub queue: String,
    /// What sort of work it is.
    pub kind: String,
    /// scheduled, ready, retrying, running, completed, cancelled or dead.
    pub state: String,
    /// 0 (first) to 9 (last).
    pub priority: u8,
    /// What its worker gets; lists leave it out.
    pub payload: Option<Box<RawValue>>,
    /// How often it was claimed.
    pub attempt: u32,
    /// The failures since it was created or requeued.
    pub failures: u32,
    /// How many failures make it dead.
    pub max_attempts: u32,
    /// How long an attempt may take; zero is as long as it likes.
    #[serde(deserialize_with = "read_duration")]
    pub timeout: Duration,
    /// What it was made unique by.
    pub unique_key: Option<String>,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
    /// When it was created.
    #[serde(deserialize_with = "read_time")]
    pub created_at: Timestamp,
    /// When it may run, or could.
    #[serde(deserialize_with = "read_time")]
    pub run_at: Timestamp,
    /// When it was last claimed.
    #[serde(default, deserialize_with = "read_time_if_any")]
    pub claimed_at: Option<Timestamp>,
    /// When it was completed, cancelled or died.
    #[serde(default, deserialize_with = "read_time_if_any")]
    pub ended_at: Option<Timestamp>,
    /// When its lease ends unless it is renewed.
    #[serde(default, deserialize_with = "read_time_if_any")]
    pub expires_at: Option<Timestamp>,
    /// Who claimed it last.
    pub worker: Option<String>,
    /// The last end of an attempt that used up a try.
    pub last_error: Option<LastError>,
    /// What its worker left when it completed it; lists leave it out.
    pub result: Option<Box<RawValue>>,
}

/// The last end of an attempt that used up a try.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LastError {
    /// Which attempt it was.
    pub attempt: u32,
    /// When it ended.
    #[serde(deserialize_with = "read_time")]
    pub at: Timestamp,
    /// failed, timed_out or lease_expired.
    pub outcome: String,
    /// What went wrong.
    pub message: String,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ListQuery {
    /// Of this queue only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Of this kind only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// In this state only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// At most so many, 1 to 500; 100 if none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u16>,
    /// The `next_cursor` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One page of jobs.
#[derive(Debug, Clone, Deserialize)]
pub struct Page {
    /// Newest first.
    pub jobs: Vec<Job>,
    /// Where the next page begins; none ends the list.
    pub next_cursor: Option<String>,
}
