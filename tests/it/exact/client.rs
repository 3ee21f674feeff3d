//! A client whose log is exact, though the daemon is killed while it waits for an answer.
//!
//! Each has a queue to itself and sends one request at a time. What was never answered it sends
//! again when the daemon is back: a create has unique keys, an end its lease, and whether there was
//! a claim, the jobs tell. It logs what it was told, or then finds.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::told::Told;
use crate::fixture::PATIENCE;

/// How often a client looks for what nobody tells it.
const LOOK: Duration = Duration::from_millis(20);

/// The kinds of the jobs. The configuration names the first two; the last has no place for a row
/// of its own.
const KINDS: [&str; 3] = ["k0", "k1", "k2"];

/// The label under which a kind counts.
fn label(kind: &str) -> &str {
    if kind == "k2" { "__other__" } else { kind }
}

/// What is done to a job.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    /// Its attempt ends so: outcome, and whether for good.
    End(&'static str, bool),
    CancelRunning,
    /// What follows needs no attempt.
    Cancel,
    Requeue,
    Discard,
}
use Step::{Cancel, CancelRunning, Discard, End, Requeue};

const COMPLETE: Step = End("completed", false);
const FAIL: Step = End("failed", false);
const DIE: Step = End("failed", true);
const RELEASE: Step = End("released", false);

/// The jobs of a round: the delay of each, and all that is done to it.
const PLANS: [(&str, &[Step]); 11] = [
    ("0s", &[COMPLETE]),
    ("0s", &[FAIL, COMPLETE]),
    ("0s", &[RELEASE, RELEASE, COMPLETE]),
    ("0s", &[DIE, Requeue, FAIL, COMPLETE]),
    ("0s", &[FAIL, FAIL, Discard]),
    ("0s", &[DIE]),
    ("0s", &[CancelRunning]),
    ("0s", &[FAIL, CancelRunning]),
    ("0s", &[Cancel]),
    ("1h", &[Cancel]),
    ("5ms", &[COMPLETE]),
];

/// How many failures are one too many.
const MAX_ATTEMPTS: u64 = 2;

/// How many jobs are abandoned at a time, each for all its attempts.
const ABANDONED: usize = 3;

/// The payloads of jobs that are commands: the code with which they end.
const CODES: [u8; 4] = [0, 0, 0, 65];

/// What a client knows of one of its jobs.
struct Job {
    id: String,
    kind: &'static str,
    steps: &'static [Step],
    attempt: u64,
    failures: u64,
    /// Whether the sweeper has to make it ready first.
    waits: bool,
    lease: Option<String>,
}

/// What a client does all the time.
#[derive(Debug, Clone, Copy)]
pub enum Does {
    /// All that can be done to jobs.
    Everything,
    /// Takes jobs and never ends them; their attempts end so.
    Abandons(&'static str),
    /// Has the daemon run them.
    Commands,
}

pub struct Client {
    pub queue: &'static str,
    pub does: Does,
    pub told: Arc<Told>,
    pub http: reqwest::Client,
    /// Where the daemon is; it changes when it has been started again.
    pub url: watch::Receiver<String>,
    /// A permit for each answer that any client was given.
    pub answers: Arc<Semaphore>,
    /// A permit for each round of this client.
    pub rounds: Arc<Semaphore>,
    pub next: u64,
}

impl Client {
    /// Rounds until `stop`; the last one is finished.
    pub async fn work(mut self, stop: CancellationToken) -> Self {
        while !stop.is_cancelled() {
            self.round().await;
        }
        self
    }

    /// A round with each of its kinds, and what can be done without a kill only.
    pub async fn calm_rounds(&mut self) {
        self.round().await;
        if matches!(self.does, Does::Everything) {
            for _ in 1..KINDS.len() {
                self.round().await;
            }
            self.repeat_itself().await;
        }
    }

    async fn round(&mut self) {
        match self.does {
            Does::Everything => self.do_everything().await,
            Does::Abandons(result) => self.abandon(result).await,
            Does::Commands => self.run_commands().await,
        }
        self.rounds.add_permits(1);
    }

