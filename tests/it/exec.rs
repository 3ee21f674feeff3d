//! The exec runner, with real commands.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, set_child_subreaper, waitid};
use tallyd::config::{ExecConfig, ExecLimits};
use tallyd::worker::exec::{Ended, GRACE, Invocation, Spawner, end_leftovers, run};
use tempfile::TempDir;
use tokio::runtime::{Handle, Runtime};
use tokio_util::sync::CancellationToken;

use crate::processes::{Line, NEVER, Process};

fn command(words: &[&str]) -> Invocation {
    let command = words.iter().map(ToString::to_string).collect();
    Invocation {
        config: ExecConfig {
            command,
            env: Default::default(),
            dir: None,
            user: None,
            limits: ExecLimits::default(),
        },
        variables: vec![("TALLYD_STORE", "exec-tests".into())],
        payload: Bytes::new(),
        timeout: None,
        grace: GRACE,
    }
}

fn sh(script: &str) -> Invocation {
    command(&["/bin/sh", "-c", script])
}

async fn end_of(invocation: Invocation) -> Ended {
    let spawner = Spawner::start(Handle::current()).unwrap();
    let attempt = run(&spawner, invocation, CancellationToken::new());
    tokio::time::timeout(NEVER, attempt).await.expect("the attempt ends")
}

/// Runs a script that says something, then interrupts it; also returns what it said.
async fn end_of_interrupted(script: &str, grace: Duration, line: &mut Line) -> (Ended, String) {
    let spawner = Spawner::start(Handle::current()).unwrap();
    let interrupt = CancellationToken::new();
    let attempt = run(&spawner, Invocation { grace, ..sh(script) }, interrupt.clone());
    let interrupted = async {
        let heard = line.hear().await;
        interrupt.cancel();
        heard
    };
    let both = async { tokio::join!(attempt, interrupted) };
    tokio::time::timeout(NEVER, both).await.expect("the attempt ends")
}

fn completed(result: &str) -> Ended {
    Ended::Completed { result: Some(result.into()) }
}

fn failed(error: &str) -> Ended {
    Ended::Failed { permanent: false, error: error.into() }
}

#[tokio::test]
async fn a_command_that_exits_0_completes_with_its_stdout() {
    let payload = Bytes::from_static(b"{\"to\": \"ann\"}");
    assert_eq!(
        end_of(Invocation { payload, ..command(&["/bin/cat"]) }).await,
        completed("{\"to\": \"ann\"}")
    );
    assert_eq!(end_of(sh("echo ignored >&2")).await, Ended::Completed { result: None });
}

#[tokio::test]
async fn other_exits_fail_and_say_why() {
    let permanent = Ended::Failed { permanent: true, error: "exit status 65: no address".into() };
    assert_eq!(end_of(sh("echo no address >&2; exit 65")).await, permanent);
    assert_eq!(end_of(sh("echo gone; echo down >&2; exit 3")).await, failed("exit status 3: down"));
    assert_eq!(end_of(sh("exit 3")).await, failed("exit status 3"));
    assert_eq!(end_of(sh("kill -KILL $$")).await, failed("killed by signal 9 (SIGKILL)"));
}

fn limited(script: &str, limits: ExecLimits) -> Invocation {
    let invocation = sh(script);
    Invocation { config: ExecConfig { limits, ..invocation.config }, ..invocation }
}

