//! What a child does between fork and exec; the only unsafe code of the workers.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, fchown, open};
use rustix::io::{Errno, write};
use rustix::process::{
    Gid, Pid, Resource, Rlimit, Signal, Uid, getpid, getppid, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use tokio::process::Command;

use crate::config::ExecUser;

/// Another user, as the kernel takes it.
pub(super) struct Identity {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Identity {
    pub(super) fn of(user: &ExecUser) -> Self {
        Self {
            uid: Uid::from_raw(user.uid),
            gid: Gid::from_raw(user.gid),
            groups: user.groups.iter().copied().map(Gid::from_raw).collect(),
        }
    }

    /// Becomes that user for good. The calls change a thread alone, of which a forked child has one.
    fn assume(&self) -> io::Result<()> {
        self.take_pipes();
        set_thread_groups(&self.groups)?;
        set_thread_res_gid(self.gid, self.gid, self.gid)?;
        set_thread_res_uid(self.uid, self.uid, self.uid)?;
        // Those of a daemon that is not root outlast the change.
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        if self.uid.is_root() { Ok(()) } else { Ok(set_capabilities(None, sets)?) }
    }

    /// Makes the standard pipes the user's own, who could not open `/dev/stderr` otherwise. A daemon
    /// that may not give its pipes away leaves them as they are: they can be used all the same.
    fn take_pipes(&self) {
        for number in 0..3 {
            // SAFETY: the child has its standard descriptors by now, and nothing closes them.
            let pipe = unsafe { BorrowedFd::borrow_raw(number) };
            // Fails without the capability to change owners, see above.
            let _ = fchown(pipe, Some(self.uid), Some(self.gid));
        }
    }
}

/// Has the child killed as soon as the thread that spawns it ends, sets what it may use and as whom
/// it runs, and clears its signal mask. No program that it becomes gives it more rights than it has.
///
/// So the thread must be one that lives as long as the daemon. The kernel forgets the wish for
/// children of the child; what remains of those is found at the next start.
pub(super) fn prepare_child(
    command: &mut Command,
    limits: Vec<(Resource, Rlimit)>,
    identity: Option<Identity>,
) {
    let parent = getpid();
    // SAFETY: the closure runs in the forked child of a process with many threads, where only
    // async-signal-safe calls are allowed: it makes system calls, allocates nothing, takes no
    // lock, and cannot panic.
    unsafe {
        command.pre_exec(move || {
            die_with(parent)?;
            offer_for_memory(); // before the limits: it opens a file
            for (resource, limit) in &limits {
                setrlimit(*resource, *limit)?;
            }
            // What the daemon has to change users with is for no command, its own user's neither.
            match clear_ambient_capability_set() {
                Err(Errno::INVAL) => {} // a kernel without such has nothing to clear
                cleared => cleared?,
            }
            if let Some(identity) = &identity {
                identity.assume()?;
                // The kernel forgets it when the user changes.
                die_with(parent)?;
            }
            set_no_new_privs(true)?;
            unblock_signals()
        });
    }
}

fn die_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // A parent that ended before the call above will not trigger the signal any more.
    if getppid() == Some(parent) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
}

/// Has the kernel end the command before the daemon when memory runs out. Where it may not be said,
/// or the daemon itself is offered more, the command is as the daemon is.
fn offer_for_memory() {
    if let Ok(file) = open(c"/proc/self/oom_score_adj", OFlags::WRONLY, Mode::empty()) {
        // Fails if this would be less than the daemon has.
        let _ = write(file, b"500");
    }
}

/// The standard library hands the mask on as it is; a child that was started with SIGTERM
/// blocked could not be ended gracefully. SIGPIPE it resets itself.
fn unblock_signals() -> io::Result<()> {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given, sigprocmask only reads it, and
    // the forked child has no other thread.
    let result = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
