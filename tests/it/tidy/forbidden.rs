//! What stands nowhere: unwrap in the program, ignored tests, unfinished code, files without a
//! header.

use super::source::Source;
use super::{Finding, holds_everywhere, lines_found};

fn unwraps(file: &Source) -> Vec<Finding> {
    let complaint = "unwrap outside tests; use expect(\"why this cannot happen\") or an error";
    let calls = [".", ":"].into_iter().flat_map(|before| file.positions(&[before, "unwrap"]));
    let program = calls.filter(|&index| !file.is_test_at(index));
    program.map(|index| found_at(file, index + 1, complaint)).collect()
}

fn ignored_tests(file: &Source) -> Vec<Finding> {
    let complaint = "a test that does not run shows nothing";
    let plain = file.positions(&["#", "[", "ignore"]).into_iter();
    plain.map(|index| found_at(file, index, complaint)).collect()
}

fn unfinished_code(file: &Source) -> Vec<Finding> {
    let calls = ["todo", "unimplemented"].into_iter();
    let found = calls.flat_map(|name| file.positions(&[name, "!"]));
    found.map(|index| found_at(file, index, "code that is not there yet")).collect()
}

fn missing_headers(file: &Source) -> Vec<Finding> {
    let complaint = "a file opens with //! and what it owns";
    let is_missing = !file.text.starts_with("//! ");
    is_missing.then(|| Finding::new(&file.path, 1, complaint)).into_iter().collect()
}

fn mod_files(file: &Source) -> Vec<Finding> {
    let is_mod = file.path.ends_with("/mod.rs");
    let complaint = "name the file after its module, beside the module's directory";
    is_mod.then(|| Finding::new(&file.path, 1, complaint)).into_iter().collect()
}

/// A `let _ =` without a comment on its line or the line before.
fn silent_discards(file: &Source) -> Vec<Finding> {
    let lines: Vec<&str> = file.text.lines().collect();
    let is_silent = |&index: &usize| {
        let number = file.tokens[index].line;
        let before = if number >= 2 { lines[number - 2].trim_start() } else { "" };
        !lines[number - 1].contains("// ") && !before.starts_with("// ")
    };
    let discards = file.positions(&["let", "_", "="]).into_iter();
    let silent = discards.filter(|index| file.is_program() && is_silent(index));
    silent.map(|index| found_at(file, index, "`let _ =` without a comment that says why")).collect()
}

fn found_at(file: &Source, index: usize, complaint: &str) -> Finding {
    Finding::new(&file.path, file.tokens[index].line, complaint)
}

#[test]
fn the_program_does_not_unwrap() {
    holds_everywhere(unwraps);
}

#[test]
fn no_test_is_ignored() {
    holds_everywhere(ignored_tests);
}

#[test]
fn no_code_is_unfinished() {
    holds_everywhere(unfinished_code);
}

#[test]
fn every_file_says_what_it_owns() {
    holds_everywhere(missing_headers);
}

#[test]
fn no_file_is_named_mod() {
    holds_everywhere(mod_files);
}

#[test]
fn discards_say_why() {
    holds_everywhere(silent_discards);
}

#[test]
fn unwraps_are_found() {
    let text = "fn a() { b().unwrap() }\nfn c() { d.map(Option::unwrap) }\n\
                // e.unwrap()\nconst F: &str = \".unwrap()\";\nfn g() { h.unwrap_or(1) }\n\
                #[cfg(test)]\nmod tests { fn i() { j().unwrap() } }\n";
    assert_eq!(lines_found(unwraps, "src/x.rs", text), [1, 2]);
    assert_eq!(lines_found(unwraps, "tests/it/x.rs", text), [0; 0]);
}

#[test]
fn ignored_tests_are_found() {
    let text = "#[test]\n#[ignore = \"slow\"]\nfn a() {}\n#[ignore]\nfn b() { ignore() }\n";
    assert_eq!(lines_found(ignored_tests, "tests/it/x.rs", text), [2, 4]);
}

#[test]
fn unfinished_code_is_found() {
    let text = "fn a() { todo!() }\nfn b() { unimplemented!(\"c\") }\nfn todo() {}\n";
    assert_eq!(lines_found(unfinished_code, "src/x.rs", text), [1, 2]);
}

#[test]
fn missing_headers_are_found() {
    assert_eq!(lines_found(missing_headers, "src/x.rs", "//! Owns it.\n"), [0; 0]);
    assert_eq!(lines_found(missing_headers, "src/x.rs", "// Owns it.\n"), [1]);
    assert_eq!(lines_found(missing_headers, "src/x.rs", ""), [1]);
}

#[test]
fn mod_files_are_found() {
    assert_eq!(lines_found(mod_files, "src/store/mod.rs", ""), [1]);
    assert_eq!(lines_found(mod_files, "src/store.rs", ""), [0; 0]);
}

#[test]
fn silent_discards_are_found() {
    let text = "fn a() { let _ = b(); }\n// The caller hung up.\nfn c() { let _ = d(); }\n\
                fn e() { let _ = f(); } // as above\nfn g() { let _guard = h(); }\n";
    assert_eq!(lines_found(silent_discards, "src/x.rs", text), [1]);
}
