//! The callers of a recorded store: what they do at once, and tell before and afterwards.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tallyd::clock::Clock;
use tallyd::job::{Outcome, State};
use tallyd::store::{
    Action, Bulk, Claim, Filter, Finish, Job, JobId, Lease, LeaseAnswer, NewJob, Renewal, Start,
    Store, StoreError, Sweep, UniqueUntil,
};

use crate::bed::{self, BEGIN, FAILED, FAILED_FOR_GOOD, RELEASED};
use crate::oracle::Entry;

/// A lease with the outcome that its holder reports.
type End = (Lease, &'static str);

/// Queues for bulk operations: a history goes on after one power cut.
pub const MANY: [&str; 2] = ["many", "more"];

/// The queue of the job with which the log is filled, and the bytes of its error text.
const FILLING: &str = "filling";
const FILLING_BYTES: usize = 600_000;

/// How long a brief lease lasts.
const BRIEF: Duration = Duration::from_secs(1);

/// The callers of one open store.
pub struct Clients<'s> {
    store: &'s Store,
    clock: &'s Clock,
    note: &'s dyn Fn(Entry),
    next_mark: Cell<u64>,
    /// Jobs that may be cancelled.
    ids: RefCell<Vec<JobId>>,
    /// How many bytes the text of a failure has.
    error_bytes: usize,
}

impl<'s> Clients<'s> {
    /// Who was told this before is told more.
    pub fn new(
        store: &'s Store,
        clock: &'s Clock,
        note: &'s dyn Fn(Entry),
        entries: &[Entry],
        error_bytes: usize,
    ) -> Self {
        let marks = entries.iter().filter_map(|entry| match entry {
            Entry::Creating { marks, .. } => marks.iter().max(),
            _ => None,
        });
        let next_mark = Cell::new(marks.max().map_or(1, |last| last + 1));
        Self { store, clock, note, next_mark, ids: RefCell::default(), error_bytes }
    }

    /// Everything at once, in so many rounds.
    pub async fn run(&self, rounds: usize, random: &mut StdRng) {
        let mut random = || StdRng::seed_from_u64(random.random());
        let work = |queue, duration, brief, own| Work { queue, duration, brief, own };
        let long = Some(Duration::from_secs(3_600));
        tokio::join!(
            self.create(rounds, random()),
            self.create(rounds, random()),
            self.work(work("a", long, None, false), rounds, random()),
            self.work(work("a", long, None, false), rounds, random()),
            self.work(work("brief", Some(BRIEF), Some(BRIEF), false), rounds, random()),
            // What the daemon runs itself is cut off by a crash.
            self.work(work("own", None, Some(Duration::ZERO), true), rounds, random()),
            self.operate(rounds, random()),
            self.act_on_many(rounds / 3, random()),
            self.let_retention_remove(rounds / 3),
            self.sweep(rounds, random()),
        );
    }

    fn note(&self, entry: Entry) {
        (self.note)(entry);
    }

    /// The time since the first client.
    fn now(&self) -> Duration {
        self.clock.now().since(BEGIN)
    }

    fn next_mark(&self) -> u64 {
        self.next_mark.replace(self.next_mark.get() + 1)
    }

    fn note_created(&self, mark: u64, id: JobId) {
        self.note(Entry::Created { mark, id: id.to_string() });
    }

    async fn create(&self, rounds: usize, mut random: StdRng) {
        for _ in 0..rounds {
            match random.random_range(0..10) {
                0..=2 => {
                    let mark = self.next_mark();
                    self.create_unique(mark).await;
                    if random.random_ratio(1, 4) {
                        self.create_unique(mark).await;
                    }
                }
                3..=4 => {
                    let number = random.random_range(1..12);
                    let jobs = self.create_batch(number, |mark| self.job(mark, &mut random)).await;
                    self.ids.borrow_mut().extend(jobs.into_iter().map(|(_, id)| id));
                }
                _ => {
                    let mark = self.next_mark();
                    self.note(Entry::Creating { marks: vec![mark], unique: false });
                    let id = self.store_job(self.job(mark, &mut random)).await;
                    self.note_created(mark, id);
                    self.ids.borrow_mut().push(id);
                }
            }
        }
    }

    /// A job that says its mark, in one queue or another.
    fn job(&self, mark: u64, random: &mut StdRng) -> NewJob {
        let queue = ["a", "a", "a", "brief", "own", "elsewhere"][random.random_range(0..6)];
        let is_large = random.random_ratio(1, 25);
        let bytes = random.random_range(0..if is_large { 20_000 } else { 300 });
        let kind = if queue == "a" { ["k", "l"][random.random_range(0..2)] } else { "k" };
        let start = if random.random_ratio(1, 5) { Start::After(BRIEF) } else { Start::Now };
        NewJob { start, priority: random.random_range(0..10), ..marked(queue, kind, mark, bytes) }
    }

