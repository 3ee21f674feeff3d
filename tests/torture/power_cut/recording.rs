//! A recording: what happens to the files of one directory and what is told about it, in one order.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tallyd::clock::Timestamp;

use super::vfs;
use crate::oracle::Entry;

/// Something that happened to the disk. Files have numbers; that their name is another thing is why
/// a deleted file may be back after a power cut.
#[derive(Debug, Clone)]
pub enum Event {
    /// A new file, the next number, got this name.
    Created {
        name: String,
    },
    /// The name is gone, durably so if the directory was synced.
    Deleted {
        name: String,
        durably: bool,
    },
    Wrote {
        file: usize,
        offset: u64,
        content: Box<[u8]>,
    },
    Truncated {
        file: usize,
        bytes: u64,
    },
    /// The file was synced, and the directory behind it.
    Synced {
        file: usize,
        and_directory: bool,
    },
}

/// Counts that never go back, by queue and kind.
pub type Cut = BTreeMap<(String, String), Vec<i64>>;

/// Something told after so many events.
#[derive(Debug, Clone)]
pub struct Told<T> {
    pub after: usize,
    pub told: T,
}

/// What was recorded.
#[derive(Debug, Default)]
pub struct History {
    /// What was there before, durably.
    pub files: Vec<(String, Vec<u8>)>,
    pub events: Vec<Event>,
    /// What callers told or were told.
    pub entries: Vec<Entry>,
    /// When each of them was.
    pub times: Vec<Told<Timestamp>>,
    /// What scrapes showed.
    pub cuts: Vec<Told<Cut>>,
}

#[derive(Default)]
struct State {
    history: History,
    /// The numbers of the files that have a name.
    numbers: BTreeMap<String, usize>,
    /// Files that there ever were.
    files: usize,
    /// Whether a checkpoint is under way.
    is_checkpointing: bool,
}

/// How long something is waited for that must happen: far longer than it takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is called before each sync.
type BeforeSync = Box<dyn Fn() + Send>;

/// A recording under way.
pub struct Recording {
    directory: PathBuf,
    /// Whether each connection runs with `synchronous=OFF`, whatever it sets.
    is_synchronous_off: bool,
    state: Mutex<State>,
    /// Something has happened to the disk, or a checkpoint is over.
    happened: Condvar,
    before_sync: Mutex<Option<BeforeSync>>,
}

/// The recordings under way, by directory.
static ALL: Mutex<BTreeMap<PathBuf, Arc<Recording>>> = Mutex::new(BTreeMap::new());

fn all() -> MutexGuard<'static, BTreeMap<PathBuf, Arc<Recording>>> {
    ALL.lock().expect("nothing panics while it holds the recordings")
}

/// Whether a file matters after a power cut: not the lock, the reserve and the index of the log,
/// whose content says nothing.
fn is_durable(name: &str) -> bool {
    ![".lock", ".reserve", "-shm"].iter().any(|suffix| name.ends_with(suffix))
}

/// The files of a directory that matter.
pub fn durable_files(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| is_durable(name)).collect()
}

impl Recording {
    /// Records what happens below a directory from now on; what is there is taken for durable.
    pub fn begin(directory: &Path) -> Arc<Self> {
        Self::begin_with(directory, false)
    }

    /// The same, and all connections to databases there run with `synchronous=OFF` or not.
    pub fn begin_with(directory: &Path, is_synchronous_off: bool) -> Arc<Self> {
        vfs::register();
        let directory = directory.canonicalize().unwrap();
        let mut state = State::default();
        for name in durable_files(&directory) {
            let content = fs::read(directory.join(&name)).unwrap();
            state.numbers.insert(name.clone(), state.files);
            state.files += 1;
            state.history.files.push((name, content));
        }
        let recording = Arc::new(Self {
            directory: directory.clone(),
            is_synchronous_off,
            state: Mutex::new(state),
            happened: Condvar::new(),
            before_sync: Mutex::default(),
        });
        assert!(all().insert(directory, recording.clone()).is_none(), "it is recorded already");
        recording
    }

    /// The recording that a file belongs to.
    pub fn of(file: &Path) -> Option<Arc<Self>> {
        let name = file.file_name()?.to_str()?;
        all().get(file.parent()?).filter(|_| is_durable(name)).cloned()
    }

    /// Ends it.
    pub fn end(&self) -> History {
        all().remove(&self.directory);
        *self.before_sync() = None;
        std::mem::take(&mut self.state().history)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    fn before_sync(&self) -> MutexGuard<'_, Option<BeforeSync>> {
        self.before_sync.lock().expect("nothing panics while it holds it")
    }

