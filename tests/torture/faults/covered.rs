//! Many callers at once: which sync covers which answer, as the kernel saw them.
//!
//! Each request names, in a header, a mark that its change writes to the log. The sync that covers it
//! is the first that the same thread begins after that write. A renewal and a cancel write none of
//! their own: they are known by what they make of the row that has the mark of its create.

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

/// The header that names what a request writes.
const HEADER: &str = "x-mark";

/// What stands before the unique key, which is the mark of the create, in the row of a job.
const BEFORE_KEY: &[u8] = b"gonek";

/// For how long leases are renewed, in milliseconds, and how a row says that.
const RENEWED_MS: u32 = u32::from_be_bytes([0, RENEWED[0], RENEWED[1], RENEWED[2]]);
const RENEWED: [u8; 3] = *b"123";

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

/// The bytes of a line, as strace writes them.
fn unescaped(line: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(line.len());
    let mut rest = line.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        let (b'\\', [escaped, behind @ ..]) = (first, rest) else {
            bytes.push(*first);
            continue;
        };
        let digits = rest.iter().take(3).take_while(|byte| (b'0'..=b'7').contains(byte));
        let (count, value) = digits
            .fold((0, 0_u8), |(n, value), byte| (n + 1, value.wrapping_mul(8) + (byte - b'0')));
        rest = if count > 0 { &rest[count..] } else { behind };
        let control = b"tnvfr".iter().zip(b'\t'..).find(|(name, _)| *name == escaped);
        bytes.push(if count > 0 { value } else { control.map_or(*escaped, |(_, byte)| byte) });
    }
    bytes
}

/// What a write to the log has of requests: their marks, and what has become of rows.
fn written(line: &str) -> Vec<String> {
    if !line.contains(MARK) {
        return Vec::new();
    }
    let bytes = unescaped(line);
    let mut found = Vec::new();
    for place in 0..bytes.len() {
        let Some(mark) = mark_at(&bytes[place..]) else { continue };
        if let Some(row) = bytes[..place].strip_suffix(BEFORE_KEY) {
            let change = if row.ends_with(b"cancelled") { Some("cancelled") } else { None };
            let change = change.or_else(|| is_renewed(row).then_some("renewed"));
            found.extend(change.map(|change| format!("{change}-{mark}")));
        }
        found.push(mark.to_owned());
    }
    found
}

fn mark_at(bytes: &[u8]) -> Option<&str> {
    let digits = bytes.strip_prefix(MARK.as_bytes())?.get(..DIGITS)?;
    let is_mark = digits.iter().all(u8::is_ascii_digit);
    is_mark.then(|| str::from_utf8(&bytes[..MARK.len() + DIGITS]).expect("it is ASCII"))
}

/// Whether a row, up to its key, tells of a lease that was renewed: that lasts so long, until a tick
/// of three bytes, given out at one of up to three; then come two points in time of six each.
fn is_renewed(row: &[u8]) -> bool {
    (1..=3).any(|tick| {
        let lasts = row.len().checked_sub(6 + 6 + tick + 3 + RENEWED.len());
        lasts.is_some_and(|place| row[place..].starts_with(&RENEWED))
    })
}

