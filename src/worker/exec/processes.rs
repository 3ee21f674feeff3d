//! What /proc tells about processes, and waiting for the ends of those that are not children.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::task::spawn_blocking;

/// A process, held by a descriptor that never comes to mean another one. Needs Linux 5.3.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: Pid,
    descriptor: OwnedFd,
}

impl Process {
    /// Waits until it has ended; false if it has not by then.
    fn has_ended_by(&self, deadline: Instant) -> io::Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            let mut watched = [PollFd::new(&self.descriptor, PollFlags::IN)];
            match poll(&mut watched, Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends it SIGKILL; no error if it has ended.
    pub(super) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.descriptor, Signal::KILL) {
            Err(error) if error != Errno::SRCH => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// What the kernel knows about a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) parent: Option<Pid>,
    pub(super) group: Pid,
    /// False for one that has ended and waits to be reaped.
    pub(super) is_alive: bool,
}

/// The processes that `is_wanted`.
pub(super) async fn find(
    is_wanted: impl Fn(Pid) -> bool + Send + 'static,
) -> io::Result<Vec<Process>> {
    // On a machine with thousands of processes this takes many milliseconds.
    spawn_blocking(move || scan(is_wanted)).await?
}

fn scan(is_wanted: impl Fn(Pid) -> bool) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let id = entry?.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(id) = id.and_then(Pid::from_raw).filter(|id| is_wanted(*id)) else { continue };
        let descriptor = match pidfd_open(id, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(Errno::SRCH) => continue,
            Err(error) => return Err(error.into()),
        };
        // Asked again, because the id may have passed to another process meanwhile.
        if is_wanted(id) {
            found.push(Process { id, descriptor });
        }
    }
    Ok(found)
}

/// Waits until all of them have ended, whether or not their parents have reaped them, but not
/// longer than `patience`. Returns the first that lives on, if one does.
pub(super) async fn all_ended(
    processes: Vec<Process>,
    patience: Duration,
) -> io::Result<Option<Pid>> {
    let deadline = Instant::now() + patience;
    spawn_blocking(move || {
        for process in &processes {
            if !process.has_ended_by(deadline)? {
                return Ok(Some(process.id));
            }
        }
        Ok(None)
    })
    .await?
}

/// Reads /proc/ID/stat; none if there is no such process.
pub(super) fn stat(id: Pid) -> Option<Stat> {
    parse(&fs::read(format!("/proc/{id}/stat")).ok()?)
}

/// Takes the line apart as proc(5) describes it. The name in brackets may hold anything, so the
/// fields are counted from the last bracket.
fn parse(line: &[u8]) -> Option<Stat> {
    let name_end = line.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(&line[name_end + 1..]).ok()?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let (state, parent, group, threads) =
        (fields.first()?, fields.get(1)?, fields.get(2)?, fields.get(17)?);
    // A main thread that ended before the others looks like a zombie.
    let is_dead = matches!(*state, "X" | "x") || (*state == "Z" && matches!(*threads, "0" | "1"));
    Some(Stat {
        parent: Pid::from_raw(parent.parse().ok()?),
        group: Pid::from_raw(group.parse().ok()?)?,
        is_alive: !is_dead,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, state: &str, threads: u32) -> Vec<u8> {
        let unused = "9 ".repeat(14);
        format!("7 ({name}) {state} 3 5 {unused}{threads} 0 1 2").into_bytes()
    }

    #[test]
    fn fields_are_found_whatever_the_name() {
        let stat = parse(&line("a) Z 1 1 (b", "S", 4)).unwrap();
        assert_eq!(
            stat,
            Stat { parent: Pid::from_raw(3), group: Pid::from_raw(5).unwrap(), is_alive: true }
        );
        assert_eq!(parse(b"7 (sh) S 3"), None);
    }

    #[test]
    fn only_a_zombie_without_threads_is_dead() {
        assert!(!parse(&line("sh", "Z", 1)).unwrap().is_alive);
        assert!(!parse(&line("sh", "X", 0)).unwrap().is_alive);
        assert!(parse(&line("sh", "Z", 2)).unwrap().is_alive);
    }
}
