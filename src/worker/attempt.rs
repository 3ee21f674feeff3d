//! One attempt: has it run, keeps its lease, and reports how it ended.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::ended::Ended;
use super::exec::{self, Invocation};
use super::{Runner, Shared};
use crate::config::ExecConfig;
use crate::job::Outcome;
use crate::store::{Finish, LeaseAnswer, LeasedJob, Renewal, StoreError};

/// How long to wait before a renewal or a finish that failed is tried again.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(500);

/// How long a job waits after the machine had no room to start its command.
const PAUSE_AFTER_SHORTAGE: Duration = Duration::from_secs(1);

/// A claimed job on its way to its end.
pub(super) struct Attempt {
    shared: Arc<Shared>,
    leased: LeasedJob,
}

/// What its queue should do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Take the next job.
    GoOn,
    /// Wait a moment: the machine had no room.
    Pause,
}

/// Why the work was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
    /// The attempt was ended by somebody else: cancelled, or its lease is lost.
    Lost,
    /// Its lease has run out without being renewed, as far as is known here.
    Unrenewed,
    /// The daemon is ending: the job is given back.
    Drain,
}

impl Attempt {
    pub(super) fn new(shared: &Arc<Shared>, leased: LeasedJob) -> Self {
        Self { shared: shared.clone(), leased }
    }

    /// Has it run to its end and reports it.
    pub(super) async fn run(self, runner: &Runner) -> Next {
        let job = &self.leased.job;
        let interrupt = CancellationToken::new();
        let work = async {
            let interrupt = interrupt.clone();
            match runner {
                Runner::Exec(config, spawner) => {
                    exec::run(spawner, self.invocation(config), interrupt).await.into()
                }
                Runner::Http(pusher) => pusher.run(job, interrupt).await,
            }
        };
        let (ended, interruption) = self.supervise(work, &interrupt).await;
        let next = if matches!(ended, Ended::Short { .. }) { Next::Pause } else { Next::GoOn };
        if let Some((outcome, result, error)) = report(ended, interruption) {
            self.log_end(outcome, error.as_deref());
            self.finish(Finish { lease: self.leased.lease, outcome, result, error }).await;
        } else {
            debug!(event = "attempt_dropped", job_id = %job.id, queue = job.queue, attempt = job.attempt);
        }
        next
    }

    fn invocation(&self, exec: &ExecConfig) -> Invocation {
        let job = &self.leased.job;
        Invocation {
            config: exec.clone(),
            variables: vec![
                ("TALLYD_JOB_ID", job.id.to_string()),
                ("TALLYD_QUEUE", job.queue.clone()),
                ("TALLYD_KIND", job.kind.clone()),
                ("TALLYD_ATTEMPT", job.attempt.to_string()),
                ("TALLYD_FAILURES", job.failures.to_string()),
                ("TALLYD_STORE", self.shared.store.mark().to_string()),
            ],
            payload: job.payload.clone().unwrap_or_default(),
            timeout: job.timeout,
            grace: exec::GRACE,
        }
    }

    /// Waits for the end of the work; interrupts it when the lease is lost or the daemon ends.
    async fn supervise(
        &self,
        work: impl Future<Output = Ended>,
        interrupt: &CancellationToken,
    ) -> (Ended, Option<Interruption>) {
        let mut interruption = None;
        // Dropped with the lease: a renewal that is late must not be counted as such any more.
        let mut lease = Some(Box::pin(self.keep_lease()));
        tokio::pin!(work);
        loop {
            tokio::select! {
                ended = &mut work => return (ended, interruption),
                end = kept(&mut lease) => {
                    interruption = Some(end);
                    lease = None;
                }
                () = self.leased.revoked.cancelled(), if interruption != Some(Interruption::Lost) => {
                    interruption = Some(Interruption::Lost);
                }
                () = self.shared.interrupt.cancelled(), if interruption.is_none() => {
                    interruption = Some(Interruption::Drain);
                }
            }
            if interruption == Some(Interruption::Lost) {
                lease = None;
            }
            interrupt.cancel();
        }
    }

    /// Renews the lease at each third; resolves with the reason when it does not stand any more.
    ///
    /// While no renewal has worked by two thirds of it, no queue claims anything new.
    async fn keep_lease(&self) -> Interruption {
        let third = self.leased.duration / 3;
        let claimed = Duration::from_secs_f64(self.leased.claimed.seconds());
        let mut renewed = Instant::now() - claimed;
        loop {
            sleep_until(renewed + third).await;
            let late_at = renewed + 2 * third;
            let expires = renewed + self.leased.duration;
            let asked = Instant::now();
            let kept = match timeout_at(late_at, self.renew()).await {
                Ok(kept) => Some(kept),
                Err(_) => self.renew_late(expires).await,
            };
            match kept {
                Some(true) => renewed = asked,
                Some(false) => return Interruption::Lost,
                None => return Interruption::Unrenewed,
            }
        }
    }

