//! `tallyd create --file`: many lines, interrupted, resumed, wrong, and lost on their way.

use std::io::Write;
use std::process::{Child, ChildStdin, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::between::Between;
use crate::command_line::tallyd;
use crate::fixture::{Daemon, PATIENCE};
use crate::tools::said;

/// The lines with these numbers, each with its own key.
fn keyed(numbers: std::ops::Range<u32>) -> String {
    let line = |number| {
        format!("{{\"kind\":\"k\",\"payload\":{number},\"unique_key\":\"key {number}\"}}\n")
    };
    numbers.map(line).collect()
}

fn run(daemon: &Daemon, text: &str, flags: &[&str]) -> Output {
    let file = daemon.path("jobs.ndjson");
    std::fs::write(&file, text).unwrap();
    let mut command = tallyd(&daemon.url(""));
    command.current_dir(daemon.directory.path());
    command.args(["create", "--file", "jobs.ndjson"]).args(flags).output().unwrap()
}

/// What a run that works prints.
fn prints(daemon: &Daemon, text: &str, flags: &[&str]) -> String {
    let output = run(daemon, text, flags);
    assert_eq!(
        (output.status.code(), stderr(&output).as_str()),
        (Some(0), ""),
        "{}",
        said(&output)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// How many jobs there ever were.
async fn created(daemon: &Daemon) -> u64 {
    daemon.get("/v1/stats").await.1["jobs_created"].as_u64().unwrap()
}

/// Waits until so many jobs were created.
async fn created_when(daemon: &Daemon, count: u64) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while created(daemon).await < count {
        assert!(tokio::time::Instant::now() < deadline, "there are not more");
        tokio::task::yield_now().await;
    }
}

/// A run whose lines the test types.
struct Typed {
    child: Child,
    stdin: ChildStdin,
}

impl Typed {
    fn start(server: &str, flags: &[&str]) -> Self {
        let mut command = tallyd(server);
        command.args(["create", "--file", "-", "--json"]).args(flags).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { stdin: child.stdin.take().unwrap(), child }
    }

    fn types(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).unwrap();
    }

    /// Ends the input, and waits for the report.
    fn ends(self) -> (Option<i32>, Value, String) {
        drop(self.stdin);
        let output = self.child.wait_with_output().unwrap();
        let report = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), report, stderr(&output))
    }
}

#[tokio::test]
async fn a_file_is_created_once_however_often_it_is_run() {
    let daemon = Daemon::start("");
    assert_eq!(prints(&daemon, &keyed(0..3_500), &[]), "created 3500 jobs\n");
    assert_eq!(prints(&daemon, &keyed(0..3_500), &[]), "created 0 jobs, 3500 there already\n");
    let report = prints(&daemon, &keyed(3_000..3_600), &["--json"]);
    let wanted = json!({"created": 100, "duplicates": 500, "without_key": 0, "complete": true});
    assert_eq!(serde_json::from_str::<Value>(&report).unwrap(), wanted);
    assert_eq!(created(&daemon).await, 3_600);
    let listed = daemon.get("/v1/jobs?limit=1").await.1;
    let newest =
        daemon.get(&format!("/v1/jobs/{}", listed["jobs"][0]["id"].as_str().unwrap())).await;
    assert_eq!(newest.1["payload"], 3_599, "they are created in their order");
}

#[tokio::test]
async fn a_run_that_was_killed_is_resumed_by_its_keys() {
    let daemon = Daemon::start("");
    let mut typed = Typed::start(&daemon.url(""), &[]);
    typed.types(&keyed(0..2_500));
    created_when(&daemon, 2_000).await;
    typed.child.kill().unwrap();
    typed.child.wait().unwrap();
    let report = prints(&daemon, &keyed(0..5_000), &["--json"]);
    let wanted = json!({"created": 3_000, "duplicates": 2_000, "without_key": 0, "complete": true});
    assert_eq!(serde_json::from_str::<Value>(&report).unwrap(), wanted);
    assert_eq!(created(&daemon).await, 5_000);
    assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
}

#[tokio::test]
async fn an_interrupt_ends_a_run_that_waits_for_input_with_a_report() {
    let daemon = Daemon::start("");
    let mut typed = Typed::start(&daemon.url(""), &[]);
    typed.types(&keyed(0..2_500));
    created_when(&daemon, 2_000).await;
    let pid = Pid::from_raw(typed.child.id().cast_signed()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let Typed { child, stdin } = typed;
    // Standard input stays open: nobody has to type for it to end.
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    drop(stdin);
    assert_eq!(output.status.code(), Some(1));
    let advice = "interrupted\nrun the command again, it creates what is missing\n";
    assert_eq!(stderr(&output), advice);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["complete"], false);
}

#[tokio::test]
async fn lines_with_keys_outlast_a_crash_of_the_server() {
    let mut daemon = Daemon::start("");
    let between = Between::start(&daemon).await;
    let mut typed = Typed::start(&between.url(), &[]);
    typed.types(&keyed(0..1_000));
    created_when(&daemon, 1_000).await;
    typed.types(&keyed(1_000..5_000));
    daemon.kill();
    daemon.restart();
    between.now_to(&daemon);
    let ended = tokio::task::spawn_blocking(|| typed.ends()).await.unwrap();
    let (code, report, said) = ended;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let count = |name: &str| report[name].as_u64().unwrap();
    assert_eq!(count("created") + count("duplicates"), 5_000, "{report}");
    assert_eq!(created(&daemon).await, 5_000);
}

