//! `tallyd bench`: loads a server of its own, in another process, and says how fast it was.

mod connection;
mod create;
mod error;
mod lifecycle;
mod load;
mod progress;
mod push;
mod report;
mod server;
mod storeless;
mod work;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{FalseyValueParser, RangedU64ValueParser};
use tokio_util::sync::CancellationToken;

use self::connection::Connection;
use self::error::BenchError;
use self::progress::Progress;
use self::server::{Place, Server};
use self::work::Work;
use super::Failure;
use super::signals::serve_until_asked;
use crate::server::MAX_CONNECTIONS;
use crate::worker::exec::open_files;

/// The jobs of a request that fills the store, and about how many bytes it may have.
const FILLING_BATCH: usize = 10_000;
const FILLING_BYTES: usize = 8 << 20;

/// The bytes of a job in a batch beside its payload, rounded up.
const FRAME_BYTES: usize = 100;

/// The flags of `tallyd bench`.
#[derive(Debug, clap::Args)]
pub struct Bench {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, clap::Subcommand)]
enum Mode {
    /// Create jobs, and compare with a server that stores nothing
    Create(create::Create),
    /// Create, lease and finish jobs, many at a time
    Lifecycle(lifecycle::Lifecycle),
    /// Have the server push jobs to a receiver here
    Push(push::Push),
    /// Serve creates that store nothing, for `create` to compare with
    #[command(hide = true)]
    Storeless(storeless::Storeless),
}

/// How much load, and upon what.
#[derive(Debug, clap::Args)]
struct Load {
    /// Connections that each send the next request when the last is answered
    #[arg(long, env = "TALLYD_BENCH_CONNECTIONS", default_value_t = 64)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=5_000))]
    connections: usize,
    /// How long to measure
    #[arg(long, env = "TALLYD_BENCH_SECONDS", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Ready jobs that are stored before the measurement; the server is started anew behind them
    #[arg(long, env = "TALLYD_BENCH_STORED", value_name = "JOBS", default_value_t = 0)]
    stored: u64,
    #[command(flatten)]
    setup: Setup,
}

/// What is measured, where, and how it is told.
#[derive(Debug, clap::Args)]
struct Setup {
    /// The bytes of each payload
    #[arg(long, env = "TALLYD_BENCH_PAYLOAD", value_name = "BYTES", default_value_t = 200)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(11..=1_000_000))]
    payload: usize,
    /// Where to put the temporary store: on the disk that is to be measured
    #[arg(long, env = "TALLYD_BENCH_DIR", value_name = "DIRECTORY", default_value = ".")]
    dir: PathBuf,
    /// Start the server by this command, which must become it, as "strace -D -f -qq -o /dev/null" does
    #[arg(long, env = "TALLYD_BENCH_UNDER", value_name = "COMMAND", value_delimiter = ' ')]
    under: Vec<String>,
    /// Print JSON for programs
    #[arg(long, env = "TALLYD_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

impl Bench {
    /// Measures and prints.
    ///
    /// # Errors
    ///
    /// The server under test cannot be started, or answers otherwise than it should.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.mode {
            Mode::Storeless(storeless) => storeless.run(),
            Mode::Create(create) => run(create.run()),
            Mode::Lifecycle(lifecycle) => run(lifecycle.run()),
            Mode::Push(push) => run(push.run()),
        }
    }
}

/// Runs a benchmark, unless a signal ends it: then its server and its files go as well. The load
/// comes from one thread, like that of a client which is not what is measured.
fn run(bench: impl Future<Output = Result<(), BenchError>>) -> Result<(), Failure> {
    open_files::raise(MAX_CONNECTIONS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Other(error.into()))?;
    runtime.block_on(serve_until_asked(async |stop: CancellationToken| {
        stop.run_until_cancelled(bench).await.unwrap_or(Err(BenchError::Interrupted))
    }))
}

impl Setup {
    fn place(&self) -> Result<Place, BenchError> {
        Place::new(&self.dir, &self.under)
    }
}

impl Load {
    fn amount(&self) -> load::Amount {
        load::Amount { connections: self.connections, time: Duration::from_secs(self.seconds) }
    }

    /// Starts the daemon, on a store that holds what it should.
    async fn serve(&self, place: &Place, progress: &Progress) -> Result<Server, BenchError> {
        let mut server = place.serve().await?;
        if self.stored > 0 {
            let mut connection = Connection::open(server.address).await?;
            fill(&mut connection, self.setup.payload, self.stored, progress).await?;
            drop(connection);
            server.stop().await?;
            server = place.serve().await?;
        }
        Ok(server)
    }
}

/// Creates so many jobs, as fast as one connection does.
async fn fill(
    connection: &mut Connection,
    payload: usize,
    jobs: u64,
    progress: &Progress,
) -> Result<(), BenchError> {
    progress.begin("storing jobs", jobs);
    let most = (FILLING_BYTES / (payload + FRAME_BYTES)).clamp(1, FILLING_BATCH) as u64;
    let mut work = Work::create_batch(payload, most.min(jobs));
    let mut left = jobs;
    while left > 0 {
        let count = left.min(most);
        if count < most {
            work = Work::create_batch(payload, count);
        }
        work.create_all(connection).await?;
        left -= count;
        progress.advance(jobs - left);
    }
    Ok(())
}
