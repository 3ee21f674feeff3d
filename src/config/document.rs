//! Reads a TOML document key by key, and notes each mistake with its line.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::load::Mistake;
use super::name::MAX_NAME_BYTES;
use super::{http, tokens};

/// The most characters of a wrong value that a message shows.
const MAX_SHOWN_CHARS: usize = 80;

/// The most mistakes that are told: nobody mends more at once, and each has a text of its own.
const MAX_MISTAKES: usize = 100;

/// How values begin that no message shows, wherever they stand.
const SECRET: [&str; 2] = [tokens::PREFIX, http::PREFIX];

/// The least characters of what stands in the place of a key and may be a secret: the least secret
/// has 38.
const SECRET_KEY_CHARS: usize = 30;

/// What stands for a secret in messages.
const HIDDEN: &str = "***";

/// What may stand behind a key, for messages.
const TOML_VALUE: &str = "a TOML value, such as \"text\", 5, true or [\"a\", \"b\"]";

/// A parsed file and the mistakes found in it so far.
pub(super) struct Document<'a> {
    text: &'a str,
    root: DeTable<'a>,
    mistakes: RefCell<Vec<Mistake>>,
    /// How many more there are.
    untold: Cell<usize>,
}

impl<'a> Document<'a> {
    /// Parses `text`, or says where it is not TOML.
    pub(super) fn parse(text: &'a str) -> Result<Self, Mistake> {
        match DeTable::parse(text) {
            Ok(root) => {
                let (root, mistakes) = (root.into_inner(), RefCell::default());
                Ok(Self { text, root, mistakes, untold: Cell::default() })
            }
            Err(error) => Err(syntax_mistake(text, &error)),
        }
    }

    /// The keys outside of all tables, and the tables.
    pub(super) fn top(&self) -> Section<'_> {
        Section::new(self, String::new(), &self.root)
    }

    /// The line of the key at `path`; none if the file does not have it.
    pub(super) fn line_of(&self, path: &[&str]) -> Option<usize> {
        let (last, tables) = path.split_last()?;
        let mut table = &self.root;
        for key in tables {
            table = table.get(*key)?.get_ref().as_table()?;
        }
        let (key, _) = table.get_key_value(*last)?;
        Some(line_at(self.text, key.span().start))
    }

    /// Notes a mistake in `line`, or beside the file.
    pub(super) fn note(&self, line: Option<usize>, text: String) {
        let mut mistakes = self.mistakes.borrow_mut();
        if mistakes.len() < MAX_MISTAKES {
            mistakes.push(Mistake { line, text });
        } else {
            self.untold.update(|untold| untold + 1);
        }
    }

    /// What was noted, in the order of the lines; of more than can be told, how many.
    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        let mut mistakes = self.mistakes.into_inner();
        mistakes.sort_by_key(|mistake| mistake.line);
        if let untold @ 1.. = self.untold.get() {
            let text = format!("and {untold} more mistakes; mend these first");
            mistakes.push(Mistake { line: None, text });
        }
        mistakes
    }

    /// Notes that the value behind `path` is not what it must be.
    fn refuse(&self, path: &str, right: &str, value: &Spanned<DeValue<'_>>) {
        self.note_at(&value.span(), format!("{path} {right}, got {}", self.show(value)));
    }

    fn note_at(&self, span: &Range<usize>, text: String) {
        // To find the line of each of very many would take long.
        let is_told = self.mistakes.borrow().len() < MAX_MISTAKES;
        self.note(is_told.then(|| line_at(self.text, span.start)), text);
    }

    /// A value in the words of the file, or its type if that would be long, or looks like a secret.
    fn show(&self, value: &Spanned<DeValue<'_>>) -> String {
        match self.text.get(value.span()) {
            Some(text)
                if text.chars().count() <= MAX_SHOWN_CHARS
                    && !text.chars().any(char::is_control)
                    && !SECRET.iter().any(|start| text.contains(start))
                    && !value.get_ref().is_table() =>
            {
                text.to_owned()
            }
            _ => type_name(value.get_ref()).to_owned(),
        }
    }
}

/// One table of the document. What is not asked for before [`Section::close`] is a mistake.
pub(super) struct Section<'a> {
    document: &'a Document<'a>,
    path: String,
    table: &'a DeTable<'a>,
    known: Vec<&'static str>,
    /// Where it begins, if it is an element of a list.
    begin: Range<usize>,
}

impl<'a> Section<'a> {
    fn new(document: &'a Document<'a>, path: String, table: &'a DeTable<'a>) -> Self {
        Self { document, path, table, known: Vec::new(), begin: 0..0 }
    }

