//! `--web-config`: TLS, client certificates and passwords, as clients, Prometheus and operators meet
//! them.

pub mod authority;
mod certificates;
mod crowd;
mod passwords;
mod reload;

use std::process::{Command, Output};

use reqwest::{Client, StatusCode};
use serde_json::json;

use self::authority::{Authority, Identity};
use crate::fixture::{Daemon, PATIENCE};
use crate::prometheus::Prometheus;
use crate::tools::{promtool, said};

/// The password of users in these tests, and its hash at the least cost.
const PASSWORD: &str = "correct horse";
const HASH: &str = "$2y$04$1p1UEd6ORk4Hw0Ptz1GpOOmWFiL64aqwykS3d5.x/mGMnAeNju6yi";

/// The section that has connections encrypted.
const SECTION: &str = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";

/// `tallyd` in an environment that has nothing.
fn tallyd(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyd"));
    command.env_clear().args(words).output().expect("it runs")
}

/// Text that is one of a test's own paths.
fn path(daemon: &Daemon, name: &str) -> String {
    daemon.path(name).to_str().expect("it is text").to_owned()
}

/// A directory whose daemon is to be protected as this text says, with a certificate for localhost.
fn prepare(config: &str, web: &str, authority: &Authority) -> Daemon {
    let mut daemon = Daemon::prepare(config);
    put(&daemon, &authority.issue(&["localhost", "127.0.0.1"]));
    std::fs::write(daemon.path("ca.pem"), authority.pem()).expect("it can be written");
    std::fs::write(daemon.path("web.yml"), web).expect("it can be written");
    daemon.set("TALLYD_WEB_CONFIG", "web.yml");
    daemon.client = client(authority, None);
    daemon
}

/// The same, started.
fn start(config: &str, web: &str, authority: &Authority) -> Daemon {
    let mut daemon = prepare(config, web, authority);
    daemon.restart();
    daemon
}

/// Replaces the server's certificate and its key.
fn put(daemon: &Daemon, own: &Identity) {
    for (name, text) in [("cert.pem", &own.certificate), ("key.pem", &own.key)] {
        let next = daemon.path(&format!("next-{name}"));
        std::fs::write(&next, text).expect("it can be written");
        std::fs::rename(next, daemon.path(name)).expect("it can be replaced");
    }
}

/// A client that trusts this authority only, and shows this certificate; one connection a request.
pub fn client(authority: &Authority, own: Option<&Identity>) -> Client {
    // It says by which code TLS is done.
    drop(crate::fixture::client());
    let roots = reqwest::Certificate::from_pem(authority.pem().as_bytes()).expect("it is PEM");
    let mut builder = Client::builder()
        .tls_certs_only([roots])
        .tls_info(true)
        .pool_max_idle_per_host(0)
        .timeout(PATIENCE);
    if let Some(own) = own {
        let both = format!("{}{}", own.certificate, own.key);
        builder =
            builder.identity(reqwest::Identity::from_pem(both.as_bytes()).expect("it is PEM"));
    }
    builder.build().expect("it can be built")
}

/// The code of a path for this client; none if there was no answer.
async fn code(client: &Client, daemon: &Daemon, path: &str) -> Option<u16> {
    let answer = client.get(daemon.url(path)).send().await;
    answer.ok().map(|answer| answer.status().as_u16())
}

