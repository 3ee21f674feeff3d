//! The start after a kill, and whether what was cut off is back in the time that is promised; all
//! tests that kill a daemon start the next one here.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use tallyd::store::JobId;

use crate::fixture::Daemon;
use crate::journal::Journal;
use crate::oracle::most_until_claimable;

/// Leases that are not longer run out while a test waits.
const BRIEF: Duration = Duration::from_secs(2);

/// Leases that are not shorter stand for as long as a start may take.
const LONG: Duration = Duration::from_secs(60);

/// How often the store is looked at, to see a lease run out.
const LOOK: Duration = Duration::from_millis(20);

/// An attempt that runs, as the store says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Running {
    id: String,
    attempt: u32,
    /// Whether the daemon runs it itself.
    own: bool,
    lease: Duration,
}

/// The attempts that a kill has cut off.
pub struct CutOff(BTreeSet<Running>);

/// What runs by a store, whether or not a daemon has it open; nothing if it was never made whole.
fn running(store: &Path) -> BTreeSet<Running> {
    // With a journal beside it, its first start has not ended, and who looks would end that.
    if !store.exists() || store.with_extension("db-journal").exists() {
        return BTreeSet::new();
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(store, flags).unwrap();
    let is_there = "SELECT count(*) FROM sqlite_schema WHERE name = 'jobs'";
    if connection.query_row(is_there, [], |row| row.get::<_, i64>(0)).unwrap() == 0 {
        return BTreeSet::new();
    }
    let running = "SELECT id, tail, attempt, own, lease_ms FROM jobs WHERE state = 'running'";
    let mut running = connection.prepare(running).unwrap();
    let running = running.query_map([], |row| {
        let (key, tail): (i64, i64) = (row.get(0)?, row.get(1)?);
        let id = JobId::new(key, tail.cast_unsigned()).to_string();
        let lease = Duration::from_millis(row.get::<_, Option<u32>>(4)?.unwrap_or(0).into());
        Ok(Running { id, attempt: row.get(2)?, own: row.get(3)?, lease })
    });
    running.unwrap().map(Result::unwrap).collect()
}

/// What is wrong with a start: an attempt of the killed daemon still runs, or one that somebody
/// else has leased for long does not.
fn not_recovered(before: &BTreeSet<Running>, after: &BTreeSet<Running>) -> Vec<String> {
    let is_wrong = |one: &&Running| match one.own {
        true => after.contains(one),
        false => one.lease >= LONG && !after.contains(one),
    };
    let wrong = before.iter().filter(is_wrong);
    wrong.map(|one| format!("not recovered by the start: {one:?}")).collect()
}

impl CutOff {
    /// What a daemon that has ended was running; to be asked before the next one starts.
    pub fn left_in(daemon: &Daemon) -> Self {
        Self(running(&daemon.path("tallyd.db")))
    }

    /// P5: asserts of a daemon that has just begun to serve that it has taken up what was cut off.
    pub fn check_recovered(&self, daemon: &Daemon) {
        let after = running(&daemon.path("tallyd.db"));
        assert_eq!(not_recovered(&self.0, &after), Vec::<String>::new());
    }

    /// P5: waits until the brief leases have run out that were cut off; asserts that it was in time
    /// after this moment, at which they begin anew at the latest.
    pub async fn until_expired(&self, daemon: &Daemon) {
        let since = Instant::now();
        let brief = |one: &&Running| !one.own && one.lease <= BRIEF;
        let mut left: BTreeSet<_> = self.0.iter().filter(brief).cloned().collect();
        let mut look = tokio::time::interval(LOOK);
        while let Some(most) = left.iter().map(|one| most_until_claimable(one.lease)).max() {
            assert!(since.elapsed() <= most, "still running after {most:?}: {left:?}");
            look.tick().await;
            let running = running(&daemon.path("tallyd.db"));
            left.retain(|one| running.contains(one));
        }
    }
}

/// Starts a daemon after a kill, or for the first time, and asserts that it has recovered.
pub fn restart(daemon: &mut Daemon) -> CutOff {
    let cut_off = CutOff::left_in(daemon);
    daemon.restart();
    cut_off.check_recovered(daemon);
    cut_off
}

/// The same for clients with a journal, which sees the first scrape.
pub async fn restart_for(daemon: &mut Daemon, journal: &Journal) -> CutOff {
    let cut_off = restart(daemon);
    journal.note_start();
    journal.see(daemon.scrape().await);
    cut_off
}

#[test]
fn a_start_that_does_not_recover_is_found() {
    let running = |id: &str, attempt, own, seconds| Running {
        id: id.to_owned(),
        attempt,
        own,
        lease: Duration::from_secs(seconds),
    };
    let before = [
        running("own", 1, true, 60),
        running("long", 1, false, 600),
        running("brief", 1, false, 1),
    ];
    let after = [running("own", 2, true, 60), running("long", 1, false, 600)];
    let wrong =
        |after: &[Running]| not_recovered(&before.clone().into(), &after.iter().cloned().collect());
    assert_eq!(wrong(&after), Vec::<String>::new());
    assert_eq!(wrong(&before).len(), 1, "its own is still the same");
    assert_eq!(wrong(&after[..1]).len(), 1, "somebody else's is lost");
    assert_eq!(wrong(&[running("long", 2, false, 600)]).len(), 1, "or is another one");
}
