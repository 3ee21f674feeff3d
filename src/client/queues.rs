//! Queues, what operators do to many of their jobs, and backups.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::time::{read_time_if_any, write_time};
use crate::clock::Timestamp;

/// All queues.
#[derive(Debug, Clone, Deserialize)]
pub struct Queues {
    /// By name.
    pub queues: Vec<Queue>,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Who runs its jobs: lease (outside workers), or the daemon, by exec or http.
    pub runner: String,
    /// Whether nothing is claimed from it.
    pub paused: bool,
    /// The jobs stored now, by state.
    pub jobs: BTreeMap<String, u64>,
    /// Since when the first ready job waits.
    #[serde(default, deserialize_with = "read_time_if_any")]
    pub oldest_ready_at: Option<Timestamp>,
    /// The most attempts that the daemon runs at once; none if the queue is not configured.
    pub concurrency: Option<u32>,
    /// The most scheduled, ready and retrying jobs; none is any number.
    pub max_depth: Option<u64>,
}

/// What can be done to many jobs of a queue at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// Cancels jobs that have not ended.
    Cancel,
    /// Puts dead jobs back.
    RequeueDead,
    /// Removes dead jobs.
    DiscardDead,
}

impl Bulk {
    /// Its name in the path.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::RequeueDead => "requeue-dead",
            Self::DiscardDead => "discard-dead",
        }
    }
}

/// Which jobs of a queue to act on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BulkRequest {
    /// Only jobs of this kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Only jobs created before this time.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_time")]
    pub before: Option<Timestamp>,
    /// At most so many, 1 to 10,000; 1,000 if none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u16>,
}

/// What acting on many jobs did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct BulkDone {
    /// Jobs acted on.
    pub count: u64,
    /// Whether there may be more; if so, send the request again.
    pub more: bool,
}

/// A copy of the store.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Backup {
    /// Where the server has written it.
    pub file: String,
    /// Its size.
    pub bytes: u64,
}
