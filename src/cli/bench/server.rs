//! The server under test: this binary in a process of its own, on a temporary store.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::Instant;

use super::error::BenchError;
use super::report::Held;

/// A directory for the stores of one benchmark; removed at its end.
pub(super) struct Place {
    directory: TempDir,
    /// What the server is started by, such as a tracer.
    under: Vec<String>,
}

impl Place {
    /// A new directory in `parent`.
    pub(super) fn new(parent: &Path, under: &[String]) -> Result<Self, BenchError> {
        let doing = format!("make a directory in {}; name another with --dir", parent.display());
        let directory = tempfile::Builder::new().prefix("tallyd-bench-").tempdir_in(parent);
        let directory = directory.map_err(BenchError::system(doing))?;
        Ok(Self { directory, under: under.to_vec() })
    }

    /// The store's file.
    fn data(&self) -> PathBuf {
        self.directory.path().join("tallyd.db")
    }

    /// Writes the configuration that the server reads from now on.
    pub(super) fn configure(&self, text: &str) -> Result<(), BenchError> {
        let doing = "write the configuration of the server under test";
        std::fs::write(self.config(), text).map_err(BenchError::system(doing))
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("tallyd.toml")
    }

    /// Starts the daemon and waits until it is ready.
    pub(super) async fn serve(&self) -> Result<Server, BenchError> {
        let mut arguments = vec!["serve".into(), "--data".into(), self.data().into_os_string()];
        if self.config().exists() {
            arguments.extend(["--config".into(), self.config().into_os_string()]);
        }
        Server::start(&self.under, arguments).await
    }

    /// Starts the server that stores nothing and waits until it is ready.
    pub(super) async fn serve_nothing(&self) -> Result<Server, BenchError> {
        let data = self.directory.path().join("nothing.db").into_os_string();
        let arguments = ["bench".into(), "storeless".into(), "--data".into(), data];
        Server::start(&[], arguments.into()).await
    }

    /// The bytes of the store's file and of its log.
    fn sizes(&self) -> (u64, u64) {
        let size = |file: PathBuf| std::fs::metadata(file).map_or(0, |file| file.len());
        let mut log = self.data().into_os_string();
        log.push("-wal");
        (size(self.data()), size(log.into()))
    }
}

/// A server under test; ended when it is dropped.
pub(super) struct Server {
    child: Child,
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// From its start until it was ready.
    start: Duration,
}

/// A line of its log.
#[derive(Deserialize)]
struct Line {
    level: String,
    event: Option<String>,
    address: Option<SocketAddr>,
}

impl Server {
    async fn start(under: &[String], arguments: Vec<OsString>) -> Result<Self, BenchError> {
        let started = Instant::now();
        let own = std::env::current_exe().map_err(BenchError::system("find this program"))?;
        let mut words = under.iter().map(OsString::from).chain([own.into_os_string()]);
        let mut command = Command::new(words.next().expect("the program itself is the last"));
        command.args(words).args(arguments).args(["--listen", "127.0.0.1:0"]);
        // What is set for another daemon is not meant for this one.
        let set = std::env::vars_os().map(|(name, _)| name);
        for name in set.filter(|name| name.to_string_lossy().starts_with("TALLYD_")) {
            command.env_remove(name);
        }
        command.args(["--log-format", "json", "--log-level", "info"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.kill_on_drop(true).spawn();
        let mut child = child.map_err(BenchError::system("start the server under test"))?;
        let stderr = child.stderr.take().expect("it is piped");
        let mut lines = BufReader::new(stderr).lines();
        let address = listening(&mut lines).await?;
        let start = started.elapsed();
        tokio::spawn(pass_on(lines));
        Ok(Self { child, address, start })
    }

    /// The bytes that it holds in memory now.
    fn memory_bytes(&self) -> u64 {
        let pid = self.child.id().unwrap_or_default();
        let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
        let pages =
            text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
        pages.unwrap_or_default() * rustix::param::page_size() as u64
    }

    /// The processor time that it has used so far, in seconds.
    pub(super) fn cpu_seconds(&self) -> f64 {
        let pid = self.child.id().unwrap_or_default();
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // User and system time are the 14th and 15th field; the second is a name in parentheses.
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
        let ticks: u64 =
            fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    /// What it holds now, its store being at `place`.
    pub(super) fn held(&self, place: &Place) -> Held {
        let (store_bytes, wal_bytes) = place.sizes();
        let start_ms = self.start.as_secs_f64() * 1e3;
        Held { memory_bytes: self.memory_bytes(), store_bytes, wal_bytes, start_ms }
    }

    /// Ends it in order.
    pub(super) async fn stop(mut self) -> Result<(), BenchError> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            let doing = "tell the server under test to end";
            kill_process(pid, Signal::TERM)
                .map_err(|error| BenchError::system(doing)(error.into()))?;
        }
        let ended = self.child.wait().await;
        let ended = ended.map_err(BenchError::system("wait for the server under test"))?;
        if ended.success() { Ok(()) } else { Err(BenchError::ServerEnded(ended.to_string())) }
    }
}

impl Drop for Server {
    /// Ends it, and waits for that: it must not make files in a directory that is being removed.
    fn drop(&mut self) {
        let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) else {
            return;
        };
        // If it has ended by itself, or cannot be waited for, there is nothing to do.
        drop((self.child.start_kill(), waitid(WaitId::Pid(pid), UNREAPED)));
    }
}

/// That it has ended, which is left to the runtime to take note of.
const UNREAPED: WaitIdOptions = WaitIdOptions::EXITED.union(WaitIdOptions::NOWAIT);

/// Waits for the line that says where it listens.
async fn listening(lines: &mut Lines<BufReader<ChildStderr>>) -> Result<SocketAddr, BenchError> {
    let mut last = String::from("it has said nothing");
    while let Ok(Some(text)) = lines.next_line().await {
        if let Ok(line) = serde_json::from_str::<Line>(&text)
            && line.event.as_deref() == Some("listening")
            && let Some(address) = line.address
        {
            return Ok(address);
        }
        last = text;
    }
    Err(BenchError::ServerEnded(last))
}

/// Shows what the server warns of.
async fn pass_on(mut lines: Lines<BufReader<ChildStderr>>) {
    while let Ok(Some(text)) = lines.next_line().await {
        let level = serde_json::from_str::<Line>(&text).map(|line| line.level);
        if level.is_err() || level.is_ok_and(|level| level == "WARN" || level == "ERROR") {
            eprintln!("{text}");
        }
    }
}
