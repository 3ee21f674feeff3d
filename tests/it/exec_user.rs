//! Commands that run as another user: what they are, that they end all the same, and what is refused.
//!
//! Only root can change users, so these tests fail, and say so, if they do not run as root.

use std::path::Path;
use std::process::{Command, Output};

use rustix::process::{Signal, geteuid};
use serde_json::json;

use crate::fixture::Daemon;
use crate::processes::Line;
use crate::tools::said;

/// A queue whose jobs run this script as that user.
fn queue(user: &str, script: &str) -> String {
    format!(
        "[queues.work]\nmax_attempts = 1\n\
         exec = {{ command = [\"/bin/sh\", \"-c\", '''{script}'''], user = \"{user}\" }}\n"
    )
}

fn assert_is_root() {
    assert!(geteuid().is_root(), "this test has commands run as other users; run it as root");
}

async fn create(daemon: &Daemon) -> String {
    let job = daemon.post("/v1/jobs", json!({"queue": "work", "kind": "k", "payload": 7})).await.1;
    job["id"].as_str().unwrap_or_else(|| panic!("{job}")).to_owned()
}

/// What a command says about itself that completes.
async fn result(daemon: &Daemon) -> String {
    let id = create(daemon).await;
    let job = daemon.job_when(&id, |job| !job["ended_at"].is_null()).await;
    job["result"].as_str().unwrap_or_else(|| panic!("{job}")).to_owned()
}

/// Who it is, what it may gain, and what it may do.
const WHO: &str = "id -u; id -g; id -G; grep -E ^NoNewPrivs /proc/self/status; \
                   grep -E \"^Cap(Inh|Prm|Eff|Amb)\" /proc/self/status; cat > /dev/stderr";

const NO_RIGHTS: &str = "NoNewPrivs:\t1\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
                         CapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n";

#[tokio::test]
async fn a_command_is_its_user_with_all_its_groups_and_no_more_rights() {
    assert_is_root();
    let mut daemon = Daemon::prepare(&queue("reports", WHO));
    // On a machine that has this user; only the daemon sees it.
    for (file, line) in
        [("passwd", "reports:x:4711:4712::/:/bin/false"), ("group", "crew:x:4713:reports")]
    {
        let text = std::fs::read_to_string(Path::new("/etc").join(file)).expect("it is there");
        std::fs::write(daemon.path(file), format!("{text}{line}\n")).expect("it can be written");
    }
    let mount = "mount --bind passwd /etc/passwd && mount --bind group /etc/group && exec \"$@\"";
    daemon.wrap(&["unshare", "--mount", "/bin/sh", "-c", mount, "sh"]);
    daemon.restart();
    assert_eq!(result(&daemon).await, format!("4711\n4712\n4712 4713\n{NO_RIGHTS}"));
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());

    let daemon = Daemon::start(&queue("4714:4715", WHO));
    assert_eq!(result(&daemon).await, format!("4714\n4715\n4715\n{NO_RIGHTS}"));
}

/// A service need not be root; what it may do does not pass to its commands.
#[tokio::test]
async fn a_daemon_with_just_the_capabilities_runs_commands_without_any() {
    assert_is_root();
    let who = WHO.replace("; cat > /dev/stderr", "");
    let rights = r#"["/bin/grep", "-E", "^Cap(Prm|Eff|Amb)", "/proc/self/status"]"#;
    let own = format!("[queues.own]\nexec = {{ command = {rights} }}\n");
    let mut daemon = Daemon::prepare(&format!("{}{own}", queue("4714:4715", &who)));
    let four = "-all,+setuid,+setgid,+kill,+sys_ptrace";
    let [inherited, ambient] = ["inh", "ambient"].map(|set| format!("--{set}-caps={four}"));
    let like_no_root = "--securebits=+noroot,+no_setuid_fixup";
    daemon.wrap(&["setpriv", like_no_root, &inherited, &ambient, "--"]);
    daemon.restart();
    let own = format!("/proc/{}/status", daemon.pid());
    let own = std::fs::read_to_string(own).expect("it runs");
    assert!(own.contains("CapEff:\t00000000000800e0\nCapBnd"), "{own}");
    assert_eq!(result(&daemon).await, format!("4714\n4715\n4715\n{NO_RIGHTS}"));
    // Nor to those that run as the daemon's own user: they could become any other with them.
    let job = daemon.post("/v1/jobs", json!({"queue": "own", "kind": "k"})).await.1;
    let id = job["id"].as_str().expect("an id");
    let job = daemon.job_when(id, |job| !job["ended_at"].is_null()).await;
    let none = "0000000000000000";
    let rights = format!("CapPrm:\t{none}\nCapEff:\t{none}\nCapAmb:\t{none}\n");
    assert_eq!(job["result"], rights);
}

