//! The query plans of all statements, seen as the engine runs them.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::trace::{TraceEvent, TraceEventCodes};

use super::*;
use crate::job::Outcome;
use crate::store::{
    Action, Bulk, Claim, Filter, Finish, Lease, NewJob, Renewal, Start, Sweep, Unique, UniqueUntil,
};

type Seen = Arc<Mutex<BTreeSet<String>>>;

/// An open engine whose connections note what they run.
pub(super) struct Traced {
    pub(super) engine: Engine,
    readers: Readers,
    clock: Clock,
    seen: Seen,
    directory: tempfile::TempDir,
}

impl Traced {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = Config { data: directory.path().join("t.db"), ..Config::default() };
        config.defaults.max_completed = 0;
        config.queues.clear();
        let config = Arc::new(config);
        let clock = Clock::manual(Timestamp(1_700_000_000_000));
        let metrics = Arc::new(Metrics::new(config.clone()));
        let (due, _) = watch::channel(None);
        let (mut engine, readers) = open(config, clock.clone(), metrics, due).expect("it opens");
        let seen = Seen::default();
        trace(&mut engine.connection, &seen);
        readers.for_each_connection(|connection| trace(connection, &seen));
        Self { engine, readers, clock, seen, directory }
    }

    pub(super) fn commit<R>(&mut self, operation: impl FnOnce(&mut Engine) -> R) -> R {
        self.engine.begin(0).expect("it begins");
        let done = operation(&mut self.engine);
        self.engine.commit().expect("it commits");
        done
    }

    pub(super) fn create(&mut self, key: Option<&str>, start: Start) -> JobId {
        let unique = key.map(|key| Unique { key: key.to_owned(), until: UniqueUntil::Done });
        let job = NewJob {
            queue: "q".to_owned(),
            kind: "k".to_owned(),
            payload: Bytes::from_static(b"1"),
            priority: 5,
            start,
            max_attempts: None,
            timeout: None,
            unique,
            traceparent: None,
        };
        self.commit(|engine| engine.create(&job)).expect("created").job.id
    }

    pub(super) fn claim(&mut self, own: bool) -> Lease {
        let claim = Claim {
            queues: vec!["q".to_owned()],
            max: 1,
            max_bytes: 10,
            duration: None,
            worker: None,
            own,
        };
        self.commit(|engine| engine.claim(&claim)).expect("claimed").jobs[0].lease
    }

    pub(super) fn finish(&mut self, lease: Lease, outcome: Outcome) {
        let result = Some(Bytes::from_static(b"2"));
        let finish = Finish { lease, outcome, result, error: None };
        self.commit(|engine| engine.finish(&[finish])).expect("finished");
    }

    fn sweep(&mut self) {
        self.clock.advance(Duration::from_secs(3_600));
        self.commit(|engine| engine.sweep(&Sweep::default())).expect("swept");
    }

    fn bulk(&mut self, action: Action) {
        let part = |part| super::super::BulkCursor { part, at: [i64::MIN; 3] };
        for from in if action == Action::Cancel { 0..3 } else { 0..1 } {
            let bulk = Bulk {
                queue: "q".to_owned(),
                action,
                kind: None,
                before: None,
                limit: 9,
                from: Some(part(from)),
            };
            self.commit(|engine| engine.act_on_many(&bulk)).expect("done");
        }
    }
}

impl Engine {
    /// Makes each commit from now on fail as it is made.
    pub(in crate::store) fn fail_commits(&mut self) {
        self.connection.commit_hook(Some(|| true)).expect("it can be hooked");
    }
}

fn trace(connection: &mut Connection, seen: &Seen) {
    let seen = seen.clone();
    let note = move |event: TraceEvent<'_>| {
        if let TraceEvent::Stmt(statement, _) = event {
            let words: Vec<_> = statement.sql().split_whitespace().map(str::to_owned).collect();
            seen.lock().expect("not poisoned").insert(words.join(" "));
        }
    };
    let all = TraceEventCodes::SQLITE_TRACE_STMT;
    connection.trace_v2(all, Some(note)).expect("it can be traced");
}

/// Does everything once, and gives the statements that it took.
async fn everything() -> (BTreeSet<String>, tempfile::TempDir) {
    let mut traced = Traced::new();
    let failed = Outcome::Failed { permanent: true, retry_in: Duration::ZERO };
    let dead = traced.create(Some("u"), Start::Now);
    let lease = traced.claim(false);
    let renewal = Renewal { leases: vec![lease], duration: None };
    traced.commit(|engine| engine.renew(&renewal)).expect("renewed");
    traced.finish(lease, failed);
    traced.commit(|engine| engine.act(dead, Action::Requeue)).expect("requeued");
    let lease = traced.claim(false);
    traced.finish(lease, failed);
    traced.bulk(Action::Requeue);
    let lease = traced.claim(false);
    traced.finish(lease, Outcome::Completed);
    traced.create(None, Start::After(Duration::from_secs(1)));
    traced.create(None, Start::Now);
    traced.claim(true);
    traced.sweep();
    let lease = traced.claim(false);
    traced.finish(lease, failed);
    traced.bulk(Action::Discard);
    traced.create(None, Start::Now);
    traced.claim(false);
    traced.create(None, Start::Now);
    traced.create(None, Start::After(Duration::from_secs(1)));
    traced.bulk(Action::Cancel);
    let id = traced.create(None, Start::Now);
    traced.claim(false);
    traced.engine.recover().expect("recovered");
    traced.commit(|engine| engine.set_paused("q", true)).expect("paused");
    traced.commit(|engine| engine.recount()).expect("recounted");
    let forged = Lease { job: JobId::new(1, 1), secret: [0; 16] };
    traced.finish(forged, Outcome::Completed);
    traced.readers.job(id).await.expect("read").expect("it is there");
    let filter = Filter { queue: Some("q".to_owned()), limit: 9, ..Filter::default() };
    traced.readers.list(filter).await.expect("a page");
    traced.commit(|engine| engine.act(id, Action::Cancel)).expect("cancelled");
    traced.sweep();
    traced.commit(|engine| engine.forget("q")).expect("forgotten");
    traced.engine.roll_back().expect("read again");
    let seen = traced.seen.lock().expect("not poisoned").clone();
    (seen, traced.directory)
}