#[tokio::test]
async fn a_command_uses_no_more_than_its_limits() {
    let memory = ExecLimits { memory: Some(64 << 20), ..ExecLimits::default() };
    let hungry = "head -c 200000000 /dev/zero | tail -c 199999999 > /dev/null";
    let Ended::Failed { permanent: false, error } = end_of(limited(hungry, memory)).await else {
        panic!("it had 200 MB");
    };
    assert!(error.starts_with("exit status 1: ") && error.contains("memory"), "{error}");

    let cpu = ExecLimits { cpu: Some(Duration::from_secs(1)), ..ExecLimits::default() };
    let end = end_of(limited("while :; do :; done", cpu)).await;
    assert_eq!(end, failed("killed by signal 24 (SIGXCPU)"));

    let files = ExecLimits { files: Some(48), ..ExecLimits::default() };
    assert_eq!(end_of(limited("ulimit -Sn; ulimit -Hn", files)).await, completed("48\n48\n"));
    let greedy = "import os\nfor _ in range(48): os.open('/dev/null', os.O_RDONLY)";
    let greedy = command(&["python3", "-c", greedy]);
    let greedy = Invocation { config: ExecConfig { limits: files, ..greedy.config }, ..greedy };
    let Ended::Failed { permanent: false, error } = end_of(greedy).await else {
        panic!("it had 48 files besides its own")
    };
    assert!(error.contains("[Errno 24] Too many open files"), "EMFILE: {error}");
}

/// A program that would make it somebody else, such as sudo, makes it nobody else.
#[tokio::test]
async fn a_command_gains_no_rights_by_the_program_that_it_runs() {
    let status = "grep NoNewPrivs /proc/self/status";
    assert_eq!(end_of(sh(status)).await, completed("NoNewPrivs:\t1\n"));
}

#[tokio::test]
async fn a_command_is_ended_before_the_daemon_when_memory_runs_out() {
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let own: i32 = own.trim().parse().unwrap();
    let expected = completed(&format!("{}\n", own.max(500)));
    assert_eq!(end_of(sh("cat /proc/self/oom_score_adj")).await, expected);
    // Nor does it matter that the daemon has more files open than the command may.
    let open: Vec<_> = (0..100).map(|_| fs::File::open("/dev/null").unwrap()).collect();
    let limits = ExecLimits { files: Some(16), ..ExecLimits::default() };
    assert_eq!(end_of(limited("cat /proc/self/oom_score_adj", limits)).await, expected);
    drop(open);
}

#[tokio::test]
async fn arguments_are_not_read_by_a_shell() {
    let invocation = command(&["/bin/echo", "$HOME; exit 1", "*"]);
    assert_eq!(end_of(invocation).await, completed("$HOME; exit 1 *\n"));
}

#[tokio::test]
async fn a_command_that_never_reads_its_payload_hangs_nothing() {
    let payload = Bytes::from(vec![b' '; 1 << 20]);
    let invocation = Invocation { payload: payload.clone(), ..sh("echo done") };
    assert_eq!(end_of(invocation).await, completed("done\n"));

    let timeout = Some(Duration::from_millis(50));
    let invocation = Invocation { payload, timeout, ..sh("exec sleep 100") };
    assert!(matches!(end_of(invocation).await, Ended::TimedOut { .. }));
}

/// F16: what a command says has a limit.
#[tokio::test]
async fn input_and_output_flow_at_once_and_output_is_capped() {
    let payload = Bytes::from(b"0123456789abcdef".repeat(1 << 16));
    let expected = String::from_utf8(payload[..64 << 10].to_vec()).unwrap();
    // Reads little by little and prints each bit on both outputs before the next.
    let ended = end_of(Invocation { payload, ..sh("tee /dev/stderr") }).await;
    assert!(ended == completed(&expected), "not the first 64 KiB");
}

#[tokio::test]
async fn the_error_is_the_end_of_stderr() {
    let Ended::Failed { error, .. } = end_of(sh("seq 100000 >&2; exit 1")).await else {
        panic!("it failed")
    };
    let tail = error.strip_prefix("exit status 1: ").unwrap();
    assert!(tail.ends_with("99999\n100000"), "{tail}");
    // The last newline is among the 4 KiB, but not shown.
    assert_eq!(tail.len(), (4 << 10) - 1);
}

#[tokio::test]
async fn invalid_utf_8_is_replaced() {
    assert_eq!(end_of(sh(r"printf 'a\377b'")).await, completed("a\u{fffd}b"));
    assert_eq!(
        end_of(sh(r"printf 'a\377b' >&2; exit 1")).await,
        failed("exit status 1: a\u{fffd}b")
    );
}

