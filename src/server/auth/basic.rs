//! Users with passwords, as scrapers have them: `Authorization: Basic` (RFC 7617).
//!
//! A password may be guessed, as a token may not: once too many were wrong, none is looked at, and
//! the right one lets in only from an address from which it was right before: to anybody else a right
//! guess and a wrong one look the same then. What is remembered is that a password was right, and
//! never that one was wrong, under a key that no other process has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, timeout};

use super::{Bucket, Caller, FAILURES, FAILURES_PER_SECOND, Unknown};
use crate::config::web::{PasswordHash, Users};

/// How many passwords are checked at once: each keeps a processor busy for as long as its hash costs.
const CHECKS: usize = 2;

/// How long a request may wait to have its password checked: less than a scraper waits for its answer.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The most users that are remembered, each by address: those that a file may have.
const MAX_REMEMBERED: usize = 1_000;

/// What stands for a password that was right.
type Mark = [u8; 32];

/// Checks passwords.
pub(super) struct Passwords {
    key: [u8; 32],
    checks: Arc<Semaphore>,
    failures: Bucket,
    /// By user and address, what was right the last time.
    right: Mutex<HashMap<(String, IpAddr), Mark>>,
}

/// What a request brings along.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    user: String,
    password: Vec<u8>,
}

impl Credentials {
    /// Those of a request that says it has some; none if it does not.
    pub(super) fn presented(headers: &HeaderMap) -> Option<Result<Self, Unknown>> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (scheme, encoded) = value.as_bytes().split_at_checked("basic ".len())?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        Some(Self::decode(encoded.trim_ascii()).ok_or(Unknown::MalformedPassword))
    }

    fn decode(encoded: &[u8]) -> Option<Self> {
        let decoded = STANDARD.decode(encoded).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
        Some(Self { user, password: decoded[colon + 1..].to_vec() })
    }
}

impl Passwords {
    pub(super) fn new() -> Self {
        Self {
            key: rand::random(),
            checks: Arc::new(Semaphore::new(CHECKS)),
            failures: Bucket::new(FAILURES, FAILURES_PER_SECOND),
            right: Mutex::default(),
        }
    }

    /// Who has these. That there is no such user takes as long to find out as a wrong password.
    /// Without a peer's address nothing is remembered.
    pub(super) async fn check(
        &self,
        users: &Users,
        credentials: Credentials,
        peer: Option<IpAddr>,
    ) -> Result<Caller, Unknown> {
        let Credentials { user, password } = credentials;
        let known = users.get(&user);
        let hash = known.cloned().unwrap_or_else(|| PasswordHash::of_nobody(users));
        let mark = self.mark(&user, &hash, &password);
        let caller = peer.map(|peer| (user.clone(), peer));
        if known.is_some() && caller.as_ref().is_some_and(|caller| self.was_right(caller, &mark)) {
            return Ok(Caller::User(user.into()));
        }
        if !self.failures.take() {
            return Err(Unknown::TooMany);
        }
        let Ok(place) = timeout(MAX_WAIT, self.checks.clone().acquire_owned()).await else {
            // It was not looked at, so nothing was wrong.
            self.failures.give_back();
            return Err(Unknown::TooMany);
        };
        let place = place.expect("the semaphore is never closed");
        let is_known = known.is_some();
        // A caller who hangs up leaves the place taken until the work is done.
        let checked = spawn_blocking(move || {
            let is_right = hash.is_of(&password);
            drop(place);
            is_right
        });
        let is_right = checked.await.unwrap_or(false);
        if !(is_right && is_known) {
            return Err(Unknown::WrongPassword);
        }
        self.failures.give_back();
        if let Some(caller) = caller {
            self.remember(caller, mark);
        }
        Ok(Caller::User(user.into()))
    }

    fn mark(&self, user: &str, hash: &PasswordHash, password: &[u8]) -> Mark {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key).expect("a key of any length will do");
        for part in [user.as_bytes(), hash.text().as_bytes(), password] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    fn was_right(&self, caller: &(String, IpAddr), mark: &Mark) -> bool {
        let right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        right.get(caller).is_some_and(|known| known.ct_eq(mark).into())
    }

    fn remember(&self, caller: (String, IpAddr), mark: Mark) {
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= MAX_REMEMBERED && !right.contains_key(&caller) {
            // Of users and addresses that are no more; the others are soon there again.
            right.clear();
        }
        right.insert(caller, mark);
    }
}

#[cfg(test)]
mod tests;
