//! A crowd of slow clients under TLS: a handshake, a head or a body that stops, an answer that is not taken.

use std::sync::Arc;

use reqwest::StatusCode;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Authority, SECTION, start};
use crate::crowds::{
    ANSWERED, BODY, HEAD, READERS, READING, connect, count_cut, many_series, until_few, until_read,
};
use crate::fixture::{Daemon, PATIENCE};

/// How many handshakes are never ended: each holds its connection, and nothing that others need.
const HANDSHAKES: usize = 500;

/// How many heads, and bodies.
const EACH: usize = 230;

/// How a handshake begins: a record of 512 bytes, of which no more come.
const HELLO: [u8; 9] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];

/// A client that has this authority's word.
pub fn connector(authority: &Authority) -> TlsConnector {
    let own = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("it is PEM");
    let mut roots = RootCertStore::empty();
    roots.add(own).expect("it is an authority");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// So many connections whose hands are shaken, and that have sent this.
async fn connections(
    daemon: &Daemon,
    connector: &TlsConnector,
    begin: &str,
    number: usize,
) -> Vec<TlsStream<TcpStream>> {
    let mut streams = Vec::with_capacity(number);
    for _ in 0..number {
        let name = ServerName::try_from("localhost").expect("it is a name");
        let shaken = connector.connect(name, connect(daemon).await).await;
        let mut stream = shaken.expect("hands are shaken");
        stream.write_all(begin.as_bytes()).await.expect("it is taken");
        stream.flush().await.expect("it is taken");
        streams.push(stream);
    }
    streams
}

#[tokio::test]
async fn a_thousand_slow_clients_keep_nobody_from_health_and_metrics_and_are_cut() {
    let authority = Authority::new("tests");
    let daemon = start(&many_series(), SECTION, &authority);
    let connector = connector(&authority);
    let mut handshakes = Vec::new();
    for _ in 0..HANDSHAKES {
        let mut stream = connect(&daemon).await;
        stream.write_all(&HELLO).await.expect("it is taken");
        handshakes.push(stream);
    }
    let mut heads = connections(&daemon, &connector, HEAD, EACH).await;
    let mut bodies = connections(&daemon, &connector, BODY, EACH).await;
    let mut readers = connections(&daemon, &connector, READING, READERS).await;
    until_read(&mut readers).await;

    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(daemon.get(path).await.0, StatusCode::OK, "{path}");
    }
    daemon.scrape().await;
    until_few(async || Some(daemon.scrape().await)).await;

    let mut nothing = Vec::new();
    for stream in &mut handshakes {
        // A reset is an end, too.
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut nothing)).await;
        drop(end.expect("it ends"));
    }
    for stream in &mut heads {
        let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut nothing)).await;
        drop(end.expect("it ends"));
    }
    assert_eq!(String::from_utf8_lossy(&nothing), "", "nothing was asked");
    for stream in &mut bodies {
        let mut last = vec![0; ANSWERED.len()];
        stream.read_exact(&mut last).await.expect("it was answered");
        assert!(last.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&last));
    }
    assert_eq!(count_cut(readers).await, READERS, "each held its place until it was cut");
    let late = daemon.scrape().await.value("tallyd_rejected_total{reason=\"timeout\"}");
    assert_eq!(late, (HANDSHAKES + 2 * EACH) as f64, "handshakes, heads and bodies");
}
