//! A web configuration with secrets in it, right and wrong: nothing tells one.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::AUTHORIZATION;
use rustix::process::Signal;

use super::{MARK, assert_tells_nothing, run};
use crate::fixture::Daemon;
use crate::tls::authority::Authority;
use crate::tls::client;
use crate::tools::said;

/// A password, and its hash at the least cost with a salt that begins as a mark.
const PASSWORD: &str = "Xq7markpassword";
const HASH: &str = "$2y$04$Xq7markAAAAAAAAAAAAAA.bJ5cfheKfdbX0jXqEWCJcrD5tqjf9.y";

/// An authority, the text of a certificate, and that of its key.
struct Own {
    authority: Authority,
    certificate: String,
    key: String,
}

impl Own {
    fn new() -> Self {
        let authority = Authority::new("tests");
        let own = authority.issue(&["localhost", "127.0.0.1"]);
        Self { authority, certificate: inline(&own.certificate), key: inline(&own.key) }
    }

    /// What would tell a part of the key: pieces of it, so that a cut message is found as well.
    fn pieces(&self) -> Vec<&str> {
        let lines = self.key.lines().map(str::trim).filter(|line| !line.contains("-----"));
        let pieces = lines.flat_map(|line| (0..line.len() / 16).map(|at| &line[at * 16..][..16]));
        pieces.collect()
    }

    fn section(&self) -> String {
        format!("tls_server_config:\n  cert: |\n{}  key: |\n{}", self.certificate, self.key)
    }

    /// All of it, as it should be.
    fn right(&self) -> String {
        format!("{}basic_auth_users:\n  scraper: {HASH}\n", self.section())
    }

    /// Files in which something is wrong with, or beside, a secret.
    fn broken(&self) -> Vec<String> {
        let right = self.right();
        let user = format!("  scraper: {HASH}\n");
        let users = [
            format!("  scraper: {PASSWORD}\n"),
            format!("  scraper: [{HASH}]\n"),
            format!("  scraper: {{{HASH}: 1}}\n"),
            format!("  scraper {HASH}\n"),
            format!("  scraper: {HASH}x\n"),
            format!("  scraper: {}\n", &HASH[..40]),
            format!("  scraper: {}\n", HASH.replace("$04$", "$20$")),
            format!("  scraper: \"{HASH}\n"),
            format!("  scraper: *{MARK}\n"),
            format!("{user}{user}"),
            format!("{user}  \"a:b\": {HASH}\n"),
            format!("{user}  other: {HASH}: {PASSWORD}\n"),
        ];
        let mut broken: Vec<_> = users.iter().map(|users| right.replace(&user, users)).collect();
        broken.extend([
            right.replace("users:\n  scraper:", "users:"),
            right.replace("basic_auth_users:\n  scraper", "scraper"),
            right.replace("basic_auth_users", "basic_auth_user"),
            right.replace("  key: |", "  kye: |"),
            right.replace("  key: |", "  key_file: |"),
            right.replace("  key: |", "  key_file: >"),
            right.replace("  key: |", "  key: >"),
            right.replace("  key: |", "  key:"),
            right.replace("  key: |", "  client_ca_file: |"),
            right.replace("  key: |", "  min_version: |"),
            right.replace("BEGIN PRIVATE KEY", "BEGIN SECRET KEY"),
            right.replace("-----END PRIVATE KEY-----", ""),
            right.replace("-----END PRIVATE KEY-----", "!-----END PRIVATE KEY-----"),
            right.replace("-----BEGIN PRIVATE KEY-----\n", "-----BEGIN PRIVATE KEY-----\nAAAA"),
        ]);
        broken
    }
}

/// Text as a block of YAML has it.
fn inline(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

#[tokio::test]
async fn no_secret_of_a_web_configuration_is_in_the_log_nor_in_an_answer() {
    let own = Own::new();
    let mut daemon = Daemon::prepare("");
    fs::write(daemon.path("web.yml"), own.right()).expect("it can be written");
    daemon.set("TALLYD_WEB_CONFIG", "web.yml");
    daemon.client = client(&own.authority, None);
    daemon.restart();
    let sent = STANDARD.encode(format!("scraper:{PASSWORD}"));
    let wrong = STANDARD.encode(format!("scraper:{MARK}wrong"));
    let secrets = [&[&*sent, &wrong, HASH], &*own.pieces()].concat();
    for (path, credentials, code) in [
        ("/metrics", &*sent, 200),
        ("/v1/jobs", &sent, 403),
        ("/metrics", &wrong, 401),
        ("/metrics", "Xq7mark!", 401),
        ("/Xq7markpath", &wrong, 401),
    ] {
        let request = daemon.client.get(daemon.url(path));
        let request = request.header(AUTHORIZATION, format!("Basic {credentials}"));
        let answer = request.send().await.expect("it answers");
        assert_eq!(answer.status().as_u16(), code, "{path} {credentials}");
        assert_tells_nothing(path, &answer.text().await.expect("it is whole"), &secrets);
    }
    for broken in own.broken() {
        fs::write(daemon.path("web.yml"), broken).expect("it can be written");
        daemon.signal(Signal::HUP);
        daemon.wait_for_log(|line| line["event"] == "reload_failed");
    }
    daemon.signal(Signal::TERM);
    daemon.wait_for_log(|line| line["event"] == "drained");
    let log = daemon.log();
    assert!(log.contains(r#""code":"unauthorized""#) && log.contains("basic_auth_users"), "{log}");
    assert_tells_nothing("the log", &log, &secrets);
    assert!(daemon.wait().success());
}

#[test]
fn what_is_wrong_in_a_web_configuration_is_told_without_its_secrets() {
    let own = Own::new();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("web.yml");
    let secrets = [&[HASH], &*own.pieces()].concat();
    fs::write(&file, own.right()).expect("it can be written");
    let right = run(directory.path(), &["check", "--web-config", "web.yml"]);
    assert!(right.status.success(), "{}", said(&right));
    assert_tells_nothing("check", &said(&right), &secrets);
    let mut told = Vec::new();
    for text in own.broken() {
        fs::write(&file, &text).expect("it can be written");
        for command in ["check", "serve"] {
            let output = run(directory.path(), &[command, "--web-config", "web.yml"]);
            assert_eq!(output.status.code(), Some(2), "{text}\n{}", said(&output));
            let said = said(&output);
            assert!(said.contains("web.yml:"), "{text}\n{said}");
            if [&[MARK], &*secrets].concat().iter().any(|secret| said.contains(secret)) {
                told.push(format!("{text}\n{said}"));
            }
        }
    }
    assert!(told.is_empty(), "{}", told.join("\n\n"));
}
