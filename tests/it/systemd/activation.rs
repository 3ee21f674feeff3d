//! Sockets that were open before tallyd began: from the real `systemd-socket-activate`, and handed
//! from one daemon to the next.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use reqwest::StatusCode;
use serde_json::json;

use crate::fixture::{Daemon, PATIENCE};

/// Starts what follows as systemd would, with its standard input as the one socket handed over.
const HANDING: &str = "LISTEN_PID=$$ exec \"$@\" 3<&0 < /dev/null";

/// A daemon to which this descriptor is handed over under this name.
fn prepare(config: &str, descriptor: impl Into<OwnedFd>, name: &str) -> Daemon {
    let mut daemon = Daemon::prepare(config);
    daemon.hand_over(descriptor.into());
    daemon.set("LISTEN_FDS", "1");
    daemon.set("LISTEN_FDNAMES", name);
    daemon.wrap(&["sh", "-c", HANDING, "sh"]);
    daemon
}

/// A port that was free a moment ago.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it has an address").to_string()
}

/// Connects once somebody listens.
fn connect(address: &str) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
        }
    }
}

/// Asks for a path on a connection of its own; what is answered, with its head.
fn ask(mut stream: TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it is taken");
    stream.set_read_timeout(Some(PATIENCE)).expect("it can be patient");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it is answered");
    answer
}

#[tokio::test]
async fn the_real_activation_hands_over_both_sockets() {
    let (http, metrics) = (free_address(), free_address());
    let mut daemon = Daemon::prepare("metrics_listen = \"127.0.0.1:1\"");
    daemon.wrap(&[
        "systemd-socket-activate",
        "--listen",
        &http,
        "--listen",
        &metrics,
        "--fdname=http:metrics",
    ]);
    daemon.launch();
    // It starts tallyd when somebody has connected, who is answered then.
    let first = connect(&http);
    assert!(daemon.serves(), "{}", daemon.log());
    assert_eq!(daemon.url(""), format!("http://{http}"), "not the address of the flag");
    assert!(ask(first, "/-/ready").starts_with("HTTP/1.1 200 "));
    let scraped = ask(connect(&metrics), "/metrics");
    assert!(scraped.contains("\ntallyd_build_info{"), "{scraped}");
    assert!(ask(connect(&http), "/metrics").starts_with("HTTP/1.1 404 "), "only there");
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test]
async fn a_socket_without_a_name_serves_everything() {
    let address = free_address();
    let mut daemon = Daemon::prepare("");
    daemon.wrap(&["systemd-socket-activate", "--listen", &address]);
    daemon.launch();
    let first = connect(&address);
    assert!(daemon.serves(), "{}", daemon.log());
    assert!(ask(first, "/metrics").contains("\ntallyd_build_info{"));
    assert_eq!(daemon.stop().code(), Some(0));
}

