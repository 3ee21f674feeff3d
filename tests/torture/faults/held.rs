//! Somebody else's reader holds the file, so that nothing can be copied out of the log: what still works, in
//! which order it stops, and that it all goes on when the reader has gone.

use reqwest::StatusCode;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{
    check_identities, check_stored, complete, create, create_until_refused, lease, until_accepted,
};
use crate::fixture::{Daemon, MOST_WAL_BYTES};

/// More jobs than the log takes changes of, one at a time.
const BACKLOG: usize = 2_000;

/// Leases that are held when no attempt may begin any more.
const HELD: usize = 400;

fn check_log(daemon: &Daemon) {
    let written = daemon.wal_bytes();
    assert!(written <= MOST_WAL_BYTES, "the log has {written} bytes");
}

/// A transaction that reads, as a shell or a backup of somebody else leaves it open.
fn hold(daemon: &Daemon) -> Connection {
    let reader = Connection::open(daemon.path("tallyd.db")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let _: i64 = reader.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).unwrap();
    reader
}

fn is_busy((status, answer): &(StatusCode, Value)) -> bool {
    let refused = *status == StatusCode::SERVICE_UNAVAILABLE;
    assert!(refused || *status == StatusCode::OK, "{status}: {answer}");
    assert!(!refused || answer["error"]["code"] == "store_busy", "{answer}");
    refused
}

async fn ask_to_lease(daemon: &Daemon) -> (StatusCode, Value) {
    daemon.post("/v1/leases", json!({"queues": ["q"]})).await
}

async fn ask_to_complete(daemon: &Daemon, lease: &Value) -> (StatusCode, Value) {
    let finish = json!([{"lease": lease, "outcome": "completed", "result": "x".repeat(100)}]);
    daemon.post("/v1/leases/finish", finish).await
}

/// A daemon with a backlog behind a reader, whose log has just become too long for creates, and the leases
/// on some of its jobs.
async fn full_of_creates() -> (Daemon, Connection, Vec<Value>, Vec<String>) {
    let daemon = Daemon::start("[queues.q]\nlease = \"10m\"\n");
    let jobs = vec![json!({"queue": "q", "kind": "k", "priority": 1}); BACKLOG];
    let (status, answer) = daemon.post("/v1/jobs/batch", Value::from(jobs)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let leases = lease(&daemon, HELD).await;
    let reader = hold(&daemon);
    let payload = Value::from("x".repeat(1_000_000));
    let (created, status, answer) = create_until_refused(&daemon, &payload, 200).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
    assert_eq!(answer["error"]["code"], "store_busy");
    (daemon, reader, leases, created)
}

/// F9: the log stays within its limit behind a foreign reader; creates get 503, nothing else stops.
#[tokio::test]
async fn a_reader_that_holds_the_file_stops_creates_only_and_the_log_stays_bounded() {
    let (mut daemon, reader, leases, created) = full_of_creates().await;
    let payload = Value::from("x".repeat(1_000_000));
    for lease in &leases[..10] {
        complete(&daemon, lease).await;
        assert_eq!(create(&daemon, &payload).await.0, StatusCode::SERVICE_UNAVAILABLE);
    }
    for _ in 0..50 {
        let given = lease(&daemon, 1).await;
        let release = json!([{"lease": given[0], "outcome": "released"}]);
        let (status, answer) = daemon.post("/v1/leases/finish", release).await;
        assert_eq!((status, answer), (StatusCode::OK, json!({"results": ["ok"]})));
    }
    check_log(&daemon);
    check_identities(&daemon).await;

    reader.execute_batch("COMMIT").unwrap();
    until_accepted(&daemon, &Value::Null).await;
    for lease in &leases[10..20] {
        complete(&daemon, lease).await;
    }
    for _ in 0..80 {
        // Another may be refused for a moment, while the log is copied.
        until_accepted(&daemon, &payload).await;
        check_log(&daemon);
    }
    drop(reader);
    check_stored(&mut daemon, &created);
}

/// F9: however long it is held. What begins work stops before what ends it, and whoever is refused has
/// lost nothing.
#[tokio::test]
async fn behind_a_reader_that_stays_claims_stop_next_and_finishes_last() {
    let (mut daemon, reader, leases, created) = full_of_creates().await;
    let mut ended = 0;
    loop {
        let given = ask_to_lease(&daemon).await;
        if is_busy(&given) {
            break;
        }
        let finished = ask_to_complete(&daemon, &given.1["jobs"][0]["lease"]).await;
        assert!(!is_busy(&finished), "what has begun may end");
        ended += 1;
        check_log(&daemon);
    }
    eprintln!("{ended} attempts began and ended after the last create");
    assert!(ended >= 50, "{ended} attempts began and ended");

    let mut leases = leases.into_iter();
    let mut refused = None;
    let mut ended_last = 0;
    for lease in leases.by_ref() {
        if is_busy(&ask_to_complete(&daemon, &lease).await) {
            refused = Some(lease);
            break;
        }
        ended_last += 1;
        check_log(&daemon);
    }
    eprintln!("{ended_last} attempts ended after the last had begun");
    assert!(ended_last >= 100, "{ended_last} attempts ended");
    let refused = refused.expect("the log takes no end of finishes");

    // Many at once, as from an impatient fleet: each is refused, and nothing is written.
    let renewal = json!({"leases": [refused]});
    for _ in 0..20 {
        let (again, renewed) = tokio::join!(
            ask_to_complete(&daemon, &refused),
            daemon.post("/v1/leases/renew", renewal.clone()),
        );
        assert!(is_busy(&again) && is_busy(&renewed));
        assert!(is_busy(&ask_to_lease(&daemon).await));
    }
    check_log(&daemon);
    check_identities(&daemon).await;
    assert_eq!(daemon.get("/-/healthy").await.0, StatusCode::OK);

    reader.execute_batch("COMMIT").unwrap();
    drop(reader);
    until_accepted(&daemon, &Value::Null).await;
    for lease in [refused].into_iter().chain(leases) {
        complete(&daemon, &lease).await;
    }
    check_identities(&daemon).await;
    check_stored(&mut daemon, &created);
}
