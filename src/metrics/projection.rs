//! The ledger as series: one set for each row, one for each queue, behind one lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Histogram, HistogramOpts, IntCounter, IntGauge, Opts};

use super::catalogue::{self, Metric, SECONDS};
use super::snapshot::{HistogramCut, QueueCut, RowCut, TotalsCut};
use crate::clock::Timestamp;
use crate::config::{Config, Runner};
use crate::job::{AttemptResult, State};
use crate::tally::{Count, Counts, OTHER, Observation, QueueDelta, RowId, TallyDelta};

/// The metric of a count, and its third label if it has one; the two pruned counts have no series.
pub(super) fn metric_of(count: Count) -> Option<(&'static Metric, Option<&'static str>)> {
    let state = |state: State| Some((&catalogue::JOBS, Some(state.name())));
    let ended = |result: AttemptResult| Some((&catalogue::ENDED, Some(result.name())));
    match count {
        Count::Created => Some((&catalogue::CREATED, None)),
        Count::Completed => Some((&catalogue::COMPLETED, None)),
        Count::Cancelled => Some((&catalogue::CANCELLED, None)),
        Count::Discarded => Some((&catalogue::DISCARDED, None)),
        Count::Retried => Some((&catalogue::RETRIED, None)),
        Count::Died => Some((&catalogue::DIED, None)),
        Count::Requeued => Some((&catalogue::REQUEUED, None)),
        Count::Started => Some((&catalogue::STARTED, None)),
        Count::Scheduled => state(State::Scheduled),
        Count::Ready => state(State::Ready),
        Count::Retrying => state(State::Retrying),
        Count::Running => state(State::Running),
        Count::Dead => state(State::Dead),
        Count::EndedCompleted => ended(AttemptResult::Completed),
        Count::EndedFailed => ended(AttemptResult::Failed),
        Count::EndedTimedOut => ended(AttemptResult::TimedOut),
        Count::EndedLeaseExpired => ended(AttemptResult::LeaseExpired),
        Count::EndedReleased => ended(AttemptResult::Released),
        Count::EndedCancelled => ended(AttemptResult::Cancelled),
        Count::PrunedCompleted | Count::PrunedCancelled => None,
    }
}

/// A registered counter or gauge with its labels fixed, so that no vector hashes them.
fn opts(metric: &Metric, labels: &[(&str, &str)]) -> Opts {
    labels.iter().fold(Opts::new(metric.name, metric.help), |opts, (name, value)| {
        opts.const_label(*name, *value)
    })
}

/// A histogram of a queue's attempts, and of each bucket the one that it counted last.
struct Durations {
    histogram: Histogram,
    exemplars: Vec<Option<Observation>>,
}

impl Durations {
    fn new(metric: &Metric, queue: &str) -> Self {
        let opts = HistogramOpts::new(metric.name, metric.help).const_label("queue", queue);
        let histogram = Histogram::with_opts(opts.buckets(SECONDS.to_vec())).expect(VALID);
        Self { histogram, exemplars: vec![None; SECONDS.len() + 1] }
    }

    fn observe(&mut self, observation: &Observation) {
        self.histogram.observe(observation.seconds);
        let bucket = SECONDS.partition_point(|bound| *bound < observation.seconds);
        self.exemplars[bucket] = Some(*observation);
    }

    fn cut(&self) -> HistogramCut {
        HistogramCut::of(&self.histogram, &self.exemplars)
    }
}

const VALID: &str = "the catalogue's names are valid";

enum Series {
    Counter(IntCounter),
    Gauge(IntGauge),
}

impl Series {
    fn new(metric: &Metric, labels: &[(&str, &str)]) -> Self {
        let opts = opts(metric, labels);
        match metric.kind {
            catalogue::Type::Counter => Self::Counter(IntCounter::with_opts(opts).expect(VALID)),
            _ => Self::Gauge(IntGauge::with_opts(opts).expect(VALID)),
        }
    }

    fn add(&self, change: i64) {
        match self {
            Self::Counter(counter) => {
                counter.inc_by(u64::try_from(change).expect("counters only go up"));
            }
            Self::Gauge(gauge) => gauge.add(change),
        }
    }

