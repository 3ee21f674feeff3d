//! The routes of queues: read, pause, forget, and what operators do to many jobs at once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::Caller;
use super::body::{Limit, Media};
use super::error::ApiError;
use super::job_request::{NAME_PATTERN, bounded, checked_name, timestamp};
use super::jobs::Nothing;
use super::query::QueuePath;
use super::{Shared, json};
use crate::config::{Config, Runner};
use crate::job;
use crate::store::{Action, Bulk, Queue};

/// The jobs that one request may act on: enough to be worth it, few enough to answer soon.
const BULK: RangeInclusive<u64> = 1..=10_000;

/// The jobs that a request acts on which names no limit.
const DEFAULT_BULK: i64 = 1_000;

/// A queue.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Queue")]
pub(super) struct QueueView<'a> {
    name: &'a str,
    /// Who runs its jobs: lease (outside workers), or the daemon, by exec (a command) or http (a push).
    runner: &'static str,
    /// Whether nothing is claimed from it.
    paused: bool,
    /// The jobs stored now, by state.
    jobs: BTreeMap<&'static str, i64>,
    /// Since when the first ready job waits.
    oldest_ready_at: Option<String>,
    /// The most attempts that the daemon runs at once; null if the queue is not configured.
    concurrency: Option<u32>,
    /// The most scheduled, ready and retrying jobs; null = any number.
    max_depth: Option<u64>,
}

impl<'a> QueueView<'a> {
    fn new(queue: &'a Queue, config: &Config) -> Self {
        let jobs = job::State::ALL.map(job::State::name).into_iter().zip(queue.jobs).collect();
        let configured = config.queues.get(&queue.name);
        Self {
            name: &queue.name,
            runner: match config.runner(&queue.name) {
                Runner::Lease => "lease",
                Runner::Exec(_) => "exec",
                Runner::Http(_) => "http",
            },
            paused: queue.paused,
            jobs,
            oldest_ready_at: queue.oldest_ready_at.map(|at| at.to_string()),
            concurrency: configured.map(|configured| configured.concurrency),
            max_depth: config.policy(&queue.name).max_depth,
        }
    }
}

/// All queues.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "QueueList")]
pub(super) struct QueuesView<'a> {
    /// By name.
    queues: Vec<QueueView<'a>>,
}

/// Which jobs of a queue to act on.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct BulkRequest {
    /// Only jobs of this kind.
    #[schemars(regex(pattern = NAME_PATTERN))]
    kind: Option<String>,
    /// Only jobs created before this time, with an offset.
    #[schemars(extend("format" = "date-time"))]
    before: Option<String>,
    /// At most so many, 1,000 if absent.
    #[schemars(range(min = 1, max = 10_000))]
    limit: Option<i64>,
}

/// What acting on many jobs did.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "BulkDone")]
pub(super) struct BulkView {
    /// Jobs acted on.
    count: usize,
    /// Whether there may be more; if so, send the request again.
    more: bool,
}

