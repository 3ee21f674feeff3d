//! The names, types, labels and help of everything that tallyd exports.

/// What a series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in cumulative buckets.
    Histogram,
}

impl Type {
    /// The name in the exposition.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One family of series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// The name in the exposition.
    pub name: &'static str,
    /// What its series are.
    pub kind: Type,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// Whether it survives restarts and crashes, in the ledger.
    pub kept: bool,
    /// What it says, in one sentence.
    pub help: &'static str,
}

impl Metric {
    /// Whether a scrape that asks for this name means it: its own, that of OpenMetrics, or that of
    /// one of its samples.
    pub fn is_called(&self, name: &str) -> bool {
        let Some(rest) = name.strip_prefix(self.name) else {
            return self.kind == Type::Counter && self.name.strip_suffix("_total") == Some(name);
        };
        rest.is_empty()
            || self.kind == Type::Histogram && matches!(rest, "_bucket" | "_sum" | "_count")
    }
}

const PAIR: &[&str] = &["queue", "kind"];
const QUEUE: &[&str] = &["queue"];

const fn ledger(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Type::Counter, labels, kept: true, help }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Type::Counter, labels, kept: false, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Type::Gauge, labels, kept: false, help }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Type::Histogram, labels, kept: false, help }
}

macro_rules! catalogue {
    ($($constant:ident = $make:expr;)*) => {
        $(pub(super) const $constant: Metric = $make;)*

        /// All families in the order of the exposition; those of the process come last.
        pub const CATALOGUE: &[Metric] = &[$($constant),*];
    };
}

