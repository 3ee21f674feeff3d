//! A job as callers see it.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::config::duration;
use crate::store::Job;

/// The most bytes of an error text that a list shows; the job itself has all of it.
const MAX_LISTED_ERROR: usize = 2 << 10;

/// A job without payload and result, as lists have it.
#[derive(Serialize, JsonSchema)]
pub(super) struct JobSummary<'a> {
    id: String,
    queue: &'a str,
    kind: &'a str,
    /// scheduled, ready, retrying, running, completed, cancelled or dead.
    state: &'static str,
    /// 0 (first) to 9 (last).
    priority: u8,
    /// How often it was claimed.
    attempt: u32,
    /// The failures since it was created or requeued.
    failures: u32,
    /// How many failures make it dead.
    max_attempts: u32,
    /// How long an attempt may take; "0s" = as long as it likes.
    timeout: String,
    unique_key: Option<&'a str>,
    traceparent: Option<&'a str>,
    created_at: String,
    /// When it may run, or could.
    run_at: String,
    /// When it was last claimed.
    claimed_at: Option<String>,
    /// When it was completed, cancelled or died.
    ended_at: Option<String>,
    /// When its lease ends unless it is renewed.
    expires_at: Option<String>,
    /// Who claimed it last.
    worker: Option<&'a str>,
    last_error: Option<LastErrorView<'a>>,
}

/// The last end of an attempt that used up a try.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LastError")]
struct LastErrorView<'a> {
    attempt: u32,
    at: String,
    /// failed, timed_out or lease_expired.
    outcome: &'static str,
    message: &'a str,
}

/// A job.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Job")]
pub(super) struct JobView<'a> {
    #[serde(flatten)]
    summary: JobSummary<'a>,
    /// What its worker gets, byte for byte as it was created.
    #[schemars(with = "serde_json::Value")]
    payload: Option<Cow<'a, RawValue>>,
    /// What its worker left when it completed it.
    #[schemars(with = "serde_json::Value")]
    result: Option<Cow<'a, RawValue>>,
}

impl<'a> From<&'a Job> for JobSummary<'a> {
    fn from(job: &'a Job) -> Self {
        let last_error = job.last_error.as_ref().map(|error| LastErrorView {
            attempt: error.attempt,
            at: error.at.to_string(),
            outcome: error.outcome.name(),
            message: &error.message,
        });
        Self {
            id: job.id.to_string(),
            queue: &job.queue,
            kind: &job.kind,
            state: job.state.name(),
            priority: job.priority,
            attempt: job.attempt,
            failures: job.failures,
            max_attempts: job.max_attempts,
            timeout: duration::format(job.timeout.unwrap_or_default()),
            unique_key: job.unique_key.as_deref(),
            traceparent: job.traceparent.as_deref(),
            created_at: job.created_at.to_string(),
            run_at: job.run_at.to_string(),
            claimed_at: job.claimed_at.map(|at| at.to_string()),
            ended_at: job.ended_at.map(|at| at.to_string()),
            expires_at: job.expires_at.map(|at| at.to_string()),
            worker: job.worker.as_deref(),
            last_error,
        }
    }
}

impl<'a> JobSummary<'a> {
    /// As one of many: 500 error texts in full would be megabytes.
    pub(super) fn in_list(job: &'a Job) -> Self {
        let mut summary = Self::from(job);
        if let Some(error) = &mut summary.last_error {
            let mut ends = (0..=MAX_LISTED_ERROR.min(error.message.len())).rev();
            let end = ends.find(|end| error.message.is_char_boundary(*end));
            error.message = &error.message[..end.unwrap_or_default()];
        }
        summary
    }
}

impl<'a> From<&'a Job> for JobView<'a> {
    fn from(job: &'a Job) -> Self {
        Self {
            summary: job.into(),
            payload: job.payload.as_deref().map(raw),
            result: job.result.as_deref().map(raw),
        }
    }
}

/// Stored JSON text as it is; should it not be JSON, a string that shows it.
fn raw(text: &[u8]) -> Cow<'_, RawValue> {
    match serde_json::from_slice::<&RawValue>(text) {
        Ok(value) => Cow::Borrowed(value),
        Err(_) => {
            let shown = to_raw_value(&String::from_utf8_lossy(text));
            Cow::Owned(shown.expect("a string is always JSON"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::job::{AttemptResult, State};
    use crate::store::{JobId, LastError};
    use bytes::Bytes;
    use serde_json::{Value, json, to_value};

    fn job() -> Job {
        Job {
            id: JobId::new(JobId::key_at(1_700_000_000_000), 7),
            queue: "emails".into(),
            kind: "welcome".into(),
            state: State::Ready,
            priority: 5,
            payload: Some(Bytes::from_static(b"{ \"a\": 1.0 }")),
            attempt: 0,
            failures: 0,
            max_attempts: 25,
            timeout: None,
            unique_key: None,
            traceparent: None,
            created_at: Timestamp(1_700_000_000_000),
            run_at: Timestamp(1_700_000_000_000),
            claimed_at: None,
            ended_at: None,
            expires_at: None,
            worker: None,
            last_error: None,
            result: None,
        }
    }

    #[test]
    fn a_job_has_every_key_and_null_for_what_is_absent() {
        let view = to_value(JobView::from(&job())).expect("serializes");
        let keys: Vec<_> = view.as_object().expect("an object").keys().cloned().collect();
        let mut expected = vec![
            "id",
            "queue",
            "kind",
            "state",
            "priority",
            "payload",
            "attempt",
            "failures",
            "max_attempts",
            "timeout",
            "unique_key",
            "traceparent",
            "created_at",
            "run_at",
            "claimed_at",
            "ended_at",
            "expires_at",
            "worker",
            "last_error",
            "result",
        ];
        expected.sort_unstable();
        assert_eq!(keys, expected);
        assert_eq!(view["timeout"], "0s");
        assert_eq!(view["created_at"], "2023-11-14T22:13:20.000Z");
        assert_eq!(view["result"], Value::Null);
    }

    #[test]
    fn the_payload_is_written_as_it_is_stored() {
        let text = serde_json::to_string(&JobView::from(&job())).expect("serializes");
        assert!(text.contains(r#""payload":{ "a": 1.0 }"#), "{text}");
        let broken = Job { result: Some(Bytes::from_static(b"{ \"a")), ..job() };
        let view = to_value(JobView::from(&broken)).expect("serializes");
        assert_eq!(view["result"], "{ \"a");
    }

    #[test]
    fn a_list_has_neither_payload_nor_result() {
        let error = LastError {
            attempt: 2,
            at: Timestamp(0),
            outcome: AttemptResult::TimedOut,
            message: "took 5m".into(),
        };
        let job = Job { last_error: Some(error), ..job() };
        let view = to_value(JobSummary::in_list(&job)).expect("serializes");
        assert!(view.get("payload").is_none() && view.get("result").is_none());
        let expected = json!({
            "attempt": 2, "at": "1970-01-01T00:00:00.000Z", "outcome": "timed_out",
            "message": "took 5m",
        });
        assert_eq!(view["last_error"], expected);

        let mut job = job;
        if let Some(error) = &mut job.last_error {
            error.message = format!("x{}", "ä".repeat(MAX_LISTED_ERROR));
        }
        let view = to_value(JobSummary::in_list(&job)).expect("serializes");
        let listed = view["last_error"]["message"].as_str().expect("text").len();
        assert_eq!(listed, MAX_LISTED_ERROR - 1, "cut between characters");
    }
}
