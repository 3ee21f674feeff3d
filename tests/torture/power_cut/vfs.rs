//! The recording VFS: all that SQLite does goes to the real one, and what changes a recorded file
//! is noted on the way; the only unsafe code of the tests.
//!
//! It is the default of the process, so that the store opens its files as ever. Files in
//! directories that nobody records are opened by the real VFS itself, as if this were not there.
//!
//! Where a recording wants `synchronous=OFF`, each connection gets it when it is opened, and what
//! the store itself sets is swallowed.

#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use rusqlite::ffi::{
    SQLITE_FCNTL_PRAGMA, SQLITE_OK, SQLITE_OPEN_CREATE, SQLITE_OPEN_MAIN_JOURNAL, SQLITE_OPEN_WAL,
    SQLITE_SHM_LOCK, sqlite3, sqlite3_api_routines, sqlite3_auto_extension, sqlite3_db_filename,
    sqlite3_exec, sqlite3_file, sqlite3_io_methods, sqlite3_vfs, sqlite3_vfs_find,
    sqlite3_vfs_register,
};

use super::recording::{Opened, Recording};

/// The lock of the log's index that a checkpoint holds from its begin to its end.
const CHECKPOINT_LOCK: c_int = 1;

/// The real VFS, for good.
struct Real(*mut sqlite3_vfs);

// SAFETY: SQLite itself uses its VFS from all threads, and never frees it.
unsafe impl Send for Real {}
// SAFETY: as above.
unsafe impl Sync for Real {}

static REAL: OnceLock<Real> = OnceLock::new();

/// How an open file begins; that of the real VFS follows.
#[repr(C)]
struct Head {
    base: sqlite3_file,
    opened: *mut Opened,
}

/// Makes it the default of the process; the second time it is already.
pub fn register() {
    REAL.get_or_init(|| {
        // SAFETY: SQLite initialises itself here; what it returns lives as long as the process.
        let real = unsafe { sqlite3_vfs_find(ptr::null()) };
        assert!(!real.is_null(), "SQLite has a VFS");
        // SAFETY: it is valid, and nobody changes it.
        let mut vfs = unsafe { *real };
        // All else, with what it refers to, stays the real one's.
        vfs.szOsFile += size_of::<Head>() as c_int;
        vfs.pNext = ptr::null_mut();
        vfs.zName = c"recording".as_ptr();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        // SAFETY: it is leaked, so it lives as long as SQLite may use it.
        let registered = unsafe { sqlite3_vfs_register(Box::leak(Box::new(vfs)), 1) };
        assert_eq!(registered, SQLITE_OK);
        // SAFETY: it is a function that SQLite may call as long as the process lives.
        assert_eq!(unsafe { sqlite3_auto_extension(Some(set_synchronous)) }, SQLITE_OK);
        Real(real)
    });
}

/// Called for each new connection.
unsafe extern "C" fn set_synchronous(
    database: *mut sqlite3,
    _: *mut *mut c_char,
    _: *const sqlite3_api_routines,
) -> c_int {
    // SAFETY: the connection is open, and the name lives as long as it is.
    let file = unsafe { path(sqlite3_db_filename(database, c"main".as_ptr())) };
    match file.and_then(Recording::of) {
        Some(recording) if recording.is_synchronous_off() => {
            let pragma = c"PRAGMA synchronous = OFF".as_ptr();
            // SAFETY: as above; there is nothing to call for each row, nor to report to.
            unsafe { sqlite3_exec(database, pragma, None, ptr::null_mut(), ptr::null_mut()) }
        }
        _ => SQLITE_OK,
    }
}

fn real_vfs() -> *mut sqlite3_vfs {
    REAL.get().expect("only what register made is called").0
}

/// The path that SQLite names; none of a file without a name.
///
/// # Safety
///
/// `name` is null or a C string that lives as long as is used.
unsafe fn path<'n>(name: *const c_char) -> Option<&'n Path> {
    // SAFETY: the caller's promise.
    let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) });
    name.map(|name| Path::new(OsStr::from_bytes(name.to_bytes())))
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    let vfs = real_vfs();
    // SAFETY: the arguments are SQLite's own, and it has made room for more than the real file.
    let open =
        |file| unsafe { (*vfs).xOpen.expect("every VFS opens")(vfs, name, file, flags, flags_out) };
    // SAFETY: SQLite's name of the file.
    let path = unsafe { path(name) };
    let recorded = path.and_then(|path| Some((path, Recording::of(path)?)));
    let Some((path, recording)) = recorded else { return open(file) };
    let syncs_directory = flags & SQLITE_OPEN_CREATE != 0
        && flags & (SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_WAL) != 0;
    let head = file.cast::<Head>();
    let mut code = SQLITE_OK;
    let opened = recording.open(path, syncs_directory, || {
        // SAFETY: there is room for it behind the head, which keeps its alignment.
        code = open(unsafe { head.add(1) }.cast());
        code == SQLITE_OK
    });
    let opened = opened.map_or(ptr::null_mut(), |opened| Box::into_raw(Box::new(opened)));
    let methods = if opened.is_null() { ptr::null() } else { &raw const METHODS };
    // SAFETY: SQLite has made room for the head.
    unsafe { head.write(Head { base: sqlite3_file { pMethods: methods }, opened }) };
    code
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, syncs: c_int) -> c_int {
    let vfs = real_vfs();
    let mut code = SQLITE_OK;
    let mut delete = || {
        // SAFETY: the arguments are SQLite's own.
        code = unsafe { (*vfs).xDelete.expect("every VFS deletes")(vfs, name, syncs) };
        code == SQLITE_OK
    };
    // SAFETY: SQLite's name of the file.
    let path = unsafe { path(name) };
    match path.and_then(|path| Some((path, Recording::of(path)?))) {
        Some((path, recording)) => recording.delete(path, syncs != 0, delete),
        None => drop(delete()),
    }
    code
}

