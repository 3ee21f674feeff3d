//! Thousands of connections: as many as are allowed are served, and slow ones keep nobody from it.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::StatusCode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::fixture::{Daemon, PATIENCE, Scrape};

/// How many connections the daemon serves at once.
const MOST: usize = 10_000;

/// How many clients are slow.
const SLOW: usize = 5_000;

/// Readings of the counts that may be held at once.
pub const READERS: usize = 40;

/// How many readers come every tenth of a second, and how many of the last are there still.
const COMING: usize = 10;
const STAYING: usize = 1_000;

/// How many scrapes must each be answered meanwhile.
const SCRAPES: u32 = 3;

/// Begins a request, and a body, and does not end them.
pub const HEAD: &str = "GET / HTTP/1.1\r\nhost: loc";
pub const BODY: &str = "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                        content-length: 20\r\n\r\n{";

/// Asks for the counts, as who then does not read them.
pub const READING: &str = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// How the answer begins.
pub const ANSWERED: &[u8; 15] = b"HTTP/1.1 200 OK";

/// How many more scrapers than there are places read slowly.
const WAITING: usize = 20;

/// The most memory that a crowd may cost, twice what it took in a debug build.
const MOST_BYTES: f64 = 512e6;

/// Lets this process have as many descriptors as it may.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    setrlimit(Resource::Nofile, raised).expect("a process may use what it is allowed");
    let least = MOST as u64 + 500;
    assert!(
        limit.maximum.is_none_or(|most| most > least),
        "this needs {least} open files: {limit:?}"
    );
}

/// Connects with a small window, so that little is taken unasked.
pub async fn connect(daemon: &Daemon) -> TcpStream {
    let url = daemon.url("");
    let (_, address) = url.split_once("://").expect("a URL");
    let socket = TcpSocket::new_v4().expect("a descriptor is left");
    socket.set_recv_buffer_size(4 << 10).expect("it may be small");
    socket.connect(address.parse().expect("an address")).await.expect("it listens")
}

async fn connections(daemon: &Daemon, begin: &str, number: usize) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(number);
    for _ in 0..number {
        let mut stream = connect(daemon).await;
        stream.write_all(begin.as_bytes()).await.expect("it is taken");
        streams.push(stream);
    }
    streams
}

/// A daemon whose exposition is larger than what the buffers of two sockets take: who does not read
/// it holds a place.
fn with_many_series() -> Daemon {
    Daemon::start(&many_series())
}

/// The configuration of one.
pub fn many_series() -> String {
    let kinds: Vec<String> = (0..490).map(|kind| format!("\"kind-of-job-{kind:04}\"")).collect();
    format!("[queues.default]\nkinds = [{}]\n", kinds.join(", "))
}

/// Waits until each of these has the beginning of the counts, and so a place.
pub async fn until_read(readers: &mut [impl AsyncRead + Unpin]) {
    for reader in readers {
        let mut begin = [0; ANSWERED.len()];
        let read = timeout(PATIENCE, reader.read_exact(&mut begin)).await;
        read.expect("it answers").expect("it is open");
        assert_eq!(&begin, ANSWERED, "{}", String::from_utf8_lossy(&begin));
    }
}

/// How many of those who had but the beginning of their answer do not get the rest of it.
pub async fn count_cut(readers: impl IntoIterator<Item = impl AsyncRead + Unpin>) -> usize {
    let mut cut = 0;
    for mut reader in readers {
        let mut rest = Vec::new();
        // A connection that was cut may end by a reset.
        drop(timeout(PATIENCE, reader.read_to_end(&mut rest)).await.expect("it ends"));
        let text = String::from_utf8_lossy(&rest);
        let (head, body) = text.split_once("\r\n\r\n").expect("the head came first");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
        assert!(body.len() <= length, "{} bytes of {length}", body.len());
        cut += usize::from(body.len() < length);
    }
    cut
}

/// The exposition: each scrape is answered with it.
async fn scraped(daemon: &Daemon) -> Scrape {
    let answer = daemon.client.get(daemon.url("/metrics")).timeout(PATIENCE).send().await;
    let answer = answer.expect("it answers");
    let status = answer.status();
    let text = answer.text().await.expect("it is whole");
    assert_eq!(status, StatusCode::OK, "{text}");
    Scrape::parse(&text)
}

/// Slow readers that keep coming back: many more than may read at once, and none ever reads.
async fn keep_coming(daemon: &Daemon) {
    let mut staying = VecDeque::new();
    let mut times = tokio::time::interval(Duration::from_millis(100));
    loop {
        times.tick().await;
        staying.extend(connections(daemon, READING, COMING).await);
        while staying.len() > STAYING {
            staying.pop_front();
        }
    }
}

