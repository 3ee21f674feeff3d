//! The client commands as people and programs meet them, with the real binary and a real daemon.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::fixture::Daemon;
use crate::receiver::{Receiver, answer};
use crate::tools::said;

/// `tallyd` with a server in an environment that has nothing else.
pub fn tallyd(server: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyd"));
    command.env_clear().env("TALLYD_SERVER", server).stdin(Stdio::null());
    command
}

/// A terminal with a daemon.
struct Terminal {
    daemon: Daemon,
}

impl Terminal {
    fn new() -> Self {
        Self { daemon: Daemon::start("[defaults]\nmax_attempts = 1\n") }
    }

    fn run(&self, words: &[&str]) -> Output {
        tallyd(&self.daemon.url("")).args(words).output().expect("it runs")
    }

    /// What a command that works prints.
    fn prints(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn prints_json(&self, words: &[&str]) -> Value {
        let text = self.prints(&[words, &["--json"]].concat());
        assert!(text.ends_with('\n') && text.trim_end().lines().count() == 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// What a command says that ends with this exit code.
    fn fails(&self, code: i32, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", said(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    fn create(&self, words: &[&str]) -> String {
        self.prints(&[&["create"], words].concat()).trim_end().to_owned()
    }

    /// Makes all ready jobs of a queue dead.
    async fn kill(&self, queue: &str) {
        let (_, leased) =
            self.daemon.post("/v1/leases", json!({"queues": [queue], "max": 1000})).await;
        let fail =
            |job: &Value| json!({"lease": job["lease"], "outcome": "failed", "error": "a\nb"});
        let fails: Vec<_> = leased["jobs"].as_array().unwrap().iter().map(fail).collect();
        assert!(!fails.is_empty());
        self.daemon.post("/v1/leases/finish", fails.into()).await;
    }
}

#[test]
fn create_prints_the_id_and_says_when_nothing_was_created() {
    let terminal = Terminal::new();
    let id = terminal.create(&["emails", "welcome", r#"{ "to": "ada" }"#, "--unique-key", "u"]);
    let job = terminal.prints_json(&["jobs", "show", &id]);
    assert_eq!((&job["queue"], &job["kind"]), (&json!("emails"), &json!("welcome")));
    assert_eq!(job["payload"], json!({"to": "ada"}));
    let again = terminal.run(&["create", "emails", "other", "--unique-key", "u"]);
    assert_eq!(String::from_utf8_lossy(&again.stdout), format!("{id}\n"));
    let note = "nothing was created: a job that is ready holds this key\n";
    assert_eq!(String::from_utf8_lossy(&again.stderr), note);
    let flags = ["--priority=0", "--delay=1h", "--max-attempts=7", "--timeout=0s"];
    let words = [&["create", "emails", "welcome", "-5"], &flags[..]].concat();
    let job = terminal.prints_json(&words);
    assert_eq!((&job["payload"], &job["priority"]), (&json!(-5), &json!(0)));
    assert_eq!((&job["state"], &job["duplicate"]), (&json!("scheduled"), &json!(false)));
    assert_eq!((&job["max_attempts"], &job["timeout"]), (&json!(7), &json!("0s")));
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let words =
        ["create", "q", "k", "--run-at", "2999-01-01T00:00:00+01:00", "--traceparent", trace];
    let job = terminal.prints_json(&words);
    assert_eq!(job["run_at"], "2998-12-31T23:00:00.000Z");
    assert_eq!((&job["traceparent"], &job["payload"]), (&json!(trace), &json!(null)));
}

#[test]
fn a_payload_can_come_from_standard_input() {
    let terminal = Terminal::new();
    let mut command = tallyd(&terminal.daemon.url(""));
    command.args(["create", "q", "k", "-", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"[1.0, 2]\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(r#""payload":[1.0, 2],"#), "{text}");
}

#[tokio::test]
async fn lists_are_tables_for_people_and_documents_for_programs() {
    let terminal = Terminal::new();
    let first = terminal.create(&["emails", "welcome"]);
    terminal.kill("emails").await;
    let second = terminal.create(&["reports", "monthly"]);
    let table = terminal.prints(&["jobs", "list"]);
    let lines: Vec<_> = table.lines().collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert!(lines[1].starts_with(&format!("{second}  reports  monthly  ready  0/1 ")), "{table}");
    assert!(lines[2].starts_with(&format!("{first}  emails   welcome  dead   1/1 ")), "{table}");
    assert!(lines[2].ends_with("  a\\nb"), "an error text stays on its line: {table}");

    let list = terminal.prints_json(&["jobs", "list"]);
    assert_eq!((&list["jobs"][0]["id"], &list["next_cursor"]), (&json!(second), &json!(null)));
    for filter in [["--queue", "emails"], ["--kind", "welcome"], ["--state", "dead"]] {
        let list = terminal.prints_json(&[&["jobs", "list"], &filter[..]].concat());
        assert_eq!(list["jobs"].as_array().unwrap().len(), 1, "{filter:?}");
        assert_eq!(list["jobs"][0]["id"], json!(first));
    }
    let page = terminal.prints_json(&["jobs", "list", "--limit=1"]);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = terminal.prints_json(&["jobs", "list", "--cursor", cursor]);
    assert_eq!((&rest["jobs"][0]["id"], &rest["next_cursor"]), (&json!(first), &json!(null)));
    let page = terminal.run(&["jobs", "list", "--limit=1"]);
    let note = format!("there are more: --all lists them, --cursor {cursor} the next\n");
    assert_eq!(String::from_utf8_lossy(&page.stderr), note);
    assert_eq!(terminal.prints_json(&["jobs", "list", "--state=running"])["jobs"], json!([]));
    let shown = terminal.prints(&["jobs", "show", &first]);
    assert!(shown.contains("\nstate        dead\n") && shown.contains(": a\\nb\n"), "{shown}");
}

#[test]
fn long_lists_go_on_over_pages() {
    let terminal = Terminal::new();
    let lines = "{\"kind\":\"k\"}\n".repeat(1_201);
    std::fs::write(terminal.daemon.path("jobs.ndjson"), lines).unwrap();
    terminal.create(&["--file", terminal.daemon.path("jobs.ndjson").to_str().unwrap()]);
    for (flags, count) in [(&["--all"][..], 1_201), (&["--limit=700"], 700), (&[], 100)] {
        let list = terminal.prints_json(&[&["jobs", "list"], flags].concat());
        assert_eq!(list["jobs"].as_array().unwrap().len(), count, "{flags:?}");
        let table = terminal.prints(&[&["jobs", "list"], flags].concat());
        assert_eq!(table.lines().count(), count + 1, "one line of titles: {flags:?}");
    }
}

#[tokio::test]
async fn jobs_are_cancelled_and_requeued_one_by_one() {
    let terminal = Terminal::new();
    let ids = [(); 3].map(|()| terminal.create(&["q", "k"]));
    let [a, b, c] = ids.each_ref().map(String::as_str);
    assert_eq!(terminal.prints_json(&["jobs", "cancel", a])["state"], "cancelled");
    terminal.kill("q").await;
    let both = terminal.prints_json(&["jobs", "requeue", b, c]);
    assert_eq!((&both[0]["id"], &both[1]["id"]), (&json!(b), &json!(c)));
    assert_eq!((&both[0]["state"], &both[1]["state"]), (&json!("ready"), &json!("ready")));
    let table = terminal.run(&["jobs", "cancel", a, b]);
    assert_eq!(table.status.code(), Some(1));
    let wanted = format!("{:<36}  QUEUE  KIND  STATE\n{b}  q      k     cancelled\n", "ID");
    assert_eq!(String::from_utf8_lossy(&table.stdout), wanted, "the others are done all the same");
    let wanted = format!(
        "{a}: a cancelled job cannot be cancelled (invalid_state)\n1 of 2 jobs were not cancelled\n"
    );
    assert_eq!(String::from_utf8_lossy(&table.stderr), wanted);
}

#[tokio::test]
async fn queues_are_listed_paused_and_resumed() {
    let terminal = Terminal::new();
    terminal.create(&["emails", "welcome"]);
    let table = terminal.prints(&["queues", "list"]);
    assert!(table.contains("\nemails   lease   no      0          1      0 "), "{table}");
    assert_eq!(terminal.prints_json(&["queues", "list"])["queues"][1]["name"], "emails");
    let paused = terminal.prints_json(&["queues", "pause", "emails", "default"]);
    assert_eq!((&paused[0]["name"], &paused[0]["paused"]), (&json!("emails"), &json!(true)));
    let table = terminal.prints(&["queues", "resume", "emails"]);
    assert!(table.contains("\nemails  lease   no "), "{table}");
    assert_eq!(terminal.prints_json(&["queues", "pause", "emails"])["paused"], true);
    terminal.prints(&["queues", "resume", "emails"]);
    let output = terminal.run(&["queues", "pause", "emails", "nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("\nemails  lease   yes "), "what is done is told: {table}");
}

#[tokio::test]
async fn acting_on_a_queue_goes_on_until_there_are_no_more() {
    let terminal = Terminal::new();
    let file = terminal.daemon.path("jobs.ndjson");
    std::fs::write(&file, "{}\n".repeat(2_000)).unwrap();
    let file = file.to_str().unwrap();
    terminal.create(&["--file", file, "q", "k"]);
    terminal.create(&["q", "other"]);
    assert_eq!(terminal.prints(&["queues", "cancel", "q", "--kind=other"]), "cancelled 1 job\n");
    assert_eq!(
        terminal.prints(&["queues", "cancel", "q", "--limit=1500"]),
        "cancelled 1500 jobs; there may be more\n"
    );
    assert_eq!(
        terminal.prints(&["queues", "cancel", "q", "--before=1970-01-02T00:00:00Z"]),
        "cancelled 0 jobs\n"
    );
    assert_eq!(
        terminal.prints_json(&["queues", "cancel", "q"]),
        json!({"count": 500, "more": false})
    );
    terminal.create(&["--file", file, "q", "k"]);
    terminal.kill("q").await;
    terminal.kill("q").await;
    assert_eq!(terminal.prints(&["queues", "requeue-dead", "q"]), "requeued 2000 jobs\n");
    terminal.kill("q").await;
    assert_eq!(terminal.prints(&["queues", "discard-dead", "q"]), "discarded 1000 jobs\n");
    let queue = &terminal.prints_json(&["queues", "list"])["queues"][1];
    assert_eq!((&queue["jobs"]["ready"], &queue["jobs"]["dead"]), (&json!(1_000), &json!(0)));
}

#[test]
fn what_is_wrong_before_anything_is_sent_exits_2_and_says_what_would_be_right() {
    let terminal = Terminal::new();
    for (words, right) in [
        (&["create", "emails"][..], "<KIND>"),
        (&["create", "e mails", "k"], "the first a letter or digit"),
        (&["create", "q", "k", "hello"], r#"a text needs its quotes, as in '"hello"'"#),
        (&["create", "q", "k", "--priority=10"], "0..=9"),
        (&["create", "q", "k", "--delay=5"], "like 500ms, 30s or 5m"),
        (&["create", "q", "k", "--run-at=tomorrow"], "like 2026-03-01T12:00:00Z"),
        (&["create", "q", "k", "--unique-until=done"], "--unique-until needs a --unique-key"),
        (&["create", "q", "k", "--key-prefix=a"], "--file <FILE>"),
        (&["create", "--file=/nowhere"], "cannot read /nowhere: No such file"),
        (&["create", "--file=/"], "cannot read /: "),
        (&["jobs"], "Usage: tallyd jobs <COMMAND>"),
        (&["jobs", "lst"], "a similar subcommand exists: 'list'"),
        (&["jobs", "show", "7"], "a job id is a version 7 UUID"),
        (&["jobs", "list", "--state=Dead"], "possible values: scheduled, ready"),
        (&["jobs", "list", "--limit=0"], "0 is not in 1.."),
        (&["queues", "pause"], "<QUEUE>..."),
        (&["queues", "cancel", "q", "--before=noon"], "like 2026-03-01T12:00:00Z"),
        (&["backup", "--server=localhost:8255"], "a URL such as http://127.0.0.1:8255"),
        (&["completions", "tcsh"], "possible values: bash"),
    ] {
        let said = terminal.fails(2, words);
        assert!(said.contains(right), "{words:?}: {said}");
    }
    assert_eq!(terminal.prints_json(&["jobs", "list"])["jobs"], json!([]), "nothing was created");
    let said = terminal.fails(2, &["backup", "--server=https://ada:s3cret@a.example:port"]);
    assert!(said.contains("got \"…@a.example:port\"") && !said.contains("s3cret"), "{said}");
}

#[test]
fn what_the_server_refuses_exits_1_with_its_words() {
    let terminal = Terminal::new();
    let id = "0190163d-8694-739b-aea5-966c26f8ad91";
    for (words, told) in [
        (&["jobs", "show", id][..], "it never was, or retention or an operator removed it"),
        (&["queues", "pause", "nope"], "there is no queue \"nope\" (queue_not_found)\n"),
        (&["queues", "cancel", "nope"], "there is no queue \"nope\" (queue_not_found)\n"),
        (&["jobs", "list", "--cursor=7"], "cursor must be the next_cursor of a page"),
        (&["create", "q", "k", "--traceparent=1"], "version-traceid-parentid-flags"),
    ] {
        let said = terminal.fails(1, words);
        assert!(said.contains(told), "{words:?}: {said}");
    }
}

#[test]
fn a_server_that_is_not_there_exits_1_and_says_where_it_was_sought() {
    for words in [&["jobs", "list"][..], &["create", "q", "k", "--unique-key=u"], &["backup"]] {
        let output = tallyd("http://127.0.0.1:1").args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.starts_with("cannot connect to http://127.0.0.1:1 (Connection refused"),
            "{said}"
        );
        assert!(said.ends_with("is tallyd running there? --server says where\n"), "{said}");
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test]
async fn backup_prints_where_the_server_has_written_the_copy() {
    let told = r#"{"file": "/var/backups/a.db", "bytes": 4096}"#;
    for (flags, printed) in
        [(&["backup"][..], "/var/backups/a.db\n"), (&["backup", "--json"], &format!("{told}\n"))]
    {
        let mut server = Receiver::start(&[answer("200 OK", "", told)]).await;
        let mut command = tallyd(server.url.trim_end_matches("/jobs?a=b"));
        command.args(flags);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), printed);
        assert_eq!(server.pushed().await.line, "POST /v1/backup HTTP/1.1");
    }
}

#[tokio::test]
async fn lines_without_keys_are_in_doubt_after_an_answer_that_leaves_it_open() {
    let stopped = r#"{"error": {"code": "store_stopped", "message": "the store has failed"}}"#;
    for (line, body) in [
        ("503 Service Unavailable", stopped),
        ("500 Internal Server Error", "reset by the server behind"),
        ("201 Created", r#"{"ids": ["a"], "duplicates": []}"#),
        ("201 Created", r#"{"ids": ["a", "b"], "duplicates": [1, 1]}"#),
        ("200 OK", "<html>"),
    ] {
        let server = Receiver::start(&[answer(line, "", body)]).await;
        let mut command = tallyd(server.url.trim_end_matches("/jobs?a=b"));
        command.args(["create", "q", "k", "--file", "-"]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"{}\n{}\n").unwrap();
        let ended = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
        let output = ended.await.unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{body}: {said}");
        let doubt = "lines 1 to 2 have no unique_key, and may be created or not";
        assert!(said.contains("lines up to 0 are created") && said.contains(doubt), "{said}");
    }
}

#[tokio::test]
async fn a_server_that_answers_oddly_is_told_of_and_not_asked_for_ever() {
    let queue = r#"{"name": "q", "runner": "lease", "paused": false, "jobs": {"dead": 2}}"#;
    let job = r#"{"id": "i", "queue": "q", "kind": "k", "state": "dead", "priority": 5, "attempt": 0,
        "failures": 0, "max_attempts": 1, "timeout": "5m", "created_at": "2026-01-01T00:00:00Z",
        "run_at": "2026-01-01T00:00:00Z"}"#;
    let page = format!(r#"{{"jobs": [{job}, {job}, {job}], "next_cursor": "c\u001b[31m"}}"#);
    for (words, answers, code, told) in [
        (
            &["queues", "discard-dead", "q"][..],
            vec![
                answer("200 OK", "", queue),
                answer("200 OK", "", r#"{"count": 0, "more": true}"#),
            ],
            1,
            "the server says that there are more, but acts on none",
        ),
        (&["jobs", "list", "--limit=2"], vec![answer("200 OK", "", &page)], 0, "--cursor c\\u{1b}"),
    ] {
        let server = Receiver::start(&answers).await;
        let mut command = tallyd(server.url.trim_end_matches("/jobs?a=b"));
        command.args(words);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(said(&output).contains(told), "{}", said(&output));
    }
}

#[test]
fn that_nobody_reads_what_was_done_hides_no_failure() {
    let terminal = Terminal::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = tallyd(&terminal.daemon.url(""));
    let ids = ["0190163d-8694-739b-aea5-966c26f8ad91", "0190163d-8694-739b-aea5-966c26f8ad92"];
    command.args(["jobs", "cancel"]).args(ids).stdout(writer).stderr(Stdio::piped());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let file = terminal.daemon.path("jobs.ndjson");
    std::fs::write(&file, "{\"kind\": 1}\n").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = tallyd(&terminal.daemon.url(""));
    command.args(["create", "--file"]).arg(file).stdout(writer).stderr(Stdio::piped());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("jobs.ndjson:1: "), "{}", said(&output));
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let terminal = Terminal::new();
    terminal.create(&["q", "k"]);
    for words in [
        &["jobs", "list"][..],
        &["jobs", "list", "--json"],
        &["metrics"],
        &["check"],
        &["queues", "list"],
        &["completions", "zsh"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = tallyd(&terminal.daemon.url(""));
        let output = command.args(words).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), ""), "{words:?}");
    }
}

#[test]
fn completions_are_scripts_of_their_shell() {
    let script = tallyd("").env_remove("TALLYD_SERVER").args(["completions", "bash"]).output();
    let script = script.unwrap();
    assert!(script.status.success());
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(&script.stdout).unwrap();
    assert!(bash.wait().unwrap().success(), "bash reads it");
    let asks = "\nCOMP_WORDS=(tallyd queues dis); COMP_CWORD=2; _tallyd tallyd dis queues; \
                echo \"${COMPREPLY[@]}\"";
    let script = String::from_utf8(script.stdout).unwrap() + asks;
    let reply = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&reply.stdout), "discard-dead\n", "{}", said(&reply));
    for shell in ["zsh", "fish"] {
        let script = tallyd("http://127.0.0.1:1").args(["completions", shell]).output().unwrap();
        assert!(said(&script).contains("requeue-dead"), "{shell}");
    }
}

#[test]
fn the_environment_of_a_command_does_not_change_what_it_asks_for() {
    let terminal = Terminal::new();
    let id = terminal.create(&["q", "k"]);
    let mut command = tallyd(&terminal.daemon.url(""));
    for name in ["QUEUE", "KIND", "JOB_ID", "ATTEMPT", "FAILURES", "STORE"] {
        command.env(format!("TALLYD_{name}"), "other");
    }
    let list = command.args(["jobs", "list"]).output().unwrap();
    assert!(said(&list).contains(&id), "{}", said(&list));
    let mut command = tallyd(&terminal.daemon.url(""));
    let list = command.env("TALLYD_LIST_QUEUE", "other").args(["jobs", "list"]).output().unwrap();
    assert!(!said(&list).contains(&id), "{}", said(&list));
}
