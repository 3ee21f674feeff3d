//! Request bodies: what may come in, how much of it, for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::Deserialize;
use tokio::time::timeout;

use super::Api;
use super::error::{ApiError, Code};
use super::json;
use super::room::Room;

/// The most bytes of a body that holds many items.
pub(super) const MAX_BATCH_BYTES: usize = 16 << 20;

/// The most bytes of a body that holds a few short fields.
pub(super) const MAX_SMALL_BYTES: usize = 1 << 20;

/// How many bytes beyond a limit are read and thrown away, so that a caller who sends first and
/// reads afterwards sees the answer rather than a reset connection. It is for unknown callers too:
/// what they send in bodies costs less than the same in heads.
const READ_AWAY_BYTES: usize = 16 << 20;

/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// How large a body may be, and what a larger one is called.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    bytes: usize,
    code: Code,
}

impl Limit {
    /// Nothing is kept of it, whatever comes.
    const NOTHING: Self = Self { bytes: 0, code: Code::BodyTooLarge };

    /// A few short fields.
    pub(super) const SMALL: Self = Self { bytes: MAX_SMALL_BYTES, code: Code::BodyTooLarge };

    /// Many items.
    pub(super) const BATCH: Self = Self { bytes: MAX_BATCH_BYTES, code: Code::BodyTooLarge };

    /// One job.
    pub(super) fn job(max_payload: usize) -> Self {
        Self { bytes: max_payload, code: Code::JobTooLarge }
    }

    fn exceeded(self) -> ApiError {
        let what = if self.code == Code::JobTooLarge { "a job" } else { "the body" };
        ApiError::new(self.code, format!("{what} may have at most {} bytes", self.bytes))
    }
}

/// The media types that bodies come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    /// One JSON value.
    Json,
    /// A JSON value a line.
    NdJson,
}

impl Media {
    /// Its name in headers.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::NdJson => "application/x-ndjson",
        }
    }

    /// What the headers say, without parameters such as `charset`; nothing if they say it twice.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(CONTENT_TYPE).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let essence = value.to_str().ok()?.split(';').next().unwrap_or_default().trim();
        [Self::Json, Self::NdJson]
            .into_iter()
            .find(|media| essence.eq_ignore_ascii_case(media.name()))
    }
}

/// Whether the body of a request was read to its end. Of one that was not, what is left, or comes
/// later, could be taken for the next request.
#[derive(Clone, Default)]
pub(super) struct ReadWhole(Arc<AtomicBool>);

impl ReadWhole {
    /// Notes it if this is what is left of the body.
    fn note(head: &Parts, rest: &Body) {
        if let Some(whole) = head.extensions.get::<Self>().filter(|_| rest.is_end_stream()) {
            whole.0.store(true, Ordering::Relaxed);
        }
    }

    /// Whether it was, so far.
    pub(super) fn is_noted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A body in memory.
pub(super) struct Received {
    /// What came in; `{}` if nothing did.
    pub(super) text: Bytes,
    /// What it is.
    pub(super) media: Media,
    /// What it holds, to be kept as long as anything made of it.
    pub(super) room: Room,
}

impl Received {
    /// The body as a JSON object.
    pub(super) fn object<'b, T: Deserialize<'b>>(&'b self) -> Result<T, ApiError> {
        json::object(&self.text)
    }
}

impl Api {
    /// Reads the body of a request; one that is not empty must be of an accepted media type.
    pub(super) async fn receive(
        &self,
        request: Request,
        limit: Limit,
        accepted: &[Media],
    ) -> Result<Received, ApiError> {
        let (head, mut body) = request.into_parts();
        let mut room = self.rooms.enter();
        // Who asks before it sends need not send what is refused.
        let asks = head.headers.contains_key(EXPECT);
        if asks && declared(&body).is_some_and(|bytes| bytes > limit.bytes) {
            return Err(limit.exceeded());
        }
        let collected = timeout(BODY_TIMEOUT, collect(&mut body, limit, &mut room)).await;
        ReadWhole::note(&head, &body);
        let text = collected.map_err(|_| too_late())??;
        if head.headers.contains_key(CONTENT_ENCODING) {
            let message = "bodies are taken as they are; send it without content-encoding";
            return Err(ApiError::new(Code::UnsupportedEncoding, message));
        }
        let media = Media::of(&head.headers).filter(|media| accepted.contains(media));
        let (text, media) = match media {
            Some(Media::NdJson) => (text, Media::NdJson),
            _ if text.is_empty() => (Bytes::from_static(b"{}"), Media::Json),
            Some(Media::Json) => (text, Media::Json),
            None => {
                let names: Vec<_> = accepted.iter().map(|media| media.name()).collect();
                let message = format!("a body needs content-type: {}", names.join(" or "));
                return Err(ApiError::new(Code::UnsupportedMediaType, message));
            }
        };
        Ok(Received { text, media, room })
    }

