//! A client of tallyd's HTTP interface: a method for each route, typed in and out.
//!
//! It uses no proxy and follows no redirect, every request has a deadline, and every answer a
//! limit. Fields of answers that it does not know are ignored.

mod answer;
mod error;
mod jobs;
mod leases;
mod queues;
mod repeat;
mod time;

pub use answer::Document;
pub use error::{ClientError, Refusal};
pub use jobs::{Created, CreatedBatch, Job, LastError, ListQuery, NewJob, Page, UniqueUntil};
pub use leases::{Finish, LeaseRequest, LeaseResult, LeasedJob, Outcome};
pub use queues::{Backup, Bulk, BulkDone, BulkRequest, Queue, Queues};

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, ClientBuilder, Identity, Method, RequestBuilder, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::config::name;

/// How long a connection may take: a server that is there answers at once, or after a lost packet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take: longer than the server's own time limits, whose answers say more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// How long a backup may take: it copies in small steps, and leaves the disk to others.
const BACKUP_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a connection is kept for the next request: less than the server keeps it.
const IDLE: Duration = Duration::from_secs(30);

/// What requests say they come from.
const USER_AGENT: &str = concat!("tallyd/", env!("CARGO_PKG_VERSION"));

/// A client of one server; its clones share their connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    server: Url,
    authorization: Option<HeaderValue>,
    /// Whether the server was ever there.
    reached: Arc<AtomicBool>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.server()).finish_non_exhaustive()
    }
}

/// What a client knows servers by, and is known by, where connections are encrypted; all in PEM.
#[derive(Clone, Copy, Default)]
pub struct Trust<'a> {
    /// The only authorities whose servers are trusted; none = those of the system.
    pub authorities: Option<&'a [u8]>,
    /// The client's own certificate with its key, for servers that ask for one.
    pub identity: Option<&'a [u8]>,
}

