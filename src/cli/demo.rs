//! `tallyd demo`: a daemon on a temporary store, with jobs to watch and somebody to do them.
//!
//! At the end no more jobs are created, the worker reports what it has, the daemon drains, and
//! the temporary directory is removed.

mod jobs;
mod receiver;
mod words;
mod worker;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Failure, logs, signals};
use crate::client::{Client, ClientError};
use crate::config::{Config, ConfigError, LogLevel, Overrides, limits};
use crate::daemon::{Daemon, DaemonError, Systemd};
use crate::server::MAX_CONNECTIONS;
use crate::server::receiver::receive;
use crate::worker::exec::open_files;

/// The configuration.
const CONFIG: &str = include_str!("demo/tallyd.toml");

/// What stands in it for the address of the demo's receiver.
const SAMPLE_RECEIVER: &str = "127.0.0.1:3000";

/// Jobs a second: more would be a load test, and nothing to look at.
const RATE: RangeInclusive<u64> = 1..=100;

/// Where the demo serves, and client commands look, unless told otherwise.
const USUAL: &str = "127.0.0.1:8255";

/// How long the end waits for threads that are still reading: they hold nothing that matters.
const LAST_READS: Duration = Duration::from_millis(100);

/// The flags of `tallyd demo`.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Serve HTTP on this address of this machine; port 0 is any that is free
    #[arg(long, env = "TALLYD_LISTEN", value_name = "ADDRESS", default_value = USUAL,
        value_parser = loopback)]
    listen: SocketAddr,

    /// Create so many jobs a second
    #[arg(long, env = "TALLYD_RATE", value_name = "COUNT", default_value = "4",
        value_parser = |text: &str| limits::count::<u32>(text.parse().ok(), &RATE))]
    rate: u32,

    /// Log from this severity on: error, warn, info, debug or trace
    #[arg(long, env = "TALLYD_LOG_LEVEL", value_name = "LEVEL", default_value = "error",
        value_parser = |text: &str| limits::log_level(Some(text)))]
    log_level: LogLevel,
}

/// An address that only this machine can reach.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address = limits::address(Some(text))?;
    if address.ip().to_canonical().is_loopback() {
        return Ok(address);
    }
    Err(format!("must be a loopback address, such as {USUAL}, since the demo lets everybody in"))
}

/// Why the demo did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("cannot use a temporary directory below {}", std::env::temp_dir().display())]
    Directory(#[source] io::Error),
    #[error("cannot listen for the demo's own pushes")]
    Receiver(#[source] io::Error),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "{0} is in use by another program; choose an address with --listen, such as \
         --listen 127.0.0.1:0 for any free port"
    )]
    InUse(SocketAddr),
    #[error(transparent)]
    Daemon(DaemonError),
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl From<DaemonError> for DemoError {
    fn from(error: DaemonError) -> Self {
        match error {
            DaemonError::Listen { address, source }
                if source.kind() == io::ErrorKind::AddrInUse =>
            {
                Self::InUse(address)
            }
            error => Self::Daemon(error),
        }
    }
}

impl Demo {
    /// Serves until SIGTERM or SIGINT, drains, and tells what was done.
    ///
    /// # Errors
    ///
    /// What kept it from starting, or why it ended by itself.
    pub fn run(&self) -> Result<(), Failure> {
        open_files::raise(MAX_CONNECTIONS);
        let runtime = Runtime::new().map_err(|error| Failure::Other(error.into()))?;
        let ended = runtime.block_on(signals::serve_until_asked(|stop| self.serve(stop)));
        runtime.shutdown_timeout(LAST_READS);
        ended
    }

    async fn serve(&self, stop: CancellationToken) -> Result<(), DemoError> {
        let directory = tempfile::Builder::new().prefix("tallyd-demo-").tempdir();
        let directory = directory.map_err(DemoError::Directory)?;
        let pushes = TcpListener::bind("127.0.0.1:0").await.map_err(DemoError::Receiver)?;
        let receiver = pushes.local_addr().map_err(DemoError::Receiver)?;
        let config = self.config(directory.path(), receiver)?;
        logs::start(config.log);
        if let Some(daemon) = Daemon::start(config, Systemd::default(), &stop).await? {
            // Until the daemon has drained, and then not even for connections that it left open.
            let receiving = receive(pushes, CancellationToken::new(), receiver::answer);
            tokio::select! {
                served = self.keep_busy(daemon, &stop) => served?,
                received = receiving => received.map_err(DemoError::Receiver)?,
            }
        }
        directory.close().map_err(DemoError::Directory)
    }

