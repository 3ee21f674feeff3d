//! How long a failed job waits before its next attempt.

use std::time::Duration;

use crate::config::BackoffPolicy;

/// `min(initial × factor^(failures − 1), max)`, moved by `± jitter` of itself.
///
/// `random` is a number from 0 to 1 that places the delay within the jitter: 0.5 leaves it as it
/// is. `failures` counts the failure that has just happened, so it is at least 1.
pub fn delay(policy: &BackoffPolicy, failures: u32, random: f64) -> Duration {
    let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
    let max = policy.max.as_secs_f64();
    if policy.initial.is_zero() {
        return Duration::ZERO; // also keeps 0 × infinity, which is not a number, out of the formula
    }
    let base = (policy.initial.as_secs_f64() * policy.factor.powi(exponent)).min(max);
    let spread = 1.0 + policy.jitter * (2.0 * random - 1.0);
    Duration::try_from_secs_f64(base * spread).unwrap_or(policy.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(failures: u32) -> Duration {
        delay(&BackoffPolicy::default(), failures, 0.5)
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        assert_eq!(exact(1), Duration::from_secs(5));
        assert_eq!(exact(2), Duration::from_secs(10));
        assert_eq!(exact(11), Duration::from_secs(5 * 1024));
        assert_eq!(exact(16), Duration::from_secs(24 * 3600));
        assert_eq!(exact(u32::MAX), Duration::from_secs(24 * 3600));
    }

    #[test]
    fn the_default_schedule_outlasts_a_weekend() {
        let total: Duration = (1..25).map(exact).sum();
        let days = total.as_secs_f64() / 86_400.0;
        assert!((10.0..12.0).contains(&days), "25 tries span {days} days");
    }

    /// F13: equal failures do not come back together.
    #[test]
    fn jitter_stays_within_its_share() {
        let policy = BackoffPolicy::default();
        assert_eq!(delay(&policy, 1, 0.0), Duration::from_secs(4));
        assert_eq!(delay(&policy, 1, 1.0), Duration::from_secs(6));
    }

    #[test]
    fn a_delay_of_zero_stays_zero() {
        let policy = BackoffPolicy { initial: Duration::ZERO, ..BackoffPolicy::default() };
        assert_eq!(delay(&policy, 3, 0.9), Duration::ZERO);
        assert_eq!(delay(&policy, u32::MAX, 0.9), Duration::ZERO);
    }
}
