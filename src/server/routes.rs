//! The table of routes, which the router and the API's description are both made of.

use std::convert::Infallible;

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::auth::Needs;
use super::backups::{self, BackupView};
use super::body::Media;
use super::error::{ApiError, Code};
use super::job_request::CreateJob;
use super::job_view::JobView;
use super::jobs::{BatchView, CreatedView, Nothing, PageView};
use super::leases::{FinishItem, LeaseRequest, LeasesView, RenewRequest, ResultsView};
use super::pages::MetricsQuery;
use super::query::ListQuery;
use super::queues::{BulkRequest, BulkView, QueueView, QueuesView};
use super::stats::StatsView;
use super::{Routes, Shared, accept, gate, jobs, leases, pages, queues, stats};

/// One route: how it is called, what it does, what it takes and answers.
pub(super) struct Route {
    pub(super) method: Method,
    /// As axum and OpenAPI both write it; also its label in metrics.
    pub(super) path: &'static str,
    /// The name of the operation, for generated clients.
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    pub(super) query: Option<SchemaOf>,
    pub(super) takes: Vec<(Media, SchemaOf)>,
    pub(super) answers: Vec<(u16, Option<Content>)>,
    /// The refusals that are its own, beside those of every route and every body.
    pub(super) refusals: &'static [Code],
    /// Those of the part of the store that it asks.
    pub(super) store: &'static [Code],
    /// What its callers need.
    pub(super) needs: Needs,
    handler: MethodRouter<Shared, Infallible>,
}

/// What generates the schema of a type.
pub(super) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// What an answer holds.
pub(super) struct Content {
    pub(super) media: &'static str,
    pub(super) schema: SchemaOf,
}

impl Route {
    fn new<T: 'static>(
        method: Method,
        path: &'static str,
        name: &'static str,
        summary: &'static str,
        handler: impl Handler<T, Shared>,
    ) -> Self {
        let filter = MethodFilter::try_from(method.clone()).expect("the table has usual methods");
        Self {
            method,
            path,
            name,
            summary,
            query: None,
            takes: Vec::new(),
            answers: Vec::new(),
            refusals: &[],
            store: &[],
            needs: Needs::OPERATORS,
            handler: on(filter, handler),
        }
    }

    fn takes<T: JsonSchema>(mut self, media: Media) -> Self {
        self.takes.push((media, SchemaGenerator::subschema_for::<T>));
        self
    }

    fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(SchemaGenerator::subschema_for::<T>);
        self
    }

    fn answers<T: JsonSchema>(self, code: u16) -> Self {
        self.answers_as::<T>(code, Media::Json.name())
    }

    fn answers_as<T: JsonSchema>(mut self, code: u16, media: &'static str) -> Self {
        let schema = SchemaGenerator::subschema_for::<T>;
        self.answers.push((code, Some(Content { media, schema })));
        self
    }

    fn answers_nothing(mut self) -> Self {
        self.answers.push((204, None));
        self
    }

    fn needs(mut self, needs: Needs) -> Self {
        self.needs = needs;
        self
    }

    /// Asks the writer of the store, also if nothing is changed.
    fn writes(mut self) -> Self {
        self.store = WRITER;
        self
    }

    /// Asks both.
    fn reads_and_writes(mut self) -> Self {
        self.store = READERS_AND_WRITER;
        self
    }

    /// Asks the readers of the store.
    fn reads(mut self) -> Self {
        self.store = READERS;
        self
    }

    fn refuses(mut self, codes: &'static [Code]) -> Self {
        self.refusals = codes;
        self
    }
}

/// What may be wrong with the store when something is to be written.
const WRITER: &[Code] = &[Code::StoreBusy, Code::DiskFull, Code::StoreStopped];

/// The same when jobs are read.
const READERS: &[Code] =
    &[Code::TooSlow, Code::JobDamaged, Code::StoreUnreadable, Code::StoreStopped];