    /// Reads the body of a request that is refused whatever it says, and keeps nothing of it, so that
    /// its caller learns why. Who asks before it sends learns it at once.
    pub(super) async fn read_away(&self, request: Request) {
        let (head, mut body) = request.into_parts();
        if head.headers.contains_key(EXPECT) {
            return;
        }
        let mut room = self.rooms.enter();
        let read = timeout(BODY_TIMEOUT, collect(&mut body, Limit::NOTHING, &mut room)).await;
        // It is refused for another reason, also if it is too long, too late, or breaks off.
        drop(read);
        ReadWhole::note(&head, &body);
    }
}

/// How many bytes a body says it has.
fn declared(body: &Body) -> Option<usize> {
    usize::try_from(body.size_hint().exact()?).ok()
}

fn too_late() -> ApiError {
    let message =
        format!("the body was not read within {} s; send it again", BODY_TIMEOUT.as_secs());
    ApiError::new(Code::BodyTimeout, message)
}

/// Gathers a body within its limit; of one that is refused, reads some more and keeps nothing.
async fn collect(body: &mut Body, limit: Limit, room: &mut Room) -> Result<Bytes, ApiError> {
    let declared = declared(body).unwrap_or_default();
    if declared > limit.bytes.saturating_add(READ_AWAY_BYTES) {
        return Err(limit.exceeded());
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut seen = 0_usize;
    let mut refused = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let message = format!("the body broke off or is malformed: {error}");
            ApiError::new(Code::InvalidBody, message)
        })?;
        let Ok(data) = frame.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen > limit.bytes.saturating_add(READ_AWAY_BYTES) {
            break;
        }
        if refused.is_none() {
            let fits = if seen > limit.bytes { Err(limit.exceeded()) } else { room.cover(seen) };
            refused = fits.err();
        }
        if refused.is_some() {
            (first, rest) = (Bytes::new(), BytesMut::new());
        } else if first.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
        }
    }
    if let Some(refused) = refused {
        return Err(refused);
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Routes;
    use crate::server::fixture::Fixture;
    use crate::server::room::Rooms;
    use axum::http::HeaderValue;
    use hyper::body::Frame;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::time::Instant;

    const LIMIT: Limit = Limit { bytes: 8, code: Code::BodyTooLarge };

    /// A body that comes in pieces and does not say how many bytes they have.
    struct Pieces(std::array::IntoIter<&'static str, 4>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(Bytes::from(piece)))))
        }
    }

    /// A body that begins and never ends.
    struct Stalled(Option<Bytes>);

    impl HttpBody for Stalled {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            let begin = self.0.take().map(|begin| Some(Ok(Frame::data(begin))));
            begin.map_or(Poll::Pending, Poll::Ready)
        }
    }

    async fn collected(mut body: Body) -> Result<Bytes, ApiError> {
        collect(&mut body, LIMIT, &mut Rooms::new().enter()).await
    }

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_is_taken() {
        assert_eq!(collected(Body::from("12345678")).await.as_deref(), Ok(&b"12345678"[..]));
        let error = collected(Body::from("123456789")).await.expect_err("one byte more");
        assert_eq!(error.code, Code::BodyTooLarge);
        let huge = Body::from(vec![b'x'; 8 + READ_AWAY_BYTES + 1]);
        assert!(collected(huge).await.is_err());
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together() {
        let body = Body::new(Pieces(["ab", "", "cde", "f"].into_iter()));
        assert_eq!(collected(body).await.as_deref(), Ok(&b"abcdef"[..]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up_and_holds_no_room() {
        let server = Fixture::new(|_| {});
        let begin = Bytes::from(vec![b' '; 1 << 20]);
        let request = Request::post("/v1/jobs/batch")
            .header("host", "localhost")
            .header("content-type", Media::Json.name())
            .body(Body::new(Stalled(Some(begin))))
            .expect("a valid request");
        let start = Instant::now();
        let response = server.send(Routes::Whole, request).await;
        assert_eq!(start.elapsed(), BODY_TIMEOUT);
        assert_eq!(response.status(), 408);
        let answer = response.into_body().collect().await.expect("it is whole").to_bytes();
        let answer: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
        assert_eq!(answer["error"]["code"], "body_timeout");
        let exported = server.api.metrics.snapshot().to_text();
        assert!(exported.contains("tallyd_rejected_total{reason=\"timeout\"} 1\n"));
        assert_eq!(server.api.rooms.enter().cover(128 << 20), Ok(()), "all of it is free");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_body_that_does_not_come_is_given_up_and_one_that_asks_is_not_waited_for() {
        let server = Fixture::new(|_| {});
        let full = || {
            let mut others = server.api.rooms.enter();
            others.cover(128 << 20).expect("all is free");
            others
        };
        for (path, host, refused) in [("/none", "localhost", 404), ("/v1/jobs", "evil", 421)] {
            for (header, waited) in [("x-other", BODY_TIMEOUT), ("expect", Duration::ZERO)] {
                let begin = Bytes::from(vec![b' '; 1 << 20]);
                let request = Request::post(path)
                    .header("host", host)
                    .header(header, "100-continue")
                    .body(Body::new(Stalled(Some(begin))))
                    .expect("a valid request");
                let (start, _others) = (Instant::now(), full());
                let response = server.send(Routes::Whole, request).await;
                assert_eq!(start.elapsed(), waited, "{path} {header}");
                assert_eq!(response.status(), refused, "what it holds takes no room");
                assert_eq!(response.headers()["connection"], "close");
            }
        }
    }

    #[test]
    fn media_types_may_have_parameters() {
        let media = |value: &'static str| {
            let value = HeaderValue::from_static(value);
            Media::of(&HeaderMap::from_iter([(CONTENT_TYPE, value)]))
        };
        assert_eq!(media("application/json"), Some(Media::Json));
        assert_eq!(media("Application/JSON ; charset=utf-8"), Some(Media::Json));
        assert_eq!(media("application/x-ndjson"), Some(Media::NdJson));
        assert_eq!(media("text/plain"), None);
        assert_eq!(media("application/jsonp"), None);
        assert_eq!(Media::of(&HeaderMap::new()), None);
        let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut twice = HeaderMap::from_iter([json.clone()]);
        twice.append(json.0, json.1);
        assert_eq!(Media::of(&twice), None, "it may not be said twice");
    }
}
