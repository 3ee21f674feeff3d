//! `kill -9` under load, again and again: nothing acknowledged is lost, nothing happens twice, and
//! the counts stay exact.

mod clients;
pub mod receiver;

use std::fs::File;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;

pub use self::clients::{Client, Gone};
use self::receiver::Receiver;
use crate::fixture::{Daemon, MOST_WAL_BYTES, scaled};
use crate::journal::Journal;
use crate::oracle::{Run, Scrapes, late_recoveries, violations};
use crate::restart::restart_for;
use crate::stored::Stored;

/// A queue whose commands report the start and the end of each attempt, one that pushes, two for
/// outside workers, and quick retries; more pairs than have a row of their own, and no retention.
pub const CONFIG: &str = r#"
max_pairs = 3

[defaults]
max_attempts = 4
keep_completed = "365d"
max_completed = 1_000_000_000
timeout = "0s"
backoff = { initial = "1ms", max = "50ms" }

[queues.outside]
lease = "10m"

[queues.brief]
lease = "1s"

[queues.pushed]
concurrency = 4
http = { url = "URL" }

[queues.work]
concurrency = 4
exec = { command = ["/bin/sh", "-c", '''
    echo "started $TALLYD_JOB_ID $TALLYD_ATTEMPT" >> runs
    read -r payload
    case "$payload" in *fail*) end=failed;; *) end=worked;; esac
    echo "$end $TALLYD_JOB_ID $TALLYD_ATTEMPT" >> runs
    test $end = worked''', "work"] }
"#;

/// How many answers the clients get before the kill, at least and at most.
const ANSWERS: std::ops::Range<u32> = 30..150;

/// How many cycles there are to one that lasts until a lease has run out.
const LONG_CYCLE: u32 = 20;

/// The seed of a run: a new one, unless a failed run is to be repeated.
pub fn seed() -> u64 {
    let seed = std::env::var("TALLYD_TEST_SEED").ok();
    let seed = seed.map_or_else(rand::random, |seed| seed.parse().expect("a seed is a number"));
    eprintln!("repeat with TALLYD_TEST_SEED={seed}");
    seed
}

/// Starts the clients of one cycle; each ends when the daemon has gone.
pub fn start_clients(journal: &Arc<Journal>, daemon: &Daemon, random: &mut StdRng) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    let mut client = || Client::new(journal, daemon, random.random());
    for _ in 0..3 {
        clients.spawn(client().create());
        clients.spawn(client().work("outside", "10m", None));
    }
    clients.spawn(client().work("brief", "1s", Some(Duration::from_secs(1))));
    clients.spawn(client().cancel());
    clients.spawn(client().tidy_up());
    clients.spawn(client().act_on_many());
    clients.spawn(client().scrape());
    clients
}

/// Checks what a kill left, and tells the judge of the commands.
pub fn note_kill(daemon: &Daemon) {
    let wal_bytes = daemon.wal_bytes();
    assert!(wal_bytes <= MOST_WAL_BYTES, "the log has {wal_bytes} bytes");
    let mut runs = File::options().append(true).create(true).open(daemon.path("runs")).unwrap();
    runs.write_all(Run::KILLED.as_bytes()).unwrap();
}

/// F1, F5, F6, F12, F19: whatever was going on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9_under_load() {
    let mut random = StdRng::seed_from_u64(seed());
    let receiver = Receiver::start().await;
    let mut daemon = Daemon::prepare(&CONFIG.replace("URL", &receiver.url));
    let journal = Arc::new(Journal::new(&daemon.path("clients.log")));
    for cycle in 0..scaled(200) {
        restart_for(&mut daemon, &journal).await;
        let clients = start_clients(&journal, &daemon, &mut random);
        journal.answered(random.random_range(ANSWERS)).await;
        if cycle % LONG_CYCLE == 0 {
            journal.lost_a_lease().await;
        }
        journal.let_end(true);
        daemon.kill();
        clients.join_all().await;
        note_kill(&daemon);
        receiver.note_kill().await;
    }
    let reported = daemon.path("runs");
    let runs = || [Run::read(&reported), receiver.runs()].concat();
    judge(&mut daemon, &journal, runs).await;
}

/// Starts the daemon once more, asks for what was never answered, stops it, and has the store
/// judged, with what was run until then.
pub async fn judge(daemon: &mut Daemon, journal: &Arc<Journal>, runs: impl Fn() -> Vec<Run>) {
    restart_for(daemon, journal).await.until_expired(daemon).await;
    Client::new(journal, daemon, 0).settle().await;
    journal.see(daemon.scrape().await);
    assert_eq!(daemon.stop().code(), Some(0));
    let Scrapes { seen, wrong, .. } = journal.scrapes();
    assert_eq!(wrong, Vec::<String>::new(), "of {seen} scrapes");
    let stored = Stored::read(&daemon.path("tallyd.db"));
    let (entries, runs) = (journal.entries(), runs());
    assert_eq!(late_recoveries(&entries, &journal.starts()), Vec::<String>::new());
    let (told, jobs, ran) = (entries.len(), stored.jobs.len(), runs.len());
    eprintln!("{told} entries, {jobs} jobs, {ran} runs, {seen} scrapes");
    assert_eq!(violations(&entries, &runs, &stored), Vec::<String>::new());
}