#[tokio::test]
async fn an_answer_lost_on_its_way_is_asked_for_again_if_all_lines_have_keys() {
    let daemon = Daemon::start("");
    let between = Between::start(&daemon).await;
    between.lose_next_answer();
    let mut typed = Typed::start(&between.url(), &["q", "k", "--key-prefix=p"]);
    typed.types(&"{}\n".repeat(1_500));
    let (code, report, said) = tokio::task::spawn_blocking(|| typed.ends()).await.unwrap();
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(between.has_lost());
    assert_eq!(report["created"].as_u64().unwrap() + report["duplicates"].as_u64().unwrap(), 1_500);
    assert!(report["duplicates"].as_u64().unwrap() > 0, "what was lost had been done: {report}");
    assert_eq!(created(&daemon).await, 1_500);
}

#[tokio::test]
async fn without_keys_a_lost_answer_stops_and_says_what_is_certain() {
    let daemon = Daemon::start("");
    let between = Between::start(&daemon).await;
    let mut typed = Typed::start(&between.url(), &["q", "k"]);
    typed.types(&"{}\n".repeat(2_000));
    // The answer to the first batch has come, that to the second may still be on its way.
    created_when(&daemon, 2_000).await;
    between.lose_next_answer();
    typed.types(&"{}\n".repeat(1_000));
    let (code, report, said) = tokio::task::spawn_blocking(|| typed.ends()).await.unwrap();
    assert_eq!(code, Some(1));
    let certain = report["created"].as_u64().unwrap();
    assert!([1_000, 2_000].contains(&certain), "{report}");
    let (next, last) = (certain + 1, certain + 1_000);
    let wanted = format!(
        "lines up to {certain} are created for certain; lines {next} to {last} have no unique_key, \
         and may be created or not: look, then go on with what is missing\n"
    );
    assert!(said.contains("whether the request was done is not known"), "{said}");
    assert!(said.ends_with(&wanted), "{said}");
    assert_eq!(report["complete"], false);
    assert_eq!(created(&daemon).await, last);
}

#[tokio::test]
async fn a_wrong_line_stops_with_its_number_and_what_stands_before_it_is_created() {
    let daemon = Daemon::start("");
    let mut lines: Vec<String> = keyed(0..2_000).lines().map(str::to_owned).collect();
    for (wrong, right) in [
        (
            r#"{"kind":"k","unique_key":"w","priority":77}"#,
            "priority must be 0 to 9, got 77 (invalid_field)",
        ),
        (
            r#"{"kind":"k","unique_key":"w","prio":1}"#,
            "unknown field `prio`, expected one of `kind`",
        ),
        (r#"{"kind":"k","unique_key":"w",}"#, "not JSON: trailing comma at column 30"),
        (r#"{"unique_key":"w"}"#, "it needs a \"kind\", or a QUEUE and KIND for all lines"),
        (r#"["k"]"#, "an array goes line by line, as `jq -c .[]` writes it"),
    ] {
        lines[1_499] = wrong.to_owned();
        let output = run(&daemon, &lines.join("\n"), &[]);
        assert_eq!(output.status.code(), Some(1));
        let said = stderr(&output);
        let place = "jobs.ndjson:1500: ";
        assert!(said.starts_with(place) && said.contains(right), "{wrong}: {said}");
        let advice = "mend the line and run the command again, it creates what is missing\n";
        assert!(said.ends_with(advice), "{said}");
        assert_eq!(created(&daemon).await, 1_499, "{wrong}");
    }
    lines[1_499] = keyed(1_499..1_500).trim_end().to_owned();
    let wanted = "created 501 jobs, 1499 there already\n";
    assert_eq!(prints(&daemon, &lines.join("\n"), &[]), wanted);
}

#[tokio::test]
async fn without_keys_nothing_after_a_wrong_line_is_created() {
    let daemon = Daemon::start("");
    let lines = format!("{}{{\"priority\":77}}\n{}", "{}\n".repeat(1_200), "{}\n".repeat(5_000));
    let output = run(&daemon, &lines, &["q", "k"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "created 1200 jobs\n");
    let advice = "lines up to 1200 are created for certain, some without a unique_key: mend the \
                  line and go on with `tail -n +1201`, or they are created twice\n";
    assert!(stderr(&output).ends_with(advice), "{}", stderr(&output));
    assert_eq!(created(&daemon).await, 1_200);
    let told = prints(&daemon, "{}\n", &["q", "k"]);
    assert_eq!(told, "created 1 job (1 without a unique_key: a second run creates them again)\n");
}

#[tokio::test]
async fn a_full_queue_stops_and_says_so() {
    let daemon = Daemon::start("[queues.q]\nmax_depth = 1500\n");
    let output = run(&daemon, &"{}\n".repeat(3_000), &["q", "k"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.starts_with("jobs.ndjson:1501: queue \"q\" is full"), "{said}");
    assert_eq!(created(&daemon).await, 1_500, "all that fit");
}

#[tokio::test]
async fn the_flags_of_a_job_apply_to_lines_that_do_not_say_otherwise() {
    let daemon = Daemon::start("");
    let lines = "{\"payload\":1}\n\n{\"queue\":\"own\",\"kind\":\"own\",\"priority\":9}\n";
    prints(&daemon, lines, &["q", "k", "--priority=1", "--delay=1h", "--key-prefix=p"]);
    let jobs = daemon.get("/v1/jobs").await.1["jobs"].clone();
    let shown = |job: &Value| {
        ["queue", "kind", "priority", "state", "unique_key"].map(|name| job[name].clone())
    };
    let wanted = [json!("own"), json!("own"), json!(9), json!("scheduled"), json!("p:3")];
    assert_eq!(shown(&jobs[0]), wanted);
    let wanted = [json!("q"), json!("k"), json!(1), json!("scheduled"), json!("p:1")];
    assert_eq!(shown(&jobs[1]), wanted);
}
