//! `tallyd serve`: loads the configuration, sets up the logs and runs the daemon.

use std::time::Duration;

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::logs::{self, Level};
use super::reload::Reloading;
use super::settings::Settings;
use super::{Failure, signals};
use crate::config::{Config, ConfigError, LogFormat};
use crate::daemon::{Daemon, DaemonError, Systemd};
use crate::server;
use crate::worker::exec::{open_files, privileges};

/// How long the end waits for threads that are still reading: they hold nothing that matters.
const LAST_READS: Duration = Duration::from_millis(100);

/// The flags of `tallyd serve`.
#[derive(Debug, clap::Args)]
pub struct Serve {
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    /// Runs the daemon until it is told to stop by SIGTERM or SIGINT, and has drained.
    ///
    /// # Errors
    ///
    /// A wrong configuration, what kept the daemon from starting, or why it ended by itself.
    pub fn run(&self) -> Result<(), Failure> {
        let (mut config, level) = self.prepare()?;
        privileges::check(&config).map_err(|error| Failure::Usage(error.into()))?;
        let format = config.log.format;
        let loaded = config.clone();
        let systemd = Systemd::take(&mut config).map_err(|error| Failure::Usage(error.into()))?;
        open_files::raise(server::most_connections(&config));
        let runtime = Runtime::new().map_err(|error| Failure::Other(error.into()))?;
        let reloading = {
            let _context = runtime.enter();
            Reloading::prepare(&self.settings, loaded, level, systemd.notifier())?
        };
        let serving = |stop| serve(config, systemd, reloading, stop);
        let outcome = runtime.block_on(signals::serve_until_asked(serving));
        runtime.shutdown_timeout(LAST_READS);
        // A program that reads the log must find nothing but objects in it.
        outcome.map_err(|failure| if format == LogFormat::Json { failure.log() } else { failure })
    }

    /// All that comes before the daemon: from here on its configuration is right and it logs.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or a setting is wrong.
    pub fn prepare(&self) -> Result<(Config, Level), ConfigError> {
        let config = self.settings.load()?;
        let level = logs::start(config.log);
        for exposed in self.settings.exposed(&config) {
            warn!(event = "settings_exposed", exposed, "others may use what is not theirs");
        }
        Ok((config, level))
    }
}

async fn serve(
    config: Config,
    systemd: Systemd,
    reloading: Reloading,
    stop: CancellationToken,
) -> Result<(), DaemonError> {
    let Some(daemon) = Daemon::start(config, systemd, &stop).await? else { return Ok(()) };
    // Once it serves, so that no reload tells of a readiness that is not there yet.
    tokio::spawn(stop.clone().run_until_cancelled_owned(reloading.run(daemon.guard())));
    daemon.run(&stop).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::config::LogLevel;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: Serve,
    }

    fn parse(flags: &[&str]) -> Result<Settings, clap::Error> {
        let line = std::iter::once("serve").chain(flags.iter().copied());
        Line::try_parse_from(line).map(|line| line.serve.settings)
    }

    #[test]
    fn every_flag_is_read() {
        let settings = parse(&[
            "--config=tallyd.toml",
            "--listen=[::1]:80",
            "--metrics-listen=127.0.0.1:9000",
            "--data=jobs.db",
            "--backup-dir=backups",
            "--drain-timeout=5s",
            "--strict-queues",
            "--max-queues=7",
            "--max-pairs=8",
            "--max-payload=2KiB",
            "--hosts=a.example,B.example",
            "--log-format=json",
            "--log-level=warn",
            "--token-file=tokens.toml",
            "--web-config=web.yml",
            "--insecure=false",
        ]);
        let settings = settings.expect("every flag is right");
        let overrides = settings.overrides;
        assert_eq!(settings.config, Some("tallyd.toml".into()));
        assert_eq!(overrides.listen, "[::1]:80".parse().ok());
        assert_eq!(overrides.metrics_listen, "127.0.0.1:9000".parse().ok());
        assert_eq!(overrides.data, Some("jobs.db".into()));
        assert_eq!(overrides.backup_dir, Some("backups".into()));
        assert_eq!(overrides.drain_timeout, Some(Duration::from_secs(5)));
        assert_eq!(overrides.strict_queues, Some(true));
        assert_eq!(overrides.max_queues, Some(7));
        assert_eq!(overrides.max_pairs, Some(8));
        assert_eq!(overrides.max_payload, Some(2048));
        assert_eq!(overrides.hosts, Some(vec!["a.example".into(), "b.example".into()]));
        assert_eq!(overrides.log_format, Some(crate::config::LogFormat::Json));
        assert_eq!(overrides.log_level, Some(LogLevel::Warn));
        assert_eq!(overrides.token_file, Some("tokens.toml".into()));
        assert_eq!(overrides.web_config, Some("web.yml".into()));
        assert_eq!(overrides.insecure, Some(false));
    }

    #[test]
    fn a_wrong_flag_is_refused_in_the_words_of_the_file() {
        for (flag, right) in [
            ("--listen=localhost:80", "must be an IP address and a port"),
            ("--data=:memory:", "must be the path of a file"),
            ("--drain-timeout=30", "must be a duration"),
            ("--drain-timeout=25h", "must be 0s to 1d"),
            ("--max-queues=0", "must be 1 to 100000"),
            ("--max-payload=1GiB", "must be 1KiB to 16MiB"),
            ("--hosts=http://a", "must be a host name"),
            ("--log-format=xml", "must be text or json"),
            ("--log-level=loud", "must be error, warn, info, debug or trace"),
        ] {
            let error = parse(&[flag]).expect_err(flag);
            assert!(error.to_string().contains(right), "{flag}: {error}");
            assert_eq!(error.exit_code(), 2, "{flag}");
        }
    }
}
