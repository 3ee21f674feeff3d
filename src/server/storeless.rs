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
use crate::store::{Created, Job, JobId, NewJob};

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
    let max_attempts = api.config.policy(&job.queue).max_attempts;
    Ok(jobs::created(&Created { job: invented(job, max_attempts), duplicate: false }))
}

/// The job that would have been created.
fn invented(job: NewJob, max_attempts: u32) -> Job {
    let now = Clock::system().now();
    Job {
        id: JobId::new(JobId::key_at(now.0), rand::random()),
        queue: job.queue,
        kind: job.kind,
        state: JobState::Ready,
        priority: job.priority,
        payload: Some(job.payload),
        attempt: 0,
        failures: 0,
        max_attempts: job.max_attempts.unwrap_or(max_attempts),
        timeout: job.timeout,
        unique_key: job.unique.map(|unique| unique.key),
        traceparent: job.traceparent,
        created_at: now,
        run_at: now,
        claimed_at: None,
        ended_at: None,
        expires_at: None,
        worker: None,
        last_error: None,
        result: None,
    }
}
