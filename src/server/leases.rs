//! The routes of outside workers: lease, finish, renew.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::auth::Caller;
use super::batch::{self, MAX_ITEMS};
use super::body::{Limit, Media};
use super::error::{ApiError, Code};
use super::handover::Handover;
use super::job_request::{
    DURATION_PATTERN, NAME_PATTERN, WAIT, bounded, check_length, checked_name, duration,
};
use super::job_view::JobView;
use super::json::Named;
use super::{Api, Shared, json};
use crate::config::Runner;
use crate::config::limits;
use crate::job::Outcome;
use crate::store::{Claim, Finish, JobId, Lease, LeaseAnswer, Renewal, StoreError};

/// The most queues that one lease request may name: each is looked at on every wake-up.
const MAX_QUEUES: usize = 100;

/// The jobs that one lease request may ask for.
const JOBS: RangeInclusive<u64> = 1..=1_000;

/// The most bytes of payload that one lease request gets.
const MAX_LEASED_BYTES: usize = 16 << 20;

/// The wait for a job: proxies cut connections that are silent for longer.
const LONG_POLL: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);

/// The most bytes of a worker's name.
const MAX_WORKER_BYTES: usize = 200;

/// The most bytes of a result or of an error text; larger ones belong elsewhere.
pub(super) const MAX_REPORT_BYTES: usize = 64 << 10;

/// What a worker asks for.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct LeaseRequest {
    /// Searched in this order.
    #[schemars(length(min = 1, max = 100), inner(regex(pattern = NAME_PATTERN)))]
    queues: Vec<String>,
    /// At most so many jobs, 1 if absent.
    #[schemars(range(min = 1, max = 1_000))]
    max: Option<i64>,
    /// How long to wait for a job, at most 60s; "0s" if absent.
    #[schemars(regex(pattern = DURATION_PATTERN))]
    wait: Option<String>,
    /// How long the leases last, 1s to 1h; the queue's if absent.
    #[schemars(regex(pattern = DURATION_PATTERN))]
    duration: Option<String>,
    /// Who asks.
    #[schemars(length(min = 1, max = 200))]
    worker: Option<String>,
}

/// A job with the right to run its attempt.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LeasedJob")]
struct LeasedView<'a> {
    /// The token that finishes or renews it.
    lease: String,
    #[serde(flatten)]
    job: JobView<'a>,
}

/// The jobs that a worker got.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LeasedJobs")]
pub(super) struct LeasesView<'a> {
    /// In the order in which they should run; empty if nothing came in time.
    jobs: Vec<LeasedView<'a>>,
}

/// The end of an attempt.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct FinishItem<'a> {
    /// The token of the attempt.
    lease: String,
    #[schemars(with = "OutcomeName")]
    outcome: Named<OutcomeName>,
    /// With completed: what to keep, at most 64 KiB of JSON.
    #[serde(borrow, default)]
    #[schemars(with = "serde_json::Value")]
    result: Option<&'a RawValue>,
    /// With failed: what went wrong, at most 64 KiB.
    error: Option<String>,
    /// With failed or released: the least time until the next attempt.
    #[schemars(regex(pattern = DURATION_PATTERN))]
    retry_in: Option<String>,
    /// With failed: another attempt would fail as well.
    permanent: Option<bool>,
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Outcome")]
enum OutcomeName {
    /// The work is done.
    Completed,
    /// The work failed.
    Failed,
    /// Given back: no try used up.
    Released,
}

/// Leases to renew.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
pub(super) struct RenewRequest {
    /// The tokens.
    #[schemars(length(max = 10_000))]
    leases: Vec<String>,
    /// How long they shall last from now, 1s to 1h; as long as the last time if absent.
    #[schemars(regex(pattern = DURATION_PATTERN))]
    duration: Option<String>,
}

/// What became of each lease.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LeaseResults")]
pub(super) struct ResultsView {
    /// In the order of the request: ok, lease_lost or cancelled.
    results: Vec<&'static str>,
}

