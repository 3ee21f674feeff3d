//! Ends what a killed daemon left behind, at the next start.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, getpid};

use super::processes;

/// How long killed processes may take to be gone; more only if one is stuck in the kernel, say on
/// a dead file server.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills the processes whose environment has `TALLYD_STORE` set to `store`, and returns how many
/// there were once they are gone. This process and its ancestors are spared.
///
/// Not found are those that cleared their environment, or belong to another user when this
/// process is not root. An error means that some may live on.
pub async fn end_leftovers(store: &str) -> io::Result<usize> {
    let spared = lineage(getpid());
    let mark = format!("TALLYD_STORE={store}").into_bytes();
    let deadline = Instant::now() + PATIENCE;
    let mut ended = 0;
    // Until none is found: one may have forked while it was being looked for.
    loop {
        let (spared, mark) = (spared.clone(), mark.clone());
        let found =
            processes::find(move |id| !spared.contains(&id) && is_marked(id, &mark)).await?;
        if found.is_empty() {
            return Ok(ended);
        }
        ended += found.len();
        for process in &found {
            process.kill()?;
        }
        let patience = deadline.saturating_duration_since(Instant::now());
        if let Some(id) = processes::all_ended(found, patience).await? {
            let text = format!("process {id} of an earlier run did not end after SIGKILL");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
    }
}

/// A process and its ancestors.
fn lineage(id: Pid) -> Vec<Pid> {
    std::iter::successors(Some(id), |id| processes::stat(*id)?.parent).collect()
}

/// Whether `mark` is one of the variables that a process was started with.
fn is_marked(id: Pid, mark: &[u8]) -> bool {
    fs::read(format!("/proc/{id}/environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|entry| entry == mark))
}
