//! Requests that must be refused, each with its case, and what all refusals have in common.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::call::{JSON, NDJSON, call};
use crate::fixture::{Daemon, Scrape};

/// Every case, its status, and its reason in `tallyd_rejected_total` if it is a limit or malformed.
pub const CASES: &[(&str, u16, Option<&str>)] = &[
    ("invalid_request", 400, Some("invalid_request")),
    ("head_too_large", 431, Some("invalid_request")),
    ("invalid_body", 400, Some("invalid_request")),
    ("invalid_json", 400, Some("invalid_request")),
    ("json_too_deep", 400, Some("invalid_request")),
    ("unknown_field", 400, Some("invalid_request")),
    ("missing_field", 400, Some("invalid_request")),
    ("invalid_field", 400, Some("invalid_request")),
    ("invalid_name", 400, Some("invalid_name")),
    ("invalid_query", 400, Some("invalid_query")),
    ("result_too_large", 400, Some("payload_too_large")),
    ("error_too_long", 400, Some("payload_too_large")),
    ("missing_host", 400, Some("unknown_host")),
    ("unauthorized", 401, Some("unauthorized")),
    ("forbidden", 403, Some("forbidden")),
    ("cross_site", 403, Some("cross_site")),
    ("too_many_queues", 403, Some("too_many_queues")),
    ("route_not_found", 404, None),
    ("job_not_found", 404, None),
    ("queue_not_found", 404, None),
    ("queue_not_configured", 404, Some("unknown_queue")),
    ("method_not_allowed", 405, None),
    ("body_timeout", 408, Some("timeout")),
    ("invalid_state", 409, None),
    ("unique_key_held", 409, None),
    ("queue_has_runner", 409, None),
    ("queue_not_empty", 409, None),
    ("queue_configured", 409, None),
    ("no_backup_dir", 409, None),
    ("backup_running", 409, None),
    ("body_too_large", 413, Some("body_too_large")),
    ("job_too_large", 413, Some("payload_too_large")),
    ("too_many_items", 413, Some("body_too_large")),
    ("unsupported_media_type", 415, Some("unsupported_media_type")),
    ("unsupported_encoding", 415, Some("unsupported_media_type")),
    ("misdirected", 421, Some("unknown_host")),
    ("queue_full", 429, Some("queue_full")),
    ("too_many_failures", 429, Some("unauthorized")),
    ("rate_limited", 429, Some("server_busy")),
    ("internal_error", 500, None),
    ("draining", 503, Some("draining")),
    ("server_busy", 503, Some("server_busy")),
    ("store_busy", 503, Some("store_busy")),
    ("too_slow", 503, Some("timeout")),
    ("job_damaged", 503, None),
    ("store_unreadable", 503, None),
    ("backup_failed", 503, None),
    ("store_stopped", 503, None),
    ("disk_full", 507, Some("disk_full")),
];

/// One request that must be refused.
#[derive(Clone)]
pub struct Row {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    code: &'static str,
    field: Option<String>,
    index: Option<u64>,
}

/// A request without a body.
pub fn bare(method: &'static str, path: impl Into<String>, code: &'static str) -> Row {
    let (path, headers, body) = (path.into(), Vec::new(), Vec::new());
    Row { method, path, headers, body, code, field: None, index: None }
}

/// A POST of JSON.
pub fn post(path: impl Into<String>, body: impl Into<Vec<u8>>, code: &'static str) -> Row {
    Row { body: body.into(), ..bare("POST", path, code) }.with("content-type", JSON)
}

/// A batch as NDJSON.
pub fn lines(body: impl Into<Vec<u8>>, code: &'static str) -> Row {
    let row = Row { body: body.into(), ..bare("POST", "/v1/jobs/batch", code) };
    row.with("content-type", NDJSON)
}

impl Row {
    pub fn with(mut self, header: &'static str, value: &'static str) -> Self {
        self.headers.retain(|(name, _)| *name != header);
        self.headers.push((header, value));
        self
    }

