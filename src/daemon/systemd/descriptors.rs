//! Descriptors that were open when the process began; the only unsafe code of the daemon.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes over the descriptors that LISTEN_FDS and LISTEN_PID hand to this process, with their names
/// from LISTEN_FDNAMES. Children do not inherit them. None the second time.
///
/// # Errors
///
/// The variables are not as `sd_listen_fds(3)` says, or a descriptor is not open.
pub(super) fn take() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    // The names may be another process's too, and then there are more of them than descriptors.
    if sd_notify::listen_fds()?.len() == 0 {
        return Ok(Vec::new());
    }
    let handed = sd_notify::listen_fds_with_names()?;
    // SAFETY: whoever started the process says that these are open and its own, the call above has
    // found each open, and nobody takes them a second time.
    let own = |(descriptor, name)| (unsafe { OwnedFd::from_raw_fd(descriptor) }, name);
    Ok(handed.map(own).collect())
}