    /// Asks with a key, as often as it likes.
    async fn create_unique(&self, mark: u64) {
        self.note(Entry::Creating { marks: vec![mark], unique: true });
        let job = NewJob {
            unique: bed::unique(&format!("mark-{mark}"), UniqueUntil::Gone).unique,
            ..marked("a", "unique", mark, 0)
        };
        let id = self.store_job(job).await;
        self.note_created(mark, id);
        self.ids.borrow_mut().push(id);
    }

    async fn store_job(&self, job: NewJob) -> JobId {
        self.unless_busy(|| self.store.create(job.clone())).await.job.id
    }

    /// Asks again while creates are refused, of which nothing is left: where much is logged, the log
    /// may be too long for a moment. A sweep looks whether it still is.
    async fn unless_busy<R, F>(&self, ask: impl Fn() -> F) -> R
    where
        F: Future<Output = Result<R, StoreError>>,
    {
        loop {
            match ask().await {
                Err(StoreError::Busy) => drop(self.store.sweep(Sweep::default()).await.unwrap()),
                answer => return answer.unwrap(),
            }
        }
    }

    /// The marks and ids of a batch of so many jobs.
    async fn create_batch(
        &self,
        number: usize,
        mut job: impl FnMut(u64) -> NewJob,
    ) -> Vec<(u64, JobId)> {
        let marks: Vec<u64> = (0..number).map(|_| self.next_mark()).collect();
        self.note(Entry::Creating { marks: marks.clone(), unique: false });
        let jobs: Vec<NewJob> = marks.iter().map(|mark| job(*mark)).collect();
        let created = self.unless_busy(|| self.store.create_batch(jobs.clone())).await;
        assert_eq!(created.ids.len(), marks.len());
        let created: Vec<_> = marks.into_iter().zip(created.ids).collect();
        created.iter().for_each(|(mark, id)| self.note_created(*mark, *id));
        created
    }

    async fn work(&self, work: Work<'_>, rounds: usize, mut random: StdRng) {
        let mut late: Vec<End> = Vec::new();
        for _ in 0..rounds {
            let max = random.random_range(1..8);
            let leases = self.claim(&work, max).await;
            let mut ends = Vec::new();
            for lease in &leases {
                let outcome = match random.random_range(0..10) {
                    0..=1 => "failed",
                    2 => "released",
                    _ => "completed",
                };
                let is_late = work.brief.is_some() && random.random_ratio(1, 3);
                let ends = if is_late { &mut late } else { &mut ends };
                ends.push((*lease, outcome));
            }
            if random.random_ratio(3, 10) {
                self.renew(&leases).await;
            }
            if random.random_ratio(1, 3) {
                ends.append(&mut late);
            }
            self.finish(&ends).await;
            if random.random_ratio(2, 10) {
                self.finish(&ends).await;
            }
        }
    }

    async fn claim(&self, work: &Work<'_>, max: usize) -> Vec<Lease> {
        let claim =
            Claim { own: work.own, duration: work.duration, ..bed::claim(&[work.queue], max) };
        let asked_at = self.now();
        let claimed = self.store.claim(claim, Duration::ZERO).await.unwrap();
        for leased in &claimed.jobs {
            self.note(Entry::Leased {
                id: leased.job.id.to_string(),
                mark: mark_of(&leased.job),
                attempt: leased.job.attempt.into(),
                lease: leased.lease.to_string(),
                brief: work.brief,
                asked_at,
                at: self.now(),
            });
        }
        claimed.leases()
    }

    async fn renew(&self, leases: &[Lease]) {
        for lease in leases {
            self.note(Entry::Renewing { lease: lease.to_string(), at: self.now() });
        }
        let renewal = Renewal { leases: leases.to_vec(), duration: None };
        let answers = self.store.renew(renewal).await.unwrap();
        for (lease, answer) in leases.iter().zip(answers) {
            let (lease, answer) = (lease.to_string(), word(answer));
            self.note(Entry::Renewed { lease, answer, at: self.now() });
        }
    }

    async fn finish(&self, ends: &[End]) {
        self.finish_with(ends, self.error_bytes).await;
    }

