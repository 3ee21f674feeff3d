//! Every series tallyd exports; no other file names a Prometheus type.
//!
//! The counts are a projection of the ledger: the writer publishes each committed batch under one
//! short lock, and a scrape copies all numbers under the same lock, so no reading ever mixes two
//! batches. What the ledger does not know (requests, files, the process) is read beside it.

mod catalogue;
mod cut;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod interleavings;
mod process;
mod projection;
mod snapshot;
mod sync {
    pub(super) use std::sync::Mutex;
}
mod text;

pub use catalogue::{CATALOGUE, Metric, Type};
pub use snapshot::{
    HistogramCut, QueueCut, RestFamily, RestSample, RestValue, RowCut, Snapshot, TotalsCut,
};
pub use text::Format;

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use self::cut::Published;
use self::process::Process;
use self::projection::Projection;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::tally::TallyDelta;

const VALID: &str = "the catalogue's names are valid";

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// One job is larger than `max_payload`.
    PayloadTooLarge,
    /// A body is larger than any may be.
    BodyTooLarge,
    /// A name breaks the rule for names.
    InvalidName,
    /// A body is not what the route takes.
    InvalidRequest,
    /// A query value is out of bounds.
    InvalidQuery,
    /// A body is not JSON by its content type.
    UnsupportedMediaType,
    /// The queue has reached its `max_depth`.
    QueueFull,
    /// There are `max_queues` queues.
    TooManyQueues,
    /// The queue must be configured and is not.
    UnknownQueue,
    /// The log is full.
    StoreBusy,
    /// The disk is full.
    DiskFull,
    /// The daemon is draining.
    Draining,
    /// There are too many connections.
    TooManyConnections,
    /// The request is addressed to a host that is not this one.
    UnknownHost,
    /// Too much is asked at once: scrapes, or large bodies.
    ServerBusy,
    /// A head or a body did not come in time, or a listing took too long.
    Timeout,
    /// A web page of another site sent the request.
    CrossSite,
    /// A token is missing, wrong or expired.
    Unauthorized,
    /// A token does not allow what was asked.
    Forbidden,
}

impl Rejected {
    /// All reasons with their label values.
    pub const ALL: [(Self, &'static str); 19] = [
        (Self::PayloadTooLarge, "payload_too_large"),
        (Self::BodyTooLarge, "body_too_large"),
        (Self::InvalidName, "invalid_name"),
        (Self::InvalidRequest, "invalid_request"),
        (Self::InvalidQuery, "invalid_query"),
        (Self::UnsupportedMediaType, "unsupported_media_type"),
        (Self::QueueFull, "queue_full"),
        (Self::TooManyQueues, "too_many_queues"),
        (Self::UnknownQueue, "unknown_queue"),
        (Self::StoreBusy, "store_busy"),
        (Self::DiskFull, "disk_full"),
        (Self::Draining, "draining"),
        (Self::TooManyConnections, "too_many_connections"),
        (Self::UnknownHost, "unknown_host"),
        (Self::ServerBusy, "server_busy"),
        (Self::Timeout, "timeout"),
        (Self::CrossSite, "cross_site"),
        (Self::Unauthorized, "unauthorized"),
        (Self::Forbidden, "forbidden"),
    ];
}

/// The sizes of what the store has on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreFiles {
    /// The store's file.
    pub size_bytes: u64,
    /// The part of its log that is in use.
    pub wal_bytes: u64,
    /// Room on its file system.
    pub free_bytes: u64,
}

/// The metrics of one daemon, in a registry of its own.
pub struct Metrics {
    registry: Registry,
    projection: Arc<Published<Projection>>,
    /// Everything registered beside the projection.
    rest: Vec<Box<dyn Collector>>,
    rejected: Vec<IntCounter>,
    sweeper_last_run: prometheus::Gauge,
    commit_duration: Histogram,
    commit_operations: Histogram,
    store_errors: IntCounter,
    store_size: IntGauge,
    store_wal: IntGauge,
    store_free: IntGauge,
    http_requests: IntCounterVec,
    http_duration: HistogramVec,
    http_connections: IntGauge,
    mismatch: IntGauge,
}

/// Registers what is not a projection, and keeps a handle to read it by.
struct Registration {
    registry: Registry,
    rest: Vec<Box<dyn Collector>>,
}

impl Registration {
    fn add<C: Collector + Clone + 'static>(&mut self, collector: prometheus::Result<C>) -> C {
        let collector = collector.expect(VALID);
        self.registry.register(Box::new(collector.clone())).expect("each name is registered once");
        self.rest.push(Box::new(collector.clone()));
        collector
    }
}

