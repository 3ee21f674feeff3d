//! A snapshot as text, in the two formats that Prometheus reads.

use std::fmt::{Display, Write};

use super::catalogue::{self, CATALOGUE, Metric, Type};
use super::projection::metric_of;
use super::snapshot::{HistogramCut, QueueCut, RestValue, RowCut, Snapshot};
use crate::tally::{Count, Observation};

/// About what a sample takes beside the values of its labels.
const SAMPLE_BYTES: usize = 64;

/// About what an exemplar takes.
const EXEMPLAR_BYTES: usize = 128;

/// How a snapshot is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The text format 0.0.4, which everything reads.
    Text,
    /// OpenMetrics 1.0.0: the same samples, with exemplars.
    OpenMetrics,
}

/// Writes the wanted families in the order of the catalogue; one without series is left out.
pub(super) fn encode(
    snapshot: &Snapshot,
    format: Format,
    is_wanted: impl Fn(&Metric) -> bool,
) -> String {
    let mut writer = Writer { out: String::with_capacity(about_bytes(snapshot, format)), format };
    for metric in CATALOGUE.iter().filter(|metric| is_wanted(metric)) {
        let before = writer.out.len();
        writer.header(metric);
        let with_header = writer.out.len();
        writer.family(metric, snapshot);
        if writer.out.len() == with_header {
            writer.out.truncate(before);
        }
    }
    if format == Format::OpenMetrics {
        writer.out.push_str("# EOF\n");
    }
    writer.out.shrink_to_fit(); // it is held until the slowest reader has taken it
    writer.out
}

/// About what all of it takes, to ask for memory once.
fn about_bytes(snapshot: &Snapshot, format: Format) -> usize {
    let of_row = |row: &RowCut| 20 * (SAMPLE_BYTES + row.queue.len() + row.kind.len());
    let of_queue = |queue: &QueueCut| {
        let shown =
            [&queue.wait, &queue.duration].map(|cut| cut.exemplars.iter().flatten().count());
        let shown = if format == Format::OpenMetrics { shown.iter().sum() } else { 0 };
        44 * (SAMPLE_BYTES + queue.queue.len()) + shown * EXEMPLAR_BYTES
    };
    let rows = snapshot.rows.iter().map(of_row).sum::<usize>();
    let queues = snapshot.queues.iter().map(of_queue).sum::<usize>();
    rows + queues + 400 * SAMPLE_BYTES
}

/// Writing to memory cannot fail.
const FITS: &str = "writing to memory does not fail";

struct Writer {
    out: String,
    format: Format,
}

impl Writer {
    /// In OpenMetrics a counter's family is called without the `_total` of its samples.
    fn header(&mut self, metric: &Metric) {
        let name = match (self.format, metric.kind) {
            (Format::OpenMetrics, Type::Counter) => {
                metric.name.strip_suffix("_total").unwrap_or(metric.name)
            }
            _ => metric.name,
        };
        write!(self.out, "# HELP {name} ").expect(FITS);
        self.escaped(metric.help, self.format == Format::OpenMetrics);
        self.line(format_args!("\n# TYPE {name} {}", metric.kind.name()));
    }

    fn family(&mut self, metric: &Metric, snapshot: &Snapshot) {
        for (count, _) in Count::ALL {
            if let Some((of, third)) = metric_of(count)
                && of == metric
            {
                for row in &snapshot.rows {
                    let labels = [("queue", &*row.queue), ("kind", &*row.kind)];
                    let third = third.map(|value| (metric.labels[2], value));
                    self.sample(metric.name, labels.into_iter().chain(third), row.counts[count]);
                }
            }
        }
        if *metric == catalogue::ATTEMPT_SECONDS {
            for row in &snapshot.rows {
                let labels = [("queue", &*row.queue), ("kind", &*row.kind)];
                self.sample(metric.name, labels, row.attempt_seconds);
            }
        }
        for queue in &snapshot.queues {
            self.queue_sample(metric, queue);
        }
        self.totals(metric, snapshot);
        for family in snapshot.rest.iter().filter(|family| family.name == metric.name) {
            for sample in &family.samples {
                let labels = || sample.labels.iter().map(|(name, value)| (&**name, &**value));
                match &sample.value {
                    RestValue::Number(number) => self.sample(metric.name, labels(), number),
                    RestValue::Histogram(cut) => self.histogram(metric.name, labels(), cut),
                }
            }
        }
    }

