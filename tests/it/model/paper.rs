//! A job server on paper, written from the design alone: jobs in a list, counts by name, and
//! neither store nor state machine of the program.

mod ends;
mod ledger;

use std::collections::BTreeMap;

use super::step::{LeasePick, Spec, Step, When};
pub(crate) use ledger::{Row, Totals};

const SECOND: i64 = 1_000;
const DAY: i64 = 86_400 * SECOND;

/// The most queues.
pub(crate) const MAX_QUEUES: usize = 3;

/// What applies to the jobs of a queue; times in milliseconds, 0 for no timeout.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) max_attempts: u32,
    pub(crate) timeout: i64,
    pub(crate) lease: i64,
    /// First delay, factor, longest delay.
    pub(crate) backoff: (i64, i64, i64),
    pub(crate) keep_completed: i64,
    pub(crate) max_completed: usize,
    pub(crate) keep_dead: i64,
    pub(crate) max_dead: Option<usize>,
    pub(crate) max_depth: Option<usize>,
}

const MAIN: Rules = Rules {
    max_attempts: 3,
    timeout: 60 * SECOND,
    lease: 20 * SECOND,
    backoff: (10 * SECOND, 2, 30 * SECOND),
    keep_completed: 100 * SECOND,
    max_completed: 3,
    keep_dead: 150 * SECOND,
    max_dead: Some(2),
    max_depth: Some(6),
};

const SIDE: Rules = Rules {
    max_attempts: 2,
    timeout: 0,
    lease: 30 * SECOND,
    backoff: (5 * SECOND, 3, DAY),
    keep_completed: 0,
    max_completed: 100,
    keep_dead: 50 * SECOND,
    max_dead: None,
    max_depth: None,
};

const OTHERS: Rules = Rules {
    max_attempts: 2,
    timeout: 300 * SECOND,
    lease: 60 * SECOND,
    backoff: (0, 2, DAY),
    keep_completed: DAY,
    max_completed: 2,
    keep_dead: 30 * DAY,
    max_dead: None,
    max_depth: Some(4),
};

/// The configured queues; one kind of `main` is configured too.
pub(crate) const CONFIGURED: [&str; 2] = ["main", "side"];

pub(crate) fn rules(queue: &str) -> Rules {
    match queue {
        "main" => MAIN,
        "side" => SIDE,
        _ => OTHERS,
    }
}

