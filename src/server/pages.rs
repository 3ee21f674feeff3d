//! What people and machinery look at: health, the exposition, the API's description, the landing page.

use std::fmt::Write;
use std::sync::{Arc, LazyLock};

use axum::extract::{Extension, State};
use axum::http::header::{
    CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use url::form_urlencoded;

use super::accept::Wanted;
use super::deadline::Haste;
use super::error::ApiError;
use super::held::Held;
use super::scrapes::{Cut, Reader};
use super::{Shared, leases, openapi, routes};
use crate::store::StoreError;

/// The media type of the health routes.
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

/// The media type of the landing page.
pub(super) const HTML: &str = "text/html; charset=utf-8";

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
pub(super) async fn exposition(
    State(api): State<Shared>,
    haste: Option<Extension<Haste>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    haste.iter().for_each(|haste| haste.make());
    let wanted = Wanted::read(&headers);
    let names = names(&uri);
    let write = async move |cut: Arc<Cut>| {
        if names.is_empty() {
            cut.written(wanted).await
        } else {
            cut.written_of(wanted, names).await
        }
    };
    let haste = haste.as_deref();
    let answer = api.scrapes.answer(Reader::Prometheus, haste, &api.metrics, write);
    let (text, place) = answer.await?;
    let mut response = Held::around(text.into(), place, drop).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(wanted.content_type));
    headers.insert(VARY, HeaderValue::from_static("accept, accept-encoding"));
    if wanted.gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// Which families to answer with; others of a query's parameters mean nothing, as elsewhere.
#[derive(JsonSchema)]
pub(super) struct MetricsQuery {
    /// Only the families that are called so; may be given many times.
    #[serde(rename = "name[]")]
    #[expect(dead_code, reason = "read by `names`, from a query that may repeat it")]
    names: Vec<String>,
}

/// The values of `name[]`.
fn names(uri: &Uri) -> Vec<String> {
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    pairs.filter(|(key, _)| key == "name[]").map(|(_, name)| name.into_owned()).collect()
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
