//! What a reader would complain about: the rules of CONTRIBUTING.md that a program can check.
//!
//! Each rule is a function from a file to its findings, run over the tree by one test and over
//! bad lines by another, so that it is seen to find something.

mod bounds;
mod failures;
mod forbidden;
mod fuzzing;
mod imports;
mod lock;
mod places;
mod project;
mod size;
mod source;
mod words;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use source::Source;

/// A place that breaks a rule.
#[derive(Debug)]
struct Finding {
    path: String,
    line: usize,
    complaint: String,
}

impl Finding {
    fn new(path: &str, line: usize, complaint: impl Into<String>) -> Self {
        Self { path: path.into(), line, complaint: complaint.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.complaint)
    }
}

/// A rule that looks at one file.
type Rule = fn(&Source) -> Vec<Finding>;

/// Fails with every finding on a line of its own.
fn none_of(findings: &[Finding]) {
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(lines.is_empty(), "{} found:\n{}", lines.len(), lines.join("\n"));
}

/// Runs a rule over every Rust file.
fn holds_everywhere(rule: Rule) {
    none_of(&rust_files().iter().flat_map(rule).collect::<Vec<_>>());
}

/// The lines that a rule complains about, if `text` were the file `path`.
fn lines_found(rule: Rule, path: &str, text: &str) -> Vec<usize> {
    rule(&Source::new(path, text)).iter().map(|finding| finding.line).collect()
}

/// Every Rust file of the project.
fn rust_files() -> Vec<Source> {
    let mut files: Vec<Source> =
        ["build.rs", "src", "tests", "benches", "examples", "fuzz/fuzz_targets"]
            .into_iter()
            .flat_map(files_below)
            .filter(|(path, _)| {
                Path::new(path).extension().is_some_and(|extension| extension == "rs")
            })
            .map(|(path, text)| Source::new(&path, &text))
            .collect();
    assert!(files.iter().any(|file| file.path == "src/main.rs"), "src/main.rs was not found");
    source::mark_test_files(&mut files);
    files
}

/// Path and text of the file `place`, or of every file below the directory `place`; sorted, and
/// none if there is nothing. Both paths count from the root of the project.
fn files_below(place: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut waiting: Vec<PathBuf> = vec![root.join(place)];
    let mut files = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a directory of the project can be read");
            waiting.extend(entries.map(|entry| entry.expect("an entry can be read").path()));
        } else if let Ok(bytes) = fs::read(&path) {
            let below = path.strip_prefix(root).expect("found below the root");
            let text = String::from_utf8_lossy(&bytes).into_owned();
            files.push((below.to_string_lossy().into_owned(), text));
        }
    }
    files.sort();
    files
}
