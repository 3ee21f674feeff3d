//! The settings of a daemon: one validated `Config` from file, environment and flags.
//!
//! Also the notations and limits that settings and requests share: durations, sizes and names.

mod differing;
mod document;
pub mod duration;
mod effective;
mod exposed;
mod file;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod http;
pub mod limits;
mod load;
pub mod name;
mod overrides;
pub mod size;
pub mod tokens;
mod user;
pub mod web;

pub use http::{HttpConfig, Secret};
pub use load::{ConfigError, Mistake};
pub use overrides::Overrides;
pub use tokens::{Role, Token, Tokens};
pub use user::ExecUser;
pub use web::Web;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything a daemon needs to know before it starts; valid by construction.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where the HTTP interface listens.
    pub listen: SocketAddr,
    /// Where `/metrics` listens if it has an address of its own.
    pub metrics_listen: Option<SocketAddr>,
    /// The file of the embedded store.
    pub data: PathBuf,
    /// Where backups are written.
    pub backup_dir: Option<PathBuf>,
    /// How long a drain waits for running attempts before it releases them.
    pub drain_timeout: Duration,
    /// Refuse queues that are not configured, rather than make them when first used.
    pub strict_queues: bool,
    /// The most queues that may exist, configured ones included.
    pub max_queues: usize,
    /// The most (queue, kind) pairs that get counts of their own.
    pub max_pairs: usize,
    /// The most bytes of JSON that one job may have.
    pub max_payload: usize,
    /// Host names in lower case that requests may be addressed to, besides localhost and IP
    /// literals.
    pub hosts: Vec<String>,
    /// Listen beyond loopback although there are no tokens to know callers by.
    pub insecure: bool,
    /// Who may call, and for what.
    pub tokens: Tokens,
    /// How the listeners are protected; none = plain HTTP, and no passwords.
    pub web: Option<Arc<Web>>,
    /// How to log.
    pub log: LogConfig,
    /// What applies to a queue that is not configured.
    pub defaults: Policy,
    /// The configured queues.
    ///
    /// `default`, where jobs without a queue go, is among them even if the file does not name it;
    /// only `strict_queues` with other queues in the file leaves it out.
    pub queues: BTreeMap<String, QueueConfig>,
}

/// The form and the least severity of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// Text for people or JSON for programs.
    pub format: LogFormat,
    /// The least severity that is written.
    pub level: LogLevel,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line.
    Text,
    /// One JSON object a line.
    Json,
}

/// The severities, the most severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What needs a person.
    Error,
    /// Failures, refusals.
    Warn,
    /// Life-cycle steps of the daemon.
    Info,
    /// Every step of every job.
    Debug,
    /// Everything.
    Trace,
}

/// One configured queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueConfig {
    /// The most attempts that the daemon's own workers run at once; outside workers are not limited.
    pub concurrency: u32,
    /// The kinds whose counts exist from the start.
    pub kinds: Vec<String>,
    /// What applies to its jobs unless their creator said otherwise.
    pub policy: Policy,
    /// Who runs its jobs.
    pub runner: Runner,
}

/// Who runs the jobs of a queue.
#[derive(Debug, Clone, PartialEq)]
pub enum Runner {
    /// Outside workers, which lease them over HTTP.
    Lease,
    /// The daemon, by a local command.
    Exec(ExecConfig),
    /// The daemon, by posting them to a URL.
    Http(HttpConfig),
}

/// A local command; never a shell line. Its `Debug` form has no value of a variable.
#[derive(Clone, PartialEq, Eq)]
pub struct ExecConfig {
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// Variables added to the otherwise cleared environment.
    pub env: BTreeMap<String, String>,
    /// The working directory; the daemon's own if absent.
    pub dir: Option<PathBuf>,
    /// As whom it runs; as the daemon if absent.
    pub user: Option<ExecUser>,
    /// What each of its processes may use.
    pub limits: ExecLimits,
}

