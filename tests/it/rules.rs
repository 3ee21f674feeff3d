//! The rules, alerts and runbooks of `deploy/prometheus` are sound, whole, and tested.

mod causes;
mod documents;
mod faults;
mod hurry;
mod promql;
mod runbooks;
mod scraping;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tallyd::metrics::Rejected;

use crate::tools::{promtool, said};
use documents::{ALERTS, RULES, Rule, path, test_files, yaml};
use promql::{Selector, grouped_labels, selectors};

/// What pages people in job systems: what is told, by which alert, from which series.
const PROMISED: &[(&str, &str, &str)] = &[
    ("oldest ready job", "TallydJobsWait", "tallyd_queue_oldest_ready_timestamp_seconds"),
    ("creating but not starting", "TallydNothingStarts", "queue:tallyd_attempts_started:rate5m"),
    ("failures", "TallydAttemptsFail", "queue:tallyd_attempts_ended:failed_ratio_increase15m"),
    ("dead growing", "TallydDeadJobsGrow", "tallyd_jobs_died_total"),
    (
        "workers saturated",
        "TallydWorkersSaturated",
        "queue:tallyd_queue_workers_limit:busy_ratio_avg5m",
    ),
    ("sweeper stalled", "TallydSweeperStalled", "tallyd_sweeper_last_run_timestamp_seconds"),
    ("leases lost", "TallydLeasesLost", "tallyd_leases_lost_total"),
    ("store errors", "TallydStoreErrors", "tallyd_store_errors_total"),
    ("disk filling", "TallydDiskFilling", "tallyd_store_free_bytes"),
    ("series limit hit", "TallydPairsLimitHit", "tallyd_pairs_overflow_jobs_total"),
    ("tally mismatch", "TallydTallyMismatch", "tallyd_tally_mismatch"),
    ("target down", "TallydDown", "up"),
    ("target absent", "TallydAbsent", "up"),
];

