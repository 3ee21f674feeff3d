//! Mutated requests over many connections at once, and what must hold whatever they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answers::{self, Answer};
use super::mutations::Mutator;
use super::reader::most_answers;
use crate::fixture::PATIENCE;

/// How many connections there are at once.
const CONNECTIONS: u32 = 64;

/// How long nothing may come before the client says that it has no more to send. What is under way
/// then is lost, as if its caller had hung up.
const QUIET: Duration = Duration::from_millis(250);

/// Whom the requests are for.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    /// What the requests are made of.
    pub bases: Arc<[Vec<u8>]>,
    /// The token without which nobody but a probe gets anything.
    pub token: Option<Arc<str>>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Told {
    /// How many mutated requests the daemon has read, at least in part.
    pub requests: u64,
    /// How many jobs were created.
    pub created: u64,
    /// How often the client had to say that it has no more to send.
    pub hung: u64,
    /// How many of each answer.
    pub answers: BTreeMap<String, u64>,
    /// What was wrong.
    pub complaints: Vec<String>,
}

impl Told {
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.created += other.created;
        self.hung += other.hung;
        self.complaints.extend(other.complaints);
        for (answer, count) in other.answers {
            *self.answers.entry(answer).or_default() += count;
        }
    }
}

/// Sends so many over all connections.
pub async fn storm(target: &Target, requests: u32, seed: u64) -> Told {
    let mut storms = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let mutator = Mutator::new(target.bases.clone(), seed ^ u64::from(connection) << 32);
        let requests = u64::from(requests.div_ceil(CONNECTIONS));
        let client = Client { target: target.clone(), mutator, told: Told::default(), marks: 0 };
        storms.spawn(client.send(requests));
    }
    let mut told = Told::default();
    for other in storms.join_all().await {
        told.add(other);
    }
    told
}

struct Client {
    target: Target,
    mutator: Mutator,
    told: Told,
    /// How many requests it has marked.
    marks: u64,
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The request behind all others was answered: the connection is as new.
    Answered,
    /// The connection was closed.
    Closed,
    /// The daemon waited for more, so the client closed.
    Hung,
}

impl Client {
    async fn send(mut self, requests: u64) -> Told {
        while self.told.requests < requests && self.told.complaints.len() < 3 {
            let mut stream = TcpStream::connect(self.target.address).await.expect("it listens");
            while self.exchange(&mut stream).await == End::Answered {}
        }
        self.told
    }

    /// Sends some requests, and one behind them whose answer cannot be mistaken.
    async fn exchange(&mut self, stream: &mut TcpStream) -> End {
        let mutated: Vec<_> =
            (0..self.mutator.count(1..4)).map(|_| self.mutator.request()).collect();
        self.marks += 1;
        let mark = format!("/behind/{}", self.marks);
        let token = self.target.token.as_ref();
        let token =
            token.map_or(String::new(), |token| format!("authorization: Bearer {token}\r\n"));
        let behind = format!("\r\n\r\nGET {mark} HTTP/1.1\r\nhost: localhost\r\n{token}\r\n");
        let sent = [mutated.concat(), behind.into_bytes()].concat();
        // It may have closed already.
        drop(stream.write_all(&sent).await);
        let (bytes, end) =
            answered(stream, format!("\\\"{mark}\\\"; GET / lists them\"}}}}").as_bytes()).await;
        self.told.requests += self.judge(&mutated, &sent, &bytes, end);
        end
    }

    /// Looks at what came; how many of the requests have been read.
    fn judge(&mut self, mutated: &[Vec<u8>], sent: &[u8], bytes: &[u8], end: End) -> u64 {
        self.told.hung += u64::from(end == End::Hung);
        let read = answers::read(bytes, |_| false).and_then(|answers| {
            let without_mark = mutated.concat();
            check(&answers, sent, end)?;
            let token = self.target.token.as_ref().map(|token| token.as_bytes());
            match token.filter(|token| !without_mark.windows(token.len()).any(|w| w == *token)) {
                Some(_) if answers.iter().any(is_for_the_known) => {
                    Err("something without a token".into())
                }
                _ => Ok(answers),
            }
        });
        let answers = match read {
            Ok(answers) => answers,
            Err(complaint) => {
                let (sent, came) = (String::from_utf8_lossy(sent), String::from_utf8_lossy(bytes));
                self.told.complaints.push(format!("{complaint}\n  {sent:?}\n  {end:?}: {came:?}"));
                return 1;
            }
        };
        let finals = answers.iter().filter(|answer| !answer.is_interim()).count();
        for answer in answers {
            self.told.created += answer.created();
            *self.told.answers.entry(answer.shown()).or_default() += 1;
        }
        finals.clamp(1, mutated.len()) as u64
    }
}

/// What comes until it ends in `mark`, the connection ends, or nothing comes any more.
async fn answered(stream: &mut TcpStream, mark: &[u8]) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    let (mut end, mut patience) = (End::Closed, QUIET);
    loop {
        match timeout(patience, stream.read_buf(&mut bytes)).await {
            Ok(Ok(1..)) if bytes.ends_with(mark) => return (bytes, End::Answered),
            Ok(Ok(1..)) => {}
            // A reset is an end: not all that was sent may have been read.
            Ok(Ok(0) | Err(_)) => return (bytes, end),
            Err(_) => {
                assert_eq!(
                    end,
                    End::Closed,
                    "it does not close: {}",
                    String::from_utf8_lossy(&bytes)
                );
                (end, patience) = (End::Hung, PATIENCE);
                drop(stream.shutdown().await);
            }
        }
    }
}

/// What must hold of the answers to anything.
fn check(answers: &[Answer], sent: &[u8], end: End) -> Result<(), String> {
    let finals = answers.iter().filter(|answer| !answer.is_interim()).count();
    let most = most_answers(sent);
    if finals > most {
        return Err(format!("{finals} answers to {most} requests"));
    }
    let is_bug = |answer: &&Answer| answer.code >= 500 && answer.shown() != "503 server_busy";
    if let Some(bug) = answers.iter().find(is_bug) {
        return Err(format!("a code that none of these should get: {}", bug.shown()));
    }
    match answers.last() {
        Some(last) if end == End::Closed && !last.closes => Err("it closed without telling".into()),
        Some(last) if end == End::Answered && last.closes => {
            Err("it told and did not close".into())
        }
        _ => Ok(()),
    }
}

/// Whether it is an answer that only those get who are known.
fn is_for_the_known(answer: &Answer) -> bool {
    let is_probe = [&b"healthy\n"[..], b"ready\n"].contains(&&*answer.body);
    matches!(answer.code, 200..300) && !is_probe
}
