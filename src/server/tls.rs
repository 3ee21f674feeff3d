//! Encrypted connections: the handshake, within its time, and what plain HTTP is told here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::deadline::HEAD;
use super::unreadable::say_last;
use crate::metrics::{Metrics, Rejected};

/// A connection under TLS.
pub(super) type Encrypted = TlsStream<TcpStream>;

/// How long it may take to answer plain HTTP, and to read away the rest of it.
const PLAIN: Duration = Duration::from_secs(1);

/// The answer to plain HTTP, in the words of Go's servers.
const PLAIN_REFUSAL: &str = concat!(
    "HTTP/1.1 400 Bad Request\r\n",
    "content-type: application/json\r\ncontent-length: 113\r\nconnection: close\r\n\r\n",
    r#"{"error":{"code":"tls_needed","message":"Client sent an HTTP request to an HTTPS server. Use https:// instead."}}"#
);

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// The peer has gone, or does not speak TLS, or not as it must here.
    #[error(transparent)]
    Failed(#[from] io::Error),
    /// It took longer than a request's head may.
    #[error("it took too long")]
    TooLate,
    /// Plain HTTP came.
    #[error("plain HTTP came")]
    Plain,
}

/// Shakes hands on a connection on which something came; a client that is refused is told by TLS
/// why, as far as TLS has words for it.
pub(super) async fn accept(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
    metrics: &Metrics,
) -> Result<Box<Encrypted>, HandshakeError> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        // Of one who only looks whether somebody listens nothing is counted.
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    // A method begins with a letter, and no record of TLS does.
    if first[0].is_ascii_uppercase() {
        metrics.rejected(Rejected::InvalidRequest);
        // Who hangs up before the answer does not need it.
        drop(timeout(PLAIN, say_last(&mut stream, PLAIN_REFUSAL.as_bytes())).await);
        return Err(HandshakeError::Plain);
    }
    match timeout(HEAD, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => {
            metrics.rejected(Rejected::InvalidRequest);
            Err(error.into())
        }
        Err(_) => {
            metrics.rejected(Rejected::Timeout);
            Err(HandshakeError::TooLate)
        }
    }
}

#[cfg(test)]
mod tests;
