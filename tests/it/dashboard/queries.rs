//! Rules about the queries: whose numbers they read, in which way, and that Prometheus reads them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::promql::{Selector, grouping_labels, selectors, words};
use super::{IDENTITIES, Query, dashboard, finds, finds_in_query, holds, queries};
use crate::exposition::catalogue;
use crate::tools::{promtool, said};

/// Complaints about selectors, each with its place.
fn about_selectors(
    dashboard: &Value,
    is_wrong: impl Fn(&Query, &Selector<'_>) -> bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for query in queries(dashboard) {
        let found = selectors(&query.expr);
        let found = found.iter().filter(|selector| is_wrong(&query, selector));
        wrong.extend(found.map(|s| format!("{} {}: {s:?}", query.panel, query.letter)));
    }
    wrong
}

fn is_metric(word: &str) -> bool {
    word == "up" || ["tallyd_", "process_"].iter().any(|prefix| word.starts_with(prefix))
}

fn chosen_targets(dashboard: &Value) -> Vec<String> {
    let mut wrong = about_selectors(dashboard, |_, selector| {
        let chosen = [["job", "=~", "\"$job\""], ["instance", "=~", "\"$instance\""]];
        !chosen.iter().all(|matcher| selector.has(*matcher))
    });
    for query in queries(dashboard) {
        let bare =
            words(&query.expr).into_iter().filter(|(word, next)| is_metric(word) && *next != "{");
        wrong.extend(bare.map(|(word, _)| format!("{}: {word} has no selector", query.panel)));
    }
    wrong
}

#[test]
fn every_selector_is_of_the_chosen_jobs_and_instances() {
    holds(chosen_targets);
    let selector = |text: &str| format!("sum(tallyd_jobs{text})");
    for wrong in [
        "",
        "{job=~\"$job\"}",
        "{instance=~\"$instance\"}",
        "{job=\"$job\", instance=~\"$instance\"}",
    ] {
        finds_in_query(chosen_targets, "Dead jobs", &selector(wrong));
    }
    let place = "/annotations/list/0/expr";
    finds(chosen_targets, place, json!("1000 * process_start_time_seconds"));
}

/// Metrics that any process has need more: `$job` may be everything that Prometheus scrapes.
fn tallyd_only(dashboard: &Value) -> Vec<String> {
    let is_foreign = |name: &str| name == "up" || name.starts_with("process_");
    let mut wrong = Vec::new();
    for query in queries(dashboard) {
        let expr = &query.expr;
        let is_joined =
            expr.contains("and on (job, instance)") && expr.contains("tallyd_build_info{");
        if selectors(expr).iter().any(|selector| is_foreign(selector.name)) && !is_joined {
            wrong.push(format!("{} shows other programs too: {expr}", query.panel));
        }
    }
    wrong
}

