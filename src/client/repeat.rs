//! Requests that may be repeated, because doing them twice does nothing more.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{Client, ClientError};
use crate::backoff;
use crate::config::BackoffPolicy;

/// How long a request is sent again: this outlasts a restart of the server, and is no more than a
/// person will wait. A try that goes on then is let end, by its own deadline at the latest.
const ENOUGH: Duration = Duration::from_secs(60);

/// The pauses between two.
const PAUSES: BackoffPolicy = BackoffPolicy {
    initial: Duration::from_millis(100),
    factor: 2.0,
    max: Duration::from_secs(5),
    jitter: 0.2,
};

/// The longest pause that a server may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

impl Client {
    /// Sends a request until it is answered, with pauses between, for a minute at most. Only for
    /// what may be done twice, such as creates with a `unique_key`.
    ///
    /// An error is worth another try if `is_worth` says so; so is a server that cannot be reached
    /// any more, but not one that never was there.
    ///
    /// # Errors
    ///
    /// The last one, or the first that is not worth another try.
    pub async fn repeat<T, F>(
        &self,
        request: impl Fn() -> F,
        is_worth: impl Fn(&ClientError) -> bool,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let started = Instant::now();
        let mut failures = 0;
        loop {
            let error = match request().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            failures += 1;
            let was_there = self.reached.load(Ordering::Relaxed);
            let is_gone = matches!(error, ClientError::Unreachable { .. }) && was_there;
            if !(is_gone || is_worth(&error)) {
                return Err(error);
            }
            let asked = error.refusal().and_then(|refusal| refusal.retry_after);
            let asked = asked.unwrap_or_default().min(MAX_RETRY_AFTER);
            let pause = backoff::delay(&PAUSES, failures, rand::random()).max(asked);
            if started.elapsed() + pause > ENOUGH {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }
}
