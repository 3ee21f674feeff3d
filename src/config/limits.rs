//! What each setting may be: the bounds with their reasons, and the rules with their words.
//!
//! A rule takes a value as it was written, none if that was of another type, and gives the
//! setting or, in words that start with `must`, what would be right. File and flags share the
//! rules, so that both refuse the same values in the same words.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::duration::{self, DURATION_RULE};
use super::name::{self, NAME_RULE};
use super::size::{self, SIZE_RULE};
use super::{LogFormat, LogLevel};

const HOUR_SECONDS: u64 = 60 * 60;
const DAY_SECONDS: u64 = 24 * HOUR_SECONDS;

/// Attempts at once in one queue: each may be a process, and 10,000 fill a large machine.
pub const CONCURRENCY: RangeInclusive<u64> = 1..=10_000;

/// Tries of one job: far more than any backoff lets happen in a year.
pub const MAX_ATTEMPTS: RangeInclusive<u64> = 1..=1_000_000;

/// The length of an attempt: zero is no limit, and what takes longer than a year needs none.
pub const TIMEOUT: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(365 * DAY_SECONDS);

/// The length of a lease: under a second a slow network loses it, and past an hour the job of a
/// dead worker waits too long.
pub const LEASE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(HOUR_SECONDS);

/// The delay after the first failure and the longest delay: past a month nobody waits for a retry.
pub const BACKOFF: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(30 * DAY_SECONDS);

/// The growth of the delay: below 1 it would shrink, and at 100 the third delay is the longest.
pub const BACKOFF_FACTOR: RangeInclusive<f64> = 1.0..=100.0;

/// The jitter, a share of the delay: more than all of it would be a delay below zero.
pub const BACKOFF_JITTER: RangeInclusive<f64> = 0.0..=1.0;

/// How long ended jobs are kept: ten years is longer than any audit asks for.
pub const KEEP: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3650 * DAY_SECONDS);

/// How many ended jobs are kept: a billion is more than one file serves well.
pub const KEPT_JOBS: RangeInclusive<u64> = 0..=1_000_000_000;

/// How many jobs may wait: with none a queue would refuse everything, which `pause` does better.
pub const MAX_DEPTH: RangeInclusive<u64> = 1..=1_000_000_000;

/// How long a drain waits: past a day an operator has long sent the second signal.
pub const DRAIN_TIMEOUT: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(DAY_SECONDS);

/// Queues in all: each has series of its own and a row in every listing of queues.
pub const MAX_QUEUES: RangeInclusive<u64> = 1..=100_000;

/// Pairs of queue and kind: each has 19 series, so 10,000 make a scrape of 200,000 lines, and the end
/// of a recount, which compares all of them, still leaves the writer within milliseconds.
pub const MAX_PAIRS: RangeInclusive<u64> = 1..=10_000;

/// Bytes of one job: below 1 KiB its other fields do not fit, and a batch may have 16 MiB in all.
pub const MAX_PAYLOAD: RangeInclusive<u64> = 1 << 10..=16 << 20;

/// Bytes of data of a command's process: below 1 MiB nothing starts.
pub const EXEC_MEMORY: RangeInclusive<u64> = 1 << 20..=1 << 40;

/// Processor time of a command's process: the kernel counts in seconds.
pub const EXEC_CPU: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(365 * DAY_SECONDS);

/// Open files of a command's process: it begins with three, and needs more for its libraries.
pub const EXEC_FILES: RangeInclusive<u64> = 16..=1 << 20;

/// The most bytes of a host name (RFC 1035, section 2.3.4).
const MAX_HOST_BYTES: usize = 253;

/// An address to listen on.
pub fn address(text: Option<&str>) -> Result<SocketAddr, String> {
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| "must be an IP address and a port, such as 127.0.0.1:8255".to_owned())
}

/// A length of time within bounds.
pub fn duration(text: Option<&str>, bounds: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let Some(duration) = text.and_then(duration::parse) else {
        return Err(format!("must be a duration, {DURATION_RULE}"));
    };
    if !bounds.contains(&duration) {
        let [least, most] = [bounds.start(), bounds.end()].map(|bound| duration::format(*bound));
        return Err(format!("must be {least} to {most}"));
    }
    Ok(duration)
}

/// The processor time that a command may use.
pub fn whole_seconds(text: Option<&str>) -> Result<Duration, String> {
    let time = duration(text, &EXEC_CPU)?;
    if time.subsec_nanos() > 0 {
        return Err("must be whole seconds, such as 60s".to_owned());
    }
    Ok(time)
}

/// The longest time an attempt may take, none for zero.
pub fn timeout(text: Option<&str>) -> Result<Option<Duration>, String> {
    duration(text, &TIMEOUT).map(|timeout| Some(timeout).filter(|timeout| !timeout.is_zero()))
}