    fn queue_sample(&mut self, metric: &Metric, queue: &QueueCut) {
        let labels = [("queue", &*queue.queue)];
        let name = metric.name;
        match *metric {
            catalogue::LEASES_LOST => self.sample(name, labels, queue.leases_lost),
            catalogue::DUPLICATES => self.sample(name, labels, queue.duplicates),
            catalogue::WAIT => self.histogram(name, labels.into_iter(), &queue.wait),
            catalogue::ATTEMPT_DURATION => {
                self.histogram(name, labels.into_iter(), &queue.duration);
            }
            catalogue::OLDEST_READY => {
                queue.oldest_ready.iter().for_each(|at| self.sample(name, labels, at));
            }
            catalogue::PAUSED => self.sample(name, labels, queue.paused),
            catalogue::WORKERS_LIMIT => self.sample(name, labels, queue.workers_limit),
            catalogue::WORKERS_BUSY => self.sample(name, labels, queue.workers_busy),
            catalogue::DEPTH_LIMIT => {
                queue.depth_limit.iter().for_each(|limit| self.sample(name, labels, limit));
            }
            _ => {}
        }
    }

    fn totals(&mut self, metric: &Metric, snapshot: &Snapshot) {
        let totals = &snapshot.totals;
        if *metric == catalogue::SWEPT {
            let swept = [
                ("expired", totals.expired),
                ("promoted", totals.promoted),
                ("pruned", totals.pruned),
            ];
            for (action, count) in swept {
                self.sample(metric.name, [("action", action)], count);
            }
        } else if *metric == catalogue::PAIRS_OVERFLOW {
            self.sample(metric.name, [], totals.overflow_jobs);
        } else if *metric == catalogue::PAIRS {
            self.sample(metric.name, [], totals.pairs);
        }
    }

    fn histogram<'l>(
        &mut self,
        name: &str,
        labels: impl Iterator<Item = (&'l str, &'l str)> + Clone,
        cut: &HistogramCut,
    ) {
        let bucket = format!("{name}_bucket");
        let infinite = [(f64::INFINITY, cut.count)];
        for (index, (bound, count)) in cut.buckets.iter().chain(&infinite).enumerate() {
            self.labelled(&bucket, labels.clone(), Some(*bound));
            write!(self.out, " {count}").expect(FITS);
            self.exemplar(cut.exemplars.get(index).and_then(Option::as_ref));
            self.out.push('\n');
        }
        self.sample(&format!("{name}_sum"), labels.clone(), cut.sum);
        self.sample(&format!("{name}_count"), labels, cut.count);
    }

    /// The attempt that a bucket counted last.
    fn exemplar(&mut self, of: Option<&Observation>) {
        let Some(Observation { seconds, at, job, trace }) = of else { return };
        if self.format == Format::Text {
            return;
        }
        write!(self.out, " # {{job_id=\"{job}\"").expect(FITS);
        if let Some(trace) = trace {
            write!(self.out, ",trace_id=\"{trace:032x}\"").expect(FITS);
        }
        write!(self.out, "}} {seconds} {}", at.seconds()).expect(FITS);
    }

    fn sample<'l>(
        &mut self,
        name: &str,
        labels: impl IntoIterator<Item = (&'l str, &'l str)>,
        value: impl Display,
    ) {
        self.labelled(name, labels.into_iter(), None);
        self.line(format_args!(" {value}"));
    }

    /// A sample without its value.
    fn labelled<'l>(
        &mut self,
        name: &str,
        labels: impl Iterator<Item = (&'l str, &'l str)>,
        bound: Option<f64>,
    ) {
        self.out.push_str(name);
        let mut separator = '{';
        for (label, value) in labels {
            write!(self.out, "{separator}{label}=\"").expect(FITS);
            self.escaped(value, true);
            self.out.push('"');
            separator = ',';
        }
        if let Some(bound) = bound {
            write!(self.out, "{separator}le=\"").expect(FITS);
            self.bound(bound);
            self.out.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.out.push('}');
        }
    }

    /// A bucket's bound: in OpenMetrics `1.0`, in the older format `1`.
    fn bound(&mut self, bound: f64) {
        let written = match self.format {
            _ if bound.is_infinite() => write!(self.out, "+Inf"),
            Format::Text => write!(self.out, "{bound}"),
            Format::OpenMetrics => write!(self.out, "{bound:?}"),
        };
        written.expect(FITS);
    }

    /// Escapes backslash and newline, and quotes in all but the help of the older format.
    fn escaped(&mut self, text: &str, quotes: bool) {
        for character in text.chars() {
            match character {
                '\\' => self.out.push_str("\\\\"),
                '"' if quotes => self.out.push_str("\\\""),
                '\n' => self.out.push_str("\\n"),
                other => self.out.push(other),
            }
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.out, "{text}").expect(FITS);
    }
}

#[cfg(test)]
mod tests;