/// What one process of a command may use; what is absent is limited as the daemon itself is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecLimits {
    /// Bytes of data: heap, stacks of threads, private maps (RLIMIT_DATA).
    pub memory: Option<u64>,
    /// Processor time, in whole seconds (RLIMIT_CPU).
    pub cpu: Option<Duration>,
    /// Open files (RLIMIT_NOFILE).
    pub files: Option<u64>,
}

/// The rules of a queue that apply at each claim and each end of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How many failures make a job dead; at least 1.
    pub max_attempts: u32,
    /// How long an attempt may take; none = as long as it likes.
    pub timeout: Option<Duration>,
    /// How long a lease lasts unless it is renewed.
    pub lease: Duration,
    /// How long a failed job waits.
    pub backoff: BackoffPolicy,
    /// How long completed and cancelled jobs are kept.
    pub keep_completed: Duration,
    /// How many completed and cancelled jobs are kept.
    pub max_completed: u64,
    /// How long dead jobs are kept.
    pub keep_dead: Duration,
    /// How many dead jobs are kept; none = any number.
    pub max_dead: Option<u64>,
    /// How many scheduled, ready and retrying jobs there may be; none = any number.
    pub max_depth: Option<u64>,
}

/// `min(initial × factor^(failures − 1), max)`, ± the share `jitter` of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackoffPolicy {
    /// The delay after the first failure.
    pub initial: Duration,
    /// What each further failure multiplies it by; at least 1.
    pub factor: f64,
    /// The longest delay before jitter.
    pub max: Duration,
    /// The share by which a delay may be longer or shorter, 0 to 1.
    pub jitter: f64,
}

/// The queue of a job whose creator named none.
pub const DEFAULT_QUEUE: &str = "default";

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl fmt::Debug for ExecConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, env, dir, user, limits } = self;
        f.debug_struct("ExecConfig")
            .field("command", command)
            .field("env", &env.keys())
            .field("dir", dir)
            .field("user", user)
            .field("limits", limits)
            .finish()
    }
}

impl LogFormat {
    /// All forms.
    pub const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }

    /// The form of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

impl LogLevel {
    /// All severities, the most severe first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// The severity of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        Self { initial: Duration::from_secs(5), factor: 2.0, max: DAY, jitter: 0.2 }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_attempts: 25,
            timeout: Some(5 * MINUTE),
            lease: MINUTE,
            backoff: BackoffPolicy::default(),
            keep_completed: DAY,
            max_completed: 100_000,
            keep_dead: 30 * DAY,
            max_dead: None,
            max_depth: None,
        }
    }
}

impl QueueConfig {
    /// A queue for outside workers with these rules.
    pub fn leased(policy: Policy) -> Self {
        Self { concurrency: 10, kinds: Vec::new(), policy, runner: Runner::Lease }
    }
}

impl Default for Config {
    fn default() -> Self {
        let defaults = Policy::default();
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8255),
            metrics_listen: None,
            data: PathBuf::from("tallyd.db"),
            backup_dir: None,
            drain_timeout: Duration::from_secs(30),
            strict_queues: false,
            max_queues: 1_000,
            max_pairs: 500,
            max_payload: 1 << 20,
            hosts: Vec::new(),
            insecure: false,
            tokens: Tokens::default(),
            web: None,
            log: LogConfig { format: LogFormat::Text, level: LogLevel::Info },
            queues: BTreeMap::from([(DEFAULT_QUEUE.into(), QueueConfig::leased(defaults.clone()))]),
            defaults,
        }
    }
}

impl Config {
    /// The rules of a queue: its own if it is configured, else the defaults.
    pub fn policy(&self, queue: &str) -> &Policy {
        self.queues.get(queue).map_or(&self.defaults, |queue| &queue.policy)
    }

    /// Whether all may call who can: nobody is known, by a token or by a password.
    pub fn is_open(&self) -> bool {
        !self.tokens.are_needed() && !self.web.as_ref().is_some_and(|web| web.knows_callers())
    }

    /// Who runs the jobs of a queue.
    pub fn runner(&self, queue: &str) -> &Runner {
        self.queues.get(queue).map_or(&Runner::Lease, |queue| &queue.runner)
    }
}