#[derive(Debug, Clone)]
pub(crate) struct PaperJob {
    pub(crate) queue: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) priority: u8,
    /// A state of the design, or `gone`.
    pub(crate) state: &'static str,
    pub(crate) run_at: i64,
    pub(crate) created_at: i64,
    pub(crate) attempt: u32,
    pub(crate) failures: u32,
    own_max_attempts: Option<u32>,
    own_timeout: Option<i64>,
    pub(crate) unique: Option<(&'static str, bool)>,
    key_held: bool,
    pub(crate) row: usize,
    /// The last lease that was given out for it.
    lease: Option<usize>,
    own: bool,
    lease_ms: i64,
    lease_end: i64,
    timeout_end: Option<i64>,
    claimed_tick: i64,
    pub(crate) claimed_at: Option<i64>,
    pub(crate) expires_at: Option<i64>,
    pub(crate) ended_at: Option<i64>,
    /// How the last attempt ended.
    result: Option<&'static str>,
    /// Attempt, time and outcome.
    pub(crate) last_error: Option<(u32, i64, &'static str)>,
}

impl PaperJob {
    pub(crate) fn max_attempts(&self) -> u32 {
        self.own_max_attempts.unwrap_or(rules(self.queue).max_attempts)
    }

    pub(crate) fn timeout(&self) -> Option<i64> {
        Some(self.own_timeout.unwrap_or(rules(self.queue).timeout)).filter(|ms| *ms > 0)
    }

    pub(crate) fn is_stored(&self) -> bool {
        self.state != "gone"
    }

    fn waits(&self) -> bool {
        matches!(self.state, "scheduled" | "ready" | "retrying")
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct PaperQueue {
    pub(crate) paused: bool,
    pub(crate) leases_lost: i64,
    pub(crate) duplicates: i64,
}

/// What the server answers to a step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Nothing,
    /// The jobs in order, and the indexes of those that existed.
    Created(Vec<usize>, Vec<usize>),
    Refused(&'static str),
    /// One of a batch.
    RefusedAt(usize, &'static str),
    Claimed(Vec<usize>),
    Leases(Vec<&'static str>),
    /// To so many jobs.
    Done(usize),
    Swept(usize, usize, usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Paper {
    pub(crate) now: i64,
    pub(crate) tick: i64,
    pub(crate) jobs: Vec<PaperJob>,
    /// The job of each lease ever given out.
    pub(crate) leases: Vec<usize>,
    pub(crate) queues: BTreeMap<&'static str, PaperQueue>,
    pub(crate) rows: BTreeMap<usize, Row>,
    pub(crate) totals: Totals,
    max_pairs: usize,
    next_row: usize,
    pub(crate) answer: Answer,
}

impl Paper {
    pub(crate) fn new(now: i64, max_pairs: usize) -> Self {
        let mut paper = Self {
            now,
            tick: 0,
            jobs: Vec::new(),
            leases: Vec::new(),
            queues: BTreeMap::new(),
            rows: BTreeMap::new(),
            totals: Totals::default(),
            max_pairs,
            next_row: 0,
            answer: Answer::Nothing,
        };
        paper.start(max_pairs);
        paper
    }

    pub(crate) fn take(&mut self, step: &Step) {
        self.answer = match step {
            Step::Create(spec) => match self.create(spec) {
                Ok((job, duplicate)) => Answer::Created(vec![job], vec![0; duplicate.into()]),
                Err(refusal) => Answer::Refused(refusal),
            },
            Step::CreateBatch(specs) => self.create_batch(specs),
            Step::Claim { queues, max, duration, own } => self.claim(queues, *max, *duration, *own),
            Step::Finish(finishes) => Answer::Leases(
                finishes.iter().map(|(lease, end)| self.finish(*lease, *end)).collect(),
            ),
            Step::Renew(leases, duration) => {
                Answer::Leases(leases.iter().map(|lease| self.renew(*lease, *duration)).collect())
            }
            Step::Act(pick, act) => match self.job_picked(*pick).map(|job| self.act(job, *act)) {
                None => Answer::Nothing,
                Some(Ok(())) => Answer::Done(1),
                Some(Err(refusal)) => Answer::Refused(refusal),
            },
            Step::ActOnMany { queue, act, kind, age, limit } => {
                self.act_on_many(queue, *act, *kind, age.map(|age| self.now - age), *limit)
            }
            Step::SetPaused(queue, paused) => match self.queues.get_mut(queue) {
                None => Answer::Refused("no such queue"),
                Some(known) => {
                    known.paused = *paused;
                    Answer::Done(1)
                }
            },
            Step::Forget(queue) => self.forget(queue),
            Step::Advance(ms) => {
                self.now += ms;
                self.tick += ms;
                Answer::Nothing
            }
            Step::Jump(ms) => {
                self.now += ms;
                Answer::Nothing
            }
            Step::Sweep => self.sweep(),
            Step::Restart { max_pairs, .. } => {
                self.start(*max_pairs);
                Answer::Nothing
            }
        };
    }

    /// A job counted from the newest, if there ever was one.
    pub(crate) fn job_picked(&self, pick: usize) -> Option<usize> {
        let many = self.jobs.len();
        (many > 0).then(|| many - 1 - pick % many)
    }

    /// A lease counted from the newest.
    pub(crate) fn lease_picked(&self, pick: usize) -> Option<usize> {
        let many = self.leases.len();
        (many > 0).then(|| many - 1 - pick % many)
    }

    pub(crate) fn stored(&self) -> impl Iterator<Item = (usize, &PaperJob)> {
        self.jobs.iter().enumerate().filter(|(_, job)| job.is_stored())
    }

    /// The stored jobs of a queue.
    pub(crate) fn jobs_of(&self, queue: &str) -> impl Iterator<Item = (usize, &PaperJob)> {
        self.stored().filter(move |(_, job)| job.queue == queue)
    }

    fn holder(&self, queue: &str, key: &str) -> Option<usize> {
        let holds = |job: &PaperJob| job.key_held && job.unique.is_some_and(|(k, _)| k == key);
        self.jobs_of(queue).find(|(_, job)| holds(job)).map(|(index, _)| index)
    }

    fn create_batch(&mut self, specs: &[Spec]) -> Answer {
        let before = self.clone();
        let (mut jobs, mut duplicates) = (Vec::new(), Vec::new());
        for (index, spec) in specs.iter().enumerate() {
            match self.create(spec) {
                Ok((job, duplicate)) => {
                    jobs.push(job);
                    duplicates.extend(duplicate.then_some(index));
                }
                Err(refusal) => {
                    *self = before;
                    return Answer::RefusedAt(index, refusal);
                }
            }
        }
        Answer::Created(jobs, duplicates)
    }

    fn create(&mut self, spec: &Spec) -> Result<(usize, bool), &'static str> {
        if let Some(holder) = spec.unique.and_then(|(key, _)| self.holder(spec.queue, key)) {
            let queue = self.queues.get_mut(spec.queue).expect("it has a job");
            queue.duplicates += 1;
            return Ok((holder, true));
        }
        if !self.queues.contains_key(spec.queue) && self.queues.len() >= MAX_QUEUES {
            return Err("too many queues");
        }
        let waiting = self.jobs_of(spec.queue).filter(|(_, job)| job.waits()).count();
        if rules(spec.queue).max_depth.is_some_and(|most| waiting >= most) {
            return Err("queue full");
        }
        self.queues.entry(spec.queue).or_default();
        let row = self.choose_row(spec.queue, spec.kind);
        let wanted = match spec.start {
            When::Now => self.now,
            When::At(offset) | When::After(offset) => self.now + offset,
        };
        let state = if wanted > self.now { "scheduled" } else { "ready" };
        self.jobs.push(PaperJob {
            queue: spec.queue,
            kind: spec.kind,
            priority: spec.priority,
            state,
            run_at: wanted.max(self.now),
            created_at: self.now,
            attempt: 0,
            failures: 0,
            own_max_attempts: spec.max_attempts,
            own_timeout: spec.timeout,
            unique: spec.unique,
            key_held: spec.unique.is_some(),
            row,
            lease: None,
            own: false,
            lease_ms: 0,
            lease_end: 0,
            timeout_end: None,
            claimed_tick: 0,
            claimed_at: None,
            expires_at: None,
            ended_at: None,
            result: None,
            last_error: None,
        });
        self.count(self.jobs.len() - 1, "created");
        if self.rows[&row].kind == "__other__" {
            self.totals.overflow_jobs += 1;
        }
        Ok((self.jobs.len() - 1, false))
    }

    fn claim(
        &mut self,
        queues: &[&'static str],
        max: usize,
        duration: Option<i64>,
        own: bool,
    ) -> Answer {
        let mut claimed = Vec::new();
        for queue in queues {
            if self.queues.get(queue).is_none_or(|queue| queue.paused) {
                continue;
            }
            let mut ready: Vec<_> = self
                .jobs_of(queue)
                .filter(|(_, job)| job.state == "ready")
                .map(|(index, job)| (job.priority, job.run_at, index))
                .collect();
            ready.sort_unstable();
            for (_, _, index) in ready.into_iter().take(max - claimed.len()) {
                self.lease(index, duration, own);
                claimed.push(index);
            }
        }
        Answer::Claimed(claimed)
    }

    fn lease(&mut self, index: usize, duration: Option<i64>, own: bool) {
        let (now, tick) = (self.now, self.tick);
        self.leases.push(index);
        let job = &mut self.jobs[index];
        job.state = "running";
        job.attempt += 1;
        job.lease = Some(self.leases.len() - 1);
        job.own = own;
        job.result = None;
        job.claimed_at = Some(now);
        job.claimed_tick = tick;
        job.lease_ms = duration.unwrap_or(rules(job.queue).lease);
        job.timeout_end = job.timeout().filter(|_| !own).map(|ms| tick + ms);
        extend(job, now, tick);
        self.count(index, "started");
    }

    fn renew(&mut self, pick: LeasePick, duration: Option<i64>) -> &'static str {
        let (now, tick) = (self.now, self.tick);
        let Some(index) = self.holder_of(pick) else { return self.lose(pick) };
        let job = &mut self.jobs[index];
        match job.state {
            "running" => {
                job.lease_ms = duration.unwrap_or(job.lease_ms);
                extend(job, now, tick);
                "ok"
            }
            "cancelled" => "cancelled",
            _ => self.lose(pick),
        }
    }

    /// The stored job whose last lease this is.
    fn holder_of(&self, pick: LeasePick) -> Option<usize> {
        let LeasePick::Given(pick) = pick else { return None };
        let lease = self.lease_picked(pick)?;
        let index = self.leases[lease];
        let job = &self.jobs[index];
        (job.is_stored() && job.lease == Some(lease)).then_some(index)
    }

    /// Counts a lost lease: under the queue of its job, or elsewhere if there is none.
    fn lose(&mut self, pick: LeasePick) -> &'static str {
        let index = match pick {
            LeasePick::Given(pick) => self.lease_picked(pick).map(|lease| self.leases[lease]),
            LeasePick::Invented(pick) => self.job_picked(pick),
            LeasePick::Unknown => None,
        };
        match index.map(|index| &self.jobs[index]).filter(|job| job.is_stored()) {
            Some(job) => self.queues.get_mut(job.queue).expect("it has a job").leases_lost += 1,
            None => self.totals.leases_lost_elsewhere += 1,
        }
        "lease lost"
    }
}

/// Makes a lease last from now, though not beyond the timeout.
fn extend(job: &mut PaperJob, now: i64, tick: i64) {
    job.lease_end = job.timeout_end.unwrap_or(i64::MAX).min(tick + job.lease_ms);
    job.expires_at = Some(now + (job.lease_end - tick).max(0));
}
