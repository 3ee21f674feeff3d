//! What a real Prometheus has seen of a daemon under load, through `kill -9` and a drain, is what the
//! clients were told, to the last event.

mod client;
mod told;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::client::{Client, Does};
use self::told::{Events, Told};
use crate::between::Between;
use crate::fixture::{Daemon, PATIENCE, scaled};
use crate::prometheus::{Prometheus, Series, scraping};

/// A queue for each client. All pairs exist from the start, but for the kind that the limit leaves
/// no room for.
const CONFIG: &str = r#"
max_pairs = 7

[defaults]
backoff = { initial = "1ms", max = "20ms" }
keep_completed = "365d"

[queues.a]
kinds = ["k0", "k1"]

[queues.b]
kinds = ["k0", "k1"]

[queues.brief]
kinds = ["k0"]

[queues.slow]
kinds = ["k0"]

[queues.commands]
kinds = ["k0"]
concurrency = 2
exec = { command = ["/bin/sh", "-c", "read -r code; exit $code"] }
"#;

const CLIENTS: [(&str, Does); 5] = [
    ("a", Does::Everything),
    ("b", Does::Everything),
    ("brief", Does::Abandons("lease_expired")),
    ("slow", Does::Abandons("timed_out")),
    ("commands", Does::Commands),
];

/// How often Prometheus scrapes, in seconds.
const INTERVAL: f64 = 0.5;

/// Each kill comes so many answers later in the rounds of the clients.
const LATER: u32 = 50;

/// Every counter of the ledger, but for how the names begin and end.
const LEDGER: [&str; 13] = [
    "jobs_created",
    "jobs_completed",
    "jobs_cancelled",
    "jobs_discarded",
    "jobs_retried",
    "jobs_died",
    "jobs_requeued",
    "attempts_started",
    "attempts_ended",
    "leases_lost",
    "duplicates",
    "sweeper_jobs",
    "pairs_overflow_jobs",
];

/// I1, I2 and I3: what each says must be 0.
const IDENTITIES: [&str; 4] = [
    "tallyd_jobs_created_total - sum without (state) (tallyd_jobs) - tallyd_jobs_completed_total \
     - tallyd_jobs_cancelled_total - tallyd_jobs_discarded_total",
    "tallyd_attempts_started_total - sum without (state) (tallyd_jobs{state=\"running\"}) \
     - sum without (result) (tallyd_attempts_ended_total)",
    "sum without (result) (tallyd_attempts_ended_total{result=\"completed\"}) \
     - tallyd_jobs_completed_total",
    "sum without (result) (tallyd_attempts_ended_total{result=~\"failed|timed_out|lease_expired\"}) \
     - tallyd_jobs_retried_total - tallyd_jobs_died_total",
];

/// The daemon with its clients.
struct Load {
    daemon: Daemon,
    between: Between,
    url: watch::Sender<String>,
    answers: Arc<Semaphore>,
    rounds: Vec<Arc<Semaphore>>,
    told: Arc<Told>,
}

impl Load {
    async fn start() -> (Self, Vec<Client>) {
        let daemon = Daemon::start(CONFIG);
        let (url, _) = watch::channel(daemon.url(""));
        let told = Arc::new(Told::new(&daemon.path("clients.log")));
        let answers = Arc::new(Semaphore::new(0));
        let clients = CLIENTS.map(|(queue, does)| Client {
            queue,
            does,
            told: told.clone(),
            http: crate::fixture::client(),
            url: url.subscribe(),
            answers: answers.clone(),
            rounds: Arc::new(Semaphore::new(0)),
            next: 0,
        });
        let rounds = clients.iter().map(|client| client.rounds.clone()).collect();
        let between = Between::start(&daemon).await;
        (Self { daemon, between, url, answers, rounds, told }, clients.into())
    }

    /// Kills the daemon when every client has finished a round, so that nothing is without its
    /// answer from before, and has got some answers more; starts it again when Prometheus knows.
    async fn kill(&mut self, prometheus: &Prometheus, answers: u32) {
        for rounds in &self.rounds {
            until(rounds, 1).await;
        }
        self.answers.forget_permits(self.answers.available_permits());
        until(&self.answers, answers).await;
        self.daemon.kill();
        prometheus.until("up == 0").await;
        for rounds in &self.rounds {
            rounds.forget_permits(rounds.available_permits());
        }
        self.restart(prometheus).await;
    }

    async fn restart(&mut self, prometheus: &Prometheus) {
        self.daemon.restart();
        self.between.now_to(&self.daemon);
        self.url.send_replace(self.daemon.url(""));
        prometheus.scraped().await;
    }