    /// Goes on trying, as one of those that are late; none if the lease ends first.
    async fn renew_late(&self, expires: Instant) -> Option<bool> {
        let job = &self.leased.job;
        warn!(event = "renewal_late", job_id = %job.id, queue = job.queue, "claiming nothing until it works");
        let _late = Late::new(&self.shared);
        let kept = timeout_at(expires, self.renew()).await.ok();
        if kept.is_none() {
            warn!(event = "lease_unrenewed", job_id = %job.id, queue = job.queue, "stopping its work");
        }
        kept
    }

    /// Renews until the store has answered; whether the lease stands.
    async fn renew(&self) -> bool {
        let renewal = Renewal { leases: vec![self.leased.lease], duration: None };
        loop {
            match self.shared.store.renew(renewal.clone()).await {
                Ok(answers) => return answers == [LeaseAnswer::Ok],
                Err(StoreError::Stopped(_)) => return false,
                Err(error) => warn!(event = "renewal_failed", %error),
            }
            sleep(PAUSE_AFTER_ERROR).await;
        }
    }

    /// Reports the end until the store has answered, for as long as the lease can last. A daemon that
    /// is ending does not wait that long, and leaves it to the next start.
    async fn finish(&self, finish: Finish) {
        let expires = Instant::now() + self.leased.duration;
        let job = &self.leased.job;
        loop {
            match self.shared.store.finish(vec![finish.clone()]).await {
                Ok(answers) if answers == [LeaseAnswer::Ok] => return,
                Ok(answers) => {
                    debug!(event = "finish_refused", job_id = %job.id, ?answers);
                    return;
                }
                Err(StoreError::Stopped(_)) => return,
                Err(error) => warn!(event = "finish_failed", job_id = %job.id, %error),
            }
            if Instant::now() >= expires {
                return;
            }
            sleep(PAUSE_AFTER_ERROR).await;
        }
    }

    fn log_end(&self, outcome: Outcome, error: Option<&str>) {
        let job = &self.leased.job;
        let duration_ms = (self.leased.claimed.seconds() * 1e3) as u64;
        let outcome = outcome.result().name();
        // What a command wrote or a receiver answered may be payload, which does not belong into logs.
        match error.map(exec::what_happened) {
            Some(error) => {
                warn!(event = "attempt_failed", job_id = %job.id, queue = job.queue, kind = job.kind, attempt = job.attempt, duration_ms, outcome, error);
            }
            None => {
                debug!(event = "attempt_ended", job_id = %job.id, queue = job.queue, kind = job.kind, attempt = job.attempt, duration_ms, outcome);
            }
        }
    }
}

/// Resolves with the lease, and why; never if there is none any more.
async fn kept(lease: &mut Option<Pin<Box<impl Future<Output = Interruption>>>>) -> Interruption {
    match lease {
        Some(lease) => lease.await,
        None => std::future::pending().await,
    }
}

/// What to tell the store; nothing if the attempt was ended already.
fn report(
    ended: Ended,
    interruption: Option<Interruption>,
) -> Option<(Outcome, Option<Bytes>, Option<String>)> {
    match (ended, interruption) {
        (Ended::Reported { outcome, result, error }, _) => Some((outcome, result, error)),
        (Ended::Short { error }, _) => {
            Some((Outcome::Released { retry_in: PAUSE_AFTER_SHORTAGE }, None, Some(error)))
        }
        (Ended::Interrupted, Some(Interruption::Drain)) => {
            Some((Outcome::Released { retry_in: Duration::ZERO }, None, None))
        }
        // A renewal that was on its way may have made the lease last: nobody works on it now.
        (Ended::Interrupted, Some(Interruption::Unrenewed)) => {
            let error = "the lease ended without being renewed".to_owned();
            Some((Outcome::LeaseExpired, None, Some(error)))
        }
        (Ended::Interrupted, _) => None,
    }
}

/// Stands for a renewal that is late.
struct Late<'s>(&'s Shared);

impl<'s> Late<'s> {
    fn new(shared: &'s Shared) -> Self {
        shared.late_renewals.send_modify(|late| *late += 1);
        Self(shared)
    }
}

impl Drop for Late<'_> {
    fn drop(&mut self) {
        self.0.late_renewals.send_modify(|late| *late -= 1);
    }
}
