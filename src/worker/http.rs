//! Runs one attempt as a push: the payload to the queue's URL, the outcome from the answer.
//!
//! ```text
//! 2xx ──> completed, with the answer as its result      410, 422 ──> failed for good
//! anything else, a redirect, no answer ──> failed        no answer in time ──> timed out
//! ```

pub(super) mod lookup;
mod signature;

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use tokio_util::sync::CancellationToken;

use self::lookup::Lookups;
use super::ended::{Ended, json_string};
use crate::clock::{Clock, Timestamp};
use crate::config::limits::{MAX_JSON_DEPTH, nests_deeper};
use crate::config::{HttpConfig, duration};
use crate::job::Outcome;
use crate::store::Job;

/// The most bytes of an answer that are read and kept.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// The longest wait that a receiver may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a connection is kept for the next push: less than receivers usually keep it, so that
/// none is lost to one that they close.
const IDLE: Duration = Duration::from_secs(4);

/// What a push says it comes from.
const USER_AGENT: &str = concat!("tallyd/", env!("CARGO_PKG_VERSION"));

/// Answers that say the job can never succeed: its receiver is gone, or cannot process it.
const PERMANENT: [StatusCode; 2] = [StatusCode::GONE, StatusCode::UNPROCESSABLE_ENTITY];

/// Pushes the jobs of one queue; its connections are kept for the next.
#[derive(Debug)]
pub(super) struct Pusher {
    client: Client,
    url: Url,
    config: HttpConfig,
    clock: Clock,
}

/// Why a queue's pushes could not be prepared.
#[derive(Debug, thiserror::Error)]
#[error("cannot prepare pushes to {url}")]
pub struct PushError {
    url: String,
    source: Box<dyn Error + Send + Sync>,
}

impl Pusher {
    /// A pusher that runs at most `concurrency` attempts at once.
    pub(super) fn new(
        config: &HttpConfig,
        concurrency: u32,
        lookups: &Lookups,
        clock: Clock,
    ) -> Result<Self, PushError> {
        let failed = |source| PushError { url: config.url.clone(), source };
        // Fails if it was done before, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let url = Url::parse(&config.url).map_err(|error| failed(error.into()))?;
        let mut client = Client::builder()
            .user_agent(USER_AGENT)
            .no_proxy()
            .redirect(Policy::none())
            .http1_only()
            .connect_timeout(config.connect_timeout)
            .dns_resolver(lookups.clone())
            .pool_max_idle_per_host(concurrency as usize)
            .pool_idle_timeout(IDLE);
        if url.scheme() == "http" {
            // Needs no certificates, of which a small image has none.
            client = client.tls_certs_only([]);
        }
        let client = client.build().map_err(|error| failed(error.into()))?;
        Ok(Self { client, url, config: config.clone(), clock })
    }

    /// Runs one attempt to its end. An interrupt drops the request, and with it the connection.
    pub(super) async fn run(&self, job: &Job, interrupt: CancellationToken) -> Ended {
        let push = async {
            match job.timeout {
                None => self.push(job).await,
                Some(timeout) => match tokio::time::timeout(timeout, self.push(job)).await {
                    Ok(ended) => ended,
                    Err(_) => Ended::Reported {
                        outcome: Outcome::TimedOut,
                        result: None,
                        error: Some(format!("timed out after {}", duration::format(timeout))),
                    },
                },
            }
        };
        interrupt.run_until_cancelled(push).await.unwrap_or(Ended::Interrupted)
    }

