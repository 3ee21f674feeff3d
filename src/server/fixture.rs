//! A server on a temporary store, for the tests beside the code.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{Api, Routes, Shared, routes};
use crate::clock::Clock;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::Store;

/// A server whose store is removed at the end of the test.
pub(super) struct Fixture {
    pub(super) api: Shared,
    pub(super) draining: CancellationToken,
    _directory: TempDir,
}

impl Fixture {
    /// A server with the default configuration, changed by `change`.
    pub(super) fn new(change: impl FnOnce(&mut Config)) -> Self {
        Self::by(Clock::system(), change)
    }

    /// The same by another clock.
    pub(super) fn by(clock: Clock, change: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = Config { data: directory.path().join("tallyd.db"), ..Config::default() };
        change(&mut config);
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::new(config.clone()));
        let store = Store::open(config.clone(), clock.clone(), metrics.clone());
        let draining = CancellationToken::new();
        let store = store.expect("a new store opens");
        let api = Api::new(store, metrics, config, draining.clone(), clock);
        let api = api.expect("there can be one more thread");
        Self { api, draining, _directory: directory }
    }

    /// What a listener with these routes answers.
    pub(super) async fn send(&self, has: Routes, request: Request<Body>) -> Response<Body> {
        let service = TowerToHyperService::new(routes::router(self.api.clone(), has));
        service.call(request).await.into_response()
    }

    /// Status and JSON of the answer to a request with a JSON body, null if it is not JSON.
    pub(super) async fn ask(&self, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Body::from(body.to_owned())).expect("a valid request");
        let response = self.send(Routes::Whole, request).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("the body is whole").to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}