    /// Drains the daemon, and has the next one prune all that has ended.
    async fn prune(&mut self, prometheus: &Prometheus) {
        assert_eq!(self.daemon.stop().code(), Some(0));
        self.daemon.configure(&CONFIG.replace("[defaults]", "[defaults]\nmax_completed = 0"));
        self.restart(prometheus).await;
        let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
        for state in ["completed", "cancelled"] {
            let path = format!("/v1/jobs?limit=1&state={state}");
            while self.daemon.get(&path).await.1["jobs"] != Value::Array(vec![]) {
                looks.tick().await;
            }
        }
        prometheus.scraped().await;
    }
}

async fn until(permits: &Semaphore, number: u32) {
    let acquired = tokio::time::timeout(PATIENCE, permits.acquire_many(number)).await;
    acquired.expect("the clients get on").unwrap().forget();
}

/// The counter of a series, as the clients' log has it.
fn name(series: &Series) -> String {
    let own = ["__name__", "instance", "job"];
    let labels = series.labels.iter().filter(|(label, _)| !own.contains(&&***label));
    let labels: Vec<_> = labels.map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let name = series.label("__name__");
    if labels.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", labels.join(",")) }
}

/// By how much each counter of the ledger has grown, from its first sample to its last. All were
/// scraped before `begun`, and none was ever less than before.
async fn grown(prometheus: &Prometheus, begun: f64) -> Events {
    let mut grown = Events::new();
    for counter in LEDGER {
        let samples = format!("tallyd_{counter}_total[1h]");
        let all = prometheus.query(&samples).await;
        for series in &all {
            let (first, before) = series.samples[0];
            assert!(first < begun, "{series:?} begins after {begun}");
            grown.insert(name(series), (series.last() - before) as u64);
        }
        let resets = prometheus.query(&format!("resets({samples})")).await;
        assert_eq!(resets.len(), all.len(), "{counter}");
        let reset: Vec<_> = resets.iter().filter(|series| series.last() != 0.0).collect();
        assert!(reset.is_empty(), "{counter}: {reset:?}");
    }
    let since_start = "resets(tallyd_http_requests_total{route=\"/v1/jobs/batch\"}[1h])";
    assert!(prometheus.query(since_start).await[0].last() >= 1.0, "others start with the process");
    grown
}

/// Where what Prometheus has seen is not what clients were told.
fn differences(grown: &Events, told: &Events) -> Vec<String> {
    let names: BTreeSet<_> = grown.keys().chain(told.keys()).collect();
    let number = |events: &Events, name| events.get(name).copied().unwrap_or_default();
    let both = names.into_iter().map(|name| (name, number(grown, name), number(told, name)));
    let different = both.filter(|(_, grown, told)| grown != told);
    different.map(|(name, grown, told)| format!("{name} grew by {grown}, not {told}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_has_seen_every_event_that_clients_were_told() {
    let (mut load, mut clients) = Load::start().await;
    for client in &mut clients {
        client.calm_rounds().await;
    }
    let before = load.told.events();
    let prometheus = Prometheus::start(&scraping(&load.between.url(), "500ms"), &[]);
    prometheus.scraped().await;
    let begun = prometheus.now().await;

    let (stop, mut working) = (CancellationToken::new(), JoinSet::new());
    for client in clients {
        working.spawn(client.work(stop.clone()));
    }
    for number in 0..scaled(3) {
        load.kill(&prometheus, number * LATER).await;
    }
    stop.cancel();
    let mut clients = working.join_all().await;
    for client in &mut clients {
        client.calm_rounds().await;
    }
    load.prune(&prometheus).await;
    let mut told = load.told.events();
    let ended = ["tallyd_jobs_completed_total", "tallyd_jobs_cancelled_total"];
    let ended = told.iter().filter(|(name, _)| ended.iter().any(|ended| name.starts_with(ended)));
    let pruned = ended.map(|(_, number)| number).sum();
    for (name, number) in before {
        *told.get_mut(&name).unwrap() -= number;
    }
    told.insert("tallyd_sweeper_jobs_total{action=\"pruned\"}".to_owned(), pruned);

    assert_eq!(differences(&grown(&prometheus, begun).await, &told), Vec::<String>::new());
    assert_identities(&prometheus, begun).await;
}

/// Whenever there was a daemon, every identity holds, for every pair.
async fn assert_identities(prometheus: &Prometheus, begun: f64) {
    let end = prometheus.now().await;
    let range =
        async |expression: &str| prometheus.query_range(expression, begun, end, INTERVAL).await;
    let pairs = range("count(tallyd_jobs_created_total)").await.remove(0).samples;
    let seen: f64 = pairs.iter().map(|(_, pairs)| pairs).sum();
    assert!(pairs.len() > 10, "there were scrapes: {pairs:?}");
    for identity in IDENTITIES {
        let said = range(identity).await;
        let samples = || said.iter().flat_map(|series| &series.samples);
        assert_eq!(samples().count() as f64, seen, "{identity}");
        let broken: Vec<_> =
            said.iter().filter(|s| s.samples.iter().any(|(_, v)| *v != 0.0)).collect();
        assert!(broken.is_empty(), "{identity}: {broken:?}");
    }
}
