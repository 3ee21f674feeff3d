//! The settings that flags and the environment can change.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;

use super::limits;
use super::{Config, LogFormat, LogLevel};

/// What flags and `TALLYD_…` variables say, a flag before its variable; none leaves it to the file.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub struct Overrides {
    /// Serve HTTP on this address [default: 127.0.0.1:8255]
    #[arg(long, env = "TALLYD_LISTEN", value_name = "ADDRESS",
        value_parser = |text: &str| limits::address(Some(text)))]
    pub listen: Option<SocketAddr>,

    /// Serve /metrics on an address of its own, and only there
    #[arg(long, env = "TALLYD_METRICS_LISTEN", value_name = "ADDRESS",
        value_parser = |text: &str| limits::address(Some(text)))]
    pub metrics_listen: Option<SocketAddr>,

    /// Keep the jobs in this file [default: tallyd.db]
    #[arg(long, env = "TALLYD_DATA", value_name = "FILE",
        value_parser = |text: &str| limits::store_file(Some(text)))]
    pub data: Option<PathBuf>,

    /// Write backups into this directory
    #[arg(long, env = "TALLYD_BACKUP_DIR", value_name = "DIRECTORY",
        value_parser = |text: &str| limits::directory(Some(text)))]
    pub backup_dir: Option<PathBuf>,

    /// Let running attempts finish for so long when stopping [default: 30s]
    #[arg(long, env = "TALLYD_DRAIN_TIMEOUT", value_name = "DURATION",
        value_parser = |text: &str| limits::duration(Some(text), &limits::DRAIN_TIMEOUT))]
    pub drain_timeout: Option<Duration>,

    /// Refuse queues that are not configured instead of making them when first used
    #[arg(long, env = "TALLYD_STRICT_QUEUES", value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_missing_value = "true",
        value_parser = BoolishValueParser::new())]
    pub strict_queues: Option<bool>,

    /// Let at most so many queues exist [default: 1000]
    #[arg(long, env = "TALLYD_MAX_QUEUES", value_name = "COUNT",
        value_parser = |text: &str| limits::count::<usize>(text.parse().ok(), &limits::MAX_QUEUES))]
    pub max_queues: Option<usize>,

    /// Count at most so many pairs of queue and kind on their own [default: 500]
    #[arg(long, env = "TALLYD_MAX_PAIRS", value_name = "COUNT",
        value_parser = |text: &str| limits::count::<usize>(text.parse().ok(), &limits::MAX_PAIRS))]
    pub max_pairs: Option<usize>,

    /// Take jobs of at most this size [default: 1MiB]
    #[arg(long, env = "TALLYD_MAX_PAYLOAD", value_name = "SIZE",
        value_parser = |text: &str| limits::size::<usize>(Some(text), None, &limits::MAX_PAYLOAD))]
    pub max_payload: Option<usize>,

    /// Answer requests for these host names too, separated by commas
    #[arg(long, env = "TALLYD_HOSTS", value_name = "HOST", value_delimiter = ',',
        value_parser = |text: &str| limits::host(Some(text)))]
    pub hosts: Option<Vec<String>>,

    /// Write logs as text or json [default: text]
    #[arg(long, env = "TALLYD_LOG_FORMAT", value_name = "FORMAT",
        value_parser = |text: &str| limits::log_format(Some(text)))]
    pub log_format: Option<LogFormat>,

    /// Log from this severity on: error, warn, info, debug or trace [default: info]
    #[arg(long, env = "TALLYD_LOG_LEVEL", value_name = "LEVEL",
        value_parser = |text: &str| limits::log_level(Some(text)))]
    pub log_level: Option<LogLevel>,

    /// Know callers by the tokens in this file too
    #[arg(long, env = "TALLYD_TOKEN_FILE", value_name = "FILE",
        value_parser = |text: &str| limits::file(Some(text)))]
    pub token_file: Option<PathBuf>,

    /// Protect all listeners as this file says, which has the format of Prometheus' exporters: TLS,
    /// client certificates, users with passwords, headers
    #[arg(long, env = "TALLYD_WEB_CONFIG", value_name = "FILE",
        value_parser = |text: &str| limits::file(Some(text)))]
    pub web_config: Option<PathBuf>,

    /// Listen beyond loopback although there are no tokens to know callers by
    #[arg(long, env = "TALLYD_INSECURE", value_name = "BOOL", num_args = 0..=1,
        require_equals = true, default_missing_value = "true",
        value_parser = BoolishValueParser::new())]
    pub insecure: Option<bool>,
}

impl Overrides {
    /// Puts what is said here in the place of what the file or the defaults say.
    pub(super) fn apply(&self, config: &mut Config) {
        put(self.listen.as_ref(), &mut config.listen);
        put(self.data.as_ref(), &mut config.data);
        put(self.drain_timeout.as_ref(), &mut config.drain_timeout);
        put(self.strict_queues.as_ref(), &mut config.strict_queues);
        put(self.max_queues.as_ref(), &mut config.max_queues);
        put(self.max_pairs.as_ref(), &mut config.max_pairs);
        put(self.max_payload.as_ref(), &mut config.max_payload);
        put(self.hosts.as_ref(), &mut config.hosts);
        put(self.log_format.as_ref(), &mut config.log.format);
        put(self.log_level.as_ref(), &mut config.log.level);
        put(self.insecure.as_ref(), &mut config.insecure);
        config.metrics_listen = self.metrics_listen.or(config.metrics_listen);
        config.backup_dir = self.backup_dir.clone().or(config.backup_dir.take());
        config.tokens.file = self.token_file.clone().or(config.tokens.file.take());
    }
}

fn put<T: Clone>(value: Option<&T>, target: &mut T) {
    if let Some(value) = value {
        target.clone_from(value);
    }
}
