//! `tallyd bench create`: durable creates, in turns with creates that store nothing.

use clap::builder::RangedU64ValueParser;
use serde::Serialize;

use super::Load;
use super::error::BenchError;
use super::load;
use super::progress::Progress;
use super::report::{Held, Rate, grouped, median, print};
use super::server::Server;
use super::work::Work;

/// The flags of `tallyd bench create`.
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// How often to measure; with one job a request, each time in turn with a server that stores nothing
    #[arg(long, env = "TALLYD_BENCH_TURNS", default_value_t = 5)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000))]
    turns: usize,
    /// Jobs in a request
    #[arg(long, env = "TALLYD_BENCH_BATCH", value_name = "JOBS", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000))]
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
    turns: Vec<Turn>,
    median: Median,
    server: Held,
}

#[derive(Serialize)]
struct Turn {
    durable: Rate,
    storeless: Option<Rate>,
    ratio: Option<f64>,
}

#[derive(Serialize)]
struct Median {
    jobs_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us: f64,
    storeless_cpu_us: Option<f64>,
    ratio: Option<f64>,
}

impl Create {
    pub(super) async fn run(&self) -> Result<(), BenchError> {
        let progress = Progress::new();
        let place = self.load.setup.place()?;
        let durable = self.load.serve(&place, &progress).await?;
        let storeless = if self.batch == 1 { Some(place.serve_nothing().await?) } else { None };
        let work = match self.batch {
            1 => Work::create(self.load.setup.payload),
            count => Work::create_batch(self.load.setup.payload, count),
        };
        let mut turns = Vec::with_capacity(self.turns);
        for turn in 1..=self.turns {
            let what = |name: &str| format!("turn {turn} of {}, {name}", self.turns);
            let storeless = match &storeless {
                Some(server) => {
                    Some(self.measure(server, &work, &progress, &what("storing nothing")).await?)
                }
                None => None,
            };
            let durable = self.measure(&durable, &work, &progress, &what("durable")).await?;
            let ratio = storeless.map(|other| durable.jobs_per_second / other.jobs_per_second);
            turns.push(Turn { durable, storeless, ratio });
        }
        progress.end();
        let server = durable.held(&place);
        durable.stop().await?;
        let report = self.report(turns, server);
        print(self.load.setup.json, &report, || text(&report))
    }

    async fn measure(
        &self,
        server: &Server,
        work: &Work,
        progress: &Progress,
        what: &str,
    ) -> Result<Rate, BenchError> {
        progress.begin(what, self.load.seconds);
        let mut seconds = 0;
        let cpu_seconds = server.cpu_seconds();
        let measured = load::run(server.address, work, self.load.amount(), |_| {
            progress.advance(seconds);
            seconds += 1;
        });
        Ok(Rate::of(measured.await?, server.cpu_seconds() - cpu_seconds))
    }

    fn report(&self, turns: Vec<Turn>, server: Held) -> Report {
        let durable = |figure: fn(&Rate) -> f64| median(turns.iter().map(|t| figure(&t.durable)));
        let storeless: Vec<f64> =
            turns.iter().filter_map(|turn| Some(turn.storeless?.cpu_us)).collect();
        let ratios: Vec<f64> = turns.iter().filter_map(|turn| turn.ratio).collect();
        let median = Median {
            jobs_per_second: durable(|rate| rate.jobs_per_second),
            p50_ms: durable(|rate| rate.latency.p50_ms),
            p99_ms: durable(|rate| rate.latency.p99_ms),
            cpu_us: durable(|rate| rate.cpu_us),
            storeless_cpu_us: (!storeless.is_empty()).then(|| median(storeless.iter().copied())),
            ratio: (!ratios.is_empty()).then(|| median(ratios.iter().copied())),
        };
        Report {
            mode: "create",
            connections: self.load.connections,
            seconds: self.load.seconds,
            payload_bytes: self.load.setup.payload,
            batch: self.batch,
            stored: self.load.stored,
            turns,
            median,
            server,
        }
    }
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "create: {} connections, {} in a request, payloads of {} bytes, {} s a turn\n\n",
        report.connections,
        jobs(report.batch),
        report.payload_bytes,
        report.seconds,
    );
    text.push_str("turn     durable      p50      p99      max   storing nothing   ratio\n");
    for (index, turn) in report.turns.iter().enumerate() {
        let latency = turn.durable.latency;
        text.push_str(&format!(
            "{:>4}  {:>8}/s {:>6.2}ms {:>6.2}ms {:>6.1}ms",
            index + 1,
            grouped(turn.durable.jobs_per_second),
            latency.p50_ms,
            latency.p99_ms,
            latency.max_ms,
        ));
        if let (Some(storeless), Some(ratio)) = (turn.storeless, turn.ratio) {
            let rate = grouped(storeless.jobs_per_second);
            text.push_str(&format!("  {rate:>14}/s    {ratio:.2}"));
        }
        text.push('\n');
    }
    let median = &report.median;
    text.push_str(&format!(
        "\nmedian: {} jobs/s, p50 {:.2} ms, p99 {:.2} ms, {:.1} µs of processor time a job",
        grouped(median.jobs_per_second),
        median.p50_ms,
        median.p99_ms,
        median.cpu_us,
    ));
    if let (Some(ratio), Some(cpu_us)) = (median.ratio, median.storeless_cpu_us) {
        let nothing =
            format!("\nstoring nothing takes {cpu_us:.1} µs; the rate is {ratio:.2} of its");
        text.push_str(&nothing);
    }
    text.push_str(&format!("\n{}\n", report.server.line()));
    text
}

fn jobs(count: u64) -> String {
    if count == 1 { "1 job".into() } else { format!("{count} jobs") }
}
