//! The files that a web configuration was read from, and whether they are others by now.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The most bytes of one of the files: a bundle of a thousand authorities is smaller.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// What was read, in order.
#[derive(Default)]
pub struct Sources {
    files: Vec<(PathBuf, Option<Stamp>)>,
    digest: Sha256,
}

/// What changes with the content of a file, as far as can be seen without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &Path) -> Option<Self> {
        let found = fs::metadata(file).ok()?;
        Some(Self {
            place: (found.dev(), found.ino()),
            bytes: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Sources {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads one more.
    pub(super) fn read(&mut self, file: &Path) -> io::Result<Vec<u8>> {
        // Taken first, so that what changes meanwhile is noticed.
        self.files.push((file.to_owned(), Stamp::of(file)));
        let mut bytes = Vec::new();
        File::open(file)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4MiB"));
        }
        self.digest.update((bytes.len() as u64).to_be_bytes());
        self.digest.update(&bytes);
        Ok(bytes)
    }

    /// Whether one of them is another by now.
    pub fn have_changed(&self) -> bool {
        self.files.iter().any(|(file, stamp)| Stamp::of(file) != *stamp)
    }

    /// The hash of all that was read.
    pub(super) fn digest(&self) -> [u8; 32] {
        self.digest.clone().finalize().into()
    }
}
