//! Who calls, and what they may do: tokens against what a route needs.
//!
//! A token is known by its SHA-256, so what is stored lets nobody in. Without tokens in the
//! configuration nobody is asked for one. What a route needs stands beside it in `routes`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, RwLock};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use tokio::time::{Duration, Instant};

use super::Api;
use super::error::{ApiError, Code};
use super::routes::Route;
use crate::clock::Clock;
use crate::config::{Config, Role, Runner, Token};
use crate::store::JobId;

/// How many requests in a row may fail for their token before they are told to slow down, and how
/// many may in each second after that. A right token is never told so, whoever fails beside it.
const FAILURES: f64 = 50.0;
const FAILURES_PER_SECOND: f64 = 10.0;

/// What a route needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Nothing: probes have no token.
    Nothing,
    /// Any token.
    Token,
    /// A token with one of these roles, or with `admin`.
    Role(&'static [Role]),
    /// The same, and one that is for all queues.
    RoleOnAll(&'static [Role]),
}

/// Who calls.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// Anybody: there are no tokens.
    Anybody,
    /// Whoever has this one.
    Bearer(Arc<Token>),
}

/// Why a caller is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    NoToken,
    Malformed,
    WrongToken,
    Expired,
}

/// The tokens that are in effect.
pub struct Guard {
    tokens: RwLock<Vec<Arc<Token>>>,
    clock: Clock,
    failures: Mutex<Failures>,
    /// By path, of each method.
    needs: BTreeMap<&'static str, Vec<(Method, Needs)>>,
}

/// What is left of the failures that may come at once.
struct Failures {
    left: f64,
    at: Instant,
}

impl Guard {
    /// A guard with the tokens of a configuration, for these routes.
    pub(super) fn new(config: &Config, clock: Clock, table: &[Route]) -> Self {
        let failures = Failures { left: FAILURES, at: Instant::now() };
        let mut needs = BTreeMap::<_, Vec<_>>::new();
        for route in table {
            needs.entry(route.path).or_default().push((route.method.clone(), route.needs));
        }
        let (tokens, failures) = (RwLock::default(), Mutex::new(failures));
        let guard = Self { tokens, clock, failures, needs };
        guard.replace(config.tokens.all());
        guard
    }

    /// Puts other tokens in effect, from the next request on.
    pub fn replace<'t>(&self, tokens: impl Iterator<Item = &'t Token>) {
        let tokens = tokens.map(|token| Arc::new(token.clone())).collect();
        *self.tokens.write().expect("nothing panics while it replaces them") = tokens;
    }

    /// Who sent these headers, or what is wrong with them. What is wrong is told later, by
    /// [`Self::refuse`], if the route needs to know.
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<Caller, Refused> {
        let tokens = self.tokens.read().expect("nothing panics while it replaces them");
        if tokens.is_empty() {
            return Ok(Caller::Anybody);
        }
        let found = presented(headers).and_then(|text| {
            let found = find(&tokens, text).ok_or(Unknown::WrongToken)?;
            let now = self.clock.now();
            let is_over = found.expires_at.is_some_and(|end| end.as_millisecond() <= now.0);
            if is_over { Err(Unknown::Expired) } else { Ok(Caller::Bearer(found.clone())) }
        });
        found.map_err(Refused)
    }

    /// What somebody is told who is not known.
    pub(super) fn refuse(&self, Refused(why): Refused) -> ApiError {
        let message = match why {
            Unknown::NoToken => "this needs a token, as authorization: Bearer …",
            Unknown::Malformed => "the authorization header must be one, as Bearer and a token",
            Unknown::WrongToken => {
                "nothing is known of this token; look whether it is whole, and of this server"
            }
            Unknown::Expired => "this token is not valid any more; ask for a new one",
        };
        if self.slows_down() {
            let message = "too many requests fail for their token; correct it, then try again";
            return ApiError::new(Code::TooManyFailures, message);
        }
        ApiError::new(Code::Unauthorized, message)
    }

    /// What a route needs. That there is no such route, or method, is told to callers who are known.
    pub(super) fn needs(&self, route: &str, method: &Method) -> Needs {
        // HEAD is answered where GET is.
        let asked = if *method == Method::HEAD { &Method::GET } else { method };
        let of_route = self.needs.get(route).map(Vec::as_slice).unwrap_or_default();
        match of_route.iter().find(|(method, _)| method == asked) {
            Some((_, needs)) => *needs,
            None if super::gate::HEALTH.contains(&route) => Needs::Nothing,
            None => Needs::Token,
        }
    }

    /// Takes note of a failure, and says whether there are too many.
    fn slows_down(&self) -> bool {
        let mut failures = self.failures.lock().expect("nothing panics while it counts");
        let passed = failures.at.elapsed();
        failures.at += passed;
        let regained = passed.min(Duration::from_secs(60)).as_secs_f64() * FAILURES_PER_SECOND;
        failures.left = (failures.left + regained).min(FAILURES);
        if failures.left < 1.0 {
            return true;
        }
        failures.left -= 1.0;
        false
    }
}

