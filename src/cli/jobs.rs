//! `tallyd jobs`: lists and shows jobs, and what an operator does to some of them.

use clap::builder::PossibleValuesParser;
use serde_json::value::RawValue;

use super::Failure;
use super::connection::Connection;
use super::output::{self, Form, Table, complain, counted, cut, visible};
use crate::client::{Client, ClientError, Document, Job, ListQuery, Page};
use crate::config::{duration, limits};
use crate::job::State;
use crate::store::JobId;

/// The most jobs of one request.
const PAGE: u64 = 500;

/// The jobs that are listed unless somebody says how many.
const DEFAULT_LIMIT: u64 = 100;

/// The characters of an error text in a list.
const ERROR_WIDTH: usize = 60;

/// The commands on jobs.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Jobs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List jobs, newest first
    List(List),
    /// Show a job with its payload and result
    Show(Show),
    /// Cancel jobs that have not ended
    Cancel(Act),
    /// Put dead jobs back
    Requeue(Act),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only jobs of this queue
    #[arg(long, env = "TALLYD_LIST_QUEUE", value_name = "QUEUE",
        value_parser = |text: &str| limits::queue_or_kind(Some(text)))]
    queue: Option<String>,
    /// Only jobs of this kind
    #[arg(long, env = "TALLYD_LIST_KIND", value_name = "KIND",
        value_parser = |text: &str| limits::queue_or_kind(Some(text)))]
    kind: Option<String>,
    /// Only jobs in this state
    #[arg(long, env = "TALLYD_LIST_STATE", value_name = "STATE",
        value_parser = PossibleValuesParser::new(State::ALL.map(State::name)))]
    state: Option<String>,
    /// List at most so many
    #[arg(long, env = "TALLYD_LIST_LIMIT", value_name = "COUNT", default_value_t = DEFAULT_LIMIT,
        value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "all")]
    limit: u64,
    /// List all of them
    #[arg(long, env = "TALLYD_LIST_ALL", value_parser = clap::builder::FalseyValueParser::new())]
    all: bool,
    /// Begin where a list before this one ended
    #[arg(long, env = "TALLYD_LIST_CURSOR", value_name = "CURSOR")]
    cursor: Option<String>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
struct Show {
    /// The job
    #[arg(value_name = "ID", value_parser = id)]
    id: String,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: Form,
}

#[derive(Debug, clap::Args)]
struct Act {
    /// The jobs
    #[arg(value_name = "ID", required = true, value_parser = id)]
    ids: Vec<String>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    form: Form,
}

impl Jobs {
    /// Does what the command says, and prints what became of the jobs.
    ///
    /// # Errors
    ///
    /// The server refuses or cannot be asked.
    pub fn run(&self) -> Result<(), Failure> {
        match &self.command {
            Command::List(list) => list.connection.run(async |client| list.run(client).await),
            Command::Show(show) => {
                let job = show.connection.run(async |client| Ok(client.job(&show.id).await?))?;
                match show.form.json {
                    true => output::print_json(job.json()),
                    false => output::print(&details(&job)),
                }
            }
            Command::Cancel(act) => act.run("cancelled", Client::cancel),
            Command::Requeue(act) => act.run("requeued", Client::requeue),
        }
    }
}

/// The id of a job.
fn id(text: &str) -> Result<String, String> {
    let id = text.parse::<JobId>().map_err(|error| error.to_string())?;
    Ok(id.to_string())
}

/// A page as the server wrote it, job by job.
#[derive(serde::Deserialize)]
struct RawPage<'a> {
    #[serde(borrow)]
    jobs: Vec<&'a RawValue>,
}

impl List {
    /// Prints page by page, so that a long list needs no memory.
    async fn run(&self, client: &Client) -> Result<(), Failure> {
        let mut printed = Printed::new(self.form.json);
        let mut left = if self.all { u64::MAX } else { self.limit };
        let mut cursor = self.cursor.clone();
        loop {
            let page = client.list(&self.query(cursor.take(), left)).await?;
            left = left.saturating_sub(page.jobs.len() as u64);
            printed.add(&page)?;
            cursor.clone_from(&page.next_cursor);
            if left == 0 || cursor.is_none() {
                break;
            }
        }
        printed.end(cursor.as_deref())
    }

    fn query(&self, cursor: Option<String>, left: u64) -> ListQuery {
        ListQuery {
            queue: self.queue.clone(),
            kind: self.kind.clone(),
            state: self.state.clone(),
            limit: u16::try_from(left.min(PAGE)).ok(),
            cursor,
        }
    }
}

/// What is printed of a list so far.
enum Printed {
    Table(Table),
    /// The beginning of one JSON document; whether it has a job already.
    Json(bool),
}

impl Printed {
    fn new(json: bool) -> Self {
        let titles = ["ID", "QUEUE", "KIND", "STATE", "FAILURES", "RUN AT", "LAST ERROR"];
        if json { Self::Json(false) } else { Self::Table(Table::new(&titles)) }
    }

