//! What may stand in one place only: SQL, foreign crates, unsafe code, sleeps.

use super::source::{Kind, Source};
use super::{Finding, Rule, holds_everywhere, lines_found, none_of, rust_files};

/// Names, the paths below which alone they may stand, and what those paths are for.
const NAMES: &[(&[&str], &[&str], &str)] = &[
    (&["prometheus"], &["src/metrics.rs", "src/metrics/"], "metrics"),
    (
        &["axum", "hyper", "hyper_util", "http_body_util"],
        &["src/server.rs", "src/server/", "src/cli/bench/"],
        "the server, and the benchmark that loads it,",
    ),
    (&["rusqlite", "libsqlite3_sys"], &["src/store/"], "an engine of the store"),
    (&["SystemTime", "UNIX_EPOCH"], &["src/clock.rs"], "the clock"),
    (
        &["nix"],
        &["src/config/user.rs", "src/store/sqlite/index.rs"],
        "the look-up of users, and locks on parts of a file",
    ),
    (&["sd_notify"], &["src/daemon/systemd.rs", "src/daemon/systemd/"], "the daemon's systemd"),
];

/// The only files that may allow unsafe code, and must. Each says beside it why it is sound.
const UNSAFE_FILES: &[&str] = &[
    "src/daemon/systemd/descriptors.rs",
    "src/worker/exec/before_exec.rs",
    "tests/torture/power_cut/vfs.rs",
];

/// The only files of the program that may sleep, and do, each with its reason.
const SLEEPING_FILES: &[(&str, &str)] = &[
    ("src/cli/demo.rs", "the pace at which the demo creates jobs"),
    ("src/cli/demo/receiver.rs", "answers of the demo that are slow on purpose"),
    ("src/cli/demo/worker.rs", "work of the demo that takes a while on purpose"),
    (
        "src/cli/signals.rs",
        "the time after which a second signal ends the process whatever happens",
    ),
    ("src/client/repeat.rs", "a pause before a request is sent again"),
    ("src/daemon/pulse.rs", "the time between two signs of life"),
    (
        "src/server/connections.rs",
        "a pause when descriptors have run out: nothing says when one is free",
    ),
    (
        "src/store/sqlite/index.rs",
        "a pause before a lock of another program is tried again: nothing says when it is free",
    ),
    ("src/server/deadline.rs", "time limits of connections"),
    ("src/server/places.rs", "how long an answer may be taken while others wait for theirs"),
    ("src/store/sqlite/backup.rs", "pauses of a copy, which leave the disk to commits"),
    ("src/sweeper.rs", "the time at which something is due"),
    ("src/worker.rs", "a pause after a claim that failed"),
    (
        "src/worker/exec/leftovers.rs",
        "looks at a process that is becoming another program: nothing says when it is",
    ),
    ("src/worker/attempt.rs", "the time of a renewal; a pause after one that failed"),
    ("src/worker/exec.rs", "the timeout of a command"),
    ("src/worker/exec/group.rs", "the grace of a process group"),
];

fn misplaced_names(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for token in file.tokens.iter().filter(|token| token.is_word() && file.is_program()) {
        let misplaced = NAMES.iter().find(|(names, places, _)| {
            names.contains(&token.text.as_str()) && !stands_in(file, places)
        });
        if let Some((_, _, owner)) = misplaced {
            let complaint = format!("only {owner} may name {}", token.text);
            findings.push(Finding::new(&file.path, token.line, complaint));
        }
    }
    findings
}

fn stands_in(file: &Source, places: &[&str]) -> bool {
    places.iter().any(|place| file.path.starts_with(place))
}

fn misplaced_sql(file: &Source) -> Vec<Finding> {
    if !file.is_program() || stands_in(file, &["src/store/"]) {
        return Vec::new();
    }
    let literals = file.tokens.iter().filter(|token| token.kind == Kind::Literal);
    let sql = literals.filter(|token| is_sql(&token.text));
    sql.map(|token| Finding::new(&file.path, token.line, "only src/store/ holds SQL")).collect()
}

/// Whether a literal, as written in the source, begins like a statement or is a file of them.
fn is_sql(literal: &str) -> bool {
    let text = literal.trim_start_matches(['b', 'c', 'r', '#', '"']).trim_end_matches(['#', '"']);
    let mut words = text.split_whitespace();
    let objects = ["TABLE", "INDEX", "UNIQUE", "TRIGGER", "VIEW", "TEMP", "VIRTUAL"];
    match (words.next(), words.next()) {
        (Some("SELECT" | "UPDATE" | "PRAGMA" | "WITH" | "SAVEPOINT" | "WHERE"), Some(_)) => true,
        (Some("BEGIN" | "COMMIT" | "ROLLBACK" | "VACUUM"), _) => true,
        (Some("INSERT"), Some("INTO" | "OR")) | (Some("DELETE"), Some("FROM")) => true,
        (Some("CREATE" | "ALTER" | "DROP"), Some(object)) => objects.contains(&object),
        _ => text.ends_with(".sql"),
    }
}

/// Where a file has, or allows, unsafe code.
fn unsafe_marks(file: &Source) -> Vec<Finding> {
    let complaint = "unsafe code stands in the files of UNSAFE_FILES only";
    word_lines(file, &["unsafe", "unsafe_code"], complaint)
}

/// Where the program, outside its tests, sleeps.
fn sleeps(file: &Source) -> Vec<Finding> {
    let complaint = "waits for a while, not for an event; SLEEPING_FILES lists who may";
    let program = |index| file.is_program() && !file.is_test_at(index);
    sleep_lines(file, program, complaint)
}

/// Where a test sleeps.
fn test_sleeps(file: &Source) -> Vec<Finding> {
    let complaint = "a test waits for an event, or moves the time itself";
    sleep_lines(file, |index| file.is_test_at(index), complaint)
}

