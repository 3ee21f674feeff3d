//! Places for those who read the counts: how many there are, who waits for one, and who loses theirs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

use super::deadline::Haste;

/// How long one waits for a place: Prometheus itself gives up then.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The most that wait at once.
const MAX_WAITING: usize = 1_000;

/// How long one waits for others to end by themselves. Then whoever has been taking their answer for
/// the longest is cut off.
const POLITENESS: Duration = Duration::from_secs(2);

/// How long everybody may take their answer, whoever waits. With 40 places, 1,000 that come at once
/// have theirs after 7 s.
const LEAST: Duration = Duration::from_millis(200);

/// The places of one sort of readers.
pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: Semaphore,
    /// Held by whoever gets the next place: they are given in the order in which they are asked for.
    next: tokio::sync::Mutex<()>,
    lent: Mutex<Lent>,
    is_lent: Notify,
}

/// Whose answers are being taken.
#[derive(Default)]
struct Lent {
    number: u64,
    /// The longest first: a number, since when, and how to cut it off.
    all: VecDeque<(u64, Instant, Haste)>,
}

impl Places {
    /// So many.
    pub(super) fn new(number: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Arc::new(Semaphore::new(number)),
            waiting: Semaphore::new(MAX_WAITING),
            next: tokio::sync::Mutex::default(),
            lent: Mutex::default(),
            is_lent: Notify::new(),
        })
    }

    /// A place, which is waited for; none if there is none in time, or too many wait.
    pub(super) async fn take(self: &Arc<Self>) -> Option<Place> {
        let _waiting = self.waiting.try_acquire().ok()?;
        let permit = timeout(PATIENCE, self.wait()).await.ok()?;
        Some(Place { places: self.clone(), number: None, _permit: permit })
    }

    async fn wait(&self) -> OwnedSemaphorePermit {
        let polite_until = Instant::now() + POLITENESS;
        let _next = self.next.lock().await;
        let mut freed = std::pin::pin!(self.free.clone().acquire_owned());
        let permit = tokio::select! {
            biased;
            permit = freed.as_mut() => permit,
            () = self.cut_longest(polite_until) => freed.await,
        };
        permit.expect("the semaphore is never closed")
    }

    /// Cuts off whoever has been taking their answer for the longest, and no sooner than that.
    async fn cut_longest(&self, not_before: Instant) {
        loop {
            let longest = self.lent().all.front().map(|(number, since, _)| (*number, *since));
            let Some((number, since)) = longest else {
                self.is_lent.notified().await;
                continue;
            };
            sleep_until(not_before.max(since + LEAST)).await;
            let mut lent = self.lent();
            if lent.all.front().is_none_or(|(longest, ..)| *longest != number) {
                continue;
            }
            if let Some((_, _, haste)) = lent.all.pop_front() {
                // Under the lock, so that what it is sent next is not meant.
                return haste.give_up();
            }
        }
    }

    fn lent(&self) -> MutexGuard<'_, Lent> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.free.available_permits()
    }
}

/// A place, given back when it is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    /// What it is lent under.
    number: Option<u64>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Its answer is there to be taken, on a connection that this can cut off. Until then nobody can
    /// be blamed for how long it takes.
    pub(super) fn lend(&mut self, haste: Haste) {
        let mut lent = self.places.lent();
        lent.number += 1;
        let number = lent.number;
        lent.all.push_back((number, Instant::now(), haste));
        self.number = Some(number);
        self.places.is_lent.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.places.lent().all.retain(|(lent, ..)| *lent != number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;
    use tokio::task::{JoinSet, yield_now};
    use tokio::time::advance;

    /// Takes an answer as slowly as it may.
    async fn be_slow(mut place: Place) {
        let haste = Haste::default();
        place.lend(haste.clone());
        poll_fn(|cx| if haste.is_given_up(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_as_long_as_prometheus_waits() {
        let places = Places::new(1);
        let taken = places.take().await.expect("it is free");
        let start = Instant::now();
        assert!(places.take().await.is_none());
        assert_eq!(start.elapsed(), PATIENCE);
        let (next, ()) = tokio::join!(places.take(), async { drop(taken) });
        assert!(next.is_some());
        assert_eq!(start.elapsed(), PATIENCE, "as soon as it comes free");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_cut_off_only_when_another_waits() {
        let places = Places::new(1);
        let slow = tokio::spawn(be_slow(places.take().await.expect("it is free")));
        yield_now().await;
        advance(PATIENCE).await;
        assert!(!slow.is_finished());
        let start = Instant::now();
        let place = places.take().await.expect("the slow one is cut off");
        assert_eq!(start.elapsed(), POLITENESS);
        slow.await.expect("it ends");

        // One who has no answer yet is not slow.
        let next = tokio::spawn(async move { places.take().await.is_some() });
        yield_now().await;
        advance(2 * POLITENESS).await;
        let start = Instant::now();
        be_slow(place).await;
        assert_eq!(start.elapsed(), LEAST);
        assert!(next.await.expect("nothing panics"));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_readers_that_keep_coming_back_keep_nobody_out() {
        let places = Places::new(40);
        let mut slow = JoinSet::new();
        for _ in 0..MAX_WAITING {
            let places = places.clone();
            slow.spawn(async move {
                loop {
                    be_slow(places.take().await.expect("it comes in time")).await;
                }
            });
        }
        for _ in 0..10 {
            yield_now().await;
            assert!(places.take().await.is_some());
        }
        assert!(slow.try_join_next().is_none(), "each of them is served, too");
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_wait() {
        let places = Places::new(1);
        let _taken = places.take().await.expect("it is free");
        let mut waiting = JoinSet::new();
        for _ in 0..MAX_WAITING {
            let places = places.clone();
            waiting.spawn(async move { places.take().await.is_some() });
        }
        while places.waiting.available_permits() > 0 {
            yield_now().await;
        }
        let start = Instant::now();
        assert!(places.take().await.is_none());
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(waiting.join_all().await, [false; MAX_WAITING]);
        assert_eq!(places.waiting.available_permits(), MAX_WAITING);
    }
}
