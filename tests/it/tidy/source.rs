//! A Rust file as a flat list of tokens, with what the rules ask of each.

use std::collections::BTreeSet;
use std::ops::Range;

use proc_macro2::{Delimiter, LineColumn, Span, TokenStream, TokenTree};

/// A Rust file.
pub(super) struct Source {
    /// From the root of the project.
    pub(super) path: String,
    pub(super) text: String,
    pub(super) tokens: Vec<Token>,
    /// Whether all of it is compiled for tests only.
    pub(super) is_test: bool,
}

/// One token; groups appear as the two tokens that open and close them.
pub(super) struct Token {
    pub(super) text: String,
    pub(super) kind: Kind,
    pub(super) line: usize,
    /// Whether it is compiled for tests only.
    pub(super) in_test: bool,
    start: LineColumn,
    end: LineColumn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Punctuation,
    Literal,
    /// The text of a doc comment.
    Doc,
    /// Carries the index of the token that closes it.
    Open(usize),
    Close,
}

impl Source {
    /// Reads a file; one that is not Rust fails the test.
    pub(super) fn new(path: &str, text: &str) -> Self {
        let stream: TokenStream =
            text.parse().unwrap_or_else(|error| panic!("{path} is not Rust: {error}"));
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        mark_docs(&mut tokens);
        let is_test = !["src/", "examples/"].iter().any(|place| path.starts_with(place));
        for index in 0..tokens.len() {
            if let Some(item) = test_item(&tokens, index) {
                tokens[item].iter_mut().for_each(|token| token.in_test = true);
            }
        }
        Self { path: path.into(), text: text.into(), tokens, is_test }
    }

    /// Whether the file belongs to the program itself.
    pub(super) fn is_program(&self) -> bool {
        self.path.starts_with("src/")
    }

    /// Whether the token is compiled for tests only.
    pub(super) fn is_test_at(&self, index: usize) -> bool {
        self.is_test || self.tokens[index].in_test
    }

    /// Where these tokens follow each other.
    pub(super) fn positions(&self, pattern: &[&str]) -> Vec<usize> {
        (0..self.tokens.len())
            .filter(|&index| starts_with(&self.tokens[index..], pattern))
            .collect()
    }

    /// The body of each function that has one: its name, and its tokens from `fn` to the last brace.
    pub(super) fn functions(&self) -> Vec<(&str, Range<usize>)> {
        let named = |&index: &usize| self.tokens.get(index + 1).is_some_and(Token::is_word);
        let starts = self.positions(&["fn"]).into_iter().filter(named);
        let body = |start| {
            let end = item_end(&self.tokens, start)?;
            let has_body = self.tokens[end].text == "}";
            has_body.then(|| (self.tokens[start + 1].text.as_str(), start..end + 1))
        };
        starts.filter_map(body).collect()
    }

    /// The lines without what stands in their literals: code, comments and docs.
    pub(super) fn lines_without_literals(&self) -> Vec<String> {
        let mut lines: Vec<Vec<char>> =
            self.text.lines().map(|line| line.chars().collect()).collect();
        for token in self.tokens.iter().filter(|token| token.kind == Kind::Literal) {
            for number in token.start.line..=token.end.line {
                let line = &mut lines[number - 1];
                let from = if number == token.start.line { token.start.column } else { 0 };
                let to = if number == token.end.line { token.end.column } else { line.len() };
                line[from..to].fill(' ');
            }
        }
        lines.into_iter().map(String::from_iter).collect()
    }
}

impl Token {
    pub(super) fn is_word(&self) -> bool {
        self.kind == Kind::Word
    }

    /// The token that closes this one, if it opens a group.
    pub(super) fn closed_at(&self) -> Option<usize> {
        match self.kind {
            Kind::Open(close) => Some(close),
            _ => None,
        }
    }
}

/// Whether the first tokens are these.
pub(super) fn starts_with(tokens: &[Token], pattern: &[&str]) -> bool {
    let same = |(token, text): (&Token, &&str)| token.text == **text && token.kind != Kind::Literal;
    tokens.len() >= pattern.len() && tokens.iter().zip(pattern).all(same)
}

/// Where the item ends that begins at `start`: its first braces at this depth, or its semicolon.
pub(super) fn item_end(tokens: &[Token], start: usize) -> Option<usize> {
    let mut index = start;
    loop {
        let token = tokens.get(index)?;
        match (token.text.as_str(), token.closed_at()) {
            ("{", Some(close)) => return Some(close),
            (_, Some(close)) => index = close + 1,
            (";" | ",", _) if token.kind == Kind::Punctuation => return Some(index),
            (_, None) if token.kind == Kind::Close => return Some(index - 1),
            _ => index += 1,
        }
    }
}

