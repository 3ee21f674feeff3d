//! What the README says of the program is what the program says.

use std::path::Path;
use std::process::Command;

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    std::fs::read_to_string(path).expect("the README is there")
}

#[test]
fn its_table_of_metrics_is_the_catalogue() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_tallyd")).args(["metrics", "--markdown"]).output();
    let table = String::from_utf8(output.expect("it runs").stdout).expect("it is text");
    assert!(table.lines().count() > 40, "a table was printed: {table}");
    assert!(readme().contains(&table), "run `tallyd metrics --markdown` and put the table there");
}

/// Tests are named `module::test`; each must stand in that module of `tests/it`.
#[test]
fn the_tests_that_it_names_exist() {
    let readme = readme();
    let named: Vec<(&str, &str)> = readme
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|code| code.split_once("::"))
        .filter(|(module, test)| [module, test].into_iter().all(|word| is_name(word)))
        .collect();
    assert!(named.len() >= 10, "the promises name their tests, but only {named:?} were found");
    for (module, test) in named {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/{module}.rs"));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(text.contains(&format!("fn {test}(")), "there is no test {module}::{test}");
    }
}

fn is_name(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
}
