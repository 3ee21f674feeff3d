//! One command and its process group, from spawn to gone.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, test_kill_process_group, waitid,
};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::processes::{self, Process};

/// How often a group that is ending is looked at again although none of its known members ended:
/// one may have left the group, or joined it. Each look reads /proc once.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How many groups are looked at at once: each look takes a thread of those that also read jobs and
/// write expositions, of which there are 512.
static LOOKS: Semaphore = Semaphore::const_new(64);

/// A running command. Unless it is gone, dropping it kills the whole group.
#[derive(Debug)]
pub(super) struct Group {
    leader: Child,
    id: Pid,
    is_gone: bool,
}

impl Group {
    /// The group that `leader`, just spawned, leads.
    pub(super) fn of(leader: Child) -> Self {
        let id = leader.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let id = id.expect("a child that was not waited for has an id");
        Self { leader, id, is_gone: false }
    }

    /// Its pipes; only once.
    pub(super) fn take_pipes(
        &mut self,
    ) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        (self.leader.stdin.take(), self.leader.stdout.take(), self.leader.stderr.take())
    }

    /// Waits for the command itself.
    pub(super) async fn exit(&mut self) -> io::Result<ExitStatus> {
        self.leader.wait().await
    }

    /// Ends what lives of the group, by SIGTERM and after `grace` by SIGKILL, and returns when
    /// nothing does; at once if that is so already.
    pub(super) async fn end(&mut self, grace: Duration) {
        self.signal(Signal::TERM);
        if timeout(grace, self.gone()).await.is_err() {
            self.signal(Signal::KILL);
            // Again and again: it does no harm, and ends who joined the group meanwhile.
            while timeout(2 * LOOK_AGAIN, self.gone()).await.is_err() {
                self.signal(Signal::KILL);
            }
        }
        self.is_gone = true;
    }

    /// Waits until no member lives.
    ///
    /// The kernel tells nobody when a group is empty, only when a process ends. So this waits for
    /// the members that it sees and looks again, until there is none but the dead that their
    /// parent has not reaped; that parent need not be this process, nor ever do it.
    async fn gone(&mut self) {
        // An error says that somebody else reaped it.
        drop(self.leader.wait().await);
        while self.exists() {
            match self.look().await {
                Ok(true) => return,
                Ok(false) => {}
                // Out of descriptors, or without /proc.
                Err(_) => sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Whether no member lives; if some do, waits for their ends first, but not for long.
    async fn look(&self) -> io::Result<bool> {
        let _turn = LOOKS.acquire().await.expect("the semaphore is never closed");
        let members = self.members().await?;
        self.reap();
        let is_gone = members.is_empty();
        processes::all_ended(members, LOOK_AGAIN).await?;
        Ok(is_gone)
    }

    /// The living members.
    async fn members(&self) -> io::Result<Vec<Process>> {
        let group = self.id;
        processes::find(move |id| {
            processes::stat(id).is_some_and(|stat| stat.group == group && stat.is_alive)
        })
        .await
    }

    /// Reaps dead members that became children of this process, as those of a container's first
    /// process or a subreaper do. The leader is reaped before, so its status is not lost.
    fn reap(&self) {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        while let Ok(Some(_)) = waitid(WaitId::Pgid(Some(self.id)), ended) {}
    }

    /// Whether the group has a member, alive or dead. While it has one, the kernel gives its id
    /// to nobody else.
    fn exists(&self) -> bool {
        test_kill_process_group(self.id) != Err(Errno::SRCH)
    }

    fn signal(&self, signal: Signal) {
        // Fails if the group is gone, which is the aim, or is not ours to end, which only waiting
        // can help.
        let _ = kill_process_group(self.id, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_gone {
            self.signal(Signal::KILL);
        }
    }
}