    fn add(&mut self, page: &Document<Page>) -> Result<(), Failure> {
        let has_job = match self {
            Self::Table(table) => {
                return output::print(&table.rows(&page.jobs.iter().map(row).collect::<Vec<_>>()));
            }
            Self::Json(has_job) => has_job,
        };
        let raw: RawPage<'_> = serde_json::from_str(page.json().get())
            .expect("what was read as a page can be read as one again");
        let mut text = String::new();
        for job in raw.jobs {
            text.push_str(if *has_job { "," } else { r#"{"jobs":["# });
            text.push_str(job.get());
            *has_job = true;
        }
        output::print(&text)
    }

    fn end(self, cursor: Option<&str>) -> Result<(), Failure> {
        match (self, cursor) {
            (Self::Json(has_job), cursor) => {
                let start = if has_job { "" } else { r#"{"jobs":["# };
                let cursor = serde_json::Value::from(cursor);
                output::print(&format!("{start}],\"next_cursor\":{cursor}}}\n"))
            }
            (Self::Table(_), Some(cursor)) => {
                let cursor = visible(cursor);
                complain(&format!("there are more: --all lists them, --cursor {cursor} the next"));
                Ok(())
            }
            (Self::Table(_), None) => Ok(()),
        }
    }
}

/// A job in a list.
fn row(job: &Job) -> Vec<String> {
    vec![
        visible(&job.id),
        visible(&job.queue),
        visible(&job.kind),
        visible(&job.state),
        format!("{}/{}", job.failures, job.max_attempts),
        job.run_at.to_string(),
        job.last_error.as_ref().map_or(String::new(), |error| cut(&error.message, ERROR_WIDTH)),
    ]
}

/// All that is known of a job, a line each.
fn details(job: &Job) -> String {
    let time = |time: Option<crate::clock::Timestamp>| time.map(|time| time.to_string());
    let error = job.last_error.as_ref().map(|error| {
        format!("attempt {} {} at {}: {}", error.attempt, error.outcome, error.at, error.message)
    });
    let timeout = Some(duration::format(job.timeout)).filter(|_| !job.timeout.is_zero());
    let json = |json: &Option<Box<RawValue>>| json.as_ref().map(|json| json.get().to_owned());
    let lines = [
        ("id", Some(job.id.clone())),
        ("queue", Some(job.queue.clone())),
        ("kind", Some(job.kind.clone())),
        ("state", Some(job.state.clone())),
        ("priority", Some(job.priority.to_string())),
        ("attempt", Some(job.attempt.to_string())),
        ("failures", Some(format!("{} of {}", job.failures, job.max_attempts))),
        ("timeout", timeout),
        ("unique key", job.unique_key.clone()),
        ("traceparent", job.traceparent.clone()),
        ("created at", time(Some(job.created_at))),
        ("run at", time(Some(job.run_at))),
        ("claimed at", time(job.claimed_at)),
        ("ended at", time(job.ended_at)),
        ("expires at", time(job.expires_at)),
        ("worker", job.worker.clone()),
        ("last error", error),
        ("payload", json(&job.payload)),
        ("result", json(&job.result)),
    ];
    let lines = lines.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    lines.map(|(name, value)| format!("{name:<12} {}\n", visible(value))).collect()
}

impl Act {
    /// Acts on one job after the other; one that is refused does not keep the others from it.
    fn run(
        &self,
        done: &str,
        act: impl AsyncFn(&Client, &str) -> Result<Document<Job>, ClientError>,
    ) -> Result<(), Failure> {
        let (mut jobs, mut refused) = (Vec::new(), 0);
        let ended = self.connection.run(async |client| {
            for id in &self.ids {
                match act(client, id).await {
                    Ok(job) => jobs.push(job),
                    Err(ClientError::Refused(refusal)) if self.ids.len() > 1 => {
                        complain(&format!("{id}: {}", visible(&refusal.to_string())));
                        refused += 1;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        });
        if ended.is_err() && jobs.is_empty() {
            return ended;
        }
        let printed = match &jobs[..] {
            [job] if self.form.json && self.ids.len() == 1 => output::print_json(job.json()),
            jobs if self.form.json => {
                output::print_json(&jobs.iter().map(Document::json).collect::<Vec<_>>())
            }
            [] => Ok(()),
            jobs => {
                let rows: Vec<_> = jobs.iter().map(|job| row(job)[..4].to_vec()).collect();
                output::print(&Table::new(&["ID", "QUEUE", "KIND", "STATE"]).rows(&rows))
            }
        };
        ended?;
        if refused > 0 {
            let all = counted(self.ids.len() as u64, "job");
            return Err(Failure::Other(format!("{refused} of {all} were not {done}").into()));
        }
        printed
    }
}
