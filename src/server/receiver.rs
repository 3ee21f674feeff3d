//! A small server that answers each request by one function: what receives pushes in the demo and
//! the benchmark.
//!
//! It knows no routes. It is meant for loopback: its limits keep it small, not safe from strangers.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{HeaderName, HeaderValue};
use axum::http::{Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::connections::is_of_one_connection;

pub use axum::http::HeaderMap;

/// The most connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 1_024;

/// The most bytes of a body: a job may have as many.
const MAX_BODY_BYTES: usize = 16 << 20;

/// How long a connection may be silent before its next request.
const IDLE: Duration = Duration::from_secs(60);

/// What the function answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code; one that HTTP does not know becomes 500.
    pub status: u16,
    /// Headers besides `content-length` and `date`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// An answer of text.
    pub fn text(status: u16, text: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: text.into() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<HeaderValue>) -> Self {
        self.headers.push((HeaderName::from_static(name), value.into()));
        self
    }
}

/// Answers every request by `answer`, from its headers and its body, until `stop` is cancelled;
/// then cuts what is still open.
///
/// # Errors
///
/// Nothing more can be accepted, as when file descriptors have run out.
pub async fn receive<F, A>(
    listener: TcpListener,
    stop: CancellationToken,
    answer: F,
) -> io::Result<()>
where
    F: Fn(HeaderMap, Bytes) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Answer> + Send,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (open, cut) = (TaskTracker::new(), stop.child_token());
    let accepting = async {
        loop {
            let place = places.clone().acquire_owned().await;
            let place = place.expect("the semaphore is never closed");
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => return error,
            };
            let (cut, answer) = (cut.clone(), answer.clone());
            open.spawn(async move {
                cut.run_until_cancelled(connection(stream, answer)).await;
                drop(place);
            });
        }
    };
    let failed = stop.run_until_cancelled(accepting).await;
    cut.cancel();
    open.close();
    open.wait().await;
    failed.map_or(Ok(()), Err)
}

async fn connection<F, A>(stream: TcpStream, answer: F)
where
    F: Fn(HeaderMap, Bytes) -> A,
    A: Future<Output = Answer>,
{
    if let Err(error) = stream.set_nodelay(true) {
        debug!(event = "socket_option_failed", %error);
    }
    let service = service_fn(|request| respond(request, &answer));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(event = "connection_broken", %error);
    }
}

async fn respond<F, A>(
    request: Request<Incoming>,
    answer: &F,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Fn(HeaderMap, Bytes) -> A,
    A: Future<Output = Answer>,
{
    let (head, body) = request.into_parts();
    let answer = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => answer(head.headers, body.to_bytes()).await,
        Err(error) => Answer::text(400, error.to_string()),
    };
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().extend(answer.headers);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use reqwest::Client;

    use super::*;

    /// A receiver that answers with the header `a` and the body, and its address.
    async fn start(stop: &CancellationToken) -> (String, tokio::task::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let echo = |headers: HeaderMap, body: Bytes| async move {
            if body.is_empty() {
                std::future::pending::<()>().await;
            }
            Answer::text(503, body).with("retry-after", headers["a"].clone())
        };
        (url, tokio::spawn(receive(listener, stop.clone(), echo)))
    }

    fn client() -> Client {
        // Fails if it was done before, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        Client::new()
    }

    #[tokio::test]
    async fn a_request_is_answered_by_the_function() {
        let stop = CancellationToken::new();
        let (url, receiving) = start(&stop).await;
        for number in ["1", "2"] {
            let answer = client().post(&url).header("a", number).body("text").send().await;
            let answer = answer.expect("it answers");
            assert_eq!(answer.status().as_u16(), 503);
            assert_eq!(answer.headers()["retry-after"], number);
            assert_eq!(answer.text().await.expect("it is whole"), "text");
        }
        stop.cancel();
        assert!(receiving.await.is_ok_and(|ended| ended.is_ok()));
    }

    #[tokio::test]
    async fn stop_cuts_what_is_not_answered() {
        let stop = CancellationToken::new();
        let (url, receiving) = start(&stop).await;
        let asked = tokio::spawn(client().post(&url).body("").send());
        let told = client().post(&url).header("a", "1").body("text").send().await;
        assert!(told.is_ok(), "one that hangs holds up no other");
        stop.cancel();
        assert!(receiving.await.is_ok_and(|ended| ended.is_ok()));
        assert!(asked.await.is_ok_and(|answer| answer.is_err()));
    }
}
