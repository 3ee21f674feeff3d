//! Who calls, and what they may do: tokens and passwords against what a route needs.
//!
//! A token is known by its SHA-256, so what is stored lets nobody in. Without tokens and users in
//! the configuration nobody is asked for one. What a route needs stands beside it in `routes`.

mod basic;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use subtle::{Choice, ConstantTimeEq};
use tracing::warn;

use self::basic::{Credentials, Passwords};
use super::Api;
use super::bucket::Bucket;
use super::error::{ApiError, Code};
use super::routes::Route;
use super::web::LiveWeb;
use crate::clock::Clock;
use crate::config::tokens::Hash;
use crate::config::{Config, Role, Runner, Token, Web};
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

    /// Whether a user with a password may do it: what a token with the role `metrics` may.
    pub(super) fn lets_users(self) -> bool {
        match self {
            Self::Nothing | Self::Token => true,
            Self::Role(roles) | Self::RoleOnAll(roles) => roles.contains(&Role::Metrics),
        }
    }

    /// Whether only operators may do it.
    pub(super) fn is_for_operators(self) -> bool {
        matches!(self, Self::Role([]) | Self::RoleOnAll([]))
    }
}

/// Who calls.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// Anybody: there are no tokens, and no users.
    Anybody,
    /// Whoever has this one.
    Bearer(Arc<Token>),
    /// Who has the password of this user: a scraper.
    User(Arc<str>),
}

/// Why a caller is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    NoToken,
    NoCredentials,
    Malformed,
    MalformedPassword,
    WrongToken,
    WrongPassword,
    Expired,
    /// Too many did not know a right one lately.
    TooMany,
}

/// The tokens and the web configuration that are in effect.
pub struct Guard {
    tokens: RwLock<Vec<Arc<Token>>>,
    web: Option<Arc<LiveWeb>>,
    passwords: Passwords,
    clock: Clock,
    failures: Bucket,
    /// By path, of each method.
    needs: BTreeMap<&'static str, Vec<(Method, Needs)>>,
}

impl Guard {
    /// A guard with the tokens of a configuration, for these routes.
    pub(super) fn new(config: &Config, clock: Clock, table: &[Route]) -> Self {
        let mut needs = BTreeMap::<_, Vec<_>>::new();
        for route in table {
            needs.entry(route.path).or_default().push((route.method.clone(), route.needs));
        }
        let web = config.web.clone().map(|web| Arc::new(LiveWeb::new(web)));
        let (passwords, failures) = (Passwords::new(), Bucket::new(FAILURES, FAILURES_PER_SECOND));
        if let Some(web) =
            config.web.as_ref().filter(|web| web.tls.is_none() && web.users.is_empty())
        {
            let file = web.file.display().to_string();
            warn!(
                event = "web_config_open",
                file, "it protects nothing: it has neither tls_server_config nor basic_auth_users"
            );
        }
        let guard = Self { tokens: RwLock::default(), web, passwords, clock, failures, needs };
        guard.replace(config.tokens.all());
        if guard.has_users() && !config.tokens.are_needed() {
            warn!(
                event = "users_only",
                "users may read the counts, and nobody may do more: there are no tokens; \
                 `tallyd token new NAME` makes one, with its block for the configuration"
            );
        }
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

    /// Puts another web configuration in effect.
    ///
    /// # Errors
    ///
    /// This takes a restart; nothing has changed.
    pub async fn replace_web(&self, web: Option<Arc<Web>>) -> Result<(), &'static str> {
        match (&self.web, web) {
            (Some(live), Some(web)) => live.replace(web).await,
            // Whether there is one is said by a flag, so it stays so.
            _ => Ok(()),
        }
    }

    /// How connections are protected, and what answers have besides.
    pub(super) fn web(&self) -> Option<&Arc<LiveWeb>> {
        self.web.as_ref()
    }

    /// Whether passwords let anybody in.
    pub(super) fn has_users(&self) -> bool {
        self.web.as_ref().is_some_and(|live| !live.current().web.users.is_empty())
    }

    /// Who sent these headers from this address, by a password or by a token.
    pub(super) async fn know(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<Caller, Unknown> {
        if let Some(live) = self.web.as_ref().filter(|_| self.has_users())
            && let Some(presented) = Credentials::presented(headers)
        {
            let current = live.current();
            return self.passwords.check(&current.web.users, presented?, peer).await;
        }
        match self.identify(headers) {
            Err(Unknown::NoToken) if self.has_users() => Err(Unknown::NoCredentials),
            identified => identified,
        }
    }

    /// Who sent these headers, by a token.
    pub(super) fn identify(&self, headers: &HeaderMap) -> Result<Caller, Unknown> {
        let tokens = self.tokens.read().expect("nothing panics while it replaces them");
        if tokens.is_empty() && !self.has_users() {
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
            Err(_) if !self.failures.take() => Err(Unknown::TooMany),
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

impl From<Unknown> for ApiError {
    fn from(why: Unknown) -> Self {
        let message = match why {
            Unknown::NoToken => "this needs a token, as authorization: Bearer …",
            Unknown::NoCredentials => {
                "this needs a token, as authorization: Bearer …; for the counts, a user and a \
                 password will do"
            }
            Unknown::MalformedPassword => {
                "what follows Basic must be a user and a password with a colon between, in base64"
            }
            Unknown::WrongPassword => "the user or the password is wrong",
            Unknown::Malformed => {
                "the authorization header must be one, as Bearer and a token that `tallyd token new` made"
            }
            Unknown::WrongToken => {
                "nothing is known of this token; look whether it is whole, and of this server"
            }
            Unknown::Expired => "this token is not valid any more; ask for a new one",
            Unknown::TooMany => {
                let message = "too many requests come with a wrong token or password; correct it, then try again";
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
        let token = match self {
            Self::Anybody => return Ok(()),
            Self::Bearer(token) => token,
            Self::User(_) => return check_user(needs),
        };
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

    /// The name of the caller's token, or of the user.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Anybody => None,
            Self::Bearer(token) => Some(&token.name),
            Self::User(name) => Some(name),
        }
    }

    /// Whether it is known who it is.
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Anybody)
    }

    /// The only queues that the caller may see and change; none = all.
    pub(super) fn queues(&self) -> Option<&BTreeSet<String>> {
        match self {
            Self::Anybody | Self::User(_) => None,
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
        let token = match self {
            Self::Anybody => return Ok(()),
            Self::Bearer(token) => token,
            Self::User(_) => return check_user(Needs::CREATORS),
        };
        self.check_queue(queue)?;
        let role = match config.runner(queue) {
            Runner::Exec(_) => Role::Exec,
            Runner::Lease | Runner::Http(_) => Role::Create,
        };
        has_one(token, &[role]).map_err(|refused| refused.field("queue"))
    }
}

/// A user may do what a token with the role `metrics` may: a password for scraping lets nobody run
/// a command.
fn check_user(needs: Needs) -> Result<(), ApiError> {
    if needs.lets_users() {
        return Ok(());
    }
    Err(forbidden("a user may only read the counts; this needs a token"))
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
        let token = match caller {
            Caller::Anybody => return Ok(()),
            Caller::Bearer(token) => token,
            Caller::User(_) => return check_user(Needs::OPERATORS),
        };
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
