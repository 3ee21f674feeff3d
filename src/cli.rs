//! The command line: which commands there are, and what their end means for the exit code.

pub mod backup;
pub mod bench;
pub mod check;
pub mod completions;
pub mod connection;
pub mod create;
pub mod demo;
pub mod jobs;
pub mod logs;
pub mod man;
pub mod metrics;
mod output;
pub mod queues;
mod reload;
pub mod serve;
pub mod settings;
mod signals;
pub mod token;

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use tracing::error;

use crate::client::ClientError;
use crate::config::ConfigError;

/// The version with the revision that was built.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TALLYD_REVISION"), ")");

/// A durable job server in one binary whose counts are exact
#[derive(Debug, clap::Parser)]
#[command(name = "tallyd", version = VERSION, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run a daemon with sample queues and jobs on a temporary store, and say where to look
    Demo(demo::Demo),
    /// Run the daemon
    Serve(serve::Serve),
    /// Validate the configuration and print the effective one
    Check(check::Check),
    /// Create a job, or many from a file
    Create(create::Create),
    /// List, show, cancel or requeue jobs
    Jobs(jobs::Jobs),
    /// List, pause or resume queues, or act on all their jobs
    Queues(queues::Queues),
    /// Have the server write a copy of its store, and print its path
    Backup(backup::Backup),
    /// Make tokens by which callers are known
    Token(token::Token),
    /// Load a server and print how fast it is
    Bench(bench::Bench),
    /// Print the metrics that the daemon exports
    Metrics(metrics::Catalogue),
    /// Print a script that completes tallyd's command line in a shell
    Completions(completions::Completions),
    /// Print the manual page, or write one for each command into a directory
    #[command(hide = true)]
    Man(man::Manual),
}

impl Cli {
    /// Runs the command to its end.
    ///
    /// # Errors
    ///
    /// What stopped the command, with the exit code that it means.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::Demo(demo) => demo.run(),
            Command::Serve(serve) => serve.run(),
            Command::Check(check) => check.run(),
            Command::Create(create) => create.run(),
            Command::Jobs(jobs) => jobs.run(),
            Command::Queues(queues) => queues.run(),
            Command::Backup(backup) => backup.run(),
            Command::Token(token) => token.run(),
            Command::Bench(bench) => bench.run(),
            Command::Metrics(catalogue) => catalogue.run(),
            Command::Completions(completions) => completions.run(),
            Command::Man(manual) => manual.run(),
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The operator's settings are wrong: exit 2, as for a wrong command line.
    Config(ConfigError),
    /// What is asked for cannot be right, and nothing was sent: exit 2.
    Usage(Box<dyn Error>),
    /// Whoever read the output wants no more of it, like `head`: exit 0.
    Unread,
    /// Anything else: exit 1.
    Other(Box<dyn Error>),
    /// The same, and the log has told of it already.
    Logged(Box<dyn Error>),
}

impl Failure {
    /// The exit code that tells a service supervisor what kind of failure it was.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Usage(_) => ExitCode::from(2),
            Self::Unread => ExitCode::SUCCESS,
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
        !matches!(self, Self::Logged(_) | Self::Unread)
    }
}

impl fmt::Display for Failure {
    /// The error and its causes, without what would talk to a terminal: servers have their part in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error: &dyn Error = match self {
            Self::Config(error) => error,
            Self::Usage(error) | Self::Other(error) | Self::Logged(error) => error.as_ref(),
            Self::Unread => return f.write_str("nobody reads the output any more"),
        };
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        let lines: Vec<_> = text.lines().map(output::visible).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::InvalidServer(_)
            | ClientError::InvalidName(_)
            | ClientError::InvalidToken
            | ClientError::InTheClear { .. }
            | ClientError::InvalidAuthorities
            | ClientError::InvalidIdentity => Self::Usage(error.into()),
            _ => Self::Other(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every flag with the words of its commands before it and its variable.
    fn flags(command: &clap::Command, words: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for flag in command.get_arguments().filter(|flag| flag.get_long().is_some()) {
            let name = flag.get_long().expect("it has one");
            if !["help", "version"].contains(&name) {
                let variable = flag.get_env().map(|name| name.to_string_lossy().into_owned());
                found.push((format!("{words} --{name}"), variable.unwrap_or_default()));
            }
        }
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            found.extend(flags(below, &format!("{words} {}", below.get_name())));
        }
        found
    }

    #[test]
    fn every_flag_has_a_variable_of_its_own() {
        // What commands of an exec queue find set, and must not be taken for a flag.
        let taken = ["JOB_ID", "QUEUE", "KIND", "ATTEMPT", "FAILURES", "STORE"];
        let mut meanings = BTreeMap::<String, String>::new();
        let all = flags(&Cli::command(), "tallyd");
        assert!(all.len() > 40, "{all:?}");
        for (flag, variable) in all {
            let (_, name) = flag.rsplit_once("--").expect("a flag has a name");
            let suffix = name.to_uppercase().replace('-', "_");
            let short = variable.strip_prefix("TALLYD_").unwrap_or_default();
            assert!(short.ends_with(&suffix), "{flag} has the variable {variable:?}");
            assert!(
                !taken.contains(&short),
                "{flag} would take what an exec queue sets: {variable}"
            );
            let meaning = meanings.entry(variable.clone()).or_insert_with(|| name.to_owned());
            assert_eq!(meaning, name, "{variable} means two things");
        }
    }

    #[test]
    fn a_failure_is_told_with_its_causes() {
        let source = std::io::Error::other("disk on fire");
        let error = ConfigError::Unreadable { file: "tallyd.toml".into(), source };
        assert_eq!(Failure::from(error).to_string(), "cannot read tallyd.toml: disk on fire");
        let failure = Failure::Other("one\u{1b}]0;title\u{7}\ntwo".into());
        assert_eq!(failure.to_string(), "one\\u{1b}]0;title\\u{7}\ntwo");
    }
}
