//! How an attempt ended, whoever ran it.

use bytes::Bytes;

use super::exec;
use crate::job::Outcome;

/// What a runner tells of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ended {
    /// It came to an end of its own.
    Reported {
        /// How it ended.
        outcome: Outcome,
        /// JSON text to keep with a completed job.
        result: Option<Bytes>,
        /// What went wrong, to keep with a failure. What its log line tells stands before the first
        /// `": "`: the rest was said by others, and may be payload.
        error: Option<String>,
    },
    /// The machine lacks something that it needs, which says nothing about the job.
    Short {
        /// What was lacking.
        error: String,
    },
    /// It was interrupted.
    Interrupted,
}

impl Ended {
    /// A failure that is worth another try, not before `retry_in`.
    pub(super) fn failed(error: String, retry_in: std::time::Duration) -> Self {
        let outcome = Outcome::Failed { permanent: false, retry_in };
        Self::Reported { outcome, result: None, error: Some(error) }
    }
}

impl From<exec::Ended> for Ended {
    fn from(ended: exec::Ended) -> Self {
        let (outcome, result, error) = match ended {
            exec::Ended::Completed { result } => {
                (Outcome::Completed, result.map(json_string), None)
            }
            exec::Ended::Failed { permanent, error } => {
                let outcome = Outcome::Failed { permanent, retry_in: std::time::Duration::ZERO };
                (outcome, None, Some(error))
            }
            exec::Ended::TimedOut { error } => (Outcome::TimedOut, None, Some(error)),
            exec::Ended::Short { error } => return Self::Short { error },
            exec::Ended::Interrupted => return Self::Interrupted,
        };
        Self::Reported { outcome, result, error }
    }
}

/// Text as a JSON string.
pub(super) fn json_string(text: String) -> Bytes {
    serde_json::Value::String(text).to_string().into()
}
