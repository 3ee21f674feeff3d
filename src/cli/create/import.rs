//! Sends the batches of a file, a few at once, and knows at each moment what is created for certain.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::file::{BadLine, Batch, Batches, Rules, Source};
use crate::cli::output::{counted, visible};
use crate::client::{Client, ClientError, CreatedBatch, Refusal};

/// Batches on their way at once: while the server syncs one it reads the next.
const IN_FLIGHT: usize = 4;

/// Batches that are read before they are needed.
const READ_AHEAD: usize = 2;

/// What became of a file so far.
pub(super) struct Import {
    name: String,
    report: Report,
    /// The last line up to which all are created for certain.
    certain: u64,
    /// The last line that was sent without a key and may or may not be created.
    doubtful: Option<u64>,
    bar: ProgressBar,
}

/// The totals of a file.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    /// Jobs created.
    created: u64,
    /// Lines whose job was there already.
    duplicates: u64,
    /// Of the jobs created, those without a key.
    without_key: u64,
    /// Whether that is the whole file.
    complete: bool,
}

/// Why it stopped before the end.
#[derive(Debug)]
pub(super) enum Stop {
    /// A line is no job, by itself or to the server.
    Bad(BadLine),
    /// The server refuses, or does not answer.
    Server(ClientError),
    /// The person at the keyboard has had enough.
    Interrupted,
}

/// A batch and what the server said to it.
struct Sent {
    batch: Batch,
    answer: Result<CreatedBatch, ClientError>,
}

impl Import {
    pub(super) fn new(source: &Source) -> Self {
        let (name, report) = (source.name.clone(), Report::default());
        Self { name, report, certain: 0, doubtful: None, bar: bar(source.bytes) }
    }

    /// Sends the whole file.
    pub(super) async fn run(
        &mut self,
        client: &Client,
        source: Source,
        rules: Rules,
    ) -> Result<(), Stop> {
        let mut batches = read_ahead(Batches::new(source, rules));
        let ended = tokio::select! {
            ended = self.send_all(client, &mut batches) => ended,
            _ = tokio::signal::ctrl_c() => Err(Stop::Interrupted),
        };
        self.bar.finish_and_clear();
        ended
    }

    async fn send_all(
        &mut self,
        client: &Client,
        batches: &mut mpsc::Receiver<Result<Batch, BadLine>>,
    ) -> Result<(), Stop> {
        let mut in_flight = VecDeque::new();
        let mut ended = Ok(());
        while ended.is_ok() {
            let Some(next) = batches.recv().await else { break };
            ended = self.send_next(client, next, &mut in_flight).await;
        }
        // Also what follows a batch that failed: its keys make it right to send it again.
        while let Some(sent) = in_flight.pop_front() {
            let settled = self.settle(client, sent, ended.is_ok()).await;
            ended = ended.and(settled);
        }
        ended
    }

    /// Sends one more batch, as soon as there is room for it.
    async fn send_next(
        &mut self,
        client: &Client,
        next: Result<Batch, BadLine>,
        in_flight: &mut VecDeque<JoinHandle<Sent>>,
    ) -> Result<(), Stop> {
        // Jobs without a key go alone, so that it is always clear up to where they are created.
        let room = match &next {
            Ok(batch) if batch.is_repeatable() => IN_FLIGHT,
            _ => 1,
        };
        while in_flight.len() >= room {
            let first = in_flight.pop_front().expect("there are some");
            self.settle(client, first, true).await?;
        }
        let batch = next.map_err(Stop::Bad)?;
        let goes_alone = !batch.is_repeatable();
        if goes_alone {
            self.doubtful = batch.lines.last().map(|(number, _)| *number);
        }
        let sent = tokio::spawn(send(client.clone(), batch));
        if !goes_alone {
            in_flight.push_back(sent);
            return Ok(());
        }
        self.settle(client, sent, true).await
    }

    /// Waits for the answer to a batch and counts it; `is_next` if all before it are created.
    async fn settle(
        &mut self,
        client: &Client,
        sent: JoinHandle<Sent>,
        is_next: bool,
    ) -> Result<(), Stop> {
        let sent = sent.await.expect("sending does not panic");
        let error = match sent.answer {
            Ok(created) if fits(&created, &sent.batch) => {
                self.count(&sent.batch, &created, is_next);
                return Ok(());
            }
            Ok(_) => unfit(client),
            Err(error) => error,
        };
        let refused = error.refusal().and_then(|refusal| Some((refusal.index?, refusal.clone())));
        if !error.is_in_doubt() {
            self.doubtful = None;
        }
        let Some((index, refusal)) = refused else { return Err(Stop::Server(error)) };
        let Some(&(number, _)) = sent.batch.lines.get(index) else {
            return Err(Stop::Server(error));
        };
        // Nothing of the batch was created; what stands before the bad line is to be.
        if is_next && index > 0 {
            self.send_front(client, sent.batch, index).await?;
        }
        Err(Stop::Bad(BadLine { number, why: told_of_line(refusal) }))
    }

