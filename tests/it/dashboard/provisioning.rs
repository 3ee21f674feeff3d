//! The files that Grafana reads by itself: a copy of the folder leads it to the dashboard.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::{dashboard_text, folder};
use crate::tools::{python, said};

/// Where the README tells to copy the folder.
const CONFIGURATION: &str = "/etc/grafana";

/// A YAML file of a copy.
fn read(copy: &Path, name: &str) -> Value {
    let text = std::fs::read_to_string(copy.join("provisioning").join(name)).expect(name);
    let read = python("dashboard/as_json.py", &[], &text);
    assert!(read.status.success(), "{name}: {}", said(&read));
    serde_json::from_slice(&read.stdout).expect("JSON")
}

/// A copy, made by the command of the README.
fn copy() -> tempfile::TempDir {
    let readme = std::fs::read_to_string(folder().join("README.md")).expect("the README");
    let copy = tempfile::tempdir().expect("a temporary directory");
    let line = readme.lines().find(|line| line.starts_with("cp ")).expect("it says how to copy");
    let line =
        line.split('#').next().unwrap().replace(CONFIGURATION, copy.path().to_str().unwrap());
    let root = folder().parent().unwrap().to_owned();
    let copied = Command::new("sh").args(["-c", &line]).current_dir(root).status();
    assert!(copied.expect("sh runs").success(), "{line}");
    copy
}

/// The files that Grafana takes for dashboards: all `.json` below the directory, links followed.
fn dashboards(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("the provider's directory is there");
    let files = entries.map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|end| end == "json")).collect()
}

#[test]
fn a_copy_of_the_folder_leads_grafana_to_the_dashboard() {
    let copy = copy();
    let providers = read(copy.path(), "dashboards/tallyd.yml");
    assert_eq!(providers["apiVersion"], 1);
    let provider = &providers["providers"][0];
    assert_eq!((&provider["type"], &provider["name"]), (&json!("file"), &json!("tallyd")));
    let path = Path::new(provider["options"]["path"].as_str().expect("it has a path"));
    let below = path.strip_prefix(CONFIGURATION).expect("it lies in the copy");
    let found = dashboards(&copy.path().join(below));
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(std::fs::read_to_string(&found[0]).expect("the link leads to it"), dashboard_text());
}

#[test]
fn the_data_source_is_a_prometheus_that_takes_nobody_elses_place() {
    let copy = copy();
    let sources = read(copy.path(), "datasources/tallyd.yml");
    assert_eq!(sources["apiVersion"], 1);
    let [source] = &sources["datasources"].as_array().expect("a list")[..] else {
        panic!("one is enough: {sources}")
    };
    assert_eq!(source["type"], "prometheus");
    assert_eq!(source["jsonData"]["timeInterval"], "15s", "as the scrape configuration has it");
    // Two defaults would stop Grafana's start, and another's uid or name would be overwritten.
    assert_eq!(source.get("isDefault"), None);
    assert!(["uid", "name"].iter().all(|key| source[*key].as_str().unwrap().contains("tallyd")));
}
