//! One kept connection to the server under test.
//!
//! The lightest client that is still a whole one: what the load costs, the server does not get.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::error::BenchError;

/// A connection that takes one request after the other.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

impl Connection {
    /// Connects.
    pub(super) async fn open(address: SocketAddr) -> Result<Self, BenchError> {
        let failed = BenchError::system(format!("connect to the server under test at {address}"));
        let connected = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let (sender, connection) =
            handshake(TokioIo::new(connected.await.map_err(failed)?)).await?;
        // What breaks it is told to whoever waits for an answer.
        tokio::spawn(async move { drop(connection.await) });
        let host = HeaderValue::try_from(address.to_string()).expect("an address is plain ASCII");
        Ok(Self { sender, host })
    }

    /// Sends JSON and answers with what came back, if it is a 2xx.
    pub(super) async fn post(
        &mut self,
        path: &'static str,
        body: Bytes,
    ) -> Result<Bytes, BenchError> {
        let json = HeaderValue::from_static("application/json");
        self.ask(Request::post(path).header(CONTENT_TYPE, json), path, body).await
    }

    async fn ask(
        &mut self,
        request: hyper::http::request::Builder,
        path: &'static str,
        body: Bytes,
    ) -> Result<Bytes, BenchError> {
        let request = request.header(HOST, self.host.clone()).body(Full::new(body));
        self.sender.ready().await?;
        let response = self.sender.send_request(request.expect("paths are valid")).await?;
        let code = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if code.is_success() {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body).into_owned();
        Err(BenchError::Refused { code: code.as_u16(), path, text })
    }
}
