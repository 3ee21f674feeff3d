//! `tallyd create`: creates a job from the command line, or many from a file.

mod file;
mod import;

use std::io::Read;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::value::RawValue;

use super::Failure;
use super::connection::Connection;
use super::output::{self, Form, complain};
use super::queues::time;
use crate::client::{NewJob, UniqueUntil};
use crate::clock::Timestamp;
use crate::config::limits;

/// Standard input in the place of a payload or a file.
const STDIN: &str = "-";

/// The most bytes of a job that any server takes; more of standard input is not read.
const MAX_JOB_BYTES: usize = *limits::MAX_PAYLOAD.end() as usize;

/// The most bytes of a unique key.
const MAX_UNIQUE_KEY_BYTES: usize = 200;

/// The most bytes of what stands before the number of a line in its key.
const MAX_KEY_PREFIX_BYTES: usize = 180;

/// The longest delay that a server takes, 100 years.
const DELAY: std::ops::RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(36_500 * 24 * 60 * 60);

/// The flags of `tallyd create`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = FILES)]
pub struct Create {
    /// The queue; with --file, that of lines which name none
    #[arg(required_unless_present = "file",
        value_parser = |text: &str| limits::queue_or_kind(Some(text)))]
    queue: Option<String>,
    /// What sort of work it is; with --file, that of lines which name none
    #[arg(required_unless_present = "file",
        value_parser = |text: &str| limits::queue_or_kind(Some(text)))]
    kind: Option<String>,
    /// What the worker gets, as JSON; - reads it from standard input [default: null]
    #[arg(conflicts_with = "file", allow_negative_numbers = true)]
    payload: Option<String>,

    /// Create the jobs of a file with one JSON object a line; - reads standard input
    #[arg(long, env = "TALLYD_CREATE_FILE", value_name = "FILE")]
    file: Option<String>,
    /// Give line N of the file the key PREFIX:N if it has none, so that it is created once
    #[arg(long, env = "TALLYD_CREATE_KEY_PREFIX", value_name = "PREFIX", requires = "file",
        value_parser = |text: &str| length(text, MAX_KEY_PREFIX_BYTES))]
    key_prefix: Option<String>,

    /// 0 (first) to 9 (last) [default: 5]
    #[arg(long, env = "TALLYD_CREATE_PRIORITY", value_name = "0-9",
        value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// Let it wait for so long, like 10m
    #[arg(long, env = "TALLYD_CREATE_DELAY", value_name = "DURATION", conflicts_with = "run_at",
        value_parser = |text: &str| limits::duration(Some(text), &DELAY))]
    delay: Option<Duration>,
    /// Let it wait until this time, like 2026-03-01T12:00:00Z
    #[arg(long, env = "TALLYD_CREATE_RUN_AT", value_name = "TIME", value_parser = time)]
    run_at: Option<Timestamp>,
    /// Let it die after so many failures [default: the queue's]
    #[arg(long, env = "TALLYD_CREATE_MAX_ATTEMPTS", value_name = "COUNT",
        value_parser = |text: &str| limits::count::<u32>(text.parse().ok(), &limits::MAX_ATTEMPTS))]
    max_attempts: Option<u32>,
    /// Let an attempt take at most so long, 0s = as long as it likes [default: the queue's]
    #[arg(long, env = "TALLYD_CREATE_TIMEOUT", value_name = "DURATION",
        value_parser = |text: &str| limits::duration(Some(text), &limits::TIMEOUT))]
    timeout: Option<Duration>,
    /// Create nothing if a job of the queue holds this key
    #[arg(long, env = "TALLYD_CREATE_UNIQUE_KEY", value_name = "KEY", conflicts_with = "file",
        value_parser = |text: &str| length(text, MAX_UNIQUE_KEY_BYTES))]
    unique_key: Option<String>,
    /// What ends the hold on the key: the job is gone, or done [default: gone]
    #[arg(long, env = "TALLYD_CREATE_UNIQUE_UNTIL", value_name = "STATE",
        value_parser = PossibleValuesParser::new(["gone", "done"]).map(|text| unique_until(&text)))]
    unique_until: Option<UniqueUntil>,
    /// The trace it belongs to (W3C Trace Context)
    #[arg(long, env = "TALLYD_CREATE_TRACEPARENT", value_name = "TRACEPARENT")]
    traceparent: Option<String>,

    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: Form,
}