fn opts(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn histogram_opts(metric: &Metric, bounds: &[f64]) -> HistogramOpts {
    HistogramOpts::new(metric.name, metric.help).buckets(bounds.to_vec())
}

impl Metrics {
    /// Registers everything; counts begin with [`Metrics::restore`].
    pub fn new(config: Arc<Config>) -> Self {
        use catalogue as c;
        let mut all = Registration { registry: Registry::new(), rest: Vec::new() };
        let gauge = |metric: &Metric| IntGauge::with_opts(opts(metric));
        let rejected_by = all.add(IntCounterVec::new(opts(&c::REJECTED), c::REJECTED.labels));
        let info = all.add(IntGaugeVec::new(opts(&c::BUILD_INFO), c::BUILD_INFO.labels));
        info.with_label_values(&[env!("CARGO_PKG_VERSION"), env!("TALLYD_REVISION")]).set(1);
        let limit = all.add(gauge(&c::PAIRS_LIMIT));
        limit.set(i64::try_from(config.max_pairs).unwrap_or(i64::MAX));
        let requests = IntCounterVec::new(opts(&c::HTTP_REQUESTS), c::HTTP_REQUESTS.labels);
        let duration = histogram_opts(&c::HTTP_DURATION, c::SECONDS);
        let projection = Arc::new(Published::new(Projection::new(config)));
        let projected =
            Projected { projection: projection.clone(), descriptions: projection::descriptions() };
        all.registry.register(Box::new(projected)).expect("each name is registered once");
        all.add(Ok(Process::new()));
        Self {
            rejected: Rejected::ALL
                .iter()
                .map(|(_, reason)| rejected_by.with_label_values(&[reason]))
                .collect(),
            sweeper_last_run: all.add(prometheus::Gauge::with_opts(opts(&c::SWEEPER_LAST_RUN))),
            commit_duration: all
                .add(Histogram::with_opts(histogram_opts(&c::COMMIT_DURATION, c::SECONDS))),
            commit_operations: all
                .add(Histogram::with_opts(histogram_opts(&c::COMMIT_OPERATIONS, c::OPERATIONS))),
            store_errors: all.add(IntCounter::with_opts(opts(&c::STORE_ERRORS))),
            store_size: all.add(gauge(&c::STORE_SIZE)),
            store_wal: all.add(gauge(&c::STORE_WAL)),
            store_free: all.add(gauge(&c::STORE_FREE)),
            http_requests: all.add(requests),
            http_duration: all.add(HistogramVec::new(duration, c::HTTP_DURATION.labels)),
            http_connections: all.add(gauge(&c::HTTP_CONNECTIONS)),
            mismatch: all.add(gauge(&c::MISMATCH)),
            projection,
            registry: all.registry,
            rest: all.rest,
        }
    }

    /// Begins the counts with what the ledger holds.
    pub fn restore(&self, ledger: &TallyDelta) {
        self.apply(ledger);
    }

    fn apply(&self, batch: &TallyDelta) {
        self.projection.publish(|all| all.apply(batch));
    }

    /// Adds what a committed batch changed. Called once per commit, by the writer only.
    pub fn publish(&self, batch: &TallyDelta, operations: usize, seconds: f64) {
        self.apply(batch);
        self.commit_duration.observe(seconds);
        self.commit_operations.observe(operations as f64);
    }

    /// One consistent reading, as owned numbers. Encoding happens outside the lock.
    pub fn snapshot(&self) -> Snapshot {
        let (rows, queues, totals) = self.projection.cut(Projection::cut);
        let rest = self.rest.iter().flat_map(|collector| RestFamily::read(&**collector));
        Snapshot { rows, queues, totals, rest: rest.collect() }
    }

    /// The same through the registry.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// Counts a refused request.
    pub fn rejected(&self, reason: Rejected) {
        self.rejected[reason as usize].inc();
    }

    /// Counts a failure of the store.
    pub fn store_error(&self) {
        self.store_errors.inc();
    }

    /// Sets the sizes of the store's files.
    pub fn set_store_files(&self, files: StoreFiles) {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.store_size.set(number(files.size_bytes));
        self.store_wal.set(number(files.wal_bytes));
        self.store_free.set(number(files.free_bytes));
    }

    /// Sets when the sweeper last finished a tick.
    pub fn set_sweeper_last_run(&self, at: Timestamp) {
        self.sweeper_last_run.set(at.seconds());
    }

    /// Sets what the last recount found.
    pub fn set_tally_mismatch(&self, jobs: i64) {
        self.mismatch.set(jobs);
    }

    /// Changes how many attempts the daemon runs in a queue.
    pub fn add_workers_busy(&self, queue: &str, change: i64) {
        self.projection.publish(|all| all.add_busy(queue, change));
    }

    /// Counts a request: its route template, its method if it is a known one, its status code.
    pub fn http_request(&self, route: &str, method: &str, code: u16, seconds: f64) {
        self.http_requests.with_label_values(&[route, method, &code.to_string()]).inc();
        self.http_duration.with_label_values(&[route]).observe(seconds);
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn http_connection(&self) -> ConnectionGuard {
        self.http_connections.inc();
        ConnectionGuard(self.http_connections.clone())
    }
}

impl Snapshot {
    /// All of it in the text format 0.0.4.
    pub fn to_text(&self) -> String {
        self.encode(Format::Text, |_| true)
    }

    /// The families that are wanted.
    pub fn encode(&self, format: Format, is_wanted: impl Fn(&Metric) -> bool) -> String {
        text::encode(self, format, is_wanted)
    }
}

/// An open connection.
pub struct ConnectionGuard(IntGauge);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The projection as the registry sees it: one collector, so that a gather is one cut as well.
struct Projected {
    projection: Arc<Published<Projection>>,
    descriptions: Vec<Desc>,
}

impl Collector for Projected {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.projection.cut(Projection::collect)
    }
}

#[cfg(test)]
mod tests;
