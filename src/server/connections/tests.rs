//! What a connection sees, byte by byte.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::*;
use crate::server::fixture::Fixture;
use crate::server::{self, Role};

struct Server {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
    _fixture: Fixture,
}

impl Server {
    async fn start() -> Self {
        let fixture = Fixture::new(|_| {});
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let serving = server::serve(fixture.api.clone(), listener, Role::Whole, stop.clone());
        Self { address, stop, serving: tokio::spawn(serving), _fixture: fixture }
    }

    /// A connection that has sent these bytes.
    async fn send(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        stream.write_all(bytes).await.expect("is sent");
        stream
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
async fn a_head_too_large_is_refused() {
    let server = Server::start().await;
    let filler = "x".repeat(MAX_HEAD_BYTES);
    let head = format!("GET /-/healthy HTTP/1.1\r\nhost: localhost\r\nx-a: {filler}\r\n\r\n");
    let mut stream = server.send(head.as_bytes()).await;
    assert!(until(&mut stream, "\r\n").await.contains(" 431 "));
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
    let server = Server::start().await;
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
    server.serving.await.expect("serving has ended");
    assert!(TcpStream::connect(server.address).await.is_err());
}
