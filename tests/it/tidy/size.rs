//! How long a file, how long a function, how deep its control flow.

use super::source::{Source, Token, starts_with};
use super::{Finding, holds_everywhere, lines_found};

/// What a reader keeps in mind of one file.
const MAX_FILE_LINES: usize = 500;
/// What fits on a screen.
const MAX_FUNCTION_LINES: usize = 70;
/// The conditions that a reader must hold to understand the innermost line.
const MAX_NESTING: usize = 3;

fn long_files(file: &Source) -> Vec<Finding> {
    let lines = file.text.lines().count();
    let complaint = format!("the file has {lines} lines, at most {MAX_FILE_LINES} are allowed");
    let found = lines > MAX_FILE_LINES;
    found.then(|| Finding::new(&file.path, lines, complaint)).into_iter().collect()
}

fn long_functions(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, body) in file.functions() {
        let first = file.tokens[body.start].line;
        let lines = file.tokens[body.end - 1].line - first + 1;
        if lines > MAX_FUNCTION_LINES {
            let complaint = format!(
                "function {name} has {lines} lines, at most {MAX_FUNCTION_LINES} are allowed"
            );
            findings.push(Finding::new(&file.path, first, complaint));
        }
    }
    findings
}

fn deep_nesting(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, body) in file.functions() {
        for line in deep_lines(&file.tokens[body]) {
            let complaint = format!("control flow in {name} nests deeper than {MAX_NESTING}");
            findings.push(Finding::new(&file.path, line, complaint));
        }
    }
    findings
}

/// A keyword whose block is still to come.
struct Awaited {
    /// How many groups were open at the keyword.
    depth: usize,
    /// Whether a pattern is being read, whose braces are not the block.
    in_pattern: bool,
}

/// The lines on which the body of an if, else, match, for, while or loop opens too deep.
fn deep_lines(tokens: &[Token]) -> Vec<usize> {
    let mut open: Vec<bool> = Vec::new(); // whether each open group is such a body
    let mut awaited: Option<Awaited> = None;
    let mut lines = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let depth = open.len();
        if token.closed_at().is_some() {
            let is_body = token.text == "{"
                && awaited.take_if(|block| block.depth == depth && !block.in_pattern).is_some();
            open.push(is_body);
            if is_body && open.iter().filter(|is_body| **is_body).count() == MAX_NESTING + 1 {
                lines.push(token.line);
            }
        } else if token.kind == super::source::Kind::Close {
            open.pop();
        } else {
            awaited = next_awaited(awaited, &tokens[index..], index.checked_sub(1), tokens, depth);
        }
    }
    lines
}

/// What is awaited after the first of `rest`, which neither opens nor closes a group.
fn next_awaited(
    awaited: Option<Awaited>,
    rest: &[Token],
    before: Option<usize>,
    tokens: &[Token],
    depth: usize,
) -> Option<Awaited> {
    let starts = |in_pattern| Some(Awaited { depth, in_pattern });
    match (rest[0].text.as_str(), awaited) {
        ("for", awaited) if starts_with(rest, &["for", "<"]) => awaited,
        ("for", _) => starts(true),
        ("if" | "else" | "match" | "while" | "loop", _) => starts(false),
        ("let", Some(block)) if block.depth == depth => starts(true),
        ("in", Some(block)) if block.depth == depth => starts(false),
        (";", Some(block)) if block.depth == depth => None,
        // The end of a match arm's condition, which has no block of its own.
        ("=", Some(block)) if block.depth == depth && starts_with(rest, &["=", ">"]) => None,
        ("=", Some(block)) if block.depth == depth => {
            let is_range = before.is_some_and(|index| tokens[index].text == ".");
            starts(block.in_pattern && is_range)
        }
        (_, awaited) => awaited,
    }
}

#[test]
fn files_are_short() {
    holds_everywhere(long_files);
}

#[test]
fn functions_are_short() {
    holds_everywhere(long_functions);
}

#[test]
fn control_flow_is_flat() {
    holds_everywhere(deep_nesting);
}

#[test]
fn long_files_are_found() {
    assert_eq!(lines_found(long_files, "src/x.rs", &"\n".repeat(500)), [0; 0]);
    assert_eq!(lines_found(long_files, "src/x.rs", &"\n".repeat(501)), [501]);
}

#[test]
fn long_functions_are_found() {
    let function =
        |lines: usize| format!("trait T {{\nfn a();\nfn b() {{{}}}\n}}", "\n".repeat(lines));
    assert_eq!(lines_found(long_functions, "src/x.rs", &function(69)), [0; 0]);
    assert_eq!(lines_found(long_functions, "src/x.rs", &function(70)), [3]);
    let in_macro = format!("proptest! {{ fn b() {{{}}} }}", "\n".repeat(70));
    assert_eq!(lines_found(long_functions, "tests/it/x.rs", &in_macro), [1]);
}

#[test]
fn deep_control_flow_is_found() {
    for flat in [
        "fn f() { if a { for b in c { match d { e => { g() } } } } }",
        "fn f() { if let A { b } = c { while let D { .. } = e { for F { g } in h { i() } } } }",
        "fn f() { if a { if b { if c { d(|| { e }); S { f } } } } }",
        "fn f() { match a { b if c => { if d { if e { g() } } } _ => {} } }",
        "fn f() { if a { } else if b { } else if c { } else if d { } else { if e { } } }",
    ] {
        assert_eq!(lines_found(deep_nesting, "src/x.rs", flat), [0; 0], "{flat}");
    }
    for deep in [
        "fn f() { if a { for b in c { match d { e => { if g { h() } } } } } }",
        "fn f() { if let A { b } = c { while d { for F { g } in h { if i == 1 { j() } } } } }",
        "fn f() { select! { a => { loop { if b { if c { if d { e() } } } } } } }",
        "fn f() { if a { if b { if c { let D = e else { return }; } } } }",
    ] {
        assert_eq!(lines_found(deep_nesting, "src/x.rs", deep), [1], "{deep}");
    }
}
