//! The commands that README and `deploy/systemd/tallyd.toml` tell a reader to type do what they say.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::fixture::{Daemon, Scrape};
use crate::tools::said;

/// Where the commands expect the daemon.
const ADDRESS: &str = "http://127.0.0.1:8255";

/// A file of the project.
fn text_of(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A reader at a terminal, with the shipped configuration served in another.
struct Reader {
    daemon: Daemon,
    /// The last id that an answer told.
    id: String,
    /// The last lease that an answer told.
    lease: String,
}

impl Reader {
    fn new() -> Self {
        let daemon = Daemon::start(&text_of("deploy/systemd/tallyd.toml"));
        Self { daemon, id: String::new(), lease: String::new() }
    }

    /// Types a line, with what the answers before told in the place of ID and LEASE.
    fn type_line(&mut self, line: &str) -> String {
        assert!(line.contains(ADDRESS), "it names where the daemon serves: {line}");
        let line = line.replace(ADDRESS, &self.daemon.url(""));
        let line = line.replace("/ID", &format!("/{}", self.id)).replace("LEASE", &self.lease);
        let output = Command::new("sh").args(["-c", &line]).output().expect("there is a shell");
        assert!(output.status.success(), "{line}: {}", said(&output));
        String::from_utf8(output.stdout).expect("answers are text")
    }

    /// The same for a line that is answered in JSON, with what was asked for.
    fn ask(&mut self, line: &str) -> Value {
        let text = self.type_line(line);
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        assert!(answer.is_object() && answer["error"].is_null(), "{line}: {text}");
        for told in [&answer, &answer["jobs"][0]] {
            for (place, key) in [(&mut self.id, "id"), (&mut self.lease, "lease")] {
                let text = told[key].as_str().unwrap_or(place);
                *place = text.to_owned();
            }
        }
        answer
    }

    /// Waits until the job of the last answer is completed.
    async fn completed(&self) -> Value {
        self.daemon.job_when(&self.id, |job| job["state"] == "completed").await
    }
}

#[tokio::test]
async fn the_lines_below_the_shipped_configuration_create_jobs_that_run() {
    let configuration = text_of("deploy/systemd/tallyd.toml");
    let lines: Vec<_> = configuration
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.starts_with("curl "))
        .collect();
    let [now, later, once, first, outside, lease, finish] = lines[..] else {
        panic!("five lines create, two are for a worker: {lines:#?}")
    };
    let mut reader = Reader::new();
    for line in [now, later, once, first] {
        let created = reader.ask(line);
        assert_eq!(created["duplicate"], false, "{created}");
        if line == once {
            let again = reader.ask(line);
            assert_eq!((&again["id"], &again["duplicate"]), (&created["id"], &json!(true)));
        }
        assert_eq!(created["state"], if line == later { "scheduled" } else { "ready" });
        assert_eq!(created["priority"], if line == first { 0 } else { 5 });
        let done = reader.completed().await;
        assert!(done["result"].as_str().is_some_and(|sum| sum.ends_with("  -\n")), "{done}");
    }
    let created = reader.ask(outside);
    let leased = reader.ask(lease);
    assert_eq!(leased["jobs"][0]["id"], created["id"]);
    assert_eq!(reader.ask(finish), json!({"results": ["ok"]}));
    assert_eq!(reader.completed().await["result"], "sent");
}

