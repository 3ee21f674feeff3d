//! The steps on the real store, and its answers in the words of the paper.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tallyd::clock::Timestamp;
use tallyd::job::{Outcome, State};
use tallyd::store::{
    Action, Bulk, Claim, Filter, Finish, Job, JobId, Lease, LeaseAnswer, NewJob, Recounted,
    Renewal, Start, StoreError, Sweep, Unique, UniqueUntil,
};
use tallyd::tally::Count;

use super::OnDisk;
use super::paper::{Answer, Paper, PaperJob};
use super::step::{Act, End, LeasePick, Spec, Step, When};

fn ms(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}

impl OnDisk {
    /// Takes a step; jobs and leases are numbered as on paper.
    pub(super) async fn take(&mut self, step: Step, paper: &Paper) -> Answer {
        match step {
            Step::Create(spec) => match self.store.create(self.new_job(&spec)).await {
                Ok(created) => {
                    let job = self.number(created.job.id, created.duplicate);
                    compare_job(&created.job, &paper.jobs[job]);
                    Answer::Created(vec![job], vec![0; created.duplicate.into()])
                }
                Err(error) => refused(&error),
            },
            Step::CreateBatch(specs) => self.create_batch(&specs).await,
            Step::Claim { queues, max, duration, own } => {
                let claim = Claim {
                    queues: queues.into_iter().map(str::to_owned).collect(),
                    max,
                    max_bytes: usize::MAX,
                    duration: duration.map(ms),
                    worker: None,
                    own,
                };
                self.claim(claim, paper).await
            }
            Step::Finish(finishes) => {
                let finishes = finishes.iter().map(|(lease, end)| Finish {
                    lease: self.lease(*lease),
                    outcome: outcome(*end),
                    result: None,
                    error: None,
                });
                answers(self.store.finish(finishes.collect()).await.expect("a finish answers"))
            }
            Step::Renew(leases, duration) => {
                let leases = leases.iter().map(|lease| self.lease(*lease)).collect();
                let renewal = Renewal { leases, duration: duration.map(ms) };
                answers(self.store.renew(renewal).await.expect("a renewal answers"))
            }
            Step::Act(pick, act) => self.act(pick, act, paper).await,
            Step::ActOnMany { queue, act, kind, age, limit } => {
                let bulk = Bulk {
                    queue: queue.to_owned(),
                    action: action(act),
                    kind: kind.map(str::to_owned),
                    before: age.map(|age| self.clock.now().before(ms(age))),
                    limit,
                    from: None,
                };
                match self.store.act_on_many(bulk).await {
                    Ok(done) => Answer::Done(done.count),
                    Err(error) => refused(&error),
                }
            }
            Step::SetPaused(queue, paused) => {
                done(self.store.set_paused(queue, paused).await.map(|queue| {
                    assert_eq!(queue.paused, paused);
                }))
            }
            Step::Forget(queue) => done(self.store.forget(queue).await),
            Step::Sweep => self.sweep().await,
            Step::Advance(_) | Step::Jump(_) | Step::Restart { .. } => Answer::Nothing,
        }
    }

    fn new_job(&self, spec: &Spec) -> NewJob {
        let at = |offset| Timestamp(self.clock.now().0 + offset);
        NewJob {
            queue: spec.queue.to_owned(),
            kind: spec.kind.to_owned(),
            payload: Bytes::from_static(b"{}"),
            priority: spec.priority,
            start: match spec.start {
                When::Now => Start::Now,
                When::At(offset) => Start::At(at(offset)),
                When::After(delay) => Start::After(ms(delay)),
            },
            max_attempts: spec.max_attempts,
            timeout: spec.timeout.map(ms),
            unique: spec.unique.map(|(key, until_gone)| Unique {
                key: key.to_owned(),
                until: if until_gone { UniqueUntil::Gone } else { UniqueUntil::Done },
            }),
            traceparent: None,
        }
    }

    /// The number of a job, which is the next if it is new.
    fn number(&mut self, id: JobId, duplicate: bool) -> usize {
        if !duplicate {
            self.ids.push(id);
        }
        self.ids.iter().position(|known| *known == id).expect("a job that was created")
    }

