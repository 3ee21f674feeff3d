//! Connections: how many, how long they may take to say something, and how they end.

use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustix::net::sockopt;
use tokio::io::AsyncBufReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::deadline::{Begun, HEAD, Haste, Hastening, HeadTimer, IDLE, Peer, Timed, UNTAKEN};
use super::tls::{self, Encrypted};
use super::unreadable::HoldingBack;
use super::web::LiveWeb;
use crate::metrics::{Metrics, Rejected};

/// The most connections of a listener at once: each costs a few kilobytes and a file descriptor.
pub const MAX_CONNECTIONS: usize = 10_000;

/// The most bytes of a request's line and headers.
pub(super) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The most bytes that hyper gathers before it hands them on: with [`MAX_CONNECTIONS`] this bounds
/// what slow readers and writers can hold.
const MAX_BUFFER_BYTES: usize = 64 * 1024;

/// The most bytes of an answer that wait in the kernel, which spends up to twice as much memory on them.
/// By itself it lets each connection have megabytes, and may take all of an exposition from a scraper
/// that reads nothing. This is enough for a megabyte a second where a round trip takes 0.1 s.
const MAX_UNSENT_BYTES: usize = 128 * 1024;

/// How long to pause after `accept` failed, as it does when file descriptors run out: time for
/// some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// How long open requests may take to end once the listener is closed: a body may take 30 s.
pub const LINGER: Duration = Duration::from_secs(35);

/// How long a connection on which nothing has come may still send its first request once the
/// listener is closed: whoever could connect is answered.
const FIRST: Duration = Duration::from_secs(1);

/// The answer to a connection too many.
const REFUSAL: &str = concat!(
    "HTTP/1.1 503 Service Unavailable\r\n",
    "content-type: application/json\r\ncontent-length: 101\r\n",
    "retry-after: 1\r\nconnection: close\r\n\r\n",
    r#"{"error":{"code":"too_many_connections","message":"close connections that you do not need any more"}}"#
);

/// Serves until `stop` is cancelled and the requests then open are answered; at most `most`
/// connections at once.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    metrics: Arc<Metrics>,
    web: Option<Arc<LiveWeb>>,
    most: usize,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(most));
    let open = TaskTracker::new();
    let cut = CancellationToken::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok((stream, address)) => (stream, Peer(address.ip().to_canonical())),
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                metrics.rejected(Rejected::TooManyConnections);
                warn!(event = "accept_failed", %error, "cannot accept connections; pausing");
                stop.run_until_cancelled(sleep(ACCEPT_PAUSE)).await;
                continue;
            }
        };
        let Ok(place) = places.clone().try_acquire_owned() else {
            metrics.rejected(Rejected::TooManyConnections);
            refuse(stream, web.as_deref());
            continue;
        };
        let counted = metrics.http_connection();
        let (metrics, web) = (metrics.clone(), web.clone());
        let connection = connection((stream, peer), router.clone(), metrics, web, stop.clone());
        let cut = cut.clone();
        open.spawn(async move {
            cut.run_until_cancelled(connection).await;
            drop((place, counted));
        });
    }
    drop(listener);
    open.close();
    if timeout(LINGER, open.wait()).await.is_err() {
        (0..open.len()).for_each(|_| metrics.rejected(Rejected::Timeout));
        warn!(event = "connections_cut", open = open.len(), "cutting connections that do not end");
        cut.cancel();
        open.wait().await;
    }
}

/// Whether `accept` failed because the peer has gone already.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Answers without waiting: an empty socket takes these few bytes at once. Who speaks TLS could not
/// read it, and only finds the connection closed.
fn refuse(stream: TcpStream, web: Option<&LiveWeb>) {
    if web.is_some_and(|web| web.current().web.tls.is_some()) {
        return;
    }
    let refused = stream.into_std().and_then(|mut stream| stream.write_all(REFUSAL.as_bytes()));
    if let Err(error) = refused {
        debug!(event = "refusal_unsent", %error);
    }
}