/// `POST /v1/leases`: waits for jobs in this request's own future, so that a caller who hangs up
/// drops the wait, and with it gives back what came.
pub(super) async fn lease(
    State(api): State<Shared>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    let received = api.receive(request, Limit::SMALL, &[Media::Json]).await?;
    let (claim, wait) = received.object::<LeaseRequest>()?.claim()?;
    drop(received);
    for (index, queue) in claim.queues.iter().enumerate() {
        let refused = |refused: ApiError| refused.field(format!("queues[{index}]"));
        caller.check_queue(queue).map_err(refused)?;
    }
    api.check_leasable(&claim.queues).await?;
    api.answers.check()?;
    let claimed = tokio::select! {
        biased;
        () = api.draining.cancelled() => return Err(draining()),
        claimed = api.store.claim(claim, wait) => claimed?,
    };
    let handover = Handover::new(api.clone(), claimed.leases());
    let jobs = claimed
        .jobs
        .iter()
        .map(|leased| LeasedView { lease: leased.lease.to_string(), job: (&leased.job).into() });
    let answer = json::answer(StatusCode::OK, &LeasesView { jobs: jobs.collect() });
    // If there is no room the jobs go back, and nobody has used up a try.
    let answer = api.answers.enter().cover_answer(answer)?;
    Ok(answer.map(|body| handover.around(body)))
}

/// The refusal of a daemon that is about to end.
pub(super) fn draining() -> ApiError {
    ApiError::new(Code::Draining, "tallyd is draining; ask again when it is back")
}

