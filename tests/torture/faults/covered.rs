//! Many callers at once: which sync covers which answer, as the kernel saw them.
//!
//! Each request carries a mark that its change writes to the log. The sync that covers it is the
//! first that the same thread begins after that write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{FAIL_STOP, SYNCS};
use crate::crash::seed;
use crate::fixture::{Daemon, PATIENCE, scaled};
use crate::strace::trace_whole;

/// How many ask at once.
const CALLERS: u32 = 16;

/// How a mark begins; six digits follow.
const MARK: &str = "mark";
const DIGITS: usize = 6;

/// How far the change of a request has come.
#[derive(Clone, PartialEq, Eq)]
enum Change {
    /// This thread wrote it to the log.
    Written {
        thread: String,
    },
    /// The thread has begun to sync.
    Syncing {
        thread: String,
    },
    Synced,
}

/// What a trace has shown until now.
#[derive(Default)]
struct Seen {
    changes: BTreeMap<String, Change>,
    /// The last mark that was read from each connection.
    asked: BTreeMap<String, String>,
    /// Calls that have begun and not ended, by thread: their beginnings.
    begun: BTreeMap<String, String>,
    /// Threads of which a sync has failed: what later ones cover is not acknowledged either.
    failed: BTreeSet<String>,
    answers: usize,
    wrong: Vec<String>,
}

/// The marks in a line.
fn marks(line: &str) -> impl Iterator<Item = &str> {
    let places = line.match_indices(MARK).map(|(place, _)| place);
    places.filter_map(move |place| {
        let end = place + MARK.len() + DIGITS;
        line.get(place..end).filter(|mark| mark[MARK.len()..].bytes().all(|b| b.is_ascii_digit()))
    })
}

impl Seen {
    fn take_in(&mut self, line: &str) {
        let (thread, call) = line.split_once(' ').expect("a line begins with its thread");
        let call = call.trim_start();
        let begun = call.strip_suffix(" <unfinished ...>");
        if let Some(begun) = begun {
            self.begun.insert(thread.to_owned(), begun.to_owned());
            self.begins(thread, begun);
        } else if let Some((_, rest)) = call.split_once(" resumed>") {
            let begun = self.begun.remove(thread).unwrap_or_default();
            self.ends(thread, &format!("{begun}{rest}"));
        } else {
            self.begins(thread, call);
            self.ends(thread, call);
        }
    }

    /// A call that has an effect as soon as it begins.
    fn begins(&mut self, thread: &str, call: &str) {
        if call.starts_with("fdatasync") || call.starts_with("fsync") {
            let written = Change::Written { thread: thread.to_owned() };
            let mine = self.changes.values_mut().filter(|change| **change == written);
            mine.for_each(|change| *change = Change::Syncing { thread: thread.to_owned() });
        } else if call.contains("HTTP/1.1 20") {
            self.answers += 1;
            let connection = connection(call);
            let mark = self.asked.remove(connection).expect("an answer follows a request");
            if self.changes.get(&mark) != Some(&Change::Synced) {
                self.wrong.push(format!("{mark} was acknowledged unsynced"));
            }
        }
    }

    /// A call that has an effect when it has ended.
    fn ends(&mut self, thread: &str, call: &str) {
        let is_sync = call.starts_with("fdatasync") || call.starts_with("fsync");
        if call.starts_with("pwrite") {
            for mark in marks(call) {
                let written = Change::Written { thread: thread.to_owned() };
                self.changes.entry(mark.to_owned()).or_insert(written);
            }
        } else if call.starts_with("recvfrom") || call.starts_with("read") {
            if let Some(mark) = marks(call).last() {
                self.asked.insert(connection(call).to_owned(), mark.to_owned());
            }
        } else if is_sync && !call.ends_with("= 0") {
            self.failed.insert(thread.to_owned());
        } else if is_sync && !self.failed.contains(thread) {
            let syncing = Change::Syncing { thread: thread.to_owned() };
            let mine = self.changes.values_mut().filter(|change| **change == syncing);
            mine.for_each(|change| *change = Change::Synced);
        }
    }
}

/// The descriptor that a call is about.
fn connection(call: &str) -> &str {
    let arguments = call.split_once('(').map_or("", |(_, arguments)| arguments);
    arguments.split([',', ')']).next().expect("a split has a first part")
}