/// Serves one connection to its end; at `stop` it ends after the request that is open, or its first
/// one if that comes soon.
async fn connection(
    (stream, peer): (TcpStream, Peer),
    router: Router,
    metrics: Arc<Metrics>,
    web: Option<Arc<LiveWeb>>,
    stop: CancellationToken,
) {
    if let Err(error) = set_options(&stream) {
        // None matters enough to refuse a connection over it.
        debug!(event = "socket_option_failed", %error);
    }
    if !comes_in_time(something(&stream), &stop).await {
        return;
    }
    let Some((stream, over)) = opened(stream, &metrics, web.clone(), &stop).await else { return };
    let (begun, haste) = (Begun::default(), Haste::default());
    let mut stream = HoldingBack::new(Timed::new(stream, begun.clone(), haste.clone()));
    let service = Hastening { service: TowerToHyperService::new(router), haste, peer };
    let ended = requests(&mut stream, service, begun.clone(), either(&stop, &over)).await;
    if let Err(error) = ended {
        // What hyper refuses by itself has passed no handler.
        if error.is_parse() || error.is_parse_too_large() {
            metrics.rejected(Rejected::InvalidRequest);
            stream.explain(&error, web.as_deref()).await;
        } else if error.is_timeout() && begun.has_begun() {
            metrics.rejected(Rejected::Timeout);
        }
        debug!(event = "connection_broken", %error);
    }
}

/// What requests come on.
type Opened = Either<TcpStream, Box<Encrypted>>;

/// Serves requests until the connection ends; after `stop` only the one that is open, or the first.
async fn requests(
    stream: &mut HoldingBack<Timed<Opened>>,
    service: Hastening<TowerToHyperService<Router>>,
    begun: Begun,
    stop: impl Future<Output = ()>,
) -> hyper::Result<()> {
    let mut connection = pin!(
        http1::Builder::new()
            .timer(HeadTimer(begun))
            .header_read_timeout(HEAD)
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(MAX_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        // First, since hyper closes at once what it has read nothing from.
        biased;
        ended = connection.as_mut() => ended,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// What requests come on: the connection itself, or what is under TLS on it; none if that is not
/// agreed on, or nothing comes then. With it comes what is cancelled when a new one would be agreed on
/// in another way.
async fn opened(
    stream: TcpStream,
    metrics: &Metrics,
    web: Option<Arc<LiveWeb>>,
    stop: &CancellationToken,
) -> Option<(Opened, CancellationToken)> {
    let Some(web) = web else { return Some((Either::Left(stream), stop.clone())) };
    let current = web.look().await;
    let over = current.replaced.clone();
    let Some(config) = current.web.tls.clone() else { return Some((Either::Left(stream), over)) };
    let begun = async {
        let accepted = tls::accept(stream, config, metrics).await;
        let mut stream = accepted.map_err(|error| web.handshake_failed(&error)).ok()?;
        let first = async { stream.fill_buf().await.is_ok() };
        comes_in_time(first, stop).await.then_some(stream)
    };
    let begun = over.run_until_cancelled(begun).await??;
    // On a busy machine what was asked after the change is seen at once with it.
    (!over.is_cancelled()).then_some((Either::Right(begun), over))
}

/// Resolves when one of them is cancelled.
async fn either(one: &CancellationToken, other: &CancellationToken) {
    tokio::select! {
        () = one.cancelled() => {}
        () = other.cancelled() => {}
    }
}

/// Sets the options of a connection; not once on the listener, which may have been handed over with
/// connections that wait.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS)?;
    Ok(sockopt::set_socket_send_buffer_size(stream, MAX_UNSENT_BYTES)?)
}

/// Waits for the first byte, or the end; false if the connection broke.
async fn something(stream: &TcpStream) -> bool {
    stream.peek(&mut [0]).await.is_ok()
}

/// Whether what is first waited for on a new connection comes before it has taken too long.
async fn comes_in_time(first: impl Future<Output = bool>, stop: &CancellationToken) -> bool {
    let too_late = async {
        let is_stopped = timeout(IDLE, stop.cancelled()).await.is_ok();
        if is_stopped {
            sleep(FIRST).await;
        }
    };
    tokio::select! {
        biased;
        is_there = first => is_there,
        () = too_late => false,
    }
}

/// How long a peer that has vanished may leave bytes unacknowledged: as long as one that is there
/// may leave an answer untaken.
const UNACKNOWLEDGED_MS: u32 = UNTAKEN.as_millis() as u32;

#[cfg(test)]
mod tests;
