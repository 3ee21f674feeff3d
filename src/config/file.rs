//! The keys of the configuration file.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Document, Section, integer, number};
use super::limits::{
    self, argument, count, count_or_none, directory, duration, file, queue_or_kind,
};
use super::{
    BackoffPolicy, Config, ExecConfig, ExecLimits, HttpConfig, LogConfig, Policy, QueueConfig,
    Runner, http, tokens, user,
};

/// An example of an `exec.command`, for messages.
const COMMAND_EXAMPLE: &str = "[\"/usr/bin/wc\", \"-c\"]";

/// The start of the variables that tell a command about its job.
const OWN_VARIABLES: &str = "TALLYD_";

/// Reads all keys of `document`; what is absent or wrong keeps its default.
pub(super) fn read(document: &Document<'_>) -> Config {
    let mut config = Config { queues: BTreeMap::new(), ..Config::default() };
    let mut top = document.top();
    read_top(&mut top, &mut config);
    if let Some(mut section) = top.table("defaults") {
        read_policy(&mut section, &mut config.defaults);
        section.close();
    }
    if let Some(section) = top.table("queues") {
        read_queues(&section, &mut config);
    }
    top.close();
    config
}

fn read_top(top: &mut Section<'_>, config: &mut Config) {
    top.read("listen", &mut config.listen, |value| limits::address(value.as_str()));
    top.read("metrics_listen", &mut config.metrics_listen, |value| {
        limits::address(value.as_str()).map(Some)
    });
    top.read("data", &mut config.data, |value| limits::store_file(value.as_str()));
    top.read("backup_dir", &mut config.backup_dir, |value| directory(value.as_str()).map(Some));
    top.read("drain_timeout", &mut config.drain_timeout, |value| {
        duration(value.as_str(), &limits::DRAIN_TIMEOUT)
    });
    top.read("strict_queues", &mut config.strict_queues, |value| limits::switch(value.as_bool()));
    top.read("max_queues", &mut config.max_queues, |value| {
        count(integer(value), &limits::MAX_QUEUES)
    });
    top.read("max_pairs", &mut config.max_pairs, |value| count(integer(value), &limits::MAX_PAIRS));
    top.read("max_payload", &mut config.max_payload, |value| {
        limits::size(value.as_str(), integer(value), &limits::MAX_PAYLOAD)
    });
    top.read_list("hosts", &mut config.hosts, limits::host);
    read_log(top, &mut config.log);
    top.read("insecure", &mut config.insecure, |value| limits::switch(value.as_bool()));
    config.tokens.configured = tokens::read(top, &[]);
    top.read("token_file", &mut config.tokens.file, |value| file(value.as_str()).map(Some));
}

fn read_log(top: &mut Section<'_>, log: &mut LogConfig) {
    top.read("log_format", &mut log.format, |value| limits::log_format(value.as_str()));
    top.read("log_level", &mut log.level, |value| limits::log_level(value.as_str()));
}

fn read_policy(section: &mut Section<'_>, policy: &mut Policy) {
    section.read("max_attempts", &mut policy.max_attempts, |value| {
        count(integer(value), &limits::MAX_ATTEMPTS)
    });
    section.read("timeout", &mut policy.timeout, |value| limits::timeout(value.as_str()));
    section.read("lease", &mut policy.lease, |value| duration(value.as_str(), &limits::LEASE));
    if let Some(mut backoff) = section.table("backoff") {
        read_backoff(&mut backoff, &mut policy.backoff);
        backoff.close();
    }
    section.read("keep_completed", &mut policy.keep_completed, |value| {
        duration(value.as_str(), &limits::KEEP)
    });
    section.read("max_completed", &mut policy.max_completed, |value| {
        count(integer(value), &limits::KEPT_JOBS)
    });
    section
        .read("keep_dead", &mut policy.keep_dead, |value| duration(value.as_str(), &limits::KEEP));
    section.read("max_dead", &mut policy.max_dead, |value| {
        count_or_none(value.as_str(), integer(value), &limits::KEPT_JOBS)
    });
    section.read("max_depth", &mut policy.max_depth, |value| {
        count_or_none(value.as_str(), integer(value), &limits::MAX_DEPTH)
    });
}

fn read_backoff(section: &mut Section<'_>, backoff: &mut BackoffPolicy) {
    section
        .read("initial", &mut backoff.initial, |value| duration(value.as_str(), &limits::BACKOFF));
    section.read("factor", &mut backoff.factor, |value| {
        limits::number(number(value), &limits::BACKOFF_FACTOR)
    });
    section.read("max", &mut backoff.max, |value| duration(value.as_str(), &limits::BACKOFF));
    section.read("jitter", &mut backoff.jitter, |value| {
        limits::number(number(value), &limits::BACKOFF_JITTER)
    });
}

