//! A job as its creator sends it, and the limits it is held to.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::{ApiError, Code};
use super::json::Named;
use super::{json, traceparent};
use crate::clock::Timestamp;
use crate::config::limits;
use crate::config::name::{self, NAME_RULE};
use crate::store::{NewJob, Start, Unique, UniqueUntil};

/// The rule for names as a pattern, for the API's description.
pub(super) const NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$";

/// The rule for durations as a pattern, for the API's description.
pub(super) const DURATION_PATTERN: &str = "^[0-9]{1,9}(ms|s|m|h|d)$";

/// The queue of a job that names none.
const DEFAULT_QUEUE: &str = "default";

/// The priority of a job that names none.
const DEFAULT_PRIORITY: u8 = 5;

/// The priorities, the first first.
const PRIORITY: RangeInclusive<u64> = 0..=9;

/// The most bytes of a unique key: it is indexed.
const MAX_UNIQUE_KEY_BYTES: usize = 200;

/// A wait that a request asks for: within 100 years every time stays one that can be written.
pub(super) const WAIT: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(36_500 * 24 * 60 * 60);

/// A job to create.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct CreateJob<'a> {
    /// What sort of work it is.
    #[schemars(regex(pattern = NAME_PATTERN))]
    kind: String,
    /// The queue, "default" if absent.
    #[schemars(regex(pattern = NAME_PATTERN))]
    queue: Option<String>,
    /// What its worker gets, byte for byte; null if absent.
    #[serde(borrow)]
    #[schemars(with = "serde_json::Value")]
    #[serde(default)]
    payload: Option<&'a RawValue>,
    /// 0 (first) to 9 (last), 5 if absent.
    #[schemars(range(min = 0, max = 9))]
    priority: Option<i64>,
    /// When it may run, with an offset; not together with `delay`.
    #[schemars(extend("format" = "date-time"))]
    run_at: Option<String>,
    /// How long after its creation it may run; not together with `run_at`.
    #[schemars(regex(pattern = DURATION_PATTERN))]
    delay: Option<String>,
    /// How many failures make it dead; the queue's if absent.
    #[schemars(range(min = 1, max = 1_000_000))]
    max_attempts: Option<i64>,
    /// How long an attempt may take, "0s" = as long as it likes; the queue's if absent.
    #[schemars(regex(pattern = DURATION_PATTERN))]
    timeout: Option<String>,
    /// While a job of the queue holds this key, creating it again answers with that job.
    #[schemars(length(min = 1, max = 200))]
    unique_key: Option<String>,
    /// What ends the hold on `unique_key`.
    #[schemars(with = "Option<UniqueUntilName>")]
    unique_until: Option<Named<UniqueUntilName>>,
    /// The trace it belongs to (W3C Trace Context).
    traceparent: Option<String>,
}

/// What ends the hold on a unique key.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "UniqueUntil")]
enum UniqueUntilName {
    /// The job is removed (the default).
    Gone,
    /// The job is completed, cancelled or dead.
    Done,
}

/// Reads one job. `text` is a part of `body`, in which the payload stays.
pub(super) fn read(text: &[u8], body: &Bytes, max_bytes: usize) -> Result<NewJob, ApiError> {
    if text.len() > max_bytes {
        let message = format!("a job may have at most {max_bytes} bytes, this has {}", text.len());
        return Err(ApiError::new(Code::JobTooLarge, message));
    }
    let job: CreateJob<'_> = json::object(text)?;
    let payload = match job.payload {
        Some(payload) => {
            json::check_depth("payload", payload.get())?;
            body.slice_ref(payload.get().as_bytes())
        }
        None => Bytes::from_static(b"null"),
    };
    let start = start(job.run_at.as_deref(), job.delay.as_deref())?;
    if job.traceparent.as_deref().is_some_and(|text| !traceparent::is_valid(text)) {
        let rule = "must be version-traceid-parentid-flags as in W3C Trace Context";
        return Err(ApiError::invalid("traceparent", format!("traceparent {rule}")));
    }
    let queue = job.queue.unwrap_or_else(|| DEFAULT_QUEUE.to_owned());
    let priority = match job.priority {
        Some(priority) => bounded("priority", priority, &PRIORITY)?,
        None => DEFAULT_PRIORITY,
    };
    let max_attempts = match job.max_attempts {
        Some(max) => Some(bounded("max_attempts", max, &limits::MAX_ATTEMPTS)?),
        None => None,
    };
    Ok(NewJob {
        kind: checked_name("kind", job.kind)?,
        queue: checked_name("queue", queue)?,
        payload,
        priority,
        start,
        max_attempts,
        timeout: duration("timeout", job.timeout.as_deref(), &limits::TIMEOUT)?,
        unique: unique(job.unique_key, job.unique_until.map(|until| until.0))?,
        traceparent: job.traceparent,
    })
}