    async fn finish_with(&self, ends: &[End], error_bytes: usize) {
        let finish = |(lease, outcome): &End| {
            self.note(Entry::Ending { lease: lease.to_string(), outcome });
            let outcome = match *outcome {
                "completed" => Outcome::Completed,
                "failed" => FAILED,
                "dead" => FAILED_FOR_GOOD,
                _ => RELEASED,
            };
            let has_failed = matches!(outcome, Outcome::Failed { .. });
            let error = has_failed.then(|| "e".repeat(error_bytes));
            let result = bytes::Bytes::from_static(b"{\"is\":\"done\"}");
            let result = (outcome == Outcome::Completed).then_some(result);
            Finish { lease: *lease, outcome, result, error }
        };
        let finishes = ends.iter().map(finish).collect();
        let answers = self.store.finish(finishes).await.unwrap();
        for ((lease, outcome), answer) in ends.iter().zip(answers) {
            let (lease, answer) = (lease.to_string(), word(answer));
            self.note(Entry::Ended { lease, outcome, answer, at: self.now() });
        }
    }

    /// Cancels jobs in whatever state they are, and puts dead ones back or removes them.
    async fn operate(&self, rounds: usize, mut random: StdRng) {
        for _ in 0..rounds {
            let newest = self.ids.borrow().iter().rev().take(10).copied().collect::<Vec<_>>();
            if !newest.is_empty() {
                self.cancel(newest[random.random_range(0..newest.len())]).await;
            }
            for queue in ["a", "brief", "own"] {
                self.tidy_up(queue, &mut random).await;
            }
        }
    }

    async fn tidy_up(&self, queue: &str, random: &mut StdRng) {
        let (queue, state) = (Some(queue.to_owned()), Some(State::Dead));
        let filter = Filter { queue, state, limit: 2, ..Filter::default() };
        for dead in self.store.list(filter).await.unwrap().jobs {
            // A key is free again once its job is gone, and asking once more makes another.
            if dead.unique_key.is_some() || random.random() {
                self.requeue(dead.id).await;
            } else {
                self.discard(dead.id).await;
            }
        }
    }

    async fn cancel(&self, id: JobId) {
        self.note(Entry::Cancelling { id: id.to_string() });
        if self.act(id, Action::Cancel).await.is_some() {
            self.note(Entry::Cancelled { id: id.to_string() });
        }
    }

    async fn requeue(&self, id: JobId) {
        if let Some(job) = self.act(id, Action::Requeue).await {
            self.note(Entry::Requeued { id: id.to_string(), attempt: job.attempt.into() });
        }
    }

    async fn discard(&self, id: JobId) {
        let job = self.store.job(id).await.unwrap();
        let mark = mark_of(&job);
        self.note(Entry::Discarding { mark });
        match self.act(id, Action::Discard).await {
            Some(_) => self.note(Entry::Discarded { id: id.to_string() }),
            None => self.note(Entry::DiscardRefused { mark }),
        }
    }

