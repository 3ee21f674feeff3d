//! Broken and smuggling requests, each with what must come of it.

mod bodies;
mod framing;
mod heads;

/// A job, and how many bytes it has.
const JOB: &str = r#"{"kind":"k"}"#;

/// The same in chunks.
const CHUNKED: &str = "c\r\n{\"kind\":\"k\"}\r\n0\r\n\r\n";

/// The answers to what is no HTTP, and to too much of it.
const UNREADABLE: &str = "400 invalid_request";
const TOO_LARGE: &str = "431 head_too_large";

/// One request, or a few, and the answers to it: a code, and the case if tallyd names one.
pub struct Entry {
    pub name: String,
    pub bytes: Vec<u8>,
    pub answers: Vec<&'static str>,
    pub then: Then,
}

/// What comes of a request that stands behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It is served.
    GoesOn,
    /// The last answer tells that the connection closes, and it does; nothing behind is served.
    Closes,
    /// None does: the client says no more, and the connection ends.
    Ends,
}

impl Entry {
    fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>, answer: &'static str) -> Self {
        let (name, bytes) = (name.into(), bytes.into());
        Self { name, bytes, answers: vec![answer], then: Then::GoesOn }
    }

    fn closes(mut self) -> Self {
        self.then = Then::Closes;
        self
    }

    fn ends(mut self) -> Self {
        self.then = Then::Ends;
        self
    }

    /// Another answer before the last.
    fn first(mut self, answer: &'static str) -> Self {
        self.answers.insert(0, answer);
        self
    }

    /// No answer at all.
    fn unanswered(mut self) -> Self {
        self.answers.clear();
        self
    }
}

/// All of them.
pub fn all() -> Vec<Entry> {
    [framing::entries(), framing::chunks(), heads::entries(), heads::hosts(), bodies::entries()]
        .into_iter()
        .flatten()
        .collect()
}

/// Requests as they should be, of every route.
pub fn good() -> Vec<Vec<u8>> {
    let mut good: Vec<_> = [
        "/",
        "/-/healthy",
        "/-/ready",
        "/metrics",
        "/metrics?name[]=tallyd_pairs",
        "/openapi.json",
        "/v1/stats",
        "/v1/queues",
        "/v1/queues/default",
        "/v1/jobs?queue=default&kind=k&state=ready&limit=3",
        "/v1/jobs/0190163d-8694-739b-aea5-966c26f8ad91",
    ]
    .map(get)
    .to_vec();
    let leases = r#"{"queues":["default"],"max":2,"wait":"0s","duration":"1s","worker":"w"}"#;
    let lease = "0190163d-8694-739b-aea5-966c26f8ad91";
    let finish = format!(r#"[{{"lease":"{lease}","outcome":"completed","result":[1]}}]"#);
    let full = r#"{"kind":"k","queue":"default","payload":{"a":[1,2.5e3,"\u00e9"]},"priority":3,
        "delay":"1s","max_attempts":3,"timeout":"9s","unique_key":"u","unique_until":"done",
        "traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}"#;
    for (path, body) in [
        ("/v1/jobs", JOB),
        ("/v1/jobs", full),
        ("/v1/jobs", r#"{"kind":"k","run_at":"2026-03-01T12:00:00Z"}"#),
        ("/v1/jobs/batch", r#"[{"kind":"k"},{"kind":"k","payload":1}]"#),
        ("/v1/leases", leases),
        ("/v1/leases/finish", &finish),
        ("/v1/leases/renew", r#"{"leases":["x"],"duration":"5s"}"#),
        ("/v1/queues/default/cancel", r#"{"kind":"k","limit":3}"#),
        ("/v1/queues/default/requeue-dead", r#"{"before":"2026-03-01T12:00:00Z"}"#),
        ("/v1/queues/default/discard-dead", "{}"),
        ("/v1/queues/default/pause", "{}"),
        ("/v1/queues/default/resume", ""),
        ("/v1/backup", ""),
    ] {
        good.push(post_to(path, &format!("content-length: {}\r\n", body.len()), body));
    }
    good.push(lines("{\"kind\":\"k\"}\n{\"kind\":\"k\"}\n"));
    good.push(post("transfer-encoding: chunked\r\n", CHUNKED));
    good.push(post("content-length: 12\r\nexpect: 100-continue\r\n", JOB));
    good
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// A create with these headers, which say how long it is.
fn post(headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    post_to("/v1/jobs", headers, body)
}

fn post_to(path: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json");
    [format!("{head}\r\n{headers}\r\n").as_bytes(), body.as_ref()].concat()
}

/// A create of just this body.
fn create(body: impl AsRef<[u8]>) -> Vec<u8> {
    let length = body.as_ref().len();
    post(&format!("content-length: {length}\r\n"), body)
}

/// A batch of just these lines.
fn lines(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "POST /v1/jobs/batch HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
