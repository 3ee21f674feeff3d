//! The breakages beside this file, each of which turns a test red: whether they still can.
//!
//! `breakages.sh` applies them and runs the tests; here is only looked whether each still applies, and
//! names tests that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The most lines that a breakage may add or take away: one promise, and not more.
const MOST_LINES: usize = 12;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

struct Breakage {
    file: PathBuf,
    name: String,
    text: String,
}

fn breakages() -> Vec<Breakage> {
    let files = fs::read_dir(root().join("tests/torture/breakages")).unwrap();
    let breakage = |file: PathBuf| {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        Breakage { name, text: fs::read_to_string(&file).unwrap(), file }
    };
    let mut all: Vec<_> = files.map(|file| breakage(file.unwrap().path())).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all
}

impl Breakage {
    /// What stands in its head behind this word.
    fn head(&self, word: &str) -> Vec<&str> {
        let head = self.text.split("\n--- ").next().unwrap();
        head.lines().filter_map(|line| line.strip_prefix(word)).map(str::trim).collect()
    }

    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for word in ["Breaks:", "Promise:", "Red:"] {
            if self.head(word).is_empty() {
                wrong.push(format!("does not say {word}"));
            }
        }
        let missing = self.head("Red:").into_iter().filter(|test| !exists(test));
        wrong.extend(missing.map(|test| format!("names {test}, which does not exist")));
        let changed = self.text.lines().filter(|line| line.starts_with(['+', '-']));
        let is_name = |line: &&str| line.starts_with("--- ") || line.starts_with("+++ ");
        let (files, lines): (Vec<_>, Vec<_>) = changed.partition(is_name);
        if files.iter().any(|file| !file[5..].starts_with("/src/")) {
            wrong.push("changes more than the program".to_owned());
        }
        if lines.len() > MOST_LINES {
            wrong.push(format!("changes {} lines", lines.len()));
        }
        let mut check = Command::new("git");
        check.args(["apply", "--check"]).arg(&self.file).current_dir(root());
        let applied = check.output().expect("git is there");
        if !applied.status.success() {
            wrong.push(String::from_utf8_lossy(&applied.stderr).into_owned());
        }
        wrong
    }
}

/// The tests that the README's table names in its last column for a breakage; none without a row.
fn told<'r>(readme: &'r str, name: &str) -> Option<Vec<&'r str>> {
    let row = readme.lines().find(|line| line.starts_with(&format!("| `{name}` |")))?;
    let column = row.trim_end_matches([' ', '|']).rsplit(" | ").next()?;
    Some(column.split("; ").map(|test| test.trim_matches('`')).collect())
}

/// Whether there is such a test, told as `BINARY module::name`.
fn exists(test: &str) -> bool {
    let Some((binary, path)) = test.split_once(' ') else { return false };
    let Some((modules, name)) = path.rsplit_once("::") else { return false };
    let root = root().join(if binary == "lib" { "src".into() } else { format!("tests/{binary}") });
    // Modules may stand in the file of the one around them.
    let mut modules: Vec<_> = modules.split("::").collect();
    while !modules.is_empty() {
        let file = root.join(modules.join("/")).with_extension("rs");
        if let Ok(text) = fs::read_to_string(file) {
            return text.contains(&format!("fn {name}("));
        }
        modules.pop();
    }
    false
}

/// The modules of this binary in this directory whose tests drive a daemon or a store.
fn that_drive(directory: &Path) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for entry in fs::read_dir(root().join("tests/torture").join(directory)).unwrap() {
        let (is_directory, name) = entry.map(|it| (it.path().is_dir(), it.file_name())).unwrap();
        let path = directory.join(name);
        if is_directory {
            modules.append(&mut that_drive(&path));
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(root().join("tests/torture").join(&path)).unwrap();
            let module = path.with_extension("").to_str().unwrap().replace('/', "::");
            modules.extend(text.contains("\n#[tokio::test").then_some(module));
        }
    }
    modules
}

#[test]
fn every_module_that_drives_a_daemon_or_a_store_is_turned_red_by_a_breakage() {
    let modules = that_drive(Path::new(""));
    assert!(modules.contains("crash") && modules.contains("kills::answers"), "{modules:?}");
    let all = breakages();
    let named = all.iter().flat_map(|one| one.head("Red:"));
    let named = named.filter_map(|test| test.strip_prefix("torture ")?.rsplit_once("::"));
    let named: BTreeSet<_> = named.map(|(module, _)| module.to_owned()).collect();
    let unnamed: Vec<_> = modules.difference(&named).collect();
    assert!(unnamed.is_empty(), "no breakage shows that these can fail: {unnamed:?}");
}

#[test]
fn every_breakage_applies_and_names_tests_that_exist() {
    let readme = fs::read_to_string(root().join("tests/torture/README.md")).unwrap();
    let all = breakages();
    let wrong: Vec<_> = all
        .iter()
        .flat_map(|one| one.wrong().into_iter().map(|what| format!("{}: {what}", one.name)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(all.len() >= 20, "only {} breakages", all.len());
    let named: BTreeMap<_, _> = all.iter().map(|one| (&one.name, Some(one.head("Red:")))).collect();
    let told: BTreeMap<_, _> = named.keys().map(|name| (*name, told(&readme, name))).collect();
    assert_eq!(told, named, "the README's table and the patches name different tests");
}

#[test]
fn the_tests_of_a_row_are_read() {
    let table =
        "| `one` | breaks `it a::b` | P1 | `it c::d`; `lib e::f` |\n| `none` | x | P1 | - |\n";
    assert_eq!(told(table, "one"), Some(vec!["it c::d", "lib e::f"]));
    assert_eq!(told(table, "none"), Some(vec!["-"]), "which no patch names");
    assert_eq!(told(table, "on"), None);
}

#[test]
fn a_breakage_that_is_out_of_date_is_found() {
    assert!(exists("torture breakages::a_breakage_that_is_out_of_date_is_found"));
    assert!(!exists("torture breakages::no_such_test") && !exists("torture nowhere::at_all"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("old.patch");
    let text = "Breaks:  nothing\nPromise: P1\nRed:     it gone::gone\n\n\
                --- a/tests/run.sh\n+++ b/tests/run.sh\n@@ -1 +1 @@\n-nothing so\n+nothing\n";
    fs::write(&file, text).unwrap();
    let wrong = Breakage { file, name: "old".into(), text: text.into() }.wrong();
    assert_eq!(wrong.len(), 3, "{wrong:?}");
    assert!(wrong[0].contains("does not exist") && wrong[1].contains("more than the program"));
    assert!(wrong[2].contains("patch"), "{}", wrong[2]);
}
