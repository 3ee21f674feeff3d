//! The command line: which commands there are, and what their end means for the exit code.

pub mod bench;
pub mod check;
pub mod logs;
pub mod metrics;
pub mod serve;
pub mod settings;

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use tracing::error;

use crate::config::ConfigError;

/// A durable job server in one binary whose counts are exact
#[derive(Debug, clap::Parser)]
#[command(name = "tallyd", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run the daemon
    Serve(serve::Serve),
    /// Validate the configuration and print the effective one
    Check(check::Check),
    /// Load a server and print how fast it is
    Bench(bench::Bench),
    /// Print the metrics that the daemon exports
    Metrics(metrics::Catalogue),
}

impl Cli {
    /// Runs the command to its end.
    ///
    /// # Errors
    ///
    /// What stopped the command, with the exit code that it means.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Serve(serve) => serve.run(),
            Command::Check(check) => check.run(),
            Command::Bench(bench) => bench.run(),
            Command::Metrics(catalogue) => catalogue.run(),
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The operator's settings are wrong: exit 2, as for a wrong command line.
    Config(ConfigError),
    /// Anything else: exit 1.
    Other(Box<dyn Error>),
    /// The same, and the log has told of it already.
    Logged(Box<dyn Error>),
}

impl Failure {
    /// The exit code that tells a service supervisor what kind of failure it was.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) => ExitCode::from(2),
            Self::Other(_) | Self::Logged(_) => ExitCode::FAILURE,
        }
    }

    /// Tells the log of it.
    fn log(self) -> Self {
        let text = self.to_string();
        let Self::Other(error) = self else { return self };
        error!(event = "failed", error = text);
        Self::Logged(error)
    }

    /// Whether the operator has still to be told.
    pub fn is_untold(&self) -> bool {
        !matches!(self, Self::Logged(_))
    }
}

impl fmt::Display for Failure {
    /// The error and its causes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error: &dyn Error = match self {
            Self::Config(error) => error,
            Self::Other(error) | Self::Logged(error) => error.as_ref(),
        };
        write!(f, "{error}")?;
        let mut cause = error.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_failure_is_told_with_its_causes() {
        let source = std::io::Error::other("disk on fire");
        let error = ConfigError::Unreadable { file: "tallyd.toml".into(), source };
        assert_eq!(Failure::from(error).to_string(), "cannot read tallyd.toml: disk on fire");
    }
}
