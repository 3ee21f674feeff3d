//! What is secret is told to nobody: a mark in each place that holds a secret, and none of them in
//! anything that the daemon and the commands print. What is hostile acts on no terminal.

mod web;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::command_line::tallyd;
use crate::fixture::Daemon;
use crate::receiver::{Receiver, answer};
use crate::tools::said;

/// Begins every mark, so that a part of one is found as well.
const MARK: &str = "Xq7mark";

/// What would change a terminal's title, its colours, and begin a line of its own.
const HOSTILE: &str = "\u{1b}]0;title\u{7}\u{1b}[31m\r\nforged";

/// Keys of 24 bytes as Standard Webhooks has them.
const KEY: &str = "whsec_Xq7markAAAAAAAAAAAAAAAAAAAAAAAAA";
const OTHER_KEY: &str = "whsec_Xq7markBBBBBBBBBBBBBBBBBBBBBBBBB";

fn config(receiver: &str, key: &str) -> String {
    format!(
        r#"token_file = "tokens.toml"
backup_dir = "."
defaults = {{ max_attempts = 1 }}
[queues.pushed.http]
url = "{receiver}"
secret = "{key}"
headers = {{ Authorization = "Bearer {MARK}header", X-Basic = "Basic {MARK}basic" }}
[queues.run.exec]
command = ["/bin/sh", "-c", "printf '%s\\033[31m' \"$SECRET\" >&2; cat >&2; exit 3"]
env = {{ SECRET = "{MARK}variable", PATH = "/bin:/{MARK}path" }}
[queues.lost.exec]
command = ["no-such-program"]
env = {{ PATH = "/{MARK}path" }}
"#
    )
}

/// A daemon that is asked with a token.
struct Asked {
    daemon: Daemon,
    token: String,
}

impl Asked {
    /// With secrets in every place.
    fn start(receiver: &str) -> Self {
        let mut daemon = Daemon::prepare("");
        put(&daemon, &config(receiver, KEY));
        let file = daemon.path("tokens.toml");
        let words = ["token", "new", "t", "--roles=admin", "--append-to"];
        let output = tallyd("").args(words).arg(file).output().expect("it runs");
        let token = String::from_utf8(output.stdout).expect("it is text").trim().to_owned();
        daemon.restart();
        Self { daemon, token }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &str,
        token: &str,
    ) -> (StatusCode, String) {
        let request = self.daemon.client.request(method, self.daemon.url(path));
        let request = request.header("content-type", "application/json").body(body.to_owned());
        let agent = format!("{MARK}agent\t");
        let response = request.bearer_auth(token).header("user-agent", agent.trim()).send().await;
        let response = response.expect("it answers");
        (response.status(), response.text().await.expect("the answer is whole"))
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, text) = self.send(method, path, &body, &self.token).await;
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    async fn create(&self, queue: &str) -> String {
        let job = json!({"queue": queue, "kind": "k", "payload": format!("{MARK}payload")});
        let job = self.ask(Method::POST, "/v1/jobs", job).await;
        job["id"].as_str().expect("it has an id").to_owned()
    }

    /// A job of that queue as it is once it is dead.
    async fn dead(&self, queue: &str) -> Value {
        let id = self.create(queue).await;
        loop {
            let job = self.ask(Method::GET, &format!("/v1/jobs/{id}"), Value::Null).await;
            if job["state"] == "dead" {
                return job;
            }
            tokio::task::yield_now().await;
        }
    }

    /// A job that a worker of ours leases and fails; its lease.
    async fn failed_outside(&self) -> String {
        self.create("outside").await;
        let request = json!({"queues": ["outside"], "wait": "30s", "worker": HOSTILE});
        let leased = self.ask(Method::POST, "/v1/leases", request).await;
        let lease = leased["jobs"][0]["lease"].as_str().expect("it is leased").to_owned();
        let error = format!("{MARK}error {HOSTILE}");
        let finish = json!([{"lease": lease, "outcome": "failed", "error": error}]);
        self.ask(Method::POST, "/v1/leases/finish", finish).await;
        lease
    }

    /// What a command prints that speaks to it.
    fn prints(&self, words: &[&str]) -> String {
        let mut command = tallyd(&self.daemon.url(""));
        command.env("TALLYD_TOKEN", &self.token).args(words);
        said(&command.output().expect("it runs"))
    }
}

