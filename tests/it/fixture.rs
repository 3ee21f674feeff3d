//! A real tallyd for a test: the built binary on a free port and a temporary directory.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use rustix::process::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take before a test is given up: far more than a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The limit of a store's log.
pub const MOST_WAL_BYTES: u64 = 64 << 20;

/// How often a long test repeats itself: `usual`, scaled by `TALLYD_TEST_SCALE`.
pub fn scaled(usual: u32) -> u32 {
    let scale = std::env::var("TALLYD_TEST_SCALE")
        .map_or(1.0, |scale| scale.parse::<f64>().expect("TALLYD_TEST_SCALE must be a number"));
    ((f64::from(usual) * scale) as u32).max(1)
}

/// A directory with a configuration and a store, and the daemon that serves it.
pub struct Daemon {
    pub directory: TempDir,
    pub client: Client,
    /// Words put before the command line, like `strace …`.
    wrapper: Vec<String>,
    /// What the environment has besides that of the test.
    variables: Vec<(String, String)>,
    /// What it finds as its standard input; nothing if none.
    input: Option<OwnedFd>,
    log_level: &'static str,
    running: Option<Running>,
}

struct Running {
    child: Child,
    url: String,
    log: mpsc::Receiver<String>,
    seen: Vec<String>,
}

/// A client of HTTP. It seldom uses TLS, but the library wants to know by which code it would.
pub fn client() -> Client {
    // Fails if it was done before, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::new()
}

impl Daemon {
    /// Starts a daemon with this configuration; `listen` and `data` are set here.
    pub fn start(config: &str) -> Self {
        let mut daemon = Self::prepare(config);
        daemon.restart();
        daemon
    }

    /// A directory with this configuration, and no daemon yet.
    pub fn prepare(config: &str) -> Self {
        Self::prepare_in(&std::env::temp_dir(), config)
    }

    /// The same below another directory.
    pub fn prepare_in(place: &Path, config: &str) -> Self {
        let directory = tempfile::tempdir_in(place).expect("a temporary directory");
        let (wrapper, variables) = (Vec::new(), Vec::new());
        let (client, input, log_level) = (client(), None, "debug");
        let daemon =
            Self { directory, client, wrapper, variables, input, log_level, running: None };
        daemon.configure(config);
        daemon
    }

    /// Replaces the configuration; it applies from the next start.
    pub fn configure(&self, config: &str) {
        std::fs::write(self.path("tallyd.toml"), config).expect("the configuration is written");
    }

