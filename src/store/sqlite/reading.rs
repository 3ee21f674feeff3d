//! The reads of our own that are under way, and the pauses that the log needs between them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long a read may take, since the log cannot begin anew while it goes on.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(2);

/// Shared by those who read and the writer, who looks after the log.
pub(super) struct Reading {
    under_way: Mutex<usize>,
    all_ended: Condvar,
    /// Until when no read may begin.
    paused: watch::Sender<Option<Instant>>,
}

impl Reading {
    pub(super) fn new() -> Arc<Self> {
        let paused = watch::channel(None).0;
        Arc::new(Self { under_way: Mutex::new(0), all_ended: Condvar::new(), paused })
    }

    /// Waits while reads are paused; the read is under way until the guard is dropped.
    pub(super) async fn begin(self: &Arc<Self>) -> UnderWay {
        let mut paused = self.paused.subscribe();
        let until = *paused.borrow();
        if let Some(until) = until {
            // Either will do: time is up, or the pause is over.
            drop(timeout_at(until, paused.wait_for(Option::is_none)).await);
        }
        *self.lock() += 1;
        UnderWay(self.clone())
    }

    /// Lets no read begin for as long as one may take, unless [`Reading::resume`] comes before.
    pub(super) fn pause(&self) {
        self.paused.send_replace(Some(Instant::now() + READ_LIMIT));
    }

    /// Ends a pause.
    pub(super) fn resume(&self) {
        self.paused.send_if_modified(|until| until.take().is_some());
    }

    /// Waits until no read is under way, but not longer than `most`; whether none is.
    pub(super) fn wait_for_none(&self, most: Duration) -> bool {
        let is_under_way = |reads: &mut usize| *reads > 0;
        let waited = self.all_ended.wait_timeout_while(self.lock(), most, is_under_way);
        !waited.expect("nothing panics while it holds the count").1.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.under_way.lock().expect("nothing panics while it holds the count")
    }
}

/// A read that is under way.
pub(super) struct UnderWay(Arc<Reading>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut under_way = self.0.lock();
        *under_way -= 1;
        if *under_way == 0 {
            self.0.all_ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_up_reads_until_it_is_over_or_its_time_is() {
        let reading = Reading::new();
        drop(reading.begin().await);
        reading.pause();
        let start = Instant::now();
        drop(reading.begin().await);
        assert_eq!(start.elapsed(), READ_LIMIT);
        reading.pause();
        let waiting = tokio::spawn({
            let reading = reading.clone();
            async move { drop(reading.begin().await) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let start = Instant::now();
        reading.resume();
        waiting.await.expect("it begins");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn the_end_of_the_last_read_is_noticed() {
        let reading = Reading::new();
        let (first, second) = (reading.begin().await, reading.begin().await);
        reading.wait_for_none(Duration::from_millis(1));
        let ended = std::thread::spawn(move || drop((first, second)));
        reading.wait_for_none(Duration::from_secs(60));
        assert_eq!(*reading.lock(), 0);
        ended.join().expect("it ends");
    }
}