    /// The configuration that the directory gets, so that it can be looked at.
    fn config(&self, directory: &Path, receiver: SocketAddr) -> Result<Config, DemoError> {
        let file = directory.join("tallyd.toml");
        let text = CONFIG.replace(SAMPLE_RECEIVER, &receiver.to_string());
        std::fs::write(&file, text).map_err(DemoError::Directory)?;
        let overrides = Overrides {
            listen: Some(self.listen),
            data: Some(directory.join("tallyd.db")),
            log_level: Some(self.log_level),
            ..Overrides::default()
        };
        Ok(Config::load(Some(&file), &overrides)?)
    }

    /// Has jobs created and done until `stop`, or until the daemon ends by itself.
    async fn keep_busy(&self, daemon: Daemon, stop: &CancellationToken) -> Result<(), DemoError> {
        let metrics = daemon.metrics();
        let client = Client::new(&format!("http://{}", daemon.address()))?;
        say(&self.introduction(daemon.address(), &client).await);
        let (busy, draining) = (stop.child_token(), CancellationToken::new());
        let serves = async {
            let ended = daemon.run(&draining).await;
            busy.cancel();
            ended
        };
        let others = async {
            let ending = async {
                busy.cancelled().await;
                say("\nending: what runs may finish; another Ctrl-C ends at once\n");
            };
            tokio::join!(create(&client, self.rate, &busy), worker::work(&client, &busy), ending);
            draining.cancel();
        };
        let (ended, ()) = tokio::join!(serves, others);
        ended?;
        say(&words::summary(&metrics.snapshot()));
        Ok(())
    }

    async fn introduction(&self, address: SocketAddr, client: &Client) -> String {
        let waiting = client.create(&jobs::waiting()).await;
        let program = std::env::args().next().unwrap_or_else(|| "tallyd".to_owned());
        let is_told = std::env::var_os("TALLYD_SERVER").is_some();
        let introduction = words::Introduction {
            address,
            is_usual: address.to_string() == USUAL && !is_told,
            program: &words::quoted(&program),
            rate: self.rate,
            waiting: waiting.as_ref().map_or("ID", |job| &job.id),
        };
        introduction.text()
    }
}

/// Creates `rate` jobs a second until `stop`.
async fn create(client: &Client, rate: u32, stop: &CancellationToken) {
    let pause = Duration::from_secs(1) / rate;
    let mut due = Instant::now();
    for number in 0.. {
        if stop.run_until_cancelled(sleep_until(due)).await.is_none() {
            return;
        }
        if let Err(error) = client.create(&jobs::job(number)).await {
            warn!(event = "demo_create_failed", %error);
        }
        // Those that a slow disk held up are left out.
        due = Instant::now().max(due + pause);
    }
}

/// Says something to whoever reads; to nobody if standard output is closed.
fn say(text: &str) {
    drop(io::stdout().write_all(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        demo: Demo,
    }

    fn parse(flags: &[&str]) -> Result<Demo, clap::Error> {
        Line::try_parse_from(["demo"].iter().chain(flags)).map(|line| line.demo)
    }

    #[test]
    fn its_configuration_is_one_that_serve_would_take() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let demo = parse(&["--listen=[::1]:80", "--log-level=info"]).expect("the flags are right");
        let receiver = "127.0.0.1:7".parse().expect("an address");
        let config = demo.config(directory.path(), receiver).expect("it is right");
        assert_eq!(config.listen, "[::1]:80".parse().expect("an address"));
        assert_eq!(config.log.level, LogLevel::Info);
        assert!(config.data.starts_with(directory.path()));
        let text = config.to_toml().expect("it can be written");
        assert!(text.contains("http://127.0.0.1:7/webhooks"), "{text}");
    }

    #[test]
    fn a_wrong_flag_is_refused() {
        for (flag, right) in [
            ("--listen=0.0.0.0:8255", "must be a loopback address"),
            ("--listen=8255", "must be an IP address and a port"),
            ("--rate=0", "must be 1 to 100"),
            ("--log-level=loud", "must be error, warn"),
        ] {
            let error = parse(&[flag]).expect_err(flag).to_string();
            assert!(error.contains(right), "{flag}: {error}");
        }
    }
}
