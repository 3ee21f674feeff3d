//! The clients of the crash test: what they do until the daemon has gone.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::fixture::{Daemon, PATIENCE, Scrape};
use crate::journal::{End, Journal};
use crate::oracle::{Entry, Many};

/// The daemon has gone, or goes, as it must.
#[derive(Debug)]
pub struct Gone;

/// Queues whose dead jobs are discarded together: their attempts are known from the journal.
const DISCARDING: [&str; 2] = ["outside", "brief"];

const QUEUES: [&str; 4] = ["outside", "brief", "work", "pushed"];

/// One of those who ask at the same time.
pub struct Client {
    pub journal: Arc<Journal>,
    http: reqwest::Client,
    url: String,
    random: StdRng,
}

impl Client {
    pub fn new(journal: &Arc<Journal>, daemon: &Daemon, seed: u64) -> Self {
        let (http, random) = (daemon.client.clone(), StdRng::seed_from_u64(seed));
        Self { journal: journal.clone(), http, url: daemon.url(""), random }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    /// A broken connection, which says that the daemon has gone, and is wrong before its kill.
    fn gone(&self, error: &reqwest::Error) -> Gone {
        assert!(self.journal.may_end(), "the daemon must answer: {error:?}");
        Gone
    }

    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<(StatusCode, Value), Gone> {
        let request = self.http.request(method, format!("{}{path}", self.url)).timeout(PATIENCE);
        let request = if body.is_null() { request } else { request.json(body) };
        let response = request.send().await.map_err(|error| self.gone(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.gone(&error))?;
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        // Whose store has failed, or who drains, ends.
        if body["error"]["code"] == "store_stopped" || body["error"]["code"] == "draining" {
            assert!(self.journal.may_end(), "the daemon must go on: {body}");
            return Err(Gone);
        }
        self.journal.note_answer();
        Ok((status, body))
    }

    async fn post(&self, path: &str, body: Value) -> Result<(StatusCode, Value), Gone> {
        self.ask(Method::POST, path, &body).await
    }

    /// Creates jobs one by one, in batches, and with unique keys.
    pub async fn create(mut self) {
        while self.create_some().await.is_ok() {}
    }

    async fn create_some(&mut self) -> Result<(), Gone> {
        let unanswered = self.journal.known().unanswered.pop();
        if let Some(mark) = unanswered {
            return self.create_unique(mark).await;
        }
        match self.random.random_range(0..10) {
            0..=2 => self.create_unique(self.journal.next_mark()).await,
            3..=4 => {
                let number = self.random.random_range(1..10);
                let mut jobs = Vec::new();
                for _ in 0..number {
                    let mark = self.journal.next_mark();
                    jobs.push((mark, self.job(mark)));
                }
                self.create_batch(jobs).await
            }
            _ => {
                let mark = self.journal.next_mark();
                let job = self.job(mark);
                self.create_one(mark, job).await
            }
        }
    }

    pub async fn create_one(&mut self, mark: u64, job: Value) -> Result<(), Gone> {
        self.journal.note(Entry::Creating { marks: vec![mark], unique: false });
        let (status, job) = self.post("/v1/jobs", job).await?;
        assert_eq!(status, StatusCode::CREATED, "{job}");
        self.note_created(mark, &job["id"]);
        Ok(())
    }

    /// A job that says its mark, in one queue or another.
    fn job(&mut self, mark: u64) -> Value {
        let queue = match self.random.random_range(0..20) {
            0..=1 => "brief",
            2 => "work",
            3..=5 => "pushed",
            _ => "outside",
        };
        let fate = if self.chance(20) { "fail" } else { "work" };
        let payload = json!({"mark": mark, "fate": fate});
        let mut job = json!({"queue": queue, "kind": fate, "payload": payload});
        if self.chance(10) {
            job["delay"] = "20ms".into();
        }
        if self.chance(50) {
            job["max_attempts"] = 4.into(); // as the configuration has it, but here the oracle sees it
        }
        job
    }

    fn note_created(&self, mark: u64, id: &Value) {
        let id = id.as_str().expect("a job has an id").to_owned();
        self.journal.note(Entry::Created { mark, id });
    }

    /// Asks with the same key until it is answered, in a later cycle if need be.
    pub async fn create_unique(&mut self, mark: u64) -> Result<(), Gone> {
        let mut job = json!({"queue": "outside", "kind": "unique", "payload": {"mark": mark}});
        job["unique_key"] = format!("mark-{mark}").into();
        self.journal.note(Entry::Creating { marks: vec![mark], unique: true });
        let Ok((status, job)) = self.post("/v1/jobs", job).await else {
            self.journal.known().unanswered.push(mark);
            return Err(Gone);
        };
        assert!(status.is_success(), "{status}: {job}");
        self.note_created(mark, &job["id"]);
        Ok(())
    }

    /// Creates jobs with these marks, all at once.
    pub async fn create_batch(&mut self, jobs: Vec<(u64, Value)>) -> Result<(), Gone> {
        let (marks, jobs): (Vec<u64>, Vec<Value>) = jobs.into_iter().unzip();
        self.journal.note(Entry::Creating { marks: marks.clone(), unique: false });
        let (status, answer) = self.post("/v1/jobs/batch", jobs.into()).await?;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        let ids = answer["ids"].as_array().expect("a batch has ids");
        assert_eq!(ids.len(), marks.len());
        marks.iter().zip(ids).for_each(|(mark, id)| self.note_created(*mark, id));
        Ok(())
    }

    /// Leases jobs and ends them one way or another; of brief leases it lets many run out, and
    /// reports their ends nevertheless.
    pub async fn work(mut self, queue: &str, duration: &str, brief: Option<Duration>) {
        while self.work_some(queue, duration, brief).await.is_ok() {}
    }

    async fn work_some(
        &mut self,
        queue: &str,
        duration: &str,
        brief: Option<Duration>,
    ) -> Result<(), Gone> {
        self.finish_unfinished().await?;
        // So many that hardly any wait, and one whose lease has run out is given out again soon.
        let most = if brief.is_some() { 50 } else { 6 };
        let max = self.random.random_range(1..most);
        let (mut leases, mut ends) = (Vec::new(), Vec::new());
        for (id, lease) in self.lease(queue, max, duration, brief).await? {
            leases.push(lease.clone());
            // The lease before this one has run out, and whoever had it reports now.
            ends.extend(self.journal.known().late.remove(&id));
            let outcome = match self.random.random_range(0..10) {
                0..=1 => "failed",
                2 => "released",
                _ => "completed",
            };
            if brief.is_some() && self.chance(50) {
                self.journal.known().late.insert(id, (lease, outcome));
            } else {
                ends.push((lease, outcome));
            }
        }
        if self.chance(30) {
            self.renew(leases.clone()).await?;
        }
        self.finish(ends.clone()).await?;
        if self.chance(20) {
            self.finish(ends).await?;
        }
        if self.chance(10) {
            self.renew(leases).await?;
        }
        Ok(())
    }

    /// Leases jobs of a queue, waiting for them; answers with their ids and leases.
    pub async fn lease(
        &mut self,
        queue: &str,
        max: u32,
        duration: &str,
        brief: Option<Duration>,
    ) -> Result<Vec<(String, String)>, Gone> {
        let request = json!({"queues": [queue], "max": max, "duration": duration, "wait": "1s"});
        let asked_at = self.journal.now();
        let (status, leased) = self.post("/v1/leases", request).await?;
        let at = self.journal.now();
        assert_eq!(status, StatusCode::OK, "{leased}");
        let mut leases = Vec::new();
        for job in leased["jobs"].as_array().expect("a list") {
            let text = |key: &str| job[key].as_str().expect(key).to_owned();
            let number = |value: &Value| value.as_u64().expect("a number");
            let (id, lease) = (text("id"), text("lease"));
            leases.push((id.clone(), lease.clone()));
            let mark = number(&job["payload"]["mark"]);
            let attempt = number(&job["attempt"]);
            self.journal.note(Entry::Leased { id, mark, attempt, lease, brief, asked_at, at });
        }
        Ok(leases)
    }

    /// Asks for as much time as the leases had at first.
    pub async fn renew(&mut self, leases: Vec<String>) -> Result<(), Gone> {
        for lease in &leases {
            let entry = Entry::Renewing { lease: lease.clone(), at: self.journal.now() };
            self.journal.note(entry);
        }
        let (status, answer) = self.post("/v1/leases/renew", json!({"leases": leases})).await?;
        let at = self.journal.now();
        assert_eq!(status, StatusCode::OK, "{answer}");
        for (lease, answer) in leases.into_iter().zip(results(&answer)) {
            self.journal.note(Entry::Renewed { lease, answer, at });
        }
        Ok(())
    }

    async fn finish_unfinished(&mut self) -> Result<(), Gone> {
        let unfinished = std::mem::take(&mut self.journal.known().unfinished);
        self.finish(unfinished).await
    }

    /// Reports ends; those without an answer stay unfinished.
    pub async fn finish(&mut self, ends: Vec<End>) -> Result<(), Gone> {
        let item = |(lease, outcome): &End| {
            self.journal.note(Entry::Ending { lease: lease.clone(), outcome });
            json!({"lease": lease, "outcome": outcome})
        };
        let items: Vec<Value> = ends.iter().map(item).collect();
        let Ok((status, answer)) = self.post("/v1/leases/finish", items.into()).await else {
            self.journal.known().unfinished.extend(ends);
            return Err(Gone);
        };
        let at = self.journal.now();
        assert_eq!(status, StatusCode::OK, "{answer}");
        for ((lease, outcome), answer) in ends.into_iter().zip(results(&answer)) {
            self.journal.note(Entry::Ended { lease, outcome, answer, at });
        }
        Ok(())
    }

    /// Cancels jobs in whatever state they are.
    pub async fn cancel(mut self) {
        while self.cancel_one().await.is_ok() {}
    }

    pub async fn cancel_one(&mut self) -> Result<(), Gone> {
        let id = {
            let known = self.journal.known();
            // One of the newest: most others have ended.
            let newest = known.ids.len().saturating_sub(10)..known.ids.len();
            (!newest.is_empty()).then(|| known.ids[self.random.random_range(newest)].clone())
        };
        let Some(id) = id else {
            return self.ask(Method::GET, "/-/ready", &Value::Null).await.map(drop);
        };
        self.journal.note(Entry::Cancelling { id: id.clone() });
        let (status, job) = self.post(&format!("/v1/jobs/{id}/cancel"), Value::Null).await?;
        match status {
            StatusCode::OK => self.journal.note(Entry::Cancelled { id }),
            // Ended before, or dead and removed.
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => {}
            other => panic!("{other}: {job}"),
        }
        Ok(())
    }

    /// Puts dead jobs back, or removes them.
    pub async fn tidy_up(mut self) {
        while self.tidy_up_some().await.is_ok() {}
    }

    pub async fn tidy_up_some(&mut self) -> Result<(), Gone> {
        let (status, page) =
            self.ask(Method::GET, "/v1/jobs?state=dead&limit=5", &Value::Null).await?;
        assert_eq!(status, StatusCode::OK, "{page}");
        for job in page["jobs"].as_array().expect("a list") {
            let id = job["id"].as_str().expect("an id").to_owned();
            match self.random.random_range(0..10) {
                0..=4 => self.requeue(id).await?,
                5..=8 => self.discard(id).await?,
                // Dead no more, so the discard is refused, if no worker is very quick.
                _ => {
                    self.requeue(id.clone()).await?;
                    self.discard(id).await?;
                }
            }
        }
        Ok(())
    }

    async fn requeue(&mut self, id: String) -> Result<(), Gone> {
        let (status, job) = self.post(&format!("/v1/jobs/{id}/requeue"), Value::Null).await?;
        match status {
            StatusCode::OK => {
                let attempt = job["attempt"].as_u64().expect("a number");
                self.journal.note(Entry::Requeued { id, attempt });
            }
            // Dead no more, or discarded with many others.
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => {}
            other => panic!("{other}: {job}"),
        }
        Ok(())
    }

    async fn discard(&mut self, id: String) -> Result<(), Gone> {
        let path = format!("/v1/jobs/{id}");
        let (status, job) = self.ask(Method::GET, &path, &Value::Null).await?;
        if status == StatusCode::NOT_FOUND {
            return Ok(()); // discarded with many others
        }
        assert_eq!(status, StatusCode::OK, "{job}");
        let mark = job["payload"]["mark"].as_u64().expect("its creator's mark");
        self.journal.note(Entry::Discarding { mark });
        let (status, answer) = self.ask(Method::DELETE, &path, &Value::Null).await?;
        match status {
            StatusCode::NO_CONTENT => self.journal.note(Entry::Discarded { id }),
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => {
                self.journal.note(Entry::DiscardRefused { mark });
            }
            other => panic!("{other}: {answer}"),
        }
        Ok(())
    }

    /// Has things happen to many jobs at once.
    pub async fn act_on_many(mut self) {
        while self.act_on_some().await.is_ok() {}
    }

    pub async fn act_on_some(&mut self) -> Result<(), Gone> {
        let (action, path, queues) = match self.random.random_range(0..10) {
            0..=1 => (Many::Cancel, "cancel", &QUEUES[..]),
            2..=6 => (Many::Requeue, "requeue-dead", &QUEUES[..]),
            _ => (Many::Discard, "discard-dead", &DISCARDING[..]),
        };
        let queue = queues[self.random.random_range(0..queues.len())];
        let kind = if self.chance(20) { "work" } else { "fail" };
        let most = self.random.random_range(1..6);
        self.journal.note(Entry::AskingMany { action, queue, kind, most });
        let request = json!({"kind": kind, "limit": most});
        let (status, answer) = self.post(&format!("/v1/queues/{queue}/{path}"), request).await?;
        match status {
            StatusCode::OK => {
                let count = answer["count"].as_u64().expect("a number");
                self.journal.note(Entry::ToldMany { action, count, most });
            }
            // Nobody has used the queue yet.
            other => assert_eq!(other, StatusCode::NOT_FOUND, "{answer}"),
        }
        Ok(())
    }

    /// Scrapes at full speed.
    pub async fn scrape(self) {
        while let Ok(scrape) = self.scrape_once().await {
            self.journal.see(scrape);
        }
    }

    pub async fn scrape_once(&self) -> Result<Scrape, Gone> {
        let request = self.http.get(format!("{}/metrics", self.url)).timeout(PATIENCE);
        let response = request.send().await.map_err(|error| self.gone(&error))?;
        Ok(Scrape::parse_ledger(&response.text().await.map_err(|error| self.gone(&error))?))
    }

    /// Asks once more for all that was never answered; this time everything is.
    pub async fn settle(mut self) {
        self.repeat_unanswered().await.expect("the daemon stays");
        let late = std::mem::take(&mut self.journal.known().late);
        self.finish(late.into_values().collect()).await.expect("the daemon stays");
    }

    /// Asks once more for creates with a key and for ends that were never answered.
    pub async fn repeat_unanswered(&mut self) -> Result<(), Gone> {
        let unanswered = std::mem::take(&mut self.journal.known().unanswered);
        for mark in unanswered {
            self.create_unique(mark).await?;
        }
        self.finish_unfinished().await
    }
}

/// What became of each lease of a request.
fn results(answer: &Value) -> impl Iterator<Item = String> {
    let results = answer["results"].as_array().expect("a list").iter();
    results.map(|result| result.as_str().expect("an answer").to_owned())
}
