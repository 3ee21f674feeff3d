//! `tallyd bench push`: the daemon pushes stored jobs to a receiver in this process; then single
//! ones, to see how soon each begins on an idle server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::builder::RangedU64ValueParser;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::error::BenchError;
use super::progress::Progress;
use super::report::{Held, Latency, grouped, print};
use super::server::{Place, Server};
use super::work::Work;
use super::{Setup, fill};
use crate::server::receiver::{Answer, receive};

/// How often it is looked whether all jobs are completed.
const LOOK_EACH: Duration = Duration::from_millis(20);

/// How long a push of the second part may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The flags of `tallyd bench push`.
#[derive(Debug, clap::Args)]
pub(super) struct Push {
    /// Jobs that are stored and then pushed at once
    #[arg(long, env = "TALLYD_BENCH_JOBS", default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    jobs: u64,
    /// Jobs that are then created one after the other, each when the last was pushed
    #[arg(long, env = "TALLYD_BENCH_SINGLES", value_name = "JOBS", default_value_t = 500)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    singles: u64,
    /// The queue's concurrency: attempts at once
    #[arg(long, env = "TALLYD_BENCH_CONCURRENCY", value_name = "ATTEMPTS", default_value_t = 64)]
    #[arg(value_parser = RangedU64ValueParser::<u32>::new().range(1..=1_000))]
    concurrency: u32,
    #[command(flatten)]
    setup: Setup,
}

#[derive(Serialize)]
struct Report {
    mode: &'static str,
    jobs: u64,
    concurrency: u32,
    payload_bytes: usize,
    jobs_per_second: f64,
    cpu_us: f64,
    singles: u64,
    /// From the request that creates a job to its arrival at the receiver, one at a time.
    create_to_start: Latency,
    server: Held,
}

#[derive(Deserialize)]
struct Stats {
    jobs_completed: u64,
}

/// What the receiver has seen.
#[derive(Default)]
struct Seen {
    pushes: AtomicU64,
    another: Notify,
}

impl Push {
    pub(super) async fn run(&self) -> Result<(), BenchError> {
        let progress = Progress::new();
        let place = self.setup.place()?;
        let seen = Arc::new(Seen::default());
        let stop = CancellationToken::new();
        let _receiving = stop.clone().drop_guard();
        self.configure(&place, &seen, stop).await?;
        let server = place.serve().await?;
        let mut connection = Connection::open(server.address).await?;
        let (jobs_per_second, cpu_us) =
            self.push_all(&server, &mut connection, &seen, &progress).await?;
        let create_to_start = self.push_singles(&mut connection, &seen, &progress).await?;
        progress.end();
        let held = server.held(&place);
        drop(connection);
        server.stop().await?;
        let report = Report {
            mode: "push",
            jobs: self.jobs,
            concurrency: self.concurrency,
            payload_bytes: self.setup.payload,
            jobs_per_second,
            cpu_us,
            singles: self.singles,
            create_to_start,
            server: held,
        };
        print(self.setup.json, &report, || text(&report))
    }

    /// Starts to receive, and has the server push to there.
    async fn configure(
        &self,
        place: &Place,
        seen: &Arc<Seen>,
        stop: CancellationToken,
    ) -> Result<(), BenchError> {
        let failed = |source| BenchError::system("listen for pushes")(source);
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let seen = seen.clone();
        let answer = move |_, _| {
            seen.pushes.fetch_add(1, Ordering::Relaxed);
            seen.another.notify_one();
            std::future::ready(Answer::text(200, Bytes::new()))
        };
        tokio::spawn(receive(listener, stop, answer));
        let concurrency = self.concurrency;
        place.configure(&format!(
            "[queues.bench]\nconcurrency = {concurrency}\nhttp = {{ url = \"http://{address}/\" }}\n"
        ))
    }

    /// Stores the jobs while the queue is paused, then lets them go; jobs per second, and
    /// processor time for each.
    async fn push_all(
        &self,
        server: &Server,
        connection: &mut Connection,
        seen: &Seen,
        progress: &Progress,
    ) -> Result<(f64, f64), BenchError> {
        connection.post("/v1/queues/bench/pause", Bytes::new()).await?;
        fill(connection, self.setup.payload, self.jobs, progress).await?;
        progress.begin("pushing", self.jobs);
        let (began, cpu_seconds) = (Instant::now(), server.cpu_seconds());
        connection.post("/v1/queues/bench/resume", Bytes::new()).await?;
        let mut looks = tokio::time::interval(LOOK_EACH);
        while completed(connection).await? < self.jobs {
            looks.tick().await;
            progress.advance(seen.pushes.load(Ordering::Relaxed));
        }
        let rate = self.jobs as f64 / began.elapsed().as_secs_f64();
        Ok((rate, (server.cpu_seconds() - cpu_seconds) * 1e6 / self.jobs as f64))
    }

    /// Creates jobs one at a time; how long each took to arrive.
    async fn push_singles(
        &self,
        connection: &mut Connection,
        seen: &Seen,
        progress: &Progress,
    ) -> Result<Latency, BenchError> {
        progress.begin("one at a time", self.singles);
        let work = Work::create(self.setup.payload);
        let mut micros = Vec::new();
        for single in 1..=self.singles {
            let another = seen.another.notified();
            tokio::pin!(another);
            // What the pushes before have left behind is no sign of this one.
            while another.as_mut().enable() {
                another.set(seen.another.notified());
            }
            let sent = Instant::now();
            let arrived = async {
                another.await;
                sent.elapsed()
            };
            let both = async { tokio::join!(work.create_all(connection), arrived) };
            let late = |_| BenchError::Late(PATIENCE);
            let (created, elapsed) = tokio::time::timeout(PATIENCE, both).await.map_err(late)?;
            created?;
            micros.push(u32::try_from(elapsed.as_micros()).unwrap_or(u32::MAX));
            while completed(connection).await? < self.jobs + single {}
            progress.advance(single);
        }
        Ok(Latency::of(&mut micros))
    }
}

/// How many jobs are completed.
async fn completed(connection: &mut Connection) -> Result<u64, BenchError> {
    let path = "/v1/stats";
    let answer = connection.get(path).await?;
    let stats: Result<Stats, _> = serde_json::from_slice(&answer);
    let unlike = |error: serde_json::Error| BenchError::Answer { path, text: error.to_string() };
    Ok(stats.map_err(unlike)?.jobs_completed)
}

fn text(report: &Report) -> String {
    let single = report.create_to_start;
    format!(
        "push: {} jobs, {} attempts at once, payloads of {} bytes\n\n\
         {} jobs/s, {:.1} µs of processor time a job\n\
         create to start of the attempt, {} one at a time: p50 {:.2} ms, p99 {:.2} ms, max {:.1} ms\n{}\n",
        grouped(report.jobs as f64),
        report.concurrency,
        report.payload_bytes,
        grouped(report.jobs_per_second),
        report.cpu_us,
        report.singles,
        single.p50_ms,
        single.p99_ms,
        single.max_ms,
        report.server.line(),
    )
}
