//! Requests that hyper cannot read, and refuses by itself: with a code, and not a word. What it says is
//! held back here, and its caller is told why instead, as everybody is who is refused. Who begins to
//! speak HTTP/2, or does not end a head in time, is told nothing: hyper just closes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use tracing::debug;

use super::connections::MAX_HEAD_BYTES;
use super::error::{ApiError, Code};
use super::json;
use super::web::LiveWeb;

/// How hyper's own answers to what it cannot read begin, behind the version.
const CODES: [&str; 3] = [" 400 ", " 414 ", " 431 "];

/// All that such an answer has in its head. Every answer of ours has a cache-control, too.
const HEADERS: [&str; 3] = ["connection: close", "content-length: 0", "date: "];

/// The most bytes behind a refused request that are read away, so that its sender sees the answer.
const MAX_UNREAD_BYTES: u64 = 64 << 10;

/// How long that may take.
const UNREAD: Duration = Duration::from_secs(1);

/// A stream that takes hyper's own answer, and does not send it.
pub(super) struct HoldingBack<S> {
    stream: S,
    /// That answer, which is the last of its connection.
    held: Option<String>,
}

impl<S> HoldingBack<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, held: None }
    }

    /// Whether these bytes are kept.
    fn takes(&mut self, bytes: &[u8]) -> bool {
        let Some(bare) = bare(bytes) else { return false };
        self.held = Some(bare);
        true
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> HoldingBack<S> {
    /// Answers why in place of what was held back, if anything was: also to HEAD, since hyper does not
    /// tell what it could not read; nothing follows that could be mistaken.
    pub(super) async fn explain(mut self, error: &hyper::Error, web: Option<&LiveWeb>) {
        let Some(held) = self.held else { return };
        let answer = answer(&held, error, web);
        if let Err(error) = say_last(&mut self.stream, &answer).await {
            debug!(event = "refusal_unsent", %error);
        }
    }
}

/// Says the last words on a connection, and reads away what was sent: one that is closed over unread
/// bytes is reset, which can overtake the answer.
pub(super) async fn say_last(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    answer: &[u8],
) -> io::Result<()> {
    stream.write_all(answer).await?;
    stream.shutdown().await?;
    let (mut rest, mut nowhere) = (stream.take(MAX_UNREAD_BYTES), tokio::io::sink());
    // Who sends for longer has had time to see it.
    timeout(UNREAD, tokio::io::copy(&mut rest, &mut nowhere))
        .await
        .map_or(Ok(()), |end| end.map(drop))
}

/// These bytes as text, if they are all of an answer that hyper made.
fn bare(bytes: &[u8]) -> Option<String> {
    let begin = bytes.strip_prefix(b"HTTP/1.")?.get(1..)?;
    if !CODES.iter().any(|code| begin.starts_with(code.as_bytes())) {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let mut headers = text.strip_suffix("\r\n\r\n")?.split("\r\n").skip(1);
    let is_bare = headers.all(|line| HEADERS.iter().any(|header| line.starts_with(header)));
    is_bare.then(|| text.to_owned())
}

/// What is said instead: in the same version of HTTP, on the same date.
fn answer(held: &str, error: &hyper::Error, web: Option<&LiveWeb>) -> Vec<u8> {
    let refused = refusal(error);
    let (status, body) = (refused.code.status(), json::text(&refused.view()));
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, json::JSON);
    headers.insert(CONTENT_LENGTH, body.len().into());
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(web) = web {
        web.current().add_headers(&mut headers);
    }
    let version = held.get(.."HTTP/1.1".len()).unwrap_or("HTTP/1.1");
    let mut answer = format!("{version} {status}\r\n").into_bytes();
    for (name, value) in &headers {
        answer.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    for date in held.split("\r\n").filter(|line| line.starts_with("date: ")) {
        answer.extend([date.as_bytes(), b"\r\n"].concat());
    }
    answer.extend([b"\r\n", &*body].concat());
    answer
}

fn refusal(error: &hyper::Error) -> ApiError {
    if error.is_parse_too_large() {
        let most = MAX_HEAD_BYTES >> 10;
        let message = format!(
            "the request is too large: its line and headers must be at most {most} KiB and 100 \
             headers, and its content-length a number of at most 64 bits"
        );
        return ApiError::new(Code::HeadTooLarge, message);
    }
    // hyper's words, which repeat nothing of what came.
    let message = format!("this is not HTTP/1.1: {error}; send a request as RFC 9112 has it");
    ApiError::new(Code::InvalidRequest, message)
}

impl<S: AsyncRead + Unpin> AsyncRead for HoldingBack<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HoldingBack<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.takes(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        if let (Some(only), None) = (filled.next(), filled.next())
            && self.takes(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// The last words are to be said yet, if something was held back.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\
                        date: Thu, 26 Nov 2026 10:00:00 GMT\r\n\r\n";

    #[test]
    fn only_a_whole_answer_without_anything_of_ours_is_held_back() {
        for held in [
            BARE.to_owned(),
            BARE.replace("HTTP/1.1", "HTTP/1.0"),
            BARE.replace("400 Bad Request", "431 Request Header Fields Too Large"),
            BARE.replace("connection: close\r\n", ""),
        ] {
            assert_eq!(bare(held.as_bytes()), Some(held));
        }
        for sent in [
            "",
            "HTTP/1.1",
            "HTTP/1.1 100 Continue\r\n\r\n",
            BARE.trim_end(),
            &BARE[1..],
            &format!("{BARE}{BARE}"),
            &format!("{BARE}{{}}"),
            &BARE.replace("400", "404"),
            &BARE.replace("length: 0", "length: 2"),
            &BARE.replace("date", "cache-control: no-store\r\ndate"),
        ] {
            assert_eq!(bare(sent.as_bytes()), None, "{sent}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_back_is_not_sent_and_everything_else_is() {
        let (stream, mut peer) = tokio::io::duplex(1 << 10);
        let mut stream = HoldingBack::new(stream);
        stream.write_all(b"before").await.expect("it is taken");
        stream.write_all(BARE.as_bytes()).await.expect("it is taken");
        let slices = [IoSlice::new(b""), IoSlice::new(BARE.as_bytes())];
        assert_eq!(stream.write_vectored(&slices).await.expect("it is taken"), BARE.len());
        stream.flush().await.expect("nothing fails");
        stream.shutdown().await.expect("nothing fails");
        assert_eq!(stream.held.as_deref(), Some(BARE));
        say_last(&mut stream.stream, b" after").await.expect("it is said");
        let mut sent = String::new();
        peer.read_to_string(&mut sent).await.expect("it ends");
        assert_eq!(sent, "before after");
    }
}
