//! A file of jobs, one JSON object a line, cut into batches that a server takes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{MAX_JOB_BYTES, STDIN};
use crate::client::NewJob;

/// The most jobs of a batch: enough to be worth a request, few enough for a bar that moves.
const BATCH_LINES: usize = 1_000;

/// The bytes at which a batch is sent.
const BATCH_BYTES: usize = 4 << 20;

/// The most bytes of a line: with a batch that is nearly sent, it makes one that a server takes.
const MAX_LINE_BYTES: usize = MAX_JOB_BYTES - BATCH_BYTES - (1 << 20);

/// How much is read at once.
const READ_BYTES: usize = 256 << 10;

/// Where the lines come from.
pub(super) struct Source {
    /// What messages call it.
    pub(super) name: String,
    /// Its size, if it has one.
    pub(super) bytes: Option<u64>,
    reader: Box<dyn BufRead + Send>,
}

impl Source {
    /// Opens a file, or standard input for `-`.
    pub(super) fn open(name: &str) -> std::io::Result<Self> {
        if name == STDIN {
            let reader = Box::new(BufReader::with_capacity(READ_BYTES, std::io::stdin()));
            return Ok(Self { name: "standard input".to_owned(), bytes: None, reader });
        }
        let file = File::open(name)?;
        let data = file.metadata()?;
        if data.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        let bytes = data.is_file().then_some(data.len());
        let reader = Box::new(BufReader::with_capacity(READ_BYTES, file));
        Ok(Self { name: name.to_owned(), bytes, reader })
    }
}

/// What a line gets that does not say otherwise.
pub(super) struct Rules {
    defaults: Map<String, Value>,
    key_prefix: Option<String>,
}

/// Lines to send together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The jobs, a line each.
    pub(super) text: Vec<u8>,
    /// For each job the number of its line in the file, and where it ends in `text`.
    pub(super) lines: Vec<(u64, usize)>,
    /// How many have no key.
    pub(super) without_key: u64,
    /// Where in the file it ends.
    pub(super) end_bytes: u64,
}

impl Batch {
    /// Whether sending it twice creates nothing twice.
    pub(super) fn is_repeatable(&self) -> bool {
        self.without_key == 0
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= BATCH_LINES || self.text.len() >= BATCH_BYTES
    }
}

/// A line that is no job, or that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadLine {
    pub(super) number: u64,
    pub(super) why: String,
}

/// Batch by batch, what a file has; the first bad line ends it, after the lines before it.
pub(super) struct Batches {
    source: Source,
    rules: Rules,
    number: u64,
    read_bytes: u64,
    bad: Option<BadLine>,
    is_over: bool,
    line: Vec<u8>,
}

impl Batches {
    pub(super) fn new(source: Source, rules: Rules) -> Self {
        let (bad, line) = (None, Vec::new());
        Self { source, rules, number: 0, read_bytes: 0, bad, is_over: false, line }
    }

    /// The next line without its end; none if there is no more.
    fn next_line(&mut self) -> Result<Option<&[u8]>, BadLine> {
        self.line.clear();
        self.number += 1;
        let most = MAX_LINE_BYTES as u64 + 2;
        let mut reader = (&mut self.source.reader).take(most);
        let read = reader.read_until(b'\n', &mut self.line);
        let bad = |why| BadLine { number: self.number, why };
        let bytes = read.map_err(|error| bad(format!("cannot be read: {error}")))?;
        self.read_bytes += bytes as u64;
        if bytes == 0 {
            return Ok(None);
        }
        let line = self.line.trim_ascii();
        if line.len() > MAX_LINE_BYTES {
            let advice = "create larger jobs one by one";
            return Err(bad(format!("a line may have at most {MAX_LINE_BYTES} bytes; {advice}")));
        }
        Ok(Some(line))
    }