/// The same when a job is read before something is done to it.
const READERS_AND_WRITER: &[Code] = &[
    Code::StoreBusy,
    Code::DiskFull,
    Code::TooSlow,
    Code::JobDamaged,
    Code::StoreUnreadable,
    Code::StoreStopped,
];

/// What may be wrong with a job that is to be created.
const CREATE: &[Code] = &[
    Code::InvalidName,
    Code::JsonTooDeep,
    Code::JobTooLarge,
    Code::TooManyQueues,
    Code::QueueNotConfigured,
    Code::QueueFull,
    Code::JobDamaged,
];

/// As [`CREATE`], and there may be too many.
const CREATE_MANY: &[Code] = &[
    Code::InvalidName,
    Code::JsonTooDeep,
    Code::JobTooLarge,
    Code::TooManyItems,
    Code::TooManyQueues,
    Code::QueueNotConfigured,
    Code::QueueFull,
    Code::JobDamaged,
];

/// What may be wrong with a queue that is named in the path.
const QUEUE: &[Code] = &[Code::InvalidName, Code::QueueNotFound];

/// The routes, in the order in which people should read them.
pub(super) fn table() -> Vec<Route> {
    let mut table = job_routes();
    table.extend(one_job_routes());
    table.extend(queue_routes());
    table.extend(lease_routes());
    table.push(backup_route());
    table.extend(page_routes());
    table
}

fn job_routes() -> Vec<Route> {
    vec![
        Route::new(Method::POST, "/v1/jobs", "createJob", "creates a job", jobs::create)
            .needs(Needs::CREATORS)
            .takes::<CreateJob>(Media::Json)
            .answers::<CreatedView>(201)
            .answers::<CreatedView>(200)
            .refuses(CREATE)
            .writes(),
        Route::new(
            Method::POST,
            "/v1/jobs/batch",
            "createJobs",
            "creates many jobs, all or none",
            jobs::create_batch,
        )
        .needs(Needs::CREATORS)
        .takes::<Vec<CreateJob>>(Media::Json)
        .takes::<CreateJob>(Media::NdJson)
        .answers::<BatchView>(201)
        .refuses(CREATE_MANY)
        .writes(),
        Route::new(Method::GET, "/v1/jobs", "listJobs", "lists jobs, newest first", jobs::list)
            .needs(Needs::READERS_OF_JOBS)
            .query::<ListQuery>()
            .answers::<PageView>(200)
            .refuses(&[Code::ServerBusy])
            .reads(),
        Route::new(Method::GET, "/v1/jobs/{id}", "showJob", "shows a job", jobs::show)
            .needs(Needs::READERS_OF_JOBS)
            .answers::<JobView>(200)
            .refuses(&[Code::JobNotFound, Code::ServerBusy])
            .reads(),
    ]
}

/// What is done to one job that exists.
fn one_job_routes() -> [Route; 3] {
    const ONE: &[Code] = &[Code::JobNotFound, Code::InvalidState];
    const REQUEUE: &[Code] = &[Code::JobNotFound, Code::InvalidState, Code::UniqueKeyHeld];
    [
        Route::new(
            Method::POST,
            "/v1/jobs/{id}/cancel",
            "cancelJob",
            "cancels a job that has not ended",
            jobs::cancel,
        )
        .needs(Needs::CREATORS)
        .takes::<Nothing>(Media::Json)
        .answers::<JobView>(200)
        .refuses(ONE)
        .reads_and_writes(),
        Route::new(
            Method::POST,
            "/v1/jobs/{id}/requeue",
            "requeueJob",
            "puts a dead job back",
            jobs::requeue,
        )
        .needs(Needs::OPERATORS)
        .takes::<Nothing>(Media::Json)
        .answers::<JobView>(200)
        .refuses(REQUEUE)
        .reads_and_writes(),
        Route::new(
            Method::DELETE,
            "/v1/jobs/{id}",
            "discardJob",
            "removes a dead job",
            jobs::discard,
        )
        .needs(Needs::OPERATORS)
        .answers_nothing()
        .refuses(ONE)
        .reads_and_writes(),
    ]
}

