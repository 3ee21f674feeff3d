//! A kill at the Nth write or sync of a migration, by strace: what is left is the older version or
//! the newer one, whole. The usual run draws some of the writes by lot; by hand each is tried.
//!
//! The program has one schema version only, so the test brings a second; whom it kills is itself,
//! started once more.

use std::collections::BTreeMap;
use std::env;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index::sample;
use rusqlite::types::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::open::{configure, copy_log, enter_wal, flags, open};
use super::super::tests::Traced;
use super::*;
use crate::clock::Clock;
use crate::config::Config;
use crate::job::Outcome;
use crate::metrics::Metrics;
use crate::store::Start;

/// From version 1 to 2: every job is rewritten, and a page is added.
const SECOND: &str = "ALTER TABLE jobs ADD COLUMN extra INTEGER NOT NULL DEFAULT 0;
    UPDATE jobs SET extra = attempt + 7;
    CREATE INDEX jobs_extra ON jobs (extra);";

/// From version 2 to 3.
const THIRD: &str = "CREATE TABLE later (id INTEGER PRIMARY KEY) STRICT;";

const TABLES: [&str; 7] = ["queues", "ledger", "totals", "jobs", "payloads", "results", "errors"];

const WRITES: &str = "pwrite64";

/// The calls that change files and their names.
const CALLS: [&str; 7] =
    [WRITES, "fdatasync", "fsync", "rename", "unlink", "ftruncate", "fallocate"];

/// How many of the writes are tried by lot; of the other calls, which are few, all are.
const KILLS: f64 = 8.0;

/// From this scale on all writes are tried, too.
const ALL_AT: f64 = 10.0;

/// Names the store that is to be migrated, to whom it is set for.
const VICTIM: &str = "TALLYD_TEST_MIGRATE";

/// Brings a store up to date as a start does, and closes it.
fn migrate(file: &Path, migrations: &[&str]) -> Result<(), OpenError> {
    let mut connection = Connection::open_with_flags(file, flags(true)).expect("it opens");
    configure(&connection).expect("it can be configured");
    prepare_with(&mut connection, file, migrations)?;
    enter_wal(&connection).and_then(|()| copy_log(&connection)).expect("it has a log");
    Ok(())
}

/// This test once more, under strace with these words, as the one that migrates this store; whether
/// it was killed.
fn is_killed_under_strace(file: &Path, words: &[&str]) -> bool {
    let name = "a_kill_at_any_write_of_a_migration_leaves_one_version_whole";
    let (_crate, module) = module_path!().split_once("::").expect("it is in a module");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq"]).args(words).arg(env::current_exe().expect("it is known"));
    strace.args(["--exact", &format!("{module}::{name}"), "--test-threads", "1"]);
    let strace = strace.env(VICTIM, file).stdout(Stdio::piped()).spawn();
    let mut strace =
        strace.expect("this test needs strace: run tests/run.sh tools, or apt-get install strace");
    let told = std::io::read_to_string(strace.stdout.take().expect("it is piped"));
    let (told, end) = (told.expect("UTF-8"), strace.wait().expect("it is our child"));
    let is_killed = end.to_string().contains("SIGKILL");
    assert!(is_killed || told.contains("1 passed"), "{end}: {told}");
    is_killed
}

/// How many calls of each sort a migration of this store makes.
fn counted(old: &Path) -> BTreeMap<&'static str, usize> {
    let store = Copied::of(old);
    let trace = store.directory.path().join("trace.log");
    let calls = format!("trace={}", CALLS.join(","));
    let words = ["-o", trace.to_str().expect("UTF-8"), "-e", &calls];
    assert!(!is_killed_under_strace(&store.file, &words));
    let trace = fs::read_to_string(trace).expect("it was traced");
    let count = |call| trace.lines().filter(|line| line.contains(&format!(" {call}("))).count();
    CALLS.map(|call| (call, count(call))).into()
}

/// A store with jobs in many states; as a crash leaves it, or in order.
fn old_store(is_clean: bool) -> Copied {
    let mut traced = Traced::new();
    for _ in 0..20 {
        traced.create(None, Start::After(Duration::from_secs(1)));
        traced.create(None, Start::Now);
        let lease = traced.claim(false);
        traced.finish(lease, Outcome::Failed { permanent: true, retry_in: Duration::ZERO });
        traced.create(None, Start::Now);
        traced.claim(false);
    }
    let store = Copied::of(&traced.engine.file);
    if is_clean {
        migrate(&store.file, &[]).expect("there is nothing to migrate");
    }
    assert_eq!(disk::beside(&store.file, "-wal").exists(), !is_clean);
    store
}

/// A copy of a store with all that lies beside it.
struct Copied {
    directory: TempDir,
    file: PathBuf,
}

impl Copied {
    fn of(store: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("t.db");
        for name in names(store.parent().expect("it is in one")) {
            // No migration looks at these; and the index of the log is made anew, as is right.
            if !["-shm", ".lock", ".reserve"].iter().any(|end| name.ends_with(end)) {
                let to = directory.path().join(&name);
                fs::copy(store.with_file_name(&name), to).expect("it is copied");
            }
        }
        Self { directory, file }
    }

