//! What a child does between fork and exec; the only unsafe code of the workers.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::write;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpid, getppid, set_parent_process_death_signal, setrlimit,
};
use tokio::process::Command;

/// Has the child killed as soon as the thread that spawns it ends, sets what it may use, and clears
/// its signal mask.
///
/// So the thread must be one that lives as long as the daemon. The kernel forgets the wish at
/// the exec of a set-user-id program and for children of the child; what remains of those is
/// found at the next start.
pub(super) fn tie_to_parent(command: &mut Command, limits: Vec<(Resource, Rlimit)>) {
    let parent = getpid();
    // SAFETY: the closure runs in the forked child of a process with many threads, where only
    // async-signal-safe calls are allowed: it makes system calls, allocates nothing, takes no
    // lock, and cannot panic.
    unsafe {
        command.pre_exec(move || {
            die_with(parent)?;
            for (resource, limit) in &limits {
                setrlimit(*resource, *limit)?;
            }
            offer_for_memory();
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
