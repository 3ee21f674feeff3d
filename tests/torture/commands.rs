//! `kill -9` of a daemon with twenty commands running, again and again: none of them, nor what they
//! started, outlives the next start, and no job runs twice at once.
//!
//! Every process holds the lock of its start and that of its job for as long as it lives: the
//! kernel gives a lock to somebody else when the last of its holders has ended, and not before.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::StatusCode;
use serde_json::json;
use tallyd::worker::exec::end_leftovers;

use crate::crash::seed;
use crate::fixture::{Daemon, scaled};
use crate::oracle::{Run, overlaps};
use crate::processes::Line;
use crate::restart::CutOff;
use crate::stored::Stored;

/// How many commands run at once: the concurrency below.
const RUNNING: usize = 20;

/// Promised are 2 s from the next start on.
const MOST_SECONDS: &str = "10";

/// What the commands of a job are: one process; with a child in its group; with one in a session of
/// its own; with one there that has lost its parent and ignores signals; with one that becomes
/// another program all the time.
const FATES: [&str; 5] = ["plain", "child", "session", "orphan", "again"];

/// A job that is done at once, ahead of all others.
const BRIEF: &str = "brief";

const SCRIPT: &str = r#"
exec 8>> "start-$START" && flock -s 8
exec 9>> "job-$TALLYD_JOB_ID"
flock -n 9 || echo "attempt $TALLYD_ATTEMPT of $TALLYD_JOB_ID" >> beside
read -r payload
echo "started $TALLYD_JOB_ID $TALLYD_ATTEMPT" >> runs
case "$END$payload" in
    end*|*brief*) echo "worked $TALLYD_JOB_ID $TALLYD_ATTEMPT" >> runs; exit 0;;
    *plain*) echo up > "said-$START"; exec sleep 300;;
    *child*) (echo up > "said-$START"; exec sleep 300) & wait;;
    *session*) setsid sh -c 'echo up > "said-$START"; exec sleep 300' & wait;;
    *orphan*) setsid sh -c '(trap "" TERM HUP; echo up > "said-$START"; exec sleep 300) & exit'
        exec sleep 300;;
    *again*) setsid sh ./again 0 & wait;;
esac
"#;

/// It ends by itself, should the test fail.
const AGAIN: &str = r#"
[ "$1" -gt 0 ] || echo up > "said-$START"
[ "$1" -lt 50000 ] || exec sleep 300
exec /bin/sh ./again $(($1 + 1))
"#;

/// Jobs are back at once, however often they were cut off.
fn config(start: u32, end: &str) -> String {
    format!(
        r#"
[defaults]
max_attempts = 1_000_000
max_completed = 1_000_000_000
timeout = "0s"
backoff = {{ initial = "0s" }}

[queues.work]
concurrency = {RUNNING}
exec = {{ command = ["/bin/sh", "./work"], env = {{ START = "{start}", END = "{end}" }} }}
"#
    )
}

/// The starts of one store, each with a number.
struct Starts {
    daemon: Daemon,
    last: u32,
    cut_off: CutOff,
    ids: Vec<String>,
    random: StdRng,
}

impl Starts {
    fn prepare() -> Self {
        let daemon = Daemon::prepare("");
        std::fs::write(daemon.path("work"), SCRIPT).unwrap();
        std::fs::write(daemon.path("again"), AGAIN).unwrap();
        let cut_off = CutOff::left_in(&daemon);
        Self { daemon, last: 0, cut_off, ids: Vec::new(), random: StdRng::seed_from_u64(seed()) }
    }

    /// Starts the daemon and waits for nothing; its commands say on the line that they are up.
    fn launch(&mut self, end: &str) -> Line {
        self.last += 1;
        let said = Line::new(self.daemon.directory.path(), &format!("said-{}", self.last));
        self.daemon.configure(&config(self.last, end));
        self.cut_off = CutOff::left_in(&self.daemon);
        self.daemon.launch();
        said
    }

    /// Waits until it serves; by then, or soon, nothing of earlier starts lives.
    fn serves(&mut self) {
        assert!(self.daemon.serves(), "{}", self.daemon.log());
        self.cut_off.check_recovered(&self.daemon);
        for start in 1..self.last {
            let file = self.daemon.path(&format!("start-{start}"));
            assert!(is_free(&file), "commands of start {start} live on in start {}", self.last);
        }
    }