    /// Sends the first lines of a batch whose line `index` was refused.
    async fn send_front(
        &mut self,
        client: &Client,
        mut batch: Batch,
        index: usize,
    ) -> Result<(), Stop> {
        batch.lines.truncate(index);
        let (last, end) = batch.lines[index - 1];
        batch.text.truncate(end);
        self.doubtful = Some(last).filter(|_| !batch.is_repeatable());
        let sent = send(client.clone(), batch).await;
        match sent.answer {
            Ok(created) if fits(&created, &sent.batch) => {
                self.count(&sent.batch, &created, true);
                Ok(())
            }
            Ok(_) => Err(Stop::Server(unfit(client))),
            Err(error) => Err(Stop::Server(error)),
        }
    }

    fn count(&mut self, batch: &Batch, created: &CreatedBatch, is_next: bool) {
        let duplicates = created.duplicates.len() as u64;
        self.report.duplicates += duplicates;
        self.report.created += created.ids.len() as u64 - duplicates;
        self.report.without_key += batch.without_key;
        self.doubtful = None;
        if let (Some((number, _)), true) = (batch.lines.last(), is_next) {
            self.certain = *number;
            self.bar.set_position(batch.end_bytes);
        }
        self.bar.set_message(self.report.to_string());
    }

    /// The totals.
    pub(super) fn report(&self, complete: bool) -> Report {
        Report { complete, ..self.report.clone() }
    }

    /// Why it stopped, and what to do about it.
    pub(super) fn explain(&self, stop: &Stop) -> String {
        let name = visible(&self.name);
        let (why, mend) = match stop {
            Stop::Bad(bad) => {
                let why = visible(&bad.why);
                (format!("{name}:{}: {why}", bad.number), "mend the line and ")
            }
            Stop::Server(error) => (visible(&error.to_string()), ""),
            Stop::Interrupted => ("interrupted".to_owned(), ""),
        };
        let next = self.certain + 1;
        if let Some(last) = self.doubtful {
            return format!(
                "{why}\nlines up to {} are created for certain; lines {next} to {last} have no \
                 unique_key, and may be created or not: look, then go on with what is missing",
                self.certain
            );
        }
        if self.report.without_key == 0 {
            let again = "run the command again, it creates what is missing";
            return format!("{why}\n{mend}{again}");
        }
        format!(
            "{why}\nlines up to {} are created for certain, some without a unique_key: {mend}go on \
             with `tail -n +{next}`, or they are created twice",
            self.certain
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "created {}", counted(self.created, "job"))?;
        if self.duplicates > 0 {
            write!(f, ", {} there already", self.duplicates)?;
        }
        if self.complete && self.without_key > 0 {
            let many = self.without_key;
            write!(f, " ({many} without a unique_key: a second run creates them again)")?;
        }
        Ok(())
    }
}

/// Reads batches on a thread of its own, which ends with the process if nobody wants more.
fn read_ahead(batches: Batches) -> mpsc::Receiver<Result<Batch, BadLine>> {
    let (sender, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        for batch in batches {
            if sender.blocking_send(batch).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Sends a batch; again and again for a while if that creates nothing twice.
async fn send(client: Client, mut batch: Batch) -> Sent {
    let text = Bytes::from(std::mem::take(&mut batch.text));
    let create = || client.create_lines(text.clone());
    let answer = if batch.is_repeatable() {
        client.repeat(create, |error| error.is_unanswered() || error.is_busy()).await
    } else {
        create().await
    };
    batch.text = text.try_into_mut().map_or_else(|text| text.to_vec(), Into::into);
    Sent { batch, answer }
}

/// Whether an answer tells of each line of the batch, as that of tallyd does.
fn fits(created: &CreatedBatch, batch: &Batch) -> bool {
    let lines = batch.lines.len();
    let is_ascending = created.duplicates.windows(2).all(|pair| pair[0] < pair[1]);
    let is_within = created.duplicates.last().is_none_or(|last| *last < lines);
    created.ids.len() == lines && is_ascending && is_within
}

fn unfit(client: &Client) -> ClientError {
    ClientError::unfit(client.server(), "it does not tell of each line")
}

/// What a refusal says of a line; the server has counted the lines of the batch.
fn told_of_line(refusal: Refusal) -> String {
    let said = refusal.to_string();
    let rest = said.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
    match rest {
        Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rest.to_owned(),
        _ => said,
    }
}

/// A bar on a terminal; nothing elsewhere.
fn bar(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (ProgressBar::new(bytes), "{bar:30} {percent:>3}%  {msg}  {eta} left"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}"),
    };
    let style = ProgressStyle::with_template(template).expect("the template is right");
    bar.set_style(style);
    bar
}
