//! The figures of a benchmark, for people and for programs.

use std::io::Write;

use serde::Serialize;

use super::error::BenchError;
use super::load::Measured;

/// How long requests of one sort took.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Latency {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Latency {
    /// Of these times in microseconds, of which there is one at least.
    pub(super) fn of(micros: &mut [u32]) -> Self {
        micros.sort_unstable();
        Self {
            p50_ms: quantile(micros, 0.50),
            p99_ms: quantile(micros, 0.99),
            max_ms: quantile(micros, 1.0),
        }
    }
}

/// The least of the sorted times that this share of them does not exceed, in milliseconds.
fn quantile(sorted: &[u32], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    f64::from(sorted[rank.clamp(1, sorted.len()) - 1]) / 1e3
}

/// The rate and the times of one sort of request.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Rate {
    pub(super) jobs_per_second: f64,
    /// Processor time of the server for each job, in microseconds: less noisy than the rate.
    pub(super) cpu_us: f64,
    #[serde(flatten)]
    pub(super) latency: Latency,
}

impl Rate {
    /// Of a measurement with one sort of request, for which the server used so much time.
    pub(super) fn of(mut measured: Measured, cpu_seconds: f64) -> Self {
        let latency = Latency::of(&mut measured.latencies[0]);
        let cpu_us = cpu_seconds * 1e6 / measured.all_jobs as f64;
        Self { jobs_per_second: measured.rate(), cpu_us, latency }
    }
}

/// The middle of some figures, of which there is one at least.
pub(super) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let half = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[half] } else { (figures[half - 1] + figures[half]) / 2.0 }
}

/// What the server under test holds at the end.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Held {
    pub(super) memory_bytes: u64,
    pub(super) store_bytes: u64,
    pub(super) wal_bytes: u64,
    /// From its start until it was ready.
    pub(super) start_ms: f64,
}

impl Held {
    /// For people.
    pub(super) fn line(&self) -> String {
        format!(
            "server: ready after {:.0} ms, {} of memory, store {}, log {}",
            self.start_ms,
            mebibytes(self.memory_bytes),
            mebibytes(self.store_bytes),
            mebibytes(self.wal_bytes),
        )
    }
}

/// Bytes as people read them.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// A whole number with a comma before each three digits.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes a report to standard output: as JSON, or as text.
pub(super) fn print(
    json: bool,
    report: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), BenchError> {
    let text = if json {
        serde_json::to_string_pretty(report).expect("figures are valid JSON") + "\n"
    } else {
        text()
    };
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(BenchError::system("write to standard output"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_occurred() {
        let mut micros: Vec<u32> = (1..=200).rev().map(|ms| ms * 1_000).collect();
        let latency = Latency::of(&mut micros);
        assert_eq!((latency.p50_ms, latency.p99_ms, latency.max_ms), (100.0, 198.0, 200.0));
        let latency = Latency::of(&mut [7_500]);
        assert_eq!((latency.p50_ms, latency.p99_ms, latency.max_ms), (7.5, 7.5, 7.5));
    }

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }

    #[test]
    fn numbers_are_grouped_by_three_digits() {
        assert_eq!(grouped(7.0), "7");
        assert_eq!(grouped(123.4), "123");
        assert_eq!(grouped(1_234.0), "1,234");
        assert_eq!(grouped(1_234_567.8), "1,234,568");
    }
}