fn read_queues(section: &Section<'_>, config: &mut Config) {
    for (name, mut queue) in section.tables() {
        if let Err(right) = queue_or_kind(Some(name)) {
            section.object(name, &format!("is no name for a queue, which {right}"));
        }
        config.queues.insert(name.to_owned(), read_queue(&mut queue, &config.defaults));
        queue.close();
    }
}

fn read_queue(section: &mut Section<'_>, defaults: &Policy) -> QueueConfig {
    let mut queue = QueueConfig::leased(defaults.clone());
    section.read("concurrency", &mut queue.concurrency, |value| {
        count(integer(value), &limits::CONCURRENCY)
    });
    section.read_list("kinds", &mut queue.kinds, queue_or_kind);
    if let Some(twice) = first_repeated(&queue.kinds) {
        section.object("kinds", &format!("must name each kind once, got {twice:?} twice"));
    }
    read_policy(section, &mut queue.policy);
    if let Some(mut exec) = section.table("exec") {
        if !exec.has("command") {
            section.object("exec", &format!("needs a command, such as {COMMAND_EXAMPLE}"));
        }
        queue.runner = Runner::Exec(read_exec(&mut exec));
        exec.close();
    }
    if let Some(mut pushed) = section.table("http") {
        if section.has("exec") {
            section
                .object("http", "stands beside exec; a queue has one runner, so keep one of them");
        } else if !pushed.has("url") {
            section.object("http", "needs a url, such as \"http://127.0.0.1:3000/jobs\"");
        }
        queue.runner = Runner::Http(read_http(&mut pushed));
        pushed.close();
    }
    queue
}

fn first_repeated(kinds: &[String]) -> Option<&String> {
    let mut seen = BTreeSet::new();
    kinds.iter().find(|kind| !seen.insert(*kind))
}

fn read_exec(section: &mut Section<'_>) -> ExecConfig {
    let mut exec = ExecConfig {
        command: Vec::new(),
        env: BTreeMap::new(),
        dir: None,
        user: None,
        limits: ExecLimits::default(),
    };
    let is_read = section.read_list("command", &mut exec.command, argument);
    if is_read && exec.command.first().is_none_or(String::is_empty) {
        section.object("command", &format!("must start with a program, as {COMMAND_EXAMPLE} does"));
    }
    if let Some(variables) = section.table("env") {
        exec.env = read_env(&variables);
    }
    section.read("dir", &mut exec.dir, |value| directory(value.as_str()).map(Some));
    section.read("user", &mut exec.user, |value| user::user(value.as_str()).map(Some));
    if let Some(mut allowed) = section.table("limits") {
        exec.limits = read_limits(&mut allowed);
        allowed.close();
    }
    exec
}

fn read_limits(section: &mut Section<'_>) -> ExecLimits {
    let mut allowed = ExecLimits::default();
    section.read("memory", &mut allowed.memory, |value| {
        limits::size(value.as_str(), integer(value), &limits::EXEC_MEMORY).map(Some)
    });
    section.read("cpu", &mut allowed.cpu, |value| limits::whole_seconds(value.as_str()).map(Some));
    section.read("files", &mut allowed.files, |value| {
        count(integer(value), &limits::EXEC_FILES).map(Some)
    });
    allowed
}

fn read_http(section: &mut Section<'_>) -> HttpConfig {
    let mut pushed = HttpConfig {
        url: String::new(),
        secret: None,
        headers: BTreeMap::new(),
        connect_timeout: limits::CONNECT_TIMEOUT_DEFAULT,
    };
    section.read_hidden("url", &mut pushed.url, http::url);
    section.read_hidden("secret", &mut pushed.secret, |text| http::secret(text).map(Some));
    if let Some(headers) = section.table("headers") {
        for (name, value) in headers.secrets() {
            if let Err(right) = http::header(name, value) {
                headers.object(name, &right);
            }
            if pushed.headers.insert(name.to_ascii_lowercase(), value.to_owned()).is_some() {
                headers.object(name, "is there twice; keep one");
            }
        }
    }
    section.read("connect_timeout", &mut pushed.connect_timeout, |value| {
        duration(value.as_str(), &limits::CONNECT_TIMEOUT)
    });
    pushed
}

fn read_env(section: &Section<'_>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, value) in section.secrets() {
        if !is_variable(name) {
            section.object(name, "is no name for a variable; use A-Z a-z 0-9 _, no digit first");
        } else if name.starts_with(OWN_VARIABLES) {
            section.object(name, "must not start with TALLYD_, which is kept for tallyd's own");
        } else if let Err(right) = argument(Some(value)) {
            section.object(name, &right);
        }
        variables.insert(name.to_owned(), value.to_owned());
    }
    variables
}

fn is_variable(name: &str) -> bool {
    name.as_bytes().first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}
