//! Every query of the dashboard against a real Prometheus that scraped a real tallyd.

use std::collections::BTreeSet;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::promql::selectors;
use super::queries::substitute;
use super::{IDENTITIES, Query, dashboard, list, panels, queries, text};
use crate::exposition::{EVERYTHING, make_everything_happen};
use crate::fixture::Daemon;
use crate::prometheus::{Prometheus, Series, scraping};
use crate::receiver::{Receiver, answer};

const INTERVAL: &str = "250ms";

/// What is chosen in the dashboard; Grafana escapes a value and joins several like this.
struct Choice {
    instance: String,
    queue: &'static str,
}

impl Choice {
    fn everything() -> Self {
        Self { instance: ".+".into(), queue: ".+" }
    }

    fn of(daemon: &Daemon, queue: &'static str) -> Self {
        Self { instance: address(daemon).replace('.', r"\\."), queue }
    }

    fn substitute(&self, query: &str) -> String {
        let variables = [("$__rate_interval", "1m"), ("$__range", "2m"), ("$job", ".+")];
        let chosen = [("$instance", &*self.instance), ("$queue", self.queue)];
        substitute(query, &[&variables[..], &chosen[..]].concat())
    }
}

fn address(daemon: &Daemon) -> String {
    daemon.url("").replace("http://", "")
}

/// What a query says: at once, or over the last seconds, as its panel asks.
async fn ask(prometheus: &Prometheus, query: &Query, choice: &Choice) -> Vec<Series> {
    let expr = choice.substitute(&query.expr);
    if query.is_instant {
        return prometheus.query(&expr).await;
    }
    let now = prometheus.now().await;
    prometheus.query_range(&expr, now - 2.0, now, 0.5).await
}

/// The only value of the query with this letter in this panel.
async fn value(prometheus: &Prometheus, panel: &str, letter: &str, choice: &Choice) -> f64 {
    let all = queries(&dashboard());
    let query = all.iter().find(|query| query.panel == panel && query.letter == letter);
    let said = ask(prometheus, query.expect("there is such a query"), choice).await;
    assert_eq!(said.len(), 1, "{panel} {letter}: {said:?}");
    said[0].last()
}

/// One job pushed for each answer, and what becomes of them.
async fn push(daemon: &Daemon) {
    for (kind, state) in [("ok", "completed"), ("busy", "retrying"), ("gone", "dead")] {
        let job = json!({"queue": "pushed", "kind": kind});
        let (_, job) = daemon.post("/v1/jobs", job).await;
        let id = job["id"].as_str().expect("it is created");
        if state == "completed" {
            until_pruned(daemon, id).await;
        } else {
            daemon.job_when(id, |job| job["state"] == state).await;
        }
    }
}

/// Completed jobs are not kept here, so one is done when it is gone.
async fn until_pruned(daemon: &Daemon, id: &str) {
    let deadline = tokio::time::Instant::now() + crate::fixture::PATIENCE;
    while daemon.get(&format!("/v1/jobs/{id}")).await.0 != 404 {
        assert!(tokio::time::Instant::now() < deadline, "it is still there");
        tokio::task::yield_now().await;
    }
}

/// A daemon in which everything has happened, and happened again while Prometheus looked.
async fn busy() -> (Daemon, Prometheus, Receiver) {
    let answers = ["200 OK", "500 Oh", "410 Gone"].map(|status| answer(status, "", ""));
    let receiver = Receiver::start(&[&answers[..], &answers[..]].concat()).await;
    let daemon = Daemon::start(&format!(
        "max_pairs = 9\n{EVERYTHING}[queues.pushed]\nmax_depth = 10\nhttp = {{ url = \"{}\" }}\n",
        receiver.url
    ));
    make_everything_happen(&daemon, 1).await;
    push(&daemon).await;
    daemon.post("/v1/queues/other/resume", Value::Null).await;
    let stranger = "process_resident_memory_bytes 1\nprocess_open_fds 1\nprocess_max_fds 1\n\
                    process_cpu_seconds_total 1\nprocess_start_time_seconds 1\n";
    let stranger = answer("200 OK", "content-type: text/plain; version=0.0.4\r\n", stranger);
    let stranger = Receiver::start(&[stranger]).await.url;
    let host = stranger.trim_start_matches("http://").split('/').next().unwrap();
    let config = scraping(&daemon.url(""), INTERVAL)
        + &format!("- {{job_name: stranger, static_configs: [{{targets: ['{host}']}}]}}\n");
    let prometheus = Prometheus::start(&config, &[]);
    // It hears of its targets one by one.
    prometheus.until("count(up == 1) == 2").await;
    make_everything_happen(&daemon, 2).await;
    push(&daemon).await;
    prometheus.scraped().await;
    prometheus.scraped().await;
    (daemon, prometheus, receiver)
}