    fn get(&self) -> i64 {
        match self {
            Self::Counter(counter) => counter.get().cast_signed(),
            Self::Gauge(gauge) => gauge.get(),
        }
    }

    fn collect(&self) -> Vec<MetricFamily> {
        match self {
            Self::Counter(counter) => counter.collect(),
            Self::Gauge(gauge) => gauge.collect(),
        }
    }
}

/// The series of one row of the ledger.
struct RowSeries {
    queue: Arc<str>,
    kind: Arc<str>,
    counts: Vec<(Count, Series)>,
    attempt_seconds: Counter,
}

impl RowSeries {
    fn new(queue: Arc<str>, kind: Arc<str>) -> Self {
        let series = |(count, _): (Count, &str)| {
            let (metric, third) = metric_of(count)?;
            let mut labels = vec![("queue", &*queue), ("kind", &*kind)];
            labels.extend(third.map(|value| (metric.labels[2], value)));
            Some((count, Series::new(metric, &labels)))
        };
        let counts = Count::ALL.into_iter().filter_map(series).collect();
        let labels = [("queue", &*queue), ("kind", &*kind)];
        let attempt_seconds = Counter::with_opts(opts(&catalogue::ATTEMPT_SECONDS, &labels));
        Self { attempt_seconds: attempt_seconds.expect(VALID), counts, queue, kind }
    }

    fn cut(&self) -> RowCut {
        let mut counts = Counts::default();
        for (count, series) in &self.counts {
            counts[*count] = series.get();
        }
        RowCut {
            queue: self.queue.clone(),
            kind: self.kind.clone(),
            counts,
            attempt_seconds: self.attempt_seconds.get(),
        }
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let counts = self.counts.iter().flat_map(|(_, series)| series.collect());
        counts.chain(self.attempt_seconds.collect()).collect()
    }
}

/// The series of one queue.
struct QueueSeries {
    name: Arc<str>,
    leases_lost: IntCounter,
    duplicates: IntCounter,
    wait: Durations,
    duration: Durations,
    oldest_ready: Gauge,
    has_ready: bool,
    paused: IntGauge,
    workers_limit: IntGauge,
    workers_busy: IntGauge,
    depth_limit: Option<IntGauge>,
}

impl QueueSeries {
    fn new(name: Arc<str>, config: &Config) -> Self {
        let labels = [("queue", &*name)];
        let counter = |metric| IntCounter::with_opts(opts(metric, &labels)).expect(VALID);
        let gauge = |metric| IntGauge::with_opts(opts(metric, &labels)).expect(VALID);
        let workers_limit = gauge(&catalogue::WORKERS_LIMIT);
        if let Some(queue) = config.queues.get(&*name)
            && queue.runner != Runner::Lease
        {
            workers_limit.set(queue.concurrency.into());
        }
        let depth_limit = config.policy(&name).max_depth.filter(|_| &*name != OTHER).map(|limit| {
            let depth_limit = gauge(&catalogue::DEPTH_LIMIT);
            depth_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
            depth_limit
        });
        Self {
            leases_lost: counter(&catalogue::LEASES_LOST),
            duplicates: counter(&catalogue::DUPLICATES),
            wait: Durations::new(&catalogue::WAIT, &name),
            duration: Durations::new(&catalogue::ATTEMPT_DURATION, &name),
            oldest_ready: Gauge::with_opts(opts(&catalogue::OLDEST_READY, &labels)).expect(VALID),
            has_ready: false,
            paused: gauge(&catalogue::PAUSED),
            workers_limit,
            workers_busy: gauge(&catalogue::WORKERS_BUSY),
            depth_limit,
            name,
        }
    }

    fn count(&self, leases_lost: i64, duplicates: i64) {
        let up = |change: i64| u64::try_from(change).expect("counters only go up");
        self.leases_lost.inc_by(up(leases_lost));
        self.duplicates.inc_by(up(duplicates));
    }

