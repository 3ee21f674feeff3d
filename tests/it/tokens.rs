//! Tokens as people meet them: made by one command, put into a file, used by the others, by workers
//! and by Prometheus, and taken away again while the daemon runs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::json;

use crate::fixture::Daemon;
use crate::prometheus::{Prometheus, scraping};
use crate::tools::said;

/// `tallyd` in an environment that has nothing but this.
fn tallyd(words: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyd"));
    command.env_clear().envs(variables.iter().copied()).args(words);
    command.output().expect("it runs")
}

/// What `tallyd token new` prints with these words: the token, and its block.
pub fn new(words: &[&str]) -> (String, String) {
    let output = tallyd(&[&["token", "new"], words].concat(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    let text = String::from_utf8(output.stdout).expect("it is text");
    let (token, block) = text.split_once("\n\n").expect("the token, an empty line, its block");
    assert!(token.starts_with("tallyd_") && token.len() == 50, "256 bits in base64: {token}");
    assert!(!block.contains(token), "the file holds no token");
    (token.to_owned(), block.to_owned())
}

/// A daemon with these blocks in a file of tokens beside its configuration.
fn daemon(blocks: &[&str]) -> Daemon {
    let mut daemon = Daemon::prepare("token_file = \"tokens.toml\"\nlog_format = \"json\"\n");
    put(&daemon, blocks);
    daemon.restart();
    daemon
}

fn put(daemon: &Daemon, blocks: &[&str]) {
    std::fs::write(daemon.path("tokens.toml"), blocks.join("\n")).expect("it can be written");
}

/// The code of a request to list queues with this token.
async fn listed(daemon: &Daemon, token: &str) -> StatusCode {
    let request = daemon.client.get(daemon.url("/v1/queues")).bearer_auth(token);
    request.send().await.expect("it answers").status()
}

fn create(daemon: &Daemon, words: &[&str], variables: &[(&str, &str)]) -> Output {
    let server = daemon.url("");
    tallyd(
        &[&["create", "default", "k"], words].concat(),
        &[&[("TALLYD_SERVER", &*server)], variables].concat(),
    )
}

#[tokio::test]
async fn the_command_line_takes_a_token_from_a_file_or_a_variable_and_says_when_it_needs_one() {
    let (token, block) = new(&["app"]);
    let mut daemon = daemon(&[&block]);
    let file = daemon.path("token");
    std::fs::write(&file, format!("{token}\n\n{block}")).expect("as the command printed it");
    let file = file.to_str().expect("it is text");
    for (words, variables) in [
        (&["--token-file", file][..], &[][..]),
        (&[], &[("TALLYD_TOKEN", &*token)]),
        (&[], &[("TALLYD_TOKEN_FILE", file)]),
        (&["--token-file", file], &[("TALLYD_TOKEN", "wrong")]),
    ] {
        let output = create(&daemon, words, variables);
        assert!(output.status.success(), "{words:?} {variables:?}: {}", said(&output));
    }
    for (words, variables, code, told) in [
        (&[][..], &[][..], 1, "this needs a token"),
        (&[], &[("TALLYD_TOKEN", "wrong")], 1, "a token that `tallyd token new` made"),
        (
            &[],
            &[("TALLYD_TOKEN", &*token.replace("tallyd_", "tallyd-"))],
            1,
            "nothing is known of this token",
        ),
        (&[], &[("TALLYD_TOKEN", "two words")], 2, "a token is one word"),
        (&["--token-file", "/nowhere"], &[], 2, "cannot read the token in /nowhere: No such file"),
    ] {
        let output = create(&daemon, words, variables);
        assert_eq!(output.status.code(), Some(code), "{}", said(&output));
        assert!(said(&output).contains(told), "{told}: {}", said(&output));
    }
    let stats = daemon.client.get(daemon.url("/v1/stats")).bearer_auth(&token).send().await;
    assert_eq!(stats.expect("it answers").status(), StatusCode::FORBIDDEN, "it may only create");
    assert_eq!(daemon.get("/-/ready").await.0, StatusCode::OK, "probes have no token");
    assert!(!daemon.log().contains(&token), "{}", daemon.log());
}

#[test]
fn a_block_can_be_put_into_a_file_and_the_token_alone_is_printed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("tokens.toml");
    let path = file.to_str().expect("it is text");
    for name in ["one", "two"] {
        let output = tallyd(&["token", "new", name, "--append-to", path], &[]);
        let printed = String::from_utf8(output.stdout).expect("it is text");
        assert!(printed.len() == 51 && printed.starts_with("tallyd_"), "{printed}");
    }
    let text = std::fs::read_to_string(&file).expect("it is there");
    assert!(text.starts_with("[[tokens]]\nname = \"one\"\n"), "{text}");
    assert!(text.contains("]\n\n[[tokens]]\nname = \"two\"\n"), "{text}");
    let mode = std::fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let config = directory.path().join("tallyd.toml");
    std::fs::write(&config, format!("token_file = {path:?}\n")).expect("it can be written");
    let checked = tallyd(&["check", "--config", config.to_str().expect("it is text")], &[]);
    assert!(checked.status.success(), "{}", said(&checked));
    let output = tallyd(&["token", "new", "a", "--append-to", "/nowhere/tokens"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("cannot put the block into /nowhere/tokens: No such"));
}

#[tokio::test]
async fn what_operators_do_is_in_the_log_with_the_name_of_their_token() {
    let (token, block) = new(&["ada", "--roles", "admin"]);
    let mut daemon = daemon(&[&block]);
    let path = "/v1/queues/default/pause";
    let paused = daemon.client.post(daemon.url(path)).bearer_auth(&token).send().await;
    assert_eq!(paused.expect("it answers").status(), StatusCode::OK);
    let told = daemon.wait_for_log(|line| line["event"] == "operated");
    assert_eq!(
        (&told["token"], &told["path"], &told["level"]),
        (&json!("ada"), &json!(path), &json!("INFO"))
    );
}

#[test]
fn roles_queues_and_an_end_are_in_the_block_and_checked_before_it() {
    let words = ["w", "--roles", "work,create", "--queues", "a,b", "--expires-in", "90d"];
    let (_, block) = new(&words);
    let end = block.split_once("expires_at = ").expect("it ends").1.trim();
    let end: jiff::Timestamp = end.parse().expect("a time");
    let days = end.duration_since(jiff::Timestamp::now()).as_hours();
    assert!((90 * 24 - 1..=90 * 24).contains(&days), "{end}");
    assert!(block.contains("roles = [\"create\", \"work\"]\nqueues = [\"a\", \"b\"]\n"), "{block}");
    for (words, told) in [
        (&["token", "new"][..], "<NAME>"),
        (&["token", "new", "a b"], "must be 1 to 128 of the characters"),
        (&["token", "new", "a", "--roles", "root"], "must be metrics, create, exec, work or admin"),
        (&["token", "new", "a", "--expires-in", "1s"], "must be 1m to 3650d"),
        (&["token", "new", "a", "--roles", "metrics", "--queues", "a"], "a token of its own"),
    ] {
        let output = tallyd(words, &[]);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", said(&output));
        assert!(said(&output).contains(told), "{told}: {}", said(&output));
    }
}

#[tokio::test]
async fn a_hangup_reads_the_tokens_again_and_a_mistake_leaves_them() {
    let [(first, first_block), (second, second_block)] = [new(&["first"]), new(&["second"])];
    let mut daemon = daemon(&[&first_block]);
    assert!(daemon.log().contains(r#""tokens":1"#), "{}", daemon.log());
    assert_eq!(listed(&daemon, &first).await, StatusCode::OK);
    assert_eq!(listed(&daemon, &second).await, StatusCode::UNAUTHORIZED);
    put(&daemon, &[&second_block]);
    daemon.signal(Signal::HUP);
    let told = daemon.wait_for_log(|line| line["event"] == "reloaded");
    assert_eq!((&told["tokens"], &told["keys"]), (&json!(1), &json!(null)), "{told}");
    assert_eq!(listed(&daemon, &first).await, StatusCode::UNAUTHORIZED);
    assert_eq!(listed(&daemon, &second).await, StatusCode::OK);

    put(&daemon, &[&second_block, &second_block]);
    daemon.signal(Signal::HUP);
    let told = daemon.wait_for_log(|line| line["event"] == "reload_failed");
    assert!(told["error"].as_str().is_some_and(|told| told.starts_with("tokens.toml:")), "{told}");
    assert_eq!(listed(&daemon, &second).await, StatusCode::OK);
    // Nobody is let in by a file that a slip has emptied, nor by a configuration without it.
    put(&daemon, &[]);
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(|line| line["event"] == "reload_failed");
    daemon.configure("log_format = \"json\"\n");
    daemon.signal(Signal::HUP);
    let told = daemon.wait_for_log(|line| line["event"] == "reloaded");
    assert_eq!(told["keys"], "token_file, whether callers need tokens", "{told}");
    assert_eq!(daemon.get("/v1/queues").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(listed(&daemon, &second).await, StatusCode::OK);
}

/// The start that would let everybody in is refused, and the one with tokens is not.
#[test]
fn beyond_loopback_tokens_are_needed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("tallyd.toml");
    let check = |text: &str, words: &[&str]| {
        std::fs::write(&file, text).expect("it can be written");
        let path = file.to_str().expect("it is text");
        tallyd(&[&["check", "--config", path, "--listen", "0.0.0.0:8255"], words].concat(), &[])
    };
    let refused = check("", &[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(
        said(&refused).contains("there are no tokens to know callers by"),
        "{}",
        said(&refused)
    );
    assert_eq!(check("", &["--insecure"]).status.code(), Some(0));
    let (token, block) = new(&["app"]);
    let checked = check(&block, &[]);
    assert_eq!(checked.status.code(), Some(0), "{}", said(&checked));
    let printed = String::from_utf8(checked.stdout).expect("it is text");
    assert!(printed.contains("name = \"app\"") && !printed.contains(&token), "{printed}");
    assert!(!Path::new("tallyd.db").exists(), "it looks without starting");
}

#[tokio::test]
async fn prometheus_scrapes_with_a_token_and_without_one_sees_nothing() {
    let (token, block) = new(&["prometheus", "--roles", "metrics"]);
    let daemon = daemon(&[&block]);
    let open = scraping(&daemon.url(""), "500ms");
    let with_token = open.replace(
        "job_name: tallyd,",
        "job_name: tallyd, authorization: {credentials_file: token},",
    );
    let prometheus = Prometheus::start(&with_token, &[("token", &token)]);
    prometheus.scraped().await;
    let known = prometheus.query("tallyd_build_info").await;
    assert_eq!(known.len(), 1, "{known:?}");
    let without = Prometheus::start(&open, &[]);
    let down = without.until("up == 0").await;
    assert_eq!(down.len(), 1, "{down:?}");
    let targets = without.ask("targets", &[]).await;
    let error = &targets["activeTargets"][0]["lastError"];
    assert_eq!(error, "server returned HTTP status 401 Unauthorized");
}