/// Runs promtool, which must be content.
fn promtool_accepts(arguments: &[&str], paths: &[PathBuf]) {
    let paths: Vec<&str> = paths.iter().map(|path| path.to_str().expect("text")).collect();
    let output = promtool(&[arguments, &paths].concat(), "");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn promtool_finds_no_fault_in_the_rules_and_the_configuration() {
    let rules = [path(RULES), path(ALERTS)];
    promtool_accepts(&["check", "rules", "--lint=all", "--lint-fatal"], &rules);
    promtool_accepts(&["check", "config"], &[path("prometheus.yml")]);
}

#[test]
fn every_alert_fires_when_it_should_and_is_quiet_when_not() {
    promtool_accepts(&["test", "rules"], &test_files());
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_is_quiet() {
    let mut tests: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    for document in yaml(&test_files()) {
        let all = document["tests"].as_array().expect("tests").iter();
        for test in all.flat_map(|test| test["alert_rule_test"].as_array().expect("alerts")) {
            let fires = test["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
            tests.entry(test["alertname"].as_str().unwrap().to_owned()).or_default().insert(fires);
        }
    }
    let alerts = Rule::alerts();
    assert!(alerts.len() >= 12, "there are {}", alerts.len());
    let both = BTreeSet::from([false, true]);
    let whole: BTreeMap<_, _> =
        alerts.into_iter().map(|alert| (alert.name, both.clone())).collect();
    assert_eq!(tests, whole);
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_it_means() {
    for alert in Rule::alerts() {
        let (name, severity) = (&*alert.name, alert.text("labels", "severity"));
        assert!(name.starts_with("Tallyd"), "{name}");
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity:?}");
        assert!(alert.rest["for"].is_string(), "{name} has no `for`");
        let summary = alert.text("annotations", "summary");
        assert!(summary.ends_with('.') && !summary.contains("{{"), "{name}: {summary:?}");
        let description = alert.text("annotations", "description");
        assert!(description.contains("{{ $labels."), "{name}: {description:?}");
    }
}

#[test]
fn everything_that_pages_people_in_job_systems_has_an_alert() {
    let alerts = Rule::alerts();
    for (what, name, metric) in PROMISED {
        let alert = alerts.iter().find(|alert| alert.name == *name);
        let alert = alert.unwrap_or_else(|| panic!("{what}: no {name}"));
        let read = selectors(&alert.expression);
        assert!(read.iter().any(|one| one.metric == *metric), "{what}: {}", alert.expression);
    }
}

/// The labels of every series that a rule may read: what the catalogue has, what is recorded.
struct Known(BTreeMap<String, BTreeSet<String>>);

impl Known {
    fn new(recorded: &[Rule]) -> Self {
        let output =
            Command::new(env!("CARGO_BIN_EXE_tallyd")).args(["metrics", "--json"]).output();
        let catalogue = output.expect("it runs").stdout;
        let catalogue: Vec<Value> = serde_json::from_slice(&catalogue).expect("JSON");
        let mut known = BTreeMap::from([("up".to_owned(), BTreeSet::new())]);
        for metric in catalogue {
            let name = metric["name"].as_str().unwrap().to_owned();
            let labels = metric["labels"].as_array().unwrap().iter();
            let mut labels: BTreeSet<_> =
                labels.map(|label| label.as_str().unwrap().to_owned()).collect();
            if metric["type"] == "histogram" {
                known.insert(format!("{name}_sum"), labels.clone());
                known.insert(format!("{name}_count"), labels.clone());
                labels.insert("le".to_owned());
                known.insert(format!("{name}_bucket"), labels);
            } else {
                known.insert(name, labels);
            }
        }
        let mut all = Self(known);
        for rule in recorded {
            let read = selectors(&rule.expression);
            let labels = read.iter().filter_map(|one| all.labels(&one.metric));
            let mut labels: BTreeSet<String> = labels.flatten().cloned().collect();
            for gone in grouped_labels(&rule.expression) {
                labels.remove(&gone);
            }
            all.0.insert(rule.name.clone(), labels);
        }
        all
    }

    fn labels(&self, metric: &str) -> Option<&BTreeSet<String>> {
        self.0.get(metric)
    }

    /// What an expression reads that does not exist.
    fn unknown_in(&self, expression: &str) -> Vec<String> {
        let mut unknown = Vec::new();
        let mut all = BTreeSet::from(["job".to_owned(), "instance".to_owned()]);
        for Selector { metric, matchers, .. } in selectors(expression) {
            let Some(labels) = self.labels(&metric) else {
                unknown.push(metric);
                continue;
            };
            all.extend(labels.iter().cloned());
            let missing = matchers.into_iter().map(|(label, _)| label);
            let missing = missing.filter(|label| label != "job" && !labels.contains(label));
            unknown.extend(missing.map(|label| format!("{metric}{{{label}}}")));
        }
        let grouped = grouped_labels(expression).into_iter();
        unknown.extend(grouped.filter(|label| !all.contains(label)));
        unknown
    }
}

#[test]
fn the_rules_read_series_and_labels_that_exist() {
    let recorded = Rule::recorded();
    let known = Known::new(&recorded);
    for rule in recorded.iter().chain(&Rule::alerts()) {
        let unknown = known.unknown_in(&rule.expression);
        assert!(unknown.is_empty(), "{} reads {unknown:?}", rule.name);
    }
}

#[test]
fn series_and_labels_that_do_not_exist_are_found() {
    let known = Known::new(&[]);
    assert_eq!(
        known.unknown_in("rate(tallyd_job_created_total[5m])"),
        ["tallyd_job_created_total"]
    );
    assert_eq!(known.unknown_in("queue:tallyd_jobs:sum > 0"), ["queue:tallyd_jobs:sum"]);
    assert_eq!(
        known.unknown_in(r#"tallyd_leases_lost_total{kind="a"}"#),
        ["tallyd_leases_lost_total{kind}"]
    );
    assert_eq!(known.unknown_in("sum without (knd) (tallyd_jobs)"), ["knd"]);
    assert_eq!(known.unknown_in("tallyd_job_wait_seconds"), ["tallyd_job_wait_seconds"]);
    assert_eq!(known.unknown_in("sum by (le) (tallyd_job_wait_seconds_bucket)"), [""; 0]);
}

/// What stands in an alert as of one moment, which a scrape that failed would reset.
fn unwrapped(expression: &str) -> Vec<String> {
    let is_of_a_window = |name: &str| {
        let end = name.trim_end_matches(['m', 'h']);
        end.len() < name.len() && end.ends_with(|letter: char| letter.is_ascii_digit())
    };
    let all = selectors(expression).into_iter();
    let bare = all.filter(|one| !one.has_window && one.metric != "up");
    bare.map(|one| one.metric).filter(|name| !is_of_a_window(name)).collect()
}

#[test]
fn a_scrape_that_failed_resets_no_alert() {
    for alert in Rule::alerts() {
        let unwrapped = unwrapped(&alert.expression);
        assert!(unwrapped.is_empty(), "{} reads one moment of {unwrapped:?}", alert.name);
    }
    assert_eq!(unwrapped("tallyd_queue_paused == 1"), ["tallyd_queue_paused"]);
    assert_eq!(unwrapped("queue:tallyd_jobs:sum > 1"), ["queue:tallyd_jobs:sum"]);
}

#[test]
fn recorded_names_have_three_parts_and_rules_aggregate_without() {
    for rule in Rule::recorded() {
        let parts: Vec<&str> = rule.name.split(':').collect();
        assert!(parts.len() == 3 && parts[1].starts_with("tallyd_"), "{}", rule.name);
    }
    for rule in Rule::recorded().iter().chain(&Rule::alerts()) {
        let by = rule.expression.contains(" by ");
        assert!(!by, "{} drops the labels of its target: {}", rule.name, rule.expression);
    }
}

#[test]
fn every_reason_of_a_refusal_has_one_alert_but_draining() {
    let mut told: Vec<String> = Vec::new();
    for alert in Rule::alerts() {
        let refusals = selectors(&alert.expression).into_iter();
        let refusals = refusals.filter(|one| one.metric == "tallyd_rejected_total");
        for (_, reasons) in refusals.flat_map(|one| one.matchers) {
            told.extend(reasons.split('|').map(str::to_owned));
        }
    }
    told.push("draining".to_owned());
    told.sort();
    let mut reasons = Rejected::ALL.map(|(_, reason)| reason.to_owned());
    reasons.sort();
    assert_eq!(told, reasons);
}

#[test]
fn the_folder_has_what_an_operator_copies_and_nothing_else() {
    let entries = std::fs::read_dir(path("")).expect("there is the folder");
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: BTreeSet<String> = names.collect();
    let expected = ["RUNBOOKS.md", "prometheus.yml", ALERTS, RULES];
    assert_eq!(names, expected.map(str::to_owned).into());
}
