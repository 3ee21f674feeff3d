//! Workers, and the daemon itself, that are stopped for three leases and go on as if nothing had
//! been: what they report late is refused and counted, and every job is completed once.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::fixture::{Daemon, Scrape};
use crate::processes::{Line, Process};

/// How many jobs a zombie holds.
const HELD: usize = 10;

/// An outside worker: leases, waits for a word, then reports the ends of its jobs and asks for more
/// time. Of both it notes the answers.
const WORKER: &str = r#"
post() { curl -sS --fail-with-body -H 'content-type: application/json' -d @- "$URL/v1/leases$1"; }
echo '{"queues": ["outside"], "max": 10, "wait": "60s"}' | post '' > "leased-$$"
jq '.jobs | length' "leased-$$" > said
read -r _ < go
jq '[.jobs[] | {lease, outcome: "completed"}]' "leased-$$" | post /finish >> answers
jq '{leases: [.jobs[].lease]}' "leased-$$" | post /renew >> answers
echo done > said
"#;

/// Waits until a child of this process is stopped.
fn until_stopped(pid: Pid) {
    // Its end, if it comes, is for who waits for that.
    let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), stopped).unwrap().expect("it is stopped");
}

fn stop(pid: Pid) {
    kill_process(pid, Signal::STOP).unwrap();
    until_stopped(pid);
}

