//! The three pipes of a command: what it reads, and how much is kept of what it prints.

use std::os::fd::AsFd;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use super::group::Group;

/// How much of stdout is the result.
const RESULT_BYTES: usize = 64 << 10;

/// How much of stderr is the error text.
const COMPLAINT_BYTES: usize = 4 << 10;

/// The most bytes of one character in UTF-8 that can lie beyond a cut through it.
const CHARACTER_REST: usize = 3;

/// How much is read at once.
const CHUNK: usize = 8 << 10;

/// The largest buffer that Linux gives the pipe of an ordinary user (`fs.pipe-max-size`).
const PIPE_BUFFER: usize = 1 << 20;

/// The daemon's ends of a command's pipes.
pub(super) struct Pipes {
    stdin: Option<ChildStdin>,
    payload: Bytes,
    stdout: Output<ChildStdout>,
    stderr: Output<ChildStderr>,
}

impl Pipes {
    /// Takes the pipes of a command that has just been started.
    pub(super) fn of(group: &mut Group, payload: Bytes) -> Self {
        let (stdin, stdout, stderr) = group.take_pipes();
        Self {
            stdin,
            payload,
            stdout: Output { pipe: stdout, kept: Kept::First(RESULT_BYTES), bytes: Vec::new() },
            stderr: Output { pipe: stderr, kept: Kept::Last(COMPLAINT_BYTES), bytes: Vec::new() },
        }
    }

    /// Moves bytes both ways at once until every pipe is closed. May be dropped half way.
    pub(super) async fn pump(&mut self) {
        let Self { stdin, payload, stdout, stderr } = self;
        tokio::join!(feed(stdin, payload), stdout.read(), stderr.read());
    }

    /// Reads what the ended group left in the pipes, without waiting for whoever else holds them.
    pub(super) fn read_rest(&mut self) {
        self.stdin = None;
        self.stdout.read_rest();
        self.stderr.read_rest();
    }

    /// The result text; none if nothing was printed.
    pub(super) fn result(&self) -> Option<String> {
        Some(self.stdout.text()).filter(|text| !text.is_empty())
    }

    /// The error text, without the newline at its end; none if there is nothing else.
    pub(super) fn complaint(&self) -> Option<String> {
        let text = self.stderr.text();
        Some(text.trim_end()).filter(|text| !text.is_empty()).map(str::to_owned)
    }
}

/// Writes the payload, then closes the pipe.
async fn feed(stdin: &mut Option<ChildStdin>, payload: &mut Bytes) {
    while let Some(pipe) = stdin
        && !payload.is_empty()
    {
        // The command need not read what it does not want; its exit tells how it went.
        if pipe.write_buf(payload).await.is_err() {
            break;
        }
    }
    *stdin = None;
}

/// Which end of an output is kept, and how many bytes of it.
#[derive(Debug, Clone, Copy)]
enum Kept {
    First(usize),
    Last(usize),
}

impl Kept {
    /// Drops what is certainly not kept, but no byte of a character that is.
    fn trim(self, bytes: &mut Vec<u8>) {
        match self {
            Self::First(limit) => bytes.truncate(limit + CHARACTER_REST),
            Self::Last(limit) => {
                bytes.drain(..bytes.len().saturating_sub(limit + CHARACTER_REST));
            }
        }
    }

    /// The kept text: whole characters, at most the limit in bytes.
    fn text(self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        let is_boundary = |at: &usize| text.is_char_boundary(*at);
        match self {
            Self::First(limit) => {
                let end = (0..=limit.min(text.len())).rev().find(is_boundary).unwrap_or(0);
                text[..end].to_owned()
            }
            Self::Last(limit) => {
                let start = text.len().saturating_sub(limit);
                let start = (start..text.len()).find(is_boundary).unwrap_or(text.len());
                text[start..].to_owned()
            }
        }
    }
}

/// One output and what is kept of it.
struct Output<P> {
    pipe: Option<P>,
    kept: Kept,
    bytes: Vec<u8>,
}

impl<P: AsyncRead + AsFd + Unpin> Output<P> {
    /// Reads to the end.
    async fn read(&mut self) {
        while let Some(pipe) = &mut self.pipe {
            self.bytes.reserve(CHUNK);
            match pipe.read_buf(&mut self.bytes).await {
                Ok(0) | Err(_) => self.pipe = None,
                Ok(_) => self.kept.trim(&mut self.bytes),
            }
        }
    }

    /// Reads what is in the pipe, past the runtime, which may not have heard of it yet. Bounded,
    /// because a process outside the group may write on.
    fn read_rest(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        let mut chunk = [0; CHUNK];
        let mut left = PIPE_BUFFER;
        while left > 0 {
            match rustix::io::read(&pipe, &mut chunk) {
                Ok(0) => return,
                Ok(count) => {
                    self.bytes.extend_from_slice(&chunk[..count]);
                    self.kept.trim(&mut self.bytes);
                    left = left.saturating_sub(count);
                }
                Err(Errno::INTR) => {}
                // Nothing more for now: the pipe does not block.
                Err(_) => return,
            }
        }
    }

    fn text(&self) -> String {
        self.kept.text(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(kept: Kept, parts: &[&[u8]]) -> String {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend_from_slice(part);
            kept.trim(&mut bytes);
        }
        kept.text(&bytes)
    }

    #[test]
    fn text_is_cut_between_characters() {
        let text = "aäßx€y𝄞z".as_bytes();
        for limit in 0..=text.len() {
            let first = kept(Kept::First(limit), &[text]);
            let last = kept(Kept::Last(limit), &[text]);
            assert!(text.starts_with(first.as_bytes()) && first.len() + 4 > limit, "{first}");
            assert!(text.ends_with(last.as_bytes()) && last.len() + 4 > limit, "{last}");
            assert!(first.len() <= limit && last.len() <= limit);
        }
    }

    #[test]
    fn invalid_bytes_are_replaced_within_the_limit() {
        assert_eq!(kept(Kept::First(8), &[b"ab\xff\xfe", b"cd"]), "ab\u{fffd}\u{fffd}");
        assert_eq!(kept(Kept::Last(8), &[b"ab\xff", b"\xfecd"]), "\u{fffd}\u{fffd}cd");
        assert_eq!(kept(Kept::Last(3), &[b"\x80\x80\x80\x80\x80abc"]), "abc");
    }

    #[test]
    fn parts_are_kept_as_a_whole_would_be() {
        let parts: Vec<Vec<u8>> = (0..50_u8).map(|n| vec![b'a' + n % 26; 7]).collect();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let whole = parts.concat();
        for limit in [1, 10, 100, 1_000] {
            for keep in [Kept::First(limit), Kept::Last(limit)] {
                assert_eq!(kept(keep, &parts), kept(keep, &[&whole]));
            }
        }
    }
}
