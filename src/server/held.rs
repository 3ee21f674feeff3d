//! An answer that holds something until its connection has taken all of it.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// The most bytes that the connection takes at once: it asks for more when they are on their way.
pub(super) const CHUNK: usize = 64 << 10;

/// A text, and what goes with its last byte.
pub(super) struct Held<T> {
    text: Bytes,
    held: Option<T>,
}

impl<T> Held<T> {
    /// Holds `held` until `text` is taken, or the connection is gone.
    pub(super) fn new(text: Bytes, held: T) -> Self {
        Self { text, held: Some(held) }
    }
}

impl<T: Unpin> HttpBody for Held<T> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.text.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.text.len().min(CHUNK);
        let chunk = self.text.split_to(length);
        if self.text.is_empty() {
            self.held = None;
        }
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.len() as u64)
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
        let mut body = Held::new(text.clone(), held.clone());
        let first = body.frame().await.expect("more").expect("data").into_data().expect("data");
        assert_eq!((first.len(), Arc::strong_count(&held)), (CHUNK, 2));
        let last = body.frame().await.expect("more").expect("data").into_data().expect("data");
        assert_eq!((last.len(), Arc::strong_count(&held)), (1, 1));
        assert!(body.is_end_stream() && body.frame().await.is_none());
        let left = Held::new(text, held.clone());
        drop(left);
        assert_eq!(Arc::strong_count(&held), 1, "a connection that is gone gives it back");
    }
}
