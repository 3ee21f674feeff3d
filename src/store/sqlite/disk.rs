//! The files beside the database: the lock, the reserve; and the room on their file system.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FallocateFlags, StatVfs, access};
use rustix::io::Errno;
use tracing::{info, warn};

use crate::store::OpenError;

/// The most that the reserve takes: enough to finish tens of thousands of jobs.
const MAX_RESERVE_BYTES: u64 = 64 << 20;

/// The index of a log of 128 MiB: 32 KiB for each 16 MiB.
const INDEX_BYTES: u64 = 256 << 10;

/// The least room, beside the reserve itself, at which it is taken back; less would be given up
/// again at once.
const ROOM_TO_TAKE_BACK_BYTES: u64 = 8 << 20;

/// `file` with something appended to its name.
pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens a file, made with mode 0600 if it is new.
pub(super) fn create_private(file: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(file)
}

/// Makes the names of files in the directory of `file` durable.
pub(super) fn sync_directory_of(file: &Path) -> io::Result<()> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn file_system_of(file: &Path) -> io::Result<StatVfs> {
    Ok(rustix::fs::statvfs(file)?)
}

/// Room that this process may use on the file system of `file`.
pub(super) fn free_bytes(file: &Path) -> io::Result<u64> {
    file_system_of(file).map(|system| system.f_bavail * system.f_frsize)
}

fn allocate(file: &File, bytes: u64) -> Result<(), Errno> {
    rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)
}

/// Makes room for the index of a log of 128 MiB, so that a full disk is met while the log is written
/// and not behind its sync. What is returned must be closed after all connections.
pub(super) fn reserve_index(file: &Path) -> io::Result<File> {
    let index = OpenOptions::new().read(true).write(true).open(beside(file, "-shm"))?;
    match allocate(&index, INDEX_BYTES) {
        // There the store stops if it happens.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) | Ok(()) => Ok(index),
        Err(error) => Err(error.into()),
    }
}

/// Whether files can be made beside the store's, as its log, lock and reserve are. The engine has
/// words for that in which no directory is named.
pub(super) fn check_directory_of(file: &Path) -> Result<(), OpenError> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    match access(directory, Access::WRITE_OK | Access::EXEC_OK) {
        Err(error @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) if directory.is_dir() => {
            Err(OpenError::Io {
                doing: "write in the directory",
                file: std::path::absolute(directory).unwrap_or(directory.to_owned()),
                source: error.into(),
            })
        }
        // Whatever else is wrong with it is told where it is used.
        _ => Ok(()),
    }
}

/// Keeps other processes out of the store for as long as it lives.
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of the store in `file`.
    pub(super) fn take(file: &Path) -> Result<Self, OpenError> {
        let lock = beside(file, ".lock");
        let io = |source| OpenError::Io { doing: "lock", file: lock.clone(), source };
        let held = create_private(&lock).map_err(io)?;
        match held.try_lock() {
            Ok(()) => Ok(Self(held)),
            Err(TryLockError::WouldBlock) => {
                Err(OpenError::Locked { file: file.to_owned(), lock: lock.clone() })
            }
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Where it lies: file system and file, by their numbers. It stays where it is when the store's
    /// file is replaced by a backup.
    pub(super) fn place(&self) -> io::Result<String> {
        let file = self.0.metadata()?;
        Ok(format!("{:x}:{:x}", file.dev(), file.ino()))
    }
}

/// Room kept free for finishing jobs when the disk is full.
pub(super) struct Reserve {
    store: PathBuf,
    file: PathBuf,
    bytes: u64,
    given_up: bool,
}

impl Reserve {
    /// The reserve of the store in `file`, not taken yet: what is there already stays for now.
    pub(super) fn of(file: &Path) -> io::Result<Self> {
        let system = file_system_of(file)?;
        let bytes = MAX_RESERVE_BYTES.min(system.f_blocks * system.f_frsize / 8);
        Ok(Self { store: file.to_owned(), file: beside(file, ".reserve"), bytes, given_up: true })
    }

    /// Takes it; without room it counts as given up.
    pub(super) fn take(&mut self) {
        let bytes = self.bytes;
        match self.allocate() {
            Ok(()) => self.given_up = false,
            Err(error) => {
                warn!(event = "no_reserve", %error, bytes, "no room for the reserve; refusing creates");
            }
        }
    }

    /// Gives up what the last process kept; whether there was something.
    pub(super) fn give_up_last(file: &Path) -> bool {
        fs::remove_file(beside(file, ".reserve")).is_ok()
    }

    /// The room that creates must leave beside it: they stop before the disk is full.
    pub(super) fn margin_bytes(&self) -> u64 {
        ROOM_TO_TAKE_BACK_BYTES.min(self.bytes)
    }

    fn allocate(&self) -> io::Result<()> {
        let file = create_private(&self.file)?;
        let kept = file.metadata()?;
        if kept.len() == self.bytes && kept.blocks() * 512 >= self.bytes {
            return Ok(()); // the last process has left it in place
        }
        let allocated = match allocate(&file, self.bytes) {
            // Some file systems can only be filled by writing.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                io::copy(&mut io::repeat(0).take(self.bytes), &mut &file).map(drop)
            }
            allocated => allocated.map_err(io::Error::from),
        };
        let allocated = allocated.and_then(|()| file.sync_all());
        if allocated.is_err() {
            self.remove();
        }
        allocated
    }

    fn remove(&self) {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(event = "reserve_kept", %error, "cannot remove the reserve");
            }
            _ => {}
        }
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up
    }

    pub(super) fn give_up(&mut self) {
        self.given_up = true;
        self.remove();
    }

    /// Creates are accepted again once this has worked.
    pub(super) fn take_back_if_possible(&mut self) {
        if !self.given_up {
            return;
        }
        let room = free_bytes(&self.store).unwrap_or(0);
        let needed = self.bytes + self.margin_bytes();
        if room >= needed && self.allocate().is_ok() {
            self.given_up = false;
            info!(event = "disk_recovered", room, "there is room again; accepting creates");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_is_exclusive_and_ends_with_its_holder() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("t.db");
        let held = Lock::take(&file).expect("free");
        let error = Lock::take(&file).err().expect("held");
        assert!(error.to_string().contains("in use by another tallyd"), "{error}");
        drop(held);
        Lock::take(&file).expect("free again");
    }

    #[test]
    fn the_reserve_takes_room_gives_it_up_and_takes_it_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("t.db");
        create_private(&file).expect("made");
        let mut reserve = Reserve::of(&file).expect("a file system");
        reserve.take();
        let kept = || fs::metadata(beside(&file, ".reserve")).map(|found| found.blocks() * 512);
        assert!(kept().expect("it is there") >= reserve.bytes, "its blocks are allocated");
        reserve.give_up();
        assert!(reserve.is_given_up() && kept().is_err());
        reserve.take_back_if_possible();
        assert!(!reserve.is_given_up() && kept().is_ok());
    }
}