/// What is wrong with what a query says: nothing, something of others, or beyond its unit.
fn wrong(query: &Query, unit: &str, said: &[Series], daemon: &Daemon) -> Vec<String> {
    let place = format!("{} {}", query.panel, query.letter);
    let numbers = || said.iter().flat_map(|series| series.samples.iter().map(|sample| sample.1));
    let mut wrong = Vec::new();
    if !numbers().any(f64::is_finite) {
        wrong.push(format!("{place} says nothing: {}", query.expr));
    }
    let most = match unit {
        "percentunit" => 1.0,
        "s" => 600.0, // No test runs longer.
        _ => f64::MAX,
    };
    let beyond = numbers().find(|number| number.is_finite() && !(0.0..=most).contains(number));
    wrong.extend(beyond.map(|number| format!("{place} says {number} {unit}")));
    for series in said {
        let instance = series.label("instance");
        if !instance.is_empty() && instance != address(daemon) {
            wrong.push(format!("{place} shows {instance}"));
        }
        let names = query.legend.split("{{").skip(1).filter_map(|part| part.split("}}").next());
        let unnamed = names.filter(|name| series.label(name).is_empty());
        wrong.extend(unnamed.map(|name| format!("{place}: a series without {name} in its legend")));
    }
    wrong
}

/// The unit of a panel; of a table, whose columns differ, none.
fn unit(dashboard: &Value, title: &str) -> String {
    let of_title = |panel: &&Value| panel["title"] == title && panel["type"] != "table";
    let panel = panels(dashboard).find(of_title);
    let is_heatmap = |panel: &Value| panel["type"] == "heatmap";
    let unit =
        panel.filter(|panel| !is_heatmap(panel)).map(|p| &p["fieldConfig"]["defaults"]["unit"]);
    unit.map_or("", text).to_owned()
}