/// Somebody who is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused(Unknown);

/// The token of a request.
fn presented(headers: &HeaderMap) -> Result<&str, Unknown> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Unknown::NoToken)?;
    if values.next().is_some() {
        return Err(Unknown::Malformed);
    }
    let text = value.to_str().map_err(|_| Unknown::Malformed)?;
    let (scheme, token) = text.split_once(' ').ok_or(Unknown::Malformed)?;
    let token = token.trim_ascii();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Unknown::Malformed);
    }
    Ok(token)
}

/// The token of these characters. All are looked at, so that the time tells nothing of them.
fn find<'t>(tokens: &'t [Arc<Token>], presented: &str) -> Option<&'t Arc<Token>> {
    let hash: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
    let mut found = None;
    for token in tokens {
        let is_it: Choice = token.sha256.ct_eq(&hash);
        if bool::from(is_it) {
            found = Some(token);
        }
    }
    found
}

impl Caller {
    /// Refuses a caller without the roles that a route needs.
    pub(super) fn check(&self, needs: Needs) -> Result<(), ApiError> {
        let Self::Bearer(token) = self else { return Ok(()) };
        match needs {
            Needs::Nothing | Needs::Token => Ok(()),
            Needs::Role(roles) => has_one(token, roles),
            Needs::RoleOnAll(roles) => has_one(token, roles).and_then(|()| match &token.queues {
                None => Ok(()),
                Some(_) => {
                    Err(forbidden("this is about all queues, and the token is for some only"))
                }
            }),
        }
    }

    /// The only queues that the caller may see and change; none = all.
    pub(super) fn queues(&self) -> Option<&BTreeSet<String>> {
        match self {
            Self::Anybody => None,
            Self::Bearer(token) => token.queues.as_ref(),
        }
    }

    /// Refuses a queue that the caller's token is not for.
    pub(super) fn check_queue(&self, queue: &str) -> Result<(), ApiError> {
        match self.queues() {
            Some(queues) if !queues.contains(queue) => {
                Err(forbidden(format!("the token is not for queue {queue:?}")).field("queue"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a list of jobs that would show those of other queues.
    pub(super) fn check_list(&self, queue: Option<&str>) -> Result<(), ApiError> {
        match (queue, self.queues()) {
            (Some(queue), _) => self.check_queue(queue),
            (None, None) => Ok(()),
            (None, Some(_)) => {
                Err(forbidden("the token is for some queues only; name one").field("queue"))
            }
        }
    }

    /// Refuses to create a job where the caller may not: on a queue with a command that needs a role of its own.
    pub(super) fn check_create(&self, queue: &str, config: &Config) -> Result<(), ApiError> {
        let Self::Bearer(token) = self else { return Ok(()) };
        self.check_queue(queue)?;
        let role = match config.runner(queue) {
            Runner::Exec(_) => Role::Exec,
            Runner::Lease | Runner::Http(_) => Role::Create,
        };
        has_one(token, &[role]).map_err(|refused| refused.field("queue"))
    }
}

fn has_one(token: &Token, roles: &[Role]) -> Result<(), ApiError> {
    let has = |role: &Role| token.roles.contains(role);
    if has(&Role::Admin) || roles.iter().any(has) {
        return Ok(());
    }
    let mut names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    names.push(Role::Admin.name());
    Err(forbidden(format!("this needs a token with the role {}", names.join(" or "))))
}

fn forbidden(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::Forbidden, message)
}

impl Api {
    /// Refuses a job of a queue that the caller's token is not for.
    pub(super) async fn check_job(&self, caller: &Caller, id: JobId) -> Result<(), ApiError> {
        if caller.queues().is_none() {
            return Ok(());
        }
        // A job never changes its queue.
        let job = self.store.job(id).await?;
        caller.check_queue(&job.queue).map_err(|mut refused| {
            refused.field = None;
            refused
        })
    }
}

#[cfg(test)]
mod tests;
