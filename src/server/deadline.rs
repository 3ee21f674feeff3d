//! How long a connection may take: idle between requests, to send a head, and to take an answer.
//!
//! hyper has one timeout for the first two, so a connection that keeps alive could be idle no longer
//! than a head may take. Here the timer that hyper asks for looks at whether the head has begun. For
//! the third it has none.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::service::Service;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a connection may wait for its next request.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// How long a request's head may take from its first byte.
pub(super) const HEAD: Duration = Duration::from_secs(10);

/// How long a peer may leave an answer untaken, before what [`RATE`] adds.
pub(super) const UNTAKEN: Duration = Duration::from_secs(60);

/// The same for an answer that keeps others from theirs while it is held: the readings of the counts.
/// Prometheus itself gives up after 10 s.
pub(super) const UNTAKEN_READING: Duration = Duration::from_secs(10);

/// How many bytes of an answer buy its peer another second: a slow line passes, one byte now and
/// then does not.
const RATE: u32 = 64 << 10;

/// When the first bytes came since a head was last waited for.
#[derive(Clone, Default)]
pub(super) struct Begun(Arc<Mutex<Option<tokio::time::Instant>>>);

impl Begun {
    fn get(&self) -> Option<tokio::time::Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a head, or what follows it, has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.get().is_some()
    }

    fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes that bytes came; whether they are the first.
    fn mark(&self) -> bool {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = begun.is_none();
        begun.get_or_insert_with(tokio::time::Instant::now);
        is_first
    }

    /// Begins to wait for a head.
    fn wait(&self) -> Wait {
        self.clear();
        let idle_until = tokio::time::Instant::now() + IDLE;
        let end = Box::pin(tokio::time::sleep_until(idle_until));
        Wait { end, idle_until, begun: self.clone() }
    }
}

/// What a handler tells the connection of its request: that the answer must be taken soon, or that
/// it is given up.
#[derive(Clone, Default)]
pub(super) struct Haste(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    is_made: bool,
    is_given_up: bool,
    /// The connection, while its peer leaves a part of the answer untaken.
    untaken: Option<Waker>,
}

impl Haste {
    /// From now on, until the next request.
    pub(super) fn make(&self) {
        self.told().is_made = true;
    }

    /// The answer is cut off if its peer does not take all of it at once.
    pub(super) fn give_up(&self) {
        let mut told = self.told();
        told.is_given_up = true;
        told.untaken.take().into_iter().for_each(Waker::wake);
    }

    /// Whether it is; if not, who asks is woken when it is.
    pub(super) fn is_given_up(&self, cx: &Context<'_>) -> bool {
        let mut told = self.told();
        told.untaken = Some(cx.waker().clone());
        told.is_given_up
    }

    fn end(&self) {
        *self.told() = Told::default();
    }

    fn untaken(&self) -> Duration {
        if self.told().is_made { UNTAKEN_READING } else { UNTAKEN }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose connection a request comes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer(pub(super) IpAddr);

/// Hands each request the means to tell its connection something, and whose that is.
pub(super) struct Hastening<S> {
    pub(super) service: S,
    pub(super) haste: Haste,
    pub(super) peer: Peer,
}

impl<B, S: Service<Request<B>>> Service<Request<B>> for Hastening<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<B>) -> S::Future {
        request.extensions_mut().insert(self.haste.clone());
        request.extensions_mut().insert(self.peer);
        self.service.call(request)
    }
}