fn queue_routes() -> Vec<Route> {
    const ONE: &str = "/v1/queues/{queue}";
    const FORGET: &[Code] =
        &[Code::InvalidName, Code::QueueNotFound, Code::QueueNotEmpty, Code::QueueConfigured];
    let mut routes = vec![
        Route::new(Method::GET, "/v1/queues", "listQueues", "lists queues", queues::list)
            .needs(Needs::READERS_OF_QUEUES)
            .answers::<QueuesView>(200)
            .refuses(&[Code::ServerBusy])
            .writes(),
        Route::new(Method::GET, ONE, "showQueue", "shows a queue", queues::show)
            .needs(Needs::READERS_OF_QUEUES)
            .answers::<QueueView>(200)
            .refuses(QUEUE)
            .writes(),
        Route::new(Method::DELETE, ONE, "forgetQueue", "forgets an empty queue", queues::forget)
            .needs(Needs::OPERATORS)
            .answers_nothing()
            .refuses(FORGET)
            .writes(),
        Route::new(
            Method::POST,
            "/v1/queues/{queue}/pause",
            "pauseQueue",
            "stops claims from a queue",
            queues::pause,
        )
        .needs(Needs::OPERATORS)
        .takes::<Nothing>(Media::Json)
        .answers::<QueueView>(200)
        .refuses(QUEUE)
        .writes(),
        Route::new(
            Method::POST,
            "/v1/queues/{queue}/resume",
            "resumeQueue",
            "allows claims from a queue again",
            queues::resume,
        )
        .needs(Needs::OPERATORS)
        .takes::<Nothing>(Media::Json)
        .answers::<QueueView>(200)
        .refuses(QUEUE)
        .writes(),
    ];
    routes.extend(bulk_routes());
    routes
}

fn bulk_routes() -> [Route; 3] {
    let cancel = Route::new(
        Method::POST,
        "/v1/queues/{queue}/cancel",
        "cancelJobs",
        "cancels many jobs of a queue",
        queues::cancel_many,
    );
    let requeue = Route::new(
        Method::POST,
        "/v1/queues/{queue}/requeue-dead",
        "requeueDeadJobs",
        "puts many dead jobs back",
        queues::requeue_dead,
    );
    let discard = Route::new(
        Method::POST,
        "/v1/queues/{queue}/discard-dead",
        "discardDeadJobs",
        "removes many dead jobs",
        queues::discard_dead,
    );
    [cancel, requeue, discard].map(|route| {
        route
            .needs(Needs::OPERATORS)
            .takes::<BulkRequest>(Media::Json)
            .answers::<BulkView>(200)
            .refuses(QUEUE)
            .writes()
    })
}

fn lease_routes() -> Vec<Route> {
    const LEASE: &[Code] =
        &[Code::InvalidName, Code::QueueNotConfigured, Code::QueueHasRunner, Code::Draining];
    const FINISH: &[Code] =
        &[Code::ResultTooLarge, Code::ErrorTooLong, Code::JsonTooDeep, Code::TooManyItems];
    vec![
        Route::new(
            Method::POST,
            "/v1/leases",
            "leaseJobs",
            "leases ready jobs to a worker, and waits for them if asked to",
            leases::lease,
        )
        .needs(Needs::WORKERS)
        .takes::<LeaseRequest>(Media::Json)
        .answers::<LeasesView>(200)
        .refuses(LEASE)
        .writes(),
        Route::new(
            Method::POST,
            "/v1/leases/finish",
            "finishJobs",
            "ends attempts: completed, failed or released",
            leases::finish,
        )
        .needs(Needs::WORKERS)
        .takes::<Vec<FinishItem>>(Media::Json)
        .answers::<ResultsView>(200)
        .refuses(FINISH)
        .writes(),
        Route::new(
            Method::POST,
            "/v1/leases/renew",
            "renewLeases",
            "makes leases last longer",
            leases::renew,
        )
        .needs(Needs::WORKERS)
        .takes::<RenewRequest>(Media::Json)
        .answers::<ResultsView>(200)
        .refuses(&[Code::TooManyItems])
        .writes(),
    ]
}

