//! Who calls, and what they may do: tokens against what a route needs.
//!
//! A token is known by its SHA-256, so what is stored lets nobody in. Without tokens in the
//! configuration nobody is asked for one. What a route needs stands beside it in `routes`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, RwLock};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use subtle::{Choice, ConstantTimeEq};
use tokio::time::{Duration, Instant};
use tracing::warn;

use super::Api;
use super::error::{ApiError, Code};
use super::routes::Route;
use crate::clock::Clock;
use crate::config::tokens::Hash;
use crate::config::{Config, Role, Runner, Token};
use crate::store::{Action, Job, JobId, StoreError};

/// The fewest characters of a token: a shorter one is a guess, or somebody's own password.
const FEWEST_CHARACTERS: usize = 32;

/// How many requests with a wrong token in a row, and how many in each second after that, are told
/// that it is wrong; more are asked to slow down. That keeps nobody from guessing, which 256 bits do,
/// but clients with an old token from going on at full speed. A right one is never told so.
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

impl Needs {
    /// Who creates and cancels jobs; on which queues is looked at when it is known.
    pub(super) const CREATORS: Self = Self::Role(&[Role::Create, Role::Exec]);

    /// Who sees jobs.
    pub(super) const READERS_OF_JOBS: Self = Self::Role(&[Role::Create, Role::Exec, Role::Work]);

    /// Who sees queues.
    pub(super) const READERS_OF_QUEUES: Self =
        Self::Role(&[Role::Create, Role::Exec, Role::Work, Role::Metrics]);

    /// Who runs jobs.
    pub(super) const WORKERS: Self = Self::Role(&[Role::Work]);

    /// Who reads the counts, which are of all queues.
    pub(super) const READERS_OF_COUNTS: Self = Self::RoleOnAll(&[Role::Metrics]);

    /// Who does what only operators do.
    pub(super) const OPERATORS: Self = Self::Role(&[]);

    /// The same to all of the store.
    pub(super) const OPERATORS_OF_ALL: Self = Self::RoleOnAll(&[]);

    /// Whether only operators may do it.
    pub(super) fn is_for_operators(self) -> bool {
        matches!(self, Self::Role([]) | Self::RoleOnAll([]))
    }
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
pub(super) enum Unknown {
    NoToken,
    Malformed,
    WrongToken,
    Expired,
    /// Too many did not know a right one lately.
    TooMany,
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
        let tokens: Vec<_> = tokens.map(|token| Arc::new(token.clone())).collect();
        for token in tokens.iter().filter(|token| self.is_over(token)) {
            warn!(event = "token_expired", token = token.name, "nobody is let in by it any more");
        }
        *self.tokens.write().expect("nothing panics while it replaces them") = tokens;
    }

    /// Who sent these headers.
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<Caller, Unknown> {
        let tokens = self.tokens.read().expect("nothing panics while it replaces them");
        if tokens.is_empty() {
            return Ok(Caller::Anybody);
        }
        let found = presented(headers).and_then(|text| {
            let found = find(&tokens, text).ok_or(Unknown::WrongToken)?;
            if self.is_over(found) {
                Err(Unknown::Expired)
            } else {
                Ok(Caller::Bearer(found.clone()))
            }
        });
        match found {
            Err(Unknown::NoToken) | Ok(_) => found,
            Err(_)
                if self.failures.lock().expect("nothing panics while it counts").are_too_many() =>
            {
                Err(Unknown::TooMany)
            }
            wrong => wrong,
        }
    }

    fn is_over(&self, token: &Token) -> bool {
        token.expires_at.is_some_and(|end| end.as_millisecond() <= self.clock.now().0)
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
}

impl Failures {
    /// Takes note of one more.
    fn are_too_many(&mut self) -> bool {
        let passed = self.at.elapsed();
        self.at += passed;
        let regained = passed.min(Duration::from_secs(60)).as_secs_f64() * FAILURES_PER_SECOND;
        self.left = (self.left + regained).min(FAILURES);
        if self.left < 1.0 {
            return true;
        }
        self.left -= 1.0;
        false
    }
}

impl From<Unknown> for ApiError {
    fn from(why: Unknown) -> Self {
        let message = match why {
            Unknown::NoToken => "this needs a token, as authorization: Bearer …",
            Unknown::Malformed => {
                "the authorization header must be one, as Bearer and a token that `tallyd token new` made"
            }
            Unknown::WrongToken => {
                "nothing is known of this token; look whether it is whole, and of this server"
            }
            Unknown::Expired => "this token is not valid any more; ask for a new one",
            Unknown::TooMany => {
                let message =
                    "too many requests come with a wrong token; correct it, then try again";
                return Self::new(Code::TooManyFailures, message);
            }
        };
        Self::new(Code::Unauthorized, message)
    }
}

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
    if !scheme.eq_ignore_ascii_case("bearer") || token.len() < FEWEST_CHARACTERS {
        return Err(Unknown::Malformed);
    }
    Ok(token)
}

/// The token of these characters. All are looked at, so that the time tells nothing of them.
fn find<'t>(tokens: &'t [Arc<Token>], presented: &str) -> Option<&'t Arc<Token>> {
    let hash = Hash::of(presented);
    let mut found = None;
    for token in tokens {
        let is_it: Choice = token.sha256.0.ct_eq(&hash.0);
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

    /// The name of the caller's token.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Anybody => None,
            Self::Bearer(token) => Some(&token.name),
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

    /// Refuses a job of a queue that the caller's token is not for, as one that is not there.
    pub(super) fn check_shown(&self, job: &Job) -> Result<(), ApiError> {
        self.check_queue(&job.queue).map_err(|_| StoreError::NoSuchJob(job.id).into())
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

    /// Refuses a caller who may not create jobs on a queue; where they are run as a command, that
    /// takes a role of its own.
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
    /// Refuses to act on a job of a queue that the caller's token is not for, as one that is not
    /// there; and to cancel one that the caller could not have created.
    pub(super) async fn check_job(
        &self,
        caller: &Caller,
        id: JobId,
        action: Action,
    ) -> Result<(), ApiError> {
        let Caller::Bearer(token) = caller else { return Ok(()) };
        if token.queues.is_none() && token.roles.contains(&Role::Admin) {
            return Ok(()); // as most who act on jobs
        }
        // A job never changes its queue.
        let job = self.store.job(id).await?;
        caller.check_shown(&job)?;
        match action {
            Action::Cancel => caller.check_create(&job.queue, &self.config),
            Action::Requeue | Action::Discard => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
