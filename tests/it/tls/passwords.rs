//! Users with passwords: what they may read, what they may not, and how often they may be wrong.

use std::net::IpAddr;

use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::{Authority, HASH, PASSWORD, SECTION, start, tallyd};
use crate::fixture::{Daemon, PATIENCE};

fn web() -> String {
    format!("{SECTION}basic_auth_users:\n  prometheus: {HASH}\n")
}

/// The code of a request, and the one in its answer.
async fn answer(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.expect("it answers");
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap_or_default();
    (status, body["error"]["code"].clone())
}

async fn with(daemon: &Daemon, path: &str, user: &str, password: &str) -> u16 {
    let request = daemon.client.get(daemon.url(path)).basic_auth(user, Some(password));
    answer(request).await.0
}

#[tokio::test]
async fn a_user_reads_the_counts_and_does_nothing_else() {
    let made = tallyd(&["token", "new", "app", "--roles", "create"]);
    let made = String::from_utf8(made.stdout).expect("it is text");
    let (token, block) = made.split_once("\n\n").expect("the token and its block");
    let mut daemon = start(block, &web(), &Authority::new("tests"));
    for path in ["/metrics", "/v1/stats", "/v1/queues", "/openapi.json", "/"] {
        assert_eq!(with(&daemon, path, "prometheus", PASSWORD).await, 200, "{path}");
    }
    for path in ["/v1/jobs", "/v1/jobs/01890000-0000-7000-8000-000000000000"] {
        assert_eq!(with(&daemon, path, "prometheus", PASSWORD).await, 403, "{path}");
    }
    for path in ["/v1/jobs", "/v1/leases", "/v1/backup", "/v1/queues/default/pause"] {
        let request = daemon.client.post(daemon.url(path)).json(&json!({"kind": "k"}));
        let refused = answer(request.basic_auth("prometheus", Some(PASSWORD))).await;
        assert_eq!(refused, (403, json!("forbidden")), "{path}");
    }
    let create = daemon.client.post(daemon.url("/v1/jobs")).json(&json!({"kind": "k"}));
    assert_eq!(answer(create.bearer_auth(token)).await.0, 201, "that is what tokens are for");
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(daemon.get(path).await.0, StatusCode::OK, "{path} needs nothing");
    }
    let log = daemon.log();
    assert!(log.contains(r#""token":"prometheus""#), "it is said who read: {log}");
    for secret in [PASSWORD, HASH, token, "cHJvbWV0aGV1czpjb3JyZWN0IGhvcnNl"] {
        assert!(!log.contains(secret), "{secret}: {log}");
    }
}

#[tokio::test]
async fn without_tokens_the_start_says_that_users_may_only_read() {
    let mut daemon = start("", &web(), &Authority::new("tests"));
    let log = daemon.log();
    assert!(log.contains("users_only") && log.contains("`tallyd token new NAME`"), "{log}");
    let (status, refused) = daemon.post("/v1/jobs", json!({"kind": "k"})).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{refused}");
    assert_eq!(with(&daemon, "/metrics", "prometheus", PASSWORD).await, 200);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_are_told_the_same_and_soon_to_slow_down() {
    let daemon = start("", &web(), &Authority::new("tests"));
    let mut told = Vec::new();
    for (user, password) in [("prometheus", "wrong"), ("nobody", PASSWORD), ("nobody", "wrong")] {
        let request = daemon.client.get(daemon.url("/metrics")).basic_auth(user, Some(password));
        let refused = request.send().await.expect("it answers");
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        let schemes = refused.headers().get_all("www-authenticate").iter();
        let schemes: Vec<_> =
            schemes.map(|scheme| scheme.to_str().expect("ASCII").to_owned()).collect();
        assert_eq!(schemes, ["Bearer realm=\"tallyd\"", "Basic realm=\"tallyd\""]);
        told.push(refused.text().await.expect("it is whole"));
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(with(&daemon, "/metrics", "prometheus", PASSWORD).await, 200);
    use_up(&daemon).await;
    assert_eq!(with(&daemon, "/metrics", "prometheus", PASSWORD).await, 200, "it was right before");
}

/// Guesses until no guess is looked at.
async fn use_up(daemon: &Daemon) {
    let mut tries = 0;
    loop {
        let guess = format!("guess {tries}");
        let request =
            daemon.client.get(daemon.url("/metrics")).basic_auth("prometheus", Some(guess));
        match answer(request).await {
            (401, _) => tries += 1,
            refused => break assert_eq!(refused, (429, json!("too_many_failures"))),
        }
        assert!(tries < 5_000, "nobody is ever slowed down");
    }
}

/// Else whoever guesses learned at full speed which guess is right.
#[tokio::test]
async fn while_guesses_are_slowed_down_a_right_one_from_another_address_is_told_the_same() {
    let authority = Authority::new("tests");
    let daemon = start("", &web(), &authority);
    assert_eq!(with(&daemon, "/metrics", "prometheus", PASSWORD).await, 200);
    let roots = reqwest::Certificate::from_pem(authority.pem().as_bytes()).expect("it is PEM");
    let mut answers = Vec::new();
    // Some guesses are looked at again in each second: then the next address is asked from.
    for last in 2..=100 {
        let client = reqwest::Client::builder().tls_certs_only([roots.clone()]);
        let client = client.local_address(IpAddr::from([127, 0, 0, last])).timeout(PATIENCE);
        let client = client.build().expect("it can be built");
        use_up(&daemon).await;
        let request = client.get(daemon.url("/metrics"));
        let answered = answer(request.basic_auth("prometheus", Some(PASSWORD))).await;
        if answered == (429, json!("too_many_failures")) {
            return;
        }
        answers.push(answered);
    }
    panic!("it is always told that it is right: {answers:?}");
}