    /// Puts words before the command line from the next start on.
    pub fn wrap(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Sets a variable from the next start on.
    pub fn set(&mut self, variable: &str, value: &str) {
        self.variables.push((variable.to_owned(), value.to_owned()));
    }

    /// Has it log this level instead of debug from the next start on: under load that costs much.
    pub fn log_at(&mut self, level: &'static str) {
        self.log_level = level;
    }

    /// Gives it a descriptor as its standard input from the next start on.
    pub fn hand_over(&mut self, descriptor: OwnedFd) {
        self.input = Some(descriptor);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The size of the store's log; 0 if there is none.
    pub fn wal_bytes(&self) -> u64 {
        std::fs::metadata(self.path("tallyd.db-wal")).map_or(0, |log| log.len())
    }

    /// What the process holds in memory.
    pub fn resident_kib(&self) -> u64 {
        self.memory_kib("VmRSS:")
    }

    /// The most that it ever held.
    pub fn peak_kib(&self) -> u64 {
        self.memory_kib("VmHWM:")
    }

    fn memory_kib(&self, which: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let text = std::fs::read_to_string(path).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(which)).expect("it holds some");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// The command line that serves the directory.
    pub fn command(&self) -> Command {
        let mut words: Vec<_> = self.wrapper.clone();
        words.push(env!("CARGO_BIN_EXE_tallyd").to_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["serve", "--config", "tallyd.toml", "--data", "tallyd.db"]);
        command.args(["--listen", "127.0.0.1:0", "--log-format", "json"]);
        command.args(["--log-level", self.log_level]);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let input = self.input.as_ref().map(|input| input.try_clone().expect("it can be shared"));
        command
            .current_dir(self.directory.path())
            .stdin(input.map_or_else(Stdio::null, Stdio::from));
        command
    }

    /// Starts the daemon and waits until it serves.
    pub fn restart(&mut self) {
        self.launch();
        assert!(self.serves(), "it does not start:\n{}", self.log());
    }

    /// Starts the process and does not wait for anything.
    pub fn launch(&mut self) {
        assert!(self.running.is_none(), "the last one has not ended");
        let mut child = self.command().stderr(Stdio::piped()).spawn().expect("it starts");
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let (sender, log) = mpsc::channel();
        let kept = File::options().append(true).create(true).open(self.path("tallyd.log"));
        let mut kept = kept.expect("the log can be kept");
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // A full disk keeps nothing; a test hears it all the same.
                drop(writeln!(kept, "{line}"));
                // Nobody reads it once the daemon has ended.
                drop(sender.send(line));
            }
        });
        self.running = Some(Running { child, url: String::new(), log, seen: Vec::new() });
    }

    /// Waits until it serves; false if it ends before.
    pub fn serves(&mut self) -> bool {
        let ready = self.log_line(|line| line["message"] == "tallyd is ready");
        let Some(ready) = ready else { return false };
        let address = ready["address"].as_str().expect("it says where").to_owned();
        let scheme = if ready["tls"] == true { "https" } else { "http" };
        self.running_mut().url = format!("{scheme}://{address}");
        true
    }

    fn running_mut(&mut self) -> &mut Running {
        self.running.as_mut().expect("the daemon runs")
    }

    /// Waits for a log line; fails with all lines seen if it ends or takes too long.
    pub fn wait_for_log(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let line = self.log_line(is_wanted);
        line.unwrap_or_else(|| panic!("no such log line:\n{}", self.log()))
    }

    /// Waits for a log line; none if it ends before.
    pub fn log_line(&mut self, is_wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let running = self.running_mut();
        loop {
            match running.log.recv_timeout(PATIENCE) {
                Ok(line) => {
                    let value: Value = serde_json::from_str(&line).unwrap_or_default();
                    running.seen.push(line);
                    if is_wanted(&value) {
                        return Some(value);
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(error) => panic!("no such log line ({error}):\n{}", running.seen.join("\n")),
            }
        }
    }

    /// All log lines until now, or until its end if it has ended.
    pub fn log(&mut self) -> String {
        let running = self.running_mut();
        running.seen.extend(running.log.try_iter());
        running.seen.join("\n")
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.running.as_ref().expect("the daemon runs").url)
    }

    /// The process to send signals to; a wrapper's child is found below it.
    pub fn pid(&self) -> Pid {
        let child = self.running.as_ref().expect("the daemon runs").child.id();
        let is_tallyd = std::fs::read_link(format!("/proc/{child}/exe"))
            .is_ok_and(|program| program == Path::new(env!("CARGO_BIN_EXE_tallyd")));
        let pid = if is_tallyd { Some(child) } else { only_child_of(child) };
        let pid = pid.expect("the wrapper has a child").cast_signed();
        Pid::from_raw(pid).expect("a process id is not 0")
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("it runs");
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        let status = self.wait();
        assert!(!status.success(), "it was killed: {status}");
    }

    /// Asks it to drain, and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the daemon runs");
        running.child.wait().expect("it is our child")
    }

    /// Sends a request with a JSON body; null is none.
    pub async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let mut request = self.client.request(method, self.url(path)).timeout(PATIENCE);
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.expect("it answers");
        let status = response.status();
        let body = response.bytes().await.expect("the answer is whole");
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    pub async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(Method::POST, path, body).await
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.ask(Method::GET, path, Value::Null).await
    }

    /// The exposition, parsed.
    pub async fn scrape(&self) -> Scrape {
        let response = self.client.get(self.url("/metrics")).timeout(PATIENCE).send().await;
        let response = response.expect("it answers");
        assert_eq!(response.status(), StatusCode::OK);
        Scrape::parse(&response.text().await.expect("the answer is whole"))
    }

    /// Asks for a job until `is_wanted`; by the state's own notifications this is not possible.
    pub async fn job_when(&self, id: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (status, job) = self.get(&format!("/v1/jobs/{id}")).await;
            assert_eq!(status, StatusCode::OK, "{job}");
            if is_wanted(&job) {
                return job;
            }
            assert!(tokio::time::Instant::now() < deadline, "it stays so: {job}");
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("what the test leaves is kept in {}", self.directory.path().display());
        }
        if let Some(mut running) = self.running.take() {
            let wrapped = only_child_of(running.child.id()).filter(|_| !self.wrapper.is_empty());
            if let Some(pid) = wrapped.and_then(|pid| Pid::from_raw(pid.cast_signed())) {
                // It may have ended by itself; then there is nothing to do.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            drop(running.child.kill());
            drop(running.child.wait());
        }
    }
}

fn only_child_of(pid: u32) -> Option<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Whether a process was ended by this signal.
pub fn ended_by(status: ExitStatus, signal: rustix::process::Signal) -> bool {
    status.signal() == Some(signal.as_raw())
}

/// One exposition: samples by name with labels, as written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scrape {
    pub text: String,
    samples: std::collections::HashMap<String, f64>,
}

