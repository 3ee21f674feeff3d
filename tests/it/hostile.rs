//! Requests that break the rules of HTTP, byte by byte over sockets: each gets its own answer, and
//! nothing behind one whose end is in doubt is ever served.

mod answers;
mod corpus;
mod mutated;
mod mutations;
mod reader;
mod storm;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use answers::Answer;
use corpus::{Entry, Then};

use crate::call::connect;
use crate::fixture::Daemon;

/// What stands behind every request of the corpus that says where it ends. It is the last.
const BEHIND: &str = "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
     content-type: application/json\r\ncontent-length: 17\r\n\r\n{\"kind\":\"behind\"}";

/// Sends an entry, and what stands behind it, and reads until the connection ends.
fn answers(daemon: &Daemon, entry: &Entry) -> Result<Vec<Answer>, String> {
    let mut stream = connect(daemon, b"");
    let behind = if entry.then == Then::Ends { "" } else { BEHIND };
    let sent = [&entry.bytes, behind.as_bytes()].concat();
    // It may close before it has read all.
    drop(stream.write_all(&sent));
    if entry.then == Then::Ends {
        stream.shutdown(Shutdown::Write).expect("it is open");
    }
    let is_head = entry.bytes.starts_with(b"HEAD");
    answers::read(&rest(&mut stream)?, |number| is_head && number == 0)
}

/// What comes until the end; a reset is one, since not all that was sent may have been read.
fn rest(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(bytes),
        Err(error) => Err(format!("{error}, after {:?}", String::from_utf8_lossy(&bytes))),
    }
}

/// What is wrong with the answers to an entry, if anything.
fn complaint(entry: &Entry, answers: &Result<Vec<Answer>, String>) -> Option<String> {
    let answers = match answers {
        Ok(answers) => answers,
        Err(complaint) => return Some(format!("{}: {complaint}", entry.name)),
    };
    let mut wanted = entry.answers.clone();
    if entry.then == Then::GoesOn {
        wanted.push("201");
    }
    let told: Vec<_> = answers.iter().map(Answer::shown).collect();
    let closes = answers.last().is_some_and(|last| last.closes);
    let must_close = entry.then != Then::Ends && !wanted.is_empty();
    (told != wanted || (must_close && !closes)).then(|| {
        format!(
            "{}: {:?}\n  wanted {wanted:?}, told {told:?}, closes: {closes}",
            entry.name, entry.then
        )
    })
}

/// CL and TE in all orders, lengths and chunks that lie, heads that are none, broken bodies.
#[tokio::test]
async fn each_broken_request_gets_its_own_answer_and_nothing_behind_a_doubt_is_served() {
    let mut daemon = Daemon::start("");
    let corpus = corpus::all();
    let (mut complaints, mut created) = (Vec::new(), 0);
    for entry in &corpus {
        let answers = answers(&daemon, entry);
        complaints.extend(complaint(entry, &answers));
        created += answers.iter().flatten().map(Answer::created).sum::<u64>();
    }
    eprintln!("{} requests", corpus.len());
    assert!(complaints.is_empty(), "{}:\n{}", complaints.len(), complaints.join("\n"));
    let scrape = daemon.scrape().await;
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
    assert_eq!(daemon.get("/v1/stats").await.1["jobs_created"], created);
    let failed = scrape.starting("tallyd_http_requests_total{");
    assert_eq!(failed.filter(|(name, _)| name.contains("code=\"500\"")).count(), 0);
    assert!(!daemon.log().contains("panic"), "{}", daemon.log());
}