#[tokio::test]
async fn no_connection_is_refused_across_restarts_with_one_socket() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut daemon = prepare("", listener, "http");
    daemon.restart();
    let ended = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let ended = ended.clone();
            std::thread::spawn(move || {
                let mut answered = 0_u32;
                while !ended.load(Ordering::Relaxed) {
                    let stream = TcpStream::connect(address).expect("it is never refused");
                    let answer = ask(stream, "/v1/stats");
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for _ in 0..3 {
        assert_eq!(daemon.stop().code(), Some(0));
        // Nobody serves, and yet it is accepted: the next daemon answers.
        let waiting = TcpStream::connect(address).expect("it waits in the socket");
        daemon.restart();
        let answer = tokio::task::spawn_blocking(move || ask(waiting, "/-/ready")).await;
        assert!(answer.expect("it is answered").starts_with("HTTP/1.1 200 "));
    }
    ended.store(true, Ordering::Relaxed);
    for caller in callers {
        assert!(caller.join().expect("nobody was refused") > 0);
    }
    assert_eq!(daemon.post("/v1/jobs", json!({"kind": "k"})).await.0, StatusCode::CREATED);
}

/// Commands of exec queues get neither the socket nor the variables.
#[tokio::test]
async fn commands_do_not_inherit_the_socket() {
    let script = "for number in 3 4 5 6 7 8 9; do readlink /proc/$$/fd/$number; done; env";
    let config = crate::running::queue("", script);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut daemon = prepare(&config, listener, "http");
    daemon.restart();
    let id = crate::running::create(&daemon).await;
    let done = daemon.job_when(&id, crate::running::in_state("completed")).await;
    let seen = done["result"].as_str().expect("what it printed");
    assert!(seen.contains("TALLYD_STORE="), "{seen}");
    assert!(!seen.contains("socket:") && !seen.contains("LISTEN_"), "{seen}");
}

/// Starts it with what it cannot serve on: exit code 2, one line, no store.
fn refuses(descriptor: impl Into<OwnedFd>, name: &str, said: &str) {
    let mut daemon = prepare("", descriptor, name);
    daemon.launch();
    assert!(!daemon.serves());
    let log = daemon.log();
    assert_eq!(daemon.wait().code(), Some(2), "{log}");
    assert_eq!(log, said);
    assert!(!daemon.path("tallyd.db").exists(), "nothing was touched");
}

#[test]
fn what_is_no_listening_tcp_socket_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let refused = "what was handed over as http is no listening TCP socket; set \
                   ListenStream=ADDRESS:PORT and Accept=no";
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let accepted = TcpStream::connect(listener.local_addr().unwrap()).expect("it connects");
    refuses(accepted, "http", refused);
    refuses(std::net::UdpSocket::bind("127.0.0.1:0").expect("a port"), "http", refused);
    refuses(UnixListener::bind(directory.path().join("s")).expect("a path"), "http", refused);
    refuses(std::fs::File::open("/dev/null").expect("it is there"), "http", refused);
}

#[test]
fn a_socket_of_an_unknown_name_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let said = "a socket named \"admin\" was handed over; set FileDescriptorName=http, or metrics";
    refuses(listener, "admin", said);
}

#[test]
fn variables_that_do_not_agree_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let said = "cannot take over the sockets that LISTEN_FDS names: invalid LISTEN_FDNAMES";
    refuses(listener, "http:metrics", said);
}

#[tokio::test]
async fn a_socket_beyond_loopback_needs_leave_as_an_address_does() {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let said = format!(
        "a socket on {address} was handed over, which is no loopback address: there are \
         no tokens to know callers by; `tallyd token new NAME` makes one; to let everybody in who can reach it, give --insecure or set \
         TALLYD_INSECURE=true"
    );
    refuses(listener.try_clone().expect("it can be shared"), "http", &said);
    // Users with passwords are callers that are known, as they are at an address.
    let mut daemon = prepare("", listener.try_clone().expect("it can be shared"), "http");
    let users = "basic_auth_users:\n  prometheus: $2y$04$1p1UEd6ORk4Hw0Ptz1GpOOmWFiL64aqwykS3d5.x/mGMnAeNju6yi\n";
    std::fs::write(daemon.path("web.yml"), users).expect("it can be written");
    daemon.set("TALLYD_WEB_CONFIG", "web.yml");
    daemon.restart();
    assert_eq!(daemon.stop().code(), Some(0));
    let mut daemon = prepare("insecure = true", listener, "http");
    daemon.restart();
    assert_eq!(daemon.stop().code(), Some(0));
}

/// The variables of another process, as a shell under systemd may have them.
#[tokio::test]
async fn sockets_of_another_process_are_left_alone() {
    let mut daemon = Daemon::prepare("");
    for (variable, value) in [("LISTEN_PID", "1"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "http")]
    {
        daemon.set(variable, value);
    }
    daemon.restart();
    assert_eq!(daemon.stop().code(), Some(0));
}