    /// Has something done before each sync from now on, in the thread that syncs.
    pub fn set_before_sync(&self, call: impl Fn() + Send + 'static) {
        *self.before_sync() = Some(Box::new(call));
    }

    /// Looks at what was recorded so far.
    pub fn so_far<R>(&self, look: impl FnOnce(&History) -> R) -> R {
        look(&self.state().history)
    }

    /// Whether connections to its databases run with `synchronous=OFF`.
    pub fn is_synchronous_off(&self) -> bool {
        self.is_synchronous_off
    }

    /// Waits until what was recorded is so, and no checkpoint is under way.
    pub fn wait_until(&self, is_so: impl Fn(&History) -> bool) {
        let wait = |state: &mut State| state.is_checkpointing || !is_so(&state.history);
        let waited = self.happened.wait_timeout_while(self.state(), PATIENCE, wait);
        let (state, waited) = waited.expect("nothing panics while it holds the state");
        drop(state);
        assert!(!waited.timed_out(), "what was waited for does not happen");
    }

    /// Notes what was told at this moment, and the time by the store's clock.
    pub fn note(&self, now: Timestamp, entry: Entry) {
        let history = &mut self.state().history;
        history.entries.push(entry);
        history.times.push(Told { after: history.events.len(), told: now });
    }

    /// Notes what a scrape shows at this moment.
    pub fn note_cut(&self, cut: Cut) {
        let history = &mut self.state().history;
        history.cuts.push(Told { after: history.events.len(), told: cut });
    }

    /// Opens a file and gives it its number; nothing else happens to the disk meanwhile.
    pub fn open(
        self: Arc<Self>,
        path: &Path,
        syncs_directory: bool,
        open: impl FnOnce() -> bool,
    ) -> Option<Opened> {
        let name = path.file_name()?.to_str()?.to_owned();
        let mut state = self.state();
        if !open() {
            return None;
        }
        let known = state.numbers.get(&name).copied();
        let file = known.unwrap_or_else(|| {
            let file = state.files;
            state.files += 1;
            state.numbers.insert(name.clone(), file);
            state.history.events.push(Event::Created { name });
            file
        });
        drop(state);
        let syncs_directory = AtomicBool::new(syncs_directory);
        Some(Opened { recording: self, file, syncs_directory })
    }

    pub fn delete(&self, path: &Path, durably: bool, delete: impl FnOnce() -> bool) {
        let mut state = self.state();
        let name = path.file_name().and_then(|name| name.to_str()).expect("it has a name");
        if delete() {
            state.numbers.remove(name);
            state.history.events.push(Event::Deleted { name: name.to_owned(), durably });
        }
    }
}

/// An open file that is recorded.
pub struct Opened {
    recording: Arc<Recording>,
    file: usize,
    /// Whether its next sync syncs the directory too: SQLite does so for a log and a journal, the
    /// first time.
    syncs_directory: AtomicBool,
}

impl Opened {
    /// Does something to the disk, and notes it if it worked.
    fn note(&self, event: Event, act: impl FnOnce() -> c_int) -> c_int {
        let mut state = self.recording.state();
        let code = act();
        if code == rusqlite::ffi::SQLITE_OK {
            state.history.events.push(event);
            drop(state);
            self.recording.happened.notify_all();
        }
        code
    }

    /// Notes that a checkpoint begins or is over.
    pub fn note_checkpoint(&self, begins: bool) {
        self.recording.state().is_checkpointing = begins;
        self.recording.happened.notify_all();
    }

    /// Whether SQLite shall not see a pragma: one that would end `synchronous=OFF`.
    pub fn swallows(&self, name: Option<&str>, value: Option<&str>) -> bool {
        self.recording.is_synchronous_off
            && name.is_some_and(|name| name.eq_ignore_ascii_case("synchronous"))
            && value.is_some_and(|value| !value.eq_ignore_ascii_case("off"))
    }

    pub fn write(&self, offset: u64, content: &[u8], write: impl FnOnce() -> c_int) -> c_int {
        self.note(Event::Wrote { file: self.file, offset, content: content.into() }, write)
    }

    pub fn truncate(&self, bytes: u64, truncate: impl FnOnce() -> c_int) -> c_int {
        self.note(Event::Truncated { file: self.file, bytes }, truncate)
    }

    pub fn sync(&self, sync: impl FnOnce() -> c_int) -> c_int {
        if let Some(call) = &*self.recording.before_sync() {
            call();
        }
        let and_directory = self.syncs_directory.swap(false, Ordering::Relaxed);
        self.note(Event::Synced { file: self.file, and_directory }, sync)
    }
}
