//! The processes that a test has commands start, and the pipes on which it talks to them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

/// Longer than anything here takes: a test that gets there has failed.
pub const NEVER: Duration = Duration::from_secs(60);

/// A named pipe on which processes tell the test how far they are, or the test tells them.
pub struct Line {
    pub path: PathBuf,
    lines: BufReader<pipe::Receiver>,
}

impl Line {
    pub fn new(dir: &Path, name: &str) -> Self {
        let path = dir.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        // Open for writing too, so that a process which closes it ends nothing.
        let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(&path).unwrap();
        Self { path, lines: BufReader::new(pipe) }
    }

    pub async fn hear(&mut self) -> String {
        let mut line = String::new();
        let heard = tokio::time::timeout(NEVER, self.lines.read_line(&mut line)).await;
        heard.expect("the process speaks").unwrap();
        line.trim_end().to_owned()
    }

    pub async fn hear_process(&mut self) -> Process {
        Process::named(&self.hear().await)
    }

    /// Lets so many processes read a line.
    pub fn say(&self, times: usize) {
        fs::write(&self.path, "\n".repeat(times)).unwrap();
    }
}

/// A process of a test, which does not outlive it.
pub struct Process(Pid);

impl Process {
    pub fn named(id: &str) -> Self {
        Self(Pid::from_raw(id.parse().unwrap()).unwrap())
    }

    pub fn lives(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        // Dead and not yet reaped (Z), or being reaped at this moment (X).
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        state.is_some_and(|state| !"ZXx".contains(state))
    }

    pub async fn ended(&self) {
        let Ok(process) = pidfd_open(self.0, PidfdFlags::empty()) else { return };
        let ends = tokio::task::spawn_blocking(move || {
            let patience = Timespec::try_from(NEVER).unwrap();
            poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience)).unwrap()
        });
        assert_eq!(ends.await.unwrap(), 1, "process {} lives on", self.0);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.lives() {
            kill_process(self.0, Signal::KILL).unwrap();
        }
    }
}
