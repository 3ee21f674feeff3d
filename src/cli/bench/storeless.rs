//! The other side of `tallyd bench create`: the same HTTP server, storing nothing.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::super::signals::serve_until_asked;
use super::super::{Failure, logs};
use crate::clock::Clock;
use crate::config::{Config, LogConfig, LogFormat, LogLevel};
use crate::metrics::Metrics;
use crate::server::{self, Api, MAX_CONNECTIONS};
use crate::store::Store;
use crate::worker::exec::open_files;

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
        open_files::raise(MAX_CONNECTIONS);
        let runtime = Runtime::new().map_err(|error| Failure::Other(error.into()))?;
        runtime.block_on(serve_until_asked(async |stop| self.serve(stop).await))
    }

    async fn serve(&self, stop: CancellationToken) -> Result<(), Box<dyn Error>> {
        let config = Arc::new(Config { data: self.data.clone(), ..Config::default() });
        let metrics = Arc::new(Metrics::new(config.clone()));
        let store = Store::open(config.clone(), Clock::system(), metrics.clone())?;
        let listener = TcpListener::bind(self.listen).await?;
        let address = listener.local_addr()?;
        let api =
            Api::new(store.clone(), metrics, config, CancellationToken::new(), Clock::system())?;
        let served = tokio::spawn(server::serve_storeless(api, listener, stop));
        info!(event = "listening", %address, "storing nothing");
        served.await?;
        Ok(store.close().await?)
    }
}
