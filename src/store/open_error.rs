//! Why a start finds no store that it can serve.

use std::path::PathBuf;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{file} is in use by another tallyd (it holds {lock})", file = .file.display(), lock = .lock.display())]
    Locked {
        /// The store's file.
        file: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// It is a file of something else.
    #[error("{} is not a tallyd store: {found}", .file.display())]
    NotAStore {
        /// The file.
        file: PathBuf,
        /// What it looks like.
        found: String,
    },
    /// It is a backup, put in the place of a file whose log is still there.
    #[error("{} is not the log of {}; move it away", .log.display(), .file.display())]
    ForeignLog {
        /// The store's file.
        file: PathBuf,
        /// The log beside it.
        log: PathBuf,
    },
    /// A newer tallyd has written it.
    #[error(
        "{file} has schema version {found}, and this tallyd knows versions up to {known}; use a newer tallyd",
        file = .file.display()
    )]
    TooNew {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: i64,
        /// The newest that this binary knows.
        known: i64,
    },
    /// The library has a bug that loses data.
    #[error("SQLite {0} has a bug that can corrupt the log; 3.51.3 or newer is required")]
    OldSqlite(&'static str),
    /// A file could not be used.
    #[error("cannot {doing} {}", .file.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        file: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// There is no room on its file system, and no reserve left to give up.
    #[error("no room to open {}: its file system is full; make some room first", .file.display())]
    DiskFull {
        /// The store's file.
        file: PathBuf,
    },
    /// The engine failed.
    #[error("cannot open {}", .file.display())]
    Engine {
        /// The store's file.
        file: PathBuf,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
