//! The dashboard for Grafana, which cannot be installed where the tests run.
//!
//! In its place: `rules` looks at the file, `queries` at its PromQL, each seen to find what is wrong
//! in a broken copy; `live` asks a real Prometheus every query; `provisioning` follows a copy of
//! the folder as Grafana would.

mod live;
mod promql;
mod provisioning;
mod queries;
mod rules;

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The panel whose queries compare counters themselves: identities are exact, and rates are not.
const IDENTITIES: &str = "Accounting (all must be 0)";

/// A query, and where it stands.
struct Query {
    panel: String,
    letter: String,
    expr: String,
    legend: String,
    is_instant: bool,
}

/// The folder that is shipped.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana")
}

fn dashboard_text() -> String {
    std::fs::read_to_string(folder().join("tallyd.json")).expect("the dashboard can be read")
}

fn dashboard() -> Value {
    serde_json::from_str(&dashboard_text()).expect("the dashboard is JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Its panels, without the headings between them.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(&dashboard["panels"]).iter().filter(|panel| panel["type"] != "row")
}

/// The queries of all panels, and those that mark events in them.
fn queries(dashboard: &Value) -> Vec<Query> {
    let query = |panel: &Value, target: &Value| Query {
        panel: text(panel).to_owned(),
        letter: text(&target["refId"]).to_owned(),
        expr: text(&target["expr"]).to_owned(),
        legend: text(&target["legendFormat"]).to_owned(),
        is_instant: target["instant"] == true,
    };
    let mut all = Vec::new();
    for panel in panels(dashboard) {
        all.extend(list(&panel["targets"]).iter().map(|target| query(&panel["title"], target)));
    }
    let marks = list(&dashboard["annotations"]["list"]).iter();
    all.extend(marks.map(|mark| query(&mark["name"], mark)));
    all
}

/// A rule says what is wrong with a dashboard.
type Rule = fn(&Value) -> Vec<String>;

/// The rule has nothing to say about the dashboard that is shipped.
fn holds(rule: Rule) {
    let found = rule(&dashboard());
    assert!(found.is_empty(), "{} found:\n{}", found.len(), found.join("\n"));
}

/// The rule finds one thing wrong with a copy in which the value at this place is replaced; the
/// rest is still right.
fn finds(rule: Rule, place: &str, wrong: Value) {
    let mut copy = dashboard();
    let value = copy.pointer_mut(place).unwrap_or_else(|| panic!("there is no {place}"));
    assert_ne!(*value, wrong, "{place} was so before");
    *value = wrong;
    assert_eq!(rule(&copy).len(), 1, "{place}: {:?}", rule(&copy));
}

/// The rule finds one thing wrong if the first query of the panel is this one.
fn finds_in_query(rule: Rule, panel: &str, wrong: &str) {
    let at = list(&dashboard()["panels"]).iter().position(|one| one["title"] == panel);
    let at = at.unwrap_or_else(|| panic!("there is no panel {panel}"));
    finds(rule, &format!("/panels/{at}/targets/0/expr"), wrong.into());
}
