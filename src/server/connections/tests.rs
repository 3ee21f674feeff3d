//! What a connection sees, byte by byte.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::server::fixture::Fixture;
use crate::server::{Routes, routes};

struct Server {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    fixture: Fixture,
}

impl Server {
    async fn start() -> Self {
        Self::with_at_most(MAX_CONNECTIONS).await
    }

    /// One that takes so many connections at once.
    async fn with_at_most(most: usize) -> Self {
        Self::protected(most, None).await
    }

    /// The same under this web configuration.
    async fn protected(most: usize, web: Option<Arc<LiveWeb>>) -> Self {
        let fixture = Fixture::new(|_| {});
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let (api, metrics) = (fixture.api.clone(), fixture.api.metrics.clone());
        let serving =
            serve(listener, routes::router(api, Routes::Whole), metrics, web, most, stop.clone());
        Self { address, stop, serving: tokio::spawn(serving), fixture }
    }

    /// A connection that has sent these bytes.
    async fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        stream.write_all(bytes).await.expect("is sent");
        stream
    }

    /// Whether the exposition has this line.
    fn exports(&self, line: &str) -> bool {
        let text = self.fixture.api.metrics.snapshot().to_text();
        text.lines().any(|exported| exported == line)
    }

    /// Ends it in order; every connection is done with then.
    async fn end(&mut self) {
        self.stop.cancel();
        (&mut self.serving).await.expect("serving has ended");
    }
}

/// All that comes until the connection ends.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.expect("ends in order");
    String::from_utf8(text).expect("text")
}

/// Reads until `end` has come.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        text.push(stream.read_u8().await.expect("more comes").into());
    }
    text
}

#[test]
fn the_refusal_has_the_length_that_it_says() {
    let (head, body) = REFUSAL.split_once("\r\n\r\n").expect("head and body");
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
}

#[tokio::test]
async fn a_head_that_is_too_large_or_malformed_is_refused_and_counted() {
    let filler = "x".repeat(MAX_HEAD_BYTES);
    let large =
        "at most 16 KiB and 100 headers, and its content-length a number of at most 64 bits";
    let unread = |why: &str| format!("HTTP/1.1: {why}; send a request as RFC 9112 has it");
    for (status, why, head) in [
        (
            431,
            large.to_owned(),
            format!("GET / HTTP/1.1\r\nhost: localhost\r\nx-a: {filler}\r\n\r\n"),
        ),
        (400, unread("invalid HTTP version parsed"), "what is this\r\n\r\n".to_owned()),
        (
            400,
            unread("invalid HTTP header parsed"),
            "GET / HTTP/1.1\r\nhost localhost\r\n\r\n".to_owned(),
        ),
        (
            400,
            unread("invalid content-length parsed"),
            "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n".to_owned(),
        ),
    ] {
        let mut server = Server::start().await;
        let mut stream = server.send(head.as_bytes()).await;
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(answer.ends_with(&format!("{why}\"}}}}")), "{answer}");
        server.end().await;
        let counted = r#"tallyd_rejected_total{reason="invalid_request"} 1"#;
        assert!(server.exports(counted), "{answer}");
    }
}

