//! The router against its table.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::{Request, StatusCode};

use super::*;
use crate::server::fixture::Fixture;
use crate::server::openapi;

/// The path of a route with something for its variable part.
fn example(path: &str) -> String {
    let id = "0190163d-8694-739b-aea5-966c26f8ad91";
    path.replace("{id}", id).replace("{queue}", "default")
}

fn request(method: &str, path: &str, host: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("host", host);
    request.body(Body::empty()).expect("a valid request")
}

#[tokio::test]
async fn every_route_of_the_table_answers() {
    let server = Fixture::new(|_| {});
    for route in table() {
        let (status, answer) = server.ask(route.method.as_str(), &example(route.path), "").await;
        let code = answer["error"]["code"].as_str().unwrap_or_default();
        assert!(!["route_not_found", "method_not_allowed"].contains(&code), "{}", route.path);
        assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{}: {answer}", route.path);
    }
}

#[tokio::test]
async fn routes_of_the_api_that_define_no_query_refuse_one() {
    let server = Fixture::new(|_| {});
    for route in table() {
        let path = format!("{}?queue=default", example(route.path));
        let (status, answer) = server.ask(route.method.as_str(), &path, "").await;
        let is_refused = answer["error"]["code"] == "invalid_query";
        let must_be = route.path.starts_with("/v1/") && route.query.is_none();
        assert_eq!(is_refused, must_be, "{} {path}: {answer}", route.method);
        assert_eq!(is_refused, status == StatusCode::BAD_REQUEST && must_be);
        let (_, answer) =
            server.ask(route.method.as_str(), path.trim_end_matches("queue=default"), "").await;
        assert_ne!(answer["error"]["code"], "invalid_query", "an empty one asks for nothing");
    }
}

#[tokio::test]
async fn with_the_store_closed_every_route_answers_with_a_status_that_it_describes() {
    let server = Fixture::new(|_| {});
    server.api.store.close().await.expect("it closes");
    let described: serde_json::Value =
        serde_json::from_str(&openapi::describe(&table())).expect("JSON");
    for route in table() {
        let body = match route.name {
            "createJob" => r#"{"kind":"k"}"#,
            "createJobs" => r#"[{"kind":"k"}]"#,
            "leaseJobs" => r#"{"queues":["default"]}"#,
            "finishJobs" => "[]",
            "renewLeases" => r#"{"leases":[]}"#,
            _ => "",
        };
        let method = route.method.as_str();
        let (status, answer) = server.ask(method, &example(route.path), body).await;
        let responses = &described["paths"][route.path][method.to_lowercase()]["responses"];
        let response = &responses[status.as_str()];
        assert!(response.is_object(), "{method} {} answers {status}: {answer}", route.path);
        if let Some(code) = answer["error"]["code"].as_str() {
            let names = response["description"].as_str().expect("a text");
            assert!(names.split(", ").any(|name| name == code), "{} {code}: {names}", route.path);
        }
        let asks_store = !route.store.is_empty();
        assert_eq!(answer["error"]["code"] == "store_stopped", asks_store, "{}", route.path);
    }
}

#[tokio::test]
async fn unknown_paths_are_refused_in_json() {
    let server = Fixture::new(|_| {});
    for path in ["/v1", "/v1/jobs/", "/v2/jobs", "/v1/jobs/a/b", "/metrics/", "/%ff"] {
        for method in ["GET", "POST", "BREW"] {
            let (status, answer) = server.ask(method, path, "").await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path}");
            assert_eq!(answer["error"]["code"], "route_not_found");
        }
    }
}

#[tokio::test]
async fn other_methods_are_refused_with_the_allowed_ones() {
    let server = Fixture::new(|_| {});
    let mut allowed = BTreeMap::<_, BTreeSet<_>>::new();
    for route in table() {
        let methods = allowed.entry(route.path).or_default();
        methods.insert(route.method.as_str().to_owned());
        if route.method == Method::GET {
            methods.insert("HEAD".to_owned());
        }
    }
    for (path, methods) in allowed {
        let request = request("PATCH", &example(path), "localhost");
        let response = server.send(Routes::Whole, request).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allow = response.headers()["allow"].to_str().expect("plain text");
        let told: BTreeSet<_> = allow.split(',').map(|method| method.trim().to_owned()).collect();
        assert_eq!(told, methods, "{path}");
    }
}

#[tokio::test]
async fn the_exposition_is_on_its_own_listener_only() {
    let server = Fixture::new(|_| {});
    let answer = async |has, path: &str| {
        server.send(has, request("GET", path, "localhost")).await.status().as_u16()
    };
    assert_eq!(answer(Routes::Whole, "/metrics").await, 200);
    assert_eq!(answer(Routes::WithoutMetrics, "/metrics").await, 404);
    assert_eq!(answer(Routes::MetricsOnly, "/metrics").await, 200);
    assert_eq!(answer(Routes::MetricsOnly, "/-/healthy").await, 200);
    assert_eq!(answer(Routes::MetricsOnly, "/v1/jobs").await, 404);
}

#[tokio::test]
async fn other_hosts_are_misdirected_but_for_health() {
    let server = Fixture::new(|config| config.hosts.push("jobs.example.com".into()));
    let answer = async |path: &str, host: &str| {
        server.send(Routes::Whole, request("GET", path, host)).await.status().as_u16()
    };
    assert_eq!(answer("/v1/jobs", "evil.example.com").await, 421);
    assert_eq!(answer("/nowhere", "evil.example.com").await, 421);
    assert_eq!(answer("/metrics", "evil.example.com").await, 421);
    assert_eq!(answer("/-/ready", "evil.example.com").await, 200);
    assert_eq!(answer("/metrics", "jobs.example.com:8255").await, 200);
}

#[tokio::test]
async fn a_draining_server_is_not_ready_and_leases_nothing() {
    let server = Fixture::new(|_| {});
    server.draining.cancel();
    assert_eq!(server.ask("GET", "/-/healthy", "").await.0, 200);
    let (status, answer) = server.ask("GET", "/-/ready", "").await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (503, &"draining".into()));
    let (status, answer) = server.ask("POST", "/v1/leases", r#"{"queues":["default"]}"#).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (503, &"draining".into()));
}

#[tokio::test]
async fn every_answer_says_that_it_is_what_it_says_it_is() {
    let server = Fixture::new(|_| {});
    for path in ["/", "/v1/stats", "/nowhere", "/openapi.json", "/metrics"] {
        let response = server.send(Routes::Whole, request("GET", path, "localhost")).await;
        assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(response.headers()["cache-control"], "no-store", "{path}");
        assert!(response.headers().contains_key("content-type"), "{path}");
    }
}

#[tokio::test]
async fn the_names_of_operations_are_their_own() {
    let names: BTreeSet<_> = table().iter().map(|route| route.name).collect();
    assert_eq!(names.len(), table().len());
}
