//! What it takes to run commands as another user, and to end them.

use rustix::thread::{CapabilitySet, capabilities};

use crate::config::{Config, Runner};

/// To change user and groups, to end what then belongs to another, and to find what a crash left of
/// it.
const NEEDED: [(CapabilitySet, &str); 4] = [
    (CapabilitySet::SETUID, "CAP_SETUID"),
    (CapabilitySet::SETGID, "CAP_SETGID"),
    (CapabilitySet::KILL, "CAP_KILL"),
    (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
];

/// Why the commands of a queue cannot be run as it says.
#[derive(Debug, thiserror::Error)]
#[error(
    "queues.{queue}.exec.user needs {}, which tallyd does not have; start it as root or with {}, \
     or leave user out", lacking.join(", "), if lacking.len() == 1 { "it" } else { "them" }
)]
pub struct Unprivileged {
    queue: String,
    lacking: Vec<&'static str>,
}

/// Fails unless the daemon may do what `exec.user` asks for, if a queue has it.
///
/// # Errors
///
/// It lacks a capability.
pub fn check(config: &Config) -> Result<(), Unprivileged> {
    let has_user = |runner: &Runner| matches!(runner, Runner::Exec(exec) if exec.user.is_some());
    let Some((queue, _)) = config.queues.iter().find(|(_, queue)| has_user(&queue.runner)) else {
        return Ok(());
    };
    let own = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let lacks = |(capability, _): &&(CapabilitySet, &str)| !own.contains(*capability);
    let lacking: Vec<_> = NEEDED.iter().filter(lacks).map(|(_, name)| *name).collect();
    if lacking.is_empty() { Ok(()) } else { Err(Unprivileged { queue: queue.clone(), lacking }) }
}