/// `GET /v1/queues`
pub(super) async fn list(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, ApiError> {
    let queues = api.store.queues().await?;
    let queues = queues.iter().filter(|queue| caller.check_queue(&queue.name).is_ok());
    let queues = queues.map(|queue| QueueView::new(queue, &api.config)).collect();
    api.answers.enter().cover_answer(json::answer(StatusCode::OK, &QueuesView { queues }))
}

/// `GET /v1/queues/{queue}`
pub(super) async fn show(
    State(api): State<Shared>,
    QueuePath(name): QueuePath,
) -> Result<Response, ApiError> {
    let queue = api.store.queue(&name).await?;
    Ok(json::answer(StatusCode::OK, &QueueView::new(&queue, &api.config)))
}

/// `POST /v1/queues/{queue}/pause`
pub(super) async fn pause(
    State(api): State<Shared>,
    QueuePath(name): QueuePath,
    request: Request,
) -> Result<Response, ApiError> {
    set_paused(api, name, true, request).await
}

/// `POST /v1/queues/{queue}/resume`
pub(super) async fn resume(
    State(api): State<Shared>,
    QueuePath(name): QueuePath,
    request: Request,
) -> Result<Response, ApiError> {
    set_paused(api, name, false, request).await
}

async fn set_paused(
    api: Shared,
    name: String,
    paused: bool,
    request: Request,
) -> Result<Response, ApiError> {
    api.receive(request, Limit::SMALL, &[Media::Json]).await?.object::<Nothing>()?;
    let store = api.store.clone();
    let queue = api.write(async move { store.set_paused(&name, paused).await }).await?;
    Ok(json::answer(StatusCode::OK, &QueueView::new(&queue, &api.config)))
}

/// `DELETE /v1/queues/{queue}`
pub(super) async fn forget(
    State(api): State<Shared>,
    QueuePath(name): QueuePath,
) -> Result<Response, ApiError> {
    let store = api.store.clone();
    api.write(async move { store.forget(&name).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST /v1/queues/{queue}/cancel`
pub(super) async fn cancel_many(
    State(api): State<Shared>,
    QueuePath(name): QueuePath,
    request: Request,
) -> Result<Response, ApiError> {
    act_on_many(api, name, Action::Cancel, request).await
}

/// `POST /v1/queues/{queue}/requeue-dead`
pub(super) async fn requeue_dead(
    State(api): State<Shared>,
    QueuePath(name): QueuePath,
    request: Request,
) -> Result<Response, ApiError> {
    act_on_many(api, name, Action::Requeue, request).await
}

/// `POST /v1/queues/{queue}/discard-dead`
pub(super) async fn discard_dead(
    State(api): State<Shared>,
    QueuePath(name): QueuePath,
    request: Request,
) -> Result<Response, ApiError> {
    act_on_many(api, name, Action::Discard, request).await
}

async fn act_on_many(
    api: Shared,
    queue: String,
    action: Action,
    request: Request,
) -> Result<Response, ApiError> {
    let received = api.receive(request, Limit::SMALL, &[Media::Json]).await?;
    let bulk = received.object::<BulkRequest>()?.bulk(queue, action)?;
    // Each step is finished once it is begun; a caller who hangs up ends the walk between two.
    let done = api.store.act_on_many(bulk).await?;
    Ok(json::answer(StatusCode::OK, &BulkView { count: done.count, more: done.more }))
}

impl BulkRequest {
    fn bulk(self, queue: String, action: Action) -> Result<Bulk, ApiError> {
        let kind = self.kind.map(|kind| checked_name("kind", kind)).transpose()?;
        let before = self.before.map(|before| timestamp("before", &before)).transpose()?;
        let limit = bounded("limit", self.limit.unwrap_or(DEFAULT_BULK), &BULK)?;
        Ok(Bulk { queue, action, kind, before, limit, from: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn bulk(text: &str) -> Result<Bulk, ApiError> {
        json::object::<BulkRequest>(text.as_bytes())?.bulk("q".into(), Action::Cancel)
    }

    #[test]
    fn a_bulk_request_is_bounded() {
        let all = bulk("{}").expect("valid");
        assert_eq!((all.limit, all.kind, all.before), (1_000, None, None));
        let some = bulk(r#"{"kind":"k","before":"1970-01-01T00:00:01Z","limit":10000}"#);
        let some = some.expect("valid");
        assert_eq!((some.limit, some.before), (10_000, Some(Timestamp(1_000))));
        for (text, field) in [
            (r#"{"limit":0}"#, "limit"),
            (r#"{"limit":10001}"#, "limit"),
            (r#"{"kind":""}"#, "kind"),
            (r#"{"before":"1970-01-01"}"#, "before"),
            (r#"{"after":1}"#, "after"),
        ] {
            assert_eq!(bulk(text).expect_err(text).field.as_deref(), Some(field));
        }
    }

    #[test]
    fn a_queue_shows_every_state_and_its_configuration() {
        let queue = Queue {
            name: "default".into(),
            paused: true,
            jobs: [1, 2, 3, 4, 5, 6, 7],
            oldest_ready_at: Some(Timestamp(0)),
        };
        let view = serde_json::to_value(QueueView::new(&queue, &Config::default()));
        let expected = serde_json::json!({
            "name": "default", "runner": "lease", "paused": true,
            "jobs": {"scheduled": 1, "ready": 2, "retrying": 3, "running": 4, "completed": 5,
                     "cancelled": 6, "dead": 7},
            "oldest_ready_at": "1970-01-01T00:00:00.000Z", "concurrency": 10, "max_depth": null,
        });
        assert_eq!(view.expect("serializes"), expected);
    }
}