    /// Adds the next line to a batch; false if there is none.
    fn add_line(&mut self, batch: &mut Batch) -> Result<bool, BadLine> {
        if self.next_line()?.is_none() {
            return Ok(false);
        }
        let line = self.line.trim_ascii();
        if !line.is_empty() {
            let has_key = self.rules.write(line, self.number, &mut batch.text)?;
            batch.without_key += u64::from(!has_key);
            batch.lines.push((self.number, batch.text.len()));
        }
        batch.end_bytes = self.read_bytes;
        Ok(true)
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, BadLine>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch = Batch::default();
        while !batch.is_full() && !self.is_over {
            match self.add_line(&mut batch) {
                Ok(has_more) => self.is_over = !has_more,
                Err(bad) => (self.bad, self.is_over) = (Some(bad), true),
            }
        }
        if batch.lines.is_empty() { self.bad.take().map(Err) } else { Some(Ok(batch)) }
    }
}

impl Rules {
    /// The rules that give lines what `job` has.
    pub(super) fn new(job: &NewJob, key_prefix: Option<String>) -> Self {
        let job = serde_json::to_value(job).expect("a job is made of text and numbers");
        let Value::Object(mut defaults) = job else { unreachable!("a job is an object") };
        defaults.retain(|_, value| *value != "");
        Self { defaults, key_prefix }
    }

    /// Writes a line with what it gets; whether it has a key then.
    fn write(&self, line: &[u8], number: u64, text: &mut Vec<u8>) -> Result<bool, BadLine> {
        let bad = |why| BadLine { number, why };
        let fields: BTreeMap<Cow<'_, str>, &RawValue> =
            serde_json::from_slice(line).map_err(|error| bad(not_a_job(line, &error)))?;
        let own_key = fields.get("unique_key").is_some_and(|key| key.get() != "null");
        let key = match &self.key_prefix {
            Some(prefix) if !own_key => Some(format!("{prefix}:{number}")),
            _ => None,
        };
        let has_key = own_key || key.is_some();
        if key.is_some() && fields.contains_key("unique_key") {
            return Err(bad("unique_key must be a text, or left out to get one".to_owned()));
        }
        let applies = |name: &str| match name {
            "delay" | "run_at" => !fields.contains_key("delay") && !fields.contains_key("run_at"),
            "unique_until" => has_key && !fields.contains_key(name),
            _ => !fields.contains_key(name),
        };
        let mut added = Map::new();
        for (name, value) in self.defaults.iter().filter(|(name, _)| applies(name)) {
            added.insert(name.clone(), value.clone());
        }
        added.extend(key.map(|key| ("unique_key".to_owned(), key.into())));
        if !fields.contains_key("kind") && !added.contains_key("kind") {
            return Err(bad("it needs a \"kind\", or a QUEUE and KIND for all lines".to_owned()));
        }
        let own_until = fields.get("unique_until").map(|until| until.get());
        let until = own_until.or_else(|| added.get("unique_until").and_then(Value::as_str));
        join(line, &added, fields.is_empty(), text);
        Ok(has_key && until.is_none_or(|until| until.trim_matches('"') != "done"))
    }
}

/// Writes the object `line` with the fields `added` in front, which it does not have.
fn join(line: &[u8], added: &Map<String, Value>, is_empty: bool, text: &mut Vec<u8>) {
    if added.is_empty() {
        text.extend_from_slice(line);
    } else {
        let front = serde_json::to_vec(added).expect("a map of text and numbers is JSON");
        text.extend_from_slice(&front[..front.len() - 1]);
        text.extend_from_slice(if is_empty { b"" } else { b"," });
        text.extend_from_slice(&line[1..]);
    }
    text.push(b'\n');
}

/// What is wrong with a line that is no JSON object.
fn not_a_job(line: &[u8], error: &serde_json::Error) -> String {
    let right = r#"a line must be a JSON object like {"kind": "welcome", "payload": 1}"#;
    if line.starts_with(b"[") && error.is_data() {
        return format!("{right}; an array goes line by line, as `jq -c .[]` writes it");
    }
    if error.is_data() {
        return right.to_owned();
    }
    let said = error.to_string().replace(" at line 1 column ", " at column ");
    format!("{right}, this is not JSON: {said}")
}

#[cfg(test)]
mod tests;
