//! What every request passes on its way in and out: host, token and origin checks, panics, headers, counts, a log line.

use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use axum::body::HttpBody;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, HOST, HeaderValue, ORIGIN, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;
use tracing::{debug, error, info};

use super::auth::{Caller, Needs, Unknown};
use super::body::ReadWhole;
use super::deadline::Peer;
use super::error::{ApiError, Code};
use super::{Api, Shared};

/// The label of requests that no route matches.
const NO_ROUTE: &str = "other";

/// Routes that answer whatever the host is called: probes use the address that they know.
pub(super) const HEALTH: [&str; 2] = ["/-/healthy", "/-/ready"];

/// Lets a request through to its route, and sees to its answer.
pub(super) async fn pass(State(api): State<Shared>, mut request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    let method = method_label(request.method());
    let mut counted = Counted { api: &api, route, method, start: Instant::now(), status: HUNG_UP };
    let chunked = request.headers().contains_key(TRANSFER_ENCODING);
    let whole = (!request.body().is_end_stream()).then(ReadWhole::default);
    whole.clone().map(|whole| request.extensions_mut().insert(whole));

    let needs = api.guard.needs(route, request.method());
    // A connection that is kept for long must not keep anybody in who may come in no more.
    let is_probe = HEALTH.contains(&route);
    let current = match api.guard.web() {
        Some(live) if !is_probe => Some(live.look().await),
        live => live.map(|live| live.current()),
    };
    let allowed = if is_probe || current.as_ref().is_none_or(|current| current.takes_request()) {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
        check_caller(&api, needs, request.headers(), request.uri(), peer).await
    } else {
        let message = "more requests come than the server's configuration allows; send fewer";
        Err(ApiError::new(Code::RateLimited, message))
    };
    let allowed = allowed.and_then(|caller| {
        check_origin(request.method(), request.headers())?;
        check_query(route, request.method(), request.uri())?;
        Ok(caller)
    });
    let caller = allowed.as_ref().ok().cloned();
    let token = caller.as_ref().and_then(Caller::name);
    let operated = needs.is_for_operators().then(|| request.uri().path().to_owned());
    let mut response = match allowed {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            caught(route, next.run(request)).await
        }
        Err(refused) => {
            api.read_away(request).await;
            refused.into_response()
        }
    };

    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(current) = &current {
        current.add_headers(headers);
    }
    if chunked || whole.is_some_and(|whole| !whole.is_noted()) {
        // If chunked, it may have had a content-length as well, which hyper has removed by now. Then a
        // proxy may disagree on where it ended, so nothing behind it is served. Nor if its body was not
        // read: hyper would take what comes for the rest of it, or close without telling.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let refused = response.extensions().get::<Code>().copied();
    // That a probe asks whether it is ready is no request that was refused.
    let limited = refused.filter(|_| !is_probe);
    if let Some(reason) = limited.and_then(Code::rejected) {
        api.metrics.rejected(reason);
    }
    counted.status = response.status().as_u16();
    let code = refused.map(Code::name);
    let duration_ms = counted.start.elapsed().as_millis() as u64;
    if let Some(path) = operated.filter(|_| response.status().is_success()) {
        info!(event = "operated", token, method, path, "an operator's request was done");
    }
    debug!(event = "request", route, method, token, status = counted.status, code, duration_ms);
    response
}

/// The status under which a request is counted whose caller did not wait for the answer.
const HUNG_UP: u16 = 499;

/// Counts a request when it is answered, or when its caller has gone.
struct Counted<'r> {
    api: &'r Api,
    route: &'r str,
    method: &'static str,
    start: Instant,
    status: u16,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let seconds = self.start.elapsed().as_secs_f64();
        self.api.metrics.http_request(self.route, self.method, self.status, seconds);
    }
}

/// Who calls, if that may be done. Whoever has a token need not care what the host is called.
async fn check_caller(
    api: &Api,
    needs: Needs,
    headers: &HeaderMap,
    uri: &Uri,
    peer: Option<IpAddr>,
) -> Result<Caller, ApiError> {
    if needs == Needs::Nothing {
        return Ok(Caller::Anybody);
    }
    let caller = api.guard.know(headers, peer).await;
    let is_known = caller.as_ref().is_ok_and(Caller::is_known);
    if !is_known && !matches!(caller, Err(Unknown::TooMany)) {
        check_host(headers, uri, &api.config.hosts)?;
    }
    let caller = caller?;
    caller.check(needs)?;
    Ok(caller)
}

/// Refuses a query where the API defines none: what is meant by it would be ignored.
fn check_query(route: &str, method: &Method, uri: &Uri) -> Result<(), ApiError> {
    let is_listing = route == "/v1/jobs" && matches!(*method, Method::GET | Method::HEAD);
    let query = uri.query().filter(|query| !query.is_empty());
    if !route.starts_with("/v1/") || is_listing || query.is_none() {
        return Ok(());
    }
    Err(ApiError::new(Code::InvalidQuery, "this route takes no query; leave it out"))
}

/// The method as a label: only methods that exist, so that callers cannot make series.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => NO_ROUTE,
    }
}

/// Runs a handler; one that panics has failed its own request only.
async fn caught(route: &str, answer: impl Future<Output = Response>) -> Response {
    let mut answer = pin!(answer);
    let polled = poll_fn(|cx| {
        // The handler is not polled again, and what it shares with others is locked by nobody.
        let polled = catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx)));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(response)) => Poll::Ready(Some(response)),
            Err(_) => Poll::Ready(None),
        }
    });
    match polled.await {
        Some(response) => response,
        None => {
            error!(event = "handler_panicked", route, "a handler panicked; this is a bug");
            let message = "tallyd has a bug here; its log tells more";
            ApiError::new(Code::InternalError, message).into_response()
        }
    }
}

