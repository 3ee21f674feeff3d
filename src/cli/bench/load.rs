//! Load: connections that each send the next request when the last is answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::error::BenchError;
use super::work::Work;

/// How long a load goes on before anything counts, so that caches and connections are warm.
const WARM_UP: Duration = Duration::from_millis(500);

/// How long the last requests may take once the time is over.
const LAST_ANSWERS: Duration = Duration::from_secs(60);

/// How much load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Amount {
    /// How many connections send it.
    pub(super) connections: usize,
    /// For how long it is measured.
    pub(super) time: Duration,
}

/// What was measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// Jobs whose request was answered within the time.
    pub(super) jobs: u64,
    /// The same, those before the time included.
    pub(super) all_jobs: u64,
    /// Over how long.
    pub(super) time: Duration,
    /// Of each sort of request, the time to its answer in microseconds.
    pub(super) latencies: Vec<Vec<u32>>,
}

impl Measured {
    /// Jobs per second.
    pub(super) fn rate(&self) -> f64 {
        self.jobs as f64 / self.time.as_secs_f64()
    }
}

/// When requests count.
#[derive(Debug, Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

/// What one connection has measured.
pub(super) struct Recorder {
    window: Window,
    latencies: Vec<Vec<u32>>,
    jobs: u64,
    /// Of all connections, for the progress shown meanwhile.
    total: Arc<AtomicU64>,
}

impl Recorder {
    /// Notes a request of the sort `sort` that was answered just now.
    pub(super) fn answered(&mut self, sort: usize, sent: Instant) {
        // Also if the answer comes after the end: those that take longest are what is looked for.
        if sent >= self.window.begin && sent <= self.window.end {
            let micros = sent.elapsed().as_micros();
            self.latencies[sort].push(u32::try_from(micros).unwrap_or(u32::MAX));
        }
    }

    /// Notes jobs that have got to where the work leads them just now.
    pub(super) fn done(&mut self, jobs: u64) {
        let now = Instant::now();
        if now >= self.window.begin && now <= self.window.end {
            self.jobs += jobs;
        }
        self.total.fetch_add(jobs, Ordering::Relaxed);
    }
}

/// Does `work` on all connections; `each_second` is told of the jobs so far.
pub(super) async fn run(
    address: SocketAddr,
    work: &Work,
    amount: Amount,
    mut each_second: impl FnMut(u64),
) -> Result<Measured, BenchError> {
    let mut connections = Vec::with_capacity(amount.connections);
    for _ in 0..amount.connections {
        connections.push(Connection::open(address).await?);
    }
    let begin = Instant::now() + WARM_UP;
    let window = Window { begin, end: begin + amount.time };
    let total = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    for connection in connections {
        let latencies = vec![Vec::new(); work.sorts().len()];
        let recorder = Recorder { window, latencies, jobs: 0, total: total.clone() };
        running.spawn(one(connection, work.clone(), recorder));
    }
    let mut seconds = tokio::time::interval_at(begin, Duration::from_secs(1));
    let mut measured = Measured { time: amount.time, ..Measured::default() };
    measured.latencies.resize(work.sorts().len(), Vec::new());
    loop {
        tokio::select! {
            _ = seconds.tick() => each_second(total.load(Ordering::Relaxed)),
            ended = running.join_next() => match ended {
                Some(ended) => measured.add(ended.expect("a load is not cancelled, and does not panic")?),
                None => break,
            },
        }
    }
    measured.all_jobs = total.load(Ordering::Relaxed);
    if measured.latencies.iter().any(Vec::is_empty) {
        return Err(BenchError::Nothing);
    }
    Ok(measured)
}

impl Measured {
    fn add(&mut self, recorder: Recorder) {
        self.jobs += recorder.jobs;
        for (all, own) in self.latencies.iter_mut().zip(recorder.latencies) {
            all.extend(own);
        }
    }
}

/// Works on one connection until the time is over.
async fn one(
    mut connection: Connection,
    work: Work,
    mut recorder: Recorder,
) -> Result<Recorder, BenchError> {
    while Instant::now() < recorder.window.end {
        let deadline = recorder.window.end + LAST_ANSWERS;
        match timeout_at(deadline, work.step(&mut connection, &mut recorder)).await {
            Ok(done) => done?,
            Err(_) => return Err(BenchError::Late(LAST_ANSWERS)),
        }
    }
    Ok(recorder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_slowest_requests_count_though_the_time_is_over_when_they_are_answered() {
        let begin = Instant::now() + Duration::from_secs(1);
        let window = Window { begin, end: begin + Duration::from_secs(1) };
        let latencies = vec![Vec::new()];
        let mut recorder = Recorder { window, latencies, jobs: 0, total: Arc::default() };
        let (early, counted) = (Instant::now(), begin + Duration::from_millis(900));
        tokio::time::advance(Duration::from_millis(3_900)).await;
        recorder.answered(0, early);
        recorder.answered(0, counted);
        recorder.answered(0, window.end + Duration::from_millis(1));
        recorder.done(1);
        assert_eq!(recorder.latencies, [[2_000_000]]);
        assert_eq!((recorder.jobs, recorder.total.load(Ordering::Relaxed)), (0, 1));
    }
}
