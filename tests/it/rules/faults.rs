//! Alerts fire for real: a daemon for each fault, all beside each other, scraped by one Prometheus
//! with the shipped rules in a hurry.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::{JoinSet, LocalSet};

use super::causes as c;
use super::documents::Rule;
use super::hurry::hurried;
use crate::fixture::Daemon;
use crate::prometheus::Prometheus;

/// How long all alerts may take: far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a fault does, for ever.
type Cause = Pin<Box<dyn Future<Output = ()>>>;

/// A fault, how it is caused, and the alerts that it raises: all of these and no others. The last
/// ones it may raise, by how quick the machine is.
type Fault = (&'static str, fn(Stage) -> Cause, &'static [&'static str], &'static [&'static str]);

const FAULTS: &[Fault] = &[
    ("well", |stage| Box::pin(c::well(stage)), &[], &[]),
    ("killed", |stage| Box::pin(c::killed(stage)), &["TallydDown"], &[]),
    ("stopped", |stage| Box::pin(c::stopped(stage)), &["TallydDown"], &[]),
    ("flapping", |stage| Box::pin(c::flapping(stage)), &["TallydFlapping"], &[]),
    (
        "restarting",
        |stage| Box::pin(c::restarting(stage)),
        &["TallydRestarting", "TallydRestartsOften"],
        &["TallydFlapping"],
    ),
    (
        "workers-gone",
        |stage| Box::pin(c::workers_gone(stage)),
        &["TallydJobsWait", "TallydJobsStuck", "TallydNothingStarts"],
        &[],
    ),
    (
        "receiver-fails",
        |stage| Box::pin(c::receiver_fails(stage)),
        &["TallydAttemptsFail", "TallydMostAttemptsFail"],
        &[],
    ),
    ("jobs-die", |stage| Box::pin(c::jobs_die(stage)), &["TallydDeadJobsGrow"], &[]),
    ("new-kinds-die", |stage| Box::pin(c::new_kinds_die(stage)), &["TallydDeadJobsGrow"], &[]),
    (
        "attempts-last",
        |stage| Box::pin(c::attempts_last(stage)),
        &["TallydJobsWait", "TallydJobsStuck", "TallydWorkersSaturated"],
        &[],
    ),
    ("late-worker", |stage| Box::pin(c::late_worker(stage)), &["TallydLeasesLost"], &[]),
    (
        "queue-full",
        |stage| Box::pin(c::queue_full(stage)),
        &["TallydQueueNearlyFull", "TallydRequestsRefused"],
        &[],
    ),
    // Its jobs wait, which nobody is told of as long as it is paused.
    ("paused", |stage| Box::pin(c::paused(stage)), &["TallydQueuePaused"], &[]),
    (
        "store-held",
        |stage| Box::pin(c::store_held(stage)),
        &["TallydSweeperStalled", "TallydStoreErrors"],
        &[],
    ),
    ("no-backups", |stage| Box::pin(c::no_backups(stage)), &["TallydStoreErrors"], &[]),
    ("slow-disk", |stage| Box::pin(c::slow_disk(stage)), &["TallydCommitsSlow"], &[]),
    ("disk-filling", |stage| Box::pin(c::disk_filling(stage)), &["TallydDiskFilling"], &[]),
    (
        "disk-full",
        |stage| Box::pin(c::disk_full(stage)),
        &["TallydDiskNearlyFull", "TallydCreatesRefused"],
        &["TallydDiskFilling", "TallydStoreErrors"],
    ),
    (
        "log-held",
        |stage| Box::pin(c::log_held(stage)),
        &["TallydLogNearLimit", "TallydCreatesRefused"],
        &[],
    ),
    ("wrong-caller", |stage| Box::pin(c::wrong_caller(stage)), &["TallydRequestsWrong"], &[]),
    ("many-kinds", |stage| Box::pin(c::many_kinds(stage)), &["TallydPairsLimitHit"], &[]),
    ("tampered", |stage| Box::pin(c::tampered(stage)), &["TallydTallyMismatch"], &[]),
];

/// What is shown by another test, below.
const ELSEWHERE: &[&str] = &["TallydAbsent", "TallydGone"];

/// What no fault from outside can raise: promtool alone shows that it fires.
const ONLY_BY_PROMTOOL: &[&str] = &[];

/// Where a fault joins the others.
pub struct Stage {
    name: &'static str,
    targets: Rc<RefCell<Vec<(&'static str, String)>>>,
    all: Rc<Barrier>,
}

impl Stage {
    /// Waits until all daemons serve and are scraped; this one is scraped at its own address.
    pub async fn scraped(&self, daemon: &Daemon) {
        self.scraped_at(&daemon.url("")).await;
    }

    /// The same at another.
    pub async fn scraped_at(&self, url: &str) {
        let address = url.trim_start_matches("http://").to_owned();
        self.targets.borrow_mut().push((self.name, address));
        self.all.wait().await; // all serve
        self.all.wait().await; // all are scraped
    }
}

/// The alerts that have fired until now, by instance.
async fn fired(prometheus: &Prometheus) -> BTreeMap<String, BTreeSet<String>> {
    let ever =
        r#"count by (instance, alertname) (last_over_time(ALERTS{alertstate="firing"}[1h]))"#;
    let mut fired: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for series in prometheus.query(ever).await {
        let alert = series.label("alertname").to_owned();
        fired.entry(series.label("instance").to_owned()).or_default().insert(alert);
    }
    fired
}

/// A line for each fault that has not raised what it should, or has raised anything else.
fn differences(fired: &BTreeMap<String, BTreeSet<String>>, is_over: bool) -> Vec<String> {
    let none = BTreeSet::new();
    let mut lines = Vec::new();
    for (name, _, must, may) in FAULTS {
        let fired = fired.get(*name).unwrap_or(&none);
        let missing: Vec<_> = must.iter().filter(|alert| !fired.contains(**alert)).collect();
        let known = |alert: &&String| must.contains(&&***alert) || may.contains(&&***alert);
        let others: Vec<_> = fired.iter().filter(|alert| !known(alert)).collect();
        if !missing.is_empty() || (is_over && !others.is_empty()) {
            lines.push(format!("{name}: not raised {missing:?}, raised too {others:?}"));
        }
    }
    lines
}

/// Lets all faults happen, and waits until each has raised its alerts.
async fn watch(targets: &RefCell<Vec<(&'static str, String)>>, all: &Barrier) {
    all.wait().await;
    let (config, files) = hurried(&targets.borrow());
    let files = files.each_ref().map(|(name, text)| (*name, &**text));
    let prometheus = Prometheus::start(&config, &files);
    prometheus.until(&format!("count(up == 1) == {}", FAULTS.len())).await;
    all.wait().await;
    let mut looks = tokio::time::interval(Duration::from_millis(500));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        looks.tick().await;
        let left = differences(&fired(&prometheus).await, false);
        if left.is_empty() {
            break;
        }
        if tokio::time::Instant::now() >= deadline {
            panic!("{}\n{:#?}", left.join("\n"), prometheus.alerts().await);
        }
    }
    // Whatever has fired until the last of them did.
    let differences = differences(&fired(&prometheus).await, true);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
async fn each_fault_raises_the_alerts_that_belong_to_it_and_no_others() {
    let (targets, all) = (Rc::default(), Rc::new(Barrier::new(FAULTS.len() + 1)));
    let local = LocalSet::new();
    let watched = local.run_until(async {
        let mut faults = JoinSet::new();
        for (name, cause, ..) in FAULTS {
            let stage = Stage { name, targets: Rc::clone(&targets), all: all.clone() };
            faults.spawn_local(cause(stage));
        }
        tokio::select! {
            () = watch(&targets, &all) => {}
            Some(ended) = faults.join_next() => panic!("a fault ended: {ended:?}"),
        }
        faults.shutdown().await;
    });
    watched.await;
}

#[tokio::test]
async fn a_prometheus_without_a_tallyd_says_so() {
    let (config, files) = hurried(&[]);
    let files = files.each_ref().map(|(name, text)| (*name, &**text));
    let prometheus = Prometheus::start(&config, &files);
    prometheus.until(r#"ALERTS{alertname="TallydAbsent", alertstate="firing"}"#).await;
    let fired = fired(&prometheus).await;
    assert_eq!(fired, BTreeMap::from([(String::new(), ["TallydAbsent".to_owned()].into())]));
}

#[tokio::test]
async fn a_tallyd_that_prometheus_does_not_look_for_any_more_is_told() {
    let daemons = [Daemon::start(""), Daemon::start("")];
    let address = |daemon: &Daemon| daemon.url("").trim_start_matches("http://").to_owned();
    let [stays, goes] = daemons.each_ref().map(address);
    let (both, files) = hurried(&[("stays", stays.clone()), ("goes", goes)]);
    let files = files.each_ref().map(|(name, text)| (*name, &**text));
    let prometheus = Prometheus::start(&both, &files);
    prometheus.until("job:tallyd_up:count10m == 2").await;
    prometheus.reload(&hurried(&[("stays", stays)]).0);
    prometheus.until(r#"ALERTS{alertname="TallydGone", alertstate="firing"}"#).await;
    let fired = fired(&prometheus).await;
    assert_eq!(fired, BTreeMap::from([(String::new(), ["TallydGone".to_owned()].into())]));
}

#[test]
fn every_alert_is_raised_by_a_fault_or_listed_as_one_that_cannot_be() {
    let raised = FAULTS.iter().flat_map(|(_, _, must, _)| must.iter());
    let shown = raised.chain(ELSEWHERE).chain(ONLY_BY_PROMTOOL);
    let shown: BTreeSet<String> = shown.map(|name| (*name).to_owned()).collect();
    let alerts = Rule::alerts().into_iter().map(|alert| alert.name);
    assert_eq!(shown, alerts.collect());
}

#[test]
fn an_alert_too_many_or_too_few_is_found() {
    let fired = |instance: &str, alerts: &[&str]| {
        let alerts = alerts.iter().map(|alert| (*alert).to_owned()).collect();
        (instance.to_owned(), alerts)
    };
    let all = FAULTS.iter().map(|(name, _, must, _)| fired(name, must));
    let mut all: BTreeMap<String, BTreeSet<String>> = all.collect();
    assert_eq!(differences(&all, true), [""; 0]);
    all.extend([fired("well", &["TallydDown"])]);
    all.extend([fired("killed", &[])]);
    assert_eq!(differences(&all, true).len(), 2);
    assert_eq!(differences(&all, false).len(), 1, "one may still come");
}
