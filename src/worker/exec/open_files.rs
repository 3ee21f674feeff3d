//! How many files may be open: the daemon takes what it may have, its commands get what it was given.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// What pipes, attempts and the store take beside the connections.
const OTHERS: u64 = 2_000;

/// The limits from before they were raised.
static GIVEN: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit on open files as far as it goes, once per process; warns if so many connections
/// and all else may take more.
///
/// Commands still start with the limit from before: some programs close every file that could be
/// open, or use `select`, which fails beyond 1,024.
pub fn raise(connections: usize) {
    let given = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: given.maximum, maximum: given.maximum };
    match setrlimit(Resource::Nofile, raised) {
        // If another call was first, it has kept the limits as they really were.
        Ok(()) => drop(GIVEN.set(given)),
        Err(error) => warn!(event = "open_files_not_raised", %error),
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let enough = connections as u64 + OTHERS;
    if allowed < enough {
        warn!(
            event = "few_open_files",
            allowed, "full use takes {enough} open files; raise the limit, as by LimitNOFILE"
        );
    }
}

/// What to set in a command before it starts; none if nothing was raised.
pub(super) fn given() -> Option<Rlimit> {
    GIVEN.get().copied()
}