/// A stream that notes when bytes come in, and fails when its peer does not take what goes out.
pub(super) struct Timed<S> {
    stream: S,
    begun: Begun,
    haste: Haste,
    /// Runs from when the peer first left a part of the answer untaken.
    untaken: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<S> Timed<S> {
    /// A stream whose heads `begun` tells of, and whose answers `haste`.
    pub(super) fn new(stream: S, begun: Begun, haste: Haste) -> Self {
        Self { stream, begun, haste, untaken: None }
    }

    /// What a write came to, unless the peer is too slow.
    fn in_time(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match (&written, &mut self.untaken) {
            (Poll::Ready(Ok(bytes)), Some(end)) => {
                let bytes = u32::try_from(*bytes).unwrap_or(u32::MAX);
                let longer = end.deadline() + Duration::from_secs(1) * bytes / RATE;
                end.as_mut().reset(longer);
                written
            }
            (Poll::Pending, untaken) => {
                let allowed = self.haste.untaken();
                let end = untaken.get_or_insert_with(|| Box::pin(tokio::time::sleep(allowed)));
                if !self.haste.is_given_up(cx) {
                    std::task::ready!(end.as_mut().poll(cx));
                }
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the answer is not taken")))
            }
            (Poll::Ready(_), _) => written,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before && self.begun.mark() {
            // Another request, another answer.
            self.untaken = None;
            self.haste.end();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// What TLS has encrypted and not yet sent is untaken too.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0);
        self.in_time(cx, flushed).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx).map_ok(|()| 0);
        self.in_time(cx, shut).map_ok(drop)
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
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

    /// Sends all of it, as far as it is taken in time.
    async fn send(stream: &mut Timed<DuplexStream>, bytes: usize) -> io::Result<()> {
        stream.write_all(&vec![0; bytes]).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_must_be_taken() {
        let (stream, mut peer) = duplex(RATE as usize);
        let begun = Begun::default();
        let haste = Haste::default();
        let mut stream = Timed::new(stream, begun.clone(), haste.clone());
        peer.write_all(b"GET").await.expect("sent");
        stream.read_exact(&mut [0; 3]).await.expect("read");
        let start = Instant::now();
        let error = send(&mut stream, RATE as usize + 1).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), UNTAKEN);

        // Each request begins afresh.
        for (is_reading, allowed) in [(true, UNTAKEN_READING), (false, UNTAKEN)] {
            begun.clear();
            peer.write_all(b"GET").await.expect("sent");
            stream.read_exact(&mut [0; 3]).await.expect("read");
            if is_reading {
                haste.make();
            }
            let start = Instant::now();
            send(&mut stream, 1).await.expect_err("still nobody reads");
            assert_eq!(start.elapsed(), allowed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_given_up_is_cut_off_at_once_and_no_other() {
        let (stream, mut peer) = duplex(RATE as usize);
        let (begun, haste) = (Begun::default(), Haste::default());
        let mut stream = Timed::new(stream, begun.clone(), haste.clone());
        let start = Instant::now();
        let later = async { haste.give_up() };
        let (sent, ()) = tokio::join!(send(&mut stream, RATE as usize + 1), later);
        assert_eq!(sent.expect_err("nobody reads").kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), Duration::ZERO);

        peer.write_all(b"GET").await.expect("sent");
        stream.read_exact(&mut [0; 3]).await.expect("read");
        send(&mut stream, 1).await.expect_err("still nobody reads");
        assert_eq!(start.elapsed(), UNTAKEN, "another request, another answer");
    }

    /// As under TLS, where a write is done once its bytes are encrypted.
    #[tokio::test(start_paused = true)]
    async fn what_is_buffered_must_be_taken_too() {
        for is_end in [false, true] {
            let (stream, _peer) = duplex(1);
            let buffered = tokio::io::BufWriter::with_capacity(RATE as usize, stream);
            let mut stream = Timed::new(buffered, Begun::default(), Haste::default());
            stream.write_all(b"HTTP").await.expect("there is room for it");
            let start = Instant::now();
            let ending =
                async { if is_end { stream.shutdown().await } else { stream.flush().await } };
            let ended = tokio::time::timeout(2 * UNTAKEN, ending).await.expect("it ends");
            assert_eq!(ended.expect_err("nobody reads").kind(), io::ErrorKind::TimedOut);
            assert_eq!(start.elapsed(), UNTAKEN, "{is_end}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_little_now_and_then_is_cut_and_a_slow_one_is_not() {
        for (bytes, is_cut) in [(1, true), (RATE as usize, false)] {
            let (stream, mut peer) = duplex(RATE as usize);
            let mut stream = Timed::new(stream, Begun::default(), Haste::default());
            let reading = tokio::spawn(async move {
                let mut taken = vec![0; bytes];
                let mut seconds = tokio::time::interval(Duration::from_secs(1));
                while peer.read_exact(&mut taken).await.is_ok() {
                    seconds.tick().await;
                }
            });
            let sent = send(&mut stream, 100 * RATE as usize).await;
            assert_eq!(sent.is_err(), is_cut, "{bytes} bytes a second");
            drop(stream);
            reading.await.expect("it ends");
        }
    }
}