/// How the counters begin that the ledger keeps.
const KEPT: [&str; 6] = [
    "tallyd_pairs_overflow_jobs_total",
    "tallyd_jobs_",
    "tallyd_attempts_",
    "tallyd_leases_lost_total",
    "tallyd_duplicates_total",
    "tallyd_sweeper_jobs_total",
];

fn is_kept(name: &str) -> bool {
    KEPT.iter().any(|prefix| name.starts_with(prefix))
}

impl Scrape {
    /// Reads either format, with the bounds of buckets as the older one writes them.
    pub fn parse(text: &str) -> Self {
        Self::parse_those(text, |_| true)
    }

    /// The same, but only what the ledger says, how many attempts the histograms have counted, and
    /// how much memory and log there is: for tests that read thousands.
    pub fn parse_ledger(text: &str) -> Self {
        let others = [
            "tallyd_jobs{",
            "tallyd_tally_mismatch",
            "tallyd_job_wait_seconds_count",
            "tallyd_attempt_duration_seconds_count",
            "process_resident_memory_bytes",
            "tallyd_store_wal_size_bytes",
        ];
        Self::parse_those(text, |line| {
            is_kept(line) || others.iter().any(|prefix| line.starts_with(prefix))
        })
    }

    fn parse_those(text: &str, is_wanted: impl Fn(&str) -> bool) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && is_wanted(line));
        let samples = lines.map(|line| {
            let sample = line.split_once(" # {").map_or(line, |(sample, _exemplar)| sample);
            let (name, value) = sample.rsplit_once(' ').expect("a sample has a value");
            let whole = name.strip_suffix(".0\"}").filter(|name| name.contains("le=\""));
            let name = whole.map_or_else(|| name.to_owned(), |name| format!("{name}\"}}"));
            (name, value.parse().expect("a value is a number"))
        });
        Self { samples: samples.collect(), text: text.to_owned() }
    }

    /// A sample by its name with labels, as written; it must be there.
    pub fn value(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no {sample} in\n{}", self.text))
    }

    /// Samples that begin so, by their full names.
    pub fn starting<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = (&'s str, f64)> {
        let samples = self.samples.iter().map(|(name, value)| (&**name, *value));
        samples.filter(move |(name, _)| name.starts_with(prefix))
    }

    /// Every (queue, kind) label pair, as written between the braces.
    pub fn pairs(&self) -> Vec<String> {
        let created = "tallyd_jobs_created_total{";
        let pairs = self
            .starting(created)
            .map(|(name, _)| name.trim_start_matches(created).trim_end_matches('}').to_owned());
        pairs.collect()
    }

    /// The identities that do not hold, one line each, with their numbers.
    pub fn broken_identities(&self) -> Vec<String> {
        let mut broken = Vec::new();
        for pair in self.pairs() {
            let total = |name: &str| self.value(&format!("tallyd_{name}_total{{{pair}}}"));
            let state = |name: &str| self.value(&format!("tallyd_jobs{{{pair},state=\"{name}\"}}"));
            let ended = |result: &str| {
                self.value(&format!("tallyd_attempts_ended_total{{{pair},result=\"{result}\"}}"))
            };
            let levels: f64 =
                ["scheduled", "ready", "retrying", "running", "dead"].map(state).iter().sum();
            let gone = total("jobs_completed") + total("jobs_cancelled") + total("jobs_discarded");
            let failed: f64 = ["failed", "timed_out", "lease_expired"].map(ended).iter().sum();
            let others: f64 = ["completed", "released", "cancelled"].map(ended).iter().sum();
            for (name, left, right) in [
                ("I1", total("jobs_created"), levels + gone),
                ("I2", total("attempts_started"), state("running") + failed + others),
                ("I3 completed", ended("completed"), total("jobs_completed")),
                ("I3 failed", failed, total("jobs_retried") + total("jobs_died")),
            ] {
                if left != right {
                    broken.push(format!("{name} of {pair}: {left} != {right}"));
                }
            }
        }
        broken
    }

    /// The counters that the ledger keeps, by their full names.
    pub fn ledger(&self) -> std::collections::BTreeMap<String, f64> {
        let kept = self.samples.iter().filter(|(name, _)| is_kept(name));
        kept.map(|(name, value)| (name.clone(), *value)).collect()
    }

    /// The counters of the ledger that are less than they were in `earlier`.
    pub fn went_back_from(&self, earlier: &Self) -> Vec<String> {
        let kept = earlier.samples.iter().filter(|(name, _)| is_kept(name));
        let now = |name: &String| self.samples.get(name);
        let less = kept.filter(|(name, was)| now(name).is_none_or(|is| is < *was));
        less.map(|(name, was)| format!("{name} was {was}, is {:?}", now(name))).collect()
    }
}