    fn observe(&mut self, delta: &QueueDelta) {
        delta.waits.iter().for_each(|wait| self.wait.observe(wait));
        delta.durations.iter().for_each(|(_, duration)| self.duration.observe(duration));
    }

    fn set_oldest(&mut self, oldest: Option<Timestamp>) {
        self.has_ready = oldest.is_some();
        self.oldest_ready.set(oldest.map_or(0.0, Timestamp::seconds));
    }

    fn cut(&self) -> QueueCut {
        QueueCut {
            queue: self.name.clone(),
            leases_lost: self.leases_lost.get(),
            duplicates: self.duplicates.get(),
            wait: self.wait.cut(),
            duration: self.duration.cut(),
            oldest_ready: self.has_ready.then(|| self.oldest_ready.get()),
            paused: self.paused.get(),
            workers_limit: self.workers_limit.get(),
            workers_busy: self.workers_busy.get(),
            depth_limit: self.depth_limit.as_ref().map(IntGauge::get),
        }
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.leases_lost.collect();
        families.extend(self.duplicates.collect());
        families.extend(self.wait.histogram.collect());
        families.extend(self.duration.histogram.collect());
        families.extend(self.oldest_ready.collect().into_iter().filter(|_| self.has_ready));
        families.extend(self.paused.collect());
        families.extend(self.workers_limit.collect());
        families.extend(self.workers_busy.collect());
        families.extend(self.depth_limit.iter().flat_map(Collector::collect));
        families
    }
}

/// Everything that a commit changes at once and a scrape reads at once.
pub(super) struct Projection {
    rows: BTreeMap<RowId, RowSeries>,
    queues: BTreeMap<Arc<str>, QueueSeries>,
    /// The queues that have no series of their own, and their oldest ready jobs.
    others: HashMap<Arc<str>, Option<Timestamp>>,
    other: QueueSeries,
    promoted: IntCounter,
    expired: IntCounter,
    pruned: IntCounter,
    overflow_jobs: IntCounter,
    pairs: IntGauge,
    config: Arc<Config>,
}

impl Projection {
    pub(super) fn new(config: Arc<Config>) -> Self {
        let swept = |action| {
            IntCounter::with_opts(opts(&catalogue::SWEPT, &[("action", action)])).expect(VALID)
        };
        let overflow_jobs = IntCounter::with_opts(opts(&catalogue::PAIRS_OVERFLOW, &[]));
        Self {
            rows: BTreeMap::new(),
            queues: BTreeMap::new(),
            others: HashMap::new(),
            other: QueueSeries::new(Arc::from(OTHER), &config),
            promoted: swept("promoted"),
            expired: swept("expired"),
            pruned: swept("pruned"),
            overflow_jobs: overflow_jobs.expect(VALID),
            pairs: IntGauge::with_opts(opts(&catalogue::PAIRS, &[])).expect(VALID),
            config,
        }
    }

    /// Adds what a committed batch changed.
    pub(super) fn apply(&mut self, delta: &TallyDelta) {
        for (queue, rows) in &delta.forgotten {
            self.queues.remove(queue);
            self.others.remove(queue);
            rows.iter().for_each(|id| drop(self.rows.remove(id)));
        }
        for (id, queue, kind) in &delta.new_rows {
            let series = || RowSeries::new(queue.clone(), kind.clone());
            self.rows.entry(*id).or_insert_with(series);
        }
        for (id, counts) in &delta.rows {
            let row = self.rows.get(id).expect("a row is new before it counts");
            row.counts.iter().for_each(|(count, series)| match counts[*count] {
                0 => {}
                change => series.add(change),
            });
        }
        for (name, queue) in &delta.queues {
            self.apply_to_queue(name, queue);
        }
        if delta.queues.iter().any(|(_, queue)| !queue.has_series) || !delta.forgotten.is_empty() {
            self.other.set_oldest(self.others.values().flatten().min().copied());
        }
        if !delta.new_rows.is_empty() || !delta.forgotten.is_empty() {
            self.pairs.set(i64::try_from(self.count_pairs()).unwrap_or(i64::MAX));
        }
        let up = |change: i64| u64::try_from(change).expect("counters only go up");
        self.promoted.inc_by(up(delta.totals.promoted));
        self.expired.inc_by(up(delta.totals.expired));
        self.pruned.inc_by(up(delta.totals.pruned));
        self.overflow_jobs.inc_by(up(delta.totals.overflow_jobs));
        self.other.count(delta.totals.leases_lost_elsewhere, delta.totals.duplicates_elsewhere);
    }

