//! The clients of the crash test: what they do until the daemon has gone, and what they remember.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::fixture::{PATIENCE, Scrape};
use crate::oracle::{Entry, Scrapes};

/// What all clients remember, whatever happens to the daemon.
pub struct Journal {
    file: File,
    known: Mutex<Known>,
    /// A permit for each answer that the daemon has given.
    answers: Semaphore,
    next_mark: AtomicU64,
}

#[derive(Default)]
struct Known {
    entries: Vec<Entry>,
    scrapes: Scrapes,
    /// Ids that may be cancelled.
    ids: Vec<String>,
    /// Creates with a unique key that nobody has answered.
    unanswered: Vec<u64>,
    /// Leases whose end nobody has acknowledged.
    unfinished: Vec<(String, &'static str)>,
}

/// The daemon has gone, or goes.
#[derive(Debug)]
struct Gone;

impl Journal {
    pub fn new(file: &Path) -> Self {
        Self {
            file: File::create(file).unwrap(),
            known: Mutex::default(),
            answers: Semaphore::new(0),
            next_mark: AtomicU64::new(1),
        }
    }

    fn note(&self, entry: Entry) {
        writeln!(&self.file, "{entry:?}").unwrap();
        let mut known = self.known.lock().unwrap();
        if let Entry::Created { id, .. } = &entry {
            known.ids.push(id.clone());
        }
        known.entries.push(entry);
    }

    /// Resolves when so many more answers have come.
    pub async fn answered(&self, number: u32) {
        let answers = tokio::time::timeout(PATIENCE, self.answers.acquire_many(number)).await;
        answers.expect("the clients get answers").unwrap().forget();
    }

    pub fn see(&self, scrape: Scrape) {
        self.known.lock().unwrap().scrapes.see(scrape);
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.known.lock().unwrap().entries.clone()
    }