impl fmt::Debug for Trust<'_> {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authorities = self.authorities.map(<[u8]>::len);
        f.debug_struct("Trust").field("authorities", &authorities).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at a URL such as `http://127.0.0.1:8255`. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// The URL is none of a server.
    pub fn new(server: &str) -> Result<Self, ClientError> {
        Self::trusting(server, Trust::default())
    }

    /// The same, which trusts the servers that it is told to.
    ///
    /// # Errors
    ///
    /// The URL is none of a server, or of one in the clear to which this means nothing, or what is
    /// trusted is not in PEM.
    pub fn trusting(server: &str, trust: Trust<'_>) -> Result<Self, ClientError> {
        let server = server_url(server)?;
        if trust.is_of_something() && is_in_the_clear(&server) {
            return Err(ClientError::InTheClear { server: error::shown(&server) });
        }
        // Fails if it was done before, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .no_proxy()
            .redirect(Policy::none())
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE);
        if server.scheme() == "http" {
            // Needs no certificates, of which a small image has none.
            http = http.tls_certs_only([]);
        } else {
            http = trust.apply(http)?;
        }
        let http = http.build().map_err(|error| ClientError::Setup(error.into()))?;
        Ok(Self { http, server, authorization: None, reached: Arc::default() })
    }

    /// The same client with a token, which each request brings along.
    ///
    /// # Errors
    ///
    /// The token has characters that no token has.
    pub fn with_token(mut self, token: &str) -> Result<Self, ClientError> {
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let has_gaps = token.is_empty() || token.contains(char::is_whitespace);
        let mut value = value.ok().filter(|_| !has_gaps).ok_or(ClientError::InvalidToken)?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(self)
    }

    /// Where it sends to, without user and password.
    pub fn server(&self) -> String {
        error::shown(&self.server)
    }

    /// Creates a job: once this returns, it is on disk. With a `unique_key` that is held until the job
    /// is gone, the request is repeated if its answer does not come.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says; without a `unique_key` the job may exist if no answer came.
    pub async fn create(&self, job: &NewJob) -> Result<Document<Created>, ClientError> {
        let create = || async {
            let request = self.request(Method::POST, &["jobs"])?;
            self.ask_for_document(request.json(job)).await
        };
        if !job.is_repeatable() {
            return create().await;
        }
        self.repeat(create, ClientError::is_unanswered).await
    }

    /// Creates up to 10,000 jobs, all or none. If all have a `unique_key` that is held until the job
    /// is gone, the request is repeated if its answer does not come.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says; a job that is refused is named by its index.
    pub async fn create_batch(&self, jobs: &[NewJob]) -> Result<CreatedBatch, ClientError> {
        let create = || self.post(&["jobs", "batch"], jobs);
        if !jobs.iter().all(NewJob::is_repeatable) {
            return create().await;
        }
        self.repeat(create, ClientError::is_unanswered).await
    }

    /// The same with jobs as JSON, one a line, as they are. Nothing is repeated.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says; a line that is refused is named by its index, blank ones not counted.
    pub async fn create_lines(&self, lines: Bytes) -> Result<CreatedBatch, ClientError> {
        let request = self.request(Method::POST, &["jobs", "batch"])?;
        self.ask(request.header(CONTENT_TYPE, "application/x-ndjson").body(lines)).await
    }

    /// The job with this id.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says; there may be no such job.
    pub async fn job(&self, id: &str) -> Result<Document<Job>, ClientError> {
        self.ask_for_document(self.request(Method::GET, &["jobs", segment(id)?])?).await
    }

    /// A page of jobs, newest first. It may be short: only one without `next_cursor` is the last.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says.
    pub async fn list(&self, query: &ListQuery) -> Result<Document<Page>, ClientError> {
        self.ask_for_document(self.request(Method::GET, &["jobs"])?.query(query)).await
    }

    /// Cancels a job that has not ended.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says; there may be no such job, or it has ended.
    pub async fn cancel(&self, id: &str) -> Result<Document<Job>, ClientError> {
        let request = self.request(Method::POST, &["jobs", segment(id)?, "cancel"])?;
        self.ask_for_document(request).await
    }

    /// Puts a dead job back.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says; there may be no such job, or it is not dead.
    pub async fn requeue(&self, id: &str) -> Result<Document<Job>, ClientError> {
        let request = self.request(Method::POST, &["jobs", segment(id)?, "requeue"])?;
        self.ask_for_document(request).await
    }

    /// All queues, by name.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says.
    pub async fn queues(&self) -> Result<Document<Queues>, ClientError> {
        self.ask_for_document(self.request(Method::GET, &["queues"])?).await
    }

    /// A queue.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says; there may be no such queue.
    pub async fn queue(&self, queue: &str) -> Result<Document<Queue>, ClientError> {
        self.ask_for_document(self.request(Method::GET, &["queues", segment(queue)?])?).await
    }

    /// Stops claims from a queue.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says.
    pub async fn pause(&self, queue: &str) -> Result<Document<Queue>, ClientError> {
        let request = self.request(Method::POST, &["queues", segment(queue)?, "pause"])?;
        self.ask_for_document(request).await
    }

    /// Allows claims from a queue again.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says.
    pub async fn resume(&self, queue: &str) -> Result<Document<Queue>, ClientError> {
        let request = self.request(Method::POST, &["queues", segment(queue)?, "resume"])?;
        self.ask_for_document(request).await
    }

    /// Acts on many jobs of a queue, in one request; `more` says whether to send another.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says; if no answer came, some jobs may have been acted on.
    pub async fn act_on_many(
        &self,
        queue: &str,
        bulk: Bulk,
        request: &BulkRequest,
    ) -> Result<BulkDone, ClientError> {
        self.post(&["queues", segment(queue)?, bulk.name()], request).await
    }

    /// Leases jobs, and waits for them if asked to; none if nothing came in time. Whoever drops the
    /// future gives back what would have come.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says.
    pub async fn lease(&self, request: &LeaseRequest) -> Result<Vec<LeasedJob>, ClientError> {
        let deadline = request.wait.unwrap_or_default().saturating_add(ANSWER_TIMEOUT);
        let http = self.request(Method::POST, &["leases"])?.timeout(deadline).json(request);
        let leased: leases::Leased = self.ask(http).await?;
        Ok(leased.jobs)
    }

    /// Makes leases last longer: for `duration` from now, or as long as the last time.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says.
    pub async fn renew(
        &self,
        leases: &[&str],
        duration: Option<Duration>,
    ) -> Result<Vec<LeaseResult>, ClientError> {
        let renewal = leases::Renewal { leases, duration };
        let renewed: leases::Results = self.post(&["leases", "renew"], &renewal).await?;
        Ok(renewed.results)
    }

    /// Ends attempts. What was finished with the same outcome before is `Ok` again, so that this
    /// may be repeated.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says; if one is malformed, nothing was finished.
    pub async fn finish(&self, finishes: &[Finish]) -> Result<Vec<LeaseResult>, ClientError> {
        let finished: leases::Results = self.post(&["leases", "finish"], finishes).await?;
        Ok(finished.results)
    }

    /// Has the server write a copy of its store; returns once it is complete, which can take long.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says.
    pub async fn backup(&self) -> Result<Document<Backup>, ClientError> {
        let request = self.request(Method::POST, &["backup"])?;
        self.ask_for_document(request.timeout(BACKUP_TIMEOUT)).await
    }

    /// All counts in one cut, as the server writes them.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] says.
    pub async fn stats(&self) -> Result<Box<RawValue>, ClientError> {
        self.ask(self.request(Method::GET, &["stats"])?).await
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder, ClientError> {
        let mut url = self.server.clone();
        let mut segments = url.path_segments_mut().expect("the URL of a server has a path");
        segments.pop_if_empty().push("v1").extend(path);
        drop(segments);
        let mut request = self.http.request(method, url).timeout(ANSWER_TIMEOUT);
        if let Some(token) = &self.authorization {
            request = request.header(AUTHORIZATION, token);
        }
        Ok(request)
    }

    /// Posts JSON.
    async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &(impl Serialize + ?Sized),
    ) -> Result<T, ClientError> {
        self.ask(self.request(Method::POST, path)?.json(body)).await
    }

    async fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let answer = self.send(request).await?;
        answer::read(&answer).map_err(|why| self.not_tallyd(why))
    }

    async fn ask_for_document<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<Document<T>, ClientError> {
        let answer = self.send(request).await?;
        answer::document(answer).map_err(|why| self.not_tallyd(why))
    }

    /// Sends a request; the answer is one of success.
    async fn send(&self, request: RequestBuilder) -> Result<Vec<u8>, ClientError> {
        let sent = request.send().await;
        let unanswered = |error| ClientError::unanswered(&self.server, error);
        let response = match sent {
            Err(error) if error.is_connect() => return Err(unanswered(error)),
            Err(error) => {
                self.reached.store(true, Ordering::Relaxed);
                return Err(unanswered(error));
            }
            Ok(response) => response,
        };
        self.reached.store(true, Ordering::Relaxed);
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = answer::collect(response).await.map_err(unanswered)?;
        let Some(bytes) = bytes else {
            return Err(self.not_tallyd("the answer is too large".to_owned()));
        };
        if status.is_success() {
            return Ok(bytes);
        }
        Err(ClientError::refused(&self.server, status, &headers, &bytes))
    }

    fn not_tallyd(&self, why: String) -> ClientError {
        ClientError::NotTallyd { server: self.server(), why, status: 200 }
    }
}