    pub fn without(mut self, header: &str) -> Self {
        self.headers.retain(|(name, _)| *name != header);
        self
    }

    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    pub fn at(mut self, index: u64) -> Self {
        self.index = Some(index);
        self
    }

    /// Whether it is this request.
    pub fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.path == path
    }

    pub async fn must_be_refused(&self, daemon: &Daemon) {
        assert_eq!(self.complaint(daemon).await, None);
    }

    fn case(&self) -> (u16, Option<&'static str>) {
        let case = CASES.iter().find(|(code, ..)| *code == self.code);
        let (_, status, reason) = case.unwrap_or_else(|| panic!("{} is no case", self.code));
        (*status, *reason)
    }

    /// What is wrong with the answer to it, if anything.
    async fn complaint(&self, daemon: &Daemon) -> Option<String> {
        let answer = call(daemon, self.method, &self.path, &self.headers, self.body.clone()).await;
        let error = &answer.json["error"];
        let told = (
            answer.status,
            error["code"].as_str(),
            error["field"].as_str(),
            error["index"].as_u64(),
        );
        let wanted = (self.case().0, Some(self.code), self.field.as_deref(), self.index);
        let says_what = error["message"].as_str().is_some_and(|message| !message.is_empty());
        let retries = answer.header("retry-after").is_some();
        let should_retry = matches!(self.code, "queue_full" | "draining");
        if told == wanted && says_what && retries == should_retry {
            return None;
        }
        let shown: String = String::from_utf8_lossy(&self.body).chars().take(120).collect();
        let asked = format!("{} {} {:?} {shown}", self.method, self.path, self.headers);
        Some(format!("{asked}\n  wanted {wanted:?}\n  told {told:?}: {:?}", answer.text))
    }
}

/// Sends all of them: each gets its own answer, is counted by its reason and changes nothing.
pub async fn refuse_all(daemon: &Daemon, rows: &[Row]) {
    let before = (stored(daemon).await, daemon.scrape().await);
    let mut complaints = Vec::new();
    let mut reasons = BTreeMap::<&str, f64>::new();
    for row in rows {
        complaints.extend(row.complaint(daemon).await);
        if let Some(reason) = row.case().1 {
            *reasons.entry(reason).or_default() += 1.0;
        }
    }
    assert!(
        complaints.is_empty(),
        "{} of {}:\n{}",
        complaints.len(),
        rows.len(),
        complaints.join("\n")
    );
    let after = (stored(daemon).await, daemon.scrape().await);
    assert_eq!(after.0, before.0, "refused requests changed something");
    assert_eq!(counted(&before.1, &after.1), reasons);
    assert_eq!(server_errors(&after.1), server_errors(&before.1));
    assert_eq!(after.1.broken_identities(), Vec::<String>::new());
}

/// Everything that a refused request must leave as it is.
async fn stored(daemon: &Daemon) -> Vec<Value> {
    let mut stored = Vec::new();
    for path in ["/v1/stats", "/v1/queues", "/v1/jobs?limit=500"] {
        stored.push(daemon.get(path).await.1);
    }
    stored
}

/// The refusals counted between two scrapes, by reason.
fn counted<'s>(before: &Scrape, after: &'s Scrape) -> BTreeMap<&'s str, f64> {
    let reason = |name: &'s str| {
        name.trim_start_matches("tallyd_rejected_total{reason=\"").trim_end_matches("\"}")
    };
    let counted = after.starting("tallyd_rejected_total{");
    let counted = counted.map(|(name, value)| (reason(name), value - before.value(name)));
    counted.filter(|(_, count)| *count > 0.0).collect()
}

fn server_errors(scrape: &Scrape) -> f64 {
    let requests = scrape.starting("tallyd_http_requests_total{");
    requests.filter(|(name, _)| name.contains("code=\"5")).map(|(_, value)| value).sum()
}
