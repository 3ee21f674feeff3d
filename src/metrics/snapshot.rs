//! One consistent reading of all series, as owned numbers.

use std::sync::Arc;

use prometheus::Histogram;
use prometheus::core::{Collector, Metric as _};
use prometheus::proto::MetricFamily;

use crate::tally::{Counts, Observation};

/// Everything that one scrape says. Nothing in it can change the series it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The rows of the ledger in the order of their numbers.
    pub rows: Vec<RowCut>,
    /// The queues by name, then all others.
    pub queues: Vec<QueueCut>,
    /// What is counted for the whole store.
    pub totals: TotalsCut,
    /// What the ledger does not know: requests, files, the process.
    pub rest: Vec<RestFamily>,
}

/// One row of the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct RowCut {
    /// The queue's name, or `__other__`.
    pub queue: Arc<str>,
    /// The kind's name, or `__other__`.
    pub kind: Arc<str>,
    /// Its 19 series; what was pruned is not among them and reads 0.
    pub counts: Counts,
    /// Seconds that ended attempts took.
    pub attempt_seconds: f64,
}

/// One queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueCut {
    /// Its name, or `__other__`.
    pub queue: Arc<str>,
    /// Finishes and renewals refused.
    pub leases_lost: u64,
    /// Creates answered with an existing job.
    pub duplicates: u64,
    /// Seconds from `run_at` to claim.
    pub wait: HistogramCut,
    /// Seconds from claim to end.
    pub duration: HistogramCut,
    /// When the ready job that has waited longest could first run.
    pub oldest_ready: Option<f64>,
    /// 1 if claims are stopped.
    pub paused: i64,
    /// Attempts that the daemon may run at once.
    pub workers_limit: i64,
    /// Attempts that the daemon runs now.
    pub workers_busy: i64,
    /// Waiting jobs that it may hold.
    pub depth_limit: Option<i64>,
}

/// What is counted for the whole store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TotalsCut {
    /// Jobs that the sweeper made ready.
    pub promoted: u64,
    /// Attempts that the sweeper ended.
    pub expired: u64,
    /// Jobs that the sweeper removed.
    pub pruned: u64,
    /// Jobs created under `__other__`.
    pub overflow_jobs: u64,
    /// Pairs with counts of their own.
    pub pairs: i64,
}

/// A histogram's numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramCut {
    /// Upper bounds with the observations up to them, without the infinite one.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all observations.
    pub sum: f64,
    /// How many there are.
    pub count: u64,
    /// Of each bucket, the infinite one included, what it counted last; empty if nothing is kept.
    pub exemplars: Vec<Option<Observation>>,
}

impl HistogramCut {
    pub(super) fn of(histogram: &Histogram, exemplars: &[Option<Observation>]) -> Self {
        let cut = Self::read(histogram.metric().get_histogram());
        Self { exemplars: exemplars.to_vec(), ..cut }
    }

    fn read(histogram: &prometheus::proto::Histogram) -> Self {
        let finite =
            histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
        Self {
            buckets: finite.map(|b| (b.upper_bound(), b.cumulative_count())).collect(),
            sum: histogram.get_sample_sum(),
            count: histogram.get_sample_count(),
            exemplars: Vec::new(),
        }
    }
}

/// A family that is not a projection of the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct RestFamily {
    /// Its name.
    pub name: String,
    /// Its series.
    pub samples: Vec<RestSample>,
}

/// One series of such a family.
#[derive(Debug, Clone, PartialEq)]
pub struct RestSample {
    /// Names and values of its labels.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: RestValue,
}

/// What a series says.
#[derive(Debug, Clone, PartialEq)]
pub enum RestValue {
    /// A counter's or gauge's number.
    Number(f64),
    /// A histogram's numbers.
    Histogram(HistogramCut),
}

impl RestFamily {
    pub(super) fn read(collector: &dyn Collector) -> Vec<Self> {
        collector.collect().iter().map(Self::of).collect()
    }

    fn of(family: &MetricFamily) -> Self {
        use prometheus::proto::MetricType;
        let samples = family.get_metric().iter().map(|metric| {
            let labels = metric.get_label();
            let value = match family.get_field_type() {
                MetricType::COUNTER => RestValue::Number(metric.get_counter().get_value()),
                MetricType::HISTOGRAM => {
                    RestValue::Histogram(HistogramCut::read(metric.get_histogram()))
                }
                _ => RestValue::Number(metric.get_gauge().get_value()),
            };
            RestSample {
                labels: labels
                    .iter()
                    .map(|l| (l.name().to_owned(), l.value().to_owned()))
                    .collect(),
                value,
            }
        });
        Self { name: family.name().to_owned(), samples: samples.collect() }
    }
}
