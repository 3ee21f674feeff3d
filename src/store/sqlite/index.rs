//! The index of the log, a file that all programs share which have the store open.
//!
//! Its form and its locks are a promise of SQLite (<https://sqlite.org/walformat.html>, section 2).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::disk::beside;
use super::open::BUSY;

/// Where it says how many frames of the log are in the store's file as well: 4 bytes.
const COPIED: u64 = 96;

/// The locks of who writes to the log and of who copies it, side by side.
const FIRST_LOCK: i64 = 120;
const LOCKS: i64 = 2;

/// When to try them again.
const AGAIN: Duration = Duration::from_millis(10);

/// Has the log copied from its beginning again. If nobody else has the store open SQLite does so anyway,
/// for it makes the index anew. Otherwise what the index calls copied may not be on disk: if the last
/// process has ended since it could not sync the store's file, the system does not write those pages a
/// second time by itself. A program that reads from the file alone, since all was copied when it came,
/// keeps the log from beginning anew after this, until its transaction ends.
///
/// This process must have no connection to the store yet: SQLite's locks end with any descriptor of the
/// file on which they are.
pub(super) fn forget_copied(file: &Path) -> io::Result<()> {
    let index = match File::options().read(true).write(true).open(beside(file, "-shm")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut copied = [0; 4];
    match index.read_exact_at(&mut copied, COPIED) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()), // nobody's yet
        read => read?,
    }
    if copied == [0; 4] {
        return Ok(());
    }
    lock(&index)?;
    index.write_all_at(&[0; 4], COPIED)
}

/// Keeps others from writing to the log and from copying it until the file is closed.
fn lock(index: &File) -> io::Result<()> {
    let lock = libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: FIRST_LOCK,
        l_len: LOCKS,
        l_pid: 0,
    };
    let since = Instant::now();
    loop {
        match fcntl(index, FcntlArg::F_SETLK(&lock)) {
            Err(Errno::EAGAIN | Errno::EACCES) if since.elapsed() < BUSY => thread::sleep(AGAIN),
            Err(Errno::EAGAIN | Errno::EACCES) => {
                return Err(io::Error::other(
                    "another program writes to the store or copies its log",
                ));
            }
            taken => return Ok(taken.map(drop)?),
        }
    }
}
