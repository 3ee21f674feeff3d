//! One request with its headers, and the whole answer with its own.

use std::io::{Read, Write};
use std::net::TcpStream;

use reqwest::header::HeaderMap;
use reqwest::{Body, Method};
use serde_json::Value;

use crate::fixture::{Daemon, PATIENCE};

pub const JSON: &str = "application/json";
pub const NDJSON: &str = "application/x-ndjson";

/// An answer that has come in whole.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// The text as JSON; null if it is not.
    pub json: Value,
}

impl Answer {
    /// A header, which must be there at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "{name} is there twice: {:?}", self.headers);
        Some(value.to_str().expect("headers are ASCII"))
    }

    /// The names of the fields of a JSON object, sorted.
    pub fn keys(&self) -> Vec<&str> {
        keys(&self.json)
    }

    /// Where a created job is found.
    pub fn location(&self) -> &str {
        self.header("location").expect("a created job has a location")
    }
}

/// The names of the fields of a JSON object, sorted.
pub fn keys(object: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = object.as_object().expect("an object").keys().map(|k| &**k).collect();
    keys.sort_unstable();
    keys
}

/// Sends a request as it is; what holds for every answer is checked here.
pub async fn call(
    daemon: &Daemon,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answer {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request = daemon.client.request(method, daemon.url(path)).timeout(PATIENCE).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.expect("it answers");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.expect("the answer is whole");
    let json = serde_json::from_str(&text).unwrap_or_default();
    let answer = Answer { status, headers, text, json };
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    if !answer.json.is_null() {
        assert_eq!(answer.header("content-type"), Some(JSON), "{path}: {}", answer.text);
    }
    answer
}

/// Sends a request with a JSON body; null is none.
pub async fn send(daemon: &Daemon, method: &str, path: &str, body: Value) -> Answer {
    match body {
        Value::Null => call(daemon, method, path, &[], "").await,
        body => call(daemon, method, path, &[("content-type", JSON)], body.to_string()).await,
    }
}

/// A connection of its own, over which these bytes were sent.
pub fn connect(daemon: &Daemon, bytes: &[u8]) -> TcpStream {
    let url = daemon.url("");
    let address = url.strip_prefix("http://").expect("a URL");
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream.write_all(bytes).expect("it takes them");
    stream
}

/// What comes over a connection until it ends.
pub fn read_to_end(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it ends in order");
    text
}