/// What there is to know of files.
const FILES: &str = "\
Files: each line is a JSON object as POST /v1/jobs takes it, such as
  {\"queue\": \"emails\", \"kind\": \"welcome\", \"payload\": {\"to\": \"ada@example.com\"}, \"unique_key\": \"ada\"}
QUEUE, KIND and the flags of a job apply to lines that do not say otherwise. Lines are created in
batches, in their order. A wrong line stops the command: what stands before it is created, and no
line after it unless it has a key.

A line with a unique_key is created once. So a file whose lines have keys, their own or by
--key-prefix, can be run again after an interruption: it creates what is missing, as long as the jobs
are not removed by retention, and as long as no line moves if the keys are by number. Batches of such
lines are sent again by themselves if the server is away for a moment or busy; any other stops the
command, which says how many lines are created for certain.";

impl Create {
    /// Creates, and prints the job's id or how many there are.
    ///
    /// # Errors
    ///
    /// The payload or a line is wrong, or the server refuses or cannot be asked.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.file {
            Some(file) => self.run_file(file),
            None => self.run_one(),
        }
    }

    fn run_one(&self) -> Result<(), Failure> {
        if self.unique_until.is_some() && self.unique_key.is_none() {
            return Err(Failure::Usage("--unique-until needs a --unique-key".into()));
        }
        let payload = self.payload.as_deref().map(payload).transpose()?;
        let job = NewJob { payload, ..self.job() };
        let created = self.connection.run(async |client| Ok(client.create(&job).await?))?;
        if self.form.json {
            return output::print_json(created.json());
        }
        if created.duplicate {
            let state = output::visible(&created.state);
            complain(&format!("nothing was created: a job that is {state} holds this key"));
        }
        output::print(&format!("{}\n", output::visible(&created.id)))
    }

    fn run_file(&self, name: &str) -> Result<(), Failure> {
        let rules = file::Rules::new(&self.job(), self.key_prefix.clone());
        let source = file::Source::open(name)
            .map_err(|error| Failure::Usage(format!("cannot read {name}: {error}").into()))?;
        let mut import = import::Import::new(&source);
        let ended = self.connection.run(async |client| {
            let ended = import.run(client, source, rules).await;
            Ok::<_, Failure>(ended)
        })?;
        let report = import.report(ended.is_ok());
        let printed = if self.form.json {
            output::print_json(&report)
        } else {
            output::print(&format!("{report}\n"))
        };
        // That nobody reads the totals must not hide why they are not those of the whole file.
        ended.map_err(|stop| Failure::Other(import.explain(&stop).into())).and(printed)
    }

    /// The job that the flags describe, without a payload.
    fn job(&self) -> NewJob {
        NewJob {
            kind: self.kind.clone().unwrap_or_default(),
            queue: self.queue.clone(),
            payload: None,
            priority: self.priority,
            run_at: self.run_at,
            delay: self.delay,
            max_attempts: self.max_attempts,
            timeout: self.timeout,
            unique_key: self.unique_key.clone(),
            unique_until: self.unique_until,
            traceparent: self.traceparent.clone(),
        }
    }
}

/// A payload as it was typed, or from standard input.
fn payload(text: &str) -> Result<Box<RawValue>, Failure> {
    let text = if text == STDIN { read_stdin()? } else { text.to_owned() };
    RawValue::from_string(text.trim().to_owned()).map_err(|error| {
        let shown = output::cut(&text, 40);
        let right =
            r#"a text needs its quotes, as in '"hello"', and an object too: '{"to": "ada"}'"#;
        Failure::Usage(format!("the payload must be JSON, got {shown}: {error}; {right}").into())
    })
}

fn read_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let mut stdin = std::io::stdin().lock().take(MAX_JOB_BYTES as u64 + 1);
    let read = stdin.read_to_string(&mut text);
    read.map_err(|error| Failure::Usage(format!("cannot read standard input: {error}").into()))?;
    if text.len() > MAX_JOB_BYTES {
        let rule = format!("a job has at most {MAX_JOB_BYTES} bytes, and standard input has more");
        return Err(Failure::Usage(rule.into()));
    }
    Ok(text)
}

fn length(text: &str, most: usize) -> Result<String, String> {
    if (1..=most).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(format!("must have 1 to {most} bytes, got {}", text.len()))
}

fn unique_until(text: &str) -> UniqueUntil {
    if text == "done" { UniqueUntil::Done } else { UniqueUntil::Gone }
}