async fn create(daemon: &Daemon, queue: &str, number: usize) -> BTreeSet<String> {
    let jobs = json!(vec![json!({"queue": queue, "kind": "k"}); number]);
    let (status, created) = daemon.post("/v1/jobs/batch", jobs).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    let ids = created["ids"].as_array().unwrap().iter();
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// Leases until each of so many jobs has come; answers with all leases, of some maybe two.
async fn lease_all(daemon: &Daemon, number: usize, duration: &str) -> Vec<Value> {
    let (mut leases, mut come) = (Vec::new(), BTreeSet::new());
    while come.len() < number {
        let ask = json!({"queues": ["outside"], "max": 100, "wait": "60s", "duration": duration});
        let (status, leased) = daemon.post("/v1/leases", ask).await;
        assert_eq!(status, StatusCode::OK, "{leased}");
        let jobs = leased["jobs"].as_array().unwrap();
        assert!(!jobs.is_empty(), "only {} of {number} are claimable again", come.len());
        come.extend(jobs.iter().map(|job| job["id"].to_string()));
        leases.extend(jobs.iter().map(|job| job["lease"].clone()));
    }
    leases
}

/// P5: leases so many jobs whose leases of this duration nobody ends any more, and were given out
/// before. Each must be claimable a second after its lease; five are allowed.
async fn lease_again(daemon: &Daemon, number: usize, duration: &str, held: Duration) -> Vec<Value> {
    let since = Instant::now();
    let leases = lease_all(daemon, number, duration).await;
    let most = held + Duration::from_secs(1) * 5;
    assert!(since.elapsed() <= most, "{number} jobs are claimable after {:?}", since.elapsed());
    leases
}

/// Reports completions; the answers.
async fn finish(daemon: &Daemon, leases: &[Value]) -> Vec<String> {
    let complete = |lease: &Value| json!({"lease": lease, "outcome": "completed"});
    let ends: Vec<Value> = leases.iter().map(complete).collect();
    let (status, answer) = daemon.post("/v1/leases/finish", ends.into()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    results(&answer)
}

fn results(answer: &Value) -> Vec<String> {
    let results = answer["results"].as_array().unwrap().iter();
    results.map(|result| result.as_str().unwrap().to_owned()).collect()
}

fn count(scrape: &Scrape, name: &str, queue: &str, label: &str) -> f64 {
    scrape.value(&format!("tallyd_{name}{{queue=\"{queue}\",kind=\"k\"{label}}}"))
}

/// Asserts that so many jobs of a queue exist, all completed, each once.
fn assert_completed(scrape: &Scrape, queue: &str, number: usize) {
    assert_eq!(scrape.broken_identities(), Vec::<String>::new());
    assert_eq!(count(scrape, "jobs_created_total", queue, ""), number as f64);
    assert_eq!(count(scrape, "jobs_completed_total", queue, ""), number as f64);
    assert_eq!(count(scrape, "jobs", queue, ",state=\"running\""), 0.0);
}

fn start_worker(directory: &Path, url: &str) -> Child {
    let mut worker = Command::new("/bin/sh");
    worker.args(["-c", WORKER]).current_dir(directory).env("URL", url).stdin(Stdio::null());
    worker.spawn().unwrap()
}

/// How long the leases last that nobody ends.
const BRIEF: Duration = Duration::from_secs(1);

/// F12: an outside worker that was away for three leases reports jobs which others have by then.
#[tokio::test]
async fn a_stopped_worker_is_refused_and_its_jobs_are_done_once_by_others() {
    let daemon = Daemon::start("[queues.outside]\nlease = \"1s\"\nkinds = [\"k\"]\n");
    let directory = daemon.directory.path();
    let (mut said, go) = (Line::new(directory, "said"), Line::new(directory, "go"));
    let number = 3 * HELD;
    create(&daemon, "outside", number).await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        let worker = start_worker(directory, &daemon.url(""));
        assert_eq!(said.hear().await, HELD.to_string());
        stop(Pid::from_child(&worker));
        workers.push(worker);
    }

    // Two leases more that nobody ends, then one that its holder keeps.
    let mut stale = lease_again(&daemon, number, "1s", BRIEF).await;
    stale.extend(lease_again(&daemon, number, "1s", BRIEF).await);
    let live = lease_again(&daemon, number, "10m", BRIEF).await;
    assert_eq!(live.len(), number, "each job is claimable again, and once");

    for worker in &workers {
        kill_process(Pid::from_child(worker), Signal::CONT).unwrap();
    }
    go.say(workers.len());
    for _ in &workers {
        assert_eq!(said.hear().await, "done");
    }
    for mut worker in workers {
        assert!(worker.wait().unwrap().success());
    }
    let answers = std::fs::read_to_string(daemon.path("answers")).unwrap();
    let answers = serde_json::Deserializer::from_str(&answers).into_iter::<Value>();
    let mut answers: Vec<String> =
        answers.flat_map(|answer| results(&answer.expect("it is whole"))).collect();
    assert_eq!(answers.len(), 2 * number, "an end and a renewal of each job");
    answers.extend(finish(&daemon, &stale).await);
    assert!(answers.iter().all(|answer| answer == "lease_lost"), "{answers:?}");

    assert_eq!(finish(&daemon, &live).await, vec!["ok"; number], "who has the jobs kept them");
    let scrape = daemon.scrape().await;
    assert_completed(&scrape, "outside", number);
    let lost = scrape.value("tallyd_leases_lost_total{queue=\"outside\"}");
    assert_eq!(lost, answers.len() as f64, "each refusal is counted");
    let expired = count(&scrape, "attempts_ended_total", "outside", ",result=\"lease_expired\"");
    assert_eq!(expired, (number + stale.len()) as f64);
}

/// How long a lease lasts in the queues of the daemon that is stopped.
const LEASE: Duration = Duration::from_secs(2);

/// The first attempt waits for a word; later ones work at once.
const COMMANDS: &str = r#"
[queues.work]
lease = "2s"
kinds = ["k"]
exec = { command = ["/bin/sh", "-c", '''
    test $TALLYD_ATTEMPT = 1 || exit 0
    echo $$ > said; read -r _ < go; echo ended > said'''] }

[queues.outside]
lease = "2s"
kinds = ["k"]
"#;

/// F4: a daemon that was away for three leases stops what it ran, and does not miscount.
#[tokio::test]
async fn a_stopped_daemon_ends_what_it_ran_and_every_job_is_completed_once() {
    // In memory: a disk that is busy with other things may take longer to sync than a lease lasts.
    let mut daemon = Daemon::prepare_in(Path::new("/dev/shm"), COMMANDS);
    let directory = daemon.directory.path().to_owned();
    let (mut said, go) = (Line::new(&directory, "said"), Line::new(&directory, "go"));
    daemon.restart();
    let own = create(&daemon, "work", HELD).await;
    let mut commands = Vec::new();
    for _ in 0..HELD {
        commands.push(said.hear_process().await);
    }
    create(&daemon, "outside", 2 * HELD).await;
    let mut leases = lease_all(&daemon, 2 * HELD, "2s").await;
    stop(daemon.pid());

    // Half of the commands end while nobody looks, and half of the outside leases are reported.
    go.say(HELD / 2);
    for _ in 0..HELD / 2 {
        assert_eq!(said.hear().await, "ended");
    }
    let mut early = JoinSet::new();
    for lease in leases.drain(..HELD) {
        let ends = json!([{"lease": lease, "outcome": "completed"}]);
        let request = daemon.client.post(daemon.url("/v1/leases/finish")).json(&ends);
        early.spawn(async move { request.send().await.unwrap().json::<Value>().await.unwrap() });
    }
    let silence = async {
        tokio::select! {
            said = said.hear() => format!("a command says {said}"),
            answer = early.join_next() => format!("{answer:?} is answered"),
        }
    };
    let heard = tokio::time::timeout(3 * LEASE, silence).await;
    assert!(heard.is_err(), "the daemon is stopped, but {heard:?}");
    daemon.signal(Signal::CONT);

    // What came before the sweep may be accepted, each by itself.
    let early = early.join_all().await;
    let early: Vec<String> = early.iter().flat_map(results).collect();
    let lost = early.iter().filter(|answer| *answer == "lease_lost").count();
    assert_eq!(early.iter().filter(|answer| *answer == "ok").count() + lost, HELD, "{early:?}");
    for command in &commands {
        Process::ended(command).await;
    }
    let live = lease_again(&daemon, HELD + lost, "10m", LEASE).await;
    assert_eq!(live.len(), HELD + lost, "claimable again, and once");
    assert_eq!(finish(&daemon, &leases).await, vec!["lease_lost"; HELD]);
    assert_eq!(finish(&daemon, &live).await, vec!["ok"; HELD + lost]);
    for id in &own {
        daemon.job_when(id, |job| job["state"] == "completed").await;
    }

    let scrape = daemon.scrape().await;
    assert_completed(&scrape, "outside", 2 * HELD);
    assert_completed(&scrape, "work", HELD);
    let refused = scrape.value("tallyd_leases_lost_total{queue=\"outside\"}");
    assert_eq!(refused, (HELD + lost) as f64);
    let expired = count(&scrape, "attempts_ended_total", "work", ",result=\"lease_expired\"");
    assert!(
        expired >= (HELD / 2) as f64,
        "those that held on did not keep their leases: {expired}"
    );
    assert_eq!(count(&scrape, "attempts_ended_total", "work", ",result=\"failed\""), 0.0);
    assert_eq!(scrape.value("tallyd_queue_workers_busy{queue=\"work\"}"), 0.0);
    assert_eq!(daemon.stop().code(), Some(0));
}
