//! Backups: complete, of one moment, beside full load, and in nobody's way.

mod interrupted;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::{Client, StatusCode};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::fixture::{Daemon, MOST_WAL_BYTES, PATIENCE, client};
use crate::stored::{Stored, identity_of_store};

/// What a daemon of these tests is started with.
const CONFIG: &str = "backup_dir = \"backups\"\n[queues.q]\nlease = \"10m\"\n";

/// A daemon with a directory for backups and so many jobs.
async fn daemon_with(jobs: usize) -> Daemon {
    let mut daemon = prepare(CONFIG);
    daemon.restart();
    fill(&daemon, jobs).await;
    daemon
}

/// A directory for a daemon and its backups.
fn prepare(config: &str) -> Daemon {
    let daemon = Daemon::prepare(config);
    std::fs::create_dir(daemon.path("backups")).unwrap();
    daemon
}

/// Creates so many jobs, about 400 bytes each on disk.
async fn fill(daemon: &Daemon, jobs: usize) {
    for _ in 0..jobs / 1_000 {
        let job = json!({"queue": "old", "kind": "k", "payload": "x".repeat(200)});
        let (status, answer) = daemon.post("/v1/jobs/batch", vec![job; 1_000].into()).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
}

/// Has a backup written; answers with its file.
async fn back_up(daemon: &Daemon) -> PathBuf {
    let (status, answer) = daemon.post("/v1/backup", Value::Null).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let file = PathBuf::from(answer["file"].as_str().unwrap());
    let metadata = file.metadata().unwrap();
    assert_eq!(answer["bytes"], metadata.len());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    file
}

/// The names in the directory of backups.
fn backups(daemon: &Daemon) -> Vec<String> {
    let entries = std::fs::read_dir(daemon.path("backups")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// What the clients of a loaded daemon were told.
#[derive(Default)]
struct Told {
    created: Vec<String>,
    completed: Vec<String>,
}

/// Creates jobs, leases and completes them, until `stop`.
async fn work(http: Client, url: String, told: Arc<Mutex<Told>>, stop: Arc<AtomicBool>) {
    let post = async |path: &str, body: Value| -> Value {
        let request = http.post(format!("{url}{path}")).timeout(PATIENCE).json(&body);
        let response = request.send().await.expect("it answers");
        assert!(response.status().is_success(), "{path}: {}", response.status());
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    };
    while !stop.load(Ordering::Relaxed) {
        let job = post("/v1/jobs", json!({"queue": "q", "kind": "k", "payload": 1})).await;
        told.lock().unwrap().created.push(job["id"].as_str().unwrap().to_owned());
        let leased = post("/v1/leases", json!({"queues": ["q"]})).await;
        let Some(job) = leased["jobs"].get(0) else { continue };
        let finish = json!([{"lease": job["lease"], "outcome": "completed", "result": 1}]);
        let answer = post("/v1/leases/finish", finish).await;
        assert_eq!(answer["results"], json!(["ok"]));
        told.lock().unwrap().completed.push(job["id"].as_str().unwrap().to_owned());
    }
}

/// A copy that is sound, exact, complete by itself, and holds what had been told before.
fn check_copy(file: &Path, created: &[String], completed: &[String]) {
    let stored = Stored::read(file);
    assert_eq!(stored.integrity, Vec::<String>::new());
    assert_eq!(stored.wrong_counts(), Vec::<String>::new());
    let jobs = stored.by_id();
    let lost: Vec<_> = created.iter().filter(|id| !jobs.contains_key(&***id)).collect();
    assert!(lost.is_empty(), "{} of {} jobs are not in it", lost.len(), created.len());
    let undone: Vec<_> = completed.iter().filter(|id| jobs[&***id].state != "completed").collect();
    assert!(undone.is_empty(), "{} of {} are not completed", undone.len(), completed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_one_exact_state_and_stops_nobody() {
    let daemon = daemon_with(60_000).await;
    let (told, stop) = (Arc::new(Mutex::new(Told::default())), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        clients.spawn(work(client(), daemon.url(""), told.clone(), stop.clone()));
    }
    let mut most = 0;
    for _ in 0..5 {
        let before = {
            let told = told.lock().unwrap();
            (told.created.clone(), told.completed.clone())
        };
        let file = back_up(&daemon).await;
        most = most.max(told.lock().unwrap().created.len() - before.0.len());
        assert!(daemon.wal_bytes() <= MOST_WAL_BYTES, "the log has {} bytes", daemon.wal_bytes());
        check_copy(&file, &before.0, &before.1);
        assert_eq!(identity_of_store(&file), identity_of_store(&daemon.path("tallyd.db")));
    }
    stop.store(true, Ordering::Relaxed);
    clients.join_all().await;
    // Were they held up until its end, each client could be told of one.
    assert!(most > 50, "{most} jobs were created during a backup");
    let names = backups(&daemon);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 5, "each has a file: {names:?}");
    assert!(names.iter().all(|name| name.ends_with("Z.db")), "and no log: {names:?}");
    assert_eq!(daemon.scrape().await.broken_identities(), Vec::<String>::new());
}

#[tokio::test]
async fn a_backup_needs_no_log_and_can_be_read_where_nothing_can_be_written() {
    let daemon = daemon_with(1_000).await;
    let file = back_up(&daemon).await;
    let mode = "PRAGMA journal_mode";
    let copy = Connection::open(&file).unwrap();
    let mode: String = copy.query_row(mode, [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
    check_copy(&file, &[], &[]);
    assert_eq!(Stored::read(&file).jobs.len(), 1_000);
    // What has changed only in the log is in it too.
    let (_, job) = daemon.post("/v1/jobs", json!({"queue": "q", "kind": "k"})).await;
    let leased = daemon.post("/v1/leases", json!({"queues": ["q"]})).await.1;
    let file = back_up(&daemon).await;
    let stored = Stored::read(&file);
    assert_eq!(stored.by_id()[job["id"].as_str().unwrap()].state, "running");
    assert_eq!(leased["jobs"][0]["id"], job["id"]);
}

/// The commands of the README that put a backup in the place of a store, for this backup; not those
/// that stop and start it.
fn restore_commands(backup: &Path) -> String {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, section) =
        readme.split_once("\n## Backup and restore\n").expect("there is the section");
    let (_, block) = section.split_once("systemctl stop tallyd\n").expect("it begins so");
    let (block, _) = block.split_once("systemctl start tallyd\n").expect("it ends so");
    let name = "backups/tallyd-2026-11-25T190000.123Z.db";
    assert!(block.contains(name), "it restores {name}: {block}");
    block.replace(name, &backup.display().to_string())
}

#[tokio::test]
async fn a_restored_backup_goes_on_where_it_was_made() {
    let mut daemon = daemon_with(2_000).await;
    for _ in 0..3 {
        daemon.post("/v1/jobs", json!({"queue": "q", "kind": "k"})).await;
    }
    let leased = daemon.post("/v1/leases", json!({"queues": ["q"], "max": 2})).await.1;
    let [done, running] = [0, 1].map(|index| leased["jobs"][index]["lease"].clone());
    let complete = |lease: &Value| json!([{"lease": lease, "outcome": "completed"}]);
    daemon.post("/v1/leases/finish", complete(&done)).await;
    let before = daemon.scrape().await;
    let backup = back_up(&daemon).await;
    fill(&daemon, 3_000).await;
    daemon.kill();
    assert!(daemon.wal_bytes() > 0, "a crash leaves a log");

    // Who forgets the log is told.
    std::fs::copy(daemon.path("tallyd.db"), daemon.path("lost.db")).unwrap();
    std::fs::copy(&backup, daemon.path("tallyd.db")).unwrap();
    daemon.launch();
    assert!(!daemon.serves(), "the log is of another file");
    let log = daemon.log();
    assert!(log.contains("tallyd.db-wal is not the log of"), "{log}");
    assert_eq!(daemon.wait().code(), Some(1));
    std::fs::copy(daemon.path("lost.db"), daemon.path("tallyd.db")).unwrap();

    let mut restore = Command::new("sh");
    restore.args(["-e", "-c", &restore_commands(&backup)]).current_dir(daemon.directory.path());
    let restored = restore.output().unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    daemon.restart();
    assert_eq!(daemon.scrape().await.ledger(), before.ledger());
    let (status, answer) = daemon.post("/v1/leases/finish", complete(&running)).await;
    assert_eq!((status, &answer["results"]), (StatusCode::OK, &json!(["ok"])));
    daemon.post("/v1/jobs", json!({"queue": "q", "kind": "k"})).await;
    let after = daemon.scrape().await;
    assert_eq!(after.went_back_from(&before), Vec::<String>::new());
    assert_eq!(after.broken_identities(), Vec::<String>::new());
    let created = "tallyd_jobs_created_total{queue=\"q\",kind=\"k\"}";
    assert_eq!(after.value(created), before.value(created) + 1.0);
    assert_eq!(daemon.stop().code(), Some(0));
    check_copy(&daemon.path("tallyd.db"), &[], &[]);
}
