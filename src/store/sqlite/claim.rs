//! Claiming: the first ready jobs of the first queues that have any.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Engine;
use super::rows::{Core, SELECT_JOB, read_job};
use super::state::{QueueId, check_row};
use crate::clock::{Stopwatch, Tick, Timestamp, millis};
use crate::job::{self, Event, State};
use crate::store::operation::Failure;
use crate::store::{Claim, Claimed, Job, Lease, LeasedJob, StoreError};

/// A claim at one of its queues.
struct Taking<'c> {
    claim: &'c Claim,
    queue: QueueId,
    /// So many jobs more.
    wanted: usize,
    /// About how much was given out so far.
    bytes: usize,
    /// Damaged rows, which stay the first that are ready as long as those behind them are taken.
    passed_over: usize,
}

impl Engine {
    /// Leases up to `max` jobs; empty when nothing is ready, or a queue is paused or unknown.
    pub(in crate::store) fn claim(&mut self, claim: &Claim) -> Result<Claimed, Failure> {
        if self.refuses_claims() {
            return Err(StoreError::Busy.into());
        }
        let mut claimed = Claimed::default();
        let mut bytes = 0;
        for name in &claim.queues {
            let Some(queue) = self.state.queue_named(name) else { continue };
            let wanted = claim.max - claimed.jobs.len();
            if wanted == 0 || self.state.queue(queue)?.paused {
                continue;
            }
            let mut taking = Taking { claim, queue, wanted, bytes, passed_over: 0 };
            let is_full = self.claim_from(&mut taking, &mut claimed)?;
            if is_full {
                break;
            }
            bytes = taking.bytes;
        }
        Ok(claimed)
    }

    /// Takes what is wanted from one queue; answers whether no more bytes may be given out.
    ///
    /// Damaged rows are passed over, so that they hold up none behind them.
    fn claim_from(&mut self, taking: &mut Taking, claimed: &mut Claimed) -> Result<bool, Failure> {
        while taking.wanted > 0 {
            let keys = self.first_ready(taking)?;
            if keys.is_empty() {
                break;
            }
            for key in keys {
                let (core, job) = match self.claimable(key) {
                    Err(Failure::Refused(error)) => {
                        self.report_damage(key, &error);
                        taking.passed_over += 1;
                        continue;
                    }
                    read => read?,
                };
                taking.bytes += job.bytes();
                if taking.bytes > taking.claim.max_bytes && !claimed.jobs.is_empty() {
                    return Ok(true);
                }
                claimed.jobs.push(self.lease(core, job, taking.claim)?);
                taking.wanted -= 1;
            }
        }
        Ok(false)
    }

    /// The first ready jobs behind the damaged ones, as many as are wanted.
    fn first_ready(&self, taking: &Taking) -> Result<Vec<i64>, Failure> {
        let Taking { queue, wanted, passed_over, .. } = *taking;
        if self.state.queue(queue)?.counts.stored(State::Ready) == 0 {
            return Ok(Vec::new());
        }
        let mut select = self.connection.prepare_cached(
            "SELECT id FROM jobs WHERE queue = ? AND state = 'ready' \
             ORDER BY priority, run_at, id LIMIT ? OFFSET ?",
        )?;
        let keys =
            select.query_map((queue.0, wanted as i64, passed_over as i64), |row| row.get(0))?;
        Ok(keys.collect::<Result<_, _>>()?)
    }

    fn claimable(&self, key: i64) -> Result<(Core, Job), Failure> {
        let (core, job) = self.core_and_job(key)?;
        check_row(&self.state, &core)?;
        Ok((core, job))
    }

    pub(super) fn core_and_job(&self, key: i64) -> Result<(Core, Job), Failure> {
        let mut select = self.connection.prepare_cached(SELECT_JOB)?;
        let read = select.query_row([key], |row| read_job(row, true, |q| self.config.policy(q)));
        read.map_err(|error| self.failure(key, error))
    }

    /// One job as it is now.
    pub(super) fn whole_job(&self, key: i64) -> Result<Job, Failure> {
        Ok(self.core_and_job(key)?.1)
    }

    fn lease(&mut self, core: Core, mut job: Job, claim: &Claim) -> Result<LeasedJob, Failure> {
        let now = self.clock.now();
        let tick = self.clock.tick();
        let policy = self.config.policy(&job.queue);
        let change = job::apply(&core.facts(policy), Event::Claim, now, Duration::ZERO)?;
        let duration = claim.duration.unwrap_or(policy.lease);
        // The daemon's own workers end an attempt at its timeout by themselves, and renew until
        // the command is gone; for the others the sweeper does.
        let timeout_tick = job.timeout.filter(|_| !claim.own).map(|timeout| tick.after(timeout));
        let lease_tick = capped(tick.after(duration), timeout_tick);
        let lease = Lease { job: core.id, secret: rand::random() };
        let expires_at = now.after(Duration::from_millis((lease_tick.0 - tick.0).unsigned_abs()));
        let mut update = self.connection.prepare_cached(
            "UPDATE jobs SET state = 'running', attempt = attempt + 1, lease = ?2, own = ?3, \
             lease_ms = ?4, lease_tick = ?5, timeout_tick = ?6, claimed_tick = ?7, \
             expires_at = ?8, claimed_at = ?9, outcome = NULL, worker = ?10 \
             WHERE id = ?1 AND state = 'ready'",
        )?;
        let changed = update.execute((
            core.id.key(),
            lease.secret,
            claim.own,
            millis(duration),
            lease_tick.0,
            timeout_tick.map(|tick| tick.0),
            tick.0,
            expires_at.0,
            now.0,
            &claim.worker,
        ))?;
        drop(update);
        assert_eq!(changed, 1, "a job that was ready in this transaction is not ready any more");
        self.state.record(&core, &change);
        self.state.tell_started(&core, claim.worker.as_ref());
        self.state.note_wait(&core, now.since(core.run_at).as_secs_f64(), now);
        self.state.note_due(expires_at);
        let revoked = CancellationToken::new();
        if claim.own {
            self.state.grant(core.id, revoked.clone());
        }
        job.state = State::Running;
        job.attempt += 1;
        job.claimed_at = Some(now);
        job.expires_at = Some(expires_at);
        job.worker.clone_from(&claim.worker);
        Ok(LeasedJob { lease, duration, job, claimed: Stopwatch::start(), revoked })
    }

    /// Makes a lease, which the job was read with, last for `duration` from now, though not beyond the
    /// attempt's timeout.
    pub(super) fn extend(&mut self, core: &Core, duration: Duration) -> Result<bool, Failure> {
        let tick = self.clock.tick();
        let lease_tick = capped(tick.after(duration), core.timeout_tick.map(Tick));
        let left = Duration::from_millis((lease_tick.0 - tick.0).max(0).unsigned_abs());
        let expires_at: Timestamp = self.clock.now().after(left);
        self.state.note_due(expires_at);
        if self.refuses_claims() && core.lease_ms >= Some(millis(duration)) {
            self.unwritten.note(core, lease_tick);
            return Ok(true);
        }
        let mut update = self.connection.prepare_cached(
            "UPDATE jobs SET lease_ms = ?3, lease_tick = ?4, expires_at = ?5 \
             WHERE id = ?1 AND state = 'running' AND lease = ?2",
        )?;
        let changed = update.execute((
            core.id.key(),
            core.lease,
            millis(duration),
            lease_tick.0,
            expires_at.0,
        ))?;
        Ok(changed == 1)
    }
}

fn capped(lease: Tick, timeout: Option<Tick>) -> Tick {
    timeout.map_or(lease, |timeout| lease.min(timeout))
}
