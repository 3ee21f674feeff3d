//! Runs one attempt as a local command: payload in, outcome out, no process left behind.
//!
//! ```text
//! spawn ──> exited ────────────┐
//!   │                          ├──> rest of its group: SIGTERM, grace, SIGKILL ──> gone ──> Ended
//!   └─────> timeout, interrupt ┘
//! ```

mod before_exec;
mod group;
mod leftovers;
pub mod open_files;
mod output;
pub mod privileges;
mod processes;
mod rlimits;
mod spawn;

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::config::{ExecConfig, duration};
use group::Group;
use output::Pipes;
use spawn::Refusal;

pub use leftovers::end_leftovers;
pub use spawn::Spawner;

/// How long a group has to end by itself after SIGTERM: time to remove temporary files and close
/// connections, yet six times less than a drain waits by default.
pub const GRACE: Duration = Duration::from_secs(5);

/// The exit status that says the job can never succeed: EX_DATAERR of sysexits.h.
const DATA_ERROR: i32 = 65;

/// What stands between what happened and the command's stderr.
const STDERR: &str = ": ";

/// The signals that end commands in practice, by number.
const SIGNALS: [(i32, &str); 12] = [
    (libc::SIGHUP, "SIGHUP"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGILL, "SIGILL"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGBUS, "SIGBUS"),
    (libc::SIGFPE, "SIGFPE"),
    (libc::SIGKILL, "SIGKILL"),
    (libc::SIGSEGV, "SIGSEGV"),
    (libc::SIGPIPE, "SIGPIPE"),
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGXCPU, "SIGXCPU"),
];

/// One attempt, ready to run.
#[derive(Clone)]
pub struct Invocation {
    /// What to run. A program without `/` is looked for in the `PATH` of `env`, else in the
    /// daemon's; a relative one with `/` is taken from `dir`.
    pub config: ExecConfig,
    /// The variables of the attempt. With `config.env` they are the whole environment; of two
    /// with the same name these win. `TALLYD_STORE` must be among them, or
    /// [`end_leftovers`] finds nothing after a crash.
    pub variables: Vec<(&'static str, String)>,
    /// What the command reads on stdin.
    pub payload: Bytes,
    /// How long it may run; none = as long as it likes.
    pub timeout: Option<Duration>,
    /// How long its group has between SIGTERM and SIGKILL: [`GRACE`].
    pub grace: Duration,
}

/// How an attempt ended. By then nothing of its process group lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Exit status 0.
    Completed {
        /// The first 64 KiB of stdout; none if it printed nothing.
        result: Option<String>,
    },
    /// Any other end, or it could not be started.
    Failed {
        /// Exit status 65: trying again is of no use.
        permanent: bool,
        /// What happened, with the last 4 KiB of stderr.
        error: String,
    },
    /// It ran longer than its timeout.
    TimedOut {
        /// After how long, with the last 4 KiB of stderr.
        error: String,
    },
    /// The machine had no descriptor, process, memory or time left for it, which says nothing about
    /// the job.
    Short {
        /// What was lacking.
        error: String,
    },
    /// The caller interrupted it.
    Interrupted,
}

/// Why the command is not left to run on.
enum Stop {
    Exited(io::Result<ExitStatus>),
    TimedOut(Duration),
    Interrupted,
}

/// Runs one attempt to its end, which is when its process group is gone.
///
/// A command that exits by itself before `interrupt` or its timeout keeps its own outcome, even
/// if the rest of its group has to be ended after it. A process that left the group, say by
/// `setsid`, is not waited for, whatever pipes it holds. A caller that drops the future kills
/// the group.
pub async fn run(spawner: &Spawner, invocation: Invocation, interrupt: CancellationToken) -> Ended {
    let Invocation { config, variables, payload, timeout, grace } = invocation;
    // A program on a dead file server can hold up the spawner for ever. One that has begun at the
    // moment of an interrupt is waited for, so that it gets its SIGTERM.
    let spawned = tokio::select! {
        biased;
        spawned = spawner.spawn(config, variables, interrupt.clone()) => spawned,
        () = async { interrupt.cancelled().await; tokio::time::sleep(grace).await } => {
            return Ended::Interrupted;
        }
        after = expiry(timeout) => {
            let error = format!("it could not be started within {}", duration::format(after));
            return Ended::Short { error };
        }
    };
    let mut group = match spawned {
        Some(Ok(group)) => group,
        Some(Err(Refusal { error, is_shortage: true })) => return Ended::Short { error },
        Some(Err(Refusal { error, .. })) => return Ended::Failed { permanent: false, error },
        None => return Ended::Interrupted,
    };
    let mut pipes = Pipes::of(&mut group, payload);

    let stop = {
        let mut course = pin!(see_out(&mut group, timeout, &interrupt, grace));
        tokio::select! {
            stop = &mut course => stop,
            () = pipes.pump() => course.await,
        }
    };
    pipes.read_rest();
    outcome(stop, &pipes)
}

/// Waits until the command exits or has to stop, then until its group is gone.
async fn see_out(
    group: &mut Group,
    timeout: Option<Duration>,
    interrupt: &CancellationToken,
    grace: Duration,
) -> Stop {
    let stop = tokio::select! {
        biased;
        status = group.exit() => Stop::Exited(status),
        () = interrupt.cancelled() => Stop::Interrupted,
        after = expiry(timeout) => Stop::TimedOut(after),
    };
    group.end(grace).await;
    stop
}

/// Resolves when `timeout` has passed; never if there is none.
async fn expiry(timeout: Option<Duration>) -> Duration {
    match timeout {
        Some(timeout) => {
            tokio::time::sleep(timeout).await;
            timeout
        }
        None => std::future::pending().await,
    }
}

fn outcome(stop: Stop, pipes: &Pipes) -> Ended {
    let status = match stop {
        Stop::Interrupted => return Ended::Interrupted,
        Stop::TimedOut(after) => {
            let what = format!("timed out after {}", duration::format(after));
            return Ended::TimedOut { error: with_stderr(what, pipes) };
        }
        Stop::Exited(Ok(status)) if status.success() => {
            return Ended::Completed { result: pipes.result() };
        }
        Stop::Exited(Ok(status)) => status,
        Stop::Exited(Err(error)) => {
            let what = format!("exit status unknown ({error})");
            return Ended::Failed { permanent: false, error: with_stderr(what, pipes) };
        }
    };
    let error = with_stderr(describe(status), pipes);
    Ended::Failed { permanent: status.code() == Some(DATA_ERROR), error }
}

fn with_stderr(what: String, pipes: &Pipes) -> String {
    match pipes.complaint() {
        Some(complaint) => format!("{what}{STDERR}{complaint}"),
        None => what,
    }
}

/// The part of an attempt's error that the daemon saw itself, without the command's stderr.
pub(super) fn what_happened(error: &str) -> &str {
    match error.split_once(STDERR) {
        // It wrote nothing, and the rest is the reason.
        _ if error.starts_with("cannot start ") => error,
        Some((what, _)) => what,
        None => error,
    }
}

fn describe(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else {
        return format!("exit status {}", status.code().unwrap_or_default());
    };
    match SIGNALS.iter().find(|(number, _)| *number == signal) {
        Some((_, name)) => format!("killed by signal {signal} ({name})"),
        None => format!("killed by signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_without_what_the_command_wrote() {
        assert_eq!(what_happened("exit status 3: secret: payload\nmore"), "exit status 3");
        assert_eq!(what_happened("timed out after 5m"), "timed out after 5m");
        let missing = "cannot start x: no such program in PATH /bin";
        assert_eq!(what_happened(missing), missing);
    }
}
