//! What other files of the project say: metric names in documents, crates in the lock file.

use std::collections::BTreeSet;

use super::source::{Kind, Source};
use super::{Finding, files_below, none_of, rust_files};

/// Where metric names are written for people and for other programs.
const DOCUMENTS: &[&str] = &["README.md", "deploy", "grafana"];

/// What Prometheus appends to a histogram's name.
const SERIES_SUFFIXES: &[&str] = &["", "_bucket", "_sum", "_count"];

/// The metric names in a text, with their lines. One that ends with `_` stands for a whole group;
/// one like `level:tallyd_metric:operation` is recorded by a rule.
fn metric_names(text: &str) -> Vec<(&str, usize)> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let words = text.lines().enumerate().flat_map(move |(index, line)| {
        let words = line.split(move |letter| !is_part(letter));
        words.map(move |word| (word.trim_matches(':'), index + 1))
    });
    words.filter(|(word, _)| word.starts_with("tallyd_") || word.contains(":tallyd_")).collect()
}

/// The names that the rules among the documents record.
fn recorded(documents: &[(String, String)]) -> impl Iterator<Item = &str> {
    let lines = documents.iter().flat_map(|(_, text)| text.lines());
    lines.filter_map(|line| line.trim().strip_prefix("- record: "))
}

/// The names in the string literals of the metrics module.
fn known_metrics(files: &[Source]) -> BTreeSet<&str> {
    let is_metrics =
        |file: &&Source| file.path == "src/metrics.rs" || file.path.starts_with("src/metrics/");
    let sources = files.iter().filter(is_metrics);
    let literals = sources.flat_map(|file| {
        let tokens = file.tokens.iter().enumerate();
        tokens.filter(|(index, token)| token.kind == Kind::Literal && !file.is_test_at(*index))
    });
    literals.flat_map(|(_, token)| metric_names(&token.text)).map(|(name, _)| name).collect()
}

fn unknown_metrics(documents: &[(String, String)], known: &BTreeSet<&str>) -> Vec<Finding> {
    let recorded: BTreeSet<&str> = recorded(documents).collect();
    let is_known = |name: &str| {
        let is_group = name.ends_with('_') && known.iter().any(|metric| metric.starts_with(name));
        let mut bases = SERIES_SUFFIXES.iter().filter_map(|suffix| name.strip_suffix(suffix));
        is_group || recorded.contains(name) || bases.any(|base| known.contains(base))
    };
    let mut findings = Vec::new();
    for (path, text) in documents {
        for (name, line) in metric_names(text).into_iter().filter(|(name, _)| !is_known(name)) {
            let complaint = format!("no metric {name} in src/metrics");
            findings.push(Finding::new(path, line, complaint));
        }
    }
    findings
}

/// The crates of a lock file that bring in protobuf.
fn protobuf_users(lock: &str) -> Vec<String> {
    let lock: toml::Table = lock.parse().expect("a lock file is TOML");
    let packages = lock["package"].as_array().expect("a list of packages");
    let name_of = |package: &toml::Value| package["name"].as_str().expect("a name").to_owned();
    assert!(packages.iter().any(|package| name_of(package) == "prometheus"), "no prometheus");
    let uses = |package: &&toml::Value| {
        let listed = package.get("dependencies").and_then(toml::Value::as_array);
        listed.into_iter().flatten().filter_map(toml::Value::as_str).any(is_protobuf)
    };
    packages.iter().filter(uses).map(name_of).collect()
}

/// Whether a dependency, `name` or `name version`, is protobuf.
fn is_protobuf(dependency: &str) -> bool {
    dependency.split(' ').next() == Some("protobuf")
}

#[test]
fn documented_metrics_exist() {
    let documents: Vec<_> = DOCUMENTS.iter().flat_map(|place| files_below(place)).collect();
    assert!(documents.iter().any(|(path, _)| path == "README.md"), "README.md is missing");
    let files = rust_files();
    let known = known_metrics(&files);
    assert!(!known.is_empty(), "src/metrics names no metric");
    none_of(&unknown_metrics(&documents, &known));
}

#[test]
fn prometheus_comes_without_protobuf() {
    let lock = files_below("Cargo.lock").pop().expect("the lock file is there").1;
    assert_eq!(protobuf_users(&lock), Vec::<String>::new(), "turn off default-features");
}

#[test]
fn unknown_metrics_are_found() {
    let files = [
        Source::new("src/metrics/names.rs", "const A: &str = \"tallyd_jobs_total\";\n"),
        Source::new("src/metrics.rs", "/// tallyd_doc\nfn f() { g(\"tallyd_wait_seconds\") }\n"),
        Source::new("src/store.rs", "const B: &str = \"tallyd_elsewhere\";\n"),
    ];
    let known = known_metrics(&files);
    let text = "`tallyd_jobs_total{queue=\"a\"}` tallyd_wait_seconds_bucket tallyd_wait_*\n\
                TALLYD_TEST_SCALE\ntallyd_jobs tallyd_doc\ntallyd_elsewhere tallyd_none_*\n";
    let findings = unknown_metrics(&[("README.md".into(), text.into())], &known);
    assert_eq!(findings.iter().map(|f| f.line).collect::<Vec<_>>(), [3, 3, 4, 4]);
    let text = "  - record: queue:tallyd_jobs:sum\nqueue:tallyd_jobs:sum\nqueue:tallyd_jobs:max\n";
    let findings = unknown_metrics(&[("deploy/rules.yml".into(), text.into())], &known);
    assert_eq!(findings.iter().map(|f| f.line).collect::<Vec<_>>(), [3]);
}

#[test]
fn protobuf_is_found() {
    let lock = |dependency: &str| {
        format!("[[package]]\nname = \"prometheus\"\ndependencies = [\"{dependency}\"]\n")
    };
    assert_eq!(protobuf_users(&lock("protobuf")), ["prometheus"]);
    assert_eq!(protobuf_users(&lock("protobuf 3.7.2")), ["prometheus"]);
    assert!(protobuf_users(&lock("protobuf-support")).is_empty());
}