#[tokio::test]
async fn the_lines_of_the_readme_create_watch_fail_and_retry() {
    let readme = text_of("README.md");
    let (_, section) = readme.split_once("\n## Try it\n").expect("the README has the section");
    let (section, _) = section.split_once("\n## ").expect("it is not the last one");
    let lines: Vec<_> = section.lines().filter(|line| line.starts_with("curl ")).collect();
    let [create, watch, outside, lease, fail, again, for_good, dead, requeue, stats, metrics] =
        lines[..]
    else {
        panic!("other lines than this test types: {lines:#?}")
    };
    let mut reader = Reader::new();
    let created = reader.ask(create);
    reader.completed().await;
    let done = reader.ask(watch);
    assert_eq!((&done["id"], &done["state"]), (&created["id"], &json!("completed")));
    assert!(done["result"].as_str().is_some_and(|sum| sum.ends_with("  -\n")), "{done}");

    let welcome = reader.ask(outside)["id"].clone();
    let leased = reader.ask(lease)["jobs"][0].clone();
    assert_eq!((&leased["id"], &leased["attempt"]), (&welcome, &json!(1)));
    assert_eq!(reader.ask(fail), json!({"results": ["ok"]}));
    let leased_again = reader.ask(again)["jobs"][0].clone();
    assert_eq!((&leased_again["id"], &leased_again["attempt"]), (&welcome, &json!(2)));
    assert_ne!(leased_again["lease"], leased["lease"]);
    assert_eq!(leased_again["last_error"]["message"], "mailbox full");
    assert_eq!(reader.ask(for_good), json!({"results": ["ok"]}));
    assert_eq!(reader.ask(dead)["jobs"][0]["id"], welcome);
    let requeued = reader.ask(requeue);
    assert_eq!((&requeued["id"], &requeued["state"]), (&welcome, &json!("ready")));

    assert_eq!(reader.ask(stats)["jobs_requeued"], 1);
    let scrape = Scrape::parse(&reader.type_line(metrics));
    let pair = r#"tallyd_jobs_requeued_total{queue="emails",kind="welcome"}"#;
    assert_eq!(scrape.value(pair), 1.0);
}

#[tokio::test]
async fn the_lines_of_the_command_line_do_what_they_say() {
    let readme = text_of("README.md");
    let (_, section) = readme.split_once("\n## Command line\n").expect("there is the section");
    let (section, _) = section.split_once("\n## ").expect("it is not the last one");
    let lines: Vec<_> = section.lines().filter(|line| line.starts_with("tallyd ")).collect();
    let daemon = Daemon::start("backup_dir = '.'");
    let binary = Path::new(env!("CARGO_BIN_EXE_tallyd")).parent().expect("it is in a directory");
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let jobs = "{\"queue\": \"emails\", \"kind\": \"welcome\"}\n".repeat(2);
    std::fs::write(daemon.path("jobs.ndjson"), jobs).unwrap();
    let type_line = |line: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-ec", line]).env_clear().env("PATH", &path).current_dir(&daemon.directory);
        let output = shell.env("TALLYD_SERVER", daemon.url("")).output().expect("there is a shell");
        assert!(output.status.success(), "{line}: {}", said(&output));
        String::from_utf8(output.stdout).expect("it prints text")
    };
    let [create, later, file, list, show, cancel, queues, pause, requeue, backup, completions] =
        lines[..]
    else {
        panic!("other lines than this test types: {lines:#?}")
    };
    let id = type_line(create).trim_end().to_owned();
    assert_eq!(type_line(later), type_line(later), "created once, however often it is run");
    assert_eq!(type_line(file), "created 2 jobs\n");
    assert_eq!(type_line(file), "created 0 jobs, 2 there already\n");
    assert!(type_line(show.replace("ID", &id).as_str()).contains("{\"to\": \"ada@example.com\"}"));
    let leased = daemon.post("/v1/leases", json!({"queues": ["emails"]})).await.1;
    let fail = json!({"lease": leased["jobs"][0]["lease"], "outcome": "failed", "permanent": true});
    daemon.post("/v1/leases/finish", json!([fail])).await;
    assert!(type_line(list).contains(&id));
    assert_eq!(type_line(requeue), "requeued 1 job\n");
    assert!(type_line(&cancel.replace("ID", &id)).contains("cancelled"));
    assert!(type_line(pause).contains("yes"));
    assert!(type_line(queues).contains("emails   lease   yes     1          2 "));
    let copy = type_line(backup);
    assert!(daemon.path(copy.trim_end()).is_file(), "{copy}");
    let script = daemon.path("completions");
    let place = "/etc/bash_completion.d/tallyd";
    assert!(completions.contains(place), "{completions}");
    type_line(&completions.replace(place, script.to_str().unwrap()));
    assert!(std::fs::read_to_string(script).unwrap().contains("_tallyd()"));
}