    async fn create_batch(&mut self, specs: &[Spec]) -> Answer {
        let jobs = specs.iter().map(|spec| self.new_job(spec)).collect();
        match self.store.create_batch(jobs).await {
            Ok(created) => {
                let is_new = |index: &usize| !created.duplicates.contains(index);
                self.ids.extend((0..specs.len()).filter(is_new).map(|index| created.ids[index]));
                let jobs = created.ids.iter().map(|id| self.number(*id, true)).collect();
                Answer::Created(jobs, created.duplicates)
            }
            Err(StoreError::InBatch { index, error }) => match refused(&error) {
                Answer::Refused(why) => Answer::RefusedAt(index, why),
                other => other,
            },
            Err(error) => refused(&error),
        }
    }

    async fn claim(&mut self, claim: Claim, paper: &Paper) -> Answer {
        let claimed = self.store.claim(claim, Duration::ZERO).await.expect("a claim answers");
        let mut jobs = Vec::new();
        for leased in claimed.jobs {
            let job = self.number(leased.job.id, true);
            compare_job(&leased.job, &paper.jobs[job]);
            self.leases.push(leased.lease);
            jobs.push(job);
        }
        Answer::Claimed(jobs)
    }

    /// The real lease of a pick, which was made before this step gave out any.
    fn lease(&self, pick: LeasePick) -> Lease {
        let unknown = Lease { job: JobId::new(1, 1), secret: [7; 16] };
        match pick {
            LeasePick::Given(pick) => match self.leases.len() {
                0 => unknown,
                many => self.leases[many - 1 - pick % many],
            },
            LeasePick::Invented(pick) => match self.ids.len() {
                0 => unknown,
                many => Lease { job: self.ids[many - 1 - pick % many], ..unknown },
            },
            LeasePick::Unknown => unknown,
        }
    }

    async fn act(&self, pick: usize, act: Act, paper: &Paper) -> Answer {
        let Some(job) = paper.job_picked(pick) else { return Answer::Nothing };
        match self.store.act(self.ids[job], action(act)).await {
            Ok(acted) if act == Act::Discard => {
                assert_eq!(acted.state, State::Dead, "a discarded job is answered as it was");
                Answer::Done(1)
            }
            Ok(acted) => {
                compare_job(&acted, &paper.jobs[job]);
                Answer::Done(1)
            }
            Err(error) => refused(&error),
        }
    }

    async fn sweep(&self) -> Answer {
        let (mut promoted, mut expired, mut pruned) = (0, 0, 0);
        let mut sweep = Sweep::default();
        loop {
            let swept = self.store.sweep(sweep).await.expect("a sweep answers");
            assert_eq!(swept.passed_over, 0);
            promoted += swept.promoted;
            expired += swept.expired;
            pruned += swept.pruned;
            sweep = swept.next.unwrap_or_default();
            if swept.next.is_none() && swept.promoted + swept.expired + swept.pruned == 0 {
                return Answer::Swept(promoted, expired, pruned);
            }
        }
    }

    /// Every number of the ledger, every queue, and that both agree with the rows.
    pub(super) async fn compare_counts(&self, paper: &Paper) {
        let cut = self.metrics.snapshot();
        assert_eq!(cut.rows.len(), paper.rows.len(), "rows of the ledger");
        for (id, row) in &paper.rows {
            let found = cut.rows.iter().find(|r| &*r.queue == row.queue && &*r.kind == row.kind);
            let counts = found.expect("a row of the paper").counts;
            counts.check().expect("the identities hold");
            let wanted = paper.counts_of(*id);
            for (count, name) in Count::ALL {
                let wanted = wanted.get(name).copied().unwrap_or(0);
                assert_eq!(counts[count], wanted, "{name} of {}/{}", row.queue, row.kind);
            }
        }
        for (name, queue) in &paper.queues {
            let found = cut.queues.iter().find(|cut| &*cut.queue == *name);
            let found = found.expect("a queue of the paper");
            assert_eq!(found.leases_lost, queue.leases_lost.unsigned_abs(), "{name}");
            assert_eq!(found.duplicates, queue.duplicates.unsigned_abs(), "{name}");
            assert_eq!(found.paused, i64::from(queue.paused), "{name}");
            let ready = paper.jobs_of(name).filter(|(_, job)| job.state == "ready");
            let oldest = ready.map(|(_, job)| job.run_at).min();
            assert_eq!(found.oldest_ready, oldest.map(|at| at as f64 / 1e3), "{name}");
        }
        assert_eq!(cut.queues.len(), paper.queues.len() + 1, "and one for all others");
        let elsewhere = cut.queues.last().expect("the others").leases_lost;
        assert_eq!(elsewhere, paper.totals.leases_lost_elsewhere.unsigned_abs());
        let totals = [cut.totals.promoted, cut.totals.expired, cut.totals.pruned];
        let wanted = [paper.totals.promoted, paper.totals.expired, paper.totals.pruned];
        assert_eq!(totals, wanted.map(|number| number as u64), "promoted, expired, pruned");
        assert_eq!(cut.totals.overflow_jobs, paper.totals.overflow_jobs.unsigned_abs());
        assert_eq!(self.store.recount().await, Ok(Recounted::Done(0)));
    }

