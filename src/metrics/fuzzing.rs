//! What must hold for any counts under any labels: who knows nothing but the standards of the two
//! formats reads them as they are.

mod strict;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use self::strict::{Exemplar, Family, Sample};
use super::catalogue::{self, CATALOGUE, Metric, SECONDS, Type};
use super::projection::metric_of;
use super::snapshot::{
    HistogramCut, QueueCut, RestFamily, RestSample, RestValue, RowCut, Snapshot, TotalsCut,
};
use super::text::Format;
use crate::clock::Timestamp;
use crate::tally::{Count, Counts, Observation};

/// Names and numbers, as text with `|` between them: of a queue, a kind, and what is counted there.
///
/// They are written in both formats and read by a parser of its own, which gives the same series.
pub fn exposition(fields: &[u8]) {
    let snapshot = snapshot(&String::from_utf8_lossy(fields));
    for format in [Format::Text, Format::OpenMetrics] {
        let text = snapshot.encode(format, |_| true);
        let families = strict::read(&text, format == Format::OpenMetrics)
            .unwrap_or_else(|wrong| panic!("{wrong}\nin:\n{text}"));
        check(&families, &snapshot, format);
    }
}

/// A series that must be there.
type Series = (String, BTreeMap<String, String>);

/// What it must say.
enum Number {
    Whole(i64),
    Real(f64),
}

/// What all series must say, and the attempts that some of them show.
#[derive(Default)]
struct Expected(BTreeMap<Series, (Number, Option<Observation>)>);

impl Expected {
    fn put(&mut self, name: &str, labels: &[(&str, &str)], number: Number) {
        let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let series = (name.to_owned(), labels.collect());
        assert!(self.0.insert(series, (number, None)).is_none(), "the input is wrong");
    }

    fn whole(&mut self, metric: &Metric, labels: &[(&str, &str)], number: i64) {
        self.put(metric.name, labels, Number::Whole(number));
    }

    fn histogram(&mut self, metric: &Metric, labels: &[(&str, &str)], cut: &HistogramCut) {
        let count = |number: u64| Number::Whole(number.cast_signed());
        self.put(&format!("{}_count", metric.name), labels, count(cut.count));
        self.put(&format!("{}_sum", metric.name), labels, Number::Real(cut.sum));
        let infinite = [(f64::INFINITY, cut.count)];
        for (index, (bound, number)) in cut.buckets.iter().chain(&infinite).enumerate() {
            let name = format!("{}_bucket", metric.name);
            let labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let mut labels: BTreeMap<String, String> = labels.collect();
            labels.insert("le".into(), strict::bound(*bound));
            let shown = cut.exemplars.get(index).copied().flatten();
            self.0.insert((name, labels), (count(*number), shown));
        }
    }
}

