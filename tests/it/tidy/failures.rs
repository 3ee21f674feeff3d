//! The failure modes that others shipped: each has a test that carries its number, or a reason.
//!
//! The table is in `tests/torture/README.md`. A row names tests, as `module::test`, whose doc comments
//! carry its number, or says after "cannot happen" why there is none.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Kind, Source};
use super::{Finding, files_below, none_of, rust_files};

const TABLE: &str = "tests/torture/README.md";

/// The numbers in use.
const NUMBERS: [u32; 22] =
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23, 24];

/// Tests by the numbers that they carry.
type Carried = BTreeMap<u32, BTreeSet<String>>;

/// The numbers in a text: `F` and digits, at the beginning of a word.
fn numbers(text: &str) -> impl Iterator<Item = u32> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.filter_map(|word| word.strip_prefix('F')?.parse().ok())
}

/// A file as the module that it is.
fn module(path: &str) -> String {
    let path = path.trim_end_matches(".rs");
    let places = ["tests/it/", "tests/torture/", "src/"];
    let inner = places.iter().find_map(|place| path.strip_prefix(place));
    inner.unwrap_or(path).replace('/', "::")
}

/// Notes the tests of a file whose doc comments carry numbers.
fn note_carried(file: &Source, carried: &mut Carried) {
    let mut found = BTreeSet::new();
    for (index, token) in file.tokens.iter().enumerate() {
        match token.kind {
            Kind::Doc if file.is_test_at(index) => found.extend(numbers(&token.text)),
            Kind::Word if token.text == "fn" => {
                let name = &file.tokens[index + 1].text;
                for number in std::mem::take(&mut found) {
                    let test = format!("{}::{name}", module(&file.path));
                    carried.entry(number).or_default().insert(test);
                }
            }
            Kind::Word if ["struct", "enum", "const", "mod"].contains(&&*token.text) => {
                found.clear();
            }
            _ => {}
        }
    }
}

/// What is wrong with the rows of the table.
fn complaints(table: &str, carried: &Carried) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut rows = BTreeSet::new();
    for (index, line) in table.lines().enumerate() {
        let Some((first, rest)) = line.strip_prefix("| F").and_then(|row| row.split_once('|'))
        else {
            continue;
        };
        let mut complain = |text: String| findings.push(Finding::new(TABLE, index + 1, text));
        let Ok(number) = first.trim().parse::<u32>() else {
            complain(format!("F{first} is no number"));
            continue;
        };
        rows.insert(number);
        let names = rest.split('`').skip(1).step_by(2).filter(|name| name.contains("::"));
        let names: Vec<&str> = names.collect();
        if names.is_empty() && !rest.contains("cannot happen") {
            complain(format!("F{number} has neither a test nor a reason"));
        }
        let of_number = carried.get(&number);
        for name in names {
            if !of_number.is_some_and(|tests| tests.contains(name)) {
                complain(format!("{name} is no test with F{number} in its doc comment"));
            }
        }
    }
    let missing = NUMBERS.iter().filter(|number| !rows.contains(number));
    findings.extend(missing.map(|number| Finding::new(TABLE, 1, format!("no row for F{number}"))));
    findings
}

#[test]
fn each_failure_mode_has_a_test_or_a_reason() {
    let mut carried = Carried::new();
    rust_files().iter().for_each(|file| note_carried(file, &mut carried));
    let (_, table) = files_below(TABLE).remove(0);
    none_of(&complaints(&table, &carried));
}

#[test]
fn failure_modes_without_a_test_are_found() {
    let mut carried = Carried::new();
    let text = "/// F1, F2: late.\n#[test]\nfn refuses() {}\n/// Not F3.\nstruct S;\n#[test]\nfn bare() {}";
    note_carried(&Source::new("tests/it/store/keys.rs", text), &mut carried);
    assert_eq!(carried.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert!(carried[&1].contains("store::keys::refuses"), "{carried:?}");
    let reasons: String =
        NUMBERS[2..].iter().map(|n| format!("| F{n} | cannot happen |\n")).collect();
    let found = |rows: &str| {
        let found = complaints(&format!("{reasons}{rows}"), &carried);
        found.into_iter().map(|finding| finding.complaint).collect::<Vec<_>>().join("\n")
    };
    let both = "| F1 | `store::keys::refuses` |\n| F2 | `store::keys::refuses` |";
    assert_eq!(found(both), "");
    assert_eq!(found("| F1 | cannot happen |"), "no row for F2");
    assert!(found("| F1 | |\n| F2 | |").contains("F1 has neither a test nor a reason"));
    let other = both.replacen("refuses", "bare", 1);
    assert_eq!(found(&other), "store::keys::bare is no test with F1 in its doc comment");
}
