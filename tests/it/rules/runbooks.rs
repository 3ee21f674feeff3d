//! The runbooks: there is one for each alert, and what they tell to type can be typed.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::documents::{Rule, text};
use super::{Known, promtool_accepts};
use crate::fixture::Daemon;
use crate::tools::said;

/// The sections of the runbooks, by their headings.
fn sections(runbooks: &str) -> Vec<(&str, &str)> {
    let sections = runbooks.split("\n## ").skip(1);
    sections.map(|section| section.split_once('\n').expect("a heading ends")).collect()
}

/// The lines of the code blocks in this language.
fn code<'t>(text: &'t str, language: &str) -> Vec<&'t str> {
    let blocks = text.split("\n```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'));
    blocks.flat_map(str::lines).filter(|line| !line.is_empty()).collect()
}

#[test]
fn each_alert_has_a_runbook_and_each_runbook_an_alert() {
    let runbooks = text("RUNBOOKS.md");
    let sections = sections(&runbooks);
    let headings: Vec<&str> = sections.iter().map(|(heading, _)| *heading).collect();
    let alerts = Rule::alerts();
    assert_eq!(headings, alerts.iter().map(|alert| &*alert.name).collect::<Vec<_>>());
    for ((heading, section), alert) in sections.iter().zip(&alerts) {
        for part in ["**Means:**", "**Look:**", "**Do:**"] {
            assert!(section.contains(part), "{heading} lacks {part}");
        }
        let url = format!("deploy/prometheus/RUNBOOKS.md#{}", heading.to_lowercase());
        assert_eq!(alert.text("annotations", "runbook_url"), url);
        for linked in section.split("](#").skip(1).filter_map(|link| link.split(')').next()) {
            let is_there = headings.iter().any(|heading| heading.to_lowercase() == linked);
            assert!(is_there, "{heading} links to #{linked}");
        }
    }
}

#[test]
fn the_queries_of_the_runbooks_are_valid_and_read_what_exists() {
    let runbooks = text("RUNBOOKS.md");
    let queries = code(&runbooks, "promql");
    assert!(queries.len() > 20, "{queries:#?}");
    let known = Known::new(&Rule::recorded());
    let rules: Vec<Value> = queries
        .iter()
        .enumerate()
        .map(|(index, query)| json!({"record": format!("a:b:c{index}"), "expr": query}))
        .collect();
    for query in queries {
        assert_eq!(known.unknown_in(query), [""; 0], "{query}");
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("queries.yml");
    std::fs::write(&file, json!({"groups": [{"name": "g", "rules": rules}]}).to_string()).unwrap();
    promtool_accepts(&["check", "rules"], &[file]);
}

/// A queue as the runbooks know it, with a job in each state that they look for.
async fn with_jobs() -> (Daemon, String) {
    let daemon = Daemon::start("backup_dir = '.'\n[queues.emails]\nmax_depth = 10\n");
    let mut last = Value::Null;
    for permanent in [true, false] {
        daemon.post("/v1/jobs", json!({"queue": "emails", "kind": "welcome"})).await;
        let leased = daemon.post("/v1/leases", json!({"queues": ["emails"]})).await.1;
        last = leased["jobs"][0].clone();
        let failed = json!({"lease": last["lease"], "outcome": "failed", "permanent": permanent});
        daemon.post("/v1/leases/finish", json!([failed])).await;
    }
    (daemon, last["id"].as_str().expect("an id").to_owned())
}

#[tokio::test]
async fn the_commands_of_the_runbooks_can_be_typed() {
    let (daemon, id) = with_jobs().await;
    let binary = Path::new(env!("CARGO_BIN_EXE_tallyd")).parent().expect("it is in a directory");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let runbooks = text("RUNBOOKS.md");
    let is_ours = |line: &&str| line.starts_with("tallyd ") || line.starts_with("curl ");
    let lines: Vec<&str> = code(&runbooks, "sh").into_iter().filter(is_ours).collect();
    assert!(lines.len() > 20, "{lines:#?}");
    for line in lines {
        let typed = line.replace("http://127.0.0.1:8255", &daemon.url(""));
        let typed = typed.replace("QUEUE", "emails").replace("ID", &id);
        let mut shell = Command::new("bash");
        shell.args(["-ec", "set -o pipefail\neval \"$1\"", "bash", &typed]).env_clear();
        shell.env("PATH", &path).env("TALLYD_SERVER", daemon.url(""));
        let output = shell.output().expect("there is a shell");
        let answer = said(&output);
        // `head` hangs up on curl, which is as it should be.
        let is_cut = typed.ends_with("| head");
        assert!(output.status.success() || is_cut, "{line}: {answer}");
        assert!(!answer.is_empty() && !answer.contains("\"error\":{"), "{line}: {answer}");
    }
}
