//! The daemon: what is started in which order, and how it ends.
//!
//! Start: address, store, worker pool, sweeper, answers. Drain: nothing more is claimed or leased,
//! running attempts finish or are released, then the sweeper, open requests and the store. Until
//! the listener closes, everything but leasing goes on; `/metrics` on a listener of its own answers
//! until no count changes any more. Whoever supervises the process is told of each of these steps.

mod pulse;
mod socket;
mod systemd;

pub use self::systemd::{Notifier, SocketError, Systemd};

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use self::pulse::Pulse;
use self::socket::Socket;

use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::server::{self, Api, Guard, LINGER, Routes};
use crate::store::{OpenError, Store, StoreError};
use crate::sweeper::Sweeper;
use crate::worker::exec::{GRACE, end_leftovers};
use crate::worker::{StartError, Workers};

/// How long answers may take to leave after the store has failed: the process ends within a second.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

/// How long interrupted attempts may take to be released: the grace of their commands, and time for
/// the rest. A command that the kernel holds on to must not hold up the end.
const LAST_RELEASES: Duration = Duration::from_secs(GRACE.as_secs() + 3);

/// How long the rest of an end may take: a checkpoint of the whole log onto a slow disk.
const LAST_WRITES: Duration = Duration::from_secs(20);

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
    /// A queue's jobs cannot be run.
    #[error(transparent)]
    Workers(#[from] StartError),
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
    metrics: Arc<Metrics>,
    workers: Workers,
    api: Arc<Api>,
    /// The listeners that end with the requests, and those that are scraped until the end.
    servers: TaskTracker,
    scraped: TaskTracker,
    sweeper: JoinHandle<Result<(), StoreError>>,
    /// Where the HTTP interface listens.
    address: SocketAddr,
    notifier: Notifier,
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
    /// Close the main listener.
    serving: CancellationToken,
    /// Close the listener of `/metrics`, if it has its own.
    scraping: CancellationToken,
    /// Give no more signs of life.
    pulsing: CancellationToken,
    /// Cancelled by a listener that ends although it must not.
    deaf: CancellationToken,
}

impl Daemon {
    /// Starts everything; when it returns, requests are served. None if `stop` came first.
    ///
    /// Where `systemd` has a socket, that one is served on, whatever the configuration says.
    pub async fn start(
        config: Config,
        systemd: Systemd,
        stop: &CancellationToken,
    ) -> Result<Option<Self>, DaemonError> {
        let Systemd { sockets, notifier, watchdog } = systemd;
        let main = Socket::take(sockets.http, config.listen)?;
        let for_metrics = config.metrics_listen;
        let for_metrics =
            for_metrics.map(|address| Socket::take(sockets.metrics, address)).transpose()?;
        let config = Arc::new(config);
        notifier.state("opening the store").await;
        let clock = Clock::system();
        let metrics = Arc::new(Metrics::new(config.clone()));
        let store = Store::open(config.clone(), clock.clone(), metrics.clone())?;
        let doing = "look for processes that a crash left behind";
        let ended = stop.run_until_cancelled(end_leftovers(&store.mark())).await;
        let Some(ended) = ended.filter(|_| !stop.is_cancelled()) else {
            store.close().await.map_err(DaemonError::Close)?;
            return Ok(None);
        };
        let ended = ended.map_err(|source| DaemonError::Start { doing, source })?;
        if ended > 0 {
            info!(event = "leftovers_ended", ended, "processes of an earlier daemon were ended");
        }
        // Nothing is answered yet, but an address that is taken meanwhile is noticed before a job runs.
        let (main, address) = main.listen()?;
        let for_metrics = for_metrics.map(Socket::listen).transpose()?;
        let signals = Signals::new();
        let (claiming, interrupt) = (&signals.claiming, &signals.interrupt);
        let workers = Workers::start(&store, &config, &metrics, claiming, interrupt, &clock)?;
        let sweeper = Sweeper::new(store.clone(), metrics.clone(), clock.clone());
        let sweeper = tokio::spawn(sweeper.run(signals.sweeping.clone()));
        let api = Api::new(store.clone(), metrics.clone(), config.clone(), claiming.clone(), clock);
        let api = api.map_err(|source| DaemonError::Start { doing: "start a thread", source })?;
        let (servers, scraped) = (TaskTracker::new(), TaskTracker::new());
        let (deaf, serving, scraping) = (&signals.deaf, &signals.serving, &signals.scraping);
        servers.spawn(serve(api.clone(), main, Routes::of_main(&config), serving, deaf));
        if let Some((listener, address)) = for_metrics {
            scraped.spawn(serve(api.clone(), listener, Routes::MetricsOnly, scraping, deaf));
            info!(event = "listening", %address, "serving metrics");
        }
        servers.close();
        scraped.close();
        if let Some(watchdog) = watchdog {
            let (store, metrics, notifier) = (store.clone(), metrics.clone(), notifier.clone());
            let draining = claiming.clone();
            let pulse = Pulse { store, metrics, notifier, watchdog, address, draining };
            tokio::spawn(pulse.run(signals.pulsing.clone()));
        }
        notifier.ready(&format!("serving on {address}")).await;
        let (data, tokens) = (config.data.display(), config.tokens.all().count());
        let tls = config.web.as_ref().is_some_and(|web| web.tls.is_some());
        info!(event = "listening", %address, %data, tokens, tls, "tallyd is ready");
        Ok(Some(Self {
            config,
            store,
            metrics,
            workers,
            api,
            servers,
            scraped,
            sweeper,
            address,
            notifier,
            signals,
        }))
    }

