//! An answer that holds something until its connection has taken all of it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// The most bytes that the connection takes at once: it asks for more when they are on their way.
const CHUNK: usize = 64 << 10;

/// A body, and what goes with its last byte.
pub(super) struct Held<T> {
    body: Body,
    /// What has come out of it and was not taken yet.
    pending: Bytes,
    held: Option<T>,
    /// What becomes of that when all was taken; if the connection is gone before, it is dropped.
    taken: fn(T),
}

impl<T: Send + Unpin + 'static> Held<T> {
    /// Holds `held` until `body`, which is in memory, is taken or the connection is gone.
    pub(super) fn around(body: Body, held: T, taken: fn(T)) -> Body {
        Body::new(Self { body, pending: Bytes::new(), held: Some(held), taken })
    }
}

impl<T> Held<T> {
    fn end(&mut self) {
        self.held.take().into_iter().for_each(self.taken);
    }
}

impl<T: Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.pending.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)?) {
                Some(frame) => self.pending = frame.into_data().unwrap_or_default(),
                None => {
                    self.end();
                    return Poll::Ready(None);
                }
            }
        }
        let length = self.pending.len().min(CHUNK);
        let mut chunk = self.pending.split_to(length);
        if self.is_end_stream() {
            // A part keeps the whole in memory, which nothing counts any more.
            chunk = Bytes::copy_from_slice(&chunk);
            self.end();
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.body.size_hint().exact().unwrap_or_default();
        SizeHint::with_exact(self.pending.len() as u64 + rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_is_held_goes_with_the_last_byte() {
        let held = Arc::new(());
        let text = Bytes::from(vec![b'x'; CHUNK + 1]);
        let mut body = Held::around(text.clone().into(), held.clone(), drop);
        let first = body.frame().await.expect("more").expect("data").into_data().expect("data");
        assert_eq!((first.len(), Arc::strong_count(&held)), (CHUNK, 2));
        let last = body.frame().await.expect("more").expect("data").into_data().expect("data");
        assert_eq!((last.len(), Arc::strong_count(&held)), (1, 1));
        assert!(last.is_unique(), "nothing else stays in memory with it");
        assert!(body.is_end_stream() && body.frame().await.is_none());
        let left = Held::around(text.into(), held.clone(), drop);
        drop(left);
        assert_eq!(Arc::strong_count(&held), 1, "a connection that is gone gives it back");
    }
}