/// Marks the files that a `#[cfg(test)] mod name;` declares, with the files below them.
pub(super) fn mark_test_files(files: &mut [Source]) {
    let declared: BTreeSet<String> = files.iter().flat_map(test_modules).collect();
    for file in files {
        let module = file.path.trim_end_matches(".rs");
        let declares = |test: &String| {
            module.strip_prefix(test).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        file.is_test = file.is_test || declared.iter().any(declares);
    }
}

/// The modules that a file declares for tests only, as paths without extension.
fn test_modules(file: &Source) -> Vec<String> {
    let parent = file.path.trim_end_matches(".rs");
    let parent = parent.trim_end_matches("/lib").trim_end_matches("/main");
    let declared = file.positions(&["mod"]).into_iter().filter(|&index| {
        file.tokens[index].in_test && file.tokens.get(index + 2).is_some_and(|t| t.text == ";")
    });
    declared.map(|index| format!("{parent}/{}", file.tokens[index + 1].text)).collect()
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        match tree {
            TokenTree::Ident(ident) => {
                tokens.push(token(ident.to_string(), Kind::Word, ident.span()));
            }
            TokenTree::Punct(punct) => {
                let text = punct.as_char().to_string();
                tokens.push(token(text, Kind::Punctuation, punct.span()));
            }
            TokenTree::Literal(literal) => {
                tokens.push(token(literal.to_string(), Kind::Literal, literal.span()));
            }
            TokenTree::Group(group) => {
                let (open, close) = delimiters(group.delimiter());
                let start = tokens.len();
                tokens.push(token(open.into(), Kind::Open(0), group.span_open()));
                flatten(group.stream(), tokens);
                tokens[start].kind = Kind::Open(tokens.len());
                tokens.push(token(close.into(), Kind::Close, group.span_close()));
            }
        }
    }
}

fn delimiters(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    }
}

fn token(text: String, kind: Kind, span: Span) -> Token {
    let (start, end) = (span.start(), span.end());
    Token { text, kind, line: start.line, in_test: false, start, end }
}

/// Doc comments arrive as `#[doc = "…"]`.
fn mark_docs(tokens: &mut [Token]) {
    for index in 2..tokens.len() {
        let is_doc = starts_with(&tokens[index - 2..], &["doc", "="]);
        if is_doc && tokens[index].kind == Kind::Literal {
            tokens[index].kind = Kind::Doc;
        }
    }
}

/// The tokens of the item that a `#[cfg(test)]` at `index` makes one for tests.
fn test_item(tokens: &[Token], index: usize) -> Option<Range<usize>> {
    if !starts_with(&tokens[index..], &["#", "[", "cfg", "("]) {
        return None;
    }
    let attribute_end = tokens[index + 1].closed_at()?;
    let condition = &tokens[index + 4..attribute_end];
    let names = |word: &str| condition.iter().any(|token| token.is_word() && token.text == word);
    let is_for_tests = names("test") && !names("not") && !names("any");
    let end = item_end(tokens, attribute_end + 1)?;
    is_for_tests.then_some(index..end + 1)
}

#[test]
fn tokens_know_whether_they_are_for_tests() {
    let text = "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests { fn b() {} }\nfn c() {}\n\
                #[cfg(not(test))]\nfn d() {}\n#[cfg(test)]\nmod e;\nfn f() {}\n";
    let source = Source::new("src/x.rs", text);
    let in_test = |name: &str| source.tokens[source.positions(&[name])[0]].in_test;
    assert_eq!(
        ["a", "b", "c", "d", "e", "f"].map(in_test),
        [false, true, false, false, true, false]
    );
}

#[test]
fn files_declared_for_tests_are_test_files() {
    let paths =
        ["src/lib.rs", "src/a.rs", "src/a/tests.rs", "src/a/tests/b.rs", "src/a/testsuite.rs"];
    let mut files = paths.map(|path| Source::new(path, "#[cfg(test)]\nmod tests;\n"));
    mark_test_files(&mut files);
    assert_eq!(files.map(|file| file.is_test), [false, false, true, true, false]);
}

#[test]
fn literals_are_blanked_and_comments_are_not() {
    let source = Source::new("src/x.rs", "/// doc\nconst A: &str = \"ä\n b\"; // c\n");
    let lines = source.lines_without_literals();
    let words: Vec<&str> = lines.iter().flat_map(|line| line.split_whitespace()).collect();
    assert_eq!(words, ["///", "doc", "const", "A:", "&str", "=", ";", "//", "c"]);
}
