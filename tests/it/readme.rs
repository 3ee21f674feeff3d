//! What the README says of the program is what the program says.

use std::path::{Path, PathBuf};
use std::process::Command;

fn readme() -> String {
    document("README.md")
}

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn its_table_of_metrics_is_the_catalogue() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_tallyd")).args(["metrics", "--markdown"]).output();
    let table = String::from_utf8(output.expect("it runs").stdout).expect("it is text");
    assert!(table.lines().count() > 40, "a table was printed: {table}");
    assert!(readme().contains(&table), "run `tallyd metrics --markdown` and put the table there");
}

/// Tests are named `module::test`; each must stand in that module of the tests, or of `src`.
#[test]
fn the_tests_that_it_names_exist() {
    assert_tests_exist(&readme());
}

#[test]
fn the_tests_that_the_threat_model_names_exist_and_the_readme_leads_to_it() {
    assert_tests_exist(&document("SECURITY.md"));
    assert!(readme().contains("(SECURITY.md)"));
}

fn assert_tests_exist(document: &str) {
    let named: Vec<(&str, &str)> = document
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.rsplit_once("::"))
        .filter(|(module, test)| module.split("::").chain([*test]).all(is_name))
        .collect();
    assert!(named.len() >= 10, "the promises name their tests, but only {named:?} were found");
    for (module, test) in named {
        let file = format!("{}.rs", module.replace("::", "/"));
        let places = ["tests/it", "tests/torture", "src"].map(|place| Path::new(place).join(&file));
        let read = |path: &PathBuf| {
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
        };
        let has_it = |text: String| text.contains(&format!("fn {test}("));
        let is_there = places.iter().filter_map(read).any(has_it);
        assert!(is_there, "there is no test {module}::{test}");
    }
}

fn is_name(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
}

/// A row of the table of the configuration: its keys in full, and their defaults.
struct Row {
    /// Like `top.listen`, `defaults.backoff.max` and `queue.exec.command`.
    keys: Vec<String>,
    /// As the table has them; one for each key in one place, or none at all.
    defaults: Vec<String>,
}

/// The rows of the table of the configuration.
fn configuration_rows() -> Vec<Row> {
    let readme = readme();
    let (_, section) = readme.split_once("\n## Configuration\n").expect("there is the section");
    let (section, _) = section.split_once("\n## ").expect("it is not the last one");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(configuration_row).collect()
}

fn configuration_row(line: &str) -> Row {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [keys, places, defaults, _] = cells[..] else { panic!("not four cells: {line}") };
    let names: Vec<String> =
        keys.split('`').skip(1).step_by(2).flat_map(names_with_parts).collect();
    let in_place = |place| names.iter().map(move |name| format!("{place}.{name}"));
    let defaults = match defaults {
        "none" => Vec::new(),
        listed => listed.split(", ").map(str::to_owned).collect(),
    };
    assert!(defaults.is_empty() || defaults.len() == names.len(), "a default each: {line}");
    Row { keys: places.split(", ").flat_map(in_place).collect(), defaults }
}

/// `a`, or `a.b` and `a.c` of `a = { b, c }`.
fn names_with_parts(code: &str) -> Vec<String> {
    let Some((name, parts)) = code.split_once(" = { ") else { return vec![code.to_owned()] };
    let parts = parts.trim_end_matches(" }").split(", ");
    parts.map(|part| format!("{name}.{part}")).collect()
}

/// A token that is known by a hash of this digit.
fn token(digit: &str) -> String {
    let hash = digit.repeat(64);
    format!("[[tokens]]\nname = \"{digit}\"\nsha256 = \"{hash}\"\nroles = [\"work\"]\n")
}

/// What `tallyd check` prints of a configuration file.
fn checked(text: &str) -> toml::Table {
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(directory.path().join("tallyd.toml"), text).expect("it can be written");
    std::fs::write(directory.path().join("tokens.toml"), token("b")).expect("it can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tallyd"));
    command.args(["check", "--config", "tallyd.toml"]).env_clear().current_dir(directory.path());
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).expect("it is text");
    toml::from_str(&printed).expect("it is TOML")
}

/// The keys of a table; of those that are tables themselves, theirs.
fn keys_below(place: &str, table: &toml::Table) -> Vec<String> {
    let below = |(name, value): (&String, &toml::Value)| {
        let key = format!("{place}.{name}");
        match value {
            // What is below these are names of the operator's own.
            toml::Value::Table(parts) if !["env", "headers"].contains(&&**name) => {
                keys_below(&key, parts)
            }
            _ => vec![key],
        }
    };
    table.iter().flat_map(below).collect()
}

#[test]
fn its_table_of_the_configuration_has_every_key() {
    let all = "token_file = \"tokens.toml\"\nmetrics_listen = \"127.0.0.1:1\"\nbackup_dir = \"b\"\n[queues.q]\n\
               exec = { command = [\"/bin/true\"], dir = \"/\", env = { A = \"b\" }, user = \"0:0\", \
               limits = { memory = \"1GiB\", cpu = \"1m\", files = 99 } }\n\
               [queues.p.http]\nurl = \"http://a/\"\nheaders = { A = \"b\" }\n\
               secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n";
    let all = &format!("{all}{}", token("a"));
    let mut printed = checked(all);
    let mut known = Vec::new();
    let queues = printed.remove("queues").expect("they are printed");
    for (place, part) in [
        ("defaults", printed.remove("defaults")),
        ("queue", queues.get("q").cloned()),
        ("queue", queues.get("p").cloned()),
    ] {
        known.extend(keys_below(place, part.expect("it is printed").as_table().unwrap()));
    }
    known.extend(keys_below("top", &printed));
    let mut told: Vec<_> = configuration_rows().into_iter().flat_map(|row| row.keys).collect();
    known.sort();
    known.dedup(); // what both queues have
    told.sort();
    assert_eq!(told, known);
}

/// A file with every default of the table has the effect of one without.
#[test]
fn its_table_of_the_configuration_has_the_defaults() {
    let mut file = toml::Table::new();
    for row in configuration_rows() {
        for (key, default) in row.keys.iter().zip(row.defaults.iter().cycle()) {
            if default != "none" {
                insert(&mut file, &key.replace("queue.", "queues.default."), default);
            }
        }
    }
    let text = toml::to_string(&file).expect("it is TOML");
    assert!(text.contains("max_payload = \"1MiB\"") && text.contains("factor = 2"), "{text}");
    assert_eq!(checked(&text), checked(""));
}

/// Puts a value of the table of the configuration where its key says.
fn insert(file: &mut toml::Table, key: &str, told: &str) {
    let mut names: Vec<&str> = key.trim_start_matches("top.").split('.').collect();
    let last = names.pop().expect("a key has a name");
    let place = names.into_iter().fold(file, |table, name| {
        let below = table.entry(name).or_insert_with(|| toml::Table::new().into());
        below.as_table_mut().expect("it is a table")
    });
    let bare = told.trim_matches('`').replace(',', "");
    let value = bare.parse::<toml::Value>();
    place.insert(last.to_owned(), value.unwrap_or_else(|_| bare.clone().into()));
}