#[test]
fn nothing_of_other_programs_is_shown() {
    holds(tallyd_only);
    finds_in_query(tallyd_only, "Memory", r#"process_resident_memory_bytes{job=~"$job"}"#);
    finds_in_query(tallyd_only, "Up", r#"up{job=~"$job"}"#);
}

/// The labels of each metric of the catalogue; a histogram is its three series.
fn labels() -> BTreeMap<String, Vec<String>> {
    let mut labels = BTreeMap::from([("up".to_owned(), Vec::new())]);
    for metric in catalogue() {
        let name = metric["name"].as_str().unwrap().to_owned();
        let mut own: Vec<String> = serde_json::from_value(metric["labels"].clone()).unwrap();
        own.extend(["job".to_owned(), "instance".to_owned()]);
        if metric["type"] == "histogram" {
            let bucket = [own.clone(), vec!["le".to_owned()]].concat();
            labels
                .extend([(format!("{name}_bucket"), bucket), (format!("{name}_sum"), own.clone())]);
            labels.insert(format!("{name}_count"), own);
        } else {
            labels.insert(name, own);
        }
    }
    labels.get_mut("up").unwrap().extend(["job".to_owned(), "instance".to_owned()]);
    labels
}

fn chosen_queues(dashboard: &Value) -> Vec<String> {
    let labels = labels();
    about_selectors(dashboard, |query, selector| {
        let has_queue = labels.get(selector.name).is_some_and(|l| l.contains(&"queue".to_owned()));
        let is_chosen = selector.has(["queue", "=~", "\"$queue\""]);
        let must_be_chosen = has_queue && query.panel != IDENTITIES;
        is_chosen != must_be_chosen
    })
}

#[test]
fn every_number_of_a_queue_is_of_the_chosen_queues_but_the_identities_are_of_all() {
    holds(chosen_queues);
    let all = r#"sum(tallyd_jobs{job=~"$job", instance=~"$instance"})"#;
    finds_in_query(chosen_queues, "Dead jobs", all);
    let chosen = r#"sum(tallyd_jobs{job=~"$job", queue=~"$queue"})"#;
    finds_in_query(chosen_queues, IDENTITIES, chosen);
}

fn rate_windows(dashboard: &Value) -> Vec<String> {
    about_selectors(dashboard, |query, selector| match (selector.call, selector.range) {
        (Some("rate"), range) => range != Some("$__rate_interval"),
        // How often something happened while the dashboard looks: a single number.
        (Some("increase"), range) => range != Some("$__range") || !query.is_instant,
        (Some("irate" | "delta" | "idelta" | "deriv"), _) => true,
        _ => false,
    })
}

#[test]
fn every_rate_is_over_the_rate_interval() {
    holds(rate_windows);
    for wrong in
        ["rate(a_total{}[5m])", "irate(a_total{}[$__rate_interval])", "increase(a_total{}[1h])"]
    {
        finds_in_query(rate_windows, "Dead jobs", wrong);
    }
    finds_in_query(rate_windows, "Commits", "increase(a_total{}[$__range])");
}

fn raw_counters(dashboard: &Value) -> Vec<String> {
    let kept = |name: &str| catalogue().iter().any(|m| m["name"] == name && m["kept"] == "ledger");
    about_selectors(dashboard, |query, selector| {
        let ends = ["_total", "_bucket", "_sum", "_count"];
        let is_counter = ends.iter().any(|end| selector.name.ends_with(end));
        let is_rate = ["rate", "increase"].map(Some).contains(&selector.call);
        let may_be_raw = query.panel == IDENTITIES && kept(selector.name);
        is_counter && !is_rate && !may_be_raw
    })
}

#[test]
fn counters_are_read_as_rates_only_but_for_the_identities_of_the_ledger() {
    holds(raw_counters);
    finds_in_query(raw_counters, "Dead jobs", "sum(tallyd_jobs_died_total{})");
    finds_in_query(
        raw_counters,
        "Commit duration",
        "sum(tallyd_store_commit_duration_seconds_bucket{})",
    );
    finds_in_query(raw_counters, IDENTITIES, "sum(tallyd_store_errors_total{})");
}

fn unknown_names(dashboard: &Value) -> Vec<String> {
    let labels = labels();
    let mut wrong = about_selectors(dashboard, |_, selector| {
        let Some(own) = labels.get(selector.name) else { return true };
        selector.matchers.iter().any(|[label, ..]| !own.iter().any(|one| one == label))
    });
    for query in queries(dashboard) {
        let names: Vec<_> = selectors(&query.expr).iter().map(|selector| selector.name).collect();
        let own = |label: &str| {
            let mut all = names.iter().filter_map(|name| labels.get(*name)).flatten();
            all.any(|one| one == label)
        };
        let unknown = grouping_labels(&query.expr).into_iter().filter(|label| !own(label));
        wrong.extend(unknown.map(|label| format!("{} groups by {label}", query.panel)));
    }
    wrong
}

#[test]
fn every_metric_is_in_the_catalogue_with_the_labels_that_are_used() {
    holds(unknown_names);
    for wrong in [
        "tallyd_job{}",
        "queue:tallyd_jobs:sum{}",
        "tallyd_jobs{route=\"/\"}",
        "tallyd_job_wait_seconds{}",
        "sum by (route) (tallyd_jobs{})",
        "sum by (le) (tallyd_job_wait_seconds_sum{})",
    ] {
        finds_in_query(unknown_names, "Dead jobs", wrong);
    }
}

/// A query with its variables replaced by these, as Grafana does.
pub(super) fn substitute(query: &str, variables: &[(&str, &str)]) -> String {
    let replace = |query: String, (name, value): &(&str, &str)| query.replace(name, value);
    let query = variables.iter().fold(query.to_owned(), replace);
    assert!(!query.contains('$'), "a variable is left: {query}");
    query
}

fn unreadable(dashboard: &Value) -> Vec<String> {
    let variables = [
        ("$__rate_interval", "1m"),
        ("$__range", "3h"),
        ("$job", "(tallyd|other)"),
        ("$instance", r"127\\.0\\.0\\.1:8255"),
        ("$queue", ".+"),
    ];
    let rule =
        |query: &Query| json!({"record": "query", "expr": substitute(&query.expr, &variables)});
    let rules: Vec<_> = queries(dashboard).iter().map(rule).collect();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    // JSON is YAML too.
    let groups = json!({"groups": [{"name": "queries", "rules": rules}]});
    std::fs::write(file.path(), groups.to_string()).expect("it can be written");
    let checked = promtool(&["check", "rules", "--lint=none", file.path().to_str().unwrap()], "");
    if checked.status.success() { Vec::new() } else { vec![said(&checked)] }
}

#[test]
fn prometheus_can_read_every_query() {
    holds(unreadable);
    finds_in_query(unreadable, "Dead jobs", "sum(tallyd_jobs{)");
    finds_in_query(unreadable, "Dead jobs", "rate(tallyd_jobs_died_total{})");
    assert!(queries(&dashboard()).len() > 60, "all of them were looked at");
}
