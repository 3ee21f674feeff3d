//! Reads a YAML document key by key, and notes each mistake with its line.

use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::config::load::Mistake;

/// The most characters of a wrong value that a message shows.
const MAX_SHOWN_CHARS: usize = 80;

/// The deepest that values may nest; the format needs 3.
const MAX_DEPTH: usize = 16;

/// The most nodes, and the most that aliases may add: thousands of users and names.
const MAX_NODES: usize = 20_000;

/// A value with its line.
type Value = Spanned<Node>;

/// What YAML can say, as far as the format needs to tell it apart.
#[derive(Debug)]
enum Node {
    Nothing,
    Switch(bool),
    Number(f64),
    Text(String),
    List(Vec<Value>),
    Table(Vec<(Spanned<String>, Value)>),
}

/// A parsed file and the mistakes found in it so far.
pub(super) struct Document {
    root: Vec<(Spanned<String>, Value)>,
    mistakes: RefCell<Vec<Mistake>>,
}

impl Document {
    /// Parses `text`, or says where it is not YAML.
    pub(super) fn parse(text: &str) -> Result<Self, Mistake> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! {
                max_depth: MAX_DEPTH,
                max_nodes: MAX_NODES,
                max_documents: 1,
            },
            alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_NODES },
            with_snippet: false,
        };
        let parsed = serde_saphyr::from_str_with_options::<Option<Value>>(text, options);
        let root = match parsed.map_err(|error| syntax_mistake(&error))? {
            None => Vec::new(),
            Some(Spanned { value: Node::Nothing, .. }) => Vec::new(),
            Some(Spanned { value: Node::Table(root), .. }) => root,
            Some(other) => {
                let text = format!(
                    "the file must have keys, such as tls_server_config:, got {}",
                    other.value.kind()
                );
                return Err(Mistake { line: Some(line_of(&other)), text });
            }
        };
        Ok(Self { root, mistakes: RefCell::default() })
    }

    /// The keys at the left.
    pub(super) fn top(&self) -> Section<'_> {
        Section {
            document: self,
            path: String::new(),
            line: 1,
            table: &self.root,
            known: Vec::new(),
        }
    }

    /// What was noted, in the order of the lines.
    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        let mut mistakes = self.mistakes.into_inner();
        mistakes.sort_by_key(|mistake| mistake.line);
        mistakes
    }

    fn note(&self, line: usize, text: String) {
        self.mistakes.borrow_mut().push(Mistake { line: Some(line), text });
    }
}

/// One table of the document. What is not asked for before [`Section::close`] is a mistake.
pub(super) struct Section<'a> {
    document: &'a Document,
    path: String,
    line: usize,
    table: &'a [(Spanned<String>, Value)],
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// What `rule` makes of the text of `key`; none if there is none, or none that is right.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        rule: impl FnOnce(Option<&str>) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.value(key)?;
        self.ruled(key, value, rule(as_text(&value.value)))
    }

    /// Whether `key` is true or false; none if it is not there.
    pub(super) fn switch(&mut self, key: &'static str) -> Option<bool> {
        let value = self.value(key)?;
        let read = match value.value {
            Node::Switch(read) => Ok(read),
            _ => Err("must be true or false".to_owned()),
        };
        self.ruled(key, value, read)
    }

    /// The whole number `key`, at least 1.
    pub(super) fn count(&mut self, key: &'static str, most: u32) -> Option<u32> {
        let value = self.value(key)?;
        let read = match value.value {
            Node::Number(number) if number.fract() == 0.0 && number >= 1.0 => {
                Some(number as u32).filter(|read| *read <= most)
            }
            _ => None,
        };
        self.ruled(key, value, read.ok_or_else(|| format!("must be 1 to {most}")))
    }

    /// What `rule` makes of each text of the list `key`, as far as they are right.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        rule: impl Fn(Option<&str>) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Node::List(elements) = &value.value else {
            self.refuse(key, value, "must be a list of strings");
            return Vec::new();
        };
        let read = elements.iter().enumerate().filter_map(|(index, element)| {
            let place = format!("{key}[{index}]");
            self.ruled(&place, element, rule(as_text(&element.value)))
        });
        read.collect()
    }

    /// The table `key`, if it is there and has anything. Text in its place is not shown: it may be a
    /// user with a password.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Self> {
        let line = self.line(key);
        let value = self.value(key)?;
        let Node::Table(table) = &value.value else {
            self.object(key, &format!("must have keys of its own, got {}", value.value.kind()));
            return None;
        };
        let (document, path) = (self.document, self.path_of(key));
        Some(Self { document, path, line: line?, table, known: Vec::new() })
    }

    /// All keys with what `rule` makes of them and their texts, as far as they are right. No value is
    /// shown: among keys that a caller chooses, it may be a user's password.
    pub(super) fn entries<T>(
        &self,
        rule: impl Fn(&str, Option<&str>) -> Result<T, String>,
    ) -> Vec<(&'a str, T)> {
        let mut entries = Vec::new();
        for (key, value) in self.table {
            match rule(&key.value, as_text(&value.value)) {
                Ok(read) => entries.push((key.value.as_str(), read)),
                Err(right) => {
                    let shown = self.path_of(&key.value);
                    self.document.note(line_of(key), format!("{shown} {right}"));
                }
            }
        }
        entries
    }

    /// The line of `key`; none if it is not there, or has no value.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        let (key, _) = self.find(key)?;
        Some(line_of(key))
    }

    /// Whether `key` is there and has a value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The text of `key`, if it is there and is one.
    pub(super) fn peek(&self, key: &str) -> Option<&'a str> {
        as_text(&self.find(key)?.1.value)
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Notes what is wrong about `key`; nothing if it is not there.
    pub(super) fn object(&self, key: &str, wrong: &str) {
        if let Some(line) = self.line(key) {
            self.document.note(line, format!("{} {wrong}", self.path_of(key)));
        }
    }

    /// Notes what is wrong about this table as a whole.
    pub(super) fn whole(&self, wrong: &str) {
        self.document.note(self.line, format!("{} {wrong}", self.path));
    }

    /// Notes every key that was not asked for, or has nothing: what should protect would not.
    pub(super) fn close(self) {
        for (key, value) in self.table {
            let shown = self.path_of(&key.value);
            if !self.known.contains(&&*key.value) {
                let valid = self.known.join(", ");
                let text = format!("unknown key {shown}; valid here are {valid}");
                self.document.note(line_of(key), text);
            } else if matches!(value.value, Node::Nothing) {
                let text = format!("{shown} must have a value, got nothing; else leave it out");
                self.document.note(line_of(key), text);
            }
        }
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.find(key).map(|(_, value)| value)
    }

    fn find(&self, key: &str) -> Option<&'a (Spanned<String>, Value)> {
        let found = self.table.iter().find(|(name, _)| name.value == key);
        found.filter(|(_, value)| !matches!(value.value, Node::Nothing))
    }

    fn ruled<T>(&self, key: &str, value: &Value, read: Result<T, String>) -> Option<T> {
        read.map_err(|right| self.refuse(key, value, &right)).ok()
    }

    fn refuse(&self, key: &str, value: &Value, right: &str) {
        let text = format!("{} {right}, got {}", self.path_of(key), value.value);
        self.document.note(line_of(value), text);
    }

    fn path_of(&self, key: &str) -> String {
        let key = shown_key(key);
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }
}

