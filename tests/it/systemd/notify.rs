//! What tallyd tells the supervisor that started it, heard on a real notify socket.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Instant;

use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::fixture::{Daemon, PATIENCE};
use crate::processes::Line;
use crate::running::{create, queue};
use crate::strace::trace;

/// Who listens to a daemon.
pub struct Supervisor(UnixDatagram);

impl Supervisor {
    /// Listens at a path.
    pub fn at(path: &Path) -> Self {
        Self::of(UnixDatagram::bind(path).expect("it can listen"))
    }

    fn of(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("it can be patient");
        Self(socket)
    }

    /// Has the next starts of a daemon report to this one.
    pub fn of_daemon(daemon: &mut Daemon) -> Self {
        let path = daemon.path("notify");
        daemon.set("NOTIFY_SOCKET", path.to_str().expect("a name"));
        Self::at(&path)
    }

    /// The lines of the next datagram.
    pub fn hear(&self) -> Vec<String> {
        let mut text = [0; 4096];
        let length = self.0.recv(&mut text).expect("it is told something");
        let text = str::from_utf8(&text[..length]).expect("it is text");
        assert!(text.ends_with('\n'), "{text:?}");
        text.lines().map(str::to_owned).collect()
    }

    /// What was told until now has been heard.
    fn hears_nothing_more(&self) {
        self.0.set_nonblocking(true).expect("it can be asked");
        let heard = self.0.recv(&mut [0; 4096]);
        assert_eq!(heard.expect_err("nothing").kind(), std::io::ErrorKind::WouldBlock);
    }

    /// What was told until now has been heard, or would have been, and readiness was not in it.
    pub fn is_not_told_of_readiness(&self) {
        self.0.set_nonblocking(true).expect("it can be asked");
        let mut text = [0; 4096];
        while let Ok(length) = self.0.recv(&mut text) {
            assert!(!text[..length].starts_with(b"READY=1"));
        }
        self.0.set_nonblocking(false).expect("it can be patient again");
    }

    /// The next datagram that has this line; those before it are not of interest.
    pub fn hear_until(&self, wanted: &str) -> Vec<String> {
        self.hear_until_one(|line| line == wanted)
    }

    fn hear_until_one(&self, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lines = self.hear();
            if lines.iter().any(|line| is_wanted(line)) {
                return lines;
            }
            assert!(Instant::now() < deadline, "it goes on to be told {lines:?}");
        }
    }
}

/// What one of the lines says.
pub fn value<'a>(lines: &'a [String], name: &str) -> &'a str {
    let found = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {lines:?}"))
}

const ALIVE: &str = "WATCHDOG=1";

/// A watchdog that is content with a sign of life in so many milliseconds.
fn set_watchdog(daemon: &mut Daemon, within_ms: u32) {
    daemon.set("WATCHDOG_USEC", &format!("{}", within_ms * 1_000));
}

#[tokio::test]
async fn readiness_is_told_when_requests_are_answered_and_not_before() {
    let mut daemon = Daemon::prepare("");
    let supervisor = Supervisor::of_daemon(&mut daemon);
    daemon.launch();
    assert_eq!(supervisor.hear(), ["STATUS=opening the store"]);
    let told = supervisor.hear();
    assert_eq!(told[0], "READY=1", "{told:?}");
    let address = value(&told, "STATUS").strip_prefix("serving on ").expect("it says where");
    let ready = crate::fixture::client().get(format!("http://{address}/-/ready")).send().await;
    assert_eq!(ready.expect("it answers").status(), StatusCode::OK);
}