#[tokio::test]
async fn both_listeners_and_the_command_line_speak_tls() {
    let authority = Authority::new("tests");
    let config = "metrics_listen = \"127.0.0.1:0\"\n";
    let mut daemon = prepare(config, SECTION, &authority);
    daemon.launch();
    let line = daemon.wait_for_log(|line| line["message"] == "serving metrics");
    let metrics = format!("https://{}", line["address"].as_str().expect("it says where"));
    assert!(daemon.serves(), "{}", daemon.log());
    assert!(daemon.url("").starts_with("https://127.0.0.1:"), "{}", daemon.url(""));
    let (status, _) = daemon.post("/v1/jobs", json!({"kind": "k"})).await;
    assert_eq!(status, StatusCode::CREATED);
    let scraped = daemon.client.get(format!("{metrics}/metrics")).send().await.expect("it answers");
    let text = scraped.text().await.expect("it is whole");
    assert!(text.contains("tallyd_jobs_created_total{queue=\"default\",kind=\"k\"} 1\n"), "{text}");

    let (server, ca) = (daemon.url("").replace("127.0.0.1", "localhost"), path(&daemon, "ca.pem"));
    let create = ["create", "default", "k", "--server", &server];
    let created = tallyd(&[&create[..], &["--ca-file", &ca]].concat());
    assert!(created.status.success(), "{}", said(&created));
    let key = path(&daemon, "key.pem");
    for (words, exit, told) in [
        (
            &[][..],
            1,
            "its certificate is of no authority that is trusted here; --ca-file names others",
        ),
        (&["--ca-file", "/nowhere"], 2, "cannot read the authorities in /nowhere: No such file"),
        (&["--ca-file", &key], 2, "the file of authorities must have their certificates in PEM"),
        (
            &["--client-cert-file", &ca],
            2,
            "the file of the client's certificate must have it and its key, both in PEM",
        ),
    ] {
        let refused = tallyd(&[&create[..], words].concat());
        let both = said(&refused);
        assert_eq!(refused.status.code(), Some(exit), "{words:?}: {both}");
        assert!(both.contains(told), "{words:?}: {both}");
    }
}

#[tokio::test]
async fn plain_http_is_told_to_use_https_and_the_next_connection_is_served() {
    let authority = Authority::new("tests");
    let daemon = start("", SECTION, &authority);
    let plain = daemon.url("/-/ready").replace("https://", "http://");
    let answer = crate::fixture::client().get(plain).timeout(PATIENCE).send().await;
    let answer = answer.expect("it answers");
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let text = answer.text().await.expect("it is whole");
    assert!(text.contains("Client sent an HTTP request to an HTTPS server."), "{text}");
    assert_eq!(code(&daemon.client, &daemon, "/-/ready").await, Some(200));
}

/// As a service manager hands it over: with connections that wait already.
#[tokio::test]
async fn a_socket_that_was_open_before_is_served_under_tls_too() {
    let authority = Authority::new("tests");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it has one");
    let mut daemon = prepare("", SECTION, &authority);
    daemon.hand_over(listener.into());
    daemon.set("LISTEN_FDS", "1");
    daemon.set("LISTEN_FDNAMES", "http");
    daemon.wrap(&["sh", "-c", "LISTEN_PID=$$ exec \"$@\" 3<&0 < /dev/null", "sh"]);
    let early = daemon.client.get(format!("https://{address}/-/ready")).send();
    let early = tokio::spawn(early);
    daemon.restart();
    assert_eq!(early.await.expect("it ends").expect("it is answered").status(), StatusCode::OK);
    assert_eq!(daemon.url(""), format!("https://{address}"));
}

/// Every connection is counted until it ends, whatever became of its handshake; a drain waits for
/// requests, and not for who only connected.
#[tokio::test]
async fn connections_are_counted_whatever_their_handshake_came_to_and_a_drain_ends_them() {
    use std::io::Write;
    let authority = Authority::new("tests");
    let mut daemon = start("", SECTION, &authority);
    let address = daemon.url("").replace("https://", "");
    let open: Vec<_> = (0..20)
        .map(|number| {
            let mut stream = std::net::TcpStream::connect(&address).expect("it connects");
            // Some begin a handshake and some say nothing.
            stream.write_all(&[0x16, 3, 1][..number % 4]).expect("it is taken");
            stream
        })
        .collect();
    let connections = async |wanted: &str| {
        let sample = format!("\ntallyd_http_connections {wanted}\n");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !daemon.scrape().await.text.contains(&sample) {
            assert!(tokio::time::Instant::now() < deadline, "never {wanted}");
        }
    };
    connections("21").await;
    drop(open);
    connections("1").await;
    let text = daemon.scrape().await.text;
    assert!(text.contains("tallyd_rejected_total{reason=\"invalid_request\"} 15\n"), "{text}");

    let lease = json!({"queues": ["default"], "wait": "60s"});
    let waiting = daemon.client.post(daemon.url("/v1/leases")).json(&lease).send();
    let waiting = tokio::spawn(waiting);
    connections("2").await;
    let silent = std::net::TcpStream::connect(&address).expect("it connects");
    let status = tokio::task::spawn_blocking(move || daemon.stop()).await.expect("it stops");
    assert!(status.success(), "{status}");
    let answer = waiting.await.expect("it ends").expect("it is answered");
    assert!(answer.status().is_success() || answer.status() == 503, "{}", answer.status());
    drop(silent);
}