fn expected(snapshot: &Snapshot) -> Expected {
    let mut all = Expected::default();
    for row in &snapshot.rows {
        let pair = [("queue", &*row.queue), ("kind", &*row.kind)];
        for (count, _) in Count::ALL {
            let Some((metric, third)) = metric_of(count) else { continue };
            let third = third.map(|value| (metric.labels[2], value));
            let labels: Vec<_> = pair.into_iter().chain(third).collect();
            all.whole(metric, &labels, row.counts[count]);
        }
        let seconds = Number::Real(row.attempt_seconds);
        all.put(catalogue::ATTEMPT_SECONDS.name, &pair, seconds);
    }
    for queue in &snapshot.queues {
        let label = [("queue", &*queue.queue)];
        all.whole(&catalogue::LEASES_LOST, &label, queue.leases_lost.cast_signed());
        all.whole(&catalogue::DUPLICATES, &label, queue.duplicates.cast_signed());
        all.whole(&catalogue::PAUSED, &label, queue.paused);
        all.whole(&catalogue::WORKERS_LIMIT, &label, queue.workers_limit);
        all.whole(&catalogue::WORKERS_BUSY, &label, queue.workers_busy);
        if let Some(limit) = queue.depth_limit {
            all.whole(&catalogue::DEPTH_LIMIT, &label, limit);
        }
        if let Some(at) = queue.oldest_ready {
            all.put(catalogue::OLDEST_READY.name, &label, Number::Real(at));
        }
        all.histogram(&catalogue::WAIT, &label, &queue.wait);
        all.histogram(&catalogue::ATTEMPT_DURATION, &label, &queue.duration);
    }
    let totals = &snapshot.totals;
    let swept =
        [("expired", totals.expired), ("promoted", totals.promoted), ("pruned", totals.pruned)];
    for (action, number) in swept {
        all.whole(&catalogue::SWEPT, &[("action", action)], number.cast_signed());
    }
    all.whole(&catalogue::PAIRS, &[], totals.pairs);
    all.whole(&catalogue::PAIRS_OVERFLOW, &[], totals.overflow_jobs.cast_signed());
    for family in &snapshot.rest {
        let metric = CATALOGUE.iter().find(|metric| metric.name == family.name);
        let metric = metric.expect("it is in the catalogue");
        for sample in &family.samples {
            let labels: Vec<_> =
                sample.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
            match &sample.value {
                RestValue::Number(number) => all.put(metric.name, &labels, Number::Real(*number)),
                RestValue::Histogram(cut) => all.histogram(metric, &labels, cut),
            }
        }
    }
    all
}

fn check(families: &[Family], snapshot: &Snapshot, format: Format) {
    let mut missing = expected(snapshot);
    for family in families {
        let is_meant = |metric: &&Metric| {
            let is_shorter = format == Format::OpenMetrics && metric.kind == Type::Counter;
            let end = if is_shorter { "_total" } else { "" };
            metric.name.strip_suffix(end) == Some(&*family.name)
        };
        let metric = CATALOGUE.iter().find(is_meant).expect("it is in the catalogue");
        assert_eq!((&*family.kind, &*family.help), (metric.kind.name(), metric.help));
        for Sample { name, labels, value, exemplar } in &family.samples {
            let series = (name.clone(), labels.clone());
            let Some((number, shown)) = missing.0.remove(&series) else {
                panic!("{series:?} is of nothing")
            };
            let is_same = match number {
                Number::Whole(number) => value.parse() == Ok(number),
                Number::Real(number) => is_equal(value, number),
            };
            assert!(is_same, "{series:?} is {value}");
            let shown = shown.filter(|_| format == Format::OpenMetrics);
            assert_eq!(exemplar.is_some(), shown.is_some(), "{series:?}");
            exemplar.iter().zip(shown).for_each(|(exemplar, shown)| check_shown(exemplar, &shown));
        }
    }
    assert!(missing.0.is_empty(), "not there: {:?}", missing.0.keys());
}

fn check_shown(exemplar: &Exemplar, shown: &Observation) {
    let mut labels = BTreeMap::from([("job_id".to_owned(), shown.job.to_string())]);
    labels.extend(shown.trace.map(|trace| ("trace_id".to_owned(), format!("{trace:032x}"))));
    assert_eq!(exemplar.labels, labels);
    assert!(is_equal(&exemplar.value, shown.seconds), "{exemplar:?}");
    assert!(is_equal(&exemplar.at, shown.at.seconds()), "{exemplar:?}");
}

/// Whether a text is this number, to the last bit.
fn is_equal(text: &str, number: f64) -> bool {
    let read = text.parse::<f64>();
    read.is_ok_and(|read| read.to_bits() == number.to_bits() || read.is_nan() && number.is_nan())
}

