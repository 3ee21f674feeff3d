//! The other side of `tallyd bench create`: the same HTTP server, storing nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::super::{Failure, logs};
use crate::clock::Clock;
use crate::config::{Config, LogConfig, LogFormat, LogLevel};
use crate::metrics::Metrics;
use crate::server::{self, Api};
use crate::store::Store;

/// The flags of the server that stores nothing, as far as `serve` has them.
#[derive(Debug, clap::Args)]
pub(super) struct Storeless {
    #[arg(long)]
    listen: SocketAddr,
    /// A store that is opened and left as it is
    #[arg(long)]
    data: PathBuf,
    #[arg(long, value_parser = ["json"])]
    log_format: String,
    #[arg(long, value_parser = ["info"])]
    log_level: String,
}

impl Storeless {
    /// Serves until SIGTERM.
    pub(super) fn run(&self) -> Result<(), Failure> {
        logs::start(LogConfig { format: LogFormat::Json, level: LogLevel::Info });
        let runtime = Runtime::new().map_err(|error| Failure::Other(error.into()))?;
        runtime.block_on(self.serve())
    }

    async fn serve(&self) -> Result<(), Failure> {
        let failed = |error: std::io::Error| Failure::Other(error.into());
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let config = Arc::new(Config { data: self.data.clone(), ..Config::default() });
        let metrics = Arc::new(Metrics::new(config.clone()));
        let store = Store::open(config.clone(), Clock::system(), metrics.clone());
        let store = store.map_err(|error| Failure::Other(error.into()))?;
        let listener = TcpListener::bind(self.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let api = Api::new(store.clone(), metrics, config, CancellationToken::new());
        let stop = CancellationToken::new();
        let served = tokio::spawn(server::serve_storeless(api, listener, stop.clone()));
        info!(event = "listening", %address, "storing nothing");
        terminate.recv().await;
        stop.cancel();
        served.await.map_err(|error| Failure::Other(error.into()))?;
        store.close().await.map_err(|error| Failure::Other(error.into()))
    }
}
