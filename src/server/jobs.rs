//! The routes of jobs: create, read, list, and what operators do to one job.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::header::{HeaderValue, LOCATION};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::auth::Caller;
use super::body::{Limit, Media};
use super::error::ApiError;
use super::job_view::{JobSummary, JobView};
use super::leases::MAX_REPORT_BYTES;
use super::query::{JobPath, ListQuery, write_cursor};
use super::{Api, Shared, batch, job_request, json};
use crate::store::{Action, BatchCreated, Created, JobId};

/// The most that a job takes in an answer beside its payload: its result, an error text of which each
/// byte may have to be escaped, and the rest.
const MAX_VIEW_BYTES: usize = 7 * MAX_REPORT_BYTES + (8 << 10);

/// A body for which no field is defined.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct Nothing {}

/// The answer to a create.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CreatedJob")]
pub(super) struct CreatedView<'a> {
    #[serde(flatten)]
    job: JobView<'a>,
    /// Whether the job existed already and nothing was created.
    duplicate: bool,
}

/// The answer to a batch of creates.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CreatedBatch")]
pub(super) struct BatchView {
    /// In the order of the request.
    ids: Vec<String>,
    /// The indexes of those that existed already.
    duplicates: Vec<usize>,
}

/// One page of jobs.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "JobPage")]
pub(super) struct PageView<'a> {
    /// Newest first.
    jobs: Vec<JobSummary<'a>>,
    /// Where the next page begins; null ends the list.
    next_cursor: Option<String>,
}

/// `POST /v1/jobs`: answers once the job is on disk.
pub(super) async fn create(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let max_bytes = api.config.max_payload;
    let received = api.receive(request, Limit::job(max_bytes), &[Media::Json]).await?;
    let job = job_request::read(&received.text, &received.text, max_bytes)?;
    caller.check_create(&job.queue, &api.config)?;
    let store = api.store.clone();
    let create = async move { store.create(job).await };
    let (created, room) = api.write_one(received.room, create).await?;
    let answer = self::created(&created);
    // The job that holds the key may be larger than the one that was sent.
    if created.duplicate {
        api.answers.enter().cover_answer(answer)
    } else {
        Ok(room.around(answer))
    }
}

/// The answer to a create.
pub(super) fn created(created: &Created) -> Response {
    let status = if created.duplicate { StatusCode::OK } else { StatusCode::CREATED };
    let view = CreatedView { job: (&created.job).into(), duplicate: created.duplicate };
    let mut response = json::answer(status, &view);
    if !created.duplicate {
        let location = HeaderValue::try_from(format!("/v1/jobs/{}", created.job.id));
        response.headers_mut().insert(LOCATION, location.expect("an id is plain ASCII"));
    }
    response
}

/// `POST /v1/jobs/batch`: all or none.
pub(super) async fn create_batch(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let max_bytes = api.config.max_payload;
    let media = [Media::Json, Media::NdJson];
    let received = api.receive(request, Limit::BATCH, &media).await?;
    let read = |text: &[u8]| job_request::read(text, &received.text, max_bytes);
    let jobs = batch::items(&received, read)?;
    for (index, job) in jobs.iter().enumerate() {
        caller.check_create(&job.queue, &api.config).map_err(|refused| refused.at(index))?;
    }
    let (created, room) = if jobs.is_empty() {
        (BatchCreated { ids: Vec::new(), duplicates: Vec::new() }, received.room)
    } else {
        let store = api.store.clone();
        api.write_one(received.room, async move { store.create_batch(jobs).await }).await?
    };
    let ids = created.ids.iter().map(ToString::to_string).collect();
    let view = BatchView { ids, duplicates: created.duplicates };
    Ok(room.around(json::answer(StatusCode::CREATED, &view)))
}

/// `GET /v1/jobs/{id}`
pub(super) async fn show(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    JobPath(id): JobPath,
) -> Result<Response, ApiError> {
    let job = api.store.job(id).await?;
    caller.check_shown(&job)?;
    api.answers.enter().cover_answer(json::answer(StatusCode::OK, &JobView::from(&job)))
}

/// `GET /v1/jobs`
pub(super) async fn list(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let filter = ListQuery::read(&uri)?.filter()?;
    caller.check_list(filter.queue.as_deref())?;
    let page = api.store.list(filter).await?;
    let view = PageView {
        jobs: page.jobs.iter().map(JobSummary::in_list).collect(),
        next_cursor: page.next_cursor.map(write_cursor),
    };
    api.answers.enter().cover_answer(json::answer(StatusCode::OK, &view))
}

/// `POST /v1/jobs/{id}/cancel`
pub(super) async fn cancel(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    JobPath(id): JobPath,
    request: Request,
) -> Result<Response, ApiError> {
    act(api, &caller, id, Action::Cancel, request).await
}

/// `POST /v1/jobs/{id}/requeue`
pub(super) async fn requeue(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    JobPath(id): JobPath,
    request: Request,
) -> Result<Response, ApiError> {
    act(api, &caller, id, Action::Requeue, request).await
}

/// `DELETE /v1/jobs/{id}`
pub(super) async fn discard(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    JobPath(id): JobPath,
) -> Result<Response, ApiError> {
    api.check_job(&caller, id, Action::Discard).await?;
    let store = api.store.clone();
    api.write(async move { store.act(id, Action::Discard).await }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn act(
    api: Arc<Api>,
    caller: &Caller,
    id: JobId,
    action: Action,
    request: Request,
) -> Result<Response, ApiError> {
    api.receive(request, Limit::SMALL, &[Media::Json]).await?.object::<Nothing>()?;
    api.check_job(caller, id, action).await?;
    let mut room = api.answers.enter();
    room.cover(api.config.max_payload + MAX_VIEW_BYTES)?;
    let store = api.store.clone();
    let (job, room) = api.write_in(room, async move { store.act(id, action).await }).await?;
    Ok(room.around(json::answer(StatusCode::OK, &JobView::from(&job))))
}
