//! Stands between a client and a daemon, and loses an answer when a test says so.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::fixture::Daemon;

#[derive(Clone)]
pub struct Between {
    address: SocketAddr,
    daemon: Arc<Mutex<Option<SocketAddr>>>,
    loses_next: Arc<AtomicBool>,
}

impl Between {
    pub async fn start(daemon: &Daemon) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let between = Self {
            address: listener.local_addr().unwrap(),
            daemon: Arc::new(Mutex::new(Some(address_of(daemon)))),
            loses_next: Arc::default(),
        };
        let serving = between.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serving.clone().connect(client));
            }
        });
        between
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Goes on with a daemon that was started again.
    pub fn now_to(&self, daemon: &Daemon) {
        *self.daemon.lock().unwrap() = Some(address_of(daemon));
    }

    /// Until it goes on with a daemon, no client gets an answer.
    pub fn now_to_nobody(&self) {
        *self.daemon.lock().unwrap() = None;
    }

    /// The next answer does not reach its client, whose connection ends.
    pub fn lose_next_answer(&self) {
        self.loses_next.store(true, Ordering::SeqCst);
    }

    /// Whether the answer that was to be lost has come, and is.
    pub fn has_lost(&self) -> bool {
        !self.loses_next.load(Ordering::SeqCst)
    }

    /// Passes bytes on until one side ends; without a daemon, the client's connection just ends.
    async fn connect(self, client: TcpStream) {
        let Some(address) = *self.daemon.lock().unwrap() else { return };
        let Ok(daemon) = TcpStream::connect(address).await else { return };
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_daemon, mut to_daemon) = daemon.into_split();
        let requests = async { drop(tokio::io::copy(&mut from_client, &mut to_daemon).await) };
        let answers = async {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(count @ 1..) = from_daemon.read(&mut bytes).await {
                let is_lost = self.loses_next.swap(false, Ordering::SeqCst);
                let is_cut = self.daemon.lock().unwrap().is_none();
                if is_lost || is_cut || to_client.write_all(&bytes[..count]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! { () = requests => {}, () = answers => {} }
    }
}

fn address_of(daemon: &Daemon) -> SocketAddr {
    daemon.url("").trim_start_matches("http://").parse().unwrap()
}
