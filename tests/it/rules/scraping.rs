//! The configurations that a reader copies, read by a real Prometheus that scrapes a real tallyd.

use std::path::Path;

use super::documents::{ALERTS, RULES, Rule, path, text};
use super::promtool_accepts;
use crate::fixture::Daemon;
use crate::prometheus::Prometheus;

/// Where the configurations expect the daemon.
const ADDRESS: &str = "127.0.0.1:8255";

/// Starts a Prometheus with this configuration, and waits until the rules have been evaluated over
/// what it has scraped.
async fn is_scraped_by(config: &str) {
    let daemon = Daemon::start("");
    assert_eq!(config.matches(ADDRESS).count(), 1, "{config}");
    let config = config.replace(ADDRESS, daemon.url("").trim_start_matches("http://"));
    let files = [RULES, ALERTS].map(|name| (name, text(name)));
    let files = files.each_ref().map(|(name, text)| (*name, &**text));
    let prometheus = Prometheus::start(&config, &files);
    prometheus.until(r#"up{job="tallyd"} == 1"#).await;
    daemon.post("/v1/jobs", serde_json::json!({"kind": "k"})).await;
    prometheus.until(r#"queue_state:tallyd_jobs:sum{job="tallyd", state="ready"} == 1"#).await;
    let groups = prometheus.ask("rules", &[]).await;
    let rules = groups["groups"].as_array().expect("groups").iter();
    let rules: Vec<_> = rules.flat_map(|group| group["rules"].as_array().expect("rules")).collect();
    assert_eq!(rules.len(), Rule::recorded().len() + Rule::alerts().len());
    assert!(rules.iter().all(|rule| rule["health"] != "err"), "{rules:#?}");
}

#[tokio::test]
async fn the_shipped_configuration_scrapes_a_daemon_and_loads_the_rules() {
    let config = text("prometheus.yml");
    let short = config.replace("_interval: 15s", "_interval: 1s");
    assert_ne!(short, config, "it does not say how often");
    is_scraped_by(&short).await;
}

#[tokio::test]
async fn the_configuration_of_the_readme_scrapes_a_daemon_and_loads_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the README is there");
    let (_, section) = readme.split_once("\n## Scrape it\n").expect("it has the section");
    let (_, config) = section.split_once("\n```yaml\n").expect("with a configuration");
    let (config, _) = config.split_once("```").expect("that ends");
    let often = "global: {scrape_interval: 1s, evaluation_interval: 1s}\n";
    is_scraped_by(&format!("{often}{config}")).await;

    let named = section.split_once("--config.file=").expect("it is typed").1;
    let file = root.join(named.split_whitespace().next().expect("a file"));
    assert_eq!(file, path("prometheus.yml"));
    promtool_accepts(&["check", "config"], &[file]);
    let count = format!("{} alerts", Rule::alerts().len());
    assert!(section.contains(&count), "it says how many: {count}");
}
