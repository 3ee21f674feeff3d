//! How long a connection may be silent: idle between requests, and while it sends a head.
//!
//! hyper has one timeout for both, so a connection that keeps alive could be idle no longer than
//! a head may take. Here the timer that hyper asks for looks at whether the head has begun.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a connection may wait for its next request.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// How long a request's head may take from its first byte.
pub(super) const HEAD: Duration = Duration::from_secs(10);

/// When the first bytes came since a head was last waited for.
#[derive(Clone, Default)]
pub(super) struct Begun(Arc<Mutex<Option<tokio::time::Instant>>>);

impl Begun {
    fn get(&self) -> Option<tokio::time::Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn mark(&self) {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.get_or_insert_with(tokio::time::Instant::now);
    }

    /// Begins to wait for a head.
    fn wait(&self) -> Wait {
        self.clear();
        let idle_until = tokio::time::Instant::now() + IDLE;
        let end = Box::pin(tokio::time::sleep_until(idle_until));
        Wait { end, idle_until, begun: self.clone() }
    }
}

/// A stream that notes when bytes come in.
pub(super) struct Noted<S> {
    pub(super) stream: S,
    pub(super) begun: Begun,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.begun.mark();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The timer of one connection; hyper asks it for one thing only, how long to wait for a head.
#[derive(Clone, Default)]
pub(super) struct HeadTimer(pub(super) Begun);

impl hyper::rt::Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(self.0.wait())
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(self.0.wait())
    }
}

/// Resolves when the wait for a head has taken too long.
struct Wait {
    end: Pin<Box<tokio::time::Sleep>>,
    idle_until: tokio::time::Instant,
    begun: Begun,
}

impl hyper::rt::Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    /// hyper polls it after each read, so a head that has just begun shortens the wait.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.begun.get().map_or(self.idle_until, |begun| begun + HEAD);
        if self.end.deadline() != deadline {
            self.end.as_mut().reset(deadline);
        }
        self.end.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_longer_than_a_head() {
        let start = Instant::now();
        let begun = Begun::default();
        begun.wait().await;
        assert_eq!(start.elapsed().as_secs(), IDLE.as_secs());

        let mut wait = pin!(begun.wait());
        let early = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx).is_ready())).await;
        assert!(!early);
        let start = Instant::now();
        begun.mark();
        wait.await;
        assert_eq!(start.elapsed().as_secs(), HEAD.as_secs());
    }
}