    fn backup(&self, version: i64) -> PathBuf {
        disk::beside(&self.file, &format!(".v{version}.bak"))
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it can be read");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("UTF-8");
    let mut names: Vec<_> = entries.map(|entry| name(entry.expect("it can be read"))).collect();
    names.sort();
    names
}

/// All rows, without what a migration adds to them.
fn rows(connection: &Connection) -> Vec<Vec<Value>> {
    let mut found = Vec::new();
    for table in TABLES {
        let select = connection.prepare(&format!("SELECT * FROM {table} ORDER BY id"));
        let mut select = select.expect("there is such a table");
        let names = select.column_names().enumerate();
        let old: Vec<_> = names.filter(|(_, name)| *name != "extra").map(|(at, _)| at).collect();
        let row = |row: &rusqlite::Row<'_>| old.iter().map(|at| row.get(*at)).collect();
        let rows = select.query_map([], row).expect("it can be read");
        found.extend(rows.map(|row| row.expect("it can be read")));
    }
    found
}

/// Checks that this file is a store of one version, with all of that and nothing else; tells which.
fn whole(file: &Path, old: &[Vec<Value>]) -> i64 {
    let connection = Connection::open(file).expect("it opens");
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, Value>(0));
    let version = version(&connection).ok().expect("it is a store");
    let count = |condition: &str| one(&format!("SELECT count(*) FROM {condition}"));
    assert_eq!(one("PRAGMA integrity_check"), Ok(Value::Text("ok".into())));
    assert!(rows(&connection) == old, "other rows in version {version} of {}", file.display());
    let (added, none) = (Ok(Value::Integer(1)), Ok(Value::Integer(0)));
    let of_second = if version >= 2 { &added } else { &none };
    let of_third = if version >= 3 { &added } else { &none };
    assert_eq!(&count("pragma_table_info('jobs') WHERE name = 'extra'"), of_second);
    assert_eq!(&count("sqlite_schema WHERE name = 'jobs_extra'"), of_second);
    assert_eq!(&count("sqlite_schema WHERE name = 'later'"), of_third);
    if version >= 2 {
        assert_eq!(count("jobs WHERE extra <> attempt + 7"), none, "half of a step");
    }
    version
}

/// Opens a store as the daemon does, which knows the first version only.
fn open_without(file: &Path) -> Result<(), OpenError> {
    let mut config = Config { data: file.to_owned(), ..Config::default() };
    config.queues.clear();
    let config = Arc::new(config);
    let metrics = Arc::new(Metrics::new(config.clone()));
    let clock = Clock::manual(crate::clock::Timestamp(1_700_000_000_000));
    open(config, clock, metrics, watch::channel(None).0).map(drop)
}

/// Checks what a kill has left, by both programs, and that the next migrations go well.
fn check_left(left: &Copied, old: &[Vec<Value>]) -> i64 {
    let version = whole(&Copied::of(&left.file).file, old);
    assert!([1, 2].contains(&version), "version {version}");
    if left.backup(1).exists() {
        assert_eq!(whole(&Copied::of(&left.file).backup(1), old), 1, "a copy of the older one");
    } else {
        assert_eq!(version, 1, "migrated without a copy");
    }
    match open_without(&Copied::of(&left.file).file) {
        Ok(()) => assert_eq!(version, 1, "the older program took the newer version"),
        Err(error) => {
            assert!(matches!(error, OpenError::TooNew { found: 2, .. }) && version == 2, "{error}");
        }
    }
    migrate(&left.file, &[SECOND]).expect("it is migrated, or was");
    assert_eq!(names(left.directory.path()), ["t.db", "t.db.v1.bak"]);
    assert_eq!((whole(&left.file, old), whole(&left.backup(1), old)), (2, 1));
    migrate(&left.file, &[SECOND, THIRD]).expect("it is migrated once more");
    assert_eq!((whole(&left.file, old), whole(&left.backup(2), old)), (3, 2));
    version
}

/// Migrates a store again and again, killed at each of these calls; how often each version was left.
fn kill_at(old: &Copied, call: &str, numbers: &[usize]) -> [u32; 2] {
    let mut left = [0; 2];
    let copy = Copied::of(&old.file);
    let rows = rows(&Connection::open(&copy.file).expect("it opens"));
    for number in numbers {
        eprintln!("killed at {call} {number}");
        let store = Copied::of(&old.file);
        let inject = format!("inject={call}:signal=KILL:when={number}");
        let trace = format!("trace={call}");
        let words = ["-o", "/dev/null", "-e", &trace, "-e", &inject];
        assert!(is_killed_under_strace(&store.file, &words), "it makes no {call} {number}");
        left[check_left(&store, &rows) as usize - 1] += 1;
    }
    left
}

/// F8, F23: at whatever write, of the copy that is kept, of the migration, of what comes after it.
#[test]
fn a_kill_at_any_write_of_a_migration_leaves_one_version_whole() {
    if let Some(store) = env::var_os(VICTIM) {
        migrate(store.as_ref(), &[SECOND]).expect("it is migrated, unless it is killed");
        return;
    }
    let number = |name: &str| env::var(name).ok().map(|text| text.parse().expect("a number"));
    let scale: f64 = number("TALLYD_TEST_SCALE").unwrap_or(1.0);
    let seed = env::var("TALLYD_TEST_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().expect("a seed is a number"));
    eprintln!("repeat with TALLYD_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for is_clean in [false, true] {
        let old = old_store(is_clean);
        let mut left = [0; 2];
        for (call, most) in counted(&old.file) {
            let is_all = call != WRITES || scale >= ALL_AT;
            let tried = if is_all { most } else { most.min((KILLS * scale).ceil() as usize) };
            let numbers = sample(&mut random, most, tried);
            let numbers: Vec<_> = numbers.into_iter().map(|number| number + 1).collect();
            let [older, newer] = kill_at(&old, call, &numbers);
            eprintln!(
                "{older} and {newer} kills at {call}, of {most}, left the older and the newer"
            );
            left = [left[0] + older, left[1] + newer];
        }
        assert!(left.iter().all(|kills| *kills > 0), "only one version was ever left: {left:?}");
    }
}
