//! Starts that fail: exit code, one clear line, and nothing touched.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::fixture::Daemon;

/// Serves in a directory and fails; tells the exit code and what was said.
fn serve(directory: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "60", env!("CARGO_BIN_EXE_tallyd"), "serve"]).args(flags);
    if !flags.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    let output = command.current_dir(directory).output().expect("it runs");
    assert!(output.stdout.is_empty(), "errors are not output");
    let directory = directory.canonicalize().expect("it is there");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    // Messages name files in full.
    (output.status.code(), text.replace(&format!("{}/", directory.display()), ""))
}

/// Fails with exit code 1 and this one line.
fn fails(directory: &Path, flags: &[&str], line: &str) {
    assert_eq!(serve(directory, flags), (Some(1), format!("{line}\n")), "{flags:?}");
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn a_wrong_configuration_exits_2_with_file_line_and_key_and_touches_no_store() {
    let keys = "concurrency, kinds, max_attempts, timeout, lease, backoff, keep_completed, \
                max_completed, keep_dead, max_dead, max_depth, exec, http";
    for (text, said) in [
        (
            "# ours\n[queues.emails]\nconcurency = 3\n",
            format!("3: unknown key queues.emails.concurency; valid here are {keys}"),
        ),
        (
            "data = \"other.db\"\nmax_pairs = \"many\"\n",
            "2: max_pairs must be 1 to 10000, got \"many\"".to_owned(),
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ours.toml"), text).unwrap();
        let told = serve(directory.path(), &["--config", "ours.toml"]);
        assert_eq!(told, (Some(2), format!("ours.toml:{said}\n")));
        assert_eq!(files(directory.path()), ["ours.toml"]);
    }
}

#[test]
fn an_address_in_use_exits_1_and_touches_no_store() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let said = format!("cannot listen on {address}: Address already in use (os error 98)");
    fails(directory.path(), &["--listen", &address], &said);
    // Where few files may be open, two listeners are warned of that first.
    let flags = ["--metrics-listen", &*address, "--log-level", "error"];
    fails(directory.path(), &flags, &said);
    assert_eq!(files(directory.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_store_in_use_exits_1_and_its_owner_goes_on() {
    let daemon = Daemon::start("");
    let before = files(daemon.directory.path());
    let said = "tallyd.db is in use by another tallyd (it holds tallyd.db.lock)";
    fails(daemon.directory.path(), &["--data", "tallyd.db"], said);
    assert_eq!(files(daemon.directory.path()), before);
    assert_eq!(daemon.post("/v1/jobs", json!({"kind": "k"})).await.0, 201);
}

#[test]
fn a_file_of_something_else_exits_1_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let text = directory.path().join("notes.txt");
    fs::write(&text, "not a database, but long enough to look at\n".repeat(50)).unwrap();
    let foreign = directory.path().join("foreign.db");
    let connection = rusqlite::Connection::open(&foreign).unwrap();
    connection.execute_batch("CREATE TABLE notes (text); PRAGMA user_version = 1").unwrap();
    drop(connection);
    for (file, found) in [
        (&text, "not a database"),
        (&foreign, "an SQLite database with application id 0x0 and 1 tables and indexes"),
    ] {
        let before = fs::read(file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let said = format!("{name} is not a tallyd store: {found}");
        fails(directory.path(), &["--data", name], &said);
        assert_eq!(fs::read(file).unwrap(), before, "{name}");
    }
}

/// F23: the daemon does not serve what it does not know.
#[tokio::test]
async fn a_newer_schema_exits_1_and_loses_nothing() {
    let mut daemon = Daemon::start("");
    let (_, job) = daemon.post("/v1/jobs", json!({"kind": "k"})).await;
    assert!(daemon.stop().success());
    let set_version = |version: i64| {
        let connection = rusqlite::Connection::open(daemon.path("tallyd.db")).unwrap();
        let was = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        connection.pragma_update(None, "user_version", version).unwrap();
        was
    };
    let known: i64 = set_version(999);
    let said = format!(
        "tallyd.db has schema version 999, and this tallyd knows versions up to {known}; use a \
         newer tallyd"
    );
    fails(daemon.directory.path(), &["--data", "tallyd.db"], &said);
    assert_eq!(set_version(known), 999);
    daemon.restart();
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    assert_eq!(daemon.get(&path).await.1["state"], "ready");
}

#[test]
fn a_place_that_cannot_hold_a_store_exits_1() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    fs::create_dir(directory.path().join("directory")).unwrap();
    for (data, cause) in [
        ("file/tallyd.db", "Not a directory (os error 20)"),
        ("nowhere/tallyd.db", "No such file or directory (os error 2)"),
        ("directory", "Is a directory (os error 21)"),
    ] {
        let (code, said) = serve(directory.path(), &["--data", data]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.starts_with("cannot ") && said.contains(data), "{said}");
        assert!(said.ends_with(&format!("{cause}\n")) && said.lines().count() == 1, "{said}");
    }
}
