//! The text format 0.0.4 of a snapshot.

use std::fmt::{Display, Write};

use super::catalogue::{self, CATALOGUE, Metric};
use super::projection::metric_of;
use super::snapshot::{HistogramCut, QueueCut, RestValue, Snapshot};
use crate::tally::Count;

/// The media type that parsers choose the format by.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// About what a sample takes, to ask for memory once.
const SAMPLE_BYTES: usize = 96;

/// Writes all families in the order of the catalogue; one without series is left out.
pub(super) fn encode(snapshot: &Snapshot) -> String {
    let series = snapshot.rows.len() * 20 + snapshot.queues.len() * 44 + 200;
    let mut text = Text(String::with_capacity(series * SAMPLE_BYTES));
    for metric in CATALOGUE {
        let before = text.0.len();
        text.header(metric);
        let with_header = text.0.len();
        text.family(metric, snapshot);
        if text.0.len() == with_header {
            text.0.truncate(before);
        }
    }
    text.0
}

struct Text(String);

impl Text {
    fn header(&mut self, metric: &Metric) {
        let Metric { name, help, .. } = metric;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {}", metric.kind.name()));
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
        for (bound, count) in &cut.buckets {
            self.sample_of(&bucket, labels.clone(), Some(&bound.to_string()), count);
        }
        self.sample_of(&bucket, labels.clone(), Some("+Inf"), cut.count);
        self.sample_of(&format!("{name}_sum"), labels.clone(), None, cut.sum);
        self.sample_of(&format!("{name}_count"), labels, None, cut.count);
    }

    fn sample<'l>(
        &mut self,
        name: &str,
        labels: impl IntoIterator<Item = (&'l str, &'l str)>,
        value: impl Display,
    ) {
        self.sample_of(name, labels.into_iter(), None, value);
    }

    fn sample_of<'l>(
        &mut self,
        name: &str,
        labels: impl Iterator<Item = (&'l str, &'l str)>,
        bucket: Option<&str>,
        value: impl Display,
    ) {
        self.0.push_str(name);
        let mut separator = '{';
        for (label, text) in labels {
            self.label(separator, label, text);
            separator = ',';
        }
        if let Some(bound) = bucket {
            self.label(separator, "le", bound);
            separator = ',';
        }
        if separator == ',' {
            self.0.push('}');
        }
        self.line(format_args!(" {value}"));
    }

    fn label(&mut self, separator: char, name: &str, value: &str) {
        self.0.push(separator);
        self.0.push_str(name);
        self.0.push_str("=\"");
        self.escaped(value);
        self.0.push('"');
    }

    /// A label's value: backslash, quote and newline are escaped.
    fn escaped(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        writeln!(self.0, "{text}").expect("writing to memory does not fail");
    }
}
