//! Rules about the file: that any Grafana can import it, and that nobody is left guessing.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{dashboard, dashboard_text, finds, holds, list, panels, text};

/// How many columns Grafana has.
const WIDTH: u64 = 24;

/// One complaint for each place whose value is another than it must be.
fn must_be(dashboard: &Value, wanted: &[(&str, Value)]) -> Vec<String> {
    let is = |place: &str| dashboard.pointer(place).cloned().unwrap_or_default();
    let wrong = wanted.iter().filter(|(place, value)| is(place) != *value);
    wrong.map(|(place, value)| format!("{place} must be {value}, is {}", is(place))).collect()
}

fn form(dashboard: &Value) -> Vec<String> {
    let mut wrong =
        must_be(dashboard, &[("/schemaVersion", json!(42)), ("/title", json!("tallyd"))]);
    // What the newer form would have in their place.
    if dashboard.get("spec").is_some() || dashboard.get("elements").is_some() {
        wrong.push("it is no classic dashboard".into());
    }
    if list(&dashboard["panels"]).is_empty() {
        wrong.push("it has no panels".into());
    }
    wrong
}

#[test]
fn it_is_a_classic_dashboard_of_schema_version_42() {
    holds(form);
    finds(form, "/schemaVersion", json!(39));
    finds(form, "/panels", json!([]));
}

fn identity(dashboard: &Value) -> Vec<String> {
    let mut wrong = must_be(dashboard, &[("/uid", json!("tallyd")), ("/editable", json!(false))]);
    if dashboard.get("id").is_some() {
        wrong.push("it has an id, which another Grafana has given away".into());
    }
    if !list(&dashboard["tags"]).contains(&json!("tallyd")) {
        wrong.push("it is not found by its tag".into());
    }
    wrong
}

#[test]
fn it_has_a_stable_uid_a_tag_and_no_id_and_is_not_edited_in_grafana() {
    holds(identity);
    finds(identity, "/uid", json!("x"));
    finds(identity, "/editable", json!(true));
    finds(identity, "/tags", json!([]));
    let mut copy = dashboard();
    copy["id"] = json!(7);
    assert_eq!(identity(&copy).len(), 1);
}

