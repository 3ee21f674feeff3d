//! Slow clients one by one: who stalls is cut when its own time is over, and nobody else with it.

use std::convert::Infallible;
use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use crate::fixture::{Daemon, PATIENCE};

/// How many queues and jobs there are, so that answers are large.
const QUEUES: usize = 400;
const JOBS: usize = 500;

/// So many of any of the large answers are more than the buffers of two sockets take.
const ANSWERS: usize = 20;

/// What the log calls a connection that was cut.
const BROKEN: &str = "connection_broken";

/// Why it cut one on which no request came.
const IDLE_TOO_LONG: &str = "read header from client timeout";

/// A connection that has sent this.
async fn connect(daemon: &Daemon, begin: &str) -> TcpStream {
    let address = daemon.url("").trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(begin.as_bytes()).await.expect("it is taken");
    stream
}

/// One that asks many times for the same, and reads nothing.
async fn connect_unread(daemon: &Daemon, path: &str) -> TcpStream {
    let one = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let last = one.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    connect(daemon, &(one.repeat(ANSWERS - 1) + &last)).await
}

/// What comes until the connection ends, by a reset or in order.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    drop(read.expect("the connection ends"));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What comes to one who sends this, and then a byte now and then for ever.
async fn drip(daemon: &Daemon, begin: &str) -> String {
    let (mut reader, mut writer) = connect(daemon, begin).await.into_split();
    let mut drops = async || -> Infallible {
        let mut times = interval(Duration::from_millis(500));
        loop {
            times.tick().await;
            // The reader tells when it is closed.
            drop(writer.write_all(b"x").await);
        }
    };
    tokio::select! {
        came = rest(&mut reader) => came,
        never = drops() => match never {},
    }
}

/// A limit is for all of a head or body, not for a piece of it.
#[tokio::test]
async fn who_sends_a_byte_now_and_then_has_no_more_time() {
    let daemon = Daemon::start("");
    let (head, body) = tokio::join!(
        drip(&daemon, "GET /-/healthy HTTP/1.1\r\nhost: localhost\r\nx-long: "),
        drip(
            &daemon,
            "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: 1000\r\n\r\n\"",
        ),
    );
    assert_eq!(head, "", "its head has no end");
    assert!(body.starts_with("HTTP/1.1 408 ") && body.contains("body_timeout"), "{body}");
    let scrape = daemon.scrape().await;
    assert_eq!(scrape.value("tallyd_rejected_total{reason=\"timeout\"}"), 2.0);
}

/// Readings of the counts keep others from theirs while they are held, so they have 10 s where a list
/// has 60; a head has 10 s, a body 30, and a connection without a request 60.
#[tokio::test]
async fn each_slow_client_is_cut_in_its_own_time_and_readers_of_counts_before_others() {
    let mut config = String::new();
    for queue in 0..QUEUES {
        writeln!(config, "[queues.queue-of-jobs-{queue:04}]\nkinds = [\"k\"]").expect("memory");
    }
    let mut daemon = Daemon::start(&config);
    let jobs = json!(vec![json!({"kind": "k", "queue": "queue-of-jobs-0000"}); JOBS]);
    assert_eq!(daemon.post("/v1/jobs/batch", jobs).await.0, 201);

    let mut list = connect_unread(&daemon, &format!("/v1/jobs?limit={JOBS}")).await;
    let healthy = "GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut idle = connect(&daemon, healthy).await;
    // These two do nothing until they are cut.
    let mut unread = connect_unread(&daemon, &format!("/v1/jobs?limit={JOBS}")).await;
    let mut unused = connect(&daemon, healthy).await;
    let mut body = connect(
        &daemon,
        "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: 20\r\n\r\n{",
    )
    .await;
    let mut head = connect(&daemon, "GET / HTTP/1.1\r\nhost: loc").await;
    let mut readings =
        [connect_unread(&daemon, "/metrics").await, connect_unread(&daemon, "/v1/stats").await];

    for _ in 0..=readings.len() {
        daemon.wait_for_log(|line: &Value| line["event"] == BROKEN);
    }
    assert_eq!(rest(&mut head).await, "", "its head has no end");
    for reading in &mut readings {
        let came = rest(reading).await;
        let answers = came.matches("HTTP/1.1 200 OK\r\n").count();
        assert!((1..ANSWERS).contains(&answers), "{answers} answers were taken");
    }
    let came = rest(&mut list).await;
    assert_eq!(came.matches("\"next_cursor\":").count(), ANSWERS, "{} bytes", came.len());
    idle.write_all(healthy.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n").as_bytes())
        .await
        .expect("it is open");
    assert_eq!(rest(&mut idle).await.matches("healthy\n").count(), 2);

    assert!(body.try_read(&mut [0]).is_err(), "its body has longer");
    let last = rest(&mut body).await;
    assert!(last.starts_with("HTTP/1.1 408 ") && last.contains("connection: close"), "{last}");
    assert_eq!(daemon.log().matches(BROKEN).count(), 1 + readings.len(), "{}", daemon.log());
    // Connections that are not used are cut as well meanwhile, the client's own among them.
    daemon.wait_for_log(|line| line["event"] == BROKEN && line["error"] != IDLE_TOO_LONG);
    let came = rest(&mut unread).await;
    let answers = came.matches("HTTP/1.1 200 OK\r\n").count();
    assert!((1..ANSWERS).contains(&answers), "{answers} answers were taken");
    assert_eq!(rest(&mut unused).await.matches("healthy\n").count(), 1);
    let scrape = daemon.scrape().await;
    assert_eq!(scrape.value("tallyd_rejected_total{reason=\"timeout\"}"), 2.0, "head and body");
}