/// What one caller does: a job's whole life, again and again, with a mark in each request; until
/// something is refused. Whether nothing was.
async fn live(client: Client, url: String, caller: u32, lives: u32) -> bool {
    let ask = async |path: &str, body: Value| {
        let request = client.post(format!("{url}{path}")).json(&body).timeout(PATIENCE);
        let response = request.send().await.ok().filter(|it| it.status().is_success())?;
        response.json::<Value>().await.ok()
    };
    let live = async |life: u32| {
        let mark = |step: u32| format!("{MARK}{:0DIGITS$}", (caller * lives + life) * 3 + step);
        ask("/v1/jobs", json!({"queue": "q", "kind": "k", "payload": mark(0)})).await?;
        let lease = json!({"queues": ["q"], "wait": "10s", "worker": mark(1)});
        let leased = ask("/v1/leases", lease).await?;
        let lease = &leased["jobs"][0]["lease"];
        let end = match life % 3 {
            0 => json!({"lease": lease, "outcome": "completed", "result": mark(2)}),
            _ => json!({"lease": lease, "outcome": "failed", "permanent": true, "error": mark(2)}),
        };
        let answer = ask("/v1/leases/finish", json!([end])).await?;
        assert_eq!(answer["results"], json!(["ok"]));
        Some(())
    };
    for life in 0..lives {
        if live(life).await.is_none() {
            return false;
        }
    }
    true
}

const CALLS: &str = "trace=pwrite64,fdatasync,fsync,write,writev,sendto,sendmsg,recvfrom,read";

/// Has many live at once; how many of them were refused nothing.
async fn live_at_once(daemon: &Daemon, lives: u32) -> usize {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(live(daemon.client.clone(), daemon.url(""), caller, lives));
    }
    callers.join_all().await.into_iter().filter(|is_whole| *is_whole).count()
}

fn seen(daemon: &Daemon) -> Seen {
    let text = std::fs::read(daemon.path("trace.log")).unwrap();
    let mut seen = Seen::default();
    String::from_utf8_lossy(&text).lines().for_each(|line| seen.take_in(line));
    seen
}

/// P1: what leaves at the same time as others' changes are written is covered too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_of_many_leaves_before_the_sync_that_covers_it() {
    let mut daemon = Daemon::prepare("");
    trace_whole(&mut daemon, CALLS, None);
    daemon.restart();
    let lives = scaled(12);
    assert_eq!(live_at_once(&daemon, lives).await, CALLERS as usize);
    assert_eq!(daemon.stop().code(), Some(0));
    let seen = seen(&daemon);
    assert_eq!(seen.wrong, Vec::<String>::new());
    assert_eq!(seen.answers, (CALLERS * lives * 3) as usize);
}

/// P6, F7: what was written before a failed sync is in the file after all; only the order of calls
/// shows that nobody was told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_of_many_leaves_after_a_sync_that_failed() {
    let mut random = StdRng::seed_from_u64(seed());
    for _ in 0..scaled(2) {
        let number = random.random_range(5..30);
        eprintln!("the sync {number} of each thread fails");
        let mut daemon = Daemon::start("");
        assert_eq!(daemon.stop().code(), Some(0), "a start makes no new file any more");
        let inject = format!("inject={SYNCS}:error=EIO:when={number}");
        trace_whole(&mut daemon, CALLS, Some(&inject));
        daemon.restart();
        assert_eq!(live_at_once(&daemon, 1_000).await, 0, "nobody is answered for ever");
        daemon.wait_for_log(|line| line["event"] == "store_failed");
        let failed_at = Instant::now();
        assert_eq!(daemon.wait().code(), Some(1));
        assert!(failed_at.elapsed() < FAIL_STOP, "it took {:?} to end", failed_at.elapsed());
        let seen = seen(&daemon);
        assert_eq!(seen.wrong, Vec::<String>::new());
        assert!(seen.answers > 0, "some were answered before");
    }
}

#[test]
fn an_answer_before_its_sync_is_found() {
    let found = |lines: &[&str]| {
        let mut seen = Seen::default();
        lines.iter().for_each(|line| seen.take_in(line));
        seen.wrong.join("\n")
    };
    let read = "7 recvfrom(12, \"POST … mark000001\", 64) = 64";
    let write = "8 pwrite64(5, \"… mark000001\", 4096, 32) = 4096";
    let answer = "7 writev(12, [{\"HTTP/1.1 201 Created\"}]) = 20";
    let sync = "8 fdatasync(5) = 0";
    let unsynced = "mark000001 was acknowledged unsynced";
    assert_eq!(found(&[read, write, sync, answer]), "");
    assert_eq!(found(&[read, write, answer, sync]), unsynced);
    assert_eq!(found(&[read, sync, write, answer]), unsynced, "it covers what was before");
    assert_eq!(found(&[read, write, "9 fdatasync(6) = 0", answer]), unsynced, "another thread's");
    let failed = "8 fdatasync(5) = -1 EIO (Input/output error)";
    assert_eq!(found(&[read, write, failed, answer]), unsynced);
    assert_eq!(found(&[failed, read, write, sync, answer]), unsynced, "one has failed before");
    let begun = "8 fdatasync(5 <unfinished ...>";
    let ended = "8 <... fdatasync resumed>) = 0";
    assert_eq!(found(&[read, begun, write, ended, answer]), unsynced, "it began before");
    assert_eq!(found(&[read, write, begun, answer, ended]), unsynced);
    assert_eq!(found(&[read, write, begun, ended, answer]), "");
}