    /// Every job that is stored, and the queues as they are listed.
    pub(super) async fn compare_jobs(&self, paper: &Paper) {
        let filter = Filter { limit: 10_000, ..Filter::default() };
        let page = self.store.list(filter).await.expect("a page");
        assert_eq!(page.jobs.len(), paper.stored().count());
        for (job, (index, wanted)) in page.jobs.iter().rev().zip(paper.stored()) {
            assert_eq!(job.id, self.ids[index], "in the order in which they were created");
            compare_job(job, wanted);
        }
        let queues = self.store.queues().await.expect("the queues");
        let names: Vec<_> = queues.iter().map(|queue| queue.name.as_str()).collect();
        assert_eq!(names, paper.queues.keys().copied().collect::<Vec<_>>());
        for queue in queues {
            let mut wanted: BTreeMap<&str, i64> = BTreeMap::new();
            for (_, job) in paper.jobs_of(&queue.name) {
                *wanted.entry(job.state).or_default() += 1;
            }
            for (state, found) in State::ALL.iter().zip(queue.jobs) {
                assert_eq!(found, wanted.get(state.name()).copied().unwrap_or(0), "{state:?}");
            }
        }
    }
}

fn compare_job(job: &Job, wanted: &PaperJob) {
    let times = |at: Option<Timestamp>| at.map(|at| at.0);
    assert_eq!((job.queue.as_str(), job.kind.as_str()), (wanted.queue, wanted.kind));
    assert_eq!(job.state.name(), wanted.state);
    assert_eq!(job.priority, wanted.priority);
    assert_eq!(job.run_at.0, wanted.run_at, "run_at");
    assert_eq!(job.created_at.0, wanted.created_at, "created_at");
    assert_eq!((job.attempt, job.failures), (wanted.attempt, wanted.failures));
    assert_eq!(job.max_attempts, wanted.max_attempts());
    assert_eq!(job.timeout, wanted.timeout().map(ms));
    assert_eq!(job.unique_key.as_deref(), wanted.unique.map(|(key, _)| key));
    assert_eq!(times(job.claimed_at), wanted.claimed_at, "claimed_at");
    assert_eq!(times(job.expires_at), wanted.expires_at, "expires_at");
    assert_eq!(times(job.ended_at), wanted.ended_at, "ended_at");
    let last_error =
        job.last_error.as_ref().map(|error| (error.attempt, error.at.0, error.outcome.name()));
    assert_eq!(last_error, wanted.last_error);
}

fn outcome(end: End) -> Outcome {
    match end {
        End::Completed => Outcome::Completed,
        End::Failed { permanent, retry_in } => {
            Outcome::Failed { permanent, retry_in: ms(retry_in) }
        }
        End::TimedOut => Outcome::TimedOut,
        End::Released { retry_in } => Outcome::Released { retry_in: ms(retry_in) },
    }
}

fn action(act: Act) -> Action {
    match act {
        Act::Cancel => Action::Cancel,
        Act::Requeue => Action::Requeue,
        Act::Discard => Action::Discard,
    }
}

fn answers(answers: Vec<LeaseAnswer>) -> Answer {
    let name = |answer| match answer {
        LeaseAnswer::Ok => "ok",
        LeaseAnswer::LeaseLost => "lease lost",
        LeaseAnswer::Cancelled => "cancelled",
    };
    Answer::Leases(answers.into_iter().map(name).collect())
}

fn done(outcome: Result<(), StoreError>) -> Answer {
    outcome.map_or_else(|error| refused(&error), |()| Answer::Done(1))
}

fn refused(error: &StoreError) -> Answer {
    Answer::Refused(match error {
        StoreError::NoSuchJob(_) => "no such job",
        StoreError::NoSuchQueue(_) => "no such queue",
        StoreError::TooManyQueues { .. } => "too many queues",
        StoreError::QueueFull { .. } => "queue full",
        StoreError::InvalidTransition(_) => "invalid transition",
        StoreError::UniqueKeyHeld { .. } => "unique key held",
        StoreError::QueueNotEmpty { .. } => "not empty",
        StoreError::QueueConfigured(_) => "configured",
        other => panic!("nothing led to this: {other}"),
    })
}