fn variables(dashboard: &Value) -> Vec<String> {
    let variables = list(&dashboard["templating"]["list"]);
    let names: Vec<_> = variables.iter().map(|variable| text(&variable["name"])).collect();
    let wanted = [
        ("datasource", "Data source", "prometheus"),
        ("job", "Job", "label_values(tallyd_build_info, job)"),
        ("instance", "Instance", r#"label_values(tallyd_build_info{job=~"$job"}, instance)"#),
        (
            "queue",
            "Queue",
            r#"label_values({__name__=~"tallyd_jobs|tallyd_queue_paused", job=~"$job", instance=~"$instance"}, queue)"#,
        ),
    ];
    if names != wanted.map(|(name, ..)| name) {
        return vec![format!("the variables are {names:?}")];
    }
    let mut wrong = must_be(
        &variables[0],
        &[
            ("/type", json!("datasource")),
            ("/label", json!("Data source")),
            ("/query", json!("prometheus")),
        ],
    );
    for (variable, (name, label, query)) in variables.iter().zip(wanted).skip(1) {
        let wanted = [
            ("/type", json!("query")),
            ("/label", json!(label)),
            ("/query/query", json!(query)),
            ("/definition", json!(query)),
            ("/multi", json!(true)),
            ("/includeAll", json!(true)),
            ("/allValue", json!(".+")),
            ("/refresh", json!(2)),
            ("/current/value", json!(["$__all"])),
        ];
        let found = must_be(variable, &wanted);
        wrong.extend(found.into_iter().map(|found| format!("{name}: {found}")));
    }
    wrong
}

#[test]
fn it_asks_for_data_source_job_instance_and_queue() {
    holds(variables);
    finds(variables, "/templating/list/1/allValue", json!(".*"));
    finds(variables, "/templating/list/2/multi", json!(false));
    finds(variables, "/templating/list/3/refresh", json!(1));
    finds(variables, "/templating/list/0/label", json!("Prometheus"));
}

fn data_sources(dashboard: &Value) -> Vec<String> {
    let chosen = json!({"type": "prometheus", "uid": "${datasource}"});
    let targets = panels(dashboard).flat_map(|panel| list(&panel["targets"]));
    let variables = list(&dashboard["templating"]["list"]).iter().skip(1);
    let marks = list(&dashboard["annotations"]["list"]);
    let all = panels(dashboard).chain(targets).chain(variables).chain(marks);
    let wrong = all.filter(|one| one["datasource"] != chosen);
    wrong.map(|one| format!("{} reads {}", one["title"], one["datasource"])).collect()
}

#[test]
fn everything_is_read_from_the_chosen_data_source() {
    holds(data_sources);
    finds(data_sources, "/panels/1/datasource/uid", json!("prometheus"));
    finds(data_sources, "/panels/1/targets/0/datasource/uid", json!("prometheus"));
    finds(data_sources, "/templating/list/1/datasource", Value::Null);
    finds(data_sources, "/annotations/list/0/datasource", json!("-- Grafana --"));
}

/// What numbers here are measured in: ids that Grafana knows, and counted things.
const UNITS: &[&str] = &["s", "bytes", "percentunit", "short", "none", "reqps"];

fn words(dashboard: &Value) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for panel in panels(dashboard) {
        let title = text(&panel["title"]);
        if title.is_empty() || !seen.insert(title) {
            wrong.push(format!("the title {title:?} is nobody's own"));
        }
        let description = text(&panel["description"]);
        if description.len() < 20 || !description.ends_with('.') {
            wrong.push(format!("{title} is described so: {description:?}"));
        }
        let unit = text(&panel["fieldConfig"]["defaults"]["unit"]);
        if !UNITS.contains(&unit) && !unit.starts_with("count:") {
            wrong.push(format!("{title} has the unit {unit:?}"));
        }
        let options = &panel["options"];
        if panel["type"] == "heatmap" && options["yAxis"]["unit"] != "s" {
            wrong.push(format!("{title} has buckets without a unit"));
        }
    }
    wrong
}

#[test]
fn every_panel_has_a_title_of_its_own_a_description_and_a_unit() {
    holds(words);
    finds(words, "/panels/1/title", json!(""));
    finds(words, "/panels/1/title", json!("Restarts"));
    finds(words, "/panels/2/description", json!(""));
    finds(words, "/panels/3/fieldConfig/defaults/unit", Value::Null);
    finds(words, "/panels/3/fieldConfig/defaults/unit", json!("seconds"));
    let panels = dashboard()["panels"].as_array().unwrap().clone();
    let heatmap = panels.iter().position(|panel| panel["type"] == "heatmap").unwrap();
    finds(words, &format!("/panels/{heatmap}/options/yAxis/unit"), json!("short"));
}

fn queries(dashboard: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for panel in panels(dashboard) {
        let targets = list(&panel["targets"]);
        let letters: BTreeSet<_> = targets.iter().map(|target| text(&target["refId"])).collect();
        if letters.len() != targets.len() || letters.contains("") || targets.is_empty() {
            wrong.push(format!("the queries of {} have the letters {letters:?}", panel["title"]));
        }
        let format = match text(&panel["type"]) {
            "table" => "table",
            "heatmap" => "heatmap",
            _ => "time_series",
        };
        // A graph over time needs the whole range, everything else the value of now.
        let is_instant = !["timeseries", "heatmap"].contains(&text(&panel["type"]));
        for target in targets {
            let wanted = [
                ("/instant", json!(is_instant)),
                ("/range", json!(!is_instant)),
                ("/format", json!(format)),
            ];
            wrong.extend(must_be(target, &wanted));
        }
        if targets.len() > 1
            && format != "table"
            && targets.iter().any(|t| text(&t["legendFormat"]).is_empty())
        {
            wrong.push(format!("nobody can tell the queries of {} apart", panel["title"]));
        }
    }
    wrong
}

