//! Files that change while the daemon serves.

use std::fs;

use reqwest::tls::TlsInfo;
use rustix::process::Signal;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, interval, timeout};

use super::crowd::connector;
use super::{Authority, HASH, PASSWORD, SECTION, client, code, prepare, put, start};
use crate::crowds::{READING, connect};
use crate::fixture::{Daemon, PATIENCE};

/// How often a wait looks again.
const LOOK: std::time::Duration = std::time::Duration::from_millis(50);

/// The certificate that a new connection meets.
async fn met(daemon: &Daemon) -> Vec<u8> {
    let answer = daemon.client.get(daemon.url("/-/ready")).send().await.expect("it answers");
    let info = answer.extensions().get::<TlsInfo>().expect("it was asked for");
    info.peer_certificate().expect("there is one").to_vec()
}

/// Connects until another certificate than this one is met.
async fn met_instead_of(daemon: &Daemon, old: &[u8]) -> Vec<u8> {
    let (mut looks, deadline) = (interval(LOOK), Instant::now() + PATIENCE);
    loop {
        looks.tick().await;
        let met = met(daemon).await;
        if met != old {
            return met;
        }
        assert!(Instant::now() < deadline, "it stays the old one");
    }
}

/// Connects until the log has this event, which is taken note of.
async fn told(daemon: &mut Daemon, event: &str) -> String {
    let (mut looks, deadline) = (interval(LOOK), Instant::now() + PATIENCE);
    loop {
        looks.tick().await;
        assert_eq!(code(&daemon.client, daemon, "/-/ready").await, Some(200));
        let log = daemon.log();
        if let Some(line) = log.lines().rev().find(|line| line.contains(event)) {
            return line.to_owned();
        }
        assert!(Instant::now() < deadline, "no {event}: {log}");
    }
}

#[tokio::test]
async fn new_connections_meet_a_new_certificate_and_a_broken_one_changes_nothing() {
    let authority = Authority::new("tests");
    let mut daemon = start("", SECTION, &authority);
    let first = met(&daemon).await;
    put(&daemon, &authority.issue(&["localhost", "127.0.0.1"]));
    let second = met_instead_of(&daemon, &first).await;

    fs::write(daemon.path("key.pem"), "no key").expect("it can be written");
    let line = told(&mut daemon, "web_config_failed").await;
    assert!(
        line.contains("web.yml:3: tls_server_config.key_file must have a private key"),
        "{line}"
    );
    assert_eq!(met(&daemon).await, second);
    // One line for one change, however many connect.
    let since = Instant::now();
    while since.elapsed() < 2 * std::time::Duration::from_secs(1) {
        assert_eq!(met(&daemon).await, second);
    }
    assert_eq!(daemon.log().matches("web_config_failed").count(), 1, "{}", daemon.log());

    put(&daemon, &authority.issue(&["localhost", "127.0.0.1"]));
    met_instead_of(&daemon, &second).await;
}

#[tokio::test]
async fn a_hangup_reads_it_at_once_and_a_mistake_leaves_all_as_it_is() {
    let authority = Authority::new("tests");
    let mut daemon = start("", SECTION, &authority);
    let first = met(&daemon).await;
    put(&daemon, &authority.issue(&["localhost", "127.0.0.1"]));
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(|line| line["event"] == "reloaded");
    let second = met(&daemon).await;
    assert_ne!(second, first);
    fs::write(daemon.path("web.yml"), "tls_server: {}").expect("it can be written");
    daemon.signal(Signal::HUP);
    let line = daemon.wait_for_log(|line| line["event"] == "reload_failed");
    let error = line["error"].as_str().expect("it says why");
    assert!(error.starts_with("web.yml:1: unknown key tls_server; valid here are"), "{error}");
    assert_eq!(met(&daemon).await, second);
}

/// No slip in a file opens what a start has closed.
#[tokio::test]
async fn what_protects_at_all_is_not_taken_away_while_serving() {
    let authority = Authority::new("tests");
    let users = format!("basic_auth_users:\n  prometheus: {HASH}\n");
    let mut daemon = start("", &format!("{SECTION}{users}"), &authority);
    for (web, told_of) in [
        (&*users, "whether connections are encrypted"),
        (SECTION, "whether there are users"),
        ("", "whether connections are encrypted"),
    ] {
        fs::write(daemon.path("web.yml"), web).expect("it can be written");
        daemon.signal(Signal::HUP);
        let line = daemon.wait_for_log(|line| line["event"] == "reloaded");
        assert_eq!((&line["keys"], &line["level"]), (&json!(told_of), &json!("WARN")), "{line}");
        assert_eq!(code(&daemon.client, &daemon, "/metrics").await, Some(401), "{web}");
    }
    // Without a signal as well.
    fs::write(daemon.path("web.yml"), &*users).expect("it can be written");
    let line = told(&mut daemon, "web_config_kept").await;
    assert!(line.contains("whether connections are encrypted"), "{line}");
}