/// Writes a configuration that only its owner may read.
fn put(daemon: &Daemon, config: &str) {
    daemon.configure(config);
    let owner = fs::Permissions::from_mode(0o600);
    fs::set_permissions(daemon.path("tallyd.toml"), owner).expect("it is there");
}

fn assert_tells_nothing(what: &str, text: &str, secrets: &[&str]) {
    for secret in [&[MARK], secrets].concat() {
        let place = text.lines().find(|line| line.contains(secret));
        assert!(place.is_none(), "{what} tells {secret}: {place:?}");
    }
    let acts = text.lines().find(|line| line.contains(|letter: char| letter.is_control()));
    assert!(acts.is_none(), "{what} acts on a terminal: {acts:?}");
}

/// Requests that are refused, each with something in it that is not for the log.
async fn refused(asked: &Asked) {
    let bad = [
        (Method::POST, "/v1/jobs", format!("{{\"kind\": \"k\", \"payload\": \"{MARK}")),
        (Method::POST, "/v1/jobs", format!("{{\"kind\": \"k\", \"{MARK}field\": 1}}")),
        (Method::POST, "/v1/jobs", format!("{{\"kind\": \"{MARK} {}\"}}", "\\u001b[31m")),
        (Method::POST, "/v1/jobs", format!("[\"{MARK}\"]")),
        (Method::POST, "/v1/leases/finish", format!("[{{\"lease\": \"{MARK}lease\"}}]")),
        (Method::POST, "/v1/queues/outside/cancel", format!("{{\"kind\": \"{MARK}%\"}}")),
        (Method::GET, "/v1/jobs?Xq7markquery=%1b", String::new()),
        (Method::GET, "/Xq7markpath/%1b[31m%0d%0a", String::new()),
        (Method::POST, "/v1/queues/Xq7markqueue%1b/pause", String::new()),
    ];
    for (method, path, body) in bad {
        let (status, text) = asked.send(method, path, &body, &asked.token).await;
        assert!(status.is_client_error(), "{path} {body}: {status} {text}");
    }
    let wrong = format!("tallyd_{MARK}AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let (status, text) = asked.send(Method::GET, "/v1/queues", "", &wrong).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{text}");
    assert!(!text.contains(MARK), "{text}");
    let address = asked.daemon.url("").replace("http://", "");
    for head in [
        format!("GET /{MARK}\u{1b}[31m HTTP/1.1\r\nhost: a\r\n\r\n"),
        format!("GET /v1/queues HTTP/1.1\r\nhost: {MARK}.example\r\nx: \u{1b}[31m{MARK}\r\n\r\n"),
        format!("\u{1b}[31m{MARK}\r\n\r\n"),
    ] {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        stream.write_all(head.as_bytes()).expect("it reads");
        stream.shutdown(std::net::Shutdown::Write).expect("it is open");
        let mut answer = String::new();
        // Reset or refused, as it likes.
        drop(stream.read_to_string(&mut answer));
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
}

/// All that it says by itself.
async fn assert_answers_tell_nothing(asked: &Asked, secrets: &[&str]) {
    for path in ["/metrics", "/v1/stats", "/v1/queues", "/openapi.json", "/", "/-/ready"] {
        let answer = asked.ask(Method::GET, path, Value::Null).await;
        let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
        assert_tells_nothing(path, &text, secrets);
    }
    for words in [
        &["queues", "list"][..],
        &["--help"],
        &["serve", "--help"],
        &["jobs", "list", "--help"],
        &["man"],
        &["metrics"],
        &["jobs", "list", "--cursor", "no"],
    ] {
        assert_tells_nothing(&words.join(" "), &asked.prints(words), secrets);
    }
}

#[tokio::test]
async fn nothing_secret_is_in_the_log_of_a_life_nor_in_what_is_printed() {
    let refusal = answer("500 No", "", &format!("{MARK}answer {HOSTILE}"));
    let mut receiver = Receiver::start(&[refusal]).await;
    let mut asked = Asked::start(&receiver.url);
    let lease = asked.failed_outside().await;
    let pushed = asked.dead("pushed").await;
    let run = asked.dead("run").await;
    let lost = asked.dead("lost").await;
    // It is all in use, or nothing would be shown by what follows.
    let sent = receiver.pushed().await.headers;
    assert_eq!(sent["authorization"], format!("Bearer {MARK}header"));
    assert!(sent.contains_key("webhook-signature"), "{sent:?}");
    let error = |job: &Value| job["last_error"]["message"].to_string();
    assert!(error(&pushed).contains("Xq7markanswer"), "{pushed}");
    assert!(error(&run).contains("Xq7markvariable\\u001b[31m\\\"Xq7markpayload"), "{run}");
    assert!(error(&lost).contains("no such program in the PATH of its env"), "{lost}");
    assert!(!error(&lost).contains(MARK), "{lost}");
    refused(&asked).await;
    let tokens = fs::read_to_string(asked.daemon.path("tokens.toml")).expect("it is there");
    let hash = tokens.split("sha256 = \"").nth(1).and_then(|rest| rest.split('"').next());
    let signature = sent["webhook-signature"].clone();
    let token = asked.token.clone();
    let secrets = [&*lease, &*token, hash.expect("there is one"), &*signature];
    assert_answers_tell_nothing(&asked, &secrets).await;
    let table = asked.prints(&["jobs", "list", "--all"]);
    assert!(table.contains(r"\u{1b}]0;title\u{7}\u{1b}[31m\r\nforged"), "{table}");
    for printed in [table, asked.prints(&["jobs", "show", run["id"].as_str().expect("its id")])] {
        let acts = printed.lines().find(|line| line.contains(|letter: char| letter.is_control()));
        assert!(acts.is_none(), "{acts:?}");
    }
    asked.ask(Method::POST, "/v1/backup", Value::Null).await;
    let daemon = &mut asked.daemon;
    put(
        daemon,
        &config(&receiver.url, "7")
            .replace("secret = ", "connect_timeout = ")
            .replace("\"7\"", &format!("{KEY:?}")),
    );
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(|line| line["event"] == "reload_failed");
    put(daemon, &config(&receiver.url, OTHER_KEY));
    daemon.signal(Signal::HUP);
    let told = daemon.wait_for_log(|line| line["event"] == "reloaded");
    assert_eq!(told["keys"], "queues.pushed.http.secret");
    daemon.signal(Signal::TERM);
    daemon.wait_for_log(|line| line["event"] == "drained");
    let log = daemon.log();
    assert!(log.contains("\"level\":\"DEBUG\"") && log.contains("attempt_failed"), "{log}");
    assert_tells_nothing("the log", &log, &secrets);
    assert!(daemon.wait().success());
}

/// Configurations in which something is wrong beside, or with, a secret.
fn broken() -> Vec<String> {
    let http = |keys: &str| format!("[queues.a.http]\nurl = \"http://a/\"\n{keys}\n");
    let exec = |keys: &str| format!("[queues.a.exec]\ncommand = [\"/bin/true\"]\n{keys}\n");
    let token = format!("tallyd_{MARK}AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
    let padded = format!("whsec_{MARK}AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let mut broken = vec![
        http(&format!("secret = \"{MARK}\"")),
        http(&format!("secret = [\"{KEY}\"]")),
        http(&format!("secert = \"{KEY}\"")),
        http(&format!("secret = \"{KEY}")),
        http(&format!("secret = {KEY}")),
        http(&format!("secret {KEY}")),
        http(&format!("secret = \"{KEY}\"\nsecret = \"{KEY}\"")),
        http(&format!("secret =\n{KEY}")),
        http(&padded),
        http(&format!("{padded}\n{padded}")),
        http(&format!("{padded}7")),
        http(&format!("connect_timeout = \"{KEY}\"")),
        http(&format!("secret = \"{KEY}\"\nconnect_timeout = \"0s\"")),
        http(&format!("headers = \"Authorization: {MARK}\"")),
        http(&format!("headers = {{ Authorization = [\"{MARK}\"] }}")),
        http(&format!("headers = {{ Authorization = \"{MARK}\\n\" }}")),
        http(&format!("headers = {{ Host = \"{MARK}\" }}")),
        http(&format!("headers = {{ \"a b\" = \"{MARK}\" }}")),
        http(&format!("headers = {{ A = \"{MARK}\", a = \"{MARK}\" }}")),
        http(&format!("headers = {{ A = \"{MARK} }}")),
        http(&format!("headers = {{ A : \"{MARK}\" }}")),
        http(&format!("headers.A = \"{MARK}\"\nheaders.A = \"{MARK}\"")),
        format!("[queues.a]\nhttp = \"http://u:{MARK}@a/\""),
        format!("[queues.a.http]\nurl = \"http://u:{MARK}@a/\""),
        format!("[queues.a.http]\nurl = \"ftp://u:{MARK}@a/\""),
        format!("[queues.a]\nsecret = \"{KEY}\"\n"),
        exec(&format!("env = \"A={MARK}\"")),
        exec(&format!("env = [\"A={MARK}\"]")),
        exec(&format!("env = {{ A = [\"{MARK}\"] }}")),
        exec(&format!("env = {{ \"1 A\" = \"{MARK}\" }}")),
        exec(&format!("env = {{ TALLYD_A = \"{MARK}\" }}")),
        exec(&format!("env = {{ A = \"{MARK}\\u0000\" }}")),
        exec(&format!("environment = {{ A = \"{MARK}\" }}")),
        exec(&format!("env = {{ A = '{MARK} }}")),
        exec(&format!("env = {{ A = \"{MARK}\" }}\ndir = 7")),
        format!("tokens = [\"{token}\"]"),
        format!("tokens = \"{token}\""),
        format!("token = \"{token}\""),
        format!("token_file = [\"{token}\"]"),
        format!("[[tokens]]\n{token} = \"admin\""),
        format!("[[tokens]]\nname = [\"{token}\"]"),
        format!("[[tokens]]\nname = \"a\"\nroles = [\"{token}\"]\nsha256 = \"{token}\""),
        format!(
            "[[tokens]]\nname = \"a\"\nroles = [\"work\"]\nsha256 = \"{}\"",
            "Xq7mark".repeat(9)
        ),
        format!("[[tokens]]\nname = \"a\"\nroles = [\"work\"]\ntoken = \"{token}\""),
        format!("[[tokens]]\nname = \"a\"\nexpires_at = \"{token}\""),
    ];
    let hash = "0".repeat(63) + "1";
    broken.push(format!("[[tokens]]\nname = \"{token}\"\nroles = [\"work\"]\nsha256 = \"{hash}\""));
    broken
}

fn run(directory: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyd"));
    command.env_clear().current_dir(directory).args(words);
    command.output().expect("it runs")
}

#[test]
fn a_mistake_beside_a_secret_does_not_tell_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("tallyd.toml");
    let mut told = Vec::new();
    for text in broken() {
        fs::write(&file, &text).expect("it can be written");
        for command in ["check", "serve"] {
            let output = run(directory.path(), &[command, "--config", "tallyd.toml"]);
            assert_eq!(output.status.code(), Some(2), "{text}\n{}", said(&output));
            assert!(said(&output).contains("tallyd.toml:"), "{text}\n{}", said(&output));
            if said(&output).contains(MARK) {
                told.push(format!("{text}\n{}", said(&output)));
            }
        }
    }
    assert!(told.is_empty(), "{}", told.join("\n\n"));
}

#[test]
fn what_check_prints_has_no_secret_and_warns_of_a_file_that_others_may_read() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("tallyd.toml");
    let hash = "0123456789abcdef".repeat(4);
    let token = format!("[[tokens]]\nname = \"t\"\nsha256 = \"{hash}\"\nroles = [\"work\"]\n");
    let text = config("http://a/", KEY).replace("token_file = \"tokens.toml\"\n", "") + &token;
    fs::write(&file, text).expect("it can be written");
    for (mode, wanted) in
        [(0o640, ""), (0o644, "has secrets (queues.lost.exec.env, queues.pushed.http.secret,")]
    {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("it is ours");
        let output = run(directory.path(), &["check", "--config", "tallyd.toml"]);
        assert!(output.status.success(), "{}", said(&output));
        assert_tells_nothing("check", &said(&output), &[&hash]);
        let warning = String::from_utf8(output.stderr).expect("it is text");
        assert!(warning.contains(wanted) && warning.is_empty() == wanted.is_empty(), "{warning}");
    }
    let mut daemon =
        Daemon::prepare(&config("http://127.0.0.1:1/", KEY).replace("token_file", "#"));
    daemon.launch();
    let told = daemon.wait_for_log(|line| line["event"] == "settings_exposed");
    assert_eq!(told["level"], "WARN");
    assert!(told["exposed"].to_string().contains("queues.pushed.http.secret"), "{told}");
}
