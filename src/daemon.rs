//! The daemon: what is started in which order, and how it ends.
//!
//! Start: address, store, worker pool, sweeper, listener. Drain: nothing more is claimed or leased,
//! running attempts finish or are released, then the sweeper, open requests and the store. Until
//! the listener closes, everything but leasing goes on, and `/metrics` answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::server::{self, Api, Role};
use crate::store::{OpenError, Store, StoreError};
use crate::sweeper::Sweeper;
use crate::worker::Workers;
use crate::worker::exec::end_leftovers;

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 1_024;

/// How long answers may take to leave after the store has failed: the process ends within a second.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

/// Why the daemon could not start, or ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Something that the start needs from the system failed.
    #[error("cannot {doing}")]
    Start {
        /// What.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Nothing can be stored any more.
    #[error("the store has failed: {0}")]
    StoreFailed(String),
    /// The store could not be closed in order.
    #[error("the store was not closed in order")]
    Close(#[source] StoreError),
    /// A loop that must not end has ended.
    #[error("the {0} has ended unexpectedly")]
    LoopDied(&'static str),
}

/// A started daemon.
pub struct Daemon {
    config: Arc<Config>,
    store: Store,
    workers: Workers,
    api: Arc<Api>,
    servers: TaskTracker,
    sweeper: JoinHandle<Result<(), StoreError>>,
    /// Where the HTTP interface listens.
    address: SocketAddr,
    signals: Signals,
}

/// What the parts wait for, in the order in which they are cancelled.
struct Signals {
    /// Claim and lease nothing more.
    claiming: CancellationToken,
    /// End running attempts.
    interrupt: CancellationToken,
    /// Sweep no more.
    sweeping: CancellationToken,
    /// Close the listeners.
    serving: CancellationToken,
}

impl Daemon {
    /// Starts everything; when it returns, requests are served.
    pub async fn start(config: Config) -> Result<Self, DaemonError> {
        let config = Arc::new(config);
        let main = bind(config.listen)?;
        let for_metrics = config.metrics_listen.map(bind).transpose()?;
        let clock = Clock::system();
        let metrics = Arc::new(Metrics::new(config.clone()));
        let store = Store::open(config.clone(), clock.clone(), metrics.clone())?;
        let doing = "look for processes that a crash left behind";
        let ended = end_leftovers(&store.identity()).await;
        let ended = ended.map_err(|source| DaemonError::Start { doing, source })?;
        if ended > 0 {
            info!(event = "leftovers_ended", ended, "processes of an earlier daemon were ended");
        }
        let signals = Signals::new();
        let (claiming, interrupt) = (&signals.claiming, &signals.interrupt);
        let doing = "start the worker pool";
        let workers = Workers::start(&store, &config, &metrics, claiming, interrupt)
            .map_err(|source| DaemonError::Start { doing, source })?;
        let sweeper = Sweeper::new(store.clone(), metrics.clone(), clock);
        let sweeper = tokio::spawn(sweeper.run(signals.sweeping.clone()));
        let api = Api::new(store.clone(), metrics, config.clone(), claiming.clone());
        let servers = TaskTracker::new();
        let address = listen(main, &api, Role::of_main(&config), &signals, &servers)?;
        if let Some(socket) = for_metrics {
            let address = listen(socket, &api, Role::MetricsOnly, &signals, &servers)?;
            info!(event = "listening", %address, "serving metrics");
        }
        servers.close();
        info!(event = "listening", %address, data = %config.data.display(), "tallyd is ready");
        Ok(Self { config, store, workers, api, servers, sweeper, address, signals })
    }

    /// Where the HTTP interface listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` resolves or a part dies; then drains, unless nothing can be stored.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), DaemonError> {
        let exit = tokio::select! {
            () = stop => Ok(()),
            reason = self.store.failed() => return Err(self.fail(reason).await),
            ended = &mut self.sweeper => Err(sweeper_died(ended)),
            () = self.servers.wait() => Err(DaemonError::LoopDied("listener")),
        };
        if let Err(error) = &exit {
            error!(event = "part_died", %error, "draining");
        }
        let failed = self.store.clone();
        tokio::select! {
            // The drain's own close of the store must not pass for its failure.
            biased;
            drained = self.drain() => drained.and(exit),
            reason = failed.failed() => Err(DaemonError::StoreFailed(reason)),
        }
    }

    async fn drain(self) -> Result<(), DaemonError> {
        let running = self.workers.running();
        info!(event = "draining", running, "claiming and leasing nothing more");
        self.signals.claiming.cancel();
        self.store.stop_waiting().await.map_err(DaemonError::Close)?;
        if timeout(self.config.drain_timeout, self.workers.wait()).await.is_err() {
            let running = self.workers.running();
            warn!(event = "drain_timed_out", running, "releasing what still runs");
            self.signals.interrupt.cancel();
            self.workers.wait().await;
        }
        // Only now stop what the attempts relied on: sweeper, HTTP, then the store.
        self.signals.sweeping.cancel();
        if !self.sweeper.is_finished() {
            // It has ended by `sweeping`; that the store has stopped shows when it is closed.
            drop(self.sweeper.await);
        }
        self.signals.serving.cancel();
        self.servers.wait().await;
        self.api.writes_finished().await;
        self.store.close().await.map_err(DaemonError::Close)?;
        info!(event = "drained", "tallyd has ended in order");
        Ok(())
    }

    /// Fail-stop: lets the answers leave that say so, and nothing else.
    async fn fail(&self, reason: String) -> DaemonError {
        self.signals.claiming.cancel();
        self.signals.serving.cancel();
        // Whether all have left or time is up, the process ends.
        drop(timeout(LAST_ANSWERS, self.servers.wait()).await);
        DaemonError::StoreFailed(reason)
    }
}

impl Signals {
    fn new() -> Self {
        Self {
            claiming: CancellationToken::new(),
            interrupt: CancellationToken::new(),
            sweeping: CancellationToken::new(),
            serving: CancellationToken::new(),
        }
    }
}

fn sweeper_died(ended: Result<Result<(), StoreError>, JoinError>) -> DaemonError {
    match ended {
        Ok(Err(StoreError::Stopped(reason))) => DaemonError::StoreFailed(reason),
        _ => DaemonError::LoopDied("sweeper"),
    }
}

/// Takes the address without accepting anything yet, so that one in use is noticed before the
/// store is touched.
fn bind(address: SocketAddr) -> Result<TcpSocket, DaemonError> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    bind().map_err(|source| DaemonError::Listen { address, source })
}

/// Begins to accept.
fn listen(
    socket: TcpSocket,
    api: &Arc<Api>,
    role: Role,
    signals: &Signals,
    servers: &TaskTracker,
) -> Result<SocketAddr, DaemonError> {
    let listen = || -> io::Result<(TcpListener, SocketAddr)> {
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    let doing = "listen";
    let (listener, address) = listen().map_err(|source| DaemonError::Start { doing, source })?;
    servers.spawn(server::serve(api.clone(), listener, role, signals.serving.clone()));
    Ok(address)
}