    /// Nothing if the job's state does not allow it, or it is gone.
    async fn act(&self, id: JobId, action: Action) -> Option<Job> {
        match self.store.act(id, action).await {
            Ok(job) => Some(job),
            Err(StoreError::InvalidTransition(_) | StoreError::NoSuchJob(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Bulk operations, on queues that nobody else uses.
    async fn act_on_many(&self, rounds: usize, mut random: StdRng) {
        for _ in 0..rounds {
            let queue = self.empty_queue().await;
            let number = random.random_range(2..8);
            let jobs = self.create_batch(number, |mark| marked(queue, "k", mark, 10)).await;
            let note_each = |entry: fn(u64, String) -> Entry| {
                jobs.iter().for_each(|(mark, id)| self.note(entry(*mark, id.to_string())));
            };
            if random.random() {
                self.let_die(queue, number).await;
                if random.random() {
                    note_each(|mark, _| Entry::Discarding { mark });
                    self.bulk(queue, Action::Discard, number).await;
                    note_each(|_, id| Entry::Discarded { id });
                    continue;
                }
                self.bulk(queue, Action::Requeue, number).await;
                note_each(|_, id| Entry::Requeued { id, attempt: 1 });
            }
            note_each(|_, id| Entry::Cancelling { id });
            self.bulk(queue, Action::Cancel, number).await;
            note_each(|_, id| Entry::Cancelled { id });
        }
    }

    /// A queue in which a crash has left no jobs to act on.
    async fn empty_queue(&self) -> &'static str {
        let queues = self.store.queues().await.unwrap();
        let is_empty = |name: &&str| {
            let queue = queues.iter().find(|queue| queue.name == *name).unwrap();
            let left = State::ALL.iter().zip(queue.jobs);
            left.filter(|(state, _)| !matches!(state, State::Completed | State::Cancelled))
                .all(|(_, jobs)| jobs == 0)
        };
        MANY.into_iter().find(is_empty).expect("each power cut leaves jobs in one queue at most")
    }

    async fn bulk(&self, queue: &str, action: Action, number: usize) {
        let queue = queue.to_owned();
        let bulk = Bulk { queue, action, kind: None, before: None, limit: 100, from: None };
        let done = self.store.act_on_many(bulk).await.unwrap();
        assert_eq!((done.count, done.more), (number, false), "{action:?}");
    }

    /// Fails all jobs of a queue for good.
    async fn let_die(&self, queue: &str, number: usize) {
        let work = Work { queue, duration: None, brief: Some(Duration::ZERO), own: false };
        let leases = self.claim(&work, number).await;
        let ends: Vec<End> = leases.into_iter().map(|lease| (lease, "dead")).collect();
        self.finish(&ends).await;
    }

    /// Jobs of a queue that keeps one dead job only; the sweeper removes the others.
    async fn let_retention_remove(&self, rounds: usize) {
        for _ in 0..rounds {
            let mark = self.next_mark();
            self.note(Entry::Creating { marks: vec![mark], unique: false });
            self.note(Entry::Discarding { mark });
            let id = self.store_job(marked("short", "k", mark, 10)).await;
            self.note_created(mark, id);
            self.let_die("short", 1).await;
        }
    }

    /// Makes the log longer, commit by commit, until it is long: a job dies of a long text, which is
    /// written over the last one, and is put back.
    pub async fn fill_log(&self, is_long: impl Fn() -> bool) {
        let mark = self.next_mark();
        self.note(Entry::Creating { marks: vec![mark], unique: false });
        let id = self.store_job(marked(FILLING, "k", mark, 10)).await;
        self.note_created(mark, id);
        let work = Work { queue: FILLING, duration: None, brief: Some(Duration::ZERO), own: false };
        let mut leases = Vec::new();
        for step in 0.. {
            match step % 3 {
                _ if is_long() => break,
                0 => leases = self.claim(&work, 1).await,
                1 => self.finish_with(&[(leases[0], "dead")], FILLING_BYTES).await,
                _ => self.requeue(id).await,
            }
        }
    }

    async fn sweep(&self, rounds: usize, mut random: StdRng) {
        for _ in 0..rounds {
            self.clock.advance(Duration::from_millis(random.random_range(100..900)));
            let mut next = Some(Sweep::default());
            while let Some(sweep) = next {
                next = self.store.sweep(sweep).await.unwrap().next;
            }
        }
    }

    /// Asks once more for all that was never answered, as clients do after a crash.
    pub async fn settle(&self, entries: &[Entry]) {
        let mut unanswered = Vec::new();
        let mut unfinished: Vec<End> = Vec::new();
        for entry in entries {
            match entry {
                Entry::Creating { marks, unique: true } => unanswered.extend(marks),
                Entry::Created { mark, .. } => unanswered.retain(|asked| asked != mark),
                Entry::Ending { lease, outcome } => {
                    unfinished.push((lease.parse().unwrap(), outcome));
                }
                Entry::Ended { lease, .. } => {
                    unfinished.retain(|(asked, _)| asked.to_string() != *lease);
                }
                _ => {}
            }
        }
        for mark in unanswered {
            self.create_unique(mark).await;
        }
        if !unfinished.is_empty() {
            self.finish(&unfinished).await;
        }
    }
}

/// How a worker works.
struct Work<'q> {
    queue: &'q str,
    duration: Option<Duration>,
    /// How long its leases last for certain, if not until they are ended.
    brief: Option<Duration>,
    own: bool,
}

/// The mark that the payload of a job says.
fn mark_of(job: &Job) -> u64 {
    let payload = job.payload.as_ref().unwrap();
    let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
    payload["mark"].as_u64().unwrap()
}

/// A job whose payload says its mark, and has so many more bytes.
fn marked(queue: &str, kind: &str, mark: u64, bytes: usize) -> NewJob {
    let digits = mark.to_string();
    let text = digits.repeat(bytes.div_ceil(digits.len()));
    let payload = format!("{{\"mark\":{mark},\"text\":\"{text}\"}}");
    NewJob { payload: payload.into(), ..bed::job(queue, kind) }
}

fn word(answer: LeaseAnswer) -> String {
    let word = match answer {
        LeaseAnswer::Ok => "ok",
        LeaseAnswer::LeaseLost => "lease_lost",
        LeaseAnswer::Cancelled => "cancelled",
    };
    word.to_owned()
}
