//! Which keys two configurations give different values.

use std::collections::BTreeSet;

use super::{Config, Runner};

impl Config {
    /// The keys whose values differ, in full and in order, such as `queues.emails.concurrency`. Of
    /// a queue that only one of the two has, its name.
    pub fn differing_keys(&self, other: &Self) -> Vec<String> {
        let mut keys = BTreeSet::new();
        differ("", &self.table(), &other.table(), &mut keys);
        for (name, queue) in &self.queues {
            if let Some(other) = other.queues.get(name) {
                differ_in_hidden(name, &queue.runner, &other.runner, &mut keys);
            }
        }
        keys.into_iter().collect()
    }

    fn table(&self) -> toml::Table {
        let text = self.to_toml().expect("what was loaded has a form in TOML");
        text.parse().expect("it was written as TOML")
    }
}

fn differ(place: &str, one: &toml::Table, other: &toml::Table, keys: &mut BTreeSet<String>) {
    for name in one.keys().chain(other.keys()) {
        match (one.get(name), other.get(name)) {
            (Some(toml::Value::Table(one)), Some(toml::Value::Table(other))) => {
                differ(&format!("{place}{name}."), one, other, keys);
            }
            (one, other) if one != other => drop(keys.insert(format!("{place}{name}"))),
            _ => {}
        }
    }
}

/// What is not written out: it may be secret.
fn differ_in_hidden(queue: &str, one: &Runner, other: &Runner, keys: &mut BTreeSet<String>) {
    let mut note = |key: &str, is_equal: bool| {
        if !is_equal {
            keys.insert(format!("queues.{queue}.{key}"));
        }
    };
    match (one, other) {
        (Runner::Exec(one), Runner::Exec(other)) => note("exec.env", one.env == other.env),
        (Runner::Http(one), Runner::Http(other)) => {
            note("http.secret", one.secret == other.secret);
            note("http.headers", one.headers == other.headers);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn differing(one: &str, other: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let load = |text: &str| {
            let file = directory.path().join("tallyd.toml");
            std::fs::write(&file, text).unwrap();
            Config::load(Some(&file), &Overrides::default()).unwrap()
        };
        load(one).differing_keys(&load(other))
    }

    const QUEUES: &str = r#"
[queues.a]
concurrency = 3
exec = { command = ["/bin/true"], env = { A = "1" } }
[queues.b.http]
url = "http://127.0.0.1:1/"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
headers = { X = "1" }
"#;

    #[test]
    fn equal_configurations_differ_in_nothing() {
        assert!(differing(QUEUES, QUEUES).is_empty());
        assert!(differing("", "max_pairs = 500").is_empty(), "the default, said");
    }

    #[test]
    fn every_difference_is_named_by_its_key() {
        let other = "max_pairs = 7\nmetrics_listen = \"127.0.0.1:9\"\n[queues.c]\n".to_owned()
            + &QUEUES
                .replace("concurrency = 3", "concurrency = 4")
                .replace("/bin/true", "/bin/false");
        let keys = ["max_pairs", "metrics_listen", "queues.a.concurrency", "queues.a.exec.command"];
        assert_eq!(differing(QUEUES, &other), [&keys[..], &["queues.c"]].concat());
        let backoff = "[defaults]\nbackoff = { max = \"1h\" }";
        let of_queue = "queues.default.backoff.max";
        assert_eq!(differing("", backoff), ["defaults.backoff.max", of_queue]);
    }

    #[test]
    fn secrets_are_compared_and_not_told() {
        let other = QUEUES.replace("A = \"1\"", "A = \"2\"").replace("LaLaSw", "LaLaSx");
        let found = differing(QUEUES, &other.replace("X = \"1\"", "X = \"2\""));
        assert_eq!(found, ["queues.a.exec.env", "queues.b.http.headers", "queues.b.http.secret"]);
    }

    #[test]
    fn another_runner_is_one_difference() {
        let http = QUEUES.replace("exec = { command = [\"/bin/true\"], env = { A = \"1\" } }", "");
        assert_eq!(differing(QUEUES, &http), ["queues.a.exec"]);
    }
}