#[tokio::test]
async fn readiness_is_not_told_by_a_start_that_fails() {
    let owner = Daemon::start("");
    let mut second = Daemon::prepare("");
    let supervisor = Supervisor::of_daemon(&mut second);
    std::fs::copy(owner.path("tallyd.db"), second.path("tallyd.db")).expect("a copy");
    std::fs::hard_link(owner.path("tallyd.db.lock"), second.path("tallyd.db.lock"))
        .expect("a link");
    second.launch();
    let failed = second.wait_for_log(|line| line["event"] == "failed");
    assert!(failed["error"].as_str().unwrap().contains("is in use by another tallyd"), "{failed}");
    assert_eq!(second.wait().code(), Some(1));
    assert_eq!(supervisor.hear(), ["STATUS=opening the store"]);
    supervisor.hears_nothing_more();
    assert_eq!(owner.post("/v1/jobs", json!({"kind": "k"})).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn the_end_is_told_with_the_time_that_it_may_take() {
    let work = queue("", "echo > said; read _ < go");
    let mut daemon = Daemon::prepare(&format!("drain_timeout = \"2h\"\n{work}"));
    let supervisor = Supervisor::of_daemon(&mut daemon);
    set_watchdog(&mut daemon, 400);
    let mut said = Line::new(daemon.directory.path(), "said");
    let go = Line::new(daemon.directory.path(), "go");
    daemon.restart();
    create(&daemon).await;
    said.hear().await;
    supervisor.hear_until_one(|line| line.ends_with("; 0 ready, 1 running, 0 dead"));
    daemon.signal(Signal::TERM);
    let told = supervisor.hear_until("STOPPING=1");
    assert_eq!(value(&told, "STATUS"), "draining; running attempts: 1");
    let within_us: u64 = value(&told, "EXTEND_TIMEOUT_USEC").parse().expect("microseconds");
    assert!(within_us > 2 * 3_600 * 1_000_000, "longer than attempts may take: {within_us}");
    let told = supervisor.hear_until(ALIVE);
    assert!(value(&told, "STATUS").starts_with("draining on "), "alive while it drains: {told:?}");
    go.say(1);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[tokio::test]
async fn signs_of_life_come_one_after_the_other_and_say_how_it_is() {
    let mut daemon = Daemon::prepare("");
    let supervisor = Supervisor::of_daemon(&mut daemon);
    set_watchdog(&mut daemon, 400);
    daemon.restart();
    for _ in 0..3 {
        let told = supervisor.hear_until(ALIVE);
        assert!(value(&told, "STATUS").ends_with("; 0 ready, 0 running, 0 dead"), "{told:?}");
    }
    let jobs = json!(vec![json!({"kind": "k"}); 3]);
    assert_eq!(daemon.post("/v1/jobs/batch", jobs).await.0, StatusCode::CREATED);
    let lease = json!({"queues": ["default"], "max": 2});
    let leased = daemon.post("/v1/leases", lease).await.1;
    let fail = |number: usize| {
        let lease = &leased["jobs"][number]["lease"];
        json!([{"lease": lease, "outcome": "failed", "permanent": true}])
    };
    daemon.post("/v1/leases/finish", fail(0)).await;
    let address = daemon.url("").replace("http://", "");
    supervisor.hear_until(&format!("STATUS=serving on {address}; 1 ready, 1 running, 1 dead"));
    supervisor.hear_until(ALIVE);
}

/// The writer's first sync takes three seconds, and half a second is what it has for an answer.
#[tokio::test]
async fn no_sign_of_life_is_given_while_the_writer_hangs() {
    let mut daemon = Daemon::start("");
    assert_eq!(daemon.stop().code(), Some(0), "a start makes no new file any more");
    let supervisor = Supervisor::of_daemon(&mut daemon);
    set_watchdog(&mut daemon, 1_000);
    let hang = "inject=fdatasync,fsync:delay_enter=3000000:when=1".to_owned();
    trace(&mut daemon, "trace=fdatasync,fsync", &[hang], None);
    daemon.restart();
    supervisor.hear_until(ALIVE);
    let create = daemon.post("/v1/jobs", json!({"kind": "k"}));
    let hear = tokio::task::spawn_blocking(move || {
        supervisor.hear_until("STATUS=the store's writer does not answer");
        let next = supervisor.hear();
        (supervisor, next)
    });
    let ((status, job), heard) = tokio::join!(create, hear);
    assert_eq!(status, StatusCode::CREATED, "{job}");
    let (supervisor, next) = heard.expect("it heard");
    assert_eq!(next[0], ALIVE, "{next:?}");
    assert!(value(&next, "STATUS").ends_with("; 1 ready, 0 running, 0 dead"), "after it: {next:?}");
    let silent = daemon.wait_for_log(|line| line["event"] == "writer_silent");
    assert_eq!(silent["within_ms"], 500);
    daemon.wait_for_log(|line| line["event"] == "writer_answers");
    supervisor.hear_until(ALIVE);
    assert_eq!(daemon.scrape().await.value("tallyd_store_errors_total"), 1.0);
}

#[tokio::test]
async fn a_notify_socket_that_is_gone_is_warned_of_once_and_serving_goes_on() {
    let mut daemon = Daemon::prepare("");
    drop(Supervisor::of_daemon(&mut daemon));
    set_watchdog(&mut daemon, 100);
    daemon.restart();
    let is_lost = |line: &Value| line["event"] == "notify_failed";
    assert_eq!(daemon.post("/v1/jobs", json!({"kind": "k"})).await.0, StatusCode::CREATED);
    // Made anew under the same name, it is told again.
    std::fs::remove_file(daemon.path("notify")).expect("it was there");
    let supervisor = Supervisor::at(&daemon.path("notify"));
    supervisor.hear_until(ALIVE);
    daemon.wait_for_log(|line| line["event"] == "notify_works");
    let log = daemon.log();
    let lines = log.lines().map(|line| serde_json::from_str(line).unwrap_or_default());
    assert_eq!(lines.filter(is_lost).count(), 1, "{log}");
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test]
async fn a_supervisor_that_reads_nothing_holds_nothing_up() {
    let mut daemon = Daemon::prepare("");
    let supervisor = Supervisor::of_daemon(&mut daemon);
    set_watchdog(&mut daemon, 20);
    daemon.restart();
    let lost = daemon.wait_for_log(|line| line["event"] == "notify_failed");
    assert!(lost["error"].as_str().unwrap().contains("temporarily unavailable"), "{lost}");
    assert_eq!(daemon.post("/v1/jobs", json!({"kind": "k"})).await.0, StatusCode::CREATED);
    supervisor.hear_until_one(|line| line.ends_with("; 1 ready, 0 running, 0 dead"));
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test]
async fn an_abstract_name_is_told_as_well() {
    let mut daemon = Daemon::prepare("");
    let name = format!("tallyd-test-{}", daemon.directory.path().display());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let supervisor = Supervisor::of(UnixDatagram::bind_addr(&address).expect("it can listen"));
    daemon.set("NOTIFY_SOCKET", &format!("@{name}"));
    daemon.restart();
    supervisor.hear_until("READY=1");
    assert_eq!(daemon.stop().code(), Some(0));
    supervisor.hear_until("STOPPING=1");
}

#[tokio::test]
async fn an_address_of_another_sort_is_warned_of_and_serving_goes_on() {
    let mut daemon = Daemon::prepare("");
    daemon.set("NOTIFY_SOCKET", "vsock:2:1234");
    daemon.launch();
    let lost = daemon.wait_for_log(|line| line["event"] == "notify_failed");
    assert_eq!(lost["error"], "must be a path, or @ and a name");
    assert!(daemon.serves());
}