fn backup_route() -> Route {
    const BACKUP: &[Code] =
        &[Code::NoBackupDir, Code::BackupRunning, Code::BackupFailed, Code::Draining];
    Route::new(
        Method::POST,
        "/v1/backup",
        "writeBackup",
        "writes a copy of the store into backup_dir",
        backups::write,
    )
    .needs(Needs::OPERATORS_OF_ALL)
    .takes::<Nothing>(Media::Json)
    .answers::<BackupView>(200)
    .refuses(BACKUP)
    .writes()
}

fn page_routes() -> Vec<Route> {
    vec![
        Route::new(Method::GET, "/v1/stats", "showStats", "all counts, in one cut", stats::show)
            .needs(Needs::READERS_OF_COUNTS)
            .answers::<StatsView>(200)
            .refuses(&[Code::ServerBusy]),
        Route::new(Method::GET, METRICS, "showMetrics", "for Prometheus", pages::exposition)
            .needs(Needs::READERS_OF_COUNTS)
            .query::<MetricsQuery>()
            .answers_as::<String>(200, accept::TEXT)
            .answers_as::<String>(200, accept::OPEN_METRICS[0])
            .answers_as::<String>(200, accept::OPEN_METRICS[1])
            .refuses(&[Code::ServerBusy]),
        Route::new(Method::GET, gate::HEALTH[0], "isHealthy", "whether it serves", pages::healthy)
            .needs(Needs::Nothing)
            .answers_as::<String>(200, pages::TEXT)
            .refuses(&[Code::StoreStopped]),
        Route::new(Method::GET, gate::HEALTH[1], "isReady", "whether it takes work", pages::ready)
            .needs(Needs::Nothing)
            .answers_as::<String>(200, pages::TEXT)
            .refuses(&[Code::Draining, Code::StoreStopped]),
        Route::new(
            Method::GET,
            "/openapi.json",
            "describe",
            "the description of this API",
            pages::description,
        )
        .needs(Needs::Token)
        .answers::<serde_json::Value>(200),
        Route::new(Method::GET, "/", "land", "this page", pages::landing)
            .needs(Needs::Token)
            .answers_as::<String>(200, pages::HTML),
    ]
}

/// The exposition's path, which may have a listener of its own.
const METRICS: &str = "/metrics";

impl Routes {
    /// Whether the route is one of these.
    fn has(self, path: &str) -> bool {
        match self {
            Self::Whole => true,
            Self::WithoutMetrics => path != METRICS,
            Self::MetricsOnly => path == METRICS || gate::HEALTH.contains(&path),
        }
    }
}

/// The routes of one listener, behind the gate.
pub(super) fn router(api: Shared, has: Routes) -> Router {
    table()
        .into_iter()
        .filter(|route| has.has(route.path))
        .fold(Router::new(), |router, route| router.route(route.path, route.handler))
        .fallback(no_route)
        .method_not_allowed_fallback(other_method)
        .layer(from_fn_with_state(api.clone(), gate::pass))
        .with_state(api)
}

async fn no_route(State(api): State<Shared>, uri: Uri, request: Request) -> ApiError {
    api.read_away(request).await;
    let message = format!("there is no route {:?}; GET / lists them", uri.path());
    ApiError::new(Code::RouteNotFound, message)
}

async fn other_method(State(api): State<Shared>, method: Method, request: Request) -> ApiError {
    api.read_away(request).await;
    let message = format!("{method} is not for this route; the allow header says what is");
    ApiError::new(Code::MethodNotAllowed, message)
}

#[cfg(test)]
mod tests;