    async fn create(&mut self, fate: &str, priority: u8) {
        let job = json!({"queue": "work", "kind": fate, "payload": fate, "priority": priority});
        let (status, job) = self.daemon.post("/v1/jobs", job).await;
        assert_eq!(status, StatusCode::CREATED, "{job}");
        self.ids.push(job["id"].as_str().unwrap().to_owned());
    }

    fn kill(&mut self) {
        self.daemon.kill();
        let mut runs =
            File::options().append(true).create(true).open(self.daemon.path("runs")).unwrap();
        runs.write_all(Run::KILLED.as_bytes()).unwrap();
    }

    /// Kills it while it starts, or begins to run commands: after so many lines of its log.
    fn kill_while_starting(&mut self) {
        let _said = self.launch("");
        let left = Cell::new(self.random.random_range(0..2 * RUNNING));
        self.daemon.wait_for_log(|_| left.replace(left.get().saturating_sub(1)) == 0);
        self.kill();
    }
}

/// Whether nobody holds this lock any more, or will not soon.
fn is_free(lock: &Path) -> bool {
    let mut flock = Command::new("flock");
    flock.args(["-w", MOST_SECONDS, "-x"]).arg(lock).arg("true");
    flock.status().expect("flock runs").success()
}

/// F21: commands outlive a killed daemon.
#[tokio::test]
async fn nothing_of_a_killed_daemon_outlives_its_next_start_and_no_job_runs_twice_at_once() {
    let mut starts = Starts::prepare();
    for round in 0..scaled(12) {
        let mut said = starts.launch("");
        starts.serves();
        if round == 0 {
            for number in 0..RUNNING {
                starts.create(FATES[number % FATES.len()], 5).await;
            }
        }
        // All are up, or some are being started.
        let up = if round % 2 == 0 { RUNNING } else { starts.random.random_range(0..RUNNING) };
        for _ in 0..up {
            assert_eq!(said.hear().await, "up");
        }
        starts.create(BRIEF, 0).await;
        starts.kill();
        if round % 3 == 2 {
            starts.kill_while_starting();
        }
    }

    let _said = starts.launch("end");
    starts.serves();
    for id in &starts.ids {
        starts.daemon.job_when(id, |job| job["state"] == "completed").await;
    }
    let scrape = starts.daemon.scrape().await;
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
    assert_eq!(starts.daemon.stop().code(), Some(0));
    let beside = std::fs::read_to_string(starts.daemon.path("beside")).unwrap_or_default();
    assert_eq!(beside, "", "these ran beside an earlier attempt");
    let runs = Run::read(&starts.daemon.path("runs"));
    assert_eq!(overlaps(&runs), Vec::<String>::new());
    let worked = |run: &&Run| matches!(run, Run::Ended { worked: true, .. });
    eprintln!("{} starts, {} lines of runs", starts.last, runs.len());
    assert!(runs.iter().filter(worked).count() >= starts.ids.len());
    assert_eq!(Stored::read(&starts.daemon.path("tallyd.db")).wrong_counts(), Vec::<String>::new());
}

#[test]
fn a_lock_that_a_descendant_holds_is_not_free() {
    let directory = tempfile::tempdir().unwrap();
    let lock = directory.path().join("lock");
    // The shell ends and its child stays, until its input ends.
    let script = "exec 8>> lock; flock -s 8; exec 7<&0; setsid cat <&7 > /dev/null & exit";
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).current_dir(&directory).stdin(std::process::Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    let input = shell.stdin.take();
    assert!(shell.wait().unwrap().success());
    let at_once = Command::new("flock").args(["-n", "-x"]).arg(&lock).arg("true").status();
    assert!(!at_once.unwrap().success(), "its child holds it");
    drop(input);
    assert!(is_free(&lock));
}

/// F21: while a process becomes another program, the kernel shows no environment to know it by.
#[tokio::test]
async fn a_leftover_is_found_though_it_becomes_another_program_all_the_time() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("again"), AGAIN).unwrap();
    let mut said = Line::new(directory.path(), "said-0");
    for number in 0..scaled(100) {
        // Its own, since another run of this test may go on beside this one.
        let store = format!("again-{}-{number}", std::process::id());
        let mut leftover = Command::new("/bin/sh");
        leftover.args(["./again", "0"]).current_dir(&directory).env("START", "0");
        let mut leftover = leftover.env("TALLYD_STORE", &store).spawn().unwrap();
        assert_eq!(said.hear().await, "up");
        let ended = end_leftovers(&store).await.unwrap();
        leftover.kill().unwrap();
        leftover.wait().unwrap();
        assert_eq!(ended, 1, "the one of round {number} would live on");
    }
}