/// `POST /v1/leases/finish`
pub(super) async fn finish(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, ApiError> {
    let received = api.receive(request, Limit::BATCH, &[Media::Json]).await?;
    let finishes = batch::items(&received, |text| read_finish(text, &received.text))?;
    let store = api.store.clone();
    let finish = async move { store.finish(finishes).await };
    let (answers, room) = api.write_one(received.room, finish).await?;
    Ok(room.around(results(&answers)))
}

/// `POST /v1/leases/renew`
pub(super) async fn renew(
    State(api): State<Shared>,
    request: Request,
) -> Result<Response, ApiError> {
    // The tokens of 10,000 leases are less than a mebibyte.
    let received = api.receive(request, Limit::SMALL, &[Media::Json]).await?;
    let renewal = received.object::<RenewRequest>()?.renewal()?;
    let store = api.store.clone();
    let renew = async move { store.renew(renewal).await };
    let (answers, room) = api.write_one(received.room, renew).await?;
    Ok(room.around(results(&answers)))
}

fn results(answers: &[LeaseAnswer]) -> Response {
    let name = |answer: &LeaseAnswer| match answer {
        LeaseAnswer::Ok => "ok",
        LeaseAnswer::LeaseLost => "lease_lost",
        LeaseAnswer::Cancelled => "cancelled",
    };
    json::answer(StatusCode::OK, &ResultsView { results: answers.iter().map(name).collect() })
}

impl Api {
    /// Refuses queues that have a runner of their own, or that cannot exist.
    async fn check_leasable(&self, queues: &[String]) -> Result<(), ApiError> {
        for (index, queue) in queues.iter().enumerate() {
            let field = format!("queues[{index}]");
            if !matches!(self.config.runner(queue), Runner::Lease) {
                let message = format!("the daemon itself runs the jobs of queue {queue:?}");
                return Err(ApiError::new(Code::QueueHasRunner, message).field(field));
            }
            if !self.config.strict_queues || self.config.queues.contains_key(queue) {
                continue;
            }
            match self.store.queue(queue).await {
                Ok(_) => {}
                Err(StoreError::NoSuchQueue(queue)) => {
                    let refused = ApiError::from(StoreError::UnconfiguredQueue(queue));
                    return Err(refused.field(field));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl LeaseRequest {
    /// The claim that it means, and how long to wait for it.
    fn claim(self) -> Result<(Claim, Duration), ApiError> {
        if !(1..=MAX_QUEUES).contains(&self.queues.len()) {
            let message = format!("queues must name 1 to {MAX_QUEUES}, got {}", self.queues.len());
            return Err(ApiError::invalid("queues", message));
        }
        let named = |(index, queue)| checked_name(&format!("queues[{index}]"), queue);
        let queues = self.queues.into_iter().enumerate().map(named).collect::<Result<_, _>>()?;
        let max = bounded("max", self.max.unwrap_or(1), &JOBS)?;
        let wait = duration("wait", self.wait.as_deref(), &LONG_POLL)?.unwrap_or_default();
        if let Some(worker) = &self.worker {
            check_length("worker", worker, 1, MAX_WORKER_BYTES)?;
        }
        let claim = Claim {
            queues,
            max,
            max_bytes: MAX_LEASED_BYTES,
            duration: duration("duration", self.duration.as_deref(), &limits::LEASE)?,
            worker: self.worker,
            own: false,
        };
        Ok((claim, wait))
    }
}

impl RenewRequest {
    fn renewal(self) -> Result<Renewal, ApiError> {
        if self.leases.len() > MAX_ITEMS {
            let message = format!("at most {MAX_ITEMS} leases go into one request");
            return Err(ApiError::new(Code::TooManyItems, message).field("leases"));
        }
        let leases = self.leases.iter().map(|text| parse_lease(text)).collect();
        Ok(Renewal {
            leases,
            duration: duration("duration", self.duration.as_deref(), &limits::LEASE)?,
        })
    }
}

/// A lease as a caller writes it. Text that is none becomes one that no job can have, so that the
/// store refuses and counts it like every invented lease.
fn parse_lease(text: &str) -> Lease {
    text.parse().unwrap_or_else(|_| invented_lease())
}

/// A lease of the job with key 0, which would have been created in 1970.
fn invented_lease() -> Lease {
    Lease { job: JobId::new(0, 0), secret: [0; 16] }
}

/// Reads one end of an attempt. `text` is a part of `body`, in which the result stays.
fn read_finish(text: &[u8], body: &Bytes) -> Result<Finish, ApiError> {
    let item: FinishItem<'_> = json::object(text)?;
    item.check_fields()?;
    if let Some(result) = item.result {
        check_report("result", result.get(), Code::ResultTooLarge)?;
        json::check_depth("result", result.get())?;
    }
    if let Some(error) = &item.error {
        check_report("error", error, Code::ErrorTooLong)?;
    }
    let retry_in = duration("retry_in", item.retry_in.as_deref(), &WAIT)?.unwrap_or_default();
    let outcome = match item.outcome.0 {
        OutcomeName::Completed => Outcome::Completed,
        OutcomeName::Failed => {
            Outcome::Failed { permanent: item.permanent.unwrap_or(false), retry_in }
        }
        OutcomeName::Released => Outcome::Released { retry_in },
    };
    Ok(Finish {
        lease: parse_lease(&item.lease),
        outcome,
        result: item.result.map(|result| body.slice_ref(result.get().as_bytes())),
        error: item.error,
    })
}

impl FinishItem<'_> {
    /// Refuses fields that do not belong to the outcome.
    fn check_fields(&self) -> Result<(), ApiError> {
        use OutcomeName::{Completed, Failed, Released};
        let fields: [(&str, bool, &[OutcomeName]); 4] = [
            ("result", self.result.is_some(), &[Completed]),
            ("error", self.error.is_some(), &[Failed]),
            ("retry_in", self.retry_in.is_some(), &[Failed, Released]),
            ("permanent", self.permanent.is_some(), &[Failed]),
        ];
        for (field, given, outcomes) in fields {
            if given && !outcomes.contains(&self.outcome.0) {
                let message = format!("{field} does not go with this outcome; leave it out");
                return Err(ApiError::new(Code::UnknownField, message).field(field));
            }
        }
        Ok(())
    }
}

fn check_report(field: &str, text: &str, code: Code) -> Result<(), ApiError> {
    if text.len() <= MAX_REPORT_BYTES {
        return Ok(());
    }
    let message = format!("{field} may have at most {MAX_REPORT_BYTES} bytes, got {}", text.len());
    Err(ApiError::new(code, message).field(field))
}

#[cfg(test)]
mod tests;
