//! Load that makes every kind of change that is counted, and notes which ones were answered.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{post, round};

/// Few kinds, so that their counts change in most scrapes.
const KINDS: u32 = 6;

/// The load of one test.
#[derive(Default)]
pub(super) struct Load {
    pub(super) rounds: AtomicU32,
    pub(super) stop: CancellationToken,
    /// How many jobs operators changed, by how.
    operated: Mutex<BTreeMap<&'static str, u64>>,
}

/// What operators do to one job, and to many.
const OPERATED: [&str; 6] =
    ["requeue", "discard", "bulk cancel", "bulk requeue", "bulk discard", "permanent failure"];

impl Load {
    /// Rounds until it is stopped.
    pub(super) async fn run(&self, url: &str) {
        let client = crate::fixture::client();
        while !self.stop.is_cancelled() {
            let number = self.rounds.fetch_add(1, Ordering::Relaxed);
            round(&client, url, number % KINDS).await;
            self.operate(&client, url, number).await;
        }
    }

    /// Lets jobs die, puts some back and removes others; a lease is left to expire.
    async fn operate(&self, client: &Client, url: &str, number: u32) {
        let lease = json!({"queues": ["outside"], "max": 5, "duration": "1s"});
        let leased = post(client, url, "/v1/leases", &lease).await;
        // The lease of the first one expires.
        let dying: Vec<&Value> = leased["jobs"].as_array().unwrap().iter().skip(1).collect();
        let fail =
            |job: &&Value| json!({"lease": job["lease"], "outcome": "failed", "permanent": true});
        let ends: Vec<Value> = dying.iter().map(fail).collect();
        post(client, url, "/v1/leases/finish", &ends.into()).await;
        self.note("permanent failure", dying.len() as u64);
        for (job, action) in dying.iter().zip(["requeue", "discard"]) {
            self.change(client, url, job["id"].as_str().unwrap(), action).await;
        }
        // Only one kind is cancelled, so that leases of others live to expire.
        let (action, path, body) = match number % 8 {
            0 => ("bulk requeue", "requeue-dead", json!({"limit": 3})),
            1 => ("bulk cancel", "cancel", json!({"kind": "k1", "limit": 50})),
            _ => ("bulk discard", "discard-dead", json!({"limit": 100})),
        };
        let path = format!("/v1/queues/outside/{path}");
        let changed = post(client, url, &path, &body).await;
        self.note(action, changed["count"].as_u64().unwrap());
    }

    /// Puts a dead job back or removes it, unless another one was quicker.
    async fn change(&self, client: &Client, url: &str, id: &str, action: &'static str) {
        let (method, end) = match action {
            "discard" => (Method::DELETE, ""),
            _ => (Method::POST, "/requeue"),
        };
        let path = format!("{url}/v1/jobs/{id}{end}");
        let status = client.request(method, path).send().await.unwrap().status();
        assert!(status.is_success() || [404, 409].contains(&status.as_u16()), "{action}: {status}");
        self.note(action, status.is_success().into());
    }

    fn note(&self, action: &'static str, jobs: u64) {
        *self.operated.lock().unwrap().entry(action).or_default() += jobs;
    }

    /// What operators never did.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let operated = self.operated.lock().unwrap();
        OPERATED
            .into_iter()
            .filter(|action| operated.get(action).is_none_or(|jobs| *jobs == 0))
            .collect()
    }
}
