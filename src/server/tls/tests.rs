//! What a client meets before anything is encrypted.

use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;
use crate::config::Config;

/// A connection from both of its ends, the server's second.
async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let client = TcpStream::connect(address).await.expect("it connects");
    (client, listener.accept().await.expect("it is accepted").0)
}

fn config() -> Arc<ServerConfig> {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("it is made");
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("there are some")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key);
    Arc::new(config.expect("the key is its own"))
}

fn metrics() -> Metrics {
    Metrics::new(Arc::new(Config::default()))
}

/// What was counted as this reason.
fn rejected(metrics: &Metrics, reason: &str) -> bool {
    metrics
        .snapshot()
        .to_text()
        .contains(&format!("tallyd_rejected_total{{reason=\"{reason}\"}} 1\n"))
}

#[test]
fn the_refusal_is_as_long_as_it_says() {
    let (head, body) = PLAIN_REFUSAL.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_takes_too_long_is_cut() {
    let (mut client, server) = connected().await;
    // The first bytes of a record that never comes whole.
    client.write_all(&[0x16, 3, 1, 2, 0, 1]).await.expect("it is taken");
    let (metrics, start) = (metrics(), Instant::now());
    let refused = accept(server, config(), &metrics).await;
    assert!(matches!(refused, Err(HandshakeError::TooLate)), "{refused:?}");
    assert_eq!(start.elapsed(), HEAD);
    assert!(rejected(&metrics, "timeout"));
    assert_eq!(client.read(&mut [0]).await.expect("it ends"), 0);
}

#[tokio::test]
async fn plain_http_is_told_what_is_wrong_with_it() {
    let (mut client, server) = connected().await;
    client
        .write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .expect("it is taken");
    let metrics = metrics();
    let answering = async { assert!(accept(server, config(), &metrics).await.is_err()) };
    let reading = async {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("it ends in order");
        drop(client);
        answer
    };
    let ((), answer) = tokio::join!(answering, reading);
    assert_eq!(answer, PLAIN_REFUSAL);
    assert!(answer.contains("Client sent an HTTP request to an HTTPS server."));
    assert!(rejected(&metrics, "invalid_request"));
}

#[tokio::test]
async fn what_is_neither_http_nor_tls_ends_at_once() {
    let (mut client, server) = connected().await;
    client.write_all(b"\0\0\0\0\0\0\0\0").await.expect("it is taken");
    let metrics = metrics();
    assert!(accept(server, config(), &metrics).await.is_err());
    assert!(rejected(&metrics, "invalid_request"));
}