/// Statements that read all of a table or index.
const ALLOWED: &[(&str, &str)] = &[
    ("FROM queues", "SCAN queues"),
    ("FROM ledger", "SCAN ledger"),
    ("FROM totals", "SCAN totals"),
    ("UPDATE totals", "SCAN totals"),
    // At a start: the index holds what is running and nothing else.
    ("SELECT id FROM jobs WHERE state = 'running'", "USING COVERING INDEX jobs_leases"),
];

/// The steps of a statement's plan that cost more the more jobs there are.
fn costly_steps(file: &Connection, sql: &str) -> Vec<String> {
    let mut explain = file.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("it is valid");
    let mut rows = explain.raw_query(); // what is not bound is null, and the plan is the same
    let mut steps: Vec<String> = Vec::new();
    while let Some(row) = rows.next().expect("a plan") {
        steps.push(row.get(3).expect("a text"));
    }
    let is_costly = |step: &String| {
        let is_allowed = |(part, plan): &(&str, &str)| sql.contains(part) && step.contains(plan);
        (step.starts_with("SCAN") || step.contains("TEMP B-TREE"))
            && !ALLOWED.iter().any(is_allowed)
    };
    steps.into_iter().filter(is_costly).collect()
}

#[tokio::test]
async fn no_statement_scans_the_jobs() {
    let (mut seen, directory) = everything().await;
    seen.extend(statements(include_str!("open.rs"))); // run before anything could be seen
    let file = Connection::open(directory.path().join("t.db")).expect("it opens");
    let verbs = ["SELECT", "INSERT", "UPDATE", "DELETE"];
    let mut explained = 0;
    for sql in seen.iter().filter(|sql| verbs.iter().any(|verb| sql.starts_with(verb))) {
        let costly = costly_steps(&file, sql);
        assert!(costly.is_empty(), "{sql}: {costly:?}");
        explained += 1;
    }
    assert!(explained > 30, "only {explained} statements were seen");
}

#[test]
fn a_bulk_cancel_looks_at_waiting_jobs_of_its_own_queue_only() {
    let mut traced = Traced::new();
    traced.create(None, Start::After(Duration::from_secs(1)));
    traced.bulk(Action::Cancel);
    let seen = traced.seen.lock().expect("not poisoned");
    let walks = seen.iter().filter(|sql| sql.starts_with("SELECT id, 0, run_at, queue"));
    let mut looked_at = 0;
    for sql in walks {
        let plan = format!("EXPLAIN QUERY PLAN {sql}");
        let mut explain = traced.engine.connection.prepare(&plan).expect("it is valid");
        let mut rows = explain.raw_query();
        let step: String = rows.next().expect("a plan").expect("a step").get(3).expect("a text");
        assert!(step.contains("INDEX jobs_waiting (queue=? AND run_at"), "{sql}: {step}");
        looked_at += 1;
    }
    assert_eq!(looked_at, 2);
}

#[test]
fn a_scan_is_found() {
    let traced = Traced::new();
    let file = &traced.engine.connection;
    for sql in [
        "SELECT count(*) FROM jobs WHERE state = 'ready'",
        "SELECT id FROM jobs WHERE kind = 'k'",
        "SELECT id FROM jobs WHERE state = 'dead' AND queue = 1 ORDER BY run_at",
    ] {
        assert!(!costly_steps(file, sql).is_empty(), "{sql}");
    }
}

/// What is written in the sources was run above, so that no statement is forgotten.
#[tokio::test]
async fn every_statement_is_looked_at() {
    let (seen, _directory) = everything().await;
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/sqlite");
    let mut written = 0;
    for entry in fs::read_dir(root).expect("the sources") {
        let path = entry.expect("an entry").path();
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        // Those of `schema` and `open` run before there is a job.
        if !is_source || ["tests.rs", "schema.rs", "open.rs"].contains(&name) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("it can be read");
        let text = text.split("#[cfg(test)]\nmod tests").next().expect("the program");
        for statement in statements(text) {
            assert!(
                seen.iter().any(|sql| sql.starts_with(&statement)),
                "nothing ran {statement:?} of {name}"
            );
            written += 1;
        }
    }
    assert!(written > 30, "only {written} statements were found");
}

/// The beginnings of the statements in string literals, up to what is put in at run time.
fn statements(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for verb in ["\"SELECT ", "\"INSERT ", "\"UPDATE ", "\"DELETE "] {
        for (at, _) in source.match_indices(verb) {
            let literal = source[at + 1..].split(['"', '{']).next().expect("a literal ends");
            let words = literal.replace("\\\n", " ");
            let words: Vec<_> = words.split_whitespace().collect();
            found.push(words.join(" "));
        }
    }
    found
}