    /// Where the HTTP interface listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who may call, and what for.
    pub fn guard(&self) -> Arc<Guard> {
        self.api.guard()
    }

    /// The counts; they can be read after the end as well.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Serves until `stop` is cancelled or a part dies; then drains, unless nothing can be stored.
    pub async fn run(mut self, stop: &CancellationToken) -> Result<(), DaemonError> {
        let exit = tokio::select! {
            () = stop.cancelled() => Ok(()),
            reason = self.store.failed() => return Err(self.fail(reason).await),
            ended = &mut self.sweeper => Err(sweeper_died(ended)),
            part = self.workers.died() => Err(DaemonError::LoopDied(part)),
            () = self.signals.deaf.cancelled() => Err(DaemonError::LoopDied("listener")),
        };
        if let Err(error) = &exit {
            error!(event = "part_died", %error, "draining");
        }
        let store = self.store.clone();
        let drained = tokio::select! {
            // Once drained, the store is closed, and that is no failure.
            biased;
            drained = self.drain() => Ok(drained),
            reason = store.failed() => Err(reason),
        };
        match drained {
            Ok(drained) => drained.and(exit),
            Err(reason) => Err(self.fail(reason).await),
        }
    }

    async fn drain(&mut self) -> Result<(), DaemonError> {
        let running = self.workers.running();
        info!(event = "draining", running, "claiming and leasing nothing more");
        self.signals.claiming.cancel();
        let state = format!("draining; running attempts: {running}");
        self.notifier.stopping(&state, self.longest_drain()).await;
        if let Err(error) = self.store.stop_waiting().await {
            // Claims that wait were told by `claiming` as well; a store that failed tells `run`.
            warn!(event = "stop_waiting_failed", %error);
        }
        if timeout(self.config.drain_timeout, self.workers.wait()).await.is_err() {
            let running = self.workers.running();
            warn!(event = "drain_timed_out", running, "releasing what still runs");
            self.signals.interrupt.cancel();
            self.release().await;
        }
        // Only now stop what the attempts relied on: sweeper, HTTP, then the store.
        self.signals.sweeping.cancel();
        if !self.sweeper.is_finished() {
            // It has ended by `sweeping`; that the store has stopped shows when it is closed.
            drop((&mut self.sweeper).await);
        }
        self.signals.serving.cancel();
        self.servers.wait().await;
        self.api.writes_finished().await;
        self.signals.scraping.cancel();
        self.scraped.wait().await;
        self.signals.pulsing.cancel();
        self.store.close().await.map_err(DaemonError::Close)?;
        info!(event = "drained", "tallyd has ended in order");
        Ok(())
    }

    /// How long a drain takes at most: attempts, requests of each listener, and the store.
    fn longest_drain(&self) -> Duration {
        self.config.drain_timeout + LAST_RELEASES + 2 * LINGER + LAST_WRITES
    }

    /// Waits for the interrupted attempts; those that are left then end with the process.
    async fn release(&self) {
        if timeout(LAST_RELEASES, self.workers.wait()).await.is_err() {
            let running = self.workers.running();
            warn!(
                event = "attempts_left",
                running, "ending without them; the next start counts them as failed"
            );
        }
    }

    /// Fail-stop: lets the answers leave that say so, and nothing else.
    async fn fail(&self, reason: String) -> DaemonError {
        self.signals.claiming.cancel();
        self.signals.serving.cancel();
        self.signals.scraping.cancel();
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
            scraping: CancellationToken::new(),
            pulsing: CancellationToken::new(),
            deaf: CancellationToken::new(),
        }
    }
}

fn sweeper_died(ended: Result<Result<(), StoreError>, JoinError>) -> DaemonError {
    match ended {
        Ok(Err(StoreError::Stopped(reason))) => DaemonError::StoreFailed(reason),
        _ => DaemonError::LoopDied("sweeper"),
    }
}

/// Serves until `stop`; any other end cancels `deaf`.
fn serve(
    api: Arc<Api>,
    listener: TcpListener,
    has: Routes,
    stop: &CancellationToken,
    deaf: &CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let (stop, ends) = (stop.clone(), deaf.clone().drop_guard());
    async move {
        server::serve(api, listener, has, stop.clone()).await;
        if stop.is_cancelled() {
            ends.disarm();
        }
    }
}