#[tokio::test]
async fn every_panel_shows_something_sensible_for_all_queues_for_several_and_for_one() {
    let (mut daemon, prometheus, _receiver) = busy().await;
    let dashboard = dashboard();
    let mut found = Vec::new();
    for choice in [
        Choice::everything(),
        Choice::of(&daemon, "(pushed|default|small)"),
        Choice::of(&daemon, "pushed"),
    ] {
        for query in queries(&dashboard) {
            let said = ask(&prometheus, &query, &choice).await;
            let unit = unit(&dashboard, &query.panel);
            found.extend(wrong(&query, &unit, &said, &daemon));
            let chosen = |series: &&Series| {
                let queue = series.label("queue");
                !queue.is_empty() && choice.queue != ".+" && !choice.queue.contains(queue)
            };
            found.extend(said.iter().find(chosen).map(|s| format!("{}: {s:?}", query.panel)));
        }
    }
    assert!(found.is_empty(), "{} found:\n{}", found.len(), found.join("\n"));

    let all = Choice::everything();
    let (_, stats) = daemon.get("/v1/stats").await;
    let now = async |panel: &str, letter: &str| value(&prometheus, panel, letter, &all).await;
    assert_eq!(Some(now("Dead jobs", "A").await), stats["jobs_dead"].as_f64());
    assert!(now("Dead jobs", "B").await >= 2.0, "two died while Prometheus looked");
    assert_eq!(now("Paused queues", "A").await, 1.0);
    assert_eq!(now("Up", "A").await, 1.0);
    for (panel, letter) in [("Store errors", "A"), ("Restarts", "A"), (IDENTITIES, "A")]
        .into_iter()
        .chain(["B", "C", "D"].map(|letter| (IDENTITIES, letter)))
    {
        assert_eq!(now(panel, letter).await, 0.0, "{panel} {letter}");
    }
    let ratio = now("Failed attempts", "A").await;
    assert!(ratio > 0.2 && ratio < 0.9, "{ratio}");

    assert_eq!(daemon.stop().code(), Some(0));
    prometheus.until(r#"max_over_time(up{job="tallyd"}[2s]) == 0"#).await;
    assert_eq!(now("Up", "A").await, 0.0, "and it is still shown");
}

/// Values that queries select by must be such as the daemon exports; one that is misspelt in an
/// alternative would only be missed.
#[tokio::test]
async fn every_value_that_is_selected_by_exists() {
    let daemon = Daemon::start(EVERYTHING);
    make_everything_happen(&daemon, 1).await;
    let exposition = daemon.scrape().await.text;
    let mut missing = BTreeSet::new();
    for query in queries(&dashboard()) {
        for [label, _, value] in selectors(&query.expr).into_iter().flat_map(|s| s.matchers) {
            let values = value.trim_matches('"').split('|');
            let plain = values.filter(|value| !value.contains(['$', '[']));
            let wanted = plain.map(|value| format!("{label}=\"{value}\""));
            missing.extend(wanted.filter(|wanted| !exposition.contains(wanted)));
        }
    }
    assert_eq!(missing, BTreeSet::new());
}

#[tokio::test]
async fn no_panel_of_an_idle_tallyd_is_empty_and_nothing_waits() {
    let daemon = Daemon::start("");
    let created = json!({"kind": "k"});
    daemon.post("/v1/jobs", created).await;
    daemon.post("/v1/queues/default/cancel", json!({})).await;
    let prometheus = Prometheus::start(&scraping(&daemon.url(""), INTERVAL), &[]);
    prometheus.scraped().await;
    prometheus.scraped().await;
    let dashboard = dashboard();
    let mut empty = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = text(&panel["title"]);
        let mut series = 0;
        for query in queries(&dashboard).iter().filter(|query| query.panel == title) {
            series += ask(&prometheus, query, &Choice::everything()).await.len();
        }
        assert!(!list(&panel["targets"]).is_empty());
        if series == 0 {
            empty.insert(title);
        }
    }
    assert_eq!(empty, BTreeSet::new());
    let all = queries(&dashboard);
    let oldest = all.iter().find(|query| query.panel == "Oldest ready job, by queue").unwrap();
    let ages = ask(&prometheus, oldest, &Choice::of(&daemon, "default")).await;
    assert_eq!(ages.iter().map(Series::last).collect::<Vec<_>>(), [0.0]);
}

#[tokio::test]
async fn the_oldest_ready_job_is_told_in_seconds_and_a_broken_ledger_by_its_identity() {
    let mut daemon = Daemon::start("");
    let (_, job) = daemon.post("/v1/jobs", json!({"kind": "k"})).await;
    let run_at: jiff::Timestamp = job["run_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(daemon.stop().code(), Some(0));
    let file = Connection::open(daemon.path("tallyd.db")).expect("it can be opened");
    let broken = "UPDATE ledger SET created = created + 1, started = started + 20, \
                  ended_failed = ended_failed + 3, ended_completed = ended_completed + 4";
    file.execute_batch(broken).expect("the ledger can be broken");
    drop(file);
    daemon.restart();
    let prometheus = Prometheus::start(&scraping(&daemon.url(""), INTERVAL), &[]);
    prometheus.scraped().await;
    let all = Choice::everything();
    let mut said = Vec::new();
    for letter in ["A", "B", "C"] {
        said.push(value(&prometheus, IDENTITIES, letter, &all).await);
    }
    assert_eq!(said, [1.0, 20.0 - 3.0 - 4.0, 3.0 + 4.0]);

    let one = Choice::of(&daemon, "default");
    let age = value(&prometheus, "Oldest ready job, by queue", "A", &one).await;
    let since = prometheus.now().await - run_at.as_millisecond() as f64 / 1e3;
    assert!(age > since - 5.0 && age <= since, "{age} of {since}");
}