/// Refuses requests addressed to a name that is not known to be this server's, so that a web page
/// cannot reach it by a name of its own that resolves to this address.
fn check_host(headers: &HeaderMap, uri: &Uri, known: &[String]) -> Result<(), ApiError> {
    let mut values = headers.get_all(HOST).iter();
    let (Some(host), None) = (values.next(), values.next()) else {
        let message = "a request needs one host header";
        return Err(ApiError::new(Code::MissingHost, message).field("host"));
    };
    let host = host.to_str().unwrap_or_default();
    let named = [Some(host), uri.authority().map(|authority| authority.as_str())];
    for host in named.into_iter().flatten() {
        if !is_known_host(host, known) {
            let message = "this host name is not served; use localhost or the address, add the name \
                           to hosts in the configuration, or send a token that is valid";
            return Err(ApiError::new(Code::Misdirected, message).field("host"));
        }
    }
    Ok(())
}

/// Refuses what a web page of another site sends: a browser sends bodiless requests for any page,
/// and says where that page is from.
fn check_origin(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let values = |name: &str| {
        let values = headers.get_all(name).into_iter();
        values.map(|value| value.to_str().unwrap_or_default()).collect::<Vec<_>>()
    };
    let hosts = values(HOST.as_str());
    // `null` has no authority: it is what sandboxed and local pages are called.
    let is_foreign = |origin: &&str| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        !authority.is_some_and(|named| hosts.iter().any(|host| host.eq_ignore_ascii_case(named)))
    };
    let by_site = values("sec-fetch-site")
        .iter()
        .any(|site| ["cross-site", "same-site"].iter().any(|far| site.eq_ignore_ascii_case(far)));
    if by_site || values(ORIGIN.as_str()).iter().any(is_foreign) {
        let message = "web pages of other sites may only read; send it without a browser";
        return Err(ApiError::new(Code::CrossSite, message));
    }
    Ok(())
}

/// Whether a host, with or without port, is localhost, an address, or one of the known names.
fn is_known_host(host: &str, known: &[String]) -> bool {
    if let Some(bracketed) = host.strip_prefix('[') {
        let Some((address, port)) = bracketed.split_once(']') else { return false };
        return address.parse::<Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let name = match host.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return false,
        None => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost"
        || name.strip_suffix(".localhost").is_some_and(|label| !label.is_empty())
        || name.parse::<IpAddr>().is_ok()
        || known.iter().any(|known| known.eq_ignore_ascii_case(&name))
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_hosts_are_served() {
        let known = ["jobs.example.com".to_owned()];
        for good in [
            "localhost",
            "LOCALHOST:8255",
            "localhost.",
            "tallyd.localhost:80",
            "127.0.0.1",
            "10.2.3.4:8255",
            "[::1]",
            "[::1]:8255",
            "Jobs.Example.com:443",
        ] {
            assert!(is_known_host(good, &known), "{good}");
        }
        for bad in [
            "",
            "example.com",
            "evil.jobs.example.com",
            "localhost.evil.com",
            "notlocalhost",
            ".localhost",
            "127.0.0.1.evil.com",
            "localhost:80@evil.com",
            "[::1].evil.com",
            "[evil.com]",
            "::1",
            "user@localhost",
        ] {
            assert!(!is_known_host(bad, &known), "{bad}");
        }
    }

    #[test]
    fn the_host_is_needed_once_and_the_address_of_the_request_counts_too() {
        let headers = |hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, HeaderValue::from_static(host));
            }
            headers
        };
        let check = |hosts: &[&'static str], uri: &'static str| {
            check_host(&headers(hosts), &Uri::from_static(uri), &[]).map_err(|error| error.code)
        };
        assert_eq!(check(&["localhost"], "/"), Ok(()));
        assert_eq!(check(&[], "/"), Err(Code::MissingHost));
        assert_eq!(check(&["localhost", "localhost"], "/"), Err(Code::MissingHost));
        assert_eq!(check(&["localhost"], "http://evil.com/"), Err(Code::Misdirected));
        assert_eq!(check(&["localhost"], "http://localhost:8255/"), Ok(()));
    }

    #[test]
    fn pages_of_other_sites_may_only_read() {
        let check = |method: Method, pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            headers.append(HOST, HeaderValue::from_static("localhost:8255"));
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            check_origin(&method, &headers).map_err(|error| error.code)
        };
        for own in [
            &[][..],
            &[("origin", "http://localhost:8255")],
            &[("origin", "HTTPS://LOCALHOST:8255"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ] {
            assert_eq!(check(Method::POST, own), Ok(()), "{own:?}");
        }
        for foreign in [
            &[("origin", "null")][..],
            &[("origin", "")],
            &[("origin", "http://localhost")],
            &[("origin", "http://evil.example")],
            &[("origin", "http://localhost:8255"), ("origin", "http://evil.example")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site"), ("origin", "http://localhost:8255")],
        ] {
            assert_eq!(check(Method::POST, foreign), Err(Code::CrossSite), "{foreign:?}");
            assert_eq!(check(Method::DELETE, foreign), Err(Code::CrossSite), "{foreign:?}");
            assert_eq!(check(Method::GET, foreign), Ok(()), "{foreign:?}");
        }
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_fails_its_request_only() {
        let response = caught("/", async { panic!("planted") }).await;
        assert_eq!(response.status(), 500);
    }
}
