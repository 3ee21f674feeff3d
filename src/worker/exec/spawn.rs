//! The one thread from which every command of a queue is started.
//!
//! A child asks the kernel to be killed when its parent ends, and "parent" means the thread that
//! forked it. Threads of a runtime's pool come and go; this one stays.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::fs::{Access, access};
use tokio::process::Command;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::before_exec::{Identity, prepare_child};
use super::group::Group;
use super::rlimits;
use crate::config::ExecConfig;

/// How many attempts may wait for the thread; a fork takes about a millisecond, and who finds no
/// room waits in the caller.
const WAITING: usize = 64;

/// Starts commands from a thread that lives as long as the last clone of this.
#[derive(Debug, Clone)]
pub struct Spawner {
    requests: mpsc::Sender<Request>,
    died: CancellationToken,
}

#[derive(Debug)]
struct Request {
    config: ExecConfig,
    variables: Vec<(&'static str, String)>,
    interrupt: CancellationToken,
    answer: oneshot::Sender<Option<Result<Group, Refusal>>>,
}

impl Spawner {
    /// Starts the thread. The children's pipes and exits are watched by `runtime`, which must
    /// have I/O and time enabled.
    pub fn start(runtime: Handle) -> io::Result<Self> {
        let (requests, waiting) = mpsc::channel(WAITING);
        let died = CancellationToken::new();
        let ends = died.clone().drop_guard();
        std::thread::Builder::new().name("tallyd-spawner".into()).spawn(move || {
            serve(&runtime, waiting);
            ends.disarm();
        })?;
        Ok(Self { requests, died })
    }

    /// What is cancelled if the thread ends although it must not.
    pub(in crate::worker) fn died(&self) -> CancellationToken {
        self.died.clone()
    }

    /// Starts a command in a process group of its own; the error names what could not be started.
    /// Nothing if it was interrupted before it began.
    pub(super) async fn spawn(
        &self,
        config: ExecConfig,
        variables: Vec<(&'static str, String)>,
        interrupt: CancellationToken,
    ) -> Option<Result<Group, Refusal>> {
        const ALIVE: &str = "the spawner's thread ends after the last spawner";
        let (answer, spawned) = oneshot::channel();
        let request = Request { config, variables, interrupt, answer };
        self.requests.send(request).await.expect(ALIVE);
        spawned.await.expect(ALIVE)
    }
}

fn serve(runtime: &Handle, mut waiting: mpsc::Receiver<Request>) {
    let _entered = runtime.enter();
    while let Some(Request { config, variables, interrupt, answer }) = waiting.blocking_recv() {
        if answer.is_closed() {
            continue;
        }
        let spawned = (!interrupt.is_cancelled()).then(|| spawn(&config, variables));
        // A caller that left meanwhile gives the group back, and dropping it ends it.
        drop(answer.send(spawned));
    }
}

fn spawn(config: &ExecConfig, variables: Vec<(&'static str, String)>) -> Result<Group, Refusal> {
    let Some(name) = config.command.first() else {
        return Err("cannot start a command without a program".to_owned().into());
    };
    let mut command = Command::new(program(name, config)?);
    command
        .arg0(name)
        .args(&config.command[1..])
        .env_clear()
        .envs(&config.env)
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(dir) = &config.dir {
        command.current_dir(dir);
    }
    let identity = config.user.as_ref().map(Identity::of);
    prepare_child(&mut command, rlimits::of(&config.limits), identity);
    let child = command.spawn().map_err(|error| refusal(name, config, &error))?;
    Ok(Group::of(child))
}

/// Why a spawn failed.
#[derive(Debug)]
pub(super) struct Refusal {
    /// What could not be started, and why.
    pub(super) error: String,
    /// Whether it is the machine that lacks something, for now.
    pub(super) is_shortage: bool,
}

impl From<String> for Refusal {
    fn from(error: String) -> Self {
        Self { error, is_shortage: false }
    }
}

/// Why a spawn failed. The kernel has one error for a missing program and a missing directory.
fn refusal(name: &str, config: &ExecConfig, error: &io::Error) -> Refusal {
    const SHORTAGES: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::ENOMEM];
    let is_shortage = error.raw_os_error().is_some_and(|number| SHORTAGES.contains(&number));
    let error = match (&config.dir, &config.user) {
        (Some(dir), _) if !dir.is_dir() => {
            format!("cannot start {name}: its directory {} does not exist", dir.display())
        }
        (_, Some(user)) => format!("cannot start {name} as {}: {error}", user.name),
        _ => format!("cannot start {name}: {error}"),
    };
    Refusal { error, is_shortage }
}

/// The file to execute.
///
/// Once its environment is cleared the standard library would look a bare name up in the C
/// library's default path, so it is looked up here: in the command's own PATH if it is given
/// one, as `env` does, else in the daemon's.
fn program(name: &str, config: &ExecConfig) -> Result<PathBuf, Refusal> {
    if name.contains('/') {
        return Ok(name.into());
    }
    let missing = |place: &str| format!("cannot start {name}: no such program in {place}").into();
    match config.env.get("PATH") {
        // What `env` has is not told.
        Some(path) => find(name, OsStr::new(path)).ok_or_else(|| missing("the PATH of its env")),
        None => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            find(name, &path).ok_or_else(|| missing(&format!("PATH {}", path.display())))
        }
    }
}

/// The first executable file of that name. Relative entries are skipped: they would change with
/// the working directory.
fn find(name: &str, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
}