/// A head that does not end, a body that does not come, an answer that is not taken.
#[tokio::test]
async fn five_thousand_slow_clients_keep_nobody_from_health_and_metrics_and_are_cut() {
    allow_descriptors();
    let daemon = with_many_series();
    let each = (SLOW - READERS) / 2;
    let heads = connections(&daemon, HEAD, each).await;
    let bodies = connections(&daemon, BODY, each).await;
    let mut readers = connections(&daemon, READING, READERS).await;
    assert_eq!(heads.len() + bodies.len() + readers.len(), SLOW);
    until_read(&mut readers).await;

    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(daemon.get(path).await.0, StatusCode::OK, "{path}");
    }
    let created = daemon.post("/v1/jobs", serde_json::json!({"kind": "k"})).await;
    assert_eq!(created.0, StatusCode::CREATED, "{}", created.1);
    let scrapes = async {
        for _ in 0..SCRAPES {
            let memory = scraped(&daemon).await.value("process_resident_memory_bytes");
            assert!(memory < MOST_BYTES, "{memory} bytes");
        }
    };
    tokio::select! {
        () = scrapes => (),
        () = keep_coming(&daemon) => (),
    }

    until_few(async || Some(scraped(&daemon).await)).await;
    assert_eq!(count_cut(readers).await, READERS, "each held its place until it was cut");
    for mut body in bodies {
        let mut last = String::new();
        body.read_to_string(&mut last).await.expect("it was answered, and closed");
        let is_told = last.starts_with("HTTP/1.1 408 ") && last.contains("connection: close\r\n");
        assert!(is_told, "{last}");
    }
    for mut head in heads {
        assert_eq!(head.read(&mut [0]).await.expect("it was closed in order"), 0);
    }
}

/// All have the beginning of their answers at once, and none has taken more: those who waited have
/// the places of others, who are cut off. `other` is another reading of the counts.
async fn wait_for_places(daemon: &Daemon, path: &str, other: &str) {
    let reading = READING.replace("/metrics", path);
    let mut readers = connections(daemon, &reading, READERS + WAITING).await;
    until_read(&mut readers).await;
    for path in [other, path] {
        let answer = daemon.client.get(daemon.url(path)).timeout(PATIENCE).send().await;
        assert_eq!(answer.expect("it answers").status(), StatusCode::OK, "{path}");
    }
    let scrape = scraped(daemon).await;
    let cut = count_cut(readers).await;
    assert!(cut > WAITING, "only {cut} of {} were cut", READERS + WAITING);
    let of_path = format!(r#"{{code="200",method="GET",route="{path}"}}"#);
    let answered = scrape.value(&format!("tallyd_http_requests_total{of_path}"));
    assert_eq!(answered, (READERS + WAITING + 1) as f64, "nobody was refused");
}

#[tokio::test]
async fn scrapers_wait_for_a_place_and_get_that_of_one_who_reads_slowly() {
    wait_for_places(&with_many_series(), "/metrics", "/v1/stats").await;
}

#[tokio::test]
async fn readers_of_statistics_wait_for_a_place_as_scrapers_do() {
    let queues: String = (0..1_000).map(|queue| format!("[queues.queue-{queue:04}]\n")).collect();
    let daemon = Daemon::start(&format!("max_queues = 1_001\n{queues}"));
    wait_for_places(&daemon, "/v1/stats", "/metrics").await;
}

#[tokio::test]
async fn ten_thousand_connections_are_served_and_one_more_is_told_so() {
    allow_descriptors();
    let daemon = Daemon::start("");
    let request = "GET /-/healthy HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut open = connections(&daemon, request, MOST).await;
    for stream in &mut open {
        let mut begin = [0; 15];
        let read = timeout(PATIENCE, stream.read_exact(&mut begin)).await;
        read.expect("it answers").expect("it is open");
        assert_eq!(&begin, b"HTTP/1.1 200 OK");
    }
    let mut refused = String::new();
    let mut one_more = connect(&daemon).await;
    let read = timeout(PATIENCE, one_more.read_to_string(&mut refused)).await;
    read.expect("it answers").expect("it is text");
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("too_many_connections"),
        "{refused}"
    );
    drop(open);
    until_few(async || {
        // A connection of its own, since there may still be no place for it.
        let request = crate::fixture::client().get(daemon.url("/metrics")).timeout(PATIENCE);
        let answer =
            request.send().await.ok().filter(|answer| answer.status() == StatusCode::OK)?;
        Some(Scrape::parse(&answer.text().await.ok()?))
    })
    .await;
}

/// Waits until hardly any connection is open, as scrapes tell that are answered.
pub async fn until_few(scrape: impl AsyncFn() -> Option<Scrape>) {
    let deadline = tokio::time::Instant::now() + 2 * PATIENCE;
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    loop {
        looks.tick().await;
        let open = scrape().await.map(|scrape| scrape.value("tallyd_http_connections"));
        if open.is_some_and(|open| open < 10.0) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{open:?} are open still");
    }
}

/// Each listener has as many connections as the other, and all of them take descriptors.
#[tokio::test]
async fn the_start_warns_of_too_few_open_files_for_the_connections_of_both_listeners() {
    let metrics = "metrics_listen = \"127.0.0.1:0\"\n";
    for (config, allowed, enough) in
        [("", 12_000, None), ("", 11_999, Some(12_000)), (metrics, 12_000, Some(22_000))]
    {
        let mut daemon = Daemon::prepare(config);
        daemon.wrap(&["prlimit", &format!("--nofile=1024:{allowed}"), "--"]);
        daemon.restart();
        let log = daemon.log();
        let told = log.lines().find(|line| line.contains("few_open_files"));
        let wanted = enough.map(|enough| format!("full use takes {enough} open files"));
        let is_right = match (told, &wanted) {
            (Some(told), Some(wanted)) => told.contains(wanted),
            (told, wanted) => told.is_none() && wanted.is_none(),
        };
        assert!(is_right, "{wanted:?}, of {allowed}: {log}");
    }
}
