//! `tallyd bench lifecycle`: jobs are created, leased and finished, many at a time.

use serde::Serialize;

use super::Load;
use super::error::BenchError;
use super::load;
use super::progress::Progress;
use super::report::{Held, Latency, grouped, mebibytes, print};
use super::work::Work;

/// Into how many parts the time is cut, to see whether the rate holds.
const PARTS: u64 = 10;

/// The flags of `tallyd bench lifecycle`.
#[derive(Debug, clap::Args)]
pub(super) struct Lifecycle {
    /// Jobs in a request
    #[arg(long, env = "TALLYD_BENCH_BATCH", value_name = "JOBS", default_value_t = 100)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000))]
    batch: u64,
    #[command(flatten)]
    load: Load,
}

#[derive(Serialize)]
struct Report {
    mode: &'static str,
    connections: usize,
    seconds: u64,
    payload_bytes: usize,
    batch: u64,
    stored: u64,
    jobs_per_second: f64,
    cpu_us: f64,
    create: Latency,
    lease: Latency,
    finish: Latency,
    parts: Vec<Part>,
    server: Held,
}

/// A part of the time.
#[derive(Debug, Serialize)]
struct Part {
    seconds: u64,
    jobs_per_second: f64,
    memory_bytes: u64,
    store_bytes: u64,
    wal_bytes: u64,
}

impl Lifecycle {
    pub(super) async fn run(&self) -> Result<(), BenchError> {
        let progress = Progress::new();
        let place = self.load.setup.place()?;
        let server = self.load.serve(&place, &progress).await?;
        let work = Work::lifecycle(self.load.setup.payload, self.batch);
        progress.begin("create, lease, finish", self.load.seconds);
        let part = self.load.seconds.div_ceil(PARTS);
        let (mut second, mut before, mut parts) = (0, 0, Vec::new());
        let each_second = |jobs: u64| {
            progress.advance(second);
            if second > 0 && second % part == 0 {
                let held = server.held(&place);
                parts.push(Part {
                    seconds: second,
                    jobs_per_second: (jobs - before) as f64 / part as f64,
                    memory_bytes: held.memory_bytes,
                    store_bytes: held.store_bytes,
                    wal_bytes: held.wal_bytes,
                });
            }
            if second % part == 0 {
                before = jobs;
            }
            second += 1;
        };
        let cpu_seconds = server.cpu_seconds();
        let mut measured =
            load::run(server.address, &work, self.load.amount(), each_second).await?;
        let cpu_seconds = server.cpu_seconds() - cpu_seconds;
        progress.end();
        let held = server.held(&place);
        server.stop().await?;
        let [create, lease, finish] =
            [0, 1, 2].map(|sort| Latency::of(&mut measured.latencies[sort]));
        let report = Report {
            mode: "lifecycle",
            connections: self.load.connections,
            seconds: self.load.seconds,
            payload_bytes: self.load.setup.payload,
            batch: self.batch,
            stored: self.load.stored,
            jobs_per_second: measured.rate(),
            cpu_us: cpu_seconds * 1e6 / measured.all_jobs as f64,
            create,
            lease,
            finish,
            parts,
            server: held,
        };
        print(self.load.setup.json, &report, || text(&report))
    }
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "lifecycle: {} connections, {} jobs in a request, payloads of {} bytes, {} s\n\n",
        report.connections, report.batch, report.payload_bytes, report.seconds,
    );
    text.push_str("until second       rate     memory      store        log\n");
    for part in &report.parts {
        text.push_str(&format!(
            "{:>12} {:>8}/s {:>10} {:>10} {:>10}\n",
            part.seconds,
            grouped(part.jobs_per_second),
            mebibytes(part.memory_bytes),
            mebibytes(part.store_bytes),
            mebibytes(part.wal_bytes),
        ));
    }
    text.push_str(&format!(
        "\n{} jobs/s, {:.1} µs of processor time a job\n",
        grouped(report.jobs_per_second),
        report.cpu_us,
    ));
    let sorts = [("create", report.create), ("lease", report.lease), ("finish", report.finish)];
    for (name, latency) in sorts {
        text.push_str(&format!(
            "{name:>8}: p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms\n",
            latency.p50_ms, latency.p99_ms, latency.max_ms,
        ));
    }
    text.push_str(&format!("{}\n", report.server.line()));
    text
}
