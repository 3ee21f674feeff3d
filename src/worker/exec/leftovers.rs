//! Ends what a killed daemon left behind, at the next start.

use std::fs::{self, File};
use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, getpid};

use super::processes;

/// How long killed processes may take to be gone; more only if one is stuck in the kernel, say on
/// a dead file server.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a process is looked at that shows no environment, and how long not if it shows nothing
/// at all: the kernel takes microseconds to put another program in its place.
const MOST_LOOKS: u32 = 200;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// More than the environment of most processes; of the others it is read anew with more room.
const ROOM_BYTES: usize = 64 << 10;

/// After how many looks at its arguments a process really has no environment: it may have been
/// becoming another program before and after one.
const ENOUGH_LOOKS: u32 = 5;

/// Kills the processes whose environment has `TALLYD_STORE` set to `store`, and returns how many
/// there were once they are gone. This process and its ancestors are spared.
///
/// Not found are those that cleared their environment, or belong to another user when this
/// process has not what [`privileges`](super::privileges) asks for. An error means that some may live on.
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
///
/// Of one that is becoming another program the kernel shows neither environment nor arguments, so
/// it is looked at until it shows either, and again if those were the arguments.
fn is_marked(id: Pid, mark: &[u8]) -> bool {
    let mut seen_without = 0;
    for _ in 0..MOST_LOOKS {
        let Ok(environment) = read_at_once(&format!("/proc/{id}/environ")) else { return false };
        if !environment.is_empty() {
            return environment.split(|byte| *byte == 0).any(|entry| entry == mark);
        }
        // The kernel's own and those that have ended have no program.
        let has_program = fs::read_link(format!("/proc/{id}/exe")).is_ok();
        if !has_program || seen_without == ENOUGH_LOOKS {
            return false;
        }
        if fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|arguments| !arguments.is_empty()) {
            seen_without += 1;
        } else {
            thread::sleep(BETWEEN_LOOKS);
        }
    }
    false
}

/// Reads a file by one call: of one that is read by several, the rest is missing if the process
/// becomes another program meanwhile.
fn read_at_once(file: &str) -> io::Result<Vec<u8>> {
    let mut room = ROOM_BYTES;
    loop {
        let mut bytes = vec![0; room];
        let length = File::open(file)?.read(&mut bytes)?;
        if length < bytes.len() {
            bytes.truncate(length);
            return Ok(bytes);
        }
        room *= 2;
    }
}