    /// Sends a request once. Without an answer, waits until the daemon is back.
    async fn ask(
        &mut self,
        method: &Method,
        path: &str,
        body: &Value,
    ) -> Option<(StatusCode, Value)> {
        let url = format!("{}{path}", *self.url.borrow_and_update());
        let mut request = self.http.request(method.clone(), url).timeout(PATIENCE);
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = async {
            let response = request.send().await?;
            let status = response.status();
            Ok::<_, reqwest::Error>((status, response.bytes().await?))
        };
        if let Ok((status, body)) = answer.await {
            self.answers.add_permits(1);
            return Some((status, serde_json::from_slice(&body).unwrap_or_default()));
        }
        let back = tokio::time::timeout(PATIENCE, self.url.changed()).await;
        back.expect("the daemon comes back").unwrap();
        None
    }

    /// Sends a request until it is answered; tells whether this took more than one try.
    async fn insist(
        &mut self,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value, bool) {
        let mut is_repeated = false;
        loop {
            if let Some((status, answer)) = self.ask(&method, path, &body).await {
                return (status, answer, is_repeated);
            }
            is_repeated = true;
        }
    }

    /// Does something to a job; when repeated it may have been done already, which is then refused
    /// so.
    async fn act(&mut self, method: Method, path: &str, refused: StatusCode) {
        let (status, answer, is_repeated) = self.insist(method, path, Value::Null).await;
        let is_done = status.is_success() || (is_repeated && status == refused);
        assert!(is_done, "{path}: {status} {answer}, repeated: {is_repeated}");
    }

