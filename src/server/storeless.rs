//! What the benchmark compares with: the same server, with all of a create but the store.

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::post;

use super::body::{Limit, Media};
use super::error::ApiError;
use super::{Shared, gate, job_request, jobs};
use crate::clock::Clock;
use crate::job::State as JobState;
use crate::store::{Created, Job, JobId};

/// A router that has `POST /v1/jobs` only.
pub(super) fn router(api: Shared) -> Router {
    Router::new()
        .route("/v1/jobs", post(create))
        .layer(from_fn_with_state(api.clone(), gate::pass))
        .with_state(api)
}

/// Reads, checks and answers as a create does, and stores nothing.
async fn create(State(api): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let max_bytes = api.config.max_payload;
    let received = api.receive(request, Limit::job(max_bytes), &[Media::Json]).await?;
    let job = job_request::read(&received.text, &received.text, max_bytes)?;
    let (now, policy) = (Clock::system().now(), api.config.policy(&job.queue));
    let id = JobId::new(JobId::key_at(now.0), rand::random());
    let job = Job::created(id, job, JobState::Ready, now, now, policy);
    Ok(jobs::created(&Created { job, duplicate: false }))
}