    fn apply_to_queue(&mut self, name: &Arc<str>, delta: &QueueDelta) {
        for (row, duration) in &delta.durations {
            if let Some(row) = self.rows.get(row) {
                row.attempt_seconds.inc_by(duration.seconds);
            }
        }
        if delta.has_series {
            let new = || QueueSeries::new(name.clone(), &self.config);
            let series = self.queues.entry(name.clone()).or_insert_with(new);
            series.count(delta.counts.leases_lost, delta.counts.duplicates);
            series.observe(delta);
            series.paused.set(delta.paused.into());
            series.set_oldest(delta.oldest_ready);
        } else {
            self.others.insert(name.clone(), delta.oldest_ready);
            self.other.observe(delta);
        }
    }

    /// Changes how many attempts the daemon runs in a queue.
    pub(super) fn add_busy(&self, queue: &str, change: i64) {
        if let Some(series) = self.queues.get(queue) {
            series.workers_busy.add(change);
        }
    }

    /// Pairs with counts of their own.
    fn count_pairs(&self) -> usize {
        self.rows.values().filter(|row| &*row.kind != OTHER).count()
    }

    /// Copies all numbers.
    pub(super) fn cut(&self) -> (Vec<RowCut>, Vec<QueueCut>, TotalsCut) {
        let rows = self.rows.values().map(RowSeries::cut).collect();
        let queues = self.queues.values().chain([&self.other]).map(QueueSeries::cut).collect();
        let totals = TotalsCut {
            promoted: self.promoted.get(),
            expired: self.expired.get(),
            pruned: self.pruned.get(),
            overflow_jobs: self.overflow_jobs.get(),
            pairs: self.pairs.get(),
        };
        (rows, queues, totals)
    }

    /// The same for the registry, one family of each name.
    pub(super) fn collect(&self) -> Vec<MetricFamily> {
        let all = self
            .rows
            .values()
            .flat_map(RowSeries::collect)
            .chain(self.queues.values().chain([&self.other]).flat_map(QueueSeries::collect))
            .chain(
                [&self.promoted, &self.expired, &self.pruned]
                    .into_iter()
                    .flat_map(Collector::collect),
            )
            .chain(self.overflow_jobs.collect())
            .chain(self.pairs.collect());
        let mut families: BTreeMap<String, MetricFamily> = BTreeMap::new();
        for mut family in all {
            match families.get_mut(family.name()) {
                Some(known) => known.mut_metric().append(family.mut_metric()),
                None => drop(families.insert(family.name().to_owned(), family)),
            }
        }
        families.into_values().collect()
    }
}

/// The descriptions of all families that a projection can have.
pub(super) fn descriptions() -> Vec<Desc> {
    use catalogue as c;
    let described = [
        c::CREATED,
        c::COMPLETED,
        c::CANCELLED,
        c::DISCARDED,
        c::RETRIED,
        c::DIED,
        c::REQUEUED,
        c::JOBS,
        c::STARTED,
        c::ENDED,
        c::ATTEMPT_SECONDS,
        c::LEASES_LOST,
        c::DUPLICATES,
        c::SWEPT,
        c::WAIT,
        c::ATTEMPT_DURATION,
        c::OLDEST_READY,
        c::PAUSED,
        c::WORKERS_LIMIT,
        c::WORKERS_BUSY,
        c::DEPTH_LIMIT,
        c::PAIRS_OVERFLOW,
        c::PAIRS,
    ];
    let describe = |metric: Metric| {
        let labels = metric.labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(metric.name.into(), metric.help.into(), labels, HashMap::new()).expect(VALID)
    };
    described.into_iter().map(describe).collect()
}
