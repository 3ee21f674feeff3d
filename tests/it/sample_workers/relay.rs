//! A relay between a worker and the daemon: an address that stays while the daemon's changes, and
//! a network that loses answers.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

pub(super) struct Relay {
    pub(super) url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Host and port of the daemon; empty if there is none.
    target: String,
    /// The path of the request whose answer is lost next.
    loses: Option<String>,
    /// The paths of all requests.
    asked: Vec<String>,
}

impl Relay {
    pub(super) async fn start(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = format!("http://{}", listener.local_addr().unwrap());
        let relay = Self { url: own, state: Arc::default() };
        relay.target(url);
        let state = relay.state.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(relay_one(stream, state.clone()));
            }
        });
        relay
    }

    /// Connects to this URL from now on; to nothing if it is empty.
    pub(super) fn target(&self, url: &str) {
        self.state.lock().unwrap().target = url.trim_start_matches("http://").to_owned();
    }

    /// Lets one request with this path through, and cuts the connection when its answer comes.
    pub(super) fn lose_an_answer_of(&self, path: &str) {
        self.state.lock().unwrap().loses = Some(path.to_owned());
    }

    /// How often this path was asked for.
    pub(super) fn asked_for(&self, path: &str) -> usize {
        self.state.lock().unwrap().asked.iter().filter(|asked| *asked == path).count()
    }
}

/// One connection, which must be of one request. Whatever breaks, it is over.
async fn relay_one(mut worker: TcpStream, state: Arc<Mutex<State>>) {
    let mut first = vec![0; 4_096];
    let Ok(length) = worker.read(&mut first).await else { return };
    let line = String::from_utf8_lossy(&first[..length]).into_owned();
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (target, is_lost) = {
        let mut state = state.lock().unwrap();
        let is_lost = state.loses.take_if(|lost| *lost == path).is_some();
        state.asked.push(path);
        (state.target.clone(), is_lost)
    };
    let Ok(mut daemon) = TcpStream::connect(target).await else { return };
    if daemon.write_all(&first[..length]).await.is_err() {
        return;
    }
    if is_lost {
        let (mut from_daemon, mut to_daemon) = daemon.split();
        tokio::select! {
            read = from_daemon.read_u8() => drop(read),
            copied = tokio::io::copy(&mut worker, &mut to_daemon) => drop(copied),
        }
    } else {
        drop(copy_bidirectional(&mut worker, &mut daemon).await);
    }
}