#[tokio::test]
async fn prometheus_scrapes_under_tls_with_a_password_and_with_a_token() {
    let authority = Authority::new("tests");
    let web = format!("{SECTION}basic_auth_users:\n  prometheus: {HASH}\n");
    let made = tallyd(&["token", "new", "scraper", "--roles", "metrics"]);
    let made = String::from_utf8(made.stdout).expect("it is text");
    let (token, block) = made.split_once("\n\n").expect("the token and its block");
    let daemon = start(block, &web, &authority);
    let target = daemon.url("").replace("https://127.0.0.1", "localhost");
    let job = |name: &str, how: &str| {
        format!(
            "- {{job_name: {name}, scheme: https, tls_config: {{ca_file: ca.pem}}, {how} \
             static_configs: [{{targets: ['{target}']}}]}}\n"
        )
    };
    let config = [
        "global: {scrape_interval: 200ms}\nscrape_configs:\n",
        &job("password", "basic_auth: {username: prometheus, password_file: password},"),
        &job("token", "authorization: {credentials_file: token},"),
        &job("wrong", "basic_auth: {username: prometheus, password: wrong},"),
        &job("nobody", ""),
    ];
    let files = [("ca.pem", &*authority.pem()), ("password", PASSWORD), ("token", token)];
    let prometheus = Prometheus::start(&config.concat(), &files);
    for (name, up) in [("password", 1), ("token", 1), ("wrong", 0), ("nobody", 0)] {
        prometheus.until(&format!("up{{job=\"{name}\"}} == {up}")).await;
    }
    let seen = prometheus.query("tallyd_build_info").await;
    let mut jobs: Vec<_> = seen.iter().map(|series| series.label("job")).collect();
    jobs.sort_unstable();
    assert_eq!(jobs, ["password", "token"]);
}

/// What tallyd takes, Prometheus' own tool takes too, with each key but those that
/// promtool 2.42 does not know: `cert`, `key`, `client_ca`, `client_allowed_sans` and `rate_limit`
/// follow the documentation of the format only.
#[test]
fn promtool_takes_the_files_that_tallyd_takes() {
    let authority = Authority::new("tests");
    let daemon = prepare("", "", &authority);
    let verified = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";
    let versions = "  min_version: TLS12\n  max_version: TLS13\n  prefer_server_cipher_suites: true\n\
                    \u{20}\u{20}cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]\n\
                    \u{20}\u{20}curve_preferences: [X25519, CurveP256, CurveP384]\n";
    let rest = format!(
        "http_server_config:\n  http2: true\n  headers:\n    X-Frame-Options: deny\n\
         basic_auth_users:\n  prometheus: {HASH}\n"
    );
    let file = path(&daemon, "web.yml");
    for (web, are_both_right) in [
        (SECTION.to_owned(), true),
        (rest.clone(), true),
        (format!("{SECTION}{verified}{versions}{rest}"), true),
        (format!("{SECTION}  min_version: TLS14\n"), false),
        (format!("{SECTION}  client_ca_file: ca.pem\n"), false),
        (rest.replace("X-Frame-Options: deny", "X-Frame-Options: never"), false),
        (rest.replace(HASH, PASSWORD), false),
        (SECTION.replace("key.pem", "ca.pem"), false),
        (SECTION.replace("cert_file", "certificate"), false),
    ] {
        std::fs::write(&file, &web).expect("it can be written");
        let theirs = promtool(&["check", "web-config", &file], "");
        assert_eq!(theirs.status.success(), are_both_right, "{web}{}", said(&theirs));
        let ours = tallyd(&["check", "--web-config", &file]);
        let exit = if are_both_right { 0 } else { 2 };
        assert_eq!(ours.status.code(), Some(exit), "{web}{}", said(&ours));
        if !are_both_right {
            let place = format!("{file}:");
            assert!(said(&ours).contains(&place), "{web}{}", said(&ours));
        }
        assert!(!said(&ours).contains(HASH), "{}", said(&ours));
    }
}