    pub fn scrapes(&self) -> Scrapes {
        std::mem::take(&mut self.known.lock().unwrap().scrapes)
    }
}

/// One client with its own connections.
pub struct Client {
    journal: Arc<Journal>,
    http: reqwest::Client,
    url: String,
    random: StdRng,
}

impl Client {
    pub fn new(journal: &Arc<Journal>, url: &str, seed: u64) -> Self {
        let (http, random) = (crate::fixture::client(), StdRng::seed_from_u64(seed));
        Self { journal: journal.clone(), http, url: url.to_owned(), random }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<(StatusCode, Value), Gone> {
        let request = self.http.request(method, format!("{}{path}", self.url)).timeout(PATIENCE);
        let request = if body.is_null() { request } else { request.json(body) };
        let response = request.send().await.map_err(|_| Gone)?;
        let status = response.status();
        let body = response.bytes().await.map_err(|_| Gone)?;
        self.journal.answers.add_permits(1);
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn post(&self, path: &str, body: Value) -> Result<(StatusCode, Value), Gone> {
        self.ask(Method::POST, path, &body).await
    }

    /// Creates jobs one by one, in batches, and with unique keys.
    pub async fn create(mut self) {
        while self.create_some().await.is_ok() {}
    }

    async fn create_some(&mut self) -> Result<(), Gone> {
        let unanswered = self.journal.known.lock().unwrap().unanswered.pop();
        if let Some(mark) = unanswered {
            return self.create_unique(mark).await;
        }
        match self.random.random_range(0..10) {
            0..=2 => {
                let mark = self.mark();
                self.create_unique(mark).await
            }
            3..=4 => self.create_batch().await,
            _ => {
                let mark = self.mark();
                self.journal.note(Entry::Creating { marks: vec![mark], unique: false });
                let job = self.job(mark);
                let (status, job) = self.post("/v1/jobs", job).await?;
                assert_eq!(status, StatusCode::CREATED, "{job}");
                self.note_created(mark, &job["id"]);
                Ok(())
            }
        }
    }

    fn mark(&self) -> u64 {
        self.journal.next_mark.fetch_add(1, Ordering::Relaxed)
    }

    /// A job that says its mark, in one queue or another.
    fn job(&mut self, mark: u64) -> Value {
        let queue = match self.random.random_range(0..10) {
            0..=1 => "brief",
            2..=4 => "work",
            _ => "outside",
        };
        let fate = if self.chance(20) { "fail" } else { "work" };
        let payload = json!({"mark": mark, "fate": fate});
        let mut job = json!({"queue": queue, "kind": fate, "payload": payload});
        if self.chance(10) {
            job["delay"] = "20ms".into();
        }
        job
    }

    fn note_created(&self, mark: u64, id: &Value) {
        let id = id.as_str().expect("a job has an id").to_owned();
        self.journal.note(Entry::Created { mark, id });
    }

    /// Asks with the same key until it is answered, in a later cycle if need be.
    async fn create_unique(&mut self, mark: u64) -> Result<(), Gone> {
        let mut job = json!({"queue": "outside", "kind": "unique", "payload": {"mark": mark}});
        job["unique_key"] = format!("mark-{mark}").into();
        self.journal.note(Entry::Creating { marks: vec![mark], unique: true });
        let Ok((status, job)) = self.post("/v1/jobs", job).await else {
            self.journal.known.lock().unwrap().unanswered.push(mark);
            return Err(Gone);
        };
        assert!(status.is_success(), "{status}: {job}");
        self.note_created(mark, &job["id"]);
        Ok(())
    }

    async fn create_batch(&mut self) -> Result<(), Gone> {
        let marks: Vec<u64> = (0..self.random.random_range(1..20)).map(|_| self.mark()).collect();
        let jobs: Vec<Value> = marks.iter().map(|mark| self.job(*mark)).collect();
        self.journal.note(Entry::Creating { marks: marks.clone(), unique: false });
        let (status, answer) = self.post("/v1/jobs/batch", jobs.into()).await?;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        let ids = answer["ids"].as_array().expect("a batch has ids");
        assert_eq!(ids.len(), marks.len());
        marks.iter().zip(ids).for_each(|(mark, id)| self.note_created(*mark, id));
        Ok(())
    }

    /// Leases jobs and ends them one way or another; of short leases it lets many run out.
    pub async fn work(mut self, queue: &str, duration: &str) {
        while self.work_some(queue, duration).await.is_ok() {}
    }

    async fn work_some(&mut self, queue: &str, duration: &str) -> Result<(), Gone> {
        self.finish_unfinished().await?;
        let max = self.random.random_range(1..6);
        let request = json!({"queues": [queue], "max": max, "duration": duration, "wait": "1s"});
        let (status, leased) = self.post("/v1/leases", request).await?;
        assert_eq!(status, StatusCode::OK, "{leased}");
        let brief = queue == "brief";
        let mut ends = Vec::new();
        for job in leased["jobs"].as_array().expect("a list") {
            let text = |key: &str| job[key].as_str().expect(key).to_owned();
            let (id, lease) = (text("id"), text("lease"));
            let attempt = job["attempt"].as_u64().expect("a number");
            self.journal.note(Entry::Leased { id, attempt, lease: lease.clone(), brief });
            let outcome = match self.random.random_range(0..10) {
                0..=1 => "failed",
                2 => "released",
                _ => "completed",
            };
            if !brief || self.chance(50) {
                ends.push((lease, outcome));
            }
        }
        self.finish(ends.clone()).await?;
        if self.chance(20) {
            self.finish(ends).await?;
        }
        Ok(())
    }

    async fn finish_unfinished(&mut self) -> Result<(), Gone> {
        let unfinished = std::mem::take(&mut self.journal.known.lock().unwrap().unfinished);
        self.finish(unfinished).await
    }

    /// Reports ends; those without an answer stay unfinished.
    async fn finish(&mut self, ends: Vec<(String, &'static str)>) -> Result<(), Gone> {
        let item = |(lease, outcome): &(String, &'static str)| {
            self.journal.note(Entry::Ending { lease: lease.clone(), outcome });
            json!({"lease": lease, "outcome": outcome})
        };
        let items: Vec<Value> = ends.iter().map(item).collect();
        let Ok((status, answer)) = self.post("/v1/leases/finish", items.into()).await else {
            self.journal.known.lock().unwrap().unfinished.extend(ends);
            return Err(Gone);
        };
        assert_eq!(status, StatusCode::OK, "{answer}");
        let answers = answer["results"].as_array().expect("a list");
        for ((lease, outcome), answer) in ends.into_iter().zip(answers) {
            let answer = answer.as_str().expect("an answer").to_owned();
            self.journal.note(Entry::Ended { lease, outcome, answer });
        }
        Ok(())
    }

    /// Cancels jobs in whatever state they are.
    pub async fn cancel(mut self) {
        while self.cancel_one().await.is_ok() {}
    }

    async fn cancel_one(&mut self) -> Result<(), Gone> {
        let id = {
            let known = self.journal.known.lock().unwrap();
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

    async fn tidy_up_some(&mut self) -> Result<(), Gone> {
        let (status, page) =
            self.ask(Method::GET, "/v1/jobs?state=dead&limit=5", &Value::Null).await?;
        assert_eq!(status, StatusCode::OK, "{page}");
        for job in page["jobs"].as_array().expect("a list") {
            let path = format!("/v1/jobs/{}", job["id"].as_str().expect("an id"));
            if self.chance(50) {
                let (status, job) = self.post(&format!("{path}/requeue"), Value::Null).await?;
                assert!(status.is_success() || status == StatusCode::CONFLICT, "{status}: {job}");
                continue;
            }
            let (status, job) = self.ask(Method::GET, &path, &Value::Null).await?;
            assert_eq!(status, StatusCode::OK, "{job}");
            let id = job["id"].as_str().expect("an id").to_owned();
            let mark = job["payload"]["mark"].as_u64().expect("its creator's mark");
            self.journal.note(Entry::Discarding { mark });
            let (status, answer) = self.ask(Method::DELETE, &path, &Value::Null).await?;
            match status {
                StatusCode::NO_CONTENT => self.journal.note(Entry::Discarded { id }),
                other => assert_eq!(other, StatusCode::CONFLICT, "{answer}"),
            }
        }
        Ok(())
    }

    /// Scrapes at full speed.
    pub async fn scrape(self) {
        while let Ok(scrape) = self.scrape_once().await {
            self.journal.see(scrape);
        }
    }

    async fn scrape_once(&self) -> Result<Scrape, Gone> {
        let request = self.http.get(format!("{}/metrics", self.url)).timeout(PATIENCE);
        let response = request.send().await.map_err(|_| Gone)?;
        Ok(Scrape::parse(&response.text().await.map_err(|_| Gone)?))
    }

    /// Asks once more for all that was never answered; this time everything is.
    pub async fn settle(mut self) {
        let unanswered = std::mem::take(&mut self.journal.known.lock().unwrap().unanswered);
        for mark in unanswered {
            self.create_unique(mark).await.expect("the daemon stays");
        }
        self.finish_unfinished().await.expect("the daemon stays");
    }
}
