//! Broken requests without end, made up out of others: the same from the same seed.

use std::ops::Range;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The most bytes of one: what does not fit in a head, or not in a body, is in the corpus.
const MOST_BYTES: usize = 4 << 10;

/// What means something somewhere.
const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\"",
    b"\\",
    b"%00",
    b"%zz",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"{",
    b"}",
    b"[[[[[[[[",
    b"null",
    b"1e400",
    b"0\r\n\r\n",
    b"5;a=b\r\n",
    b"GET / HTTP/1.1\r\n",
    b"HTTP/1.0",
    b"http://evil.example/",
    b"host: evil.example\r\n",
    b"content-length: 0\r\n",
    b"content-length: 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: identity\r\n",
    b"connection: close\r\n",
    b"connection: keep-alive\r\n",
    b"expect: 100-continue\r\n",
    b"upgrade: h2c\r\n",
    b"content-encoding: gzip\r\n",
    b"content-type: application/x-ndjson\r\n",
    b"authorization: Bearer x\r\n",
    b"accept: application/openmetrics-text\r\naccept-encoding: gzip\r\n",
];

/// What to put in the place of a number.
const NUMBERS: &[&[u8]] = &[
    b"0",
    b"1",
    b"-1",
    b"12",
    b"4294967296",
    b"9223372036854775808",
    b"18446744073709551615",
    b"18446744073709551616",
    b"0x10",
    b"007",
    b"1.5",
    b"",
];

/// What to put in the place of the end of a line.
const LINE_ENDS: &[&[u8]] = &[b"\n", b"\r", b"\n\r", b"\r\n ", b"\r\n\r\n", b"\r\r\n", b"", b"\0"];

/// Makes up requests.
pub struct Mutator {
    bases: Arc<[Vec<u8>]>,
    random: StdRng,
}

impl Mutator {
    /// One that makes them out of these, none of which is empty.
    pub fn new(bases: Arc<[Vec<u8>]>, seed: u64) -> Self {
        Self { bases, random: StdRng::seed_from_u64(seed) }
    }

    /// Another request, which is none of those it is made of.
    pub fn request(&mut self) -> Vec<u8> {
        let base = self.base();
        loop {
            let mut bytes = base.clone();
            // Most have one thing wrong, or a handler would see few of them.
            self.mutate(&mut bytes);
            while self.random.random_bool(0.3) {
                self.mutate(&mut bytes);
            }
            bytes.truncate(MOST_BYTES);
            if self.random.random_bool(0.7) {
                correct_length(&mut bytes);
            }
            if !bytes.is_empty() && !self.bases.contains(&bytes) {
                return bytes;
            }
        }
    }

    /// How many of something.
    pub fn count(&mut self, range: Range<usize>) -> usize {
        self.random.random_range(range)
    }

    fn base(&mut self) -> Vec<u8> {
        self.bases[self.random.random_range(0..self.bases.len())].clone()
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        match self.random.random_range(0..11) {
            0 if !bytes.is_empty() => {
                let place = self.random.random_range(0..bytes.len());
                bytes[place] ^= 1 << self.random.random_range(0..8);
            }
            1 => {
                let end = self.place(bytes);
                bytes.truncate(end);
            }
            2 => {
                let some = self.some(bytes);
                bytes.drain(some);
            }
            3 => {
                let copy = bytes[self.some(bytes)].to_vec();
                self.insert(bytes, &copy);
            }
            4 => {
                let other = self.base();
                let (end, begin) = (self.place(bytes), self.place(&other));
                bytes.truncate(end);
                bytes.extend(&other[begin..]);
            }
            5 => {
                let token = self.one_of(TOKENS);
                self.insert(bytes, token);
            }
            6 => {
                let (token, some) = (self.one_of(TOKENS), self.some(bytes));
                bytes.splice(some, token.iter().copied());
            }
            7 => {
                let end = self.one_of(LINE_ENDS);
                self.replace_one(bytes, line_ends, end);
            }
            8 => {
                let number = self.one_of(NUMBERS);
                self.replace_one(bytes, numbers, number);
            }
            9 => self.repeat_line(bytes),
            _ => {
                let some = self.some(bytes);
                bytes[some]
                    .iter_mut()
                    .for_each(|byte| *byte ^= 0x20 * u8::from(byte.is_ascii_alphabetic()));
            }
        }
    }