fn sleep_lines(file: &Source, counts: impl Fn(usize) -> bool, complaint: &str) -> Vec<Finding> {
    let names = ["sleep", "sleep_ms", "sleep_until"];
    let tokens = file.tokens.iter().enumerate();
    let is_method = |index: usize| index > 0 && file.tokens[index - 1].text == ".";
    tokens
        .filter(|(index, token)| {
            let is_named = token.is_word() && names.contains(&token.text.as_str());
            is_named && !is_method(*index) && counts(*index)
        })
        .map(|(_, token)| Finding::new(&file.path, token.line, complaint))
        .collect()
}

fn word_lines(file: &Source, words: &[&str], complaint: &str) -> Vec<Finding> {
    let found = file.tokens.iter().filter(|t| t.is_word() && words.contains(&t.text.as_str()));
    found.map(|token| Finding::new(&file.path, token.line, complaint)).collect()
}

/// The findings of a rule outside the listed files, and the listed files without any.
fn outside_list(rule: Rule, files: &[Source], list: &[&str]) -> Vec<Finding> {
    let found: Vec<Finding> = files.iter().flat_map(rule).collect();
    let is_idle = |path: &&&str| !found.iter().any(|finding| finding.path == **path);
    let idle: Vec<Finding> = list
        .iter()
        .filter(is_idle)
        .map(|path| Finding::new(path, 1, format!("listed in {}, but no longer needed", file!())))
        .collect();
    let outside = found.into_iter().filter(|finding| !list.contains(&finding.path.as_str()));
    outside.chain(idle).collect()
}

#[test]
fn foreign_crates_are_named_in_one_place() {
    holds_everywhere(misplaced_names);
}

#[test]
fn only_the_store_holds_sql() {
    holds_everywhere(misplaced_sql);
}

#[test]
fn unsafe_code_stands_in_listed_files() {
    none_of(&outside_list(unsafe_marks, &rust_files(), UNSAFE_FILES));
}

#[test]
fn only_listed_files_sleep() {
    let list: Vec<&str> = SLEEPING_FILES.iter().map(|(path, _)| *path).collect();
    assert!(SLEEPING_FILES.iter().all(|(_, reason)| !reason.is_empty()));
    none_of(&outside_list(sleeps, &rust_files(), &list));
}

#[test]
fn tests_do_not_sleep() {
    holds_everywhere(test_sleeps);
}

#[test]
fn misplaced_names_are_found() {
    let text = "//! prometheus\nuse prometheus::Registry;\nconst A: &str = \"hyper\";\n\
                fn f() { hyper::x(); std::time::SystemTime::now(); }\nuse rusqlite::Connection;\n";
    assert_eq!(lines_found(misplaced_names, "src/daemon.rs", text), [2, 4, 4, 5]);
    assert_eq!(lines_found(misplaced_names, "src/store/sqlite.rs", text), [2, 4, 4]);
    assert_eq!(lines_found(misplaced_names, "src/server/jobs.rs", text), [2, 4, 5]);
    assert_eq!(lines_found(misplaced_names, "src/metrics/cut.rs", text), [4, 4, 5]);
    assert_eq!(lines_found(misplaced_names, "tests/it/metrics.rs", text), [0_usize; 0]);
}

#[test]
fn misplaced_sql_is_found() {
    for sql in [
        "\"SELECT 1\"",
        "r#\"\n  INSERT INTO jobs VALUES (1)\"#",
        "\"CREATE TABLE jobs (id)\"",
        "\"DELETE FROM jobs\"",
        "\"BEGIN IMMEDIATE\"",
        "\"COMMIT\"",
        "include_str!(\"schema.sql\")",
    ] {
        let text = format!("\nfn f() {{ g({sql}) }}");
        assert_eq!(lines_found(misplaced_sql, "src/store.rs", &text), [2], "{sql}");
        assert_eq!(lines_found(misplaced_sql, "src/store/sqlite.rs", &text), [0_usize; 0], "{sql}");
    }
    for other in ["DELETE", "DELETE /v1/jobs/{id}", "CREATE", "select a queue", "UPDATE"] {
        let text = format!("/// SELECT 1\nfn f() {{ g(\"{other}\") }}");
        assert_eq!(lines_found(misplaced_sql, "src/server.rs", &text), [0_usize; 0], "{other}");
    }
}

#[test]
fn unsafe_code_and_idle_entries_are_found() {
    let files = [
        Source::new("src/a.rs", "#![allow(unsafe_code)]\nfn f() { unsafe { g() } }"),
        Source::new("src/b.rs", "//! Nothing unsafe here.\n"),
    ];
    let found = |list: &[&str]| -> Vec<String> {
        let findings = outside_list(unsafe_marks, &files, list);
        findings.iter().map(|finding| format!("{}:{}", finding.path, finding.line)).collect()
    };
    assert_eq!(found(&[]), ["src/a.rs:1", "src/a.rs:2"]);
    assert!(found(&["src/a.rs"]).is_empty());
    assert_eq!(found(&["src/a.rs", "src/b.rs"]), ["src/b.rs:1"]);
}

#[test]
fn sleeps_are_found() {
    let text = "fn f() { std::thread::sleep(d) }\nconst A: &[&str] = &[\"sleep\", \"5\"];\n\
                async fn g() { sleep_until(t).await }\n\
                #[cfg(test)]\nmod tests { use tokio::time::sleep; }\n";
    assert_eq!(lines_found(sleeps, "src/x.rs", text), [1, 3]);
    assert_eq!(lines_found(test_sleeps, "src/x.rs", text), [5]);
    assert_eq!(lines_found(test_sleeps, "tests/it/x.rs", text), [1, 3, 5]);
}