fn line_of<T>(value: &Spanned<T>) -> usize {
    value.referenced.line() as usize
}

/// A key for a message, cut if it is long, and without what follows its colon: where a space is
/// missing that is a password or its hash. A hash itself is no key, but may stand in the place of one.
fn shown_key(key: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.[]".contains(c);
    let key = key.find(':').map_or(key, |colon| &key[..=colon]);
    if is_hash(key) {
        return "(a hash)".to_owned();
    }
    match key.char_indices().nth(MAX_SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}", format!("{}…", &key[..end])),
        None if key.chars().all(is_plain) => key.to_owned(),
        None => format!("{key:?}"),
    }
}

fn as_text(node: &Node) -> Option<&str> {
    match node {
        Node::Text(text) => Some(text),
        _ => None,
    }
}

impl Node {
    /// The value for a message, or its type if it may be a password.
    fn kind(&self) -> String {
        match self {
            Self::Text(_) => "a string".to_owned(),
            Self::Number(_) => "a number".to_owned(),
            other => other.to_string(),
        }
    }
}

/// Text for a message, unless it is long, a key of a certificate, or a password's hash.
pub(super) fn shown(text: &str) -> String {
    let is_shown = text.chars().count() <= MAX_SHOWN_CHARS && !is_pem(text) && !is_hash(text);
    if is_shown { format!("{text:?}") } else { "a string".to_owned() }
}

/// Whether this has the beginning of a bcrypt hash, be it cut; each program writes its own letter.
pub(super) fn is_hash(text: &str) -> bool {
    text.split("$2").skip(1).any(|rest| rest.starts_with('$') || rest.get(1..2) == Some("$"))
}

/// Whether this looks like what a file in PEM holds, and not like its path.
pub(super) fn is_pem(text: &str) -> bool {
    text.contains('\n') || text.contains("-----BEGIN")
}

impl fmt::Display for Node {
    /// The value for a message, or its type if that would be long, or may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Switch(value) => write!(f, "{value}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(&shown(text)),
            Self::List(_) => f.write_str("a list"),
            Self::Table(_) => f.write_str("keys"),
        }
    }
}

/// What the parser objects to; its words are about the notation, and show no values.
fn syntax_mistake(error: &serde_saphyr::Error) -> Mistake {
    let line = error.location().map(|location| location.line() as usize);
    let said = match error.without_snippet() {
        // The key may be a user with a password.
        serde_saphyr::Error::DuplicateMappingKey { .. } => {
            "a key is there twice; keep one".to_owned()
        }
        other => other.to_string(),
    };
    let said = said.lines().next().unwrap_or_default();
    let said = said.split_once(" at line ").map_or(said, |(said, _)| said);
    let shown: String = said.chars().take(2 * MAX_SHOWN_CHARS).collect();
    Mistake { line, text: format!("the file must be YAML: {shown}") }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OfNode)
    }
}

/// Takes any value for what it is.
struct OfNode;

impl<'de> Visitor<'de> for OfNode {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Switch(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Number(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            list.push(element);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut table = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            table.push(entry);
        }
        Ok(Node::Table(table))
    }
}