    fn one_of(&mut self, tokens: &'static [&'static [u8]]) -> &'static [u8] {
        tokens[self.random.random_range(0..tokens.len())]
    }

    /// Somewhere in these, or behind the last; half of the time in the body, if there is one.
    fn place(&mut self, bytes: &[u8]) -> usize {
        let body = body(bytes).filter(|_| self.random.random_bool(0.5));
        self.random.random_range(body.unwrap_or(0)..=bytes.len())
    }

    /// A short piece of these.
    fn some(&mut self, bytes: &[u8]) -> Range<usize> {
        let begin = self.place(bytes);
        let most = (bytes.len() - begin).min(40);
        begin..begin + self.random.random_range(0..=most)
    }

    fn insert(&mut self, bytes: &mut Vec<u8>, piece: &[u8]) {
        let place = self.place(bytes);
        bytes.splice(place..place, piece.iter().copied());
    }

    fn replace_one(
        &mut self,
        bytes: &mut Vec<u8>,
        find: fn(&[u8]) -> Vec<Range<usize>>,
        with: &[u8],
    ) {
        let found = find(bytes);
        if !found.is_empty() {
            let one = found[self.random.random_range(0..found.len())].clone();
            bytes.splice(one, with.iter().copied());
        }
    }

    /// Puts a line, its end included, before another one.
    fn repeat_line(&mut self, bytes: &mut Vec<u8>) {
        let ends = line_ends(bytes);
        if ends.is_empty() {
            return;
        }
        let begins: Vec<_> =
            std::iter::once(0).chain(ends.iter().map(|end| end.end)).take(ends.len()).collect();
        let line = self.random.random_range(0..ends.len());
        let copy = bytes[begins[line]..ends[line].end].to_vec();
        let place = begins[self.random.random_range(0..begins.len())];
        bytes.splice(place..place, copy);
    }
}

/// Where the body begins.
fn body(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|place| place + 4)
}

/// Says how long the body is, if that is said at all.
fn correct_length(bytes: &mut Vec<u8>) {
    let name = b"content-length: ";
    let Some(body) = body(bytes) else { return };
    let Some(place) = bytes[..body].windows(name.len()).position(|window| window == name) else {
        return;
    };
    let begin = place + name.len();
    let digits = bytes[begin..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length = (bytes.len() - body).to_string();
    bytes.splice(begin..begin + digits, length.into_bytes());
}

fn line_ends(bytes: &[u8]) -> Vec<Range<usize>> {
    let twos = bytes.windows(2).enumerate();
    twos.filter(|(_, two)| two == b"\r\n").map(|(place, _)| place..place + 2).collect()
}

fn numbers(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut numbers = Vec::<Range<usize>>::new();
    for (place, _) in bytes.iter().enumerate().filter(|(_, byte)| byte.is_ascii_digit()) {
        match numbers.last_mut().filter(|last| last.end == place) {
            Some(last) => last.end += 1,
            None => numbers.push(place..place + 1),
        }
    }
    numbers
}

#[test]
fn the_same_seed_makes_the_same_requests_and_none_is_one_of_those_it_is_made_of() {
    let bases: Arc<[_]> = super::corpus::good().into();
    let made = |seed| {
        let mut mutator = Mutator::new(bases.clone(), seed);
        (0..2_000).map(|_| mutator.request()).collect::<Vec<_>>()
    };
    let requests = made(7);
    assert_eq!(requests, made(7));
    assert_ne!(requests, made(8));
    assert!(requests.iter().all(|request| !bases.contains(request)));
    assert!(requests.iter().all(|request| (1..=MOST_BYTES).contains(&request.len())));
    let different: std::collections::HashSet<_> = requests.iter().collect();
    assert!(different.len() > 1_800, "only {} are different", different.len());
}

#[test]
fn numbers_and_line_ends_are_found() {
    assert_eq!(numbers(b"a12b3"), [1..3, 4..5]);
    assert_eq!(line_ends(b"a\r\nb\n\r\n"), [1..3, 5..7]);
}

#[test]
fn a_length_is_corrected() {
    let mut request = b"POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\n0123456789".to_vec();
    correct_length(&mut request);
    assert_eq!(request, b"POST / HTTP/1.1\r\ncontent-length: 10\r\n\r\n0123456789");
}
