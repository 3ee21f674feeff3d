//! The HTTP interface: what every request shares, and the one way to serve it.
//!
//! A request passes `connections` (limits, timeouts), `gate` (tokens, host check, counts, panics) and
//! the table in `routes`, which the router and the API's description are both made of.
//! `receiver` is no part of it: it answers pushes, for the commands that need someone to push to.

mod accept;
mod auth;
mod backups;
mod batch;
mod body;
mod bucket;
mod connections;
mod deadline;
mod error;
#[cfg(test)]
mod fixture;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod handover;
mod held;
mod job_request;
mod job_view;
mod jobs;
mod json;
mod leases;
mod openapi;
mod pages;
mod places;
mod query;
mod queues;
pub mod receiver;
mod room;
mod routes;
mod scrapes;
mod scribe;
mod stats;
mod storeless;
mod tls;
mod traceparent;
mod unreadable;
mod web;

pub use auth::Guard;
pub use connections::{LINGER, MAX_CONNECTIONS};

use std::future::Future;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use error::ApiError;
use room::{Room, Rooms};
use scrapes::Scrapes;

/// The most writes under way, those whose callers have gone included: twice what the store's channel
/// and one of its transactions hold. Further ones wait with their callers.
const MAX_WRITES: usize = 4_096;

/// What the handlers work with; one for all listeners.
pub struct Api {
    store: Store,
    metrics: Arc<Metrics>,
    config: Arc<Config>,
    draining: CancellationToken,
    writes: TaskTracker,
    write_places: Arc<Semaphore>,
    rooms: Rooms,
    answers: Rooms,
    scrapes: Arc<Scrapes>,
    guard: Arc<Guard>,
}

/// What the router hands to each handler.
type Shared = Arc<Api>;

impl Api {
    /// What the handlers need. Once `draining` is cancelled nothing is leased any more and
    /// `/-/ready` answers 503; everything else goes on.
    ///
    /// # Errors
    ///
    /// There cannot be one more thread.
    pub fn new(
        store: Store,
        metrics: Arc<Metrics>,
        config: Arc<Config>,
        draining: CancellationToken,
        clock: Clock,
    ) -> io::Result<Arc<Self>> {
        let guard = Arc::new(Guard::new(&config, clock, &routes::table()));
        Ok(Arc::new(Self {
            store,
            metrics,
            config,
            draining,
            writes: TaskTracker::new(),
            write_places: Arc::new(Semaphore::new(MAX_WRITES)),
            rooms: Rooms::new(),
            answers: Rooms::new(),
            scrapes: Scrapes::new()?,
            guard,
        }))
    }

    /// Who may call, and what for.
    pub fn guard(&self) -> Arc<Guard> {
        self.guard.clone()
    }

    /// Resolves when every write that was begun is finished, those of callers who hung up included.
    ///
    /// Call it once the listeners are closed and before the store is.
    pub async fn writes_finished(&self) {
        self.writes.close();
        self.writes.wait().await;
    }

    /// Does a write that is one operation of the store, which finishes what it was handed whoever
    /// hangs up. So it runs by itself, which costs a small create a sixth of its rate, only if the
    /// body of its request holds room.
    async fn write_one<T: Send + 'static>(
        &self,
        room: Room,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<(T, Room), ApiError> {
        if room.is_free() { Ok((work.await?, room)) } else { self.write_in(room, work).await }
    }

    /// Runs a write to its end, even if the caller hangs up and this future is dropped.
    async fn write<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        Ok(self.write_in(self.rooms.enter(), work).await?.0)
    }

    /// The same with the room that it holds, which is given back for the answer.
    async fn write_in<T: Send + 'static>(
        &self,
        room: Room,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<(T, Room), ApiError> {
        let place = self.write_places.clone().acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let to_its_end = async move {
            let done = work.await;
            drop(place);
            done.map(|done| (done, room))
        };
        match self.writes.spawn(to_its_end).await {
            Ok(done) => Ok(done?),
            Err(broken) => match broken.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Err(StoreError::Stopped("tallyd is ending".into()).into()),
            },
        }
    }
}

/// Which routes a listener has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routes {
    /// All.
    Whole,
    /// All but `/metrics`, which has a listener of its own.
    WithoutMetrics,
    /// `/metrics` and the health routes.
    MetricsOnly,
}

impl Routes {
    /// Those of the main listener under this configuration.
    pub fn of_main(config: &Config) -> Self {
        if config.metrics_listen.is_some() { Self::WithoutMetrics } else { Self::Whole }
    }
}

/// The most connections at once of a daemon with this configuration: each listener has its own.
pub fn most_connections(config: &Config) -> usize {
    MAX_CONNECTIONS * (1 + usize::from(config.metrics_listen.is_some()))
}

/// Serves until `stop` is cancelled and the requests then open are answered.
///
/// The listener closes at once when `stop` is cancelled; connections that are still open after
/// 35 s are cut.
pub async fn serve(api: Arc<Api>, listener: TcpListener, has: Routes, stop: CancellationToken) {
    let (metrics, web) = (api.metrics.clone(), api.guard.web().cloned());
    let router = routes::router(api, has);
    connections::serve(listener, router, metrics, web, MAX_CONNECTIONS, stop).await;
}

/// Serves creates that store nothing until `stop` is cancelled, for the benchmark to compare with.
pub async fn serve_storeless(api: Arc<Api>, listener: TcpListener, stop: CancellationToken) {
    let metrics = api.metrics.clone();
    let router = storeless::router(api);
    connections::serve(listener, router, metrics, None, MAX_CONNECTIONS, stop).await;
}

#[cfg(test)]
mod tests;