    async fn push(&self, job: &Job) -> Ended {
        let payload = job.payload.clone().unwrap_or_default();
        let headers = self.headers(job, &payload);
        let request = self.client.post(self.url.clone()).headers(headers).body(payload);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return no_answer(&error, &self.config),
        };
        let (status, headers) = (response.status(), response.headers().clone());
        let answer = match read(response).await {
            Ok(answer) => answer,
            // It has said what counts; the rest is what it had to tell.
            Err(_) if status.is_success() => Answer { bytes: Vec::new(), is_whole: false },
            Err(error) => {
                let error = format!("answered {status}, but broke off ({})", root(&error));
                return Ended::failed(error, Duration::ZERO);
            }
        };
        if status.is_success() {
            let result = result(&headers, answer);
            return Ended::Reported { outcome: Outcome::Completed, result, error: None };
        }
        let text = text_of(&answer).trim().to_owned();
        let error = if text.is_empty() {
            format!("answered {status}")
        } else {
            format!("answered {status}: {text}")
        };
        let outcome = Outcome::Failed {
            permanent: PERMANENT.contains(&status),
            retry_in: retry_after(&headers, self.clock.now()).unwrap_or_default(),
        };
        Ended::Reported { outcome, result: None, error: Some(error) }
    }

    fn headers(&self, job: &Job, payload: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.config.headers {
            let name = HeaderName::try_from(name).expect("the configuration was checked");
            let mut value = HeaderValue::try_from(value).expect("the configuration was checked");
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let mut set = |name: &'static str, value: String| {
            let value = HeaderValue::try_from(value).expect("names, numbers and ids are ASCII");
            headers.insert(name, value);
        };
        set("content-type", "application/json".to_owned());
        set("tallyd-job-id", job.id.to_string());
        set("tallyd-queue", job.queue.clone());
        set("tallyd-kind", job.kind.clone());
        set("tallyd-attempt", job.attempt.to_string());
        set("tallyd-failures", job.failures.to_string());
        set("tallyd-max-attempts", job.max_attempts.to_string());
        if let Some(traceparent) = &job.traceparent {
            set("traceparent", traceparent.clone());
        }
        if let Some(secret) = &self.config.secret {
            let id = job.id.to_string();
            let seconds = self.clock.now().0 / 1_000;
            set("webhook-signature", signature::sign(secret, &id, seconds, payload));
            set("webhook-id", id);
            set("webhook-timestamp", seconds.to_string());
        }
        headers
    }
}

/// The first part of an answer.
struct Answer {
    bytes: Vec<u8>,
    is_whole: bool,
}

/// Reads what is kept of an answer. The rest of a longer one is dropped with its connection.
async fn read(mut response: Response) -> reqwest::Result<Answer> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = MAX_ANSWER_BYTES - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            return Ok(Answer { bytes, is_whole: false });
        }
    }
    Ok(Answer { bytes, is_whole: true })
}

/// An answer as a job's result: JSON that says it is stays as it is, anything else is a string.
fn result(headers: &HeaderMap, answer: Answer) -> Option<Bytes> {
    if answer.bytes.is_empty() {
        return None;
    }
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let says_json = media == "application/json" || media.ends_with("+json");
    let is_json = || {
        serde_json::from_slice::<serde::de::IgnoredAny>(&answer.bytes).is_ok()
            && !nests_deeper(&answer.bytes, MAX_JSON_DEPTH)
    };
    if says_json && answer.is_whole && is_json() && std::str::from_utf8(&answer.bytes).is_ok() {
        return Some(answer.bytes.into());
    }
    Some(json_string(text_of(&answer)))
}

/// An answer as text; the last character may have been cut in two.
fn text_of(answer: &Answer) -> String {
    match std::str::from_utf8(&answer.bytes) {
        Err(error) if !answer.is_whole && error.error_len().is_none() => {
            String::from_utf8_lossy(&answer.bytes[..error.valid_up_to()]).into_owned()
        }
        _ => String::from_utf8_lossy(&answer.bytes).into_owned(),
    }
}

/// How long a receiver asks to be left alone: seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        // Too many for a number is too many.
        text.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        Timestamp::parse_http_date(text)?.since(now)
    };
    Some(asked.min(MAX_RETRY_AFTER))
}

/// What became of a push that nothing answered.
fn no_answer(error: &reqwest::Error, config: &HttpConfig) -> Ended {
    if let Some(lack) = shortage(error).filter(|_| error.is_connect()) {
        return Ended::Short { error: format!("cannot connect ({lack})") };
    }
    let error = if error.is_connect() && error.is_timeout() {
        format!("not connected within {}", duration::format(config.connect_timeout))
    } else if error.is_connect() {
        format!("not connected ({})", root(error))
    } else {
        format!("no answer ({})", root(error))
    };
    Ended::failed(error, Duration::ZERO)
}

/// The cause that says most: the last one, in the form of one that logs may tell.
fn root(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(|cause| cause.to_string().replace(": ", ", ")).unwrap_or_default()
}

/// What the machine lacks, if that is why. That an address is not available is not among it: on a
/// machine without IPv6 this is what a receiver that is down comes to.
fn shortage<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e std::io::Error> {
    let lacks = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .find(|cause| cause.raw_os_error().is_some_and(|number| lacks.contains(&number)))
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}