/// When it may run.
fn start(run_at: Option<&str>, delay: Option<&str>) -> Result<Start, ApiError> {
    match (run_at, duration("delay", delay, &WAIT)?) {
        (None, None) => Ok(Start::Now),
        (Some(run_at), None) => Ok(Start::At(timestamp("run_at", run_at)?)),
        (None, Some(delay)) => Ok(Start::After(delay)),
        (Some(_), Some(_)) => Err(ApiError::invalid("delay", "give run_at or delay, not both")),
    }
}

/// The unique key and what ends the hold on it.
fn unique(key: Option<String>, until: Option<UniqueUntilName>) -> Result<Option<Unique>, ApiError> {
    let Some(key) = key else {
        return match until {
            None => Ok(None),
            Some(_) => Err(ApiError::invalid("unique_until", "unique_until needs a unique_key")),
        };
    };
    check_length("unique_key", &key, 1, MAX_UNIQUE_KEY_BYTES)?;
    let until = match until {
        None | Some(UniqueUntilName::Gone) => UniqueUntil::Gone,
        Some(UniqueUntilName::Done) => UniqueUntil::Done,
    };
    Ok(Some(Unique { key, until }))
}

/// A name of a queue or kind within the rule.
pub(super) fn checked_name(field: &str, text: String) -> Result<String, ApiError> {
    if name::is_valid(&text) {
        return Ok(text);
    }
    let message = format!("{field} must be {NAME_RULE}");
    Err(ApiError::new(Code::InvalidName, message).field(field))
}

/// A number within its bounds.
pub(super) fn bounded<N: TryFrom<u64>>(
    field: &str,
    number: i64,
    bounds: &RangeInclusive<u64>,
) -> Result<N, ApiError> {
    limits::count(Some(number), bounds)
        .map_err(|rule| ApiError::invalid(field, format!("{field} {rule}, got {number}")))
}

/// Text within its bounds.
pub(super) fn check_length(
    field: &str,
    text: &str,
    min: usize,
    max: usize,
) -> Result<(), ApiError> {
    if (min..=max).contains(&text.len()) {
        return Ok(());
    }
    let message = format!("{field} must have {min} to {max} bytes, got {}", text.len());
    Err(ApiError::invalid(field, message))
}

/// A duration within its bounds, in the notation of the configuration, if it is given.
pub(super) fn duration(
    field: &str,
    text: Option<&str>,
    bounds: &RangeInclusive<Duration>,
) -> Result<Option<Duration>, ApiError> {
    text.map(|text| limits::duration(Some(text), bounds))
        .transpose()
        .map_err(|rule| ApiError::invalid(field, format!("{field} {rule}")))
}

