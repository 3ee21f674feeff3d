//! A snapshot as text, in the two formats that Prometheus reads.

use std::fmt::{Display, Write};

use super::catalogue::{self, CATALOGUE, Metric, Type};
use super::projection::metric_of;
use super::snapshot::{HistogramCut, QueueCut, RestValue, Snapshot};
use crate::tally::{Count, Observation};

/// About what a sample takes, to ask for memory once.
const SAMPLE_BYTES: usize = 96;

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
    let series = snapshot.rows.len() * 20 + snapshot.queues.len() * 44 + 200;
    let mut text = Text { text: String::with_capacity(series * SAMPLE_BYTES), format };
    for metric in CATALOGUE.iter().filter(|metric| is_wanted(metric)) {
        let before = text.text.len();
        text.header(metric);
        let with_header = text.text.len();
        text.family(metric, snapshot);
        if text.text.len() == with_header {
            text.text.truncate(before);
        }
    }
    if format == Format::OpenMetrics {
        text.text.push_str("# EOF\n");
    }
    text.text
}

/// Writing to memory cannot fail.
const FITS: &str = "writing to memory does not fail";

struct Text {
    text: String,
    format: Format,
}

impl Text {
    /// In OpenMetrics a counter's family is called without the `_total` of its samples.
    fn header(&mut self, metric: &Metric) {
        let name = match (self.format, metric.kind) {
            (Format::OpenMetrics, Type::Counter) => {
                metric.name.strip_suffix("_total").unwrap_or(metric.name)
            }
            _ => metric.name,
        };
        write!(self.text, "# HELP {name} ").expect(FITS);
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
            write!(self.text, " {count}").expect(FITS);
            self.exemplar(cut.exemplars.get(index).and_then(Option::as_ref));
            self.text.push('\n');
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
        write!(self.text, " # {{job_id=\"{job}\"").expect(FITS);
        if let Some(trace) = trace {
            write!(self.text, ",trace_id=\"{trace:032x}\"").expect(FITS);
        }
        write!(self.text, "}} {seconds} {}", at.seconds()).expect(FITS);
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
        self.text.push_str(name);
        let mut separator = '{';
        for (label, value) in labels {
            write!(self.text, "{separator}{label}=\"").expect(FITS);
            self.escaped(value, true);
            self.text.push('"');
            separator = ',';
        }
        if let Some(bound) = bound {
            write!(self.text, "{separator}le=\"").expect(FITS);
            self.bound(bound);
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
    }

    /// A bucket's bound: in OpenMetrics `1.0`, in the older format `1`.
    fn bound(&mut self, bound: f64) {
        let written = match self.format {
            _ if bound.is_infinite() => write!(self.text, "+Inf"),
            Format::Text => write!(self.text, "{bound}"),
            Format::OpenMetrics => write!(self.text, "{bound:?}"),
        };
        written.expect(FITS);
    }

    /// Escapes backslash and newline, and quotes in all but the help of the older format.
    fn escaped(&mut self, text: &str, quotes: bool) {
        for character in text.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '"' if quotes => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                other => self.text.push(other),
            }
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{text}").expect(FITS);
    }
}

#[cfg(test)]
mod tests;