#[tokio::test]
async fn a_connection_too_many_is_refused_until_another_ends() {
    let server = Server::with_at_most(2).await;
    let get = b"GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut open = [server.send(get).await, server.send(get).await];
    for stream in &mut open {
        until(stream, "healthy\n").await;
    }
    let refused = rest(&mut server.send(b"").await).await;
    assert_eq!(refused, REFUSAL);
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("too_many_connections"));
    assert!(server.exports(r#"tallyd_rejected_total{reason="too_many_connections"} 1"#));
    assert!(server.exports("tallyd_http_connections 2"));

    let [first, _second] = open;
    drop(first);
    let gone = async {
        while !server.exports("tallyd_http_connections 1") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("its end is noticed");
    until(&mut server.send(get).await, "healthy\n").await;
}

#[tokio::test]
async fn who_asks_before_sending_need_not_send_what_is_refused() {
    let mut server = Server::start().await;
    let head = |length: usize| {
        format!(
            "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\nexpect: 100-continue\r\n\r\n"
        )
    };
    let mut refused = server.send(head((1 << 20) + 1).as_bytes()).await;
    let answer = until(&mut refused, "}}").await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("job_too_large"), "{answer}");

    let body = r#"{"kind":"k"}"#;
    let mut taken = server.send(head(body.len()).as_bytes()).await;
    assert_eq!(until(&mut taken, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    taken.write_all(body.as_bytes()).await.expect("is sent");
    assert!(until(&mut taken, "}").await.starts_with("HTTP/1.1 201 "));
    server.end().await;
}

#[tokio::test]
async fn nothing_behind_a_chunked_request_is_served() {
    let server = Server::start().await;
    let hidden = "GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for length in ["", "content-length: 3\r\n"] {
        let both = format!(
            "POST /v1/leases/renew HTTP/1.1\r\nhost: localhost\r\n{length}\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
        );
        let mut stream = server.send(both.as_bytes()).await;
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
}

#[tokio::test]
async fn a_body_too_large_is_read_away_before_the_answer() {
    let server = Server::start().await;
    let bytes = 17 << 20;
    let head = format!(
        "POST /v1/jobs/batch HTTP/1.1\r\nhost: localhost\r\ncontent-length: {bytes}\r\n\
         content-type: application/json\r\n\r\n"
    );
    let mut stream = server.send(head.as_bytes()).await;
    stream.write_all(&vec![b' '; bytes]).await.expect("is taken to its end");
    assert!(until(&mut stream, "}}").await.contains("body_too_large"));
}

#[tokio::test]
async fn a_stop_finishes_the_open_request_and_closes_idle_connections() {
    let mut server = Server::start().await;
    let get = b"GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut idle = server.send(get).await;
    until(&mut idle, "healthy\n").await;
    let mut open = server
        .send(b"POST /v1/leases/renew HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        .await;
    // The server has begun to read the body when it asks for it.
    until(&mut open, "100 Continue\r\n\r\n").await;
    server.stop.cancel();
    assert_eq!(rest(&mut idle).await, "");
    open.write_all(b"{}").await.expect("still open");
    let answer = rest(&mut open).await;
    assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
    server.end().await;
    assert!(TcpStream::connect(server.address).await.is_err());
}

/// Who may come in may be another by then.
#[tokio::test]
async fn connections_that_were_made_under_another_web_configuration_end_with_their_request() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("web.yml");
    let read = |burst: u32| {
        let text = format!("rate_limit: {{interval: 1s, burst: {burst}}}\n");
        std::fs::write(&file, text).expect("it can be written");
        Arc::new(crate::config::Web::load(&file).expect("it is right"))
    };
    let live = Arc::new(LiveWeb::new(read(100)));
    let mut server = Server::protected(MAX_CONNECTIONS, Some(live.clone())).await;
    let get = b"GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut idle = server.send(get).await;
    until(&mut idle, "healthy\n").await;
    live.replace(live.current().web.clone()).await.expect("it is the same");
    idle.write_all(get).await.expect("still open");
    until(&mut idle, "healthy\n").await;

    let mut open = server
        .send(b"POST /v1/leases/renew HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        .await;
    until(&mut open, "100 Continue\r\n\r\n").await;
    live.replace(read(200)).await.expect("it takes no restart");
    assert_eq!(rest(&mut idle).await, "");
    open.write_all(b"{}").await.expect("still open");
    let answer = rest(&mut open).await;
    assert!(
        answer.starts_with("HTTP/1.1 415 ") && answer.contains("connection: close"),
        "{answer}"
    );
    let mut next = server.send(get).await;
    for _ in 0..2 {
        until(&mut next, "healthy\n").await;
        next.write_all(get).await.expect("it is kept");
    }
    until(&mut next, "healthy\n").await;
    server.end().await;
}

#[tokio::test]
async fn who_has_connected_before_a_stop_is_answered() {
    let mut server = Server::start().await;
    let get = b"GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut early = TcpStream::connect(server.address).await.expect("it connects");
    let mut silent = TcpStream::connect(server.address).await.expect("it connects");
    let mut later = server.send(get).await;
    until(&mut later, "healthy\n").await; // so the ones before it are accepted too
    server.stop.cancel();
    assert_eq!(early.try_write(get).expect("it is taken"), get.len());
    let answer = rest(&mut early).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(rest(&mut silent).await, "", "not for ever");
    server.end().await;
}

/// What follows could be taken for the rest of the body, or the rest of the body for a request.
#[tokio::test]
async fn behind_a_body_that_was_not_read_nothing_is_served() {
    let mut server = Server::start().await;
    let next = "GET /-/ready HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let (asks, huge) = ("expect: 100-continue\r\ncontent-length: 12", "content-length: 16777217");
    for (line, host, headers) in [
        ("POST /v1/jobs", "evil.example", asks),
        ("POST /v1/jobs", "evil.example", huge),
        ("GET /-/healthy", "localhost", asks),
        ("GET /-/healthy", "localhost", "content-length: 12"),
    ] {
        let head = format!("{line} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n");
        let mut stream = server.send(format!("{head}\r\n{next}").as_bytes()).await;
        let answers = rest(&mut stream).await;
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
        assert!(answers.contains("connection: close\r\n"), "{answers}");
    }
    server.end().await;
}

#[tokio::test]
async fn a_connection_too_many_is_closed_under_tls_without_plain_words() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it is made");
    for (name, text) in [
        ("cert.pem", own.cert.pem()),
        ("key.pem", own.signing_key.serialize_pem()),
        ("web.yml", "tls_server_config: {cert_file: cert.pem, key_file: key.pem}".to_owned()),
    ] {
        std::fs::write(directory.path().join(name), text).expect("it can be written");
    }
    let web = crate::config::Web::load(&directory.path().join("web.yml")).expect("it is right");
    let server = Server::protected(0, Some(Arc::new(LiveWeb::new(Arc::new(web))))).await;
    assert_eq!(rest(&mut server.send(b"").await).await, "");
    assert!(server.exports(r#"tallyd_rejected_total{reason="too_many_connections"} 1"#));
}