impl Trust<'_> {
    fn is_of_something(&self) -> bool {
        self.authorities.is_some() || self.identity.is_some()
    }

    fn apply(self, mut http: ClientBuilder) -> Result<ClientBuilder, ClientError> {
        if let Some(pem) = self.authorities {
            let found = Certificate::from_pem_bundle(pem).ok();
            let found = found.filter(|found| !found.is_empty());
            http = http.tls_certs_only(found.ok_or(ClientError::InvalidAuthorities)?);
        }
        if let Some(pem) = self.identity {
            let identity = Identity::from_pem(pem);
            http = http.identity(identity.map_err(|_| ClientError::InvalidIdentity)?);
        }
        Ok(http)
    }
}

/// A part of a path that a caller chose: what would change the path itself is no name of anything.
fn segment(text: &str) -> Result<&str, ClientError> {
    if name::is_valid(text) {
        return Ok(text);
    }
    Err(ClientError::InvalidName(text.to_owned()))
}

/// Whether this is the URL of a server, for the command line.
///
/// # Errors
///
/// It is none.
pub fn check_server(text: &str) -> Result<String, ClientError> {
    server_url(text).map(|_| text.to_owned())
}

/// The URL of a server, which may have a path in front of the routes.
fn server_url(text: &str) -> Result<Url, ClientError> {
    let wrong = || ClientError::InvalidServer(error::shown_text(text));
    let url = Url::parse(text).map_err(|_| wrong())?;
    let is_server = matches!(url.scheme(), "http" | "https")
        && url.host_str().is_some_and(|host| !host.is_empty())
        && url.query().is_none()
        && url.fragment().is_none();
    if is_server { Ok(url) } else { Err(wrong()) }
}

/// Whether what is sent there leaves this machine without being encrypted. Which names are of this
/// machine nobody says for sure, but for the one.
fn is_in_the_clear(server: &Url) -> bool {
    let host = server.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let is_here = address.is_ok_and(|address| address.to_canonical().is_loopback());
    server.scheme() == "http" && !is_here && host != "localhost"
}

#[cfg(test)]
mod tests;