/// Counts under the names and with the numbers of an input.
fn snapshot(fields: &str) -> Snapshot {
    let fields: Vec<&str> = fields.split('|').collect();
    let (mut rows, mut queues) = (BTreeMap::new(), BTreeMap::new());
    let mut rest: [BTreeMap<_, _>; 4] = Default::default();
    for (index, parts) in fields.chunks(3).enumerate() {
        let [queue, kind, number] = [0, 1, 2].map(|part| parts.get(part).copied().unwrap_or(""));
        let number = number.trim().parse::<f64>().unwrap_or(number.len() as f64);
        let (of_queue, of_kind): (Arc<str>, Arc<str>) = (queue.into(), kind.into());
        rows.insert((queue, kind), row(of_queue.clone(), of_kind, number));
        queues.insert(queue, queue_cut(of_queue, index as u64, number));
        let code = index.to_string();
        let of = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let labels = vec![of("route", queue), of("method", kind), of("code", &code)];
        rest[0].insert(labels, RestValue::Number(positive(number)));
        rest[1].insert(vec![of("reason", kind)], RestValue::Number(positive(number)));
        rest[2].insert(vec![], RestValue::Number(number));
        let cut = histogram(index as u64, number);
        rest[3].insert(vec![of("route", kind)], RestValue::Histogram(cut));
    }
    let names = [
        catalogue::HTTP_REQUESTS,
        catalogue::REJECTED,
        catalogue::MISMATCH,
        catalogue::HTTP_DURATION,
    ];
    let family = |(metric, samples): (Metric, BTreeMap<_, _>)| RestFamily {
        name: metric.name.to_owned(),
        samples: samples.into_iter().map(|(labels, value)| RestSample { labels, value }).collect(),
    };
    let count = rows.len() as u64;
    Snapshot {
        rows: rows.into_values().collect(),
        queues: queues.into_values().collect(),
        totals: TotalsCut {
            promoted: count,
            expired: u64::MAX >> 1,
            pruned: 0,
            overflow_jobs: count,
            pairs: i64::MIN,
        },
        rest: names.into_iter().zip(rest).map(family).collect(),
    }
}

/// A number that a counter may have.
fn positive(number: f64) -> f64 {
    if number.is_nan() { 0.0 } else { number.abs() }
}

fn row(queue: Arc<str>, kind: Arc<str>, number: f64) -> RowCut {
    let mut counts = Counts::default();
    for (index, (count, _)) in Count::ALL.into_iter().enumerate() {
        counts[count] = (positive(number) as i64) >> index;
    }
    RowCut { queue, kind, counts, attempt_seconds: positive(number) }
}

fn queue_cut(queue: Arc<str>, index: u64, number: f64) -> QueueCut {
    QueueCut {
        queue,
        leases_lost: positive(number) as u64 >> 1,
        duplicates: index,
        wait: histogram(index, number),
        duration: histogram(index + 1, number / 3.0),
        oldest_ready: index.is_multiple_of(2).then_some(number),
        paused: index as i64 % 2,
        workers_limit: number as i64,
        workers_busy: -(index as i64),
        depth_limit: index.is_multiple_of(3).then_some(number as i64),
    }
}

/// A histogram whose every third bucket shows what it counted last.
fn histogram(index: u64, number: f64) -> HistogramCut {
    let seconds = positive(number);
    let count = |bucket: usize| bucket as u64 * (index + (seconds as u64 >> 8));
    let observation = |bucket: usize| Observation {
        seconds,
        at: Timestamp(number as i64 >> 8),
        job: Uuid::from_u128(u128::from(seconds.to_bits()) << 7),
        trace: bucket.is_multiple_of(2).then_some(u128::from(seconds.to_bits()) + 1),
    };
    let shown = |bucket: usize| (bucket as u64 % 3 == index % 3).then(|| observation(bucket));
    HistogramCut {
        buckets: SECONDS.iter().enumerate().map(|(at, bound)| (*bound, count(at))).collect(),
        sum: seconds,
        count: count(SECONDS.len()),
        exemplars: (0..=SECONDS.len()).map(shown).collect(),
    }
}
