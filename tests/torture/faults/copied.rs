//! What was copied from the log, and never came to the disk, is copied again by the next start.

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::{SYNCS, check_identities, check_stored, create_until_error};
use crate::fixture::Daemon;
use crate::strace::trace;

const STORE: &str = "tallyd.db";

/// The places in the store's file at which the traced daemon wrote.
fn written(daemon: &Daemon) -> BTreeSet<u64> {
    let trace = std::fs::read_to_string(daemon.path("trace.log")).expect("it was traced");
    let writes = trace.lines().filter(|line| line.contains(" pwrite64("));
    let place = |line: &str| {
        let (_, last) = line.rsplit_once(", ").expect("a call has arguments");
        let digits = last.split(|c: char| !c.is_ascii_digit()).next().expect("it has a first part");
        digits.parse().unwrap_or_else(|_| panic!("no place in {line}"))
    };
    writes.map(place).collect()
}

/// F7: also while another program, which does nothing, keeps the index of the log from being made anew.
#[tokio::test]
async fn what_was_copied_before_a_failed_sync_is_copied_again() {
    let mut daemon = Daemon::start("");
    assert_eq!(daemon.stop().code(), Some(0), "a start makes no new file any more");
    let calls = format!("trace=pwrite64,{SYNCS}");
    let inject = format!("inject={SYNCS}:error=EIO:when=2");
    trace(&mut daemon, &calls, &[inject], Some(STORE));
    daemon.restart();
    let idle = Connection::open(daemon.path(STORE)).unwrap();
    let jobs: i64 = idle.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).unwrap();
    assert_eq!(jobs, 0);

    let payload = "x".repeat(1_000_000).into();
    let client = daemon.client.clone();
    let (created, _) = create_until_error(client, daemon.url("/v1/jobs"), payload).await;
    assert_eq!(daemon.wait().code(), Some(1));
    let copied = written(&daemon);
    daemon.wrap(&[]);
    assert!(copied.len() > 100, "{} pages were copied", copied.len());

    idle.execute_batch("BEGIN IMMEDIATE").unwrap();
    daemon.launch();
    assert!(!daemon.serves(), "it must not touch what another program writes");
    assert_eq!(daemon.wait().code(), Some(1));
    let told = std::fs::read_to_string(daemon.path("tallyd.log")).expect("it told why");
    assert!(told.contains("another program writes to the store"), "{told}");
    idle.execute_batch("ROLLBACK").unwrap();

    trace(&mut daemon, &calls, &[], Some(STORE));
    daemon.restart();
    let copied_again = written(&daemon);
    let left: Vec<_> = copied.difference(&copied_again).collect();
    assert!(left.is_empty(), "{} of {} pages, the first at {}", left.len(), copied.len(), left[0]);
    check_identities(&daemon).await;
    drop(idle);
    check_stored(&mut daemon, &created);
}
