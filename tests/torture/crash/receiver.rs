//! A receiver of pushes that outlives the daemon, and tells the judge what it was sent.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::fixture::PATIENCE;
use crate::oracle::Run;
use crate::receiver::{Pushed, read};

/// What the test asks itself, to be served after all who came before.
const MARKER: &str = "GET / HTTP/1.1\r\n\r\n";

pub struct Receiver {
    pub url: String,
    address: std::net::SocketAddr,
    runs: Arc<Mutex<Vec<Run>>>,
    /// How many connections are open.
    open: watch::Receiver<usize>,
}

impl Receiver {
    /// Does at once what each payload says.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let runs = Arc::new(Mutex::new(Vec::new()));
        let (number, open) = watch::channel(0);
        let served = runs.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                number.send_modify(|open| *open += 1);
                let (number, runs) = (number.clone(), served.clone());
                tokio::spawn(async move {
                    serve(BufReader::new(stream), &runs).await;
                    number.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { url: format!("http://{address}/"), address, runs, open }
    }

    /// Notes a kill of the daemon, after all that it had sent.
    pub async fn note_kill(&self) {
        // Connections are accepted in their order, so all others were before this one.
        let mut marker = TcpStream::connect(self.address).await.unwrap();
        marker.write_all(MARKER.as_bytes()).await.unwrap();
        assert!(marker.read_u8().await.is_ok());
        drop(marker);
        let mut open = self.open.clone();
        let none = tokio::time::timeout(PATIENCE, open.wait_for(|open| *open == 0)).await;
        none.expect("a dead daemon keeps no connection").unwrap();
        self.runs.lock().unwrap().push(Run::Killed);
    }

    pub fn runs(&self) -> Vec<Run> {
        std::mem::take(&mut self.runs.lock().unwrap())
    }
}

/// Answers until the other end has gone.
async fn serve(mut stream: BufReader<TcpStream>, runs: &Mutex<Vec<Run>>) {
    while let Some(pushed) = read(&mut stream, 0).await {
        let status = if pushed.line.starts_with("POST") { run(&pushed, runs) } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Runs an attempt; answers with its end.
fn run(pushed: &Pushed, runs: &Mutex<Vec<Run>>) -> &'static str {
    let (id, attempt) =
        (pushed.headers["tallyd-job-id"].clone(), &pushed.headers["tallyd-attempt"]);
    let attempt = attempt.parse().expect("an attempt is a number");
    let worked = !String::from_utf8_lossy(&pushed.body).contains("fail");
    let started = Run::Started { id: id.clone(), attempt };
    runs.lock().unwrap().extend([started, Run::Ended { id, attempt, worked }]);
    if worked { "200 OK" } else { "500 Internal Server Error" }
}