/// The mark that a request names, if this is one.
fn named(call: &str) -> Option<&str> {
    let (_, name) = call.rsplit_once(HEADER)?;
    name.strip_prefix(": ")?.split('\\').next()
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
            for mark in written(call) {
                let written = Change::Written { thread: thread.to_owned() };
                self.changes.entry(mark).or_insert(written);
            }
        } else if call.starts_with("recvfrom") || call.starts_with("read") {
            if let Some(mark) = named(call) {
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

/// How many answers each life is.
const STEPS: u32 = 5;

/// What one caller does: a job's whole life, again and again, from two creates with the same key at
/// once to one of three ends; until something is refused. Whether nothing was.
async fn live(client: Client, url: String, caller: u32, lives: u32) -> bool {
    let ask = async |mark: &str, path: &str, body: Value| {
        let request = client.post(format!("{url}{path}")).header(HEADER, mark).json(&body);
        let response = request.timeout(PATIENCE).send().await.ok();
        let response = response.filter(|response| response.status().is_success())?;
        response.json::<Value>().await.ok()
    };
    let live = async |life: u32| {
        let [key, worker, end] =
            [0, 1, 2].map(|step| format!("{MARK}{:0DIGITS$}", (caller * lives + life) * 3 + step));
        let job = json!({"queue": "q", "kind": "k", "unique_key": key});
        let created =
            tokio::join!(ask(&key, "/v1/jobs", job.clone()), ask(&key, "/v1/jobs", job.clone()));
        assert_ne!(created.0?["duplicate"], created.1?["duplicate"]);
        let lease = json!({"queues": ["q"], "wait": "10s", "worker": worker});
        // Somebody else's, it may be.
        let leased = ask(&worker, "/v1/leases", lease).await?["jobs"][0].clone();
        let (key, lease) = (leased["unique_key"].as_str().unwrap(), &leased["lease"]);
        let renewal = json!({"leases": [lease], "duration": format!("{RENEWED_MS}ms")});
        let renewed = ask(&format!("renewed-{key}"), "/v1/leases/renew", renewal).await?;
        assert_eq!(renewed["results"], json!(["ok"]));
        let finish = match life % 3 {
            0 => json!({"lease": lease, "outcome": "completed", "result": end}),
            1 => json!({"lease": lease, "outcome": "failed", "permanent": true, "error": end}),
            _ => {
                let path = format!("/v1/jobs/{}/cancel", leased["id"].as_str().unwrap());
                let cancelled = ask(&format!("cancelled-{key}"), &path, json!({})).await?;
                assert_eq!(cancelled["state"], "cancelled");
                return Some(());
            }
        };
        let finished = ask(&end, "/v1/leases/finish", json!([finish])).await?;
        assert_eq!(finished["results"], json!(["ok"]));
        Some(())
    };
    for life in 0..lives {
        if live(life).await.is_none() {
            return false;
        }
    }
    true
}

/// A queue whose attempts may take as long as they like, so that leases can be renewed for long.
const CONFIG: &str = "[queues.q]\ntimeout = \"0s\"\n";

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

/// P1, P3: what leaves at the same time as others' changes are written is covered too; so is the answer
/// to a duplicate, by the sync of the first create.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_of_many_leaves_before_the_sync_that_covers_it() {
    let mut daemon = Daemon::prepare(CONFIG);
    trace_whole(&mut daemon, CALLS, None);
    daemon.restart();
    let lives = scaled(12);
    assert_eq!(live_at_once(&daemon, lives).await, CALLERS as usize);
    assert_eq!(daemon.stop().code(), Some(0));
    let seen = seen(&daemon);
    assert_eq!(seen.wrong, Vec::<String>::new());
    assert_eq!(seen.answers, (CALLERS * lives * STEPS) as usize);
}

/// P6, F7: what was written before a failed sync is in the file after all; only the order of calls
/// shows that nobody was told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_of_many_leaves_after_a_sync_that_failed() {
    let mut random = StdRng::seed_from_u64(seed());
    for _ in 0..scaled(2) {
        let number = random.random_range(5..30);
        eprintln!("the sync {number} of each thread fails");
        let mut daemon = Daemon::start(CONFIG);
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
    let read = "7 recvfrom(12, \"POST …\\r\\nx-mark: mark000001\\r\\n\", 64) = 64";
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

#[test]
fn what_becomes_of_a_row_is_found() {
    let found =
        |row: &str| written(&format!(r#"pwrite64(5, "{row}\0\0", 4096, 32) = 4096"#)).join(" ");
    let mark = "mark000001";
    assert_eq!(found(r#"\0\"mark000001\""#), mark);
    assert_eq!(found(r"ready\1\2gonekmark000001mark000002"), "mark000001 mark000002");
    assert_eq!(found(r"\1cancelledgonekmark000001"), format!("cancelled-{mark} {mark}"));
    let times = r"\1\235\0017\tn\1\235\0017\nn";
    let renewed = format!("renewed-{mark} {mark}");
    for claimed in [r"\7", r"1\0", r"\1\0023"] {
        assert_eq!(found(&format!(r"\0\377123456{claimed}{times}gonekmark000001")), renewed);
        assert_eq!(found(&format!(r"\0\377124456{claimed}{times}gonekmark000001")), mark);
    }
    assert_eq!(found("123gonekmark000001"), mark, "there are no times");
}
