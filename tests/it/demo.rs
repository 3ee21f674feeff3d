//! `tallyd demo`: what it prints works, what it does adds up, and it leaves nothing behind.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::fixture::{PATIENCE, Scrape, client};
use crate::tools::said;

/// A running demo, in a directory that is its temporary one too.
struct Demo {
    directory: TempDir,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// The names and what they stand for, of the lines that it began with.
    told: Vec<(String, String)>,
}

fn command(directory: &Path, listen: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyd"));
    command.args(["demo", "--rate", "50", "--listen", listen]);
    command.current_dir(directory).env("TMPDIR", directory).env_remove("TALLYD_SERVER");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

impl Demo {
    /// Starts it, and reads what it says until it is busy.
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = command(directory.path(), "127.0.0.1:0");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut demo = Self { directory, child, lines, told: Vec::new() };
        while demo.told.last().is_none_or(|(name, _)| name != "create one") {
            let line = demo.line().await.expect("it is not at its end");
            let named = line.strip_prefix("  ").and_then(|line| line.split_once("  "));
            demo.told.extend(named.map(|(name, what)| (name.to_owned(), what.trim().to_owned())));
        }
        demo
    }

    /// The next line that it prints.
    async fn line(&mut self) -> Option<String> {
        let line = timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("it prints more, or ends").unwrap()
    }

    fn told(&self, name: &str) -> &str {
        let told = self.told.iter().find(|(told, _)| told == name);
        &told.unwrap_or_else(|| panic!("no {name} in {:#?}", self.told)).1
    }

    async fn open(&self, name: &str) -> String {
        let answer = client().get(self.told(name)).timeout(PATIENCE).send().await.unwrap();
        assert!(answer.status().is_success(), "{name}: {}", answer.status());
        answer.text().await.unwrap()
    }

    async fn scrape(&self) -> Scrape {
        let scrape = Scrape::parse(&self.open("metrics").await);
        assert_eq!(scrape.broken_identities(), Vec::<String>::new());
        scrape
    }

    /// Pastes a command that it printed, from the directory that it was started in.
    async fn paste(&self, name: &str) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-c", self.told(name)]).current_dir(self.directory.path());
        let output = timeout(PATIENCE, shell.output()).await.expect("it ends").unwrap();
        assert!(output.status.success(), "{}: {}", self.told(name), said(&output));
        String::from_utf8(output.stdout).expect("it prints text")
    }

    fn interrupt(&self) {
        let pid = self.child.id().expect("it runs").cast_signed();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::INT).unwrap();
    }

    /// The rest of its lines, once it has ended as it should.
    async fn ended(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            lines.push(line);
        }
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap();
        assert_eq!(status.code(), Some(0));
        lines
    }
}

/// The sum of one series of all kinds of a queue, or of all queues.
fn sum(scrape: &Scrape, name: &str, queue: &str) -> f64 {
    let series = scrape
        .starting(name)
        .filter(|(series, _)| queue.is_empty() || series.contains(&format!("queue=\"{queue}\"")));
    series.map(|(_, value)| value).sum()
}

const QUEUES: [&str; 3] = ["webhooks", "thumbnails", "reports"];

/// Whether each queue has completed, retried and given up some.
fn has_shown_all(scrape: &Scrape) -> bool {
    QUEUES.iter().all(|queue| {
        ["completed", "retried", "died"]
            .iter()
            .all(|what| sum(scrape, &format!("tallyd_jobs_{what}_total"), queue) > 0.0)
    })
}

/// The processes whose working directory is this one.
fn processes_in(directory: &Path) -> Vec<String> {
    let directory = directory.canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter(|process| {
            std::fs::read_link(process.path().join("cwd")).is_ok_and(|cwd| cwd == directory)
        })
        .map(|process| std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default())
        .collect()
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[tokio::test]
async fn every_queue_completes_retries_and_gives_up_some_and_the_end_adds_up() {
    let mut demo = Demo::start().await;
    let shows = async { while !has_shown_all(&demo.scrape().await) {} };
    timeout(PATIENCE, shows).await.expect("all sorts of ends come soon");
    let before = demo.scrape().await;
    demo.interrupt();
    let lines = demo.ended().await;
    let summary = lines.last().expect("it says what was done");
    let (sum_told, retried) = summary.split_once("; retried ").expect(summary);
    let (created, parts) =
        sum_told.strip_prefix("created ").and_then(|sum| sum.split_once(" = ")).expect(summary);
    let number = |text: &str| text.rsplit(' ').next().unwrap().parse::<f64>().expect(summary);
    assert_eq!(number(created), parts.split(" + ").map(number).sum::<f64>(), "{summary}");
    assert!(number(created) >= sum(&before, "tallyd_jobs_created_total", ""), "{summary}");
    assert!(number(retried) >= sum(&before, "tallyd_jobs_retried_total", ""), "{summary}");
    assert!(parts.ends_with(" + running 0"), "{summary}");
    assert_eq!(entries(demo.directory.path()), 0, "its store is gone");
    assert_eq!(processes_in(demo.directory.path()), Vec::<String>::new());
}

#[tokio::test]
async fn what_it_prints_can_be_opened_and_pasted() {
    let mut demo = Demo::start().await;
    assert!(demo.open("routes").await.contains("/v1/leases"));
    assert!(demo.open("counts").await.contains("\"jobs_created\""));
    assert!(demo.open("API").await.contains("\"openapi\""));
    let shows = async { while !has_shown_all(&demo.scrape().await) {} };
    timeout(PATIENCE, shows).await.expect("all sorts of ends come soon");
    let queues = demo.paste("queues").await;
    assert!(QUEUES.iter().all(|queue| queues.contains(queue)), "{queues}");
    assert!(demo.paste("dead jobs").await.contains("dead"));
    demo.paste("try again").await;
    assert!(sum(&demo.scrape().await, "tallyd_jobs_requeued_total", "webhooks") > 0.0);
    let paused = r#"tallyd_queue_paused{queue="reports"}"#;
    demo.paste("pause").await;
    assert_eq!(demo.scrape().await.value(paused), 1.0);
    demo.paste("go on").await;
    assert_eq!(demo.scrape().await.value(paused), 0.0);
    assert!(demo.paste("one job").await.contains("\"scheduled\""));
    demo.paste("cancel it").await;
    assert!(demo.paste("one job").await.contains("\"cancelled\""));
    assert!(demo.paste("create one").await.contains("\"me.jpg\""));
    demo.interrupt();
    let lines = demo.ended().await;
    assert!(lines.last().is_some_and(|line| line.contains(" + cancelled 1 + ")), "{lines:#?}");
}

#[tokio::test]
async fn an_address_in_use_is_told_with_the_flag_that_chooses_another() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let output = command(directory.path(), &address).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(&address) && error.contains("--listen"), "{error}");
    assert_eq!(entries(directory.path()), 0);
}
