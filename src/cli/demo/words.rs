//! What the demo prints: where to look and what to try at the start, the counts at the end.

use std::fmt::Display;
use std::net::SocketAddr;

use crate::metrics::Snapshot;
use crate::tally::{Count, Counts};

/// What the start tells.
pub(super) struct Introduction<'a> {
    /// Where the demo serves.
    pub(super) address: SocketAddr,
    /// Whether client commands find it without being told.
    pub(super) is_usual: bool,
    /// The program as it was called.
    pub(super) program: &'a str,
    /// New jobs a second.
    pub(super) rate: u32,
    /// The id of a job that waits to be cancelled.
    pub(super) waiting: &'a str,
}

impl Introduction<'_> {
    /// The text. Behind the names stand addresses to open and commands to paste as they are.
    pub(super) fn text(&self) -> String {
        let Self { program, rate, waiting, .. } = self;
        let url = format!("http://{}", self.address);
        let server = if self.is_usual { String::new() } else { format!(" --server {url}") };
        let job = r#"'{"queue": "thumbnails", "kind": "photo", "payload": "me.jpg"}'"#;
        let queues = named(&[
            (
                "webhooks",
                "pushed to a URL: to a receiver in here that is busy, slow or refuses at times",
            ),
            ("thumbnails", "run by tallyd itself, by a command for each job"),
            ("reports", "leased over HTTP by workers: there is one in here, and yours may join it"),
        ]);
        let opened = named(&[
            ("routes", format!("{url}/")),
            ("metrics", format!("{url}/metrics")),
            ("counts", format!("{url}/v1/stats")),
            ("API", format!("{url}/openapi.json")),
        ]);
        let tried = named(&[
            ("queues", format!("{program} queues list{server}")),
            ("dead jobs", format!("{program} jobs list --state dead{server}")),
            ("try again", format!("{program} queues requeue-dead webhooks{server}")),
            ("pause", format!("{program} queues pause reports{server}")),
            ("go on", format!("{program} queues resume reports{server}")),
            ("one job", format!("curl {url}/v1/jobs/{waiting}")),
            ("cancel it", format!("{program} jobs cancel {waiting}{server}")),
            ("create one", format!("curl --json {job} {url}/v1/jobs")),
        ]);
        format!(
            "tallyd demo: three queues on a temporary store, {rate} new jobs a second; Ctrl-C ends it\n\n\
             {queues}\nopen\n{opened}\ntry in another terminal\n{tried}\n"
        )
    }
}

/// A line for each, with what they name one below the other.
fn named<const N: usize>(lines: &[(&str, impl Display); N]) -> String {
    lines.iter().map(|(name, what)| format!("  {name:<12}{what}\n")).collect()
}

/// A word as a shell reads it.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+".contains(letter);
    if word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// What became of all jobs, in one line whose numbers add up.
pub(super) fn summary(snapshot: &Snapshot) -> String {
    let mut all = Counts::default();
    snapshot.rows.iter().for_each(|row| all.add(&row.counts));
    let waiting = all[Count::Scheduled] + all[Count::Ready] + all[Count::Retrying];
    format!(
        "created {} = completed {} + cancelled {} + discarded {} + dead {} + waiting {waiting} + running {}; \
         retried {}\n",
        all[Count::Created],
        all[Count::Completed],
        all[Count::Cancelled],
        all[Count::Discarded],
        all[Count::Dead],
        all[Count::Running],
        all[Count::Retried],
    )
}