/// Also if nobody else connects, and so nothing else has the files looked at.
#[tokio::test]
async fn a_kept_connection_of_an_authority_that_is_trusted_no_more_ends() {
    let [ours, old, new] = ["tests", "old", "new"].map(Authority::new);
    let asking = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: clients.pem\n";
    let mut daemon = prepare("", &format!("{SECTION}{asking}"), &ours);
    fs::write(daemon.path("clients.pem"), old.pem()).expect("it can be written");
    daemon.restart();
    let own = old.issue(&["a.example"]);
    let both = format!("{}{}", own.certificate, own.key);
    let identity = reqwest::Identity::from_pem(both.as_bytes()).expect("it is PEM");
    let roots = reqwest::Certificate::from_pem(ours.pem().as_bytes()).expect("it is PEM");
    let kept = reqwest::Client::builder().tls_certs_only([roots]).identity(identity);
    let kept = kept.timeout(PATIENCE).build().expect("it can be built");
    assert_eq!(code(&kept, &daemon, "/v1/queues").await, Some(200));
    fs::write(daemon.path("clients.pem"), new.pem()).expect("it can be written");
    let (mut looks, deadline) = (interval(LOOK), Instant::now() + PATIENCE);
    while code(&kept, &daemon, "/v1/queues").await.is_some() {
        looks.tick().await;
        assert!(Instant::now() < deadline, "it stays in");
    }
    assert_eq!(code(&kept, &daemon, "/v1/queues").await, None);
    let next = client(&ours, Some(&new.issue(&["a.example"])));
    assert_eq!(code(&next, &daemon, "/v1/queues").await, Some(200));
}

/// Nor is anybody let in who has shaken hands before and asked nothing yet.
#[tokio::test]
async fn a_connection_that_asked_nothing_before_a_change_is_not_answered_after_it() {
    let authority = Authority::new("tests");
    let mut daemon = start("", SECTION, &authority);
    let name = ServerName::try_from("localhost").expect("it is a name");
    let shaken = connector(&authority).connect(name, connect(&daemon).await).await;
    let mut silent = shaken.expect("hands are shaken");
    let headers = "http_server_config: {headers: {X-Frame-Options: deny}}\n";
    fs::write(daemon.path("web.yml"), format!("{SECTION}{headers}")).expect("it can be written");
    daemon.signal(Signal::HUP);
    daemon.wait_for_log(|line| line["event"] == "web_config_reloaded");
    // It may be closed already, in any way.
    drop(silent.write_all(READING.as_bytes()).await);
    drop(silent.flush().await);
    let mut answer = Vec::new();
    drop(timeout(PATIENCE, silent.read_to_end(&mut answer)).await.expect("it ends"));
    assert_eq!(String::from_utf8_lossy(&answer), "");
}

/// Whoever could not connect without a certificate, or with just any, cannot after a reload either.
#[tokio::test]
async fn certificates_that_a_start_asked_for_are_asked_for_until_the_next() {
    let (ours, strange) = (Authority::new("tests"), Authority::new("strangers"));
    let [own, other] = [&ours, &strange].map(|authority| authority.issue(&["a.example"]));
    let asking = |policy: &str| {
        let ca = if policy.contains("Verify") { "  client_ca_file: ca.pem\n" } else { "" };
        format!("{SECTION}  client_auth_type: {policy}\n{ca}")
    };
    let needed = "whether clients need a certificate";
    let verified = "whether certificates of clients are verified";
    for (was, is, told_of, refused) in [
        ("RequireAnyClientCert", "RequestClientCert", needed, None),
        ("RequireAndVerifyClientCert", "VerifyClientCertIfGiven", needed, None),
        ("RequireAndVerifyClientCert", "RequireAnyClientCert", verified, Some(&other)),
        ("VerifyClientCertIfGiven", "RequestClientCert", verified, Some(&other)),
    ] {
        let mut daemon = prepare("", &asking(was), &ours);
        daemon.client = client(&ours, Some(&own));
        daemon.restart();
        fs::write(daemon.path("web.yml"), asking(is)).expect("it can be written");
        let line = told(&mut daemon, "web_config_kept").await;
        assert!(line.contains(told_of), "{was} {is}: {line}");
        daemon.signal(Signal::HUP);
        let line = daemon.wait_for_log(|line| line["event"] == "reloaded");
        assert_eq!((&line["keys"], &line["level"]), (&json!(told_of), &json!("WARN")), "{line}");
        let stranger = client(&ours, refused);
        assert_eq!(code(&stranger, &daemon, "/-/ready").await, None, "{was} {is}");
        assert_eq!(code(&daemon.client, &daemon, "/-/ready").await, Some(200), "{was} {is}");
    }
}

#[tokio::test]
async fn users_come_and_go_with_the_file_also_on_connections_that_are_kept() {
    let authority = Authority::new("tests");
    let file = |name: &str| format!("basic_auth_users:\n  {name}: {HASH}\n");
    let daemon = start("", &file("ada"), &authority);
    let kept = crate::fixture::client();
    let code = async |name: &str| {
        let request = kept.get(daemon.url("/metrics")).basic_auth(name, Some(PASSWORD));
        request.send().await.expect("it answers").status().as_u16()
    };
    assert_eq!((code("ada").await, code("bob").await), (200, 401));
    fs::write(daemon.path("web.yml"), file("bob")).expect("it can be written");
    let (mut looks, deadline) = (interval(LOOK), Instant::now() + PATIENCE);
    while code("ada").await == 200 {
        looks.tick().await;
        assert!(Instant::now() < deadline, "it stays so");
    }
    assert_eq!((code("ada").await, code("bob").await), (401, 200));
}
