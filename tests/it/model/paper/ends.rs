//! How attempts and jobs end on paper: finishes, operators, the sweeper, a start.

use super::super::step::{Act, End, LeasePick};
use super::{Answer, Paper, PaperJob, rules};

impl Paper {
    pub(super) fn finish(&mut self, pick: LeasePick, end: End) -> &'static str {
        let Some(index) = self.holder_of(pick) else { return self.lose(pick) };
        let result = match end {
            End::Completed => "completed",
            End::Failed { .. } => "failed",
            End::TimedOut => "timed_out",
            End::Released { .. } => "released",
        };
        let job = &self.jobs[index];
        if job.state != "running" {
            return match (job.result == Some(result), job.state) {
                (true, _) => "ok",
                (false, "cancelled") => "cancelled",
                (false, _) => self.lose(pick),
            };
        }
        match end {
            End::Completed => self.end_job(index, "completed", "completed"),
            End::Released { retry_in } => {
                self.end_attempt(index, "released");
                let state = if retry_in > 0 { "scheduled" } else { "ready" };
                self.wait(index, state, retry_in);
            }
            End::Failed { permanent, retry_in } => {
                let wait = self.backoff(index).max(retry_in);
                self.fail(index, result, permanent, "retrying", wait);
            }
            End::TimedOut => self.fail(index, result, false, "retrying", self.backoff(index)),
        }
        "ok"
    }

    /// The delay after one more failure.
    fn backoff(&self, index: usize) -> i64 {
        let job = &self.jobs[index];
        let (initial, factor, longest) = rules(job.queue).backoff;
        (0..job.failures).fold(initial, |delay, _| (delay * factor).min(longest)).min(longest)
    }

    fn end_attempt(&mut self, index: usize, result: &'static str) {
        self.count(
            index,
            match result {
                "completed" => "ended_completed",
                "failed" => "ended_failed",
                "timed_out" => "ended_timed_out",
                "lease_expired" => "ended_lease_expired",
                "released" => "ended_released",
                _ => "ended_cancelled",
            },
        );
        let job = &mut self.jobs[index];
        job.result = Some(result);
        job.expires_at = None;
    }

    fn wait(&mut self, index: usize, state: &'static str, ms: i64) {
        let job = &mut self.jobs[index];
        job.state = state;
        job.run_at = self.now + ms;
    }

    /// A failed attempt: another try after `wait`, or death.
    fn fail(
        &mut self,
        index: usize,
        result: &'static str,
        fatal: bool,
        state: &'static str,
        wait: i64,
    ) {
        self.end_attempt(index, result);
        let now = self.now;
        let job = &mut self.jobs[index];
        job.failures += 1;
        job.last_error = Some((job.attempt, now, result));
        if fatal || job.failures >= job.max_attempts() {
            self.count(index, "died");
            self.rest(index, "dead");
        } else {
            self.count(index, "retried");
            self.wait(index, state, wait);
        }
    }

    fn end_job(&mut self, index: usize, state: &'static str, result: &'static str) {
        self.end_attempt(index, result);
        self.count(index, state);
        self.rest(index, state);
    }

    /// Enters a state in which nothing happens to it any more by itself.
    fn rest(&mut self, index: usize, state: &'static str) {
        let now = self.now;
        let job = &mut self.jobs[index];
        job.state = state;
        job.ended_at = Some(now);
        if job.unique.is_some_and(|(_, until_gone)| !until_gone) {
            job.key_held = false;
        }
    }

    pub(super) fn act(&mut self, index: usize, act: Act) -> Result<(), &'static str> {
        let job = &self.jobs[index];
        match (act, job.state) {
            (_, "gone") => Err("no such job"),
            (Act::Cancel, "running") => {
                self.end_job(index, "cancelled", "cancelled");
                Ok(())
            }
            (Act::Cancel, "scheduled" | "ready" | "retrying") => {
                self.count(index, "cancelled");
                self.rest(index, "cancelled");
                Ok(())
            }
            (Act::Requeue, "dead") => self.requeue(index),
            (Act::Discard, "dead") => {
                self.count(index, "discarded");
                self.jobs[index].state = "gone";
                Ok(())
            }
            _ => Err("invalid transition"),
        }
    }

    fn requeue(&mut self, index: usize) -> Result<(), &'static str> {
        let job = &self.jobs[index];
        if let Some((key, _)) = job.unique {
            if self.holder(job.queue, key).is_some_and(|holder| holder != index) {
                return Err("unique key held");
            }
            self.jobs[index].key_held = true;
        }
        self.count(index, "requeued");
        self.jobs[index].failures = 0;
        self.jobs[index].ended_at = None;
        self.wait(index, "ready", 0);
        Ok(())
    }

    pub(super) fn act_on_many(
        &mut self,
        queue: &str,
        act: Act,
        kind: Option<&str>,
        before: Option<i64>,
        limit: usize,
    ) -> Answer {
        if !self.queues.contains_key(queue) {
            return Answer::Refused("no such queue");
        }
        let is_meant = |job: &PaperJob| {
            kind.is_none_or(|kind| job.kind == kind)
                && before.is_none_or(|before| job.created_at < before)
        };
        let meant = self.jobs_of(queue).filter(|(_, job)| is_meant(job));
        let mut order: Vec<_> = meant.map(|(index, job)| (job.ended_at, index)).collect();
        order.sort_unstable(); // the dead by when they died
        let mut count = 0;
        for (_, index) in order {
            if count < limit && self.act(index, act).is_ok() {
                count += 1;
            }
        }
        Answer::Done(count)
    }

    /// Until nothing is left to do.
    pub(super) fn sweep(&mut self) -> Answer {
        let (mut promoted, mut expired) = (0, 0);
        loop {
            let due = self.first(|job, now, _| {
                matches!(job.state, "scheduled" | "retrying") && job.run_at <= now
            });
            if let Some(index) = due {
                self.jobs[index].state = "ready";
                promoted += 1;
                continue;
            }
            let over = self.first(|job, _, tick| job.state == "running" && job.lease_end <= tick);
            let Some(index) = over else { break };
            let job = &self.jobs[index];
            expired += 1;
            if job.timeout_end == Some(job.lease_end) {
                self.fail(index, "timed_out", false, "retrying", self.backoff(index));
            } else {
                self.fail(index, "lease_expired", false, "ready", 0);
            }
        }
        let queues: Vec<_> = self.queues.keys().copied().collect();
        let pruned = queues.into_iter().map(|queue| self.prune(queue)).sum();
        self.totals.promoted += promoted;
        self.totals.expired += expired;
        self.totals.pruned += pruned;
        Answer::Swept(promoted, expired, pruned)
    }

    fn first(&self, is_meant: impl Fn(&PaperJob, i64, i64) -> bool) -> Option<usize> {
        self.jobs.iter().position(|job| is_meant(job, self.now, self.tick))
    }

    /// Removes what is too old or too much, the oldest first.
    fn prune(&mut self, queue: &str) -> usize {
        let rules = rules(queue);
        let max_dead = rules.max_dead.unwrap_or(usize::MAX);
        self.prune_those(
            queue,
            &["completed", "cancelled"],
            rules.keep_completed,
            rules.max_completed,
        ) + self.prune_those(queue, &["dead"], rules.keep_dead, max_dead)
    }

    fn prune_those(&mut self, queue: &str, states: &[&str], keep: i64, most: usize) -> usize {
        let ended = self.jobs_of(queue).filter(|(_, job)| states.contains(&job.state));
        let mut ended: Vec<_> = ended.map(|(index, job)| (job.ended_at, index)).collect();
        ended.sort_unstable();
        let mut left = ended.len();
        let mut pruned = 0;
        for (ended_at, index) in ended {
            let is_old = ended_at.expect("it has ended") <= self.now - keep;
            if !is_old && left <= most {
                break;
            }
            if self.jobs[index].state == "dead" {
                self.count(index, "discarded");
            }
            self.jobs[index].state = "gone";
            left -= 1;
            pruned += 1;
        }
        pruned
    }

    /// What a start makes of a running job: its own was cut off, an outside worker's goes on.
    pub(super) fn recover(&mut self, index: usize) {
        let now = self.now;
        let job = &mut self.jobs[index];
        if job.own {
            let wait = self.backoff(index);
            return self.fail(index, "lease_expired", false, "retrying", wait);
        }
        let ran = (now - job.claimed_at.expect("it was claimed")).max(0);
        let timeout = job.timeout_end.map(|end| end - job.claimed_tick);
        // It has the rest of its timeout, but at least its lease, which is never longer.
        let lease = job.lease_ms.min(timeout.unwrap_or(i64::MAX));
        job.claimed_tick = -ran;
        job.timeout_end = timeout.map(|timeout| (timeout - ran).max(lease));
        job.lease_end = lease;
        job.expires_at = Some(now + lease);
    }
}