/// A whole number within bounds, which must fit `N`.
pub fn count<N>(number: Option<i64>, bounds: &RangeInclusive<u64>) -> Result<N, String>
where
    N: TryFrom<u64>,
{
    number
        .and_then(|number| u64::try_from(number).ok())
        .filter(|number| bounds.contains(number))
        .and_then(|number| N::try_from(number).ok())
        .ok_or_else(|| format!("must be {} to {}", bounds.start(), bounds.end()))
}

/// A whole number within bounds, or the word `none`.
pub fn count_or_none(
    text: Option<&str>,
    number: Option<i64>,
    bounds: &RangeInclusive<u64>,
) -> Result<Option<u64>, String> {
    if text == Some("none") {
        return Ok(None);
    }
    count(number, bounds).map(Some).map_err(|right| format!("{right}, or \"none\""))
}

/// A number within bounds.
pub fn number(number: Option<f64>, bounds: &RangeInclusive<f64>) -> Result<f64, String> {
    number
        .filter(|number| bounds.contains(number))
        .ok_or_else(|| format!("must be a number from {} to {}", bounds.start(), bounds.end()))
}

/// A number of bytes within bounds, bare or with a unit.
pub fn size<N>(
    text: Option<&str>,
    bytes: Option<i64>,
    bounds: &RangeInclusive<u64>,
) -> Result<N, String>
where
    N: TryFrom<u64>,
{
    text.and_then(size::parse)
        .or_else(|| bytes.and_then(|bytes| u64::try_from(bytes).ok()))
        .filter(|bytes| bounds.contains(bytes))
        .and_then(|bytes| N::try_from(bytes).ok())
        .ok_or_else(|| {
            let [least, most] = [bounds.start(), bounds.end()].map(|bound| size::format(*bound));
            format!("must be {least} to {most}, {SIZE_RULE}")
        })
}

/// Yes or no.
pub fn switch(value: Option<bool>) -> Result<bool, String> {
    value.ok_or_else(|| "must be true or false".to_owned())
}

/// The name of a queue or kind.
pub fn queue_or_kind(text: Option<&str>) -> Result<String, String> {
    text.filter(|text| name::is_valid(text))
        .map(str::to_owned)
        .ok_or_else(|| format!("must be {NAME_RULE}"))
}

/// How deep a payload or result may nest: deeper ones have exhausted the stacks of parsers that
/// workers use.
pub const MAX_JSON_DEPTH: usize = 32;

/// How long to wait for a connection to a receiver.
pub const CONNECT_TIMEOUT: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(60);

/// What applies if a queue does not say it.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// A host name, put into lower case and without the dot at its end.
pub fn host(text: Option<&str>) -> Result<String, String> {
    let is_host = |text: &&str| {
        text.len() <= MAX_HOST_BYTES
            && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
            && !text.contains("..")
    };
    let plain = |text: &str| text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    text.filter(is_host).map(plain).ok_or_else(|| {
        "must be a host name without scheme and port, such as jobs.example.com".to_owned()
    })
}

/// A path of a directory.
pub fn directory(text: Option<&str>) -> Result<PathBuf, String> {
    text.filter(|text| is_path(text))
        .map(PathBuf::from)
        .ok_or_else(|| "must be the path of a directory".to_owned())
}

/// A path of a file.
pub fn file(text: Option<&str>) -> Result<PathBuf, String> {
    text.filter(|text| is_path(text))
        .map(PathBuf::from)
        .ok_or_else(|| "must be the path of a file".to_owned())
}

/// The path of the store's file; SQLite's own names for stores that are no file are refused.
pub fn store_file(text: Option<&str>) -> Result<PathBuf, String> {
    text.filter(|text| is_path(text) && *text != ":memory:" && !text.starts_with("file:"))
        .map(PathBuf::from)
        .ok_or_else(|| "must be the path of a file, such as tallyd.db".to_owned())
}

/// Whether the system can take `text` for a path.
fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

/// A string that can be handed to a process.
pub fn argument(text: Option<&str>) -> Result<String, String> {
    text.filter(|text| !text.contains('\0'))
        .map(str::to_owned)
        .ok_or_else(|| "must be a string without NUL".to_owned())
}

/// How to log.
pub fn log_format(text: Option<&str>) -> Result<LogFormat, String> {
    text.and_then(LogFormat::named).ok_or_else(|| one_of(&LogFormat::ALL.map(LogFormat::name)))
}

/// The least severity to log.
pub fn log_level(text: Option<&str>) -> Result<LogLevel, String> {
    text.and_then(LogLevel::named).ok_or_else(|| one_of(&LogLevel::ALL.map(LogLevel::name)))
}

/// The words for a choice.
pub(super) fn one_of(names: &[&str]) -> String {
    let (last, others) = names.split_last().expect("there is something to choose from");
    format!("must be {} or {last}", others.join(", "))
}

/// Whether arrays and objects nest deeper than `limit`; `text` is valid JSON.
pub fn nests_deeper(text: &[u8], limit: usize) -> bool {
    if text.len() <= 2 * limit {
        return false; // each level takes two brackets
    }
    let mut depth = 0_usize;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth > limit {
            return true;
        }
    }
    false
}

/// Moves behind the quote that ends a string.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}
