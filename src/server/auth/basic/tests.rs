//! What passwords let in, and how often they are looked at.

use std::net::Ipv4Addr;
use std::pin::pin;

use axum::http::HeaderValue;

use super::*;
use crate::config::Web;

/// Users whose passwords are their names, at the least cost.
fn users(names: &[&str]) -> Users {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("web.yml");
    let mut text = "basic_auth_users:\n".to_owned();
    for name in names {
        let hash = bcrypt::hash(name, 4).expect("it can be hashed");
        text.push_str(&format!("  {name}: {hash}\n"));
    }
    std::fs::write(&file, text).expect("it can be written");
    Web::load(&file).expect("it is right").users
}

fn credentials(user: &str, password: &str) -> Credentials {
    Credentials { user: user.to_owned(), password: password.into() }
}

/// Where requests come from, and where others do.
const HERE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
const ELSEWHERE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));

async fn check(
    passwords: &Passwords,
    users: &Users,
    user: &str,
    password: &str,
) -> Result<(), Unknown> {
    check_from(HERE, passwords, users, [user, password]).await
}

async fn check_from(
    peer: Option<IpAddr>,
    passwords: &Passwords,
    users: &Users,
    [user, password]: [&str; 2],
) -> Result<(), Unknown> {
    passwords.check(users, credentials(user, password), peer).await.map(|caller| {
        assert_eq!(caller.name(), Some(user));
        assert_eq!(caller.check(super::super::Needs::READERS_OF_COUNTS), Ok(()));
        assert!(caller.check(super::super::Needs::CREATORS).is_err(), "it may only read");
    })
}

#[test]
fn credentials_are_what_the_header_says_and_nothing_else() {
    let presented = |values: &[&'static str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        Credentials::presented(&headers)
    };
    // "user:pass:word" and "üser:" as UTF-8.
    let right = Some(Ok(credentials("user", "pass:word")));
    assert!(presented(&["Basic dXNlcjpwYXNzOndvcmQ="]) == right);
    assert!(presented(&["bASIC  dXNlcjpwYXNzOndvcmQ="]) == right);
    assert!(presented(&["Basic w7xzZXI6"]) == Some(Ok(credentials("üser", ""))));
    let malformed = Some(Err(Unknown::MalformedPassword));
    for wrong in ["Basic dXNlcg==", "Basic ???", "Basic /zpw", "Basic "] {
        assert!(presented(&[wrong]) == malformed, "{wrong}");
    }
    for other in [&[][..], &["Bearer x"], &["Basic"], &["Basic dTpw", "Basic dTpw"]] {
        assert!(presented(other).is_none(), "{other:?}");
    }
}

#[tokio::test]
async fn only_the_right_password_of_a_known_user_lets_in_and_only_that_is_remembered() {
    let (passwords, users) = (Passwords::new(), users(&["ada", "bob"]));
    assert_eq!(check(&passwords, &users, "ada", "ada").await, Ok(()));
    for (user, password) in
        [("ada", "bob"), ("ada", ""), ("eve", "fakepassword"), ("", ""), ("ada", "ada\0")]
    {
        let refused = check(&passwords, &users, user, password).await;
        assert_eq!(refused, Err(Unknown::WrongPassword), "{user:?} {password:?}");
    }
    assert_eq!(passwords.right.lock().unwrap().len(), 1);

    // What was right of a hash that is no more lets nobody in.
    let mut others = users.clone();
    others.insert("ada".to_owned(), users["bob"].clone());
    assert_eq!(check(&passwords, &others, "ada", "ada").await, Err(Unknown::WrongPassword));
    others.remove("ada");
    assert_eq!(check(&passwords, &others, "ada", "ada").await, Err(Unknown::WrongPassword));
}

#[tokio::test(start_paused = true)]
async fn after_too_many_failures_only_what_was_right_before_from_the_same_address_lets_in() {
    let (passwords, users) = (Passwords::new(), users(&["ada", "bob"]));
    assert_eq!(check(&passwords, &users, "ada", "ada").await, Ok(()));
    let mut wrong = 0;
    while check(&passwords, &users, "ada", "wrong").await == Err(Unknown::WrongPassword) {
        wrong += 1;
        assert!(wrong <= 10 * FAILURES as u32, "it never ends");
    }
    assert!(wrong >= FAILURES as u32, "{wrong}");
    assert_eq!(check(&passwords, &users, "ada", "ada").await, Ok(()), "it was right before");
    assert_eq!(check(&passwords, &users, "bob", "bob").await, Err(Unknown::TooMany));
    for password in ["ada", "wrong"] {
        for peer in [ELSEWHERE, None] {
            let refused = check_from(peer, &passwords, &users, ["ada", password]).await;
            assert_eq!(refused, Err(Unknown::TooMany), "{peer:?} learns nothing of {password:?}");
        }
    }
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert_eq!(check(&passwords, &users, "bob", "bob").await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn at_most_two_passwords_are_checked_at_once_and_none_waits_for_long() {
    let (passwords, users) = (Passwords::new(), users(&["ada"]));
    let busy = passwords.checks.clone().acquire_many_owned(2).await.expect("it is open");
    let start = tokio::time::Instant::now();
    assert_eq!(check(&passwords, &users, "ada", "ada").await, Err(Unknown::TooMany));
    assert_eq!(start.elapsed(), MAX_WAIT);
    let mut waiting = pin!(check(&passwords, &users, "ada", "ada"));
    assert!(timeout(MAX_WAIT / 2, waiting.as_mut()).await.is_err(), "there is no place");
    drop(busy);
    assert_eq!(waiting.await, Ok(()));
    assert_eq!(passwords.checks.available_permits(), CHECKS, "places are given back");
}