    /// Puts the value of `key` into `target` if the table has it and `rule` finds it right.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        target: &mut T,
        rule: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) {
        let Some(value) = self.value(key) else { return };
        match rule(value.get_ref()) {
            Ok(read) => *target = read,
            Err(right) => self.document.refuse(&self.path_of(key), &right, value),
        }
    }

    /// The same for a string that may hold a secret: messages do not show it.
    pub(super) fn read_hidden<T>(
        &mut self,
        key: &'static str,
        target: &mut T,
        rule: impl FnOnce(Option<&str>) -> Result<T, String>,
    ) {
        let Some(value) = self.value(key) else { return };
        match rule(value.get_ref().as_str()) {
            Ok(read) => *target = read,
            Err(right) => self.object(key, &right),
        }
    }

    /// Puts the list `key` into `target` if the table has it and `rule` finds all elements right.
    ///
    /// Says whether it did.
    pub(super) fn read_list(
        &mut self,
        key: &'static str,
        target: &mut Vec<String>,
        rule: impl Fn(Option<&str>) -> Result<String, String>,
    ) -> bool {
        let Some(value) = self.value(key) else { return false };
        let path = self.path_of(key);
        let Some(elements) = value.get_ref().as_array() else {
            self.document.refuse(&path, "must be a list of strings", value);
            return false;
        };
        let mut read = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            match rule(element.get_ref().as_str()) {
                Ok(right) => read.push(right),
                Err(right) => self.document.refuse(&format!("{path}[{index}]"), &right, element),
            }
        }
        let is_right = read.len() == elements.len();
        if is_right {
            *target = read;
        }
        is_right
    }

    /// Whether the table has `key`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The table `key`, if this table has it and it is one.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Self> {
        let value = self.value(key)?;
        self.below(key, value)
    }

    /// The tables of the list `key`, if this table has it; `notation` is how to write one.
    pub(super) fn list_of_tables(&mut self, key: &'static str, notation: &str) -> Vec<Self> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(elements) = value.get_ref().as_array() else {
            let got = type_name(value.get_ref());
            self.object(key, &format!("must be tables, each under {notation}, got {got}"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            match element.get_ref().as_table() {
                Some(table) => {
                    tables.push(Self {
                        begin: element.span(),
                        ..Self::new(self.document, path, table)
                    });
                }
                None => {
                    let got = type_name(element.get_ref());
                    self.document
                        .note_at(&element.span(), format!("{path} must be a table, got {got}"));
                }
            }
        }
        tables
    }

    /// All keys with the tables behind them.
    pub(super) fn tables(&self) -> Vec<(&'a str, Self)> {
        let named = |(key, value): (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>)| {
            let key = key.get_ref().as_ref();
            Some((key, self.below(key, value)?))
        };
        self.table.iter().filter_map(named).collect()
    }

    /// All keys with the strings behind them; messages do not show these values.
    pub(super) fn secrets(&self) -> Vec<(&'a str, &'a str)> {
        let mut secrets = Vec::new();
        for (key, value) in self.table {
            match value.get_ref().as_str() {
                Some(text) => secrets.push((key.get_ref().as_ref(), text)),
                None => {
                    let got = type_name(value.get_ref());
                    self.object(key.get_ref(), &format!("must be a string, got {got}"));
                }
            }
        }
        secrets
    }

    /// Notes what is wrong about `key`; nothing if the table does not have it.
    pub(super) fn object(&self, key: &str, wrong: &str) {
        if let Some((key, _)) = self.table.get_key_value(key) {
            let text = format!("{} {wrong}", self.path_of(key.get_ref()));
            self.document.note_at(&key.span(), text);
        }
    }

    /// Notes what is wrong about this table, an element of a list, as a whole.
    pub(super) fn whole(&self, wrong: &str) {
        self.document.note_at(&self.begin, format!("{} {wrong}", self.path));
    }

    /// Notes every key that was not asked for.
    pub(super) fn close(self) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if !self.known.contains(&name) {
                let text = format!(
                    "unknown key {}; valid here are {}",
                    self.path_of(name),
                    self.known.join(", ")
                );
                self.document.note_at(&key.span(), text);
            }
        }
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.table.get(key)
    }

    fn below(&self, key: &str, value: &'a Spanned<DeValue<'a>>) -> Option<Self> {
        match value.get_ref().as_table() {
            Some(table) => Some(Self::new(self.document, self.path_of(key), table)),
            None => {
                self.object(key, &format!("must be a table, got {}", type_name(value.get_ref())));
                None
            }
        }
    }

    fn path_of(&self, key: &str) -> String {
        let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let key = match shown_key(key) {
            "" => "\"\"".to_owned(),
            key if key == HIDDEN || key.chars().all(is_bare) => begin_of(key),
            key => format!("{:?}", begin_of(key)),
        };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }
}

/// The whole number that `value` is, if it is one.
pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// The number that `value` is, whole or not.
pub(super) fn number(value: &DeValue<'_>) -> Option<f64> {
    match value.as_float() {
        Some(float) => float.as_str().parse().ok(),
        None => integer(value).map(|number| number as f64),
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// As much of a key as a message shows: any that can be right.
fn begin_of(key: &str) -> String {
    match key.char_indices().nth(MAX_NAME_BYTES) {
        Some((end, _)) => format!("{}...", &key[..end]),
        None => key.to_owned(),
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}

/// What the parser objects to, with the key if it is about a value.
fn syntax_mistake(text: &str, error: &toml::de::Error) -> Mistake {
    let span = error.span().unwrap_or_default();
    let found = error.message().trim_end_matches(", expected nothing");
    let said = match (found, key_before(text, span.start)) {
        ("duplicate key", _) => {
            let key = begin_of(shown_key(text.get(span.clone()).unwrap_or("a key")));
            let key = if key.contains(char::is_control) { format!("{key:?}") } else { key };
            format!("{key} is there twice; keep one")
        }
        (_, Some(key)) => format!("{} must be {TOML_VALUE}: {found}", begin_of(shown_key(key))),
        (_, None) => format!("a line must be key = value, [table] or # comment: {found}"),
    };
    Mistake { line: Some(line_at(text, span.start)), text: said }
}

/// A key as messages show it: a secret on a line of its own is read as one.
fn shown_key(key: &str) -> &str {
    let is_secret = key.len() >= SECRET_KEY_CHARS && SECRET.iter().any(|start| key.contains(start));
    if is_secret { HIDDEN } else { key }
}

/// The key whose value starts before `offset` on the same line.
fn key_before(text: &str, offset: usize) -> Option<&str> {
    let before = text.get(..offset)?;
    let line = before.rsplit_once('\n').map_or(before, |(_, line)| line);
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (!key.is_empty() && key.chars().all(is_key)).then_some(key)
}