/// A daemon with a job as nobody, and the processes that its command told of.
struct Running {
    daemon: Daemon,
    line: Line,
}

impl Running {
    /// The script finds the pipe to talk on in `$0`.
    fn start(script: &str) -> Self {
        assert_is_root();
        let mut daemon = Daemon::prepare("");
        let line = Line::new(daemon.directory.path(), "line");
        // Both are root's, and nobody must be able to write there.
        for (place, mode) in [(daemon.directory.path(), 0o711), (&*line.path, 0o666)] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(place, mode).expect("it is ours");
        }
        let script = script.replace("$0", &line.path.display().to_string());
        daemon.configure(&queue("nobody", &script));
        daemon.restart();
        Self { daemon, line }
    }
}

#[tokio::test]
async fn a_cancel_ends_the_whole_group_of_another_user() {
    let script = "trap \"\" TERM; sleep 100 & echo $$ > $0; echo $! > $0; wait; wait";
    let Running { daemon, mut line } = Running::start(script);
    let id = create(&daemon).await;
    let both = [line.hear_process().await, line.hear_process().await];
    daemon.post(&format!("/v1/jobs/{id}/cancel"), json!(null)).await;
    for process in &both {
        process.ended().await;
    }
}

/// F21: the kernel forgets at a change of user that the command is to end with the daemon.
#[tokio::test]
async fn a_command_of_another_user_ends_with_a_killed_daemon() {
    let Running { mut daemon, mut line } = Running::start("echo $$ > $0; exec sleep 100");
    create(&daemon).await;
    let command = line.hear_process().await;
    daemon.kill();
    command.ended().await;
}

/// F21: what has left the group is found by its environment, whoever it belongs to.
#[tokio::test]
async fn what_a_crash_left_of_another_user_is_ended_by_the_next_start() {
    let script = "setsid /bin/sh -c \"echo \\$\\$ > $0; exec sleep 100\"; sleep 100";
    let Running { mut daemon, mut line } = Running::start(script);
    create(&daemon).await;
    let left = line.hear_process().await;
    daemon.kill();
    assert!(left.lives(), "it is in no group of the daemon's");
    daemon.restart();
    assert!(!left.lives(), "the start has ended it");
    let told = daemon.log();
    assert!(told.contains("leftovers_ended"), "{told}");
}

/// The second call of its kind in a child is the one that clears them.
#[tokio::test]
async fn a_command_starts_where_the_kernel_knows_no_ambient_capabilities() {
    for (error, state) in [("EINVAL", "completed"), ("EPERM", "dead")] {
        let mut daemon = Daemon::prepare(
            "[queues.work]\nmax_attempts = 1\nexec = { command = [\"/bin/true\"] }\n",
        );
        let inject = format!("inject=prctl:error={error}:when=2");
        crate::strace::trace(&mut daemon, "trace=prctl", &[inject], None);
        daemon.restart();
        let id = create(&daemon).await;
        let job = daemon.job_when(&id, |job| !job["ended_at"].is_null()).await;
        assert_eq!(job["state"], state, "{error}: {job}");
        assert!(daemon.stop().success());
        let traced = std::fs::read_to_string(daemon.path("trace.log")).expect("it is written");
        let mut injected = traced.lines().filter(|line| line.contains("INJECTED"));
        assert!(injected.any(|line| line.contains("PR_CAP_AMBIENT_CLEAR_ALL")), "{traced}");
    }
}

fn serve(directory: &Path, wrapper: &[&str]) -> Output {
    let serve = [env!("CARGO_BIN_EXE_tallyd"), "serve", "--config", "tallyd.toml"];
    // One that starts after all is ended, and exits otherwise than was expected.
    let words = [&["timeout", "60"], wrapper, &serve, &["--listen", "127.0.0.1:0"]].concat();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(directory).output().expect("it runs")
}

#[test]
fn an_unknown_user_or_a_daemon_that_may_not_change_users_exits_2_and_says_why() {
    assert_is_root();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let put = |user: &str| {
        std::fs::write(directory.path().join("tallyd.toml"), queue(user, "true")).expect("written");
    };
    put("no-such-user");
    let output = serve(directory.path(), &[]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let told = "tallyd.toml:3: queues.work.exec.user must be the name of a user of this machine";
    assert!(said(&output).starts_with(told), "{}", said(&output));
    assert!(said(&output).contains("got \"no-such-user\""), "{}", said(&output));

    put("nobody");
    let lacking = ["setpriv", "--bounding-set", "-setuid,-kill", "--"];
    let output = serve(directory.path(), &lacking);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let told = "queues.work.exec.user needs CAP_SETUID, CAP_KILL, which tallyd does not have; start \
                it as root or with them, or leave user out\n";
    assert!(said(&output).ends_with(told), "{}", said(&output));
    assert!(!directory.path().join("tallyd.db").exists(), "nothing was begun");
}
