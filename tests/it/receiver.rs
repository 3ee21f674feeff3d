//! A receiver of pushes that answers as a test tells it to, or does worse.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::processes::NEVER;

/// What a receiver was sent.
#[derive(Debug)]
pub struct Pushed {
    /// Which of its connections it came by, from 0.
    pub connection: usize,
    /// Method and path.
    pub line: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

/// What a receiver does about it.
#[derive(Debug, Clone)]
pub enum Reaction {
    /// Sends these bytes and goes on.
    Say(String),
    /// Says nothing, and waits for the end of the connection.
    Hang,
    /// Sends these bytes and closes the connection.
    Cut(String),
    /// Resets the connection.
    Reset,
    /// Says this, then bytes without end.
    Flood(String),
}

/// An answer with this status line, header lines and body.
pub fn answer(status: &str, headers: &str, body: &str) -> Reaction {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\n\r\n{body}");
    Reaction::Say(text)
}

pub struct Receiver {
    pub url: String,
    pushed: mpsc::UnboundedReceiver<Pushed>,
    hung_up: mpsc::UnboundedReceiver<()>,
}

#[derive(Clone)]
struct Told {
    pushed: mpsc::UnboundedSender<Pushed>,
    hung_up: mpsc::UnboundedSender<()>,
}

impl Receiver {
    /// Reacts to the request so numbered, from 0; for ever to the last.
    pub async fn start(reactions: &[Reaction]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jobs?a=b", listener.local_addr().unwrap());
        let (told, pushed) = mpsc::unbounded_channel();
        let (gone, hung_up) = mpsc::unbounded_channel();
        let told = Told { pushed: told, hung_up: gone };
        let (reactions, next) = (Arc::new(reactions.to_vec()), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (told, reactions, next) = (told.clone(), reactions.clone(), next.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Some(pushed) = read(&mut stream, connection).await {
                        drop(told.pushed.send(pushed));
                        let number = next.fetch_add(1, Ordering::SeqCst).min(reactions.len() - 1);
                        if !react(&mut stream, &reactions[number], &told).await {
                            return;
                        }
                    }
                });
            }
        });
        Self { url, pushed, hung_up }
    }

    /// The next request.
    pub async fn pushed(&mut self) -> Pushed {
        let pushed = tokio::time::timeout(NEVER, self.pushed.recv()).await;
        pushed.expect("a push comes").expect("the receiver listens")
    }

    /// Resolves when a connection that was left hanging is closed by its other end.
    pub async fn hung_up(&mut self) {
        let gone = tokio::time::timeout(NEVER, self.hung_up.recv()).await;
        gone.expect("the connection ends").expect("the receiver listens");
    }

    /// Whether it was asked for more than was looked at.
    pub fn has_more(&mut self) -> bool {
        self.pushed.try_recv().is_ok()
    }
}

/// One request; none at the end of the connection.
pub async fn read(stream: &mut BufReader<TcpStream>, connection: usize) -> Option<Pushed> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Pushed { connection, line: line.trim_end().to_owned(), headers, body })
}

/// Whether the connection goes on.
async fn react(stream: &mut BufReader<TcpStream>, reaction: &Reaction, told: &Told) -> bool {
    match reaction {
        Reaction::Say(text) => stream.write_all(text.as_bytes()).await.is_ok(),
        Reaction::Cut(text) => {
            stream.write_all(text.as_bytes()).await.unwrap();
            false
        }
        Reaction::Hang => {
            let mut rest = Vec::new();
            // However it ends, it ends.
            drop(stream.read_to_end(&mut rest).await);
            told.hung_up.send(()).is_err()
        }
        Reaction::Reset => {
            stream.get_ref().set_zero_linger().unwrap();
            false
        }
        Reaction::Flood(text) => {
            let mut sent = stream.write_all(text.as_bytes()).await;
            while sent.is_ok() {
                sent = stream.write_all(&[b'x'; 4_096]).await;
            }
            told.hung_up.send(()).is_err()
        }
    }
}
