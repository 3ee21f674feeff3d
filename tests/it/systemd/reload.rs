//! SIGHUP: what is applied while serving, what waits for a restart, and what a mistake leaves alone.

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::notify::{Supervisor, value};
use crate::fixture::Daemon;

/// A daemon whose level is that of its file.
fn serve(config: &str) -> (Daemon, Supervisor) {
    let mut daemon = Daemon::prepare(config);
    let supervisor = Supervisor::of_daemon(&mut daemon);
    // In the place of the command line that comes after these words, and sets a level.
    daemon.wrap(&["sh", "-c", "exec \"$1\" serve --config tallyd.toml --listen 127.0.0.1:0", "sh"]);
    daemon.restart();
    supervisor.hear_until("READY=1");
    (daemon, supervisor)
}

fn reload(daemon: &mut Daemon, supervisor: &Supervisor, event: &str) -> Value {
    daemon.signal(Signal::HUP);
    let told = supervisor.hear();
    assert_eq!(told[0], "RELOADING=1");
    assert!(value(&told, "MONOTONIC_USEC").parse::<u64>().is_ok_and(|now| now > 0), "{told:?}");
    assert_eq!(supervisor.hear(), ["READY=1"], "whatever came of it");
    daemon.wait_for_log(|line| line["event"] == event)
}

async fn create(daemon: &Daemon) -> String {
    let (status, job) = daemon.post("/v1/jobs", json!({"kind": "k"})).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    job["id"].as_str().expect("an id").to_owned()
}

/// Its steps are in the log, as they are at debug.
async fn tells_of_steps(daemon: &mut Daemon) {
    let id = create(daemon).await;
    daemon.wait_for_log(|line| line["job_id"] == *id);
}

const JSON: &str = "log_format = \"json\"\n";

#[tokio::test]
async fn a_hangup_applies_the_log_level_and_names_what_needs_a_restart() {
    let (mut daemon, supervisor) = serve(JSON);
    let silent = create(&daemon).await;
    daemon.configure(&format!("{JSON}log_level = \"debug\"\nmax_pairs = 7\n[queues.new]\n"));
    let told = reload(&mut daemon, &supervisor, "reloaded");
    assert_eq!((&told["level"], &told["log_level"]), (&json!("WARN"), &json!("debug")));
    assert_eq!(told["keys"], "max_pairs, queues.new");
    assert_eq!(told["file"], "tallyd.toml");
    assert!(!daemon.log().contains(&silent), "until then it told of no steps");
    tells_of_steps(&mut daemon).await;
    assert_eq!(daemon.scrape().await.value("tallyd_pairs_limit"), 500.0, "as before");

    daemon.configure(JSON);
    let told = reload(&mut daemon, &supervisor, "reloaded");
    assert_eq!((&told["level"], &told["log_level"]), (&json!("INFO"), &json!("info")));
    assert_eq!(told["keys"], Value::Null, "it is as it was at the start");
    let silent = create(&daemon).await;
    reload(&mut daemon, &supervisor, "reloaded");
    assert!(!daemon.log().contains(&silent), "it tells of no steps any more");
}

#[tokio::test]
async fn a_wrong_file_changes_nothing_and_its_mistakes_are_told() {
    let (mut daemon, supervisor) = serve(&format!("{JSON}log_level = \"debug\"\n"));
    daemon.configure("log_level = \"error\"\n[queues.emails]\nconcurency = 3\n");
    let told = reload(&mut daemon, &supervisor, "reload_failed");
    let mistake = told["error"].as_str().expect("it is told");
    let place = "tallyd.toml:3: unknown key queues.emails.concurency; valid here are ";
    assert!(mistake.starts_with(place), "{mistake}");
    tells_of_steps(&mut daemon).await;
    std::fs::remove_file(daemon.path("tallyd.toml")).expect("it was there");
    let told = reload(&mut daemon, &supervisor, "reload_failed");
    assert_eq!(told["error"], "cannot read tallyd.toml: No such file or directory (os error 2)");
    tells_of_steps(&mut daemon).await;
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test]
async fn a_hangup_while_it_ends_is_no_reason_to_end_at_once() {
    let held = crate::running::queue("", "echo > said; read _ < go");
    let mut daemon = Daemon::prepare(&held);
    let mut said = crate::processes::Line::new(daemon.directory.path(), "said");
    let go = crate::processes::Line::new(daemon.directory.path(), "go");
    let supervisor = Supervisor::of_daemon(&mut daemon);
    daemon.restart();
    crate::running::create(&daemon).await;
    said.hear().await;
    daemon.signal(Signal::TERM);
    supervisor.hear_until("STOPPING=1");
    daemon.signal(Signal::HUP);
    go.say(1);
    assert_eq!(daemon.wait().code(), Some(0));
    supervisor.is_not_told_of_readiness();
}