#[test]
fn every_panel_asks_for_what_its_form_shows() {
    holds(queries);
    finds(queries, "/panels/1/targets", json!([]));
    finds(queries, "/panels/1/targets/0/instant", json!(false));
    let at = |wanted: &str| list(&dashboard()["panels"]).iter().position(|p| p["title"] == wanted);
    let dead = at("Dead jobs").unwrap();
    finds(queries, &format!("/panels/{dead}/targets/1/refId"), json!("A"));
    finds(queries, &format!("/panels/{dead}/targets/1/legendFormat"), json!(""));
    let heatmap = at("Wait").unwrap();
    finds(queries, &format!("/panels/{heatmap}/targets/0/format"), json!("time_series"));
}

fn layout(dashboard: &Value) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let mut wrong = Vec::new();
    let mut deepest = 0;
    for panel in list(&dashboard["panels"]) {
        let title = &panel["title"];
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap_or(0));
        let cells = (x..x + w).flat_map(|column| (y..y + h).map(move |line| (column, line)));
        let cells: Vec<_> = cells.collect();
        if cells.is_empty() || x + w > WIDTH {
            wrong.push(format!("{title} has no place: {}", panel["gridPos"]));
        } else if cells.iter().any(|cell| taken.contains(cell)) {
            wrong.push(format!("{title} lies on another"));
        }
        if !ids.insert(panel["id"].as_u64().filter(|id| *id > 0)) || panel["id"].is_null() {
            wrong.push(format!("{title} has the id {} of another", panel["id"]));
        }
        deepest = deepest.max(y + h);
        taken.extend(cells);
    }
    let free =
        (0..deepest).filter(|line| (0..WIDTH).any(|column| !taken.contains(&(column, *line))));
    wrong.extend(free.map(|line| format!("line {line} has a hole")).take(1));
    wrong
}

#[test]
fn panels_fill_the_width_without_lying_on_each_other() {
    holds(layout);
    finds(layout, "/panels/2/id", json!(1));
    let mut copy = dashboard();
    copy["panels"][2]["gridPos"]["x"] = json!(0);
    assert_eq!(layout(&copy).len(), 2, "it lies on another and leaves a hole");
    copy["panels"][2]["gridPos"] = json!({"x": 22, "y": 0, "w": 3, "h": 4});
    assert!(layout(&copy).iter().any(|wrong| wrong.contains("no place")));
}

fn order(dashboard: &Value) -> Vec<String> {
    let place = |panel: &Value| (panel["gridPos"]["y"].as_u64(), panel["gridPos"]["x"].as_u64());
    let all = list(&dashboard["panels"]);
    let mut wrong = Vec::new();
    if !all.is_sorted_by_key(place) {
        wrong.push("the panels are not in the order in which they are read".into());
    }
    let first = all.first().map_or("", |panel| text(&panel["title"]));
    if !first.starts_with("Is it healthy") {
        wrong.push(format!("it begins with {first}"));
    }
    wrong
}

#[test]
fn it_says_first_whether_all_is_well() {
    holds(order);
    finds(order, "/panels/0/title", json!("Process"));
    let mut copy = dashboard();
    copy["panels"].as_array_mut().unwrap().swap(3, 9);
    assert_eq!(order(&copy).len(), 1);
}

/// The identity check, paused queues and the rest of what a person on call asks first.
const ASKED_FIRST: &[&str] = &[
    "Up",
    "Dead jobs",
    "Store errors",
    "Paused queues",
    "Oldest ready job, by queue",
    super::IDENTITIES,
];

#[test]
fn what_is_asked_first_stands_above_the_second_heading() {
    let dashboard = dashboard();
    let first =
        list(&dashboard["panels"]).iter().skip(1).take_while(|panel| panel["type"] != "row");
    let first: BTreeSet<_> = first.map(|panel| text(&panel["title"])).collect();
    let missing: Vec<_> = ASKED_FIRST.iter().filter(|title| !first.contains(**title)).collect();
    assert!(missing.is_empty(), "{missing:?} are not among {first:?}");
}

#[test]
fn the_file_is_pretty_printed_with_sorted_keys() {
    let pretty = serde_json::to_string_pretty(&dashboard()).unwrap() + "\n";
    let differs =
        dashboard_text().lines().zip(pretty.lines()).position(|(is, wanted)| is != wanted);
    assert_eq!(differs, None, "the line so numbered, from 0, is written in another way");
    assert_eq!(dashboard_text().len(), pretty.len());
}
