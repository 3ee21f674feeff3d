//! How often something may happen: so many times at once, and then so many in each second.

use std::sync::{Mutex, PoisonError};

use tokio::time::{Duration, Instant};

/// The longest time that is counted at once; after it every bucket is full.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What is left of what may happen at once.
pub(super) struct Bucket {
    most: f64,
    per_second: f64,
    left: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(most: f64, per_second: f64) -> Self {
        Self { most, per_second, left: Mutex::new((most, Instant::now())) }
    }

    /// Whether it may happen once more; then it has.
    pub(super) fn take(&self) -> bool {
        let mut guard = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = &mut *guard;
        let passed = at.elapsed();
        *at += passed;
        let regained = passed.min(LONGEST).as_secs_f64() * self.per_second;
        *left = (*left + regained).min(self.most);
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }

    /// It has not happened after all.
    pub(super) fn give_back(&self) {
        let mut guard = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        guard.0 = (guard.0 + 1.0).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_at_once_and_then_so_many_a_second() {
        let bucket = Bucket::new(3.0, 2.0);
        let taken = || (0..10).filter(|_| bucket.take()).count();
        assert_eq!(taken(), 3);
        tokio::time::advance(Duration::from_millis(1_500)).await;
        assert_eq!(taken(), 3);
        bucket.give_back();
        assert_eq!(taken(), 1);
        tokio::time::advance(Duration::from_secs(1_000)).await;
        assert_eq!(taken(), 3, "never more than at once");
    }
}
