//! What people and machinery look at: health, the exposition, the API's description, the landing page.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;

use super::error::{ApiError, Code};
use super::held::Held;
use super::{Api, Shared, leases, openapi, routes};
use crate::metrics::{self, Snapshot};
use crate::store::StoreError;

/// The media type of the health routes.
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// The media type of the landing page.
pub(super) const HTML: &str = "text/html; charset=utf-8";

/// The most scrapes at once: each holds a thread, then an exposition until it is sent.
pub(super) const MAX_SCRAPES: usize = 40;

/// The page loads nothing, runs nothing, and is framed by nobody.
const POLICY: &str =
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /-/healthy`: the process serves, and what it is told can be stored.
pub(super) async fn healthy(State(api): State<Shared>) -> Result<Response, ApiError> {
    check_store(&api)?;
    Ok(([(CONTENT_TYPE, TEXT)], "healthy\n").into_response())
}

/// `GET /-/ready`: it takes work.
pub(super) async fn ready(State(api): State<Shared>) -> Result<Response, ApiError> {
    check_store(&api)?;
    if api.draining.is_cancelled() {
        return Err(leases::draining());
    }
    Ok(([(CONTENT_TYPE, TEXT)], "ready\n").into_response())
}

/// The daemon is about to end when its store has failed; until then it says why.
fn check_store(api: &Shared) -> Result<(), ApiError> {
    api.store.failure().map_or(Ok(()), |reason| Err(StoreError::Stopped(reason).into()))
}

/// `GET /metrics`
pub(super) async fn exposition(State(api): State<Shared>) -> Result<Response, ApiError> {
    let (text, place) = api.with_snapshot(|snapshot| snapshot.to_text().into()).await?;
    let body = Body::new(Held::new(text, place));
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], body).into_response())
}

impl Api {
    /// Writes what a snapshot says, beside the requests: thousands of lines take milliseconds. The
    /// place among the scrapes is kept until the text is on its way.
    pub(super) async fn with_snapshot(
        &self,
        write: fn(&Snapshot) -> Bytes,
    ) -> Result<(Bytes, OwnedSemaphorePermit), ApiError> {
        let Ok(place) = self.scrapes.clone().try_acquire_owned() else {
            let message = format!("{MAX_SCRAPES} scrapes are under way; scrape less often");
            return Err(ApiError::new(Code::ServerBusy, message));
        };
        let metrics = self.metrics.clone();
        let written = spawn_blocking(move || (write(&metrics.snapshot()), place));
        written.await.map_err(|_| {
            ApiError::new(Code::InternalError, "the counts could not be written; see the log")
        })
    }
}

/// `GET /openapi.json`
pub(super) async fn description() -> Response {
    static TEXT: LazyLock<String> = LazyLock::new(|| openapi::describe(&routes::table()));
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

/// `GET /`
pub(super) async fn landing() -> Response {
    static PAGE: LazyLock<String> = LazyLock::new(page);
    let headers: [(HeaderName, &str); 3] =
        [(CONTENT_TYPE, HTML), (CONTENT_SECURITY_POLICY, POLICY), (REFERRER_POLICY, "no-referrer")];
    (headers, PAGE.as_str()).into_response()
}

/// The landing page: what this is, and the table of routes.
fn page() -> String {
    let mut rows = String::new();
    for route in routes::table() {
        let (method, path, summary) = (&route.method, route.path, route.summary);
        let plain = !path.contains('{') && *method == axum::http::Method::GET;
        let shown = if plain { format!("<a href=\"{path}\">{path}</a>") } else { path.to_owned() };
        let row = writeln!(rows, "<tr><td>{method}<td><code>{shown}</code><td>{summary}");
        row.expect("writing to a string cannot fail");
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>tallyd</title>\n\
         <h1>tallyd {version}</h1>\n<p>A durable job server whose counts are exact.\n\
         <table>\n<tr><th>Method<th>Route<th>What it does\n{rows}</table>\n</html>\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_landing_page_lists_the_routes_and_runs_nothing() {
        let response = landing().await;
        let policy = &response.headers()[CONTENT_SECURITY_POLICY];
        assert!(policy.to_str().is_ok_and(|policy| policy.starts_with("default-src 'none'")));
        let page = page();
        assert!(page.contains("<a href=\"/metrics\">") && page.contains("/v1/leases/finish"));
        assert!(!page.contains("<script") && !page.contains("style"));
    }

    #[test]
    fn summaries_need_no_escaping() {
        for route in routes::table() {
            assert!(!route.summary.contains(['<', '>', '&', '"']), "{}", route.summary);
        }
    }
}