/// A point in time with an offset.
pub(super) fn timestamp(field: &str, text: &str) -> Result<Timestamp, ApiError> {
    Timestamp::parse(text).ok_or_else(|| {
        let rule = "must be RFC 3339 with an offset, from 1970 to 9999-12-30, like \
                    2026-03-01T12:00:00Z";
        ApiError::invalid(field, format!("{field} {rule}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &str) -> Result<NewJob, ApiError> {
        let body = Bytes::copy_from_slice(text.as_bytes());
        read(&body, &body, 1 << 20)
    }

    fn refused(fields: &str) -> (Code, String) {
        let error = read_all(&format!(r#"{{"kind":"a",{fields}}}"#)).expect_err(fields);
        (error.code, error.field.expect("a field"))
    }

    #[test]
    fn only_the_kind_is_required() {
        let job = read_all(r#"{"kind":"welcome"}"#).expect("valid");
        assert_eq!((job.queue.as_str(), job.kind.as_str()), ("default", "welcome"));
        assert_eq!((job.priority, &job.payload[..]), (5, &b"null"[..]));
        assert_eq!((job.start, job.max_attempts, job.timeout), (Start::Now, None, None));
        assert!(job.unique.is_none() && job.traceparent.is_none());
        let nulls =
            r#"{"kind":"welcome","queue":null,"payload":null,"priority":null,"delay":null}"#;
        assert_eq!(read_all(nulls), Ok(job));
    }

    #[test]
    fn the_payload_stays_byte_for_byte() {
        let payload = "{ \"b\" : 1.0e2,\n\t\"a\": [1,1 , \"\\u00e9\u{e9}\"], \"a\":2 }";
        let job = read_all(&format!(r#"{{"kind":"a","payload": {payload} }}"#)).expect("valid");
        assert_eq!(&job.payload[..], payload.as_bytes());
    }

    #[test]
    fn every_field_is_read() {
        let job = read_all(
            r#"{"kind":"a","queue":"q","priority":0,"run_at":"2026-03-01T12:00:00+02:00",
                "max_attempts":1000000,"timeout":"0s","unique_key":"k","unique_until":"done",
                "traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#,
        )
        .expect("valid");
        assert_eq!((job.queue.as_str(), job.priority), ("q", 0));
        let run_at = Timestamp::parse("2026-03-01T10:00:00Z").expect("valid");
        assert_eq!(job.start, Start::At(run_at));
        assert_eq!((job.max_attempts, job.timeout), (Some(1_000_000), Some(Duration::ZERO)));
        assert_eq!(job.unique, Some(Unique { key: "k".into(), until: UniqueUntil::Done }));
        assert!(job.traceparent.is_some());
        let job = read_all(r#"{"kind":"a","delay":"90s","unique_key":"k"}"#).expect("valid");
        assert_eq!(job.start, Start::After(Duration::from_secs(90)));
        assert_eq!(job.unique.map(|unique| unique.until), Some(UniqueUntil::Gone));
    }

    #[test]
    fn each_mistake_names_its_field() {
        let cases = [
            (r#""queue":"a b""#, Code::InvalidName, "queue"),
            (r#""queue":"__other__""#, Code::InvalidName, "queue"),
            (r#""priority":10"#, Code::InvalidField, "priority"),
            (r#""priority":-1"#, Code::InvalidField, "priority"),
            (r#""priority":"1""#, Code::InvalidField, "priority"),
            (r#""run_at":"2026-03-01T12:00:00""#, Code::InvalidField, "run_at"),
            (r#""run_at":"9999-12-31T23:59:59Z""#, Code::InvalidField, "run_at"),
            (r#""delay":"5""#, Code::InvalidField, "delay"),
            (r#""delay":"36501d""#, Code::InvalidField, "delay"),
            (r#""delay":"5s","run_at":"2026-03-01T12:00:00Z""#, Code::InvalidField, "delay"),
            (r#""max_attempts":0"#, Code::InvalidField, "max_attempts"),
            (r#""max_attempts":1000001"#, Code::InvalidField, "max_attempts"),
            (r#""timeout":"1w""#, Code::InvalidField, "timeout"),
            (r#""unique_key":"""#, Code::InvalidField, "unique_key"),
            (r#""unique_until":"done""#, Code::InvalidField, "unique_until"),
            (r#""unique_key":"k","unique_until":"ever""#, Code::InvalidField, "unique_until"),
            (r#""unique_key":"k","unique_until":5"#, Code::InvalidField, "unique_until"),
            (r#""unique_key":"k","unique_until":[]"#, Code::InvalidField, "unique_until"),
            (
                r#""unique_key":"k","unique_until":{"gone":null}"#,
                Code::InvalidField,
                "unique_until",
            ),
            (r#""priority":1e400"#, Code::InvalidField, "priority"),
            (r#""traceparent":"00-1-2-3""#, Code::InvalidField, "traceparent"),
            (r#""Queue":"a""#, Code::UnknownField, "Queue"),
        ];
        for (fields, code, field) in cases {
            assert_eq!(refused(fields), (code, field.to_owned()), "{fields}");
        }
        let deep = format!(r#""payload":{}1{}"#, "[".repeat(33), "]".repeat(33));
        assert_eq!(refused(&deep), (Code::JsonTooDeep, "payload".to_owned()));
        let key = format!(r#""unique_key":"{}""#, "k".repeat(201));
        assert_eq!(refused(&key), (Code::InvalidField, "unique_key".to_owned()));
    }

    #[test]
    fn a_job_of_exactly_the_limit_is_taken() {
        let text = Bytes::from_static(br#"{"kind":"a"}"#);
        assert!(read(&text, &text, text.len()).is_ok());
        let error = read(&text, &text, text.len() - 1).expect_err("one byte too many");
        assert_eq!(error.code, Code::JobTooLarge);
    }
}
