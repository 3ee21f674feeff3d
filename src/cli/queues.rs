//! `tallyd queues`: lists, pauses and resumes queues, and acts on many of their jobs at once.

use super::Failure;
use super::connection::Connection;
use super::output::{self, Form, Table, counted, visible};
use crate::client::{self, Bulk, BulkDone, BulkRequest, Client, ClientError, Document, Queue};
use crate::clock::Timestamp;
use crate::config::limits;
use crate::job::State;

/// The jobs that one request acts on: the server answers soon, and Ctrl-C stops soon.
const STEP: u64 = 1_000;

/// The commands on queues.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Queues {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List queues with their jobs by state
    List(List),
    /// Stop claims from queues; what runs goes on
    Pause(Switch),
    /// Allow claims again
    Resume(Switch),
    /// Cancel the jobs of a queue that have not ended
    Cancel(Many),
    /// Put the dead jobs of a queue back
    RequeueDead(Many),
    /// Remove the dead jobs of a queue
    DiscardDead(Many),
}

#[derive(Debug, clap::Args)]
struct List {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
struct Switch {
    /// The queues
    #[arg(value_name = "QUEUE", required = true,
        value_parser = |text: &str| limits::queue_or_kind(Some(text)))]
    queues: Vec<String>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
struct Many {
    /// The queue
    #[arg(value_name = "QUEUE", value_parser = |text: &str| limits::queue_or_kind(Some(text)))]
    queue: String,
    /// Only jobs of this kind
    #[arg(long, env = "TALLYD_BULK_KIND", value_name = "KIND",
        value_parser = |text: &str| limits::queue_or_kind(Some(text)))]
    kind: Option<String>,
    /// Only jobs created before this time, like 2026-03-01T12:00:00Z
    #[arg(long, env = "TALLYD_BULK_BEFORE", value_name = "TIME", value_parser = time)]
    before: Option<Timestamp>,
    /// At most so many; without it, as many as there are now
    #[arg(long, env = "TALLYD_BULK_LIMIT", value_name = "COUNT",
        value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: Form,
}

impl Queues {
    /// Does what the command says, and prints the queues or how many jobs it was done to.
    ///
    /// # Errors
    ///
    /// The server refuses or cannot be asked.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::List(list) => list.run(),
            Command::Pause(switch) => switch.run(Client::pause),
            Command::Resume(switch) => switch.run(Client::resume),
            Command::Cancel(many) => many.run(Bulk::Cancel),
            Command::RequeueDead(many) => many.run(Bulk::RequeueDead),
            Command::DiscardDead(many) => many.run(Bulk::DiscardDead),
        }
    }
}

/// A point in time with an offset.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text)
        .ok_or_else(|| "must be RFC 3339 with an offset, like 2026-03-01T12:00:00Z".to_owned())
}

impl List {
    fn run(&self) -> Result<(), Failure> {
        let list = self.connection.run(async |client| Ok(client.queues().await?))?;
        match self.form.json {
            true => output::print_json(list.json()),
            false => print_table(&list.queues),
        }
    }
}

fn print_table<'a>(queues: impl IntoIterator<Item = &'a Queue>) -> Result<(), Failure> {
    let states = State::ALL.map(State::name);
    let titles = [
        "QUEUE",
        "RUNNER",
        "PAUSED",
        "SCHEDULED",
        "READY",
        "RETRYING",
        "RUNNING",
        "COMPLETED",
        "CANCELLED",
        "DEAD",
        "OLDEST READY",
    ];
    let row = |queue: &Queue| {
        let paused = if queue.paused { "yes" } else { "no" };
        let mut row = vec![visible(&queue.name), visible(&queue.runner), paused.to_owned()];
        let count = |state: &&str| queue.jobs.get(*state).copied().unwrap_or_default();
        row.extend(states.iter().map(|state| count(state).to_string()));
        row.push(queue.oldest_ready_at.map_or(String::new(), |at| at.to_string()));
        row
    };
    let rows: Vec<_> = queues.into_iter().map(row).collect();
    output::print(&Table::new(&titles).rows(&rows))
}

impl Switch {
    fn run(
        &self,
        switch: impl AsyncFn(&Client, &str) -> Result<Document<Queue>, ClientError>,
    ) -> Result<(), Failure> {
        let mut switched = Vec::new();
        let ended = self.connection.run(async |client| {
            for queue in &self.queues {
                switched.push(switch(client, queue).await?);
            }
            Ok(())
        });
        // Those before one that failed are switched.
        let printed = match &switched[..] {
            [] => Ok(()),
            [queue] if self.form.json && self.queues.len() == 1 => output::print_json(queue.json()),
            queues if self.form.json => {
                output::print_json(&queues.iter().map(Document::json).collect::<Vec<_>>())
            }
            queues => print_table(queues.iter().map(|queue| &**queue)),
        };
        ended.and(printed)
    }
}

impl Many {
    fn run(&self, bulk: Bulk) -> Result<(), Failure> {
        let mut done = BulkDone { count: 0, more: true };
        let ended = self.connection.run(async |client| self.act(client, bulk, &mut done).await);
        if self.form.json {
            let json = serde_json::json!({"count": done.count, "more": done.more});
            let printed = output::print_json(&json);
            return ended.and(printed);
        }
        let verb = match bulk {
            Bulk::Cancel => "cancelled",
            Bulk::RequeueDead => "requeued",
            Bulk::DiscardDead => "discarded",
        };
        if done.count == 0 && ended.is_err() {
            return ended;
        }
        let rest = if done.more && ended.is_ok() { "; there may be more" } else { "" };
        let printed = output::print(&format!("{verb} {}{rest}\n", counted(done.count, "job")));
        ended.and(printed)
    }

    /// Acts in steps until there are no more. Without a limit it also ends once it has acted on more
    /// than there are now, since some may come back as fast as they are acted on.
    async fn act(&self, client: &Client, bulk: Bulk, done: &mut BulkDone) -> Result<(), Failure> {
        let most = match self.limit {
            Some(limit) => limit,
            None => there_now(&*client.queue(&self.queue).await?, bulk) + 1,
        };
        while done.more && done.count < most {
            let limit = self.limit.map_or(STEP, |limit| STEP.min(limit - done.count));
            let request = BulkRequest {
                kind: self.kind.clone(),
                before: self.before,
                limit: u16::try_from(limit).ok(),
            };
            let step = client.act_on_many(&self.queue, bulk, &request).await?;
            *done = BulkDone { count: done.count + step.count, more: step.more };
            if step.more && step.count == 0 {
                return Err(Failure::Other(
                    "the server says that there are more, but acts on none".into(),
                ));
            }
        }
        Ok(())
    }
}

/// How many jobs of a queue there are to act on.
fn there_now(queue: &client::Queue, bulk: Bulk) -> u64 {
    let states: &[State] = match bulk {
        Bulk::Cancel => &[State::Scheduled, State::Ready, State::Retrying, State::Running],
        Bulk::RequeueDead | Bulk::DiscardDead => &[State::Dead],
    };
    states.iter().filter_map(|state| queue.jobs.get(state.name())).sum()
}
