//! Writes a `Config` as a file that gives the same `Config` again, but for secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::{
    BackoffPolicy, Config, ExecLimits, Policy, QueueConfig, Runner, Token, duration, size,
};

/// What stands for the value of a variable, which may be a secret.
const HIDDEN: &str = "***";

#[derive(Serialize)]
struct TopKeys<'a> {
    listen: SocketAddr,
    metrics_listen: Option<SocketAddr>,
    data: &'a Path,
    backup_dir: Option<&'a Path>,
    drain_timeout: String,
    strict_queues: bool,
    max_queues: usize,
    max_pairs: usize,
    max_payload: String,
    hosts: &'a [String],
    log_format: &'static str,
    log_level: &'static str,
    insecure: bool,
    token_file: Option<&'a Path>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<TokenKeys<'a>>,
    defaults: PolicyKeys,
    queues: BTreeMap<&'a str, QueueKeys<'a>>,
}

#[derive(Serialize)]
struct QueueKeys<'a> {
    concurrency: u32,
    kinds: &'a [String],
    #[serde(flatten)]
    policy: PolicyKeys,
    exec: Option<ExecKeys<'a>>,
    http: Option<HttpKeys<'a>>,
}

#[derive(Serialize)]
struct TokenKeys<'a> {
    name: &'a str,
    sha256: &'static str,
    roles: Vec<&'static str>,
    queues: Option<&'a BTreeSet<String>>,
    expires_at: Option<String>,
}

#[derive(Serialize)]
struct HttpKeys<'a> {
    url: &'a str,
    secret: Option<&'static str>,
    connect_timeout: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'a str, &'static str>,
}

#[derive(Serialize)]
struct ExecKeys<'a> {
    command: &'a [String],
    dir: Option<&'a Path>,
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<&'a str, &'static str>,
    limits: Option<LimitKeys>,
}

#[derive(Serialize)]
struct LimitKeys {
    memory: Option<Size>,
    cpu: Option<String>,
    files: Option<u64>,
}

/// A size with its unit, or the bytes alone if they have more digits than that notation.
#[derive(Serialize)]
#[serde(untagged)]
enum Size {
    Text(String),
    Bytes(u64),
}

#[derive(Serialize)]
struct PolicyKeys {
    max_attempts: u32,
    timeout: String,
    lease: String,
    keep_completed: String,
    max_completed: u64,
    keep_dead: String,
    max_dead: CountOrNone,
    max_depth: CountOrNone,
    backoff: BackoffKeys,
}

#[derive(Serialize)]
struct BackoffKeys {
    initial: String,
    factor: f64,
    max: String,
    jitter: f64,
}

/// A number, or the word for no limit, so that a queue does not inherit one from the defaults.
#[derive(Serialize)]
#[serde(untagged)]
enum CountOrNone {
    Count(u64),
    None(&'static str),
}

impl Config {
    /// These settings as TOML. The values of `exec.env` and `http.headers`, `http.secret`, and the
    /// hashes of tokens are hidden; the rest reads back as it is.
    ///
    /// # Errors
    ///
    /// A setting has no form in TOML, such as a path that is not UTF-8; loaded ones all have.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let queues = self.queues.iter().map(|(name, queue)| (name.as_str(), queue_keys(queue)));
        toml::to_string(&TopKeys {
            listen: self.listen,
            metrics_listen: self.metrics_listen,
            data: &self.data,
            backup_dir: self.backup_dir.as_deref(),
            drain_timeout: duration::format(self.drain_timeout),
            strict_queues: self.strict_queues,
            max_queues: self.max_queues,
            max_pairs: self.max_pairs,
            max_payload: size::format(self.max_payload as u64),
            hosts: &self.hosts,
            log_format: self.log.format.name(),
            log_level: self.log.level.name(),
            insecure: self.insecure,
            token_file: self.tokens.file.as_deref(),
            tokens: self.tokens.configured.iter().map(token_keys).collect(),
            defaults: policy_keys(&self.defaults),
            queues: queues.collect(),
        })
    }
}

fn token_keys(token: &Token) -> TokenKeys<'_> {
    TokenKeys {
        name: &token.name,
        sha256: HIDDEN,
        roles: token.roles.iter().map(|role| role.name()).collect(),
        queues: token.queues.as_ref(),
        expires_at: token.expires_at.map(|time| time.to_string()),
    }
}

fn queue_keys(queue: &QueueConfig) -> QueueKeys<'_> {
    let policy = policy_keys(&queue.policy);
    let (concurrency, kinds) = (queue.concurrency, &queue.kinds[..]);
    let mut keys = QueueKeys { concurrency, kinds, policy, exec: None, http: None };
    match &queue.runner {
        Runner::Lease => {}
        Runner::Exec(exec) => {
            keys.exec = Some(ExecKeys {
                command: &exec.command,
                dir: exec.dir.as_deref(),
                user: exec.user.as_ref().map(|user| user.name.as_str()),
                env: exec.env.keys().map(|name| (name.as_str(), HIDDEN)).collect(),
                limits: limit_keys(&exec.limits),
            });
        }
        Runner::Http(http) => {
            keys.http = Some(HttpKeys {
                url: &http.url,
                secret: http.secret.as_ref().map(|_| HIDDEN),
                connect_timeout: duration::format(http.connect_timeout),
                headers: http.headers.keys().map(|name| (name.as_str(), HIDDEN)).collect(),
            });
        }
    }
    keys
}

fn limit_keys(limits: &ExecLimits) -> Option<LimitKeys> {
    let ExecLimits { memory, cpu, files } = *limits;
    (*limits != ExecLimits::default()).then(|| LimitKeys {
        memory: memory.map(size_of),
        cpu: cpu.map(duration::format),
        files,
    })
}

fn size_of(bytes: u64) -> Size {
    let text = size::format(bytes);
    if size::parse(&text).is_some() { Size::Text(text) } else { Size::Bytes(bytes) }
}

fn policy_keys(policy: &Policy) -> PolicyKeys {
    PolicyKeys {
        max_attempts: policy.max_attempts,
        timeout: duration::format(policy.timeout.unwrap_or(Duration::ZERO)),
        lease: duration::format(policy.lease),
        keep_completed: duration::format(policy.keep_completed),
        max_completed: policy.max_completed,
        keep_dead: duration::format(policy.keep_dead),
        max_dead: count_or_none(policy.max_dead),
        max_depth: count_or_none(policy.max_depth),
        backoff: backoff_keys(&policy.backoff),
    }
}

fn backoff_keys(backoff: &BackoffPolicy) -> BackoffKeys {
    BackoffKeys {
        initial: duration::format(backoff.initial),
        factor: backoff.factor,
        max: duration::format(backoff.max),
        jitter: backoff.jitter,
    }
}

fn count_or_none(count: Option<u64>) -> CountOrNone {
    count.map_or(CountOrNone::None("none"), CountOrNone::Count)
}
