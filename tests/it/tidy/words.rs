//! The vocabulary: words that the program does not use, because another word means the same.

use super::source::Source;
use super::{Finding, holds_everywhere, lines_found};

/// Each banned word with the one to use.
const BANNED: &[(&[&str], &str)] = &[
    (&["task", "tasks"], "job or attempt (a task is tokio's)"),
    (&["consumer", "consumers"], "worker"),
    (&["ack", "acks", "acked", "acking", "nack"], "finish, or acknowledged for a caller"),
    (&["bury", "buries", "buried"], "dead, died"),
    (&["manager", "managers"], "what it does"),
    (&["util", "utils", "utility", "utilities"], "what it does"),
    (&["helper", "helpers"], "what it does"),
];

/// Words of others that stand in their places only, with the one to use elsewhere.
const PLACED: &[(&[&str], &[&str], &str)] = &[(
    &["status", "statuses"],
    &[
        "src/client.rs",
        "src/client/",
        "src/server.rs",
        "src/server/",
        "src/cli/bench/connection.rs",
        "src/daemon/systemd/notifier.rs",
        "src/worker/exec.rs",
        "src/worker/exec/",
        "src/worker/http.rs",
    ],
    "state or outcome (a status is HTTP's, systemd's, or that of a process)",
)];

/// Names of others, which cannot be changed.
const FOREIGN: &[&str] = &[
    "task::",
    "tokio::task",
    "tokio task",
    "TaskTracker",
    "tokio_util",
    "tokio-util",
    "hyper_util",
    "hyper-util",
    "http_body_util",
    "futures_util",
    "status code",
];

/// Marks of work left undone.
const UNDONE: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];

fn banned_words(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate().filter(|_| file.is_program()) {
        for part in parts(&without_foreign(line)) {
            if let Some(instead) = word_instead(&file.path, &part) {
                let complaint = format!("`{part}` is not a word of this project; use {instead}");
                findings.push(Finding::new(&file.path, index + 1, complaint));
            }
        }
    }
    findings
}

/// The word to use in the place of this one, if it must not stand in this file.
fn word_instead(path: &str, part: &str) -> Option<&'static str> {
    let banned = BANNED.iter().find(|(words, _)| words.contains(&part));
    let is_out_of_place = |words: &[&str], places: &[&str]| {
        words.contains(&part) && !places.iter().any(|place| path.starts_with(place))
    };
    let mut placed = PLACED.iter().filter(|(words, places, _)| is_out_of_place(words, places));
    banned.map(|(_, instead)| *instead).or(placed.next().map(|(.., instead)| *instead))
}

fn without_foreign(line: &str) -> String {
    FOREIGN.iter().fold(line.to_owned(), |line, name| line.replace(name, " "))
}

/// The words of a line in lower case, those of `snake_case` and `CamelCase` one by one.
fn parts(line: &str) -> Vec<String> {
    let mut spaced = String::new();
    let mut before = ' ';
    for letter in line.chars() {
        if before.is_lowercase() && letter.is_uppercase() {
            spaced.push(' ');
        }
        spaced.push(letter);
        before = letter;
    }
    let words = spaced.split(|letter: char| !letter.is_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

fn work_left(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.lines_without_literals().iter().enumerate() {
        let mut words = line.split(|letter: char| !letter.is_alphanumeric());
        if let Some(mark) = words.find(|word| UNDONE.contains(word)) {
            let complaint = format!("{mark}: do it, or leave it out");
            findings.push(Finding::new(&file.path, index + 1, complaint));
        }
    }
    findings
}

#[test]
fn one_vocabulary_is_used() {
    holds_everywhere(banned_words);
}

#[test]
fn no_work_is_left_for_later() {
    holds_everywhere(work_left);
}

#[test]
fn banned_words_are_found() {
    for bad in [
        "// runs a task",
        "struct TaskList;",
        "fn spawn_tasks() {}",
        "fn ack(job: u8) {}",
        "const LEASE_MANAGER: u8 = 1;",
        "mod util;",
        "/// A helper.\nstruct A;",
        "const A: &str = \"buried\";",
    ] {
        assert_eq!(lines_found(banned_words, "src/x.rs", bad), [1], "{bad}");
        assert_eq!(lines_found(banned_words, "tests/it/x.rs", bad), [0_usize; 0], "{bad}");
    }
    for (place, found) in [("src/job.rs", vec![1]), ("src/server/jobs.rs", vec![])] {
        let text = "fn f(job_status: u8) {}\n// its status code\n";
        assert_eq!(lines_found(banned_words, place, text), found, "{place}");
    }
    let good = "use tokio::task::JoinHandle;\nuse tokio_util::task::TaskTracker;\n\
                // back, acknowledged, backoff, utilisation; a tokio task\nfn callback() {}\n";
    assert_eq!(lines_found(banned_words, "src/x.rs", good), [0_usize; 0]);
}

#[test]
fn work_left_is_found() {
    let text = "// TODO: later\nconst TODO_LIST: u8 = 1;\n/// FIXME\nconst A: &str = \"TODO\";\n";
    assert_eq!(lines_found(work_left, "tests/it/x.rs", text), [1, 2, 3]);
}