#[tokio::test]
async fn a_timeout_ends_even_what_ignores_sigterm() {
    let invocation = Invocation {
        // Time enough for it to say something first.
        timeout: Some(Duration::from_secs(2)),
        grace: Duration::from_millis(50),
        ..sh("trap '' TERM; echo stuck >&2; exec sleep 100")
    };
    assert_eq!(
        end_of(invocation).await,
        Ended::TimedOut { error: "timed out after 2s: stuck".into() }
    );
}

#[tokio::test]
async fn sigterm_comes_first_and_leaves_time_to_clean_up() {
    let dir = TempDir::new().unwrap();
    let mut line = Line::new(dir.path(), "line");
    // Not a shell: one that gets the signal just before its `wait` may not hear it.
    let script = format!(
        "exec /usr/bin/perl -e '
        sub tell_test {{ open my $line, \">\", \"{}\"; print $line \"$_[0]\\n\"; close $line }}
        $SIG{{TERM}} = sub {{ tell_test(\"cleaned\"); exit 0 }};
        tell_test(\"ready\");
        select(undef, undef, undef, 0.01) while 1;'",
        line.path.display()
    );
    let (ended, _) = end_of_interrupted(&script, NEVER, &mut line).await;
    assert_eq!(ended, Ended::Interrupted);
    assert_eq!(line.hear().await, "cleaned");
}

#[tokio::test]
async fn an_interrupt_ends_grandchildren_too() {
    let dir = TempDir::new().unwrap();
    let mut line = Line::new(dir.path(), "line");
    let script = format!(
        "(trap '' TERM; exec sh -c 'echo $$ > {}; exec sleep 100') & wait",
        line.path.display()
    );
    let (ended, heard) = end_of_interrupted(&script, Duration::from_millis(50), &mut line).await;
    assert_eq!(ended, Ended::Interrupted);
    Process::named(&heard).ended().await;
}

#[tokio::test]
async fn an_interrupt_before_the_start_starts_nothing() {
    let spawner = Spawner::start(Handle::current()).unwrap();
    let interrupt = CancellationToken::new();
    interrupt.cancel();
    // An attempt to start it would fail.
    let report = command(&["/no/such/report"]);
    assert_eq!(run(&spawner, report, interrupt).await, Ended::Interrupted);
}

#[tokio::test]
async fn what_a_command_leaves_running_is_ended_after_it() {
    let dir = TempDir::new().unwrap();
    let mut line = Line::new(dir.path(), "line");
    let script = format!("sleep 100 & echo $! > {}; echo done", line.path.display());
    assert_eq!(end_of(sh(&script)).await, completed("done\n"));
    assert!(!line.hear_process().await.lives());
}

#[tokio::test]
async fn a_process_that_left_the_group_is_not_waited_for() {
    let dir = TempDir::new().unwrap();
    let mut line = Line::new(dir.path(), "line");
    let go = Line::new(dir.path(), "go");
    // It holds all pipes and keeps a dead member of the group as a zombie.
    let script = format!(
        "(sleep 100 & exec setsid sh -c 'echo $$ > {}; echo > {1}; exec sleep 100') &
        read _ < {1}; echo done",
        line.path.display(),
        go.path.display()
    );
    let payload = Bytes::from(vec![b' '; 1 << 20]);
    assert_eq!(end_of(Invocation { payload, ..sh(&script) }).await, completed("done\n"));
    assert!(line.hear_process().await.lives());
}

#[tokio::test]
async fn a_dropped_attempt_ends_its_group() {
    let dir = TempDir::new().unwrap();
    let mut line = Line::new(dir.path(), "line");
    let script = format!("trap '' TERM; sleep 100 & echo $! > {}; wait", line.path.display());
    let spawner = Spawner::start(Handle::current()).unwrap();
    let process = tokio::select! {
        _ = run(&spawner, sh(&script), CancellationToken::new()) => panic!("it does not end"),
        process = line.hear_process() => process,
    };
    process.ended().await;
}

#[tokio::test]
async fn what_cannot_be_started_fails_by_name() {
    assert_eq!(
        end_of(command(&["/no/such/report"])).await,
        failed("cannot start /no/such/report: No such file or directory (os error 2)")
    );
    let Ended::Failed { permanent: false, error } = end_of(command(&["no-such-report"])).await
    else {
        panic!("it failed")
    };
    assert!(error.starts_with("cannot start no-such-report: no such program in PATH /"), "{error}");
    let mut invocation = sh("exit 0");
    invocation.config.dir = Some("/no/such/dir".into());
    assert_eq!(
        end_of(invocation).await,
        failed("cannot start /bin/sh: its directory /no/such/dir does not exist")
    );
}

#[tokio::test]
async fn a_bare_name_is_looked_up_in_path() {
    let mut invocation = command(&["pwd"]);
    invocation.config.dir = Some("/usr".into());
    assert_eq!(end_of(invocation).await, completed("/usr\n"));

    let dir = TempDir::new().unwrap();
    let report = dir.path().join("report");
    std::os::unix::fs::symlink("/bin/echo", &report).unwrap();
    let mut invocation = command(&["report", "done"]);
    assert!(matches!(end_of(invocation.clone()).await, Ended::Failed { .. }));
    invocation.config.env.insert("PATH".into(), dir.path().display().to_string());
    assert_eq!(end_of(invocation).await, completed("done\n"));
}

#[tokio::test]
async fn the_environment_holds_nothing_else() {
    let mut invocation = command(&["/usr/bin/env"]);
    invocation.variables =
        vec![("TALLYD_JOB_ID", "7".into()), ("TALLYD_STORE", "exec-tests".into())];
    invocation.config.env.insert("REPORT".into(), "a b".into());
    invocation.config.env.insert("TALLYD_STORE".into(), "hidden".into());
    let Ended::Completed { result: Some(result) } = end_of(invocation).await else {
        panic!("it completed")
    };
    let mut variables: Vec<&str> = result.lines().collect();
    variables.sort_unstable();
    assert_eq!(variables, ["REPORT=a b", "TALLYD_JOB_ID=7", "TALLYD_STORE=exec-tests"]);
}

#[tokio::test]
async fn leftovers_are_found_by_their_store_and_ended() {
    let dir = TempDir::new().unwrap();
    let mut line = Line::new(dir.path(), "line");
    let script = "trap '' TERM; setsid sleep 100 & echo $$ > $0; echo $! > $0; wait";
    let mut left = Vec::new();
    // Their own, since another run of this test may go on beside this one.
    let [store, other] = ["1", "12"].map(|end| format!("leftovers-{}-{end}", std::process::id()));
    for store in [&store, &other] {
        let mut leftover = Command::new("/bin/sh");
        leftover.args(["-c", script]).arg(&line.path).env("TALLYD_STORE", store);
        let mut leftover = leftover.spawn().unwrap();
        std::thread::spawn(move || leftover.wait());
        left.push([line.hear_process().await, line.hear_process().await]);
    }
    let (ours, others) = (&left[0], &left[1]);

    assert_eq!(end_leftovers(&store).await.unwrap(), 2);
    assert!(!ours.iter().any(Process::lives));
    assert!(others.iter().all(Process::lives));
    assert_eq!(end_leftovers(&store).await.unwrap(), 0);
}

/// F21: commands are started by a thread that stays.
#[test]
fn children_outlive_the_thread_that_asked_for_them() {
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let dir = TempDir::new().unwrap();
    let (mut line, go) = (Line::new(dir.path(), "line"), Line::new(dir.path(), "go"));
    let script =
        format!("echo > {}; read _ < {}; echo done", line.path.display(), go.path.display());
    let spawner = Spawner::start(Handle::current()).unwrap();
    let mut attempt =
        Box::pin(async move { run(&spawner, sh(&script), CancellationToken::new()).await });
    let handle = Handle::current();
    let first = std::thread::spawn(move || {
        handle.block_on(async {
            tokio::select! {
                _ = &mut attempt => panic!("it waits for a word"),
                _ = line.hear() => {}
            }
        });
        attempt
    });
    let attempt = first.join().unwrap();
    fs::write(&go.path, "\n").unwrap();
    assert_eq!(runtime.block_on(tokio::time::timeout(NEVER, attempt)), Ok(completed("done\n")));
}

/// This test binary again, playing one of the parts of [`plays_a_part`].
fn part(name: &str, wrapper: &[&str]) -> Command {
    let mut words: Vec<PathBuf> = wrapper.iter().map(PathBuf::from).collect();
    words.push(std::env::current_exe().unwrap());
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .args(["--exact", "exec::plays_a_part", "--nocapture"])
        .env("TALLYD_TEST_PART", name);
    command
}

/// What the other tests start in a process of its own; by itself it has no part to play.
#[test]
fn plays_a_part() {
    let Ok(part) = std::env::var("TALLYD_TEST_PART") else { return };
    let runtime = Runtime::new().unwrap();
    match part.as_str() {
        "killed" => {
            let line = std::env::var("TALLYD_TEST_LINE").unwrap();
            let script = format!("echo $$ > {line}; exec sleep 100");
            runtime.block_on(end_of(sh(&script)));
        }
        "blocked" => {
            // Not by way of a shell, which may clear its mask itself.
            let script = "s/^Sig\\(Blk\\|Ign\\):\\t//p";
            let sed = command(&["/bin/sed", "-n", script, "/proc/self/status"]);
            let Ended::Completed { result: Some(masks) } = runtime.block_on(end_of(sed)) else {
                panic!("it completed")
            };
            let masks: Vec<u64> =
                masks.lines().map(|mask| u64::from_str_radix(mask, 16).unwrap()).collect();
            let sigpipe = 1 << (Signal::PIPE.as_raw() - 1);
            assert!(masks[0] == 0 && masks[1] & sigpipe == 0, "blocked, ignored: {masks:x?}");
        }
        "leftover" => {
            let store = std::env::var("TALLYD_STORE").unwrap();
            assert_eq!(runtime.block_on(end_leftovers(&store)).unwrap(), 0);
        }
        "subreaper" => {
            set_child_subreaper(Some(rustix::process::getpid())).unwrap();
            let ended = runtime.block_on(end_of(sh("sleep 100 & sleep 100 & echo done")));
            assert_eq!(ended, completed("done\n"));
            let any = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            assert_eq!(waitid(WaitId::All, any).err(), Some(Errno::CHILD), "zombies remain");
        }
        other => panic!("no part is called {other}"),
    }
}

#[tokio::test]
async fn direct_children_end_with_a_killed_daemon() {
    let dir = TempDir::new().unwrap();
    let mut line = Line::new(dir.path(), "line");
    let mut daemon = part("killed", &[]).env("TALLYD_TEST_LINE", &line.path).spawn().unwrap();
    let process = line.hear_process().await;
    assert!(process.lives());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    process.ended().await;
}

#[test]
fn commands_start_with_no_signal_blocked_and_sigpipe_not_ignored() {
    let wrapper = ["/usr/bin/env", "--block-signal=TERM,USR1"];
    assert!(part("blocked", &wrapper).status().unwrap().success());
}

#[test]
fn a_daemon_started_by_a_job_of_its_own_store_spares_itself_and_its_ancestors() {
    // The shell stays as the ancestor, because a command follows.
    let wrapper = ["/bin/sh", "-c", "\"$@\"; exit $?", "sh"];
    let mut daemon = part("leftover", &wrapper);
    // Its own, since another run of this test may go on beside this one.
    let store = format!("leftovers-self-{}", std::process::id());
    assert!(daemon.env("TALLYD_STORE", store).status().unwrap().success());
}

#[test]
fn a_daemon_that_inherits_orphans_reaps_those_of_its_groups() {
    assert!(part("subreaper", &[]).status().unwrap().success());
}
