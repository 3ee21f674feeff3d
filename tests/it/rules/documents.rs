//! What stands in `deploy/prometheus`, read for the tests: rules, alerts, their tests, their runbooks.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::tools::{python, said};

pub const RULES: &str = "tallyd.rules.yml";
pub const ALERTS: &str = "tallyd.alerts.yml";

/// A file of the folder.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus").join(name)
}

pub fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// YAML files as JSON.
pub fn yaml(paths: &[PathBuf]) -> Vec<Value> {
    let paths: Vec<&Path> = paths.iter().map(|path| &**path).collect();
    let output = python("rules/yaml.py", &paths, "");
    assert!(output.status.success(), "{}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The files of promtool's tests.
pub fn test_files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/rules");
    let entries = std::fs::read_dir(folder).expect("there is the folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let files: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "yml")).collect();
    assert!(!files.is_empty(), "there are tests");
    files
}

/// A rule: what it records or alerts of, and everything else of it.
pub struct Rule {
    pub name: String,
    pub expression: String,
    pub rest: Value,
}

impl Rule {
    /// The rules of a document, the ones that have this key: `record` or `alert`.
    pub fn all(document: &Value, key: &str) -> Vec<Self> {
        let groups = document["groups"].as_array().expect("groups").iter();
        let rules = groups.flat_map(|group| group["rules"].as_array().expect("rules"));
        let named = rules.filter_map(|rule| Some((rule[key].as_str()?, rule)));
        let all = named.map(|(name, rule)| Self {
            name: name.to_owned(),
            expression: rule["expr"].as_str().expect("an expression").to_owned(),
            rest: rule.clone(),
        });
        all.collect()
    }

    pub fn recorded() -> Vec<Self> {
        Self::all(&yaml(&[path(RULES)])[0], "record")
    }

    pub fn alerts() -> Vec<Self> {
        Self::all(&yaml(&[path(ALERTS)])[0], "alert")
    }

    /// A text below `labels` or `annotations`; empty if there is none.
    pub fn text(&self, place: &str, key: &str) -> &str {
        self.rest[place][key].as_str().unwrap_or_default()
    }
}