/// The real file behind a recorded one, with its methods.
///
/// # Safety
///
/// `file` was opened above and is not closed yet.
unsafe fn real<'f>(file: *mut sqlite3_file) -> (*mut sqlite3_file, &'f sqlite3_io_methods) {
    // SAFETY: behind the head lies the real file, whose methods the real VFS has set.
    unsafe {
        let real = file.cast::<Head>().add(1).cast::<sqlite3_file>();
        (real, &*(*real).pMethods)
    }
}

/// What was noted when it was opened.
///
/// # Safety
///
/// As above.
unsafe fn opened<'f>(file: *mut sqlite3_file) -> &'f Opened {
    // SAFETY: it is freed when the file is closed.
    unsafe { &*(*file.cast::<Head>()).opened }
}

/// Methods that change nothing on disk.
macro_rules! passed_on {
    ($($name:ident, $method:ident, ($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        unsafe extern "C" fn $name(file: *mut sqlite3_file, $($argument: $type),*) $(-> $result)? {
            // SAFETY: SQLite calls it for a file that is open, with arguments for the real one.
            unsafe {
                let (file, methods) = real(file);
                methods.$method.expect("the real VFS has it")(file, $($argument),*)
            }
        }
    )*};
}

passed_on! {
    read, xRead, (into: *mut c_void, bytes: c_int, offset: i64) -> c_int;
    file_size, xFileSize, (bytes: *mut i64) -> c_int;
    lock, xLock, (level: c_int) -> c_int;
    unlock, xUnlock, (level: c_int) -> c_int;
    check_reserved_lock, xCheckReservedLock, (is_held: *mut c_int) -> c_int;
    sector_size, xSectorSize, () -> c_int;
    device_characteristics, xDeviceCharacteristics, () -> c_int;
    shm_map, xShmMap, (region: c_int, bytes: c_int, extend: c_int, at: *mut *mut c_void) -> c_int;
    shm_barrier, xShmBarrier, ();
    shm_unmap, xShmUnmap, (delete: c_int) -> c_int;
    fetch, xFetch, (offset: i64, bytes: c_int, at: *mut *mut c_void) -> c_int;
    unfetch, xUnfetch, (offset: i64, at: *mut c_void) -> c_int;
}

unsafe extern "C" fn file_control(
    file: *mut sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    if operation == SQLITE_FCNTL_PRAGMA {
        let words = argument.cast::<*const c_char>();
        // SAFETY: behind the place for an answer are the pragma's name and its value, if it has one.
        let (name, value) = unsafe { (word(*words.add(1)), word(*words.add(2))) };
        // SAFETY: the file is open.
        if unsafe { opened(file) }.swallows(name, value) {
            return SQLITE_OK; // it is done, SQLite believes
        }
    }
    // SAFETY: the file is open, and the arguments are SQLite's own.
    unsafe {
        let (file, methods) = real(file);
        methods.xFileControl.expect("the real VFS has it")(file, operation, argument)
    }
}

/// A word of a pragma.
///
/// # Safety
///
/// As of `path`.
unsafe fn word<'n>(word: *const c_char) -> Option<&'n str> {
    // SAFETY: the caller's promise.
    (!word.is_null()).then(|| unsafe { CStr::from_ptr(word) })?.to_str().ok()
}

unsafe extern "C" fn shm_lock(
    file: *mut sqlite3_file,
    offset: c_int,
    number: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: the file is open.
    let (opened, (real, methods)) = unsafe { (opened(file), real(file)) };
    // SAFETY: the arguments are SQLite's own.
    let code = unsafe { methods.xShmLock.expect("it has an index")(real, offset, number, flags) };
    if code == SQLITE_OK && (offset, number) == (CHECKPOINT_LOCK, 1) {
        opened.note_checkpoint(flags & SQLITE_SHM_LOCK != 0);
    }
    code
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: it is open until now, and its head is not used any more after this.
    unsafe {
        drop(Box::from_raw((*file.cast::<Head>()).opened));
        let (file, methods) = real(file);
        methods.xClose.expect("every file closes")(file)
    }
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    from: *const c_void,
    bytes: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: SQLite hands over so many bytes.
    let content = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), bytes as usize) };
    // SAFETY: the file is open.
    let (opened, (real, methods)) = unsafe { (opened(file), real(file)) };
    opened.write(offset as u64, content, || {
        // SAFETY: the arguments are SQLite's own.
        unsafe { methods.xWrite.expect("every file is written")(real, from, bytes, offset) }
    })
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, bytes: i64) -> c_int {
    // SAFETY: the file is open.
    let (opened, (real, methods)) = unsafe { (opened(file), real(file)) };
    opened.truncate(bytes as u64, || {
        // SAFETY: the arguments are SQLite's own.
        unsafe { methods.xTruncate.expect("every file is cut")(real, bytes) }
    })
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: the file is open.
    let (opened, (real, methods)) = unsafe { (opened(file), real(file)) };
    opened.sync(|| {
        // SAFETY: the arguments are SQLite's own.
        unsafe { methods.xSync.expect("every file syncs")(real, flags) }
    })
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 3,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: Some(fetch),
    xUnfetch: Some(unfetch),
};