    async fn job(&mut self, id: &str) -> Value {
        let (status, job, _) =
            self.insist(Method::GET, &format!("/v1/jobs/{id}"), Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{job}");
        job
    }

    /// Creates jobs with unique keys, all or none.
    async fn create(&mut self, kind: &'static str, mut jobs: Vec<Value>) -> Vec<String> {
        for job in &mut jobs {
            self.next += 1;
            job["unique_key"] = self.next.to_string().into();
            job["queue"] = self.queue.into();
            job["kind"] = kind.into();
        }
        let number = jobs.len();
        let (status, answer, is_repeated) =
            self.insist(Method::POST, "/v1/jobs/batch", jobs.into()).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        let duplicates = answer["duplicates"].as_array().expect("a list").len();
        assert!(duplicates == 0 || (is_repeated && duplicates == number), "{answer}");
        (0..duplicates).for_each(|_| self.told.duplicate(self.queue));
        for _ in 0..number {
            self.told.job("created", self.queue, label(kind));
            if label(kind) == "__other__" {
                self.told.overflow();
            }
        }
        let ids = answer["ids"].as_array().expect("a list").iter();
        ids.map(|id| id.as_str().expect("an id").to_owned()).collect()
    }

    async fn do_everything(&mut self) {
        let kind = KINDS[self.next as usize % KINDS.len()];
        let new = PLANS.map(|(delay, _)| json!({"delay": delay, "max_attempts": MAX_ATTEMPTS}));
        let ids = self.create(kind, new.to_vec()).await;
        let planned = ids.into_iter().zip(PLANS).map(|(id, (delay, steps))| Job {
            id,
            kind: label(kind),
            steps,
            attempt: 0,
            failures: 0,
            waits: delay != "0s",
            lease: None,
        });
        let mut jobs: Vec<Job> = planned.collect();
        while !jobs.is_empty() {
            for job in &mut jobs {
                self.act_without_lease(job).await;
            }
            jobs.retain(|job| !job.steps.is_empty());
            if !jobs.is_empty() {
                self.lease(&mut jobs).await;
                self.end(&mut jobs).await;
            }
        }
    }

    async fn act_without_lease(&mut self, job: &mut Job) {
        let path = format!("/v1/jobs/{}", job.id);
        while let Some((step @ (Cancel | Requeue | Discard), rest)) = job.steps.split_first() {
            let event = match step {
                Cancel => {
                    self.act(Method::POST, &(path.clone() + "/cancel"), StatusCode::CONFLICT).await;
                    "cancelled"
                }
                Requeue => {
                    self.act(Method::POST, &(path.clone() + "/requeue"), StatusCode::CONFLICT)
                        .await;
                    job.failures = 0;
                    "requeued"
                }
                _ => {
                    self.act(Method::DELETE, &path, StatusCode::NOT_FOUND).await;
                    "discarded"
                }
            };
            self.told.job(event, self.queue, job.kind);
            job.steps = rest;
        }
    }

    /// Takes all that is ready, and waits until something is.
    async fn lease(&mut self, jobs: &mut [Job]) {
        let request = json!({"queues": [self.queue], "max": 100, "duration": "10m", "wait": "10s"});
        let Some((status, leased)) = self.ask(&Method::POST, "/v1/leases", &request).await else {
            return self.give_up_lost(jobs).await;
        };
        assert_eq!(status, StatusCode::OK, "{leased}");
        for given in leased["jobs"].as_array().expect("a list") {
            let job = jobs.iter_mut().find(|job| given["id"] == *job.id).expect("one of its own");
            self.started(job, given);
            job.lease = Some(given["lease"].as_str().expect("a lease").to_owned());
        }
    }

    /// Finds what a claim took whose answer was lost, leases and all, and cancels it.
    async fn give_up_lost(&mut self, jobs: &mut [Job]) {
        for job in jobs {
            let stored = self.job(&job.id).await;
            if stored["state"] == "running" {
                self.started(job, &stored);
                self.cancel_running(job).await;
                job.steps = &[];
            }
        }
    }

    /// Logs the attempt that runs, and any that nobody was told of: those were given back, because
    /// the wait for them ended as they came.
    fn started(&self, job: &mut Job, now: &Value) {
        if std::mem::take(&mut job.waits) {
            self.told.swept("promoted");
        }
        let attempt = now["attempt"].as_u64().expect("a number");
        for given_back in (job.attempt + 1..=attempt).map(|number| number < attempt) {
            self.told.started(self.queue, job.kind);
            if given_back {
                self.told.ended("released", self.queue, job.kind);
            }
        }
        job.attempt = attempt;
    }

    async fn cancel_running(&mut self, job: &Job) {
        let path = format!("/v1/jobs/{}/cancel", job.id);
        self.act(Method::POST, &path, StatusCode::CONFLICT).await;
        self.told.ended("cancelled", self.queue, job.kind);
        self.told.job("cancelled", self.queue, job.kind);
    }

    /// Ends the attempts that it holds.
    async fn end(&mut self, jobs: &mut [Job]) {
        let mut ending = Vec::new();
        let mut ends = Vec::new();
        for job in jobs {
            let Some(lease) = job.lease.take() else { continue };
            let (step, rest) = job.steps.split_first().expect("it was not given up");
            job.steps = rest;
            if let End(outcome, permanent) = *step {
                let permanent = if permanent { json!(true) } else { Value::Null };
                ends.push(json!({"lease": lease, "outcome": outcome, "permanent": permanent}));
                ending.push((job, *step));
            } else {
                self.cancel_running(job).await;
            }
        }
        let (_, answer, _) = self.insist(Method::POST, "/v1/leases/finish", ends.into()).await;
        assert_eq!(answer["results"], json!(vec!["ok"; ending.len()]), "{answer}");
        for (job, step) in ending {
            self.ended(job, step);
        }
    }

    fn ended(&self, job: &mut Job, step: Step) {
        let End(outcome, permanent) = step else { unreachable!("an attempt has ended") };
        self.told.ended(outcome, self.queue, job.kind);
        match outcome {
            "completed" => self.told.job("completed", self.queue, job.kind),
            "failed" => {
                job.failures += 1;
                job.waits = !permanent && job.failures < MAX_ATTEMPTS;
                let event = if job.waits { "retried" } else { "died" };
                self.told.job(event, self.queue, job.kind);
            }
            _ => {}
        }
    }

    /// What nothing would tell afterwards, if its answer was lost: for times without kills.
    async fn repeat_itself(&mut self) {
        let kind = KINDS[0];
        let job =
            json!({"queue": self.queue, "kind": kind, "unique_key": format!("{}+", self.next)});
        for status in [StatusCode::CREATED, StatusCode::OK] {
            let answer = self.insist(Method::POST, "/v1/jobs", job.clone()).await;
            assert_eq!(answer.0, status, "{}", answer.1);
        }
        self.told.job("created", self.queue, kind);
        self.told.duplicate(self.queue);
        let request = json!({"queues": [self.queue], "wait": "10s"});
        let (_, leased, _) = self.insist(Method::POST, "/v1/leases", request).await;
        let lease = leased["jobs"][0]["lease"].as_str().expect("it is ready").to_owned();
        self.told.started(self.queue, kind);
        for (lease, outcome, result) in [
            (&*lease, "completed", "ok"),
            (&*lease, "failed", "lease_lost"),
            ("invented", "completed", "lease_lost"),
        ] {
            let ends = json!([{"lease": lease, "outcome": outcome}]);
            let (_, answer, _) = self.insist(Method::POST, "/v1/leases/finish", ends).await;
            assert_eq!(answer["results"], json!([result]));
        }
        self.told.ended("completed", self.queue, kind);
        self.told.job("completed", self.queue, kind);
        self.told.lease_lost(self.queue);
        self.told.lease_lost("__other__");
    }

    /// Takes jobs as often as they may be, and never ends an attempt.
    async fn abandon(&mut self, result: &str) {
        let (kind, is_timed_out) = (KINDS[0], result == "timed_out");
        let (timeout, duration) = if is_timed_out { ("100ms", "10m") } else { ("10m", "1s") };
        let new = json!({"timeout": timeout, "max_attempts": MAX_ATTEMPTS});
        let ids = self.create(kind, vec![new; ABANDONED]).await;
        let request =
            json!({"queues": [self.queue], "max": 100, "duration": duration, "wait": "100ms"});
        for id in ids {
            let mut job = self.job(&id).await;
            while job["state"] != "dead" {
                self.ask(&Method::POST, "/v1/leases", &request).await;
                job = self.job(&id).await;
            }
            assert_eq!(job["failures"], MAX_ATTEMPTS, "{job}");
            for _ in MAX_ATTEMPTS..job["attempt"].as_u64().expect("a number") {
                self.told.started(self.queue, kind); // given back, as its wait ended as it came
                self.told.ended("released", self.queue, kind);
            }
            for event in ["retried", "died"] {
                self.told.started(self.queue, kind);
                self.told.ended(result, self.queue, kind);
                self.told.swept("expired");
                self.told.job(event, self.queue, kind);
            }
            if is_timed_out {
                self.told.swept("promoted"); // else it is ready at once
            }
        }
    }

    /// Has the daemon run commands, which never fail unless for good: an attempt that was not the
    /// last was cut off.
    async fn run_commands(&mut self) {
        let kind = KINDS[0];
        let ids = self.create(kind, CODES.map(|code| json!({"payload": code})).to_vec()).await;
        for (id, code) in ids.iter().zip(CODES) {
            let (result, state, event) = match code {
                0 => ("completed", "completed", "completed"),
                _ => ("failed", "dead", "died"),
            };
            let mut looks = tokio::time::interval(LOOK);
            let mut job = self.job(id).await;
            while job["state"] != state {
                assert_ne!(job["state"], "cancelled", "{job}");
                looks.tick().await;
                job = self.job(id).await;
            }
            for _ in 1..job["attempt"].as_u64().expect("a number") {
                self.told.started(self.queue, kind);
                self.told.ended("lease_expired", self.queue, kind);
                self.told.job("retried", self.queue, kind);
                self.told.swept("promoted");
            }
            self.told.started(self.queue, kind);
            self.told.ended(result, self.queue, kind);
            self.told.job(event, self.queue, kind);
        }
    }
}