/// The example of the README is right to both, and its part of `prometheus.yml` to promtool.
#[test]
fn the_readme_tells_what_works() {
    let authority = Authority::new("tests");
    let daemon = prepare("", "", &authority);
    let own = authority.issue(&["jobs.example.com"]);
    for (name, text) in [
        ("tallyd.crt", &own.certificate),
        ("tallyd.key", &own.key),
        ("clients.crt", &authority.pem()),
        ("ca.crt", &authority.pem()),
        ("prometheus.crt", &own.certificate),
        ("prometheus.key", &own.key),
        ("password", &PASSWORD.to_owned()),
    ] {
        std::fs::write(daemon.path(name), text).expect("it can be written");
    }
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once("\n## Under TLS\n").expect("there is the section");
    let mut blocks = section.split("```yaml\n").skip(1);
    let mut block = || blocks.next().and_then(|rest| rest.split("```").next()).expect("a block");
    let (web, scraping) = (path(&daemon, "web.yml"), path(&daemon, "prometheus.yml"));
    let example = block();
    assert!(example.contains("RequireAndVerifyClientCert"), "{example}");
    std::fs::write(&web, example).expect("it can be written");
    let theirs = promtool(&["check", "web-config", &web], "");
    assert!(theirs.status.success(), "{}", said(&theirs));
    let ours = tallyd(&["check", "--listen", "0.0.0.0:8255", "--web-config", &web]);
    assert!(ours.status.success(), "{}", said(&ours));
    std::fs::write(&scraping, format!("scrape_configs:\n{}", block())).expect("it can be written");
    let theirs = promtool(&["check", "config", &scraping], "");
    assert!(theirs.status.success(), "{}", said(&theirs));
}

/// Encryption alone says nothing of who calls, and whoever has any certificate of the authority could
/// create jobs that run commands.
#[test]
fn beyond_loopback_callers_must_be_known_by_password_or_token_and_a_certificate_is_not_enough() {
    let authority = Authority::new("tests");
    let daemon = prepare("", "", &authority);
    let file = path(&daemon, "web.yml");
    let verified = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";
    let given = verified.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven");
    for (web, exit) in [
        (SECTION.to_owned(), 2),
        (format!("{SECTION}{given}"), 2),
        (format!("{SECTION}  client_auth_type: RequireAnyClientCert\n"), 2),
        (format!("{SECTION}{verified}"), 2),
        (format!("{SECTION}{verified}basic_auth_users:\n  prometheus: {HASH}\n"), 0),
        (format!("basic_auth_users:\n  prometheus: {HASH}\n"), 0),
    ] {
        std::fs::write(&file, &web).expect("it can be written");
        let checked = tallyd(&["check", "--listen", "0.0.0.0:8255", "--web-config", &file]);
        assert_eq!(checked.status.code(), Some(exit), "{web}{}", said(&checked));
        let is_told = said(&checked).contains("there are no tokens to know callers by");
        assert_eq!(is_told, exit == 2, "{web}{}", said(&checked));
    }
    std::fs::write(&file, format!("{SECTION}{verified}")).expect("it can be written");
    let open = ["check", "--insecure", "--listen", "0.0.0.0:8255", "--web-config", &file];
    assert!(tallyd(&open).status.success());
}

#[tokio::test]
async fn the_start_says_that_a_file_protects_nothing() {
    let authority = Authority::new("tests");
    for (web, is_told) in [("basic_auth_users: {}\n", true), (SECTION, false)] {
        let mut daemon = start("", web, &authority);
        let log = daemon.log();
        assert_eq!(log.contains("web_config_open"), is_told, "{log}");
        assert!(daemon.stop().success());
    }
}

#[tokio::test]
async fn answers_have_the_headers_of_the_file_and_requests_past_its_limit_are_refused() {
    let authority = Authority::new("tests");
    let web = "http_server_config:\n  headers:\n    Strict-Transport-Security: max-age=600\n\
               rate_limit:\n  interval: 1h\n  burst: 3\n";
    let daemon = start("", web, &authority);
    for _ in 0..3 {
        let answer = daemon.client.get(daemon.url("/v1/queues")).send().await.expect("it answers");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["strict-transport-security"], "max-age=600");
    }
    let (status, refused) = daemon.get("/v1/queues").await;
    assert_eq!((status.as_u16(), &refused["error"]["code"]), (429, &json!("rate_limited")));
    assert_eq!(daemon.get("/-/ready").await.0, StatusCode::OK, "probes are let through");
}