catalogue! {
    CREATED = ledger("tallyd_jobs_created_total", PAIR, "Jobs created.");
    COMPLETED = ledger("tallyd_jobs_completed_total", PAIR, "Jobs completed.");
    CANCELLED = ledger("tallyd_jobs_cancelled_total", PAIR, "Jobs cancelled.");
    DISCARDED = ledger(
        "tallyd_jobs_discarded_total", PAIR,
        "Dead jobs removed by an operator or by retention."
    );
    RETRIED = ledger("tallyd_jobs_retried_total", PAIR, "Failures that left the job alive.");
    DIED = ledger("tallyd_jobs_died_total", PAIR, "Entries of jobs into dead.");
    REQUEUED = ledger("tallyd_jobs_requeued_total", PAIR, "Dead jobs put back by an operator.");
    JOBS = Metric {
        kind: Type::Gauge,
        ..ledger("tallyd_jobs", &["queue", "kind", "state"], "Jobs now, by state.")
    };
    STARTED = ledger("tallyd_attempts_started_total", PAIR, "Attempts started.");
    ENDED = ledger(
        "tallyd_attempts_ended_total", &["queue", "kind", "result"],
        "Attempts ended, by how they ended."
    );
    ATTEMPT_SECONDS = counter(
        "tallyd_attempt_seconds_total", PAIR,
        "Seconds that ended attempts took, from claim to end."
    );
    LEASES_LOST = ledger(
        "tallyd_leases_lost_total", QUEUE,
        "Finishes and renewals refused because their lease did not stand any more."
    );
    DUPLICATES = ledger(
        "tallyd_duplicates_total", QUEUE,
        "Creates answered with the existing job of their unique key."
    );
    SWEPT = ledger(
        "tallyd_sweeper_jobs_total", &["action"],
        "Jobs that the sweeper promoted, whose lease it expired, or that it pruned."
    );
    WAIT = histogram(
        "tallyd_job_wait_seconds", QUEUE,
        "Seconds that jobs waited from their run_at to their claim."
    );
    ATTEMPT_DURATION = histogram(
        "tallyd_attempt_duration_seconds", QUEUE,
        "Seconds that attempts took from their claim to their end."
    );
    OLDEST_READY = gauge(
        "tallyd_queue_oldest_ready_timestamp_seconds", QUEUE,
        "When the ready job that has waited longest could first run; absent if none is ready."
    );
    PAUSED = gauge("tallyd_queue_paused", QUEUE, "1 if claims from the queue are stopped.");
    WORKERS_LIMIT = gauge(
        "tallyd_queue_workers_limit", QUEUE,
        "Attempts that the daemon may run at once; 0 for queues of outside workers."
    );
    WORKERS_BUSY = gauge("tallyd_queue_workers_busy", QUEUE, "Attempts that the daemon runs now.");
    DEPTH_LIMIT = gauge(
        "tallyd_queue_depth_limit", QUEUE,
        "Waiting jobs that the queue may hold; absent without max_depth."
    );
    REJECTED = counter("tallyd_rejected_total", &["reason"], "Requests refused, by reason.");
    SWEEPER_LAST_RUN = gauge(
        "tallyd_sweeper_last_run_timestamp_seconds", &[],
        "When the sweeper last finished a tick."
    );
    COMMIT_DURATION = histogram(
        "tallyd_store_commit_duration_seconds", &[],
        "Seconds that commits took, from the first operation applied to the end of the sync."
    );
    COMMIT_OPERATIONS = histogram(
        "tallyd_store_commit_operations", &[],
        "Operations that shared a commit."
    );
    STORE_ERRORS = counter("tallyd_store_errors_total", &[], "Failures of the store.");
    STORE_SIZE = gauge("tallyd_store_size_bytes", &[], "Size of the store's file.");
    STORE_WAL = gauge("tallyd_store_wal_size_bytes", &[], "Part of the log that is in use.");
    STORE_FREE = gauge("tallyd_store_free_bytes", &[], "Room on the file system of the store.");
    HTTP_REQUESTS = counter(
        "tallyd_http_requests_total", &["route", "method", "code"],
        "Requests answered, by route template, method and status code; 499 if nobody waited for it."
    );
    HTTP_DURATION = histogram(
        "tallyd_http_request_duration_seconds", &["route"],
        "Seconds from the head of a request to its answer, the wait of long polls included."
    );
    HTTP_CONNECTIONS = gauge("tallyd_http_connections", &[], "Open connections.");
    MISMATCH = gauge(
        "tallyd_tally_mismatch", &[],
        "Jobs by which the ledger differed from the stored jobs at the last recount; must be 0."
    );
    PAIRS = gauge("tallyd_pairs", &[], "Pairs of queue and kind with counts of their own.");
    PAIRS_LIMIT = gauge("tallyd_pairs_limit", &[], "Pairs that may have counts of their own.");
    PAIRS_OVERFLOW = ledger(
        "tallyd_pairs_overflow_jobs_total", &[],
        "Jobs created under __other__ since the limit of pairs was reached."
    );
    BUILD_INFO = gauge(
        "tallyd_build_info", &["version", "revision"],
        "1, labelled by what was built."
    );
    PROCESS_CPU = counter(
        "process_cpu_seconds_total", &[],
        "Total user and system CPU time spent in seconds."
    );
    PROCESS_FDS = gauge("process_open_fds", &[], "Number of open file descriptors.");
    PROCESS_MAX_FDS = gauge("process_max_fds", &[], "Maximum number of open file descriptors.");
    PROCESS_VIRTUAL = gauge("process_virtual_memory_bytes", &[], "Virtual memory size in bytes.");
    PROCESS_RESIDENT = gauge(
        "process_resident_memory_bytes", &[],
        "Resident memory size in bytes."
    );
    PROCESS_START = gauge(
        "process_start_time_seconds", &[],
        "Start time of the process since unix epoch in seconds."
    );
    PROCESS_THREADS = gauge("process_threads", &[], "Number of OS threads in the process.");
}

/// Bucket bounds of every duration, 1 ms to 24 h, so that nothing clamps.
pub(super) const SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0, 300.0, 1_800.0, 7_200.0,
    21_600.0, 86_400.0,
];

/// Bucket bounds of the operations that share a commit, up to the most that may.
pub(super) const OPERATIONS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0];
