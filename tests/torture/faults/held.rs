//! Somebody else's reader holds the file, so that the log cannot begin anew: what still works, what stops
//! and when, and that it all goes on when the reader has gone.

use reqwest::StatusCode;
use rusqlite::Connection;
use serde_json::{Value, json};

use super::{
    check_identities, check_stored, complete, create, create_until_refused, lease,
    tick_of_the_sweeper, until_accepted,
};
use crate::fixture::{Daemon, MOST_WAL_BYTES};

/// More jobs than the log takes changes of, one at a time.
const BACKLOG: usize = 2_000;

/// Leases that are held when no attempt may begin any more.
const HELD: usize = 200;

pub fn check_log(daemon: &Daemon) {
    let written = daemon.wal_bytes();
    assert!(written <= MOST_WAL_BYTES, "the log has {written} bytes");
}

/// A transaction that reads, as a shell or a backup of somebody else leaves it open.
pub fn hold(daemon: &Daemon) -> Connection {
    let reader = Connection::open(daemon.path("tallyd.db")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let _: i64 = reader.query_row("SELECT count(*) FROM jobs", [], |row| row.get(0)).unwrap();
    reader
}

pub fn is_busy((status, answer): &(StatusCode, Value)) -> bool {
    let refused = *status == StatusCode::SERVICE_UNAVAILABLE;
    assert!(refused || *status == StatusCode::OK, "{status}: {answer}");
    assert!(!refused || answer["error"]["code"] == "store_busy", "{answer}");
    refused
}

async fn ask_to_lease(daemon: &Daemon) -> (StatusCode, Value) {
    daemon.post("/v1/leases", json!({"queues": ["q"]})).await
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
async fn behind_a_reader_creates_stop_first_and_the_log_stays_bounded() {
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

/// F9: however long it is held. What runs may still end when no attempt may begin any more.
#[tokio::test]
async fn behind_a_reader_that_stays_claims_stop_too_and_what_runs_goes_on() {
    let (mut daemon, reader, leases, created) = full_of_creates().await;
    let mut ended = 0;
    loop {
        let given = ask_to_lease(&daemon).await;
        if is_busy(&given) {
            break;
        }
        complete(&daemon, &given.1["jobs"][0]["lease"]).await;
        ended += 1;
        check_log(&daemon);
    }
    eprintln!("{ended} attempts began and ended after the last create");
    assert!((50..BACKLOG).contains(&ended), "{ended} attempts began and ended");

    for path in ["/v1/queues/q/cancel".to_owned(), format!("/v1/jobs/{}/cancel", created[0])] {
        assert!(is_busy(&daemon.post(&path, json!({})).await), "{path} is for later");
    }
    for lease in &leases[1..] {
        complete(&daemon, lease).await;
        check_log(&daemon);
    }
    let (status, renewed) = daemon.post("/v1/leases/renew", json!({"leases": leases[..1]})).await;
    assert_eq!((status, renewed), (StatusCode::OK, json!({"results": ["ok"]})));
    check_log(&daemon);
    check_identities(&daemon).await;
    assert_eq!(daemon.get("/-/healthy").await.0, StatusCode::OK);

    reader.execute_batch("COMMIT").unwrap();
    drop(reader);
    until_accepted(&daemon, &Value::Null).await;
    let more = lease(&daemon, 10).await;
    for lease in more.iter().chain(&leases[..1]) {
        complete(&daemon, lease).await;
    }
    check_identities(&daemon).await;
    check_stored(&mut daemon, &created);
}

/// F9: nor is it of any use that a reader goes when another has come, who reads from the end of the log.
#[tokio::test]
async fn readers_that_take_turns_do_not_let_the_log_grow() {
    let (mut daemon, first, _, created) = full_of_creates().await;
    let payload = Value::from("x".repeat(1_000_000));
    let second = hold(&daemon);
    first.execute_batch("COMMIT").unwrap();
    for _ in 0..3 {
        // All of it is copied after this, and yet it cannot begin anew.
        tick_of_the_sweeper(&daemon).await;
        for _ in 0..8 {
            let (status, _) = create(&daemon, &payload).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        }
        check_log(&daemon);
    }
    // One who comes now reads from the file alone: the log begins anew, and is held in its turn.
    let third = hold(&daemon);
    second.execute_batch("COMMIT").unwrap();
    until_accepted(&daemon, &payload).await;
    let (more, _, answer) = create_until_refused(&daemon, &payload, 200).await;
    assert!(more.len() > 30, "{} fitted into the log", more.len());
    assert_eq!(answer["error"]["code"], "store_busy");
    check_log(&daemon);
    third.execute_batch("COMMIT").unwrap();
    until_accepted(&daemon, &payload).await;
    check_stored(&mut daemon, &[created, more].concat());
}

/// F9: what a crash left in the log counts from the first request on.
#[tokio::test]
async fn a_start_behind_a_reader_knows_how_long_the_log_is() {
    let (mut daemon, reader, leases, created) = full_of_creates().await;
    let payload = Value::from("x".repeat(1_000_000));
    // A start that has to take up what runs writes to the log, and is told by that how long it is.
    // All at once, which leaves the log short enough for claims.
    let ends: Vec<_> =
        leases.iter().map(|lease| json!({"lease": lease, "outcome": "completed"})).collect();
    let (status, answer) = daemon.post("/v1/leases/finish", ends.into()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    for _ in 0..2 {
        daemon.kill();
        daemon.restart();
        let (status, _) = create(&daemon, &payload).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        check_log(&daemon);
    }
    let given = lease(&daemon, 1).await;
    complete(&daemon, &given[0]).await;
    reader.execute_batch("COMMIT").unwrap();
    drop(reader);
    until_accepted(&daemon, &payload).await;
    check_stored(&mut daemon, &created);
}

/// F9: what the daemon does by itself waits as well. Giving pages back to the file system moves others.
#[tokio::test]
async fn behind_a_reader_no_pages_are_given_back() {
    let mut daemon = Daemon::start("[queues.q]\nmax_completed = 0\n");
    let payload = Value::from("x".repeat(500_000));
    for _ in 0..240 {
        assert_eq!(create(&daemon, &payload).await.0, StatusCode::CREATED);
    }
    let reader = hold(&daemon);
    // Most of them go, and leave more room in the file than the log can fill.
    for _ in 0..11 {
        for lease in lease(&daemon, 20).await {
            complete(&daemon, &lease).await;
        }
    }
    while daemon.scrape().await.value(r#"tallyd_sweeper_jobs_total{action="pruned"}"#) < 220.0 {
        tick_of_the_sweeper(&daemon).await;
    }
    let (created, status, _) = create_until_refused(&daemon, &payload, 200).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let before = daemon.wal_bytes();
    for _ in 0..5 {
        tick_of_the_sweeper(&daemon).await;
    }
    assert_eq!(daemon.wal_bytes(), before, "nobody has asked for anything");
    drop(reader);
    until_accepted(&daemon, &payload).await;
    check_stored(&mut daemon, &created);
}
